"""Trains a model of scvi-tools and leaves no traces: no files, no output, no changed settings or random generators.

scvi-tools trains with Lightning, which logs to the terminal, seeds every generator there is, and answers Ctrl-C by
ending the program.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

PATIENCE = 45  # epochs without improvement before training stops; the default of scvi-tools
LOGGERS = ("scvi", "lightning.pytorch", "lightning.fabric")
VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "XLA_FLAGS")  # of the environment, set with a seed


@contextmanager
def seeded_by_scvi(seed: int) -> Iterator[None]:
    """Inside the block scvi-tools has this seed; after it all random generators and settings are as before."""
    import scvi

    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    before, environment = scvi.settings.seed, {name: os.environ.get(name) for name in VARIABLES}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices):
        try:
            scvi.settings.seed = seed
            yield
        finally:
            scvi.settings.seed = before  # seeds the generators again
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def silenced() -> Iterator[None]:
    """Inside the block, messages and warnings of scvi-tools and Lightning are not shown, errors are."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    runner = sys.modules.get("scvi.train._trainrunner")  # prints each exception that ends a training
    try:
        if runner is not None:
            vars(runner)["print"] = lambda *_: None
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(scvi|lightning|torch)\b")
            yield
    finally:
        if runner is not None:
            vars(runner).pop("print", None)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Signals in the block do what they did before: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the program.

    Lightning alone would end the program after Ctrl-C, ignore the next one, and end with success after SIGTERM.
    """
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if in_main and handlers[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)  # Lightning calls the handler that is there after its own
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise
    finally:
        if in_main:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _end(number: int, frame: object) -> None:
    """What the system does if there is no handler."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def train(
    model: Any,
    *,
    max_epochs: int | None,
    early_stopping: bool,
    batch_size: int,
    learning_rate: float,
    device: torch.device,
    told: Callable[[float, str], None],
) -> tuple[dict[str, list[float]], bool]:
    """Train ``model``, a `scvi.model.SCVI`, with the settings of scvi-tools where none are given here.

    It ends with the weights of the last epoch, as scvi-tools does. With ``early_stopping`` training ends when the ELBO
    of the validation cells (10 %) has not improved for `PATIENCE` epochs; below 10 cells there are none, and it does
    not. Call it inside `seeded_by_scvi`.

    Parameters
    ----------
    model : scvi.model.SCVI
        Not trained yet; at least 2 cells.
    max_epochs : int or None
        None: 400, or fewer if there are more than 20,000 cells (8 million over the number of cells).
    early_stopping : bool
        Whether to watch validation cells.
    batch_size : int
        Cells of a batch.
    learning_rate : float
        Of Adam.
    device : torch.device
        Where to train.
    told : callable
        Called after each epoch with the share of work done and a text; it can raise to end the training.

    Returns
    -------
    history : dict of str to list of float
        One value per epoch: ``epoch``, ``train_loss`` (negative ELBO with its KL weight), and with early stopping
        ``validation_loss`` (negative ELBO).
    stopped : bool
        Whether early stopping ended the training.
    """
    from lightning.pytorch.callbacks import Callback, EarlyStopping

    class Reporter(Callback):
        """Says how far the training is."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            done, last = trainer.current_epoch + 1, trainer.max_epochs
            loss = trainer.callback_metrics.get("elbo_validation")
            text = f"epoch {done} of at most {last}" + ("" if loss is None else f", loss {float(loss):.5g}")
            told(done / last, text)

    n = model.adata.n_obs
    # the callback that scvi-tools would make prints why it stopped
    stopper = EarlyStopping("elbo_validation", patience=PATIENCE) if early_stopping and n >= 10 else None
    with silenced(), interruptible():
        model.train(
            max_epochs=max_epochs,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            train_size=1.0 if n == 2 else None,  # its own rule would leave no cell to train on
            batch_size=batch_size,
            plan_kwargs={"lr": learning_rate},
            check_val_every_n_epoch=None if stopper is None else 1,
            callbacks=[Reporter()] if stopper is None else [stopper, Reporter()],
            enable_progress_bar=False,
        )
    stopped = stopper is not None and stopper.stopped_epoch > 0
    losses = {
        name: [float(value) for value in model.history[key].iloc[:, 0]]
        for name, key in (("train_loss", "train_loss"), ("validation_loss", "elbo_validation"))
        if key in model.history
    }
    return {"epoch": [float(k + 1) for k in range(len(losses["train_loss"]))], **losses}, stopped
