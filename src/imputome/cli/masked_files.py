"""Files of masked data: an ``.h5ad`` or ``.zarr`` with the truth in it, or what other tools read, the truth beside it.

A table or a 10x folder cannot hold the truth. It is written beside it, with all else, as ``OUT.truth.h5ad``, where OUT
is the whole name of the table or folder.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imputome.cli.output import STORES, check_store, fill_store, write_store
from imputome.errors import InputError, Message

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.evaluation.outside import Outside

BESIDE = "beside"  # entry of the record: the digest of the table or folder that the truth belongs to
TRUTH_SUFFIX = ".truth.h5ad"
ENDINGS = ".h5ad, .zarr, .csv, .tsv, .txt (also .gz), .parquet, or in no suffix for a 10x folder"


def truth_path(path: Path) -> Path:
    """Where the truth of a masked table or 10x folder lies."""
    return path.with_name(f"{path.name}{TRUTH_SUFFIX}")


def check_masked(output: Path, source: Path, *, force: bool) -> None:
    """Check, before any work, that masked data can be written to ``output``, and the truth beside it."""
    from imputome.core.atomic import check_file
    from imputome.io.mtx_folder import check_10x_folder
    from imputome.io.store import check_output
    from imputome.io.tables import table_suffix

    if output.suffix.lower() in STORES:
        check_store(output, source, "the truth beside the data", force=force)
        return
    if table_suffix(output) is not None:
        check_output(output, source, overwrite=force)
    elif not output.suffix:
        if output.exists() and source.exists() and output.samefile(source):
            raise InputError(f"the output {output} is the input itself: give another path", code="output-is-input")
        check_10x_folder(output, overwrite=force)
    else:
        text = f"{output} has no format that masked data can be written in: end it in {ENDINGS}"
        raise InputError(text, code="unknown-format")
    check_file(truth_path(output), (TRUTH_SUFFIX,), "file for the truth", overwrite=force)


def only_written(source: Path, output: Path, genes_in: str | None) -> str | None:
    """The orientation to read ``source`` with: none if ``genes_in`` can only be that of the table to write."""
    from imputome.io.tables import table_suffix

    return None if table_suffix(output) and table_suffix(source) is None else genes_in


def check_fits(masked: AnnData, output: Path, genes_in: str | None) -> None:
    """Check that the format of ``output`` can hold the masked data."""
    from imputome.evaluation.masked import MASK_KEY
    from imputome.io.tables import check_parquet_names

    if not output.suffix and masked.uns[MASK_KEY]["kind"] != "counts":
        text = f"the 10x folder {output} holds counts, in which nothing can be missing: end it in .csv, or in .h5ad"
        raise InputError(text, code="real-in-10x-folder")
    if output.suffix.lower() == ".parquet":
        check_parquet_names(masked, genes_in or "columns", None)


def write_masked(masked: AnnData, output: Path, genes_in: str | None, *, force: bool) -> Path:
    """Write masked data; returns the path of the file that holds the truth.

    ``genes_in`` is the orientation of a table, by default one row per cell. Both files are complete before one of them
    is in its place, and the truth names the table or folder that it belongs to.
    """
    from imputome.core.atomic import atomic_path
    from imputome.evaluation.masked import MASK_KEY
    from imputome.io.mtx_folder import fill_10x_folder
    from imputome.io.tables import fill_table
    from imputome.result.matrices import Held

    if output.suffix.lower() in STORES:
        write_store(masked, output, force=force)
        return output
    truth = truth_path(output)
    with (
        atomic_path(truth, overwrite=force) as partial_truth,
        atomic_path(output, overwrite=force) as partial,
    ):
        if output.suffix:
            matrix = Held(masked.X, masked.obs_names, masked.var_names)
            fill_table(partial, matrix, genes_in=genes_in or "columns")
        else:
            fill_10x_folder(partial, masked)
        masked.uns[MASK_KEY][BESIDE] = _digest(partial)
        fill_store(partial_truth, masked)
    return truth


def read_masked(path: Path) -> AnnData:
    """The masked data of a file or folder, with the truth that lies in it or beside it."""
    from imputome.evaluation.masked import MASK_KEY
    from imputome.io.reading import read

    store = path
    if path.suffix.lower() not in STORES:
        if not path.exists():
            raise InputError(f"{path} does not exist", code="no-file")
        store = truth_path(path)
        if not store.exists():
            text = f"{path} holds no truth, and there is no {store} beside it: give a file that `imputome mask` wrote"
            raise InputError(text, code="no-truth")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique")
        masked = read(store)
    if store != path and masked.uns.get(MASK_KEY, {}).get(BESIDE) != _digest(path):
        text = f"{path} is not what {store} was written with: mask the data again, or, if you know that only its form "
        raise InputError(f"{text}was changed, give {store} itself", code="truth-of-another")
    return masked


def _digest(path: Path) -> str:
    """A short text that differs between files, and between folders."""
    state = hashlib.blake2b(digest_size=8)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if path.is_dir():
            state.update(file.name.encode())
        with file.open("rb") as handle:
            while block := handle.read(2**20):
                state.update(block)
    return state.hexdigest()


# -- what other tools made of them -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ResultFile:
    """A file that holds what another tool made of masked data."""

    name: str
    path: Path
    layer: str | None = None
    scale: str | None = None
    partial: bool | None = None  # None for a result in --external, where messages name that option

    def read(self, decimal: str = ".", missing: list[str] | None = None) -> Outside:
        """The values, with their names; those of a table in either orientation, which the names tell later."""
        from imputome.api.score import outside_of
        from imputome.cli import options as opt
        from imputome.io.reading import read
        from imputome.io.tables import table_suffix
        from imputome.studies.external import of_external

        is_table = table_suffix(self.path) is not None and self.path.is_file()
        options = opt.table_options(decimal, missing, "none" if is_table else None)
        with warnings.catch_warnings():  # what seems odd in the values is said by the scores
            warnings.simplefilter("ignore", UserWarning)
            try:
                adata = read(self.path, genes_in="columns" if is_table else None, options=options)
            except InputError as error:
                if not is_table or error.code in ("no-file", "unreadable"):
                    raise
                try:
                    adata = read(self.path, genes_in="rows", options=options)
                except InputError:
                    raise error from None
        if self.layer is not None and is_table:
            text = f"{self.path} is a table, which has no layers: leave {{layer}} out"
            message = Message(text, code="option-unused", layer=...)
            raise InputError(message if self.partial is not None else of_external(message))
        return outside_of(adata, name=self.name, layer=self.layer, scale=self.scale, partial=self.partial)  # type: ignore[arg-type]


def result_of(text: str) -> ResultFile:
    """``NAME=FILE``, with ``:layer=L`` and ``:scale=S`` at its end where they are needed."""
    name, equals, rest = text.partition("=")
    options: dict[str, str] = {}
    while found := re.fullmatch(r"(.+):(layer|scale)=([^:]*)", rest):
        rest, options = found[1], {found[2]: found[3], **options}
    if not (equals and name.strip() and rest):
        raise InputError(f"{text!r} is not of the form NAME=FILE", code="external-form", parameter="external")
    return ResultFile(name.strip(), Path(rest), options.get("layer"), options.get("scale"))


def masked_of(path: Path | None, results: list[ResultFile]) -> AnnData | None:
    """The masked data that results are about."""
    if path is None and results:
        stores = [result.path for result in results if result.path.suffix.lower() in STORES]
        for store in dict.fromkeys(stores):  # tools in Python add a layer to the masked file
            masked = read_masked(store)
            if "truth" in masked.layers:
                return masked
        return None
    if path is not None and not results:
        text = "{masked} is for results of other tools: pass {external} too, or leave it out"
        raise InputError(text, code="option-unused", masked=..., external=...)
    return None if path is None else read_masked(path)
