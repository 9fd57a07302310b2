"""Text tables: how they are split, and that a table written again is the same text but for what was missing."""

from __future__ import annotations

import csv
import gzip
import io

import numpy as np
import pandas as pd
import pytest

from codes import has_code
from imputome.core.data import as_data
from imputome.core.imputation import Imputation
from imputome.errors import InputError
from imputome.io.table_patch import copy_text, keeps_text, missing, rewrite
from imputome.io.tables import fill_table, read_table
from imputome.io.text import fields, records
from imputome.result.matrices import Drawn, Spread, ZeroDeviations, draw_names, draw_path


class Known:
    """A model whose values, variances and draws are given."""

    outputs = frozenset({"value", "variance"})

    def __init__(self, values):
        self.values = values
        self.asked = []

    def rows(self, rows, genes, output):
        self.asked.append(np.asarray(rows))
        part = (self.values if output == "value" else self.values**2)[rows]
        return part.copy() if genes is None else part[:, genes]

    def at(self, i, j, output):
        return self.values[i, j]

    def draw(self, rows, number):
        return self.values[rows] + number


def imputation(X, values):
    return Imputation(Known(values), as_data(X, kind="real"), scale="input", keeps_observed=True)


def rewritten(tmp_path, text, values, *, genes_in="columns", name="t.csv", dtype=np.float32, view=None, observed=None):
    """The text that a table becomes; ``values`` (cells x genes) stand where it has none."""
    source, out = tmp_path / name, tmp_path / f"out.{name}"
    data = text if isinstance(text, bytes) else text.encode()
    source.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    adata = read_table(source, genes_in=genes_in, dtype=dtype)
    result = imputation(adata.X, np.broadcast_to(values, adata.shape).astype(np.float64))
    shown = result if view is None else view(result)
    shape = adata.shape[::-1] if genes_in == "rows" else adata.shape
    rewrite(source, out, missing(result, shown, genes_in=genes_in), genes_in=genes_in, shape=shape, observed=observed)
    written = out.read_bytes()
    return (gzip.decompress(written) if name.endswith(".gz") else written).decode()


# -- exact bytes -------------------------------------------------------------------------------------------------------
TABLES = {
    "plain": ("id,a,b\ns1,1.50,?\ns2,?,1e3\n", ","),
    "no corner": ("a\tb\ns1\t1.50\t?\ns2\t?\t1e3\n", "\t"),
    "windows": ("id,a,b\r\ns1,1.50,?\r\ns2,?,1e3\r\n", ","),
    "old mac": ("id,a,b\rs1,1.50,?\rs2,?,1e3\r", ","),
    "mark": ("\ufeffid,a,b\ns1,1.50,?\ns2,?,1e3\n", ","),
    "mark and quotes": ('\ufeff"i,\nd",a,b\ns1,1.50,?\ns2,?,1e3\n', ","),
    "no last line end": ("id,a,b\ns1,1.50,?\ns2,?,1e3", ","),
    "ends in nothing": ("id,a,b\ns1,1.50,2\ns2,3,?", ","),
    "semicolons": ("id;a;b\ns1;1.50;?\ns2;?;1e3\n", ";"),
    "tabs": ("id\ta\tb\ns1\t1.50\t?\ns2\t?\t1e3\n", "\t"),
    "quoted names": ('"i""d","a,1",b\n"s,\r\n1",1.50,?\n"s ""2""",?,1e3\n', ","),
    "quotes inside": ('5" id,a,b\n5" s1,1.50,?\ns"2",?,1e3\n', ","),
    "same names": ("id,a,a\ns,1.50,?\ns,?,1e3\n", ","),
    "numbers as names": ("7,1,2\n007,1.50,?\n1e3,?,1e3\n", ","),
    "names like NA": ("NA,NaN,b\nNA,1.50,?\nnan,?,1e3\n", ","),
    "blank lines": ("id,a,b\n\ns1,1.50,?\n  \ns2,?,1e3\n\n\n", ","),
    "accents": ("id,ä,β\nsé,1.50,?\n細胞,?,1e3\n", ","),
    "odd numbers": ("id,a,b\ns1,+001.50,?\ns2, 7,-.5\ns3,?,1E+3\n", ","),
    "nothing missing": ('id,a,b\n"s1",1.5000,02\ns2,-0,1e3', ","),
}
SPELLINGS = ("", "NA", "NaN", "nan", "null", "NULL", "N/A", "n/a", "#N/A", "None", "-nan", "<NA>", '""', '"NA"')
SPELLINGS += (" ", '" "', "na", "Na", "NAN", "Nan", "n/A", "N/a", "Null", '"null"')


