"""The values of many rows by a fitted method, computed block by block from the counts of the block.

Nothing of the size of the data is kept: what a method makes of each cell is made again when values are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Model, Output

ROWS_PER_BLOCK = 4096  # rows whose model is made at a time


def latent_by_blocks(latent_of: Callable[[Data], np.ndarray | None], data: Data) -> np.ndarray | None:
    """(n, k) representation of all cells, from one pass over the data; None if the method has none.

    ``latent_of`` takes the `Data` of some rows.
    """
    n = data.shape[0]
    parts = []
    for start in range(0, n, ROWS_PER_BLOCK):
        latent = latent_of(data.subset(rows=np.arange(start, min(start + ROWS_PER_BLOCK, n))))
        if latent is None:
            return None
        parts.append(np.asarray(latent))
    return np.concatenate(parts)


class ByBlocks:
    """A `Model` of all rows of ``data``, by a function that makes the model of some rows from their data alone.

    ``model_of`` takes the `Data` of some rows. The model of the last rows is kept, because a writer asks for several
    outputs of the same rows.
    """

    def __init__(self, model_of: Callable[[Data], Model], data: Data) -> None:
        self.model_of, self.data = model_of, data
        self._last: tuple[np.ndarray, Model] | None = None

    @cached_property
    def outputs(self) -> frozenset[Output]:
        """Outputs of the models, known from that of the first rows."""
        return self.model_of(self.data.subset(rows=np.arange(min(2, self.data.shape[0])))).outputs

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        parts = [model.rows(np.arange(len(part)), genes, output) for part, model in self._of(np.asarray(rows))]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        rows, places = np.unique(i, return_inverse=True)
        if not len(rows):
            return np.empty(0)
        parts = []
        order = np.argsort(places, kind="stable")
        begin = 0
        for part, model in self._of(rows):
            asked = order[slice(*np.searchsorted(places[order], [begin, begin + len(part)]))]
            parts.append(model.at(places[asked] - begin, j[asked], output))
            begin += len(part)
        values = np.concatenate(parts)
        back = np.empty(len(order), dtype=np.intp)
        back[order] = np.arange(len(order))
        return values[back]

    def _of(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Model]]:
        """The rows in parts, each with its model."""
        if self._last is not None and np.array_equal(self._last[0], rows):
            yield self._last
            return
        for start in range(0, max(1, len(rows)), ROWS_PER_BLOCK):
            part = rows[start : start + ROWS_PER_BLOCK]
            self._last = part, self.model_of(self.data.subset(rows=part))
            yield self._last
