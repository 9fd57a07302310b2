"""Parameters found by trial: Optuna over a method's own search space, on one input, resumable, in several processes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from imputome.core.data import Data
from imputome.core.imputer import Imputer, check_parameters
from imputome.errors import ImputomeError, InputError
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_thinned
from imputome.methods import get, info
from imputome.studies.study_file import (
    is_finished,
    numbers,
    one_at_a_time,
    open_study,
    optuna_or_advice,
    quiet,
    storage_path,
)
from imputome.studies.workers import POLL, supervise

Objective = Literal["nll", "poisson_loss"]
Progress = Callable[[float, str], None]

HELD_OUT = 0.1  # share of the molecules that "poisson_loss" is taken on


@dataclass(frozen=True)
class Tuned:
    """What came of a study.

    Attributes
    ----------
    method, params : the best parameters found, those that were fixed included.
    value : their objective.
    finished, pruned, failed : how many trials were finished, and of them stopped early or ended by an error.
    """

    method: str
    params: dict[str, Any]
    value: float
    finished: int
    pruned: int
    failed: int


@dataclass(frozen=True)
class _Task:
    """All that a process needs to take part."""

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

    Parameters
    ----------
    data : what to fit.
    trials : how many trials the study has when it is done, those of earlier calls and other processes included.
        Trials that were pruned, or ended by an error of the method, count; those of processes that died do not.
    storage : SQLite file of the study; an existing study goes on if it is of the same input, method, objective, seed
        and fixed parameters. Several processes, also of different calls, can work on one file.
    objective : ``"nll"``, the negative log-likelihood per validation cell that the deep methods for counts report, or
        ``"poisson_loss"``, the loss per held-out molecule after thinning (10 % held out), for any method for counts.
    params : parameters that stay fixed; one that is in the search space is taken out of it.
    workers : processes to start, each with its own copy of the data and its share of the cores.
    timeout : seconds after which no further trial is begun.

    Unpromising trials of methods that report a validation loss per epoch are pruned by the median rule. Sampler: TPE.
    With ``"nll"`` the posterior step, which does not change it, is left out while tuning.

    Raises
    ------
    InputError
        The file is no SQLite file or holds another study; the method has no search space or does not report the
        objective; no trial came to an end.
    MissingExtraError
        Optuna, or what the method needs, is not installed.
    """
    optuna = optuna_or_advice()
    path = storage_path(storage)
    fixed = dict(params or {})
    _check(data, method, trials, objective, fixed, workers, timeout)
    task = _Task(
        data=data,
        method=method,
        trials=trials,
        storage=path,
        objective=objective,
        params=fixed,
        seed=seed,
        deadline=math.inf if timeout is None else time.time() + timeout,
    )
    with quiet(optuna):
        study = _study(task)
        if workers == 1:
            _work(task, progress=progress)
        else:
            _supervise(task, study, workers, progress)
        return _outcome(task, study)


def _check(
    data: Data,
    method: str,
    trials: int,
    objective: str,
    params: dict[str, Any],
    workers: int,
    timeout: float | None,
) -> None:
    if objective not in get_args(Objective):
        raise InputError(f"objective={objective!r} is not one of {', '.join(get_args(Objective))}")
    if trials < 1 or workers < 1 or (timeout is not None and timeout <= 0):
        raise InputError(f"trials={trials} and workers={workers} must be at least 1, and a timeout positive")
    if data.kind not in info(method).kinds:
        raise InputError(f"{method} does not take {data.kind} data: `imputome methods` lists what takes which")
    if objective == "poisson_loss" and data.kind != "counts":
        raise InputError("objective='poisson_loss' holds molecules out, and these are real values")
    cls = get(method)
    if not cls.search_space:
        raise InputError(f"{method} declares no search space, so there is nothing to tune: set its parameters by hand")
    check_parameters(cls, params)
    if not set(cls.search_space) - set(params):
        raise InputError(f"all that could be tuned is fixed: leave one of {', '.join(cls.search_space)} out")


# -- one process -------------------------------------------------------------------------------------------------------
def _work(task: _Task, *, worker: int = 0, progress: Progress | None = None) -> None:
    """Run trials until the study has as many as were asked for, or time is up."""
    import optuna

    study = _study(task, worker)
    objective = _objective(task)
    while time.time() < task.deadline:
        # two that counted at the same time would both begin the last trial
        with one_at_a_time(task.storage) as let_next:
            finished, running = numbers(study)
            _tell(progress, study, finished, task.trials)
            if finished + running < task.trials:

                def begun(trial: Any, let_next: Callable[[], None] = let_next) -> float:
                    let_next()  # this trial is in the study now
                    return objective(trial)

                study.optimize(begun, n_trials=1, catch=(_TrialFailed,))
                continue
        if finished >= task.trials:
            return
        optuna.storages.fail_stale_trials(study)  # others are at the last ones; should they die, it is up to us
        time.sleep(POLL)


