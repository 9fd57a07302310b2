"""Whether cells of different types, or batches, mix after imputing: labels of a cell's neighbours, before and after.

Letters: ``n`` cells, ``d`` dimensions of an embedding, ``k`` neighbours, ``T`` labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.arguments import check_finite, check_length, matrix

if TYPE_CHECKING:
    import pandas as pd

N_NEIGHBORS = 15


@dataclass(frozen=True)
class Mixing:
    """Share of a cell's neighbours that have its own label, averaged over the cells of each of T labels."""

    labels: np.ndarray  # in order of appearance
    sizes: np.ndarray  # number of cells
    before: np.ndarray  # the share before imputing
    after: np.ndarray  # the share after it: lower if cells mix with cells of other labels
    chance: np.ndarray  # the share among cells drawn at random

    def to_frame(self) -> pd.DataFrame:
        """A table with a row for each label."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in ("sizes", "before", "after", "chance")}
        return pd.DataFrame(columns, index=pd.Index([str(label) for label in self.labels], name="label"))


def label_mixing(
    *, labels: Any, before: np.ndarray, after: np.ndarray, n_neighbors: int = N_NEIGHBORS, max_cells: int = 5000
) -> Mixing:
    """Compare the neighbours of each cell in two embeddings of the same cells, each of shape (n, d); their d may
    differ.

    The embeddings are, for example, `expression_components` of the values before and after imputing. ``labels`` are n
    types or batches; cells without one (None, NaN) are left out. Neighbours are searched among at most ``max_cells``
    cells, spread evenly over all. All cells at the distance of the k-th neighbour count equally (k: ``n_neighbors``, at
    most n - 1): where all cells have the same position, the share is that of chance.

    Cost: O(n^2 d) for the n <= ``max_cells`` cells that are used.
    """
    import pandas as pd

    codes, names = pd.factorize(pd.Series(np.asarray(labels)))
    labelled = np.flatnonzero(codes >= 0)
    if len(labelled) > max_cells:
        labelled = labelled[np.linspace(0, len(labelled) - 1, max_cells).round().astype(np.int64)]
    codes = codes[labelled]
    sizes = np.bincount(codes, minlength=len(names))
    present = sizes > 0
    if present.sum() < 2:
        raise InputError(
            f"there are {present.sum()} different labels: mixing needs two", code="too-few-labels", parameter="labels"
        )
    shares = []
    for name, embedding in (("before", before), ("after", after)):
        embedding = matrix(name, embedding, "cells x dimensions").astype(np.float64)
        if len(embedding) != len(labels):
            message = f"{name} has {len(embedding)} rows for {len(labels)} labels: pass one for each"
            raise InputError(message, code="shape-mismatch", parameter=name)
        check_finite(name, embedding)
        same = _share_of_same_label(embedding[labelled], codes, n_neighbors)
        shares.append(np.bincount(codes, weights=same, minlength=len(names)) / np.maximum(sizes, 1))
    chance = (sizes - 1) / (len(codes) - 1)
    return Mixing(np.asarray(names)[present], sizes[present], shares[0][present], shares[1][present], chance[present])


def same_label_shares(*, labels: Any, embedding: np.ndarray, n_neighbors: int = N_NEIGHBORS) -> np.ndarray:
    """(n,) share of each cell's neighbours in ``embedding`` (n, d) that have the label of the cell, as `label_mixing`
    counts them; cells without a label (None, NaN) are nobody's neighbours, and have NaN.

    Cost: O(n^2 d).

    Examples
    --------
    >>> import numpy as np
    >>> embedding = np.array([[0.0], [1.0], [2.0], [9.0]])
    >>> same_label_shares(labels=["B", "B", "T", None], embedding=embedding, n_neighbors=1)
    array([1. , 0.5, 0. , nan])
    """
    import pandas as pd

    codes, _ = pd.factorize(pd.Series(np.asarray(labels)))
    embedding = matrix("embedding", embedding, "cells x dimensions").astype(np.float64)
    check_length("labels", codes, len(embedding))
    check_finite("embedding", embedding)
    labelled = np.flatnonzero(codes >= 0)
    shares = np.full(len(codes), np.nan)
    if len(labelled) > 1:
        shares[labelled] = _share_of_same_label(embedding[labelled], codes[labelled], n_neighbors)
    return shares


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
