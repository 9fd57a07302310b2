"""Poisson non-negative matrix factorisation on the nonzero counts alone.

Letters: ``n`` cells, ``G`` genes, ``k`` factors, ``W`` (n, k) and ``H`` (G, k) with rate ``W H'``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, prange

CHECK = 10  # iterations between looks at the objective
TINY = np.float32(1e-12)


@dataclass(frozen=True)
class Factorization:
    """What `poisson_nmf` found: ``left`` (n, k), ``right`` (G, k), and how it ended."""

    left: np.ndarray
    right: np.ndarray
    iterations: int
    objective: float
    converged: bool


def poisson_nmf(X: Any, rank: int, *, max_iter: int, tol: float, random_state: int) -> Factorization:
    """Minimise ``sum(W H') - sum_x x log(W H')`` over non-negative factors (Lee & Seung 1999, multiplicative updates).

    A zero count enters only through the column sums of the factors, so that an iteration costs 6 nnz k multiplications
    and no n x G array. It begins at the absolute singular vectors of X (NNDSVDa, Boutsidis & Gallopoulos 2008), and
    stops when, over `CHECK` iterations, the objective has fallen by less than ``tol`` of its whole fall per iteration.

    Parameters
    ----------
    X : (n, G) ``csr_array`` of counts, float32 or float64.
    rank : k, at most min(n, G).
    """
    W, H = _start(X, rank, random_state)
    by_gene = type(X)((np.arange(X.nnz, dtype=np.int64), X.indices, X.indptr), shape=X.shape).tocsc()
    ratio = np.empty(X.nnz, np.float32)
    data = X.data.astype(np.float32, copy=False)
    first = previous = float("inf")
    iteration = 0
    for iteration in range(1, max_iter + 1):
        fit = _ratios(X.indptr, X.indices, data, W, H, ratio)
        if iteration % CHECK == 1:
            objective = float(W.sum(axis=0, dtype=np.float64) @ H.sum(axis=0, dtype=np.float64) - fit)
            if first == float("inf"):
                first = objective
            elif previous - objective < tol * CHECK * max(abs(first - objective), 1e-12):
                return Factorization(W, H, iteration - 1, objective, True)
            previous = objective
        W *= _folded(X.indptr, X.indices, ratio, H) / np.maximum(H.sum(axis=0), TINY)
        _ratios(X.indptr, X.indices, data, W, H, ratio)
        H *= _folded(by_gene.indptr, by_gene.indices, ratio[by_gene.data], W) / np.maximum(W.sum(axis=0), TINY)
    fit = _ratios(X.indptr, X.indices, data, W, H, ratio)
    objective = float(W.sum(axis=0, dtype=np.float64) @ H.sum(axis=0, dtype=np.float64) - fit)
    return Factorization(W, H, iteration, objective, False)


def project(X: Any, right: np.ndarray, *, max_iter: int = 50) -> np.ndarray:
    """(n, k) float32: the left factor of new rows for a given right one, by the same updates.

    A row's result depends on that row alone: each starts at equal shares of its molecules.
    """
    H = np.ascontiguousarray(right, dtype=np.float32)
    sums = np.maximum(H.sum(axis=0), TINY)
    totals = np.asarray(X.sum(axis=1)).ravel().astype(np.float32)
    W = totals[:, None] / (sums * len(sums))
    ratio = np.empty(X.nnz, np.float32)
    data = X.data.astype(np.float32, copy=False)
    for _ in range(max_iter):
        _ratios(X.indptr, X.indices, data, W, H, ratio)
        W *= _folded(X.indptr, X.indices, ratio, H) / sums
    return W


def _start(X: Any, rank: int, random_state: int) -> tuple[np.ndarray, np.ndarray]:
    """NNDSVDa: of each pair of singular vectors the larger of the positive and negative parts, zeros at the mean."""
    from sklearn.utils.extmath import randomized_svd

    U, s, Vt = randomized_svd(X, rank, random_state=random_state)
    W, H = np.empty((X.shape[0], rank), np.float32), np.empty((X.shape[1], rank), np.float32)
    for k in range(rank):
        u, v = U[:, k], Vt[k]
        parts = [(np.maximum(sign * u, 0), np.maximum(sign * v, 0)) for sign in (1, -1)]
        sizes = [float(np.linalg.norm(a) * np.linalg.norm(b)) for a, b in parts]
        a, b = parts[int(sizes[1] > sizes[0])]
        size = max(sizes)
        scale = np.sqrt(s[k] / size) if size > 0 else 0.0
        W[:, k] = a * scale * np.sqrt(np.linalg.norm(b) / max(np.linalg.norm(a), TINY))
        H[:, k] = b * scale * np.sqrt(np.linalg.norm(a) / max(np.linalg.norm(b), TINY))
    mean = np.float32(X.sum() / (X.shape[0] * X.shape[1]))
    W[W <= 0] = mean
    H[H <= 0] = mean
    return W, H


@njit(parallel=True, cache=True, fastmath=True)
def _ratios(indptr, indices, data, W, H, out):  # type: ignore[no-untyped-def]
    """``out`` = x / (W H') at the nonzeros; returns the sum of x log(W H')."""
    k = W.shape[1]
    fit = 0.0
    for i in prange(len(indptr) - 1):
        row = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            rate = np.float32(1e-12)
            for c in range(k):
                rate += W[i, c] * H[j, c]
            out[p] = data[p] / rate
            row += data[p] * np.log(rate)
        fit += row
    return fit


@njit(parallel=True, cache=True, fastmath=True)
def _folded(indptr, indices, ratio, factor):  # type: ignore[no-untyped-def]
    """(rows, k): for each row the sum over its nonzeros of ratio x the factor there."""
    k = factor.shape[1]
    out = np.zeros((len(indptr) - 1, k), np.float32)
    for i in prange(len(indptr) - 1):
        for p in range(indptr[i], indptr[i + 1]):
            r = ratio[p]
            j = indices[p]
            for c in range(k):
                out[i, c] += r * factor[j, c]
    return out
