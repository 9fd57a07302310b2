"""Search of a method's parameters with Optuna, on one input: can be interrupted, and run in several processes.

Optuna keeps the trials in an SQLite file. Each process that works on it holds a lock beside it, so that trials of dead
processes are known and marked as failed; on other machines Optuna's heartbeat tells it, a minute later.
Optuna is an optional dependency, and is imported on first use.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import secrets
import socket
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from imputome.core.data import Data
from imputome.core.imputer import Imputer
from imputome.core.interrupts import answered_here
from imputome.core.locks import is_locked, locked
from imputome.core.parameters import check_parameters
from imputome.errors import InputError, missing_extra, printable
from imputome.evaluation.arguments import check_choice
from imputome.evaluation.splits import make_split, seed_for
from imputome.evaluation.streaming import score_thinned
from imputome.methods import get
from imputome.result.run import Progress
from imputome.studies.inputs import MethodSpec, check_kind, digest
from imputome.studies.processes import WORKER_DIED, run_processes

Objective = Literal["nll", "poisson_loss"]

STUDY_NAME = "imputome"  # of the study in its file
PROCESS = "process"  # attribute of a trial: host and name of the process that runs it
HELD_OUT = 0.1  # share of the molecules that "poisson_loss" is computed on
HEARTBEAT_SECONDS, GRACE_SECONDS = 10, 60  # between signs of life of a trial, and until one without them has failed
# the median rule starts when there are trials to compare with, after the first epochs, which are noisy
PRUNE_AFTER_TRIALS, PRUNE_AFTER_EPOCHS = 5, 10


@dataclass(frozen=True)
class Tuned:
    """The result of tuning."""

    method: str
    params: dict[str, Any]  # the best, with those that were fixed
    value: float  # of the objective
    finished: int  # trials,
    pruned: int  # this number of them was stopped early,
    failed: int  # and this number ended with an error


@dataclass(frozen=True)
class _Task:
    """What a process needs to run trials."""

    data: Data
    method: str
    trials: int
    storage: Path
    objective: Objective
    params: dict[str, Any]
    seed: int
    deadline: float  # of time.time()

    @property
    def space(self) -> dict[str, tuple[Any, ...]]:
        return {name: spec for name, spec in get(self.method).search_space.items() if name not in self.params}


class _TrialFailed(Exception):  # noqa: N818  (it is caught, never shown)
    pass


def import_optuna() -> Any:
    """Optuna, or the error that says how to install it."""
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("tuning", "optuna", "tune") from error
    return optuna


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that Optuna logs for each trial."""
    optuna = import_optuna()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


