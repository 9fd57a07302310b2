"""Residual quantiles and the weights of the predictors, learned from training rows only.

Three steps: the leave-one-out residuals of all training values give a `ResidualDistribution`; values hidden in training
rows then give the weights of the predictors (`tune`); the same values correct the quantiles (`QuantileCalibration`).

A standardised residual is written as a normal score: the score s means the quantile Phi(s) of the residuals.
"Transformed" values are those of `marginals`; ``predicted`` is always a prediction in the input's unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numba import prange
from scipy.optimize import nnls
from scipy.special import ndtri

from imputome.core.compiled import compiled
from imputome.methods.gaussian_copula.conditional import MAX_RESIDUAL, PRIOR_FEATURES, Conditional
from imputome.methods.gaussian_copula.marginals import Marginals, interpolate
from imputome.methods.gaussian_copula.noise import Gaussian, leave_one_out, refill
from imputome.methods.gaussian_copula.relevance import fit_relevance

RESIDUAL_QUANTILES = (np.arange(10) + 0.5) / 10  # all distributions are given by these: 5 % to 95 %
NORMAL_SCORES = ndtri(RESIDUAL_QUANTILES)
OUTER_SCORE = NORMAL_SCORES[-1]
MAX_SCORE = 4.0 * OUTER_SCORE  # larger scores count as this
MIN_REACH = 0.1  # smallest distance of an outer quantile from 0, relative to the distance between the outer quantiles

# bins of leave-one-out residuals, by the transformed prediction
RESIDUAL_BINS = 12
RESIDUALS_PER_BIN = 200
PRIOR_RESIDUALS = 20.0  # the quantiles of all features count as much as this many residuals of one feature

# values hidden in training rows
HIDDEN_ROWS = 120
HIDDEN_ENTRIES = 36_000  # with regressions of each feature, which are fitted again, values of this many are hidden
RELEVANCE_FOLDS = 5
HIDDEN_PER_PREDICTOR = 50  # fewer hidden values per predictor than this are not enough for weights
MAX_ROUNDS = 10  # values of a small table are hidden this often at most, others each time
MIN_WEIGHT = 0.03  # predictors with a smaller weight are removed
CALIBRATION_BINS = 10  # by the prediction in the input's unit
HIDDEN_PER_BIN = 200
PRIOR_HIDDEN = 50.0  # the hidden values of all bins count as much as this many in each bin


# -- quantiles and normal scores --------------------------------------------------------------------------------------
def residuals_at(scores: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """(k, m) residuals at (k, m) normal scores, where ``quantiles``, (10, m), are the residuals at `NORMAL_SCORES`.

    Outside of the outer quantiles, residuals grow in proportion to the score.
    """
    inner = interpolate(scores, NORMAL_SCORES[:, None], quantiles)
    low, high = _reach(quantiles)
    outside = np.maximum(scores / OUTER_SCORE - 1, 0) * high + np.minimum(scores / OUTER_SCORE + 1, 0) * low
    return np.asarray(inner + outside)


def scores_of(residuals: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """(m,) normal scores of (m,) residuals: the inverse of `residuals_at`, bounded by `MAX_SCORE`."""
    inner = interpolate(residuals[None], quantiles, NORMAL_SCORES[:, None])[0]
    low, high = _reach(quantiles)
    above, below = np.maximum(residuals - quantiles[-1], 0) / high, np.minimum(residuals - quantiles[0], 0) / low
    limit = MAX_SCORE / OUTER_SCORE - 1
    return np.asarray(inner + OUTER_SCORE * np.clip(above + below, -limit, limit))


def _reach(quantiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) distances of the outer quantiles from 0, down and up, made positive (all may lie on one side of 0)."""
    least = np.maximum(MIN_REACH * (quantiles[-1] - quantiles[0]), 1e-6)
    return np.maximum(-quantiles[0], least), np.maximum(quantiles[-1], least)


