"""Files that lie: small real files with something in them replaced, dropped or cut, drawn by hypothesis.

A lie is plain data (what to change, and how), so that its text is all that is needed to repeat it.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

Lie = tuple[Any, ...]

VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        "",
        "none",
        "nan",
        "x" * 300,
        "\x1b[31mred",
        "two\nlines",
        "../../elsewhere",
        "é±∞",
        "0",
        "<b>",
    ),
    *(0, 1, -1, 2, 7, 10**6, 2**31, 2**63, -(2**63), 2**70, 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf),
    *([], {}, [[]], [None], [1, "a"], {"a": {}}, [0.0] * 50, ["a", "a"], "counts", "real"),
]
NUMBERS = [
    0,
    1,
    -1,
    2,
    5,
    127,
    2**31 - 1,
    2**31,
    -(2**31),
    2**62,
    2**63 - 1,
    0.5,
    -0.5,
    1e30,
    math.nan,
    math.inf,
    -math.inf,
]
TYPES = [
    "int8",
    "uint8",
    "int32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "bool",
    "S5",
    "U3",
    "O",
]


# -- trees, such as JSON and TOML hold ---------------------------------------------------------------------------------
def paths_of(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree, the root included; of long lists, the first entries."""
    inner = tree.items() if isinstance(tree, dict) else list(enumerate(tree))[:3] if isinstance(tree, list) else ()
    return [path, *(place for key, value in inner for place in paths_of(value, (*path, key)))]


def tree_lies(tree: Any) -> st.SearchStrategy[Lie]:
    """One or two changes of a tree."""
    places = st.sampled_from(paths_of(tree))
    change = st.one_of(
        st.tuples(st.just("set"), places, st.sampled_from(VALUES)),
        st.tuples(st.just("drop"), places),
        st.tuples(
            st.just("add"), places, st.sampled_from(["extra", "", "\x1b", "params", "method"]), st.sampled_from(VALUES)
        ),
        st.tuples(st.just("repeat"), places, st.integers(2, 4)),
    )
    return st.lists(change, min_size=1, max_size=2).map(tuple)


def change_tree(tree: Any, lie: Lie) -> Any:
    """A copy of the tree with these changes; what cannot be changed stays."""
    tree = {"root": json.loads(json.dumps(tree))}
    for what, place, *rest in copy.deepcopy(lie):  # a second change must not change what the first one drew
        parent: Any = tree
        *way, last = ("root", *place)
        try:
            for key in way:
                parent = parent[key]
            if what == "set":
                parent[last] = rest[0]
            elif what == "drop":
                del parent[last]
            elif what == "add":
                parent[last][rest[0]] = rest[1]
            elif what == "repeat":
                parent[last] = parent[last] * rest[0]
        except (KeyError, IndexError, TypeError):
            continue
    return tree.get("root")


def as_toml(tree: Mapping[str, Any]) -> str:
    """A tree as TOML, all of it in inline tables; values that TOML does not have are left as they are in JSON."""

    def inline(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{ " + ", ".join(f"{json.dumps(str(name))} = {inline(each)}" for name, each in value.items()) + " }"
        if isinstance(value, list):
            return "[" + ", ".join(map(inline, value)) + "]"
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return json.dumps(value)

    if not isinstance(tree, Mapping):
        return inline(tree)
    return "".join(f"{json.dumps(str(name))} = {inline(value)}\n" for name, value in tree.items())


# -- bytes -------------------------------------------------------------------------------------------------------------
def byte_lies(longest: int = 2) -> st.SearchStrategy[Lie]:
    """Changes of any file: at some share of its length, bytes are replaced, put in, or all the rest is cut."""
    share = st.floats(0, 1, exclude_max=True)
    some = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from(
            [b"\0", b"\xff" * 8, b"\r\n", b'"', b",", b"\t", b"\x1b[2J", b"nan", b"-1", b"1e999", b"{", b"[" * 5000]
        ),
    )
    change = st.one_of(
        st.tuples(st.just("replace"), share, some),
        st.tuples(st.just("insert"), share, some),
        st.tuples(st.just("remove"), share, st.integers(1, 40)),
        st.tuples(st.just("cut"), share),
    )
    return st.lists(change, min_size=1, max_size=longest).map(tuple)


