"""`imputome impute`: what is written, what is refused, exit codes, and that nothing is ever half written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import namedtuple
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import refused
from imputome.cli import run
from imputome.methods import get, names

PROGRAM = str(Path(sys.executable).with_name("imputome"))


# -- data and helpers --------------------------------------------------------------------------------------------------
def make_counts() -> ad.AnnData:
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, size=(60, 4)) @ rng.gamma(0.5, size=(4, 40)) * 3
    X = rng.poisson(rates).astype(np.float32)
    X[X.sum(axis=1) == 0, 0] = 1  # no warning about empty cells or genes
    X[0, X.sum(axis=0) == 0] = 1
    return ad.AnnData(
        sp.csr_matrix(X),
        obs=pd.DataFrame({"batch": ["a", "b"] * 30}, index=[f"cell{i}" for i in range(60)]),
        var=pd.DataFrame({"symbol": [f"S{j}" for j in range(40)]}, index=[f"gene{j}" for j in range(40)]),
        layers={"raw": sp.csr_matrix(X)},
        uns={"note": "mine"},
    )


@pytest.fixture
def counts(tmp_path):
    """(path, counts as a dense array)."""
    adata = make_counts()
    adata.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad", adata.X.toarray()


@pytest.fixture
def real(tmp_path):
    """Measurements with NaN: (path, dense array)."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 40)) + 5 + rng.normal(scale=0.3, size=(60, 40))
    X[rng.random(X.shape) < 0.2] = np.nan
    ad.AnnData(X).write_h5ad(tmp_path / "real.h5ad")
    return tmp_path / "real.h5ad", X


def impute(source, output, method, *options):
    return run(["impute", str(source), "-o", str(output), "--method", method, *map(str, options)])


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def layer(path, key):
    adata = ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)
    return np.asarray(adata.layers[key])


# -- formats -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_anndata_out_holds_all_of_the_input_and_the_result(counts, tmp_path, suffix, capsys):
    source, X = counts
    before = source.read_bytes()
    out = tmp_path / f"out{suffix}"
    assert impute(source, out, "ialm", "--seed", 3) == 0
    assert source.read_bytes() == before
    assert listing(tmp_path) == ["in.h5ad", out.name]
    read = ad.read_h5ad(out) if suffix == ".h5ad" else ad.read_zarr(out)
    original = ad.read_h5ad(source)
    assert read.X.dtype == original.X.dtype
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(read.X, part), getattr(original.X, part))
    assert set(read.layers) == {"raw", "ialm"}
    assert read.layers["ialm"].shape == (60, 40)
    assert read.layers["ialm"].dtype == np.float32
    assert np.isfinite(read.layers["ialm"]).all()
    np.testing.assert_array_equal(read.layers["ialm"][X > 0], X[X > 0])
    assert read.obsm["X_ialm"].shape[0] == 60
    assert read.uns["note"] == "mine"
    assert list(read.obs["batch"]) == ["a", "b"] * 30
    assert list(read.var["symbol"]) == [f"S{j}" for j in range(40)]
    record = read.uns["imputome"]["ialm"]
    assert record["method"] == "ialm"
    assert json.loads(record["params"])["random_state"] == 3
    assert record["random_state"] == 3
    assert set(record["versions"]) == {"imputome", "numpy", "scipy", "anndata"}
    assert record["input"] == {"where": "X", "state": "counts", "kind": "counts"}
    assert record["scale"] == "counts"
    assert bool(record["keep_observed"]) is True
    assert bool(record["posterior"]) is False
    assert len(record["unusable_cells"]) == len(record["unusable_genes"]) == 0
    assert record["seconds"] > 0
    assert record["peak_memory_bytes"] > 2**20
    assert bool(record["convergence"]["converged"]) is True
    assert len(record["history"]["residual"]) == record["convergence"]["iterations"]
    assert "wrote 60 x 40 values" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out.csv.gz", "out.csv", "out.tsv", "out.parquet"])
def test_tables_out_hold_the_same_values_as_a_layer(counts, tmp_path, name):
    source, _ = counts
    assert impute(source, tmp_path / "out.h5ad", "gene_mean") == 0
    assert impute(source, tmp_path / name, "gene_mean") == 0
    if name.endswith(".parquet"):
        table = pd.read_parquet(tmp_path / name).set_index("index")
    else:
        table = pd.read_csv(tmp_path / name, index_col=0, sep="\t" if ".tsv" in name else ",")
    assert list(table.index) == [f"cell{i}" for i in range(60)]
    assert list(table.columns) == [f"gene{j}" for j in range(40)]
    np.testing.assert_array_equal(table.to_numpy().astype(np.float32), layer(tmp_path / "out.h5ad", "gene_mean"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".parquet"])
def test_tables_in_both_orientations_give_the_same_values(tmp_path, suffix):
    adata = make_counts()
    table = pd.DataFrame(adata.X.toarray().astype(int), index=adata.obs_names, columns=adata.var_names)
    for name, frame in (("columns", table), ("rows", table.T)):
        source = tmp_path / f"{name}{suffix}"
        if suffix == ".parquet":
            frame.to_parquet(source)
        else:
            frame.to_csv(source, sep="\t" if "tsv" in suffix else ",")
        assert impute(source, tmp_path / f"{name}.out.csv.gz", "ialm", "--genes-in", name) == 0
    by_cell = pd.read_csv(tmp_path / "columns.out.csv.gz", index_col=0)
    by_gene = pd.read_csv(tmp_path / "rows.out.csv.gz", index_col=0)
    assert by_cell.shape == (60, 40)
    pd.testing.assert_frame_equal(by_cell, by_gene.T, check_exact=True, check_names=False)


