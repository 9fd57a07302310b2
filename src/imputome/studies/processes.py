"""Processes of this machine that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psutil

from imputome.core.interrupts import answered_here
from imputome.core.threads import THREAD_VARIABLES
from imputome.errors import ImputomeError, InputError, Message

POLL_SECONDS = 0.5  # between checks of the work of other processes
WORKER_DIED = Message("a worker process died: run the same command again to continue", code="worker-died")


def run_processes(
    work: Callable[..., None], arguments: Sequence[tuple[Any, ...]], *, threads: int, report: Callable[[], None]
) -> None:
    """Run ``work(*arguments[k])`` in one process each, and wait for all; no process stays behind.

    ``work`` is a function of a module. Each process has that number of threads, unless the environment sets it, and
    ``report`` is called every `POLL_SECONDS`. If a process raises an error of this package, the others are stopped, and
    the error is raised here.
    """
    context = multiprocessing.get_context("spawn")
    with answered_here():  # it starts a process that keeps account of it
        errors = context.SimpleQueue()
    processes = [
        context.Process(target=run_in_child, args=(work, each, os.getpid(), errors), daemon=True) for each in arguments
    ]
    others = _workers()
    unset = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, str(threads)))
    try:
        with answered_here():
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes) and errors.empty():
            report()
            time.sleep(POLL_SECONDS)
        if not errors.empty():
            message: Message = errors.get()
            raise InputError(message)
    finally:
        for name in unset:
            os.environ.pop(name, None)
        for child in _workers() - others:  # one that was just being started is not among the processes yet
            with suppress(psutil.Error):
                child.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


def _workers() -> set[psutil.Process]:
    """The children of this process that multiprocessing has started."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(part.endswith("multiprocessing-fork") for part in child.cmdline()):
                found.add(child)
    return found


def run_in_child(work: Callable[..., None], arguments: tuple[Any, ...], parent: int, errors: Any) -> None:
    """Run ``work``, and put the `Message` of its error into the queue ``errors``."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        work(*arguments)
    except ImputomeError as error:
        errors.put(error.message)
    except KeyboardInterrupt:  # the parent process reports it
        return


def _end_with(parent: int) -> None:
    """End this process, even in the middle of a fit, when its parent was killed and could not end it."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
