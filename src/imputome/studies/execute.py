"""Running a whole study, and writing its results: an interrupted one continues, and nothing is run twice."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from imputome.core.atomic import recover
from imputome.errors import InputError, Message
from imputome.result.run import Progress
from imputome.studies.cluster import check_installed, run_on_workers
from imputome.studies.inputs import Dataset, MethodSpec, lacking
from imputome.studies.results import COLUMNS, RESULTS, check_path, key_of, read, stored_rows, table_of, write
from imputome.studies.runner import Tables
from imputome.studies.spec import Study
from imputome.studies.subsets import Loader, digest_of, subset_of, tables_of, whole_of
from imputome.studies.units import (
    PARTS_FOLDER,
    Limits,
    Unit,
    check_registered,
    is_done,
    run_unit,
    skipped,
    stored,
    units_of,
)

# what is written beside the results
BESIDE = ("summary.csv", "claims.csv", "tests.csv", "searches.csv", "{}.md", "{}.html")
NO_LIMITS = Limits()


@dataclass(frozen=True)
class Plan:
    """What is left to run of a study.

    ``seconds`` is an estimate of the processor time that the units left take, from those that are done, or from what
    the study took when it was measured; NaN if neither is known.
    """

    study: Study
    folder: Path
    units: tuple[Unit, ...]  # all that are done or can be run
    left: tuple[Unit, ...]
    datasets: dict[str, tuple[Dataset, str]]  # label -> data set, and digest of what it was taken from
    tables: Tables
    missing: dict[str, str]  # label of a data set that is not there -> what to get
    absent: tuple[MethodSpec, ...]  # methods whose optional dependency is not installed, and that are not done
    seconds: float


def plan(study: Study, folder: str | Path, *, load: Loader, limits: Limits = NO_LIMITS) -> Plan:
    """Read the data, and find what is left to run; nothing is written.

    Raises
    ------
    InputError
        None of the data sets is there, or what a study would replace in ``folder`` was not written by one.
    """
    folder = Path(folder)
    _check_folder(study, folder)
    datasets: dict[str, tuple[Dataset, str]] = {}
    missing: dict[str, str] = {}
    errors: list[InputError] = []
    for subset in study.datasets:
        try:
            whole = whole_of(subset, load)
        except InputError as error:
            if error.code != "dataset-missing":
                raise
            errors.append(error)
            missing[subset.label] = str(error)
            continue
        datasets[subset.label] = subset_of(whole, subset, seed=study.seed), digest_of(whole)
    if not datasets:
        raise errors[0]
    tables = tables_of(study, load)
    units, left, done = [], [], []
    absent: dict[tuple[str, str], MethodSpec] = {}
    for unit in units_of(study, datasets):
        rows = stored(study, unit, folder, tables)
        if is_done(unit, rows, limits):
            done.append(rows)
        elif lacking(unit.specs[0]):
            absent[unit.specs[0].label, unit.specs[0].parameters] = unit.specs[0]
            continue
        else:
            left.append(unit)
        units.append(unit)
    seconds = _seconds(study, len(units), left, done)
    missing_methods = tuple(absent.values())
    return Plan(study, folder, tuple(units), tuple(left), datasets, tables, missing, missing_methods, seconds)


def _seconds(study: Study, units: int, left: Sequence[Unit], done: list[pd.DataFrame]) -> float:
    """Processor time of the units left: of each, the mean of those of its method, else that of all."""
    if not left:
        return 0.0
    if not done:
        return 60 * study.minutes * len(left) / units if study.minutes else float("nan")
    table = pd.concat(done)
    each = table.drop_duplicates(["dataset", "method", "parameters", "scheme", "trial"])
    by_method = each.groupby("method")["seconds"].mean()
    return float(sum(by_method.get(unit.specs[0].label, each["seconds"].mean()) for unit in left))


def execute(
    study: Study,
    folder: str | Path,
    *,
    load: Loader,
    workers: int = 0,
    scheduler: str = "",
    limits: Limits = NO_LIMITS,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Run what is not yet done of a study, and collect its rows: those of `run_study` with details.

    Parameters
    ----------
    study : Study
        As `imputome.studies.spec.find_study` gives it.
    folder : str or Path
        For the files of the units, each written when it is done; it is created if it does not exist.
    load : callable
        Gives a data set for its name, as `imputome.datasets.load`; other processes call it too.
    workers : int, default=0
        Number of processes of this machine, each with one thread: networks of this size are not faster with more. With
        0 everything runs in this process.
    scheduler : str, default=""
        Address of a dask scheduler whose workers are used instead.
    limits : Limits, optional
        Time and memory of a unit; they need ``workers`` or ``scheduler``.
    progress : callable, optional
        Called with the share of units that are done, and a short text.

    Returns
    -------
    DataFrame
        One row per score, with the columns `imputome.studies.results.COLUMNS`. A unit that took more than its limits
        has the status ``"stopped"``; what is not there to be run has ``"skipped"``.

    Raises
    ------
    InputError
        None of the data sets is there, a method is not registered, or a worker failed.
    """
    return run_plan(
        plan(study, folder, load=load, limits=limits),
        load=load,
        workers=workers,
        scheduler=scheduler,
        limits=limits,
        progress=progress,
    )


