"""A process that has imported the program once. Each run of a test is a fork of it: a real process, without the seconds
that the imports take.

Run as a script. Requests and answers are lines of JSON on stdin and stdout; `programs.Server` is the other side.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

# what commands import late, beside all modules of the package
LATE = (
    *("alembic", "alembic.command", "alembic.config", "alembic.migration", "alembic.script", "anndata.experimental"),
    *("h5py", "igraph", "numba", "numcodecs", "optuna", "optuna.storages._rdb.storage", "optuna.samplers", "pyarrow"),
    *("pyarrow.parquet", "rich.progress", "safetensors.torch", "scanpy", "scipy.optimize", "sklearn.cluster"),
    *("sklearn.decomposition", "sklearn.neighbors", "sqlalchemy.dialects.sqlite", "torch", "zarr"),
)
# audit events of changes in the file system, and how many of their first arguments are paths
CHANGES = {
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.truncate": 1,
    "os.link": 2,
    "os.symlink": 2,
}


def serve() -> dict[str, Any]:
    """Answer requests; returns in each child, with the request that it carries out."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                return request
        print(json.dumps(answer), flush=True)
    sys.exit()


def prepare(request: dict[str, Any]) -> None:
    """Make this child what a shell would have started."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    files = [os.open(os.devnull, os.O_RDONLY)]
    files += [os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr")]
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, limit in request["limits"].items():
        number = getattr(resource, name)
        resource.setrlimit(number, (limit, resource.getrlimit(number)[1]))
    if request["trace"]:
        _watch_changes(request["folder"], request["trace"], request["at"], request["signal"])
    sys.argv = ["imputome", *request["arguments"]]


def _watch_changes(folder: str, trace: str, at: int, number: int) -> None:
    """Write a line for each change below ``folder``; before change number ``at`` this process gets a signal."""
    lines = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count = 0

    def inside(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(folder)  # noqa: PTH100

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            paths = arguments[:1] if writes else ()
        else:
            paths = arguments[: CHANGES.get(event, 0)]
        # shutil.rmtree gives names in an open folder, and these look as if they were in the working folder
        if any(inside(path) for path in paths):
            count += 1
            os.write(lines, f"{event} {' '.join(map(str, paths))}\n".encode())
            if count == at:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def _run_and_leave(main: Callable[[], None]) -> None:
    """The program without the last steps of the interpreter, which take longer than all else."""
    try:
        main()
    except SystemExit as end:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def _import_all() -> None:
    import imputome

    names = [module.name for module in pkgutil.walk_packages(imputome.__path__, "imputome.")]
    for name in [*names, *LATE]:
        try:
            importlib.import_module(name)
        except ImportError:  # an optional dependency, or another version of one: the run imports it, or says so
            continue


if __name__ == "__main__":
    _import_all()
    from imputome.__main__ import main

    gc.collect()
    gc.freeze()  # or the end of each child would touch, and so copy, all that the imports made
    print(json.dumps("ready"), flush=True)
    request = serve()
    prepare(request)
    if request["to_the_end"]:
        main()
    else:
        _run_and_leave(main)
