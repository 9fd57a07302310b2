from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome.core.data import as_data
from imputome.core.imputation import Imputation
from imputome.errors import InputError, MissingExtraError
from imputome.inspection.state import inspect
from imputome.io.tables import read_table, write_table


class Known:
    """A model whose values are given."""

    outputs = frozenset({"value"})

    def __init__(self, values):
        self.values = values

    def rows(self, rows, genes, output):
        part = self.values[rows]
        return part.copy() if genes is None else part[:, genes]

    def at(self, i, j, output):
        return self.values[i, j]


def imputation(values, cells=None, genes=None):
    counts = np.ones(values.shape)
    return Imputation(
        Known(values),
        as_data(counts, kind="counts", obs_names=cells, var_names=genes),
        scale="counts",
        keeps_observed=False,
    )


def dense(adata):
    return adata.X.toarray() if sp.issparse(adata.X) else adata.X


# -- reading -----------------------------------------------------------------------------------------------------------
def test_orientation_is_never_guessed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("cell,g1,g2\nc1,1,2\n")
    with pytest.raises(InputError, check=has_code("no-orientation")):
        read_table(path, genes_in=None)
    with pytest.raises(InputError, check=has_code("no-orientation")):
        read_table(path, genes_in="genes")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t.csv.gz", "t.tsv.gz", "t.txt.gz", "T.CSV"])
