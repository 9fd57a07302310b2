"""The posterior step: what a cell's own counts add to a method's rate (METHODS: SAVER's idea, made general).

A rate m of any counts method is taken as the mean of a gamma prior with shape phi, the count x as Poisson. The
posterior is gamma with shape phi + x, mean m (phi + x) / (phi + m) and variance m^2 (phi + x) / (phi + m)^2: phi large
returns the model, phi small the data. phi is fitted per gene on held-out molecules, so that a method which has already
read x is not believed too much. Source: Huang et al. 2018 (SAVER), eq. 1 to 3, with the prior mean from any method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numba import njit, prange

from imputome.core.data import Data
from imputome.core.imputation import Model, Output

FOLDS = 10  # parts of the molecules, of which each in turn is held out while phi is sought
ENTRIES = 200_000_000  # of n x G, passed over to find phi: this many decide how many parts are used
GRID = np.geomspace(0.05, 1e3, 31)  # candidate shapes
ENOUGH = 50  # held-out molecules below which a gene has no say of its own
NEIGHBOURS = 200  # genes of similar mean that share a prior over the grid
BLOCK = 2**22  # dense values made at a time
PROBABILITY = 0.9  # of the intervals "lower" to "upper"
_BINS = 512  # of the rate: 8 per octave, from the bits of a float32
_TILE = 64  # genes that a thread works on, so that it reads a row's values together


class PosteriorModel:
    """A method's rate combined with the counts (a `Model`): rate, variance and a 90 % interval for the rate.

    Parameters
    ----------
    rate : the method's model, on scale ``counts``.
    shape : (G,) phi per gene.
    factor : one number that all values are multiplied by, see `matched_to_total`.

    ``rate`` and ``value`` are the posterior mean; what else the method's model offers is passed on as it is.
    """

    own: ClassVar[frozenset[Output]] = frozenset({"value", "rate", "variance", "lower", "upper"})

    def __init__(self, rate: Model, data: Data, shape: np.ndarray, *, factor: float = 1.0) -> None:
        self.model = rate
        self.data = data
        self.shape = shape
        self.factor = factor

    @property
    def outputs(self) -> frozenset[Output]:
        return self.own | self.model.outputs

    def matched_to_total(self) -> PosteriorModel:
        """The same with the factor that makes the sum of all values that of all counts."""
        n, G = self.data.shape
        step = max(1, BLOCK // G)
        total = sum(
            float(self.rows(np.arange(start, min(n, start + step)), None, "value").sum(dtype=np.float64))
            for start in range(0, n, step)
        )
        given = float(self.data.gene_totals.sum())
        return PosteriorModel(self.model, self.data, self.shape, factor=self.factor * given / total)

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        if output not in self.own:
            return self.model.rows(rows, genes, output)
        rate = self.model.rows(rows, genes, "value")
        shape = self.shape if genes is None else self.shape[genes]
        return self._combine(rate, self.data.block(rows, genes), shape, output)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        if output not in self.own:
            return self.model.at(i, j, output)
        return self._combine(self.model.at(i, j, "value"), self.data.entries(i, j), self.shape[j], output)

    def _combine(self, rate: np.ndarray, x: np.ndarray, phi: np.ndarray, output: Output) -> np.ndarray:
        # in the precision of the rate; a rate of 0 stays 0, whatever the count
        phi = phi.astype(rate.dtype)
        x = x.astype(rate.dtype)
        scale = rate / (phi + rate) * rate.dtype.type(self.factor)
        if output == "variance":
            return scale * scale * (phi + x)
        if output in ("lower", "upper"):
            from scipy.special import gammaincinv

            tail = (1 - PROBABILITY) / 2
            return scale * gammaincinv(phi + x, tail if output == "lower" else 1 - tail).astype(rate.dtype)
        return scale * (phi + x)


def deal(data: Data, rng: np.random.Generator) -> list[np.ndarray]:
    """Molecules dealt into `FOLDS` parts: of each part used, its (nnz,) counts at the stored places of ``X``."""
    used = int(np.clip(ENTRIES // (data.shape[0] * data.shape[1]), 1, FOLDS))
    rest = np.rint(data.X.data).astype(np.int64)  # integers to a tolerance
    dealt = []
    for k in range(used):
        # of what is left, one part in as many as are still to be dealt: together the parts are multinomial
        dealt.append(rng.binomial(rest, 1 / (FOLDS - k)).astype(np.int32))
        rest -= dealt[-1]
    return dealt


def split(data: Data, part: np.ndarray) -> tuple[Data, Any]:
    """``data`` without the molecules of one part, and these as a ``csr_array``."""
    library = None if data.library_size is None else data.library_size * (1 - 1 / FOLDS)
    x1, x2 = (
        type(data.X)((values.astype(data.X.dtype), data.X.indices.copy(), data.X.indptr.copy()), shape=data.shape)
        for values in (np.rint(data.X.data) - part, part)
    )
    x1.eliminate_zeros()
    x2.eliminate_zeros()
    return replace(data, X=x1, library_size=library), x2


def pooled_shape(
    data: Data, dealt: Sequence[np.ndarray], rate: Callable[[Data], Model]
) -> tuple[np.ndarray, np.ndarray]:
    """Shapes phi (G,) from the parts of `deal`, and the (G, K) likelihood of the first part.

    Genes share strength: neighbours in mean expression share a prior over the grid of phi, found by expectation
    maximisation (empirical Bayes), and a gene's phi is its posterior geometric mean. Only the first part was kept from
    the method when it learned its parameters. The others tell genes apart, but make phi too large; one factor for all
    genes, that which maximises the likelihood of the first part, puts that right.

    Parameters
    ----------
    rate : model of the rates of data without a part; learned without the first part.
    """
    total, molecules = np.zeros((data.shape[1], len(GRID))), np.zeros(data.shape[1])
    first = None
    for part in dealt:
        seen, rest = split(data, part)
        likelihood = predictive_likelihood(rate(seen), seen.X, rest, ratio=1 / (FOLDS - 1))
        first = likelihood if first is None else first
        total += likelihood
        molecules += np.bincount(rest.indices, weights=rest.data, minlength=data.shape[1])
    assert first is not None  # noqa: S101  (there is always a first part)
    shape = _shared_shape(total, data.gene_totals, molecules)
    if len(dealt) > 1:
        shape = np.clip(shape * _common_factor(first, shape), GRID[0], GRID[-1])
    return shape, first


def likelihood_at(likelihood: np.ndarray, shape: np.ndarray) -> float:
    """Sum over genes of a (G, K) likelihood on `GRID` at the shapes ``shape``, read off between grid points."""
    place = np.clip(np.log(shape / GRID[0]) / np.log(GRID[1] / GRID[0]), 0, len(GRID) - 1)
    low = np.minimum(place.astype(np.intp), len(GRID) - 2)
    part = place - low
    genes = np.arange(len(shape))
    return float(((1 - part) * likelihood[genes, low] + part * likelihood[genes, low + 1]).sum())


def _common_factor(likelihood: np.ndarray, shape: np.ndarray) -> float:
    """The factor of all shapes that maximises a likelihood on `GRID`: whole grid steps, then a parabola's top."""
    step = np.log(GRID[1] / GRID[0])
    shifts = np.arange(-6, 7)
    values = np.array([likelihood_at(likelihood, shape * np.exp(step * shift)) for shift in shifts])
    top = int(np.argmax(values))
    offset = 0.0
    if 0 < top < len(shifts) - 1:
        left, centre, right = values[top - 1 : top + 2]
        offset = 0.5 * (left - right) / (left - 2 * centre + right)
    return float(np.exp(step * (shifts[top] + offset)))


