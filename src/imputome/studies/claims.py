"""The results of a study: means and spread by configuration, as tables; Wilcoxon tests; and whether its claims hold."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from imputome.errors import printable
from imputome.evaluation.clinical import compare_over_trials
from imputome.studies.results import NEEDS_INTEGERS, STOPPED, costs, summary
from imputome.studies.spec import Claim, Published, Study
from imputome.studies.trials import at_levels, in_common
from imputome.studies.verdicts import VERDICT_LEGEND, verdicts

# -- tables ------------------------------------------------------------------------------------------------------------
LEVEL = 0.95  # of the intervals
TABLE_KEYS = ["dataset", "scheme", "fraction"]  # each combination has its own table


def by_configuration(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """`imputome.studies.results.summary` with the names of the configurations; two equal ones give two rows.

    Where some configurations have more trials than others (`Study.trials_of`), all are compared over the trials that
    all have, and those with more have rows of their own over these; the column ``trials`` tells them apart.
    """
    return pd.concat(
        [named(study, summary(part)).assign(trials=trials) for trials, part in at_levels(study, table)],
        ignore_index=True,
    )


def named(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the names of the configurations that they belong to, in the order of the study."""
    parts = []
    for split in study.splits:
        names = study.names_of_rows(split)
        part = rows[rows["scheme"] == split.label]
        keys = zip(part["method"], part["parameters"], strict=True)
        part = part.assign(configuration=[names.get(key, []) for key in keys])
        parts.append(part.explode("configuration").dropna(subset="configuration"))
    order = {subset.label: place for place, subset in enumerate(study.datasets)}
    table = pd.concat(parts, ignore_index=True)
    table = table.sort_values("dataset", kind="stable", key=lambda labels: labels.map(order), ignore_index=True)
    return table[["configuration", *rows.columns]]


def markdown(study: Study, table: pd.DataFrame) -> str:
    """The scores as Markdown: one table per dataset and split, a row per configuration and a column per metric.

    The computations that were skipped or failed, and the reasons, are at the end.
    """
    scores = by_configuration(study, table)
    lines = ["# Scores", ""]
    split_names = {split.name for split in study.splits}
    for (dataset, scheme, fraction, trials), part in scores.groupby([*TABLE_KEYS, "trials"], sort=False, dropna=False):
        metrics = [name for name in study.shown or dict.fromkeys(part["metric"]) if name in set(part["metric"])]
        share = "" if scheme in split_names or math.isnan(fraction) else f", {fraction:g} hidden"
        rows = []
        for _, scores_of in part.groupby(["method", "parameters"], sort=False):
            cells = {row["metric"]: _cell(row, study.spread) for row in scores_of.to_dict("records")}
            label = plain(" = ".join(dict.fromkeys(scores_of["configuration"])))
            label += " (control)" if scores_of["control"].iloc[0] else ""
            rows.append([label, *(cells.get(metric, "") for metric in metrics)])
        number = f", {trials} trials" if study.trials_of else ""
        title = plain(f"{dataset}, {scheme}{share}{number}")
        lines += [f"## {title}", "", *markdown_table(["", *map(plain, metrics)], rows), ""]
    lines.append(f"Mean ± {AFTER_MEAN[study.spread][0]}. Bold: the best. `!`: does not beat the best control.")
    for row in table[table["status"] == "skipped"].to_dict("records"):
        what = row["scheme"] if row["method"] == "every method" else f"{row['method']} {row['parameters']}"
        lines.append(plain(f"Skipped: {what} on {row['dataset']}: {row['reason']}"))
    for failed in table[table["status"].isin(["failed", STOPPED, NEEDS_INTEGERS])].to_dict("records"):
        method = f"{failed['method']} {failed['parameters']} on {failed['dataset']}"
        lines.append(plain(f"{failed['status'].capitalize()}: {method}: {failed['reason']}"))
    return "\n".join(lines) + "\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def plain(text: str) -> str:
    """Any text as one line of Markdown, or one cell of a table, in which nothing has a meaning there."""
    shown = html.escape(printable(" ".join(str(text).split()), 1000), quote=False)
    return re.sub(r"([\\|`\[\]*])", r"\\\1", shown)


def _with_spread(row: dict[str, Any], kind: str) -> str:
    """Mean and spread of a row of `by_configuration`; ``kind`` is that of ``Study.spread``."""
    if row["n"] < 2:
        return f"{row['mean']:.4g}"
    return f"{row['mean']:.4g} ± {AFTER_MEAN[kind][1](row['sd'], row['n']):.1g}"


