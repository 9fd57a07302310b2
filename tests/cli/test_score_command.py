"""`imputome mask` for tools that read tables or 10x folders, `imputome score`, and `imputome evaluate --external`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import refused
from imputome.cli import run
from imputome.evaluation.masked import MASK_KEY, read_mask
from imputome.io.reading import read
from imputome.studies.results import read as read_scores

N, G = 50, 20
RNG = np.random.default_rng(0)
RATES = RNG.gamma(0.5, 4.0, (4, G))[np.arange(N) % 4] * RNG.lognormal(0.5, 0.4, (N, 1))
CELLS, GENES = [f"AAAC{k}-1" for k in range(N)], [f"HLA-{k}" for k in range(G)]
LATENT = RNG.normal(size=(N, 2)) @ RNG.normal(size=(2, G))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    names = {"obs": pd.DataFrame(index=CELLS), "var": pd.DataFrame(index=GENES)}
    ad.AnnData(sp.csr_matrix(RNG.poisson(RATES).astype(np.float32)), **names).write_h5ad(tmp_path / "cells.h5ad")
    values = LATENT + 0.3 * RNG.normal(size=(N, G))
    values[0, :3] = np.nan
    ad.AnnData(values, **names).write_h5ad(tmp_path / "real.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mask(output, *more, source="cells.h5ad", scheme="thin"):
    return run(["mask", source, "-o", output, "--scheme", scheme, "--seed", "7", *more])


def write_as_r(path, values, rows, columns):
    """As write.csv(x, path) writes a matrix, its names changed as by data.frame(x)."""
    lines = [",".join(['""', *(f'"{name.replace("-", ".")}"' for name in columns)])]
    lines += [f'"{name}",' + ",".join(f"{x:.15g}" for x in row) for name, row in zip(rows, values, strict=True)]
    Path(path).write_text("\n".join(lines) + "\n")


def summary_of(capsys):
    return json.loads(capsys.readouterr().out)


# -- files for other tools ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("output", ["out.csv", "out.tsv.gz", "out.parquet", "out"])
def test_mask_writes_what_other_tools_read(output, folder, capsys):
    if output.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    assert mask("whole.h5ad") == 0
    assert mask(output, "--quiet") == 0
    whole, truth = ad.read_h5ad("whole.h5ad"), ad.read_h5ad(f"{output}.truth.h5ad")
    masked = read(output, genes_in="columns" if "." in output else None)
    for each in (masked, truth):
        assert list(each.obs_names) == CELLS
        assert list(each.var_names) == GENES
        X = each.X if isinstance(each.X, np.ndarray) else each.X.toarray()
        np.testing.assert_array_equal(X, whole.X.toarray())
    np.testing.assert_array_equal(truth.layers["truth"].toarray(), whole.layers["truth"].toarray())
    capsys.readouterr()
    refused(capsys, mask(output), "output-exists", "--force")
    assert mask(output, "--force", "--fraction", "0.5", "--json") == 0
    assert summary_of(capsys)["truth"] == f"{output}.truth.h5ad"
    assert ad.read_h5ad(f"{output}.truth.h5ad").uns[MASK_KEY]["fraction_asked"] == 0.5
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["cells.h5ad", "real.h5ad", "whole.h5ad", output, f"{output}.truth.h5ad"]
    )


def test_a_table_of_real_values_with_genes_in_the_rows():
    assert mask("out.csv", "--genes-in", "rows", source="real.h5ad", scheme="mcar") == 0
    lines = Path("out.csv").read_text().splitlines()
    assert lines[0] == ",".join(["index", *CELLS])
    split = read_mask(ad.read_h5ad("out.csv.truth.h5ad"))
    values = np.array([[np.nan if x == "NA" else float(x) for x in line.split(",")[1:]] for line in lines[1:]]).T
    np.testing.assert_array_equal(values, split.train.X)
    assert np.isnan(values[split.i, split.j]).all()
    assert np.isnan(values).sum() == len(split.i) + 3


@pytest.mark.parametrize(
    ("output", "source", "code", "said"),
    [
        ("out.xlsx", "cells.h5ad", "unknown-format", ".csv"),
        ("out", "real.h5ad", "real-in-10x-folder", ".h5ad"),
        ("taken", "cells.h5ad", "not-replaceable", "taken"),
        ("file", "cells.h5ad", "not-replaceable", "file"),
        ("nowhere/out", "cells.h5ad", "no-folder", "nowhere"),
    ],
)
def test_what_cannot_be_written(output, source, code, said, folder, capsys):
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    before = sorted(folder.rglob("*"))
    status = mask(output, "--force", source=source, scheme="thin" if source == "cells.h5ad" else "mcar")
    refused(capsys, status, code, said)
    assert sorted(folder.rglob("*")) == before


# -- scores ------------------------------------------------------------------------------------------------------------
def test_a_result_from_r(capsys):
    assert mask("masked.csv", "--genes-in", "rows", "--quiet", source="real.h5ad", scheme="mcar") == 0
    write_as_r("tool.csv", LATENT.T, GENES, CELLS)
    assert run(["score", "masked.csv", "tool.csv", "--json", "-o", "scores.csv"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "[result-transposed]" in printed.err
    assert "[result-r-names]" in printed.err
    assert (found["transposed"], found["leaked"], found["scale"]) == (True, False, "input")
    truth = ad.read_h5ad("masked.csv.truth.h5ad")
    hidden = truth.layers["hidden"].toarray()
    rmse = np.sqrt(np.mean((LATENT - truth.layers["truth"].toarray())[hidden] ** 2))
    row = next(row for row in found["summary"] if (row["method"], row["metric"]) == ("tool", "rmse"))
    assert row["mean"] == pytest.approx(rmse, rel=1e-9)
    assert found["verdict"]["verdict"] == "use"
    scores = read_scores(Path("scores.csv"))
    assert {"tool", "mean", "median"} <= set(scores["method"])
    refused(capsys, run(["score", "masked.csv", "tool.csv", "-o", "scores.csv"]), "output-exists", "--force")
    # the same from the truth itself, and with the values straight
    write_as_r("straight.csv", LATENT, CELLS, GENES)
    assert run(["score", "masked.csv.truth.h5ad", "straight.csv", "--name", "tool", "--json"]) == 0
    again = summary_of(capsys)
    assert again["transposed"] is False
    means = {(each["method"], each["metric"]): each["mean"] for each in again["summary"]}
    assert means["tool", "rmse"] == row["mean"]


def test_counts_in_a_10x_folder(capsys):
    assert mask("masked", "--fraction", "0.2", "--quiet") == 0
    library = read("masked").X.sum(axis=1)
    values = np.log1p(1e4 * 0.8 * RATES / np.asarray(library))
    write_as_r("tool.csv", values.T, GENES, CELLS)
    assert run(["score", "masked", "tool.csv", "--scale", "log1p"]) == 0
    printed = capsys.readouterr().out
    assert "tool (external)" in printed
    assert "gene_mean_posterior (control)" in printed
    assert "verdict on tool: USE" in printed
    assert "hidden entries are exactly as they were before" in printed


def test_a_layer_of_the_masked_file(capsys):
    assert mask("masked.h5ad", "--quiet") == 0
    assert run(["impute", "masked.h5ad", "-o", "out.h5ad", "-m", "gene_mean_posterior", "--quiet"]) == 0
    capsys.readouterr()
    refused(capsys, run(["score", "masked.h5ad", "out.h5ad", "-q"]), "result-unchanged", "--layer")
    line = ["score", "masked.h5ad", "out.h5ad", "--layer", "gene_mean_posterior", "--json", "-q"]
    refused(capsys, run([*line, "--name", "knn"]), "name-taken")
    assert run(line) == 0
    rows = summary_of(capsys)["summary"]
    by_method = {row["method"]: row["mean"] for row in rows if row["metric"] == "poisson_deviance"}
    ours = by_method["gene_mean_posterior (result)"]
    assert ours == pytest.approx(by_method["gene_mean_posterior"], rel=1e-5)


@pytest.mark.parametrize(
    ("values", "rows", "options", "code", "said"),
    [
        (RATES, CELLS, ("--scale", "ln"), "unknown-scale", "log1p"),
        (3 * RATES, CELLS, (), "scale-unclear", "--scale"),
        (RATES, CELLS, ("--scale", "log1p"), "scale-contradicted", "--scale"),
        (RATES[1:], CELLS[1:], ("--scale", "counts"), "result-lacks-names", "--partial"),
        (RATES, [f"x{k}" for k in range(N)], ("--scale", "counts"), "names-differ", "AAAC0-1"),
        (np.where(RATES > 9, np.nan, RATES), CELLS, ("--scale", "counts"), "result-not-finite", "--partial"),
        (RATES, CELLS, ("--layer", "a"), "option-unused", "--layer"),
    ],
)
def test_refused(values, rows, options, code, said, capsys):
    assert mask("masked.h5ad", "--quiet") == 0
    write_as_r("tool.csv", values, rows, GENES)
    refused(capsys, run(["score", "masked.h5ad", "tool.csv", "-q", *options]), code, said)


def test_masked_files_without_their_truth(capsys):
    assert mask("masked.csv", "--quiet") == 0
    write_as_r("tool.csv", RATES, CELLS, GENES)
    Path("masked.csv").write_text(Path("masked.csv").read_text().replace(",0", ",1", 1))
    refused(capsys, run(["score", "masked.csv", "tool.csv"]), "truth-of-another", "masked.csv.truth.h5ad")
    assert run(["score", "masked.csv.truth.h5ad", "tool.csv", "--scale", "counts", "-q"]) == 0
    Path("masked.csv.truth.h5ad").unlink()
    refused(capsys, run(["score", "masked.csv", "tool.csv"]), "no-truth", "imputome mask")
    refused(capsys, run(["score", "other.csv", "tool.csv"]), "no-file", "other.csv")
    refused(capsys, run(["score", "cells.h5ad", "tool.csv"]), "not-a-mask", "imputome mask")
    assert mask("masked.h5ad", "--quiet") == 0
    refused(capsys, run(["score", "masked.h5ad", "none.csv"]), "no-file", "none.csv")


def test_a_result_with_the_identifiers_of_a_10x_folder(capsys):
    cells = ad.read_h5ad("cells.h5ad")
    ids = [f"ENSG{k:011d}" for k in range(G)]
    ids[3] = GENES[3]  # a gene without a symbol has its identifier for a name
    cells.var["gene_ids"] = ids
    cells.write_h5ad("cells.h5ad")
    assert mask("masked", "--quiet") == 0
    write_as_r("tool.csv", (0.9 * RATES).T, ids, CELLS)
    assert run(["score", "masked", "tool.csv", "--scale", "counts", "--json", "-q"]) == 0
    by_id = summary_of(capsys)["summary"]
    assert evaluate("--external", "A=tool.csv:scale=counts", "--masked", "masked") == 0
    write_as_r("tool.csv", 0.9 * RATES, CELLS, GENES)
    assert run(["score", "masked", "tool.csv", "--scale", "counts", "--json", "-q"]) == 0
    by_name = summary_of(capsys)["summary"]
    assert [row["mean"] for row in by_id] == pytest.approx([row["mean"] for row in by_name], nan_ok=True)


def test_one_cell_is_too_little_for_a_verdict(capsys):
    assert mask("masked.h5ad", "--quiet", "--fraction", "0.5") == 0
    write_as_r("tool.csv", RATES[:1], CELLS[:1], GENES)
    assert run(["score", "masked.h5ad", "tool.csv", "--scale", "counts", "--partial"]) == 0
    printed = capsys.readouterr().out
    assert "verdict on tool: WITHHELD" in printed
    assert "nan" not in printed


def test_zeros_are_scored(capsys):
    assert mask("masked.h5ad", "--quiet") == 0
    write_as_r("tool.csv", np.zeros((N, G)), CELLS, GENES)
    assert run(["score", "masked.h5ad", "tool.csv", "--json", "-q"]) == 0
    assert summary_of(capsys)["verdict"]["verdict"] == "do not impute"
    assert evaluate("--external", "A=tool.csv", "--masked", "masked.h5ad") == 0


def test_the_truth_is_told_up_to_a_factor(capsys):
    assert mask("masked.h5ad", "--quiet", "--fraction", "0.3") == 0
    whole = ad.read_h5ad("cells.h5ad").X.toarray()
    write_as_r("tool.csv", 0.9 * whole, CELLS, GENES)
    assert run(["score", "masked.h5ad", "tool.csv", "--scale", "counts"]) == 0
    printed = capsys.readouterr()
    assert "[truth-returned]" in printed.err
    assert "up to one factor for each cell" in printed.out
    assert "WITHHELD" in printed.out


@pytest.mark.parametrize("factor", [1.0, 0.9])
def test_evaluate_says_that_the_truth_came_back(factor, capsys):
    assert mask("masked.h5ad", "--quiet", "--fraction", "0.3") == 0
    write_as_r("tool.csv", factor * ad.read_h5ad("cells.h5ad").X.toarray(), CELLS, GENES)
    line = ["evaluate", "cells.h5ad", "--methods", "gene_mean", "-o", "scores.csv", "--seed", "7", "--fraction", "0.3"]
    assert run([*line, "--external", "A=tool.csv:scale=counts", "--masked", "masked.h5ad"]) == 0
    assert "[truth-returned]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", [["score", "masked.h5ad", "tool.csv"], ["evaluate", "cells.h5ad", "--methods", "gene_mean"]]
)
def test_a_folder_that_takes_no_file(line, capsys):
    if not Path("/proc/self").exists() or os.geteuid():
        pytest.skip("its permissions say no already")
    assert mask("masked.h5ad", "--quiet") == 0
    write_as_r("tool.csv", RATES, CELLS, GENES)
    said = refused(capsys, run([*line, "-o", "/proc/scores.csv"]), "folder-not-writable")
    assert "does not exist" not in said


@pytest.mark.parametrize("as_json", [False, True])
def test_scores_are_shown_where_their_table_cannot_be_written(as_json, monkeypatch, capsys):
    def full(table, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imputome.studies.results.write", full)
    assert mask("masked.h5ad", "--quiet") == 0
    write_as_r("tool.csv", RATES, CELLS, GENES)
    line = ["score", "masked.h5ad", "tool.csv", "--scale", "counts", "-o", "scores.csv"]
    assert run([*line, "--json"] if as_json else line) == 1
    printed = capsys.readouterr()
    assert "gene_mean_posterior" in printed.out
    assert "verdict" in printed.out
    assert "wrote" not in printed.out
    assert printed.err.splitlines()[-1].startswith("error: ")


# -- beside methods ----------------------------------------------------------------------------------------------------
def evaluate(*more):
    line = ["evaluate", "cells.h5ad", "--methods", "gene_mean", "-o", "scores.csv", "--seed", "7", "--quiet"]
    return run([*line, *more])


def test_evaluate_with_results_of_other_tools(capsys):
    assert mask("masked.csv", "--quiet") == 0
    write_as_r("a.csv", 0.9 * RATES, CELLS, GENES)
    write_as_r("b.csv", np.log1p(0.9 * RATES).T, GENES, CELLS)
    two = ["--external", "A=a.csv:scale=counts", "--external", "B=b.csv:scale=log1p_counts", "--masked", "masked.csv"]
    assert evaluate(*two) == 0
    scores = read_scores(Path("scores.csv"))
    a, b = (scores[scores["method"] == name].set_index("metric")["value"] for name in "AB")
    np.testing.assert_allclose(a, b, rtol=1e-9)
    assert run(["score", "masked.csv", "a.csv", "--scale", "counts", "--json", "-q"]) == 0
    rows = summary_of(capsys)["summary"]
    same = next(row["mean"] for row in rows if (row["method"], row["metric"]) == ("a", "poisson_loss"))
    assert a["poisson_loss"] == pytest.approx(same, rel=1e-12)
    # done is done, and new values are scored anew
    assert evaluate(*two) == 0
    assert len(read_scores(Path("scores.csv"))) == len(scores)
    write_as_r("a.csv", 0.8 * RATES, CELLS, GENES)
    assert evaluate(*two) == 0
    assert len(read_scores(Path("scores.csv"))) == len(scores) + len(a)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--external", "a.csv", "--masked", "masked.csv"], "external-form", "NAME=FILE"),
        (["--external", "A=a.csv"], "masked-missing", "--masked"),
        (["--masked", "masked.csv"], "option-unused", "--external"),
        (["--external", "A=a.csv", "--masked", "masked.csv", "--seed", "8"], "other-mask", "--seed 7"),
        (["--external", "A=a.csv", "--masked", "masked.csv", "--fraction", "0.2"], "other-mask", "--fraction 0.1"),
        (["--external", "A=a.csv", "--masked", "masked.csv", "--trials", "2"], "external-one-split", "--trials 1"),
        (["--external", "A=b.csv", "--masked", "masked.csv"], "scale-unclear", "pass scale in --external"),
        (["--external", "A=a.csv:layer=b", "--masked", "masked.csv"], "option-unused", "leave layer in --external"),
        (["--external", "A=c.csv:scale=counts", "--masked", "masked.csv"], "result-lacks-names", "imputome score"),
        (["--external", "A=a.csv", "--masked", "masked.csv", "--min-cells", "40"], "mask-of-other-data", "--seed 7"),
    ],
)
def test_evaluate_refuses(options, code, said, capsys):
    assert mask("masked.csv", "--quiet") == 0
    write_as_r("a.csv", RATES, CELLS, GENES)
    write_as_r("b.csv", 3 * RATES, CELLS, GENES)
    write_as_r("c.csv", RATES[1:], CELLS[1:], GENES)
    refused(capsys, evaluate(*options), code, said)


# -- what messages advise, done ----------------------------------------------------------------------------------------
EXTERNAL = ["--external", "A=a.csv:scale=counts", "--masked", "masked.csv"]


@pytest.mark.parametrize(
    ("options", "code", "remedy"),
    [
        (EXTERNAL[:2], "masked-missing", EXTERNAL),
        ([*EXTERNAL, "--seed", "8"], "other-mask", [*EXTERNAL, "--seed", "7"]),
        ([*EXTERNAL, "--trials", "2"], "external-one-split", [*EXTERNAL, "--trials", "1"]),
        ([*EXTERNAL, "--protocol", "open_problems"], "external-protocol", EXTERNAL),
        ([*EXTERNAL, "--min-cells", "40"], "mask-of-other-data", EXTERNAL),
    ],
)
def test_advice_on_external_results_works(options, code, remedy, capsys):
    assert mask("masked.csv", "--quiet") == 0
    write_as_r("a.csv", RATES, CELLS, GENES)
    refused(capsys, evaluate(*options), code)
    assert evaluate(*remedy) == 0


@pytest.mark.parametrize(
    ("values", "rows", "options", "code", "remedy"),
    [
        (RATES, CELLS, ["--scale", "log1p"], "scale-contradicted", ["--scale", "counts"]),
        (RATES[1:], CELLS[1:], ["--scale", "counts"], "result-lacks-names", ["--scale", "counts", "--partial"]),
        (
            np.where(RATES > 9, np.nan, RATES),
            CELLS,
            ["--scale", "counts"],
            "result-not-finite",
            ["--scale", "counts", "--partial"],
        ),
        (RATES, CELLS, ["--name", "knn"], "name-taken", ["--name", "mine"]),
    ],
)
def test_advice_on_a_result_works(values, rows, options, code, remedy, capsys):
    assert mask("masked.h5ad", "--quiet") == 0
    write_as_r("tool.csv", values, rows, GENES)
    refused(capsys, run(["score", "masked.h5ad", "tool.csv", "-q", *options]), code)
    assert run(["score", "masked.h5ad", "tool.csv", "-q", *remedy]) == 0
