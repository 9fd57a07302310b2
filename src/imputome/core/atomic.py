"""Outputs that are complete or absent: written in a hidden folder beside their place, and moved there at the end.

The hidden folder, ``.NAME.RANDOM.partial``, holds what is being written, for the moment between two renames what was
there before, and a lock of the process that writes. So the next process that writes, or reads, the same place can tell
what a dead process has left from what a living one is writing, here or on another machine that shares the disk: it puts
the older output back if nothing is in its place, and removes the rest.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imputome.core.disk import room_for, takes_no_file
from imputome.core.interrupts import held, placing
from imputome.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: what dead processes left stays
    fcntl = None  # type: ignore[assignment]

LOCK, OLD = "lock", "old"  # in the hidden folder, beside the new output, which has its final name
DAY = 86_400  # seconds after which what another machine left is removed; not before, as some disks hide its locks
PATIENCE = 20  # times 0.05 s that a living process is given between its two renames
_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A path to write to, with the name of ``path``; what is written there is moved to ``path`` if the block succeeds.

    An older output stays whole until then. A file is replaced in one step, and so is a folder where the system can
    exchange two names (Linux, on most disks); elsewhere the old folder is moved aside first, and put back, by this
    process or by the next one (`restore`), if the new one does not arrive. Where ``path`` is a symbolic link, its
    target is replaced (`destination`). Without ``overwrite``, what another process has put there meanwhile stays, and
    the new output is refused.
    """
    path = destination(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it first", code="no-folder")
    recover(path)
    made: list[tuple[Path, int]] = []
    try:
        with room_for(path):
            with held():  # a signal comes before the hidden folder is made, or when it is known here
                made.append(_new_work(path))
            partial = made[0][0] / path.name
            try:
                yield partial
                _to_disk(partial)
                _move(partial, path, made[0][0] / OLD, overwrite=overwrite)
            except BaseException:
                _remove_interrupted(partial)
                raise
    finally:
        with held():
            for work, lock in made:
                _put_back(work, path)
                os.close(lock)
                _remove(work)


def restore(path: Path) -> None:
    """Before ``path`` is read or checked: if a process died while it replaced this folder, put the older one back."""
    if not path.exists() and path.parent.is_dir():
        with suppress(OSError):  # a folder that cannot be listed
            recover(path)


def destination(path: str | Path) -> Path:
    """Where an output goes: ``path``, or the target of a symbolic link; only files and folders can be replaced."""
    path = Path(path)
    try:
        real = path.resolve() if path.is_symlink() or path.name in ("", "..") else path
        special = real.is_symlink() or (real.exists() and not real.is_file() and not real.is_dir())
    except RuntimeError:  # links in a circle
        special = True
    if special:
        text = f"{path} is neither a file nor a folder (but a pipe, a device or a circle of links): give another path"
        raise InputError(text, code="special-file")
    return real


def check_writable(path: Path) -> None:
    """Check, before any computation, that ``path`` can be made or replaced; its folder need not exist."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    for place in (folder, path) if path.is_dir() else (folder,):
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            text = f"the folder {place} cannot be written to: choose another, or change its permissions"
            raise InputError(text, code="folder-not-writable")


def check_place(path: Path) -> None:
    """Check, before any computation, that files can be made beside ``path``, by making one; permissions do not tell."""
    path = destination(path)
    with room_for(path), held():
        work, lock = _new_work(path)
        os.close(lock)
        _remove(work)


def check_file(path: Path, suffixes: tuple[str, ...], what: str, *, overwrite: bool) -> None:
    """Check, before any computation, that the file ``path`` can be written; ``what`` it is, in a word."""
    if not path.name.lower().endswith(suffixes):
        raise InputError(f"{path} is not the name of a {what}: end it in {' or '.join(suffixes)}", code="output-suffix")
    real = destination(path)
    if not real.parent.is_dir():
        raise InputError(f"the folder {real.parent} does not exist: make it first", code="no-folder")
    if real.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file", code="output-is-folder")
    check_writable(real)
    if real.exists() and not overwrite:
        raise exists_already(path)


def exists_already(path: Path) -> InputError:
    """The refusal of an output whose place is taken."""
    return InputError(f"{path} exists already: pass {{overwrite}} to replace it", code="output-exists", overwrite=True)


# -- moving ------------------------------------------------------------------------------------------------------------
def _move(partial: Path, path: Path, old: Path, *, overwrite: bool) -> None:
    """Move ``partial`` to ``path``. A folder that was there goes, by way of ``old``, to the place of ``partial``."""
    placing(partial, path)
    if not overwrite:
        if not _renamed(partial, path, _RENAME_NOREPLACE):
            if path.exists():
                raise exists_already(path)
            partial.replace(path)  # a disk that cannot do both in one step
    elif not partial.is_dir():
        partial.replace(path)
    elif not path.is_dir():
        try:
            partial.rename(path)
        except OSError:
            if not path.is_dir():
                raise
            _move(partial, path, old, overwrite=True)  # another process has just put one there
    elif not _renamed(partial, path, _RENAME_EXCHANGE):
        path.rename(old)
        partial.rename(path)
        old.rename(partial)  # so that it is never put back half removed


def _renamed(first: Path, second: Path, flag: int) -> bool:
    """Rename in one step, in the way that ``flag`` says, if the system and the disk can."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), flag) == 0)


def _to_disk(partial: Path) -> None:
    """Put the content on the disk, where it must be before the name is: a power cut could leave empty files."""
    for path in partial.rglob("*") if partial.is_dir() else (partial,):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())


