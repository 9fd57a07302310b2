"""What an imputation does to zeros, above all to those that are probably no dropouts.

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

MAX_CHANCE = 0.01  # a zero with at most this probability in an expressing cell shows that the gene is not expressed
ZERO_BELOW = 0.5  # an imputed value below this is a zero
RAISED_ABOVE = 1.0  # an imputed value above this claims that the gene is expressed
OVERDISPERSIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # values of phi that are tried
MAX_RATE_RATIO = 10.0  # rates are searched up to this multiple of the rate without truncation at 0
CHI2_95 = 3.841  # 95 % quantile of chi-squared with one degree of freedom
N_HALVINGS = 30  # of the interval of the rate
VALUES_PER_BLOCK = 2**21  # dense values in memory at a time


@dataclass(frozen=True)
class Zeros:
    """Zeros of each gene before and after imputing."""

    before: np.ndarray  # (G,) share of cells with a count of 0
    after: np.ndarray  # (G,) share of cells with an imputed count below 0.5
    confident: np.ndarray  # (G,) number of confident biological zeros, see `confident_rates`
    raised: np.ndarray  # (G,) number of these with an imputed count above 1
    cells: int

    @property
    def raised_share(self) -> float:
        """Share of all confident zeros with an imputed count above 1; NaN if there are none."""
        number = self.confident.sum()
        return float(self.raised.sum() / number) if number else float("nan")

    def to_frame(self, names: pd.Index) -> pd.DataFrame:
        """A table with a row for each gene."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in ("before", "after", "confident", "raised")}
        return pd.DataFrame(columns, index=names)


def zeros_before_and_after(
    imputation: Imputation,
    *,
    keep_observed: bool | None = None,
    rates: tuple[np.ndarray, np.ndarray] | None = None,
) -> Zeros:
    """Count zeros of the data and of the imputed output, on scale ``counts``.

    ``keep_observed`` says whether observed values are put back (None: the method's default). ``rates`` are the
    `confident_rates` of the same data, if they are known.

    Cost: one pass over all predictions in blocks of rows, and `confident_rates`.
    """
    data = imputation.data
    if data.kind != "counts":
        raise InputError(
            "zeros of real values have no special meaning: pass an imputation of counts",
            code="zeros-need-counts",
            parameter="imputation",
        )
    n, G = data.shape
    depth, log_max_chance = data.depth, np.log(MAX_CHANCE)
    rate, phi = confident_rates(data) if rates is None else rates
    totals = np.zeros((3, G), dtype=np.int64)
    for rows, values in imputation.blocks(max(1, VALUES_PER_BLOCK // G), scale="counts", keep_observed=keep_observed):
        zero = data.X[rows].toarray() == 0
        confident = zero & (log_zero(depth[rows, None] * rate, phi) < log_max_chance)
        totals[0] += (values < ZERO_BELOW).sum(axis=0)
        totals[1] += confident.sum(axis=0)
        totals[2] += (confident & (values > RAISED_ABOVE)).sum(axis=0)
    before = 1 - np.bincount(data.X.indices, minlength=G) / n
    return Zeros(before, totals[0] / n, totals[1], totals[2], n)


def confident_rates(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Rate r and overdispersion phi of each gene in the cells that express it, per molecule of the library; each (G,).

    In expressing cells the count is taken as negative binomial of mean m = d r and variance m + phi m^2. A zero in a
    cell with library size d then has probability (1 + phi m)^(-1/phi) if the cell expresses the gene; below 0.01 it is
    a *confident* zero. Rate and overdispersion are fitted to the cells with a count, with the distribution truncated at
    0: for each phi of `OVERDISPERSIONS` the rate solves ``sum (x - m / (1 - P(0))) / (1 + phi m) = 0``. Of these phi,
    the largest is taken whose log-likelihood is within 1.92 of the best (upper end of the 95 % interval), so that in
    doubt a zero is not called confident. A gene that all cells express weakly keeps its low rate, and none of its zeros
    is confident. Both numbers are 0 for genes that cannot have a confident zero.

    Cost: 240 passes over the nonzeros of the genes that can have a confident zero.
    """
    X, G = data.X, data.shape[1]
    depth = np.repeat(data.depth, np.diff(X.indptr)).astype(np.float64)  # of the cell of every nonzero
    if (depth <= 0).any():
        raise InputError(
            "a cell with counts has a library size of 0: pass the right library sizes, or none", code="empty-library"
        )
    total = np.bincount(X.indices, weights=X.data, minlength=G)
    library = np.bincount(X.indices, weights=depth, minlength=G)
    highest = np.divide(total, library, out=np.zeros(G), where=library > 0)  # as if the distribution were not truncated
    genes = np.flatnonzero(highest * data.depth.max() > -np.log(MAX_CHANCE))
    rate, overdispersion = np.zeros(G), np.zeros(G)
    if len(genes) == 0:
        return rate, overdispersion
    position = np.full(G, -1)
    position[genes] = np.arange(len(genes))
    kept = position[X.indices] >= 0
    nonzeros = _Nonzeros(position[X.indices[kept]], X.data[kept].astype(np.float64), depth[kept], len(genes))
    fits = [(phi, *nonzeros.fit(phi, highest[genes])) for phi in OVERDISPERSIONS]
    best = np.max([likelihood for _, _, likelihood in fits], axis=0)
    for phi, fitted, likelihood in fits:  # in rising order, so that the largest possible phi stays
        near = likelihood > best - CHI2_95 / 2
        rate[genes[near]], overdispersion[genes[near]] = fitted[near], phi
    return rate, overdispersion


class _Nonzeros:
    """The nonzero counts x of k genes, each with the library size of its cell."""

    def __init__(self, gene: np.ndarray, x: np.ndarray, depth: np.ndarray, k: int) -> None:
        self.gene, self.x, self.depth, self.k = gene, x, depth, k

    def sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.gene, weights=values, minlength=self.k)

    def fit(self, phi: float, highest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(k,) maximum-likelihood rates at one phi, and their log-likelihood."""
        low, high = np.zeros(self.k), highest * np.where(phi > 0, MAX_RATE_RATIO, 1.0)
        for _ in range(N_HALVINGS):
            middle = (low + high) / 2
            mean = self.depth * middle[self.gene]
            mean = np.maximum(mean, np.finfo(float).tiny)
            score = self.sums((self.x - mean / -np.expm1(log_zero(mean, phi))) / (1 + phi * mean))
            too_low = score > 0
            low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
        rate = (low + high) / 2
        mean = np.maximum(self.depth * rate[self.gene], np.finfo(float).tiny)
        log_p0 = log_zero(mean, phi)
        if phi == 0:
            terms = self.x * np.log(mean) - mean - gammaln(self.x + 1)
        else:
            size = 1 / phi
            terms = gammaln(self.x + size) - gammaln(size) - gammaln(self.x + 1) + log_p0
            terms += self.x * np.log(phi * mean / (1 + phi * mean))
        return rate, self.sums(terms - np.log(-np.expm1(log_p0)))


def log_zero(mean: Any, phi: Any) -> Any:
    """Log of the probability of 0 of a negative binomial with variance ``mean + phi mean^2``."""
    phi = np.asarray(phi, dtype=np.float64)
    safe = np.where(phi > 0, phi, 1.0)
    return np.where(phi > 0, -np.log1p(phi * mean) / safe, -mean)
