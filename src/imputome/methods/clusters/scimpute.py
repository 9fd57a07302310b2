"""scImpute: likely dropouts, found by a mixture per gene and cluster, predicted from similar cells."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from scipy.special import digamma, gammaln, polygamma

from imputome.core.data import Data
from imputome.core.imputation import Model, Output
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned
from imputome.core.scales import TARGET
from imputome.methods.clusters import SCIMPUTE_INFO
from imputome.methods.rescaled import TRAINING, Rescaled, at_from_rows, restored_counts, row_blocks, saved_counts
from imputome.methods.similar_cells import Components, nearest

PER_MILLION = 1e6
SHIFT = 1.01  # added before the logarithm, so that a zero is a little above 0, as a gamma density needs
COMPONENTS = 20
ROUNDS = 100  # of expectation maximisation, at most
STILL = 1e-3  # change of the log-likelihood per cell that ends it
FEWEST_CELLS = 5  # a cluster with fewer is left as it is


class ScImpute(Imputer):
    """Likely dropouts are predicted from similar cells; other values stay (Li & Li 2018).

    1. Values are log10(CPM + 1.01). Cells whose nearest neighbour, in principal components, is far (above the third
       quartile by 1.5 times the interquartile range) are outliers and stay as they are; the others go to spectral
       clustering.
    2. In each cluster each gene is a mixture: a gamma distribution for dropouts, a normal one for expression, fitted by
       expectation maximisation. It gives each value its probability of being a dropout.
    3. In each cell, values with a probability above ``threshold`` are predicted: the weights of its nearest cells in
       the cluster, not negative, are those that predict its other genes best (least squares). A prediction is at most
       the largest value of the gene in these cells. A value above the mean of the normal component is no dropout.

    Values on scale ``counts`` are ``10^value - 1.01``, per million, scaled to the library of the cell, times the factor
    of each gene that restores its total (``total_factor``).

    Parameters
    ----------
    n_clusters : int, default=5
        Number of clusters; fewer if there would be fewer than ten cells in each. The paper leaves it to the user.
    threshold : float, default=0.5
        Probability of a dropout above which a value is predicted.
    max_neighbors : int, default=50
        Cells that a cell is predicted from, the nearest of its cluster (the paper takes all).
    posterior : bool, default=False
        Combine the rate with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of the components, of the clustering, and of the posterior step.

    Attributes
    ----------
    labels_ : ndarray of shape (n,)
        Cluster of each cell; -1 for outliers.

    Notes
    -----
    The output ``dropout_probability`` is that of step 2; 0 for a value above the mean of the normal component.

    The authors' program does not bound predictions, and leaves genes and clusters of little expression as they are.
    Without the bound, where the neighbours have little but zeros in the genes that the weights are found on, these add
    up to hundreds, and as a power of ten the prediction has no limit.

    A new cell belongs to the cluster of its nearest training cell.

    Cost: minutes; about 50 rounds over the n x G values in blocks of genes, and for each cell a Gram matrix of its
    ``max_neighbors`` cells over G genes. Memory: n x G probabilities and predictions, float32 each, so that it is for
    data that fit in memory as dense values.

    Known to fail: on UMI counts a gene seen in few cells of a cluster has no normal component to speak of, and stays;
    dropout probabilities are near 1 at most zeros of expressed genes, so that biological zeros are filled. A cell
    whose other genes its neighbours do not have gets the largest values that they show, as the bound says.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:150, :200]
    >>> imputome.methods.create("scimpute", {"n_clusters": 2}).fit(adata.X).labels_.shape
    (150,)
    """

    info = SCIMPUTE_INFO
    learned: ClassVar[dict[str, Learned]] = {
        "mean": Learned("G"),
        "loadings": Learned("G k"),
        "labels": Learned("n", kind="int"),
        "mixtures": Learned("c 5 G", values="any"),
        "gene_scale": Learned("G", values="not negative"),
    }
    stored: ClassVar[dict[str, Learned]] = TRAINING
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n_clusters": (2, 15, "linear"),
        "threshold": (0.3, 0.9, "linear"),
    }

    def __init__(
        self,
        *,
        n_clusters: int = 5,
        threshold: float = 0.5,
        max_neighbors: int = 50,
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.threshold = threshold
        self.max_neighbors = max_neighbors
        self.posterior = posterior
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("n_clusters", self.n_clusters >= 1, "at least 1")
        self._require("threshold", 0 < self.threshold < 1, "between 0 and 1")
        self._require("max_neighbors", self.max_neighbors >= 1, "at least 1")

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self.training_ = _log_values(data)
        components = Components.of(self.training_, COMPONENTS, self.random_state)
        self.mean_, self.loadings_ = components.mean, components.loadings
        self.scores_ = components.scores(self.training_)
        self.labels_ = self._clusters()
        self.mixtures_ = np.full((self.labels_.max() + 1, 5, data.shape[1]), np.nan)
        for number in range(len(self.mixtures_)):
            self._tell(number / len(self.mixtures_), f"cluster {number + 1} of {len(self.mixtures_)}")
            cells = np.flatnonzero(self.labels_ == number)
            if len(cells) >= FEWEST_CELLS:
                self.mixtures_[number] = fitted_mixtures(_shifted(self.training_[cells]))
        filled, dropout = self._filled(self.training_, self.scores_, self.labels_, training=True)
        model = _Completed(Rescaled.matched(filled, data), dropout)
        self.gene_scale_ = model.inner.gene_scale
        return model, {"gene_columns": {"total_factor": self.gene_scale_}}

    def _filled(
        self, logs: sp.csr_array, scores: np.ndarray, labels: np.ndarray, *, training: bool = False
    ) -> tuple[_Filled, np.ndarray]:
        """The predictions and the dropout probabilities of cells of these clusters."""
        dropout, values = np.zeros(logs.shape, np.float32), np.full(logs.shape, np.nan, np.float32)
        for number, mixtures in enumerate(self.mixtures_):
            cells, others = np.flatnonzero(labels == number), np.flatnonzero(self.labels_ == number)
            if not len(cells) or len(others) < FEWEST_CELLS:
                continue
            part = _shifted(logs[cells])
            dropout[cells] = dropout_probabilities(part, mixtures) * (np.diff(logs.indptr)[cells, None] > 0)
            dropout[cells] *= ~(part > mixtures[3])  # the gamma density has the longer tail, also to the right
            distances, near = nearest(scores[cells], self.scores_[others], self.max_neighbors, skip_self=training)
            if not training and near.shape[1] > 1:
                # a training cell that is given again must not predict itself: its dropouts are its zeros
                same = distances[:, :1] < 1e-4 * np.abs(scores[cells]).max(axis=1, keepdims=True)
                near = np.where(same, np.roll(near, -1, axis=1), near)[:, :-1]
            values[cells] = _predicted(
                part, dropout[cells] > self.threshold, np.isfinite(mixtures[0]), near, _shifted(self.training_[others])
            )
        return _Filled(logs, values), dropout

    def _new_rows(self, data: Data) -> Model:
        logs = _log_values(data)
        scores = Components(self.mean_, self.loadings_).scores(logs)
        labels = self.labels_[nearest(scores, self.scores_, 1, skip_self=False)[1].ravel()]
        filled, dropout = self._filled(logs, scores, labels)
        return _Completed(Rescaled(filled, data.depth, self.gene_scale_), dropout)

    def _state(self) -> dict[str, np.ndarray]:
        return {**super()._state(), **saved_counts(self.training_)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.training_ = restored_counts(arrays, len(self.mean_))
        self.scores_ = Components(self.mean_, self.loadings_).scores(self.training_)

    def _clusters(self) -> np.ndarray:
        """The cluster of each training cell, -1 for outliers."""
        from sklearn.cluster import SpectralClustering

        scores = self.scores_
        distance = nearest(scores, scores, 1, skip_self=True)[0].ravel()
        low, high = np.quantile(distance, [0.25, 0.75])
        inside = np.flatnonzero(distance <= high + 1.5 * (high - low))
        number = min(self.n_clusters, max(1, len(inside) // 10))
        labels = np.full(len(scores), -1)
        labels[inside] = 0
        if number > 1:
            clustering = SpectralClustering(
                number,
                affinity="nearest_neighbors",
                n_neighbors=min(10, len(inside) - 1),
                random_state=self.random_state,
            )
            labels[inside] = clustering.fit_predict(scores[inside])
        return labels


class _Filled:
    """Normalised values: those of the input, and predictions (log10, with NaN elsewhere)."""

    def __init__(self, logs: sp.csr_array, values: np.ndarray) -> None:
        self.logs, self.values = logs, values

    def normalized(self, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        seen = self.logs[rows] if genes is None else self.logs[rows][:, genes]
        predicted = self.values[rows] if genes is None else self.values[np.ix_(rows, genes)]
        logs = np.where(np.isnan(predicted), _shifted(seen), predicted)
        values = 10.0**logs - SHIFT
        np.maximum(values, 0, out=values)
        return (values * (TARGET / PER_MILLION)).astype(np.float32)


class _Completed:
    """A `Model`: the rescaled values, and the probabilities of dropouts."""

    outputs: frozenset[Output] = frozenset({"value", "rate", "dropout_probability"})

    def __init__(self, inner: Rescaled, dropout: np.ndarray) -> None:
        self.inner, self.dropout = inner, dropout

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        if output == "dropout_probability":
            return self.dropout[rows] if genes is None else self.dropout[np.ix_(rows, genes)]
        return self.inner.rows(rows, genes, output)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        if output == "dropout_probability":
            return self.dropout[i, j]
        return at_from_rows(self.inner.rows, i, j, self.dropout.shape[1])


def _log_values(data: Data) -> sp.csr_array:
    """log10(CPM + 1.01) less log10(1.01), which is 0 at zeros."""
    depth = np.where(data.depth > 0, data.depth, 1.0)
    values = data.X.data * np.repeat(PER_MILLION / depth, np.diff(data.X.indptr))
    values = (np.log10(values + SHIFT) - np.log10(SHIFT)).astype(np.float32)
    return sp.csr_array((values, data.X.indices, data.X.indptr), shape=data.shape)


def _shifted(logs: sp.csr_array) -> np.ndarray:
    """Dense log10(CPM + 1.01)."""
    return logs.toarray() + np.float32(np.log10(SHIFT))


# -- the mixture -------------------------------------------------------------------------------------------------------
def fitted_mixtures(values: np.ndarray) -> np.ndarray:
    """The mixture of each gene of log values, (n, G) and positive: (5, G).

    The rows are the share of the gamma component, its shape and rate, and the mean and standard deviation of the normal
    one; NaN for a gene that is seen in fewer than two cells, or whose normal component does not lie above its gamma
    component.
    """
    n, G = values.shape
    out = np.full((5, G), np.nan)
    expressed = values > np.log10(SHIFT) + 1e-6
    seen = expressed.sum(axis=0)
    for genes in row_blocks(G, n):
        some = genes[seen[genes] > 1]
        if len(some):
            found = _maximised(values[:, some].astype(np.float64), expressed[:, some])
            found[:, found[3] <= found[1] / found[2]] = np.nan
            out[:, some] = found
    return out


def dropout_probabilities(values: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
    """(n, G) probabilities that log values are dropouts, float32; 0 for genes without a mixture."""
    out = np.zeros(values.shape, np.float32)
    for genes in row_blocks(values.shape[1], len(values)):
        some = genes[np.isfinite(mixtures[0, genes])]
        if len(some):
            out[:, some] = _responsibility(values[:, some].astype(np.float64), mixtures[:, some])[0]
    return out


def _maximised(x: np.ndarray, expressed: np.ndarray) -> np.ndarray:
    """Expectation maximisation for all genes of a block at once; a gene that is done no longer changes."""
    n, G = x.shape
    log_x = np.log(x)
    number = expressed.sum(axis=0)
    mean = np.where(expressed, x, 0).sum(axis=0) / number
    sd = np.sqrt(np.where(expressed, (x - mean) ** 2, 0).sum(axis=0) / np.maximum(number - 1, 1))
    mixtures = np.stack([np.clip(1 - number / n, 0.01, 0.99), np.full(G, 0.5), np.ones(G), mean, np.maximum(sd, 0.01)])
    previous, active = np.full(G, -np.inf), np.arange(G)
    for _ in range(ROUNDS):
        w, likelihood = _responsibility(x[:, active], mixtures[:, active])
        moving = np.abs(likelihood - previous[active]) > STILL * n
        previous[active] = likelihood
        mixtures[:, active] = _updated(x[:, active], log_x[:, active], w, mixtures[:, active])
        active = active[moving]
        if not len(active):
            break
    return mixtures


def _responsibility(x: np.ndarray, mixtures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability that each value is of the gamma component, and the log-likelihood of each gene."""
    share, shape, rate, mean, sd = mixtures
    gamma = np.log(share) + shape * np.log(rate) - gammaln(shape) + (shape - 1) * np.log(x) - rate * x
    gap = (x - mean) / sd
    normal = np.log1p(-share) - 0.5 * gap * gap - np.log(sd) - 0.5 * np.log(2 * np.pi)
    both = np.logaddexp(gamma, normal)
    return np.exp(gamma - both), both.sum(axis=0)


