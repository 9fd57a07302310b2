"""The ``knn`` method: weighted means over the nearest rows that have the value; distances come from matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numba import njit, prange

from imputome.core.data import Data
from imputome.core.imputation import Model, Output
from imputome.core.imputer import Imputer
from imputome.core.scales import Standard, varying
from imputome.methods.factors import few_threads
from imputome.methods.knn import KNN_INFO

EXACT_NEIGHBORS = 64  # distances to this many nearest rows are computed again in float64
EXACT_BELOW = 0.01  # so are mean squared differences below this: float32 products lose their digits
BLOCK_VALUES = 2**23  # values in a block of rows, or of distances (32 MiB in float32)


class KNN(Imputer):
    """Mean over the k nearest rows that have the value, with weights 1 / d^2 (Troyanskaya et al. 2001).

    d^2 is the mean squared difference of two rows over the features that both have, in z-scores of the training rows.
    Rows without a common feature are never neighbours, and a training row is not its own neighbour. If rows at d = 0
    have the value, the result is their mean. A row without neighbours gets the mean of the feature. A feature that no
    training row has gets the mean of all known values.

    Parameters
    ----------
    k : int, default=10
        Number of neighbours; fewer are used if fewer rows have the value.

    Attributes
    ----------
    training_ : ndarray of shape (n, G), float32
        z-scores of the training rows, NaN for missing.

    Notes
    -----
    Cost for m rows: ``8 m n G`` flops (four float32 products, for sums of squares and counts over the common features)
    and a sort of n distances each. Nothing is computed before values are requested, and nothing is kept. Memory:
    ``4 n G`` bytes for the training rows, ``4 m G`` for the requested rows, and about 0.3 GB for blocks; never
    n x n x G, nor n x n. Distances to the nearest 64 or 4 k rows, and all very small distances, are computed again in
    float64, because the small difference of large float32 sums has no correct digits.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> X = np.array([[1.0, 10.0], [2.0, 20.0], [9.0, 90.0], [2.0, np.nan]])
    >>> methods.get("knn")(k=2).fit_transform(X).to_array()[3].round(3)  # doctest: +SKIP
    array([ 2., 20.])
    """

    info = KNN_INFO
    learned = ("training",)
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"k": (3, 50, "log")}

    def __init__(self, *, k: int = 10) -> None:
        self.k = k

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self._require("k", self.k >= 1, "at least 1")
        X = data.known_values()
        self.standard_ = Standard.of(X)
        self.training_ = self.standard_.forward(X)
        return NeighborMean(self.training_, self, X.dtype, exclude_self=True), {}

    def _new_rows(self, data: Data) -> Model:
        X = data.known_values()
        Z = self.standard_.forward(X)
        # a feature that is constant in training has no unit, so its values must not change the distances
        constant = ~varying(self.training_)
        Z[:, constant] = np.where(np.isnan(Z[:, constant]), np.nan, 0.0)
        return NeighborMean(Z, self, X.dtype)

    def _state(self) -> dict[str, np.ndarray]:
        return {**super()._state(), "center": self.standard_.center, "scale": self.standard_.scale}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.standard_ = Standard(arrays["center"], arrays["scale"])


class NeighborMean:
    """A `Model` whose values are weighted means over training rows; observed values are predicted like missing ones.

    ``rows`` are (m, G) float32 z-scores with NaN for missing. With ``exclude_self`` they are the training rows
    themselves, and no row may be its own neighbour.
    """

    outputs: frozenset[Output] = frozenset({"value"})

    def __init__(self, rows: np.ndarray, method: KNN, dtype: np.dtype, *, exclude_self: bool = False) -> None:
        self._rows, self._dtype, self._exclude_self = rows, dtype, exclude_self
        self._training, self._standard, self._k = method.training_, method.standard_, method.k

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        columns = np.arange(self._rows.shape[1]) if genes is None else np.asarray(genes, dtype=np.intp)
        values = np.empty((len(rows), len(columns)), self._dtype)
        if not values.size:
            return values
        for part in self._batches(len(rows)):
            number = len(values[part])
            starts = np.arange(number + 1) * len(columns)
            z_scores = self._means(rows[part], starts, np.tile(columns, number))
            values[part] = z_scores.reshape(number, -1) * self._standard.scale[columns] + self._standard.center[columns]
        return values

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        values = np.empty(len(i), self._dtype)
        order = np.argsort(i, kind="stable")
        rows, starts = np.unique(i[order], return_index=True)
        starts = np.append(starts, len(i))
        for part in self._batches(len(rows)):
            first, last = starts[part.start], starts[min(part.stop, len(rows))]
            entries = order[first:last]
            columns = j[entries]
            z_scores = self._means(rows[part], starts[part.start : part.stop + 1] - first, columns)
            values[entries] = z_scores * self._standard.scale[columns] + self._standard.center[columns]
        return values

    def _batches(self, number: int) -> Iterator[slice]:
        step = max(1, BLOCK_VALUES // max(self._training.shape))
        return (slice(start, start + step) for start in range(0, number, step))

    def _means(self, rows: np.ndarray, starts: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """z-scores of the entries (rows[q], columns[p]) for p in starts[q] .. starts[q + 1], flat."""
        Z = self._rows[rows]
        with few_threads(Z.size * len(self._training) < 2**24):
            squares = mean_squares(Z, self._training)
            if self._exclude_self:
                squares[np.arange(len(rows)), rows] = np.inf
            order = np.argsort(squares, axis=1, kind="stable")
            squares = np.take_along_axis(squares, order, axis=1).astype(np.float64)
            _measure_nearest(Z, self._training, order, squares, max(EXACT_NEIGHBORS, 4 * self._k), EXACT_BELOW)
            return _weighted_means(self._training, order, squares, starts, columns, self._k)


def mean_squares(Z: np.ndarray, training: np.ndarray) -> np.ndarray:
    """(m, n) mean squared differences over the features that both rows have, float32; inf if there is no such feature.

    With M the mask of known values and 0 for missing in Z: sum d^2 = (Z * Z) M' + M (Z * Z)' - 2 Z Z', counts = M M'.
    Both matrices, (m, G) and (n, G), are float32 z-scores with NaN. They must be centred by feature: the difference of
    large sums would not be accurate.
    """
    values, known = _parts(Z)  # (m, G) each
    squared = values * values
    out = np.empty((len(Z), len(training)), np.float32)
    step = max(1, BLOCK_VALUES // Z.shape[1])
    for start in range(0, len(training), step):
        block = slice(start, start + step)
        other, other_known = _parts(training[block])  # (step, G) each
        count = known @ other_known.T
        total = squared @ other_known.T
        total -= 2 * (values @ other.T)
        np.multiply(other, other, out=other)
        total += known @ other.T
        np.maximum(total, 0, out=total)
        np.divide(total, count, out=total, where=count > 0)
        total[count == 0] = np.inf
        out[:, block] = total
    return out


def _parts(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values with 0 for missing, and 1 where known, both float32."""
    missing = np.isnan(Z)
    return np.where(missing, np.float32(0), Z), (~missing).astype(np.float32)


