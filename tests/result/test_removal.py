"""Removing or replacing a result takes what its record lists, and nothing that belongs to the user."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import has_code
from imputome.cli import run
from imputome.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data", "ignore:zarr v3 autosharding")
OLD = Path(__file__).parent / "results_0.1.0.h5ad"
STORES = ["h5ad", "zarr"]


def write(adata, path):
    (adata.write_h5ad if path.suffix == ".h5ad" else adata.write_zarr)(path)
    return path


def read(path):
    return (ad.read_h5ad if path.suffix == ".h5ad" else ad.read_zarr)(path)


def imputed(key="gene_mean"):
    """A result of ``gene_mean``, and things of the user's own whose names begin with its key."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(2.0, (30, 8)).astype(np.float32)))
    adata.obs_names, adata.var_names = [f"cell{i}" for i in range(30)], [f"gene{j}" for j in range(8)]
    imputome.impute(adata, method="gene_mean", key_added=key)
    assert f"{key}_share" in adata.var
    adata.var[f"{key}_note"] = [f"note {j}" for j in range(8)]
    adata.obs[f"{key}_batch"] = ["a", "b"] * 15
    adata.layers[f"{key}_variance"] = np.ones((30, 8))
    adata.obsm[key] = np.ones((30, 2))
    adata.obsm[f"X_{key}"] = np.ones((30, 3))  # the method has no latent representation
    return adata


def check_own(adata, key="gene_mean"):
    """All that is the user's own is still there."""
    assert list(adata.var[f"{key}_note"]) == [f"note {j}" for j in range(8)]
    assert list(adata.obs[f"{key}_batch"]) == ["a", "b"] * 15
    np.testing.assert_array_equal(adata.layers[f"{key}_variance"], np.ones((30, 8)))
    np.testing.assert_array_equal(adata.obsm[key], np.ones((30, 2)))
    np.testing.assert_array_equal(adata.obsm[f"X_{key}"], np.ones((30, 3)))


@pytest.mark.parametrize("store", STORES)
def test_remove_leaves_what_is_the_users_own(tmp_path, store):
    path = write(imputed(), tmp_path / f"a.{store}")
    assert run(["remove", str(path), "gene_mean"]) == 0
    adata = read(path)
    check_own(adata)
    assert "gene_mean" not in adata.layers
    assert "gene_mean_share" not in adata.var
    assert "imputome" not in adata.uns


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("other", [False, True], ids=["same format", "other format"])
def test_a_result_replaced_in_a_file_leaves_what_is_the_users_own(tmp_path, store, other):
    path = write(imputed(), tmp_path / f"a.{store}")
    out = tmp_path / (f"b.{STORES[1 - STORES.index(store)]}" if other else f"b.{store}")
    command = ["impute", str(path), "-o", str(out), "-m", "no_imputation", "--key-added", "gene_mean"]
    assert run([*command, "--force"]) == 1  # X_gene_mean is in no record
    adata = imputed()
    latent = adata.obsm.pop("X_gene_mean")
    write(adata, path)
    assert run(command) == 1
    assert run([*command, "--force"]) == 0
    adata = read(out)
    adata.obsm["X_gene_mean"] = latent
    check_own(adata)
    np.testing.assert_array_equal(adata.layers["gene_mean"], adata.X.toarray())
    assert "gene_mean_share" not in adata.var
    assert adata.uns["imputome"]["gene_mean"]["method"] == "no_imputation"


def test_a_result_replaced_in_memory_leaves_what_is_the_users_own():
    adata = imputed()
    with pytest.raises(InputError, check=has_code("not-a-result")):
        imputome.impute(adata, method="poisson_nmf", key_added="gene_mean", overwrite=True)
    check_own(adata)
    latent = adata.obsm.pop("X_gene_mean")
    imputome.impute(adata, method="no_imputation", key_added="gene_mean", overwrite=True)
    adata.obsm["X_gene_mean"] = latent
    check_own(adata)
    assert "gene_mean_share" not in adata.var
    assert adata.uns["imputome"]["gene_mean"]["method"] == "no_imputation"


@pytest.mark.parametrize("store", STORES)
def test_results_of_the_first_version_are_removed_exactly(tmp_path, store):
    before = ad.read_h5ad(OLD)
    before.obsm["X_gene_mean"] = np.ones((50, 2))
    path = write(before, tmp_path / f"a.{store}")
    gone = {
        "gene_mean": {"layers": ["gene_mean"], "var": ["gene_mean_share"]},
        "checked": {
            "layers": ["checked", "checked_variance"],
            "obsm": ["X_checked"],
            "var": ["checked_posterior_shape"],
        },
        "raced": {"layers": ["raced"], "obsm": ["X_raced"], "var": ["raced_posterior_shape"]},
    }
    for key, places in gone.items():
        expected = {room: list(getattr(read(path), room).keys()) for room in ("layers", "obsm", "var", "obs")}
        assert run(["remove", str(path), key]) == 0
        for room, names in places.items():
            assert set(names) <= set(expected[room])
            expected[room] = [name for name in expected[room] if name not in names]
        after = read(path)
        assert {room: list(getattr(after, room).keys()) for room in expected} == expected
        assert key not in after.uns.get("imputome", {})
    pd.testing.assert_series_equal(after.var["gene_mean_note"], before.var["gene_mean_note"])
    assert "protein_names" in after.uns


@pytest.mark.parametrize("store", STORES)
def test_some_genes_in_obsm_are_removed_and_a_layer_of_the_same_name_is_not(tmp_path, store):
    adata = imputed("other")
    adata.layers["k"] = np.ones((30, 8))
    for genes in (["gene1"], ["gene2", "gene3"]):
        imputome.impute(adata, method="gene_mean", key_added="k", genes=genes, overwrite=True)
        assert list(adata.obsm["k"].columns) == genes
        np.testing.assert_array_equal(adata.layers["k"], np.ones((30, 8)))
    path = write(adata, tmp_path / f"a.{store}")
    assert run(["remove", str(path), "k"]) == 0
    after = read(path)
    assert "k" not in after.obsm
    assert "k_share" not in after.var
    np.testing.assert_array_equal(after.layers["k"], np.ones((30, 8)))
    check_own(after, "other")


@pytest.mark.parametrize("store", STORES)
def test_multiple_imputations_are_removed_too(tmp_path, store):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((40, 6))
    X[rng.random(X.shape) < 0.1] = np.nan
    path, out = write(ad.AnnData(X), tmp_path / f"a.{store}"), tmp_path / f"b.{store}"
    options = ["-m", "gaussian_copula", "--draws", "2", "--key-added", "k"]
    assert run(["impute", str(path), "-o", str(out), *options]) == 0
    assert set(read(out).layers) == {"k", "k_draw01", "k_draw02"}
    assert run(["remove", str(out), "k"]) == 0
    assert not read(out).layers


def test_a_record_that_cannot_be_read_changes_nothing(tmp_path, capsys):
    adata = imputed()
    del adata.uns["imputome"]["gene_mean"]["input"]
    path = write(adata, tmp_path / "a.h5ad")
    before = path.read_bytes()
    assert run(["remove", str(path), "gene_mean"]) == 1
    assert "[record-malformed]" in capsys.readouterr().err
    assert path.read_bytes() == before
    command = ["impute", str(path), "-o", str(tmp_path / "b.h5ad"), "-m", "gene_mean", "--force"]
    assert run(command) == 1
    assert "[record-malformed]" in capsys.readouterr().err
    assert not (tmp_path / "b.h5ad").exists()
