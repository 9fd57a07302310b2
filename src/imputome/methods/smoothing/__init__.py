"""Smoothing over similar cells: MAGIC and kNN-smoothing."""

from __future__ import annotations

from imputome.core.info import MethodInfo

MAGIC_INFO = MethodInfo(
    "magic",
    "diffusion over a graph of similar cells (MAGIC)",
    frozenset({"counts"}),
    source="doi:10.1016/j.cell.2018.05.061",
    new_rows="neighbors",
    outputs=frozenset({"value", "rate"}),
    stochastic=True,
)
KNN_SMOOTHING_INFO = MethodInfo(
    "knn_smoothing",
    "counts summed over similar cells, found in steps (kNN-smoothing)",
    frozenset({"counts"}),
    source="doi:10.1101/217737",
    new_rows="neighbors",
    outputs=frozenset({"value", "rate"}),
    stochastic=True,
)
