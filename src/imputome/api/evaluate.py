"""`imputome.evaluate`: from AnnData to a study."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

from imputome.api.impute import names_of
from imputome.api.plan import Options, plan_evaluate
from imputome.api.score import outsides_of
from imputome.api.spelling import Spelling
from imputome.core.data import Kind
from imputome.errors import InputError
from imputome.methods import Method
from imputome.studies.runner import run_study

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_SPELLING = Spelling("options", signature(run_study).parameters)


@_SPELLING.of
def evaluate(
    adata: AnnData | dict[str, AnnData],
    *,
    methods: Method | Iterable[Method],
    labels: str | None = None,
    layer: str | None = None,
    feature_type: str | None = None,
    kind: Kind | None = None,
    round_counts: Literal["nearest", "stochastic"] | None = None,
    accept_orientation: bool = False,
    min_genes: int = 0,
    min_cells: int = 0,
    keep_summary_rows: bool = False,
    external: Mapping[str, Any] | None = None,
    masked: AnnData | None = None,
    **study: Any,
) -> pd.DataFrame:
    """Hide values, impute with several methods and the controls, and score them.

    Real values are imputed on the transform that `imputome.impute` would take for the training part, by methods and
    controls alike. Their first score, ``rmse_sd``, is the root mean squared error on it, in standard deviations of the
    feature; the other scores are in the unit of the data.

    Parameters
    ----------
    adata : AnnData, or dict of str to AnnData
        The data; several with a name each.
    methods : str, class or Imputer, or iterable of these
        Methods; a name can be followed by ``+posterior`` or ``:key=value``.
    labels : str, optional
        Column of ``obs`` with cell types, for downstream analyses; it also stratifies the test rows of real values.
    layer : str, optional
        Layer with the values, or ``"raw"``; None takes ``X``.
    feature_type : str, optional
        Type of the features to use, as in `imputome.impute`.
    kind, round_counts, accept_orientation
        As in `imputome.impute`.
    min_genes, min_cells : int, default=0
        Leave out cells with fewer genes, and then genes in fewer cells.
    keep_summary_rows : bool, default=False
        As in `imputome.impute`.
    external : dict of str to AnnData, DataFrame or dict, optional
        What other tools made of ``masked``, by the names that they get in the table; ``{"result": adata, "layer": ...,
        "scale": ...}`` where the values are in a layer, or do not tell their scale (as in `imputome.score`). Values are
        then hidden as in ``masked``: with ``seed`` itself and in all rows, in one data set and one trial.
    masked : AnnData, optional
        What `imputome.mask` made of ``adata`` with the same scheme, fraction and seed; refused if it did not.
    **study
        Scheme, fraction, trials, seed, transform and so on, see `imputome.studies.runner.run_study`.

    Returns
    -------
    DataFrame
        One row per score; ``imputome.studies.results.summary`` gives means and spreads.

    Raises
    ------
    InputError
        The data cannot be used as they are, a method, scheme or option is unknown or does not fit the data, or
        ``masked`` hides other values.
    MissingExtraError
        A method needs an optional dependency.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:200, :100]
    >>> table = imputome.evaluate(adata, methods=["gene_mean_posterior"], scheme="thin", fraction=0.1)
    >>> "poisson_loss" in set(table["metric"])
    True
    """
    Options(labels=names_of(labels, "labels"), layer=layer, feature_type=feature_type)  # checks their types
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        methods = [methods]
    inputs = adata if isinstance(adata, dict) else {"data": adata}
    used = {name: study[name] for name in ("scheme", "downstream", "options") if name in study}
    plan = plan_evaluate(
        inputs.items(),
        methods,
        labels=labels,
        min_genes=min_genes,
        min_cells=min_cells,
        layer=layer,
        feature_type=feature_type,
        keep_summary_rows=keep_summary_rows,
        kind=kind,
        round_counts=round_counts,
        seed=study.get("seed", 0),
        allowed=("genes-in-rows",) if accept_orientation else (),
        **used,
    )
    for message in plan.messages:
        warnings.warn(message, stacklevel=2)
    outsides = outsides_of(external or {})
    if masked is not None and not outsides:
        text = "{masked} is for results of other tools: pass {external} too, or leave it out"
        raise InputError(text, code="option-unused", masked=..., external=...)
    return run_study(plan.datasets, plan.methods, external=outsides, masked=masked, **study)
