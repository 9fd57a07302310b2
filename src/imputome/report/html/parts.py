"""The parts of a page: tables of text, tables that readers search and sort, charts, sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

NOT_MEASURED = "–"  # in place of a number that was not measured

Terms = Sequence[tuple[str, str]]  # pairs of a term and its text


class Table(NamedTuple):
    """A small table of texts; its first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    text_columns: tuple[int, ...] = (0,)  # positions; the other columns hold numbers and are aligned to the right


class Live(NamedTuple):
    """A table that readers search and sort, put into the page as JSON."""

    id: str
    caption: str
    search: str  # label of the search field; empty for a table without one
    columns: list[dict[str, str]]  # of `live_columns`
    values: list[list[Any]]  # the columns, each with one value per row


class Chart(NamedTuple):
    """A chart: its name within the page, its Vega-Lite specification, and its caption."""

    id: str
    spec: dict[str, Any]
    caption: str


class Section(NamedTuple):
    """A part of the page under one heading. Readers open ``folded`` tables and ``raw`` texts themselves."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    live: Live | None = None
    terms: Terms = ()
    folded: tuple[tuple[str, Table], ...] = ()
    raw: Terms = ()
    links: Terms = ()


class Maps(NamedTuple):
    """Maps of the same cells side by side, with one legend."""

    title: str  # of the data set
    text: tuple[str, ...]
    legend: tuple[tuple[str, str, str], ...]  # label, colour, and shape
    charts: tuple[Chart, ...]


class StudyPart(NamedTuple):
    """What the page of a study shows above its scores."""

    name: str
    title: str
    claims: tuple[Table, ...]
    charts: tuple[tuple[str, tuple[Chart, ...]], ...]  # title of a figure -> its charts
    published: tuple[Table, ...]
    pictures: tuple[tuple[str, tuple[Maps, ...]], ...] = ()  # title of a picture -> its maps of each data set
    searches: tuple[tuple[Table, tuple[str, ...]], ...] = ()  # best parameters, and why some were not searched
    data: Table | None = None  # what the study ran on
    claims_in_detail: tuple[Table, ...] = ()  # each claim on each data set


def live_columns(*columns: tuple[str, str, str]) -> list[dict[str, str]]:
    """(title, kind, meaning) of each column; its kind is ``"text"``, ``"number"``, ``"percent"`` or ``"flag"``."""
    return [dict(zip(("title", "kind", "why"), column, strict=True)) for column in columns]


def table_of(frame: pd.DataFrame, caption: str, titles: dict[str, str]) -> Table:
    """Some columns of ``frame`` as a table of texts; ``titles`` maps their names to titles."""
    names = [name for name in titles if name in frame]
    text_columns = tuple(place for place, name in enumerate(names) if frame[name].dtype.kind not in "fiu")
    rows = [[text_of(value) for value in row] for row in frame[names].itertuples(index=False, name=None)]
    return Table(caption, tuple(titles[name] for name in names), rows, text_columns)


def terms_table(terms: Terms, caption: str, first: str, second: str) -> Table:
    """A table with two columns of text."""
    return Table(caption, (first, second), [list(pair) for pair in terms], (0, 1))


def text_of(value: Any) -> str:
    """A value as text: numbers with four digits, ``yes`` and ``no``, a dash for what was not measured."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or value != value:
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(share: float) -> str:
    """A share as text."""
    return f"{100 * share:.1f} %" if np.isfinite(share) else "not known"


def sentence(text: str) -> str:
    """``text`` with a capital first letter."""
    return text[:1].upper() + text[1:]


def rounded(value: Any, digits: int) -> Any:
    """A value for JSON: numbers with few significant digits, None for NaN and infinity."""
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, float):
        return value
    if not np.isfinite(value):
        return None
    value = float(f"{value:.{digits}g}")
    return int(value) if value.is_integer() else value


def json_column(values: Any, digits: int = 3) -> list[Any]:
    """A column for JSON: `rounded` numbers, 0 and 1 for flags, or texts."""
    array = np.asarray(values)
    if array.dtype.kind == "b":
        array = array.astype(int)
    numbers = array.dtype.kind in "iuf"
    return [rounded(value, digits) if numbers else str(value) for value in array.tolist()]


def distinct(values: Any) -> list[str]:
    """Distinct values as text, in their order."""
    return list(dict.fromkeys(str(value) for value in values))