def half_interval(sd: float, n: int) -> float:
    """Half of the 95 % interval (Student's t) of the mean of ``n`` values with the standard deviation ``sd``."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, n - 1) * sd / math.sqrt(n))


# name in ``Study.spread`` -> what is printed after a mean, and its value from the SD over n trials
AFTER_MEAN: dict[str, tuple[str, Callable[[float, int], float]]] = {
    "sd": ("standard deviation over trials", lambda sd, n: sd),
    "interval": ("half of the 95 % interval of the mean over trials", half_interval),
    "sem": ("1.64 standard errors of the mean over trials", lambda sd, n: 1.64 * sd / math.sqrt(n)),  # as paper 001
}


def _cell(row: dict[str, Any], kind: str) -> str:
    text = f"**{_with_spread(row, kind)}**" if row["best"] else _with_spread(row, kind)
    return f"{text} !" if row["loses_to"] else text


def published_markdown(study: Study, table: pd.DataFrame) -> str:
    """The tables of ``study.published`` whose dataset is in the study, with our numbers and those of the paper."""
    lines: list[str] = []
    for title, headings, rows in published_rows(study, table):
        cells = [[plain(cell) for cell in row] for row in rows]
        lines += [f"# {plain(title)}", "", *markdown_table(["", *map(plain, headings)], cells), ""]
    return "\n".join([*lines, PUBLISHED_LEGEND]) + "\n" if lines else ""


def published_rows(study: Study, table: pd.DataFrame) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of texts of each published table whose dataset is in the study."""
    labels = {subset.name: subset.label for subset in study.datasets}
    scores = by_configuration(study, table)
    tables = []
    for published in study.published:
        if published.dataset in labels:
            rows = (scores["dataset"] == labels[published.dataset]) & (scores["metric"] == published.metric)
            for split in study.splits if study.trials_of else ():
                number = in_common(study, published.columns.values(), split)
                rows &= (scores["scheme"] != split.label) | (scores["trials"] == number)
            tables.append((published.title, list(published.columns), _lines(published, scores[rows], study.spread)))
    return tables


def _lines(published: Published, scores: pd.DataFrame, spread: str) -> list[list[str]]:
    rows = []
    for split, figures in published.rows.items():
        cells = [split]
        for heading, configuration in published.columns.items():
            matching = scores[(scores["scheme"] == split) & (scores["configuration"] == configuration)].to_dict(
                "records"
            )
            ours = _with_spread(matching[0], spread) if matching else "-"
            cells.append(f"{ours} ({figures[heading]})" if heading in figures else ours)
        rows.append(cells)
    return rows


# -- tests -------------------------------------------------------------------------------------------------------------
TEST_COLUMNS = [
    *("dataset", "scheme", "metric", "test", "first", "second", "mean_first", "mean_second", "difference", "n", "p"),
]


