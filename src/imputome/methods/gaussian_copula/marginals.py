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
from numba import prange
from scipy.special import ndtri

from imputome.core.compiled import compiled

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
    def fit(cls, X: np.ndarray, share: float, *, most_knots: int = MAX_KNOTS) -> Marginals:
        """Learn from X, (n, G) with NaN for missing and two distinct values in each column; ``share`` is a."""
        n, G = X.shape
        n_knots = min(most_knots, n)
        x, t, slope = np.empty((n_knots, G), order="F"), np.empty((n_knots, G), order="F"), np.empty(G)
        step = max(1, TRANSFORM_BLOCK_VALUES // n)
        for start in range(0, G, step):
            part = slice(start, min(G, start + step))
            values = np.sort(X[:, part].T, axis=1)  # NaN come last
            count = values.shape[1] - np.isnan(values).sum(axis=1)
            scores = ndtri(_middle_ranks(values, count))
            x[:, part], t[:, part], slope[part] = _knots(values, count, scores, share, n_knots)
        return cls(x, t, slope)

    def forward(self, X: np.ndarray) -> np.ndarray:
        """(m, G) transformed values, float32; outside of the training range t continues like its z-score part.

        It ends `MAX_OUTSIDE` from there: an outlier in one feature would otherwise spoil a whole new row.
        """
        out = np.empty(X.shape, np.float32)
        step = max(1, TRANSFORM_BLOCK_VALUES // X.shape[1])
        for start in range(0, len(X), step):
            out[start : start + step] = self.forward_columns(X[start : start + step], slice(None))
        return out

    def forward_columns(self, X: np.ndarray, columns: slice) -> np.ndarray:
        """The same, of X (m, len(columns)) with the values of some features."""
        first, last = self.x[0, columns], self.x[-1, columns]
        outside = np.maximum(X - last, 0) + np.minimum(X - first, 0)
        outside = np.clip(self.slope[columns] * outside, -MAX_OUTSIDE, MAX_OUTSIDE)
        return np.asarray(interpolate(X, self.x, self.t, columns) + outside, np.float32)

    def back(self, T: np.ndarray, columns: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(m, len(columns)) values in the input's unit, always within the training range of their feature."""
        return interpolate(T, self.t, self.x, columns)

    def back_extended(self, T: np.ndarray, columns: np.ndarray, feature_sd: np.ndarray) -> np.ndarray:
        """As `back`, but continued outside of the training range, by ``feature_sd`` per 1 of t.

        For quantiles: if they ended at the range, a prediction near its end would look too certain.
        """
        outside = np.maximum(T - self.t[-1, columns], 0) + np.minimum(T - self.t[0, columns], 0)
        return self.back(T, columns) + feature_sd * outside


def interpolate(
    values: np.ndarray, at: np.ndarray, to: np.ndarray, columns: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """`numpy.interp` of (m, k) values for each column, with the knots ``columns`` (k of them) of (K, G). NaN stays NaN.

    A table of knots with one column is the same for all.
    """
    positions = np.arange(max(at.shape[1], to.shape[1]))[columns]
    out = np.empty(values.shape)
    _interpolate(np.ascontiguousarray(values), np.asfortranarray(at), np.asfortranarray(to), positions, out)
    return out


# -- compiled ---------------------------------------------------------------------------------------------------------
@compiled(parallel=True)
def _interpolate(values, at, to, columns, out):  # type: ignore[no-untyped-def]
    one_at, one_to = at.shape[1] == 1, to.shape[1] == 1
    for p in prange(values.shape[1]):
        j = columns[p]
        a = 0 if one_at else j
        b = 0 if one_to else j
        for i in range(values.shape[0]):
            value = np.float64(values[i, p])
            low, high = 0, at.shape[0] - 1
            while high - low > 1:
                middle = (low + high) // 2
                if at[middle, a] <= value:
                    low = middle
                else:
                    high = middle
            high = min(low + 1, at.shape[0] - 1)
            width = at[high, a] - at[low, a]
            part = 0.0
            if np.isnan(value):
                part = np.nan
            elif width > 0:
                part = min(max((value - at[low, a]) / width, 0.0), 1.0)
            out[i, p] = to[low, b] + part * (to[high, b] - to[low, b])


@compiled(parallel=True)
def _middle_ranks(values, count):  # type: ignore[no-untyped-def]
    """Ranks in (0, 1) of sorted values, (G, n); tied values (zeros, for example) have the middle of their ranks."""
    out = np.full(values.shape, 0.5)
    for g in prange(values.shape[0]):
        first = 0
        for i in range(1, count[g] + 1):
            if i == count[g] or values[g, i] != values[g, first]:
                out[g, first:i] = (first + i) / (2 * count[g])
                first = i
    return out


@compiled(parallel=True)
def _knots(values, count, scores, share, n_knots):  # type: ignore[no-untyped-def]
    """The knots x and t, (n_knots, G), and slopes of features with these sorted values, (G, n), and normal scores."""
    G, n = values.shape
    x, t, slope = np.empty((n_knots, G)), np.empty((n_knots, G)), np.empty(G)
    for g in prange(G):
        size = count[g]
        mean, sd, norm = 0.0, 0.0, 0.0
        distinct = np.empty(n, np.int64)  # where each distinct value begins
        number = 0
        for i in range(size):
            mean += np.float64(values[g, i])
            norm += scores[g, i] ** 2
            if i == 0 or values[g, i] != values[g, i - 1]:
                distinct[number] = i
                number += 1
        mean /= size
        for i in range(size):
            sd += (np.float64(values[g, i]) - mean) ** 2
        sd = np.sqrt(sd / size)
        norm = np.sqrt(norm / size) if norm > 0 else 1.0
        kept = min(number, n_knots)
        for k in range(kept):
            place = k
            if number > n_knots:
                place = number - 1 if k == kept - 1 else int(np.rint(k * ((number - 1) / (n_knots - 1))))
            i = distinct[place]
            value = np.float64(values[g, i])
            x[k, g] = value
            t[k, g] = share * scores[g, i] / norm + (1 - share) * (value - mean) / sd
        transformed = np.empty(size)
        k = 0
        for i in range(size):
            value = np.float64(values[g, i])
            while k < kept - 2 and x[k + 1, g] <= value:
                k += 1
            part = (value - x[k, g]) / (x[k + 1, g] - x[k, g])
            transformed[i] = t[k, g] + part * (t[k + 1, g] - t[k, g])
        centre = transformed.mean()
        scale = transformed.std()
        for k in range(n_knots):
            from_knot = min(k, kept - 1)
            x[k, g] = x[from_knot, g]
            if k < kept:
                t[k, g] = (t[k, g] - centre) / scale
            else:
                t[k, g] = t[from_knot, g]
        slope[g] = (1 - share) / (sd * scale)
    return x, t, slope
