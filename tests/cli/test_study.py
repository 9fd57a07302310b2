"""`imputome study`: the list, a run from a file, and errors."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from imputome.cli import run
from imputome.cli.console import PARTIAL_WORK
from imputome.datasets import load
from imputome.studies import execute
from imputome.studies.spec import find_study, known_studies
from imputome.studies.subsets import load_subset

FILE = """
title = "small"
trials = 2
[[datasets]]
name = "pbmc68k"
max_cells = 50
min_cells = 20
[[splits]]
scheme = "thin"
[base]
method = "poisson_nmf"
params = { n_components = 2, max_iter = 3 }
[[factors]]
n_components = [2, 3]
[[claims]]
text = "three factors are better"
kind = "better"
metric = "poisson_loss"
configurations = ["n_components=3", "base"]
[scale.smoke]
trials = 1
"""


HERE = ("--workers", "0")  # no other process


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.toml").write_text(FILE)
    return tmp_path / "small.toml"


def test_list(capsys):
    assert run(["study", "list"]) == 0
    printed = capsys.readouterr().out
    for name, title in known_studies().items():
        assert f"{name}: {title}" in printed
    assert run(["study", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"studies": known_studies()}


def test_run(small, tmp_path, capsys):
    folder = tmp_path / "new" / "results"
    assert run(["study", "run", str(small), "-o", str(folder), *HERE, "--seed", "4"]) == 0
    printed = capsys.readouterr()
    assert "| base = n_components=2 (control) |" in printed.out
    assert "three factors are better" in printed.out
    first = pd.read_csv(folder / "results.csv")
    assert first["trial"].nunique() == 2
    assert run(["study", "run", str(small), "-o", str(folder), *HERE, "--json", "-q"]) == 0  # its own seed
    summary = json.loads(capsys.readouterr().out)
    assert summary["study"] == "small"
    assert str(folder / "claims.csv") in summary["files"]
    assert set(pd.read_csv(folder / "results.csv")["seed"]).isdisjoint(first["seed"])
    assert run(["study", "run", str(small), "-o", str(folder), *HERE, "--scale", "smoke", "-q"]) == 0
    assert pd.read_csv(folder / "results.csv")["trial"].nunique() == 1


@pytest.mark.parametrize(
    ("line", "exit_code", "word"),
    [
        (["nope", "-o", "OUT"], 1, "nope"),
        (["SMALL"], 2, "--output"),
        (["SMALL", "-o", "SMALL"], 1, "small.toml"),
        (["SMALL", "-o", "OUT", "--datasets", "kang"], 1, "kang"),
        (["SMALL", "-o", "OUT", "--workers", "-1"], 2, "workers"),
        (["SMALL", "-o", "OUT", "--scale", "full"], 1, "full"),
        (["SMALL", "-o", "OUT", "--max-memory", "much"], 2, "max-memory"),
        (["SMALL", "-o", "OUT", "--workers", "0", "--max-seconds", "9"], 1, "--workers"),
        (["-o", "OUT"], 2, "--all"),
        (["SMALL", "-o", "OUT", "--all"], 2, "--all"),
    ],
)
def test_wrong_calls(small, tmp_path, capsys, line, exit_code, word):
    places = {"SMALL": str(small), "OUT": str(tmp_path / "out")}
    assert run(["study", "run", *(places.get(part, part) for part in line)]) == exit_code
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_interruption_keeps_what_was_done(small, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "plan", interrupted)
    assert run(["study", "run", str(small), "-o", str(tmp_path / "out"), "-q"]) == 130
    assert PARTIAL_WORK in capsys.readouterr().err


def test_what_is_left_is_told_and_pages_are_written_again(small, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert run(["study", "report", str(small), "-o", out]) == 1  # nothing was run
    assert "[no-results]" in capsys.readouterr().err
    assert run(["study", "run", str(small), "-o", out, "--dry-run", "--json"]) == 0
    assert not (tmp_path / "out").exists()
    told = json.loads(capsys.readouterr().out)
    # controls, two configurations; two trials; no pictures, no searches
    runs = {"study": "small", "runs": 6, "left": 6, "searches_left": 0, "seconds": None}
    assert told == runs | {"panels": 0, "panels_left": 0}
    assert run(["study", "run", str(small), "-o", out, *HERE, "-q"]) == 0
    first = (tmp_path / "out" / "small.md").read_text()
    # the page says what the study ran on
    counts = load_subset(find_study(str(small)).datasets[0], load, seed=0).data.X
    rows, features = counts.shape
    row = next(line for line in first.splitlines() if line.startswith("| pbmc68k (at most 50 cells) | 10x PBMC"))
    zeros = 100 * (counts.toarray() == 0).mean()
    assert row.split(" | ")[2:] == [f"{rows}", f"{features}", f"{zeros:.1f}% |"]
    (tmp_path / "out" / "small.md").unlink()
    assert run(["study", "run", str(small), "-o", out, "--dry-run"]) == 0
    assert "0 of 6 runs are left" in capsys.readouterr().out
    assert run(["study", "report", str(small), "-o", out, "--to", str(tmp_path / "pages"), "-q"]) == 0
    assert (tmp_path / "pages" / "small.md").read_text() == first


def test_studies_without_data_are_left_out_of_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("IMPUTOME_DATA", str(tmp_path))
    line = ["study", "run", "--all", "--scale", "smoke", "-o", str(tmp_path / "out"), "--dry-run"]
    assert run(line) == 0
    printed = capsys.readouterr()
    assert "bulk_imputation" in printed.err
    assert "zipo_claims (smoke)" in printed.out
    assert run(["study", "show", "zipo_claims", "--scale", "full", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 12
