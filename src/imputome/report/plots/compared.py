"""Plots that set cells and genes before imputing beside the same after it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.clustering import expression_components
from imputome.report.before_after import Stored, stored
from imputome.report.plots import style
from imputome.report.plots.checks import strong_shares
from imputome.result.record import Record, meant

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

MAX_CELLS = 5000  # shown
EMBEDDED = 3000  # of which all genes are looked at
MOST_GROUPS = len(style.GROUPS) * len(style.MARKERS)
EXCESS = 0.01  # of permuted pairs that correlate strongly, over which the model is said to make correlation
# names under which types of cells are often found in obs
TYPES = ("cell_type", "celltype", "cell_types", "type", "label", "labels", "leiden", "louvain", "cluster", "batch")


# -- cells -------------------------------------------------------------------------------------------------------------
def embedding(
    adata: AnnData,
    key: str | None = None,
    *,
    color: str | None = None,
    max_cells: int = EMBEDDED,
    before: str | None = None,
    random_state: int = 0,
    ax: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Cells before and after imputing, side by side, on the first two principal components of each.

    Components of log-normalised counts, or of real values with missing ones at the mean of their feature; each panel
    has its own, turned to point the same way. What lies together in the right panel only, the method has put there.

    Parameters
    ----------
    key : of the result; None means the only one.
    color : column of ``obs``, or a gene, whose values before and after then have one scale; None takes a column that
        was checked for mixing, one whose name speaks of types, or none.
    max_cells : as many are drawn at random where there are more, the same each time.
    before : layer with the values before, if they are no longer where they were when the result was made.
    random_state : seed of the choice of cells and of the components.
    ax : two Axes.

    Returns
    -------
    The two Axes.

    Raises
    ------
    InputError
        The result holds some genes only, or ``color`` is neither a column of ``obs`` nor a gene.
    """
    result = stored(adata, key, before)
    if result.key not in adata.layers:
        raise InputError(f"{result.key!r} holds some genes only: impute all of them for an embedding")
    cells = result.some_cells(max_cells, random_state)
    found = _usual_color(result) if color is None else color
    gene = None
    if found is not None and found not in adata.obs:
        if found not in adata.var_names:
            close = meant(found, [*adata.obs.columns, *adata.var_names])
            raise InputError(f"{found!r} is neither a column of obs nor a gene{close}")
        gene = result.gene(found)
    places = [_components(values, result, random_state) for values in (result.before(cells), result.after(cells))]
    places[1] = places[1] * _direction(*places)
    both = style.two_axes(ax, (11, 4.8))
    what = "log-normalised counts" if result.counts else "values, missing ones at the mean"
    of = f"{len(cells):,} cells" if len(cells) == adata.n_obs else f"{len(cells):,} of {adata.n_obs:,} cells"
    for axes, name in zip(both, (f"before: {result.where}", f"after: {result.key}"), strict=True):
        axes.set(xticks=[], yticks=[], xlabel="PC 1", ylabel="PC 2")
        axes.set_title(f"{name}\nPCA of {what}, {of}", fontsize=11)
        style.tidy(axes)
    if gene is not None:
        column = np.array([gene])
        shown = [result.before(cells, column).ravel(), result.after(cells, column).ravel()]
        if result.counts:
            shown = [np.log1p(values) for values in shown]
        _numbers(both, places, shown, f"{found}, {result.unit}")
    elif found is None:
        for axes, place in zip(both, places, strict=True):
            axes.scatter(*place.T, s=_size(len(cells)), color=style.method_color(axes), alpha=0.6, linewidths=0)
    elif _is_number(adata.obs[found]):
        values = adata.obs[found].to_numpy(dtype=float)[cells]
        _numbers(both, places, [values, values], found)
    else:
        _groups(both, places, adata.obs[found].iloc[cells], found)
    return both


def _components(values: np.ndarray, result: Stored, seed: int) -> np.ndarray:
    """(n, 2) first principal components."""
    if result.counts:
        found = expression_components(values, n_components=2, random_state=seed)
    else:
        from sklearn.decomposition import PCA

        known = ~np.isnan(values)
        mean = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        size = min(2, *values.shape)
        found = PCA(size, random_state=seed).fit_transform(np.where(known, values, mean))
    return found if found.shape[1] == 2 else np.column_stack([found, np.zeros(len(found))])


