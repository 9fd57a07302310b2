"""The two stores that results are written to, ``.h5ad`` and ``.zarr``, opened as groups of arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imputome.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData


@contextmanager
def opened(path: Path, mode: Literal["r", "r+", "w"]) -> Iterator[Any]:
    """The root group of an ``.h5ad`` or ``.zarr``; a zarr that was changed has its metadata consolidated at the end."""
    if path.suffix.lower() == ".h5ad":
        import h5py

        with _readable(path):
            root = h5py.File(path, mode)
        with root:
            yield root
        return
    import anndata
    import zarr

    options: dict[str, Any] = {}
    if int(zarr.__version__.split(".")[0]) >= 3:
        options["use_consolidated"] = False  # it would not know of what is being added
        if mode == "w":
            options["zarr_format"] = getattr(anndata.settings, "zarr_write_format", 2)
    with _readable(path):
        root = zarr.open_group(str(path), mode=mode, **options)
    yield root
    if mode != "r":
        with warnings.catch_warnings():  # anndata does the same, and readers without this feature ignore it
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(root.store)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = "it does not exist" if not path.exists() else (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be opened as {path.suffix}: {reason}") from error


def same_names(root: Any, adata: AnnData) -> bool:
    """Whether a store has the cells and genes of ``adata``, and a layout that can be added to."""
    from anndata.io import read_elem

    for name, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        if name not in root or "_index" not in root[name].attrs or "column-order" not in root[name].attrs:
            return False  # before anndata 0.7 these were tables of records, which take no further column
        written = read_elem(root[name][root[name].attrs["_index"]])
        if [str(value) for value in written] != [str(value) for value in names]:
            return False
    return True
