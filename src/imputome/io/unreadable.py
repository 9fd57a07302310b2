"""Why a text table cannot be read: one sentence with the file, the line where there is one, and the fix."""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imputome.errors import InputError
from imputome.io.text import fields, is_blank, open_text, records, separator_of

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
