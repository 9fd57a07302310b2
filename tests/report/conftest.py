"""Results with a check, made by the same functions that checks are made of."""

from __future__ import annotations

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from imputome import methods
from imputome.evaluation.trust import gather
from imputome.methods.base import as_data

matplotlib.use("Agg")


def predicting(name, **params):
    def predict(train, apply):
        estimator = methods.get(name)(**params)
        result = estimator.fit_transform(train)
        return result if apply is None else estimator.transform(apply)

    return predict


def check(adata, kind, predict, controls, *, method, reference, labels=None):
    """What a check leaves in the record."""
    data = as_data(adata.X, kind=kind, obs_names=adata.obs_names, var_names=adata.var_names)
    found = gather(
        data,
        predict,
        method=method,
        controls={name: predicting(name) for name in controls},
        reference=reference,
        rng=np.random.default_rng(0),
        labels=labels,
    )
    edges = np.linspace(-1, 1, 41)
    shares = [np.histogram(values, edges)[0] / len(values) for values in (found.null.before, found.null.after)]
    genes = found.reliability.to_frame(found.genes)
    if found.zeros is not None:
        zeros = found.zeros.to_frame(found.genes)
        genes = genes.join(zeros.rename(columns={"before": "zeros_before", "after": "zeros_after"}))
    verdict = {
        "verdict": "use for visualisation only",
        "reasons": np.array(
            [
                f"{method} explains held-out values better than every control.",
                "Genes that were permuted, and so have nothing to do with one another, correlate after imputing, so "
                "that networks and correlations of genes would partly show the method and not the cells.",
            ]
        ),
        "rule": "1",
        "method": method,
        "reference": reference,
        "kind": kind,
        "cells": found.cells,
        "genes_used": adata.n_vars,
        "fits": found.fits,
        "seconds": 1.0,
        "seed": 0,
        "figures": {},
        "scores": found.scores.assign(control=found.scores["method"].isin(controls)),
        "null": pd.DataFrame({"low": edges[:-1], "high": edges[1:], "before": shares[0], "after": shares[1]}),
        "genes": genes,
    }
    if found.mixing:
        verdict["mixing"] = {name: mixing.to_frame() for name, mixing in found.mixing.items()}
    return verdict


@pytest.fixture(scope="session")
def checked_counts():
    """300 cells of three types, each with genes of its own; imputed by Poisson NMF."""
    rng = np.random.default_rng(0)
    n, G = 300, 60
    kind = rng.integers(3, size=n)
    rate = rng.gamma(1.0, 1.0, G) * np.where(np.arange(G) % 6 == kind[:, None], 6.0, 0.6)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.var_names = [f"GENE{j}" for j in range(G)]
    adata.obs["cell_type"] = pd.Categorical(np.array(["B cell", "T cell", "monocyte"])[kind])
    adata.obs["depth"] = np.asarray(adata.X.sum(axis=1)).ravel() + rng.random(n)
    imputome.impute(adata, method="poisson_nmf", params={"n_components": 12}, key_added="nmf")
    adata.uns["imputome"]["nmf"]["verdict"] = check(
        adata,
        "counts",
        predicting("poisson_nmf", n_components=12),
        ["no_imputation", "gene_mean", "gene_mean_posterior"],
        method="poisson_nmf",
        reference="gene_mean",
        labels={"cell_type": adata.obs["cell_type"]},
    )
    return adata


@pytest.fixture(scope="session")
def checked_real():
    """200 samples of 12 features with three factors under them; imputed by soft-impute."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 12)) + 0.5 * rng.standard_normal((200, 12))
    adata = ad.AnnData(np.where(rng.random(X.shape) < 0.1, np.nan, X).astype(np.float32))
    adata.var_names = [f"feature{j}" for j in range(12)]
    imputome.impute(adata, method="soft_impute", key_added="soft")
    adata.uns["imputome"]["soft"]["verdict"] = check(
        adata, "real", predicting("soft_impute"), ["mean", "random"], method="soft_impute", reference="mean"
    )
    return adata


@pytest.fixture
def counts(checked_counts):
    """A copy to change."""
    return checked_counts.copy()


@pytest.fixture
def real(checked_real):
    return checked_real.copy()
