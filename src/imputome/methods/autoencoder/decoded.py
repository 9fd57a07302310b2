"""The result of a fitted network as plain numpy. Letters: ``n`` cells, ``G`` genes, ``w`` width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imputome.methods.base import Output
from imputome.preprocessing.counts import TARGET

LARGEST = float(np.log1p(TARGET))  # where all molecules of a cell are of one gene
BLOCK = 2**22  # dense values made at a time
ENTRIES = 2**16  # single entries made at a time


@dataclass(frozen=True)
class DecodedCells:
    """Counts from the last hidden layer, made on request (a `Model`).

    Entry (i, j) is ``library_i (factor_j expm1(y_ij) / 10,000 + share_j)`` with y = hidden weight' + bias, clipped to
    0 and log1p(10,000).

    Parameters
    ----------
    hidden : (n, w) last hidden layer.
    weight, bias : (G, w) and (G,) of the output layer.
    factor : (G,) 0 for genes that are not decoded.
    share : (G,) 0 for genes that are.
    library : (n,) molecules per cell over all genes.
    """

    hidden: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    factor: np.ndarray
    share: np.ndarray
    library: np.ndarray

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate", "expected_count"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output = "value") -> np.ndarray:
        columns = slice(None) if genes is None else genes
        return self._counts(self.hidden[rows] @ self.weight[columns].T, rows[:, None], columns)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output = "value") -> np.ndarray:
        out = np.empty(len(i), np.float32)
        for start in range(0, len(i), ENTRIES):
            part = slice(start, start + ENTRIES)
            linear = np.einsum("kw,kw->k", self.hidden[i[part]], self.weight[j[part]])
            out[part] = self._counts(linear, i[part], j[part])
        return out

    def _counts(self, values: np.ndarray, i: np.ndarray, j: np.ndarray | slice) -> np.ndarray:
        values += self.bias[j]
        np.clip(values, 0, LARGEST, out=values)
        np.expm1(values, out=values)
        values *= self.factor[j] / np.float32(TARGET)
        values += self.share[j]
        values *= self.library[i]
        return values

    def totals(self) -> np.ndarray:
        """(G,) sums over all cells, float64, made in blocks of rows."""
        n, G = len(self.hidden), len(self.bias)
        step = max(1, BLOCK // G)
        blocks = (self.rows(np.arange(start, min(n, start + step)), None) for start in range(0, n, step))
        return np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks], axis=0)
