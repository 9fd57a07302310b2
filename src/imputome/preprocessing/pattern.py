"""How missing values lie in a matrix: at random, by feature, by sample, or in blocks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from imputome.preprocessing.subset import MAX_SAMPLES, drawn

PatternName = Literal["none", "random", "by feature", "by sample", "by feature and sample", "blocks"]

LEVEL = 1e-3
SPREAD = 0.2  # SD of the true shares, relative to their mean, under which they count as equal
OVERLAP = 0.5  # Jaccard index from which two features are missing together
MORE_OVERLAP = 0.25  # by how much it must exceed what chance gives
_MIN_MISSING = 3  # missing values of a feature from which its overlap says something
_MAX_FEATURES = 1000


@dataclass(frozen=True)
class Pattern:
    """Where the missing values are.

    Attributes
    ----------
    name : ``"none"``, ``"random"``, ``"by feature"``, ``"by sample"``, ``"by feature and sample"`` or ``"blocks"``.
    feature_spread, sample_spread : SD of the shares missing of features and samples beyond what chance gives, relative
        to the mean share.
    feature_p, sample_p : p-values of Cochran's Q tests that all features, all samples, have the same share.
    overlap : mean, over missing values, of the Jaccard index between the missing samples of that feature and those of
        the feature most like it; None where too few values are missing to say.
    overlap_by_chance : the same after shuffling the missing values within each feature or, if that is more, in values
        missing at random at the rates of the samples.
    """

    name: PatternName
    feature_spread: float
    feature_p: float
    sample_spread: float
    sample_p: float
    overlap: float | None
    overlap_by_chance: float | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)

    def line(self) -> str:
        """One sentence."""
        if self.name == "none":
            return "pattern: nothing is missing"
        if self.name == "random":
            return "pattern: random (features and samples miss values no more unequally than chance makes them)"
        if self.name == "blocks":
            return (
                f"pattern: blocks (features miss the same samples: {100 * (self.overlap or 0):.0f} % overlap, "
                f"{100 * (self.overlap_by_chance or 0):.0f} % by chance)"
            )
        unequal = {
            "by feature": f"features differ, {100 * self.feature_spread:.0f} % of the mean share; samples do not",
            "by sample": f"samples differ, {100 * self.sample_spread:.0f} % of the mean share; features do not",
        }
        both = (
            f"features differ by {100 * self.feature_spread:.0f} % of the mean share, "
            f"samples by {100 * self.sample_spread:.0f} %"
        )
        return f"pattern: {self.name} ({unequal.get(self.name, both)})"


def pattern(X: np.ndarray, by_feature: np.ndarray, by_sample: np.ndarray) -> Pattern:
    """Tell the pattern of the missing values.

    Features differ if Cochran's Q test, which holds the missing values of each sample fixed, has p < `LEVEL` and their
    shares spread by `SPREAD` or more; samples likewise with features held fixed. Blocks are seen by overlap: features
    that miss the same samples, with an overlap of `OVERLAP` or more that is `MORE_OVERLAP` above chance.

    Parameters
    ----------
    X : (n, G) real values, NaN for missing; 1,000 samples and 1,000 features drawn of it serve for the overlap.
    by_feature, by_sample : (G,) and (n,) missing values of each.
    """
    if by_feature.sum() == 0:
        return Pattern("none", 0.0, 1.0, 0.0, 1.0, None, None)
    feature_spread, feature_p = cochran(by_feature, by_sample)
    sample_spread, sample_p = cochran(by_sample, by_feature)
    overlap, by_chance = _overlap(X, by_feature, by_sample)
    features_differ = feature_p < LEVEL and feature_spread >= SPREAD
    samples_differ = sample_p < LEVEL and sample_spread >= SPREAD
    if overlap is not None and by_chance is not None and overlap >= max(OVERLAP, by_chance + MORE_OVERLAP):
        name: PatternName = "blocks"
    elif features_differ and samples_differ:
        name = "by feature and sample"
    elif features_differ or samples_differ:
        name = "by feature" if features_differ else "by sample"
    else:
        name = "random"
    return Pattern(name, feature_spread, feature_p, sample_spread, sample_p, overlap, by_chance)


def cochran(counts: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Cochran's Q test that the shares of one side of a 0/1 matrix are equal, the counts of the other side held fixed.

    Parameters
    ----------
    counts : (k,) ones of each of the k rows to compare. others : (b,) ones of each of the b columns.

    Returns
    -------
    Spread of the true shares relative to their mean (0 where they vary no more than chance makes them), and p-value.
    """
    from scipy.stats import chi2

    counts, others = counts.astype(np.float64), others.astype(np.float64)
    k, total = len(counts), counts.sum()
    by_chance = (k * total - (others**2).sum()) / (k * max(k - 1, 1))  # variance of the counts
    if by_chance <= 0:  # every column is full or empty: nothing to compare
        return 0.0, 1.0
    squares = ((counts - total / k) ** 2).sum()
    excess = max(squares / (k - 1) - by_chance, 0.0)
    return float(np.sqrt(excess) / (total / k)), float(chi2.sf(squares / by_chance, k - 1))


def _overlap(X: np.ndarray, by_feature: np.ndarray, by_sample: np.ndarray) -> tuple[float | None, float | None]:
    """Overlap with the feature most alike, as it is and by chance."""
    n, G = X.shape
    seen = np.flatnonzero(by_sample < G)  # samples without a value overlap in all features
    rows = seen[drawn(len(seen), MAX_SAMPLES)]
    candidates = np.flatnonzero((by_feature >= _MIN_MISSING) & (by_feature < n))
    missing = np.isnan(X[np.ix_(rows, candidates[drawn(len(candidates), _MAX_FEATURES)])])
    measured = _nearest(missing)
    if measured is None:
        return None, None
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(missing, axis=0)
    by_rate = rng.random(missing.shape) < (by_sample[rows] / G)[:, None]
    return measured, max(_nearest(shuffled) or 0.0, _nearest(by_rate) or 0.0)


def _nearest(missing: np.ndarray) -> float | None:
    """Mean over missing values; None with fewer than two features that tell."""
    number = missing.sum(axis=0)
    ones = missing[:, (number >= _MIN_MISSING) & (number < len(missing))].astype(np.float32)
    if ones.shape[1] < 2:
        return None
    both = ones.T @ ones
    size = np.diag(both).copy()
    jaccard = both / (size[:, None] + size - both)
    np.fill_diagonal(jaccard, 0.0)
    return float(np.average(jaccard.max(axis=1), weights=size))