def test_both_orientations_of_text(tmp_path, name):
    separator = "," if ".csv" in name.lower() else "\t"
    text = "\n".join(separator.join(row) for row in [["", "g1", "g2", "g3"], ["c1", "1", "0", "0"], ["c2"] + ["0"] * 3])
    (tmp_path / name).write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith("gz") else text.encode())
    adata = read_table(tmp_path / name, genes_in="columns")
    assert (list(adata.obs_names), list(adata.var_names)) == (["c1", "c2"], ["g1", "g2", "g3"])
    np.testing.assert_array_equal(dense(adata), [[1, 0, 0], [0, 0, 0]])
    turned = read_table(tmp_path / name, genes_in="rows")
    assert (list(turned.obs_names), list(turned.var_names)) == (["g1", "g2", "g3"], ["c1", "c2"])
    np.testing.assert_array_equal(dense(turned), [[1, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize(
    ("values", "sparse", "dtype"),
    [
        ([[1, 0, 0], [0, 0, 2]], True, np.float32),
        ([[2**24 - 1, 0, 0], [0, 0, 2]], True, np.float32),
        ([[2**24 + 1, 0, 0], [0, 0, 2]], True, np.float64),
        ([[1, 0, 3], [0, 0, 2]], False, np.float64),  # half of the values are zero, not more
        ([[-1, 0, 0], [0, 0, 2]], False, np.float64),
        ([[0.5, 0, 0], [0, 0, 2]], False, np.float64),
        ([[np.nan, 0, 0], [0, 0, 2]], False, np.float64),
    ],
)
def test_type_of_the_matrix(tmp_path, values, sparse, dtype):
    table = pd.DataFrame(values, index=["a", "b"], columns=["x", "y", "z"])
    table.to_csv(tmp_path / "t.csv")
    table.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        for genes_in in ("columns", "rows"):
            adata = read_table(tmp_path / name, genes_in=genes_in)
            assert isinstance(adata.X, sp.csr_matrix) == sparse
            assert adata.X.dtype == dtype
            expected = table.to_numpy() if genes_in == "columns" else table.to_numpy().T
            np.testing.assert_array_equal(dense(adata), expected)


def test_missing_values_in_every_spelling(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("cell,a,b,c,d\nc1,1,,NA,NaN\nc2,1,2,3,4\n")
    np.testing.assert_array_equal(
        read_table(path, genes_in="columns").X, [[1, np.nan, np.nan, np.nan], [1.0, 2.0, 3.0, 4.0]]
    )


def test_names_stay_as_they_are(tmp_path):
    """Duplicates, a gene called NA, numbers with leading zeros and quoted separators are names like others."""
    path = tmp_path / "t.csv"
    path.write_text('\ufeffcell,g,g,NA,"a,b"\n007,1,2,3,4\nNA,5,6,7,8\n1e3,5,6,7,8\n', encoding="utf-8")
    adata = read_table(path, genes_in="columns")
    assert list(adata.var_names) == ["g", "g", "NA", "a,b"]
    assert list(adata.obs_names) == ["007", "NA", "1e3"]
    np.testing.assert_array_equal(adata.X[:, 1], [2, 6, 6])


def test_names_of_the_other_side_are_named_in_errors(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n0.5,1,2\n1.5,3,4\n")
    with pytest.raises(InputError, check=has_code("no-row-names")):
        read_table(path, genes_in="rows")
    path.write_text("g1,0.5,1.5\ng2,3,4\n")
    with pytest.raises(InputError, check=has_code("no-header")):
        read_table(path, genes_in="rows")


def test_whole_numbers_do_as_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,1,2\n1,0.5,\n2,1.5,3\n")
    adata = read_table(path, genes_in="columns")
    assert (list(adata.obs_names), list(adata.var_names)) == (["1", "2"], ["1", "2"])


@pytest.mark.parametrize("marker", [".", "-", "?", "ND", "#DIV/0!", "missing", "  "])
def test_a_marker_among_numbers_is_to_be_replaced(tmp_path, marker):
    (tmp_path / "t.csv").write_text(f"id,a,b\nc1,1,2\nc2,3,{marker}\nc3,5,6\nc4,7,8\n")
    with pytest.raises(InputError, check=has_code("not-a-number")):
        read_table(tmp_path / "t.csv", genes_in="columns")


@pytest.mark.parametrize("code", [-99, -999, -9999])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_number_that_probably_means_missing_is_refused(tmp_path, code, suffix):
    path = tmp_path / f"t{suffix}"
    table = pd.DataFrame({"a": [1.5, code, np.nan], "b": [code, -3.0, 60000.0]}, index=["x", "y", "z"])
    table.to_csv(path) if suffix == ".csv" else table.to_parquet(path)
    adata = read_table(path, genes_in="columns")
    assert [(error.code, error.options["missing"]) for error in inspect(adata).errors] == [("missing-code", str(code))]
    np.testing.assert_array_equal(adata.X, table.to_numpy())


@pytest.mark.parametrize(
    "values", [[-99, -60, 3], [-999, -998.5, -400], [-98.9, 1, 2], [-5, 1, 2], [-99] * 3, [9999, 1, 2]]
)
def test_no_warning_where_other_values_are_near(tmp_path, values, recwarn):
    path = tmp_path / "t.csv"
    pd.DataFrame({"a": values, "b": np.nan}, index=["x", "y", "z"]).to_csv(path)
    read_table(path, genes_in="columns")
    assert [str(warning.message) for warning in recwarn] == []


def test_header_without_a_corner(tmp_path):
    (tmp_path / "t.tsv").write_text("g1\tg2\nc1\t1\t2\nc2\t3\t4\n")  # R's write.table
    adata = read_table(tmp_path / "t.tsv", genes_in="columns")
    assert (list(adata.obs_names), list(adata.var_names)) == (["c1", "c2"], ["g1", "g2"])
    np.testing.assert_array_equal(adata.X, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n", "empty"),
        ("\n\ncell,a,b\nc1,1,2\n", "no-header"),
        ("  \ncell,a,b\nc1,1,2\n", "no-header"),
        ("cell,a,b\n", "empty"),
        ("cell,a,b\nc1,1,2\nc2,1\n", "ragged"),
        ("cell,a,b\nc1,1,2\nc2,1,2,3\n", "ragged"),
        ("cell,a,b\nc1,1,2,3\nc2,1,2\nc3,1,2\n", "ragged"),
        ('cell,a,b\n"c\n1",1,2\n\nc2,1\n', "ragged"),
        ("a,b\nc1,1,2\nc2,1,2\nc3,1\n", "ragged"),
        ("cell,a,b\nc1,1\nc2,1\n", "ragged"),
        ("cell,a,b,c,d\nc1,1,2\n", "ragged"),
        ('cell,a,b\nc1,1,2\n"c2,1,2\nc3,1,2\n', "open-quote"),
        ("cell a b\nc1 1 2\n", "separator"),
        ("cell,a,b\nc1,1,2\n,,\n", "empty-line"),
        ("cell,a,b\nc1,1,2\n,3,\n", "empty-name"),
        ("cell,a,,b\nc1,1,2,3\n", "empty-name"),
        ("a,,b\nc1,1,2,3\n", "empty-name"),
        (
            "a,b,c\n0.5,1,2\n-1e-3,3,4\n1,5,6\n",
            "no-row-names",
        ),
        ("c1,0.5,,2,1.\nc2,1,2,3,4\n", "no-header"),
        ("cell|a|b\nc1|1|2\n", "separator"),
        ("cell,a,b\nc1,1,high\nc2,1,low\n", "not-a-number"),
        ("cell,a,b\nc1,1,True\nc2,1,False\n", "not-a-number"),
    ],
)
def test_a_bad_table_is_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, check=has_code(message)) as caught:
        read_table(path, genes_in="columns")
    assert "\n" not in str(caught.value)


def test_a_short_line_is_not_a_missing_value(tmp_path):
    """pandas fills both up with NaN; only the second is a table."""
    path = tmp_path / "t.csv"
    path.write_text("cell,a,b\nc1,1,2\nc2,1\n")
    with pytest.raises(InputError, check=has_code("ragged")):
        read_table(path, genes_in="columns")
    path.write_text("cell,a,b\nc1,1,2\nc2,1,\n")
    np.testing.assert_array_equal(read_table(path, genes_in="columns").X, [[1, 2], [1, np.nan]])


@pytest.mark.parametrize("damage", [gzip.compress(b"cell,a\nc1,1\n" * 1000, mtime=0)[:60], b"\x1f\x8b" * 40])
def test_damaged_gzip(tmp_path, damage):
    (tmp_path / "t.csv.gz").write_bytes(damage)
    with pytest.raises(InputError, check=has_code("damaged")):
        read_table(tmp_path / "t.csv.gz", genes_in="columns")


TABLE = "cell,a,b\nc1,1,2\n\u00e91,3,4\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", bytes(range(256)), "not-text"),
        ("t.csv", TABLE.encode("utf-16-le"), "not-text"),
        ("t.csv", TABLE.encode("latin-1"), "not-utf8"),
        (
            "t.csv",
            b"cell,a,b\n" + b"c1,1,2\n" * 50000 + b"\xe9,3,4\n",
            "not-utf8",
        ),
        ("t.csv", b"cell,a,b\nc1,1,2,3\n" + b"c1,1,2\n" * 50000 + b"\xe9,3,4\n", "not-utf8"),
        ("t.csv.gz", gzip.compress(TABLE.encode("latin-1"), mtime=0), "not-utf8"),
        ("t.csv", b"PK\x03\x04" + bytes(100), "not-text"),
        ("t.csv", gzip.compress(TABLE.encode(), mtime=0), "gzipped"),
        ("t.csv.gz", TABLE.encode(), "not-gzipped"),
    ],
)
def test_another_kind_of_file_than_its_name_says(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, check=has_code(message)) as caught:
        read_table(tmp_path / name, genes_in="columns")
    assert "codec" not in str(caught.value)


