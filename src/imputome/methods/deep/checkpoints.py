"""Checkpoints of a training: a folder with ``checkpoint.json`` and one safetensors file. Nothing in it is unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from imputome.errors import InputError, ModelFormatError

FORMAT = "imputome-checkpoint"
VERSION = 1
HEADER = "checkpoint.json"


class Memory:
    """Copies of the state after the last good epoch, and of the best weights."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.network, self.optimizer, self.device = network, optimizer, device
        self.last, self._other = (
            {name: value.clone() for name, value in network.state_dict().items()} for _ in range(2)
        )
        self.best = self.last
        self.moments: dict[str, torch.Tensor] = {}  # by "<number of the parameter>.<name>"
        self.generators: dict[str, torch.Tensor] = {}

    def keep(self, *, improved: bool) -> None:
        """Copy the state as it is; with ``improved`` it is the best too, and needs no second copy."""
        if self.last is self.best:
            self.last, self._other = self._other, self.last
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.last[name].copy_(value)
            for key, value in self._live_moments():
                if key in self.moments:
                    self.moments[key].copy_(value)
                else:
                    self.moments[key] = value.clone()
        self.generators = _generators(self.device)
        if improved:
            self.best = self.last

    def restore(self) -> None:
        """Put the state after the last good epoch back."""
        self.network.load_state_dict(self.last)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in self.moments.items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(self.generators["cpu"])
        if "cuda" in self.generators:
            torch.cuda.set_rng_state(self.generators["cuda"], self.device)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it for a checkpoint; the best weights only where they are not the last."""
        parts = {"network": self.last, "optimizer": self.moments, "generator": self.generators}
        if self.best is not self.last:
            parts["best"] = self.best
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            part, name = key.split(".", 1)
            parts.setdefault(part, {})[name] = value
        for name, value in parts["network"].items():
            self.last[name].copy_(value)
        self.best = self.last
        if "best" in parts:
            self.best = self._other
            for name, value in parts["best"].items():
                self.best[name].copy_(value)
        self.moments, self.generators = parts.get("optimizer", {}), parts["generator"]

    def _live_moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        # numbered as the optimiser's own state_dict does: through all groups
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                yield f"{number}.{name}", value


def write_checkpoint(folder: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Put a checkpoint in the place of the one before, so that the folder holds a whole one at every moment.

    The tensors go to a file named by the epoch; the header, which says the epoch, is then moved onto the old one, and
    only after that the older tensors are deleted. The folder never holds more than two files of tensors. Nothing is
    forced to the disk, so that this is safe against the death of the process, not against a power cut.

    Parameters
    ----------
    folder : made if it is not there; one training at a time.
    header : JSON-able; ``header["epoch"]`` names the file of tensors.
    tensors : contiguous, none sharing memory with another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _tensors_path(folder, header["epoch"])
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)
    text = json.dumps({"format": FORMAT, "version": VERSION, **header}, allow_nan=False)
    partial = folder / "header.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / HEADER)
    for old in (*folder.glob("epoch-*.safetensors"), *folder.glob("*.partial")):
        if old != path:
            old.unlink()


def read_checkpoint(folder: Path, fingerprint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """Header and tensors (on CPU) of the checkpoint in ``folder``; None if there is none.

    Raises
    ------
    InputError
        The checkpoint belongs to another training: ``header["fingerprint"]`` differs from ``fingerprint``.
    ModelFormatError
        It is damaged or of another format version.
    """
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelFormatError(f"{folder / HEADER} cannot be read ({error}): delete {folder} to start anew") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFormatError(f"{folder / HEADER} is no checkpoint of imputome: choose another folder")
    if header.get("version") != VERSION:
        raise ModelFormatError(
            f"{folder} has checkpoint version {header.get('version')}, this version of imputome reads {VERSION}: "
            "delete it to start anew"
        )
    stored, wanted = header["fingerprint"], json.loads(json.dumps(fingerprint))
    other = [name for name in {**wanted, **stored} if wanted.get(name) != stored.get(name)]
    if other:
        raise InputError(
            f"the checkpoint in {folder} belongs to another training: its {', '.join(other)} "
            f"{'differs' if len(other) == 1 else 'differ'}; choose another folder, or delete it to start anew"
        )
    try:
        return header, load_file(_tensors_path(folder, header["epoch"]))
    except (OSError, SafetensorError) as error:
        raise ModelFormatError(f"the checkpoint in {folder} is damaged ({error}): delete it to start anew") from error


def digest(network: nn.Module) -> str:
    """A fingerprint of a network: its parts and every value of its state."""
    known = hashlib.blake2b(repr(network).encode(), digest_size=16)
    for name, value in network.state_dict().items():
        known.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        known.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return known.hexdigest()


def _tensors_path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:06d}.safetensors"


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states
