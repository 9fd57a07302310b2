"""Reading inputs of every supported format into AnnData (cells x genes), with the names of the file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.compressed import check_sparse, repeated_entries
from imputome.core.stored import stays_stored
from imputome.errors import ImputomeError, InputError, missing_extra, some
from imputome.io.integrity import (
    GZIP_RATIO,
    Fingerprint,
    check_declared,
    check_links,
    check_memory,
    check_store,
    check_texts,
    is_zarr,
)
from imputome.io.modalities import check_modality_unused, modality_of
from imputome.io.store import has_half_precision
from imputome.io.table_layout import AS_IT_IS, TableOptions
from imputome.io.tables import check_genes_in, read_table, table_suffix

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

READABLE = ".h5ad, .h5mu, .zarr, 10x .h5, a 10x or Parse folder, .loom, .csv, .tsv, .txt (also .gz), .parquet"


def read(
    path: str | Path,
    *,
    genes_in: str | None = None,
    transpose: bool = False,
    backed: bool | None = False,
    dtype: type[np.floating[Any]] = np.float64,
    options: TableOptions = AS_IT_IS,
    modality: str | None = None,
) -> AnnData:
    """Read a file or folder into AnnData; an error if it is missing, damaged or of an unknown format, or lies.

    Formats: ``.h5ad``, ``.zarr``, ``.h5mu`` (of which one ``modality`` is read, by default the only one), 10x ``.h5``,
    a 10x folder (``matrix.mtx``, with ``genes.tsv`` or ``features.tsv``, gzipped or not, all with the same prefix or
    without one), a Parse folder (``DGE.mtx`` or ``count_matrix.mtx``), ``.loom``, and tables (see
    `imputome.io.tables.read_table`), which need ``genes_in`` and take ``dtype`` and ``options``. ``transpose`` is for
    the others, if their genes are in the rows. The numbers that ``options.missing`` names become NaN in every format,
    in ``X``, in the layers and in ``raw``.

    With ``backed``, matrices of an ``.h5ad`` or ``.zarr`` that are larger than 256 MiB stay on the disk, to be read in
    windows of rows (`imputome.core.stored`); with None they do if nothing else that is asked for prevents it.

    Nothing is used before it is checked (`imputome.io.integrity`), and what changes while it is read is refused.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist", code="no-file")
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is neither a file nor a folder: give one of {READABLE}", code="unknown-format")
    if backed is None:
        backed = can_stay_stored(path) and not transpose and not options.missing and genes_in is None
    check_modality_unused(path, modality)
    seen = Fingerprint.of(path)
    how: dict[str, Any] = {"genes_in": genes_in, "transpose": transpose, "backed": backed, "modality": modality}
    adata = _read(path, **how, dtype=dtype, options=options)
    seen.check()
    return adata


def _read(
    path: Path,
    *,
    genes_in: str | None,
    transpose: bool,
    backed: bool,
    dtype: type[np.floating[Any]],
    options: TableOptions,
    modality: str | None,
) -> AnnData:
    if backed and not can_stay_stored(path):
        text = f"only .h5ad files and .zarr stores can be opened backed, not {path}: read it into memory, or convert it"
        raise InputError(text, code="backed-needs-h5ad", parameter="backed")
    if table_suffix(path) is not None and path.is_file():
        check_genes_in(genes_in)
        if transpose:
            text = "{transpose} is not for tables: leave it out, and say with {genes_in} where the genes are"
            raise InputError(text, code="option-unused", transpose=..., genes_in=...)
        return read_table(path, genes_in=genes_in, dtype=dtype, options=options)
    if genes_in is not None:
        text = f"{{genes_in}} is for tables only, and {path} is not a table: leave it out"
        raise InputError(text, code="option-unused", genes_in=...)
    for name, given in (("decimal", options.decimal != "."), ("annotation", options.annotation is not None)):
        if given:
            text = f"{{{name}}} is for tables only, and {path} is not a table: leave it out"
            raise InputError(text, code="option-unused", parameter=name, **{name: ...})
    if options.missing and (backed or options.markers):
        text = f"in {path}, {{missing}} can only be numbers, of a matrix in memory: leave other values out"
        raise InputError(text, code="option-unused", missing=...)
    what, reader = _reader(path, backed, modality)
    try:
        with warnings.catch_warnings():  # the inspection of the input reports duplicated names
            warnings.filterwarnings("ignore", message=".*names are not unique")
            adata = reader()
            check_sparse(adata, f" of {path}")
            check_texts(adata, path)
            adata = _with_missing(adata, options.codes)
            return adata.T if transpose else adata
    except (ImputomeError, MemoryError):
        raise
    except Exception as error:  # damaged files make the libraries fail in too many ways to list
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        text = f"{path} cannot be read as {what}, it may be damaged or of another kind: {reason}"
        raise InputError(text, code="unreadable") from error


