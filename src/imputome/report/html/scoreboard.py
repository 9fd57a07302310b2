"""What the page of a table of scores shows."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imputome.errors import InputError
from imputome.evaluation.metrics import METRICS
from imputome.report.before_after import direction
from imputome.report.html import citation
from imputome.report.html.parts import Live, StudyPart, Table, distinct, json_column, live_columns, terms_table
from imputome.studies.results import HIGHER, is_control, read, summary, told_apart

MAX_VALUES = 60_000  # drawn one by one; of more, only the means are drawn


@dataclass(frozen=True)
class Scoreboard:
    """All that the page of a table of scores shows; datasets, settings, metrics, methods are positions."""

    source: str  # file of the table
    rows: int  # of the table
    # in the order of the table: `datasets`, `settings` (ways to hide values), `metrics` (`name` and `better`, which
    # scores are good) and `methods` (`name` and `control`)
    choices: dict[str, Any]
    table: Live  # means over trials: dataset, setting, metric, method, and what readers see
    trials: list[list[Any]]  # columns: dataset, setting, metric, method, trial, value
    parameters: Table  # of methods that have some, as JSON
    failed: Table  # runs
    means_only: bool  # whether `trials` holds means, because there are too many single values
    made_by: str  # command that made this page
    software: str  # how to cite imputome
    study: StudyPart | None = None  # what is above the scores, if the table is of a study


def of_file(path: Path, *, made_by: str = "") -> Scoreboard:
    """The page of a table of scores in a file."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", code="no-file")
    return of_table(read(path), source=path.name, made_by=made_by)


def of_table(table: pd.DataFrame, *, source: str = "", made_by: str = "") -> Scoreboard:
    """The page of a table of scores, as `imputome evaluate` and `imputome study` write it."""
    scored = table[table["status"] == "ok"]
    if not len(scored):
        message = f"{source or 'this table'} holds no score: every run failed, see its column reason"
        raise InputError(message, code="no-scores")
    means = summary(table)
    names = short_names(means)
    datasets, settings = distinct(means["dataset"]), distinct(_settings(means))
    # measures of the fit, such as its seconds, come after the scores
    metrics = sorted(distinct(means["metric"]), key=lambda name: name not in METRICS and name not in HIGHER)
    controls = dict(zip(_methods(means, names), map(is_control, means["method"]), strict=True))
    known = [{name: place for place, name in enumerate(group)} for group in (datasets, settings, metrics, controls)]

    def positions(rows: pd.DataFrame) -> list[list[int]]:
        columns = (rows["dataset"], _settings(rows), rows["metric"], _methods(rows, names))
        return [[places[str(value)] for value in column] for places, column in zip(known, columns, strict=True)]

    columns = live_columns(
        ("method", "text", ""),
        ("mean", "number", "over trials"),
        ("SD", "number", "standard deviation over trials"),
        ("n", "number", "number of trials"),
        ("best", "flag", "best of all methods and controls"),
        ("loses to", "text", "the best control that this method is not better than"),
        ("dataset", "text", ""),
        ("hidden by", "text", "how values were hidden, and which share of them"),
    )
    numbers = [json_column(means["mean"], 5), json_column(means["sd"], 2), json_column(means["n"])]
    loses_to = ["" if name is None or name != name else str(name) for name in means["loses_to"]]
    best = json_column(means["best"].astype(bool))
    means_only = len(scored) > MAX_VALUES
    if means_only:
        trials = [*positions(means), [1] * len(means), numbers[0]]
    else:
        values = json_column(scored["value"].astype(float), 5)
        trials = [*positions(scored), [int(trial) + 1 for trial in scored["trial"]], values]
    failed = table[table["status"] != "ok"]
    failed = failed.assign(hidden=_settings(failed), number=failed["trial"].astype(int) + 1)
    failed = failed[["method", "dataset", "hidden", "number", "reason"]].drop_duplicates()
    titles = ("method", "dataset", "hidden by", "trial", "reason")
    parameters = [(name, parameters) for (_, parameters), name in names.items() if _parsed(parameters)]
    return Scoreboard(
        source=source,
        rows=len(table),
        choices={
            "datasets": datasets,
            "settings": settings,
            "metrics": [
                {"name": name, "better": "higher is better" if name in HIGHER else direction(name)} for name in metrics
            ],
            "methods": [{"name": name, "control": control} for name, control in controls.items()],
        },
        table=Live(
            "scores", "Mean of each score over trials", "", columns, [*positions(means), *numbers, best, loses_to]
        ),
        trials=trials,
        parameters=terms_table(parameters, "Methods with parameters", "method", "parameters"),
        failed=Table("Runs that failed", titles, failed.astype(str).to_numpy().tolist(), tuple(range(len(titles)))),
        means_only=means_only,
        made_by=made_by,
        software=citation.of_imputome(),
    )


def _settings(table: pd.DataFrame) -> list[str]:
    """How values were hidden, in a few words, and what tells results of one scheme and share apart."""
    shown = [
        f"{scheme} {share:g}" if np.isfinite(share) else str(scheme)
        for scheme, share in zip(table["scheme"], table["fraction"].astype(float), strict=True)
    ]
    return [f"{text} ({other})" if other else text for text, other in zip(shown, told_apart(table), strict=True)]


def short_names(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(method, parameters) -> a name, with the parameters that differ between the variants of the method.

    If more than two parameters differ, only values that are not the most common ones are named, and the variant that
    has all the most common values is called "base".
    """
    variants: dict[str, dict[str, dict[str, str]]] = {}
    for method, parameters in zip(table["method"].astype(str), table["parameters"].astype(str), strict=True):
        values = _parsed(parameters).items()
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values}
        variants.setdefault(method, {})[parameters] = texts
    names = {}
    for method, of_method in variants.items():
        all_names = dict.fromkeys(name for texts in of_method.values() for name in texts)
        values_of = {name: Counter(texts.get(name, "null") for texts in of_method.values()) for name in all_names}
        varied = [name for name in all_names if len(values_of[name]) > 1]
        common = {name: values_of[name].most_common(1)[0][0] for name in varied} if len(varied) > 2 else {}
        for parameters, texts in of_method.items():
            shown = [f"{name}={texts[name]}" for name in varied if name in texts and common.get(name) != texts[name]]
            if common and not shown:
                shown = ["base"]
            names[method, parameters] = f"{method} ({', '.join(shown)})" if shown else method
    if len(set(names.values())) < len(names):
        return {(method, parameters): f"{method} {parameters}" for method, parameters in names}
    return names


def _parsed(parameters: str) -> dict[str, Any]:
    try:
        values = json.loads(parameters or "{}")
    except json.JSONDecodeError:
        values = None
    return values if isinstance(values, dict) else {"parameters": parameters}


def _methods(table: pd.DataFrame, names: dict[tuple[str, str], str]) -> list[str]:
    pairs = zip(table["method"], table["parameters"], strict=True)
    return [names[str(method), str(parameters)] for method, parameters in pairs]
