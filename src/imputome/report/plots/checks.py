"""Plots of what the check of an imputation found, from the record of the result."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.metrics import METRICS
from imputome.report.before_after import stored
from imputome.report.plots import style
from imputome.result.record import Verdict, find_record, find_verdict, meant
from imputome.trust.null import STRONG
from imputome.trust.zeros import zeros_before_and_after

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

SIGNS = {
    "use": ("\u2713", style.GREEN),
    "use for visualisation only": ("!", style.ORANGE),
    "do not impute": ("\u2717", style.VERMILLION),
}
BEST = {"lower": "less is better", "higher": "more is better", "one": "best at 1", "nominal": "best at 0.9"}


class _Line(NamedTuple):
    text: str
    size: float
    weight: str = "normal"
    before: float = 0.0  # room above, in lines
    hanging: str = ""


# -- verdict -----------------------------------------------------------------------------------------------------------
def verdict(adata: AnnData, key: str | None = None, *, ax: Axes | None = None) -> Axes:
    """The verdict in words, its reasons, and the figures of the method beside those of controls.

    Parameters
    ----------
    adata : with a result that was checked (``impute(..., check=True)``).
    key : of the result; None means the only one.
    ax : where to draw; None makes a figure as high as the text needs.
    """
    key, record = find_record(adata, key)
    found = find_verdict(key, record)
    lines = _verdict_lines(key, found)
    if ax is None:
        ax = style.one_axes(None, (7.5, 1))
        ax.set_position((0.02, 0.04, 0.96, 0.92))
        height = sum(_points(block, size) + above for _, size, above, block in _wrapped(ax, lines))
        ax.figure.set_size_inches(7.5, height / 72 / 0.92)  # type: ignore[union-attr]
        wrapped = _wrapped(ax, lines)
    else:  # smaller letters where the text would not fit
        room = ax.get_window_extent().height * 72 / ax.figure.dpi
        for scale in (1.0, 0.9, 0.8, 0.7, 0.6):
            smaller = [line._replace(size=line.size * scale) for line in lines]
            wrapped = _wrapped(ax, smaller)
            if sum(_points(block, size) + above for _, size, above, block in wrapped) <= room:
                break
    ax.set_axis_off()
    sign, color = SIGNS.get(found.verdict, ("?", style.GREY))
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((0, 0), 0.012, 1, transform=ax.transAxes, color=color, linewidth=0))
    down = 0.0
    for place, (line, size, above, block) in enumerate(wrapped):
        down += above
        text = f"{sign} {block}" if place == 0 else block
        options: dict[str, Any] = {"fontsize": size, "fontweight": line.weight, "linespacing": 1.3}
        at: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "ha": "left"}
        ax.annotate(text, (0.03, 1.0), xytext=(0, -down), annotation_clip=False, **at, **options)
        down += _points(block, size)
    return ax


def _verdict_lines(key: str, found: Verdict) -> list[_Line]:
    lines = [
        _Line(found.verdict, 16, "bold"),
        _Line(f"{found.method}, layer {key!r}, looked at on {found.cells:,} {_rows(found)}", 10, before=0.2),
    ]
    lines += [
        _Line(f"\u2022 {reason}", 11, before=0.7 if place == 0 else 0.25, hanging="  ")
        for place, reason in enumerate(found.reasons)
    ]
    figures = key_figures(found)
    lines += [
        _Line(text, 9.5, before=1.0 if place == 0 else 0.25, hanging="    ") for place, text in enumerate(figures)
    ]
    return lines


def _rows(found: Verdict) -> str:
    return "cells" if found.kind == "counts" else "samples"


def _wrapped(ax: Axes, lines: list[_Line]) -> list[tuple[_Line, float, float, str]]:
    """(line, size, points above it, text broken to the width of the axes)."""
    out = []
    for line in lines:
        letters = int(style.width_in_letters(ax, line.size) * (0.95 if line.weight == "normal" else 0.8))
        block = "\n".join(textwrap.wrap(line.text, letters, subsequent_indent=line.hanging))
        out.append((line, line.size, line.before * line.size, block))
    return out


def _points(block: str, size: float) -> float:
    return (block.count("\n") + 1) * size * 1.4


def key_figures(found: Verdict) -> list[str]:
    """The figures that a verdict rests on, each as a line with what it is to be compared with."""
    method, out = found.method, []
    scores = found.scores
    metric = _main_metric(found)
    if metric in set(scores["metric"]):
        mean = scores[scores["metric"] == metric].groupby("method")["value"].mean()
        own = float(mean[method])
        others = mean.drop(method).sort_values()
        beside = [f"{name} {value:.4g} ({_against(own, float(value))})" for name, value in others.items()]
        out.append(f"Held-out {_name(metric)}, less is better: {own:.4g}; controls: {', '.join(beside)}")
    genes = found.genes
    if len(genes):
        judged = int(np.isfinite(genes["explained"]).sum())
        what = "Genes" if found.kind == "counts" else "Features"
        out.append(f"{what} explained beyond {found.reference}: {int(genes['evident'].sum()):,} of {judged:,} judged")
    if len(found.null):
        before, after = strong_shares(found.null)
        out.append(
            f"Unrelated (permuted) pairs that correlate by {STRONG:g} or more: {style.share(before)} before, "
            f"{style.share(after)} after imputing"
        )
    if "confident" in genes and genes["confident"].sum():
        number = int(genes["confident"].sum())
        raised = style.share(genes["raised"].sum() / number)
        out.append(f"Confident biological zeros raised over one count: {raised} of {number:,}")
    coverage = scores[(scores["metric"] == "coverage_90") & (scores["method"] == method)]["value"]
    if len(coverage):
        where = ", where it is furthest from that" if found.kind == "counts" else ""
        out.append(f"Coverage of 90 % intervals{where}: {style.share(float(coverage.mean()))}")
    return out


def strong_shares(null: pd.DataFrame) -> tuple[float, float]:
    """Share of pairs of permuted genes whose correlation is 0.5 or more, either way, before and after imputing."""
    strong = (null["low"] >= STRONG - 1e-9) | (null["high"] <= -STRONG + 1e-9)
    return float(null["before"][strong].sum()), float(null["after"][strong].sum())


def _against(own: float, other: float) -> str:
    gap = (own - other) / other
    percent = 100 * abs(gap)
    return f"{percent:.{0 if percent >= 10 else 1}f} % {'less' if gap < 0 else 'more'}"


def _main_metric(found: Verdict) -> str:
    return "poisson_deviance" if found.kind == "counts" else "rmse"


def _name(metric: str) -> str:
    names = {"poisson_deviance": "Poisson deviance per entry", "rmse": "RMSE in standard deviations of the feature"}
    return names.get(metric, METRICS[metric].description if metric in METRICS else metric)


# -- scores ------------------------------------------------------------------------------------------------------------
def scores(adata: AnnData, key: str | None = None, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Held-out score of the method beside the controls: a point for each split, a line at the mean.

    Parameters
    ----------
    adata, key, ax : as in `verdict`.
    metric : None takes Poisson deviance (counts) or RMSE (real values); ``verdict["scores"]`` has the others.

    Raises
    ------
    InputError
        The result was not checked, or the metric was not measured.
    """
    key, record = find_record(adata, key)
    found = find_verdict(key, record)
    table = found.scores
    metric = metric or _main_metric(found)
    part = table[table["metric"] == metric]
    if part.empty:
        raise InputError(f"{metric!r} was not measured; metrics here: {', '.join(table['metric'].unique())}")
    better = METRICS[metric].better if metric in METRICS else "lower"
    ideal = {"one": 1.0, "nominal": 0.9}.get(better)
    mean = part.groupby("method")["value"].mean()
    rank = {"higher": -mean, "lower": mean}.get(better, (mean - (ideal or 0)).abs())
    order = list(rank.sort_values().index)
    control = part.groupby("method")["control"].first()
    ax = style.one_axes(ax, (6.5, 1.3 + 0.38 * len(order)))
    own = style.method_color(ax)
    for place, name in enumerate(order):
        values = part.loc[part["method"] == name, "value"].to_numpy(dtype=float)
        color, fill = (style.CONTROL, "none") if control[name] else (own, own)
        marks: dict[str, Any] = {"linestyle": "none", "color": color, "markersize": 7, "clip_on": False}
        ax.plot(values, np.full(len(values), place), "s" if control[name] else "o", markerfacecolor=fill, **marks)
        ax.plot([values.mean()], [place], "|", **{**marks, "markersize": 18, "markeredgewidth": 2})
    if ideal is not None:
        ax.axvline(ideal, color=style.foreground(), linewidth=1, linestyle="--", alpha=0.6)
    shown = part["value"].to_numpy(dtype=float)
    if better == "lower" and shown.min() > 0 and shown.max() > 10 * shown.min():
        ax.set_xscale("log")
    names = [f"{name} (control)" if control[name] else str(name) for name in order]
    ax.set_yticks(range(len(order)), names)
    for label, name in zip(ax.get_yticklabels(), order, strict=True):
        label.set_fontweight("normal" if control[name] else "bold")
    ax.set_ylim(len(order) - 0.5, -0.5)
    splits = part["split"].nunique()
    ax.set_xlabel(f"{_name(metric)} ({BEST[better]})")
    hidden = "molecules" if found.kind == "counts" else "values"
    ax.set_title(f"{found.method} on {hidden} it has not seen\npoints: {splits} splits, line: their mean")
    style.tidy(ax, grid="x")
    return ax


