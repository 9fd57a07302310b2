"""`imputome fit`: what is saved, what is refused, and that nothing is half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import refused
from imputome import methods
from imputome.cli import run

PROGRAM = str(Path(sys.executable).with_name("imputome"))


def make_counts(n=60, G=40, seed=0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.5, size=(n, 4)) @ rng.gamma(0.5, size=(4, G)) * 3
    X = rng.poisson(rates).astype(np.float32)
    X[X.sum(axis=1) == 0, 0] = 1
    X[0, X.sum(axis=0) == 0] = 1
    return ad.AnnData(
        sp.csr_matrix(X),
        obs=pd.DataFrame({"batch": ["a", "b"] * (n // 2)}, index=[f"cell{i}" for i in range(n)]),
        var=pd.DataFrame({"symbol": [f"S{j}" for j in range(G)]}, index=[f"gene{j}" for j in range(G)]),
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with in.h5ad."""
    make_counts().write_h5ad(tmp_path / "in.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*options, source="in.h5ad", model="model"):
    return run(["fit", source, "-m", model, *map(str, options)])


# -- what is saved -----------------------------------------------------------------------------------------------------
def test_the_model_is_the_estimator_fitted_by_hand(folder, capsys):
    assert fit("--method", "poisson_nmf", "--set", "n_components=3", "--seed", 5) == 0
    X = ad.read_h5ad("in.h5ad").X
    expected = methods.get("poisson_nmf")(n_components=3, random_state=5).fit(X).transform(X).to_array()
    loaded = methods.load(folder / "model")
    names = {"obs_names": [f"cell{i}" for i in range(60)], "var_names": [f"gene{j}" for j in range(40)]}
    from imputome.core.data import as_data

    np.testing.assert_array_equal(loaded.transform(as_data(X, kind="counts", **names)).to_array(), expected)
    out = capsys.readouterr().out
    assert "poisson_nmf: " in out
    assert "imputome apply model IN -o OUT" in out
    assert sorted(path.name for path in folder.iterdir()) == ["in.h5ad", "model"]


def test_the_model_remembers_what_it_was_fitted_on(folder):
    assert fit("--method", "gene_mean", "--posterior") == 0
    loaded = methods.load("model")
    assert loaded.posterior is True
    assert loaded.provenance["input"] == {"where": "X", "state": "counts", "kind": "counts"}
    assert loaded.provenance["shape"] == [60, 40]
    assert loaded.covariate_names_ == []
    np.testing.assert_array_equal(loaded.training_totals_, np.asarray(ad.read_h5ad("in.h5ad").X.sum(axis=0)).ravel())


def test_json_is_one_document_and_quiet_is_quiet(folder, capsys):
    assert fit("--method", "ialm", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["model"] == "model"
    assert summary["method"] == "ialm"
    assert summary["shape"] == [60, 40]
    assert fit("--method", "ialm", "--quiet", "--force") == 0
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_logged_input_needs_consent(folder, capsys):
    adata = ad.read_h5ad("in.h5ad")
    X = adata.X.toarray()
    adata.X = sp.csr_matrix(np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4))
    adata.write_h5ad("log.h5ad")
    refused(capsys, fit("--method", "gene_mean", source="log.h5ad"), "looks-log1p")
    assert fit("--method", "gene_mean", "--scale", "log1p", source="log.h5ad") == 0
    assert methods.load("model").provenance["input"]["state"] == "log1p"


# -- the method, by name, by file, by default --------------------------------------------------------------------------
def test_config_gives_method_and_parameters_and_the_line_overrules(folder):
    Path("best.toml").write_text('method = "ialm"\n\n[params]\nmax_rank = 3\ntol = 0.001\nnormalization = "none"\n')
    assert fit("--config", "best.toml", "--set", "max_rank=2") == 0
    params = methods.load("model").get_params()
    assert (params["max_rank"], params["tol"], params["normalization"]) == (2, 0.001, None)


@pytest.mark.parametrize(
    ("text", "code", "value"),
    [
        ('method = "ialm"\nmax_rank = 3\n', "config-field", "max_rank"),
        ('method = "ialm"\n[params]\nrank = 3\n', "unknown-parameter", "'rank'"),
        ('method = "ialm"\n[params]\nmax_rank = "big"\n', "parameter-value", "'big'"),
        ('method = "magic_wand"\n', "unknown-method", "magic_wand"),
        ("[params]\nmax_rank = 3\n", "config-field", "method"),
        ("method: ialm\n", "config-unreadable", "best.toml"),
        ('{"method": "ialm"}', "config-unreadable", "best.toml"),
        (None, "config-missing", "best.toml"),
    ],
)
def test_wrong_config(folder, capsys, text, code, value):
    if text is not None:
        Path("best.toml").write_text(text)
    refused(capsys, fit("--config", "best.toml"), code, value)
    assert not Path("model").exists()


def test_config_of_another_method(folder, capsys):
    Path("best.toml").write_text('method = "ialm"\n')
    refused(capsys, fit("--config", "best.toml", "--method", "gene_mean"), "given-twice", "gene_mean")


def test_the_default_is_taken_where_no_method_is_named(folder, monkeypatch, capsys):
    monkeypatch.setitem(methods.DEFAULT, "counts", "poisson_nmf")
    assert fit() == 0
    assert "poisson_nmf" in capsys.readouterr().out
    assert methods.load("model").name == "poisson_nmf"


def test_the_default_for_real_values(folder, capsys):
    X = np.random.default_rng(1).normal(size=(30, 10))
    X[0, 0] = np.nan
    ad.AnnData(X).write_h5ad("real.h5ad")
    assert fit(source="real.h5ad") == 0
    assert methods.load("model").name == "gaussian_copula"


@pytest.mark.parametrize("method", ["bpca", "iterative_ridge", "lls"])
def test_a_fit_that_ended_early_says_how_it_goes_on(method, folder, capsys):
    X = np.random.default_rng(1).normal(size=(30, 10))
    X[np.random.default_rng(2).random(X.shape) < 0.2] = np.nan
    ad.AnnData(X).write_h5ad("real.h5ad")
    further = ["--set", "k=5"] if method == "lls" else []
    assert fit("--method", method, "--set", "max_iter=1", *further, source="real.h5ad") == 0
    printed = capsys.readouterr().err
    assert "[fit-max_iter]" in printed
    assert "--set max_iter=5" in printed


def test_complete_rows_are_learned_from(folder, capsys):
    """Rows without a hole, positive or not, teach what fills the holes of others, on the transform that was asked."""
    rng = np.random.default_rng(2)
    for X in (rng.normal(size=(30, 10)), rng.gamma(2, size=(30, 10))):
        ad.AnnData(X).write_h5ad("whole.h5ad")
        assert fit("--method", "mean", "--transform", "asinh", "--force", source="whole.h5ad") == 0
        model = methods.load("model")
        assert model.link == "asinh"
        np.testing.assert_allclose(model.center_, np.arcsinh(X).mean(axis=0), rtol=1e-6)
    capsys.readouterr()
    refused(capsys, fit("--method", "mean", "--transform", "sqrt", "--force", source="whole.h5ad"), "unknown-transform")


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_existing_model_needs_force(folder, capsys):
    assert fit("--method", "gene_mean") == 0
    capsys.readouterr()
    refused(capsys, fit("--method", "ialm"), "output-exists")
    assert methods.load("model").name == "gene_mean"
    assert fit("--method", "ialm", "--force") == 0
    assert methods.load("model").name == "ialm"


def test_what_is_no_model_is_never_replaced(folder, capsys, monkeypatch):
    import imputome.api.models

    monkeypatch.setattr(imputome.api.models, "run_fit", lambda *_, **__: pytest.fail("the work was begun"))
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    Path("file").write_text("mine")
    for name in ("mine", "file"):
        refused(capsys, fit("--method", "gene_mean", "--force", model=name), "not-replaceable", name)
    assert Path("mine/thesis.txt").read_text() == "years"
    refused(capsys, fit("--method", "gene_mean", model="in.h5ad"), "model-path")
    refused(capsys, fit("--method", "gene_mean", model="out.csv.gz"), "model-path")
    refused(capsys, fit("--method", "gene_mean", model="file/model"), "folder-not-writable")


def test_other_files_beside_a_model_are_named_before_the_fit(folder, capsys, monkeypatch):
    import imputome.api.models

    assert fit("--method", "gene_mean") == 0
    Path("model/notes.txt").write_text("mine")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(imputome.api.models, "run_fit", lambda *_, **__: pytest.fail("the work was begun"))
        refused(capsys, fit("--method", "median", "--force"), "foreign-files", "notes.txt")
    Path("model/notes.txt").unlink()
    run_fit = imputome.api.models.run_fit

    def while_fitting(*arguments):
        Path("model/notes.txt").write_text("mine")
        return run_fit(*arguments)

    monkeypatch.setattr(imputome.api.models, "run_fit", while_fitting)
    assert fit("--method", "ialm", "--force") == 0
    assert methods.load("model").name == "ialm"
    assert Path("model/notes.txt").read_text() == "mine"


def test_links_are_followed_and_pipes_refused_before_the_fit(folder, capsys, monkeypatch):
    import imputome.api.models

    assert fit("--method", "gene_mean") == 0
    Path("link").symlink_to("model")
    assert fit("--method", "ialm", "--force", model="link") == 0
    assert Path("link").is_symlink()
    assert methods.load("model").name == "ialm"
    capsys.readouterr()
    os.mkfifo("fifo")
    monkeypatch.setattr(imputome.api.models, "run_fit", lambda *_, **__: pytest.fail("the work was begun"))
    refused(capsys, fit("--method", "gene_mean", "--force", model="fifo"), "special-file", "fifo")
    refused(capsys, fit(*TINY, "--checkpoint", "fifo", model="new"), "special-file", "fifo")
    refused(capsys, fit(*TINY, "--checkpoint", "in.h5ad", model="new"), "not-a-folder", "in.h5ad")


def test_model_and_input_swapped(folder, capsys):
    assert fit("--method", "gene_mean") == 0
    capsys.readouterr()
    refused(capsys, fit("--method", "gene_mean", source="model", model="in.h5ad"), "model-path")
    refused(capsys, fit("--method", "gene_mean", source="model", model="other"), "unknown-format")
    refused(capsys, fit("--method", "gene_mean", source="model", model="model"), "model-path")


def test_checkpoints_are_for_the_deep_methods(folder, capsys):
    refused(capsys, fit("--method", "ialm", "--checkpoint", "here"), "no-checkpoints")
    assert not Path("here").exists()


def test_covariates_of_a_method_without(folder, capsys):
    refused(capsys, fit("--method", "ialm", "--covariates", "batch"), "no-covariates")


def test_fine_tuning_a_method_without(folder, capsys):
    assert fit("--method", "gene_mean") == 0
    capsys.readouterr()
    refused(capsys, fit("--from", "model", model="second"), "no-fine-tuning")
    refused(capsys, fit("--from", "model", model="model"), "model-path")
    refused(capsys, fit("--from", "nothing", model="second"), "no-model")


def test_usage_errors(folder, capsys):
    assert run(["fit", "in.h5ad"]) == 2
    assert run(["fit", "-m", "model"]) == 2
    assert fit("--method", "ialm", "--set", "tol") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_options_that_do_not_go_together(folder, capsys):
    refused(capsys, fit("--method", "ialm", "--gene-column", "symbol"), "option-unused", "--gene-column")
    for option in (["--method", "zipo"], ["--config", "a.toml"], ["--posterior"], ["--covariates", "batch"]):
        refused(capsys, fit("--from", "model", *option, model="second"), "fixed-by-model", option[0])


# -- the deep methods --------------------------------------------------------------------------------------------------
TINY = ["--method", "zipo", "--set", "encoder=8-4", "--set", "max_epochs=4"]


@pytest.fixture
def deep():
    pytest.importorskip("torch")
    if "zipo" not in methods.names():
        pytest.skip("zipo is not registered")


def test_a_killed_fit_goes_on_to_the_same_weights(folder, deep):
    """SIGKILL in the middle; the finished model equals one that was not interrupted."""
    make_counts(400, 200).write_h5ad("in.h5ad")
    slow = [*TINY[:-1], "max_epochs=40", "--set", "patience=none", "--seed", "1"]
    command = [PROGRAM, "fit", "in.h5ad", "-m", "killed", *slow, "--checkpoint", "steps", "-q"]
    # one thread each: with more, sums are rounded in another order from run to run
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    one_thread = {**os.environ, **dict.fromkeys(names, "1")}
    process = subprocess.Popen(command, start_new_session=True, env=one_thread)
    deadline = time.monotonic() + 60
    while not Path("steps/checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not Path("killed").exists(), "the fit ended before it could be killed"
    subprocess.run(command, check=True, env=one_thread)
    subprocess.run([PROGRAM, "fit", "in.h5ad", "-m", "whole", *slow, "-q"], check=True, env=one_thread)
    killed, whole = (methods.load(name)._state() for name in ("killed", "whole"))
    for name, array in whole.items():
        np.testing.assert_array_equal(killed[name], array, err_msg=name)


def test_fine_tuning_goes_on_from_the_weights_with_genes_matched(folder, deep, capsys):
    assert fit(*TINY, "--seed", 1) == 0
    other = make_counts(seed=3)[:, ::-1][:, :30].copy()
    other.write_h5ad("other.h5ad")
    capsys.readouterr()
    assert fit("--from", "model", "--set", "max_epochs=2", source="other.h5ad", model="tuned") == 0
    assert "10 genes of the model are not in the input" in capsys.readouterr().err
    first, second = methods.load("model"), methods.load("tuned")
    assert list(second.feature_names_) == [f"gene{j}" for j in range(40)]
    assert second.provenance["fine_tuned_from"]["shape"] == [60, 40]
    assert not np.array_equal(first._state()["network.first.weight"], second._state()["network.first.weight"])
    refused(capsys, fit("--from", "model", "--set", "alpha_z=2", model="x"), "unknown-parameter", "'alpha_z'")


def test_covariates_are_kept_by_name(folder, deep):
    assert fit(*TINY, "--covariates", "batch") == 0
    assert methods.load("model").covariate_names_ == ["batch"]
