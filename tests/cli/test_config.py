"""The same run again: options from a file, records as such files, equal bytes, threads, compression, `--strict`."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from threadpoolctl import threadpool_info

import imputome
from codes import has_code, refused
from imputome import methods
from imputome.api import impute as api_impute
from imputome.cli import run
from imputome.cli.console import json_text
from imputome.core.threads import limited_threads
from imputome.errors import InputError
from imputome.io.config import Config, check_config_path, read_config, read_options, write_config
from imputome.result.record import Verdict


def make_counts(n=60, genes=40):
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, size=(n, 4)) @ rng.gamma(0.5, size=(4, genes)) * 3
    X = rng.poisson(rates).astype(np.float32)
    X[:, 0] += 1
    X[0] += 1
    obs = pd.DataFrame({"batch": pd.Categorical(["a", "b"] * (n // 2))}, index=[f"cell{i}" for i in range(n)])
    adata = ad.AnnData(sp.csr_matrix(X), obs=obs, var=pd.DataFrame(index=[f"gene{j}" for j in range(genes)]))
    adata.layers["raw"] = adata.X.copy()
    return adata


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with counts.h5ad and real.csv (features in rows), which is the working directory."""
    monkeypatch.chdir(tmp_path)
    make_counts().write_h5ad("counts.h5ad")
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 50)) + 5 + rng.normal(scale=0.3, size=(40, 50))
    X[rng.random(X.shape) < 0.1] = np.nan
    names = {"index": [f"f{j}" for j in range(40)], "columns": [f"s{i}" for i in range(50)]}
    pd.DataFrame(X.round(4), **names).to_csv("real.csv")
    return tmp_path


def impute(*options):
    return run(["impute", *map(str, options), "--quiet"])


def digest(path):
    path = Path(path)
    parts = sorted(path.rglob("*")) if path.is_dir() else [path]
    content = [str(part.relative_to(path)).encode() + part.read_bytes() for part in parts if part.is_file()]
    return hashlib.sha256(b"\0".join(content)).hexdigest()


def record_of(path, key=None):
    return next(iter(ad.read_h5ad(path).uns["imputome"].values())) if key is None else ad.read_h5ad(path).uns[key]


# -- name+posterior ----------------------------------------------------------------------------------------------------
def test_the_posterior_step_by_name_is_that_of_the_option(folder):
    adata = make_counts()
    imputome.impute(adata, method="poisson_nmf+posterior", key_added="one")
    imputome.impute(adata, method="poisson_nmf", posterior=True, key_added="two")
    np.testing.assert_array_equal(adata.layers["one"], adata.layers["two"])
    assert impute("counts.h5ad", "-o", "out.h5ad", "-m", "poisson_nmf+posterior") == 0
    np.testing.assert_array_equal(ad.read_h5ad("out.h5ad").layers["poisson_nmf_posterior"], adata.layers["two"])
    model = imputome.fit_model(adata, method="gene_mean+posterior")
    assert (model.name, model.posterior) == ("gene_mean", True)


def test_the_posterior_step_by_name_and_not(folder, capsys):
    with pytest.raises(InputError, check=has_code("given-twice")):
        imputome.impute(make_counts(), method="poisson_nmf+posterior", posterior=False)
    status = impute("counts.h5ad", "-o", "o.h5ad", "-m", "poisson_nmf+posterior", "--no-posterior")
    refused(capsys, status, "given-twice", "--no-posterior")
    refused(capsys, impute("real.csv", "-o", "o.csv", "--genes-in", "rows", "-m", "knn+posterior"), "no-posterior")
    refused(capsys, impute("counts.h5ad", "-o", "o.h5ad", "-m", "auto+posterior"), "not-with-auto")
    refused(capsys, impute("counts.h5ad", "-o", "o.h5ad", "-m", "wand+posterior"), "unknown-method", "'wand'")


