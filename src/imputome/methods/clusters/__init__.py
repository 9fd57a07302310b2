"""Zeros replaced from cells of the same cluster: DrImpute and scImpute."""

from __future__ import annotations

from imputome.core.info import MethodInfo

DRIMPUTE_INFO = MethodInfo(
    "drimpute",
    "zeros become means over many clusterings (DrImpute)",
    frozenset({"counts"}),
    source="doi:10.1186/s12859-018-2226-y",
    new_rows="neighbors",
    outputs=frozenset({"value", "rate"}),
    stochastic=True,
)
SCIMPUTE_INFO = MethodInfo(
    "scimpute",
    "likely dropouts predicted from similar cells (scImpute)",
    frozenset({"counts"}),
    source="doi:10.1038/s41467-018-03405-7",
    new_rows="neighbors",
    outputs=frozenset({"value", "rate", "dropout_probability"}),
    stochastic=True,
)
