"""Two runs on one output at the same time: results of both are kept, or one of them is there as a whole."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import (
    MEAN,
    MORE,
    NMF,
    POSTERIOR,
    STUDY,
    TUNE,
    annotated,
    copy_input,
    model,
    names_in,
    trial_values,
    trials,
    tuned_value,
)
from programs import Run, Server
from states import SEED, finished

pytestmark = pytest.mark.faults

TIMES = 10


@pytest.fixture
def race(server: Server, inputs: Path, tmp_path: Path) -> Callable[..., None]:
    """Run two commands at the same time, `TIMES` times, and check each outcome.

    Each second time they start at once; else the first is stopped before one of the changes that it makes to files, and
    goes on when the second has ended, or cannot end without it.
    """

    def run(
        first: tuple[object, ...],
        second: tuple[object, ...],
        check: Callable[[Path, list[Run]], None],
        expected: set[str] | None,
        files: dict[str, str] | None = None,
    ) -> None:
        def folder_of(name: str) -> Path:
            folder = tmp_path / name
            folder.mkdir()
            copy_input(inputs / "in.h5ad", folder)
            for each, content in (files or {}).items():
                (folder / each).write_text(content)
            return folder

        alone = server.run(first, folder_of("alone"), trace=True)
        finished(alone)
        rng, faults = np.random.default_rng(SEED), []
        for number in range(TIMES):
            folder = folder_of(str(number))
            at = 0 if number % 2 else int(rng.integers(len(alone.changes))) + 1
            runs = [server.start(first, folder, at=at, number=signal.SIGSTOP)]
            if at:
                runs[0].wait(runs[0].stopped)
            runs.append(server.start(second, folder))
            if at:  # the second ends, or waits for the first
                runs[1].wait(seconds=2 * alone.seconds + 1)
                os.kill(runs[0].pid, signal.SIGCONT)
            for each in runs:
                each.wait()
            try:
                check(folder, runs)
                names = names_in(folder)
                assert not [name for name in names if Path(name).name.startswith(".")], names
                assert expected is None or names == {"in.h5ad", *(files or {}), *expected}, names
                assert not names_in(folder.with_name(f"{number}.tmp"))
            except AssertionError as error:
                how = f"the first stopped before {alone.changes[at - 1]}" if at else "at once"
                faults.append(f"number {number}, {how}: {str(error).splitlines()[0]}")
        assert not faults, f"FAULTS_SEED={SEED}\n" + "\n".join(faults)

    return run


def both_done(runs: list[Run]) -> None:
    assert [run.code for run in runs] == [0, 0], [run.errors.strip()[-300:] for run in runs]


def test_two_evaluations_on_one_table(race):
    """The table has the rows of both."""

    def check(folder: Path, runs: list[Run]) -> None:
        both_done(runs)
        methods = set(pd.read_csv(folder / "out.csv")["method"])
        assert {"gene_mean", "ialm", "poisson_nmf"} <= methods, methods
        table = pd.read_csv(folder / "out.csv")
        keys = ["dataset", "method", "parameters", "options", "trial", "metric"]
        assert not table.duplicated(keys).any(), "rows are there twice"

    line = ("evaluate", "in.h5ad", "-o", "out.csv", "-q", "--methods")
    race((*line, "ialm"), (*line, "poisson_nmf"), check, {"out.csv"})


def test_two_first_searches_on_one_storage(race):
    """Each ends well, and the storage has the trials of both."""

    def check(folder: Path, runs: list[Run]) -> None:
        both_done(runs)
        states = trials(folder / "s.db")
        # each of two runs at the same time may run one trial more
        assert set(states) == {"COMPLETE"}, states
        assert 3 <= states["COMPLETE"] <= 5, states
        for name in ("best.toml", "other.toml"):
            assert tuned_value(folder / name) in trial_values(folder / "s.db")

    line = (*TUNE, "--trials", 3, "--storage", "s.db", "-q", "-o")
    race((*line, "best.toml"), (*line, "other.toml"), check, {"s.db", "best.toml", "other.toml"})


def test_two_studies_in_one_folder(race):
    """Both end well; the folder holds all parts once."""

    def check(folder: Path, runs: list[Run]) -> None:
        both_done(runs)
        table = pd.read_csv(folder / "out/results.csv")
        assert not table.duplicated(["dataset", "method", "parameters", "trial", "metric"]).any(), (
            "rows are there twice"
        )
        assert set(table["trial"]) == {0, 1}
        methods = {(row.method, row.parameters) for row in table.itertuples() if row.method == "poisson_nmf"}
        assert len(methods) == 3, methods  # those of the study, and a control

    line = ("study", "run", "study.toml", "-o", "out", "-q", "--workers", 0)
    race(line, line, check, None, {"study.toml": STUDY + MORE})


@pytest.mark.parametrize("forced", [True, False], ids=["--force", "without --force"])
def test_two_imputations_to_one_file(race, server, inputs, tmp_path, forced):
    """One result is there as a whole; without --force, a result that was just written is not replaced."""
    commands = [("impute", "in.h5ad", "-o", "out.h5ad", "-q", *method) for method in (MEAN, POSTERIOR)]
    either(race, server, inputs, tmp_path, commands, "out.h5ad", annotated, forced=forced)


@pytest.mark.parametrize("forced", [True, False], ids=["--force", "without --force"])
def test_two_fits_to_one_model(race, server, inputs, tmp_path, forced):
    """One model is there as a whole; without --force, a model that was just written is not replaced."""
    commands = [("fit", "in.h5ad", "-m", "model", "-q", *NMF, "--seed", seed) for seed in (0, 1)]
    either(race, server, inputs, tmp_path, commands, "model", model, forced=forced)


def either(race, server, inputs, tmp_path, commands, output, read, *, forced):
    results = []
    for number, command in enumerate(commands):
        folder = tmp_path / f"alone{number}"
        folder.mkdir()
        copy_input(inputs / "in.h5ad", folder)
        finished(server.run(command, folder))
        results.append(read(folder / output))
    assert results[0] != results[1]

    def check(folder: Path, runs: list[Run]) -> None:
        done = [run.code == 0 for run in runs]
        if forced:
            both_done(runs)
        else:
            assert sum(done) == 1, "both ended well: the result of one was replaced without --force"
        for run in runs:
            assert run.code == 0 or (run.code == 1 and len(run.codes) == 1), (run.code, run.errors)
            assert not run.codes or run.codes == ["output-exists"], run.errors
        assert read(folder / output) in [result for result, good in zip(results, done, strict=True) if good]

    extra = ("--force",) if forced else ()
    files = {"model": {"model", "model/model.json", "model/arrays.npz"}}.get(output, {output})
    race((*commands[0], *extra), (*commands[1], *extra), check, files)


def test_two_studies_that_share_units(race):
    """The folder has the rows of both studies, so that each continues from them."""

    def check(folder: Path, runs: list[Run]) -> None:
        both_done(runs)
        parts = list((folder / "out/parts").glob("*.csv"))
        assert len(parts) == 2 * 4, parts  # two trials of the controls and of three configurations
        factors = {json.loads(text).get("n_components") for part in parts for text in pd.read_csv(part)["parameters"]}
        assert factors == {None, 2, 3, 4}

    other = STUDY + MORE.replace("three", "four").replace("3", "4")
    lines = [("study", "run", name, "-o", "out", "-q", "--workers", 0) for name in ("study.toml", "other.toml")]
    race(*lines, check, None, {"study.toml": STUDY + MORE, "other.toml": other})
