"""``imputome score``: what another tool made of masked data, beside the controls, with a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.console import print_json, print_line, print_lines, verdict_lines, warning_line
from imputome.cli.masked_files import ResultFile, read_masked
from imputome.cli.score_table import show_summary
from imputome.errors import ImputomeError

if TYPE_CHECKING:
    from imputome.studies.scoring import Score


def command(
    masked: Annotated[
        Path, typer.Argument(metavar="MASKED", readable=False, help="What `imputome mask` wrote, or its truth.")
    ],
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", readable=False, help="What the tool made of it, in any input format.")
    ],
    layer: Annotated[str | None, typer.Option(help="Layer of RESULT with the values, instead of X.")] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="Scale of RESULT, of counts: counts, normalized, log1p, ... (default: by its totals)."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the tool in the table (default: of layer or file).")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score the part that RESULT holds, if it lacks cells, genes or values.")
    ] = False,
    methods: Annotated[str | None, typer.Option(help="Methods to score beside it: A,B,C, as for evaluate.")] = None,
    transform: opt.Transform = "auto",
    decimal: opt.Decimal = ".",
    missing: opt.Missing = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Table of the scores: .parquet or .csv.")
    ] = None,
    seed: opt.Seed = 0,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Score what any tool made of MASKED, which `imputome mask` wrote, beside the controls, and say whether to use it.

    Cells and genes are found by their names, in any order and either way round. What is compared with the truth is the
    values as they are: a tool must be given MASKED, not the data that it was made of.
    """
    from imputome.core.atomic import check_place, exists_already
    from imputome.studies.external import free_name
    from imputome.studies.inputs import parse_method
    from imputome.studies.results import check_path, write
    from imputome.studies.scoring import score_masked

    if output is not None:
        check_path(output)
        if output.exists() and not force:
            raise exists_already(output)
        check_place(output)
    specs = [parse_method(method) for method in opt.split_names(methods)]
    hidden = read_masked(masked)
    given = ResultFile(name or free_name(layer or result.name), result, layer, scale, partial)
    outside = given.read(decimal, missing)
    wanted = None if transform == "auto" else transform
    with progress("scoring", quiet=quiet) as show:
        found = score_masked(
            hidden, outside, specs, dataset=masked.name.split(".")[0], transform=wanted, seed=seed, progress=show
        )
    if not quiet:
        for message in found.messages:
            warning_line(message)
        for failed in found.table[found.table["status"] != "ok"].to_dict("records"):
            warning_line(f"{failed['method']}: {failed['reason']}")
    failed_write: Exception | None = None
    if output is not None:
        try:
            write(found.table, output)
        except (ImputomeError, OSError) as error:  # the scores took long, and are shown first
            failed_write = error
    _show(found, None if failed_write else output, quiet=quiet, as_json=as_json)
    if failed_write is not None:
        raise failed_write


def _show(found: Score, output: Path | None, *, quiet: bool, as_json: bool) -> None:
    """Print the scores and the verdict; ``output`` is where the table was written."""
    scores = found.summary
    if as_json:
        rows = scores.to_dict("records")
        for row in rows:  # text in a table
            row.update({entry: json.loads(row[entry] or "{}") for entry in ("parameters", "options")})
        facts = {"scale": found.scale, "transposed": found.transposed, "hidden": found.hidden, "equal": found.equal}
        facts |= {"up_to_factors": found.up_to_factors, "leaked": found.leaked}
        print_json({**facts, "summary": rows, "verdict": found.verdict.brief()})
        return
    if quiet:
        return
    show_summary(scores, found.table)
    how = ", up to one factor for each cell" if found.up_to_factors else ""
    print_line(f"{found.equal:,} of {found.hidden:,} hidden entries are exactly as they were before{how}")
    print_lines("\n".join(verdict_lines(found.verdict)))
    if output is not None:
        print_line()
        print_line(f"wrote {len(found.table):,} rows to {output}")
