"""Delimited text as it stands in a file: separator, records, fields; gzipped where the name says so.

A record is the text of one row with its line end; a field is the text between separators, with its quotes. What counts
as either is what pandas makes of it, so that a field can be found again by the position of its number.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from imputome.errors import InputError

MARK = "\ufeff"  # what spreadsheets put at the start of UTF-8


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


_STARTS = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
)
_SAVE = "save it as CSV in UTF-8"
_LINE_END = re.compile(r"\r\n|\r|\n")


@contextmanager
def explained(path: Path, own: str) -> Iterator[None]:
    """Say what is wrong with the text table ``path`` if it cannot be read; ``own`` is the separator it promises.

    Raises
    ------
    InputError
        In place of what the libraries raise.
    """
    import zlib

    import pandas as pd

    try:
        _check_kind(path)
        try:
            yield
        except (csv.Error, pd.errors.ParserError) as error:  # also what pandas makes of bytes that are no UTF-8
            reason = misfit(path, separator_of(path, own))
            if reason is None:
                reason = f"{path} cannot be read as a table: {str(error).strip().splitlines()[-1]}"
            raise InputError(reason) from error
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path} is empty: it has no line of values") from error
    except UnicodeDecodeError as error:
        raise InputError(_not_utf8(path)) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} cannot be read as a table, it is cut off or damaged: copy or pack it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_kind(path: Path) -> None:
    """Refuse what is no text, or is packed though its name does not say so."""
    with path.open("rb") as handle:
        start = handle.read(2)
    named = path.name.lower().endswith(".gz")
    if named and start and start != b"\x1f\x8b":
        raise InputError(f"{path} is not gzipped, as its name says: rename it to {path.name[:-3]}")
    if not named and start == b"\x1f\x8b":
        raise InputError(f"{path} is gzipped: rename it to {path.name}.gz")
    with _bytes(path) as content:
        start = content.read(2**12)
    for first, kind in _STARTS:
        if start.startswith(first):
            raise InputError(f"{path} is {kind}, whatever its name: {_SAVE}")
    if b"\0" in start:
        raise InputError(f"{path} is binary data or text in UTF-16: {_SAVE}")


def _bytes(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _not_utf8(path: Path) -> str:
    with _bytes(path) as content:
        for number, line in enumerate(content, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number} of {path} is not in UTF-8 (byte 0x{line[error.start]:02x}): {_SAVE}"
    return f"{path} is not in UTF-8: {_SAVE}"


def no_header(path: Path) -> str:
    """Why the first line of ``path`` is empty."""
    with open_text(path) as handle:
        empty = not any(line.strip() for line in handle)
    return (
        f"{path} is empty" if empty else f"{path} begins with an empty line: take it out, so that the header is first"
    )


def one_column(path: Path, header: str, first: str) -> str:
    """Why the lines of ``path``, which begin with ``header`` and ``first``, cannot be split."""
    if header.startswith("#"):
        return _comment(path)
    if len(header.split()) > 1 and len(first.split()) > 1:
        return f"the values of {path} are separated by blanks: put commas or tabs between them"
    return f"{path} has one column when split at ',', ';' or tabs: what separates its values?"


def _comment(path: Path) -> str:
    return f"line 1 of {path} is a comment, not the header: take it out, so that the header is first"


def misfit(path: Path, separator: str) -> str | None:
    """Which line of ``path`` has another number of fields than the table, or None."""
    lines: dict[int, int] = {}  # number of fields -> the first line with so many
    number: Counter[int] = Counter()
    header, commented = 0, False
    for line, record in _numbered(path, separator):
        found = [""] * (record.count(separator) + 1) if '"' not in record else fields(record, separator)
        if found is None:
            return f"a quote is opened in line {line} of {path} and never closed: take it out, or close it"
        if not header:
            header, commented = len(found), record.startswith("#")
            continue
        lines.setdefault(len(found), line)
        number[len(found)] += 1
    # the header may be one field shorter than the lines: it then has no corner
    width = header + 1 if number[header + 1] > number[header] else header
    odd = [k for k in lines if k != width]
    if not odd:
        return None
    if commented:
        return _comment(path)
    if len(lines) == 1:
        return (
            f"the first line of {path} has another number of fields ({header}) than all others ({odd[0]}): correct it, "
            "or take it out if it is not the header"
        )
    others = "the header" if width == header else "most lines"
    return (
        f"line {lines[odd[0]]} of {path} has {odd[0]} fields, {others} {width}: correct that line, or copy the file "
        "again if it is truncated"
    )


def line_of(path: Path, separator: str, row: int) -> int:
    """The number of the line in which a row of the table begins, both the first line and the first row 1 and 0."""
    lines = _numbered(path, separator)
    next(lines)
    return next(line for k, (line, _) in enumerate(lines) if k == row)


def _numbered(path: Path, separator: str) -> Iterator[tuple[int, str]]:
    """The header and the rows of the table with the numbers of their first lines."""
    line = 1
    with open_text(path) as handle:
        for record in records(handle, separator):
            if not is_blank(record, separator):
                yield line, record
            line += len(_LINE_END.findall(record))
