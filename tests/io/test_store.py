from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from collections import namedtuple
from dataclasses import replace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from codes import has_code
from imputome.core.data import as_data
from imputome.core.imputation import Imputation
from imputome.errors import InputError
from imputome.io import store as stream
from imputome.io.store import check_output, check_space, remove_key, write_result
from imputome.result.record import Input, Record

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data", "ignore:zarr v3 autosharding")
STORES = ["h5ad", "zarr"]
N, G = 23, 9
RECORD = Record(
    "fake",
    Input("counts", "counts"),
    "counts",
    params={"rank": 3, "tol": 1e-4},
    seconds=1.5,
    unusable_cells=("one", "two"),
)
NEW = replace(RECORD, seconds=2.5)


class Linear:
    """Values that a reader can work out: 100 x cell + gene, plus an offset; made a block at a time."""

    outputs = frozenset({"value"})

    def __init__(self, n_genes, offset=0.0):
        self.n_genes, self.offset, self.largest = n_genes, offset, 0

    def rows(self, rows, genes, output):
        self.largest = max(self.largest, len(rows))
        genes = np.arange(self.n_genes) if genes is None else genes
        return (100 * rows[:, None] + genes + self.offset).astype(np.float32)

    def at(self, i, j, output):
        return (100 * i + j + self.offset).astype(np.float32)


def expected(n=N, n_genes=G, offset=0.0):
    return (100 * np.arange(n)[:, None] + np.arange(n_genes) + offset).astype(np.float32)


def imputation(X, offset=0.0, **result):
    return Imputation(
        Linear(X.shape[1], offset), as_data(X, kind="counts"), scale="counts", keeps_observed=False, **result
    )


@pytest.fixture
def adata():
    rng = np.random.default_rng(1)
    X = sp.random(N, G, density=0.4, format="csr", random_state=2, dtype=np.float64)
    X.data = np.ceil(5 * X.data).astype(np.int16)
    made = anndata.AnnData(
        X,
        obs=pd.DataFrame(
            {"batch": pd.Categorical(rng.choice(["a", "b"], N)), "note": [f"text {k}" for k in range(N)]},
            index=[f"cell{k}" for k in range(N)],
        ),
        var=pd.DataFrame({"length": np.arange(G)}, index=[f"gene{k}" for k in range(G)]),
        uns={"imputome": {"earlier": {"method": "x"}}, "colors": np.array(["red", "blue"])},
        obsm={"X_pca": rng.random((N, 2))},
        varm={"PCs": rng.random((G, 2))},
        obsp={"distances": sp.eye(N, format="csr")},
        layers={"spliced": X.copy(), "dense": X.toarray()},
    )
    made.raw = made.copy()
    return made


def write(adata, path):
    (adata.write_h5ad if path.suffix == ".h5ad" else adata.write_zarr)(path)
    return path


def read(path):
    return (anndata.read_h5ad if path.suffix == ".h5ad" else anndata.read_zarr)(path)


