"""Analyses of an imputed matrix, scored against what is known: clusters of cells, and differential genes.

`ANALYSES` lists them; a new one is one function and one line there. `downstream_scores` runs them.

Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from imputome.core.data import Data
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError
from imputome.evaluation.arguments import check_choice, check_length
from imputome.evaluation.clustering import (
    AGREEMENT,
    Clusterer,
    Space,
    cluster_scores,
    expression_components,
    log_expression,
)
from imputome.evaluation.expression import Test, called_differential, log_normalized, precision_recall_tnr

if TYPE_CHECKING:
    from imputome.core.imputation import Imputation

Needs = Literal["labels", "differential"]

# prefix of the scores -> test; the first is that of paper 000
TESTS_OF_TRUTH: dict[str, Test] = {"": "findmarkers", "hurdle_": "hurdle", "t_": "t", "wilcoxon_": "wilcoxon"}
DIFFERENTIAL_SCORES = ("precision", "recall", "tnr")


@dataclass(frozen=True)
class Imputed:
    """An imputed matrix and what is known of its cells and genes; what several analyses use is computed once."""

    imputation: Imputation
    labels: np.ndarray  # (n,) class of each cell; None and NaN are not known
    differential: np.ndarray | None = None  # (G,) whether a gene differs between the first class and the rest
    before: Data | None = None  # the counts of the same cells before any were hidden; None: those of the imputation
    random_state: int = 0

    @cached_property
    def values(self) -> np.ndarray:
        """(n, G) counts per 10,000 molecules of the input, or real values."""
        return self.imputation.to_array(scale="normalized" if self.is_counts else None)

    @cached_property
    def logged(self) -> np.ndarray:
        """(n, G) ln(1 + values) of counts."""
        return np.asarray(log_expression(self.values))

    @property
    def is_counts(self) -> bool:
        return self.imputation.data.kind == "counts"

    @cached_property
    def components(self) -> np.ndarray:
        """What cells are clustered by: principal components of counts, real values as they are."""
        return expression_components(self.values, random_state=self.random_state) if self.is_counts else self.values

    @cached_property
    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the cells with a label, and whether each has the first label in alphabetical order."""
        import pandas as pd

        labelled = np.flatnonzero(~pd.isna(self.labels))
        texts = self.labels[labelled].astype(str)
        return labelled, texts == np.unique(texts)[0]


class Analysis(NamedTuple):
    """One line of `ANALYSES`."""

    function: Callable[[Imputed], dict[str, float]]
    scores: tuple[str, ...]  # names in tables of results
    needs: Needs
    counts_only: bool
    description: str


def _clusters(
    prefix: str, clusterer: Clusterer, space: Space = "components", *, renormalize: bool = False
) -> Callable[[Imputed], dict[str, float]]:
    """The analysis that clusters cells by ``clusterer`` in ``space``."""

    def scores(imputed: Imputed) -> dict[str, float]:
        known: dict[str, Any] = {"labels": imputed.labels, "method": clusterer, "random_state": imputed.random_state}
        with warnings.catch_warnings():  # if all cells are equal there is one cluster, and the scores show it
            warnings.simplefilter("ignore")
            if space == "components" or not imputed.is_counts:
                embedding = imputed.components
            elif renormalize:
                total = imputed.values.sum(axis=1, keepdims=True, dtype=np.float64)
                embedding = log_expression(counts_to_scale(imputed.values, total, "normalized"))
            else:
                embedding = imputed.logged
            agreement = cluster_scores(embedding=embedding, **known)
        return {prefix + name: agreement[name] for name in AGREEMENT}

    return scores


def _against_before(imputed: Imputed) -> dict[str, float]:
    """Genes that Wilcoxon calls after imputation, against those that it calls before values were hidden."""
    before = imputed.imputation.data if imputed.before is None else imputed.before
    cells, groups = imputed.groups
    truth = called_differential(log_normalized(before.X, before.depth)[cells], groups, test="wilcoxon")
    called = called_differential(imputed.logged[cells], groups, test="wilcoxon")
    return precision_recall_tnr(truth=truth, called=called)


def _against_truth(imputed: Imputed) -> dict[str, float]:
    """Genes that each test calls after imputation, against the genes that are known to differ."""
    assert imputed.differential is not None  # noqa: S101  (`downstream_scores` checks)
    cells, groups = imputed.groups
    logged = imputed.logged[cells]
    scores: dict[str, float] = {}
    for prefix, test in TESTS_OF_TRUTH.items():
        called = called_differential(logged, groups, test=test)
        found = precision_recall_tnr(truth=imputed.differential, called=called)
        scores |= {prefix + name: found[name] for name in DIFFERENTIAL_SCORES}
    return scores


def _names(*prefixes: str, of: Iterable[str] = AGREEMENT) -> tuple[str, ...]:
    return tuple(prefix + name for prefix in prefixes for name in of)


