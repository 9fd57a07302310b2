"""Poisson non-negative matrix factorisation that reads only the nonzero counts.

Letters: ``n`` cells, ``G`` genes, ``k`` factors, ``W`` (n, k) and ``H`` (G, k) with rate ``W H'``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange

from imputome.core.compiled import compiled
from imputome.errors import InputError

CHECK_EVERY = 10  # iterations between two evaluations of the objective
MIN_SUM = np.float32(1e-12)  # avoids divisions by 0


@dataclass(frozen=True)
class Factorization:
    """Result of `poisson_nmf`."""

    left: np.ndarray  # (n, k) float32, factors of the cells, zeros for cells without counts
    right: np.ndarray  # (G, k) float32, factors of the genes, zeros for genes without counts
    iterations: int  # updates of both factors
    objective: float  # final value of sum(W H') - sum_x x log(W H')
    converged: bool  # whether tol was reached


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

    Zero counts enter only through the column sums of the factors, so an iteration costs about 4 nnz k multiplications
    and no n x G array is made. The start is NNDSVDa (Boutsidis & Gallopoulos 2008): for each pair of singular vectors
    of X the larger of their positive and negative parts, with zeros replaced by the mean of X.

    X is a CSR array of counts of any number type, (n, G); ``random_state`` is the seed of its randomised SVD. The
    iteration stops when the objective decreased, on average over the last `CHECK_EVERY` iterations, by less than
    ``tol`` times the total decrease since the start. ``progress`` is called every `CHECK_EVERY` iterations.
    """
    if not 1 <= rank <= min(X.shape):
        text = f"the rank {rank} must be from 1 to {min(X.shape)}, the smaller of the numbers of cells and genes"
        raise InputError(text, code="parameter-value", parameter="rank")
    W, H = _start(X, rank, random_state)
    rows = (X.indptr, X.indices, X.data.astype(np.float32, copy=False))
    by_gene = X.tocsc()
    columns = (by_gene.indptr, by_gene.indices, by_gene.data.astype(np.float32, copy=False))
    objectives: list[float] = []
    for iteration in range(max_iter):
        if iteration % CHECK_EVERY == 0:
            objectives.append(_objective(rows, W, H))
            if len(objectives) > 1:
                decrease = max(objectives[0] - objectives[-1], 1e-12)
                if objectives[-2] - objectives[-1] < tol * CHECK_EVERY * decrease:
                    return Factorization(W, H, iteration, objectives[-1], True)
            if progress is not None:
                progress(iteration / max_iter, f"update {iteration} of at most {max_iter}")
        _update(*rows, W, H, _sums(H))
        _update(*columns, H, W, _sums(W))
    return Factorization(W, H, max_iter, _objective(rows, W, H), False)


def project(X: Any, right: np.ndarray, *, max_iter: int = 50) -> np.ndarray:
    """The left factor, (n, k) float32, of new rows for a fixed right factor, (G, k), by the same updates.

    The result for a row depends on that row only: its molecules start in equal shares on all factors.
    """
    H = np.ascontiguousarray(right, dtype=np.float32)
    data = X.data.astype(np.float32, copy=False)
    return np.asarray(_projected(X.indptr, X.indices, data, H, _sums(H), max_iter))


def complete_factors(right: np.ndarray, X: Any) -> np.ndarray:
    """Gene factors, (G, k), learned from some rows of X, completed by genes whose molecules are all in other rows.

    Such a gene gets its share in the molecules of X as its share in every row.
    """
    totals = np.asarray(X.sum(axis=0, dtype=np.float64)).ravel()
    missed = (totals > 0) & ~right.any(axis=1)
    out = right.copy()
    out[missed] = np.outer(totals[missed] / totals[~missed].sum(), right.sum(axis=0, dtype=np.float64))
    return out


def _sums(factor: np.ndarray) -> np.ndarray:
    """(k,) column sums, the divisors of the updates; summed in float64, because there may be millions of rows."""
    return np.maximum(factor.sum(axis=0, dtype=np.float64), MIN_SUM).astype(np.float32)


def _objective(rows: tuple[np.ndarray, np.ndarray, np.ndarray], W: np.ndarray, H: np.ndarray) -> float:
    """The sum of W H' over all entries minus the sum of x log(W H') over the nonzeros."""
    return float(W.sum(axis=0, dtype=np.float64) @ H.sum(axis=0, dtype=np.float64)) - float(_log_fit(*rows, W, H))


def _start(X: Any, rank: int, random_state: int) -> tuple[np.ndarray, np.ndarray]:
    """NNDSVDa: for each pair of singular vectors the larger of their positive and negative parts, zeros at the mean."""
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
        W[:, k] = a * scale * np.sqrt(np.linalg.norm(b) / max(np.linalg.norm(a), MIN_SUM))
        H[:, k] = b * scale * np.sqrt(np.linalg.norm(a) / max(np.linalg.norm(b), MIN_SUM))
    mean = np.float32(X.sum() / (X.shape[0] * X.shape[1]))
    W[W <= 0] = mean
    H[H <= 0] = mean
    return W, H


@compiled(parallel=True, fastmath=True)
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


@compiled(parallel=True, fastmath=True)
def _update(indptr, indices, data, left, right, sums):  # type: ignore[no-untyped-def]
    """Multiply ``left`` by (sum over the nonzeros of the row of x / rate * right) / (column sums of right)."""
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


@compiled(parallel=True, fastmath=True)
def _projected(indptr, indices, data, H, sums, max_iter):  # type: ignore[no-untyped-def]
    """Row by row; the rows of H at the nonzeros of a row are copied once, so that all updates stay in the CPU cache."""
    n, k = len(indptr) - 1, H.shape[1]
    W = np.zeros((n, k), np.float32)
    for i in prange(n):
        begin, end = indptr[i], indptr[i + 1]
        nonzero_H = np.empty((end - begin, k), np.float32)
        total = np.float32(0)
        for p in range(begin, end):
            total += data[p]
            for c in range(k):
                nonzero_H[p - begin, c] = H[indices[p], c]
        w = total / (sums * np.float32(k))
        new = np.empty(k, np.float32)
        for _ in range(max_iter):
            for c in range(k):
                new[c] = 0
            for p in range(end - begin):
                rate = np.float32(1e-12)
                for c in range(k):
                    rate += w[c] * nonzero_H[p, c]
                ratio = data[begin + p] / rate
                for c in range(k):
                    new[c] += ratio * nonzero_H[p, c]
            for c in range(k):
                w[c] *= new[c] / sums[c]
        for c in range(k):
            W[i, c] = w[c]
    return W
