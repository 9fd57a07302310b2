"""Processes that share the work of a study or of tuning: started together, watched, and ended with their parent."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from imputome.errors import InputError

POLL = 0.5  # seconds between looks at the work of other processes


def supervise(
    work: Callable[..., None], arguments: Sequence[tuple[Any, ...]], *, threads: int, tell: Callable[[], None]
) -> None:
    """Run ``work(*arguments[k], parent, errors)`` in one process each, and wait for all; none outlives this one.

    Parameters
    ----------
    work : is told the parent's process id, and puts the message of what it cannot mend into the queue ``errors``.
    threads : of each process, unless the user has said otherwise.
    tell : called every `POLL` seconds.

    Raises
    ------
    InputError
        The first message of a process; the others are ended.
    """
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    processes = [context.Process(target=work, args=(*each, os.getpid(), errors), daemon=True) for each in arguments]
    try:
        with _threads_each(threads):
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes) and errors.empty():
            tell()
            time.sleep(POLL)
        if not errors.empty():
            raise InputError(errors.get())
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


@contextmanager
def _threads_each(number: int) -> Iterator[None]:
    names = [
        name for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS") if name not in os.environ
    ]
    os.environ.update(dict.fromkeys(names, str(number)))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
