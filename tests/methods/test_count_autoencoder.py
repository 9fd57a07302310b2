"""`count_autoencoder`: what its average is made of, what it refuses, and that it claims no structure where none is."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

torch = pytest.importorskip("torch")

import imputome  # noqa: E402
from codes import has_code, warns  # noqa: E402
from imputome import methods  # noqa: E402
from imputome.core.data import as_data  # noqa: E402
from imputome.errors import InputError  # noqa: E402
from imputome.methods.count_autoencoder.estimator import CountAutoencoder  # noqa: E402
from imputome.methods.count_autoencoder.fitted import encode  # noqa: E402

SMALL = {"n_hidden": 16, "n_latent": 4, "n_factors": 3, "max_epochs": 15, "batch_size": 64, "learning_rate": 0.01}
BRIEF = {**SMALL, "max_epochs": 2}


def simulated(n=300, G=60, *, seed=0):
    """Counts of three groups of cells at various depths (float32), and their rates."""
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.5, size=(3, G)) + 0.02
    share /= share.sum(axis=1, keepdims=True)
    rate = rng.lognormal(5, 0.4, size=(n, 1)) * share[rng.integers(3, size=n)]
    return rng.poisson(rate).astype(np.float32), rate


def permuted(seed):
    """The counts with each gene permuted across cells by itself."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(column) for column in simulated(seed=seed)[0].T], axis=1)


def make(**params):
    return CountAutoencoder(**{**SMALL, **params})


@cache
def fitted(**params):
    """Shared by the tests that only read: (counts, estimator, result). Do not modify."""
    X, _ = simulated()
    X.setflags(write=False)
    estimator = make(**params)
    return X, estimator, estimator.fit_transform(X)


def free(result, **options):
    return result.to_array(keep_observed=False, **options)


# -- the default as a whole --------------------------------------------------------------------------------------------
def test_structure_is_found():
    _, rate = simulated()
    X, estimator, result = fitted()
    assert not estimator.uses_gene_mean_
    assert estimator.replaced_by == ""
    assert result.status.details["values_from"].startswith("the network")
    assert result.status.details["weight_networks"] == estimator.weights_[0]
    assert 0 < estimator.weights_[0] <= 1
    assert estimator.weights_.sum() == 1
    mean = np.outer(X.sum(axis=1), X.sum(axis=0) / X.sum())
    plain = free(methods.get("gene_mean")(posterior=True).fit_transform(X))
    error = np.abs(free(result) - rate).sum()
    assert error < 0.7 * np.abs(plain - rate).sum()
    assert error < 0.5 * np.abs(mean - rate).sum()
    assert result.outputs == {"value", "rate", "variance", "lower", "upper"}


@pytest.mark.parametrize("seed", [0, 1])
def test_no_structure_is_claimed_where_none_is(seed, tmp_path):
    """Each gene permuted across cells: the gene mean, with the cell's own counts, is given, and it is said."""
    X = permuted(seed)
    estimator = make(random_state=seed)
    result = estimator.fit_transform(X)
    assert estimator.uses_gene_mean_
    m = np.outer(X.sum(axis=1), X.sum(axis=0) / X.sum())
    assert estimator.prior_.cell_power == 0
    shape = result.gene_columns["posterior_shape"] * (m / X.mean(axis=0)) ** result.gene_columns["posterior_power"]
    expected = m * (shape + X) / (shape + m)
    np.testing.assert_allclose(free(result), expected * X.sum() / expected.sum(), rtol=1e-4)
    np.testing.assert_array_equal(free(estimator.transform(X)), free(result))
    estimator.save(tmp_path / "model")
    np.testing.assert_array_equal(free(CountAutoencoder.load(tmp_path / "model").transform(X)), free(result))


