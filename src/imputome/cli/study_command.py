"""``imputome study``: list, show and run studies, and write their pages."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.console import (
    keeps_partial_work,
    print_json,
    print_line,
    print_lines,
    warning_line,
    warnings_as_lines,
)
from imputome.errors import InputError

if TYPE_CHECKING:
    from imputome.studies.execute import Plan
    from imputome.studies.searches import Found
    from imputome.studies.spec import Study
    from imputome.studies.units import Limits

app = typer.Typer(
    help="Run the papers' experiments, or studies of your own; `imputome study list` names them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME|FILE.toml", help="A name of `imputome study list`, or a file.")]
ScaleOfStudy = Annotated[str, typer.Option(help="smoke (minutes), desk (an hour on 2 cores), or full (the paper's).")]
Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
Datasets = Annotated[str | None, typer.Option(help="A,B: only these datasets of the study.")]
StudySeed = Annotated[int | None, typer.Option(min=0, help="Seed (default: that of the study).")]
GC = Annotated[Path | None, typer.Option(help="CSV of gene and GC content, for studies that use it.")]


def list_studies(as_json: opt.AsJson = False) -> None:
    """List the studies that come with the package."""
    from imputome.studies.spec import known_studies

    if as_json:
        print_json({"studies": known_studies()})
        return
    for name, title in known_studies().items():
        print_line(f"{name}: {title}")


def show(study: Name, scale: ScaleOfStudy = "desk", as_json: opt.AsJson = False) -> None:
    """Show what a study runs: data, splits, configurations, claims."""
    from imputome.studies.spec import find_study

    chosen = find_study(study, scale=scale)
    parts = {
        "datasets": [subset.label for subset in chosen.datasets],
        "splits": [f"{split.label} ({split.scale})" for split in chosen.splits],
        "configurations": [configuration.name for configuration in chosen.configurations],
        "claims": [claim.text for claim in chosen.claims],
        "figures": [figure.title for figure in chosen.figures],
        "pictures": [picture.title for picture in chosen.pictures],
        "tuning": [f"{tuning.title}: {len(tuning.names())} x {tuning.trials} trials" for tuning in chosen.tuning],
    }
    if as_json:
        trials = {"trials": chosen.trials, "trials_of": chosen.trials_of}
        print_json({"study": chosen.name, "title": chosen.title, "scale": scale, **trials, **parts})
        return
    print_line(f"{chosen.name} ({scale}): {chosen.title}")
    print_line(f"paper: {chosen.paper}" if chosen.paper else "no paper")
    more = "".join(f", {name}: {number}" for name, number in chosen.trials_of.items())
    print_line(f"trials: {chosen.trials}{more}")
    for part, entries in parts.items():
        print_line(f"{part}: {len(entries)}")
        print_lines("\n".join(f"  {entry}" for entry in entries))


def run_studies(
    study: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE.toml]", help="A name of `imputome study list`, or a file.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the results.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All studies of the package, each in a folder of its own.")
    ] = False,
    scale: ScaleOfStudy = "desk",
    datasets: Datasets = None,
    seed: StudySeed = None,
    gc: GC = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes of this machine, of one thread each (default: one a core; 0: none)."),
    ] = None,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Use the workers of this dask scheduler, tcp://HOST:8786.")
    ] = "",
    max_seconds: Annotated[float | None, typer.Option(min=1, help="Stop a run that takes longer.")] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Stop a run that takes more memory, as 4GB.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be run, and how long it may take.")
    ] = False,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Run a study; an interrupted one continues where it stopped. `imputome datasets` lists the datasets."""
    from imputome.studies.spec import find_study, known_studies

    if output is None:
        raise typer.BadParameter("a folder for the results is needed", param_hint="--output")
    if every == (study is not None):
        raise typer.BadParameter("give the name of a study, or --all", param_hint="NAME")
    names = list(known_studies()) if every else [str(study)]
    chosen = [_changed(find_study(name, scale=scale), datasets, seed, gc) for name in names]
    limits = _limits(max_seconds, max_memory)
    keeps_partial_work()
    summaries = []
    for each in chosen:
        folder = output / each.name if every else output
        try:
            with warnings_as_lines(quiet=quiet):
                todo = _planned(each, folder, limits)
        except InputError as error:
            if not every or error.code != "dataset-missing":
                raise
            warning_line(f"study {each.name} is left out: {error}")  # the others can be run
            continue
        if dry_run:
            summaries.append(_told(todo, workers, scheduler, as_json=as_json))
            continue
        summaries.append(_run(todo, workers, scheduler, limits, quiet=quiet, as_json=as_json))
    if as_json:
        print_json({"studies": summaries} if every else summaries[0])


