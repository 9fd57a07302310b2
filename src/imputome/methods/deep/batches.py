"""Mini-batches of cells: sparse counts (in memory, on an accelerator or in a file), and standardised real values.

Counts stay sparse: no dense copy of the data is made. Letters: ``n`` cells, ``G`` genes, ``B`` cells of a batch, ``C``
columns of the coded covariates, ``nnz`` stored counts of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from imputome.errors import InputError

ROWS_PER_CHUNK = 2048  # rows read from a file at once
CHUNKS_PER_GROUP = 16  # chunks in memory, whose rows are shuffled together


@dataclass(frozen=True)
class Block:
    """Rows of a sparse matrix as tensors on one device."""

    offsets: torch.Tensor  # (B + 1,) int64, where each row begins
    columns: torch.Tensor  # (nnz,) int64, gene of each stored value
    values: torch.Tensor  # (nnz,) float32
    n_columns: int  # G

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> torch.Tensor:
        """(nnz,) int64, row of each stored value."""
        lengths = self.offsets.diff()  # (B,)
        numbers = torch.arange(len(self), device=lengths.device)
        return torch.repeat_interleave(numbers, lengths, output_size=len(self.columns))

    @cached_property
    def flat(self) -> torch.Tensor:
        """(nnz,) int64, position of each stored value in the flattened dense block."""
        return self.rows * self.n_columns + self.columns

    def dense(self) -> torch.Tensor:
        """(B, G) float32."""
        out = torch.zeros(len(self) * self.n_columns, device=self.values.device, dtype=self.values.dtype)
        return out.index_copy_(0, self.flat, self.values).view(len(self), self.n_columns)

    def with_values(self, values: torch.Tensor) -> Block:
        """A block with the same pattern and other values."""
        return Block(self.offsets, self.columns, values, self.n_columns)

    @cached_property
    def totals(self) -> torch.Tensor:
        """(B,) sum of each row."""
        out = torch.zeros(len(self), device=self.values.device, dtype=self.values.dtype)
        return out.index_add_(0, self.rows, self.values)


@dataclass(frozen=True)
class Batch:
    """Counts for one training step."""

    index: torch.Tensor  # (B,) int64, positions of the cells in the data
    counts: Block  # what the network reads
    library: torch.Tensor  # (B,) float32, molecules per cell over all genes
    target: Block  # what the loss compares with: ``counts`` itself, or other molecules of the same cells
    covariates: torch.Tensor | None = None  # (B, C) float32, coded

    def __len__(self) -> int:
        return len(self.index)


class CountBatches:
    """A source of mini-batches of sparse counts.

    ``X`` holds (n, G) counts as a CSR matrix without duplicate entries, neither copied nor changed; or it is a CSR
    dataset in a file, anndata's ``sparse_dataset``, which a backed ``adata.X`` is. From a file, chunks of
    `ROWS_PER_CHUNK` rows are read and shuffled together, `CHUNKS_PER_GROUP` at a time. Not more than one such group is
    held, and two copies of it while it is put together.

    ``library`` (n,) is the molecules per cell over all genes, ``covariates`` (n, C) are coded. ``target`` (n, G) is
    other molecules of the same cells, a CSR matrix in memory, which the loss compares with (None: ``X``). If the last
    batch would have one cell, which batch normalisation cannot take, it joins the one before. An accelerator keeps a
    copy of the matrix if that takes less than half of its free memory; otherwise each batch is copied to it.
    """

    def __init__(
        self,
        X: Any,
        *,
        library: np.ndarray,
        covariates: np.ndarray | None = None,
        target: Any = None,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_csr(X)
        if target is not None:
            _check_csr(target)
            if not _in_memory(target) or target.shape != X.shape:
                raise InputError(
                    f"the target must be in memory and have the shape of the counts, {X.shape}", code="target-shape"
                )
        self.shape: tuple[int, int] = (int(X.shape[0]), int(X.shape[1]))
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._library = torch.tensor(library, dtype=torch.float32)
        self._covariates = None if covariates is None else torch.tensor(covariates, dtype=torch.float32)
        self._file = None if _in_memory(X) else X
        self._counts = _CsrTensors.of(X, self._storage_device(X)) if _in_memory(X) else None
        self._target = None if target is None else _CsrTensors.of(target, self._storage_device(target))

    def __len__(self) -> int:
        """Number of cells."""
        return self.shape[0]

    def epoch(self, rows: np.ndarray | None = None, *, generator: np.random.Generator | None = None) -> Iterator[Batch]:
        """Batches that hold each of ``rows`` (None: all) once.

        ``generator`` shuffles the cells; without it they come in the given order, or in the order of the file.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        if self._counts is not None:
            order = rows if generator is None else generator.permutation(rows)
            for part in self._parts(order):
                yield self._batch(self._counts, part, part)
            return
        for chunks in self._chunk_groups(rows, generator):
            counts, positions = self._read(chunks)
            order = np.arange(len(positions)) if generator is None else generator.permutation(len(positions))
            for part in self._parts(order):
                yield self._batch(counts, part, positions[part])
            del counts  # before the next group is read

    def _parts(self, order: np.ndarray) -> Iterator[np.ndarray]:
        cuts = list(range(self.batch_size, len(order), self.batch_size))
        if cuts and len(order) - cuts[-1] == 1:
            cuts.pop()
        if len(order):
            yield from np.split(order, cuts)

    def _batch(self, counts: _CsrTensors, rows: np.ndarray, positions: np.ndarray) -> Batch:
        """The cells ``positions`` of the data, which are the rows ``rows`` of ``counts``."""
        index = torch.tensor(positions, dtype=torch.int64)
        block = counts.take(torch.tensor(rows, dtype=torch.int64), self.device)
        return Batch(
            index.to(self.device),
            block,
            self._library[index].to(self.device),
            block if self._target is None else self._target.take(index, self.device),
            None if self._covariates is None else self._covariates[index].to(self.device),
        )

    def _chunk_groups(self, rows: np.ndarray, generator: np.random.Generator | None) -> list[list[np.ndarray]]:
        """``rows`` by chunk of the file, in lists of chunks that are shuffled together."""
        if not len(rows):
            return []
        rows = np.sort(rows)
        chunks = np.split(rows, np.flatnonzero(np.diff(rows // ROWS_PER_CHUNK)) + 1)
        order = np.arange(len(chunks)) if generator is None else generator.permutation(len(chunks))
        starts = range(0, len(order), CHUNKS_PER_GROUP)
        groups = [[chunks[k] for k in order[start : start + CHUNKS_PER_GROUP]] for start in starts]
        if len(groups) > 1 and sum(map(len, groups[-1])) == 1:  # it would be a batch of one cell
            *groups, last, single = groups
            groups.append(last + single)
        return groups

    def _read(self, chunks: list[np.ndarray]) -> tuple[_CsrTensors, np.ndarray]:
        """Rows of the file, and their positions in it."""
        parts = []
        for rows in chunks:
            first = int(rows[0]) // ROWS_PER_CHUNK * ROWS_PER_CHUNK
            chunk = sp.csr_matrix(self._file[first : min(first + ROWS_PER_CHUNK, len(self))])  # type: ignore[index]
            parts.append(chunk[rows - first])
        matrix = sp.vstack(parts, format="csr")
        matrix.sum_duplicates()  # a file may hold them
        return _CsrTensors.of(matrix, torch.device("cpu")), np.concatenate(chunks)

    def _storage_device(self, X: Any) -> torch.device:
        """Where the whole matrix is kept."""
        if self.device.type != "cuda":
            return torch.device("cpu")
        free, _ = torch.cuda.mem_get_info(self.device)
        size = X.data.nbytes + X.indices.nbytes + 8 * len(X.indptr)
        return self.device if size < free // 2 else torch.device("cpu")


class _CsrTensors(NamedTuple):
    """A CSR matrix as tensors, from which rows can be taken."""

    starts: torch.Tensor  # (n + 1,)
    columns: torch.Tensor  # (stored values,)
    values: torch.Tensor  # (stored values,)
    n_columns: int

    @classmethod
    def of(cls, X: Any, device: torch.device) -> _CsrTensors:
        """The tensors of ``X``; without a copy if they stay in main memory."""
        with warnings.catch_warnings():  # nothing writes to the tensors, so read-only arrays are fine
            warnings.filterwarnings("ignore", message=".*not writable.*")
            starts, columns, values = (torch.from_numpy(a).to(device) for a in (X.indptr, X.indices, X.data))
        return cls(starts.long(), columns, values, int(X.shape[1]))

    def take(self, rows: torch.Tensor, device: torch.device) -> Block:
        """Some rows, on ``device``."""
        storage = self.starts.device
        rows = rows.to(storage)
        starts = self.starts[rows]
        lengths = self.starts[rows + 1] - starts
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=storage)
        torch.cumsum(lengths, 0, out=offsets[1:])
        total = int(offsets[-1])
        shift = torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=total)
        positions = torch.arange(total, device=storage) + shift  # (nnz,)
        columns, values = self.columns[positions].long(), self.values[positions].float()
        return Block(offsets.to(device), columns.to(device), values.to(device), self.n_columns)


def _in_memory(X: Any) -> bool:
    # anndata's datasets in files have a format and an indptr too
    return isinstance(getattr(X, "data", None), np.ndarray)


def _check_csr(X: Any) -> None:
    kind = getattr(X, "format", None) or type(X).__name__
    if kind != "csr":
        raise InputError(f"counts must be a CSR matrix, not {kind}: convert them with csr_array(X)", code="not-csr")


@dataclass(frozen=True)
class DenseBatch:
    """Real values for one training step."""

    index: torch.Tensor  # (B,) int64, positions of the cells in the data
    values: torch.Tensor  # (B, G) float32, what the network reads; 0 if missing
    observed: torch.Tensor  # (B, G) bool, whether ``values`` is known
    target: torch.Tensor  # (B, G) float32, what the loss compares with; 0 if not scored
    scored: torch.Tensor  # (B, G) bool, whether the loss compares this entry

    def __len__(self) -> int:
        return len(self.index)


class DenseBatches:
    """A source of mini-batches of standardised real values.

    ``values`` are (n, G) float32 with NaN for missing and feature means of 0, neither copied nor changed. ``target`` is
    what the loss compares with (None: ``values``); its entries with NaN are not compared.
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
            raise InputError(f"the target must have shape {values.shape}, not {target.shape}", code="target-shape")
        self.values, self.target, self.batch_size, self.device = values, target, batch_size, torch.device(device)

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.values)

    def epoch(
        self, rows: np.ndarray | None = None, *, generator: np.random.Generator | None = None
    ) -> Iterator[DenseBatch]:
        """Batches that hold each of ``rows`` (None: all) once, shuffled by ``generator`` (None: in the given order)."""
        order = np.arange(len(self)) if rows is None else np.asarray(rows)
        if generator is not None:
            order = generator.permutation(order)
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            values, observed = self._take(self.values, part)
            target, scored = (values, observed) if self.target is None else self._take(self.target, part)
            yield DenseBatch(torch.from_numpy(part).to(self.device), values, observed, target, scored)

    def _take(self, matrix: np.ndarray, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, G) values with 0 for NaN, and (B, G) whether each is known."""
        block = torch.from_numpy(np.asarray(matrix[rows], dtype=np.float32)).to(self.device)
        known = ~torch.isnan(block)
        return block.nan_to_num_(nan=0.0), known