def test_orientation_of_a_table_is_never_guessed(tmp_path, capsys):
    make_counts().to_df().to_csv(tmp_path / "in.csv")
    refused(capsys, impute(tmp_path / "in.csv", tmp_path / "out.csv", "ialm"), "no-orientation")
    refused(
        capsys,
        impute(tmp_path / "in.csv", tmp_path / "out.csv", "ialm", "--genes-in", "both"),
        "no-orientation",
        "'both'",
    )
    assert listing(tmp_path) == ["in.csv"]


def test_table_out_of_anndata_can_have_genes_in_rows(counts, tmp_path):
    source, _ = counts
    assert impute(source, tmp_path / "columns.csv", "gene_mean") == 0
    assert impute(source, tmp_path / "rows.csv", "gene_mean", "--genes-in", "rows") == 0
    by_cell = pd.read_csv(tmp_path / "columns.csv", index_col=0)
    by_gene = pd.read_csv(tmp_path / "rows.csv", index_col=0)
    pd.testing.assert_frame_equal(by_cell, by_gene.T, check_names=False)


def test_csv_to_h5ad(tmp_path):
    adata = make_counts()
    adata.to_df().T.to_csv(tmp_path / "in.csv")
    assert impute(tmp_path / "in.csv", tmp_path / "out.h5ad", "gene_mean", "--genes-in", "rows") == 0
    read = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(read.obs_names) == list(adata.obs_names)
    np.testing.assert_array_equal(read.to_df().to_numpy(), adata.X.toarray())
    assert "gene_mean" in read.layers


def test_suffixes_in_any_case(counts, tmp_path):
    source, _ = counts
    for name in ("OUT.H5AD", "OUT.CSV", "out.csv.GZ"):
        assert impute(source, tmp_path / name, "gene_mean") == 0
    assert ad.read_h5ad(tmp_path / "OUT.H5AD").layers["gene_mean"].shape == (60, 40)
    assert (tmp_path / "out.csv.GZ").read_bytes()[:2] == b"\x1f\x8b"


def test_paths_with_spaces_and_accents(counts, tmp_path):
    source, _ = counts
    folder = tmp_path / "my résults, 2"
    folder.mkdir()
    shutil.copy(source, folder / "in put.h5ad")
    assert impute(folder / "in put.h5ad", folder / "out put.h5ad", "gene_mean") == 0
    assert listing(folder) == ["in put.h5ad", "out put.h5ad"]


def test_key_added(counts, tmp_path):
    source, _ = counts
    assert impute(source, tmp_path / "out.h5ad", "ialm", "--key-added", "mine") == 0
    read = ad.read_h5ad(tmp_path / "out.h5ad")
    assert set(read.layers) == {"raw", "mine"}
    assert set(read.uns["imputome"]) == {"mine"}
    assert "X_mine" in read.obsm


def test_layer_is_imputed_instead_of_x(counts, tmp_path):
    source, _ = counts
    adata = ad.read_h5ad(source)
    adata.X = adata.X * 0.37
    adata.write_h5ad(tmp_path / "scaled.h5ad")
    assert impute(source, tmp_path / "a.h5ad", "ialm") == 0
    assert impute(tmp_path / "scaled.h5ad", tmp_path / "b.h5ad", "ialm", "--layer", "raw") == 0
    np.testing.assert_array_equal(layer(tmp_path / "a.h5ad", "ialm"), layer(tmp_path / "b.h5ad", "ialm"))
    assert ad.read_h5ad(tmp_path / "b.h5ad").uns["imputome"]["ialm"]["input"]["where"] == "layers['raw']"


# -- genes -------------------------------------------------------------------------------------------------------------
WANTED = [3, 7, 20]


def wanted_by(how, tmp_path):
    lines = tmp_path / "genes.txt"
    if how == "list":
        return ["--genes", "gene3,gene7,gene20"]
    if how == "list with spaces":
        return ["--genes", " gene3, gene7 ,gene20,"]
    if how == "column":
        return ["--genes", "S3,S7,S20", "--gene-column", "symbol"]
    ending, mark = {"file": ("\n", ""), "CRLF": ("\r\n", ""), "BOM": ("\n", "\ufeff"), "blank lines": ("\n\n \n", "")}[
        how
    ]
    lines.write_bytes((mark + ending.join(["gene3", "gene7", "gene20", ""])).encode())
    return ["--genes", str(lines)]


@pytest.mark.parametrize("how", ["list", "list with spaces", "file", "CRLF", "blank lines", "BOM", "column"])
def test_genes_are_fitted_on_all_and_written_alone(counts, tmp_path, how):
    source, X = counts
    assert impute(source, tmp_path / "all.h5ad", "ialm") == 0
    assert impute(source, tmp_path / "some.h5ad", "ialm", *wanted_by(how, tmp_path)) == 0
    some = ad.read_h5ad(tmp_path / "some.h5ad")
    assert list(some.var_names) == ["gene3", "gene7", "gene20"]
    np.testing.assert_array_equal(some.X.toarray(), X[:, WANTED])
    np.testing.assert_allclose(some.layers["ialm"], layer(tmp_path / "all.h5ad", "ialm")[:, WANTED], rtol=1e-5)


def test_genes_in_a_table_out(counts, tmp_path):
    source, _ = counts
    assert impute(source, tmp_path / "some.csv", "gene_mean", "--genes", "gene3,gene7") == 0
    assert list(pd.read_csv(tmp_path / "some.csv", index_col=0).columns) == ["gene3", "gene7"]


def test_a_long_list_of_genes_on_the_line(counts, tmp_path):
    source, _ = counts
    names_ = ",".join(f"gene{j}" for j in range(39)) + "," * 100  # longer than a file name can be
    assert len(names_) > 255
    assert impute(source, tmp_path / "out.h5ad", "gene_mean", "--genes", names_) == 0
    assert ad.read_h5ad(tmp_path / "out.h5ad").n_vars == 39


