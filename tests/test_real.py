"""The main job on real files: anchors measured before, and (marked ``real``) the slow runs."""

from __future__ import annotations

import resource
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from imputome.core.holdout import thin
from imputome.evaluation.metrics import poisson_loss
from imputome.methods import get


def command(*arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, "-c", "from imputome.cli import main; main()", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def thinned(path):
    """Cells with 50 or more genes, genes in 10 or more cells, 90 % of the molecules, genes with any of them."""
    X = sp.csr_array(ad.read_h5ad(path).X)
    X = sp.csr_array(X[X.astype(bool).sum(axis=1) >= 50])
    X = sp.csr_array(X[:, X.astype(bool).sum(axis=0) >= 10])
    train, test = thin(X, 0.9, np.random.default_rng(0))
    seen = train.sum(axis=0) > 0
    return sp.csr_array(train[:, seen]), sp.csr_array(test[:, seen])


ANCHORS = [
    ("pbmc3k_raw", "no_imputation", 0.12044),
    ("pbmc3k_raw", "gene_mean", 0.04935),
    ("pbmc3k_raw", "gene_mean_posterior", 0.04568),
    ("baron_pancreas_7162x1000", "gene_mean_posterior", -0.31152),
    ("zeisel_ercc_1000g", "gene_mean_posterior", 0.26666),
    ("zeisel_ercc_1000g", "poisson_nmf", 0.27234),
]


@pytest.mark.parametrize(("name", "method", "anchor"), ANCHORS)
def test_held_out_loss_of_controls(shared_data, name, method, anchor):
    train, test = thinned(shared_data / f"{name}.h5ad")
    result = get(method)().fit_transform(train)
    losses, sizes, total = [], [], 0.0
    for rows, block in result.blocks(keep_observed=False, scale="counts"):
        prediction = block / 9.0
        losses.append(poisson_loss(truth=test[rows].toarray(), prediction=prediction))
        sizes.append(prediction.size)
        total += prediction.sum(dtype=np.float64)
    assert np.average(losses, weights=sizes) == pytest.approx(anchor, rel=0.01)
    assert total / test.sum(dtype=np.float64) == pytest.approx(1, abs=0.02)


@pytest.mark.real
def test_poisson_nmf_on_pbmc3k(shared_data):
    train, test = thinned(shared_data / "pbmc3k_raw.h5ad")
    rates = get("poisson_nmf")().fit_transform(train).to_array() / 9.0
    assert poisson_loss(truth=test.toarray(), prediction=rates) == pytest.approx(0.0466, rel=0.01)


@pytest.mark.real
def test_ialm_on_all_of_pbmc3k_by_the_command_line(shared_data, tmp_path):
    source, output = shared_data / "pbmc3k_raw.h5ad", tmp_path / "out.h5ad"
    done = command("impute", source, "-o", output, "--method", "ialm")
    assert done.returncode == 0, done.stderr
    before, after = ad.read_h5ad(source), ad.read_h5ad(output)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(before.X, part), getattr(after.X, part))
    assert after.var.drop(columns=after.var.columns.difference(before.var.columns)).equals(before.var)
    layer = after.layers["ialm"]
    assert layer.shape == (2700, 32738)
    assert np.isfinite(layer).all()
    assert layer.min() >= 0
    known = before.X.tocoo()
    np.testing.assert_array_equal(layer[known.row, known.col], known.data)
    record = after.uns["imputome"]["ialm"]
    assert record["convergence"]["status"] == "converged"
    assert record["convergence"]["residual"] < 1e-4
    assert len(record["unusable_genes"]) == int((before.X.sum(axis=0) == 0).sum())


@pytest.mark.real
def test_large_sparse_input_to_zarr_in_bounded_memory(tmp_path):
    rng = np.random.default_rng(0)
    programmes = rng.gamma(0.3, size=(20, 2000))
    blocks = []
    for _ in range(10):
        rates = rng.dirichlet(np.full(20, 0.3), size=10_000) @ programmes * 0.2
        blocks.append(sp.csr_matrix(rng.poisson(rates).astype(np.float32)))
    source, output = tmp_path / "in.h5ad", tmp_path / "out.zarr"
    ad.AnnData(sp.vstack(blocks, format="csr")).write_h5ad(source)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = command("impute", source, "-o", output, "--method", "ialm", "--set", "max_rank=50")
    assert done.returncode == 0, done.stderr
    peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024
    assert peak < 4 * 2**30
    assert ad.read_zarr(output).layers["ialm"].shape == (100_000, 2000)
