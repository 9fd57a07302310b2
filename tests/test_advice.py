"""Advice works: each message that names a parameter is provoked, what it says is done, and that succeeds.

One row is one piece of advice. It is tried in Python and on the command line, from the same options: a message that
speaks of the other interface, or whose remedy does not help, fails. `test_every_advice_is_tried` finds codes that
have no row.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import write_elem

import imputome
from imputome import errors
from imputome.cli import run
from imputome.cli.options import flag, split_names
from imputome.errors import ImputomeError, Message
from imputome.evaluation.masked import mask
from imputome.io.reading import read

SOURCE = Path(imputome.__file__).parent
OUT = object()  # as a value: leave the option out
LINE, PYTHON = "line", "python"
GENES, CONTENT = [f"gene{j}" for j in range(40)], np.linspace(0.3, 0.7, 40)


# -- inputs ------------------------------------------------------------------------------------------------------------
def counts(n: int = 60, genes: int = 40) -> ad.AnnData:
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.5, size=(n, 4)) @ rng.gamma(0.5, size=(4, genes)) * 3).astype(np.float32)
    X[:, 0] += 1
    X[0] += 1
    obs = pd.DataFrame({"batch": ["a", "b"] * (n // 2)}, index=[f"cell{i}" for i in range(n)])
    var = pd.DataFrame({"symbol": [f"S{j}" for j in range(genes)]}, index=[f"gene{j}" for j in range(genes)])
    var["gc"] = rng.uniform(0.3, 0.7, genes)
    return ad.AnnData(sp.csr_matrix(X), obs=obs, var=var)


def real(n: int = 60, features: int = 40) -> ad.AnnData:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, features)) + 5 + rng.normal(scale=0.3, size=(n, features))
    X[rng.random(X.shape) < 0.1] = np.nan
    adata = counts(n, features)
    return ad.AnnData(X.astype(np.float32), obs=adata.obs, var=adata.var)


def write_inputs(folder: Path) -> None:
    """All inputs of the rows, by their names there."""
    plain = counts()
    plain.write_h5ad(folder / "counts.h5ad")
    logged = counts()
    logged.layers["counts"] = logged.X.copy()
    dense = logged.X.toarray()
    logged.X = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4)
    logged.write_h5ad(folder / "logged.h5ad")
    for name, X in (
        ("zeros", np.zeros(dense.shape, np.float32)),
        ("nan", np.full(dense.shape, np.nan)),
        ("none", None),
    ):
        adata = ad.AnnData(X, obs=plain.obs, var=plain.var, layers={"counts": plain.X})
        adata.write_h5ad(folder / f"{name}.h5ad")
    real().write_h5ad(folder / "real.h5ad")
    complete = real()
    complete.layers["counts"] = plain.X
    complete.X = np.nan_to_num(complete.X, nan=5.0) - 9
    complete.write_h5ad(folder / "complete.h5ad")
    both = real()
    both.layers["counts"] = plain.X
    both.write_h5ad(folder / "real_and_counts.h5ad")
    heavy = real()
    heavy.X = np.exp(2 * heavy.X).astype(np.float32)
    heavy.write_h5ad(folder / "heavy.h5ad")
    counts(12, 6).write_h5ad(folder / "small.h5ad")
    real().to_df().T.to_csv(folder / "real.csv")
    done = counts()
    for key in ("one", "two"):
        imputome.impute(done, method="gene_mean", key_added=key)
    done.write_h5ad(folder / "two_results.h5ad")
    done = counts()
    imputome.impute(done, method="gene_mean")
    done.write_h5ad(folder / "result.h5ad")
    done = counts()
    done.layers["counts"] = done.layers["raw"] = done.X.copy()
    imputome.impute(done, method="gene_mean", layer="raw")
    del done.layers["raw"]
    done.write_h5ad(folder / "layer_gone.h5ad")
    done = counts()
    imputome.impute(done, method="gene_mean")
    done.layers["counts"] = done.X.copy()
    done.X = done.X.log1p()
    done.write_h5ad(folder / "x_changed.h5ad")
    taken = counts()
    imputome.impute(taken, method="gene_mean", key_added="k_variance")
    taken.write_h5ad(folder / "name_taken.h5ad")
    symbols = counts()
    symbols.var_names = symbols.var["symbol"].to_numpy()
    symbols.var["id"] = counts().var_names.to_numpy()
    symbols.write_h5ad(folder / "symbols.h5ad")
    three = counts()
    three.obs["batch"] = ["a", "b", "c"] * 20
    three.write_h5ad(folder / "three.h5ad")
    imputome.fit_model(counts(), method="gene_mean").save(folder / "model")
    imputome.fit_model(counts(), method="zipo", params={"max_epochs": 1, "encoder": "8"}).save(folder / "deep")
    covered = real()
    covered.layers["coverage"] = np.random.default_rng(2).poisson(8.0, covered.shape).astype(np.float32)
    covered.write_h5ad(folder / "covered.h5ad")
    table = pd.DataFrame({"number": range(60), "name": counts().obs_names, "age": 50}).set_index("number")
    table.to_csv(folder / "samples.csv")
    reads = {"chr": ["1", "2"] * 3, "pos": [10, 10, 20, 20, 30, 30]}
    for name in ("a", "b"):
        reads |= {f"M.{name}": [1, 2, 3, 1, 2, 3], f"Cov.{name}": [4, 4, 4, 4, 4, 4]}
    pd.DataFrame(reads).to_csv(folder / "reads.csv", index=False)
    write_everyday_inputs(folder)
    with h5py.File(folder / "two.h5mu", "w") as root:  # as MuData writes it
        for name in ("protein", "rna"):
            write_elem(root.require_group("mod"), name, counts())
    for name in ("old.h5ad", "old.html", "old.json", "mine.toml", "no_study.db"):
        (folder / name).write_text("mine")
    (folder / "best.toml").write_text('method = "poisson_nmf"\n[params]\nn_components = 3\n')
    imputome.evaluate(counts(), methods=["gene_mean"], scheme="thin").to_csv(folder / "scores.csv", index=False)


def write_everyday_inputs(folder: Path) -> None:
    """Those about the kind of the values, the types of the features, ``raw`` and covariates."""
    plain, rng = counts(), np.random.default_rng(3)
    dense = plain.X.toarray()
    hidden = rng.random(dense.shape) < 0.1
    matrices = {
        "bulk": np.where(dense > 1, dense * 1e5, dense),
        "integers": np.where(hidden, np.nan, dense + 1),
        "zeros_and_nan": np.where(hidden, np.nan, dense),
        "intensities": np.where(dense > 0, dense * 1000 + rng.integers(0, 999, dense.shape), 0),
        "coded": np.where(hidden, np.nan, np.where(rng.random(dense.shape) < 0.1, -9, rng.gamma(3, size=dense.shape))),
        "negative": np.where(hidden, np.nan, rng.normal(size=dense.shape)),
        "unclear": np.log1p(dense * rng.gamma(2, size=dense.shape)),
    }
    for name, X in matrices.items():
        adata = ad.AnnData(X.astype(np.float32), obs=plain.obs, var=plain.var, layers={"counts": plain.X})
        adata.write_h5ad(folder / f"{name}.h5ad")
    read(folder / "intensities.h5ad").to_df().T.to_csv(folder / "intensities.csv")
    wide = counts(genes=80)
    shared = rng.random(wide.shape) < 0.3
    wide.X = (wide.X.toarray() * 10 + np.where(shared, rng.random(wide.shape), 0)).astype(np.float32)
    wide.write_h5ad(folder / "expected.h5ad")
    for name, types in (("cite", ["Gene Expression", "Antibody Capture"]), ("multi", ["Peaks", "Antibody Capture"])):
        adata = counts()
        adata.var["feature_types"] = np.repeat(types, 20)
        adata.write_h5ad(folder / f"{name}.h5ad")
    taken = counts()
    taken.layers["gene_mean"] = taken.X.copy()
    taken.write_h5ad(folder / "not_mine.h5ad")
    few = counts()
    few.raw = few.copy()
    few = few[:, :15].copy()
    few.write_h5ad(folder / "few_genes.h5ad")
    imputome.fit_model(few, method="gene_mean", layer="raw").save(folder / "model_of_raw")
    lacking = counts()
    lacking.raw = lacking[:, :30].copy()
    lacking.layers["counts"] = lacking.X.copy()
    lacking.write_h5ad(folder / "raw_lacks.h5ad")
    known = counts()
    known.obs["plate"] = np.arange(60) % 4
    known.obs["donor"] = np.arange(60) % 30
    known.obs["year"] = np.where(np.arange(60) < 30, 2000, 2005) + np.arange(60) % 2
    known.write_h5ad(folder / "covariates.h5ad")

    values = np.round(rng.random((40, 12)), 4).astype(str)
    values[rng.random(values.shape) < 0.1] = "NA"
    for name, extra in (("entrez", "Entrez_Gene_Id"), ("unknown_numbers", "probe_set")):
        lines = ["\t".join(["gene", extra, *(f"s{k}" for k in range(12))])]
        lines += ["\t".join([f"g{j}", str(1000 + 37 * j), *row]) for j, row in enumerate(values)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    lines = [";".join(["gene", *(f"s{k}" for k in range(12))])]
    lines += [";".join([f"g{j}", *(text.replace(".", ",") for text in row)]) for j, row in enumerate(values)]
    (folder / "commas.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_inputs(folder)
    return folder


# -- rows --------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """One piece of advice.

    ``given`` are the options of ``command`` on ``source`` that provoke the message ``code``; ``then`` is what it says
    to change: name -> value, or `OUT`. Names are those of the library; ``params`` is a dictionary (``--set``).
    """

    code: str
    command: str
    source: str
    given: dict[str, Any]
    then: dict[str, Any]
    output: str = ""  # of the command line, by default one that fits the command
    only: str = ""  # the interface in which it can happen; empty: both
    also: dict[str, Any] = field(default_factory=dict)  # what else has to change for a success, which is not advice

    @property
    def name(self) -> str:
        return f"{self.code}: {self.command} {self.source}, {', '.join(self.then)}"


def with_covariates(names: str | list[str]) -> dict[str, Any]:
    return {"method": "zipo", "covariates": names, "params": {"max_epochs": 1, "encoder": "8"}}


# of the default method for counts, which has the posterior step where it can
NO_POSTERIOR = {"method": OUT, "scale": "log1p", "outputs": "variance", "params": {"max_epochs": 1}}
# of a table of real values
TABLE = {"method": "mean", "genes_in": "rows"}
ROWS = [
    # text tables
    Row("annotation-passed", "impute", "entrez.tsv", TABLE, {"annotation": "none"}, "out.tsv", LINE),
    Row("annotation-column", "impute", "unknown_numbers.tsv", TABLE, {"annotation": "probe_set"}, "out.tsv", LINE),
    Row("no-column", "impute", "entrez.tsv", {**TABLE, "annotation": "Length"}, {"annotation": OUT}, "out.tsv", LINE),
    Row("decimal", "impute", "entrez.tsv", {**TABLE, "decimal": ";"}, {"decimal": "."}, "out.tsv", LINE),
    Row("decimal-comma", "impute", "commas.csv", TABLE, {"decimal": ","}, "out.csv", LINE),
    # options that go together, or do not
    Row("option-unused", "impute", "counts.h5ad", {"gene_column": "symbol"}, {"genes": "S3"}, only=LINE),
    Row("option-unused", "impute", "counts.h5ad", {"modality": "rna"}, {"modality": OUT}, only=LINE),
    Row("several-modalities", "impute", "two.h5mu", {}, {"modality": "rna"}, "out.h5mu", LINE),
    Row("several-modalities", "mask", "two.h5mu", {"scheme": "thin"}, {"modality": "rna"}, only=LINE),
    Row("kept-in-h5mu", "impute", "two.h5mu", {"modality": "rna", "genes": "gene1"}, {"genes": OUT}, "o.h5mu", LINE),
    Row("option-unused", "impute", "counts.h5ad", {"labels": "batch"}, {"check": True}),
    Row("option-unused", "impute", "counts.h5ad", {"labels": "batch"}, {"labels": OUT}),
    Row("option-unused", "impute", "counts.h5ad", {"budget": 1}, {"budget": OUT}),
    Row("option-unused", "impute", "counts.h5ad", {"accept_control": True}, {"accept_control": OUT}),
    Row("option-unused", "impute", "counts.h5ad", {"genes_in": "rows"}, {"genes_in": OUT}, only=LINE),
    Row(
        "option-unused",
        "impute",
        "real.h5ad",
        {"method": "mean", "sample_id": "name"},
        {"samples": "samples.csv"},
        only=LINE,
    ),
    Row("workers-need-zarr", "impute", "counts.h5ad", {"workers": 1}, {"workers": OUT}, only=LINE),
    Row(
        "workers-need-store",
        "impute",
        "counts.h5ad",
        {"workers": 1, "missing": "-9"},
        {"workers": OUT},
        "out.zarr",
        only=LINE,
    ),
    Row("option-unused", "impute", "counts.h5ad", {"strict": True}, {"strict": OUT}, only=LINE),
    Row("option-unused", "impute", "counts.h5ad", {"compression": "lzf"}, {"compression": OUT}, "out.csv", only=LINE),
    Row("option-unused", "impute", "counts.h5ad", {"safe_csv": True}, {"safe_csv": OUT}, only=LINE),
    Row("option-unused", "fit", "counts.h5ad", {"gene_column": "symbol"}, {"gene_column": OUT}, only=LINE),
    Row("option-unused", "report", "scores.csv", {"key": "k"}, {"key": OUT}, only=LINE),
    Row("not-with-auto", "impute", "counts.h5ad", {"method": "auto", "posterior": True}, {"method": "gene_mean"}),
    Row(
        "not-with-auto",
        "impute",
        "counts.h5ad",
        {"method": "auto", "params": {"k": 3}},
        {"params": OUT, "method": "gene_mean"},
    ),
    Row(
        "given-twice",
        "impute",
        "counts.h5ad",
        {"method": "gene_mean+posterior", "posterior": False},
        {"posterior": OUT},
    ),
    Row(
        "given-twice",
        "impute",
        "real.h5ad",
        {"method": "beta_vae", "shift": 0.1, "params": {"shift": 0.2, "max_epochs": 2}},
        {"shift": OUT},
        only=LINE,
    ),
    Row(
        "given-twice",
        "impute",
        "counts.h5ad",
        {"config": "best.toml", "method": "gene_mean"},
        {"method": OUT},
        only=LINE,
    ),
    Row(
        "given-twice", "fit", "counts.h5ad", {"config": "best.toml", "method": "gene_mean"}, {"method": OUT}, only=LINE
    ),
    Row("fixed-by-model", "fit", "counts.h5ad", {"start": "deep", "method": "zipo"}, {"method": OUT}, only=LINE),
    Row("no-checkpoints", "fit", "counts.h5ad", {"checkpoint": "folder"}, {"checkpoint": OUT}, only=LINE),
    # the layer with the values
    *(
        Row(code, "impute", source, {}, {"layer": "counts"})
        for code, source in (("only-zeros", "zeros.h5ad"), ("no-values", "nan.h5ad"), ("no-matrix", "none.h5ad"))
    ),
    Row("looks-log1p", "impute", "logged.h5ad", {}, {"layer": "counts"}),
    Row("looks-log1p", "impute", "logged.h5ad", {}, {"scale": "log1p"}),
    Row("nothing-missing", "impute", "complete.h5ad", {}, {"layer": "counts"}),
    Row("not-integers", "impute", "logged.h5ad", {"posterior": True, "scale": "log1p"}, {"posterior": False}),
    Row("not-integers", "impute", "logged.h5ad", {"posterior": True, "scale": "log1p"}, {"layer": "counts"}),
    Row("not-integers", "impute", "logged.h5ad", {"check": True, "scale": "log1p"}, {"check": False}),
    Row("not-integers", "impute", "logged.h5ad", {"check": True, "scale": "log1p"}, {"layer": "counts"}),
    Row("not-integers", "evaluate", "logged.h5ad", {"methods": "gene_mean"}, {"layer": "counts"}),
    Row("other-state-than-model", "apply", "logged.h5ad", {}, {"layer": "counts"}),
    Row("model-kind", "apply", "real_and_counts.h5ad", {}, {"layer": "counts"}),
    Row("scheme-of-other-kind", "mask", "real_and_counts.h5ad", {"scheme": "thin"}, {"layer": "counts"}),
    # what a method has
    Row("no-posterior", "impute", "real.h5ad", {"method": "knn", "posterior": True}, {"posterior": OUT}),
    Row("posterior-needs-counts", "impute", "real.h5ad", {"method": "ialm", "posterior": True}, {"posterior": False}),
    Row("no-draws", "impute", "real.h5ad", {"method": "knn", "draws": 2}, {"draws": OUT}, only=LINE),
    Row(
        "no-draws",
        "impute",
        "real.h5ad",
        {"method": "knn", "draws": 2},
        {},
        only=LINE,
        also={"method": "gaussian_copula"},
    ),
    Row("no-draws", "impute", "counts.h5ad", {"draws": 2}, {"draws": OUT}, only=LINE),
    Row("output-needs-posterior", "impute", "counts.h5ad", {"outputs": "variance"}, {"posterior": True}),
    Row("no-uncertainty", "impute", "counts.h5ad", {"uncertainty": "sd.csv"}, {"posterior": True}, only=LINE),
    Row(
        "not-a-table",
        "impute",
        "real.h5ad",
        {"method": "gaussian_copula", "uncertainty": "sd.h5ad"},
        {"outputs": "variance"},
        only=LINE,
        also={"uncertainty": OUT},
    ),
    Row("scale-needs-counts", "impute", "real.h5ad", {"method": "mean", "scale": "log1p"}, {"scale": OUT}),
    Row("transform-needs-real", "impute", "counts.h5ad", {"transform": "asinh"}, {"transform": OUT}),
    Row("asinh-chosen", "impute", "heavy.h5ad", {"method": "svd"}, {"transform": "none"}),
    Row("counts-only", "impute", "real.h5ad", {"method": "ialm", "params": {"zeros": "preserve"}}, {"zeros": "impute"}),
    Row(
        "parameter-conflict",
        "impute",
        "counts.h5ad",
        {"method": "autoencoder", "posterior": True, "params": {"rescale": False, "max_epochs": 2}},
        {"rescale": True},
    ),
    Row(
        "parameter-conflict",
        "impute",
        "real.h5ad",
        {"method": "beta_vae", "params": {"likelihood": "mse", "shift": "auto", "max_epochs": 2}},
        {"likelihood": "gaussian"},
    ),
    Row(
        "parameter-value",
        "impute",
        "counts.h5ad",
        {"method": "zipo", "params": {"encoder": "wide", "max_epochs": 2}},
        {"encoder": "512-256-64"},
    ),
    Row(
        "parameter-value",
        "impute",
        "counts.h5ad",
        {"method": "zipo", "params": {"encoder": "", "max_epochs": 2}},
        {"encoder": "64"},
    ),
    Row(
        "incomplete-samples",
        "impute",
        "real.h5ad",
        {"method": "beta_vae", "params": {"preset": "published_code", "max_epochs": 2}},
        {"preset": None},
    ),
    Row(
        "no-cuda-device",
        "impute",
        "counts.h5ad",
        {"method": "zipo", "params": {"device": "cuda", "max_epochs": 2}},
        {"device": "cpu"},
    ),
    # what is there already
    Row("output-exists", "impute", "counts.h5ad", {}, {"overwrite": True}, "old.h5ad", only=LINE),
    Row("output-exists", "impute", "counts.h5ad", {"record": "old.json"}, {"overwrite": True}, only=LINE),
    Row("output-exists", "report", "scores.csv", {}, {"overwrite": True}, "old.html", only=LINE),
    Row("output-exists", "fit", "counts.h5ad", {}, {"overwrite": True}, "model", only=LINE),
    Row(
        "output-exists",
        "tune",
        "counts.h5ad",
        {"method": "poisson_nmf", "objective": "poisson_loss", "n_trials": 1, "storage": "s.db"},
        {"output": "new.toml"},
        "mine.toml",
        only=LINE,
    ),
    Row("key-exists", "impute", "result.h5ad", {}, {"overwrite": True}),
    Row("key-exists", "impute", "result.h5ad", {}, {"key_added": "other"}),
    Row(
        "name-of-another-result",
        "impute",
        "name_taken.h5ad",
        {"method": "gene_mean_posterior", "key_added": "k", "outputs": "variance", "overwrite": True},
        {"key_added": "m"},
    ),
    Row("several-results", "report", "two_results.h5ad", {}, {"key": "one"}, only=LINE),
    Row("layer-missing", "report", "layer_gone.h5ad", {}, {"before": "counts"}, only=LINE),
    # tables, names and samples
    Row("no-orientation", "impute", "real.csv", {"method": "mean"}, {"genes_in": "rows"}, "out.csv", only=LINE),
    Row(
        "no-sample-matches",
        "impute",
        "real.h5ad",
        {"method": "mean", "samples": "samples.csv"},
        {"sample_id": "name"},
        only=LINE,
    ),
    Row("too-few-genes", "apply", "symbols.h5ad", {}, {"gene_column": "id"}),
    Row("sites-not-unique", "methylation", "reads.csv", {"min_coverage": 1}, {"position": "chr,pos"}, only=LINE),
    Row(
        "no-position",
        "methylation",
        "reads.csv",
        {"min_coverage": 1, "position": "start"},
        {"position": "chr,pos"},
        only=LINE,
    ),
    Row("no-coverage", "methylation", "reads.csv", {"position": "chr,pos"}, {"min_coverage": 4}, only=LINE),
    # checks and choices
    Row(
        "too-small-to-check", "impute", "small.h5ad", {"check": True}, {"check": False, "method": "gene_mean_posterior"}
    ),
    Row("too-small-to-check", "impute", "small.h5ad", {"method": "auto"}, {"check": False, "method": "gene_mean"}),
    # evaluation
    Row("labels-needed", "evaluate", "counts.h5ad", {"methods": "gene_mean", "downstream": "de"}, {"labels": "batch"}),
    Row(
        "protocol-scheme",
        "evaluate",
        "counts.h5ad",
        {"methods": "ialm", "protocol": "as_published"},
        {"scheme": "random"},
    ),
    Row("labels-without-test-rows", "mask", "counts.h5ad", {"scheme": "thin", "label": "batch"}, {"label": OUT}),
    Row("gc-missing", "mask", "real.h5ad", {"scheme": "high_gc"}, {"gc": "gc"}, only=LINE),
    Row("coverage-missing", "mask", "covered.h5ad", {"scheme": "low_coverage"}, {"coverage": "coverage"}, only=LINE),
    Row(
        "gc-missing",
        "evaluate",
        "real.h5ad",
        {"methods": "mean", "scheme": "high_gc"},
        {"gc": dict(zip(GENES, CONTENT, strict=True))},
        only=PYTHON,
    ),
    Row("nothing-to-hide", "mask", "counts.h5ad", {"scheme": "random", "fraction": 0.0001}, {"fraction": 0.2}),
    Row(
        "not-a-results-table",
        "evaluate",
        "counts.h5ad",
        {"methods": "gene_mean", "output": "samples.csv"},
        {"output": "new.csv"},
    ),
    # tuning
    Row(
        "objective-not-reported",
        "tune",
        "counts.h5ad",
        {"method": "poisson_nmf", "n_trials": 1, "storage": "s.db"},
        {"objective": "poisson_loss"},
        only=LINE,
    ),
    Row(
        "storage-not-sqlite",
        "tune",
        "counts.h5ad",
        {"method": "poisson_nmf", "objective": "poisson_loss", "n_trials": 1, "storage": "no_study.db"},
        {"storage": "s.db"},
        only=LINE,
    ),
    Row(
        "gc-names-differ",
        "evaluate",
        "real.h5ad",
        {"methods": "mean", "scheme": "high_gc", "options": {"gc": {"other": 0.5}}},
        {"gc": dict(zip(GENES, CONTENT, strict=True))},
        only=PYTHON,
    ),
    Row("unknown-scale", "impute", "counts.h5ad", {"scale": "LOG"}, {"scale": "log1p"}),
    Row("counts-changed", "report", "x_changed.h5ad", {}, {"before": "counts"}, only=LINE),
    # differential expression, in Python only
    Row("imputed-counts", "de", "result.h5ad", {"groups": "batch", "layer": "gene_mean"}, {"layer": OUT}, only=PYTHON),
    Row(
        "imputed-layer",
        "de",
        "result.h5ad",
        {"groups": "batch", "layer": "gene_mean", "count_splitting": True},
        {"layer": OUT},
        only=PYTHON,
    ),
    Row("not-two-groups", "de", "three.h5ad", {"groups": "batch"}, {"tested": "a"}, only=PYTHON),
    Row("no-groups", "de", "counts.h5ad", {}, {"count_splitting": True}, only=PYTHON),
    Row(
        "not-counts",
        "de",
        "logged.h5ad",
        {"groups": "batch", "count_splitting": True},
        {"layer": "counts"},
        only=PYTHON,
    ),
    # of which kind the values are
    Row("bulk-counts", "fit", "bulk.h5ad", {"method": "ialm"}, {"kind": "real"}),
    Row("integers-with-nan", "impute", "integers.h5ad", {"method": "ialm"}, {"kind": "counts"}),
    *(
        Row("kind-unclear", "impute", "zeros_and_nan.h5ad", {"method": "ialm"}, {"kind": kind})
        for kind in ("counts", "real")
    ),
    Row("kind-unclear", "impute", "intensities.h5ad", {"method": "ialm"}, {"kind": "counts"}),
    Row("kind-unclear", "impute", "intensities.csv", TABLE, {"missing": "0"}, "out.csv", LINE),
    Row("kind-unclear", "fit", "intensities.h5ad", {"method": "mean"}, {"kind": "real"}),
    Row("missing-code", "impute", "coded.h5ad", {"method": "mean"}, {"kind": "real"}),
    Row("negative-counts", "impute", "negative.h5ad", {"method": "ialm", "kind": "counts"}, {"kind": "real"}),
    Row("missing-code", "fit", "coded.h5ad", {"method": "mean"}, {"kind": "real"}),
    Row("wrong-kind", "impute", "real.h5ad", {"method": "gene_mean"}, {"method": "mean"}),
    Row("wrong-kind", "impute", "zeros_and_nan.h5ad", {"method": "mean", "kind": "counts"}, {"kind": "real"}),
    Row("wrong-kind", "fit", "counts.h5ad", {"method": "mean"}, {"kind": "real"}),
    Row("looks-expected", "impute", "expected.h5ad", {}, {"round_counts": "nearest"}),
    Row("looks-expected", "impute", "expected.h5ad", {}, {"scale": "counts"}),
    Row("looks-expected", "fit", "expected.h5ad", {"method": "ialm"}, {"kind": "real"}),
    Row(
        "not-expected-counts",
        "impute",
        "logged.h5ad",
        {"scale": "log1p", "round_counts": "nearest"},
        {"round_counts": OUT},
    ),
    Row("scale-unclear", "impute", "unclear.h5ad", {}, {"scale": "log1p"}),
    Row("scale-unclear", "impute", "unclear.h5ad", {}, {"layer": "counts"}),
    Row("no-output", "impute", "logged.h5ad", NO_POSTERIOR, {"outputs": OUT}),
    Row("no-output", "impute", "logged.h5ad", NO_POSTERIOR, {"layer": "counts", "scale": OUT}),
    # features and raw
    Row("feature-type-chosen", "impute", "cite.h5ad", {}, {"feature_type": "Antibody Capture"}),
    Row("feature-type-chosen", "mask", "cite.h5ad", {"scheme": "thin"}, {"feature_type": "all"}),
    Row("feature-type-chosen", "evaluate", "cite.h5ad", {"methods": "gene_mean"}, {"feature_type": "all"}),
    Row("several-feature-types", "impute", "multi.h5ad", {}, {"feature_type": "Peaks"}),
    Row(
        "unknown-feature-type", "impute", "cite.h5ad", {"feature_type": "guides"}, {"feature_type": "Antibody Capture"}
    ),
    Row("no-feature-types", "impute", "counts.h5ad", {"feature_type": "proteins"}, {"feature_type": OUT}),
    Row(
        "genes-repeated", "impute", "counts.h5ad", {"genes": ["gene1", "gene2", "gene1"]}, {"genes": ["gene1", "gene2"]}
    ),
    Row("raw-genes-missing", "impute", "raw_lacks.h5ad", {"layer": "raw"}, {"layer": "counts"}),
    Row("library-of-fewer-genes", "apply", "few_genes.h5ad", {"model": "model_of_raw"}, {"layer": "raw"}),
    Row("not-a-result", "impute", "not_mine.h5ad", {}, {"key_added": "other"}),
    Row("table-without-layers", "impute", "counts.h5ad", {"key_added": "k"}, {"key_added": OUT}, "out.csv", only=LINE),
    # covariates
    Row(
        "covariate-type", "impute", "covariates.h5ad", with_covariates("batch:number"), {"covariates": "batch:category"}
    ),
    Row("covariate-unclear", "impute", "covariates.h5ad", with_covariates("donor"), {"covariates": "donor:number"}),
    Row(
        "covariate-unclear",
        "impute",
        "covariates.h5ad",
        with_covariates(["plate", "donor"]),
        {"covariates": ["plate", "donor:number"]},
    ),
    Row(
        "covariate-unclear",
        "impute",
        "covariates.h5ad",
        with_covariates("donor"),
        {"covariates": "donor:category"},
        only=LINE,
    ),
    Row(
        "covariate-whole-numbers",
        "impute",
        "covariates.h5ad",
        with_covariates("plate"),
        {"covariates": "plate:number"},
    ),
    Row(
        "covariate-level",
        "fit and apply",
        "covariates.h5ad",
        with_covariates("year"),
        {"covariates": "year:number"},
        only=PYTHON,
    ),
    # settings of an evaluation
    Row("no-methods", "evaluate", "counts.h5ad", {"methods": ""}, {"methods": "gene_mean"}),
    Row(
        "protocol-kind",
        "evaluate",
        "real.h5ad",
        {"methods": "mean", "scheme": "features", "protocol": "as_published"},
        {"protocol": OUT},
    ),
    Row(
        "protocol-scheme",
        "evaluate",
        "counts.h5ad",
        {"methods": "gene_mean", "scheme": "random", "protocol": "open_problems"},
        {"scheme": "thin"},
    ),
    Row(
        "protocol-fraction",
        "evaluate",
        "counts.h5ad",
        {"methods": "gene_mean", "fraction": 0.2, "protocol": "open_problems"},
        {"fraction": OUT},
    ),
    Row(
        "protocol-downstream",
        "evaluate",
        "counts.h5ad",
        {"methods": "gene_mean", "downstream": "de", "protocol": "open_problems"},
        {"downstream": OUT},
    ),
    Row(
        "downstream-kind",
        "evaluate",
        "real.h5ad",
        {"methods": "mean", "scheme": "features", "labels": "batch", "downstream": "de"},
        {"downstream": OUT},
    ),
    Row("too-little-data", "evaluate", "counts.h5ad", {"methods": "gene_mean", "min_genes": 99}, {"min_genes": 3}),
    Row("too-little-data", "evaluate", "counts.h5ad", {"methods": "gene_mean", "min_cells": 99}, {"min_cells": 3}),
    Row(
        "unknown-option",
        "evaluate",
        "counts.h5ad",
        {"methods": "gene_mean", "scheme": "median", "fraction": 0.2},
        {"fraction": OUT},
    ),
]

# codes with options that have no row, and why
EXCEPTIONS = {
    "draws-to-stdout": "stdout is no file; tests/cli/test_table_dialects.py",
    "genes-missing": "names the rule by which names differ; tests/result/test_gene_names.py follows each",
    "match-genes": "tests/result/test_gene_names.py",
    "model-genes-not-unique": "needs a model with names that the rule makes equal; tests/cli/test_apply.py",
    "device-memory": "needs a device with little memory; tests/methods/test_deep_estimator.py",
    "worker-failed": "needs a worker that fails again and again",
    "over-max-memory": "needs a larger limit, which the message cannot name; tests/api/test_costs.py",
    "fewer-training-cells": "needs thousands of cells; tests/api/test_costs.py",
    "too-large-for-memory": "needs a matrix of half of the machine's memory; tests/api has it with a small machine",
    "disk-too-small": "needs a full disk; tests/cli/test_impute.py has it with a small one",
    "not-a-folder": "of the demo, which takes a minute; tests/cli/test_commands.py has it",
    "budget-too-small": "depends on the speed of the machine; tests/trust/test_auto.py",
    "time-decided": "depends on the speed of the machine; tests/trust/test_auto.py",
    "fraction-out-of-reach": "needs stored zeros; tests/evaluation/test_splits.py",
    "genes-in-rows": "tests/inspection/test_state.py",
    "several-measures": "tests/io/test_table_layout.py follows it",
    "sum-column": "tests/io/test_table_layout.py follows it",
    "low-values": "of a report on what is missing, and no remedy; tests/inspection/test_missingness.py",
    "network-collapsed": "depends on the course of a training; tests/methods/test_autoencoder.py",
    "not-finite": "depends on the course of a training; tests/methods/test_training.py",
    "study-differs": "needs a study that was begun; tests/cli/test_tune.py",
    "storage-not-optuna": "needs another database; tests/cli/test_tune.py",
    "storage-unreadable": "needs a damaged database; tests/cli/test_tune.py",
    "not-a-study-folder": "of studies, which take a while; tests/studies/test_stored.py",
    "not-checked": "of plots, and the remedy is another call; tests/report/test_plots.py",
    "library-size-unknown": "of reports of some genes, and the remedy is another call; tests/report",
    "limits-need-workers": "of studies, in other processes; tests/studies/test_cluster.py",
    "no-results": "of studies that were not run; tests/cli/test_study.py",
    "no-folder": "needs a machine without a home; tests/io/test_conversion.py",
    "method-not-registered": "of studies run from Python with a class; tests/studies/test_execute.py",
    "no-control": "cannot happen with the controls of this package",
    "slow-fit": "needs data that take minutes; tests/methods/test_regression.py",
    "no-feature-varies": "needs constant features; tests/trust/test_evidence.py",
    # of results of other tools, which need a masked file: tests/cli/test_score_command.py follows them
    **dict.fromkeys(
        (
            *("external-one-split", "external-protocol", "mask-of-other-data", "masked-missing", "name-taken"),
            *("other-mask", "result-lacks-names", "result-not-finite", "result-unchanged", "scale-contradicted"),
            *("nothing-to-score", "result-all-missing"),
        ),
        "tests/cli/test_score_command.py follows it",
    ),
    "scale-doubtful": "of results of other tools, if they are on another scale; tests/evaluation/test_outside.py",
    # functions of arrays, which neither interface calls with what a user gives
    "covariates-missing": "of estimators given Data",
    "library-missing": "of metrics",
    "nan-in-counts": "of Data",
    "pass-one-of-two": "of metrics and clustering",
    "too-few-values": "of differential expression of arrays",
    "variance-scale": "of Imputation; the interfaces refuse it before, in tests/cli/test_impute.py",
}


# -- the two interfaces ------------------------------------------------------------------------------------------------
METHOD = {"impute": {"method": "gene_mean"}, "fit": {"method": "gene_mean"}}  # where a row names none
OUTPUTS = {
    **{"impute": "out.h5ad", "apply": "out.h5ad", "evaluate": "new.csv", "mask": "out.h5ad", "report": "new.html"},
    **{"tune": "new.toml", "methylation": "out.h5ad", "fit": "new_model"},
}
HOLDER = {"evaluate": "options", "mask": "options"}  # what holds options of a scheme; those of a method are in params


def evaluate(adata: ad.AnnData, *, methods: str, **options: Any) -> object:
    if "downstream" in options:
        options["downstream"] = options["downstream"].split(",")
    return imputome.evaluate(adata, methods=split_names(methods), **options)


def fit_and_apply(adata: ad.AnnData, **options: Any) -> object:
    return imputome.apply_model(adata, imputome.fit_model(adata[:30].copy(), **options))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "impute": imputome.impute,
    "fit": imputome.fit_model,
    "apply": lambda adata, model="model", **options: imputome.apply_model(adata, model, **options),
    "fit and apply": fit_and_apply,
    "evaluate": evaluate,
    "mask": mask,
    "de": imputome.de,
}


def options_of(row: Row) -> dict[str, Any]:
    method = {} if {"config", "start"} & set(row.given) else METHOD.get(row.command, {})
    return {name: value for name, value in {**method, **row.given}.items() if value is not OUT}


def followed(row: Row, options: dict[str, Any], in_holder: Callable[[str], bool]) -> dict[str, Any]:
    """The options with the advice followed; ``in_holder`` says whether it puts a name among those of the method."""
    holder = HOLDER.get(row.command, "params")
    inner = dict(options.get(holder, {}))
    options = {name: value for name, value in options.items() if name != holder}
    for name, value in {**row.then, **row.also}.items():
        place = inner if in_holder(name) else options
        if value is OUT:
            place.pop(name, None)
        else:
            place[name] = value
    return options if not inner or row.then.get(holder) is OUT else {**options, holder: inner}


def in_python(row: Row, options: dict[str, Any]) -> dict[str, Message]:
    """Call the function; code -> message of its error and warnings."""
    said: list[Any] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            FUNCTIONS[row.command](read(row.source), **options)
        except ImputomeError as error:
            said.append(error.message)
    said += [warning.message.args[0] for warning in caught]
    return {message.code: message for message in said if isinstance(message, Message)}


def typed(value: Any) -> Any:
    """A value as it is typed."""
    return ",".join(value) if isinstance(value, list) else value


def on_the_line(row: Row, options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Run the command; code -> line of its error and warnings."""
    options = {name: typed(value) for name, value in options.items()}
    output = options.pop("output", row.output or OUTPUTS[row.command])
    line = [row.command, *([options.pop("model", "model")] if row.command == "apply" else []), row.source]
    line += ["--model" if row.command == "fit" else "-o", output]
    for name, value in options.items():
        if name in ("params", "options"):
            line += [text for key, entry in value.items() for text in ("--set", f"{key}={entry}")]
        else:
            line += ["--from", value] if name == "start" else shlex.split(flag(name, value))
    status = run(line)
    printed = capsys.readouterr()
    found = (re.fullmatch(r"(?:error|warning): (.*) \[([\w-]+)\]", text) for text in printed.err.splitlines())
    lines = {match[2]: match[0] for match in found if match}
    assert status == 0 or any(text.startswith("error") for text in lines.values()), (line, status, printed)
    return lines


