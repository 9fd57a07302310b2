"""DrImpute: zeros become the mean of the cluster of the cell, averaged over many clusterings."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from imputome.core.data import Data
from imputome.core.imputation import Model
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned
from imputome.core.scales import TARGET
from imputome.methods.clusters import DRIMPUTE_INFO
from imputome.methods.rescaled import TRAINING, Rescaled, restored_counts, saved_counts

COMPONENT_SHARE = 0.05  # of the number of cells: as many components of the distances go to k-means


class DrImpute(Imputer):
    """Zeros become the mean of similar cells, over clusterings with many numbers of clusters (Gong et al. 2018).

    On log10(x + 1), x scaled to the median library, distances between cells are 1 - r, with Pearson's and with
    Spearman's r. Their leading components (5 % of the number of cells) are clustered by k-means, for each number of
    clusters and each distance. A zero becomes the mean over all clusterings of the mean of its gene in the cluster of
    its cell. Other values stay.

    Values on scale ``counts`` are ``10^value - 1``, scaled back to the library of the cell, times the factor of each
    gene that restores its total (``total_factor``).

    Parameters
    ----------
    min_clusters, max_clusters : int, default=10, 15
        Numbers of clusters, from the first to the last; fewer if there are fewer than twice as many cells.
    posterior : bool, default=False
        Combine the rate with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of k-means, and of the posterior step.

    Attributes
    ----------
    labels_ : ndarray of shape (n, clusterings)
        The cluster of each cell in each clustering.

    Notes
    -----
    A new cell belongs to the clusters of the training cell that it is most correlated with.

    Cost: minutes; two n x n correlations and their components, in float32: the time grows with n^3, so that more than
    about 10,000 cells take long. Memory: 8 n^2 bytes.

    Known to fail: where few molecules are seen, the mean of a cluster is mostly zeros, and little changes; a type with
    fewer cells than the other clusters takes their values.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:200]
    >>> imputome.methods.create("drimpute").fit(adata.X).labels_.shape
    (200, 12)
    """

    info = DRIMPUTE_INFO
    learned: ClassVar[dict[str, Learned]] = {
        "labels": Learned("n c", kind="int", values="not negative"),
        "median_library": Learned(values="positive"),
        "gene_scale": Learned("G", values="not negative"),
    }
    stored: ClassVar[dict[str, Learned]] = TRAINING
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"min_clusters": (2, 15, "linear")}

    def __init__(
        self,
        *,
        min_clusters: int = 10,
        max_clusters: int = 15,
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.min_clusters = min_clusters
        self.max_clusters = max_clusters
        self.posterior = posterior
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("min_clusters", self.min_clusters >= 1, "at least 1")
        self._require("max_clusters", self.max_clusters >= self.min_clusters, "at least min_clusters")

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        from sklearn.cluster import KMeans

        self.median_library_ = float(np.median(data.depth[data.depth > 0]))
        self.training_ = logs = self._logs(data)
        most = max(1, data.shape[0] // 2)
        numbers = [min(number, most) for number in range(self.min_clusters, self.max_clusters + 1)]
        labels: list[np.ndarray] = []
        for values in (logs, ranks(logs)):
            points = _components(1 - correlations(values, values))
            distinct = len(np.unique(points.round(5), axis=0))
            for number in numbers:
                self._tell(len(labels) / (2 * len(numbers)), f"{number} clusters")
                clustering = KMeans(min(number, distinct), n_init=3, random_state=self.random_state)
                labels.append(clustering.fit_predict(points))
        self.labels_ = np.stack(labels, axis=1)
        self._average()
        model = Rescaled.matched(_ClusterMeans(logs, self.membership_, self), data)
        self.gene_scale_ = model.gene_scale
        return model, {"gene_columns": {"total_factor": self.gene_scale_}}

    def _logs(self, data: Data) -> sp.csr_array:
        """log10(x + 1), x scaled to the median library of the training cells."""
        scale = self.median_library_ / np.where(data.depth > 0, data.depth, 1.0)
        values = np.log10(1 + data.X.data * np.repeat(scale, np.diff(data.X.indptr)))
        return sp.csr_array((values.astype(np.float32), data.X.indices, data.X.indptr), shape=data.shape)

    def _average(self) -> None:
        """The clusters of each cell as rows of weights, and the means of the clusters."""
        n, clusterings = self.labels_.shape
        codes = self.labels_ + np.concatenate([[0], np.cumsum(self.labels_.max(axis=0) + 1)[:-1]])
        weights = np.full(codes.size, 1 / clusterings, np.float32)
        # row i has 1 / clusterings at each of its clusters, so that one product averages over the clusterings
        self.membership_ = sp.csr_array(
            (weights, codes.ravel(), np.arange(n + 1) * clusterings), shape=(n, int(codes.max()) + 1)
        )
        totals = self.membership_.T.tocsr()
        sizes = np.asarray(totals.sum(axis=1)).ravel()
        totals.data /= np.repeat(np.maximum(sizes, 1e-12), np.diff(totals.indptr)).astype(np.float32)
        self.means_ = (totals @ self.training_).tocsr()

    def _new_rows(self, data: Data) -> Model:
        logs = self._logs(data)
        nearest = np.argmax(correlations(logs, self.training_), axis=1)
        return Rescaled(_ClusterMeans(logs, self.membership_[nearest], self), data.depth, self.gene_scale_)

    def _state(self) -> dict[str, np.ndarray]:
        return {**super()._state(), **saved_counts(self.training_)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.training_ = restored_counts(arrays, len(self.gene_scale_))
        self._average()


class _ClusterMeans:
    """Normalised values: observed ones, and at zeros the mean over clusterings of the mean of the cluster."""

    def __init__(self, logs: sp.csr_array, membership: sp.csr_array, method: DrImpute) -> None:
        self.logs, self.membership, self.means = logs, membership, method.means_
        self.scale = np.float32(TARGET / method.median_library_)

    def normalized(self, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        means = self.means if genes is None else self.means[:, genes]
        values = np.asarray((self.membership[rows] @ means).toarray(), dtype=np.float32)
        seen = self.logs[rows] if genes is None else self.logs[rows][:, genes]
        values[np.repeat(np.arange(len(rows)), np.diff(seen.indptr)), seen.indices] = seen.data
        values *= np.float32(np.log(10))
        np.expm1(values, out=values)
        values *= self.scale
        return values


def correlations(X: sp.csr_array, Y: sp.csr_array) -> np.ndarray:
    """(m, n) Pearson correlations of the rows of two sparse matrices, float32; 0 with a constant row."""
    G = X.shape[1]
    (mean, sd), (other_mean, other_sd) = (_mean_and_length(part) for part in (X, Y))
    cross = (X.astype(np.float64) @ Y.T.astype(np.float64)).toarray()
    cross -= G * np.outer(mean, other_mean)
    for length, _axis in ((sd[:, None], 0), (other_sd, 1)):
        cross *= np.divide(1, length, out=np.zeros_like(length), where=length > 1e-12)
    return cross.astype(np.float32)


def _mean_and_length(X: sp.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each row, and the length of the row less its mean."""
    mean = np.asarray(X.sum(axis=1, dtype=np.float64)).ravel() / X.shape[1]
    squares = np.bincount(np.repeat(np.arange(len(mean)), np.diff(X.indptr)), X.data.astype(float) ** 2, len(mean))
    return mean, np.sqrt(np.maximum(squares - X.shape[1] * mean**2, 0))


def ranks(X: sp.csr_array) -> sp.csr_array:
    """The ranks of the values of each row, less that of its zeros, which all tie."""
    from scipy.stats import rankdata

    data = np.empty(X.nnz)
    for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True):
        zeros = X.shape[1] - (stop - start)
        data[start:stop] = rankdata(X.data[start:stop]) + zeros - (zeros + 1) / 2
    return sp.csr_array((data, X.indices, X.indptr), shape=X.shape)


def _components(distances: np.ndarray) -> np.ndarray:
    """The leading principal components of the cells, described by their distances to all cells."""
    from sklearn.decomposition import PCA

    if not np.ptp(distances):
        return np.zeros((len(distances), 1))
    number = max(2, round(COMPONENT_SHARE * len(distances)))
    number = min(number, len(distances) - 1)
    return PCA(max(1, number), svd_solver="auto", random_state=0).fit_transform(distances)