# -- zeros -------------------------------------------------------------------------------------------------------------
def zeros(adata: AnnData, key: str | None = None, *, before: str | None = None, ax: Axes | None = None) -> Axes:
    """Share of zeros of each gene, before against after imputing; counts only.

    From the record where the result was checked (a sample of the cells), else counted from the counts and the layer, in
    blocks of rows. An imputed count under 0.5 is a zero. A confident biological zero is one that a cell which expresses
    the gene would show with a chance under 1 % (`imputome.trust.zeros`).

    Parameters
    ----------
    adata, key, ax : as in `verdict`; a result that was not checked will do.
    before : layer that holds the counts, if they are no longer where they were when the result was made.

    Raises
    ------
    InputError
        Real values, or counts that are not there any more.
    """
    key, record = find_record(adata, key)
    if record.input.kind != "counts":
        raise InputError(
            f"zeros mean nothing special in real values, and {key!r} was made of such: plot pl.before_after"
        )
    if record.verdict is not None and before is None and "zeros_before" in record.verdict.genes:
        genes, cells = record.verdict.genes, record.verdict.cells
        x, y = genes["zeros_before"].to_numpy(), genes["zeros_after"].to_numpy()
        confident, raised = int(genes["confident"].sum()), int(genes["raised"].sum())
    else:
        result = stored(adata, key, before)
        if result.state != "counts":
            raise InputError(f"{key!r} was made of {result.state} values: zeros are counted where raw counts came in")
        if key not in adata.layers:
            raise InputError(f"{key!r} holds some genes only: impute all of them to see the zeros")
        counted, cells = zeros_before_and_after(result.imputation()), adata.n_obs
        x, y, confident, raised = counted.before, counted.after, counted.confident.sum(), counted.raised.sum()
    ax = style.one_axes(ax, (5.2, 5.2))
    ax.plot([0, 1], [0, 1], color=style.foreground(), linewidth=1, linestyle="--", alpha=0.6)
    ax.text(0.02, 0.09, "as before", rotation=45, fontsize=9, alpha=0.8, transform_rotates_text=True)
    ax.scatter(x, y, s=14, color=style.method_color(ax), alpha=0.6, linewidths=0, clip_on=False)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_xlabel("zeros of a gene before, share of cells")
    ax.set_ylabel(f"zeros after {key}\n(count under 0.5), share of cells")
    said = f"{style.share(raised / confident)} of {confident:,}" if confident else "there are no"
    ending = " raised over 1" if confident else ""
    ax.set_title(f"Zeros of {len(x):,} genes in {cells:,} cells\n{said} confident zeros{ending}", fontsize=11)
    style.percent(ax, "x", "y", decimals=0)
    style.tidy(ax, grid="both")
    return ax


