"""From AnnData to what a method takes: which state the matrix is in, on which scale it is imputed, which genes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.data import Data, Kind, as_data, in_memory
from imputome.core.imputation import Output
from imputome.core.info import MethodInfo
from imputome.core.links import link
from imputome.core.scales import SCALES, TARGET, Scale, scale_to_counts
from imputome.errors import InputError
from imputome.inspection.state import InputReport, inspect, too_small
from imputome.inspection.tails import heavy_tailed

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Purpose = Literal["impute", "fit", "apply"]


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
    purpose: Purpose = "impute",
    kind: Kind | None = None,
) -> tuple[Data, InputReport, Scale]:
    """The matrix as the method takes it, its report, and the scale that will be written.

    Normalised and logged matrices are taken back to the linear scale per 10,000 where the user names their scale;
    anything else that is not what the method takes is refused with what to pass instead.

    Parameters
    ----------
    purpose : only ``"impute"`` needs something missing: a model may be fitted on complete rows, and applied to them.
        One that is applied learns nothing more, so that a single cell is enough for it.
    kind : of data that the model to be applied was fitted on.
    """
    if scale is not None and scale not in SCALES:
        raise InputError(f"scale={scale!r} is not one of {', '.join(SCALES)}")
    report = report or inspect_layer(adata, layer)
    errors = [text for text in report.errors if not (purpose == "apply" and text == too_small(report))]
    if errors:
        raise InputError(errors[0])
    if purpose != "impute":
        report = _perhaps_complete(report, method, kind)
    _refuse_mismatch(report, method, scale, purpose)
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


def _perhaps_complete(report: InputReport, method: MethodInfo, kind: Kind | None) -> InputReport:
    """The report of real values without a hole, which alone look like counts, or their logs."""
    real = kind == "real" if kind else method.kinds == {"real"}
    if not real or report.n_nan or report.state == "counts":
        return report
    return replace(report, kind="real", state=report.state if report.kind == "real" else "real", warnings=())


def _refuse_mismatch(report: InputReport, method: MethodInfo, scale: Scale | None, purpose: Purpose) -> None:
    where, state = report.where, report.state
    if state == "log1p" and (base := next((text for text in report.warnings if "multiply by ln(" in text), None)):
        raise InputError(base)
    if state in ("log1p", "normalized") and "counts" in method.kinds and scale not in (state, "input"):
        raise InputError(_first(report.warnings, state) or f"{where} looks {state}: pass the layer with the counts")
    if report.kind == "counts" and "counts" not in method.kinds:
        raise InputError(f"{where} holds counts ({state}), and {method.name} fills NaN: choose a method for counts")
    if report.kind == "real" and report.n_nan == 0 and purpose == "impute":
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


def chosen_link(data: Data, method: MethodInfo, transform: str | None) -> tuple[str, list[str]]:
    """The name of the link to impute on, and what is to be said of a choice that the user did not make."""
    if transform == "none" or (transform is None and (data.kind == "counts" or method.control)):
        return "identity", []
    if transform is not None:
        if data.kind == "counts":
            raise InputError(f"the transform {transform} is for real values, and these are counts: leave it out")
        return link(transform).name, []
    tails = heavy_tailed(data.X)
    if tails is None:
        return "identity", []
    said = (
        f"{tails.line()}: imputed on the asinh scale and taken back (transform='none', --transform none, does without)"
    )
    return "asinh", [said]


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