# -- tests -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """A copy of the inputs as the working directory."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("row", [row for row in ROWS if row.only != LINE], ids=lambda row: row.name)
def test_advice_in_python(row, here):
    options = options_of(row)
    said = in_python(row, options)
    assert row.code in said
    message = said[row.code]
    assert "--" not in message
    for name, value in row.then.items():
        proposed = message.options[name]
        assert proposed is ... or value is OUT or proposed in (value, row.given.get(name))
        assert errors.in_python(name, proposed) in message or f"={{{name!r}: " in message
    after = in_python(row, followed(row, options, lambda name: f"={{{name!r}: " in message))
    assert row.code not in after
    assert "parameter-value" not in after


@pytest.mark.parametrize("row", [row for row in ROWS if row.only != PYTHON], ids=lambda row: row.name)
def test_advice_on_the_command_line(row, here, capsys):
    options = options_of(row)
    lines = on_the_line(row, options, capsys)
    assert row.code in lines
    text = lines[row.code]
    assert "adata" not in text
    for name, value in row.then.items():
        spellings = {flag(name, each) for each in (..., value, row.given.get(name, ...))}
        assert [spelling for spelling in spellings if spelling.removesuffix("=...") in text]
    then = followed(row, options, lambda name: f"--set {name}=" in text)
    if text.startswith("warning"):  # the output was written, and is not replaced
        then.setdefault("output", f"again_{row.output or OUTPUTS[row.command]}")
    after = on_the_line(row, then, capsys)
    assert row.code not in after
    assert not [line for line in after.values() if line.startswith("error")]


def codes_with_options() -> set[str]:
    """The code of every message in the sources that names a parameter to pass."""
    kinds = {name for name in vars(errors) if name.endswith("Error")} | {"Message"}
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                named = {keyword.arg: keyword.value for keyword in node.keywords}
                code = named.get("code")
                if set(named) - {"code", "parameter", "record"} and isinstance(code, ast.Constant):
                    found.add(str(code.value))
    return found


def test_every_advice_is_tried():
    tried = {row.code for row in ROWS}
    assert codes_with_options() - tried == set(EXCEPTIONS)