# -- a record is a file of options -------------------------------------------------------------------------------------
RUNS = {
    "counts": [
        "counts.h5ad",
        "-o",
        "OUT.h5ad",
        "-m",
        "poisson_nmf+posterior",
        "--set",
        "n_components=3",
        "--seed",
        "5",
    ],
    "layer and key": [
        *("counts.h5ad", "-o", "OUT.h5ad", "-m", "gene_mean", "--layer", "raw", "--key-added", "mine"),
        *("--scale", "log1p", "--keep-observed", "--genes", "gene3,gene1", "--threads", "1"),
    ],
    "several outputs": [
        *("counts.h5ad", "-o", "OUT.h5ad", "-m", "gene_mean_posterior", "--outputs", "variance,upper"),
        *("--compression", "lzf"),
    ],
    "draws": [
        "real.csv",
        "-o",
        "OUT.h5ad",
        "--genes-in",
        "rows",
        "-m",
        "gaussian_copula",
        "--draws",
        "2",
        "--seed",
        "2",
    ],
    "a table": [
        *("real.csv", "-o", "OUT.csv", "--genes-in", "rows", "-m", "gaussian_copula", "--transform", "asinh"),
        *("--set", "mode=fast", "--set", "center=median"),
    ],
    "checked": [
        *("counts.h5ad", "-o", "OUT.h5ad", "-m", "gene_mean", "--check", "--label", "batch", "--seed", "3"),
        *("--set", "posterior=true"),
    ],
    "chosen": ["counts.h5ad", "-o", "OUT.h5ad", "-m", "auto", "--accept-control", "--no-check", "--budget", "1"],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_record_gives_the_run_again(folder, capsys, name):
    source, _, output, *options = RUNS[name]
    suffix = Path(output).suffix
    first, second, third = (f"{number}{suffix}" for number in ("one", "two", "three"))
    # with --reproducible, the files can be compared with their records in them
    line = ["impute", source, "-o", first, *options, "--reproducible", "--record", "record.json", "--json"]
    assert run(line) == 0
    Path("printed.json").write_text(capsys.readouterr().out)
    assert impute(source, "-o", second, "--config", "record.json") == 0
    assert impute(source, "-o", third, "--config", "printed.json") == 0
    if name != "chosen":  # the race is in the first record only
        assert digest(first) == digest(second) == digest(third)
    else:
        ((key, values),) = {key: value for key, value in ad.read_h5ad(first).layers.items() if key != "raw"}.items()
        np.testing.assert_array_equal(values, ad.read_h5ad(second).layers[key])
    assert capsys.readouterr() == ("", "")


def test_the_seed_of_a_record_can_be_changed(folder):
    options = ["counts.h5ad", "-m", "poisson_nmf", "--seed", "5"]
    assert impute(*options, "-o", "one.h5ad", "--record", "record.json") == 0
    assert impute("counts.h5ad", "-o", "two.h5ad", "--config", "record.json", "--seed", "6") == 0
    assert impute("counts.h5ad", "-o", "six.h5ad", "-m", "poisson_nmf", "--seed", "6") == 0
    two, six = (ad.read_h5ad(path).layers["poisson_nmf"] for path in ("two.h5ad", "six.h5ad"))
    np.testing.assert_array_equal(two, six)
    assert (two != ad.read_h5ad("one.h5ad").layers["poisson_nmf"]).any()


def test_a_record_of_python_gives_the_run_again(folder):
    adata = make_counts()
    imputome.impute(adata, method="gene_mean", posterior=True, layer="raw", key_added="k", scale="normalized")
    _, record = imputome.result.record.find_record(adata)
    Path("record.json").write_text(json_text({"key": "k", **record.brief()}))
    assert impute("counts.h5ad", "-o", "out.h5ad", "--config", "record.json") == 0
    np.testing.assert_array_equal(ad.read_h5ad("out.h5ad").layers["k"], adata.layers["k"])


def test_toml_holds_every_option(folder):
    Path("run.toml").write_text(
        'method = "poisson_nmf"\nseed = 4\nlayer = "raw"\nkey-added = "mine"\nkeep_observed = true\n'
        'genes = ["gene3", "gene1"]\nposterior = false\nreproducible = true\n[params]\nn_components = 3\n'
    )
    assert impute("counts.h5ad", "-o", "out.h5ad", "--config", "run.toml") == 0
    line = ["-m", "poisson_nmf", "--seed", 4, "--layer", "raw", "--key-added", "mine", "--keep-observed"]
    line += ["--genes", "gene3,gene1", "--no-posterior", "--reproducible", "--set", "n_components=3"]
    assert impute("counts.h5ad", "-o", "same.h5ad", *line) == 0
    assert digest("out.h5ad") == digest("same.h5ad")
    # the command line is stronger, and the output may be in the file
    Path("run.toml").write_text('output = "there.h5ad"\nmethod = "gene_mean"\nlayer = "none here"\n')
    assert impute("counts.h5ad", "--config", "run.toml", "--layer", "raw", "-m", "gene_mean_posterior") == 0
    assert "gene_mean_posterior" in ad.read_h5ad("there.h5ad").layers


def test_what_tune_writes_is_taken(folder):
    Path("best.toml").write_text('method = "ialm"\n\n[params]\nmax_rank = 3\nnormalization = "none"\n')
    assert impute("counts.h5ad", "-o", "out.h5ad", "--config", "best.toml", "--set", "max_rank=2") == 0
    params = json.loads(record_of("out.h5ad")["params"])
    assert (params["max_rank"], params["normalization"]) == (2, None)


@pytest.mark.parametrize(
    ("name", "text", "code", "value"),
    [
        ("a.toml", "colour = 3", "config-field", "'colour'"),
        ("a.toml", 'config = "b.toml"', "config-field", "'config'"),
        ("a.toml", "params = 3", "config-field", "params"),
        ("a.toml", '{"method": "knn"}', "config-unreadable", "a.toml"),
        ("a.json", "method = 1", "config-unreadable", "a.json"),
        ("a.json", "[1, 2]", "config-field", "a.json"),
        ("a.json", '{"schema": 2, "method": "knn", "model": "folder"}', "config-field", "a.json"),
        ("a.toml", None, "config-missing", "a.toml"),
        ("a.json", None, "config-missing", "a.json"),
        ("a.toml", 'method = "gene_mean"\n[params]\nrank = 1', "unknown-parameter", "'rank'"),
    ],
)
def test_files_that_are_refused(folder, capsys, name, text, code, value):
    if text is not None:
        Path(name).write_text(text)
    refused(capsys, impute("counts.h5ad", "-o", "o.h5ad", "--config", name), code, value)
    assert not Path("o.h5ad").exists()


def test_values_of_files_are_checked_as_on_the_command_line(folder, capsys):
    for text in ("seed = -1", 'draws = "many"', "budget = 0", "keep_observed = 7"):
        Path("a.toml").write_text(text)
        assert impute("counts.h5ad", "-o", "o.h5ad", "--config", "a.toml") == 2, text
        assert "Traceback" not in capsys.readouterr().err
    Path("a.toml").write_text('method = "ialm"\n[params]\nmax_rank = 3\n')
    status = impute("counts.h5ad", "-o", "o.h5ad", "--config", "a.toml", "-m", "gene_mean")
    refused(capsys, status, "given-twice", "--method gene_mean")


def test_fit_takes_method_and_parameters_of_a_record(folder):
    assert (
        impute("counts.h5ad", "-o", "o.h5ad", "-m", "poisson_nmf", "--set", "n_components=3", "--record", "r.json") == 0
    )
    assert run(["fit", "counts.h5ad", "-m", "model", "--config", "r.json", "--quiet"]) == 0
    assert methods.load("model").n_components == 3


def test_the_file_of_the_record_is_checked_before_the_work(folder, capsys):
    Path("r.json").write_text("{}")
    line = ["counts.h5ad", "-o", "o.h5ad", "-m", "gene_mean", "--record"]
    refused(capsys, impute(*line, "r.json"), "output-exists", "--force")
    refused(capsys, impute(*line, "r.txt"), "output-suffix", ".json")
    refused(capsys, impute(*line, "no/r.json"), "no-folder")
    Path("d.json").mkdir()
    refused(capsys, impute(*line, "d.json"), "output-is-folder")
    assert impute(*line, "r.json", "--force") == 0
    assert json.loads(Path("r.json").read_text())["method"] == "gene_mean"


# -- the record --------------------------------------------------------------------------------------------------------
def test_json_has_no_json_in_it(folder, capsys):
    options = ["-m", "auto", "--accept-control", "--budget", "0.1", "--json"]
    assert run(["impute", "counts.h5ad", "-o", "o.h5ad", *options, "--set", "x=1"]) == 1  # with auto
    capsys.readouterr()
    assert run(["impute", "counts.h5ad", "-o", "o.h5ad", *options]) == 0
    printed = json.loads(capsys.readouterr().out)

    def texts(value):
        if isinstance(value, dict):
            return [text for part in value.values() for text in texts(part)]
        if isinstance(value, list):
            return [text for part in value for text in texts(part)]
        return [value] if isinstance(value, str) else []

    assert isinstance(printed["params"], dict)
    assert all(isinstance(row["parameters"], dict) for row in printed["race"]["candidates"])
    assert [text for text in texts(printed) if text.startswith(("{", "["))] == []


def test_versions_are_those_of_the_libraries_that_were_used(folder):
    torch = pytest.importorskip("torch")
    adata = make_counts()
    imputome.impute(adata, method="gene_mean")
    imputome.impute(adata, method="count_autoencoder", params={"max_epochs": 2})
    records = adata.uns["imputome"]
    assert records["count_autoencoder"]["versions"]["torch"] == torch.__version__
    assert "torch" not in records["gene_mean"]["versions"]


# -- equal bytes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", ".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("source", ["counts.h5ad", "real.csv"])
def test_equal_runs_give_equal_bytes(folder, source, suffix):
    options = ["-m", "poisson_nmf+posterior"] if source == "counts.h5ad" else ["--genes-in", "rows"]
    for name in ("one", "two"):
        assert impute(source, "-o", f"{name}{suffix}", *options, "--reproducible") == 0
    assert digest(f"one{suffix}") == digest(f"two{suffix}")


def test_equal_bytes_with_a_network_a_check_and_a_model(folder):
    pytest.importorskip("torch")
    line = ["-m", "count_autoencoder", "--set", "max_epochs=3", "--check", "--reproducible", "--threads", "1"]
    for name in ("one.h5ad", "two.h5ad"):
        assert impute("counts.h5ad", "-o", name, *line) == 0
    assert digest("one.h5ad") == digest("two.h5ad")
    assert run(["fit", "counts.h5ad", "-m", "model", "--method", "gene_mean", "--quiet"]) == 0
    for name in ("a.h5ad", "b.h5ad"):
        assert run(["apply", "model", "counts.h5ad", "-o", name, "--reproducible", "--quiet"]) == 0
    assert digest("a.h5ad") == digest("b.h5ad")
    for name in ("one.h5ad", "a.h5ad"):
        text = json_text(record_of(name))
        assert [word for word in ("seconds", "memory", "command") if word in text] == []
    one, two = make_counts(), make_counts()
    for adata in (one, two):
        imputome.impute(adata, method="gene_mean", reproducible=True)
    assert json_text(dict(one.uns["imputome"])) == json_text(dict(two.uns["imputome"]))


def test_times_are_recorded_unless_asked_otherwise(folder):
    assert impute("counts.h5ad", "-o", "o.h5ad", "-m", "gene_mean") == 0
    assert {"seconds", "peak_memory_bytes", "command"} <= set(record_of("o.h5ad"))


# -- threads -----------------------------------------------------------------------------------------------------------
def test_threads_are_limited_while_the_method_runs_and_recorded(folder, monkeypatch):
    torch = pytest.importorskip("torch")
    import numba

    def now():
        return {numba.get_num_threads(), torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}

    before, seen = now(), []
    fit_run = api_impute.fit_run
    monkeypatch.setattr(
        api_impute, "fit_run", lambda *given, **named: (seen.append(now()), fit_run(*given, **named))[1]
    )
    with limited_threads(2):
        assert impute("counts.h5ad", "-o", "o.h5ad", "-m", "poisson_nmf", "--threads", 1) == 0
    assert seen == [{1}]
    assert now() == before
    assert record_of("o.h5ad")["threads"] == 1
    with pytest.raises(InputError, check=has_code("parameter-value")):
        imputome.impute(make_counts(), method="gene_mean", threads=0)
    assert impute("counts.h5ad", "-o", "o.h5ad", "-m", "gene_mean", "--threads", "0") == 2


# -- compression -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", ["counts.h5ad", "real.csv"])
@pytest.mark.parametrize(("name", "expected"), [("gzip", "gzip"), ("lzf", "lzf"), ("none", None), (None, "gzip")])
def test_compression_of_h5ad(folder, source, name, expected):
    line = [source, "-o", "o.h5ad", "-m", "gene_mean" if source == "counts.h5ad" else "mean", "--key-added", "k"]
    line += ["--genes-in", "rows"] if source == "real.csv" else []
    assert impute(*line, *(["--compression", name] if name else [])) == 0
    with h5py.File("o.h5ad") as file:
        assert file["layers/k"].compression == expected
        if source == "real.csv" and name:  # what is not copied has the same
            assert file["X"].compression == expected
    assert ad.read_h5ad("o.h5ad").layers["k"].shape == ad.read_h5ad("o.h5ad").shape


def test_compression_that_is_refused(folder, capsys, monkeypatch):
    line = ["counts.h5ad", "-m", "gene_mean", "--compression"]
    refused(capsys, impute(*line, "zip", "-o", "o.h5ad"), "unknown-compression", "gzip, lzf, zstd, none")
    refused(capsys, impute(*line, "gzip", "-o", "o.zarr"), "option-unused", "--compression")
    refused(capsys, impute(*line, "gzip", "-o", "o.csv"), "option-unused", "--compression")
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    refused(capsys, impute(*line, "zstd", "-o", "o.h5ad"), "missing-extra", "hdf5plugin", "--compression gzip")


def test_zstd(folder):
    pytest.importorskip("hdf5plugin")
    assert impute("counts.h5ad", "-o", "o.h5ad", "-m", "gene_mean", "--compression", "zstd") == 0
    assert ad.read_h5ad("o.h5ad").layers["gene_mean"].shape == (60, 40)


# -- a verdict that ends a script --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("verdict", "code"), [("do not impute", 3), ("use", 0), ("use for visualisation only", 0)])
def test_strict_exits_with_3_if_the_verdict_is_not_to_impute(folder, capsys, monkeypatch, verdict, code):
    from imputome.trust import check

    monkeypatch.setattr(check, "verdict_of", lambda *_, **__: Verdict(verdict, method="gene_mean"))
    line = ["impute", "counts.h5ad", "-o", "o.h5ad", "-m", "gene_mean", "--check"]
    assert run(line) == 0
    Path("o.h5ad").unlink()
    capsys.readouterr()
    assert run([*line, "--strict"]) == code
    assert "gene_mean" in ad.read_h5ad("o.h5ad").layers  # written all the same
    assert ("[verdict-do-not-impute]" in capsys.readouterr().err) == (code == 3)


def test_strict_without_a_check_is_not_ignored(folder, capsys):
    line = ["counts.h5ad", "-o", "o.h5ad", "-m", "gene_mean", "--strict"]
    refused(capsys, impute(*line), "option-unused", "--check")


def test_the_help_says_what_strict_does(capsys):
    assert run(["impute", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "exit code 3 if the verdict is not to impute; OUT is written too" in text


def test_gzip_of_tables_has_no_time(folder):
    assert impute("real.csv", "-o", "o.csv.gz", "--genes-in", "rows", "-m", "mean") == 0
    assert Path("o.csv.gz").read_bytes()[4:8] == b"\0\0\0\0"
    assert gzip.decompress(Path("o.csv.gz").read_bytes()).startswith(b",s0")


# -- files that are not what they seem ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a.toml", "a.json"])
def test_special_files_are_refused(folder, capsys, name):
    Path(name).symlink_to("/dev/zero")
    line = ["counts.h5ad", "-o", "o.h5ad", "-m", "gene_mean", "--config"]
    refused(capsys, impute(*line, name), "config-unreadable", name)
    refused(capsys, impute(*line, "/dev/zero"), "config-unreadable", "/dev/zero")
    Path(name).unlink()
    os.mkfifo(name)  # nobody writes to it: opening it would wait for ever
    refused(capsys, impute(*line, name), "config-unreadable", name)
    Path(name).unlink()
    Path(name).mkdir()
    refused(capsys, impute(*line, name), "config-unreadable", name)
    assert run(["study", "run", name, "-o", "folder"]) == 1


DEEP = 50_000
RECORD = {"schema": 2, "method": "knn", "params": {}, "transform": "identity", "input": {"kind": "real"}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", b"\xff\xfe\x00"),
        ("a.toml", b"a = " + b"[" * DEEP),
        ("a.toml", b"a = " + b"[" * 40 + b"]" * 40),
        ("a.toml", b"a" + b".a" * 40 + b" = 1"),
        ("a.toml", b"a = " + b"9" * 5000),
        ("a.toml", b"# long\n" * 2**18),
        ("a.json", b"\xff\xfe\x00"),
        ("a.json", b"[" * DEEP),
        ("a.json", b'{"params": {"a": ' + b"[" * 40 + b"]" * 40 + b"}}"),
        ("a.json", b"9" * 5000),
        ("a.json", b" " * (2**24 + 1)),
        *(
            ("a.json", json.dumps({**RECORD, name: value}).encode())
            for name, value in (
                *(("params", "text"), ("params", 3), ("input", "text"), ("options", "text"), ("verdict", "text")),
                ("transform", ["a"]),
            )
        ),
        ("a.json", json.dumps({name: value for name, value in RECORD.items() if name != "transform"}).encode()),
    ],
    ids=range(18),
)
def test_crafted_files_are_named(folder, name, content):
    Path(name).write_bytes(content)
    with pytest.raises(InputError, check=has_code("config-unreadable"), match=name):
        read_options(name)


def test_a_record_without_its_method(folder):
    Path("a.json").write_text('{"random_state": 1, "params": {}}')
    with pytest.raises(InputError, check=has_code("config-field"), match=r"a\.json"):
        read_config("a.json")


@pytest.mark.parametrize("notes", ["a\nmethod = 'other'", "a\x1b[31m", "a" * 5000, "\udcff"])
def test_notes_cannot_end_their_line(folder, notes):
    config = Config("knn", {"weights": "\x7f \U0001f600 \x1b", "metric": None})
    write_config(Path("a.toml"), config, notes=notes)
    assert read_config("a.toml") == config
    write_config(Path("a.toml"), config)  # it knows its own file again
    for make in (os.mkfifo, os.mkdir):
        make("b")
        with pytest.raises(InputError, check=has_code("output-exists")):
            check_config_path(Path("b"))
        (Path.rmdir if make is os.mkdir else Path.unlink)(Path("b"))


def test_a_name_of_many_parts_costs_no_memory(folder):
    """The parser of Python takes 8 bytes times half the square of their number: 68 GB for a file of 256 KiB."""
    Path("a.toml").write_text("a" + ".a" * 4000 + " = 1")
    tracemalloc.start()
    with pytest.raises(InputError, check=has_code("config-unreadable")):
        read_options("a.toml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23
