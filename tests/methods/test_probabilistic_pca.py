"""ppca and bpca against pcaMethods, scipy's multivariate normal, and EM in naive loops."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.methods.low_rank.probabilistic_pca import (
    Components,
    bpca_step,
    latents_of,
    moments_of,
    ppca_step,
    principal_components,
    relevance_of,
)

PEERS = Path(__file__).parent / "peers" / "pcamethods.npz"


@pytest.fixture(scope="module")
def peers():
    with np.load(PEERS) as stored:
        return dict(stored)


def column_first(array, hidden):
    return array.T[hidden.T]


def small(n=14, G=6, k=2, seed=0):
    """z-scores of rank k with noise and a fifth missing, and a model that is no optimum."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, k)) @ rng.normal(size=(k, G)) + 0.4 * rng.normal(size=(n, G))
    Z[rng.random(Z.shape) < 0.2] = np.nan
    Z[0] = [*([0.3] * (G - 1)), np.nan]
    model = Components(rng.normal(size=(G, k)), rng.normal(size=G), 0.6, np.eye(k), np.zeros((k, k)))
    return Z, model


def log_likelihood(Z, model):
    """Of the known entries, row by row, from the dense covariance of the features."""
    covariance = model.loadings @ model.loadings.T + model.noise * np.eye(len(model.mean))
    total = 0.0
    for z in Z:
        o = np.flatnonzero(~np.isnan(z))
        if len(o):
            total += multivariate_normal.logpdf(z[o], model.mean[o], covariance[np.ix_(o, o)])
    return total


# -- ppca --------------------------------------------------------------------------------------------------------------
def test_latents_and_likelihood_are_those_of_the_joint_normal():
    """x given z_O from the joint covariance of (x, z), without the precision matrices of the E-step."""
    Z, model = small()
    latents = latents_of(Z, model)
    W, s2 = model.loadings, model.noise
    for i, z in enumerate(Z):
        o = np.flatnonzero(~np.isnan(z))
        gain = W[o].T @ np.linalg.inv(W[o] @ W[o].T + s2 * np.eye(len(o)))
        np.testing.assert_allclose(latents.mean[i], gain @ (z[o] - model.mean[o]), atol=1e-10)
        np.testing.assert_allclose(latents.covariance[i], np.eye(2) - gain @ W[o], atol=1e-10)
    np.testing.assert_allclose(latents.log_likelihood, log_likelihood(Z, model), rtol=1e-10)


def test_one_step_of_ppca_is_that_of_naive_loops():
    Z, model = small()
    n, G = Z.shape
    k, W, s2 = 2, model.loadings, model.noise
    x, second = [], []
    for z in Z:
        o = [g for g in range(G) if not np.isnan(z[g])]
        M = s2 * np.eye(k) + sum(np.outer(W[g], W[g]) for g in o)
        x.append(np.linalg.inv(M) @ sum(W[g] * (z[g] - model.mean[g]) for g in o))
        second.append(np.outer(x[-1], x[-1]) + s2 * np.linalg.inv(M))
    step = ppca_step(moments_of(Z, model))
    squares, count = 0.0, 0
    for g in range(G):
        left, right = np.zeros((k + 1, k + 1)), np.zeros(k + 1)
        rows = [i for i in range(n) if not np.isnan(Z[i, g])]
        for i in rows:
            left[:k, :k] += second[i]
            left[:k, k] += x[i]
            left[k, :k] += x[i]
            left[k, k] += 1
            right += Z[i, g] * np.append(x[i], 1)
        w = np.linalg.solve(left, right)
        np.testing.assert_allclose([*step.loadings[g], step.mean[g]], w, rtol=1e-8)
        for i in rows:
            residual = Z[i, g] - w[:k] @ x[i] - w[k]
            squares += residual**2 + w[:k] @ (second[i] - np.outer(x[i], x[i])) @ w[:k]
            count += 1
    np.testing.assert_allclose(step.noise, squares / count, rtol=1e-8)


