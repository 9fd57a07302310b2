"""`imputome impute` on tables in their own dialect: counts, annotation, decimal commas, codes, stdin and stdout."""

from __future__ import annotations

import gzip
import io
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from codes import refused
from imputome.cli import run

RNG = np.random.default_rng(0)
N, G = 6, 20
COUNTS = RNG.poisson(RNG.gamma(2, 2, (1, G)), (N, G)) + (np.arange(N)[:, None] == 0)
NAMES, SAMPLES = [f"g,{k}" for k in range(G)], [f"s {k}" for k in range(N)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def impute(*arguments):
    return run(["impute", *map(str, arguments)])


def text_of(values, names, columns, *, separator, quote, end, corner=True, extra=None):
    """A table as another program writes it."""
    lines = [([f"{quote}id{quote}"] if corner else []) + ([] if extra is None else ["Length"])]
    lines[0] += [f"{quote}{name}{quote}" for name in columns]
    for k, name in enumerate(names):
        lines.append([f"{quote}{name}{quote}", *([] if extra is None else [extra[k]]), *map(str, values[k])])
    return "".join(separator.join(line) + end for line in lines)


# -- counts ------------------------------------------------------------------------------------------------------------
DIALECTS = [
    {"separator": ";", "quote": '"', "end": "\r\n"},
    {"separator": "\t", "quote": "", "end": "\n", "corner": False},
    {"separator": "\t", "quote": '"', "end": "\n", "extra": [f"0{k}" for k in range(G)]},
    {"separator": ",", "quote": '"', "end": "\r"},
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["in.txt", "in.tsv.gz"])
@pytest.mark.parametrize("scale", ["counts", "log1p"])
def test_counts_come_back_in_their_dialect(folder, dialect, name, scale):
    text = "# made by a program" + dialect["end"] + text_of(COUNTS.T, NAMES, SAMPLES, **dialect)
    data = text.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    options = ("--genes-in", "rows", "-m", "gene_mean", "--scale", scale, "-q")
    assert impute(name, "-o", "out.tsv", *options) == 0
    assert impute(name, "-o", "out.h5ad", *options) == 0
    layer = ad.read_h5ad("out.h5ad").layers["gene_mean"].T
    shown = [[repr(float(value)).removesuffix(".0") for value in row] for row in layer.astype(float)]
    written = (folder / "out.tsv").read_bytes().decode()
    expected = text_of(shown, NAMES, SAMPLES, **dialect)
    assert written.startswith(text[:40])
    separator, end = dialect["separator"], dialect["end"]
    lines, wanted = written.split(end), ("# made by a program" + end + expected).split(end)
    assert len(lines) == len(wanted)
    for line, other in zip(lines[2:-1], wanted[2:-1], strict=True):
        assert line.rsplit(separator, N)[:1] == other.rsplit(separator, N)[:1]  # names and lengths
        found, value = (np.array(each.rsplit(separator, N)[1:], float) for each in (line, other))
        np.testing.assert_allclose(found, value, rtol=1e-6)
    assert lines[:2] == wanted[:2]


def test_counts_with_cells_in_rows_and_observed_values_kept(folder):
    dialect = {"separator": ";", "quote": '"', "end": "\n"}
    (folder / "in.csv").write_text(text_of(COUNTS, SAMPLES, NAMES, **dialect))
    assert impute("in.csv", "-o", "out.csv", "--genes-in", "columns", "-m", "gene_mean", "--keep-observed", "-q") == 0
    found = pd.read_csv("out.csv", sep=";", index_col=0)
    assert (list(found.index), list(found.columns)) == (SAMPLES, NAMES)
    np.testing.assert_array_equal(found.to_numpy()[COUNTS > 0], COUNTS[COUNTS > 0])
    assert (found.to_numpy()[COUNTS == 0] > 0).all()
    line = (folder / "out.csv").read_text().splitlines()[1].split(";")
    assert line[1:] == [str(count) for count in COUNTS[0]]  # of the first cell all are observed


# -- columns that describe the rows ------------------------------------------------------------------------------------
ANNOTATED = 'gene\tEntrez_Gene_Id\t"de/sc"\ta\tb\tc\nA\t007\t"x, y"\t0.50\tNA\t0.7\n'
ANNOTATED += "B\t1e+05\tz\t\t0.25\t0.10\nC\tNA\tw\t0.3\t0.2\tNA\n"


def test_annotation_stays_as_it_was(folder, capsys):
    (folder / "in.txt").write_text(ANNOTATED)
    assert impute("in.txt", "-o", "out.txt", "--genes-in", "rows", "-m", "mean") == 0
    assert "[annotation-passed]" in capsys.readouterr().err
    old, new = (pd.read_csv(name, sep="\t", dtype=str, keep_default_na=False) for name in ("in.txt", "out.txt"))
    pd.testing.assert_frame_equal(old.iloc[:, :3], new.iloc[:, :3])
    kept = (old != "") & (old != "NA")
    assert (new[kept] == old[kept])[kept].to_numpy()[kept.to_numpy()].all()
    assert new.iloc[0, 4] == "0.6"  # the mean of the gene
    # in another format and for some genes too
    assert impute("in.txt", "-o", "out.csv", "--genes-in", "rows", "-m", "mean", "--genes", "C,B") == 0
    some = pd.read_csv("out.csv", dtype=str, index_col=0, keep_default_na=False)
    assert some.loc["B", "Entrez_Gene_Id"] == "1e+05"
    assert some.loc["C", "de_sc"] == "w"
    assert impute("in.txt", "-o", "out.h5ad", "--genes-in", "rows", "-m", "mean") == 0
    assert list(ad.read_h5ad("out.h5ad").var["de_sc"]) == ["x, y", "z", "w"]


def test_a_refused_column_and_the_two_ways_on(folder, capsys):
    beta = np.clip(RNG.beta(0.4, 0.6, (40, 1)) + RNG.normal(0, 0.05, (40, 12)), 0.001, 0.999).round(3)
    frame = pd.DataFrame(beta, index=[f"cg{k}" for k in range(40)], columns=[f"s{k}" for k in range(12)])
    frame.iloc[3, 4] = np.nan
    frame.insert(0, "wxyz", RNG.integers(1, 10**6, 40))
    frame.to_csv("in.csv")
    options = ("--genes-in", "rows", "-m", "mean")
    refused(capsys, impute("in.csv", "-o", "o.csv", *options), "annotation-column", "--annotation wxyz")
    assert run(["inspect", "in.csv", "--genes-in", "rows"]) == 1
    assert "[annotation-column]" in capsys.readouterr().err
    assert impute("in.csv", "-o", "o.csv", *options, "--annotation", "wxyz") == 0
    found = pd.read_csv("o.csv", index_col=0)
    assert list(found["wxyz"]) == list(frame["wxyz"])
    assert found.iloc[3, 5] == pytest.approx(np.nanmean(frame.iloc[3, 1:]), abs=1e-6)
    assert found.iloc[:, 1:].max().max() < 1
    assert impute("in.csv", "-o", "p.csv", *options, "--annotation", "none") == 0
    assert "[sample-off-scale]" in capsys.readouterr().err


# -- decimal commas, codes ---------------------------------------------------------------------------------------------
def test_decimal_commas_come_back(folder, capsys):
    text = 'id;a;b;c\r\ns1;1,50;NA;3\r\ns2;;2,000;"NA"\r\ns3;4;1e0;0,70\r\n'
    (folder / "in.csv").write_bytes(text.encode())
    refused(
        capsys, impute("in.csv", "-o", "o.csv", "--genes-in", "columns", "-m", "mean"), "decimal-comma", "--decimal ,"
    )
    assert impute("in.csv", "-o", "o.csv", "--genes-in", "columns", "-m", "mean", "--decimal", ",") == 0
    filled = 'id;a;b;c\r\ns1;1,50;1,5;3\r\ns2;2,75;2,000;"1,85"\r\ns3;4;1e0;0,70\r\n'
    assert (folder / "o.csv").read_bytes().decode() == filled
    assert run(["inspect", "in.csv", "--genes-in", "columns", "--decimal", ","]) == 0


def test_codes_of_missing_values_are_filled(folder, capsys):
    text = "id,a,b,c\ns1,0.5,-1,0.3\ns2,-1.00,0.2,-9\ns3,0.4,0.1,0.70\n"
    (folder / "in.csv").write_text(text)
    options = ("--genes-in", "columns", "-m", "mean")
    refused(capsys, impute("in.csv", "-o", "same.csv", *options), "missing-code", "--missing -9,-1")
    for given in (("--missing", "-1,-9"), ("--missing", "-1", "--missing", "-9")):
        assert impute("in.csv", "-o", "o.csv", *options, *given, "--force") == 0
        assert (folder / "o.csv").read_text() == "id,a,b,c\ns1,0.5,0.15,0.3\ns2,0.45,0.2,0.5\ns3,0.4,0.1,0.70\n"
    pd.read_csv("in.csv", index_col=0).to_parquet("in.parquet")
    ad.AnnData(pd.read_csv("in.csv", index_col=0)).write_h5ad("in.h5ad")
    capsys.readouterr()
    refused(capsys, impute("in.h5ad", "-o", "o.h5ad", "-m", "mean"), "missing-code", "--missing -9,-1")
    assert impute("in.h5ad", "-o", "o.h5ad", "-m", "mean", "--missing", "-1,-9") == 0
    np.testing.assert_allclose(ad.read_h5ad("o.h5ad").layers["mean"][1], [0.45, 0.2, 0.5])
    (folder / "in.csv").write_text(text.replace("-1.00", "ND").replace("-1", "ND").replace("-9", "?"))
    capsys.readouterr()
    refused(capsys, impute("in.csv", "-o", "p.csv", *options), "not-a-number", "--missing ND")
    assert impute("in.csv", "-o", "p.csv", *options, "--missing", "ND,?") == 0
    assert (folder / "p.csv").read_text() == (folder / "o.csv").read_text()


# -- stdin and stdout --------------------------------------------------------------------------------------------------
TABLE = 'id;a;b\r\ns1;1.50;NA\r\ns2;"NA";2\r\ns3;3;4\r\n'
FILLED = 'id;a;b\r\ns1;1.50;3\r\ns2;"2.25";2\r\ns3;3;4\r\n'


class Stdin:
    def __init__(self, content):
        self.buffer = io.BytesIO(content)


def test_the_table_goes_to_stdout_and_the_words_to_stderr(folder, capfd):
    (folder / "in.csv").write_bytes(TABLE.encode())
    assert impute("in.csv", "-o", "-", "--genes-in", "columns", "-m", "mean") == 0
    printed = capfd.readouterr()
    assert printed.out == FILLED
    assert "to stdout" in printed.err
    assert impute("in.csv", "-o", "-", "--genes-in", "columns", "-m", "mean", "-q") == 0
    assert capfd.readouterr() == (FILLED, "")
    assert run(["fit", "in.csv", "--genes-in", "columns", "-m", "model", "--method", "mean", "-q"]) == 0
    assert run(["apply", "model", "in.csv", "-o", "-", "--genes-in", "columns", "-q"]) == 0
    assert capfd.readouterr() == (FILLED, "")
    assert sorted(path.name for path in folder.iterdir()) == ["in.csv", "model"]
    assert impute("in.csv", "-o", "-", "--genes-in", "columns", "-m", "gaussian_copula", "--draws", "2") == 1
    assert "[draws-to-stdout]" in capfd.readouterr().err


def test_other_inputs_give_a_csv_on_stdout(folder, capfd):
    pd.read_csv(io.StringIO(TABLE), sep=";", index_col=0).to_parquet("in.parquet")
    assert impute("in.parquet", "-o", "-", "--genes-in", "columns", "-m", "mean", "-q") == 0
    assert capfd.readouterr().out == "index,a,b\ns1,1.5,3.0\ns2,2.25,2.0\ns3,3.0,4.0\n"


def test_a_failure_writes_nothing_to_stdout(folder, capfd):
    (folder / "in.csv").write_text("id,a\nx,1\ny,z\n")
    assert impute("in.csv", "-o", "-", "--genes-in", "columns", "-m", "mean") == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "[not-a-number]" in printed.err


@pytest.mark.parametrize(("separator", "output"), [(";", "-"), ("\t", "-"), (";", "o.csv"), ("\t", "o.txt")])
def test_the_table_comes_from_stdin(folder, capfd, monkeypatch, separator, output):
    monkeypatch.setattr(sys, "stdin", Stdin(TABLE.replace(";", separator).encode()))
    assert impute("-", "-o", output, "--genes-in", "columns", "-m", "mean", "-q") == 0
    text = capfd.readouterr().out if output == "-" else (folder / output).read_bytes().decode()
    assert text == FILLED.replace(";", separator)


# -- remove ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["missing.h5ad", "no/folder/missing.h5ad", "missing.zarr"])
def test_removing_from_a_file_that_is_not_there(folder, capsys, path):
    refused(capsys, run(["remove", path, "x"]), "no-file", path)


def test_a_model_does_not_take_codes_for_values(folder, capsys):
    values = np.random.default_rng(2).normal(20, 2, (12, 5)).round(3)
    values[0, 0] = np.nan
    names = {"index": [f"s{k}" for k in range(12)], "columns": list("abcde")}
    pd.DataFrame(values, **names).to_csv("old.csv")
    values[:3, 1] = -9
    pd.DataFrame(values, **names).iloc[1:].to_csv("new.csv")  # as if nothing were missing
    options = ["--genes-in", "columns", "--quiet"]
    assert run(["fit", "old.csv", "-m", "model", "--method", "knn", *options]) == 0
    command = ["apply", "model", "new.csv", "-o", "out.csv", *options]
    refused(capsys, run(command), "missing-code", "--missing -9")
    assert run([*command, "--missing", "-9"]) == 0
    assert (pd.read_csv("out.csv", index_col=0) > 10).all(axis=None)
    assert run([*command, "--kind", "real", "--force"]) == 0
    assert (folder / "out.csv").read_text() == (folder / "new.csv").read_text()
