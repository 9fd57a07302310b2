"""Shared parts of the methods for counts that work on normalised values.

Letters: ``n`` cells, ``G`` genes, ``L`` library sizes; "normalised" is per 10,000 molecules of the cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import scipy.sparse as sp

from imputome.core.data import Data
from imputome.core.imputation import Output
from imputome.core.learned import Learned, damaged
from imputome.core.scales import TARGET

BLOCK_VALUES = 2**20  # dense values made at a time


class Normalized(Protocol):
    """Values per 10,000 molecules of the cell, computed on request."""

    def normalized(self, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        """Dense (len(rows), len(genes)) values; ``genes=None`` means all."""
        ...


@dataclass(frozen=True)
class Rescaled:
    """A `Model` on scale ``counts``: normalised values, times L / 10,000, times a factor for each gene.

    Values that were fitted on a log or square-root scale are too small or too large on average after the inverse. So
    `matched` gives each gene the factor that restores its total over the training cells.
    """

    inner: Normalized
    depth: np.ndarray  # (n,) library sizes
    gene_scale: np.ndarray  # (G,)

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate"})

    @classmethod
    def matched(cls, inner: Normalized, data: Data) -> Self:
        """With the factors that give each gene the total of its molecules in ``data``."""
        n, G = data.shape
        model = cls(inner, data.depth, np.ones(G))
        fitted = np.zeros(G)
        for rows in row_blocks(n, G):
            fitted += model.rows(rows, None, "value").sum(axis=0, dtype=np.float64)
        scale = np.divide(data.gene_totals, fitted, out=np.zeros(G), where=fitted > 0)
        return replace(model, gene_scale=scale)

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        values = self.inner.normalized(rows, genes)
        values *= (self.depth[rows] / TARGET).astype(values.dtype)[:, None]
        values *= (self.gene_scale if genes is None else self.gene_scale[genes]).astype(values.dtype)
        return values

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return at_from_rows(self.rows, i, j, len(self.gene_scale))


def at_from_rows(rows: Callable[..., np.ndarray], i: np.ndarray, j: np.ndarray, G: int) -> np.ndarray:
    """Values of the entries (i[k], j[k]), flat, of a model that computes whole rows."""
    order = np.argsort(i, kind="stable")
    unique, starts = np.unique(i[order], return_index=True)
    starts = np.append(starts, len(i))
    out = np.empty(len(i), np.float32)
    for block in row_blocks(len(unique), G):
        values = rows(unique[block], None, "value")
        entries = order[starts[block[0]] : starts[block[-1] + 1]]
        out[entries] = values[np.searchsorted(unique[block], i[entries]), j[entries]]
    return out


def row_blocks(n: int, G: int) -> list[np.ndarray]:
    """Positions of n rows in blocks of about `BLOCK_VALUES` values."""
    step = max(1, BLOCK_VALUES // max(1, G))
    return [np.arange(start, min(n, start + step)) for start in range(0, n, step)]


def normalized_counts(data: Data, change: np.ufunc) -> sp.csr_array:
    """Counts per 10,000 molecules of the cell, float32, with ``change`` (0 at 0) applied to those that are not 0."""
    per_molecule = TARGET / np.where(data.depth > 0, data.depth, 1.0)
    values = np.repeat(per_molecule.astype(np.float32), np.diff(data.X.indptr))
    values *= data.X.data.astype(np.float32, copy=False)  # in place: the nonzeros are most of the memory of these fits
    return sp.csr_array((change(values, out=values), data.X.indices, data.X.indptr), shape=data.shape)


TRAINING = {  # what `saved_counts` gives
    "training_data": Learned("e"),
    "training_indices": Learned("e", kind="int", values="not negative", below="G"),
    "training_indptr": Learned("p", kind="int", values="not negative"),
}


def saved_counts(X: Any) -> dict[str, np.ndarray]:
    """The arrays of a sparse matrix of training cells, for `Imputer.save`."""
    return {"training_data": X.data, "training_indices": X.indices, "training_indptr": X.indptr}


def restored_counts(arrays: dict[str, np.ndarray], G: int) -> sp.csr_array:
    """The matrix of `saved_counts`, checked."""
    parts = (arrays["training_data"], arrays["training_indices"], arrays["training_indptr"])
    try:
        matrix = sp.csr_array(parts, shape=(len(parts[2]) - 1, G))
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise damaged(f"the training cells are no sparse matrix ({error})", code="model-array-values") from error
    return matrix
