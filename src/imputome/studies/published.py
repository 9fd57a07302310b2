"""A paper's tables with a study's own figures beside the paper's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imputome.studies.study import Published, Study
from imputome.studies.tables import by_configuration, markdown_row, with_spread

if TYPE_CHECKING:
    import pandas as pd


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
