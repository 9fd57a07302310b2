"""Gaussian copula for many features: blocks against the formulas that they stand for, error, intervals and memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from imputome import methods
from imputome.core import scales
from imputome.core.data import as_data
from imputome.methods.gaussian_copula import estimator, marginals, noise, wide
from imputome.methods.gaussian_copula.conditional import BasePredictor
from imputome.methods.gaussian_copula.marginals import Marginals

GaussianCopula = methods.get("gaussian_copula")


def low_rank(n, G, *, seed=0, share=0.1):
    """(with NaN, truth): rank 4 plus noise, float32."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 4)) @ rng.normal(size=(4, G)) + rng.normal(size=(n, G))
    truth = (truth * rng.uniform(0.5, 3, G) + rng.normal(size=G)).astype(np.float32)
    return np.where(rng.random((n, G)) < share, np.nan, truth).astype(np.float32), truth


def kriged(kernel, noise_variance, i):
    """Weights of the other rows for row i: the best unbiased predictor with an unknown mean, by its linear system."""
    others = np.delete(np.arange(len(kernel)), i)
    ones = np.ones((len(others), 1))
    system = np.block([[kernel[np.ix_(others, others)] + noise_variance * np.eye(len(others)), ones], [ones.T, 0]])
    out = np.zeros(len(kernel))
    out[others] = np.linalg.solve(system, np.append(kernel[others, i], 1))[:-1]
    return out


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(noise, "BLOCK_VALUES", 40)
    monkeypatch.setattr(marginals, "TRANSFORM_BLOCK_VALUES", 40)


def test_row_weights_are_those_of_the_kriging_system():
    rng = np.random.default_rng(0)
    Z, ridge = rng.normal(size=(8, 30)), 3.0
    K = Z @ Z.T
    distances = np.sqrt(np.square(Z[:, None] - Z).sum(axis=2) / 30)
    predictors = (
        BasePredictor("gaussian", 0.5),
        BasePredictor("sum", 0.5, length=1.0, height=2.0),
        BasePredictor("laplace", 0.1, length=4.0),
    )
    kernels = [(K, 1.5), (K + 6 * np.exp(-distances), 1.5), (np.exp(-distances / 4), 0.1)]
    found = wide.row_weights(K, predictors, ridge, 30.0)
    for weights, (kernel, noise_variance) in zip(found, kernels, strict=True):
        expected = [kriged(kernel, noise_variance, i) for i in range(8)]
        np.testing.assert_allclose(weights, expected, atol=1e-7)


def test_a_pass_in_blocks_is_the_formula_for_each_value(small_blocks):
    X, _ = low_rank(12, 25, share=0.2)
    transform = Marginals.fit(X, 0.25)
    Z = wide.transformed(X, transform)
    np.testing.assert_allclose(Z, np.where(np.isnan(X), 0, transform.forward(X)), atol=1e-6)
    d, ridge = np.random.default_rng(1).uniform(0.3, 1, 25), 5.0
    K = noise.gram(Z, d)
    np.testing.assert_allclose(K, (Z / d) @ Z.T, rtol=1e-5)
    before = Z.astype(np.float64)
    squares = wide.fill(Z, X, wide.LeaveOneOut(K, ridge), d)
    for j in range(25):  # each value from the other features and rows
        others = np.delete(np.arange(25), j)
        kernel = (before[:, others] / d[others]) @ before[:, others].T
        predicted = np.array([kriged(kernel, ridge, i) @ before[:, j] for i in range(12)])
        missing = np.isnan(X[:, j])
        np.testing.assert_allclose(Z[missing, j], predicted[missing], atol=1e-5)
        np.testing.assert_allclose(Z[~missing, j], before[~missing, j], atol=0)
        np.testing.assert_allclose(squares[j], np.square(before[:, j] - predicted)[~missing].mean(), rtol=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_as_accurate_as_a_system_for_each_row(share):
    X, truth = low_rank(80, 400, share=share)
    missing = np.isnan(X)
    found = {mode: GaussianCopula(mode=mode).fit_transform(as_data(X, kind="real")) for mode in ("fast", "wide")}
    unit = np.broadcast_to(truth.std(axis=0), X.shape)[missing]
    errors = {
        mode: np.sqrt(np.mean(np.square((result.to_array() - truth)[missing] / unit))) for mode, result in found.items()
    }
    assert errors["wide"] < 1.02 * errors["fast"]
    i, j = np.nonzero(missing)
    lower, upper = (found["wide"].at(i, j, output=side) for side in ("lower", "upper"))
    assert 0.87 < np.mean((lower <= truth[missing]) & (truth[missing] <= upper)) < 0.93
    np.testing.assert_allclose(found["wide"].at(i, j), found["wide"].to_array()[missing], rtol=1e-5, atol=1e-5)


def test_new_rows_and_saved_models(tmp_path):
    X, truth = low_rank(90, 300)
    fitted = GaussianCopula(mode="wide").fit(as_data(X[:60], kind="real"))
    new = as_data(X[60:], kind="real")
    values = fitted.transform(new).to_array()
    missing = np.isnan(X[60:])
    mean = np.nanmean(X[:60], axis=0)
    assert np.square(values - truth[60:])[missing].mean() < 0.5 * np.square(mean - truth[60:])[missing].mean()
    fitted.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(new).to_array(), values)
    np.testing.assert_array_equal(loaded.transform(new).draw(0), fitted.transform(new).draw(0))


