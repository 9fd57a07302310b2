"""Charts of the report page as Vega-Lite specifications, made by Altair; no numbers are computed here.

Every chart fills the width of its place, names its values in tooltips and has a description for screen readers. Colours
are variables of the page's style sheet, so that light and dark mode need no second drawing.
"""

from __future__ import annotations

import json
import re
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from imputome.report.before_after import Words
from imputome.report.html.parts import distinct, rounded

# the style sheet gives each a light and a dark value (after Okabe and Ito; colour-blind readers can tell them apart)
MUTED, BAND = "var(--muted)", "var(--good)"
BEFORE, AFTER, CONTROL, METHOD, INK = "var(--before)", "var(--after)", "var(--control)", "var(--method)", "var(--ink)"
CATEGORIES = tuple(f"var(--c{number})" for number in range(1, 9))
SHAPES = ("circle", "triangle-up", "square")  # beyond eight labels the colours are used again with the next shape
LOW, HIGH = "#E69F00", "#0072B2"  # ends of a continuous scale, which is computed and so cannot use variables
# group -> colour and shape
ROLES = {"method": (METHOD, "circle"), "control": (CONTROL, "square")}
TIMES = {"before": (BEFORE, "circle"), "after": (AFTER, "triangle-up")}
EVIDENCE = {"yes": (METHOD, "circle"), "no": (CONTROL, "triangle-down")}
MAX_POINTS = 1500  # genes or cells drawn, at most
HEIGHT = 280
LEGEND_WIDTH = 52  # characters of a row of names, which a telephone shows
ROW_HEIGHT = 30  # of a chart with one row for each method
DIGITS = 4
TEXT_FIELDS = ("name", "metric", "label", "when", "outcome", "stratum", "column", "evidence")

Spec = dict[str, Any]
Looks = dict[str, tuple[str, str]]  # label -> colour and shape


# -- charts ------------------------------------------------------------------------------------------------------------
def scores(table: pd.DataFrame, bands: dict[str, tuple[float, float]]) -> Spec:
    """Held-out scores, one metric at a time: a row for each method, a point for each split; ``far`` ones are hidden.

    ``bands`` holds the accepted range of a metric, which is shaded.
    """
    metrics = distinct(table["metric"])
    tooltips = {"name": "method", "metric": "score", "split": "split", "value": "value"}
    chart = _by_method(_rows("name", table["name"]), tooltips)
    choose = "datum.metric === which"
    if len(metrics) > 1:  # each layer has data of its own, and so a filter of its own
        chart = chart.transform_filter(choose)
    chart = _without_far(chart, table)
    if bands:
        # a metric without a range has an empty one at a point of the chart: axes cannot be made from no rows
        points = table[~table["far"]].groupby("metric")["value"].first()
        ranges = {
            name: bands[name] if name in bands else (float(points[name]),) * 2
            for name in metrics
            if name in points or name in bands
        }
        band = _band([{"metric": name, "from": low, "to": high} for name, (low, high) in ranges.items()])
        chart = alt.layer(band.transform_filter(choose) if len(metrics) > 1 else band, chart)
    if len(metrics) > 1:
        chart = chart.add_params(_choice(metrics, "Score "))
    return _finished(chart, table, "Held-out score of each method and control, a point per split.")


def trials() -> Spec:
    """The empty chart of a table of scores, filled on the page with ``name``, ``control``, ``trial``, ``value``."""
    rows = _chart(ROW_HEIGHT).encode(y=alt.Y("name:N", title=None, sort=None))
    chart = _by_method(rows, {"name": "method", "trial": "trial", "value": "value"})
    return _finished(chart, [], "Score of each method and control, a point per trial.")