@pytest.mark.parametrize("genes_in", ["columns", "rows"])
@pytest.mark.parametrize("which", TABLES)
def test_all_but_the_missing_is_the_same_text(tmp_path, which, genes_in):
    text, separator = TABLES[which]
    name = {",": "t.csv", ";": "t.csv", "\t": "t.txt"}[separator]
    for spelling in ("", "NA"):
        found = rewritten(tmp_path, text.replace("?", spelling), 2.25, genes_in=genes_in, name=name)
        assert found == text.replace("?", "2.25")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_missing_is_replaced_in_its_quotes(tmp_path, spelling):
    number = '"2.25"' if '"' in spelling else "2.25"
    found = rewritten(tmp_path, f"id,a,b\ns1,1,{spelling}\ns2,{spelling},2\n", 2.25)
    assert found == f"id,a,b\ns1,1,{number}\ns2,{number},2\n"


@pytest.mark.parametrize("genes_in", ["columns", "rows"])
def test_each_value_goes_to_its_place(tmp_path, genes_in, monkeypatch):
    """Random tables against the csv module, in several blocks."""
    monkeypatch.setattr("imputome.io.table_patch.BLOCK_BYTES", 4 * 7 * 3)
    monkeypatch.setattr("imputome.io.table_reading.CHUNK_VALUES", 20)
    rng = np.random.default_rng(5)
    X = rng.normal(size=(23, 7)).round(3)
    X[rng.random(X.shape) < 0.4] = np.nan
    X[4], X[:, 2] = np.nan, np.nan
    X[0, 2], X[4, 0], X[6] = 1.0, 2.0, np.arange(7)  # no empty row or column, one complete row
    table = X if genes_in == "columns" else X.T
    frame = pd.DataFrame(table, index=[f"r,{k}" for k in range(len(table))], columns=range(table.shape[1]))
    text = frame.to_csv(na_rep="NA")
    values = rng.normal(size=X.shape)
    found = list(csv.reader(io.StringIO(rewritten(tmp_path, text, values, genes_in=genes_in))))
    expected = [
        [new if old == "NA" else old for old, new in zip(line, [None, *row], strict=True)]
        for line, row in zip(
            list(csv.reader(io.StringIO(text)))[1:], values if genes_in == "columns" else values.T, strict=True
        )
    ]
    assert len(found) == len(expected) + 1
    for line, row in zip(found[1:], expected, strict=True):
        for cell, wanted in zip(line, row, strict=True):
            if isinstance(wanted, str):
                assert cell == wanted
            else:
                assert float(cell) == pytest.approx(wanted, rel=1e-6)


def test_the_model_is_asked_once_for_each_cell_with_something_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("imputome.io.table_patch.BLOCK_BYTES", 1)  # one cell at a time
    X = np.array([[1, np.nan, 3], [4, 5, 6], [np.nan, 8, 9]], dtype=np.float32)
    for genes_in in ("columns", "rows"):
        result = imputation(X, np.full(X.shape, 0.5))
        lines = list(missing(result, result, genes_in=genes_in))
        assert np.concatenate(result.model.asked).tolist() == [0, 2]
        assert [list(positions) for positions, _ in lines] == (
            [[1], [], [0]] if genes_in == "columns" else [[2], [0], []]
        )


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.0, "0"), (1 / 3, "0.3333333"), (0.99999999, "1"), (1e-9, "1e-09"), (123456789.0, "1.234568e+08"), (-2, "-2")],
)
def test_numbers_have_seven_digits(tmp_path, value, text):
    assert rewritten(tmp_path, "id,a,b\ns1,-1,\ns2,3,2\n", value) == f"id,a,b\ns1,-1,{text}\ns2,3,2\n"


def test_gzip_in_and_out(tmp_path):
    assert rewritten(tmp_path, "id,a,b\ns1,1,\ns2,3,2\n", 2.5, name="t.csv.gz") == "id,a,b\ns1,1,2.5\ns2,3,2\n"


def test_float32_is_read_only_where_the_text_is_kept(tmp_path):
    path = tmp_path / "t.csv"
    for text, dtype in (
        ("i,a\ns,0.1\nt,\n", np.float32),
        ("i,a\ns,0.1\nt,1\n", np.float64),
        ("i,a\ns,1e-40\nt,\n", float),
    ):
        path.write_text(text)
        assert read_table(path, genes_in="columns", dtype=np.float32).X.dtype == dtype
        assert read_table(path, genes_in="columns").X.dtype == np.float64


