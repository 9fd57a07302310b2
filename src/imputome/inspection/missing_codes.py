"""Numbers that stand for a missing value: -1, -9, -999, 9999 and the like, repeated far off the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import numpy as np

LOW = re.compile(r"-1|-9+|-8+")
HIGH = re.compile(r"99+|88+")
EXTREMES = 4  # smallest and largest distinct values that are kept
MIN_REPEATS_HIGH = 3  # a large number may be a value; a repeated one of only nines hardly
MAX_LOG = 20.0  # logs of expression are not larger; log2(x + 0.5) of 0 is -1, with the next value 1.6 above it
MIN_GAP_OF_LOGS = 2.0


def missing_code(blocks: Iterable[np.ndarray], *, zeros: bool = False) -> dict[float, int]:
    """The numbers that probably stand for a missing value, and how often each is there.

    Parameters
    ----------
    blocks : iterable of ndarray
        The values, in pieces of any shape; NaN and infinite ones are left out.
    zeros : bool, default=False
        Whether there are zeros beside them, which a sparse matrix does not store.

    Returns
    -------
    dict of float to int
        Empty where nothing looks like a code. A code is a number of only nines or eights, or -1; it is the smallest
        or largest of all values, and far from the next one.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.inspection.missing_codes import missing_code
    >>> missing_code([np.array([[0.1, -1.0, 0.8], [-1.0, 0.3, 0.9]])])
    {-1.0: 2}
    >>> missing_code([np.array([-1.2, -1.0, 0.8])])
    {}
    """
    low: dict[float, int] = {}
    high: dict[float, int] = {}
    whole, number = True, 0
    for block in [*blocks, *([np.zeros(2)] if zeros else [])]:
        values = np.asarray(block, dtype=np.float64).ravel()
        values = values[np.isfinite(values)]
        number += len(values)
        whole = whole and bool((values == np.rint(values)).all())
        low = _extremes(values, low, 1)
        high = _extremes(values, high, -1)
    codes: dict[float, int] = {}
    top = next(iter(high), 0.0)
    nearest = next((value for value in low if not _named(LOW, value)), math.inf)
    for value, repeats in low.items():
        # beside a floor of zeros, a second floor under it is a code
        floor = nearest == 0 and low[nearest] > 1
        if not _named(LOW, value):
            break
        if _low_code(value, repeats, nearest, top, whole, floor=floor):
            codes[value] = repeats
    for value, repeats in high.items():
        below = next((other for other in high if other < value), math.inf)
        if not _named(HIGH, value) or repeats < MIN_REPEATS_HIGH or not below < value / 4:
            break
        codes[value] = repeats
    return codes if sum(codes.values()) < number else {}


def _named(pattern: re.Pattern[str], value: float) -> bool:
    return value == round(value) and pattern.fullmatch(f"{value:.0f}") is not None


def _extremes(values: np.ndarray, known: dict[float, int], sign: int) -> dict[float, int]:
    """The smallest distinct values (the largest for ``sign`` -1), in order, with their numbers."""
    found = dict(known)
    values = values * sign
    for _ in range(EXTREMES):
        if not len(values):
            break
        smallest = values.min()
        at = values == smallest
        value = float(smallest * sign)
        found[value] = found.get(value, 0) + int(at.sum())
        values = values[~at]
    return dict(sorted(found.items(), key=lambda entry: sign * entry[0])[:EXTREMES])


def _low_code(value: float, repeats: int, nearest: float, top: float, whole: bool, *, floor: bool) -> bool:
    """Whether a smallest value is a code, ``nearest`` being the smallest that cannot be one."""
    if value <= -88:
        return value / 4 < nearest < math.inf
    if repeats < 2 or not 0 <= nearest < math.inf or top <= 0:
        return False
    # -1, 0 and 1 are losses and gains; and the log of a small number that was added to 0 may be -1
    signs = whole and value == -1 and top <= 1
    logs = not whole and 1 < top <= MAX_LOG and not floor
    return not signs and (not logs or nearest - value >= MIN_GAP_OF_LOGS)