def _by_method(rows: Any, tooltips: dict[str, str]) -> Any:
    """A row for each method, with a point for each value and a bar at the mean."""
    base = rows.encode(color=_color("role", ROLES))
    points = base.mark_point(filled=True, size=90, opacity=0.85).encode(
        x=_axis(alt.X, "value", "score", zero=False), shape=_shape("role", ROLES), tooltip=_tips(**tooltips)
    )
    return alt.layer(base.mark_tick(thickness=3, size=18).encode(x="mean(value):Q"), points)


def race(table: pd.DataFrame, metric: str) -> Spec:
    """Candidates of a race: mean ``score``, and one standard deviation on either side, ``low`` to ``high``."""
    base = _rows("name", table.sort_values("score")["name"]).encode(color=_color("role", ROLES))
    points = base.mark_point(filled=True, size=90).encode(
        x=_axis(alt.X, "score", f"{metric.replace('_', ' ')} (lower is better)", zero=False),
        shape=_shape("role", ROLES),
        tooltip=_tips(name="candidate", score="score", sd="SD", splits="splits", seconds="seconds", outcome="outcome"),
    )
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    chart = _without_far(alt.layer(spread, points), table)
    return _finished(chart, table, f"Held-out {metric} of each candidate method.")


def history(table: pd.DataFrame) -> Spec:
    """One column of the training history at a time, against the epoch or iteration."""
    unit = next((name for name in ("epoch", "iteration") if name in table), "step")
    step = table[unit] if unit in table else np.arange(1, len(table) + 1)
    columns = [str(name) for name in table.columns if name != unit]
    first = [name for name in columns if "valid" in name] + [name for name in columns if "loss" in name]
    columns = list(dict.fromkeys([*first, *columns]))
    long = table[columns].assign(step=np.asarray(step)).melt("step", var_name="column")
    chart = _chart().encode(x=_axis(alt.X, "step", unit), y=_axis(alt.Y, "value", None, zero=False))
    if len(columns) > 1:
        chart = chart.add_params(_choice(columns, "Show ")).transform_filter("datum.column === which")
    chart = chart.mark_line(color=METHOD, point={"color": METHOD, "size": 18}).encode(
        tooltip=_tips(column="quantity", step=unit, value="value")
    )
    return _finished(chart, long, f"Training history by {unit}.")


def zeros(table: pd.DataFrame, words: Words) -> Spec:
    """Share of zeros of each gene before and after; ``table`` has ``zeros_before`` and ``zeros_after``."""
    titles = {"zeros_before": "zeros before", "zeros_after": "zeros after"}
    titles |= {"confident": "confident zeros", "raised": "of these, imputed above 1"}
    chart = _points(name=words.column, **titles).encode(
        x=_axis(alt.X, "zeros_before", "zeros before, share of cells", format=".0%"),
        y=_axis(alt.Y, "zeros_after", "zeros after, share of cells", format=".0%"),
    )
    rows = _sampled(table[list(titles)])
    return _finished(alt.layer(_diagonal(0, 1), chart), rows, "Share of zeros of each gene before and after imputing.")


def reliability(table: pd.DataFrame, words: Words, unit: str) -> Spec:
    """Error reduction of each gene against the amount held out; ``table`` is ``genes`` of the check."""
    part = table[table["explained"].notna() & (table["held_out"] > 0)]
    shown = _sampled(part[["explained", "lower", "upper", "held_out", "evident"]])
    shown["evidence"] = np.where(shown.pop("evident").astype(bool), "yes", "no")
    low, high = np.nanquantile(shown["explained"], [0.01, 1]) if len(shown) else (0.0, 1.0)
    domain = [min(float(low), -0.02), max(float(high), 0.02)]
    titles = {"explained": "error reduction", "lower": "95 % interval from", "upper": "to"}
    titles |= {"held_out": f"held-out {unit}", "evidence": "shown to be better"}
    chart = _points(name=words.column, **titles).encode(
        x=_axis(alt.X, "held_out", f"held-out {unit}", type="log", nice=False, padding=8),
        y=_axis(alt.Y, "explained", "error reduction", format=".0%", domain=domain, clamp=True),
        color=_color("evidence", EVIDENCE, title="shown to be better"),
        shape=_shape("evidence", EVIDENCE, title="shown to be better"),
    )
    text = f"Error reduction of each {words.column} against the number of held-out {unit}."
    return _finished(alt.layer(_line(y=0), chart), shown, text)


