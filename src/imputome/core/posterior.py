"""The posterior step: combine the rate of any counts method with the counts of the cell (SAVER's idea, generalised).

The rate m of a method is the mean of a gamma prior with shape phi, and the count x is Poisson. The posterior is gamma
with shape phi + x, mean m (phi + x) / (phi + m) and variance m^2 (phi + x) / (phi + m)^2. A large phi returns the rate
of the method, a small phi the count. `imputome.core.prior` fits phi on molecules that the method did not see. Source:
Huang et al. 2018 (SAVER), eq. 1 to 3, with the prior mean from any method, and a phi that depends on gene, rate and
cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numba import prange

from imputome.core.compiled import compiled
from imputome.core.data import Data
from imputome.core.imputation import Model, Output
from imputome.core.many_cells import MANY_CELLS, evenly_spaced

SMALLEST_SHAPE, LARGEST_SHAPE = 1e-3, 1e5
LARGEST_CELL_FACTOR = 20.0  # the excess of a cell changes its shapes by at most this factor
VALUES_PER_BLOCK = 2**22  # dense values made at a time
INTERVAL_PROBABILITY = 0.9  # between "lower" and "upper"


@dataclass(frozen=True, eq=False)
class Prior:
    """The shapes of the gamma priors: ``phi_ij = shape_j (m_ij / mean_j)^power_j (excess_i / excess)^-cell_power``.

    A power of 0 is a constant coefficient of variation of a gene's true values around their rates, a power of 1 a
    constant Fano factor. ``excess_i`` is the mean over genes of the squared Pearson residuals ``(x - m)^2 / (m + m^2 /
    phi)`` of cell i, with phi of gene and rate alone: where a method explains a cell badly, the cell's own counts get
    more weight. No factor of a cell is beyond `LARGEST_CELL_FACTOR`.
    """

    shape: np.ndarray  # (G,) positive
    power: np.ndarray  # (G,)
    mean: np.ndarray  # (G,) mean counts, for which ``shape`` holds; 0 for genes without molecules
    cell_power: float = 0.0
    excess: float = 1.0  # that of a typical cell

    @classmethod
    def constant(cls, shape: np.ndarray) -> Prior:
        """A shape for each gene that depends on neither rate nor cell."""
        return cls(shape, np.zeros(len(shape)), np.ones(len(shape)))

    def of_genes(self, rate: np.ndarray, genes: np.ndarray | None = None) -> np.ndarray:
        """Phi by gene and rate, for a block of rates of these genes, in their precision."""
        shape, power, mean = (
            (values if genes is None else values[genes]).astype(np.float64)
            for values in (self.shape, self.power, self.mean)
        )
        return np.asarray(_shapes(rate, shape, power, mean))

    def at(self, rate: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Phi by gene and rate of single entries."""
        return np.asarray(
            _shapes(rate[None, :], self.shape[genes], self.power[genes], self.mean[genes].astype(np.float64))[0]
        )

    def cell_factors(self, excess: np.ndarray) -> np.ndarray:
        """What phi of some cells is multiplied by, from their excess."""
        relative = np.maximum(excess, 1e-12) / self.excess
        return np.clip(relative**-self.cell_power, 1 / LARGEST_CELL_FACTOR, LARGEST_CELL_FACTOR)


def saved_prior(arrays: dict[str, np.ndarray]) -> Prior:
    """Take the prior of the posterior step out of the arrays of a saved model."""
    prior = Prior.constant(arrays.pop("posterior_shape"))
    parts = {name: arrays.pop(f"posterior_{name}", None) for name in ("power", "mean", "cell_power", "excess")}
    known: dict[str, Any] = {
        name: value if value.ndim else float(value) for name, value in parts.items() if value is not None
    }
    return replace(prior, **known)


@compiled(parallel=True, fastmath=True)
def _shapes(rate, shape, power, mean):  # type: ignore[no-untyped-def]
    n, G = rate.shape
    out = np.empty_like(rate)
    for i in prange(n):
        for j in range(G):
            phi = shape[j]
            if power[j] != 0.0 and rate[i, j] > 0.0 and mean[j] > 0.0:
                phi *= np.exp(power[j] * np.log(rate[i, j] / mean[j]))
                phi = min(max(phi, SMALLEST_SHAPE), LARGEST_SHAPE)
            out[i, j] = phi
    return out


