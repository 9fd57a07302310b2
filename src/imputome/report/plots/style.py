"""Colours, axes and number formats that all plots share. Nothing here changes the settings of matplotlib.

Colours are those of Okabe & Ito (jfly.uni-koeln.de/color), which colour-blind readers can tell apart. Text and lines
take the colours of the user's matplotlib style, so that plots can be read on a dark background too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#8A8F96"
CONTROL = GREY
GROUPS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, YELLOW)
MARKERS = ("o", "^", "s", "D")
COLORMAP = "viridis"
# options of `annotate` for text that hangs from a point of the axes, shifted by points
HANGING: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "ha": "left"}
HANGING["annotation_clip"] = False


def axes_or_new(ax: Axes | Sequence[Axes] | None, size: tuple[float, float], panels: int = 1) -> Any:
    """(panels,) the Axes that were passed, or those of a new figure of ``size`` inches."""
    if ax is None:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
        figure.set_facecolor(plt.rcParams["axes.facecolor"])  # some notebooks make it transparent, which hides the text
        return axes[0]
    passed = np.ravel(np.asarray(ax, dtype=object))
    if len(passed) != panels or not all(hasattr(axes, "scatter") for axes in passed):
        message = f"ax must hold {panels} matplotlib Axes: pass plt.subplots(1, {panels})[1], or leave it out"
        raise InputError(message, code="axes-invalid", parameter="ax")
    return passed


def method_color(ax: Axes) -> str:
    """Colour of imputed values and their method: blue, a lighter one on a dark background."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(ax.get_facecolor())
    return BLUE if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else SKY


def reference_line(ax: Axes, *, x: float | None = None, y: float | None = None, linestyle: str = "--") -> None:
    """A thin line at ``x`` or at ``y``, or the diagonal if neither is given."""
    options: dict[str, Any] = {"color": ax.title.get_color(), "linewidth": 1, "linestyle": linestyle, "alpha": 0.6}
    if x is not None:
        ax.axvline(x, **options)
    elif y is not None:
        ax.axhline(y, **options)
    else:
        ax.plot([0, 1], [0, 1], **options)


def tidy(ax: Axes, *, grid: str | None = None) -> None:
    """Two spines only, and a faint grid along ``"x"``, ``"y"`` or ``"both"``."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        ax.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def percent_axis(ax: Axes, *names: str, decimals: int | None = None) -> None:
    """Tick labels of shares as percentages, along ``"x"`` or ``"y"``."""
    from matplotlib.ticker import PercentFormatter

    for name in names:
        getattr(ax, f"{name}axis").set_major_formatter(PercentFormatter(1.0, decimals=decimals, symbol=" %"))


def percent(share: float) -> str:
    """``12.3 %``: one decimal, or two significant digits where that would be 0.0."""
    if not np.isfinite(share):
        return "not known"
    number = 100 * float(share)
    text = f"{number:.1f}" if abs(number) >= 0.1 or number == 0 else f"{number:.2g}"
    return f"{text}\N{NO-BREAK SPACE}%"


def letters_per_line(ax: Axes, points: float) -> int:
    """How many letters of a font size fit into the width of the axes."""
    box = ax.get_window_extent()
    return max(20, int(box.width * 72 / ax.figure.dpi / (0.54 * points)))
