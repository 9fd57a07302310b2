"""What is missing from a matrix of real values, where, possibly why, and which method is advised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from imputome.errors import InputError
from imputome.preprocessing.advice import MOSTLY_MISSING, Advice, advise
from imputome.preprocessing.low_values import LowValues, low_values
from imputome.preprocessing.pattern import Pattern, pattern

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
