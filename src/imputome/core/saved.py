"""Saved models: a directory with ``model.json`` and ``arrays.npz``. Nothing in it is executed or unpickled."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from imputome.core.atomic import atomic_path
from imputome.errors import InputError, ModelFormatError

FORMAT = "imputome-model"
VERSION = 1
_REQUIRED = {"method": str, "params": dict, "kind": str, "bounds": list, "feature_names": list}


def is_model(path: Path) -> bool:
    """Whether ``path`` looks like a model directory."""
    return (path / "model.json").is_file()


def check_model_path(path: Path, *, overwrite: bool = False) -> None:
    """Check, before any computation, that a model can be written to ``path``."""
    if path.exists() and not is_model(path):
        raise InputError(f"{path} exists and is not a saved model: choose another path", code="not-replaceable")
    if path.exists() and not overwrite:
        text = f"{path} exists already: pass {{overwrite}} to replace it"
        raise InputError(text, code="output-exists", overwrite=True)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"the folder {folder} cannot be written to: choose another", code="folder-not-writable")


def write_model(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray], *, overwrite: bool = False) -> None:
    """Write a model directory: complete, or not at all."""
    check_model_path(path, overwrite=overwrite)
    try:
        text = json.dumps({"format": FORMAT, "version": VERSION, **header}, allow_nan=False)
    except (TypeError, ValueError) as error:
        text = f"the model cannot be saved, because a parameter is not a plain value: {error}"
        raise InputError(text, code="parameter-not-plain") from error
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        partial.mkdir()
        (partial / "model.json").write_text(text, encoding="utf-8")
        np.savez(partial / "arrays.npz", **arrays)  # type: ignore[arg-type]


def read_header(path: Path) -> dict[str, Any]:
    """The checked contents of ``model.json``."""
    if not path.is_dir():
        reason = "it is a file" if path.exists() else "it does not exist"
        raise ModelFormatError(f"{path} is not a saved model: {reason}", code="no-model")
    try:
        header = json.loads((path / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFormatError(f"{path} is not a saved model: it has no model.json", code="no-model") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelFormatError(f"{path / 'model.json'} cannot be read: {error}", code="unreadable") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFormatError(f"{path} is not an imputome model", code="no-model")
    if header.get("version") != VERSION:
        text = f"{path} has model format version {header.get('version')}, this version of imputome reads {VERSION}"
        raise ModelFormatError(text, code="model-version")
    for key, kind in _REQUIRED.items():
        if not isinstance(header.get(key), kind):
            raise ModelFormatError(f"{path / 'model.json'} has no valid {key!r}", code="damaged")
    return header


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a model directory."""
    header = read_header(path)
    try:
        with np.load(path / "arrays.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelFormatError(f"{path / 'arrays.npz'} cannot be read: {error}", code="unreadable") from error
    return header, arrays
