"""The network of the beta-VAE, its loss, imputation by iteration, and its start at principal components.

Letters: ``n`` samples, ``B`` samples of a batch, ``G`` features, ``L`` latent dimensions.
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
MAX_LOG_VARIANCE = 10.0  # largest absolute value of the logarithm of a variance

# principal components
FIRST_NUMBER = 10  # components that are tried first, then twice as many, and so on up to L
DEFAULT_DIVISOR = 4  # L over the number of components, if no number can be tried
EXTRA_COMPONENTS = 10  # found by the randomised decomposition in addition to those needed
POWER_ITERATIONS = 4
MIN_VARIANCE = 0.01  # of a feature around its linear prediction, in z units


class Latent(NamedTuple):
    """The posterior q(z | x) of some samples.

    Attributes
    ----------
    mean : tensor of shape (B, L)
    log_variance : tensor of shape (B, L) or None
        None if the latent is deterministic.
    """

    mean: torch.Tensor
    log_variance: torch.Tensor | None

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

    Parameters
    ----------
    n_genes : int
        G.
    encoder, decoder : tuple of int
        Widths of the hidden layers, in the direction of the data.
    latent : int
        L.
    beta : float, default=1.0
        Weight of the KL.
    likelihood : {"gaussian", "mse"}, default="gaussian"
        See above.
    latent_noise : bool, default=True
        Whether z is drawn in training. False: a plain autoencoder, without KL.
    shift : float, default=0.0
        lambda; ``"gaussian"`` only.
    residual : bool, default=False
        Add linear maps from x to the mean of z and from z to mu: correlations of features are mostly linear.
    compressed : bool, default=False
        Read asinh(x), so that extreme values do not determine z.
    log_sigma : bool, default=False
        The output for the spread of x gives log sigma (the published code), not log sigma^2.
    dropout : float, default=0.0
        Probability of dropping a hidden unit in training.
    input_dropout : float, default=0.0
        Probability of dropping an input in training; the others are multiplied by 1 / (1 - p). The loss includes
        dropped inputs, so that the network learns to impute.
    iterations : int, default=3
        Rounds of `impute` in validation.
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
        return mean, (2 * log_spread if self.log_sigma else log_spread).clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def loss_terms(self, batch: DenseBatch) -> dict[str, torch.Tensor]:
        """The reconstruction, and beta x KL if the latent is random and beta is not 0."""
        latent = self.encode(self.input_dropout(batch.values))
        noise = None if latent.log_variance is None else torch.randn_like(latent.mean)
        mean, log_variance = self.decode(latent.at(noise))
        terms = {"reconstruction": self._reconstruction(batch, mean, log_variance) / len(batch)}
        if latent.log_variance is not None and self.beta:
            terms["kl"] = self.beta * divergence(latent) / len(batch)
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
        latent = self.impute(batch.values, batch.observed, iterations=self.iterations)
        mean, _ = self.completed(latent.mean)
        return torch.where(batch.scored, (batch.target - mean).square(), 0.0).sum()

    def completed(
        self, z: torch.Tensor, *, shift: float = 0.0, spread: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The imputed values m - ``shift`` x sigma, with m the mean of observed values, and log sigma^2.

        The network is trained with m = mu + lambda sigma. log sigma^2 is computed only if it is needed, or with
        ``spread``: its output layer is as large as that of the mean.

        Parameters
        ----------
        z : tensor of shape (B, L)
            Latent.
        shift : float, default=0.0
            In sigma.
        spread : bool, default=False
            Whether log sigma^2 is returned.

        Returns
        -------
        mean : tensor of shape (B, G)
        log_variance : tensor of shape (B, G) or None
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

        Parameters
        ----------
        values : tensor of shape (B, G)
            Values; those that are not observed do not matter.
        observed : tensor of shape (B, G), bool
            Whether each value is known.
        iterations : int
            Number of rounds.
        shift : float, default=0.0
            In sigma, see `completed`.
        start : tensor of shape (B, G) or None, default=None
            Starting values of missing entries. None: 0, the mean of the training samples.
        noise : tensor of shape (iterations, B, L) or None, default=None
            Standard normal numbers to draw z with. None: the mean of z is used.

        Returns
        -------
        Latent
        """
        x = torch.where(observed, values, 0.0 if start is None else start)
        for k in range(iterations - 1):
            z = self.encode(x).at(None if noise is None else noise[k])
            x = torch.where(observed, values, self.completed(z, shift=shift)[0])
        return self.encode(x)


