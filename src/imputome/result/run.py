"""A run: a fitted method with its lazy result and all that is worth recording."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from imputome.core.data import Data, Kind
from imputome.core.imputation import Imputation, Output, Status
from imputome.core.imputer import Imputer
from imputome.core.memory import peak_memory
from imputome.core.scales import Scale
from imputome.errors import Message
from imputome.inspection.state import InputReport
from imputome.result.record import Input, Record

LIBRARIES = ("imputome", "numpy", "scipy", "anndata")  # whose versions each record holds
Progress = Callable[[float, str], None]  # called with the share of work done (0 to 1) and a short text


@dataclass(frozen=True)
class Run:
    """A fitted method with all that is worth recording."""

    imputation: Imputation
    estimator: Imputer
    report: InputReport
    scale: Scale
    keep_observed: bool
    seconds: float
    messages: tuple[Message, ...]
    outputs: tuple[Output, ...] = ()
    peak_memory: int = 0  # largest resident memory of the process during the fit, bytes
    further: dict[str, Any] = field(default_factory=dict)  # fields of the record that only the caller knows

    @property
    def size(self) -> str:
        """Number of rows and columns in the words of the kind of data."""
        rows, columns = ("cells", "genes") if self.imputation.data.kind == "counts" else ("samples", "features")
        return f"{self.imputation.shape[0]:,} {rows} x {self.imputation.shape[1]:,} {columns}"

    def record(self) -> Record:
        """What is kept of the result."""
        result, report = self.imputation, self.report
        record = Record(
            method=self.estimator.name,
            input=_input(report, result.data.kind),
            scale=self.scale,
            params=self.estimator.get_params(),
            random_state=getattr(self.estimator, "random_state", 0),
            versions={name: version(name) for name in (*LIBRARIES, *self.estimator.libraries)},
            threads=_threads(),
            transform=self.estimator.link,
            keep_observed=self.keep_observed,
            posterior=self.estimator.posterior,
            feature_type=report.feature_type,
            left_out=report.left_out,
            unusable_cells=tuple(result.unusable.obs_names.astype(str)),
            unusable_genes=tuple(result.unusable.var_names.astype(str)),
            unusable_filled_with=result.unusable.fallback,
            seconds=self.seconds,
            peak_memory_bytes=self.peak_memory,
            convergence=result.status,
            history={name: np.asarray(values) for name, values in result.history.items()},
        )
        return replace(record.listing(result, outputs=self.outputs), **self.further)


def _input(report: InputReport, kind: Kind) -> Input:
    seed = report.rounding_seed if report.rounding else None
    return Input(report.state, kind, report.layer, report.where, report.rounding, seed, report.library_genes)


def _threads() -> int:
    """Threads that torch uses, or the libraries for linear algebra."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    return max((int(pool["num_threads"]) for pool in threadpool_info()), default=1)


def fit_run(
    estimator: Imputer,
    data: Data,
    report: InputReport,
    *,
    scale: Scale,
    keep_observed: bool | None = None,
    outputs: tuple[Output, ...] = (),
    messages: Sequence[Message] = (),
    progress: Progress | None = None,
    fit: Callable[[Data], Imputation] | None = None,
) -> Run:
    """Fit an estimator and return the lazy result; nothing is written.

    ``scale`` is that of the values that will be written, ``outputs`` what will be written beside the value,
    ``messages`` what the user should know already. ``fit`` replaces ``estimator.fit_transform``.
    """
    if progress is not None:
        progress(0.0, "")
        estimator.progress = progress
    begun = time.perf_counter()
    messages = list(messages)
    with peak_memory() as peak, warnings.catch_warnings(record=True) as caught:
        result = (fit or estimator.fit_transform)(data)
    seconds = time.perf_counter() - begun
    for warning in caught:  # of the method: said with the others, where parameters are named as the user passes them
        text = warning.message.args[0] if isinstance(warning.message, Warning) and warning.message.args else ""
        if isinstance(text, Message):
            messages.append(text)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    status = result.status
    if status.message and not status.converged and not estimator.replaced_by:
        messages.append(_ended_early(estimator, status))
    messages += replaced(estimator)
    keeps = result.keeps_observed if keep_observed is None else keep_observed
    return Run(result, estimator, report, scale, keeps, seconds, tuple(messages), outputs, peak())


def replaced(estimator: Imputer) -> list[Message]:
    """A message if something simpler than the fitted method gives the values."""
    if not estimator.replaced_by:
        return []
    why = "the method itself does not predict held-out molecules clearly better"
    text = f"{estimator.name}: all values come from {estimator.replaced_by}, because {why}"
    return [Message(text, code="method-replaced")]


def _ended_early(estimator: Imputer, status: Status) -> Message:
    """How a fit ended that did not reach its stopping rule, and how to let it go on."""
    text, code = f"{estimator.name}: {status.message}", f"fit-{status.name}"
    rounds = getattr(estimator, "max_iter", None)
    if status.name != "max_iter" or not isinstance(rounds, int):
        return Message(text, code=code)
    return Message(f"{text}: pass {{max_iter}} to let it go on for longer", code=code, max_iter=5 * rounds)