def same_csr(a, b):
    assert (a.dtype, a.indices.dtype, a.shape) == (b.dtype, b.indices.dtype, b.shape)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def same_but_for(result, adata, added=()):
    """All of ``adata`` is in ``result``, and nothing beside it but ``added`` layers."""
    same_csr(result.X, adata.X)
    same_csr(result.raw.X, adata.raw.X)
    same_csr(result.layers["spliced"], adata.layers["spliced"])
    np.testing.assert_array_equal(result.layers["dense"], adata.layers["dense"])
    pd.testing.assert_frame_equal(result.obs, adata.obs)
    pd.testing.assert_frame_equal(result.var[list(adata.var.columns)], adata.var)
    for name in ("obsm", "varm"):
        for key, value in getattr(adata, name).items():
            np.testing.assert_array_equal(getattr(result, name)[key], value)
    np.testing.assert_array_equal(result.obsp["distances"].toarray(), adata.obsp["distances"].toarray())
    assert list(result.uns["colors"]) == ["red", "blue"]
    assert result.uns["imputome"]["earlier"] == {"method": "x"}
    assert set(result.layers) == {"spliced", "dense", *added}


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# -- writing -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("store", STORES)
def test_everything_is_kept_and_the_result_added(tmp_path, adata, store, with_source):
    path = write(adata, tmp_path / f"in.{store}")
    adata = read(path)
    latent = np.random.default_rng(0).random((N, 3))
    columns = {"shape": np.linspace(0, 1, G), "kept": np.arange(G) % 2 == 0}
    result = imputation(adata.X, latent=latent, gene_columns=columns)
    out, done = tmp_path / f"out.{store}", []
    write_result(
        out,
        adata,
        result,
        key="fake",
        record=RECORD,
        source=path if with_source else None,
        progress=lambda *step: done.append(step),
    )
    back = read(out)
    same_but_for(back, adata, added=["fake"])
    layer = back.layers["fake"]
    assert isinstance(layer, np.ndarray)
    assert layer.dtype == np.float32
    np.testing.assert_array_equal(layer, expected())
    np.testing.assert_array_equal(back.obsm["X_fake"], latent)
    assert list(back.var.columns) == ["length", "fake_shape", "fake_kept"]
    np.testing.assert_array_equal(back.var["fake_shape"], columns["shape"])
    np.testing.assert_array_equal(back.var["fake_kept"], columns["kept"])
    record = Record.from_uns(back.uns["imputome"]["fake"])
    assert record == replace(RECORD, gene_columns=("shape", "kept"), latent=True)
    assert done[-1] == (N, N)
    assert leftovers(tmp_path) == []