@pytest.mark.parametrize("library", [False, True], ids=["own library", "given library"])
def test_the_fall_back_is_the_posterior_of_the_gene_mean(library, tmp_path):
    """Not a value differs, with the library of all genes too, of which these are some; and for new cells."""
    X = permuted(2)
    of_all_genes = X.sum(axis=1) * 1.7 + 3 if library else None
    data = as_data(X, kind="counts", library_size=of_all_genes)
    estimator, control = make(random_state=3), methods.get("gene_mean_posterior")(random_state=3)
    result, expected = estimator.fit_transform(data), control.fit_transform(data)
    assert estimator.uses_gene_mean_
    np.testing.assert_array_equal(result.gene_columns["posterior_shape"], control.prior_.shape)
    estimator.save(tmp_path / "model")
    loaded = CountAutoencoder.load(tmp_path / "model")
    assert loaded.replaced_by == estimator.replaced_by
    new = as_data(X[:40] + 1, kind="counts", library_size=None if of_all_genes is None else of_all_genes[:40] + 60)
    for output in ("value", "variance", "lower", "upper"):
        np.testing.assert_array_equal(free(result, output=output), free(expected, output=output))
        for fitted_before in (estimator, loaded):
            given, wanted = fitted_before.transform(new), control.transform(new)
            np.testing.assert_array_equal(free(given, output=output), free(wanted, output=output))


