"""DeepImpute: small networks that predict groups of genes from correlated genes."""

from __future__ import annotations

from imputome.core.info import MethodInfo

DEEPIMPUTE_INFO = MethodInfo(
    "deepimpute",
    "networks that predict groups of variable genes from correlated genes (DeepImpute)",
    frozenset({"counts"}),
    source="doi:10.1186/s13059-019-1837-6",
    keeps_observed=True,
    extra="deep",
    outputs=frozenset({"value", "rate", "expected_count"}),
    stochastic=True,
)
