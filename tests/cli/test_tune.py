"""`imputome tune`: the best parameters, studies that continue, and errors."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome import methods
from imputome.cli import app, run
from imputome.cli.console import PARTIAL_WORK
from imputome.core.data import as_data
from imputome.errors import ImputomeError, InputError
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_thinned
from imputome.io.config import read_config

optuna = pytest.importorskip("optuna")

from imputome.studies import tuning  # noqa: E402  (they need optuna)
from imputome.studies.processes import run_in_child  # noqa: E402

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
    return optuna.load_study(study_name=tuning.STUDY_NAME, storage=storage).trials


def refused(code, *options, **where):
    """The command fails with an error of this code, before anything else is said of it."""
    words = ["tune", where.get("source", "in.h5ad"), "--trials", "3", "--storage", where.get("storage", "s.db")]
    with pytest.raises(ImputomeError, check=has_code(code) if code else lambda _: True) as error:
        app([*words, *map(str, options)], standalone_mode=False)
    return str(error.value)


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
    """They run as many trials as are missing, and no more."""
    assert tune(*NMF, trials=1) == 0
    assert tune(*NMF, "--workers", 2, trials=6) == 0
    assert "6 trials" in capsys.readouterr().out
    assert [trial.state.name for trial in trials_of()] == ["COMPLETE"] * 6


def test_permits_are_exact(folder):
    """Two threads take trials from one number of permits, however their trials overlap."""
    data = as_data(make_counts().X, kind="counts")
    task = tuning._Task(data, "poisson_nmf", 9, folder / "s.db", "poisson_loss", {"max_iter": 1}, 0, math.inf)
    tuning._open_study(task)
    permits = threading.Semaphore(9)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda worker: tuning._run_trials(task, permits, worker=worker), range(2)))
    assert [trial.state.name for trial in trials_of()] == ["COMPLETE"] * 9


def test_two_calls_stop_at_the_same_number(folder):
    """Of two calls on one file, each may run one trial more than was asked for."""
    data = as_data(make_counts().X, kind="counts")
    asked = {"method": "poisson_nmf", "trials": 5, "storage": "s.db", "objective": "poisson_loss"}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: tuning.tune(data, **asked, params={"max_iter": 1}), range(2)))
    assert len(trials_of()) in (5, 6)


def test_no_file_is_left_beside_the_study(folder, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(folder / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (folder / "temporary").mkdir()
    assert tune(*NMF, trials=1) == 0
    assert list((folder / "temporary").iterdir()) == []
    assert {path.name for path in folder.iterdir()} == {"in.h5ad", "s.db", "best.toml", "temporary"}


def test_an_error_in_a_worker_goes_to_the_parent(folder):
    errors = queue.SimpleQueue()
    data = as_data(make_counts().X, kind="counts")
    task = tuning._Task(data, "poisson_nmf", 3, folder / "s.db", "nll", {}, 0, math.inf)
    run_in_child(tuning._run_trials, (task, threading.Semaphore(3)), os.getppid(), errors)
    assert errors.get(timeout=1).code == "objective-not-reported"


def test_a_killed_trial_is_not_counted(folder, monkeypatch):
    """SIGKILL in the middle of a trial: it has failed when the next call begins, and the study gets all its trials."""
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
    # at once, and with fewer updates to be quick
    fit = methods.get("poisson_nmf").fit_transform
    monkeypatch.setattr(
        methods.get("poisson_nmf"), "fit_transform", lambda self, data: fit(self.clone(max_iter=5), data)
    )
    assert run(command[1:]) == 0
    assert sorted(trial.state.name for trial in trials_of()) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert not list(folder.glob(".s.db*"))


FORK = multiprocessing.get_context("fork")  # starts fast


def begin(start, task, done, go_on):
    start.wait(10)
    with tuning._at_work(task.storage) as process:
        study = tuning._open_study(task, process)
        trial = study.ask()
        trial.set_user_attr(tuning.PROCESS, [socket.gethostname(), process])
        done.put(trial.number)
        while not go_on.exists():  # an event would wait for the one that is killed
            time.sleep(0.02)
        study.tell(trial, 1.0)


def some_task(folder, **other):
    given = {
        "method": "poisson_nmf",
        "trials": 4,
        "storage": folder / "s.db",
        "objective": "poisson_loss",
        "params": {},
    }
    data = as_data(make_counts().X, kind="counts")
    return tuning._Task(**{"data": data, **given, "seed": 0, "deadline": math.inf, **other})


def test_several_processes_begin_with_one_new_file(folder):
    """Of four that make the same file at the same moment none fails, and no trial is lost."""
    start, done, go_on = FORK.Barrier(4), FORK.Queue(), folder / "go on"
    processes = [
        FORK.Process(target=begin, args=(start, some_task(folder), done, go_on), daemon=True) for _ in range(4)
    ]
    for process in processes:
        process.start()
    assert sorted(done.get(timeout=60) for _ in processes) == [0, 1, 2, 3]
    # a fifth, with other parameters, does not take the study over, though no trial has finished
    with pytest.raises(InputError, check=has_code("study-differs")):
        tuning._open_study(some_task(folder, params={"max_iter": 3}))
    assert [trial.state.name for trial in trials_of()] == ["RUNNING"] * 4
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join()
    tuning._open_study(some_task(folder))
    assert sorted(trial.state.name for trial in trials_of()) == ["FAIL", *["RUNNING"] * 3]
    go_on.touch()
    for process in processes[1:]:
        process.join(20)
        assert process.exitcode == 0
    assert sorted(trial.state.name for trial in trials_of()) == [*["COMPLETE"] * 3, "FAIL"]
    assert {path.name for path in folder.iterdir()} == {"in.h5ad", "s.db", "go on"}


def test_a_trial_on_another_machine_is_not_judged(folder):
    with tuning._at_work(folder / "s.db") as process:
        study = tuning._open_study(some_task(folder), process)
        study.ask().set_user_attr(tuning.PROCESS, ["elsewhere", "1-00000000"])
    tuning._open_study(some_task(folder))
    assert [trial.state.name for trial in trials_of()] == ["RUNNING"]


def test_other_data_of_the_same_values_are_another_input(folder):
    """What a score depends on beside the matrix: library sizes over other genes, and which zeros are known."""
    data = some_task(folder).data
    tuning._open_study(some_task(folder)).enqueue_trial({})
    with tuning._at_work(folder / "s.db"):
        for other in (replace(data, library_size=data.depth + 1), replace(data, observed=data.X > 1)):
            with pytest.raises(InputError, check=has_code("study-differs")):
                tuning._open_study(some_task(folder, data=other))


def test_damaged_storage_is_named(folder):
    assert tune(*NMF, trials=2) == 0
    whole = Path("s.db").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:8192] + b"\xff" * 4096 + whole[12288:], whole[:100]):
        Path("s.db").write_bytes(damaged)
        with pytest.raises(InputError, match=r"s\.db"):
            tuning.tune(
                some_task(folder).data, method="poisson_nmf", trials=3, storage="s.db", objective="poisson_loss"
            )
    Path("s.db").unlink()
    os.mkfifo("s.db")
    refused("storage-not-sqlite", *NMF)


def _running(path):
    try:
        with sqlite3.connect(path) as connection:
            found = connection.execute("SELECT count(*) FROM trial_params").fetchone()
    except sqlite3.OperationalError:
        return False
    return found[0] > 0


def test_an_interruption_keeps_what_was_done(folder, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tune", interrupted)
    assert tune(*NMF) == 130
    assert PARTIAL_WORK in capsys.readouterr().err


def test_time_is_up(folder):
    refused("no-trial-succeeded", *NMF, "--timeout", 1e-9)
    assert trials_of() == []


# -- trials that fail or are pruned ------------------------------------------------------------------------------------
def test_failing_trials_count_and_the_reason_is_in_the_error(folder, monkeypatch):
    def fail(self, data):
        if self.n_components > 1:
            raise InputError("these parameters do not go together")

    monkeypatch.setattr(methods.get("poisson_nmf"), "_fit", fail)
    assert "do not go together" in refused("no-trial-succeeded", *NMF)
    assert [trial.state.name for trial in trials_of()] == ["FAIL"] * 3


def test_bad_trials_are_pruned_by_their_epochs(folder, monkeypatch):
    """A method that reports ever worse losses for more components: after enough trials the median stops it."""
    cls = methods.get("poisson_nmf")
    plain = cls._fit

    def fit(self, data):
        for epoch in range(1, 4):
            self.on_epoch(epoch, float(self.n_components))
        return plain(self, data)

    monkeypatch.setattr(tuning, "PRUNE_AFTER_EPOCHS", 2)
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
    assert all(trial.number >= tuning.PRUNE_AFTER_TRIALS for trial in pruned)
    for trial in pruned:
        before = [t.params["n_components"] for t in trials[: trial.number] if t.state.name == "COMPLETE"]
        assert trial.params["n_components"] > np.median(before)
        assert max(trial.intermediate_values) == tuning.PRUNE_AFTER_EPOCHS


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_a_study_of_something_else(folder):
    assert tune(*NMF, trials=1) == 0
    make_counts(1).write_h5ad("other.h5ad")
    assert "input" in refused("study-differs", *NMF, source="other.h5ad")
    assert "seed, 0 instead of 1" in refused("study-differs", *NMF, "--seed", 1)
    assert "fixed parameters" in refused("study-differs", *NMF, "--set", "max_iter=30")
    assert "poisson_loss" in refused("study-differs", "--method", "poisson_nmf", "--set", "max_iter=20")
    assert len(trials_of()) == 1


def test_wrong_storage(folder):
    Path("text.db").write_text("not a database, but long enough to look like a file of some kind" * 20)
    with sqlite3.connect("mine.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    for storage in ("text.db", "in.h5ad", "postgresql://host/db"):
        assert storage in refused("storage-not-sqlite", *NMF, storage=storage)
    assert "mine.db" in refused("storage-not-optuna", *NMF, storage="mine.db")
    for storage in ("no/s.db", "."):
        refused("storage-not-writable", *NMF, storage=storage)
    assert tune(*NMF, trials=1, storage="sqlite:///s.db") == 0
    assert len(trials_of()) == 1


def test_wrong_methods_and_objectives(folder):
    assert "magic_wand" in refused(None, "--method", "magic_wand")
    refused("no-search-space", "--method", "gene_mean")
    refused("objective-not-reported", "--method", "poisson_nmf")
    refused("parameter-value", "--method", "poisson_nmf", "--objective", "mse")
    assert "'rank'" in refused(None, *NMF, "--set", "rank=3")
    assert "n_components" in refused("nothing-to-tune", *NMF, "--set", "n_components=3")
    assert "gone.h5ad" in refused(None, *NMF, source="gone.h5ad")


def test_an_error_is_one_line(folder, capsys):
    assert tune(*NMF, storage="in.h5ad") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 1


def test_wrong_output(folder, monkeypatch):
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: pytest.fail("the work has started"))
    Path("mine.toml").write_text("important = true\n")
    assert "mine.toml" in refused("output-exists", *NMF, "-o", "mine.toml")
    refused("folder-not-writable", *NMF, "-o", "no/best.toml")
    assert Path("mine.toml").read_text() == "important = true\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("method = 3", "config-field"),
        ("[params]", "config-field"),
        ('method = "ialm"\nparams = 4', "config-field"),
        ('method = "ialm"\nseed = 4', "config-field"),
        ("method", "config-unreadable"),
    ],
)
def test_wrong_configs(folder, text, code):
    Path("mine.toml").write_text(text)
    with pytest.raises(InputError, check=has_code(code)) as error:
        read_config("mine.toml")
    assert "mine.toml" in str(error.value)


def test_configs(folder):
    Path("mine.toml").write_text('method = "zipo"\n[params]\nencoder = [8, [4]]\npreset = "none"\n')
    config = read_config("mine.toml")
    assert (config.method, config.params) == ("zipo", {"encoder": (8, (4,)), "preset": None})
    with pytest.raises(InputError, check=has_code("config-missing")):
        read_config("no.toml")


def test_logged_input(folder):
    adata = make_counts()
    X = adata.X.toarray()
    adata.X = sp.csr_matrix(np.log1p(X / np.maximum(X.sum(axis=1, keepdims=True), 1) * 1e4))
    adata.write_h5ad("log.h5ad")
    refused("not-integers", *NMF, source="log.h5ad")


def test_usage_errors(folder, capsys):
    assert tune(*NMF, trials=0) == 2
    assert tune(*NMF, "--workers", 0) == 2
    assert run(["tune", "in.h5ad", "--method", "poisson_nmf", "--trials", "3"]) == 2
    assert tune("--method", "poisson_nmf", "--set", "max_iter") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_without_optuna(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "imputome[tune]" in refused("missing-extra", *NMF)


# -- search spaces -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", methods.names())
def test_search_spaces_hold_what_the_constructor_takes(name):
    from imputome.core.parameters import check_parameters
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
