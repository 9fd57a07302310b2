"""Names of summary rows of read counters."""

from __future__ import annotations

import gzip
import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import imputome
from codes import warns
from imputome.cli import run
from imputome.evaluation.masked import mask, read_mask
from imputome.inspection.summary_rows import summary_rows

SUMMARY = ("__no_feature", "__ambiguous", "__too_low_aQual", "__not_aligned", "__alignment_not_unique", "no_feature")
SUMMARY += ("N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous", "Unassigned_NoFeatures", "unmapped", "total")
SUMMARY += (
    "_ambiguous",
    "_empty",
    "_lowaqual",
    "_notaligned",
    "Unassigned_Unmapped",
    "Total",
    "UNMAPPED",
    "not_aligned",
    "nCount_RNA",
    "nFeature_ADT",
    "percent.mt",
    "pct_counts_mt",
    "n_genes_by_counts",
)
GENES = (
    "ACTB",
    "N_GENE",
    "TOTALA",
    "SUMO1",
    "NOTCH1",
    "ENSG00000000003",
    "MT-ND1",
    "AMBIGUOUS1",
    "ASSIGN",
    "_",
    "",
    "7157",
)


def test_names_are_recognised_and_those_of_genes_are_not():
    assert summary_rows(SUMMARY).all()
    assert not summary_rows(GENES).any()
    assert summary_rows([]).shape == (0,)


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(1, 3, 40), (30, 40)).astype(np.float32)
    X[0] += 1  # each gene is seen
    adata = ad.AnnData(X, obs=pd.DataFrame(index=[f"c{k}" for k in range(30)]))
    adata.var_names = [f"g{k}" for k in range(40)]
    return adata


def with_summary(adata, names=("__no_feature", "N_unmapped", "Unassigned_Unmapped")):
    extra = ad.AnnData(np.full((adata.n_obs, len(names)), 1e6, np.float32) + np.arange(len(names)), obs=adata.obs)
    extra.var_names = list(names)
    # in the middle, so that positions move
    return ad.concat([adata[:, :20], extra, adata[:, 20:]], axis=1, merge="same")


@pytest.mark.parametrize("method", ["gene_mean_posterior", "ialm"])
@pytest.mark.parametrize("scale", ["counts", "log1p"])
def test_genes_are_imputed_as_if_summary_rows_were_not_there(counts, method, scale):
    full = with_summary(counts)
    imputome.impute(counts, method=method, scale=scale, key_added="x", random_state=1)
    with warns("summary-rows"):
        imputome.impute(full, method=method, scale=scale, key_added="x", random_state=1)
    np.testing.assert_allclose(full[:, counts.var_names].layers["x"], counts.layers["x"], rtol=1e-6)
    rest = full[:, ~full.var_names.isin(counts.var_names)]
    np.testing.assert_array_equal(rest.layers["x"], rest.X)  # the values of the input on any scale
    np.testing.assert_array_equal(full.var["x_imputed"], full.var_names.isin(counts.var_names))
    assert full.uns["imputome"]["x"]["left_out"] == {"summary rows": 3}


@pytest.mark.parametrize("feature_type", [None, "ADT", "all"])
def test_beside_feature_types(counts, feature_type):
    full = with_summary(counts)
    full.var["feature_types"] = [
        "Antibody Capture" if name in ("g1", "g30") else "Gene Expression" for name in full.var_names
    ]
    summary, protein = ~full.var_names.isin(counts.var_names), full.var["feature_types"] == "Antibody Capture"
    used = {None: ~protein & ~summary, "ADT": protein, "all": ~summary}[feature_type]
    left_out = {None: {"Antibody Capture": 2, "summary rows": 3}, "ADT": {"Gene Expression": 41}}
    report = imputome.inspect(full, feature_type=feature_type)
    assert report.left_out == left_out.get(feature_type, {"summary rows": 3})
    assert json.loads(json.dumps(report.to_dict()))["left_out"] == report.left_out
    expected = full[:, used].copy()
    del expected.var["feature_types"]
    imputome.impute(full, method="gene_mean", key_added="x", feature_type=feature_type)
    imputome.impute(expected, method="gene_mean", key_added="x")
    np.testing.assert_array_equal(full.layers["x"][:, used], expected.layers["x"])
    np.testing.assert_array_equal(full.layers["x"][:, ~used], full.X[:, ~used])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert imputome.inspect(full, feature_type="all", keep_summary_rows=True).left_out == {}


def test_library_sizes_of_raw_are_without_them(counts):
    part, plain = counts[:, :25].copy(), counts[:, :25].copy()
    part.raw, plain.raw = with_summary(counts), counts
    for adata in (part, plain):
        imputome.impute(adata, method="gene_mean", key_added="x", layer="raw")
    np.testing.assert_allclose(part.layers["x"], plain.layers["x"], rtol=1e-6)


