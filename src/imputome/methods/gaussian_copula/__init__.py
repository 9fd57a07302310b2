"""Gaussian copula: the default for real values."""

from __future__ import annotations

from imputome.core.info import MethodInfo

GAUSSIAN_COPULA_INFO = MethodInfo(
    "gaussian_copula",
    "the default for real values: the conditional mean of what is missing under a Gaussian copula, stacked",
    frozenset({"real"}),
    source="doi:10.1214/07-AOAS107",
    scale="input",
    keeps_observed=True,
    outputs=frozenset({"value", "variance", "lower", "upper"}),
    stochastic=True,
    draws=True,
)
