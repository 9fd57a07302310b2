"""Genes of a model and of an input whose names differ by a known pattern."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import imputome
from codes import has_code, refused, warns
from imputome.cli import run
from imputome.errors import InputError

G = 30
IDS = [f"ENSG{k:011d}" for k in range(G)]
SYMBOLS = [f"HLA-{k}" if k % 2 else f"{k}orf-A" for k in range(G)]


def counts(names, seed=0):
    rng = np.random.default_rng(seed)
    X = 1 + rng.poisson(rng.gamma(1, 3, G), (20, G)).astype(np.float32)
    return ad.AnnData(X, var=pd.DataFrame(index=list(names)))


CASES = {  # names of the model, names of the input
    "version": (IDS, [f"{name}.{1 + k % 17}" for k, name in enumerate(IDS)]),
    "version of both": ([f"{name}.3" for name in IDS], [f"{name}.{1 + k % 2}" for k, name in enumerate(IDS)]),
    "version of transcripts": ([f"NM_{k:06d}" for k in range(G)], [f"NM_{k:06d}.2" for k in range(G)]),
    "case": ([f"GENE{k}A" for k in range(G)], [f"Gene{k}a" for k in range(G)]),
    "r-names": (SYMBOLS, [("X" if name[0].isdigit() else "") + name.replace("-", ".") for name in SYMBOLS]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named_and_the_advice_works(case):
    model_names, names = CASES[case]
    model = imputome.fit_model(counts(model_names), method="gene_mean", posterior=True)
    new = counts(names, seed=1)
    with pytest.raises(InputError, check=has_code("too-few-genes")) as caught:
        imputome.apply_model(new, model)
    advice = caught.value.message.options
    assert advice == {"match_genes": case.split(" ")[0]}
    applied = imputome.apply_model(new, model, copy=True, key_added="x", **advice)
    renamed = imputome.apply_model(counts(model_names, seed=1), model, copy=True, key_added="x")
    np.testing.assert_array_equal(applied.layers["x"], renamed.layers["x"])
    assert list(applied.var_names) == names


def test_some_that_differ_are_said_too():
    model = imputome.fit_model(counts(IDS), method="gene_mean")
    new = counts([name if k < 20 else f"{name}.2" for k, name in enumerate(IDS)])
    with warns("genes-missing") as caught:
        imputome.apply_model(new, model)
    (message,) = [each.message.args[0] for each in caught if each.message.args[0].code == "genes-missing"]
    assert message.options == {"match_genes": "version"}
    new.var_names = [name if k < 20 else f"other{k}" for k, name in enumerate(IDS)]
    with warns("genes-missing") as caught:
        imputome.apply_model(new, model, key_added="again")
    assert all(each.message.args[0].options == {} for each in caught if each.message.args[0].code == "genes-missing")


def test_other_kinds_of_names_are_no_spelling():
    model = imputome.fit_model(counts(IDS), method="gene_mean")
    new = counts(SYMBOLS)
    with pytest.raises(InputError, check=has_code("too-few-genes")) as caught:
        imputome.apply_model(new, model)
    assert "Ensembl" in str(caught.value)
    assert set(caught.value.message.options) == {"gene_column"}
    new.var["symbol"] = SYMBOLS
    with pytest.raises(InputError, check=has_code("too-few-genes")) as caught:
        imputome.apply_model(new, model, gene_column="symbol")
    assert caught.value.message.options == {}
    new.var["ids"] = [f"{name}.3" for name in IDS]
    with pytest.raises(InputError, check=has_code("too-few-genes")) as caught:
        imputome.apply_model(new, model)
    assert imputome.apply_model(new, model, **caught.value.message.options, copy=True).shape == new.shape
    with pytest.raises(InputError, check=has_code("match-genes")):
        imputome.apply_model(new, model, match_genes="letters")


def test_clones_that_differ_by_what_looks_like_a_version_stay_apart():
    names = [f"AC{100000 + k // 2}.{1 + k % 2}" for k in range(G)]
    model = imputome.fit_model(counts(names), method="gene_mean")
    assert imputome.apply_model(counts(names), model, match_genes="version", copy=True).shape == (20, G)
    twice = counts([f"{name}.{k}" for name in IDS[: G // 2] for k in (1, 2)])
    with pytest.raises(InputError, check=has_code("genes-not-unique")):
        imputome.apply_model(twice, imputome.fit_model(counts(IDS), method="gene_mean"), match_genes="version")


def test_on_the_command_line(tmp_path, capsys):
    model_names, names = CASES["version"]
    for name, columns in (("train", model_names), ("new", names)):
        counts(columns).write_h5ad(tmp_path / f"{name}.h5ad")
    model, new, out = (str(tmp_path / name) for name in ("model", "new.h5ad", "out.h5ad"))
    fit = ["fit", str(tmp_path / "train.h5ad"), "-m", model, "--method", "gene_mean", "-q"]
    assert run(fit) == 0
    refused(capsys, run(["apply", model, new, "-o", out]), "too-few-genes", "--match-genes version")
    assert run(["apply", model, new, "-o", out, "--match-genes", "version", "-q"]) == 0
    refused(capsys, run([*fit, "--force", "--match-genes", "version"]), "option-unused")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, object])
def test_entrez_identifiers_that_are_floats_in_var(dtype):
    ids = [float(100 + 7 * k) for k in range(G)]
    model = imputome.fit_model(counts([f"{number:.0f}" for number in ids]), method="gene_mean")
    new = counts(SYMBOLS, seed=1)
    new.var["entrez"] = pd.Series([*ids[:-1], np.nan], index=new.var_names, dtype=dtype)  # one gene has none
    with pytest.raises(InputError, check=has_code("too-few-genes")) as caught:
        imputome.apply_model(new, model)
    assert caught.value.message.options == {"gene_column": "entrez"}
    with warns("genes-missing"):
        applied = imputome.apply_model(new, model, gene_column="entrez", copy=True, key_added="x")
    renamed = new[:, :-1].copy()
    renamed.var_names = [f"{number:.0f}" for number in ids[:-1]]
    with warns("genes-missing"):
        imputome.apply_model(renamed, model, key_added="x")
    np.testing.assert_array_equal(applied.layers["x"][:, :-1], renamed.layers["x"])
