"""``imputome report``: one page of a result or of scores, and what it refuses."""

from __future__ import annotations

import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import refused
from imputome.cli import run
from imputome.studies.results import table_of, write


def save(folder, suffix=".h5ad"):
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.8, size=(60, 4)) @ rng.gamma(0.8, size=(4, 40)) * 2
    X = rng.poisson(rates).astype(np.float32) + (rng.random((60, 40)) < 0.05)
    X[:, 0] += 1
    X[0] += 1
    obs = pd.DataFrame({"batch": ["a", "b"] * 30, "kind": ["x", "y", "z"] * 20}, index=[f"c{i}" for i in range(60)])
    adata = ad.AnnData(sp.csr_matrix(X), obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(40)]))
    path = folder / f"in{suffix}"
    (adata.write_h5ad if suffix == ".h5ad" else adata.write_zarr)(path)
    return path


@pytest.fixture
def result(tmp_path):
    """A file with the results ``gene_mean`` and ``second``."""
    first, second = tmp_path / "first.h5ad", tmp_path / "second.h5ad"
    assert run(["impute", str(save(tmp_path)), "-o", str(first), "-m", "gene_mean", "-q"]) == 0
    options = ["-m", "poisson_nmf", "--key-added", "second", "--scale", "log1p", "-q"]
    assert run(["impute", str(first), "-o", str(second), *options]) == 0
    return second


def words(page):
    return page.read_text(encoding="utf-8").partition("<script>")[0]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_result(tmp_path, capsys, monkeypatch, suffix):
    source, out, page = save(tmp_path, suffix), tmp_path / f"out{suffix}", tmp_path / "page.html"
    assert run(["impute", str(source), "-o", str(out), "-m", "gene_mean", "-q"]) == 0
    monkeypatch.setattr(sys, "argv", ["imputome", "report", f"out{suffix}", "-o", "a page.html"])
    assert run(["report", str(out), "-o", str(page), "--map", "pca"]) == 0
    assert capsys.readouterr().out == f"wrote {page}\n"
    text = words(page)
    assert "<h1>gene_mean</h1>" in text
    assert f"60 cells × 40 genes, out{suffix}" in text
    assert "PC 1" in text
    assert "coloured by batch" in text
    assert f"imputome report out{suffix} -o &#39;a page.html&#39;" in text


def test_umap_unless_asked_otherwise(tmp_path, result, monkeypatch):
    # a real UMAP takes half a minute to compile
    monkeypatch.setattr("imputome.report.before_after.coordinates", lambda block, random_state: block[:, :2])
    page = tmp_path / "page.html"
    assert run(["report", str(result), "-o", str(page), "--key", "gene_mean", "-q"]) == 0
    assert "UMAP 1" in words(page)


def test_one_of_several_and_a_label(tmp_path, result, capsys):
    page = tmp_path / "page.html"
    assert run(["report", str(result), "-o", str(page), "--map", "pca"]) == 1
    assert "[several-results]" in capsys.readouterr().err
    assert not page.exists()
    assert (
        run(["report", str(result), "-o", str(page), "--map", "pca", "--key", "second", "--label", "kind", "-q"]) == 0
    )
    assert "<h1>second</h1>" in words(page)
    assert "coloured by kind" in words(page)
    assert run(["report", str(result), "-o", str(page), "--map", "pca", "--key", "second"]) == 1
    assert "[output-exists]" in capsys.readouterr().err
    assert run(["report", str(result), "-o", str(page), "--map", "pca", "--key", "gene_mean", "--force"]) == 0
    assert "<h1>gene_mean</h1>" in words(page)


def test_some_genes_only(tmp_path):
    out, page = tmp_path / "out.h5ad", tmp_path / "page.html"
    assert run(["impute", str(save(tmp_path)), "-o", str(out), "-m", "gene_mean", "--genes", "g3,g4,g9,g11", "-q"]) == 0
    assert run(["report", str(out), "-o", str(page), "--map", "pca", "-q"]) == 0
    assert "60 cells × 4 genes" in words(page)