def test_damaged_parquet_and_no_file(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, check=has_code("unreadable")):
        read_table(tmp_path / "t.parquet", genes_in="columns")
    with pytest.raises(InputError, check=has_code("no-file")):
        read_table(tmp_path / "none.csv", genes_in="columns")


def test_parquet_names_from_a_column_of_strings(tmp_path):
    table = pd.DataFrame({"a": [1.5, 2.0], "cell": ["c1", "c2"], "b": [3, 4]})
    table.to_parquet(tmp_path / "t.parquet", index=False)
    adata = read_table(tmp_path / "t.parquet", genes_in="columns")
    assert (list(adata.obs_names), list(adata.var_names)) == (["c1", "c2"], ["a", "b"])
    np.testing.assert_array_equal(adata.X, [[1.5, 3], [2, 4]])
    table[["a", "b"]].to_parquet(tmp_path / "bare.parquet", index=False)
    with pytest.raises(InputError, check=has_code("no-row-names")):
        read_table(tmp_path / "bare.parquet", genes_in="columns")


def test_parquet_with_nulls_and_a_text_column(tmp_path):
    table = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1.0, 2.0]}, index=["c1", "c2"])
    table.to_parquet(tmp_path / "t.parquet")
    np.testing.assert_array_equal(read_table(tmp_path / "t.parquet", genes_in="columns").X, [[1, 1], [np.nan, 2]])
    table["type"] = ["T cell", "B cell"]
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, check=has_code("not-a-number")):
        read_table(tmp_path / "t.parquet", genes_in="columns")


