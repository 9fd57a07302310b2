"""What is missing from a matrix of real values, in which pattern, why it may be missing, and which method suits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from imputome.errors import InputError
from imputome.inspection.advice import MOSTLY_MISSING, Advice, advise
from imputome.inspection.tails import MAX_SAMPLES, LowValues, check_real_matrix, low_values, random_positions

PatternName = Literal["none", "random", "by feature", "by sample", "by feature and sample", "blocks"]

SHARE_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)  # of the shares missing
MAX_WORST = 5  # features and samples named in the report
SIGNIFICANCE = 1e-3  # of the tests that all features, all samples, have the same share missing
MIN_SPREAD = 0.2  # SD of the true shares over their mean; below it they count as equal
MIN_OVERLAP = 0.5  # Jaccard index from which two features are missing together
MIN_OVERLAP_EXCESS = 0.25  # by which the Jaccard index must exceed that by chance, if it is not near 1 by chance
MIN_OVERLAP_GAIN = 0.5  # share of the way from the Jaccard index by chance to 1 that is enough then
MIN_MISSING_FOR_OVERLAP = 3  # missing values of a feature
MAX_FEATURES_FOR_OVERLAP = 1000
ENTRIES_PER_BLOCK = 2**21  # read at a time
COLUMNS_PER_PIECE = 2**14
MIN_SAMPLES_TO_LEARN = 3  # samples that link a missing value with what is known of its sample
MAX_SAMPLES_FOR_LINKS = 400


@dataclass(frozen=True)
class Shares:
    """Shares of missing values of the features, or of the samples."""

    number: int  # of features, or samples
    quantiles: tuple[float, ...]  # of the shares, at `SHARE_QUANTILES`
    complete: int  # number without missing values
    empty: int  # number without known values
    over_half: int  # number with more than half missing
    worst: tuple[tuple[str, float], ...]  # names and shares of up to `MAX_WORST` with the most missing, the most first

    @classmethod
    def of(cls, shares: np.ndarray, names: Sequence[str] | None) -> Shares:
        """Summarise the shares of all features, or of all samples; ``names=None`` means positions."""
        worst = [int(k) for k in np.argsort(-shares, kind="stable")[:MAX_WORST] if shares[k] > 0]
        return cls(
            number=len(shares),
            quantiles=tuple(float(value) for value in np.quantile(shares, SHARE_QUANTILES)),
            complete=int((shares == 0).sum()),
            empty=int((shares == 1).sum()),
            over_half=int((shares > 0.5).sum()),
            worst=tuple((str(k if names is None else names[k]), float(shares[k])) for k in worst),
        )

    def line(self, what: str) -> str:
        """The shares as one sentence about ``what``, "features" or "samples"."""
        low, _, median, _, high, top = (100 * value for value in self.quantiles)
        text = (
            f"{what}: {low:.1f} to {top:.1f} % missing (median {median:.1f} %, 95 % of them at most {high:.1f} %); "
            f"{self.complete:,} complete, {self.over_half:,} over half missing, {self.empty:,} without a value"
        )
        if self.worst:
            text += "; worst: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.worst)
        return text


@dataclass(frozen=True)
class Pattern:
    """Where the missing values are."""

    name: PatternName  # see `pattern`
    feature_spread: float  # SD of the features' shares missing beyond that by chance, over the mean share
    feature_p: float  # of Cochran's Q test that all features have the same share
    sample_spread: float  # the same two for samples
    sample_p: float
    # Jaccard index of the samples in which a feature and the most similar one are missing, mean over missing values;
    # None if too few values are missing
    overlap: float | None
    # the same if values were missing at random: the larger of two results, for missing values that are shuffled
    # within each feature, and for values that are missing at random with the rates of the samples
    overlap_by_chance: float | None

    def line(self) -> str:
        """The pattern as one sentence."""
        by_feature, by_sample = f"{100 * self.feature_spread:.0f} %", f"{100 * self.sample_spread:.0f} %"
        overlap, by_chance = (f"{100 * (share or 0):.0f} %" for share in (self.overlap, self.overlap_by_chance))
        meaning = {
            "none": "nothing is missing",
            "random": "the shares of features and samples differ no more than by chance",
            "by feature": f"the shares of features differ, by {by_feature} of their mean; those of samples do not",
            "by sample": f"the shares of samples differ, by {by_sample} of their mean; those of features do not",
            "by feature and sample": (
                f"the shares differ, by {by_feature} of their mean for features and by {by_sample} for samples"
            ),
            "blocks": f"features are missing in the same samples, with {overlap} overlap, {by_chance} by chance",
        }
        return f"pattern: {self.name} ({meaning[self.name]})"


@dataclass(frozen=True)
class MissingnessReport:
    """The result of `missingness` for samples x features."""

    shape: tuple[int, int]
    n_missing: int  # NaN
    share: float  # of all values
    features: Shares
    samples: Shares
    pattern: Pattern
    unlinked: float  # share of the missing values that nothing is known about, see `unlinked`; 0 unless in blocks
    low_values: LowValues
    advice: Advice

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values and dicts, for JSON."""
        fields = asdict(self)
        for side in (fields["features"], fields["samples"]):
            side["quantiles"] = dict(zip(map(str, SHARE_QUANTILES), side["quantiles"], strict=True))
        return fields

    def lines(self) -> list[str]:
        """The report as sentences."""
        n, G = self.shape
        size = f"{n:,} samples x {G:,} features, {self.n_missing:,} values missing ({100 * self.share:.1f} %)"
        shares = [self.features.line("features"), self.samples.line("samples")]
        missing = [*shares, self.pattern.line(), *self.low_values.lines()] if self.n_missing else []
        return [size, *missing, *self.advice.lines()]


