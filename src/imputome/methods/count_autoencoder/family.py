"""What the estimators of count autoencoders share: covariates, batches, cells to validate on, and their saved state.

Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any

import numpy as np
from torch import nn

from imputome.core.data import Data
from imputome.errors import InputError
from imputome.methods.count_autoencoder.network import CountNetwork, Design, Statistics
from imputome.methods.deep.batches import CountBatches
from imputome.methods.deep.covariates import CovariateCoding
from imputome.methods.deep.estimator import DeepImputer, split_cells


class CountFamily(DeepImputer):
    """A `DeepImputer` whose networks are `CountNetwork`; a subclass writes `_design` and fits.

    Attributes
    ----------
    coding_ : how covariates are coded, or None.
    share_ : (G,) share of each gene in all molecules of the training cells.
    """

    batch_size: int
    validation_share: float = 0.2

    @abstractmethod
    def _design(self) -> Design:
        """What is built and what is minimised, for the genes and covariates learned so far."""

    def _prepare(self, data: Data) -> None:
        """Check the parameters, and learn all that comes before training."""
        self._check()
        if self.batch_size < 2:
            raise InputError(f"{self.name}: batch_size={self.batch_size} must be at least 2, for batch normalisation")
        if np.count_nonzero(np.diff(data.X.indptr)) < 2:
            raise InputError(f"{self.name}: at least two cells with counts are needed; known zeros alone teach nothing")
        self.coding_ = None if data.covariates is None else CovariateCoding.learn(data.covariates)
        totals = data.gene_totals
        self.share_ = totals / totals.sum()
        self._statistics = _statistics(data, self.share_, zscore=self._reads_zscores)

    def _check(self) -> None:
        """Refuse parameters that cannot be."""
        return

    @property
    def _reads_zscores(self) -> bool:
        return False

    def _split(self, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation cells, of those with counts."""
        filled = np.flatnonzero(np.diff(data.X.indptr))
        train_rows, validation_rows = split_cells(len(filled), self.validation_share, self.random_state)
        return filled[train_rows], filled[validation_rows]

    def _batches(self, data: Data, **target: Any) -> CountBatches:
        covariates = None
        if self.coding_ is not None:
            if data.covariates is None:
                names = ", ".join(covariate.name for covariate in self.coding_.covariates)
                raise InputError(f"{self.name} was fitted with the covariates {names}: give them for these cells too")
            covariates = self.coding_.encode(data.covariates)
        elif data.covariates is not None:
            raise InputError(f"{self.name} was fitted without covariates: leave them out, or fit it with them")
        return CountBatches(
            data.X,
            library=data.depth,
            covariates=covariates,
            batch_size=self.batch_size,
            device=self._device(),
            **target,
        )

    def _network(self) -> nn.Module:
        return CountNetwork(self._design(), self._statistics)

    def _state(self) -> dict[str, np.ndarray]:
        coding = None if self.coding_ is None else self.coding_.to_json()
        return {**super()._state(), "share": self.share_, "covariate_coding": np.array(json.dumps(coding))}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.share_ = arrays["share"]
        coding = json.loads(str(arrays["covariate_coding"]))
        self.coding_ = None if coding is None else CovariateCoding.from_json(coding)
        G = len(self.share_)
        # what it started from is overwritten by what it learned
        self._statistics = Statistics(self.share_, 0.0, 1.0, np.zeros(G), np.ones(G))
        super()._restore(arrays)


def _statistics(data: Data, share: np.ndarray, *, zscore: bool) -> Statistics:
    """What the network takes from the training cells, empty ones left out."""
    depth, totals = data.depth, np.asarray(data.X.sum(axis=1, dtype=np.float64)).ravel()
    filled = totals > 0
    median = float(np.median(depth[filled]))
    mean = sd = None
    if zscore:
        n, G = int(filled.sum()), len(share)
        scale = np.repeat(median / np.where(filled, depth, 1.0), np.diff(data.X.indptr))
        values = np.log1p(data.X.data * scale)
        mean = np.bincount(data.X.indices, values, minlength=G) / n
        squares = np.bincount(data.X.indices, values**2, minlength=G)
        sd = np.sqrt(np.maximum(squares - n * mean**2, 0) / max(n - 1, 1))
        sd = np.where(sd > 1e-6, sd, 1.0)  # a gene that does not vary is centred only
    return Statistics(share, float(np.log(totals[filled]).mean()), median, mean, sd)
