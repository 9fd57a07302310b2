"""Results with a check, made by the same functions that checks are made of."""

from __future__ import annotations

import json
from collections.abc import Callable

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from imputome import methods
from imputome.core.data import as_data
from imputome.evaluation.metrics import METRICS
from imputome.studies.results import COLUMNS
from imputome.trust.evidence import gather

matplotlib.use("Agg")


def predicting(name, **params):
    return lambda data: methods.get(name)(**params).fit_transform(data)


def check(adata, kind, predict, controls, *, method, reference, labels=None):
    """What a check leaves in the record."""
    data = as_data(adata.X, kind=kind, obs_names=adata.obs_names, var_names=adata.var_names)
    evidence = gather(
        data,
        predict,
        method=method,
        controls={name: predicting(name) for name in controls},
        reference=reference,
        rng=np.random.default_rng(0),
        labels=labels,
    )
    edges = np.linspace(-1, 1, 41)
    shares = [np.histogram(values, edges)[0] / len(values) for values in (evidence.null.before, evidence.null.after)]
    genes = evidence.reliability.to_frame(evidence.genes)
    if evidence.zeros is not None:
        zeros = evidence.zeros.to_frame(evidence.genes)
        genes = genes.join(zeros.rename(columns={"before": "zeros_before", "after": "zeros_after"}))
    verdict = {
        "verdict": "use for visualisation only",
        "reasons": np.array(
            [
                f"{method} explains held-out values better than every control.",
                "A second reason, long enough to be broken into lines where the axes are narrow or the letters large, "
                "so that the height of the figure has to follow the number of its lines.",
            ]
        ),
        "rule": "1",
        "method": method,
        "reference": reference,
        "kind": kind,
        "cells": evidence.cells,
        "genes_used": adata.n_vars,
        "fits": evidence.fits,
        "seconds": 1.0,
        "seed": 0,
        "figures": {},
        "scores": evidence.scores.assign(control=evidence.scores["method"].isin(controls)),
        "null": pd.DataFrame({"low": edges[:-1], "high": edges[1:], "before": shares[0], "after": shares[1]}),
        "genes": genes,
    }
    if evidence.mixing:
        verdict["mixing"] = {name: mixing.to_frame() for name, mixing in evidence.mixing.items()}
    return verdict


@pytest.fixture(scope="session")
def checked_counts():
    """300 cells of three types, each with genes of its own; imputed by Poisson NMF."""
    rng = np.random.default_rng(0)
    n, G = 300, 60
    kind = rng.integers(3, size=n)
    rate = rng.gamma(1.0, 1.0, G) * np.where(np.arange(G) % 6 == kind[:, None], 6.0, 0.6)
    rate[:, :3] = np.where(np.arange(3) == kind[:, None], 10.0, 0.01)  # so that some zeros are confident ones
    rate[:, -1] = 0.004  # a molecule or two, of which none is held out
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


# -- for the page: small, and with names that try to break out of it ---------------------------------------------------
NASTY = (
    "</script><b>gene</b>",
    "<!-- <script>",
    "quote\"'& <i>β</i> \u2028",
    "n" * 300,
)


def simulate(n: int = 120, G: int = 60, seed: int = 0) -> ad.AnnData:
    """Counts of cells of three types."""
    rng = np.random.default_rng(seed)
    types = rng.integers(3, size=n)
    rates = rng.gamma(0.8, size=(3, G))[types] * rng.gamma(8, 0.25, size=(n, 1)) * 2
    X = rng.poisson(rates).astype(np.float32)
    X[:, 0] += 1
    X[0] += 1
    names = [*NASTY, *(f"gene{j}" for j in range(len(NASTY), G))]
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical([f"type <{t}>" for t in types])}, index=[f"c&{i}" for i in range(n)]
    )
    obs["depth"] = X.sum(axis=1)
    return ad.AnnData(sp.csr_matrix(X), obs=obs, var=pd.DataFrame(index=names[:G]))


