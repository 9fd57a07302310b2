"""A disk that is full, at several moments of every writer: one sentence, the old output whole, nothing half written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import CASES, Case, annotated, names_in, same_bytes
from programs import RAW, Run
from states import Ready
from test_kills import faults_of_next_run

pytestmark = [pytest.mark.faults, pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")]

MORE_WRITERS = [
    Case("report", ("report", "done.h5ad", "-o", "page.html", "-q", "--map", "pca"), {"page.html": same_bytes}),
    Case(
        "methylation",
        ("methylation", "reads.csv", "-o", "out.h5ad", "--min-coverage", "1", "-q", "--force"),
        {"out.h5ad": annotated},
    ),
]
SHARES = (0.0, 0.4, 0.9)  # of the space that the command needs


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory) -> Iterator[Path]:
    """A folder on a disk of its own; its size is set with `resize`."""
    place = tmp_path_factory.mktemp("disk")
    line = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small disk can be made here: {error}")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def space(folder: Path) -> int:
    """Bytes that the files below a folder take on a tmpfs, in its pages."""
    return sum(4096 + -(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_disk_that_is_full(case, ready, server, small_disk):
    prepared = ready(case)
    faults = []
    for share in SHARES:
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        folder = prepared.copy(small_disk / "work")
        needed = max(space(prepared.place / "after"), 4096)
        used = shutil.disk_usage(small_disk).used
        # the new output lies beside the old one until it is complete
        size = used + 8192 + int(share * needed) // 4096 * 4096
        subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)
        outside = prepared.place / "elsewhere"
        outside.mkdir(exist_ok=True)
        run = server.run(case.command, folder, beside=outside, to_the_end=True)
        found = faults_when_full(run, prepared, folder)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        found += faults_of_next_run(prepared, folder, server)
        faults += [f"with {share:g} of the space it needs: {fault}" for fault in found]
        for each in small_disk.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_limit_on_the_size_of_files(case, ready, server, tmp_path):
    """As `ulimit -f` sets it, and quotas: a write in the middle of a file fails."""
    prepared = ready(case)
    largest = max(path.stat().st_size for path in (prepared.place / "after").rglob("*") if path.is_file())
    faults = []
    for share in SHARES:
        folder = prepared.copy(tmp_path / f"{share:g}")
        limit = max(4096, int(share * largest))  # its stderr is a file too
        run = server.run(case.command, folder, limits={"RLIMIT_FSIZE": limit}, to_the_end=True)
        found = [*faults_when_full(run, prepared, folder), *faults_of_next_run(prepared, folder, server)]
        faults += [f"with files of at most {limit:,} bytes: {fault}" for fault in found]
    assert not faults, "\n".join(faults)


def faults_when_full(run: Run, ready: Ready, folder: Path) -> list[str]:
    """What is wrong after a run that could not write."""
    state, faults = ready.case.state(folder), []
    if run.code == 0:
        return [] if state == ready.new else [f"exit code 0, and the outputs are not new: {state}"]
    if run.code != 1:
        name = signal.Signals(-run.code).name if run.code and run.code < 0 else run.code
        faults.append(f"it ended with {name}: {run.errors.strip()[-400:]!r}")
    for name, found in state.items():
        if found not in (ready.old[name], ready.new[name]):
            faults.append(f"{name} is neither old nor new: {found}")
    if RAW.search(run.errors) or len(run.codes) != 1 or run.codes == ["system"]:
        faults.append(f"not one sentence on the disk: {run.errors.strip()[-400:]!r}")
    known = ready.names_before | ready.names_after
    left = sorted(name for name in names_in(folder) - known if not re.fullmatch(ready.case.kept, name))
    if left:
        faults.append(f"it left {left}")
    return faults
