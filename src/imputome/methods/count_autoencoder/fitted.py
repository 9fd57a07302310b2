"""What is computed with a trained count network: the rates of cells and the quality of the fit.

Letters: ``n`` cells, ``G`` genes, ``H`` first-layer neurons, ``K`` values of the last hidden layer, ``l`` library size,
``m`` rate, ``z`` share of dropouts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imputome.methods.count_autoencoder.network import CountNetwork, squared_error
from imputome.methods.deep.batches import Batch
from imputome.methods.deep.likelihoods import ZeroInflated
from imputome.methods.deep.rates import LinearOutput, LogLinearModel

SCALE_TOLERANCE = 0.2  # the summed rate may differ by this share from the summed counts without a warning


@torch.no_grad()
def encode(
    network: CountNetwork, batches: Iterable[Batch], *, n: int, usable: np.ndarray, factor: float = 1.0
) -> tuple[LogLinearModel, np.ndarray]:
    """The rates of n cells in numpy, and (n,) l, predicted molecules per cell over these genes; 0 without counts.

    The network is in eval mode, and ``batches`` hold each cell once. ``usable`` (G,) says whether a gene had molecules
    in training. The other genes get rates of zero, and the rates of a cell sum to l without them.

    Cost: one forward pass without the likelihood; (n, K) numbers and the weights of the outputs are kept.
    """
    d = network.design
    bias = network.mean_head.bias.clone()
    bias[torch.from_numpy(~usable).to(bias.device)] = -torch.inf
    K = network.mean_head.in_features
    hidden, latent = np.empty((n, K), np.float32), np.empty((n, d.encoder_widths[-1]), np.float32)
    offset, library, full_library = (np.empty(n, np.float32) for _ in range(3))
    for batch in batches:
        encoded = network(batch)
        total = batch.counts.totals  # (B,)
        if d.library == "size_factor":
            log_offset, size = encoded.log_library, total
        else:
            logits = nn.functional.linear(encoded.hidden, network.mean_head.weight, bias)  # (B, G)
            log_offset, size = encoded.log_library - logits.logsumexp(1), encoded.log_library.exp()
        is_empty = total == 0
        index = batch.index.cpu().numpy()
        hidden[index], latent[index] = _numpy(encoded.hidden), _numpy(encoded.latent)
        offset[index] = _numpy(log_offset.masked_fill(is_empty, -torch.inf))
        library[index] = _numpy(size.masked_fill(is_empty, 0))
        # "normalized" is per 10,000 molecules over all genes of the experiment; these genes may be a part of them
        full_library[index] = library[index] * _numpy(batch.library / total.clamp_min(1e-8))
    dispersion = None if network.dispersion_head is None else _linear_output(network.dispersion_head)
    if dispersion is not None and d.dispersion == "conditional":
        dispersion = LinearOutput(dispersion.weight, dispersion.bias, log_softplus=True)
    elif network.log_size is not None:
        dispersion = LinearOutput(None, _numpy(network.log_size))
    model = LogLinearModel(
        hidden,
        log_offset=offset,
        library=full_library,
        mean=LinearOutput(_linear_output(network.mean_head).weight, _numpy(bias)),
        zero=None if network.zero_head is None else _linear_output(network.zero_head),
        dispersion=dispersion,
        dispersion_is="odds" if d.dispersion == "odds" else "size",
        latent=latent,
        factor=factor,
    )
    return model, library


@dataclass
class FitTotals:
    """Sums over cells that show how well a network fits them."""

    cells: int = 0
    entries: int = 0  # (cell, gene)
    nll: float = 0.0  # negative log-likelihood, with constants
    squared_error: float = 0.0  # of the rates
    dropout: float = 0.0  # z
    rate: float = 0.0  # m
    expected: float = 0.0  # (1 - z) m
    counts: float = 0.0

    @classmethod
    @torch.no_grad()
    def of(cls, network: CountNetwork, batches: Iterable[Batch]) -> FitTotals:
        """The totals over ``batches``, in one forward pass with the likelihood."""
        totals = cls()
        for batch in batches:
            likelihood = network.distribution(network(batch))
            base = likelihood.base if isinstance(likelihood, ZeroInflated) else likelihood
            target, rate = batch.target, base.mean  # (B, G)
            nll = -likelihood.log_prob_rows(target.rows, target.columns, target.values)  # (B,)
            totals.cells += len(batch)
            totals.entries += rate.numel()
            totals.nll += _sum(nll)
            totals.squared_error += float(squared_error(rate, target))
            totals.rate += _sum(rate)
            totals.counts += _sum(target.values)
            totals.expected += _sum(likelihood.mean)
            if isinstance(likelihood, ZeroInflated):
                totals.dropout += _sum(torch.sigmoid(likelihood.logit))
        return totals

    @property
    def mean_nll(self) -> float:
        """Mean negative log-likelihood per cell."""
        return self.nll / self.cells

    @property
    def mse(self) -> float:
        """Mean squared error of the rate per entry."""
        return self.squared_error / self.entries


def fit_details(
    all_cells: FitTotals, validation: FitTotals, predicted_library: np.ndarray, library: np.ndarray
) -> dict[str, Any]:
    """The quality of a fit, for `Status.details` (see `Zipo`), from totals and (n,) library sizes."""
    return {
        "nll_validation": validation.mean_nll,
        "mse_validation": validation.mse,
        "mean_dropout": all_cells.dropout / all_cells.entries,
        "total_ratio_rate": all_cells.rate / all_cells.counts,
        "total_ratio_expected": all_cells.expected / all_cells.counts,
        "library_correlation": _log_correlation(predicted_library, library),
    }


def scale_warning(details: dict[str, Any]) -> str:
    """A warning if the rates are not on the scale of the counts, else an empty text."""
    ratio = details["total_ratio_rate"]
    if abs(ratio - 1) <= SCALE_TOLERANCE:
        return ""
    text = f"the summed rate is {ratio:.2g} times the summed counts"
    if details["mean_dropout"] > 0:
        text += (
            f" at a mean dropout probability of {details['mean_dropout']:.2g}: with free zero inflation the rate is "
            "not on the scale of the counts; use the output expected_count, or a larger alpha_z"
        )
    return text


def _log_correlation(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Correlation of the logs, over cells with counts; 0 if one of them is constant."""
    positive = (observed > 0) & (predicted > 0)
    a, b = (np.log(values[positive].astype(np.float64)) for values in (predicted, observed))
    if a.std() < 1e-12 or b.std() < 1e-12:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _linear_output(linear: nn.Linear) -> LinearOutput:
    return LinearOutput(np.ascontiguousarray(_numpy(linear.weight).T), _numpy(linear.bias))


