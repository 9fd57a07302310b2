"""Errors of real values in a unit that all features share.

Letters: ``n`` samples, ``G`` features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imputome.methods.base import Data
from imputome.preprocessing.link import link


class Units:
    """z-scores by the training rows: mean and standard deviation (divisor: number of known values) of each feature.

    A feature that does not vary in the training rows keeps its unit. ``link_name`` is a link
    (`imputome.preprocessing.link`) that values are put on first: of heavy-tailed values a few would else decide.
    """

    def __init__(self, train: Data, link_name: str = "identity") -> None:
        self.link = link(link_name)
        X = self.link.forward(train.known_values().astype(np.float64))
        known = ~np.isnan(X)
        number = np.maximum(known.sum(axis=0), 1)
        self.mean = np.where(known, X, 0).sum(axis=0) / number  # (G,)
        sd = np.sqrt(np.where(known, np.square(X - self.mean), 0).sum(axis=0) / number)
        self.sd = np.where(sd > 0, sd, 1.0)  # (G,)

    def of(self, values: np.ndarray, features: Any = slice(None)) -> np.ndarray:
        """Values of the given features, (n, G) or flat beside flat positions, in z units."""
        on_link = self.link.forward(np.asarray(values, dtype=np.float64))
        return np.asarray((on_link - self.mean[features]) / self.sd[features])
