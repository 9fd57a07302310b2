"""Options about what the input is: each refusal names an option, and following it works."""

from __future__ import annotations

import re
import shlex

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import refused
from imputome.cli import run

rng = np.random.default_rng(0)
COUNTS = rng.poisson(rng.gamma(0.5, 3, (1, 60)) * rng.lognormal(0, 0.5, (40, 1))).astype(np.float32)
COUNTS[:, 0] += 1
CP10K = COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4
NAMES = {
    "obs": pd.DataFrame(index=[f"cell{i}" for i in range(40)]),
    "var": pd.DataFrame(index=[f"gene{j}" for j in range(60)]),
}
SHARED = rng.uniform(0.5, 1, (40, 60)) * (np.arange(60) % 3 == 0)
EXPECTED = np.where(SHARED > 0, (200 * COUNTS * SHARED).round(2), 20 * COUNTS)


def with_raw() -> ad.AnnData:
    adata = ad.AnnData(np.log1p(CP10K), **NAMES)
    adata.raw = ad.AnnData(sp.csr_matrix(COUNTS), **NAMES)
    return adata[:, 10:40].copy()


INPUTS = {
    "log1p": lambda: ad.AnnData(np.log1p(CP10K), **NAMES),
    "sqrt": lambda: ad.AnnData(np.sqrt(COUNTS), **NAMES),
    "raw": with_raw,
    "unclear": lambda: ad.AnnData(np.log2(1 + CP10K * rng.uniform(0.01, 0.3, 60)), **NAMES),
    "nan": lambda: ad.AnnData(np.where(rng.random((40, 60)) < 0.05, np.nan, COUNTS), **NAMES),
    "expected": lambda: ad.AnnData(EXPECTED, **NAMES),
    "intensities": lambda: ad.AnnData(np.rint(COUNTS * 12345.6), **NAMES),
    "turned": lambda: ad.AnnData(COUNTS[:, :30].T, obs=pd.DataFrame(index=[f"RPL{j}" for j in range(30)])),
    "code": lambda: ad.AnnData(np.where(rng.random((40, 60)) < 0.1, -9, rng.lognormal(2, 1, (40, 60))), **NAMES),
    "complete": lambda: ad.AnnData(rng.normal(size=(40, 60)), **NAMES),
    "infinite": lambda: ad.AnnData(np.where(np.arange(60) == 5, np.inf, CP10K), **NAMES),
    "negative": lambda: ad.AnnData(COUNTS - 2 * (np.arange(60) == 5), **NAMES),
}
CODES = {
    "log1p": "looks-log1p",
    "sqrt": "looks-sqrt_counts",
    "raw": "looks-log1p",
    "unclear": "scale-unclear",
    "nan": "kind-unclear",
    "expected": "looks-expected",
    "intensities": "kind-unclear",
    "turned": "genes-in-rows",
    "code": "missing-code",
    "complete": "nothing-missing",
    "infinite": "infinite-values",
    "negative": "negative-counts",
}


@pytest.fixture(params=INPUTS)
def name(request):
    return request.param


@pytest.fixture
def source(tmp_path, name):
    path = tmp_path / "in.h5ad"
    INPUTS[name]().write_h5ad(path)
    return path


def impute(source, *options):
    return run(["impute", str(source), "-o", str(source.with_name("out.h5ad")), *options])


def test_impute_and_inspect_refuse_alike(source, name, capsys):
    refused(capsys, impute(source, "-q"), CODES[name])  # also if warnings are not printed
    assert run(["inspect", str(source)]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors[0].endswith(f"[{CODES[name]}]")


# what a message names, completed where it leaves the value to the user
ANSWERS = {
    "log1p": "--scale log1p",
    "sqrt": "--scale sqrt_counts",
    "raw": "--layer raw",
    "unclear": "--scale log2p1",
    "nan": "--kind counts",
    "expected": "--round-counts nearest",
    "intensities": "--kind counts",
    "turned": "--transpose",
}


@pytest.mark.parametrize("name", ANSWERS, indirect=True)
def test_the_option_that_is_advised_works(source, name, capsys):
    error = refused(capsys, impute(source, "--method", "gene_mean"), CODES[name])
    answer = ANSWERS[name]
    assert answer in error or answer.split()[0] in error
    assert impute(source, "--method", "gene_mean", *answer.split()) == 0
    values = ad.read_h5ad(source.with_name("out.h5ad")).layers["gene_mean"]
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("name", "options"), [("nan", ["--kind", "real"]), ("code", ["--kind", "real"])], indirect=["name"]
)
def test_real_values_are_asked_for_too(source, name, options, capsys):
    code = impute(source, "--method", "mean", *options)
    if name == "nan":
        assert code == 0
    else:
        refused(capsys, code, "nothing-missing")  # with the code as a value, nothing is missing