def test_a_table_that_changed_meanwhile_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,a,b\ns1,1,\ns2,3,2\n")
    adata = read_table(path, genes_in="columns")
    result = imputation(adata.X, np.zeros((2, 2)))
    for text in (
        "id,a,b\ns1,1,7\ns2,3,2\n",
        "id,a,b\ns1,1,\n",
        "id,a,b\ns1,1,\ns2,3,2\ns3,1,1\n",
        "id,a,b\ns1,\ns2,3,2\n",
    ):
        path.write_text(text)
        with pytest.raises(InputError, check=has_code("input-changed")):
            rewrite(
                path,
                tmp_path / "out.csv",
                missing(result, result, genes_in="columns"),
                genes_in="columns",
                shape=(2, 2),
            )


# -- what stands beside ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("genes_in", ["columns", "rows"])
def test_deviations_are_zero_where_observed(tmp_path, genes_in):
    text = '"i;d";a;b\r\n"s,1";1.50;NA\r\ns2;;1e3'
    found = rewritten(tmp_path, text, 2.25, genes_in=genes_in, view=lambda r: Spread(r, True), observed="0")
    assert found == '"i;d";a;b\r\n"s,1";0;2.25\r\ns2;2.25;0'


def test_draws_keep_what_was_observed(tmp_path):
    found = rewritten(tmp_path, "id,a,b\ns1,1.50,\ns2,,1e3\n", 2.25, view=lambda r: Drawn(r, 3))
    assert found == "id,a,b\ns1,1.50,5.25\ns2,5.25,1e3\n"


def test_views_as_new_tables(tmp_path):
    X = np.array([[1, np.nan], [3, 4.0]])
    result = imputation(X, np.full(X.shape, 2.0))
    for view, expected in (
        (Spread(result, True), [[0, 2], [0, 0]]),
        (Spread(result, False), [[2, 2], [2, 2]]),
        (Drawn(result, 1), [[1, 3], [3, 4]]),
        (ZeroDeviations(result.obs_names, result.var_names), [[0, 0], [0, 0]]),
    ):
        for genes_in in ("columns", "rows"):
            fill_table(tmp_path / "o.csv", view, genes_in=genes_in)
            found = pd.read_csv(tmp_path / "o.csv", index_col=0).to_numpy()
            np.testing.assert_array_equal(found if genes_in == "columns" else found.T, expected)
            fill_table(tmp_path / "o.csv", view, genes=np.array([1]), genes_in=genes_in)
            found = pd.read_csv(tmp_path / "o.csv", index_col=0).to_numpy().ravel()
            np.testing.assert_array_equal(found, np.asarray(expected)[:, 1])


def test_names_of_draws(tmp_path):
    assert list(draw_names(2).items()) == [(1, "draw01"), (2, "draw02")]
    assert draw_names(100)[7] == "draw007"
    assert draw_path(tmp_path / "my.full.csv.GZ", "draw01", ".csv.gz") == tmp_path / "my.full.draw01.csv.GZ"


# -- splitting ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_fields_are_those_of_the_csv_module(separator):
    """Joined again they are the text, and without quotes they are what csv reads."""
    rng = np.random.default_rng(1)
    pieces = ["a", '"', '""', separator, "1.5", "\n", " ", "\r\n", "x"]
    checked = 0
    for _ in range(3000):
        text = "".join(rng.choice(pieces, rng.integers(1, 12))) + "\n"
        first = next(records(io.StringIO(text, newline=""), separator))
        found = fields(first, separator)
        if found is None:  # a quote is open to the end
            assert first == text
            continue
        assert separator.join(found) + first[len(first.rstrip("\r\n")) :] == first
        expected = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        assert len(found) == max(1, len(expected))
        checked += 1
    assert checked > 1000


def test_which_tables_keep_their_text(tmp_path):
    same = [("a.csv", "b.csv.gz"), ("a.tsv", "b.txt"), ("A.CSV.GZ", "b.csv")]
    other = [
        ("a.csv", "b.tsv"),
        ("a.csv", "b.parquet"),
        ("a.parquet", "b.parquet"),
        ("a.h5ad", "b.csv"),
        ("a.csv", "b.h5ad"),
    ]
    assert [keeps_text(tmp_path / a, tmp_path / b) for a, b in same + other] == [True] * 3 + [False] * 5


@pytest.mark.parametrize(
    "names", [("a.csv", "b.csv"), ("a.csv.gz", "b.csv.gz"), ("a.csv", "b.csv.gz"), ("a.csv.gz", "b.csv")]
)
def test_copies_are_the_same_bytes(tmp_path, names):
    text = '\ufeffid,"a"\r\ns,1\rt,2\n\n'.encode()
    source, out = (tmp_path / name for name in names)
    source.write_bytes(gzip.compress(text, mtime=0) if source.suffix == ".gz" else text)
    copy_text(source, out)
    assert (gzip.decompress(out.read_bytes()) if out.suffix == ".gz" else out.read_bytes()) == text
