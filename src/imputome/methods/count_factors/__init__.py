"""Log-linear and Poisson factors averaged: the fast method for counts."""

from __future__ import annotations

from imputome.core.info import MethodInfo

COUNT_FACTORS_INFO = MethodInfo(
    "count_factors",
    "the fast method for counts, without networks: two kinds of factors averaged, and the cell's own counts",
    frozenset({"counts"}),
    source="doi:10.1186/s13059-019-1861-6",
    outputs=frozenset({"value", "rate"}),
    stochastic=True,
    latent=True,
)
