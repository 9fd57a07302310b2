"""Library sizes and the three scales of count data, as exact functions and their inverses.

``counts`` is at the depth of this cell; ``normalized`` is per `TARGET` molecules of the cell's input library over all
genes; ``log1p`` is the natural log of one plus that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

Scale = Literal["counts", "normalized", "log1p", "input"]
SCALES: tuple[Scale, ...] = get_args(Scale)
TARGET = 1e4


def counts_to_scale(values: np.ndarray, library: np.ndarray, scale: Scale) -> np.ndarray:
    """Counts to ``scale``; ``library`` broadcasts against ``values``. A cell with an empty library stays zero."""
    if scale in ("counts", "input"):
        return values
    normalized = values * (TARGET / np.where(library > 0, library, np.inf)).astype(values.dtype)
    return np.log1p(normalized) if scale == "log1p" else normalized


def scale_to_counts(values: np.ndarray, library: np.ndarray, scale: Scale) -> np.ndarray:
    """The inverse of `counts_to_scale` for cells with a non-empty library."""
    if scale in ("counts", "input"):
        return values
    normalized = np.expm1(values) if scale == "log1p" else values
    return normalized * (library / TARGET).astype(values.dtype)


def is_integer(values: np.ndarray, tolerance: float = 1e-6) -> bool:
    """Whether every value is an integer to within ``tolerance``, looked at in pieces to save memory."""
    step = 2**20
    flat = values.reshape(-1)
    return all(
        np.abs(part - np.rint(part)).max() <= tolerance
        for part in (flat[start : start + step] for start in range(0, flat.size, step))
    )


_VARIES = 0.5
_PIECE = 2**21  # values a temporary float64 piece may hold (16 MiB)


@dataclass(frozen=True)
class Standard:
    """What makes z-scores of a matrix of n rows and G features, and values in the input's unit of these again.

    Attributes
    ----------
    center : (G,) mean of the known values, float64; of a feature without any, the mean of all known values.
    scale : (G,) standard deviation (divisor: number of known values), float64; 1 for a feature that does not vary.
    """

    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray) -> Self:
        """Learn from (n, G) values with NaN; two passes, so that a large mean costs no digits of the deviation."""
        G = X.shape[1]
        count, total, squares = np.zeros(G), np.zeros(G), np.zeros(G)
        for part in _pieces(X):
            values = X[part].astype(np.float64)
            known = ~np.isnan(values)
            count += known.sum(axis=0)
            total += np.where(known, values, 0).sum(axis=0)
        center = np.where(count > 0, total / np.maximum(count, 1), total.sum() / max(1.0, count.sum()))
        for part in _pieces(X):
            gap = X[part] - center
            squares += np.where(np.isnan(gap), 0, gap * gap).sum(axis=0)
        scale = np.sqrt(squares / np.maximum(count, 1))
        # a constant feature is left with the rounding of its mean
        varies = scale > 1e-12 * np.abs(center)
        return cls(center, np.where(varies, scale, 1.0))

    def forward(self, X: np.ndarray) -> np.ndarray:
        """(n, G) float32 z-scores, C order, NaN where X has it; taken in float64, as X may lie far from 0."""
        Z = np.empty(X.shape, np.float32)
        for part in _pieces(X):
            Z[part] = (X[part] - self.center) / self.scale
        return Z


def varying(Z: np.ndarray) -> np.ndarray:
    """(G,) True for the columns of (n, G) z-scores with NaN, of the rows they were learned from, that vary.

    One that varies has a z-score of at least 1 somewhere, one that does not has 0 everywhere but for rounding.
    """
    found = np.zeros(Z.shape[1], dtype=bool)
    for part in _pieces(Z):
        found |= (np.abs(Z[part]) > _VARIES).any(axis=0)
    return found


def _pieces(X: np.ndarray) -> Iterator[slice]:
    step = max(1, _PIECE // X.shape[1])
    return (slice(start, start + step) for start in range(0, len(X), step))
