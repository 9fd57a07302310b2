"""What the estimators of the deep methods share: cells to validate on, the device, training, weights as arrays.

Letters: ``n`` cells.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numba
import numpy as np
import torch
from torch import nn

from imputome.core.data import Data
from imputome.core.imputer import Imputer
from imputome.errors import InputError, ModelFormatError
from imputome.methods.deep.training import Schedule, Training, seeded, train

PREFIX = "network."

# numba starts its threads at its first kernel, and from then on torch takes as many: sums in another order, and a fit
# that differs from the same one before. So they are started before the first fit, and torch keeps its own number.
_threads = torch.get_num_threads()
numba.get_num_threads()
torch.set_num_threads(_threads)


class Batches(Protocol):
    """A source of mini-batches: of counts (`CountBatches`) or of real values (`DenseBatches`)."""

    device: torch.device

    def epoch(
        self, rows: np.ndarray | None = None, *, generator: np.random.Generator | None = None
    ) -> Iterable[Any]: ...


class DeepImputer(Imputer):
    """An `Imputer` whose learned state is a network.

    A subclass has the parameters ``device`` (``"auto"``, ``"cpu"``, ``"cuda"``) and ``random_state``, writes
    `_network`, and in `_fit` calls `_new_network` and `_train`.

    Attributes
    ----------
    checkpoint : folder for checkpoints of the training, set from outside like ``progress``: a fit that was killed goes
        on from there. It belongs to this estimator, not to the copies that the posterior step fits for its shape.
    on_epoch : told the number and the validation loss of each epoch, if set; returns True to stop.
    network_ : the trained network, in eval mode.
    """

    checkpoint: Path | None = None
    on_epoch: Callable[[int, float], bool] | None = None
    device: str
    random_state: int
    network_: nn.Module

    @abstractmethod
    def _network(self) -> nn.Module:
        """An untrained network, of the sizes that the parameters and the arrays learned so far ask for."""

    def _new_network(self) -> nn.Module:
        """`_network`, initialised by ``random_state``."""
        with seeded(self.random_state):
            return self._network()

    def _device(self) -> torch.device:
        """Where to train."""
        there = torch.cuda.is_available()
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"{self.name}: device={self.device!r} is not one of auto, cpu, cuda")
        if self.device == "cuda" and not there:
            raise InputError(f"{self.name}: torch finds no CUDA device here: use device='cpu' or 'auto'")
        return torch.device("cuda" if there and self.device != "cpu" else "cpu")

    def _train(
        self,
        network: nn.Module,
        batches: Batches,
        data: Data,
        schedule: Schedule,
        *,
        train_rows: np.ndarray,
        validation_rows: np.ndarray | None,
        watched: Batches | None = None,
        member: int = 0,
    ) -> Training:
        """Train ``network`` on some cells of ``batches`` and watch others; it becomes ``network_``.

        Parameters
        ----------
        data : what ``batches`` was made of, to tell a checkpoint of other data.
        train_rows, validation_rows : positions of cells; None: none are watched, and the training loss is.
        watched : what the validation cells are taken from, if not from ``batches``.
        member : number of the network among several of one estimator: it has its own checkpoint and shuffling.
        """
        fingerprint = None
        if self.checkpoint is not None:
            cells = _digest_arrays(*(rows for rows in (train_rows, validation_rows) if rows is not None))
            fingerprint = {"data": _digest(data), "cells": cells, "parameters": self.get_params()}
        held_out = batches if watched is None else watched
        training = train(
            network,
            epoch=lambda generator: batches.epoch(train_rows, generator=generator),
            validation=None if validation_rows is None else lambda: held_out.epoch(validation_rows),
            schedule=schedule,
            seed=self.random_state + member,
            device=batches.device,
            checkpoint=self.checkpoint
            if self.checkpoint is None or not member
            else self.checkpoint / f"network{member}",
            fingerprint=fingerprint,
            progress=self.progress,
            on_epoch=self.on_epoch,
        )
        self.network_ = network
        return training

    def _state(self) -> dict[str, np.ndarray]:
        return {PREFIX + name: value.cpu().numpy() for name, value in self.network_.state_dict().items()}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        with torch.device("meta"):  # no weights are made that would be overwritten at once
            network = self._network()
        state = {}
        for name, value in network.state_dict().items():
            array = arrays[PREFIX + name]
            if array.shape != tuple(value.shape):
                raise ModelFormatError(
                    f"the array {PREFIX + name} has shape {array.shape}; this model's parameters ask for "
                    f"{tuple(value.shape)}"
                )
            state[name] = torch.as_tensor(array)
        network.load_state_dict(state, assign=True)
        self.network_ = network.to(self._device()).eval()


def split_cells(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of cells to train on and of a random ``share`` of them to validate on, both sorted.

    At least two cells are trained on and one is validated on; of two cells, both are both.
    """
    if not 0 < share < 1:
        raise InputError(f"the share of cells to validate on, {share!r}, must lie between 0 and 1")
    order = np.random.default_rng(seed).permutation(n)
    held = min(max(1, round(share * n)), n - 2)
    if held < 1:
        return np.sort(order), np.sort(order)
    return np.sort(order[held:]), np.sort(order[:held])


def _digest(data: Data) -> str:
    """A fingerprint of the values and names, and of the library sizes of counts."""
    known = hashlib.blake2b("\0".join([*data.obs_names, "", *data.var_names]).encode(), digest_size=16)
    arrays = (data.known_values(),) if data.kind == "real" else (data.X.indptr, data.X.indices, data.X.data, data.depth)
    known.update(_digest_arrays(*arrays).encode())
    if data.covariates is not None:
        known.update(data.covariates.to_csv().encode())
    return known.hexdigest()


def _digest_arrays(*arrays: np.ndarray) -> str:
    known = hashlib.blake2b(digest_size=16)
    for array in arrays:
        known.update(f"{array.dtype} {array.shape}".encode())
        known.update(np.ascontiguousarray(array).data)
    return known.hexdigest()
