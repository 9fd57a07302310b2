"""The networks of DeepImpute, one for each group of genes, and the values that they give.

Letters: ``B`` cells of a batch, ``n`` cells, ``G`` genes, ``t`` genes of a group, ``u`` its inputs, ``h`` hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from imputome.core.imputation import Output
from imputome.methods.deep.batches import Batch
from imputome.methods.rescaled import at_from_rows, row_blocks


class GroupNetworks(nn.Module):
    """For each group u -> h -> t: ReLU, dropout, softplus, on log1p of counts.

    ``inputs`` and ``targets`` are the columns of a batch that each group reads and predicts. New weights are uniform
    after Glorot & Bengio (2010), new biases 0, as Keras draws them.
    """

    def __init__(self, inputs: list[np.ndarray], targets: list[np.ndarray], hidden: int, dropout: float) -> None:
        super().__init__()
        self.inputs, self.targets = inputs, targets
        self.first = nn.ModuleList(nn.Linear(len(group), hidden) for group in inputs)
        self.second = nn.ModuleList(nn.Linear(hidden, len(group)) for group in targets)
        self.dropout = nn.Dropout(dropout)
        for layer in (*self.first, *self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def loss_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The sum over groups of the mean over cells and genes of y (y - prediction)^2."""
        return {"weighted_mse": self.validation_loss(batch) / len(batch)}

    def validation_loss(self, batch: Batch) -> torch.Tensor:
        """The same, summed over cells."""
        y = torch.log1p(batch.counts.dense())  # (B, columns)
        losses = []
        for first, second, read, predicted in zip(self.first, self.second, self.inputs, self.targets, strict=True):
            hidden = self.dropout(torch.relu(first(y[:, torch.as_tensor(read, device=y.device)])))  # (B, h)
            target = y[:, torch.as_tensor(predicted, device=y.device)]  # (B, t)
            squares = (target - nn.functional.softplus(second(hidden))) ** 2
            losses.append((target * squares).sum() / len(predicted))
        return torch.stack(losses).sum()


@dataclass(frozen=True)
class Layer:
    """The weights of the network of a group."""

    inputs: np.ndarray  # (u,) positions among all genes
    targets: np.ndarray  # (t,)
    first: np.ndarray  # (u, h)
    first_bias: np.ndarray  # (h,)
    second: np.ndarray  # (h, t)
    second_bias: np.ndarray  # (t,)

    def predicted(self, x: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(rows, columns) log1p values of some of its targets, from (rows, u) inputs."""
        hidden = np.maximum(x @ self.first + self.first_bias, 0)
        values = hidden @ self.second[:, columns] + self.second_bias[columns]
        return np.logaddexp(0, values, out=values)


@dataclass(frozen=True)
class PredictedGroups:
    """A `Model` on scale ``counts``, computed from the inputs on request.

    A gene of a group has ``gene_scale_j expm1(min(prediction, largest))``, another one ``library_i share_j``, or its
    counts if ``share`` is None. Cells without molecules have 0.
    """

    logs: sp.csr_array  # (n, G) log1p of counts
    layers: list[Layer]
    gene_scale: np.ndarray  # (G,)
    share: np.ndarray | None  # (G,) 0 for genes of a group
    library: np.ndarray  # (n,) molecules per cell over all genes
    largest: float  # log1p value of the training cells

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate", "expected_count"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output = "value") -> np.ndarray:
        logs = self.logs[rows]
        genes = np.arange(self.logs.shape[1]) if genes is None else genes
        if self.share is None:
            values = np.expm1(logs[:, genes].toarray())
        else:
            values = np.outer(self.library[rows], self.share[genes]).astype(np.float32)
        place = np.full(self.logs.shape[1], -1)
        place[genes] = np.arange(len(genes))
        for layer in self.layers:
            columns = np.flatnonzero(place[layer.targets] >= 0)
            if not len(columns):
                continue
            some = layer.targets[columns]
            predicted = layer.predicted(logs[:, layer.inputs].toarray(), columns)
            np.expm1(np.minimum(predicted, self.largest, out=predicted), out=predicted)
            predicted *= self.gene_scale[some].astype(np.float32)
            values[:, place[some]] = predicted * (self.library[rows, None] > 0)
        order = place[genes]  # differs only where a gene was asked for twice
        return values if np.array_equal(order, np.arange(len(order))) else values[:, order]

    def at(self, i: np.ndarray, j: np.ndarray, output: Output = "value") -> np.ndarray:
        return at_from_rows(self.rows, i, j, self.logs.shape[1])

    def totals(self) -> np.ndarray:
        """(G,) sums over all cells."""
        total = np.zeros(self.logs.shape[1])
        for rows in row_blocks(*self.logs.shape):
            total += self.rows(rows, None).sum(axis=0, dtype=np.float64)
        return total
