"""Every registered method: name, where it lives, what it is. Listing them imports none of them."""

from __future__ import annotations

from imputome.methods.base import Kind, MethodInfo

_COUNTS: frozenset[Kind] = frozenset({"counts"})
_REAL: frozenset[Kind] = frozenset({"real"})
_BOTH = _COUNTS | _REAL

METHODS: tuple[tuple[str, str, MethodInfo], ...] = (
    (
        "no_imputation",
        "imputome.methods.controls:NoImputation",
        MethodInfo("no_imputation", "the counts as they are", _COUNTS, keeps_observed=True, control=True),
    ),
    (
        "gene_mean",
        "imputome.methods.controls:GeneMean",
        MethodInfo("gene_mean", "library size x share of the gene in all molecules", _COUNTS, control=True),
    ),
    (
        "gene_mean_posterior",
        "imputome.methods.controls:GeneMeanPosterior",
        MethodInfo(
            "gene_mean_posterior",
            "the cell's own counts shrunk towards the gene mean (gamma-Poisson)",
            _COUNTS,
            source="doi:10.1038/s41592-018-0033-z",
            outputs=frozenset({"value", "rate", "variance", "lower", "upper"}),
            stochastic=True,
            control=True,
        ),
    ),
    (
        "poisson_nmf",
        "imputome.methods.controls:PoissonNMF",
        MethodInfo(
            "poisson_nmf",
            "non-negative factors under the Poisson (KL) loss",
            _COUNTS,
            source="doi:10.1038/44565",
            new_rows="projection",
            stochastic=True,
            control=True,
        ),
    ),
    (
        "random",
        "imputome.methods.controls:RandomDraws",
        MethodInfo(
            "random",
            "random draws from the gene's own values",
            _BOTH,
            keeps_observed=True,
            stochastic=True,
            control=True,
        ),
    ),
    (
        "mean",
        "imputome.methods.controls:FeatureMean",
        MethodInfo("mean", "mean of the feature", _REAL, scale="input", keeps_observed=True, control=True),
    ),
    (
        "median",
        "imputome.methods.controls:FeatureMedian",
        MethodInfo("median", "median of the feature", _REAL, scale="input", keeps_observed=True, control=True),
    ),
    (
        "ialm",
        "imputome.methods.matrix_completion.estimator:IALM",
        MethodInfo(
            "ialm",
            "scIALM: nuclear-norm matrix completion by an inexact augmented Lagrangian",
            _BOTH,
            source="pmid:38274995",
            keeps_observed=True,
            new_rows="projection",
            stochastic=True,
        ),
    ),
)
