"""What the command line prints, and where: results to stdout, progress and warnings to stderr."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from imputome.errors import ControlsWinError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from imputome.inspection.state import InputReport
    from imputome.result.record import Race, Verdict
    from imputome.result.run import Run
    from imputome.trust.auto import Chosen

EVERY = 10.0  # seconds between plain progress lines


def error_line(text: str) -> None:
    """One line on stderr."""
    typer.echo(f"error: {in_options(text)}", err=True)


def warning_line(text: str) -> None:
    """One line on stderr."""
    typer.echo(f"warning: {in_options(text)}", err=True)


def in_options(text: str) -> str:
    """A message of the library on one line, its keyword arguments written as options of the command line."""
    return re.sub(r"\b(layer|scale|method)='([^']*)'", r"--\1 \2", " ".join(text.split()))


def print_json(summary: dict[str, Any]) -> None:
    """A machine-readable summary on stdout."""
    typer.echo(json.dumps(_finite(json.loads(json.dumps(summary, default=_plain))), allow_nan=False))


def _finite(value: Any) -> Any:
    """NaN and infinity, which are no JSON, as null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A callable (share done, where it stands): a bar on a terminal, plain lines now and then elsewhere."""
    if quiet:
        yield lambda share, text: None
    elif sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(what, total=1.0, text="")
            yield lambda share, text: bars.update(task, completed=share, text=text)
    else:
        yield _plain_lines(what)


def _plain_lines(what: str) -> Callable[[float, str], None]:
    last = None

    def show(share: float, text: str) -> None:
        nonlocal last
        if last is None:  # said when the work begins, not before the input was looked at
            typer.echo(f"{what} ...", err=True)
            last = time.monotonic()
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            typer.echo(f"{what}: {share:.0%} {text}", err=True)

    return show


SHOWN = 8  # lines of the race


def checked_run(run: Run, adata: AnnData, *, labels: Sequence[str], seed: int, quiet: bool) -> Run:
    """The run with its verdict; what that costs is said first."""
    from imputome.trust.check import check_run, cost

    if not quiet:
        typer.echo(cost(run.report, run.estimator), err=True)
    with progress("checking", quiet=quiet) as show:
        return check_run(run, adata, labels=labels, seed=seed, progress=show)


def chosen_method(
    adata: AnnData, report: InputReport, *, quiet: bool, as_json: bool, budget: float, **options: Any
) -> Chosen:
    """Who is to impute, by ``--method auto``; what that costs is said first; where nobody is, how that was found."""
    from imputome.trust.auto import budget_line, choose

    if not quiet:
        typer.echo(budget_line(report, budget), err=True)
    try:
        with progress("choosing a method", quiet=quiet) as show:
            return choose(adata, report=report, budget=budget, progress=show, **options)
    except ControlsWinError as error:
        if as_json:
            print_json({"output": None, **{name: part.brief() for name, part in error.record.items()}})
        elif not quiet:
            say_verdict(error.record.get("race"), error.record.get("verdict"))
        raise


def say_verdict(race: Race | None, verdict: Verdict | None) -> None:
    """Print the race and the verdict, as far as there are any."""
    for line in [*(race_lines(race) if race else []), *(verdict_lines(verdict) if verdict else [])]:
        typer.echo(line)


def race_lines(race: Race) -> list[str]:
    """The race, the best first."""
    table = race.candidates
    lines = [f"race on {race.cells:,} x {race.genes:,} values, {race.metric}, lower is better:"]
    for row in table.head(SHOWN).to_dict("records"):
        score = f"{row['score']:.5f}" if row["splits"] else "-"
        mark = " (control)" if row["control"] else ""
        lines.append(f"  {score:>9}  {row['name']}{mark}: {row['outcome']}")
    if len(table) > SHOWN:
        lines.append(f"  and {len(table) - SHOWN} more")
    if race.instead:
        lines.append(race.instead)
    return lines


def verdict_lines(verdict: Verdict) -> list[str]:
    """The verdict and its reasons."""
    what = "cells" if verdict.kind == "counts" else "samples"
    first = f"verdict on {verdict.method}: {verdict.verdict.upper()}"
    size = f"({verdict.cells:,} {what}, {verdict.fits} fits, {verdict.seconds:.0f} s, rule {verdict.rule})"
    return [f"{first} {size}", *(f"  - {reason}" for reason in verdict.reasons)]
