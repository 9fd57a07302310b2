"""Samples that are unlike all others: far off their scale, or no samples at all (identifiers, lengths, positions).

Letters: ``X`` samples x genes, zeros and NaN are left out of every measure.
"""

from __future__ import annotations

from typing import Any

import numpy as np

ENTRIES = 4_000_000  # at most so many are looked at, of evenly spaced genes
FAR = 30.0  # times the scale of any other sample; more than depth or a dead array explain where values are compressed
FAR_IF_WIDE = 1000.0  # the same for counts and other values over many orders of magnitude, where depths differ
COMPRESSED = 20.0  # nine in ten values are under it if they are logs, fractions or z-scores
APART = 5.0  # times, between two groups of samples that are in different units
LIKE = 0.5  # rank correlation with the median of the others, above which a column is a sample
UNLIKE = 0.25  # and under which it is none, if the others are alike (`ALIKE`)
ALIKE = 0.6
DISTINCT = 0.5  # share of distinct values, above which a column may be one of identifiers or lengths
BY_CHANCE = 1e-6  # probability that a sample has integers only, by chance
MAX_LEADING = 8  # columns at the start that are asked whether they are samples
MIN_SUMMED = 3  # samples of which another one may be the sum
ROUNDED = 1e-3  # error of a sum of rounded values
MIN_VALUES = 10  # of a sample, to say anything of it


def off_scale(X: Any) -> dict[int, float]:
    """Position of each sample whose values are far off the scale of all others, and how many times they are theirs.

    The scale of a sample is the median over genes of its values, each divided by the median of the gene. Far means
    `FAR` times above or below every other sample, for values over many orders of magnitude `FAR_IF_WIDE` times. Where
    values are compressed, the largest values of a sample are compared too: one sample without a log differs in them.
    """
    part = _part(X)
    scales = _scales(part)
    if np.isfinite(scales).sum() < 3:
        return {}
    limit = _limit(part, scales)
    far = _outside(scales, limit)
    if limit == FAR:
        largest = _medians(np.abs(part), 1, 0.95)
        largest[np.isfinite(part).mean(axis=1) < 0.5] = np.nan  # of other genes, perhaps
        far = {**_outside(largest, limit), **far}
    return far


def two_units(X: Any) -> tuple[list[int], float]:
    """Positions of the samples of the smaller of two groups on different scales, and the factor between both.

    Some were logged, or measured in another unit. The values have decimals, the groups are `APART` times apart, and
    further than the samples within each. Empty where there are no such groups.
    """
    part = _part(X)
    scales = _scales(part)
    known = np.flatnonzero(np.isfinite(scales) & (scales > 0))
    if len(known) < 4 or not _has_decimals(part[np.isfinite(part)]):
        return [], 1.0
    known = known[np.argsort(scales[known], kind="stable")]
    steps = scales[known[1:]] / scales[known[:-1]]
    place = int(steps.argmax()) + 1
    low, high = known[:place], known[place:]
    within = max(scales[group[-1]] / scales[group[0]] for group in (low, high))
    if min(len(low), len(high)) < 2 or steps.max() < max(APART, within):
        return [], 1.0
    factor = float(np.median(scales[high]) / np.median(scales[low]))
    return (low.tolist(), 1 / factor) if len(low) < len(high) else (high.tolist(), factor)


def _outside(scales: np.ndarray, limit: float) -> dict[int, float]:
    known = np.flatnonzero(np.isfinite(scales))
    if len(known) < 3:
        return {}
    centre = np.median(scales[known])
    near = [k for k in known if centre / limit < scales[k] < centre * limit]
    if not near:
        return {}
    low, high = scales[near].min() / limit, scales[near].max() * limit
    return {int(k): float(scales[k] / centre) for k in known if not low < scales[k] < high}


