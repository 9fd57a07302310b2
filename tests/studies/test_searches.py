"""Searches of a study: what each of them searches, that what is done is not done again, and what the page tells."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import sys
from contextlib import closing

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from codes import has_code
from imputome.cli import run
from imputome.errors import InputError
from imputome.evaluation.splits import make_split
from imputome.methods import create, get
from imputome.studies import searches
from imputome.studies.execute import plan
from imputome.studies.searches import found, left, run_searches, search_rows, searches_of
from imputome.studies.spec import find_study
from imputome.studies.tuning import HELD_OUT

FILE = """
title = "made"
[[datasets]]
name = "mine"
path = "mine.h5ad"
[[splits]]
scheme = "thin"
[base]
method = "knn_smoothing"
params = { k = 4, random_state = 7 }
[[tuning]]
title = "Best k"
method = "knn_smoothing"
dataset = "mine"
objective = "poisson_loss"
trials = 4
for_each = { n_components = [2, 3] }
search = ["k"]
reported = { 3 = "k = 9" }
[scale.smoke]
trials = 1
datasets = [{ name = "pbmc68k" }]
[scale.full]
[[scale.full.tuning]]
title = "All"
method = "poisson_nmf"
dataset = "mine"
objective = "poisson_loss"
trials = 2
"""
ON_MINE = 'dataset = "mine"\nobjective = "poisson_loss"\ntrials = 4'


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    rates = rng.gamma(2.0, 1.0, (4, 12))[rng.integers(4, size=40)]
    ad.AnnData(rng.poisson(rates).astype(np.float32)).write_h5ad(tmp_path / "mine.h5ad")
    (tmp_path / "made.toml").write_text(FILE)
    return tmp_path / "made.toml"


@pytest.fixture
def fits(monkeypatch):
    """The parameters of each fit of the method; the fit of the number ``fits.stop`` is interrupted."""

    class Fits(list):
        stop = 0

    done = Fits()
    original = get("knn_smoothing")._fit

    def counted(self, data):
        done.append((self.n_components, self.k, self.random_state))
        if len(done) == done.stop:
            raise KeyboardInterrupt
        return original(self, data)

    monkeypatch.setattr(get("knn_smoothing"), "_fit", counted)
    return done


def planned(file, folder, scale="desk", **changes):
    study = find_study(str(file), scale=scale)
    tuning = tuple(dataclasses.replace(each, **changes) for each in study.tuning)
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    return plan(dataclasses.replace(study, tuning=tuning), folder, load=lambda name: pytest.fail(name))


def trials_in(folder):
    numbers = []
    for path in sorted((folder / "parts").glob("*.db")):
        with closing(sqlite3.connect(path)) as connection:
            states = [state for (state,) in connection.execute("SELECT state FROM trials")]
            numbers.append(sum(state in ("COMPLETE", "PRUNED") for state in states))
    return numbers


# -- what is searched --------------------------------------------------------------------------------------------------
def test_what_each_scale_searches(file):
    both = searches_of(find_study(str(file)))
    assert [(search.name, search.searched, search.params) for search in both] == [
        ("2", ("k",), {"n_components": 2, "random_state": 7}),  # as in the base, and k is not
        ("3", ("k",), {"n_components": 3, "random_state": 7}),
    ]
    assert searches_of(find_study(str(file), scale="smoke")) == []  # of another data set
    (whole,) = searches_of(find_study(str(file), scale="full"))
    assert (whole.name, whole.searched, whole.params) == ("all", tuple(get("poisson_nmf").search_space), {})


def test_the_searches_of_paper_001():
    """Five encoders, alpha_z and alpha_w from 0.01 to 1 (section III-H), 96 trials."""
    pytest.importorskip("torch")
    whole, *each = searches_of(find_study("zipo_design", scale="full"))
    space = get("zipo").search_space
    encoders = [
        *("2048-1024-512-256-128", "1024-512-256-128", "1024-512-256-128-64", "512-256-128", "512-256-128-64"),
    ]
    assert (whole.tuning.trials, whole.searched) == (96, ("encoder", "alpha_z", "alpha_w"))
    assert list(space["encoder"]) == [search.params["encoder"] for search in each] == encoders
    assert space["alpha_z"] == space["alpha_w"] == (0.01, 1.0, "log")
    desk = searches_of(find_study("zipo_design"))
    for search in (whole, *each, *desk):
        assert search.tuning.objective == "nll"
        assert search.params["preset"] == "paper"
        assert "alpha_w" not in search.params  # that of the base is 0
    assert sum(search.tuning.trials for search in desk) <= 40
    assert searches_of(find_study("zipo_design", scale="smoke")) == []


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('search = ["k"]', 'search = ["n_components"]', "study-field"),  # it is set
        ('search = ["k"]', 'search = ["width"]', "study-field"),
        ('search = ["k"]', "params = { k = 3 }", "study-field"),  # nothing is left
        ('search = ["k"]', "params = { width = 3 }", "unknown-parameter"),
        ('method = "knn_smoothing"\ndataset', 'method = "knn_smothing"\ndataset', "unknown-method"),
        (
            'dataset = "mine"\nobjective = "poisson_loss"\ntrials = 4',
            'dataset = "yours"\ntrials = 4',
            "dataset-unknown",
        ),
        ("trials = 4", "trials = 0", "study-field"),
        ("{ 3 =", "{ 5 =", "study-field"),
        ("n_components = [2, 3]", "n_components = []", "study-field"),
    ],
)
def test_faults(file, old, new, code):
    assert FILE.count(old) == 1
    file.write_text(FILE.replace(old, new))
    with pytest.raises(InputError, check=has_code(code)):
        find_study(str(file))


# -- running -----------------------------------------------------------------------------------------------------------
def loss_by_hand(data, params):
    """Mean of mu - x ln mu over all entries of the held-out part, whose molecules are a ninth of those of the rest."""
    split = make_split("thin", data, rng=np.random.default_rng(0), fraction=HELD_OUT)
    imputed = create("knn_smoothing", params).fit_transform(split.train)
    rates = np.maximum(imputed.to_array(keep_observed=False, scale="counts") * HELD_OUT / (1 - HELD_OUT), 1e-8)
    return float(np.mean(rates - split.test.toarray() * np.log(rates)))


def test_the_best_of_the_trials_is_found(file, tmp_path, fits):
    pytest.importorskip("optuna")
    todo = planned(file, tmp_path / "out")
    assert [search.name for search in left(todo)] == ["2", "3"]
    results = run_searches(todo)
    assert [result.trials for result in results] == trials_in(tmp_path / "out") == [4, 4]
    data = todo.datasets["mine"][0].data
    for result in results:
        tried = {k for width, k, seed in fits if (str(width), seed) == (result.search.name, 7)}
        assert 1 <= len(tried) <= 4
        losses = {k: loss_by_hand(data, {**result.search.params, "k": k}) for k in tried}
        assert losses[result.best["k"]] == pytest.approx(min(losses.values()))  # several k can give one result
        assert result.value == pytest.approx(min(losses.values()), rel=1e-5)
    assert [search.name for search in left(todo)] == []


def test_what_is_done_is_not_done_again(file, tmp_path, fits, monkeypatch):
    pytest.importorskip("optuna")
    fits.stop = 7  # of the eight
    with pytest.raises(KeyboardInterrupt):
        run_searches(planned(file, tmp_path / "out"))
    todo = planned(file, tmp_path / "out")
    assert [(result.search.name, bool(result.reason)) for result in found(todo)] == [("2", False), ("3", True)]
    first = found(todo)[0]
    fits.stop = 0
    results = run_searches(todo)
    assert len(fits) == 7 + 2  # the one that was interrupted, and the eighth
    assert trials_in(tmp_path / "out") == [4, 4]
    assert (results[0].best, results[0].value) == (first.best, first.value)
    # finished: Optuna is not even asked; more trials: only those
    with monkeypatch.context() as patched:
        patched.setattr(searches, "tune", lambda *a, **k: pytest.fail("it was searched again"))
        again = run_searches(planned(file, tmp_path / "out"))
    assert [(result.best, result.value, result.trials) for result in again] == [
        (result.best, result.value, result.trials) for result in results
    ]
    more = run_searches(planned(file, tmp_path / "out", trials=5))
    assert [result.trials for result in more] == [5, 5]
    assert len(fits) == 9 + 2
    # a damaged result is made again from Optuna's trials, without a fit
    for path in (tmp_path / "out" / "parts").glob("*.json"):
        path.write_text(path.read_text()[:20])
    assert [result.value for result in run_searches(planned(file, tmp_path / "out", trials=5))] == [
        result.value for result in more
    ]
    assert len(fits) == 11
    # another parameter that stays is another search
    todo = planned(file, tmp_path / "out", params={"random_state": 8})
    assert len(left(todo)) == 2


# -- the command and the page ------------------------------------------------------------------------------------------
def test_the_command_and_the_page(file, tmp_path, capsys):
    pytest.importorskip("optuna")
    folder = tmp_path / "out"
    line = ["study", "run", str(file), "-o", str(folder), "--workers", "0"]
    assert run([*line, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["searches_left"] == 2
    assert run([*line, "-q"]) == 0
    table = pd.read_csv(folder / "searches.csv", dtype={"search": str})
    assert table["search"].tolist() == ["2", "3"]
    assert table["trials"].tolist() == [4, 4]
    best = [json.loads(text)["k"] for text in table["best"]]
    (_, headings, rows, notes) = search_rows(found(planned(file, folder)))[0]
    assert [row[:2] for row in rows] == [["2", str(best[0])], ["3", str(best[1])]]
    assert ([row[-1] for row in rows], notes, len(headings)) == (["", "k = 9"], [], 5)
    assert "k = 9" in (folder / "made.md").read_text()
    assert not (folder / "made.html").exists() or "k = 9" in (folder / "made.html").read_text()  # with the extra report


def test_without_optuna_the_rest_runs(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    folder = tmp_path / "out"
    assert run(["study", "run", str(file), "-o", str(folder), "--workers", "0"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("imputome[tune]") == 1
    assert (folder / "made.md").read_text().count("tune") == 1
    assert set(pd.read_csv(folder / "results.csv")["status"]) == {"ok"}
    assert not list((folder / "parts").glob("search*"))


def test_data_that_are_not_there(file, tmp_path):
    other = "nothing_of_this_name"
    text = FILE.replace('"mine.h5ad"\n', f'"mine.h5ad"\n[[datasets]]\nname = "{other}"\n')
    file.write_text(text.replace(ON_MINE, ON_MINE.replace("mine", other)))

    def load(name):
        raise InputError("it is not here", code="dataset-missing")

    todo = plan(find_study(str(file)), tmp_path, load=load)
    assert [result.reason for result in run_searches(todo)] == ["it is not here"] * 2
    assert left(todo) == []