def test_real_values(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 12)) + 5
    X[rng.random(X.shape) < 0.1] = np.nan
    table = pd.DataFrame(X, index=[f"s{i}" for i in range(40)], columns=[f"f{j}" for j in range(12)])
    table.to_csv(tmp_path / "in.csv")
    out, page = tmp_path / "out.h5ad", tmp_path / "page.html"
    options = ["--genes-in", "columns", "-m", "svd", "-q"]
    assert run(["impute", str(tmp_path / "in.csv"), "-o", str(out), *options]) == 0
    assert run(["report", str(out), "-o", str(page), "--map", "pca", "-q"]) == 0
    assert "40 samples × 12 features" in words(page)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".tsv.gz"])
def test_scores(tmp_path, capsys, suffix):
    table, page = tmp_path / f"scores{suffix}", tmp_path / "page.html"
    options = ["--methods", "gene_mean_posterior", "-o", str(table), "-q"]
    assert run(["evaluate", str(save(tmp_path)), *options]) == 0
    assert run(["report", str(table), "-o", str(page)]) == 0
    assert capsys.readouterr().out == f"wrote {page}\n"
    text = words(page)
    assert "poisson_loss" in text
    assert "gene_mean_posterior" in text
    for option in ("--key", "--label"):
        assert run(["report", str(table), "-o", str(page), option, "x", "--force"]) == 1
        assert "[option-unused]" in capsys.readouterr().err


def test_what_is_no_result_is_refused(tmp_path, capsys):
    source = save(tmp_path)
    pd.DataFrame({"a": [1.0]}, index=["c"]).to_csv(tmp_path / "matrix.csv")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "damaged.h5ad").write_bytes(b"no hdf5")
    (tmp_path / "damaged.parquet").write_bytes(b"no parquet")
    (tmp_path / "text.txt").write_text("text")
    before = sorted(path.name for path in tmp_path.iterdir())
    for name, code in (
        (source.name, "no-result"),
        ("matrix.csv", ""),
        ("empty.csv", "unreadable"),
        ("damaged.h5ad", ""),
        ("damaged.parquet", "unreadable"),
        ("text.txt", "not-a-result"),
        ("nothing.h5ad", ""),
        ("nothing.csv", "no-file"),
    ):
        assert run(["report", str(tmp_path / name), "-o", str(tmp_path / "page.html")]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert code in lines[0]
        assert "unexpected" not in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_outputs_that_are_refused(tmp_path, result, capsys):
    for target, code in (
        ("page.pdf", "output-suffix"),
        ("no/page.html", "no-folder"),
    ):
        assert run(["report", str(result), "-o", str(tmp_path / target), "--key", "gene_mean"]) == 1
        assert f"[{code}]" in capsys.readouterr().err
    assert run(["report", str(result), "-o", str(tmp_path / "page.html"), "--map", "tsne"]) == 2
    assert run(["report", str(result)]) == 2
    assert run(["report", str(result), "-o", str(tmp_path / "page.html"), "--key", "gene_mean", "--label", "no"]) == 1
    assert "[no-obs-column]" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


def test_other_tables_of_a_study_name_the_one_to_pass(tmp_path, capsys):
    (tmp_path / "summary.csv").write_text("configuration,metric,mean\nbase,rmse,1\n")
    results, page = tmp_path / "results.csv", str(tmp_path / "o.html")
    refused(capsys, run(["report", str(tmp_path / "summary.csv"), "-o", page]), "not-a-results-table")
    row = {"dataset": "a", "method": "mean", "parameters": "{}", "scheme": "mcar", "options": "{}", "fraction": 0.1}
    row |= {"trial": 0, "seed": 1, "metric": "rmse", "value": 1.0, "seconds": 1.0, "peak_bytes": 1, "status": "ok"}
    write(table_of([row]), results)
    refused(capsys, run(["report", str(tmp_path / "summary.csv"), "-o", page]), "not-a-results-table", str(results))
    assert run(["report", str(results), "-o", page]) == 0
