"""Reading a text table: its names, its numbers, and the columns that describe its rows."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError, Message, some
from imputome.io.table_layout import (
    AS_IT_IS,
    DECIMAL_COMMA,
    MISSING,
    Layout,
    TableOptions,
    are_counts,
    are_values,
    frame_of_annotation,
    layout_of,
    likely_annotation,
    whole_names,
)
from imputome.io.text import explained, is_blank, line_of, misfit, one_column, open_text, records, skip_lines

if TYPE_CHECKING:
    import pandas as pd

CHUNK_VALUES = 2**22  # numbers read at a time
_THOUSANDS = r"\s*[+-]?\d{1,3}(,\d{3})+(\.\d*)?\s*"
_GROUPED = r"\s*[+-]?\d{1,3}([ '\u00a0\u2009\u202f]\d{3})+([.,]\d*)?\s*"  # with other signs between thousands
_MANY = 0.5  # of the columns: a row with texts in so many describes the samples


def read_text(
    path: Path,
    expected: str,
    *,
    transposed: bool,
    dtype: type[np.floating[Any]] = np.float64,
    options: TableOptions = AS_IT_IS,
) -> tuple[list[str], list[str], np.ndarray, pd.DataFrame]:
    """Row names, column names, values, and the columns that describe the rows, of a text table, read in chunks.

    ``expected`` is the separator that its name promises (`imputome.io.text.separator_of`); ``transposed`` returns the
    values as columns x rows. ``dtype`` float32 halves the memory of a table with missing values. A table without
    missing values, or with values outside 1e-30 to 1e30, is float64 in any case. Cost: for a moment the matrix is in
    memory twice, in the dtype.
    """
    import pandas as pd

    with explained(path, expected):
        layout = layout_of(path, expected, transposed=transposed, options=options)
        separator, header = layout.separator, layout.header
        with open_text(path) as handle:
            skip_lines(handle, layout.comments)
            next(csv.reader(handle, delimiter=separator))
            reader = pd.read_csv(
                handle,
                sep=separator,
                header=None,
                low_memory=False,
                converters=dict.fromkeys((0, *layout.annotation), str),
                na_values=[*MISSING, *options.markers],
                decimal=options.decimal,
                # the default parser of floats is faster, but wrong in the last digit
                float_precision="round_trip",
                chunksize=max(1, CHUNK_VALUES // len(header)),
            )
            with reader:
                names, columns, chunks, annotation = _gather(
                    reader, layout, path, narrow=dtype is np.float32, transposed=transposed, options=options
                )
        last_missing = any(np.isnan(chunk[:, -1]).any() for chunk in chunks)
        # pandas fills short lines up with NaN, which would turn a truncated file into missing values
        if last_missing and (reason := misfit(path, separator)):
            raise InputError(reason)
        if all(np.isnan(chunk[:, -1]).all() for chunk in chunks):
            _check_last_column(path, layout, named=len(header) == len(layout.names) and bool(columns[-1].strip()))
        _check_header(layout, columns, names, chunks[0], path, "samples" if transposed else "genes")
        _check_row_names(names, chunks, layout, columns, path, "genes" if transposed else "samples")
    frame = frame_of_annotation([layout.names[k] for k in layout.annotation], annotation)
    return whole_names(names), whole_names(columns), _stack(chunks, transposed), frame


def _gather(
    frames: Any, layout: Layout, path: Path, *, narrow: bool, transposed: bool, options: TableOptions
) -> tuple[list[str], list[str], list[np.ndarray], list[list[str]]]:
    """Row names, column names, the values of each chunk, and the texts of the columns that describe the rows."""
    names: list[str] = []
    columns = [layout.names[k] for k in layout.values]
    annotation: list[list[str]] = [[] for _ in layout.annotation]
    described = [layout.names[k] for k in layout.annotation]
    described += likely_annotation(columns) if transposed else []
    header = layout.header
    chunks: list[np.ndarray] = []
    missing = False
    for frame in frames:
        width = frame.shape[1]
        if width < 2:
            raise InputError(one_column(path, header[0], frame.iat[0, 0]))
        if len(header) not in (width, width - 1):
            ragged = Message(f"{path} has lines with different numbers of fields", code="ragged")
            raise InputError(misfit(path, layout.separator) or ragged)
        row_names = [str(name) for name in frame.pop(0)]
        names += row_names
        for texts, position in zip(annotation, layout.annotation, strict=True):
            texts += frame.pop(position).tolist()
        values = numbers(frame, columns, path, rows=row_names, options=options, described=described)
        chunks.append(values)
        missing = missing or bool(np.isnan(values).any())
        narrow = narrow and _fits_float32(values)
        if narrow and missing:
            chunks = [chunk.astype(np.float32, copy=False) for chunk in chunks]
    return names, columns, chunks, annotation


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


def _check_last_column(path: Path, layout: Layout, *, named: bool) -> None:
    """Check that lines do not end in a separator, which looks like one more column without values."""
    with open_text(path) as handle:
        skip_lines(handle, layout.comments)
        lines = records(handle, layout.separator)
        next(lines)
        first = next(record for record in lines if not is_blank(record, layout.separator))
    if not named and first.rstrip("\r\n").endswith(layout.separator):
        text = f"the lines of {path} end in a separator, which adds an empty last column: remove it"
        raise InputError(text, code="empty-last-column")


def _check_header(
    layout: Layout, columns: list[str], names: list[str], values: np.ndarray, path: Path, what: str
) -> None:
    """Check that the first line has names of ``what``, all of them."""
    corner = layout.names[0]
    if are_values(columns, corner, names, values) or are_counts(columns, corner, names):
        text = f"the first line of {path} holds values, not names of {what}: add a header line, or begin names of "
        raise InputError(f"{text}{what} with a letter", code="no-header")
    for position, name in zip(layout.values, columns, strict=True):
        if not name.strip():
            place = position + 1 - len(layout.names) + len(layout.header)
            text = f"the header of {path} has no name in field {place}: give all {what} a name"
            raise InputError(text, code="empty-name")


def _check_row_names(
    names: list[str], chunks: list[np.ndarray], layout: Layout, columns: list[str], path: Path, what: str
) -> None:
    """Check that the first column has names of ``what``, all of them."""
    corner = layout.names[0]
    if are_values(names, corner, columns, chunks[0]):
        text = f"the first column of {path} ({layout.header[0]!r}) holds values: add a column with the names of {what}"
        raise InputError(text, code="no-row-names")
    row = next((row for row, name in enumerate(names) if not name.strip()), None)
    if row is None:
        return
    line = line_of(path, layout.separator, row)
    values = next(itertools.islice(itertools.chain.from_iterable(chunks), row, None))
    if np.isnan(values).all():
        raise InputError(f"line {line} of {path} has no name and no value: remove it", code="empty-line")
    raise InputError(f"line {line} of {path} has no name: give all {what} a name", code="empty-name")


def numbers(
    frame: pd.DataFrame,
    names: list[str],
    path: Path,
    *,
    rows: Sequence[str],
    options: TableOptions = AS_IT_IS,
    described: Iterable[str] = (),
) -> np.ndarray:
    """The float64 values of ``frame``, NaN for missing ones; an error names the first column that is not numeric.

    ``rows`` are the names of the rows. The columns ``described`` describe the rows, or seem to: an error about another
    one names them too.
    """
    import pandas as pd

    wrong: dict[str, pd.Series] = {}  # the fields that are no numbers, of each column that has some
    per_row = np.zeros(len(frame), dtype=np.intp)  # their number
    texts: list[str] = []  # columns of which these are most
    for position, dtype in enumerate(frame.dtypes):
        if dtype.kind in "iuf":
            continue
        column = frame.iloc[:, position].astype(object)
        bad = column.notna() & ~column.isin(options.markers)
        if dtype.kind != "b":
            number = pd.to_numeric(column, errors="coerce").notna()
            # where the comma is the decimal sign, the reader has made numbers of all others
            bad &= ~number | (column.map(lambda value: isinstance(value, str)) & (options.decimal == ","))
        if bad.any():
            wrong[names[position]] = column[bad]
            per_row += bad.to_numpy()
            texts += [names[position]] if 2 * bad.sum() >= column.notna().sum() else []
    if wrong:
        name, bad = next(iter(wrong.items()))
        row = int(per_row.argmax())
        if per_row[row] > _MANY * len(names) > len(texts) and len(names) > 2:
            words = {str(column.get(frame.index[row], "")) for column in wrong.values()}
            elsewhere = any(
                column.drop(frame.index[row], errors="ignore").isin(words).any() for column in wrong.values()
            )
            if not elsewhere and any(re.search(r"[^\W\d]", word) for word in words):
                shown = some(map(repr, sorted(words)), 3)
                text = f"row {rows[row]!r} of {path} holds texts ({shown}), not numbers: remove it"
                raise InputError(text, code="row-of-texts")
        empty = [names[k] for k in range(len(names)) if frame.iloc[:, k].isna().all()]
        others = None if len(texts) == len(names) else [*described, *texts, *empty]
        raise InputError(_not_a_number(bad, name, path, options, others, marker=name not in texts))
    # numbers stored as objects (decimals, only nulls) are converted by pandas, all others at once
    if all(dtype.kind in "iuf" and isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        values = frame.to_numpy(dtype=np.float64)
    else:
        values = (
            frame.mask(frame.isin(options.markers)).apply(pd.to_numeric).to_numpy(dtype=np.float64, na_value=np.nan)
        )
    if options.codes:
        values = np.where(np.isin(values, options.codes), np.nan, values)
    return values


def _not_a_number(
    bad: pd.Series, column: str, path: Path, options: TableOptions, described: Iterable[str] | None, *, marker: bool
) -> Message:
    """The message; ``marker`` is whether most of the column are numbers, so that a text may mean missing.

    All columns that may be ``described`` are named to be passed; None means that no column would be left.
    """
    value = bad.iloc[0]
    what, code = f"column {column!r} of {path} holds {value!r}, not a number: ", "not-a-number"
    texts = [text for text in bad if isinstance(text, str)]
    if options.decimal == "." and isinstance(value, str) and DECIMAL_COMMA.fullmatch(value):
        if all(re.fullmatch(_THOUSANDS, text) for text in texts):
            text = f"{what}remove the commas if they separate thousands; if they are decimal signs, pass {{decimal}}"
            return Message(text, code="decimal-comma", decimal=",")
        return Message(f"{what}if the comma is the decimal sign, pass {{decimal}}", code="decimal-comma", decimal=",")
    if isinstance(value, str) and re.fullmatch(f"{_THOUSANDS}|{_GROUPED}", value):
        return Message(f"{what}write numbers without separators of thousands", code="thousands")
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[\d.,]+\s*%\s*", value):
        return Message(f"{what}write percentages as numbers, without the sign", code="percent-sign")
    if options.decimal == "," and isinstance(value, str) and re.search(r"\d\.\d", value):
        text = f"{what}{{decimal}} was passed, so write decimals with a comma, or leave it out"
        return Message(text, code=code, decimal=",")
    if marker and isinstance(value, str):
        text = f"{what}if it means missing, pass {{missing}}, write NA, or leave the cell empty"
        return Message(text, code=code, missing=",".join(dict.fromkeys(texts)) if len(set(texts)) < 6 else value)
    if described is None:
        text = f"{what}write numbers alone in all columns of values, and missing values as NA, or leave them empty"
        return Message(text, code=code)
    text = (
        f"{what}if the column describes the rows, pass {{annotation}}; write missing values as NA, or leave them empty"
    )
    return Message(
        text, code=code, annotation=",".join(dict.fromkeys(name.replace(",", "*") for name in (*described, column)))
    )
