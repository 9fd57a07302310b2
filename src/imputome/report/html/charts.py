"""Charts of the report as Vega-Lite specifications, made by Altair; no numbers are computed here.

Every chart fills the width of its place, names its values in tooltips and carries a description for those who do not
see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.report.html import vega as spec
from imputome.report.html.vega import Spec

if TYPE_CHECKING:
    import pandas as pd


def scores(table: pd.DataFrame) -> Spec:
    """Held-out scores: a row for each method, a point for each split, one metric at a time.

    ``table`` has ``name``, ``control``, ``split``, ``metric``, ``value``, and ``far``: what may be left out.
    """
    alt = spec.altair()
    metrics = spec.distinct(table["metric"])
    names = spec.distinct(table["name"])
    base = spec.chart(alt, height=spec.tall(len(names))).encode(
        y=alt.Y("name:N", sort=names, title=None), color=spec.role(alt)
    )
    points = base.mark_point(filled=True, size=90, opacity=0.85).encode(
        x=alt.X("value:Q", title="score", scale=alt.Scale(zero=False)),
        shape=spec.role_shape(alt),
        tooltip=spec.tips(alt, name="method", metric="score", split="split", value="value"),
    )
    means = base.mark_tick(thickness=3, size=18).encode(x="mean(value):Q")  # a field more would part the mean
    chart = alt.layer(means, points)
    if len(metrics) > 1:
        chart = chart.transform_filter("datum.metric === which").add_params(spec.choice(metrics, "score "))
    if table["far"].any():
        chart = chart.transform_filter("!(near && datum.far)").add_params(spec.only_near())
    return spec.finished(chart, table, "Score of each method and control on values it has not seen; one point a split.")


def race(table: pd.DataFrame, metric: str) -> Spec:
    """Candidates of a race: mean score with one standard deviation either way.

    ``table`` has ``name``, ``control``, ``far``, ``score``, ``low``, ``high``, ``sd``, ``splits``, ``seconds`` and
    ``outcome``.
    """
    alt = spec.altair()
    names = spec.distinct(table.sort_values("score")["name"])
    base = spec.chart(alt, height=spec.tall(len(names))).encode(
        y=alt.Y("name:N", sort=names, title=None), color=spec.role(alt)
    )
    title = f"{metric.replace('_', ' ')} (lower is better)"
    tips = spec.tips(
        alt, name="candidate", score="score", sd="SD", splits="splits", seconds="seconds", outcome="outcome"
    )
    points = base.mark_point(filled=True, size=90).encode(
        x=alt.X("score:Q", title=title, scale=alt.Scale(zero=False)), shape=spec.role_shape(alt), tooltip=tips
    )
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    chart = alt.layer(spread, points)
    if table["far"].any():
        chart = chart.transform_filter("!(near && datum.far)").add_params(spec.only_near())
    return spec.finished(chart, table, f"Held-out {metric} of each candidate of the race.")


def history(table: pd.DataFrame) -> Spec:
    """One column of the training history at a time, against the step."""
    alt = spec.altair()
    steps = "epoch" if "epoch" in table else "iteration" if "iteration" in table else "step"
    step = table[steps] if steps in table else np.arange(1, len(table) + 1)
    columns = [str(name) for name in table.columns if name != steps]
    first = [name for name in columns if "valid" in name] + [name for name in columns if "loss" in name]
    columns = list(dict.fromkeys([*first, *columns]))
    long = spec.stack(table[columns].assign(step=np.asarray(step)))
    chart = spec.chart(alt, height=spec.HEIGHT).encode(
        x=alt.X("step:Q", title=steps), y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    )
    if len(columns) > 1:
        chart = chart.add_params(spec.choice(columns, "column ")).transform_filter("datum.column === which")
    chart = chart.mark_line(color=spec.METHOD, point={"color": spec.METHOD, "size": 18}).encode(
        tooltip=spec.tips(alt, column="column", step=steps, value="value")
    )
    return spec.finished(chart, long, f"How the fit went, {steps} by {steps}.")


def zeros(table: pd.DataFrame, words: tuple[str, str]) -> Spec:
    """Share of zeros of each gene before and after; ``table`` has ``zeros_before`` and ``zeros_after``."""
    alt = spec.altair()
    shown = spec.named(table[["zeros_before", "zeros_after", "confident", "raised"]])
    tips = spec.tips(alt, name=words[1][:-1], zeros_before="zeros before", zeros_after="zeros after")
    tips += spec.tips(alt, confident="confident zeros", raised="raised over 1")
    percent = alt.Axis(format=".0%")
    chart = spec.points(alt, tips).encode(
        x=alt.X("zeros_before:Q", title="zeros before", axis=percent),
        y=alt.Y("zeros_after:Q", title="zeros after", axis=percent),
    )
    return spec.finished(
        alt.layer(spec.diagonal(alt, 0, 1), chart), shown, "Share of zeros of each gene, before and after."
    )


def reliability(table: pd.DataFrame, words: tuple[str, str], unit: str) -> Spec:
    """What is explained of each gene against how much was held out; ``table`` as the check's ``genes``."""
    alt = spec.altair()
    part = table[table["explained"].notna() & (table["held_out"] > 0)]
    shown = spec.named(part[["explained", "lower", "upper", "held_out"]])
    shown["evidence"] = np.where(part["evident"].loc[spec.kept(part)].astype(bool), "yes", "no")
    names = {"explained": "explained", "lower": "95 % from", "upper": "to", "held_out": f"held-out {unit}"}
    low, high = np.nanquantile(shown["explained"], [0.01, 1]) if len(shown) else (0.0, 1.0)
    chart = spec.points(alt, spec.tips(alt, name=words[1][:-1], **names, evidence="evidence")).encode(
        x=alt.X("held_out:Q", title=f"held-out {unit} it rests on", scale=alt.Scale(type="log", nice=False, padding=8)),
        y=alt.Y(
            "explained:Q",
            title="explained beyond the reference",
            scale=alt.Scale(domain=[min(float(low), -0.02), max(float(high), 0.02)], clamp=True),
        ),
        color=alt.Color(
            "evidence:N",
            scale=alt.Scale(domain=["yes", "no"], range=[spec.METHOD, spec.CONTROL]),
            legend=spec.legend(alt, "evident"),
        ),
        shape=alt.Shape("evidence:N", scale=alt.Scale(domain=["yes", "no"], range=["circle", "triangle-down"])),
    )
    zero = alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color=spec.INK, strokeDash=[4, 4]).encode(y="y:Q")
    return spec.finished(alt.layer(zero, chart), shown, "What is explained of each gene against what that rests on.")


