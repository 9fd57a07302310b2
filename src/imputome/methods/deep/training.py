"""The one training loop of the deep methods: early stopping, best weights, checkpoints. Knows no model.

Letters: ``e`` an epoch, counted from 1; ``P`` the parameters of the network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from imputome.errors import InputError
from imputome.methods.deep.checkpoints import Memory, digest, read_checkpoint, write_checkpoint
from imputome.methods.deep.schedule import CUT, CUTS, Course, Schedule, Training

__all__ = ["CUT", "CUTS", "Schedule", "Trainable", "Training", "seeded", "train"]

Epoch = Callable[[np.random.Generator], Iterable[Any]]


class Trainable(Protocol):
    """What a network offers to the loop, beside being a ``torch.nn.Module``. A batch has the length of its cells."""

    def loss_terms(self, batch: Any) -> dict[str, torch.Tensor]:
        """Named scalars, means over the cells of the batch, the same names every time; the loss is their sum."""
        ...

    def validation_loss(self, batch: Any) -> torch.Tensor:
        """Scalar: what is watched, without penalties, SUMMED over the cells of the batch."""
        ...


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generator (of the CPU) seeded inside, and as it was before outside: for making a network."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def train(
    network: nn.Module,
    *,
    epoch: Epoch,
    validation: Callable[[], Iterable[Any]] | None,
    schedule: Schedule,
    seed: int,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    fingerprint: dict[str, Any] | None = None,
    progress: Callable[[float, str], None] | None = None,
    on_epoch: Callable[[int, float], bool] | None = None,
) -> Training:
    """Train ``network``, a `Trainable`, in place; it ends in eval mode with the best weights.

    The loop is plain torch. On an accelerator it is the same loop: Lightning Fabric, whose import takes seconds and is
    done only then, places the network and steps the optimiser. A training depends on nothing but its arguments, and
    leaves torch's generators as they were.

    When a loss or a weight stops being finite, the epoch is repeated from its beginning with every batch checked, to
    say which term (or gradient) went bad where; then the state of the last good epoch is put back and the rate
    cut by `CUT`, at most `CUTS` times. Good epochs pay nothing for it but the copies below.

    Cost: beside the network, its gradients and the optimiser's moments, two copies of the network's state and one of
    the moments (with Adam, 4 x P more), refreshed once an epoch.

    Parameters
    ----------
    epoch : gives the training batches, shuffled by the generator it is handed: ``default_rng([seed, e])`` in epoch e.
    validation : gives the validation batches; None: the training loss is watched.
    seed : of the shuffling and of torch's generator (dropout); initialising the network is the caller's (`seeded`).
    device : where the batches are; the network is moved there.
    checkpoint : folder that gets a checkpoint every epoch. If it holds one, the training goes on from there, to the
        very weights that it would have had without a break; if that one had finished, nothing is trained.
    fingerprint : JSON-able description of data and parameters, by part. A checkpoint with another one is refused, as is
        that of another network, schedule, seed or device.
    progress : told the share done and where it stands, after each epoch.
    on_epoch : told e and its loss; returns True to stop.

    Raises
    ------
    TrainingError
        The loss stays infinite or NaN.
    InputError
        There are no training cells; or the checkpoint is another training's.
    """
    device = torch.device(device)
    identity = {"seed": seed, "schedule": asdict(schedule), "device": device.type, **(fingerprint or {})}
    identity = {"network": digest(network), **identity} if checkpoint is not None else identity
    network.to(device)
    loop = _Loop(network, epoch, validation, schedule, seed, device)
    course, memory = Course(), Memory(network, loop.optimizer, device)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        _seed_generators(seed, device)
        found = read_checkpoint(checkpoint, identity) if checkpoint is not None else None
        if found is None:
            memory.keep(improved=True)
        else:
            course = Course(**found[0]["course"])
            memory.load(found[1])
            memory.restore()
        while not course.ended:
            number, rate = course.epoch + 1, course.rate(schedule)
            begun = time.perf_counter()
            terms = loop.train_epoch(number, rate)
            loss = loop.validate()
            if not loop.is_finite(terms, loss):
                memory.restore()
                course.note_cut(loop.find_fault(number, rate))
                memory.restore()
                continue
            watched = sum(terms.values()) if loss is None else loss
            improved = course.end_epoch(schedule, watched)
            memory.keep(improved=improved)
            course.record(rate, terms, loss, time.perf_counter() - begun)
            if checkpoint is not None:
                header = {"epoch": number, "fingerprint": identity, "course": asdict(course)}
                write_checkpoint(checkpoint, header, memory.tensors())
            if progress is not None:
                done = number / schedule.max_epochs
                progress(done, f"epoch {number}, loss {watched:.5g}, best {course.best_loss:.5g}")
            if on_epoch is not None and on_epoch(number, watched) and not course.ended:
                course.ended = "stopped"
    network.load_state_dict(memory.best if schedule.restore_best else memory.last)
    network.eval()
    return course.result()


class _NotFiniteError(Exception):
    """Raised while a bad epoch is repeated: says what is not finite."""


class _Loop:
    """The mechanics: a pass over the training batches, a pass over the validation batches."""

    def __init__(
        self,
        network: nn.Module,
        epoch: Epoch,
        validation: Callable[[], Iterable[Any]] | None,
        schedule: Schedule,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network, self.epoch, self.validation = network, epoch, validation
        self.schedule, self.seed, self.device = schedule, seed, device
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = _optimizer(self.parameters, schedule)
        self.loss_terms: Callable[[Any], dict[str, torch.Tensor]] = network.loss_terms  # type: ignore[assignment]
        self.backward: Callable[[torch.Tensor], None] = torch.Tensor.backward
        self.step: Callable[[], Any] = self.optimizer.step
        if device.type != "cpu":
            self._use_fabric()

    def _use_fabric(self) -> None:
        from lightning.fabric import Fabric

        devices = 1 if self.device.index is None else [self.device.index]
        fabric = Fabric(accelerator=self.device.type, devices=devices)
        module, optimizer = fabric.setup(self.network, self.optimizer)
        module.mark_forward_method("loss_terms")
        self.loss_terms, self.backward, self.step = module.loss_terms, fabric.backward, optimizer.step

    def train_epoch(self, number: int, rate: float, *, checked: bool = False) -> dict[str, float]:
        """One pass over the training cells; the mean of each loss term over the cells.

        The terms stay on the device until the end, so that no step waits for the one before.
        """
        schedule = self.schedule
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        names: list[str] = []
        values, sizes = [], []
        for place, batch in enumerate(self.epoch(np.random.default_rng([self.seed, number])), 1):
            self.optimizer.zero_grad(set_to_none=True)
            terms = self.loss_terms(batch)
            names = list(terms)
            stacked = torch.stack(tuple(terms.values()))  # (terms,)
            if checked:
                _check("the loss term", terms, f"in epoch {number}, batch {place}")
            self.backward(stacked.sum())
            if checked:
                gradients = {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}
                _check("the gradient of", gradients, f"in epoch {number}, batch {place}")
            if schedule.clip_value is not None:
                nn.utils.clip_grad_value_(self.parameters, schedule.clip_value)
            if schedule.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, schedule.clip_norm)
            self.step()
            values.append(stacked.detach())
            sizes.append(len(batch))
        if not sizes:
            raise InputError("there are no cells to train on")
        means = np.average(torch.stack(values).cpu().double().numpy(), axis=0, weights=sizes)
        return dict(zip(names, means.tolist(), strict=True))

    def validate(self) -> float | None:
        """The mean validation loss over the validation cells."""
        if self.validation is None:
            return None
        self.network.eval()
        with torch.no_grad():
            sums, cells = [], 0
            for batch in self.validation():
                sums.append(self.network.validation_loss(batch))  # type: ignore[operator]
                cells += len(batch)
        if not cells:
            raise InputError("there are no cells to validate on")
        return float(torch.stack(sums).cpu().double().sum()) / cells

    def is_finite(self, terms: dict[str, float], loss: float | None) -> bool:
        """Whether all losses and weights are finite; a sum for each tensor of weights, once an epoch, is enough."""
        if not all(map(math.isfinite, terms.values())) or not math.isfinite(loss or 0.0):
            return False
        sums = torch.stack([parameter.detach().sum().float() for parameter in self.parameters])
        return bool(torch.isfinite(sums).all())

    def find_fault(self, number: int, rate: float) -> str:
        """Repeat an epoch with every batch checked, up to what is not finite, and name that."""
        try:
            self.train_epoch(number, rate, checked=True)
            _check("the weight", dict(self.network.named_parameters()), f"after epoch {number}")
        except _NotFiniteError as fault:
            return str(fault)
        return f"the validation loss in epoch {number}"


def _optimizer(parameters: list[nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    rate = schedule.learning_rate
    if schedule.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, fused=True)
    if schedule.optimizer == "adamw":
        # the decay is for weights: biases and scales stay where the data put them
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    return torch.optim.RMSprop(parameters, lr=rate, alpha=0.9, eps=1e-7)


def _check(what: str, tensors: dict[str, torch.Tensor], where: str) -> None:
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise _NotFiniteError(f"{what} {name!r} {where}")


def _seed_generators(seed: int, device: torch.device) -> None:
    own = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])  # other draws than the initialisation's
    torch.default_generator.manual_seed(own)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(own)