def can_stay_stored(path: Path) -> bool:
    """Whether matrices of this file or folder can be read in windows of rows."""
    return is_zarr(path) if path.is_dir() else path.suffix.lower() == ".h5ad"


def _with_missing(adata: AnnData, codes: list[float]) -> AnnData:
    """The AnnData with NaN for these numbers, in ``X``, in the layers and in ``raw``."""
    if not codes:
        return adata
    if adata.X is not None:
        adata.X = _without_codes(adata.X, codes)
    for name in adata.layers:
        adata.layers[name] = _without_codes(adata.layers[name], codes)
    if adata.raw is not None:
        raw = adata.raw.to_adata()
        raw.X = _without_codes(raw.X, codes)
        adata.raw = raw
    return adata


def _without_codes(matrix: Any, codes: list[float]) -> Any:
    if 0 in codes and not isinstance(matrix, np.ndarray):  # zeros are not stored
        matrix = matrix.toarray()
    changed = matrix.astype(np.result_type(matrix.dtype, np.float32))
    values = changed if isinstance(changed, np.ndarray) else changed.data
    values[np.isin(values, np.asarray(codes, values.dtype))] = np.nan
    return changed


def _reader(path: Path, backed: bool, modality: str | None) -> tuple[str, Callable[[], AnnData]]:
    """The format of ``path``, by its name, and the call that reads it."""
    if path.is_dir() and is_zarr(path):
        return "a .zarr store", lambda: _read_zarr(path, backed)
    if path.is_dir() or _is_matrix(path):
        reader = _folder_reader(path)
        if reader is None:
            text = f"the folder {path} is neither a .zarr store nor a 10x or Parse folder with a matrix (.mtx)"
            raise InputError(text, code="unknown-format")
        return reader
    suffix = path.suffix.lower()
    if suffix == ".h5ad":
        return "an .h5ad file", lambda: _read_h5ad(path, backed)
    if suffix == ".h5":
        return "a 10x .h5 file", lambda: _read_10x_h5(path)
    if suffix == ".loom":
        return "a .loom file", lambda: _read_loom(path)
    if suffix == ".h5mu":
        return "an .h5mu file", lambda: _read_h5mu(path, modality)
    raise InputError(f"{path} has no known format: give one of {READABLE}", code="unknown-format")


def _read_h5ad(path: Path, backed: bool) -> AnnData:
    import anndata
    import h5py

    if backed:
        root = h5py.File(path, "r")  # open as long as its matrices are used
        check_store(root, path, lazy=True)
        adata = _read_dispatched(root, stored=True)
        raw = [] if adata.raw is None else [adata.raw.X]
        if not any(stays_stored(matrix) for matrix in (adata.X, *adata.layers.values(), *raw)):
            root.close()
        return adata
    with h5py.File(path, "r") as root:
        check_store(root, path)
        if has_half_precision(root):
            return _read_dispatched(root)
    return anndata.read_h5ad(path)


def _read_h5mu(path: Path, modality: str | None) -> AnnData:
    import h5py
    from anndata.io import read_elem

    with h5py.File(path, "r") as root:
        check_links(root, path)  # before one is followed
        group = modality_of(root, path, modality)
        check_store(group, path)
        return _read_dispatched(group) if has_half_precision(group) else read_elem(group)


