"""Running a study from a file: in units that can be interrupted, by one or several processes.

A unit is one trial of one way of hiding values on one dataset, with all methods; of all ways where they share their
fits (`imputome.studies.trial`). Each keeps its rows in a file of its own, so processes share nothing but a folder, and
a study that was killed or changed goes on from what is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imputome.core.atomic import atomic_path
from imputome.errors import ImputomeError, InputError
from imputome.studies.claims import claims_markdown, comparisons_markdown, judge, wilcoxon_tests
from imputome.studies.results import COLUMNS, read, table_of, write
from imputome.studies.runner import Dataset, MethodSpec, Progress, run_study
from imputome.studies.study import Hiding, Study, Subset, told
from imputome.studies.subset import Loader, load_subset
from imputome.studies.summary import by_configuration, markdown, published_markdown
from imputome.studies.trial import Tables, options_of, read_gc, run_trial
from imputome.studies.workers import supervise

if TYPE_CHECKING:
    import pandas as pd

PARTS = "parts"  # folder of the units' files


@dataclass(frozen=True)
class Unit:
    """One trial of one dataset, under one split or all."""

    subset: Subset
    splits: tuple[Hiding, ...]
    trial: int

    def path(self, study: Study, folder: Path) -> Path:
        """Its file. What decides what its rows mean is in the name, beside what the rows tell themselves."""
        known: list[Any] = [told(self.subset), study.seed]
        words = f"{self.subset.name} {self.trial}"
        if not study.together:
            split = self.splits[0]
            known.append(told(split))
            known += [[name, spec.after] for name, spec in sorted(study.specs(split).items()) if spec.after]
            words = f"{self.subset.name} {split.label} {self.trial}"
        digest = hashlib.blake2b(json.dumps(known).encode(), digest_size=5).hexdigest()
        return folder / PARTS / f"{re.sub(r'[^A-Za-z0-9]+', '_', words)}_{digest}.csv"


def execute(
    study: Study, folder: str | Path, *, load: Loader, workers: int = 1, progress: Progress | None = None
) -> pd.DataFrame:
    """Run what is still to do of a study, and gather its rows.

    Parameters
    ----------
    folder : made if need be; the units' files are kept in it.
    load : from a dataset's name to an AnnData; with several workers a function of a module.
    workers : processes, each with its own copy of the data and, if there are several, one thread: networks of this size
        gain nothing from more.

    Returns
    -------
    The rows of `imputome.studies.runner.run_study`, those of this study only: all of ``status.details`` among them.

    Raises
    ------
    InputError
        A dataset cannot be had, the folder cannot be written to, or a worker died.
    """
    import pandas as pd

    folder = Path(folder)
    if workers < 1:
        raise InputError(f"workers={workers} must be at least 1")
    try:
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error}") from error
    tables = _tables(study, load)
    for subset in study.datasets:
        load(subset.name)  # one that is not on this machine is told of now, not after an hour
    units = _units(study)
    if workers == 1:
        _work(study, folder, load, units, progress=progress)
    else:
        _supervise(study, folder, load, units, workers, progress)
    parts = [_own_rows(study, unit, read(unit.path(study, folder)), tables) for unit in units]
    parts.append(table_of(_skipped(study)))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)[list(COLUMNS)]


def _units(study: Study) -> list[Unit]:
    groups = [
        (subset, splits)
        for subset in study.datasets
        for splits in ([study.splits_of(subset)] if study.together else [(split,) for split in study.splits])
        if splits
    ]
    return [Unit(subset, splits, trial) for subset, splits in groups for trial in range(study.trials)]


def _tables(study: Study, load: Loader) -> Tables:
    """What the schemes need beside the data, read before any work."""
    coverage = {}
    for name in {split.coverage for subset in study.datasets for split in study.splits_of(subset) if split.coverage}:
        table = load(name)
        columns = [column for column in getattr(table, "columns", ()) if str(column).startswith("Cov.")]
        if not columns:
            raise InputError(f"{name} has no coverages, columns whose names begin with Cov.: give another dataset")
        coverage[name] = table[columns].to_numpy()
    return Tables(read_gc(study.gc) if study.gc else {}, coverage)


def _own_rows(study: Study, unit: Unit, rows: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Without those of configurations and splits that the study no longer has."""
    wanted = study.names_of_rows(unit.splits[0])
    keys = zip(rows["method"], rows["parameters"], strict=True)
    rows = rows[[key in wanted for key in keys]]
    if not study.together:
        return rows.assign(scheme=unit.splits[0].label)
    known = {(split.label, options_of(split, tables)) for split in unit.splits}
    return rows[[key in known for key in zip(rows["scheme"], rows["options"], strict=True)]]


