"""One lock for what several processes write: a hidden file beside it, which the kernel frees when its holder dies."""

from __future__ import annotations

import errno
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imputome.core.disk import takes_no_file
from imputome.core.interrupts import held
from imputome.errors import InputError, Message

if sys.platform != "win32":
    import fcntl

# what the kernel says on a file system without locks
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_warned: set[Path] = set()  # folders; once each is enough


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Run the block while no other process or thread runs one for ``path``; wait until it is free.

    The lock is a hidden file beside ``path``, which need not exist. It is opened without following a link and without
    changing what is in it, and removed at the end. A process that is killed leaves the file, but not the lock. Blocks
    for one path cannot be nested. Where there are no locks, a warning says so, and the block runs without one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from imputome.core.locks import is_locked, locked
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "scores.csv"
    ...     with locked(path):
    ...         print(is_locked(path))
    ...     print(is_locked(path))
    True
    False
    """
    lock = lock_of(path)
    opened: list[int] = []
    try:
        _acquire(lock, opened)
        yield
    finally:
        with held():
            for handle in opened:  # none, or one
                _leave(handle, lock)


def is_locked(path: str | Path) -> bool:
    """Whether a living process holds the lock of ``path``; the file that a dead one left is removed.

    Where there are no locks nobody can tell, and the answer is yes if the file is there.
    """
    lock = lock_of(path)
    try:
        handle = _open(lock, create=False)
    except FileNotFoundError:
        return False
    if _flock(handle, wait=False) is not True:
        os.close(handle)
        return True
    _release(handle, lock)
    return False


def lock_of(path: str | Path) -> Path:
    """The lock file of ``path``; a link has that of the file that it leads to."""
    real = Path(os.path.realpath(path))
    return real.with_name(f".{real.name}.lock")


def _acquire(lock: Path, opened: list[int]) -> None:
    """Wait for the lock; ``opened`` gets the handle, at once, so that an interrupted wait leaves nothing behind."""
    while True:
        with held():
            opened.append(_open(lock, create=True))
        if _flock(opened[0], wait=True) is None:
            _warn_of(lock.parent)
            return
        # the last holder may have removed the file while this process waited for it: then the next file counts
        if _is_at(opened[0], lock):
            return
        with held():
            os.close(opened.pop())


def _leave(handle: int, lock: Path) -> None:
    """Release the lock, or give up waiting for it."""
    if _flock(handle, wait=False) is False:  # another process has it
        os.close(handle)
    else:
        _release(handle, lock)


def _warn_of(folder: Path) -> None:
    if folder not in _warned:
        _warned.add(folder)
        text = f"{folder} is on a file system without locks: let only one process at a time write there"
        warnings.warn(Message(text, code="no-file-locks"), stacklevel=5)


def _release(handle: int, lock: Path) -> None:
    # removed while it is locked, so that who waits for this file sees that it is gone
    if _is_at(handle, lock) and os.fstat(handle).st_size == 0:
        with suppress(OSError):
            lock.unlink()
    os.close(handle)


def _open(lock: Path, *, create: bool) -> int:
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | (os.O_CREAT if create else 0)
    try:
        handle = os.open(lock, flags, 0o666)
    except FileNotFoundError as error:
        if not create:
            raise
        if lock.parent.is_dir():
            raise takes_no_file(lock.parent, error.strerror) from error
        raise InputError(f"the folder {lock.parent} does not exist: make it first", code="no-folder") from None
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise _unusable(lock, reason) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _unusable(lock, "it is not a regular file")
    return handle


def _unusable(lock: Path, reason: str | None) -> InputError:
    text = f"the lock file {lock} cannot be used ({reason}): remove it, or write to another folder"
    return InputError(text, code="lock-unusable")


def _flock(handle: int, *, wait: bool) -> bool | None:
    """Lock an open file: False if another process holds it and ``wait`` is False, None if there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _is_at(handle: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), lock.lstat())
    except FileNotFoundError:
        return False
