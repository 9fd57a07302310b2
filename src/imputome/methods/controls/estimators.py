"""Controls: the bars that any method has to clear. All but the random draws are low-rank models of rank 0, 1 or 16."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Model, Output, Status
from imputome.core.imputer import Imputer
from imputome.errors import InputError
from imputome.methods.controls import (
    GENE_MEAN_INFO,
    GENE_MEAN_POSTERIOR_INFO,
    MEAN_INFO,
    MEDIAN_INFO,
    NO_IMPUTATION_INFO,
    POISSON_NMF_INFO,
    RANDOM_INFO,
)
from imputome.methods.factors import LowRank, few_threads
from imputome.methods.nmf import poisson_nmf, project

BLOCK = 2**22  # values of a block of features


class NoImputation(Imputer):
    """The counts as they are: what not imputing scores."""

    info = NO_IMPUTATION_INFO

    def __init__(self) -> None:
        pass

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        return _Unchanged(data), {}

    def _new_rows(self, data: Data) -> Model:
        return _Unchanged(data)


class _Unchanged:
    outputs: frozenset[Output] = frozenset({"value", "rate"})

    def __init__(self, data: Data) -> None:
        self.data = data

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        return self.data.block(rows, genes)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return self.data.entries(i, j)


class GeneMean(Imputer):
    """Rate of a gene in a cell = the cell's library size x the gene's share in all molecules.

    Parameters
    ----------
    posterior : combine the rate with the cell's own counts (`imputome.core.posterior`); ``gene_mean_posterior`` is
        this class with the switch on.

    Attributes
    ----------
    share_ : (G,) share of each gene in the molecules of the training cells.
    """

    info = GENE_MEAN_INFO

    def __init__(self, *, posterior: bool = False, random_state: int = 0) -> None:
        self.posterior = posterior
        self.random_state = random_state

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self.share_ = data.gene_totals / data.depth.sum()
        return self._new_rows(data), {"gene_columns": {"share": self.share_}}

    def _new_rows(self, data: Data) -> Model:
        dtype = data.X.dtype
        return LowRank(data.depth[:, None].astype(dtype), self.share_[:, None].astype(dtype))

    def _state(self) -> dict[str, np.ndarray]:
        return {"share": self.share_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.share_ = arrays["share"]


class GeneMeanPosterior(GeneMean):
    """The cell's own counts shrunk towards the gene mean: the honest form of not imputing."""

    info = GENE_MEAN_POSTERIOR_INFO

    def __init__(self, *, posterior: bool = True, random_state: int = 0) -> None:
        super().__init__(posterior=posterior, random_state=random_state)


