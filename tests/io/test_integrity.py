"""Inputs that are damaged, that lie, or that change: found before anything in them is used."""

from __future__ import annotations

import gzip
import os
import shutil
import struct

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
import zarr

import imputome
from codes import has_code, warns
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.masked import mask
from imputome.io import integrity, text
from imputome.io.integrity import Fingerprint
from imputome.io.reading import read
from imputome.io.store import open_result, remove_key, write_anndata

pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data", "ignore:zarr v3 autosharding"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
]
N, G = 40, 12


def counts() -> ad.AnnData:
    X = np.random.default_rng(0).poisson(1.0, (N, G)).astype(np.float32)
    X[:, 0] += 1
    names = {
        "obs": pd.DataFrame(index=[f"cell{i}" for i in range(N)]),
        "var": pd.DataFrame(index=[f"g{j}" for j in range(G)]),
    }
    return ad.AnnData(sp.csr_matrix(X), **names, layers={"dense": X, "csc": sp.csc_matrix(X)})


def refused(path, code, *values, **options):
    with pytest.raises(InputError, check=has_code(code)) as error:
        read(path, **options)
    assert [value for value in (str(path), *values) if value not in str(error.value)] == []


# -- sparse matrices that contradict themselves ------------------------------------------------------------------------
def entry(part, position, value):
    def change(arrays):
        arrays[part][position] = value

    return change


def without_last(part):
    def change(arrays):
        arrays[part] = arrays[part][:-1]

    return change


def shorter_than_the_data(arrays):
    """The values of the last cells are accounted for by no cell."""
    arrays["indptr"][-10:] = arrays["indptr"][-10]


def fractions(arrays):
    arrays["indptr"] = arrays["indptr"] + 0.5


# the first two ended in "free(): invalid pointer" and in a segmentation fault
LIES = {
    "pointer far out": entry("indptr", 20, 10**6),
    "pointer goes back": entry("indptr", 20, 3),
    "pointer negative": entry("indptr", 20, -5),
    "pointers end early": shorter_than_the_data,
    "pointers end late": entry("indptr", -1, 10**6),
    "pointers begin late": entry("indptr", 0, 2),
    "fractions": fractions,
    "a pointer missing": without_last("indptr"),
    "an index missing": without_last("indices"),
    "index out of range": entry("indices", 7, G),
    "index far out": entry("indices", 7, 2**31 - 1),
    "index negative": entry("indices", 7, -1),
}


def lie(group, change):
    arrays = {name: group[name][()] for name in ("data", "indices", "indptr")}
    change(arrays)
    for name, values in arrays.items():
        del group[name]
        group[name] = values


def write_lying(path, change):
    adata = counts()
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            X, group = adata.X, file.create_group("matrix")
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(X, name)
            group["shape"], group["barcodes"] = np.array([G, N]), np.array(adata.obs_names, "S")
            for name, values in (("id", adata.var_names), ("name", adata.var_names), ("feature_type", ["G"] * G)):
                group[f"features/{name}"] = np.array(values, "S")
            lie(group, change)
    elif path.suffix == ".h5ad":
        adata.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            lie(file["X"], change)
    else:
        adata.write_zarr(path)
        lie(zarr.open_group(str(path), mode="r+", use_consolidated=False)["X"], change)
        zarr.consolidate_metadata(str(path))


SOME = ("pointer far out", "pointers end early", "index out of range")


@pytest.mark.parametrize(
    ("name", "backed", "lie"),
    [
        *(("a.h5ad", backed, lie) for lie in LIES for backed in (False, True)),
        *((name, False, lie) for lie in SOME for name in ("a.zarr", "a.h5")),
    ],
)
def test_a_sparse_matrix_that_contradicts_itself(tmp_path, name, backed, lie):
    write_lying(tmp_path / name, LIES[lie])
    refused(tmp_path / name, "damaged-matrix", backed=backed)


