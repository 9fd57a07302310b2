"""What a method is, known without importing its code: `MethodInfo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # NumPy would take half of the time that listing the methods takes
    from imputome.core.data import Kind
    from imputome.core.imputation import Output
    from imputome.core.scales import Scale

NewRows = Literal["exact", "projection", "neighbors", "none"]


@dataclass(frozen=True)
class MethodInfo:
    """What a method is, known without importing its code.

    Attributes
    ----------
    name : str
        Registered name.
    summary : str
        One line for tables and help.
    kinds : frozenset of {"counts", "real"}
        Kinds of data it takes: counts, where a zero can be a dropout, and real values, where NaN is missing.
    source : str, default=""
        ``doi:...`` or ``pmid:...`` of the paper; empty for simple controls.
    scale : {"counts", "input"}, default="counts"
        Scale of its values: counts at the depth of each cell, or the unit of the input.
    keeps_observed : bool, default=False
        Whether it returns observed values unchanged, unless asked otherwise.
    extra : str or None, default=None
        Optional dependency group that it needs.
    new_rows : {"exact", "projection", "neighbors", "none"}, default="exact"
        How `Imputer.transform` imputes rows that were not in the training data: exactly as training rows, by projection
        on what was learned, from the nearest training rows, or not at all.
    outputs : frozenset of str, default={"value"}
        Outputs that it always has; the posterior step adds more.
    stochastic : bool, default=False
        Whether the result depends on ``random_state``.
    control : bool, default=False
        Whether it is a control: a simple method that others must beat.
    covariates : bool, default=False
        Whether it uses `Data.covariates`.
    draws : bool, default=False
        Whether it can draw multiple imputations (`Imputation.draw`).
    latent : bool, default=False
        Whether its results represent the cells by a few numbers each (`Imputation.latent`); a network that is replaced
        by something simpler, as the data ask for, has none.

    Examples
    --------
    >>> from imputome.core.info import MethodInfo
    >>> about = MethodInfo("half", "half of the mean of the feature", frozenset({"real"}), scale="input")
    >>> about.new_rows, sorted(about.outputs)
    ('exact', ['value'])
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
    latent: bool = False
