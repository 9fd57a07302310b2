"""What came of a study: mean and spread over trials by configuration, beside the controls, for files and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imputome.studies.results import summary
from imputome.studies.spec import Study

if TYPE_CHECKING:
    import pandas as pd

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
        own = rows[rows["scheme"] == split.scheme]
        own = own.assign(
            configuration=[names.get(key, []) for key in zip(own["method"], own["parameters"], strict=True)]
        )
        parts.append(own.explode("configuration").dropna(subset="configuration"))
    named = pd.concat(parts, ignore_index=True)
    return named[["configuration", *rows.columns]]


def markdown(study: Study, table: pd.DataFrame) -> str:
    """One table for each dataset and way of hiding values: a row a configuration, a column a metric of ``shown``."""
    scores = by_configuration(study, table)
    lines = [f"# {study.name}", "", study.title, ""]
    for place, part in scores.groupby(PLACE, sort=False, dropna=False):
        metrics = [name for name in study.shown or dict.fromkeys(part["metric"]) if name in set(part["metric"])]
        lines += [f"## {place[0]}, {place[1]}, {place[2]:g} hidden", ""]
        lines += markdown_row(["", *metrics])
        lines += ["|" + " --- |" * (len(metrics) + 1)]
        for _, rows in part.groupby(["method", "parameters"], sort=False):
            cells = {row["metric"]: _cell(row) for row in rows.to_dict("records")}
            label = " = ".join(dict.fromkeys(rows["configuration"]))
            label += " (control)" if rows["control"].iloc[0] else ""
            lines += markdown_row([label, *(cells.get(metric, "") for metric in metrics)])
        lines.append("")
    lines.append("Mean ± standard deviation over seeds. Bold: the best. `!`: does not beat the controls.")
    for failed in table[table["status"] != "ok"].to_dict("records"):
        lines.append(f"Failed: {failed['method']} {failed['parameters']} on {failed['dataset']}: {failed['reason']}")
    return "\n".join(lines) + "\n"


def markdown_row(cells: list[str]) -> list[str]:
    """One line of a table."""
    return ["| " + " | ".join(cells) + " |"]


def _cell(row: dict[str, Any]) -> str:
    spread = f" ± {row['sd']:.1g}" if row["n"] > 1 else ""
    text = f"{row['mean']:.4g}{spread}"
    text = f"**{text}**" if row["best"] else text
    return f"{text} !" if row["loses_to"] else text
