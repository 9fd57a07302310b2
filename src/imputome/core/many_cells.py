"""Which cells stand for all of them, where there are so many that a part of them says the same.

What a fit learns about genes (factors, shapes, one factor for all values) needs no more than some 25,000 cells: their
number in the data then only decides how many cells are given values. Up to `MANY_CELLS` all of them are used.
"""

from __future__ import annotations

import numpy as np

MANY_CELLS = 25_000  # with more cells than these, this many are learned from


def random_rows(n: int, seed: int) -> np.ndarray | None:
    """Sorted positions of `MANY_CELLS` random cells of n; None if there are not more."""
    if n <= MANY_CELLS:
        return None
    return np.sort(np.random.default_rng([seed, n]).choice(n, size=MANY_CELLS, replace=False))


def evenly_spaced(n: int, G: int, entries: int) -> np.ndarray:
    """Positions of evenly spaced cells, of n, with at most this number of entries in all, but at least one cell."""
    return np.unique(np.linspace(0, n - 1, max(1, min(n, entries // G))).astype(np.intp))