ANALYSES: dict[str, Analysis] = {
    "clustering": Analysis(
        _clusters("", "kmeans"), _names(""), "labels", False, "k-means clusters on 50 principal components"
    ),
    "leiden": Analysis(
        _clusters("leiden_", "leiden"), _names("leiden_"), "labels", False, "Leiden clusters on 50 principal components"
    ),
    "clustering_genes": Analysis(
        _clusters("genes_", "kmeans", "genes"),
        _names("genes_"),
        "labels",
        False,
        "k-means clusters on the log-normalised matrix (paper 000)",
    ),
    "leiden_genes": Analysis(
        _clusters("leiden_genes_", "leiden", "genes"),
        _names("leiden_genes_"),
        "labels",
        False,
        "Leiden clusters on the log-normalised matrix",
    ),
    "clustering_renormalized": Analysis(
        _clusters("renormalized_", "kmeans", "genes", renormalize=True),
        _names("renormalized_"),
        "labels",
        False,
        "k-means clusters on the matrix normalised again after imputation, and logged (paper 002)",
    ),
    "de": Analysis(
        _against_before,
        DIFFERENTIAL_SCORES,
        "labels",
        True,
        "genes called differential, against those called before values were hidden (Wilcoxon)",
    ),
    "de_truth": Analysis(
        _against_truth,
        _names(*TESTS_OF_TRUTH, of=DIFFERENTIAL_SCORES),
        "differential",
        True,
        "genes called differential, against those simulated so (paper 000: FindMarkers with MAST)",
    ),
}

SCORES = tuple(dict.fromkeys(name for analysis in ANALYSES.values() for name in analysis.scores))  # higher is better


def downstream_scores(
    imputation: Imputation,
    analyses: Iterable[str],
    *,
    labels: Any,
    differential: Any = None,
    before: Data | None = None,
    random_state: int = 0,
) -> dict[str, float]:
    """Scores of analyses of an imputed matrix, which is made dense for them.

    Observed values are kept where the imputation keeps them: the matrix is what a user would analyse. Counts are
    normalised to 10,000 of their library size before imputation, and logged, so that for
    `imputome.methods.autoencoder` with ``rescale=False`` it is the network's own output, as in paper 000;
    "clustering_renormalized" normalises the imputed counts once more, as the code of paper 002 does. Real values are
    clustered as they are.

    Parameters
    ----------
    imputation : Imputation
        Of n cells and G genes.
    analyses : iterable of str
        Names in `ANALYSES`.
    labels : array-like of shape (n,)
        Class of each cell of the imputation; missing ones are left out. Differences are those between the first class
        (in alphabetical order) and all others.
    differential : array-like of bool, shape (G,), or Series, optional
        Whether a gene truly differs: for "de_truth". A Series is matched by the names of its index. The column
        ``var["differential"]`` of `imputome.evaluation.simulate.simulated_groups` is one.
    before : Data, optional
        The same cells and genes before values were hidden: for "de". By default the data that were imputed, which is
        right where nothing was hidden.
    random_state : int, default=0
        Seed of the clusterings.

    Returns
    -------
    dict of str to float
        The ``scores`` of each analysis, under their names.

    Raises
    ------
    InputError
        No such analysis; labels or truth that do not fit; an analysis of counts for real values.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> from imputome.core.data import as_data
    >>> rates = np.full((40, 8), 20.0)
    >>> rates[:20, :4] = rates[20:, 4:] = 80.0
    >>> data = as_data(np.random.default_rng(0).poisson(rates), kind="counts")
    >>> result = methods.create("no_imputation").fit_transform(data)
    >>> labels = ["a"] * 20 + ["b"] * 20
    >>> downstream_scores(result, ["clustering_genes"], labels=labels)["genes_ari"]
    1.0
    """
    import pandas as pd

    names = list(dict.fromkeys(analyses))
    for name in names:
        check_choice("analyses", name, ANALYSES)
    n, G = imputation.shape
    labels = np.asarray(labels, dtype=object)
    check_length("labels", labels, n)
    if any(ANALYSES[name].counts_only for name in names) and imputation.data.kind != "counts":
        raise InputError("analyses of differential genes are for counts: leave them out", code="downstream-kind")
    if any(ANALYSES[name].needs == "differential" for name in names):
        if differential is None:
            text = "de_truth needs genes that are known to differ, as those of simulated data: leave this analysis out"
            raise InputError(text, code="truth-missing")
        if isinstance(differential, pd.Series):
            missing = imputation.var_names.difference(differential.index)
            if len(missing):
                text = f"differential has no value for {len(missing)} genes, such as {missing[0]!r}"
                raise InputError(f"{text}: give it for all", code="names-differ", parameter="differential")
            differential = differential.loc[imputation.var_names]
        differential = np.asarray(differential)
        check_length("differential", differential, G, "genes")
        if differential.dtype != bool:
            raise InputError(
                "differential must be True or False for each gene", code="not-boolean", parameter="differential"
            )
    if before is not None and before.shape != (n, G):
        text = f"before has shape {before.shape}, the imputation {(n, G)}: pass the same cells and genes"
        raise InputError(text, code="shape-mismatch", parameter="before")
    imputed = Imputed(imputation, labels, differential, before, random_state)
    scores: dict[str, float] = {}
    for name in names:
        scores |= ANALYSES[name].function(imputed)
    return scores