@compiled(parallel=True, fastmath=True)
def excesses(rate, x, phi):  # type: ignore[no-untyped-def]
    """(n,) mean over genes of the squared Pearson residuals of a block; entries with a rate of 0 are left out."""
    n, G = rate.shape
    out = np.ones(n)
    for i in prange(n):
        total, used = 0.0, 0
        for j in range(G):
            m = np.float64(rate[i, j])
            if m > 0.0:
                gap = np.float64(x[i, j]) - m
                total += gap * gap / (m + m * m / phi[i, j])
                used += 1
        if used > 0:
            out[i] = total / used
    return out


@dataclass(eq=False)
class PosteriorModel:
    """A `Model`: the rate of a method on scale ``counts``, combined with the counts.

    ``value`` and ``rate`` are the posterior mean, times ``factor`` (see `matched_to_total`); ``variance`` is its
    variance; ``lower`` and ``upper`` bound a 90 % interval. Other outputs are those of the method, unchanged.
    """

    posterior_outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate", "variance", "lower", "upper"})

    model: Model
    data: Data
    prior: Prior
    factor: float = 1.0
    # (n,) factors of the cells; NaN until they are needed, because the excess of a cell takes all of its rates
    _cell_factors: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.latent = getattr(self.model, "latent", None)
        self._cell_factors = np.full(self.data.shape[0], np.nan if self.prior.cell_power else 1.0)

    @property
    def outputs(self) -> frozenset[Output]:
        """Outputs of the posterior step and of the method."""
        return self.posterior_outputs | self.model.outputs

    def matched_to_total(self) -> PosteriorModel:
        """The same model with the factor that makes the sum of all values equal to the sum of all counts.

        With more than `MANY_CELLS` cells, these are the sums over so many evenly spaced ones.
        """
        n, G = self.data.shape
        step = max(1, VALUES_PER_BLOCK // G)
        cells = evenly_spaced(n, 1, MANY_CELLS)
        total = sum(
            float(self.rows(cells[start : start + step], None, "value").sum(dtype=np.float64))
            for start in range(0, len(cells), step)
        )
        molecules = float((self.data if len(cells) == n else self.data.subset(rows=cells)).gene_totals.sum())
        matched = replace(self, factor=self.factor * molecules / total)
        matched._cell_factors = self._cell_factors
        return matched

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        if output not in self.posterior_outputs:
            return self.model.rows(rows, genes, output)
        if genes is not None:
            self._find_cell_factors(rows)
        rate, x = self.model.rows(rows, genes, "value"), self.data.block(rows, genes)
        phi = self.prior.of_genes(rate, genes)
        if genes is None:
            self._set_cell_factors(rows, rate, x, phi)
        if self.prior.cell_power:
            phi *= self._cell_factors[rows, None].astype(phi.dtype)
        return self._combine(rate, x, phi, output)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        if output not in self.posterior_outputs:
            return self.model.at(i, j, output)
        self._find_cell_factors(np.unique(i))
        rate = self.model.at(i, j, "value")
        phi = self.prior.at(rate, j) * self._cell_factors[i].astype(rate.dtype)
        return self._combine(rate, self.data.entries(i, j), phi, output)

    def _find_cell_factors(self, rows: np.ndarray) -> None:
        """Compute the factors of those ``rows`` that have none yet, in blocks."""
        unknown = rows[np.isnan(self._cell_factors[rows])]
        step = max(1, VALUES_PER_BLOCK // self.data.shape[1])
        for start in range(0, len(unknown), step):
            block = unknown[start : start + step]
            rate = self.model.rows(block, None, "value")
            self._set_cell_factors(block, rate, self.data.block(block, None), self.prior.of_genes(rate))

    def _set_cell_factors(self, rows: np.ndarray, rate: np.ndarray, x: np.ndarray, phi: np.ndarray) -> None:
        if self.prior.cell_power:
            self._cell_factors[rows] = self.prior.cell_factors(excesses(rate, x, phi))

    def _combine(self, rate: np.ndarray, x: np.ndarray, phi: np.ndarray, output: Output) -> np.ndarray:
        """The posterior, in the precision of the rate; a rate of 0 stays 0 for any count."""
        x = x.astype(rate.dtype)
        scale = rate / (phi + rate) * rate.dtype.type(self.factor)
        if output == "variance":
            return scale * scale * (phi + x)
        if output in ("lower", "upper"):
            from scipy.special import gammaincinv

            tail = (1 - INTERVAL_PROBABILITY) / 2
            return scale * gammaincinv(phi + x, tail if output == "lower" else 1 - tail).astype(rate.dtype)
        return scale * (phi + x)
