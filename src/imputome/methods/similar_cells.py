"""Principal components of sparse matrices, nearest cells, and sums of cells, without a dense n x G matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numba import njit, prange

from imputome.methods.factors import WarmSVD, few_threads

PASSES = 7  # subspace passes of the SVD: as many as scikit-learn's randomised SVD takes at most by itself
SMALL = 2**20  # with fewer values, one thread is faster


@dataclass(frozen=True)
class Components:
    """The leading principal components of (n, G) values, centred by gene."""

    mean: np.ndarray  # (G,) float32
    loadings: np.ndarray  # (G, k) float32, orthonormal

    @classmethod
    def of(cls, Y: sp.csr_array, number: int, random_state: int) -> Components:
        """Compute up to ``number`` components of sparse values."""
        mean = np.asarray(Y.sum(axis=0, dtype=np.float64)).ravel() / Y.shape[0]
        centred = _Centred(Y, mean.astype(np.float32))
        solver = WarmSVD(np.random.default_rng(random_state), passes=PASSES)
        with few_threads(Y.nnz < SMALL):
            found = solver.top(centred, min(number, min(Y.shape) - 1 or 1))
            kept = int((found.s > 1e-6 * max(found.s[0], 1e-30)).sum()) or 1
            loadings = found.vectors(kept)[1]
        loadings = np.nan_to_num(loadings, nan=0.0, posinf=0.0, neginf=0.0)
        return cls(mean.astype(np.float32), np.ascontiguousarray(loadings))

    def scores(self, Y: sp.csr_array) -> np.ndarray:
        """(m, k) coordinates of cells."""
        return np.asarray(Y @ self.loadings - self.mean @ self.loadings)


class _Centred:
    """An `imputome.methods.factors.Operator`: sparse values less the mean of each column."""

    def __init__(self, Y: sp.csr_array, mean: np.ndarray) -> None:
        self.Y, self.mean, self.shape, self.dtype = Y, mean, Y.shape, Y.dtype

    def dot(self, X: np.ndarray) -> np.ndarray:
        return self.Y @ X - self.mean @ X

    def tdot(self, X: np.ndarray) -> np.ndarray:
        # a third slower than with a copy of Y by gene, which would double the memory
        return self.Y.T @ X - np.outer(self.mean, X.sum(axis=0))

    def gram(self) -> np.ndarray:
        n, G = self.shape
        mean = self.mean.astype(np.float64)
        wide = self.Y.astype(np.float64)
        if n > G:
            return (wide.T @ wide).toarray() - n * np.outer(mean, mean)
        cross = wide @ mean
        return (wide @ wide.T).toarray() - cross[:, None] - cross[None, :] + mean @ mean


def nearest(
    points: np.ndarray, reference: np.ndarray, number: int, *, skip_self: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(m, k) distances to and positions of the nearest rows of ``reference``, the nearest first.

    With ``skip_self``, ``points`` are the reference itself, and no row is its own neighbour.
    """
    from sklearn.neighbors import NearestNeighbors

    number = min(number, len(reference) - skip_self)
    if number < 1:
        return np.empty((len(points), 0)), np.empty((len(points), 0), np.intp)
    search = NearestNeighbors(n_neighbors=number, algorithm="brute" if reference.shape[1] > 15 else "auto")
    # in float64: brute force takes the difference of squares, which in float32 has no digits for near cells
    return search.fit(reference.astype(np.float64)).kneighbors(None if skip_self else points.astype(np.float64))


def summed(weights: sp.csr_array, X: sp.csr_array) -> np.ndarray:
    """The dense product of two sparse matrices, (m, n) and (n, G), float32."""
    out = np.zeros((weights.shape[0], X.shape[1]), np.float32)
    with few_threads(weights.nnz * max(1, X.nnz // max(1, X.shape[0])) < SMALL):
        _add_rows(weights.indptr, weights.indices, weights.data, X.indptr, X.indices, X.data, out)
    return out


@njit(parallel=True, cache=True, fastmath=True)
def _add_rows(w_indptr, w_indices, w_data, indptr, indices, data, out):  # type: ignore[no-untyped-def]
    """out[i] += sum over the stored weights of the row of w times the row of the sparse matrix."""
    for i in prange(out.shape[0]):
        row = out[i]
        for p in range(w_indptr[i], w_indptr[i + 1]):
            w = w_data[p]
            other = w_indices[p]
            for q in range(indptr[other], indptr[other + 1]):
                row[indices[q]] += w * data[q]
