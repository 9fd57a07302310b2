"""Plots of what the record of a result holds: the check of the method, and its training."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.metrics import COVERAGE, METRICS
from imputome.report.before_after import STRONG, WORDS, direction, stored_result, strong_shares
from imputome.report.plots import style
from imputome.result.record import Verdict, find_record, find_verdict, meant
from imputome.trust.reliability import MIN_HELD_OUT, judged
from imputome.trust.verdict import decide, in_words, measurements

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

SIGNS = {
    "use": ("\u2713", style.GREEN),
    "use for visualisation only": ("!", style.ORANGE),
    "withheld": ("?", style.ORANGE),
    "do not impute": ("\u2717", style.VERMILLION),
}
# the metric that is shown first, and its name
MAIN_METRICS = {
    "counts": ("poisson_deviance", "Poisson deviance per entry"),
    "real": ("rmse", "RMSE in standard deviations of the feature"),
}


class _Line(NamedTuple):
    text: str
    size: float
    bold: bool = False
    space: float = 0.0  # above the line, in lines
    indent: str = ""  # of the second and further lines


def verdict(adata: AnnData, key: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Write the verdict in words, what was measured, and the main scores of the method and of the controls.

    Parameters
    ----------
    adata : anndata.AnnData
        With a result that was checked (``impute(..., check=True)``).
    key : str, optional
        Key of the result; None means the only one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None makes a figure that is as high as the text needs.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        There is no such result, or it was not checked.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:100, 10:60].copy()
    >>> _ = imputome.impute(adata, method="gene_mean_posterior", check=True)
    >>> ax = imputome.pl.verdict(adata)
    >>> print(ax.texts[0].get_text())
    ✗ do not impute
    """
    from matplotlib.patches import Rectangle

    key, record = find_record(adata, key)
    checked = find_verdict(key, record)
    lines = _verdict_lines(key, checked)
    if ax is None:
        ax = style.axes_or_new(None, (7.5, 1))[0]
        ax.set_position((0.02, 0.04, 0.96, 0.92))
        placed, height = _placed(ax, lines)
        ax.figure.set_size_inches(7.5, height / 72 / 0.92)  # type: ignore[union-attr]
        placed, _ = _placed(ax, lines)
    else:  # smaller letters where the text would not fit
        room = ax.get_window_extent().height * 72 / ax.figure.dpi
        for scale in (1.0, 0.9, 0.8, 0.7, 0.6):
            placed, height = _placed(ax, [line._replace(size=line.size * scale) for line in lines])
            if height <= room:
                break
    ax.set_axis_off()
    sign, color = SIGNS.get(checked.verdict, ("?", style.GREY))
    ax.add_patch(Rectangle((0, 0), 0.012, 1, transform=ax.transAxes, color=color, linewidth=0))
    for line, down, text in placed:
        text = f"{sign} {text}" if line.bold else text
        options: dict[str, Any] = {"fontsize": line.size, "fontweight": "bold" if line.bold else "normal"}
        ax.annotate(text, (0.03, 1.0), xytext=(0, -down), linespacing=1.3, **style.HANGING, **options)
    return ax


def _verdict_lines(key: str, checked: Verdict) -> list[_Line]:
    rows = WORDS[checked.kind].rows
    reasons = [f"{SIGNS['use' if met else 'do not impute'][0]} {text}" for met, text in measurements(checked)]
    said = decide(checked.figures, checked.kind).reasons  # the same as these, in the words of a statistician
    reasons += [f"\u2022 {reason}" for reason in checked.reasons if reason not in said]
    lines = [
        _Line(checked.verdict, 16, bold=True),
        _Line(in_words(checked), 12, space=0.2),
        _Line(
            f"{checked.method}, layer {key!r}, checked on {checked.cells:,} {rows}",
            10,
            space=0.2,
        ),
    ]
    for texts, size, space, indent in ((reasons, 11, 0.7, "  "), (_main_scores(checked), 9.5, 1.0, "    ")):
        lines += [_Line(text, size, space=0.25 if place else space, indent=indent) for place, text in enumerate(texts)]
    return lines


