"""The SQLite file that Optuna keeps a study in: opened, refused if it is another's, and how far it is.

A trial whose process died gives no sign of life, is given up after a while and not counted. Optuna is imported on first
use: it is an optional dependency.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from imputome.errors import InputError, missing_extra
from imputome.evaluation.splits import seed_for

STUDY = "imputome"
HEARTBEAT, GRACE = 10, 60  # seconds between a trial's signs of life, and until it is given up without one
# the median rule begins when there is something to compare with, after the noisy first epochs
PRUNE_AFTER_TRIALS, PRUNE_AFTER_EPOCHS = 5, 10


def optuna_or_advice() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("tuning", "optuna", "tune") from error
    return optuna


@contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's own lines for each trial."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def storage_path(storage: str | Path) -> Path:
    """The file of a study, if it is one or can become one."""
    text = str(storage).removeprefix("sqlite:///")
    if "://" in text:
        raise InputError(f"the storage {storage} is no SQLite file, and studies are kept in nothing else: give a path")
    path = Path(text).absolute()
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"no study can be kept in {text}: give a file in a folder that exists and can be written to")
    if not path.exists() or path.stat().st_size == 0:
        return path
    try:
        with closing(sqlite3.connect(path)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise InputError(f"{text} exists and is no SQLite file: give another --storage") from error
    if tables and "studies" not in tables:
        raise InputError(f"{text} is a database of something else than Optuna: give another --storage")
    return path


def open_study(path: Path, identity: dict[str, Any], *, seed: int, worker: int = 0) -> Any:
    """The Optuna study in a file, made if there is none, refused if it is of something else.

    Parameters
    ----------
    identity : what the trials of the study have in common, by a name for messages; plain values.
    seed, worker : of the sampler, with the number of trials there are.
    """
    import optuna

    try:
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{path}",
            engine_kwargs={"connect_args": {"timeout": 60}},
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
        )
        study = optuna.create_study(
            study_name=STUDY,
            storage=storage,
            direction="minimize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER_TRIALS, n_warmup_steps=PRUNE_AFTER_EPOCHS),
        )
    except Exception as error:  # of SQLAlchemy, which is no dependency of ours, and of Optuna
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the study in {path} cannot be opened: {reason}") from error
    # a study that goes on must not draw again what it drew first
    begun = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(
        seed=seed_for("tune", worker, begun, base=seed) % 2**32, constant_liar=True
    )
    identity = json.loads(json.dumps(identity))
    known = study.user_attrs.get("imputome")
    if known is None or numbers(study) == (0, 0):  # nothing has come of it yet
        study.set_user_attr("imputome", identity)
        return study
    for what, value in identity.items():
        if known.get(what) != value:
            there = "another one" if what == "input" else f"{known.get(what)!r}, not {value!r}"
            raise InputError(
                f"{path} holds a study of a different {what} ({there}): give another --storage, or the same "
                f"{what} as then"
            )
    return study


@contextmanager
def one_at_a_time(path: Path) -> Iterator[Callable[[], None]]:
    """Let one process of this machine at a time work on a study, until it calls what it is given, or leaves."""
    import fcntl

    digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
    # a file of its own, as closing the study's here would take SQLite's locks from it
    with (Path(tempfile.gettempdir()) / f"imputome-{os.getuid()}-{digest}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(handle, fcntl.LOCK_UN)


def numbers(study: Any) -> tuple[int, int]:
    """Trials that are finished, and that are running."""
    trials = study.get_trials(deepcopy=False)
    return sum(map(is_finished, trials)), sum(trial.state.name == "RUNNING" for trial in trials)


def is_finished(trial: Any) -> bool:
    # a failed trial without a reason is one whose process died or was interrupted
    return trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and "reason" in trial.user_attrs)