def not_like_others(X: Any) -> list[int]:
    """Positions of samples, from the first on, that seem to be none: identifiers, lengths or positions of the genes.

    Four signs, all of them in comparison with the samples that follow: integers among values that are none; no zero,
    no sign or no integer where all others have many; a scale far off; or ranks unrelated to theirs although the values
    are as distinct as those of identifiers. A sample whose ranks are related is one, whatever its depth or unit.
    """
    whole = _part(X, zeros=True)
    part = np.where(whole == 0, np.nan, whole)
    n = len(part)
    found: list[int] = []
    for k in range(min(MAX_LEADING, n - 1)):
        # the others that may be none are not among those to compare with
        others = slice(max(k + 1, min(MAX_LEADING, n // 2)), None)
        column, rest = part[k], part[others]
        if np.isfinite(column).sum() < MIN_VALUES:
            break
        related, distinct = _related(column, rest), _distinct(column)
        if related > LIKE or not (
            _integers_among_others(column, rest)
            or _alone(whole[k], whole[others])
            or _far(column, rest, distinct)
            or (related < UNLIKE and distinct > DISTINCT and _alike(rest))
        ):
            break
        found.append(k)
    return found


def sum_of_others(X: Any) -> int | None:
    """The first or last sample if it is the sum or the mean of all others, else None."""
    n = X.shape[0]
    if n < MIN_SUMMED + 1:
        return None
    part = _part(X, zeros=True)
    known = np.isfinite(part)
    part[~known] = 0.0
    whole, number = part.sum(axis=0), np.maximum(known.sum(axis=0) - 1, 1)
    for k in (0, n - 1):
        others = whole - part[k]
        size = 1e-6 * np.abs(others) + ROUNDED
        varied = len(np.unique(part[k])) >= MIN_VALUES
        if varied and any((np.abs(part[k] - each) <= size).all() for each in (others, others / number)):
            return k
    return None


def _part(X: Any, *, zeros: bool = False) -> np.ndarray:
    """Some genes of all samples, dense, with NaN for what is not finite, and for zeros unless they are asked for."""
    n, G = X.shape
    step = -(-G // max(50, min(G, ENTRIES // max(n, 1))))
    block = X[:, ::step]
    part = np.array(block.toarray() if hasattr(block, "toarray") else block, dtype=np.float64)
    part[~np.isfinite(part) | ((part == 0) & (not zeros))] = np.nan
    return part


def _medians(values: np.ndarray, axis: int, quantile: float = 0.5) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():  # of genes and samples without a value
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(values, axis=axis) if quantile == 0.5 else np.nanquantile(values, quantile, axis=axis)


def _scales(part: np.ndarray) -> np.ndarray:
    sizes = np.abs(part)
    scales = _medians(sizes / _medians(sizes, 0), 1)
    scales[np.isfinite(part).sum(axis=1) < MIN_VALUES] = np.nan
    return scales


def _limit(part: np.ndarray, scales: np.ndarray) -> float:
    """How far is far, by the spread of the values of the samples that are not far themselves."""
    usual = np.abs(part[scales < FAR * np.nanmedian(scales)])
    usual = usual[np.isfinite(usual)]
    return FAR if len(usual) and np.quantile(usual, 0.9) <= COMPRESSED and _has_decimals(usual) else FAR_IF_WIDE


def _has_decimals(values: np.ndarray) -> bool:
    return bool((values != np.rint(values)).any())


def _integers_among_others(column: np.ndarray, rest: np.ndarray) -> bool:
    """Whether a column has integers only, above 1, and the others have too many decimals for that to be chance."""
    known = column[np.isfinite(column)]
    if _has_decimals(known) or np.abs(known).max() <= 1:
        return False
    finite = np.isfinite(rest)
    decimals = finite & (rest != np.rint(rest))
    whole_columns = (decimals.sum(axis=1) == 0) & (finite.sum(axis=1) > 0)
    share = decimals.sum() / max(finite.sum(), 1)
    return whole_columns.mean() < 0.1 and (1 - share) ** len(known) < BY_CHANCE


def _alone(column: np.ndarray, rest: np.ndarray) -> bool:
    """Whether all values of a column are not zero, above zero or no integers, which is rarer in nearly all others.

    GC contents are above zero among z-scores, and chromosomes are never zero among counts.
    """
    known = column[np.isfinite(column)]
    number = np.maximum(np.isfinite(rest).sum(axis=1), 1)
    for having in (lambda x: np.abs(x) > 0, lambda x: x > 0, lambda x: np.abs(x - np.rint(x)) > 0):
        usual = np.quantile(having(rest).sum(axis=1) / number, 0.9)
        if having(known).all() and usual ** len(known) < BY_CHANCE:
            return True
    return False


def _distinct(column: np.ndarray) -> float:
    known = column[np.isfinite(column)]
    return len(np.unique(known)) / len(known)


def _far(column: np.ndarray, rest: np.ndarray, distinct: float) -> bool:
    if len(rest) < 2:
        return False
    both = np.vstack([column, rest])
    sizes = np.abs(both)
    scales = _medians(sizes / _medians(sizes[1:], 0), 1)
    others = scales[1:][np.isfinite(scales[1:])]
    if not len(others):
        return False
    limit = FAR if distinct > DISTINCT else _limit(rest, scales[1:])
    return not others.min() / limit < scales[0] < others.max() * limit


def _related(column: np.ndarray, rest: np.ndarray) -> float:
    """Rank correlation with the median of the other samples; 0 where there are too few values."""
    centre = _medians(rest[:: -(-len(rest) // 50)], 0)
    both = np.isfinite(column) & np.isfinite(centre)
    if both.sum() < MIN_VALUES or np.ptp(column[both]) == 0 or np.ptp(centre[both]) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(column[both]), _ranks(centre[both]))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, the mean rank for equal values; scipy.stats would take seconds to import."""
    _, places, number = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(number) - (number - 1) / 2)[places]


def _alike(rest: np.ndarray) -> bool:
    """Whether samples are related to each other, as samples of one tissue are."""
    some = rest[:: -(-len(rest) // 20)]
    if len(some) < 3:
        return False
    return float(np.median([_related(some[k], np.delete(some, k, axis=0)) for k in range(len(some))])) > ALIKE
