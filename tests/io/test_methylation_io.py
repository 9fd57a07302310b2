"""Reading wide tables of methylated reads and coverage."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from codes import has_code
from imputome.errors import InputError
from imputome.io.methylation_counts import counts_from_frame, read_counts


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "chr": ["chr1", "chr1", "chr2"],
            "pos": [10, 20, 10],
            "M.a": [1, 0, 5],
            "Cov.b": [9, 0, 2],
            "Cov.a": [2, 0, 7],
            "M.b": [8, 0, 1],
            "context": ["CG", "CG", "CHG"],
        }
    )


def same(adata, *, names):
    assert list(adata.obs_names) == ["a", "b"]
    assert list(adata.var_names) == names
    assert adata.X is None
    np.testing.assert_array_equal(adata.layers["methylated"], [[1, 0, 5], [8, 0, 1]])
    np.testing.assert_array_equal(adata.layers["coverage"], [[2, 0, 7], [9, 0, 2]])
    assert list(adata.var.columns) == ["chr", "pos", "context"]
    np.testing.assert_array_equal(adata.var["pos"], [10, 20, 10])


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".txt.gz", ".parquet"])
def test_every_format(tmp_path, suffix):
    path = tmp_path / f"counts{suffix}"
    if suffix == ".parquet":
        table().to_parquet(path, index=False)
    else:
        table().to_csv(path, index=False, sep="," if suffix.startswith(".csv") else "\t")
    same(read_counts(path, position=("chr", "pos")), names=["chr1:10", "chr1:20", "chr2:10"])


def test_a_frame_is_not_changed_and_names_may_repeat():
    frame = table()
    same(counts_from_frame(frame), names=["10", "20", "10"])
    pd.testing.assert_frame_equal(frame, table())


def test_prefixes_are_the_users():
    frame = table().rename(columns=lambda name: name.replace("M.", "meth_").replace("Cov.", "reads_"))
    same(counts_from_frame(frame, methylated="meth_", coverage="reads_"), names=["10", "20", "10"])


def test_dtype_of_the_table_is_kept_and_empty_fields_are_nan(tmp_path):
    narrow = table().astype(dict.fromkeys(("M.a", "M.b", "Cov.a", "Cov.b"), np.int16))
    assert counts_from_frame(narrow).layers["coverage"].dtype == np.int16
    (tmp_path / "counts.csv").write_text("pos,M.a,Cov.a\n1,2,3\n2,,\n3,0,4\n")
    adata = read_counts(tmp_path / "counts.csv")
    np.testing.assert_array_equal(adata.layers["coverage"], [[3, np.nan, 4]])


@pytest.mark.parametrize(
    ("change", "options", "code"),
    [
        (lambda t: t.drop(columns="Cov.b"), {}, "one-column-of-sample"),
        (lambda t: t.drop(columns="M.a"), {}, "one-column-of-sample"),
        (lambda t: t[["pos"]], {}, "no-samples"),
        (lambda t: t, {"position": ("start",)}, "no-position"),
        (lambda t: t, {"position": ()}, "no-position"),
        (lambda t: t, {"methylated": ""}, "same-prefix"),
        (lambda t: t, {"methylated": "Cov."}, "same-prefix"),
        (lambda t: t.iloc[:0], {}, "empty"),
        (lambda t: t.assign(**{"M.a": ["x", "y", "z"]}), {}, "not-numeric"),
        (lambda t: pd.concat([t, t[["M.a"]]], axis=1), {}, "columns-not-unique"),
    ],
)
def test_what_cannot_be_used_is_refused(change, options, code):
    with pytest.raises(InputError, check=has_code(code)):
        counts_from_frame(change(table()), **options)


def test_a_table_by_r_has_no_name_for_its_row_names(tmp_path):
    (tmp_path / "counts.csv").write_text("pos,M.a,Cov.a\nsite1,10,2,3\nsite2,20,0,4\n")
    adata = read_counts(tmp_path / "counts.csv")
    assert list(adata.var_names) == ["10", "20"]
    np.testing.assert_array_equal(adata.layers["coverage"], [[3, 4]])


@pytest.mark.parametrize(("name", "separator"), [("c.csv", ";"), ("c.csv", "\t"), ("c.tsv", ","), ("c.txt.gz", ";")])
def test_another_separator_than_the_name_promises(tmp_path, name, separator):
    table().to_csv(tmp_path / name, index=False, sep=separator)
    same(read_counts(tmp_path / name, position=("chr", "pos")), names=["chr1:10", "chr1:20", "chr2:10"])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"pos,M.a,Cov.a\n1,2,3\n2,0\n", "ragged"),
        (b"pos,M.a,Cov.a\n1,2,3\n2,0,1,2,3\n", "ragged"),
        (b"pos,M.\xe9,Cov.\xe9\n1,2,3\n", "not-utf8"),
        (gzip.compress(b"pos,M.a,Cov.a\n1,2,3\n", mtime=0), "gzipped"),
        (b"", "empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, code):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(InputError, check=has_code(code)):
        read_counts(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing.csv", "no-file"),
        ("folder.csv", "no-file"),
        ("counts.h5ad", "not-a-table"),
        ("empty.csv", "empty"),
        ("long.csv", "ragged"),
        ("cut.csv.gz", "damaged"),
        ("text.parquet", "unreadable"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, code):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "empty.csv").touch()
    (tmp_path / "counts.h5ad").touch()
    (tmp_path / "long.csv").write_text("pos,M.a,Cov.a\n1,2,3\n1,2,3,4\n")
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"pos,M.a,Cov.a\n" + b"1,2,3\n" * 1000, mtime=0)[:-20])
    with pytest.raises(InputError, check=has_code(code)) as caught:
        read_counts(tmp_path / name)
    assert name in str(caught.value)


# -- positions as text -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".tsv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize(
    "positions",
    [
        ["99990", "1e+05", "100005", "2.5e+06"],  # R
        ["99990", "1E5", "100005", "2500000"],
        ["99990.0", "100000.0", "100005.0", "2500000.0"],  # pandas, where one position was missing
        ["99990", "100000", "100005", "2500000"],
    ],
)
def test_positions_are_whole_numbers_whatever_wrote_them(tmp_path, suffix, positions):
    path = tmp_path / f"t{suffix}"
    frame = pd.DataFrame({"chr": ["1", "1", "X", "2"], "pos": positions, "M.a": [1, 2, 3, 4], "Cov.a": [9, 9, 9, 9]})
    if suffix == ".parquet":
        frame.astype({"pos": float}).to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if "csv" in suffix else "\t")
    adata = read_counts(path, position=("chr", "pos"))
    assert list(adata.var_names) == ["1:99990", "1:100000", "X:100005", "2:2500000"]
    assert adata.var["pos"].tolist() == [99990, 100000, 100005, 2500000]


def test_quoted_positions_and_comments(tmp_path):
    (tmp_path / "t.tsv").write_text(
        '# bismark\n"chr"\t"pos"\t"M.a"\t"Cov.a"\n"chr1"\t"1e+05"\t1\t2\n"chr1"\t"7"\t1\t2\n'
    )
    assert list(read_counts(tmp_path / "t.tsv", position=("chr", "pos")).var_names) == ["chr1:100000", "chr1:7"]


@pytest.mark.parametrize(
    ("positions", "code"),
    [
        (["1,000,000", "1,000,005"], "thousands"),
        (["1 000 000", "5"], "thousands"),
        (["1.23E+08", "1.23E+08"], "rounded-positions"),  # a spreadsheet, which has lost the last digits
        (["1.23457e+08", "1.23458e+08"], "rounded-positions"),
        (["1.5", "2.5"], "rounded-positions"),
        (["100.5", *map(str, range(11))], "rounded-positions"),  # one is enough
        (["", "5"], "missing-position"),
    ],
)
def test_positions_that_cannot_be_read_are_refused(tmp_path, positions, code):
    frame = pd.DataFrame({"pos": positions, "M.a": 1, "Cov.a": 9})
    frame.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    with pytest.raises(InputError, check=has_code(code)):
        read_counts(tmp_path / "t.tsv")


def test_the_row_of_the_faults():
    path = Path(__file__).resolve().parents[3] / "shared" / "faults" / "bismark_positions.tsv"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    names = list(read_counts(path, position=("chr", "pos")).var_names)
    assert names[:3] == ["1:99990", "1:99995", "1:100000"]
    assert all(name.replace(":", "").isdecimal() for name in names)