def _read_zarr(path: Path, backed: bool) -> AnnData:
    import anndata
    import zarr

    root = zarr.open(str(path), mode="r")
    check_store(root, path, lazy=backed)
    return _read_dispatched(root, stored=True) if backed else anndata.read_zarr(str(path))


def _read_10x_h5(path: Path) -> AnnData:
    import scanpy as sc

    _check_hdf5(path)
    return sc.read_10x_h5(path, gex_only=False)


def _check_hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "r") as root:
        check_store(root, path)


def _read_dispatched(root: Any, *, stored: bool = False) -> AnnData:
    """An AnnData whose sparse matrices in half precision, which SciPy does not have, are read in float32.

    With ``stored``, large matrices of cells x genes stay where they are, if they are stored by rows.
    """
    import scipy.sparse as sp
    from anndata.experimental import read_dispatched
    from anndata.io import sparse_dataset

    def read(function: Callable[[Any], Any], name: str, element: Any, *, iospec: Any) -> Any:
        kinds = {"csr_matrix": sp.csr_matrix, "csc_matrix": sp.csc_matrix}
        place = name.strip("/")
        if stored and (place in ("X", "raw/X") or place.startswith("layers/")):
            kind = iospec.encoding_type
            matrix = sparse_dataset(element) if kind == "csr_matrix" else element if kind == "array" else None
            if matrix is not None and stays_stored(matrix):
                return matrix
        if iospec.encoding_type not in kinds or element["data"].dtype != "float16":
            return function(element)
        parts = element["data"][()].astype("float32"), element["indices"][()], element["indptr"][()]
        return kinds[iospec.encoding_type](parts, shape=tuple(element.attrs["shape"]))

    return read_dispatched(root, callback=read)


def _read_loom(path: Path) -> AnnData:
    try:
        import loompy  # noqa: F401
    except ImportError as error:
        raise missing_extra("reading .loom", "loompy", "loom") from error
    from anndata.io import read_loom

    _check_hdf5(path)
    # the main matrix; anndata would prefer a layer called "spliced"
    return read_loom(path, X_name="")


# -- folders of matrix, genes and cells --------------------------------------------------------------------------------
_MATRIX = "matrix.mtx"
_PARSE = ("DGE.mtx", "count_matrix.mtx", "DGE_filtered.mtx", "DGE_unfiltered.mtx")


