"""The numbers and names of a delimited text: read, and refused where they cannot be what they should be."""

from __future__ import annotations

import csv
import itertools
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
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
# what is missing besides what pandas takes for it: these words in every case, and a single blank
MISSING = [
    " ",
    *(
        "".join(letters)
        for word in ("na", "nan", "n/a", "null")
        for letters in itertools.product(*zip(word, word.upper(), strict=True))
    ),
]
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
_CODES = (-99, -999, -9999)  # written for missing values by programs that have no other way


def read_text(
    path: Path, own: str, *, turned: bool, dtype: type[np.floating[Any]] = np.float64
) -> tuple[list[str], list[str], np.ndarray]:
    """Row names, column names and values, read in chunks.

    Parameters
    ----------
    own : the separator that the file's name promises; see `separator_of`.
    turned : whether to return columns x rows.
    dtype : ``np.float32`` is enough for a table with missing values whose text is kept elsewhere; one without, or with
        values beyond 1e-30 to 1e30, is float64 all the same.

    Cost: the matrix twice, for a moment, in the dtype.
    """
    import pandas as pd

    with explained(path, own):
        separator = separator_of(path, own)
        with open_text(path) as handle:
            # the header is read apart because pandas would rename duplicated columns
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
                # the default way to parse a float is faster and off by one in the last place
                float_precision="round_trip",
                chunksize=max(1, CHUNK_VALUES // len(header)),
            )
            with reader:
                names, columns, chunks = _gather(reader, header, path, separator, narrow=dtype is np.float32)
        open_end = any(np.isnan(chunk[:, -1]).any() for chunk in chunks)
        # pandas fills short lines up with NaN, which would turn a truncated file into missing values
        if open_end and (reason := misfit(path, separator)):
            raise InputError(reason)
        if all(np.isnan(chunk[:, -1]).all() for chunk in chunks):
            _check_last_column(path, separator, named=len(header) > len(columns) and bool(columns[-1].strip()))
        _check_header(header, columns, path, "samples" if turned else "genes")
        _check_row_names(names, chunks, header, path, separator, "genes" if turned else "samples")
    return names, columns, _stack(chunks, turned)


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
            raise InputError(misfit(path, separator) or f"{path} has lines with different numbers of fields")
        # R's write.table leaves out the corner, so that the header is one field shorter than the lines
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


def _stack(chunks: list[np.ndarray], turned: bool) -> np.ndarray:
    """One matrix of the chunks of rows, which are given up on the way."""
    if len(chunks) == 1 and not turned:
        return chunks[0]
    n, width = sum(len(chunk) for chunk in chunks), chunks[0].shape[1]
    out = np.empty((width, n) if turned else (n, width), np.result_type(*chunks))
    stop = n
    while chunks:
        chunk = chunks.pop()
        start = stop - len(chunk)
        if turned:
            out[:, start:stop] = chunk.T
        else:
            out[start:stop] = chunk
        stop = start
    return out


def _check_last_column(path: Path, separator: str, *, named: bool) -> None:
    """Refuse separators at the end of the lines, which look like one more column without values."""
    with open_text(path) as handle:
        lines = records(handle, separator)
        next(lines)
        first = next(record for record in lines if not is_blank(record, separator))
    if not named and first.rstrip("\r\n").endswith(separator):
        raise InputError(f"the lines of {path} end in a separator, which makes a last column of nothing: take it out")


def _check_header(header: list[str], columns: list[str], path: Path, what: str) -> None:
    """Refuse a header that is none, or lacks a name; ``what`` it should name."""
    if _are_values(columns):
        raise InputError(f"the first line of {path} holds values, not names of {what}: add a header line")
    for position, name in enumerate(columns, 1 + len(header) - len(columns)):
        if not name.strip():
            raise InputError(f"the header of {path} has no name in field {position}: give all {what} a name")


def _check_row_names(
    names: list[str], chunks: list[np.ndarray], header: list[str], path: Path, separator: str, what: str
) -> None:
    """Refuse rows whose first fields are no names; ``what`` they should name."""
    if _are_values(names):
        raise InputError(
            f"the first column of {path} ({header[0]!r}) holds values, not names of {what}: add a column of names in "
            "front"
        )
    row = next((row for row, name in enumerate(names) if not name.strip()), None)
    if row is None:
        return
    line = line_of(path, separator, row)
    values = next(itertools.islice(itertools.chain.from_iterable(chunks), row, None))
    if np.isnan(values).all():
        raise InputError(f"line {line} of {path} holds no name and no value: take it out")
    raise InputError(f"line {line} of {path} begins with no name: give all {what} a name")


def _are_values(names: list[str]) -> bool:
    """Whether most names, but for missing ones, are numbers with a point or an exponent; whole numbers do as names."""
    given = [name.strip() for name in names if name.strip() and name not in MISSING]
    return 2 * sum(_DECIMAL.fullmatch(name) is not None for name in given) > len(given)


def warn_of_codes(values: np.ndarray, path: Path) -> None:
    """Warn of a number like -999 that stands far below all others: it probably means missing."""
    lowest = float(np.fmin.reduce(values, axis=None, initial=np.inf))
    if lowest not in _CODES:
        return
    others = float(np.fmin.reduce(values, axis=None, initial=np.inf, where=values != lowest))
    if lowest / 4 < others < np.inf:
        number = int((values == lowest).sum())
        warnings.warn(
            f"{number:,} values of {path} are exactly {lowest:g}, far below all others: if that means missing, replace "
            "it by NA",
            stacklevel=3,
        )


def numbers(frame: pd.DataFrame, names: list[str], path: Path) -> np.ndarray:
    """The float64 values of ``frame``, or an error that names the first column that is not numeric."""
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
    # numbers that came as objects (decimals, nulls only) go through pandas; the rest is one plain conversion
    if all(dtype.kind in "iuf" and isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return frame.to_numpy(dtype=np.float64)
    return frame.apply(pd.to_numeric).to_numpy(dtype=np.float64, na_value=np.nan)


def _not_a_number(value: object, column: str, path: Path, *, marker: bool) -> str:
    """``marker``: whether most of the column are numbers, so that ``value`` may stand for a missing one."""
    what = f"column {column!r} of {path} holds {value!r}, not a number: "
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value):
        return what + "write decimals with a point, not a comma (in R: write.csv, not write.csv2)"
    if marker:
        return what + f"replace {value!r} by NA (or leave the cell empty) where it means missing"
    return what + "take the column out of the table, or leave missing values empty or NA"
