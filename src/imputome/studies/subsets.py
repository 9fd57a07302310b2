"""The part of a data set that a study uses, and what some schemes need in addition to the data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from imputome.core.data import Data, as_data
from imputome.core.links import link
from imputome.datasets import DATASETS
from imputome.errors import InputError, missing_extra
from imputome.evaluation.simulate import simulated_groups
from imputome.evaluation.splits import seed_for
from imputome.io.reading import read
from imputome.studies.inputs import Dataset, detected, digest, obs_column, to_dataset
from imputome.studies.runner import Tables, read_gc
from imputome.studies.spec import Study, Subset

Loader = Callable[[str], Any]  # from a name to an AnnData, as `imputome.datasets.load`


def whole_of(subset: Subset, load: Loader) -> Any:
    """The data set that a subset is taken from: the file at its path, or what ``load`` gives for its name."""
    return read(subset.path) if subset.path else load(subset.name)


def load_subset(subset: Subset, load: Loader, *, seed: int) -> Dataset:
    """Load a dataset and take the part of it that a study uses, see `subset_of`."""
    return subset_of(whole_of(subset, load), subset, seed=seed)


def subset_of(adata: Any, subset: Subset, *, seed: int) -> Dataset:
    """The part of a dataset that a study uses; ``seed`` draws the cells and features.

    Library sizes stay those over all genes. As in the papers, the variable genes are chosen once, from all values and
    before any are hidden: they define the dataset, which is the same for every method and control.
    """
    if not hasattr(adata, "obs_names"):
        raise InputError(f"{subset.name} is a table, not a matrix of cells x genes", code="not-a-matrix")
    where = f"{subset.name}: "
    named = subset.labels and not subset.simulate
    labels = obs_column(adata, subset.labels, where).astype(str).to_numpy() if named else None
    clinical = {name: _numbers(obs_column(adata, column, where)) for name, column in subset.clinical.items()}
    source = {
        name: getattr(subset, name) for name in ("layer", "kind", "round_counts", "feature_type", "keep_summary_rows")
    }
    whole = to_dataset(adata, name=subset.label, seed=seed, **source)
    for message in whole.messages:
        warnings.warn(f"{where}{message}", stacklevel=2)
    data = whole.data
    places = np.arange(data.shape[0])
    if subset.max_cells is not None and subset.max_cells < data.shape[0]:
        rng = np.random.default_rng(seed_for(subset.name, "cells", base=seed))
        places = np.sort(rng.choice(data.shape[0], subset.max_cells, replace=False))
        data = data.subset(rows=places)
    if data.kind == "counts":
        data = replace(data, library_size=data.depth)
    limits = {name: getattr(subset, name) for name in ("max_genes", "max_counts", "max_mitochondrial")}
    data, kept = detected(data, subset.min_genes, subset.min_cells, **limits)
    places = places[kept]
    if subset.n_top_genes is not None and subset.n_top_genes < data.shape[1]:
        data = data.subset(columns=_most_variable(data, subset))
    if subset.max_features is not None and subset.max_features < data.shape[1]:
        rng = np.random.default_rng(seed_for(subset.name, "features", base=seed))
        data = data.subset(columns=np.sort(rng.choice(data.shape[1], subset.max_features, replace=False)))
    n, G = data.shape
    if min(n, G) < 2:
        raise InputError(f"{subset.label}: only {n} cells x {G} genes are left", code="too-little-data")
    if subset.transform not in (None, "identity"):
        if data.kind == "counts":
            raise InputError(f"{subset.name}: leave out transform, which is for real values", code="transform-kind")
        data = replace(data, X=link(subset.transform).forward(data.X), bounds=(-np.inf, np.inf))
    if subset.simulate:
        if data.kind != "counts":
            raise InputError(f"{subset.name}: leave out simulate, which is for counts", code="counts-only")
        made = simulated_groups(data.X, **{"random_state": seed, **subset.simulate})
        simulated = as_data(made.X, kind="counts", obs_names=made.obs_names, var_names=made.var_names)
        groups, truth = made.obs["group"].astype(str).to_numpy(), made.var["differential"].to_numpy()
        return Dataset(subset.label, simulated, groups, differential=truth)
    labels = None if labels is None else labels[places]
    return Dataset(subset.label, data, labels, {name: numbers[places] for name, numbers in clinical.items()})


def labels_of(adata: Any, dataset: Dataset, subset: Subset, column: str) -> np.ndarray:
    """(n,) texts of a column of ``obs`` for the cells of a subset, empty where there is none; by default the column
    with its labels. Simulated cells have their groups.
    """
    if subset.simulate:
        assert dataset.labels is not None  # noqa: S101  (types)
        return dataset.labels
    labels = obs_column(adata, column or subset.labels, f"{subset.name}: ")
    if not labels.index.is_unique:
        text = f"{subset.name}: the cells of a picture are found by name: make the names unique"
        raise InputError(text, code="names-not-unique")
    found = labels.astype(object).reindex(dataset.data.obs_names)
    return found.where(found.notna(), "").astype(str).to_numpy()


def _numbers(column: pd.Series) -> np.ndarray:
    """A column as numbers; texts such as G2, G3, G4 are ranked in alphabetical order. NaN stays."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64)
    codes, _ = pd.factorize(column.astype(object), sort=True)
    return np.where(codes < 0, np.nan, codes)


