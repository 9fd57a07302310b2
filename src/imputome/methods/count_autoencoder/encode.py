"""From a trained network to its result: the numpy model of the rates, and how good the fit is.

Letters: ``n`` cells, ``G`` genes, ``K`` values of the last hidden layer, ``l`` library size, ``m`` rate, ``z`` share of
dropouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from imputome.errors import InputError
from imputome.methods.count_autoencoder.network import CountNetwork, squared_error
from imputome.methods.deep.batches import Batch
from imputome.methods.deep.likelihoods import ZeroInflated
from imputome.methods.deep.rates import Head, LogLinearModel

if TYPE_CHECKING:
    import pandas as pd

OFF_SCALE = 0.2  # share by which the summed rate may differ from the summed counts without a word


@dataclass(frozen=True)
class Fitted:
    """What `encode` makes of cells.

    Attributes
    ----------
    model : their rates, with U as ``model.latent``.
    library : (n,) float32, l: molecules per cell over these genes, as predicted; 0 for cells without counts.
    """

    model: LogLinearModel
    library: np.ndarray


@torch.no_grad()
def encode(
    network: CountNetwork, batches: Iterable[Batch], *, n: int, usable: np.ndarray, factor: float = 1.0
) -> Fitted:
    """Encode ``n`` cells, and take the heads along as numpy arrays.

    Parameters
    ----------
    network : in eval mode.
    batches : hold each cell once.
    usable : (G,) whether a gene had molecules in training; the others get rates of zero, and those of a cell sum to l
        without them.
    factor : of the expected count, see `LogLinearModel`.

    Cost: one forward pass without the output's likelihood; (n, K) and the weights of the heads are kept.
    """
    d = network.design
    bias = network.mean_head.bias.clone()
    bias[torch.from_numpy(~usable).to(bias.device)] = -torch.inf
    K = network.mean_head.in_features
    hidden, latent = np.empty((n, K), np.float32), np.empty((n, d.encoder[-1]), np.float32)
    offset, library, per = (np.empty(n, np.float32) for _ in range(3))
    for batch in batches:
        encoded = network(batch)
        total = batch.counts.totals  # (B,)
        if d.library == "size_factor":
            log_offset, size = encoded.log_library, total
        else:
            logits = nn.functional.linear(encoded.hidden, network.mean_head.weight, bias)  # (B, G)
            log_offset, size = encoded.log_library - logits.logsumexp(1), encoded.log_library.exp()
        empty = total == 0
        index = batch.index.cpu().numpy()
        hidden[index], latent[index] = _numpy(encoded.hidden), _numpy(encoded.latent)
        offset[index] = _numpy(log_offset.masked_fill(empty, -torch.inf))
        library[index] = _numpy(size.masked_fill(empty, 0))
        # "normalized" is per 10,000 molecules over all genes of the experiment, of which these may be a part
        per[index] = library[index] * _numpy(batch.library / total.clamp_min(1e-8))
    dispersion = None if network.dispersion_head is None else _head(network.dispersion_head)
    if dispersion is not None and d.dispersion == "conditional":
        dispersion = Head(dispersion.weight, dispersion.bias, log_softplus=True)
    elif network.log_size is not None:
        dispersion = Head(None, _numpy(network.log_size))
    model = LogLinearModel(
        hidden,
        log_offset=offset,
        library=per,
        mean=Head(_head(network.mean_head).weight, _numpy(bias)),
        zero=None if network.zero_head is None else _head(network.zero_head),
        dispersion=dispersion,
        dispersion_is="odds" if d.dispersion == "odds" else "size",
        latent=latent,
        factor=factor,
    )
    return Fitted(model, library)


@dataclass
class Tally:
    """Sums over cells of what tells how well a network fits them."""

    cells: int = 0
    entries: int = 0
    nll: float = 0.0
    squared_error: float = 0.0
    dropout: float = 0.0
    rate: float = 0.0
    expected: float = 0.0
    counts: float = 0.0

    @classmethod
    @torch.no_grad()
    def of(cls, network: CountNetwork, batches: Iterable[Batch]) -> Tally:
        """One forward pass over ``batches``, likelihood included."""
        tally = cls()
        for batch in batches:
            likelihood = network.distribution(network(batch))
            base = likelihood.base if isinstance(likelihood, ZeroInflated) else likelihood
            target, rate = batch.target, base.mean  # (B, G)
            nll = -likelihood.log_prob_rows(target.rows, target.columns, target.values)
            tally.cells += len(batch)
            tally.entries += rate.numel()
            tally.nll += _sum(nll)
            tally.squared_error += float(squared_error(rate, target))
            tally.rate += _sum(rate)
            tally.counts += _sum(target.values)
            if isinstance(likelihood, ZeroInflated):
                tally.dropout += _sum(torch.sigmoid(likelihood.logit))
                tally.expected += _sum(likelihood.mean)
            else:
                tally.expected += _sum(rate)
        return tally

    @property
    def fit(self) -> dict[str, float]:
        """``nll``, mean over cells, constants included; ``mse`` of the rate, mean over entries."""
        return {"nll": self.nll / self.cells, "mse": self.squared_error / self.entries}


def figures(everything: Tally, validation: Tally, predicted: np.ndarray, totals: np.ndarray) -> dict[str, Any]:
    """The figures of a fit for `Status.details`.

    Parameters
    ----------
    everything, validation : of all cells, of the validation cells.
    predicted, totals : (n,) library sizes, predicted and observed.
    """
    fit = validation.fit
    return {
        "nll_validation": fit["nll"],
        "mse_validation": fit["mse"],
        "mean_dropout": everything.dropout / everything.entries,
        "total_ratio_rate": everything.rate / everything.counts,
        "total_ratio_expected": everything.expected / everything.counts,
        "library_correlation": _correlation(predicted, totals),
    }


def warning(figures: dict[str, Any]) -> str:
    """What a user has to know about the scale of the rate, or nothing."""
    ratio = figures["total_ratio_rate"]
    if abs(ratio - 1) <= OFF_SCALE:
        return ""
    text = f"the summed rate is {ratio:.2g} times the summed counts"
    if figures["mean_dropout"] > 0:
        text += (
            f" at a mean dropout of {figures['mean_dropout']:.2g}: free zero inflation puts the rate off the data's "
            "scale; take expected_count, or raise alpha_z"
        )
    return text


def _correlation(predicted: np.ndarray, totals: np.ndarray) -> float:
    """Of the logs, over cells with counts; 0 where one of them is constant."""
    filled = (totals > 0) & (predicted > 0)
    a, b = (np.log(values[filled].astype(np.float64)) for values in (predicted, totals))
    if a.std() < 1e-12 or b.std() < 1e-12:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _head(linear: nn.Linear) -> Head:
    return Head(np.ascontiguousarray(_numpy(linear.weight).T), _numpy(linear.bias))


def _numpy(tensor: Tensor) -> np.ndarray:
    # a copy: fine-tuning and pruning change the network's own arrays in place
    return tensor.detach().cpu().numpy().copy()


def _sum(tensor: Tensor) -> float:
    return float(tensor.sum(dtype=torch.float64))


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