def change_bytes(content: bytes, lie: Lie) -> bytes:
    for what, share, *rest in lie:
        at = int(share * len(content))
        if what == "cut":
            content = content[:at]
        elif what == "remove":
            content = content[:at] + content[at + rest[0] :]
        elif what == "insert":
            content = content[:at] + rest[0] + content[at:]
        else:
            content = content[:at] + rest[0] + content[at + len(rest[0]) :]
    return content


# -- arrays ------------------------------------------------------------------------------------------------------------
def array_lies(names: list[str]) -> st.SearchStrategy[Lie]:
    """One or two changes of named arrays: their values, length, shape or type."""
    name = st.sampled_from(names)
    value = st.tuples(st.just("value"), name, st.floats(0, 1, exclude_max=True), st.sampled_from(NUMBERS))
    change = st.one_of(
        *[value] * 4,
        st.tuples(st.just("fill"), name, st.sampled_from(NUMBERS)),
        st.tuples(st.just("type"), name, st.sampled_from(TYPES)),
        st.tuples(st.just("cut"), name, st.integers(0, 3)),
        st.tuples(st.just("extend"), name, st.integers(1, 3)),
        st.tuples(st.just("flat"), name),
        st.tuples(st.just("scalar"), name),
        st.tuples(st.just("empty"), name),
        st.tuples(st.just("turn"), name),
        st.tuples(st.just("reverse"), name),
        st.tuples(st.just("drop"), name),
    )
    return st.lists(change, min_size=1, max_size=2).map(tuple)


def change_arrays(arrays: Mapping[str, np.ndarray], lie: Lie) -> dict[str, np.ndarray]:
    arrays = dict(arrays)
    for what, name, *rest in lie:
        if name not in arrays:
            continue
        array = np.array(arrays[name])
        with np.errstate(all="ignore"):
            if what == "drop":
                del arrays[name]
                continue
            if what == "value" and array.size:
                if not isinstance(rest[1], int) and array.dtype.kind in "iu":
                    array = array.astype(np.float64)
                flat = array.reshape(-1)
                flat[int(rest[0] * flat.size)] = _fitting(rest[1], array.dtype)
            elif what == "fill":
                array = np.full_like(array, _fitting(rest[0], array.dtype))
            elif what == "type":
                try:
                    array = array.astype(rest[0])
                except (TypeError, ValueError):
                    continue
            elif what == "cut":
                array = array[: len(array) - 1 - rest[0]] if array.ndim else array
            elif what == "extend" and array.ndim and array.size:
                array = np.concatenate([array, *[array[-1:]] * rest[0]])
            elif what in ("flat", "turn", "reverse", "scalar", "empty"):
                changes: dict[str, Callable[[np.ndarray], Any]] = {
                    "flat": np.ravel,
                    "turn": np.transpose,
                    "reverse": lambda values: values[::-1] if values.ndim else values,
                    "scalar": lambda values: values.reshape(-1)[0] if values.size else values,
                    "empty": lambda values: values.reshape(-1)[:0],
                }
                array = np.asarray(changes[what](array))
        arrays[name] = array
    return arrays