def predictive_likelihood(rate: Model, x1: Any, x2: Any, *, ratio: float) -> np.ndarray:
    """(G, K) log-likelihood of the counts ``x2`` for each gene and each shape of `GRID`, up to a constant per gene.

    The constant depends on ``x2`` alone, so that rates of different methods can be compared. Entries with a rate of 0
    are left out: only methods that give the same genes and cells zeros can be.

    Parameters
    ----------
    rate : model of the rates of ``x1``.
    x1, x2 : (n, G) ``csr_array``.
    ratio : depth of x2 over that of x1.
    """
    n, G = x1.shape
    total = np.zeros((G, len(GRID)))
    counts = np.zeros((G, _BINS))
    sums = np.zeros((G, _BINS))
    step = max(1, BLOCK // G)
    for start in range(0, n, step):
        rows = np.arange(start, min(n, start + step))
        m = np.ascontiguousarray(rate.rows(rows, None, "value"), dtype=np.float32)
        a, b = (part[rows].toarray().astype(np.float32, copy=False) for part in (x1, x2))
        _add_likelihood(m, a, b, np.float64(ratio), GRID, counts, sums, total)
    _add_zeros(counts, sums, np.float64(ratio), GRID, total)
    return total


@njit(parallel=True, cache=True, fastmath=True)
def _add_likelihood(m, x1, x2, ratio, grid, counts, sums, total):  # type: ignore[no-untyped-def]
    """Add a block of rows to ``total`` (genes with molecules) and to the histograms of rates (all other entries)."""
    n, G = m.shape
    K = grid.size
    bits = m.view(np.int32)
    series = ratio <= 0.25
    for tile in prange((G + _TILE - 1) // _TILE):
        for i in range(n):
            for j in range(tile * _TILE, min(G, (tile + 1) * _TILE)):
                if m[i, j] <= 0.0:
                    continue
                rate = np.float64(m[i, j])
                a = np.float64(x1[i, j])
                b = np.float64(x2[i, j])
                if a == 0.0 and b == 0.0:
                    # exponent and three bits of the mantissa, from 2^-40 up
                    place = min(max((bits[i, j] >> 20) - (87 << 3), 0), 511)
                    counts[j, place] += 1
                    sums[j, place] += rate
                    continue
                if series:
                    for k in range(K):
                        q = ratio * rate / (grid[k] + rate)  # mean over size, at most the ratio
                        s = q / (2.0 + q)
                        s2 = s * s
                        # log(1 + q) = 2 artanh(s): to 1e-10 for q under 0.25
                        log = 2.0 * s * (1.0 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9)))))
                        total[j, k] -= (grid[k] + a + b) * log
                else:
                    for k in range(K):
                        total[j, k] -= (grid[k] + a + b) * math.log1p(ratio * rate / (grid[k] + rate))
                if b > 0.0:
                    for k in range(K):
                        size = grid[k] + a
                        value = b * math.log(ratio * rate / (grid[k] + rate))
                        # log gamma(size + b) - log gamma(size), without cancellation for the small b that is usual
                        if b <= 16.0:
                            rising = size
                            for c in range(1, int(b)):
                                rising *= size + c
                            value += math.log(rising)
                        else:
                            value += math.lgamma(size + b) - math.lgamma(size)
                        total[j, k] += value