def report(
    study: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder with the results.")],
    to: Annotated[Path | None, typer.Option(help="Folder for the pages (default: that of the results).")] = None,
    scale: ScaleOfStudy = "desk",
    datasets: Datasets = None,
    seed: StudySeed = None,
    gc: GC = None,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Write the pages of a study from its results, and run nothing."""
    from imputome.studies.execute import collected
    from imputome.studies.searches import found
    from imputome.studies.spec import find_study

    chosen = _changed(find_study(study, scale=scale), datasets, seed, gc)
    with warnings_as_lines(quiet=quiet):
        todo = _planned(chosen, output, _limits(None, None))
        if len(todo.left) == len(todo.units):
            text = f"{output} has no results of this study at this scale: run it first, or pass another {{output}}"
            raise InputError(text, code="no-results", output=str(output))
        if todo.left and not quiet:
            warning_line(f"{len(todo.left)} of {len(todo.units)} runs are not done: the pages are of the others")
        if todo.panels_left and not quiet:
            number = f"{len(todo.panels_left)} of {len(todo.panels)} panels of pictures"
            warning_line(f"{number} are not made: run the study to make them")
        _write(todo, collected(todo), found(todo), to, quiet=quiet, as_json=as_json)


COMMANDS: dict[str, Callable[..., Any]] = {"list": list_studies, "show": show, "run": run_studies, "report": report}


# -- parts of the commands ---------------------------------------------------------------------------------------------
def _changed(study: Study, datasets: str | None, seed: int | None, gc: Path | None) -> Study:
    study = study.only(datasets.split(",")) if datasets else study
    return replace(study, seed=study.seed if seed is None else seed, gc=study.gc if gc is None else str(gc))


def _limits(max_seconds: float | None, max_memory: str | None) -> Limits:
    from imputome.studies.units import Limits

    size = math.inf if max_memory is None else opt.size_of(max_memory)
    return Limits(math.inf if max_seconds is None else max_seconds, size)


def _workers(workers: int | None) -> int:
    return len(os.sched_getaffinity(0)) if workers is None else workers


def _planned(study: Study, folder: Path, limits: Limits) -> Plan:
    from imputome.datasets import load
    from imputome.studies.execute import plan

    return plan(study, folder, load=load, limits=limits)


def _told(todo: Plan, workers: int | None, scheduler: str, *, as_json: bool) -> dict[str, Any]:
    """Tell what is left to run."""
    from imputome.studies.searches import left
    from imputome.studies.units import skipped

    searches = left(todo)
    number = 1 if scheduler else max(_workers(workers), 1)
    if not as_json:
        pictures = f", and {len(todo.panels_left)} of {len(todo.panels)} panels of pictures" if todo.panels else ""
        runs = f"{len(todo.left)} of {len(todo.units)} runs{pictures} are left"
        print_line(f"{todo.study.name} ({todo.study.scale}): {runs}")
        if math.isnan(todo.seconds):
            print_line("  how long they take is not known: none has been run yet")
        elif todo.tasks_left:
            each = f"about {todo.seconds / 60:.0f} minutes of one processor"
            print_line(f"  {each}" + ("" if scheduler else f", {todo.seconds / 60 / number:.0f} with {number} workers"))
        if searches:
            trials = sum(search.tuning.trials for search in searches)
            print_line(f"  and {len(searches)} searches by Optuna with {trials} trials, which no estimate includes")
        for row in skipped(todo.study, todo.missing, todo.absent):
            what = (row[name] for name in ("method", "dataset", "scheme") if not row[name].startswith("every "))
            print_line(f"  not run: {', '.join(what)}: {row['reason']}")
    seconds = None if math.isnan(todo.seconds) else round(todo.seconds)
    numbers = {"runs": len(todo.units), "left": len(todo.left), "searches_left": len(searches)}
    numbers |= {"panels": len(todo.panels), "panels_left": len(todo.panels_left)}
    return {"study": todo.study.name, **numbers, "seconds": seconds}


def _run(
    todo: Plan, workers: int | None, scheduler: str, limits: Limits, *, quiet: bool, as_json: bool
) -> dict[str, Any]:
    from imputome.datasets import load
    from imputome.studies.execute import run_plan
    from imputome.studies.searches import run_searches

    with progress(f"study {todo.study.name}", quiet=quiet) as show_progress:
        table = run_plan(
            todo,
            load=load,
            workers=_workers(workers),
            scheduler=scheduler,
            limits=limits,
            progress=show_progress,
        )
    searches: list[Found] = []
    if todo.study.tuning:
        with progress(f"searches of {todo.study.name}", quiet=quiet) as show_progress:
            searches = run_searches(todo, progress=show_progress)
    with warnings_as_lines(quiet=quiet):
        return _write(todo, table, searches, None, quiet=quiet, as_json=as_json)


def _write(
    todo: Plan, table: Any, searches: list[Found], to: Path | None, *, quiet: bool, as_json: bool
) -> dict[str, Any]:
    from imputome.report.study_page import write_results
    from imputome.studies.execute import drawn
    from imputome.studies.subsets import data_rows

    pictures = drawn(todo)
    made_by = shlex.join(["imputome", *sys.argv[1:]])
    data = data_rows({label: dataset for label, (dataset, _) in todo.datasets.items()})
    parts: dict[str, Any] = {"pictures": pictures, "searches": searches, "data": data}
    written = write_results(todo.study, table, todo.folder, page=to, made_by=made_by, **parts)
    if not quiet:
        for failed in table[table["status"] != "ok"].to_dict("records"):
            warning_line(f"{failed['method']} on {failed['dataset']}, trial {failed['trial'] + 1}: {failed['reason']}")
        for picture in pictures:
            for name, reason in picture.failed.items():
                warning_line(f"picture {picture.picture.title!r} of {picture.dataset}, {name}: {reason}")
        for reason in dict.fromkeys(result.reason for result in searches if result.reason):
            warning_line(f"parameters were not searched: {reason}")
        if not written.drawn:
            warning_line(
                "figures and the HTML page need `pip install 'imputome[report]'`: then `imputome study report`"
            )
        if not as_json:
            print_lines(written.text)
            print_line(f"wrote {', '.join(map(str, written.files))}")
    return {"study": todo.study.name, "files": [str(path) for path in written.files]}
