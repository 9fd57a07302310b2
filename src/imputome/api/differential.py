"""`imputome.de`: differential expression between two groups of cells, with a warning for imputed values."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.scales import counts_to_scale
from imputome.errors import ImputedLayerWarning, InputError, Message
from imputome.evaluation.expression import de_by_count_splitting, hurdle_lrt, log_normalized, wilcoxon
from imputome.inspection.features import ALL, features_of
from imputome.inspection.source import layer_in_memory
from imputome.result.adapt import checked_anndata, covariate_columns, inspect_layer
from imputome.result.record import Record, imputed_layer

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Test = Literal["wilcoxon", "hurdle"]
NOT_EXPRESSION = ("variance", "dropout_probability")  # outputs that are tested as they are


def de(
    adata: AnnData,
    groups: Any = None,
    *,
    layer: str | None = None,
    feature_type: str | None = None,
    keep_summary_rows: bool = False,
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

    Counts are tested as log1p of counts per 10,000; values that are logged or real, as they are.

    Parameters
    ----------
    adata : AnnData of n cells x G genes
        The data.
    groups : str, array-like of shape (n,), or callable, optional
        Column of ``obs``, or a label for each cell. With ``count_splitting`` also a function that takes the kept part
        of the counts (``csr_array``) and returns such labels, or None: two clusters of it.
    layer : str, optional
        Layer to test; None takes ``X``. An imputed layer is tested with a warning.
    feature_type : str, optional
        Type of the features to test, as in `imputome.impute`; library sizes are over these.
    keep_summary_rows : bool, default=False
        Whether to test what read counters count beside the genes too, as in `imputome.impute`.
    test : {"wilcoxon", "hurdle"}, default="wilcoxon"
        See `imputome.evaluation.expression`.
    tested : object, optional
        The group in which a positive change means more expression; None takes the last one in sorted order. It is
        needed if there are more than two groups, and is tested against all other cells.
    detection_rate : bool, default=True
        Whether the hurdle test has the share of detected genes of a cell as a covariate.
    count_splitting : bool, default=False
        Split the molecules of every entry into two parts, find the groups on one and test on the other, see Notes.
    keep : float, default=0.5
        Share of the molecules in the part on which groups are found.
    overdispersion : ndarray of shape (G,), optional
        phi of each gene, for a variance of mean + phi mean^2; None splits as Poisson.
    key_added : str, default="de_groups"
        Column of ``obs`` for groups that were found here; an older one is replaced.
    random_state : int, default=0
        Seed of the splitting and of the clusters.

    Returns
    -------
    DataFrame
        One row per gene, see `imputome.evaluation.expression.wilcoxon` and ``hurdle_lrt``.

    Warns
    -----
    ImputedLayerWarning
        ``layer`` was written by an imputation (a result, another of its outputs, or a draw). Imputed counts are
        smoothed over cells, in the same directions in which clusters of these data differ. Imputed real values are
        estimates and no measurements.

    Raises
    ------
    InputError
        There are not two groups, the layer or column is unknown, or the values cannot be split.

    Notes
    -----
    When count splitting helps:

    - Clusters of the counts differ even if there is one population only, because the clustering has sorted the noise.
      If groups are found on one part (``groups`` is None or a function) and tested on the other, p-values are valid as
      far as counts are Poisson, or the overdispersion is right.
    - If the labels were found on all counts, splitting does not help: the part that is tested was used to find them.
    - Both parts share the depth of the cell. If clusters differ in library size, log-normalised values of genes with
      equal rates differ too (above all of rarely seen genes) and give false positives: compare the library sizes.
    - Labels from elsewhere (treatment, donor, sorted cells) need no splitting, which only costs molecules. Test the
      counts. Cells of one donor are not independent of each other, and splitting does not change that.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()
    >>> table = imputome.de(adata, "cell_type", tested="CD19+ B")
    >>> table["p_adjusted"].idxmin()
    'CD79A'
    """
    if test not in ("wilcoxon", "hurdle"):
        raise InputError(f'test is {test!r}: choose "wilcoxon" or "hurdle"', code="parameter-value", parameter="test")
    whole, features = checked_anndata(adata), features_of(adata.var, feature_type, keep_summary_rows=keep_summary_rows)
    if features is not None:
        for message in features.messages:
            warnings.warn(message, stacklevel=2)
        adata = adata[:, features.used]
        if overdispersion is not None and np.shape(overdispersion) == (whole.n_vars,):
            overdispersion = np.asarray(overdispersion)[features.used]
    source = None if layer is None else imputed_layer(adata, layer)
    if count_splitting:
        find, labels_found = _finder(adata, groups, tested)
        if source is not None:
            text = f"layers[{layer!r}] was imputed, and only counts can be split: {_origin(source[0])}"
            raise InputError(text, code="imputed-layer", layer=source[0].input.layer or ...)
        report = inspect_layer(adata, layer, feature_type=ALL, keep_summary_rows=True)
        if report.state != "counts":
            text = f"{report.where} looks {report.state}, and only counts can be split: pass {{layer}} with counts"
            raise InputError(text, code="not-counts", layer=...)
        table, labels = de_by_count_splitting(
            layer_in_memory(adata, layer),
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

            new_labels = labels if find is None else labels_found[0]
            whole.obs[key_added] = pd.Categorical(np.asarray(new_labels).astype(str))
        return table
    if groups is None or callable(groups):
        text = "groups are needed: pass a column of obs or a label for each cell, or find them with {count_splitting}"
        raise InputError(text, code="no-groups", parameter="groups", count_splitting=True)
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
    """Why tests on that layer cannot be trusted, and what to do instead."""
    if record.input.kind == "counts":
        text = (
            f"layers[{layer!r}] was imputed: its values are smoothed over cells, so tests find genes that do not "
            f"differ; test the counts it was made from: {_origin(record)} (with {{count_splitting}} and no labels if "
            "the groups came from them)"
        )
        return Message(text, code="imputed-counts", layer=record.input.layer or ..., count_splitting=True)
    text = (
        f"layers[{layer!r}] was imputed: its missing values are estimates, and tests that take them for measurements "
        "give too small p-values; test features without missing values, or compare the tests on several draws"
    )
    return Message(text, code="imputed-values", parameter="layer")


def _values(adata: AnnData, layer: str | None, source: tuple[Record, str] | None) -> Any:
    """The matrix on the scale that is tested."""
    scale: str | None = None
    if source is None:
        report = inspect_layer(adata, layer, feature_type=ALL, keep_summary_rows=True)
        scale = {"expected": "counts"}.get(report.state, report.state) if report.kind == "counts" else None
    elif source[0].input.kind == "counts" and source[1] not in NOT_EXPRESSION:
        scale = "counts" if source[0].scale == "input" else source[0].scale
    X = layer_in_memory(adata, layer)
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
        text = f"groups has shape {labels.shape}: pass one label for each of {adata.n_obs} cells"
        raise InputError(text, code="length-mismatch", parameter="groups")
    return labels


def _finder(adata: AnnData, groups: Any, tested: Any) -> tuple[Any, list[np.ndarray]]:
    """The ``groups`` of `de_by_count_splitting`, and a list to which labels that a function finds are added."""
    labels_found: list[np.ndarray] = []
    if groups is None:
        return None, labels_found
    if not callable(groups):
        return two_groups(_labels(adata, groups), tested), labels_found

    def find(part: Any) -> np.ndarray:
        labels_found.append(_labels(adata, groups(part)))
        return two_groups(labels_found[0], tested)

    return find, labels_found


def two_groups(labels: np.ndarray, tested: Any) -> np.ndarray:
    """(n,) True for the cells of the group that is tested; None takes the last of two."""
    import pandas as pd

    without = int(pd.isna(labels).sum())
    if without:
        text = f"{without:,} cells have no group: leave them out, such as adata[adata.obs[...].notna()]"
        raise InputError(text, code="cells-without-group", parameter="groups")
    kinds = [kind.item() if isinstance(kind, np.generic) else kind for kind in pd.unique(labels)]
    shown = ", ".join(map(repr, kinds[:10])) + (", ..." if len(kinds) > 10 else "")
    if len(kinds) < 2:
        text = f"two groups are needed, but all cells are in {shown}: choose another grouping"
        raise InputError(text, code="not-two-groups", parameter="groups")
    if tested is None and len(kinds) > 2:
        text = f"there are {len(kinds)} groups: pass {{tested}} to test one against all others ({shown})"
        raise InputError(text, code="not-two-groups", tested=...)
    tested = max(kinds) if tested is None else tested
    if tested not in kinds:
        text = f"{tested!r} is not one of the groups {shown}: pass one of them"
        raise InputError(text, code="unknown-group", parameter="tested")
    return np.asarray(labels == tested)
