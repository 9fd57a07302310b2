"""DrImpute and scImpute against loops over genes and cells, and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import brentq, nnls
from scipy.special import digamma
from scipy.stats import gamma, norm, spearmanr

from imputome import methods
from imputome.errors import InputError
from imputome.methods.clusters.drimpute import correlations, ranks
from imputome.methods.clusters.scimpute import SHIFT, dropout_probabilities, fitted_mixtures, nonnegative_weights


def counts(n=60, G=40, *, seed=0):
    rng = np.random.default_rng(seed)
    types = rng.gamma(0.6, 4.0, size=(3, G)) + 0.1
    X = rng.poisson(types[np.arange(n) % 3]).astype(np.float32)
    X[np.arange(n), np.arange(n) % G] += 1
    return X


# -- DrImpute ----------------------------------------------------------------------------------------------------------
def test_correlations_of_sparse_rows_are_those_of_dense_ones():
    X = counts(12, 30)
    X[4] = 0
    sparse = sp.csr_array(X)
    used = np.delete(np.arange(12), 4)
    ours = correlations(sparse, sparse)
    np.testing.assert_allclose(ours[np.ix_(used, used)], np.corrcoef(X[used]), atol=1e-6)
    assert not ours[4].any()
    ranked = correlations(ranks(sparse), ranks(sparse))
    np.testing.assert_allclose(ranked[np.ix_(used, used)], spearmanr(X[used], axis=1).statistic, atol=1e-6)


def test_zeros_become_the_mean_over_the_clusterings():
    X = counts()
    estimator = methods.create("drimpute", {"min_clusters": 2, "max_clusters": 4})
    result = estimator.fit_transform(X)
    depth = X.sum(axis=1)
    logs = np.log10(1 + X / depth[:, None] * np.median(depth))
    expected = logs.copy()
    for i, j in zip(*np.nonzero(X == 0), strict=True):
        means = [logs[labels == labels[i], j].mean() for labels in estimator.labels_.T]
        expected[i, j] = np.mean(means)
    ours = result.model.inner.normalized(np.arange(60), None) / 1e4 * np.median(depth)
    np.testing.assert_allclose(ours, 10**expected - 1, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.to_array().sum(axis=0), X.sum(axis=0), rtol=1e-4)


def test_the_cell_types_of_the_simulation_are_found():
    estimator = methods.create("drimpute", {"min_clusters": 3, "max_clusters": 3}).fit(counts(90, 120))
    for labels in estimator.labels_.T:
        assert all(len(set(labels[np.arange(90) % 3 == kind])) == 1 for kind in range(3))


# -- scImpute ----------------------------------------------------------------------------------------------------------
def naive_mixture(x, rounds):
    """The same steps for one gene, with scipy's densities and root finder."""
    seen = x[x > np.log10(SHIFT) + 1e-6]
    share = np.clip(1 - len(seen) / len(x), 0.01, 0.99)
    shape, rate, mean, sd = 0.5, 1.0, seen.mean(), max(seen.std(ddof=1), 0.01)
    for _ in range(rounds):
        a = share * gamma.pdf(x, shape, scale=1 / rate)
        b = (1 - share) * norm.pdf(x, mean, sd)
        w = a / (a + b)
        share = np.clip(w.mean(), 1e-3, 1 - 1e-3)
        first, logs = (w * x).sum() / w.sum(), (w * np.log(x)).sum() / w.sum()
        gap = max(np.log(first) - logs, 5e-5)
        shape = brentq(lambda k, gap=gap: np.log(k) - digamma(k) - gap, 1e-4, 2e4)
        rate = shape / first
        mean = ((1 - w) * x).sum() / (1 - w).sum()
        sd = max(np.sqrt(((1 - w) * (x - mean) ** 2).sum() / (1 - w).sum()), 0.01)
    return np.array([share, shape, rate, mean, sd])


def test_mixtures_are_those_of_a_loop_over_genes(monkeypatch):
    from imputome.methods.clusters import scimpute

    rng = np.random.default_rng(3)
    x = np.log10(SHIFT) + np.where(rng.random((80, 6)) < 0.4, rng.gamma(0.5, 0.2, (80, 6)), rng.normal(3, 0.4, (80, 6)))
    x = np.maximum(x, np.log10(SHIFT))
    monkeypatch.setattr(scimpute, "ROUNDS", 15)
    monkeypatch.setattr(scimpute, "STILL", 0.0)
    ours = fitted_mixtures(x)
    for j in range(6):
        expected = naive_mixture(x[:, j], 15)
        np.testing.assert_allclose(ours[:, j], expected, rtol=1e-3)
        a = expected[0] * gamma.pdf(x[:, j], expected[1], scale=1 / expected[2])
        b = (1 - expected[0]) * norm.pdf(x[:, j], *expected[3:])
        np.testing.assert_allclose(dropout_probabilities(x, ours)[:, j], a / (a + b), atol=1e-3)
    # the two components are told apart
    assert ((dropout_probabilities(x, ours) > 0.5) == (x < 1.5)).mean() > 0.98


def test_weights_are_scipys():
    rng = np.random.default_rng(0)
    others, target = rng.normal(size=(8, 30)), rng.normal(size=30)
    np.testing.assert_allclose(nonnegative_weights(others, target), nnls(others.T, target)[0], atol=1e-5)


def test_only_likely_dropouts_change():
    X = counts(80, 60)
    estimator = methods.create("scimpute", {"n_clusters": 2})
    result = estimator.fit_transform(X)
    probability = result.to_array(output="dropout_probability")
    values = result.model.inner.inner.normalized(np.arange(80), None)
    kept = probability <= 0.5
    normalised = X / X.sum(axis=1, keepdims=True) * 1e4
    np.testing.assert_allclose(values[kept], normalised[kept], rtol=1e-4, atol=1e-3)
    assert (values[~kept] != normalised[~kept]).any()
    with pytest.raises(InputError):
        methods.create("scimpute", {"threshold": 0.0}).fit(X)


def test_no_prediction_is_above_what_the_neighbours_show():
    """Weights found on genes that the neighbours lack add up to hundreds, and values are powers of ten."""
    from imputome.methods.clusters.scimpute import _predicted

    point = np.log10(SHIFT)
    others = np.full((4, 12), point, np.float32)
    others[:, 11] = [1.0, 2.0, 1.5, point]
    cell = np.full((1, 12), 3.0, np.float32)
    cell[0, 11] = point
    dropout = np.arange(12)[None] == 11
    values = _predicted(cell, dropout, np.ones(12, bool), np.arange(4)[None], others)
    assert values[0, 11] == np.float32(2.0)


@pytest.mark.parametrize("posterior", [False, True])
def test_few_molecules_give_finite_values_of_the_size_of_the_data(posterior, recwarn):
    rng = np.random.default_rng(8)
    X = rng.poisson(rng.gamma(1, 1, (30, 2)) @ rng.gamma(0.5, 1, (2, 20)))
    values = methods.create("scimpute", {"posterior": posterior}).fit_transform(X).to_array()
    assert np.isfinite(values).all()
    assert values.max() < 2 * X.max()
    np.testing.assert_allclose(values.sum(axis=0), X.sum(axis=0), rtol=0.1 if posterior else 1e-4)
    assert not [each for each in recwarn if issubclass(each.category, RuntimeWarning)]
