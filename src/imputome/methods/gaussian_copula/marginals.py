"""Transforms t(x) of each feature: partly a normal score, partly a z-score, with an exact inverse.

t(x) = a phi(x) + (1 - a) z(x), centred and scaled to unit variance, where phi is the normal score of the rank and z the
standard score. With a = 0 the transform is linear; with a = 1 every feature becomes normal (a Gaussian copula). Between
the two, outliers have less influence on the fit, and errors on the input's own scale still count. phi is linear between
knots (distinct training values), hence so is t, and its inverse is a linear interpolation too.

Letters: n rows, G features that vary, K knots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

MAX_KNOTS = 101  # distinct values that are kept per feature
MAX_OUTSIDE = 2.0  # transformed values end this far outside of the training range
TRANSFORM_BLOCK_VALUES = 2**20  # entries transformed at a time


@dataclass(frozen=True)
class Marginals:
    """The transforms of G features that vary."""

    x: np.ndarray  # (K, G) knots in the input's unit, increasing; the last one is repeated to fill the table
    t: np.ndarray  # (K, G) the same knots transformed
    slope: np.ndarray  # (G,) dt/dx outside of the knots

    @classmethod
    def fit(cls, X: np.ndarray, share: float) -> Marginals:
        """Learn from X, (n, G) with NaN for missing and two distinct values in each column; ``share`` is a."""
        G = X.shape[1]
        n_knots = min(MAX_KNOTS, len(X))
        x, t, slope = np.empty((n_knots, G)), np.empty((n_knots, G)), np.empty(G)
        for j in range(G):
            known = np.sort(X[:, j][~np.isnan(X[:, j])]).astype(np.float64)
            values, ties = np.unique(known, return_counts=True)
            ends = np.cumsum(ties)
            # tied values (zeros, for example) get the score of the middle of their ranks
            scores = ndtri((ends - ties / 2) / len(known))
            scores /= np.sqrt(np.average(scores**2, weights=ties)) or 1.0
            kept = np.arange(len(values))
            if len(values) > n_knots:
                kept = np.unique(np.linspace(0, len(values) - 1, n_knots).round().astype(int))
            mean, sd = known.mean(), known.std()
            mixed = share * scores[kept] + (1 - share) * (values[kept] - mean) / sd
            transformed = np.interp(known, values[kept], mixed)
            centre, scale = transformed.mean(), transformed.std()
            filled = np.minimum(np.arange(n_knots), len(kept) - 1)
            x[:, j], t[:, j] = values[kept][filled], ((mixed - centre) / scale)[filled]
            slope[j] = (1 - share) / (sd * scale)
        return cls(x, t, slope)

    def forward(self, X: np.ndarray) -> np.ndarray:
        """(m, G) transformed values, float32; outside of the training range t continues like its z-score part.

        It ends `MAX_OUTSIDE` from there: an outlier in one feature would otherwise spoil a whole new row.
        """
        out = np.empty(X.shape, np.float32)
        step = max(1, TRANSFORM_BLOCK_VALUES // X.shape[1])
        for start in range(0, len(X), step):
            block = X[start : start + step]
            outside = np.maximum(block - self.x[-1], 0) + np.minimum(block - self.x[0], 0)
            outside = np.clip(self.slope * outside, -MAX_OUTSIDE, MAX_OUTSIDE)
            out[start : start + step] = interpolate(block, self.x, self.t) + outside
        return out

    def back(self, T: np.ndarray, columns: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(m, len(columns)) values in the input's unit, always within the training range of their feature."""
        return interpolate(T, self.t[:, columns], self.x[:, columns])

    def back_extended(self, T: np.ndarray, columns: np.ndarray, feature_sd: np.ndarray) -> np.ndarray:
        """As `back`, but continued outside of the training range, by ``feature_sd`` per 1 of t.

        For quantiles: if they ended at the range, a prediction near its end would look too certain.
        """
        outside = np.maximum(T - self.t[-1, columns], 0) + np.minimum(T - self.t[0, columns], 0)
        return self.back(T, columns) + feature_sd * outside


def interpolate(values: np.ndarray, at: np.ndarray, to: np.ndarray) -> np.ndarray:
    """`numpy.interp` of (m, G) values for each column, with (K, G) knots; one bisection for all. NaN stays NaN."""
    columns = np.arange(at.shape[1])
    low = np.zeros(values.shape, np.intp)
    high = np.full(values.shape, len(at) - 1)
    for _ in range(int(np.ceil(np.log2(max(2, len(at)))))):
        middle = (low + high) // 2
        right = at[middle, columns] <= values
        low, high = np.where(right, middle, low), np.where(right, high, np.maximum(middle, low))
    high = np.minimum(low + 1, len(at) - 1)
    left, width = at[low, columns], at[high, columns] - at[low, columns]
    part = np.divide(values - left, width, out=np.where(np.isnan(values), np.nan, 0.0), where=width > 0)
    return to[low, columns] + np.clip(part, 0, 1) * (to[high, columns] - to[low, columns])
