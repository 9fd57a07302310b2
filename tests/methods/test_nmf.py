"""Poisson factors against scikit-learn's, against the formula, and on rates that are known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome.errors import InputError
from imputome.methods.nmf import poisson_nmf, project


def counts(n=120, G=70, rank=4, *, depth=4.0, seed=0, dtype=np.float32):
    """Poisson counts of a low-rank rate, and that rate."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, size=(n, rank)) @ rng.gamma(0.5, depth, size=(rank, G)) + 0.02
    return sp.csr_array(rng.poisson(rate).astype(dtype)), rate


def objective(X, W, H):
    """The whole sum over the n x G entries, zeros of the rate guarded by the kernel's own 1e-12."""
    rate = W.astype(np.float64) @ H.astype(np.float64).T
    x = X.toarray().astype(np.float64)
    return rate.sum() - (x[x > 0] * np.log(rate[x > 0] + 1e-12)).sum()


def fit(X, rank=4, *, max_iter=60, tol=0.0, random_state=0):
    return poisson_nmf(X, rank, max_iter=max_iter, tol=tol, random_state=random_state)


# -- the objective -----------------------------------------------------------------------------------------------------
def test_the_objective_is_the_formula_and_never_rises():
    X, _ = counts()
    reached = []
    for max_iter in (0, 1, 2, 3, 5, 10, 20, 40, 80):
        found = fit(X, max_iter=max_iter)
        assert found.iterations == max_iter
        assert not found.converged
        assert found.objective == pytest.approx(objective(X, found.left, found.right), rel=1e-6)
        reached.append(found.objective)
    scale = abs(reached[-1])
    assert (np.diff(reached) < 1e-7 * scale).all()
    assert reached[0] - reached[-1] > 0.1 * scale


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_as_good_as_scikit_learn(rank):
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    X, _ = counts()
    nmf = NMF(rank, init="nndsvda", solver="mu", beta_loss="kullback-leibler", max_iter=300, tol=0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=ConvergenceWarning)
        left = nmf.fit_transform(X)
    found = fit(X, rank, max_iter=300)
    x = X.toarray()
    ideal = x.sum() - (x[x > 0] * np.log(x[x > 0])).sum()  # of rates that are the counts
    theirs = objective(X, left, nmf.components_.T) - ideal  # the Kullback-Leibler divergence
    assert found.objective - ideal == pytest.approx(theirs, rel=0.01)


def test_one_factor_is_the_product_of_the_margins():
    X, _ = counts()
    found = fit(X, 1)
    x = X.toarray().astype(np.float64)
    np.testing.assert_allclose(found.left @ found.right.T, np.outer(x.sum(1), x.sum(0)) / x.sum(), rtol=1e-4, atol=1e-6)


def test_rates_without_noise_are_recovered():
    rng = np.random.default_rng(3)
    rate = rng.gamma(0.5, size=(80, 3)) @ rng.gamma(0.5, 3.0, size=(3, 50)) + 1e-3
    found = fit(sp.csr_array(rate), 3, max_iter=2000)
    fitted = found.left @ found.right.T
    assert np.abs(fitted - rate).sum() < 0.02 * rate.sum()
    noisy, rate = counts(n=400, rank=3, depth=20.0)
    found = fit(noisy, 3, max_iter=200)
    assert np.corrcoef((found.left @ found.right.T).ravel(), rate.ravel())[0, 1] > 0.98


def test_totals_of_cells_and_genes_are_kept():
    X, _ = counts()
    found = fit(X)
    fitted = found.left @ found.right.T
    np.testing.assert_allclose(fitted.sum(axis=0), X.sum(axis=0), rtol=1e-4)  # the last update was of the genes
    assert fitted.sum() == pytest.approx(X.sum(), rel=1e-4)


# -- stopping ----------------------------------------------------------------------------------------------------------
def test_stops_when_ten_iterations_gain_too_little():
    X, _ = counts()
    tol = 1e-3
    found = fit(X, max_iter=2000, tol=tol)
    assert found.converged
    assert 10 < found.iterations < 2000
    assert found.iterations % 10 == 0
    at = {
        it: fit(X, max_iter=it).objective for it in (0, found.iterations - 20, found.iterations - 10, found.iterations)
    }
    assert found.objective == pytest.approx(at[found.iterations], rel=1e-7)
    before, last, end = (at[found.iterations - back] for back in (20, 10, 0))
    assert (last - end) < 10 * tol * (at[0] - end)
    assert (before - last) > 10 * tol * (at[0] - last)
    assert fit(X, max_iter=2000, tol=1e-5).iterations > found.iterations
    capped = fit(X, max_iter=15, tol=1e-9)
    assert (capped.converged, capped.iterations) == (False, 15)


