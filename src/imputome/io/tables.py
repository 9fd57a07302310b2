"""Tables in and out: CSV, TSV and Parquet to AnnData (always cells x genes), and an imputation to a table in chunks.

A table does not say where its genes are, so ``genes_in`` does: ``"columns"`` (one row a cell) or ``"rows"``.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from imputome.core.atomic import atomic_path
from imputome.errors import InputError, missing_extra
from imputome.io.text import text_writer
from imputome.io.text_reading import numbers, read_text, warn_of_codes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from imputome.core.imputation import Imputation, Output
    from imputome.core.scales import Scale
    from imputome.result.matrices import Shown

GenesIn = Literal["rows", "columns"]
Progress = Callable[[int, int], object]
TABLE_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")
BLOCK_BYTES = 2**23  # dense values held at a time
# a row group costs metadata for each column, and these tables have tens of thousands of columns
_PARQUET_BLOCK_BYTES = 2**27


def table_suffix(path: Path) -> str | None:
    """The one of `TABLE_SUFFIXES` that ``path`` ends in, or None."""
    name = path.name.lower()
    return next((suffix for suffix in TABLE_SUFFIXES if name.endswith(suffix)), None)


def check_genes_in(genes_in: str | None) -> None:
    """Refuse a table without a stated orientation."""
    if genes_in is None:
        raise InputError(
            "a table does not say where its genes are: pass --genes-in rows or --genes-in columns (genes_in=...)"
        )
    if genes_in not in get_args(GenesIn):
        raise InputError(f'genes_in is "rows" or "columns", not {genes_in!r}')


# -- reading -----------------------------------------------------------------------------------------------------------
def read_table(path: str | Path, *, genes_in: str | None, dtype: type[np.floating[Any]] = np.float64) -> AnnData:
    """Read a table of numbers with names on both sides.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv`` or ``.txt`` (tabs), each also ``.gz``, with the row names in the first column; or
        ``.parquet`` with the row names in its pandas index, else in its first column of strings. Text whose first lines
        another of comma, semicolon and tab splits alike is taken to be separated by that.
    genes_in
        ``"columns"`` or ``"rows"``.
    dtype
        ``np.float32`` halves the memory of text with missing values; see `imputome.io.text_reading.read_text`.

    Returns
    -------
    AnnData, cells x genes, names as in the file. ``X`` is CSR for non-negative integers of which more than half are
    zero (float32 below 2**24, where it is exact, else float64), and dense float64 otherwise; empty cells, single
    blanks, and NA, NaN, N/A and null in any case are NaN. A number like -999 far below all others, which probably means
    missing, is warned of.

    Raises
    ------
    InputError
        No or a wrong ``genes_in``; an empty, ragged or damaged file; a value that is no number; a name that is empty,
        or values where the names should be.
    """
    path = Path(path)
    check_genes_in(genes_in)
    suffix = table_suffix(path)
    if suffix is None:
        raise InputError(f"{path} is no table: give one of {', '.join(TABLE_SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, not a table")
    turned = genes_in == "rows"
    if suffix == ".parquet":
        row_names, column_names, frame = _parquet_frame(path)
        if frame.shape[0] == 0 or frame.shape[1] == 0:
            raise InputError(
                f"{path} holds no values: it has {frame.shape[0]} rows and {frame.shape[1]} columns of numbers"
            )
        values = numbers(frame, column_names, path)
        values = np.ascontiguousarray(values.T if turned else values)
    else:
        row_names, column_names, values = read_text(path, own_separator(suffix), turned=turned, dtype=dtype)
    warn_of_codes(values, path)
    return _to_anndata(values, *((column_names, row_names) if turned else (row_names, column_names)))


def own_separator(suffix: str) -> str:
    """What the name of a text table promises."""
    return "," if suffix.startswith(".csv") else "\t"


def _to_anndata(values: np.ndarray, obs_names: list[str], var_names: list[str]) -> AnnData:
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

    X: Any = values
    # a NaN fails every one of these comparisons, so tables with missing values stay dense
    if np.count_nonzero(values) * 2 < values.size and values.min() >= 0 and bool((values == np.rint(values)).all()):
        X = sp.csr_matrix(values, dtype=np.float32 if values.max() < 2**24 else np.float64)
    obs, var = (pd.DataFrame(index=pd.Index(names, dtype=object)) for names in (obs_names, var_names))
    with warnings.catch_warnings():  # duplicates stay as they are here and are reported when the input is inspected
        warnings.filterwarnings("ignore", message=".*names are not unique")
        return AnnData(X, obs=obs, var=var)


def _parquet_frame(path: Path) -> tuple[list[str], list[str], pd.DataFrame]:
    pa, pq = require_pyarrow("reading .parquet")
    import pandas as pd

    try:
        frame = pq.ParquetFile(path).read().to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if not isinstance(frame.index, pd.RangeIndex):
        names = frame.index
    else:
        strings = [k for k in range(frame.shape[1]) if pd.api.types.is_string_dtype(frame.iloc[:, k].dropna())]
        if not strings:
            raise InputError(f"{path} has no row names: save it with its index, or with a first column of names")
        names = frame.iloc[:, strings[0]]
        frame = frame.iloc[:, [k for k in range(frame.shape[1]) if k != strings[0]]]
    return [str(name) for name in names], [str(name) for name in frame.columns], frame


def require_pyarrow(what: str) -> tuple[Any, Any]:
    """pyarrow and its Parquet module, or the error that says how to get them."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra(what, "pyarrow", "parquet") from error
    return pa, pq


