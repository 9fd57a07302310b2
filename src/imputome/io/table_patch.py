"""Write a text table again with only some values replaced: the missing ones, or all of them.

Comments, header, columns that describe the rows, order, separator, quotes, line ends and all other cells are copied
byte by byte, record by record, so the text is never in memory as a whole. This is written by hand because no library
keeps the text of a table.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.io.table_layout import AS_IT_IS, TableOptions, layout_of
from imputome.io.tables import BLOCK_BYTES, suffix_separator, table_blocks, table_suffix
from imputome.io.text import (
    BYTE_ORDER_MARK,
    fields,
    is_blank,
    is_number,
    open_text,
    records,
    safe_name,
    skip_lines,
    text_writer,
)

if TYPE_CHECKING:
    from imputome.core.imputation import Imputation
    from imputome.result.matrices import Matrix

Line = tuple[np.ndarray, np.ndarray]  # positions of the values to replace in a row of the table, and their values


def keeps_text(source: Path, path: Path) -> bool:
    """Whether the text of the table ``source`` can be kept in ``path``: both are text tables of the same kind."""
    kinds = [(table_suffix(each) or "").removesuffix(".gz").replace(".tsv", ".txt") for each in (source, path)]
    return kinds[0] == kinds[1] and kinds[0] in (".csv", ".txt")


def copy_text(source: Path, partial: Path) -> None:
    """Copy the text of ``source``, gzipped or not as the name of ``partial`` says."""
    if str(source).lower().endswith(".gz") == str(partial).lower().endswith(".gz"):
        shutil.copyfile(source, partial)
        return
    with open_text(source, with_mark=True) as text, text_writer(partial) as out:
        shutil.copyfileobj(text, out)


def rewrite(
    source: Path,
    partial: Path,
    lines: Iterable[Line],
    *,
    genes_in: str,
    shape: tuple[int, int],
    whole: bool = False,
    observed: str | None = None,
    safe: bool = False,
    options: TableOptions = AS_IT_IS,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write the table ``source``, of ``shape`` rows x columns of values, with its missing values replaced.

    ``lines`` are those of `missing`, whose values get 7 significant digits; or, if the ``whole`` table is replaced,
    those of `every`, whose values get the fewest digits that read back as the same number. ``observed`` is the text to
    write for each observed value, by default its own. ``safe`` is whether names that a spreadsheet would take for
    formulas are changed. ``options`` are those that the table was read with. ``progress`` is called with (rows written,
    number of rows) after each row. An error if ``source`` has other rows, columns or missing values than were read.
    """
    rows, width = shape
    lines = iter(lines)
    texts_of = _shortest if whole else _texts
    changed = InputError(f"{source} changed while it was imputed: run this again", code="input-changed")
    expected = suffix_separator(table_suffix(source) or "")
    layout = layout_of(source, expected, transposed=genes_in == "rows", options=options)
    separator, places = layout.separator, np.array(layout.values)
    replaceable: set[str] = set()  # texts that mean a missing value in this table
    if len(places) != width:
        raise changed
    done = 0
    with open_text(source, with_mark=True) as handle, text_writer(partial) as out:
        out.write(skip_lines(handle, layout.comments))
        text = records(handle, separator)
        out.write(_safe(next(text), separator, set()) if safe else next(text))
        for record in text:
            if is_blank(record, separator):
                out.write(record)
                continue
            positions, values = next(lines, (None, None))
            if positions is None or values is None:
                raise changed
            if safe:
                record = _safe(record, separator, set(layout.values))
            if observed is None and not len(positions):
                out.write(record)
            else:
                cells = fields(record, separator)
                if cells is None or len(cells) != len(layout.names):
                    raise changed
                if observed is not None:
                    for position in layout.values:
                        cells[position] = observed
                for position, value in zip(places[positions].tolist(), texts_of(values), strict=True):
                    old = cells[position]
                    if not whole and observed is None and old not in replaceable:
                        if is_number(old) and not options.is_code(old):
                            raise changed
                        replaceable.add(old)
                    new = value.replace(".", ",") if options.decimal == "," else value
                    cells[position] = f'"{new}"' if old.startswith('"') or separator in new else new
                out.write(separator.join(cells) + record[len(record.rstrip("\r\n")) :])
            done += 1
            if progress is not None:
                progress(done, rows)
    if done != rows:
        raise changed


def _safe(record: str, separator: str, values: set[int]) -> str:
    """The record with its texts, but not its ``values``, as `safe_name` has them."""
    body = record.removeprefix(BYTE_ORDER_MARK)
    cells = fields(body, separator) or []
    cells = [
        cell if k in values else '"' + safe_name(cell[1:]) if cell.startswith('"') else safe_name(cell)
        for k, cell in enumerate(cells)
    ]
    return record[: len(record) - len(body)] + separator.join(cells) + body[len(body.rstrip("\r\n")) :]


def every(matrix: Matrix, *, genes_in: str, options: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Line]:
    """For each row of the table, all positions and the values of ``matrix``; ``options`` go to its ``rows``."""
    for _, block in table_blocks(matrix, genes_in=genes_in, options=options):
        for values in block:
            yield np.arange(len(values)), values


def _shortest(values: np.ndarray) -> list[str]:
    return [text.removesuffix(".0") for text in values.astype(str).tolist()]


def _texts(values: np.ndarray) -> list[str]:
    # + 0.0 turns -0 into 0; one format for all values is three times as fast as one for each
    return ("%.7g " * len(values) % tuple((values + 0.0).tolist())).split()


def missing(imputation: Imputation, matrix: Matrix, *, genes_in: str) -> Iterator[Line]:
    """For each row of the table, the positions of the missing values and their values in ``matrix``.

    ``matrix`` is the imputation itself, its standard deviations, or a multiple imputation. Cost: with genes in rows,
    the missing values are held twice, with their positions (16 bytes each).
    """
    if genes_in == "rows":
        yield from _by_gene(imputation, matrix)
        return
    for masks, values in _blocks(imputation, matrix):
        for mask, row in zip(masks, values, strict=True):
            positions = np.flatnonzero(mask)
            yield positions, row[positions]


def _blocks(imputation: Imputation, matrix: Matrix) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of cells: where values are missing, and all values."""
    n, G = imputation.shape
    step = max(1, BLOCK_BYTES // (4 * G))
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        missing = imputation.missing(part)
        # nothing is computed for cells without a missing value
        yield missing, matrix.rows(part) if missing.any() else missing


def _by_gene(imputation: Imputation, matrix: Matrix) -> Iterator[Line]:
    """The same by gene: models compute all genes of a cell at once, so each cell is computed once, then transposed."""
    import scipy.sparse as sp

    n, G = imputation.shape
    counts, columns, imputed = [np.zeros(1, dtype=np.int64)], [], []
    for mask, values in _blocks(imputation, matrix):
        counts.append(mask.sum(axis=1))
        columns.append(np.nonzero(mask)[1].astype(np.int32))
        imputed.append(values[mask])
    by_cell = sp.csr_array((np.concatenate(imputed), np.concatenate(columns), np.concatenate(counts).cumsum()), (n, G))
    del imputed, columns
    by_gene = by_cell.tocsc()
    del by_cell
    for start, stop in zip(by_gene.indptr, by_gene.indptr[1:], strict=False):
        yield by_gene.indices[start:stop], by_gene.data[start:stop]
