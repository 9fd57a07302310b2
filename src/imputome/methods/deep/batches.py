"""Mini-batches straight from sparse counts: in memory, on an accelerator or in a file; no dense copy of the data.

Letters: ``n`` cells, ``G`` genes, ``B`` cells of a batch, ``nnz`` stored counts of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from imputome.errors import InputError

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

    @cached_property
    def totals(self) -> torch.Tensor:
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
    X : (n, G) ``csr_array`` or ``csr_matrix`` of real numbers without duplicate entries, which is neither copied nor
        changed; or a CSR dataset in a file (anndata's ``sparse_dataset``, what a backed ``adata.X`` is). Of a file,
        chunks of `CHUNK` rows are read, and `CHUNKS_MIXED` at a time are shuffled together; while these are put
        together they are there twice, and no more is ever held.
    library : (n,) molecules per cell over all genes.
    covariates : (n, C), coded for the network.
    target : (n, G) CSR in memory, molecules of the same cells that the loss compares with; None: ``X`` itself.
    target_library : (n,) that of the target; required with it.
    batch_size : B. A last batch of one cell, which batch normalisation cannot take, joins the one before.
    device : where batches are wanted. An accelerator keeps one copy of the matrix if that takes under half of its free
        memory; otherwise batches travel one by one.

    Raises
    ------
    InputError
        ``X`` or ``target`` is not CSR, the target is in a file or of another shape, or only one of ``target`` and
        ``target_library`` is given.
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
        _check_csr(X, "the counts")
        if (target is None) != (target_library is None):
            raise InputError("target and target_library belong together: give both, or neither")
        if target is not None:
            _check_csr(target, "the target")
            if not _in_memory(target) or target.shape != X.shape:
                raise InputError(f"the target must be in memory and of the counts' shape {tuple(X.shape)}")
        self.shape: tuple[int, int] = (int(X.shape[0]), int(X.shape[1]))
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._library = _float32(library)
        self._target_library = self._library if target_library is None else _float32(target_library)
        self._covariates = None if covariates is None else _float32(covariates)
        self._file = None if _in_memory(X) else X
        self._counts = _Rows.of(X, self._home(X)) if _in_memory(X) else None
        self._target = None if target is None else _Rows.of(target, self._home(target))

    def __len__(self) -> int:
        """Number of cells."""
        return self.shape[0]

    def epoch(self, rows: np.ndarray | None = None, *, generator: np.random.Generator | None = None) -> Iterator[Batch]:
        """Batches that hold every one of ``rows`` once, shuffled by ``generator``.

        Parameters
        ----------
        rows : positions of cells; None: all.
        generator : None: not shuffled, but in the order given, or of a file in the order of the file.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        if self._counts is not None:
            order = rows if generator is None else generator.permutation(rows)
            for part in self._parts(order):
                yield self._batch(self._counts, part, part)
            return
        for chunks in self._groups(rows, generator):
            counts, numbers = self._read(chunks)
            order = np.arange(len(numbers)) if generator is None else generator.permutation(len(numbers))
            for part in self._parts(order):
                yield self._batch(counts, part, numbers[part])
            del counts  # before the next is read

    def _parts(self, order: np.ndarray) -> Iterator[np.ndarray]:
        cuts = list(range(self.batch_size, len(order), self.batch_size))
        if cuts and len(order) - cuts[-1] == 1:
            cuts.pop()
        if len(order):
            yield from np.split(order, cuts)

    def _batch(self, counts: _Rows, places: np.ndarray, index: np.ndarray) -> Batch:
        """The cells ``index``, which are the rows ``places`` of ``counts``."""
        at = torch.tensor(index, dtype=torch.int64)
        block = counts.take(torch.tensor(places, dtype=torch.int64), self.device)
        return Batch(
            at.to(self.device),
            block,
            self._library[at].to(self.device),
            block if self._target is None else self._target.take(at, self.device),
            self._target_library[at].to(self.device),
            None if self._covariates is None else self._covariates[at].to(self.device),
        )

    def _groups(self, rows: np.ndarray, generator: np.random.Generator | None) -> list[list[np.ndarray]]:
        """The rows wanted, by chunk of the file; lists of chunks to be shuffled together."""
        if not len(rows):
            return []
        rows = np.sort(rows)
        chunks = np.split(rows, np.flatnonzero(np.diff(rows // CHUNK)) + 1)
        order = np.arange(len(chunks)) if generator is None else generator.permutation(len(chunks))
        groups = [[chunks[k] for k in order[at : at + CHUNKS_MIXED]] for at in range(0, len(order), CHUNKS_MIXED)]
        if len(groups) > 1 and sum(map(len, groups[-1])) == 1:  # it would be a batch of one cell
            *groups, last, single = groups
            groups.append(last + single)
        return groups

    def _read(self, chunks: list[np.ndarray]) -> tuple[_Rows, np.ndarray]:
        """Rows of the file, and their positions in it."""
        import scipy.sparse as sp

        held = []
        for rows in chunks:
            begin = int(rows[0]) // CHUNK * CHUNK
            read = sp.csr_matrix(self._file[begin : min(begin + CHUNK, len(self))])  # type: ignore[index]
            held.append(read[rows - begin])
        together = sp.vstack(held, format="csr")
        together.sum_duplicates()  # a file may hold them
        return _Rows.of(together, torch.device("cpu")), np.concatenate(chunks)

    def _home(self, X: Any) -> torch.device:
        """Where the whole matrix is kept."""
        if self.device.type != "cuda":
            return torch.device("cpu")
        free, _ = torch.cuda.mem_get_info(self.device)
        size = X.data.nbytes + X.indices.nbytes + 8 * len(X.indptr)
        return self.device if size < free // 2 else torch.device("cpu")


class _Rows(NamedTuple):
    """A CSR matrix as tensors, of which some rows can be taken."""

    starts: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor
    n_columns: int

    @classmethod
    def of(cls, X: Any, device: torch.device) -> _Rows:
        """Without a copy where the arrays stay in main memory."""
        with warnings.catch_warnings():  # nothing here writes to them, so that read-only arrays are as good
            warnings.filterwarnings("ignore", message=".*not writable.*")
            starts, columns, values = (torch.from_numpy(a).to(device) for a in (X.indptr, X.indices, X.data))
        return cls(starts.long(), columns, values, int(X.shape[1]))

    def take(self, rows: torch.Tensor, device: torch.device) -> Block:
        """Some rows, on ``device``."""
        home = self.starts.device
        rows = rows.to(home)
        starts = self.starts[rows]
        lengths = self.starts[rows + 1] - starts
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=home)
        torch.cumsum(lengths, 0, out=offsets[1:])
        total = int(offsets[-1])
        shift = torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=total)
        places = torch.arange(total, device=home) + shift
        columns, values = self.columns[places].long(), self.values[places].float()
        return Block(offsets.to(device), columns.to(device), values.to(device), self.n_columns)


def _in_memory(X: Any) -> bool:
    # anndata's datasets in files have a format and an indptr too
    return isinstance(getattr(X, "data", None), np.ndarray)


def _check_csr(X: Any, what: str) -> None:
    if getattr(X, "format", None) != "csr":
        kind = getattr(X, "format", None) or type(X).__name__
        raise InputError(f"batches are made of rows: {what} must be CSR, not {kind}; convert them with csr_array(X)")


def _float32(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


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
