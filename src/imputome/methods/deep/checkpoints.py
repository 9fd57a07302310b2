"""The state of a training: copies in memory, and checkpoints on disk.

A checkpoint is one safetensors file in a folder, with a header in JSON in its metadata; no pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from imputome.core.atomic import atomic_path, recover
from imputome.core.learned import Learned, Values, array_fault
from imputome.errors import InputError, ModelFormatError, some

CHECKPOINT_FORMAT = "imputome-checkpoint"
CHECKPOINT_VERSION = 2
CHECKPOINT_FILE = "checkpoint.safetensors"
FIRST_HEADER = "checkpoint.json"  # of version 1, which had two files
# what stored numbers are, beyond finite, by the last part of their names
WEIGHT_VALUES: dict[str, Values] = {
    **dict.fromkeys(("running_var", "exp_avg_sq", "square_avg"), "not negative"),
    **dict.fromkeys(("median_library", "inverse_sd"), "positive"),  # of networks for counts
}


class Course(Protocol):
    """How far a training has come."""

    def check(self) -> None:
        """Raise a `ValueError` if the values do not fit together."""


CourseType = TypeVar("CourseType", bound=Course)


class Snapshots:
    """Copies of a training's state: all of it after the last good epoch, and the best weights.

    ``last`` and ``best`` hold weights and buffers after the last good epoch and after the best one; they are one object
    while these are the same. The rest is after the last good epoch: ``moments``, the state of the optimiser by
    ``"<number of the parameter>.<name>"``, and ``generators``, the states of the random generators by device type.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.network, self.optimizer, self.device = network, optimizer, device
        self.last, self._other = (
            {name: value.clone() for name, value in network.state_dict().items()} for _ in range(2)
        )
        self.best = self.last
        self.moments: dict[str, torch.Tensor] = {}
        self.generators: dict[str, torch.Tensor] = {}

    def keep(self, *, improved: bool) -> None:
        """Copy the present state as ``last``; with ``improved`` it is ``best`` too, without a second copy."""
        if self.last is self.best:
            self.last, self._other = self._other, self.last
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.last[name].copy_(value)
            for number, state in self.optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    key = f"{number}.{name}"
                    if key not in self.moments:
                        self.moments[key] = torch.empty_like(value)
                    self.moments[key].copy_(value)
        self.generators = _generators(self.device)
        if improved:
            self.best = self.last

    def restore(self) -> None:
        """Restore the state after the last good epoch."""
        self.network.load_state_dict(self.last)
        moments = _by_prefix({key: value.clone() for key, value in self.moments.items()})
        state = {int(number): values for number, values in moments.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(self.generators["cpu"])
        if "cuda" in self.generators:
            torch.cuda.set_rng_state(self.generators["cuda"], self.device)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All copies, for a checkpoint; the best weights only if they are not the last ones."""
        parts = {"network": self.last, "optimizer": self.moments, "generator": self.generators}
        if self.best is not self.last:
            parts["best"] = self.best
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take the copies that `tensors` gave; a `ValueError` if they are not of this network and optimiser."""
        declared = self._declared(tensors)
        if others := sorted(set(tensors) - set(declared)):
            raise ValueError(f"it holds tensors of other names: {some(others)}")
        fault = array_fault(declared, {name: _as_array(value) for name, value in tensors.items()}, n_features=0)
        if fault is not None:
            raise ValueError(fault[1])
        parts = _by_prefix(tensors)
        for name, value in parts["network"].items():
            self.last[name].copy_(value)
        self.best = self.last
        if "best" in parts:
            self.best = self._other
            for name, value in parts["best"].items():
                self.best[name].copy_(value)
        self.moments, self.generators = parts.get("optimizer", {}), parts["generator"]

    def _declared(self, tensors: Iterable[str]) -> dict[str, Learned]:
        """What the tensors of a checkpoint must be; it has the parts and the parameters of ``tensors``."""
        names = list(tensors)
        weights = self.network.state_dict()
        declared = declared_weights("network.", weights)
        if any(name.startswith("best.") for name in names):
            declared |= declared_weights("best.", weights)
        squares = ["square_avg"] if isinstance(self.optimizer, torch.optim.RMSprop) else ["exp_avg", "exp_avg_sq"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(parameters):
            prefix = f"optimizer.{number}."
            if any(name.startswith(prefix) for name in names):  # one without gradient has none
                declared |= declared_weights(prefix, dict.fromkeys(squares, parameter))
                declared[f"{prefix}step"] = Learned("", "float32", "positive")
        return declared | declared_weights("generator.", _generators(self.device))


def write_checkpoint(folder: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Replace the checkpoint in ``folder`` in one step; other files there are not touched.

    ``header`` is JSON-able; the tensors are contiguous and share no memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION, **header}, allow_nan=False)
    with atomic_path(folder / CHECKPOINT_FILE) as partial:
        try:
            save_file(tensors, partial, metadata={"header": text})
        except SafetensorError as error:  # it hides what the system said, such as that the disk is full
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(partial)) from error


