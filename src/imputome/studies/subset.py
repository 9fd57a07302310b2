"""The part of a dataset that a study takes: some cells, the genes found in enough of them, the most variable ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.links import link
from imputome.errors import InputError, missing_extra
from imputome.evaluation.splits import seed_for
from imputome.studies.runner import Dataset, to_dataset
from imputome.studies.study import Subset

if TYPE_CHECKING:
    import pandas as pd

    from imputome.core.data import Data

Loader = Callable[[str], Any]  # from a name to an AnnData, as `imputome.datasets.load`


def load_subset(subset: Subset, load: Loader, *, seed: int) -> Dataset:
    """Load a dataset and take its subset.

    Library sizes stay those over all genes. The genes are chosen once, from all values and before any are hidden, as
    the papers do: that makes the dataset, the same for every method and control. Real values are transformed where the
    subset says so, which makes the dataset too.

    Raises
    ------
    InputError
        The data are no matrix of cells, lack a column, too little is left of them, or genes cannot be ranked by their
        variance.
    """
    adata = load(subset.name)
    if not hasattr(adata, "obs_names"):
        raise InputError(f"{subset.name} is a table, not cells x genes: studies cannot use it")
    columns = _columns(adata, subset)
    data = to_dataset(adata, name=subset.label).data
    places = np.arange(data.shape[0])
    if subset.max_cells is not None and subset.max_cells < data.shape[0]:
        rng = np.random.default_rng(seed_for(subset.name, "cells", base=seed))
        places = np.sort(rng.choice(data.shape[0], subset.max_cells, replace=False))
        data = data.subset(rows=places)
    if data.kind == "counts":
        data = replace(data, library_size=data.depth)
    enough = np.flatnonzero(data.observed_counts()[0] >= subset.min_genes)
    data, places = data.subset(rows=enough), places[enough]
    data = data.subset(columns=np.flatnonzero(data.observed_counts()[1] >= subset.min_cells))
    if subset.n_top_genes is not None and subset.n_top_genes < data.shape[1]:
        data = data.subset(columns=_most_variable(data, subset))
    if subset.max_features is not None and subset.max_features < data.shape[1]:
        rng = np.random.default_rng(seed_for(subset.name, "features", base=seed))
        data = data.subset(columns=np.sort(rng.choice(data.shape[1], subset.max_features, replace=False)))
    if min(data.shape) < 2:
        raise InputError(f"{subset.label}: {data.shape[0]} cells x {data.shape[1]} genes are left: too few")
    if subset.transform != "identity":
        if data.kind == "counts":
            raise InputError(f"{subset.name}: transform is for real values, and these are counts: leave it out")
        data = replace(data, X=link(subset.transform).forward(data.X), bounds=(-np.inf, np.inf))
    labels = columns["labels"].astype(str).to_numpy()[places] if subset.labels else None
    clinical = {name: _numbers(columns[name])[places] for name in subset.clinical}
    return Dataset(subset.label, data, labels, clinical)


def _columns(adata: Any, subset: Subset) -> dict[str, pd.Series]:
    """The columns of ``obs`` that are asked for."""
    wanted = {**({"labels": subset.labels} if subset.labels else {}), **subset.clinical}
    for column in wanted.values():
        if column not in adata.obs:
            there = ", ".join(map(str, adata.obs.columns)) or "none"
            raise InputError(f"{subset.name}: obs has no column {column!r}; columns: {there}")
    return {name: adata.obs[column] for name, column in wanted.items()}


def _numbers(column: pd.Series) -> np.ndarray:
    """A column of numbers; texts such as G2, G3, G4 are ranked in the order of the alphabet. NaN stays."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64)
    codes, _ = pd.factorize(column.astype(object), sort=True)
    return np.where(codes < 0, np.nan, codes)


def _most_variable(data: Data, subset: Subset) -> np.ndarray:
    """Positions of the most variable genes by Seurat's ``vst``, sorted."""
    import scanpy as sc
    import scipy.sparse as sp
    from anndata import AnnData

    if data.kind != "counts":
        raise InputError(f"{subset.name}: n_top_genes ranks genes of counts, and these are real values: leave it out")
    try:
        table = sc.pp.highly_variable_genes(
            AnnData(sp.csr_matrix(data.X)), flavor="seurat_v3", n_top_genes=subset.n_top_genes, inplace=False
        )
    except ImportError as error:
        raise missing_extra("n_top_genes", "scikit-misc", "deep") from error
    except ValueError as error:  # loess finds its window singular
        raise InputError(f"{subset.name}: variable genes cannot be ranked, raise min_cells ({error})") from error
    return np.flatnonzero(table["highly_variable"].to_numpy())