def _placed(ax: Axes, lines: list[_Line]) -> tuple[list[tuple[_Line, float, str]], float]:
    """(line, its distance from the top in points, its text broken to the width of the axes), and the whole height."""
    placed, down = [], 0.0
    for line in lines:
        letters = int(style.letters_per_line(ax, line.size) * (0.8 if line.bold else 0.95))
        blocks = textwrap.wrap(line.text, letters, subsequent_indent=line.indent)
        down += line.space * line.size
        placed.append((line, down, "\n".join(blocks)))
        down += max(1, len(blocks)) * line.size * 1.4
    return placed, down


def _main_scores(checked: Verdict) -> list[str]:
    """The numbers that matter most for the verdict, a line each."""
    counts = checked.kind == "counts"
    scores, method, (metric, metric_name) = checked.scores, checked.method, MAIN_METRICS[checked.kind]
    lines = []
    if metric in set(scores["metric"]):
        means = scores[scores["metric"] == metric].groupby("method")["value"].mean()
        score = float(means.pop(method))
        controls = []
        for name, value in means.sort_values().items():
            percent, side = 100 * abs(score - value) / value, "lower" if score < value else "higher"
            controls.append(f"{name} {value:.4g} (method: {percent:.{0 if percent >= 10 else 1}f} % {side})")
        lines.append(f"Held-out {metric_name} (lower is better): {score:.4g}; controls: {', '.join(controls)}")
    genes = checked.genes
    if len(genes):
        tested = int(judged(genes["held_out"], genes["lower"]).sum())
        lines.append(
            f"{WORDS[checked.kind].columns.capitalize()} shown to be predicted better than by {checked.reference}: "
            f"{int(genes['evident'].sum()):,} of {tested:,}"
        )
    if len(checked.null):
        before, after = strong_shares(checked.null)
        lines.append(
            f"False correlations (\u00b1{STRONG:g} or stronger, in permuted data): {style.percent(before)} of the "
            f"pairs before, {style.percent(after)} after imputing"
        )
    if "confident" in genes and genes["confident"].sum():
        confident = int(genes["confident"].sum())
        raised = style.percent(genes["raised"].sum() / confident)
        control = ""
        if "raised_control" in genes:
            control = f"; by {checked.reference}: {style.percent(genes['raised_control'].sum() / confident)}"
        lines.append(f"Confident biological zeros imputed above one count: {raised} of {confident:,}{control}")
    coverage = scores[(scores["metric"] == "coverage_90") & (scores["method"] == method)]["value"]
    if len(coverage):
        worst = " (where it is furthest from 90 %)" if counts else ""
        lines.append(f"Coverage of the 90 % intervals{worst}: {style.percent(float(coverage.mean()))}")
    return lines


