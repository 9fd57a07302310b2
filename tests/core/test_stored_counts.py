"""Counts that are read in windows, against the same counts in memory."""

from __future__ import annotations

import anndata
import dask.array
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import imputome
from codes import has_code
from imputome import methods
from imputome.cli import run
from imputome.core import by_blocks, stored
from imputome.core.data import as_data
from imputome.core.stored import StoredCounts, columns_of, stays_stored
from imputome.errors import InputError
from imputome.studies import inputs
from imputome.trust.check import warn_of_absent_genes

N, G = 150, 40


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    means = rng.gamma(2.0, 1.0, (N, 3)) @ rng.gamma(0.5, 0.5, (3, G))
    return sp.csr_array(rng.poisson(means).astype(np.float32))


@pytest.fixture
def small_windows(monkeypatch):
    """Every stored matrix stays stored, and is read some rows at a time."""
    monkeypatch.setattr(stored, "KEPT_IN_MEMORY", 0)
    monkeypatch.setattr(stored, "WINDOW_VALUES", 700)
    monkeypatch.setattr(by_blocks, "ROWS_PER_BLOCK", 32)


def written(counts, folder, suffix):
    adata = anndata.AnnData(sp.csr_matrix(counts))
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(N)], [f"g{j}" for j in range(G)]
    path = folder / f"a{suffix}"
    adata.write_h5ad(path) if suffix == ".h5ad" else adata.write_zarr(path)
    return path


def on_disk(counts, folder):
    return anndata.read_h5ad(written(counts, folder, ".h5ad"), backed="r").X


@pytest.mark.parametrize(
    "rows",
    [
        slice(None),
        slice(10, 95),
        np.array([140, 3, 3, 77, -1]),
        np.arange(N)[::-1],
        np.arange(N) % 7 == 0,
        np.array([], dtype=int),
    ],
    ids=["all", "slice", "any order", "reversed", "mask", "none"],
)
def test_rows_are_those_of_the_matrix(counts, tmp_path, small_windows, rows):
    found = StoredCounts(on_disk(counts, tmp_path))
    assert found.n_windows > 3
    np.testing.assert_array_equal(found[rows].toarray(), counts.toarray()[rows])


def test_windows_and_totals(counts, tmp_path, small_windows):
    found = StoredCounts(on_disk(counts, tmp_path), columns=np.arange(G) % 2 == 0)
    dense = counts.toarray()[:, ::2]
    np.testing.assert_array_equal(np.vstack([part.toarray() for _, part in found.windows()]), dense)
    np.testing.assert_array_equal(found.totals.per_row, dense.sum(axis=1))
    np.testing.assert_array_equal(found.totals.per_column, dense.sum(axis=0))
    np.testing.assert_array_equal(found.totals.nonzero_per_row, (dense > 0).sum(axis=1))
    np.testing.assert_array_equal(found.totals.nonzero_per_column, (dense > 0).sum(axis=0))
    assert (found.nnz, found.totals.maximum) == (np.count_nonzero(dense), dense.max())


def test_data_answer_as_in_memory(counts, tmp_path, small_windows):
    there, here = as_data(on_disk(counts, tmp_path), kind="counts"), as_data(counts)
    assert not there.in_memory
    np.testing.assert_array_equal(there.depth, here.depth)
    np.testing.assert_array_equal(there.gene_totals, here.gene_totals)
    i, j = np.random.default_rng(1).integers(0, [[N], [G]], (2, 300))
    np.testing.assert_array_equal(there.entries(i, j), here.entries(i, j))
    np.testing.assert_array_equal(there.block(np.array([9, 2]), np.array([5, 0])), here.block([9, 2], [5, 0]))
    part = there.subset(rows=np.array([4, 120]), columns=np.array([3, 1]))
    np.testing.assert_array_equal(part.X.toarray(), counts.toarray()[[4, 120]][:, [3, 1]])


def test_what_stays_stored(counts, tmp_path, monkeypatch):
    matrix = on_disk(counts, tmp_path)
    assert not stays_stored(matrix)  # it is small
    monkeypatch.setattr(stored, "KEPT_IN_MEMORY", 0)
    assert stays_stored(matrix)
    assert stays_stored(dask.array.from_array(counts.toarray(), chunks=(50, G)))
    assert not stays_stored(counts)
    assert not stays_stored(counts.toarray())


