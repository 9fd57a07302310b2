"""The result of a fitted beta-VAE (a `Model`). Letters: ``n`` cells, ``G`` genes, ``L`` latent dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from imputome.core.imputation import Output
from imputome.methods.beta_vae.network import VariationalAutoencoder

BLOCK = 2**22  # dense values made at a time
DRAWS = 20  # of the latent, for the variance


@dataclass(frozen=True)
class DecodedSamples:
    """Values decoded from the latent on request.

    Parameters
    ----------
    network : trained, in eval mode.
    latent : (n, L) float32, what values are decoded from.
    mean, spread : (n, L) mean and SD of q(z | x); an SD of 0 where the latent is deterministic.
    center, scale : (G,) of the z-scores; a scale of 0 gives ``center`` itself.
    noise : (G,) variance of a value around its decoded mean, in z units, of a network without a head for it.
    inflation : factor of the variance of a value around its decoded mean.
    shift : lambda that values are imputed with.
    seed : of draws.
    """

    network: VariationalAutoencoder
    latent: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    noise: np.ndarray
    inflation: float
    shift: float
    seed: int

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "variance"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output = "value") -> np.ndarray:
        columns = slice(None) if genes is None else genes
        make = self._variances if output == "variance" else self._values
        return self._in_blocks(rows, lambda part: make(part)[:, columns])

    def at(self, i: np.ndarray, j: np.ndarray, output: Output = "value") -> np.ndarray:
        """Every row among ``i`` is decoded whole, so that this costs as much as `rows` of them."""
        out = np.empty(len(i))
        rows, place = np.unique(i, return_inverse=True)
        order = np.argsort(place, kind="stable")
        cuts = np.searchsorted(place[order], np.arange(len(rows) + 1))
        step = self._step()
        for start in range(0, len(rows), step):
            stop = min(start + step, len(rows))
            wanted = order[cuts[start] : cuts[stop]]
            out[wanted] = self.rows(rows[start:stop], None, output)[place[wanted] - start, j[wanted]]
        return out

    def draw(self, rows: np.ndarray, number: int) -> np.ndarray:
        """z ~ q(z | x), then x ~ N(mu, sigma), in the input's unit."""
        return self._in_blocks(rows, lambda part: self._drawn(part, number))

    def _in_blocks(self, rows: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        step = self._step()
        # at least one block, for its width, if there are no rows
        return np.concatenate([make(rows[k : k + step]) for k in range(0, max(len(rows), 1), step)])

    def _step(self) -> int:
        return max(1, BLOCK // len(self.center))

    def _values(self, rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            mean, _ = self.network.completed(self._tensor(self.latent[rows]), shift=self.shift)
        return self._in_unit(mean)

    def _variances(self, rows: np.ndarray) -> np.ndarray:
        """Law of total variance over `DRAWS` draws of z: mean variance + variance of the mean."""
        draws = DRAWS if self.spread.any() else 1
        total = first = second = np.zeros((len(rows), len(self.center)))
        for k in range(draws):
            # numbers under 0 belong to no draw that can be asked for
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
        """Mean and variance of the values given z, each (B, G) float64, in z units."""
        with torch.no_grad():
            mean, log_variance = self.network.completed(self._tensor(z), shift=self.shift, spread=True)
        variance = np.tile(self.noise, (len(z), 1)) if log_variance is None else _float64(torch.exp(log_variance))
        return _float64(mean), self.inflation * variance

    def _noise(self, rows: np.ndarray, number: int, size: int) -> np.ndarray:
        """(len(rows), size) standard normal numbers, each row's its own."""
        noise = np.empty((len(rows), size))
        for place, row in enumerate(rows):
            generator = np.random.default_rng([self.seed, int(number < 0), abs(number), int(row)])
            noise[place] = generator.standard_normal(size)
        return noise

    def _tensor(self, z: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(z, dtype=np.float32)).to(self.network.mean.weight.device)

    def _in_unit(self, values: torch.Tensor) -> np.ndarray:
        return self.center + self.scale * _float64(values)


def _float64(values: torch.Tensor) -> np.ndarray:
    return values.cpu().double().numpy()