def test_em_raises_the_likelihood_to_a_maximum(peers):
    """No step lowers it (also not by scipy's normal), and no random move from the end raises it."""
    Z = peers["z"][:30, :15]
    estimator = methods.get("ppca")(rank=2, tol=1e-10, max_iter=2_000)
    result = estimator.fit_transform(Z)
    assert result.status.name == "converged"
    history = result.history["log_likelihood"]
    assert (np.diff(history) > -1e-12).all()
    best = estimator.components_
    z = estimator.standard_.forward(Z).astype(float)
    top = log_likelihood(z, best)
    np.testing.assert_allclose(history.iloc[-1] * (~np.isnan(Z)).sum(), top, rtol=1e-8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = Components(
            best.loadings + 0.02 * rng.normal(size=best.loadings.shape),
            best.mean + 0.02 * rng.normal(size=best.mean.shape),
            best.noise * np.exp(0.02 * rng.normal()),
            best.prior,
            best.spread,
        )
        assert log_likelihood(z, moved) < top


def test_ppca_is_near_that_of_pcamethods(peers):
    """Its updates ignore which entries of a row are missing, so the numbers are near and not equal."""
    hidden = np.isnan(peers["z"])
    ours = methods.get("ppca")(rank=5, tol=1e-9, max_iter=1_000).fit_transform(peers["z"]).to_array()
    ours = column_first(ours, hidden)
    assert np.corrcoef(ours, peers["ppca_5"])[0, 1] > 0.99
    assert np.sqrt(np.mean((ours - peers["ppca_5"]) ** 2)) < 0.1 * peers["ppca_5"].std()


# -- bpca --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [10, 300])
def test_updates_of_bpca_are_those_of_pcamethods(peers, steps):
    """From the start of that program: components of the covariance with 0 for missing, and far more noise than ours."""
    Z, rank = peers["z"], 15
    hidden = np.isnan(Z)
    covariance = np.cov(np.where(hidden, 0.0, Z), rowvar=False)
    roots, vectors = np.linalg.eigh(covariance)
    roots, vectors = roots[::-1], vectors[:, ::-1]
    noise = roots.sum() - roots[:rank].sum()
    loadings = vectors[:, :rank] * np.sqrt(roots[:rank])
    model = Components(loadings, np.zeros(80), noise, 2 * np.eye(rank), np.zeros((rank, rank)))
    relevance = relevance_of(model)
    for _ in range(steps):
        last = model
        model, relevance = bpca_step(moments_of(Z, model), model, relevance, len(Z))
    ours = latents_of(Z, last).mean @ model.loadings.T  # that program returns the latents of before its last step
    np.testing.assert_allclose(column_first(ours, hidden), peers[f"bpca_15_{steps}"], atol=1e-7)


def test_bpca_of_two_components_is_that_of_pcamethods(peers):
    """There 15 components are allowed and 2 are left; with 2 our start leads to the same solution."""
    hidden = np.isnan(peers["z"])
    result = methods.get("bpca")(rank=2, tol=1e-12, max_iter=600).fit_transform(peers["z"])
    np.testing.assert_allclose(column_first(result.to_array(), hidden), peers["bpca_15_1000"], atol=1e-4)


def test_too_many_components_cost_bpca_little_and_ppca_much():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 40)) + 0.2 * rng.normal(size=(60, 40))
    hidden = rng.random(X.shape) < 0.15
    error = {}
    for name, rank in (("bpca", 20), ("ppca", 3), ("ppca", 20), ("ppca", "validated")):
        result = methods.get(name)(rank=rank).fit_transform(np.where(hidden, np.nan, X))
        error[name, rank] = np.sqrt(np.mean((result.to_array() - X)[hidden] ** 2))
    assert error["bpca", 20] < 1.25 * error["ppca", 3]
    assert error["ppca", 20] > 1.25 * error["bpca", 20]
    assert error["ppca", "validated"] < 1.05 * error["ppca", 3]


# -- both --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ppca", "bpca"])
def test_intervals_and_draws_have_the_distribution_of_the_model(name):
    """On data of the model, 90 % intervals cover 90 %; draws have the mean and variance that are returned."""
    rng = np.random.default_rng(1)
    X = 5 + (rng.normal(size=(150, 2)) @ rng.normal(size=(2, 25)) + rng.normal(size=(150, 25))) * 3
    hidden = rng.random(X.shape) < 0.2
    result = methods.get(name)(rank=2).fit_transform(np.where(hidden, np.nan, X))
    low, high = result.to_array(output="lower"), result.to_array(output="upper")
    assert 0.87 < ((low <= X) & (high >= X))[hidden].mean() < 0.93
    some = np.flatnonzero(hidden.any(axis=1))[:3]
    draws = np.array([result.draw(number, rows=some) for number in range(1_500)])
    value, variance = result.rows(some), result.rows(some, output="variance")
    missing = hidden[some]
    gap = (draws.mean(axis=0) - value)[missing] / np.sqrt(variance[missing] / 1_500)
    assert np.abs(gap).max() < 4
    np.testing.assert_allclose(draws.var(axis=0)[missing], variance[missing], rtol=0.2)


def test_features_without_values_or_without_variance_have_their_own_uncertainty():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 8)) + 3
    X[:, 2], X[:, 5] = 3.0, np.nan
    X[4, 2] = np.nan
    result = methods.get("bpca")(rank=2).fit_transform(as_data(X, kind="real"))
    variance = result.to_array(output="variance")
    assert variance[4, 2] == 0
    np.testing.assert_allclose(variance[:, 5], np.nanvar(X), rtol=0.02)
    assert result.draw(0)[4, 2] == 3.0


def test_start_is_the_optimum_for_complete_data():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 12)) + 0.5 * rng.normal(size=(50, 12))
    Z = ((Z - Z.mean(axis=0)) / Z.std(axis=0)).astype(np.float32)
    estimator = methods.get("ppca")(rank=3)
    figures = [figure for _, figure in islice(estimator._path(Z, 3), 40)]
    assert figures[-1] - figures[0] < 1e-6
    assert principal_components(Z, 3).loadings.shape == (12, 3)


def test_ranks_that_are_none_are_refused():
    for name in ("ppca", "bpca"):
        with pytest.raises(InputError, check=has_code("parameter-value")):
            methods.get(name)(rank=0).fit(small()[0])
