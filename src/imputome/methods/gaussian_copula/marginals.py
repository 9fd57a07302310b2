"""Per-feature transforms t(x): a part normal score, a part z-score, with an exact inverse within the training range.

t(x) = a phi(x) + (1 - a) z(x), centred and scaled to unit variance, where phi is the normal score of the rank and z the
standard score. With a = 0 nothing is bent, with a = 1 every feature becomes normal (a Gaussian copula); between the two
outliers lose their grip on the fit and the error on the input's own scale still counts. phi is linear between knots
(distinct training values), hence so is t, and its inverse needs no search beyond the knots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

KNOTS = 101  # most distinct values of a feature that are kept
_PIECE = 2**20  # entries transformed at a time


@dataclass(frozen=True)
class Marginals:
    """The transforms of G features that vary.

    Attributes
    ----------
    x, t : (K, G) knots in the input's unit and transformed; increasing, the last one repeated to fill the table.
    slope : (G,) dt/dx outside of the knots.
    """

    x: np.ndarray
    t: np.ndarray
    slope: np.ndarray

    @classmethod
    def fit(cls, X: np.ndarray, share: float) -> Marginals:
        """Knots of the columns of X, (n, G) with NaN for missing and two distinct values in each; a = ``share``."""
        G = X.shape[1]
        count = min(KNOTS, len(X))
        x, t, slope = np.empty((count, G)), np.empty((count, G)), np.empty(G)
        for j in range(G):
            known = np.sort(X[:, j][~np.isnan(X[:, j])]).astype(np.float64)
            values, ties = np.unique(known, return_counts=True)
            ends = np.cumsum(ties)
            # the score of tied values (zeros, say) is that of the middle of their ranks
            scores = ndtri((ends - ties / 2) / len(known))
            scores /= np.sqrt(np.average(scores**2, weights=ties)) or 1.0
            place = np.arange(len(values))
            if len(values) > count:
                place = np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))
            mean, spread = known.mean(), known.std()
            bent = share * scores[place] + (1 - share) * (values[place] - mean) / spread
            every = np.interp(known, values[place], bent)
            centre, scale = every.mean(), every.std()
            here = np.minimum(np.arange(count), len(place) - 1)
            x[:, j], t[:, j] = values[place][here], ((bent - centre) / scale)[here]
            slope[j] = (1 - share) / (spread * scale)
        return cls(x, t, slope)

    def forward(self, X: np.ndarray) -> np.ndarray:
        """(m, G) values transformed, float32; beyond the training range t goes on as its z-score part does."""
        out = np.empty(X.shape, np.float32)
        step = max(1, _PIECE // X.shape[1])
        for start in range(0, len(X), step):
            block = X[start : start + step]
            beyond = np.maximum(block - self.x[-1], 0) + np.minimum(block - self.x[0], 0)
            out[start : start + step] = interpolate(block, self.x, self.t) + self.slope * beyond
        return out

    def back(self, T: np.ndarray, columns: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(m, len(columns)) values in the input's unit; never outside of the training range of their feature."""
        return interpolate(T, self.t[:, columns], self.x[:, columns])

    def beyond(self, T: np.ndarray, columns: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """`back`, but going on beyond the training range, by ``unit`` (the feature's standard deviation) per 1 of t.

        For quantiles: cut off at the range, they would make a prediction near its end look certain.
        """
        outside = np.maximum(T - self.t[-1, columns], 0) + np.minimum(T - self.t[0, columns], 0)
        return self.back(T, columns) + unit * outside


def interpolate(values: np.ndarray, at: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Each column's own `numpy.interp`: ``values`` (m, G), knots ``at`` (K, G) not decreasing, ``to`` (K, G).

    One bisection for all columns; NaN stays NaN.
    """
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
