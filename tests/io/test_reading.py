from __future__ import annotations

import gzip
import sys
import types

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.io
import scipy.sparse as sp

from codes import has_code
from imputome.cli import run
from imputome.core import stored
from imputome.errors import InputError, MissingExtraError
from imputome.io.reading import read
from imputome.io.table_layout import TableOptions

COUNTS = np.array([[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 7, 0]], dtype=np.float32)  # cells x genes
CELLS = ["AAAC-1", "AAAG-1", "AACT-1"]
SYMBOLS, IDS = ["CD3E", "NA", "CD3E", "CD4"], ["ENSG1", "ENSG2", "ENSG3", "ENSG4"]
KINDS = ["Gene Expression"] * 3 + ["Antibody Capture"]


def example():
    return anndata.AnnData(
        sp.csr_matrix(COUNTS), obs=pd.DataFrame({"n": [1, 2, 3]}, index=CELLS), var=pd.DataFrame(index=IDS)
    )


def write_v2(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("hg19")
        by_cell = sp.csr_matrix(COUNTS.astype(np.int32))
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(by_cell, name)
        group["shape"] = np.array([4, 3], dtype=np.int32)
        group["barcodes"], group["genes"] = np.array(CELLS, "S"), np.array(IDS, "S")
        group["gene_names"] = np.array(SYMBOLS, "S")


def write_v3(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        by_cell = sp.csr_matrix(COUNTS.astype(np.int32))
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(by_cell, name)
        group["shape"], group["barcodes"] = np.array([4, 3], dtype=np.int32), np.array(CELLS, "S")
        features = {"id": IDS, "name": SYMBOLS, "feature_type": KINDS, "genome": ["GRCh38"] * 4}
        for name, values in features.items():
            group[f"features/{name}"] = np.array(values, "S")
        group["features/_all_tag_keys"] = np.array(["genome"], "S")


def write_folder(folder, *, version, packed):
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(COUNTS.T.astype(np.int32)))
    (folder / "barcodes.tsv").write_text("\n".join(CELLS) + "\n")
    columns = [IDS, SYMBOLS] if version == 2 else [IDS, SYMBOLS, KINDS]
    name = "genes.tsv" if version == 2 else "features.tsv"
    (folder / name).write_text("".join("\t".join(row) + "\n" for row in zip(*columns, strict=True)))
    if packed:
        for file in list(folder.iterdir()):
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))
            file.unlink()


def test_h5ad_and_zarr(tmp_path):
    example().write_h5ad(tmp_path / "a.h5ad")
    example().write_zarr(tmp_path / "a.zarr")
    for name in ("a.h5ad", "a.zarr"):
        adata = read(tmp_path / name)
        assert sp.issparse(adata.X)
        np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
        assert (list(adata.obs_names), list(adata.var_names), list(adata.obs["n"])) == (CELLS, IDS, [1, 2, 3])


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_a_large_matrix_stays_stored(tmp_path, name, monkeypatch):
    monkeypatch.setattr(stored, "KEPT_IN_MEMORY", 0)
    made = example()
    made.layers["dense"] = COUNTS.astype("float32")
    made.write_h5ad(tmp_path / name) if name.endswith("h5ad") else made.write_zarr(tmp_path / name)
    for backed in (True, None):
        adata = read(tmp_path / name, backed=backed)
        assert stored.stays_stored(adata.X)
        assert stored.stays_stored(adata.layers["dense"])
        np.testing.assert_array_equal(adata.X[:].toarray(), COUNTS)
        np.testing.assert_array_equal(adata.layers["dense"][:], COUNTS)
    monkeypatch.setattr(stored, "KEPT_IN_MEMORY", 10**6)
    np.testing.assert_array_equal(read(tmp_path / name, backed=True).X.toarray(), COUNTS)


def test_a_table_cannot_be_backed(tmp_path):
    (tmp_path / "t.csv").write_text("cell,a\nc1,1\n")
    with pytest.raises(InputError, check=has_code("backed-needs-h5ad")):
        read(tmp_path / "t.csv", backed=True)


@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_10x_h5(tmp_path, write):
    write(tmp_path / "raw.h5")
    adata = read(tmp_path / "raw.h5")
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert list(adata.obs_names) == CELLS
    assert list(adata.var_names) == SYMBOLS  # duplicated as in the file
    assert list(adata.var["gene_ids"]) == IDS
    assert write is write_v2 or list(adata.var["feature_types"]) == KINDS


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_10x_folder(tmp_path, version, packed):
    write_folder(tmp_path / "mtx", version=version, packed=packed)
    adata = read(tmp_path / "mtx")
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert list(adata.obs_names) == CELLS
    assert list(adata.var_names) == SYMBOLS
    assert list(adata.var["gene_ids"]) == IDS
    assert version == 2 or list(adata.var["feature_types"]) == KINDS
    if (version == 3) == packed:  # the two that scanpy reads; it takes the gene called NA for a missing name
        oracle = sc.read_10x_mtx(tmp_path / "mtx", var_names="gene_ids", make_unique=False, gex_only=False)
        np.testing.assert_array_equal(adata.X.toarray(), oracle.X.toarray())
        assert list(adata.var["gene_ids"]) == list(oracle.var_names)
        assert list(adata.obs_names) == list(oracle.obs_names)


