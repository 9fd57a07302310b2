"""`imputome apply` and `imputome.apply_model`: genes matched by name, what new cells get, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import has_code, refused, warns
from imputome import methods
from imputome.cli import run
from imputome.core.data import as_data
from imputome.errors import InputError, ModelFormatError

N, G = 50, 30


def make_counts(seed=0, n=N) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    X = rng.poisson(rng.gamma(1.0, size=(n, 3)) @ rng.gamma(1.0, size=(3, G))).astype(np.float32)
    X[X.sum(axis=1) == 0, 0] = 1
    X[0, X.sum(axis=0) == 0] = 1
    return ad.AnnData(
        sp.csr_matrix(X),
        obs=pd.DataFrame({"batch": ["a", "b"] * (n // 2)}, index=[f"cell{i}" for i in range(n)]),
        var=pd.DataFrame({"symbol": [f"S{j}" for j in range(G)]}, index=[f"gene{j}" for j in range(G)]),
    )


def dense(adata):
    return adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)


def with_genes(adata, names, values):
    """``adata`` with more genes, of the given values."""
    X = np.hstack([dense(adata), values]).astype(np.float32)
    return ad.AnnData(sp.csr_matrix(X), obs=adata.obs.copy(), var=pd.DataFrame(index=[*adata.var_names, *names]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of models fitted on `make_counts`: gene mean, with posterior, and factors."""
    folder = tmp_path_factory.mktemp("models")
    adata = make_counts()
    for name, method, options in (
        ("mean", "gene_mean", {}),
        ("posterior", "gene_mean", {"posterior": True}),
        ("nmf", "poisson_nmf", {"params": {"n_components": 3}}),
    ):
        imputome.fit_model(adata, method=method, **options).save(folder / name)
    return folder


