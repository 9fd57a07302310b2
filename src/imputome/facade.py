"""`imputome.impute`: AnnData -> recipe -> estimator -> new layer and provenance."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.automatic import BUDGET, choose
from imputome.errors import InputError, MissingExtraError
from imputome.intake import (
    Purpose,
    check_scale_of,
    chosen_link,
    covariate_columns,
    gene_positions,
    inspect_layer,
    to_data,
)
from imputome.layers import check_free, checked_key, checked_outputs, default_key, store
from imputome.methods import DEFAULT, WITHOUT_EXTRAS, get
from imputome.methods.base import Imputation, Imputer, Output
from imputome.methods.parameters import check_parameters
from imputome.preprocessing.advice import advised_method
from imputome.preprocessing.counts import Scale
from imputome.preprocessing.inspect import InputReport

if TYPE_CHECKING:
    from anndata import AnnData

Progress = Callable[[float, str], None]


def impute(
    adata: AnnData,
    *,
    method: str | None = None,
    layer: str | None = None,
    key_added: str | None = None,
    genes: Any = None,
    covariates: Iterable[str] | None = None,
    keep_observed: bool | None = None,
    scale: Scale | None = None,
    transform: str | None = None,
    outputs: Iterable[str] = (),
    params: dict[str, Any] | None = None,
    posterior: bool | None = None,
    check: bool | None = None,
    labels: str | Iterable[str] = (),
    budget: float | None = None,
    accept_control: bool = False,
    overwrite: bool = False,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Impute the missing values of an AnnData into a new layer; ``X`` is never touched.

    Parameters
    ----------
    adata : n cells x G genes. Counts (a zero may be a dropout), or real values with NaN for missing.
    method : a registered name, see ``imputome.methods.names()``; None takes the default for this kind of data
        (``imputome.methods.DEFAULT``), or for real values too few to learn from the mean. ``"auto"`` lets methods race
        against controls on held-out values of a sample (`imputome.automatic.choose`).
    layer : layer to impute; None takes ``X``.
    key_added : name of the new layer; None takes the method's name (``<method>_posterior`` with ``posterior=True``).
    genes : names, positions or a boolean mask: only these are written, though all are fitted. A layer cannot hold some
        genes only, so they go to ``obsm[key]`` as a DataFrame; with ``copy=True`` the copy has only these genes and
        they go to its layer.
    covariates : names of columns of ``obs``, for the methods that use them.
    keep_observed : whether observed values stay as they are; None takes the method's habit.
    scale : scale of what is written: ``"counts"`` (this cell's depth), ``"normalized"`` (per 10,000), ``"log1p"`` or
        ``"input"``. If the input itself is normalised or logged, naming its scale here is the consent to impute on it.
    transform : what real values are imputed on, ``"asinh"``, ``"clip"``, ``"logit"`` or ``"none"`` (see
        `imputome.preprocessing.link`); results are in the input's own unit. None takes asinh for values with heavy
        tails, unless the method is a control, and says so.
    outputs : what is written beside the value, each to a layer ``<key>_<output>``: ``"variance"``, ``"lower"``,
        ``"upper"``, ... as far as the method has them (the posterior step has these three).
    params : parameters of the method, by name.
    posterior : combine the method's rate with the cell's own counts; None takes the method's default.
    check : judge the imputation on held-out values of a sample of the cells, beside controls, and put the verdict into
        the record. A few fits more; None: only with ``method="auto"``.
    labels : columns of ``obs`` with types or batches, of which the check looks whether they move together.
    budget, accept_control : minutes for ``"auto"`` (None: 5), and whether to take the best control where nothing beats
        it.
    overwrite : replace an existing layer of that name.
    random_state : seed.
    copy : return a changed copy instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Results are in ``layers[key]``, ``obsm["X_<key>"]`` (latent representation, where there is one),
    ``var["<key>_..."]`` (per gene), ``obs["<key>_..."]`` (per cell) and ``uns["imputome"][key]``: method, parameters,
    seed, versions, state of the input, scale, rows and columns without an observed value, seconds, peak memory,
    convergence, and of a check the verdict with all it rests on.

    Raises
    ------
    InputError
        The input cannot be imputed as it is; the message says what was seen and what to pass.
    ControlsWinError
        With ``"auto"``, where no method beats the controls.
    """
    from imputome.checking import check_run, label_columns, refuse_uncheckable

    automatic = method == "auto"
    labels = [labels] if isinstance(labels, str) else list(labels)
    if labels and not (check or (automatic and check is None)):
        raise InputError("labels are for the check, which is not made: pass check=True, or leave them out")
    if not automatic and (accept_control or budget is not None):
        name = "accept_control" if accept_control else "budget"
        raise InputError(f"{name} is for method='auto': leave it out")
    report = inspect_layer(adata, layer)
    further: dict[str, Any] = {}
    columns = None if genes is None else gene_positions(adata, genes)
    room = "obsm" if genes is not None and not copy else "layers"
    if check:
        refuse_uncheckable(report)
        label_columns(adata, labels)
    if automatic:
        if key_added is not None:  # before the race, not after it
            check_free(adata, checked_key(adata, key_added), (), room=room, overwrite=overwrite)
        refuse_with_auto(params=params, posterior=posterior is not None, covariates=covariates, outputs=outputs)
        chosen = choose(
            adata,
            layer=layer,
            scale=scale,
            transform=transform,
            report=report,
            budget=BUDGET if budget is None else budget,
            accept_control=accept_control,
            checked=check is not False,
            labels=labels,
            keep_observed=keep_observed,
            seed=random_state,
        )
        estimator, further, check = chosen.estimator, chosen.record, False
    else:
        name = default_method(report) if method is None else method
        estimator = make_estimator(name, params=params, posterior=posterior, random_state=random_state)
    key = checked_key(adata, key_added or default_key(estimator))
    wanted = checked_outputs(estimator, outputs)
    check_free(adata, key, wanted, room=room, overwrite=overwrite)
    check_memory(adata.n_obs, (adata.n_vars if columns is None else len(columns)) * (1 + len(wanted)))
    run = run_method(
        adata,
        estimator,
        layer=layer,
        covariates=covariates,
        keep_observed=keep_observed,
        scale=scale,
        transform=transform,
        outputs=wanted,
        report=report,
    )
    run = replace(run, further=further)
    if check:
        run = check_run(run, adata, labels=labels, seed=random_state)
    for message in run.messages:
        warnings.warn(message, stacklevel=2)
    return store(adata, run, key, genes=columns, keep_observed=keep_observed, copy=copy)