def test_nothing_but_summary_rows_is_left_alone(counts):
    counts.var_names = [f"Unassigned_{k}" for k in range(40)]
    assert imputome.inspect(counts).left_out == {}


@pytest.mark.filterwarnings("ignore:3 names")
@pytest.mark.parametrize("scheme", ["random", "thin"])
def test_masks_hide_nothing_in_them(counts, scheme, tmp_path):
    full = with_summary(counts)
    summary = ~full.var_names.isin(counts.var_names)
    masked = mask(full, scheme=scheme, fraction=0.2)
    assert masked.layers["truth"][:, ~summary].nnz > 0
    assert masked.layers["truth"][:, summary].nnz == 0
    np.testing.assert_array_equal(masked.X[:, summary].toarray(), full.X[:, summary])
    np.testing.assert_array_equal(
        read_mask(masked).train.X.toarray(), read_mask(mask(counts, scheme=scheme, fraction=0.2)).train.X.toarray()
    )
    kept = mask(full, scheme=scheme, fraction=0.2, keep_summary_rows=True)
    assert kept.layers["truth"][:, summary].nnz > 0
    assert read_mask(kept).train.shape == full.shape
    full.write_h5ad(tmp_path / "a.h5ad")
    command = [
        "mask",
        str(tmp_path / "a.h5ad"),
        "-o",
        str(tmp_path / "m.h5ad"),
        "--scheme",
        scheme,
        "--fraction",
        "0.2",
    ]
    assert run([*command, "--keep-summary-rows"]) == 0
    assert ad.read_h5ad(tmp_path / "m.h5ad").layers["truth"][:, summary].nnz > 0


@pytest.mark.filterwarnings("ignore:3 names")
def test_tests_between_groups_do_not_know_them(counts):
    counts.obs["group"] = ["a", "b"] * 15
    full = with_summary(counts)
    pd.testing.assert_frame_equal(imputome.de(full, "group"), imputome.de(counts, "group"))
    assert len(imputome.de(full, "group", keep_summary_rows=True)) == full.n_vars


def test_they_are_fitted_if_asked(counts):
    full = with_summary(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        imputome.impute(full, method="gene_mean", key_added="x", keep_summary_rows=True, kind="counts")
    assert not np.allclose(full[:, "N_unmapped"].layers["x"], full[:, "N_unmapped"].X, rtol=1e-7)


@pytest.mark.filterwarnings("ignore:3 names")
def test_a_model_is_fitted_and_applied_without_them(counts):
    full = with_summary(counts)
    model, plain = (imputome.fit_model(each, method="gene_mean", posterior=True) for each in (full, counts))
    assert list(model.feature_names_) == list(plain.feature_names_)
    applied = imputome.apply_model(full, model, copy=True, key_added="x", scale="log1p")
    expected = imputome.apply_model(counts, plain, copy=True, key_added="x", scale="log1p")
    np.testing.assert_allclose(applied[:, counts.var_names].layers["x"], expected.layers["x"], rtol=1e-6)
    kept = imputome.fit_model(full, method="gene_mean", keep_summary_rows=True)
    assert len(kept.feature_names_) == full.n_vars
    known = imputome.apply_model(full, kept, copy=True, key_added="y")
    assert known.layers["y"].shape == full.shape
    assert "y_imputed" not in known.var


@pytest.mark.filterwarnings("ignore:3 names")
def test_scores_do_not_know_them(counts):
    how = {"methods": ["gene_mean"], "scheme": "thin", "fraction": 0.2, "seed": 3}
    scores = [imputome.evaluate(each, **how) for each in (with_summary(counts), counts)]
    values = [table[table["metric"] == "poisson_loss"]["value"].to_numpy() for table in scores]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-2)  # poisson_nmf depends on rounding
    kept = imputome.evaluate(with_summary(counts), keep_summary_rows=True, **how)
    assert not np.allclose(kept[kept["metric"] == "poisson_loss"]["value"], values[1])


def test_a_table_comes_back_with_them_as_they_were(counts, tmp_path, capsys):
    table = with_summary(counts).to_df().T.astype(int)
    path, out = tmp_path / "in.tsv.gz", tmp_path / "out.tsv.gz"
    table.to_csv(path, sep="\t")
    assert run(["impute", str(path), "-o", str(out), "--genes-in", "rows", "-m", "gene_mean"]) == 0
    assert "[summary-rows]" in capsys.readouterr().err
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    written = gzip.decompress(out.read_bytes()).decode().splitlines()
    assert [line in lines for line in written] == [k == 0 or k in (21, 22, 23) for k in range(44)]
    assert run(["fit", str(path), "--genes-in", "rows", "-m", str(tmp_path / "m"), "--method", "gene_mean"]) == 0
    assert "[summary-rows]" in capsys.readouterr().err
    options = ["--genes-in", "rows", "--keep-summary-rows", "-m", "gene_mean", "--force"]
    assert run(["impute", str(path), "-o", str(out), *options]) == 0
    assert "[summary-rows]" not in capsys.readouterr().err
