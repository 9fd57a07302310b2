"""What a record in ``uns["imputome"]`` says, as texts and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.report.html.parts import text_of
from imputome.result.record import find_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

NAMED = 8  # cells or genes that are named in one line, at most
SCALES = {
    "counts": "counts at the depth of each cell",
    "normalized": "counts per 10,000 of the cell's library",
    "log1p": "natural log of 1 + counts per 10,000 of the cell's library",
    "input": "the unit of the input",
}


@dataclass(frozen=True)
class Verdict:
    """What the check said.

    Attributes
    ----------
    verdict : ``use``, ``use for visualisation only`` or ``do not impute``.
    reasons : a sentence each.
    basis : on what it rests, as (term, text).
    figures : name -> number: what the rule looked at.
    """

    verdict: str
    reasons: tuple[str, ...]
    basis: tuple[tuple[str, str], ...]
    figures: dict[str, float]
    method: str
    reference: str


@dataclass(frozen=True)
class Race:
    """How ``--method auto`` chose; ``candidates`` is a row for each."""

    candidates: pd.DataFrame
    metric: str
    winner: str
    basis: tuple[tuple[str, str], ...] = ()
    instead: str = ""  # why another method was written

    @property
    def nobody(self) -> str:
        """Why a control was written; empty where none was."""
        row = self.candidates[self.candidates["name"] == self.winner]
        if self.instead or not len(row) or not bool(row["control"].iloc[0]):
            return self.instead
        return f"no method was better than the control {self.winner} on held-out values"


@dataclass(frozen=True)
class Checked:
    """The tables of a check, each None (or empty) where it has none."""

    verdict: Verdict | None = None
    scores: pd.DataFrame | None = None
    null: pd.DataFrame | None = None
    genes: pd.DataFrame | None = None
    calibration: pd.DataFrame | None = None
    mixing: dict[str, pd.DataFrame] = field(default_factory=dict)


def record_of(adata: AnnData, key: str | None) -> tuple[str, dict[str, Any]]:
    """The key and the record to show; the only one, if none is named.

    Raises
    ------
    InputError
        There is none, not that one, or several and none is named; the message says which there are.
    """
    key, record = find_record(adata, key)
    if not isinstance(record, Mapping) or not {"method", "input", "scale"} <= set(record):
        raise InputError(f"the record of {key!r} is not one that imputome wrote: impute again")
    return key, dict(record)


def facts(record: Mapping[str, Any], *, shape: tuple[int, int], words: tuple[str, str]) -> list[tuple[str, str]]:
    """What was done, as (term, text); ``words`` are what rows and columns are called."""
    rows, columns = words
    given = record["input"]
    found = [
        ("Method", _method(str(record["method"]))),
        ("Input", f"{given.get('where', 'X')}: {given.get('state', '')}"),
        ("Shape", f"{shape[0]:,} {rows} x {shape[1]:,} {columns}"),
        ("Scale of the values", f"{record['scale']} ({SCALES.get(str(record['scale']), 'as recorded')})"),
        ("Seed", str(record.get("random_state", ""))),
    ]
    if str(record.get("transform", "identity")) != "identity":
        found.append(("Imputed on", f"{record['transform']} of the values, given in their own unit"))
    kept = _truth(record.get("keep_observed"))
    if kept is not None:
        found.append(("Observed values", "kept as they are" if kept else "replaced by the method's estimate"))
    if _truth(record.get("posterior")):
        found.append(("Posterior step", "yes: combined with the cell's own counts"))
    ending = record.get("convergence", {})
    if ending:
        message = str(ending.get("message", "")) or ("no iteration needed" if _truth(ending.get("converged")) else "")
        state = "" if _truth(ending.get("converged")) else "did not converge: "
        found.append(("Ended", f"{state}{message or ending.get('status', '')}"))
    if "seconds" in record:
        found.append(("Time", _seconds(float(record["seconds"]))))
    if "peak_memory_bytes" in record:
        found.append(("Peak memory of the process", f"{float(record['peak_memory_bytes']) / 2**20:,.0f} MiB"))
    filled = str(record.get("unusable_filled_with", ""))
    for what, name in ((rows, "unusable_cells"), (columns, "unusable_genes")):
        found.append((f"{what.capitalize()} without an observed value", _some(texts(record.get(name)), filled)))
    beside = texts(record.get("outputs"))
    if beside:
        found.append(("Written beside", ", ".join(beside)))
    return found


def parameters(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Parameters of the method and their values."""
    try:
        given = json.loads(str(record.get("params", "{}")))
    except json.JSONDecodeError:
        return []
    return [(str(name), json.dumps(value)) for name, value in given.items()] if isinstance(given, dict) else []


