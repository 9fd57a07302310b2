"""`imputome.evaluate`: from AnnData to a study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from imputome.studies.inputs import to_dataset
from imputome.studies.runner import run_study

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def evaluate(
    adata: AnnData | dict[str, AnnData],
    *,
    methods: Iterable[str],
    labels: str | None = None,
    layer: str | None = None,
    min_genes: int = 0,
    min_cells: int = 0,
    **study: Any,
) -> pd.DataFrame:
    """Hide values, impute with several methods and the controls, and score them: a one-line study.

    Parameters
    ----------
    adata : one AnnData, or several by name.
    methods : ``"name"``, ``"name+posterior"`` or ``"name:key=value"``.
    labels : column of ``obs`` with the classes, for downstream analyses.
    min_genes, min_cells : cells with fewer genes, and genes in fewer cells, are left out.
    **study : scheme, fraction, trials, seed, downstream, protocol, output: see `imputome.studies.runner.run_study`.

    Returns
    -------
    The tidy long table; ``imputome.studies.results.summary`` of it gives means and spreads.
    """
    several = adata if isinstance(adata, dict) else {"data": adata}
    datasets = [
        to_dataset(one, name=name, labels=labels, layer=layer, min_genes=min_genes, min_cells=min_cells)
        for name, one in several.items()
    ]
    return run_study(datasets, methods, **study)
