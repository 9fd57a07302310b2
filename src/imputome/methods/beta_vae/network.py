"""The network of the beta-VAE, its loss, and imputation by iteration.

Letters: ``B`` cells of a batch, ``G`` genes, ``L`` latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from imputome.methods.deep.batches import DenseBatch

Likelihood = Literal["gaussian", "mse"]
LIMIT = 10.0  # of the logarithm of a variance, either way


class Latent(NamedTuple):
    """The posterior q(z | x) of some cells.

    Attributes
    ----------
    mean : (B, L).
    log_variance : (B, L), or None where the latent is deterministic.
    """

    mean: torch.Tensor
    log_variance: torch.Tensor | None

    def at(self, noise: torch.Tensor | None) -> torch.Tensor:
        """(B, L) mean + SD x ``noise`` (eq. 9)."""
        if noise is None or self.log_variance is None:
            return self.mean
        return self.mean + torch.exp(self.log_variance / 2) * noise


class VariationalAutoencoder(nn.Module):
    """x -> encoder widths -> z -> decoder widths -> x, ReLU, with linear heads (Qiu et al. 2020).

    The loss is the mean over the cells of ``sum_g -log N(x_g; mu_g + lambda sigma_g, sigma_g) + beta KL(q || N(0, I))``
    (eq. 5), the sum over scored entries only; with likelihood ``"mse"`` it is ``sum_g (x_g - mu_g)^2 + beta KL``, of
    which eq. 8 is the case beta = 0.

    Parameters
    ----------
    encoder, decoder : widths of the hidden layers, in the order in which data pass through them.
    latent : L.
    latent_noise : whether z is drawn while training; without, this is a plain autoencoder, and there is no KL.
    shift : lambda, ``"gaussian"`` only.
    residual : add linear maps x -> mean of z and z -> mu: most of what features have in common is linear.
    compressed : read asinh(x), so that values far out do not decide over z.
    log_sigma : the head for the spread of x gives log sigma (the published code) instead of log sigma^2.
    dropout : probability of dropping a hidden unit while training.
    input_dropout : probability of dropping an input while training; the others grow by 1 / (1 - p). The loss looks at
        dropped values too, so that the network learns to fill in.
    iterations : of `impute` when validating.
    """

    def __init__(
        self,
        n_genes: int,
        *,
        encoder: tuple[int, ...],
        decoder: tuple[int, ...],
        latent: int,
        beta: float = 1.0,
        likelihood: Likelihood = "gaussian",
        latent_noise: bool = True,
        shift: float = 0.0,
        residual: bool = False,
        compressed: bool = False,
        log_sigma: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        iterations: int = 3,
    ) -> None:
        super().__init__()
        self.beta, self.likelihood, self.shift = beta, likelihood, shift
        self.compressed, self.log_sigma, self.iterations = compressed, log_sigma, iterations
        self.input_dropout = nn.Dropout(input_dropout)
        self.encoder = _hidden((n_genes, *encoder), dropout)
        self.decoder = _hidden((latent, *decoder), dropout)
        inner, outer = (encoder or (n_genes,))[-1], (decoder or (latent,))[-1]
        self.latent_mean = nn.Linear(inner, latent)
        self.latent_spread = nn.Linear(inner, latent) if latent_noise else None
        self.linear_encoder = nn.Linear(n_genes, latent, bias=False) if residual else None
        self.linear_decoder = nn.Linear(latent, n_genes, bias=False) if residual else None
        self.mean = nn.Linear(outer, n_genes)
        self.spread = nn.Linear(outer, n_genes) if likelihood == "gaussian" else None

    def encode(self, x: torch.Tensor) -> Latent:
        """q(z | x) of (B, G) values."""
        x = torch.asinh(x) if self.compressed else x
        hidden = self.encoder(x)
        mean = self.latent_mean(hidden)
        if self.linear_encoder is not None:
            mean = mean + self.linear_encoder(x)
        if self.latent_spread is None:
            return Latent(mean, None)
        return Latent(mean, self.latent_spread(hidden).clamp(-LIMIT, LIMIT))

    def decode(self, z: torch.Tensor, *, spread: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
        """mu and log sigma^2, each (B, G); the latter is None if not asked for, or if there is no such head."""
        hidden = self.decoder(z)
        mean = self.mean(hidden)
        if self.linear_decoder is not None:
            mean = mean + self.linear_decoder(z)
        if self.spread is None or not spread:
            return mean, None
        head = self.spread(hidden)
        return mean, (2 * head if self.log_sigma else head).clamp(-LIMIT, LIMIT)

    def loss_terms(self, batch: DenseBatch) -> dict[str, torch.Tensor]:
        """The reconstruction, and beta x KL where the latent is random and beta is not 0."""
        latent = self.encode(self.input_dropout(batch.values))
        noise = None if latent.log_variance is None else torch.randn_like(latent.mean)
        mean, log_variance = self.decode(latent.at(noise))
        terms = {"reconstruction": self._misfit(batch, mean, log_variance) / len(batch)}
        if latent.log_variance is not None and self.beta:
            terms["kl"] = self.beta * divergence(latent) / len(batch)
        return terms

    def _misfit(self, batch: DenseBatch, mean: torch.Tensor, log_variance: torch.Tensor | None) -> torch.Tensor:
        """Sum over the scored entries of -log-likelihood, or of the squared error."""
        if log_variance is None:
            each = (batch.target - mean).square()  # (B, G)
        else:
            deviation = (batch.target - mean) * torch.exp(-log_variance / 2)
            if self.shift:
                deviation = deviation - self.shift
            each = (deviation.square() + log_variance + math.log(2 * math.pi)) / 2
        return torch.where(batch.scored, each, 0.0).sum()

    def validation_loss(self, batch: DenseBatch) -> torch.Tensor:
        """Summed squared error of the imputed values at the scored entries (which were hidden from the network)."""
        latent = self.impute(batch.values, batch.observed, iterations=self.iterations)
        mean, _ = self.completed(latent.mean)
        return torch.where(batch.scored, (batch.target - mean).square(), 0.0).sum()

    def completed(
        self, z: torch.Tensor, *, shift: float = 0.0, spread: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What is put in missing places, m - ``shift`` x sigma with m the mean of observed values, and log sigma^2.

        The network was trained with m = mu + lambda sigma. log sigma^2 is made only if it is needed or asked for: its
        head is as large as that of the mean.
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
        """Posterior from which missing values are decoded, after some rounds of encoding and filling in.

        Each round encodes the cells, decodes the posterior mean, and overwrites the missing values only. The last
        decoding is left to the caller (`completed`), who may not want all of it.

        Parameters
        ----------
        values, observed : (B, G) values, and where they are known.
        start : (B, G) missing values at the start; None: 0, the mean of the training cells.
        noise : (iterations, B, L) standard normal numbers to draw z with, instead of taking its mean.
        """
        x = torch.where(observed, values, 0.0 if start is None else start)
        for k in range(iterations - 1):
            z = self.encode(x).at(None if noise is None else noise[k])
            x = torch.where(observed, values, self.completed(z, shift=shift)[0])
        return self.encode(x)


def divergence(latent: Latent) -> torch.Tensor:
    """KL(q || N(0, I)), summed over cells and dimensions."""
    if latent.log_variance is None:
        return latent.mean.new_zeros(())
    mean, log_variance = latent.mean, latent.log_variance
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2


def _hidden(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


FEWEST = 10  # components that are tried, then twice as many, and so on up to L
UNTESTED = 4  # L over the number of components that is taken where nothing can be tried
SPARE = 10  # components that the randomised decomposition finds beside those asked for
ROUNDS = 4  # of its power iteration
LEAST_VARIANCE = 0.01  # of a feature around its linear prediction, in z units


class Components:
    """Probabilistic principal components (Tipping & Bishop 1999) of what the encoder reads, and what they predict.

    With eigenvalues l_1 >= l_2 >= ... of the covariance and s2 the mean of those left out, the loadings are
    W = V (l - s2)^(1/2), the posterior of z given x has mean (l - s2)^(1/2) / l V' x and variance s2 / l (their eq. 6
    and 7). The decoder is the regression of x on z under this posterior.

    Cost: ``O(n G L)``. Missing values count as 0, the mean.

    Parameters
    ----------
    Z : (n, G) z-scores with NaN for missing.
    largest : L, the most components wanted.
    compressed : take the components of asinh(Z), and predict Z.
    """

    def __init__(self, Z: np.ndarray, largest: int, *, compressed: bool) -> None:
        self.target = torch.from_numpy(np.nan_to_num(Z))  # (n, G)
        self.given = torch.asinh(self.target) if compressed else self.target
        n, G = self.given.shape
        _, singular, self.directions = torch.svd_lowrank(self.given, q=min(n, G, largest + SPARE), niter=ROUNDS)
        self.eigenvalues = singular.square() / n
        self.total = float(self.given.square().sum()) / n

    def begin(self, network: VariationalAutoencoder, k: int) -> None:
        """Set the linear maps of ``network`` to ``k`` components; its hidden layers add nothing yet."""
        n, G = self.given.shape
        k = min(k, len(self.eigenvalues), G - 1)
        top = self.eigenvalues[:k].clamp_min(1e-12)
        left_out = torch.clamp((self.total - top.sum()) / (G - k), min=1e-12)
        variance = (left_out / top).clamp(max=1.0)  # (k,) of z given x
        encoder = ((1 - variance) / top).sqrt()[:, None] * self.directions[:, :k].T  # (k, G)
        z = self.given @ encoder.T
        decoder = torch.linalg.solve(z.T @ z + n * torch.diag(variance), z.T @ self.target)  # (k, G)
        noise = (self.target - z @ decoder).var(dim=0).clamp_min(LEAST_VARIANCE)
        assert network.linear_encoder is not None and network.linear_decoder is not None  # noqa: S101, PT018  (types)
        with torch.no_grad():
            for head in (network.latent_mean, network.mean, network.latent_spread, network.spread):
                if head is not None:
                    head.weight.zero_()
                    head.bias.zero_()
            network.linear_encoder.weight.zero_()[:k] = encoder
            network.linear_decoder.weight.zero_()[:, :k] = decoder.T
            if network.latent_spread is not None:
                network.latent_spread.bias[:k] = variance.log()
            if network.spread is not None:
                network.spread.bias[:] = noise.log()


def begin_at_components(network: VariationalAutoencoder, Z: np.ndarray, watched: Iterable[DenseBatch] | None) -> int:
    """Begin at the number of components that imputes hidden values best; returns it.

    Parameters
    ----------
    watched : batches of cells with hidden values, as `VariationalAutoencoder.validation_loss` takes them; None: no
        number is tried.
    """
    largest = network.latent_mean.out_features
    components = Components(Z, largest, compressed=network.compressed)
    best = max(1, largest // UNTESTED)
    if watched is not None:
        numbers = [FEWEST * 2**step for step in range(20) if FEWEST * 2**step <= largest] or [largest]
        batches, errors = list(watched), []
        network.eval()  # nothing is dropped
        for number in numbers:
            components.begin(network, number)
            with torch.no_grad():
                errors.append(sum(float(network.validation_loss(batch)) for batch in batches))
        network.train()
        best = numbers[int(np.argmin(errors))]
    components.begin(network, best)
    return best
