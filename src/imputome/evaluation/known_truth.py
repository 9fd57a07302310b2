"""Simulated counts whose rates are known: the share that a method recovers of what can be recovered.

A simulation as AnnData has the layer `RATE_LAYER` and the column `SHAPE_COLUMN` of ``var``: each true value is drawn
from a gamma distribution with this mean and shape, and each count is Poisson. `Simulation.to_anndata` of
`imputome.evaluation.simulate` makes one.

Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from imputome.core.imputation import Imputation, Output
from imputome.core.posterior import PosteriorModel, Prior
from imputome.errors import InputError
from imputome.evaluation.simulate import RATE_LAYER, SHAPE_COLUMN
from imputome.evaluation.streaming import score_thinned
from imputome.methods.controls.estimators import GeneMeanPosterior

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.core.data import Data
    from imputome.evaluation.splits import Split

SHARE = "share_recovered"  # the name of the score
LOSS = "poisson_loss"  # in which it is measured


@dataclass(frozen=True)
class KnownTruth:
    """The gamma distributions that the true values of counts were drawn from."""

    rate: np.ndarray  # (n, G) their means, at the depth of the counts
    shape: np.ndarray  # (G,) positive

    def limits(self, split: Split, *, random_state: int = 0) -> Limits:
        """The losses between which the share is measured, on a split of the scheme ``thin``."""
        control = GeneMeanPosterior(random_state=random_state).fit_transform(split.train)
        rates = _Rates(self.rate, 1 / (1 + split.ratio))
        model = PosteriorModel(rates, split.train, Prior.constant(self.shape))
        best = Imputation(model, split.train, scale="counts", keeps_observed=False)
        lowest, highest = (score_thinned(each, split, metrics=[LOSS])[LOSS] for each in (best, control))
        return Limits(control=highest, best=lowest)


@dataclass(frozen=True)
class Limits:
    """Losses of held-out molecules: of the cell's own counts shrunk to the gene mean, and of the true posterior."""

    control: float
    best: float

    def share(self, loss: float) -> float:
        """0 for the loss of the control, 1 for the best that can be reached, below 0 for a larger loss than the
        control's; NaN where the truth is no better than the control.

        Examples
        --------
        >>> Limits(control=0.5, best=0.3).share(0.35)
        0.75
        """
        if self.best >= self.control:
            return float("nan")
        return round((self.control - loss) / (self.control - self.best), 12)


def known_truth(adata: AnnData, data: Data) -> KnownTruth | None:
    """The known truth of those cells and genes of ``adata`` that are in ``data``; None if it is no simulation.

    Raises
    ------
    InputError
        The rates or shapes are not positive numbers, or names are not unique.
    """
    if data.kind != "counts" or RATE_LAYER not in adata.layers or SHAPE_COLUMN not in adata.var:
        return None
    if not (adata.obs_names.is_unique and adata.var_names.is_unique):
        text = f"the rates in the layer {RATE_LAYER} are found by name: make the names of cells and genes unique"
        raise InputError(text, code="names-not-unique")
    rows, columns = adata.obs_names.get_indexer(data.obs_names), adata.var_names.get_indexer(data.var_names)
    rate = _dense(adata.layers[RATE_LAYER][rows][:, columns])
    shape = np.asarray(adata.var[SHAPE_COLUMN], dtype=np.float64)[columns]
    if not (np.isfinite(rate).all() and (rate >= 0).all() and np.isfinite(shape).all() and (shape > 0).all()):
        text = f"{RATE_LAYER} and {SHAPE_COLUMN} must hold the positive means and shapes that the counts were drawn "
        raise InputError(f"{text}from: correct them, or remove them to score without them", code="truth-values")
    return KnownTruth(rate, shape)


def _dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Rates:
    """A `Model` of known rates, at a share of their depth."""

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate"})

    rate: np.ndarray  # (n, G)
    share: float

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        block = self.rate[rows] if genes is None else self.rate[np.ix_(rows, genes)]
        return np.asarray(self.share * block)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return np.asarray(self.share * self.rate[i, j])