# -- writing -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def values():
    rng = np.random.default_rng(3)
    table = rng.gamma(0.3, 1, (41, 7)) * 10.0 ** rng.integers(-12, 9, (41, 7))
    table[rng.random((41, 7)) < 0.3] = 0
    return table


def read_back(path, dtype):
    if path.suffix == ".parquet":
        return pd.read_parquet(path).set_index("index")
    separator = "," if ".csv" in path.name else "\t"
    # the default parser of pandas is off by one unit in the last place
    return pd.read_csv(path, sep=separator, index_col=0, float_precision="round_trip").astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("genes_in", ["columns", "rows"])
@pytest.mark.parametrize("name", ["o.csv", "o.tsv", "o.txt", "o.csv.gz", "o.tsv.gz", "o.parquet"])
def test_written_values_are_exact(tmp_path, values, name, genes_in, dtype, monkeypatch):
    monkeypatch.setattr("imputome.io.tables.BLOCK_BYTES", 4 * 7 * 5)  # several blocks, the last of them short
    monkeypatch.setattr("imputome.io.tables._PARQUET_BLOCK_BYTES", 4 * 7 * 5)
    cells, genes = [f"c{k}" for k in range(41)], [f"g{k}" for k in range(7)]
    result = imputation(values.astype(dtype), cells, genes)
    done = []
    write_table(tmp_path / name, result, genes_in=genes_in, progress=lambda *step: done.append(step))
    back = read_back(tmp_path / name, dtype)
    back = back if genes_in == "columns" else back.T
    assert (list(back.index), list(back.columns)) == (cells, genes)
    assert (back.dtypes == dtype).all()
    np.testing.assert_array_equal(back.to_numpy(), values.astype(dtype))
    total = 41 if genes_in == "columns" else 7
    assert done[-1] == (total, total)
    assert len(done) > 2
    again = read_table(tmp_path / name, genes_in=genes_in)
    np.testing.assert_array_equal(dense(again).astype(dtype), values.astype(dtype))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_text_is_as_short_as_float32_allows(tmp_path):
    write_table(tmp_path / "o.csv", imputation(np.array([[0.1, 1e-7], [1 / 3, 0]], dtype=np.float32), ["a", "b"]))
    assert (tmp_path / "o.csv").read_text() == "index,0,1\na,0.1,1e-07\nb,0.33333334,0.0\n"


def test_names_with_separators_survive(tmp_path):
    result = imputation(np.eye(2, dtype=np.float32) + 0.5, ['c,"1"', "c\n2"], ["g,1", "NA"])
    write_table(tmp_path / "o.csv", result)
    adata = read_table(tmp_path / "o.csv", genes_in="columns")
    assert (list(adata.obs_names), list(adata.var_names)) == (['c,"1"', "c\n2"], ["g,1", "NA"])


@pytest.mark.parametrize("genes_in", ["columns", "rows"])
def test_some_genes_in_the_order_asked(tmp_path, values, genes_in):
    write_table(tmp_path / "o.csv", imputation(values), genes=[5, 0], genes_in=genes_in)
    back = pd.read_csv(tmp_path / "o.csv", index_col=0, float_precision="round_trip")
    back = back if genes_in == "columns" else back.T
    np.testing.assert_array_equal(back.to_numpy(), values[:, [5, 0]])


def test_scale_and_observed_reach_the_values(tmp_path):
    result = imputation(np.full((3, 4), 2.0))  # the counts are ones, so the library of each cell is 4
    write_table(tmp_path / "a.csv", result, scale="normalized")
    assert (pd.read_csv(tmp_path / "a.csv", index_col=0).to_numpy() == 2 * 1e4 / 4).all()
    write_table(tmp_path / "b.csv", result, keep_observed=True)
    assert (pd.read_csv(tmp_path / "b.csv", index_col=0).to_numpy() == 1).all()
    with pytest.raises(InputError, check=has_code("unknown-output")):
        write_table(tmp_path / "c.csv", result, output="variance")
    assert not (tmp_path / "c.csv").exists()


def test_gzip_has_the_same_bytes_every_time(tmp_path, values, monkeypatch):
    write_table(tmp_path / "o.csv.gz", imputation(values))
    first = (tmp_path / "o.csv.gz").read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_table(tmp_path / "other.csv.gz", imputation(values))
    assert (tmp_path / "other.csv.gz").read_bytes() == first


