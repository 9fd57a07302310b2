"""Where the training of the beta-VAE begins: linear maps from the components of the completed training samples.

Letters: ``n`` samples, ``G`` features, ``L`` latent dimensions, ``k`` components.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from imputome.methods.beta_vae.network import VariationalAutoencoder
from imputome.methods.deep.batches import DenseBatch
from imputome.methods.factors import SMALL_SIDE, DenseOperator, WarmSVD, few_threads

SHARES = tuple(0.7**step for step in range(1, 19))  # thresholds that are tried, relative to the largest singular value
PATIENCE_THRESHOLDS = 2  # the path ends after this many thresholds without a lower error
DEFAULT_DIVISOR = 4  # L over the number of components, if no threshold can be tried
ROUNDS = 12  # most rounds of filling for a threshold
CHANGE = 5e-3  # relative change of the missing entries at which filling ends
MIN_VARIANCE = 0.01  # of a feature around its linear prediction, in z units


@dataclass(frozen=True)
class LinearMaps:
    """x -> z -> x by linear maps, with the variance of z given x and of x given z."""

    encoder: np.ndarray  # (k, G)
    decoder: np.ndarray  # (k, G)
    variance: np.ndarray  # (k,) of z given x
    noise: np.ndarray  # (G,) mean squared difference between known values and their prediction

    def set(self, network: VariationalAutoencoder, *, inflation: float = 1.0) -> None:
        """Set the linear maps of ``network`` to these, and the outputs of its hidden layers to 0.

        ``inflation`` is a factor of the noise: values that the maps have not seen lie farther from their prediction.
        """
        assert network.linear_encoder is not None and network.linear_decoder is not None  # noqa: S101, PT018  (types)
        k = len(self.variance)
        with torch.no_grad():
            for layer in (network.latent_mean, network.mean, network.latent_spread, network.spread):
                if layer is not None:
                    layer.weight.zero_()
                    layer.bias.zero_()
            network.linear_encoder.weight.zero_()[:k] = torch.from_numpy(self.encoder)
            network.linear_decoder.weight.zero_()[:, :k] = torch.from_numpy(self.decoder.T)
            if network.latent_spread is not None:
                network.latent_spread.bias[:k] = torch.from_numpy(np.log(self.variance))
            if network.spread is not None:
                noise = np.maximum(inflation * self.noise, MIN_VARIANCE)
                network.spread.bias[:] = torch.from_numpy(np.log(noise))


class Components:
    """Components of the encoder's input with lowered singular values, and the values they fill in.

    With the singular value decomposition U S V' of the completed input, (n, G), and a threshold t, z is the mean of the
    posterior of a factor model: ``z = n^(1/2) (1 - t/s)^(1/2) / s V' x`` with variance t/s, so that z has variance 1 over
    the samples, as the prior says. The decoder is the regression of x on z under this posterior, ``z' x / n``. Together
    they multiply each component by (s - t) / s: the step of soft-impute (Mazumder, Hastie & Tibshirani 2010). Missing
    values are filled with the prediction, and the components are computed again, until nothing changes. Filled with 0
    only, as many components as samples would predict these zeros.

    ``Z`` are (n, G) z-scores with NaN for missing, ``largest`` is L. With ``compressed`` the components are those of
    asinh(Z), and Z is predicted. Cost: ``O(n G L)`` a round.
    """

    def __init__(self, Z: np.ndarray, largest: int, *, compressed: bool, rng: np.random.Generator) -> None:
        self._missing = np.isnan(Z)
        self._complete = not self._missing.any()
        self._known = np.maximum((~self._missing).sum(axis=0), 1)  # (G,)
        self._filled = np.nan_to_num(Z)
        self._limit, self._compressed = min(largest, min(Z.shape) - 1), compressed
        self._svd = WarmSVD(rng, passes=2)
        self._triplets = self._decomposed()
        self.singular = self._triplets.s  # of the input with missing values filled with 0

    def _decomposed(self):  # type: ignore[no-untyped-def]
        inputs = np.arcsinh(self._filled) if self._compressed else self._filled
        with few_threads(min(inputs.shape) <= SMALL_SIDE):
            return self._svd.top(DenseOperator(inputs), self._limit + 1)

    def maps(self, threshold: float) -> LinearMaps:
        """The maps for a threshold on the singular values; each call starts from what the call before has filled in."""
        n = len(self._filled)
        for _ in range(1 if self._complete else ROUNDS):
            triplets = self._triplets
            limit = max(threshold, triplets.s[-1], 1e-6 * triplets.s[0])
            k = max(1, int((triplets.s > limit).sum()))
            s = triplets.s[:k]
            limit = min(limit, 0.999 * s[-1])
            u, v = triplets.vectors(k)
            root = np.sqrt(n * (1 - limit / s))
            z = u * root.astype(u.dtype)
            decoder = z.T @ self._filled / np.float32(n)
            prediction = z @ decoder
            if self._complete:
                break
            new = prediction[self._missing]
            old = self._filled[self._missing]
            self._filled[self._missing] = new
            self._triplets = self._decomposed()
            if np.square(new - old).sum() <= CHANGE**2 * np.square(new).sum():
                break
        residual = np.where(self._missing, 0, self._filled - prediction)
        noise = np.square(residual).sum(axis=0) / self._known
        encoder = (v * (root / s).astype(v.dtype)).T
        return LinearMaps(np.ascontiguousarray(encoder), decoder, (limit / s).astype(np.float32), noise)


def start_at_components(
    network: VariationalAutoencoder, Z: np.ndarray, validation: Iterable[DenseBatch] | None, rng: np.random.Generator
) -> int:
    """Set the linear maps of ``network`` to the components whose threshold imputes hidden values best.

    The network has linear maps (``residual``), and ``Z`` are (n, G) z-scores of the training samples with NaN for
    missing. ``validation`` are samples with hidden values; None: L / `DEFAULT_DIVISOR` components. Returns the number
    of components.
    """
    largest = network.latent_mean.out_features
    components = Components(Z, largest, compressed=network.design.compressed, rng=rng)
    singular = components.singular
    if validation is None:
        best = components.maps(float(singular[min(max(1, largest // DEFAULT_DIVISOR), len(singular) - 1)]))
        best.set(network)
        return len(best.variance)
    batches = list(validation)
    scored = max(1, sum(int(batch.scored.sum()) for batch in batches))
    tried, errors = [], []
    network.eval()  # without dropout
    for share in SHARES:
        tried.append(components.maps(share * float(singular[0])))
        tried[-1].set(network)
        with torch.no_grad():
            errors.append(sum(float(network.validation_loss(batch)) for batch in batches) / scored)
        if len(errors) - 1 - int(np.argmin(errors)) >= PATIENCE_THRESHOLDS:
            break
    network.train()
    best = tried[int(np.argmin(errors))]
    best.set(network, inflation=max(1.0, min(errors) / max(float(best.noise.mean()), 1e-12)))
    return len(best.variance)
