"""The demo: score methods and controls on hidden parts of real counts, and draw genes before and after imputing."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
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

# (label, method, parameters), beside the default; ialm as published, and stopped where it predicts held-out entries
# best, because noisy counts need not be matched exactly
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


def run_demo(X: sp.csr_array, *, default: str, seed: int, progress: Callable[[float, str], None]) -> list[Score]:
    """Hide 10 % of the molecules and, separately, 10 % of the nonzero entries; score every method on both.

    Held-out molecules test all entries, so a method that fills true zeros scores worse. Hidden nonzeros are what most
    papers use: they test only genes that were detected, and reward filling. ``X`` holds counts, (n, G); ``default`` is
    scored beside `DEMO_METHODS`; ``progress`` is called with the share of work done (0 to 1) and a short text.
    """
    methods = ((default, default, {}), *DEMO_METHODS)
    rng = np.random.default_rng(seed)
    data = as_data(X, kind="counts")
    thinned = make_split("thin", data, rng=rng, fraction=FRACTION)
    masked = make_split("random", data, rng=rng, fraction=FRACTION)
    scores = []
    for place, (label, method, params) in enumerate(methods):
        progress(place / len(methods), label)
        begun = time.perf_counter()
        denoised = get(method)(**params).fit_transform(thinned.train)
        seconds = time.perf_counter() - begun
        molecules = score_thinned(denoised, thinned, metrics=["poisson_loss", "total_ratio"])
        filled = get(method)(**params).fit_transform(masked.train)
        entries = score_hidden(filled, masked, metrics=["nrmse", "pearson"])
        score = {"name": label, "control": info(method).control, **molecules, **entries, "seconds": seconds}
        scores.append(score)  # the seconds are those of the first fit
    return scores


def demo_figure(adata: AnnData, *, key: str, genes: Sequence[str], title: str) -> Figure:
    """Genes on a map of the cells, a row for each: as measured, and imputed on the same colours.

    ``adata`` holds counts in X, ``obsm["X_umap"]``, and the imputed values on scale ``log1p`` in ``layers[key]``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.1 * len(genes) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(genes), 2, squeeze=False)
    depth = np.asarray(adata.X.sum(axis=1)).ravel()
    x, y = np.asarray(adata.obsm["X_umap"])[:, :2].T
    for gene, axes in zip(genes, grid, strict=True):
        place = adata.var_names.get_loc(gene)
        counts = np.asarray(adata.X[:, [place]].todense()).ravel()
        measured = np.log1p(1e4 * counts / depth)
        imputed = np.asarray(adata.layers[key][:, place]).ravel()
        unseen = f"{gene}, as measured: {np.mean(counts == 0):.0%} zeros"
        for axis, values, text in zip(axes, (measured, imputed), (unseen, f"{gene}, imputed"), strict=True):
            order = np.argsort(values)  # high values on top
            colors: dict[str, Any] = {"cmap": style.COLORMAP, "vmin": 0, "vmax": measured.max()}
            points = axis.scatter(x[order], y[order], c=values[order], s=9, linewidths=0, **colors)
            axis.set_title(text, fontsize=11)
            axis.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        figure.colorbar(points, ax=list(axes), label="ln(1 + count per 10,000)")
    figure.suptitle("\n".join(textwrap.wrap(title, 95)), fontsize=10)
    return figure
