"""Figures as functions that return matplotlib figures or axes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from imputome.core.data import as_data
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.methods import get, info

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ialm as published, and stopped where held-out entries are matched best: noisy counts need not be matched exactly
METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("no_imputation", "no_imputation", {}),
    ("random", "random", {}),
    ("gene_mean", "gene_mean", {}),
    ("gene_mean_posterior", "gene_mean_posterior", {}),
    ("poisson_nmf", "poisson_nmf", {}),
    ("ialm", "ialm", {}),
    ("ialm, stop=validated", "ialm", {"stop": "validated"}),
)
FRACTION = 0.1


@dataclass(frozen=True)
class Score:
    """One row of the demo's table; the two masking scores are taken over hidden nonzeros, the loss over all entries."""

    name: str
    control: bool
    poisson_loss: float
    total_ratio: float
    nrmse: float
    pearson: float
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """Scores, and truth and ``ialm``'s values at the hidden entries, for the picture."""

    scores: list[Score]
    truth: np.ndarray
    predicted: np.ndarray


def run_demo(X: sp.csr_array, *, seed: int = 0, progress: Callable[[float, str], None] | None = None) -> DemoResult:
    """Hide 10 % of the molecules and, apart from that, of the nonzeros of ``X`` (n, G); score every method on both.

    Held-out molecules judge all entries, so a method that fills true zeros pays for it. Hidden nonzeros are the papers'
    protocol: they judge only what was seen, and reward filling.
    """
    rng = np.random.default_rng(seed)
    data = as_data(X, kind="counts")
    thinned = make_split("thin", data, rng=rng, fraction=FRACTION)
    masked = make_split("random", data, rng=rng, fraction=FRACTION)
    scores, predicted = [], np.empty(0)
    for place, (label, method, params) in enumerate(METHODS):
        if progress is not None:
            progress(place / len(METHODS), label)
        begun = time.perf_counter()
        denoised = get(method)(**params).fit_transform(thinned.train)
        seconds = time.perf_counter() - begun
        molecules = score_thinned(denoised, thinned, metrics=["poisson_loss", "total_ratio"])
        filled = get(method)(**params).fit_transform(masked.train)
        entries = score_hidden(filled, masked, metrics=["nrmse", "pearson"])
        scores.append(Score(name=label, control=info(method).control, seconds=seconds, **molecules, **entries))
        if label == "ialm":
            predicted = filled.at(masked.i, masked.j, keep_observed=False)
    assert masked.truth is not None  # noqa: S101  (entries were hidden)
    return DemoResult(scores, masked.truth, predicted)


CONTROL, METHOD = "#9aa5b1", "#2b6cb0"


def demo_figure(result: DemoResult, adata: AnnData, *, key: str, gene: str) -> Figure:
    """Four panels: held-out loss of all methods, hidden against recovered values, one gene before and after.

    Parameters
    ----------
    adata : with ``obsm["X_umap"]``, counts in X and ``layers[key]``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    _loss_bars(axes[0, 0], result)
    _hidden_values(axes[0, 1], result)
    place = adata.var_names.get_loc(gene)
    before = np.asarray(adata[:, gene].X.todense() if hasattr(adata.X, "todense") else adata[:, gene].X).ravel()
    after = np.asarray(adata.layers[key][:, place]).ravel()
    for axis, values, title in ((axes[1, 0], before, "before"), (axes[1, 1], after, f"after {key}")):
        x, y = np.asarray(adata.obsm["X_umap"])[:, :2].T
        order = np.argsort(values)  # high values on top
        points = axis.scatter(x[order], y[order], c=np.log1p(values[order]), s=9, cmap="viridis", linewidths=0)
        zeros = np.mean(values == 0)
        axis.set(title=f"{gene} {title}: {zeros:.0%} zeros", xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        figure.colorbar(points, ax=axis, label="log(1 + counts)", shrink=0.8)
    return figure


def simulation_curves(real: pd.DataFrame, simulated: pd.DataFrame) -> Figure:
    """Variance and share of zeros against the mean, real and simulated, from two `mean_variance_zero_curves`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = zip(figure.subplots(1, 2), ("variance", "zero_fraction"), ("log", "linear"), strict=True)
    for axis, column, scale in panels:
        for table, name, color in ((real, "real", CONTROL), (simulated, "simulated", METHOD)):
            axis.plot(table["mean"], table[column], "o-", markersize=3, color=color, label=name)
        axis.set(xscale="log", yscale=scale, xlabel="mean count of a gene", ylabel=column.replace("_", " "))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend()
    return figure


def _loss_bars(axis: Axes, result: DemoResult) -> None:
    from matplotlib.patches import Patch

    scores = sorted(result.scores, key=lambda score: -score.poisson_loss)
    colors = [CONTROL if score.control else METHOD for score in scores]
    losses = [score.poisson_loss for score in scores]
    bars = axis.barh([score.name for score in scores], losses, color=colors)
    axis.bar_label(bars, fmt=" %.4f", fontsize=8)
    axis.margins(x=0.15)
    axis.set(title="held-out molecules: Poisson loss per entry (lower is better)", xlabel="mean of mu - x ln mu")
    axis.legend(handles=[Patch(color=METHOD, label="method"), Patch(color=CONTROL, label="control")], fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _hidden_values(axis: Axes, result: DemoResult) -> None:
    x, y = np.log1p(result.truth), np.log1p(np.maximum(result.predicted, 0))
    axis.hexbin(x, y, gridsize=40, bins="log", cmap="Blues", mincnt=1, linewidths=0)
    top = float(max(x.max(), y.max()))
    axis.plot([0, top], [0, top], color="#444444", linewidth=1, linestyle="--")
    axis.set(
        title="hidden nonzeros: ialm's value against the truth", xlabel="log(1 + truth)", ylabel="log(1 + imputed)"
    )
    axis.spines[["top", "right"]].set_visible(False)
