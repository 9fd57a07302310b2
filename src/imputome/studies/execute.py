"""Running a whole study, and writing its results: an interrupted one continues, and nothing is run twice."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imputome.core.atomic import recover
from imputome.core.workers import check_installed
from imputome.errors import InputError, Message
from imputome.result.run import Progress
from imputome.studies.cluster import run_on_workers
from imputome.studies.inputs import Dataset, MethodSpec, lacking
from imputome.studies.panels import Drawing, Panel, drawings, panels_left, panels_of
from imputome.studies.results import COLUMNS, RESULTS, check_path, key_of, read, stored_rows, table_of
from imputome.studies.runner import Tables
from imputome.studies.spec import Study
from imputome.studies.subsets import Loader, digest_of, labels_of, subset_of, tables_of, whole_of
from imputome.studies.units import (
    PARTS_FOLDER,
    Limits,
    Task,
    Unit,
    check_registered,
    is_done,
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
    the study took when it was measured; NaN if neither is known. Panels of pictures are made after the units, and count
    as the fit of one.
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
    panels: tuple[Panel, ...] = ()  # of pictures, all
    panels_left: tuple[Panel, ...] = ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All that the study runs."""
        return (*self.units, *self.panels)

    @property
    def tasks_left(self) -> tuple[Task, ...]:
        """What is left of it, in the order in which it is begun."""
        return (*self.left, *self.panels_left)


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
    labels: dict[tuple[str, str], np.ndarray] = {}  # label of a data set, column of obs -> labels of its cells
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
        dataset = subset_of(whole, subset, seed=study.seed)
        datasets[subset.label] = dataset, digest_of(whole)
        for column in {picture.labels for picture in study.pictures if picture.takes(subset.name)}:
            labels[subset.label, column] = labels_of(whole, dataset, subset, column)
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
    panels = panels_of(study, datasets, labels)
    undrawn = [panel for panel in panels_left(study, panels, folder) if panel.spec is None or not lacking(panel.spec)]
    first = [unit.specs[0].label for unit in left]
    seconds = _seconds(study, len(units), [*first, *(panel.spec.label for panel in undrawn if panel.spec)], done)
    common: dict[str, Any] = {"datasets": datasets, "tables": tables, "missing": missing, "seconds": seconds}
    common["absent"] = tuple(absent.values())
    return Plan(study, folder, tuple(units), tuple(left), panels=tuple(panels), panels_left=tuple(undrawn), **common)


def _seconds(study: Study, units: int, left: Sequence[str], done: list[pd.DataFrame]) -> float:
    """Processor time of what is left: for the method of each, the mean of its units, else that of all."""
    if not left:
        return 0.0
    if not done:
        return 60 * study.minutes * len(left) / units if study.minutes else float("nan")
    table = pd.concat(done)
    each = table.drop_duplicates(["dataset", "method", "parameters", "scheme", "trial"])
    by_method = each.groupby("method")["seconds"].mean()
    return float(sum(by_method.get(method, each["seconds"].mean()) for method in left))


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
        for task in todo.tasks:
            recover(task.file(study, folder))
    report = _reporter(todo, progress)

    def store(task: Task, rows: list[dict[str, Any]]) -> None:
        task.write(study, folder, rows)
        report(task)

    left = todo.tasks_left
    if alone:
        for task in left:
            store(task, task.run(study, todo.datasets[task.subset.label][0], todo.tables))
    elif left:
        most = min(workers, len(left))
        run_on_workers(
            study,
            left,
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


def drawn(todo: Plan) -> list[Drawing]:
    """The pictures of a plan of which something is made."""
    return drawings(todo.study, todo.panels, todo.folder)


def _reporter(todo: Plan, progress: Progress | None) -> Callable[[Task], None]:
    """What is called with each task that is done."""
    begun = time.monotonic()
    number = len(todo.tasks)
    before = ended = number - len(todo.tasks_left)
    if progress is not None:
        progress(before / max(number, 1), f"{before} of {number} runs")

    def report(task: Task) -> None:
        nonlocal ended
        ended += 1
        if progress is not None:
            each = (time.monotonic() - begun) / (ended - before)
            text = f"{ended} of {number} runs, about {each * (number - ended):.0f} s left"
            progress(ended / number, f"{text}: {task.name()}")

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
