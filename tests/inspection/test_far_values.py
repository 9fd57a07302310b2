"""Values far beyond all others are said with their place; heavy tails and other units are not."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import imputome
from codes import warns

RNG = np.random.default_rng(0)
SHAPE = (40, 30)
COUNTS = RNG.poisson(RNG.gamma(0.5, 20, SHAPE)).astype(float)
TABLES = {
    "logs": RNG.normal(9, 1.2, SHAPE),
    "z-scores": RNG.standard_t(3, SHAPE),
    "fractions": RNG.beta(0.4, 0.6, SHAPE),
    "counts": COUNTS,
    "intensities": 2 ** RNG.normal(20, 3, SHAPE),
    "heavy tails": np.sinh(RNG.normal(0, 4, SHAPE)),
}


def far(X):
    report = imputome.inspect(X)
    return [message for message in report.warnings if message.code == "far-values"]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("wrap", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_one_value_is_found_with_its_place(monkeypatch, name, wrap):
    monkeypatch.setattr("imputome.inspection.tally.ENTRIES_PER_PIECE", 100)
    X = TABLES[name].copy()
    X[4, 5] = X[7, 8] = np.nan
    if name == "counts":
        X = np.nan_to_num(X)
    assert far(wrap(X)) == []
    for value in (1e30, -1e30, 1e5 * np.nanmax(np.abs(X))):
        if value > 0 or name != "counts":
            X[11, 3] = value
            adata = ad.AnnData(wrap(X))
            adata.obs_names, adata.var_names = [f"cell{i}." for i in range(40)], [f"gene{j}." for j in range(30)]
            (message,) = far(adata)
            assert "cell11." in message
            assert "gene3." in message
            assert f"{value:g}" in message


def test_a_lost_decimal_point_among_logs():
    X = TABLES["logs"].copy()
    X[0, 0] = np.nan
    X[2, 2] *= 1000
    assert len(far(X)) == 1
    X[3], X[:, 3] = 8123.0, 7912.0  # a row and a column in another unit
    assert len(far(X)) == 1
    X[2, 2] = 9
    assert far(X) == []


def test_a_code_for_missing_of_any_digits():
    for name, X in TABLES.items():
        coded = np.nan_to_num(X) if name == "counts" else np.where(RNG.random(SHAPE) < 0.1, np.nan, X)
        coded.ravel()[::97] = 1e30
        assert len(far(coded)) == 1


def test_it_is_said_before_the_values_are_imputed():
    X = TABLES["logs"].copy()
    X[0, 0] = np.nan
    X[2, 2] = 1e30
    with warns("far-values"):
        imputome.impute(ad.AnnData(X), method="mean")