def _updated(x: np.ndarray, log_x: np.ndarray, w: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
    """The maximisation step: weighted maximum-likelihood estimates of both components."""
    n, total = len(x), w.sum(axis=0)
    enough = total > 1e-6
    first = np.divide((w * x).sum(axis=0), total, out=np.ones_like(total), where=enough)
    logs = np.divide((w * log_x).sum(axis=0), total, out=np.zeros_like(total), where=enough)
    shape = np.where(enough, _gamma_shape(np.log(first) - logs), mixtures[1])
    rate = np.where(enough, shape / first, mixtures[2])
    rest = np.maximum(n - total, 1e-6)
    mean = ((1 - w) * x).sum(axis=0) / rest
    sd = np.sqrt(((1 - w) * (x - mean) ** 2).sum(axis=0) / rest)
    return np.stack([np.clip(total / n, 1e-3, 1 - 1e-3), shape, rate, mean, np.maximum(sd, 0.01)])


def _gamma_shape(s: np.ndarray) -> np.ndarray:
    """The shape k with log(k) - digamma(k) = s, by Newton's method from the usual approximation; at most 1e4."""
    s = np.clip(s, 5e-5, None)
    k = (3 - s + np.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s)
    for _ in range(4):
        k = np.clip(k - (np.log(k) - digamma(k) - s) / (1 / k - polygamma(1, k)), 1e-3, 1e4)
    return k


# -- the prediction ----------------------------------------------------------------------------------------------------
def _predicted(
    values: np.ndarray, dropout: np.ndarray, valid: np.ndarray, near: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Predictions of the dropouts of the cells of a cluster, (n, G), NaN elsewhere.

    ``near`` are the places of their neighbours in ``others``, the values of the training cells of the cluster.
    """
    out = np.full(values.shape, np.nan, np.float32)
    for cell in range(len(values)):
        use = valid & ~dropout[cell]
        if not use.any() or not dropout[cell].any():
            continue
        neighbors = others[near[cell]]
        weights = nonnegative_weights(neighbors[:, use].astype(np.float64), values[cell, use].astype(np.float64))
        shown = neighbors[:, dropout[cell]]
        out[cell, dropout[cell]] = np.minimum(weights @ shown, shown.max(axis=0))  # the weights can sum to anything
    return out


def nonnegative_weights(others: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The weights w of k rows, (k, p), none negative, that minimise ||target - w others||, through the k x k Gram."""
    from scipy.optimize import nnls

    gram = others @ others.T
    gram[np.diag_indices_from(gram)] += 1e-8 * np.trace(gram) / len(gram)
    root = np.linalg.cholesky(gram)
    return nnls(root.T, np.linalg.solve(root, others @ target))[0]