def mean_variance(table: pd.DataFrame, words: Words, *, logged: bool) -> Spec:
    """Variance against mean of each gene, before and after."""
    shown, parts = _sampled(table), []
    for when in TIMES:
        part = shown[["name", f"mean_{when}", f"variance_{when}"]].set_axis(["name", "mean", "variance"], axis=1)
        parts.append(part[(part[["mean", "variance"]] > 0).all(axis=1)] if logged else part)
    rows = [{"when": when, **row} for when, part in zip(TIMES, parts, strict=True) for row in part.to_dict("records")]
    # real values may be negative, and a few far from the others
    scale = {"type": "log"} if logged else {"type": "symlog", "zero": False}
    chart = _points(name=words.column, when="", mean="mean", variance="variance").encode(
        x=_axis(alt.X, "mean", f"mean of the {words.column}", **scale),
        y=_axis(alt.Y, "variance", f"variance of the {words.column}", type=scale["type"]),
        color=_color("when", TIMES),
        shape=_shape("when", TIMES),
    )
    return _finished(chart, rows, f"Mean and variance of {words.columns} over {words.rows}, before and after imputing.")


def totals(table: pd.DataFrame, words: Words, *, counted: bool) -> Spec:
    """Library size, or mean, of each cell before and after."""
    shown = _sampled(table)
    what = "library size" if counted else "mean"
    titles = {"before": f"{what} before", "after": f"{what} after"}
    x = _axis(alt.X, "before", titles["before"], zero=False).axis(tickCount=4, labelOverlap=True)
    chart = _points(name=words.row, **titles).encode(x=x, y=_axis(alt.Y, "after", titles["after"], zero=False))
    ends = shown[["before", "after"]].to_numpy()
    text = f"{what.capitalize()} of each {words.row} before and after imputing. The line means no change."
    return _finished(alt.layer(_diagonal(float(ends.min()), float(ends.max())), chart), shown, text)


def embedding(table: pd.DataFrame, when: str, *, map: str, label: str, words: Words) -> Spec:
    """A map of the cells; ``table`` has ``name``, ``x_<when>``, ``y_<when>`` and ``label`` (texts or numbers)."""
    shown = table[["name", "label"]].assign(x=table[f"x_{when}"], y=table[f"y_{when}"])
    chart = _map_of(shown, {"UMAP": "UMAP", "PCA": "PC"}[map], label, words)
    if shown["label"].dtype.kind == "f":
        scale = alt.Scale(range=[LOW, HIGH], interpolate="lab")
        chart = chart.mark_point(filled=True, size=24, opacity=0.8, aria=False)
        chart = chart.encode(color=alt.Color("label:Q", scale=scale, legend=alt.Legend(title=label, orient="top")))
    else:
        looks = looks_of(sorted(set(shown["label"]), key=natural))
        legend: dict[str, Any] = {"title": label, "columns": 2, "labelLimit": 140, "symbolLimit": len(looks)}
        picked = alt.selection_point(name="picked", fields=["label"], bind="legend")
        chart = chart.mark_point(filled=True, size=26, aria=False).add_params(picked)
        chart = chart.encode(
            color=_color("label", looks, **legend),
            shape=_shape("label", looks, **legend),
            opacity=alt.condition(picked, alt.value(0.8), alt.value(0.08)),
        )
    text = f"{map} of the {words.rows} {when} imputing, coloured by {label}."
    return _finished(_ringed(chart, shown, 340), shown.assign(cell=np.arange(len(shown))), text)


