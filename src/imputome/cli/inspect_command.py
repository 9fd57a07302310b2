"""``imputome inspect``: what state a matrix is in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imputome.cli.console import error_line, print_json, warning_line


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", readable=False, help=".h5ad, .zarr, 10x .h5 or folder, .loom, or a table.")
    ],
    layer: Annotated[str | None, typer.Option(help="Layer to look at instead of X.")] = None,
    genes_in: Annotated[str | None, typer.Option(help="For tables: where genes are, rows or columns.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable report.")] = False,
) -> int:
    """Say what state the input is in, and what would stop an imputation."""
    from imputome.inspection.state import inspect
    from imputome.io.reading import read

    report = inspect(read(source, genes_in=genes_in), layer=layer)
    if as_json:
        print_json(report.to_dict())
    else:
        for line in report.lines():
            typer.echo(line)
        for text in report.warnings:
            warning_line(text)
        for text in report.errors:
            error_line(text)
    return 1 if report.errors else 0
