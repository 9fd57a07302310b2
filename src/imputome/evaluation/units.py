"""Errors of real values in a unit that all features share.

Letters: ``n`` samples, ``G`` features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imputome.core.data import Data
from imputome.core.links import link

LEAST = 3  # known values that say how much a feature varies
CONSTANT = 1e-6  # SD over mean up to which a feature is constant


class Units:
    """z-scores by the training rows: mean and standard deviation (divisor: number of known values) of each feature.

    With ``hidden``, the features and values of hidden entries, these count too. A feature flat but for a few far
    values, all of them hidden, would else have a tiny unit and decide every sum by itself. All methods are measured in
    the same unit, and none sees it.

    A feature with fewer than 3 known training values, or whose standard deviation is rounding (under 1e-6 of its mean),
    keeps its unit, which is nobody's: it is not ``usable`` for errors that are summed over features. ``link_name`` is a
    link (`imputome.core.links`) that values are put on first: of heavy-tailed values a few would else decide.
    """

    def __init__(
        self, train: Data, link_name: str = "identity", hidden: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        self.link = link(link_name)
        X = self.link.forward(train.known_values().astype(np.float64))
        G = X.shape[1]
        known = ~np.isnan(X)
        j, truth = (np.empty(0, np.int64), np.empty(0)) if hidden is None else hidden
        truth = self.link.forward(np.asarray(truth, dtype=np.float64))
        number = np.maximum(known.sum(axis=0) + np.bincount(j, minlength=G), 1)
        total = np.where(known, X, 0).sum(axis=0) + np.bincount(j, truth, G)
        self.mean = total / number  # (G,)
        squares = np.where(known, np.square(X - self.mean), 0).sum(axis=0)
        sd = np.sqrt((squares + np.bincount(j, np.square(truth - self.mean[j]), G)) / number)
        varies = sd > CONSTANT * np.abs(self.mean)
        self.usable = varies & (known.sum(axis=0) >= LEAST)  # (G,)
        self.sd = np.where(varies, sd, 1.0)  # (G,)

    def of(self, values: np.ndarray, features: Any = slice(None)) -> np.ndarray:
        """Values of the given features, (n, G) or flat beside flat positions, in z units."""
        on_link = self.link.forward(np.asarray(values, dtype=np.float64))
        return np.asarray((on_link - self.mean[features]) / self.sd[features])
