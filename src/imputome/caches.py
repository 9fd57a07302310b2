"""Folders in which other libraries keep what they compute once: a private temporary one where the user has none.

numba (for the functions here and scanpy's), matplotlib and fontconfig write below the user's folders for caches and
settings. Where these cannot be written to (in containers, as ``nobody``, without ``HOME``) they fail or complain.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path

replaced: set[str] = set()  # variables of the environment that name a folder for temporary files now


def use_writable_caches() -> None:
    """Tell other libraries, by the environment, of a folder that they can write to, if their own is none."""
    if os.name == "nt":
        return
    if not _expanded("~").is_absolute():
        _replace("HOME")
    places = {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or "~/.cache"}
    places["MPLCONFIGDIR"] = os.environ.get("MPLCONFIGDIR") or os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    for name, place in places.items():
        if not _usable(_expanded(place)):
            _replace(name)


def _expanded(place: str) -> Path:
    return Path(os.path.expanduser(place))  # noqa: PTH111  (the method of Path raises where nobody knows what ~ is)


def _replace(name: str) -> None:
    folder = private_folder()
    if folder is not None:
        replaced.add(name)
        os.environ[name] = str(folder)


@cache
def private_folder() -> Path | None:
    """A folder for temporary files that only this user can write to; None if there is no place for one.

    It is the same for all processes of the user. One of that name that somebody else made, or could change, is not
    taken: numba runs the code that it finds in its cache. The folder is then one for this process alone.
    """
    import atexit  # not for every start
    import shutil
    import tempfile

    try:
        folder = Path(tempfile.gettempdir(), f"imputome-{os.getuid()}")
        if folder.parent != Path.cwd():  # the last resort of tempfile, which is no place to leave things in
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()  # of a link itself
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077:
                return folder
        alone = tempfile.mkdtemp(prefix="imputome-")
    except OSError:
        return None
    atexit.register(shutil.rmtree, alone, ignore_errors=True)
    return Path(alone)


def _usable(folder: Path) -> bool:
    """Whether a folder can be written to, or made."""
    if not folder.is_absolute():
        return False
    while not os.path.exists(folder):  # noqa: PTH110  (the method of Path raises where it may not look)
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
