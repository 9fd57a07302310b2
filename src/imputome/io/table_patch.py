"""A text table in, the same text table out: only what was missing in it is written anew.

Header, order, separator, quotes, line ends and every other cell are copied as they stand, record by record, so that the
text is never held in memory; values are made in blocks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imputome.errors import InputError
from imputome.io.tables import BLOCK_BYTES, own_separator, table_suffix
from imputome.io.text import fields, is_blank, open_text, records, separator_of, text_writer

if TYPE_CHECKING:
    from imputome.core.imputation import Imputation
    from imputome.result.matrices import Shown

Line = tuple[np.ndarray, np.ndarray]  # positions of the missing values in a row of the table, and what to write there


def keeps_text(source: Path, path: Path) -> bool:
    """Whether a table ``source`` can be written to ``path`` with its text as it is: both text, of one kind."""
    kinds = [(table_suffix(each) or "").removesuffix(".gz").replace(".tsv", ".txt") for each in (source, path)]
    return kinds[0] == kinds[1] and kinds[0] in (".csv", ".txt")


def copy_text(source: Path, partial: Path) -> None:
    """The text of ``source`` byte by byte, packed or not as the name of ``partial`` says."""
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
    shape: tuple[int, int],
    known: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write the table ``source`` to ``partial`` with other values in place of the missing ones.

    Parameters
    ----------
    source : a text table.
    lines : what is missing in each of its rows, and what to write there, with 7 significant digits; see `missing`.
    shape : rows and columns of ``source`` without its names.
    known : written for each value that was there; None leaves it as it is.
    progress : called with (rows written, rows in all) after each row.

    Raises
    ------
    InputError
        ``source`` is not what it was when it was read.
    """
    rows, width = shape
    lines = iter(lines)
    changed = InputError(f"{source} changed while it was imputed: run this again")
    separator = separator_of(source, own_separator(table_suffix(source) or ""))
    empty: set[str] = set()  # the ways in which a missing value was seen to be written
    done = 0
    with open_text(source, with_mark=True) as handle, text_writer(partial) as out:
        text = records(handle, separator)
        out.write(next(text))
        for record in text:
            if is_blank(record, separator):
                out.write(record)
                continue
            positions, values = next(lines, (None, None))
            if positions is None or values is None:
                raise changed
            if known is None and not len(positions):
                out.write(record)
            else:
                cells = fields(record, separator)
                if cells is None or len(cells) != width + 1:
                    raise changed
                if known is not None:
                    cells[1:] = [known] * width
                for position, value in zip((positions + 1).tolist(), _texts(values), strict=True):
                    old = cells[position]
                    if known is None and old not in empty:
                        if _is_number(old):
                            raise changed
                        empty.add(old)
                    cells[position] = f'"{value}"' if old.startswith('"') else value
                out.write(separator.join(cells) + record[len(record.rstrip("\r\n")) :])
            done += 1
            if progress is not None:
                progress(done, rows)
    if done != rows:
        raise changed


def _texts(values: np.ndarray) -> list[str]:
    # + 0.0 makes 0 of -0; one format for all is three times as fast as one each
    return ("%.7g " * len(values) % tuple((values + 0.0).tolist())).split()


def _is_number(text: str) -> bool:
    try:
        value = float(text.strip('"'))
    except ValueError:
        return False
    return value == value


def missing(imputation: Imputation, shown: Shown, *, genes_in: str) -> Iterator[Line]:
    """The missing values of real-valued data row by row of its table, and for each what ``shown`` makes of it.

    Parameters
    ----------
    imputation : says which values were missing, n x G.
    shown : makes the values: the imputation itself, or what stands beside it.
    genes_in : ``"columns"`` or ``"rows"`` of the table.

    Cost: with genes in rows, the missing values are held twice, with their positions (16 bytes each).
    """
    return _by_gene(imputation, shown) if genes_in == "rows" else _by_cell(imputation, shown)


def _blocks(imputation: Imputation, shown: Shown) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of cells: the mask of what is missing, and all values."""
    n, G = imputation.shape
    step = max(1, BLOCK_BYTES // (4 * G))
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        given = imputation.data.block(part)
        mask = ~imputation.data.observed_block(part, None, given)
        # methods need not be asked for cells of which all is known
        yield mask, shown.rows(part) if mask.any() else given


def _by_cell(imputation: Imputation, shown: Shown) -> Iterator[Line]:
    for masks, values in _blocks(imputation, shown):
        for mask, row in zip(masks, values, strict=True):
            positions = np.flatnonzero(mask)
            yield positions, row[positions]


def _by_gene(imputation: Imputation, shown: Shown) -> Iterator[Line]:
    """The same by gene: models make all genes of a cell at once, so each cell is asked for once and then turned."""
    import scipy.sparse as sp

    n, G = imputation.shape
    counts, columns, found = [np.zeros(1, dtype=np.int64)], [], []
    for mask, values in _blocks(imputation, shown):
        counts.append(mask.sum(axis=1))
        columns.append(np.nonzero(mask)[1].astype(np.int32))
        found.append(values[mask])
    by_cell = sp.csr_array((np.concatenate(found), np.concatenate(columns), np.concatenate(counts).cumsum()), (n, G))
    del found, columns
    turned = by_cell.tocsc()
    del by_cell
    for start, stop in zip(turned.indptr, turned.indptr[1:], strict=False):
        yield turned.indices[start:stop], turned.data[start:stop]
