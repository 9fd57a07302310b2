"""What will be done, decided before anything is computed.

`Options` holds what the user asks for, in a library call or on the command line; `plan_impute`, `plan_fit`,
`plan_fine_tune` and `plan_apply` check it against the data and make a `Plan`. Every refusal is raised here, once,
before any fit. `imputome.api.impute.run_plan` and the commands then carry out the plan.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, get_args

import numpy as np

from imputome.core.data import Data, Kind
from imputome.core.imputation import Output
from imputome.core.imputer import Imputer
from imputome.core.info import MethodInfo
from imputome.core.links import link
from imputome.core.parameters import check_parameters
from imputome.core.scales import INPUT_SCALES, Scale, holds_molecules
from imputome.errors import InputError, Message, MissingExtraError, ModelFormatError, NotFittedError
from imputome.inspection.advice import advised_method, few_samples, wide_cost
from imputome.inspection.classify import CountState
from imputome.inspection.features import EXPRESSION
from imputome.inspection.state import InputReport
from imputome.inspection.summary_rows import summary_rows
from imputome.methods import DEFAULT, WITHOUT_EXTRAS, Method, create, get, info, names
from imputome.result.adapt import (
    Purpose,
    check_structure,
    checked_anndata,
    checked_state,
    chosen_link,
    covariate_columns,
    covariates_to_learn,
    gene_names,
    gene_positions,
    inspect_layer,
    part_of,
    to_data,
)
from imputome.result.genes import Matched, match_genes
from imputome.result.layout import check_free, checked_key, checked_outputs, default_key
from imputome.studies.inputs import Dataset, MethodSpec, parse_method, to_dataset, with_controls
from imputome.studies.runner import stratifies
from imputome.trust.auto import BUDGET, candidate_keys
from imputome.trust.check import check_state, label_columns, warn_of_absent_genes

if TYPE_CHECKING:
    from anndata import AnnData


# options that the record of a result holds in fields of its own, or that no longer matter when there is a result
RECORDED = {
    *("method", "params", "posterior", "random_state", "layer", "scale", "transform", "keep_observed", "outputs"),
    *("draws", "uncertainty", "genes", "gene_column", "key_added", "check", "budget", "accept_control", "threads"),
    "reproducible",
}


@dataclass(frozen=True)
class Options:
    """What a user asks for; each field is described at the parameter of the same name of `imputome.impute`."""

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
    draws: int = 0  # number of multiple imputations to write beside the values
    uncertainty: bool = False  # whether standard deviations are written beside the values
    genes: Any = None
    gene_column: str | None = None
    feature_type: str | None = None
    key_added: str | None = None
    check: bool | None = None
    labels: tuple[str, ...] = ()
    budget: float | None = None
    accept_control: bool = False
    kind: Kind | None = None
    round_counts: str | None = None
    accept_orientation: bool = False
    keep_summary_rows: bool = False
    match_genes: str | None = None  # of `imputome.apply_model`
    training_cells: int | None = None
    threads: int | None = None
    reproducible: bool = False

    name: ClassVar[str] = "imputome"  # what messages call the options

    def __post_init__(self) -> None:
        """Check the types of the options, and read ``method="name+posterior"``."""
        checked = {each.name for each in fields(self)} - {"method", "scale", "transform", "genes"}  # checked elsewhere
        check_parameters(Options, {name: getattr(self, name) for name in checked})
        if self.draws < 0:
            text = f"draws={self.draws} must be 0 or more"
            raise InputError(text, code="parameter-value", parameter="draws")
        if self.training_cells is not None and self.training_cells < 2:
            text = "{training_cells} must be at least 2"
            raise InputError(text, code="parameter-value", training_cells=self.training_cells)
        if self.threads is not None and self.threads < 1:
            raise InputError("{threads} must be at least 1", code="parameter-value", threads=self.threads)
        if isinstance(self.method, str) and self.method.endswith("+posterior"):
            if self.posterior is False:
                text = f"the method {self.method!r} asks for the posterior step: leave {{posterior}} out, or the ending"
                raise InputError(text, code="given-twice", posterior=False)
            object.__setattr__(self, "method", self.method.removesuffix("+posterior"))
            object.__setattr__(self, "posterior", True)

    @property
    def further(self) -> dict[str, Any]:
        """What no other field of the record of the result says, by name."""
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in RECORDED}
        defaults = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in given.items() if value != defaults[name]}

    def prepare(self, estimator: Imputer, link: str) -> None:
        """Set what is not a parameter of a method, before its fit."""
        estimator.link = link
        if self.training_cells is not None:
            estimator.training_cells = self.training_cells

    @property
    def automatic(self) -> bool:
        """Whether a race chooses the method."""
        return isinstance(self.method, str) and self.method == "auto"

    @property
    def stated_kind(self) -> Kind | None:
        """The kind of the values that the user has stated: only counts are rounded."""
        return "counts" if self.kind is None and self.round_counts is not None else self.kind

    @property
    def allowed(self) -> tuple[str, ...]:
        """Codes of the errors of the input that the user has answered."""
        return ("genes-in-rows",) if self.accept_orientation else ()

    @property
    def checked(self) -> bool:
        """Whether the result is checked on held-out values."""
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
    name: ClassVar[str] = "imputome"

    def __post_init__(self) -> None:
        check_parameters(InMemory, {"overwrite": self.overwrite, "copy": self.copy})

    def check(self, adata: AnnData, key: str, outputs: Iterable[str], columns: np.ndarray | None) -> None:
        """Raise `InputError` if the name is taken, or the dense result is too large for the memory."""
        outputs = list(outputs)
        if self.copy and (adata.isbacked or (columns is None and _stays_stored(adata))):
            text = "the AnnData is backed by a file, which a copy would need too: pass adata.to_memory()"
            raise InputError(text, code="backed-copy", parameter="copy")
        if adata.isbacked and adata.is_view:  # to write to a view copies it
            text = "the AnnData is a part of one that is backed by a file, to which no result can be added: pass "
            raise InputError(f"{text}its to_memory()", code="backed-view", parameter="adata")
        room = "layers" if columns is None or self.copy else "obsm"
        check_free(adata, key, outputs, room=room, overwrite=self.overwrite)
        n, G = adata.n_obs, (adata.n_vars if columns is None else len(columns)) * (1 + len(outputs))
        needed = 4 * n * G
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > total // 2:
            text = f"{n:,} x {G:,} dense values take {needed / 2**30:.1f} GiB of this machine's {total / 2**30:.1f} GiB"
            remedy = "pass {genes} to write some genes only, or use the command line, which writes in blocks"
            raise InputError(f"{text}: {remedy}", code="too-large-for-memory", genes=...)


def _stays_stored(adata: AnnData) -> bool:
    """Whether a matrix of an AnnData that anndata does not call backed is in a file, where it cannot be copied."""
    return any(matrix is not None and not hasattr(matrix, "copy") for matrix in (adata.X, *adata.layers.values()))


@dataclass(frozen=True)
class Plan:
    """What will be done; nothing in it is refused later."""

    adata: AnnData
    options: Options
    report: InputReport  # state of the input
    data: Data  # the input as a method takes it
    estimator: Imputer | None  # unfitted (for `plan_apply` fitted); None if a race will choose it
    link: str  # transform on which real values are imputed
    scale: Scale  # of the values to write
    key: str = ""  # name of the result; empty if it depends on the method that a race chooses
    columns: np.ndarray | None = None  # positions of the genes to write; None means all
    outputs: tuple[Output, ...] = ()  # to write beside the value
    labels: Mapping[str, Any] = field(default_factory=dict)  # name -> labels of the cells, for the check
    matched: Matched | None = None  # for a fitted model: where its genes are in the input
    messages: tuple[Message, ...] = ()  # what the user should know

    @property
    def budget(self) -> float:
        """Minutes for the race, the check and the fit."""
        return BUDGET if self.options.budget is None else self.options.budget


# -- before the data are read ------------------------------------------------------------------------------------------
def checked_options(options: Options) -> Imputer | None:
    """Check what can be checked without the data; returns the unfitted estimator, if a method is named."""
    if options.gene_column is not None and options.genes is None:
        text = "{gene_column} is for the column with the names in {genes}: pass {genes} too"
        raise InputError(text, code="option-unused", gene_column=..., genes=...)
    if options.transform not in (None, "none"):
        link(str(options.transform))
    if options.labels and not options.checked:
        text = "labels are for the check, which is not made: pass {check}, or leave {labels} out"
        raise InputError(text, code="option-unused", parameter="labels", check=True, labels=...)
    if options.automatic:
        _check_race(options)
        return None
    for name, used in (("accept_control", options.accept_control), ("budget", options.budget is not None)):
        if used:
            text = f"{{{name}}} is for {{method}} only: leave it out"
            raise InputError(text, code="option-unused", parameter=name, method="auto", **{name: ...})
    if options.method is None:
        return None
    estimator = make_estimator(options.method, options)
    _outputs(estimator, options)
    return estimator


def _check_race(options: Options) -> None:
    """Check the options of ``method="auto"``."""
    for name in ("params", "posterior", "covariates", "outputs", "uncertainty", "draws"):
        value = getattr(options, name)
        if value or (name == "posterior" and value is not None):
            text = f"not every method takes {{{name}}}, and {{method}} chooses among methods: leave {{{name}}} out"
            named: dict[str, Any] = {name: ..., "method": "auto"}
            raise InputError(f"{text}, or name the method", code="not-with-auto", **named)
    budget = options.budget
    if budget is not None and not (isinstance(budget, Real) and 0 < budget < math.inf):
        raise InputError("{budget} must be a positive number of minutes", code="parameter-value", budget=budget)


def make_estimator(method: Method, options: Options) -> Imputer:
    """The unfitted estimator, with checked parameters."""
    cls = get(method)
    # NumPy's numbers could not be written to the record of the result
    params = {name: v.item() if isinstance(v, np.generic) else v for name, v in options.params.items()}
    if options.posterior is not None and "posterior" in cls.parameter_defaults():
        params["posterior"] = options.posterior
    elif options.posterior:
        text = f"{cls.name} has no posterior step, because its values are not rates of counts: leave {{posterior}} out"
        raise InputError(text, code="no-posterior", posterior=...)
    seed = options.random_state
    estimator = create(method, params, random_state=seed.item() if isinstance(seed, np.generic) else seed)
    estimator.check_params()
    return estimator


def default_method(report: InputReport) -> str:
    """The method if the user names none: by kind of data, and for real values also by size and missing share.

    It may need an extra that is not installed; `_default_estimator` then takes another.
    """
    name = DEFAULT[report.kind]
    if report.kind == "real":
        n, G = report.shape
        name = advised_method(n, G, report.n_nan / (n * G))[0] or name
    return name


def _outputs(estimator: Imputer, options: Options) -> tuple[Output, ...]:
    """The outputs to write; checked together with those that draws and standard deviations need."""
    outputs = checked_outputs(estimator, options.outputs)
    if options.draws and not estimator.info.draws:
        able = [name for name in names() if info(name).draws and info(name).kinds & estimator.info.kinds]
        text = f"{estimator.name} has no distribution to draw multiple imputations from: leave {{draws}} out"
        text += f", or choose one of {', '.join(able)}" if able else ""
        raise InputError(text, code="no-draws", draws=...)
    if options.uncertainty:
        try:
            checked_outputs(estimator, ("variance",))
        except InputError as error:
            text = f"standard deviations need the variance of each value: {error.message.template}"
            further = error.message.options
            raise InputError(text, code="no-uncertainty", parameter="uncertainty", **further) from error
    return outputs


# -- with the data -----------------------------------------------------------------------------------------------------
def inspect_input(adata: AnnData, options: Options, estimator: Imputer | None = None) -> InputReport:
    """What is known of the matrix that the options name, and which of its features are used.

    A fitted model says which feature type that is, and whether these are counts if the values leave it in doubt. A
    model that was fitted on summary rows knows them.
    """
    checked_anndata(adata)
    how: dict[str, Any] = {"feature_type": options.feature_type, "keep_summary_rows": options.keep_summary_rows}
    if estimator is not None:
        how |= {
            "default_type": (estimator.provenance or {}).get("feature_type") or EXPRESSION,
            "keep_summary_rows": options.keep_summary_rows or bool(summary_rows(estimator.feature_names_).any()),
            "names": gene_names(adata, options.gene_column),
        }
    report = inspect_layer(adata, options.layer, options.stated_kind, **how)
    in_doubt = options.stated_kind is None and any(error.code == "kind-unclear" for error in report.errors)
    if estimator is None or not in_doubt:
        return report
    return inspect_layer(adata, options.layer, estimator.kind_, **how)


def plan_impute(
    adata: AnnData,
    options: Options,
    destination: Destination,
    *,
    estimator: Imputer | None = None,
    report: InputReport | None = None,
) -> Plan:
    """Check an imputation of ``adata`` by a method that is fitted on it.

    ``estimator`` is what `checked_options` returned, ``report`` the state of the input, if it is known already.
    """
    report = report or inspect_input(adata, options)
    check_structure(report, "impute", options.allowed)
    columns, said = _columns(adata, options)
    labels = label_columns(adata, options.labels)
    outputs: tuple[Output, ...] = ()
    notes: list[Message] = []
    if options.automatic:
        method = info(DEFAULT[report.kind])  # for the state of the input, which all methods of a race take alike
        key = options.key_added or ""
        keys = candidate_keys(report.kind) if options.key_added is None else [key]
    else:
        estimator, notes = _estimator(estimator, report, options)
        method = estimator.info
        key = default_key(estimator) if options.key_added is None else options.key_added
        keys = [key]
        try:
            outputs = _outputs(estimator, options)
        except InputError as error:
            if "posterior-off" not in {note.code for note in notes}:
                raise
            text = f"{{outputs}} come from the posterior step, which needs raw counts, but {report.where} holds none: "
            text += "leave them out, or pass {layer} with counts and leave {scale} out"
            raise InputError(text, code="no-output", outputs=..., layer=..., scale=...) from error
    for name in keys:
        destination.check(adata, checked_key(adata, name), outputs, columns)
    plan = _with_data(adata, options, report, method, estimator, purpose="impute")
    if options.checked or options.automatic:  # both hold values out
        check_state(plan.report, automatic=options.automatic)
    _check_variance_scale(outputs, plan)
    messages = (*plan.messages, *notes, *said, *warn_of_absent_genes(plan.data, labels))
    return replace(plan, key=key, columns=columns, outputs=outputs, labels=labels, messages=messages)


def _estimator(estimator: Imputer | None, report: InputReport, options: Options) -> tuple[Imputer, list[Message]]:
    """The estimator that the user named, or else the default, and what to know before it is used on these data."""
    notes: list[Message] = []
    if estimator is None:
        estimator, notes = _default_estimator(report, options)
        cost = wide_cost(estimator.name, *report.shape) if report.kind == "real" else None
        notes = [*notes, cost] if cost else notes
    few = few_samples(estimator.name, report.shape[0]) if report.kind == "real" else None
    return estimator, [*notes, few] if few else notes


def _default_estimator(report: InputReport, options: Options) -> tuple[Imputer, list[Message]]:
    """The default; its posterior step is off if the values are no counts."""
    notes: list[Message] = []
    name = options.method
    if name is None:
        name, notes = _installed(default_method(report))
    counts = report.state == "counts" or report.state.endswith("_counts") or options.round_counts is not None
    if options.method is not None or options.posterior is not None or report.kind == "real" or counts:
        return make_estimator(name, options), notes
    text = f"{report.where} holds no raw counts, so {name} gives the values of its model, without the posterior step"
    note = Message(f"{text} that combines them with each cell's own counts", code="posterior-off")
    return make_estimator(name, replace(options, posterior=False)), [*notes, note]


def _installed(name: str) -> tuple[str, list[Message]]:
    """The default, or for counts the method that needs no extra where that of the default is not installed."""
    try:
        get(name)
    except MissingExtraError as error:
        if name != DEFAULT["counts"]:
            raise
        text = f"{error}; {WITHOUT_EXTRAS} (Poisson factors with the posterior step) is used instead of {name}"
        return WITHOUT_EXTRAS, [Message(text, code="default-without-extra")]
    return name, []


def plan_fit(adata: AnnData, options: Options, *, estimator: Imputer | None = None) -> Plan:
    """Check the fit of a model that will be applied to other cells; the input may be complete."""
    if options.automatic:
        text = "method 'auto' chooses a method for one data set, but a model is applied to others too: name the method"
        raise InputError(text, code="not-with-auto", parameter="method")
    report = inspect_input(adata, options)
    check_structure(report, "fit", options.allowed)
    estimator, notes = _estimator(estimator, report, options)
    check_reusable(estimator)
    plan = _with_data(adata, options, report, estimator.info, estimator, purpose="fit")
    return replace(plan, messages=(*plan.messages, *notes))


def plan_fine_tune(adata: AnnData, estimator: Imputer, options: Options) -> Plan:
    """Check that a fitted model can be trained further on ``adata``; ``options.params`` go to its ``fine_tune``."""
    tune = getattr(type(estimator), "fine_tune", None)
    if tune is None:
        text = f"a model of {estimator.name} cannot be trained further: fit a new one on all cells"
        raise InputError(text, code="no-fine-tuning")
    check_parameters(tune, dict(options.params))
    return _with_model(adata, estimator, options, purpose="fit")


def plan_apply(adata: AnnData, estimator: Imputer, options: Options, destination: Destination) -> Plan:
    """Check that a fitted model can impute ``adata``."""
    check_reusable(estimator)
    key = checked_key(adata, default_key(estimator) if options.key_added is None else options.key_added)
    outputs, (columns, said) = _outputs(estimator, options), _columns(adata, options)
    destination.check(adata, key, outputs, columns)
    plan = _with_model(adata, estimator, options, purpose="apply")
    _check_variance_scale(outputs, plan)
    return replace(plan, key=key, columns=columns, outputs=outputs, messages=(*plan.messages, *said))


def check_reusable(estimator: Imputer) -> None:
    """Check that a fitted model of this method can impute other cells."""
    if estimator.info.new_rows == "none":
        text = f"{estimator.name} cannot impute cells that it was not fitted on: impute all cells together instead"
        raise InputError(text, code="no-new-rows", parameter="method")


def _columns(adata: AnnData, options: Options) -> tuple[np.ndarray | None, list[Message]]:
    """Positions of the genes to write, each once, and a message if some were asked for more than once."""
    if options.genes is None:
        return None, []
    asked = gene_positions(adata, options.genes, column=options.gene_column)
    columns = np.array(list(dict.fromkeys(asked.tolist())), dtype=np.intp)
    if len(columns) == len(asked):
        return columns, []
    text = f"{len(asked) - len(columns):,} of the {{genes}} were given more than once: each is written once"
    return columns, [Message(text, code="genes-repeated", genes=...)]


def _with_data(
    adata: AnnData,
    options: Options,
    report: InputReport,
    method: MethodInfo,
    estimator: Imputer | None,
    *,
    purpose: Purpose,
) -> Plan:
    """The plan of a method that is fitted on the data."""
    report, scale = checked_state(
        report,
        method,
        scale=options.scale,
        purpose=purpose,
        allowed=options.allowed,
        round_counts=options.round_counts,
        seed=options.random_state,
    )
    if options.covariates is not None and not method.covariates:
        text = f"{method.name} does not use covariates: leave them out"
        raise InputError(text, code="no-covariates", parameter="covariates")
    transform = options.transform
    if estimator is not None:
        if estimator.posterior:
            _check_posterior(report)
        if transform is None and estimator.link != "identity":
            transform = estimator.link
    data = to_data(adata, report, layer=options.layer)
    link_name, messages = chosen_link(data, method, transform)
    if options.covariates is not None:
        covariates, notes = covariates_to_learn(adata, options.covariates)
        data, messages = replace(data, covariates=covariates), [*messages, *notes]
    return Plan(adata, options, report, data, estimator, link_name, scale, messages=(*report.warnings, *messages))


def _with_model(adata: AnnData, estimator: Imputer, options: Options, *, purpose: Purpose) -> Plan:
    """The plan of a fitted model: genes matched by name, and values in the state that the model was fitted on."""
    if not hasattr(estimator, "feature_names_"):
        raise NotFittedError(f"{estimator.name} is not fitted yet: call fit first, or use imputome.fit_model")
    trained = (estimator.provenance or {}).get("input", {})
    report = inspect_input(adata, options, estimator)
    part = part_of(adata, report)
    matched = match_genes(part, estimator, column=options.gene_column, how=options.match_genes)
    scale, round_counts = options.scale, options.round_counts
    state = trained.get("state")
    if report.kind == "counts" == estimator.kind_ and state in get_args(CountState):
        if round_counts is None and (report.state == "expected" or not report.certain):
            round_counts = trained.get("rounding")
        if (report.certain or state not in INPUT_SCALES) and round_counts is None:
            _check_same_state(report, state)
        if scale is None and state != "counts":  # the consent was given when the model was fitted
            scale = "counts" if state == "expected" else state
    if estimator.info.kinds == {estimator.kind_} != {report.kind} and report.n_nan:
        raise _other_kind(report, estimator)
    report, scale = checked_state(
        report,
        estimator.info,
        scale=scale,
        purpose=purpose,
        kind=estimator.kind_,
        allowed=options.allowed,
        round_counts=round_counts,
        seed=options.random_state,
    )
    if report.kind == "counts" == estimator.kind_ and state in get_args(CountState):
        _check_same_state(report, state)
    if report.kind != estimator.kind_:
        raise _other_kind(report, estimator)
    if report.kind == "real":
        _check_range(report, estimator, state)
    covariates = estimator.covariate_names_
    missing = [name for name in covariates if name not in adata.obs]
    if missing:
        text = f"the model was fitted with the covariates {', '.join(covariates)}, but obs has no column {missing[0]!r}"
        raise InputError(f"{text}: add it", code="no-obs-column")
    data = _with_library(to_data(adata, report, layer=options.layer), report, trained.get("library_genes"))
    if covariates:
        data = replace(data, covariates=covariate_columns(adata, covariates))
    matched = matched.without_unseen(data, estimator)
    messages = (*report.warnings, *matched.messages)
    return Plan(adata, options, report, data, estimator, estimator.link, scale, matched=matched, messages=messages)


def _check_same_state(report: InputReport, state: str) -> None:
    """Check that the values are on the scale that the model was fitted on."""
    if report.state != state:
        text = f"{report.where} looks {report.state}, but the model was fitted on {state}"
        raise InputError(f"{text}: pass {{layer}} with such values", code="other-state-than-model", layer=...)


def _with_library(data: Data, report: InputReport, library_genes: int | None) -> Data:
    """The data with library sizes over the genes that those of the model were over; ``library_genes`` is their number.

    None means the genes of the model, over which `imputome.result.genes.model_data` counts the molecules.
    """
    if not holds_molecules(report.state):
        return data
    if library_genes is None:
        return replace(data, library_size=None)
    genes = report.library_genes or report.shape[1]
    if genes < library_genes / 2:
        text = f"the model's library sizes are over {library_genes:,} genes, and {report.where} has {genes:,}: pass "
        text += "{layer} if raw has them all, or else an input with all of them in X"
        raise InputError(text, code="library-of-fewer-genes", layer="raw")
    return replace(data, library_size=data.depth)


def _other_kind(report: InputReport, estimator: Imputer) -> ModelFormatError:
    text = f"{report.where} has {report.kind} values, but the model was fitted on {estimator.kind_} values"
    return ModelFormatError(f"{text}: pass {{layer}} with such values", code="model-kind", layer=...)


def _check_posterior(report: InputReport) -> None:
    """Check that the values are counts, from which the posterior step can hold out molecules."""
    if report.kind == "real":
        text = f"the posterior step needs counts, but {report.where} is real-valued: pass {{posterior}}"
        raise InputError(text, code="posterior-needs-counts", posterior=False)
    if report.state != "counts" and not report.state.endswith("_counts"):
        text = f"the posterior step needs counts, but {report.where} looks {report.state}: pass {{layer}} with counts"
        raise InputError(f"{text}, or {{posterior}}", code="not-integers", posterior=False, layer=...)


def _check_range(report: InputReport, estimator: Imputer, state: str | None) -> None:
    """Check that real values are in the model's unit, as far as their range can tell."""
    low, high = estimator.bounds_
    if report.minimum is None or report.maximum is None:
        return
    if report.minimum < low or report.maximum > high:
        unit, remedy = "of 0 or more", "pass values in the unit of the training data"
        if np.isfinite(high):
            unit = "in 0 to 1 (beta values)"
            remedy = "divide percentages by 100, or convert M-values to beta values"
        remedy += ", or correct the values outside"
    elif report.state == "beta" and state == "real":
        unit, remedy = "beyond 0 to 1 (not beta values)", "pass values in the unit of the training data"
    else:
        return
    values = f"{report.where} holds {report.minimum:.4g} to {report.maximum:.4g}"
    raise InputError(f"{values}, but the model was fitted on values {unit}: {remedy}", code="other-unit-than-model")


