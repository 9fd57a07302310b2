"""The parts that pages are put together from: tables of text, tables to search and sort, charts, sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A small table, every cell a text; ``numeric`` columns stand to the right, the first names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class Live:
    """A table that is searched and sorted on the page: columns of plain values, put into the page as JSON.

    Attributes
    ----------
    columns : ``title``, ``kind`` (``text``, ``number``, ``percent`` or ``flag``) and ``why`` (what it means) of each.
    values : the columns, each with one value for each row.
    """

    id: str
    caption: str
    search: str
    columns: list[dict[str, str]]
    values: list[list[Any]]


@dataclass(frozen=True)
class Chart:
    """A chart: its place on the page, its specification, and a caption that says what is to be seen."""

    id: str
    spec: dict[str, Any]
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading; ``folded`` tables, terms and texts are opened by the reader."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    live: Live | None = None
    terms: tuple[tuple[str, str], ...] = ()
    folded: tuple[tuple[str, Table], ...] = ()
    raw: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = field(default=())


def table_of(frame: pd.DataFrame, caption: str, titles: dict[str, str]) -> Table:
    """Some columns of ``frame`` as a table of text, under other titles."""
    names = [name for name in titles if name in frame]
    numeric = tuple(frame[name].dtype.kind in "fiu" for name in names)
    rows = [[text_of(value) for value in row] for row in frame[names].itertuples(index=False, name=None)]
    return Table(caption, tuple(titles[name] for name in names), rows, numeric)


def terms_table(pairs: list[tuple[str, str]], caption: str, first: str, second: str) -> Table:
    """A table of two columns of text."""
    return Table(caption, (first, second), [list(pair) for pair in pairs], (False, False))


def text_of(value: Any) -> str:
    """A value for a person: four digits, ``yes`` and ``no``, a dash for what was not measured."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        value = float(value)
        if not np.isfinite(value):
            return NOTHING if np.isnan(value) else ("∞" if value > 0 else "−∞")
        if value == int(value) and abs(value) < 1e15:
            return f"{int(value):,}"
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return NOTHING if value is None else str(value)


def percent(share: float) -> str:
    """A share as a text."""
    return "not known" if not np.isfinite(share) else f"{100 * share:.1f} %"


def column(values: Any, *, digits: int = 3) -> list[Any]:
    """Values for JSON: numbers cut to some significant digits, NaN as nothing."""
    array = np.asarray(values)
    if array.dtype.kind == "b":
        return [int(value) for value in array]
    if array.dtype.kind in "iu":
        return [int(value) for value in array]
    if array.dtype.kind == "f":
        return [_cut(float(value), digits) for value in array]
    return [str(value) for value in array]


def _cut(value: float, digits: int) -> float | int | None:
    if not np.isfinite(value):
        return None
    cut = float(f"{value:.{digits}g}")
    return int(cut) if cut == int(cut) else cut
