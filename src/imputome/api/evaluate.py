"""`imputome.evaluate`: from AnnData to a study."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import signature
from typing import TYPE_CHECKING, Any

from imputome.api.plan import plan_evaluate
from imputome.api.spelling import Spelling
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
    methods: Iterable[Method],
    labels: str | None = None,
    layer: str | None = None,
    min_genes: int = 0,
    min_cells: int = 0,
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
    methods : iterable of str, class or Imputer
        Methods; a name can be followed by ``+posterior`` or ``:key=value``.
    labels : str, optional
        Column of ``obs`` with cell types, for downstream analyses; it also stratifies the test rows of real values.
    layer : str, optional
        Layer with the values; None takes ``X``.
    min_genes, min_cells : int, default=0
        Leave out cells with fewer genes, and then genes in fewer cells.
    **study
        Scheme, fraction, trials, seed, transform and so on, see `imputome.studies.runner.run_study`.

    Returns
    -------
    DataFrame
        One row per score; ``imputome.studies.results.summary`` gives means and spreads.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:200, :100]
    >>> table = imputome.evaluate(adata, methods=["gene_mean_posterior"], scheme="thin", fraction=0.1)
    >>> "poisson_loss" in set(table["metric"])
    True
    """
    inputs = adata if isinstance(adata, dict) else {"data": adata}
    used = {name: study[name] for name in ("scheme", "downstream", "options") if name in study}
    plan = plan_evaluate(
        inputs.items(), methods, labels=labels, layer=layer, min_genes=min_genes, min_cells=min_cells, **used
    )
    return run_study(plan.datasets, plan.methods, **study)