@njit(parallel=True, cache=True)
def _measure_nearest(Z, training, order, squares, min_count, exact_below):  # type: ignore[no-untyped-def]
    """Compute the mean squares of the nearest rows again in float64 and sort these rows again (ties: by position)."""
    G = Z.shape[1]
    for q in prange(Z.shape[0]):
        size = 0
        while (
            size < order.shape[1] and squares[q, size] < np.inf and (size < min_count or squares[q, size] < exact_below)
        ):
            size += 1
        candidates = np.sort(order[q, :size])
        exact = np.empty(size)
        for t in range(size):
            other = training[candidates[t]]
            total, count = 0.0, 0
            for g in range(G):
                gap = np.float64(Z[q, g]) - np.float64(other[g])
                if not np.isnan(gap):
                    total += gap * gap
                    count += 1
            exact[t] = total / count
        sorting = np.argsort(exact, kind="mergesort")
        for t in range(size):
            order[q, t] = candidates[sorting[t]]
            squares[q, t] = exact[sorting[t]]


@njit(parallel=True, cache=True)
def _weighted_means(training, order, squares, starts, columns, k):  # type: ignore[no-untyped-def]
    """For each entry, the mean over the first k rows of ``order`` that have its feature; 0 if no row has it."""
    out = np.zeros(columns.size)
    for q in prange(starts.size - 1):
        first = starts[q]
        size = starts[q + 1] - first
        open_entries = np.arange(size)  # entries with fewer than k values so far
        count = np.zeros(size, np.int64)
        same = np.zeros(size, np.int64)
        weight = np.zeros(size)
        total = np.zeros(size)
        for t in range(order.shape[1]):
            if size == 0 or squares[q, t] == np.inf:
                break
            row = training[order[q, t]]
            square = squares[q, t]
            left = 0
            for a in range(size):
                p = open_entries[a]
                value = np.float64(row[columns[first + p]])
                if not np.isnan(value):
                    if square == 0:
                        same[p] += 1
                        weight[p] += 1
                        total[p] += value
                    elif same[p] == 0:
                        weight[p] += 1 / square
                        total[p] += value / square
                    count[p] += 1
                if count[p] < k:
                    open_entries[left] = p
                    left += 1
            size = left
        for p in range(starts[q + 1] - first):
            if weight[p] > 0:
                out[first + p] = total[p] / weight[p]
    return out
