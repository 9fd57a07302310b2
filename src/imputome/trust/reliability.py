"""How much of each gene a method explains beyond a reference, on held-out values, and how certain that is.

Letters: ``n`` cells, ``G`` genes, ``B`` blocks of cells; ``x`` held-out truth, ``mu`` prediction at its depth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtr, stdtrit, xlogy
from scipy.stats import false_discovery_control

from imputome.errors import InputError
from imputome.evaluation.arguments import check_share
from imputome.evaluation.metrics import MIN_RATE
from imputome.evaluation.streaming import Units

if TYPE_CHECKING:
    import pandas as pd

    from imputome.core.imputation import Imputation
    from imputome.evaluation.splits import Split

N_BLOCKS = 20  # blocks of cells, left out one at a time
MIN_HELD_OUT = 10  # held-out molecules, or entries, that a gene needs for a statement about it
FALSE_DISCOVERY_RATE = 0.05  # expected share of false ones among the evident genes
SMALLEST_GAIN = 0.002  # share of the reference's error: a gene whose gain may be as small as this is not evident
VALUES_PER_BLOCK = 2**21  # dense values in memory at a time


@dataclass(frozen=True)
class Reliability:
    """Per gene, the share of the reference's error that the method removes."""

    # (G,) 1 - D(method) / D(reference), D the Poisson deviance of held-out molecules, or the squared error of hidden
    # entries: 0 is no better than the reference, below 0 is worse, NaN without held-out values. For sparse counts even
    # the truth explains little, because most of D is counting noise
    explained: np.ndarray
    lower: np.ndarray  # (G,) ends of its interval, for each gene by itself
    upper: np.ndarray
    p_value: np.ndarray  # (G,) one-sided, of explaining `SMALLEST_GAIN` or less, from the same jackknife
    # (G,) number of held-out molecules, or entries; 0 for genes without a molecule in the training part, and for
    # features that do not vary there
    held_out: np.ndarray
    overall: tuple[float, float, float]  # explained, lower and upper of all genes together

    @property
    def evident(self) -> np.ndarray:
        """(G,) True where the interval is above `SMALLEST_GAIN`, at a false discovery rate of 5 % (Benjamini and
        Hochberg) among the `measured` genes: without this correction, 2.5 % of the genes would have such an interval by
        chance. A gain that is certain but smaller than `SMALLEST_GAIN` is no evidence: it can come from details of the
        two fits.
        """
        evident = np.zeros(len(self.explained), dtype=bool)
        if self.measured.any():
            evident[self.measured] = false_discovery_control(self.p_value[self.measured]) <= FALSE_DISCOVERY_RATE
        return evident & (np.nan_to_num(self.lower) > SMALLEST_GAIN)

    @property
    def measured(self) -> np.ndarray:
        """(G,) True for genes with at least 10 held-out molecules, or entries."""
        return judged(self.held_out, self.lower)

    def to_frame(self, names: pd.Index) -> pd.DataFrame:
        """A table with a row for each gene."""
        import pandas as pd

        columns = ("explained", "lower", "upper", "p_value", "held_out", "evident")
        return pd.DataFrame({name: getattr(self, name) for name in columns}, index=names)


def judged(held_out: Any, lower: Any) -> Any:
    """Which genes a statement is made about, of columns of `Reliability.to_frame` too: a mask."""
    return (held_out >= MIN_HELD_OUT) & np.isfinite(lower)