@pytest.mark.parametrize(
    ("options", "code", "value"),
    [
        (["--genes", "gene1,nowhere,neither"], "unknown-gene", "'nowhere'"),
        (["--genes", "gene1", "--gene-column", "symbol"], "unknown-gene", "'gene1'"),
        (["--genes", "S1", "--gene-column", "ensembl"], "no-var-column", "'ensembl'"),
        (["--genes", ""], "no-genes", ""),
        (["--genes", ",,"], "no-genes", ""),
        (["--genes", "missing_file.txt"], "genes-file-missing", "missing_file.txt"),
    ],
)
def test_wrong_genes(counts, tmp_path, capsys, options, code, value):
    source, _ = counts
    err = refused(capsys, impute(source, tmp_path / "out.h5ad", "ialm", *options), code, value)
    assert "fitting" not in err
    assert listing(tmp_path) == ["in.h5ad"]


def test_gene_column_without_genes_is_not_ignored(counts, tmp_path, capsys):
    source, _ = counts
    refused(
        capsys, impute(source, tmp_path / "out.h5ad", "ialm", "--gene-column", "symbol"), "option-unused", "--genes"
    )


# -- parameters --------------------------------------------------------------------------------------------------------
def test_set_takes_numbers_none_text_and_truth(counts, tmp_path):
    source, _ = counts
    options = [
        "max_rank=5",
        "tol=1e-3",
        "normalization=none",
        "zeros=preserve",
        "posterior=false",
        "rank_step=adaptive",
    ]
    options = [word for option in options for word in ("--set", option)]
    assert impute(source, tmp_path / "out.h5ad", "ialm", *options) == 0
    record = ad.read_h5ad(tmp_path / "out.h5ad").uns["imputome"]["ialm"]
    params = json.loads(record["params"])
    assert params["max_rank"] == 5
    assert type(params["max_rank"]) is int
    assert params["tol"] == 1e-3
    assert params["normalization"] is None
    assert params["zeros"] == "preserve"
    assert params["posterior"] is False
    assert params["rank_step"] == "adaptive"
    assert record["convergence"]["rank"] <= 5


@pytest.mark.parametrize("setting", ["max_rank", "=5", "", " = 5"])
def test_set_of_another_form_is_a_usage_error(counts, tmp_path, capsys, setting):
    source, _ = counts
    assert impute(source, tmp_path / "out.h5ad", "ialm", "--set", setting) == 2
    assert "key=value" in capsys.readouterr().err
    assert listing(tmp_path) == ["in.h5ad"]


@pytest.mark.parametrize(
    "setting",
    [
        "max_rank=abc",
        "max_rank=-1",
        "tol=abc",
        "tol=-1",
        "stop=never",
        "dtype=int8",
        "max_rank=2.5",
        "max_rank=True",
        "posterior=maybe",
        "random_state=x",
    ],
)
def test_wrong_value_of_a_parameter(counts, tmp_path, capsys, setting):
    source, _ = counts
    code = impute(source, tmp_path / "out.h5ad", "ialm", "--set", setting)
    refused(capsys, code, "parameter-value", setting.split("=")[0])
    assert listing(tmp_path) == ["in.h5ad"]


def test_set_random_state_is_what_the_record_says(counts, tmp_path):
    source, _ = counts
    assert impute(source, tmp_path / "out.h5ad", "random", "--set", "random_state=9") == 0
    record = ad.read_h5ad(tmp_path / "out.h5ad").uns["imputome"]["random"]
    assert record["random_state"] == json.loads(record["params"])["random_state"] == 9


def test_unknown_method_lists_the_known(counts, tmp_path, capsys):
    refused(capsys, impute(counts[0], tmp_path / "out.h5ad", "majik"), "unknown-method", "'majik'", *names())


def test_unknown_parameter_lists_the_known(counts, tmp_path, capsys):
    code = impute(counts[0], tmp_path / "out.h5ad", "ialm", "--set", "rank=3")
    refused(capsys, code, "unknown-parameter", "'rank'", "max_rank")


def test_seed(counts, tmp_path):
    source, _ = counts
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert impute(source, tmp_path / f"{name}.h5ad", "random", "--seed", seed) == 0
    a, b, c = (layer(tmp_path / f"{name}.h5ad", "random") for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "-1"],
        ["--seed", str(2**32)],
        ["--seed", "x"],
        ["--nonsense"],
        ["another.h5ad"],
    ],
)
def test_usage_errors(counts, tmp_path, capsys, arguments):
    assert impute(counts[0], tmp_path / "out.h5ad", "gene_mean", *arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert listing(tmp_path) == ["in.h5ad"]


def test_missing_options_are_usage_errors(counts, tmp_path, capsys):
    assert run(["impute", str(counts[0])]) == 2
    assert run(["impute"]) == 2
    capsys.readouterr()


# -- scales and states -------------------------------------------------------------------------------------------------
def test_scales_are_what_the_formulas_say(counts, tmp_path):
    source, X = counts
    X = X.astype(np.float64)
    library, share = X.sum(axis=1, keepdims=True), X.sum(axis=0) / X.sum()
    expected = {
        "counts": library * share,
        "normalized": np.broadcast_to(1e4 * share, X.shape),
        "log1p": np.broadcast_to(np.log1p(1e4 * share), X.shape),
    }
    for scale, values in expected.items():
        out = tmp_path / f"{scale}.h5ad"
        assert impute(source, out, "gene_mean", "--scale", scale) == 0
        np.testing.assert_allclose(layer(out, "gene_mean"), values, rtol=1e-5)
        assert ad.read_h5ad(out).uns["imputome"]["gene_mean"]["scale"] == scale
    out = tmp_path / "kept.h5ad"  # of a cell's own counts too
    assert impute(source, out, "no_imputation", "--scale", "log1p") == 0
    np.testing.assert_allclose(layer(out, "no_imputation"), np.log1p(X / library * 1e4), rtol=1e-5)


def test_unknown_scale_is_refused_before_fitting(counts, tmp_path, capsys):
    code = impute(counts[0], tmp_path / "out.h5ad", "ialm", "--scale", "log2")
    err = refused(capsys, code, "unknown-scale", "log2", "counts", "normalized", "log1p")
    assert "fitting" not in err
    assert listing(tmp_path) == ["in.h5ad"]


@pytest.fixture
def logged(tmp_path):
    adata = make_counts()
    X = adata.X.toarray().astype(np.float64)
    adata.X = sp.csr_matrix(np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4).astype(np.float32))
    adata.write_h5ad(tmp_path / "logged.h5ad")
    return tmp_path / "logged.h5ad", X


