"""The units of a study: one method on one trial of one data set. Each has a file of rows, and is run once."""

from __future__ import annotations

import json
import math
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from imputome.errors import InputError
from imputome.studies.inputs import Dataset, MethodSpec, digest, lacking, release, with_controls
from imputome.studies.results import NEEDS_INTEGERS, STOPPED, key_of, read, stored_rows, table_of, write
from imputome.studies.runner import Tables, options_of, run_study, run_trial
from imputome.studies.spec import Hiding, Study, Subset, non_defaults
from imputome.studies.trials import most_trials, trials_of_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PARTS_FOLDER = "parts"  # of the files of the units


@dataclass(frozen=True)
class Limits:
    """What a unit may take; it is stopped at more, and the table of results says so."""

    seconds: float = math.inf
    bytes: float = math.inf  # resident memory of the process

    def of(self, metric: str) -> float:
        """The limit that a row with this metric tells of."""
        return {"limit_seconds": self.seconds, "limit_bytes": self.bytes}[metric]


class Task(Protocol):
    """What a study runs, here or on a worker, and stores in a file of its own: a `Unit`, or a panel of a picture."""

    @property
    def subset(self) -> Subset:
        """The part of a data set that it is about."""

    def name(self) -> str:
        """Its name in a line of progress."""

    def file(self, study: Study, folder: Path) -> Path:
        """Where its rows are stored."""

    def run(self, study: Study, dataset: Dataset, tables: Tables) -> list[dict[str, Any]]:
        """Compute its rows."""

    def ended(
        self, study: Study, tables: Tables, *, status: str, reason: str, metric: str = "", value: float = math.nan
    ) -> list[dict[str, Any]]:
        """Its rows if its process was stopped, or ended."""

    def write(self, study: Study, folder: Path, rows: list[dict[str, Any]]) -> None:
        """Store its rows."""


@dataclass(frozen=True)
class Unit:
    """One method, or all controls, on one trial of one data set, with one split; with all, if these share fits."""

    subset: Subset
    splits: tuple[Hiding, ...]
    trial: int
    specs: tuple[MethodSpec, ...]
    data: str  # digest of the whole data set

    def file(self, study: Study, folder: Path) -> Path:
        """Its rows. The name depends on everything that the rows need to be understood and do not contain."""
        identity: list[Any] = [non_defaults(self.subset), study.seed, self.data, release()]
        words = [self.subset.name, self.specs[0].label if len(self.specs) == 1 else "controls", str(self.trial)]
        if not study.shares_fits:
            identity.append(non_defaults(self.splits[0]))
            words.insert(1, self.splits[0].label)
        identity.append([[spec.label, spec.parameters, spec.after] for spec in self.specs])
        name = re.sub(r"[^A-Za-z0-9]+", "_", " ".join(words))[:100]
        return folder / PARTS_FOLDER / f"{name}_{digest(identity)}.csv"

    def name(self) -> str:
        """Its name in a line of progress."""
        method = self.specs[0].label if len(self.specs) == 1 else "controls"
        return f"{self.subset.label}, {self.splits[0].label}, {method}, trial {self.trial + 1}"

    def run(self, study: Study, dataset: Dataset, tables: Tables) -> list[dict[str, Any]]:
        """Its rows: those of `run_study` with details, or of `run_trial`."""
        split = self.splits[0]
        common: dict[str, Any] = {"seed": study.seed, "controls": False}
        common["transform"] = None if self.subset.transform is None else "none"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the numbers of a fit include what it warns about
            if study.shares_fits:
                table = run_trial(dataset, self.specs, self.splits, trial=self.trial, tables=tables, **common)
            else:
                hiding: dict[str, Any] = {"scheme": split.scheme, "fraction": split.fraction, "scale": split.scale}
                hiding |= {"downstream": split.downstream, "protocol": split.protocol, "options": split.options}
                table = run_study(dataset, self.specs, trials=[self.trial], details=True, **hiding, **common)
        rows: list[dict[str, Any]] = table.to_dict("records")
        return rows

    def ended(
        self, study: Study, tables: Tables, *, status: str, reason: str, metric: str = "", value: float = math.nan
    ) -> list[dict[str, Any]]:
        """Its rows if its process was stopped, or ended."""
        common = {"dataset": self.subset.label, "trial": self.trial, "seed": study.seed, "transform": ""}
        common |= {"metric": metric, "value": value, "status": status, "reason": reason, "fraction": math.nan}
        cost = {"seconds": value if metric == "limit_seconds" else math.nan, "peak_bytes": math.nan}
        return [
            {**common, **cost, "method": spec.label, "parameters": spec.parameters, "scheme": split.label}
            | {"options": options_of(split, tables) if study.shares_fits else "{}"}
            for spec in self.specs
            for split in self.splits
        ]

    def write(self, study: Study, folder: Path, rows: list[dict[str, Any]]) -> None:
        """Store its rows, beside those of splits that an earlier version of the study had."""
        path = self.file(study, folder)
        new = {key_of(row) for row in rows}
        others = [row for row in stored_rows(path) if row["status"] == "ok" and key_of(row) not in new]
        write(table_of([*others, *rows]), path)


