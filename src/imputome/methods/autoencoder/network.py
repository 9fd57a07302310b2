"""The plain autoencoder of Xi & Li (2023): the network, its loss, and the counts decoded from it.

Letters: ``n`` cells, ``B`` cells of a batch, ``G`` genes, ``m`` genes that the network reads, ``w`` width, ``h`` depth,
``nnz`` nonzeros of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from imputome.core.imputation import Output
from imputome.core.scales import TARGET
from imputome.methods.deep.batches import Batch, Block
from imputome.methods.deep.rates import in_steps, row_blocks
from imputome.methods.deep.sparse_layers import SparseLinear
from imputome.methods.deep.training import NOT_NEGATIVE, POSITIVE, SHARE, Schedule, check_values, wrong_parameter

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu_0.01", "leaky_relu_0.2", "elu", "selu"]
LossNorm = Literal["nonzero", "all"]
Preset = Literal["paper", "published_code"]

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


@dataclass(frozen=True)
class Design:
    """All settings of network and training: the parameters of `PlainAutoencoder`, and three that only presets change.

    The defaults were chosen by measurement on 1,000 cells and 1,000 variable genes of five datasets, with one seed:
    held-out Poisson loss with 90 % of the molecules for training (rescaled, no observed values kept), and NRMSE on the
    log1p scale of a random half of the nonzeros (the paper's score). Lower is better:

    ==================================  ======  ======  ======  ======  =======  ======  ======  ======  ======  ======
    design                              pbmc3k  zeisel  klein   kang    baron    pbmc3k  zeisel  klein   kang    baron
    ==================================  ======  ======  ======  ======  =======  ======  ======  ======  ======  ======
    gene mean                           0.0958  0.2968  0.1617  0.0493  -0.0309  0.2882  0.2440  0.3330  0.2759  0.3520
    10 x 32 sigmoid (collapsed)         0.0958  0.2968  0.1617  0.0493  -0.0309  0.2888  0.2442  0.3335  0.2767  0.3524
    10 x 32 ReLU                        0.0960  0.3108  0.1622  0.0494  0.0060   0.2783  0.2508  0.3368  0.2456  0.3439
    10 x 32 sigmoid, batch norm         0.0844  0.2883  0.1508  0.0291  -0.2677  0.2397  0.1959  0.2956  0.2446  0.2671
    1 x 128 ReLU, dropout, norm         0.0798  0.2845  0.1480  0.0229  -0.2910  0.2941  0.2437  0.3414  0.3024  0.2935
    1 x 128 tanh, dropout, norm         0.0802  0.2769  0.1466  0.0195  -0.3070  0.3140  0.2238  0.3731  0.3099  0.3056
    1 x 128 sigmoid, dropout            0.0834  0.2872  0.1485  0.0247  -0.2902  0.2279  0.1997  0.2883  0.2321  0.2585
    2 x 128 sigmoid, dropout, norm      0.0833  0.2862  0.1487  0.0260  -0.2802  0.2304  0.1969  0.2898  0.2340  0.2594
    ==================================  ======  ======  ======  ======  =======  ======  ======  ======  ======  ======

    ReLU and tanh with batch normalisation are best in the first score, but worse than the gene mean in the second, on
    three of five datasets. One sigmoid layer without batch normalisation is as good as the default here, but collapsed
    on scmix_celseq2_3cl (17,023 genes, 7,000 of them found in each cell): between-cell SD 2e-9, in the data 0.21.
    """

    depth: int = 2
    width: int = 128
    activation: Activation = "sigmoid"
    dropout: float = 0.2
    weight_decay: float = 0.0
    # the summed squared error over the nonzeros is divided by their number (the paper) or by the number of all entries
    loss_norm: LossNorm = "nonzero"
    batch_norm: bool = True
    residual: bool = False
    n_top_genes: int | Literal["all"] = "all"
    learning_rate: float = 1e-3
    batch_size: int = 64
    patience: int = 20
    max_epochs: int = 500
    rescale: bool = True
    restore_best: bool = True  # end with the weights of the lowest validation error, not with the last ones
    # "weights" adds lambda sum W^2 over the weight matrices to the loss (section 4.2); "adam" adds lambda / 2 times the
    # sum of squares of all parameters, as Adam's own weight decay does
    decay: Literal["weights", "adam"] = "weights"
    shared_start: bool = False  # all seeds start from the same weights

    def __post_init__(self) -> None:
        check_values(self, POSITIVE, "depth", "width", "batch_size", "max_epochs", "learning_rate")
        check_values(self, NOT_NEGATIVE, "weight_decay", "patience")
        check_values(self, SHARE, "dropout")
        if self.n_top_genes != "all" and not (isinstance(self.n_top_genes, int) and self.n_top_genes > 0):
            raise wrong_parameter("n_top_genes", self.n_top_genes, "must be a positive integer or 'all'")

    @property
    def schedule(self) -> Schedule:
        """Length and learning rate of the training."""
        return Schedule(
            max_epochs=self.max_epochs,
            learning_rate=self.learning_rate,
            patience=self.patience or None,
            restore_best=self.restore_best,
        )


_PAPER = Design(depth=10, width=32, dropout=0.0, batch_norm=False, n_top_genes=2000, max_epochs=10_000, rescale=False)
PRESETS: dict[Preset | None, Design] = {
    None: Design(),
    "paper": _PAPER,
    "published_code": replace(
        _PAPER,
        loss_norm="all",
        learning_rate=1e-4,
        max_epochs=1000,
        restore_best=False,
        decay="adam",
        shared_start=True,
    ),
}


class Autoencoder(nn.Module):
    """m -> w -> ... -> w -> m with a linear output (section 4.1), on log1p of counts per 10,000.

    A hidden layer is linear, batch normalisation (optional), activation, dropout (section 4.2). With residual
    connections every hidden layer after the first adds its input. The initial weights are PyTorch's, as in the
    published code.
    """

    def __init__(self, n_genes: int, design: Design) -> None:
        super().__init__()
        self.design, depth, width = design, design.depth, design.width
        self.first = SparseLinear(n_genes, width)
        self.deeper = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if design.batch_norm else nn.Identity() for _ in range(depth))
        self.activation = ACTIVATIONS[design.activation]()
        self.dropout = nn.Dropout(design.dropout)
        self.output = nn.Linear(width, n_genes)

    def encode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The middle hidden layer, the ``ceil(h / 2)``-th, and the last one, (B, w) each."""
        layers = [self._hidden(0, self.first(log_normalized(batch.counts, batch.library)))]
        for k, linear in enumerate(self.deeper, start=1):
            hidden = self._hidden(k, linear(layers[-1]))  # (B, w)
            layers.append(hidden + layers[-1] if self.design.residual else hidden)
        return layers[(len(layers) - 1) // 2], layers[-1]

    def _hidden(self, k: int, linear: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.dropout(self.activation(self.norms[k](linear)))  # (B, w)
        return hidden

    def loss_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean squared error, and the penalty of weight decay if there is one."""
        counts = batch.counts
        entries = len(counts.values) if self.design.loss_norm == "nonzero" else len(batch) * counts.n_columns
        terms = {"mse": self.validation_loss(batch) / max(entries, 1)}
        if self.design.weight_decay:
            terms["penalty"] = self.penalty()
        return terms

    def validation_loss(self, batch: Batch) -> torch.Tensor:
        """Sum over the nonzeros (whose number is the same in every epoch) of (Y - X)^2."""
        x = log_normalized(batch.counts, batch.library)
        # the dense product costs less than a row of weights for each nonzero
        y = self.output(self.encode(batch)[1]).view(-1).gather(0, x.flat)  # (nnz,) of B x m
        return torch.sum((y - x.values) ** 2)

    def penalty(self) -> torch.Tensor:
        """Weight decay as a term of the loss."""
        if self.design.decay == "adam":
            return self.design.weight_decay / 2 * _sum_of_squares(self.parameters())
        matrices = [self.first.weight, *(parameter for parameter in self.deeper.parameters() if parameter.ndim == 2)]
        return self.design.weight_decay * _sum_of_squares([*matrices, self.output.weight])


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
    """

    hidden: np.ndarray  # (n, w) last hidden layer
    weight: np.ndarray  # (G, w) of the output layer
    bias: np.ndarray  # (G,)
    factor: np.ndarray  # (G,) 0 for genes that are not decoded
    share: np.ndarray  # (G,) 0 for genes that are decoded
    library: np.ndarray  # (n,) molecules per cell over all genes

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate", "expected_count"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output = "value") -> np.ndarray:
        columns = slice(None) if genes is None else genes
        return self._counts(self.hidden[rows] @ self.weight[columns].T, rows[:, None], columns)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output = "value") -> np.ndarray:
        def counts(i: np.ndarray, j: np.ndarray) -> np.ndarray:
            return self._counts(np.einsum("kw,kw->k", self.hidden[i], self.weight[j]), i, j)

        return in_steps(counts, i, j)

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
        blocks = (self.rows(rows, None) for rows in row_blocks(len(self.hidden), len(self.bias)))
        return np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks], axis=0)