def scores(adata: AnnData, key: str | None = None, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Plot a held-out score of the method and of the controls: a point for each split, a line at the mean.

    Parameters
    ----------
    adata : anndata.AnnData
        With a result that was checked (``impute(..., check=True)``).
    key : str, optional
        Key of the result; None means the only one.
    metric : str, optional
        None takes the Poisson deviance (counts) or the RMSE (real values). The table ``verdict["scores"]`` of the
        record names the others.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        The result was not checked, or the metric was not measured.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:100, 10:60].copy()
    >>> _ = imputome.impute(adata, method="gene_mean_posterior", check=True)
    >>> ax = imputome.pl.scores(adata)
    >>> ax.get_xlabel()
    'Poisson deviance per entry (lower is better)'
    """
    checked = find_verdict(*find_record(adata, key))
    table = checked.scores
    metric = metric or MAIN_METRICS[checked.kind][0]
    part = table[table["metric"] == metric]
    if part.empty:
        message = f"{metric!r} was not measured in this check: choose one of {', '.join(table['metric'].unique())}"
        raise InputError(message, code="metric-not-measured", parameter="metric")
    better = METRICS[metric].better if metric in METRICS else "lower"
    ideal = {"one": 1.0, "nominal": COVERAGE}.get(better)
    means = part.groupby("method")["value"].mean()
    rank = {"higher": -means, "lower": means}.get(better, (means - (ideal or 0)).abs())
    order = list(rank.sort_values().index)
    control = part.groupby("method")["control"].first()
    ax = style.axes_or_new(ax, (6.5, 1.3 + 0.38 * len(order)))[0]
    for place, name in enumerate(order):
        values = part.loc[part["method"] == name, "value"].to_numpy(dtype=float)
        color = style.CONTROL if control[name] else style.method_color(ax)
        fill = "none" if control[name] else color
        marks: dict[str, Any] = {"linestyle": "none", "color": color, "markersize": 7, "clip_on": False}
        ax.plot(values, np.full(len(values), place), "s" if control[name] else "o", markerfacecolor=fill, **marks)
        ax.plot([values.mean()], [place], "|", **{**marks, "markersize": 18, "markeredgewidth": 2})
    if ideal is not None:
        style.reference_line(ax, x=ideal)
    values = part["value"].to_numpy(dtype=float)
    if better == "lower" and values.min() > 0 and values.max() > 10 * values.min():
        ax.set_xscale("log")
    ax.set_yticks(range(len(order)), [f"{name} (control)" if control[name] else str(name) for name in order])
    for label, name in zip(ax.get_yticklabels(), order, strict=True):
        label.set_fontweight("normal" if control[name] else "bold")
    ax.set_ylim(len(order) - 0.5, -0.5)
    metric_name = METRICS[metric].description if metric in METRICS else metric
    ax.set_xlabel(f"{dict(MAIN_METRICS.values()).get(metric, metric_name)} ({direction(metric)})")
    hidden = "molecules" if checked.kind == "counts" else "values"
    ax.set_title(f"{checked.method} on held-out {hidden}\npoints: {part['split'].nunique()} splits, line: mean")
    style.tidy(ax, grid="x")
    return ax


def zeros(adata: AnnData, key: str | None = None, *, before: str | None = None, ax: Axes | None = None) -> Axes:
    """Plot the share of zeros of each gene before and after imputing; counts only.

    The numbers are those of the check (on a sample of the cells), if there was one, else they are counted from the
    counts and the layer, in blocks of cells. An imputed count below 0.5 is a zero. A confident biological zero is one
    that a cell which expresses the gene would show with a probability below 1 % (`imputome.trust.zeros`).

    Parameters
    ----------
    adata : anndata.AnnData
        With a result; a check is not needed.
    key : str, optional
        Key of the result; None means the only one.
    before : str, optional
        Layer that holds the counts, if they are no longer where they were when the result was made.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        The input was not raw counts, the counts are not there any more, or only some genes were imputed.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:100, 10:60].copy()
    >>> _ = imputome.impute(adata, method="gene_mean_posterior")
    >>> ax = imputome.pl.zeros(adata)
    >>> print(ax.get_title().splitlines()[0])
    Zeros of 50 genes in 100 cells
    """
    key, record = find_record(adata, key)
    if record.input.kind != "counts":
        message = f"{key!r} was made from real values, where zeros have no special meaning: plot pl.before_after"
        raise InputError(message, code="zeros-need-counts")
    if record.verdict is not None and before is None and "zeros_before" in record.verdict.genes:
        genes, cells = record.verdict.genes, record.verdict.cells
        x, y = genes["zeros_before"].to_numpy(), genes["zeros_after"].to_numpy()
        confident, raised = int(genes["confident"].sum()), int(genes["raised"].sum())
    else:
        key, _, values = stored_result(adata, key, before)
        if values.state != "counts":
            message = f"{key!r} was made from {values.state} values: zeros are counted in results from raw counts"
            raise InputError(message, code="zeros-need-counts")
        if key not in adata.layers:
            message = f"{key!r} holds only some genes: impute all genes to plot the zeros"
            raise InputError(message, code="all-genes-needed")
        counted, cells = values.zeros(np.arange(adata.n_obs)), adata.n_obs
        x, y, confident, raised = counted.before, counted.after, counted.confident.sum(), counted.raised.sum()
    ax = style.axes_or_new(ax, (5.2, 5.2))[0]
    style.reference_line(ax)
    ax.text(0.02, 0.09, "no change", rotation=45, fontsize=9, alpha=0.8, transform_rotates_text=True)
    ax.scatter(x, y, s=14, color=style.method_color(ax), alpha=0.6, linewidths=0, clip_on=False)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_xlabel("zeros of the gene before, share of cells")
    ax.set_ylabel(f"zeros after {key}\n(count below 0.5), share of cells")
    note = "no confident biological zeros"
    if confident:
        note = f"{style.percent(raised / confident)} of {confident:,} confident zeros imputed above 1"
    ax.set_title(f"Zeros of {len(x):,} genes in {cells:,} cells\n{note}", fontsize=11)
    style.percent_axis(ax, "x", "y", decimals=0)
    style.tidy(ax, grid="both")
    return ax


def reliability(
    adata: AnnData, key: str | None = None, *, genes: str | Iterable[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Plot how much of the held-out error of each gene the method removes, with 95 % intervals, the best genes first.

    The error is compared with that of a simple reference method: above 0 the method predicts the gene better. A gene is
    shown to be better if its whole interval is above 0.2 %, at a false discovery rate of 5 % over all genes. Genes with
    fewer than 10 held-out molecules (features with fewer than 10 values) are not judged, and not drawn.

    Parameters
    ----------
    adata : anndata.AnnData
        With a result that was checked (``impute(..., check=True)``).
    key : str, optional
        Key of the result; None means the only one.
    genes : str or iterable of str, optional
        Genes to label.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        The result was not checked, or a gene is unknown or has too few held-out values.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:100, 10:60].copy()
    >>> _ = imputome.impute(adata, method="poisson_nmf", posterior=True, check=True)
    >>> ax = imputome.pl.reliability(adata)
    >>> ax.get_xlabel()
    'genes, the largest reduction first'
    """
    key, record = find_record(adata, key)
    checked = find_verdict(key, record)
    table = checked.genes
    tested = table[judged(table["held_out"], table["lower"])].sort_values("explained", ascending=False, kind="stable")
    if tested.empty:
        text = f"no gene of {key!r} has {MIN_HELD_OUT} held-out values: check it on more cells"
        raise InputError(text, code="nothing-held-out")
    names = [genes] if isinstance(genes, str) else list(genes or ())
    for name in names:
        if name not in table.index:
            message = f"there is no gene {name!r} in the check of {key!r}{meant(name, table.index)}"
            raise InputError(message, code="unknown-gene", parameter="genes")
        if name not in tested.index:
            message = f"{name!r} has too few held-out values: leave it out"
            raise InputError(message, code="nothing-held-out", parameter="genes")
    y, lower, upper = (tested[column].to_numpy(dtype=float) for column in ("explained", "lower", "upper"))
    better = tested["evident"].to_numpy(dtype=bool)
    rank = np.arange(1, len(tested) + 1)
    ax = style.axes_or_new(ax, (7, 4.2))[0]
    # the intervals of some genes may be far wider than the differences between genes
    low, high = np.nanquantile(lower, 0.1), np.nanquantile(upper, 0.9)
    low, high = min(low, y[max(0, int(0.98 * len(y)) - 1)], 0.0), max(high, y[0], 0.0)
    margin = 0.06 * (high - low) or 0.1
    room = 0.2 * (high - low) if names else 0.0  # for names above the first genes
    size = float(np.clip(1500 / len(tested), 6, 40))
    for which, color, marker, label in (
        (~better, style.CONTROL, "s", "not shown to be better"),
        (better, style.method_color(ax), "o", "shown to be better"),
    ):
        ax.vlines(rank[which], lower[which], upper[which], color=color, alpha=0.35, linewidth=1)
        options: dict[str, Any] = {"color": color, "marker": marker, "linewidths": 0, "zorder": 3}
        ax.scatter(rank[which], y[which], s=size, label=f"{int(which.sum()):,} {label}", **options)
    style.reference_line(ax, y=0)
    ax.set_ylim(low - margin, high + margin + room)
    ax.set_xlim(0, len(tested) + 1)
    ax.locator_params(axis="x", integer=True)
    _label_genes(ax, {name: int(np.flatnonzero(tested.index == name)[0]) for name in names}, np.clip(y, low, high))
    columns = WORDS[checked.kind].columns
    ax.set_xlabel(f"{columns}, the largest reduction first")
    ax.set_ylabel(f"reduction of the held-out error\nof {checked.reference}, 95 % interval")
    untested = len(table) - len(tested)
    note = f"\n{untested:,} with fewer than {MIN_HELD_OUT} held-out values are not shown" if untested else ""
    ax.set_title(f"{checked.method}: {int(better.sum()):,} of {len(tested):,} {columns} shown to be better{note}")
    ax.legend(frameon=False, markerscale=max(1.0, (40 / size) ** 0.5), loc="upper right")
    style.percent_axis(ax, "y")
    style.tidy(ax, grid="y")
    return ax


