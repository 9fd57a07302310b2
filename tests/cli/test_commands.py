"""The other commands: inspect, methods, datasets, remove, demo, and the program itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import refused
from imputome import datasets
from imputome.cli import main, run
from imputome.errors import missing_extra
from imputome.inspection.missingness import missingness
from imputome.methods import get, info
from imputome.methods.registry import METHODS
from imputome.result.record import find_record, find_verdict
from imputome.trust.verdict import in_words

PROGRAM = str(Path(sys.executable).with_name("imputome"))
COMMANDS = (
    "impute",
    "fit",
    "apply",
    "tune",
    "inspect",
    "mask",
    "methylation",
    "evaluate",
    "study",
    "methods",
    "datasets",
    "demo",
    "report",
    "remove",
)


def make_counts() -> ad.AnnData:
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, size=(60, 4)) @ rng.gamma(0.5, size=(4, 40)) * 3
    X = rng.poisson(rates).astype(np.float32)
    X[X.sum(axis=1) == 0, 0] = 1
    X[0, X.sum(axis=0) == 0] = 1
    return ad.AnnData(
        sp.csr_matrix(X),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(60)]),
        var=pd.DataFrame(index=[f"gene{j}" for j in range(40)]),
        layers={"raw": sp.csr_matrix(X)},
    )


@pytest.fixture
def counts(tmp_path):
    make_counts().write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def one_document(text):
    def no_constant(name):
        pytest.fail(f"{name} is no JSON")

    assert text.count("\n") == 1
    return json.loads(text, parse_constant=no_constant)


# -- the program -------------------------------------------------------------------------------------------------------
def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"imputome {version('imputome')}\n"


def test_help_names_every_command(capsys):
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^ +{command} ", out, re.MULTILINE), command


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(capsys, command):
    assert run([command, "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Usage: imputome ")
    assert printed.err == ""


def test_help_of_impute_names_every_option(capsys):
    assert run(["impute", "--help"]) == 0
    out = capsys.readouterr().out
    for option in (
        *("--output", "--method", "--layer", "--key-added", "--scale", "--genes", "--gene-column", "--genes-in"),
        *("--set", "--seed", "--force", "--quiet", "--json", "--posterior", "--keep-observed", "--replace-observed"),
        *("--outputs", "--covariates"),
    ):
        assert option in out


def test_options_of_one_name_are_the_same_everywhere(capsys):
    """What a user learned at `impute` holds at `fit` and `apply`; only -m is another thing in fit (the model)."""
    short = {"-o": "--output", "-q": "--quiet", "-m": "--method"}
    for command in ("impute", "apply", "fit", "tune"):
        assert run([command, "--help"]) == 0
        found = dict(re.findall(r"^ *(-\w), (--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
        assert "-q" in found
        assert found == {
            **{letter: short[letter] for letter in found},
            **({"-m": "--model"} if command == "fit" else {}),
        }


def test_nothing_and_nonsense_are_usage_errors(capsys):
    assert run([]) == 2
    assert run(["nonsense"]) == 2
    assert run(["--nonsense"]) == 2
    assert run(["inspect"]) == 2
    assert run(["inspect", "a.h5ad", "b.h5ad"]) == 2
    assert run(["remove", "a.h5ad"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_main_exits_with_the_code(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["methods"])
    assert exit_.value.code == 0
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", "no.h5ad"])
    assert exit_.value.code == 1
    assert capsys.readouterr().err.endswith(" [no-file]\n")


def test_help_and_lists_are_quick():
    """Nothing heavy is loaded to answer these."""
    code = (
        "import sys; from imputome.cli import run; "
        "run(['--help']); run(['methods']); run(['--version']); "
        "print([m for m in ('anndata', 'scanpy', 'numba', 'sklearn', 'torch') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"


def test_closed_pipe():
    """``imputome methods | head -1`` is no error to talk about."""
    script = f'"{PROGRAM}" --version; ("{PROGRAM}" methods; echo "code $?" >&2) | true'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "unexpected" not in done.stderr


# -- inspect -----------------------------------------------------------------------------------------------------------
def test_inspect_counts(counts, capsys):
    assert run(["inspect", str(counts)]) == 0
    printed = capsys.readouterr()
    assert "60 cells x 40 genes" in printed.out
    assert "state: counts" in printed.out
    assert printed.err == ""


def test_inspect_layer(counts, capsys):
    assert run(["inspect", str(counts), "--layer", "raw"]) == 0
    assert "in layers['raw']" in capsys.readouterr().out
    refused(capsys, run(["inspect", str(counts), "--layer", "spliced"]), "layer-missing", "'spliced'", "raw")


def test_inspect_says_what_is_missing(tmp_path, capsys):
    values = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 12)), index=[f"g{j}" for j in range(30)])
    values = values.mask(np.random.default_rng(1).random(values.shape) < 0.2).add_prefix("s")
    values.to_csv(tmp_path / "t.csv", index_label="gene")
    assert run(["inspect", str(tmp_path / "t.csv"), "--genes-in", "rows"]) == 0
    expected = missingness(values.T.to_numpy(), obs_names=list(values), var_names=list(values.index)).lines()
    assert capsys.readouterr().out.splitlines()[-len(expected) :] == [str(line) for line in expected]


def test_inspect_json(counts, capsys):
    assert run(["inspect", str(counts), "--json"]) == 0
    report = one_document(capsys.readouterr().out)
    assert report["shape"] == [60, 40]
    assert report["state"] == report["kind"] == "counts"
    assert report["n_nan"] == 0
    assert report["errors"] == []


def test_inspect_gives_the_errors_of_impute(tmp_path, capsys):
    adata = make_counts()
    X = adata.X.toarray()
    adata.X = np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4)
    adata.write_h5ad(tmp_path / "log.h5ad")
    assert run(["inspect", str(tmp_path / "log.h5ad")]) == 1
    printed = capsys.readouterr()
    assert "state: log1p" in printed.out
    assert printed.err.startswith("error: ")
    assert printed.err.endswith("[looks-log1p]\n")
    adata.X = np.full_like(X, np.nan)
    adata.write_h5ad(tmp_path / "nan.h5ad")
    for options in ([], ["--json"]):
        assert run(["inspect", str(tmp_path / "nan.h5ad"), *options]) == 1
        printed = capsys.readouterr()
        assert "NaN" in printed.out + printed.err
        if options:
            assert one_document(printed.out)["errors"]


def test_inspect_table(tmp_path, capsys):
    make_counts().to_df().T.to_csv(tmp_path / "in.csv")
    refused(capsys, run(["inspect", str(tmp_path / "in.csv")]), "no-orientation", "--genes-in")
    assert run(["inspect", str(tmp_path / "in.csv"), "--genes-in", "rows"]) == 0
    assert "60 cells x 40 genes" in capsys.readouterr().out


def test_inspect_changes_nothing(counts, capsys):
    before = counts.read_bytes()
    assert run(["inspect", str(counts)]) == 0
    capsys.readouterr()
    assert counts.read_bytes() == before
    assert [path.name for path in counts.parent.iterdir()] == ["in.h5ad"]


def test_inspect_what_is_not_there(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.h5ad").touch()
    for name, code in (("no.h5ad", "no-file"), ("folder", "unknown-format"), ("empty.h5ad", "unreadable")):
        refused(capsys, run(["inspect", str(tmp_path / name)]), code, name)


# -- methods and datasets ----------------------------------------------------------------------------------------------
def test_methods(capsys):
    assert run(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(METHODS)]] == list(METHODS)
    assert all(info(line.split()[0]).new_rows in line.split() for line in lines[: len(METHODS)])
    assert "(control)" in next(line for line in lines if line.startswith("mean "))
    assert "(control)" not in next(line for line in lines if line.startswith("ialm "))
    assert "imputome[scvi]" in next(line for line in lines if line.startswith("scvi "))


def test_methods_json(capsys):
    assert run(["methods", "--json"]) == 0
    found = {entry["name"]: entry for entry in one_document(capsys.readouterr().out)["methods"]}
    assert set(found) == set(METHODS)
    assert found["ialm"]["kinds"] == ["counts", "real"]
    assert found["mean"]["control"] is True
    assert found["ialm"]["source"] == info("ialm").source


def test_datasets(capsys):
    assert run(["datasets"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == datasets.names()
    assert re.search(r"pbmc68k +700 x 765 +here", out)
    for entry in datasets.DATASETS:
        assert f"    from {entry.source}\n" in out
        assert not entry.files or f"    imputome datasets convert {entry.name} {entry.files}\n" in out
    assert "our results" not in out


def test_datasets_json(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("IMPUTOME_DATA", str(tmp_path))
    make_counts().write_h5ad(tmp_path / "pbmc3k_raw.h5ad")
    assert run(["datasets", "--json"]) == 0
    found = {entry["name"]: entry for entry in one_document(capsys.readouterr().out)["datasets"]}
    assert found["pbmc3k_raw"]["path"] == str(tmp_path / "pbmc3k_raw.h5ad")
    assert Path(found["pbmc68k"]["path"]).is_file()
    assert found["pbmc3k_raw"]["licence"] == "MIT"
    assert len(found["pbmc3k_raw"]["sha256"]) == 64
    assert "values" not in found["pbmc3k_raw"]


def test_datasets_check(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("IMPUTOME_DATA", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "none"))
    make_counts().write_h5ad(tmp_path / "pbmc3k_raw.h5ad")
    assert run(["datasets", "--check"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"pbmc68k .*\n +the same values as those of our results\n", out)
    assert re.search(r"pbmc3k_raw .*\n +other values than .*, 60 x 40 instead of 2700 x 32738\n", out)
    assert run(["datasets", "--check", "--json"]) == 0
    found = {entry["name"]: entry for entry in one_document(capsys.readouterr().out)["datasets"]}
    told = [found[name]["values"] for name in ("pbmc68k", "pbmc3k_raw", "klein_d2_d4")]
    assert told == ["same-values", "other-values", None]


def test_datasets_convert(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("IMPUTOME_DATA", raising=False)
    monkeypatch.setattr(datasets, "replaced", set())
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache"))
    files = []
    for day in ("d2", "d4"):
        files.append(str(tmp_path / f"GSM_{day}_LIFminus.csv"))
        Path(files[-1]).write_text("Gapdh,1,2\nActb,0,3\n", encoding="utf-8")
    assert run(["datasets", "convert", "klein", *files]) == 0
    printed = capsys.readouterr()
    path = tmp_path / "cache" / "klein_d2_d4.h5ad"
    assert printed.out == f"wrote {path} (4 x 2)\n"
    assert "[other-values]" in printed.err
    assert "IMPUTOME_DATA" not in printed.err
    assert datasets.load("klein").X.toarray().tolist() == [[1, 0], [2, 3]] * 2
    refused(capsys, run(["datasets", "convert", "klein", *files]), "output-exists", str(path), "--force")
    assert run(["datasets", "convert", "klein", *files, "--force", "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    found = one_document(printed.out)
    assert found == {
        **{"dataset": "klein_d2_d4", "path": str(path), "shape": [4, 2]},
        **{"values": "other-values", "lacking": []},
    }
    assert printed.err == ""
    assert run(["datasets", "convert", "klein", *files, "-o", str(tmp_path)]) == 0
    assert f"set IMPUTOME_DATA to {tmp_path}" in capsys.readouterr().err
    refused(capsys, run(["datasets", "convert", "klein", files[0], "--force"]), "number-of-files", "d4")


@pytest.mark.parametrize(
    "words", [["--json", "convert", "klein", "a"], ["nonsense"], ["convert"], ["convert", "klein"]]
)
def test_datasets_usage(capsys, words):
    assert run(["datasets", *words]) == 2
    assert capsys.readouterr().out == ""


# -- remove ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_remove_takes_all_of_a_key_and_nothing_else(counts, tmp_path, capsys, suffix):
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    assert run(["impute", str(counts), "-o", str(first), "-m", "gene_mean"]) == 0
    options = ["--set", "normalization=log1p"]  # gives a column of var
    assert run(["impute", str(first), "-o", str(second), "-m", "ialm", *options]) == 0
    read = ad.read_h5ad if suffix == ".h5ad" else ad.read_zarr
    assert "ialm_total_factor" in read(second).var
    capsys.readouterr()
    assert run(["remove", str(second), "ialm"]) == 0
    assert capsys.readouterr().out == f"removed ialm from {second}\n"
    left = read(second)
    assert set(left.layers) == {"raw", "gene_mean"}
    assert set(left.uns["imputome"]) == {"gene_mean"}
    assert not [name for name in left.obsm if "ialm" in name]
    assert not [name for name in left.var if "ialm" in name]
    np.testing.assert_array_equal(left.layers["gene_mean"], read(first).layers["gene_mean"])
    np.testing.assert_array_equal(left.X.toarray(), make_counts().X.toarray())
    assert run(["remove", str(second), "gene_mean"]) == 0
    assert set(read(second).layers) == {"raw"}
    assert "imputome" not in read(second).uns
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.h5ad", first.name, second.name])


def test_remove_refuses_what_is_not_ours(counts, tmp_path, capsys):
    before = counts.read_bytes()
    for arguments, code in (
        ([str(counts), "raw"], "no-such-result"),
        ([str(counts), ""], "no-such-result"),
        ([str(tmp_path / "no.h5ad"), "ialm"], "no-file"),
        ([str(tmp_path / "no.csv"), "ialm"], "unknown-format"),
        ([str(tmp_path), "ialm"], "unknown-format"),
    ):
        refused(capsys, run(["remove", *arguments]), code)
    assert counts.read_bytes() == before


def test_remove_of_an_empty_or_damaged_file(tmp_path, capsys):
    for content in (b"", b"no hdf5"):
        (tmp_path / "in.h5ad").write_bytes(content)
        refused(capsys, run(["remove", str(tmp_path / "in.h5ad"), "ialm"]), "unreadable")
        assert (tmp_path / "in.h5ad").read_bytes() == content


# -- demo --------------------------------------------------------------------------------------------------------------
def test_demo(tmp_path, capsys, monkeypatch):
    whole = datasets.pbmc68k()
    genes = np.flatnonzero(whole.var_names.isin([*whole.var_names[:199], "MS4A1", "NKG7"]))
    monkeypatch.setattr(datasets, "pbmc68k", lambda: whole[:200, genes].copy())

    def without_torch(name):
        if name == "count_autoencoder":
            raise missing_extra("it", "torch", "deep")
        return get(name)

    monkeypatch.setattr("imputome.api.plan.get", without_torch)  # the default is then chosen by itself
    # umap compiles itself for half a minute; the tests of `imputome report` have it
    monkeypatch.setattr("imputome.report.before_after.coordinates", lambda values, **_: values[:, :2])
    folder = tmp_path / "new" / "results"
    assert run(["demo", "-o", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "[default-without-extra]" in err
    names = ["pbmc68k_demo.png", "pbmc68k_imputed.h5ad", "pbmc68k_report.html"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert "count_factors" in (folder / "pbmc68k_report.html").read_text(encoding="utf-8")
    picture = (folder / "pbmc68k_demo.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 10_000
    read = ad.read_h5ad(folder / "pbmc68k_imputed.h5ad")
    assert read.shape == (200, len(genes))
    assert "imputed" in read.layers
    assert read.uns["imputome"]["imputed"]["method"] == "count_factors"
    assert (read.X.data == np.rint(read.X.data)).all()
    rows = [line for line in out.splitlines() if re.match(r"\S.* +\d+\.\d+ +\d", line)]
    assert {row.split()[0].rstrip(",") for row in rows} >= {"count_factors", "ialm", "gene_mean_posterior"}
    assert out.count("<- best") == 1
    assert out.index(in_words(find_verdict(*find_record(read)))) < out.index("<- best")  # the verdict before the table
    assert "imputome impute " in out.splitlines()[-1]


def test_demo_into_a_file_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    import imputome.report.plots.demo

    monkeypatch.setattr(imputome.report.plots.demo, "run_demo", lambda *_, **__: pytest.fail("the work was begun"))
    (tmp_path / "taken").write_text("mine")
    refused(capsys, run(["demo", "-o", str(tmp_path / "taken")]), "not-a-folder", "taken")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "place", "code"),
    [
        (["impute", "in.h5ad", "-o", "b.h5ad"], "imputome.api.impute.fit_run", "interrupted"),
        (["fit", "in.h5ad", "-m", "model"], "imputome.api.models.run_fit", "interrupted"),
        (
            ["fit", "in.h5ad", "-m", "model", "--method", "zipo", "--checkpoint", "steps"],
            "imputome.api.models.run_fit",
            "interrupted-partly-done",
        ),
        (
            ["tune", "in.h5ad", "--method", "ialm", "--storage", "s.db", "--trials", "1"],
            "imputome.studies.tuning.tune",
            "interrupted-partly-done",
        ),
        (["study", "run", "zipo_claims", "--output=there"], "imputome.studies.execute.plan", "interrupted-partly-done"),
        (
            ["evaluate", "in.h5ad", "--methods", "ialm", "-o", "s.csv"],
            "imputome.studies.runner.run_study",
            "interrupted-partly-done",
        ),
    ],
)
def test_an_interruption_says_what_is_kept(counts, capsys, monkeypatch, arguments, place, code):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    if "zipo" in arguments:
        pytest.importorskip("torch")
    if "tune" in arguments:
        pytest.importorskip("optuna")
    monkeypatch.chdir(counts.parent)
    monkeypatch.setitem(imputome.methods.DEFAULT, "counts", "gene_mean")
    monkeypatch.setattr(place, interrupt)
    assert run(arguments) == 130
    assert capsys.readouterr().err.endswith(f" [{code}]\n")
    assert [path.name for path in counts.parent.iterdir()] == ["in.h5ad"]


@pytest.mark.parametrize(("told", "taken"), [("1", "1"), ("3,2", "3"), ("", "None")])
def test_numba_takes_the_threads_that_openmp_was_told(told, taken):
    code = (
        "import os\n"
        "from imputome.cli import run\n"
        "run(['--version'])\n"
        "print(os.environ.get('NUMBA_NUM_THREADS'))\n"
        "if 'NUMBA_NUM_THREADS' in os.environ:\n"
        "    from numba import config\n"
        "    assert str(config.NUMBA_NUM_THREADS) == os.environ['NUMBA_NUM_THREADS']\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
    environment["OMP_NUM_THREADS"] = told
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split()[-1] == taken, done.stderr


# -- parameters of one method ------------------------------------------------------------------------------------------
def test_methods_of_a_name_lists_its_parameters(capsys):
    from imputome.methods import get

    assert run(["methods", "svd", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["name"] == "svd"
    defaults = get("svd").parameter_defaults()
    assert {name: entry["default"] for name, entry in printed["parameters"].items()} == defaults
    assert printed["parameters"]["rank"]["type"] == "int | Literal['validated', 'full'] | None"
    assert {name: entry["search"] for name, entry in printed["parameters"].items() if "search" in entry} == {
        name: list(space) for name, space in get("svd").search_space.items()
    }
    assert run(["methods", "svd"]) == 0
    assert (
        "  rank : int | Literal['validated', 'full'] | None = 'validated'; tuning: 2 to 128 (log)"
        in capsys.readouterr().out
    )
    assert run(["methods", "mean"]) == 0
    assert "no parameters" in capsys.readouterr().out
    refused(capsys, run(["methods", "wand"]), "unknown-method", "'wand'")


def test_values_that_make_no_sense_end_in_one_line(counts, tmp_path, capsys):
    line = ["evaluate", str(counts), "--methods", "gene_mean", "-o"]
    for shares in ("x", "", "0.1,,0.2"):
        assert run([*line, str(tmp_path / "s.csv"), "--fraction", shares]) == 2
        assert "--fraction" in capsys.readouterr().err
    (tmp_path / "folder.csv").mkdir()
    refused(capsys, run([*line, str(tmp_path / "folder.csv")]), "output-is-folder")
    line = ["impute", str(counts), "-o", str(tmp_path / "o.h5ad"), "-m", "auto", "--budget", "nan"]
    assert run(line) == 2
    assert "--budget" in capsys.readouterr().err