def missingness(
    X: np.ndarray, *, obs_names: Sequence[str] | None = None, var_names: Sequence[str] | None = None
) -> MissingnessReport:
    """Describe the missing values of a matrix before they are imputed.

    The pattern and the signs of low values use a random part of the samples above 1,000 and of the features above
    1,000 or 2,000, the same part on each call. All shares use all values.

    Parameters
    ----------
    X : ndarray of shape (n, G)
        Real values of samples x features, NaN for missing. It is neither changed nor copied as a whole.
    obs_names, var_names : sequence of str, optional
        Names of samples and features for the report; None means their positions.

    Returns
    -------
    MissingnessReport

    Raises
    ------
    InputError
        ``X`` is not a 2-d array of real numbers, is empty, or the names do not fit it.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.inspection.missingness import missingness
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 20))
    >>> X[rng.random(X.shape) < rng.beta(1, 5, size=20)] = np.nan  # each feature has its own share
    >>> report = missingness(X)
    >>> report.n_missing, report.pattern.name, report.advice.method
    (363, 'by feature', 'gaussian_copula')
    """
    check_real_matrix(X)
    n, G = X.shape
    if X.size == 0:
        raise InputError(f"the matrix is empty ({n} samples x {G} features)", code="empty-matrix")
    for parameter, names, number in (("obs_names", obs_names, n), ("var_names", var_names, G)):
        if names is not None and len(names) != number:
            text = f"{parameter} has {len(names)} names, and the matrix needs {number}: pass one name each"
            raise InputError(text, code="name-count", parameter=parameter)
    by_sample, by_feature = count_missing(X)
    n_missing = int(by_feature.sum())
    share = n_missing / X.size
    feature_share = by_feature / n
    features, samples = Shares.of(feature_share, var_names), Shares.of(by_sample / G, obs_names)
    low = low_values(X, feature_share) if n_missing else LowValues(suspected=False, signs=())
    found = pattern(X, by_feature, by_sample)
    alone = unlinked(~np.isnan(X[random_positions(n, MAX_SAMPLES_FOR_LINKS)])) if found.name == "blocks" else 0.0
    return MissingnessReport(
        shape=(n, G),
        n_missing=n_missing,
        share=share,
        features=features,
        samples=samples,
        pattern=found,
        unlinked=alone,
        low_values=low,
        advice=advise(
            n=n,
            G=G,
            share=share,
            mostly_missing=int((feature_share > MOSTLY_MISSING).sum()),
            empty_features=features.empty,
            empty_samples=samples.empty,
            low_values=low.suspected,
            unlinked=alone,
        ),
    )