@dataclass(frozen=True)
class QuantileCalibration:
    """Corrected normal scores and variances, by the prediction."""

    predicted: np.ndarray  # (B,) predictions in the input's unit, increasing
    scores: np.ndarray  # (10, B) scores to use there instead of `NORMAL_SCORES`, increasing
    variance_factor: np.ndarray  # (B,) factor on the variance; includes large errors outside of the outer quantiles

    @classmethod
    def none(cls) -> QuantileCalibration:
        """No correction."""
        return cls(np.zeros(1), NORMAL_SCORES[:, None].copy(), np.ones(1))

    @classmethod
    def learn(cls, predicted: np.ndarray, scores: np.ndarray) -> QuantileCalibration:
        """Learn from (k,) hidden values: their predictions, and the scores of the truth under the predicted quantiles.

        Each bin of predictions gets the quantiles of its scores, shrunk towards those of all scores.
        """
        overall = np.quantile(scores, RESIDUAL_QUANTILES)
        centres, corrected = [], []
        for in_bin in _bins(predicted):
            share = in_bin.sum() / (in_bin.sum() + PRIOR_HIDDEN)
            centres.append(np.median(predicted[in_bin]))
            corrected.append(share * np.quantile(scores[in_bin], RESIDUAL_QUANTILES) + (1 - share) * overall)
        return cls(np.array(centres), np.array(corrected).T, np.ones(len(centres)))

    def with_variance(self, predicted: np.ndarray, squares: np.ndarray, variance: np.ndarray) -> QuantileCalibration:
        """Add the factors on (k,) variances that match the (k,) squared errors of the hidden values."""
        factors = []
        for in_bin in _bins(predicted):
            share = in_bin.sum() / (in_bin.sum() + PRIOR_HIDDEN)
            factors.append(share * squares[in_bin].sum() / max(variance[in_bin].sum(), 1e-12) + 1 - share)
        return replace(self, variance_factor=np.array(factors))

    def correct(self, scores: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """(k, m) corrected scores for ``scores``, (k, m), where the predictions are ``predicted``, (m,)."""
        return residuals_at(scores, np.stack([np.interp(predicted, self.predicted, row) for row in self.scores]))


def _bins(predicted: np.ndarray) -> list[np.ndarray]:
    """Masks over (k,) predictions, of equal size and in order; there are fewer bins if many predictions are equal."""
    n_bins = int(np.clip(len(predicted) // HIDDEN_PER_BIN, 1, CALIBRATION_BINS))
    edges = np.unique(np.quantile(predicted, np.arange(1, n_bins) / n_bins))
    bins = np.searchsorted(edges, predicted)
    return [bins == b for b in np.unique(bins)]


# -- the distribution of residuals ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ResidualDistribution:
    """Quantiles of the truth around a prediction.

    The quantiles of a residual over its standard deviation depend on the prediction (in the same way for all features)
    and on the feature. The latter are stored as normal scores under the former.
    """

    heights: np.ndarray  # (B,) transformed predictions, increasing
    pooled: np.ndarray  # (10, B) residual quantiles there over all features
    feature_scores: np.ndarray  # (10, G) residual quantiles of each feature, as normal scores under `pooled`
    explained: np.ndarray  # (G,) variance of each feature that the others explain, z_j' (K + c I)^-1 z_j
    feature_sd: np.ndarray  # (G,) standard deviations in the input's unit
    width: float = 1.0  # factor on residuals; with it 90 % of the hidden entries lie between the outer quantiles
    # the variance is `variance_factor` times that of the quantiles, plus `extra_variance` times `feature_sd` squared
    variance_factor: float = 1.0
    extra_variance: float = 0.0
    mean_shift: float = 1.0  # the value lies this share of the way from the prediction to the mean of the quantiles
    # correction of the quantiles; the value is made from the quantiles before this correction
    calibration: QuantileCalibration = field(default_factory=QuantileCalibration.none)

    def standardised(self, mean: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(10, m) residual quantiles of the features ``columns`` over the standard deviation, at predictions (m,)."""
        scores = self.feature_scores[:, columns]
        pooled = np.stack([np.interp(mean, self.heights, row) for row in self.pooled])
        inner = interpolate(scores, NORMAL_SCORES[:, None], pooled)
        # outside of the outer quantiles, in proportion to the score
        return inner * np.maximum(np.abs(scores) / OUTER_SCORE, 1)

    def ordered(self, mean: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The same, made to be non-decreasing."""
        return np.maximum.accumulate(self.standardised(mean, columns), axis=0)

    def uncorrected(
        self, marginals: Marginals, mean: np.ndarray, deviation: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """(10, m) quantiles in the input's unit before the correction, from (m,) transformed predictions."""
        t = mean + self.width * deviation * self.standardised(mean, columns)
        return marginals.back_extended(t, columns, self.feature_sd[columns])

    def quantiles(
        self, marginals: Marginals, predicted: np.ndarray, mean: np.ndarray, deviation: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """(10, m) quantiles of the truth in the input's unit."""
        nominal = np.broadcast_to(NORMAL_SCORES[:, None], (len(NORMAL_SCORES), len(mean)))
        residual = residuals_at(self.calibration.correct(nominal, predicted), self.ordered(mean, columns))
        return marginals.back_extended(mean + self.width * deviation * residual, columns, self.feature_sd[columns])

    def mean(self, predicted: np.ndarray, uncorrected: np.ndarray) -> np.ndarray:
        """(m,) means in the input's unit, from the quantiles `uncorrected`."""
        return np.asarray(predicted + self.mean_shift * (uncorrected.mean(axis=0) - predicted))

    def variance(self, predicted: np.ndarray, quantiles: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(m,) variances in the input's unit squared, from `quantiles`."""
        variance = self.variance_factor * quantiles.var(axis=0) + self.extra_variance * self.feature_sd[columns] ** 2
        factor = np.interp(predicted, self.calibration.predicted, self.calibration.variance_factor)
        return np.asarray(factor * variance)


def leave_one_out_loss(gaussian: Gaussian, marginals: Marginals, T: np.ndarray, feature_sd: np.ndarray) -> float:
    """Mean squared leave-one-out error of the observed values, in the input's unit over ``feature_sd``, (G,)."""
    total, count = 0.0, 0
    for part, error, _ in leave_one_out(gaussian.Z, gaussian.noise, gaussian.ridge):
        known = ~np.isnan(T[:, part])
        gap = (marginals.back(T[:, part] - error, part) - marginals.back(T[:, part], part)) / feature_sd[part]
        total += float(np.square(gap[known]).sum())
        count += int(known.sum())
    return total / count


def leave_one_out_residuals(gaussian: Gaussian, missing: np.ndarray, feature_sd: np.ndarray) -> ResidualDistribution:
    """The distribution of the leave-one-out residuals; those of a row are divided by its scale, as for new rows.

    ``missing``, (n, G), says which values were filled: they are not used. ``feature_sd``, (G,), is in the input's unit.
    """
    n, G = gaussian.Z.shape
    squares, count = np.zeros(n), np.zeros(n)
    residuals = np.full((n, G), np.nan, np.float32)
    predicted = np.empty((n, G), np.float32)
    explained = np.empty(G)
    for part, error, variance in leave_one_out(gaussian.Z, gaussian.noise, gaussian.ridge):
        standardised = np.where(missing[:, part], np.nan, error / np.sqrt(variance))
        residuals[:, part] = standardised
        predicted[:, part] = gaussian.Z[:, part] - error
        squares += np.nansum(np.minimum(standardised**2, MAX_RESIDUAL**2), axis=1)
        count += (~missing[:, part]).sum(axis=1)
        explained[part] = gaussian.noise[part] - gaussian.noise[part] ** 2 / variance.mean(axis=0)
    residuals /= np.sqrt((PRIOR_FEATURES + squares) / (PRIOR_FEATURES + count))[:, None].astype(np.float32)
    pooled = pooled_residuals(residuals, predicted)
    scores = feature_quantiles(residuals, predicted, pooled)
    return ResidualDistribution(pooled.heights, pooled.quantiles, scores, explained, feature_sd)


class PooledResiduals(NamedTuple):
    """Quantiles of the residuals of all features, in B bins of the transformed prediction."""

    edges: np.ndarray  # (B - 1,) between the bins
    heights: np.ndarray  # (B,) medians of the predictions
    quantiles: np.ndarray  # (10, B)


def pooled_residuals(residuals: np.ndarray, predicted: np.ndarray) -> PooledResiduals:
    """From (n, G) residuals, NaN for missing, over the scales of their rows, and the (n, G) predictions."""
    known = ~np.isnan(residuals)
    n_bins = int(np.clip(known.sum() // RESIDUALS_PER_BIN, 1, RESIDUAL_BINS))
    edges = np.quantile(predicted[known], np.arange(1, n_bins) / n_bins)
    bins = np.searchsorted(edges, predicted)
    heights, pooled = np.empty(n_bins), np.empty((len(RESIDUAL_QUANTILES), n_bins))
    for b in range(n_bins):
        in_bin = known & (bins == b)
        part = residuals[in_bin]
        heights[b] = np.median(predicted[in_bin]) if part.size else edges[b - 1]
        pooled[:, b] = np.quantile(part if part.size else residuals[known], RESIDUAL_QUANTILES)
    return PooledResiduals(edges, heights, pooled)


def feature_quantiles(residuals: np.ndarray, predicted: np.ndarray, pooled: PooledResiduals) -> np.ndarray:
    """(10, G) quantiles of the residuals of each feature, as normal scores under those of all, shrunk towards these."""
    scores = _scores_in_bins(residuals, predicted, pooled.edges, pooled.quantiles, NORMAL_SCORES)
    scores.sort(axis=0)  # NaN come last
    n_known = len(scores) - np.isnan(scores).sum(axis=0)
    places = RESIDUAL_QUANTILES[:, None] * np.maximum(n_known - 1, 0)
    low = np.floor(places).astype(int)
    below, above = (
        np.take_along_axis(scores, at, axis=0) for at in (low, np.minimum(low + 1, np.maximum(n_known - 1, 0)))
    )
    found = np.where(n_known > 0, below + (places - low) * (above - below), NORMAL_SCORES[:, None])
    share = n_known / (n_known + PRIOR_RESIDUALS)
    return np.asarray(found * share + NORMAL_SCORES[:, None] * (1 - share))


@compiled(parallel=True)
def _scores_in_bins(residuals, predicted, edges, quantiles, normal):  # type: ignore[no-untyped-def]
    """(n, G) normal scores of residuals under the (10, B) quantiles of the bins of their predictions."""
    out = np.empty(residuals.shape, np.float32)
    last = len(normal) - 1
    for i in prange(residuals.shape[0]):
        for j in range(residuals.shape[1]):
            value = np.float64(residuals[i, j])
            if np.isnan(value):
                out[i, j] = np.nan
                continue
            b = np.searchsorted(edges, np.float64(predicted[i, j]))
            low = 0
            while low < last - 1 and quantiles[low + 1, b] <= value:
                low += 1
            width = quantiles[low + 1, b] - quantiles[low, b]
            part = (value - quantiles[low, b]) / width if width > 0 else 0.0
            score = normal[low] + min(max(part, 0.0), 1.0) * (normal[low + 1] - normal[low])
            outer = quantiles[last, b] if value > 0 else quantiles[0, b]
            beyond = value / outer if outer != 0 else MAX_RESIDUAL
            out[i, j] = score * min(max(beyond, 1.0), MAX_RESIDUAL)
    return out


# -- tuning on hidden values ------------------------------------------------------------------------------------------
class HiddenValues(NamedTuple):
    """Values hidden in training rows: predictions, truth, standard deviations (transformed), and features."""

    mean: np.ndarray  # (m,), or (k, m) of k predictors
    truth: np.ndarray  # (m,)
    deviation: np.ndarray  # (m,)
    columns: np.ndarray  # (m,) positions


def tune(
    conditional: Conditional,
    residuals: ResidualDistribution,
    marginals: Marginals,
    T: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Conditional, ResidualDistribution]:
    """Fit the weights of the predictors, then the width and the calibration of residuals, on hidden training values.

    The values of T, the (n, G) transformed training rows, are hidden at the rate of missing values in the input (10 %
    if there are hardly any), and each row is predicted from the others. The weights are non-negative least squares of
    the error in the input's unit over the standard deviation of the feature, to first order. The missing values of
    other rows were filled with the help of the hidden values, and are filled again without these. The regressions of
    `relevance` are fitted again for each of `RELEVANCE_FOLDS` parts of the rows, without them, and if there are more
    than `HIDDEN_ENTRIES` entries, values of some features only are hidden. In a small table values are hidden several
    times, others each time.

    ``conditional`` has all predictors, the result only those that are kept, with their weights. Both arguments are
    returned unchanged if too few values could be hidden.
    """
    rate = float(np.isnan(T).mean())
    rate = 0.1 if rate < 0.02 else min(rate, 0.5)
    candidates = np.flatnonzero((~np.isnan(T)).sum(axis=1) > 1)  # one value to hide and one to predict it from
    rows = np.sort(rng.permutation(candidates)[:HIDDEN_ROWS])
    if not len(rows):
        return conditional, residuals
    features = np.arange(T.shape[1])
    if conditional.relevance is not None:
        features = np.sort(rng.permutation(features)[: HIDDEN_ENTRIES // len(rows)])
    needed = HIDDEN_PER_PREDICTOR * len(conditional.predictors)
    expected = max(1.0, rate * float((~np.isnan(T[np.ix_(rows, features)])).sum()))
    parts = []
    for _ in range(min(MAX_ROUNDS, int(np.ceil(1.5 * needed / expected)))):
        parts += _hide_and_predict(conditional, residuals, T, rows, features, rate, rng)
    columns, truth, means, deviation = (np.concatenate(p, axis=-1) for p in zip(*parts, strict=True))
    if len(columns) < needed:
        return conditional, residuals
    values = HiddenValues(means, truth, deviation, columns)
    kept, weights, calibrated = tuned(values, residuals, marginals)
    if not len(kept):
        return conditional, residuals
    predictors = tuple(conditional.predictors[p] for p in kept)
    final = Conditional(conditional.gaussian, predictors, weights, residuals.explained, conditional.relevance)
    return final, calibrated


def tuned(
    values: HiddenValues, residuals: ResidualDistribution, marginals: Marginals
) -> tuple[np.ndarray, np.ndarray, ResidualDistribution]:
    """Positions of the predictors to keep (none if all are useless), their weights, and the calibrated residuals."""
    means, truth, deviation, columns = values
    centre, step = means.mean(axis=0), 0.1
    low, high = marginals.back(np.stack([centre - step, centre + step]), columns)
    importance = np.maximum((high - low) / (2 * step * residuals.feature_sd[columns]), 0.05)
    kept = np.flatnonzero(nnls(means.T * importance[:, None], truth * importance)[0] >= MIN_WEIGHT)
    if not len(kept):
        return kept, np.empty(0), residuals
    weights = nnls(means[kept].T * importance[:, None], truth * importance)[0]
    stacked = HiddenValues(weights @ means[kept], truth, deviation, columns)
    return kept, weights, _with_calibration(_with_width(residuals, marginals, stacked), marginals, stacked)


def _hide_and_predict(
    conditional: Conditional,
    residuals: ResidualDistribution,
    T: np.ndarray,
    rows: np.ndarray,
    features: np.ndarray,
    rate: float,
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Hide a share ``rate`` of the values of ``features`` in ``rows``: for each row their features, the values, the
    predictions by each predictor, (k, m), and their standard deviations.
    """
    gaussian = conditional.gaussian
    hidden = np.zeros(T.shape, bool)
    for i in rows:
        hidden[i, features] = ~np.isnan(T[i, features]) & (rng.random(len(features)) < rate)
    without = replace(gaussian, Z=_filled_without(conditional, T, hidden))
    separate = Conditional(without, conditional.predictors, np.eye(len(conditional.predictors)), residuals.explained)
    fold = rng.permutation(len(T)) % RELEVANCE_FOLDS
    parts = []
    for number in range(RELEVANCE_FOLDS):
        relevance = conditional.relevance
        if relevance is not None:
            others = np.flatnonzero(fold != number)
            known, ridges = ~np.isnan(T[others]), relevance.ridges[features]
            relevance = fit_relevance(without.Z[others], known, gaussian.noise, features=features, ridges=ridges)
        for i in rows[fold[rows] == number]:
            in_row = np.flatnonzero(hidden[i])
            t = T[i].astype(np.float64)
            t[in_row] = np.nan
            prediction = separate.predict(t, int(i))
            deviation = prediction.scale * np.sqrt(prediction.variance[in_row])
            means = np.atleast_2d(prediction.mean)[:, in_row]
            if relevance is not None:
                means[~separate.of_rows] = relevance.predict(prediction.filled, np.searchsorted(features, in_row))
            parts.append((in_row, T[i, in_row].astype(np.float64), means, deviation))
    return parts


def _filled_without(conditional: Conditional, T: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(n, G) training rows whose missing values are filled as if ``hidden`` were not known.

    If the system of a row does not have all rows, a single value has little influence on the other filled values, and
    the rows are returned as they are.
    """
    missing = np.isnan(T)
    if not missing.any() or not conditional.uses_all_rows:
        return conditional.gaussian.Z
    return np.where(missing, refill(conditional.gaussian, missing | hidden), conditional.gaussian.Z)


def _with_width(residuals: ResidualDistribution, marginals: Marginals, values: HiddenValues) -> ResidualDistribution:
    """Set ``width`` and ``mean_shift``, which the value depends on."""
    mean, truth, deviation, columns = values
    quantiles = residuals.standardised(mean, columns)
    outer = np.where(truth > mean, quantiles[-1], quantiles[0])
    needed = (truth - mean) / (deviation * np.where(np.abs(outer) > 1e-3, outer, np.inf))
    residuals = replace(residuals, width=float(np.clip(np.quantile(needed, 0.9), 0.3, 3)))
    unit = residuals.feature_sd[columns]
    predicted, target = marginals.back(np.stack([mean, truth]), columns) / unit
    shift = residuals.uncorrected(marginals, mean, deviation, columns).mean(axis=0) / unit - predicted
    share = float(np.clip(shift @ (target - predicted) / max(shift @ shift, 1e-12), 0, 1))
    return replace(residuals, mean_shift=share)


def _with_calibration(
    residuals: ResidualDistribution, marginals: Marginals, values: HiddenValues
) -> ResidualDistribution:
    """Set the calibration of the quantiles, and the factors on the variances that they then need."""
    mean, truth, deviation, columns = values
    predicted, target = marginals.back(np.stack([mean, truth]), columns)
    scores = scores_of((truth - mean) / (residuals.width * deviation), residuals.ordered(mean, columns))
    out = replace(residuals, calibration=QuantileCalibration.learn(predicted, scores))
    value = residuals.mean(predicted, residuals.uncorrected(marginals, mean, deviation, columns))
    unit = residuals.feature_sd[columns]
    squares = np.square((target - value) / unit)
    quantiles = out.quantiles(marginals, predicted, mean, deviation, columns)
    variance = quantiles.var(axis=0) / unit**2
    weight = 1 / (variance + 0.05)  # errors vary with their variance
    factor, extra = nnls(np.stack([variance, np.ones_like(variance)], axis=1) * weight[:, None], squares * weight)[0]
    out = replace(out, variance_factor=float(factor), extra_variance=float(extra))
    variance = out.variance(predicted, quantiles, columns) / unit**2
    return replace(out, calibration=out.calibration.with_variance(predicted, squares, variance))
