"""What came of a study: mean and spread over trials by configuration, beside the controls, for files and for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from imputome.studies.results import summary
from imputome.studies.study import Published, Study

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95  # of the intervals
PLACE = ["dataset", "scheme", "fraction"]  # a table of its own


def by_configuration(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """`imputome.studies.results.summary` with the names of the study: one row per name, so equal ones come twice."""
    return _named(study, summary(table))


def values_by_configuration(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of finished computations, with the names of the study."""
    return _named(study, table[table["status"] == "ok"])


def _named(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    parts = []
    for split in study.splits:
        names = study.names_of_rows(split)
        own = rows[rows["scheme"] == split.label]
        own = own.assign(
            configuration=[names.get(key, []) for key in zip(own["method"], own["parameters"], strict=True)]
        )
        parts.append(own.explode("configuration").dropna(subset="configuration"))
    order = {subset.label: place for place, subset in enumerate(study.datasets)}
    named = pd.concat(parts, ignore_index=True)
    named = named.sort_values("dataset", kind="stable", key=lambda labels: labels.map(order), ignore_index=True)
    return named[["configuration", *rows.columns]]


def markdown(study: Study, table: pd.DataFrame) -> str:
    """One table for each dataset and way of hiding values: a row a configuration, a column a metric of ``shown``."""
    scores = by_configuration(study, table)
    lines = [f"# {study.name}", "", study.title, ""]
    named = {split.name for split in study.splits}
    for place, part in scores.groupby(PLACE, sort=False, dropna=False):
        metrics = [name for name in study.shown or dict.fromkeys(part["metric"]) if name in set(part["metric"])]
        share = "" if place[1] in named else f", {place[2]:g} hidden"
        lines += [f"## {place[0]}, {place[1]}{share}", ""]
        lines += markdown_row(["", *metrics])
        lines += ["|" + " --- |" * (len(metrics) + 1)]
        for _, rows in part.groupby(["method", "parameters"], sort=False):
            cells = {row["metric"]: _cell(row, study.spread) for row in rows.to_dict("records")}
            label = " = ".join(dict.fromkeys(rows["configuration"]))
            label += " (control)" if rows["control"].iloc[0] else ""
            lines += markdown_row([label, *(cells.get(metric, "") for metric in metrics)])
        lines.append("")
    spread = {"sd": "standard deviation over seeds", "interval": "half of the 95 % interval of the mean over trials"}
    lines.append(f"Mean ± {spread[study.spread]}. Bold: the best. `!`: does not beat the controls.")
    for row in table[table["status"] == "skipped"].to_dict("records"):
        lines.append(f"Skipped: {row['scheme']} on {row['dataset']}: {row['reason']}")
    for failed in table[table["status"] == "failed"].to_dict("records"):
        lines.append(f"Failed: {failed['method']} {failed['parameters']} on {failed['dataset']}: {failed['reason']}")
    return "\n".join(lines) + "\n"


def markdown_row(cells: list[str]) -> list[str]:
    """One line of a table."""
    return ["| " + " | ".join(cells) + " |"]


def with_spread(row: dict[str, Any], kind: str) -> str:
    """Mean and spread of a row of `by_configuration`, as `Study.spread` says."""
    if row["n"] < 2:
        return f"{row['mean']:.4g}"
    return f"{row['mean']:.4g} ± {half_interval(row['sd'], row['n']) if kind == 'interval' else row['sd']:.1g}"


def half_interval(sd: float, n: int) -> float:
    """Half of the 95 % interval (Student's t) of a mean of n values with this standard deviation."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, n - 1) * sd / math.sqrt(n))


def _cell(row: dict[str, Any], kind: str) -> str:
    text = f"**{with_spread(row, kind)}**" if row["best"] else with_spread(row, kind)
    return f"{text} !" if row["loses_to"] else text


def published_markdown(study: Study, table: pd.DataFrame) -> str:
    """Every table of ``study.published`` whose dataset is in the study: ours, and in brackets the paper's figure."""
    labels = {subset.name: subset.label for subset in study.datasets}
    scores = by_configuration(study, table)
    lines: list[str] = []
    for wanted in study.published:
        if wanted.dataset in labels:
            own = scores[(scores["dataset"] == labels[wanted.dataset]) & (scores["metric"] == wanted.metric)]
            lines += [f"# {wanted.title}", "", *_lines(wanted, own, study.spread), ""]
    if not lines:
        return ""
    return "\n".join([*lines, "Ours, and in brackets the paper's, on other data."]) + "\n"


def _lines(wanted: Published, own: pd.DataFrame, spread: str) -> list[str]:
    lines = [*markdown_row(["", *wanted.columns]), "|" + " --- |" * (len(wanted.columns) + 1)]
    for split, figures in wanted.rows.items():
        cells = []
        for heading, configuration in wanted.columns.items():
            found = own[(own["scheme"] == split) & (own["configuration"] == configuration)].to_dict("records")
            ours = with_spread(found[0], spread) if found else "-"
            cells.append(f"{ours} ({figures[heading]})" if heading in figures else ours)
        lines += markdown_row([split, *cells])
    return lines