@dataclass(frozen=True)
class Run:
    """A fitted method with all that is worth keeping of how it came about."""

    imputation: Imputation
    estimator: Imputer
    report: InputReport
    scale: Scale
    keep_observed: bool
    seconds: float
    messages: tuple[str, ...]
    outputs: tuple[Output, ...] = ()
    further: dict[str, Any] = field(default_factory=dict)  # what the provenance says beside, or instead

    @property
    def size(self) -> str:
        """Number of rows and columns in the words of the kind of data."""
        rows, columns = ("cells", "genes") if self.imputation.data.kind == "counts" else ("samples", "features")
        return f"{self.imputation.shape[0]:,} {rows} x {self.imputation.shape[1]:,} {columns}"

    def provenance(self) -> dict[str, Any]:
        """What goes to ``uns["imputome"][key]``: plain values and string arrays that every AnnData format can hold."""
        result, status = self.imputation, self.imputation.status
        return {
            "method": self.estimator.name,
            "params": json.dumps(self.estimator.get_params()),
            "random_state": getattr(self.estimator, "random_state", 0),
            "versions": {name: version(name) for name in ("imputome", "numpy", "scipy", "anndata")},
            "input": {"where": self.report.where, "state": self.report.state, "kind": result.data.kind},
            "scale": self.scale,
            "transform": self.estimator.link,
            "keep_observed": self.keep_observed,
            "posterior": self.estimator.posterior,
            "outputs": np.array(self.outputs, dtype=str),
            "gene_columns": np.array(list(result.gene_columns), dtype=str),
            "cell_columns": np.array(list(result.cell_columns), dtype=str),
            "unusable_cells": np.array(result.unusable.obs_names, dtype=str),
            "unusable_genes": np.array(result.unusable.var_names, dtype=str),
            "unusable_filled_with": result.unusable.fallback,
            "seconds": self.seconds,
            "peak_memory_bytes": peak_memory(),
            "convergence": {
                "status": status.name,
                "converged": status.converged,
                "message": status.message,
                **status.details,
            },
            "history": {name: np.asarray(values) for name, values in result.history.items()},
            **self.further,
        }