def _fitting(number: float, dtype: np.dtype) -> Any:
    """A number that an array of this type can take."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return int(min(max(number, limits.min), limits.max)) if math.isfinite(number) else limits.min
    return number if dtype.kind in "fc" else str(number) if dtype.kind in "SU" else bool(number)


# -- HDF5 --------------------------------------------------------------------------------------------------------------
ENCODINGS = ["csr_matrix", "csc_matrix", "array", "dataframe", "nonsense", ""]
SHAPES = [
    (0, 0),
    (1, 1),
    (6, 5),
    (5, 6),
    (12, 8),
    (8, 12),
    (-1, 8),
    (12,),
    (12, 8, 1),
    (2**40, 2**40),
    (12, 2**62),
    (12, 2**31),
    (3, 8),
]


def sparse_lies(_: Path) -> st.SearchStrategy[Lie]:
    """Changes of the parts of a sparse matrix in an .h5ad: arrays, shape, encoding."""
    attributes = st.one_of(
        st.tuples(st.just("shape"), st.sampled_from(SHAPES)), st.tuples(st.just("encoding"), st.sampled_from(ENCODINGS))
    )
    return st.tuples(
        array_lies(["data", "indices", "indptr"]),
        st.lists(attributes, max_size=1).map(tuple),
        st.sampled_from(["csr_matrix", "csc_matrix"]),
    )


def put_sparse(folder: Path, lie: Lie) -> None:
    """Make the matrix X of in.h5ad sparse in one order, and then untrue."""
    import scipy.sparse as sp

    arrays, attributes, order = lie
    with h5py.File(folder / "in.h5ad", "r+") as root:
        group = root["X"]
        held = sp.csr_matrix(
            tuple(group[name][()] for name in ("data", "indices", "indptr")), shape=group.attrs["shape"]
        )
        held = held if order == "csr_matrix" else held.tocsc()
        changed = change_arrays({name: getattr(held, name) for name in ("data", "indices", "indptr")}, arrays)
        for name in ("data", "indices", "indptr"):
            del group[name]
            if name in changed:
                value = changed[name]
                group[name] = value.astype(str).astype(h5py.string_dtype()) if value.dtype.kind in "UO" else value
        group.attrs["encoding-type"] = order
        for what, value in attributes:
            if what == "shape":
                group.attrs["shape"] = np.array(value, dtype=np.int64)
            else:
                group.attrs["encoding-type"] = value


def record_lies(folder: Path) -> st.SearchStrategy[Lie]:
    """Changes of what an .h5ad holds of a result."""
    places: list[str] = []
    with h5py.File(folder / "done.h5ad", "r") as root:
        root["uns/imputome"].visit(places.append)
    place = st.sampled_from(places)
    change = st.one_of(
        st.tuples(st.just("set"), place, st.sampled_from([value for value in VALUES if not isinstance(value, dict)])),
        st.tuples(st.just("drop"), place),
        st.tuples(st.just("group"), place),
    )
    return st.lists(change, min_size=1, max_size=2).map(tuple)


def put_record(folder: Path, lie: Lie) -> None:
    from anndata.io import write_elem

    with h5py.File(folder / "done.h5ad", "r+") as root:
        records = root["uns/imputome"]
        for what, place, *rest in lie:
            if place not in records:
                continue
            del records[place]
            if what == "group":
                records.create_group(place)
            elif what == "set":
                try:
                    value = np.array(rest[0]) if isinstance(rest[0], list) else rest[0]
                    write_elem(records, place, value)
                except Exception:  # noqa: S112  (what HDF5 cannot hold cannot be in a file)
                    continue


# -- tables as text ----------------------------------------------------------------------------------------------------
CELLS = [
    "0",
    "1",
    "2.5",
    "-1",
    "1e5",
    "NA",
    "",
    " ",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e999",
    "1,5",
    "1.000",
    "x",
    '"',
    "'a'",
    "0x1F",
    "١",
    "1_000",
]
NAMES = ["a", "b", "c", "d", "", "a", "NA", "1", "é", "=1+1", "\x1b[31m", "index", '"q"', "a b", "x" * 400]


def table_lies(_: Path) -> st.SearchStrategy[Lie]:
    """A table from cells and names: (names of columns, rows of a name and cells, separator, end of line)."""
    cells = st.one_of(
        st.sampled_from(CELLS), st.floats(-5, 5).map(lambda value: f"{value:.3g}"), st.integers(0, 9).map(str)
    )
    numbers = st.floats(-5, 5).map(lambda value: f"{value:.3g}")

    def table(width: int) -> st.SearchStrategy[Lie]:
        row = st.tuples(st.sampled_from(NAMES), st.lists(numbers, min_size=width, max_size=width).map(tuple))
        wild = st.tuples(
            st.sampled_from(NAMES), st.lists(cells, min_size=max(0, width - 1), max_size=width + 1).map(tuple)
        )
        names = st.lists(st.sampled_from(NAMES), min_size=width, max_size=width + 1).map(tuple)
        rows = st.lists(st.one_of(row, row, wild), max_size=7).map(tuple)
        return st.tuples(names, rows, st.sampled_from([",", "\t", ";", " "]), st.sampled_from(["\n", "\r\n", "\r", ""]))

    return st.tuples(st.integers(1, 5).flatmap(table), st.one_of(st.just(()), byte_lies(1)))


def put_table(folder: Path, lie: Lie) -> None:
    (names, rows, separator, end), bytes_changed = lie
    lines = [separator.join(["", *names]), *(separator.join([name, *cells]) for name, cells in rows)]
    content = (end or "\n").join(lines) + end
    (folder / "in.csv").write_bytes(change_bytes(content.encode(), bytes_changed))


# -- what must not be believed -----------------------------------------------------------------------------------------
def untrue_matrix(folder: Path) -> str:
    """Why the sparse matrix of in.h5ad is none, by the definition of its format and in plain loops."""
    with h5py.File(folder / "in.h5ad", "r") as root:
        group, parts = root["X"], ("data", "indices", "indptr")
        if group.attrs["encoding-type"] not in ENCODINGS[:2]:
            return ""
        if any(name not in group for name in parts):
            return "a part is missing"
        data, indices, indptr = (np.asarray(group[name][()]) for name in parts)
        shape = [int(size) for size in np.ravel(group.attrs["shape"])]
        by_column = group.attrs["encoding-type"] == ENCODINGS[1]
        names = len(root["obs/_index"]), len(root["var/_index"])
    if any(part.ndim != 1 or part.dtype.kind not in "iufb" for part in (data, indices, indptr)):
        return "a part is not a list of numbers"
    if shape != [*names]:
        return "the shape is not that of the names"
    lines, length = shape[::-1] if by_column else shape
    starts, places = indptr.tolist(), indices.tolist()
    if len(starts) != lines + 1 or starts[0] != 0 or starts[-1] != len(places) or len(places) != len(data):
        return "the lengths do not fit"
    if any(not later >= start for start, later in itertools.pairwise(starts)):
        return "indptr falls"
    if any(not 0 <= place < length for place in places):
        return "an index is outside"
    return ""


def untrue_header(name: str) -> Callable[[Path], str]:
    """Why a header cannot be that of the model ``name`` of `write_truth`."""
    counts = str(MODELS[name][0]).endswith(".h5ad")

    def untrue(folder: Path) -> str:
        header = _tree(f"{name}/model.json")(folder)
        if not isinstance(header, dict):
            return "it is no table"
        genes, bounds = header.get("feature_names"), header.get("bounds")
        if genes != [f"gene{j}" for j in range(8)] and (not isinstance(genes, list) or len({*map(str, genes)}) != 8):
            return "feature_names are not eight names"
        if not isinstance(bounds, list) or len(bounds) != 2:
            return "bounds are not two numbers"
        if any(isinstance(bound, str | list | dict | bool) for bound in bounds):
            return "a bound is not a number"
        if header.get("kind") != ("counts" if counts else "real"):
            return "the kind is another"
        return ""

    return untrue


def untrue_arrays(name: str) -> Callable[[Path], str]:
    """Why an array cannot be that of the model ``name``: it has other dimensions, or numbers that are not finite."""

    def untrue(folder: Path) -> str:
        with np.load(folder / f"true/{name}.npz") as true, np.load(folder / f"{name}/arrays.npz") as stored:
            for each in set(true.files) & set(stored.files):
                array = stored[each]
                if array.ndim != true[each].ndim:
                    return f"{each} has {array.ndim} dimensions"
                if array.dtype.kind == "f" and np.isfinite(true[each]).all() and not np.isfinite(array).all():
                    return f"{each} has values that are not finite"
        return ""

    return untrue


def untrue_store(folder: Path) -> str:
    """Whether in.zarr gave other values than it should, where a file of it is gone."""
    if len([*(folder / "in.zarr").rglob("*")]) == len([*(folder / "true/in.zarr").rglob("*")]):
        return ""
    if not (folder / "out.h5ad").exists():
        return ""
    with h5py.File(folder / "out.h5ad", "r") as out, h5py.File(folder / "done.h5ad", "r") as done:
        same = np.array_equal(out["layers/gene_mean"][()], done["layers/gene_mean"][()])
    return "" if same else "a file of the store is gone, and the values are others"


# -- what is fed -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fed:
    """A kind of input: the lies about it, how one is put into a folder of true files, and the commands that read it."""

    name: str
    lies: Callable[[Path], st.SearchStrategy[Lie]]
    put: Callable[[Path, Lie], None]
    commands: tuple[tuple[object, ...], ...]
    untrue: Callable[[Path], str] = lambda folder: ""  # why the input must not be used; empty if it may be
    share: float = 1.0  # of the inputs, compared with the others
    asks_for_memory: bool = False  # whether a true input could make the program need more memory than there is

    def __str__(self) -> str:
        return self.name


def replace_file(name: str) -> Callable[[Path, Lie], None]:
    def put(folder: Path, lie: Lie) -> None:
        (folder / name).write_bytes(change_bytes((folder / name).read_bytes(), lie))

    return put


def _tree(name: str) -> Callable[[Path], Any]:
    return lambda folder: json.loads((folder / name).read_text(encoding="utf-8"))


def put_header(name: str) -> Callable[[Path, Lie], None]:
    def put(folder: Path, lie: Lie) -> None:
        tree = change_tree(_tree(name)(folder), lie)
        (folder / name).write_text(json.dumps(tree), encoding="utf-8")

    return put


def put_arrays(name: str) -> Callable[[Path, Lie], None]:
    def put(folder: Path, lie: Lie) -> None:
        with np.load(folder / name) as stored:
            arrays = {each: stored[each] for each in stored.files}
        np.savez(folder / name, **change_arrays(arrays, lie))

    return put


def array_names(path: Path) -> list[str]:
    with np.load(path) as stored:
        return list(stored.files)


def put_toml(name: str) -> Callable[[Path, Lie], None]:
    def put(folder: Path, lie: Lie) -> None:
        tree = change_tree(_tree(f"{name}.json")(folder), lie)
        (folder / name).write_text(as_toml(tree), encoding="utf-8")

    return put


def put_journal(folder: Path, lie: Lie) -> None:
    tree = change_tree(_tree("journal.json")(folder), lie)
    lines = tree if isinstance(tree, list) else [tree]
    (folder / ".out.csv.journal").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and tensors of a checkpoint."""
    from safetensors import safe_open

    with safe_open(folder / CHECKPOINT_FILE, "np") as stored:
        return json.loads(stored.metadata()["header"]), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def _write_checkpoint(folder: Path, header: Any, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    kept = {name: np.ascontiguousarray(array) for name, array in tensors.items() if array.dtype.kind in "fiub"}
    save_file(kept, folder / CHECKPOINT_FILE, metadata={"header": json.dumps(header)})


def put_tensors(folder: Path, lie: Lie) -> None:
    header, tensors = _checkpoint(folder)
    _write_checkpoint(folder, header, change_arrays(tensors, lie))


def put_checkpoint_header(folder: Path, lie: Lie) -> None:
    header, tensors = _checkpoint(folder)
    _write_checkpoint(folder, change_tree(header, lie), tensors)


def zarr_lies(_: Path) -> st.SearchStrategy[Lie]:
    """A file of a store, and its change; None takes it away."""
    return st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(st.none(), byte_lies(1)))


