"""Levels: at which normal scores of what was predicted the truth's quantiles really lie, by how high a value is.

How far truth lies from a prediction is learned per feature and per height on the transformed scale, mostly from one of
the members. On the input's own scale what is left shows: values near 0 of a share, or between the two modes of a
feature, are predicted with another error than their transforms let expect. Where values hidden in training rows lie in
the quantiles predicted for them says so, and how to take the quantiles instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from imputome.methods.gaussian_copula.marginals import interpolate

LEVELS = (np.arange(10) + 0.5) / 10  # of all quantiles: 5 % to 95 %
NORMAL = ndtri(LEVELS)
FAR = 4.0  # times the outer scores: scores beyond it count as it
BINS = 10  # of the predicted values
PER_BIN = 200  # hidden values that a bin needs
SHRINK = 50.0  # hidden values that those of all bins count for in each
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
            share = mine.sum() / (mine.sum() + SHRINK)
            at.append(np.median(plain[mine]))
            instead.append(share * np.quantile(scores[mine], LEVELS) + (1 - share) * every)
        return cls(np.array(at), np.array(instead).T, np.ones(len(at)))

    def spread_for(self, plain: np.ndarray, squares: np.ndarray, variance: np.ndarray) -> Levels:
        """With the factors that (k,) variances need for the squared errors of the hidden values learned from."""
        spread = []
        for mine in _bins(plain):
            share = mine.sum() / (mine.sum() + SHRINK)
            spread.append(share * squares[mine].sum() / max(variance[mine].sum(), 1e-12) + 1 - share)
        return replace(self, spread=np.array(spread))

    def scores(self, nominal: np.ndarray, plain: np.ndarray) -> np.ndarray:
        """(k, m) scores for ``nominal``, (k, m), where the predictions are ``plain``, (m,)."""
        curves = np.stack([np.interp(plain, self.at, level) for level in self.instead])
        return stretch(nominal, curves)


def _bins(plain: np.ndarray) -> list[np.ndarray]:
    """Masks over (k,) predictions, of equally many in order; fewer where one prediction is that of many."""
    bins = int(np.clip(len(plain) // PER_BIN, 1, BINS))
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
