"""Coverage by stratum of the prediction, from an imputation and a split, against the arrays it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.metrics import coverage_by_mean
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import N_STRATA, calibration


def counts(G=60):
    rng = np.random.default_rng(0)
    mean = np.geomspace(0.05, 200, G)
    X = rng.poisson(mean * rng.gamma(2.0, 0.5, (300, G))).astype(np.float32)
    return as_data(sp.csr_array(X), kind="counts")


def test_counts_agree_with_the_dense_metric():
    split = make_split("thin", counts(), rng=np.random.default_rng(1))
    imputation = methods.get("gene_mean_posterior")().fit_transform(split.train)
    rate = imputation.to_array(keep_observed=False, scale="counts").astype(np.float64)
    variance = imputation.to_array(output="variance").astype(np.float64)
    kept = np.bincount(split.train.X.indices, minlength=60) > 0
    expected = coverage_by_mean(
        truth=split.test.toarray()[:, kept],
        prediction=rate[:, kept] * split.ratio,
        size=(rate**2 / variance)[:, kept],
    )
    table = calibration(imputation, split)
    np.testing.assert_array_equal(table["entries"], expected["entries"])
    np.testing.assert_allclose(table["coverage"], expected["coverage"], atol=1e-3)
    np.testing.assert_array_equal(table["high"], expected["to"])


def test_real_values_agree_with_a_loop():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 30)) + 0.5 * rng.standard_normal((200, 30))
    split = make_split("mcar", as_data(X, kind="real"), rng=rng, rows="all")
    imputation = methods.get("gaussian_copula")(mode="fast").fit_transform(split.train)
    table = calibration(imputation, split)
    value, lower, upper = (
        imputation.to_array(output=name, keep_observed=False) for name in ("value", "lower", "upper")
    )
    order = sorted(range(len(split.i)), key=lambda k: value[split.i[k], split.j[k]])
    assert len(table) == N_STRATA
    assert table["entries"].sum() == len(order)
    assert table["entries"].max() - table["entries"].min() <= 1
    start = 0
    for entries, coverage in zip(table["entries"], table["coverage"], strict=True):
        part = order[start : start + entries]
        inside = [lower[split.i[k], split.j[k]] <= split.truth[k] <= upper[split.i[k], split.j[k]] for k in part]
        assert coverage == pytest.approx(np.mean(inside), abs=0.011)  # one entry at a bound may fall either way
        start += entries


def test_without_intervals_there_is_nothing_to_calibrate():
    split = make_split("thin", counts(), rng=np.random.default_rng(1))
    with pytest.raises(InputError, check=has_code("no-intervals")):
        calibration(methods.get("gene_mean")().fit_transform(split.train), split)
    split = make_split(
        "mcar", as_data(np.random.default_rng(0).random((50, 5)), kind="real"), rng=np.random.default_rng(0)
    )
    with pytest.raises(InputError, check=has_code("no-intervals")):
        calibration(methods.get("mean")().fit(split.train).transform(split.apply), split)