def table_of_tests(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Wilcoxon signed-rank tests and Welch's t-tests: one row for each comparison, dataset and split with its metric.

    ``p`` is two-sided. Wilcoxon's is exact if no differences are tied or 0 (scipy's ``wilcoxon``): with ten trials it
    is at least 0.002. It is 1 if every difference is 0, and NaN with fewer than two trials. ``difference`` is the
    median of the first minus the second.
    """
    values = named(study, table[table["status"] == "ok"])
    rows = []
    for (dataset, scheme, _), part in values.groupby(TABLE_KEYS, sort=False, dropna=False):
        for comparison in study.comparisons:
            scores = part[part["metric"] == comparison.metric]
            wide = scores.pivot_table(index="trial", columns="configuration", values="value")
            for other in comparison.others:
                if not {comparison.first, other} <= set(wide):
                    continue
                pair = wide[[comparison.first, other]].dropna().to_numpy()
                means = pair.mean(axis=0) if len(pair) else (math.nan, math.nan)
                names = [dataset, scheme, comparison.metric, comparison.test, comparison.first, other]
                median = float(np.median(pair[:, 0] - pair[:, 1])) if len(pair) else math.nan
                rows.append([*names, *means, median, len(pair), _p_value(comparison.test, pair)])
    return pd.DataFrame(rows, columns=TEST_COLUMNS)


def _p_value(test: str, pair: np.ndarray) -> float:
    """Of a test between the two columns of (n trials, 2) numbers."""
    from scipy.stats import wilcoxon

    if len(pair) < 2:
        return math.nan
    if test == "welch":
        return compare_over_trials(first=pair[:, 0], second=pair[:, 1]).p
    difference = pair[:, 0] - pair[:, 1]
    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def comparisons_markdown(tests: pd.DataFrame) -> str:
    """The tests as a Markdown table."""
    rows = [
        [f"{row[name]:.4g}" if isinstance(row[name], float) else plain(row[name]) for name in TEST_COLUMNS]
        for row in tests.to_dict("records")
    ]
    legend = (
        "Tests over trials (wilcoxon: signed ranks; welch: t-test); p is two-sided, not corrected for their number."
    )
    return "\n".join(["# Tests", "", *markdown_table(TEST_COLUMNS, rows), "", legend]) + "\n"


# -- claims ------------------------------------------------------------------------------------------------------------
CLAIM_COLUMNS = [
    *(
        "claim",
        "by",
        "configurations",
        "dataset",
        "scheme",
        "metric",
        "held",
        "estimate",
        "se",
        "n",
        "agree",
        "ties",
        "evidence",
        "beats_control",
        "spread",
    )
]
PRINTED_COLUMNS = ["claim", "dataset", "scheme", "metric", "held", "n", "evidence", "beats_control", "spread"]
PUBLISHED_LEGEND = "Our numbers, and in brackets those of the paper, which used other data."
LEGEND = (
    "Held: by the 95 % interval over trials, or in every trial; collapsed: it holds, but the network gives all cells "
    "the same profile. ±: standard error of a difference, else standard deviation. Spread: SD between cells of the "
    "output, divided by that of the data."
)
SPREADS = ("between_cell_sd", "data_between_cell_sd")  # of output and data, if a method reports them


class Outcome(NamedTuple):
    """Whether a claim ``"holds"``, ``"fails"`` or is ``"unclear"``, and the estimate for that, over ``n`` trials."""

    held: str
    estimate: float
    se: float
    n: int
    evidence: str = ""  # the numbers as text
    agree: int = 0  # trials in which it is so
    ties: int = 0  # trials in which two configurations are exactly equal, which decides nothing


UNKNOWN = Outcome("unclear", math.nan, math.nan, 0)


def check_claims(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Check each claim on each dataset and split that it is about and that has its metric.

    A comparison pairs the two configurations by trial, over the trials that both have: the claim holds if the 95 %
    interval (Student's t) of the mean difference is above 0, and does not hold if it is below. A curve is monotone if
    its last value is lower than its first and no step rises, both by that interval. Two configurations are similar if
    the interval of the mean relative difference is within the claimed share, and not similar if it is outside. The
    other kinds hold, or do not, if they do so in every trial. A single trial of a comparison is always unclear.

    Gives one row per claim, dataset and split:

    - ``held``: ``"holds"``, ``"fails"``, ``"unclear"``, or ``"collapsed"``: it holds, but in half of the trials or more
      the network gives all cells the same profile, so it has learned nothing about any cell,
    - ``estimate``: how much better the first configuration is, in units of the metric; the fall of a curve; else the
      mean of the value that is claimed to be large or small,
    - ``se``: standard error of the estimate; ``n``: number of trials; ``evidence``: the numbers as text,
    - ``agree``: number of trials in which it is so, whatever the interval; ``ties``: in which two configurations that
      are compared are exactly equal,
    - ``beats_control``: the same test of the first configuration against the control of the claim,
    - ``spread``: SD between cells of the first configuration's output, divided by that of the data.
    """
    values = named(study, table[table["status"] == "ok"])
    rows: list[dict[str, Any]] = []
    names = {subset.label: subset.name for subset in study.datasets}
    for (dataset, scheme, _), part in values.groupby(TABLE_KEYS, sort=False, dropna=False):
        wide = part.pivot_table(index="trial", columns=["metric", "configuration"], values="value")
        for claim in study.claims:
            elsewhere = claim.splits and scheme not in claim.splits
            elsewhere = elsewhere or (claim.datasets and names[dataset] not in claim.datasets)
            if elsewhere or claim.metric not in set(part["metric"]):
                continue
            row = {"claim": claim.text, "by": claim.by, "configurations": "; ".join(claim.configurations)}
            row |= {"dataset": dataset, "scheme": scheme, "metric": claim.metric}
            metrics = [metric for metric in (claim.metric, claim.reference) if metric]
            missing = [name for name in claim.configurations for metric in metrics if (metric, name) not in wide]
            if missing:
                rows.append({**row, **UNKNOWN._replace(evidence=f"no result of {missing[0]}")._asdict()})
                continue
            row |= {**CLAIM_CHECKS[claim.kind](claim, wide)._asdict(), **_context(claim, wide)}
            if row["held"] == "holds" and _collapsed(claim, wide):
                row["held"] = "collapsed"
            rows.append(row)
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS)


