"""MAGIC and kNN-smoothing against dense loops, and against values of magic-impute."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from codes import warns
from imputome import datasets, methods
from imputome.core.data import as_data
from imputome.methods.similar_cells import Components, summed

PEERS = Path(__file__).parent / "peers"


def counts(n=70, G=50, *, seed=0):
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.6, size=(n, 3)) @ rng.gamma(0.6, 3.0, size=(3, G)) + 0.1
    X = rng.poisson(rate).astype(np.float32)
    X[:, 0] += 1
    return X


def pca(Y, k):
    Y = Y - Y.mean(axis=0)
    u, s, _ = np.linalg.svd(Y, full_matrices=False)
    return u[:, :k] * s[:k]


# -- parts -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (450, 500)])  # by columns, by rows, by subspace iteration
def test_components_are_those_of_the_dense_matrix(shape):
    X = counts(*shape)
    found = Components.of(sp.csr_array(X), 3, 0)  # the rank of the rates: others are noise, in any order
    expected = pca(X.astype(float), 3)
    scores = found.scores(sp.csr_array(X))
    np.testing.assert_allclose(np.abs(scores), np.abs(expected), atol=1e-3 * np.abs(expected).max())


def test_a_sum_of_cells_is_the_dense_product():
    weights, X = sp.random_array((9, 30), density=0.2, rng=1, format="csr", dtype=np.float32), counts(30, 20)
    np.testing.assert_allclose(summed(weights, sp.csr_array(X)), weights.toarray() @ X, rtol=1e-5)


# -- MAGIC -------------------------------------------------------------------------------------------------------------
def naive_walk(points, *, ka=5, k=15, decay=1.0):
    distances = cdist(points, points)
    affinity = np.eye(len(points))
    for i, row in enumerate(distances):
        order = [j for j in np.argsort(row, kind="stable") if j != i][:k]
        sigma = row[order[ka - 1]]
        for j in order:
            weight = np.exp(-((row[j] / sigma) ** decay))
            affinity[i, j] = weight if weight >= 1e-4 else 0.0
    affinity = (affinity + affinity.T) / 2
    return affinity / affinity.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("options", [{}, {"t": 1, "decay": 2.0}, {"n_neighbors": 3, "max_neighbors": 6, "t": 2}])
def test_magic_is_the_dense_loop(options):
    X = counts()
    roots = np.sqrt(X / X.sum(axis=1, keepdims=True) * 1e4)
    P = naive_walk(
        pca(roots, 49),
        ka=options.get("n_neighbors", 5),
        k=options.get("max_neighbors", 15),
        decay=options.get("decay", 1.0),
    )
    expected = (np.linalg.matrix_power(P, options.get("t", 3)) @ roots) ** 2
    estimator = methods.create("magic", options)
    result = estimator.fit_transform(X)
    np.testing.assert_allclose(result.model.inner.normalized(np.arange(70), None), expected, rtol=2e-3)
    # on the scale of counts, each gene has its total
    np.testing.assert_allclose(result.to_array().sum(axis=0), X.sum(axis=0), rtol=1e-4)
    some = np.array([3, 1, 40])
    np.testing.assert_allclose(result.model.rows(some, some, "value"), result.to_array()[some][:, some], rtol=1e-5)


def test_a_long_walk_is_taken_at_once_or_announced(monkeypatch, recwarn):
    from imputome.methods.smoothing import magic

    X = counts()
    taken_at_once = methods.create("magic", {"t": 60}).fit_transform(X)
    assert taken_at_once.model.inner.t == 2
    assert not recwarn
    monkeypatch.setattr(magic, "MOST_SQUARED", 50)
    with warns("slow-fit"):
        step_by_step = methods.create("magic", {"t": 60}).fit_transform(X)
    np.testing.assert_allclose(taken_at_once.to_array(), step_by_step.to_array(), rtol=1e-3)


def test_the_length_of_the_walk_is_the_first_still_step_and_one():
    from scipy.spatial import procrustes

    X = counts(80, 60)
    estimator = methods.create("magic", {"t": "auto"}).fit(X)
    P = estimator.walk_.toarray()
    steps = [np.sqrt(X / X.sum(axis=1, keepdims=True) * 1e4)]
    for _ in range(20):
        steps.append(P @ steps[-1])
    still = [procrustes(a, b)[2] < 0.001 for a, b in pairwise(steps)]
    assert estimator.t_ == min(20, still.index(True) + 2)


def test_a_new_cell_that_is_a_training_cell_gets_nearly_its_value():
    X = counts(150, 60)
    estimator = methods.create("magic")
    values = estimator.fit_transform(X).to_array()
    again = estimator.transform(X).to_array()
    assert np.corrcoef(np.sqrt(values).ravel(), np.sqrt(again).ravel())[0, 1] > 0.99


@pytest.mark.real
def test_magic_on_pbmc3k_agrees_with_its_authors_package():
    stored = np.load(PEERS / "pbmc3k_raw.npz")
    result = methods.create("magic").fit_transform(as_data(datasets.load("pbmc3k_raw").X, kind="counts"))
    ours = np.sqrt(result.model.inner.normalized(np.arange(0, 2700, 9), stored["genes"]))
    assert np.corrcoef(ours.ravel(), stored["magic"].ravel())[0, 1] > 0.99
    assert np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, stored["magic"].T, strict=True)]) > 0.95


# -- kNN-smoothing -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("k", [2, 6, 16])
def test_smoothing_is_exact_on_integers(k):
    """Two cells that are each other's neighbours have equal sums: the dither in the points says which is first."""
    X = counts(64, 40)
    estimator = methods.create("knn_smoothing", {"k": k, "dither": 1e-4, "n_components": 4})
    result = estimator.fit_transform(X)
    integers = X.astype(np.int64)
    median = np.median(integers.sum(axis=1))
    sums, size = integers, 1
    for _, points in estimator.steps_:
        size = min(2 * size, k)
        scaled = sums / sums.sum(axis=1, keepdims=True) * median
        expected = pca(np.sqrt(scaled) + np.sqrt(scaled + 1), 4)
        np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=2e-4 * np.abs(expected).max())
        order = np.argsort(cdist(points, points), axis=1, kind="stable")[:, :size]
        sums = np.array([integers[row].sum(axis=0) for row in order])
    assert size == k
    assert [set(row) for row in estimator.neighbors_] == [set(row) for row in order]
    np.testing.assert_array_equal(summed(result.model.weights, result.model.training), sums)
    library = X.sum(axis=1)
    together = library[order].sum(axis=1)
    np.testing.assert_allclose(result.to_array(), sums * (library / together)[:, None], rtol=1e-5)


def test_one_cell_alone_stays_as_it_is():
    X = counts(30, 20)
    np.testing.assert_allclose(methods.create("knn_smoothing", {"k": 1}).fit_transform(X).to_array(), X)
