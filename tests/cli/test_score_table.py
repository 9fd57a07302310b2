"""The printed table of scores: no cell is cut, the mark stays, the best method is first, and what follows is right."""

from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from imputome.cli import run
from imputome.cli.score_table import conclusions, deciding_metric, grid_lines, number
from imputome.studies.results import other_splits, read, summary, table_of

METHODS = {"gene_mean_posterior": "{}", "gene_mean": "{}", "magic": '{"t": 3}', "alra": "{}"}


def scores(values, metric="poisson_deviance", seeds=None):
    """Rows of a table from method -> its scores of the trials."""
    rows = [
        {
            **{"dataset": "toy", "method": name, "parameters": METHODS[name], "scheme": "thin", "options": "{}"},
            **{"fraction": 0.1, "trial": trial, "seed": (seeds or {}).get(name, 5) + trial, "transform": ""},
            **{"metric": metric, "value": value, "seconds": 1.0, "peak_bytes": 1, "status": "ok", "reason": ""},
        }
        for name, each in values.items()
        for trial, value in enumerate(each)
    ]
    return table_of(rows)


def said(table):
    return list(conclusions(summary(table), table, "--trials 3"))


# -- the grid ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_cell_is_cut_at_any_width(width):
    header = ["method", *(f"score\n{k}" for k in range(9))]
    rows = [[f"method {i} (control)", *(f"0.{i}{k}99 ± 0.0008 !" for k in range(9))] for i in range(4)]
    lines = grid_lines(header, rows, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert all(text.count(cell) == 1 for row in rows for cell in row[1:])
    blocks = text.split("\n\n")
    assert all(block.count(row[0]) == 1 for block in blocks for row in rows)
    assert all(len({len(line) for line in block.split("\n")[2:]}) == 1 for block in blocks)  # marks are aligned


def test_a_long_label_is_continued():
    label = "magic " + ", ".join(f"parameter{k}={k}" for k in range(9))
    lines = grid_lines(["method", "score"], [[label, "0.1 !"]], 60)
    assert max(map(len, lines)) <= 60
    assert " ".join(" ".join(lines[1:]).replace("0.1 !", "").split()) == label


def test_rounded_zeros():
    assert number(6.252e-33, 4) == "0"
    assert number(-0.000012345, 3) == "-1.23e-05"


# -- what follows ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "beating"),
    [
        ({"magic": [0.5], "alra": [2.5]}, "magic"),
        ({"magic": [1.5], "alra": [2.5]}, ""),  # the better control is not beaten
        ({"magic": [0.98, 0.9, 1.01], "alra": [0.9, 0.9, 0.91]}, "alra"),  # magic is lower by less than its spread
        ({"magic": [0.99, 0.98, 0.99], "alra": [0.9, 0.9, 0.91]}, "magic"),
    ],
)
def test_which_methods_beat_every_control(values, beating):
    n = len(values["magic"])
    table = scores({**values, "gene_mean": [2.0] * n, "gene_mean_posterior": [1.0, 1.0, 1.0][:n]})
    first, *more = said(table)
    assert ("magic" in first, "alra" in first) == ("magic" in beating, n > 1)
    assert bool(more) == (n == 1)


def test_differences_are_taken_within_splits():
    """All scores of the second split are higher, which is no spread between methods."""
    table = scores({"gene_mean": [1.0, 2.0, 3.0], "magic": [0.9, 1.9, 2.89]})
    assert "magic" in said(table)[0]


def test_other_scores_decide_nothing():
    table = scores({"gene_mean": [1.0], "magic": [0.5]}, metric="nrmse")
    assert said(table) == []
    assert deciding_metric(["coverage_90", "mse_log1p", "nrmse"]) == "nrmse"
    assert deciding_metric(["mse", "rmse_sd"]) == "rmse_sd"


@pytest.mark.parametrize("metric", ["mse_log1p", "share_of_zeros_raised", "total_ratio", "coverage_90"])
def test_no_best_where_there_is_no_contest(metric):
    table = scores({"gene_mean": [1.0], "magic": [0.5]}, metric=metric)
    assert not summary(table)["best"].any()


# -- splits ------------------------------------------------------------------------------------------------------------
def test_methods_of_other_splits_are_named():
    values = {"gene_mean": [1.0, 1.0], "alra": [1.0, 1.0], "magic": [0.5, 0.6]}
    assert other_splits(scores(values)) == []
    for table in (scores(values, seeds={"magic": 9}), scores({**values, "magic": [0.5]})):
        (message,) = other_splits(table)
        assert message.code == "other-splits"
        assert "magic" in message
        assert "alra" not in message
        with pytest.warns(UserWarning, match="magic"):
            summary(table)


# -- the command -------------------------------------------------------------------------------------------------------
@pytest.fixture
def cells(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(1.0, 2.0, (1, 12)), (40, 12)).astype(np.float32)
    ad.AnnData(sp.csr_matrix(X), obs=pd.DataFrame(index=[f"c{i}" for i in range(40)])).write_h5ad(tmp_path / "in.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_an_output(cells, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["evaluate", "in.h5ad", "--methods", "alra"]) == 0
    out = capsys.readouterr().out
    assert [path.name for path in cells.iterdir()] == ["in.h5ad"]
    assert "-o scores.csv" in out
    table = out.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    first = [float(line.split("  ")[-1].split()[0]) for line in table if re.search(r"\d [*!]?$|\d$", line)]
    assert len(first) > 5
    assert run(["evaluate", "in.h5ad", "--methods", "alra", "--json"]) == 0
    assert '"output": null' in capsys.readouterr().out


def test_a_table_with_two_seeds(cells, capsys):
    line = ["evaluate", "in.h5ad", "-o", "out.csv", "--methods"]
    assert run([*line, "alra", "--seed", "1"]) == 0
    assert "other-splits" not in capsys.readouterr().err
    assert run([*line, "magic", "--seed", "2"]) == 0
    printed = capsys.readouterr()
    assert "other-splits" in printed.err
    assert "alra (1 split)" in printed.out
    assert read(cells / "out.csv").groupby("method")["seed"].nunique().loc["magic"] == 1