def panel(table: pd.DataFrame, *, map: str, label: str, looks: Looks, words: Words, title: str) -> Spec:
    """One of several maps of the same cells; ``table`` has ``cell``, ``label``, ``x`` and ``y``. It has no legend."""
    shown = table.rename(columns={"cell": "name"})[["name", "label", "x", "y"]]
    chart = _map_of(shown, map, label, words).mark_point(filled=True, size=22, opacity=0.8, aria=False)
    chart = chart.encode(color=_unexplained(alt.Color, looks, 0), shape=_unexplained(alt.Shape, looks, 1))
    text = f"{map} of {title}, {words.rows} coloured by {label}."
    above = alt.Title(title, anchor="start", color=INK, fontSize=13, fontWeight=600)
    return _finished(_ringed(chart, shown, 300).properties(title=above), shown.assign(cell=np.arange(len(shown))), text)


def panels(tables: dict[str, pd.DataFrame], *, map: str, label: str, looks: Looks) -> Spec:
    """Several maps of the same cells in one picture with one legend, for `still`; title -> table as for `panel`."""
    rows = pd.concat([table[["label", "x", "y"]].assign(name=title) for title, table in tables.items()])
    hidden = alt.Axis(labels=False, ticks=False, grid=False)
    legend: dict[str, Any] = {"title": label, "columns": 5, "labelLimit": 160, "symbolLimit": len(looks)}
    chart = alt.Chart(alt.NamedData(name="rows")).mark_point(filled=True, size=14, opacity=0.8, aria=False)
    chart = chart.encode(
        x=alt.X("x:Q", title=f"{map} 1", scale=alt.Scale(zero=False, nice=False, padding=8), axis=hidden),
        y=alt.Y("y:Q", title=f"{map} 2", scale=alt.Scale(zero=False, nice=False, padding=8), axis=hidden),
        color=_color("label", looks, **legend),
        shape=_shape("label", looks, **legend),
        facet=alt.Facet("name:N", columns=3, sort=list(tables), title=None, header=alt.Header(labelFontSize=12)),
    )
    chart = chart.properties(width=260, height=240).resolve_scale(x="independent", y="independent")
    spec = _finished(chart, rows.to_dict("records"), f"{map}, coloured by {label}.")
    return {key: value for key, value in spec.items() if key not in ("width", "autosize")}