def test_a_copied_file_is_the_same_to_the_bit(tmp_path, adata):
    """With ``source`` nothing is encoded anew: even what anndata does not know stays, and the object is not written."""
    path = write(adata, tmp_path / "in.h5ad")
    with h5py.File(path, "r+") as file:
        file["X"].attrs["lab"] = "note"
        file["layers/spliced/data"].attrs["lab"] = "note"
    adata = read(path)
    adata.X = adata.X * 2
    write_result(tmp_path / "out.h5ad", adata, imputation(adata.X), key="fake", record=RECORD, source=path)
    with h5py.File(path) as old, h5py.File(tmp_path / "out.h5ad") as new:
        seen = []
        old.visititems(lambda name, item: seen.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(seen) > 20
        for name in seen:
            assert (new[name].dtype, new[name].chunks, new[name].compression) == (
                old[name].dtype,
                old[name].chunks,
                old[name].compression,
            )
            np.testing.assert_array_equal(new[name][()], old[name][()])
        assert new["X"].attrs["lab"] == new["layers/spliced/data"].attrs["lab"] == "note"


@pytest.mark.parametrize("store", STORES)
def test_the_object_wins_where_the_source_has_other_names(tmp_path, adata, store):
    path = write(adata, tmp_path / f"in.{store}")
    adata.var_names = [f"renamed{k}" for k in range(G)]
    write_result(tmp_path / f"o.{store}", adata, imputation(adata.X), key="k", record=RECORD, source=path)
    assert list(read(tmp_path / f"o.{store}").var_names) == [f"renamed{k}" for k in range(G)]


@pytest.mark.parametrize(("store", "other"), [("h5ad", "zarr"), ("zarr", "h5ad")])
def test_another_format_than_the_input(tmp_path, adata, store, other):
    path = write(adata, tmp_path / f"in.{store}")
    adata = read(path)
    write_result(tmp_path / f"o.{other}", adata, imputation(adata.X), key="k", record=RECORD, source=path)
    back = read(tmp_path / f"o.{other}")
    same_but_for(back, adata, added=["k"])
    np.testing.assert_array_equal(back.layers["k"], expected())


def test_the_callers_object_is_not_changed(tmp_path, adata):
    adata.obs["text"] = pd.Series(["a", "b"] * 11 + ["a"], index=adata.obs_names, dtype=object)
    adata.layers["k"] = np.ones((N, G))
    write_result(tmp_path / "o.h5ad", adata, imputation(adata.X), key="k", record=RECORD, overwrite=True)
    assert adata.obs["text"].dtype == object  # write_h5ad would have made it categorical
    assert (adata.layers["k"] == 1).all()
    assert list(adata.uns["imputome"]) == ["earlier"]
    assert list(read(tmp_path / "o.h5ad").obs["text"]) == list(adata.obs["text"])


@pytest.mark.parametrize("store", STORES)
def test_some_genes(tmp_path, adata, store):
    path, wanted = write(adata, tmp_path / f"in.{store}"), np.array([7, 2, 3])
    result = imputation(adata.X, gene_columns={"shape": np.arange(G) / 2})
    write_result(tmp_path / f"o.{store}", adata, result, key="k", record=RECORD, genes=wanted.tolist(), source=path)
    back = read(tmp_path / f"o.{store}")
    assert list(back.var_names) == ["gene7", "gene2", "gene3"]
    np.testing.assert_array_equal(back.layers["k"], expected()[:, wanted])
    np.testing.assert_array_equal(back.X.toarray(), adata.X.toarray()[:, wanted])
    np.testing.assert_array_equal(back.var["k_shape"], wanted / 2)
    np.testing.assert_array_equal(back.varm["PCs"], adata.varm["PCs"][wanted])


def test_backed_input_and_backed_reading_of_the_output(tmp_path, adata):
    path = write(adata, tmp_path / "in.h5ad")
    backed = anndata.read_h5ad(path, backed="r")
    write_result(tmp_path / "a.h5ad", backed, imputation(adata.X), key="k", record=RECORD, source=path)
    write_result(tmp_path / "b.h5ad", backed, imputation(adata.X), key="k", record=RECORD, genes=[1, 2])
    backed.file.close()
    same_but_for(read(tmp_path / "a.h5ad"), adata, added=["k"])
    np.testing.assert_array_equal(read(tmp_path / "b.h5ad").X.toarray(), adata.X.toarray()[:, [1, 2]])
    again = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_array_equal(again[5:8].layers["k"], expected()[5:8])
    np.testing.assert_array_equal(again.X[:].toarray(), adata.X.toarray())
    again.file.close()


@pytest.mark.skipif(zarr.__version__.startswith("2."), reason="zarr-python 2 knows one format")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_both_zarr_formats(tmp_path, adata, zarr_format):
    with anndata.settings.override(zarr_write_format=zarr_format):
        path = write(adata, tmp_path / "in.zarr")
        write_result(tmp_path / "a.zarr", adata, imputation(adata.X), key="k", record=RECORD, genes=[0, 4])
    write_result(tmp_path / "b.zarr", adata, imputation(adata.X), key="k", record=RECORD, source=path)
    for name, columns in (("a.zarr", [0, 4]), ("b.zarr", list(range(G)))):
        assert zarr.open_group(tmp_path / name, mode="r").metadata.zarr_format == zarr_format
        # a reader that trusts the consolidated metadata sees the new layer
        trusting = zarr.open_consolidated(str(tmp_path / name))
        np.testing.assert_array_equal(trusting["layers/k"][:], expected()[:, columns])
        np.testing.assert_array_equal(read(tmp_path / name).layers["k"], expected()[:, columns])


@pytest.mark.parametrize("key", ["", "a/b"])
def test_keys_that_cannot_be(tmp_path, adata, key):
    with pytest.raises(InputError, check=has_code("bad-key")):
        write_result(tmp_path / "o.h5ad", adata, imputation(adata.X), key=key, record=RECORD)


def test_an_imputation_of_other_data(tmp_path, adata):
    with pytest.raises(InputError, check=has_code("shape")):
        write_result(tmp_path / "o.h5ad", adata, imputation(adata.X[:, :8]), key="k", record=RECORD)


@pytest.mark.parametrize("name", ["o.csv.gz", "o.parquet"])
def test_tables(tmp_path, adata, name):
    result, done = imputation(adata.X), []
    write_result(
        tmp_path / name,
        adata,
        result,
        key="k",
        record=RECORD,
        genes=[3, 1],
        genes_in="rows",
        progress=lambda *step: done.append(step),
    )
    back = pd.read_csv(tmp_path / name, index_col=0) if "csv" in name else pd.read_parquet(tmp_path / name)
    values = back.to_numpy() if "csv" in name else back.drop(columns="index").to_numpy()
    np.testing.assert_array_equal(values, expected()[:, [3, 1]].T)
    assert done == [(2, 2)]


# -- replacing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("store", STORES)
def test_an_existing_layer_is_replaced_only_if_asked(tmp_path, adata, store, with_source):
    first, second = tmp_path / f"first.{store}", tmp_path / f"second.{store}"
    latent = np.ones((N, 2))
    result = imputation(adata.X, latent=latent, gene_columns={"gone": np.ones(G)})
    write_result(first, adata, result, key="k", record=RECORD)
    adata = read(first)
    source = first if with_source else None
    with pytest.raises(InputError, check=has_code("key-exists")):
        write_result(second, adata, imputation(adata.X, 0.5), key="k", record=RECORD, source=source)
    assert not second.exists()
    write_result(second, adata, imputation(adata.X, 0.5), key="k", record=NEW, source=source, overwrite=True)
    back = read(second)
    np.testing.assert_array_equal(back.layers["k"], expected(offset=0.5))
    assert Record.from_uns(back.uns["imputome"]["k"]) == NEW
    assert "X_k" not in back.obsm  # of the replaced result, which had a latent representation
    assert list(back.var.columns) == ["length"]
    np.testing.assert_array_equal(read(first).layers["k"], expected())


def test_replacing_a_layer_of_the_users_own_touches_nothing_else(tmp_path, adata):
    """A layer that imputome did not write has no claim to columns that happen to begin like it."""
    adata.layers["length"] = np.ones((N, G))
    adata.var["length_kb"] = 1.0
    adata.obsm["X_length"] = np.ones((N, 2))
    path = write(adata, tmp_path / "in.h5ad")
    for source in (path, None):
        out = tmp_path / f"out{source is None}.h5ad"
        write_result(out, adata, imputation(adata.X), key="length", record=RECORD, source=source, overwrite=True)
        back = read(out)
        np.testing.assert_array_equal(back.layers["length"], expected())
        assert list(back.var.columns) == ["length", "length_kb"]
        assert "X_length" in back.obsm


@pytest.mark.parametrize("with_source", [True, False])
def test_replacing_does_not_leave_the_old_layer_in_the_file(tmp_path, with_source):
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(sp.csr_matrix((400, 500), dtype=np.float32))
    adata.layers["k"] = rng.random((400, 500))  # 1.6 MB that do not compress
    path = write(adata, tmp_path / "in.h5ad")
    write_result(
        tmp_path / "o.h5ad",
        adata,
        imputation(sp.csr_matrix(np.ones((400, 500)))),
        key="k",
        record=RECORD,
        source=path if with_source else None,
        overwrite=True,
    )
    assert path.stat().st_size > 1_600_000
    assert (tmp_path / "o.h5ad").stat().st_size < 800_000


@pytest.mark.parametrize("store", STORES)
def test_an_existing_output_is_replaced_only_if_asked(tmp_path, adata, store):
    out = tmp_path / f"o.{store}"
    write_result(out, adata, imputation(adata.X), key="k", record=RECORD)
    with pytest.raises(InputError, check=has_code("output-exists")):
        write_result(out, adata, imputation(adata.X, 1.0), key="k", record=RECORD)
    np.testing.assert_array_equal(read(out).layers["k"], expected())
    write_result(out, adata, imputation(adata.X, 1.0), key="k", record=RECORD, overwrite=True)
    np.testing.assert_array_equal(read(out).layers["k"], expected(offset=1.0))


# -- interruption ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("store", STORES)
def test_an_interrupted_write_leaves_the_old_output(tmp_path, adata, store, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 1)
    monkeypatch.setattr(stream, "_CHUNK_BYTES", {".h5ad": 4 * G, ".zarr": 4 * G})
    out = tmp_path / f"o.{store}"
    write_result(out, adata, imputation(adata.X), key="k", record=RECORD)

    def interrupt(done, total):
        assert leftovers(tmp_path) != []
        if done >= 3:
            raise KeyboardInterrupt

    for path in (out, tmp_path / f"new.{store}"):
        with pytest.raises(KeyboardInterrupt):
            write_result(
                path,
                adata,
                imputation(adata.X, 1.0),
                key="k",
                record=RECORD,
                overwrite=True,
                progress=interrupt,
            )
    np.testing.assert_array_equal(read(out).layers["k"], expected())
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


SLOW = """
    import sys, time
    import anndata, numpy as np
    from imputome.io import store as stream
    from imputome.core.data import as_data
    from imputome.core.imputation import Imputation
    from imputome.result.record import Input, Record

    class Slow:
        outputs = frozenset({"value"})
        def rows(self, rows, genes, output):
            if rows[0] >= 5:
                print("writing", flush=True)
                time.sleep(60)
            return np.zeros((len(rows), 9), dtype=np.float32)

    stream.BLOCK_BYTES, stream._CHUNK_BYTES = 1, {".h5ad": 36, ".zarr": 36}
    source, out = sys.argv[1:]
    adata = (anndata.read_h5ad if source.endswith("h5ad") else anndata.read_zarr)(source)
    result = Imputation(Slow(), as_data(adata.X, kind="counts"), scale="counts", keeps_observed=False)
    record = Record("fake", Input("counts", "counts"), "counts")
    stream.write_result(out, adata, result, key="k", record=record, source=source, overwrite=True)
"""


def tree(path):
    """Every byte of a file or folder."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files}


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("store", STORES)
def test_a_killed_writer_leaves_the_old_output_whole(tmp_path, adata, store):
    source = write(adata, tmp_path / f"in.{store}")
    old, new = tmp_path / f"old.{store}", tmp_path / f"new.{store}"
    write_result(old, adata, imputation(adata.X), key="k", record=RECORD)
    before = tree(old)
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(SLOW))
    for out in (old, new):
        writer = subprocess.Popen([sys.executable, str(script), str(source), str(out)], stdout=subprocess.PIPE)
        try:
            assert writer.stdout.readline() == b"writing\n"
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        assert len([name for name in leftovers(tmp_path) if name.startswith(f".{out.name}.")]) == 1
    assert tree(old) == before
    assert not new.exists()
    # the next writer clears up and succeeds
    for out in (old, new):
        write_result(out, adata, imputation(adata.X, 2.0), key="k", record=RECORD, overwrite=True)
        np.testing.assert_array_equal(read(out).layers["k"], expected(offset=2.0))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["o.h5ad", "o.zarr", "o.csv", "o.parquet"])
def test_memory_stays_far_below_the_dense_matrix(tmp_path, name, monkeypatch):
    # what is held at a time (blocks, and the chunks that zarr still compresses) does not grow with the matrix
    n, n_genes = (20_000, 2000) if name[2:] in STORES else (1500, 1000)
    if name[2:] not in STORES:
        monkeypatch.setattr("imputome.io.tables.BLOCK_BYTES", 2**17)
        monkeypatch.setattr("imputome.io.tables._PARQUET_BLOCK_BYTES", 2**17)
    adata = anndata.AnnData(sp.random(n, n_genes, density=0.001, format="csr", dtype=np.float32, random_state=0))
    result = imputation(adata.X)
    write_result(tmp_path / f"first_{name}", adata[:5].copy(), imputation(adata.X[:5]), key="k", record=RECORD)
    tracemalloc.start()
    try:
        write_result(tmp_path / name, adata, result, key="k", record=RECORD)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # NumPy reports to tracemalloc, so that a dense copy would be seen
    assert peak < 0.5 * 4 * n * n_genes
    assert 0 < result.model.largest < n


# -- checks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["o.xlsx", "o", "o.h5", "o.loom", "o.csv.zip"])
def test_unknown_suffix(tmp_path, adata, name):
    with pytest.raises(InputError, check=has_code("unknown-format")):
        check_output(tmp_path / name)
    with pytest.raises(InputError, check=has_code("unknown-format")):
        write_result(tmp_path / name, adata, imputation(adata.X), key="k", record=RECORD)


@pytest.mark.parametrize("name", ["o.h5ad", "o.zarr", "o.csv", "o.tsv.gz", "O.TXT", "o.parquet"])
def test_known_suffixes(tmp_path, name):
    check_output(tmp_path / name, tmp_path / "in.h5ad")


def test_the_input_is_never_the_output(tmp_path, adata, monkeypatch):
    path = write(adata, tmp_path / "in.h5ad")
    (tmp_path / "soft.h5ad").symlink_to(path)
    os.link(path, tmp_path / "hard.h5ad")
    monkeypatch.chdir(tmp_path)
    for same in (path, "in.h5ad", tmp_path / "." / "soft.h5ad", tmp_path / "hard.h5ad"):
        with pytest.raises(InputError, check=has_code("output-is-input")):
            check_output(same, path, overwrite=True)
        with pytest.raises(InputError, check=has_code("output-is-input")):
            write_result(same, adata, imputation(adata.X), key="k", record=RECORD, source=path, overwrite=True)


def test_what_is_not_ours_is_not_replaced(tmp_path):
    (tmp_path / "data.zarr").mkdir()
    (tmp_path / "data.zarr" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, check=has_code("not-replaceable")):
        check_output(tmp_path / "data.zarr", overwrite=True)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, check=has_code("not-replaceable")):
        check_output(tmp_path / "folder.csv", overwrite=True)
    (tmp_path / "file.zarr").write_text("x")
    with pytest.raises(InputError, check=has_code("not-replaceable")):
        check_output(tmp_path / "file.zarr", overwrite=True)
    with pytest.raises(InputError, check=has_code("no-folder")):
        check_output(tmp_path / "no" / "o.csv")


def test_check_space(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 4_000_000_000))
    check_space(tmp_path / "o.h5ad", 100_000, 10_000)
    with pytest.raises(InputError, check=has_code("disk-too-small")):
        check_space(tmp_path / "o.h5ad", 100_001, 10_000)
    with pytest.raises(InputError, check=has_code("disk-too-small")):
        check_space(tmp_path / "o.h5ad", 100_000, 10_000, bytes_per_value=8)


# -- removing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("store", STORES)
def test_remove_gives_the_input_back(tmp_path, adata, store):
    path, out = write(adata, tmp_path / f"in.{store}"), tmp_path / f"o.{store}"
    adata = read(path)
    latent, columns = np.ones((N, 2)), {"shape": np.ones(G)}
    both = tmp_path / f"both.{store}"
    one = imputation(adata.X, latent=latent, gene_columns=columns)
    other = imputation(adata.X, 0.5, latent=2 * latent, gene_columns={"shape": 2 * np.ones(G)})
    write_result(out, adata, one, key="k", record=RECORD, source=path)
    write_result(both, read(out), other, key="k_two", record=RECORD, source=out)
    remove_key(both, "k")
    back = read(both)
    same_but_for(back, adata, added=["k_two"])
    np.testing.assert_array_equal(back.layers["k_two"], expected(offset=0.5))
    assert set(back.obsm) == {"X_pca", "X_k_two"}
    assert list(back.var.columns) == ["length", "k_two_shape"]  # "k_" begins both names
    assert set(back.uns["imputome"]) == {"earlier", "k_two"}
    remove_key(both, "k_two")
    back = read(both)
    same_but_for(back, adata)
    assert list(back.var.columns) == ["length"]
    assert set(back.obsm) == {"X_pca"}
    assert leftovers(tmp_path) == []
    if store == "zarr":
        assert "k" not in zarr.open_consolidated(str(both))["layers"]


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("store", STORES)
def test_layers_beside_the_value_and_cell_columns_come_and_go(tmp_path, adata, store, with_source):
    adata.obs["k_mine"] = 1.0  # begins like a column of the result, and is not
    path, out = write(adata, tmp_path / f"in.{store}"), tmp_path / f"o.{store}"
    adata = read(path)
    result = imputation(adata.X, cell_columns={"size": np.arange(N) / 2})
    result.model.outputs = frozenset({"value", "variance", "upper"})
    rows = result.model.rows
    factors = {"value": 1, "variance": 2, "upper": 3}
    result.model.rows = lambda i, j, output: factors[output] * rows(i, j, output)
    options = {"key": "k", "record": RECORD, "source": path if with_source else None}
    write_result(out, adata, result, outputs=("variance", "upper"), **options)
    back = read(out)
    for output, name in (("value", "k"), ("variance", "k_variance"), ("upper", "k_upper")):
        np.testing.assert_array_equal(back.layers[name], factors[output] * expected())
    np.testing.assert_array_equal(back.obs["k_size"], np.arange(N) / 2)
    assert list(back.obs.columns) == ["batch", "note", "k_mine", "k_size"]
    # replaced by a result that has neither
    again = tmp_path / f"again.{store}"
    options = {"key": "k", "record": RECORD, "source": out if with_source else None, "overwrite": True}
    write_result(again, back, imputation(adata.X), **options)
    second = read(again)
    assert set(second.layers) == {"spliced", "dense", "k"}
    assert list(second.obs.columns) == ["batch", "note", "k_mine"]
    remove_key(out, "k")
    same_but_for(read(out), adata)


def test_a_table_holds_the_value_alone(tmp_path, adata):
    with pytest.raises(InputError, check=has_code("table-without-layers")):
        write_result(tmp_path / "o.csv", adata, imputation(adata.X), key="k", record=RECORD, outputs=("upper",))


def test_remove_leaves_no_empty_rooms(tmp_path):
    adata = anndata.AnnData(np.eye(4, dtype=np.float32))
    result = imputation(adata.X, gene_columns={"only": np.ones(4)})
    for store in STORES:
        out = tmp_path / f"o.{store}"
        write_result(out, adata, result, key="k", record=RECORD)
        remove_key(out, "k")
        back = read(out)
        assert (dict(back.uns), list(back.layers), list(back.var.columns)) == ({}, [], [])


def test_remove_makes_the_file_smaller(tmp_path):
    adata = anndata.AnnData(sp.csr_matrix((300, 400), dtype=np.float32))
    noise = np.random.default_rng(0).random((300, 400)).astype(np.float32)
    result = imputation(adata.X)
    result.model.rows = lambda rows, genes, output: noise[rows]
    plain, out = write(adata, tmp_path / "plain.h5ad"), tmp_path / "o.h5ad"
    write_result(out, adata, result, key="k", record=RECORD, source=plain)
    assert out.stat().st_size > 300_000
    remove_key(out, "k")
    assert out.stat().st_size < plain.stat().st_size + 20_000


def test_categories_of_old_files_survive(tmp_path, adata):
    """anndata 0.7 linked a column to its categories by an HDF5 reference, which does not survive a copy in parts."""
    path = write(adata, tmp_path / "in.h5ad")
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        codes, categories = obs["batch/codes"][()], obs["batch/categories"][()]
        del obs["batch"]
        obs["batch"], obs["__categories/batch"] = codes, categories
        obs["batch"].attrs["categories"] = obs["__categories/batch"].ref
        obs.attrs["encoding-version"] = "0.1.0"
    with pytest.warns(anndata.OldFormatWarning):
        old = read(path)
    assert list(old.obs["batch"]) == list(adata.obs["batch"])
    out = tmp_path / "o.h5ad"
    write_result(out, old, imputation(adata.X), key="k", record=RECORD, source=path)
    remove_key(out, "k")
    with pytest.warns(anndata.OldFormatWarning):
        back = read(out)
    assert list(back.obs["batch"]) == list(adata.obs["batch"])
    assert "k" not in back.layers


def test_remove_what_is_not_there(tmp_path, adata):
    out = tmp_path / "o.h5ad"
    write_result(out, adata, imputation(adata.X), key="k", record=RECORD)
    before = out.read_bytes()
    for key in ("none", "spliced"):  # the second is a layer, but not ours
        with pytest.raises(InputError, check=has_code("no-such-result")):
            remove_key(out, key)
    assert out.read_bytes() == before
    with pytest.raises(InputError, check=has_code("unknown-format")):
        remove_key(tmp_path / "o.csv", "k")
    with pytest.raises(InputError, check=has_code("no-file")):
        remove_key(tmp_path / "none.h5ad", "k")
    (tmp_path / "bad.h5ad").write_bytes(b"nothing")
    with pytest.raises(InputError, check=has_code("unreadable")):
        remove_key(tmp_path / "bad.h5ad", "k")
