"""Saved models: a directory with ``model.json`` and ``arrays.npz``. Nothing in it is executed or unpickled.

What is read may be damaged, or made by others to do harm: its sizes are compared with those of the files before memory
is taken, and its contents with a schema.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.lib import format as npy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from imputome.core.atomic import atomic_path, check_writable, destination, exists_already, restore
from imputome.core.learned import damaged
from imputome.core.links import LINKS
from imputome.errors import InputError, ModelFormatError, some

FORMAT = "imputome-model"
VERSION = 1
HEADER, ARRAYS = "model.json", "arrays.npz"
FILES = (HEADER, ARRAYS)  # of a model; only these are replaced
LARGEST_HEADER = 2**30  # bytes; names of a million features take 20 MB


class InputOfTraining(BaseModel):
    """What is known of the data that a model was fitted on, as far as it decides how the model is applied."""

    model_config = ConfigDict(strict=True, extra="allow")

    state: str | None = None
    rounding: Literal["nearest", "stochastic"] | None = None
    library_genes: int | None = None


class Provenance(BaseModel):
    """Plain values that a model was saved with."""

    model_config = ConfigDict(strict=True, extra="allow")

    input: InputOfTraining = Field(default_factory=InputOfTraining)
    feature_type: str | None = None


class Header(BaseModel):
    """The contents of ``model.json``."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    method: str
    params: dict[str, Any]
    kind: Literal["counts", "real"]
    bounds: Annotated[list[float | None], Field(min_length=2, max_length=2)]  # None: no bound
    feature_names: Annotated[list[str], Field(min_length=1)]
    link: str = "identity"
    covariates: list[str] = Field(default_factory=list)
    provenance: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Header:
        low, high = self.bounds
        if low is not None and high is not None and low > high:
            raise ValueError("the lower bound is above the upper one")
        if self.link not in LINKS or (self.kind == "counts" and self.link != "identity"):
            raise ValueError(f"there is no link {self.link[:40]!r} for {self.kind}")
        if self.provenance is not None:
            Provenance.model_validate(self.provenance)
            if not _can_be_stored(self.provenance):
                raise ValueError("the provenance has a value that no record can hold")
        return self


def _can_be_stored(value: Any) -> bool:
    """Whether a value can go into the record of a result: a list becomes an array, a whole number has 64 bits."""
    if isinstance(value, dict):
        return all(map(_can_be_stored, value.values()))
    if isinstance(value, list):
        kinds = (str, int | float)
        return any(all(isinstance(each, kind) for each in value) for kind in kinds) and all(map(_can_be_stored, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def is_model(path: Path) -> bool:
    """Whether ``path`` looks like a model directory."""
    restore(path)
    return (path / HEADER).is_file()


def check_model_path(path: Path, *, overwrite: bool = False) -> None:
    """Check, before any computation, that a model can be written to ``path``.

    Only a model is replaced, and only if there is nothing else in its folder.
    """
    place = _check_replaceable(path, overwrite=overwrite)
    others = _others(place)
    if others:
        text = f"{path} holds files that do not belong to the model ({some(others)}): move them, or choose another path"
        raise InputError(text, code="foreign-files")
    check_writable(place)


def write_model(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray], *, overwrite: bool = False) -> None:
    """Write a model directory: complete, or not at all. Other files that came into it since the check stay there."""
    place = _check_replaceable(path, overwrite=overwrite)
    try:
        text = json.dumps({"format": FORMAT, "version": VERSION, **header}, allow_nan=False)
    except (TypeError, ValueError) as error:
        text = f"the model cannot be saved, because a parameter is not a plain value: {error}"
        raise InputError(text, code="parameter-not-plain") from error
    check_writable(place)
    place.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(place, overwrite=overwrite) as partial:
        partial.mkdir()
        (partial / HEADER).write_text(text, encoding="utf-8")
        np.savez(partial / ARRAYS, **arrays)  # type: ignore[arg-type]
        for name in _others(place):
            copy = shutil.copytree if (place / name).is_dir() else shutil.copy2
            copy(place / name, partial / name)


def _check_replaceable(path: Path, *, overwrite: bool) -> Path:
    """Where the model goes; refused if anything but a model is there, or a model that must not be replaced."""
    place = destination(path)
    restore(place)
    if not place.exists():
        return place
    try:
        _format_header(place)
    except ModelFormatError as error:
        text = f"{path} exists and is not a saved model: choose another path, or remove it first"
        raise InputError(text, code="not-replaceable") from error
    if not overwrite:
        raise exists_already(path)
    return place


def _others(place: Path) -> list[str]:
    """Names of what is in a folder beside the files of a model."""
    return sorted(entry.name for entry in place.iterdir() if entry.name not in FILES) if place.is_dir() else []


# -- reading -----------------------------------------------------------------------------------------------------------
def read_header(path: Path) -> Header:
    """The checked contents of ``model.json``."""
    restore(path)
    content = _format_header(path)
    if content.get("version") != VERSION:
        text = (
            f"{path} has model format version {str(content.get('version'))[:20]}, this version of imputome reads "
            f"{VERSION}: update imputome"
        )
        raise ModelFormatError(text, code="model-version")
    try:
        return Header.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))[:80] or "it"
        text = f"{path / HEADER} is damaged ({where}: {fault['msg'][:200]})"
        raise damaged(text, code="damaged") from error


