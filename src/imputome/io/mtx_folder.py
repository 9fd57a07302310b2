"""Writing a 10x folder: the matrix of genes x cells in Matrix Market format, and the names of both, all gzipped.

Seurat (``Read10X``), DropletUtils, scanpy and `imputome.io.reading.read` read it.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.atomic import atomic_path, exists_already
from imputome.core.scales import is_integer
from imputome.errors import InputError
from imputome.io.text import text_writer

if TYPE_CHECKING:
    from anndata import AnnData

FILES = ("matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz")
EXPRESSION = "Gene Expression"


def check_10x_folder(path: Path, *, overwrite: bool = False) -> None:
    """Check, before any work, that a 10x folder can be written at ``path``; only another one is replaced."""
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it first", code="no-folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        text = f"the folder {path.parent} cannot be written to: choose another, or change its permissions"
        raise InputError(text, code="folder-not-writable")
    if not path.exists():
        return
    if not path.is_dir() or any(entry.name not in FILES for entry in path.iterdir()):
        kind = "folder with other files" if path.is_dir() else "file, not a 10x folder"
        raise InputError(f"{path} is a {kind} and will not be replaced: choose another path", code="not-replaceable")
    if not overwrite:
        raise exists_already(path)


def write_10x_folder(path: str | Path, adata: AnnData) -> None:
    """Write the counts in ``X`` as a 10x folder of version 3; it appears, or changes, only when it is complete.

    The first column of ``features.tsv`` is ``var["gene_ids"]``, or else the names; the second has the names; the third
    is ``var["feature_types"]``, or else "Gene Expression".

    Parameters
    ----------
    path : str or Path
        The folder; an older one is replaced as a whole.
    adata : AnnData of shape (n, G)
        Counts in ``X``, dense or sparse.

    Raises
    ------
    InputError
        A name holds a tab or a line end, which these files cannot.

    Notes
    -----
    Cost: one pass over the nonzeros; a copy of the matrix by genes is in memory.

    Examples
    --------
    >>> import tempfile
    >>> import anndata, numpy as np
    >>> from imputome.io.mtx_folder import write_10x_folder
    >>> from imputome.io.reading import read
    >>> adata = anndata.AnnData(np.array([[0.0, 3.0], [1.0, 5.0]], dtype="float32"))
    >>> adata.obs_names, adata.var_names = ["AAAC-1", "AAAG-1"], ["CD3E", "CD19"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_10x_folder(f"{folder}/counts", adata)
    ...     back = read(f"{folder}/counts")
    >>> back.X.toarray().tolist(), list(back.var_names)
    ([[0.0, 3.0], [1.0, 5.0]], ['CD3E', 'CD19'])
    """
    with atomic_path(path) as partial:
        fill_10x_folder(partial, adata)


def fill_10x_folder(partial: Path, adata: AnnData) -> None:
    """Write the folder of `write_10x_folder`; the caller moves it into place."""
    cells, names = _texts(adata.obs_names), _texts(adata.var_names)
    ids = _texts(adata.var["gene_ids"]) if "gene_ids" in adata.var else names
    types = _texts(adata.var["feature_types"]) if "feature_types" in adata.var else [EXPRESSION] * len(names)
    partial.mkdir()
    _write_matrix(partial / FILES[0], adata.X)
    _write_lines(partial / FILES[1], ("\t".join(row) for row in zip(ids, names, types, strict=True)))
    _write_lines(partial / FILES[2], cells)


def _texts(values: Iterable[Any]) -> list[str]:
    texts = [str(value) for value in values]
    wrong = next((text for text in texts if any(sign in text for sign in "\t\r\n")), None)
    if wrong is not None:
        text = f"the name {wrong!r} holds a tab or a line end, which a 10x folder cannot: rename it, or write .h5ad"
        raise InputError(text, code="name-with-tab")
    return texts


def _write_matrix(path: Path, X: Any) -> None:
    """Genes x cells, entries in the order of the cells, as in files of Cell Ranger."""
    import scipy.io
    import scipy.sparse as sp

    matrix = sp.csr_array(X)
    matrix.eliminate_zeros()
    if is_integer(matrix.data) if matrix.nnz else True:
        matrix = matrix.astype(np.int64)
    with (
        path.open("wb") as raw,  # no name and no time in the header, so that the same counts give the same bytes
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=4, mtime=0) as packed,
    ):
        scipy.io.mmwrite(packed, sp.coo_array(matrix.T), symmetry="general")


def _write_lines(path: Path, lines: Iterable[str] | Sequence[str]) -> None:
    with text_writer(path) as handle:
        handle.writelines(f"{line}\n" for line in lines)