def test_a_fall_back_is_always_said():
    """By a warning though the fit converged, for new cells too, and in the record, which names no weight."""
    adata = ad.AnnData(permuted(0))
    params = {name: value for name, value in SMALL.items() if name != "max_epochs"}
    with warns("method-replaced"):
        imputome.impute(adata, method=CountAutoencoder(**params))
    convergence = adata.uns["imputome"]["count_autoencoder"]["convergence"]
    assert convergence["converged"]
    assert "gene_mean_posterior" in convergence["message"]
    assert convergence["values_from"] == "the gene mean (as gene_mean_posterior)"
    assert not any(name.startswith("weight_") for name in convergence)
    with warns("method-replaced"):
        model = imputome.fit_model(adata, method=CountAutoencoder(**params))
    with warns("method-replaced"):
        applied = imputome.apply_model(adata[:30], model, key_added="new", copy=True)
    assert applied.uns["imputome"]["new"]["convergence"]["values_from"] == convergence["values_from"]
    structured = ad.AnnData(simulated()[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        imputome.impute(structured, method=CountAutoencoder(**params))
    assert "method-replaced" not in [getattr(one.message.args[0], "code", "") for one in caught]


def test_networks_without_weight_are_said():
    _, estimator, _ = fitted(posterior=False)
    other = make(posterior=False)
    other.factors_, other.weights_ = estimator.factors_, np.array([0.0, 0.25, 0.75])
    assert other.replaced_by == "log-linear factors and Poisson factors"
    other.weights_ = np.array([0.0, 0.0, 1.0])
    assert other.replaced_by == "Poisson factors"
    other.weights_ = np.array([0.25, 0.0, 0.75])
    assert other.replaced_by == ""


@pytest.mark.parametrize("posterior", [True, False])
def test_new_rows_and_saved_models_give_the_training_rows(posterior, tmp_path):
    X, estimator, result = fitted(posterior=posterior, n_networks=2)
    new = estimator.transform(X)
    estimator.save(tmp_path / "model")
    loaded = CountAutoencoder.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.weights_, estimator.weights_)
    again = loaded.transform(X)
    assert result.outputs == new.outputs == again.outputs
    for output in result.outputs:
        np.testing.assert_array_equal(free(new, output=output), free(result, output=output))
        np.testing.assert_array_equal(free(again, output=output), free(result, output=output))
    np.testing.assert_array_equal(new.latent, result.latent)
    some = estimator.transform(X[[7, 200, 3]])
    np.testing.assert_allclose(free(some), free(result)[[7, 200, 3]], rtol=1e-5)


@pytest.mark.parametrize("params", [{}, {"posterior": False}, {"n_factors": 0}], ids=str)
def test_totals_are_kept(params):
    X, _, result = fitted(**params)
    values = free(result).astype(np.float64)
    assert values.sum() / X.sum() == pytest.approx(1, abs=0.02)
    if "posterior" in params:
        np.testing.assert_allclose(values.sum(axis=1), X.sum(axis=1), rtol=1e-4)


def test_single_entries_and_genes_are_those_of_the_rows():
    rng = np.random.default_rng(0)
    i, j, genes = rng.integers(300, size=500), rng.integers(60, size=500), np.array([40, 3, 17])
    for params in ({"posterior": False}, {"posterior": False, "n_factors": 0}):
        result = fitted(**params)[2]
        whole = free(result)
        np.testing.assert_allclose(result.at(i, j, keep_observed=False), whole[i, j], rtol=2e-5)
        few = result.rows([5, 100], genes=genes, keep_observed=False)
        np.testing.assert_allclose(few, whole[np.ix_([5, 100], genes)], rtol=2e-5)


def test_the_seed_alone_decides():
    X, _ = simulated()
    torch.manual_seed(5)
    first = free(CountAutoencoder(**BRIEF).fit_transform(X))
    torch.manual_seed(6)
    np.testing.assert_array_equal(free(CountAutoencoder(**BRIEF).fit_transform(X)), first)
    other = free(CountAutoencoder(**BRIEF, random_state=1).fit_transform(X))
    assert not np.array_equal(other, first)


def test_torch_keeps_its_threads_when_numba_starts_its_own():
    """Otherwise a second fit adds up in another order than the first."""
    code = (
        "import torch, numba\n"
        "before = torch.get_num_threads()\n"
        "import imputome.methods.deep.estimator\n"
        "numba.get_num_threads()\n"
        "print(before, torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split() == ["1", "1"]


def test_cells_and_genes_without_counts_give_zeros():
    X, _ = simulated()
    X[[0, 150]], X[:, [4, 59]] = 0, 0
    for params in ({}, {"posterior": False}):
        estimator = CountAutoencoder(**{**BRIEF, **params})
        result = estimator.fit_transform(sp.csr_array(X))
        new = simulated(seed=3)[0][:5]  # has counts of the genes that training had none of
        new[2] = 0
        applied = estimator.transform(new)
        for output in result.outputs:
            values, of_new = free(result, output=output), free(applied, output=output)
            assert np.isfinite(values).all()
            assert np.isfinite(of_new).all()
            assert not values[[0, 150]].any()
            assert not of_new[2].any()
            assert not values[:, [4, 59]].any()
            if output == "value":
                np.testing.assert_array_equal(of_new[:, [4, 59]], new[:, [4, 59]])  # unknown to the model: kept
        filled = np.setdiff1d(np.arange(300), [0, 150])
        assert (free(result)[filled].sum(axis=1) > 0).all()


def test_cells_that_lose_all_molecules_to_a_part():
    """Of cells with one or two molecules some keep none in the nine tenths."""
    X, _ = simulated(n=80)
    X[:40] = 0
    X[np.arange(40), np.arange(40)] = 1
    result = CountAutoencoder(**BRIEF).fit_transform(X)
    assert np.isfinite(free(result)).all()
    tiny = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    for seed in range(4):
        assert np.isfinite(free(CountAutoencoder(**BRIEF, random_state=seed).fit_transform(tiny))).all()


# -- what goes in ------------------------------------------------------------------------------------------------------
def test_counts_that_are_not_integers():
    X, rate = simulated()
    normalised = X / X.sum(axis=1, keepdims=True) * 1e4
    with pytest.raises(InputError, check=has_code("not-integers")):
        make().fit(normalised)
    estimator = make(posterior=False)
    values = free(estimator.fit_transform(normalised))
    np.testing.assert_allclose(estimator.weights_, 1 / 3)
    np.testing.assert_allclose(values.sum(axis=1), 1e4, rtol=1e-3)
    truth = rate / rate.sum(axis=1, keepdims=True)
    assert np.corrcoef(values.ravel(), truth.ravel())[0, 1] > 0.9
    assert list(make(posterior=False, n_factors=0, max_epochs=2).fit(normalised).weights_) == [1, 0, 0]


def test_covariates_are_used_and_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    X, _ = simulated()
    batch = rng.integers(2, size=300)
    X[batch == 1, :10] += rng.poisson(20, size=((batch == 1).sum(), 10))
    covariates = pd.DataFrame({"batch": np.array(["a", "b"])[batch], "age": rng.normal(size=300)})
    data = as_data(X, kind="counts", covariates=covariates)
    estimator = make(posterior=False, n_factors=0)
    result = estimator.fit_transform(data)
    with pytest.raises(InputError, check=has_code("covariates-missing")):
        estimator.transform(X)
    swapped = covariates.assign(batch=covariates["batch"].map({"a": "b", "b": "a"}))
    other = free(estimator.transform(as_data(X, kind="counts", covariates=swapped)))
    share = [values[:, :10].sum(axis=1) / values.sum(axis=1) for values in (free(result), other)]
    assert (share[1] > share[0])[batch == 0].mean() > 0.9
    estimator.save(tmp_path / "model")
    np.testing.assert_array_equal(free(CountAutoencoder.load(tmp_path / "model").transform(data)), free(result))
    with pytest.raises(InputError, check=has_code("covariates-unexpected")):
        fitted(posterior=False)[1].transform(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dropout", 1.0),
        ("input_dropout", -0.1),
        ("n_networks", 0),
        ("n_factors", -1),
        ("n_hidden", 0),
        ("batch_size", 1),
        ("device", "tpu"),
    ],
)
def test_impossible_parameters_are_refused(name, value):
    with pytest.raises(InputError, check=has_code("parameter-value")) as error:
        make(**{name: value}).fit(simulated()[0])
    assert error.value.parameter == name


def test_more_factors_than_genes_are_cut():
    X, _ = simulated(G=8)
    assert CountAutoencoder(**{**BRIEF, "n_factors": 50}).fit(X).factors_.shape == (8, 8)


def test_first_layer_genes():
    _, estimator, _ = fitted()
    table = estimator.first_layer_genes(3)
    weight = estimator.network_[0].first.weight.detach().numpy()
    assert len(table) == 3 * SMALL["n_hidden"]
    assert table["gene"][0] == estimator.feature_names_[np.abs(weight[:, 0]).argmax()]


# -- the average -------------------------------------------------------------------------------------------------------
def test_two_networks_are_averaged_on_the_log_scale():
    X, estimator, result = fitted(posterior=False, n_networks=2, n_factors=0)
    data = as_data(X, kind="counts")
    rates = []
    for network in estimator.network_:
        model = encode(network, estimator._batches(data).epoch(), n=300, usable=estimator.share_ > 0)[0]
        rates.append(model.rows(np.arange(300), None, "rate").astype(np.float64))
    assert np.abs(rates[0] / rates[1] - 1).max() > 0.05
    expected = np.sqrt(rates[0] * rates[1])
    expected *= (X.sum(axis=1) / expected.sum(axis=1))[:, None]
    np.testing.assert_allclose(free(result), expected, rtol=1e-4)


def test_a_few_factors_alone_are_given_where_they_are_better_than_network_and_gene_mean(tmp_path):
    """Two types; the network is hardly trained."""
    rng = np.random.default_rng(0)
    n, G = 400, 150
    kind = rng.integers(2, size=n)
    rate = rng.gamma(1.0, 1.5, G) * np.where((np.arange(G) % 3 == kind[:, None]), 2.5, 1.0)
    X = rng.poisson(rate * rng.gamma(0.7, 1 / 0.7, (n, G))).astype(np.float32)
    estimator = make(max_epochs=1, n_factors=0)
    result = estimator.fit_transform(X)
    assert estimator.uses_factors_
    assert not estimator.uses_gene_mean_
    assert estimator.weights_ is None
    assert (
        result.status.details["values_from"]
        == estimator.replaced_by
        == f"{estimator.factors_.shape[1]} Poisson factors"
    )
    assert estimator.factors_.shape[0] == G
    assert estimator.factors_.shape[1] in (2, 4, 8)
    # closer to the truth than the gene mean with the cell's own counts
    plain = free(methods.get("gene_mean")(posterior=True).fit_transform(X))
    genes = np.intersect1d(kind_genes(G), np.flatnonzero(X.sum(axis=0)))
    ratio = np.log(free(result)[:, genes] / plain[:, genes])
    assert ratio[kind == 0].mean() > ratio[kind == 1].mean() + 0.05
    np.testing.assert_allclose(free(estimator.transform(X)), free(result), rtol=1e-5)
    estimator.save(tmp_path / "model")
    again = methods.load(tmp_path / "model")
    np.testing.assert_array_equal(free(again.transform(X[:20])), free(estimator.transform(X[:20])))


def kind_genes(G):
    return np.flatnonzero(np.arange(G) % 3 == 0)
