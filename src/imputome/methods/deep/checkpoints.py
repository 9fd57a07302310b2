"""The state of a training: copies in memory, and checkpoints on disk.

A checkpoint is a folder with ``checkpoint.json`` and one safetensors file; no pickle.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from imputome.core.atomic import atomic_path
from imputome.errors import InputError, ModelFormatError

CHECKPOINT_FORMAT = "imputome-checkpoint"
CHECKPOINT_VERSION = 1
CHECKPOINT_HEADER = "checkpoint.json"


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
        """Take the copies that `tensors` gave."""
        parts = _by_prefix(tensors)
        for name, value in parts["network"].items():
            self.last[name].copy_(value)
        self.best = self.last
        if "best" in parts:
            self.best = self._other
            for name, value in parts["best"].items():
                self.best[name].copy_(value)
        self.moments, self.generators = parts.get("optimizer", {}), parts["generator"]


def write_checkpoint(folder: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Replace the checkpoint in ``folder``, so that the folder holds a complete one at every moment.

    The tensors (contiguous, sharing no memory) go to a new file, named by ``header["epoch"]``. Then the new header
    (JSON-able) is moved onto the old one, and only then the older tensors are deleted; so there are at most two files
    of tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _tensors_path(folder, header["epoch"])
    with atomic_path(path) as partial:
        save_file(tensors, partial)
    text = json.dumps({"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION, **header}, allow_nan=False)
    with atomic_path(folder / CHECKPOINT_HEADER) as partial:
        partial.write_text(text, encoding="utf-8")
    for older in folder.glob("epoch-*.safetensors"):
        if older != path:
            older.unlink()


def read_checkpoint(folder: Path, fingerprint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """Header and tensors (on the CPU) of the checkpoint in ``folder``; None if there is none.

    ``fingerprint`` describes the present training by part; that in the header must be equal.
    """
    path = folder / CHECKPOINT_HEADER
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} is damaged ({error}): delete {folder}", code="checkpoint-damaged") from error
    if not isinstance(header, dict) or header.get("format") != CHECKPOINT_FORMAT:
        raise ModelFormatError(f"{path} is not a checkpoint: choose another folder", code="not-a-checkpoint")
    if header.get("version") != CHECKPOINT_VERSION:
        raise ModelFormatError(
            f"{folder} has checkpoint version {header.get('version')}, not {CHECKPOINT_VERSION}: delete it",
            code="checkpoint-version",
        )
    stored, expected = header["fingerprint"], json.loads(json.dumps(fingerprint))
    different = [name for name in {**expected, **stored} if expected.get(name) != stored.get(name)]
    if different:
        raise InputError(
            f"{folder} has a checkpoint of another training (different: {', '.join(different)}): choose another folder",
            code="checkpoint-mismatch",
        )
    try:
        return header, load_file(_tensors_path(folder, header["epoch"]))
    except (OSError, SafetensorError) as error:
        raise ModelFormatError(f"{folder} is damaged ({error}): delete it", code="checkpoint-damaged") from error


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


def _tensors_path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:06d}.safetensors"


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states
