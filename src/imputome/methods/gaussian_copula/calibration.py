"""Weights of the members, and residual quantiles: from training rows alone, with values hidden as in the input."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls
from scipy.special import ndtri

from imputome.methods.gaussian_copula.conditional import PRIOR, SURPRISE, Conditional
from imputome.methods.gaussian_copula.marginals import Marginals, interpolate
from imputome.methods.gaussian_copula.noise import Gaussian, leave_one_out, refill

LEVELS = (np.arange(10) + 0.5) / 10  # of all quantiles: 5 % to 95 %
NORMAL = ndtri(LEVELS)
FAR = 4.0  # times the outer scores: scores beyond it count as it
LEVEL_BINS = 10  # of the predicted values
PER_LEVEL_BIN = 200  # hidden values that a bin needs
LEVEL_SHRINK = 50.0  # hidden values that those of all bins count for in each
STEEPEST = 0.1  # least reach of the outer quantiles, as a share of what lies between them


@dataclass(frozen=True)
class Levels:
    """Normal scores to take in place of nominal ones.

    Attributes
    ----------
    at : (B,) predictions transformed back to the input's unit, increasing.
    instead : (10, B) scores that stand for `NORMAL` there, increasing.
    spread : (B,) factor there on the variance, which large errors beyond the outer quantiles have a part in.
    """

    at: np.ndarray
    instead: np.ndarray
    spread: np.ndarray

    @classmethod
    def nominal(cls) -> Levels:
        """Scores as they are."""
        return cls(np.zeros(1), NORMAL[:, None].copy(), np.ones(1))

    @classmethod
    def learn(cls, plain: np.ndarray, scores: np.ndarray) -> Levels:
        """From (k,) hidden values: their predictions, and the scores of the truth under the quantiles predicted.

        Every bin of predictions, equally filled, has the quantiles of its scores, drawn to those of all scores.
        """
        every = np.quantile(scores, LEVELS)
        at, instead = [], []
        for mine in _bins(plain):
            share = mine.sum() / (mine.sum() + LEVEL_SHRINK)
            at.append(np.median(plain[mine]))
            instead.append(share * np.quantile(scores[mine], LEVELS) + (1 - share) * every)
        return cls(np.array(at), np.array(instead).T, np.ones(len(at)))

    def spread_for(self, plain: np.ndarray, squares: np.ndarray, variance: np.ndarray) -> Levels:
        """With the factors that (k,) variances need for the squared errors of the hidden values learned from."""
        spread = []
        for mine in _bins(plain):
            share = mine.sum() / (mine.sum() + LEVEL_SHRINK)
            spread.append(share * squares[mine].sum() / max(variance[mine].sum(), 1e-12) + 1 - share)
        return replace(self, spread=np.array(spread))

    def scores(self, nominal: np.ndarray, plain: np.ndarray) -> np.ndarray:
        """(k, m) scores for ``nominal``, (k, m), where the predictions are ``plain``, (m,)."""
        curves = np.stack([np.interp(plain, self.at, level) for level in self.instead])
        return stretch(nominal, curves)


def _bins(plain: np.ndarray) -> list[np.ndarray]:
    """Masks over (k,) predictions, of equally many in order; fewer where one prediction is that of many."""
    bins = int(np.clip(len(plain) // PER_LEVEL_BIN, 1, LEVEL_BINS))
    edges = np.unique(np.quantile(plain, np.arange(1, bins) / bins))
    where = np.searchsorted(edges, plain)
    return [where == b for b in np.unique(where)]


def stretch(scores: np.ndarray, fan: np.ndarray) -> np.ndarray:
    """(k, m) residuals at (k, m) normal scores, of which ``fan``, (10, m), has those at `NORMAL`.

    Beyond the outer quantiles residuals go on in proportion to the score.
    """
    inner = interpolate(scores, np.broadcast_to(NORMAL[:, None], fan.shape), fan)
    low, high = _reach(fan)
    beyond = np.maximum(scores / NORMAL[-1] - 1, 0) * high + np.minimum(scores / NORMAL[-1] + 1, 0) * low
    return np.asarray(inner + beyond)


def scores_under(residuals: np.ndarray, fan: np.ndarray) -> np.ndarray:
    """(m,) normal scores of (m,) residuals: the inverse of `stretch`, cut off at `FAR` times the outer scores."""
    inner = interpolate(residuals[None], fan, np.broadcast_to(NORMAL[:, None], fan.shape))[0]
    low, high = _reach(fan)
    above, below = np.maximum(residuals - fan[-1], 0) / high, np.minimum(residuals - fan[0], 0) / low
    return np.asarray(inner + NORMAL[-1] * np.clip(above + below, 1 - FAR, FAR - 1))


def _reach(fan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) how far the outer quantiles reach down and up: it may be nothing, or less, where all lie on one side."""
    least = np.maximum(STEEPEST * (fan[-1] - fan[0]), 1e-6)
    return np.maximum(-fan[0], least), np.maximum(fan[-1], least)