def versions(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions of the packages that imputed."""
    return [(str(name), str(value)) for name, value in dict(record.get("versions", {})).items()]


def history(record: Mapping[str, Any]) -> pd.DataFrame | None:
    """A row for each step of the fit, columns of numbers only; None if there is no more than one."""
    import pandas as pd

    columns: dict[str, np.ndarray] = {}
    for name, values in dict(record.get("history", {})).items():
        array = np.asarray(values)
        if array.ndim == 1 and array.dtype.kind in "fiu" and len(array) > 1 and np.isfinite(array).any():
            columns[str(name)] = array.astype(np.float64)
    if not set(columns) - {"epoch", "iteration", "step"}:
        return None
    length = max(map(len, columns.values()))
    return pd.DataFrame({name: values for name, values in columns.items() if len(values) == length})


def race(record: Mapping[str, Any], *, words: tuple[str, str]) -> Race | None:
    """How the method was chosen, if it was; ``words`` are what rows and columns are called."""
    told = record.get("race")
    if not isinstance(told, Mapping) or "candidates" not in told:
        return None
    basis = _basis(told, (("cells", words[0]), ("genes", words[1]), ("budget_minutes", "minutes allowed")))
    basis += _basis(told, (("seconds", "seconds taken"), ("seed", "seed")))
    return Race(
        told["candidates"],
        str(told.get("metric", "score")),
        str(told.get("winner", "")),
        tuple(basis),
        str(told.get("instead", "")),
    )


def checked(record: Mapping[str, Any], *, words: tuple[str, str]) -> Checked:
    """What the check left, if there was one."""
    told = record.get("verdict")
    if not isinstance(told, Mapping) or "verdict" not in told:
        return Checked()
    named = (("method", "judged"), ("reference", "compared, feature by feature, with"))
    counted = (("cells", f"{words[0]} looked at"), ("genes_used", words[1]), ("fits", "fits"), ("seconds", "seconds"))
    basis = _basis(told, (*named, *counted, ("seed", "seed"), ("rule", "version of the rule")))
    failed = texts(told.get("failed"))
    basis += [("criteria not met", ", ".join(failed))] if failed else []
    verdict = Verdict(
        verdict=str(told["verdict"]),
        reasons=tuple(texts(told.get("reasons"))),
        basis=tuple(basis),
        figures={str(name): float(value) for name, value in dict(told.get("figures", {})).items()},
        method=str(told.get("method", record["method"])),
        reference=str(told.get("reference", "")),
    )
    mixing = {str(name): table for name, table in dict(told.get("mixing", {})).items()}
    tables = {name: told.get(name) for name in ("scores", "null", "genes", "calibration")}
    return Checked(verdict=verdict, mixing=mixing, **tables)


def texts(values: Any) -> list[str]:
    """A string array of a record, which a file may give back in several shapes, as a list."""
    return [] if values is None else [str(value) for value in np.atleast_1d(np.asarray(values)).ravel()]


def _basis(told: Mapping[str, Any], names: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    found = []
    for name, term in names:
        value = told.get(name)
        if value is None or str(value) == "":
            continue
        number = isinstance(value, int | float | np.number) and name != "seed"
        found.append((term, text_of(value) if number else str(value)))
    return found


def _method(name: str) -> str:
    from imputome.methods import info, names

    return f"{name} ({info(name).summary})" if name in names() else name


def _truth(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _some(names: list[str], filled: str) -> str:
    """How many, and which."""
    if not names:
        return "none"
    shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{len(names):,} (filled with {filled or 'a fallback'}): {shown}"