# -- reliability -------------------------------------------------------------------------------------------------------
def reliability(
    adata: AnnData, key: str | None = None, *, genes: str | Iterable[str] | None = None, ax: Axes | None = None
) -> Axes:
    """What the method explains of each gene beyond the reference, with 95 % intervals, genes in order.

    The share of the reference's held-out error that the method takes away: over 0 it is better than the reference. An
    evident gene's whole interval lies over 0, and it stays so at a false discovery rate of 5 %.

    Parameters
    ----------
    adata, key, ax : as in `verdict`.
    genes : names that are written beside their points.

    Raises
    ------
    InputError
        The result was not checked, or a gene is unknown or has no held-out values.
    """
    key, record = find_record(adata, key)
    found = find_verdict(key, record)
    table = found.genes
    judged = table[np.isfinite(table["explained"])].sort_values("explained", ascending=False, kind="stable")
    if judged.empty:
        raise InputError(f"no gene of {key!r} has held-out values: check it on more cells")
    named = [genes] if isinstance(genes, str) else list(genes or ())
    for name in named:
        if name not in table.index:
            raise InputError(f"there is no gene {name!r} in the check of {key!r}{meant(name, table.index)}")
        if name not in judged.index:
            raise InputError(f"{name!r} has no held-out values to be judged by: leave it out")
    y, lower, upper = (judged[column].to_numpy(dtype=float) for column in ("explained", "lower", "upper"))
    evident = judged["evident"].to_numpy(dtype=bool)
    rank = np.arange(1, len(judged) + 1)
    ax = style.one_axes(ax, (7, 4.2))
    # gene by gene intervals may be far wider than what there is to see
    low, high = np.nanquantile(lower, 0.1), np.nanquantile(upper, 0.9)
    low, high = min(low, y[max(0, int(0.98 * len(y)) - 1)], 0.0), max(high, y[0], 0.0)
    margin = 0.06 * (high - low) or 0.1
    room = 0.2 * (high - low) if named else 0.0  # for the names over the first genes
    size = float(np.clip(1500 / len(judged), 6, 40))
    for which, color, marker, label in (
        (~evident, style.CONTROL, "s", "not evident"),
        (evident, style.method_color(ax), "o", "evident"),
    ):
        number = f"{int(which.sum()):,} {label}"
        ax.vlines(rank[which], lower[which], upper[which], color=color, alpha=0.35, linewidth=1)
        ax.scatter(rank[which], y[which], s=size, color=color, marker=marker, linewidths=0, label=number, zorder=3)
    ax.axhline(0, color=style.foreground(), linewidth=1, linestyle="--", alpha=0.6)
    ax.set_ylim(low - margin, high + margin + room)
    ax.set_xlim(0, len(judged) + 1)
    style.whole_numbers(ax)
    _write_names(ax, {name: int(np.flatnonzero(judged.index == name)[0]) for name in named}, np.clip(y, low, high))
    things = "genes" if found.kind == "counts" else "features"
    ax.set_xlabel(f"{things}, the best explained first")
    ax.set_ylabel(f"held-out error taken away\nfrom {found.reference}, 95 % interval")
    out = len(table) - len(judged)
    left = f"; {out:,} without held-out values left out" if out else ""
    ax.set_title(f"{found.method}: {int(evident.sum()):,} of {len(judged):,} {things} evident{left}")
    ax.legend(frameon=False, markerscale=max(1.0, (40 / size) ** 0.5), loc="upper right")
    style.percent(ax, "y")
    style.tidy(ax, grid="y")
    return ax


