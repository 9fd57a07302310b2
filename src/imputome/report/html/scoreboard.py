"""What is on the page of a table of scores, as `imputome evaluate` and `imputome study` write it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import ImputomeError, InputError
from imputome.evaluation.metrics import COVERAGE, METRICS
from imputome.report.html import citation
from imputome.report.html.parts import Live, column
from imputome.studies.results import HIGHER, SUFFIXES, is_control, read, summary

if TYPE_CHECKING:
    import pandas as pd

TRIALS = 60_000  # single values drawn, at most; beyond that the means alone


@dataclass(frozen=True)
class Scoreboard:
    """All that the page of a table of scores shows.

    Attributes
    ----------
    source : file.
    rows : number of rows of the table.
    choices : what can be chosen, in the order of the table: ``datasets``, ``settings`` (ways to hide), ``metrics``,
        ``methods`` (dictionaries with ``name`` and ``control``); and for each metric ``better``, in words.
    table : the summary. Its first columns are positions in ``choices``.
    trials : columns of positions (dataset, setting, metric, method), ``trial`` and ``value``.
    parameters : full parameters of the methods that have any: (name, JSON).
    failed : what did not run: (method, dataset, way to hide, trial, reason).
    means_only : whether ``trials`` holds means because there are too many single values.
    software : how to cite imputome.
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
    """Whether a path ends as a table of scores does."""
    return path.name.lower().endswith(SUFFIXES)


def of_table(table: pd.DataFrame, *, source: str = "", made_by: str = "") -> Scoreboard:
    """The page of a table of scores.

    Raises
    ------
    InputError
        No row of it holds a score.
    """
    scored = table[table["status"] == "ok"]
    if not len(scored):
        raise InputError(f"{source or 'this table'} holds no score: every run failed, see its column reason")
    means = summary(table)
    datasets, settings = _distinct(means["dataset"]), _distinct(_settings(means))
    # figures of the fit, such as its seconds, come after the scores
    metrics = sorted(_distinct(means["metric"]), key=lambda name: name not in METRICS and name not in HIGHER)
    named = short_names(means)
    labels = _labels(means, named)
    methods = list(dict.fromkeys(labels))
    controls = {label: is_control(name) for label, name in zip(labels, means["method"], strict=True)}
    codes = [_codes(means["dataset"], datasets), _codes(_settings(means), settings), _codes(means["metric"], metrics)]
    codes.append(_codes(labels, methods))
    beaten = ["" if name is None or name != name else str(name) for name in means["loses_to"]]
    live = Live(
        id="scores",
        caption="Mean of each score over trials",
        search="",
        columns=[
            {"title": "method", "kind": "text", "why": ""},
            {"title": "mean", "kind": "number", "why": "over trials"},
            {"title": "SD", "kind": "number", "why": "standard deviation over trials"},
            {"title": "n", "kind": "number", "why": "number of trials"},
            {"title": "best", "kind": "flag", "why": "best of all methods and controls"},
            {"title": "loses to", "kind": "text", "why": "the best control that it does not beat"},
            {"title": "dataset", "kind": "text", "why": ""},
            {"title": "hidden by", "kind": "text", "why": "way to hide values, and share hidden"},
        ],
        values=[
            *codes,
            column(means["mean"], digits=5),
            column(means["sd"], digits=2),
            column(means["n"]),
            column(means["best"].astype(bool)),
            beaten,
        ],
    )
    means_only = len(scored) > TRIALS
    if means_only:
        single = [*codes, [1] * len(means), column(means["mean"], digits=5)]
    else:
        single = [
            _codes(scored["dataset"], datasets),
            _codes(_settings(scored), settings),
            _codes(scored["metric"], metrics),
            _codes(_labels(scored, named), methods),
            [int(trial) + 1 for trial in scored["trial"]],
            column(scored["value"].astype(float), digits=5),
        ]
    lost = table[table["status"] != "ok"]
    lost = lost.assign(hidden=_settings(lost), number=lost["trial"].astype(int) + 1)
    lost = lost[["method", "dataset", "hidden", "number", "reason"]].drop_duplicates()
    return Scoreboard(
        source=source,
        rows=len(table),
        choices={
            "datasets": datasets,
            "settings": settings,
            "metrics": [{"name": name, "better": _better(name)} for name in metrics],
            "methods": [{"name": name, "control": controls[name]} for name in methods],
        },
        table=live,
        trials=single,
        parameters=[(name, given) for (_, given), name in named.items() if _parsed(given)],
        failed=[[str(value) for value in row] for row in lost.itertuples(index=False, name=None)],
        means_only=means_only,
        made_by=made_by,
        software=citation.of_imputome(),
    )


def of_file(path: Path, *, made_by: str = "") -> Scoreboard:
    """The page of a table of scores in a file.

    Raises
    ------
    InputError
        It is missing, damaged, or another kind of table.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        table = read(path)
    except ImputomeError as error:
        if isinstance(error, InputError):
            raise InputError(f"{error}: give what imputome evaluate or imputome study wrote") from error
        raise
    except Exception as error:  # damaged files make the libraries fail in too many ways to list
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read as a table of results: {reason}") from error
    return of_table(table, source=path.name, made_by=made_by)


def _settings(table: pd.DataFrame) -> list[str]:
    """How values were hidden, in a few words."""
    return [
        f"{scheme} {share:g}" if np.isfinite(share) else str(scheme)
        for scheme, share in zip(table["scheme"], table["fraction"].astype(float), strict=True)
    ]


def short_names(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(method, parameters) -> a name, with the parameters in which it differs from others of the same method.

    Where more than two vary, only what is not the most common value is told, and what has it everywhere is the base.
    """
    variants: dict[str, dict[str, dict[str, Any]]] = {}
    for method, parameters in zip(table["method"].astype(str), table["parameters"].astype(str), strict=True):
        variants.setdefault(method, {})[parameters] = _parsed(parameters)
    found = {}
    for method, given in variants.items():
        names = dict.fromkeys(name for one in given.values() for name in one)
        varied = [name for name in names if len({json.dumps(one.get(name)) for one in given.values()}) > 1]
        usual = {}
        if len(varied) > 2:
            usual = {name: Counter(json.dumps(one.get(name)) for one in given.values()) for name in varied}
        for parameters, one in given.items():
            told = [
                f"{name}={_value(one[name])}"
                for name in varied
                if name in one and not (usual and json.dumps(one[name]) == usual[name].most_common(1)[0][0])
            ]
            base = ["base"] if usual and not told else []
            found[method, parameters] = f"{method} ({', '.join(told or base)})" if told or base else method
    if len(set(found.values())) < len(found):
        return {(method, parameters): f"{method} {parameters}" for method, parameters in found}
    return found


def _parsed(parameters: str) -> dict[str, Any]:
    try:
        given = json.loads(parameters or "{}")
    except json.JSONDecodeError:
        given = None
    return given if isinstance(given, dict) else {"parameters": parameters}


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _labels(table: pd.DataFrame, named: dict[tuple[str, str], str]) -> list[str]:
    return [
        named[str(name), str(parameters)] for name, parameters in zip(table["method"], table["parameters"], strict=True)
    ]


def _better(metric: str) -> str:
    better = "higher" if metric in HIGHER else METRICS[metric].better if metric in METRICS else ""
    named = {"higher": "higher is better", "lower": "lower is better", "one": "best at 1"}
    return {**named, "nominal": f"best at {COVERAGE:g}"}.get(better, "")


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values))


def _codes(values: Any, names: list[str]) -> list[int]:
    places = {name: place for place, name in enumerate(names)}
    return [places[str(value)] for value in values]
