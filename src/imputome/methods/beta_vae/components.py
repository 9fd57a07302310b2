"""Where the training of a network with linear maps begins: at probabilistic principal components.

Letters: ``n`` cells, ``G`` genes, ``L`` latent dimensions, ``k`` components.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from imputome.methods.beta_vae.network import VariationalAutoencoder
from imputome.methods.deep.dense import DenseBatch

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
