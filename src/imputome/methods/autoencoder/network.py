"""The network and loss of Xi & Li (2023): fully connected, hidden layers of one width, squared error at the nonzeros.

Letters: ``B`` cells of a batch, ``m`` genes that the network reads, ``w`` width, ``h`` depth, ``nnz`` nonzeros of the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from imputome.methods.deep.batches import Batch, Block
from imputome.methods.deep.layers import SparseLinear
from imputome.preprocessing.counts import TARGET

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


class Autoencoder(nn.Module):
    """m -> w -> ... -> w -> m with a linear output (section 4.1), on log1p of counts per 10,000.

    A hidden layer is linear, batch normalisation (if asked for), activation, dropout; with ``residual`` every hidden
    layer after the first adds its input. PyTorch's own initialisation, as the published code.

    Parameters
    ----------
    n_genes, width, depth : m, w and h.
    activation : of every hidden layer, one of `ACTIVATIONS`.
    dropout : probability of dropping a unit after each activation (section 4.2).
    weight_decay, decay : lambda, and what it shrinks: ``"weights"`` adds ``lambda sum W^2`` over the weight matrices to
        the loss (section 4.2); ``"adam"`` is what Adam's own ``weight_decay`` does, ``lambda / 2`` times
        the sum of squares of *all* parameters.
    loss_norm : the summed squared error over the nonzeros is divided by their number (``"nonzero"``, the paper) or by
        the number of all entries (``"all"``, the published code).
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
        """The middle hidden layer, the ``ceil(h / 2)``-th, and the last one, each (B, w)."""
        layers = [self._hidden(0, self.first(log_normalized(batch.counts, batch.library)))]
        for k, linear in enumerate(self.deeper, start=1):
            made = self._hidden(k, linear(layers[-1]))
            layers.append(made + layers[-1] if self.residual else made)
        return layers[(len(layers) - 1) // 2], layers[-1]

    def _hidden(self, k: int, linear: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.dropout(self.activation(self.norms[k](linear)))  # (B, w)
        return made

    def squared_error(self, batch: Batch) -> torch.Tensor:
        """Sum over the nonzeros of (Y - X)^2."""
        x = log_normalized(batch.target, batch.target_library)
        # the dense product costs less than gathering a row of weights for each nonzero would
        y = self.output(self.encode(batch)[1]).view(-1).gather(0, x.flat)  # (nnz,) of B x m
        return torch.sum((y - x.values) ** 2)

    def loss_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean squared error, and the penalty where there is one."""
        entries = len(batch.target.values) if self.loss_norm == "nonzero" else len(batch) * batch.target.n_columns
        terms = {"mse": self.squared_error(batch) / max(entries, 1)}
        if self.weight_decay:
            terms["penalty"] = self.penalty()
        return terms

    def validation_loss(self, batch: Batch) -> torch.Tensor:
        """Summed squared error over the nonzeros; their number in the validation cells is the same in every epoch."""
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
