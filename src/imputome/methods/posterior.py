"""The posterior step: what a cell's own counts add to a method's rate (METHODS: SAVER's idea, made general).

A rate m of any counts method is taken as the mean of a gamma prior with shape phi, the count x as Poisson. The
posterior is gamma with shape phi + x, mean m (phi + x) / (phi + m) and variance m^2 (phi + x) / (phi + m)^2: phi large
returns the model, phi small the data. phi is fitted per gene on held-out molecules, so that a method which has already
read x is not believed too much. Source: Huang et al. 2018 (SAVER), eq. 1 to 3, with the prior mean from any method.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numba import njit, prange

from imputome.errors import InputError
from imputome.methods.base import Data, Imputer, Model, Output
from imputome.preprocessing.counts import is_integer
from imputome.preprocessing.holdout import thin

KEEP = 0.9  # share of the molecules that the method is fitted on while phi is sought
GRID = np.geomspace(0.05, 1e3, 31)  # candidate shapes
ENOUGH = 50  # held-out molecules below which a gene has no say of its own
NEIGHBOURS = 200  # genes of similar mean that share a prior over the grid
BLOCK = 2**22  # dense values made at a time
PROBABILITY = 0.9  # of the intervals "lower" to "upper"
_BINS = 512  # of the rate: 8 per octave, from the bits of a float32


class PosteriorModel:
    """A method's rate combined with the counts (a `Model`): rate, variance and a 90 % interval for the rate.

    Parameters
    ----------
    rate : the method's model, on scale ``counts``.
    shape : (G,) phi per gene.
    factor : one number that all values are multiplied by, see `matched_to_total`.
    """

    outputs: frozenset[Output] = frozenset({"value", "rate", "variance", "lower", "upper"})

    def __init__(self, rate: Model, data: Data, shape: np.ndarray, *, factor: float = 1.0) -> None:
        self.model = rate
        self.data = data
        self.shape = shape
        self.factor = factor

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
        rate = self.model.rows(rows, genes, "value")
        shape = self.shape if genes is None else self.shape[genes]
        return self._combine(rate, self.data.block(rows, genes), shape, output)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
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


def fit_shape(estimator: Imputer, data: Data, *, random_state: int = 0, keep: float = KEEP) -> np.ndarray:
    """Shape phi of every gene's prior, from molecules that the method did not see.

    Molecules are split into x1 (probability ``keep``) and x2; the method is fitted on x1, and phi maximises the
    predictive likelihood of x2: negative binomial with size phi + x1 and mean ``(1 - keep) / keep`` times the posterior
    mean at x1. Genes share strength: neighbours in mean expression share a prior over the grid of phi, found by
    expectation maximisation (empirical Bayes), and a gene's phi is its posterior geometric mean.

    Returns
    -------
    (G,) float64.

    Cost: one fit of the method and one pass over n x G rates in blocks; per rate one table look-up where the counts are
    zero, one evaluation per grid point elsewhere.

    Raises
    ------
    InputError
        The counts are not integers.
    """
    if not is_integer(data.X.data):
        raise InputError(
            "the posterior step needs raw counts (integers): pass the layer that holds them, or posterior=False"
        )
    rng = np.random.default_rng(random_state)
    kept, rest = thin(data.X, keep, rng)
    library = None if data.library_size is None else data.library_size * keep
    seen = replace(data, X=kept, library_size=library)
    rate = estimator.fit_transform(seen)
    likelihood = predictive_likelihood(rate.model, kept, rest, ratio=(1 - keep) / keep)
    molecules = np.asarray(rest.sum(axis=0), dtype=np.float64).ravel()
    return _shared_shape(likelihood, data.gene_totals, molecules)


def predictive_likelihood(rate: Model, x1: Any, x2: Any, *, ratio: float) -> np.ndarray:
    """(G, K) log-likelihood of the counts ``x2`` for each gene and each shape of `GRID`, up to a constant per gene.

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
        a, b = x1[rows].toarray(), x2[rows].toarray()
        _add_likelihood(m, a, b, np.float64(ratio), GRID, counts, sums, total)
    # entries with no molecule in either part, gathered by rate: log NB(0; size phi) = -phi log1p(ratio m / (phi + m))
    with np.errstate(invalid="ignore"):
        centre = np.where(counts > 0, sums / counts, 0.0)
    for k, phi in enumerate(GRID):
        total[:, k] -= phi * np.einsum("gb,gb->g", counts, np.log1p(ratio * centre / (phi + centre)))
    return total


@njit(parallel=True, cache=True)
def _add_likelihood(m, x1, x2, ratio, grid, counts, sums, total):  # type: ignore[no-untyped-def]
    """Add a block of rows to ``total`` (genes with molecules) and to the histograms of rates (all other entries)."""
    n, G = m.shape
    bits = m.view(np.int32)
    for j in prange(G):
        for i in range(n):
            rate = np.float64(m[i, j])
            if rate <= 0.0:
                continue
            a = np.float64(x1[i, j])
            b = np.float64(x2[i, j])
            if a == 0.0 and b == 0.0:
                # exponent and three bits of the mantissa, from 2^-40 up
                place = min(max((bits[i, j] >> 20) - (87 << 3), 0), 511)
                counts[j, place] += 1
                sums[j, place] += rate
                continue
            for k in range(grid.size):
                size = grid[k] + a
                q = ratio * rate / (grid[k] + rate)  # mean over size
                value = -size * math.log1p(q)
                if b > 0.0:
                    # log gamma(size + b) - log gamma(size), without cancellation for the small b that is usual
                    value += b * (math.log(q) - math.log1p(q))
                    if b <= 16.0:
                        for c in range(int(b)):
                            value += math.log(size + c)
                    else:
                        value += math.lgamma(size + b) - math.lgamma(size)
                total[j, k] += value


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
