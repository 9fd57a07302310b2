"""Whether cells of different types, or batches, mix after imputing: labels of a cell's neighbours, before and after.

Letters: ``n`` cells, ``d`` dimensions of an embedding, ``k`` neighbours, ``T`` labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

N_NEIGHBORS = 15


@dataclass(frozen=True)
class Mixing:
    """Share of a cell's neighbours that have its own label, averaged over the cells of each label.

    Attributes
    ----------
    labels : ndarray of shape (T,)
        In order of appearance.
    sizes : ndarray of shape (T,)
        Number of cells.
    before, after : ndarray of shape (T,)
        The share in the two embeddings. It falls for cells that mix with cells of other labels.
    chance : ndarray of shape (T,)
        The share among cells drawn at random.
    """

    labels: np.ndarray
    sizes: np.ndarray
    before: np.ndarray
    after: np.ndarray
    chance: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """A table with a row for each label."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in ("sizes", "before", "after", "chance")}
        return pd.DataFrame(columns, index=pd.Index([str(label) for label in self.labels], name="label"))


def label_mixing(
    *, labels: Any, before: np.ndarray, after: np.ndarray, n_neighbors: int = N_NEIGHBORS, max_cells: int = 5000
) -> Mixing:
    """Compare the neighbours of each cell in two embeddings of the same cells.

    Parameters
    ----------
    labels : array-like of shape (n,)
        Types or batches; cells without one (None, NaN) are left out.
    before, after : ndarray of shape (n, d)
        Embeddings, such as `imputome.evaluation.clustering.expression_components` of the values before and after
        imputing; their d may differ.
    n_neighbors : int, default=15
        k, at most n - 1. All cells at the distance of the k-th neighbour count equally. So where all cells have the
        same position, the share is that of chance.
    max_cells : int, default=5000
        Number of cells that are used, spread evenly over all; neighbours are found among these.

    Returns
    -------
    Mixing

    Raises
    ------
    InputError
        The lengths differ, there are fewer than two labels, or an embedding is not a matrix of finite numbers.

    Cost: O(n^2 d) for the n <= ``max_cells`` cells that are used.
    """
    import pandas as pd

    codes, names = pd.factorize(pd.Series(np.asarray(labels)))
    labelled = np.flatnonzero(codes >= 0)
    if len(labelled) > max_cells:
        labelled = labelled[np.linspace(0, len(labelled) - 1, max_cells).round().astype(np.int64)]
    codes = codes[labelled]
    sizes = np.bincount(codes, minlength=len(names))
    if (sizes > 0).sum() < 2:
        raise InputError(
            f"the cells have {(sizes > 0).sum()} different labels: mixing needs at least two",
            code="too-few-labels",
            parameter="labels",
        )
    shares = []
    for name, embedding in (("before", before), ("after", after)):
        embedding = np.asarray(embedding, dtype=np.float64)
        if embedding.ndim != 2 or len(embedding) != len(labels):
            raise InputError(
                f"{name} has shape {embedding.shape} for {len(labels)} labels: pass a row for each cell",
                code="shape-mismatch",
                parameter=name,
            )
        if not np.isfinite(embedding).all():
            raise InputError(
                f"{name} holds NaN or infinite values: impute them first", code="not-finite", parameter=name
            )
        same = _share_of_same_label(embedding[labelled], codes, n_neighbors)
        shares.append(np.bincount(codes, weights=same, minlength=len(names)) / np.maximum(sizes, 1))
    present = sizes > 0
    chance = (sizes - 1) / (len(codes) - 1)
    return Mixing(np.asarray(names)[present], sizes[present], shares[0][present], shares[1][present], chance[present])


def _share_of_same_label(embedding: np.ndarray, codes: np.ndarray, n_neighbors: int) -> np.ndarray:
    """(n,) share of each cell's neighbours with the label of the cell."""
    from sklearn.metrics import pairwise_distances_chunked

    n = len(codes)
    k = min(n_neighbors, n - 1)
    shares = np.empty(n)
    # distances have rounding errors: cells at the same position must count as equally near
    tolerance = 1e-9 * max(1.0, float(np.abs(embedding).max()))
    start = 0
    for distances in pairwise_distances_chunked(embedding):
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf
        limit = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
        near = distances <= limit + tolerance
        same_label = codes[start + rows, None] == codes
        shares[start + rows] = (near & same_label).sum(axis=1) / near.sum(axis=1)
        start += len(distances)
    return shares