def run_plan(
    todo: Plan,
    *,
    load: Loader,
    workers: int = 0,
    scheduler: str = "",
    limits: Limits = NO_LIMITS,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Run what a plan has left; see `execute`."""
    study, folder = todo.study, todo.folder
    alone = not workers and not scheduler
    if alone and limits != NO_LIMITS:
        raise InputError(
            "a run can be stopped only in a process of its own: pass {workers}", code="limits-need-workers", workers=1
        )
    if not alone:
        check_registered(study)
        check_installed()
    try:
        (folder / PARTS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be created: {error}", code="folder-not-writable", parameter="output"
        ) from error
    check_path(folder / RESULTS)
    stored_rows(folder / RESULTS)  # refuses a damaged table now
    if any((folder / PARTS_FOLDER).glob(".*.partial")):  # of a run that was killed as it ended
        for unit in todo.units:
            recover(unit.file(study, folder))
    report = _reporter(todo, progress)

    def store(unit: Unit, rows: list[dict[str, Any]]) -> None:
        path = unit.file(study, folder)
        new = {key_of(row) for row in rows}
        others = [row for row in stored_rows(path) if row["status"] == "ok" and key_of(row) not in new]
        write(table_of([*others, *rows]), path)  # others: of splits that an earlier version of the study had
        report(unit)

    if alone:
        for unit in todo.left:
            store(unit, run_unit(study, unit, todo.datasets[unit.subset.label][0], todo.tables))
    elif todo.left:
        most = min(workers, len(todo.left))
        run_on_workers(
            study,
            todo.left,
            load=load,
            tables=todo.tables,
            workers=most,
            scheduler=scheduler,
            limits=limits,
            store=store,
        )
    return collected(todo)


def collected(todo: Plan) -> pd.DataFrame:
    """All stored rows of the units of a plan, and rows that say what was skipped."""
    parts = [stored(todo.study, unit, todo.folder, todo.tables) for unit in todo.units]
    parts.append(table_of(skipped(todo.study, todo.missing, todo.absent)))
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)] if parts else table_of([])


def _reporter(todo: Plan, progress: Progress | None) -> Callable[[Unit], None]:
    """What is called with each unit that is done."""
    begun = time.monotonic()
    before = ended = len(todo.units) - len(todo.left)
    if progress is not None:
        progress(before / max(len(todo.units), 1), f"{before} of {len(todo.units)} runs")

    def report(unit: Unit) -> None:
        nonlocal ended
        ended += 1
        if progress is not None:
            each = (time.monotonic() - begun) / (ended - before)
            text = f"{ended} of {len(todo.units)} runs, about {each * (len(todo.units) - ended):.0f} s left"
            progress(ended / len(todo.units), f"{text}: {unit.name()}")

    return report


def _check_folder(study: Study, folder: Path) -> None:
    """Check that a study replaces no file of somebody else."""
    of_studies = (folder / PARTS_FOLDER).is_dir()
    for path in (folder / name.format(study.name) for name in BESIDE):
        if path.exists() and not (of_studies and path.is_file()):
            text = f"{path} was not written by a study, which would replace it: pass another {{output}}"
            raise InputError(text, code="not-a-study-folder", output=...)


def with_others(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """A table, and the stored rows that are of no study in this folder; a warning tells how many are left out."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return key_of({**row, "scheme": ""})  # in the files of the units it has no name; options and seed tell it

    known = {key(row) for row in table.to_dict("records")}
    rows = [row for row in stored_rows(folder / RESULTS) if row["status"] != "skipped" and key(row) not in known]
    if rows:
        for path in (folder / PARTS_FOLDER).glob("*.csv"):
            with suppress(InputError):  # it is damaged, and of no unit of this run
                known |= {key(row) for row in read(path).to_dict("records")}
    others = [row for row in rows if key(row) not in known]
    if len(others) < len(rows):
        text = f"{folder / RESULTS} held {len(rows) - len(others):,} rows that this run does not ask for: they stay in "
        warnings.warn(Message(f"{text}{folder / PARTS_FOLDER}", code="rows-left-out"), stacklevel=3)
    return pd.concat([table, table_of(others)], ignore_index=True) if others else table
