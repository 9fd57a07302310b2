"""Controls: simple predictions that a method must beat before its values are useful."""

from __future__ import annotations

from imputome.core.info import MethodInfo

NO_IMPUTATION_INFO = MethodInfo(
    "no_imputation", "the counts as they are", frozenset({"counts"}), keeps_observed=True, control=True
)
GENE_MEAN_INFO = MethodInfo(
    "gene_mean", "library size x share of the gene in all molecules", frozenset({"counts"}), control=True
)
GENE_MEAN_POSTERIOR_INFO = MethodInfo(
    "gene_mean_posterior",
    "the cell's own counts shrunk towards the gene mean (gamma-Poisson)",
    frozenset({"counts"}),
    source="doi:10.1038/s41592-018-0033-z",
    outputs=frozenset({"value", "rate", "variance", "lower", "upper"}),
    stochastic=True,
    control=True,
)
POISSON_NMF_INFO = MethodInfo(
    "poisson_nmf",
    "non-negative factors under the Poisson (KL) loss",
    frozenset({"counts"}),
    source="doi:10.1038/44565",
    new_rows="projection",
    stochastic=True,
    control=True,
    latent=True,
)
RANDOM_INFO = MethodInfo(
    "random",
    "random draws from the gene's own values",
    frozenset({"counts", "real"}),
    keeps_observed=True,
    stochastic=True,
    control=True,
)
MEAN_INFO = MethodInfo(
    "mean", "mean of the feature", frozenset({"real"}), scale="input", keeps_observed=True, control=True
)
MEDIAN_INFO = MethodInfo(
    "median", "median of the feature", frozenset({"real"}), scale="input", keeps_observed=True, control=True
)