def mean_variance(table: pd.DataFrame, words: tuple[str, str], *, logged: bool) -> Spec:
    """Variance against mean of each gene, before and after."""
    alt = spec.altair()
    kept = table.loc[spec.kept(table)]
    parts = {
        when: kept[[f"mean_{when}", f"variance_{when}"]].set_axis(["mean", "variance"], axis=1)
        for when in ("before", "after")
    }
    rows: list[dict[str, Any]] = []
    for when, part in parts.items():
        if logged:
            part = part[(part["mean"] > 0) & (part["variance"] > 0)]
        rows += [
            {"name": str(name), "when": when, "mean": spec.short(mean), "variance": spec.short(variance)}
            for name, mean, variance in zip(part.index, part["mean"], part["variance"], strict=True)
        ]
    scale = alt.Scale(type="log") if logged else alt.Scale(type="symlog", zero=False)  # a few values may be far off
    chart = spec.points(alt, spec.tips(alt, name=words[1][:-1], when="", mean="mean", variance="variance")).encode(
        x=alt.X("mean:Q", title=f"mean of the {words[1][:-1]}", scale=scale),
        y=alt.Y("variance:Q", title="variance", scale=alt.Scale(type="log" if logged else "symlog")),
        color=spec.when(alt),
        shape=alt.Shape("when:N", scale=alt.Scale(domain=["before", "after"], range=["circle", "triangle-up"])),
    )
    return spec.finished(chart, rows, f"Mean and variance of {words[1]} over {words[0]}, before and after.")