def test_advice_names_the_options_of_the_command_line(logged, tmp_path, capsys):
    """A user of the shell cannot pass ``layer='raw'``."""
    code = impute(logged[0], tmp_path / "out.h5ad", "ialm")
    refused(capsys, code, "looks-log1p", "--layer raw", "--scale log1p")
    assert listing(tmp_path) == ["logged.h5ad"]


@pytest.mark.parametrize("scale", ["log1p", "input"])
def test_logged_input_is_imputed_on_its_scale_by_consent(logged, tmp_path, scale):
    source, X = logged
    assert impute(source, tmp_path / "out.h5ad", "gene_mean", "--scale", scale) == 0
    shares = (X / X.sum(axis=1, keepdims=True)).mean(axis=0)
    expected = np.broadcast_to(np.log1p(1e4 * shares), X.shape)
    np.testing.assert_allclose(layer(tmp_path / "out.h5ad", "gene_mean"), expected, rtol=1e-4)
    record = ad.read_h5ad(tmp_path / "out.h5ad").uns["imputome"]["gene_mean"]
    assert record["scale"] == "log1p"
    assert record["input"]["state"] == "log1p"


def test_logged_input_is_refused_on_another_scale(logged, tmp_path, capsys):
    refused(capsys, impute(logged[0], tmp_path / "out.h5ad", "gene_mean", "--scale", "counts"), "looks-log1p")


def test_scaled_input_is_refused(counts, tmp_path, capsys):
    adata = make_counts()
    X = np.log1p(adata.X.toarray())
    adata.X = (X - X.mean(axis=0)) / X.std(axis=0)
    adata.write_h5ad(tmp_path / "scaled.h5ad")
    for method in ("ialm", "gene_mean"):
        refused(capsys, impute(tmp_path / "scaled.h5ad", tmp_path / "out.h5ad", method), "nothing-missing")
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize(("method", "centre"), [("mean", np.nanmean), ("median", np.nanmedian)])
def test_nan_is_filled_by_the_feature(real, tmp_path, method, centre):
    source, X = real
    assert impute(source, tmp_path / "out.h5ad", method) == 0
    expected = np.where(np.isnan(X), centre(X, axis=0), X)
    np.testing.assert_allclose(layer(tmp_path / "out.h5ad", method), expected, rtol=1e-5)
    record = ad.read_h5ad(tmp_path / "out.h5ad").uns["imputome"][method]
    assert record["scale"] == "input"
    assert record["input"]["kind"] == "real"


def test_nan_is_filled_by_ialm_better_than_by_the_mean(tmp_path):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 40)) + 5
    hidden = rng.random(X.shape) < 0.2
    ad.AnnData(np.where(hidden, np.nan, X)).write_h5ad(tmp_path / "in.h5ad")
    errors = {}
    for method in ("ialm", "mean"):
        assert impute(tmp_path / "in.h5ad", tmp_path / f"{method}.h5ad", method) == 0
        filled = layer(tmp_path / f"{method}.h5ad", method)
        np.testing.assert_allclose(filled[~hidden], X[~hidden], rtol=1e-5)
        errors[method] = np.sqrt(np.mean((filled - X)[hidden] ** 2))
    assert errors["ialm"] < 0.5 * errors["mean"]


def test_counts_are_refused_by_mean_and_nan_by_gene_mean(counts, real, tmp_path, capsys):
    refused(capsys, impute(counts[0], tmp_path / "out.h5ad", "mean"), "wrong-kind")
    refused(capsys, impute(real[0], tmp_path / "out.h5ad", "gene_mean"), "wrong-kind", "gene_mean")


def test_scale_asked_of_real_values_is_not_ignored(real, tmp_path, capsys):
    refused(capsys, impute(real[0], tmp_path / "out.h5ad", "mean", "--scale", "log1p"), "scale-needs-counts")


def test_negative_counts_are_refused(counts, tmp_path, capsys):
    adata = make_counts()
    adata.X[0, 0] = -1
    adata.write_h5ad(tmp_path / "negative.h5ad")
    refused(capsys, impute(tmp_path / "negative.h5ad", tmp_path / "out.h5ad", "ialm"), "negative-counts")


def test_empty_cells_are_named_and_stay_zero(tmp_path, capsys):
    adata = make_counts()
    X = adata.X.toarray()
    X[5], X[:, 8] = 0, 0
    adata.X = sp.csr_matrix(X)
    adata.write_h5ad(tmp_path / "in.h5ad")
    assert impute(tmp_path / "in.h5ad", tmp_path / "out.h5ad", "ialm") == 0
    printed = capsys.readouterr()
    assert "1 cells, 1 genes" in printed.out
    assert "warning: " in printed.err
    read = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(read.uns["imputome"]["ialm"]["unusable_cells"]) == ["cell5"]
    assert list(read.uns["imputome"]["ialm"]["unusable_genes"]) == ["gene8"]
    assert (read.layers["ialm"][5] == 0).all()
    assert (read.layers["ialm"][:, 8] == 0).all()


def test_one_cell(tmp_path, capsys):
    make_counts()[:1].write_h5ad(tmp_path / "in.h5ad")
    refused(capsys, impute(tmp_path / "in.h5ad", tmp_path / "out.h5ad", "ialm"), "too-small")


