"""Studies with a method whose extra is not installed: it is skipped, the rest runs, and it runs once it is there."""

from __future__ import annotations

import sys
from collections import Counter

import pandas as pd
import pytest

from imputome import datasets, methods
from imputome.cli import run
from imputome.errors import MissingExtraError
from imputome.report.study_page import write_results
from imputome.studies import runner
from imputome.studies.claims import plain
from imputome.studies.execute import collected, execute, plan
from imputome.studies.spec import find_study

FILE = """
title = "made"
trials = 2
[[datasets]]
name = "pbmc68k"
max_cells = 50
min_cells = 20
[[splits]]
scheme = "thin"
[[splits]]
scheme = "random"
scale = "log1p"
[base]
method = "ialm"
params = { max_iter = 2 }
[[configurations]]
name = "network"
method = "scvi"
params = { max_iter = 3 }
[[configurations]]
name = "other"
method = "ialm"
params = { max_iter = 3 }
[[claims]]
text = "it is better than the network"
kind = "better"
metric = "mse"
configurations = ["base", "network"]
[[claims]]
text = "it is better than the other"
kind = "better"
metric = "mse"
configurations = ["base", "other"]
[[figures]]
title = "all"
metric = "mse"
configurations = ["base", "network", "other"]
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of a study, where scvi-tools is not installed."""
    monkeypatch.setitem(sys.modules, "scvi", None)
    monkeypatch.delitem(sys.modules, "imputome.methods.scvi.estimator", raising=False)
    (tmp_path / "made.toml").write_text(FILE)
    return str(tmp_path / "made.toml")


def test_the_rest_runs_and_it_runs_later(file, tmp_path, monkeypatch):
    table = execute(find_study(file), tmp_path / "out", load=datasets.load)
    skipped = table[table["status"] == "skipped"]
    assert skipped["method"].tolist() == ["scvi"]
    assert "imputome[scvi]" in skipped["reason"].iloc[0]
    assert set(table[table["status"] != "skipped"]["status"]) == {"ok"}
    written = write_results(find_study(file), table, tmp_path / "out")
    assert plain(skipped["reason"].iloc[0]) in written.text
    # now a method of this name is there, with other parameters than scVI's
    computed = []
    original = runner.impute_split
    with monkeypatch.context() as patched:
        patched.setitem(methods.METHODS, "scvi", (methods.METHODS["scvi"][0], "controls.estimators:PoissonNMF"))
        patched.setattr(runner, "impute_split", lambda *a: computed.append(a[0].name) or original(*a))
        table = execute(find_study(file), tmp_path / "out", load=datasets.load)
    assert computed == ["scvi"] * 4  # two splits, two trials
    assert set(table["status"]) == {"ok"}
    # what was run stays in the results where the extra is not installed
    todo = plan(find_study(file), tmp_path / "out", load=datasets.load)
    assert (todo.left, todo.absent) == ((), ())
    pd.testing.assert_frame_equal(collected(todo), table)
    # a part of it is missing
    next((tmp_path / "out" / "parts").glob("*scvi_1_*.csv")).unlink()
    rest = collected(plan(find_study(file), tmp_path / "out", load=datasets.load))
    assert Counter(rest["status"] == "skipped")[True] == 1
    assert set(rest[rest["method"] == "scvi"]["trial"]) == {0, 1}


def test_a_study_needs_its_base(file, tmp_path):
    text = FILE.replace('method = "ialm"\nparams = { max_iter = 2 }', 'method = "scvi"')
    (tmp_path / "made.toml").write_text(text)
    with pytest.raises(MissingExtraError):
        find_study(file)


def test_the_command_tells_it_once(file, tmp_path, capsys):
    assert run(["study", "run", file, "-o", str(tmp_path / "out"), "--workers", "0"]) == 0
    assert capsys.readouterr().err.count("imputome[scvi]") == 1
