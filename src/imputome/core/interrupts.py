"""Signals that end the program (Ctrl-C, SIGTERM, SIGHUP) as one exception, so that what was begun is cleaned up.

The program then exits with 128 + the signal, whenever the signal came.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# seconds for cleaning up, in which further signals are ignored: terminals and batch systems often send several
PATIENCE = 2.0


class Watch:
    """Takes note of the signals that come between `start` and `stop`.

    Attributes
    ----------
    number : int
        The first signal, 0 if none came.
    raising : bool
        Whether the first signal raises KeyboardInterrupt, which stops the work, or is only noted.
    told : bool
        Whether the user was told what the interruption has left.
    held : bool
        Whether the first signal waits for the end of a block (`held`).
    """

    def __init__(self) -> None:
        self.number = 0
        self.raising = True
        self.told = False
        self.held = False
        self._since = 0.0
        self._previous: dict[int, Any] = {}
        self._hook: Any = None

    @property
    def code(self) -> int:
        """The exit code of a program that the signal ended."""
        return 128 + self.number

    def start(self) -> None:
        """Signals that the program was started to ignore (by ``nohup``, or in the background) stay ignored."""
        self._hook, sys.unraisablehook = sys.unraisablehook, self._dropped
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._received)

    def stop(self) -> None:
        """Signals do again what they did before `start`."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook

    def _received(self, number: int, frame: object) -> None:
        if not self.number:
            self.number, self._since = number, time.monotonic()
            if self.raising and not self.held:
                raise KeyboardInterrupt
        elif time.monotonic() - self._since > PATIENCE:
            os._exit(self.code)

    def _dropped(self, unraisable: Any) -> None:
        """Send the signal again if Python dropped its exception, as it does where an object is destroyed."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._hook(unraisable)
            return
        number, self.number = self.number, 0
        threading.Timer(0.01, os.kill, [os.getpid(), number]).start()  # later: what is raised here is dropped too


current: Watch | None = None  # of the program, or of the call of `imputome.cli.run` that is being made


@contextmanager
def watched() -> Iterator[Watch]:
    """Stop the work in the block at the first signal; within such a block, with the same `Watch`."""
    global current
    if current is not None:
        yield current
        return
    current = Watch()
    try:
        current.start()
        yield current
    finally:
        current.stop()
        current = None


@contextmanager
def held() -> Iterator[None]:
    """A signal that comes in the block raises KeyboardInterrupt at its end."""
    watch = current
    if watch is None or watch.number or watch.held:
        yield
        return
    watch.held = True
    try:
        yield
    finally:
        watch.held = False
    if watch.number and watch.raising:
        raise KeyboardInterrupt


@contextmanager
def answered_here() -> Iterator[None]:
    """Processes that are started in the block get no Ctrl-C, and no word that the terminal was closed.

    A terminal sends these signals to all of them. The one that started the others answers, and ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # other processes inherit what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- what an interruption has left -------------------------------------------------------------------------------------
# path -> device and inode of what this process moved there, or was about to: `written` asks the disk which of the two
placed: dict[Path, tuple[int, int]] = {}


def placing(partial: Path, path: Path) -> None:
    """Called before a complete output is moved to its path."""
    identity = _identity(partial)
    if identity is not None:
        placed[path.resolve()] = identity


def written() -> list[Path]:
    """The outputs that this process has moved into place, and that are there."""
    return [path for path, identity in placed.items() if _identity(path) == identity]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
