"""What the estimators of all deep methods share: validation cells, device, training, saved weights.

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

WEIGHTS_PREFIX = "network."  # of the names of saved arrays

# numba starts its threads at its first kernel, and from then on torch uses as many: sums in another order, so that the
# same fit gives other numbers than before. So numba's threads start before the first fit, and torch keeps its number.
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
    """An `Imputer` that learns a network.

    A subclass has the parameters ``device`` (``"auto"``, ``"cpu"``, ``"cuda"``) and ``random_state``, defines
    `_network`, and calls `_new_network` and `_train` in `_fit`.

    Attributes
    ----------
    checkpoint : Path or None
        Folder for checkpoints of the training, set from outside like ``progress``: a fit that was killed continues from
        there. The copies that the posterior step fits do not use it.
    on_epoch : callable or None
        If set, called after each epoch with its number and validation loss; it returns True to stop.
    network_ : torch.nn.Module
        The trained network, in eval mode.
    """

    checkpoint: Path | None = None
    on_epoch: Callable[[int, float], bool] | None = None
    device: str
    random_state: int
    network_: nn.Module

    @abstractmethod
    def _network(self) -> nn.Module:
        """An untrained network, with sizes from the parameters and from the arrays learned so far."""

    def _new_network(self) -> nn.Module:
        """`_network`, with initial weights from ``random_state``."""
        with seeded(self.random_state):
            return self._network()

    def _device(self) -> torch.device:
        """Where to train."""
        has_cuda = torch.cuda.is_available()
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(
                f"{self.name}: device={self.device!r} is unknown: choose auto, cpu or cuda",
                code="parameter-value",
                parameter="device",
            )
        if self.device == "cuda" and not has_cuda:
            raise InputError(
                f"{self.name}: torch finds no CUDA device on this computer: pass {{device}}",
                code="no-cuda-device",
                device="cpu",
            )
        return torch.device("cuda" if has_cuda and self.device != "cpu" else "cpu")

    def _train(
        self,
        network: nn.Module,
        batches: Batches,
        data: Data,
        schedule: Schedule,
        *,
        train_rows: np.ndarray,
        validation_rows: np.ndarray | None,
        validation_batches: Batches | None = None,
        member: int = 0,
    ) -> Training:
        """Train ``network``, which becomes ``network_``.

        Parameters
        ----------
        network : torch.nn.Module
            A `Trainable`.
        batches : Batches
            Source of the training cells.
        data : Data
            What ``batches`` was made from; a checkpoint of other data is refused.
        schedule : Schedule
            Length and learning rates.
        train_rows : ndarray of int
            Positions of the training cells.
        validation_rows : ndarray of int or None
            Positions of the validation cells. None: the training loss decides when to stop.
        validation_batches : Batches or None, default=None
            Source of the validation cells, if it is not ``batches``.
        member : int, default=0
            Number of this network among several of one estimator; each has its own checkpoint and shuffling.
        """
        fingerprint, folder = None, self.checkpoint
        if folder is not None:
            cells = _digest_arrays(*(rows for rows in (train_rows, validation_rows) if rows is not None))
            fingerprint = {"data": _digest(data), "cells": cells, "parameters": self.get_params()}
            folder = folder / f"network{member}" if member else folder
        held_out = batches if validation_batches is None else validation_batches
        training = train(
            network,
            epoch=lambda generator: batches.epoch(train_rows, generator=generator),
            validation=None if validation_rows is None else lambda: held_out.epoch(validation_rows),
            schedule=schedule,
            seed=self.random_state + member,
            device=batches.device,
            checkpoint=folder,
            fingerprint=fingerprint,
            progress=self.progress,
            on_epoch=self.on_epoch,
        )
        self.network_ = network
        return training

    def _state(self) -> dict[str, np.ndarray]:
        return {WEIGHTS_PREFIX + name: value.cpu().numpy() for name, value in self.network_.state_dict().items()}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        with torch.device("meta"):  # weights that are replaced at once need no memory
            network = self._network()
        state = {}
        for name, value in network.state_dict().items():
            array = arrays[WEIGHTS_PREFIX + name]
            if array.shape != tuple(value.shape):
                raise ModelFormatError(
                    f"the saved array {WEIGHTS_PREFIX + name} has shape {array.shape}, but the saved parameters need "
                    f"{tuple(value.shape)}: the model is damaged, so save it again",
                    code="model-array-shape",
                )
            state[name] = torch.as_tensor(array)
        network.load_state_dict(state, assign=True)
        self.network_ = network.to(self._device()).eval()


def split_cells(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose validation cells at random.

    Parameters
    ----------
    n : int
        Number of cells.
    share : float
        Share of validation cells, between 0 and 1. There is at least one, and there are at least two training cells;
        if n is 2, both cells are used for both.
    seed : int
        Seed of the choice.

    Returns
    -------
    train, validation : ndarray of int
        Sorted positions.

    Raises
    ------
    InputError
        The share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(
            f"validation_share={share!r} must lie between 0 and 1", code="parameter-value", parameter="validation_share"
        )
    order = np.random.default_rng(seed).permutation(n)
    size = min(max(1, round(share * n)), n - 2)
    if size < 1:
        return np.sort(order), np.sort(order)
    return np.sort(order[size:]), np.sort(order[:size])


def _digest(data: Data) -> str:
    """Fingerprint of values and names, and of the library sizes of counts."""
    fingerprint = hashlib.blake2b("\0".join([*data.obs_names, "", *data.var_names]).encode(), digest_size=16)
    arrays = (data.known_values(),) if data.kind == "real" else (data.X.indptr, data.X.indices, data.X.data, data.depth)
    fingerprint.update(_digest_arrays(*arrays).encode())
    if data.covariates is not None:
        fingerprint.update(data.covariates.to_csv().encode())
    return fingerprint.hexdigest()


def _digest_arrays(*arrays: np.ndarray) -> str:
    fingerprint = hashlib.blake2b(digest_size=16)
    for array in arrays:
        fingerprint.update(f"{array.dtype} {array.shape}".encode())
        fingerprint.update(np.ascontiguousarray(array).data)
    return fingerprint.hexdigest()