def count_missing(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the NaN of each row, (n,), and of each column, (G,); reads a block of rows at a time."""
    n, G = X.shape
    by_row, by_column = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)
    step = min(max(ENTRIES_PER_BLOCK // max(G, 1), 1), 255)  # so many ones fit a byte: the sum is many times faster
    for start in range(0, n, step):
        nan = np.isnan(X[start : start + step])
        by_row[start : start + step] = np.count_nonzero(nan, axis=1)
        by_column += np.add.reduce(nan.view(np.uint8), axis=0, dtype=np.uint8)
    return by_row, by_column


def in_blocks(X: np.ndarray) -> bool:
    """Whether features are missing in the same samples (`pattern`), as where they were not measured there."""
    by_sample, by_feature = count_missing(X)
    return pattern(X, by_feature, by_sample).name == "blocks"


def pattern(X: np.ndarray, by_feature: np.ndarray, by_sample: np.ndarray) -> Pattern:
    """Find the pattern of the missing values, from the numbers missing of each feature, (G,), and each sample, (n,).

    Features differ if Cochran's Q test, which holds the numbers of missing values of the samples fixed, has
    p < `SIGNIFICANCE` and the spread of their shares is `MIN_SPREAD` or more. The same holds for samples, with the
    features fixed. The pattern is blocks if features are missing in the same samples, with an overlap of `MIN_OVERLAP`
    or more that is `MIN_OVERLAP_EXCESS` above that by chance; where most values are missing, half of the way from
    chance to 1 is enough. The overlap uses a random part of at most 1,000 samples
    and 1,000 features.
    """
    if by_feature.sum() == 0:
        return Pattern("none", 0.0, 1.0, 0.0, 1.0, None, None)
    feature_spread, feature_p = cochran(by_feature, by_sample)
    sample_spread, sample_p = cochran(by_sample, by_feature)
    overlap, by_chance = _overlap(X, by_feature, by_sample)
    features_differ = feature_p < SIGNIFICANCE and feature_spread >= MIN_SPREAD
    samples_differ = sample_p < SIGNIFICANCE and sample_spread >= MIN_SPREAD
    if overlap is not None and by_chance is not None and overlap >= max(MIN_OVERLAP, _least_overlap(by_chance)):
        name: PatternName = "blocks"
    elif features_differ and samples_differ:
        name = "by feature and sample"
    elif features_differ or samples_differ:
        name = "by feature" if features_differ else "by sample"
    else:
        name = "random"
    return Pattern(name, feature_spread, feature_p, sample_spread, sample_p, overlap, by_chance)


def _least_overlap(by_chance: float) -> float:
    return by_chance + min(MIN_OVERLAP_EXCESS, MIN_OVERLAP_GAIN * (1 - by_chance))


def cochran(counts: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Cochran's Q test that all rows of a 0/1 matrix have the same share of ones, with the column counts held fixed.

    Takes the ones of each row and of each column. Returns the SD of the true shares over their mean (0 if they vary no
    more than by chance), and the p-value.
    """
    from scipy.stats import chi2

    counts, others = counts.astype(np.float64), others.astype(np.float64)
    k, total = len(counts), counts.sum()
    by_chance = (k * total - (others**2).sum()) / (k * max(k - 1, 1))  # variance of the counts
    if by_chance <= 0:  # every column is full or empty: there is nothing to compare
        return 0.0, 1.0
    squares = ((counts - total / k) ** 2).sum()
    excess = max(squares / (k - 1) - by_chance, 0.0)
    return float(np.sqrt(excess) / (total / k)), float(chi2.sf(squares / by_chance, k - 1))


def _overlap(X: np.ndarray, by_feature: np.ndarray, by_sample: np.ndarray) -> tuple[float | None, float | None]:
    """The overlap of each feature with the most similar one, and the overlap by chance."""
    n, G = X.shape
    nonempty = np.flatnonzero(by_sample < G)  # a sample without values is missing in all features
    rows = nonempty[random_positions(len(nonempty), MAX_SAMPLES)]
    candidates = np.flatnonzero((by_feature >= MIN_MISSING_FOR_OVERLAP) & (by_feature < n))
    columns = candidates[random_positions(len(candidates), MAX_FEATURES_FOR_OVERLAP)]
    missing = np.isnan(X[np.ix_(rows, columns)])
    overlap = _overlap_with_nearest(missing)
    if overlap is None:
        return None, None
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(missing, axis=0)
    by_rate = rng.random(missing.shape) < (by_sample[rows] / G)[:, None]
    return overlap, max(_overlap_with_nearest(shuffled) or 0.0, _overlap_with_nearest(by_rate) or 0.0)


def _overlap_with_nearest(missing: np.ndarray) -> float | None:
    """Mean over missing values; None if fewer than two features have enough missing values."""
    n_missing = missing.sum(axis=0)
    ones = missing[:, (n_missing >= MIN_MISSING_FOR_OVERLAP) & (n_missing < len(missing))].astype(np.float32)
    if ones.shape[1] < 2:
        return None
    both = ones.T @ ones
    size = np.diag(both).copy()
    jaccard = both / (size[:, None] + size - both)
    np.fill_diagonal(jaccard, 0.0)
    return float(np.average(jaccard.max(axis=1), weights=size))


# -- missing values that nothing is known about -----------------------------------------------------------------------
def shared_columns(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, D) number of columns in which both rows are True."""
    total = np.zeros((len(rows), len(others)), dtype=np.float32)
    for start in range(0, rows.shape[1], COLUMNS_PER_PIECE):
        part = slice(start, start + COLUMNS_PER_PIECE)
        total += rows[:, part].astype(np.float32) @ others[:, part].T.astype(np.float32)
    return total


def unlinked(known: np.ndarray) -> float:
    """Share of the missing values about which the data say nothing.

    A missing value is linked if `MIN_SAMPLES_TO_LEARN` other samples have the feature, and also a feature that is known
    in the sample. Otherwise nothing shows how the feature depends on anything that is known of the sample. Samples and
    features without any value do not count.
    """
    known = known[known.any(axis=1)][:, known.any(axis=0)]
    missing = known.size - np.count_nonzero(known)
    if missing == 0:
        return 0.0
    share_one = (shared_columns(known, known) > 0).astype(np.float32)
    alone = 0
    for start in range(0, known.shape[1], COLUMNS_PER_PIECE):
        part = known[:, start : start + COLUMNS_PER_PIECE]
        alone += int((~part & (share_one @ part.astype(np.float32) < MIN_SAMPLES_TO_LEARN)).sum())
    return alone / missing
