"""What is missing from a matrix of real values, where, possibly why, and which method is advised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from imputome.errors import InputError
from imputome.inspection.advice import MOSTLY_MISSING, Advice, advise
from imputome.inspection.tails import MAX_SAMPLES, LowValues, drawn, low_values

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


QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
_BLOCK = 2**21  # entries looked at once
_WORST = 5


@dataclass(frozen=True)
class Shares:
    """Shares missing along one side of the matrix.

    Attributes
    ----------
    number : features, or samples.
    quantiles : of the shares, at `QUANTILES`.
    complete, empty : number with no missing value, and with nothing else.
    over_half : number with more than half missing.
    worst : up to five (name, share) with the most missing, the most first; only those with missing values.
    """

    number: int
    quantiles: tuple[float, ...]
    complete: int
    empty: int
    over_half: int
    worst: tuple[tuple[str, float], ...]

    def line(self, what: str) -> str:
        """One sentence about ``what``, "features" or "samples"."""
        low, _, middle, _, high, top = (100 * value for value in self.quantiles)
        text = (
            f"{what}: {low:.1f} to {top:.1f} % missing (median {middle:.1f} %, 19 in 20 at most {high:.1f} %); "
            f"{self.complete:,} complete, {self.over_half:,} over half missing, {self.empty:,} without a value"
        )
        if self.worst:
            text += "; worst: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.worst)
        return text


@dataclass(frozen=True)
class MissingnessReport:
    """What `missingness` found in samples x features.

    Attributes
    ----------
    shape : samples, features.
    n_missing, share : NaN entries, and their share of all.
    features, samples : shares along either side.
    pattern : where the missing values are.
    low_values : what speaks for values missing because they are low.
    advice : which method to use.
    """

    shape: tuple[int, int]
    n_missing: int
    share: float
    features: Shares
    samples: Shares
    pattern: Pattern
    low_values: LowValues
    advice: Advice

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, strings, lists and dicts, for JSON."""
        sides = {}
        for name in ("features", "samples"):
            shares: Shares = getattr(self, name)
            quantiles = dict(zip(map(str, QUANTILES), shares.quantiles, strict=True))
            sides[name] = {**asdict(shares), "quantiles": quantiles, "worst": [list(pair) for pair in shares.worst]}
        return {
            "shape": list(self.shape),
            "n_missing": self.n_missing,
            "share": self.share,
            **sides,
            "pattern": self.pattern.to_dict(),
            "low_values": self.low_values.to_dict(),
            "advice": self.advice.to_dict(),
        }

    def lines(self) -> list[str]:
        """The report as sentences."""
        n, G = self.shape
        head = f"{n:,} samples x {G:,} features, {self.n_missing:,} values missing ({100 * self.share:.1f} %)"
        if not self.n_missing:
            return [head, *self.advice.lines()]
        return [
            head,
            self.features.line("features"),
            self.samples.line("samples"),
            self.pattern.line(),
            *self.low_values.lines(),
            *self.advice.lines(),
        ]


def missingness(
    X: np.ndarray, *, obs_names: Sequence[str] | None = None, var_names: Sequence[str] | None = None
) -> MissingnessReport:
    """Look at the missing values of a matrix before anything is filled.

    Parameters
    ----------
    X : (n, G) samples x features of real numbers, NaN for missing; not changed, and never copied as a whole.
    obs_names, var_names : names of samples and features for the report; None means their positions.

    Returns
    -------
    MissingnessReport. The pattern and the suspicion of low values rest on a random part of the samples and features
    above 1,000 and 2,000 (the same part each time), all shares on all values.

    Raises
    ------
    InputError
        ``X`` is no 2-d array of real numbers, is empty, or the names do not fit it.
    """
    if X.ndim != 2 or X.dtype.kind not in "iuf":
        raise InputError(f"a matrix of samples x features is needed, not {X.dtype} values of shape {X.shape}")
    n, G = X.shape
    if X.size == 0:
        raise InputError(f"the matrix is empty ({n} samples x {G} features): there is nothing to look at")
    for what, names, number in (("obs_names", obs_names, n), ("var_names", var_names, G)):
        if names is not None and len(names) != number:
            raise InputError(f"{what} holds {len(names)} names, and the matrix {number}: pass one name each")
    by_sample, by_feature = count_missing(X)
    n_missing = int(by_feature.sum())
    share = n_missing / X.size
    feature_share = by_feature / n
    features, samples = _shares(feature_share, var_names), _shares(by_sample / G, obs_names)
    low = low_values(X, feature_share) if n_missing else LowValues(suspected=False, signs=())
    return MissingnessReport(
        shape=(n, G),
        n_missing=n_missing,
        share=share,
        features=features,
        samples=samples,
        pattern=pattern(X, by_feature, by_sample),
        low_values=low,
        advice=advise(
            n=n,
            G=G,
            share=share,
            mostly_missing=int((feature_share > MOSTLY_MISSING).sum()),
            empty_features=features.empty,
            empty_samples=samples.empty,
            low_values=low.suspected,
        ),
    )


def count_missing(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) and (G,) numbers of NaN in each row and column, a block of rows at a time."""
    n, G = X.shape
    by_row, by_column = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)
    step = min(max(_BLOCK // max(G, 1), 1), 255)  # sums of so many ones fit a byte, which is many times faster
    for start in range(0, n, step):
        nan = np.isnan(X[start : start + step])
        by_row[start : start + step] = np.count_nonzero(nan, axis=1)
        by_column += np.add.reduce(nan.view(np.uint8), axis=0, dtype=np.uint8)
    return by_row, by_column


def _shares(shares: np.ndarray, names: Sequence[str] | None) -> Shares:
    worst = [int(k) for k in np.argsort(-shares, kind="stable")[:_WORST] if shares[k] > 0]
    return Shares(
        number=len(shares),
        quantiles=tuple(float(value) for value in np.quantile(shares, QUANTILES)),
        complete=int((shares == 0).sum()),
        empty=int((shares == 1).sum()),
        over_half=int((shares > 0.5).sum()),
        worst=tuple((str(k if names is None else names[k]), float(shares[k])) for k in worst),
    )
