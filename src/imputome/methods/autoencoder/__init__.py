"""Plain autoencoder of paper 000 (Xi and Li 2023)."""

from __future__ import annotations

from imputome.core.info import MethodInfo

AUTOENCODER_INFO = MethodInfo(
    "autoencoder",
    "plain autoencoder on log-normalised counts, its error at the nonzeros only",
    frozenset({"counts"}),
    source="doi:10.1016/j.csbj.2023.07.041",
    keeps_observed=True,
    extra="deep",
    outputs=frozenset({"value", "rate", "expected_count"}),
    stochastic=True,
    latent=True,
)
