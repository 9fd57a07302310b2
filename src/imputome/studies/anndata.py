"""`imputome.evaluate`: from AnnData to a study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.methods.base import as_data
from imputome.preprocessing.inspect import inspect
from imputome.studies.runner import Dataset, run_study

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def evaluate(
    adata: AnnData | dict[str, AnnData],
    *,
    methods: Iterable[str],
    labels: str | None = None,
    layer: str | None = None,
    min_genes: int = 0,
    min_cells: int = 0,
    **study: Any,
) -> pd.DataFrame:
    """Hide values, impute with several methods and the controls, and score them: a one-line study.

    Parameters
    ----------
    adata : one AnnData, or several by name.
    methods : ``"name"``, ``"name+posterior"`` or ``"name:key=value"``.
    labels : column of ``obs`` with the classes, for downstream analyses.
    min_genes, min_cells : cells with fewer genes, and genes in fewer cells, are left out.
    **study : scheme, fraction, trials, seed, downstream, protocol, output: see `imputome.studies.runner.run_study`.

    Returns
    -------
    The tidy long table; ``imputome.studies.results.summary`` of it gives means and spreads.
    """
    several = adata if isinstance(adata, dict) else {"data": adata}
    datasets = [
        to_dataset(one, name=name, labels=labels, layer=layer, min_genes=min_genes, min_cells=min_cells)
        for name, one in several.items()
    ]
    return run_study(datasets, methods, **study)


def to_dataset(
    adata: AnnData,
    *,
    name: str,
    labels: str | None = None,
    layer: str | None = None,
    min_genes: int = 0,
    min_cells: int = 0,
) -> Dataset:
    """A dataset for a study: filtered by cells, then by genes, on counts as they are or on real values."""
    if labels is not None and labels not in adata.obs:
        raise InputError(f"obs has no column {labels!r}; columns: {', '.join(map(str, adata.obs.columns)) or 'none'}")
    report = inspect(adata, layer=layer)
    if report.errors:
        raise InputError(report.errors[0])
    if report.state in ("log1p", "normalized"):
        raise InputError(f"{report.where} looks {report.state}: methods are judged on counts, pass the layer with them")
    data = as_data(
        adata.X if layer is None else adata.layers[layer],
        kind="counts" if report.state == "counts" else "real",
        obs_names=adata.obs_names,
        var_names=adata.var_names,
    )
    cells = np.flatnonzero(data.observed_counts()[0] >= min_genes)
    data = data.subset(rows=cells)
    data = data.subset(columns=np.flatnonzero(data.observed_counts()[1] >= min_cells))
    classes = None if labels is None else adata.obs[labels].astype(str).to_numpy()[cells]
    return Dataset(name, data, classes)
