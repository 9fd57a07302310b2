"""The training loop of all deep methods: learning rate, early stopping, best weights, checkpoints, repairs.

The loop knows no model. A pass takes each training cell once. An epoch is a pass, or, if a schedule limits its steps
and a pass has more, that many batches: the next epoch goes on with the cells that are left. Letters: ``e`` number of an
epoch, from 1; ``P`` number of parameters of the network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from imputome.core.imputation import Status
from imputome.errors import InputError, TrainingError
from imputome.methods.deep.checkpoints import Snapshots, digest, read_checkpoint, write_checkpoint

MAX_RATE_CUTS = 3  # times that a training is repaired before it is given up
RATE_CUT = 0.25  # factor of the learning rate at each repair

# gives the training batches of one pass, shuffled with the generator
TrainingBatches = Callable[[np.random.Generator], Iterable[Any]]


@dataclass(frozen=True)
class Schedule:
    """How long, and at which learning rate, a network is trained.

    "The loss" is the validation loss, or the training loss if there are no validation cells. RMSprop is that of Keras,
    for which DCA was written (smoothing 0.9, epsilon 1e-7); the other optimisers are torch's.
    """

    max_epochs: int = 500
    steps_per_epoch: int | None = None  # most batches of an epoch; None: an epoch is a pass over the training cells
    optimizer: Literal["adam", "adamw", "rmsprop"] = "adam"
    learning_rate: float = 1e-3  # of the first epoch
    weight_decay: float = 0.0  # decoupled, of weight matrices, not of biases and scales; "adamw" only
    decay: float = 1.0  # in epoch e the rate is multiplied by decay**(e - 1), up to epoch decay_epochs
    decay_epochs: int = 0  # later epochs keep the last rate
    # after decay_epochs: when more than plateau_patience epochs in a row have not lowered the loss (by more than
    # plateau_threshold of its size), the rate is multiplied by plateau_factor; None: never
    plateau_patience: int | None = None
    plateau_factor: float = 0.1
    plateau_threshold: float = 1e-3
    least_scale: float = 0.0  # training stops when plateaus would bring the rate below this share of its other factors
    patience: int | None = 20  # epochs without improvement before training stops; None: never
    patience_from: int = 0  # epochs up to this one do not count for patience
    clip_value: float | None = None  # largest absolute value of each entry of the gradient
    restore_best: bool = True  # end with the weights of the lowest loss, not with the last ones
    start_counts: bool = False  # the initial weights are a candidate for the best ones, if there are validation cells

    def __post_init__(self) -> None:
        if self.optimizer not in ("adam", "adamw", "rmsprop"):
            raise wrong_parameter("optimizer", self.optimizer, "must be adam, adamw or rmsprop")
        check_values(
            self,
            POSITIVE,
            "max_epochs",
            "steps_per_epoch",
            "learning_rate",
            "decay",
            "plateau_factor",
            "patience",
            "clip_value",
        )
        if self.weight_decay and self.optimizer != "adamw":
            raise wrong_parameter("weight_decay", self.weight_decay, "needs the optimizer adamw")


def wrong_parameter(name: str, value: object, rule: str) -> InputError:
    """The error for a parameter of a deep method; ``rule`` is what its value must be."""
    return InputError(f"{name}={value!r} {rule}", code="parameter-value", parameter=name)


# rules for numbers: the text for the error, and the test
Rule = tuple[str, Callable[[float], bool]]
POSITIVE: Rule = ("must be positive", lambda value: value > 0)
NOT_NEGATIVE: Rule = ("must not be negative", lambda value: value >= 0)
SHARE: Rule = ("must be at least 0 and below 1", lambda value: 0 <= value < 1)


def check_values(settings: object, rule: Rule, *names: str) -> None:
    """Check the parameters of these names, which may be None, by a rule."""
    text, holds = rule
    for name in names:
        value = getattr(settings, name)
        if value is not None and not holds(value):
            raise wrong_parameter(name, value, text)


@dataclass(frozen=True)
class Training:
    """The outcome of a training.

    The status is ``"converged"`` (stopped early), ``"max_iter"`` or ``"stopped"`` (by the caller). Its message lists
    repairs; its ``details`` hold ``epochs``, ``best_epoch``, ``validation_loss``, ``train_seconds`` and ``rate_cuts``.
    The history has one value per epoch: ``epoch``, ``learning_rate``, ``train_<term>`` for each loss term,
    ``train_loss``, ``validation_loss`` (if there are validation cells), ``seconds``.
    """

    status: Status
    history: dict[str, list[float]]
    best_epoch: int  # with the lowest loss
    best_loss: float


@dataclass
class TrainingState:
    """How far a training has come: plain values, which a checkpoint stores as JSON."""

    epoch: int = 0
    passes: int = 0  # over all training cells, those that are complete
    batches: int = 0  # that the pass which is not complete has given
    best_epoch: int = 0
    best_loss: float = math.inf
    plateau_loss: float | None = None
    plateau_epochs: int = 0
    scale: float = 1.0  # factor of the learning rate from plateaus and repairs
    faults: list[str] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict)
    ended: str = ""

    def check(self) -> None:
        """Raise a `ValueError` if the values, read from a file, cannot be those of a training."""
        losses = [self.best_loss, self.plateau_loss or 0.0, *(x for values in self.history.values() for x in values)]
        if not all(map(math.isfinite, losses)):
            raise ValueError("its losses are not finite")
        lengths = {len(values) for values in self.history.values()}
        counts = 0 <= self.best_epoch <= self.epoch and self.plateau_epochs >= 0 and len(self.faults) <= MAX_RATE_CUTS
        counts &= 0 <= self.passes <= self.epoch and self.batches >= 0
        if not counts or lengths != {self.epoch} or not {"epoch", "train_loss", "seconds"} <= set(self.history):
            raise ValueError("its numbers of epochs do not agree")
        if not 0 <= self.scale <= 1 or self.ended not in ("", "converged", "max_iter"):
            raise ValueError("its learning rate or its ending is none")

    def rate(self, schedule: Schedule) -> float:
        """Learning rate of the next epoch."""
        steps = max(0, min(self.epoch, schedule.decay_epochs - 1))
        return schedule.learning_rate * schedule.decay**steps * self.scale

    def end_epoch(self, schedule: Schedule, loss: float) -> bool:
        """Count an epoch that ended with ``loss``; returns whether it is the best so far."""
        self.epoch += 1
        if schedule.plateau_patience is not None and self.epoch > schedule.decay_epochs:
            before = self.plateau_loss
            # a share of the absolute value: a loss may be negative
            if before is None or loss < before - schedule.plateau_threshold * abs(before):
                self.plateau_loss, self.plateau_epochs = loss, 0
            else:
                self.plateau_epochs += 1
            if self.plateau_epochs > schedule.plateau_patience:
                if self.scale * schedule.plateau_factor < schedule.least_scale:
                    self.ended = "converged"
                self.scale *= schedule.plateau_factor
                self.plateau_epochs = 0
        is_best = loss < self.best_loss
        if is_best:
            self.best_loss, self.best_epoch = loss, self.epoch
        epochs_without = self.epoch - max(self.best_epoch, schedule.patience_from)
        if schedule.patience is not None and epochs_without >= schedule.patience:
            self.ended = "converged"
        elif self.epoch >= schedule.max_epochs:
            self.ended = "max_iter"
        return is_best

    def cut_rate(self, fault: str) -> None:
        """Lower the learning rate because ``fault`` is not finite, or give up."""
        if len(self.faults) == MAX_RATE_CUTS:
            raise TrainingError(
                f"{fault} is not finite after {MAX_RATE_CUTS} cuts of the learning rate (the first because of "
                f"{self.faults[0]}): look for infinite or very large values, or pass a lower {{learning_rate}}",
                code="not-finite",
                learning_rate=...,
            )
        self.faults.append(fault)
        self.scale *= RATE_CUT

    def record(self, rate: float, terms: dict[str, float], loss: float | None, seconds: float) -> None:
        """Add a row to the history."""
        row = {"epoch": self.epoch, "learning_rate": rate, **{f"train_{name}": value for name, value in terms.items()}}
        row["train_loss"] = sum(terms.values())
        if loss is not None:
            row["validation_loss"] = loss
        for name, value in {**row, "seconds": seconds}.items():
            self.history.setdefault(name, []).append(value)

    def outcome(self) -> Training:
        """The outcome for the caller."""
        text = {
            "converged": f"no clear improvement any more: the best of {self.epoch} epochs is number {self.best_epoch}",
            "max_iter": f"the largest number of epochs, {self.epoch}, was reached before the loss stopped falling",
            "stopped": f"stopped by the caller after epoch {self.epoch}",
        }[self.ended]
        for fault in self.faults:
            text += f"; {fault} was not finite, so the learning rate was multiplied by {RATE_CUT:g}"
        details = {
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "validation_loss": self.best_loss,
            "train_seconds": sum(self.history["seconds"]),
            "rate_cuts": len(self.faults),
        }
        return Training(Status(self.ended, text, details), self.history, self.best_epoch, self.best_loss)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the ``with`` block and restore it after; for the weights of a new network."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def train(
    network: nn.Module,
    *,
    epoch: TrainingBatches,
    validation: Callable[[], Iterable[Any]] | None,
    schedule: Schedule,
    seed: int,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    fingerprint: dict[str, Any] | None = None,
    progress: Callable[[float, str], None] | None = None,
    on_epoch: Callable[[int, float], bool] | None = None,
) -> Training:
    """Train ``network`` in place; it ends in eval mode, with its best weights.

    The network (with its initial weights, see `seeded`) offers two functions of a batch, whose ``len`` is its cells:
    ``loss_terms`` gives named scalars, means over the cells, always the same names, and their sum is minimised;
    ``validation_loss`` gives a scalar without penalties, SUMMED over the cells, which early stopping follows.
    ``epoch`` gives the training batches; in pass p, from 1, it is called with ``default_rng([seed, p])``, to shuffle
    the cells. Unless ``schedule.steps_per_epoch`` divides the passes, pass and epoch are the same.
    ``seed`` is also that of torch's generator (dropout). The batches are on ``device``, and the network is moved there.

    The result depends on the arguments alone, and torch's generators are left as they were.

    If a loss or a weight is not finite after an epoch, the epoch is repeated from its start with every batch checked,
    to find which loss term or gradient failed, and where. Then the state of the last good epoch is restored and the
    learning rate is multiplied by `RATE_CUT`, at most `MAX_RATE_CUTS` times. Good epochs are not checked batch by
    batch.

    The folder ``checkpoint`` gets a checkpoint after every epoch. If it holds one, the training continues from it and
    ends with the same weights as without the break; a finished training is not repeated. A checkpoint of another
    network, schedule, seed, device or ``fingerprint`` (JSON-able; it describes data and parameters) is refused.
    ``progress`` is called after each epoch with the share of work done (0 to 1) and a short text, ``on_epoch`` with the
    number of the epoch and its loss; ``on_epoch`` returns True to stop.

    Cost: two copies of the network's state and one of the optimiser's (with Adam, 4 x P numbers), written once an
    epoch.
    """
    device = torch.device(device)
    identity: dict[str, Any] = {}
    if checkpoint is not None:
        identity = {"network": digest(network), "seed": seed, "schedule": asdict(schedule), "device": device.type}
        identity |= fingerprint or {}
    network.to(device)
    loop = _Loop(network, epoch, validation, schedule, seed)
    state, snapshots = TrainingState(), Snapshots(network, loop.optimizer, device)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        _seed_generators(seed, device)
        stored = None if checkpoint is None else read_checkpoint(checkpoint, identity, snapshots, TrainingState)
        if stored is None:
            snapshots.keep(improved=True)
            if schedule.start_counts and (start := loop.validate()) is not None:
                state.best_loss = start
        else:
            state = stored
            loop.cells.go_to(state.passes, state.batches)
        while not state.ended:
            number, rate = state.epoch + 1, state.rate(schedule)
            started = time.perf_counter()
            terms = loop.train_epoch(number, rate)
            validation_loss = loop.validate()
            if not loop.is_finite(terms, validation_loss):
                snapshots.restore()
                loop.cells.go_to(state.passes, state.batches)
                state.cut_rate(loop.find_fault(number, rate))
                snapshots.restore()
                loop.cells.go_to(state.passes, state.batches)
                continue
            loss = sum(terms.values()) if validation_loss is None else validation_loss
            improved = state.end_epoch(schedule, loss)
            state.passes, state.batches = loop.cells.passes, loop.cells.batches
            snapshots.keep(improved=improved)
            state.record(rate, terms, validation_loss, time.perf_counter() - started)
            if checkpoint is not None:
                # the name "course" is that of version 0.1.0
                header = {"fingerprint": identity, "course": asdict(state)}
                write_checkpoint(checkpoint, header, snapshots.tensors())
            if progress is not None:
                best = f"best {state.best_loss:.5g} in epoch {state.best_epoch}"
                text = f"epoch {number} of at most {schedule.max_epochs}, loss {loss:.5g}, {best}"
                progress(number / schedule.max_epochs, text)
            if on_epoch is not None and on_epoch(number, loss) and not state.ended:
                state.ended = "stopped"
    network.load_state_dict(snapshots.best if schedule.restore_best else snapshots.last)
    network.eval()
    return state.outcome()


class _Epochs:
    """The training batches, epoch after epoch: each is a pass over the cells, or ``largest`` batches if it has more.

    An epoch that ends within a pass leaves the rest to the next one, which goes on with another pass when that ends. So
    each cell is used once before any is used again.
    """

    def __init__(self, epoch: TrainingBatches, seed: int, largest: int | None) -> None:
        self.epoch, self.seed, self.largest = epoch, seed, largest
        self.go_to(0, 0)

    def go_to(self, passes: int, batches: int) -> None:
        """The next epoch begins after so many complete passes, and so many batches of the next pass."""
        self.passes, self.batches = passes, batches
        self._left: Iterator[Any] = islice(self._shuffled(), batches, None)

    def _shuffled(self) -> Iterator[Any]:
        yield from self.epoch(np.random.default_rng([self.seed, self.passes + 1]))

    def next(self) -> Iterator[Any]:
        """The batches of the next epoch."""
        steps = 0
        while self.largest is None or steps < self.largest:
            for batch in self._left:
                self.batches += 1
                steps += 1
                yield batch
                break
            else:
                is_whole = self.batches == steps
                self.go_to(self.passes + 1, 0)
                if is_whole:
                    return


class _Loop:
    """One epoch of training, one pass over the validation batches, and the checks."""

    def __init__(
        self,
        network: nn.Module,
        epoch: TrainingBatches,
        validation: Callable[[], Iterable[Any]] | None,
        schedule: Schedule,
        seed: int,
    ) -> None:
        self.network, self.validation, self.clip_value = network, validation, schedule.clip_value
        self.cells = _Epochs(epoch, seed, schedule.steps_per_epoch)
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = _optimizer(self.parameters, schedule)

    def train_epoch(self, number: int, rate: float, faults: list[str] | None = None) -> dict[str, float]:
        """One epoch of training; returns the mean of each loss term over the cells.

        The terms stay on the device until the end, so that no step waits for the one before. With ``faults`` every
        batch is checked, and what is not finite is added to this list.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        terms: dict[str, torch.Tensor] = {}
        values, sizes = [], []
        for place, batch in enumerate(self.cells.next(), 1):
            self.optimizer.zero_grad(set_to_none=True)
            terms = self.network.loss_terms(batch)  # type: ignore[operator]
            stacked = torch.stack(tuple(terms.values()))  # (terms,)
            stacked.sum().backward()
            if faults is not None:
                gradients = {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}
                faults += _not_finite("the loss term", terms, f"in epoch {number}, batch {place}")
                faults += _not_finite("the gradient of", gradients, f"in epoch {number}, batch {place}")
            if self.clip_value is not None:
                nn.utils.clip_grad_value_(self.parameters, self.clip_value)
            self.optimizer.step()
            values.append(stacked.detach())
            sizes.append(len(batch))
        if not sizes:
            raise InputError("there are no cells to train on", code="no-training-cells")
        means = np.average(torch.stack(values).cpu().double().numpy(), axis=0, weights=sizes)  # (terms,)
        return dict(zip(terms, means.tolist(), strict=True))

    def validate(self) -> float | None:
        """Mean validation loss over the validation cells; None if there are none."""
        if self.validation is None:
            return None
        self.network.eval()
        with torch.no_grad():
            sums, cells = [], 0
            for batch in self.validation():
                sums.append(self.network.validation_loss(batch))  # type: ignore[operator]
                cells += len(batch)
        if not cells:
            raise InputError("there are no cells to validate on", code="no-validation-cells")
        return float(torch.stack(sums).cpu().double().sum()) / cells

    def is_finite(self, terms: dict[str, float], loss: float | None) -> bool:
        """Whether all losses and weights are finite; the sum of each weight tensor is enough to see that."""
        if not all(map(math.isfinite, terms.values())) or not math.isfinite(loss or 0.0):
            return False
        sums = torch.stack([parameter.detach().sum().float() for parameter in self.parameters])
        return bool(torch.isfinite(sums).all())

    def find_fault(self, number: int, rate: float) -> str:
        """Repeat an epoch with every batch checked, and name the first thing that is not finite."""
        faults: list[str] = []
        self.train_epoch(number, rate, faults)
        faults += _not_finite("the weight", dict(self.network.named_parameters()), f"after epoch {number}")
        return faults[0] if faults else f"the validation loss in epoch {number}"


def _optimizer(parameters: list[nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    rate = schedule.learning_rate
    if schedule.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, fused=True)
    if schedule.optimizer == "adamw":
        # biases and scales do not decay: their level comes from the data
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    return torch.optim.RMSprop(parameters, lr=rate, alpha=0.9, eps=1e-7)


def _not_finite(what: str, tensors: dict[str, torch.Tensor], where: str) -> list[str]:
    return [f"{what} {name!r} {where}" for name, value in tensors.items() if not torch.isfinite(value).all()]


def _seed_generators(seed: int, device: torch.device) -> None:
    training_seed = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])  # not that of the initial weights
    torch.default_generator.manual_seed(training_seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(training_seed)
