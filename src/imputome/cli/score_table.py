"""The scores of an evaluation as a table of text: sorted, with the direction of each score, and what follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from imputome.cli.console import print_line, shown

if TYPE_CHECKING:
    import pandas as pd

HEADER_WIDTH = 17  # longer names of scores are on several lines
WIDE = 200  # columns where the output is no terminal
TINY = 1e-12  # smaller scores are zero but for rounding
BETTER = {"lower": "lower", "higher": "higher", "one": "near 1", "nominal": "near 0.9"}


def show_summary(scores: pd.DataFrame, table: pd.DataFrame, *, more_splits: str = "") -> None:
    """Print the scores of each data set and way of hiding, the best method first, and which beat every control.

    Parameters
    ----------
    scores : DataFrame
        Of `imputome.studies.results.summary`.
    table : DataFrame
        That it is a summary of.
    more_splits : str, default=""
        What the user can pass for several splits, for the line that asks for them.
    """
    from imputome.evaluation.open_problems import SCORES
    from imputome.studies.results import told_apart

    different = told_apart(scores)
    ranked = set(SCORES) & set(scores["metric"])
    for key, part in scores.groupby(["dataset", "scheme", "fraction", "options"], sort=False, dropna=False):
        dataset, scheme, fraction, options = key
        rows = table[(table["dataset"] == dataset) & (table["scheme"] == scheme) & (table["options"] == options)]
        rows = rows[rows["fraction"].eq(fraction) | (rows["fraction"].isna() & (fraction != fraction))]
        rows = rows[rows["status"] == "ok"]
        # one transform, unless the training parts of two trials call for different ones
        transforms = sorted(set(rows["transform"]) - {""})
        on = f", imputed on {' or '.join(transforms)}" if set(transforms) - {"identity"} else ""
        # the file can hold results of other settings
        on += f", {different[part.index[0]]}" if different[part.index[0]] else ""
        print_line(f"{dataset}, {scheme}, {fraction:g} hidden{on}")
        header, grid = _grid(part, rows, ranked)
        for line in grid_lines(header, grid, get_terminal_size((WIDE, 24)).columns):
            print_line(line)
        for line in conclusions(part, rows, more_splits):
            print_line(line)
        print_line()
    print_line("*: best of the column, controls included.  !: does not beat the best control.")
    print_line("±: standard deviation over splits.  seconds: of one fit.  The scores: imputome methods --metrics")
    if ranked:
        print_line("(1): rank among methods and controls.  open_problems_poisson: truth and prediction are swapped.")


# -- what the table says -----------------------------------------------------------------------------------------------
def deciding_metric(metrics: Iterable[str]) -> str | None:
    """The score that decides, as in the check; else the first that is a contest, by which the table is sorted."""
    from imputome.evaluation.glossary import DECIDING
    from imputome.evaluation.metrics import METRICS

    metrics = list(metrics)
    contests = [name for name in metrics if name in METRICS and METRICS[name].is_contest]
    return next((name for name in (*DECIDING, *contests) if name in metrics), None)


def conclusions(part: pd.DataFrame, rows: pd.DataFrame, more_splits: str = "") -> Iterator[str]:
    """Which methods beat every control on the score that decides; nothing where no score of ``part`` does.

    A method beats a control if its score is better on average over the splits that both were scored on and, with
    several splits, if the difference is more than its own standard deviation over the splits.
    """
    from imputome.evaluation.glossary import DECIDING

    metric = deciding_metric(part["metric"])
    if metric not in DECIDING:  # the others reward a method that raises every zero, or have a target
        return
    part = part[part["metric"] == metric].sort_values("mean")  # lower is better for both that decide
    if part["control"].all():
        return
    values = rows[rows["metric"] == metric].pivot_table(
        index=["trial", "seed"], columns=["method", "parameters"], values="value", aggfunc="first"
    )
    columns = [key for key in zip(part["method"], part["parameters"], strict=True) if key in values.columns]
    is_control = dict(zip(zip(part["method"], part["parameters"], strict=True), part["control"], strict=True))
    controls = [values[key] for key in columns if is_control[key]]
    beating = [
        _label(key[0], key[1], part)
        for key in columns
        if not is_control[key] and all(_is_below(values[key] - control) for control in controls)
    ]
    splits = int(part["n"].max())
    spread = f" by more than the spread over {splits} splits" if splits > 1 else ""
    who = f"{', '.join(beating)} beat{'s' if len(beating) == 1 else ''}" if beating else "no method beats"
    yield f"{metric}: {who} every control{spread}"
    if splits == 1:
        remedy = f": {more_splits}" if more_splits else ""
        yield f"one split has no spread, so that small differences between methods say little{remedy}"


def _is_below(differences: pd.Series) -> bool:
    """Whether a score that is best low is lower, by more than its standard deviation if there are several."""
    differences = differences.dropna()
    if len(differences) == 0:
        return False
    spread = float(differences.std()) if len(differences) > 1 else 0.0
    return float(differences.mean()) < -spread


# -- its cells ---------------------------------------------------------------------------------------------------------
def _grid(part: pd.DataFrame, rows: pd.DataFrame, ranked: set[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text, the best method by the score that decides first."""
    from imputome.evaluation.metrics import METRICS
    from imputome.studies.results import HIGHER, costs

    decides = deciding_metric(part["metric"])
    known = [*([decides] if decides else []), *METRICS, *HIGHER]
    metrics = sorted(dict.fromkeys(part["metric"]), key=lambda name: known.index(name) if name in known else len(known))
    seconds = rows.drop_duplicates(["method", "parameters", "trial", "seed"])
    seconds = seconds.groupby(["method", "parameters"])["seconds"].mean()
    numbers = part.groupby(["method", "parameters"], sort=False)["n"].max()
    lines = []
    for place, (key, group) in enumerate(part.groupby(["method", "parameters"], sort=False)):
        by_metric = {row["metric"]: row for row in group.to_dict("records")}
        label = _label(key[0], key[1], part) + (" (control)" if group["control"].iloc[0] else "")
        if numbers.nunique() > 1:
            label += f" ({numbers[key]} split{'s' if numbers[key] > 1 else ''})"
        cells = [_cell(by_metric.get(metric), metric in ranked) for metric in metrics]
        cost = math.inf
        if decides is not None and decides in by_metric:
            cost = float(costs(group.loc[group["metric"] == decides, "mean"], decides)[0])
        taken = seconds.get(key, math.nan)
        # three digits, and all digits of more than a thousand seconds
        time = "" if taken != taken else f"{taken:.3g}" if taken < 1000 else f"{taken:,.0f}"
        lines.append((cost, place, [label, *cells, time]))
    header = ["method", *(_heading(name) for name in metrics), "seconds"]
    return header, [line for _, _, line in sorted(lines, key=lambda line: line[:2])]


