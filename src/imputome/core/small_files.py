"""Files that hold little text: opened only if they are regular files, and read up to a bound.

A configuration or a journal may come from somebody else, and its path may lead to a device, a pipe or a huge file.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from imputome.errors import InputError

MAX_BYTES = 2**24  # of a record with the names of all genes; other texts have a few kilobytes


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a file as `os.open` does; an OSError if it is none, such as a device or a pipe, which is not waited for."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return handle


def read_small_text(
    path: Path,
    what: str,
    *,
    code: str,
    parameter: str | None = None,
    max_bytes: int = MAX_BYTES,
    pipes: bool = False,
) -> str:
    """The text of a file in UTF-8, of at most ``max_bytes``; ``pipes`` are waited for if they are allowed.

    ``what`` it is, in a word, is in the errors; their codes are ``<code>-missing`` and ``<code>-unreadable``.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY) if pipes else open_regular(path), "rb") as stream:
            content = stream.read(max_bytes + 1)
        if len(content) <= max_bytes:
            return content.decode("utf-8-sig")  # spreadsheets put a mark at the start
        reason = f"it is larger than {max_bytes >> 10:,} KiB"
    except FileNotFoundError as error:
        raise InputError(f"there is no {what} {path}", code=f"{code}-missing", parameter=parameter) from error
    except UnicodeDecodeError:
        reason = "it is not text in UTF-8"
    except OSError as error:
        reason = error.strerror or str(error)
    text = f"the {what} {path} cannot be read ({reason}): pass a text file"
    raise InputError(text, code=f"{code}-unreadable", parameter=parameter)
