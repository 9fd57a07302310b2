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
from programs import RAW, Run, Server
from states import SEED, finished

pytestmark = [pytest.mark.faults, pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")]

INPUTS = int(os.environ.get("FUZZ_INPUTS", "5000"))  # of all kinds together
KEEP = os.environ.get("FUZZ_KEEP")  # a folder for the inputs that showed a fault
MEMORY = 2 * 2**30  # bytes that a run may take, beside what the imports take
SECONDS = 20  # of a processor
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
        run = server.run(command, folder, limits=limits)
        for fault in faults_of(run, folder, fed):
            kind = re.sub(r"\d+|'[^']*'|/\S+", "*", fault)[:100]
            if kind not in found or len(repr(lie)) < len(found[kind][1]):
                found[kind] = fault, repr(lie), " ".join(map(str, command))
                if KEEP:
                    copy_truth(folder, Path(KEEP) / f"{fed.name} {len(found)}".replace(" ", "-"))

    feed()
    shutil.rmtree(tmp_path / "fed", ignore_errors=True)
    told = [f"{fault}\n    imputome {line}\n    after {lie[:400]}" for fault, lie, line in found.values()]
    assert not told, f"FAULTS_SEED={SEED}: {len(told)} faults\n" + "\n".join(told)


def faults_of(run: Run, folder: Path, fed: Fed) -> Iterator[str]:
    """What is wrong with how a run ended."""
    errors, printed = run.errors, run.files["stdout"].read_text(errors="replace")
    for path in run.files.values():
        path.unlink(missing_ok=True)
    if run.code not in (0, 1, 2, 3):
        name = signal.Signals(-run.code).name if run.code and run.code < 0 else run.code
        yield f"it ended with {name}: {errors.strip()[-200:]!r}"
        return
    if match := RAW.search(errors):
        yield f"raw text {match[0]!r}: {errors.strip()[-200:]!r}"
    elif run.code == 1 and len(re.findall(r"^error: .* \[([a-z0-9-]+)\]$", errors, re.MULTILINE)) != 1:
        yield f"not one sentence: {errors.strip()[-200:]!r}"
    elif run.code == 1 and errors.rstrip().endswith(
        ("[system]", *([] if fed.asks_for_memory else ["[out-of-memory]"]))
    ):
        yield f"the file is not named: {errors.strip()[-200:]!r}"
    if match := CONTROL.search(errors + printed):
        yield f"the control character {match[0]!r} is printed"
    if run.code == 0 and (reason := fed.untrue(folder)):
        yield f"it is believed, though {reason}"
    if run.code == 0:
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
