"""Differential expression of an AnnData: what is tested, when it warns, and false positives on one population."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

import imputome
from codes import has_code, warns
from imputome import ImputedLayerWarning, InputError
from imputome.evaluation.clustering import expression_components, kmeans
from imputome.evaluation.simulate import simulate_counts


def one_population(seed):
    """Poisson counts of cells that are all alike, imputed by factors."""
    truth = simulate_counts(
        n=300,
        G=150,
        n_types=1,
        factor_strength=0.0,
        overdispersion=(1e-6, 0.0),
        depth=1500,
        depth_spread=0.0,
        gene_spread=0.8,
        rng=np.random.default_rng(seed),
    )
    adata = ad.AnnData(truth.X)
    imputome.impute(adata, method="poisson_nmf", params={"n_components": 8}, key_added="nmf")
    return adata


@pytest.fixture
def two_types():
    """Counts in X; the first 20 genes are three times as high in the treated cells."""
    rng = np.random.default_rng(0)
    treated = rng.random(160) < 0.5
    rate = rng.gamma(2.0, 1.0, 60) * np.where(treated[:, None] & (np.arange(60) < 20), 3.0, 1.0)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.var_names = [f"g{j}" for j in range(60)]
    adata.obs["arm"] = pd.Categorical(np.where(treated, "treated", "control"))
    imputome.impute(
        adata, method="gene_mean", posterior=True, key_added="mean", outputs=["variance", "lower"], overwrite=True
    )
    return adata


def quietly(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return imputome.de(*args, **options)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_imputed_clusters_of_one_population_differ_and_split_ones_do_not(seed):
    adata = one_population(seed)
    values = adata.layers["nmf"]
    components = expression_components(values / values.sum(axis=1, keepdims=True) * 1e4)
    adata.obs["cluster"] = kmeans(components, n_clusters=2)
    with warns("imputed-counts", ImputedLayerWarning):
        imputed = imputome.de(adata, "cluster", layer="nmf")
    assert (imputed["p_value"] < 0.05).mean() > 0.5
    assert (imputed["p_adjusted"] < 0.05).mean() > 0.3
    for test in ("wilcoxon", "hurdle"):
        split = quietly(adata, count_splitting=True, test=test)
        assert (split["p_value"] < 0.05).mean() < 0.1
        assert not (split["p_adjusted"] < 0.05).any()
        assert adata.obs["de_groups"].value_counts().min() > 50


def test_counts_are_logged_per_10_000_and_tested_by_rank_sums(two_types):
    table = quietly(two_types, "arm")
    X = two_types.X.toarray().astype(float)
    logged = np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4)
    member = (two_types.obs["arm"] == "treated").to_numpy()
    for j in (0, 5, 40):
        expected = stats.mannwhitneyu(logged[member, j], logged[~member, j], method="asymptotic", use_continuity=False)
        assert table.loc[f"g{j}", "p_value"] == pytest.approx(expected.pvalue)
        change = logged[member, j].mean() - logged[~member, j].mean()
        assert table.loc[f"g{j}", "log_fold_change"] == pytest.approx(change)
    assert (table["log_fold_change"].iloc[:20] > 0).all()
    assert (table["p_adjusted"].iloc[:20] < 0.05).mean() > 0.8
    turned = quietly(two_types, "arm", tested="control")
    np.testing.assert_allclose(turned["log_fold_change"], -table["log_fold_change"])


def test_the_same_is_tested_from_every_scale(two_types):
    expected = quietly(two_types, "arm")
    X = two_types.X.toarray().astype(np.float64)
    normalized = X * (1e4 / X.sum(axis=1, keepdims=True))  # in this order: rounding makes and breaks ties
    two_types.layers["normalized"], two_types.layers["logged"] = normalized, np.log1p(normalized)
    two_types.layers["dense"] = X
    for layer in ("normalized", "logged", "dense"):
        np.testing.assert_allclose(quietly(two_types, "arm", layer=layer)["p_value"], expected["p_value"])


def test_scale_of_an_imputed_layer_comes_from_its_record(two_types):
    imputome.impute(two_types, method="gene_mean", posterior=True, scale="log1p", key_added="logged")
    values = two_types.layers["logged"]
    member = (two_types.obs["arm"] == "treated").to_numpy()
    with pytest.warns(ImputedLayerWarning):
        table = imputome.de(two_types, "arm", layer="logged")
    np.testing.assert_allclose(table["log_fold_change"], values[member].mean(0) - values[~member].mean(0), atol=1e-5)
    with pytest.warns(ImputedLayerWarning):
        table = imputome.de(two_types, "arm", layer="mean")
    values = two_types.layers["mean"].astype(float)
    values = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(table["log_fold_change"], values[member].mean(0) - values[~member].mean(0), atol=1e-5)


@pytest.mark.parametrize("layer", ["mean", "mean_variance", "mean_lower", "mean_draw01"])
def test_results_their_outputs_and_draws_are_warned_of(two_types, layer):
    # draws are written by the command line, which names them among the outputs
    two_types.layers["mean_draw01"] = two_types.layers["mean"]
    record = two_types.uns["imputome"]["mean"]
    record["outputs"] = np.array([*record["outputs"], "draw01"])
    with warns("imputed-counts", ImputedLayerWarning) as caught:
        imputome.de(two_types, "arm", layer=layer)
    assert layer in str(caught[0].message)


def test_a_layer_of_the_users_own_is_not_warned_of(two_types):
    two_types.layers["counts"] = two_types.X.copy()
    np.testing.assert_allclose(
        quietly(two_types, "arm", layer="counts")["p_value"], quietly(two_types, "arm")["p_value"]
    )
    imputome.impute(two_types, method="gene_mean", layer="counts", key_added="again")
    with warns("imputed-counts", ImputedLayerWarning) as caught:
        imputome.de(two_types, "arm", layer="again")
    assert caught[0].message.args[0].options["layer"] == "counts"


def test_real_values_that_were_imputed_are_warned_of_in_their_own_words():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 5))
    adata = ad.AnnData(np.where(rng.random(X.shape) < 0.1, np.nan, X))
    adata.obs["arm"] = np.repeat(["a", "b"], 30)
    imputome.impute(adata, method="mean")
    with warns("imputed-values", ImputedLayerWarning):
        table = imputome.de(adata, "arm", layer="mean")
    values = adata.layers["mean"]
    expected = stats.mannwhitneyu(values[30:], values[:30], method="asymptotic", use_continuity=False)
    np.testing.assert_allclose(table["p_value"], expected.pvalue)
    with pytest.raises(InputError, check=has_code("not-finite")):
        imputome.de(adata, "arm")


def test_splitting_with_labels_and_with_a_function(two_types):
    given = quietly(two_types, "arm", count_splitting=True)
    assert (given["p_adjusted"].iloc[:20] < 0.05).mean() > 0.5
    assert "de_groups" not in two_types.obs
    parts = []

    def by_depth(part):
        parts.append(part)
        return pd.qcut(np.asarray(part.sum(axis=1)).ravel(), 3, labels=["low", "middle", "high"])

    table = quietly(two_types, by_depth, tested="high", count_splitting=True, keep=0.3, key_added="depth_group")
    assert parts[0].sum() == pytest.approx(0.3 * two_types.X.sum(), rel=0.05)
    assert set(two_types.obs["depth_group"]) == {"low", "middle", "high"}
    assert list(table.index) == list(two_types.var_names)
    quietly(two_types, count_splitting=True)
    one, other = (quietly(two_types, count_splitting=True, tested=group) for group in (0, 1))
    np.testing.assert_allclose(one["log_fold_change"], -other["log_fold_change"])


def test_labels_are_matched_by_name(two_types):
    shuffled = two_types.obs["arm"].sample(frac=1, random_state=0)
    np.testing.assert_array_equal(quietly(two_types, shuffled)["p_value"], quietly(two_types, "arm")["p_value"])


def test_one_of_several_groups_is_tested_against_the_rest(two_types):
    two_types.obs["three"] = np.where(np.arange(160) < 30, "other", two_types.obs["arm"].astype(str))
    table = quietly(two_types, "three", tested="treated")
    expected = quietly(two_types, two_types.obs["three"] == "treated")
    np.testing.assert_array_equal(table["p_value"], expected["p_value"])


def test_what_cannot_be_tested_is_refused(two_types):
    two_types.obs["three"] = np.arange(160) % 3
    two_types.obs["some"] = two_types.obs["arm"].where(np.arange(160) < 100)
    two_types.layers["half"] = two_types.X * 0.5
    for options, code in (
        ({}, "no-groups"),
        ({"groups": "atm"}, "no-obs-column"),
        ({"groups": "three"}, "not-two-groups"),
        ({"groups": "three", "tested": 7}, "unknown-group"),
        ({"groups": "some"}, "cells-without-group"),
        ({"groups": ["a", "b"]}, "length-mismatch"),
        ({"groups": ["a"] * 160}, "not-two-groups"),
        ({"groups": "arm", "layer": "men"}, "layer-missing"),
        ({"groups": "arm", "test": "t"}, "parameter-value"),
        ({"layer": "mean", "count_splitting": True}, "imputed-layer"),
        ({"layer": "half", "count_splitting": True}, "not-counts"),
    ):
        with pytest.raises(InputError, check=has_code(code)):
            imputome.de(two_types, **options)