# -- what goes in ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_other_number_types(dtype):
    X, _ = counts()
    one, two = fit(X), fit(X.astype(dtype))
    assert two.left.dtype == two.right.dtype == np.float32
    np.testing.assert_allclose(two.left @ two.right.T, one.left @ one.right.T, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(project(X.astype(dtype), one.right), project(X, one.right), rtol=1e-6)


def test_input_may_be_read_only_and_is_left_alone():
    X, _ = counts()
    before = [part.copy() for part in (X.data, X.indices, X.indptr)]
    for part in (X.data, X.indices, X.indptr):
        part.setflags(write=False)
    found = fit(X)
    found.right.setflags(write=False)
    project(X, found.right)
    for part, then in zip((X.data, X.indices, X.indptr), before, strict=True):
        np.testing.assert_array_equal(part, then)


def test_empty_cells_and_genes_have_zeros():
    X = counts()[0].toarray()
    X[[0, 60]], X[:, [5, 69]] = 0, 0
    X = sp.csr_array(X)
    found = fit(X)
    for factor in (found.left, found.right):
        assert np.isfinite(factor).all()
        assert (factor >= 0).all()
    assert not found.left[[0, 60]].any()
    assert not found.right[[5, 69]].any()
    assert found.left[1:60].any(axis=1).all()
    assert found.right[6:69].any(axis=1).all()
    new = project(X, found.right)
    assert np.isfinite(new).all()
    assert not new[[0, 60]].any()


@pytest.mark.parametrize("rank", [0, -1, 13])
def test_impossible_ranks_are_refused(rank):
    with pytest.raises(InputError, check=has_code("parameter-value")):
        fit(counts(n=30, G=12)[0], rank)


def test_more_factors_than_the_counts_have_rank():
    X = sp.csr_array(np.outer(np.arange(1, 21), np.arange(1, 11)).astype(np.float32))
    found = fit(X, 10, max_iter=300)
    fitted = found.left @ found.right.T
    assert np.isfinite(fitted).all()
    assert np.abs(fitted - X.toarray()).sum() < 0.05 * X.sum()


def test_the_seed_alone_decides():
    X, _ = counts()
    one, two = fit(X), fit(X)
    np.testing.assert_array_equal(one.left, two.left)
    np.testing.assert_array_equal(one.right, two.right)


# -- new rows ----------------------------------------------------------------------------------------------------------
def test_projection_of_training_rows_gives_the_same_rates():
    X, _ = counts()
    found = fit(X, max_iter=400)
    left = project(X, found.right, max_iter=400)
    assert left.dtype == np.float32
    assert objective(X, left, found.right) == pytest.approx(found.objective, rel=1e-4)
    fitted = found.left @ found.right.T
    assert np.abs(left @ found.right.T - fitted).sum() < 0.02 * fitted.sum()
    few = project(X, found.right)  # the default is near
    assert np.abs(few @ found.right.T - fitted).sum() < 0.1 * fitted.sum()


def test_projection_is_the_best_left_factor():
    """Against a general optimiser, row by row."""
    from scipy.optimize import minimize

    X, _ = counts()
    H = fit(X).right.astype(np.float64)
    left = project(X, H, max_iter=1000).astype(np.float64)
    for i in (0, 7, 33):
        x = X[[i]].toarray()[0].astype(np.float64)

        def loss(w, x=x):
            rate = H @ w + 1e-12
            return rate.sum() - (x * np.log(rate)).sum()

        best = minimize(loss, np.full(4, x.sum() / H.sum()), bounds=[(0, None)] * 4, method="L-BFGS-B", tol=1e-12).fun
        assert loss(left[i]) <= best + 1e-3 * abs(best)


def test_a_row_does_not_depend_on_the_other_rows():
    X, _ = counts()
    right = fit(X).right
    whole = project(X, right)
    rows = np.array([50, 3, 7, 119])
    np.testing.assert_array_equal(project(X[rows], right), whole[rows])
    np.testing.assert_array_equal(project(X[[9]], right), whole[[9]])
