"""Mini-batches against scipy's rows, from memory and from files."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

torch = pytest.importorskip("torch")

from codes import has_code  # noqa: E402
from imputome.errors import InputError  # noqa: E402
from imputome.methods.deep import batches as module  # noqa: E402
from imputome.methods.deep.batches import CountBatches  # noqa: E402


def counts(n=53, G=17, *, seed=0, dtype=np.float32):
    """Sparse counts; row 5 and column 3 are empty, row 7 is full."""
    rng = np.random.default_rng(seed)
    X = rng.poisson(0.4, size=(n, G))
    X[7] = 9
    X[5], X[:, 3] = 0, 0
    return sp.csr_array(X.astype(dtype))


def source(X, **options):
    return CountBatches(X, library=np.asarray(X.sum(axis=1)).ravel() + 1.0, **options)


def gathered(batches, X):
    """The cells that came, in their order, after every batch was compared with the rows of X."""
    dense, came = np.asarray(X.todense(), np.float32), []
    for batch in batches:
        index = batch.index.numpy()
        np.testing.assert_array_equal(batch.counts.dense().numpy(), dense[index])
        np.testing.assert_array_equal(batch.library.numpy(), dense[index].sum(axis=1) + 1)
        assert len(batch) == len(batch.counts) == len(index)
        assert batch.counts.values.dtype == torch.float32
        came.append(index)
    return np.concatenate(came)


# -- blocks ------------------------------------------------------------------------------------------------------------
def test_a_block_is_rows_of_scipy():
    X = counts()
    rows = np.array([7, 5, 0, 52, 7])
    (batch,) = source(X).epoch(rows)
    block, expected = batch.counts, X[rows]
    np.testing.assert_array_equal(block.dense().numpy(), expected.toarray())
    np.testing.assert_array_equal(block.totals.numpy(), expected.sum(axis=1))
    np.testing.assert_array_equal(block.rows.numpy(), np.repeat(np.arange(5), np.diff(expected.indptr)))
    np.testing.assert_array_equal(block.flat.numpy(), block.rows.numpy() * 17 + expected.indices)
    np.testing.assert_array_equal(block.columns.numpy(), expected.indices)
    np.testing.assert_array_equal(block.offsets.numpy(), expected.indptr)
    doubled = block.with_values(2 * block.values)
    np.testing.assert_array_equal(doubled.dense().numpy(), 2 * expected.toarray())
    np.testing.assert_array_equal(block.dense().numpy(), expected.toarray())


def test_a_block_without_values():
    (batch,) = source(counts()).epoch(np.array([5, 5]))
    assert not batch.counts.dense().any()
    assert batch.counts.dense().shape == (2, 17)
    assert not batch.counts.totals.any()
    assert len(batch.counts.rows) == len(batch.counts.flat) == 0


# -- epochs ------------------------------------------------------------------------------------------------------------
def test_without_a_generator_the_order_is_that_given():
    X = counts()
    np.testing.assert_array_equal(gathered(source(X, batch_size=8).epoch(), X), np.arange(53))
    rows = np.array([30, 2, 17, 50, 1])
    np.testing.assert_array_equal(gathered(source(X, batch_size=2).epoch(rows), X), rows)
    assert list(source(X).epoch(np.array([], int))) == []


def test_a_generator_shuffles_and_alone_decides():
    X, rows = counts(), np.arange(3, 45)
    batches = source(X, batch_size=8)

    def order(seed):
        return gathered(batches.epoch(rows, generator=np.random.default_rng(seed)), X)

    np.testing.assert_array_equal(np.sort(order(0)), rows)
    np.testing.assert_array_equal(order(0), order(0))
    assert not np.array_equal(order(0), order(1))
    assert not np.array_equal(order(0), rows)


@pytest.mark.parametrize(
    ("n", "sizes"), [(16, [8, 8]), (17, [8, 9]), (18, [8, 8, 2]), (9, [9]), (8, [8]), (1, [1]), (3, [3])]
)
def test_a_last_batch_of_one_cell_joins_the_one_before(n, sizes):
    assert [len(batch) for batch in source(counts(), batch_size=8).epoch(np.arange(n))] == sizes


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.uint16, np.uint8, bool])
def test_other_number_types(dtype):
    X = counts(dtype=dtype)
    np.testing.assert_array_equal(gathered(source(X, batch_size=8).epoch(), X), np.arange(53))


def test_read_only_arrays_are_taken_without_a_word_and_not_copied():
    X = counts()
    library, rows = np.ones(53, np.float32), np.arange(20)
    for array in (X.data, X.indices, X.indptr, library, rows):
        array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = CountBatches(X, library=library, covariates=np.broadcast_to(library[:, None], (53, 2)))
        (batch,) = batches.epoch(rows)
    np.testing.assert_array_equal(batch.counts.dense().numpy(), X[:20].toarray())
    assert batches._counts.values.data_ptr() == X.data.__array_interface__["data"][0]
    assert batches._counts.columns.data_ptr() == X.indices.__array_interface__["data"][0]


def test_target_and_covariates_follow_the_cells():
    rng = np.random.default_rng(0)
    X, target = counts(), counts(seed=1)
    covariates = rng.normal(size=(53, 2))
    batches = source(X, target=target, covariates=covariates, batch_size=8)
    for batch in batches.epoch(generator=rng):
        index = batch.index.numpy()
        np.testing.assert_array_equal(batch.counts.dense().numpy(), X[index].toarray())
        np.testing.assert_array_equal(batch.target.dense().numpy(), target[index].toarray())
        np.testing.assert_allclose(batch.covariates.numpy(), covariates[index], rtol=1e-6)
    (plain,) = source(X).epoch()
    assert plain.target is plain.counts
    assert plain.covariates is None


@pytest.mark.parametrize(
    "make", [np.asarray, sp.csc_array, sp.csc_matrix, sp.coo_array], ids=["dense", "csc", "csc_matrix", "coo"]
)
def test_what_is_not_csr_is_refused(make):
    X = counts()
    other = make(X.toarray())
    with pytest.raises(InputError, check=has_code("not-csr")):
        CountBatches(other, library=np.ones(53))
    with pytest.raises(InputError, check=has_code("not-csr")):
        source(X, target=other)


def test_a_target_of_another_shape_is_refused():
    X = counts()
    with pytest.raises(InputError, check=has_code("target-shape")):
        source(X, target=X[:50])


# -- files -------------------------------------------------------------------------------------------------------------
def backed(X, folder, store):
    """X as a CSR dataset in a file, and what has to be closed."""
    import anndata

    adata = anndata.AnnData(sp.csr_matrix(X))
    if store == "h5ad":
        adata.write_h5ad(folder / "x.h5ad")
        adata = anndata.read_h5ad(folder / "x.h5ad", backed="r")
        return adata.X, adata.file.close
    zarr = pytest.importorskip("zarr")
    adata.write_zarr(folder / "x.zarr")
    return anndata.io.sparse_dataset(zarr.open(folder / "x.zarr", mode="r")["X"]), lambda: None


class Watched:
    """A CSR dataset that notes which rows were read at once."""

    format = "csr"

    def __init__(self, X):
        self.X, self.shape, self.reads = X, X.shape, []

    def __getitem__(self, rows):
        self.reads.append((rows.start, rows.stop))
        return self.X[rows]


@pytest.mark.parametrize("store", ["h5ad", "zarr"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_a_file_gives_what_memory_gives(store, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_CHUNK", 5)
    monkeypatch.setattr(module, "CHUNKS_PER_GROUP", 3)
    X = counts(dtype=dtype)
    dataset, close = backed(X, tmp_path, store)
    batches = CountBatches(dataset, library=X.sum(axis=1) + 1.0, batch_size=4)
    assert len(batches) == 53
    assert batches._counts is None
    np.testing.assert_array_equal(gathered(batches.epoch(), X), np.arange(53))
    rows = np.array([41, 3, 4, 22, 50, 0])
    np.testing.assert_array_equal(gathered(batches.epoch(rows), X), np.sort(rows))
    one, two = (gathered(batches.epoch(generator=np.random.default_rng(seed)), X) for seed in (0, 1))
    np.testing.assert_array_equal(np.sort(one), np.arange(53))
    assert not np.array_equal(one, two)
    assert not np.array_equal(one[:15], np.sort(one[:15]))  # mixed within what is held
    assert list(batches.epoch(np.array([], int))) == []
    close()


def test_only_some_chunks_of_a_file_are_held(monkeypatch):
    """Between two reads of a group its batches come: no more than CHUNKS_PER_GROUP chunks are there at once."""
    monkeypatch.setattr(module, "ROWS_PER_CHUNK", 4)
    monkeypatch.setattr(module, "CHUNKS_PER_GROUP", 3)
    X = counts(n=50)
    watched = Watched(X)
    batches = CountBatches(watched, library=X.sum(axis=1) + 1.0, batch_size=6)
    seen, read_before = [], 0
    for batch in batches.epoch(generator=np.random.default_rng(0)):
        new, read_before = watched.reads[read_before:], len(watched.reads)
        if new:
            assert len(new) <= 3
            held = np.concatenate([np.arange(*span) for span in new])
            assert len(held) <= 12
        assert np.isin(batch.index, held).all()
        seen.append(batch.index.numpy())
    assert all(stop - start <= 4 for start, stop in watched.reads)
    assert len(watched.reads) == len(set(watched.reads)) == 13  # each chunk once
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(50))
    # chunks without a wanted row are not read
    watched.reads.clear()
    assert len(list(batches.epoch(np.array([9, 30, 31])))) == 1
    assert watched.reads == [(8, 12), (28, 32)]


@pytest.mark.parametrize("shuffled", [False, True])
def test_no_batch_of_one_cell_from_a_file(shuffled, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_CHUNK", 4)
    monkeypatch.setattr(module, "CHUNKS_PER_GROUP", 2)
    X = counts(n=49)
    batches = CountBatches(Watched(X), library=X.sum(axis=1) + 1.0, batch_size=4)
    for rows in (np.arange(17), np.array([0, 4, 8]), np.arange(49), np.array([0, 1, 20, 40, 48])):
        generator = np.random.default_rng(0) if shuffled else None
        parts = list(batches.epoch(rows, generator=generator))
        np.testing.assert_array_equal(np.sort(gathered(parts, X)), rows)
        assert min(map(len, parts)) > 1


def test_duplicate_entries_of_a_file_are_added_up():
    X = sp.csr_matrix((np.array([1.0, 2, 4]), np.array([2, 2, 0]), np.array([0, 3, 3])), shape=(2, 3))
    (batch,) = CountBatches(Watched(X), library=np.ones(2)).epoch()
    np.testing.assert_array_equal(batch.counts.dense().numpy(), [[4, 0, 3], [0, 0, 0]])


def test_a_target_in_a_file_or_columns_in_a_file_are_refused(tmp_path):
    X = counts()
    with pytest.raises(InputError, check=has_code("target-shape")):
        source(X, target=Watched(X))
    import anndata

    anndata.AnnData(sp.csc_matrix(X)).write_h5ad(tmp_path / "x.h5ad")
    adata = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(InputError, check=has_code("not-csr")):
        CountBatches(adata.X, library=np.ones(53))
    adata.file.close()
