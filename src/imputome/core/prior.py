"""Fit the prior of the posterior step (`imputome.core.posterior.Prior`) on molecules that a method did not see.

The molecules are dealt at random into parts. A method that learned without the first part gives the rates of all the
others, x1, and the part itself, x2, is predicted: it is negative binomial with size phi + x1 and mean ``ratio`` (depth
of x2 over that of x1) times the posterior mean at x1. Letters: ``n`` cells, ``G`` genes, ``K`` candidates of shape and
power.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import prange

from imputome.core.compiled import compiled
from imputome.core.data import Data
from imputome.core.imputation import Model
from imputome.core.many_cells import MANY_CELLS, evenly_spaced, random_rows
from imputome.core.posterior import LARGEST_SHAPE, SMALLEST_SHAPE, VALUES_PER_BLOCK, Prior, excesses
from imputome.errors import InputError

FOLDS = 10  # parts of the molecules; each in turn is held out to fit phi
MAX_ENTRIES = 200_000_000  # entries of n x G that the fit may read: this decides how many parts are used
SHAPE_GRID = np.geomspace(0.05, 1e3, 21)  # candidates of phi at the mean rate of a gene
POWER_GRID = np.array([0.0, 0.5, 1.0])  # candidates of its power of the rate
CELL_POWERS = np.linspace(0.0, 2.0, 9)  # candidates of the power of a cell's excess
ENTRIES_FOR_CELLS = 2**23  # largest number of entries of n x G on which the power of the excess is chosen
CLEARLY_BETTER = 2.0  # standard errors that a gain in log-likelihood must reach
MIN_HELD_OUT_MOLECULES = 50  # a gene with fewer does not take part in the fit of the prior over the candidates
GENES_PER_PRIOR = 200  # genes of similar mean that share a prior over the candidates
_RATE_BINS = 352  # 8 per octave from 2^-24 to 2^20, from the bits of a float32
_LARGEST_BINNED = 16.0  # molecules of an entry; in bins of rates the error is some 3e-4 of each
_GENES_PER_TILE = 64  # genes that one thread works on, so that it reads neighbouring values of a row


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


@dataclass(frozen=True, eq=False)
class Predicted:
    """How well a part of the molecules is predicted from the others, with each candidate of shape and power."""

    likelihood: np.ndarray  # (G, shapes, powers) log-likelihoods; a constant of each gene is left out
    mean: np.ndarray  # (G,) mean counts of all molecules
    molecules: np.ndarray  # (G,) in the part

    def evidence(self) -> np.ndarray:
        """(G,) log-likelihoods of the part, averaged over the candidates under a prior that is fitted to it alone.

        So the rates of methods can be compared: each has the same candidates, weighed on the same molecules.
        """
        logs = self.likelihood.reshape(len(self.mean), -1) + np.log(_priors(self))
        top = logs.max(axis=1)
        return np.asarray(top + np.log(np.exp(logs - top[:, None]).sum(axis=1)))


def some_cells(data: Data, parts: Sequence[np.ndarray]) -> tuple[Data, list[np.ndarray]]:
    """Evenly spaced cells, at most `MANY_CELLS`, and their counts in the parts from `deal`."""
    n = data.shape[0]
    if n <= MANY_CELLS:
        return data, list(parts)
    rows = evenly_spaced(n, 1, MANY_CELLS)
    stored = np.repeat(np.isin(np.arange(n), rows), np.diff(data.X.indptr))
    return data.subset(rows=rows), [part[stored] for part in parts]


def predicted(data: Data, part: np.ndarray, rate: Callable[[Data], Model]) -> tuple[Predicted, Model, Data, Any]:
    """How well one part from `deal` is predicted by the ``rate`` of `pooled_prior`, and its model, x1 and x2."""
    x1, x2 = split(data, part)
    model = rate(x1)
    likelihood = predictive_likelihood(model, x1.X, x2, ratio=1 / (FOLDS - 1))
    molecules = np.bincount(x2.indices, weights=x2.data, minlength=data.shape[1])
    return Predicted(likelihood, data.gene_totals / data.shape[0], molecules), model, x1, x2


def pooled_prior(data: Data, parts: Sequence[np.ndarray], rate: Callable[[Data], Model]) -> tuple[Prior, Predicted]:
    """Fit the prior to the parts from `deal`; returns it, and how well the first part is predicted.

    ``rate`` takes data without a part and returns the model of its rates; it learned without the first part. Genes of
    similar mean expression share a prior over the candidates of shape and power, which expectation maximisation fits
    (empirical Bayes); those of a gene are its posterior means (of the shape the geometric one). The other parts show
    how genes differ, but make phi too large, because the method has seen them. Therefore all shapes are multiplied by
    the factor that maximises the likelihood of the first part. On that part too, the power of the cells' excess is
    chosen, which is 0 unless another is clearly better.
    """
    first, *seen = predicted(data, parts[0], rate)
    total, molecules = first.likelihood, first.molecules
    for part in parts[1:]:
        other = predicted(data, part, rate)[0]
        total, molecules = total + other.likelihood, molecules + other.molecules
    prior = _fitted(Predicted(total, first.mean, molecules))
    if len(parts) > 1:
        factor = _common_factor(first.likelihood, prior)
        prior = replace(prior, shape=np.clip(prior.shape * factor, SHAPE_GRID[0], SHAPE_GRID[-1]))
    return _with_cells(prior, *seen), first


def predictive_likelihood(
    rate: Model,
    x1: Any,
    x2: Any,
    *,
    ratio: float,
    shapes: np.ndarray = SHAPE_GRID,
    powers: np.ndarray = POWER_GRID,
) -> np.ndarray:
    """Log-likelihood of the counts ``x2`` given ``x1``, by gene and candidate: (G, shapes, powers).

    ``rate`` has the rates of ``x1``, and ``ratio`` is the depth of ``x2`` over that of ``x1``. A constant per gene that
    depends on ``x2`` alone is left out, so the rates of different methods can be compared, but only of methods whose
    rates are 0 at the same entries, because entries with a rate of 0 are left out too.
    """
    n, G = x1.shape
    mean = x1.sum(axis=0) / n  # where the shapes hold, at the depth of x1
    total = np.zeros((G, len(shapes), len(powers)))
    entries = np.zeros((G, _RATE_BINS), np.uint32)
    sums = np.zeros((G, _RATE_BINS, 5), np.float32)  # of rates; of molecules, and rates times these; likewise in x2
    step = max(1, VALUES_PER_BLOCK // G)
    for start in range(0, n, step):
        rows = np.arange(start, min(n, start + step))
        m = np.ascontiguousarray(rate.rows(rows, None, "value"), dtype=np.float32)
        a, b = (part[rows].toarray().astype(np.float32, copy=False) for part in (x1, x2))
        _add_entries(m, a, b, np.float64(ratio), shapes, powers, mean, entries, sums, total)
    _add_bins(entries, sums, np.float64(ratio), shapes, powers, mean, total)
    return total


@compiled(fastmath=True)
def _log_rising(size, b):  # type: ignore[no-untyped-def]
    """log gamma(size + b) - log gamma(size); the usual small b is computed without cancellation."""
    if b <= 16.0:
        rising = size
        for c in range(1, int(b)):
            rising *= size + c
        return math.log(rising)
    return math.lgamma(size + b) - math.lgamma(size)


@compiled(fastmath=True)
def _log1p(q):  # type: ignore[no-untyped-def]
    """log(1 + q)."""
    if q > 0.25:
        return math.log1p(q)
    s = q / (2.0 + q)
    s2 = s * s
    # log(1 + q) = 2 artanh(s), exact to 1e-10
    return 2.0 * s * (1.0 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9)))))


@compiled(fastmath=True)
def _log_likelihood(rate, a, b, phi, ratio):  # type: ignore[no-untyped-def]
    """Log-likelihood of the count b, without log b!, given the count a, at one rate."""
    q = ratio * rate / (phi + rate)  # mean over size, at most the ratio
    value = -(phi + a + b) * _log1p(q)
    if b > 0.0:
        value += b * math.log(q) + _log_rising(phi + a, b)
    return value


@compiled(fastmath=True)
def _scale(rate, mean, power):  # type: ignore[no-untyped-def]
    """(rate / mean)^power, by which the shape at the mean is multiplied."""
    if power == 0.0 or mean <= 0.0:
        return 1.0
    return math.exp(power * math.log(rate / mean))


@compiled(fastmath=True)
def _bounded(phi):  # type: ignore[no-untyped-def]
    return min(max(phi, SMALLEST_SHAPE), LARGEST_SHAPE)


@compiled(parallel=True, fastmath=True)
def _add_entries(m, x1, x2, ratio, shapes, powers, mean, entries, sums, total):  # type: ignore[no-untyped-def]
    """Add large counts to ``total``; of the others only what depends on x2, and all that sums do to the bins of rates.

    The log-likelihood is ``-(phi + x1 + x2) log(1 + q) + x2 log q``, at the mean rate of the bin, plus a term for
    entries with molecules in x2.
    """
    n, G = m.shape
    bits = m.view(np.int32)
    for tile in prange((G + _GENES_PER_TILE - 1) // _GENES_PER_TILE):
        for i in range(n):
            for j in range(tile * _GENES_PER_TILE, min(G, (tile + 1) * _GENES_PER_TILE)):
                if m[i, j] <= 0.0:
                    continue
                if x1[i, j] + x2[i, j] > _LARGEST_BINNED:
                    rate, a, b = np.float64(m[i, j]), np.float64(x1[i, j]), np.float64(x2[i, j])
                    for p in range(powers.size):
                        scale = _scale(rate, mean[j], powers[p])
                        for k in range(shapes.size):
                            total[j, k, p] += _log_likelihood(rate, a, b, _bounded(shapes[k] * scale), ratio)
                    continue
                # the bin: exponent and three bits of the mantissa, from 2^-24 up
                place = min(max((bits[i, j] >> 20) - (103 << 3), 0), _RATE_BINS - 1)
                entries[j, place] += 1
                here = sums[j, place]
                here[0] += m[i, j]
                if x1[i, j] + x2[i, j] > 0.0:
                    here[1] += x1[i, j] + x2[i, j]
                    here[2] += (x1[i, j] + x2[i, j]) * m[i, j]
                b = np.float64(x2[i, j])
                if b > 0.0:
                    here[3] += x2[i, j]
                    here[4] += x2[i, j] * m[i, j]
                    rate, a = np.float64(m[i, j]), np.float64(x1[i, j])
                    log = b * math.log(ratio * rate)
                    for p in range(powers.size):
                        scale = _scale(rate, mean[j], powers[p])
                        for k in range(shapes.size):
                            total[j, k, p] += log + _log_rising(_bounded(shapes[k] * scale) + a, b)


@compiled(parallel=True, fastmath=True)
def _add_bins(entries, sums, ratio, shapes, powers, mean, total):  # type: ignore[no-untyped-def]
    """Add the terms that are sums over the entries of a bin, each at its own mean rate in the bin."""
    G, bins = entries.shape
    for j in prange(G):
        for place in range(bins):
            if entries[j, place] > 0:
                count, molecules = np.float64(entries[j, place]), np.float64(sums[j, place, 1])
                held_out = np.float64(sums[j, place, 3])
                rate = sums[j, place, 0] / count
                of_molecules = sums[j, place, 2] / molecules if molecules > 0.0 else rate
                of_held_out = sums[j, place, 4] / held_out if held_out > 0.0 else rate
                for p in range(powers.size):
                    scale = _scale(rate, mean[j], powers[p])
                    scale_of_molecules = _scale(of_molecules, mean[j], powers[p])
                    scale_of_held_out = _scale(of_held_out, mean[j], powers[p])
                    for k in range(shapes.size):
                        phi = _bounded(shapes[k] * scale)
                        value = -count * phi * _log1p(ratio * rate / (phi + rate))
                        if molecules > 0.0:
                            phi = _bounded(shapes[k] * scale_of_molecules)
                            value -= molecules * _log1p(ratio * of_molecules / (phi + of_molecules))
                            if held_out > 0.0:
                                phi = _bounded(shapes[k] * scale_of_held_out)
                                value -= held_out * math.log(phi + of_held_out)
                        total[j, k, p] += value


# -- the prior from likelihoods ----------------------------------------------------------------------------------------
def _fitted(predicted: Predicted) -> Prior:
    """Shape and power of each gene: the means of the candidates, weighed by likelihood and prior."""
    G = len(predicted.mean)
    weights = _softmax(predicted.likelihood.reshape(G, -1) + np.log(_priors(predicted)))
    weights = weights.reshape(predicted.likelihood.shape)
    shape = np.exp(weights.sum(axis=2) @ np.log(SHAPE_GRID))
    power = weights.sum(axis=1) @ POWER_GRID
    unknown = predicted.mean <= 0
    return Prior(np.where(unknown, SHAPE_GRID[-1], shape), np.where(unknown, 0.0, power), predicted.mean)


def _priors(predicted: Predicted) -> np.ndarray:
    """(G, K) prior weights of the candidates, which genes of similar mean share, interpolated between their groups."""
    G = len(predicted.mean)
    order = np.argsort(predicted.mean, kind="stable")
    order = order[predicted.mean[order] > 0]
    informative = order[predicted.molecules[order] >= MIN_HELD_OUT_MOLECULES]
    if len(informative) < 10:  # too few for a prior: all weight on the candidate that is best for all genes together
        total = predicted.likelihood[order].sum(axis=0)
        best = np.where(np.arange(total.size) == np.argmax(total), 1.0, 1e-300)
        return np.tile(best, (G, 1))
    groups = np.array_split(informative, max(1, round(len(informative) / GENES_PER_PRIOR)))
    priors = np.array([_grid_prior(predicted.likelihood[group]).ravel() for group in groups])
    centres = np.array([np.mean(np.log(predicted.mean[group])) for group in groups])
    logs = np.log(np.maximum(predicted.mean, 1e-300))
    return np.stack([np.interp(logs, centres, column) for column in priors.T], axis=1)


def _grid_prior(likelihood: np.ndarray, rounds: int = 50) -> np.ndarray:
    """(shapes, powers) weights that maximise the marginal likelihood of a group of genes (EM), smoothed over shapes."""
    genes, K, B = likelihood.shape
    smoother = np.exp(-0.5 * np.subtract.outer(np.arange(K), np.arange(K)) ** 2)
    smoother /= smoother.sum(axis=1, keepdims=True)
    prior = np.full((K, B), 1 / (K * B))
    flat = likelihood.reshape(genes, -1)
    for _ in range(rounds):
        prior = smoother.T @ _softmax(flat + np.log(prior).ravel()).mean(axis=0).reshape(K, B)
        prior = np.maximum(prior, 1e-12)
        prior /= prior.sum()
    return prior


def _softmax(logs: np.ndarray) -> np.ndarray:
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _likelihoods_at(likelihood: np.ndarray, shape: np.ndarray, power: np.ndarray) -> np.ndarray:
    """(G,) values of a (G, shapes, powers) log-likelihood, interpolated between the candidates."""
    genes = np.arange(len(shape))
    low, part = _place(np.log(shape), np.log(SHAPE_GRID))
    left, share = _place(power, POWER_GRID)
    at_power = (1 - share) * likelihood[genes, :, left].T + share * likelihood[genes, :, left + 1].T  # (shapes, G)
    return np.asarray((1 - part) * at_power[low, genes] + part * at_power[low + 1, genes])


def _place(values: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grid point to the left of each value, and the distance to it in steps; beyond the grid its ends count."""
    values = np.clip(values, grid[0], grid[-1])
    low = np.clip(np.searchsorted(grid, values, side="right") - 1, 0, len(grid) - 2)
    return low, (values - grid[low]) / (grid[low + 1] - grid[low])


