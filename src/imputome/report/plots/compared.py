"""Plots of cells and genes before and after imputing, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.clustering import expression_components
from imputome.evaluation.maps import real_components
from imputome.report.before_after import STRONG, WORDS, stored_result, strong_shares, usual_labels
from imputome.report.plots import style
from imputome.result.record import Record, meant

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

PLOTTED_CELLS = 5000  # in `before_after`
EMBEDDED_CELLS = 3000  # in `embedding`, which reads all genes
MAX_GROUPS = len(style.GROUPS) * len(style.MARKERS)
MIN_FALSE_SHARE = 0.01  # of permuted pairs that correlate strongly only after imputing, from which a note is written


def embedding(
    adata: AnnData,
    key: str | None = None,
    *,
    color: str | None = None,
    max_cells: int = EMBEDDED_CELLS,
    before: str | None = None,
    random_state: int = 0,
    ax: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Plot the first two principal components of the cells before and after imputing, side by side.

    The components are those of log-normalised counts, or of real values with missing values at the mean of their
    feature. Each panel has its own components; those on the right are flipped to match those on the left. Groups of
    cells that appear only on the right were created by the method.

    Parameters
    ----------
    adata : anndata.AnnData
        With a result for all genes.
    key : str, optional
        Key of the result; None means the only one.
    color : str, optional
        Column of ``obs``, or a gene, whose values before and after then share one colour scale. None takes a column
        whose mixing was checked, or one with a usual name for cell types, or one colour.
    max_cells : int, default=3000
        Of more cells than this, a random sample is plotted, the same each time.
    before : str, optional
        Layer with the values before imputing, if they are no longer where they were when the result was made.
    random_state : int, default=0
        Seed of the sample of cells and of the components.
    ax : sequence of two matplotlib.axes.Axes, optional
        Where to draw; None makes a figure.

    Returns
    -------
    ndarray of shape (2,)
        The two Axes.

    Raises
    ------
    InputError
        The result holds only some genes, or ``color`` is neither a column of ``obs`` nor a gene.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:100, 10:60].copy()
    >>> _ = imputome.impute(adata, method="gene_mean_posterior")
    >>> left, right = imputome.pl.embedding(adata, color="cell_type")
    >>> print(right.get_title())
    after: gene_mean_posterior
    PCA of log-normalised counts, 100 cells
    """
    key, record, values = stored_result(adata, key, before)
    if key not in adata.layers:
        raise InputError(f"{key!r} holds only some genes: impute all genes for an embedding", code="all-genes-needed")
    cells = values.sample(max_cells, random_state)
    if color is None:  # a column whose mixing was checked, or one with a usual name for groups
        names = [*(record.verdict.mixing if record.verdict else ()), *usual_labels(adata.obs)]
        color = next((str(name) for name in names if name in adata.obs and adata.obs[name].nunique() > 1), None)
    gene = None
    if color is not None and color not in adata.obs:
        if color not in adata.var_names:
            close = meant(color, [*adata.obs.columns, *adata.var_names])
            message = f"{color!r} is neither a column of obs nor a gene{close}"
            raise InputError(message, code="color-unknown", parameter="color")
        gene = values.gene(color)
    points = [_components(block, values.kind, random_state) for block in values.normalized(cells)]
    points[1] = points[1] * np.where((points[0] * points[1]).sum(axis=0) < 0, -1.0, 1.0)
    both = style.axes_or_new(ax, (11, 4.8), 2)
    matrix, rows = "log-normalised counts" if values.kind == "counts" else "values", WORDS[values.kind].rows
    number = f"{len(cells):,}" if len(cells) == adata.n_obs else f"{len(cells):,} of {adata.n_obs:,}"
    for axes, name in zip(both, (f"before: {values.where}", f"after: {key}"), strict=True):
        axes.set(xticks=[], yticks=[], xlabel="PC 1", ylabel="PC 2")
        axes.set_title(f"{name}\nPCA of {matrix}, {number} {rows}", fontsize=11)
        style.tidy(axes)
    if gene is not None:
        expression = [block.ravel() for block in values.normalized(cells, np.array([gene]))]
        if values.kind == "counts":
            expression = [np.log1p(block) for block in expression]
        _color_by_number(both, points, expression, f"{color}, {values.unit}")
    elif color is None:
        for axes, place in zip(both, points, strict=True):
            axes.scatter(*place.T, s=_size(len(cells)), color=style.method_color(axes), alpha=0.6, linewidths=0)
    elif adata.obs[color].dtype.kind in "iuf" and adata.obs[color].nunique() > MAX_GROUPS:
        numbers = adata.obs[color].to_numpy(dtype=float)[cells]
        _color_by_number(both, points, [numbers, numbers], color)
    else:
        _color_by_group(both, points, adata.obs[color].iloc[cells], color)
    return both


