"""Running the searches of a study (``[[tuning]]``) by Optuna, after its units: a finished one is never repeated.

Each search has two files in the folder of the units: Optuna's trials, from which an interrupted search continues, and
what it found.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from imputome.core.atomic import atomic_path
from imputome.core.small_files import read_small_text
from imputome.errors import ImputomeError, MissingExtraError
from imputome.io.config import as_tuples, from_toml
from imputome.methods import get
from imputome.result.run import Progress
from imputome.studies.execute import Plan
from imputome.studies.inputs import as_text, digest, release
from imputome.studies.spec import Study, Subset, non_defaults, plain_value
from imputome.studies.tuning import tune
from imputome.studies.tuning_table import Tuning
from imputome.studies.units import PARTS_FOLDER

SEARCHES = "searches.csv"  # of a study, in its folder
COLUMNS = (
    *("title", "dataset", "method", "search", "objective", "value", "best", "trials", "stopped_early", "failed"),
    "reason",
)
OBJECTIVES = {"nll": "NLL per validation cell", "poisson_loss": "loss per held-out molecule"}
LEGEND = "The best trial of each search (Optuna, sampler TPE); the number of trials includes those stopped early."
NOT_RUN = "not run yet: run the study"


@dataclass(frozen=True)
class Search:
    """One search: a method on a data set, with parameters that stay and others that are searched."""

    tuning: Tuning
    name: str
    params: dict[str, Any]  # that stay
    searched: tuple[str, ...]

    def file(self, study: Study, subset: Subset, data: str, folder: Path) -> Path:
        """What it found. The name depends on all that decides the trials, but not on their number."""
        identity = [non_defaults(subset), study.seed, data, release(), self.tuning.method]
        identity += [self.tuning.objective, self.searched, json.dumps(self.params, sort_keys=True, default=as_text)]
        words = re.sub(r"[^A-Za-z0-9]+", "_", f"search {subset.name} {self.tuning.method} {self.name}")[:100]
        return folder / PARTS_FOLDER / f"{words}_{digest(identity)}.json"


@dataclass(frozen=True)
class Found:
    """What a search has found, or why it has found nothing."""

    search: Search
    best: dict[str, Any] = field(default_factory=dict)  # of the parameters that were searched
    value: float = float("nan")  # of the objective
    trials: int = 0
    stopped_early: int = 0  # this number of them,
    failed: int = 0  # and this number ended with an error
    reason: str = ""


def searches_of(study: Study) -> list[Search]:
    """The searches of a study.

    Parameters that a method can search, and that are neither searched nor set, have their default.
    """
    searches = []
    base = study.configurations[0].spec
    for tuning in study.tuning:
        space, defaults = _declared(tuning.method)
        of_base = base.params if base.method == tuning.method else {}
        for name, values in zip(tuning.names(), tuning.combinations(), strict=True):
            here = {key: from_toml(value) for key, value in {**tuning.params, **values}.items()}
            searched = tuning.search or tuple(key for key in space if key not in here)
            params = {**{key: defaults[key] for key in space}, **of_base, **here}
            params = {key: value for key, value in params.items() if key not in searched}
            searches.append(Search(tuning, name, params, searched))
    return searches


def _declared(method: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The parameters that a method can search, and all defaults; none where its optional dependency is missing."""
    try:
        cls = get(method)
    except MissingExtraError:
        return (), {}
    return tuple(cls.search_space), cls.parameter_defaults()


def run_searches(todo: Plan, *, progress: Progress | None = None) -> list[Found]:
    """Run what is left of the searches of a study, one trial after the other in this process.

    So one seed gives the same trials. All searches have the seed of the study: the same validation cells, so that their
    objectives can be compared, and the same first draws. A search that cannot be run is told in its result: Optuna may
    not be installed, and the rest of a study does not need it.
    """
    results = found(todo)
    for place, result in enumerate(results):
        search = result.search
        place_of_data = _place(todo, search)
        if place_of_data is None or not _is_left(result):
            continue
        path, subset = place_of_data

        def report(share: float, text: str, place: int = place, search: Search = search) -> None:
            if progress is not None:
                progress((place + share) / len(results), f"search {search.name}: {text}")

        try:
            best = tune(
                todo.datasets[subset.label][0].data,
                method=search.tuning.method,
                trials=search.tuning.trials,
                storage=path.with_suffix(".db"),
                objective=search.tuning.objective,
                params=search.params,
                seed=todo.study.seed,
                progress=report,
            )
        except ImputomeError as error:
            results[place] = Found(search, reason=str(error))
            continue
        values = {key: best.params[key] for key in search.searched}
        results[place] = Found(search, values, best.value, best.finished, best.pruned, best.failed)
        _write(path, results[place])
    return results