@njit(parallel=True, cache=True)
def _add_zeros(counts, sums, ratio, grid, total):  # type: ignore[no-untyped-def]
    """Entries without a molecule in either part, gathered by rate: log NB(0; size phi) = -phi log(1 + q)."""
    G, bins = counts.shape
    for j in prange(G):
        for place in range(bins):
            if counts[j, place] > 0:
                rate = sums[j, place] / counts[j, place]
                for k in range(grid.size):
                    total[j, k] -= counts[j, place] * grid[k] * math.log1p(ratio * rate / (grid[k] + rate))


def _shared_shape(likelihood: np.ndarray, mean: np.ndarray, molecules: np.ndarray) -> np.ndarray:
    """Posterior geometric mean of each gene's shape, under a prior shared by genes of similar mean."""
    G, K = likelihood.shape
    shape = np.full(G, GRID[-1])
    order = np.argsort(mean, kind="stable")
    order = order[mean[order] > 0]
    voters = order[molecules[order] >= ENOUGH]
    if len(voters) < 10:  # a common shape for all
        shape[order] = GRID[int(np.argmax(likelihood[order].sum(axis=0)))]
        return shape
    groups = np.array_split(voters, max(1, round(len(voters) / NEIGHBOURS)))
    priors = np.array([_grid_prior(likelihood[group]) for group in groups])
    centres = np.array([np.mean(np.log(mean[group])) for group in groups])
    # each gene's prior is read off between the two nearest groups
    logs = np.log(mean[order])
    prior = np.stack([np.interp(logs, centres, priors[:, k]) for k in range(K)], axis=1)
    weights = _softmax(likelihood[order] + np.log(prior))
    shape[order] = np.exp(weights @ np.log(GRID))
    return shape


def _grid_prior(likelihood: np.ndarray, rounds: int = 50) -> np.ndarray:
    """(K,) mixture weights over the grid that maximise the marginal likelihood of a group of genes (EM), smoothed."""
    K = likelihood.shape[1]
    smoother = np.exp(-0.5 * (np.subtract.outer(np.arange(K), np.arange(K)) / 1.0) ** 2)
    smoother /= smoother.sum(axis=1, keepdims=True)
    prior = np.full(K, 1 / K)
    for _ in range(rounds):
        prior = _softmax(likelihood + np.log(prior)).mean(axis=0) @ smoother
        prior = np.maximum(prior, 1e-12)
        prior /= prior.sum()
    return prior


def _softmax(logs: np.ndarray) -> np.ndarray:
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