@pytest.fixture
def folder(tmp_path, saved, monkeypatch):
    """A folder to work in, with the models and new.h5ad."""
    for model in saved.iterdir():
        shutil.copytree(model, tmp_path / model.name)
    make_counts(1).write_h5ad(tmp_path / "new.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def share():
    """Share of each gene in all training molecules: what the gene mean learns."""
    totals = dense(make_counts()).sum(axis=0, dtype=np.float64)
    return totals / totals.sum()


def apply(model, source, output, *options):
    return run(["apply", str(model), str(source), "-o", str(output), *map(str, options)])


def applied(adata, model, **options):
    """The layer that `apply_model` gives, its warnings aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = imputome.apply_model(adata, model, key_added="k", copy=True, **options)
    return result


# -- genes -------------------------------------------------------------------------------------------------------------
def test_the_same_genes_give_what_the_estimator_gives(saved):
    new = make_counts(1)
    estimator = methods.load(saved / "nmf")
    data = as_data(new.X, kind="counts", obs_names=new.obs_names, var_names=new.var_names)
    result = applied(new, saved / "nmf")
    np.testing.assert_array_equal(result.layers["k"], estimator.transform(data).to_array())
    np.testing.assert_array_equal(dense(result), dense(new))
    assert len(result.uns["imputome"]["k"]["unusable_genes"]) == 0


@pytest.mark.parametrize("model", ["mean", "posterior", "nmf"])
def test_the_order_of_genes_does_not_matter(saved, model):
    new = make_counts(1)
    order = np.random.default_rng(0).permutation(G)
    expected = applied(new, saved / model).layers["k"]
    shuffled = applied(new[:, order].copy(), saved / model)
    np.testing.assert_allclose(shuffled.layers["k"], expected[:, order], rtol=1e-5)
    assert list(shuffled.var_names) == list(new.var_names[order])


def test_missing_genes_are_not_seen_and_the_library_is_scaled_up(saved):
    """With a fifth of the molecules unseen, a cell's library is what was seen over the share seen in training."""
    new = make_counts(1)[:, 6:].copy()
    with warns("genes-missing"):
        result = imputome.apply_model(new, saved / "mean", copy=True)
    present = share()[6:]
    library = dense(new).sum(axis=1) / present.sum()
    np.testing.assert_allclose(result.layers["gene_mean"], library[:, None] * present, rtol=1e-5)
    record = result.uns["imputome"]["gene_mean"]
    assert list(record["genes_missing_from_input"]) == [f"gene{j}" for j in range(6)]


def test_unknown_genes_keep_their_counts_and_are_listed(saved):
    more = np.random.default_rng(2).poisson(3, size=(N, 2))
    new = with_genes(make_counts(1), ["new1", "new2"], more)[:, ::-1].copy()
    with warns("genes-unknown"):
        result = imputome.apply_model(new, saved / "posterior", outputs=("variance", "upper"), copy=True, key_added="k")
    assert result.shape == (N, G + 2)
    layer = pd.DataFrame(result.layers["k"], columns=result.var_names)
    np.testing.assert_array_equal(layer[["new1", "new2"]], more)
    np.testing.assert_array_equal(result[:, ["new1", "new2"]].layers["k_upper"], more)
    assert (result[:, ["new1", "new2"]].layers["k_variance"] == 0).all()
    # the library that the model sees is over its own genes: as if the others were not there
    without = applied(make_counts(1), saved / "posterior").layers["k"]
    np.testing.assert_allclose(layer[[f"gene{j}" for j in range(G)]], without, rtol=1e-5)
    record = result.uns["imputome"]["k"]
    assert list(record["unusable_genes"]) == ["new2", "new1"]


def test_the_scale_normalized_is_of_all_genes_of_the_input(saved):
    more = np.random.default_rng(2).poisson(3, size=(N, 2))
    new = with_genes(make_counts(1), ["new1", "new2"], more)
    values = applied(new, saved / "mean", scale="normalized").layers["k"]
    library = dense(make_counts(1)).sum(axis=1)
    per = 1e4 / (library + more.sum(axis=1))
    np.testing.assert_allclose(values[:, :G], (library * per)[:, None] * share(), rtol=1e-5)
    np.testing.assert_allclose(values[:, G:], more * per[:, None], rtol=1e-5)


def test_single_entries_agree_with_rows(saved):
    from imputome.api.models import run_model
    from imputome.api.plan import InMemory, Options, plan_apply

    more = np.random.default_rng(2).poisson(3, size=(N, 2))
    new = with_genes(make_counts(1)[:, 4:], ["new1", "new2"], more)[:, ::-1].copy()
    options = Options(outputs=("variance", "lower"))
    result = run_model(plan_apply(new, methods.load(saved / "posterior"), options, InMemory())).imputation
    i, j = np.meshgrid(np.arange(N), np.arange(new.n_vars), indexing="ij")
    for output in ("value", "variance", "lower"):
        flat = result.at(i.ravel(), j.ravel(), output=output)
        np.testing.assert_allclose(flat.reshape(new.shape), result.rows(slice(None), output=output), rtol=1e-4)
        np.testing.assert_array_equal(
            result.rows([3, 1], genes=["new1", "gene7"], output=output),
            result.rows(slice(None), output=output)[[3, 1]][:, [1, 24]],
        )


def test_names_in_another_column(folder, capsys):
    new = ad.read_h5ad("new.h5ad")
    new.var["name"] = new.var_names.to_numpy()
    new.var_names = [f"ENSG{j}" for j in range(G)]
    new.write_h5ad("ids.h5ad")
    refused(capsys, apply("mean", "ids.h5ad", "out.h5ad"), "too-few-genes", "--gene-column name")
    refused(capsys, apply("mean", "ids.h5ad", "out.h5ad", "--gene-column", "symbol"), "too-few-genes")
    refused(capsys, apply("mean", "ids.h5ad", "out.h5ad", "--gene-column", "nope"), "no-var-column", "'nope'")
    refused(capsys, apply("mean", "new.h5ad", "out.h5ad", "--gene-column", "symbol"), "too-few-genes")
    assert apply("mean", "ids.h5ad", "out.h5ad", "--gene-column", "name") == 0
    out = ad.read_h5ad("out.h5ad")
    assert list(out.var_names) == [f"ENSG{j}" for j in range(G)]
    np.testing.assert_allclose(out.layers["gene_mean"], dense(new).sum(axis=1)[:, None] * share(), rtol=1e-5)


def test_no_overlap_and_transposed(folder, capsys):
    new = ad.read_h5ad("new.h5ad")
    new.T.copy().write_h5ad("turned.h5ad")
    printed = refused(capsys, apply("mean", "turned.h5ad", "out.h5ad"), "too-few-genes", "transpose", "--genes-in")
    assert "--genes-in rows" not in printed  # a table may have been read with just that
    new[:, :14].copy().write_h5ad("few.h5ad")
    refused(capsys, apply("mean", "few.h5ad", "out.h5ad"), "too-few-genes", "14", "30")
    new[:, :15].copy().write_h5ad("half.h5ad")
    assert apply("mean", "half.h5ad", "out.h5ad", "-q") == 0
    new.var_names = [f"other{j}" for j in range(G)]
    new.write_h5ad("other.h5ad")
    refused(capsys, apply("mean", "other.h5ad", "no.h5ad"), "too-few-genes", "other0", "gene0")
    assert not Path("no.h5ad").exists()


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_duplicated_names(folder, capsys):
    new = ad.read_h5ad("new.h5ad")
    names = list(new.var_names)
    new.var_names = ["gene1", *names[1:]]
    new.write_h5ad("twice.h5ad")
    refused(capsys, apply("mean", "twice.h5ad", "out.h5ad"), "genes-not-unique", "gene1")
    more = with_genes(make_counts(1), ["x", "x"], np.ones((N, 2)))
    assert applied(more, "mean").layers["k"].shape == (N, G + 2)
    model = imputome.fit_model(new, method="gene_mean")
    assert applied(new, model).layers["k"].shape == (N, G)  # the same names in the same order leave no doubt
    with pytest.raises(ModelFormatError, check=has_code("model-genes-not-unique")):
        imputome.apply_model(new[:, ::-1].copy(), model)


# -- the state of the input --------------------------------------------------------------------------------------------
def logged(adata):
    X = dense(adata)
    return ad.AnnData(sp.csr_matrix(np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4)), obs=adata.obs, var=adata.var)


