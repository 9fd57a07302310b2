"""The network of the beta-VAE, its loss, imputation by iteration, and its start at principal components.

Letters: ``n`` samples, ``B`` samples of a batch, ``G`` features, ``L`` latent dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import nn

from imputome.errors import InputError
from imputome.methods.deep.batches import DenseBatch
from imputome.methods.deep.training import NOT_NEGATIVE, POSITIVE, SHARE, Schedule, check_values, wrong_parameter

Preset = Literal["paper", "published_code"]
Likelihood = Literal["gaussian", "mse"]
Start = Literal["mean", "random"]
ShiftMode = Literal["inference", "train"]

INNER_FACTOR = 10  # width of the layers next to the latent, relative to it (section "Model parameters")
LARGEST_SHIFT = 10.0  # in SD
MIN_FEATURES_PER_LATENT = 5
MAX_LOG_VARIANCE = 10.0  # largest absolute value of the logarithm of a variance


@dataclass(frozen=True)
class Design:
    """All settings of network and training: the parameters of `BetaVAE`, and those that only presets change.

    Only presets change ``rate_decay`` and the last nine: additions of the default to the paper's network, and
    differences of the published code from the paper; the notes of `BetaVAE` say where each comes from.

    The defaults were chosen by measurement on training samples only: RMSE (mean absolute error) in z units at 10 % of
    the values, hidden in a fifth of the training samples of tcga_gbmlgg (arcsinh) and tcga_glioma_meth, after 60 to 120
    epochs. Iterative SVD has its best rank. The dropout column is hidden / input.

    ===================================  =============  =============
    latent, hidden, dropout              expression     methylation
    ===================================  =============  =============
    KNN                                  0.907 (0.574)  0.791 (0.562)
    iterative SVD                        0.824 (0.519)  0.740 (0.525)
    50, 500, 0 / 0                       0.823 (0.486)  0.744 (0.522)
    50, 1000-300, 0 / 0.2, not rescaled  0.871 (0.542)  0.765 (0.532)
    50, 500, 0 / 0.2                     0.825 (0.490)  0.745 (0.513)
    the same, compressed                 0.819 (0.487)  0.745 (0.520)
    the same, residual and compressed    0.811 (0.482)  0.745 (0.515)
    the same, with a falling rate        0.807 (0.478)  0.741 (0.507)
    100, 500, 0.1 / 0.3, all three       0.788 (0.462)  0.740 (0.508)
    200, 500, 0.2 / 0.3, all three       0.771 (0.452)  0.740 (0.511)
    ===================================  =============  =============

    Then the same with linear maps that start at principal components (`Components.of_number`), means over three splits;
    iterative SVD is the registered method, which validates its rank:

    ===================================  =============  =============
    iterative SVD                        0.682 (0.456)  0.717 (0.510)
    200, 500, 0.2 / 0.3, components      0.673 (0.443)  0.716 (0.498)
    200, 500, 0.2 / 0.2, components      0.670 (0.438)  0.713 (0.496)
    200, 500, 0.2 / 0.1, components      0.669 (0.436)  0.712 (0.496)
    the same, 0.2 / 0.2, beta = 0.5      0.669 (0.437)  0.713 (0.494)
    the same, 0.2 / 0.2, hidden 200      0.675 (0.447)  0.713 (0.496)
    ===================================  =============  =============
    """

    latent: int = 200
    # widths of the encoder's hidden layers, from the input to the latent; None: `paper_widths`
    hidden: tuple[int, ...] | None = (500,)
    beta: float = 1.0
    likelihood: Likelihood = "gaussian"
    latent_noise: bool = True
    dropout: float = 0.2
    input_dropout: float = 0.2
    learning_rate: float = 1e-3
    rate_decay: float = 0.95  # factor of the learning rate after every epoch
    weight_decay: float = 0.0
    batch_size: int = 64
    max_epochs: int = 80
    patience: int = 15
    iterations: int = 3
    start: Start = "mean"
    shift: float | Literal["auto"] = 0.0
    shift_mode: ShiftMode = "inference"
    # linear maps from x to the mean of z and from z to mu, which start at principal components, as correlations of
    # features are mostly linear
    residual: bool = True
    compressed: bool = True  # read asinh(x), so that extreme values do not determine z
    swapped: bool = False  # hidden layers of encoder and decoder in the opposite order (2000-6000-200-6000-2000)
    log_sigma: bool = False  # the output for the spread of x gives log sigma (the published code), not log sigma^2
    sampled: bool = False  # impute with drawn z, not with its mean
    complete_rows: bool = False  # do not accept samples with missing values when fitting
    xavier: bool = False  # weights start as those of Glorot & Bengio (2010) and biases at 0, not as in torch
    validation_share: float = 0.1  # of the samples, held out from training if settings are chosen on samples
    # without early stopping: train once more, on all samples, when lambda has been chosen on samples held out
    retrained: bool = False

    def __post_init__(self) -> None:
        check_values(self, POSITIVE, "latent", "batch_size", "max_epochs", "iterations", "learning_rate")
        check_values(self, NOT_NEGATIVE, "beta", "weight_decay", "patience")
        check_values(self, SHARE, "dropout", "input_dropout")
        if self.hidden is not None and not all(width > 0 for width in self.hidden):
            raise wrong_parameter("hidden", self.hidden, "must hold positive widths")
        if not isinstance(self.shift, str) and not 0 <= self.shift <= LARGEST_SHIFT:
            raise wrong_parameter("shift", self.shift, f"must be between 0 and {LARGEST_SHIFT:g} standard deviations")
        if self.shift and self.likelihood == "mse":
            raise no_sigma()

    def widths(self, n_genes: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Widths for G features: hidden layers of encoder and decoder, and the latent.

        No hidden layer is wider than the data, and the latent has at most a fifth of the features.
        """
        latent = max(1, min(self.latent, n_genes // MIN_FEATURES_PER_LATENT))
        hidden = paper_widths(latent, n_genes) if self.hidden is None else self.hidden
        encoder = tuple(min(width, n_genes) for width in hidden)
        if self.swapped:
            encoder = encoder[::-1]
        return encoder, encoder[::-1], latent

    @property
    def schedule(self) -> Schedule:
        """Length and learning rates of the training."""
        return Schedule(
            max_epochs=self.max_epochs,
            optimizer="adamw" if self.weight_decay else "adam",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            decay=self.rate_decay,
            decay_epochs=self.max_epochs,
            patience=self.patience or None,
            restore_best=bool(self.patience),
            start_counts=self.residual,
        )


def paper_widths(latent: int, n_genes: int) -> tuple[int, int]:
    """The paper's two hidden layers of the encoder, for L latent dimensions and G features.

    The inner one is 10 L wide. From there to the outer one and on to the input the widths grow by "a constant size
    increase factor", as near to it as a whole number is: (G / 10 L)^(1/2). With G = 17,176 this gives what the paper
    writes, 3000 and 500 for L = 50 (factor 6) and 6000 and 2000 for L = 200 (factor 3), and 8000 and 4000 for L = 400.
    """
    inner = INNER_FACTOR * latent
    return inner * max(1, round(math.sqrt(n_genes / inner))), inner


def no_sigma() -> InputError:
    """The error for a shift without a Gaussian likelihood."""
    return InputError(
        "beta_vae: a shift is counted in sigma, which likelihood='mse' does not have: pass {likelihood}",
        code="parameter-conflict",
        likelihood="gaussian",
    )


# the notes of `BetaVAE` hold the paper's statements one by one, and what is done where it is silent
_PAPER = Design(
    hidden=None,
    dropout=0.0,
    input_dropout=0.0,
    learning_rate=5e-5,
    rate_decay=1.0,
    batch_size=250,
    max_epochs=250,
    patience=0,
    start="random",
    shift_mode="train",
    residual=False,
    compressed=False,
    xavier=True,
    validation_share=0.2,
    retrained=True,
)
PRESETS: dict[Preset | None, Design] = {
    None: Design(),
    "paper": _PAPER,
    "published_code": replace(
        _PAPER, learning_rate=5e-4, start="mean", swapped=True, log_sigma=True, sampled=True, complete_rows=True
    ),
}


class Latent(NamedTuple):
    """The posterior q(z | x) of some samples."""

    mean: torch.Tensor  # (B, L)
    log_variance: torch.Tensor | None  # (B, L); None if the latent is deterministic

    def at(self, noise: torch.Tensor | None) -> torch.Tensor:
        """(B, L) mean + SD x ``noise`` (eq. 9)."""
        if noise is None or self.log_variance is None:
            return self.mean
        return self.mean + torch.exp(self.log_variance / 2) * noise


class VariationalAutoencoder(nn.Module):
    """x -> encoder -> z -> decoder -> x with ReLU and linear outputs (Qiu et al. 2020).

    The loss is the mean over samples of ``sum_g -log N(x_g; mu_g + lambda sigma_g, sigma_g) + beta KL(q || N(0, I))``
    (eq. 5), with the sum over scored entries. With likelihood ``"mse"`` it is ``sum_g (x_g - mu_g)^2 + beta KL``, which
    is eq. 8 if beta is 0.

    ``widths`` are those of the hidden layers of encoder and decoder, in the direction of the data, and of the latent;
    ``shift`` is lambda (Gaussian only). Without ``design.latent_noise`` this is a plain autoencoder, without KL.
    Dropped inputs are 0 and the others are multiplied by 1 / (1 - p); the loss includes dropped inputs, so that the
    network learns to impute.
    """

    def __init__(
        self, n_genes: int, design: Design, widths: tuple[tuple[int, ...], tuple[int, ...], int], *, shift: float = 0.0
    ) -> None:
        super().__init__()
        self.design, self.shift = design, shift
        encoder, decoder, latent = widths
        self.input_dropout = nn.Dropout(design.input_dropout)
        self.encoder = _hidden((n_genes, *encoder), design.dropout)
        self.decoder = _hidden((latent, *decoder), design.dropout)
        inner, outer = (encoder or (n_genes,))[-1], (decoder or (latent,))[-1]
        self.latent_mean = nn.Linear(inner, latent)
        self.latent_spread = nn.Linear(inner, latent) if design.latent_noise else None
        self.linear_encoder = nn.Linear(n_genes, latent, bias=False) if design.residual else None
        self.linear_decoder = nn.Linear(latent, n_genes, bias=False) if design.residual else None
        self.mean = nn.Linear(outer, n_genes)
        self.spread = nn.Linear(outer, n_genes) if design.likelihood == "gaussian" else None
        if design.xavier:
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)

    def encode(self, x: torch.Tensor) -> Latent:
        """q(z | x) of (B, G) values."""
        x = torch.asinh(x) if self.design.compressed else x
        hidden = self.encoder(x)
        mean = self.latent_mean(hidden)
        if self.linear_encoder is not None:
            mean = mean + self.linear_encoder(x)
        if self.latent_spread is None:
            return Latent(mean, None)
        return Latent(mean, self.latent_spread(hidden).clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE))

    def decode(self, z: torch.Tensor, *, spread: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
        """mu and log sigma^2, (B, G) each; the latter is None without ``spread``, or without an output for it."""
        hidden = self.decoder(z)
        mean = self.mean(hidden)
        if self.linear_decoder is not None:
            mean = mean + self.linear_decoder(z)
        if self.spread is None or not spread:
            return mean, None
        log_spread = self.spread(hidden)  # (B, G)
        return mean, (2 * log_spread if self.design.log_sigma else log_spread).clamp(
            -MAX_LOG_VARIANCE, MAX_LOG_VARIANCE
        )

    def loss_terms(self, batch: DenseBatch) -> dict[str, torch.Tensor]:
        """The reconstruction, and beta x KL if the latent is random and beta is not 0."""
        latent = self.encode(self.input_dropout(batch.values))
        noise = None if latent.log_variance is None else torch.randn_like(latent.mean)
        mean, log_variance = self.decode(latent.at(noise))
        terms = {"reconstruction": self._reconstruction(batch, mean, log_variance) / len(batch)}
        if latent.log_variance is not None and self.design.beta:
            terms["kl"] = self.design.beta * divergence(latent.mean, latent.log_variance) / len(batch)
        return terms

    def _reconstruction(self, batch: DenseBatch, mean: torch.Tensor, log_variance: torch.Tensor | None) -> torch.Tensor:
        """Sum over the scored entries of -log-likelihood, or of the squared error."""
        if log_variance is None:
            terms = (batch.target - mean).square()  # (B, G)
        else:
            deviation = (batch.target - mean) * torch.exp(-log_variance / 2)
            if self.shift:
                deviation = deviation - self.shift
            terms = (deviation.square() + log_variance + math.log(2 * math.pi)) / 2  # (B, G)
        return torch.where(batch.scored, terms, 0.0).sum()

    def validation_loss(self, batch: DenseBatch) -> torch.Tensor:
        """Summed squared error of the imputed values at the scored entries, which are hidden from the network."""
        latent = self.impute(batch.values, batch.observed, iterations=self.design.iterations)
        mean, _ = self.completed(latent.mean)
        return torch.where(batch.scored, (batch.target - mean).square(), 0.0).sum()

    def completed(
        self, z: torch.Tensor, *, shift: float = 0.0, spread: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The imputed values m - ``shift`` x sigma, with m the mean of observed values, and log sigma^2.

        The network is trained with m = mu + lambda sigma. log sigma^2 is computed only if it is needed, or with
        ``spread``: its output layer is as large as that of the mean.

        ``z`` is (B, L), the results are (B, G).
        """
        offset = self.shift - shift
        mean, log_variance = self.decode(z, spread=spread or offset != 0)
        if log_variance is not None and offset:
            mean = mean + offset * torch.exp(log_variance / 2)
        return mean, log_variance

    def impute(
        self,
        values: torch.Tensor,
        observed: torch.Tensor,
        *,
        iterations: int,
        shift: float = 0.0,
        start: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
    ) -> Latent:
        """The posterior from which missing values are decoded, after some rounds of imputation.

        Each round encodes the samples, decodes the posterior mean, and replaces the missing values. The last decoding
        is left to the caller (`completed`), who may need only a part of it.

        ``values`` are (B, G); those that are not ``observed`` do not matter, and start at ``start`` (None: 0, the mean
        of the training samples). ``noise`` (iterations, B, L) draws z (None: its mean is used). For ``shift`` see
        `completed`.
        """
        x = torch.where(observed, values, 0.0 if start is None else start)
        for k in range(iterations - 1):
            z = self.encode(x).at(None if noise is None else noise[k])
            x = torch.where(observed, values, self.completed(z, shift=shift)[0])
        return self.encode(x)


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL(q || N(0, I)), summed over samples and dimensions; a scalar tensor."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2


def _hidden(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, next_width in pairwise(widths):
        layers += [nn.Linear(width, next_width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
