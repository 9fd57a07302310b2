"""scVI: the variational autoencoder of the package scvi-tools."""

from __future__ import annotations

from imputome.core.info import MethodInfo

SCVI_INFO = MethodInfo(
    "scvi",
    "scVI: variational autoencoder for counts, fitted by the package scvi-tools",
    frozenset({"counts"}),
    source="doi:10.1038/s41592-018-0229-2",
    extra="scvi",
    outputs=frozenset({"value", "rate", "expected_count", "normalized", "variance"}),
    stochastic=True,
    covariates=True,
    latent=True,
)
