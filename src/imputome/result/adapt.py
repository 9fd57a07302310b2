"""From AnnData to what a method takes: the state of the matrix, the scale of the result, genes and covariates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.data import Data, Kind, as_data, in_memory
from imputome.core.info import MethodInfo
from imputome.core.links import link
from imputome.core.scales import SCALES, TARGET, Scale, scale_to_counts
from imputome.errors import InputError, Message
from imputome.inspection.state import InputReport, inspect
from imputome.inspection.tails import heavy_tailed
from imputome.methods.deep.covariates import MAX_LEVELS, meaning

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Purpose = Literal["impute", "fit", "apply"]


def inspect_layer(adata: AnnData, layer: str | None) -> InputReport:
    """What is known of the matrix to impute."""
    return inspect(adata, layer=layer)


def checked_state(
    report: InputReport,
    method: MethodInfo,
    *,
    scale: Scale | None,
    purpose: Purpose = "impute",
    kind: Kind | None = None,
) -> tuple[InputReport, Scale]:
    """Check that a method can take the matrix of a report; the report, and the scale of the values to be written.

    ``scale`` is the scale asked for; for normalised or logged values, naming their scale is the consent to impute on
    them. Only the purpose ``"impute"`` needs missing values; ``"apply"`` learns nothing, so one cell is enough for it.
    ``kind`` is that of the data of the model to apply. Real values without a missing one, which can look like counts,
    are marked as real in the report.
    """
    if scale is not None and scale not in SCALES:
        raise InputError(f"{{scale}} is not one of {', '.join(SCALES)}", code="unknown-scale", scale=scale)
    errors = [error for error in report.errors if not (purpose == "apply" and error.code == "too-small")]
    if errors:
        raise InputError(errors[0])
    if purpose != "impute":
        report = _perhaps_complete(report, method, kind)
    where, state = report.where, report.state
    if state in ("log1p", "normalized") and "counts" in method.kinds:
        code = {"log1p": "looks-log1p", "normalized": "looks-normalized"}[state]
        warnings = {warning.code: warning for warning in report.warnings}
        if state == "log1p" and "log-base" in warnings:
            raise InputError(warnings["log-base"])
        if scale not in (state, "input"):
            message = Message(f"{where} looks {state}: pass {{layer}} with the counts", code=code, layer=...)
            raise InputError(warnings.get(code, message))
    if report.kind == "counts" and "counts" not in method.kinds:
        text = f"{where} holds counts ({state}), but {method.name} imputes NaN: choose a method for counts"
        raise InputError(text, code="wrong-kind", parameter="method")
    if report.kind == "real":
        if report.n_nan == 0 and purpose == "impute":
            text = f"{where} looks {state} and has no NaN: pass {{layer}} with the counts, or mark missing ones by NaN"
            raise InputError(text, code="nothing-missing", layer=...)
        if "real" not in method.kinds:
            text = (
                f"{where} has real values ({report.n_nan:,} NaN), but {method.name} needs counts: choose another method"
            )
            raise InputError(text, code="wrong-kind", parameter="method")
        if scale not in (None, "input"):
            text = f"scale={scale!r} needs counts, and {where} is real-valued: leave {{scale}} out"
            raise InputError(text, code="scale-needs-counts", scale=...)
        return report, "input"
    if state == "counts":
        return report, scale or "counts"
    return report, "log1p" if state == "log1p" else "normalized"  # "input": the state that the values came in


def _perhaps_complete(report: InputReport, method: MethodInfo, kind: Kind | None) -> InputReport:
    """The report, marked as real if the values must be real: without a missing one they can look like log counts."""
    real = kind == "real" if kind else method.kinds == {"real"}
    if not real or report.n_nan or report.state == "counts":
        return report
    return replace(report, kind="real", state=report.state if report.kind == "real" else "real", warnings=())


def to_data(adata: AnnData, report: InputReport, *, layer: str | None) -> Data:
    """The matrix as a method takes it; normalised and logged values go back to the linear scale per 10,000."""
    X = in_memory(adata.X if layer is None else adata.layers[layer])
    names = {"obs_names": adata.obs_names, "var_names": adata.var_names}
    if report.kind == "real" or report.state == "counts":
        return as_data(X, kind=report.kind, **names)
    data = as_data(X, kind="counts", library_size=np.full(adata.n_obs, TARGET), **names)
    if report.state == "log1p":
        values = scale_to_counts(data.X.data, np.array(TARGET), "log1p")
        data = replace(data, X=type(data.X)((values, data.X.indices, data.X.indptr), shape=data.shape))
    return data


def chosen_link(data: Data, method: MethodInfo, transform: str | None) -> tuple[str, list[Message]]:
    """The name of the transform to impute on, and a message where the user did not choose it."""
    if transform == "none" or (transform is None and (data.kind == "counts" or method.control)):
        return "identity", []
    if transform is not None:
        if data.kind == "counts":
            text = f"the transform {transform} is for real values, and these are counts: leave {{transform}} out"
            raise InputError(text, code="transform-needs-real", transform=...)
        return link(transform).name, []
    tails = heavy_tailed(data.X)
    if tails is None:
        return "identity", []
    text = f"{tails.line()}: values are imputed on the arcsinh scale and taken back; {{transform}} switches this off"
    return "asinh", [Message(text, code="asinh-chosen", transform="none")]


def covariate_columns(adata: AnnData, names: Iterable[str]) -> pd.DataFrame:
    """Columns of ``obs``, by name."""
    names = list(names)
    for name in names:
        _check_column(adata.obs, name, table="obs", parameter="covariates")
    return adata.obs[names]


def covariates_to_learn(adata: AnnData, names: Iterable[str]) -> tuple[pd.DataFrame, list[Message]]:
    """Columns of ``obs`` that a model learns from, and what the user should know of them.

    ``"<name>:number"`` and ``"<name>:category"`` say what a column of numbers is. Without it, whole numbers are what
    `imputome.methods.deep.covariates.meaning` says; those that can be either are refused.
    """
    import pandas as pd

    table: dict[str, pd.Series] = {}
    messages = []
    for name in names:
        column, _, told = name.rpartition(":")
        if name in adata.obs or told not in ("number", "category"):
            column, told = name, ""
        values = covariate_columns(adata, [column])[column]
        if column in table:
            text = f"the covariate {column!r} is given twice: give each column once"
            raise InputError(text, code="covariate-duplicate", parameter="covariates")
        is_number = values.dtype.kind in "iuf"
        if told == "number" and not is_number:
            text = f"obs[{column!r}] holds no numbers: pass {{covariates}}"
            raise InputError(text, code="covariate-type", covariates=f"{column}:category")
        taken_for = told or meaning(values)
        levels = f"obs[{column!r}] has {values.nunique():,} different whole numbers"
        if taken_for == "unclear":
            text = f"{levels}: pass {{covariates}} if they are a quantity, or {column}:category if they are categories"
            raise InputError(text, code="covariate-unclear", covariates=f"{column}:number")
        if not told and is_number and 1 < values.nunique() <= MAX_LEVELS and (values.dropna() % 1 == 0).all():
            other = "category" if taken_for == "number" else "number"
            here = "a quantity" if taken_for == "number" else "categories"
            text = f"{levels}, which are taken as {here}: pass {{covariates}} if they are not"
            messages.append(Message(text, code="covariate-whole-numbers", covariates=f"{column}:{other}"))
        if is_number:
            # every method then takes them for the same: text is a category, and a float a quantity
            numbers = pd.Series(values.to_numpy(np.float64, na_value=np.nan), index=values.index)
            values = numbers if taken_for == "number" else values.astype(object)
        table[column] = values
    return pd.DataFrame(table, index=adata.obs.index), messages


def gene_names(adata: AnnData, column: str | None) -> pd.Index:
    """Names of the genes as text: ``var_names``, or a column of ``var``."""
    import pandas as pd

    if column is not None:
        _check_column(adata.var, column, table="var", parameter="gene_column")
    return pd.Index(adata.var_names if column is None else adata.var[column]).astype(str)


def _check_column(columns: pd.DataFrame, name: str, *, table: str, parameter: str) -> None:
    if name not in columns:
        known = ", ".join(map(str, columns.columns)) or "none"
        text = f"{table} has no column {name!r}; columns: {known}"
        raise InputError(text, code=f"no-{table}-column", parameter=parameter)


def gene_positions(adata: AnnData, genes: Any, *, column: str | None = None) -> np.ndarray:
    """Positions of genes that are given as names (of ``var_names``, or of a column of ``var``), positions or a mask."""
    names = gene_names(adata, column)
    if isinstance(genes, Iterable) and not hasattr(genes, "__array__"):  # a set or a generator too
        genes = [genes] if isinstance(genes, str) else list(genes)
    asked = np.atleast_1d(np.asarray(genes))
    if asked.dtype == bool:
        if len(asked) != adata.n_vars:
            text = f"the gene mask has {len(asked)} values for {adata.n_vars} genes"
            raise InputError(text, code="genes-mask", parameter="genes")
        positions = np.flatnonzero(asked)
    elif asked.dtype.kind in "iu":
        positions = asked
        if len(asked) and not (asked.min() >= 0 and asked.max() < adata.n_vars):
            text = f"gene positions must be from 0 to {adata.n_vars - 1}"
            raise InputError(text, code="genes-out-of-range", parameter="genes")
    else:
        unknown = [str(name) for name in asked if name not in names]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            source = "var_names" if column is None else f"var[{column!r}]"
            text = f"gene {unknown[0]!r}{more} not found in {source} (which has {names[0]!r}, ...)"
            raise InputError(text, code="unknown-gene", parameter="genes")
        positions = np.flatnonzero(names.isin(asked))
    if len(positions) == 0:
        raise InputError("no genes are selected: give at least one", code="no-genes", parameter="genes")
    return positions