# -- what processes leave ----------------------------------------------------------------------------------------------
def recover(path: Path) -> None:
    """Clear up after processes that died while they wrote ``path``, and wait for one that is just moving it."""
    hidden = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.partial")
    for _ in range(PATIENCE):
        works = [entry for entry in path.parent.iterdir() if hidden.fullmatch(entry.name)]
        for work in works:
            with suppress(OSError):  # the process lives, another one is clearing up too, or it is not ours to change
                _clear_up(work, path)
        if path.exists() or not any((work / OLD).exists() for work in works):
            return
        time.sleep(0.05)


def _clear_up(work: Path, path: Path) -> None:
    """Remove the hidden folder of a dead process, after the older output in it, if there is one, was put back."""
    if fcntl is None or work.is_symlink():
        return
    forgotten = time.time() - work.stat().st_mtime > DAY
    if not (work / LOCK).exists():  # its process died before or after it wrote anything, or has just made it
        shutil.rmtree(work) if forgotten else work.rmdir()
        return
    lock = os.open(work / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error if the process lives
        if forgotten or os.read(lock, 256) == _machine():
            _put_back(work, path)
            _remove(work)
    finally:
        os.close(lock)


def _new_work(path: Path) -> tuple[Path, int]:
    """A hidden folder, with a file that the system keeps locked for this process, and that names the machine."""
    while True:
        work = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        try:
            work.mkdir()
        except FileNotFoundError as error:
            if not path.parent.is_dir():
                raise
            raise takes_no_file(path.parent, error.strerror) from error
        try:
            lock = os.open(work / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            break
        except FileNotFoundError:  # another process took the empty folder for left behind
            continue
        except OSError:
            work.rmdir()
            raise
    if fcntl is not None:
        with suppress(OSError):  # a disk without locks: without the name, it is not taken for left behind
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.write(lock, _machine())
    return work, lock


def _machine() -> bytes:
    return os.uname().nodename.encode()[:256]


def _put_back(work: Path, path: Path) -> None:
    if (work / OLD).exists() and not path.exists():
        (work / OLD).rename(path)


def _remove(work: Path) -> None:
    """Remove a hidden folder, the lock last, so that another process can go on if this one dies."""
    for entry in work.iterdir() if work.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != LOCK:
            with suppress(OSError):
                entry.unlink()
    shutil.rmtree(work, ignore_errors=True)


def _remove_interrupted(partial: Path) -> None:
    """Remove what zarr's threads may still be writing to."""
    quiet = 0
    for _ in range(100):
        if partial.exists():
            quiet = 0
            with suppress(OSError):  # a file appeared or vanished meanwhile: the next round removes it
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        else:
            quiet += 1
        if quiet == 4 or (quiet and partial.suffix.lower() != ".zarr"):
            return
        time.sleep(0.05)
