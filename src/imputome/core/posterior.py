"""The posterior step: combine the rate of any counts method with the counts of the cell (SAVER's idea, generalised).

The rate m of a method is the mean of a gamma prior with shape phi, and the count x is Poisson. The posterior is gamma
with shape phi + x, mean m (phi + x) / (phi + m) and variance m^2 (phi + x) / (phi + m)^2. A large phi returns the rate
of the method, a small phi the count. phi is fitted per gene on held-out molecules, so that a method that has already
learned from x does not get too much weight. Source: Huang et al. 2018 (SAVER), eq. 1 to 3, with the prior mean from any
method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numba import prange

from imputome.core.compiled import compiled
from imputome.core.data import Data
from imputome.core.imputation import Model, Output

FOLDS = 10  # parts of the molecules; each in turn is held out to fit phi
MAX_ENTRIES = 200_000_000  # entries of n x G that the fit of phi may read: this decides how many parts are used
SHAPE_GRID = np.geomspace(0.05, 1e3, 31)  # candidate values of phi
MIN_HELD_OUT_MOLECULES = 50  # a gene with fewer does not take part in the fit of the prior over phi
GENES_PER_PRIOR = 200  # genes of similar mean that share a prior over the grid
VALUES_PER_BLOCK = 2**22  # dense values made at a time
INTERVAL_PROBABILITY = 0.9  # between "lower" and "upper"
_RATE_BINS = 512  # 8 per octave, from the bits of a float32
_GENES_PER_TILE = 64  # genes that one thread works on, so that it reads neighbouring values of a row


@dataclass(eq=False)
class PosteriorModel:
    """A `Model`: the rate of a method on scale ``counts``, combined with the counts; ``shape`` is phi, (G,).

    ``value`` and ``rate`` are the posterior mean, times ``factor`` (see `matched_to_total`); ``variance`` is its
    variance; ``lower`` and ``upper`` bound a 90 % interval. Other outputs are those of the method, unchanged.
    """

    posterior_outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate", "variance", "lower", "upper"})

    model: Model
    data: Data
    shape: np.ndarray
    factor: float = 1.0

    @property
    def outputs(self) -> frozenset[Output]:
        """Outputs of the posterior step and of the method."""
        return self.posterior_outputs | self.model.outputs

    def matched_to_total(self) -> PosteriorModel:
        """The same model with the factor that makes the sum of all values equal to the sum of all counts."""
        n, G = self.data.shape
        step = max(1, VALUES_PER_BLOCK // G)
        total = sum(
            float(self.rows(np.arange(start, min(n, start + step)), None, "value").sum(dtype=np.float64))
            for start in range(0, n, step)
        )
        molecules = float(self.data.gene_totals.sum())
        return replace(self, factor=self.factor * molecules / total)

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        if output not in self.posterior_outputs:
            return self.model.rows(rows, genes, output)
        rate = self.model.rows(rows, genes, "value")
        shape = self.shape if genes is None else self.shape[genes]
        return self._combine(rate, self.data.block(rows, genes), shape, output)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        if output not in self.posterior_outputs:
            return self.model.at(i, j, output)
        return self._combine(self.model.at(i, j, "value"), self.data.entries(i, j), self.shape[j], output)

    def _combine(self, rate: np.ndarray, x: np.ndarray, phi: np.ndarray, output: Output) -> np.ndarray:
        """The posterior, in the precision of the rate; a rate of 0 stays 0 for any count."""
        phi = phi.astype(rate.dtype)
        x = x.astype(rate.dtype)
        scale = rate / (phi + rate) * rate.dtype.type(self.factor)
        if output == "variance":
            return scale * scale * (phi + x)
        if output in ("lower", "upper"):
            from scipy.special import gammaincinv

            tail = (1 - INTERVAL_PROBABILITY) / 2
            return scale * gammaincinv(phi + x, tail if output == "lower" else 1 - tail).astype(rate.dtype)
        return scale * (phi + x)


def deal(data: Data, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal the molecules at random into `FOLDS` parts of equal expected size.

    Returns, for each part that the fit of phi uses, its counts at the stored entries of ``X``, (nnz,). All parts are
    used up to ``MAX_ENTRIES / FOLDS`` entries of n x G; larger data use fewer.
    """
    used = int(np.clip(MAX_ENTRIES // (data.shape[0] * data.shape[1]), 1, FOLDS))
    rest = np.rint(data.X.data).astype(np.int64)
    parts = []
    for k in range(used):
        # this share of the molecules that are left makes the parts multinomial
        parts.append(rng.binomial(rest, 1 / (FOLDS - k)).astype(np.int32))
        rest -= parts[-1]
    return parts


def split(data: Data, part: np.ndarray) -> tuple[Data, Any]:
    """Take the molecules of one part from `deal` out of the data; returns the rest, and the part as (n, G) matrix."""
    library = None if data.library_size is None else data.library_size * (1 - 1 / FOLDS)
    training, held_out = (
        type(data.X)((values.astype(data.X.dtype), data.X.indices.copy(), data.X.indptr.copy()), shape=data.shape)
        for values in (np.rint(data.X.data) - part, part)
    )
    training.eliminate_zeros()
    held_out.eliminate_zeros()
    return replace(data, X=training, library_size=library), held_out


def pooled_shape(
    data: Data, parts: Sequence[np.ndarray], rate: Callable[[Data], Model]
) -> tuple[np.ndarray, np.ndarray]:
    """Fit phi of every gene to the parts from `deal`.

    ``rate`` takes data without a part and returns the model of its rates; it learned without the first part. Genes of
    similar mean expression share a prior over the grid of phi, which expectation maximisation fits (empirical Bayes);
    phi of a gene is its posterior geometric mean. The other parts show how genes differ in phi, but make phi too large,
    because the method has seen them. Therefore all phi are multiplied by the factor that maximises the likelihood of
    the first part. Returns phi, (G,), and the log-likelihood of the first part on the K values of `SHAPE_GRID`, (G, K).
    """
    total, molecules = np.zeros((data.shape[1], len(SHAPE_GRID))), np.zeros(data.shape[1])
    first = None
    for part in parts:
        training, held_out = split(data, part)
        likelihood = predictive_likelihood(rate(training), training.X, held_out, ratio=1 / (FOLDS - 1))
        first = likelihood if first is None else first
        total += likelihood
        molecules += np.bincount(held_out.indices, weights=held_out.data, minlength=data.shape[1])
    assert first is not None  # noqa: S101  (``parts`` is not empty)
    shape = _shared_shape(total, data.gene_totals, molecules)
    if len(parts) > 1:
        shape = np.clip(shape * _common_factor(first, shape), SHAPE_GRID[0], SHAPE_GRID[-1])
    return shape, first


def likelihoods_of_part(likelihood: np.ndarray, data: Data, part: np.ndarray) -> np.ndarray:
    """(G,) log-likelihoods of one ``part``, from its (G, K) of `pooled_shape`, at phi that are fitted to it alone.

    So the rates of methods can be compared: each has as many phi, fitted to the same molecules.
    """
    molecules = np.bincount(data.X.indices, weights=part, minlength=data.shape[1])
    return _likelihoods_at(likelihood, _shared_shape(likelihood, data.gene_totals, molecules))


def _likelihoods_at(likelihood: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """(G,) values of a (G, K) log-likelihood on `SHAPE_GRID` at given phi, (G,); interpolated between them."""
    place = np.clip(np.log(shape / SHAPE_GRID[0]) / np.log(SHAPE_GRID[1] / SHAPE_GRID[0]), 0, len(SHAPE_GRID) - 1)
    low = np.minimum(place.astype(np.intp), len(SHAPE_GRID) - 2)
    part = place - low
    genes = np.arange(len(shape))
    return (1 - part) * likelihood[genes, low] + part * likelihood[genes, low + 1]


def _common_factor(likelihood: np.ndarray, shape: np.ndarray) -> float:
    """The factor of all shapes that maximises the likelihood: the best number of grid steps, refined by a parabola."""
    step = np.log(SHAPE_GRID[1] / SHAPE_GRID[0])
    shifts = np.arange(-6, 7)
    values = np.array([_likelihoods_at(likelihood, shape * np.exp(step * shift)).sum() for shift in shifts])
    top = int(np.argmax(values))
    offset = 0.0
    if 0 < top < len(shifts) - 1:
        left, centre, right = values[top - 1 : top + 2]
        offset = 0.5 * (left - right) / (left - 2 * centre + right)
    return float(np.exp(step * (shifts[top] + offset)))


def predictive_likelihood(rate: Model, x1: Any, x2: Any, *, ratio: float) -> np.ndarray:
    """Log-likelihood of the counts ``x2`` given ``x1``, for each gene and each phi of `SHAPE_GRID`: (G, K).

    ``rate`` has the rates of ``x1``, and ``ratio`` is the depth of ``x2`` over that of ``x1``. A constant per gene that
    depends on ``x2`` alone is left out, so the rates of different methods can be compared, but only of methods whose
    rates are 0 at the same entries, because entries with a rate of 0 are left out too.
    """
    n, G = x1.shape
    total = np.zeros((G, len(SHAPE_GRID)))
    counts = np.zeros((G, _RATE_BINS))
    sums = np.zeros((G, _RATE_BINS))
    step = max(1, VALUES_PER_BLOCK // G)
    for start in range(0, n, step):
        rows = np.arange(start, min(n, start + step))
        m = np.ascontiguousarray(rate.rows(rows, None, "value"), dtype=np.float32)
        a, b = (part[rows].toarray().astype(np.float32, copy=False) for part in (x1, x2))
        _add_likelihood(m, a, b, np.float64(ratio), SHAPE_GRID, counts, sums, total)
    _add_zeros(counts, sums, np.float64(ratio), SHAPE_GRID, total)
    return total


@compiled(parallel=True, fastmath=True)
def _add_likelihood(m, x1, x2, ratio, grid, counts, sums, total):  # type: ignore[no-untyped-def]
    """Add a block of rows to ``total`` (entries with molecules) and to the histograms of rates (all other entries)."""
    n, G = m.shape
    K = grid.size
    bits = m.view(np.int32)
    series = ratio <= 0.25
    for tile in prange((G + _GENES_PER_TILE - 1) // _GENES_PER_TILE):
        for i in range(n):
            for j in range(tile * _GENES_PER_TILE, min(G, (tile + 1) * _GENES_PER_TILE)):
                if m[i, j] <= 0.0:
                    continue
                rate = np.float64(m[i, j])
                a = np.float64(x1[i, j])
                b = np.float64(x2[i, j])
                if a == 0.0 and b == 0.0:
                    # the bin: exponent and three bits of the mantissa, from 2^-40 up
                    place = min(max((bits[i, j] >> 20) - (87 << 3), 0), _RATE_BINS - 1)
                    counts[j, place] += 1
                    sums[j, place] += rate
                    continue
                if series:
                    for k in range(K):
                        q = ratio * rate / (grid[k] + rate)  # mean over size, at most the ratio
                        s = q / (2.0 + q)
                        s2 = s * s
                        # log(1 + q) = 2 artanh(s), exact to 1e-10 for q <= 0.25
                        log = 2.0 * s * (1.0 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9)))))
                        total[j, k] -= (grid[k] + a + b) * log
                else:
                    for k in range(K):
                        total[j, k] -= (grid[k] + a + b) * math.log1p(ratio * rate / (grid[k] + rate))
                if b > 0.0:
                    for k in range(K):
                        size = grid[k] + a
                        value = b * math.log(ratio * rate / (grid[k] + rate))
                        # log gamma(size + b) - log gamma(size); the usual small b is computed without cancellation
                        if b <= 16.0:
                            rising = size
                            for c in range(1, int(b)):
                                rising *= size + c
                            value += math.log(rising)
                        else:
                            value += math.lgamma(size + b) - math.lgamma(size)
                        total[j, k] += value


@compiled(parallel=True)
def _add_zeros(counts, sums, ratio, grid, total):  # type: ignore[no-untyped-def]
    """Add the entries without molecules in ``x1`` and ``x2``, binned by rate: log NB(0; size phi) = -phi log(1 + q)."""
    G, bins = counts.shape
    for j in prange(G):
        for place in range(bins):
            if counts[j, place] > 0:
                rate = sums[j, place] / counts[j, place]
                for k in range(grid.size):
                    total[j, k] -= counts[j, place] * grid[k] * math.log1p(ratio * rate / (grid[k] + rate))


def _shared_shape(likelihood: np.ndarray, mean: np.ndarray, molecules: np.ndarray) -> np.ndarray:
    """(G,) posterior geometric mean of phi, under a prior that genes of similar mean share."""
    G, K = likelihood.shape
    shape = np.full(G, SHAPE_GRID[-1])
    order = np.argsort(mean, kind="stable")
    order = order[mean[order] > 0]
    informative = order[molecules[order] >= MIN_HELD_OUT_MOLECULES]
    if len(informative) < 10:  # too few for a prior: one phi for all genes
        shape[order] = SHAPE_GRID[int(np.argmax(likelihood[order].sum(axis=0)))]
        return shape
    groups = np.array_split(informative, max(1, round(len(informative) / GENES_PER_PRIOR)))
    priors = np.array([_grid_prior(likelihood[group]) for group in groups])
    centres = np.array([np.mean(np.log(mean[group])) for group in groups])
    # the prior of a gene is interpolated between the two nearest groups
    logs = np.log(mean[order])
    prior = np.stack([np.interp(logs, centres, priors[:, k]) for k in range(K)], axis=1)
    weights = _softmax(likelihood[order] + np.log(prior))
    shape[order] = np.exp(weights @ np.log(SHAPE_GRID))
    return shape


def _grid_prior(likelihood: np.ndarray, rounds: int = 50) -> np.ndarray:
    """(K,) weights of the grid points that maximise the marginal likelihood of a group of genes (EM), smoothed."""
    K = likelihood.shape[1]
    smoother = np.exp(-0.5 * np.subtract.outer(np.arange(K), np.arange(K)) ** 2)
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
