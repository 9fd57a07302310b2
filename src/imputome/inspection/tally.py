"""One pass over a matrix: counts and sums from which its state is told."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np

from imputome.core.arrays import in_memory
from imputome.core.scales import TRANSFORMS
from imputome.core.stored import rows_of, stays_stored
from imputome.inspection.missing_codes import Extremes

ENTRIES_PER_PIECE = 2**21  # read at a time: 16 MiB if all of them are stored
TOLERANCE = 1e-6  # largest distance of an integer from the nearest whole number
MAX_LOG = 20.0  # log2 of a million is 20: log-transformed expression is never higher
FEW_MOLECULES = 10  # numbers below it are small counts
SEEN_UP_TO = 20  # whole numbers up to it are looked for before a transform; higher ones are lost in the rounding
ENOUGH_INTEGERS = 1000  # so many in a block are never values of a transform, which saves the time to look
MIDDLE = 1.0, 100.0  # values whose decimals are looked at: a table with few digits has none in higher values


def pieces(matrix: Any) -> Iterator[tuple[Any, int, int]]:
    """Sparse blocks of the matrix and the row and column of their first entry; they store at least all nonzero entries.

    They go along the axis in which the matrix is stored, because a backed matrix can only be read that way.
    """
    import scipy.sparse as sp

    n, G = matrix.shape
    by_columns = getattr(matrix, "format", "csr") == "csc"
    length, width = (G, n) if by_columns else (n, G)
    step = max(ENTRIES_PER_PIECE // max(width, 1), 1)
    for start in range(0, length if width else 0, step):
        part = slice(start, start + step)
        if by_columns:
            block = in_memory(matrix[:, part])
        elif stays_stored(matrix):
            block = in_memory(rows_of(matrix, part))
        else:
            block = in_memory((matrix.iloc if hasattr(matrix, "iloc") else matrix)[part])
        if isinstance(block, np.ndarray):
            block = sp.csr_array(block.astype(np.float64, copy=False))
        yield block, 0 if by_columns else start, start if by_columns else 0


def first_block(matrix: Any) -> Any:
    """The first of `pieces`, as CSR, each entry once."""
    return _summed(next(pieces(matrix))[0]).tocsr()


def _summed(block: Any) -> Any:
    """The block with each entry once; repeated ones are added up."""
    if block.has_canonical_format:
        return block
    block = block.copy()  # the values may be those of the input
    block.sum_duplicates()
    return block


class Tally:
    """Counts and sums over a matrix of n x G, collected in one pass."""

    def __init__(self, n: int, G: int) -> None:
        self.n, self.G = n, G
        self.n_repeated = 0  # entries that are stored though another one is
        self.n_nonzero = self.n_nan = self.n_negative = self.n_infinite = self.n_noninteger = 0
        self.n_outside = 0  # finite, and outside 0 to 1
        self.n_small = 0  # above 0 and below FEW_MOLECULES
        self.n_middle = self.n_middle_integers = 0  # within MIDDLE
        self.minimum, self.maximum = np.inf, -np.inf
        self.extremes = Extremes()  # of the values that are stored
        self.totals = np.zeros(n)
        self.transformed = True  # whether the values may be on one of the transforms
        self.totals_before = {name: np.zeros(n) for name in TRANSFORMS}  # of the values before a transform
        # before a transform: number of values looked at, of those that are whole, and which whole numbers there are
        self.looked_at = dict.fromkeys(TRANSFORMS, 0)
        self.whole = dict.fromkeys(TRANSFORMS, 0)
        self.seen = {name: np.zeros(SEEN_UP_TO + 1, dtype=bool) for name in TRANSFORMS}
        self.sums, self.squares = np.zeros(G), np.zeros(G)
        self.nonzero = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)
        self.nan = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)

    @classmethod
    def of(cls, matrix: Any) -> Tally:
        """The tally of a whole matrix."""
        tally = cls(*matrix.shape)
        for block, row, column in pieces(matrix):
            tally.add(block, row, column)
        return tally

    @property
    def n_zeros(self) -> int:
        """Known entries that are zero."""
        return self.n * self.G - self.n_nonzero - self.n_nan

    @property
    def missing_codes(self) -> dict[float, int]:
        """Numbers that probably stand for a missing value, and how often each is there (see `missing_codes`)."""
        extremes = deepcopy(self.extremes)
        if self.n_zeros:
            extremes.add(np.zeros(1), times=self.n_zeros)
        return extremes.codes()

    def add(self, block: Any, row: int, column: int) -> None:
        """Add a block from `pieces`."""
        n, G = block.shape
        coo = _summed(block).tocoo()
        self.n_repeated += block.nnz - coo.nnz
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
        integer = np.abs(values - np.rint(values)) <= TOLERANCE
        self.n_noninteger += int((~integer).sum())
        self.n_small += int(((values > 0) & (values < FEW_MOLECULES)).sum())
        middle = (values >= MIDDLE[0]) & (values <= MIDDLE[1])
        self.n_middle += int(middle.sum())
        self.n_middle_integers += int((middle & integer).sum())
        finite = coo.data[~(nan | infinite)]
        self.extremes.add(finite[finite != 0])
        self.n_outside += int(((finite < 0) | (finite > 1)).sum())
        if n * G > len(values):  # there are zeros that are not stored
            self.minimum, self.maximum = min(self.minimum, 0.0), max(self.maximum, 0.0)
        self.n_negative += int((values < 0).sum())
        if len(finite):
            self.minimum = min(self.minimum, float(finite.min()))
            self.maximum = max(self.maximum, float(finite.max()))
        self.totals[rows] += np.bincount(coo.row, values, n)
        self.sums[columns] += np.bincount(coo.col, values, G)
        with np.errstate(over="ignore"):  # such values are refused
            self.squares[columns] += np.bincount(coo.col, values**2, G)
        if self.minimum < 0 or (integer.all() and len(values) >= ENOUGH_INTEGERS):
            self.transformed = False
        if self.transformed:
            self._add_before(values, integer, coo.row, rows, n)

    def _add_before(self, values: np.ndarray, integer: np.ndarray, row: np.ndarray, rows: slice, n: int) -> None:
        """Totals and whole numbers of the values before each transform."""
        for name, (_, inverse) in TRANSFORMS.items():
            if name != "sqrt" and self.maximum > MAX_LOG:
                continue
            before = inverse(values)
            self.totals_before[name][rows] += np.bincount(row, before, n)
            nearest = np.rint(before)
            # 1 is both sqrt(1) and log2(1 + 1): an integer says nothing about the transform
            looked_at = ~integer & (nearest <= SEEN_UP_TO)
            # three decimals of a logarithm leave the value before it uncertain by about a thousandth of itself
            whole = looked_at & (np.abs(before - nearest) <= 1.5e-3 * (1 + before)) & (nearest > 0)
            self.looked_at[name] += int(looked_at.sum())
            self.whole[name] += int(whole.sum())
            self.seen[name][nearest[whole].astype(np.intp)] = True

    def observed(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Observed entries of each row and column: nonzero for counts, not NaN for real values."""
        return self.nonzero if kind == "counts" else (self.G - self.nan[0], self.n - self.nan[1])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the columns that vary."""
        count = np.maximum(self.n - self.nan[1], 2)
        mean = self.sums / count
        sd = np.sqrt(np.maximum(self.squares - count * mean**2, 0) / (count - 1))
        return mean[sd > 0], sd[sd > 0]
