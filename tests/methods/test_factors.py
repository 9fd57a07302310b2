"""Low-rank models, the low-rank plus sparse operator and the warm-started SVD against dense NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from imputome.methods.factors import DenseOperator, LowRank, LowRankPlusSparse, WarmSVD, orthonormal

SHAPES = [(30, 50), (50, 30), (40, 40)]


# -- LowRank -----------------------------------------------------------------------------------------------------------
def dense_formula(model):
    """Entry by entry, in the order of the docstring: product, offset, threshold, floor, link, scales."""
    n, G = len(model.left), len(model.right)
    out = np.zeros((n, G))
    for i in range(n):
        for j in range(G):
            value = sum(float(a) * float(b) for a, b in zip(model.left[i], model.right[j], strict=True))
            value += 0 if model.offset is None else model.offset[j]
            if model.threshold is not None and value <= model.threshold[j]:
                value = 0.0
            if model.floor is not None:
                value = max(value, model.floor)
            if model.link == "expm1":
                value = np.exp(value) - 1
            value *= 1 if model.row_scale is None else model.row_scale[i]
            out[i, j] = value * (1 if model.gene_scale is None else model.gene_scale[j])
    return out


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_low_rank_values(rank, dtype):
    rng = np.random.default_rng(0)
    n, G = 9, 7
    choices = itertools.product(
        (None, rng.normal(size=G)),
        (None, rng.random(G)),
        (None, 0.0, -0.5),
        ("identity", "expm1"),
        (None, rng.gamma(2, size=n)),
        (None, rng.gamma(2, size=G)),
    )
    rtol = 1e-10 if dtype == np.float64 else 2e-4
    rows, genes = np.array([4, 0, 8]), np.array([6, 1])
    i, j = np.divmod(np.arange(n * G), G)
    for offset, threshold, floor, link, row_scale, gene_scale in choices:
        left, right = rng.normal(size=(n, rank)).astype(dtype), rng.normal(size=(G, rank)).astype(dtype)
        kept = [a.copy() for a in (left, right)]
        model = LowRank(left, right, offset, threshold, floor, link, row_scale, gene_scale)
        expected = dense_formula(model)
        whole = model.rows(np.arange(n), None)
        assert whole.dtype == dtype
        atol = rtol * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(whole, expected, rtol=rtol, atol=atol)
        np.testing.assert_allclose(model.rows(rows, genes), expected[np.ix_(rows, genes)], rtol=rtol, atol=atol)
        np.testing.assert_allclose(model.at(i, j), expected.ravel(), rtol=rtol, atol=atol)
        np.testing.assert_allclose(model.column_totals(4), expected.sum(axis=0), rtol=rtol, atol=n * atol)
        np.testing.assert_array_equal(left, kept[0])
        np.testing.assert_array_equal(right, kept[1])


def test_low_rank_entries_in_pieces(monkeypatch):
    monkeypatch.setattr("imputome.methods.factors.FLOAT64_PIECE", 40)
    rng = np.random.default_rng(0)
    model = LowRank(rng.normal(size=(9, 6)), rng.normal(size=(7, 6)), floor=None)
    i, j = rng.integers(9, size=101), rng.integers(7, size=101)
    np.testing.assert_allclose(model.at(i, j), (model.left @ model.right.T)[i, j], rtol=1e-12, atol=1e-14)
    assert model.at(i[:0], j[:0]).shape == (0,)


# -- operators ---------------------------------------------------------------------------------------------------------
def low_rank_plus_sparse(n, G, rank, *, dtype=np.float64, seed=0, empty=False):
    rng = np.random.default_rng(seed)
    known = rng.random((n, G)) < (0 if empty else 0.3)
    known[3], known[:, 5] = False, False  # an empty row and an empty column
    pattern = sp.csr_array(known.astype(np.float64))
    W = LowRankPlusSparse(pattern, np.dtype(dtype))
    W.values[:] = rng.normal(size=pattern.nnz)
    W.left, W.right = rng.normal(size=(n, rank)).astype(dtype), rng.normal(size=(G, rank)).astype(dtype)
    dense = W.left.astype(np.float64) @ W.right.T.astype(np.float64)
    dense[np.nonzero(known)] += W.values
    return W, dense


@pytest.mark.parametrize("rank", [0, 1, 5])
@pytest.mark.parametrize(("n", "G"), SHAPES)
@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_low_rank_plus_sparse(n, G, rank, dtype, tol):
    W, dense = low_rank_plus_sparse(n, G, rank, dtype=dtype)
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(G, 6)).astype(dtype), rng.normal(size=(n, 6)).astype(dtype)
    assert W.shape == (n, G)
    np.testing.assert_allclose(W.dot(X), dense @ X, atol=tol * np.abs(dense @ X).max())
    np.testing.assert_allclose(W.tdot(Y), dense.T @ Y, atol=tol * np.abs(dense.T @ Y).max())
    # columns of a Fortran-ordered block, as slices of factors are
    np.testing.assert_allclose(W.dot(np.asfortranarray(X)[:, ::2]), dense @ X[:, ::2], atol=tol * n)
    gram = W.gram()
    expected = dense @ dense.T if n <= G else dense.T @ dense
    assert gram.dtype == np.float64
    np.testing.assert_allclose(gram, expected, atol=tol * np.abs(expected).max())


def test_low_rank_plus_sparse_without_entries():
    W, dense = low_rank_plus_sparse(12, 20, 3, empty=True)
    X = np.random.default_rng(0).normal(size=(20, 4))
    np.testing.assert_allclose(W.dot(X), dense @ X, atol=1e-10)
    np.testing.assert_allclose(W.gram(), dense @ dense.T, atol=1e-10)


@pytest.mark.parametrize(("n", "G"), SHAPES)
def test_dense_operator(n, G, monkeypatch):
    monkeypatch.setattr("imputome.methods.factors.FLOAT64_PIECE", 200)  # the Gram matrix is added up in pieces
    rng = np.random.default_rng(0)
    A = rng.normal(size=(n, G)).astype(np.float32)
    W = DenseOperator(A)
    X, Y = rng.normal(size=(G, 3)).astype(np.float32), rng.normal(size=(n, 3)).astype(np.float32)
    exact = A.astype(np.float64)
    assert W.shape == (n, G)
    assert W.dtype == np.float32
    np.testing.assert_allclose(W.dot(X), exact @ X, atol=1e-4)
    np.testing.assert_allclose(W.tdot(Y), exact.T @ Y, atol=1e-4)
    gram = W.gram()
    assert gram.dtype == np.float64
    np.testing.assert_allclose(gram, exact @ exact.T if n <= G else exact.T @ exact, atol=1e-11)


# -- the SVD -----------------------------------------------------------------------------------------------------------
def decaying(n, G, *, decay=0.85, seed=0):
    rng = np.random.default_rng(seed)
    d = min(n, G)
    u = np.linalg.qr(rng.normal(size=(n, d)))[0]
    v = np.linalg.qr(rng.normal(size=(G, d)))[0]
    return (u * (100 * decay ** np.arange(d))) @ v.T


def check_triplets(A, triplets, k, *, rtol, angle):
    u, s, vt = np.linalg.svd(A, full_matrices=False)
    np.testing.assert_allclose(triplets.s, s[:k], rtol=rtol)
    left, right = triplets.vectors(k)
    assert left.shape == (len(A), k)
    assert right.shape == (A.shape[1], k)
    for ours, theirs in ((left, u[:, :k]), (right, vt[:k].T)):
        np.testing.assert_allclose(ours.T @ ours, np.eye(k), atol=angle)
        np.testing.assert_allclose(np.abs(np.einsum("ia,ia->a", ours, theirs)), 1, atol=angle)
    # signs of the two sides belong together
    np.testing.assert_allclose(np.einsum("ia,ij,ja->a", left, A, right), s[:k], rtol=max(rtol, angle))
    few = triplets.vectors(2)
    np.testing.assert_allclose(few[0], left[:, :2], atol=1e-12)
    np.testing.assert_allclose(few[1], right[:, :2], atol=1e-12)


@pytest.mark.parametrize(("n", "G"), [(120, 200), (200, 120), (150, 150)])
def test_block_svd_converges_over_a_few_warm_calls(n, G):
    A = decaying(n, G)
    W = DenseOperator(A)
    svd = WarmSVD(np.random.default_rng(0), method="block")
    first = svd.top(W, 12)
    exact = np.linalg.svd(A, compute_uv=False)[:12]
    errors = [np.abs(first.s / exact - 1).max()]
    for _ in range(5):
        triplets = svd.top(W, 12)
        errors.append(np.abs(triplets.s / exact - 1).max())
    assert errors[-1] < 1e-9
    assert errors[-1] < errors[0]
    check_triplets(A, triplets, 12, rtol=1e-9, angle=1e-6)


def test_block_svd_follows_a_block_that_shrinks_and_grows():
    A = decaying(150, 220)
    W = DenseOperator(A)
    svd = WarmSVD(np.random.default_rng(0), method="block")
    for k in (20, 20, 20, 20, 3, 3, 20):  # what was found at 20 is not forgotten at 3
        triplets = svd.top(W, k)
        assert len(triplets.s) == k
    np.testing.assert_allclose(triplets.s, np.linalg.svd(A, compute_uv=False)[:20], rtol=1e-6)


def test_block_svd_follows_a_slowly_changing_matrix():
    rng = np.random.default_rng(0)
    A = decaying(120, 160)
    svd = WarmSVD(rng, method="block")
    for _ in range(4):
        svd.top(DenseOperator(A), 10)
    for _ in range(5):
        A = A + 0.01 * rng.normal(size=A.shape)
        triplets = svd.top(DenseOperator(A), 10)
        np.testing.assert_allclose(triplets.s, np.linalg.svd(A, compute_uv=False)[:10], rtol=1e-4)


@pytest.mark.parametrize("method", ["gram", "full", "auto"])
@pytest.mark.parametrize(("n", "G"), [(50, 80), (80, 50)])
def test_exact_svds(method, n, G):
    A = decaying(n, G)
    for k in (5, 20):
        triplets = WarmSVD(np.random.default_rng(0), method=method).top(DenseOperator(A), k)
        check_triplets(A, triplets, k, rtol=1e-8, angle=1e-7)


@pytest.mark.parametrize("method", ["gram", "block"])
@pytest.mark.parametrize(("n", "G"), [(90, 150), (150, 90)])
def test_svd_of_low_rank_plus_sparse(method, n, G):
    W, dense = low_rank_plus_sparse(n, G, 6)
    W.left = W.left * (np.arange(6, 0, -1) * 10)
    dense = dense - dense + (W.left @ W.right.T)
    pattern = sp.csr_array((W.values, W.indices, W.indptr), shape=(n, G))
    dense += pattern.toarray()
    svd = WarmSVD(np.random.default_rng(0), method=method)
    for _ in range(8):
        triplets = svd.top(W, 6)
    check_triplets(dense, triplets, 6, rtol=1e-8, angle=1e-6)


def test_more_triplets_than_there_are():
    A = decaying(20, 30)
    for method in ("auto", "block", "gram", "full"):
        triplets = WarmSVD(np.random.default_rng(0), method=method).top(DenseOperator(A), 500)
        assert len(triplets.s) == 20
        np.testing.assert_allclose(triplets.s, np.linalg.svd(A, compute_uv=False), rtol=1e-4)


def test_block_svd_of_a_matrix_of_lower_rank_stays_finite():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(100, 3)) @ rng.normal(size=(3, 140))
    svd = WarmSVD(rng, method="block")
    for _ in range(4):
        triplets = svd.top(DenseOperator(A), 10)
        assert np.isfinite(triplets.s).all()
    exact = np.linalg.svd(A, compute_uv=False)
    np.testing.assert_allclose(triplets.s[:3], exact[:3], rtol=1e-8)
    assert (triplets.s[3:] < 1e-5 * exact[0]).all()
    left, right = triplets.vectors(3)
    np.testing.assert_allclose((left * triplets.s[:3]) @ right.T, A, atol=1e-8 * exact[0])


def test_single_precision_block_svd():
    A = decaying(150, 220)
    svd = WarmSVD(np.random.default_rng(0), method="block")
    for _ in range(6):
        triplets = svd.top(DenseOperator(A.astype(np.float32)), 12)
    assert triplets.s.dtype == np.float64
    assert triplets.vectors(3)[0].dtype == np.float32
    np.testing.assert_allclose(triplets.s, np.linalg.svd(A, compute_uv=False)[:12], rtol=1e-5)


# -- orthonormal -------------------------------------------------------------------------------------------------------
def awkward(case, rng):
    Y = rng.normal(size=(80, 9))
    if case == "nearly orthonormal":
        return np.linalg.qr(Y)[0] + 1e-3 * Y
    if case == "same column twice":
        Y[:, 4] = Y[:, 1]
    elif case == "rank two":
        return rng.normal(size=(80, 2)) @ rng.normal(size=(2, 9))
    elif case == "zero column":
        Y[:, 3] = 0
    elif case == "all zero":
        return np.zeros((80, 9))
    elif case == "scales":
        Y *= 10.0 ** np.linspace(-14, 14, 9)
    elif case == "nearly parallel":
        return Y[:, :1] + 1e-6 * Y
    elif case == "square":
        return rng.normal(size=(9, 9))
    return Y


CASES = ["well conditioned", "nearly orthonormal", "same column twice", "rank two", "zero column", "all zero", "scales"]


@pytest.mark.parametrize("case", [*CASES, "nearly parallel", "square"])
@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("seed", range(5))
def test_orthonormal(case, dtype, tol, seed):
    Y = awkward(case, np.random.default_rng(seed)).astype(dtype)
    Q = orthonormal(Y.copy())
    assert Q.shape == Y.shape
    assert Q.dtype == dtype
    exact = Q.astype(np.float64)
    np.testing.assert_allclose(exact.T @ exact, np.eye(Y.shape[1]), atol=10 * tol)
    # the columns of Y lie in the span of Q
    length = np.linalg.norm(Y.astype(np.float64), axis=0)
    unit = Y.astype(np.float64) / np.where(length > 0, length, 1)
    np.testing.assert_allclose(exact @ (exact.T @ unit), unit, atol=100 * tol)
