"""The noise models of SAVER, their marginal likelihood, and the posterior.

The count y of a gene in a cell with size factor s is Poisson with mean s v, and v has a gamma prior with the predicted
mean mu and the shape ``alpha = phi (mu / c)^b``, c the mean of mu over the cells. Its rate is alpha / mu. So b = 0 is a
constant coefficient of variation (phi^-1/2), b = 1 a constant Fano factor (c / phi) and b = 2 a constant variance
(c^2 / phi). Given y, s v is gamma with shape alpha + y, mean m (alpha + y) / (alpha + m) and variance
m^2 (alpha + y) / (alpha + m)^2, with m = s mu. Letters: ``n`` cells, ``G`` genes, ``K`` values of phi.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import prange

from imputome.core.compiled import compiled
from imputome.core.data import Data
from imputome.core.imputation import Model, Output
from imputome.methods.rescaled import row_blocks

POWERS = {"cv": 0, "fano": 1, "variance": 2}  # b of each noise model
SHAPES = np.geomspace(0.02, 2000, 36)  # candidate values of phi
INTERVAL_PROBABILITY = 0.9  # between "lower" and "upper"
_GENES_PER_TILE = 64  # genes that one thread works on, so that it reads neighbouring values of a row


@dataclass(frozen=True)
class Spread:
    """The noise model of each gene."""

    shape: np.ndarray  # (G,) phi
    power: np.ndarray  # (G,) b
    centre: np.ndarray  # (G,) c, 0 for a gene without molecules


def fitted_spread(prior: Model, data: Data, s: np.ndarray, powers: tuple[int, ...]) -> Spread:
    """The noise model and phi of each gene that maximise the marginal likelihood of its counts.

    ``prior`` has the rates m = s mu on scale counts; ``powers`` are the noise models to choose from. Where mu is the
    same in all cells the models are one, and the first is taken.

    Cost: two passes over the n x G rates in blocks; in the second, a logarithm per noise model, entry and value of phi.
    """
    n, G = data.shape
    used = s > 0
    total, lowest, highest = np.zeros(G), np.full(G, np.inf), np.zeros(G)
    for rows in row_blocks(n, G):
        rows = rows[used[rows]]
        mu = prior.rows(rows, None, "value") / s[rows, None]
        total += mu.sum(axis=0)
        lowest, highest = np.minimum(lowest, mu.min(axis=0, initial=np.inf)), np.maximum(highest, mu.max(axis=0))
    centre = total / max(1, int(used.sum()))
    constant = highest - lowest <= 1e-5 * centre
    likelihood = np.zeros((len(powers), G, len(SHAPES)))
    for rows in row_blocks(n, G):
        rows = rows[used[rows]]
        m = np.ascontiguousarray(prior.rows(rows, None, "value"), dtype=np.float32)
        y = data.block(rows).astype(np.float32, copy=False)
        add_likelihood(m, y, s[rows], centre, constant, np.array(powers), SHAPES, likelihood)
    best, shape = highest_points(likelihood, SHAPES)
    return Spread(shape, np.array(powers)[best], centre)


def highest_points(likelihood: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The model with the largest likelihood, (G,), and its phi, (G,), refined by a parabola in log phi.

    ``likelihood`` is (models, G, K) on the ``grid``, whose values have a common ratio.
    """
    top = np.clip(likelihood.argmax(axis=2), 1, len(grid) - 2)[..., None]
    left, centre, right = (np.take_along_axis(likelihood, top + shift, axis=2)[..., 0] for shift in (-1, 0, 1))
    bend = left - 2 * centre + right
    slope = 0.5 * (left - right)
    # at an end of the grid the best point can be the neighbour of the middle one
    shift = np.clip(np.divide(slope, bend, out=np.zeros_like(bend), where=bend < 0), -1, 1)
    flat = bend >= 0
    shift = np.where(flat, np.sign(right - left), shift)
    value = centre - slope * shift + 0.5 * bend * shift * shift
    best = value.argmax(axis=0)
    genes = np.arange(value.shape[1])
    place = np.log(grid[top[best, genes, 0]]) + shift[best, genes] * np.log(grid[1] / grid[0])
    return best, np.exp(place)


@compiled(parallel=True, fastmath=True)
def add_likelihood(m, y, s, centre, constant, powers, grid, total):  # type: ignore[no-untyped-def]
    """Add the log marginal likelihood of a block of cells to ``total`` (models, G, K), without its part log(y!).

    ``m`` and ``y`` are (rows, G); genes with a ``constant`` mu get the first model only, the others -inf.
    """
    n, G = m.shape
    K = grid.size
    for tile in prange((G + _GENES_PER_TILE - 1) // _GENES_PER_TILE):
        for i in range(n):
            for j in range(tile * _GENES_PER_TILE, min(G, (tile + 1) * _GENES_PER_TILE)):
                rate = np.float64(m[i, j])
                if rate <= 0.0 or centre[j] <= 0.0:
                    continue
                count = np.float64(y[i, j])
                relative = rate / (s[i] * centre[j])
                for b in range(powers.size):
                    if b > 0 and constant[j]:
                        total[b, j, :] = -1e300
                        continue
                    factor = relative ** powers[b]
                    for k in range(K):
                        shape = max(grid[k] * factor, 1e-30)
                        value = -(shape + count) * math.log1p(rate / shape)
                        if count > 0.0:
                            value += count * math.log(rate / shape)
                            # log gamma(shape + y) - log gamma(shape), for the usual small y without cancellation
                            if count <= 16.0 and count == math.floor(count):
                                rising = shape
                                for c in range(1, int(count)):
                                    rising *= shape + c
                                value += math.log(rising)
                            else:
                                value += math.lgamma(shape + count) - math.lgamma(shape)
                        total[b, j, k] += value


@dataclass(frozen=True)
class GammaPosterior:
    """A `Model` on scale ``counts``: the rates of ``prior``, combined with the counts under the noise model.

    ``value`` and ``rate`` are the posterior mean of s v, ``variance`` its variance, ``lower`` and ``upper`` bound a
    90 % interval of it.
    """

    prior: Model
    data: Data
    s: np.ndarray  # (n,) size factors
    spread: Spread

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate", "variance", "lower", "upper"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        rate = self.prior.rows(rows, genes, "value")
        return self._combine(rate, self.data.block(rows, genes), self.s[rows, None], genes, output)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return self._combine(self.prior.at(i, j, "value"), self.data.entries(i, j), self.s[i], j, output)

    def _combine(self, rate: np.ndarray, y: np.ndarray, s: np.ndarray, genes: Any, output: Output) -> np.ndarray:
        some = slice(None) if genes is None else genes
        phi, power, centre = self.spread.shape[some], self.spread.power[some], self.spread.centre[some]
        m = rate.astype(np.float64)
        mean = s * centre
        # a cell or gene without molecules has m = 0, and stays 0
        alpha = phi * np.divide(m, mean, out=np.ones_like(m), where=mean > 0) ** power
        alpha = np.maximum(alpha, 1e-30)
        scale = m / (alpha + m)
        if output == "variance":
            values = scale * scale * (alpha + y)
        elif output in ("lower", "upper"):
            from scipy.special import gammaincinv

            tail = (1 - INTERVAL_PROBABILITY) / 2
            values = scale * gammaincinv(alpha + y, tail if output == "lower" else 1 - tail)
        else:
            values = scale * (alpha + y)
        return np.asarray(values.astype(np.float32))
