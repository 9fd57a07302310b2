"""What an imputation does to zeros, those above all that are hardly dropouts.

Letters: ``n`` cells, ``G`` genes; ``d`` library size, ``r`` a gene's rate per molecule of the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from imputome.methods.base import Data, Imputation

CONFIDENT = 0.01  # probability of a count of 0 by chance, up to which a zero is taken for absence of the gene
ROUNDED = 0.5  # an imputed value under it is a zero
RAISED = 1.0  # an imputed value over it says that the gene is there
HALVINGS = 50
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


def zeros_before_and_after(imputation: Imputation) -> Zeros:
    """Count zeros of the data that were imputed, and of the result as it is put out, on scale ``counts``.

    Raises
    ------
    InputError
        The data are real values.

    Cost: one pass over all predictions in blocks of rows, and 50 over the nonzeros.
    """
    data = imputation.data
    if data.kind != "counts":
        raise InputError("zeros mean nothing special in real values: pass an imputation of counts")
    n, G = data.shape
    depth, least = data.depth, -np.log(CONFIDENT)
    rate = confident_rates(data)
    totals = np.zeros((3, G), dtype=np.int64)
    for rows, values in imputation.blocks(max(1, VALUES // G), scale="counts"):
        zero = data.X[rows].toarray() == 0
        confident = zero & (depth[rows, None] * rate > least)
        totals[0] += (values < ROUNDED).sum(axis=0)
        totals[1] += confident.sum(axis=0)
        totals[2] += (confident & (values > RAISED)).sum(axis=0)
    before = 1 - np.bincount(data.X.indices, minlength=G) / n
    return Zeros(before, totals[0] / n, totals[1], totals[2], n)


def confident_rates(data: Data) -> np.ndarray:
    """(G,) rate r of each gene, per molecule of the library, in the cells that express it.

    A zero of a cell with library d is a confident biological one if exp(-d r), the chance of it in a cell that
    expresses the gene, is under 1 %. r is the maximum likelihood of Poisson counts cut off at 0, of the cells where the
    gene was seen: sum of x = sum of d r / (1 - exp(-d r)). A gene that all cells express, but weakly, so keeps its low
    rate, and none of its zeros is confident. Differences of level between cells that express a gene are not allowed
    for.

    Raises
    ------
    InputError
        A cell with counts has no library size.
    """
    X = data.X
    depth = np.repeat(data.depth, np.diff(X.indptr)).astype(np.float64)  # of every nonzero
    if (depth <= 0).any():
        raise InputError("a cell with counts has a library size of 0: pass the right library sizes, or none")

    def per_gene(values: Any) -> np.ndarray:
        return np.bincount(X.indices, weights=values, minlength=X.shape[1])

    total = per_gene(X.data)
    library = per_gene(depth)
    low = np.zeros(X.shape[1])
    high = np.divide(total, library, out=np.zeros_like(total), where=library > 0)
    for _ in range(HALVINGS):  # the expected total rises with r, from the number of nonzeros to more than the total
        middle = (low + high) / 2
        mean = depth * middle[X.indices]
        with np.errstate(invalid="ignore"):
            expected = per_gene(np.where(mean > 0, mean / -np.expm1(-mean), 1.0))
        too_low = expected < total
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    return (low + high) / 2
