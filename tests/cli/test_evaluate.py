"""`imputome evaluate`: what is refused before the start, in the words of the command line, and names of data sets."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import has_code, refused
from imputome.cli import run
from imputome.errors import InputError
from imputome.studies.inputs import parse_method
from imputome.studies.results import read

N = 40


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "type": ["b", "a"] * (N // 2),
            "cell": [f"c{i}" for i in range(N)],
            "one": "x",
            "some": pd.Series(["b", "a", None, "a"] * (N // 4), dtype="object"),
        }
    ).set_index(pd.Index([f"c{i}" for i in range(N)]))
    X = rng.poisson(2.0, (N, 12)).astype(np.float32)
    for place in ("made.h5ad", "other/made.h5ad", "made.1.h5ad"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        ad.AnnData(sp.csr_matrix(X), obs=obs.copy()).write_h5ad(tmp_path / place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*more, source="made.h5ad"):
    methods = [] if "--methods" in more else ["--methods", "gene_mean"]
    return run(["evaluate", source, "-o", "out.csv", *methods, *more])


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--fraction", "1.5"], "parameter-value", "--fraction 1.5"),
        (["--fraction", "0.1,0"], "parameter-value", "--fraction 0"),
        (["--scheme", "median", "--fraction", "0.1"], "unknown-option", "--fraction"),
        (["--downstream", "zz", "--label", "type"], "parameter-value", "--downstream zz"),
        (["--protocol", "loose"], "parameter-value", "--protocol loose"),
        (["--protocol", "as_published"], "protocol-scheme", "--scheme random"),
        (["--scheme", "mcar"], "scheme-of-other-kind", "mcar"),
        (["--set", "share=1"], "unknown-option", "share"),
        (["--methods", ""], "no-methods", "--methods"),
        (["--methods", " , "], "no-methods", "--methods"),
        (["--methods", "poisson_nmf:n_components=0"], "parameter-value", "n_components=0"),
        (["--methods", "count_autoencoder:dropout=1"], "parameter-value", "dropout=1"),
        (["--label", "type"], "option-unused", "--downstream clustering"),
        (["--label", "cell", "--downstream", "clustering"], "too-many-labels", "40"),
        (["--label", "one", "--downstream", "clustering"], "too-few-labels", "'one'"),
        (["--min-genes", "13"], "too-little-data", "--min-genes"),
        (["--min-cells", "41"], "too-little-data", "--min-cells"),
        (["--transform", "asinh"], "transform-needs-real", "--transform"),
    ],
)
def test_refused_before_the_start(folder, capsys, options, code, said):
    told = refused(capsys, evaluate(*options), code, said)
    assert "evaluating" not in told
    assert "zero" not in told
    assert not (folder / "out.csv").exists()


@pytest.mark.parametrize(
    "method",
    [
        *("knn:n_neighbors=0", "svd:rank=0", "soft_impute:lam=0", "gaussian_copula:normal_share=2", "ialm:tol=0"),
        *("poisson_nmf:max_iter=0", "beta_vae:dropout=1", "beta_vae:hidden=a-b", "autoencoder:depth=0"),
        *("zipo:batch_size=1", "zipo:encoder=0", "dca:max_epochs=0", "count_autoencoder:n_latent=0"),
    ],
)
def test_values_that_no_data_make_valid_need_no_data(method):
    with pytest.raises(InputError, check=has_code("parameter-value")):
        parse_method(method)


def test_json_is_json_throughout(folder, capsys):
    assert evaluate("--methods", "poisson_nmf:n_components=2", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["summary"]
    assert {"n_components": 2} in [row["parameters"] for row in rows]
    assert all(row["options"]["shape"] == [N, 12] for row in rows)


@pytest.mark.parametrize("fraction", ["a", "0.1,", "0.1;0.2"])
def test_a_fraction_that_is_no_number(folder, capsys, fraction):
    assert evaluate("--fraction", fraction) == 2
    assert "--fraction" in capsys.readouterr().err


def test_the_advice_on_labels_works(folder, capsys):
    assert evaluate("--label", "type", "--downstream", "clustering") == 0
    assert "ari" in set(read(folder / "out.csv")["metric"])


def test_cells_without_a_label_are_left_out(folder):
    adata = ad.read_h5ad("made.h5ad")
    options = {"methods": ["gene_mean"], "downstream": ["clustering", "de"]}
    table = imputome.evaluate({"made": adata}, labels="some", **options)
    table = table[table["method"] == "gene_mean"]
    assert set(table["status"]) == {"ok"}
    scores = table.set_index("metric")["value"]
    assert np.isfinite(scores[["ari", "precision", "tnr"]].astype(float)).any()


def test_one_analysis_as_text(folder):
    adata = ad.read_h5ad("made.h5ad")
    table = imputome.evaluate(adata, methods=["gene_mean"], labels="type", downstream="clustering")
    assert "ari" in set(table["metric"])
    with pytest.raises(InputError, check=has_code("too-many-labels")):
        imputome.evaluate(adata, methods=["gene_mean"], labels="cell", downstream="clustering")


def test_labels_with_values_hidden_in_all_rows(folder):
    adata = ad.AnnData(np.random.default_rng(0).normal(size=(N, 6)), obs=ad.read_h5ad("made.h5ad").obs)
    options = {"methods": ["mean"], "scheme": "mcar", "labels": "type"}
    table = imputome.evaluate(adata, **options, options={"rows": "all"}, downstream="clustering")
    assert "ari" in set(table["metric"])
    imputome.evaluate(adata, **options)  # the labels stratify the test rows
    with pytest.raises(InputError, check=has_code("option-unused")):
        imputome.evaluate(adata, **options, options={"rows": "all"})


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["made.h5ad", "made.1.h5ad"], {"made.h5ad", "made.1.h5ad"}),
        (["made.h5ad", "other/made.h5ad"], {"made.h5ad", "other/made.h5ad"}),
        (["made.h5ad"], {"made"}),
    ],
)
def test_files_of_one_name_are_told_apart(folder, sources, names):
    assert evaluate(*sources[1:], "-q", source=sources[0]) == 0
    assert set(read(folder / "out.csv")["dataset"]) == names


def test_the_same_file_twice(folder, capsys):
    refused(capsys, evaluate("made.h5ad"), "dataset-twice", "'made.h5ad'")


def test_another_table_is_not_taken_for_results(folder, capsys):
    (folder / "out.csv").write_text("a,b\n1,2\n")
    refused(capsys, evaluate(), "not-a-results-table", "--output")
    assert (folder / "out.csv").read_text() == "a,b\n1,2\n"


def test_a_gene_that_is_hidden_altogether_has_a_score(folder):
    """Its molecules are all in the hidden part: the prediction is 0, and every score is a number."""
    X = np.random.default_rng(0).poisson(3.0, (N, 8)).astype(np.float32)
    X[:, 0], X[3, 0] = 0, 1
    adata = ad.AnnData(sp.csr_matrix(X))
    methods = ["poisson_nmf", "ialm", "gene_mean_posterior"]
    for scheme, metric in (("random", "mse"), ("thin", "poisson_loss")):
        table = imputome.evaluate({"made": adata}, methods=methods, scheme=scheme, fraction=0.9, trials=3)
        assert set(table["status"]) == {"ok"}
        assert np.isfinite(table[table["metric"] == metric]["value"].astype(float)).all()