def run_method(
    adata: AnnData,
    estimator: Imputer,
    *,
    layer: str | None = None,
    covariates: Iterable[str] | None = None,
    keep_observed: bool | None = None,
    scale: Scale | None = None,
    transform: str | None = None,
    outputs: tuple[Output, ...] = (),
    report: InputReport | None = None,
    purpose: Purpose = "impute",
    progress: Progress | None = None,
) -> Run:
    """Inspect the input (unless its report is given), fit, and return the lazy result with its story, unwritten."""
    data, report, out_scale = to_data(adata, estimator.info, layer=layer, scale=scale, report=report, purpose=purpose)
    messages = list(report.warnings)
    estimator.link, said = chosen_link(data, estimator.info, transform)
    messages += said
    check_scale_of(outputs, out_scale)
    if covariates is not None:
        if not estimator.info.covariates:
            raise InputError(f"{estimator.name} does not use covariates: leave them out")
        data = replace(data, covariates=covariate_columns(adata, list(covariates)))
    if progress is not None:
        progress(0.0, "")
        estimator.progress = progress
    begun = time.perf_counter()
    result = estimator.fit_transform(data)
    seconds = time.perf_counter() - begun
    if result.status.message and not result.status.converged:
        messages.append(f"{estimator.name}: {result.status.message}")
    keeps = result.keeps_observed if keep_observed is None else keep_observed
    return Run(result, estimator, report, out_scale, keeps, seconds, tuple(messages), outputs)


def make_estimator(method: str, *, params: dict[str, Any] | None, posterior: bool | None, random_state: int) -> Imputer:
    """The unfitted estimator; unknown parameters are refused by name."""
    cls = get(method)
    allowed = cls.parameter_defaults()
    given = dict(params or {})
    if posterior is not None:
        if posterior and "posterior" not in allowed:
            raise InputError(f"{method} has no posterior step: its values are not rates of counts")
        if "posterior" in allowed:
            given["posterior"] = posterior
    if "random_state" in allowed:
        given.setdefault("random_state", random_state)
    check_parameters(cls, given)
    # NumPy's numbers would not go into the record of the result
    return cls(**{name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()})


def refuse_with_auto(**given: Any) -> None:
    """Refuse what only some methods have, by the name it is given under, where the method is still to be found."""
    for name, value in given.items():
        if value:
            raise InputError(
                f"{name} is not for every method, and auto is to find one: leave it out, or name the method"
            )


def default_method(report: InputReport) -> str:
    """The method for those who name none: of real values the one that is advised (`advised_method`).

    Raises
    ------
    InputError
        The input cannot be imputed by any.
    MissingExtraError
        It needs an optional dependency; the message says what works without.
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
        raise MissingExtraError(f"{error}, or pass method='{WITHOUT_EXTRAS}', which needs no more") from error
    return name


def peak_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    import resource
    import sys

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def check_memory(n: int, G: int) -> None:
    """Refuse a dense layer that would take more than half of the machine's memory."""
    needed = 4 * n * G
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > total // 2:
        raise InputError(
            f"a dense layer of {n:,} x {G:,} takes {needed / 2**30:.1f} GiB of the {total / 2**30:.1f} GiB here: pass "
            "genes=... for some genes, or use the command line, which writes it in pieces"
        )