def totals(table: pd.DataFrame, words: tuple[str, str], *, counted: bool) -> Spec:
    """Each cell's total, or mean, before and after."""
    alt = spec.altair()
    shown = table.loc[spec.kept(table)]
    what = "library size" if counted else "mean"
    tips = spec.tips(alt, name=words[0][:-1], before=f"{what} before", after=f"{what} after")
    low, high = (float(end([shown[name].min(), shown[name].max()])) for name, end in (("before", min), ("before", max)))
    chart = spec.points(alt, tips).encode(
        x=alt.X("before:Q", title=f"{what} before", scale=alt.Scale(zero=False), axis=spec.few(alt)),
        y=alt.Y("after:Q", title=f"{what} after", scale=alt.Scale(zero=False)),
    )
    text = f"{what.capitalize()} of each of the {words[0]}, before and after; the line is where nothing changed."
    return spec.finished(alt.layer(spec.diagonal(alt, low, high), chart), shown, text)


def embedding(table: pd.DataFrame, when: str, *, map: str, label: str, words: tuple[str, str]) -> Spec:
    """Cells in the plane; ``table`` has ``name``, ``x_<when>``, ``y_<when>`` and ``label`` (texts, or numbers)."""
    alt = spec.altair()
    shown = table[["name", "label"]].assign(x=table[f"x_{when}"], y=table[f"y_{when}"], cell=np.arange(len(table)))
    axis = {"UMAP": "UMAP", "PCA": "PC"}[map]
    hidden = alt.Axis(labels=False, ticks=False, grid=False)
    chart = spec.chart(alt).encode(
        x=alt.X("x:Q", title=f"{axis} 1", scale=spec.around(shown["x"]), axis=hidden),
        y=alt.Y("y:Q", title=f"{axis} 2", scale=spec.around(shown["y"]), axis=hidden),
        tooltip=spec.tips(alt, name=words[0][:-1], label=label),
    )
    if shown["label"].dtype.kind == "f":
        color = alt.Color(
            "label:Q",
            scale=alt.Scale(range=[spec.LOW, spec.HIGH], interpolate="lab"),
            legend=spec.legend(alt, label, orient="top"),
        )
        chart = chart.mark_point(filled=True, size=24, opacity=0.8, aria=False).encode(color=color)
    else:
        names = sorted(set(shown["label"]), key=spec.natural)
        colors = [spec.CATEGORIES[place % len(spec.CATEGORIES)] for place in range(len(names))]
        shapes = [spec.SHAPES[place // len(spec.CATEGORIES)] for place in range(len(names))]
        legend = spec.legend(alt, label, columns=2, labelLimit=140, symbolLimit=len(names))
        picked = alt.selection_point(name="picked", fields=["label"], bind="legend")
        chart = (
            chart.mark_point(filled=True, size=26, aria=False)
            .encode(
                color=alt.Color("label:N", scale=alt.Scale(domain=names, range=colors), legend=legend),
                shape=alt.Shape("label:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
                opacity=alt.condition(picked, alt.value(0.8), alt.value(0.08)),
            )
            .add_params(picked)
        )
    # the page sets `cell` to the one that is pointed at in the other map
    ring = (
        spec.chart(alt)
        .transform_filter("datum.cell === cell")
        .mark_point(size=220, strokeWidth=2.5, color=spec.INK, aria=False)
        .encode(x=alt.X("x:Q", scale=spec.around(shown["x"])), y=alt.Y("y:Q", scale=spec.around(shown["y"])))
    )
    both = alt.layer(chart, ring).add_params(alt.param(name="cell", value=-1)).properties(height=340)
    return spec.finished(both, shown, f"{map} of {words[0]} {when} imputing, coloured by {label}.")


def null(table: pd.DataFrame, words: tuple[str, str]) -> Spec:
    """Histogram of correlations between permuted genes; ``table`` has ``low``, ``high``, ``before``, ``after``."""
    alt = spec.altair()
    long = spec.stack(table[["before", "after"]].assign(low=table["low"], high=table["high"]), name="when")
    chart = (
        spec.chart(alt, height=spec.HEIGHT)
        .mark_bar(opacity=0.65, binSpacing=0)
        .encode(
            x=alt.X("low:Q", bin="binned", title=f"correlation between permuted {words[1]}"),
            x2="high:Q",
            y=alt.Y("value:Q", stack=None, title="share of pairs", axis=alt.Axis(format="%")),
            color=spec.when(alt),
            tooltip=[
                *spec.tips(alt, when="", low="from", high="to"),
                alt.Tooltip("value:Q", title="share", format=".2%"),
            ],
        )
    )
    return spec.finished(chart, long, f"Correlations between permuted {words[1]}, before and after.")


def calibration(table: pd.DataFrame, nominal: float) -> Spec:
    """Share of held-out values inside the interval per stratum; has ``stratum``, ``coverage``, ``entries``."""
    alt = spec.altair()
    order = spec.distinct(table["stratum"])
    chart = spec.chart(alt, height=spec.tall(len(order))).encode(
        y=alt.Y("stratum:N", sort=order, title="predicted mean")
    )
    points = chart.mark_point(filled=True, size=90, color=spec.METHOD).encode(
        x=alt.X(
            "coverage:Q",
            title="inside the 90 % interval",
            scale=alt.Scale(zero=False),
            axis=alt.Axis(format=".1%", tickCount=4),
        ),
        tooltip=spec.tips(alt, stratum="predicted mean", coverage="inside", entries="entries"),
    )
    line = alt.Chart(alt.Data(values=[{"x": nominal}])).mark_rule(color=spec.INK, strokeDash=[4, 4]).encode(x="x:Q")
    return spec.finished(alt.layer(line, points), table, "Coverage of the 90 % interval by predicted mean.")


def mixing(table: pd.DataFrame, name: str) -> Spec:
    """Share of neighbours of a cell's own label; ``table`` has ``label``, ``before``, ``after``, ``chance``."""
    alt = spec.altair()
    order = spec.distinct(table["label"])
    whens = ["before", "after", "chance"]
    long = spec.stack(table[whens].assign(label=table["label"]), name="when")
    chart = (
        spec.chart(alt, height=spec.tall(len(order)))
        .mark_point(filled=True, size=90)
        .encode(
            y=alt.Y("label:N", sort=order, title=None),
            x=alt.X("value:Q", title=f"neighbours with the same {name}", axis=alt.Axis(format=".0%")),
            color=alt.Color(
                "when:N",
                scale=alt.Scale(domain=whens, range=[spec.BEFORE, spec.AFTER, spec.INK]),
                legend=spec.legend(alt, None),
            ),
            shape=alt.Shape(
                "when:N",
                scale=alt.Scale(domain=whens, range=["circle", "triangle-up", "cross"]),
                legend=spec.legend(alt, None),
            ),
            tooltip=spec.tips(alt, label=name, when="", value="share"),
        )
    )
    return spec.finished(chart, long, f"Share of a cell's nearest neighbours that carry its own {name}.")


def trials() -> Spec:
    """The empty chart of a study, filled on the page: ``name``, ``control``, ``trial``, ``value``."""
    alt = spec.altair()
    base = spec.chart(alt, height=spec.ROW).encode(y=alt.Y("name:N", sort=None, title=None), color=spec.role(alt))
    points = base.mark_point(filled=True, size=80, opacity=0.85).encode(
        x=alt.X("value:Q", title="score", scale=alt.Scale(zero=False)),
        shape=spec.role_shape(alt),
        tooltip=spec.tips(alt, name="method", trial="trial", value="value"),
    )
    means = base.mark_tick(thickness=3, size=18).encode(x="mean(value):Q")
    return spec.finished(alt.layer(means, points), [], "Score of each method and control; one point a trial.")
