"""Saved models: a directory with ``model.json`` and ``arrays.npz``. Nothing in it is ever executed or unpickled."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from imputome.errors import InputError, ModelFormatError

FORMAT = "imputome-model"
VERSION = 1
_REQUIRED = {"method": str, "params": dict, "kind": str, "bounds": list, "feature_names": list}


def is_model(path: Path) -> bool:
    """Whether ``path`` looks like a model directory."""
    return (path / "model.json").is_file()


def check_model_path(path: Path, *, overwrite: bool = False) -> None:
    """Refuse, before any work, a place where no model could or should be written.

    Raises
    ------
    InputError
        A model is there and ``overwrite`` is not given; something else is there; the folder cannot be written to.
    """
    if path.exists() and not is_model(path):
        raise InputError(f"{path} exists and is not a saved model, so it will not be replaced: choose another path")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: pass overwrite=True (--force) to replace it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"the folder {folder} cannot be written to: choose another, or change its permissions")


def write_model(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray], *, overwrite: bool = False) -> None:
    """Write a model directory at once: it is made beside ``path`` and moved there when complete."""
    check_model_path(path, overwrite=overwrite)
    try:
        text = json.dumps({"format": FORMAT, "version": VERSION, **header}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the model cannot be saved, a parameter is no plain value: {error}") from error
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / "model.json").write_text(text, encoding="utf-8")
        np.savez(partial / "arrays.npz", **arrays)  # type: ignore[arg-type]
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_header(path: Path) -> dict[str, Any]:
    """The checked contents of ``model.json``."""
    if not path.is_dir():
        raise ModelFormatError(
            f"{path} is no saved model: " + ("it is a file" if path.exists() else "it does not exist")
        )
    try:
        header = json.loads((path / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFormatError(f"{path} is no saved model: it has no model.json") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelFormatError(f"{path / 'model.json'} cannot be read: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFormatError(f"{path} is not an imputome model")
    if header.get("version") != VERSION:
        raise ModelFormatError(
            f"{path} has model format version {header.get('version')}, this version of imputome reads {VERSION}"
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(header.get(key), kind):
            raise ModelFormatError(f"{path / 'model.json'} lacks a valid {key!r}")
    return header


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a model directory."""
    header = read_header(path)
    try:
        with np.load(path / "arrays.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelFormatError(f"{path / 'arrays.npz'} cannot be read: {error}") from error
    return header, arrays
