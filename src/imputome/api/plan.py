"""What will be done, decided before anything is computed.

`Options` holds what the user asks for, in a library call or on the command line; `plan_impute`, `plan_fit`,
`plan_fine_tune` and `plan_apply` check it against the data and make a `Plan`. Every refusal is raised here, once,
before any fit. `imputome.api.impute.run_plan` and the commands then carry out the plan.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Output
from imputome.core.imputer import Imputer, check_parameters
from imputome.core.info import MethodInfo
from imputome.core.links import link
from imputome.core.scales import Scale
from imputome.errors import InputError, Message, MissingExtraError
from imputome.inspection.advice import advised_method
from imputome.inspection.state import InputReport
from imputome.methods import DEFAULT, WITHOUT_EXTRAS, Method, create, get, info, names
from imputome.result.adapt import (
    Purpose,
    checked_state,
    chosen_link,
    covariate_columns,
    gene_positions,
    inspect_layer,
    to_data,
)
from imputome.result.genes import Matched, match_genes
from imputome.result.layout import check_free, checked_key, checked_outputs, default_key
from imputome.trust.auto import BUDGET, candidate_keys
from imputome.trust.check import check_state, label_columns

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Options:
    """What a user asks for; each field is described at the parameter of the same name of `imputome.impute`.

    Attributes
    ----------
    draws : int, default=0
        Number of multiple imputations to write beside the values.
    uncertainty : bool, default=False
        Whether standard deviations are written beside the values.
    """

    method: Method | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    posterior: bool | None = None
    random_state: int = 0
    layer: str | None = None
    covariates: tuple[str, ...] | None = None
    scale: Scale | None = None
    transform: str | None = None
    keep_observed: bool | None = None
    outputs: tuple[str, ...] = ()
    draws: int = 0
    uncertainty: bool = False
    genes: Any = None
    gene_column: str | None = None
    key_added: str | None = None
    check: bool | None = None
    labels: tuple[str, ...] = ()
    budget: float | None = None
    accept_control: bool = False

    @property
    def automatic(self) -> bool:
        """Whether the method is to be chosen by a race."""
        return isinstance(self.method, str) and self.method == "auto"

    @property
    def checked(self) -> bool:
        """Whether the result is to be checked on held-out values."""
        return self.automatic if self.check is None else self.check


class Destination(Protocol):
    """Where a result goes."""

    def check(self, adata: AnnData, key: str, outputs: Iterable[str], columns: np.ndarray | None) -> None:
        """Raise `InputError` if a result of this name and size cannot be written."""
        ...


@dataclass(frozen=True)
class InMemory:
    """The AnnData itself, or a copy of it."""

    overwrite: bool = False
    copy: bool = False

    def check(self, adata: AnnData, key: str, outputs: Iterable[str], columns: np.ndarray | None) -> None:
        """Raise `InputError` if the name is taken, or the dense result is too large for the memory."""
        outputs = list(outputs)
        room = "layers" if columns is None or self.copy else "obsm"
        check_free(adata, key, outputs, room=room, overwrite=self.overwrite)
        n, G = adata.n_obs, (adata.n_vars if columns is None else len(columns)) * (1 + len(outputs))
        needed = 4 * n * G
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > total // 2:
            raise InputError(
                f"a dense layer of {n:,} x {G:,} values takes {needed / 2**30:.1f} GiB of the {total / 2**30:.1f} GiB "
                "of this machine: pass {genes} to write some genes only, or use the command line, which writes in "
                "blocks",
                code="too-large-for-memory",
                genes=...,
            )


@dataclass(frozen=True)
class Plan:
    """What will be done; nothing in it is refused later.

    Attributes
    ----------
    adata : AnnData
        The input.
    options : Options
        What the user asked for.
    report : InputReport
        State of the input.
    data : Data
        The input as a method takes it.
    estimator : Imputer or None
        The method, unfitted (for `plan_apply` fitted); None where a race will choose it.
    link : str
        Transform that real values are imputed on.
    scale : str
        Scale of the values to write.
    key : str
        Name of the result; empty where it depends on the method that a race chooses.
    columns : ndarray of int or None
        Positions of the genes to write; None means all.
    outputs, needed_outputs : tuple of str
        Outputs to write beside the value, and all outputs that the method must give.
    labels : dict
        Name -> labels of the cells, for the check.
    matched : Matched or None
        For a fitted model: where its genes are in the input.
    messages : tuple of Message
        What the user should know.
    """

    adata: AnnData
    options: Options
    report: InputReport
    data: Data
    estimator: Imputer | None
    link: str
    scale: Scale
    key: str = ""
    columns: np.ndarray | None = None
    outputs: tuple[Output, ...] = ()
    needed_outputs: tuple[Output, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    matched: Matched | None = None
    messages: tuple[Message, ...] = ()

    @property
    def budget(self) -> float:
        """Minutes for the race, the check and the fit."""
        return BUDGET if self.options.budget is None else self.options.budget


# -- before the data are read ------------------------------------------------------------------------------------------
def checked_options(options: Options) -> Imputer | None:
    """Check what can be checked without the data.

    Returns
    -------
    Imputer or None
        The unfitted estimator, if a method is named.

    Raises
    ------
    InputError
        Options that do not go together; an unknown method, parameter, transform or output.
    """
    if options.gene_column is not None and options.genes is None:
        raise InputError(
            "gene_column is the column with the names in genes: pass {genes} too",
            code="option-unused",
            parameter="gene_column",
            genes=...,
        )
    if options.transform not in (None, "none"):
        link(str(options.transform))
    if options.labels and not options.checked:
        raise InputError(
            "labels are for the check, which is not made: pass {check}, or leave {labels} out",
            code="option-unused",
            parameter="labels",
            check=True,
            labels=...,
        )
    if options.automatic:
        for_some = {
            "params": options.params,
            "posterior": options.posterior is not None,
            "covariates": options.covariates,
            "outputs": options.outputs,
            "uncertainty": options.uncertainty,
            "draws": options.draws,
        }
        for name, value in for_some.items():
            if value:
                raise InputError(
                    f"not every method has {name}, and method 'auto' chooses among methods: leave {name} out, or name "
                    "the method",
                    code="not-with-auto",
                    parameter=name,
                )
        budget = options.budget
        if budget is not None and not (isinstance(budget, int | float) and 0 < budget < math.inf):
            raise InputError(
                f"budget={budget!r} must be a positive number of minutes", code="parameter-value", parameter="budget"
            )
        return None
    for name, value in {"accept_control": options.accept_control or None, "budget": options.budget}.items():
        if value is not None:
            raise InputError(
                f"{name} goes with {{method}} only: leave it out", code="option-unused", parameter=name, method="auto"
            )
    if options.method is None:
        return None
    estimator = make_estimator(options.method, options)
    _outputs(estimator, options)
    return estimator


def make_estimator(method: Method, options: Options) -> Imputer:
    """The unfitted estimator.

    Raises
    ------
    InputError
        An unknown method or parameter, a parameter of the wrong type, a posterior step that the method does not have.
    """
    cls = get(method)
    defaults = cls.parameter_defaults()
    params = dict(options.params)
    if options.posterior is not None:
        if options.posterior and "posterior" not in defaults:
            raise InputError(
                f"{cls.name} has no posterior step, for its values are not rates of counts: leave {{posterior}} out",
                code="no-posterior",
                posterior=...,
            )
        if "posterior" in defaults:
            params["posterior"] = options.posterior
    if "random_state" in defaults and not isinstance(method, Imputer):
        params.setdefault("random_state", options.random_state)
    check_parameters(cls, params)
    # NumPy's numbers could not be written to the record of the result
    params = {name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()}
    return create(method, params)


def default_method(report: InputReport) -> str:
    """The method where the user names none: by kind of data, for real values also by their number and missing share.

    Raises
    ------
    MissingExtraError
        The method needs an optional dependency; the message names a method that does not.
    """
    if report.errors:
        raise InputError(report.errors[0])
    name = DEFAULT[report.kind]
    if report.kind == "real":
        n, G = report.shape
        name = advised_method(n, G, report.n_nan / (n * G))[0] or name
    try:
        get(name)
    except MissingExtraError as error:
        raise MissingExtraError(f"{error}, or pass {{method}}, which needs no extra", method=WITHOUT_EXTRAS) from error
    return name


def _outputs(estimator: Imputer, options: Options) -> tuple[tuple[Output, ...], tuple[Output, ...]]:
    """The outputs to write, and those needed for them and for standard deviations."""
    outputs = checked_outputs(estimator, options.outputs)
    if options.draws and not estimator.info.draws:
        able = ", ".join(name for name in names() if info(name).draws) or "none here"
        raise InputError(
            f"{estimator.name} has no distribution to draw multiple imputations from: leave {{draws}} out, or choose "
            f"one of {able}",
            code="no-draws",
            draws=...,
        )
    if not options.uncertainty:
        return outputs, outputs
    try:
        variance = checked_outputs(estimator, ("variance",))
    except InputError as error:
        raise InputError(
            f"standard deviations need the variance of each value: {error.message.template}",
            code="no-uncertainty",
            parameter="uncertainty",
            **error.message.options,
        ) from error
    return outputs, tuple(dict.fromkeys((*outputs, *variance)))


# -- with the data -----------------------------------------------------------------------------------------------------
def plan_impute(
    adata: AnnData,
    options: Options,
    destination: Destination,
    *,
    estimator: Imputer | None = None,
    report: InputReport | None = None,
) -> Plan:
    """Check an imputation of ``adata`` by a method that is fitted on it.

    Parameters
    ----------
    estimator : Imputer, optional
        What `checked_options` returned.
    report : InputReport, optional
        State of the input, if it is known already.

    Raises
    ------
    InputError
        The input cannot be imputed as asked; the message says what to pass.
    """
    report = report or inspect_layer(adata, options.layer)
    columns = None if options.genes is None else gene_positions(adata, options.genes, column=options.gene_column)
    labels: dict[str, Any] = {}
    if options.checked:
        check_state(report)
        labels = label_columns(adata, options.labels)
    if options.automatic:
        method = info(DEFAULT[report.kind])
        keys = [options.key_added] if options.key_added else candidate_keys(report.kind)
        key, outputs, needed = options.key_added or "", (), ()
    else:
        estimator = estimator or make_estimator(options.method or default_method(report), options)
        method = estimator.info
        key = options.key_added or default_key(estimator)
        keys = [key]
        outputs, needed = _outputs(estimator, options)  # type: ignore[assignment]
    for name in keys:
        destination.check(adata, checked_key(adata, name), outputs, columns)
    plan = _with_data(adata, options, report, method, purpose="impute")
    _check_variance_scale(needed, plan.scale)
    return replace(
        plan, estimator=estimator, key=key, columns=columns, outputs=outputs, needed_outputs=needed, labels=labels
    )


def plan_fit(adata: AnnData, options: Options, *, estimator: Imputer | None = None) -> Plan:
    """Check the fit of a model that will be applied to other cells; the input need not miss any value."""
    report = inspect_layer(adata, options.layer)
    estimator = estimator or make_estimator(options.method or default_method(report), options)
    check_reusable(estimator)
    return replace(_with_data(adata, options, report, estimator.info, purpose="fit"), estimator=estimator)


def plan_fine_tune(adata: AnnData, estimator: Imputer, options: Options) -> Plan:
    """Check that a fitted model can be trained further on ``adata``; ``options.params`` go to its ``fine_tune``."""
    tune = getattr(estimator, "fine_tune", None)
    if tune is None:
        raise InputError(
            f"a model of {estimator.name} cannot be trained further: fit a new one on all cells", code="no-fine-tuning"
        )
    known = [name for name in inspect.signature(tune).parameters if name != "data"]
    unknown = [name for name in options.params if name not in known]
    if unknown:
        raise InputError(
            f"training {estimator.name} further has no option {unknown[0]!r}; its options: {', '.join(known)}",
            code="unknown-parameter",
            parameter=unknown[0],
        )
    return _with_model(adata, estimator, options)


def plan_apply(adata: AnnData, estimator: Imputer, options: Options, destination: Destination) -> Plan:
    """Check that a fitted model can impute ``adata``."""
    key = checked_key(adata, options.key_added or default_key(estimator))
    outputs, needed = _outputs(estimator, options)
    columns = None if options.genes is None else gene_positions(adata, options.genes, column=options.gene_column)
    destination.check(adata, key, outputs, columns)
    plan = _with_model(adata, estimator, options)
    _check_variance_scale(needed, plan.scale)
    return replace(plan, key=key, columns=columns, outputs=outputs, needed_outputs=needed)


def check_reusable(estimator: Imputer) -> None:
    """Check that a fitted model of this method can impute other cells."""
    if estimator.info.new_rows == "none":
        raise InputError(
            f"{estimator.name} cannot impute cells that it was not fitted on: impute all cells together instead",
            code="no-new-rows",
            parameter="method",
        )


def _with_data(adata: AnnData, options: Options, report: InputReport, method: MethodInfo, *, purpose: Purpose) -> Plan:
    report, scale = checked_state(report, method, scale=options.scale, purpose=purpose)
    data = to_data(adata, report, layer=options.layer)
    link_name, messages = chosen_link(data, method, options.transform)
    if options.covariates is not None:
        if not method.covariates:
            raise InputError(
                f"{method.name} does not use covariates: leave them out", code="no-covariates", parameter="covariates"
            )
        data = replace(data, covariates=covariate_columns(adata, options.covariates))
    return Plan(adata, options, report, data, None, link_name, scale, messages=(*report.warnings, *messages))


def _with_model(adata: AnnData, estimator: Imputer, options: Options) -> Plan:
    """The plan of a fitted model: genes matched by name, and values in the state that the model was fitted on."""
    matched = match_genes(adata, estimator, column=options.gene_column)
    report, scale = inspect_layer(adata, options.layer), options.scale
    state = (estimator.provenance or {}).get("input", {}).get("state")
    if report.kind == "counts" == estimator.kind_ and state in ("counts", "log1p", "normalized"):
        if report.state != state:
            raise InputError(
                f"{report.where} looks {report.state}, and the model was fitted on {state}: pass {{layer}} with these",
                code="other-state-than-model",
                layer=...,
            )
        if scale is None and state != "counts":
            scale = state  # the consent was given when the model was fitted
    report, scale = checked_state(report, estimator.info, scale=scale, purpose="apply", kind=estimator.kind_)
    data = to_data(adata, report, layer=options.layer)
    if data.kind == "real":
        _check_range(report, estimator, state)
    missing = [name for name in estimator.covariate_names_ if name not in adata.obs]
    if missing:
        raise InputError(
            f"the model was fitted with the covariates {', '.join(estimator.covariate_names_)}, and obs has no column "
            f"{missing[0]!r}: add it",
            code="no-obs-column",
        )
    if estimator.covariate_names_:
        data = replace(data, covariates=covariate_columns(adata, estimator.covariate_names_))
    messages = (*report.warnings, *matched.messages)
    return Plan(adata, options, report, data, estimator, estimator.link, scale, matched=matched, messages=messages)


def _check_range(report: InputReport, estimator: Imputer, state: str | None) -> None:
    """Check that real values are in the model's unit, as far as their range can tell."""
    low, high = estimator.bounds_
    if report.minimum is None or report.maximum is None:
        return
    values = f"{report.where} holds {report.minimum:.4g} to {report.maximum:.4g}"
    if report.minimum < low or report.maximum > high:
        unit = "in 0 to 1 (beta values)" if np.isfinite(high) else "of 0 or more"
        remedy = (
            "divide percentages by 100, or convert M-values to beta values"
            if np.isfinite(high)
            else "pass values in the unit of the training data"
        )
        raise InputError(
            f"{values}, and the model was fitted on values {unit}: {remedy}, or correct the values outside",
            code="other-unit-than-model",
        )
    if report.state == "beta" and state == "real":
        raise InputError(
            f"{values}, which looks like beta values, and the model was fitted on other values: pass values in the "
            "unit of the training data",
            code="other-unit-than-model",
        )


def _check_variance_scale(outputs: Iterable[Output], scale: Scale) -> None:
    if "variance" in outputs and scale not in ("counts", "input"):
        raise InputError(
            f"the variance exists on scale 'counts' only, not {scale!r}: leave the variance out, or the scale",
            code="variance-scale",
            parameter="outputs",
        )
