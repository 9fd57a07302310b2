"""Beta variational autoencoder for real values (paper 003)."""

from __future__ import annotations

from imputome.core.info import MethodInfo

BETA_VAE_INFO = MethodInfo(
    "beta_vae",
    "beta variational autoencoder, imputing by iteration; shift correction for values missing because low",
    frozenset({"real"}),
    source="doi:10.1093/gigascience/giaa082",
    scale="input",
    keeps_observed=True,
    extra="deep",
    outputs=frozenset({"value", "variance"}),
    stochastic=True,
    draws=True,
    latent=True,
)
