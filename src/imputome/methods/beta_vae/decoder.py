"""The result of a fitted beta-VAE: values, variances and draws decoded from the latent.

Letters: ``n`` samples, ``B`` samples decoded at once, ``G`` features, ``L`` latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from imputome.core.imputation import Output
from imputome.methods.beta_vae.network import VariationalAutoencoder

VALUES_PER_BLOCK = 2**22  # dense values computed at once
DRAWS_FOR_VARIANCE = 20  # draws of the latent


@dataclass(frozen=True)
class DecodedSamples:
    """Values decoded from the latent on request (a `Model`)."""

    network: VariationalAutoencoder  # trained, in eval mode
    latent: np.ndarray  # (n, L) float32, what values are decoded from
    mean: np.ndarray  # (n, L) mean of q(z | x)
    spread: np.ndarray  # (n, L) SD of q(z | x); 0 if the latent is deterministic
    center: np.ndarray  # (G,) of the z-scores
    scale: np.ndarray  # (G,) of the z-scores; 0 gives ``center`` itself
    noise: np.ndarray  # (G,) variance of a value around its decoded mean, in z units, without a network output for it
    inflation: float  # factor of the variance of a value around its decoded mean
    shift: float  # lambda of the imputed values
    seed: int  # of draws

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "variance"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output = "value") -> np.ndarray:
        columns = slice(None) if genes is None else genes
        make = self._variances if output == "variance" else self._values
        return self._in_blocks(rows, lambda part: make(part)[:, columns])

    def at(self, i: np.ndarray, j: np.ndarray, output: Output = "value") -> np.ndarray:
        """Single entries; every row in ``i`` is decoded completely, so the cost is that of `rows`."""
        out = np.empty(len(i))
        rows, place = np.unique(i, return_inverse=True)
        order = np.argsort(place, kind="stable")
        cuts = np.searchsorted(place[order], np.arange(len(rows) + 1))
        step = self._step()
        for start in range(0, len(rows), step):
            stop = min(start + step, len(rows))
            entries = order[cuts[start] : cuts[stop]]
            out[entries] = self.rows(rows[start:stop], None, output)[place[entries] - start, j[entries]]
        return out

    def draw(self, rows: np.ndarray, number: int) -> np.ndarray:
        """One draw of some rows: z ~ q(z | x), then x ~ N(mu, sigma); (rows, G) float64, in the unit of the input.

        The same ``number`` of a draw (from 0) gives the same values.
        """
        return self._in_blocks(rows, lambda part: self._drawn(part, number))

    def _in_blocks(self, rows: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        step = self._step()
        # one block even without rows, for the number of columns
        return np.concatenate([make(rows[k : k + step]) for k in range(0, max(len(rows), 1), step)])

    def _step(self) -> int:
        return max(1, VALUES_PER_BLOCK // len(self.center))

    def _values(self, rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            mean, _ = self.network.completed(self._tensor(self.latent[rows]), shift=self.shift)
        return self.center + self.scale * _float64(mean)

    def _variances(self, rows: np.ndarray) -> np.ndarray:
        """Law of total variance over draws of z: mean of the variances + variance of the means."""
        draws = DRAWS_FOR_VARIANCE if self.spread.any() else 1
        total = first = second = np.zeros((len(rows), len(self.center)))
        for k in range(draws):
            # negative numbers: other random numbers than those of `draw`
            noise = self._noise(rows, -1 - k, self.latent.shape[1])
            mean, variance = self._decoded(self.mean[rows] + self.spread[rows] * noise)
            total = total + variance
            first, second = first + mean, second + mean**2
        between = (second - first**2 / draws) / max(1, draws - 1)
        return (total / draws + np.maximum(between, 0)) * self.scale**2

    def _drawn(self, rows: np.ndarray, number: int) -> np.ndarray:
        L, G = self.latent.shape[1], len(self.center)
        noise = self._noise(rows, number, L + G)
        mean, variance = self._decoded(self.mean[rows] + self.spread[rows] * noise[:, :L])
        return self.center + self.scale * (mean + np.sqrt(variance) * noise[:, L:])

    def _decoded(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the values given z, (B, G) float64 each, in z units."""
        with torch.no_grad():
            mean, log_variance = self.network.completed(self._tensor(z), shift=self.shift, spread=True)
        variance = np.tile(self.noise, (len(z), 1)) if log_variance is None else _float64(torch.exp(log_variance))
        return _float64(mean), self.inflation * variance

    def _noise(self, rows: np.ndarray, number: int, size: int) -> np.ndarray:
        """(len(rows), size) standard normal numbers; those of a row do not depend on the others."""
        noise = np.empty((len(rows), size))
        for k, row in enumerate(rows):
            generator = np.random.default_rng([self.seed, int(number < 0), abs(number), int(row)])
            noise[k] = generator.standard_normal(size)
        return noise

    def _tensor(self, z: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(z, dtype=np.float32)).to(self.network.mean.weight.device)


def _float64(values: torch.Tensor) -> np.ndarray:
    return values.cpu().double().numpy()
