"""Where the training of the beta-VAE begins: linear maps from the components of the completed training samples.

Letters: ``n`` samples, ``G`` features, ``L`` latent dimensions, ``k`` components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from imputome.methods.beta_vae.network import VariationalAutoencoder
from imputome.methods.deep.batches import DenseBatch
from imputome.methods.factors import SMALL_SIDE, DenseOperator, WarmSVD, few_threads

SHARES = tuple(0.7**step for step in range(1, 19))  # thresholds that are tried, relative to the largest singular value
NUMBERS = (1, 2, 3, 5, 10, 20, 40, 80, 160)  # numbers of components that are tried
PATIENCE_SETTINGS = 2  # each of the two paths ends after this many settings without a lower error
DEFAULT_DIVISOR = 4  # L over the number of components, if none can be tried
ROUNDS = 12  # most rounds of filling for a threshold
CHANGE = 5e-3  # relative change of the missing entries at which filling ends
SMALLEST = 1e-5  # singular value relative to the largest one, and weight; float32 has no digits below it
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
    """Components of the encoder's input, and the values they fill in.

    The completed input, (n, G), has the singular value decomposition U S V'. Each component c has a weight w_c from 0
    to 1. z is the mean of the posterior of a factor model, ``z = n^(1/2) w^(1/2) / s V' x``, with variance 1 - w: so z
    has variance 1 over the samples, as the prior says. The decoder is the regression of x on z under this posterior,
    ``z' x / n``. Together they multiply each component by w. Two kinds of weights:

    - `of_number`: k components with ``w = 1 - s2 / l``, where l = s^2 / n and s2 is the mean of the l left out:
      probabilistic principal components (Tipping & Bishop 1999, eq. 6 and 7).
    - `of_threshold`: ``w = 1 - t / s`` for all s above t: the step of soft-impute (Mazumder, Hastie & Tibshirani 2010).

    Missing values are filled with the prediction, and the components are computed again, until nothing changes. Filled
    with 0 only, as many components as samples would predict these zeros.

    ``Z`` are (n, G) z-scores with NaN for missing, ``largest`` is L. With ``compressed`` the components are those of
    asinh(Z), and Z is predicted. Cost: ``O(n G L)`` a round.
    """

    def __init__(self, Z: np.ndarray, largest: int, *, compressed: bool, rng: np.random.Generator) -> None:
        self._missing = np.isnan(Z)
        self._complete = not self._missing.any()
        self._known = np.maximum((~self._missing).sum(axis=0), 1)  # (G,)
        self._filled = np.nan_to_num(Z)
        self._compressed = compressed
        self.most = max(1, min(largest, min(Z.shape) - 1))  # components
        self._svd = WarmSVD(rng, passes=2)
        self._start()
        self.largest_singular = float(self._triplets.s[0])

    def of_number(self, numbers: Iterable[int]) -> Iterator[LinearMaps]:
        """Maps of k components for each k, which should grow; each starts from what the one before has filled in."""
        self._start()
        G = self._filled.shape[1]
        for k in numbers:

            def weights(s: np.ndarray, total: float, k: int = k) -> np.ndarray:
                kept = s[: min(k, G - 1, len(s))] ** 2
                return 1 - (total - kept.sum()) / (G - len(kept)) / kept

            yield self._fit(weights)

    def of_threshold(self, thresholds: Iterable[float]) -> Iterator[LinearMaps]:
        """Maps for each threshold on the singular values, which should fall."""
        self._start()
        for threshold in thresholds:

            def weights(s: np.ndarray, total: float, threshold: float = threshold) -> np.ndarray:
                lowest = max(threshold, float(s[-1]) if len(s) > self.most else 0.0)
                return 1 - lowest / s[s > lowest]

            yield self._fit(weights)

    def _start(self) -> None:
        self._filled[self._missing] = 0
        self._decompose()

    def _decompose(self) -> None:
        inputs = np.arcsinh(self._filled) if self._compressed else self._filled
        self._total = float(np.sum(np.square(inputs), dtype=np.float64))
        with few_threads(min(inputs.shape) <= SMALL_SIDE):
            self._triplets = self._svd.top(DenseOperator(inputs), self.most + 1)

    def _fit(self, weights_of: Callable[[np.ndarray, float], np.ndarray]) -> LinearMaps:
        n, G = self._filled.shape
        for _ in range(1 if self._complete else ROUNDS):
            s = self._triplets.s
            if s[0] == 0:  # constant features have no components
                nothing = np.zeros((1, G), dtype=np.float32)
                return LinearMaps(nothing, nothing.copy(), np.ones(1, dtype=np.float32), np.zeros(G))
            s = s[s > SMALLEST * s[0]]
            weights = weights_of(s, self._total)
            weights = np.clip(weights if len(weights) else np.zeros(1), SMALLEST, 1 - SMALLEST)
            k = len(weights)
            u, v = self._triplets.vectors(k)
            root = np.sqrt(n * weights)
            z = u * root.astype(u.dtype)
            decoder = z.T @ self._filled / np.float32(n)
            prediction = z @ decoder
            if self._complete:
                break
            new, old = prediction[self._missing], self._filled[self._missing]
            self._filled[self._missing] = new
            self._decompose()
            if np.square(new - old).sum() <= CHANGE**2 * np.square(new).sum():
                break
        noise = np.where(self._missing, 0, np.square(self._filled - prediction)).sum(axis=0) / self._known
        encoder = np.ascontiguousarray((v * (root / s[:k]).astype(v.dtype)).T)
        return LinearMaps(encoder, decoder, (1 - weights).astype(np.float32), noise)


def start_at_components(
    network: VariationalAutoencoder, Z: np.ndarray, validation: Iterable[DenseBatch] | None, rng: np.random.Generator
) -> int:
    """Set the linear maps of ``network`` to the components that impute hidden values best.

    The network has linear maps (``residual``), and ``Z`` are (n, G) z-scores of the training samples with NaN for
    missing. ``validation`` are samples with hidden values; None: L / `DEFAULT_DIVISOR` components. Returns the number
    of components.
    """
    largest = network.latent_mean.out_features
    components = Components(Z, largest, compressed=network.design.compressed, rng=rng)
    if validation is None:
        best = next(components.of_number([max(1, largest // DEFAULT_DIVISOR)]))
        best.set(network)
        return len(best.variance)
    batches = list(validation)
    scored = max(1, sum(int(batch.scored.sum()) for batch in batches))

    def lowest(path: Iterable[LinearMaps]) -> tuple[float, LinearMaps]:
        errors, tried = [], []
        for maps in path:
            maps.set(network)
            tried.append(maps)
            with torch.no_grad():
                errors.append(sum(float(network.validation_loss(batch)) for batch in batches) / scored)
            if len(errors) - 1 - int(np.argmin(errors)) >= PATIENCE_SETTINGS:
                break
        return min(errors), tried[int(np.argmin(errors))]

    network.eval()  # without dropout
    error, best = lowest(components.of_number(k for k in NUMBERS if k <= components.most))
    soft_error, soft = lowest(components.of_threshold(share * components.largest_singular for share in SHARES))
    network.train()
    if soft_error < error:
        error, best = soft_error, soft
    best.set(network, inflation=max(1.0, error / max(float(best.noise.mean()), MIN_VARIANCE)))
    return len(best.variance)
