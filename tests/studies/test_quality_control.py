"""Filters of cells and genes, against scanpy as the code of paper 002 calls it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from codes import has_code
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.studies.inputs import detected


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.2, 3, (80, 1))
    X = rng.poisson(depth * rng.gamma(0.4, 2, 60)).astype(np.float32)
    X[:, :4] = rng.poisson(depth * rng.gamma(0.5, 1.5, (80, 4)))
    names = ["MT-CO1", "MT-ND1", "mt-Nd2", "MTOR", *(f"g{j}" for j in range(56))]
    return ad.AnnData(X, obs=pd.DataFrame(index=[f"c{i}" for i in range(80)]), var=pd.DataFrame(index=names))


def test_quality_control_is_that_of_paper_002(cells):
    adata = cells.copy()
    adata.var["mt"] = adata.var_names.str.upper().str.startswith("MT-")
    sc.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, log1p=False, inplace=True)
    adata = adata[adata.obs.n_genes_by_counts < 40, :]
    adata = adata[adata.obs.pct_counts_mt < 8, :]
    adata = adata[adata.obs.total_counts < 90, :].copy()
    sc.pp.filter_cells(adata, min_genes=12)
    sc.pp.filter_genes(adata, min_cells=3)
    data = as_data(cells.X, kind="counts", obs_names=cells.obs_names, var_names=cells.var_names)
    left, places = detected(data, 12, 3, max_genes=40, max_counts=90, max_mitochondrial=0.08)
    assert list(left.obs_names) == list(adata.obs_names) == list(cells.obs_names[places])
    assert list(left.var_names) == list(adata.var_names)
    for limits in ({"max_genes": 40}, {"max_counts": 90}, {"max_mitochondrial": 0.08}):  # each takes cells away
        assert adata.n_obs < detected(data, 12, 3, **limits)[0].shape[0] < 80


def test_limits_that_do_not_fit(cells):
    real = as_data(np.random.default_rng(0).normal(size=(5, 4)), kind="real")
    with pytest.raises(InputError, check=has_code("counts-only")):
        detected(real, 0, 0, max_counts=5)
    named = as_data(cells.X[:, 4:], kind="counts")
    with pytest.raises(InputError, check=has_code("no-mitochondrial-genes")):
        detected(named, 0, 0, max_mitochondrial=0.1)
