"""What users of scanpy, SpatialData and NumPy expect of a result."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import imputome
from codes import has_code
from imputome import methods
from imputome.errors import InputError


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(1.0, size=(40, 3)) @ rng.gamma(1.0, size=(3, 25))).astype(np.float32)
    X[0] += 1
    X[:, 0] += 1
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(40)])
    return ad.AnnData(X, obs=obs, var=pd.DataFrame(index=[f"gene{j}" for j in range(25)]))


def real_table() -> pd.DataFrame:
    X = np.random.default_rng(1).normal(size=(6, 4)).round(2)
    X[0, 1] = X[3, 2] = np.nan
    return pd.DataFrame(X, index=list("abcdef"), columns=["w", "x", "y", "z"])


def test_an_imputation_is_an_array_and_a_table():
    table = real_table()
    imputation = methods.get("mean")().fit_transform(table)
    expected = table.fillna(table.mean())
    np.testing.assert_allclose(np.asarray(imputation), expected.to_numpy())
    assert np.asarray(imputation, dtype=np.float32).dtype == np.float32
    np.testing.assert_allclose(np.nan_to_num(table) + imputation, np.nan_to_num(table) + expected)
    with pytest.raises(ValueError, match="copy"):
        np.array(imputation, copy=False)
    pd.testing.assert_frame_equal(imputation.to_dataframe(), expected, check_exact=False)
    pd.testing.assert_frame_equal(imputation.to_dataframe(genes=["z", "x"]), expected[["z", "x"]], check_exact=False)
    fitted = imputation.to_dataframe(keep_observed=False)
    np.testing.assert_allclose(fitted, np.broadcast_to(table.mean(), table.shape))


def test_the_record_of_a_result_is_an_object(adata):
    with pytest.raises(InputError, check=has_code("no-result")):
        imputome.get(adata)
    imputome.impute(adata, method="gene_mean", scale="log1p", random_state=3, key_added="a")
    record = imputome.get(adata)
    assert (record.method, record.scale, record.random_state, record.verdict) == ("gene_mean", "log1p", 3, None)
    imputome.impute(adata, method="no_imputation", key_added="b")
    assert imputome.get(adata, "b").method == "no_imputation"
    with pytest.raises(InputError, check=has_code("several-results")):
        imputome.get(adata)


def test_a_table_of_spatialdata_keeps_what_links_it_to_its_shapes(adata, tmp_path):
    """A table of SpatialData is an AnnData whose rows point to shapes by these columns and this entry of uns."""
    adata.obs["region"] = pd.Categorical(["spots"] * 40)
    adata.obs["instance"] = np.arange(100, 140)
    adata.obsm["spatial"] = np.random.default_rng(2).random((40, 2))
    adata.uns["spatialdata_attrs"] = {"region": "spots", "region_key": "region", "instance_key": "instance"}
    before = adata.copy()
    imputome.impute(adata, method="gene_mean")
    adata.write_h5ad(tmp_path / "table.h5ad")
    for table in (adata, ad.read_h5ad(tmp_path / "table.h5ad")):
        assert dict(table.uns["spatialdata_attrs"]) == before.uns["spatialdata_attrs"]
        pd.testing.assert_frame_equal(table.obs, before.obs)
        np.testing.assert_array_equal(table.obsm["spatial"], before.obsm["spatial"])
        np.testing.assert_array_equal(table.X, before.X)
    with pytest.raises(InputError, match=r"tables\['table'\]", check=has_code("not-anndata")):
        imputome.impute(SimpleNamespace(tables={"table": adata}), method="gene_mean")


@pytest.mark.filterwarnings("ignore:Setting element")  # a view becomes a copy when it is written to, as in scanpy
def test_a_view_gets_its_own_result_and_leaves_its_parent_alone(adata):
    view = adata[5:, ::2]
    expected = view.copy()
    imputome.impute(expected, method="gene_mean")
    imputome.impute(view, method="gene_mean")
    np.testing.assert_array_equal(view.layers["gene_mean"], expected.layers["gene_mean"])
    assert not adata.layers
    assert "imputome" not in adata.uns


@pytest.mark.parametrize("name", ["tl", "pp"])
def test_the_namespaces_of_scanpy_say_where_functions_are(name):
    with pytest.raises(AttributeError, match=r"imputome\.impute"):
        getattr(imputome, name)
