"""What the page of a table of scores shows, as `imputome evaluate` and `imputome study` write the table."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import ImputomeError, InputError
from imputome.evaluation.metrics import METRICS
from imputome.report.before_after import direction
from imputome.report.html import citation
from imputome.report.html.parts import Live, column
from imputome.studies.results import HIGHER, SUFFIXES, is_control, read, summary

if TYPE_CHECKING:
    import pandas as pd

MAX_VALUES = 60_000  # drawn one by one; of more, only the means are drawn


@dataclass(frozen=True)
class Scoreboard:
    """All that the page of a table of scores shows.

    Attributes
    ----------
    source : str
        File of the table.
    rows : int
        Number of rows of the table.
    choices : dict
        What readers can choose, in the order of the table: ``datasets``, ``settings`` (ways to hide values),
        ``metrics`` (``name`` and ``better``, which scores are good) and ``methods`` (``name`` and ``control``).
    table : Live
        The summary; dataset, setting, metric and method are positions in ``choices``.
    trials : list of list
        Columns with positions in ``choices`` (dataset, setting, metric, method), ``trial`` and ``value``.
    parameters : list of tuple of str
        Methods that have parameters: (name, parameters as JSON).
    failed : list of list of str
        Failed runs: (method, dataset, way to hide, trial, reason).
    means_only : bool
        Whether ``trials`` holds means, because there are too many single values.
    made_by : str
        Command that made this page.
    software : str
        How to cite imputome.
    """

    source: str
    rows: int
    choices: dict[str, Any]
    table: Live
    trials: list[list[Any]]
    parameters: list[tuple[str, str]]
    failed: list[list[str]]
    means_only: bool
    made_by: str
    software: str


def is_table(path: Path) -> bool:
    """Whether the name of a file ends like that of a table of scores."""
    return path.name.lower().endswith(SUFFIXES)


def of_table(table: pd.DataFrame, *, source: str = "", made_by: str = "") -> Scoreboard:
    """The page of a table of scores.

    Raises
    ------
    InputError
        The table holds no score.
    """
    scored = table[table["status"] == "ok"]
    if not len(scored):
        raise InputError(
            f"{source or 'this table'} holds no score: every run failed, see its column reason", code="no-scores"
        )
    means = summary(table)
    # measures of the fit, such as its seconds, come after the scores
    metrics = sorted(_distinct(means["metric"]), key=lambda name: name not in METRICS and name not in HIGHER)
    names = short_names(means)
    methods = _distinct(_methods(means, names))
    choices = {"datasets": _distinct(means["dataset"]), "settings": _distinct(_settings(means))}
    control = dict(zip(_methods(means, names), map(is_control, means["method"]), strict=True))

    def positions(rows: pd.DataFrame) -> list[list[int]]:
        return [
            _positions(rows["dataset"], choices["datasets"]),
            _positions(_settings(rows), choices["settings"]),
            _positions(rows["metric"], metrics),
            _positions(_methods(rows, names), methods),
        ]

    columns = (
        ("method", "text", ""),
        ("mean", "number", "over trials"),
        ("SD", "number", "standard deviation over trials"),
        ("n", "number", "number of trials"),
        ("best", "flag", "best of all methods and controls"),
        ("loses to", "text", "the best control that this method is not better than"),
        ("dataset", "text", ""),
        ("hidden by", "text", "how values were hidden, and which share of them"),
    )
    numbers = [column(means["mean"], digits=5), column(means["sd"], digits=2), column(means["n"])]
    loses_to = ["" if name is None or name != name else str(name) for name in means["loses_to"]]
    means_only = len(scored) > MAX_VALUES
    drawn, trial, value = (means, [1] * len(means), means["mean"])
    if not means_only:
        drawn, trial, value = scored, [int(trial) + 1 for trial in scored["trial"]], scored["value"].astype(float)
    failed = table[table["status"] != "ok"]
    failed = failed.assign(hidden=_settings(failed), number=failed["trial"].astype(int) + 1)
    failed = failed[["method", "dataset", "hidden", "number", "reason"]].drop_duplicates()
    return Scoreboard(
        source=source,
        rows=len(table),
        choices={
            **choices,
            "metrics": [{"name": name, "better": _better(name)} for name in metrics],
            "methods": [{"name": name, "control": control[name]} for name in methods],
        },
        table=Live(
            id="scores",
            caption="Mean of each score over trials",
            search="",
            columns=[{"title": title, "kind": kind, "why": why} for title, kind, why in columns],
            values=[*positions(means), *numbers, column(means["best"].astype(bool)), loses_to],
        ),
        trials=[*positions(drawn), trial, column(value, digits=5)],
        parameters=[(name, parameters) for (_, parameters), name in names.items() if _parsed(parameters)],
        failed=[[str(value) for value in row] for row in failed.itertuples(index=False, name=None)],
        means_only=means_only,
        made_by=made_by,
        software=citation.of_imputome(),
    )


def of_file(path: Path, *, made_by: str = "") -> Scoreboard:
    """The page of a table of scores in a file.

    Raises
    ------
    InputError
        The file does not exist, is damaged, or holds another kind of table.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist", code="file-missing")
    try:
        table = read(path)
    except ImputomeError:
        raise
    except Exception as error:  # damaged files make the libraries fail in too many ways to list
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read as a table of scores: {reason}", code="table-unreadable") from error
    return of_table(table, source=path.name, made_by=made_by)


def _settings(table: pd.DataFrame) -> list[str]:
    """How values were hidden, in a few words."""
    return [
        f"{scheme} {share:g}" if np.isfinite(share) else str(scheme)
        for scheme, share in zip(table["scheme"], table["fraction"].astype(float), strict=True)
    ]


def short_names(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(method, parameters) -> a name, with the parameters that differ between the variants of the method.

    If more than two parameters differ, only values that are not the most common ones are named, and the variant that
    has all the most common values is called "base".
    """
    variants: dict[str, dict[str, dict[str, Any]]] = {}
    for method, parameters in zip(table["method"].astype(str), table["parameters"].astype(str), strict=True):
        variants.setdefault(method, {})[parameters] = _parsed(parameters)
    names = {}
    for method, of_method in variants.items():
        all_names = dict.fromkeys(name for values in of_method.values() for name in values)
        varied = [name for name in all_names if len({json.dumps(v.get(name)) for v in of_method.values()}) > 1]
        common: dict[str, str] = {}
        if len(varied) > 2:
            for name in varied:
                counts = Counter(json.dumps(values.get(name)) for values in of_method.values())
                common[name] = counts.most_common(1)[0][0]
        for parameters, values in of_method.items():
            shown = [
                f"{name}={_value(values[name])}"
                for name in varied
                if name in values and common.get(name) != json.dumps(values[name])
            ]
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


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _methods(table: pd.DataFrame, names: dict[tuple[str, str], str]) -> list[str]:
    pairs = zip(table["method"], table["parameters"], strict=True)
    return [names[str(method), str(parameters)] for method, parameters in pairs]


def _better(metric: str) -> str:
    return "higher is better" if metric in HIGHER else direction(metric)


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values))


def _positions(values: Any, known: list[str]) -> list[int]:
    places = {name: place for place, name in enumerate(known)}
    return [places[str(value)] for value in values]
