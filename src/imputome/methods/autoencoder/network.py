"""The plain autoencoder of Xi & Li (2023): the network, its loss, and the counts decoded from it.

Letters: ``n`` cells, ``B`` cells of a batch, ``G`` genes, ``m`` genes that the network reads, ``w`` width, ``h`` depth,
``nnz`` nonzeros of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from imputome.core.imputation import Output
from imputome.core.scales import TARGET
from imputome.methods.deep.batches import Batch, Block
from imputome.methods.deep.rates import ENTRIES_PER_STEP
from imputome.methods.deep.sparse_layers import SparseLinear

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu_0.01", "leaky_relu_0.2", "elu", "selu"]
LossNorm = Literal["nonzero", "all"]
Decay = Literal["weights", "adam"]

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {  # section 4.7
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu_0.01": lambda: nn.LeakyReLU(0.01),
    "leaky_relu_0.2": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "selu": nn.SELU,
}

LARGEST_LOG_VALUE = float(np.log1p(TARGET))  # of a gene that has all molecules of its cell
VALUES_PER_BLOCK = 2**22  # dense values computed at once


class Autoencoder(nn.Module):
    """m -> w -> ... -> w -> m with a linear output (section 4.1), on log1p of counts per 10,000.

    A hidden layer is linear, batch normalisation (optional), activation, dropout. The initial weights are PyTorch's,
    as in the published code.

    Parameters
    ----------
    n_genes, width, depth : int
        m, w and h.
    activation : str
        Activation of all hidden layers, one of `ACTIVATIONS`.
    dropout : float, default=0.0
        Probability of dropping a unit after each activation (section 4.2).
    weight_decay : float, default=0.0
        lambda.
    decay : {"weights", "adam"}, default="weights"
        ``"weights"`` adds ``lambda sum W^2`` over the weight matrices to the loss (section 4.2); ``"adam"`` adds
        ``lambda / 2`` times the sum of squares of *all* parameters, as Adam's own ``weight_decay`` does.
    loss_norm : {"nonzero", "all"}, default="nonzero"
        The summed squared error over the nonzeros is divided by their number (the paper), or by the number of all
        entries (the published code).
    batch_norm : bool, default=False
        Whether hidden layers have batch normalisation.
    residual : bool, default=False
        Whether every hidden layer after the first adds its input.
    """

    def __init__(
        self,
        n_genes: int,
        *,
        width: int,
        depth: int,
        activation: Activation,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        decay: Decay = "weights",
        loss_norm: LossNorm = "nonzero",
        batch_norm: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.weight_decay, self.decay, self.loss_norm, self.residual = weight_decay, decay, loss_norm, residual
        self.first = SparseLinear(n_genes, width)
        self.deeper = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if batch_norm else nn.Identity() for _ in range(depth))
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, n_genes)

    def encode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The middle hidden layer, the ``ceil(h / 2)``-th, and the last one, (B, w) each."""
        layers = [self._hidden(0, self.first(log_normalized(batch.counts, batch.library)))]
        for k, linear in enumerate(self.deeper, start=1):
            hidden = self._hidden(k, linear(layers[-1]))  # (B, w)
            layers.append(hidden + layers[-1] if self.residual else hidden)
        return layers[(len(layers) - 1) // 2], layers[-1]

    def _hidden(self, k: int, linear: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.dropout(self.activation(self.norms[k](linear)))  # (B, w)
        return hidden

    def squared_error(self, batch: Batch) -> torch.Tensor:
        """Sum over the nonzeros of (Y - X)^2."""
        x = log_normalized(batch.target, batch.target_library)
        # the dense product costs less than a row of weights for each nonzero
        y = self.output(self.encode(batch)[1]).view(-1).gather(0, x.flat)  # (nnz,) of B x m
        return torch.sum((y - x.values) ** 2)

    def loss_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean squared error, and the penalty of weight decay if there is one."""
        entries = len(batch.target.values) if self.loss_norm == "nonzero" else len(batch) * batch.target.n_columns
        terms = {"mse": self.squared_error(batch) / max(entries, 1)}
        if self.weight_decay:
            terms["penalty"] = self.penalty()
        return terms

    def validation_loss(self, batch: Batch) -> torch.Tensor:
        """Summed squared error over the nonzeros (whose number is the same in every epoch)."""
        return self.squared_error(batch)

    def penalty(self) -> torch.Tensor:
        """Weight decay as a term of the loss."""
        if self.decay == "adam":
            return self.weight_decay / 2 * _sum_of_squares(self.parameters())
        matrices = [self.first.weight, *(parameter for parameter in self.deeper.parameters() if parameter.ndim == 2)]
        return self.weight_decay * _sum_of_squares([*matrices, self.output.weight])


def log_normalized(counts: Block, library: torch.Tensor) -> Block:
    """log1p of counts per 10,000, on the pattern of the counts."""
    return counts.with_values(torch.log1p(counts.values * (TARGET / library)[counts.rows]))


def _sum_of_squares(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum()


@dataclass(frozen=True)
class DecodedCells:
    """Counts of cells, computed from the last hidden layer on request (a `Model`).

    Entry (i, j) is ``library_i (factor_j expm1(y_ij) / 10,000 + share_j)``, with y = hidden weight' + bias, clipped to
    0 and log1p(10,000).

    Attributes
    ----------
    hidden : ndarray of shape (n, w)
        Last hidden layer.
    weight, bias : ndarray of shape (G, w) and (G,)
        Of the output layer.
    factor : ndarray of shape (G,)
        0 for genes that are not decoded.
    share : ndarray of shape (G,)
        0 for genes that are decoded.
    library : ndarray of shape (n,)
        Molecules per cell over all genes.
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
        for start in range(0, len(i), ENTRIES_PER_STEP):
            part = slice(start, start + ENTRIES_PER_STEP)
            linear = np.einsum("kw,kw->k", self.hidden[i[part]], self.weight[j[part]])
            out[part] = self._counts(linear, i[part], j[part])
        return out

    def _counts(self, values: np.ndarray, i: np.ndarray, j: np.ndarray | slice) -> np.ndarray:
        values += self.bias[j]
        np.clip(values, 0, LARGEST_LOG_VALUE, out=values)
        np.expm1(values, out=values)
        values *= self.factor[j] / np.float32(TARGET)
        values += self.share[j]
        values *= self.library[i]
        return values

    def totals(self) -> np.ndarray:
        """(G,) float64 sums over all cells, computed in blocks of rows."""
        n, G = len(self.hidden), len(self.bias)
        step = max(1, VALUES_PER_BLOCK // G)
        blocks = (self.rows(np.arange(start, min(n, start + step)), None) for start in range(0, n, step))
        return np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks], axis=0)
