"""Tables in and out: CSV, TSV and Parquet to AnnData (always cells x genes), and an imputation to a table in chunks.

``genes_in`` says where the genes of a table are: in ``"columns"`` (one row per cell) or in ``"rows"``.
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
from imputome.io.integrity import check_memory
from imputome.io.table_layout import (
    AS_IT_IS,
    LOOKED_AT,
    TableOptions,
    annotation_columns,
    check_samples,
    frame_of_annotation,
    likely_annotation,
    warn_of_annotation,
    whole_names,
)
from imputome.io.table_reading import numbers, read_text
from imputome.io.text import safe_name, text_writer

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from imputome.core.imputation import Output
    from imputome.core.scales import Scale
    from imputome.result.matrices import Matrix

GenesIn = Literal["rows", "columns"]
Progress = Callable[[int, int], object]
TABLE_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")
BLOCK_BYTES = 2**23  # dense values held at a time
# each row group needs metadata for each column, and these tables have tens of thousands of columns
_PARQUET_BLOCK_BYTES = 2**27


def table_suffix(path: Path) -> str | None:
    """The one of `TABLE_SUFFIXES` that ``path`` ends in, or None."""
    name = path.name.lower()
    return next((suffix for suffix in TABLE_SUFFIXES if name.endswith(suffix)), None)


def check_genes_in(genes_in: str | None) -> None:
    """Check that the orientation of a table is given."""
    if genes_in not in get_args(GenesIn):
        got = "" if genes_in is None else f", not {genes_in!r}"
        text = f"a table does not say where its genes are: pass {{genes_in}} with rows or columns{got}"
        raise InputError(text, code="no-orientation", genes_in=...)


def suffix_of_table(path: Path) -> str:
    """The suffix of a table, which must have one of `TABLE_SUFFIXES`."""
    suffix = table_suffix(path)
    if suffix is None:
        raise InputError(f"{path} is not a table: give one of {', '.join(TABLE_SUFFIXES)}", code="not-a-table")
    return suffix


def suffix_of_file(path: Path) -> str:
    """The suffix of a table that must exist."""
    suffix = suffix_of_table(path)
    if not path.is_file():
        reason = "is a folder, not a table" if path.exists() else "does not exist"
        raise InputError(f"{path} {reason}", code="no-file")
    return suffix


# -- reading -----------------------------------------------------------------------------------------------------------
def read_table(
    path: str | Path,
    *,
    genes_in: str | None,
    dtype: type[np.floating[Any]] = np.float64,
    options: TableOptions = AS_IT_IS,
) -> AnnData:
    """Read a table of numbers with names on both sides.

    ``.csv``, ``.tsv`` and ``.txt`` (tabs), each also ``.gz``, have the row names in the first column; ``.parquet`` in
    its pandas index, else in its first column of strings. If the separator of the suffix does not fit the first lines,
    a comma, semicolon or tab that fits is used. ``dtype`` float32 halves the memory of text with missing values
    (`imputome.io.text.read_text`).

    The result is cells x genes, names as in the file. ``X`` is CSR for non-negative integers of which more than half
    are zero (float32 below 2**24, where it is exact, else float64), and dense float64 otherwise. Empty cells, single
    blanks, NA, NaN, N/A and null in any case, and what ``options`` name are NaN. Columns that describe the rows go to
    ``var`` (genes in rows) or ``obs``, with a warning; ``options.annotation`` names them, else they are recognised.
    Warnings say too where numbers like -1 or -999 seem to mean missing, and which samples are far off the scale of all
    others. A first column that seems to be no sample is refused.
    """
    path = Path(path)
    check_genes_in(genes_in)
    suffix = suffix_of_file(path)
    transposed = genes_in == "rows"
    if suffix == ".parquet":
        row_names, frame = _parquet_frame(path)
        names = [str(name) for name in frame.columns]
        columns = [frame.iloc[:LOOKED_AT, k].dropna().tolist() for k in range(frame.shape[1])]
        # the first column stands for the names of the rows, which the frame does not hold
        kept = annotation_columns(["", *names], [[], *columns], path, transposed=transposed, given=options.annotation)
        described = [k - 1 for k in kept]
        texts = [frame.iloc[:, k].astype(object).where(frame.iloc[:, k].notna(), "").tolist() for k in described]
        annotation = frame_of_annotation([names[k] for k in described], texts)
        taken = [k for k in range(frame.shape[1]) if k not in described]
        frame, column_names = frame.iloc[:, taken], [names[k] for k in taken]
        if frame.size == 0:
            text = f"{path} holds no values: it has {frame.shape[0]} rows and {frame.shape[1]} columns of numbers"
            raise InputError(text, code="empty")
        values = numbers(
            frame,
            column_names,
            path,
            rows=row_names,
            options=options,
            described=[*annotation.columns, *(likely_annotation(column_names) if transposed else [])],
        )
        values = np.ascontiguousarray(values.T if transposed else values)
        row_names = whole_names(row_names)
    else:
        row_names, column_names, values, annotation = read_text(
            path, suffix_separator(suffix), transposed=transposed, dtype=dtype, options=options
        )
    if options.annotation is None:
        warn_of_annotation(annotation.columns, path, transposed=transposed)
    sample_names = column_names if transposed else row_names
    check_samples(values, sample_names, annotation.columns, path, transposed=transposed, options=options)
    adata = _to_anndata(values, *((column_names, row_names) if transposed else (row_names, column_names)))
    described_axis = adata.var if transposed else adata.obs
    for name in annotation:
        described_axis[name] = annotation[name].to_numpy()
    return adata


def suffix_separator(suffix: str) -> str:
    """The separator that the suffix of a text table promises."""
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
    with warnings.catch_warnings():  # the inspection of the input reports duplicated names
        warnings.filterwarnings("ignore", message=".*names are not unique")
        return AnnData(X, obs=obs, var=var)


def read_parquet(path: Path) -> pd.DataFrame:
    """The table of a Parquet file."""
    pa, pq = require_pyarrow("reading .parquet")
    try:
        file = pq.ParquetFile(path)
        # one run can stand for any number of values, so the size of the file is no bound
        check_memory(path, 8 * file.metadata.num_rows * file.metadata.num_columns)
        return file.read().to_pandas()
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        text = f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}"
        raise InputError(text, code="unreadable") from error


def _parquet_frame(path: Path) -> tuple[list[str], pd.DataFrame]:
    """Row names and the other columns."""
    import pandas as pd

    frame = read_parquet(path)
    if not isinstance(frame.index, pd.RangeIndex):
        names = frame.index
    else:
        strings = [k for k in range(frame.shape[1]) if pd.api.types.is_string_dtype(frame.iloc[:, k].dropna())]
        if not strings:
            text = f"{path} has no row names: save it with its index, or with a first column of names"
            raise InputError(text, code="no-row-names")
        names = frame.iloc[:, strings[0]]
        frame = frame.iloc[:, [k for k in range(frame.shape[1]) if k != strings[0]]]
    return [str(name) for name in names], frame


def require_pyarrow(what: str) -> tuple[Any, Any]:
    """pyarrow and its Parquet module, or the error that says how to install them."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra(what, "pyarrow", "parquet") from error
    return pa, pq


