"""Models that outlive a session: `fit_model` learns one, `apply_model` imputes new cells with it."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation, Output, Status
from imputome.core.imputer import Imputer
from imputome.core.scales import Scale
from imputome.errors import InputError
from imputome.methods import load
from imputome.result.adapt import check_scale_of, covariate_columns, gene_positions, inspect_layer, to_data
from imputome.result.genes import OwnGenes, match_genes, model_data
from imputome.result.layout import check_free, checked_key, checked_outputs, default_key, store
from imputome.result.run import Run, check_memory, default_method, make_estimator, run_method

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.inspection.state import InputReport
    from imputome.result.run import Progress


# -- learning ----------------------------------------------------------------------------------------------------------
def fit_model(
    adata: AnnData,
    *,
    method: str | None = None,
    layer: str | None = None,
    covariates: Iterable[str] | None = None,
    scale: Scale | None = None,
    transform: str | None = None,
    params: dict[str, Any] | None = None,
    posterior: bool | None = None,
    random_state: int = 0,
) -> Imputer:
    """Fit a method and return the estimator, to be saved (``save``) and applied to new cells (`apply_model`).

    Parameters are those of `imputome.impute`; ``adata`` is left as it is, and need not miss any value. The estimator's
    ``provenance`` (state of the input, versions, how the fit ended) goes into the saved model.

    Raises
    ------
    InputError
        The input cannot be imputed as it is, or the method has no way to impute cells that it was not fitted on.
    """
    report = None
    if method is None:
        report = inspect_layer(adata, layer)
        method = default_method(report)
    estimator = make_estimator(method, params=params, posterior=posterior, random_state=random_state)
    run = run_fit(adata, estimator, layer=layer, covariates=covariates, scale=scale, transform=transform, report=report)
    for message in run.messages:
        warnings.warn(message, stacklevel=2)
    return run.estimator


def run_fit(
    adata: AnnData,
    estimator: Imputer,
    *,
    layer: str | None = None,
    covariates: Iterable[str] | None = None,
    scale: Scale | None = None,
    transform: str | None = None,
    report: InputReport | None = None,
    progress: Progress | None = None,
) -> Run:
    """Fit an estimator that is to be saved, and put into its ``provenance`` what applying it has to know."""
    check_reusable(estimator)
    run = run_method(
        adata,
        estimator,
        layer=layer,
        covariates=covariates,
        scale=scale,
        transform=transform,
        report=report,
        purpose="fit",
        progress=progress,
    )
    estimator.provenance = _story(run)
    return run


def run_fine_tune(
    adata: AnnData,
    estimator: Imputer,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    params: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train a fitted estimator further on other cells, its genes matched by name as in `apply_model`.

    Parameters
    ----------
    params : options of the method's ``fine_tune``.

    Raises
    ------
    InputError
        The method cannot be fine-tuned, or has no such option; or the input cannot be brought to the model's genes.
    """
    tune = getattr(estimator, "fine_tune", None)
    if tune is None:
        raise InputError(f"a model of {estimator.name} cannot be fine-tuned: fit it anew on all cells")
    options = [name for name in inspect.signature(tune).parameters if name != "data"]
    unknown = [name for name in params or {} if name not in options]
    if unknown:
        raise InputError(
            f"fine-tuning {estimator.name} has no option {unknown[0]!r}; its options: {', '.join(options)}"
        )
    matched = match_genes(adata, estimator, column=gene_column)
    own, report, scale = _own_data(adata, estimator, layer=layer, scale=None)
    if progress is not None:
        progress(0.0, "")
        estimator.progress = progress
    begun = time.perf_counter()
    result = tune(model_data(own, estimator, matched), **(params or {}))
    seconds = time.perf_counter() - begun
    messages = [*report.warnings, *matched.messages]
    if result.status.message and not result.status.converged:
        messages.append(f"{estimator.name}: {result.status.message}")
    run = Run(result, estimator, report, scale, result.keeps_observed, seconds, tuple(messages), layer=layer)
    estimator.provenance = {**_story(run), "fine_tuned_from": estimator.provenance or {}}
    return run


def check_reusable(estimator: Imputer) -> None:
    """Refuse a method whose fitted model is of no use for other cells."""
    if estimator.info.new_rows == "none":
        raise InputError(f"{estimator.name} cannot impute cells it was not fitted on: use `imputome impute` instead")


def _story(run: Run) -> dict[str, Any]:
    record = run.record().to_uns()
    convergence = {name: record["convergence"][name] for name in ("status", "message")}
    kept = {name: record[name] for name in ("input", "versions", "seconds")}
    return {**kept, "convergence": convergence, "shape": list(run.imputation.shape)}


