"""Controls: simple predictions that a method must beat.

`REFERENCE_PREDICTIONS` are two more for the tables of studies: functions, because nobody would impute with them.
Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation, Model, Output, Status
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned, damaged
from imputome.core.many_cells import random_rows
from imputome.core.scales import TARGET
from imputome.methods.controls import (
    GENE_MEAN_INFO,
    GENE_MEAN_POSTERIOR_INFO,
    MEAN_INFO,
    MEDIAN_INFO,
    NO_IMPUTATION_INFO,
    POISSON_NMF_INFO,
    RANDOM_INFO,
)
from imputome.methods.factors import LowRank, few_threads, gene_mean_rates, gene_shares
from imputome.methods.nmf import complete_factors, poisson_nmf, project

FEATURE_BLOCK_VALUES = 2**22  # values in a block of features
FEW_PRODUCTS = 2**20  # with fewer products per update, one thread is faster


class NoImputation(Imputer):
    """The counts as they are: the score of not imputing.

    Notes
    -----
    Cost: seconds; nothing is fitted.

    Known to fail: a zero stays 0, so that held-out molecules of sparse data are predicted worse than by the gene mean
    (Poisson deviance on pbmc3k 0.2245 and 0.0828). It is a control for whether to impute at all.

    Examples
    --------
    >>> from imputome import methods
    >>> methods.get("no_imputation")().fit_transform([[2, 0], [1, 3]]).to_array()
    array([[2., 0.],
           [1., 3.]], dtype=float32)
    """

    info = NO_IMPUTATION_INFO

    def __init__(self) -> None:
        pass

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        return _InputCounts(data), {}

    def _new_rows(self, data: Data) -> Model:
        return _InputCounts(data)


class _InputCounts:
    outputs: frozenset[Output] = frozenset({"value", "rate"})

    def __init__(self, data: Data) -> None:
        self.data = data

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        return self.data.block(rows, genes)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return self.data.entries(i, j)


class GeneMean(Imputer):
    """The rate of a gene in a cell is the library size of the cell times the share of the gene in all molecules.

    Parameters
    ----------
    posterior : bool, default=False
        Combine the rate with the cell's own counts (`imputome.core.posterior`). The method ``gene_mean_posterior`` does
        this by default.
    random_state : int, default=0
        Seed of the posterior step.

    Attributes
    ----------
    share_ : ndarray of shape (G,)
        Share of each gene in the molecules of the training cells.

    Notes
    -----
    Cost: seconds; one pass over the nonzeros.

    Known to fail: all cells get the same proportions, so that nothing of what differs between types of cells is left.
    The deeper the cells, the more that costs (Poisson deviance on baron 0.8034; the counts as they are 0.4109).

    Examples
    --------
    >>> from imputome import methods
    >>> methods.get("gene_mean")().fit_transform([[4, 0], [2, 2]]).to_array()
    array([[3., 1.],
           [3., 1.]], dtype=float32)
    """

    info = GENE_MEAN_INFO
    learned: ClassVar[dict[str, Learned]] = {"share": Learned("G", values="a share")}

    def __init__(self, *, posterior: bool = False, random_state: int = 0) -> None:
        self.posterior = posterior
        self.random_state = random_state

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self.share_ = gene_shares(data)
        return self._new_rows(data), {"gene_columns": {"share": self.share_}}

    def _new_rows(self, data: Data) -> Model:
        return gene_mean_rates(data, self.share_)


class GeneMeanPosterior(GeneMean):
    """The cell's own counts, shrunk towards the gene mean.

    It is `GeneMean` with ``posterior=True``; see there for parameters and attributes.

    Notes
    -----
    Cost: seconds; the fit of the shapes passes ten times over the counts (`imputome.core.posterior`).

    Known to fail: a gene of which the cell shows no molecule gets about the mean, whatever type of cell it is: nothing
    is learned from other genes. It is the control to beat, not a method for finding structure.
    """

    info = GENE_MEAN_POSTERIOR_INFO

    def __init__(self, *, posterior: bool = True, random_state: int = 0) -> None:
        super().__init__(posterior=posterior, random_state=random_state)


class PoissonNMF(Imputer):
    """Poisson (Kullback-Leibler) non-negative matrix factorisation (`imputome.methods.nmf`).

    Parameters
    ----------
    n_components : int, default=16
        Number of factors; fewer are used if there are fewer cells or genes.
    max_iter : int, default=200
        Largest number of multiplicative updates (Lee & Seung 1999).
    tol : float, default=1e-4
        Stop when the objective improves by less than this share; see `imputome.methods.nmf.poisson_nmf`.
    posterior : bool, default=False
        Combine the rates with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of the randomised SVD for the start, and of the posterior step.

    Attributes
    ----------
    components_ : ndarray of shape (G, n_components), float32
        Factors of the genes.

    Notes
    -----
    Cost: seconds; an iteration takes two products of the nonzeros with ``n_components`` columns. Memory: the counts and
    the factors. With more than 25,000 cells, the factors of the genes are learned from 25,000 random ones, and all
    cells then get their factors in 50 updates; ``status`` says so.

    Known to fail: without ``posterior`` what a cell's own counts say beyond the factors is lost (Poisson deviance on
    baron 0.2702, with it 0.2019; ``gene_mean_posterior`` 0.2101). A rare type of cell has no factor of its own unless
    there are more of them than the main structure needs.

    Examples
    --------
    >>> from imputome import methods
    >>> estimator = methods.get("poisson_nmf")(n_components=1)
    >>> estimator.fit_transform([[4, 0], [2, 2]]).to_array(keep_observed=False).round(2)  # doctest: +SKIP
    array([[3., 1.],
           [3., 1.]], dtype=float32)
    """

    info = POISSON_NMF_INFO
    learned: ClassVar[dict[str, Learned]] = {"components": Learned("G k", values="not negative")}
    learns_from_sample: ClassVar[bool] = True
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"n_components": (2, 64, "log")}

    def __init__(
        self,
        *,
        n_components: int = 16,
        max_iter: int = 200,
        tol: float = 1e-4,
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.n_components = n_components
        self.max_iter = max_iter
        self.tol = tol
        self.posterior = posterior
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("n_components", self.n_components >= 1, "at least 1")
        self._require("max_iter", self.max_iter >= 1, "at least 1")

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        rank = min(self.n_components, *data.shape)
        rows = random_rows(data.shape[0], self.random_state)
        counts = data.X if rows is None else data.X[rows]
        with few_threads(counts.nnz * rank < FEW_PRODUCTS):
            options: dict[str, Any] = {"max_iter": self.max_iter, "tol": self.tol, "random_state": self.random_state}
            factors = poisson_nmf(counts, rank, **options, progress=self.progress)
        self.components_ = factors.right if rows is None else complete_factors(factors.right, data.X)
        reached = "" if factors.converged else f", tol={self.tol:g} not reached"
        if rows is not None:
            reached += f"; factors learned from {len(rows)} of {data.shape[0]} cells"
        status = Status(
            "converged" if factors.converged else "max_iter",
            f"{factors.iterations} multiplicative updates{reached}",
            {"iterations": factors.iterations, "objective": factors.objective},
        )
        model = LowRank(factors.left, factors.right) if rows is None else self._new_rows(data)
        return model, {"status": status, "latent": model.left}

    def _new_rows(self, data: Data) -> LowRank:
        with few_threads(data.X.nnz * self.components_.shape[1] < FEW_PRODUCTS):
            return LowRank(project(data.X, self.components_), self.components_)


class FeatureMean(Imputer):
    """Fill missing values with the mean of the feature; use the mean of all values if it was never observed.

    Attributes
    ----------
    center_ : ndarray of shape (G,)
        The value of each feature.

    Notes
    -----
    Cost: seconds; one pass over the values.

    Known to fail: all rows get one value, so that spreads and correlations shrink as more is missing. Values that are
    missing because they are low are imputed too high. It is a control; with fewer than about 6 samples the default,
    `GaussianCopula`, did not beat it.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> methods.get("mean")().fit_transform(np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 7.0]])).to_array()
    array([[1., 5.],
           [3., 6.],
           [2., 7.]])
    """

    info = MEAN_INFO
    learned: ClassVar[dict[str, Learned]] = {"center": Learned("G")}

    def __init__(self) -> None:
        pass

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        X = data.known_values()
        n, G = X.shape
        self.center_, total, known = np.full(G, np.nan), 0.0, 0
        step = max(1, FEATURE_BLOCK_VALUES // n)
        for start in range(0, G, step):  # in blocks: no copy of the whole matrix is made
            block = X[:, start : start + step]
            counts = np.count_nonzero(~np.isnan(block), axis=0)
            observed = np.flatnonzero(counts)
            self.center_[start + observed] = self._centre(block[:, observed])
            total += float(np.nansum(block, dtype=np.float64))
            known += int(counts.sum())
        self.center_[np.isnan(self.center_)] = total / known
        return self._new_rows(data), {"gene_columns": {"center": self.center_}}

    @staticmethod
    def _centre(X: np.ndarray) -> np.ndarray:
        return np.asarray(np.nanmean(X, axis=0, dtype=np.float64))

    def _new_rows(self, data: Data) -> Model:
        return LowRank(np.ones((data.shape[0], 1)), self.center_[:, None], floor=None)


class FeatureMedian(FeatureMean):
    """Fill missing values with the median of the feature; use the mean of all values if it was never observed.

    Attributes
    ----------
    center_ : ndarray of shape (G,)
        The value of each feature.

    Notes
    -----
    Cost: seconds; a sort of each feature.

    Known to fail: as `FeatureMean`. Its squared error is larger (RMSE in SD on glioma expression 1.037, the mean's
    1.001), because the median of a skewed feature is not in the middle of its values.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> X = np.array([[1.0, 5.0], [2.0, 6.0], [9.0, 7.0], [np.nan, 8.0]])
    >>> methods.get("median")().fit_transform(X).to_array()[3]
    array([2., 8.])
    """

    info = MEDIAN_INFO

    @staticmethod
    def _centre(X: np.ndarray) -> np.ndarray:
        return np.asarray(np.nanmedian(X, axis=0))


class RandomDraws(Imputer):
    """Draw each value at random from the values of the gene: the score of knowing its distribution only.

    For counts, the share of the gene in a random training cell (zeros included) is multiplied by the library size of
    the cell to impute. For real values, one of the observed values of the feature is drawn. A draw depends only on the
    seed and the position of the entry, so rows, blocks and single entries agree.

    Parameters
    ----------
    random_state : int, default=0
        Seed of the draws, not negative.

    Attributes
    ----------
    values_ : ndarray
        Stored values of all genes, one gene after another (for counts, without zeros).
    starts_ : ndarray of shape (G + 1,)
        Where the values of each gene start in ``values_``.
    drawn_from_ : ndarray of shape (G,)
        Number of values to draw from, for counts with zeros.

    Notes
    -----
    Cost: seconds; a sort of the stored values.

    Known to fail: always, for it is made to: a draw knows nothing of the cell. It is a control only.

    Examples
    --------
    >>> from imputome import methods
    >>> result = methods.get("random")().fit_transform([[4, 0], [2, 2]])
    >>> result.to_array(keep_observed=False).shape
    (2, 2)
    """

    info = RANDOM_INFO
    training_cells = None  # a draw depends on the position of the row, which is known where all rows are together
    learned: ClassVar[dict[str, Learned]] = {
        "values": Learned("v"),
        "starts": Learned("s", "int64"),
        "drawn_from": Learned("G", "int64", "positive"),
    }

    def __init__(self, *, random_state: int = 0) -> None:
        self.random_state = random_state

    def imputes_by_rows(self, data: Data) -> bool:
        return False  # as above

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        if data.kind == "counts":
            depth = data.depth
            columns = data.X.tocsc()
            self.values_ = columns.data / depth[columns.indices]
            self.starts_ = columns.indptr.astype(np.int64)
            drawn_from = np.full(data.shape[1], int((depth > 0).sum()), dtype=np.int64)
        else:
            X = data.known_values()
            known = ~np.isnan(X)
            drawn_from = known.sum(axis=0).astype(np.int64)
            fallback = np.nanmean(X, dtype=np.float64)  # for a feature that was never observed
            columns = [X[known[:, j], j] if drawn_from[j] else [fallback] for j in range(X.shape[1])]
            drawn_from = np.maximum(drawn_from, 1)
            self.values_ = np.concatenate(columns).astype(np.float64)
            self.starts_ = np.concatenate([[0], np.cumsum(drawn_from)])
        self.drawn_from_ = drawn_from
        return self._new_rows(data), {}

    def _new_rows(self, data: Data) -> Model:
        scale = data.depth if data.kind == "counts" else np.ones(data.shape[0])
        return _RandomValues(self.values_, self.starts_, self.drawn_from_, scale, self.random_state)

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        starts = self.starts_
        ends = len(starts) == len(self.drawn_from_) + 1 and starts[0] == 0 and starts[-1] == len(self.values_)
        if not ends or (np.diff(starts) < 0).any():
            raise damaged("the array 'starts' does not divide the values among the genes", code="model-array-values")


class _RandomValues:
    """Entry (i, j) is value number ``hash(seed, i, j) mod drawn_from_j`` of gene j; beyond the stored ones it is 0."""

    outputs: frozenset[Output] = frozenset({"value", "rate"})

    def __init__(
        self, values: np.ndarray, starts: np.ndarray, drawn_from: np.ndarray, scale: np.ndarray, seed: int
    ) -> None:
        self.values, self.starts, self.drawn_from, self.scale, self.seed = values, starts, drawn_from, scale, seed

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        j = np.arange(len(self.drawn_from)) if genes is None else genes
        out = np.empty((len(rows), len(j)))
        for position, i in enumerate(rows):  # one row at a time keeps the array of 64-bit hashes small
            out[position] = self.at(np.full(len(j), i), j, output)
        return out

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        draw = _hash(self.seed, i, j) % self.drawn_from[j].astype(np.uint64)
        position = self.starts[j] + draw.astype(np.int64)
        stored = position < self.starts[j + 1]
        values = np.zeros(len(i))
        values[stored] = self.values[position[stored]]
        return values * self.scale[i]


def _hash(seed: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A 64-bit hash of (seed, i, j): the SplitMix64 finaliser, applied once per number."""
    state = np.full(len(i), seed, dtype=np.uint64)
    for number in (i, j):
        state += np.uint64(0x9E3779B97F4A7C15) + number.astype(np.uint64)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


