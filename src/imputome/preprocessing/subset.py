"""A part of a matrix that stands for all of it where every value would take too long."""

from __future__ import annotations

import numpy as np

MAX_SAMPLES = 1000
MAX_FEATURES = 2000


def drawn(number: int, most: int) -> np.ndarray:
    """Positions in increasing order: all of them, or ``most`` drawn at random, the same ones each time.

    Not every k-th: samples and features often come in an order that repeats.
    """
    if number <= most:
        return np.arange(number)
    return np.sort(np.random.default_rng(0).choice(number, size=most, replace=False))