def test_each_matrix_is_looked_at(tmp_path):
    adata = counts()
    adata.raw = adata.copy()
    adata.obsp["near"] = sp.csr_matrix(np.eye(N))
    for place in ("layers/csc", "raw/X", "obsp/near"):
        path = tmp_path / f"{place.replace('/', '_')}.h5ad"
        adata.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            lie(file[place], entry("indices", 3, 10**6))
        refused(path, "damaged-matrix")
        with h5py.File(path, "r+") as file:
            lie(file[place], entry("indptr", 3, 10**6))
        refused(path, "damaged-matrix")


@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_a_part_of_a_sparse_matrix_is_not_there(tmp_path, part):
    """Its shape alone could ask for any memory."""
    counts().write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["X"][part]
        file["X"].attrs["shape"] = np.array([N, 2**40])
    refused(tmp_path / "a.h5ad", "damaged-matrix", part)


def test_a_report_looks_before_it_reads_in_parts(tmp_path):
    write_lying(tmp_path / "a.h5ad", LIES["index far out"])
    with pytest.raises(InputError, check=has_code("damaged-matrix")), open_result(tmp_path / "a.h5ad"):
        pass


@pytest.mark.parametrize("change", [LIES["pointer far out"], LIES["pointer goes back"], LIES["index far out"]])
def test_a_lying_matrix_in_python(change):
    X = counts().X
    arrays = {"indptr": X.indptr, "indices": X.indices}
    change(arrays)  # in place, so that SciPy does not see it
    adata = counts()
    adata.X = X
    uses = [
        lambda: imputome.inspect(X),
        lambda: imputome.inspect(X.T),
        lambda: as_data(X),
        lambda: imputome.inspect(adata),
        lambda: imputome.impute(adata, method="gene_mean"),
        lambda: imputome.fit_model(adata, method="gene_mean"),
        lambda: imputome.evaluate(adata, methods=["gene_mean"]),
        lambda: mask(adata, scheme="thin"),
        lambda: imputome.apply_model(adata, imputome.fit_model(counts(), method="gene_mean")),
    ]
    for use in uses:
        with pytest.raises(InputError, check=has_code("damaged-matrix")):
            use()


def test_repeated_entries_are_said_and_added_up(tmp_path):
    adata = counts()
    X = adata.X.tocoo()
    rows, columns, values = (np.r_[a, b] for a, b in ((X.row, X.row[:3]), (X.col, X.col[:3]), (X.data, [1, 1, 1])))
    order = np.lexsort((columns, rows))
    indptr = np.searchsorted(rows[order], np.arange(N + 1))
    twice = sp.csr_matrix((values[order].astype(np.float32), columns[order], indptr), (N, G))
    expected = adata.X.toarray()
    expected[X.row[:3], X.col[:3]] += 1
    for form in (twice, sp.csc_matrix(twice)):
        adata.X = form
        adata.write_h5ad(tmp_path / "a.h5ad")
        report = imputome.inspect(read(tmp_path / "a.h5ad"))
        assert "3 entries" in next(text for text in report.warnings if text.code == "repeated-entries")
        assert report.n_nonzero == np.count_nonzero(expected)
    assert "repeated-entries" not in [text.code for text in imputome.inspect(counts()).warnings]
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = [f"{j + 1} {i + 1} {int(value)}\n" for i, j, value in zip(rows, columns, values, strict=True)]
    (folder / "matrix.mtx").write_text(
        f"%%MatrixMarket matrix coordinate integer general\n{G} {N} {len(lines)}\n{''.join(lines)}"
    )
    for name, size in (("genes", G), ("barcodes", N)):
        (folder / f"{name}.tsv").write_text("".join(f"{name}{k}\n" for k in range(size)))
    with warns("repeated-entries"):
        np.testing.assert_array_equal(read(folder).X.toarray(), expected)


