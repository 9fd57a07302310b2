"""Which real values need the asinh transform."""

from __future__ import annotations

import numpy as np
import pytest

from codes import has_code
from imputome import datasets
from imputome.core.methylation import beta_to_m
from imputome.errors import InputError
from imputome.inspection.tails import MIN_KNOWN_FOR_TAILS, heavy_tailed, nan_quantiles


def test_quantiles_equal_those_of_numpy():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(57, 40))
    values[rng.random(values.shape) < rng.random(40)] = np.nan
    values[0] = np.arange(40.0)  # at least one in each
    values[1:, 3] = np.nan
    levels = (0.0, 0.05, 0.31, 0.5, 0.95, 1.0)
    np.testing.assert_allclose(nan_quantiles(values, levels), np.nanquantile(values, levels, axis=0), rtol=1e-12)


@pytest.fixture(scope="module")
def expression(shared_data):
    return np.asarray(datasets.load("tcga_expression").X)


def test_expression_z_scores_are_flagged_and_their_asinh_is_not(expression):
    tails = heavy_tailed(expression)
    assert tails.largest == pytest.approx(3515.03, abs=0.01)
    assert tails.share == pytest.approx(0.48, abs=0.01)
    assert tails.share_after == pytest.approx(0.112, abs=0.005)
    assert all(figure in tails.line() for figure in ("48 %", "10 robust SD", "3,515.03", "11 %"))
    assert tails.bound == 10
    assert heavy_tailed(np.arcsinh(expression)) is None
    assert heavy_tailed(np.arcsinh(np.arcsinh(expression))) is None


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_missing_values_do_not_change_the_result(expression, share):
    rng = np.random.default_rng(0)
    missing = rng.random(expression.shape) < share
    assert heavy_tailed(np.where(missing, np.nan, expression)).share == pytest.approx(0.48, abs=0.09)
    assert heavy_tailed(np.where(missing, np.nan, np.arcsinh(expression))) is None


def test_random_rows_give_the_same_result(expression):
    for seed in range(10):
        rows = np.random.default_rng(seed).permutation(len(expression))[:200]
        assert heavy_tailed(expression[rows]) is not None
        assert heavy_tailed(np.arcsinh(expression[rows])) is None


def test_methylation_is_not_flagged(shared_data):
    beta = np.asarray(datasets.load("tcga_methylation").X)
    assert heavy_tailed(beta) is None
    assert heavy_tailed(beta_to_m(beta)) is None
    assert heavy_tailed(beta[:60]) is None


@pytest.mark.parametrize("n", [20, 60, 400])
def test_light_tails(n):
    rng = np.random.default_rng(0)
    for values in (
        rng.normal(size=(n, 300)),
        rng.normal(size=(n, 300)) * 1e4 + 1e6,
        rng.exponential(size=(n, 300)) * 50,
        rng.laplace(size=(n, 300)) * 50,
        rng.random((n, 300)),
        rng.choice([0.0, 100.0], size=(n, 300)),  # two groups
    ):
        assert heavy_tailed(values) is None


def test_heavy_tails():
    rng = np.random.default_rng(0)
    assert heavy_tailed(np.exp(1.5 * rng.normal(size=(300, 200)) + 3)) is not None  # unlogged expression
    tails = heavy_tailed(-np.abs(rng.standard_cauchy(size=(300, 200))))
    assert tails is not None
    assert tails.largest < -1000
    # so small that the asinh leaves them as they are
    assert heavy_tailed(1e-9 * rng.standard_cauchy(size=(300, 200)).clip(-1e6, 1e6)) is None


def test_a_large_matrix_is_sampled():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1500, 3000), dtype=np.float32)
    X[:, ::2] = np.sinh(5 * X[:, ::2])
    tails = heavy_tailed(X)
    assert tails.share == pytest.approx(0.5, abs=0.03)
    assert tails.share_after == 0
    assert heavy_tailed(X) == tails


def test_too_few_values():
    rng = np.random.default_rng(0)
    X = rng.standard_cauchy(size=(200, 50)) * 100
    assert heavy_tailed(X) is not None
    assert heavy_tailed(X[: MIN_KNOWN_FOR_TAILS - 1]) is None
    assert heavy_tailed(np.where(np.arange(200)[:, None] < 185, np.nan, X)) is None
    assert heavy_tailed(np.full((50, 4), np.nan)) is None
    assert heavy_tailed(np.ones((50, 4))) is None


def test_input_must_be_a_matrix():
    for bad in (np.zeros(5), np.array([["a"]])):
        with pytest.raises(InputError, check=has_code("not-a-matrix")):
            heavy_tailed(bad)
