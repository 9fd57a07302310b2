"""``imputome report``: a result, or a table of scores, as one HTML page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imputome.api.progress import progress
from imputome.cli.console import print_line

if TYPE_CHECKING:
    from imputome.report.before_after import Map
    from imputome.report.html.content import Content
    from imputome.report.html.scoreboard import Scoreboard


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", readable=False, help="A result (.h5ad, .zarr), or a table of scores from evaluate or study."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write (.html).")],
    key: Annotated[str | None, typer.Option(help="Key of the result, if IN has several.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of obs that cells are coloured by.")] = None,
    before: Annotated[
        str | None, typer.Option(help="Layer with the values before imputing, if they are no longer where they were.")
    ] = None,
    map_: Annotated[str, typer.Option("--map", help="Kind of map of the cells: umap or pca.")] = "umap",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Write the report of a result, or of a table of scores: one HTML file that needs no network."""
    from imputome.report.html.page import check_path, write_report

    if map_ not in ("umap", "pca"):
        raise typer.BadParameter(f"{map_!r} is neither umap nor pca", param_hint="--map")
    check_path(output, overwrite=force)
    made_by = shlex.join(["imputome", *sys.argv[1:]])
    with progress(f"reading {source.name}", quiet=quiet, counted=False) as show:
        show(0.0, "")
        if source.suffix.lower() in (".h5ad", ".zarr"):
            page: Content | Scoreboard = _result(
                source, key, label, "pca" if map_ == "pca" else "umap", made_by, before
            )
        else:
            page = _scores(source, made_by, key=key, label=label, before=before)
    write_report(output, page, overwrite=force)
    if not quiet:
        print_line(f"wrote {output}")


def _result(source: Path, key: str | None, label: str | None, map: Map, made_by: str, before: str | None) -> Content:
    from imputome.io.store import open_result
    from imputome.report.html.content import of_result

    with open_result(source) as adata:
        return of_result(adata, key=key, label=label, source=source.name, made_by=made_by, map=map, before=before)


def _scores(source: Path, made_by: str, **given: str | None) -> Scoreboard:
    from imputome.errors import InputError
    from imputome.report.html.scoreboard import of_file
    from imputome.studies.results import SUFFIXES

    if not source.name.lower().endswith(SUFFIXES):
        message = f"{source} is neither a result (.h5ad, .zarr) nor a table of scores ({', '.join(SUFFIXES)})"
        raise InputError(message, code="not-a-result")
    for name, value in given.items():
        if value is not None:
            option: dict[str, Any] = {name: ...}
            message = f"{source} is a table of scores, which has no results or cells: leave out {{{name}}}"
            raise InputError(message, code="option-unused", **option)
    return of_file(source, made_by=made_by)
