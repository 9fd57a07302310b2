"""From AnnData to what a method takes: the state of the matrix, the scale of the result, genes and covariates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.arrays import check_container, in_memory
from imputome.core.data import Data, Kind, as_data
from imputome.core.info import MethodInfo
from imputome.core.links import link
from imputome.core.scales import (
    INPUT_SCALES,
    SCALES,
    TARGET,
    Scale,
    holds_molecules,
    rounded_matrix,
    transform_of,
    undone,
)
from imputome.core.stored import StoredCounts, stays_stored
from imputome.errors import InputError, Message
from imputome.inspection.features import ALL, features_of
from imputome.inspection.source import find_matrix, is_raw, layer_in_memory, raw_columns
from imputome.inspection.state import AS_REAL, DESCRIPTIONS, InputReport, inspect
from imputome.inspection.summary_rows import summary_rows
from imputome.inspection.tails import heavy_tailed
from imputome.methods.deep.covariates import MAX_LEVELS, meaning

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Purpose = Literal["impute", "fit", "apply"]
# what is refused before an imputation only: a model can be fitted on complete values and applied to one cell
NOT_REFUSED: dict[Purpose, tuple[str, ...]] = {
    "impute": (),
    "fit": ("nothing-missing",),
    "apply": ("nothing-missing", "too-small"),
}


def inspect_layer(
    adata: AnnData,
    layer: str | None,
    kind: Kind | None = None,
    **features: Any,
) -> InputReport:
    """What is known of the matrix to impute; ``features`` are further arguments of `imputome.inspect`."""
    checked_anndata(adata)
    return inspect(adata, layer=layer, kind=kind, **features)


def checked_anndata(adata: Any) -> AnnData:
    """``adata``, if it is an AnnData."""
    check_container(adata)
    if hasattr(adata, "obs_names") and hasattr(adata, "layers"):
        return adata
    text = f"the data must be an AnnData, not {type(adata).__name__}: pass anndata.AnnData(X) with cells in rows"
    if hasattr(adata, "tables"):  # SpatialData
        text = f"the data hold the tables {', '.join(map(str, adata.tables)) or '(none)'}: pass one of them, such as "
        text += "sdata.tables['table']"
    if hasattr(adata, "iloc"):
        text = "the data must be an AnnData, not a DataFrame: pass adata = anndata.AnnData(df) with cells in rows"
        text += "; then adata.to_df(layer) gives the result as a DataFrame"
    raise InputError(text, code="not-anndata", parameter="adata")


def part_of(adata: AnnData, report: InputReport) -> AnnData:
    """The features that a report of `inspect_layer` is about."""
    return adata if report.used is None else adata[:, report.used]


def checked_state(
    report: InputReport,
    method: MethodInfo,
    *,
    scale: Scale | None,
    purpose: Purpose = "impute",
    kind: Kind | None = None,
    allowed: tuple[str, ...] = (),
    round_counts: str | None = None,
    seed: int = 0,
) -> tuple[InputReport, Scale]:
    """Check that a method can take the matrix of a report; the report, and the scale of the values to be written.

    ``scale`` is the scale asked for; for values that are on a scale of counts, naming their scale is the consent to
    impute on it, and tells the scale where the values do not show it. Only the purpose ``"impute"`` needs missing
    values; ``"apply"`` learns nothing, so one cell is enough for it. ``kind`` is that of the data of the model to
    apply. Real values without a missing one, which can look like counts, are marked as real in the report. ``allowed``
    are the codes of errors that the user has answered. A refusal that was answered by ``scale`` becomes a warning.
    ``round_counts`` and ``seed`` say how expected counts become integers (`imputome.core.scales.rounded_matrix`).
    """
    if scale is not None and scale not in SCALES:
        raise InputError(f"{{scale}} is not one of {', '.join(SCALES)}", code="unknown-scale", scale=scale)
    check_structure(report, purpose, allowed)
    if purpose != "impute":
        report = _perhaps_complete(report, method, kind)
    if round_counts is not None:
        report = _to_round(report, round_counts, seed)
    if report.kind == "counts" and "counts" not in method.kinds:
        text = (
            f"{report.where} holds counts ({report.state}), but {method.name} imputes NaN: choose a method for counts"
        )
        text += f", or pass {{kind}} if zeros were measured {AS_REAL}"
        raise InputError(text, code="wrong-kind", kind="real")
    if report.kind == "counts" and report.state != "counts":
        report = _with_consent(report, scale)
    report.check(*allowed, *NOT_REFUSED[purpose])
    where, state = report.where, report.state
    if report.kind == "real":
        if "real" not in method.kinds:
            text = f"{where} has real values ({report.n_nan:,} NaN), but {method.name} needs counts: choose another "
            raise InputError(f"{text}{{method}}", code="wrong-kind", parameter="method", method=...)
        if scale not in (None, "input"):
            text = f"scale={scale!r} needs counts, and {where} is real-valued: leave {{scale}} out"
            raise InputError(text, code="scale-needs-counts", scale=...)
        return report, "input"
    if state == "counts":
        return report, scale or "counts"
    return report, "counts" if state == "expected" else state  # type: ignore[return-value]


def check_structure(report: InputReport, purpose: Purpose, allowed: tuple[str, ...] = ()) -> None:
    """Check all but the scale of the values, before a method is known."""
    report.check(*allowed, *NOT_REFUSED[purpose], *_about_scale(report))


def _perhaps_complete(report: InputReport, method: MethodInfo, kind: Kind | None) -> InputReport:
    """The report, marked as real if the values must be real: without a missing one they can look like log counts."""
    real = kind == "real" if kind else method.kinds == {"real"}
    if not real or report.n_nan or report.state == "counts":
        return report
    state = report.state if report.kind == "real" else "real"
    return replace(_without_refusal(report), kind="real", state=state, warnings=())


def _about_scale(report: InputReport) -> tuple[str, ...]:
    """Codes of the errors about the scale of the values, which the user answers by an option."""
    return "scale-unclear", "nothing-missing", f"looks-{report.state}"


def _without_refusal(report: InputReport) -> InputReport:
    """The report without the errors about the scale of the values."""
    return replace(report, errors=tuple(error for error in report.errors if error.code not in _about_scale(report)))


def _with_consent(report: InputReport, scale: Scale | None) -> InputReport:
    """The report of values on a scale of counts, without the refusal if the user has named the scale that they are on.

    A warning takes the place of the refusal.
    """
    state = report.state
    answers = {
        "expected": ("counts", "input"),
        "unclear": INPUT_SCALES,
        "normalized": ("normalized", "input") if report.certain else ("normalized", "sqrt", "input"),
    }.get(state, (state, transform_of(state), "input"))
    if scale not in answers:
        if scale is not None and state != "unclear":
            text = f"{report.where} looks like {DESCRIPTIONS[state]}, not {scale}: pass {{layer}} with counts, or "
            raise InputError(f"{text}{{scale}}", code=f"looks-{state}", layer=..., scale=answers[0])
        return report
    if not report.certain and scale != "input":
        state = scale  # type: ignore[assignment]
    text = f"{report.where} is taken to be {DESCRIPTIONS[state]}, and the values come back on this scale"
    if not state.endswith("_counts"):
        text += ": raw counts would allow a check and the posterior step"
    warnings = (Message(text, code="scale-taken"), *report.warnings)
    return replace(_without_refusal(report), state=state, warnings=warnings)


def _to_round(report: InputReport, round_counts: str, seed: int) -> InputReport:
    """The report of values that are rounded to counts; normalised and transformed values are refused."""
    if round_counts not in ("nearest", "stochastic"):
        text = f"round_counts={round_counts!r} is not valid: give nearest or stochastic"
        raise InputError(text, code="unknown-rounding", parameter="round_counts")
    if report.state == "counts":
        return report
    rounds = report.state == "expected" or (report.state in ("normalized", "real", "unclear") and not report.n_negative)
    if not rounds or (report.state == "normalized" and report.certain) or (report.kind == "real" and report.n_nan):
        text = f"{{round_counts}} is for expected counts, and {report.where} looks like {DESCRIPTIONS[report.state]}"
        raise InputError(f"{text}: leave it out", code="not-expected-counts", round_counts=...)
    report = _without_refusal(report)
    return replace(report, state="counts", kind="counts", rounding=round_counts, rounding_seed=seed)


def to_data(adata: AnnData, report: InputReport, *, layer: str | None, rows: np.ndarray | None = None) -> Data:
    """The matrix as a method takes it; values on a scale go back to counts, or to the linear scale per 10,000.

    Only the features that the report is about are taken. NaN in counts become zeros. If ``raw`` has more genes than
    ``X``, library sizes are over all of them. Raw counts that are not in memory and large stay where they are. ``rows``
    are the positions of the rows in the whole matrix, if these are some of them: random rounding depends on them.
    """
    if report.state == "counts" and report.rounding is None and not report.n_nan and not is_raw(adata, layer):
        matrix = find_matrix(adata, layer, report.used)[0]
        if isinstance(matrix, StoredCounts) or stays_stored(matrix):
            X = matrix if isinstance(matrix, StoredCounts) else StoredCounts(matrix)
            var_names = adata.var_names if report.used is None else adata.var_names[report.used]
            return as_data(X, kind="counts", obs_names=adata.obs_names, var_names=var_names)
    adata = part_of(adata, report)
    names = {"obs_names": adata.obs_names, "var_names": adata.var_names}
    if report.kind == "real":
        return as_data(layer_in_memory(adata, layer), kind="real", **names)
    columns = raw_columns(adata) if is_raw(adata, layer) else None
    X = in_memory(find_matrix(adata, layer)[0])
    X, library = to_molecules(X, report.state, report.rounding, seed=report.rounding_seed, rows=rows), None
    if not holds_molecules(report.state):
        library = np.full(adata.n_obs, TARGET)
    elif columns is not None:
        counted = counted_of_raw(adata, report.feature_type, adata.var_names)
        library = np.asarray((X if counted is None else X[:, counted]).sum(axis=1)).ravel()
    return as_data(X if columns is None else X[:, columns], kind="counts", library_size=library, **names)


def counted_of_raw(adata: AnnData, feature_type: str, imputed: Iterable[object]) -> np.ndarray | None:
    """Positions of the features of ``raw`` that count to the library sizes; None means all.

    Summary rows count if some are among the names of the ``imputed`` features.
    """
    keep = bool(summary_rows(imputed).any())
    given = {"default": feature_type} if feature_type else {"feature_type": ALL}
    features = features_of(adata.raw.var, keep_summary_rows=keep, **given)
    return None if features is None else np.flatnonzero(features.used)


def to_molecules(X: Any, state: str, rounding: str | None, *, seed: int = 0, rows: np.ndarray | None = None) -> Any:
    """Counts, or values linear in counts, from a matrix in a state of counts: an ndarray or ``csr_array``.

    ``rows`` are the positions of the rows in the whole matrix, on which random rounding depends.
    """
    values = X if isinstance(X, np.ndarray) else X.data
    missing = np.isnan(values)
    if missing.any() or transform_of(state):
        values = undone(np.where(missing, 0, values), state)
        X = values if isinstance(X, np.ndarray) else type(X)((values, X.indices, X.indptr), shape=X.shape)
    if rounding is None:
        return X
    return rounded_matrix(X, rounding, seed=seed, rows=np.arange(X.shape[0]) if rows is None else rows)


def evaluated(
    adata: AnnData,
    *,
    layer: str | None,
    feature_type: str | None = None,
    keep_summary_rows: bool = False,
    kind: Kind | None = None,
    round_counts: str | None = None,
    seed: int = 0,
    allowed: tuple[str, ...] = (),
) -> tuple[InputReport, Data]:
    """Counts or real values to hide values in, complete or not, and their report; other scales of counts are refused.

    The parameters are those of `checked_state` and of `imputome.impute`.
    """
    kind = "counts" if kind is None and round_counts is not None else kind
    report = inspect_layer(adata, layer, kind, feature_type=feature_type, keep_summary_rows=keep_summary_rows)
    check_structure(report, "fit", allowed)
    if round_counts is not None:
        report = _to_round(report, round_counts, seed)
    if report.kind == "counts" and report.state != "counts" and not report.state.endswith("_counts"):
        text = f"{report.where} looks like {DESCRIPTIONS[report.state]}, and values are hidden in raw counts or real "
        text += "values: pass {layer} with raw counts, "
        options: dict[str, Any] = {"layer": ..., "kind": "real"}
        if report.state == "expected":
            text, options = f"{text}{{round_counts}}, ", {**options, "round_counts": "nearest"}
        raise InputError(f"{text}or {{kind}}", code="not-integers", **options)
    return report, to_data(adata, report, layer=layer)


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

    names = list(names)
    table: dict[str, pd.Series] = {}
    messages = []
    for place, name in enumerate(names):
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
            raise InputError(text, code="covariate-type", covariates=_all_with(names, place, f"{column}:category"))
        few_whole = is_number and 1 < values.nunique() <= MAX_LEVELS and bool((values.dropna() % 1 == 0).all())
        # a column of integers becomes one of floats where tables are joined; that makes no quantity of a batch
        taken_for = told or meaning(values.dropna().astype(np.int64) if few_whole else values)
        levels = f"obs[{column!r}] has {values.nunique():,} different whole numbers"
        if taken_for == "unclear":
            text = f"{levels}: pass {{covariates}} if they are a quantity, or {column}:category if they are categories"
            raise InputError(text, code="covariate-unclear", covariates=_all_with(names, place, f"{column}:number"))
        if not told and few_whole:
            other = "category" if taken_for == "number" else "number"
            here = "a quantity" if taken_for == "number" else "categories"
            text = f"{levels}, which are taken as {here}: pass {{covariates}} if they are not"
            messages.append(
                Message(text, code="covariate-whole-numbers", covariates=_all_with(names, place, f"{column}:{other}"))
            )
        if is_number:
            # every method then takes them for the same: text is a category, and a float a quantity
            numbers = pd.Series(values.to_numpy(np.float64, na_value=np.nan), index=values.index)
            values = numbers if taken_for == "number" else values.astype(object)
        table[column] = values
    return pd.DataFrame(table, index=adata.obs.index), messages


def _all_with(names: list[str], place: int, name: str) -> str | list[str]:
    """All names with another one at a place, as they are to be passed."""
    changed = [*names[:place], name, *names[place + 1 :]]
    return changed if len(changed) > 1 else name


def gene_names(adata: AnnData, column: str | None) -> pd.Index:
    """Names of the genes as text: ``var_names``, or a column of ``var``; whole numbers have no decimals.

    Entrez identifiers are floats in a column in which some are missing.
    """
    import pandas as pd

    if column is not None:
        _check_column(adata.var, column, table="var", parameter="gene_column")
    values = pd.Index(adata.var_names if column is None else adata.var[column])
    if values.dtype.kind in "fO":
        values = values.map(lambda each: f"{each:.0f}" if isinstance(each, float) and each.is_integer() else each)
    return values.astype(str)


def _check_column(columns: pd.DataFrame, name: str, *, table: str, parameter: str) -> None:
    if name not in columns:
        known = ", ".join(map(str, columns.columns)) or "none"
        text = f"{table} has no column {name!r}; columns: {known}"
        raise InputError(text, code=f"no-{table}-column", parameter=parameter)


def gene_positions(adata: AnnData, genes: Any, *, column: str | None = None) -> np.ndarray:
    """Positions of genes, in the order in which they are given, with those that are given more than once.

    They are given as names (of ``var_names``, or of a column of ``var``), positions, a slice or a mask; a boolean
    Series with the names of the genes as index is aligned to these.
    """
    names = gene_names(adata, column)
    if isinstance(genes, slice):
        asked = np.arange(adata.n_vars)[genes]
    elif isinstance(genes, str):
        asked = np.array([genes])
    elif hasattr(genes, "reindex") and _is_mask(genes):
        asked = _aligned_mask(genes, adata.var_names)
    elif isinstance(genes, set | frozenset):  # which have no order
        asked = np.array([name for name in names if name in genes] + sorted(map(str, genes - set(names))))
    else:
        asked = np.atleast_1d(np.asarray(list(genes) if isinstance(genes, Iterable) else genes))
    if asked.ndim != 1:
        text = f"genes has shape {asked.shape}: pass a flat list of names or positions, or a mask"
        raise InputError(text, code="genes-shape", parameter="genes")
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
        wanted = list(map(str, asked))
        unknown = [name for name in wanted if name not in names]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            source = "var_names" if column is None else f"var[{column!r}]"
            like = [name for name in names if name.casefold() == unknown[0].casefold()] or [names[0]]
            text = f"gene {unknown[0]!r}{more} not found in {source} (which has {like[0]!r}, ...)"
            raise InputError(text, code="unknown-gene", parameter="genes")
        positions = names.get_indexer_for(wanted)
    if len(positions) == 0:
        raise InputError("no genes are selected: give at least one", code="no-genes", parameter="genes")
    return positions


def _is_mask(values: pd.Series) -> bool:
    from pandas.api.types import is_bool_dtype

    return bool(is_bool_dtype(values.dropna().infer_objects()))


def _aligned_mask(mask: pd.Series, names: pd.Index) -> np.ndarray:
    """A boolean Series in the order of the genes; without names as index it is taken as it is."""
    if mask.isna().any():
        text = "the gene mask has missing values: fill them, for example with .fillna(False)"
        raise InputError(text, code="genes-mask", parameter="genes")
    has_positions = mask.index.equals(mask.reset_index(drop=True).index)
    if len(mask) != len(names) or has_positions or mask.index.equals(names):
        return mask.to_numpy(dtype=bool)
    if not (mask.index.is_unique and names.is_unique and names.isin(mask.index).all()):
        text = "the index of the gene mask has other names than var_names: pass one value for each gene, by name"
        raise InputError(text, code="genes-mask", parameter="genes")
    return mask.reindex(names).to_numpy(dtype=bool)
