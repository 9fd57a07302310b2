"""The groups of genes that DeepImpute predicts together, and the genes that it predicts them from.

Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from imputome.methods.similar_cells import summed


def variance_ratio(X: sp.csr_array) -> np.ndarray:
    """(G,) variance of the counts over one plus their mean."""
    n, G = X.shape
    wide = X.data.astype(np.float64)
    mean = np.bincount(X.indices, wide, G) / n
    squares = np.bincount(X.indices, wide**2, G) - n * mean**2
    return np.maximum(squares, 0) / max(1, n - 1) / (1 + mean)


def target_groups(
    X: sp.csr_array, *, min_ratio: float, group_size: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """The genes to predict, (G,) positions, at random in groups of one size.

    They are the genes whose `variance_ratio` is above ``min_ratio``, and the next ones that fill the last group. A
    group is at most half of the genes with counts, because its inputs lie outside.
    """
    ratio = variance_ratio(X)
    found = np.bincount(X.indices, minlength=X.shape[1]) > 0
    usable = np.flatnonzero(found & (ratio > 1e-9) if (ratio[found] > 1e-9).sum() > 1 else found)
    size = min(group_size, max(1, len(usable) // 2))
    number = max(1, -(-int((ratio > min_ratio).sum()) // size))
    targets = usable[np.argsort(-ratio[usable], kind="stable")[: number * size]]
    return [np.sort(group) for group in np.array_split(generator.permutation(targets), -(-len(targets) // size))]


def group_inputs(X: sp.csr_array, groups: list[np.ndarray], number: int) -> list[np.ndarray]:
    """For each group the sorted positions of its inputs.

    They are, of each gene of the group, the ``number`` genes outside of the group whose counts have the largest
    absolute correlation with its counts.
    """
    n, G = X.shape
    wide = X.data.astype(np.float64)
    mean = np.bincount(X.indices, wide, G) / n
    deviation = np.sqrt(np.maximum(np.bincount(X.indices, wide**2, G) - n * mean**2, 0))
    found = np.bincount(X.indices, minlength=G) > 0
    by_gene = sp.csr_array(X.T.tocsr(), dtype=np.float32)
    values = sp.csr_array(X, dtype=np.float32)
    inputs = []
    for group in groups:
        correlation = summed(by_gene[group], values).astype(np.float64)  # (genes of the group, G)
        correlation -= n * np.outer(mean[group], mean)
        for length in (deviation[group][:, None], deviation):
            correlation *= np.divide(1, length, out=np.zeros_like(length), where=length > 1e-9)
        score = np.abs(correlation)
        score[:, ~found] = -1
        score[:, group] = -2
        outside = int(found.sum()) - int(found[group].sum())
        best = np.argsort(-score, axis=1, kind="stable")[:, : min(number, outside)]
        inputs.append(np.unique(best))
    return inputs
