"""Controls that are no methods, and scores of hidden counts on the log scale."""

from __future__ import annotations

import numpy as np
import pytest

from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_hidden
from imputome.methods.controls.bars import BARS, nonzero_mean
from imputome.studies.inputs import Dataset
from imputome.studies.runner import run_study


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(1.0, 1.0, size=(40, 1)) * rng.gamma(0.7, 2.0, size=25))
    X[:, 0] += 1  # no empty cell
    X[:, 3] = 0
    library = X.sum(axis=1) + rng.integers(0, 50, size=40)
    return as_data(X, kind="counts", library_size=library)


def test_nonzero_mean_by_hand(data):
    X = data.X.toarray()
    logged = np.log1p(X * 1e4 / data.depth[:, None])
    expected = [column[column > 0].mean() if (column > 0).any() else 0.0 for column in logged.T]
    found = nonzero_mean(data).to_array(scale="log1p")
    np.testing.assert_allclose(found, np.tile(expected, (40, 1)), rtol=1e-5)


def test_scores_on_the_log_scale_by_hand(data):
    split = make_split("random", data, rng=np.random.default_rng(1), fraction=0.4)
    result = nonzero_mean(split.train)
    depth = split.train.depth[split.i]  # what the training part still holds
    assert (depth < data.depth[split.i]).all()
    truth = np.log1p(split.truth * 1e4 / depth)
    predicted = result.to_array(scale="log1p")[split.i, split.j]
    scores = score_hidden(result, split, scale="log1p")
    assert scores["nrmse"] == pytest.approx(np.sqrt(np.mean((truth - predicted) ** 2)) / truth.mean(), rel=1e-5)
    assert scores["pearson"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1], rel=1e-5)
    assert "total_ratio" not in scores
    with pytest.raises(InputError, match="logarithms"):
        score_hidden(result, split, scale="log1p", metrics=["total_ratio"])


def test_bars_stand_among_the_controls_of_a_study(data):
    table = run_study(Dataset("made", data), list(BARS), scheme="random", scale="log1p")
    assert set(BARS) <= set(table["method"])
    assert set(table["status"]) == {"ok"}
    with pytest.raises(InputError, match="thin"):
        run_study(Dataset("made", data), list(BARS), scale="log1p")
