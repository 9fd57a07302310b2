"""The numbers of the figures of a study: means over trials, against a parameter or by configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from imputome.studies.claims import AFTER_MEAN, TABLE_KEYS, named
from imputome.studies.results import is_control
from imputome.studies.spec import FRACTION, Figure, Study, plain_value
from imputome.studies.trials import in_common

TRIALS_FOR_INTERVAL = 4
COLUMNS = ["dataset", "scheme", "x", "line", "mean", "low", "high", "n", "control"]


def figure_data(study: Study, table: pd.DataFrame, figure: Figure) -> pd.DataFrame:
    """The points of a figure: one for each data set, split and configuration, and the 95 % interval of its mean.

    With fewer than `TRIALS_FOR_INTERVAL` trials ``low`` and ``high`` are the range instead: the interval of two trials
    is so wide that nothing else can be seen.

    ``x`` is the value of the parameter on the axis, or the name of the configuration; ``line`` the value of the other
    parameter as text. Controls have no ``x`` in a figure with one: they are the same all along it. With
    ``x="fraction"`` the share that is hidden is on the axis, ``line`` is a configuration or control, and ``scheme`` is
    empty. With ``metrics`` their numbers are. All points are over the trials that all configurations of the figure
    have.
    """
    numbers = {metric: float(number) for number, metric in figure.metrics.items()} or {figure.metric: math.nan}
    scores = named(study, table[(table["status"] == "ok") & table["metric"].isin(list(numbers))])
    if figure.splits:
        scores = scores[scores["scheme"].isin(figure.splits)]
    place_of = dict(places(study, figure))
    for split in study.splits:
        number = in_common(study, place_of, split)
        if number is not None:
            scores = scores[(scores["scheme"] != split.label) | (scores["trial"] < number)]
    rows = []
    keys = [*TABLE_KEYS, "metric", "configuration"]
    for (dataset, scheme, _, metric, name), part in scores.groupby(keys, sort=False, dropna=False):
        if name not in place_of:
            continue
        values = part["value"].to_numpy()
        mean, n = float(values.mean()), len(values)
        low, high = float(values.min()), float(values.max())
        if n >= TRIALS_FOR_INTERVAL:
            kind = "sem" if study.spread == "sem" else "interval"
            half = AFTER_MEAN[kind][1](float(values.std(ddof=1)), n)
            low, high = mean - half, mean + half
        control = is_control(part["method"].iloc[0]) and name in figure.controls
        x, line = place_of[name]
        if figure.x == FRACTION:
            x, control = next(split.fraction for split in study.splits if split.label == scheme), False
            scheme = ""
        elif figure.metrics:
            x, control = numbers[metric], False
        rows.append([dataset, scheme, x, line, mean, low, high, n, control])
    # one configuration can have several names
    return pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(["dataset", "scheme", "x", "line"], ignore_index=True)


def places(study: Study, figure: Figure) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Name of a configuration or control in the figure -> its place on the axis, and its line."""
    for name in figure.controls:
        yield name, (math.nan if figure.x else name, name)
    if figure.lines_are_configurations:
        yield from ((name, (math.nan, name)) for name in figure.configurations)
        return
    if not figure.x:
        yield from ((name, (name, "")) for name in figure.configurations)
        return
    base = study.configurations[0].spec
    free = {figure.x, figure.lines}
    fixed = {name: value for name, value in {**base.params, **figure.where}.items() if name not in free}
    for configuration in study.configurations:
        spec = configuration.spec
        if spec.method != base.method or spec.after != base.after:
            continue
        if {name: value for name, value in spec.params.items() if name not in free} == fixed:
            line = f"{figure.lines}={plain_value(spec.params.get(figure.lines))}" if figure.lines else ""
            yield configuration.name, (spec.params.get(figure.x), line)
