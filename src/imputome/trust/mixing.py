"""Whether cells of different types, or batches, have moved together: labels of a cell's neighbours, before and after.

Letters: ``n`` cells, ``d`` dimensions of an embedding, ``k`` neighbours, ``T`` labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

NEIGHBORS = 15


@dataclass(frozen=True)
class Mixing:
    """Share of a cell's neighbours that carry its own label, averaged over the cells of each label.

    Attributes
    ----------
    labels : (T,) in the order in which they appear.
    sizes : (T,) number of cells.
    before, after : (T,) the share in the two embeddings; cells that moved together with others have less after.
    chance : (T,) the share among cells drawn at random.
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
    *, labels: Any, before: np.ndarray, after: np.ndarray, n_neighbors: int = NEIGHBORS, max_cells: int = 5000
) -> Mixing:
    """Compare the neighbourhoods of two embeddings of the same cells.

    Parameters
    ----------
    labels : (n,) types or batches; cells without one (None, NaN) are left out.
    before, after : (n, d) embeddings, such as `imputome.evaluation.clustering.expression_components` of the values
        before and after imputing; their d may differ.
    n_neighbors : k, at most one less than the cells. All cells at the distance of the k-th count equally: where an
        embedding says nothing, and all cells are in one place, the share is that of chance.
    max_cells : cells that are looked at, spread evenly over all; neighbours are sought among these.

    Raises
    ------
    InputError
        The lengths differ, fewer than two labels, or an embedding that is no matrix of finite numbers.

    Cost: O(n^2 d) for the n <= ``max_cells`` looked at.
    """
    import pandas as pd

    codes, names = pd.factorize(pd.Series(np.asarray(labels)))
    places = np.flatnonzero(codes >= 0)
    if len(places) > max_cells:
        places = places[np.linspace(0, len(places) - 1, max_cells).round().astype(np.int64)]
    codes = codes[places]
    sizes = np.bincount(codes, minlength=len(names))
    if (sizes > 0).sum() < 2:
        raise InputError(f"there are {(sizes > 0).sum()} labels: two are needed to see whether they mix")
    shares = []
    for name, embedding in (("before", before), ("after", after)):
        embedding = np.asarray(embedding, dtype=np.float64)
        if embedding.ndim != 2 or len(embedding) != len(labels):
            raise InputError(f"{name} has shape {embedding.shape} for {len(labels)} labels: pass a row for each cell")
        if not np.isfinite(embedding).all():
            raise InputError(f"{name} holds NaN or infinite values: impute them first")
        same = _share_of_own(embedding[places], codes, n_neighbors)
        shares.append(np.bincount(codes, weights=same, minlength=len(names)) / np.maximum(sizes, 1))
    there = sizes > 0
    chance = (sizes - 1) / (len(codes) - 1)
    return Mixing(np.asarray(names)[there], sizes[there], shares[0][there], shares[1][there], chance[there])


def _share_of_own(embedding: np.ndarray, codes: np.ndarray, n_neighbors: int) -> np.ndarray:
    """(n,) share of each cell's neighbours with its own label."""
    from sklearn.metrics import pairwise_distances_chunked

    n = len(codes)
    k = min(n_neighbors, n - 1)
    shares = np.empty(n)
    # distances are rounded, so that cells in one place are not told apart by the order of sums
    grain = 1e-9 * max(1.0, float(np.abs(embedding).max()))
    start = 0
    for distances in pairwise_distances_chunked(embedding):
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf
        limit = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
        near = distances <= limit + grain
        own = codes[start + rows, None] == codes
        shares[start + rows] = (near & own).sum(axis=1) / near.sum(axis=1)
        start += len(distances)
    return shares
