"""Rows that are imputed and written by other processes."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from contextlib import contextmanager, nullcontext

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

import imputome
from imputome.cli import run
from imputome.core import workers
from imputome.io import parallel, store
from imputome.io.parallel import RowWork, impute_rows
from imputome.result.genes import match_genes

N, G = 120, 30


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2.0, 1.0, (N, 2)) @ rng.gamma(0.5, 1.0, (2, G)))
    adata = anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(N)], [f"g{j}" for j in range(G)]
    adata.write_zarr(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


@pytest.fixture
def small_blocks(monkeypatch):
    """Several tasks, and chunks that each belong to one."""
    monkeypatch.setitem(store._CHUNK_BYTES, ".zarr", 4 * G * 10)
    monkeypatch.setattr(store, "BLOCK_BYTES", 4 * G * 10)


@pytest.fixture
def in_this_process(monkeypatch):
    """What workers do, done here; the parts of rows that they are given."""
    given = []

    def carried_out(client, work, ranges, asked_by):
        work = pickle.loads(pickle.dumps(work))  # noqa: S301
        for rows in ranges:
            given.append(rows)
            yield impute_rows(work, *rows)

    parallel._opened.cache_clear()
    monkeypatch.setattr(parallel, "dask_client", lambda number, scheduler: nullcontext())
    monkeypatch.setattr(parallel, "_carried_out", carried_out)
    return given


def layers(path):
    adata = anndata.read_zarr(path)
    return {name: np.asarray(adata.layers[name]) for name in adata.layers}


def command(source, output, *more):
    method = ["--method", "gene_mean+posterior", "--outputs", "variance", "--training-cells", "50", "--quiet"]
    return ["impute", str(source), "-o", str(output), *method, *more]


def test_workers_of_which_one_is_killed_write_what_one_process_writes(source, tmp_path, small_blocks, monkeypatch):
    made = []
    whole = workers.dask_client

    @contextmanager
    def watched(number, scheduler):
        with whole(number, scheduler) as client:
            client.wait_for_workers(number)
            pids = list(client.run(os.getpid).values())
            made.extend(pids)
            threading.Timer(0.2, os.kill, (pids[0], signal.SIGKILL)).start()
            yield client

    monkeypatch.setattr("imputome.io.parallel.dask_client", watched)
    assert run(command(source, tmp_path / "one.zarr")) == 0
    assert run(command(source, tmp_path / "two.zarr", "--workers", "2")) == 0
    time.sleep(0.3)
    assert len(made) == 2
    one, two = layers(tmp_path / "one.zarr"), layers(tmp_path / "two.zarr")
    assert sorted(one) == sorted(two) == ["gene_mean_posterior", "gene_mean_posterior_variance"]
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-6)
    assert zarr.open(tmp_path / "two.zarr")["layers/gene_mean_posterior"].chunks[0] < N / 2  # there were several tasks
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_a_worker_does_for_a_model_of_other_genes(source, tmp_path):
    adata = anndata.read_zarr(source)
    estimator = imputome.fit_model(adata[:, ::-1][:, 4:], method="poisson_nmf", posterior=True)
    estimator.save(tmp_path / "model")
    here = imputome.apply_model(adata, estimator, key_added="k", copy=True).layers["k"]
    target = tmp_path / "out.zarr"
    zarr.open_group(target, mode="w").create_array("layers/k", shape=(N, G), dtype=np.float32, chunks=(40, G))
    matched, report = match_genes(adata, estimator), imputome.inspect(adata)
    work = RowWork(str(source), None, report, str(tmp_path / "model"), matched, str(target), {"value": "k"}, {})
    assert impute_rows(work, 40, 120) == 80
    written = zarr.open(target)["layers/k"][:]
    np.testing.assert_allclose(written[40:], here[40:], rtol=1e-5)
    assert not written[:40].any()


@pytest.mark.parametrize("output", ["out.h5ad", "out.csv"])
def test_only_a_zarr_can_be_written_together(source, tmp_path, output, capsys):
    assert run(command(source, tmp_path / output, "--workers", "2")) == 1
    assert not (tmp_path / output).exists()


def test_a_method_that_imputes_all_cells_together_is_written_here(source, tmp_path, capsys):
    more = ["--method", "knn_smoothing", "--workers", "2", "-o", str(tmp_path / "out.zarr")]
    assert run(["impute", str(source), *more]) == 0
    assert "knn_smoothing" in layers(tmp_path / "out.zarr")


def expected_counts(adata):
    rng = np.random.default_rng(1)
    return {"X": adata.X.toarray() + 0.4 * (rng.random(adata.shape) < 0.3)}


def batches(adata):
    return {"X": adata.X, "obs": adata.obs.assign(batch=["a", "b", "b"] * (N // 3))}


def fractions_first(adata):
    """Values of rank 1 of which the first rows hold only fractions, and lack those above 1."""
    values = np.outer(np.linspace(0.1, 2.0, N), np.linspace(0.1, 2.0, G)) + np.random.default_rng(2).random((N, G)) / 99
    values[: N // 2][values[: N // 2] > 1] = np.nan
    return {"X": values}


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        pytest.param(batches, ["--method", "zipo", "--set", "max_epochs=1", "--covariates", "batch"], id="covariates"),
        pytest.param(
            expected_counts, ["--method", "gene_mean", "--posterior", "--round-counts", "stochastic"], id="rounded"
        ),
        pytest.param(fractions_first, ["--method", "ppca"], id="bounds"),
    ],
)
def test_workers_know_what_their_rows_do_not_show(source, tmp_path, small_blocks, in_this_process, changed, options):
    adata = anndata.read_zarr(source)
    anndata.AnnData(**{"obs": adata.obs, "var": adata.var, **changed(adata)}).write_zarr(tmp_path / "b.zarr")
    for name, more in (("one", []), ("two", ["--workers", "2"])):
        assert run(["impute", str(tmp_path / "b.zarr"), "-o", str(tmp_path / f"{name}.zarr"), *options, *more]) == 0
    one, two = layers(tmp_path / "one.zarr"), layers(tmp_path / "two.zarr")
    assert len(in_this_process) > 2
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", [None, "raw"])
def test_workers_take_the_library_sizes_of_the_model(source, tmp_path, small_blocks, in_this_process, layer):
    """Those of a model can be over the genes of raw, those of new cells over others."""
    adata = anndata.read_zarr(source)
    part = adata[:, :20].copy()
    part.raw = adata
    part.write_zarr(tmp_path / "part.zarr")
    model = imputome.fit_model(part, method="gene_mean", posterior=True, layer=None if layer else "raw")
    model.save(tmp_path / "model")
    new = tmp_path / "part.zarr" if layer else source
    for name, more in (("one", []), ("two", ["--workers", "2"])):
        chosen = ["--layer", layer] if layer else []
        output = str(tmp_path / f"{name}.zarr")
        assert run(["apply", str(tmp_path / "model"), str(new), "-o", output, *chosen, *more]) == 0
    one, two = layers(tmp_path / "one.zarr"), layers(tmp_path / "two.zarr")
    assert len(in_this_process) > 2
    np.testing.assert_allclose(two["gene_mean_posterior"], one["gene_mean_posterior"], rtol=1e-5)
