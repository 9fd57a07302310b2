"""Low-rank completion of real values: iterative SVD and soft-impute."""

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
