"""Low-rank models, and the truncated SVD of a matrix that is low rank plus sparse, for all factorisation methods.

Letters: ``n`` rows, ``G`` columns, ``r`` rank, ``k`` block width, ``Omega`` the observed entries as a CSR pattern.
Kernels take raw CSR arrays, run in parallel over rows, and add up sums of squares in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp
from numba import get_num_threads, prange, set_num_threads
from threadpoolctl import threadpool_limits

from imputome.core.compiled import compiled
from imputome.core.data import Data
from imputome.core.imputation import Output

SMALL_SIDE = 400  # if min(n, G) is at most this, the exact Gram matrix costs almost nothing
FLOAT64_PIECE = 2**19  # largest number of values in a temporary float64 array (4 MiB)
LATENT_COLUMNS = 50  # methods return this many leading columns of the row factors as the latent representation


# -- the model --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LowRank:
    """A `Model` with values ``row_scale_i * gene_scale_j * link(left_i . right_j + offset_j)``, computed on request.

    Examples
    --------
    >>> import numpy as np
    >>> model = LowRank(np.array([[1.0], [2.0]]), np.array([[3.0], [-1.0]]))
    >>> model.rows(np.array([0, 1]), None)
    array([[3., 0.],
           [6., 0.]])
    """

    left: np.ndarray  # (n, r); r may be 0
    right: np.ndarray  # (G, r)
    offset: np.ndarray | None = None  # (G,)
    threshold: np.ndarray | None = None  # (G,) products at or below it become 0 (this restores biological zeros)
    floor: float | None = 0.0  # smallest product allowed; None for no bound
    link: Literal["identity", "expm1"] = "identity"  # "expm1" for factors of log1p values
    row_scale: np.ndarray | None = None  # (n,) multipliers of the rows, after the link
    gene_scale: np.ndarray | None = None  # (G,) multipliers of the columns, after the link

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output = "value") -> np.ndarray:
        columns = slice(None) if genes is None else genes
        return self._finish(self.left[rows] @ self.right[columns].T, rows[:, None], columns)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output = "value") -> np.ndarray:
        values = np.empty(len(i), self.left.dtype)
        step = max(1, FLOAT64_PIECE // max(1, self.left.shape[1]))
        for start in range(0, len(i), step):
            part = slice(start, start + step)
            values[part] = np.einsum("kr,kr->k", self.left[i[part]], self.right[j[part]])
        return self._finish(values, i, j)

    def _finish(self, values: np.ndarray, i: np.ndarray, j: np.ndarray | slice) -> np.ndarray:
        if self.offset is not None:
            values += self.offset[j].astype(values.dtype)
        if self.threshold is not None:
            values[values <= self.threshold[j].astype(values.dtype)] = 0
        if self.floor is not None:
            np.maximum(values, self.floor, out=values)
        if self.link == "expm1":
            np.expm1(values, out=values)
        if self.row_scale is not None:
            values *= self.row_scale[i].astype(values.dtype)
        if self.gene_scale is not None:
            values *= self.gene_scale[j].astype(values.dtype)
        return values

    def column_totals(self, chunk: int | None = None) -> np.ndarray:
        """(G,) sums over all rows, computed in blocks of rows."""
        n, G = len(self.left), len(self.right)
        step = chunk or max(1, 8 * FLOAT64_PIECE // G)
        total = np.zeros(G)
        for start in range(0, n, step):
            total += self.rows(np.arange(start, min(n, start + step)), None).sum(axis=0, dtype=np.float64)
        return total


def gene_shares(data: Data) -> np.ndarray:
    """(G,) share of each gene in all libraries together."""
    return data.gene_totals / data.depth.sum()


def gene_mean_rates(data: Data, share: np.ndarray) -> LowRank:
    """The rates of the gene mean: the library size of the cell times the ``share`` of the gene, from `gene_shares`."""
    dtype = data.X.dtype
    return LowRank(data.depth[:, None].astype(dtype), share[:, None].astype(dtype))


# -- kernels ----------------------------------------------------------------------------------------------------------
@compiled(parallel=True, fastmath=True)
def _add_product(indptr, indices, order, data, X, out):  # type: ignore[no-untyped-def]
    """out += S X for a sparse S. Its stored value number p is data[order[p]], or data[p] if ``order`` is empty."""
    k = X.shape[1]
    for i in prange(indptr.size - 1):
        row = out[i]
        for p in range(indptr[i], indptr[i + 1]):
            value = data[order[p]] if order.size else data[p]
            other = X[indices[p]]
            for a in range(k):
                row[a] += value * other[a]


@compiled(parallel=True, fastmath=True)
def _add_gram(indptr, indices, order, tptr, tindices, torder, data, out):  # type: ignore[no-untyped-def]
    """out += S S' from the rows of S and the rows of S'; only one thread writes to each row of ``out``."""
    for i in prange(indptr.size - 1):
        row = out[i]
        for p in range(indptr[i], indptr[i + 1]):
            value = np.float64(data[order[p]] if order.size else data[p])
            j = indices[p]
            for q in range(tptr[j], tptr[j + 1]):
                row[tindices[q]] += value * (data[torder[q]] if torder.size else data[q])


@compiled(parallel=True, fastmath=True)
def split_residual(indptr, indices, D, T, S, left, right, shrink, advance):  # type: ignore[no-untyped-def]
    """Update the multiplier and the sparse part in one pass over Omega, after a new A = left right'.

    With T = D + Y / mu, the steps Y += mu (D - A) and mu *= rho are T = D + (T - A) / rho (``shrink`` = 1 / rho), and
    the sparse part of the next W is S = T - A. Overwrites T (only if ``advance``) and S; returns the sum of (D - A)^2.
    """
    n = indptr.size - 1
    r = left.shape[1]
    squares = np.zeros(n)
    for i in prange(n):
        u = left[i]
        total = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            v = right[indices[p]]
            a = D[p] - D[p]
            for c in range(r):
                a += u[c] * v[c]
            gap = D[p] - a
            total += np.float64(gap) * np.float64(gap)
            if advance:
                T[p] = D[p] + (T[p] - a) * shrink
            S[p] = T[p] - a
        squares[i] = total
    return squares.sum()


# -- operators --------------------------------------------------------------------------------------------------------
class Operator(Protocol):
    """What the SVD needs from a matrix W."""

    shape: tuple[int, int]
    dtype: np.dtype

    def dot(self, X: np.ndarray) -> np.ndarray:
        """W X."""

    def tdot(self, X: np.ndarray) -> np.ndarray:
        """W' X."""

    def gram(self) -> np.ndarray:
        """W W' or W' W, whichever is smaller, float64."""


