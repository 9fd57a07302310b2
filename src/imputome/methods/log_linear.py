"""Log-linear Poisson factors (GLM-PCA): the log rate of a cell is its library size plus a product of factors.

Letters: ``n`` cells, ``G`` genes, ``k`` factors, ``B`` cells of a batch; ``U`` (n, k) and ``V`` (G, k) factors,
``b`` (G,) offsets, ``l`` (n,) library sizes; the rate is ``l_i softmax_j(u_i . v_j + b_j)``. Source: Townes et al. 2019
(GLM-PCA), with normal priors on both factors, fitted by gradients of batches of cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange

from imputome.core.compiled import compiled
from imputome.methods.factors import LowRankPlusSparse, WarmSVD

CELL_PENALTY = 1.0  # precision of the normal prior on U, which fixes its scale
BATCH_SIZE = 128
LEARNING_RATE = 0.05
DECAY = (0.9, 0.99)  # of Adam's running means of gradients and of their squares
START = 0.3  # size of the starting factors; 1 would be that of the singular vectors of log counts
MEAN_STEPS, NEWTON_STEPS = 2, 2  # of the projection of cells, see `project_log_linear`
LARGEST_STEP = 1.0  # such a step changes no factor of a cell by more
TINY = np.float32(1e-12)


@dataclass(frozen=True)
class LogLinearFactors:
    """Gene factors: ``factors`` (G, k) and ``offset`` (G,); a gene without molecules has a hundredth of the rarest."""

    factors: np.ndarray
    offset: np.ndarray


def fit_log_linear(
    X: Any,
    rank: int,
    *,
    penalty: float,
    epochs: int,
    random_state: int,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[float, str], None] | None = None,
) -> LogLinearFactors:
    """Minimise ``-log multinomial(X | softmax(U V' + b)) + |U|^2 / 2 + penalty |V|^2 / 2`` over U, V and b.

    X is a CSR array of counts, (n, G). Adam on batches of cells, with a learning rate that falls to 0 along a cosine;
    the start is the leading singular vectors of log1p of counts per 10,000. Cost: an epoch is three products of (n, k)
    with (G, k) and n x G exponentials, in blocks of ``batch_size`` cells. ``progress`` is called after each.
    """
    used = np.flatnonzero(X.sum(axis=0) > 0)
    cells = np.flatnonzero(np.diff(X.indptr))
    counts = X[cells][:, used].astype(np.float32)
    rank = min(rank, min(counts.shape) - 1)
    n = counts.shape[0]
    rng = np.random.default_rng(random_state)
    U, V = _start(counts, max(rank, 0), rng)
    totals = counts.sum(axis=0, dtype=np.float64)
    b = np.log(totals / totals.sum()).astype(np.float32)
    mean_U, square_U = np.zeros_like(U), np.zeros_like(U)
    by_gene = [_Adam(V), _Adam(b)]
    steps, step = epochs * -(-n // batch_size), 0
    for epoch in range(1, epochs + 1):
        order = rng.permutation(n)
        for rows in np.array_split(order, -(-n // batch_size)):
            step += 1
            rate = np.float32(0.5 * LEARNING_RATE * (1 + np.cos(np.pi * step / steps)) + 1e-4)
            share = np.float32(n / len(rows))
            batch = counts[rows]
            residual = _rates(batch, U[rows], V, b)  # (B, G): rates minus counts, the gradient in the logits
            _subtract(batch.indptr, batch.indices, batch.data, residual)
            gradient = residual @ V + CELL_PENALTY * U[rows]
            mean_U[rows], square_U[rows], change = _adam(mean_U[rows], square_U[rows], gradient, epoch)
            by_gene[0].step(V, (residual.T @ U[rows]) * share + np.float32(penalty) * V, rate)
            by_gene[1].step(b, residual.sum(axis=0) * share, rate)
            U[rows] -= 3 * rate * change
        if progress is not None:
            progress(epoch / epochs, f"log-linear factors, pass {epoch} of {epochs}")
    factors = np.zeros((X.shape[1], V.shape[1]), np.float32)
    offset = np.full(X.shape[1], b.min() - np.log(100), np.float32)
    factors[used], offset[used] = V, b
    return LogLinearFactors(factors, offset)


def complete_log_linear(genes: LogLinearFactors, sample: Any, X: Any) -> LogLinearFactors:
    """Gene factors learned from ``sample``, some rows of X, completed by genes whose molecules are all in other rows.

    Such a gene has factors of 0; its offset is that of its share in the molecules of X.
    """
    totals, seen = (np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel() for counts in (X, sample))
    missed = (totals > 0) & (seen == 0)
    level = np.log(np.exp(genes.offset[seen > 0], dtype=np.float64).sum())
    offset = genes.offset.copy()
    offset[missed] = np.log(totals[missed] / totals[seen > 0].sum()) + level
    return LogLinearFactors(genes.factors, offset)


def project_log_linear(X: Any, genes: LogLinearFactors) -> tuple[np.ndarray, np.ndarray]:
    """Factors of cells, (n, k), and the logs of their library size over the sum of the exponentials, (n,).

    Newton steps from 0: `MEAN_STEPS` with the Hessian at the mean profile, which is diagonal for all cells in one
    rotation of the factors, then `NEWTON_STEPS` with that of the cell. The result for a cell depends on that cell only.
    Cells without counts get factors of 0 and a log of -inf. Cost: a step with the Hessian of
    the cells costs as much as k / 4 of the others.
    """
    b = genes.offset
    share = np.exp(b - b.max())
    share /= share.sum()
    centred = genes.factors - share @ genes.factors  # a constant added to the factors of all genes changes no rate
    curvature, rotation = np.linalg.eigh((centred * share[:, None]).T @ centred)
    V = centred @ rotation
    upper = np.triu_indices(V.shape[1])
    products = V[:, upper[0]] * V[:, upper[1]]  # (G, k (k + 1) / 2)
    n, k = X.shape[0], V.shape[1]
    U, offset = np.zeros((n, k), np.float32), np.full(n, -np.inf, np.float32)
    for rows in _blocks(n, len(b)):
        block = X[rows].astype(np.float32)
        library = block.sum(axis=1)
        mean_hessian = library[:, None] * np.maximum(curvature, 0) + np.float32(CELL_PENALTY)  # (B, k)
        u = np.zeros((len(rows), k), np.float32)
        for step in range(MEAN_STEPS + NEWTON_STEPS):
            rate = _rates(block, u, V, b)
            sums = (rate @ products, rate @ V) if step >= MEAN_STEPS else None
            _subtract(block.indptr, block.indices, block.data, rate)
            gradient = rate @ V + np.float32(CELL_PENALTY) * u
            if sums is None:
                change = gradient / mean_hessian
            else:  # the covariance of the factors over the genes of a cell, times its library size
                second, first = sums
                hessian = np.zeros((len(rows), k, k), np.float32)
                hessian[:, upper[0], upper[1]] = hessian[:, upper[1], upper[0]] = second
                hessian -= first[:, :, None] * (first / np.maximum(library, TINY)[:, None])[:, None, :]
                hessian[:, np.arange(k), np.arange(k)] += np.float32(CELL_PENALTY)
                change = np.linalg.solve(hessian, gradient[..., None])[..., 0]
            largest = np.abs(change).max(axis=1, keepdims=True, initial=0.0)
            u -= change * np.minimum(1, LARGEST_STEP / np.maximum(largest, TINY))
        u = u @ rotation.T
        logits = u @ genes.factors.T + b
        top = logits.max(axis=1)
        with np.errstate(divide="ignore"):
            offset[rows] = np.log(library) - top - np.log(np.exp(logits - top[:, None]).sum(axis=1))
        U[rows] = u
    return U, offset


def _start(counts: Any, rank: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Leading singular vectors of centred log1p of counts per 10,000, made small."""
    n, G = counts.shape
    if rank == 0:
        return np.zeros((n, 0), np.float32), np.zeros((G, 0), np.float32)
    library = counts.sum(axis=1, dtype=np.float64)
    logs = counts.copy()
    logs.data = np.log1p(counts.data * np.repeat(1e4 / library, np.diff(counts.indptr))).astype(np.float32)
    centred = LowRankPlusSparse(logs, np.dtype(np.float32))
    centred.values = logs.data
    centred.left = np.full((n, 1), -1, np.float32)
    centred.right = (logs.sum(axis=0, dtype=np.float64) / n).astype(np.float32)[:, None]
    found = WarmSVD(rng, passes=2).top(centred, rank)
    left, right = found.vectors(rank)
    scale = (found.s[:rank] / max(found.s[0], 1e-12)).astype(np.float32)
    return (
        np.ascontiguousarray(left * np.float32(START * np.sqrt(n))),
        np.ascontiguousarray(right * scale * np.float32(START)),
    )


def _rates(counts: Any, u: np.ndarray, V: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(B, G) rates, which sum to the library size of each cell."""
    rate = u @ V.T
    rate += b
    rate -= rate.max(axis=1, keepdims=True)
    np.exp(rate, out=rate)
    rate *= (counts.sum(axis=1) / rate.sum(axis=1))[:, None]
    return rate


@compiled(parallel=True)
def _subtract(indptr, indices, data, out):  # type: ignore[no-untyped-def]
    """Subtract a CSR array from a dense one."""
    for i in prange(out.shape[0]):
        for p in range(indptr[i], indptr[i + 1]):
            out[i, indices[p]] -= data[p]


class _Adam:
    """Adam for one array."""

    def __init__(self, values: np.ndarray) -> None:
        self.mean, self.square, self.steps = np.zeros_like(values), np.zeros_like(values), 0

    def step(self, values: np.ndarray, gradient: np.ndarray, rate: np.float32) -> None:
        self.steps += 1
        self.mean, self.square, change = _adam(self.mean, self.square, gradient, self.steps)
        values -= rate * change


def _adam(mean: np.ndarray, square: np.ndarray, gradient: np.ndarray, steps: int) -> tuple[np.ndarray, ...]:
    """New running means, and the change for a learning rate of 1."""
    first, second = (np.float32(d) for d in DECAY)
    mean = mean * first + (1 - first) * gradient
    # a factor of an uninformative gene falls to 0, and its squared gradient would become a slow subnormal number
    square = np.maximum(square * second + (1 - second) * gradient * gradient, np.float32(1e-24))
    bias, bias_square = np.float32(1 - DECAY[0] ** steps), np.float32(1 - DECAY[1] ** steps)
    return mean, square, (mean / bias) / (np.sqrt(square / bias_square) + np.float32(1e-8))


def _blocks(n: int, G: int) -> Iterator[np.ndarray]:
    step = max(1, 2**18 // max(1, G))
    for start in range(0, n, step):
        yield np.arange(start, min(n, start + step))
