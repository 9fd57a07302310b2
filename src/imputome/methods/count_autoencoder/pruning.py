"""Pruning of the first layer and what its neurons stand for (paper 001, sections II-B and III-E)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from imputome.errors import InputError
from imputome.methods.count_autoencoder.fitted import Tally
from imputome.methods.count_autoencoder.network import CountNetwork
from imputome.methods.deep.batches import Batch

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Pruning:
    """What pruning did.

    Attributes
    ----------
    delta : threshold, relative to the largest absolute weight of a neuron.
    sparsity : share of the first layer's weights that are zero now.
    nll_before, nll_after : mean per cell over the cells compared on.
    mse_before, mse_after : of the rate, mean over entries.
    """

    delta: float
    sparsity: float
    nll_before: float
    nll_after: float
    mse_before: float
    mse_after: float


def prune(network: CountNetwork, batches: Callable[[], Iterable[Batch]], *, delta: float) -> Pruning:
    """Zero the small weights of the first layer in place.

    Parameters
    ----------
    batches : gives the cells that the fit is compared on, each time anew.
    delta : in 0 to 1.
    """
    if not 0 <= delta < 1:
        raise InputError(f"delta={delta!r} must lie in 0 to 1: it is relative to a neuron's largest weight")
    before = Tally.of(network, batches()).fit
    with torch.no_grad():
        weight = network.first.weight  # (G, H)
        size = weight.abs()
        weight[size < delta * size.max(0).values] = 0
        sparsity = float((weight == 0).double().mean())
    after = Tally.of(network, batches()).fit
    return Pruning(delta, sparsity, before["nll"], after["nll"], before["mse"], after["mse"])


def top_genes(weight: np.ndarray, names: pd.Index, k: int) -> pd.DataFrame:
    """Genes of largest absolute weight of each neuron; ``weight`` is (G, H). See `Zipo.first_layer_genes`."""
    import pandas as pd

    G, H = weight.shape
    if not 1 <= k <= G:
        raise InputError(f"k={k!r} must lie in 1 to the number of genes, {G}")
    size = np.abs(weight)
    chosen = np.argpartition(-size, k - 1, axis=0)[:k]  # (k, H)
    order = np.argsort(-np.take_along_axis(size, chosen, 0), axis=0, kind="stable")
    chosen = np.take_along_axis(chosen, order, 0)
    weights = np.take_along_axis(weight, chosen, 0)
    largest = np.maximum(size.max(axis=0), np.finfo(weight.dtype).tiny)
    return pd.DataFrame(
        {
            "neuron": np.repeat(np.arange(H), k),
            "rank": np.tile(np.arange(1, k + 1), H),
            "gene": np.asarray(names)[chosen.T.ravel()],
            "weight": weights.T.ravel(),
            "relative": (weights / largest).T.ravel(),
        }
    )
