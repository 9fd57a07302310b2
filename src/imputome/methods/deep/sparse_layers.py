"""Layers that read and predict sparse counts without a dense copy of them.

Letters: ``B`` cells of a batch, ``G`` genes, ``H`` units, ``nnz`` stored counts of the batch.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from imputome.methods.deep.batches import Block


class SparseLinear(nn.Module):
    """A linear layer whose input is a sparse `Block`: cost grows with the stored values, not with B x G.

    ``weight`` (G, H) is the transpose of ``nn.Linear``'s, so that the weights of a gene are contiguous. New weights are
    drawn as ``nn.Linear`` does: uniform within 1 / sqrt(G).
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(in_features), 1 / math.sqrt(in_features))

    def forward(self, block: Block) -> torch.Tensor:
        """(B, H)."""
        out = sparse_matmul(block, self.weight)
        return out if self.bias is None else out + self.bias


def sparse_matmul(block: Block, weight: torch.Tensor) -> torch.Tensor:
    """(B, H) product of a sparse (B, G) and a dense (G, H) matrix, with a gradient for ``weight`` only.

    On the CPU both directions are products of a CSR matrix with a dense one. This is about three times as fast there as
    ``embedding_bag``, whose backward pass scatters one row of ``weight`` at a time.
    """
    if block.values.device.type != "cpu":
        return nn.functional.embedding_bag(
            block.columns, weight, block.offsets[:-1], mode="sum", per_sample_weights=block.values
        )
    out: torch.Tensor = _SparseMatmul.apply(weight, block)
    return out


class _SparseMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, block: Block) -> torch.Tensor:
        ctx.block = block
        shape = (len(block), block.n_columns)
        return _csr(block.offsets, block.columns, block.values, shape) @ weight

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        block = ctx.block
        shape = (len(block), block.n_columns)
        arrays = (block.values.numpy(), block.columns.numpy(), block.offsets.numpy())
        by_gene = sp.csr_matrix(arrays, shape=shape, copy=False).tocsc()
        starts, cells = (torch.from_numpy(a.astype(np.int64, copy=False)) for a in (by_gene.indptr, by_gene.indices))
        return _csr(starts, cells, torch.from_numpy(by_gene.data), shape[::-1]) @ gradient.contiguous(), None


def _csr(starts: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    with warnings.catch_warnings():  # torch warns once that its CSR tensors are new and not checked
        warnings.simplefilter("ignore", category=UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def multinomial_loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, target: Block) -> torch.Tensor:
    """Negative log-likelihood, up to a constant, of (B, G) counts under rates l softmax(hidden @ weight + bias).

    ``hidden`` is (B, K), ``weight`` (K, G); the result is the sum over cells. If l is the sum of the target over the G
    genes, the Poisson likelihood of a cell is the multinomial one times a factor without parameters; what remains is
    ``-sum_g x_g log mu_g``, with mu the softmax. Its gradient in the logits is ``l mu - x``. The forward pass writes it
    over mu: at most two (B, G) blocks; one of them is kept.

    Shares mu below the smallest normal number (1e-38 in float32) count as that number in the loss, which stays finite;
    the gradient is exact there too.
    """
    loss: torch.Tensor = _MultinomialLoss.apply(hidden, weight, bias, target)
    return loss


class _MultinomialLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, target: Block
    ) -> torch.Tensor:
        share = torch.softmax(torch.addmm(bias, hidden, weight), 1)  # (B, G)
        flat = share.view(-1)
        smallest = torch.finfo(share.dtype).tiny
        loss = -torch.dot(target.values, flat[target.flat].clamp_min(smallest).log())
        if any(ctx.needs_input_grad[:3]):
            share.mul_(target.totals[:, None])
            flat.index_add_(0, target.flat, target.values, alpha=-1)  # now l mu - x
            ctx.save_for_backward(hidden, weight, share)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        hidden, weight, excess = ctx.saved_tensors  # excess: (B, G), the gradient in the logits
        return gradient * (excess @ weight.t()), gradient * (hidden.t() @ excess), gradient * excess.sum(0), None