def _common_factor(likelihood: np.ndarray, prior: Prior) -> float:
    """The factor of all shapes that maximises the likelihood: the best number of steps, refined by a parabola."""
    step = 1 / 3
    shifts = np.arange(-6, 7)
    values = np.array(
        [_likelihoods_at(likelihood, prior.shape * np.exp(step * shift), prior.power).sum() for shift in shifts]
    )
    top = int(np.argmax(values))
    offset = 0.0
    if 0 < top < len(shifts) - 1:
        left, centre, right = values[top - 1 : top + 2]
        offset = 0.5 * (left - right) / (left - 2 * centre + right)
    return float(np.exp(step * (shifts[top] + offset)))


# -- the excess of cells -----------------------------------------------------------------------------------------------
def _with_cells(prior: Prior, model: Model, x1: Data, x2: Any) -> Prior:
    """The prior with the power of the cells' excess that predicts x2 best, if it is clearly better than 0."""
    n, G = x1.shape
    rows = evenly_spaced(n, G, ENTRIES_FOR_CELLS)
    rows = rows[np.diff(x1.X.indptr)[rows] > 0]
    if len(rows) == 0:
        return prior
    at_x1 = replace(prior, mean=x1.gene_totals / n)
    excess, gains = np.empty(len(rows)), np.empty((len(rows), len(CELL_POWERS)))
    step = max(1, VALUES_PER_BLOCK // G)
    blocks = [slice(start, start + step) for start in range(0, len(rows), step)]

    def block(part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rate = np.ascontiguousarray(model.rows(rows[part], None, "value"), dtype=np.float32)
        return rate, x1.block(rows[part], None).astype(np.float32), at_x1.of_genes(rate)

    for part in blocks:
        excess[part] = excesses(*block(part))
    typical = max(float(np.median(excess)), 1e-6)
    factors = np.stack([replace(prior, cell_power=p, excess=typical).cell_factors(excess) for p in CELL_POWERS], axis=1)
    for part in blocks:
        held_out = x2[rows[part]].toarray().astype(np.float32)
        gains[part] = _cell_likelihoods(*block(part), held_out, factors[part], np.float64(1 / (FOLDS - 1)))
    gains -= gains[:, :1]
    best = int(np.argmax(gains.sum(axis=0)))
    if gains[:, best].sum() <= CLEARLY_BETTER * np.sqrt(np.square(gains[:, best]).sum()):
        return prior
    return replace(prior, cell_power=float(CELL_POWERS[best]), excess=typical)


@compiled(parallel=True, fastmath=True)
def _cell_likelihoods(m, x1, phi, x2, factors, ratio):  # type: ignore[no-untyped-def]
    """(cells, candidates) log-likelihoods of the cells' counts in ``x2``, with phi times each factor of the cell."""
    n, G = m.shape
    out = np.zeros(factors.shape)
    for i in prange(n):
        for j in range(G):
            rate = np.float64(m[i, j])
            if rate > 0.0:
                a, b = np.float64(x1[i, j]), np.float64(x2[i, j])
                for k in range(factors.shape[1]):
                    out[i, k] += _log_likelihood(rate, a, b, _bounded(phi[i, j] * factors[i, k]), ratio)
    return out


def fit_prior(estimator: Any, data: Data, *, random_state: int = 0) -> Prior:
    """The prior of the posterior step, from molecules of integer counts that the method did not see.

    The molecules are divided at random into `FOLDS` parts. The method (with its posterior step off) is fitted on all
    parts but the first. Then each part in turn is x2 and the others are x1, see `imputome.core.prior`. For a method
    that cannot impute new rows exactly, only the first x2 is used.

    With more than `MANY_CELLS` cells, a method that then learns from a sample of them is fitted on this sample only.
    For such a method, and for one that imputes new rows exactly, the molecules of `MANY_CELLS` evenly spaced cells are
    predicted, and not those of all cells.

    Cost: one fit of the method, and for each part used (all up to 20 million n x G, one above 100 million) one pass
    over n x G rates in blocks, with one table look-up per rate where the counts are zero and one evaluation per
    candidate elsewhere.
    """
    if not data.holds_integers:
        text = "the posterior step needs raw counts (integers): pass the layer that holds them, or {posterior}"
        raise InputError(text, code="not-integers", posterior=False)
    parts = deal(data, np.random.default_rng(random_state))
    x1 = split(data, parts[0])[0]
    rows = random_rows(data.shape[0], random_state) if estimator.learns_from_sample else None
    fitted = estimator.fit_transform(x1 if rows is None else x1.subset(rows=rows))
    if rows is not None or estimator.info.new_rows == "exact":
        return pooled_prior(*some_cells(data, parts), estimator._new_rows)[0]
    return pooled_prior(data, parts[:1], lambda seen: fitted.model)[0]
