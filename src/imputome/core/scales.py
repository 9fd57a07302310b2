"""Scales of the data: those of counts, and z-scores of real values, each with its inverse.

``counts`` is at the sequencing depth of the cell; ``normalized`` is per `TARGET` molecules of the cell's library, which
counts all genes of the input; ``log1p``, ``log2p1`` and ``log10p1`` are the natural log, the log2 and the log10 of one
plus that, and ``sqrt`` is its square root; ``log1p_counts`` and so on are the same of ``counts``, without normalising;
``input`` is the scale of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

Scale = Literal[
    "counts",
    "normalized",
    "log1p",
    "log2p1",
    "log10p1",
    "sqrt",
    "log1p_counts",
    "log2p1_counts",
    "log10p1_counts",
    "sqrt_counts",
    "input",
]
SCALES: tuple[Scale, ...] = get_args(Scale)
INPUT_SCALES: tuple[Scale, ...] = ("normalized", "log1p", "log2p1", "log10p1", "sqrt")  # that input often comes on
TARGET = 1e4  # molecules per cell on the scale ``normalized``
_VALUES_PER_PIECE = 2**21  # of temporary arrays: 16 MiB in float64

Elementwise = Callable[[np.ndarray], np.ndarray]
# name -> (transform, inverse); both keep the precision of their input
TRANSFORMS: dict[str, tuple[Elementwise, Elementwise]] = {
    "log1p": (np.log1p, np.expm1),
    "log2p1": (lambda x: np.log1p(x) / math.log(2), lambda y: np.expm1(y * math.log(2))),
    "log10p1": (lambda x: np.log1p(x) / math.log(10), lambda y: np.expm1(y * math.log(10))),
    "sqrt": (np.sqrt, np.square),
}


def transform_of(scale: str) -> str:
    """Name in `TRANSFORMS` of the transform of a scale; empty if it has none."""
    name = scale.removesuffix("_counts")
    return name if name in TRANSFORMS else ""


def holds_molecules(state: str) -> bool:
    """Whether values in this state are at the depth of their cell, once a transform is undone: not normalised."""
    return state in ("counts", "expected") or state.endswith("_counts")


def undone(values: np.ndarray, state: str) -> np.ndarray:
    """The values before the transform of their state; counts are rounded, because the transform was."""
    if not transform_of(state):
        return values
    linear = TRANSFORMS[transform_of(state)][1](values)
    return np.rint(linear) if state.endswith("_counts") else linear


def counts_to_scale(values: np.ndarray, library: np.ndarray, scale: Scale) -> np.ndarray:
    """Convert counts to another scale, in their shape and precision; ``"counts"`` and ``"input"`` change nothing.

    ``library``, the library sizes, broadcasts against ``values``. Values of a cell with library size 0 become 0.
    """
    if scale in ("counts", "input"):
        return values
    if not scale.endswith("_counts"):
        values = values * (TARGET / np.where(library > 0, library, np.inf)).astype(values.dtype)
    return TRANSFORMS[transform_of(scale)][0](values) if transform_of(scale) else values


def scale_to_counts(values: np.ndarray, library: np.ndarray, scale: Scale) -> np.ndarray:
    """The inverse of `counts_to_scale`, for cells with a library size above 0."""
    if scale in ("counts", "input"):
        return values
    linear = TRANSFORMS[transform_of(scale)][1](values) if transform_of(scale) else values
    return linear if scale.endswith("_counts") else linear * (library / TARGET).astype(values.dtype)


def rounded_matrix(X: Any, rounding: str, *, seed: int, rows: np.ndarray) -> Any:
    """Expected counts as integers: a matrix of non-negative values, ndarray or ``csr_array``.

    Parameters
    ----------
    X : ndarray or csr_array of shape (n, G)
        Expected counts.
    rounding : {"nearest", "stochastic"}
        ``"stochastic"`` rounds x up with probability x - floor(x), so that sums are kept on average.
    seed : int
        Seed of the random numbers. The number of an entry depends only on the seed and its row and column, so that any
        rows of a matrix are rounded as in the whole matrix.
    rows : ndarray of shape (n,)
        Positions of the rows in the whole matrix.

    Returns
    -------
    ndarray or csr_array of shape (n, G)
        In the precision of ``X``.
    """
    if isinstance(X, np.ndarray):
        return _rounded(X, rounding, rows[:, None], np.arange(X.shape[1]), seed)
    values = _rounded(X.data, rounding, np.repeat(rows, np.diff(X.indptr)), X.indices, seed)
    return type(X)((values, X.indices, X.indptr), shape=X.shape)


def _rounded(values: np.ndarray, rounding: str, rows: np.ndarray, columns: np.ndarray, seed: int) -> np.ndarray:
    if rounding == "nearest":
        return np.floor(values + 0.5)  # halves go up, and not to the even number
    whole = np.floor(values)
    return whole + (_uniform(rows, columns, seed) < values - whole)


def _uniform(rows: np.ndarray, columns: np.ndarray, seed: int) -> np.ndarray:
    """A number from 0 to 1 for each position: a hash of seed, row and column (SplitMix64, Steele et al. 2014)."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # integers modulo 2^64 are meant
        for part in (np.uint64(seed), np.asarray(rows).astype(np.uint64), np.asarray(columns).astype(np.uint64)):
            state = (state ^ part) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53


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