def put_zarr(folder: Path, lie: Lie) -> None:
    """One file of the store gets other bytes, or is gone."""
    which, change = lie
    files = sorted(path for path in (folder / "in.zarr").rglob("*") if path.is_file())
    path = files[int(which * len(files))]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change_bytes(path.read_bytes(), change))


CHECKPOINT_FILE = "steps/checkpoint.safetensors"
WRITE = ("-q", "--force", "-o")
COLUMNS = ("--genes-in", "columns")
MEAN = ("--method", "gene_mean")
IMPUTE = ("impute", "in.h5ad", *WRITE, "out.h5ad")
EVALUATE = ("evaluate", "in.h5ad", "-q", "--methods", "gene_mean", "-o")
TEXT = (*COLUMNS, "--method", "median", "--transform", "none", *WRITE, "out.csv")
ZIPO = (
    "--method",
    "zipo",
    *(each for name in ("encoder=4-2", "max_epochs=3") for each in ("--set", name)),
)
FIT = ("fit", "in.h5ad", "-m", "out", "--force", "-q")
CHECKPOINT = (*FIT, *ZIPO, "--checkpoint", "steps")
REAL = ("gaps.csv", *COLUMNS, "--transform", "none", "--method")
MODELS: dict[str, tuple[object, ...]] = {
    "nmf": ("in.h5ad", "--method", "poisson_nmf", "--set", "n_components=2"),
    "ialm": ("in.h5ad", "--method", "ialm"),
    "zipo": ("in.h5ad", *ZIPO),
    "posterior": ("in.h5ad", "--method", "gene_mean_posterior"),
    "copula": (*REAL, "gaussian_copula"),
    "knn": (*REAL, "knn"),
}
NMF = ("--method", "poisson_nmf", "--set", "max_iter=3")
TUNE = ("tune", "in.h5ad", *NMF, "--objective", "poisson_loss", "--trials", "1", "--storage", "s.db", "-q")