class LowRankPlusSparse:
    """W = left right' + S with S on the pattern of Omega; no n x G array is ever made.

    The stored entries of ``pattern``, (n, G), are Omega; their values are not used. Memory in addition to the factors:
    one array of values and three of indices, each of length nnz (the pattern by rows, the pattern by columns, and the
    position by rows of each value by columns).
    """

    def __init__(self, pattern: sp.csr_array, dtype: np.dtype) -> None:
        self.shape = pattern.shape
        self.dtype = np.dtype(dtype)
        self.indptr, self.indices = pattern.indptr, pattern.indices
        positions = sp.csr_array((np.arange(pattern.nnz, dtype=np.int32), self.indices, self.indptr), shape=self.shape)
        columns = positions.tocsc()
        self._tptr, self._tindices, self._torder = columns.indptr, columns.indices, columns.data
        self._order = np.empty(0, np.int32)
        self.values = np.zeros(pattern.nnz, self.dtype)  # stored values of S
        self.left, self.right = (np.zeros((size, 0), self.dtype) for size in self.shape)  # of rank 0 at first

    def dot(self, X: np.ndarray) -> np.ndarray:
        out = self.left @ (self.right.T @ X)
        _add_product(self.indptr, self.indices, self._order, self.values, np.ascontiguousarray(X), out)
        return out

    def tdot(self, X: np.ndarray) -> np.ndarray:
        out = self.right @ (self.left.T @ X)
        _add_product(self._tptr, self._tindices, self._torder, self.values, np.ascontiguousarray(X), out)
        return out

    def gram(self) -> np.ndarray:
        by_rows = (self.indptr, self.indices, self._order)
        by_columns = (self._tptr, self._tindices, self._torder)
        n, G = self.shape
        near, far, inner, cross = self.left, self.right, by_rows, by_columns
        if n > G:
            near, far, inner, cross = far, near, cross, inner
        # W W' = L R'R L' + L (S R)' + (S R) L' + S S'
        mixed = near @ (far.T @ far) * near.dtype.type(0.5)
        _add_product(*inner, self.values, far, mixed)
        out = near.astype(np.float64) @ mixed.T.astype(np.float64)
        out += out.T.copy()
        _add_gram(*inner, *cross, self.values, out)
        return out