def test_10x_folder_that_does_not_fit_together(tmp_path):
    write_folder(tmp_path / "mtx", version=2, packed=False)
    (tmp_path / "mtx" / "barcodes.tsv").write_text("AAAC-1\n")
    with pytest.raises(InputError, check=has_code("inconsistent-10x-folder")):
        read(tmp_path / "mtx")
    (tmp_path / "mtx" / "barcodes.tsv").unlink()
    with pytest.raises(InputError, check=has_code("incomplete-10x-folder")):
        read(tmp_path / "mtx")


def test_tables_and_only_they_take_an_orientation(tmp_path):
    pd.DataFrame(COUNTS.T, index=IDS, columns=CELLS).to_csv(tmp_path / "t.csv.gz")
    with pytest.raises(InputError, check=has_code("no-orientation")):
        read(tmp_path / "t.csv.gz")
    adata = read(tmp_path / "t.csv.gz", genes_in="rows")
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert (list(adata.obs_names), list(adata.var_names)) == (CELLS, IDS)
    example().write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, check=has_code("option-unused")):
        read(tmp_path / "a.h5ad", genes_in="rows")


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5", "a.loom"])
def test_damaged_file(tmp_path, name, monkeypatch):
    if "loompy" not in sys.modules:
        monkeypatch.setitem(sys.modules, "loompy", types.ModuleType("loompy"))
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 200)
    with pytest.raises(InputError, check=has_code("unreadable")) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_truncated_h5ad_and_foreign_hdf5(tmp_path):
    example().write_h5ad(tmp_path / "a.h5ad")
    whole = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "a.h5ad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, check=has_code("unreadable")):
        read(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["something"] = [1, 2]
    with pytest.raises(InputError, check=has_code("unreadable")):
        read(tmp_path / "b.h5")


def test_what_is_no_input(tmp_path):
    with pytest.raises(InputError, check=has_code("no-file")):
        read(tmp_path / "none.h5ad")
    with pytest.raises(InputError, check=has_code("unknown-format")):
        read(tmp_path)
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(InputError, check=has_code("unknown-format")):
        read(tmp_path / "a.xlsx")


def test_loom(tmp_path):
    loompy = pytest.importorskip("loompy")
    loompy.create(
        str(tmp_path / "a.loom"),
        {"": COUNTS.T, "spliced": 9 * np.ones((4, 3))},
        {"Gene": np.array(IDS)},
        {"CellID": np.array(CELLS)},
    )
    adata = read(tmp_path / "a.loom")
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)  # the main matrix, not the layer "spliced"
    assert (list(adata.obs_names), list(adata.var_names)) == (CELLS, IDS)


def test_loom_without_loompy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "loompy", None)
    (tmp_path / "a.loom").write_bytes(b"")
    with pytest.raises(MissingExtraError, check=has_code("missing-extra")):
        read(tmp_path / "a.loom")


@pytest.mark.parametrize("name", ["X", "layers/half"])
@pytest.mark.parametrize("convert", [sp.csr_matrix, sp.csc_matrix])
def test_sparse_half_precision_in_a_file(tmp_path, name, convert):
    adata = anndata.AnnData(convert(np.tile(COUNTS, (3, 1))), layers={"half": convert(np.tile(COUNTS, (3, 1)))})
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        values = file[f"{name}/data"][()].astype(np.float16)
        del file[f"{name}/data"]
        file[f"{name}/data"] = values
    read_again = read(tmp_path / "a.h5ad")
    for matrix in (read_again.X, read_again.layers["half"]):
        assert matrix.dtype == np.float32
        np.testing.assert_array_equal(matrix.toarray(), np.tile(COUNTS, (3, 1)))
    command = ["impute", str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "b.h5ad"), "-m", "gene_mean", "--layer", "half"]
    assert run(command) == 0
    written = anndata.read_h5ad(tmp_path / "b.h5ad")  # everything in it can be read
    assert (written.X != adata.X).nnz == 0
    assert written.layers["gene_mean"].shape == adata.shape


# -- folders of matrix, genes and cells --------------------------------------------------------------------------------
CELLS_BY_GENES = np.random.default_rng(3).poisson(0.7, (5, 7))  # cells x genes


def put(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())


def market(path, values):
    scipy.io.mmwrite(path.with_suffix(".tmp.mtx"), sp.coo_matrix(values))
    put(path, path.with_suffix(".tmp.mtx").read_text())
    path.with_suffix(".tmp.mtx").unlink()


