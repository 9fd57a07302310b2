"""Wilcoxon signed-rank tests over trials: one configuration against others, paired by trial."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from imputome.studies.study import Study
from imputome.studies.tables import PLACE, markdown_row, values_by_configuration

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["dataset", "scheme", "metric", "first", "second", "mean_first", "mean_second", "difference", "n", "p"]


def wilcoxon_tests(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """One row for each comparison of a study, dataset and way of hiding values that has its metric.

    ``p`` is two-sided, exact where no differences are tied or 0 (scipy's ``wilcoxon``): over ten trials it is 0.002 at
    the least. It is 1 where every difference is 0, and NaN with fewer than two trials. ``difference`` is the median of
    the first minus the second.
    """
    import pandas as pd
    from scipy.stats import wilcoxon

    values = values_by_configuration(study, table)
    rows = []
    for (dataset, scheme, _), part in values.groupby(PLACE, sort=False, dropna=False):
        for comparison in study.comparisons:
            own = part[part["metric"] == comparison.metric]
            wide = own.pivot_table(index="trial", columns="configuration", values="value")
            for other in comparison.others:
                if not {comparison.first, other} <= set(wide):
                    continue
                pair = wide[[comparison.first, other]].dropna().to_numpy()
                difference = pair[:, 0] - pair[:, 1]
                p = math.nan
                if len(pair) > 1:
                    p = float(wilcoxon(difference).pvalue) if difference.any() else 1.0
                means = pair.mean(axis=0) if len(pair) else (math.nan, math.nan)
                place = [dataset, scheme, comparison.metric, comparison.first, other]
                middle = float(np.median(difference)) if len(pair) else math.nan
                rows.append([*place, *means, middle, len(pair), p])
    return pd.DataFrame(rows, columns=COLUMNS)


def comparisons_markdown(tests: pd.DataFrame) -> str:
    """The tests as a table."""
    lines = ["# Tests", "", *markdown_row(COLUMNS), "|" + " --- |" * len(COLUMNS)]
    for row in tests.to_dict("records"):
        lines += markdown_row(
            [f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS]
        )
    return (
        "\n".join([*lines, "", "Wilcoxon signed-rank tests over trials, two-sided p, not corrected for their number."])
        + "\n"
    )