def _check_variance_scale(outputs: tuple[Output, ...], plan: Plan) -> None:
    if ("variance" in outputs or plan.options.uncertainty) and plan.scale not in ("counts", "input"):
        text = f"the variance exists on scale 'counts' only, not {plan.scale!r}: leave out the variance or the scale"
        raise InputError(text, code="variance-scale", parameter="outputs")


# -- evaluation --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class EvaluationPlan:
    """The data sets and methods of an evaluation; every method takes every data set."""

    datasets: tuple[Dataset, ...]
    methods: tuple[MethodSpec, ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the user should know, each once."""
        return tuple(dict.fromkeys(message for dataset in self.datasets for message in dataset.messages))


def plan_evaluate(
    inputs: Iterable[tuple[str, AnnData]],
    methods: Iterable[Method | MethodSpec],
    *,
    labels: str | None = None,
    min_genes: int = 0,
    min_cells: int = 0,
    scheme: str = "thin",
    downstream: str | Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    **source: Any,
) -> EvaluationPlan:
    """Check data sets (pairs of name and AnnData) and methods before any is fitted; see `imputome.evaluate`.

    ``source`` are the parameters of `imputome.result.adapt.evaluated`.
    """
    specs = [parse_method(method) for method in methods]
    if not specs:
        text = "there is no method to score: pass one or more {methods}"
        raise InputError(text, code="no-methods", methods=...)
    datasets = [
        to_dataset(checked_anndata(adata), name=name, labels=labels, min_genes=min_genes, min_cells=min_cells, **source)
        for name, adata in inputs
    ]
    if labels is not None and not tuple(downstream) and not stratifies(scheme, options or {}):
        text = f"labels would not be used, since {scheme} has no test rows to stratify: pass {{downstream}}, or leave"
        raise InputError(f"{text} {{labels}} out", code="option-unused", labels=..., downstream="clustering")
    for dataset in datasets:
        with_controls(specs, dataset.data.kind)  # refuses a method that does not take this kind of data
    return EvaluationPlan(tuple(datasets), tuple(specs))