def read_checkpoint(
    folder: Path, fingerprint: dict[str, Any], snapshots: Snapshots, course: type[CourseType]
) -> CourseType | None:
    """Take up the checkpoint in ``folder``: its tensors go into ``snapshots``. None if there is no checkpoint.

    ``fingerprint`` describes the present training by part; that in the header must be equal. The result is
    ``header["course"]``, as a dataclass with a method ``check``, which raises `ValueError`.
    """
    path = folder / CHECKPOINT_FILE
    if folder.is_dir():
        with suppress(OSError):  # a folder that may only be read
            recover(path)  # a training that was complete writes no more, and would leave what a killed one left
    if not path.exists():
        if (folder / FIRST_HEADER).exists():
            text = f"{folder} has a checkpoint of an earlier version: go on with that version, or choose another folder"
            raise ModelFormatError(text, code="checkpoint-version")
        return None
    header, tensors = _read(path)
    stored, expected = header["fingerprint"], json.loads(json.dumps(fingerprint))
    different = [name for name in {**expected, **stored} if expected.get(name) != stored.get(name)]
    if different:
        raise InputError(
            f"{folder} has a checkpoint of another training (different: {some(different)[:99]}): choose another folder",
            code="checkpoint-mismatch",
        )
    try:
        TypeAdapter(course).validate_json(json.dumps(header["course"]), strict=True)
        state = course(**header["course"])
        state.check()
        snapshots.load(tensors)
        snapshots.restore()
    except (ValidationError, TypeError) as error:
        raise _damaged(path, "its header does not describe a training") from error
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, str(error)[:200]) from error
    return state


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors (on the CPU) of a checkpoint."""
    if not path.is_file():
        raise ModelFormatError(f"{path} is not a file: choose another folder", code="not-a-checkpoint")
    try:
        with safe_open(path, "pt") as stored:
            header = from_json((stored.metadata() or {}).get("header", "null"), allow_inf_nan=False)
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise _damaged(path, "it is not a whole safetensors file that can be read") from error
    if not isinstance(header, dict) or header.get("format") != CHECKPOINT_FORMAT:
        raise ModelFormatError(f"{path} is not a checkpoint: choose another folder", code="not-a-checkpoint")
    if header.get("version") != CHECKPOINT_VERSION:
        text = f"{path} is of another version: go on with that version of imputome, or choose another folder"
        raise ModelFormatError(text, code="checkpoint-version")
    if not isinstance(header.get("fingerprint"), dict) or not isinstance(header.get("course"), dict):
        raise _damaged(path, "its header does not describe a training")
    return header, tensors


def _damaged(path: Path, what: str) -> ModelFormatError:
    text = f"{path} is damaged ({what}): delete it to begin again, or choose another folder"
    return ModelFormatError(text, code="checkpoint-damaged")


def declared_weights(prefix: str, weights: Mapping[str, torch.Tensor]) -> dict[str, Learned]:
    """What stored weights must be, for a network with ``weights``."""
    return {
        prefix + name: Learned(
            " ".join(map(str, value.shape)),
            str(value.dtype).removeprefix("torch."),
            WEIGHT_VALUES.get(name.rpartition(".")[2], "finite"),
        )
        for name, value in weights.items()
    }


def digest(network: nn.Module) -> str:
    """Fingerprint of a network: its layers and every value of its state."""
    fingerprint = hashlib.blake2b(repr(network).encode(), digest_size=16)
    for name, value in network.state_dict().items():
        fingerprint.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        fingerprint.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return fingerprint.hexdigest()


def _by_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors with names such as ``"prefix.name"`` as prefix -> name -> tensor."""
    nested: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        prefix, name = key.split(".", 1)
        nested.setdefault(prefix, {})[name] = value
    return nested


def _as_array(value: torch.Tensor) -> np.ndarray:
    try:
        return value.numpy()
    except TypeError:  # a type that NumPy does not have
        return np.empty(tuple(value.shape), dtype=object)


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states
