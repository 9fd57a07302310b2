"""What the record of a result says, as (term, text) pairs for its page."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from imputome.report.html.parts import text_of
from imputome.result.record import Race, Record, Verdict

if TYPE_CHECKING:
    import pandas as pd

Terms = list[tuple[str, str]]

MAX_NAMES = 8  # of cells or genes that are named in one line
SCALES = {
    "counts": "counts at the depth of each cell",
    "normalized": "counts per 10,000 of the cell's library",
    "log1p": "natural log of 1 + counts per 10,000 of the cell's library",
    "input": "the unit of the input",
}


def facts(record: Record, *, shape: tuple[int, int], words: tuple[str, str]) -> Terms:
    """What was done; ``words`` are what rows and columns are called."""
    rows, columns = words
    ending = record.convergence
    message = ending.message or ("no iteration needed" if ending.converged else ending.name)
    terms = [
        ("Method", _method(record.method)),
        ("Input", f"{record.input.where}: {record.input.state}"),
        ("Shape", f"{shape[0]:,} {rows} x {shape[1]:,} {columns}"),
        ("Scale of the values", f"{record.scale} ({SCALES[record.scale]})"),
        ("Seed", "" if record.random_state is None else str(record.random_state)),
    ]
    if record.transform != "identity":
        terms.append(("Imputed on", f"{record.transform} of the values, given in their own unit"))
    kept = "kept as they are" if record.keep_observed else "replaced by the method's estimate"
    terms.append(("Observed values", kept))
    if record.posterior:
        terms.append(("Posterior step", "yes: combined with the cell's own counts"))
    terms += [
        ("End of the fit", message if ending.converged else f"did not converge: {message}"),
        ("Time", f"{record.seconds:.1f} s" if record.seconds < 120 else f"{record.seconds / 60:.1f} min"),
        ("Peak memory of the process", f"{record.peak_memory_bytes / 2**20:,.0f} MiB"),
    ]
    for what, names in ((rows, record.unusable_cells), (columns, record.unusable_genes)):
        terms.append((f"{what.capitalize()} without an observed value", _some(names, record.unusable_filled_with)))
    further = [*record.outputs, *([f"{record.draws} multiple imputations"] if record.draws else [])]
    if further:
        terms.append(("Further outputs", ", ".join(further)))
    return terms


def parameters(record: Record) -> Terms:
    """Parameters of the method and their values."""
    return [(name, json.dumps(value)) for name, value in record.params.items()]


def history(record: Record) -> pd.DataFrame | None:
    """A row for each step of the fit, columns of numbers only; None if there is no more than one."""
    import pandas as pd

    columns: dict[str, np.ndarray] = {}
    for name, array in record.history.items():
        if array.ndim == 1 and array.dtype.kind in "fiu" and len(array) > 1 and np.isfinite(array).any():
            columns[name] = array.astype(np.float64)
    if not set(columns) - {"epoch", "iteration", "step"}:
        return None
    length = max(map(len, columns.values()))
    return pd.DataFrame({name: values for name, values in columns.items() if len(values) == length})


def race_basis(race: Race, *, words: tuple[str, str]) -> Terms:
    """The size of the race; ``words`` are what rows and columns are called."""
    rows, columns = words
    return [
        (rows, text_of(race.cells)),
        (columns, text_of(race.genes)),
        *([] if math.isnan(race.budget_minutes) else [("minutes allowed", text_of(race.budget_minutes))]),
        ("seconds taken", text_of(race.seconds)),
        ("seed", str(race.seed)),
    ]


def verdict_basis(verdict: Verdict, *, words: tuple[str, str]) -> Terms:
    """What the verdict rests on; ``words`` are what rows and columns are called."""
    rows, columns = words
    terms = [
        ("method checked", verdict.method),
        (f"control that {columns} are compared with", verdict.reference),
        (f"{rows} in the sample", text_of(verdict.cells)),
        (columns, text_of(verdict.genes_used)),
        ("fits", text_of(verdict.fits)),
        ("seconds", text_of(verdict.seconds)),
        ("seed", str(verdict.seed)),
        ("version of the rule", verdict.rule),
        ("criteria not met", ", ".join(verdict.failed)),
    ]
    return [(term, text) for term, text in terms if text]


def _method(name: str) -> str:
    from imputome.methods import info, names

    return f"{name} ({info(name).summary})" if name in names() else name


def _some(names: tuple[str, ...], filled: str) -> str:
    """How many, and which."""
    if not names:
        return "none"
    shown = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
    return f"{len(names):,} (filled with {filled or 'a fallback'}): {shown}"