class DenseOperator:
    """A dense W, for small or nearly complete matrices; ``array`` is the (n, G) matrix itself, not a copy."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def dot(self, X: np.ndarray) -> np.ndarray:
        return self.array @ X

    def tdot(self, X: np.ndarray) -> np.ndarray:
        return self.array.T @ X

    def gram(self) -> np.ndarray:
        wide = self.array if self.shape[0] <= self.shape[1] else self.array.T
        lower = _gram(wide.T)
        return np.tril(lower) + np.tril(lower, -1).T


# -- the SVD ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Triplets:
    """Leading singular values ``s`` (float64, decreasing); their vectors are computed on request."""

    s: np.ndarray
    _vectors: Callable[[int], tuple[np.ndarray, np.ndarray]]

    def vectors(self, r: int) -> tuple[np.ndarray, np.ndarray]:
        """The first r left (n, r) and right (G, r) singular vectors."""
        return self._vectors(r)


class WarmSVD:
    """Leading singular triplets of a slowly changing matrix; each call starts from the result of the previous call.

    Subspace iteration on the smaller side: ``Q = orth(W' P)``, ``B = W Q``, and the eigenvectors of the small ``B' B``
    (float64) rotate both sides. All vectors of earlier calls are kept for the next start, so that a block that shrinks
    and grows again does not start from noise. If min(n, G) is small, or the block is wider than three quarters of it,
    the eigenvectors of the Gram matrix of W cost less and are exact.

    Methods: ``"block"`` is subspace iteration, ``"gram"`` the exact Gram matrix, and ``"full"`` LAPACK's dense SVD of a
    `DenseOperator`, which is also accurate for the smallest singular values. ``passes`` are subspace passes per call;
    one more is made if more than a tenth of the start is new.
    """

    def __init__(
        self, rng: np.random.Generator, *, method: Literal["auto", "block", "gram", "full"] = "auto", passes: int = 1
    ) -> None:
        self.rng, self.method, self.passes = rng, method, passes
        self._basis: np.ndarray | None = None

    def top(self, W: Operator, k: int) -> Triplets:
        """The ``k`` leading triplets of W."""
        d = min(W.shape)
        k = min(k, d)
        width = min(d, k + 10 + k // 8)
        if self.method == "full":
            return self._full(W, k)
        if self.method == "gram" or (self.method == "auto" and (d <= SMALL_SIDE or 4 * width > 3 * d)):
            return self._gram(W, k)
        return self._block(W, k, width)

    def _full(self, W: Operator, k: int) -> Triplets:
        u, s, vt = np.linalg.svd(W.array, full_matrices=False)  # type: ignore[attr-defined]
        return Triplets(s[:k].astype(np.float64), lambda r: (u[:, :r], vt[:r].T))

    def _gram(self, W: Operator, k: int) -> Triplets:
        roots, vectors = np.linalg.eigh(W.gram())
        s = np.sqrt(np.maximum(roots[::-1], 0))
        vectors = vectors[:, ::-1].astype(W.dtype, copy=False)
        wide = W.shape[0] <= W.shape[1]
        self._basis = None  # starting from these vectors is cheaper than rotating the old start
        if 2 * k < len(s):
            self._basis = np.ascontiguousarray(vectors[:, : k + 10 + k // 8])

        def pick(r: int) -> tuple[np.ndarray, np.ndarray]:
            near = np.ascontiguousarray(vectors[:, :r])
            far = (W.tdot(near) if wide else W.dot(near)) / s[:r].astype(W.dtype)
            return (near, far) if wide else (far, near)

        return Triplets(s[:k], pick)

    def _block(self, W: Operator, k: int, width: int) -> Triplets:
        wide = W.shape[0] <= W.shape[1]
        to_far, to_near = (W.tdot, W.dot) if wide else (W.dot, W.tdot)
        start, new = self._start(min(W.shape), width, W.dtype)
        Q = orthonormal(to_far(start))
        B = to_near(Q)
        for _ in range(self.passes - 1 + (10 * new > width)):
            Q = orthonormal(to_far(orthonormal(B)))
            B = to_near(Q)
        roots, rotation = np.linalg.eigh(_gram(B))
        s = np.sqrt(np.maximum(roots[::-1], 0))
        rotation = rotation[:, ::-1].astype(W.dtype, order="C")
        # no division by 0 for directions that W does not have: they stay noise, which the next call orthogonalises
        near = B @ rotation
        near /= np.maximum(s, s[0] * np.finfo(W.dtype).eps + np.finfo(W.dtype).tiny).astype(W.dtype)
        if self._basis is None or self._basis.shape[1] <= width:
            self._basis = near
        else:
            self._basis[:, :width] = near

        def pick(r: int) -> tuple[np.ndarray, np.ndarray]:
            far = Q @ rotation[:, :r]
            kept = near[:, :r]
            return (kept, far) if wide else (far, kept)

        return Triplets(s[:k], pick)

    def _start(self, d: int, width: int, dtype: np.dtype) -> tuple[np.ndarray, int]:
        known = 0 if self._basis is None else min(width, self._basis.shape[1])
        if known == width:
            assert self._basis is not None  # noqa: S101
            return self._basis[:, :width], 0
        new = self.rng.standard_normal((d, width - known), dtype=np.float32).astype(dtype, copy=False)
        if self._basis is None:
            return new, width
        # remove the part along the known vectors, or the largest singular values of W would dominate the new columns
        new -= self._basis[:, :known] @ (self._basis[:, :known].T @ new)
        return np.hstack([self._basis[:, :known], new]), width - known


def orthonormal(Y: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the columns of Y (overwritten), by Cholesky QR on scaled columns.

    After a warm start the columns are nearly orthogonal: their scaled Gram matrix is close to the identity, and the
    Cholesky factor is accurate. If the Cholesky factorisation fails, Householder QR is used.
    """
    length = np.sqrt(np.einsum("ij,ij->j", Y, Y, dtype=np.float64))
    if not length.all():
        return la.qr(Y, mode="economic", overwrite_a=True, check_finite=False)[0]
    Y /= length.astype(Y.dtype)
    for _ in range(3):
        gram = (Y.T @ Y).astype(np.float64, order="F")  # in the order that LAPACK overwrites
        diagonal = np.einsum("ii->i", gram)  # a view
        diagonal -= 1
        distance = max(gram.max(), -gram.min())
        diagonal += 1
        try:
            factor = la.cholesky(gram, lower=False, check_finite=False, overwrite_a=True).astype(Y.dtype)
        except la.LinAlgError:
            return la.qr(Y, mode="economic", overwrite_a=True, check_finite=False)[0]
        # solve Q R = Y as R' Q' = Y', in place on the transposed view that LAPACK wants
        solved = la.solve_triangular(factor, Y.T, trans="T", check_finite=False, overwrite_b=True, lower=False)
        Y = np.ascontiguousarray(solved.T)
        if distance < 0.1:
            break
    return Y


def _gram(B: np.ndarray) -> np.ndarray:
    """Lower triangle of B' B in float64, summed over pieces of rows so that no float64 copy of B is made."""
    k = B.shape[1]
    out = np.zeros((k, k), order="F")
    step = max(1, FLOAT64_PIECE // max(1, k))
    for start in range(0, len(B), step):
        part = B[start : start + step].astype(np.float64)
        out = la.blas.dsyrk(1.0, part.T, beta=1.0, c=out, lower=True, overwrite_c=True)
    return out


@contextmanager
def few_threads(small: bool) -> Iterator[None]:
    """Use one thread if the problem is ``small``: idle BLAS and OpenMP threads keep spinning and slow down others."""
    if not small:
        yield
        return
    before = get_num_threads()
    set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        set_num_threads(before)
