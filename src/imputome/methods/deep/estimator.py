"""What the estimators of all deep methods share: validation cells, device, training, saved weights."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numba
import numpy as np
import torch
from torch import nn

from imputome.core.data import Data
from imputome.core.imputer import Imputer
from imputome.core.learned import array_fault, damaged
from imputome.errors import InputError, Message
from imputome.methods.deep.batches import CountBatches, DenseBatches
from imputome.methods.deep.checkpoints import declared_weights
from imputome.methods.deep.training import Schedule, Training, seeded, train, wrong_parameter

SMALLEST_BATCH = 8  # cells of a batch; where a device has no memory for these, it is too small
WEIGHTS_PREFIX = "network."  # of the names of saved arrays

# numba starts its threads at its first kernel, and from then on torch uses as many: sums in another order, so that the
# same fit gives other numbers than before. So numba's threads start before the first fit, and torch keeps its number.
_threads = torch.get_num_threads()
numba.get_num_threads()
torch.set_num_threads(_threads)


class NetworkImputer(Imputer):
    """An `Imputer` whose learned state is a network of torch, and perhaps a few arrays.

    A subclass has the parameters ``device`` (``"auto"``, ``"cpu"``, ``"cuda"``) and ``random_state``, and defines
    `_network`.

    Attributes
    ----------
    network_ : torch.nn.Module
        The trained network, in eval mode.
    """

    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    device: str
    random_state: int
    network_: nn.Module

    @abstractmethod
    def _network(self) -> nn.Module:
        """An untrained network, with sizes from the parameters and from the arrays learned so far."""

    def _device(self) -> torch.device:
        """Where to train."""
        has_cuda = torch.cuda.is_available()
        if self.device not in ("auto", "cpu", "cuda"):
            raise wrong_parameter("device", self.device, "must be auto, cpu or cuda")
        if self.device == "cuda" and not has_cuda:
            raise InputError("torch finds no CUDA device: pass {device}", code="no-cuda-device", device="cpu")
        return torch.device("cuda" if has_cuda and self.device != "cpu" else "cpu")

    def _state(self) -> dict[str, np.ndarray]:
        weights = {WEIGHTS_PREFIX + name: value.cpu().numpy() for name, value in self.network_.state_dict().items()}
        return {**super()._state(), **weights}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        if self._layers() > len(arrays):  # every layer has weights; to make many of them would take long
            raise damaged("there are fewer arrays than its parameters need", code="model-array-missing")
        try:
            with torch.device("meta"):  # weights that are replaced at once need no memory
                network = self._network()
        except (RuntimeError, OverflowError, TypeError, ValueError) as error:
            text = f"no network of {self.name} can have the sizes in its parameters and arrays"
            raise damaged(text, code="damaged") from error
        weights = network.state_dict()
        fault = array_fault(declared_weights(WEIGHTS_PREFIX, weights), arrays, n_features=len(self.feature_names_))
        if fault is not None:
            raise damaged(fault[1], code=fault[0])
        state = {name: torch.as_tensor(arrays[WEIGHTS_PREFIX + name]) for name in weights}
        network.load_state_dict(state, assign=True)
        self.network_ = network.to(self._device()).eval()

    def _layers(self) -> int:
        """How many layers or networks the parameters ask for, at least."""
        return 1


class DeepImputer(NetworkImputer):
    """An `Imputer` that learns a network with the loop of `imputome.methods.deep.training`.

    A subclass calls `_new_network` and `_train` in `_fit`.

    Attributes
    ----------
    checkpoint : Path or None
        Folder for checkpoints of the training, set from outside like ``progress``: a fit that was killed continues from
        there. The copies that the posterior step fits do not use it.
    on_epoch : callable or None
        If set, called after each epoch with its number and validation loss; it returns True to stop.
    """

    checkpoint: Path | None = None
    on_epoch: Callable[[int, float], bool] | None = None

    def _new_network(self) -> nn.Module:
        """`_network`, with initial weights from ``random_state``."""
        with seeded(self.random_state):
            return self._network()

    def _train(
        self,
        network: nn.Module,
        batches: CountBatches | DenseBatches,
        data: Data,
        schedule: Schedule,
        *,
        train_rows: np.ndarray,
        validation_rows: np.ndarray | None,
        validation_batches: CountBatches | DenseBatches | None = None,
        member: int = 0,
    ) -> Training:
        """Train ``network``, which becomes ``network_``.

        ``batches`` gives the training cells, ``validation_batches`` (None: ``batches``) the validation cells. Without
        ``validation_rows`` the training loss decides when to stop. ``data`` is what the batches were made from: a
        checkpoint of other data is refused. ``member`` is the number of this network among several of one estimator;
        each has its own checkpoint and shuffling.
        """
        fingerprint, folder = None, self.checkpoint
        if folder is not None:
            cells = _digest_arrays(*(rows for rows in (train_rows, validation_rows) if rows is not None))
            fingerprint = {"data": _digest(data), "cells": cells, "parameters": self.get_params()}
            folder = folder / f"network{member}" if member else folder
        held_out = batches if validation_batches is None else validation_batches
        initial = {name: value.clone() for name, value in network.state_dict().items()}
        while True:
            try:
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
            except torch.OutOfMemoryError as error:
                _halve(batches, held_out, error)
                network.load_state_dict(initial)
            else:
                self.network_ = network
                return training


def _halve(batches: CountBatches | DenseBatches, held_out: CountBatches | DenseBatches, error: Exception) -> None:
    """Make the batches half as large, because the device has no memory for them; an error if they are small already."""
    size = batches.batch_size // 2
    if size < SMALLEST_BATCH:
        text = f"the device has no memory for batches of {batches.batch_size} cells: pass {{device}}"
        raise InputError(text, code="device-memory", device="cpu") from error
    batches.batch_size = held_out.batch_size = size
    torch.cuda.empty_cache()
    text = f"the device has no memory for batches of {2 * size} cells, so the network is trained on batches of {size}"
    warnings.warn(Message(text, code="batches-halved"), stacklevel=2)


def split_cells(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions of n cells for training and, a random ``share``, for validation.

    There is at least one validation cell, and there are at least two training cells; if n is 2, both cells are used for
    both.
    """
    if not 0 < share < 1:
        raise wrong_parameter("validation_share", share, "must be between 0 and 1")
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
