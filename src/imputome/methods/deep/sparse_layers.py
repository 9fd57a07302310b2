"""Layers that read and predict sparse counts without making them dense.

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
    """A linear layer whose input is a sparse `Block`: work and memory go with the stored values, not with B x G.

    Parameters
    ----------
    in_features, out_features : G and H.
    bias : whether a bias is added.

    Attributes
    ----------
    weight : (G, H), transposed with respect to ``nn.Linear``, so that a gene's weights lie together.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As ``nn.Linear``: uniform within 1 / sqrt(G)."""
        bound = 1 / math.sqrt(self.weight.shape[0])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, block: Block) -> torch.Tensor:
        """(B, H)."""
        out = sparse_matmul(block, self.weight)
        return out if self.bias is None else out + self.bias


def sparse_matmul(block: Block, weight: torch.Tensor) -> torch.Tensor:
    """(B, H) product of a sparse (B, G) block and a dense (G, H) matrix; the gradient goes to ``weight`` only.

    On CPU both directions are products of a CSR matrix with a dense one (about three times as fast there as
    ``embedding_bag``, whose backward pass scatters one row of ``weight`` at a time).
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
    with warnings.catch_warnings():  # torch says once a process that its CSR tensors are new and are not checked
        warnings.simplefilter("ignore", category=UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def multinomial_loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, target: Block) -> torch.Tensor:
    """Sum over cells of -log-likelihood of the target under rates l softmax(hidden @ weight + bias), up to a constant.

    With l the target's own sum over the G genes, the Poisson likelihood of a cell is the multinomial one times a
    factor free of the parameters: ``-sum_g x_g log mu_g``. Its gradient in the logits is ``l mu - x``, which the
    forward pass makes in the place of mu: two (B, G) blocks at the most, and one is kept for the backward pass.

    A share mu that is no normal number of this precision (under 1e-38 in float32) counts as the smallest in the loss,
    which so stays finite; the gradient is exact there too.

    Parameters
    ----------
    hidden : (B, K).
    weight, bias : (K, G), (G,).
    target : (B, G) counts.
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
            flat.index_add_(0, target.flat, target.values, alpha=-1)
            ctx.save_for_backward(hidden, weight, share)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        hidden, weight, excess = ctx.saved_tensors  # excess: (B, G), gradient in the logits
        return gradient * (excess @ weight.t()), gradient * (hidden.t() @ excess), gradient * excess.sum(0), None
