"""Poisson non-negative matrix factorisation on the nonzero counts alone.

Letters: ``n`` cells, ``G`` genes, ``k`` factors, ``W`` (n, k) and ``H`` (G, k) with rate ``W H'``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, prange

from imputome.errors import InputError

CHECK = 10  # iterations between looks at the objective
TINY = np.float32(1e-12)


@dataclass(frozen=True)
class Factorization:
    """What `poisson_nmf` found.

    Attributes
    ----------
    left, right : (n, k) and (G, k), float32; cells and genes without counts have zeros.
    iterations : updates of both factors that were made.
    objective : ``sum(W H') - sum_x x log(W H')``, where it ended.
    converged : whether ``tol`` was reached.
    """

    left: np.ndarray
    right: np.ndarray
    iterations: int
    objective: float
    converged: bool


def poisson_nmf(
    X: Any,
    rank: int,
    *,
    max_iter: int,
    tol: float,
    random_state: int,
    progress: Callable[[float, str], None] | None = None,
) -> Factorization:
    """Minimise ``sum(W H') - sum_x x log(W H')`` over non-negative factors (Lee & Seung 1999, multiplicative updates).

    A zero count enters only through the column sums of the factors, so that an iteration costs about 4 nnz k
    multiplications and no n x G array is made. It begins at the positive or negative parts of the singular vectors of
    X, whichever are larger, with zeros at the mean of X (NNDSVDa, Boutsidis & Gallopoulos 2008).

    Parameters
    ----------
    X : (n, G) ``csr_array`` of counts, of any number type; the factors are float32.
    rank : k, at most min(n, G).
    max_iter : most updates of both factors.
    tol : stop when an iteration, in the mean of the last `CHECK`, lowered the objective by less than ``tol`` times all
        that was gained since the start.
    random_state : seed of the randomised SVD.
    progress : told the share done and where it stands, every `CHECK` iterations.

    Raises
    ------
    InputError
        The rank is below 1 or above min(n, G).
    """
    if not 1 <= rank <= min(X.shape):
        raise InputError(f"the rank {rank} must lie between 1 and {min(X.shape)}, the smaller side of the counts")
    W, H = _start(X, rank, random_state)
    rows = (X.indptr, X.indices, X.data.astype(np.float32, copy=False))
    by_gene = X.tocsc()
    columns = (by_gene.indptr, by_gene.indices, by_gene.data.astype(np.float32, copy=False))
    objectives: list[float] = []
    for iteration in range(max_iter):
        if iteration % CHECK == 0:
            objectives.append(_objective(rows, W, H))
            if len(objectives) > 1 and _settled(objectives, tol):
                return Factorization(W, H, iteration, objectives[-1], True)
            if progress is not None:
                progress(iteration / max_iter, f"update {iteration} of {max_iter} at most")
        _update(*rows, W, H, _sums(H))
        _update(*columns, H, W, _sums(W))
    return Factorization(W, H, max_iter, _objective(rows, W, H), False)


def project(X: Any, right: np.ndarray, *, max_iter: int = 50) -> np.ndarray:
    """(n, k) float32: the left factor of rows for a given right one, by ``max_iter`` of the same updates.

    A row's result depends on that row alone: each starts with its molecules in equal shares on all factors.

    Parameters
    ----------
    X : (n, G) ``csr_array`` of counts.
    right : (G, k).
    """
    H = np.ascontiguousarray(right, dtype=np.float32)
    data = X.data.astype(np.float32, copy=False)
    left: np.ndarray = _projected(X.indptr, X.indices, data, H, _sums(H), max_iter)
    return left


def _sums(factor: np.ndarray) -> np.ndarray:
    """(k,) column sums, which divide the updates; added up in float64, as there may be millions of rows."""
    return np.maximum(factor.sum(axis=0, dtype=np.float64), TINY).astype(np.float32)


def _objective(rows: tuple[np.ndarray, np.ndarray, np.ndarray], W: np.ndarray, H: np.ndarray) -> float:
    """The sum of W H' over all entries - the sum of x log(W H') over the nonzeros."""
    return float(W.sum(axis=0, dtype=np.float64) @ H.sum(axis=0, dtype=np.float64)) - float(_log_fit(*rows, W, H))


def _settled(objectives: list[float], tol: float) -> bool:
    gained = max(objectives[0] - objectives[-1], 1e-12)
    return objectives[-2] - objectives[-1] < tol * CHECK * gained


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
def _log_fit(indptr, indices, data, W, H):  # type: ignore[no-untyped-def]
    fit = 0.0
    for i in prange(len(indptr) - 1):
        row = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            rate = np.float32(1e-12)
            for c in range(W.shape[1]):
                rate += W[i, c] * H[indices[p], c]
            row += data[p] * np.log(rate)
        fit += row
    return fit


@njit(parallel=True, cache=True, fastmath=True)
def _update(indptr, indices, data, left, right, sums):  # type: ignore[no-untyped-def]
    """Multiply ``left`` by the sum over a row's nonzeros of x / rate times the factor there, over the column sums."""
    k = left.shape[1]
    for i in prange(len(indptr) - 1):
        new = np.zeros(k, np.float32)
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            rate = np.float32(1e-12)
            for c in range(k):
                rate += left[i, c] * right[j, c]
            ratio = data[p] / rate
            for c in range(k):
                new[c] += ratio * right[j, c]
        for c in range(k):
            left[i, c] *= new[c] / sums[c]


@njit(parallel=True, cache=True, fastmath=True)
def _projected(indptr, indices, data, H, sums, max_iter):  # type: ignore[no-untyped-def]
    """Row by row, with the rows of H that a row meets gathered once: all updates then stay in the cache."""
    n, k = len(indptr) - 1, H.shape[1]
    W = np.zeros((n, k), np.float32)
    for i in prange(n):
        begin, end = indptr[i], indptr[i + 1]
        met = np.empty((end - begin, k), np.float32)
        total = np.float32(0)
        for p in range(begin, end):
            total += data[p]
            for c in range(k):
                met[p - begin, c] = H[indices[p], c]
        w = total / (sums * np.float32(k))
        new = np.empty(k, np.float32)
        for _ in range(max_iter):
            for c in range(k):
                new[c] = 0
            for p in range(end - begin):
                rate = np.float32(1e-12)
                for c in range(k):
                    rate += w[c] * met[p, c]
                ratio = data[begin + p] / rate
                for c in range(k):
                    new[c] += ratio * met[p, c]
            for c in range(k):
                w[c] *= new[c] / sums[c]
        for c in range(k):
            W[i, c] = w[c]
    return W
