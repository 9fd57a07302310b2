"""What an imputation will read, hold in memory and write, estimated before any of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from imputome.api.plan import Plan
from imputome.core.data import Data
from imputome.core.imputer import TRAINING_CELLS
from imputome.core.many_cells import MANY_CELLS
from imputome.errors import InputError, Message
from imputome.inspection.advice import copula_seconds
from imputome.io.integrity import size_text
from imputome.methods import DEFAULT, info

# measured on up to 100,000 cells x 2,000 genes: what the libraries take, and what fits take for each nonzero count that
# they learn from (methods that keep counts sparse: 30 to 60), or for each real value (mean 16, knn 28, svd 43, ppca 60)
LIBRARIES = 600 * 2**20
PER_NONZERO, PER_REAL_VALUE = 100, 60
PER_PAIR = 12  # of cells and genes, for methods that compare all cells with each other
WINDOWS = 256 * 2**20  # of counts that stay on the disk
LEAST_TRAINING_CELLS = 5000
# seconds of one core for each cell and gene that a fit learns from (of at most `MANY_CELLS` cells), and for each whose
# value is computed: measured on simulated counts of 10,000 to 1,000,000 cells x 2,000 genes, on a busy machine
SECONDS = {"poisson_nmf": (2e-7, 2.5e-8), "count_autoencoder": (1e-6, 1e-7)}


@dataclass(frozen=True)
class Costs:
    """What an imputation will take; sizes in bytes."""

    read: int  # of the matrix, in memory or on the disk
    stays_stored: bool  # whether the matrix is read in windows
    cells: int
    training_cells: int
    memory: int  # estimate for the whole process
    seconds: float | None  # of one core, estimate; None if it is not known for the method
    written: int  # new values, before compression
    free_disk: int | None  # where they go; None if they go nowhere

    def lines(self) -> list[str]:
        """The costs in sentences."""
        place = ", stays on the disk, and is read in windows of rows" if self.stays_stored else " in memory"
        lines = [f"the matrix takes {size_text(self.read)}{place}"]
        if self.training_cells < self.cells:
            lines.append(f"the fit learns from {self.training_cells:,} of {self.cells:,} cells, and all are imputed")
        lines.append(f"memory: about {size_text(self.memory)} (an estimate from measured fits)")
        if self.seconds is not None:
            lines.append(f"time: about {_time(self.seconds)} of one core, of which several may be used")
        disk = "" if self.free_disk is None else f", and the disk has {size_text(self.free_disk)} free"
        lines.append(f"new values: {size_text(self.written)} before compression{disk}")
        return lines


def costs_of(plan: Plan, output: Path | None = None) -> Costs:
    """Estimate what a plan of `imputome.api.plan.plan_impute` takes, with the values written to ``output``."""
    data = plan.data
    n, G = data.shape
    training = _training_cells(plan)
    genes = G if plan.columns is None else len(plan.columns)
    folder = None if output is None else output.resolve().parent
    return Costs(
        read=_matrix_bytes(data),
        stays_stored=not data.in_memory,
        cells=n,
        training_cells=training,
        memory=_memory(data, plan, training),
        seconds=_seconds(plan, training),
        written=4 * n * genes * (1 + len(plan.outputs)),
        free_disk=None if folder is None else shutil.disk_usage(folder).free,
    )


def within_memory(plan: Plan, limit: int) -> Plan:
    """The plan with so few training cells that its estimate keeps to ``limit`` bytes; an error if none are enough.

    A message says what was changed.
    """
    n, training = plan.data.shape[0], _training_cells(plan)
    needed = _memory(plan.data, plan, training)
    if needed <= limit:
        return plan
    if _can_learn_from_some(plan):
        fixed = _memory(plan.data, plan, 0)
        fewer = int((limit - fixed) / max(1, (needed - fixed) / training))
        if fewer >= min(LEAST_TRAINING_CELLS, n):
            text = f"the fit learns from {fewer:,} of {n:,} cells, to keep to {size_text(limit)} of memory; for the "
            text += "same result elsewhere, pass {training_cells}"
            message = Message(text, code="fewer-training-cells", training_cells=fewer)
            options = replace(plan.options, training_cells=fewer)
            return replace(plan, options=options, messages=(*plan.messages, message))
    text = f"this would take about {size_text(needed)} of memory, more than {size_text(limit)}: pass a larger "
    text += "{max_memory}, or another {method}"
    raise InputError(text, code="over-max-memory", max_memory=..., method=...)


def _training_cells(plan: Plan) -> int:
    n = plan.data.shape[0]
    most = plan.options.training_cells or TRAINING_CELLS
    return min(n, most) if _can_learn_from_some(plan) else n


def _can_learn_from_some(plan: Plan) -> bool:
    about = info(DEFAULT[plan.report.kind]) if plan.estimator is None else plan.estimator.info
    return plan.data.kind == "counts" and about.new_rows in ("exact", "projection")


def _matrix_bytes(data: Data) -> int:
    return 8 * int(data.X.nnz) if data.kind == "counts" else int(data.X.nbytes)


def _memory(data: Data, plan: Plan, training: int) -> int:
    n, G = data.shape
    if data.kind == "real":
        return LIBRARIES + PER_REAL_VALUE * n * G
    held = _matrix_bytes(data) if data.in_memory else WINDOWS
    if _can_learn_from_some(plan):
        return LIBRARIES + held + PER_NONZERO * int(data.X.nnz * training / n)
    return LIBRARIES + 8 * int(data.X.nnz) + PER_PAIR * n * G


def _seconds(plan: Plan, training: int) -> float | None:
    """Seconds of one core, for methods whose time was measured."""
    n, G = plan.data.shape
    name = "" if plan.estimator is None else plan.estimator.name
    if name == "gaussian_copula":
        return copula_seconds(n, G)
    if name not in SECONDS:
        return None
    learning, computing = SECONDS[name]
    return learning * min(training, MANY_CELLS) * G + computing * n * G


def _time(seconds: float) -> str:
    return f"{max(10, round(seconds, -1)):.0f} seconds" if seconds < 90 else f"{round(seconds / 60):,} minutes"