# -- applying ----------------------------------------------------------------------------------------------------------
def apply_model(
    adata: AnnData,
    model: str | Path | Imputer,
    *,
    layer: str | None = None,
    key_added: str | None = None,
    genes: Any = None,
    gene_column: str | None = None,
    keep_observed: bool | None = None,
    scale: Scale | None = None,
    outputs: Iterable[str] = (),
    overwrite: bool = False,
    copy: bool = False,
) -> AnnData | None:
    """Impute new cells with a fitted model, without learning anything from them; ``X`` is never touched.

    Genes are matched by name, whatever their order, and the result has the genes of ``adata``:

    - Genes of the model that ``adata`` lacks are taken as not seen (zero counts, or NaN), with a warning.
    - Genes that the model does not know keep their counts (real values: the mean of the feature where missing). They
      stand in the provenance under ``unusable_genes``.
    - The library size that the model is given is over the model's genes, as in training; where some are missing from
      ``adata``, the molecules of the others are divided by the share that these had in training. The scales
      ``"normalized"`` and ``"log1p"`` of the result are per 10,000 molecules of all genes of ``adata``, as ever.

    Parameters
    ----------
    model : a fitted estimator, or the folder of a saved one.
    gene_column : column of ``var`` with the gene names; None takes ``var_names``.
    layer, key_added, genes, keep_observed, scale, outputs, overwrite, copy : as in `imputome.impute`. The covariates
        that the model was fitted with are taken from the columns of ``obs`` of the same names.

    Returns
    -------
    None, or the copy; results are where `imputome.impute` puts them.

    Raises
    ------
    InputError
        Under half of the model's genes are there; a gene name that stands there twice; another kind or state of input
        than the model was fitted on; a covariate that is missing.
    ModelFormatError
        ``model`` is no saved model, or is damaged.
    """
    estimator = model if isinstance(model, Imputer) else load(model)
    key = checked_key(adata, key_added or default_key(estimator))
    wanted = checked_outputs(estimator, outputs)
    check_free(adata, key, wanted, room="obsm" if genes is not None and not copy else "layers", overwrite=overwrite)
    columns = None if genes is None else gene_positions(adata, genes, column=gene_column)
    check_memory(adata.n_obs, (adata.n_vars if columns is None else len(columns)) * (1 + len(wanted)))
    run = run_model(
        adata,
        estimator,
        layer=layer,
        gene_column=gene_column,
        keep_observed=keep_observed,
        scale=scale,
        outputs=wanted,
        source=None if isinstance(model, Imputer) else model,
    )
    for message in run.messages:
        warnings.warn(message, stacklevel=2)
    return store(adata, run, key, genes=columns, keep_observed=keep_observed, copy=copy)


def run_model(
    adata: AnnData,
    estimator: Imputer,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    keep_observed: bool | None = None,
    scale: Scale | None = None,
    outputs: tuple[Output, ...] = (),
    source: str | Path | None = None,
) -> Run:
    """Match genes, transform, and return the lazy result with its story; nothing is written."""
    matched = match_genes(adata, estimator, column=gene_column)
    own, report, out_scale = _own_data(adata, estimator, layer=layer, scale=scale)
    check_scale_of(outputs, out_scale)
    begun = time.perf_counter()
    data = model_data(own, estimator, matched)
    inner = estimator.transform(data)
    result = Imputation(
        inner.model if matched.exact else OwnGenes(inner.model, own, data, matched.places),
        replace(own, bounds=estimator.bounds_, covariates=None),
        scale=inner.scale,
        keeps_observed=inner.keeps_observed,
        status=Status("exact", "nothing was learned from these cells"),
        latent=inner.latent,
        cell_columns=inner.cell_columns,
    )
    seconds = time.perf_counter() - begun
    keeps = result.keeps_observed if keep_observed is None else keep_observed
    unknown, filled_with = own.var_names[matched.places < 0], result.unusable.fallback
    if len(unknown):
        filled_with += "; genes that the model does not know: what the input holds"
    further = {
        "model": "" if source is None else str(source),
        "trained": estimator.provenance or {},
        "genes_missing_from_input": tuple(matched.missing.astype(str)),
        "unusable_genes": tuple(result.unusable.var_names.union(unknown, sort=False).astype(str)),
        "unusable_filled_with": filled_with,
    }
    return Run(
        result,
        estimator,
        report,
        out_scale,
        keeps,
        seconds,
        (*report.warnings, *matched.messages),
        outputs,
        further,
        layer,
    )


def _own_data(
    adata: AnnData, estimator: Imputer, *, layer: str | None, scale: Scale | None
) -> tuple[Data, InputReport, Scale]:
    """The input with its own genes, if it is in the state that the model was fitted on."""
    report = inspect_layer(adata, layer)
    state = (estimator.provenance or {}).get("input", {}).get("state")
    if report.kind == "counts" == estimator.kind_ and state in ("counts", "log1p", "normalized"):
        if report.state != state:
            raise InputError(
                f"{report.where} looks like {report.state} and the model was fitted on {state}: pass the layer that "
                f"holds {state}"
            )
        if scale is None and state != "counts":
            scale = state  # the consent was given when the model was fitted
    data, report, out_scale = to_data(
        adata, estimator.info, layer=layer, scale=scale, report=report, purpose="apply", kind=estimator.kind_
    )
    if data.kind == "real":
        _check_range(report, estimator, state)
    missing = [name for name in estimator.covariate_names_ if name not in adata.obs]
    if missing:
        raise InputError(
            f"the model was fitted with the covariates {', '.join(estimator.covariate_names_)}, and obs has no column "
            f"{missing[0]!r}: add it"
        )
    if estimator.covariate_names_:
        data = replace(data, covariates=covariate_columns(adata, estimator.covariate_names_))
    return data, report, out_scale


def _check_range(report: InputReport, estimator: Imputer, state: str | None) -> None:
    """Refuse real values of another unit than the model's, as far as their range tells."""
    low, high = estimator.bounds_
    if report.minimum is None or report.maximum is None:
        return
    if report.minimum < low or report.maximum > high:
        unit = "in 0 to 1 (beta values)" if np.isfinite(high) else "of 0 or more"
        fix = "divide percentages by 100, take M-values back to beta values" if np.isfinite(high) else "pass its unit"
        raise InputError(
            f"{report.where} holds {report.minimum:.4g} to {report.maximum:.4g} and the model was fitted on values "
            f"{unit}: {fix}, or correct what lies outside"
        )
    if report.state == "beta" and state == "real":
        raise InputError(
            f"{report.where} holds {report.minimum:.4g} to {report.maximum:.4g}, which looks like beta values, and the "
            "model was fitted on other values: pass the unit that it was fitted on"
        )
