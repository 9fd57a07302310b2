"""Library sizes and the three scales of count data, as exact functions and their inverses.

``counts`` is at the depth of this cell; ``normalized`` is per `TARGET` molecules of the cell's input library over all
genes; ``log1p`` is the natural log of one plus that.
"""

from __future__ import annotations

from typing import Literal, get_args

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