def _write_names(ax: Axes, places: Mapping[str, int], y: np.ndarray) -> None:
    """Names above the falling curve where it is over 0, under it elsewhere, and not on one another."""
    box = ax.get_window_extent()
    to_points = 72 / ax.figure.dpi
    across, up = box.width * to_points / len(y), box.height * to_points / float(np.ptp(ax.get_ylim()))
    last: dict[int, tuple[float, float]] = {}
    for name, place in sorted(places.items(), key=lambda one: one[1]):
        side = 1 if y[place] > 0 else -1
        at = y[place] * up + 16 * side
        if side in last and place * across - last[side][0] < 90:
            at = min(at, last[side][1] - 13)
        last[side] = (place * across, at)
        options: dict[str, Any] = {"textcoords": "offset points", "ha": "left" if side > 0 else "right", "fontsize": 10}
        arrow = {"arrowstyle": "-", "color": style.foreground(), "alpha": 0.7, "linewidth": 0.8}
        shift = (32 * side, at - y[place] * up)
        ax.annotate(name, (place + 1.0, y[place]), xytext=shift, va="center", arrowprops=arrow, zorder=4, **options)


PROGRESS = ("residual", "change")  # what a fit without a loss says of its progress
APART = 5.0  # losses whose levels differ by more get an axis each
DASHES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"))


