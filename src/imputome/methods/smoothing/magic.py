"""MAGIC: normalised counts averaged over a random walk on a graph of similar cells."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp

from imputome.core.data import Data
from imputome.core.imputation import Model, Status
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned
from imputome.errors import Message
from imputome.methods.rescaled import TRAINING, Rescaled, normalized_counts, restored_counts, saved_counts
from imputome.methods.similar_cells import Components, nearest, summed
from imputome.methods.smoothing import MAGIC_INFO

SMALLEST_AFFINITY = 1e-4
STILL = 0.001  # a step that changes the values by less, as a Procrustes disparity, is the last but one
LONGEST_WALK = 20
MOST_SQUARED = 2_000  # cells up to which a longer walk is a power of a dense P, by repeated squaring
GENES_TO_CHOOSE = 500  # genes on which the length of the walk is chosen


class Magic(Imputer):
    """The mean of similar cells, weighted by the steps of a random walk between them (van Dijk et al. 2018).

    Counts per 10,000 molecules, as square roots, go to principal components. The affinity of a cell to each of its
    nearest cells is ``exp(-(d / sigma)^decay)``, sigma its distance to the neighbour number ``n_neighbors`` (the cell
    itself does not count; its own affinity is 1). The affinities are made symmetric and divided by their sum in each
    row, P; the smoothed square roots are ``P^t`` times those of the cells.

    Values on scale ``counts`` are their squares, times the library size over 10,000, times the factor of each gene
    that restores its total (``total_factor``), because squares of means are too small.

    Parameters
    ----------
    n_neighbors : int, default=5
        The neighbour whose distance is the bandwidth.
    max_neighbors : int, default=15
        Number of neighbours of a cell, before the graph is made symmetric.
    decay : float, default=1.0
        Exponent of the kernel.
    t : int or "auto", default=3
        Steps of the walk. "auto": one more than the first step that changes the values (500 genes at most) by a
        Procrustes disparity under 0.001, at most 20.
    n_components : int, default=100
        Principal components in which distances are taken.
    posterior : bool, default=False
        Combine the rate with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of the principal components, of the genes that choose ``t``, and of the posterior step.

    Attributes
    ----------
    t_ : int
        Steps that were taken.
    n_edges_ : int
        Stored weights of P.

    Warns
    -----
    UserWarning
        The walk has more than 20 steps, over more than 2,000 cells.

    Notes
    -----
    New cells walk to their nearest training cells first, and on from there.

    Cost: seconds; about 8 passes over the nonzeros for 100 components, ``n^2`` distances, and for each cell asked for,
    the nonzero counts of the cells that its walk reaches. Memory: the counts, P, and a block of dense rows; with
    ``genes`` only these columns are computed.

    Known to fail: it smooths noise as it smooths signal. Values of permuted genes become correlated, and a rare cell
    takes the values of its neighbours; on most data its held-out loss is above that of the control
    ``gene_mean_posterior`` unless ``posterior=True``.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:300]
    >>> result = imputome.methods.create("magic").fit_transform(adata.X)
    >>> result.rows([0, 1]).shape
    (2, 765)
    """

    info = MAGIC_INFO
    learned: ClassVar[dict[str, Learned]] = {
        "mean": Learned("G"),
        "loadings": Learned("G k"),
        "gene_scale": Learned("G", values="not negative"),
        "t": Learned(kind="int", values="positive"),
    }
    stored: ClassVar[dict[str, Learned]] = TRAINING
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n_neighbors": (3, 30, "log"),
        "t": (1, 6, "linear"),
        "n_components": (10, 100, "log"),
    }

    def __init__(
        self,
        *,
        n_neighbors: int = 5,
        max_neighbors: int = 15,
        decay: float = 1.0,
        t: int | Literal["auto"] = 3,
        n_components: int = 100,
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.max_neighbors = max_neighbors
        self.decay = decay
        self.t = t
        self.n_components = n_components
        self.posterior = posterior
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("n_neighbors", self.n_neighbors >= 1, "at least 1")
        self._require("max_neighbors", self.max_neighbors >= self.n_neighbors, "at least n_neighbors")
        self._require("decay", self.decay > 0, "positive")
        self._require("t", self.t == "auto" or self.t >= 1, "at least 1, or 'auto'")
        self._require("n_components", self.n_components >= 1, "at least 1")

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self.training_ = normalized_counts(data, np.sqrt)
        self._tell(0.0, "principal components")
        components = Components.of(self.training_, self.n_components, self.random_state)
        self.mean_, self.loadings_ = components.mean, components.loadings
        self._tell(0.5, "nearest cells")
        self._walk_on_training()
        self.n_edges_ = self.walk_.nnz
        self.t_ = self._chosen_length() if self.t == "auto" else self.t
        if self.t_ > LONGEST_WALK and len(self.points_) > MOST_SQUARED:
            text = f"a walk of {self.t_:,} steps over {len(self.points_):,} cells takes long, as each step is made "
            text += "again for every block of cells: pass a smaller {t}"
            warnings.warn(Message(text, code="slow-fit", t=3), stacklevel=4)
        model = Rescaled.matched(_Walks(self.walk_, self.walk_, self.training_, self.t_), data)
        self.gene_scale_ = model.gene_scale
        details = {"t": self.t_, "edges": self.n_edges_}
        return model, {
            "status": Status("exact", f"a walk of {self.t_} steps", details),
            "gene_columns": {"total_factor": self.gene_scale_},
        }

    def _walk_on_training(self) -> None:
        """The points of the training cells in the components, their bandwidths, and P."""
        self.points_ = Components(self.mean_, self.loadings_).scores(self.training_)
        distances, places = nearest(self.points_, self.points_, self.max_neighbors, skip_self=True)
        affinity = self._affinities(distances, places, len(self.points_))
        affinity = affinity + sp.eye_array(len(self.points_), dtype=np.float32, format="csr")
        self.walk_ = _rows_to_one((affinity + affinity.T).tocsr())

    def _affinities(self, distances: np.ndarray, places: np.ndarray, n: int) -> sp.csr_array:
        sigma = np.maximum(distances[:, min(self.n_neighbors, distances.shape[1]) - 1], np.finfo(np.float32).tiny)
        weights = np.exp(-((distances / sigma[:, None]) ** self.decay))
        weights[weights < SMALLEST_AFFINITY] = 0
        indptr = np.arange(len(weights) + 1) * weights.shape[1]
        matrix = sp.csr_array((weights.ravel().astype(np.float32), places.ravel(), indptr), shape=(len(weights), n))
        matrix.eliminate_zeros()
        return matrix

    def _chosen_length(self) -> int:
        G = self.training_.shape[1]
        genes = np.random.default_rng(self.random_state).choice(G, min(G, GENES_TO_CHOOSE), replace=False)
        before = self.training_[:, np.sort(genes)].toarray()
        for step in range(1, LONGEST_WALK):
            after = self.walk_ @ before
            if _disparity(before, after) < STILL:
                return step + 1
            before = after
        return LONGEST_WALK

    def _new_rows(self, data: Data) -> Model:
        new = normalized_counts(data, np.sqrt)
        points = Components(self.mean_, self.loadings_).scores(new)
        distances, places = nearest(points, self.points_, self.max_neighbors, skip_self=False)
        first = _rows_to_one(self._affinities(distances, places, len(self.points_)))
        return Rescaled(_Walks(first, self.walk_, self.training_, self.t_), data.depth, self.gene_scale_)

    def _state(self) -> dict[str, np.ndarray]:
        return {**super()._state(), **saved_counts(self.training_)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.training_ = restored_counts(arrays, len(self.mean_))
        self._walk_on_training()
        self.n_edges_ = self.walk_.nnz


class _Walks:
    """Squares of smoothed square roots: the first step of each row, then ``t - 1`` more among the training cells.

    Of few cells, many steps are taken at once.
    """

    def __init__(self, first: sp.csr_array, walk: sp.csr_array, roots: sp.csr_array, t: int) -> None:
        self.first, self.walk, self.roots, self.t = first, walk, roots, t
        if t > LONGEST_WALK and walk.shape[0] <= MOST_SQUARED:
            power = np.linalg.matrix_power(walk.toarray().astype(np.float64), t - 1)
            self.walk, self.t = sp.csr_array(power.astype(np.float32)), 2

    def normalized(self, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        weights = self.first[rows]
        for _ in range(self.t - 1):
            weights = weights @ self.walk
        values = summed(weights, self.roots if genes is None else self.roots[:, genes])
        return np.square(values, out=values)


def _rows_to_one(matrix: sp.csr_array) -> sp.csr_array:
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    matrix.data /= np.repeat(np.where(sums > 0, sums, 1), np.diff(matrix.indptr)).astype(matrix.dtype)
    return matrix


def _disparity(A: np.ndarray, B: np.ndarray) -> float:
    """Procrustes disparity of two sets of points; 1 where one of them is a single point."""
    from scipy.spatial import procrustes

    try:
        return float(procrustes(A, B)[2])
    except ValueError:
        return 1.0
