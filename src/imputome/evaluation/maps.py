"""Maps of cells before and after imputing: the cells and genes they are made from, and the space the cells lie in.

The report and the pictures of studies use the same. `imputome.evaluation.clustering.coordinates` draws the map.

Letters: ``n`` cells, ``G`` genes, ``k`` components. Of real values, read "samples" and "features".
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data
from imputome.core.scales import TARGET
from imputome.evaluation.clustering import N_COMPONENTS, expression_components

if TYPE_CHECKING:
    import pandas as pd

SAMPLED_CELLS = 2000  # cells of a map, at most
MAP_GENES = 2000  # the most variable genes, which a map is made from, at most


class CellSpace:
    """The space in which cells are compared before and after imputing: components of the most variable genes.

    The genes are chosen once, by the values before. Counts are taken per 10,000 molecules of their cell and logged;
    real values in standard deviations of their feature before, a missing one at the mean of its feature.

    Parameters
    ----------
    before : Data
        n cells x G genes before imputing.
    seed : int, default=0
        Of the components of real values.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.core.data import as_data
    >>> counts = as_data(np.random.default_rng(0).poisson(3.0, size=(20, 8)), kind="counts")
    >>> space = CellSpace(counts)
    >>> space.of_data(counts).shape, len(space.genes)
    ((20, 7), 8)
    """

    def __init__(self, before: Data, *, seed: int = 0) -> None:
        self.before = before
        self.seed = seed
        self.genes = map_genes(before)  # positions, in ascending order

    def of_data(self, data: Data) -> np.ndarray:
        """(n, k) components of the cells of ``data``: those of before, or others with the same genes."""
        if data.kind == "counts":
            return expression_components(data.subset(columns=self.genes).X * per_10k(data)[:, None])
        return self._of_real(known_frame(data)[self.genes].to_numpy())

    def of_values(self, values: np.ndarray) -> np.ndarray:
        """(n, k) components of imputed values of `genes`, dense: counts per 10,000 molecules, or real values."""
        if self.before.kind == "counts":
            return expression_components(np.maximum(values, 0))
        return self._of_real(values)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of real features before."""
        known = known_frame(self.before)[self.genes]
        return known.mean().to_numpy(), known.std(ddof=0).to_numpy()

    def _of_real(self, values: np.ndarray) -> np.ndarray:
        mean, sd = self._moments
        scaled = (values - mean) / np.where(sd > 0, sd, 1)
        return real_components(scaled, min(N_COMPONENTS, min(scaled.shape) - 1), self.seed)


def sampled(n: int, max_cells: int, seed: int) -> np.ndarray:
    """Positions of all of n cells, or of ``max_cells`` drawn at random, in ascending order."""
    if n <= max_cells:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, max_cells, replace=False))


def map_genes(before: Data) -> np.ndarray:
    """Positions of the `MAP_GENES` most variable genes before imputing, in ascending order."""
    if before.kind == "counts":
        import scipy.sparse as sp

        _, variance = sparse_moments(sp.csr_array(before.X * per_10k(before)[:, None]).log1p())
    else:
        known = known_frame(before)
        # the features with most known values: their units may differ, so that variances cannot be compared
        variance = (known.notna().sum() * (known.var(ddof=0) > 0)).to_numpy()
    return np.sort(np.argsort(-variance, kind="stable")[:MAP_GENES])


def sparse_moments(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """(G,) mean and variance of the columns of a ``csr_array``."""
    n, G = X.shape
    values = X.data.astype(np.float64)
    mean = np.bincount(X.indices, weights=values, minlength=G) / n
    squares = np.bincount(X.indices, weights=np.square(values), minlength=G) / n
    return mean, np.maximum(squares - mean**2, 0)


def known_frame(data: Data) -> pd.DataFrame:
    """Real values, NaN where they are missing, which pandas leaves out of means and variances."""
    import pandas as pd

    return pd.DataFrame(data.known_values(), dtype=np.float64)


def per_10k(data: Data) -> np.ndarray:
    """(n,) factors that turn the counts of a cell into counts per 10,000."""
    depth = data.depth
    return np.divide(TARGET, depth, out=np.zeros(len(depth)), where=depth > 0)


def real_components(values: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    """(n, n_components) principal components of real values, a missing one at the mean of its feature."""
    import pandas as pd
    from sklearn.decomposition import PCA

    known = pd.DataFrame(values)
    filled = (known - known.mean()).fillna(0).to_numpy()
    return np.asarray(PCA(n_components, random_state=seed).fit_transform(filled))


def rotated(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``points`` centred, and rotated or mirrored to lie as close as possible to ``target`` (orthogonal Procrustes)."""
    centred = points - points.mean(axis=0)
    left, _, right = np.linalg.svd(centred.T @ (target - target.mean(axis=0)))
    return np.asarray(centred @ (left @ right))