def _tree_of(name: str) -> Callable[[Path], st.SearchStrategy[Lie]]:
    return lambda folder: tree_lies(_tree(name)(folder))


def _bytes_of(name: str, *commands: tuple[object, ...], **options: Any) -> Fed:
    return Fed(f"bytes of {name}", lambda _: byte_lies(), replace_file(name), commands, **options)


def _models(name: str) -> list[Fed]:
    """The lies about a saved model: its header and its arrays, as trees and as bytes."""
    header, arrays = f"{name}/model.json", f"{name}/arrays.npz"
    source = MODELS[name][0]
    options = COLUMNS if str(source).endswith(".csv") else ()
    apply = ("apply", name, source, *WRITE, "out.csv" if options else "out.h5ad", *options)
    return [
        Fed(f"header of {name}", _tree_of(header), put_header(header), (apply,), untrue_header(name), share=0.5),
        Fed(
            *(f"arrays of {name}", lambda at: array_lies(array_names(at / arrays)), put_arrays(arrays)),
            *((apply,), untrue_arrays(name)),
            share=0.5,
        ),
        *([_bytes_of(header, apply), _bytes_of(arrays, apply)] if name == "nmf" else []),
    ]


FEEDS = [
    *(fed for name in MODELS for fed in _models(name)),
    Fed("sparse matrix", sparse_lies, put_sparse, ((*IMPUTE, *MEAN), ("inspect", "in.h5ad")), untrue_matrix, share=3),
    _bytes_of("in.h5ad", (*IMPUTE, *MEAN)),
    Fed("files of a zarr store", zarr_lies, put_zarr, (("impute", "in.zarr", *IMPUTE[2:], *MEAN),), untrue_store),
    Fed(
        *("text table", table_lies, put_table),
        (("impute", "in.csv", *TEXT), ("inspect", "in.csv", "--genes-in", "rows")),
        share=3,
    ),
    _bytes_of("counts.csv", ("impute", "counts.csv", *COLUMNS, *WRITE, "out.csv", *MEAN)),
    _bytes_of("counts.csv.gz", ("inspect", "counts.csv.gz", *COLUMNS)),
    _bytes_of("counts.parquet", ("inspect", "counts.parquet", *COLUMNS)),
    Fed(
        *("study", _tree_of("study.toml.json"), put_toml("study.toml")),
        (("study", "run", "study.toml", "-o", "study", "--datasets", "nowhere"),),
        share=2,
    ),
    Fed(
        *("config in TOML", _tree_of("config.toml.json"), put_toml("config.toml")),
        ((*IMPUTE, "--config", "config.toml"),),
        asks_for_memory=True,
    ),
    _bytes_of("config.toml", (*FIT, "--config", "config.toml"), asks_for_memory=True),
    Fed(
        *("record in JSON", _tree_of("record.json"), put_header("record.json")),
        ((*IMPUTE, "--config", "record.json"),),
        asks_for_memory=True,
    ),
    Fed(
        *("record in an .h5ad", record_lies, put_record),
        (("remove", "done.h5ad", "gene_mean"), ("impute", "done.h5ad", *IMPUTE[2:], *MEAN)),
        share=2,
    ),
    Fed("journal", _tree_of("journal.json"), put_journal, ((*EVALUATE, "out.csv"),)),
    _bytes_of(".out.csv.journal", (*EVALUATE, "out.csv")),
    _bytes_of("results.csv", (*EVALUATE, "results.csv")),
    Fed(
        *("checkpoint header", lambda at: tree_lies(_checkpoint(at)[0]), put_checkpoint_header, (CHECKPOINT,)),
        share=0.5,
    ),
    Fed(
        *("checkpoint tensors", lambda at: array_lies([*_checkpoint(at)[1]]), put_tensors, (CHECKPOINT,)),
        share=0.5,
    ),
    _bytes_of(CHECKPOINT_FILE, CHECKPOINT, share=0.5),
    _bytes_of("s.db", TUNE, share=0.3),
]


