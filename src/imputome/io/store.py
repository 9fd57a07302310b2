"""Result files: an AnnData with its imputed layers, written in blocks of rows; and read again.

The dense n x G matrix is never made: a block of rows is imputed, written and freed. Every file is written under a
hidden name in its folder and moved into place when it is complete.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from imputome.core.atomic import atomic_path, exists_already
from imputome.core.stored import columns_of, stays_stored
from imputome.errors import InputError, MissingExtraError
from imputome.io.hdf5 import hdf5_for_writing, raise_kept
from imputome.io.integrity import Fingerprint, check_links, check_store, is_zarr, size_text
from imputome.io.modalities import SUFFIX as H5MU
from imputome.io.modalities import is_multimodal, modality_of
from imputome.io.tables import BLOCK_BYTES, require_pyarrow, table_suffix, write_table
from imputome.result.layout import checked_key
from imputome.result.matrices import Drawn, Finite, Matrix, check_finite, draw_names
from imputome.result.record import Record, layer_names, places_to_remove

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.core.imputation import Imputation, Output
    from imputome.core.scales import Scale

WRITABLE = ".h5ad, .h5mu, .zarr, .csv, .tsv, .txt (also .csv.gz, .tsv.gz, .txt.gz), .parquet"
# 2700 x 32738 float32, 2 cores, gzip: 5.5 s and 221 MB of 354 MB if half are zeros, 5.2 s and 309 MB for dense rates.
# lzf takes 2 s, but 279 and 334 MB; without shuffle dense rates take 7.5 s and 332 MB.
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "zstd": {},  # of the package hdf5plugin
    "none": {},
}
MAX_NAME = 220  # bytes of a file name, so that the name of its partial file fits the usual 255
# h5py's chunk cache holds 1 MiB, so larger chunks would be decompressed for every row read; a zarr chunk is a file
_CHUNK_BYTES = {".h5ad": 2**20, H5MU: 2**20, ".zarr": 2**23}
_RESULTS = (".h5ad", ".zarr")  # files of one AnnData


class RowWriter(Protocol):
    """Who imputes and writes the rows of a ``.zarr`` in place of this process."""

    def write(
        self, target: Path, layers: Mapping[Any, str], how: Mapping[str, Any], ranges: Sequence[tuple[int, int]]
    ) -> Iterator[int]:
        """Write the rows of each of ``ranges`` to the layers, output -> name; gives the rows written so far."""
        ...


@contextmanager
def opened(path: Path, mode: Literal["r", "r+", "w"], modality: str | None = None) -> Iterator[Any]:
    """The root group of an ``.h5ad`` or ``.zarr``, or the group of a modality of an ``.h5mu``.

    The metadata of a changed zarr are consolidated at the end.
    """
    if path.suffix.lower() in (".h5ad", H5MU):
        import h5py

        part = (lambda root: modality_of(root, path, modality)) if is_multimodal(path) else (lambda root: root)
        if mode != "r":
            with hdf5_for_writing(path, mode) as root:
                yield part(root)
            return
        with _readable(path):
            root = h5py.File(path, mode)
        with root:
            check_links(root, path)
            yield part(root)
        return
    import anndata
    import zarr

    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if int(zarr.__version__.split(".")[0]) >= 3:
        options["use_consolidated"] = False  # consolidated metadata would not show what is being added
        if mode == "w":
            options["zarr_format"] = getattr(anndata.settings, "zarr_write_format", 2)
        settings["array.write_empty_chunks"] = True  # so that a chunk that is not there was lost
    with _readable(path):
        root = zarr.open_group(str(path), mode=mode, **options)
    with zarr.config.set(settings) if settings else nullcontext():
        yield root
    if mode != "r":
        with warnings.catch_warnings():  # as anndata does; readers without this feature ignore it
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(root.store)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        if not path.exists():
            raise InputError(f"{path} does not exist", code="no-file") from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be opened as {path.suffix}: {reason}", code="unreadable") from error


def same_names(root: Any, adata: AnnData) -> bool:
    """Whether a store has the cells and genes of ``adata``, in a layout to which columns can be added."""
    from anndata.io import read_elem

    for name, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        if name not in root or "_index" not in root[name].attrs or "column-order" not in root[name].attrs:
            return False  # before anndata 0.7 these were record arrays, to which no column can be added
        written = read_elem(root[name][root[name].attrs["_index"]])
        if [str(value) for value in written] != [str(value) for value in names]:
            return False
    return True


def has_half_precision(root: Any) -> bool:
    """Whether ``X`` or a layer is a sparse matrix in half precision, which anndata cannot read."""
    names = ["X", *(f"layers/{name}" for name in root.get("layers", ())), "raw/X"]
    parts = [f"{name}/data" for name in names if name in root and not hasattr(root[name], "shape")]
    return any(part in root and root[part].dtype == np.float16 for part in parts)


# -- checks before the work --------------------------------------------------------------------------------------------
def check_output(
    path: str | Path, source: str | Path | None = None, *, overwrite: bool = False, outputs: Sequence[str] = ()
) -> None:
    """Check, before any work, that ``path`` can be written with these ``outputs`` beside the value.

    It is refused if its suffix is unknown, its folder does not exist, it is the input (``source``), it exists and
    ``overwrite`` is not given, it must not be replaced, or it is a table and there are ``outputs``.
    """
    path = Path(path)
    store = path.suffix.lower()
    if store == H5MU and (source is None or not is_multimodal(Path(source))):
        text = f"the input has one modality, and {path} would hold several: end it in .h5ad or .zarr"
        raise InputError(text, code="unknown-format")
    if store not in _CHUNK_BYTES and table_suffix(path) is None:
        text = f"{path} has no format that can be written: end it in one of {WRITABLE}"
        raise InputError(text, code="unknown-format")
    if outputs and store not in _CHUNK_BYTES:
        text = f"{path} is a table, which holds the values only: end it in .h5ad or .zarr to write other outputs"
        raise InputError(text, code="table-without-layers", parameter="outputs")
    if store == ".parquet":
        require_pyarrow("writing .parquet")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it first", code="no-folder")
    _check_writable(path.parent)
    if len(path.name.encode()) > MAX_NAME:
        text = f"the file name {path.name[:20]}... is too long: at most {MAX_NAME} characters"
        raise InputError(text, code="name-too-long")
    if source is not None:
        source = Path(source)
        if path.resolve() == source.resolve() or (path.exists() and source.exists() and path.samefile(source)):
            raise InputError(f"the output {path} is the input itself: give another path", code="output-is-input")
    if not path.exists():
        return
    if not overwrite:
        raise exists_already(path)
    if path.is_dir() != (store == ".zarr") or (path.is_dir() and not is_zarr(path)):
        kind = "folder that is no .zarr store" if path.is_dir() else "file, not a .zarr store"
        raise InputError(f"{path} is a {kind} and will not be replaced: choose another path", code="not-replaceable")


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        text = f"the folder {folder} cannot be written to: change its permissions, or choose another"
        raise InputError(text, code="folder-not-writable")


def check_compression(path: str | Path, compression: str | None) -> Mapping[str, Any]:
    """What HDF5 calls a compression of an ``.h5ad``; refused where there is none of this name, or not for ``path``."""
    if compression is not None and Path(path).suffix.lower() not in (".h5ad", H5MU):
        text = f"{path} is no .h5ad, and only these can be compressed in several ways: leave {{compression}} out"
        raise InputError(text, code="option-unused", compression=...)
    if compression not in (None, *COMPRESSIONS):
        text = f"there is no compression {compression!r}: choose one of {', '.join(COMPRESSIONS)}"
        raise InputError(text, code="unknown-compression", parameter="compression")
    if compression != "zstd":
        return COMPRESSIONS[compression or "gzip"]
    try:
        import hdf5plugin
    except ImportError as error:
        text = (
            "zstd in .h5ad, which readers need too, is not in HDF5: run pip install hdf5plugin, or pass {compression}"
        )
        raise MissingExtraError(text, parameter="compression", compression="gzip") from error
    return {**hdf5plugin.Zstd(), "shuffle": True}


def check_space(path: str | Path, n: int, n_genes: int, *, bytes_per_value: int = 4) -> None:
    """Check that n x n_genes values fit on the disk of ``path``, without compression."""
    needed, free = n * n_genes * bytes_per_value, shutil.disk_usage(Path(path).parent).free
    if needed > free:
        text = (
            f"{n} cells x {n_genes} genes are {size_text(needed)} of dense values and {Path(path).parent} has "
            f"{size_text(free)} free: pass {{genes}} to write fewer genes, or choose another disk"
        )
        raise InputError(text, code="disk-too-small", genes=...)


# -- writing -----------------------------------------------------------------------------------------------------------
def write_result(
    path: str | Path,
    adata: AnnData,
    imputation: Imputation,
    *,
    key: str,
    record: Record,
    genes: Any = None,
    scale: Scale | None = None,
    keep_observed: bool | None = None,
    source: str | Path | None = None,
    seen: Fingerprint | None = None,
    progress: Callable[[int, int], object] | None = None,
    overwrite: bool = False,
    genes_in: str | None = None,
    outputs: Sequence[Output] = (),
    draws: int = 0,
    compression: str | None = None,
    modality: str | None = None,
    writer: RowWriter | None = None,
) -> None:
    """Write a result file: for ``.h5ad`` and ``.zarr`` all of ``adata`` and the imputation, for tables its values.

    The imputation (same cells and genes in the same order) becomes ``layers[key]`` (dense float32),
    ``layers["<key>_<output>"]`` for each of ``outputs``, ``layers["<key>_draw01"]`` and so on, ``obsm["X_<key>"]`` (if
    it has a latent representation), ``var["<key>_<name>"]`` and ``obs["<key>_<name>"]`` for its gene and cell columns,
    and ``uns["imputome"][key]``: the record, which lists what is written so that `remove_key` finds it again.

    With ``genes`` (positions), the written AnnData has these genes only. If ``source``, the file that ``adata`` was
    read from, has the format of the output and the same names, and no ``genes`` are given, it is copied, so that
    everything else stays as it is, bit by bit; an error if it is no longer as it was ``seen`` when it was read.
    ``writer`` imputes and writes the rows of a ``.zarr`` instead of this process. ``genes_in`` is the orientation of a
    table. ``progress`` is called with (rows written, number of rows) after each
    block. An ``.h5mu`` is always a copy of its source, in which the result is added to the ``modality``.
    ``compression`` (see `COMPRESSIONS`) is that of the new layers of
    an ``.h5ad``, and of all else that is not copied; None compresses the layers with gzip, and nothing else.
    """
    path = Path(path)
    drawn = {name: Drawn(imputation, number) for number, name in draw_names(draws).items()}
    names = layer_names(key, [*outputs, *drawn])
    check_output(path, source, overwrite=overwrite, outputs=[*outputs, *drawn])
    filters = check_compression(path, compression)
    if imputation.shape != adata.shape:
        text = f"the imputation is {imputation.shape} and the data {adata.shape} (cells x genes)"
        raise InputError(text, code="shape")
    genes = None if genes is None else np.asarray(genes)
    options: dict[str, Any] = {"genes": genes, "scale": scale, "keep_observed": keep_observed}
    store = path.suffix.lower()
    if store not in _CHUNK_BYTES:
        write_table(
            path, Finite(imputation, record.method), genes_in=genes_in or "columns", progress=progress, **options
        )
        return
    checked_key(adata, key)
    if source is not None and (genes is not None or Path(source).suffix.lower() != store):
        source = None
    taken = [name for name in names.values() if name in adata.layers]
    if source is not None:
        if seen is not None:
            seen.check()
        with opened(Path(source), "r", modality) as root:
            taken += [name for name in names.values() if f"layers/{name}" in root]
            earlier = _records(root)
            source = source if same_names(root, adata) and not has_half_precision(root) else None
    if store == H5MU and source is None:
        text = f"{path} cannot be made from a copy of the input, which is in an old format: end it in .h5ad or .zarr"
        raise InputError(text, code="old-format")
    if taken and not overwrite:
        text = f"layers[{taken[0]!r}] exists already: pass {{overwrite}} to replace it, or another {{key_added}}"
        raise InputError(text, code="key-exists", overwrite=True, key_added=...)
    with atomic_path(path, overwrite=overwrite) as partial:
        if source is None:
            part = adata if genes is None else _some_genes(adata, genes)
            more = filters if compression else {}
            write_anndata(partial, part, without=set(names.values()), key=key, filters=more)
        elif taken or key in earlier:
            _copy_without(Path(source), partial, key, set(names.values()), modality)
        else:
            _copy(Path(source), partial)
        if source is not None and seen is not None:
            seen.check()
        with opened(partial, "r+", modality) as root:
            _add(root, imputation, key, record.listing(imputation, outputs=outputs, draws=draws), genes)
            _stream_layers(root, imputation, names, drawn, record.method, options, filters, progress, writer, partial)
        if seen is not None and not imputation.data.in_memory:  # it was read while the values were computed
            seen.check()


def _some_genes(adata: AnnData, genes: np.ndarray) -> AnnData:
    """The AnnData with some genes; of a matrix that is not in memory, only these genes are."""
    from anndata import AnnData

    stored = {name: matrix for name, matrix in adata.layers.items() if stays_stored(matrix)}
    if not stays_stored(adata.X) and not stored:
        return adata[:, genes]
    layers = {name: columns_of(matrix, genes) for name, matrix in stored.items()}
    others = {name: matrix[:, genes] for name, matrix in adata.layers.items() if name not in stored}
    X = columns_of(adata.X, genes) if stays_stored(adata.X) else adata.X[:, genes]
    tables = {"obs": adata.obs, "var": adata.var.iloc[genes], "uns": adata.uns, "obsm": dict(adata.obsm)}
    varm = {name: values[genes] for name, values in adata.varm.items()}
    return AnnData(X, **tables, varm=varm, obsp=dict(adata.obsp), layers={**layers, **others})


def _add(root: Any, imputation: Imputation, key: str, record: Record, genes: np.ndarray | None) -> None:
    """Write everything but the layers, which come last."""
    from anndata.io import write_elem

    if imputation.latent is not None:
        check_finite(imputation.latent, record.method, imputation.obs_names)
        write_elem(_mapping(root, "obsm"), f"X_{key}", np.asarray(imputation.latent))
    whole = slice(None)
    for table, columns, part in (
        ("var", imputation.gene_columns, whole if genes is None else genes),
        ("obs", imputation.cell_columns, whole),
    ):
        order = [str(name) for name in root[table].attrs["column-order"]]
        for name, values in columns.items():
            column = f"{key}_{name}"
            write_elem(root[table], column, np.asarray(values)[part])
            order = [*order, column] if column not in order else order
        if columns:
            root[table].attrs["column-order"] = order
    write_elem(_mapping(_mapping(root, "uns"), "imputome"), key, record.to_uns())


def _stream_layers(
    root: Any,
    imputation: Imputation,
    names: dict[Any, str],
    drawn: Mapping[str, Drawn],
    method: str,
    options: dict[str, Any],
    filters: Mapping[str, Any],
    progress: Callable[[int, int], object] | None,
    writer: RowWriter | None,
    path: Path,
) -> None:
    import h5py

    layers = _mapping(root, "layers")
    n, n_genes = imputation.shape[0], imputation.shape[1] if options["genes"] is None else len(options["genes"])
    row_bytes = 4 * max(1, n_genes)
    hdf5 = isinstance(root, h5py.Group)
    chunk = min(max(1, _CHUNK_BYTES[".h5ad" if hdf5 else ".zarr"] // row_bytes), max(1, n))
    step = chunk * max(1, BLOCK_BYTES // (row_bytes * chunk))  # whole chunks, so that none is compressed twice
    layout: dict[str, Any] = {"shape": (n, n_genes), "dtype": np.float32, "chunks": (chunk, max(1, n_genes))}
    create = getattr(layers, "create_array", layers.create_dataset)  # the latter in zarr-python 2 too
    if hdf5:
        layout |= filters
    made = {output: create(name, **layout) for output, name in names.items()}
    for layer in made.values():
        layer.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    if writer is not None:
        ranges = [(start, min(start + step, n)) for start in range(0, n, step)]
        for done in writer.write(path, names, options, ranges):
            if progress is not None:
                progress(done, n)
        return
    for start in range(0, n, step):
        stop = min(start + step, n)
        for output, layer in made.items():
            matrix: Matrix = drawn.get(output, imputation)
            how = {"genes": options["genes"]} if output in drawn else {"output": output, **options}
            layer[start:stop] = Finite(matrix, method, np.float32).rows(slice(start, stop), **how)
        raise_kept(root)
        if progress is not None:
            progress(stop, n)


def _mapping(parent: Any, name: str) -> Any:
    """The group ``name``, created as anndata does if it does not exist."""
    from anndata.io import write_elem

    if name not in parent:
        write_elem(parent, name, {})
    return parent[name]


def write_anndata(
    path: Path,
    adata: AnnData,
    *,
    without: Iterable[str] = (),
    key: str | None = None,
    filters: Mapping[str, Any] | None = None,
) -> None:
    """Write ``adata`` without some layers and the result ``key``; the caller moves the file into place.

    Unlike ``write_h5ad`` this does not change the text columns of ``adata``, and a full disk is no crash.
    """
    from anndata.experimental import write_dispatched

    left_out = {f"layers/{name}" for name in without}

    def callback(
        write: Callable[..., None], store: Any, name: str, elem: Any, *, dataset_kwargs: Any, **_: Any
    ) -> None:
        if name.strip("/") not in left_out:
            write(store, name, elem, dataset_kwargs=dataset_kwargs)
            raise_kept(root)

    if adata.isbacked:
        adata = adata.to_memory()
    with opened(path, "w") as root:
        write_dispatched(root, "/", adata, callback=callback, dataset_kwargs=filters or {})
        if key is not None:
            _drop(root, key, set(without))


def _copy(source: Path, target: Path) -> None:
    if not source.is_dir():
        shutil.copyfile(source, target)
        return
    for base, _, names in os.walk(source, followlinks=True):  # copytree goes on where a disk is full
        folder = target / Path(base).relative_to(source)
        folder.mkdir()
        for name in names:
            shutil.copyfile(Path(base, name), folder / name)


# -- removing ----------------------------------------------------------------------------------------------------------
def remove_key(path: str | Path, key: str) -> None:
    """Remove a result from an ``.h5ad`` or ``.zarr``, with all that its record lists; the file shrinks."""
    path = Path(path)
    if path.suffix.lower() not in _RESULTS:
        text = f"results can be removed from .h5ad and .zarr only, not from {path}: give such a file"
        raise InputError(text, code="unknown-format")
    if not path.exists():
        raise InputError(f"{path} does not exist", code="no-file")
    _check_writable(path.resolve().parent)
    with opened(path, "r") as root:
        records = _records(root)
        if key not in records:  # a layer that imputome did not write has no record, and belongs to the user
            text = f"{path} has no imputome result {key!r}; it has {', '.join(sorted(records)) or 'none'}"
            raise InputError(text, code="no-such-result", parameter="key")
        places_to_remove(key, records)
    with atomic_path(path) as partial:
        _copy_without(path, partial, key, set())


def _copy_without(source: Path, target: Path, key: str, layers: set[str], modality: str | None = None) -> None:
    """Copy a store without ``layers`` and without the result ``key``."""
    if not source.is_dir() and not is_multimodal(source):
        with opened(source, "r") as old:
            # anndata < 0.8 linked columns to their categories by references, which do not survive a copy in parts
            linked = any("__categories" in old[name] for name in ("obs", "var", "raw/var") if name in old)
            if not linked:
                left_out = {f"/{element}/{name}" for element, name in _places(old, key, layers) if element == "layers"}
                with opened(target, "w") as new:
                    _copy_parts(old, new, left_out, inside=("/", "/layers"))
                    _drop(new, key, layers)
                return
    _copy(source, target)
    with opened(target, "r+", modality) as root:
        _drop(root, key, layers)


def _copy_parts(old: Any, new: Any, without: set[str], inside: tuple[str, ...]) -> None:
    """Copy some members of an HDF5 group: to delete them afterwards would leave their space in the file."""
    for name in old.attrs:
        new.attrs.create(name, old.attrs[name], dtype=old.attrs.get_id(name).dtype)
    for name in old:
        if old[name].name in inside:
            _copy_parts(old[name], new.create_group(name), without, inside)
        elif old[name].name not in without:
            old.copy(name, new)


def _records(root: Any) -> dict[str, Any]:
    """The stored records of all results."""
    from anndata.io import read_elem

    records = read_elem(root["uns/imputome"]) if "uns/imputome" in root else {}
    return records if isinstance(records, dict) else {}


def _places(root: Any, key: str, layers: set[str]) -> set[tuple[str, str]]:
    """``layers`` and what belongs to the result ``key``."""
    return {("layers", name) for name in layers} | set(places_to_remove(key, _records(root)))


def _drop(root: Any, key: str, layers: set[str]) -> None:
    keys = list(_records(root))
    for element, name in _places(root, key, layers):
        if element in ("obs", "var"):
            order = [str(column) for column in root[element].attrs["column-order"]]
            if name in order:
                del root[element][name]
                root[element].attrs["column-order"] = [column for column in order if column != name]
        elif f"{element}/{name}" in root:
            del root[f"{element}/{name}"]
    if key in keys:
        del root["uns/imputome" if keys == [key] else f"uns/imputome/{key}"]


# -- reading again -----------------------------------------------------------------------------------------------------
@contextmanager
def open_result(path: str | Path) -> Iterator[AnnData]:
    """Open a result: an AnnData whose ``X`` and layers are read in rows while the file is open; no obsp, no varm."""
    path = Path(path)
    if path.suffix.lower() not in _RESULTS:
        raise InputError(f"{path} is not a result: give a file that ends in .h5ad or .zarr", code="unknown-format")
    if not path.exists():
        raise InputError(f"{path} does not exist", code="no-file")
    with opened(path, "r") as root:
        try:
            check_store(root, path, lazy=True)
            adata = _lazy(root)
        except InputError:
            raise
        except Exception as error:  # damaged files make the libraries fail in too many ways to list
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            text = f"{path} cannot be read as {path.suffix}, it may be damaged: {reason}"
            raise InputError(text, code="unreadable") from error
        yield adata


def _lazy(root: Any) -> AnnData:
    import anndata
    from anndata.io import read_elem

    if "obs" not in root or "var" not in root:
        raise InputError("the file holds no AnnData: give one that imputome wrote", code="no-anndata")
    parts = {name: read_elem(root[name]) for name in ("obs", "var", "uns") if name in root}
    records = parts.get("uns", {}).get("imputome", {})
    # results for some genes only are tables in obsm; nothing else in obsm is needed
    tables = {name: read_elem(root["obsm"][name]) for name in records if name in root.get("obsm", {})}
    layers = {name: _matrix(root["layers"][name]) for name in root.get("layers", {})}
    X = _matrix(root["X"]) if "X" in root else None
    raw = {"X": _matrix(root["raw/X"]), "var": read_elem(root["raw/var"])} if "raw/X" in root else None
    return anndata.AnnData(X=X, **parts, obsm=tables, layers=layers, raw=raw)


def _matrix(element: Any) -> Any:
    """A matrix of a store, whose rows are read when they are asked for."""
    from anndata.io import sparse_dataset

    return element if hasattr(element, "shape") else sparse_dataset(element)
