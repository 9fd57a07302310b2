"""Nearest neighbours, for real values."""

from __future__ import annotations

from imputome.core.info import MethodInfo

KNN_INFO = MethodInfo(
    "knn",
    "weighted mean over the 10 nearest rows that have the value",
    frozenset({"real"}),
    source="doi:10.1093/bioinformatics/17.6.520",
    scale="input",
    keeps_observed=True,
    new_rows="neighbors",
)
