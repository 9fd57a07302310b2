"""Peak memory of this process while a block of code runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def peak_memory(interval: float = 0.02) -> Iterator[Callable[[], int]]:
    """Sample the resident memory of this process in a thread while the block runs.

    Parameters
    ----------
    interval : float, default=0.02
        Seconds between two samples. A peak shorter than this can be missed.

    Yields
    ------
    callable
        Returns the largest resident memory seen so far, in bytes. It can also be called after the block.

    Examples
    --------
    >>> from imputome.core.memory import peak_memory
    >>> with peak_memory() as peak:
    ...     numbers = list(range(1000))
    >>> peak() > 0
    True
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
