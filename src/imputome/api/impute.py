"""`imputome.impute`: AnnData -> recipe -> estimator -> new layer and provenance."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imputome.core.scales import Scale
from imputome.errors import InputError
from imputome.result.adapt import (
    gene_positions,
    inspect_layer,
)
from imputome.result.layout import check_free, checked_key, checked_outputs, default_key, store
from imputome.result.run import check_memory, default_method, make_estimator, refuse_with_auto, run_method
from imputome.trust.auto import BUDGET, choose

if TYPE_CHECKING:
    from anndata import AnnData


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
        against controls on held-out values of a sample (`imputome.trust.auto.choose`).
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
        `imputome.core.links`); results are in the input's own unit. None takes asinh for values with heavy
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
    from imputome.trust.check import check_run, label_columns, refuse_uncheckable

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