def test_constant_empty_and_unknown_features_and_rows():
    X, _ = low_rank(30, 60)
    X[:, 0], X[:, 1], X[4] = 2.0, np.nan, np.nan
    values = GaussianCopula(mode="wide").fit_transform(as_data(X, kind="real")).to_array()
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[:, 0], 2.0)
    np.testing.assert_allclose(values[4, 2:], np.nanmean(X[:, 2:], axis=0), rtol=1e-5)


def test_memory_is_the_matrix_and_a_little_for_each_feature(monkeypatch):
    n, G = 100, 21_000
    X, _ = low_rank(n, G)
    data = as_data(X, kind="real")
    monkeypatch.setattr(noise, "BLOCK_VALUES", 2**16)
    monkeypatch.setattr(marginals, "TRANSFORM_BLOCK_VALUES", 2**16)
    monkeypatch.setattr(scales, "_VALUES_PER_PIECE", 2**16)
    monkeypatch.setattr(wide, "SAMPLE", 256)
    monkeypatch.setattr(estimator, "SHARE_FEATURES", 256)
    fitted = GaussianCopula()
    fitted.fit(data)
    assert fitted.row_weights_ is not None
    tracemalloc.start()
    GaussianCopula().fit(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the transformed values, half a dozen numbers for each knot and quantile of a feature, and blocks; one more float64
    # copy of the matrix would be 16 MiB
    assert peak < 4 * n * G + 900 * G + 8 * 2**20


def test_the_mode_follows_the_size():
    modes = {size: GaussianCopula().as_for(*size).mode for size in [(100, 200_000), (100, 5000), (5000, 200_000)]}
    assert modes == {(100, 200_000): "wide", (100, 5000): "accurate", (5000, 200_000): "accurate"}
    assert GaussianCopula(mode="fast").as_for(100, 200_000).mode == "fast"


def test_two_samples():
    """Of their values none could be hidden to choose the ridge."""
    X, _ = low_rank(2, 300)
    X[0, 5] = np.nan
    known = ~np.isnan(X)
    imputed = GaussianCopula(mode="wide").fit_transform(X).to_array()
    assert np.isfinite(imputed).all()
    np.testing.assert_allclose(imputed[known], X[known])


def test_workers_do_not_impute_training_rows():
    """Their values are of weights that a saved model lacks."""
    X, _ = low_rank(20, 60)
    for mode, by_rows in (("wide", False), ("fast", True)):
        fitted = GaussianCopula(mode=mode)
        values = fitted.fit_transform(X).to_array()
        assert fitted.imputes_by_rows(as_data(X)) is by_rows
        assert np.allclose(values, fitted.transform(X).to_array()) is by_rows