def divergence(latent: Latent) -> torch.Tensor:
    """KL(q || N(0, I)), summed over samples and dimensions; a scalar tensor."""
    if latent.log_variance is None:
        return latent.mean.new_zeros(())
    mean, log_variance = latent.mean, latent.log_variance
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2


def _hidden(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, next_width in pairwise(widths):
        layers += [nn.Linear(width, next_width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class PrincipalComponents:
    """Probabilistic principal components (Tipping & Bishop 1999) of the encoder's input, and a linear decoder.

    With eigenvalues l_1 >= l_2 >= ... of the covariance, eigenvectors V, and s2 the mean of the eigenvalues left out,
    the loadings are W = V (l - s2)^(1/2). The posterior of z given x has mean (l - s2)^(1/2) / l V' x and variance
    s2 / l (their eq. 6 and 7). The decoder is the regression of x on z under this posterior. Missing values count as 0,
    the mean.

    Cost: ``O(n G L)``.

    Parameters
    ----------
    Z : ndarray of shape (n, G)
        z-scores with NaN for missing.
    largest : int
        L, the largest number of components.
    compressed : bool
        Take the components of asinh(Z), and predict Z.
    """

    def __init__(self, Z: np.ndarray, largest: int, *, compressed: bool) -> None:
        self.target = torch.from_numpy(np.nan_to_num(Z))  # (n, G)
        self.inputs = torch.asinh(self.target) if compressed else self.target
        n, G = self.inputs.shape
        _, singular, self.directions = torch.svd_lowrank(
            self.inputs, q=min(n, G, largest + EXTRA_COMPONENTS), niter=POWER_ITERATIONS
        )
        self.eigenvalues = singular.square() / n
        self.total = float(self.inputs.square().sum()) / n

    def set_linear_maps(self, network: VariationalAutoencoder, k: int) -> None:
        """Set the linear maps of ``network`` to ``k`` components, and the outputs of its hidden layers to 0."""
        n, G = self.inputs.shape
        k = min(k, len(self.eigenvalues), G - 1)
        top = self.eigenvalues[:k].clamp_min(1e-12)
        left_out = torch.clamp((self.total - top.sum()) / (G - k), min=1e-12)
        variance = (left_out / top).clamp(max=1.0)  # (k,) of z given x
        encoder = ((1 - variance) / top).sqrt()[:, None] * self.directions[:, :k].T  # (k, G)
        z = self.inputs @ encoder.T
        decoder = torch.linalg.solve(z.T @ z + n * torch.diag(variance), z.T @ self.target)  # (k, G)
        noise = (self.target - z @ decoder).var(dim=0).clamp_min(MIN_VARIANCE)
        assert network.linear_encoder is not None and network.linear_decoder is not None  # noqa: S101, PT018  (types)
        with torch.no_grad():
            for layer in (network.latent_mean, network.mean, network.latent_spread, network.spread):
                if layer is not None:
                    layer.weight.zero_()
                    layer.bias.zero_()
            network.linear_encoder.weight.zero_()[:k] = encoder
            network.linear_decoder.weight.zero_()[:, :k] = decoder.T
            if network.latent_spread is not None:
                network.latent_spread.bias[:k] = variance.log()
            if network.spread is not None:
                network.spread.bias[:] = noise.log()


def start_at_components(network: VariationalAutoencoder, Z: np.ndarray, validation: Iterable[DenseBatch] | None) -> int:
    """Set the linear maps of ``network`` to the number of principal components that imputes hidden values best.

    Parameters
    ----------
    network : VariationalAutoencoder
        With linear maps (``residual=True``).
    Z : ndarray of shape (n, G)
        z-scores of the training samples, with NaN for missing.
    validation : iterable of DenseBatch or None
        Samples with hidden values, for `VariationalAutoencoder.validation_loss`. None: L / `DEFAULT_DIVISOR`
        components.

    Returns
    -------
    int
        The number of components.
    """
    largest = network.latent_mean.out_features
    components = PrincipalComponents(Z, largest, compressed=network.compressed)
    best = max(1, largest // DEFAULT_DIVISOR)
    if validation is not None:
        numbers = [FIRST_NUMBER * 2**k for k in range(20) if FIRST_NUMBER * 2**k <= largest] or [largest]
        batches, errors = list(validation), []
        network.eval()  # without dropout
        for number in numbers:
            components.set_linear_maps(network, number)
            with torch.no_grad():
                errors.append(sum(float(network.validation_loss(batch)) for batch in batches))
        network.train()
        best = numbers[int(np.argmin(errors))]
    components.set_linear_maps(network, best)
    return best
