"""SAVER: a gamma prior for each gene and cell, its mean predicted from the other genes."""

from __future__ import annotations

from imputome.core.info import MethodInfo

SAVER_INFO = MethodInfo(
    "saver",
    "counts shrunk towards what the other genes predict, by a Poisson lasso (SAVER)",
    frozenset({"counts"}),
    source="doi:10.1038/s41592-018-0033-z",
    outputs=frozenset({"value", "rate"}),
    stochastic=True,
)
