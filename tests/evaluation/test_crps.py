"""The score of value and interval together, against its definition as an integral."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from imputome import methods
from imputome.core.data import as_data
from imputome.core.links import link
from imputome.evaluation.metrics import crps_sd, mae
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import Units, score_hidden

Z = norm.ppf(0.95)


@pytest.mark.parametrize(("truth", "mean", "sd"), [(0.3, 0.0, 1.0), (-2.0, 1.0, 0.5), (4.0, 4.0, 3.0)])
def test_it_is_the_integral_of_squared_differences_of_distributions(truth, mean, sd):
    parts = [
        quad(lambda x: norm.cdf(x, mean, sd) ** 2, -40, truth)[0],
        quad(lambda x: norm.sf(x, mean, sd) ** 2, truth, 40)[0],
    ]
    found = crps_sd(truth=[truth], prediction=[mean], lower=[mean - Z * sd], upper=[mean + Z * sd])
    assert found == pytest.approx(sum(parts), rel=1e-6)


def test_a_point_has_the_absolute_error():
    truth, prediction = np.random.default_rng(0).normal(size=(2, 50))
    assert crps_sd(truth=truth, prediction=prediction, sd=2.0) == pytest.approx(
        mae(truth=truth, prediction=prediction) / 2
    )
    none = crps_sd(truth=truth, prediction=prediction, lower=prediction, upper=prediction)  # an interval of no width
    assert none == pytest.approx(mae(truth=truth, prediction=prediction))


def test_the_right_width_is_best():
    truth = np.random.default_rng(0).normal(size=20_000)
    zero = np.zeros_like(truth)
    scores = [
        crps_sd(truth=truth, prediction=zero, lower=zero - width * Z, upper=zero + width * Z) for width in (0.5, 1, 2)
    ]
    assert scores[1] == min(scores)
    assert scores[1] == pytest.approx(1 / np.sqrt(np.pi), rel=0.02)


def test_scores_of_hidden_values_are_on_the_transform_and_in_sd():
    X = np.sinh(np.random.default_rng(0).normal(size=(60, 8)) * [1, 2, 1, 1, 3, 1, 1, 1])
    split = make_split("mcar", as_data(X, kind="real"), rng=np.random.default_rng(1), rows="all", fraction=0.2)
    estimator = methods.create("ppca", {"rank": 2})
    estimator.link = "asinh"
    result = estimator.fit_transform(split.train)
    units = Units(split.train, "asinh", (split.j, split.truth))
    forward = link("asinh").forward
    value, lower, upper = (forward(result.at(split.i, split.j, output=end)) for end in ("value", "lower", "upper"))
    by_hand = crps_sd(truth=forward(split.truth), prediction=value, lower=lower, upper=upper, sd=units.sd[split.j])
    found = score_hidden(result, split, link_name="asinh")
    assert found["crps_sd"] == pytest.approx(by_hand)
    assert found["crps_sd"] < found["rmse_sd"]
