"""Delimited text as it stands in a file: separator, records, fields, numbers; gzipped where the name says so.

A record is the text of one row with its line end; a field is the text between separators, with its quotes. What counts
as either is what pandas makes of it, so that a field can be found again by the position of its number.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MARK = "\ufeff"  # what spreadsheets put at the start of UTF-8
CHUNK_VALUES = 2**22  # numbers read at a time
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")


# -- the text ----------------------------------------------------------------------------------------------------------
def open_text(path: Path, *, with_mark: bool = False) -> io.TextIOWrapper:
    """The text of ``path``, line ends as they are; the mark at its start is left out unless asked for."""
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8" if with_mark else "utf-8-sig", newline="")


def text_writer(path: Path) -> AbstractContextManager[io.TextIOBase]:
    """A file to write text to, line ends as given."""
    if not path.name.lower().endswith(".gz"):
        return path.open("w", encoding="utf-8", newline="")
    return _gzip_writer(path)


@contextmanager
def _gzip_writer(path: Path) -> Iterator[io.TextIOBase]:
    # no name and no time in the gzip header: the same table gives the same bytes
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=4, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as handle,
    ):
        yield handle


@cache
def _field(separator: str) -> re.Pattern[str]:
    # quotes count at the start of a field only; in it, two of them stand for one
    return re.compile(rf'"(?:[^"]++|"")*+"[^{separator}]*|(?!")[^{separator}]*')


def fields(record: str, separator: str) -> list[str] | None:
    """The fields of a record as they stand, without the line end; None where a quote is still open."""
    body = record.rstrip("\r\n")
    if '"' not in body:
        return body.split(separator)
    found, start, field = [], 0, _field(separator)
    while (match := field.match(body, start)) is not None:
        found.append(match[0])
        if match.end() == len(body):
            return found
        start = match.end() + 1
    return None


def records(handle: io.TextIOBase, separator: str) -> Iterator[str]:
    """The records of a text with their line ends; quoted names may run over several lines."""
    pending: list[str] = []
    for line in handle:
        if pending and '"' not in line:
            pending.append(line)
            continue
        record = "".join([*pending, line])
        if '"' in record and fields(record.removeprefix(MARK), separator) is None:
            pending = [record]
        else:
            pending = []
            yield record
    if pending:
        yield "".join(pending)


def is_blank(record: str, separator: str) -> bool:
    """Whether a record is no row of the table."""
    return not record.strip(" \r\n" if separator == "\t" else " \t\r\n")


def separator_of(path: Path, own: str) -> str:
    """What splits the first two lines of ``path`` alike: ``own`` if it does, else a comma, semicolon or tab."""
    for separator in dict.fromkeys((own, ",", ";", "\t")):
        with open_text(path) as handle:
            lines = (record for record in records(handle, separator) if not is_blank(record, separator))
            header, first = (len(fields(record, separator) or ()) for record in (next(lines, ""), next(lines, "")))
        if header > 1 and header in (first, first - 1):
            return separator
    return own


# -- the numbers -------------------------------------------------------------------------------------------------------
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
    import zlib

    import pandas as pd

    try:
        separator = separator_of(path, own)
        with open_text(path) as handle:
            # the header is read apart because pandas would rename duplicated columns
            header = next(csv.reader(handle, delimiter=separator), None)
            if not header:
                raise InputError(f"{path} is empty")
            reader = pd.read_csv(
                handle,
                sep=separator,
                header=None,
                low_memory=False,
                converters={0: str},
                # the default way to parse a float is faster and off by one in the last place
                float_precision="round_trip",
                chunksize=max(1, CHUNK_VALUES // len(header)),
            )
            with reader:
                names, columns, chunks = _gather(reader, header, path, narrow=dtype is np.float32)
        open_end = any(np.isnan(chunk[:, -1]).any() for chunk in chunks)
        # pandas fills short lines up with NaN, which would turn a truncated file into missing values
        if open_end and _ragged(path, separator):
            raise InputError(f"{path} is ragged: its lines have different numbers of fields, so it may be truncated")
        if all(np.isnan(chunk[:, -1]).all() for chunk in chunks):
            _check_last_column(path, separator, named=len(header) > len(columns) and bool(columns[-1].strip()))
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path} is empty: it has no line of values") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error, pd.errors.ParserError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path} cannot be read as a table, it is ragged or damaged: {reason}") from error
    return names, columns, _stack(chunks, turned)


def _gather(
    frames: Any, header: list[str], path: Path, *, narrow: bool
) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Row names, column names and the values of each chunk."""
    names: list[str] = []
    columns: list[str] = []
    chunks: list[np.ndarray] = []
    missing = False
    for frame in frames:
        width = frame.shape[1]
        if width < 2:
            raise InputError(f"{path} has one column when split at ',', ';' or tabs: what separates its values?")
        if len(header) not in (width, width - 1):
            raise InputError(f"{path} is ragged: its lines have different numbers of fields, so it may be truncated")
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


def _ragged(path: Path, separator: str) -> bool:
    with open_text(path) as handle:
        lines = records(handle, separator)
        next(lines)
        widths = {
            line.count(separator) + 1 if '"' not in line else len(fields(line, separator) or ())
            for line in lines
            if not is_blank(line, separator)
        }
        return len(widths) > 1


def _check_last_column(path: Path, separator: str, *, named: bool) -> None:
    """Refuse separators at the end of the lines, which look like one more column without values."""
    with open_text(path) as handle:
        lines = records(handle, separator)
        next(lines)
        first = next(record for record in lines if not is_blank(record, separator))
    if not named and first.rstrip("\r\n").endswith(separator):
        raise InputError(f"the lines of {path} end in a separator, which makes a last column of nothing: take it out")


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
            raise InputError(_not_a_number(column[bad].iloc[0], names[position], path))
    # numbers that came as objects (decimals, nulls only) go through pandas; the rest is one plain conversion
    if all(dtype.kind in "iuf" and isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return frame.to_numpy(dtype=np.float64)
    return frame.apply(pd.to_numeric).to_numpy(dtype=np.float64, na_value=np.nan)


def _not_a_number(value: object, column: str, path: Path) -> str:
    what = f"column {column!r} of {path} holds {value!r}, not a number: "
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value):
        return what + "write decimals with a point, not a comma (in R: write.csv, not write.csv2)"
    return what + "take the column out of the table, or leave missing values empty or NA"