def _label(name: str, parameters: str, part: pd.DataFrame) -> str:
    from imputome.studies.external import is_external

    if is_external(parameters) and part.loc[part["method"] == name, "parameters"].nunique() == 1:
        return f"{name} (external)"
    return name if parameters in ("{}", '{"posterior": true}') else f"{name} {parameters}"


def _heading(metric: str) -> str:
    """The whole name, on several lines if it is long, and which way is better."""
    from imputome.evaluation.metrics import METRICS
    from imputome.studies.results import HIGHER

    lines = [""]
    for word in metric.replace("_", "_ ").split():
        if lines[-1] and len(lines[-1] + word) > HEADER_WIDTH:
            lines.append("")
        lines[-1] += word
    better = BETTER[METRICS[metric].better] if metric in METRICS else "higher" if metric in HIGHER else ""
    return "\n".join(f"{line}  " for line in [*lines, better])  # above the numbers, not the marks


def _cell(row: dict[str, Any] | None, ranked: bool = False) -> str:
    """Mean, spread and rank, with the mark in the last place."""
    if row is None or row["mean"] != row["mean"]:
        return ""
    spread = f" ± {number(row['sd'], 1)}" if row["n"] > 1 else ""
    rank = f" ({row['rank']})" if ranked else ""
    mark = "!" if row["loses_to"] else "*" if row["best"] else " "
    return f"{number(row['mean'], 4)}{spread}{rank} {mark}"


def number(value: float, digits: int) -> str:
    """A score with so many digits; 0 for what is 0 but for rounding.

    Examples
    --------
    >>> number(0.123456, 4), number(6.252e-33, 4)
    ('0.1235', '0')
    """
    return "0" if abs(value) < TINY else f"{value:.{digits}g}"


# -- the grid ----------------------------------------------------------------------------------------------------------
def grid_lines(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    r"""A table in lines of at most ``width`` characters, in several blocks if it is wider; no cell is cut.

    The first column is left-aligned and stands in every block; a long text in it is continued below. A heading can have
    several lines. A single column that is too wide makes longer lines.

    Examples
    --------
    >>> print("\n".join(grid_lines(["a", "b", "c"], [["x", "1.5", "20"], ["y", "10", "3"]], 8)))
    a    b
    x  1.5
    y   10
    <BLANKLINE>
    a   c
    x  20
    y   3
    """
    from textwrap import wrap

    header = ["\n".join(map(shown, each.split("\n"))) for each in header]
    rows = [[shown(cell) for cell in row] for row in rows]
    first = [wrap(row[0], max(20, width // 2), subsequent_indent="  ") or [""] for row in rows]
    left = max(len(line) for lines in [[header[0]], *first] for line in lines)
    headings = [heading.split("\n") for heading in header[1:]]
    widths = [
        max([*map(len, heading), *(len(row[place]) for row in rows)]) for place, heading in enumerate(headings, 1)
    ]
    lines: list[str] = []
    start = 0
    while start < len(widths):
        stop = start + 1
        while stop < len(widths) and left + sum(2 + each for each in widths[start : stop + 1]) <= width:
            stop += 1
        shown_columns = range(start, stop)
        high = max(len(headings[place]) for place in shown_columns)
        if lines:
            lines.append("")
        for depth in range(high):
            texts = [([*[""] * (high - len(headings[place])), *headings[place]])[depth] for place in shown_columns]
            lines.append(_line(header[0] if depth == high - 1 else "", left, texts, widths[start:stop]))
        for row, labels in zip(rows, first, strict=True):
            lines.append(_line(labels[0], left, [row[place + 1] for place in shown_columns], widths[start:stop]))
            lines += labels[1:]
        start = stop
    return lines


def _line(label: str, left: int, texts: Sequence[str], widths: Sequence[int]) -> str:
    cells = (f"  {text:>{width}}" for text, width in zip(texts, widths, strict=True))
    return (f"{label:<{left}}" + "".join(cells)).rstrip()