def looks_of(labels: list[str], grey: tuple[str, ...] = ()) -> Looks:
    """The colour and shape of each label: first all colours, then all with the next shape; ``grey`` ones have none."""
    many = len(CATEGORIES)
    looks = {name: (CATEGORIES[place % many], SHAPES[place // many]) for place, name in enumerate(labels)}
    return looks | dict.fromkeys(grey, (MUTED, "circle"))


def _map_of(shown: pd.DataFrame, axis: str, label: str, words: Words) -> Any:
    """A map without marks; only the names of its axes mean anything."""
    hidden = alt.Axis(labels=False, ticks=False, grid=False)
    return _chart(None).encode(
        x=alt.X("x:Q", title=f"{axis} 1", scale=_around(shown["x"]), axis=hidden),
        y=alt.Y("y:Q", title=f"{axis} 2", scale=_around(shown["y"]), axis=hidden),
        tooltip=_tips(name=words.row, label=label),
    )


def _ringed(chart: Any, shown: pd.DataFrame, height: int) -> Any:
    """The map with a ring around one cell: the page sets ``cell`` to the one under the pointer in another map."""
    ring = _chart(None).transform_filter("datum.cell === cell")
    ring = ring.mark_point(size=220, strokeWidth=2.5, color=INK, aria=False).encode(
        x=alt.X("x:Q", scale=_around(shown["x"])), y=alt.Y("y:Q", scale=_around(shown["y"]))
    )
    return alt.layer(chart, ring).add_params(alt.param(name="cell", value=-1)).properties(height=height)


def _unexplained(channel: Any, looks: Looks, place: int) -> Any:
    """Labels by colour (place 0) or shape (1), without a legend."""
    scale = alt.Scale(domain=list(looks), range=[look[place] for look in looks.values()])
    return channel("label:N", scale=scale, legend=None)


def null(table: pd.DataFrame, words: Words) -> Spec:
    """Histogram of correlations between permuted genes; ``table`` has ``low``, ``high``, ``before``, ``after``."""
    long = table[["low", "high", "before", "after"]].melt(["low", "high"], var_name="when")
    chart = (
        _chart()
        .mark_bar(opacity=0.65, binSpacing=0)
        .encode(
            x=alt.X("low:Q", bin="binned", title=f"correlation between permuted {words.columns}"),
            x2="high:Q",
            y=alt.Y("value:Q", stack=None, title="share of pairs", axis=alt.Axis(format="%")),
            color=_color("when", TIMES),
            tooltip=[*_tips(when="", low="from", high="to"), alt.Tooltip("value:Q", title="share", format=".2%")],
        )
    )
    return _finished(chart, long, f"Correlations between permuted {words.columns}, before and after imputing.")


def calibration(table: pd.DataFrame, nominal: float, band: tuple[float, float]) -> Spec:
    """Share of held-out values inside the interval; ``table`` has ``stratum``, ``coverage``, ``entries``.

    ``band`` is the accepted range, which is shaded.
    """
    x = _axis(alt.X, "coverage", "share inside the 90 % interval", zero=False).axis(format=".1%", tickCount=4)
    tooltip = _tips(stratum="predicted mean", coverage="inside", entries="held-out values")
    points = _rows("stratum", table["stratum"], "predicted mean").encode(x=x, tooltip=tooltip)
    points = points.mark_point(filled=True, size=90, color=METHOD)
    return _finished(
        alt.layer(_band([{"from": band[0], "to": band[1]}]), _line(x=nominal), points),
        table,
        "Coverage of the 90 % interval by predicted mean.",
    )


def mixing(table: pd.DataFrame, name: str) -> Spec:
    """Share of neighbours with the same label; ``table`` has ``label``, ``before``, ``after``, ``chance``."""
    looks = TIMES | {"chance": (INK, "cross")}
    chart = _rows("label", table["label"]).mark_point(filled=True, size=90)
    chart = chart.encode(
        x=_axis(alt.X, "value", f"neighbours with the same {name}", format=".0%"),
        color=_color("when", looks),
        shape=_shape("when", looks),
        tooltip=_tips(label=name, when="", value="share"),
    )
    long = table[["label", *looks]].melt("label", var_name="when")
    return _finished(chart, long, f"Share of the nearest neighbours of a cell that have the same {name}.")


def against_parameter(table: pd.DataFrame, x: str, metric: str, *, ordinal: bool) -> Spec:
    """Means against a parameter with their 95 % intervals; ``table`` is a part of
    `imputome.studies.figures.figure_data`. Controls are dashed lines with their names.
    """
    rows, controls = table[~table["control"]], table[table["control"]]
    lines = distinct(rows["line"])
    looks = {name: (CATEGORIES[place % len(CATEGORIES)], "circle") for place, name in enumerate(lines)}
    if ordinal:
        rows = rows.sort_values("x", kind="stable").assign(x=[_short(value) for value in sorted(rows["x"])])
        place = alt.X("x:O", title=x, sort=distinct(rows["x"]), axis=alt.Axis(labelAngle=0))
    else:
        place = _axis(alt.X, "x", x, zero=False)
    y = _axis(alt.Y, "mean", metric.replace("_", " "), zero=False)
    fitting = max(1, LEGEND_WIDTH // (3 + max(map(len, lines), default=0)))
    columns: dict[str, Any] = {"columns": fitting} if len(lines) > fitting else {}
    color = _color("line", looks, **columns) if lines != [""] else alt.value(METHOD)
    base = _chart().encode(x=place, color=color).transform_filter("!datum.name")
    tooltip = _tips(x=x, **({"line": ""} if lines != [""] else {}), mean="mean", low="from", high="to", n="trials")
    if ordinal:
        tooltip[0] = alt.Tooltip("x:O", title=x)
    drawn = [
        base.mark_line().encode(y=y),
        base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q"),
        base.mark_point(filled=True, size=60).encode(y=y, tooltip=tooltip),
    ]
    if len(controls):
        below = _chart().transform_filter("datum.name").encode(y=y)
        drawn.append(
            below.mark_rule(color=CONTROL, strokeDash=[4, 4]).encode(tooltip=_tips(name="control", mean="mean"))
        )
        text = {"align": "left", "baseline": "bottom", "dx": 4, "dy": -2, "color": CONTROL, "fontSize": 11}
        drawn.append(below.mark_text(**text).encode(x=alt.value(0), text="name:N"))
    shown = ["x", "line", "mean", "low", "high", "n", "name"]
    every = rows.assign(name="")[shown].to_dict("records")
    every += controls.assign(name=controls["line"])[shown[1:]].to_dict("records")
    return _finished(alt.layer(*drawn), every, f"{metric} against {x}.")


def by_configuration(table: pd.DataFrame, metric: str) -> Spec:
    """Means of configurations with their 95 % intervals, a row for each; controls are squares."""
    table = table.assign(name=table["x"])
    base = _rows("name", table["name"]).encode(color=_color("role", ROLES))
    tooltip = _tips(name="configuration", mean="mean", low="from", high="to", n="trials")
    points = base.mark_point(filled=True, size=90).encode(
        x=_axis(alt.X, "mean", metric.replace("_", " "), zero=False), shape=_shape("role", ROLES), tooltip=tooltip
    )
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    kept = table.drop(columns=["dataset", "scheme", "x", "line"])
    return _finished(alt.layer(spread, points), kept, f"{metric} of each configuration.")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def still(spec: Spec, style: str, width: int | None = 440) -> str:
    """A chart as an SVG picture with the light colours of ``style``, the style sheet of the pages.

    With ``width=None`` it is as wide as the specification says, as `panels`.
    """
    import vl_convert

    colors = dict(reversed(re.findall(r"(--[\w-]+):\s*(#\w+)", style)))  # the first of a name is the light one
    text = re.sub(r"var\((--[\w-]+)\)", lambda found: colors[found[1]], json.dumps(spec))
    fixed: Spec = {"autosize": {"type": "pad"}, "background": "white"} | ({"width": width} if width else {})
    return str(vl_convert.vegalite_to_svg(json.loads(text) | fixed))


# -- what charts share -------------------------------------------------------------------------------------------------
def _chart(height: int | None = HEIGHT) -> Any:
    return alt.Chart(alt.NamedData(name="rows")).properties(**({} if height is None else {"height": height}))


def _rows(field: str, names: Any, title: str | None = None) -> Any:
    """A chart with a row for each name; Vega-Lite's own steps give a warning in a chart of variable width."""
    order = distinct(names)
    chart = _chart(ROW_HEIGHT * max(len(order), 1) + 10)
    return chart.encode(y=alt.Y(f"{field}:N", sort=order, title=title))


def _axis(channel: Any, field: str, title: str | None, *, format: str = "", **scale: Any) -> Any:
    """An axis of numbers; ``channel`` is ``alt.X`` or ``alt.Y``."""
    options: dict[str, Any] = {"axis": alt.Axis(format=format)} if format else {}
    return channel(f"{field}:Q", title=title, **options, **({"scale": alt.Scale(**scale)} if scale else {}))


def _color(field: str, looks: dict[str, tuple[str, str]], title: str | None = None, **legend: Any) -> Any:
    """Groups by colour; ``looks`` gives each its colour and shape."""
    scale = alt.Scale(domain=list(looks), range=[color for color, _ in looks.values()])
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend(title=title, orient="top", **legend))


def _shape(field: str, looks: dict[str, tuple[str, str]], title: str | None = None, **legend: Any) -> Any:
    """Groups by shape, in the legend of `_color`."""
    scale = alt.Scale(domain=list(looks), range=[shape for _, shape in looks.values()])
    return alt.Shape(f"{field}:N", scale=scale, legend=alt.Legend(title=title, orient="top", **legend))


def _points(**tooltips: str) -> Any:
    """A cloud of many points; without `aria` a screen reader would read out each of them."""
    mark = {"filled": True, "size": 26, "opacity": 0.6, "color": METHOD, "aria": False}
    return _chart().mark_point(**mark).encode(tooltip=_tips(**tooltips))


def _diagonal(low: float, high: float) -> Any:
    ends = alt.Data(values=[{"x": low, "y": low}, {"x": high, "y": high}])
    return alt.Chart(ends).mark_line(color=INK, strokeDash=[4, 4], strokeWidth=1).encode(x="x:Q", y="y:Q")


def _line(**at: float) -> Any:
    """A dashed line at ``x`` or at ``y``."""
    (name,) = at
    return alt.Chart(alt.Data(values=[at])).mark_rule(color=INK, strokeDash=[4, 4]).encode(**{name: f"{name}:Q"})


def _band(rows: list[dict[str, Any]]) -> Any:
    """A shaded range of x, from ``from`` to ``to``, over the whole height."""
    return alt.Chart(alt.Data(values=rows)).mark_rect(color=BAND, opacity=0.16).encode(x="from:Q", x2="to:Q")


def _choice(values: list[str], name: str) -> Any:
    """A list above the chart; its value is ``which`` in filters."""
    return alt.param(name="which", value=values[0], bind=alt.binding_select(options=values, name=name))


def _without_far(chart: Any, table: pd.DataFrame) -> Any:
    """The chart, with a box above it that hides the rows marked ``far``, if there are any."""
    if not table["far"].any():
        return chart
    box = alt.param(name="near", value=True, bind=alt.binding_checkbox(name="Hide outlying methods "))
    return chart.transform_filter("!(near && datum.far)").add_params(box)


def _around(values: pd.Series) -> Any:
    """A scale that holds all values, also where only some of them are drawn."""
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    return alt.Scale(domain=[rounded(low - margin, DIGITS), rounded(high + margin, DIGITS)], nice=False)


def _tips(**titles: str) -> list[Any]:
    """Tooltips: field -> title."""
    return [
        alt.Tooltip(f"{field}:N", title=title or "values")
        if field in TEXT_FIELDS
        else alt.Tooltip(f"{field}:Q", title=title, format=",.4~g")
        for field, title in titles.items()
    ]


def natural(text: str) -> list[Any]:
    """A sort key by which ``cluster 2`` comes before ``cluster 10``."""
    parts = re.split(r"(\d+)", text)  # texts and numbers alternate, so that like is compared with like
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _sampled(table: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_POINTS rows, the same each time, with the index as column ``name`` if there is none of that name."""
    if len(table) > MAX_POINTS:
        table = table.iloc[np.sort(np.random.default_rng(0).choice(len(table), MAX_POINTS, replace=False))]
    return table if "name" in table else table.assign(name=table.index.astype(str)).reset_index(drop=True)


def _finished(chart: Any, rows: pd.DataFrame | list[dict[str, Any]], description: str) -> Spec:
    """The specification with its data, as wide as its place on the page."""
    spec: Spec = chart.to_dict()
    del spec["$schema"]
    spec.pop("config", None)
    rows = rows if isinstance(rows, list) else rows.to_dict("records")
    rows = [{str(name): rounded(value, DIGITS) for name, value in row.items()} for row in rows]
    for row in rows:
        if "control" in row:
            row["role"] = "control" if row.pop("control") else "method"
    spec["datasets"] = {**spec.get("datasets", {}), "rows": rows}
    fit = {"type": "fit-x", "contains": "padding"}
    return spec | {"width": "container", "autosize": fit, "description": description}
