"""Methods for real values that regress each feature on others: local least squares, ridge in turn, forests in turn."""

from __future__ import annotations

from imputome.core.info import MethodInfo

LLS_INFO = MethodInfo(
    "lls",
    "least squares of each feature on the most similar ones, their number chosen on held-out entries",
    frozenset({"real"}),
    source="doi:10.1093/bioinformatics/bth499",
    scale="input",
    keeps_observed=True,
    new_rows="projection",
    stochastic=True,
)
ITERATIVE_RIDGE_INFO = MethodInfo(
    "iterative_ridge",
    "Bayesian ridge of each feature on similar ones, in turn until nothing changes; for small data",
    frozenset({"real"}),
    source="doi:10.18637/jss.v045.i03",
    scale="input",
    keeps_observed=True,
    new_rows="projection",
)
MISS_FOREST_INFO = MethodInfo(
    "miss_forest",
    "random forest of each feature on the others, in turn (missForest); for small data",
    frozenset({"real"}),
    source="doi:10.1093/bioinformatics/btr597",
    scale="input",
    keeps_observed=True,
    new_rows="projection",
    stochastic=True,
)