def history(adata: AnnData, key: str | None = None, *, ax: Axes | None = None) -> Axes:
    """The losses of a training by epoch, or what else the fit says of its progress by iteration.

    A validation loss on another level than the training loss (other molecules, another depth) has the right axis; the
    epoch where it is least is marked.

    Parameters
    ----------
    adata : with a result.
    key : of the result; None means the only one.
    ax : where to draw; None makes a figure.

    Raises
    ------
    InputError
        The method does not train.
    """
    key, record = find_record(adata, key)
    columns = {name: np.atleast_1d(np.asarray(values, float)) for name, values in record.history.items()}
    shown = [name for name in columns if name.endswith("loss")] or [name for name in PROGRESS if name in columns]
    if not shown:
        raise InputError(f"{record.method} leaves no training history: only methods that train in steps have one")
    step = next((name for name in ("epoch", "iteration") if name in columns), None)
    steps = np.arange(1, len(columns[shown[0]]) + 1) if step is None else columns[step]
    ax = style.one_axes(ax, (6.5, 4))
    level = {name: float(np.nanmedian(np.abs(columns[name]))) for name in shown}
    apart = [name for name in shown if not 1 / APART <= level[name] / max(level[shown[0]], 1e-300) <= APART]
    right = ax.twinx() if apart else ax
    colors = (style.method_color(ax), style.ORANGE, style.GREEN, style.PURPLE)
    lines = []
    for place, name in enumerate(shown):
        dash, marker = DASHES[place % len(DASHES)]
        axes = right if name in apart else ax
        every, label = max(1, len(steps) // 10), name.replace("_", " ")
        options: dict[str, Any] = {
            "color": colors[place % len(colors)],
            "markevery": every,
            "markersize": 5,
            "linewidth": 1.8,
        }
        lines += axes.plot(steps, columns[name], dash, marker=marker, label=label, **options)
    for axes, names in ((ax, [name for name in shown if name not in apart]), (right, apart)):
        values = np.concatenate([columns[name] for name in names]) if names else np.empty(0)
        values = values[np.isfinite(values)]
        if len(values) and values.min() > 0 and values.max() > 30 * values.min():
            axes.set_yscale("log")
    ax.set_ylabel(" and ".join(name.replace("_", " ") for name in shown if name not in apart))
    if apart:
        right.set_ylabel(" and ".join(name.replace("_", " ") for name in apart) + " (right axis)")
    title = f"{record.method}: {len(steps):,} {step or 'iteration'}s"
    if "validation_loss" in shown and np.isfinite(columns["validation_loss"]).any():
        best = steps[int(np.nanargmin(columns["validation_loss"]))]
        ax.axvline(best, color=style.foreground(), linewidth=1, linestyle=":", alpha=0.7)
        title += f", lowest validation loss at {best:g}"
    style.whole_numbers(ax)
    ax.set(title=title, xlabel=step or "iteration")
    ax.legend(handles=lines, frameon=False)
    style.tidy(ax, grid="y")
    if apart:
        right.spines["top"].set_visible(False)
    return ax