def mean_difference(differences: np.ndarray) -> Outcome:
    """Whether the mean of (n,) differences is above 0, by its 95 % interval; unclear if one is not finite."""
    n = len(differences)
    if n == 0 or not np.isfinite(differences).all():
        return UNKNOWN._replace(n=n)
    mean = float(differences.mean())
    agree, ties = int((differences > 0).sum()), int((differences == 0).sum())
    if n == 1:
        return UNKNOWN._replace(n=1, estimate=mean, agree=agree, ties=ties)
    sd = float(differences.std(ddof=1))
    half = half_interval(sd, n)
    held = "holds" if mean > half else "fails" if mean < -half else "unclear"
    return Outcome(held, mean, sd / math.sqrt(n), n, agree=agree, ties=ties)


def _better(claim: Claim, wide: pd.DataFrame) -> Outcome:
    keys = [(claim.metric, name) for name in claim.configurations]
    both = wide.dropna(subset=keys)  # one may have more trials
    first, second = (both[key] for key in keys)
    difference = _improvement(wide, claim.metric, *claim.configurations)
    evidence = f"{first.mean():.5g} against {second.mean():.5g}"
    if math.isnan(difference.estimate):
        return difference._replace(evidence=f"{evidence}: not finite in every trial")
    evidence += f": {'better' if difference.estimate >= 0 else 'worse'} by {abs(difference.estimate):.3g}"
    evidence += "" if math.isnan(difference.se) else f" ± {difference.se:.2g}"
    if claim.value:
        beyond = _improvement(wide, claim.metric, *claim.configurations, margin=claim.value)
        difference = difference._replace(held=beyond.held, agree=beyond.agree, ties=beyond.ties)
        evidence += f", which is {1 - first.mean() / second.mean():.2%}; {claim.value:.0%} or more is claimed"
    return difference._replace(evidence=evidence)


def _similar(claim: Claim, wide: pd.DataFrame) -> Outcome:
    pair = wide[[(claim.metric, name) for name in claim.configurations]].dropna().to_numpy()
    differences = pair[:, 0] / pair[:, 1] - 1
    relative = mean_difference(differences)._replace(agree=int((np.abs(differences) <= claim.value).sum()), ties=0)
    evidence = f"{pair[:, 0].mean():.5g} against {pair[:, 1].mean():.5g}: {relative.estimate:+.2%}"
    if math.isnan(relative.se):
        return relative._replace(held="unclear", evidence=evidence)
    half = half_interval(relative.se * math.sqrt(relative.n), relative.n)
    within, outside = abs(relative.estimate) + half <= claim.value, abs(relative.estimate) - half > claim.value
    held = "holds" if within else "fails" if outside else "unclear"
    evidence += f" ± {relative.se:.2%}; {claim.value:.0%} or less is claimed"
    return relative._replace(held=held, evidence=evidence)


def _at_least(claim: Claim, wide: pd.DataFrame) -> Outcome:
    values = wide[claim.metric, claim.configurations[0]].dropna().to_numpy()
    return _in_every_trial(values >= claim.value, values, f"{_mean(values)}, {claim.value:g} or more is claimed")


def _monotone(claim: Claim, wide: pd.DataFrame) -> Outcome:
    curves = wide[[(claim.metric, name) for name in claim.configurations]].dropna().to_numpy()  # trials x curve
    steps = np.diff(curves, axis=1)
    fall = mean_difference(curves[:, 0] - curves[:, -1])
    rises = any(mean_difference(step).held == "holds" for step in steps.T)
    curve = ", ".join(f"{value:.3g}" for value in curves.mean(axis=0))
    falling = int((steps <= 0).all(axis=1).sum())
    evidence = f"means {curve}; no step rises in {falling} of {len(curves)} trials"
    return fall._replace(held="fails" if rises else fall.held, evidence=evidence, agree=falling, ties=0)


def _close(claim: Claim, wide: pd.DataFrame) -> Outcome:
    pair = wide[[(name, claim.configurations[0]) for name in (claim.metric, claim.reference)]].dropna().to_numpy()
    change = np.abs(pair[:, 0] / pair[:, 1] - 1)
    return _in_every_trial(
        change <= claim.value, change, f"changed by {_mean(change)}, {claim.value:g} or less is claimed"
    )


