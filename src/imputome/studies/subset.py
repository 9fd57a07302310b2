"""The part of a dataset that a study takes: some cells, the genes found in enough of them, the most variable ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError, missing_extra
from imputome.evaluation.splits import seed_for
from imputome.studies.anndata import to_dataset
from imputome.studies.runner import Dataset
from imputome.studies.spec import Subset

if TYPE_CHECKING:
    from imputome.methods.base import Data

Loader = Callable[[str], Any]  # from a name to an AnnData, as `imputome.datasets.load`


def load_subset(subset: Subset, load: Loader, *, seed: int) -> Dataset:
    """Load a dataset and take its subset.

    Library sizes stay those over all genes. The genes are chosen once, from all values and before any are hidden, as
    the papers do: that makes the dataset, the same for every method and control.

    Raises
    ------
    InputError
        The data are no matrix of cells, too little is left of them, or genes cannot be ranked by their variance.
    """
    adata = load(subset.name)
    if not hasattr(adata, "obs_names"):
        raise InputError(f"{subset.name} is a table, not cells x genes: studies cannot use it")
    data = to_dataset(adata, name=subset.label).data
    if subset.max_cells is not None and subset.max_cells < data.shape[0]:
        rng = np.random.default_rng(seed_for(subset.name, "cells", base=seed))
        data = data.subset(rows=np.sort(rng.choice(data.shape[0], subset.max_cells, replace=False)))
    if data.kind == "counts":
        data = replace(data, library_size=data.depth)
    data = data.subset(rows=np.flatnonzero(data.observed_counts()[0] >= subset.min_genes))
    data = data.subset(columns=np.flatnonzero(data.observed_counts()[1] >= subset.min_cells))
    if subset.n_top_genes is not None and subset.n_top_genes < data.shape[1]:
        data = data.subset(columns=_most_variable(data, subset))
    if min(data.shape) < 2:
        raise InputError(f"{subset.label}: {data.shape[0]} cells x {data.shape[1]} genes are left: too few")
    return Dataset(subset.label, data)


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