# -- posterior and observed values -------------------------------------------------------------------------------------
def test_posterior_moves_the_rate_towards_the_counts(counts, tmp_path):
    source, X = counts
    assert impute(source, tmp_path / "rate.h5ad", "gene_mean") == 0
    assert impute(source, tmp_path / "out.h5ad", "gene_mean", "--posterior") == 0
    read = ad.read_h5ad(tmp_path / "out.h5ad")
    assert set(read.layers) == {"raw", "gene_mean_posterior"}
    assert bool(read.uns["imputome"]["gene_mean_posterior"]["posterior"]) is True
    rate, values = layer(tmp_path / "rate.h5ad", "gene_mean"), np.asarray(read.layers["gene_mean_posterior"])
    np.testing.assert_allclose(values.sum(), X.sum(), rtol=1e-4)
    change = values / rate  # up to one factor for all, above 1 where more was counted than expected, else below
    for j in range(40):
        more = X[:, j] > rate[:, j]
        assert change[more, j].min() > change[~more, j].max()


def test_posterior_of_a_method_without_rates(real, tmp_path, capsys):
    refused(capsys, impute(real[0], tmp_path / "out.h5ad", "mean", "--posterior"), "no-posterior")


@pytest.mark.parametrize("method", ["gene_mean", "ialm"])
def test_observed_values_are_kept_or_replaced(counts, tmp_path, method):
    source, X = counts
    seen = X > 0
    for option, kept in (("--keep-observed", True), ("--replace-observed", False)):
        out = tmp_path / f"{option}.h5ad"
        assert impute(source, out, method, option) == 0
        assert bool((layer(out, method)[seen] == X[seen]).all()) is kept
        assert bool(ad.read_h5ad(out).uns["imputome"][method]["keep_observed"]) is kept
    a, b = (layer(tmp_path / f"{option}.h5ad", method) for option in ("--keep-observed", "--replace-observed"))
    np.testing.assert_array_equal(a[~seen], b[~seen])


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_missing_layer_lists_those_that_are_there(counts, tmp_path, capsys):
    refused(
        capsys, impute(counts[0], tmp_path / "out.h5ad", "ialm", "--layer", "spliced"), "layer-missing", "'spliced'"
    )
    assert listing(tmp_path) == ["in.h5ad"]


def test_missing_file(tmp_path, capsys):
    refused(capsys, impute(tmp_path / "no.h5ad", tmp_path / "out.h5ad", "ialm"), "no-file", "no.h5ad")


@pytest.mark.parametrize(
    ("name", "code_of_empty", "code_of_nonsense"),
    [
        ("in.h5ad", "unreadable", "unreadable"),
        ("in.csv", "empty", "not-text"),
        ("in.parquet", "unreadable", "unreadable"),
        ("in.csv.gz", "empty", "not-gzipped"),
        ("in.h5", "unreadable", "unreadable"),
        ("in.xyz", "unknown-format", "unknown-format"),
    ],
)
def test_damaged_files(tmp_path, capsys, name, code_of_empty, code_of_nonsense):
    options = ["--genes-in", "rows"] if "csv" in name or "parquet" in name else []
    for content, code in ((b"", code_of_empty), (b"this is no data\n\x00\xff", code_of_nonsense)):
        (tmp_path / name).write_bytes(content)
        refused(capsys, impute(tmp_path / name, tmp_path / "out.h5ad", "ialm", *options), code, name)
        assert listing(tmp_path) == [name]


def test_truncated_h5ad(counts, tmp_path, capsys):
    whole = counts[0].read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    refused(capsys, impute(tmp_path / "cut.h5ad", tmp_path / "out.h5ad", "ialm"), "unreadable", "cut.h5ad")


def test_table_with_a_column_of_text(tmp_path, capsys):
    table = make_counts().to_df()
    table.insert(3, "type", "T cell")
    table.to_csv(tmp_path / "in.csv")
    code = impute(tmp_path / "in.csv", tmp_path / "out.h5ad", "ialm", "--genes-in", "columns")
    refused(capsys, code, "not-a-number", "'type'")


def test_missing_output_folder(counts, tmp_path, capsys):
    err = refused(capsys, impute(counts[0], tmp_path / "no" / "out.h5ad", "ialm"), "no-folder")
    assert "fitting" not in err


def test_unknown_output_format(counts, tmp_path, capsys):
    refused(capsys, impute(counts[0], tmp_path / "out.xlsx", "ialm"), "unknown-format", "out.xlsx")


@pytest.mark.parametrize("name", ["out.h5ad", "out.csv.gz", "out.zarr"])
def test_existing_output_needs_force(counts, tmp_path, capsys, name):
    out = tmp_path / name
    if name == "out.zarr":
        assert impute(counts[0], out, "gene_mean") == 0
        capsys.readouterr()
    else:
        out.write_bytes(b"old")
    err = refused(capsys, impute(counts[0], out, "ialm"), "output-exists", name)
    assert "fitting" not in err
    if name == "out.zarr":
        assert set(ad.read_zarr(out).layers) == {"raw", "gene_mean"}
    else:
        assert out.read_bytes() == b"old"
    assert impute(counts[0], out, "ialm", "--force") == 0
    assert listing(tmp_path) == ["in.h5ad", name]
    if name != "out.csv.gz":
        read = ad.read_h5ad(out) if name == "out.h5ad" else ad.read_zarr(out)
        assert set(read.layers) == {"raw", "ialm"}


