"""The one training loop of the deep methods: early stopping, best weights, checkpoints. Knows no model.

Letters: ``e`` an epoch, counted from 1; ``P`` the parameters of the network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from imputome.core.imputation import Status
from imputome.errors import InputError, TrainingError
from imputome.methods.deep.checkpoints import Memory, digest, read_checkpoint, write_checkpoint

CUTS = 3  # how often a training that went bad is repaired
CUT = 0.25  # factor of the learning rate each time


@dataclass(frozen=True)
class Schedule:
    """How long and at which rate to train.

    "The loss" is the validation loss, or the training loss where there are no validation cells.

    Parameters
    ----------
    max_epochs : at most so many epochs.
    optimizer : ``"rmsprop"`` as in Keras, where DCA was written (smoothing 0.9, epsilon 1e-7); Adam as in torch.
    learning_rate : of the first epoch.
    weight_decay : decoupled, ``"adamw"`` only, of weight matrices and not of biases and scales; a penalty in the loss
        belongs to the network.
    decay, decay_epochs : rate x ``decay**(e - 1)`` during the first ``decay_epochs`` epochs, then that of the last.
    plateau_patience : after ``decay_epochs``, once more than so many epochs in a row have not lowered the loss by the
        share ``plateau_threshold`` of its size, the rate is multiplied by ``plateau_factor``; None: never.
    patience : stop after so many epochs without improvement of the loss; None: never.
    patience_from : none of them up to this epoch is counted.
    min_improvement : share of the loss's size by which it has to fall to count as improved.
    clip_value, clip_norm : bounds of each entry of the gradient, and of its Euclidean norm.
    restore_best : end with the weights of the lowest loss, else with the last.
    """

    max_epochs: int = 500
    optimizer: Literal["adam", "adamw", "rmsprop"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    decay: float = 1.0
    decay_epochs: int = 0
    plateau_patience: int | None = None
    plateau_factor: float = 0.1
    plateau_threshold: float = 1e-3
    patience: int | None = 20
    patience_from: int = 0
    min_improvement: float = 0.0
    clip_value: float | None = None
    clip_norm: float | None = None
    restore_best: bool = True

    def __post_init__(self) -> None:
        if self.optimizer not in ("adam", "adamw", "rmsprop"):
            raise InputError(f"optimizer {self.optimizer!r} is not one of adam, adamw, rmsprop")
        for name in ("max_epochs", "learning_rate", "decay", "plateau_factor", "patience", "clip_value", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name}={value!r} must be positive")
        if self.weight_decay and self.optimizer != "adamw":
            raise InputError(f"weight_decay={self.weight_decay!r} needs the optimizer adamw, not {self.optimizer}")


@dataclass(frozen=True)
class Training:
    """What came of a training.

    Attributes
    ----------
    status : ``"converged"`` (stopped early), ``"max_iter"`` or ``"stopped"`` (by the callback); the message tells of
        repairs, ``details`` holds ``epochs``, ``best_epoch``, ``validation_loss``, ``train_seconds``, ``rate_cuts``.
    history : one value per epoch: ``epoch``, ``learning_rate``, ``train_<term>`` for each, ``train_loss``,
        ``validation_loss`` (where there is one), ``seconds``.
    best_epoch, best_loss : the epoch with the lowest loss, and that loss.
    """

    status: Status
    history: dict[str, list[float]]
    best_epoch: int
    best_loss: float


@dataclass
class Course:
    """How far a training has come: plain values, so that a checkpoint can hold it as JSON."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float | None = None
    improved_epoch: int = 0  # the last that improved by `min_improvement`
    improved_loss: float | None = None
    plateau_loss: float | None = None
    plateau_epochs: int = 0
    scale: float = 1.0  # of the rate, by plateaus and repairs
    faults: list[str] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict)
    ended: str = ""

    def rate(self, schedule: Schedule) -> float:
        """Learning rate of the next epoch."""
        steps = max(0, min(self.epoch, schedule.decay_epochs - 1))
        return schedule.learning_rate * schedule.decay**steps * self.scale

    def end_epoch(self, schedule: Schedule, loss: float) -> bool:
        """Count an epoch that ended with ``loss``; whether it is the best so far."""
        self.epoch += 1
        if _lower(loss, self.improved_loss, schedule.min_improvement):
            self.improved_loss, self.improved_epoch = loss, self.epoch
        if schedule.plateau_patience is not None and self.epoch > schedule.decay_epochs:
            if _lower(loss, self.plateau_loss, schedule.plateau_threshold):
                self.plateau_loss, self.plateau_epochs = loss, 0
            else:
                self.plateau_epochs += 1
            if self.plateau_epochs > schedule.plateau_patience:
                self.scale *= schedule.plateau_factor
                self.plateau_epochs = 0
        since = self.epoch - max(self.improved_epoch, schedule.patience_from)
        if schedule.patience is not None and since >= schedule.patience:
            self.ended = "converged"
        elif self.epoch >= schedule.max_epochs:
            self.ended = "max_iter"
        best = _lower(loss, self.best_loss, 0.0)
        if best:
            self.best_loss, self.best_epoch = loss, self.epoch
        return best

    def note_cut(self, fault: str) -> None:
        """Lower the rate because of ``fault``, or give up."""
        if len(self.faults) == CUTS:
            raise TrainingError(
                f"training was given up: {fault} is not finite, though the learning rate was cut {CUTS} times before "
                f"(first because of {self.faults[0]}); look for infinite or huge input values, or lower learning_rate"
            )
        self.faults.append(fault)
        self.scale *= CUT

    def record(self, rate: float, terms: dict[str, float], loss: float | None, seconds: float) -> None:
        """Add a row to the history."""
        row = {"epoch": self.epoch, "learning_rate": rate, **{f"train_{name}": value for name, value in terms.items()}}
        row["train_loss"] = sum(terms.values())
        if loss is not None:
            row["validation_loss"] = loss
        for name, value in {**row, "seconds": seconds}.items():
            self.history.setdefault(name, []).append(value)

    def result(self) -> Training:
        """What is handed to the caller."""
        text = {
            "converged": f"no improvement after epoch {self.improved_epoch} of {self.epoch}",
            "max_iter": f"still improving or within its patience after {self.epoch} epochs",
            "stopped": f"stopped by the caller after epoch {self.epoch}",
        }[self.ended]
        for fault in self.faults:
            text += f"; {fault} was not finite, so that the learning rate was cut to {CUT:g} of what it was"
        best = float("nan") if self.best_loss is None else self.best_loss
        details = {
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "validation_loss": best,
            "train_seconds": sum(self.history["seconds"]),
            "rate_cuts": len(self.faults),
        }
        return Training(Status(self.ended, text, details), self.history, self.best_epoch, best)


def _lower(loss: float, than: float | None, share: float) -> bool:
    """Whether ``loss`` is below ``than`` by a share of its size: of the size, because a loss may be negative."""
    return than is None or loss < than - share * abs(than)


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