@_quiet()
def tune(
    data: Data,
    *,
    method: str,
    trials: int,
    storage: str | Path,
    objective: Objective = "nll",
    params: dict[str, Any] | None = None,
    seed: int = 0,
    workers: int = 1,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Search the space that a method declares (`Imputer.search_space`) for the lowest objective.

    Trials are drawn by the sampler TPE. If a method reports its validation loss after each epoch, the median rule stops
    trials that are worse than half of the others. ``params`` stay fixed. ``storage`` is an SQLite file; an existing
    study continues if it has the same input, method, objective, seed and fixed parameters.

    The objective is ``"nll"``, the negative log-likelihood per validation cell, which the deep methods for counts
    report (the posterior step, which does not change it, is left out), or ``"poisson_loss"``, the loss per held-out
    molecule after thinning (10 % held out), for all methods for counts.

    ``trials`` is the total number of trials, with those of earlier calls. Trials that were stopped early,
    or ended with an error of the method, count; those of processes that died do not. The number is exact for the
    processes of one call. Of several calls that work on one file at the same time, each process can run one trial more.
    After ``timeout`` seconds no trial is started. Each of several workers has its own copy of the data and its share of
    the cores.
    """
    deadline = math.inf if timeout is None else time.time() + timeout
    task = _Task(data, method, trials, storage_path(storage), objective, dict(params or {}), seed, deadline)
    _check(task, workers, timeout)
    with _storage_errors(task.storage), _at_work(task.storage) as process:
        study = _open_study(task, process)
        # each trial takes a permit, so that together the processes run as many as are missing, and no more
        missing = max(0, trials - len(_finished(study)))
        if workers == 1:
            _run_trials(task, threading.Semaphore(missing), progress=progress)
        else:
            with answered_here():  # it starts a process that keeps account of it
                permits = multiprocessing.get_context("spawn").Semaphore(missing)
            run_processes(
                _run_trials,
                [(task, permits, number) for number in range(min(workers, missing))],
                threads=max(1, (os.cpu_count() or 1) // workers),
                report=lambda: _report(progress, study, trials),
            )
        if len(_finished(study)) < trials and time.time() < deadline:
            raise InputError(WORKER_DIED)
        return _result(task, study)


def _check(task: _Task, workers: int, timeout: float | None) -> None:
    check_choice("objective", task.objective, get_args(Objective))
    if task.trials < 1 or workers < 1 or (timeout is not None and not timeout > 0):
        text = f"trials={task.trials}, workers={workers} and timeout={timeout} must be positive"
        raise InputError(text, code="parameter-value")
    check_kind(MethodSpec(task.method), task.data.kind, parameter="method")
    if task.objective == "poisson_loss" and task.data.kind != "counts":
        raise InputError("objective='poisson_loss' is for counts", code="objective-kind", parameter="objective")
    cls = get(task.method)
    if not cls.search_space:
        text = f"{task.method} declares no search space: set its parameters by hand"
        raise InputError(text, code="no-search-space", parameter="method")
    check_parameters(cls, task.params)
    if not task.space:
        text = f"nothing is left to tune: do not fix all of {', '.join(cls.search_space)}"
        raise InputError(text, code="nothing-to-tune", parameter="params")


# -- trials ------------------------------------------------------------------------------------------------------------
@_quiet()
def _run_trials(task: _Task, permits: Any, worker: int = 0, progress: Progress | None = None) -> None:
    """Run trials until there are no permits left, other calls have run enough, or time is up."""
    with _storage_errors(task.storage), _at_work(task.storage) as process:
        study = _open_study(task, process, worker)

        def stop_or_continue(study: Any, trial: Any) -> None:
            _report(progress, study, task.trials)
            if len(_finished(study)) >= task.trials or not permits.acquire(False):
                study.stop()

        _report(progress, study, task.trials)
        if permits.acquire(False):
            seconds = task.deadline - time.time()
            study.optimize(
                _objective(task, process),
                timeout=None if math.isinf(seconds) else max(0.0, seconds),
                catch=(_TrialFailed,),
                callbacks=[stop_or_continue],
            )


def _objective(task: _Task, process: str) -> Callable[[Any], float]:
    import optuna

    cls = get(task.method)
    seeded: dict[str, Any] = {"random_state": task.seed, **({"posterior": False} if task.objective == "nll" else {})}
    defaults = {name: value for name, value in seeded.items() if name in cls.parameter_defaults()}
    split = None
    if task.objective == "poisson_loss":
        split = make_split("thin", task.data, rng=np.random.default_rng(task.seed), fraction=HELD_OUT)

    def objective(trial: Any) -> float:
        trial.set_user_attr(PROCESS, [socket.gethostname(), process])
        estimator: Imputer = cls(**{**defaults, **task.params, **_suggested(trial, task.space)})

        def watch(epoch: int, loss: float) -> bool:
            trial.report(loss, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
            return False

        if hasattr(estimator, "on_epoch"):
            estimator.on_epoch = watch
        value: float | None
        try:
            if split is None:
                value = estimator.fit_transform(task.data).status.details.get("nll_validation")
            else:
                loss = score_thinned(estimator.fit_transform(split.train), split, metrics=["poisson_loss"])
                value = loss["poisson_loss"]
        except optuna.TrialPruned:
            raise
        except Exception as error:  # some parameters may not fit together: the study continues, and reports it
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
            raise _TrialFailed from error
        if value is None:
            text = f"{task.method} reports no validation likelihood"
            if task.data.kind == "counts":
                text += ": pass {objective}"
                raise InputError(text, code="objective-not-reported", objective="poisson_loss")
            text += ", and other objectives are for counts: compare values of its parameters in an evaluation instead"
            raise InputError(text, code="objective-not-reported", parameter="objective")
        if not math.isfinite(value):
            trial.set_user_attr("reason", f"the objective is {value}")
            raise _TrialFailed
        return value

    return objective


def _suggested(trial: Any, space: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    values = {}
    for name, spec in space.items():
        if _is_range(spec):
            low, high, kind = spec
            suggest = trial.suggest_int if isinstance(low, int) and isinstance(high, int) else trial.suggest_float
            values[name] = suggest(name, low, high, log=kind == "log")
        else:
            values[name] = _choices(spec)[trial.suggest_categorical(name, list(_choices(spec)))]
    return values


def _is_range(spec: tuple[Any, ...]) -> bool:
    return len(spec) == 3 and spec[2] in ("log", "linear")


def _choices(spec: tuple[Any, ...]) -> dict[Any, Any]:
    """Label -> choice: a database holds plain values only."""
    return {part if isinstance(part, str | int | float | None) else json.dumps(part): part for part in spec}


# -- the study in its file ---------------------------------------------------------------------------------------------
def storage_path(storage: str | Path) -> Path:
    """The SQLite file of a study, which need not exist, checked before any computation; ``sqlite:///`` is allowed."""
    text = str(storage).removeprefix("sqlite:///")
    if "://" in text:
        raise InputError(
            f"{storage} is not an SQLite file: give a path", code="storage-not-sqlite", parameter="storage"
        )
    path = Path(os.path.realpath(text))
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{text} cannot be created: choose a file in a folder with write permission",
            code="storage-not-writable",
            parameter="storage",
        )
    if not path.exists():
        return path
    wrong = f"{text} exists and is not an SQLite file: pass another {{storage}}"
    if not path.is_file():  # a pipe or a device
        raise InputError(wrong, code="storage-not-sqlite", storage=...)
    try:
        # another call may be making it at this moment
        with locked(path), closing(sqlite3.connect(path)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise InputError(wrong, code="storage-not-sqlite", storage=...) from error
    if tables and "studies" not in tables:
        raise InputError(
            f"{text} is not a database of Optuna: pass another {{storage}}", code="storage-not-optuna", storage=...
        )
    return path


def _open_study(task: _Task, process: str = "", worker: int = 0) -> Any:
    """The Optuna study in the file of a task, created if there is none; trials of dead processes are marked as failed.

    ``process`` is the name that `_at_work` gave.
    """
    try:
        with locked(task.storage):  # two calls may begin with one new file
            return _opened_study(task, process, worker)
    except InputError:
        raise
    except Exception as error:  # of Optuna, or of SQLAlchemy, which is not our dependency
        raise _unusable(task.storage, error) from error


def _opened_study(task: _Task, process: str, worker: int) -> Any:
    import optuna

    storage = optuna.storages.RDBStorage(
        f"sqlite:///{task.storage}",
        engine_kwargs={"connect_args": {"timeout": 60}},
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
    )
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, load_if_exists=True)
    others = _processes(task.storage) - {process}
    _fail_the_dead(study, others)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER_TRIALS, n_warmup_steps=PRUNE_AFTER_EPOCHS)
    # a study that continues must not draw again what it drew first
    drawn = len(study.get_trials(deepcopy=False))
    seed = seed_for("tune", worker, drawn, base=task.seed) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    identity = json.loads(json.dumps(_identity(task)))
    stored = study.user_attrs.get("imputome")
    running = any(trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False))
    if stored is None or not (_finished(study) or running or others):
        study.set_user_attr("imputome", identity)
        return study
    for what, value in identity.items():
        if stored.get(what) != value:
            other = "" if what == "input" else f", {stored.get(what)!r} instead of {value!r}"
            text = f"{task.storage} has another {what}{other}: pass another {{storage}}, or the same {what}"
            raise InputError(text, code="study-differs", storage=...)
    return study


