"""The parts of a page: tables of text, tables that readers search and sort, charts, sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

NOTHING = "–"  # in place of a number that was not measured


class Words(NamedTuple):
    """What rows and columns of the matrix are called: cells and genes, or samples and features."""

    rows: str
    columns: str

    @property
    def row(self) -> str:
        return self.rows[:-1]

    @property
    def column(self) -> str:
        return self.columns[:-1]


@dataclass(frozen=True)
class Table:
    """A small table of texts; its first column names the row.

    Attributes
    ----------
    caption : str
        Title of the table.
    columns : tuple of str
        Titles of the columns.
    rows : list of list of str
        The cells.
    numeric : tuple of bool
        Which columns are aligned to the right.
    """

    caption: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class Live:
    """A table that readers search and sort, put into the page as JSON.

    Attributes
    ----------
    id : str
        Name of the table within the page.
    caption : str
        Title of the table.
    search : str
        Label of the search field; empty for a table without one.
    columns : list of dict
        ``title``, ``kind`` (``"text"``, ``"number"``, ``"percent"`` or ``"flag"``) and ``why`` (what it means) of each.
    values : list of list
        The columns, each with one value per row.
    """

    id: str
    caption: str
    search: str
    columns: list[dict[str, str]]
    values: list[list[Any]]


@dataclass(frozen=True)
class Chart:
    """A chart: its name within the page, its Vega-Lite specification, and its caption."""

    id: str
    spec: dict[str, Any]
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading. Readers open ``folded`` tables and ``raw`` texts themselves."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    live: Live | None = None
    terms: tuple[tuple[str, str], ...] = ()
    folded: tuple[tuple[str, Table], ...] = ()
    raw: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()


def table_of(frame: pd.DataFrame, caption: str, titles: dict[str, str]) -> Table:
    """Some columns of ``frame`` as a table of texts; ``titles`` maps their names to titles."""
    names = [name for name in titles if name in frame]
    numeric = tuple(frame[name].dtype.kind in "fiu" for name in names)
    rows = [[text_of(value) for value in row] for row in frame[names].itertuples(index=False, name=None)]
    return Table(caption, tuple(titles[name] for name in names), rows, numeric)


def terms_table(pairs: list[tuple[str, str]], caption: str, first: str, second: str) -> Table:
    """A table with two columns of text."""
    return Table(caption, (first, second), [list(pair) for pair in pairs], (False, False))


def text_of(value: Any) -> str:
    """A value as text: numbers with four digits, ``yes`` and ``no``, a dash for what was not measured."""
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
    """A share as text."""
    return "not known" if not np.isfinite(share) else f"{100 * share:.1f} %"


def sentence(text: str) -> str:
    """``text`` with a capital first letter."""
    return text[:1].upper() + text[1:]


def column(values: Any, *, digits: int = 3) -> list[Any]:
    """Values for JSON: numbers rounded to significant digits, NaN as None."""
    array = np.asarray(values)
    if array.dtype.kind in "biu":
        return [int(value) for value in array]
    if array.dtype.kind == "f":
        return [_rounded(float(value), digits) for value in array]
    return [str(value) for value in array]


def _rounded(value: float, digits: int) -> float | int | None:
    if not np.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded == int(rounded) else rounded
