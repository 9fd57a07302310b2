"""HDF5 files that are written to a disk that can be full.

HDF5 crashes the process when it closes a file of which it could not write all (h5py issue 914, on several platforms).
So it writes through a `Sink`, which never fails: it keeps the error, which is raised once HDF5 has returned.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

_KEPT = 2**26  # bytes that could not be written and are kept, because HDF5 reads again what it needs to close the file


@contextmanager
def hdf5_for_writing(path: Path, mode: Literal["r+", "w"]) -> Iterator[Any]:
    """An HDF5 file to write to; what could not be written is an error at the end, or in `raise_kept`."""
    import h5py

    with path.open("r+b" if mode == "r+" else "w+b", buffering=0) as raw:
        sink = Sink(raw)
        with _no_signals_within(sink):
            root = h5py.File(sink, mode)
            try:
                root.sink = sink
                yield root
            except Exception as error:
                if sink.error is None:
                    raise
                raise sink.error from error  # HDF5 read again what could not be written
            finally:
                root.close()
        if sink.error is not None:
            raise sink.error


def raise_kept(root: Any) -> None:
    """Raise what has failed in the writing of a file so far, so that no more is computed for it."""
    sink = getattr(root, "sink", None)
    if sink is not None and sink.error is not None:
        raise sink.error


class Sink:
    """What HDF5 takes for a file: reads and writes of it never fail, and ``error`` is the first that did."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.error: BaseException | None = None
        self.place = 0
        self.unwritten: list[tuple[int, bytes]] = []
        self.kept = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            ends = [start + len(content) for start, content in self.unwritten]
            offset += max([os.fstat(self.raw.fileno()).st_size, *ends])
        self.place = offset
        return offset

    def tell(self) -> int:
        return self.place

    def write(self, content: Any) -> int:
        content = bytes(content)
        if self.error is None:
            try:
                self.raw.seek(self.place)
                done = 0
                while done < len(content):
                    done += self.raw.write(content[done:] if done else content)
                return done
            except BaseException as error:
                self.error = error
        if self.kept + len(content) <= _KEPT:
            self.unwritten.append((self.place, content))
            self.kept += len(content)
        return len(content)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        size = len(view)
        try:
            self.raw.seek(self.place)
            done = 0
            while done < size and (n := self.raw.readinto(view[done:])):
                done += n
            view[done:] = bytes(size - done)
        except BaseException as error:
            self.error = self.error or error
        for start, content in self.unwritten:
            first, last = max(start, self.place), min(start + len(content), self.place + size)
            if first < last:
                view[first - self.place : last - self.place] = content[first - start : last - start]
        return size

    def read(self, size: int) -> bytes:
        content = bytearray(size)
        self.readinto(content)
        return bytes(content)

    def truncate(self, size: int) -> None:
        try:
            self.raw.truncate(size)
        except BaseException as error:
            self.error = self.error or error

    def flush(self) -> None:
        pass


@contextmanager
def _no_signals_within(sink: Sink) -> Iterator[None]:
    """Handlers of signals, which may raise, run outside of a `Sink` only: an exception in it is a failure for HDF5."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs handlers in the main thread
        return
    handlers = {number: handler for number in signal.valid_signals() if callable(handler := signal.getsignal(number))}

    def handle(number: int, frame: FrameType | None) -> None:
        if frame is not None and isinstance(frame.f_locals.get("self"), Sink):
            again = threading.Timer(0.02, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        else:
            handlers[signal.Signals(number)](number, frame)

    for number in handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