def ten_x(folder, prefix="", packed=".gz", features="features.tsv"):
    folder.mkdir(exist_ok=True)
    market(folder / f"{prefix}matrix.mtx{packed}", CELLS_BY_GENES.T)
    put(folder / f"{prefix}{features}{packed}", "".join(f"ENSG{k}\tG{k}\tGene Expression\n" for k in range(7)))
    put(folder / f"{prefix}barcodes.tsv{packed}", "".join(f"{prefix}C{k}-1\n" for k in range(5)))


@pytest.mark.parametrize("prefix", ["", "GSM1234_", "GSM1234_S1.", "a-b_"])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("features", ["features.tsv", "genes.tsv"])
def test_10x_folders_with_and_without_a_prefix(tmp_path, prefix, packed, features):
    ten_x(tmp_path / "run", prefix, packed, features)
    for path in (tmp_path / "run", tmp_path / "run" / f"{prefix}matrix.mtx{packed}"):
        adata = read(path)
        np.testing.assert_array_equal(adata.X.toarray(), CELLS_BY_GENES)
        assert adata.var_names[3] == "G3"
        assert adata.var["gene_ids"].iloc[3] == "ENSG3"
        assert adata.obs_names[1] == f"{prefix}C1-1"


def test_several_samples_in_one_folder(tmp_path):
    for prefix in ("GSM1_", "GSM2_"):
        ten_x(tmp_path / "geo", prefix)
    with pytest.raises(InputError, check=has_code("several-samples")) as caught:
        read(tmp_path / "geo")
    named = str(caught.value).rpartition(" ")[2]  # following the advice works
    assert read(named).obs_names[0] == "GSM1_C0-1"
    assert read(tmp_path / "geo" / "GSM2_matrix.mtx.gz").obs_names[0] == "GSM2_C0-1"
    (tmp_path / "geo" / "GSM1_barcodes.tsv.gz").unlink()
    with pytest.raises(InputError, check=has_code("incomplete-10x-folder")) as caught:
        read(named)
    assert "GSM1_barcodes.tsv" in str(caught.value)


@pytest.mark.parametrize("matrix", ["DGE.mtx", "count_matrix.mtx", "DGE.mtx.gz"])
@pytest.mark.parametrize("genes", ["all_genes.csv", "genes.csv"])
def test_parse_folders_are_cells_by_genes(tmp_path, matrix, genes):
    market(tmp_path / matrix, CELLS_BY_GENES)
    put(tmp_path / genes, "gene_id,gene_name,genome\n" + "".join(f"ENSG{k},G{k},hg38\n" for k in range(7)))
    rows = "".join(f"01_01_{k:02d},s1,{k * 10}\n" for k in range(5))
    put(tmp_path / "cell_metadata.csv", "bc_wells,sample,tscp_count\n" + rows)
    adata = read(tmp_path)
    np.testing.assert_array_equal(adata.X.toarray(), CELLS_BY_GENES)
    assert (adata.var_names[6], adata.var["gene_ids"].iloc[6], adata.obs_names[4]) == ("G6", "ENSG6", "01_01_04")
    assert adata.obs["tscp_count"].tolist() == [0, 10, 20, 30, 40]
    market(tmp_path / matrix, CELLS_BY_GENES.T)
    with pytest.raises(InputError, check=has_code("inconsistent-parse-folder")):
        read(tmp_path)


# -- codes of missing values -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sparse", [False, True])
def test_codes_become_nan_in_every_matrix(tmp_path, sparse):
    X = np.array([[1.5, -1.0, 0], [-9.0, 0.25, -1.0]], dtype=np.float32)
    matrix = sp.csr_matrix(X) if sparse else X
    anndata.AnnData(matrix, layers={"raw": matrix, "whole": np.array([[1, -1, 2], [3, 4, 5]])}).write_h5ad(
        tmp_path / "a.h5ad"
    )
    adata = read(tmp_path / "a.h5ad", options=TableOptions(missing=("-1", "-9")))
    for found in (adata.X, adata.layers["raw"]):
        dense = found.toarray() if sparse else found
        np.testing.assert_array_equal(dense, np.where(X < 0, np.nan, X))
    np.testing.assert_array_equal(adata.layers["whole"], [[1, np.nan, 2], [3, 4, 5]])


def test_options_of_tables_are_refused_elsewhere(tmp_path):
    anndata.AnnData(np.eye(3, dtype=np.float32)).write_h5ad(tmp_path / "a.h5ad")
    for options in ({"decimal": ","}, {"annotation": ("none",)}, {"missing": ("ND",)}):
        with pytest.raises(InputError, check=has_code("option-unused")):
            read(tmp_path / "a.h5ad", options=TableOptions(**options))