def found(todo: Plan) -> list[Found]:
    """What the searches of a study have found until now."""
    results = []
    for search in searches_of(todo.study):
        place = _place(todo, search)
        if place is None:
            labels = [subset.label for subset in todo.study.datasets if subset.name == search.tuning.dataset]
            results.append(Found(search, reason=todo.missing[labels[0]]))
        else:
            results.append(_read(place[0], search) or Found(search, reason=NOT_RUN))
    return results


def left(todo: Plan) -> list[Search]:
    """The searches that `run_searches` would run."""
    return [result.search for result in found(todo) if _place(todo, result.search) and _is_left(result)]


def _is_left(result: Found) -> bool:
    return bool(result.reason) or result.trials < result.search.tuning.trials


def _place(todo: Plan, search: Search) -> tuple[Path, Subset] | None:
    """The file of a search, and its data set; None if that is not there."""
    for subset in todo.study.datasets:
        if subset.name == search.tuning.dataset and subset.label in todo.datasets:
            data = todo.datasets[subset.label][1]
            return search.file(todo.study, subset, data, todo.folder), subset
    return None


# -- the file of a search ----------------------------------------------------------------------------------------------
def _write(path: Path, result: Found) -> None:
    content = {"best": result.best, "value": result.value, "trials": result.trials}
    content |= {"stopped_early": result.stopped_early, "failed": result.failed}
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read(path: Path, search: Search) -> Found | None:
    """What a search has found; None if there is no such file, or a damaged one: Optuna's trials give it again."""
    if not path.exists():
        return None
    with suppress(ImputomeError, ValueError, TypeError, KeyError, RecursionError):
        content = json.loads(read_small_text(path, "result of a search", code="search-file"))
        best = {key: as_tuples(content["best"][key]) for key in search.searched}
        numbers: dict[str, Any] = {name: int(content[name]) for name in ("trials", "stopped_early", "failed")}
        return Found(search, best, float(content["value"]), **numbers)
    return None


# -- tables ------------------------------------------------------------------------------------------------------------
def search_table(results: Sequence[Found]) -> pd.DataFrame:
    """A row for each search, with the columns `COLUMNS`; the best parameters are JSON."""
    rows = []
    for result in results:
        tuning = result.search.tuning
        best = json.dumps(result.best, default=as_text) if result.best else ""
        numbers = [result.trials, result.stopped_early, result.failed]
        what = [tuning.title, tuning.dataset, tuning.method, result.search.name, tuning.objective]
        rows.append([*what, result.value, best, *numbers, result.reason])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def search_rows(results: Sequence[Found]) -> list[tuple[str, list[str], list[list[str]], list[str]]]:
    """For each ``[[tuning]]`` its title, headings, rows of texts, and notes on searches that found nothing."""
    groups = itertools.groupby(results, key=lambda result: id(result.search.tuning))
    return [_table(list(part)) for _, part in groups]


def _table(results: Sequence[Found]) -> tuple[str, list[str], list[list[str]], list[str]]:
    tuning = results[0].search.tuning
    searched = list(dict.fromkeys(name for result in results for name in result.search.searched))
    headings = [", ".join(tuning.for_each) or "search", *searched, OBJECTIVES[tuning.objective], "trials"]
    headings += ["the paper"] if tuning.reported else []
    rows = []
    for result in results:
        kinds = {"stopped early": result.stopped_early, "failed": result.failed}
        number = ", ".join([f"{result.trials}", *(f"{count} {kind}" for kind, count in kinds.items() if count)])
        best = [_text(result.best.get(name, "")) for name in searched]
        numbers = ["", ""] if result.reason else [f"{result.value:.6g}", number]
        reported = [tuning.reported.get(result.search.name, "")] if tuning.reported else []
        rows.append([result.search.name, *best, *numbers, *reported])
    notes = dict.fromkeys(result.reason for result in results if result.reason)
    return tuning.title, headings, rows, list(notes)


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else plain_value(value)
