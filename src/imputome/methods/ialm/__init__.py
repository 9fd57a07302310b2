"""scIALM: nuclear-norm matrix completion (paper 002). The solvers are in `imputome.methods.ialm.solver`."""

from __future__ import annotations

from imputome.core.info import MethodInfo

IALM_INFO = MethodInfo(
    "ialm",
    "scIALM: nuclear-norm matrix completion by an inexact augmented Lagrangian",
    frozenset({"counts", "real"}),
    source="pmid:38274995",
    keeps_observed=True,
    new_rows="projection",
    stochastic=True,
    latent=True,
)