def _fail_the_dead(study: Any, others: set[str]) -> None:
    """Mark the trials whose process has died as failed; ``others`` are alive.

    Without a reason a failed trial does not count, see `_finished`.
    """
    import optuna

    optuna.storages.fail_stale_trials(study)  # on other machines, and where there are no locks
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        host, process = trial.user_attrs.get(PROCESS, (socket.gethostname(), None))
        dead = not others if process is None else process not in others
        if host == socket.gethostname() and dead:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                study._storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.FAIL)


@contextmanager
def _at_work(storage: Path) -> Iterator[str]:
    """Hold a lock that tells others that this process works on a study; gives its name, as in `_processes`."""
    process = f"{os.getpid()}-{secrets.token_hex(4)}"
    with locked(storage.with_name(f"{storage.name}.{process}")):
        yield process


def _processes(storage: Path) -> set[str]:
    """The processes that work on a study now, on this machine or on one that shares its locks."""
    pattern = re.compile(rf"\.{re.escape(storage.name)}\.(\d+-[0-9a-f]+)\.lock")
    names = [match[1] for entry in storage.parent.iterdir() if (match := pattern.fullmatch(entry.name))]
    return {name for name in names if is_locked(storage.with_name(f"{storage.name}.{name}"))}


@contextmanager
def _storage_errors(storage: Path) -> Iterator[None]:
    """Errors of the database become one of this package."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("optuna", "sqlalchemy", "sqlite3"):
            raise
        raise _unusable(storage, error) from error


def _unusable(storage: Path, error: Exception) -> InputError:
    reason = printable((str(error).strip() or type(error).__name__).splitlines()[0], 200)
    text = f"the study in {storage} cannot be used ({reason}): move the file away, or pass another {{storage}}"
    return InputError(text, code="storage-unreadable", storage=...)


def _identity(task: _Task) -> dict[str, Any]:
    """What all trials of a study have in common, by its name in messages."""
    return {
        "method": task.method,
        "objective": task.objective,
        "seed": task.seed,
        "fixed parameters": task.params,
        "search space": task.space,
        "input": digest(task.data),
    }


def _finished(study: Any) -> list[Any]:
    """The trials that count. A failed trial without a reason was interrupted, or its process died."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and "reason" in trial.user_attrs)
    ]


def _report(progress: Progress | None, study: Any, trials: int) -> None:
    if progress is None:
        return
    finished = _finished(study)
    values = [trial.value for trial in finished if trial.state.name == "COMPLETE"]
    best = f", best {min(values):.6g}" if values else ""
    progress(min(1.0, len(finished) / trials), f"{len(finished)} of {trials} trials{best}")


def _result(task: _Task, study: Any) -> Tuned:
    trials = _finished(study)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    if not complete:
        reason = f"the last failed with {failed[-1].user_attrs['reason']}" if failed else "there was no time for one"
        raise InputError(f"no trial of {task.method} succeeded: {reason}", code="no-trial-succeeded")
    best = min(complete, key=lambda trial: trial.value)
    tuned = {
        name: best.params[name] if _is_range(spec) else _choices(spec)[best.params[name]]
        for name, spec in task.space.items()
    }
    pruned = len(trials) - len(complete) - len(failed)
    return Tuned(task.method, {**task.params, **tuned}, float(best.value), len(trials), pruned, len(failed))
