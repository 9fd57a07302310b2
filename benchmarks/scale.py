"""One epoch of ``count_autoencoder``'s network on data made on the fly: what `deep.py --device` measures.

Bytes are those that an epoch has to move at least: each step reads the nonzeros of its cells, gathers a row of the
first layer for each (and adds to it in the backward pass), writes and reads the (B, G) block of rates, reads both
weight matrices and their gradients, and updates weights and two moments. The share of peak bandwidth is that number
over the measured seconds, against a large copy on the same device in the same run.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numba import njit, prange

from imputome.core.data import as_data
from imputome.methods import get
from imputome.methods.count_autoencoder.network import CountNetwork, Statistics
from imputome.methods.deep.batches import CountBatches
from imputome.methods.deep.training import Schedule, seeded, train

BLOCK_PASSES = (
    6  # of the (B, G) block: product, softmax, scaling, subtraction, and one for each weight and hidden gradient
)
UPDATE_PASSES = 7  # of each parameter: gradient written and read, weight and two moments read and written


@njit(parallel=True)
def _draw(cells: int, genes: int, per_cell: int, indices: np.ndarray, values: np.ndarray) -> None:
    """One gene from each of ``per_cell`` equal stretches, so that a row is sorted and holds no gene twice."""
    stretch = genes / per_cell
    for i in prange(cells):
        np.random.seed(i)  # noqa: NPY002  (what numba has)
        for k in range(per_cell):
            indices[i * per_cell + k] = int((k + np.random.random()) * stretch)  # noqa: NPY002
            values[i * per_cell + k] = 1 + np.random.poisson(0.5)  # noqa: NPY002


def synthetic(cells: int, genes: int, density: float) -> sp.csr_array:
    """Counts without structure, ``density`` of them nonzero, int32 indices and float32 values."""
    per_cell = max(1, int(genes * density))
    indices, values = np.empty(cells * per_cell, np.int32), np.empty(cells * per_cell, np.float32)
    _draw(cells, genes, per_cell, indices, values)
    return sp.csr_array((values, indices, np.arange(cells + 1, dtype=np.int64) * per_cell), shape=(cells, genes))


def epochs(device: str, *, cells: int, genes: int, density: float, batch_size: int, number: int) -> dict[str, Any]:
    """Seconds per epoch (the first, which warms up, left out), cells per second, GB/s and its share of the peak."""
    begun = time.perf_counter()
    X = synthetic(cells, genes, density)
    made = time.perf_counter() - begun
    estimator = get("count_autoencoder")(device=device, batch_size=batch_size)
    estimator._prepare(as_data(X[: min(cells, 10_000)], kind="counts"))  # shares and sizes, as a fit would learn them
    share = np.bincount(X.indices, weights=X.data, minlength=genes) / X.data.sum()
    per_cell = np.asarray(X.sum(axis=1)).ravel()
    with seeded(0):
        statistics_ = Statistics(share, float(np.log(per_cell).mean()), float(np.median(per_cell)))
        estimator.share_ = share
        network = CountNetwork(estimator._design(), statistics_)
    batches = CountBatches(X, library=per_cell, batch_size=batch_size, device=device)
    schedule = Schedule(max_epochs=number + 1, optimizer="adamw", learning_rate=2e-3, weight_decay=1e-2, patience=None)
    trained = train(
        network,
        epoch=lambda generator: batches.epoch(generator=generator),
        validation=None,
        schedule=schedule,
        seed=0,
        device=device,
    )
    seconds = statistics.median(trained.history["seconds"][1:])
    moved = bytes_of_epoch(cells, genes, X.nnz, batch_size, estimator.n_hidden, estimator.n_latent)
    return {
        "nonzeros": X.nnz,
        "seconds_to_make": made,
        "seconds_per_epoch": seconds,
        "cells_per_second": cells / seconds,
        "GB_per_second": moved / seconds / 1e9,
        "peak_GB_per_second": copy_bandwidth(device) / 1e9,
        "share_of_peak": moved / seconds / copy_bandwidth(device),
    }


def bytes_of_epoch(cells: int, genes: int, nnz: int, batch_size: int, n_hidden: int, n_latent: int) -> float:
    """See the head of the module; float32 throughout."""
    steps = -(-cells // batch_size)
    nonzeros = nnz * (8 + 3 * 4 * n_hidden)  # the counts, a row of weights, and reading and writing one of gradients
    blocks = BLOCK_PASSES * 4.0 * cells * genes
    updates = UPDATE_PASSES * 4.0 * steps * genes * (n_hidden + n_latent)
    return nonzeros + blocks + updates


def copy_bandwidth(device: str, size: int = 2**28) -> float:
    """Bytes per second, read and written, of a large copy: the best of five."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    best = np.inf
    for _ in range(5):
        _wait(device)
        begun = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * size / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
