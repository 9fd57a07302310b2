"""Whether results bear out what a study's file claims: computed for each dataset, with the spread over seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imputome.studies.results import costs
from imputome.studies.study import Claim, Study
from imputome.studies.summary import PLACE, half_interval, markdown_row, values_by_configuration

if TYPE_CHECKING:
    import pandas as pd

TEST_COLUMNS = ["dataset", "scheme", "metric", "first", "second", "mean_first", "mean_second", "difference", "n", "p"]


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
    return pd.DataFrame(rows, columns=TEST_COLUMNS)


def comparisons_markdown(tests: pd.DataFrame) -> str:
    """The tests as a table."""
    lines = ["# Tests", "", *markdown_row(TEST_COLUMNS), "|" + " --- |" * len(TEST_COLUMNS)]
    for row in tests.to_dict("records"):
        lines += markdown_row(
            [f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in TEST_COLUMNS]
        )
    return (
        "\n".join([*lines, "", "Wilcoxon signed-rank tests over trials, two-sided p, not corrected for their number."])
        + "\n"
    )


COLUMNS = [
    *("claim", "dataset", "scheme", "metric", "held", "estimate", "se", "n", "evidence", "beats_control", "spread")
]
SHOWN = [name for name in COLUMNS if name not in ("estimate", "se")]
LEGEND = (
    "Held: by a 95 % interval over seeds, or in every seed; collapsed: yes, but by one profile for all cells. "
    "±: standard error of a difference, else standard deviation. Spread: between-cell SD of output over data."
)
SPREADS = ("between_cell_sd", "data_between_cell_sd")  # of outputs, where a method reports them


class Paired(NamedTuple):
    """A difference over seeds: mean, standard error, number, and what it says at `LEVEL`."""

    mean: float
    se: float
    n: int
    verdict: str


def judge(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """One row for each claim and each dataset and way of hiding values that it is about and that has its metric.

    ``held`` is ``"yes"``, ``"no"``, ``"unclear"`` or ``"collapsed"``: yes, but by a network that gives one profile for
    all cells in half of the seeds or more, and so has learned nothing of any cell. A comparison is of the same seeds:
    it holds if the 95 % interval (Student's t) of the mean difference lies above 0, fails if it lies below, and one
    seed decides nothing. A curve is monotone if its last value is lower than its first and no step rises, both in that
    sense. What is similar holds if the interval of the mean relative difference lies within the claimed share, and
    fails if it lies outside. The other kinds hold, or fail, if they do so for every seed.

    Columns beside: claim, dataset, scheme, metric, ``estimate`` (of a comparison: by how much the first is better, in
    the metric's unit; of a curve its fall; else the mean of what is claimed to be large or small), ``se`` (standard
    error), ``n`` (seeds), ``evidence`` (the numbers in words), ``beats_control`` (the same test of the first against
    the claim's control), and ``spread`` (between-cell SD of the output of the first over that of the data).
    """
    import pandas as pd

    values = values_by_configuration(study, table)
    rows: list[dict[str, Any]] = []
    labels = {subset.label: subset.name for subset in study.datasets}
    for place, part in values.groupby(PLACE, sort=False, dropna=False):
        wide = part.pivot_table(index="trial", columns=["metric", "configuration"], values="value")
        for claim in study.claims:
            elsewhere = claim.splits and place[1] not in claim.splits
            elsewhere = elsewhere or (claim.datasets and labels[place[0]] not in claim.datasets)
            if elsewhere or claim.metric not in set(part["metric"]):
                continue
            row = {"claim": claim.text, "dataset": place[0], "scheme": place[1], "metric": claim.metric}
            needed = [metric for metric in (claim.metric, claim.reference) if metric]
            missing = [name for name in claim.configurations for metric in needed if (metric, name) not in wide]
            if missing:
                nothing = Paired(math.nan, math.nan, 0, "unclear")
                rows.append({**row, **_row(nothing, f"no result of {missing[0]}")})
                continue
            row |= {**JUDGES[claim.kind](claim, wide), **_beside(claim, wide)}
            if row["held"] == "yes" and _collapsed(claim, wide):
                row["held"] = "collapsed"
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def paired(improvement: np.ndarray) -> Paired:
    """What differences over seeds say about their mean; those that are not finite leave it open."""
    n = len(improvement)
    if n == 0 or not np.isfinite(improvement).all():
        return Paired(math.nan, math.nan, n, "unclear")
    mean = float(improvement.mean())
    if n == 1:
        return Paired(mean, math.nan, n, "unclear")
    sd = float(improvement.std(ddof=1))
    se, half = sd / math.sqrt(n), half_interval(sd, n)
    return Paired(mean, se, n, "yes" if mean > half else "no" if mean < -half else "unclear")


def _better(claim: Claim, wide: pd.DataFrame) -> dict[str, Any]:
    first, second = (wide[claim.metric, name] for name in claim.configurations)
    found = _compare(wide, claim.metric, *claim.configurations)
    evidence = f"{first.mean():.5g} against {second.mean():.5g}"
    if math.isnan(found.mean):
        return _row(found, f"{evidence}: not finite in every seed")
    evidence += f": {'better' if found.mean >= 0 else 'worse'} by {abs(found.mean):.3g}"
    evidence += "" if math.isnan(found.se) else f" ± {found.se:.2g}"
    if claim.value:
        beyond = _compare(wide, claim.metric, *claim.configurations, margin=claim.value)
        found = found._replace(verdict=beyond.verdict)
        evidence += f", that is {1 - first.mean() / second.mean():.2%}; {claim.value:.0%} or more is claimed"
    return _row(found, evidence)


def _similar(claim: Claim, wide: pd.DataFrame) -> dict[str, Any]:
    pair = wide[[(claim.metric, name) for name in claim.configurations]].dropna().to_numpy()
    found = paired(pair[:, 0] / pair[:, 1] - 1)
    evidence = f"{pair[:, 0].mean():.5g} against {pair[:, 1].mean():.5g}: {found.mean:+.2%}"
    if math.isnan(found.se):
        return _row(found._replace(verdict="unclear"), evidence)
    half = half_interval(found.se * math.sqrt(found.n), found.n)
    within, outside = abs(found.mean) + half <= claim.value, abs(found.mean) - half > claim.value
    verdict = "yes" if within else "no" if outside else "unclear"
    return _row(found._replace(verdict=verdict), f"{evidence} ± {found.se:.2%}; {claim.value:.0%} or less is claimed")


def _at_least(claim: Claim, wide: pd.DataFrame) -> dict[str, Any]:
    values = wide[claim.metric, claim.configurations[0]].dropna().to_numpy()
    return _each(values >= claim.value, values, f"{_mean(values)}, {claim.value:g} or more")


def _monotone(claim: Claim, wide: pd.DataFrame) -> dict[str, Any]:
    # (seeds, configurations)
    curves = wide[[(claim.metric, name) for name in claim.configurations]].dropna().to_numpy()
    steps = np.diff(curves, axis=1)
    fall = paired(curves[:, 0] - curves[:, -1])
    rises = any(paired(step).verdict == "yes" for step in steps.T)
    curve = ", ".join(f"{value:.3g}" for value in curves.mean(axis=0))
    evidence = f"means {curve}; falls all along in {int((steps <= 0).all(axis=1).sum())} of {len(curves)} seeds"
    return _row(fall._replace(verdict="no" if rises else fall.verdict), evidence)


def _close(claim: Claim, wide: pd.DataFrame) -> dict[str, Any]:
    pair = wide[[(name, claim.configurations[0]) for name in (claim.metric, claim.reference)]].dropna().to_numpy()
    change = np.abs(pair[:, 0] / pair[:, 1] - 1)
    return _each(change <= claim.value, change, f"changed by {_mean(change)}, {claim.value:g} or less")


JUDGES = {"better": _better, "at_least": _at_least, "monotone": _monotone, "close": _close, "similar": _similar}


def _beside(claim: Claim, wide: pd.DataFrame) -> dict[str, Any]:
    """The control, and whether the network still tells cells apart."""
    found: dict[str, Any] = {}
    first = claim.configurations[0]
    if claim.control and (claim.metric, claim.control) in wide:
        found["beats_control"] = _compare(wide, claim.metric, first, claim.control).verdict
    if all((name, first) in wide for name in SPREADS):
        output, data = (wide[name, first] for name in SPREADS)
        found["spread"] = float((output / data).median())
    return found


def _collapsed(claim: Claim, wide: pd.DataFrame) -> bool:
    column = ("collapsed", claim.configurations[0])
    return column in wide and bool(wide[column].mean() >= 0.5)


def _compare(wide: pd.DataFrame, metric: str, first: str, second: str, *, margin: float = 0.0) -> Paired:
    """By how much the first is better than all but ``margin`` of the second, over the seeds that both have."""
    both = wide[[(metric, first), (metric, second)]].dropna(how="any")
    costs_of = [np.asarray(costs(both[metric, name], metric), dtype=np.float64) for name in (first, second)]
    return paired((1 - margin) * costs_of[1] - costs_of[0])


def _each(fulfilled: np.ndarray, values: np.ndarray, claimed: str) -> dict[str, Any]:
    """A verdict from one answer a seed."""
    n, k = len(fulfilled), int(np.sum(fulfilled))
    verdict = "unclear" if n == 0 or 0 < k < n else "yes" if k else "no"
    mean = float(values.mean()) if n else math.nan
    se = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return _row(Paired(mean, se, n, verdict), f"{claimed}: {k} of {n} seeds")


def _row(found: Paired, evidence: str) -> dict[str, Any]:
    return {"held": found.verdict, "estimate": found.mean, "se": found.se, "n": found.n, "evidence": evidence}


def _mean(values: np.ndarray) -> str:
    if not len(values):
        return "nothing"
    return f"{values.mean():.4g}" + (f" ± {values.std(ddof=1):.1g}" if len(values) > 1 else "")


def claims_markdown(verdicts: pd.DataFrame) -> str:
    """The verdicts as a table; a claim's text stands in its first row."""
    columns = [name for name in SHOWN if verdicts[name].notna().any()]
    lines = ["# Claims", "", *markdown_row(columns), "|" + " --- |" * len(columns)]
    for claim, part in verdicts.groupby("claim", sort=False):
        for place, row in enumerate(part.to_dict("records")):
            row["claim"] = "" if place else claim
            lines += markdown_row([_text(row[name]) for name in columns])
    return "\n".join([*lines, "", LEGEND]) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.2g}"
    return str(value)
