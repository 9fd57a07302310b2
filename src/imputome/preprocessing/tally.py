"""Reading a matrix once, in pieces and by its stored values, and counting what `inspect` judges by.

Letters: ``n`` cells (rows), ``G`` genes (columns).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

PIECE = 2**21  # entries read at once: 16 MiB if they were all stored
TOLERANCE = 1e-6  # how far from an integer an integer may be
LOG_MAX = 20.0  # log2 of a million is 20: no log-transformed expression lies above it
LOG_BASES = {"e": 1.0, "2": np.log(2.0), "10": np.log(10.0)}


def pieces(matrix: Any) -> Iterator[tuple[Any, int, int]]:
    """Blocks of the matrix as sparse arrays that store at least all nonzero entries, with their first row and column.

    Blocks run along the axis in which the matrix is stored, which for a backed one decides whether it can be read.
    """
    import scipy.sparse as sp

    n, G = matrix.shape
    by_columns = getattr(matrix, "format", "csr") == "csc"
    length, width = (G, n) if by_columns else (n, G)
    step = max(PIECE // max(width, 1), 1)
    for start in range(0, length if width else 0, step):
        part = slice(start, start + step)
        if hasattr(matrix, "iloc"):
            block = matrix.iloc[part].to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            block = matrix[:, part] if by_columns else matrix[part]
        if hasattr(block, "compute"):
            block = block.compute()
        if not sp.issparse(block):
            block = sp.csr_array(np.asarray(block, dtype=np.float64))
        else:
            block.sum_duplicates()  # in place: a slice of a sparse matrix is a copy
        yield block, 0 if by_columns else start, start if by_columns else 0


class Tally:
    """Everything that is counted and summed over the matrix in one pass."""

    def __init__(self, n: int, G: int) -> None:
        self.n, self.G = n, G
        self.n_nonzero = self.n_nan = self.n_negative = self.n_infinite = self.n_noninteger = 0
        self.n_outside = 0  # finite, and not in 0 to 1
        self.minimum, self.maximum = np.inf, -np.inf
        self.totals = np.zeros(n)
        self.log_totals = {base: np.zeros(n) for base in LOG_BASES}  # of the values before log(1 + x)
        self.sums, self.squares = np.zeros(G), np.zeros(G)
        self.nonzero = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)
        self.nan = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)

    def add(self, piece: Any, row: int, column: int) -> None:
        n, G = piece.shape
        coo = piece.tocoo()
        rows, columns = slice(row, row + n), slice(column, column + G)
        values = coo.data.astype(np.float64)
        nan, infinite = np.isnan(values), np.isinf(values)
        known = (values != 0) & ~nan
        for total, where in ((self.nonzero, known), (self.nan, nan)):
            total[0][rows] += np.bincount(coo.row[where], minlength=n)
            total[1][columns] += np.bincount(coo.col[where], minlength=G)
        self.n_nonzero += int(known.sum())
        self.n_nan += int(nan.sum())
        self.n_infinite += int(infinite.sum())
        values[nan | infinite] = 0.0
        self.n_negative += int((values < 0).sum())
        self.n_noninteger += int((np.abs(values - np.rint(values)) > TOLERANCE).sum())
        finite = coo.data[~(nan | infinite)]
        self.n_outside += int(((finite < 0) | (finite > 1)).sum())
        if n * G > len(values):  # there are zeros that are not stored
            self.minimum, self.maximum = min(self.minimum, 0.0), max(self.maximum, 0.0)
        if len(finite):
            self.minimum = min(self.minimum, float(finite.min()))
            self.maximum = max(self.maximum, float(finite.max()))
        self.totals[rows] += np.bincount(coo.row, values, n)
        self.sums[columns] += np.bincount(coo.col, values, G)
        self.squares[columns] += np.bincount(coo.col, values**2, G)
        if self.maximum <= LOG_MAX and self.minimum >= 0:
            for base, factor in LOG_BASES.items():
                self.log_totals[base][rows] += np.bincount(coo.row, np.expm1(values * factor), n)

    def seen(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Observed entries of each row and column: not zero for counts, not NaN for real values."""
        return self.nonzero if kind == "counts" else (self.G - self.nan[0], self.n - self.nan[1])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the columns that vary."""
        count = np.maximum(self.n - self.nan[1], 2)
        mean = self.sums / count
        sd = np.sqrt(np.maximum(self.squares - count * mean**2, 0) / (count - 1))
        return mean[sd > 0], sd[sd > 0]