# -- chunks of zarr that are not there ---------------------------------------------------------------------------------
def write_chunked(path, adata, form, parts, shards=False):
    """The store with these arrays cut into several chunks: name -> shape of a chunk."""
    with ad.settings.override(zarr_write_format=form):
        adata.write_zarr(path)
    root = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    for name, chunks in parts.items():
        values, attrs = root[name][()], dict(root[name].attrs)
        del root[name]
        more = {"shards": tuple(2 * size for size in chunks)} if shards else {}
        array = root.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, **more)
        array[...] = values
        array.attrs.update(attrs)
    zarr.consolidate_metadata(str(path))
    return root


def chunks_of(path, name):
    files = [file for file in (path / name).rglob("*") if file.is_file() and not file.name.startswith((".", "zarr"))]
    return sorted(file.relative_to(path / name).as_posix() for file in files)


CUT = {
    **{f"{X}/{part}": (50,) for X in ("X", "layers/csc", "raw/X") for part in ("data", "indices")},
    **{"X/indptr": (10,), "layers/dense": (10, 6), "obs/_index": (10,)},
}


@pytest.mark.skipif(zarr.__version__.startswith("2."), reason="zarr-python 2 knows one format")
@pytest.mark.parametrize(("form", "shards"), [(2, False), (3, False), (3, True)])
def test_a_lost_chunk_is_named(tmp_path, form, shards):
    adata = counts()
    adata.raw = adata.copy()
    whole = tmp_path / "whole.zarr"
    write_chunked(whole, adata, form, {name: size for name, size in CUT.items() if name != "obs/_index"}, shards)
    np.testing.assert_array_equal(read(whole).X.toarray(), adata.X.toarray())
    for k, name in enumerate([*CUT, "var/_index"]):
        chunk = chunks_of(whole, name)[-(k % 2)]  # the first or the last
        (whole / name / chunk).rename(tmp_path / "away")
        refused(whole, "lost-chunk", name, chunk)
        (tmp_path / "away").rename(whole / name / chunk)


@pytest.mark.skipif(zarr.__version__.startswith("2."), reason="zarr-python 2 writes all chunks")
@pytest.mark.parametrize("form", [2, 3])
def test_chunks_of_zeros_that_zarr_leaves_out_are_not_lost(tmp_path, form):
    X = np.random.default_rng(0).poisson(1.0, (N, G)).astype(np.float32)
    X[:11] = 0  # pointers of a whole chunk are zeros
    X[11:, 0] = 1
    dense = np.random.default_rng(1).poisson(1.0, (N, G)).astype(np.float32)
    dense[:, 3:] = 0
    dense[35, 3:6] = 1  # genes that are hardly anywhere, and others that are nowhere
    one = sp.csr_matrix(np.ones((N, 1), np.float32))
    obs = pd.DataFrame(
        {"batch": pd.Categorical(["a"] * N), "flag": False, "n": 0}, index=[f"cell{i}" for i in range(N)]
    )
    adata = ad.AnnData(sp.csr_matrix(X), obs=obs, layers={"dense": dense}, obsm={"one": one})
    path = tmp_path / "a.zarr"
    write_chunked(path, adata, form, {"X/indptr": (10,), "layers/dense": (10, 3)})
    absent = [
        name for name in ("obs/batch/codes", "obs/flag", "obs/n", "obsm/one/indices") if not chunks_of(path, name)
    ]
    assert len(absent) == 4
    assert len(chunks_of(path, "X/indptr")) == 4
    assert len(chunks_of(path, "layers/dense")) < 16
    back = read(path)
    np.testing.assert_array_equal(back.X.toarray(), X)
    np.testing.assert_array_equal(back.layers["dense"], dense)


@pytest.mark.skipif(zarr.__version__.startswith("2."), reason="zarr-python 2 writes all chunks")
def test_zeros_that_could_be_lost_values_can_be_written_as_the_message_says(tmp_path):
    adata = counts()
    adata.layers["dense"] = np.zeros((N, G), np.float32)
    path = tmp_path / "a.zarr"
    adata.write_zarr(path)
    refused(path, "lost-chunk", "layers/dense", "write_empty_chunks")
    shutil.rmtree(path)
    with zarr.config.set({"array.write_empty_chunks": True}):
        adata.write_zarr(path)
    assert not read(path).layers["dense"].any()
    shutil.rmtree(path)
    write_anndata(path, adata)  # as all of our own are
    assert not read(path).layers["dense"].any()


