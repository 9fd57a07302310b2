"""What an imputation does to zeros, those above all that are hardly dropouts.

Letters: ``n`` cells, ``G`` genes; ``d`` library size, ``r`` a gene's rate per molecule of the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaln

from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from imputome.core.data import Data
    from imputome.core.imputation import Imputation

CONFIDENT = 0.01  # probability of a count of 0 by chance, up to which a zero is taken for absence of the gene
ROUNDED = 0.5  # an imputed value under it is a zero
RAISED = 1.0  # an imputed value over it says that the gene is there
SPREADS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # overdispersions tried
HEADROOM = 10.0  # how far over the mean of what was seen a rate is sought
CHI2_95 = 3.841  # 95 % quantile of chi-squared with one degree of freedom
HALVINGS = 30
VALUES = 2**21  # dense values made at a time


@dataclass(frozen=True)
class Zeros:
    """Zeros of each gene before and after imputing.

    Attributes
    ----------
    before, after : (G,) share of the cells whose count is 0, and whose imputed count is under 0.5.
    confident : (G,) number of confident biological zeros, see `confident_rates`.
    raised : (G,) number of these whose imputed count is over 1.
    cells : n.
    """

    before: np.ndarray
    after: np.ndarray
    confident: np.ndarray
    raised: np.ndarray
    cells: int

    @property
    def raised_share(self) -> float:
        """Share of all confident zeros that were raised over one count; NaN if there are none."""
        number = self.confident.sum()
        return float(self.raised.sum() / number) if number else float("nan")

    def to_frame(self, names: pd.Index) -> pd.DataFrame:
        """A table with a row for each gene."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in ("before", "after", "confident", "raised")}
        return pd.DataFrame(columns, index=names)


def zeros_before_and_after(imputation: Imputation, *, keep_observed: bool | None = None) -> Zeros:
    """Count zeros of the data that were imputed, and of the result as it is put out, on scale ``counts``.

    Parameters
    ----------
    keep_observed : whether observed values are put back; None: the method's habit.

    Raises
    ------
    InputError
        The data are real values.

    Cost: one pass over all predictions in blocks of rows, and `confident_rates`.
    """
    data = imputation.data
    if data.kind != "counts":
        raise InputError("zeros mean nothing special in real values: pass an imputation of counts")
    n, G = data.shape
    depth, least = data.depth, np.log(CONFIDENT)
    rate, phi = confident_rates(data)
    totals = np.zeros((3, G), dtype=np.int64)
    for rows, values in imputation.blocks(max(1, VALUES // G), scale="counts", keep_observed=keep_observed):
        zero = data.X[rows].toarray() == 0
        confident = zero & (log_zero(depth[rows, None] * rate, phi) < least)
        totals[0] += (values < ROUNDED).sum(axis=0)
        totals[1] += confident.sum(axis=0)
        totals[2] += (confident & (values > RAISED)).sum(axis=0)
    before = 1 - np.bincount(data.X.indices, minlength=G) / n
    return Zeros(before, totals[0] / n, totals[1], totals[2], n)


def confident_rates(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """(G,) rate r and (G,) overdispersion phi of each gene in the cells that express it, per molecule of the library.

    Where a gene is expressed its count is taken as negative binomial of mean m = d r and variance m + phi m^2, so that
    a zero of a cell with library d has the chance (1 + phi m)^(-1/phi) if the cell expresses the gene. Both are fitted
    to the cells where the gene was seen, cut off at 0: for each phi of `SPREADS` the rate solves
    ``sum (x - m / (1 - P(0))) / (1 + phi m) = 0``, and of these phi the largest is taken whose log-likelihood lies
    within 1.92 of the best (the upper end of its 95 % interval), so that a zero is rather not called confident. A gene
    that all cells express, but weakly, so keeps its low rate, and none of its zeros is confident.

    Raises
    ------
    InputError
        A cell with counts has no library size.

    Cost: 240 passes over the nonzeros of the genes that can have a confident zero at all; the others get r = 0.
    """
    X, G = data.X, data.shape[1]
    depth = np.repeat(data.depth, np.diff(X.indptr)).astype(np.float64)  # of every nonzero
    if (depth <= 0).any():
        raise InputError("a cell with counts has a library size of 0: pass the right library sizes, or none")
    total = np.bincount(X.indices, weights=X.data, minlength=G)
    library = np.bincount(X.indices, weights=depth, minlength=G)
    highest = np.divide(total, library, out=np.zeros(G), where=library > 0)  # as if nothing were cut off
    genes = np.flatnonzero(highest * data.depth.max() > -np.log(CONFIDENT))
    rate, spread = np.zeros(G), np.zeros(G)
    if len(genes) == 0:
        return rate, spread
    place = np.full(G, -1)
    place[genes] = np.arange(len(genes))
    kept = place[X.indices] >= 0
    seen = _Seen(place[X.indices[kept]], X.data[kept].astype(np.float64), depth[kept], len(genes))
    fits = [(phi, *seen.fit(phi, highest[genes])) for phi in SPREADS]
    best = np.max([likelihood for _, _, likelihood in fits], axis=0)
    for phi, found, likelihood in fits:  # from the smallest: the largest that will do stays
        near = likelihood > best - CHI2_95 / 2
        rate[genes[near]], spread[genes[near]] = found[near], phi
    return rate, spread


class _Seen:
    """The nonzero counts x of k genes, with the library of the cell of each."""

    def __init__(self, gene: np.ndarray, x: np.ndarray, depth: np.ndarray, k: int) -> None:
        self.gene, self.x, self.depth, self.k = gene, x, depth, k

    def sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.gene, weights=values, minlength=self.k)

    def fit(self, phi: float, highest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(k,) maximum-likelihood rates at one phi, and their log-likelihood (terms in x alone left out)."""
        low, high = np.zeros(self.k), highest * np.where(phi > 0, HEADROOM, 1.0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            mean = self.depth * middle[self.gene]
            mean = np.maximum(mean, np.finfo(float).tiny)
            score = self.sums((self.x - mean / -np.expm1(log_zero(mean, phi))) / (1 + phi * mean))
            too_low = score > 0
            low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
        rate = (low + high) / 2
        mean = np.maximum(self.depth * rate[self.gene], np.finfo(float).tiny)
        none = log_zero(mean, phi)
        if phi == 0:
            terms = self.x * np.log(mean) - mean - gammaln(self.x + 1)
        else:
            size = 1 / phi
            terms = gammaln(self.x + size) - gammaln(size) - gammaln(self.x + 1) + none
            terms += self.x * np.log(phi * mean / (1 + phi * mean))
        return rate, self.sums(terms - np.log(-np.expm1(none)))


def log_zero(mean: Any, phi: Any) -> Any:
    """Log of the chance of a count of 0 of a negative binomial of variance ``mean + phi mean^2``."""
    phi = np.asarray(phi, dtype=np.float64)
    safe = np.where(phi > 0, phi, 1.0)
    return np.where(phi > 0, -np.log1p(phi * mean) / safe, -mean)