def test_parquet_refuses_duplicated_columns_and_allows_a_gene_called_index(tmp_path):
    result = imputation(np.ones((2, 2), dtype=np.float32), ["a", "b"], ["g", "g"])
    with pytest.raises(InputError, check=has_code("names-not-unique")):
        write_table(tmp_path / "o.parquet", result)
    assert list(tmp_path.iterdir()) == []
    write_table(tmp_path / "o.parquet", imputation(np.eye(2, dtype=np.float32), ["a", "b"], ["index", "g"]))
    adata = read_table(tmp_path / "o.parquet", genes_in="columns")
    assert (list(adata.obs_names), list(adata.var_names)) == (["a", "b"], ["index", "g"])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, check=has_code("missing-extra")):
        write_table(tmp_path / "o.parquet", imputation(np.eye(2)))
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "t.parquet")
    with pytest.raises(MissingExtraError, check=has_code("missing-extra")):
        read_table(tmp_path / "t.parquet", genes_in="rows")


def test_a_table_is_written_whole_or_not_at_all(tmp_path, values):
    (tmp_path / "o.csv").write_text("old")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(tmp_path / "o.csv", imputation(values), progress=stop)
    assert (tmp_path / "o.csv").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["o.csv"]


# -- what spreadsheets and R make --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "id;a,x;b\nc1;1.5;2\nc2;3;4\n"),
        ("t.csv", "id\ta\tb\nc1\t1.5\t2\nc2\t3\t4\n"),
        ("t.txt", "id,a,b\nc1,1.5,2\nc2,3,4\n"),
        ("t.tsv", "a;b\nc1;1.5;2\nc2;3;4\n"),
    ],
)
def test_another_separator_than_the_name_promises(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    adata = read_table(tmp_path / name, genes_in="columns")
    assert adata.shape == (2, 2)
    np.testing.assert_array_equal(adata.X, [[1.5, 2], [3, 4]])


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("t.csv", "id;a;b\nc1;1,5;2\nc2;3,25;4\n", "decimal-comma"),
        ("t.tsv", "id\ta\tb\nc1\t1\t2\nc2\t3\t-,5e3\n", "decimal-comma"),
        ("t.csv", 'id,a,b\nc1,1,"2,5"\nc2,1,2\n', "decimal-comma"),
        ("t.csv", "id,a,b\nc1,1,0.1.2\nc2,1,2\n", "not-a-number"),
        ("t.csv", "id,a,b\nc1,1,2,\nc2,3,4,\n", "empty-last-column"),
        ("t.csv", "id,a,b,\nc1,1,2,\nc2,3,4,\n", "empty-last-column"),
    ],
)
def test_what_cannot_be_guessed_is_refused(tmp_path, name, text, code):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, check=has_code(code)):
        read_table(tmp_path / name, genes_in="columns")


def test_a_last_sample_without_values_is_no_separator_too_many(tmp_path):
    for text in ("a b\nc1 1 NA\nc2 2 NA\n", "id a b\nc1 1 \nc2 2 \n"):
        (tmp_path / "t.tsv").write_text(text.replace(" ", "\t"))
        adata = read_table(tmp_path / "t.tsv", genes_in="columns")
        np.testing.assert_array_equal(adata.X, [[1, np.nan], [2, np.nan]])


@pytest.mark.parametrize("genes_in", ["columns", "rows"])
def test_chunks_make_the_same_matrix(tmp_path, genes_in, monkeypatch):
    rng = np.random.default_rng(2)
    for values in (rng.normal(size=(37, 5)), rng.poisson(0.2, (37, 5)), np.where(np.eye(37, 5) > 0, np.nan, 2.0)):
        pd.DataFrame(values).to_csv(tmp_path / "t.csv")
        whole = read_table(tmp_path / "t.csv", genes_in=genes_in)
        with monkeypatch.context() as small:
            small.setattr("imputome.io.table_reading.CHUNK_VALUES", 40)
            parts = read_table(tmp_path / "t.csv", genes_in=genes_in)
        assert type(parts.X) is type(whole.X)
        assert parts.X.dtype == whole.X.dtype
        np.testing.assert_array_equal(dense(parts), dense(whole))
        np.testing.assert_array_equal(dense(parts), values if genes_in == "columns" else values.T)
        assert list(parts.obs_names) == list(whole.obs_names)
