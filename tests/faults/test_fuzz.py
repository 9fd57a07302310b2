"""Thousands of files that lie, each read by the program in a process of its own: no crash, no traceback, no NaN out."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from lies import FEEDS, TRUE_COMMANDS, Fed, Lie, copy_truth, write_rest, write_truth
from programs import ERROR, RAW, Server
from states import SEED, finished

from imputome.cli import run

INPUTS = int(os.environ.get("FUZZ_INPUTS", "500"))  # of all kinds together
KEEP = os.environ.get("FUZZ_KEEP")  # a folder for the inputs that showed a fault
MEMORY = 2 * 2**30  # bytes that a run may take, beside what the imports take
SECONDS = 20  # of a processor
FEW = ("header of nmf", "arrays of nmf", "sparse matrix", "text table", "study", "journal")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@pytest.fixture(scope="module")
def truth(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth") / "files"
    folder.mkdir()
    write_truth(folder)
    for command in TRUE_COMMANDS:
        finished(server.run(command, folder))
    write_rest(folder)
    return folder


@pytest.mark.faults
@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
@pytest.mark.parametrize("fed", FEEDS, ids=str)
def test_no_lie_is_believed(fed: Fed, server: Server, truth: Path, tmp_path: Path):
    """Each fault once, with the smallest lie that showed it."""
    found: dict[str, tuple[str, str, str]] = {}
    limits = {"RLIMIT_AS": server.memory() + MEMORY, "RLIMIT_CPU": SECONDS}
    number = round(INPUTS * fed.share / sum(each.share for each in FEEDS))

    @seeded(SEED)
    @settings(
        max_examples=number, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(fed.lies(truth), st.sampled_from(fed.commands))
    def feed(lie: Lie, command: tuple[object, ...]) -> None:
        folder = copy_truth(truth, tmp_path / "fed")
        fed.put(folder, lie)
        done = server.run(command, folder, limits=limits)
        assert done.code is not None
        faults = list(faults_of(done.code, done.errors, done.printed, folder, fed))
        done.forget()
        for fault in faults:
            kind = re.sub(r"0x[0-9a-f]+|\d+|'[^']*'|/\S+", "*", fault)[:100]
            if kind not in found or len(repr(lie)) < len(found[kind][1]):
                found[kind] = fault, repr(lie), " ".join(map(str, command))
                if KEEP:
                    copy_truth(folder, Path(KEEP) / f"{fed.name} {len(found)}".replace(" ", "-"))

    feed()
    shutil.rmtree(tmp_path / "fed", ignore_errors=True)
    told = [f"{fault}\n    imputome {line}\n    after {lie[:400]}" for fault, lie, line in found.values()]
    assert not told, f"FAULTS_SEED={SEED}: {len(told)} faults\n" + "\n".join(told)


@pytest.mark.parametrize("name", FEW)
def test_a_few_lies(name, few_truths, tmp_path, monkeypatch, capsys):
    """The same in this process, always the same few: for the suite that runs every time."""
    fed = next(each for each in FEEDS if each.name == name)

    @settings(max_examples=4, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck])
    @given(fed.lies(few_truths))
    def feed(lie: Lie) -> None:
        folder = copy_truth(few_truths, tmp_path / "fed")
        monkeypatch.chdir(folder)
        fed.put(folder, lie)
        code = run(list(map(str, fed.commands[0])))
        printed = capsys.readouterr()
        assert not list(faults_of(code, printed.err, printed.out, folder, fed))

    feed()


@pytest.fixture(scope="module")
def few_truths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    write_truth(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in TRUE_COMMANDS:
            if command[0] == "evaluate" or "nmf" in command:
                assert run(list(map(str, command))) == 0
    write_rest(folder)
    return folder


def faults_of(code: int, errors: str, printed: str, folder: Path, fed: Fed) -> Iterator[str]:
    """What is wrong with how a run ended, with what it printed on stderr and stdout, and with what it wrote."""
    if code not in (0, 1, 2, 3):
        yield f"it ended with {signal.Signals(-code).name if code < 0 else code}: {errors.strip()[-200:]!r}"
        return
    if match := RAW.search(errors):
        yield f"raw text {match[0]!r}: {errors.strip()[-200:]!r}"
    elif code == 1 and len(ERROR.findall(errors)) != 1:
        yield f"not one sentence: {errors.strip()[-200:]!r}"
    elif code == 1 and ERROR.findall(errors)[0] in ("system", "" if fed.asks_for_memory else "out-of-memory"):
        yield f"the file is not named: {errors.strip()[-200:]!r}"
    if match := CONTROL.search(errors + printed):
        yield f"the control character {match[0]!r} is printed"
    if code == 0:
        if reason := fed.untrue(folder):
            yield f"it is believed, though {reason}"
        yield from (f"{name} is written with values that are not finite" for name in not_finite(folder))


def not_finite(folder: Path) -> Iterator[str]:
    """The outputs with values that are not finite."""
    if (folder / "out.csv").is_file() and not (folder / ".out.csv.journal").exists():
        table = pd.read_csv(folder / "out.csv", index_col=0, sep=None, engine="python")
        numbers = table.apply(pd.to_numeric, errors="coerce") if "metric" not in table else table[["value"]]
        if not np.isfinite(numbers.to_numpy(dtype=np.float64)).all():
            yield "out.csv"
    if (folder / "out.h5ad").is_file():
        with h5py.File(folder / "out.h5ad", "r") as root:
            for key in root["uns/imputome"]:
                if key in root["layers"] and not np.isfinite(root["layers"][key][()]).all():
                    yield f"layers[{key!r}]"