CLAIM_CHECKS = {"better": _better, "at_least": _at_least, "monotone": _monotone, "close": _close, "similar": _similar}


def _context(claim: Claim, wide: pd.DataFrame) -> dict[str, Any]:
    """Whether the first configuration beats the control, and how much its output differs between cells."""
    context: dict[str, Any] = {}
    first = claim.configurations[0]
    if claim.control and (claim.metric, claim.control) in wide:
        held = _improvement(wide, claim.metric, first, claim.control).held
        context["beats_control"] = {"holds": "yes", "fails": "no"}.get(held, held)
    if all((name, first) in wide for name in SPREADS):
        output, data = (wide[name, first] for name in SPREADS)
        context["spread"] = float((output / data).median())
    return context


def _collapsed(claim: Claim, wide: pd.DataFrame) -> bool:
    column = ("collapsed", claim.configurations[0])
    return column in wide and bool(wide[column].mean() >= 0.5)


def _improvement(wide: pd.DataFrame, metric: str, first: str, second: str, *, margin: float = 0.0) -> Outcome:
    """How much better the first is than ``1 - margin`` times the second, over the trials that both have."""
    both = wide[[(metric, first), (metric, second)]].dropna(how="any")
    costs_of = [np.asarray(costs(both[metric, name], metric), dtype=np.float64) for name in (first, second)]
    return mean_difference((1 - margin) * costs_of[1] - costs_of[0])


def _in_every_trial(holds: np.ndarray, values: np.ndarray, claimed: str) -> Outcome:
    """A claim that holds, or does not hold, if it does so in every trial."""
    n, k = len(holds), int(np.sum(holds))
    held = "unclear" if n == 0 or 0 < k < n else "holds" if k else "fails"
    mean = float(values.mean()) if n else math.nan
    se = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Outcome(held, mean, se, n, f"{claimed}: in {k} of {n} trials", k)


def _mean(values: np.ndarray) -> str:
    if not len(values):
        return "nothing"
    return f"{values.mean():.4g}" + (f" ± {values.std(ddof=1):.1g}" if len(values) > 1 else "")


AUTHORS = (("paper", "Claims of the paper"), ("us", "Our own claims"))
VERDICT_HEADER = ["claim", "verdict", "runs that agree", "by data set", "configurations"]


def claims_markdown(checked: pd.DataFrame) -> str:
    """A verdict on each claim as Markdown: those of the paper, then ours."""
    lines = []
    for by, title in AUTHORS:
        if rows := [[plain(cell) for cell in row] for row in verdict_rows(checked[checked["by"] == by])]:
            lines += [f"# {title}", "", *markdown_table(VERDICT_HEADER, rows), ""]
    return "\n".join([*lines, VERDICT_LEGEND]) + "\n"


def claims_in_detail_markdown(checked: pd.DataFrame) -> str:
    """Each claim on each data set, as Markdown."""
    lines = []
    for by, title in AUTHORS:
        part = checked[checked["by"] == by]
        if len(part):
            columns = printed_columns(part)
            rows = [[plain(cell) for cell in row] for row in claim_rows(part, columns)]
            lines += [f"# {title}, on each data set", "", *markdown_table(columns, rows), ""]
    return "\n".join([*lines, LEGEND]) + "\n"


def verdict_rows(checked: pd.DataFrame) -> list[list[str]]:
    """Rows of texts: one per claim, in the order of `VERDICT_HEADER`."""
    return [
        [row["claim"], row["verdict"], f"{row['agree']} of {row['n']}", row["by data set"], row["configurations"]]
        for row in verdicts(checked).to_dict("records")
    ]


def printed_columns(checked: pd.DataFrame) -> list[str]:
    """The columns of `claim_rows` that say something."""
    return [name for name in PRINTED_COLUMNS if checked[name].notna().any()]


def claim_rows(checked: pd.DataFrame, columns: Sequence[str]) -> list[list[str]]:
    """Rows of texts: one per claim, data set and way to hide values; the text of a claim is in its first row."""
    rows = []
    for _, part in checked.groupby("claim", sort=False):
        for place, row in enumerate(part.to_dict("records")):
            rows.append([_text("" if place and name == "claim" else row[name]) for name in columns])
    return rows


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.2g}"
    return str(value)