def _label_genes(ax: Axes, places: Mapping[str, int], y: np.ndarray) -> None:
    """Names above the falling curve where it is above 0, below it elsewhere, so that they do not overlap."""
    box = ax.get_window_extent()
    to_points = 72 / ax.figure.dpi
    across, up = box.width * to_points / len(y), box.height * to_points / float(np.ptp(ax.get_ylim()))
    last: dict[int, tuple[float, float]] = {}
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        side = 1 if y[place] > 0 else -1
        height = y[place] * up + 16 * side
        if side in last and place * across - last[side][0] < 90:
            height = min(height, last[side][1] - 13)
        last[side] = (place * across, height)
        options: dict[str, Any] = {"textcoords": "offset points", "ha": "left" if side > 0 else "right", "fontsize": 10}
        arrow = {"arrowstyle": "-", "color": ax.title.get_color(), "alpha": 0.7, "linewidth": 0.8}
        shift = (32 * side, height - y[place] * up)
        ax.annotate(name, (place + 1.0, y[place]), xytext=shift, va="center", arrowprops=arrow, zorder=4, **options)


PROGRESS = ("residual", "change")  # columns that a fit without a loss records
AXIS_RATIO = 5.0  # a loss that is this many times larger or smaller than the first gets the right axis
LINES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"))


