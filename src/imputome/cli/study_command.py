"""``imputome study``: run a study, and print its results and whether they support its claims."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.console import keeps_partial_work, print_json, warning_line, warnings_as_lines


def command(
    study: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE.toml]", help="Without it, list the studies.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the results.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Run a small variant, as a quick trial.")] = False,
    datasets: Annotated[str | None, typer.Option(help="A,B: only these datasets of the study.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed (default: that of the study).")] = None,
    gc: Annotated[Path | None, typer.Option(help="CSV of gene and GC content, for studies that use it.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes; if several, each has one thread.")] = 1,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Run a study; an interrupted one continues where it stopped. `imputome datasets` lists the datasets."""
    from imputome.datasets import load
    from imputome.studies.spec import find_study, known_studies

    if study is None:
        if as_json:
            print_json({"studies": known_studies()})
            return
        for name, title in known_studies().items():
            typer.echo(f"{name}: {title}")
        return
    from imputome.studies.execute import execute, write_results

    if output is None:
        raise typer.BadParameter("a folder for the results is needed", param_hint="--output")
    chosen = find_study(study, quick=quick)
    chosen = chosen.only(datasets.split(",")) if datasets else chosen
    chosen = replace(chosen, seed=chosen.seed if seed is None else seed, gc=chosen.gc if gc is None else str(gc))
    keeps_partial_work()
    with progress(f"study {chosen.name}", quiet=quiet) as show:
        table = execute(chosen, output, load=load, workers=workers, progress=show)
    with warnings_as_lines(quiet=quiet):
        files, text = write_results(chosen, table, output)
    if not quiet:
        for failed in table[table["status"] != "ok"].to_dict("records"):
            warning_line(f"{failed['method']} on {failed['dataset']}, trial {failed['trial'] + 1}: {failed['reason']}")
    if as_json:
        print_json({"study": chosen.name, "files": [str(path) for path in files]})
    elif not quiet:
        typer.echo(text)
        typer.echo(f"wrote {', '.join(map(str, files))}")