def test_every_option_that_is_named_exists(source, name, capsys):
    flags = set(re.findall(r"--[a-z-]+", refused(capsys, impute(source), CODES[name])))
    assert run(["impute", "--help"]) == 0
    assert flags <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


@pytest.mark.parametrize("name", ["raw"], indirect=True)
def test_raw_in_every_command(source, tmp_path, capsys):
    """Library sizes are over all genes of raw."""
    library = COUNTS.sum(axis=1, keepdims=True)
    expected = library * COUNTS[:, 10:40].sum(axis=0) / COUNTS.sum()
    out = tmp_path / "out.h5ad"
    for command in (
        f"impute {source} -o {out} -m gene_mean --layer raw",
        f"report {out} -o {tmp_path / 'page.html'} --map pca",
        f"fit {source} -m {tmp_path / 'model'} --method gene_mean --layer raw",
        f"apply {tmp_path / 'model'} {source} -o {tmp_path / 'applied.h5ad'} --layer raw",
        f"inspect {source} --layer raw",
        f"mask {source} -o {tmp_path / 'masked.h5ad'} --scheme thin --layer raw",
        f"evaluate {source} -o {tmp_path / 'scores.csv'} --methods gene_mean --layer raw",
    ):
        assert run(shlex.split(command)) == 0, capsys.readouterr().err
    for path in (out, tmp_path / "applied.h5ad"):
        np.testing.assert_allclose(ad.read_h5ad(path).layers["gene_mean"], expected, rtol=1e-5)
    refused_error = capsys.readouterr().err
    assert "error" not in refused_error


@pytest.mark.parametrize("name", ["turned"], indirect=True)
def test_a_file_is_transposed_or_taken_as_it_is(source, capsys):
    assert impute(source, "-q", "--method", "gene_mean", "--accept-orientation") == 0
    assert ad.read_h5ad(source.with_name("out.h5ad")).shape == (30, 40)
    assert impute(source, "-q", "--method", "gene_mean", "--transpose", "--force") == 0
    out = ad.read_h5ad(source.with_name("out.h5ad"))
    assert out.shape == (40, 30)
    np.testing.assert_array_equal(out.X, COUNTS[:, :30])


def test_a_table_that_is_turned_stops(tmp_path, capsys):
    path = tmp_path / "in.csv"
    pd.DataFrame(COUNTS[:, :30].T, index=[f"RPL{j}" for j in range(30)]).to_csv(path)
    command = ["impute", str(path), "-o", str(tmp_path / "out.csv"), "-m", "gene_mean", "-q"]
    refused(capsys, run([*command, "--genes-in", "columns"]), "genes-in-rows", "--genes-in", "--accept-orientation")
    assert run([*command, "--genes-in", "rows"]) == 0
    refused(capsys, run([*command, "--genes-in", "rows", "--transpose", "--force"]), "option-unused")


@pytest.mark.parametrize("name", ["log1p"], indirect=True)
def test_warnings_are_printed_before_the_fit(source, capsys):
    assert impute(source, "--method", "gene_mean", "--scale", "log1p") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("warning: ")
    assert lines.index("fitting gene_mean ...") > 0
    assert sum("[scale-taken]" in line for line in lines) == 1


@pytest.mark.parametrize("name", ["expected"], indirect=True)
def test_stochastic_rounding_on_the_command_line(source):
    assert impute(source, "--method", "no_imputation", "--round-counts", "stochastic", "--seed", "3") == 0
    out = ad.read_h5ad(source.with_name("out.h5ad"))
    record = out.uns["imputome"]["no_imputation"]["input"]
    assert (record["rounding"], record["rounding_seed"]) == ("stochastic", 3)
    assert np.isin(out.layers["no_imputation"] - np.floor(EXPECTED), (0, 1)).all()
    assert (
        run(["report", str(source.with_name("out.h5ad")), "-o", str(source.with_name("p.html")), "--map", "pca"]) == 0
    )
