"""Low-rank methods: iterative SVD and soft-impute for real values, ALRA for counts."""

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
)
ALRA_INFO = MethodInfo(
    "alra",
    "low rank of log counts, small values back to zero (ALRA)",
    frozenset({"counts"}),
    source="doi:10.1038/s41467-021-27729-z",
    outputs=frozenset({"value", "rate"}),
    stochastic=True,
)