# -- declared sizes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["X", "layers/huge", "X/data", "obs/n"])
def test_hdf5_cannot_hold_what_it_declares(tmp_path, place):
    path = tmp_path / "a.h5ad"
    counts().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        if place in file:
            del file[place]
        shape = (10**7, 10**6) if place in ("X", "layers/huge") else (10**13,)
        chunks = (1000,) * len(shape)
        made = file.create_dataset(place, shape=shape, chunks=chunks, dtype="f4", compression="gzip")
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    refused(path, "declared-size", place)


def test_zarr_cannot_hold_what_it_declares(tmp_path):
    path = tmp_path / "a.zarr"
    counts().write_zarr(path)
    root = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    root.create_array("obs/n", shape=(10**13,), chunks=(10**13,), dtype="f8")
    root.create_array("obs/m", shape=(10**13,), chunks=(1,), dtype="f8")
    zarr.consolidate_metadata(str(path))
    refused(path, "declared-size")


@pytest.mark.parametrize("packed", [False, True])
def test_mtx_cannot_hold_what_it_declares(tmp_path, packed):
    folder = tmp_path / "folder"
    folder.mkdir()
    content = f"%%MatrixMarket matrix coordinate integer general\n{G} {N} {10**12}\n1 1 1\n".encode()
    (folder / f"matrix.mtx{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    for name, size in (("genes", G), ("barcodes", N)):
        (folder / f"{name}.tsv").write_text("".join(f"{name}{k}\n" for k in range(size)))
    with pytest.raises(InputError, check=has_code("declared-size")):
        read(folder)
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix((10**12, N)))
    with pytest.raises(InputError, check=has_code("inconsistent-10x-folder")):
        read(folder)


def test_an_honest_file_that_is_too_large_for_the_machine(tmp_path, monkeypatch):
    counts().write_h5ad(tmp_path / "a.h5ad")
    counts().write_zarr(tmp_path / "a.zarr")
    counts().to_df().to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(integrity, "machine_memory", lambda: 1000)
    refused(tmp_path / "a.h5ad", "larger-than-memory")
    refused(tmp_path / "a.zarr", "larger-than-memory")
    refused(tmp_path / "a.parquet", "larger-than-memory", genes_in="columns")
    with open_result(tmp_path / "a.h5ad"):  # read in parts
        pass


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MAX_LINE", 2**18)
    path = tmp_path / "a.csv.gz"
    for content in (b"x" * 2**20, b"n,a,b\ns,1,2\nt," + b"1" * 2**20 + b",4\n"):
        path.write_bytes(gzip.compress(content))
        refused(path, "line-too-long", genes_in="columns")
    path.write_bytes(gzip.compress(b"n,a,b\n" + b"s,1,2\n" * 2**17))
    assert read(path, genes_in="columns").shape == (2**17, 2)


