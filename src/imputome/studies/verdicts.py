"""One verdict for each claim of a study, over all data sets and ways to hide values."""

from __future__ import annotations

import pandas as pd

ALPHA = 0.05
VERDICT_COLUMNS = ["claim", "by", "configurations", "verdict", "agree", "n", "by data set"]
VERDICT_LEGEND = (
    "A run is one trial on one data set with one way to hide values; runs in which both are exactly equal are left "
    "out. The verdict counts the runs that agree with the claim (two-sided sign test at 5 %), or is that of every data "
    "set by a 95 % interval over its trials; where the intervals of two data sets contradict each other, it differs "
    "between data sets. Everything else is unclear. The runs of one data set are not independent: a verdict is about "
    "these data sets."
)


def verdicts(checked: pd.DataFrame) -> pd.DataFrame:
    """One row per claim, from the rows of `imputome.studies.claims.check_claims`.

    ``agree`` of ``n`` runs agree with the claim, runs that decide nothing left out; ``by data set`` tells the same for
    each data set, as text.
    """
    rows = []
    for (text, by), part in checked.groupby(["claim", "by"], sort=False):
        decisive = part.assign(n=part["n"] - part["ties"])
        sets = part["dataset"].str.replace(r" \(.*", "", regex=True)
        runs = decisive.groupby(sets, sort=False)[["agree", "n"]].sum()
        places = "; ".join(f"{name}: {agree} of {n}" if n else f"{name}: equal" for name, agree, n in runs.itertuples())
        numbers = decisive["agree"].sum(), decisive["n"].sum()
        rows.append([text, by, part["configurations"].iloc[0], verdict(part), *numbers, places])
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def verdict(rows: pd.DataFrame) -> str:
    """Of one claim: each row is that of one data set and way to hide values.

    Two trials decide little by an interval of their own, so runs are counted over all data sets too.
    """
    from scipy.stats import binomtest

    agree, runs = int(rows["agree"].sum()), int((rows["n"] - rows["ties"]).sum())
    if not runs:
        return "unclear" if rows["n"].any() else "not run"
    held = rows["held"].replace("collapsed", "holds")
    if {"holds", "fails"} <= set(held):
        return "differs between data sets"
    counted = "unclear"
    if binomtest(agree, runs).pvalue < ALPHA:
        counted = "holds" if 2 * agree > runs else "fails"
    single = str(held.iloc[0]) if held.nunique() == 1 else "unclear"
    decided = {counted, single} - {"unclear"}
    if len(decided) != 1:
        return "unclear"
    return decided.pop() + (", by networks that collapsed" if (rows["held"] == "collapsed").all() else "")