def gene_reliability(
    comparisons: Iterable[tuple[Split, Imputation, Imputation]],
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    link: str = "identity",
) -> Reliability:
    """Compare a method with a reference, gene by gene.

    ``comparisons`` holds, for each split of the same data, the split and the imputations of its training part by the
    method and by the reference (the gene mean, or for counts the posterior on the gene mean). Errors of real values are
    measured on ``link``, in standard deviations of the feature (`Units`). Intervals come from a jackknife over 20
    random blocks of cells with Student's t of 19 degrees of freedom. Blocks consist of whole cells, because the entries
    of a cell are not independent.

    Cost: two passes over the predictions of each split, in blocks of rows; memory B x G.
    """
    check_share("confidence", confidence)
    total: np.ndarray | None = None
    block = np.empty(0, dtype=np.int64)
    for split, model, reference in comparisons:
        n, G = model.shape
        if total is None:
            block = rng.permutation(n) % min(N_BLOCKS, n)
            total = np.zeros((4, block.max() + 1, G))
        elif (n, G) != (len(block), total.shape[2]):
            raise InputError("the splits are of different data: pass splits of one matrix", code="split-of-other-data")
        total += _sums(split, model, reference, block, link)
    if total is None:
        raise InputError("there is no split: pass at least one", code="no-splits", parameter="comparisons")
    genes = _jackknife(total, confidence)
    whole = _jackknife(total.sum(axis=2, keepdims=True), confidence)
    explained, lower, upper = (float(values[0]) for values in whole[:3])
    return Reliability(*genes, total[3].sum(axis=0), (explained, lower, upper))


def _sums(split: Split, model: Imputation, reference: Imputation, block: np.ndarray, link: str) -> np.ndarray:
    """(4, B, G): error of the method, of the reference and of the truth itself, and number of held-out values."""
    number = block.max() + 1
    out = np.zeros((4, number, model.shape[1]))
    if split.test is None:
        if split.i is None or split.j is None or split.truth is None:
            raise InputError(f"the split {split.scheme!r} holds nothing out", code="nothing-to-score")
        units = Units(split.train, link, (split.j, split.truth))
        usable = units.usable[split.j]
        cells, j = split.i[usable], split.j[usable]
        where = (block[cells], j)
        truth = units.of(split.truth[usable], j)
        for row, imputation in enumerate((model, reference)):
            gap = units.of(imputation.at(cells, j, keep_observed=False), j) - truth
            np.add.at(out[row], where, np.square(gap))
        np.add.at(out[3], where, 1)
        return out
    x = split.test
    i = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    where = (block[i], x.indices)
    counts = x.data.astype(np.float64)
    np.add.at(out[2], where, counts - xlogy(counts, counts))
    np.add.at(out[3], where, counts)
    chunk = max(1, VALUES_PER_BLOCK // x.shape[1])
    for row, imputation in enumerate((model, reference)):
        for rows, values in imputation.blocks(chunk, keep_observed=False, scale="counts"):
            mu = np.maximum(values.astype(np.float64) * split.ratio, MIN_RATE)
            for number_of_block in np.unique(block[rows]):
                out[row, number_of_block] += mu[block[rows] == number_of_block].sum(axis=0)
            part = slice(x.indptr[rows.start], x.indptr[rows.stop])
            log_mean = np.log(mu[i[part] - rows.start, x.indices[part]])
            np.subtract.at(out[row], (block[i[part]], x.indices[part]), counts[part] * log_mean)
    # as in all scores, genes without a training count are left out
    out[:, :, np.bincount(split.train.X.indices, minlength=x.shape[1]) == 0] = 0
    return out


def _jackknife(sums: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(G,) estimates, the ends of their intervals (at most 1), and one-sided p-values, from sums over blocks."""
    total = sums.sum(axis=1)  # (4, G)
    without = total[:, None, :] - sums  # (4, B, G)
    explained, left_out = _explained(total), _explained(without)
    number = sums.shape[1]
    with np.errstate(invalid="ignore"):
        spread = np.square(left_out - left_out.mean(axis=0)).sum(axis=0)
        error = np.sqrt((number - 1) / number * spread)
        p_value = stdtr(number - 1, (SMALLEST_GAIN - explained) / np.maximum(error, np.finfo(float).tiny))
    half = stdtrit(number - 1, (1 + confidence) / 2) * error
    return explained, explained - half, np.minimum(explained + half, 1.0), p_value


def _explained(sums: np.ndarray) -> np.ndarray:
    model, reference, truth, held_out = sums
    deviance = reference - truth
    usable = (held_out > 0) & (deviance > 0)
    return np.divide(reference - model, deviance, out=np.full(deviance.shape, np.nan), where=usable)
