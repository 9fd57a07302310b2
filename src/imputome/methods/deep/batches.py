"""Mini-batches straight from sparse counts: in memory, on an accelerator or in a file; no dense copy of the data.

Letters: ``n`` cells, ``G`` genes, ``B`` cells of a batch, ``nnz`` stored counts of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

CHUNK = 2048  # rows read from a file at once
CHUNKS_MIXED = 16  # chunks shuffled together


@dataclass(frozen=True)
class Block:
    """Rows of a sparse matrix as tensors on one device.

    Attributes
    ----------
    offsets : (B + 1,) int64, where each row begins.
    columns : (nnz,) int64, gene of each stored value.
    values : (nnz,) float32.
    n_columns : G.
    """

    offsets: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor
    n_columns: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> torch.Tensor:
        """(nnz,) row of each stored value, int64."""
        lengths = self.offsets.diff()
        places = torch.arange(len(self), device=lengths.device)
        return torch.repeat_interleave(places, lengths, output_size=len(self.columns))

    @cached_property
    def flat(self) -> torch.Tensor:
        """(nnz,) position of each stored value in the flattened dense block, int64."""
        return self.rows * self.n_columns + self.columns

    def dense(self) -> torch.Tensor:
        """(B, G) float32."""
        out = torch.zeros(len(self) * self.n_columns, device=self.values.device, dtype=self.values.dtype)
        return out.index_copy_(0, self.flat, self.values).view(len(self), self.n_columns)

    def with_values(self, values: torch.Tensor) -> Block:
        """The same places with other values."""
        return Block(self.offsets, self.columns, values, self.n_columns)

    def sum(self) -> torch.Tensor:
        """(B,) sum of each row."""
        out = torch.zeros(len(self), device=self.values.device, dtype=self.values.dtype)
        return out.index_add_(0, self.rows, self.values)


@dataclass(frozen=True)
class Batch:
    """What a network is trained on in one step.

    Attributes
    ----------
    index : (B,) int64, positions of the cells in the data.
    counts : what the network reads.
    library : (B,) float32, molecules per cell over all genes.
    target : what the loss compares with: ``counts`` itself unless other molecules of the same cells were given.
    target_library : (B,) float32, that of the target.
    covariates : (B, C) float32, or None.
    """

    index: torch.Tensor
    counts: Block
    library: torch.Tensor
    target: Block
    target_library: torch.Tensor
    covariates: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)


class CountBatches:
    """A source of mini-batches over sparse counts.

    Parameters
    ----------
    X : (n, G) ``csr_array`` or ``csr_matrix``, or a CSR dataset in a file (anndata's ``sparse_dataset``, what a backed
        ``adata.X`` is): of a file, chunks of `CHUNK` rows are read, `CHUNKS_MIXED` at a time are shuffled together, and
        no more is ever held.
    library : (n,) molecules per cell over all genes.
    covariates : (n, C) float32, coded for the network.
    target : (n, G) CSR in memory, molecules of the same cells that the loss compares with; None: ``X`` itself.
    target_library : (n,) that of the target; required with it.
    batch_size : B. A last batch of one cell, which batch normalisation cannot take, joins the one before.
    device : where batches are wanted. An accelerator keeps one copy of the matrix if that takes under half of its free
        memory; otherwise batches travel one by one.
    """

    def __init__(
        self,
        X: Any,
        *,
        library: np.ndarray,
        covariates: np.ndarray | None = None,
        target: Any = None,
        target_library: np.ndarray | None = None,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape: tuple[int, int] = (int(X.shape[0]), int(X.shape[1]))
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._library = torch.as_tensor(library, dtype=torch.float32)
        self._target_library = (
            self._library if target_library is None else torch.as_tensor(target_library, dtype=torch.float32)
        )
        self._covariates = None if covariates is None else torch.as_tensor(covariates, dtype=torch.float32)
        self._file = None if hasattr(X, "indptr") and not _in_file(X) else X
        self._counts = None if self._file is not None else _tensors(X, self._home(X))
        self._target = None if target is None else _tensors(target, self._home(target))

    def __len__(self) -> int:
        """Number of cells."""
        return self.shape[0]

    def epoch(self, rows: np.ndarray | None = None, *, generator: np.random.Generator | None = None) -> Iterator[Batch]:
        """Batches that hold every one of ``rows`` once (None: all), shuffled by ``generator``, or in order."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        if self._file is None:
            order = rows if generator is None else generator.permutation(rows)
            counts = self._counts
            for part in self._parts(order):
                yield self._batch(counts, torch.from_numpy(part), part)
            return
        for held, numbers in self._chunks(rows, generator):
            counts = _tensors(held, torch.device("cpu"))
            order = np.arange(len(numbers)) if generator is None else generator.permutation(len(numbers))
            for part in self._parts(order):
                yield self._batch(counts, torch.from_numpy(part), numbers[part])

    def n_batches(self, n_rows: int) -> int:
        """Number of batches of an epoch over ``n_rows`` cells (of a file: at least)."""
        return len(self._cuts(n_rows))

    def _cuts(self, n_rows: int) -> list[int]:
        cuts = list(range(0, n_rows, self.batch_size))
        if len(cuts) > 1 and n_rows - cuts[-1] == 1:
            cuts.pop()
        return cuts

    def _parts(self, order: np.ndarray) -> Iterator[np.ndarray]:
        cuts = self._cuts(len(order))
        for start, stop in zip(cuts, [*cuts[1:], len(order)], strict=True):
            yield order[start:stop]

    def _batch(self, counts: Any, local: torch.Tensor, index: np.ndarray) -> Batch:
        at = torch.from_numpy(np.ascontiguousarray(index, dtype=np.int64))
        block = _gather(*counts, local, self.device, self.shape[1])
        target = block if self._target is None else _gather(*self._target, at, self.device, self.shape[1])
        covariates = None if self._covariates is None else self._covariates[at].to(self.device)
        return Batch(
            at.to(self.device),
            block,
            self._library[at].to(self.device),
            target,
            self._target_library[at].to(self.device),
            covariates,
        )

    def _chunks(self, rows: np.ndarray, generator: np.random.Generator | None) -> Iterator[tuple[Any, np.ndarray]]:
        """Rows of the file, some chunks at a time: a CSR matrix and the positions of its rows in the file."""
        import scipy.sparse as sp

        rows = np.sort(rows)
        which, starts = np.unique(rows // CHUNK, return_index=True)
        pieces = np.split(rows, starts[1:])
        order = np.arange(len(which)) if generator is None else generator.permutation(len(which))
        for first in range(0, len(order), CHUNKS_MIXED):
            held, numbers = [], []
            for k in order[first : first + CHUNKS_MIXED]:
                piece, begin = pieces[k], int(which[k]) * CHUNK
                read = sp.csr_matrix(self._file[begin : min(begin + CHUNK, len(self))])  # type: ignore[index]
                held.append(read[piece - begin])
                numbers.append(piece)
            yield sp.vstack(held, format="csr"), np.concatenate(numbers)

    def _home(self, X: Any) -> torch.device:
        """Where the whole matrix is kept."""
        if self.device.type != "cuda":
            return torch.device("cpu")
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.device if 8 * X.nnz + 8 * len(X.indptr) < free // 2 else torch.device("cpu")


def _in_file(X: Any) -> bool:
    return hasattr(X, "group") or hasattr(X, "to_memory")


def _tensors(X: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row starts, columns and values as tensors, without a copy where they stay in main memory."""
    with warnings.catch_warnings():  # nothing here writes to them, so that read-only arrays are as good
        warnings.filterwarnings("ignore", message=".*not writable.*")
        arrays = (X.indptr, X.indices, X.data)
        indptr, indices, data = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays)
    return indptr.long(), indices, data


def _gather(
    indptr: torch.Tensor, indices: torch.Tensor, data: torch.Tensor, rows: torch.Tensor, device: torch.device, G: int
) -> Block:
    """Some rows of a CSR matrix, on ``device``."""
    rows = rows.to(indptr.device)
    starts = indptr[rows]
    lengths = indptr[rows + 1] - starts
    offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=indptr.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    total = int(offsets[-1])
    shift = torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=total)
    places = torch.arange(total, device=indptr.device) + shift
    columns, values = indices[places].long(), data[places].float()
    return Block(offsets.to(device), columns.to(device), values.to(device), G)
