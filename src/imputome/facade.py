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

from imputome.errors import InputError, MissingExtraError
from imputome.layers import check_free, checked_key, checked_outputs, default_key, store
from imputome.methods import DEFAULT, WITHOUT_EXTRAS, get, info, names
from imputome.methods.base import Data, Imputation, Imputer, MethodInfo, Output, as_data, in_memory
from imputome.methods.parameters import check_parameters
from imputome.preprocessing.counts import SCALES, TARGET, Scale, scale_to_counts
from imputome.preprocessing.inspect import InputReport, inspect, too_small

if TYPE_CHECKING:
    import pandas as pd
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
    outputs: Iterable[str] = (),
    params: dict[str, Any] | None = None,
    posterior: bool | None = None,
    overwrite: bool = False,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Impute the missing values of an AnnData into a new layer; ``X`` is never touched.

    Parameters
    ----------
    adata : n cells x G genes. Counts (a zero may be a dropout), or real values with NaN for missing.
    method : a registered name, see ``imputome.methods.names()``; None takes the default for this kind of data
        (``imputome.methods.DEFAULT``).
    layer : layer to impute; None takes ``X``.
    key_added : name of the new layer; None takes the method's name (``<method>_posterior`` with ``posterior=True``).
    genes : names, positions or a boolean mask: only these are written, though all are fitted. A layer cannot hold some
        genes only, so they go to ``obsm[key]`` as a DataFrame; with ``copy=True`` the copy has only these genes and
        they go to its layer.
    covariates : names of columns of ``obs``, for the methods that use them.
    keep_observed : whether observed values stay as they are; None takes the method's habit.
    scale : scale of what is written: ``"counts"`` (this cell's depth), ``"normalized"`` (per 10,000), ``"log1p"`` or
        ``"input"``. If the input itself is normalised or logged, naming its scale here is the consent to impute on it.
    outputs : what is written beside the value, each to a layer ``<key>_<output>``: ``"variance"``, ``"lower"``,
        ``"upper"``, ... as far as the method has them (the posterior step has these three).
    params : parameters of the method, by name.
    posterior : combine the method's rate with the cell's own counts; None takes the method's default.
    overwrite : replace an existing layer of that name.
    random_state : seed.
    copy : return a changed copy instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Results are in ``layers[key]``, ``obsm["X_<key>"]`` (latent representation, where there is one),
    ``var["<key>_..."]`` (per gene), ``obs["<key>_..."]`` (per cell) and ``uns["imputome"][key]``: method, parameters,
    seed, versions, state of the input, scale, rows and columns without an observed value, seconds, peak memory,
    convergence.

    Raises
    ------
    InputError
        The input cannot be imputed as it is; the message says what was seen and what to pass.
    """
    report = None
    if method is None:
        report = inspect_layer(adata, layer)
        method = default_method(report)
    estimator = make_estimator(method, params=params, posterior=posterior, random_state=random_state)
    key = checked_key(adata, key_added or default_key(estimator))
    wanted = checked_outputs(estimator, outputs)
    check_free(adata, key, wanted, room="obsm" if genes is not None and not copy else "layers", overwrite=overwrite)
    columns = None if genes is None else gene_positions(adata, genes)
    check_memory(adata.n_obs, (adata.n_vars if columns is None else len(columns)) * (1 + len(wanted)))
    run = run_method(
        adata,
        estimator,
        layer=layer,
        covariates=covariates,
        keep_observed=keep_observed,
        scale=scale,
        outputs=wanted,
        report=report,
    )
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
    outputs: tuple[Output, ...] = (),
    report: InputReport | None = None,
    progress: Progress | None = None,
) -> Run:
    """Inspect the input (unless its report is given), fit, and return the lazy result with its story, unwritten."""
    data, report, out_scale = to_data(adata, estimator.info, layer=layer, scale=scale, report=report)
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
    messages = list(report.warnings)
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


def default_method(report: InputReport) -> str:
    """The method for those who name none.

    Raises
    ------
    InputError
        There is none for this kind of data.
    MissingExtraError
        It needs an optional dependency; the message says what works without.
    """
    if report.errors:
        raise InputError(report.errors[0])
    if report.kind not in DEFAULT:
        known = ", ".join(name for name in names() if report.kind in info(name).kinds)
        raise InputError(
            f"{report.where} looks {report.state}, and for real values there is no default method: choose one with "
            f"--method (method=...) of {known}"
        )
    name = DEFAULT[report.kind]
    try:
        get(name)
    except MissingExtraError as error:
        raise MissingExtraError(f"{error}, or pass method='{WITHOUT_EXTRAS}', which needs no more") from error
    return name


def inspect_layer(adata: AnnData, layer: str | None) -> InputReport:
    """What is said of the matrix to impute; a layer that is not there is refused."""
    if layer is not None and layer not in adata.layers:
        there = ", ".join(adata.layers) or "none"
        raise InputError(f"there is no layer {layer!r}; layers here: {there}")
    return inspect(adata, layer=layer)


def to_data(
    adata: AnnData,
    method: MethodInfo,
    *,
    layer: str | None,
    scale: Scale | None,
    report: InputReport | None = None,
    fitted: bool = False,
) -> tuple[Data, InputReport, Scale]:
    """The matrix as the method takes it, its report, and the scale that will be written.

    Normalised and logged matrices are taken back to the linear scale per 10,000 where the user names their scale;
    anything else that is not what the method takes is refused with what to pass instead. A ``fitted`` method learns
    nothing more, so that a single cell is enough for it.
    """
    if scale is not None and scale not in SCALES:
        raise InputError(f"scale={scale!r} is not one of {', '.join(SCALES)}")
    report = report or inspect_layer(adata, layer)
    errors = [text for text in report.errors if not (fitted and text == too_small(report))]
    if errors:
        raise InputError(errors[0])
    _refuse_mismatch(report, method, scale)
    X = in_memory(adata.X if layer is None else adata.layers[layer])
    names = {"obs_names": adata.obs_names, "var_names": adata.var_names}
    if report.kind == "real":
        if scale not in (None, "input"):
            raise InputError(f"scale={scale!r} needs counts; {report.where} is real-valued: leave scale out")
        return as_data(X, kind="real", **names), report, "input"
    if report.state == "counts":
        return as_data(X, kind="counts", **names), report, scale or "counts"
    data = as_data(X, kind="counts", library_size=np.full(adata.n_obs, TARGET), **names)
    if report.state == "log1p":
        values = scale_to_counts(data.X.data, np.array(TARGET), "log1p")
        data = replace(data, X=type(data.X)((values, data.X.indices, data.X.indptr), shape=data.shape))
    # "the input's own scale" is the state it came in
    return data, report, "log1p" if report.state == "log1p" else "normalized"


def _refuse_mismatch(report: InputReport, method: MethodInfo, scale: Scale | None) -> None:
    where, state = report.where, report.state
    if state == "log1p" and (base := next((text for text in report.warnings if "multiply by ln(" in text), None)):
        raise InputError(base)
    if state in ("log1p", "normalized") and "counts" in method.kinds and scale not in (state, "input"):
        raise InputError(_first(report.warnings, state) or f"{where} looks {state}: pass the layer with the counts")
    if report.kind == "counts" and "counts" not in method.kinds:
        raise InputError(f"{where} holds counts ({state}), and {method.name} fills NaN: choose a method for counts")
    if report.kind == "real" and report.n_nan == 0:
        raise InputError(
            f"{where} looks {state} and has no NaN, so nothing is missing: pass the layer that holds the counts, "
            "or mark missing values by NaN"
        )
    if report.kind == "real" and "real" not in method.kinds:
        raise InputError(
            f"{where} is real-valued with {report.n_nan:,} NaN, and {method.name} takes counts: "
            "choose a method for real values (`imputome methods`)"
        )


def _first(messages: Iterable[str], state: str) -> str | None:
    word = {"log1p": "log", "normalized": "normali"}[state]
    return next((text for text in messages if word in text), None)


def covariate_columns(adata: AnnData, names: list[str]) -> pd.DataFrame:
    """Columns of ``obs``, by name."""
    missing = [name for name in names if name not in adata.obs]
    if missing:
        there = ", ".join(map(str, adata.obs.columns)) or "none"
        raise InputError(f"obs has no column {missing[0]!r}; columns: {there}")
    return adata.obs[names]


def check_scale_of(outputs: Iterable[Output], scale: Scale) -> None:
    """Refuse, before the work, the one output that cannot be put on every scale."""
    if "variance" in outputs and scale not in ("counts", "input"):
        raise InputError(f"the variance is given on scale 'counts' only, not {scale!r}: leave it or the scale out")


def gene_positions(adata: AnnData, genes: Any, *, column: str | None = None) -> np.ndarray:
    """Positions of genes given by name (of ``var_names``, or of a column of ``var``), position or boolean mask."""
    import pandas as pd

    if column is not None and column not in adata.var:
        raise InputError(f"var has no column {column!r}; columns: {', '.join(map(str, adata.var.columns)) or 'none'}")
    names = adata.var_names if column is None else pd.Index(adata.var[column].astype(str))
    wanted = np.atleast_1d(np.asarray(genes))
    if wanted.dtype == bool:
        if len(wanted) != adata.n_vars:
            raise InputError(f"the gene mask has {len(wanted)} values for {adata.n_vars} genes")
        positions = np.flatnonzero(wanted)
    elif wanted.dtype.kind in "iu":
        positions = wanted
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < adata.n_vars):
            raise InputError(f"gene positions must lie in 0 to {adata.n_vars - 1}")
    else:
        found = names.isin(wanted)
        lost = [str(name) for name in wanted if name not in names]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            source = "var_names" if column is None else f"var[{column!r}]"
            raise InputError(f"gene {lost[0]!r}{more} not found in {source} (which has {names[0]!r}, ...)")
        positions = np.flatnonzero(found)
    if len(positions) == 0:
        raise InputError("no genes are selected: give at least one")
    return positions


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
