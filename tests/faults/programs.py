"""Runs of the program as processes of their own, which can be killed at any moment."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

LIMIT = 60  # seconds after which a run counts as hanging
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
ERROR = re.compile(r"^error: .* \[([a-z0-9-]+)\]$", re.MULTILINE)
# what only a fault that nobody expected prints
RAW = re.compile(r"Traceback|Exception ignored|HDF5-DIAG|^ *#\d{3}: |\[unexpected\]", re.MULTILINE)


class Server:
    """The other side of server.py."""

    def __init__(self) -> None:
        environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "NUMBA_THREADING_LAYER": "workqueue"}
        line = [sys.executable, str(Path(__file__).with_name("server.py"))]
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def start(
        self,
        arguments: Sequence[object],
        folder: Path,
        *,
        at: int = 0,
        number: int = 0,
        limits: Mapping[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
        trace: bool = False,
        beside: Path | None = None,
        to_the_end: bool = False,
    ) -> Run:
        """Start ``imputome *arguments`` in ``folder``.

        With ``at`` it gets signal ``number`` before the change of a file of that number; with ``trace`` these changes
        are listed. Unless it runs ``to_the_end``, it leaves the interpreter in a short way. What it prints is written
        to files in ``beside``, by default the folder above, and its temporary files are to be in ``<name of the
        folder>.tmp`` there.
        """
        beside = beside or folder.parent
        temporary = beside / f"{folder.name}.tmp"
        temporary.mkdir(exist_ok=True)
        names = {name: str(beside / f"{folder.name}.{name}.{time.monotonic_ns()}") for name in FILES}
        request = {
            **{"arguments": [str(argument) for argument in arguments], "folder": str(folder), "at": at},
            **{"signal": number, "limits": dict(limits or {}), **names},
            "trace": names["trace"] if trace or at else "",
            "to_the_end": to_the_end,
            "environment": {"TMPDIR": str(temporary), **(environment or {})},
        }
        return Run(self, self.ask(request), {name: Path(path) for name, path in names.items()})

    def run(self, arguments: Sequence[object], folder: Path, **how: Any) -> Run:
        """The same, and wait for its end."""
        run = self.start(arguments, folder, **how)
        run.wait()
        return run

    def memory(self) -> int:
        """Bytes of the address space that the imports take."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(re.findall(r"^VmSize:\s*(\d+) kB", status, re.MULTILINE)[0])

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


FILES = ("stdout", "stderr", "trace")


class Run:
    """A process of the program."""

    def __init__(self, server: Server, pid: int, files: dict[str, Path]) -> None:
        self.server, self.pid, self.files = server, pid, files
        self.code: int | None = None
        self.started = time.monotonic()
        self.seconds = 0.0

    def ended(self) -> bool:
        if self.code is None:
            self.code = self.server.ask({"wait": self.pid})
            self.seconds = time.monotonic() - self.started
        return self.code is not None

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = LIMIT) -> None:
        """Wait until the end, or until something is true, or for some seconds; a run that hangs is killed."""
        while not self.ended() and not until():
            passed = time.monotonic() - self.started
            if passed >= seconds:
                break
            time.sleep(min(0.001, seconds - passed))
        if self.code is None and time.monotonic() - self.started >= LIMIT:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
            raise AssertionError(f"it was still running after {LIMIT} s\n{self.errors}")

    def send(self, number: int) -> None:
        """Send a signal, once the process has a handler for it: Python itself starts with none for SIGTERM."""
        if number == signal.SIGTERM:
            self.wait(self._handles_termination)
        if not self.ended():
            os.kill(self.pid, number)

    def _handles_termination(self) -> bool:
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return True
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
        return caught is None or bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)

    def stopped(self) -> bool:
        """Whether it has got SIGSTOP, and waits for SIGCONT."""
        return self.ended() or Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        return self.files["stderr"].read_text(errors="replace")

    @property
    def printed(self) -> str:
        """What it wrote to stdout."""
        return self.files["stdout"].read_text(errors="replace")

    def forget(self) -> None:
        """Delete what it printed."""
        for path in self.files.values():
            path.unlink(missing_ok=True)

    @property
    def codes(self) -> list[str]:
        """The codes of its errors."""
        return ERROR.findall(self.errors)

    @property
    def changes(self) -> list[str]:
        """The changes of files in its folder, in their order."""
        return self.files["trace"].read_text(errors="replace").splitlines()