def _numpy(tensor: Tensor) -> np.ndarray:
    # a copy: fine-tuning and pruning change the network's own arrays in place
    return tensor.detach().cpu().numpy().copy()


def _sum(tensor: Tensor) -> float:
    return float(tensor.sum(dtype=torch.float64))


@dataclass(frozen=True)
class Pruning:
    """The effect of `SingleNetworkImputer.prune`."""

    delta: float  # threshold, relative to the largest absolute weight of a neuron
    sparsity: float  # share of the first layer's weights that are zero after pruning
    nll_before: float  # mean negative log-likelihood per cell
    nll_after: float
    mse_before: float  # mean squared error of the rate per entry
    mse_after: float


PRUNING_THRESHOLDS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # those of figure 10 of paper 001


@dataclass(frozen=True)
class PruningCurve:
    """The effect of each of `PRUNING_THRESHOLDS`; ``1e_4`` in a name stands for 1e-4.

    The shares of pruned weights are at the same time the cumulative histogram, by powers of ten, of the weights
    relative to the largest of their neuron.
    """

    weight_loss: float  # mean over neurons of mean|w| / sqrt(mean w^2), which alpha_w penalises (figure 9d)
    nll: float  # mean negative log-likelihood per cell, before pruning
    mse: float  # mean squared error of the rate per entry, before pruning
    sparsity_1e_1: float  # share of the first layer's weights that are zero after pruning
    sparsity_1e_2: float
    sparsity_1e_3: float
    sparsity_1e_4: float
    sparsity_1e_5: float
    sparsity_1e_6: float
    nll_1e_1: float  # after pruning
    nll_1e_2: float
    nll_1e_3: float
    nll_1e_4: float
    nll_1e_5: float
    nll_1e_6: float
    mse_1e_1: float
    mse_1e_2: float
    mse_1e_3: float
    mse_1e_4: float
    mse_1e_5: float
    mse_1e_6: float
