"""Downloaded files that are packed, read into memory: nothing in them is written to the disk, and sizes are bounded.

A packed file may come from somebody else: it may name members outside of its folder, or unpack to more than a memory
holds.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from imputome.core.small_files import open_regular
from imputome.errors import InputError
from imputome.io.integrity import GZIP_RATIO, check_declared, size_text

MAX_UNPACKED = 2**29  # bytes of one text; the largest of our originals has less than a quarter of it
MAX_ARCHIVE = 2**31  # bytes of a whole archive, unpacked
MAX_MEMBERS = 10_000  # of an archive


def read_unpacked(path: Path) -> bytes:
    """The content of a file, unpacked if it ends in ``.gz`` or ``.bz2``."""
    with _explained(path), _opened(path) as handle:
        if path.name.lower().endswith(".bz2"):
            return _bounded(bz2.BZ2File(handle), path)
        return _bounded(gzip.GzipFile(fileobj=handle) if path.name.lower().endswith(".gz") else handle, path)


def read_tar(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The members of a tar, gzipped or not, whose names are ``wanted``, with their contents; ``.gz`` unpacked.

    An archive with a member that would lie outside of its folder, or that is no file and no folder, is refused.
    """
    contents = {}
    with _explained(path), _opened(path) as handle:
        packed = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        stream = _BoundedArchive(gzip.GzipFile(fileobj=handle) if packed else handle, path)
        with tarfile.TarFile(fileobj=stream, mode="r") as archive:  # type: ignore[arg-type]
            for number, member in enumerate(archive):
                if number == MAX_MEMBERS:
                    raise InputError(f"{path} has more than {MAX_MEMBERS:,} members: get it again", code="too-large")
                _check_name(path, member.name)
                if not (member.isreg() or member.isdir()):
                    text = f"the member {member.name} of {path} is a link or a device, which no data set has: "
                    raise InputError(f"{text}get the archive again", code="unsafe-member")
                check_declared(
                    path,
                    f"its member {member.name}",
                    member.size,
                    path.stat().st_size,
                    GZIP_RATIO if packed else 1,
                )
                if member.isreg() and wanted(member.name):
                    _check_size(path, f"its member {member.name}", member.size)
                    content = cast(IO[bytes], archive.extractfile(member))  # there is one for a regular file
                    gzipped = member.name.lower().endswith(".gz")
                    contents[member.name] = _bounded(
                        gzip.GzipFile(fileobj=io.BytesIO(content.read())) if gzipped else content, path
                    )
                    _check_size(path, "what it holds", sum(map(len, contents.values())))
        while stream.read(2**20):  # what follows the last member: gzip's checksum of all comes at the end
            stream.seek(stream.tell())
    return contents


def read_zip(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The members of a zip whose names are ``wanted``, with their contents."""
    contents = {}
    with _explained(path), _opened(path) as handle, zipfile.ZipFile(handle) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise InputError(f"{path} has more than {MAX_MEMBERS:,} members: get it again", code="too-large")
        for member in members:
            _check_name(path, member.filename)
            if not member.is_dir() and wanted(member.filename):
                _check_size(path, f"its member {member.filename}", member.file_size)
                with archive.open(member) as content:
                    contents[member.filename] = _bounded(content, path)
                _check_size(path, "what it holds", sum(map(len, contents.values())))
    return contents


def is_hidden(name: str) -> bool:
    """Whether a member of an archive is what a Mac adds to it, or hidden."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or (bool(parts) and parts[-1].startswith("."))


# -- bounds and errors -------------------------------------------------------------------------------------------------
class _BoundedArchive:
    """An unpacked archive as tarfile reads it: an error before it takes more memory or time than an archive needs."""

    def __init__(self, stream: Any, path: Path) -> None:
        self.stream, self.path = stream, path

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_UNPACKED:  # headers have any length that they declare
            raise _too_large(self.path, "a member of it", MAX_UNPACKED)
        return bytes(self.stream.read(size))

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        if place > MAX_ARCHIVE:
            raise _too_large(self.path, "it, unpacked,", MAX_ARCHIVE)
        return int(self.stream.seek(place, whence))

    def tell(self) -> int:
        return int(self.stream.tell())


def _bounded(stream: Any, path: Path) -> bytes:
    content = bytes(stream.read(MAX_UNPACKED + 1))
    if len(content) > MAX_UNPACKED:
        raise _too_large(path, "a text in it", MAX_UNPACKED)
    return content


def _check_size(path: Path, what: str, size: int) -> None:
    if size > MAX_UNPACKED:
        raise _too_large(path, what, MAX_UNPACKED)


def _too_large(path: Path, what: str, limit: int) -> InputError:
    text = f"{path}: {what} has more than {size_text(limit)}, as no file of these data sets has: get it again"
    return InputError(text, code="too-large")


def _check_name(path: Path, name: str) -> None:
    """Refuse a name that leads out of the archive's folder; nothing is written, but such an archive is no data."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        text = f"the member {name} of {path} would lie outside of its folder, as in no data set: get the archive again"
        raise InputError(text, code="unsafe-member")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with os.fdopen(open_regular(path), "rb") as handle:
        yield handle


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of the libraries that unpack ``path`` into one sentence."""
    damaged = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: download it first", code="no-file") from error
    except damaged as error:
        text = f"{path} is truncated, damaged, or of another kind than its name says: download it again"
        raise InputError(text, code="damaged") from error
    except (RuntimeError, NotImplementedError) as error:  # what zipfile raises for passwords and rare methods
        text = f"{path} cannot be unpacked ({error}): unpack it, and give the file that is in it"
        raise InputError(text, code="unreadable") from error
    except OSError as error:
        if error.errno is None:  # of bz2, for what it cannot unpack
            text = f"{path} is truncated, damaged, or of another kind than its name says: download it again"
            raise InputError(text, code="damaged") from error
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            text = f"{path} is a folder or a device: give the file itself"
            raise InputError(text, code="unreadable") from error
        raise InputError(f"{path} cannot be read: {error.strerror or error}", code="unreadable") from error
