"""The tails of real values: heavy tails, which call for a transform, and a lower tail that is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from imputome.errors import InputError

MAX_SAMPLES = 1000
MAX_FEATURES = 2000
_TAIL_QUANTILES = (0.05, 0.5, 0.95)

# Heavy tails
MAX_ROBUST_Z = 10.0  # normal values reach 5, methylation beta values 8, cBioPortal's expression z-scores 30,000
MAX_SHARE_HEAVY = 0.15  # of the features; expression z-scores have 0.48, and 0.11 on the asinh scale
MIN_KNOWN_FOR_TAILS = 20  # values of a feature; with fewer, the largest value affects the scale it is measured on
_NORMAL_RANGE = 3.2897072539029435  # from the 5 % to the 95 % quantile of the normal distribution, in SD

# Values that may be missing because they are low
FALSE_ALARM_RATE = 0.01  # of all signs together, if values are missing completely at random
MIN_EFFECT = 0.1  # smaller correlations, or shifts in SD, do not matter even if they are significant
MIN_KNOWN = 10  # known values of a feature, and number of features, that a sign needs
MIN_SAMPLES_FOR_RELATED = 20  # samples that the sign of the related features needs
N_RELATED = 5  # related features per feature
MAX_TARGETS = 500  # features whose related features are searched
MAX_LOW_STRENGTH = 10.0  # the odds of the lowest value of a feature are then 10^15 times those of the highest


def check_real_matrix(X: np.ndarray) -> None:
    """Check that ``X`` is a 2-d array of real numbers."""
    if X.ndim != 2 or X.dtype.kind not in "iuf":
        text = f"the input must be a matrix of samples x features, not {X.dtype} values of shape {X.shape}"
        raise InputError(text, code="not-a-matrix")


def random_positions(size: int, at_most: int) -> np.ndarray:
    """Positions in increasing order: all, or ``at_most`` random ones, the same on each call.

    They are random and not every k-th, because the order of samples and features is often periodic.
    """
    if size <= at_most:
        return np.arange(size)
    return np.sort(np.random.default_rng(0).choice(size, size=at_most, replace=False))


def nan_quantiles(values: np.ndarray, quantiles: tuple[float, ...]) -> np.ndarray:
    """Quantiles of the known values of each column, (Q, G), as `numpy.nanquantile` but a hundred times as fast.

    Each column needs at least one value.
    """
    ordered = np.sort(values, axis=0)  # NaN last
    last = (~np.isnan(values)).sum(axis=0) - 1
    place = np.asarray(quantiles)[:, None] * last
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, last)
    lower, upper = np.take_along_axis(ordered, below, 0), np.take_along_axis(ordered, above, 0)
    return lower + (place - below) * (upper - lower)


# -- heavy tails -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class HeavyTails:
    """How many features have extreme values, before and after the asinh transform.

    The robust z of a value is its distance from the median, divided by the SD of a normal distribution that has the
    same 5 % to 95 % range.
    """

    share: float  # of the features with a robust z beyond ``bound``
    share_after: float  # the same for the arcsinh of the values
    bound: float
    largest: float  # value of largest size, in the unit of the input

    def line(self) -> str:
        """The result as one sentence."""
        return (
            f"heavy tails: {100 * self.share:.0f} % of the features have values beyond {self.bound:g} robust SD "
            f"(largest value: {self.largest:,.6g}); after asinh {100 * self.share_after:.0f} %"
        )


def heavy_tailed(X: np.ndarray) -> HeavyTails | None:
    """Decide whether (n, G) real values need the asinh transform before they are standardised; None if not.

    They do if more than a share `MAX_SHARE_HEAVY` of the features have values beyond `MAX_ROBUST_Z` robust SD, and the
    asinh at least halves that share. It cannot do so for values within +-1, such as beta values, which it hardly
    changes. The scale of a feature is the range from its 5 % to its 95 % quantile over 3.29. The median absolute
    deviation would be too small for features with two groups or many equal values (methylation, zeros), and the SD
    depends on the extreme values themselves. Features with fewer than `MIN_KNOWN_FOR_TAILS` known values are left out.
    """
    check_real_matrix(X)
    part = X[np.ix_(random_positions(X.shape[0], MAX_SAMPLES), random_positions(X.shape[1], MAX_FEATURES))]
    part = part.astype(np.float64)
    part = part[:, (~np.isnan(part)).sum(axis=0) >= MIN_KNOWN_FOR_TAILS]
    if part.size == 0:
        return None
    share, share_after = _share_heavy(part), _share_heavy(np.arcsinh(part))
    if share <= MAX_SHARE_HEAVY or share_after > share / 2:
        return None
    low, high = float(np.nanmin(part)), float(np.nanmax(part))
    return HeavyTails(share, share_after, MAX_ROBUST_Z, low if -low > high else high)


def _share_heavy(values: np.ndarray) -> float:
    """Share of the features with a value beyond `MAX_ROBUST_Z`, among those whose quantiles differ."""
    low, median, high = nan_quantiles(values, _TAIL_QUANTILES)
    scale = (high - low) / _NORMAL_RANGE
    varies = scale > 0
    distance = np.nanmax(np.abs(values - median), axis=0)
    return float((distance[varies] > MAX_ROBUST_Z * scale[varies]).mean()) if varies.any() else 0.0


# -- values missing because they are low -------------------------------------------------------------------------------
SignName = Literal["level", "lower tail", "related features"]
_SENTENCES: dict[SignName, str] = {
    "level": "features with more missing values have lower values (rank correlation {effect:.2f}, p = {p_value:.1g})",
    "lower tail": (
        "features with more missing values have a shorter lower tail (rank correlation {effect:.2f}, p = {p_value:.1g})"
    ),
    "related features": (
        "in samples where a value is missing, related features are low ({effect:.2f} SD, p = {p_value:.1g})"
    ),
}


@dataclass(frozen=True)
class Sign:
    """One sign that values are missing because they are low, see `low_values`."""

    name: SignName
    effect: (
        float  # rank correlation (level, lower tail) or shift in SD (related features); negative: low values missing
    )
    p_value: float  # one-sided, for values missing completely at random
    found: bool  # effect of -`MIN_EFFECT` or lower, p-value below `FALSE_ALARM_RATE` over the number of signs

    def line(self) -> str:
        """The sign as one sentence."""
        return _SENTENCES[self.name].format(effect=self.effect, p_value=max(self.p_value, 1e-300))


@dataclass(frozen=True)
class LowValues:
    """Whether values may be missing because they are low."""

    suspected: bool  # whether at least one sign was found
    signs: tuple[Sign, ...]  # those that could be tested; none if there are too few samples or features

    def lines(self) -> list[str]:
        """The result as sentences."""
        if not self.signs:
            return ["missing because low: not tested, there are too few samples, features or missing values"]
        if not self.suspected:
            return ["missing because low: no sign of it"]
        return [
            "missing because low: suspected",
            *(f"  {sign.line()}" for sign in self.signs if sign.found),
            "  the known values cannot prove it: other causes that occur with low values look the same",
        ]


def low_values(X: np.ndarray, share: np.ndarray) -> LowValues:
    """Look for signs that values are missing because they are low; ``share`` is the share missing of each feature.

    Each of the three signs is a test whose null hypothesis holds if values are missing completely at random. A sign
    cannot tell values that are missing because they are low from values that are missing for a cause that occurs
    together with low values. The absence of signs is no proof either: unrelated features that each lack the same share
    of their lowest values leave no sign.

    1. Level: Spearman correlation, across features, of the share missing and the median of the known values. It is
       meaningful only if features share one unit and scale.
    2. Lower tail: the same with (median - 5 % quantile) / (95 % quantile - 5 % quantile) in place of the median: a
       detection limit removes that tail.
    3. Related features: each feature has five related ones, those with the strongest rank correlation. Their mean
       (standardised; sign and weight from the correlation) is compared between samples where the value is missing and
       samples where it is known. The samples are the independent units of this test, because values are often missing
       together in a sample.

    Correlations take O(min(n, 1000) x 500 x min(G, 2000)) operations: about a second at most.
    """
    features = random_positions(X.shape[1], MAX_FEATURES)
    part = X[np.ix_(random_positions(X.shape[0], MAX_SAMPLES), features)].astype(np.float64)
    tests = [*_across_features(part, share[features]), *_related_features(part)]
    signs = tuple(
        Sign(name, effect, p_value, effect <= -MIN_EFFECT and p_value < FALSE_ALARM_RATE / len(tests))
        for name, effect, p_value in tests
    )
    return LowValues(any(sign.found for sign in signs), signs)


def _across_features(part: np.ndarray, share: np.ndarray) -> list[tuple[SignName, float, float]]:
    """Name, effect and p-value of the first and second sign, as far as they can be tested."""
    from scipy.stats import spearmanr

    enough = (~np.isnan(part)).sum(axis=0) >= MIN_KNOWN
    part, share = part[:, enough], share[enough]
    if part.shape[1] == 0:
        return []
    low, median, high = nan_quantiles(part, _TAIL_QUANTILES)
    spread = high - low
    varies = spread > 0
    tail = (median - low)[varies] / spread[varies]
    tests: list[tuple[SignName, float, float]] = []
    compared: tuple[tuple[SignName, np.ndarray, np.ndarray], ...] = (
        ("level", median, share),
        ("lower tail", tail, share[varies]),
    )
    for name, values, missing in compared:
        if len(values) >= MIN_KNOWN and np.ptp(values) > 0 and np.ptp(missing) > 0:
            result = spearmanr(missing, values, alternative="less")
            tests.append((name, float(result.statistic), float(result.pvalue)))
    return tests


def _related_features(part: np.ndarray) -> list[tuple[SignName, float, float]]:
    """Name, effect and p-value of the third sign: a score test with the samples as clusters."""
    from scipy.stats import t

    related = _related(part)
    if related is None:
        return []
    n = len(part)
    missing = (~related.known).astype(np.float64)
    rate = missing.mean(axis=0)
    by_sample = ((missing - rate) * (related.predictor - related.predictor.mean(axis=0))).sum(axis=1)
    total, spread_of_total = by_sample.sum(), np.sqrt((by_sample**2).sum())
    effect = total / (n * rate * (1 - rate)).sum()
    return [("related features", float(effect), float(t.cdf(total / spread_of_total, df=n - 1)))]


class _Related(NamedTuple):
    """Features with missing values, and what their related features say of them."""

    known: np.ndarray  # (n, T)
    scores: np.ndarray  # (n, T) ranks of the known values, see `rank_scores`
    predictor: np.ndarray  # (n, T) mean score of the related features, with standard deviation 1


def _related(part: np.ndarray) -> _Related | None:
    """At most `MAX_TARGETS` features with missing values; None if there is too little to compare."""
    n = part.shape[0]
    known = ~np.isnan(part)
    n_known = known.sum(axis=0)
    known, part = known[:, n_known >= MIN_KNOWN], part[:, n_known >= MIN_KNOWN]
    targets = np.flatnonzero((~known).any(axis=0))
    if n < MIN_SAMPLES_FOR_RELATED or len(targets) == 0 or known.shape[1] < 2:
        return None
    targets = targets[random_positions(len(targets), MAX_TARGETS)]
    scores = rank_scores(part, known)
    predictor = _related_mean(scores, known, targets)  # (n, T)
    spread = predictor.std(axis=0)
    targets, predictor = targets[spread > 0], predictor[:, spread > 0] / spread[spread > 0]
    return _Related(known[:, targets], scores[:, targets], predictor) if len(targets) else None


def low_strength(X: np.ndarray) -> float:
    """How strongly low values are missing: the odds of a value are multiplied by exp(-strength * z), z its rank score.

    The related features show it: known values that are drawn with these weights are related to values as low as those
    of the missing ones are. The result is 0 if the missing values do not seem low, and at most `MAX_LOW_STRENGTH`,
    where only the lowest values are drawn.
    """
    part = X[np.ix_(random_positions(X.shape[0], MAX_SAMPLES), random_positions(X.shape[1], MAX_FEATURES))]
    related = _related(part.astype(np.float64))
    if related is None:
        return 0.0
    missing = ~related.known
    number = missing.sum(axis=0)
    by_row = np.isnan(part).mean(axis=1)[:, None] * related.known
    seen = (related.predictor * missing).sum() / number.sum()

    def excess(strength: float) -> float:
        weights = by_row * np.exp(-strength * related.scores)
        drawn = (weights * related.predictor).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-300)
        return float(drawn @ number / number.sum() - seen)

    if excess(0.0) <= 0:
        return 0.0
    if excess(MAX_LOW_STRENGTH) >= 0:
        return MAX_LOW_STRENGTH
    from scipy.optimize import brentq

    return float(brentq(excess, 0.0, MAX_LOW_STRENGTH, xtol=1e-3))


def rank_scores(part: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n, G) float32 ranks of the known values of each column, with mean 0 and variance 1; 0 where missing."""
    from scipy.stats import rankdata

    ranks = rankdata(np.where(known, part, np.inf), axis=0)
    ranks -= (known.sum(axis=0) + 1) / 2
    ranks[~known] = 0.0
    spread = np.sqrt((ranks**2).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    return (ranks / np.where(spread > 0, spread, 1.0)).astype(np.float32)


def _related_mean(scores: np.ndarray, known: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(n, T) mean score of the related features known in the sample, weighted by correlation; 0 if there are none."""
    is_known = known.astype(np.float32)
    norms = np.sqrt((scores[:, targets] ** 2).T @ is_known * (is_known[:, targets].T @ scores**2))  # (T, G)
    correlation = scores[:, targets].T @ scores / np.maximum(norms, 1.0)  # (T, G)
    correlation[np.arange(len(targets)), targets] = 0.0
    k = min(N_RELATED, scores.shape[1] - 1)
    related = np.argpartition(-np.abs(correlation), k - 1, axis=1)[:, :k]
    weights = np.take_along_axis(correlation, related, axis=1)
    weighted, norm = np.zeros((2, len(scores), len(targets)))
    for column, weight in zip(related.T, weights.T, strict=True):
        weighted += scores[:, column] * weight
        norm += is_known[:, column] * np.abs(weight)
    return weighted / np.where(norm > 0, norm, 1.0)