def test_failure_with_force_leaves_the_old_output(counts, tmp_path, capsys, monkeypatch):
    import imputome.io.store as stream

    (tmp_path / "out.h5ad").write_bytes(b"old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stream, "_stream_layers", fail)
    refused(capsys, impute(counts[0], tmp_path / "out.h5ad", "gene_mean", "--force"), "disk-full")
    assert (tmp_path / "out.h5ad").read_bytes() == b"old"
    assert listing(tmp_path) == ["in.h5ad", "out.h5ad"]


def test_output_is_the_input(counts, tmp_path, capsys, monkeypatch):
    source, _ = counts
    before = source.read_bytes()
    (tmp_path / "link.h5ad").symlink_to(source)
    (tmp_path / "hard.h5ad").hardlink_to(source)
    monkeypatch.chdir(tmp_path)
    for out in (source, tmp_path / "x" / ".." / "in.h5ad", Path("in.h5ad"), "link.h5ad", "hard.h5ad"):
        (tmp_path / "x").mkdir(exist_ok=True)
        refused(capsys, impute(source, out, "gene_mean", "--force"), "output-is-input")
    assert source.read_bytes() == before


@pytest.mark.parametrize("name", ["out.h5ad", "out.H5AD", "out.zarr"])
def test_taken_key_is_refused_before_fitting(counts, tmp_path, capsys, name):
    source, _ = counts
    for force in ([], ["--force"]):  # a layer that imputome did not write is never replaced
        code = impute(source, tmp_path / name, "ialm", "--key-added", "raw", *force)
        assert "fitting" not in refused(capsys, code, "not-a-result", "'raw'")
        assert listing(tmp_path) == ["in.h5ad"]
    assert impute(source, tmp_path / name, "gene_mean", "--key-added", "own", "-q") == 0
    again = tmp_path / f"again{name}"
    assert "fitting" not in refused(
        capsys, impute(tmp_path / name, again, "ialm", "--key-added", "own"), "key-exists", "'own'"
    )
    assert impute(tmp_path / name, again, "ialm", "--key-added", "own", "--force") == 0
    read = ad.read_zarr(again) if name.endswith("zarr") else ad.read_h5ad(again)
    assert read.uns["imputome"]["own"]["method"] == "ialm"


def test_a_key_for_a_table_is_refused(counts, tmp_path, capsys):
    code = impute(counts[0], tmp_path / "out.csv", "gene_mean", "--key-added", "k")
    refused(capsys, code, "table-without-layers", "--key-added")
    assert listing(tmp_path) == ["in.h5ad"]


@pytest.mark.parametrize("key", ["a/b", "/"])
def test_impossible_key_is_refused_before_fitting(counts, tmp_path, capsys, key):
    code = impute(counts[0], tmp_path / "out.h5ad", "ialm", "--key-added", key)
    err = refused(capsys, code, "bad-key")
    assert "fitting" not in err
    assert listing(tmp_path) == ["in.h5ad"]


def test_second_result_beside_the_first(counts, tmp_path):
    assert impute(counts[0], tmp_path / "a.h5ad", "ialm") == 0
    assert impute(tmp_path / "a.h5ad", tmp_path / "b.h5ad", "gene_mean") == 0
    read = ad.read_h5ad(tmp_path / "b.h5ad")
    assert set(read.layers) == {"raw", "ialm", "gene_mean"}
    assert set(read.uns["imputome"]) == {"ialm", "gene_mean"}


def test_disk_is_looked_at_before_fitting(counts, tmp_path, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 100, 1000))
    err = refused(capsys, impute(counts[0], tmp_path / "out.h5ad", "ialm"), "disk-too-small", "--genes")
    assert "fitting" not in err
    assert listing(tmp_path) == ["in.h5ad"]


def test_disk_that_holds_the_chosen_genes_is_enough(counts, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 2000))
    assert impute(counts[0], tmp_path / "some.csv", "gene_mean", "--genes", "gene1,gene2") == 0


def test_covariates_of_a_method_without(counts, tmp_path, capsys):
    refused(capsys, impute(counts[0], tmp_path / "out.h5ad", "ialm", "--covariates", "batch"), "no-covariates")


# -- what is printed ---------------------------------------------------------------------------------------------------
def test_plain_lines(counts, tmp_path, capsys):
    assert impute(counts[0], tmp_path / "out.h5ad", "ialm") == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["fitting ialm ...", "writing out.h5ad ..."]
    assert "60 cells x 40 genes, counts in X" in printed.out
    assert "\x1b" not in printed.out + printed.err


