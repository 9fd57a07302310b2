"""When to stop, at which rate to train, and what a training leaves behind: plain numbers, no network.

Letters: ``e`` an epoch, counted from 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from imputome.errors import InputError, TrainingError
from imputome.methods.base import Status

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
