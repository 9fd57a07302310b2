"""The network of the count autoencoders and its loss: ZiPo (paper 001, section II) and, with other settings, DCA.

Letters: ``B`` cells of a batch, ``G`` genes, ``K`` values of the last hidden layer, ``C`` coded covariates, ``nnz``
nonzero counts of the batch; ``U`` latent, ``V = [U, covariates]``, ``l`` library size, ``m`` rate, ``z`` share of
dropouts, ``theta = log m - log r`` with the size r of the negative binomial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from imputome.core.scales import TARGET
from imputome.errors import InputError
from imputome.methods.deep.batches import Batch, Block
from imputome.methods.deep.likelihoods import CountDistribution, NegativeBinomial, Poisson, ZeroInflated
from imputome.methods.deep.rates import LARGEST_LOG_RATE
from imputome.methods.deep.sparse_layers import SparseLinear, multinomial_loss
from imputome.methods.deep.training import NOT_NEGATIVE, SHARE, check_values, wrong_parameter

Widths = str | int | tuple[int, ...]
Residual = bool | tuple[int, ...]
Distribution = Literal["poisson", "nb", "zip", "zinb"]
Activation = Literal["sigmoid", "tanh", "relu", "relu6", "gelu", "elu", "selu", "leaky_relu"]
InputTransform = Literal["counts", "log1p", "log1p_normalized", "zscore"]
Library = Literal["network", "observed", "size_factor"]
Dispersion = Literal["odds", "conditional", "gene"]

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "leaky_relu": nn.LeakyReLU,
}
LIBRARY_WIDTHS = (16, 4)  # hidden layers of the library network (section II-G)


@dataclass(frozen=True)
class Design:
    """What is built and what is minimised; the defaults are ZiPo's.

    The attributes up to ``loss_over`` are parameters of `imputome.methods.count_autoencoder.zipo.Zipo`. ``dropout`` and
    ``input_dropout`` are the shares of hidden units and of nonzero inputs dropped in training; with ``linear_latent``
    the latent layer has no activation; with ``data_start`` the biases of library network and mean start at the data.
    """

    encoder: Widths = "2048-1024-512-256-128"
    decoder: Widths = ""
    residual: Residual = True
    activation: Activation = "sigmoid"
    batch_norm: bool = True
    batch_norm_place: Literal["after", "before"] = "after"
    distribution: Distribution = "zip"
    zero_inflation: bool | None = None
    dispersion: Dispersion = "odds"
    library: Library = "network"
    input_transform: InputTransform = "log1p"
    alpha_z: float = 0.1
    alpha_w: float = 0.1
    alpha_theta: float | None = None
    alpha_rate: float | None = None
    rate_penalty: Literal["entries", "library"] = "entries"
    loss_over: Literal["cells", "entries"] = "cells"
    dropout: float = 0.0
    input_dropout: float = 0.0
    linear_latent: bool = False
    data_start: bool = True

    def __post_init__(self) -> None:
        if not self.encoder_widths:
            raise InputError(
                "the encoder needs at least one layer, the latent: pass {encoder}", code="parameter-value", encoder="64"
            )
        _ = self.decoder_widths, self.residual_layers  # raise an error if they are not widths and layers
        check_values(self, NOT_NEGATIVE, "alpha_z", "alpha_w", "alpha_theta", "alpha_rate")
        check_values(self, SHARE, "dropout", "input_dropout")

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Widths of the encoder's layers; the last is the latent."""
        return widths(self.encoder, "encoder")

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Widths of the decoder's hidden layers."""
        return widths(self.decoder, "decoder")

    @property
    def residual_layers(self) -> tuple[int, ...]:
        """Numbers, from 1 and in order, of the encoder layers that are projected to the latent."""
        earlier = range(1, len(self.encoder_widths))  # all but the latent
        if isinstance(self.residual, bool):
            return tuple(earlier) if self.residual else ()
        if not set(self.residual) <= set(earlier):
            rule = f"must be true, false, or numbers of encoder layers from 1 to {len(earlier)}, without the latent"
            raise wrong_parameter("residual", self.residual, rule)
        return tuple(sorted(set(self.residual)))

    @property
    def is_negative_binomial(self) -> bool:
        """Whether the distribution is a negative binomial, with or without zero inflation."""
        return self.distribution in ("nb", "zinb")

    @property
    def has_zero_inflation(self) -> bool:
        """Whether the distribution has zero inflation."""
        return self.distribution in ("zip", "zinb") if self.zero_inflation is None else self.zero_inflation

    @property
    def theta_strength(self) -> float:
        """``alpha_theta``, or its default for this distribution."""
        return self._strength(self.alpha_theta, 1e-2)

    @property
    def rate_strength(self) -> float:
        """``alpha_rate``, or its default for this distribution."""
        return self._strength(self.alpha_rate, 0.1)

    def _strength(self, alpha: float | None, default: float) -> float:
        if alpha is not None:
            return alpha
        return default if self.is_negative_binomial and self.dispersion == "odds" else 0.0


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training cells that the network needs before training."""

    share: np.ndarray  # (G,) of each gene in all molecules: the starting value of the bias of the mean
    mean_log_total: float  # mean over cells of the log of their molecules: where the library network starts
    median_library: float  # median molecules per cell; size factors are relative to it
    mean: np.ndarray | None = None  # (G,) of log1p of counts per median_library, for z-scores; None for other inputs
    sd: np.ndarray | None = None  # likewise


class Encoded(NamedTuple):
    """The values of a batch before the outputs."""

    latent: Tensor  # (B, latents) U
    hidden: Tensor  # (B, K) last hidden layer
    log_library: Tensor  # (B,) log l, or the log of the size factor


class CountNetwork(nn.Module):
    """Encoder with residual connections to the latent, library network, and linear outputs of the distribution."""

    mean: Tensor
    inverse_sd: Tensor
    median_library: Tensor

    def __init__(self, design: Design, statistics: Statistics, n_covariates: int = 0) -> None:
        super().__init__()
        self.design = design
        d, encoder, decoder, G = design, design.encoder_widths, design.decoder_widths, len(statistics.share)
        self.first = SparseLinear(G, encoder[0])
        linear = [False] * (len(encoder) - 1) + [d.linear_latent]
        self.first_rest = _AfterLinear(encoder[0], d, linear=linear[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), _AfterLinear(b, d, linear=last))
            for (a, b), last in zip(pairwise(encoder), linear[1:], strict=True)
        )
        self.residuals = nn.ModuleList(
            nn.Linear(encoder[layer - 1], encoder[-1], bias=False) for layer in d.residual_layers
        )
        width = encoder[-1] + n_covariates  # of V
        self.decoder = nn.Sequential(
            *(nn.Sequential(nn.Linear(a, b), _AfterLinear(b, d)) for a, b in pairwise((width, *decoder)))
        )
        K = decoder[-1] if decoder else width
        self.library = _library_network(width) if d.library == "network" else None
        self.mean_head = nn.Linear(K, G)
        if d.data_start:
            self._start_at(statistics)
        self.zero_head = nn.Linear(K, G) if d.has_zero_inflation else None
        conditional = d.is_negative_binomial and d.dispersion != "gene"
        self.dispersion_head = nn.Linear(K, G) if conditional else None
        by_gene = d.is_negative_binomial and d.dispersion == "gene"
        self.log_size = nn.Parameter(torch.zeros(G)) if by_gene else None
        self.register_buffer("median_library", torch.tensor(statistics.median_library, dtype=torch.float32))
        zscored = d.input_transform == "zscore"
        mean, sd = (statistics.mean, statistics.sd) if zscored else (None, None)
        self.register_buffer("mean", None if mean is None else torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("inverse_sd", None if sd is None else torch.from_numpy((1 / sd).astype(np.float32)))

    @torch.no_grad()
    def _start_at(self, statistics: Statistics) -> None:
        """Set the biases of library network and mean to the logs of the mean total and of the genes' shares."""
        if self.library is not None:
            cast(nn.Linear, self.library[-1]).bias.fill_(statistics.mean_log_total)
        # genes without molecules start at a hundredth of the smallest positive share
        start = np.log(np.maximum(statistics.share, 0.01 * statistics.share[statistics.share > 0].min()))
        start += np.log(statistics.median_library) if self.design.library == "size_factor" else 0.0
        self.mean_head.bias.copy_(torch.from_numpy(start))

    # -- forward -------------------------------------------------------------------------------------------------------
    def read(self, counts: Block, library: Tensor) -> Tensor:
        """(B, first width) output of the first linear layer; the transformed counts stay sparse."""
        values = self._transformed(counts, library)  # (nnz,)
        if self.training and self.design.input_dropout:
            values = nn.functional.dropout(values, self.design.input_dropout)
        out = self.first(counts.with_values(values))
        if self.design.input_transform != "zscore":
            return out
        # (x - mean) / sd @ W = (x / sd) @ W - (mean / sd) @ W keeps the input sparse
        return out - (self.mean * self.inverse_sd) @ self.first.weight

    def _transformed(self, counts: Block, library: Tensor) -> Tensor:
        """(nnz,) transformed counts, which the first layer reads; z-scores without their constant part."""
        kind = self.design.input_transform
        if kind == "counts":
            return counts.values
        if kind == "log1p":
            return counts.values.log1p()
        target = self.median_library if kind == "zscore" else TARGET
        values = (counts.values * (target / library.clamp_min(1e-8))[counts.rows]).log1p()
        return values if kind == "log1p_normalized" else values * self.inverse_sd[counts.columns]

    def forward(self, batch: Batch) -> Encoded:
        """Latent, last hidden layer and log library size of a batch."""
        h = self.first_rest(self.read(batch.counts, batch.library))  # (B, first width)
        projections: list[Tensor] = []
        residuals = dict(zip(self.design.residual_layers, self.residuals, strict=True))
        for layer, block in enumerate(self.blocks, 1):
            if layer in residuals:
                projections.append(residuals[layer](h))  # (B, latents)
            h = block(h)
        latent = sum(projections, h)  # after the batch normalisation of the latent block
        V = latent if batch.covariates is None else torch.cat([latent, batch.covariates], 1)
        if self.library is not None:
            log_library = self.library(V)[:, 0]
        else:
            total = batch.target.totals.clamp_min(1e-8)  # (B,)
            log_library = (total / self.median_library if self.design.library == "size_factor" else total).log()
        return Encoded(latent, self.decoder(V), log_library)

    def log_rate(self, encoded: Encoded) -> Tensor:
        """(B, G) log m."""
        logits = self.mean_head(encoded.hidden)  # (B, G)
        if self.design.library == "size_factor":
            # an exponential needs a bound; the gradient continues beyond it, so that a rate outside can come back
            log_rate = logits + encoded.log_library[:, None]
            return log_rate - (log_rate - LARGEST_LOG_RATE).clamp_min(0).detach()
        return torch.log_softmax(logits, 1) + encoded.log_library[:, None]

    def distribution(self, encoded: Encoded) -> CountDistribution:
        """The distribution of the counts, (B, G)."""
        log_rate = self.log_rate(encoded)
        base: CountDistribution = Poisson(log_rate)
        if self.log_size is not None:
            base = NegativeBinomial(log_rate, log_size=self.log_size)
        elif self.dispersion_head is not None:
            values = self.dispersion_head(encoded.hidden)
            if self.design.dispersion == "odds":
                base = NegativeBinomial(log_rate, values)
            else:
                base = NegativeBinomial(log_rate, log_size=_log_softplus(values))
        return base if self.zero_head is None else ZeroInflated(base, self.zero_head(encoded.hidden))

    # -- loss ----------------------------------------------------------------------------------------------------------
    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the objective (section II-D), means over the cells of the batch; their sum is minimised.

        With ``loss_over="entries"``, ``nll`` is divided by G too. For a Poisson at the observed library size it lacks
        the terms without parameters.
        """
        d = self.design
        encoded = self(batch)
        weight = 1 / (len(batch) * (self.mean_head.out_features if d.loss_over == "entries" else 1))
        terms: dict[str, Tensor] = {}
        if self._is_multinomial:
            # the constants are left out: their log factorials cost as much as the encoder
            terms["nll"] = self._multinomial_loss(encoded, batch) * weight
        else:
            likelihood = self.distribution(encoded)
            terms["nll"] = self._nll(likelihood, batch) * weight
            if d.alpha_z and isinstance(likelihood, ZeroInflated):
                terms["zero_inflation"] = d.alpha_z * torch.sigmoid(likelihood.logit).square().mean()
            base = likelihood.base if isinstance(likelihood, ZeroInflated) else likelihood
            if d.theta_strength and isinstance(base, NegativeBinomial):
                terms["dispersion"] = d.theta_strength * base.log_odds.square().mean()
            if d.rate_strength:
                terms["rate"] = d.rate_strength * self._rate_penalty(encoded, base, batch)
        if d.alpha_w:
            terms["sparsity"] = d.alpha_w * sparsity(self.first.weight)
        return terms

    @torch.no_grad()
    def validation_loss(self, batch: Batch) -> Tensor:
        """Sum over cells of the negative log-likelihood, with constants, without penalties."""
        encoded, target = self(batch), batch.target
        if not self._is_multinomial:
            return self._nll(self.distribution(encoded), batch)
        total, x = target.totals, target.values
        constant = (total - torch.xlogy(total, total)).sum() + torch.lgamma(x + 1).sum()
        return constant + self._multinomial_loss(encoded, batch)

    @property
    def _is_multinomial(self) -> bool:
        """Whether the loss is that of a Poisson at the observed library size, which needs no rates."""
        d = self.design
        return d.library == "observed" and not (d.is_negative_binomial or d.has_zero_inflation or d.rate_strength)

    def _multinomial_loss(self, encoded: Encoded, batch: Batch) -> Tensor:
        return multinomial_loss(encoded.hidden, self.mean_head.weight.t(), self.mean_head.bias, batch.target)

    @staticmethod
    def _nll(likelihood: CountDistribution, batch: Batch) -> Tensor:
        target = batch.target
        return -likelihood.log_prob_rows(target.rows, target.columns, target.values).sum()

    def _rate_penalty(self, encoded: Encoded, base: CountDistribution, batch: Batch) -> Tensor:
        """Section III-F; the formula can mean that single rates or their sum are compared with the counts."""
        if self.design.rate_penalty == "library":
            return (base.mean.sum(1) - batch.target.totals).square().mean()
        return squared_error(base.mean, batch.target) / base.mean.numel()


class _AfterLinear(nn.Sequential):
    """The layers after a linear one: activation and batch normalisation, in either order, and dropout."""

    def __init__(self, width: int, design: Design, *, linear: bool = False) -> None:
        parts: list[nn.Module] = [] if linear else [ACTIVATIONS[design.activation]()]
        if design.batch_norm and design.batch_norm_place == "after":
            parts.append(nn.BatchNorm1d(width))
        elif design.batch_norm:
            norm = nn.BatchNorm1d(width)
            norm.weight.requires_grad_(False)  # without scale, as in DCA: the next linear layer has one
            parts.insert(0, norm)
        if design.dropout and not linear:
            parts.append(nn.Dropout(design.dropout))
        super().__init__(*parts)


def _library_network(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise((width, *LIBRARY_WIDTHS)):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(LIBRARY_WIDTHS[-1], 1))


def _log_softplus(x: Tensor) -> Tensor:
    # the softplus of a very negative number is its exponential
    return torch.where(x < -20, x, torch.log(nn.functional.softplus(x.clamp_min(-20))))


def squared_error(rate: Tensor, target: Block) -> Tensor:
    """Sum of (m - x)^2 over all entries, for (B, G) rates m and sparse x."""
    at_nonzeros = rate.reshape(-1)[target.flat]  # (nnz,)
    return rate.square().sum() + (target.values * (target.values - 2 * at_nonzeros)).sum()


def sparsity(weight: Tensor) -> Tensor:
    """Mean over neurons of mean|w| / sqrt(mean w^2), the scale-invariant penalty of section II-E.

    The weights of a neuron are a column of the (G, H) ``weight``. The result lies between 1 / sqrt(G), a single gene
    for each neuron, and 1.
    """
    value: Tensor = _Sparsity.apply(weight)
    return value


class _Sparsity(torch.autograd.Function):
    """Written by hand, because autograd keeps several copies of ``weight``, the largest tensor of the network."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        G, H = weight.shape
        sums, squares = weight.new_zeros(2, H)
        for part in weight.split(64 if weight.device.type == "cpu" else G):  # stays in the processor's cache
            sums += part.abs().sum(0)
            squares += part.square().sum(0)
        mean, rms = sums / G, (squares / G).sqrt().clamp_min(1e-12)  # (H,)
        ctx.save_for_backward(weight, mean, rms)
        return (mean / rms).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        weight, mean, rms = ctx.saved_tensors
        scale = gradient / weight.numel()
        out: Tensor = torch.sign(weight).mul_(scale / rms)
        return out.addcmul_(weight, -scale * mean / rms**3)


def widths(value: Any, name: str) -> tuple[int, ...]:
    """Layer widths as integers, from ``"512-256-64"``, the paper's notation, or one or several widths."""
    parts = value.split("-") if isinstance(value, str) and value else [value] if isinstance(value, int) else value
    try:
        numbers = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        numbers = (0,)
    if any(number < 1 for number in numbers):
        raise InputError(
            f"{name}={value!r} is not a list of layer widths: pass for example {{{name}}}",
            code="parameter-value",
            **{name: "512-256-64"},
        )
    return numbers