# -- reference predictions for the tables of studies ------------------------------------------------------------------
def all_zeros(data: Data) -> Imputation:
    """Predict 0 for every gene in every cell."""
    n, G = data.shape
    zeros = LowRank(np.zeros((n, 0), np.float32), np.zeros((G, 0), np.float32))
    return Imputation(zeros, data, scale="counts", keeps_observed=False)


def nonzero_mean(data: Data) -> Imputation:
    """Predict in every cell the mean of each gene's nonzero values on the scale log1p.

    This is the best prediction (least squares) of nonzero values that ignores the cell; an autoencoder that has
    collapsed predicts it. It is the control for scores over hidden nonzeros on this scale: a gene mean that includes
    the zeros is always too low there.
    """
    X, G = data.X, data.shape[1]
    per_cell = data.depth / TARGET  # (n,)
    values = np.log1p(X.data / np.repeat(per_cell, np.diff(X.indptr)))
    nonzeros = np.bincount(X.indices, minlength=G)
    mean = np.bincount(X.indices, values, minlength=G) / np.maximum(nonzeros, 1)  # (G,)
    model = LowRank(per_cell[:, None].astype(np.float32), np.expm1(mean)[:, None].astype(np.float32))
    return Imputation(model, data, scale="counts", keeps_observed=False)


REFERENCE_PREDICTIONS: dict[str, Callable[[Data], Imputation]] = {"all_zeros": all_zeros, "nonzero_mean": nonzero_mean}