BINS = 12  # of the height of predictions
PER_BIN = 200  # residuals that a bin needs
TUNING_ROWS = 120
LEAST = 0.03  # members with a smaller weight are left out
ENOUGH = 50  # hidden entries per member that weights need
SHRINK = 20.0  # residuals that the pooled quantiles count for in those of a feature


@dataclass(frozen=True)
class Residuals:
    """How far truth lies from prediction.

    A residual over its standard deviation has quantiles that depend on how high the prediction is, the same for all
    features, and on the feature: the latter are kept as normal scores under the former.

    Attributes
    ----------
    heights : (B,) predictions on the transformed scale, increasing.
    pooled : (10, B) residual quantiles there, at `LEVELS`, over all features.
    scores : (10, G) quantiles of each feature's residuals, as normal scores under ``pooled``.
    explained : (G,) variance of each feature that the others explain, z_j' (K + c I)^-1 z_j.
    unit : (G,) standard deviation of each feature in the input's unit.
    width : factor on residuals with which 90 % of the hidden entries lie between the outer two quantiles.
    spread, least : variances are ``spread`` times that of the quantiles, plus ``least`` times ``unit`` squared.
    bend : share of the way from the prediction transformed back to the mean of the quantiles at which the mean is put.
    levels : of which scores the quantiles are given, by the prediction transformed back. The value is not: it is of
        the quantiles as they come.
    """

    heights: np.ndarray
    pooled: np.ndarray
    scores: np.ndarray
    explained: np.ndarray
    unit: np.ndarray
    width: float = 1.0
    spread: float = 1.0
    least: float = 0.0
    bend: float = 1.0
    levels: Levels = field(default_factory=Levels.nominal)

    def residual(self, scores: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """(k, m) standardised residuals of normal scores (k, m), where the predictions are ``mean``, (m,)."""
        curves = np.stack([np.interp(mean, self.heights, level) for level in self.pooled])
        inner = interpolate(scores, np.broadcast_to(NORMAL[:, None], curves.shape), curves)
        # beyond the outer quantiles, in proportion to the score
        return inner * np.maximum(np.abs(scores) / NORMAL[-1], 1)

    def fan(self, mean: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(10, m) residual quantiles of the features ``columns``, before ``levels``."""
        return np.maximum.accumulate(self.residual(self.scores[:, columns], mean), axis=0)

    def values(self, marginals: Marginals, mean: np.ndarray, deviation: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(10, m) quantiles that the value is of, in the input's unit, from (m,) transformed predictions."""
        residual = self.residual(self.scores[:, columns], mean)
        return marginals.beyond(mean + self.width * deviation * residual, columns, self.unit[columns])

    def quantiles(
        self, marginals: Marginals, plain: np.ndarray, mean: np.ndarray, deviation: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """(10, m) quantiles of the truth in the input's unit; ``plain`` are the predictions transformed back."""
        scores = self.levels.scores(np.broadcast_to(NORMAL[:, None], (len(NORMAL), len(mean))), plain)
        residual = stretch(scores, self.fan(mean, columns))
        return marginals.beyond(mean + self.width * deviation * residual, columns, self.unit[columns])

    def mean(self, plain: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """(m,) means in the input's unit, from ``values`` and the predictions transformed back."""
        return np.asarray(plain + self.bend * (levels.mean(axis=0) - plain))

    def variance(self, plain: np.ndarray, quantiles: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(m,) in the input's unit squared, from ``quantiles`` and the predictions transformed back."""
        everywhere = self.spread * quantiles.var(axis=0) + self.least * self.unit[columns] ** 2
        return np.asarray(np.interp(plain, self.levels.at, self.levels.spread) * everywhere)


def leave_one_out_loss(gaussian: Gaussian, marginals: Marginals, T: np.ndarray, unit: np.ndarray) -> float:
    """Mean squared leave-one-out error of the observed values in the input's unit over ``unit``, (G,)."""
    total, count = 0.0, 0
    for part, error, _ in leave_one_out(gaussian.Z, gaussian.noise, gaussian.ridge):
        known = ~np.isnan(T[:, part])
        gap = (marginals.back(T[:, part] - error, part) - marginals.back(T[:, part], part)) / unit[part]
        total += float(np.square(gap[known]).sum())
        count += int(known.sum())
    return total / count


def leave_one_out_residuals(gaussian: Gaussian, missing: np.ndarray, unit: np.ndarray) -> Residuals:
    """Quantiles of the Gaussian's leave-one-out residuals, each row's over its own scale, as for new rows.

    Parameters
    ----------
    missing : (n, G) which values were filled, and say nothing here.
    unit : (G,) standard deviations in the input's unit.
    """
    n, G = gaussian.Z.shape
    total, count = np.zeros(n), np.zeros(n)
    standardised = np.full((n, G), np.nan, np.float32)
    predicted = np.empty((n, G), np.float32)
    explained = np.empty(G)
    for part, error, variance in leave_one_out(gaussian.Z, gaussian.noise, gaussian.ridge):
        here = np.where(missing[:, part], np.nan, error / np.sqrt(variance))
        standardised[:, part] = here
        predicted[:, part] = gaussian.Z[:, part] - error
        total += np.nansum(np.minimum(here**2, SURPRISE**2), axis=1)
        count += (~missing[:, part]).sum(axis=1)
        explained[part] = gaussian.noise[part] - gaussian.noise[part] ** 2 / variance.mean(axis=0)
    standardised /= np.sqrt((PRIOR + total) / (PRIOR + count))[:, None].astype(np.float32)
    known = ~np.isnan(standardised)
    bins = int(np.clip(known.sum() // PER_BIN, 1, BINS))
    edges = np.quantile(predicted[known], np.arange(1, bins) / bins)
    scores = np.full((n, G), np.nan, np.float32)
    heights, pooled = np.empty(bins), np.empty((len(LEVELS), bins))
    where = np.searchsorted(edges, predicted)
    for b in range(bins):
        mine = known & (where == b)
        heights[b] = np.median(predicted[mine]) if mine.any() else edges[b - 1]
        pooled[:, b] = np.quantile(standardised[mine] if mine.any() else standardised[known], LEVELS)
        far = np.where(standardised[mine] > 0, standardised[mine] / pooled[-1, b], standardised[mine] / pooled[0, b])
        inner = np.interp(standardised[mine], pooled[:, b], NORMAL)
        scores[mine] = inner * np.clip(far, 1, SURPRISE)
    every = known.sum(axis=0)
    own = np.tile(NORMAL[:, None], (1, G))
    own[:, every > 0] = np.nanquantile(scores[:, every > 0], LEVELS, axis=0)
    share = every / (every + SHRINK)
    return Residuals(heights, pooled, own * share + NORMAL[:, None] * (1 - share), explained, unit)


def tune(
    conditional: Conditional,
    residuals: Residuals,
    marginals: Marginals,
    T: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Conditional, Residuals]:
    """The members' weights, then the width, levels and spread of the residuals, on values hidden in training rows.

    The values are hidden at the input's own rate of missing ones (10 % where there are hardly any), and the row is left
    out of its own system. The weights are non-negative least squares of the error in the input's unit over the
    feature's standard deviation, to first order. Other rows' missing values were filled by what is hidden here: for
    levels and spread they are filled without.

    Parameters
    ----------
    T : (n, G) transformed training rows, NaN for missing.
    """
    rate = float(np.isnan(T).mean())
    rate = 0.1 if rate < 0.02 else min(rate, 0.5)
    seen = np.flatnonzero((~np.isnan(T)).sum(axis=1) > 1)
    rows = np.sort(rng.permutation(seen)[:TUNING_ROWS])
    if not len(rows):  # no row has two known values, one to hide and one to predict it from
        return conditional, residuals
    apart = Conditional(
        conditional.gaussian, conditional.members, np.eye(len(conditional.members)), residuals.explained
    )
    hidden = np.zeros(T.shape, bool)
    for i in rows:
        hidden[i] = ~np.isnan(T[i]) & (rng.random(T.shape[1]) < rate)
    unaware = _filled_without(conditional, T, hidden)
    places, truths, guesses, honest, deviations = [], [], [], [], []
    for i in rows:
        columns = np.flatnonzero(hidden[i])
        t = T[i].astype(np.float64)
        t[columns] = np.nan
        found = apart.predict(t, own=int(i))
        places.append(columns)
        truths.append(T[i, columns].astype(np.float64))
        guesses.append(np.atleast_2d(found.mean)[:, columns])
        honest.append(np.atleast_2d(found.shares) @ unaware[np.ix_(found.rows, columns)])
        deviations.append(found.scale * np.sqrt(found.variance[columns]))
    place, truth, guess, fair, deviation = (
        np.concatenate(p, axis=-1) for p in (places, truths, guesses, honest, deviations)
    )
    if len(place) < ENOUGH * len(conditional.members):
        return conditional, residuals
    middle, step = guess.mean(axis=0), 0.1
    low, high = marginals.back(np.stack([middle - step, middle + step]), place)
    slope = high - low
    importance = np.maximum(slope / (2 * step * residuals.unit[place]), 0.05)
    weights = nnls(guess.T * importance[:, None], truth * importance)[0]
    kept = weights >= LEAST
    if not kept.any():
        return conditional, residuals
    members = tuple(member for member, keep in zip(conditional.members, kept, strict=True) if keep)
    final = Conditional(
        conditional.gaussian,
        members,
        nnls(guess[kept].T * importance[:, None], truth * importance)[0],
        residuals.explained,
    )
    held = _Held(final.weights @ guess[kept], truth, deviation, place)
    calibrated = _calibrated(residuals, marginals, held)
    return final, _levelled(calibrated, marginals, held._replace(mean=final.weights @ fair[kept]))


class _Held(NamedTuple):
    """Values that were hidden, (m,) each: what was predicted, what they are, and the features they are of."""

    mean: np.ndarray
    truth: np.ndarray
    deviation: np.ndarray
    place: np.ndarray


def _filled_without(conditional: Conditional, T: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(n, G) training rows, their missing values filled as if ``hidden`` were not known.

    Where a row's system does not hold all rows, one value hardly tells in the fill of others: they stay as they are.
    """
    gap = np.isnan(T)
    if not gap.any() or not conditional.small:
        return conditional.gaussian.Z
    return np.where(gap, refill(conditional.gaussian, gap | hidden), conditional.gaussian.Z)


def _calibrated(residuals: Residuals, marginals: Marginals, held: _Held) -> Residuals:
    """With the width and bend that the value is made with."""
    mean, truth, deviation, place = held
    residual = residuals.residual(residuals.scores[:, place], mean)
    outer = np.where(truth > mean, residual[-1], residual[0])
    reach = (truth - mean) / (deviation * np.where(np.abs(outer) > 1e-3, outer, np.inf))
    out = replace(residuals, width=float(np.clip(np.quantile(reach, 0.9), 0.3, 3)))
    unit = residuals.unit[place]
    plain, goal = marginals.back(np.stack([mean, truth]), place) / unit
    moved = out.values(marginals, mean, deviation, place).mean(axis=0) / unit - plain
    bend = float(np.clip(moved @ (goal - plain) / max(moved @ moved, 1e-12), 0, 1))
    return replace(out, bend=bend)


def _levelled(residuals: Residuals, marginals: Marginals, held: _Held) -> Residuals:
    """With the levels at which the truth lies, and the spread that variances then have."""
    mean, truth, deviation, place = held
    plain, goal = marginals.back(np.stack([mean, truth]), place)
    scores = scores_under((truth - mean) / (residuals.width * deviation), residuals.fan(mean, place))
    out = replace(residuals, levels=Levels.learn(plain, scores))
    value = residuals.mean(plain, residuals.values(marginals, mean, deviation, place))
    unit = residuals.unit[place]
    squares = np.square((goal - value) / unit)
    quantiles = out.quantiles(marginals, plain, mean, deviation, place)
    variance = quantiles.var(axis=0) / unit**2
    weight = 1 / (variance + 0.05)  # errors vary with their variance
    spread, least = nnls(np.stack([variance, np.ones_like(variance)], axis=1) * weight[:, None], squares * weight)[0]
    out = replace(out, spread=float(spread), least=float(least))
    found = out.variance(plain, quantiles, place) / unit**2
    return replace(out, levels=out.levels.spread_for(plain, squares, found))
