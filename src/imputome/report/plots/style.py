"""What all plots share: colours, axes and marks. Nothing here changes matplotlib's settings.

Colours are those of Okabe & Ito (jfly.uni-koeln.de/color), told apart by all kinds of sight; text and lines take the
colours that the user's own style gives them, so that plots can be read on a dark ground too.
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
VALUES = "viridis"


def one_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure of ``size`` inches."""
    if ax is not None:
        if not hasattr(ax, "scatter"):
            raise InputError(f"ax must be matplotlib Axes, not {type(ax).__name__}: pass one of plt.subplots()")
        return ax
    return _figure(size, 1)[0]


def two_axes(ax: Sequence[Axes] | None, size: tuple[float, float]) -> np.ndarray:
    """The two axes given, or those of a new figure."""
    if ax is None:
        return _figure(size, 2)
    both = np.ravel(np.asarray(ax, dtype=object))
    if len(both) != 2 or not all(hasattr(one, "scatter") for one in both):
        raise InputError("before and after need two Axes: pass ax=plt.subplots(1, 2)[1], or leave ax out")
    return both


def _figure(size: tuple[float, float], panels: int) -> np.ndarray:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
    figure.set_facecolor(plt.rcParams["axes.facecolor"])  # some notebooks make it transparent: text would be lost
    return axes[0]


def foreground() -> Any:
    """The colour of text in the user's style."""
    from matplotlib import rcParams

    return rcParams["text.color"]


def method_color(ax: Axes) -> str:
    """The colour of what was imputed: blue, of the lighter kind on a dark ground."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(ax.get_facecolor())
    return BLUE if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else SKY


def tidy(ax: Axes, *, grid: str | None = None) -> None:
    """Less ink: two spines, and a faint grid along one axis or ``both``."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        ax.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def percent(ax: Axes, *which: str, decimals: int | None = None) -> None:
    """Tick labels of shares as percentages."""
    from matplotlib.ticker import PercentFormatter

    for name in which:
        getattr(ax, f"{name}axis").set_major_formatter(PercentFormatter(1.0, decimals=decimals, symbol=" %"))


def whole_numbers(ax: Axes) -> None:
    """No ticks between steps, or between genes, along x."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def share(value: float) -> str:
    """``12.3 %``, with one digit after the point, or two figures where that would be zero."""
    if not np.isfinite(value):
        return "not known"
    size = 100 * float(value)
    text = f"{size:.1f}" if abs(size) >= 0.1 or size == 0 else f"{size:.2g}"
    return f"{text}\N{NO-BREAK SPACE}%"


def width_in_letters(ax: Axes, points: float) -> int:
    """How many letters of a size fit beside one another into the axes."""
    box = ax.get_window_extent()
    return max(20, int(box.width * 72 / ax.figure.dpi / (0.54 * points)))