# -- writing -----------------------------------------------------------------------------------------------------------
def write_table(
    path: str | Path,
    matrix: Matrix,
    *,
    genes: Any = None,
    genes_in: str = "columns",
    scale: Scale | None = None,
    keep_observed: bool | None = None,
    output: Output = "value",
    progress: Progress | None = None,
) -> None:
    """Write a matrix, such as an imputation, as a table, in chunks.

    ``path`` appears, or changes, only when the table is complete.

    ``genes`` are positions; ``progress`` is called with (rows written, number of rows) after each chunk. Numbers have
    the fewest digits that read back as the same float32 or float64. The first column, ``index``, has the names.
    """
    path = Path(path)
    check_genes_in(genes_in)
    suffix_of_table(path)
    options = {"scale": scale, "keep_observed": keep_observed, "output": output}
    with atomic_path(path) as partial:
        fill_table(partial, matrix, genes=genes, genes_in=genes_in, options=options, progress=progress)


def table_blocks(
    matrix: Matrix,
    *,
    genes: Any = None,
    genes_in: str = "columns",
    options: Mapping[str, Any] = MappingProxyType({}),
    block_bytes: int | None = None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows of the table of a matrix, and their values, in blocks; ``options`` go to its ``rows``."""
    genes = np.arange(matrix.shape[1]) if genes is None else np.asarray(genes)
    by_gene = genes_in == "rows"
    n, width = (len(genes), matrix.shape[0]) if by_gene else (matrix.shape[0], len(genes))
    step = max(1, (block_bytes or BLOCK_BYTES) // (4 * max(1, width)))
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        if by_gene:
            yield part, matrix.rows(slice(None), genes=genes[part], **options).T
        else:
            yield part, matrix.rows(part, genes=genes, **options)


def fill_table(
    partial: Path,
    matrix: Matrix,
    *,
    genes: Any = None,
    genes_in: str = "columns",
    options: Mapping[str, Any] = MappingProxyType({}),
    annotation: pd.DataFrame | None = None,
    safe: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write any matrix that is made in blocks; ``options`` go to its ``rows``. The caller moves the file into place.

    ``annotation`` has columns that describe the rows of the table; they come after the names. ``safe`` is whether texts
    that a spreadsheet would take for formulas are changed (`imputome.io.text.safe_name`).
    """
    suffix = table_suffix(partial) or ""
    text = safe_name if safe else str
    cells = [text(str(name)) for name in matrix.obs_names]
    taken = matrix.var_names if genes is None else matrix.var_names[np.asarray(genes)]
    gene_names = [text(str(name)) for name in taken]
    row_names, column_names = (gene_names, cells) if genes_in == "rows" else (cells, gene_names)
    described = {} if annotation is None else {text(str(name)): annotation[name] for name in annotation}
    described = {name: [text(each) for each in column.astype(str)] for name, column in described.items()}

    def blocks() -> Iterator[tuple[list[list[str]], np.ndarray]]:
        block_bytes = _PARQUET_BLOCK_BYTES if suffix == ".parquet" else BLOCK_BYTES
        parts = table_blocks(matrix, genes=genes, genes_in=genes_in, options=options, block_bytes=block_bytes)
        for part, values in parts:
            yield [texts[part] for texts in (row_names, *described.values())], values
            if progress is not None:
                progress(part.stop, len(row_names))

    if suffix == ".parquet":
        _write_parquet(partial, list(described), column_names, blocks())
    else:
        _write_text(partial, suffix_separator(suffix), [*described, *column_names], blocks())


def _write_text(
    path: Path, separator: str, columns: list[str], blocks: Iterator[tuple[list[list[str]], np.ndarray]]
) -> None:
    with text_writer(path) as handle:
        writer = csv.writer(handle, delimiter=separator, lineterminator="\n")
        writer.writerow(["index", *columns])
        rows = max(1, 2**13 // len(columns))
        for names, values in blocks:
            # NumPy prints the fewest digits that round-trip in the precision of the array; Python would print a
            # float32 with the 17 digits of a float64. Few values at a time, because each text takes 128 bytes.
            for k in range(0, len(values), rows):
                texts = _texts(values[k : k + rows]).tolist()
                first = zip(*(each[k : k + rows] for each in names), strict=True)
                writer.writerows([*name, *row] for name, row in zip(first, texts, strict=True))


def _texts(values: np.ndarray) -> np.ndarray:
    """Numbers as texts; a missing value is NA, which R reads as missing too."""
    texts = values.astype(str)
    if values.dtype.kind == "f" and (missing := np.isnan(values)).any():
        texts[missing] = "NA"
    return texts


def check_parquet_names(adata: AnnData, genes_in: str, genes: np.ndarray | None) -> None:
    """Check that Parquet can hold the names as columns."""
    names = adata.obs_names if genes_in == "rows" else adata.var_names if genes is None else adata.var_names[genes]
    _check_unique(list(names))


def _check_unique(columns: list[str]) -> None:
    if len(set(columns)) != len(columns):
        text = "Parquet needs unique column names and some are duplicated: write .csv.gz or .h5ad instead"
        raise InputError(text, code="names-not-unique")


def _write_parquet(
    path: Path, described: list[str], columns: list[str], blocks: Iterator[tuple[list[list[str]], np.ndarray]]
) -> None:
    pa, pq = require_pyarrow("writing .parquet")
    columns = [*described, *columns]
    _check_unique(columns)
    writer = None
    # pandas uses the name "__index_level_0__" if a gene is called "index"
    fields = ["__index_level_0__" if "index" in columns else "index", *columns]
    try:
        for names, values in blocks:
            texts = [pa.array(each, pa.string()) for each in names]
            arrays = [*texts, *map(pa.array, np.ascontiguousarray(values.T))]
            table = pa.Table.from_arrays(arrays, names=fields)
            if writer is None:
                # dictionaries only cost time on columns of distinct floats
                writer = pq.ParquetWriter(path, table.schema, use_dictionary=False)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