# -- writing -----------------------------------------------------------------------------------------------------------
def write_table(
    path: str | Path,
    imputation: Imputation,
    *,
    genes: Any = None,
    genes_in: str = "columns",
    scale: Scale | None = None,
    keep_observed: bool | None = None,
    output: Output = "value",
    progress: Progress | None = None,
) -> None:
    """Write an imputation as a table, in chunks; ``path`` appears, or changes, only when the table is complete.

    Parameters
    ----------
    path
        Ends in one of `TABLE_SUFFIXES`; an existing file is replaced.
    imputation
        Whose values to write.
    genes
        Positions of the genes to write; None means all.
    genes_in
        ``"columns"`` (one row a cell) or ``"rows"``.
    scale, keep_observed, output
        As in `Imputation.rows`.
    progress
        Called with (rows written, rows in all) after each chunk.

    Numbers are the shortest that read back as the same float32 or float64. The first column, ``index``, has the names.
    """
    path = Path(path)
    check_genes_in(genes_in)
    if table_suffix(path) is None:
        raise InputError(f"{path} is no table: give one of {', '.join(TABLE_SUFFIXES)}")
    options = {"scale": scale, "keep_observed": keep_observed, "output": output}
    with atomic_path(path) as partial:
        fill_table(partial, imputation, genes=genes, genes_in=genes_in, options=options, progress=progress)


def fill_table(
    partial: Path,
    shown: Shown,
    *,
    genes: Any = None,
    genes_in: str = "columns",
    options: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress | None = None,
) -> None:
    """`write_table` of any matrix that is made in blocks, ``options`` for its ``rows``; the caller moves the file."""
    suffix = table_suffix(partial) or ""
    genes = np.arange(shown.shape[1]) if genes is None else np.asarray(genes)
    cells, gene_names = [str(name) for name in shown.obs_names], [str(n) for n in shown.var_names[genes]]
    by_gene = genes_in == "rows"
    row_names, column_names = (gene_names, cells) if by_gene else (cells, gene_names)
    block_bytes = _PARQUET_BLOCK_BYTES if suffix == ".parquet" else BLOCK_BYTES
    step = max(1, block_bytes // (4 * max(1, len(column_names))))

    def blocks() -> Iterator[tuple[list[str], np.ndarray]]:
        for start in range(0, len(row_names), step):
            stop = min(start + step, len(row_names))
            if by_gene:
                values = shown.rows(slice(None), genes=genes[start:stop], **options).T
            else:
                values = shown.rows(slice(start, stop), genes=genes, **options)
            yield row_names[start:stop], values
            if progress is not None:
                progress(stop, len(row_names))

    if suffix == ".parquet":
        _write_parquet(partial, column_names, blocks())
    else:
        _write_text(partial, own_separator(suffix), column_names, blocks())


def _write_text(path: Path, separator: str, columns: list[str], blocks: Iterator[tuple[list[str], np.ndarray]]) -> None:
    with text_writer(path) as handle:
        writer = csv.writer(handle, delimiter=separator, lineterminator="\n")
        writer.writerow(["index", *columns])
        rows = max(1, 2**13 // len(columns))
        for names, values in blocks:
            # NumPy prints the shortest digits that round-trip in the array's own precision; Python's floats would
            # show a float32 with the 17 digits of a float64. Few values at a time: each takes 128 bytes as a text.
            for k in range(0, len(names), rows):
                texts = values[k : k + rows].astype(str).tolist()
                writer.writerows([name, *row] for name, row in zip(names[k : k + rows], texts, strict=True))


def check_parquet_names(adata: AnnData, genes_in: str, genes: np.ndarray | None) -> None:
    """Refuse, before any work, names that Parquet cannot have as columns."""
    names = adata.obs_names if genes_in == "rows" else adata.var_names if genes is None else adata.var_names[genes]
    _check_unique(list(names))


def _check_unique(columns: list[str]) -> None:
    if len(set(columns)) != len(columns):
        raise InputError("Parquet needs unique column names and some are duplicated: write .csv.gz or .h5ad instead")


def _write_parquet(path: Path, columns: list[str], blocks: Iterator[tuple[list[str], np.ndarray]]) -> None:
    pa, pq = require_pyarrow("writing .parquet")
    _check_unique(columns)
    writer = None
    # "__index_level_0__" is what pandas would call it, for the case that a gene is called "index"
    fields = ["__index_level_0__" if "index" in columns else "index", *columns]
    try:
        for names, values in blocks:
            arrays = [pa.array(names, pa.string()), *map(pa.array, np.ascontiguousarray(values.T))]
            table = pa.Table.from_arrays(arrays, names=fields)
            if writer is None:
                # dictionaries only cost time on columns of distinct floats
                writer = pq.ParquetWriter(path, table.schema, use_dictionary=False)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
