"""Files of several modalities (``.h5mu``, as MuData writes them): each modality is an AnnData in a group of its own.

The group is read and written as the root of an ``.h5ad`` is, so the package mudata is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imputome.errors import InputError

SUFFIX = ".h5mu"


def is_multimodal(path: Path) -> bool:
    """Whether the name of ``path`` says that it holds several modalities."""
    return path.suffix.lower() == SUFFIX


def check_modality_unused(path: Path, modality: str | None) -> None:
    """Refuse ``modality`` for a file that has only one."""
    if modality is not None and not is_multimodal(path):
        text = f"{{modality}} is for {SUFFIX} files, and {path} is none: leave it out"
        raise InputError(text, code="option-unused", modality=...)


def modality_of(root: Any, path: Path, modality: str | None) -> Any:
    """The group of a modality in an open ``.h5mu``; without a name, that of the only one."""
    names = list(root.get("mod", ()))
    if not names:
        raise InputError(f"{path} holds no modalities: give a file that MuData wrote", code="no-modalities")
    if modality is None and len(names) > 1:
        text = f"{path} holds {len(names)} modalities ({', '.join(names)}): pass {{modality}}"
        first = next((name for name in names if name.lower() in ("rna", "gex")), names[0])
        raise InputError(text, code="several-modalities", modality=first)
    name = names[0] if modality is None else modality
    if name not in names:
        text = f"{path} has no modality {name!r}; it has {', '.join(names)}"
        raise InputError(text, code="no-such-modality", parameter="modality")
    return root["mod"][name]