def race_of(method: str) -> dict:
    """A race with a winner, a loser and one that did not run."""
    candidates = pd.DataFrame(
        {
            "name": [f"{method} (rank=8)", "gene_mean", "zipo (alpha_z=1e4)"],
            "method": [method, "gene_mean", "zipo"],
            "parameters": [json.dumps({"rank": 8}), "{}", json.dumps({"alpha_z": 1e4})],
            "control": [False, True, False],
            "score": [0.41, 0.48, np.nan],
            "sd": [0.01, 0.02, np.nan],
            "splits": [3, 3, 0],
            "seconds": [2.0, 0.1, 0.0],
            "outcome": ["won", "lost", "left out: no time was left"],
        }
    )
    size = {"metric": "poisson_deviance", "winner": f"{method} (rank=8)", "cells": 120, "genes": 60, "seconds": 3.0}
    return {"candidates": candidates, **size, "budget_minutes": 5.0, "seed": 0}


@pytest.fixture(scope="session")
def nasty() -> tuple[str, ...]:
    """Names of genes that try to break out of a page."""
    return NASTY


@pytest.fixture(scope="session")
def fresh() -> Callable[..., ad.AnnData]:
    """Makes counts that nothing was done to."""
    return simulate


@pytest.fixture(scope="session")
def _checked_types() -> ad.AnnData:
    adata = simulate()
    imputome.impute(adata, method="poisson_nmf", key_added="nmf", params={"n_components": 4})
    record = adata.uns["imputome"]["nmf"]
    record["verdict"] = check(
        adata,
        "counts",
        predicting("poisson_nmf"),
        ["no_imputation", "gene_mean", "gene_mean_posterior"],
        method="poisson_nmf",
        reference="gene_mean_posterior",
        labels={"cell_type": adata.obs["cell_type"]},
    )
    record["verdict"] |= {
        "reasons": np.array(["its error is <b>3 %</b> less than that of the closest control", "and a second reason"]),
        "figures": {"gain": 0.03, "separation": float("nan")},
        "calibration": pd.DataFrame(
            {"low": [0.0, 1.0], "high": [1.0, np.inf], "entries": [900, 100], "coverage": [0.91, 0.84]}
        ),
    }
    record["race"] = race_of("poisson_nmf")
    steps = np.arange(1, 21)
    record["history"] = {"epoch": steps, "train_loss": 3 + 1 / steps, "validation_loss": 3.1 + 1 / steps}
    return adata


@pytest.fixture
def page_counts(_checked_types: ad.AnnData) -> ad.AnnData:
    """A checked result ``nmf``, won in a race, of cells with labels."""
    return _checked_types.copy()


@pytest.fixture
def plain() -> ad.AnnData:
    """A result ``gene_mean`` that was not checked."""
    adata = simulate()
    imputome.impute(adata, method="gene_mean")
    return adata


@pytest.fixture
def page_real() -> ad.AnnData:
    """A checked result ``svd`` of real values with NaN."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 30)) + rng.normal(size=(60, 30)) * 0.3
    X[rng.random(X.shape) < 0.1] = np.nan
    adata = ad.AnnData(X, obs=pd.DataFrame(index=[f"s{i}" for i in range(60)]))
    adata.var_names = [f"f{j}" for j in range(30)]
    imputome.impute(adata, method="svd", transform="none")
    adata.uns["imputome"]["svd"]["verdict"] = check(
        adata, "real", predicting("svd"), ["mean", "median"], method="svd", reference="mean"
    )
    return adata


@pytest.fixture
def scores() -> pd.DataFrame:
    """A table of scores: two datasets, two ways to hide, four methods, one of which failed once."""
    rng = np.random.default_rng(5)
    rows = []
    metrics = ("poisson_loss", "total_ratio")
    assert set(metrics) <= set(METRICS)
    for dataset in ("one </script>", "two"):
        for fraction in (0.1, 0.3):
            for place, method in enumerate(("gene_mean", "no_imputation", "ialm", "poisson_nmf+posterior")):
                for trial in range(3):
                    failed = method == "ialm" and dataset == "two" and trial == 0
                    for metric in metrics:
                        row = dict.fromkeys(COLUMNS, "")
                        row |= {"dataset": dataset, "method": method, "parameters": "{}", "scheme": "thin"}
                        row |= {"options": "{}", "fraction": fraction, "trial": trial, "seed": 0, "metric": metric}
                        row |= {"value": np.nan if failed else place + rng.random(), "seconds": 1.0, "peak_bytes": 10}
                        row |= {"status": "failed" if failed else "ok", "reason": "no <memory>" if failed else ""}
                        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))
