"""How a fit went, from the record of the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.io.records import find_record
from imputome.report import style

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

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
    columns = {name: np.atleast_1d(np.asarray(values, float)) for name, values in record.get("history", {}).items()}
    shown = [name for name in columns if name.endswith("loss")] or [name for name in PROGRESS if name in columns]
    if not shown:
        raise InputError(f"{record['method']} leaves no training history: only methods that train in steps have one")
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
    title = f"{record['method']}: {len(steps):,} {step or 'iteration'}s"
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
