"""ALRA: a low-rank approximation of log counts, with the zeros of each gene restored by a threshold."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from imputome.core.data import Data
from imputome.core.imputation import Model, Status
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned
from imputome.methods.factors import LATENT_COLUMNS
from imputome.methods.low_rank import ALRA_INFO
from imputome.methods.rescaled import Rescaled, normalized_counts, row_blocks

SINGULAR_VALUES = 100  # of which the rank is chosen; at most the smaller side less 1
NOISE_SHARE = 0.21  # this share of the spacings, the last ones, is taken for noise: 79 to 99 of 99
SPACING_SDS = 6.0  # a spacing above the mean of the noise by more SDs separates signal from noise
ZERO_QUANTILE = 0.001
PASSES_TO_CHOOSE, PASSES_TO_FIT = 2, 10  # power iterations


class ALRA(Imputer):
    """Low rank of log1p of counts per 10,000, with the zeros of each gene restored (Linderman et al. 2022).

    1. The rank k is the largest place where the spacing of two singular values is more than 6 standard deviations
       above the mean of the noise spacings (79 to 99 of a hundred singular values; the last fifth where there are
       fewer).
    2. The matrix of rank k nearest to the data, not centred. In each gene, values at or below the absolute value of
       the 0.001 quantile become 0: values that should be 0 lie symmetrically around it.
    3. What is left is scaled to the mean and standard deviation of the gene's observed values; negative values become
       0; observed values that became 0 are restored.

    Values on scale ``counts`` are ``exp(value) - 1``, times the library size over 10,000, times the factor of each gene
    that restores its total (``total_factor``).

    Parameters
    ----------
    rank : int or None, default=None
        The rank k; None chooses it.
    quantile : float, default=0.001
        The quantile of the threshold.
    posterior : bool, default=False
        Combine the rate with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of the randomised SVD, and of the posterior step.

    Attributes
    ----------
    rank_ : int
        The rank used.
    threshold_ : ndarray of shape (G,)
        Values at or below it become 0, on log1p.

    Notes
    -----
    New cells are projected on the factors of the genes, which gives training cells the values that they have.

    Cost: seconds; about 30 passes over the nonzeros with blocks of 110 columns, and three over n x G values in blocks.
    Memory: factors of (n + G) x k, and blocks.

    Known to fail: the threshold needs noise around zero, so that in genes seen in most cells nothing is restored; and
    the values of expressed genes get the spread of the observed ones, dropout included.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()
    >>> imputome.methods.create("alra").fit(adata.X).rank_
    11
    """

    info = ALRA_INFO
    learned: ClassVar[dict[str, Learned]] = {
        "components": Learned("G k"),
        "threshold": Learned("G", values="not negative"),
        "slope": Learned("G", values="not negative"),
        "offset": Learned("G"),
        "gene_scale": Learned("G", values="not negative"),
    }
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (3, 60, "log")}

    def __init__(
        self,
        *,
        rank: int | None = None,
        quantile: float = ZERO_QUANTILE,
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.rank = rank
        self.quantile = quantile
        self.posterior = posterior
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("rank", self.rank is None or self.rank >= 1, "at least 1")
        self._require("quantile", 0 <= self.quantile < 1, "from 0 to 1")

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        from sklearn.utils.extmath import randomized_svd

        logs = normalized_counts(data, np.log1p)
        self.rank_ = min(self.rank or self._chosen_rank(logs), min(data.shape))
        self._tell(0.3, f"rank {self.rank_}")
        right = randomized_svd(
            logs.astype(np.float64), self.rank_, n_iter=PASSES_TO_FIT, random_state=self.random_state
        )[2]
        self.components_ = np.ascontiguousarray(right.T, dtype=np.float32)
        left = logs @ self.components_
        self._tell(0.6, "thresholds")
        self._learn_genes(left, logs)
        model = Rescaled.matched(self._model(left, logs), data)
        self.gene_scale_ = model.gene_scale
        return model, {
            "status": Status("exact", f"rank {self.rank_}", {"rank": self.rank_}),
            "gene_columns": {"total_factor": self.gene_scale_},
            "latent": left[:, :LATENT_COLUMNS].copy(),
        }

    def _chosen_rank(self, logs: sp.csr_array) -> int:
        from sklearn.utils.extmath import randomized_svd

        number = min(SINGULAR_VALUES, min(logs.shape) - 1)
        noise = round(NOISE_SHARE * number)
        if noise < 2:
            return 1
        # in float32 the power iterations lose the small singular values, and the noise looks larger than it is
        wide = logs.astype(np.float64)
        s = randomized_svd(wide, number, n_iter=PASSES_TO_CHOOSE, random_state=self.random_state)[1]
        spacings = s[:-1] - s[1:]
        last = spacings[-noise:]
        far = np.flatnonzero(spacings > last.mean() + SPACING_SDS * last.std(ddof=1))
        return int(far[-1]) + 1 if len(far) else 1

    def _learn_genes(self, left: np.ndarray, logs: sp.csr_array) -> None:
        """The threshold of each gene, and the line that gives what is above it the mean and SD of observed values."""
        n, G = logs.shape
        threshold, mean, sd = np.zeros(G), np.zeros(G), np.zeros(G)
        for genes in row_blocks(G, n):
            values = left @ self.components_[genes].T
            threshold[genes] = np.abs(np.quantile(values, self.quantile, axis=0))
            above = values > threshold[genes]
            mean[genes], sd[genes] = _mean_and_sd(above.sum(axis=0), values.T, above.T)
        by_gene = logs.tocsc()
        counts = np.diff(by_gene.indptr)
        total, squares = (
            np.bincount(logs.indices, weights=weights.astype(np.float64), minlength=G)
            for weights in (logs.data, logs.data.astype(np.float64) ** 2)
        )
        seen = counts > 0
        seen_mean = np.divide(total, counts, out=np.zeros(G), where=seen)
        variance = np.divide(squares, counts, out=np.zeros(G), where=seen) - seen_mean**2
        seen_sd = np.sqrt(np.maximum(variance, 0) * np.divide(counts, counts - 1, out=np.zeros(G), where=counts > 1))
        scaled = (sd > 0) & (counts > 1)
        self.threshold_ = threshold
        self.slope_ = np.where(scaled, np.divide(seen_sd, sd, out=np.ones(G), where=scaled), 1.0)
        self.offset_ = np.where(scaled, seen_mean - mean * self.slope_, 0.0)

    def _model(self, left: np.ndarray, logs: sp.csr_array) -> _Thresholded:
        return _Thresholded(left, self.components_, self.threshold_, self.slope_, self.offset_, logs)

    def _new_rows(self, data: Data) -> Model:
        logs = normalized_counts(data, np.log1p)
        return Rescaled(self._model(logs @ self.components_, logs), data.depth, self.gene_scale_)

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.rank_ = self.components_.shape[1]


class _Thresholded:
    """Normalised values: of low rank on log1p, small ones 0, the others on a line, and observed ones restored."""

    def __init__(
        self,
        left: np.ndarray,
        right: np.ndarray,
        threshold: np.ndarray,
        slope: np.ndarray,
        offset: np.ndarray,
        logs: sp.csr_array,
    ) -> None:
        self.left, self.right, self.logs = left, right, logs
        self.threshold, self.slope, self.offset = (part.astype(np.float32) for part in (threshold, slope, offset))

    def normalized(self, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        some = slice(None) if genes is None else genes
        values = self.left[rows] @ self.right[some].T
        zero = values <= self.threshold[some]
        values *= self.slope[some]
        values += self.offset[some]
        zero |= values < 0
        values[zero] = 0
        seen = self.logs[rows] if genes is None else self.logs[rows][:, genes]
        i, j = np.repeat(np.arange(len(rows)), np.diff(seen.indptr)), seen.indices
        lost = values[i, j] == 0
        values[i[lost], j[lost]] = seen.data[lost]
        return np.expm1(values, out=values)


def _mean_and_sd(count: np.ndarray, values: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD (divisor: number less 1) of the used values in each row."""
    number = np.maximum(count, 1)
    mean = np.where(use, values, 0).sum(axis=1, dtype=np.float64) / number
    squares = np.where(use, (values - mean[:, None]) ** 2, 0).sum(axis=1, dtype=np.float64)
    return mean, np.sqrt(squares / np.maximum(count - 1, 1))
