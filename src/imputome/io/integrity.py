"""What is checked of an input before anything in it is used: files can be damaged, change, or lie.

One check for all readers: `check_store` for HDF5 and zarr, `check_declared` and `check_memory` for the sizes that any
file declares, `Fingerprint` for a file or folder that changes while it is used. In memory,
`imputome.core.compressed.check_sparse` looks at the arrays themselves.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from imputome.core.compressed import contradiction, index_problem, pointer_problem
from imputome.errors import InputError

# the most bytes that one stored byte can become: deflate writes 258 bytes for 2 bits; lz4 255 and lzf 88 for one byte;
# a block of zstd has up to 2**17 bytes and takes at least 4, and other filters are taken to be no better than that
GZIP_RATIO = 1032
_ANY_RATIO = 2**17
_HDF5_RATIOS = {1: GZIP_RATIO, 2: 1, 3: 1, 32000: 100, 32004: 255}  # deflate, shuffle, checksum, lzf, lz4
_UNWRITTEN = 2**28  # bytes that may be declared and not be there, as what was never written is
_MAX_CHUNKS = 10**7  # of an array of zarr, each of which is a file
_ENOUGH = 20.0  # expected nonzero values in a chunk, of which at least one would be there
_BLOCK = 2**22  # indices read at a time
_SMALL = 2**20  # bytes of a file, or of a folder, whose contents are compared
_PARTS = ("data", "indices", "indptr")  # of a sparse matrix

Place = tuple[int, ...]  # of a chunk in the grid of chunks


# -- declared sizes ----------------------------------------------------------------------------------------------------
def check_declared(path: Path, what: str, declared: int, stored: int, ratio: int = 1, *, unwritten: int = 0) -> None:
    """Refuse what a file says to hold and cannot, before memory is taken for it.

    ``declared`` and ``stored`` are bytes, ``ratio`` is the most bytes that a stored one can become.
    """
    if declared > stored * ratio + unwritten:
        text = f"{path} says that {what} has {size_text(declared)}, which {size_text(stored)} on the disk cannot hold: "
        raise InputError(f"{text}it is damaged, or made to fill the memory, so get it again", code="declared-size")


def check_memory(path: Path, needed: int) -> None:
    """Refuse an input that is larger than the memory of the machine, before it is read."""
    memory = machine_memory()
    if needed > memory:
        text = f"{path} holds {size_text(needed)} of values, and this machine has {size_text(memory)} of memory: take "
        raise InputError(f"{text}fewer cells or genes, or a larger machine", code="larger-than-memory")


def machine_memory() -> int:
    """Bytes of memory of this machine, with what it can swap."""
    import psutil

    return int(psutil.virtual_memory().total + psutil.swap_memory().total)


def size_text(n_bytes: int) -> str:
    """A number of bytes in words."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes:,} bytes"


# -- HDF5 and zarr -----------------------------------------------------------------------------------------------------
def check_store(root: Any, path: Path, *, lazy: bool = False) -> None:
    """Check an open HDF5 file or zarr group: where its data lie, their sizes, lost chunks, and pointers.

    ``lazy`` is for stores whose matrices are read in parts later: they need no memory, and their indices are checked
    here; those in memory are for `imputome.core.compressed.check_sparse`. Cost: a look at each array; the pointers of
    each sparse matrix are read, and of a lazy one the indices.
    """
    if hasattr(root, "shape"):  # an array, which the reader refuses
        return
    hdf5 = hasattr(root, "id")
    members = dict(_hdf5_members(root, path) if hdf5 else _zarr_members(root))
    arrays = {name: item for name, item in members.items() if hasattr(item, "shape")}
    absent: dict[str, list[Place]] = {}
    file_size = path.stat().st_size
    for name, array in arrays.items():
        if hdf5:
            stored, ratio = file_size, _hdf5_ratio(array)
        else:
            absent[name], stored = _absent_chunks(array, name, path)
            ratio = _ANY_RATIO
        check_declared(path, name, _declared(array), stored, ratio, unwritten=_UNWRITTEN)
    if not lazy:
        check_memory(path, sum(map(_declared, arrays.values())))
    compressed: set[str] = set()
    for name, group in members.items():
        if name in arrays:
            continue
        form = _sparse_form(group)
        if form is not None:
            parts = {part: f"{name}/{part}".lstrip("/") for part in _PARTS}
            compressed |= set(parts.values())
            lost = {part: absent.get(full, []) for part, full in parts.items()}
            _check_sparse_group(group, form, name, path, lost, lazy=lazy)
        _check_names(group, name, path, absent)
    for name in absent.keys() - compressed:
        if not name.startswith("uns/"):
            _check_dense(arrays[name], name, path, absent[name])


def check_links(root: Any, path: Path) -> None:
    """Refuse an HDF5 file that takes data from other files: they are not its own, and may be anyone's."""
    for _ in _hdf5_members(root, path):
        pass