def _components(values: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """(n, 2) first principal components."""
    if kind == "counts":
        points = expression_components(values.astype(np.float32), n_components=2, random_state=seed)
    else:
        points = real_components(values, min(2, *values.shape), seed)
    return points if points.shape[1] == 2 else np.column_stack([points, np.zeros(len(points))])


def _size(n: int) -> float:
    return float(np.clip(20000 / n, 4, 30))


def _color_by_number(both: np.ndarray, points: list[np.ndarray], values: list[np.ndarray], label: str) -> None:
    """Both panels on one colour scale; cells without a value in grey."""
    from matplotlib.colors import Normalize

    known = np.concatenate(values)
    known = known[np.isfinite(known)]
    if len(known) == 0:
        message = f"{label} has no value in the cells of the plot: choose another color"
        raise InputError(message, code="color-without-values", parameter="color")
    norm = Normalize(float(known.min()), float(known.max()))
    for axes, place, numbers in zip(both, points, values, strict=True):
        order = np.argsort(np.nan_to_num(numbers, nan=-np.inf), kind="stable")  # high values on top
        order = order[np.isfinite(numbers[order])]
        size = _size(len(place))
        axes.scatter(*place[np.isnan(numbers)].T, s=size, color=style.GREY, alpha=0.4, linewidths=0)
        marks = axes.scatter(*place[order].T, c=numbers[order], cmap=style.COLORMAP, norm=norm, s=size, linewidths=0)
    both[1].figure.colorbar(marks, ax=both[1], label=label)


def _color_by_group(both: np.ndarray, points: list[np.ndarray], column: Any, title: str) -> None:
    """Groups by colour and marker; of too many groups, the smallest are ``other``."""
    known = ~column.isna().to_numpy()
    labels = column.astype(str).to_numpy()
    groups = sorted(column.astype(str)[known].value_counts().index[:MAX_GROUPS])
    other = ~(known & np.isin(labels, groups))
    for axes, place in zip(both, points, strict=True):
        options: dict[str, Any] = {"s": _size(len(labels)), "linewidths": 0}
        if other.any():
            axes.scatter(*place[other].T, color=style.GREY, alpha=0.4, label="other or none", **options)
        for number, name in enumerate(groups):
            color = style.GROUPS[number % len(style.GROUPS)]
            marker = style.MARKERS[number // len(style.GROUPS)]
            members = known & (labels == name)
            axes.scatter(*place[members].T, color=color, marker=marker, alpha=0.7, label=name, **options)
    columns, size = (2, 8) if len(groups) > 14 else (1, 9)
    options = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0, "frameon": False}
    legend = both[1].legend(title=title, ncols=columns, fontsize=size, **options)
    for mark in legend.legend_handles:
        mark.set_sizes([30])
        mark.set_alpha(1)


def before_after(
    adata: AnnData,
    gene_x: str,
    gene_y: str,
    key: str | None = None,
    *,
    max_cells: int = PLOTTED_CELLS,
    before: str | None = None,
    random_state: int = 0,
    ax: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Plot two genes against each other before and after imputing, with their correlation over all cells.

    Counts are plotted and correlated as ln(1 + counts per 10,000 of the cell's input library). Real values are used as
    they are; before imputing, only in the samples that have both. A note under the plot warns if the check found that
    the method creates false correlations, that is, strong correlations between permuted genes.

    Parameters
    ----------
    adata : anndata.AnnData
        With a result.
    gene_x, gene_y : str
        Names of the two genes.
    key : str, optional
        Key of the result; None means the only one.
    max_cells : int, default=5000
        Of more cells than this, a random sample is plotted; all cells are correlated.
    before : str, optional
        Layer with the values before imputing, if they are no longer where they were when the result was made.
    random_state : int, default=0
        Seed of the sample of cells.
    ax : sequence of two matplotlib.axes.Axes, optional
        Where to draw; None makes a figure.

    Returns
    -------
    ndarray of shape (2,)
        The two Axes.

    Raises
    ------
    InputError
        A gene is unknown or was not imputed, or the values are not there any more.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:100, 10:60].copy()
    >>> _ = imputome.impute(adata, method="gene_mean_posterior")
    >>> left, right = imputome.pl.before_after(adata, adata.var_names[0], adata.var_names[1])
    >>> right.get_title().startswith("after gene_mean_posterior: r = ")
    True
    """
    key, record, values = stored_result(adata, key, before)
    genes = np.array([values.gene(gene_x), values.gene(gene_y)])
    pairs = values.normalized(np.arange(adata.n_obs), genes)
    if values.kind == "counts":
        pairs = (np.log1p(pairs[0]), np.log1p(pairs[1]))
    plotted = values.sample(max_cells, random_state)
    both = style.axes_or_new(ax, (10, 4.9), 2)
    known = [pair[np.isfinite(pair).all(axis=1)] for pair in pairs]
    all_known = np.vstack(known)
    low, high = all_known.min(axis=0), all_known.max(axis=0)
    margin = 0.04 * np.where(high > low, high - low, 1.0)
    for axes, pair, kept, name in zip(both, pairs, known, ("before", f"after {key}"), strict=True):
        axes.scatter(*pair[plotted].T, s=_size(len(plotted)), color=style.method_color(axes), alpha=0.4, linewidths=0)
        axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
        axes.set(xlabel=f"{gene_x}, {values.unit}", ylabel=f"{gene_y}, {values.unit}")
        defined = len(kept) > 2 and np.ptp(kept, axis=0).all()
        correlation = f"r = {np.corrcoef(kept.T)[0, 1]:.2f}" if defined else "r not defined"
        axes.set_title(f"{name}: {correlation}\n{len(kept):,} {WORDS[values.kind].rows}", fontsize=11)
        style.tidy(axes, grid="both")
    note = _false_correlation_note(record)
    if note is not None:
        text = "\n".join(textwrap.wrap(note, style.letters_per_line(both[1], 9)))
        both[1].annotate(text, (0, 0), xytext=(0, -42), fontsize=9, **style.HANGING)
    return both


def _false_correlation_note(record: Record) -> str | None:
    """A warning, if more permuted genes correlate strongly after imputing than before."""
    if record.verdict is None or record.verdict.null.empty:
        return None
    strong_before, strong_after = strong_shares(record.verdict.null)
    if strong_after - strong_before <= MIN_FALSE_SHARE:
        return None
    return (
        "The method creates false correlations. In permuted data, where genes are not related, "
        f"{style.percent(strong_after)} of the gene pairs have a correlation of ±{STRONG:g} or stronger after imputing "
        f"(before: {style.percent(strong_before)})."
    )