def units_of(study: Study, datasets: dict[str, tuple[Dataset, str]]) -> list[Unit]:
    """All units on these data sets: label of a subset -> data set, and digest of what it was taken from."""
    units = []
    for subset in study.datasets:
        if subset.label not in datasets:
            continue
        dataset, data = datasets[subset.label]
        kind = dataset.data.kind
        groups = [study.splits_of(subset)] if study.shares_fits else [(split,) for split in study.splits_of(subset)]
        for splits in filter(None, groups):
            own = [MethodSpec(name) for name in study.controls]
            controls = with_controls(own, kind, splits[0].protocol)
            every = with_controls([*own, *study.specs(splits[0]).values()], kind, splits[0].protocol)
            numbers = trials_of_rows(study, splits[0])
            methods = [(spec, numbers[spec.label, spec.parameters]) for spec in every if spec not in controls]
            for trial in range(most_trials(study)):
                now = [tuple(controls), *((spec,) for spec, number in methods if trial < number)]
                units += [Unit(subset, splits, trial, specs, data) for specs in now]
    return units


# -- rows --------------------------------------------------------------------------------------------------------------
def stored(study: Study, unit: Unit, folder: Path, tables: Tables) -> pd.DataFrame:
    """The stored rows of a unit that the study asks for, under the names of its splits; none if there is no file."""
    path = unit.file(study, folder)
    rows = read(path) if path.exists() else pd.DataFrame()
    if not len(rows):
        return rows
    asked = {(spec.label, spec.parameters) for spec in unit.specs}
    rows = rows[[key in asked for key in zip(rows["method"], rows["parameters"], strict=True)]]
    if not study.shares_fits:
        return rows.assign(scheme=unit.splits[0].label)
    splits = {(split.label, options_of(split, tables)) for split in unit.splits}
    return rows[[key in splits for key in zip(rows["scheme"], map(_of_split, rows["options"]), strict=True)]]


def is_done(unit: Unit, rows: pd.DataFrame, limits: Limits) -> bool:
    """Whether the stored rows of a unit are all that it gives: one that failed is run again, and so is one that was
    stopped at a limit lower than the one of now.
    """
    if not len(rows):
        return False

    def lasts(row: dict[str, Any]) -> bool:
        if row["status"] == STOPPED:
            return bool(limits.of(row["metric"]) <= row["value"])
        return row["status"] in ("ok", NEEDS_INTEGERS)

    there = {(row["method"], row["parameters"], row["scheme"]) for row in rows.to_dict("records") if lasts(row)}
    return there.issuperset((spec.label, spec.parameters, split.label) for spec in unit.specs for split in unit.splits)


def skipped(study: Study, missing: dict[str, str], absent: Iterable[MethodSpec]) -> Iterator[dict[str, Any]]:
    """A row, with the reason, for each data set, split or method that lacks what it needs.

    ``missing`` are the data sets that are not there, with what to get, and ``absent`` the methods whose optional
    dependency is not installed.
    """
    base = {"method": "every method", "parameters": "{}", "trial": 0, "seed": 0, "metric": "", "status": "skipped"}
    everywhere = {"dataset": "every data set", "scheme": "every split"}
    for spec in absent:
        yield {**base, **everywhere, "method": spec.label, "parameters": spec.parameters, "reason": lacking(spec)}
    for subset in study.datasets:
        if subset.label in missing:
            yield {**base, "dataset": subset.label, "scheme": "every split", "reason": missing[subset.label]}
            continue
        for split in study.splits:
            if study.lacks(split) and study.applies(split, subset):
                yield {**base, "dataset": subset.label, "scheme": split.label, "reason": study.lacks(split)}


def _of_split(options: str) -> str:
    """Options of a row without those that tell of which data it is; the file of a unit is of one data set only."""
    with suppress(ValueError):  # the file is damaged: no split has such options
        settings = json.loads(options)
        return json.dumps(
            {name: settings[name] for name in settings if name not in ("data", "version")}, sort_keys=True
        )
    return options


def check_registered(study: Study) -> None:
    """Check that other processes can make the methods of a study from their names."""
    if not all(isinstance(configuration.spec.method, str) for configuration in study.configurations):
        raise InputError(
            "other processes can only run registered methods: pass {workers}", code="method-not-registered", workers=0
        )