def _hdf5_members(root: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """The groups and datasets of an HDF5 file with their paths, each once; an error if one lies outside of the file."""
    import h5py

    pending, seen = [("", root)], set()
    while pending:
        place, group = pending.pop()
        yield place, group
        for name in group:
            full = f"{place}/{name}".lstrip("/")
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):  # to a place in this file, which is looked at there
                continue
            if not isinstance(link, h5py.HardLink):
                raise _outside(path, full, getattr(link, "filename", ""))
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                pending.append((full, item))
            elif isinstance(item, h5py.Dataset):
                others = [name for name, _, _ in item.external or ()]
                if item.is_virtual:
                    others += [part.file_name for part in item.virtual_sources() if part.file_name != "."]
                if others:
                    raise _outside(path, full, others[0])
                yield full, item


def _outside(path: Path, name: str, other: Any) -> InputError:
    other = other.decode(errors="replace") if isinstance(other, bytes) else other
    text = f"{name} of {path} lies outside of the file, in {other or 'another place'}, which is not read: write it "
    return InputError(f"{text}again with its values inside", code="outside-the-file")


def _zarr_members(group: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The groups and arrays of a zarr store with their paths."""
    yield place, group
    for name in group:
        item, full = group[name], f"{place}/{name}".lstrip("/")
        if hasattr(item, "shape"):
            yield full, item
        else:
            yield from _zarr_members(item, full)


def _declared(array: Any) -> int:
    """Bytes of an array in memory."""
    return math.prod(map(int, array.shape or (1,))) * int(array.dtype.itemsize)


def _hdf5_ratio(dataset: Any) -> int:
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(k)[0] for k in range(settings.get_nfilters())]
    return math.prod(_HDF5_RATIOS.get(number, _ANY_RATIO) for number in filters)


# -- sparse matrices and names of a store ------------------------------------------------------------------------------
def _sparse_form(group: Any) -> str | None:
    """``"csr"`` or ``"csc"`` for a group that is a sparse matrix, of anndata (also old ones) or Cell Ranger."""
    attrs = group.attrs
    kind = attrs.get("encoding-type", attrs.get("h5sparse_format", b""))
    kind = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
    if kind[:3] in ("csr", "csc"):
        return kind[:3]
    ranger = not kind and all(name in group for name in ("shape", *_PARTS))
    return "csc" if ranger else None  # genes x cells


def _check_sparse_group(
    group: Any, form: str, name: str, path: Path, lost: dict[str, list[Place]], *, lazy: bool
) -> None:
    """Check a sparse matrix of a store; ``lost`` are the chunks of its parts that are not there."""
    where = f"{name or 'the matrix'} of {path}"
    lacking = [part for part in _PARTS if part not in group]
    if lacking:
        raise contradiction(where, f"it has no {lacking[0]}")
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    shape = group["shape"][()] if shape is None and "shape" in group else shape
    try:
        n, G = (int(length) for length in shape)
    except (TypeError, ValueError):
        raise contradiction(where, "it has no shape of two numbers") from None
    data, indices = group["data"], group["indices"]
    if any(len(getattr(group[part], "shape", ())) != 1 for part in lost):
        raise contradiction(where, "its data, indices and indptr are not all lists of numbers")
    major, minor = (n, G) if form == "csr" else (G, n)
    indptr = group["indptr"][:]
    problem = pointer_problem(indptr, major, indices.shape[0], data.shape[0])
    if not problem and (lazy or lost["indices"] or lost["indptr"]):
        for start in range(0, indices.shape[0], _BLOCK):
            problem = problem or index_problem(indices[start : start + _BLOCK], minor)
    for part, chunks in lost.items():
        # zarr leaves out chunks of zeros; where lost indices or pointers are read as zeros, the indices of a row repeat
        if chunks and (problem or part == "data" or not _rows_increase(indptr, indices[:])):
            raise _lost(path, f"{name}/{part}".lstrip("/"), group[part], chunks[0])
    if problem:
        raise contradiction(where, problem)


def _rows_increase(indptr: np.ndarray, indices: np.ndarray) -> bool:
    """Whether the indices of each row increase."""
    increase = indices[1:] > indices[:-1]
    starts = indptr[(indptr > 0) & (indptr < len(indices))].astype(np.intp)
    increase[starts - 1] = True
    return bool(increase.all())


def check_texts(adata: Any, path: Path) -> None:
    """Refuse texts with a zero byte, which no format of a result can hold: where they are read, bytes are damaged."""
    for axis in ("obs", "var"):
        table = getattr(adata, axis)
        for name, column in ((f"{axis}_names", table.index), *table.items()):
            texts = column.cat.categories if hasattr(column, "cat") else column
            if texts.dtype.kind == "O" and any("\0" in text for text in texts if isinstance(text, str)):
                problem = f"{axis}[{str(name)!r}]" if name in table else name
                text = f"{problem} of {path} has a text with a zero byte, so it is damaged: get it, or write it, again"
                raise InputError(text, code="damaged-text")


def _check_names(group: Any, name: str, path: Path, absent: dict[str, list[Place]]) -> None:
    """Check that the names of a table are all there: they are never empty."""
    index = group.attrs.get("_index")
    for part in (index, f"{index}/values"):
        chunks = absent.get(f"{name}/{part}".lstrip("/"))
        if chunks:
            raise _lost(path, f"{name}/{part}".lstrip("/"), group[part], chunks[0])


# -- chunks of zarr ----------------------------------------------------------------------------------------------------
def is_zarr(path: Path) -> bool:
    """Whether the folder ``path`` is a zarr group of either format."""
    return any((path / name).is_file() for name in (".zgroup", "zarr.json"))


def _chunk_shape(array: Any) -> tuple[int, ...]:
    """Shape of the part of an array that is one file."""
    return getattr(array, "shards", None) or array.chunks


def _chunk_key(array: Any, place: Place) -> str:
    """The file of a chunk, in the folder of its array."""
    encode = getattr(getattr(array, "metadata", None), "encode_chunk_key", None)
    if encode is not None:
        return str(encode(place))
    return getattr(array, "_dimension_separator", ".").join(map(str, place)) or "0"  # zarr-python 2


def _absent_chunks(array: Any, name: str, path: Path) -> tuple[list[Place], int]:
    """The chunks of an array that are not there, by their places, and the bytes of all files of the array."""
    folder = path / array.path
    files = {file.relative_to(folder).as_posix(): file.stat().st_size for file in _files_below(folder)}
    stored = sum(files.values())
    grid = [-(-size // chunk) for size, chunk in zip(array.shape, _chunk_shape(array), strict=True)]
    if math.prod(grid) > _MAX_CHUNKS:
        check_declared(path, name, _declared(array), stored)
    places = itertools.product(*map(range, grid))
    return [place for place in places if _chunk_key(array, place) not in files], stored


def _lost(path: Path, name: str, array: Any, place: Place) -> InputError:
    text = (
        f"{path} lacks the chunk {_chunk_key(array, place)} of {name}, whose values would be read as zeros: copy the "
    )
    text += "store again, or, if these values are zeros, write it again with "
    return InputError(f"{text}zarr.config.set({{'array.write_empty_chunks': True}})", code="lost-chunk")


def _check_dense(array: Any, name: str, path: Path, absent: list[Place]) -> None:
    """Check that absent chunks of a dense matrix can be what zarr leaves out: all of their values are the fill value.

    They are if the other rows of their columns let expect hardly any other value there; or if none of several chunks of
    their columns is there, which is hardly an accident. Cost: where chunks are absent, the matrix is read once.
    """
    if not absent or len(array.shape) != 2 or array.dtype.kind not in "biuf":
        return
    fill, (length, width), (n, G) = array.fill_value, _chunk_shape(array), array.shape
    grid = -(-n // length), -(-G // width)
    filled, rows_seen = np.zeros(G), np.zeros(grid[1])
    missing = set(absent)
    for i, j in itertools.product(*map(range, grid)):
        if (i, j) not in missing:
            columns = slice(j * width, (j + 1) * width)
            block = array[i * length : (i + 1) * length, columns]
            empty = np.isnan(block) if fill != fill else block == fill
            filled[columns] += (~empty).sum(axis=0)
            rows_seen[j] += len(block)
    for i, j in absent:
        if rows_seen[j]:
            rows = min(n, (i + 1) * length) - i * length
            lost = rows * filled[j * width : (j + 1) * width].sum() / rows_seen[j] >= _ENOUGH
        else:
            lost = grid[0] == 1 or not rows_seen.any()
        if lost or fill is None:
            raise _lost(path, name, array, (i, j))


# -- inputs that change ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fingerprint:
    """What a file, or each file of a folder, was at some time: its contents if small, else size, time and inode."""

    path: Path
    files: tuple[tuple[Path, object], ...]

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """The state of ``path`` now."""
        stats = {}
        for name in sorted(_files_of(path)):
            with suppress(FileNotFoundError):  # one that is gone differs from one that was there
                stats[name] = name.stat()
        states: list[object] = [(stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats.values()]
        small = sum(stat.st_size for stat in stats.values()) <= _SMALL
        if small and all(S_ISREG(stat.st_mode) for stat in stats.values()):  # a pipe or a device could have no end
            with suppress(OSError):  # the reader says why it cannot be read
                states = [hashlib.blake2b(name.read_bytes()).digest() for name in stats]
        return cls(path, tuple(zip(stats, states, strict=True)))

    def check(self) -> None:
        """Refuse to go on if the input is no longer what it was."""
        if Fingerprint.of(self.path) != self:
            text = f"{self.path} changed while it was used: run this again when nothing writes to it"
            raise InputError(text, code="input-changed")


def _files_of(path: Path) -> Iterator[Path]:
    """The files that an input consists of: of a folder that is no store only those that can belong to it."""
    if path.is_dir() and is_zarr(path):
        yield from _files_below(path)
    elif path.is_dir() or path.name.removesuffix(".gz").endswith(".mtx"):
        folder = path if path.is_dir() else path.parent
        for entry in folder.iterdir():
            if entry.name.removesuffix(".gz").endswith((".mtx", ".tsv", ".csv")):
                yield entry
    else:
        yield path


def _files_below(folder: Path) -> Iterator[Path]:
    for base, _, names in os.walk(folder):
        yield from (Path(base, name) for name in names)
