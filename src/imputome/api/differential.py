"""`imputome.de`: differential expression between groups of the cells of an AnnData, honest about imputed values."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.data import in_memory
from imputome.core.scales import counts_to_scale
from imputome.errors import ImputedLayerWarning, InputError, Message
from imputome.evaluation.expression import de_by_count_splitting, hurdle_lrt, log_normalized, wilcoxon
from imputome.result.adapt import covariate_columns, inspect_layer
from imputome.result.record import Record, imputed_layer

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Test = Literal["wilcoxon", "hurdle"]
AS_THEY_ARE = ("variance", "dropout_probability")  # outputs that are no expression values


def de(
    adata: AnnData,
    groups: Any = None,
    *,
    layer: str | None = None,
    test: Test = "wilcoxon",
    tested: Any = None,
    detection_rate: bool = True,
    count_splitting: bool = False,
    keep: float = 0.5,
    overdispersion: np.ndarray | None = None,
    key_added: str = "de_groups",
    random_state: int = 0,
) -> pd.DataFrame:
    """Test every gene between two groups of cells.

    Counts are tested as log1p of counts per 10,000, values that are logged or real as they are.

    Parameters
    ----------
    adata : n cells x G genes.
    groups : column of ``obs``, or a label for each cell. With ``count_splitting`` also a function that takes the kept
        part of the counts (``csr_array``) and returns such labels, or None: two clusters of it.
    layer : layer to test; None takes ``X``. One that was imputed is tested with a warning.
    test : ``"wilcoxon"`` or ``"hurdle"`` (see `imputome.evaluation.expression`).
    tested : the group whose excess is positive; None takes the later one in sorted order. With more than two groups it
        is needed, and tested against all other cells.
    detection_rate : covariate of the hurdle test.
    count_splitting : split the molecules of every entry in two, find the groups on one part and test on the other. See
        Notes.
    keep : share of the molecules that goes to the part where groups are found.
    overdispersion : (G,) phi of each gene, for a variance of mean + phi mean^2; None splits as Poisson.
    key_added : column of ``obs`` that groups found here go to (an older one is replaced).
    random_state : seed of the splitting and of the clusters.

    Returns
    -------
    DataFrame with a row for each gene, as `imputome.evaluation.expression.wilcoxon` or ``hurdle_lrt`` gives it.

    Warns
    -----
    ImputedLayerWarning
        ``layer`` was written by an imputation: a result, one of its other outputs, or a draw. Imputed counts are
        smoothed over cells, and clusters of the same data are what they were smoothed along; real values have estimates
        where none was measured.

    Raises
    ------
    InputError
        Not two groups, an unknown layer or column, or values that cannot be split.

    Notes
    -----
    What count splitting helps with, and what not:

    - Groups that come from the same counts (clusters) differ even where there is one population, since the clustering
      has sorted the noise. Found on one part (``groups`` None or a function) and tested on the other, p-values are
      honest as far as counts are Poisson, or the overdispersion passed is right.
    - Labels that were found on all of the counts and are passed as labels stay dishonest: the part that is tested
      helped to find them.
    - Depth is shared by both parts. Where clusters differ in library size, so do log-normalised values of genes whose
      rates do not (rarely seen genes above all), and false positives by that stay: look at the library sizes of groups.
    - Labels from elsewhere (treatment, donor, sorted cells) need no splitting, which only costs them molecules. Test
      the counts; and cells of one donor are not independent of one another, which no splitting mends.
    """
    if test not in ("wilcoxon", "hurdle"):
        raise InputError(f'test is {test!r}: choose "wilcoxon" or "hurdle"', code="parameter-value", parameter="test")
    source = None if layer is None else imputed_layer(adata, layer)
    if count_splitting:
        find, found = _finder(adata, groups, tested)
        if source is not None:
            raise InputError(
                f"layers[{layer!r}] was imputed, and only counts can be split: {_origin(source[0])}",
                code="imputed-layer",
                layer=source[0].input.layer or ...,
            )
        report = inspect_layer(adata, layer)
        if report.state != "counts":
            raise InputError(
                f"{report.where} looks {report.state}, and only counts can be split: pass their {{layer}}",
                code="not-counts",
                layer=...,
            )
        table, labels = de_by_count_splitting(
            adata.X if layer is None else adata.layers[layer],
            find,
            rng=np.random.default_rng(random_state),
            keep=keep,
            overdispersion=overdispersion,
            test=test,
            detection_rate=detection_rate,
            tested=tested if find is None else None,
            names=adata.var_names,
        )
        if groups is None or callable(groups):
            import pandas as pd

            raw = labels if find is None else found[0]
            adata.obs[key_added] = pd.Categorical(np.asarray(raw).astype(str))
        return table
    if groups is None or callable(groups):
        raise InputError(
            "groups are needed: pass a column of obs or a label for each cell, or have them found by {count_splitting}",
            code="no-groups",
            parameter="groups",
            count_splitting=True,
        )
    labels = two_groups(_labels(adata, groups), tested)
    if layer is not None and source is not None:
        warnings.warn(_warning(layer, source[0]), ImputedLayerWarning, stacklevel=2)
    values = _values(adata, layer, source)
    if test == "wilcoxon":
        return wilcoxon(values, labels, names=adata.var_names)
    return hurdle_lrt(values, labels, detection_rate=detection_rate, names=adata.var_names)


def _origin(record: Record) -> str:
    """How to test what an imputed layer was made from."""
    return "leave {layer} out" if record.input.layer is None else "pass {layer}"


def _warning(layer: str, record: Record) -> Message:
    """Why tests on that layer are not to be believed, and what to do instead."""
    if record.input.kind == "counts":
        text = (
            f"layers[{layer!r}] was imputed: its values are smoothed over cells, and tests on them call genes that do "
            f"not differ; test the counts it was made from, {_origin(record)} (with {{count_splitting}} and no labels "
            "if the groups came from them)"
        )
        return Message(text, code="imputed-counts", layer=record.input.layer or ..., count_splitting=True)
    text = (
        f"layers[{layer!r}] was imputed: estimates stand where values were missing, and tests that take them for "
        "measured are too sure; test features without missing values, or repeat the test on several multiple "
        "imputations and see how far it holds"
    )
    return Message(text, code="imputed-values", parameter="layer")


def _values(adata: AnnData, layer: str | None, source: tuple[Record, str] | None) -> Any:
    """The matrix on the scale that it is tested on."""
    scale: str | None
    if source is None:
        report = inspect_layer(adata, layer)
        scale = report.state if report.kind == "counts" else None
    else:
        record = source[0]
        counts = record.input.kind == "counts" and source[1] not in AS_THEY_ARE
        scale = None if not counts else record.scale
        scale = "counts" if scale == "input" else scale
    X = in_memory(adata.X if layer is None else adata.layers[layer])
    if scale == "counts" and not isinstance(X, np.ndarray):
        return log_normalized(X)
    if scale == "counts":
        return counts_to_scale(X.astype(np.float64), X.sum(axis=1, keepdims=True, dtype=np.float64), "log1p")
    return np.log1p(X) if scale == "normalized" else X


def _labels(adata: AnnData, groups: Any) -> np.ndarray:
    """A label for each cell, in the order of the cells."""
    if isinstance(groups, str):
        groups = covariate_columns(adata, [groups])[groups]
    elif hasattr(groups, "reindex") and set(adata.obs_names) <= set(groups.index):
        groups = groups.reindex(adata.obs_names)
    labels = np.asarray(groups)
    if labels.shape != (adata.n_obs,):
        raise InputError(
            f"groups has shape {labels.shape}: pass one label for each of {adata.n_obs} cells",
            code="length-mismatch",
            parameter="groups",
        )
    return labels


def _finder(adata: AnnData, groups: Any, tested: Any) -> tuple[Any, list[np.ndarray]]:
    """What `de_by_count_splitting` takes for groups, and where labels that a function finds are kept."""
    found: list[np.ndarray] = []
    if groups is None:
        return None, found
    if not callable(groups):
        return two_groups(_labels(adata, groups), tested), found

    def find(part: Any) -> np.ndarray:
        found.append(_labels(adata, groups(part)))
        return two_groups(found[0], tested)

    return find, found


def two_groups(labels: np.ndarray, tested: Any) -> np.ndarray:
    """(n,) True for the cells of the group that is tested.

    Raises
    ------
    InputError
        Fewer than two groups, more without ``tested``, cells without a group, or no such group.
    """
    import pandas as pd

    without = int(pd.isna(labels).sum())
    if without:
        raise InputError(
            f"{without:,} cells have no group: leave them out, such as adata[adata.obs[...].notna()]",
            code="cells-without-group",
            parameter="groups",
        )
    kinds = [kind.item() if isinstance(kind, np.generic) else kind for kind in pd.unique(labels)]
    there = ", ".join(map(repr, kinds[:10])) + (", ..." if len(kinds) > 10 else "")
    if len(kinds) < 2:
        raise InputError(
            f"two groups are needed, and all cells are in {there}: choose another grouping",
            code="not-two-groups",
            parameter="groups",
        )
    if tested is None:
        if len(kinds) > 2:
            raise InputError(
                f"there are {len(kinds)} groups: pass {{tested}} to test one against all others ({there})",
                code="not-two-groups",
                tested=...,
            )
        tested = max(kinds)
    if tested not in kinds:
        raise InputError(
            f"{tested!r} is none of the groups {there}: pass one of them", code="unknown-group", parameter="tested"
        )
    return np.asarray(labels == tested)
