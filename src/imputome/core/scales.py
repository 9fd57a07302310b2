"""Scales of the data: the three scales of counts, and z-scores of real values, each with its inverse.

``counts`` is at the sequencing depth of the cell; ``normalized`` is per `TARGET` molecules of the cell's library, which
counts all genes of the input; ``log1p`` is the natural log of one plus that; ``input`` is the scale of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

Scale = Literal["counts", "normalized", "log1p", "input"]
SCALES: tuple[Scale, ...] = get_args(Scale)
TARGET = 1e4  # molecules per cell on the scale ``normalized``
_VALUES_PER_PIECE = 2**21  # of temporary arrays: 16 MiB in float64


def counts_to_scale(values: np.ndarray, library: np.ndarray, scale: Scale) -> np.ndarray:
    """Convert counts to another scale, in their shape and precision; ``"counts"`` and ``"input"`` change nothing.

    ``library``, the library sizes, broadcasts against ``values``. Values of a cell with library size 0 become 0.
    """
    if scale in ("counts", "input"):
        return values
    normalized = values * (TARGET / np.where(library > 0, library, np.inf)).astype(values.dtype)
    return np.log1p(normalized) if scale == "log1p" else normalized


def scale_to_counts(values: np.ndarray, library: np.ndarray, scale: Scale) -> np.ndarray:
    """The inverse of `counts_to_scale`, for cells with a library size above 0."""
    if scale in ("counts", "input"):
        return values
    normalized = np.expm1(values) if scale == "log1p" else values
    return normalized * (library / TARGET).astype(values.dtype)


def is_integer(values: np.ndarray, tolerance: float = 1e-6) -> bool:
    """Whether every value is an integer to within ``tolerance``; works in pieces, to save memory."""
    flat = values.reshape(-1)
    return all(
        np.abs(part - np.rint(part)).max() <= tolerance
        for part in (flat[start : start + _VALUES_PER_PIECE] for start in range(0, flat.size, _VALUES_PER_PIECE))
    )


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of the features of a matrix of n rows and G features with NaN, for z-scores."""

    center: np.ndarray  # (G,) mean of the known values, float64; without known values, the mean of all known values
    scale: np.ndarray  # (G,) standard deviation (divisor: number of known values), float64; 1 for a constant feature

    @classmethod
    def of(cls, X: np.ndarray) -> Self:
        """Compute both for (n, G) values; takes two passes, so that a large mean costs no digits of the deviation."""
        G = X.shape[1]
        count, total, squares = np.zeros(G), np.zeros(G), np.zeros(G)
        for part in _row_pieces(X):
            values = X[part].astype(np.float64)
            known = ~np.isnan(values)
            count += known.sum(axis=0)
            total += np.where(known, values, 0).sum(axis=0)
        center = np.where(count > 0, total / np.maximum(count, 1), total.sum() / max(1.0, count.sum()))
        for part in _row_pieces(X):
            deviation = X[part] - center
            squares += np.where(np.isnan(deviation), 0, deviation * deviation).sum(axis=0)
        scale = np.sqrt(squares / np.maximum(count, 1))
        # the deviation of a constant feature is not exactly 0: its mean is rounded
        varies = scale > 1e-12 * np.abs(center)
        return cls(center, np.where(varies, scale, 1.0))

    def forward(self, X: np.ndarray) -> np.ndarray:
        """(n, G) float32 z-scores with NaN as in ``X``, in C order; computed in float64, as ``X`` may be far from 0."""
        Z = np.empty(X.shape, np.float32)
        for part in _row_pieces(X):
            Z[part] = (X[part] - self.center) / self.scale
        return Z


def varying(Z: np.ndarray) -> np.ndarray:
    """(G,) mask of the features that vary, from the (n, G) z-scores of the rows that `Standard.of` used.

    A feature that varies has a z-score of size 1 or more; a constant feature has only zeros, except for rounding.
    """
    varies = np.zeros(Z.shape[1], dtype=bool)
    for part in _row_pieces(Z):
        varies |= (np.abs(Z[part]) > 0.5).any(axis=0)
    return varies


def _row_pieces(X: np.ndarray) -> Iterator[slice]:
    step = max(1, _VALUES_PER_PIECE // X.shape[1])
    return (slice(start, start + step) for start in range(0, len(X), step))
