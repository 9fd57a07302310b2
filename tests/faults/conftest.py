"""What the tests of faults share: a warm server, inputs, and the two states of each case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cases import Case, write_inputs
from programs import Server
from states import SEED, Ready, finished, make_ready


def pytest_report_header() -> str:
    return f"faults: FAULTS_SEED={SEED} repeats what is drawn at random"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def inputs(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs") / "files"
    folder.mkdir()
    write_inputs(folder)
    finished(server.run(["fit", "in.h5ad", "-m", "model", "--method", "poisson_nmf", "-q"], folder))
    return folder


@pytest.fixture(scope="session")
def ready(server: Server, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Ready]:
    """Run a case without a fault, once a session."""
    folder = tmp_path_factory.mktemp("cases")
    done: dict[str, Ready] = {}

    def get(case: Case) -> Ready:
        if case.name not in done:
            done[case.name] = make_ready(case, server, inputs, folder / case.name)
        return done[case.name]

    return get
