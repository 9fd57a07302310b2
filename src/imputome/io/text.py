"""Delimited text: its separator, records and fields, its numbers and names, and why a text cannot be read.

A record is the text of one row with its line end; a field is the text between separators, with its quotes. Records and
fields are those that pandas finds, so that the field of a value can be found by its position.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError, Message

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
BYTE_ORDER_MARK = "\ufeff"  # spreadsheets write it at the start of UTF-8


def open_text(path: Path, *, with_mark: bool = False) -> io.TextIOWrapper:
    """The text of ``path`` with its line ends; without the byte-order mark, unless asked for."""
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8" if with_mark else "utf-8-sig", newline="")


@contextmanager
def text_writer(path: Path) -> Iterator[io.TextIOBase]:
    """A file to write text to; line ends are written as given."""
    if not path.name.lower().endswith(".gz"):
        with path.open("w", encoding="utf-8", newline="") as handle:
            yield handle
        return
    # no name and no time in the gzip header, so that the same table gives the same bytes
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=4, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as handle,
    ):
        yield handle


@cache
def _field(separator: str) -> re.Pattern[str]:
    # a quote opens a field only at its start; inside, two quotes are one
    return re.compile(rf'"(?:[^"]++|"")*+"[^{separator}]*|(?!")[^{separator}]*')


def fields(record: str, separator: str) -> list[str] | None:
    """The fields of a record as they are in the file, without the line end; None if a quote is still open."""
    body = record.rstrip("\r\n")
    if '"' not in body:
        return body.split(separator)
    texts, start, field = [], 0, _field(separator)
    while (match := field.match(body, start)) is not None:
        texts.append(match[0])
        if match.end() == len(body):
            return texts
        start = match.end() + 1
    return None


def records(handle: io.TextIOBase, separator: str) -> Iterator[str]:
    """The records of a text with their line ends; a quoted name may contain line ends."""
    pending: list[str] = []
    for line in handle:
        if pending and '"' not in line:
            pending.append(line)
            continue
        record = "".join([*pending, line])
        if '"' in record and fields(record.removeprefix(BYTE_ORDER_MARK), separator) is None:
            pending = [record]
        else:
            pending = []
            yield record
    if pending:
        yield "".join(pending)


def is_blank(record: str, separator: str) -> bool:
    """Whether a record is empty, and so no row of the table."""
    return not record.strip(" \r\n" if separator == "\t" else " \t\r\n")


def separator_of(path: Path, expected: str) -> str:
    """The separator that gives the first two lines of ``path`` equally many fields; ``expected`` is tried first."""
    for separator in dict.fromkeys((expected, ",", ";", "\t")):
        with open_text(path) as handle:
            lines = (record for record in records(handle, separator) if not is_blank(record, separator))
            header, first = (len(fields(record, separator) or ()) for record in (next(lines, ""), next(lines, "")))
        if header > 1 and header in (first, first - 1):
            return separator
    return expected


# -- why a text cannot be read -----------------------------------------------------------------------------------------
_STARTS = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
)
_SAVE = "save it as CSV in UTF-8"
_LINE_END = re.compile(r"\r\n|\r|\n")


@contextmanager
def explained(path: Path, expected: str) -> Iterator[None]:
    """Turn errors of the libraries that read the text table ``path`` into one that says what is wrong with it.

    ``expected`` is the separator that its name promises.
    """
    import zlib

    import pandas as pd

    try:
        _check_kind(path)
        try:
            yield
        except (csv.Error, pd.errors.ParserError) as error:  # pandas raises it for bytes that are no UTF-8 too
            text = f"{path} cannot be read as a table: {str(error).strip().splitlines()[-1]}"
            reason = misfit(path, separator_of(path, expected)) or Message(text, code="unreadable")
            raise InputError(reason) from error
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path} is empty: it has no line of values", code="empty") from error
    except UnicodeDecodeError as error:
        raise InputError(_not_utf8(path)) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        text = f"{path} cannot be read as a table, it is truncated or damaged: copy or compress it again"
        raise InputError(text, code="damaged") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", code="unreadable") from error


def _check_kind(path: Path) -> None:
    """Check that the file is text, and gzipped only if its name says so."""
    with path.open("rb") as handle:
        start = handle.read(2)
    named = path.name.lower().endswith(".gz")
    if named and start and start != b"\x1f\x8b":
        text = f"{path} is not gzipped, although its name says so: rename it to {path.name[:-3]}"
        raise InputError(text, code="not-gzipped")
    if not named and start == b"\x1f\x8b":
        raise InputError(f"{path} is gzipped: rename it to {path.name}.gz", code="gzipped")
    with _bytes(path) as content:
        start = content.read(2**12)
    for first, kind in _STARTS:
        if start.startswith(first):
            raise InputError(f"{path} is {kind}, whatever its name: {_SAVE}", code="not-text")
    if b"\0" in start:
        raise InputError(f"{path} is binary data or text in UTF-16: {_SAVE}", code="not-text")


def _bytes(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _not_utf8(path: Path) -> Message:
    with _bytes(path) as content:
        for number, line in enumerate(content, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02x}"
                return Message(f"line {number} of {path} is not in UTF-8 ({byte}): {_SAVE}", code="not-utf8")
    return Message(f"{path} is not in UTF-8: {_SAVE}", code="not-utf8")


def no_header(path: Path) -> Message:
    """The message for a table whose first line is empty."""
    with open_text(path) as handle:
        empty = not any(line.strip() for line in handle)
    if empty:
        return Message(f"{path} is empty", code="empty")
    return Message(f"{path} begins with an empty line: remove it, so that the header is first", code="no-header")


def one_column(path: Path, header: str, first: str) -> Message:
    """The message for a table with one column, whose lines begin with ``header`` and ``first``."""
    if header.startswith("#"):
        return _comment(path)
    if len(header.split()) > 1 and len(first.split()) > 1:
        return Message(f"the values of {path} are separated by blanks: use commas or tabs", code="separator")
    text = f"{path} has one column only when split at ',', ';' or tabs: separate its values by one of these"
    return Message(text, code="separator")


def _comment(path: Path) -> Message:
    text = f"line 1 of {path} is a comment, not the header: remove it, so that the header is first"
    return Message(text, code="no-header")


def misfit(path: Path, separator: str) -> Message | None:
    """The message on the first line of ``path`` with another number of fields than the other lines, or None."""
    lines: dict[int, int] = {}  # number of fields -> the first line with so many
    number: Counter[int] = Counter()
    header, commented = 0, False
    for line, record in _numbered(path, separator):
        texts = [""] * (record.count(separator) + 1) if '"' not in record else fields(record, separator)
        if texts is None:
            text = f"a quote is opened in line {line} of {path} and never closed: remove it, or close it"
            return Message(text, code="open-quote")
        if not header:
            header, commented = len(texts), record.startswith("#")
            continue
        lines.setdefault(len(texts), line)
        number[len(texts)] += 1
    # the header may be one field shorter than the lines, without a name for the first column
    width = header + 1 if number[header + 1] > number[header] else header
    odd = [k for k in lines if k != width]
    if not odd:
        return None
    if commented:
        return _comment(path)
    if len(lines) == 1:
        text = f"the first line of {path} has {header} fields, all others {odd[0]}: correct it, or remove it"
        return Message(text, code="ragged")
    others = "the header has" if width == header else "most lines have"
    text = f"line {lines[odd[0]]} of {path} has {odd[0]} fields, {others} {width}: correct it, or copy a cut file again"
    return Message(text, code="ragged")


def line_of(path: Path, separator: str, row: int) -> int:
    """The number of the line (from 1) in which a row of the table (from 0) begins."""
    lines = _numbered(path, separator)
    next(lines)
    return next(line for k, (line, _) in enumerate(lines) if k == row)


def _numbered(path: Path, separator: str) -> Iterator[tuple[int, str]]:
    """The header and the rows of the table, with the numbers of their first lines."""
    line = 1
    with open_text(path) as handle:
        for record in records(handle, separator):
            if not is_blank(record, separator):
                yield line, record
            line += len(_LINE_END.findall(record))


# -- the numbers and names of a table ----------------------------------------------------------------------------------
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
    rows = out.T if transposed else out
    while chunks:
        chunk = chunks.pop()
        rows[n - len(chunk) : n] = chunk
        n -= len(chunk)
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