def _objective(task: _Task) -> Callable[[Any], float]:
    import optuna

    cls = get(task.method)
    allowed = cls.parameter_defaults()
    own: dict[str, Any] = {"random_state": task.seed, "posterior": False} if task.objective == "nll" else {}
    own = {name: value for name, value in {"random_state": task.seed, **own}.items() if name in allowed}
    split = None
    if task.objective == "poisson_loss":
        split = make_split("thin", task.data, rng=np.random.default_rng(task.seed), fraction=HELD_OUT)

    def objective(trial: Any) -> float:
        estimator: Imputer = cls(**{**own, **task.params, **_suggested(trial, task.space)})

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
                value = score_thinned(estimator.fit_transform(split.train), split, metrics=["poisson_loss"])[
                    "poisson_loss"
                ]
        except optuna.TrialPruned:
            raise
        except Exception as error:  # some parameters may not go together: the study goes on, and says so
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
            raise _TrialFailed from error
        if value is None:
            raise InputError(f"{task.method} reports no validation likelihood: use --objective poisson_loss")
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
            whole = isinstance(low, int) and isinstance(high, int)
            suggest = trial.suggest_int if whole else trial.suggest_float
            values[name] = suggest(name, low, high, log=kind == "log")
        else:
            values[name] = _choices(spec)[trial.suggest_categorical(name, list(_choices(spec)))]
    return values


def _is_range(spec: tuple[Any, ...]) -> bool:
    return len(spec) == 3 and spec[2] in ("log", "linear")


def _choices(spec: tuple[Any, ...]) -> dict[Any, Any]:
    """Label -> choice: a database holds plain values only."""
    return {part if isinstance(part, str | int | float | None) else json.dumps(part): part for part in spec}


# -- the study ---------------------------------------------------------------------------------------------------------
def _study(task: _Task, worker: int = 0) -> Any:
    return open_study(task.storage, _identity(task), seed=task.seed, worker=worker)


def _identity(task: _Task) -> dict[str, Any]:
    """What the trials of one study have in common."""
    X = task.data.X
    digest = hashlib.blake2b(digest_size=16)
    for part in (X,) if isinstance(X, np.ndarray) else (X.indptr, X.indices, X.data):
        digest.update(np.ascontiguousarray(part).data)
    digest.update("\0".join([*task.data.obs_names, "", *task.data.var_names]).encode())
    return {
        "method": task.method,
        "objective": task.objective,
        "seed": task.seed,
        "fixed parameters": task.params,
        "search space": task.space,
        "input": digest.hexdigest(),
    }


def _tell(progress: Progress | None, study: Any, finished: int, trials: int) -> None:
    if progress is None:
        return
    values = [trial.value for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    best = f", best {min(values):.6g}" if values else ""
    progress(min(1.0, finished / trials), f"{finished} of {trials} trials{best}")


def _outcome(task: _Task, study: Any) -> Tuned:
    trials = [trial for trial in study.get_trials(deepcopy=False) if is_finished(trial)]
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    if not complete:
        reason = f"the last failed with {failed[-1].user_attrs['reason']}" if failed else "there was no time for one"
        raise InputError(f"no trial of {task.method} came to an end: {reason}")
    best = min(complete, key=lambda trial: trial.value)
    found = {
        name: best.params[name] if _is_range(spec) else _choices(spec)[best.params[name]]
        for name, spec in task.space.items()
    }
    pruned = len(trials) - len(complete) - len(failed)
    return Tuned(task.method, {**task.params, **found}, float(best.value), len(trials), pruned, len(failed))


# -- several processes -------------------------------------------------------------------------------------------------
def _supervise(task: _Task, study: Any, workers: int, progress: Progress | None) -> None:
    """Start processes that work on the study, and wait for them; none outlives this one."""
    supervise(
        _worker,
        [(task, number) for number in range(workers)],
        threads=max(1, (os.cpu_count() or 1) // workers),
        tell=lambda: _tell(progress, study, numbers(study)[0], task.trials),
    )
    if numbers(study)[0] < task.trials and time.time() < task.deadline:
        raise InputError("all workers ended before the study was done: run the same command again to go on")


def _worker(task: _Task, number: int, parent: int, errors: Any) -> None:
    optuna = optuna_or_advice()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        with quiet(optuna):
            _work(task, worker=number)
    except ImputomeError as error:
        errors.put(str(error))
    except KeyboardInterrupt:  # the parent says so
        return


def _end_with(parent: int) -> None:
    """End this process, in the middle of a trial too, when the parent was killed and could not see to it."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(1)