def history(adata: AnnData, key: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Plot the losses of the training by epoch, or the change of the solution by iteration.

    A validation loss at another level than the training loss (it may be measured on fewer molecules) has the right
    axis. A dotted line marks the epoch with the lowest validation loss.

    Parameters
    ----------
    adata : anndata.AnnData
        With a result of a method that works in epochs or iterations.
    key : str, optional
        Key of the result; None means the only one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        The method recorded no history.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:100, 10:60].copy()
    >>> _ = imputome.impute(adata, method="ialm", params={"max_iter": 3})
    >>> ax = imputome.pl.history(adata)
    >>> ax.get_title()
    'ialm: 3 iterations'
    """
    key, record = find_record(adata, key)
    columns = {name: np.atleast_1d(np.asarray(values, float)) for name, values in record.history.items()}
    losses = [name for name in columns if name.endswith("loss")] or [name for name in PROGRESS if name in columns]
    if not losses:
        message = f"{record.method} recorded no history: only methods that work in epochs or iterations have one"
        raise InputError(message, code="no-history")
    unit = next((name for name in ("epoch", "iteration") if name in columns), "iteration")
    labels = {name: name.replace("_", " ") for name in losses}
    steps = columns.get(unit, np.arange(1, len(columns[losses[0]]) + 1))
    ax = style.axes_or_new(ax, (6.5, 4))[0]
    level = {name: float(np.nanmedian(np.abs(columns[name]))) for name in losses}
    apart = [name for name in losses if not 1 / AXIS_RATIO <= level[name] / max(level[losses[0]], 1e-300) <= AXIS_RATIO]
    right = ax.twinx() if apart else ax
    colors = (style.method_color(ax), style.ORANGE, style.GREEN, style.PURPLE)
    lines: list[Any] = []
    for place, name in enumerate(losses):
        dash, marker = LINES[place % len(LINES)]
        options: dict[str, Any] = {"color": colors[place % len(colors)], "markersize": 5, "linewidth": 1.8}
        options |= {"label": labels[name], "marker": marker, "markevery": max(1, len(steps) // 10)}
        lines += (right if name in apart else ax).plot(steps, columns[name], dash, **options)
    for axes, names in ((ax, [name for name in losses if name not in apart]), (right, apart)):
        values = np.concatenate([columns[name] for name in names]) if names else np.empty(0)
        values = values[np.isfinite(values)]
        if len(values) and values.min() > 0 and values.max() > 30 * values.min():
            axes.set_yscale("log")
    ax.set_ylabel(" and ".join(labels[name] for name in losses if name not in apart))
    title = f"{record.method}: {len(steps):,} {unit}s"
    if "validation_loss" in losses and np.isfinite(columns["validation_loss"]).any():
        best = steps[int(np.nanargmin(columns["validation_loss"]))]
        style.reference_line(ax, x=best, linestyle=":")
        title += f", lowest validation loss at {best:g}"
    ax.locator_params(axis="x", integer=True)
    ax.set(title=title, xlabel=unit)
    ax.legend(handles=lines, frameon=False)
    style.tidy(ax, grid="y")
    if apart:
        right.set_ylabel(" and ".join(labels[name] for name in apart) + " (right axis)")
        right.spines["top"].set_visible(False)
    return ax
