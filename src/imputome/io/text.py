"""Delimited text: its separator, records and fields, and why a text cannot be read.

A record is the text of one row with its line end; a field is the text between separators, with its quotes. Records and
fields are those that pandas finds, so that the field of a value can be found by its position.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imputome.errors import InputError, Message

if TYPE_CHECKING:
    pass

# texts for missing values beside those that pandas knows: these words in any case, and a single blank
MISSING = [" "]
for _word in ("na", "nan", "n/a", "null"):
    MISSING += map("".join, itertools.product(*zip(_word, _word.upper(), strict=True)))
BYTE_ORDER_MARK = "\ufeff"  # spreadsheets write it at the start of UTF-8
_SIZES = re.compile(r"\d+(\t\d+)+\s*")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what begins a formula
MAX_LINE = 2**28  # bytes: names of ten million samples
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UNDEFINED = frozenset(b"\x81\x8d\x8f\x90\x9d")  # bytes that Windows-1252 does not have


def open_text(path: Path, *, with_mark: bool = False) -> io.TextIOWrapper:
    """The text of ``path``, UTF-8 or UTF-16 with its mark, with its line ends; without the mark, unless asked for."""
    with _bytes(path) as content:
        wide = content.read(2) in _UTF16_MARKS
    encoding = "utf-16" if wide else "utf-8" if with_mark else "utf-8-sig"
    return io.TextIOWrapper(_bytes(path), encoding=encoding, newline="")


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


def safe_name(text: str) -> str:
    """A name that no spreadsheet takes for a formula: an apostrophe is put before the sign that would begin one."""
    return f"'{text}" if text.startswith(_FORMULA) and not is_number(text) else text


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


def records(handle: Iterable[str], separator: str) -> Iterator[str]:
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


def separator_of(path: Path, expected: str, *, decimal: str = ".") -> str:
    """The separator that gives the first two lines of a table equally many fields; ``expected`` is tried first.

    With commas as decimal signs, a comma is tried last.
    """
    candidates = (expected, ",", ";", "\t") if decimal == "." else (";", "\t", ",")
    for separator in dict.fromkeys(candidates):
        _, header, first = _start(path, separator)
        if len(header) > 1 and len(header) in (len(first), len(first) - 1):
            return separator
    return expected


def comment_lines(path: Path, separator: str) -> int:
    """The number of lines before the header that begin with ``#``; a header may begin with it too."""
    return _start(path, separator)[0]


def skip_lines(handle: io.TextIOBase, number: int) -> str:
    """Read some lines; their text."""
    return "".join(handle.readline() for _ in range(number))


def _start(path: Path, separator: str) -> tuple[int, list[str], list[str]]:
    """The number of lines of comment, the fields of the header, and those of the first line of values."""
    comments: list[str] = []
    with open_text(path) as handle:
        while (line := handle.readline()).startswith("#"):
            comments.append(line)
        if (
            comments and comments[0].startswith("#1.") and _SIZES.fullmatch(line)
        ):  # GCT: the numbers of rows and columns
            comments.append(line)
            line = handle.readline()
        rest = itertools.chain([line], handle) if line else iter(())
        texts = (record for record in records(rest, separator) if not is_blank(record, separator))
        first, second = (fields(record, separator) or [] for record in (next(texts, ""), next(texts, "")))
    header = (fields(comments[-1], separator) or []) if comments else []
    if len(header) > 1 and len(header) in (len(first), len(first) - 1) and any(is_number(text) for text in first[1:]):
        return len(comments) - 1, header, first
    return len(comments), first, second


def is_number(text: str) -> bool:
    """Whether a field holds a number; quoted or not, NaN is none."""
    try:
        value = float(text.strip('"'))
    except ValueError:
        return False
    return value == value


# -- why a text cannot be read -----------------------------------------------------------------------------------------
_STARTS = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
)
_SAVE = "save it as CSV in UTF-8"
_ONLY_TABLE = "grep -v -e '^!' -e '^\"!' -e '^[[:space:]]*$'"
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
    if start.startswith((b"!", b'"!')):
        text = f"{path} has lines that begin with '!' before the table, as series matrices of GEO have: "
        raise InputError(text + f"remove them with {_piped(path, 'table', _ONLY_TABLE)}", code="series-matrix")
    if b"\0" in start and not start.startswith(_UTF16_MARKS):
        # every second byte of letters and digits in UTF-16 is 0
        order = next((name for k, name in ((1, "UTF-16LE"), (0, "UTF-16BE")) if not any(start[k:64:2])), "")
        text = f"{path} is text in {order} without its mark: {_convert(path, order)}" if order else ""
        raise InputError(text or f"{path} is binary data, whatever its name: {_SAVE}", code="not-text")