def _most_variable(data: Data, subset: Subset) -> np.ndarray:
    """Positions of the most variable genes by Seurat's ``vst``, sorted."""
    import scanpy as sc
    from anndata import AnnData

    if data.kind != "counts":
        raise InputError(f"{subset.name}: leave out n_top_genes, which is for counts", code="variable-genes-kind")
    try:
        table = sc.pp.highly_variable_genes(
            AnnData(sp.csr_matrix(data.X)), flavor="seurat_v3", n_top_genes=subset.n_top_genes, inplace=False
        )
    except ImportError as error:
        raise missing_extra("n_top_genes", "scikit-misc", "deep") from error
    except ValueError as error:  # the window of loess is singular
        raise InputError(
            f"{subset.name}: genes cannot be ranked by variance: raise min_cells ({error})", code="variable-genes"
        ) from error
    return np.flatnonzero(table["highly_variable"].to_numpy())


def tables_of(study: Study, load: Loader) -> Tables:
    """What the schemes need in addition to the data."""
    coverage = {}
    for name in {split.coverage for subset in study.datasets for split in study.splits_of(subset) if split.coverage}:
        table = load(name)
        columns = [column for column in getattr(table, "columns", ()) if str(column).startswith("Cov.")]
        if not columns:
            raise InputError(f"{name} has no coverages (columns Cov.*): give another dataset", code="coverage-missing")
        coverage[name] = table[columns].to_numpy()
    return Tables(read_gc(study.gc) if study.gc else {}, coverage)


DATA_COLUMNS = ("data set", "what it is", "rows", "features", "zeros or missing")


def data_rows(datasets: Mapping[str, Dataset]) -> list[list[str]]:
    """What a study ran on, as texts in the order of `DATA_COLUMNS`: label of a subset -> data set.

    The last is the share of zeros for counts, and of missing values for others.
    """
    what = {info.name: info.what for info in DATASETS}
    rows = []
    for label, dataset in datasets.items():
        n, G = dataset.data.shape
        known = int(dataset.data.observed_counts()[0].sum())
        about = "simulated" if dataset.differential is not None else what.get(label.split(" (")[0], "")
        rows.append([label, about, f"{n:,}", f"{G:,}", f"{1 - known / (n * G):.1%}"])
    return rows


def digest_of(loaded: Any) -> str:
    """Of all that `load_subset` can use of a dataset, which is an AnnData or a table."""
    if not hasattr(loaded, "obs_names"):
        return digest(loaded)
    return digest([loaded.X, loaded.obs_names, loaded.obs, loaded.var_names, loaded.var])
