"""`imputome.impute`: what goes where, what is refused, and that the input stays as it is."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import has_code, warns
from imputome.api.impute import run_plan
from imputome.api.plan import InMemory, Options, checked_options, plan_impute
from imputome.cli.output import ending
from imputome.core import stored
from imputome.core.imputation import Status
from imputome.errors import InputError
from imputome.evaluation.masked import mask
from imputome.io.reading import read
from imputome.methods import get

pytestmark = pytest.mark.filterwarnings("ignore:.*(cells?|genes?) holds? only zeros")


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, size=(60, 4)) @ rng.gamma(0.5, size=(4, 40)) * 3
    X = rng.poisson(rates).astype(np.float32)
    X[5], X[:, 8] = 0, 0
    names = [f"gene{j}" for j in range(40)]
    return ad.AnnData(
        sp.csr_matrix(X),
        obs=pd.DataFrame({"batch": ["a", "b"] * 30}, index=[f"cell{i}" for i in range(60)]),
        var=pd.DataFrame({"symbol": [f"S{j}" for j in range(40)]}, index=names),
    )


def test_results_go_to_their_places(adata):
    before = adata.X.copy()
    assert imputome.impute(adata, method="ialm") is None
    assert (before != adata.X).nnz == 0
    assert adata.X.dtype == before.dtype
    assert adata.layers["ialm"].shape == adata.shape
    assert adata.obsm["X_ialm"].shape[0] == 60
    record = adata.uns["imputome"]["ialm"]
    assert record["method"] == "ialm"
    assert json.loads(record["params"])["rank_step"] == 200
    assert record["random_state"] == 0
    assert record["versions"]["imputome"] == imputome.__version__
    assert record["input"] == {"where": "X", "state": "counts", "kind": "counts"}
    assert record["scale"] == "counts"
    assert list(record["unusable_cells"]) == ["cell5"]
    assert list(record["unusable_genes"]) == ["gene8"]
    assert record["seconds"] > 0
    assert record["peak_memory_bytes"] > 2**20
    assert record["convergence"]["converged"] is True
    assert (adata.layers["ialm"][5] == 0).all()
    assert (adata.layers["ialm"][:, 8] == 0).all()


def test_layer_equals_the_estimator(adata):
    imputome.impute(adata, method="poisson_nmf", params={"n_components": 3}, random_state=4, key_added="nmf")
    expected = get("poisson_nmf")(n_components=3, random_state=4).fit_transform(adata.X).to_array()
    np.testing.assert_array_equal(adata.layers["nmf"], expected)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_provenance_survives_a_file(adata, tmp_path, suffix):
    imputome.impute(adata, method="ialm")
    imputome.impute(adata, method="gene_mean", posterior=True)
    path = tmp_path / f"out{suffix}"
    adata.write_h5ad(path) if suffix == ".h5ad" else adata.write_zarr(path)
    read = ad.read_h5ad(path) if suffix == ".h5ad" else ad.read_zarr(path)
    assert set(read.uns["imputome"]) == {"ialm", "gene_mean_posterior"}
    assert list(read.uns["imputome"]["ialm"]["unusable_genes"]) == ["gene8"]
    assert read.uns["imputome"]["ialm"]["convergence"]["status"] == "converged"
    np.testing.assert_array_equal(read.layers["ialm"], adata.layers["ialm"])


def test_existing_layer_needs_overwrite(adata):
    imputome.impute(adata, method="gene_mean")
    kept = adata.layers["gene_mean"].copy()
    with pytest.raises(InputError, check=has_code("key-exists")):
        imputome.impute(adata, method="gene_mean")
    np.testing.assert_array_equal(adata.layers["gene_mean"], kept)
    imputome.impute(adata, method="gene_mean", overwrite=True, scale="log1p")
    assert not np.array_equal(adata.layers["gene_mean"], kept)


def test_copy_leaves_the_original(adata):
    result = imputome.impute(adata, method="gene_mean", copy=True)
    assert "gene_mean" not in adata.layers
    assert "imputome" not in adata.uns
    assert "gene_mean" in result.layers


MASK = np.isin(np.arange(40), [1, 3])


@pytest.mark.parametrize(
    ("genes", "order"),
    [
        *(
            (genes, [3, 1])
            for genes in (["gene3", "gene1"], dict.fromkeys(["gene3", "gene1"]), [3, 1], slice(3, 0, -2))
        ),
        (pd.Index(["gene3", "gene1"]), [3, 1]),
        *((genes, [1, 3]) for genes in ({"gene3", "gene1"}, [1, 3], MASK, pd.Series(MASK))),
        (pd.Series(MASK, index=[f"gene{j}" for j in range(40)])[::-1], [1, 3]),
    ],
)
def test_some_genes_in_place_and_as_copy(adata, genes, order):
    whole = imputome.impute(adata, method="gene_mean", copy=True).layers["gene_mean"]
    imputome.impute(adata, method="gene_mean", genes=genes)
    table = adata.obsm["gene_mean"]
    assert list(table.columns) == [f"gene{j}" for j in order]
    np.testing.assert_array_equal(table, whole[:, order])
    part = imputome.impute(adata, method="gene_mean", genes=genes, copy=True, key_added="part")
    assert list(part.var_names) == list(table.columns)
    np.testing.assert_array_equal(part.layers["part"], whole[:, order])
    assert adata.shape == (60, 40)


def test_scales(adata):
    depth = np.asarray(adata.X.sum(axis=1))
    for scale in ("counts", "normalized", "log1p"):
        imputome.impute(adata, method="gene_mean", scale=scale, key_added=scale)
    per_cell = np.divide(1e4, depth, out=np.zeros_like(depth), where=depth > 0)
    np.testing.assert_allclose(adata.layers["normalized"], adata.layers["counts"] * per_cell, rtol=1e-5)
    np.testing.assert_allclose(adata.layers["log1p"], np.log1p(adata.layers["normalized"]), rtol=1e-5)
    assert adata.uns["imputome"]["log1p"]["scale"] == "log1p"


def test_log1p_input_needs_consent_and_comes_back_on_its_scale(adata):
    counts = adata.X.toarray()
    depth = np.maximum(counts.sum(1, keepdims=True), 1)
    adata.layers["counts"] = adata.X.copy()
    adata.X = sp.csr_matrix(np.log1p(counts / depth * 1e4))
    with pytest.raises(InputError, check=has_code("looks-log1p")):
        imputome.impute(adata, method="gene_mean")
    with warns("scale-taken"):
        imputome.impute(adata, method="no_imputation", scale="log1p")
    np.testing.assert_allclose(adata.layers["no_imputation"], adata.X.toarray(), rtol=1e-5)
    with warns("scale-taken"):
        imputome.impute(adata, method="gene_mean", scale="log1p")
    linear = np.expm1(adata.X.toarray()).mean(axis=0)
    np.testing.assert_allclose(adata.layers["gene_mean"], np.tile(np.log1p(linear), (60, 1)), rtol=1e-4)
    with pytest.raises(InputError, check=has_code("not-integers")):
        imputome.impute(adata, method="gene_mean_posterior", scale="log1p")
    imputome.impute(adata, method="gene_mean_posterior", layer="counts")
    assert adata.uns["imputome"]["gene_mean_posterior"]["input"]["where"] == "layers['counts']"


def test_posterior_switch(adata):
    imputome.impute(adata, method="gene_mean", posterior=True)
    imputome.impute(adata, method="gene_mean_posterior", key_added="same")
    np.testing.assert_array_equal(adata.layers["gene_mean_posterior"], adata.layers["same"])
    assert adata.uns["imputome"]["same"]["posterior"] is True
    assert "same_posterior_shape" in adata.var
    with pytest.raises(InputError, check=has_code("no-posterior")):
        imputome.impute(adata, method="no_imputation", posterior=True)


def test_real_values(adata):
    X = np.random.default_rng(1).standard_normal((60, 40))
    X[3, 4] = X[10, 11] = np.nan
    real = ad.AnnData(X)
    with pytest.raises(InputError, check=has_code("wrong-kind")):
        imputome.impute(real, method="gene_mean")
    imputome.impute(real, method="mean")
    assert real.layers["mean"][3, 4] == pytest.approx(np.nanmean(X[:, 4]))
    assert np.isnan(real.X[3, 4])
    with pytest.raises(InputError, check=has_code("scale-needs-counts")):
        imputome.impute(real, method="median", scale="log1p")
    with pytest.raises(InputError, check=has_code("nothing-missing")):
        imputome.impute(ad.AnnData(np.nan_to_num(X)), method="mean")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "magic_wand"}, "unknown-method"),
        ({"method": "ialm", "params": {"rank": 3}}, "unknown-parameter"),
        ({"method": "ialm", "layer": "spliced"}, "layer-missing"),
        ({"method": "ialm", "scale": "cpm"}, "unknown-scale"),
        ({"method": "ialm", "genes": ["gene1", "nope"]}, "unknown-gene"),
        ({"method": "ialm", "genes": []}, "no-genes"),
        ({"method": "ialm", "genes": [40]}, "genes-out-of-range"),
        ({"method": "ialm", "covariates": ["batch"]}, "no-covariates"),
        ({"method": "mean"}, "wrong-kind"),
    ],
)
def test_refusals_change_nothing(adata, options, text):
    with pytest.raises(InputError, check=has_code(text)):
        imputome.impute(adata, **options)
    assert not adata.layers
    assert "imputome" not in adata.uns


def test_too_large_a_dense_layer_is_refused(adata, monkeypatch):
    monkeypatch.setattr("imputome.api.plan.os.sysconf", lambda name: 64)
    with pytest.raises(InputError, check=has_code("too-large-for-memory")):
        imputome.impute(adata, method="gene_mean")


def test_not_converging_warns(adata):
    with warns("fit-rank_limited"):
        imputome.impute(adata, method="ialm", params={"max_rank": 2})
    assert adata.uns["imputome"]["ialm"]["convergence"]["status"] == "rank_limited"


class Replaced(get("gene_mean")):
    """A method that did not converge, and whose values come from something else."""

    replaced_by = "the gene mean"

    def _fit(self, data):
        model, result = super()._fit(data)
        return model, {**result, "status": Status("max_iter", "all values come from the gene mean", {"replaced": True})}


def test_a_replaced_method_is_said_once(adata):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        imputome.impute(adata, method=Replaced())
    assert [warning.message.args[0].code for warning in caught if "mean" in str(warning.message)] == ["method-replaced"]
    options = Options(method=Replaced(), key_added="r")
    plan = plan_impute(adata, options, InMemory(), estimator=checked_options(options))
    assert "gene mean" not in ending(run_plan(plan)[1])


def test_overwriting_leaves_nothing_of_the_old_result(adata):
    imputome.impute(adata, method="poisson_nmf", posterior=True, key_added="k")
    assert "X_k" in adata.obsm
    assert "k_posterior_shape" in adata.var
    imputome.impute(adata, method="gene_mean", key_added="k", overwrite=True)
    assert "X_k" not in adata.obsm
    assert "k_posterior_shape" not in adata.var
    assert "k_share" in adata.var
    adata.obsm["X_mine"] = np.zeros((60, 2))
    for overwrite in (False, True):
        with pytest.raises(InputError, check=has_code("not-a-result")):
            imputome.impute(adata, method="poisson_nmf", key_added="mine", overwrite=overwrite)


def test_numpy_numbers_are_parameters_too(adata):
    imputome.impute(adata, method="ialm", params={"max_rank": np.int64(3), "tol": np.float32(1e-3)}, key_added="k")
    assert json.loads(adata.uns["imputome"]["k"]["params"])["max_rank"] == 3


def test_outputs_go_beside_the_value_and_are_forgotten_with_it(adata):
    imputome.impute(adata, method="gene_mean", posterior=True, key_added="k", outputs=("variance", "value", "upper"))
    result = get("gene_mean")(posterior=True).fit_transform(adata.X)
    np.testing.assert_array_equal(adata.layers["k_variance"], result.to_array(output="variance"))
    np.testing.assert_array_equal(adata.layers["k_upper"], result.to_array(output="upper"))
    np.testing.assert_array_equal(adata.layers["k"], result.to_array())
    assert list(adata.uns["imputome"]["k"]["outputs"]) == ["variance", "upper"]
    imputome.impute(adata, method="gene_mean", key_added="k", overwrite=True)
    assert set(adata.layers) == {"k"}
    with pytest.raises(InputError, check=has_code("output-needs-posterior")):
        imputome.impute(adata, method="gene_mean", outputs="lower")


def test_outputs_of_some_genes(adata):
    options = {"method": "gene_mean_posterior", "key_added": "k", "outputs": ("upper",)}
    whole = imputome.impute(adata, copy=True, **options).layers["k_upper"]
    imputome.impute(adata, genes=["gene3"], **options)
    np.testing.assert_allclose(adata.obsm["k_upper"]["gene3"], whole[:, 3])
    part = imputome.impute(adata, genes=["gene3"], copy=True, overwrite=True, **options)
    np.testing.assert_allclose(part.layers["k_upper"], whole[:, [3]])


def test_results_per_cell_are_columns_of_obs_and_are_forgotten(adata, monkeypatch):
    from imputome.methods.controls.estimators import GeneMean

    def fit(self, data):
        self.share_ = data.gene_totals / data.depth.sum()
        return self._new_rows(data), {"cell_columns": {"size": data.depth}}

    monkeypatch.setattr(GeneMean, "_fit", fit)
    imputome.impute(adata, method="gene_mean", key_added="k")
    np.testing.assert_array_equal(adata.obs["k_size"], np.asarray(adata.X.sum(axis=1)).ravel())
    assert list(adata.uns["imputome"]["k"]["cell_columns"]) == ["size"]
    assert list(adata.obs["batch"]) == ["a", "b"] * 30
    monkeypatch.undo()
    imputome.impute(adata, method="gene_mean", key_added="k", overwrite=True)
    assert list(adata.obs.columns) == ["batch"]


def test_no_method_takes_the_default(adata, monkeypatch):
    monkeypatch.setitem(imputome.methods.DEFAULT, "counts", "gene_mean")
    imputome.impute(adata)
    assert adata.uns["imputome"]["gene_mean"]["method"] == "gene_mean"
    X = np.random.default_rng(0).normal(size=(20, 6))
    X[0, 0] = np.nan
    real = ad.AnnData(X)
    imputome.impute(real)
    assert real.uns["imputome"]["gaussian_copula"]["transform"] == "identity"
    assert np.isfinite(real.layers["gaussian_copula"]).all()
    few = ad.AnnData(X[:5])
    imputome.impute(few)
    assert list(few.layers) == ["mean"]  # as is advised
    with pytest.raises(InputError, check=has_code("layer-missing")):
        imputome.impute(adata, layer="spliced")


def test_genes_that_are_given_twice_are_written_once(adata):
    with warns("genes-repeated"):
        imputome.impute(adata, method="gene_mean", genes=["gene3", "gene1", "gene3"])
    assert list(adata.obsm["gene_mean"].columns) == ["gene3", "gene1"]


@pytest.mark.parametrize(
    ("genes", "code"),
    [
        (pd.Series([True] * 40, index=[f"other{j}" for j in range(40)]), "genes-mask"),
        (pd.Series([True, None] * 20, index=[f"gene{j}" for j in range(40)], dtype="boolean"), "genes-mask"),
        (np.array([[1, 2]]), "genes-shape"),
        (slice(5, 5), "no-genes"),
    ],
)
def test_genes_that_cannot_be_told_are_refused(adata, genes, code):
    with pytest.raises(InputError, check=has_code(code)):
        imputome.impute(adata, method="gene_mean", genes=genes)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"params": ["k"]}, "parameter-value"),
        ({"key_added": 3}, "parameter-value"),
        ({"key_added": ""}, "bad-key"),
        ({"layer": 0}, "parameter-value"),
        ({"labels": pd.Series(["a", "b"] * 30), "check": True}, "parameter-value"),
        ({"outputs": 5}, "parameter-value"),
        ({"covariates": pd.DataFrame({"batch": ["a"] * 60})}, "parameter-value"),
        ({"random_state": None}, "parameter-value"),
        ({"random_state": np.random.default_rng(0)}, "parameter-value"),
        ({"budget": "5", "method": "auto"}, "parameter-value"),
        ({"overwrite": "no"}, "parameter-value"),
        ({"copy": 1}, "parameter-value"),
        ({"check": "yes"}, "parameter-value"),
        ({"transform": "log"}, "unknown-transform"),
    ],
)
def test_arguments_of_another_type_are_refused(adata, options, code):
    with pytest.raises(InputError, check=has_code(code)):
        imputome.impute(adata, **{"method": "gene_mean", **options})
    assert "imputome" not in adata.uns


def test_the_transform_that_is_advised_works(adata):
    adata.X = np.where(adata.X.toarray() == 0, np.nan, adata.X.toarray() / 100)
    with pytest.raises(InputError) as error:
        imputome.impute(adata, method="mean", transform="log")
    for name in str(error.value).partition("one of ")[2].split(", "):
        imputome.impute(adata, method="mean", transform=name, key_added=name)


@pytest.mark.parametrize(
    ("room", "name"),
    [("layers", "k"), ("layers", "k_variance"), ("var", "k_share"), ("obs", "k_library_size"), ("obsm", "X_k")],
)
def test_what_is_the_users_own_is_never_replaced(adata, room, name):
    own = adata.X.copy() if room == "layers" else np.zeros((60, 2)) if room == "obsm" else 7
    getattr(adata, room)[name] = own
    for overwrite in (False, True):
        with pytest.raises(InputError, check=has_code("not-a-result")):
            imputome.impute(adata, method="gene_mean_posterior", key_added="k", outputs="variance", overwrite=overwrite)
    imputome.impute(adata, method="gene_mean_posterior", key_added="other", outputs="variance")  # as advised
    assert "imputome" in adata.uns


def test_a_copy_of_a_backed_anndata_is_refused(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for genes in (None, ["gene1"]):
        with pytest.raises(InputError, check=has_code("backed-copy")):
            imputome.impute(backed, method="gene_mean", copy=True, genes=genes)
    assert "gene_mean" in imputome.impute(backed.to_memory(), method="gene_mean", copy=True).layers  # as advised


def test_what_anndata_cannot_add_a_result_to_is_refused_before_the_fit(adata, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "KEPT_IN_MEMORY", 0)
    adata.X, adata.layers["also"] = sp.csr_matrix(adata.X), sp.csr_matrix(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    part = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")[1:]
    for genes in (None, part.var_names[:2]):
        with pytest.raises(InputError, check=has_code("backed-view")):
            imputome.impute(part, method="gene_mean", genes=genes)
    assert "gene_mean" in imputome.impute(part.to_memory(), method="gene_mean", copy=True).layers  # as advised
    whole = read(tmp_path / "a.h5ad", backed=True)
    with pytest.raises(InputError, check=has_code("backed-copy")):
        imputome.impute(whole, method="gene_mean", copy=True)
    assert "gene_mean" in imputome.impute(whole.to_memory(), method="gene_mean", copy=True).layers
    assert "gene_mean" in imputome.impute(whole, method="gene_mean", copy=True, genes=whole.var_names[:2]).layers


@pytest.mark.parametrize("function", ["impute", "fit_model", "apply_model", "evaluate", "de", "mask"])
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda a: a.X, "not-anndata"),
        (lambda a: a.X.toarray(), "not-anndata"),
        (lambda a: a.to_df(), "not-anndata"),
        (lambda a: "a.h5ad", "path-instead-of-data"),
        (lambda a: Path("a.csv"), "path-instead-of-data"),
        (lambda a: SimpleNamespace(mod={"prot": a, "rna": a}, obs_names=a.obs_names), "several-modalities"),
    ],
)
def test_what_is_no_anndata_is_refused_with_what_to_pass(adata, function, make, code):
    calls = {
        "impute": lambda data: imputome.impute(data, method="gene_mean"),
        "fit_model": lambda data: imputome.fit_model(data, method="gene_mean"),
        "apply_model": lambda data: imputome.apply_model(data, get("gene_mean")().fit(adata.X)),
        "evaluate": lambda data: imputome.evaluate(data, methods="gene_mean"),
        "de": lambda data: imputome.de(data, "batch"),
        "mask": lambda data: mask(data, scheme="random"),
    }
    with pytest.raises(InputError, check=has_code(code)):
        calls[function](make(adata))


def test_the_advice_for_a_data_frame_works(adata):
    frame = adata.to_df().convert_dtypes()
    given = ad.AnnData(frame)
    imputome.impute(given, method="gene_mean")
    imputome.impute(adata, method="gene_mean")
    np.testing.assert_allclose(given.to_df("gene_mean"), adata.to_df("gene_mean"), rtol=1e-6)
