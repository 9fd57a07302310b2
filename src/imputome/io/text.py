"""Delimited text as it stands in a file: separator, records, fields; gzipped where the name says so.

A record is the text of one row with its line end; a field is the text between separators, with its quotes. What counts
as either is what pandas makes of it, so that a field can be found again by the position of its number.
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

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
