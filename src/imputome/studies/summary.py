"""The results of a study by configuration: mean and spread over trials, with the controls, as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from imputome.studies.results import summary
from imputome.studies.spec import Published, Study

LEVEL = 0.95  # of the intervals
TABLE_KEYS = ["dataset", "scheme", "fraction"]  # each combination has its own table


def by_configuration(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """`imputome.studies.results.summary` with the names of the configurations; two equal ones give two rows."""
    return named(study, summary(table))


def named(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the names of the configurations that they belong to, in the order of the study."""
    parts = []
    for split in study.splits:
        names = study.names_of_rows(split)
        part = rows[rows["scheme"] == split.label]
        keys = zip(part["method"], part["parameters"], strict=True)
        part = part.assign(configuration=[names.get(key, []) for key in keys])
        parts.append(part.explode("configuration").dropna(subset="configuration"))
    order = {subset.label: place for place, subset in enumerate(study.datasets)}
    table = pd.concat(parts, ignore_index=True)
    table = table.sort_values("dataset", kind="stable", key=lambda labels: labels.map(order), ignore_index=True)
    return table[["configuration", *rows.columns]]


def markdown(study: Study, table: pd.DataFrame) -> str:
    """The scores as Markdown: one table per dataset and split, a row per configuration and a column per metric.

    The computations that were skipped or failed, and the reasons, are at the end.
    """
    scores = by_configuration(study, table)
    lines = [f"# {study.name}", "", study.title, ""]
    split_names = {split.name for split in study.splits}
    for (dataset, scheme, fraction), part in scores.groupby(TABLE_KEYS, sort=False, dropna=False):
        metrics = [name for name in study.shown or dict.fromkeys(part["metric"]) if name in set(part["metric"])]
        share = "" if scheme in split_names else f", {fraction:g} hidden"
        rows = []
        for _, scores_of in part.groupby(["method", "parameters"], sort=False):
            cells = {row["metric"]: _cell(row, study.spread) for row in scores_of.to_dict("records")}
            label = " = ".join(dict.fromkeys(scores_of["configuration"]))
            label += " (control)" if scores_of["control"].iloc[0] else ""
            rows.append([label, *(cells.get(metric, "") for metric in metrics)])
        lines += [f"## {dataset}, {scheme}{share}", "", *markdown_table(["", *metrics], rows), ""]
    spread = {"sd": "standard deviation over trials", "interval": "half of the 95 % interval of the mean over trials"}
    lines.append(f"Mean ± {spread[study.spread]}. Bold: the best. `!`: does not beat the best control.")
    for row in table[table["status"] == "skipped"].to_dict("records"):
        lines.append(f"Skipped: {row['scheme']} on {row['dataset']}: {row['reason']}")
    for failed in table[table["status"] == "failed"].to_dict("records"):
        lines.append(f"Failed: {failed['method']} {failed['parameters']} on {failed['dataset']}: {failed['reason']}")
    return "\n".join(lines) + "\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _with_spread(row: dict[str, Any], kind: str) -> str:
    """Mean and spread of a row of `by_configuration`; ``kind`` is that of ``Study.spread``."""
    if row["n"] < 2:
        return f"{row['mean']:.4g}"
    return f"{row['mean']:.4g} ± {half_interval(row['sd'], row['n']) if kind == 'interval' else row['sd']:.1g}"


def half_interval(sd: float, n: int) -> float:
    """Half of the 95 % interval (Student's t) of the mean of ``n`` values with the standard deviation ``sd``."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, n - 1) * sd / math.sqrt(n))


def _cell(row: dict[str, Any], kind: str) -> str:
    text = f"**{_with_spread(row, kind)}**" if row["best"] else _with_spread(row, kind)
    return f"{text} !" if row["loses_to"] else text


def published_markdown(study: Study, table: pd.DataFrame) -> str:
    """The tables of ``study.published`` whose dataset is in the study, with our numbers and those of the paper."""
    labels = {subset.name: subset.label for subset in study.datasets}
    scores = by_configuration(study, table)
    lines: list[str] = []
    for published in study.published:
        if published.dataset in labels:
            rows = (scores["dataset"] == labels[published.dataset]) & (scores["metric"] == published.metric)
            lines += [f"# {published.title}", "", *_lines(published, scores[rows], study.spread), ""]
    if not lines:
        return ""
    return "\n".join([*lines, "Our numbers, and in brackets those of the paper, which used other data."]) + "\n"


def _lines(published: Published, scores: pd.DataFrame, spread: str) -> list[str]:
    rows = []
    for split, figures in published.rows.items():
        cells = [split]
        for heading, configuration in published.columns.items():
            found = scores[(scores["scheme"] == split) & (scores["configuration"] == configuration)].to_dict("records")
            ours = _with_spread(found[0], spread) if found else "-"
            cells.append(f"{ours} ({figures[heading]})" if heading in figures else ours)
        rows.append(cells)
    return markdown_table(["", *published.columns], rows)
