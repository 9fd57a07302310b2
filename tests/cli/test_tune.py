"""`imputome tune`: what is found, that a study goes on, and what is refused."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from imputome import methods
from imputome.cli import run
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_thinned

optuna = pytest.importorskip("optuna")

from imputome.studies import study_file, tuning  # noqa: E402  (they need optuna)

PROGRAM = str(Path(sys.executable).with_name("imputome"))
NMF = ["--method", "poisson_nmf", "--set", "max_iter=20", "--objective", "poisson_loss"]


def make_counts(seed=0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    X = rng.poisson(rng.gamma(1.0, size=(60, 3)) @ rng.gamma(1.0, size=(3, 30))).astype(np.float32)
    X[X.sum(axis=1) == 0, 0] = 1
    return ad.AnnData(sp.csr_matrix(X), var=pd.DataFrame(index=[f"gene{j}" for j in range(30)]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_counts().write_h5ad(tmp_path / "in.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tune(*options, trials=3, storage="s.db", source="in.h5ad"):
    return run(["tune", source, "--trials", str(trials), "--storage", storage, *map(str, options)])


def trials_of(path="s.db"):
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    return optuna.load_study(study_name=study_file.STUDY, storage=storage).trials


def refused(capsys, code, *words):
    assert code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, printed.err
    assert not [word for word in words if word not in lines[0]], lines[0]
    assert "unexpected" not in lines[0]


# -- what is found -----------------------------------------------------------------------------------------------------
def test_the_best_of_the_trials_is_written_for_fit(folder, capsys):
    assert tune(*NMF, "--seed", 3) == 0
    out = capsys.readouterr().out
    trials = trials_of()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    best = min(trials, key=lambda trial: trial.value)
    written = tomllib.loads(Path("best.toml").read_text())
    assert written == {"method": "poisson_nmf", "params": {"max_iter": 20, **best.params}}
    assert f"n_components = {best.params['n_components']}" in out
    # its objective, by hand
    adata = ad.read_h5ad("in.h5ad")
    data = as_data(adata.X, kind="counts")
    split = make_split("thin", data, rng=np.random.default_rng(3), fraction=0.1)
    result = methods.get("poisson_nmf")(**written["params"], random_state=3).fit_transform(split.train)
    assert best.value == pytest.approx(score_thinned(result, split)["poisson_loss"], rel=1e-6)
    assert run(["fit", "in.h5ad", "-m", "model", "--config", "best.toml", "-q"]) == 0
    assert methods.load("model").n_components == best.params["n_components"]


def test_one_seed_gives_one_study(folder):
    values = []
    for name in ("a.db", "b.db"):
        assert tune(*NMF, "-q", storage=name) == 0
        values.append([(trial.params, trial.value) for trial in trials_of(name)])
    assert values[0] == values[1]


def test_a_study_goes_on_and_does_not_repeat_itself(folder, capsys):
    assert tune(*NMF, trials=2) == 0
    assert tune(*NMF, trials=6, storage=str(folder / "s.db")) == 0
    params = [trial.params["n_components"] for trial in trials_of()]
    assert len(params) == 6
    assert params[2:4] != params[:2]
    capsys.readouterr()
    assert tune(*NMF, "--json", trials=4) == 0  # there are more already
    summary = json.loads(capsys.readouterr().out)
    assert (summary["finished"], len(trials_of())) == (6, 6)


def test_several_processes_share_a_study(folder, capsys):
    assert tune(*NMF, "--workers", 2, trials=4) == 0
    assert "4 trials" in capsys.readouterr().out
    trials = trials_of()
    assert sum(trial.state.name == "COMPLETE" for trial in trials) == 4
    assert len({trial.number for trial in trials}) == len(trials) == 4


def test_an_error_in_a_worker_is_handed_to_the_parent(folder):
    said = queue.SimpleQueue()
    data = as_data(make_counts().X, kind="counts")
    task = tuning._Task(data, "poisson_nmf", 3, folder / "s.db", "nll", {}, 0, math.inf)
    tuning._worker(task, 0, os.getppid(), said)
    assert "no validation likelihood" in said.get(timeout=1)


def test_a_killed_trial_is_not_counted(folder, monkeypatch):
    """SIGKILL in the middle of a trial; the study still gets all its trials."""
    rng = np.random.default_rng(0)
    big = ad.AnnData(sp.csr_matrix(rng.poisson(0.5, size=(800, 600)).astype(np.float32)))
    big.write_h5ad("big.h5ad")
    options = ["--method", "poisson_nmf", "--set", "tol=0", "--set", "max_iter=400", "--objective", "poisson_loss"]
    command = [PROGRAM, "tune", "big.h5ad", "--trials", "2", "--storage", "s.db", *options, "-q"]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if Path("s.db").exists() and _running("s.db"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [trial.state.name for trial in trials_of()] == ["RUNNING"]
    # later, and with fewer updates to be quick: what the fixed parameters were is known, so they cannot be changed
    monkeypatch.setattr(study_file, "GRACE", 1)
    monkeypatch.setattr(study_file, "HEARTBEAT", 1)
    time.sleep(1.5)
    fit = methods.get("poisson_nmf").fit_transform
    monkeypatch.setattr(
        methods.get("poisson_nmf"), "fit_transform", lambda self, data: fit(self.clone(max_iter=5), data)
    )
    assert run(command[1:]) == 0
    assert sorted(trial.state.name for trial in trials_of()) == ["COMPLETE", "COMPLETE", "FAIL"]


def _running(path):
    try:
        with sqlite3.connect(path) as connection:
            found = connection.execute("SELECT count(*) FROM trial_heartbeats").fetchone()
    except sqlite3.OperationalError:
        return False
    return found[0] > 0


def test_time_is_up(folder, capsys):
    refused(capsys, tune(*NMF, "--timeout", 1e-9), "no trial of poisson_nmf came to an end", "no time")


# -- trials that fail or are pruned ------------------------------------------------------------------------------------
def test_failing_trials_count_and_the_reason_is_told(folder, capsys, monkeypatch):
    def fail(self, data):
        if self.n_components > 1:
            raise InputError("these parameters do not go together")

    monkeypatch.setattr(methods.get("poisson_nmf"), "_fit", fail)
    refused(capsys, tune(*NMF), "no trial of poisson_nmf came to an end", "do not go together")
    assert [trial.state.name for trial in trials_of()] == ["FAIL"] * 3


def test_bad_trials_are_pruned_by_their_epochs(folder, monkeypatch):
    """A method that reports ever worse losses for more components: after enough trials the median stops it."""
    cls = methods.get("poisson_nmf")
    plain = cls._fit

    def fit(self, data):
        for epoch in range(1, 13):
            self.on_epoch(epoch, float(self.n_components))
        return plain(self, data)

    monkeypatch.setattr(cls, "_fit", fit)
    monkeypatch.setattr(cls, "on_epoch", None, raising=False)
    data = as_data(make_counts().X, kind="counts")
    found = tuning.tune(
        data, method="poisson_nmf", trials=12, storage="s.db", objective="poisson_loss", params={"max_iter": 5}
    )
    trials = trials_of()
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert found.pruned == len(pruned) > 0
    assert found.finished == 12
    assert all(trial.number >= study_file.PRUNE_AFTER_TRIALS for trial in pruned)
    for trial in pruned:
        before = [t.params["n_components"] for t in trials[: trial.number] if t.state.name == "COMPLETE"]
        assert trial.params["n_components"] > np.median(before)
        assert max(trial.intermediate_values) == study_file.PRUNE_AFTER_EPOCHS


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_a_study_of_something_else(folder, capsys):
    assert tune(*NMF, trials=1) == 0
    capsys.readouterr()
    make_counts(1).write_h5ad("other.h5ad")
    refused(capsys, tune(*NMF, source="other.h5ad"), "different input", "--storage")
    refused(capsys, tune(*NMF, "--seed", 1), "different seed (0, not 1)")
    refused(capsys, tune(*NMF, "--set", "max_iter=30"), "different fixed parameters")
    refused(capsys, tune("--method", "poisson_nmf", "--set", "max_iter=20"), "different objective", "poisson_loss")
    assert len(trials_of()) == 1


def test_wrong_storage(folder, capsys):
    Path("text.db").write_text("not a database, but long enough to look like a file of some kind" * 20)
    with sqlite3.connect("mine.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    refused(capsys, tune(*NMF, storage="text.db"), "text.db exists and is no SQLite file")
    refused(capsys, tune(*NMF, storage="mine.db"), "mine.db is a database of something else")
    refused(capsys, tune(*NMF, storage="in.h5ad"), "in.h5ad exists and is no SQLite file")
    refused(capsys, tune(*NMF, storage="postgresql://host/db"), "postgresql://host/db is no SQLite file")
    refused(capsys, tune(*NMF, storage="no/s.db"), "no/s.db", "folder that exists")
    refused(capsys, tune(*NMF, storage="."), "no study can be kept")
    assert tune(*NMF, trials=1, storage="sqlite:///s.db") == 0
    assert len(trials_of()) == 1


def test_wrong_methods_and_objectives(folder, capsys):
    refused(capsys, tune("--method", "magic_wand"), "no method 'magic_wand'")
    refused(capsys, tune("--method", "gene_mean"), "gene_mean declares no search space")
    refused(capsys, tune("--method", "poisson_nmf"), "no validation likelihood", "--objective poisson_loss")
    refused(capsys, tune("--method", "poisson_nmf", "--objective", "mse"), "nll, poisson_loss")
    refused(capsys, tune(*NMF, "--set", "rank=3"), "no parameter 'rank'")
    refused(capsys, tune(*NMF, "--set", "n_components=3"), "fixed", "n_components")
    refused(capsys, tune(*NMF, source="gone.h5ad"), "gone.h5ad does not exist")


def test_wrong_output(folder, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: pytest.fail("the work was begun"))
    Path("mine.toml").write_text("important = true\n")
    refused(capsys, tune(*NMF, "-o", "mine.toml"), "mine.toml exists and was not written by imputome tune")
    refused(capsys, tune(*NMF, "-o", "no/best.toml"), "no does not exist")
    assert Path("mine.toml").read_text() == "important = true\n"


def test_logged_input(folder, capsys):
    adata = make_counts()
    X = adata.X.toarray()
    adata.X = sp.csr_matrix(np.log1p(X / np.maximum(X.sum(axis=1, keepdims=True), 1) * 1e4))
    adata.write_h5ad("log.h5ad")
    refused(capsys, tune(*NMF, source="log.h5ad"), "X looks log1p")


def test_usage_errors(folder, capsys):
    assert tune(*NMF, trials=0) == 2
    assert tune(*NMF, "--workers", 0) == 2
    assert run(["tune", "in.h5ad", "--method", "poisson_nmf", "--trials", "3"]) == 2
    assert tune("--method", "poisson_nmf", "--set", "max_iter") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_without_optuna(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused(capsys, tune(*NMF), "tuning needs optuna", 'pip install "imputome[tune]"')


# -- search spaces -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", methods.names())
def test_search_spaces_hold_what_the_constructor_takes(name):
    from imputome.core.imputer import check_parameters
    from imputome.errors import MissingExtraError

    try:
        cls = methods.get(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    for parameter, spec in cls.search_space.items():
        if spec[-1] in ("log", "linear"):
            low, high, _ = spec
            assert low < high
            assert low > 0 or spec[-1] == "linear"
            values = (low, high)
        else:
            values = spec
            assert len(set(spec)) == len(spec) > 1
        for value in values:
            check_parameters(cls, {parameter: value})


def test_choices_that_are_no_plain_values(folder, monkeypatch):
    cls = methods.get("poisson_nmf")
    monkeypatch.setattr(cls, "search_space", {"n_components": ((2, 3), (4, 5)), "tol": (1e-4, 1e-3, "log")})
    seen = []

    def fake(self, data):
        seen.append((self.n_components, self.tol))
        plain = cls(n_components=2, max_iter=3)
        return plain._imputation(plain._fit(data)[0], data)

    monkeypatch.setattr(cls, "fit_transform", fake)
    data = as_data(make_counts().X, kind="counts")
    found = tuning.tune(data, method="poisson_nmf", trials=4, storage="s.db", objective="poisson_loss")
    assert {choice for choice, _ in seen} == {(2, 3), (4, 5)}
    assert all(1e-4 <= tol <= 1e-3 for _, tol in seen)
    assert found.params["n_components"] in {(2, 3), (4, 5)}


# -- the deep methods --------------------------------------------------------------------------------------------------
def test_zipo_is_tuned_by_its_validation_likelihood(folder):
    pytest.importorskip("torch")
    if "zipo" not in methods.names():
        pytest.skip("zipo is not registered")
    fixed = ["--set", "encoder=8-4", "--set", "max_epochs=3"]
    assert tune("--method", "zipo", *fixed, "-q", trials=2) == 0
    written = tomllib.loads(Path("best.toml").read_text())
    assert set(written["params"]) == {"encoder", "max_epochs", "alpha_z", "alpha_w"}
    adata = ad.read_h5ad("in.h5ad")
    result = methods.get("zipo")(**written["params"]).fit_transform(as_data(adata.X, kind="counts"))
    best = min(trial.value for trial in trials_of())
    assert result.status.details["nll_validation"] == pytest.approx(best, rel=1e-5)
