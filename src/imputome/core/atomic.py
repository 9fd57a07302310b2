"""Outputs that are complete or absent: written under a hidden name and moved into place at the end."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imputome.core.interrupts import placing
from imputome.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A hidden partial path in the folder of ``path``; it is moved to ``path`` if the block succeeds, else removed.

    The partial has the suffix of ``path``. An older output stays whole until the move. For files the move is atomic. A
    folder is replaced by renaming: the old one aside, the new one into its place, and then the old one is deleted; if
    the machine stops in between, the next call puts the old one back. Partials of dead processes are removed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it first", code="no-folder")
    _recover(path)
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:])
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix}")
    _remove(partial)
    try:
        yield partial
        _move(partial, path)
    except BaseException:
        _remove_interrupted(partial)
        raise


def check_file(path: Path, suffixes: tuple[str, ...], what: str, *, overwrite: bool) -> None:
    """Check, before any computation, that the file ``path`` can be written; ``what`` it is, in a word."""
    if not path.name.lower().endswith(suffixes):
        raise InputError(f"{path} is not the name of a {what}: end it in {' or '.join(suffixes)}", code="output-suffix")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it first", code="no-folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        text = f"the folder {path.parent} cannot be written to: choose another, or change its permissions"
        raise InputError(text, code="folder-not-writable")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file", code="output-is-folder")
    if path.exists() and not overwrite:
        raise InputError(
            f"{path} exists already: pass {{overwrite}} to replace it", code="output-exists", overwrite=True
        )


def _move(partial: Path, path: Path) -> None:
    if partial.is_file():
        # the data must be on the disk before the name, or a power cut could leave an empty file
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
    placing(partial, path)
    if path.is_symlink() or not path.is_dir():
        partial.replace(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        path.rename(old)
        partial.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old)


def _recover(path: Path) -> None:
    """Clean up after processes that died while they wrote ``path``."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(partial.*|old)")
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match is None or _alive(int(match[1])):
            continue
        if match[2] == "old" and not path.exists():
            entry.rename(path)
        else:
            _remove(entry)


def _alive(pid: int) -> bool:
    if pid == os.getpid() or os.name == "nt":  # on Windows os.kill would end the process that is checked
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_interrupted(path: Path) -> None:
    """Remove a partial that zarr's threads may still be writing to."""
    quiet = 0
    for _ in range(100):
        if path.exists():
            quiet = 0
            with suppress(OSError):  # a file appeared or vanished meanwhile: the next round removes it
                _remove(path)
        else:
            quiet += 1
        if quiet == 4 or (quiet and path.suffix.lower() != ".zarr"):
            return
        time.sleep(0.05)
