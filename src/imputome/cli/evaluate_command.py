"""``imputome evaluate``: hide values, impute with several methods and the controls, score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.console import keeps_partial_work, print_json, print_line, warning_line, warnings_as_lines
from imputome.cli.masked_files import masked_of, result_of
from imputome.cli.options import parse_settings
from imputome.cli.score_table import show_summary


def command(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="One or more inputs.")],
    methods: Annotated[
        str, typer.Option(help="A,B,C; with parameters as name:key=value, with the posterior step as name+posterior.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Table of results: .parquet or .csv (default: printed only)."),
    ] = None,
    scheme: Annotated[str, typer.Option(help="How values are hidden, as in `imputome mask`.")] = "thin",
    fraction: Annotated[str | None, typer.Option(help="Share hidden, one or several: 0.1,0.3.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 1,
    labels: Annotated[
        str | None, typer.Option("--label", "--labels", help="Column of obs with the classes, for --downstream.")
    ] = None,
    downstream: Annotated[str | None, typer.Option(help="Analyses to score too: clustering, leiden, de.")] = None,
    protocol: Annotated[
        str,
        typer.Option(help="honest, as_published (leaky: normalised first), or open_problems (its scores and ranks)."),
    ] = "honest",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Option of the scheme: key=value.")] = None,
    transform: opt.Transform = "auto",
    external: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="What another tool made of --masked; FILE:layer=L:scale=S if that is needed."
        ),
    ] = None,
    masked: Annotated[
        Path | None, typer.Option(help="What `imputome mask` made of IN, with the same scheme, fraction and seed.")
    ] = None,
    min_genes: Annotated[int, typer.Option(min=0, help="Leave out cells with fewer genes.")] = 0,
    min_cells: Annotated[int, typer.Option(min=0, help="Leave out genes in fewer cells.")] = 0,
    modality: opt.Modality = None,
    layer: opt.Layer = None,
    feature_type: opt.FeatureType = None,
    kind: opt.Kind = None,
    round_counts: opt.RoundCounts = None,
    genes_in: opt.GenesIn = None,
    transpose: opt.Transpose = False,
    accept_orientation: opt.AcceptOrientation = False,
    decimal: opt.Decimal = ".",
    missing: opt.Missing = None,
    annotation: opt.Annotation = None,
    keep_summary_rows: opt.KeepSummaryRows = False,
    seed: opt.Seed = 0,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Score methods beside the controls on hidden values; an interrupted run continues where it stopped."""
    from imputome.api.plan import plan_evaluate
    from imputome.io.reading import read
    from imputome.studies.inputs import parse_method
    from imputome.studies.results import check_path, summary
    from imputome.studies.runner import run_study
    from imputome.studies.settings import check_settings

    if output is not None:
        check_path(output)
        keeps_partial_work()
    shares, analyses, options = _shares(fraction), opt.split_names(downstream), parse_settings(settings)
    wanted = None if transform == "auto" else transform
    check_settings(scheme, shares, analyses, protocol, wanted)
    specs = [parse_method(method) for method in opt.split_names(methods)]
    reading = opt.table_options(decimal, missing, annotation)
    results = [result_of(text) for text in external or []]
    hidden = masked_of(masked, results)
    with warnings_as_lines(quiet=quiet):
        inputs = [
            (
                name,
                read(source, genes_in=genes_in, transpose=transpose, modality=modality, backed=None, options=reading),
            )
            for name, source in _named(sources)
        ]
    outsides = [result.read() for result in results]
    plan = plan_evaluate(
        inputs,
        specs,
        labels=labels,
        min_genes=min_genes,
        min_cells=min_cells,
        scheme=scheme,
        downstream=analyses,
        options=options,
        layer=layer,
        feature_type=feature_type,
        keep_summary_rows=keep_summary_rows,
        kind=kind,
        round_counts=round_counts,
        seed=seed,
        allowed=("genes-in-rows",) if accept_orientation else (),
    )
    if not quiet:
        for message in plan.messages:
            warning_line(message)
    with progress("evaluating", quiet=quiet) as show:
        table = run_study(
            plan.datasets,
            plan.methods,
            scheme=scheme,
            fraction=shares,
            trials=trials,
            seed=seed,
            downstream=analyses,
            protocol=protocol,
            transform=wanted,
            output=output,
            options=options,
            progress=show,
            tell=(lambda _: None) if quiet else warning_line,
            external=outsides,
            masked=hidden,
        )
    with warnings_as_lines(quiet=quiet):
        scores = summary(table)
    if as_json:
        rows = scores.to_dict("records")
        for row in rows:  # text in a table
            row.update({name: json.loads(row[name] or "{}") for name in ("parameters", "options")})
        print_json({"output": None if output is None else str(output), "summary": rows})
        return
    if quiet:
        return
    for failed in table[table["status"] != "ok"].to_dict("records"):
        warning_line(f"{failed['method']} on {failed['dataset']}, trial {failed['trial'] + 1}: {failed['reason']}")
    show_summary(scores, table, more_splits="" if external else "--trials 3")
    print_line()
    if output is None:
        print_line("nothing was stored: -o scores.csv keeps the scores, and continues a run that was interrupted")
    else:
        print_line(f"wrote {len(table):,} rows to {output}")


def _shares(text: str | None) -> list[float] | None:
    """``0.1,0.3`` as numbers."""
    if text is None:
        return None
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number, or several as 0.1,0.3", param_hint="--fraction") from None


def _named(sources: list[Path]) -> list[tuple[str, Path]]:
    """A name for each file: the first part of its own name; where two are alike, the whole name, or else the path."""
    for name_of in (lambda path: path.name.split(".")[0], lambda path: path.name, str):
        names = [name_of(source) for source in sources]
        if len(set(names)) == len(names):
            break
    return list(zip(names, sources, strict=True))