def _direction(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(2,) signs that make the components of one picture point where those of the other do."""
    return np.where((one * other).sum(axis=0) < 0, -1.0, 1.0)


def _is_number(column: Any) -> bool:
    return column.dtype.kind in "iuf" and column.nunique() > MOST_GROUPS


def _usual_color(result: Stored) -> str | None:
    """The first of the columns that were checked for mixing, else one that looks like types of cells."""
    obs = result.adata.obs
    checked = result.record.verdict.mixing if result.record.verdict else {}
    names = [*checked, *(name for name in obs.columns if str(name).lower() in TYPES)]
    return next((str(name) for name in names if name in obs and obs[name].nunique() > 1), None)


def _size(n: int) -> float:
    return float(np.clip(20000 / n, 4, 30))


def _numbers(both: np.ndarray, places: list[np.ndarray], values: list[np.ndarray], label: str) -> None:
    """Both panels on one scale of colours; cells without a value in grey."""
    from matplotlib.colors import Normalize

    known = np.concatenate(values)
    known = known[np.isfinite(known)]
    if len(known) == 0:
        raise InputError(f"{label} has no value in the cells shown: choose another color")
    norm = Normalize(float(known.min()), float(known.max()))
    for axes, place, shown in zip(both, places, values, strict=True):
        order = np.argsort(np.nan_to_num(shown, nan=-np.inf), kind="stable")  # high values on top
        there = order[np.isfinite(shown[order])]
        axes.scatter(*place[np.isnan(shown)].T, s=_size(len(place)), color=style.GREY, alpha=0.4, linewidths=0)
        options = {"c": shown[there], "cmap": style.VALUES, "norm": norm, "s": _size(len(place))}
        points = axes.scatter(*place[there].T, linewidths=0, **options)
    both[1].figure.colorbar(points, ax=both[1], label=label)


def _groups(both: np.ndarray, places: list[np.ndarray], column: Any, title: str) -> None:
    """Groups told apart by colour and mark; the rarest of too many are ``other``."""
    known = ~column.isna().to_numpy()
    labels = column.astype(str).to_numpy()
    sizes = column.astype(str)[known].value_counts()
    shown = sorted(sizes.index[:MOST_GROUPS])
    rest = ~(known & np.isin(labels, shown))
    for axes, place in zip(both, places, strict=True):
        size = _size(len(labels))
        if rest.any():
            axes.scatter(*place[rest].T, s=size, color=style.GREY, alpha=0.4, linewidths=0, label="other or none")
        for number, name in enumerate(shown):
            color = style.GROUPS[number % len(style.GROUPS)]
            marker = style.MARKERS[number // len(style.GROUPS)]
            own = known & (labels == name)
            axes.scatter(*place[own].T, s=size, color=color, marker=marker, alpha=0.7, linewidths=0, label=name)
    many = len(shown) > 14
    legend = both[1].legend(
        title=title,
        frameon=False,
        bbox_to_anchor=(1.01, 1),
        loc="upper left",
        ncols=2 if many else 1,
        fontsize=8 if many else 9,
        borderaxespad=0,
    )
    for mark in legend.legend_handles:
        mark.set_sizes([30])
        mark.set_alpha(1)


# -- genes -------------------------------------------------------------------------------------------------------------
def before_after(
    adata: AnnData,
    gene_x: str,
    gene_y: str,
    key: str | None = None,
    *,
    max_cells: int = MAX_CELLS,
    before: str | None = None,
    random_state: int = 0,
    ax: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Two genes against each other before and after imputing, with their correlation over all cells.

    Counts are shown, and correlated, as ln(1 + counts per 10,000 of the cell's input library); real values as they are,
    before imputing in the cells that have both. Where genes that were permuted, and so have nothing to do with one
    another, correlate after imputing, a note under the plot says so.

    Parameters
    ----------
    gene_x, gene_y : names.
    key, before, ax : as in `embedding`.
    max_cells, random_state : as many cells are shown; all are correlated.

    Returns
    -------
    The two Axes.

    Raises
    ------
    InputError
        Unknown genes, or values that are not there any more.
    """
    result = stored(adata, key, before)
    genes = np.array([result.gene(gene_x), result.gene(gene_y)])
    everyone = np.arange(adata.n_obs)
    values = [result.before(everyone, genes), result.after(everyone, genes)]
    if result.counts:
        values = [np.log1p(both) for both in values]
    shown = result.some_cells(max_cells, random_state)
    both = style.two_axes(ax, (10, 4.9))
    known = [pair[np.isfinite(pair).all(axis=1)] for pair in values]
    every = np.vstack([pair for pair in known if len(pair)])
    low, high = every.min(axis=0), every.max(axis=0)
    margin = 0.04 * np.where(high > low, high - low, 1.0)
    for axes, pair, kept, name in zip(both, values, known, ("before", f"after {result.key}"), strict=True):
        axes.scatter(*pair[shown].T, s=_size(len(shown)), color=style.method_color(axes), alpha=0.4, linewidths=0)
        axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
        axes.set_xlabel(f"{gene_x}, {result.unit}")
        axes.set_ylabel(f"{gene_y}, {result.unit}")
        rows = "cells" if result.counts else "samples"
        axes.set_title(f"{name}: {_correlation(kept)}\n{len(kept):,} {rows}", fontsize=11)
        style.tidy(axes, grid="both")
    note = null_note(result.record)
    if note is not None:
        letters = style.width_in_letters(both[1], 9)
        at: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "ha": "left"}
        text = "\n".join(textwrap.wrap(note, letters))
        both[1].annotate(text, (0, 0), xytext=(0, -42), annotation_clip=False, fontsize=9, **at)
    return both


def _correlation(pair: np.ndarray) -> str:
    if len(pair) < 3 or (np.ptp(pair, axis=0) == 0).any():
        return "r not defined"
    return f"r = {np.corrcoef(pair.T)[0, 1]:.2f}"


def null_note(record: Record) -> str | None:
    """What is to be said of correlations after imputing, where permuted genes correlate more than before."""
    if record.verdict is None or not len(record.verdict.null):
        return None
    strong_before, strong_after = strong_shares(record.verdict.null)
    if strong_after - strong_before <= EXCESS:
        return None
    return (
        f"Correlation after imputing is partly made by the model: of pairs of genes that were permuted, and so have "
        f"nothing to do with one another, {style.share(strong_after)} then correlate by 0.5 or more "
        f"(before: {style.share(strong_before)})."
    )