def _skipped(study: Study) -> Iterator[dict[str, Any]]:
    """A row, with the reason, for a split that lacks what it needs."""
    for subset in study.datasets:
        for split in study.splits:
            if study.lacking(split) and (not split.datasets or subset.name in split.datasets):
                key = {"dataset": subset.label, "method": "every method", "parameters": "{}", "scheme": split.label}
                yield {**key, "trial": 0, "seed": 0, "metric": "", "status": "skipped", "reason": study.lacking(split)}


def write_results(study: Study, table: pd.DataFrame, folder: Path) -> tuple[list[Path], str]:
    """Write all rows, the summary by configuration, the verdicts on claims, tests if there are any, and all for people.

    Returns
    -------
    The files, and the text of the last.
    """
    verdicts = judge(study, table)
    tests = wilcoxon_tests(study, table)
    sections = [markdown(study, table), published_markdown(study, table)]
    sections += [comparisons_markdown(tests) if len(tests) else "", claims_markdown(verdicts) if len(verdicts) else ""]
    text = "\n".join(section for section in sections if section)
    tables = {"results.csv": table, "summary.csv": by_configuration(study, table), "claims.csv": verdicts}
    if study.comparisons:
        tables["tests.csv"] = tests
    for name, content in tables.items():
        write(content, folder / name)
    with atomic_path(folder / "summary.md") as partial:
        partial.write_text(text, encoding="utf-8")
    return [folder / name for name in (*tables, "summary.md")], text


# -- one process -------------------------------------------------------------------------------------------------------
def _work(
    study: Study,
    folder: Path,
    load: Loader,
    units: Sequence[Unit],
    *,
    parent: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Run units one after the other, until they are done or the parent is gone."""
    dataset: Dataset | None = None
    tables = _tables(study, load)
    for place, unit in enumerate(units):
        if parent not in (None, os.getppid()):
            return
        if dataset is None or dataset.name != unit.subset.label:
            dataset = load_subset(unit.subset, load, seed=study.seed)
        split, output = unit.splits[0], unit.path(study, folder)
        methods = [*(MethodSpec(name) for name in study.controls), *study.specs(split).values()]
        told_part = None if progress is None else _part_of(progress, place, len(units))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what fits warn of is among their figures
            if study.together:
                run_trial(
                    dataset,
                    methods,
                    unit.splits,
                    trial=unit.trial,
                    seed=study.seed,
                    tables=tables,
                    output=output,
                    progress=told_part,
                )
                continue
            run_study(
                dataset,
                methods,
                scheme=split.scheme,
                fraction=split.fraction,
                scale=split.scale,  # type: ignore[arg-type]
                trials=[unit.trial],
                seed=study.seed,
                details=True,
                output=output,
                progress=told_part,
            )


def _part_of(progress: Progress, place: int, parts: int) -> Progress:
    # a unit's own guess of the time to go is no guess of the study's
    return lambda share, text: progress((place + share) / parts, text.split(", about")[0])


# -- several processes -------------------------------------------------------------------------------------------------
def _supervise(
    study: Study, folder: Path, load: Loader, units: Sequence[Unit], workers: int, progress: Progress | None
) -> None:
    """Deal the units out to processes, and wait for them; none outlives this one."""

    def tell() -> None:
        if progress is not None:
            done = sum(unit.path(study, folder).exists() for unit in units)
            progress(done / len(units), f"{done} of {len(units)} units")

    shares = [(study, folder, load, units[k::workers]) for k in range(min(workers, len(units)))]
    supervise(_worker, shares, threads=1, tell=tell)
    if not all(unit.path(study, folder).exists() for unit in units):
        raise InputError("a worker ended before its part was done: run the same command again to go on")


def _worker(study: Study, folder: Path, load: Loader, units: Sequence[Unit], parent: int, errors: Any) -> None:
    try:
        _work(study, folder, load, units, parent=parent)
    except ImputomeError as error:
        errors.put(str(error))
    except KeyboardInterrupt:  # the parent says so
        return
