"""Shared by all tests: where real data lies, few threads, and no network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import SHARED

# Before numpy is imported: two cores are shared by everyone. Each library has a variable of its own, and one that takes
# more threads than the others were told makes two workers wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "2")
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, os.environ["OMP_NUM_THREADS"])

if "IMPUTOME_DATA" not in os.environ and (SHARED / "data").is_dir():
    os.environ["IMPUTOME_DATA"] = str(SHARED / "data")


def pytest_configure(config: pytest.Config) -> None:
    # not in pyproject.toml: numba would be imported for its name, before the number of its threads is set above
    config.addinivalue_line("filterwarnings", "error::numba.core.errors.NumbaPerformanceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of methods whose extras are not installed."""
    from extras import missing_extra  # imports imputome

    for item in items:
        callspec = getattr(item, "callspec", None)
        extra = None if callspec is None else missing_extra(list(callspec.params.values()))
        if extra is not None:
            item.add_marker(pytest.mark.skip(reason=f"needs imputome[{extra}]"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the staged data sets."""
    folder = Path(os.environ.get("IMPUTOME_DATA", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"{folder} not found: set IMPUTOME_DATA")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of results that the original software gave."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"{folder} not found: results of the original software are not staged here")
    return folder


OWN_ADDRESSES = ("127.0.0.1", "::1")  # of this machine, by which the processes of a study talk


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Fail a test that connects to, or looks up, any address; sockets between processes of this machine are free."""
    attempts: list[str] = []

    def refuse(what: str) -> None:
        attempts.append(what)
        pytest.fail(f"this test went to the network: {what}")

    def guarded(name: str):
        original = getattr(socket.socket, name)

        def call(self, address, *args):
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in OWN_ADDRESSES:
                refuse(f"{name} to {address}")
            return original(self, address, *args)

        return call

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(name))
    # a machine without a network fails here, before it could connect
    look_up = socket.getaddrinfo

    def guarded_look_up(host, *args, **kwargs):
        if host not in OWN_ADDRESSES:
            refuse(f"look-up of {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield attempts
    # what the code under test caught, or what happened in a thread
    assert not attempts, f"this test went to the network: {attempts}"
