"""Numbers that stand for a missing value: -1, -9, -999, 9999 and the like, repeated far off the rest."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable

import numpy as np

LOW = re.compile(r"-1|-9+|-8+")
HIGH = re.compile(r"99+|88+")
EXTREMES = 4  # smallest and largest distinct values that are kept
MIN_REPEATS_HIGH = 3  # a large number may be a value; a repeated one of only nines hardly
MIN_REPEATS_BELOW = 10  # of -8 or -9 below other negative values
MAX_LOG = 20.0  # logs of expression are not larger; log2(x + 0.5) of 0 is -1, with the next value 1.6 above it
MIN_GAP_OF_LOGS = 2.0
MAX_UNNAMED = 50.0  # the log of a small number that was added to 0 is never so far below 0


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
        or largest of all values, and far from the next one. A repeated number far below zero is one too, where no other
        value is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.inspection.missing_codes import missing_code
    >>> missing_code([np.array([[0.1, -1.0, 0.8], [-1.0, 0.3, 0.9]])])
    {-1.0: 2}
    >>> missing_code([np.array([-1.2, -1.0, 0.8])])
    {}
    """
    extremes = Extremes()
    for block in [*blocks, *([np.zeros(2)] if zeros else [])]:
        extremes.add(block)
    return extremes.codes()


class Extremes:
    """The smallest and largest distinct values of a matrix that is read in pieces, with their numbers."""

    def __init__(self) -> None:
        self.low: dict[float, int] = {}
        self.high: dict[float, int] = {}
        self.whole, self.number = True, 0

    def add(self, block: np.ndarray, times: int = 1) -> None:
        """Add values of any shape, each of which occurs ``times`` times; NaN and infinite ones are left out."""
        values = np.asarray(block, dtype=np.float64).ravel()
        values = values[np.isfinite(values)]
        self.number += times * len(values)
        self.whole = self.whole and bool((values == np.rint(values)).all())
        self.low = _extremes(values, self.low, 1, times)
        self.high = _extremes(values, self.high, -1, times)

    def far(self, factor: float) -> dict[float, int]:
        """The values whose size is more than ``factor`` times that of all others, with their numbers; often empty."""
        known = {**self.low, **self.high}
        # the values between the smallest and the largest ones are not known, but they are not larger than this
        between = max((abs(list(part)[-1]) for part in (self.low, self.high) if part), default=0.0)
        values = sorted((value for value in known if abs(value) >= between), key=abs, reverse=True)
        for place, (value, other) in enumerate(itertools.pairwise(values), start=1):
            if abs(value) > factor * abs(other) > 0:
                return {value: known[value] for value in values[:place]}
        return {}

    def codes(self) -> dict[float, int]:
        """The result of `missing_code`."""
        codes: dict[float, int] = {}
        top = next(iter(self.high), 0.0)
        nearest = next((value for value in self.low if not _named(LOW, value)), math.inf)
        for value, repeats in self.low.items():
            # beside a floor of zeros, a second floor under it is a code
            floor = nearest == 0 and self.low[nearest] > 1
            if not _named(LOW, value):
                break
            if _low_code(value, repeats, nearest, top, self.whole, floor=floor):
                codes[value] = repeats
        # beside one code, a lower number of nines is a code too, even if it is there once
        highest = max(codes, default=-math.inf)
        codes = {value: n for value, n in self.low.items() if _named(LOW, value) and value <= highest}
        codes = codes or self._far_below(top)
        for value, repeats in self.high.items():
            below = next((other for other in self.high if other < value), math.inf)
            if not _named(HIGH, value) or repeats < MIN_REPEATS_HIGH or not below < value / 4:
                break
            codes[value] = repeats
        return codes if sum(codes.values()) < self.number else {}

    def _far_below(self, top: float) -> dict[float, int]:
        """A repeated number below zero, of any digits, if no other value is negative and it is larger than all."""
        (lowest, repeats), *others = [*self.low.items(), (0.0, 0), (0.0, 0)][:2]
        far = repeats > 1 and lowest < -MAX_UNNAMED and others[0][0] >= 0 and -lowest > top > 0
        return {lowest: repeats} if far else {}


def _named(pattern: re.Pattern[str], value: float) -> bool:
    return value == round(value) and pattern.fullmatch(f"{value:.0f}") is not None


def _extremes(values: np.ndarray, known: dict[float, int], sign: int, times: int) -> dict[float, int]:
    """The smallest distinct values (the largest for ``sign`` -1), in order, with their numbers."""
    found = dict(known)
    values = values * sign
    for _ in range(EXTREMES):
        if not len(values):
            break
        smallest = values.min()
        at = values == smallest
        value = float(smallest * sign)
        found[value] = found.get(value, 0) + times * int(at.sum())
        values = values[~at]
    return dict(sorted(found.items(), key=lambda entry: sign * entry[0])[:EXTREMES])


def _low_code(value: float, repeats: int, nearest: float, top: float, whole: bool, *, floor: bool) -> bool:
    """Whether a smallest value is a code, ``nearest`` being the smallest that cannot be one."""
    if value <= -88:
        return value / 4 < nearest < math.inf
    if nearest < 0:  # as among logs: then the code must repeat, far from values that do not
        return value <= -8 and repeats >= MIN_REPEATS_BELOW and nearest - value >= MIN_GAP_OF_LOGS
    if repeats < 2 or not 0 <= nearest < math.inf or top <= 0:
        return False
    # -1, 0 and 1 are losses and gains; and the log of a small number that was added to 0 may be -1
    signs = whole and value == -1 and top <= 1
    logs = not whole and 1 < top <= MAX_LOG and not floor
    return not signs and (not logs or nearest - value >= MIN_GAP_OF_LOGS)
