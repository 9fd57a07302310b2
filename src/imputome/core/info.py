"""What a method is, known without importing its code: `MethodInfo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imputome.core.data import Kind
from imputome.core.imputation import Output
from imputome.core.scales import Scale

NewRows = Literal["exact", "projection", "neighbors", "none"]


@dataclass(frozen=True)
class MethodInfo:
    """What a method is, known without importing it.

    Attributes
    ----------
    name : registered name.
    summary : one line for tables and help.
    kinds : kinds of data it takes: ``"counts"`` (a zero may be a dropout) and/or ``"real"`` (NaN is missing).
    source : ``doi:...`` or ``pmid:...`` of the paper; empty for plain controls.
    scale : scale of its values: ``"counts"`` (this cell's depth) or ``"input"`` (the input's own unit).
    keeps_observed : whether observed values are returned as they are unless asked otherwise.
    extra : optional dependency group it needs, or None.
    new_rows : what `Imputer.transform` means; ``"none"`` raises with the reason.
    outputs : outputs beside ``"value"`` that it always has (the posterior step adds more).
    stochastic : whether the result depends on ``random_state``.
    control : whether it is a control, that is, a bar that other methods have to clear.
    covariates : whether it uses `Data.covariates`.
    draws : whether its results can be drawn from, for multiple imputations (`Imputation.draw`).
    """

    name: str
    summary: str
    kinds: frozenset[Kind]
    source: str = ""
    scale: Scale = "counts"
    keeps_observed: bool = False
    extra: str | None = None
    new_rows: NewRows = "exact"
    outputs: frozenset[Output] = frozenset({"value"})
    stochastic: bool = False
    control: bool = False
    covariates: bool = False
    draws: bool = False
