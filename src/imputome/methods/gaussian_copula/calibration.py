"""Weights of the members, and residual quantiles: from training rows alone, with values hidden as in the input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from imputome.methods.gaussian_copula.conditional import PRIOR, Conditional
from imputome.methods.gaussian_copula.marginals import Marginals
from imputome.methods.gaussian_copula.noise import Gaussian, leave_one_out

LEVELS = (np.arange(10) + 0.5) / 10  # of the residual quantiles: 5 % to 95 %
TUNING_ROWS = 120
LEAST = 0.03  # members with a smaller weight are left out
ENOUGH = 50  # hidden entries per member that weights need
SHRINK = 20.0  # residuals that the pooled quantiles count for in those of a feature


@dataclass(frozen=True)
class Residuals:
    """How far truth lies from prediction.

    Attributes
    ----------
    quantiles : (10, G) of the residuals over their standard deviations, at `LEVELS`.
    explained : (G,) variance of each feature that the others explain, z_j' (K + c I)^-1 z_j.
    width : factor on ``quantiles`` with which 90 % of the hidden entries lie within the outer two.
    spread : factor on variances with which they agree with squared errors, in the input's unit.
    """

    quantiles: np.ndarray
    explained: np.ndarray
    width: float = 1.0
    spread: float = 1.0

    def values(self, marginals: Marginals, mean: np.ndarray, deviation: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(10, len(columns)) quantiles of the truth in the input's unit, from transformed predictions of the columns."""
        return marginals.back(mean + self.width * deviation * self.quantiles[:, columns], columns)


def leave_one_out_loss(gaussian: Gaussian, marginals: Marginals, T: np.ndarray, unit: np.ndarray) -> float:
    """Mean squared leave-one-out error of the observed values in the input's unit over ``unit``, (G,)."""
    total, count = 0.0, 0
    for part, error, _ in leave_one_out(gaussian.Z, gaussian.noise, gaussian.ridge):
        known = ~np.isnan(T[:, part])
        gap = (marginals.back(T[:, part] - error, part) - marginals.back(T[:, part], part)) / unit[part]
        total += float(np.square(gap[known]).sum())
        count += int(known.sum())
    return total / count


def leave_one_out_residuals(gaussian: Gaussian, missing: np.ndarray) -> Residuals:
    """Quantiles of the Gaussian's leave-one-out residuals, each row's over its own scale, as for new rows."""
    n, G = gaussian.Z.shape
    total, count = np.zeros(n), np.zeros(n)
    standardised = np.full((n, G), np.nan, np.float32)
    explained = np.empty(G)
    for part, error, variance in leave_one_out(gaussian.Z, gaussian.noise, gaussian.ridge):
        here = np.where(missing[:, part], np.nan, error / np.sqrt(variance))
        standardised[:, part] = here
        total += np.nansum(np.minimum(here**2, 16.0), axis=1)
        count += (~missing[:, part]).sum(axis=1)
        explained[part] = gaussian.noise[part] - gaussian.noise[part] ** 2 / variance.mean(axis=0)
    standardised /= np.sqrt((PRIOR + total) / (PRIOR + count))[:, None].astype(np.float32)
    pooled = np.nanquantile(standardised[:, :: max(1, G // 500)], LEVELS)
    own = np.nanquantile(standardised, LEVELS, axis=0)
    known = (~missing).sum(axis=0)
    share = known / (known + SHRINK)
    return Residuals(own * share + pooled[:, None] * (1 - share), explained)


def tune(
    conditional: Conditional,
    residuals: Residuals,
    marginals: Marginals,
    T: np.ndarray,
    unit: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Conditional, Residuals]:
    """The members' weights, then the width and spread of the residuals, on values hidden in some training rows.

    The values are hidden at the input's own rate of missing ones (10 % where there are hardly any), and the row is left
    out of its own system. The weights are non-negative least squares of the error in the input's unit over ``unit``, to
    first order.

    Parameters
    ----------
    T : (n, G) transformed training rows, NaN for missing.
    unit : (G,) standard deviations in the input's unit.
    """
    rate = float(np.isnan(T).mean())
    rate = 0.1 if rate < 0.02 else min(rate, 0.5)
    seen = np.flatnonzero((~np.isnan(T)).sum(axis=1) > 1)
    rows = np.sort(rng.permutation(seen)[:TUNING_ROWS])
    apart = Conditional(
        conditional.gaussian, conditional.members, np.eye(len(conditional.members)), residuals.explained
    )
    columns, truths, guesses, deviations = [], [], [], []
    for i in rows:
        hidden = np.flatnonzero(~np.isnan(T[i]) & (rng.random(T.shape[1]) < rate))
        t = T[i].astype(np.float64)
        t[hidden] = np.nan
        found = apart.predict(t, own=int(i))
        columns.append(hidden)
        truths.append(T[i, hidden].astype(np.float64))
        guesses.append(np.atleast_2d(found.mean)[:, hidden])
        deviations.append(found.scale * np.sqrt(found.variance[hidden]))
    place, truth, guess, deviation = (np.concatenate(p, axis=-1) for p in (columns, truths, guesses, deviations))
    if len(place) < ENOUGH * len(conditional.members):
        return conditional, residuals
    middle, step = guess.mean(axis=0), 0.1
    slope = marginals.at(middle + step, place) - marginals.at(middle - step, place)
    importance = np.maximum(slope / (2 * step * unit[place]), 0.05)
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
    return final, _calibrated(residuals, marginals, final.weights @ guess[kept], truth, deviation, place)


def _calibrated(
    residuals: Residuals,
    marginals: Marginals,
    mean: np.ndarray,
    truth: np.ndarray,
    deviation: np.ndarray,
    place: np.ndarray,
) -> Residuals:
    outer = np.where(truth > mean, residuals.quantiles[-1, place], residuals.quantiles[0, place])
    reach = (truth - mean) / (deviation * np.where(np.abs(outer) > 1e-3, outer, np.inf))
    width = float(np.clip(np.quantile(reach, 0.9), 0.3, 3))
    fan = np.stack([marginals.at(mean + width * deviation * q[place], place) for q in residuals.quantiles])
    variance = fan.var(axis=0)
    error = marginals.at(truth, place) - fan.mean(axis=0)
    known = variance > 1e-12 * variance.max()
    spread = float(np.clip(np.mean(error[known] ** 2 / variance[known]), 0.5, 3)) if known.any() else 1.0
    return Residuals(residuals.quantiles, residuals.explained, width, spread)
