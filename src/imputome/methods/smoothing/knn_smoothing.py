"""kNN-smoothing: the molecules of a cell and of the cells most like it, summed."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from imputome.core.data import Data
from imputome.core.imputation import Model, Output
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned
from imputome.methods.rescaled import TRAINING, at_from_rows, restored_counts, saved_counts
from imputome.methods.similar_cells import Components, nearest, summed
from imputome.methods.smoothing import KNN_SMOOTHING_INFO


class KNNSmoothing(Imputer):
    """Each cell is replaced by the sum of its ``k`` nearest cells, itself included (Wagner, Yan & Yanai 2018).

    The cells are found in steps with k_t = 2, 4, 8, ..., k: in each, the sums so far are scaled to their median
    library, transformed by sqrt(x) + sqrt(x + 1) (Freeman & Tukey), and go to principal components; there the k_t
    nearest cells are found, and their *raw* counts are summed. Values are the last sums, divided by the sum of the
    libraries and multiplied by the library of the cell.

    Parameters
    ----------
    k : int, default=16
        Cells in a sum, the cell itself included; at most a quarter of the cells is used.
    n_components : int, default=10
        Principal components.
    dither : float, default=0.03
        Noise that is added to the coordinates, uniform over this share of the range of each component: it separates
        cells with equal coordinates. 0 switches it off.
    posterior : bool, default=False
        Combine the rate with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of the components, of the dither, and of the posterior step.

    Attributes
    ----------
    neighbors_ : ndarray of shape (n, k)
        Positions of the cells of each sum, the cell itself first.

    Notes
    -----
    A new cell is summed with the training cells nearest to it in each step.

    Cost: seconds; for each of log2(k) steps, principal components of the sums (their nonzeros grow up to k-fold) and
    ``n^2`` distances in ``n_components`` dimensions. Memory: the sums of one step, sparse.

    Known to fail: sums blur cells of a type with fewer than ``k`` cells, and make permuted genes correlated.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:300]
    >>> smoothed = imputome.methods.create("knn_smoothing", {"k": 4})
    >>> smoothed.fit(adata.X).neighbors_.shape
    (300, 4)
    """

    info = KNN_SMOOTHING_INFO
    learned: ClassVar[dict[str, Learned]] = {
        "depth": Learned("n", values="not negative"),
        "sizes": Learned("s", kind="int", values="positive"),
        "median_library": Learned(values="positive"),
        "neighbors": Learned("n k", kind="int", below="n"),
    }
    stored: ClassVar[dict[str, Learned]] = {
        "means": Learned("s G"),
        "loadings": Learned("s G d"),
        "points": Learned("s n d"),
        **TRAINING,
    }
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"k": (4, 64, "log"), "n_components": (5, 50, "log")}

    def __init__(
        self,
        *,
        k: int = 16,
        n_components: int = 10,
        dither: float = 0.03,
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.k = k
        self.n_components = n_components
        self.dither = dither
        self.posterior = posterior
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("k", self.k >= 1, "at least 1")
        self._require("n_components", self.n_components >= 1, "at least 1")
        self._require("dither", 0 <= self.dither <= 1, "from 0 to 1")

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self.training_, self.depth_ = data.X.astype(np.float32), data.depth
        n = data.shape[0]
        self.sizes_ = np.array(_sizes(min(self.k, max(1, n // 4))))
        self.median_library_ = float(np.median(_totals(data.X)))
        rng = np.random.default_rng(self.random_state)
        self.steps_: list[tuple[Components, np.ndarray]] = []
        sums, weights = self.training_, sp.eye_array(n, dtype=np.float32, format="csr")
        for step, size in enumerate(self.sizes_):
            self._tell(step / len(self.sizes_), f"sums of {size} cells")
            tukey = _freeman_tukey(sums, self.median_library_)
            components = Components.of(tukey, self.n_components, self.random_state)
            points = components.scores(tukey)
            span = np.ptp(points, axis=0)
            points += (span * self.dither * (rng.random(points.shape) - 0.5)).astype(points.dtype)
            self.steps_.append((components, points))
            weights = _with_self(nearest(points, points, size - 1, skip_self=True)[1])
            sums = (weights @ self.training_).tocsr()
        self.neighbors_ = weights.indices.reshape(n, -1)
        return _Sums(weights, None, self, data.depth), {}

    def _new_rows(self, data: Data) -> Model:
        """A new cell is itself and its ``k_t - 1`` nearest training cells."""
        own = data.X.astype(np.float32)
        sums, weights = own, sp.csr_array((data.shape[0], len(self.depth_)), dtype=np.float32)
        for size, (components, points) in zip(self.sizes_, self.steps_, strict=True):
            new = components.scores(_freeman_tukey(sums, self.median_library_))
            weights = _ones(nearest(new, points, size - 1, skip_self=False)[1], len(self.depth_))
            sums = (own + weights @ self.training_).tocsr()
        return _Sums(weights, own, self, data.depth)

    def _state(self) -> dict[str, np.ndarray]:
        width = max(components.loadings.shape[1] for components, _ in self.steps_)
        parts = {
            "means": np.stack([components.mean for components, _ in self.steps_]),
            "loadings": np.stack([_padded(components.loadings, width) for components, _ in self.steps_]),
            "points": np.stack([_padded(points, width) for _, points in self.steps_]),
        }
        return {**super()._state(), **parts, **saved_counts(self.training_)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        parts = zip(arrays["means"], arrays["loadings"], arrays["points"], strict=True)
        self.steps_ = [(Components(mean, loadings), points) for mean, loadings, points in parts]
        self.training_ = restored_counts(arrays, arrays["means"].shape[1])


class _Sums:
    """A `Model`: summed counts over summed libraries, times the library of the cell."""

    outputs: frozenset[Output] = frozenset({"value", "rate"})

    def __init__(
        self, weights: sp.csr_array, own: sp.csr_array | None, method: KNNSmoothing, depth: np.ndarray
    ) -> None:
        self.weights, self.own, self.training = weights, own, method.training_
        together = weights @ method.depth_ + (0 if own is None else depth)
        self.scale = np.divide(depth, together, out=np.zeros(len(depth)), where=together > 0).astype(np.float32)

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        values = summed(self.weights[rows], self.training if genes is None else self.training[:, genes])
        if self.own is not None:
            values += self.own[rows].toarray() if genes is None else self.own[rows][:, genes].toarray()
        values *= self.scale[rows, None]
        return values

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return at_from_rows(self.rows, i, j, self.training.shape[1])


def _padded(matrix: np.ndarray, width: int) -> np.ndarray:
    """The matrix with columns of zeros up to this width."""
    return np.pad(matrix, ((0, 0), (0, width - matrix.shape[1])))


def _sizes(k: int) -> list[int]:
    """2, 4, 8, ..., k; 1 alone if the cell is its own sum."""
    sizes = [2**step for step in range(1, 64) if 2**step < k]
    return [*sizes, k]


def _totals(X: sp.csr_array) -> np.ndarray:
    return np.asarray(X.sum(axis=1, dtype=np.float64)).ravel()


def _freeman_tukey(X: sp.csr_array, median: float) -> sp.csr_array:
    """sqrt(x) + sqrt(x + 1) - 1 of rows scaled to the median library; the 1, which a 0 has, moves no component."""
    totals = _totals(X)
    factor = np.where(totals > 0, median / np.where(totals > 0, totals, 1.0), 0.0)
    values = X.data * np.repeat(factor, np.diff(X.indptr))
    values = np.sqrt(values) + np.sqrt(values + 1) - 1
    return sp.csr_array((values.astype(np.float32), X.indices, X.indptr), shape=X.shape)


def _ones(places: np.ndarray, n: int) -> sp.csr_array:
    """(m, n) matrix with 1 at these places of each row."""
    m, k = places.shape
    return sp.csr_array((np.ones(m * k, np.float32), places.ravel(), np.arange(m + 1) * k), shape=(m, n))


def _with_self(places: np.ndarray) -> sp.csr_array:
    n = len(places)
    return _ones(np.column_stack([np.arange(n), places]), n)
