"""Models that outlive a session: `fit_model` learns one, `apply_model` imputes new cells with it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imputome.api.impute import names_of
from imputome.api.plan import InMemory, Options, Plan, checked_options, plan_apply, plan_fit
from imputome.api.spelling import Spelling
from imputome.core.by_blocks import ByBlocks, latent_by_blocks
from imputome.core.data import Kind
from imputome.core.imputation import Imputation, Status
from imputome.core.imputer import Imputer
from imputome.core.scales import Scale
from imputome.methods import Method, load
from imputome.result.adapt import checked_anndata
from imputome.result.genes import imputed_by_model, model_data, with_others
from imputome.result.layout import store
from imputome.result.run import Progress, Run, fit_run, replaced

if TYPE_CHECKING:
    from anndata import AnnData


_FIT, _APPLY = Spelling("params"), Spelling("params", ("keep_summary_rows", "posterior"))


# -- learning ----------------------------------------------------------------------------------------------------------
@_FIT.of
def fit_model(
    adata: AnnData,
    *,
    method: Method | None = None,
    layer: str | None = None,
    feature_type: str | None = None,
    covariates: Iterable[str] | None = None,
    scale: Scale | None = None,
    transform: str | None = None,
    params: dict[str, Any] | None = None,
    posterior: bool | None = None,
    kind: Kind | None = None,
    round_counts: Literal["nearest", "stochastic"] | None = None,
    accept_orientation: bool = False,
    keep_summary_rows: bool = False,
    training_cells: int | None = None,
    random_state: int = 0,
) -> Imputer:
    """Fit a method and return the estimator, to be saved (``save``) and applied to new cells (`apply_model`).

    Parameters
    ----------
    adata : AnnData
        Training data, which is not changed; it need not have missing values.
    method, layer, feature_type, covariates, scale, transform, params, posterior, kind, round_counts
        As in `imputome.impute`.
    accept_orientation, keep_summary_rows, training_cells, random_state
        As in `imputome.impute`.

    Returns
    -------
    Imputer
        The fitted estimator. Its ``provenance`` (state of the input, versions, how the fit ended) goes into the saved
        model.

    Raises
    ------
    InputError
        The input cannot be imputed as it is, or the method cannot impute cells that it was not fitted on.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()
    >>> model = imputome.fit_model(adata[:500], method="gene_mean", posterior=True)
    >>> new = imputome.apply_model(adata[500:], model, copy=True)
    >>> new.layers["gene_mean_posterior"].shape == new.shape
    True
    """
    options = Options(
        method=method,
        params={} if params is None else params,
        posterior=posterior,
        random_state=random_state,
        layer=layer,
        feature_type=feature_type,
        covariates=None if covariates is None else names_of(covariates, "covariates"),
        scale=scale,
        transform=transform,
        kind=kind,
        round_counts=round_counts,
        accept_orientation=accept_orientation,
        keep_summary_rows=keep_summary_rows,
        training_cells=training_cells,
    )
    plan = plan_fit(checked_anndata(adata), options, estimator=checked_options(options))
    _FIT.warn(plan.messages)  # before the fit, which may take long
    run = run_fit(plan)
    _FIT.warn(message for message in run.messages if message not in plan.messages)
    return run.estimator


def run_fit(plan: Plan, progress: Progress | None = None) -> Run:
    """Carry out `imputome.api.plan.plan_fit`; what `apply_model` has to know goes into ``estimator.provenance``."""
    estimator = plan.estimator
    assert estimator is not None  # noqa: S101
    plan.options.prepare(estimator, plan.link)
    run = fit_run(estimator, plan.data, plan.report, scale=plan.scale, messages=plan.messages, progress=progress)
    estimator.provenance = _provenance(run)
    return run


def run_fine_tune(plan: Plan, progress: Progress | None = None) -> Run:
    """Carry out `imputome.api.plan.plan_fine_tune`: train a fitted model further on other cells."""
    estimator, matched = plan.estimator, plan.matched
    assert estimator is not None and matched is not None  # noqa: S101, PT018
    run = fit_run(
        estimator,
        model_data(plan.data, estimator, matched),
        plan.report,
        scale=plan.scale,
        messages=plan.messages,
        progress=progress,
        fit=lambda data: estimator.fine_tune(data, **plan.options.params),  # type: ignore[attr-defined]
    )
    estimator.provenance = {**_provenance(run), "fine_tuned_from": estimator.provenance or {}}
    return run


def _provenance(run: Run) -> dict[str, Any]:
    record = run.record().to_uns()
    convergence = {name: record["convergence"][name] for name in ("status", "message")}
    kept = {name: record[name] for name in ("input", "versions", "seconds", "feature_type")}
    return {**kept, "convergence": convergence, "shape": list(run.imputation.shape)}


# -- applying ----------------------------------------------------------------------------------------------------------
@_APPLY.of
def apply_model(
    adata: AnnData,
    model: str | Path | Imputer,
    *,
    layer: str | None = None,
    key_added: str | None = None,
    genes: Any = None,
    gene_column: str | None = None,
    feature_type: str | None = None,
    match_genes: str | None = None,
    keep_observed: bool | None = None,
    scale: Scale | None = None,
    outputs: str | Iterable[str] = (),
    kind: Kind | None = None,
    round_counts: Literal["nearest", "stochastic"] | None = None,
    accept_orientation: bool = False,
    reproducible: bool = False,
    overwrite: bool = False,
    copy: bool = False,
) -> AnnData | None:
    """Impute new cells with a fitted model, without learning anything from them; ``X`` is never changed.

    Genes are matched by name, in any order, and the result has the genes of ``adata``:

    - Genes of the model that ``adata`` lacks are treated as not seen (zero counts, or NaN), with a warning.
    - Genes that the model does not know keep their counts (real values: missing ones get the mean of the feature). The
      record lists them under ``unusable_genes``. A gene of the model that had no molecule in training and has some in
      ``adata`` is one of them, with a warning.
    - The library size that the model is given is over the model's genes, as in training. If some of them are missing
      from ``adata``, the molecules of the others are divided by the share that these genes had in training. The scales
      ``"normalized"`` and ``"log1p"`` of the result are per 10,000 molecules of all genes of ``adata``.

    Parameters
    ----------
    adata : AnnData
        The new cells.
    model : Imputer, str or Path
        A fitted estimator, or the folder of a saved one.
    gene_column : str, optional
        Column of ``var`` with the gene names; by default ``var_names``.
    match_genes : {"version", "case", "r-names"}, optional
        What the names of the input and of the model may differ by: the version after the point of an Ensembl
        identifier, upper and lower case, or what R makes of names (``.`` for ``-``, ``X`` before a digit).
    feature_type : str, optional
        As in `imputome.impute`; by default the type that the model was fitted on.
    layer, key_added, genes, keep_observed, scale, outputs, kind, round_counts, accept_orientation, reproducible
        As in `imputome.impute`; expected counts are rounded as in the training. The covariates that the model was
        fitted with are taken from the columns of ``obs`` of the same names.
    overwrite, copy
        As in `imputome.impute`.

    Returns
    -------
    AnnData or None
        The copy, or None; results are where `imputome.impute` puts them.

    Raises
    ------
    InputError
        Fewer than half of the model's genes are in the input, or one of them is there twice; the input is of another
        kind or state than the training data; a covariate is missing.
    ModelFormatError
        ``model`` is not a saved model, or is damaged.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:300, :80].copy()
    >>> model = imputome.fit_model(adata[:200], method="gene_mean")
    >>> new = imputome.apply_model(adata[200:], model, key_added="expected", copy=True)
    >>> new.uns["imputome"]["expected"]["method"]
    'gene_mean'
    """
    estimator = model if isinstance(model, Imputer) else load(model)
    options = Options(
        layer=layer,
        key_added=key_added,
        genes=genes,
        gene_column=gene_column,
        feature_type=feature_type,
        match_genes=match_genes,
        keep_observed=keep_observed,
        scale=scale,
        outputs=names_of(outputs, "outputs"),
        kind=kind,
        round_counts=round_counts,
        accept_orientation=accept_orientation,
        reproducible=reproducible,
    )
    plan = plan_apply(checked_anndata(adata), estimator, options, InMemory(overwrite=overwrite, copy=copy))
    run = run_model(plan, source="" if isinstance(model, Imputer) else str(model))
    _APPLY.warn(run.messages)
    return store(adata, run, plan.key, genes=plan.columns, keep_observed=keep_observed, copy=copy)


def run_model(plan: Plan, *, source: str = "") -> Run:
    """Carry out `imputome.api.plan.plan_apply`; nothing is written. ``source`` is the folder of the model."""
    estimator, matched, input_data = plan.estimator, plan.matched, plan.data
    assert estimator is not None and matched is not None  # noqa: S101, PT018
    begun = time.perf_counter()

    instead = {"values_from": estimator.replaced_by, "replaced": True} if estimator.replaced_by else {}
    status = Status("exact", "the stored model was applied, and these cells were not used to train it", instead)
    if input_data.in_memory:
        result = imputed_by_model(input_data, estimator, matched)
        result.status = status
    else:
        blocks = ByBlocks(lambda block: imputed_by_model(block, estimator, matched).model, input_data)
        about = replace(input_data, covariates=None)
        latent = latent_by_blocks(lambda block: estimator.latent_of(model_data(block, estimator, matched)), input_data)
        result = Imputation(blocks, about, **estimator.how(input_data), status=status, latent=latent)
    seconds = time.perf_counter() - begun
    keep_observed = plan.options.keep_observed
    keeps = result.keeps_observed if keep_observed is None else keep_observed
    unknown, fallback = input_data.var_names[matched.places < 0], result.unusable.fallback
    if len(unknown):
        fallback += "; genes that the model does not know: values of the input"
    further = {
        "reproducible": plan.options.reproducible,
        "options": plan.options.further,
        "model": source,
        "trained": estimator.provenance or {},
        "genes_missing_from_input": tuple(matched.missing.astype(str)),
        "unusable_genes": tuple(result.unusable.var_names.union(unknown, sort=False).astype(str)),
        "unusable_filled_with": fallback,
    }
    messages = (*plan.messages, *replaced(estimator))
    result = with_others(result, plan.adata, plan.report)
    return Run(result, estimator, plan.report, plan.scale, keeps, seconds, messages, plan.outputs, further=further)
