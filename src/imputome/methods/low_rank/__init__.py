"""Low-rank methods: iterative SVD, soft-impute and probabilistic PCA for real values, ALRA for counts."""

from __future__ import annotations

from imputome.core.info import MethodInfo

SVD_INFO = MethodInfo(
    "svd",
    "missing values filled by a truncated SVD again and again",
    frozenset({"real"}),
    source="doi:10.1093/bioinformatics/17.6.520",
    scale="input",
    keeps_observed=True,
    new_rows="projection",
    stochastic=True,
    latent=True,
)
SOFT_IMPUTE_INFO = MethodInfo(
    "soft_impute",
    "nuclear-norm shrinkage, its strength chosen on held-out entries",
    frozenset({"real"}),
    source="pmid:21552465",
    scale="input",
    keeps_observed=True,
    new_rows="projection",
    stochastic=True,
    latent=True,
)
PPCA_INFO = MethodInfo(
    "ppca",
    "probabilistic PCA of the known entries by EM, its rank chosen on held-out entries",
    frozenset({"real"}),
    source="doi:10.1111/1467-9868.00196",
    scale="input",
    keeps_observed=True,
    new_rows="exact",
    outputs=frozenset({"value", "variance", "lower", "upper"}),
    stochastic=True,
    draws=True,
    latent=True,
)
BPCA_INFO = MethodInfo(
    "bpca",
    "Bayesian PCA: components that the data do not support are switched off",
    frozenset({"real"}),
    source="doi:10.1093/bioinformatics/btg287",
    scale="input",
    keeps_observed=True,
    new_rows="exact",
    outputs=frozenset({"value", "variance", "lower", "upper"}),
    draws=True,
    latent=True,
)
ALRA_INFO = MethodInfo(
    "alra",
    "low rank of log counts, small values back to zero (ALRA)",
    frozenset({"counts"}),
    source="doi:10.1038/s41467-021-27729-z",
    outputs=frozenset({"value", "rate"}),
    stochastic=True,
    latent=True,
)