# -- files that point elsewhere ----------------------------------------------------------------------------------------
@pytest.fixture
def elsewhere(tmp_path):
    """A file whose values are of another one."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["values"] = np.ones((N, G), np.float32)
    (tmp_path / "secret.bin").write_bytes(struct.pack(f"{N * G}f", *range(N * G)))
    counts().write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def external_link(file, folder):
    file["layers/other"] = h5py.ExternalLink(str(folder / "secret.h5"), "/values")


def soft_link_through_an_external_one(file, folder):
    file["uns/there"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")
    file["layers/other"] = h5py.SoftLink("/uns/there/values")


def external_storage(file, folder):
    place = [(str(folder / "secret.bin"), 0, N * G * 4)]
    made = file.create_dataset("layers/other", shape=(N, G), dtype="f4", external=place)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def virtual(file, folder):
    layout = h5py.VirtualLayout(shape=(N, G), dtype="f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "values", shape=(N, G))
    file.create_virtual_dataset("layers/other", layout)


@pytest.mark.parametrize("point", [external_link, soft_link_through_an_external_one, external_storage, virtual])
@pytest.mark.parametrize("backed", [False, True])
def test_values_of_other_files_are_not_read(elsewhere, point, backed):
    with h5py.File(elsewhere, "r+") as file:
        point(file, elsewhere.parent)
    refused(elsewhere, "outside-the-file", "secret", backed=backed)
    with pytest.raises(InputError, check=has_code("outside-the-file")), open_result(elsewhere):
        pass
    with pytest.raises(InputError, check=has_code("outside-the-file")):
        remove_key(elsewhere, "k")


def test_links_inside_of_the_file_are_followed(elsewhere):
    with h5py.File(elsewhere, "r+") as file:
        file["layers/soft"] = h5py.SoftLink("/layers/dense")
        file["layers/hard"] = file["layers/dense"]
    back = read(elsewhere)
    np.testing.assert_array_equal(back.layers["soft"], back.layers["hard"])


# -- inputs that change ------------------------------------------------------------------------------------------------
def rewritten(path):
    path.write_bytes(path.read_bytes()[::-1])


def replaced(path):
    other = path.with_name("other")
    shutil.copyfile(path, other)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def touched(path):
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("large", "change", "seen"),
    [
        (False, rewritten, True),
        (True, rewritten, True),
        (True, replaced, True),
        (True, touched, True),
        (False, touched, False),  # the content is the same
        (False, lambda path: path.unlink(), True),
        (True, lambda path: None, False),
    ],
)
def test_a_change_of_a_file_is_seen(tmp_path, large, change, seen):
    path = tmp_path / "a.csv"
    path.write_bytes(bytes(range(256)) * (2**13 if large else 1))
    before = Fingerprint.of(path)
    change(path)
    if seen:
        with pytest.raises(InputError, check=has_code("input-changed")):
            before.check()
    else:
        before.check()


def test_a_change_of_a_folder_is_seen(tmp_path):
    store, folder = tmp_path / "a.zarr", tmp_path / "folder"
    counts().write_zarr(store)
    folder.mkdir()
    (folder / "matrix.mtx").write_text("1")
    before = [Fingerprint.of(path) for path in (store, folder, folder / "matrix.mtx")]
    (folder / "out.h5ad").write_text("an output")
    for fingerprint in before:
        fingerprint.check()
    (store / "X" / "data" / "1").write_text("more")
    (folder / "barcodes.tsv").write_text("more")
    for fingerprint in before:
        with pytest.raises(InputError, check=has_code("input-changed")):
            fingerprint.check()


def test_an_input_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.h5ad"
    counts().write_h5ad(path)
    whole = ad.read_h5ad

    def slow(*given, **options):
        adata = whole(*given, **options)
        path.write_bytes(path.read_bytes()[::-1])
        return adata

    monkeypatch.setattr(ad, "read_h5ad", slow)
    refused(path, "input-changed")


@pytest.mark.parametrize("place", ["obs/_index", "var/_index", "obs/word", "obs/batch/categories"])
def test_damaged_texts_are_not_carried_on(tmp_path, place):
    adata = counts()
    adata.obs["word"], adata.obs["batch"] = [f"w{i}" for i in range(N)], pd.Categorical(["a", "b"] * (N // 2))
    adata.strings_to_categoricals = lambda *_: None  # so that a column of text stays one
    adata.write_zarr(tmp_path / "a.zarr")
    array = zarr.open_group(str(tmp_path / "a.zarr"), mode="r+", use_consolidated=False)[place]
    assert read(tmp_path / "a.zarr").shape == (N, G)
    array[1] = "a\0b"
    refused(tmp_path / "a.zarr", "damaged-text")
