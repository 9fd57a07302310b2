"""`imputome.score`: what another tool made of a masked data set, beside the controls, with a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imputome.api.spelling import Spelling
from imputome.core.arrays import check_container, in_memory
from imputome.core.scales import Scale
from imputome.errors import InputError
from imputome.evaluation.outside import Outside
from imputome.inspection.source import find_matrix, is_raw
from imputome.methods import Method
from imputome.result.adapt import checked_anndata
from imputome.studies.external import of_external
from imputome.studies.inputs import parse_method
from imputome.studies.scoring import Score, score_masked

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["Score", "score"]

_SPELLING = Spelling("params")


@_SPELLING.of
def score(
    masked: AnnData,
    result: AnnData | pd.DataFrame,
    *,
    name: str = "result",
    layer: str | None = None,
    scale: Scale | None = None,
    partial: bool = False,
    methods: Method | Iterable[Method] = (),
    transform: str | None = None,
    random_state: int = 0,
) -> Score:
    """Score what any tool made of a masked data set, beside the controls, with a verdict on it.

    Cells and genes are found by name: their order does not matter, a matrix of genes x cells is recognised, and so are
    names that R has changed. Cells and genes in which nothing was hidden are left out.

    Parameters
    ----------
    masked : AnnData of shape (n, G)
        What `imputome.mask` returned, with the truth.
    result : AnnData or DataFrame
        The values that the tool made of ``masked.X``, with the names of cells and genes.
    name : str, default="result"
        Name of the tool in the table.
    layer : str, optional
        Layer of ``result`` with the values; None takes ``X``.
    scale : str, optional
        Scale of values of counts: ``"counts"``, at the depth of the masked data; ``"normalized"``, per 10,000
        molecules of the cell; ``"log1p"``, ``"log2p1"``, ``"log10p1"`` and ``"sqrt"`` of that, or with ``_counts`` of
        counts. By default the one on which the values sum to the molecules of their cells; an error where several do,
        or none. Real values must be in the unit of the masked data.
    partial : bool, default=False
        Score the part that ``result`` holds, if it lacks cells or genes or holds NaN; controls are scored on that part.
    methods : str, class or Imputer, or iterable of these, optional
        Methods to score beside the tool and the controls, as in `imputome.evaluate`.
    transform : {"asinh", "clip", "logit", "neglog", "none"}, optional
        Transform on which errors of real values are measured, as in `imputome.evaluate`.
    random_state : int, default=0
        Seed of the controls and methods.

    Returns
    -------
    Score
        ``table`` and ``summary`` as those of `imputome.evaluate`, and ``verdict``.

    Raises
    ------
    InputError
        ``masked`` holds no truth; names are not those of ``masked``, or are missing; NaN in a value to score; a scale
        that is not told, or contradicts the values.

    See Also
    --------
    imputome.mask : Hide values.
    imputome.evaluate : The same table with several methods, and with ``external`` for results of other tools.

    Notes
    -----
    Under the schemes ``thin`` and ``thin_nb``, all values are compared with the molecules that were split off; else the
    hidden entries with their truth. The verdict follows the rule of `imputome.impute` with ``check=True``, without what
    needs the tool to be run again. It is ``withheld`` if only nonzero counts were hidden, or if hidden values came back
    exactly, which chance does not do.

    Cost: the controls are fitted to the masked data once; of the values, a few passes in blocks.

    Examples
    --------
    >>> import numpy as np
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:200, :50]
    >>> masked = imputome.mask(adata, scheme="thin", fraction=0.1)
    >>> table = masked.to_df()
    >>> expected = np.outer(table.sum(axis=1), table.sum() / table.sum().sum())
    >>> found = imputome.score(masked, (table + expected) / 2, name="half way")  # what a tool may do
    >>> found.scale, found.verdict.verdict
    ('counts', 'do not impute')
    """
    methods = [methods] if isinstance(methods, str) or not isinstance(methods, Iterable) else list(methods)
    specs = [parse_method(method) for method in methods]
    outside = outside_of(result, name=name, layer=layer, scale=scale, partial=partial)
    found = score_masked(checked_anndata(masked), outside, specs, transform=transform, seed=random_state)
    _SPELLING.warn(found.messages)
    return found


def outside_of(
    result: Any,
    *,
    name: str,
    layer: str | None = None,
    scale: Scale | None = None,
    partial: bool | None = False,
) -> Outside:
    """The values of an AnnData or a DataFrame, with their names; messages name ``external`` if ``partial`` is None."""
    try:
        return _outside_of(result, name, layer, scale, partial)
    except InputError as error:
        raise error if partial is not None else InputError(of_external(error.message)) from error


def _outside_of(result: Any, name: str, layer: str | None, scale: Scale | None, partial: bool | None) -> Outside:
    if isinstance(result, str | Path) or result is None:
        check_container(result)
    if hasattr(result, "iloc"):
        if layer is not None:
            text = f"{name} is a DataFrame, which has no layers: leave {{layer}} out"
            raise InputError(text, code="option-unused", layer=...)
        return Outside(name, in_memory(result), result.index.astype(str), result.columns.astype(str), scale, partial)
    if not (hasattr(result, "obs_names") and hasattr(result, "layers")):
        text = f"{name} must be an AnnData or a DataFrame, with the names of cells and genes, not "
        raise InputError(text + type(result).__name__, code="not-anndata")
    if is_raw(result, layer):
        values, columns = in_memory(result.raw.X), result.raw.var_names
    else:
        values, columns = in_memory(find_matrix(result, layer)[0]), result.var_names
    others = tuple(str(each) for each in result.layers if each not in ("truth", "hidden", layer))
    layers = others if layer is None else ()
    return Outside(name, values, result.obs_names.astype(str), columns.astype(str), scale, partial, layers)


def outsides_of(external: Mapping[str, Any]) -> list[Outside]:
    """The values of several tools, by name; each an AnnData or DataFrame, or a dictionary of these and its options."""
    found = []
    for name, given in external.items():
        entries = dict(given) if isinstance(given, Mapping) and "result" in given else {"result": given}
        unknown = set(entries) - {"result", "layer", "scale"}
        if unknown:
            text = f"external[{name!r}] has {min(unknown)!r}, which is not one of result, layer, scale"
            raise InputError(text, code="unknown-option", parameter="external")
        found.append(outside_of(entries.pop("result"), name=str(name), partial=None, **entries))
    return found