def read_model(path: Path) -> tuple[Header, dict[str, np.ndarray]]:
    """Header and arrays of a model directory."""
    header = read_header(path)
    file = path / ARRAYS
    if not file.is_file():
        raise damaged(f"{path} has no {ARRAYS}", code="unreadable")
    try:
        return header, _read_arrays(file)
    except _UnreadableError as error:
        raise damaged(f"{file} is damaged ({error})", code="unreadable") from error
    except OSError as error:
        raise ModelFormatError(f"{file} cannot be read ({error.strerror}): check it", code="unreadable") from error


def _format_header(path: Path) -> dict[str, Any]:
    """``model.json`` of any version."""
    if not path.is_dir():
        reason = "it is a file" if path.exists() else "it does not exist"
        raise ModelFormatError(
            f"{path} is not a saved model ({reason}): give a folder of imputome fit", code="no-model"
        )
    file = path / HEADER
    if not file.is_file():
        text = f"{path} is not a saved model (it has no {HEADER}): give a folder of imputome fit"
        raise ModelFormatError(text, code="no-model")
    try:
        content = read_json(file, LARGEST_HEADER)
    except OSError as error:
        raise ModelFormatError(f"{file} cannot be read ({error.strerror}): check it", code="unreadable") from error
    except ValueError as error:
        raise damaged(f"{file} is no valid JSON ({str(error)[:200]})", code="unreadable") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelFormatError(f"{path} is not a model of imputome: give a folder of imputome fit", code="no-model")
    return content


def read_json(file: Path, largest: int) -> Any:
    """The content of a file of JSON; a `ValueError` if it is none, or larger than that many bytes."""
    if file.stat().st_size > largest:
        raise ValueError("it is too large")
    return from_json(file.read_bytes(), allow_inf_nan=False)


class _UnreadableError(ValueError):
    """What is wrong with an archive of arrays."""


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive by `numpy.savez`: not compressed, so that no array can be larger than the file."""
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > file.stat().st_size:
                raise _UnreadableError("its arrays are larger than the file")
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise _UnreadableError("its arrays are compressed")
                with archive.open(entry) as stream:
                    arrays[entry.filename.removesuffix(".npy")] = _read_array(stream, entry)
    except (OSError, _UnreadableError):
        raise
    except Exception as error:  # damage makes zipfile and numpy fail in too many ways to list
        raise _UnreadableError("it is no whole archive of arrays") from error
    return arrays


def _read_array(stream: Any, entry: zipfile.ZipInfo) -> np.ndarray:
    read_declared = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, _, dtype = read_declared[npy.read_magic(stream)](stream)
    if dtype.hasobject:
        raise _UnreadableError(f"{entry.filename[:80]} holds Python objects")
    if stream.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
        raise _UnreadableError(f"{entry.filename[:80]} does not have the size that it declares")
    stream.seek(0)
    array = npy.read_array(stream, allow_pickle=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
