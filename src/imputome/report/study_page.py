"""The results of a study as files: tables, figures, and its page in Markdown and in HTML; no numbers are made here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from imputome.core.atomic import atomic_path
from imputome.core.locks import locked
from imputome.report.before_after import WORDS
from imputome.report.html.parts import Chart, Maps, StudyPart, Table, percent, sentence
from imputome.studies.claims import (
    AUTHORS,
    VERDICT_HEADER,
    by_configuration,
    check_claims,
    claim_rows,
    claims_in_detail_markdown,
    claims_markdown,
    comparisons_markdown,
    markdown,
    markdown_table,
    plain,
    printed_columns,
    published_markdown,
    published_rows,
    table_of_tests,
    verdict_rows,
)
from imputome.studies.execute import with_others
from imputome.studies.figures import TRIALS_FOR_INTERVAL, figure_data
from imputome.studies.panels import NOT_KNOWN, OTHER, Drawing
from imputome.studies.pictures import MASKED, RAW
from imputome.studies.results import RESULTS, write
from imputome.studies.searches import LEGEND as SEARCH_LEGEND
from imputome.studies.searches import SEARCHES, Found, search_rows, search_table
from imputome.studies.spec import FRACTION, Figure, Study
from imputome.studies.subsets import DATA_COLUMNS
from imputome.studies.trials import at_levels
from imputome.trust.mixing import N_NEIGHBORS

if TYPE_CHECKING:
    from imputome.report.html.scoreboard import Scoreboard

FIGURES = "figures"  # folder beside the page
MAPS = {"umap": "UMAP", "tsne": "t-SNE"}
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
    pictures: Sequence[Drawing] = (),
    searches: Sequence[Found] = (),
    data: Sequence[Sequence[str]] = (),
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
    pictures : sequence of Drawing, optional
        Pictures of cells, as `imputome.studies.execute.drawn` gives them.
    searches : sequence of Found, optional
        What the searches of the study found, as `imputome.studies.searches.found` gives it.
    data : sequence of rows, optional
        What the study ran on, as `imputome.studies.subsets.data_rows` gives it.

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
        _data_markdown(data),
        claims_markdown(checked) if len(checked) else "",
        published_markdown(study, table),
        _searches_markdown(searches),
    ]
    scores = [
        comparisons_markdown(tests) if len(tests) else "",
        markdown(study, table),
        claims_in_detail_markdown(checked) if len(checked) else "",
    ]
    text = "\n".join(section for section in (*sections, *scores) if section)
    with locked(folder / RESULTS):  # `imputome evaluate` may be adding scores to it
        write(with_others(folder, table), folder / RESULTS)
    for name, content in tables.items():
        write(content, folder / name)
    files = [folder / name for name in (RESULTS, *tables)]
    if drawn:
        files += _write_figures(study, figures, pictures, page / FIGURES)
        sections += [_figures_markdown(study, figures), _pictures_markdown(study, pictures)]
    with atomic_path(page / f"{study.name}.md") as partial:
        partial.write_text("\n".join(part for part in (*sections, *scores) if part), encoding="utf-8")
    files.append(page / f"{study.name}.md")
    if drawn:
        from imputome.report.html.page import write_report

        files.append(page / f"{study.name}.html")
        board = study_board(study, table, checked, figures, pictures, searches=searches, data=data, made_by=made_by)
        write_report(files[-1], board, overwrite=True)
    return StudyFiles(tuple(files), text, drawn)


def _data_markdown(data: Sequence[Sequence[str]]) -> str:
    rows = [[plain(cell) for cell in row] for row in data]
    return "\n".join(["# Data", "", *markdown_table(DATA_COLUMNS, rows), ""]) if data else ""


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
                axis = "share hidden" if figure.x == FRACTION else figure.x
                spec = charts.against_parameter(part, axis, figure.metric, ordinal=figure.log or not numeric)
            else:
                spec = charts.by_configuration(part, figure.metric)
            caption = f"{dataset}, {scheme}" if several else str(dataset)
            drawn.append(Chart(f"{number}-{place}", spec, f"{caption}{_bars(part['n'].max(), study.spread)}"))
        if drawn:
            yield figure, drawn


def _bars(trials: int, spread: str) -> str:
    """What the bars of a chart are, for its caption."""
    if trials < 2:
        return ""
    what = "1.64 standard errors of the mean over" if spread == "sem" else "95 % intervals of the mean over"
    what = "the range of" if trials < TRIALS_FOR_INTERVAL else what
    return f"; bars: {what} {trials} trials"


def _write_figures(
    study: Study, figures: list[tuple[Figure, list[Chart]]], pictures: Sequence[Drawing], folder: Path
) -> list[Path]:
    from imputome.report.html import charts, page

    style = (page.HERE / "page.css").read_text(encoding="utf-8")
    drawn = {_file(study, chart.id): charts.still(chart.spec, style) for _, parts in figures for chart in parts}
    for picture in pictures:
        if picture.panels:
            tables = {f"{name}{_share(picture, name)}": table for name, table in picture.panels.items()}
            looks = _looks(picture)
            spec = charts.panels(tables, map=MAPS[picture.picture.by], label=picture.column, looks=looks)
            drawn[_file(study, _id(picture))] = charts.still(spec, style, width=None)
    files = []
    for name, text in drawn.items():
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / name)
        with atomic_path(files[-1]) as partial:
            partial.write_text(text, encoding="utf-8")
    return files


def _file(study: Study, chart: str) -> str:
    return f"{study.name}-{chart}.svg"


def _figures_markdown(study: Study, figures: list[tuple[Figure, list[Chart]]]) -> str:
    if not figures:
        return ""
    lines = ["# Figures", ""]
    for figure, drawn in figures:
        lines += [f"## {plain(figure.title)}", ""]
        for chart in drawn:
            alt = f"{plain(figure.title)}: {plain(chart.caption)}"
            lines += [f"{plain(chart.caption)}", "", f"![{alt}]({FIGURES}/{_file(study, chart.id)})", ""]
    return "\n".join(lines)


def _searches_markdown(searches: Sequence[Found]) -> str:
    lines: list[str] = []
    for title, headings, rows, notes in search_rows(searches):
        cells = [[plain(cell) for cell in row] for row in rows]
        lines += [f"# {plain(title)}", "", *markdown_table([*map(plain, headings)], cells), ""]
        lines += [line for note in notes for line in (f"Not searched: {plain(note)}", "")]
    return "\n".join([*lines, SEARCH_LEGEND]) + "\n" if lines else ""


# -- pictures of cells -------------------------------------------------------------------------------------------------
def _pictures_markdown(study: Study, pictures: Sequence[Drawing]) -> str:
    lines = ["# Pictures of cells", ""] if pictures else []
    titles = set()
    for picture in pictures:
        title = picture.picture.title
        lines += [] if title in titles else [f"## {plain(title)}", ""]
        titles.add(title)
        for text in (f"### {picture.dataset}", *_picture_texts(picture)):
            lines += [plain(text), ""]
        if picture.panels:
            alt = f"{plain(title)}: {plain(picture.dataset)}"
            lines += [f"![{alt}]({FIGURES}/{_file(study, _id(picture))})", ""]
        if _has_shares(picture):
            lines += [f"| same label | {_space(picture)} | on the map |", "| --- | --- | --- |"]
            lines += [
                f"| {plain(name)} | {percent(near)} | {percent(on_map)} |"
                for name, (near, on_map) in picture.near.items()
            ]
            lines.append("")
    return "\n".join(lines)


def _picture_parts(pictures: Sequence[Drawing]) -> tuple[tuple[str, tuple[Maps, ...]], ...]:
    """The pictures by title, with a chart for each panel."""
    from imputome.report.html import charts

    parts: dict[str, list[Maps]] = {}
    for picture in pictures:
        looks, drawn = _looks(picture), []
        for place, (name, table) in enumerate(picture.panels.items(), 1):
            given: dict[str, Any] = {"map": MAPS[picture.picture.by], "label": picture.column, "looks": looks}
            spec = charts.panel(table, **given, words=WORDS[picture.kind], title=name)
            drawn.append(Chart(f"{_id(picture)}-{place}", spec, _shares(picture, name)))
        legend = tuple((f"{name} ({picture.labels[name]:,})", *looks[name]) for name in looks)
        maps = Maps(picture.dataset, tuple(_picture_texts(picture)), legend, tuple(drawn))
        parts.setdefault(picture.picture.title, []).append(maps)
    return tuple((title, tuple(maps)) for title, maps in parts.items())


def _picture_texts(picture: Drawing) -> list[str]:
    """What a picture shows, in words."""
    table, rows = picture.picture, WORDS[picture.kind].rows
    number = max((len(panel) for panel in picture.panels.values()), default=0)
    split = f"the split {table.split!r}"
    meant = [f"panel {RAW} is the data as they are"] if RAW in table.panels else []
    meant += [f"panel {MASKED} is what {split} leaves of them"] if MASKED in table.panels else []
    if table.configurations:
        what = "latents" if table.of == "latents" else "imputed values"
        what += ", normalised again," if table.renormalize else ""
        on = f"what {'it' if MASKED in table.panels else split} leaves" if table.split else "the data as they are"
        meant.append(f"{'the others' if meant else 'panels'} are the {what} of methods fitted on {on} (first trial)")
    text = f"{MAPS[table.by]} of {number:,} {rows}, coloured by {picture.column}; seed {picture.seed}. "
    text += f"{sentence('; '.join(meant))}. Maps are rotated to match the first; distances between groups mean little."
    share = f"The numbers are the share of the {N_NEIGHBORS} nearest neighbours of a {rows[:-1]} that have its label"
    chance = f"; among {rows} drawn at random it is {percent(picture.chance)}" if _has_shares(picture) else ""
    failed = [f"{name} is missing: {reason}" for name, reason in picture.failed.items()]
    return [text, *([f"{share}{chance}."] if chance else []), *failed]


def _has_shares(picture: Drawing) -> bool:
    return picture.chance == picture.chance  # with fewer than two labels there are none


def _space(picture: Drawing) -> str:
    """What the maps are made from."""
    if picture.picture.of == "imputed":
        return "in the components"
    with_data = {RAW, MASKED} & set(picture.picture.panels)
    return "in the latents (of the data: components)" if with_data else "in the latents"


def _share(picture: Drawing, name: str) -> str:
    return f": {percent(picture.near[name][0])}" if _has_shares(picture) else ""


def _shares(picture: Drawing, name: str) -> str:
    if not _has_shares(picture):
        return ""
    near, on_map = map(percent, picture.near[name])
    space = "components" if picture.picture.of == "imputed" or name in (RAW, MASKED) else "latents"
    return f"Same label: {near} in the {space}, {on_map} on the map".replace(" %", "\N{NO-BREAK SPACE}%")


def _looks(picture: Drawing) -> dict[str, tuple[str, str]]:
    from imputome.report.html import charts

    grey = tuple(name for name in picture.labels if name in (OTHER, NOT_KNOWN))
    coloured = sorted((name for name in picture.labels if name not in grey), key=charts.natural)
    return charts.looks_of(coloured, grey)


def _id(picture: Drawing) -> str:
    return f"picture-{picture.number}-{picture.place}"


def study_board(
    study: Study,
    table: pd.DataFrame,
    checked: pd.DataFrame,
    figures: list[tuple[Figure, list[Chart]]],
    pictures: Sequence[Drawing] = (),
    *,
    searches: Sequence[Found] = (),
    data: Sequence[Sequence[str]] = (),
    made_by: str = "",
) -> Scoreboard:
    """The page of a table of scores, with what the study says of them above it."""
    from imputome.report.html.scoreboard import of_table

    claims, details = [], []
    for by, caption in AUTHORS:
        part = checked[checked["by"] == by]
        if len(part):
            claims.append(Table(caption, tuple(VERDICT_HEADER), verdict_rows(part), tuple(range(5))))
            columns = printed_columns(part)
            of_each = f"{caption}, on each data set"
            details.append(Table(of_each, tuple(columns), claim_rows(part, columns), tuple(range(len(columns)))))
    published = [
        Table(title, ("", *columns), rows, tuple(range(len(columns) + 1)))
        for title, columns, rows in published_rows(study, table)
    ]
    charts = tuple((figure.title, tuple(drawn)) for figure, drawn in figures)
    maps = _picture_parts(pictures)
    found = tuple(
        (Table(title, tuple(headings), rows, tuple(range(len(headings)))), tuple(notes))
        for title, headings, rows, notes in search_rows(searches)
    )
    of_data = Table("What the study ran on", DATA_COLUMNS, [list(row) for row in data], (0, 1)) if data else None
    parts: dict[str, Any] = {"pictures": maps, "searches": found, "data": of_data, "claims_in_detail": tuple(details)}
    part_of_study = StudyPart(study.name, study.title, tuple(claims), charts, tuple(published), **parts)
    board = of_table(_with_levels(study, table), source=RESULTS, made_by=made_by)
    return replace(board, rows=len(table), study=part_of_study)


def _with_levels(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The rows over the trials that all configurations have; those with more have them under another name again."""
    first, *others = at_levels(study, table)
    more = [part.assign(scheme=part["scheme"] + f", {trials} trials") for trials, part in others]
    return pd.concat([first[1], *more], ignore_index=True)
