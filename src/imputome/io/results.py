"""Results in again, to look at them: an ``.h5ad`` or ``.zarr`` as AnnData whose matrices stay in the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imputome.errors import InputError
from imputome.io.stores import opened

if TYPE_CHECKING:
    from anndata import AnnData

SUFFIXES = (".h5ad", ".zarr")


@contextmanager
def open_result(path: str | Path) -> Iterator[AnnData]:
    """An AnnData with ``X`` and layers to be read in rows while the file is open; obsp and varm are left out.

    Raises
    ------
    InputError
        The file is missing, damaged, or no AnnData.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is no result: give a file that ends in {' or '.join(SUFFIXES)}")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    with opened(path, "r") as root:
        try:
            adata = _lazy(root)
        except InputError:
            raise
        except Exception as error:  # damaged files make the libraries fail in too many ways to list
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path} cannot be read as {path.suffix}, it may be damaged: {reason}") from error
        yield adata


def _lazy(root: Any) -> AnnData:
    import anndata
    from anndata.io import read_elem

    if "obs" not in root or "var" not in root:
        raise InputError("the file holds no AnnData: give one that imputome wrote")
    parts = {name: read_elem(root[name]) for name in ("obs", "var", "uns") if name in root}
    records = parts.get("uns", {}).get("imputome", {})
    # results of some genes only are tables in obsm; whatever else is there is not needed
    tables = {name: read_elem(root["obsm"][name]) for name in records if name in root.get("obsm", {})}
    layers = {name: _matrix(root["layers"][name]) for name in root.get("layers", {})}
    X = _matrix(root["X"]) if "X" in root else None
    return anndata.AnnData(X=X, **parts, obsm=tables, layers=layers)


def _matrix(element: Any) -> Any:
    """A matrix of a store, unread: rows are read when they are asked for."""
    from anndata.io import sparse_dataset

    return element if hasattr(element, "shape") else sparse_dataset(element)
