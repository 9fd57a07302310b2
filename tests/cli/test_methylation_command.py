"""`imputome methylation`: from reads to beta values that other commands take."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from codes import refused
from imputome.cli import run


@pytest.fixture
def counts(tmp_path):
    rng = np.random.default_rng(0)
    depth = rng.poisson(8, size=(50, 6))
    depth[7] = 0
    reads = rng.binomial(depth, rng.random((50, 1)))
    frame = pd.DataFrame({"chrom": "chr1", "pos": np.arange(50) * 7})
    for k in range(6):
        frame[f"M.s{k}"], frame[f"Cov.s{k}"] = reads[:, k], depth[:, k]
    frame.to_parquet(tmp_path / "counts.parquet", index=False)
    return tmp_path / "counts.parquet", reads.T, depth.T


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_beta_values_coverage_and_reads_are_written(counts, tmp_path, capsys, suffix):
    source, reads, depth = counts
    output = tmp_path / f"beta{suffix}"
    assert run(["methylation", str(source), "-o", str(output), "--min-coverage", "4", "--position", "chrom,pos"]) == 0
    adata = ad.read_h5ad(output) if suffix == ".h5ad" else ad.read_zarr(output)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(adata.X, np.where(depth < 4, np.nan, reads / depth), rtol=1e-6)
    np.testing.assert_array_equal(adata.layers["coverage"], depth)
    np.testing.assert_array_equal(adata.layers["methylated"], reads)
    assert list(adata.obs_names) == [f"s{k}" for k in range(6)]
    assert adata.var_names[3] == "chr1:21"
    assert adata.uns["methylation"]["min_coverage"] == 4
    printed = capsys.readouterr()
    assert f"{(depth < 4).mean():.1%} missing: under 4 reads; 1 sites without" in printed.out
    assert f"wrote 6 samples x 50 sites to {output}" in printed.out
    assert printed.err == ""


def test_the_file_goes_into_inspect_and_impute(counts, tmp_path, capsys):
    source, _, depth = counts
    beta, full = tmp_path / "beta.h5ad", tmp_path / "full.h5ad"
    assert run(["methylation", str(source), "-o", str(beta), "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert run(["inspect", str(beta), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["state"] == "beta"
    assert report["n_nan"] == (depth < 6).sum()
    assert run(["impute", str(beta), "-o", str(full), "-m", "mean", "-q"]) == 0
    layer = ad.read_h5ad(full).layers["mean"]
    assert np.isfinite(layer).all()
    assert layer.min() >= 0
    assert layer.max() <= 1


def test_json(counts, tmp_path, capsys):
    source, _, depth = counts
    assert run(["methylation", str(source), "-o", str(tmp_path / "beta.h5ad"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["shape"] == [6, 50]
    assert report["min_coverage"] == 6
    assert report["missing"] == pytest.approx((depth < 6).mean())
    assert report["sites_without_reads"] == 1


def test_what_is_refused_leaves_no_file(counts, tmp_path, capsys):
    source, _, _ = counts
    output = tmp_path / "beta.h5ad"
    for arguments, code, value in (
        ([str(source), "-o", str(tmp_path / "beta.csv")], "not-a-store", "beta.csv"),
        ([str(source), "-o", str(tmp_path / "beta.txt.bz2")], "unknown-format", "bz2"),
        ([str(tmp_path / "no.csv"), "-o", str(output)], "no-file", "no.csv"),
        ([str(source), "-o", str(output), "--coverage", "reads."], "one-column-of-sample", "'reads.s0'"),
        ([str(source), "-o", str(output), "--methylated", "Cov.", "--coverage", "M."], "methylated-above-coverage", ""),
        ([str(source), "-o", str(output), "--position", "start"], "no-position", "'start'"),
        ([str(source), "-o", str(output), "--min-coverage", "500"], "no-coverage", "500"),
    ):
        refused(capsys, run(["methylation", *arguments]), code, value)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    output.write_text("mine")
    assert run(["methylation", str(source), "-o", str(output)]) == 1
    assert output.read_text() == "mine"
    assert run(["methylation", str(source), "-o", str(output), "--force", "-q"]) == 0
    assert ad.read_h5ad(output).shape == (6, 50)


def test_sites_with_one_name(tmp_path, capsys):
    source, output = tmp_path / "counts.csv", tmp_path / "beta.h5ad"
    source.write_text("Chrom;pos;M.a;Cov.a\nchr1;10;1;9\nchr2;10;2;9\nchr2;20;3;9\n")
    refused(capsys, run(["methylation", str(source), "-o", str(output)]), "sites-not-unique", "--position Chrom,pos")
    assert not output.exists()
    assert run(["methylation", str(source), "-o", str(output), "--position", "Chrom,pos"]) == 0
    assert capsys.readouterr().err == ""
    assert list(ad.read_h5ad(output).var_names) == ["chr1:10", "chr2:10", "chr2:20"]
    source.write_text("pos,M.a,Cov.a\n10,1,9\n10,2,9\n20,3,9\n")
    assert run(["methylation", str(source), "-o", str(output), "--force"]) == 0
    assert "[sites-not-unique]" in capsys.readouterr().err


def test_no_coverage_at_all_is_refused(tmp_path, capsys):
    source = tmp_path / "counts.csv"
    source.write_text("pos,M.a,Cov.a\n10,0,0\n20,0,0\n")
    arguments = [str(source), "-o", str(tmp_path / "beta.h5ad"), "--min-coverage", "0"]
    refused(capsys, run(["methylation", *arguments]), "no-coverage")