def test_dask(counts, small_windows):
    data = as_data(dask.array.from_array(counts.toarray(), chunks=(50, G)), kind="counts")
    np.testing.assert_array_equal(data.X.to_memory().toarray(), counts.toarray())


def test_columns_keep_their_precision(counts, tmp_path, small_windows):
    matrix = on_disk(sp.csr_array(counts.astype(np.int16)), tmp_path)
    taken = columns_of(matrix, np.array([7, 2]))
    assert taken.dtype == np.int16
    np.testing.assert_array_equal(taken.toarray(), counts.toarray()[:, [7, 2]])


def test_what_counts_cannot_be_is_refused(counts, tmp_path, small_windows):
    for value in (-1.0, np.nan, np.inf):
        wrong = counts.copy()
        wrong.data[-1] = value  # in the last window
        (folder := tmp_path / str(value)).mkdir()
        with pytest.raises(InputError):
            as_data(on_disk(wrong, folder), kind="counts")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gene_mean", {"posterior": True}),
        ("poisson_nmf", {"n_components": 3, "posterior": True}),
        ("count_autoencoder", {"max_epochs": 3, "n_factors": 0, "posterior": False}),
    ],
)
def test_the_result_is_that_of_counts_in_memory(counts, tmp_path, small_windows, name, parameters):
    results = []
    for data in (as_data(counts), as_data(on_disk(counts, tmp_path), kind="counts")):
        method = methods.create(name, parameters)
        method.training_cells = 60
        results.append(method.fit_transform(data))
    here, there = results
    assert here.status.details["training_cells"] == there.status.details["training_cells"] == 60
    assert here.outputs == there.outputs
    for output in here.outputs:
        np.testing.assert_allclose(there.to_array(output=output), here.to_array(output=output), rtol=1e-4)
    genes = np.array([11, 0])
    np.testing.assert_allclose(there.rows(slice(20, 90), genes=genes), here.rows(slice(20, 90), genes=genes), rtol=1e-4)
    i, j = np.random.default_rng(2).integers(0, [[N], [G]], (2, 200))
    np.testing.assert_allclose(there.at(i, j), here.at(i, j), rtol=1e-4)
    if name == "count_autoencoder":
        np.testing.assert_allclose(there.latent, here.latent, rtol=1e-3, atol=1e-4)


def test_a_gene_without_molecules_in_the_training_cells_stays_as_it_is(tmp_path, small_windows):
    dense = np.random.default_rng(3).poisson(2.0, (N, G)).astype(np.float32)
    training = np.sort(np.random.default_rng([0, N]).choice(N, 60, replace=False))
    dense[training, 5] = 0
    data = as_data(on_disk(sp.csr_array(dense), tmp_path), kind="counts")
    method = methods.create("poisson_nmf", {"posterior": True})
    method.training_cells = 60
    with pytest.warns(UserWarning, match="1 gene"):
        result = method.fit_transform(data)
    np.testing.assert_array_equal(result.rows(slice(None), genes=[5])[:, 0], dense[:, 5])


def test_a_chunk_that_cannot_be_read_is_said(counts, tmp_path, small_windows):
    source = written(counts, tmp_path, ".zarr")
    group = zarr.open_group(source, mode="r+", use_consolidated=False)["X"]
    values = group["data"][:]
    del group["data"]
    group.create_array("data", shape=values.shape, dtype=values.dtype, chunks=(500,))[:] = values
    chunks = sorted(path for path in (source / "X" / "data").rglob("*") if path.name.isdigit() or path.name == "3")
    chunks[3].write_bytes(chunks[3].read_bytes()[:10])
    matrix = anndata.io.sparse_dataset(zarr.open_group(source, mode="r")["X"])
    with pytest.raises(InputError, check=has_code("unreadable-rows")):
        as_data(matrix, kind="counts")
    assert run(["impute", str(source), "-o", str(tmp_path / "out.zarr"), "--method", "gene_mean"]) == 1
    assert not (tmp_path / "out.zarr").exists()