def _part(folder: Path, *names: str) -> Path | None:
    """The first of ``names``, plain or gzipped, that is in ``folder``."""
    candidates = (folder / (name + packed) for name in names for packed in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _is_matrix(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    return (name.endswith(_MATRIX) or name in _PARSE) and path.is_file()


def _folder_reader(path: Path) -> tuple[str, Callable[[], AnnData]] | None:
    """The format and the reader of a folder, or of one matrix of several in a folder; None if there is no matrix."""
    folder = path if path.is_dir() else path.parent
    cells, genes = _part(folder, "cell_metadata.csv"), _part(folder, "all_genes.csv", "genes.csv")
    matrix = _part(folder, *_PARSE) if path.is_dir() else path
    if cells is not None and genes is not None and matrix is not None:
        return "a Parse folder", lambda: _read_parse_folder(matrix, genes, cells)
    if not path.is_dir():
        return "a 10x folder", lambda: _read_10x_folder(path)
    plain = _part(folder, _MATRIX)
    found = [plain] if plain else sorted(each for each in folder.iterdir() if _is_matrix(each))
    if len(found) > 1:
        names = some((each.name for each in found), 3)
        text = f"{path} holds {len(found)} samples ({names}): give the matrix of the one to read, such as {found[0]}"
        raise InputError(text, code="several-samples")
    return ("a 10x folder", lambda: _read_10x_folder(found[0])) if found else None


def _read_parse_folder(matrix: Path, genes: Path, cells: Path) -> AnnData:
    """The output of Parse Biosciences' pipeline: a matrix of cells x genes, and tables about both."""
    import pandas as pd
    from anndata import AnnData

    var = pd.read_csv(genes, dtype=str, keep_default_na=False)
    obs = pd.read_csv(cells, index_col=0, converters={0: str}, low_memory=False)
    n, G = _shape_of_mtx(matrix)
    if (n, G) != (len(obs), len(var)):
        text = f"{matrix} is {n} x {G}, but {cells.name} and {genes.name} have {len(obs)} cells and "
        raise InputError(f"{text}{len(var)} genes: take files of one output", code="inconsistent-parse-folder")
    var = var.rename(columns={"gene_id": "gene_ids"})
    symbol = var["gene_name"] if "gene_name" in var else var.iloc[:, 0]
    var.index = pd.Index(symbol.to_numpy(), dtype=object)
    obs.index = pd.Index(obs.index.astype(str).to_numpy(), dtype=object)
    return AnnData(_read_mtx(matrix), obs=obs, var=var)


def _read_10x_folder(matrix: Path) -> AnnData:
    """A 10x folder of any version, with all its feature types, each file gzipped or not.

    Files may have a prefix, as in GEO (``GSM1234_matrix.mtx.gz``). `scanpy.read_10x_mtx` is not used: it needs gzipped
    files with ``features.tsv`` and plain ones with ``genes.tsv`` (STARsolo, kallisto and GEO mix them), and reads a
    gene called NA as missing.
    """
    import pandas as pd
    from anndata import AnnData

    folder, prefix = matrix.parent, matrix.name.removesuffix(".gz").removesuffix(_MATRIX)
    features = _part(folder, f"{prefix}features.tsv", f"{prefix}genes.tsv")
    barcodes = _part(folder, f"{prefix}barcodes.tsv")
    if features is None or barcodes is None:
        first = f"{prefix}barcodes.tsv" if features is not None else f"{prefix}features.tsv or {prefix}genes.tsv"
        raise InputError(f"the 10x folder {folder} lacks {first} (plain or .gz)", code="incomplete-10x-folder")
    genes, cells = _columns(features), _columns(barcodes)
    G, n = _shape_of_mtx(matrix)
    if (n, G) != (len(cells), len(genes)):
        text = f"{matrix} is {G} genes x {n} cells, the names {len(genes)} x {len(cells)}"
        raise InputError(text, code="inconsistent-10x-folder")
    symbol = genes[1] if 1 in genes else genes[0]
    var: dict[str, Any] = {"gene_ids": genes[0].to_numpy()}
    if 2 in genes:
        var["feature_types"] = genes[2].to_numpy()
    return AnnData(
        _read_mtx(matrix).T.tocsr(),
        obs=pd.DataFrame(index=pd.Index(cells[0].to_numpy(), dtype=object)),
        var=pd.DataFrame(var, index=pd.Index(symbol.to_numpy(), dtype=object)),
    )


def _columns(path: Path) -> pd.DataFrame:
    import csv

    import pandas as pd

    return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)


def _shape_of_mtx(path: Path) -> tuple[int, int]:
    """The shape that a Matrix Market file says to have; an error if the file is too small for what it declares."""
    import scipy.io

    rows, columns, entries, layout, _, _ = scipy.io.mminfo(path)
    # the text of an entry has at least a digit and an end; in a sparse matrix two positions come before, or stand alone
    ratio = GZIP_RATIO if path.name.lower().endswith(".gz") else 1
    check_declared(path, "its matrix", entries * (2 if layout == "array" else 3), path.stat().st_size, ratio)
    check_memory(path, entries * (8 if layout == "array" else 16))
    return rows, columns


def _read_mtx(path: Path) -> Any:
    """The matrix of a Matrix Market file as CSR in float32, with a warning if it has entries more than once."""
    import scipy.io
    import scipy.sparse as sp

    read = scipy.io.mmread(path)
    X = sp.csr_matrix(read, dtype="float32")
    repeats = read.nnz - X.nnz if sp.issparse(read) else 0
    if repeats:
        warnings.warn(repeated_entries(repeats, str(path)), stacklevel=2)
    return X