class PoissonNMF(Imputer):
    """Poisson (Kullback-Leibler) non-negative matrix factorisation (`imputome.methods.nmf`).

    Parameters
    ----------
    n_components : number of factors, at most the number of cells and of genes.
    max_iter, tol : of the multiplicative updates (Lee & Seung 1999).
    """

    info = POISSON_NMF_INFO
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

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        if self.n_components < 1 or self.max_iter < 1:
            raise InputError("poisson_nmf: n_components and max_iter must be at least 1")
        rank = min(self.n_components, *data.shape)
        with few_threads(data.X.nnz * rank < 2**20):
            options: dict[str, Any] = {"max_iter": self.max_iter, "tol": self.tol, "random_state": self.random_state}
            found = poisson_nmf(data.X, rank, **options, progress=self.progress)
        self.components_ = found.right
        status = Status(
            "converged" if found.converged else "max_iter",
            f"{found.iterations} multiplicative updates"
            + ("" if found.converged else f", tol={self.tol:g} not reached"),
            {"iterations": found.iterations, "objective": found.objective},
        )
        return LowRank(found.left, found.right), {"status": status, "latent": found.left}

    def _new_rows(self, data: Data) -> Model:
        with few_threads(data.X.nnz * self.components_.shape[1] < 2**20):
            return LowRank(project(data.X, self.components_), self.components_)

    def _state(self) -> dict[str, np.ndarray]:
        return {"components": self.components_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.components_ = arrays["components"]


class FeatureMean(Imputer):
    """Missing values filled with the mean of the feature; features never observed with the mean of all values."""

    info = MEAN_INFO

    def __init__(self) -> None:
        pass

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        X = data.known_values()
        n, G = X.shape
        self.center_, total, known = np.full(G, np.nan), 0.0, 0
        step = max(1, BLOCK // n)
        for start in range(0, G, step):  # in blocks, or a copy of the matrix would be made
            block = X[:, start : start + step]
            counts = np.count_nonzero(~np.isnan(block), axis=0)
            seen = np.flatnonzero(counts)
            self.center_[start + seen] = self._centre(block[:, seen])
            total += float(np.nansum(block, dtype=np.float64))
            known += int(counts.sum())
        self.center_[np.isnan(self.center_)] = total / known
        return self._new_rows(data), {"gene_columns": {"center": self.center_}}

    @staticmethod
    def _centre(X: np.ndarray) -> np.ndarray:
        return np.asarray(np.nanmean(X, axis=0, dtype=np.float64))

    def _new_rows(self, data: Data) -> Model:
        return LowRank(np.ones((data.shape[0], 1)), self.center_[:, None], floor=None)

    def _state(self) -> dict[str, np.ndarray]:
        return {"center": self.center_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.center_ = arrays["center"]


class FeatureMedian(FeatureMean):
    """Missing values filled with the median of the feature; features never observed with the mean of all values."""

    info = MEDIAN_INFO

    @staticmethod
    def _centre(X: np.ndarray) -> np.ndarray:
        return np.asarray(np.nanmedian(X, axis=0))


class RandomDraws(Imputer):
    """Each value a random draw from the gene's own: what knowing the distribution alone scores.

    For counts: the gene's share in a random training cell (zeros included) x this cell's library size. For real-valued
    data: one of the feature's observed values. The draw of an entry depends on the seed and its place alone, so that
    rows, blocks and single entries agree.
    """

    info = RANDOM_INFO

    def __init__(self, *, random_state: int = 0) -> None:
        self.random_state = random_state

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
            fallback = np.nanmean(X, dtype=np.float64)  # of a feature that was never observed
            kept = [X[known[:, j], j] if drawn_from[j] else [fallback] for j in range(X.shape[1])]
            drawn_from = np.maximum(drawn_from, 1)
            self.values_ = np.concatenate(kept).astype(np.float64)
            self.starts_ = np.concatenate([[0], np.cumsum(drawn_from)])
        self.drawn_from_ = drawn_from
        return self._new_rows(data), {}

    def _new_rows(self, data: Data) -> Model:
        scale = data.depth if data.kind == "counts" else np.ones(data.shape[0])
        return _Draws(self.values_, self.starts_, self.drawn_from_, scale, self.random_state)

    def _state(self) -> dict[str, np.ndarray]:
        return {"values": self.values_, "starts": self.starts_, "drawn_from": self.drawn_from_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.values_, self.starts_, self.drawn_from_ = arrays["values"], arrays["starts"], arrays["drawn_from"]


class _Draws:
    """Entry (i, j) is the ``hash(seed, i, j) mod drawn_from_j``-th value of gene j; past the stored ones it is 0."""

    outputs: frozenset[Output] = frozenset({"value", "rate"})

    def __init__(
        self, values: np.ndarray, starts: np.ndarray, drawn_from: np.ndarray, scale: np.ndarray, seed: int
    ) -> None:
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise InputError(f"random_state={seed!r} must be a non-negative integer")
        self.values, self.starts, self.drawn_from, self.scale, self.seed = values, starts, drawn_from, scale, seed

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        j = np.arange(len(self.drawn_from)) if genes is None else genes
        out = np.empty((len(rows), len(j)))
        for place, i in enumerate(rows):  # a row at a time keeps the 64-bit hashes small
            out[place] = self.at(np.full(len(j), i), j, output)
        return out

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        draw = _hash(self.seed, i, j) % self.drawn_from[j].astype(np.uint64)
        place = self.starts[j] + draw.astype(np.int64)
        stored = place < self.starts[j + 1]
        values = np.zeros(len(i))
        values[stored] = self.values[place[stored]]
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
