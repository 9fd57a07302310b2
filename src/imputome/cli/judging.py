"""The check of an imputation on the command line: what it costs, said before, and the verdict, said after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from imputome.cli.console import print_json, progress
from imputome.errors import ControlsWinError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from imputome.automatic import Chosen
    from imputome.facade import Run
    from imputome.preprocessing.inspect import InputReport

SHOWN = 8  # lines of the race


def checked_run(run: Run, adata: AnnData, *, labels: Sequence[str], seed: int, quiet: bool) -> Run:
    """The run with its verdict; what that costs is said first."""
    from imputome.checking import check_run, cost

    if not quiet:
        typer.echo(cost(run.report, run.estimator), err=True)
    with progress("checking", quiet=quiet) as show:
        return check_run(run, adata, labels=labels, seed=seed, progress=show)


def chosen_method(
    adata: AnnData, report: InputReport, *, quiet: bool, as_json: bool, budget: float, **options: Any
) -> Chosen:
    """Who is to impute, by ``--method auto``; what that costs is said first; where nobody is, how that was found."""
    from imputome.automatic import budget_line, choose
    from imputome.checking import brief

    if not quiet:
        typer.echo(budget_line(report, budget), err=True)
    try:
        with progress("choosing a method", quiet=quiet) as show:
            return choose(adata, report=report, budget=budget, progress=show, **options)
    except ControlsWinError as error:
        if as_json:
            print_json({"output": None, **brief(error.record)})
        elif not quiet:
            say_judged(error.record)
        raise


def say_judged(record: dict[str, Any]) -> None:
    """The race and the verdict, as far as there are any."""
    for name, lines in (("race", race_lines), ("verdict", verdict_lines)):
        for line in lines(record) if name in record else []:
            typer.echo(line)


def race_lines(record: dict[str, Any]) -> list[str]:
    """The race, the best first."""
    race = record["race"]
    table = race["candidates"]
    lines = [f"race on {race['cells']:,} x {race['genes']:,} values, {race['metric']}, less is better:"]
    for row in table.head(SHOWN).to_dict("records"):
        score = f"{row['score']:.5f}" if row["splits"] else "-"
        mark = " (control)" if row["control"] else ""
        lines.append(f"  {score:>9}  {row['name']}{mark}: {row['outcome']}")
    if len(table) > SHOWN:
        lines.append(f"  and {len(table) - SHOWN} more")
    if "instead" in race:
        lines.append(race["instead"])
    return lines


def verdict_lines(record: dict[str, Any]) -> list[str]:
    """The verdict and its reasons."""
    found = record["verdict"]
    what = "cells" if found["kind"] == "counts" else "samples"
    first = f"verdict on {found['method']}: {found['verdict'].upper()}"
    size = f"({found['cells']:,} {what}, {found['fits']} fits, {found['seconds']:.0f} s, rule {found['rule']})"
    return [f"{first} {size}", *(f"  - {reason}" for reason in found["reasons"])]
