"""What reaches a terminal: no control characters of names, and no error where its encoding lacks a sign."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from imputome.cli import run

# the title of the window, clear the screen, a line of one's own, another order of writing
NASTY = "a\x1b]0;owned\x07\x9b2J\x1b[2J\nerror: \u202e"
ACTIN = "β-actin"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counts(name="in.h5ad", *, gene="gene0", label="a", batch="batch"):
    X = np.random.default_rng(0).poisson(2.0, (40, 20)).astype(np.float32)
    names = [gene, *(f"gene{j}" for j in range(1, 20))]
    obs = pd.DataFrame({batch: [label, "b"] * 20}, index=[f"cell{i}" for i in range(40)])
    ad.AnnData(X, obs=obs, var=pd.DataFrame(index=names)).write_h5ad(name)


def is_clean(capsys, lines=None):
    """Nothing was printed that a terminal would not show; how many lines at most."""
    out, err = capsys.readouterr()
    for text in (out, err):
        assert all(line.isprintable() for line in text.split("\n")), repr(text)
    assert out + err
    if lines is not None:
        assert len((out + err).splitlines()) <= lines
    return out + err


# -- control characters ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", f"{NASTY}.h5ad"],
        ["inspect", "in.h5ad", "--layer", NASTY],
        ["impute", "in.h5ad", "-o", f"{NASTY}/out.h5ad"],
        ["impute", "in.h5ad", "-o", "out.h5ad", "--genes", NASTY, "-m", "gene_mean"],
        ["impute", "in.h5ad", "-o", "out.h5ad", "--set", f"{NASTY}=1", "-m", "gene_mean"],
        ["impute", "in.h5ad", "-o", "out.h5ad", "--config", f"{NASTY}.toml"],
        ["methods", NASTY],
        ["remove", "in.h5ad", NASTY],
        ["report", f"{NASTY}.txt", "-o", "page.html"],
        ["--debug", "inspect", f"{NASTY}.h5ad"],
    ],
)
def test_errors_act_on_no_terminal(folder, capsys, arguments):
    counts()
    assert run(arguments) == 1
    is_clean(capsys, None if "--debug" in arguments else 2)


@pytest.mark.parametrize(
    "arguments",
    [
        [NASTY],
        ["inspect", "in.h5ad", f"--{NASTY}"],
        ["inspect", "in.h5ad", NASTY],
        ["mask", "in.h5ad", "-o", "out.h5ad", "--scheme", "random", "--seed", NASTY],
        ["impute", "in.h5ad", "-o", "out.h5ad", "--set", NASTY],
        ["impute", "in.h5ad", "-o", "out.h5ad", "--shift-correction", NASTY],
    ],
)
def test_usage_errors_act_on_no_terminal(folder, capsys, arguments):
    assert run(arguments) == 2
    is_clean(capsys, 5)


def test_results_act_on_no_terminal(folder, capsys):
    source = NASTY + ".h5ad"
    counts(source, gene=NASTY, label=NASTY)
    assert run(["inspect", source]) == 0
    assert run(["impute", source, "-o", f"out-{source}", "-m", "gene_mean", "--reproducible"]) == 0
    assert run(["evaluate", source, "--methods", "gene_mean", "-o", "scores.csv"]) == 0
    assert run(["mask", source, "-o", f"masked-{source}", "--scheme", "random"]) == 0
    shown = is_clean(capsys)
    assert r"wrote 40 x 20 values on scale counts to out-a\x1b]0;owned\x07\x9b2J\x1b[2J\nerror: \u202e.h5ad" in shown


def test_a_name_that_is_no_text(folder, capsys):
    counts()
    Path("in.h5ad").rename("caf\udce9.h5ad")
    assert run(["impute", "caf\udce9.h5ad", "-o", "out.h5ad", "-m", "gene_mean"]) == 1
    assert is_clean(capsys, 1).endswith(" [not-utf8]\n")


def test_names_in_square_brackets_are_shown_as_they_are(folder, capsys):
    counts("in[bold].h5ad")
    assert run(["evaluate", "in[bold].h5ad", "--methods", "gene_mean", "-o", "scores.csv", "--fraction", "0.2"]) == 0
    assert "in[bold]" in capsys.readouterr().out


@pytest.mark.parametrize("key", [NASTY, "a\nb", "a\x00b", "k" * 201, "β" * 101, "\u202ekey"])
def test_keys_are_short_and_printable(folder, capsys, key):
    counts()
    assert run(["impute", "in.h5ad", "-o", "out.zarr", "-m", "gene_mean", "-q", "--key-added", key]) == 1
    assert is_clean(capsys, 1).endswith(" [bad-key]\n")


def test_a_long_key_can_be_written_and_removed(folder, capsys):
    counts()
    key = "β" * 100
    line = ["impute", "in.h5ad", "-o", "out.zarr", "-m", "gene_mean_posterior", "-q", "--key-added", key]
    assert run([*line, "--outputs", "variance"]) == 0, capsys.readouterr().err
    assert run(["remove", "out.zarr", key]) == 0


# -- encodings ---------------------------------------------------------------------------------------------------------
def in_ascii(monkeypatch):
    """Streams as Python opens them with PYTHONIOENCODING=ascii."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors) for errors in ("strict", "strict")]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    return streams


def test_signs_that_ascii_lacks(folder, monkeypatch):
    counts("β.h5ad", gene=ACTIN)
    out, err = in_ascii(monkeypatch)
    line = ["evaluate", "β.h5ad", "--methods", "gene_mean,gene_mean_posterior", "--trials", "2", "-o", "s.csv"]
    assert run(line) == 0
    assert run(["inspect", "γ.h5ad"]) == 1
    assert run(["impute", "β.h5ad", "-o", "o.h5ad", "-m", "gene_mean", "--genes", f"{ACTIN},gene1"]) == 0
    assert run(["impute", "β.h5ad", "-o", "p.h5ad", "-m", "gene_mean", "--genes", "γ-actin"]) == 1
    printed, said = (stream.buffer.getvalue().decode("ascii") for stream in (out, err))
    assert " +/- " in printed
    assert re.search(r"^\\u03b2, ", printed, re.MULTILINE)
    assert r"\u03b3.h5ad" in said
    assert r"\u03b3-actin" in said
    assert list(ad.read_h5ad("o.h5ad").var_names) == [ACTIN, "gene1"]
