"""Whether values look missing because they are low, judged by the values that are there.

Three signs, each a test whose null hypothesis holds when values are missing completely at random. None of them can tell
a value that is missing because it is low from one that is missing for a cause that goes with low values.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from imputome.errors import InputError

MAX_SAMPLES = 1000
MAX_FEATURES = 2000


def drawn(number: int, most: int) -> np.ndarray:
    """Positions in increasing order: all of them, or ``most`` drawn at random, the same ones each time.

    Not every k-th: samples and features often come in an order that repeats.
    """
    if number <= most:
        return np.arange(number)
    return np.sort(np.random.default_rng(0).choice(number, size=most, replace=False))


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


LEVEL = 0.01  # chance that values missing completely at random raise the suspicion, all signs together
EFFECT = 0.1  # a smaller correlation, or shift in SD, is not worth a word however sure it is
MIN_KNOWN = 10  # known values of a feature, and features, that a sign rests on
MIN_SAMPLES = 20  # for the sign that looks at other features
PARTNERS = 5
_TARGETS = 500

SignName = Literal["level", "lower tail", "related features"]
_MEANINGS: dict[SignName, str] = {
    "level": "features with more missing values have lower values (rank correlation {effect:.2f}, p = {p_value:.1g})",
    "lower tail": (
        "features with more missing values have a shorter lower tail (rank correlation {effect:.2f}, p = {p_value:.1g})"
    ),
    "related features": (
        "where a value is missing, related features are low in that sample ({effect:.2f} SD, p = {p_value:.1g})"
    ),
}


@dataclass(frozen=True)
class Sign:
    """One sign.

    Attributes
    ----------
    name : what was compared with the missing values.
    effect : rank correlation (level, lower tail) or shift in SD (related features); negative points to low values.
    p_value : one-sided, of an effect this negative in values missing completely at random.
    found : the effect is `EFFECT` or more, and the p-value under `LEVEL` over the number of signs looked for.
    """

    name: SignName
    effect: float
    p_value: float
    found: bool

    def line(self) -> str:
        """The sign in words."""
        return _MEANINGS[self.name].format(effect=self.effect, p_value=max(self.p_value, 1e-300))


@dataclass(frozen=True)
class LowValues:
    """What speaks for values missing because they are low.

    Attributes
    ----------
    suspected : at least one sign was found.
    signs : those that could be looked for, empty if there are too few samples or features.
    """

    suspected: bool
    signs: tuple[Sign, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {**asdict(self), "signs": [asdict(sign) for sign in self.signs]}

    def lines(self) -> list[str]:
        """Sentences."""
        if not self.signs:
            return ["missing because low: cannot be judged, too few samples, features or missing values"]
        if not self.suspected:
            return ["missing because low: no sign of it"]
        return [
            "missing because low: suspected",
            *(f"  {sign.line()}" for sign in self.signs if sign.found),
            "  the values that are there cannot prove it: causes that go with low values look the same",
        ]


def low_values(X: np.ndarray, share: np.ndarray) -> LowValues:
    """Look for signs that values are missing because they are low.

    1. Level: Spearman correlation, across features, of the share missing and the observed median. Says something only
       if features share one unit and scale.
    2. Lower tail: the same with (median - 5 % quantile) / (95 % quantile - 5 % quantile) in place of the median: a
       detection limit cuts that tail off.
    3. Related features: for each feature the five with the strongest rank correlation to it; their mean (sign and
       weight by the correlation, standardised) where the value is missing against where it is there. The samples are
       the independent units of this test, so that values missing together in a sample do not count as many.

    Parameters
    ----------
    X : (n, G) real values, NaN for missing. Above 1,000 samples or 2,000 features a random part of them is looked at.
    share : (G,) share missing of each feature, over all samples.

    Notes
    -----
    No sign is no proof either: features that are unrelated and miss equal shares of their own lowest values leave none.

    Correlations take O(min(n, 1000) x 500 x min(G, 2000)) operations: about a second at most.
    """
    features = drawn(X.shape[1], MAX_FEATURES)
    part = X[np.ix_(drawn(X.shape[0], MAX_SAMPLES), features)].astype(np.float64)
    measured = [*_across_features(part, share[features]), *_related_features(part)]
    signs = tuple(
        Sign(name, effect, p_value, effect <= -EFFECT and p_value < LEVEL / len(measured))
        for name, effect, p_value in measured
    )
    return LowValues(any(sign.found for sign in signs), signs)


def _across_features(part: np.ndarray, share: np.ndarray) -> list[tuple[SignName, float, float]]:
    from scipy.stats import spearmanr

    enough = (~np.isnan(part)).sum(axis=0) >= MIN_KNOWN
    part, share = part[:, enough], share[enough]
    if part.shape[1] == 0:
        return []
    low, middle, high = column_quantiles(part, (0.05, 0.5, 0.95))
    spread = high - low
    varies = spread > 0
    tail = (middle - low)[varies] / spread[varies]
    found: list[tuple[SignName, float, float]] = []
    compared: tuple[tuple[SignName, np.ndarray, np.ndarray], ...] = (
        ("level", middle, share),
        ("lower tail", tail, share[varies]),
    )
    for name, values, missing in compared:
        if len(values) >= MIN_KNOWN and np.ptp(values) > 0 and np.ptp(missing) > 0:
            result = spearmanr(missing, values, alternative="less")
            found.append((name, float(result.statistic), float(result.pvalue)))
    return found


def _related_features(part: np.ndarray) -> list[tuple[SignName, float, float]]:
    """The third sign, by a score test with the samples as clusters."""
    from scipy.stats import t

    n = part.shape[0]
    known = ~np.isnan(part)
    number = known.sum(axis=0)
    known, part = known[:, number >= MIN_KNOWN], part[:, number >= MIN_KNOWN]
    targets = np.flatnonzero((~known).any(axis=0))
    if n < MIN_SAMPLES or len(targets) == 0 or known.shape[1] < 2:
        return []
    targets = targets[drawn(len(targets), _TARGETS)]
    scores = _rank_scores(part, known)
    predictor = _partner_mean(scores, known, targets)  # (n, T)
    spread = predictor.std(axis=0)
    targets, predictor = targets[spread > 0], predictor[:, spread > 0] / spread[spread > 0]
    if len(targets) == 0:
        return []
    missing = (~known[:, targets]).astype(np.float64)
    rate = missing.mean(axis=0)
    by_sample = ((missing - rate) * (predictor - predictor.mean(axis=0))).sum(axis=1)
    total, spread_of_total = by_sample.sum(), np.sqrt((by_sample**2).sum())
    effect = total / (n * rate * (1 - rate)).sum()
    return [("related features", float(effect), float(t.cdf(total / spread_of_total, df=n - 1)))]


def _rank_scores(part: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n, G) float32 ranks of the known values of each column, centred, of variance 1; 0 where missing."""
    from scipy.stats import rankdata

    ranks = rankdata(np.where(known, part, np.inf), axis=0)
    ranks -= (known.sum(axis=0) + 1) / 2
    ranks[~known] = 0.0
    spread = np.sqrt((ranks**2).sum(axis=0) / known.sum(axis=0))
    return (ranks / np.where(spread > 0, spread, 1.0)).astype(np.float32)


def _partner_mean(scores: np.ndarray, known: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n, T) mean of the partners' scores, by correlation, over the partners that are known in the sample; else 0."""
    seen = known.astype(np.float32)
    both = np.sqrt((scores[:, targets] ** 2).T @ seen * (seen[:, targets].T @ scores**2))  # (T, G)
    correlation = scores[:, targets].T @ scores / np.maximum(both, 1.0)  # (T, G)
    correlation[np.arange(len(targets)), targets] = 0.0
    k = min(PARTNERS, scores.shape[1] - 1)
    partners = np.argpartition(-np.abs(correlation), k - 1, axis=1)[:, :k]
    weights = np.take_along_axis(correlation, partners, axis=1)
    weighted, norm = np.zeros((2, len(scores), len(targets)))
    for column, weight in zip(partners.T, weights.T, strict=True):
        weighted += scores[:, column] * weight
        norm += seen[:, column] * np.abs(weight)
    return weighted / np.where(norm > 0, norm, 1.0)
