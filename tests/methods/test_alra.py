"""ALRA against its definition on dense arrays, and against values of the package halra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imputome import datasets, methods
from imputome.core.data import as_data

PEERS = Path(__file__).parent / "peers"


def counts(n=150, G=120, rank=4, *, seed=0):
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, size=(n, rank)) @ rng.gamma(0.5, 6.0, size=(rank, G)) + 0.02
    X = rng.poisson(rate).astype(np.float32)
    X[np.arange(n), np.arange(n) % G] += 1
    X[:, :5] = 0
    X[0, 0] = X[3, 1] = X[7, 1] = 2  # seen once and twice
    return X


def naive(X, rank, quantile=0.001):
    """The steps of the paper, on log1p, gene by gene."""
    logs = np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4)
    u, s, vt = np.linalg.svd(logs, full_matrices=False)
    A = u[:, :rank] * s[:rank] @ vt[:rank]
    out = np.zeros_like(A)
    for j in range(X.shape[1]):
        column, seen = A[:, j], logs[X[:, j] > 0, j]
        above = column > abs(np.quantile(column, quantile))
        values = column.copy()
        if above.sum() > 1 and len(seen) > 1:
            slope = seen.std(ddof=1) / column[above].std(ddof=1)
            values = values * slope + seen.mean() - column[above].mean() * slope
        out[:, j] = np.where(above & (values > 0), values, 0)
        lost = (out[:, j] == 0) & (X[:, j] > 0)
        out[lost, j] = logs[lost, j]
    return out


def test_alra_is_its_definition():
    X = counts()
    estimator = methods.create("alra", {"rank": 6})
    result = estimator.fit_transform(X)
    expected = naive(X.astype(np.float64), 6)
    ours = np.log1p(result.model.inner.normalized(np.arange(150), None))
    agree = np.isclose(ours, expected, atol=1e-3 * expected.max()).all(axis=0)
    assert agree.mean() > 0.95  # a value beside its threshold can fall on the other side, and moves its gene
    np.testing.assert_allclose(result.to_array().sum(axis=0), X.sum(axis=0), rtol=1e-4)
    assert (result.to_array()[X > 0] > 0).all()


def test_the_rank_is_the_number_of_cell_types():
    """The matrix is not centred, so each type is one direction."""
    rng = np.random.default_rng(1)
    types = rng.gamma(0.5, 20.0, size=(5, 300))
    X = rng.poisson(types[rng.integers(5, size=600)]).astype(np.float32)
    assert methods.create("alra").fit(X).rank_ == 5


@pytest.mark.real
def test_alra_on_pbmc3k_agrees_with_halra():
    """halra's standard deviations divide by n, those of the paper's code by n - 1: little for genes of many cells."""
    stored = np.load(PEERS / "pbmc3k_raw.npz")
    estimator = methods.create("alra")
    result = estimator.fit_transform(as_data(datasets.load("pbmc3k_raw").X, kind="counts"))
    ours = np.log1p(result.model.inner.normalized(np.arange(0, 2700, 9), stored["genes"]))
    assert estimator.rank_ == 22
    assert np.linalg.norm(ours - stored["alra"]) < 1e-2 * np.linalg.norm(stored["alra"])
    assert ((ours == 0) != (stored["alra"] == 0)).mean() < 1e-3
