"""The results of a study as files: tables, figures, and its page in Markdown and in HTML; no numbers are made here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from imputome.core.atomic import atomic_path
from imputome.core.locks import locked
from imputome.report.html.parts import Chart, StudyPart, Table
from imputome.studies.claims import (
    PRINTED_COLUMNS,
    by_configuration,
    check_claims,
    claim_rows,
    claims_markdown,
    comparisons_markdown,
    markdown,
    markdown_table,
    plain,
    published_markdown,
    published_rows,
    table_of_tests,
)
from imputome.studies.execute import with_others
from imputome.studies.figures import figure_data
from imputome.studies.results import RESULTS, write
from imputome.studies.searches import LEGEND as SEARCH_LEGEND
from imputome.studies.searches import SEARCHES, Found, search_rows, search_table
from imputome.studies.spec import Figure, Study
from imputome.studies.trials import at_levels

if TYPE_CHECKING:
    from imputome.report.html.scoreboard import Scoreboard

FIGURES = "figures"  # folder beside the page
DRAWN_BY = ("altair", "jinja2", "vl_convert", "bibtexparser")  # the extra `report`


@dataclass(frozen=True)
class StudyFiles:
    """What `write_results` has written."""

    files: tuple[Path, ...]
    text: str  # the page in Markdown, without figures
    drawn: bool  # whether there are figures and an HTML page


def write_results(
    study: Study,
    table: pd.DataFrame,
    folder: Path,
    *,
    page: Path | None = None,
    made_by: str = "",
    searches: Sequence[Found] = (),
) -> StudyFiles:
    """Write all rows, the summary by configuration, the checked claims, the tests if any, and the pages.

    Parameters
    ----------
    study : Study
        Whose results these are.
    table : DataFrame
        Rows as `imputome.studies.execute.execute` gives them.
    folder : Path
        Where the tables go.
    page : Path, optional
        Where the pages and their figures go; by default ``folder``.
    made_by : str, default=""
        Command that the HTML page names.
    searches : sequence of Found, optional
        What the searches of the study found, as `imputome.studies.searches.found` gives it.

    Returns
    -------
    StudyFiles
        Without the extra ``report`` there are no figures and no HTML page.
    """
    page = folder if page is None else page
    page.mkdir(parents=True, exist_ok=True)
    checked = check_claims(study, table)
    tests = table_of_tests(study, table)
    tables = {"summary.csv": by_configuration(study, table), "claims.csv": checked}
    if study.comparisons:
        tables["tests.csv"] = tests
    if searches:
        tables[SEARCHES] = search_table(searches)
    drawn = all(find_spec(module) is not None for module in DRAWN_BY)
    figures = list(_charts(study, table)) if drawn else []
    sections = [
        f"# {plain(study.name)}\n\n{plain(study.title)}\n",
        claims_markdown(checked) if len(checked) else "",
        published_markdown(study, table),
        _searches_markdown(searches),
    ]
    scores = [comparisons_markdown(tests) if len(tests) else "", markdown(study, table)]
    text = "\n".join(section for section in (*sections, *scores) if section)
    with locked(folder / RESULTS):  # `imputome evaluate` may be adding scores to it
        write(with_others(folder, table), folder / RESULTS)
    for name, content in tables.items():
        write(content, folder / name)
    files = [folder / name for name in (RESULTS, *tables)]
    if drawn:
        files += _write_pictures(study, figures, page / FIGURES)
        sections.append(_pictures_markdown(study, figures))
    with atomic_path(page / f"{study.name}.md") as partial:
        partial.write_text("\n".join(part for part in (*sections, *scores) if part), encoding="utf-8")
    files.append(page / f"{study.name}.md")
    if drawn:
        files.append(page / f"{study.name}.html")
        _write_html(study, table, checked, figures, searches, files[-1], made_by)
    return StudyFiles(tuple(files), text, drawn)


def _charts(study: Study, table: pd.DataFrame) -> Iterator[tuple[Figure, list[Chart]]]:
    """Each figure of a study that has data, with a chart for each data set and split."""
    from imputome.report.html import charts

    for number, figure in enumerate(study.figures, 1):
        data = figure_data(study, table, figure)
        several = data["scheme"].nunique() > 1
        drawn = []
        for place, ((dataset, scheme), part) in enumerate(data.groupby(["dataset", "scheme"], sort=False), 1):
            if part["control"].all():
                continue
            if figure.x:
                numeric = pd.api.types.is_numeric_dtype(part.loc[~part["control"], "x"].infer_objects())
                spec = charts.against_parameter(part, figure.x, figure.metric, ordinal=figure.log or not numeric)
            else:
                spec = charts.by_configuration(part, figure.metric)
            drawn.append(Chart(f"{number}-{place}", spec, f"{dataset}, {scheme}" if several else str(dataset)))
        if drawn:
            yield figure, drawn


def _write_pictures(study: Study, figures: list[tuple[Figure, list[Chart]]], folder: Path) -> list[Path]:
    from imputome.report.html import charts, page

    style = (page.HERE / "page.css").read_text(encoding="utf-8")
    files = []
    for _, drawn in figures:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in drawn:
            files.append(folder / _picture(study, chart))
            with atomic_path(files[-1]) as partial:
                partial.write_text(charts.still(chart.spec, style), encoding="utf-8")
    return files


def _picture(study: Study, chart: Chart) -> str:
    return f"{study.name}-{chart.id}.svg"


def _pictures_markdown(study: Study, figures: list[tuple[Figure, list[Chart]]]) -> str:
    if not figures:
        return ""
    lines = ["# Figures", ""]
    for figure, drawn in figures:
        lines += [f"## {plain(figure.title)}", ""]
        for chart in drawn:
            alt = f"{plain(figure.title)}: {plain(chart.caption)}"
            lines += [f"{plain(chart.caption)}", "", f"![{alt}]({FIGURES}/{_picture(study, chart)})", ""]
    return "\n".join(lines)


def _write_html(
    study: Study,
    table: pd.DataFrame,
    checked: pd.DataFrame,
    figures: list[tuple[Figure, list[Chart]]],
    searches: Sequence[Found],
    path: Path,
    made_by: str,
) -> None:
    from imputome.report.html.page import write_report

    board = study_board(study, table, checked, figures, searches=searches, made_by=made_by)
    write_report(path, board, overwrite=True)


def _searches_markdown(searches: Sequence[Found]) -> str:
    lines: list[str] = []
    for title, headings, rows, notes in search_rows(searches):
        cells = [[plain(cell) for cell in row] for row in rows]
        lines += [f"# {plain(title)}", "", *markdown_table([*map(plain, headings)], cells), ""]
        lines += [line for note in notes for line in (f"Not searched: {plain(note)}", "")]
    return "\n".join([*lines, SEARCH_LEGEND]) + "\n" if lines else ""


def study_board(
    study: Study,
    table: pd.DataFrame,
    checked: pd.DataFrame,
    figures: list[tuple[Figure, list[Chart]]],
    *,
    searches: Sequence[Found] = (),
    made_by: str = "",
) -> Scoreboard:
    """The page of a table of scores, with what the study says of them above it."""
    from imputome.report.html.scoreboard import of_table

    claims = []
    for by, caption in (("paper", "Claims of the paper"), ("us", "Our own claims")):
        part = checked[checked["by"] == by]
        if len(part):
            columns = [name for name in PRINTED_COLUMNS if part[name].notna().any()]
            claims.append(Table(caption, tuple(columns), claim_rows(part, columns), tuple(range(len(columns)))))
    published = [
        Table(title, ("", *columns), rows, tuple(range(len(columns) + 1)))
        for title, columns, rows in published_rows(study, table)
    ]
    charts = tuple((figure.title, tuple(drawn)) for figure, drawn in figures)
    found = tuple(
        (Table(title, tuple(headings), rows, tuple(range(len(headings)))), tuple(notes))
        for title, headings, rows, notes in search_rows(searches)
    )
    part_of_study = StudyPart(study.name, study.title, tuple(claims), charts, tuple(published), searches=found)
    board = of_table(_with_levels(study, table), source=RESULTS, made_by=made_by)
    return replace(board, rows=len(table), study=part_of_study)


def _with_levels(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The rows over the trials that all configurations have; those with more have them under another name again."""
    first, *others = at_levels(study, table)
    more = [part.assign(scheme=part["scheme"] + f", {trials} trials") for trials, part in others]
    return pd.concat([first[1], *more], ignore_index=True)