def test_quiet_prints_nothing(counts, tmp_path, capsys):
    assert impute(counts[0], tmp_path / "out.h5ad", "ialm", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    # warnings of libraries do not pass capsys
    done = program("impute", counts[0], "-o", tmp_path / "b.h5ad", "--method", "poisson_nmf", "-q", "--set", "tol=1e-9")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_json_is_one_document(counts, tmp_path, capsys):
    assert impute(counts[0], tmp_path / "out.h5ad", "ialm", "--json", "--seed", 4) == 0
    out = capsys.readouterr().out

    def no_constant(name):
        pytest.fail(f"{name} is no JSON")

    summary = json.loads(out, parse_constant=no_constant)
    assert out.count("\n") == 1
    assert summary["output"] == str(tmp_path / "out.h5ad")
    assert summary["key"] == summary["method"] == "ialm"
    assert summary["shape"] == [60, 40]
    assert summary["random_state"] == 4
    assert summary["scale"] == "counts"
    assert summary["unusable_cells"] == []
    assert summary["convergence"]["converged"] is True
    assert (tmp_path / "out.h5ad").is_file()


def test_json_with_quiet_and_of_an_error(counts, tmp_path, capsys):
    assert impute(counts[0], tmp_path / "out.h5ad", "gene_mean", "--json", "--quiet") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["key"] == "gene_mean"
    assert printed.err == ""
    refused(capsys, impute(counts[0], tmp_path / "out.h5ad", "gene_mean", "--json"), "output-exists")


def test_not_converged_is_said_once(counts, tmp_path, capsys):
    assert impute(counts[0], tmp_path / "out.h5ad", "ialm", "--set", "max_iter=2") == 0
    printed = capsys.readouterr()
    assert "warning: ialm: " in printed.err
    record = ad.read_h5ad(tmp_path / "out.h5ad").uns["imputome"]["ialm"]
    assert bool(record["convergence"]["converged"]) is False
    assert (printed.err + printed.out).count(record["convergence"]["message"]) == 1


@pytest.mark.parametrize("place", ["none", "front", "end"])
def test_unexpected_error(counts, tmp_path, capsys, monkeypatch, place):
    def fail(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("imputome.api.impute.fit_run", fail)
    arguments = ["impute", str(counts[0]), "-o", str(tmp_path / "out.h5ad"), "-m", "ialm"]
    front, end = (["--debug"] if place == where else [] for where in ("front", "end"))
    assert run([*front, *arguments, *end]) == 1
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: RuntimeError: two lines ")
    assert line.endswith(" [unexpected]")
    assert ("Traceback" in printed.err) is (place != "none")
    assert listing(tmp_path) == ["in.h5ad"]


def test_full_memory(counts, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("imputome.api.impute.fit_run", fail)
    refused(capsys, impute(counts[0], tmp_path / "out.h5ad", "ialm"), "out-of-memory")


# -- the real program --------------------------------------------------------------------------------------------------
def program(*arguments, **options):
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **options
    )


def default_signals():
    # a test run in the background of a shell ignores SIGINT, and its children would too
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def started(*arguments, **options):
    return subprocess.Popen(
        [PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
        **options,
    )


def interrupted(process, number):
    """Send a signal; return the exit code and what was printed."""
    try:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    """Random counts without structure, which take ialm the better part of a minute."""
    X = np.random.default_rng(0).poisson(1.0, (1500, 1400)).astype(np.float32)
    path = tmp_path_factory.mktemp("medium") / "medium.h5ad"
    ad.AnnData(sp.csr_matrix(X)).write_h5ad(path)
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_while_fitting(medium, tmp_path, number, code):
    (tmp_path / "out.h5ad").write_bytes(b"old")
    options = ["--set", "tol=1e-30", "--set", "max_iter=1000000"]
    process = started("impute", medium, "-o", tmp_path / "out.h5ad", "--method", "ialm", "--force", *options)
    assert process.stderr.readline() == "fitting ialm ...\n"
    time.sleep(0.5)
    assert process.poll() is None, "the fit is too short for this test"
    found, out, err = interrupted(process, number)
    assert found == code, err
    assert out == ""
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert err.endswith(" [interrupted]\n")
    assert listing(tmp_path) == ["out.h5ad"]
    assert (tmp_path / "out.h5ad").read_bytes() == b"old"


@pytest.fixture(scope="module")
def tall(medium):
    """The same counts four times, which take a while to write."""
    adata = ad.read_h5ad(medium)
    path = medium.with_name("tall.h5ad")
    ad.concat([adata] * 4, axis=0, index_unique="-").write_h5ad(path)
    return path


@pytest.mark.parametrize(
    ("name", "number", "code"), [("out.csv.gz", signal.SIGINT, 130), ("out.zarr", signal.SIGTERM, 143)]
)
def test_signal_while_writing(tall, tmp_path, name, number, code):
    process = started("impute", tall, "-o", tmp_path / name, "--method", "gene_mean", "--replace-observed")
    for _ in range(600):  # until the partial output is there
        if any(entry.startswith(f".{name}") for entry in listing(tmp_path)) or process.poll() is not None:
            break
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    found, out, err = interrupted(process, number)
    if found == 0:  # too late: then it must be whole
        assert listing(tmp_path) == [name]
        return
    assert found == code, err
    assert out == ""
    assert "Traceback" not in err
    assert listing(tmp_path) == []


def test_killed_process_leaves_no_rubbish_for_the_next(counts, tmp_path):
    partial = tmp_path / ".out.h5ad.0123abcd.partial"
    partial.mkdir()
    (partial / "lock").write_text(os.uname().nodename)  # not locked: its process is dead
    (partial / "out.h5ad").write_bytes(b"half")
    assert impute(counts[0], tmp_path / "out.h5ad", "gene_mean") == 0
    assert listing(tmp_path) == ["in.h5ad", "out.h5ad"]


def test_bar_on_a_terminal(counts, tmp_path):
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "CI", "COLUMNS", "LINES"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [PROGRAM, "impute", str(counts[0]), "-o", str(tmp_path / "out.h5ad"), "--method", "ialm"],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    out = process.communicate(timeout=60)[0]
    os.close(leader)
    assert process.returncode == 0
    text = shown.decode()
    assert "fitting ialm" in text
    assert "writing out.h5ad" in text
    assert "%" in text
    assert "\x1b[" in text
    assert "\x1b" not in out.decode()
    assert b"wrote 60 x 40 values" in out


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-"])
def test_closed_streams(counts, tmp_path, closed):
    program_ = [sys.executable, "-m", "imputome"] if closed == "2>&-" else [PROGRAM]
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *program_, "impute", str(counts[0])]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out.h5ad"), "--method", "gene_mean"],
        stdin=None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert ad.read_h5ad(tmp_path / "out.h5ad").layers["gene_mean"].shape == (60, 40)


def test_unwritable_folder_is_refused_before_fitting(counts, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    code = (
        "import sys; from imputome.cli import run; "
        "[run(['impute', sys.argv[1], '-o', name, '--method', 'gene_mean']) for name in sys.argv[2:]]"
    )
    outputs = [str(locked / name) for name in ("out.h5ad", "out.zarr", "out.csv")]
    command = [sys.executable, "-c", code, str(counts[0]), *outputs]
    if os.access(locked, os.W_OK):  # root: without this right it is bound as all others
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and there is no setpriv to take the right away")
        command = ["setpriv", "--bounding-set=-dac_override", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stderr.splitlines()
    assert (done.stdout, len(lines)) == ("", 3), done
    assert all(line.startswith("error: ") and line.endswith(" [folder-not-writable]") for line in lines)
    assert listing(locked) == []


def test_list_of_genes_with_quotes(counts, tmp_path):
    (tmp_path / "genes.txt").write_text("\"gene1\"\r\n'gene3'\r\n")
    assert impute(counts[0], tmp_path / "out.h5ad", "gene_mean", "--genes", tmp_path / "genes.txt") == 0
    assert list(ad.read_h5ad(tmp_path / "out.h5ad").uns["imputome"]["gene_mean"]["genes"]) == ["gene1", "gene3"]


def test_list_of_genes_in_another_encoding(counts, tmp_path, capsys):
    (tmp_path / "genes.txt").write_bytes("gene1\n".encode("utf-16"))
    code = impute(counts[0], tmp_path / "out.h5ad", "gene_mean", "--genes", tmp_path / "genes.txt")
    refused(capsys, code, "genes-file-unreadable", "genes.txt")


# -- more outputs than the value ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_outputs_are_layers_beside_the_value(counts, tmp_path, suffix, capsys):
    source, X = counts
    out = tmp_path / f"out{suffix}"
    assert impute(source, out, "gene_mean_posterior", "--outputs", "variance,lower, upper") == 0
    assert "gene_mean_posterior_variance" in capsys.readouterr().out
    result = get("gene_mean_posterior")().fit_transform(sp.csr_array(X))
    for output in ("variance", "lower", "upper"):
        expected = result.to_array(output=output)
        np.testing.assert_allclose(layer(out, f"gene_mean_posterior_{output}"), expected, rtol=1e-6)
    np.testing.assert_allclose(layer(out, "gene_mean_posterior"), result.to_array(), rtol=1e-6)
    read = ad.read_zarr(out) if suffix == ".zarr" else ad.read_h5ad(out)
    assert list(read.uns["imputome"]["gene_mean_posterior"]["outputs"]) == ["variance", "lower", "upper"]
    # a second result of that name with fewer outputs leaves none of the first's behind
    again = tmp_path / f"again{suffix}"
    assert impute(out, again, "gene_mean_posterior", "--outputs", "upper", "--force") == 0
    read = ad.read_zarr(again) if suffix == ".zarr" else ad.read_h5ad(again)
    assert set(read.layers) == {"raw", "gene_mean_posterior", "gene_mean_posterior_upper"}
    assert run(["remove", str(again), "gene_mean_posterior"]) == 0
    read = ad.read_zarr(again) if suffix == ".zarr" else ad.read_h5ad(again)
    assert set(read.layers) == {"raw"}
    assert "imputome" not in read.uns


def test_outputs_that_cannot_be_had_are_refused_before_fitting(counts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("imputome.api.impute.fit_run", lambda *_, **__: pytest.fail("the work was begun"))
    source, out = counts[0], tmp_path / "out.h5ad"
    refused(capsys, impute(source, out, "gene_mean", "--outputs", "variance"), "output-needs-posterior", "'variance'")
    refused(capsys, impute(source, out, "gene_mean", "--outputs", "sd"), "no-output", "'sd'")
    refused(
        capsys,
        impute(source, out, "gene_mean_posterior", "--no-posterior", "--outputs", "lower"),
        "output-needs-posterior",
    )
    table = tmp_path / "out.csv"
    refused(capsys, impute(source, table, "gene_mean_posterior", "--outputs", "lower"), "table-without-layers")
    assert listing(tmp_path) == ["in.h5ad"]


def test_variance_has_the_scale_of_counts_alone(counts, tmp_path, capsys):
    options = ["--outputs", "variance", "--scale", "log1p"]
    code = impute(counts[0], tmp_path / "out.h5ad", "gene_mean_posterior", *options)
    refused(capsys, code, "variance-scale")


def test_names_of_outputs_that_are_taken(counts, tmp_path, capsys):
    adata = ad.read_h5ad(counts[0])
    adata.layers["k_lower"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "taken.h5ad")
    options = ["--key-added", "k", "--outputs", "lower"]
    code = impute(tmp_path / "taken.h5ad", tmp_path / "out.h5ad", "gene_mean_posterior", *options)
    refused(capsys, code, "not-a-result", "'k_lower'")
    assert impute(counts[0], tmp_path / "a.h5ad", "gene_mean", "--key-added", "k_lower", "-q") == 0
    code = impute(tmp_path / "a.h5ad", tmp_path / "b.h5ad", "gene_mean_posterior", *options, "--force")
    refused(capsys, code, "name-of-another-result")


# -- the default method ------------------------------------------------------------------------------------------------
def test_no_method_takes_the_default_and_says_so(counts, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(imputome.methods.DEFAULT, "counts", "gene_mean")
    assert run(["impute", str(counts[0]), "-o", str(tmp_path / "out.h5ad")]) == 0
    assert "gene_mean: " in capsys.readouterr().out
    read = ad.read_h5ad(tmp_path / "out.h5ad")
    assert read.uns["imputome"]["gene_mean"]["method"] == "gene_mean"


def test_no_method_for_real_values(real, tmp_path, capsys):
    assert run(["impute", str(real[0]), "-o", str(tmp_path / "out.h5ad")]) == 0
    assert "gaussian_copula: " in capsys.readouterr().out
    assert not np.isnan(ad.read_h5ad(tmp_path / "out.h5ad").layers["gaussian_copula"]).any()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--budget", "1", "--method", "gene_mean"], "option-unused", "--budget is"),
        (["--accept-control", "--method", "gene_mean"], "option-unused", "--accept-control is"),
        (["--gene-column", "symbol"], "option-unused", "--gene-column is"),
        (["--sample-id", "patient"], "option-unused", "--sample-id names"),
        (["--method", "auto", "--set", "k=3"], "not-with-auto", "leave --set out"),
        (["--method", "gene_mean", "--scale", "log2"], "unknown-scale", "--scale log2 is"),
    ],
)
def test_the_option_at_fault_is_named_as_a_flag(tmp_path, capsys, arguments, code, named):
    path = tmp_path / "counts.h5ad"
    ad.AnnData(np.random.default_rng(0).poisson(1.0, size=(30, 8)).astype(np.float32)).write_h5ad(path)
    status = run(["impute", str(path), "-o", str(tmp_path / "out.h5ad"), *arguments])
    refused(capsys, status, code, named)