def test_an_input_that_changes_while_it_is_imputed(counts, tmp_path, small_windows, monkeypatch):
    source = written(counts, tmp_path, ".h5ad")
    rows = by_blocks.ByBlocks.rows

    def rows_of_a_file_that_changes(*arguments):
        other = source.with_suffix(".other")
        other.write_bytes(source.read_bytes() + b"0")
        other.replace(source)
        return rows(*arguments)

    monkeypatch.setattr(by_blocks.ByBlocks, "rows", rows_of_a_file_that_changes)
    command = ["impute", str(source), "-o", str(tmp_path / "out.zarr"), "--method", "gene_mean", "--genes", "g1"]
    assert run([*command, "--training-cells", "60"]) == 1
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_command_line(counts, tmp_path, monkeypatch, suffix):
    source = written(counts, tmp_path, suffix)
    command = ["impute", str(source), "--method", "poisson_nmf+posterior", "--quiet", "--genes", "g3,g30", "-o"]
    assert run([*command, str(tmp_path / f"here{suffix}")]) == 0
    monkeypatch.setattr(stored, "KEPT_IN_MEMORY", 0)
    monkeypatch.setattr(stored, "WINDOW_VALUES", 700)
    assert run([*command, str(tmp_path / f"there{suffix}")]) == 0
    read = anndata.read_h5ad if suffix == ".h5ad" else anndata.read_zarr
    here, there = (read(tmp_path / f"{name}{suffix}") for name in ("here", "there"))
    np.testing.assert_allclose(there.layers["poisson_nmf_posterior"], here.layers["poisson_nmf_posterior"], rtol=1e-5)
    np.testing.assert_array_equal(there.X.toarray(), here.X.toarray())


def test_a_model_is_applied_to_counts_that_are_not_in_memory(counts, tmp_path, small_windows):
    adata = anndata.read_h5ad(written(counts, tmp_path, ".h5ad"), backed="r")
    here = adata.to_memory()
    model = imputome.fit_model(here[:, ::-1][:, 3:], method="poisson_nmf", posterior=True)  # other order, fewer genes
    for each in (adata, here):
        imputome.apply_model(each, model, genes=["g39", "g2"], key_added="k")
    np.testing.assert_allclose(adata.obsm["k"], here.obsm["k"], rtol=1e-4)
    np.testing.assert_array_equal(here.obsm["k"]["g39"], here.X[:, 39].toarray()[:, 0])  # unknown to the model


def test_evaluate_and_mask(counts, tmp_path, small_windows, monkeypatch):
    adata = anndata.read_h5ad(written(counts, tmp_path, ".h5ad"), backed="r")
    here = imputome.evaluate(adata.to_memory(), methods=["gene_mean"])
    there = imputome.evaluate(adata, methods=["gene_mean"])
    columns = ["method", "metric", "value"]
    pd.testing.assert_frame_equal(there[columns], here[columns])
    masked, again = (imputome.mask(each, scheme="thin") for each in (adata, adata.to_memory()))
    assert (masked.X != again.X).nnz == 0
    monkeypatch.setattr(inputs, "TRAINING_CELLS", 40)
    data = inputs.to_dataset(adata, name="some").data
    assert data.shape[0] == 40
    places = adata.obs_names.get_indexer(data.obs_names)
    np.testing.assert_array_equal(data.X.toarray(), counts.toarray()[places][:, adata.var_names.isin(data.var_names)])


def test_a_backed_anndata(counts, tmp_path, small_windows):
    adata = anndata.read_h5ad(written(counts, tmp_path, ".h5ad"), backed="r")
    imputome.impute(adata, method="gene_mean", posterior=True, genes=["g1"], key_added="mean")
    here = imputome.impute(adata.to_memory(), method="gene_mean", posterior=True, key_added="mean", copy=True)
    np.testing.assert_allclose(adata.obsm["mean"]["g1"], here.layers["mean"][:, 1], rtol=1e-5)


def test_genes_that_one_label_lacks(tmp_path, small_windows):
    counts = np.random.default_rng(0).poisson(6.0, (N, G)).astype(np.float32)
    labels = np.array(["a", "b", None], dtype=object)[np.arange(N) % 3]
    counts[labels == "b", :4] = 0
    here = as_data(counts, kind="counts")
    there = as_data(on_disk(sp.csr_array(counts), tmp_path), kind="counts")
    assert not there.in_memory
    (message,) = warn_of_absent_genes(there, {"label": labels})
    assert warn_of_absent_genes(here, {"label": labels}) == [message]
    assert message.startswith("4 genes")