def _bytes(path: Path) -> io.BufferedReader:
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    return io.BufferedReader(_BoundedLines(opener(path, "rb"), path), 2**17)


class _BoundedLines(io.RawIOBase):
    """Bytes of a text; an error if a line is so long that it is no line of a table, before it fills the memory."""

    def __init__(self, content: io.BufferedIOBase, path: Path) -> None:
        self.content, self.path, self.length = content, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self.content.readinto1(buffer)
        end = max(bytes(buffer[:n]).rfind(b"\n"), bytes(buffer[:n]).rfind(b"\r"))
        self.length = self.length + n if end < 0 else n - end - 1
        if self.length > MAX_LINE:
            text = f"{self.path} has a line of more than {MAX_LINE:,} bytes, as no table has: it is damaged, or made "
            raise InputError(f"{text}to fill the memory, so get it again", code="line-too-long")
        return n

    def close(self) -> None:
        self.content.close()
        super().close()


def _not_utf8(path: Path) -> Message:
    number, bad = 0, b""
    others: set[int] = set()
    with _bytes(path) as content:
        for line_number, line in enumerate(content, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                number, bad = number or line_number, bad or line[error.start : error.start + 1]
                others.update(line)
    encoding = "ISO-8859-1" if others & _UNDEFINED else "WINDOWS-1252"
    text = f"line {number} of {path} is not in UTF-8 (byte 0x{bad.hex()}), but probably in Latin-1"
    return Message(f"{text}: {_convert(path, encoding)}", code="not-utf8")


def _convert(path: Path, encoding: str) -> str:
    """How to make the file UTF-8."""
    return f"convert it with {_piped(path, 'utf8', f'iconv -f {encoding} -t UTF-8')}"


def _piped(path: Path, prefix: str, command: str) -> str:
    """The command line that writes ``path``, changed by ``command``, beside it."""
    from shlex import quote

    out = quote(str(path.with_name(f"{prefix}_{path.name}")))
    if path.name.lower().endswith(".gz"):
        return f"`gunzip -c {quote(str(path))} | {command} | gzip > {out}`"
    return f"`{command} {quote(str(path))} > {out}`"


def no_header(path: Path) -> Message:
    """The message for a table whose first line is empty."""
    with open_text(path) as handle:
        empty = not any(line.strip() for line in handle)
    if empty:
        return Message(f"{path} is empty", code="empty")
    return Message(f"{path} begins with an empty line: remove it, so that the header is first", code="no-header")


def one_column(path: Path, header: str, first: str) -> Message:
    """The message for a table with one column, whose lines begin with ``header`` and ``first``."""
    if len(header.split()) > 1 and len(first.split()) > 1:
        return Message(f"the values of {path} are separated by blanks: use commas or tabs", code="separator")
    text = f"{path} has one column only when split at ',', ';' or tabs: separate its values by one of these"
    return Message(text, code="separator")


def misfit(path: Path, separator: str) -> Message | None:
    """The message on the first line of ``path`` with another number of fields than the other lines, or None."""
    lines: dict[int, int] = {}  # number of fields -> the first line with so many
    number: Counter[int] = Counter()
    header = 0
    for line, record in _numbered(path, separator):
        texts = [""] * (record.count(separator) + 1) if '"' not in record else fields(record, separator)
        if texts is None:
            text = f"a quote is opened in line {line} of {path} and never closed: remove it, or close it"
            return Message(text, code="open-quote")
        if not header:
            header = len(texts)
            continue
        lines.setdefault(len(texts), line)
        number[len(texts)] += 1
    # the header may be one field shorter than the lines, without a name for the first column
    width = header + 1 if number[header + 1] > number[header] else header
    odd = [k for k in lines if k != width]
    if not odd:
        return None
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
    line = 1 + comment_lines(path, separator)
    with open_text(path) as handle:
        skip_lines(handle, line - 1)
        for record in records(handle, separator):
            if not is_blank(record, separator):
                yield line, record
            line += len(_LINE_END.findall(record))
