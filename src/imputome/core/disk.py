"""Disks that cannot take an output."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imputome.errors import InputError


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Say in a sentence that the disk of the output ``path`` is full, or that no file may be so large."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"there is no room left on the disk of {path}, so it was not written: free some, or change disks"
            raise InputError(text, code="disk-full") from error
        if error.errno == errno.EFBIG:
            text = f"{path} would be larger than a file may be here (see ulimit -f), so it was not written: raise the "
            raise InputError(f"{text}limit, or choose another disk", code="file-too-large") from error
        raise


def takes_no_file(folder: Path, reason: str | None) -> InputError:
    """The refusal of a folder that is there, and in which nobody can make a file, such as /proc."""
    text = f"no file can be made in the folder {folder} ({reason}): choose another"
    return InputError(text, code="folder-not-writable")