def write_truth(folder: Path) -> None:
    """Small true files of every kind but those that `TRUE_COMMANDS` write."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(1.0, size=(12, 2)) @ rng.gamma(1.0, size=(2, 8)) + 0.3).astype(np.float32)
    X[:, 0] += 1
    names = [f"cell{i}" for i in range(12)], [f"gene{j}" for j in range(8)]
    obs, var = (pd.DataFrame(index=pd.Index(each, dtype=object)) for each in names)
    adata = ad.AnnData(sp.csr_matrix(X), obs=obs, var=var)
    adata.write_h5ad(folder / "in.h5ad")
    adata.write_zarr(str(folder / "in.zarr"))
    table = pd.DataFrame(X.astype(int), *names)
    for suffix in (".csv", ".csv.gz"):
        table.to_csv(folder / f"counts{suffix}", index_label="cell")
    table.to_parquet(folder / "counts.parquet")
    gaps = table + rng.normal(0, 0.2, X.shape)
    gaps[rng.random(X.shape) < 0.1] = np.nan
    gaps.round(3).to_csv(folder / "gaps.csv", index_label="cell")
    params = {"n_components": 2, "max_iter": 3}
    study = {
        **{"title": "small", "trials": 2, "seed": 0, "shown": ["poisson_loss"], "controls": ["ialm"]},
        "datasets": [{"name": "pbmc68k", "max_cells": 50, "min_cells": 20}],
        "splits": [{"scheme": "thin", "fraction": 0.1, "scale": "counts"}],
        "base": {"method": "poisson_nmf", "params": params},
        "factors": [{"n_components": [2, 3]}],
        "configurations": [{"name": "four", "params": {"n_components": 4}}],
        "claims": [{"text": "t", "kind": "better", "metric": "poisson_loss", "configurations": ["four", "base"]}],
        "quick": {"trials": 1},
    }
    config = {"method": "poisson_nmf", "params": params}
    for name, tree in (("study.toml", study), ("config.toml", config)):
        (folder / f"{name}.json").write_text(json.dumps(tree))
        (folder / name).write_text(as_toml(tree))


TRUE_COMMANDS: list[tuple[object, ...]] = [
    *(("fit", *what, "-m", name, "-q") for name, what in MODELS.items()),
    ("impute", "in.h5ad", *WRITE, "done.h5ad", *MEAN, "--record", "record.json"),
    CHECKPOINT,
    (*EVALUATE, "results.csv"),
    TUNE,
]


def write_rest(folder: Path) -> None:
    """The journal that an interrupted evaluation leaves, and copies of what is changed in place."""
    import pandas as pd

    shutil.copytree(folder / "in.zarr", folder / "true/in.zarr")
    for path in folder.glob("*/arrays.npz"):
        shutil.copyfile(path, folder / f"true/{path.parent.name}.npz")

    rows = pd.read_csv(folder / "results.csv", keep_default_na=False).to_dict("records")
    by_method: dict[str, list[Any]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    lines = [each[:2] for each in by_method.values()]
    (folder / "journal.json").write_text(json.dumps(lines))
    (folder / ".out.csv.journal").write_text("".join(json.dumps(line) + "\n" for line in lines))


def copy_truth(truth: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(truth, folder))
