"""The files of the known data sets, made from downloaded originals, and compared with those of our results."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.atomic import atomic_path, check_file
from imputome.datasets import DatasetInfo, cache_folder, compare, info
from imputome.errors import InputError, Message, missing_extra, some
from imputome.io.originals import READERS, only, text_rows
from imputome.io.reading import read
from imputome.io.store import write_anndata
from imputome.io.unpacking import read_unpacked

if TYPE_CHECKING:
    from anndata import AnnData

_R_FORMATS = (".rda", ".rdata", ".rds", ".deb")
_LABELS = ("metadata", "labels")  # in the name of a table of the cells
_NAMES = {"cell_line_demuxlet": "cell_type"}  # what a column of an original is called in our file


@dataclass(frozen=True)
class Converted:
    """What `convert` has written."""

    path: Path
    shape: tuple[int, int]
    same: bool  # whether the values are those of our results
    compared: Message  # the sentence that says so
    lacking: tuple[str, ...]  # labels that the originals do not have


def convert(
    name: str, files: Sequence[str | Path], output: str | Path | None = None, *, overwrite: bool = False
) -> Converted:
    """Make the file of a data set from its downloaded originals, where `imputome.datasets.load` finds it.

    Parameters
    ----------
    name : str
        One of `imputome.datasets.names`, or its short name.
    files : sequence of str or Path
        The originals, as `imputome.datasets.info` says (``files``); or one ``.h5ad`` that is ready. A ``.csv`` with
        ``labels`` or ``metadata`` in its name has a row for each cell, whose name is in the first column; its columns
        go to ``obs``.
    output : str or Path, optional
        A folder; by default that in the user's cache.
    overwrite : bool, default=False
        Replace a file that is there.

    Returns
    -------
    Converted

    Raises
    ------
    InputError
        The name is unknown; files are missing, damaged, larger than any of these data sets, unsafe to unpack, or of
        another layout; or they are in a format of R, for which the message holds the lines of R to run.

    Warns
    -----
    UserWarning
        The values are not those that our results were made with, or labels are not in the originals.

    Notes
    -----
    Archives are read in memory; nothing in them is written to the disk. Cost: the originals, unpacked, in memory.

    Examples
    --------
    >>> import tempfile, warnings
    >>> import h5py, numpy as np
    >>> from imputome.io.conversion import convert
    >>> with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # these are no cells of a bladder
    ...     with h5py.File(f"{folder}/bladder.h5", "w") as root:
    ...         root["X"], root["Y"] = np.eye(3), np.array([1, 2, 2])
    ...     made = convert("bladder", [f"{folder}/bladder.h5"], folder)
    ...     made.path.name, made.shape, made.same
    ('mouse_bladder_2100.h5ad', (3, 3), False)
    """
    entry, paths = info(name), [Path(path) for path in files]
    reader = READERS.get(entry.name)
    if reader is None:
        text = f"{entry.name} comes with scanpy, so there is nothing to convert: load it"
        raise InputError(text, code="nothing-to-convert", parameter="name")
    target = _target(entry, output, overwrite=overwrite)
    originals = [path for path in paths if not _has_labels(path)]
    _check_files(entry, paths, originals)
    if originals[0].suffix.lower() == ".h5ad" and len(originals) == 1:
        data: Any = read(originals[0])
        data.var_names_make_unique()
    else:
        data = reader(originals)
    if entry.suffix == ".h5ad":
        data = _finished(data, entry, paths, [path for path in paths if _has_labels(path)])
    compared = compare(entry, data)
    with atomic_path(target, overwrite=overwrite) as partial:
        if entry.suffix == ".parquet":
            data.to_parquet(partial, index=False)
        else:
            write_anndata(partial, data, filters={"compression": "gzip"})
    lacking = () if entry.suffix == ".parquet" else _lacking(entry, data)
    same = compared.code == "same-values"
    if not same:
        warnings.warn(compared, stacklevel=2)
    if lacking:
        text = f"{entry.name} has no {', '.join(lacking)}: what needs it cannot be run, unless you give a table "
        warnings.warn(
            Message(f"{text}labels.csv of cells and {', '.join(lacking)} too", code="no-labels"), stacklevel=2
        )
    return Converted(target, (data.shape[0], data.shape[1]), same, compared, lacking)


def _target(entry: DatasetInfo, output: str | Path | None, *, overwrite: bool) -> Path:
    """The file to write, checked before anything is read."""
    if entry.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise missing_extra(f"dataset {entry.name}", "pyarrow", "parquet")
    folder = cache_folder() if output is None else Path(output)
    if folder is None:
        text = "there is no folder for caches here that stays: pass {output} with a folder, and set IMPUTOME_DATA to it"
        raise InputError(text, code="no-folder", output=...)
    if output is None:
        folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{entry.name}{entry.suffix}"
    check_file(target, (entry.suffix,), "data set", overwrite=overwrite)
    return target


def _check_files(entry: DatasetInfo, paths: list[Path], originals: list[Path]) -> None:
    wanted = f"give {entry.files}"
    if not originals:
        raise InputError(f"{entry.name} is made from originals, and none is given: {wanted}", code="number-of-files")
    only(paths, len(set(paths)), "each original once")
    for path in paths:
        if path.name.lower().endswith(_R_FORMATS):
            if not entry.in_r:
                raise InputError(
                    f"{path} holds data in a format of R, which cannot be read here: {wanted}", code="format-of-r"
                )
            lines = "` and `".join(entry.in_r)
            text = f"{path} holds data in a format of R, which cannot be read here: run `{lines}` in R, and {wanted}"
            raise InputError(text, code="format-of-r")
        if not path.exists():
            raise InputError(f"{path} does not exist: download it first", code="no-file")


def _has_labels(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith((".csv", ".csv.gz")) and any(word in name for word in _LABELS)


def _finished(data: AnnData, entry: DatasetInfo, paths: list[Path], tables: list[Path]) -> AnnData:
    """With what the tables of the cells say, the matrix as our files have it, and where it is from."""
    import scipy.sparse as sp

    if not (data.obs_names.is_unique and data.var_names.is_unique):
        raise InputError(f"names repeat in {some(map(str, paths))}: download them again", code="repeated-names")
    X = data.X
    data.X = sp.csr_matrix(X, dtype=np.float32) if sp.issparse(X) else np.asarray(X, dtype=np.float32)
    for path in tables:
        _add_labels(data, path)
    data.uns["source"] = f"{entry.source}; converted by imputome from {', '.join(path.name for path in paths)}"
    return data


def _add_labels(data: AnnData, path: Path) -> None:
    import pandas as pd

    header, *rows = text_rows(read_unpacked(path), path) or [[""]]
    table = pd.DataFrame([row[1:] for row in rows], index=[row[0] for row in rows], columns=header[1:], dtype=object)
    table = table.mask(table.isin(["", "NA"]))
    known = table.index.intersection(data.obs_names)
    if not table.shape[1] or not len(known) or not table.index.is_unique:
        text = (
            f"{path} is no table of these cells: its first column needs their names, each once, as {data.obs_names[0]}"
        )
        raise InputError(text, code="labels-do-not-fit")
    table = table.rename(columns=_NAMES).reindex(data.obs_names)
    for name in table.columns.difference(data.obs.columns):
        column = table[name]
        as_numbers = pd.to_numeric(column, errors="coerce")
        if as_numbers.notna().equals(column.notna()) and column.notna().any():
            data.obs[name] = as_numbers
        else:  # cells without a type are not one more type
            column = column.fillna("unassigned") if name == "cell_type" else column
            data.obs[name] = pd.Categorical(column)


def _lacking(entry: DatasetInfo, data: AnnData) -> tuple[str, ...]:
    """The labels of the table that the data do not have."""
    wanted = [text.partition(" (")[0].split() for text in entry.labels.split(",")]
    return tuple(name for *slot, name in wanted if name not in (data.obsm if slot == ["obsm"] else data.obs))
