"""How much of each gene a model explains beyond its mean, on values that it has not seen, and how sure that is.

Letters: ``n`` cells, ``G`` genes, ``B`` blocks of cells; ``x`` held-out truth, ``mu`` prediction at its depth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr, stdtrit, xlogy
from scipy.stats import false_discovery_control

from imputome.errors import InputError
from imputome.evaluation.streaming import Units

if TYPE_CHECKING:
    import pandas as pd

    from imputome.core.imputation import Imputation
    from imputome.evaluation.splits import Split

BLOCKS = 20  # of cells, left out one at a time
FLOOR = 1e-8  # of a predicted mean
LEAST = 10  # held-out molecules, or entries, under which a gene has no evidence either way
FALSE = 0.05  # share of the evident genes that are not, expected
VALUES = 2**21  # dense values made at a time


@dataclass(frozen=True)
class Reliability:
    """Per gene, the share of the reference's error that the model takes away.

    Attributes
    ----------
    explained : (G,) 1 - D(model) / D(reference), D the Poisson deviance of held-out molecules, or the squared error of
        hidden entries: 0 is no better than the reference, under 0 worse. For sparse counts even the truth explains
        little: most of D is counting noise. NaN without held-out values.
    lower, upper : (G,) ends of its interval, of each gene by itself.
    p_value : (G,) of explaining nothing, against more, by the same jackknife.
    held_out : (G,) molecules, or entries, that it rests on. Genes without a molecule in the training part, and features
        that do not vary there, have none.
    overall : explained, lower and upper of all genes together.
    """

    explained: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    p_value: np.ndarray
    held_out: np.ndarray
    overall: tuple[float, float, float]

    @property
    def evident(self) -> np.ndarray:
        """(G,) True where the interval lies above 0, at a false discovery rate of 5 % (Benjamini and Hochberg) among
        the `judged`: of thousands of genes, 2.5 % have such intervals by chance.
        """
        found = np.zeros(len(self.explained), dtype=bool)
        if self.judged.any():
            found[self.judged] = false_discovery_control(self.p_value[self.judged]) <= FALSE
        return found & (np.nan_to_num(self.lower) > 0)

    @property
    def judged(self) -> np.ndarray:
        """(G,) True where the figures rest on 10 molecules, or entries, or more."""
        return (self.held_out >= LEAST) & np.isfinite(self.p_value)

    def to_frame(self, names: pd.Index) -> pd.DataFrame:
        """A table with a row for each gene."""
        import pandas as pd

        columns = {
            name: getattr(self, name) for name in ("explained", "lower", "upper", "p_value", "held_out", "evident")
        }
        return pd.DataFrame(columns, index=names)


def gene_reliability(
    judged: Iterable[tuple[Split, Imputation, Imputation]],
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    link: str = "identity",
) -> Reliability:
    """Compare a model with a reference, gene by gene.

    Parameters
    ----------
    judged : for each split of the same data the split, the model's imputation of its training part, and the
        reference's: the gene mean, or with the posterior step the posterior on the gene mean.
    confidence : of the interval, a jackknife over 20 random blocks of cells with Student's t of 19 degrees of freedom.
        Blocks of cells are what varies: the entries of a cell are not independent.
    link : what errors of real values are measured on, in each feature's standard deviations.

    Raises
    ------
    InputError
        No split, splits of different data, or a confidence outside 0 to 1.

    Cost: two passes over the predictions of each split, in blocks of rows; memory B x G.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence!r} must lie between 0 and 1")
    total: np.ndarray | None = None
    block = np.empty(0, dtype=np.int64)
    for split, model, reference in judged:
        n, G = model.shape
        if total is None:
            block = rng.permutation(n) % min(BLOCKS, n)
            total = np.zeros((4, block.max() + 1, G))
        elif (n, G) != (len(block), total.shape[2]):
            raise InputError("the splits are not of the same data: pass several splits of one matrix")
        total += _sums(split, model, reference, block, link)
    if total is None:
        raise InputError("there is no split to judge by: pass at least one")
    genes = _jackknife(total, confidence)
    whole = _jackknife(total.sum(axis=2, keepdims=True), confidence)
    explained, lower, upper = (float(values[0]) for values in whole[:3])
    return Reliability(*genes, total[3].sum(axis=0), (explained, lower, upper))


def _sums(split: Split, model: Imputation, reference: Imputation, block: np.ndarray, link: str) -> np.ndarray:
    """(4, B, G): error of the model, of the reference and of the truth itself, and how much was held out."""
    number = block.max() + 1
    out = np.zeros((4, number, model.shape[1]))
    if split.test is None:
        if split.i is None or split.j is None or split.truth is None:
            raise InputError(f"the split {split.scheme!r} holds nothing out")
        units = Units(split.train, link, (split.j, split.truth))
        kept = units.usable[split.j]
        cells, j = split.i[kept], split.j[kept]
        where = (block[cells], j)
        truth = units.of(split.truth[kept], j)
        for place, imputation in enumerate((model, reference)):
            gap = units.of(imputation.at(cells, j, keep_observed=False), j) - truth
            np.add.at(out[place], where, np.square(gap))
        np.add.at(out[3], where, 1)
        return out
    x = split.test
    i = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    where = (block[i], x.indices)
    counts = x.data.astype(np.float64)
    np.add.at(out[2], where, counts - xlogy(counts, counts))
    np.add.at(out[3], where, counts)
    chunk = max(1, VALUES // x.shape[1])
    for place, imputation in enumerate((model, reference)):
        for rows, values in imputation.blocks(chunk, keep_observed=False, scale="counts"):
            mu = np.maximum(values.astype(np.float64) * split.ratio, FLOOR)
            for number_of_block in np.unique(block[rows]):
                out[place, number_of_block] += mu[block[rows] == number_of_block].sum(axis=0)
            part = slice(x.indptr[rows.start], x.indptr[rows.stop])
            log_mean = np.log(mu[i[part] - rows.start, x.indices[part]])
            np.subtract.at(out[place], (block[i[part]], x.indices[part]), counts[part] * log_mean)
    out[:, :, np.bincount(split.train.X.indices, minlength=x.shape[1]) == 0] = (
        0  # as in all scores: nothing to learn from
    )
    return out


def _jackknife(sums: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(G,) estimates, the ends of their intervals, and one-sided p-values, from sums over blocks."""
    total = sums.sum(axis=1)  # (4, G)
    without = total[:, None, :] - sums  # (4, B, G)
    explained, left_out = _explained(total), _explained(without)
    number = sums.shape[1]
    with np.errstate(invalid="ignore"):
        spread = np.square(left_out - left_out.mean(axis=0)).sum(axis=0)
        error = np.sqrt((number - 1) / number * spread)
        p_value = stdtr(number - 1, -explained / np.maximum(error, np.finfo(float).tiny))
    half = stdtrit(number - 1, (1 + confidence) / 2) * error
    return explained, explained - half, np.minimum(explained + half, 1.0), p_value  # no more than all can be explained


def _explained(sums: np.ndarray) -> np.ndarray:
    model, reference, truth, held_out = sums
    deviance = reference - truth
    usable = (held_out > 0) & (deviance > 0)
    return np.divide(reference - model, deviance, out=np.full(deviance.shape, np.nan), where=usable)
