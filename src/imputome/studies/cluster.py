"""Running the tasks of a study by dask: on processes of this machine, or on a cluster by its scheduler's address.

A task is a unit, or a panel of a picture. Its rows come back to this process, which stores them, so that a cluster
needs to share no folder for results; the data sets are read by the workers. A worker that dies costs the tasks that it
was running, which the scheduler gives to another worker. A task over its limits ends its worker, after it has told why.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil

from imputome.core.workers import dask_client
from imputome.errors import ImputomeError, InputError
from imputome.studies.processes import POLL_SECONDS
from imputome.studies.results import STOPPED
from imputome.studies.runner import Tables
from imputome.studies.spec import Study
from imputome.studies.subsets import Loader, load_subset, tables_of
from imputome.studies.units import Limits, Task

if TYPE_CHECKING:
    from distributed import Client

TOPIC = "imputome"  # of what workers tell about tasks that they stop
TELLING_SECONDS = 60.0  # that a busy scheduler may take to answer that it knows, before the worker ends
ENVIRONMENT = ("IMPUTOME_DATA",)  # variables that workers need as they are here
Store = Callable[[Task, list[dict[str, Any]]], None]


def run_on_workers(
    study: Study,
    tasks: Sequence[Task],
    *,
    load: Loader,
    tables: Tables,
    workers: int,
    scheduler: str = "",
    limits: Limits,
    store: Store,
) -> None:
    """Run tasks on ``workers`` processes of this machine, or on the cluster at ``scheduler``.

    ``store`` is called here with each task and its rows, in any order.
    """
    with dask_client(workers, scheduler) as client:
        told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        client.subscribe_topic(TOPIC, lambda event: told.put(event[1]))
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        inputs = {
            subset.label: client.submit(_inputs, study, subset, load, environment, pure=False)
            for subset in {task.subset.label: task.subset for task in tasks}.values()
        }
        futures = {
            client.submit(_rows, study, task, place, inputs[task.subset.label], limits, pure=False): task
            for place, task in enumerate(tasks)
        }
        left = [task.subset.label for task in tasks]
        while futures:
            for future, rows in _finished(client, futures, study, tables, tasks, told, limits):
                task = futures.pop(future)
                store(task, rows)
                left.remove(task.subset.label)
                if task.subset.label not in left:
                    del inputs[task.subset.label]  # the workers need not hold it any longer


def _finished(
    client: Client,
    futures: dict[Any, Task],
    study: Study,
    tables: Tables,
    tasks: Sequence[Task],
    told: queue.SimpleQueue[dict[str, Any]],
    limits: Limits,
) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Wait a little; give the futures of the tasks that have ended since, with their rows."""
    from distributed import KilledWorker

    time.sleep(POLL_SECONDS / 5)
    while not told.empty():
        message = told.get()
        metric = message["metric"]
        for future in [future for future, task in futures.items() if task is tasks[message["place"]]]:
            client.cancel([future], force=True)
            text = "took more than {:g} s" if metric == "limit_seconds" else "took more than {:.3g} GB of memory"
            limit = limits.of(metric)
            reason = text.format(limit if metric == "limit_seconds" else limit / 1e9)
            ended = {"status": STOPPED, "reason": reason, "metric": metric, "value": limit}
            yield future, futures[future].ended(study, tables, **ended)
    for future in [future for future in futures if future.done()]:
        if future.status == "finished":
            yield future, future.result()
            continue
        if future.status == "lost":  # its rows were on a worker that died: it is run again
            continue
        error = future.exception() if future.status == "error" else None
        if isinstance(error, ImputomeError):
            raise error
        if not isinstance(error, KilledWorker):
            text = f"a worker failed ({error or future.status}): run the same command again to continue"
            raise InputError(text, code="worker-failed")
        reason = "its process ended several times: it may need more memory than there is"
        yield future, futures[future].ended(study, tables, status="failed", reason=reason)


# -- in a worker -------------------------------------------------------------------------------------------------------
def _inputs(study: Study, subset: Any, load: Loader, environment: dict[str, str]) -> tuple[Any, Tables]:
    """The data set of a subset, and what the schemes need."""
    import warnings

    for name, value in environment.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are told once, where the study was started
        return load_subset(subset, load, seed=study.seed), tables_of(study, load)


def _rows(study: Study, task: Task, place: int, inputs: tuple[Any, Tables], limits: Limits) -> list[dict[str, Any]]:
    """The rows of a task, within its limits and with the threads of its worker."""
    from distributed import get_worker
    from threadpoolctl import threadpool_limits

    worker = get_worker()
    dataset, tables = inputs
    with _watched(worker, place, limits), threadpool_limits(limits=worker.state.nthreads):
        return task.run(study, dataset, tables)


@contextmanager
def _watched(worker: Any, place: int, limits: Limits) -> Iterator[None]:
    """End this process once the task takes more than its limits; nothing else can stop a fit in its middle."""
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(worker, place, limits, ended), daemon=True)
    if limits != Limits():
        watch.start()
    try:
        yield
    finally:
        ended.set()


def _watch(worker: Any, place: int, limits: Limits, ended: threading.Event) -> None:
    begun, process = time.monotonic(), psutil.Process()
    while not ended.wait(POLL_SECONDS):
        over = {
            "limit_seconds": time.monotonic() - begun > limits.seconds,
            "limit_bytes": process.memory_info().rss > limits.bytes,
        }
        for metric in [name for name, exceeded in over.items() if exceeded]:
            told = worker.scheduler.log_event(topic=TOPIC, msg={"place": place, "metric": metric})
            # if it is not told, the task is run again, and stopped again; the worker that does so tells
            with suppress(TimeoutError, OSError):
                asyncio.run_coroutine_threadsafe(told, worker.loop.asyncio_loop).result(TELLING_SECONDS)
            if not ended.is_set():
                os._exit(1)
            return
