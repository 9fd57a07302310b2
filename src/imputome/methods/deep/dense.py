"""Mini-batches of real values with NaN for missing. Letters: ``n`` cells, ``G`` genes, ``B`` cells of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from imputome.errors import InputError


@dataclass(frozen=True)
class DenseBatch:
    """What a network for real values is trained on in one step.

    Attributes
    ----------
    index : (B,) int64, positions of the cells in the data.
    values : (B, G) float32, what the network reads; 0 where nothing is known.
    observed : (B, G) boolean, True where ``values`` is known.
    target : (B, G) float32, what the loss compares with; 0 where it does not look.
    scored : (B, G) boolean, True where the loss looks.
    """

    index: torch.Tensor
    values: torch.Tensor
    observed: torch.Tensor
    target: torch.Tensor
    scored: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)


class DenseBatches:
    """A source of mini-batches over standardised real values.

    Parameters
    ----------
    values : (n, G) float32 with NaN for missing, feature means 0; neither copied nor changed.
    target : (n, G) values that the loss compares with, NaN where it shall not look; None: ``values`` itself.
    batch_size : B.
    device : where batches are wanted; they travel one by one.
    """

    def __init__(
        self,
        values: np.ndarray,
        *,
        target: np.ndarray | None = None,
        batch_size: int = 250,
        device: torch.device | str = "cpu",
    ) -> None:
        if target is not None and target.shape != values.shape:
            raise InputError(f"the target must be of the values' shape {values.shape}, not {target.shape}")
        self.values = values
        self.target = target
        self.batch_size = batch_size
        self.device = torch.device(device)

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.values)

    def epoch(
        self, rows: np.ndarray | None = None, *, generator: np.random.Generator | None = None
    ) -> Iterator[DenseBatch]:
        """Batches that hold every one of ``rows`` (None: all) once, shuffled by ``generator`` (None: in order)."""
        order = np.arange(len(self)) if rows is None else np.asarray(rows)
        if generator is not None:
            order = generator.permutation(order)
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            values, observed = self._take(self.values, part)
            target, scored = (values, observed) if self.target is None else self._take(self.target, part)
            yield DenseBatch(torch.from_numpy(part).to(self.device), values, observed, target, scored)

    def _take(self, matrix: np.ndarray, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Values, 0 for NaN, and where they are known."""
        block = torch.from_numpy(np.asarray(matrix[rows], dtype=np.float32)).to(self.device)
        known = ~torch.isnan(block)
        return block.nan_to_num_(nan=0.0), known
