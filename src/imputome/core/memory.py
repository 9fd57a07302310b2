"""Peak memory of this process while a block of code runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def peak_memory(interval: float = 0.02) -> Iterator[Callable[[], int]]:
    """Sample the resident memory of this process in a thread while the block runs, every ``interval`` seconds.

    Yields a callable that returns the largest memory seen so far, in bytes, also after the block. A shorter peak than
    the interval can be missed.
    """
    process = psutil.Process()
    largest = process.memory_info().rss
    stop = threading.Event()

    def sample() -> None:
        nonlocal largest
        largest = max(largest, process.memory_info().rss)

    def watch() -> None:
        while not stop.wait(interval):
            sample()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: largest
    finally:
        stop.set()
        watcher.join()
        sample()
