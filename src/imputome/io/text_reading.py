"""Reading the numbers and names of a delimited text, with a clear error if they cannot be numbers and names."""

from __future__ import annotations

import csv
import itertools
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError, Message
from imputome.io.text import (
    explained,
    is_blank,
    line_of,
    misfit,
    no_header,
    one_column,
    open_text,
    records,
    separator_of,
)

if TYPE_CHECKING:
    import pandas as pd

CHUNK_VALUES = 2**22  # numbers read at a time
# texts for missing values beside those that pandas knows: these words in any case, and a single blank
MISSING = [" "]
for _word in ("na", "nan", "n/a", "null"):
    MISSING += map("".join, itertools.product(*zip(_word, _word.upper(), strict=True)))
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
_MISSING_CODES = (-99, -999, -9999)  # some programs write these numbers for missing values


def read_text(
    path: Path, expected: str, *, transposed: bool, dtype: type[np.floating[Any]] = np.float64
) -> tuple[list[str], list[str], np.ndarray]:
    """Row names, column names and values of a text table, read in chunks.

    ``expected`` is the separator that its name promises (`imputome.io.text.separator_of`); ``transposed`` returns the
    values as columns x rows. ``dtype`` float32 halves the memory of a table with missing values. A table without
    missing values, or with values outside 1e-30 to 1e30, is float64 in any case. Cost: for a moment the matrix is in
    memory twice, in the dtype.
    """
    import pandas as pd

    with explained(path, expected):
        separator = separator_of(path, expected)
        with open_text(path) as handle:
            # the header is read separately because pandas would rename duplicated columns
            header = next(csv.reader(handle, delimiter=separator), None)
            if not header or (len(header) == 1 and not header[0].strip()):
                raise InputError(no_header(path))
            reader = pd.read_csv(
                handle,
                sep=separator,
                header=None,
                low_memory=False,
                converters={0: str},
                na_values=MISSING,
                # the default parser of floats is faster, but wrong in the last digit
                float_precision="round_trip",
                chunksize=max(1, CHUNK_VALUES // len(header)),
            )
            with reader:
                names, columns, chunks = _gather(reader, header, path, separator, narrow=dtype is np.float32)
        last_missing = any(np.isnan(chunk[:, -1]).any() for chunk in chunks)
        # pandas fills short lines up with NaN, which would turn a truncated file into missing values
        if last_missing and (reason := misfit(path, separator)):
            raise InputError(reason)
        if all(np.isnan(chunk[:, -1]).all() for chunk in chunks):
            _check_last_column(path, separator, named=len(header) > len(columns) and bool(columns[-1].strip()))
        _check_header(header, columns, path, "samples" if transposed else "genes")
        _check_row_names(names, chunks, header, path, separator, "genes" if transposed else "samples")
    return names, columns, _stack(chunks, transposed)


def _gather(
    frames: Any, header: list[str], path: Path, separator: str, *, narrow: bool
) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Row names, column names and the values of each chunk."""
    names: list[str] = []
    columns: list[str] = []
    chunks: list[np.ndarray] = []
    missing = False
    for frame in frames:
        width = frame.shape[1]
        if width < 2:
            raise InputError(one_column(path, header[0], frame.iat[0, 0]))
        if len(header) not in (width, width - 1):
            ragged = Message(f"{path} has lines with different numbers of fields", code="ragged")
            raise InputError(misfit(path, separator) or ragged)
        # R's write.table gives the first column no name, so the header is one field shorter than the lines
        columns = header[1:] if len(header) == width else header
        names += [str(name) for name in frame.pop(0)]
        values = numbers(frame, columns, path)
        chunks.append(values)
        missing = missing or bool(np.isnan(values).any())
        narrow = narrow and _fits_float32(values)
        if narrow and missing:
            chunks = [chunk.astype(np.float32, copy=False) for chunk in chunks]
    return names, columns, chunks


def _fits_float32(values: np.ndarray) -> bool:
    size = np.abs(values)
    largest = np.max(size, initial=0.0, where=~np.isnan(size))
    return largest < 1e30 and np.min(size, initial=1.0, where=size > 0) > 1e-30


def _stack(chunks: list[np.ndarray], transposed: bool) -> np.ndarray:
    """One matrix of the chunks of rows; the list is emptied to free their memory."""
    if len(chunks) == 1 and not transposed:
        return chunks[0]
    n, width = sum(len(chunk) for chunk in chunks), chunks[0].shape[1]
    out = np.empty((width, n) if transposed else (n, width), np.result_type(*chunks))
    stop = n
    while chunks:
        chunk = chunks.pop()
        start = stop - len(chunk)
        if transposed:
            out[:, start:stop] = chunk.T
        else:
            out[start:stop] = chunk
        stop = start
    return out


def _check_last_column(path: Path, separator: str, *, named: bool) -> None:
    """Check that lines do not end in a separator, which looks like one more column without values."""
    with open_text(path) as handle:
        lines = records(handle, separator)
        next(lines)
        first = next(record for record in lines if not is_blank(record, separator))
    if not named and first.rstrip("\r\n").endswith(separator):
        text = f"the lines of {path} end in a separator, which adds an empty last column: remove it"
        raise InputError(text, code="empty-last-column")


def _check_header(header: list[str], columns: list[str], path: Path, what: str) -> None:
    """Check that the first line has names of ``what``, all of them."""
    if _are_values(columns):
        text = f"the first line of {path} holds values, not names of {what}: add a header line"
        raise InputError(text, code="no-header")
    for position, name in enumerate(columns, 1 + len(header) - len(columns)):
        if not name.strip():
            text = f"the header of {path} has no name in field {position}: give all {what} a name"
            raise InputError(text, code="empty-name")


def _check_row_names(
    names: list[str], chunks: list[np.ndarray], header: list[str], path: Path, separator: str, what: str
) -> None:
    """Check that the first column has names of ``what``, all of them."""
    if _are_values(names):
        text = f"the first column of {path} ({header[0]!r}) holds values: add a column with the names of {what}"
        raise InputError(text, code="no-row-names")
    row = next((row for row, name in enumerate(names) if not name.strip()), None)
    if row is None:
        return
    line = line_of(path, separator, row)
    values = next(itertools.islice(itertools.chain.from_iterable(chunks), row, None))
    if np.isnan(values).all():
        raise InputError(f"line {line} of {path} has no name and no value: remove it", code="empty-line")
    raise InputError(f"line {line} of {path} has no name: give all {what} a name", code="empty-name")


def _are_values(names: list[str]) -> bool:
    """Whether most names are numbers with a point or an exponent; integers may be names."""
    present = [name.strip() for name in names if name.strip() and name not in MISSING]
    return 2 * sum(_DECIMAL.fullmatch(name) is not None for name in present) > len(present)


def warn_of_codes(values: np.ndarray, path: Path) -> None:
    """Warn of a number like -999 far below all others: it probably means missing."""
    lowest = float(np.fmin.reduce(values, axis=None, initial=np.inf))
    if lowest not in _MISSING_CODES:
        return
    others = float(np.fmin.reduce(values, axis=None, initial=np.inf, where=values != lowest))
    if lowest / 4 < others < np.inf:
        number = int((values == lowest).sum())
        text = f"{number:,} values of {path} are {lowest:g}, far below all others: replace it by NA if it means missing"
        warnings.warn(Message(text, code="missing-as-number"), stacklevel=3)


def numbers(frame: pd.DataFrame, names: list[str], path: Path) -> np.ndarray:
    """The float64 values of ``frame``; an error names the first column that is not numeric."""
    import pandas as pd

    for position, dtype in enumerate(frame.dtypes):
        if dtype.kind in "iuf":
            continue
        column = frame.iloc[:, position].astype(object)
        bad = column.notna()
        if dtype.kind != "b":
            bad &= pd.to_numeric(column, errors="coerce").isna()
        if bad.any():
            few = 2 * bad.sum() < column.notna().sum()
            raise InputError(_not_a_number(column[bad].iloc[0], names[position], path, marker=few))
    # numbers stored as objects (decimals, only nulls) are converted by pandas, all others at once
    if all(dtype.kind in "iuf" and isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return frame.to_numpy(dtype=np.float64)
    return frame.apply(pd.to_numeric).to_numpy(dtype=np.float64, na_value=np.nan)


def _not_a_number(value: object, column: str, path: Path, *, marker: bool) -> Message:
    """The message; ``marker`` is whether most of the column are numbers, so that ``value`` may mean missing."""
    what, code = f"column {column!r} of {path} holds {value!r}, not a number: ", "not-a-number"
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value):
        text = "write decimals with a point, not a comma (in R: write.csv, not write.csv2)"
        return Message(what + text, code="decimal-comma")
    if marker:
        return Message(f"{what}replace {value!r} by NA (or leave the cell empty) where it means missing", code=code)
    return Message(f"{what}remove the column, or write missing values as NA or leave them empty", code=code)
