"""Processes of this machine, or of a cluster, that share the work: clients of dask's scheduler."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.resource_tracker import ensure_running
from typing import TYPE_CHECKING

from imputome.core.interrupts import answered_here
from imputome.core.threads import THREAD_VARIABLES
from imputome.errors import InputError, missing_extra

if TYPE_CHECKING:
    from distributed import Client


def check_installed() -> None:
    """Check that dask's scheduler is installed."""
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("work in several processes", "distributed", "cluster") from error


@contextmanager
def dask_client(workers: int, scheduler: str) -> Iterator[Client]:
    """A client of the cluster at ``scheduler``, or of ``workers`` processes that last as long as the client."""
    check_installed()
    import dask
    from distributed import Client, LocalCluster

    if scheduler:
        try:
            client = Client(scheduler, timeout=10, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"there is no scheduler at {scheduler} ({type(error).__name__}): pass the address that it printed, as "
                "tcp://HOST:8786",
                code="no-scheduler",
                parameter="scheduler",
            ) from error
        with client:
            yield client
        return
    threads = {name: os.environ.get(name, "1") for name in THREAD_VARIABLES}
    # a worker that died is not given up while it starts again, which takes long on a busy machine
    patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"})
    with patient, tempfile.TemporaryDirectory(prefix="imputome-", ignore_cleanup_errors=True) as folder:
        with answered_here():
            ensure_running()  # else the first worker starts it, and signals are unblocked where that is done
            cluster = LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                memory_limit=0,  # the limits of this package are others
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # any free port: the usual one may be another run's
                local_directory=folder,
                silence_logs=logging.CRITICAL,
                env=threads,
            )
            client = Client(cluster, set_as_default=False)
        try:
            # Ctrl-C is for this process, which ends the workers; they would print where they were. A process begins
            # with the signals blocked that are blocked in the thread that starts it.
            cluster.sync(_block_interrupts)
            cluster.scale(workers)
            yield client
        finally:
            client.close(timeout=1)
            cluster.close(timeout=10)


async def _block_interrupts() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
