"""Which matrix of an AnnData is meant: ``X``, a layer, or ``raw``.

``layer="raw"`` means ``adata.raw`` unless a layer has that name. ``raw`` often has more genes than ``X``: the genes of
``X`` are taken from it, by name, and the molecules of a cell are counted over all genes of ``raw``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imputome.core.arrays import as_array, in_memory
from imputome.core.stored import StoredCounts, stays_stored
from imputome.errors import InputError

RAW = "raw"


def is_raw(data: Any, layer: str | None) -> bool:
    """Whether ``layer`` means ``adata.raw``."""
    return layer == RAW and RAW not in data.layers and data.raw is not None


def find_matrix(data: Any, layer: str | None, used: np.ndarray | None = None) -> tuple[Any, str]:
    """The matrix, and what to call it in messages; of ``raw`` with all its genes.

    ``used``, (G,) bool, are the columns to take (of ``raw`` all are taken); None means all. If they are not in memory
    and many, they stay there.
    """
    if used is not None:
        matrix, where = find_matrix(data, layer)
        if stays_stored(matrix) and not is_raw(data, layer):
            return StoredCounts(matrix, columns=used), where
        return find_matrix(data[:, used], layer)
    import scipy.sparse as sp

    where = "X" if layer is None else f"layers[{layer!r}]"
    if layer is None:
        matrix = data.X if hasattr(data, "obs_names") else data
    elif layer in getattr(data, "layers", {}):
        matrix = data.layers[layer]
    elif hasattr(data, "layers") and is_raw(data, layer):
        matrix, where = data.raw.X, "raw.X"
    else:
        known = [*getattr(data, "layers", {}), *([RAW] if getattr(data, "raw", None) is not None else [])]
        text = f"there is no layer {layer!r} (layers: {', '.join(known) or 'none'})"
        text += ": leave {layer} out for X" if layer.upper() in ("", "X") else ""
        raise InputError(text, code="layer-missing", layer=...)
    if matrix is None:
        known = [*data.layers, *([RAW] if data.raw is not None else [])]
        text = f"X is None: pass {{layer}} (layers: {', '.join(known) or 'none'})"
        raise InputError(text, code="no-matrix", layer=...)
    if not hasattr(matrix, "shape"):
        matrix = as_array(matrix)
    if len(matrix.shape) != 2:
        text = f"the input must be a matrix of cells x genes, not an array of shape {tuple(matrix.shape)}"
        raise InputError(text, code="not-a-matrix")
    if sp.issparse(matrix) and (matrix.format not in ("csr", "csc") or matrix.dtype == np.float16):
        matrix = in_memory(matrix)  # rows of the others cannot be taken
    return matrix, where


def raw_columns(adata: Any) -> np.ndarray | None:
    """Positions of the genes of ``X`` in ``raw``; None if both have the same genes in the same order."""
    raw_names, names = adata.raw.var_names, adata.var_names
    if raw_names.equals(names):
        return None
    if not raw_names.is_unique:
        twice = raw_names[raw_names.duplicated()][0]
        text = f"raw has several genes called {twice!r}, so those of X cannot be found in it by name: rename them"
        raise InputError(text, code="raw-genes-not-unique", parameter="layer")
    columns = raw_names.get_indexer(names)
    if (columns < 0).any():
        lacking = names[columns < 0]
        text = f"raw lacks {len(lacking):,} genes of X ({lacking[0]!r}, ...): remove them from X, or pass another "
        raise InputError(f"{text}{{layer}}", code="raw-genes-missing", layer=...)
    return columns


def layer_in_memory(adata: Any, layer: str | None) -> Any:
    """The matrix of the genes of ``X``, in memory."""
    X = in_memory(find_matrix(adata, layer)[0])
    columns = raw_columns(adata) if is_raw(adata, layer) else None
    return X if columns is None else X[:, columns]
