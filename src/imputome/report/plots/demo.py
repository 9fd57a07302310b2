"""The demo: hide part of real counts, score methods and controls on it, and draw the result as one figure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from imputome.core.data import as_data
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.methods import get, info
from imputome.report.plots import style

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

# (label, method, parameters); ialm as published, and stopped where it predicts held-out entries best, because noisy
# counts need not be matched exactly
DEMO_METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("no_imputation", "no_imputation", {}),
    ("random", "random", {}),
    ("gene_mean", "gene_mean", {}),
    ("gene_mean_posterior", "gene_mean_posterior", {}),
    ("poisson_nmf", "poisson_nmf", {}),
    ("ialm", "ialm", {}),
    ("ialm, stop=validated", "ialm", {"stop": "validated"}),
)
Score = dict[str, Any]  # name, control, poisson_loss, total_ratio, nrmse, pearson, seconds

FRACTION = 0.1  # of the molecules, or of the nonzero entries, that are hidden


def run_demo(
    X: sp.csr_array, *, seed: int, progress: Callable[[float, str], None]
) -> tuple[list[Score], np.ndarray, np.ndarray]:
    """Hide 10 % of the molecules and, separately, 10 % of the nonzero entries; score every method on both.

    Held-out molecules test all entries, so a method that fills true zeros scores worse. Hidden nonzeros are what most
    papers use: they test only genes that were detected, and reward filling. ``X`` holds counts, (n, G); ``progress`` is
    called with the share of work done (0 to 1) and a short text. Returns the scores, and the true values of the hidden
    nonzeros with those that ``ialm`` imputed.
    """
    rng = np.random.default_rng(seed)
    data = as_data(X, kind="counts")
    thinned = make_split("thin", data, rng=rng, fraction=FRACTION)
    masked = make_split("random", data, rng=rng, fraction=FRACTION)
    scores, predicted = [], np.empty(0)
    for place, (label, method, params) in enumerate(DEMO_METHODS):
        progress(place / len(DEMO_METHODS), label)
        begun = time.perf_counter()
        denoised = get(method)(**params).fit_transform(thinned.train)
        seconds = time.perf_counter() - begun
        molecules = score_thinned(denoised, thinned, metrics=["poisson_loss", "total_ratio"])
        filled = get(method)(**params).fit_transform(masked.train)
        entries = score_hidden(filled, masked, metrics=["nrmse", "pearson"])
        score = {"name": label, "control": info(method).control, **molecules, **entries, "seconds": seconds}
        scores.append(score)  # the seconds are those of the first fit
        if label == "ialm":
            predicted = filled.at(masked.i, masked.j, keep_observed=False)
    assert masked.truth is not None  # noqa: S101  (entries were hidden)
    return scores, masked.truth, predicted


def demo_figure(
    scores: list[Score], truth: np.ndarray, predicted: np.ndarray, adata: AnnData, *, key: str, gene: str
) -> Figure:
    """Four panels: held-out loss of all methods, hidden and imputed values, and one gene before and after.

    ``adata`` holds counts in X, ``obsm["X_umap"]``, and the imputed values in ``layers[key]``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(13, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    (losses, hidden), maps = figure.subplots(2, 2)
    scores = sorted(scores, key=lambda score: -score["poisson_loss"])
    colors = [style.CONTROL if score["control"] else style.BLUE for score in scores]
    bars = losses.barh([score["name"] for score in scores], [score["poisson_loss"] for score in scores], color=colors)
    losses.bar_label(bars, fmt=" %.4f", fontsize=8)
    losses.margins(x=0.15)
    losses.set(title="held-out molecules: Poisson loss per entry (lower is better)", xlabel="mean of mu - x ln mu")
    patches = [Patch(color=style.BLUE, label="method"), Patch(color=style.CONTROL, label="control")]
    losses.legend(handles=patches, fontsize=8)
    x, y = np.log1p(truth), np.log1p(np.maximum(predicted, 0))
    hidden.hexbin(x, y, gridsize=40, bins="log", cmap="Blues", mincnt=1, linewidths=0)
    top = float(max(x.max(), y.max()))
    hidden.plot([0, top], [0, top], color="#444444", linewidth=1, linestyle="--")
    hidden.set(title="hidden nonzeros: true and imputed value (ialm)", xlabel="ln(1 + true)", ylabel="ln(1 + imputed)")
    for axis in (losses, hidden):
        style.tidy(axis)
    place = adata.var_names.get_loc(gene)
    before = np.asarray(adata.X[:, [place]].todense() if sp.issparse(adata.X) else adata.X[:, place]).ravel()
    after = np.asarray(adata.layers[key][:, place]).ravel()
    x, y = np.asarray(adata.obsm["X_umap"])[:, :2].T
    for axis, values, title in zip(maps, (before, after), ("before", f"after {key}"), strict=True):
        order = np.argsort(values)  # high values on top
        points = axis.scatter(x[order], y[order], c=np.log1p(values[order]), s=9, cmap=style.COLORMAP, linewidths=0)
        zeros = np.mean(values == 0)
        axis.set(title=f"{gene} {title}: {zeros:.0%} zeros", xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        figure.colorbar(points, ax=axis, label="ln(1 + count)", shrink=0.8)
    return figure