def test_logged_input_to_a_model_of_counts(folder, capsys):
    new = ad.read_h5ad("new.h5ad")
    log = logged(new)
    log.layers["counts"] = new.X
    log.write_h5ad("log.h5ad")
    refused(capsys, apply("mean", "log.h5ad", "out.h5ad"), "other-state-than-model")
    refused(capsys, apply("mean", "log.h5ad", "out.h5ad", "--scale", "log1p"), "other-state-than-model")
    refused(capsys, apply("mean", "log.h5ad", "out.h5ad", "--layer", "raw"), "layer-missing", "'raw'")
    assert apply("mean", "log.h5ad", "out.h5ad", "--layer", "counts") == 0
    expected = dense(new).sum(axis=1)[:, None] * share()
    np.testing.assert_allclose(ad.read_h5ad("out.h5ad").layers["gene_mean"], expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:X looks log")
def test_a_model_of_logged_values_takes_logged_values_only(saved):
    model = imputome.fit_model(logged(make_counts()), method="gene_mean", scale="log1p")
    new = logged(make_counts(1))
    values = applied(new, model).layers["k"]
    linear = np.expm1(dense(logged(make_counts()))).mean(axis=0)
    np.testing.assert_allclose(values, np.tile(np.log1p(linear), (N, 1)), rtol=1e-4)
    with pytest.raises(InputError, check=has_code("other-state-than-model")):
        imputome.apply_model(make_counts(1), model)


def test_what_applying_did_is_said(saved, tmp_path, capsys):
    make_counts(1).write_h5ad(tmp_path / "new.h5ad")
    assert run(["apply", str(saved / "mean"), str(tmp_path / "new.h5ad"), "-o", str(tmp_path / "out.h5ad")]) == 0
    assert "the stored model was applied" in capsys.readouterr().out


def test_one_new_cell_is_enough(saved):
    new = make_counts(1)
    one = applied(new[:1].copy(), saved / "posterior").layers["k"]
    np.testing.assert_allclose(one, applied(new, saved / "posterior").layers["k"][:1], rtol=1e-6)


def test_real_values(tmp_path):
    rng = np.random.default_rng(3)
    X, Y = rng.normal(5, 1, size=(40, 8)), rng.normal(7, 1, size=(6, 9))
    X[rng.random(X.shape) < 0.2] = np.nan
    Y[[0, 1, 2], [0, 4, 8]] = np.nan
    names = [f"f{j}" for j in range(9)]
    model = imputome.fit_model(ad.AnnData(X, var=pd.DataFrame(index=names[:8])), method="mean")
    new = ad.AnnData(Y, var=pd.DataFrame(index=names))[:, ::-1].copy()
    result = applied(new, model)
    values = pd.DataFrame(result.layers["k"], columns=result.var_names)[names].to_numpy()
    expected = Y.copy()
    expected[0, 0], expected[1, 4] = np.nanmean(X[:, 0]), np.nanmean(X[:, 4])
    expected[2, 8] = np.nanmean(Y[:, 8])  # the model knows nothing of it
    np.testing.assert_allclose(values, expected)
    complete = ad.AnnData(rng.random((3, 8)) * 9, var=pd.DataFrame(index=names[:8]))  # nothing is missing
    np.testing.assert_array_equal(applied(complete, model).layers["k"], complete.X)
    counts = make_counts()[:, :8].copy()
    counts.var_names = names[:8]
    with pytest.raises(InputError, check=has_code("wrong-kind")):
        imputome.apply_model(counts, model)


def real_values(X, seed=0):
    """With names, and a tenth missing."""
    X = np.where(np.random.default_rng(seed).random(X.shape) < 0.1, np.nan, X)
    return ad.AnnData(X, var=pd.DataFrame(index=[f"f{j}" for j in range(X.shape[1])]))


def test_real_values_of_another_unit_are_refused():
    rng = np.random.default_rng(0)
    beta, z = rng.beta(0.5, 0.5, (30, 8)), rng.normal(size=(30, 8))
    models = {name: imputome.fit_model(real_values(X), method="mean") for name, X in (("beta", beta), ("z", z))}
    models["positive"] = imputome.fit_model(real_values(5 + np.abs(z)), method="mean")
    for values in (100 * beta, z, 1.01 * beta + 0.01):
        with pytest.raises(InputError, check=has_code("other-unit-than-model")):
            imputome.apply_model(real_values(values, 1), models["beta"])
    with pytest.raises(InputError, check=has_code("other-unit-than-model")):
        imputome.apply_model(real_values(beta, 1), models["z"])
    with pytest.raises(InputError, check=has_code("other-unit-than-model")):
        imputome.apply_model(real_values(z, 1), models["positive"])
    for name, values in (("beta", beta), ("z", 3 * z), ("positive", 9 + np.abs(z))):
        applied(real_values(values, 1), models[name])


def test_what_is_filled_in_features_that_the_model_does_not_know_is_said_and_uncertain():
    X = np.random.default_rng(0).normal(size=(40, 7))
    new = real_values(X, 1)
    model = imputome.fit_model(real_values(X)[:, :6].copy(), method="gaussian_copula", params={"mode": "fast"})
    with warns("genes-unknown"):
        imputome.apply_model(new, model, key_added="k", outputs=["variance"])
    missing = np.isnan(new.X[:, 6])
    np.testing.assert_allclose(new.layers["k"][missing, 6], np.nanmean(new.X[:, 6]), rtol=1e-5)
    np.testing.assert_allclose(new.layers["k_variance"][missing, 6], np.nanvar(new.X[:, 6]), rtol=1e-5)
    assert not new.layers["k_variance"][~missing, 6].any()


# -- models and files --------------------------------------------------------------------------------------------------
def test_wrong_models(folder, capsys):
    Path("empty").mkdir()
    refused(capsys, apply("nothing", "new.h5ad", "out.h5ad"), "no-model")
    refused(capsys, apply("empty", "new.h5ad", "out.h5ad"), "no-model", "model.json")
    refused(capsys, apply("new.h5ad", "new.h5ad", "out.h5ad"), "no-model")
    refused(capsys, apply("new.h5ad", "mean", "out.h5ad"), "swapped", "imputome apply mean new.h5ad -o out.h5ad")
    refused(capsys, apply("mean", "gone.h5ad", "out.h5ad"), "no-file")
    refused(capsys, apply("mean", "nmf", "out.h5ad"), "unknown-format")
    Path("mean/model.json").write_text("{}")
    refused(capsys, apply("mean", "new.h5ad", "out.h5ad"), "no-model")
    assert run(["apply", "nmf", "new.h5ad"]) == 2
    assert run(["apply", "nmf", "-o", "out.h5ad"]) == 2


def test_existing_output_needs_force(folder, capsys):
    assert apply("mean", "new.h5ad", "out.h5ad") == 0
    capsys.readouterr()
    refused(capsys, apply("nmf", "new.h5ad", "out.h5ad"), "output-exists")
    refused(capsys, apply("mean", "out.h5ad", "more.h5ad"), "key-exists", "'gene_mean'")
    refused(capsys, apply("mean", "new.h5ad", "new.h5ad"), "output-is-input")
    assert apply("nmf", "out.h5ad", "more.h5ad") == 0
    assert {"gene_mean", "poisson_nmf"} == set(ad.read_h5ad("more.h5ad").layers)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", ".csv"])
def test_formats_and_provenance(folder, suffix, capsys):
    out = Path(f"out{suffix}")
    assert apply("mean", "new.h5ad", out, "--genes", "gene3,gene1") == 0
    expected = (dense(ad.read_h5ad("new.h5ad")).sum(axis=1)[:, None] * share())[:, [3, 1]]
    if suffix == ".csv":
        table = pd.read_csv(out, index_col=0)
        assert list(table.columns) == ["gene3", "gene1"]
        np.testing.assert_allclose(table, expected, rtol=1e-5)
        return
    read = ad.read_h5ad(out) if suffix == ".h5ad" else ad.read_zarr(out)
    np.testing.assert_allclose(read.layers["gene_mean"], expected, rtol=1e-5)
    record = read.uns["imputome"]["gene_mean"]
    assert record["method"] == "gene_mean"
    assert record["model"] == "mean"
    assert record["trained"]["input"]["state"] == "counts"
    assert list(record["genes"]) == list(read.var_names) == ["gene3", "gene1"]


def test_json_and_quiet(folder, capsys):
    assert apply("mean", "new.h5ad", "out.h5ad", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["output"] == "out.h5ad"
    assert summary["model"] == "mean"
    assert summary["shape"] == [N, G]
    ad.read_h5ad("new.h5ad")[:, 5:].copy().write_h5ad("fewer.h5ad")
    assert apply("mean", "fewer.h5ad", "quiet.h5ad", "-q") == 0
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_outputs(folder, capsys):
    code = apply("mean", "new.h5ad", "out.h5ad", "--outputs", "variance")
    refused(capsys, code, "output-needs-posterior", "'variance'", "fit the model with --posterior")
    assert apply("posterior", "new.h5ad", "out.h5ad", "--outputs", "lower,upper") == 0
    layers = ad.read_h5ad("out.h5ad").layers
    value, lower, upper = (np.asarray(layers[f"gene_mean_posterior{end}"]) for end in ("", "_lower", "_upper"))
    assert set(layers) == {"gene_mean_posterior", "gene_mean_posterior_lower", "gene_mean_posterior_upper"}
    assert (lower < value)[value > 0].all()
    assert (upper > value)[value > 0].all()


# -- covariates --------------------------------------------------------------------------------------------------------
def test_covariates_are_looked_up_by_name(tmp_path):
    pytest.importorskip("torch")
    if "zipo" not in methods.names():
        pytest.skip("zipo is not registered")
    params = {"encoder": "8-4", "max_epochs": 3}
    model = imputome.fit_model(make_counts(), method="zipo", covariates=["batch"], params=params)
    model.save(tmp_path / "m")
    new = make_counts(1)
    swapped = new.copy()
    swapped.obs["batch"] = ["b", "a"] * (N // 2)
    first, second = (applied(adata, tmp_path / "m").layers["k"] for adata in (new, swapped))
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 0
    del new.obs["batch"]
    with pytest.raises(InputError, check=has_code("no-obs-column")):
        imputome.apply_model(new, tmp_path / "m")
    new.obs["batch"] = "c"
    with pytest.raises(InputError, check=has_code("covariate-level")):
        imputome.apply_model(new, tmp_path / "m")
