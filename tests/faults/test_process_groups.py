"""Commands with several processes: after a signal none stays behind, and one sentence is printed, not one for each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import psutil
import pytest

pytestmark = pytest.mark.faults

TUNE = ["tune", "in.h5ad", "--method", "poisson_nmf", "--objective", "poisson_loss", "--trials", "9999"]
STUDY = ["study", "run", "mine.toml", "-o", "results"]
TOML = """
title = "mine"
trials = 999
shown = ["poisson_loss"]
[[datasets]]
name = "pbmc68k"
[[splits]]
scheme = "thin"
fraction = 0.1
[base]
method = "poisson_nmf"
"""


def members(group: int) -> list[str]:
    """The command lines of the living processes of a group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (OSError, psutil.Error):
            continue
    return found


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def default_signals():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("seconds", [0.0, 1.0, 6.0])
@pytest.mark.parametrize(
    ("command", "number", "send"),
    [
        ([*TUNE, "--storage", "s.db"], signal.SIGINT, os.killpg),  # Ctrl-C in a terminal
        ([*TUNE, "--storage", "s.db"], signal.SIGTERM, os.kill),
        ([*TUNE, "--storage", "s.db"], signal.SIGHUP, os.killpg),  # the terminal is closed
        (STUDY, signal.SIGINT, os.killpg),
    ],
)
def test_a_signal_ends_all_processes(tmp_path, command, number, send, seconds):
    """Some seconds after the first worker has started: while it is loaded, and while it works."""
    rng = np.random.default_rng(0)
    ad.AnnData(rng.poisson(1.0, (500, 300)).astype(np.float32)).write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "imputome", *command, "--workers", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=default_signals,
    )
    try:
        until(lambda: any("spawn_main" in line for line in members(process.pid)))
        time.sleep(seconds)
        send(process.pid, number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (128 + number, "")
        lines = [line for line in err.splitlines() if not line.startswith(("tuning poisson_nmf", "study mine"))]
        assert len(lines) == 1, err
        assert lines[0].endswith(" [interrupted-partly-done]")
        until(lambda: members(process.pid) == [], 5.0)
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_study_that_is_killed_whole_runs_what_was_missing(tmp_path):
    """SIGKILL of the process that hands out the runs: its workers end, and what they had finished is not run again."""
    toml = TOML.replace("999", "12").replace('"pbmc68k"', '"pbmc68k"\nmax_cells = 100')
    (tmp_path / "mine.toml").write_text(toml, encoding="utf-8")
    command = [sys.executable, "-m", "imputome", "study", "run", "mine.toml", "-q", "--workers", "2", "-o"]
    process = subprocess.Popen([*command, "killed"], cwd=tmp_path, start_new_session=True)
    parts = tmp_path / "killed" / "parts"
    try:
        until(lambda: len(list(parts.glob("*.csv"))) >= 3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: members(process.pid) == [], 30.0)
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("*.csv")}
    assert len(finished) < 12
    for folder in ("killed", "whole"):
        subprocess.run([*command, folder], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(parts.glob("*.csv"))) == 12
    killed, whole = (
        pd.read_csv(tmp_path / folder / "results.csv")
        .query("status == 'ok' and not metric.str.contains('seconds')")
        .set_index(["dataset", "method", "parameters", "trial", "metric"])["value"]
        .sort_index()
        for folder in ("killed", "whole")
    )
    pd.testing.assert_series_equal(killed, whole, rtol=1e-6)
