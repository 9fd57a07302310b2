"""Whether real values lie so far out that they have to be drawn in before a method standardises them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from imputome.errors import InputError
from imputome.preprocessing.subset import MAX_FEATURES, MAX_SAMPLES, drawn

BOUND = 10.0  # robust z; normal values reach 5, methylation beta values 8, cBioPortal's expression z-scores 30,000
SHARE = 0.15  # of the features; expression z-scores have 0.48, and 0.11 once they are on the asinh scale
FEW_SAMPLES = 20  # with fewer, the largest value decides its own scale
_NORMAL_RANGE = 3.2897072539029435  # 5 % to 95 % quantile of the normal distribution, in SD


@dataclass(frozen=True)
class HeavyTails:
    """Features whose most extreme value is far out, and what the asinh makes of them.

    Attributes
    ----------
    share : of the features, those with a robust z beyond `bound`.
    share_after : the same on the arcsinh of the values.
    bound : robust z: distance from the median over the SD that the range from the 5 % to the 95 % quantile has.
    largest : the value that is largest in size, in the input's unit.
    """

    share: float
    share_after: float
    bound: float
    largest: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, for JSON."""
        return asdict(self)

    def line(self) -> str:
        """One sentence."""
        return (
            f"heavy tails: {100 * self.share:.0f} % of the features have values beyond {self.bound:g} robust SD "
            f"(largest here: {self.largest:,.6g}); after asinh {100 * self.share_after:.0f} %"
        )


def heavy_tailed(X: np.ndarray) -> HeavyTails | None:
    """Decide whether real values need the asinh before they are standardised.

    They do if more than `SHARE` of the features have a value beyond `BOUND` robust SD, and the asinh at least halves
    that share; it cannot for values within +-1, such as beta values, which it hardly changes. The scale of a feature is
    the range from its 5 % to its 95 % quantile over 3.29: the median absolute deviation is too small for features with
    two groups or many equal values (methylation, zeros), and the SD is made by the very values in question.

    Parameters
    ----------
    X : (n, G) real values, NaN for missing. Above 1,000 samples or 2,000 features a random part of them is looked at.

    Returns
    -------
    HeavyTails, or None: no need, fewer than `FEW_SAMPLES` samples, or no feature that varies.

    Raises
    ------
    InputError
        ``X`` is no 2-d array of real numbers.
    """
    if X.ndim != 2 or X.dtype.kind not in "iuf":
        raise InputError(f"a matrix of samples x features is needed, not {X.dtype} values of shape {X.shape}")
    part = X[np.ix_(drawn(X.shape[0], MAX_SAMPLES), drawn(X.shape[1], MAX_FEATURES))].astype(np.float64)
    part = part[:, (~np.isnan(part)).sum(axis=0) >= FEW_SAMPLES]
    if part.size == 0:
        return None
    share, share_after = _share_beyond(part), _share_beyond(np.arcsinh(part))
    if share <= SHARE or share_after > share / 2:
        return None
    low, high = float(np.nanmin(part)), float(np.nanmax(part))
    return HeavyTails(share, share_after, BOUND, low if -low > high else high)


def _share_beyond(values: np.ndarray) -> float:
    """Share of the features with a value beyond `BOUND`, among those whose quantiles differ."""
    low, middle, high = column_quantiles(values, (0.05, 0.5, 0.95))
    scale = (high - low) / _NORMAL_RANGE
    varies = scale > 0
    far = np.nanmax(np.abs(values - middle), axis=0)
    return float((far[varies] > BOUND * scale[varies]).mean()) if varies.any() else 0.0


def column_quantiles(values: np.ndarray, quantiles: tuple[float, ...]) -> np.ndarray:
    """(len(quantiles), G) quantiles of the known values of each column, which has at least one; NaN is left out.

    What `numpy.nanquantile` gives, which takes a hundred times as long with NaN.
    """
    ordered = np.sort(values, axis=0)  # NaN last
    last = (~np.isnan(values)).sum(axis=0) - 1
    at = np.asarray(quantiles)[:, None] * last
    below = np.floor(at).astype(np.intp)
    above = np.minimum(below + 1, last)
    first, second = np.take_along_axis(ordered, below, 0), np.take_along_axis(ordered, above, 0)
    return first + (at - below) * (second - first)
