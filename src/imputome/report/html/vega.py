"""What all charts of the report share: colours, roles, tooltips, samples, and the finished specification.

Colours are variables of the page's style sheet, so that light and dark need no second drawing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import missing_extra

if TYPE_CHECKING:
    import pandas as pd

# the style sheet gives each a light and a dark value (after Okabe and Ito, told apart by the colour-blind)
BEFORE, AFTER, CONTROL, METHOD, INK = "var(--before)", "var(--after)", "var(--control)", "var(--method)", "var(--ink)"
CATEGORIES = tuple(f"var(--c{number})" for number in range(1, 9))
SHAPES = ("circle", "triangle-up", "square")  # beyond eight labels the same colours come again in the next shape
LOW, HIGH = "#E69F00", "#0072B2"  # ends of a continuous scale, which has to be computed and so cannot be variables
POINTS = 1500  # drawn of genes or cells, at most
HEIGHT = 280
ROW = 30  # height of a row of a chart with one row for each method
DIGITS = 4

Spec = dict[str, Any]


def altair() -> Any:
    """The plotting library."""
    try:
        import altair
    except ModuleNotFoundError as error:
        raise missing_extra("the report", "altair", "report") from error
    return altair


def chart(alt: Any, **size: Any) -> Any:
    return alt.Chart(alt.NamedData(name="rows")).properties(**size)


def tall(rows: int) -> int:
    """Height of a chart with that many rows; with Vega-Lite's own steps it could not fill a width without a warning."""
    return ROW * max(rows, 1) + 10


def points(alt: Any, tips: list[Any]) -> Any:
    """A cloud of many points; without `aria` each would be read out one after the other."""
    mark = {"filled": True, "size": 26, "opacity": 0.6, "color": METHOD, "aria": False}
    return chart(alt, height=HEIGHT).mark_point(**mark).encode(tooltip=tips)


def diagonal(alt: Any, low: float, high: float) -> Any:
    ends = alt.Data(values=[{"x": low, "y": low}, {"x": high, "y": high}])
    return alt.Chart(ends).mark_line(color=INK, strokeDash=[4, 4], strokeWidth=1).encode(x="x:Q", y="y:Q")


def role(alt: Any) -> Any:
    scale = alt.Scale(domain=["method", "control"], range=[METHOD, CONTROL])
    return alt.Color("role:N", scale=scale, legend=legend(alt, None))


def role_shape(alt: Any) -> Any:
    scale = alt.Scale(domain=["method", "control"], range=["circle", "square"])
    return alt.Shape("role:N", scale=scale, legend=legend(alt, None))


def when(alt: Any) -> Any:
    scale = alt.Scale(domain=["before", "after"], range=[BEFORE, AFTER])
    return alt.Color("when:N", scale=scale, legend=legend(alt, None))


def legend(alt: Any, title: str | None, **more: Any) -> Any:
    return alt.Legend(title=title, **{"orient": "top", **more})


def few(alt: Any) -> Any:
    return alt.Axis(tickCount=4, labelOverlap=True)


def choice(values: list[str], name: str) -> Any:
    """A list to choose from, above the chart, known in it as ``which``."""
    alt = altair()
    return alt.param(name="which", value=values[0], bind=alt.binding_select(options=values, name=name))


def around(values: pd.Series) -> Any:
    """A scale that holds all values, whatever part of them is drawn."""
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    return altair().Scale(domain=[short(low - margin), short(high + margin)], nice=False)


def only_near() -> Any:
    """A box to tick above the chart, known in it as ``near``."""
    alt = altair()
    return alt.param(name="near", value=False, bind=alt.binding_checkbox(name="leave out what is far off "))


def tips(alt: Any, **titles: str) -> list[Any]:
    """Tooltips: field -> title."""
    texts = {"name", "metric", "label", "when", "outcome", "stratum", "column", "evidence"}
    return [
        alt.Tooltip(f"{field}:N", title=title or "which")
        if field in texts
        else alt.Tooltip(f"{field}:Q", title=title, format=",.4~g")
        for field, title in titles.items()
    ]


def distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values))


def natural(text: str) -> list[Any]:
    """A key to sort texts by, in which ``cluster 2`` comes before ``cluster 10``."""
    parts = re.split(r"(\d+)", text)  # texts and digits take turns, so that like is compared with like
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def kept(table: pd.DataFrame) -> Any:
    """Which rows are drawn: all, or a sample that is the same each time, as a mask over positions."""
    chosen = np.zeros(len(table), dtype=bool)
    places = np.arange(len(table))
    if len(places) > POINTS:
        places = np.random.default_rng(0).choice(len(places), POINTS, replace=False)
    chosen[places] = True
    return chosen


def named(table: pd.DataFrame) -> pd.DataFrame:
    drawn = table.loc[kept(table)]
    return drawn.assign(name=drawn.index.astype(str)).reset_index(drop=True)


def stack(table: pd.DataFrame, name: str = "column") -> pd.DataFrame:
    keep = [column for column in ("step", "low", "high", "label") if column in table]
    return table.melt(id_vars=keep, var_name=name, value_name="value")


def short(value: Any) -> Any:
    """A number in few digits; what is no finite number is nothing."""
    if not isinstance(value, float | np.floating):
        return value.item() if isinstance(value, np.generic) else value
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries that JSON can hold."""
    names = [str(name) for name in table.columns]
    return [dict(zip(names, map(short, row), strict=True)) for row in table.itertuples(index=False, name=None)]


def finished(chart: Any, rows: pd.DataFrame | list[dict[str, Any]], description: str) -> Spec:
    """The specification with its data; its width is that of the place it is put in."""
    spec: Spec = chart.to_dict()
    del spec["$schema"]
    spec.pop("config", None)
    values = rows if isinstance(rows, list) else records(rows)
    for row in values:
        if "control" in row:
            row["role"] = "control" if row.pop("control") else "method"
    spec["datasets"] = {**spec.get("datasets", {}), "rows": values}
    fit = {"type": "fit-x", "contains": "padding"}
    return spec | {"width": "container", "autosize": fit, "description": description}
