"""Counts that stay where they are, in a file or behind a dask array, and are read in windows of rows.

Letters: ``n`` cells (rows), ``G`` genes (columns).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.arrays import clean_csr, in_memory
from imputome.errors import InputError

if TYPE_CHECKING:
    import scipy.sparse as sp

WINDOW_VALUES = 2**22  # nonzero values that a window is expected to hold: 32 MiB
KEPT_IN_MEMORY = 2**28  # bytes; a smaller matrix is read into memory
LARGEST_EXACT = 2**24  # in single precision


@dataclass(frozen=True)
class Totals:
    """Sums and numbers over a matrix of counts, from one pass over it."""

    per_row: np.ndarray  # (n,) float64
    per_column: np.ndarray  # (G,) float64
    nonzero_per_row: np.ndarray  # (n,) int64
    nonzero_per_column: np.ndarray  # (G,) int64
    minimum: float  # of the stored values
    maximum: float
    has_nan: bool
    integers: bool


def stays_stored(matrix: Any) -> bool:
    """Whether a matrix is read in windows of rows, because it is not in memory and large.

    It is one of anndata's CSR datasets in a file or store, an array of HDF5 or zarr, or a dask array.
    """
    lazy = hasattr(matrix, "dask") or hasattr(matrix, "chunks") or hasattr(matrix, "to_memory")
    if not lazy or len(getattr(matrix, "shape", ())) != 2 or getattr(matrix, "format", "csr") != "csr":
        return False
    return stored_bytes(matrix) > KEPT_IN_MEMORY


def stored_bytes(matrix: Any) -> int:
    """Bytes that a matrix which is not in memory takes there: of values and indices, if it is sparse."""
    group = getattr(matrix, "group", None)
    if group is not None and "indices" in group:
        return int(sum(group[name].shape[0] * group[name].dtype.itemsize for name in ("data", "indices", "indptr")))
    return int(np.prod(matrix.shape, dtype=np.int64)) * matrix.dtype.itemsize


def rows_of(matrix: Any, rows: slice) -> Any:
    """Some rows of a matrix that stays stored, as it gives them; an error if its file is damaged there."""
    try:
        return matrix[rows]
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, zlib.error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        text = f"rows {rows.start:,} to {rows.stop:,} cannot be read ({reason}): the file is damaged there, replace it"
        raise InputError(text, code="unreadable-rows") from error


def columns_of(matrix: Any, columns: np.ndarray) -> sp.csr_matrix:
    """Some columns of a matrix that stays stored, in memory and in its own precision, read in windows of rows."""
    import scipy.sparse as sp

    step = max(1, WINDOW_VALUES * matrix.shape[0] // max(1, stored_bytes(matrix) // 8))
    windows = [slice(start, start + step) for start in range(0, matrix.shape[0], step)]
    return sp.vstack([sp.csr_matrix(rows_of(matrix, rows))[:, columns] for rows in windows], format="csr")


class StoredCounts:
    """A matrix of counts of which only a window of rows is in memory at a time, with the ways of a ``csr_array``.

    Rows are taken with ``counts[rows]`` (a slice, or positions in any order), which gives a ``csr_array`` without
    stored zeros. The window that comes next is read by another thread while this one is worked on.

    Parameters
    ----------
    source : matrix of shape (n, G)
        What gives sparse or dense rows for a slice: see `stays_stored`.
    columns : ndarray of int or bool, optional
        The columns to take.

    Attributes
    ----------
    waited : float
        Seconds that the caller has waited for rows so far.
    """

    format = "csr"
    ndim = 2

    def __init__(self, source: Any, *, columns: np.ndarray | None = None) -> None:
        self._source = source
        self._columns = np.flatnonzero(columns) if columns is not None and columns.dtype == bool else columns
        self.shape: tuple[int, int] = (
            int(source.shape[0]),
            int(source.shape[1] if self._columns is None else len(self._columns)),
        )
        self.dtype = np.dtype(np.float64 if source.dtype == np.float64 else np.float32)
        self.waited = 0.0
        per_row = max(1, stored_bytes(source) // (8 * max(1, self.shape[0])))
        self._rows_per_window = max(1, WINDOW_VALUES // per_row)
        self._kept: dict[int, sp.csr_array] = {}  # the last windows
        self._coming: tuple[int, Future[sp.csr_array]] | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="imputome-reader")

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return -(-self.shape[0] // self._rows_per_window)

    @property
    def nnz(self) -> int:
        """Number of counts that are not zero."""
        return int(self.totals.nonzero_per_row.sum())

    def __getitem__(self, rows: Any) -> sp.csr_array:
        import scipy.sparse as sp

        n, size = self.shape[0], self._rows_per_window
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(n))
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.where(rows < 0, rows + n, rows)
        if not len(rows):
            return sp.csr_array((0, self.shape[1]), dtype=self.dtype)
        order = None
        if len(rows) > 1 and (rows[1:] < rows[:-1]).any():
            order = np.argsort(rows, kind="stable")
            rows = rows[order]
        parts = []
        for part in np.split(rows, np.flatnonzero(np.diff(rows // size)) + 1):
            k = int(part[0]) // size
            inside = part - k * size
            whole = len(part) == inside[-1] - inside[0] + 1
            parts.append(self._window(k)[slice(inside[0], inside[-1] + 1) if whole else inside])
        taken = parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr")
        if order is None:
            return taken
        back = np.empty(len(order), dtype=np.intp)
        back[order] = np.arange(len(order))
        return taken[back]

    def windows(self) -> Iterator[tuple[slice, sp.csr_array]]:
        """All rows in order, a window at a time: their positions and counts."""
        for k in range(self.n_windows):
            start = k * self._rows_per_window
            yield slice(start, min(start + self._rows_per_window, self.shape[0])), self._window(k)

    @cached_property
    def totals(self) -> Totals:
        """Sums and numbers; the first call reads the whole matrix."""
        n, G = self.shape
        per_row, per_column = np.zeros(n), np.zeros(G)
        row_numbers, column_numbers = np.zeros(n, np.int64), np.zeros(G, np.int64)
        minimum, maximum, has_nan, integers = np.inf, -np.inf, False, True
        for rows, X in self.windows():
            row_numbers[rows] = np.diff(X.indptr)
            column_numbers += np.bincount(X.indices, minlength=G)
            per_row[rows] = X @ np.ones(G)
            per_column += np.bincount(X.indices, weights=X.data, minlength=G)
            if X.nnz:
                has_nan |= bool(np.isnan(X.data).any())
                minimum, maximum = min(minimum, float(X.data.min())), max(maximum, float(X.data.max()))
                integers &= bool((X.data == np.rint(X.data)).all())
        if maximum >= LARGEST_EXACT:
            self.dtype = np.dtype(np.float64)
            self._kept.clear()
        return Totals(per_row, per_column, row_numbers, column_numbers, minimum, maximum, has_nan, integers)

    def to_memory(self) -> sp.csr_array:
        """The whole matrix."""
        return self[:]

    # -- reading -------------------------------------------------------------------------------------------------------
    def _window(self, k: int) -> sp.csr_array:
        if k not in self._kept:
            begun = time.perf_counter()
            coming = self._coming
            window = coming[1].result() if coming is not None and coming[0] == k else self._read(k)
            self.waited += time.perf_counter() - begun
            self._kept = {**dict(list(self._kept.items())[-1:]), k: window}
            self._coming = None
            if k + 1 < self.n_windows and (k == 0 or k - 1 in self._kept):  # the caller goes through them in order
                self._coming = k + 1, self._reader.submit(self._read, k + 1)
        return self._kept[k]

    def _read(self, k: int) -> sp.csr_array:
        """Window k as a ``csr_array``, sorted, without repeated entries and stored zeros."""
        start = k * self._rows_per_window
        part = in_memory(rows_of(self._source, slice(start, min(start + self._rows_per_window, self.shape[0]))))
        if self._columns is not None:
            part = part[:, self._columns]
        X = clean_csr(part)
        return X if X.dtype == self.dtype else X.astype(self.dtype)
