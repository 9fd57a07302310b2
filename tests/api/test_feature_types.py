"""Proteins and the like beside genes: one feature type is imputed, and the others stay as they are.

The oracle is the same method on an AnnData that holds the features of that type only.
"""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import has_code, warns
from imputome.cli import run
from imputome.errors import InputError
from imputome.evaluation.masked import mask, read_mask
from imputome.inspection.features import features_of
from imputome.report.html.content import of_result

N, GENES, PROTEINS = 60, 30, 5
pytestmark = pytest.mark.filterwarnings("ignore:.*cells? holds? only zeros", "ignore:only the")


@pytest.fixture
def mixed():
    """Counts of genes, and of proteins that would be most of the library, in mixed order."""
    rng = np.random.default_rng(0)
    genes = rng.poisson(rng.gamma(1, 1, (1, GENES)) * rng.gamma(4, 0.5, (N, 1)))
    X = np.hstack([genes, rng.poisson(200, (N, PROTEINS))]).astype(np.float32)
    types = np.array(["Gene Expression"] * GENES + ["Antibody Capture"] * PROTEINS)
    order = rng.permutation(GENES + PROTEINS)
    adata = ad.AnnData(sp.csr_matrix(X[:, order]), obs=pd.DataFrame({"group": ["a", "b"] * (N // 2)}))
    adata.var_names = [f"f{j}" for j in range(GENES + PROTEINS)]
    adata.var["feature_types"] = types[order]
    return adata


def is_gene(adata):
    return (adata.var["feature_types"] == "Gene Expression").to_numpy()


def only(adata, used):
    part = adata[:, used].copy()
    del part.var["feature_types"]
    return part


@pytest.mark.parametrize("method", ["gene_mean", "gene_mean_posterior", "poisson_nmf", "ialm"])
def test_genes_are_imputed_as_without_the_proteins(mixed, method):
    used, X = is_gene(mixed), mixed.X.toarray()
    expected = only(mixed, used)
    with warns("feature-type-chosen"):
        imputome.impute(mixed, method=method, key_added="k")
    imputome.impute(expected, method=method, key_added="k")
    np.testing.assert_array_equal(mixed.layers["k"][:, used], expected.layers["k"])
    np.testing.assert_array_equal(mixed.layers["k"][:, ~used], X[:, ~used])
    np.testing.assert_array_equal(mixed.X.toarray(), X)
    np.testing.assert_array_equal(mixed.var["k_imputed"], used)
    record = mixed.uns["imputome"]["k"]
    assert record["feature_type"] == "Gene Expression"
    assert record["left_out"] == {"Antibody Capture": PROTEINS}


def test_every_output_and_scale(mixed):
    used, X = is_gene(mixed), mixed.X.toarray()
    expected = only(mixed, used)
    for adata in (mixed, expected):
        imputome.impute(adata, method="gene_mean_posterior", key_added="k", outputs=["variance", "lower"])
        imputome.impute(adata, method="gene_mean", key_added="log", scale="log1p")
    for name in ("k_variance", "k_lower", "log"):
        np.testing.assert_array_equal(mixed.layers[name][:, used], expected.layers[name])
        others = np.zeros_like(X) if name == "k_variance" else X
        np.testing.assert_array_equal(mixed.layers[name][:, ~used], others[:, ~used])


def test_another_type_or_all(mixed):
    used = is_gene(mixed)
    expected = only(mixed, ~used)
    imputome.impute(mixed, method="gene_mean", key_added="k", feature_type="antibody capture")
    imputome.impute(expected, method="gene_mean", key_added="k", kind="counts")  # proteins alone look like intensities
    np.testing.assert_array_equal(mixed.layers["k"][:, ~used], expected.layers["k"])
    whole = only(mixed, np.ones(mixed.n_vars, dtype=bool))
    imputome.impute(mixed, method="gene_mean", key_added="all", feature_type="all")
    imputome.impute(whole, method="gene_mean", key_added="all")
    np.testing.assert_array_equal(mixed.layers["all"], whole.layers["all"])
    assert "all_imputed" not in mixed.var


@pytest.mark.parametrize(
    ("column", "types"),
    [
        ("feature_types", ["Gene Expression", "Peaks", "Custom"]),
        ("feature_type", ["Gene Expression", "something else", "Multiplexing Capture"]),
        ("modality", ["rna", "prot", "HTO"]),
        ("modality", ["rna", "protein", "methylation"]),
        ("Type", ["RNA", "ADT", "CRISPR Guide Capture"]),
        ("feature_types", [None, "Antibody Capture", "Antibody Capture"]),  # genes without a type
        ("feature_types", ["", "Antibody Capture", "Peaks"]),
    ],
)
@pytest.mark.parametrize("dtype", ["object", "category"])
def test_types_are_recognised(column, types, dtype):
    var = pd.DataFrame({column: pd.Series(types[:1] * 3 + types[1:], dtype=dtype)})
    np.testing.assert_array_equal(features_of(var).used, [True, True, True, False, False])


@pytest.mark.parametrize(
    ("column", "types"),
    [
        ("feature_type", ["protein_coding", "lncRNA", "IG_C_gene"]),  # as in CELLxGENE
        ("type", ["gene", "pseudogene", "snoRNA"]),
        ("feature_types", ["Gene Expression"] * 3),
        ("feature_types", ["Antibody Capture"] * 3),
        ("feature_types", [None] * 3),
        ("gene_biotype", ["rna", "adt", "rna"]),
    ],
)
def test_other_columns_and_single_types_are_no_choice(column, types):
    assert features_of(pd.DataFrame({column: types})) is None


@pytest.mark.parametrize(
    "name", ["ADT_CD{}", "CD{}_TotalSeqB", "CD{}-TotalSeq-C", "CD{}.protein", "HTO_{}", "CD{}:U|CD3E|AHS|pAbO"]
)
def test_marks_in_names_are_types_where_no_column_has_them(mixed, name):
    expected = only(mixed, is_gene(mixed))
    used = is_gene(mixed)
    mixed.var_names = [f"g{k}" if gene else name.format(k) for k, gene in enumerate(used)]
    del mixed.var["feature_types"]
    with warns("feature-type-chosen"):
        imputome.impute(mixed, method="gene_mean", key_added="k")
    imputome.impute(expected, method="gene_mean", key_added="k")
    np.testing.assert_array_equal(mixed.layers["k"][:, used], expected.layers["k"])
    genes = ad.AnnData(mixed.X, var=pd.DataFrame(index=[f"ADTRP{k}" if k else "HTR1A" for k in range(mixed.n_vars)]))
    imputome.impute(genes, method="gene_mean", key_added="k")
    assert "k_imputed" not in genes.var


def test_unclear_and_unknown_types_are_refused(mixed):
    with pytest.raises(InputError, check=has_code("unknown-feature-type")):
        imputome.impute(mixed, method="gene_mean", feature_type="Peaks")
    with pytest.raises(InputError, check=has_code("no-feature-types")):
        imputome.impute(only(mixed, is_gene(mixed)), method="gene_mean", feature_type="Peaks")
    mixed.var["feature_types"] = np.where(is_gene(mixed), "Peaks", "Antibody Capture")
    with pytest.raises(InputError, check=has_code("several-feature-types")):
        imputome.inspect(mixed)


@pytest.mark.parametrize("backed", [False, True])
def test_models(mixed, backed, tmp_path):
    used = is_gene(mixed)
    expected = only(mixed, used)
    model = imputome.fit_model(mixed, method="gene_mean_posterior")
    assert list(model.feature_names_) == list(expected.var_names)
    imputome.impute(expected, method="gene_mean_posterior", key_added="k")
    if backed:
        mixed.write_h5ad(tmp_path / "a.h5ad")
    new = ad.read_h5ad(tmp_path / "a.h5ad", backed="r") if backed else mixed
    imputome.apply_model(new, model, key_added="k")
    np.testing.assert_allclose(new.layers["k"][:, used], expected.layers["k"], rtol=1e-5)
    np.testing.assert_array_equal(new.layers["k"][:, ~used], mixed.X.toarray()[:, ~used])
    proteins = imputome.fit_model(mixed, method="gene_mean", feature_type="ADT")
    imputome.apply_model(new, proteins, key_added="p")  # the type that the model was fitted on
    np.testing.assert_array_equal(new.var["p_imputed"], ~used)
    every = imputome.fit_model(mixed, method="gene_mean", feature_type="all")
    imputome.apply_model(new, every, key_added="e")
    imputome.impute(mixed, method="gene_mean", feature_type="all", key_added="e_expected")
    np.testing.assert_allclose(new.layers["e"], mixed.layers["e_expected"], rtol=1e-5)


def test_real_values_keep_their_nan(mixed):
    used = is_gene(mixed)
    rng = np.random.default_rng(1)
    X = rng.normal(size=mixed.shape)
    X[rng.random(X.shape) < 0.1] = np.nan
    mixed.X = X
    imputome.impute(mixed, method="knn")
    assert not np.isnan(mixed.layers["knn"][:, used]).any()
    np.testing.assert_array_equal(mixed.layers["knn"][:, ~used], X[:, ~used])


def test_evaluation_masks_and_tests_are_of_one_type(mixed):
    used = is_gene(mixed)
    genes = only(mixed, used)
    tables = [imputome.evaluate(a, methods="gene_mean", scheme="random", fraction=0.2) for a in (mixed, genes)]
    np.testing.assert_array_equal(tables[0]["value"], tables[1]["value"])
    pd.testing.assert_frame_equal(imputome.de(mixed, "group"), imputome.de(genes, "group"))
    masked, X = mask(mixed, scheme="random", fraction=0.2), mixed.X.toarray()
    np.testing.assert_array_equal(masked.X.toarray()[:, ~used], X[:, ~used])
    np.testing.assert_array_equal(masked.X.toarray() + masked.layers["truth"].toarray(), X)
    assert read_mask(masked).train.shape == (N, GENES)
    assert masked.layers["truth"].toarray()[:, used].any()


def test_report_shows_the_imputed_type(mixed):
    genes = only(mixed, is_gene(mixed))
    pages = []
    for adata in (mixed, genes):
        imputome.impute(adata, method="gene_mean", key_added="k")
        pages.append(of_result(adata, map="pca"))
    pd.testing.assert_frame_equal(pages[0].genes, pages[1].genes)
    pd.testing.assert_frame_equal(pages[0].measured.totals, pages[1].measured.totals)


def test_files(mixed, tmp_path, capsys):
    used = is_gene(mixed)
    source, output, table = (str(tmp_path / name) for name in ("in.h5ad", "out.h5ad", "out.csv"))
    mixed.write_h5ad(source)
    assert run(["impute", source, "-o", output, "--method", "gene_mean", "--key-added", "k"]) == 0
    assert "[feature-type-chosen]" in capsys.readouterr().err
    imputome.impute(mixed, method="gene_mean", key_added="k")
    written = ad.read_h5ad(output)
    np.testing.assert_array_equal(written.layers["k"], mixed.layers["k"])
    np.testing.assert_array_equal(written.var["k_imputed"], used)
    assert run(["impute", source, "-o", table, "--method", "gene_mean", "--quiet"]) == 0
    np.testing.assert_allclose(pd.read_csv(table, index_col=0), mixed.layers["k"], rtol=1e-6)
    capsys.readouterr()
    assert run(["inspect", source, "--json", "--feature-type", "adt"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [N, PROTEINS]
