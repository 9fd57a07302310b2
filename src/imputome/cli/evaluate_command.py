"""``imputome evaluate``: hide values, impute with several methods and the controls, score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.console import keeps_partial_work, print_json, warning_line
from imputome.cli.options import parse_settings

METRICS_PER_TABLE = 5  # metrics side by side in a printed table

if TYPE_CHECKING:
    import pandas as pd


def command(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="One or more inputs.")],
    methods: Annotated[
        str, typer.Option(help="A,B,C; with parameters as name:key=value, with the posterior step as name+posterior.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table of results: .parquet or .csv.")],
    scheme: Annotated[str, typer.Option(help="How values are hidden, as in `imputome mask`.")] = "thin",
    fraction: Annotated[str | None, typer.Option(help="Share hidden, one or several: 0.1,0.3.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 1,
    labels: Annotated[
        str | None, typer.Option("--label", "--labels", help="Column of obs with the classes, for --downstream.")
    ] = None,
    downstream: Annotated[str | None, typer.Option(help="Analyses to score too: clustering, leiden, de.")] = None,
    protocol: Annotated[str, typer.Option(help="honest, or as_published (leaky: normalised first).")] = "honest",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Option of the scheme: key=value.")] = None,
    min_genes: Annotated[int, typer.Option(min=0, help="Leave out cells with fewer genes.")] = 0,
    min_cells: Annotated[int, typer.Option(min=0, help="Leave out genes in fewer cells.")] = 0,
    layer: opt.Layer = None,
    genes_in: opt.GenesIn = None,
    seed: opt.Seed = 0,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Score methods beside the controls on hidden values; an interrupted run continues where it stopped."""
    from imputome.api.plan import plan_evaluate
    from imputome.io.reading import read
    from imputome.studies.results import check_path, summary
    from imputome.studies.runner import run_study

    check_path(output)
    shares = None if fraction is None else _shares(fraction)
    keeps_partial_work()
    names = [name for name in methods.split(",") if name.strip()]
    inputs = [(source.name.split(".")[0], read(source, genes_in=genes_in)) for source in sources]
    plan = plan_evaluate(inputs, names, labels=labels, layer=layer, min_genes=min_genes, min_cells=min_cells)
    with progress("evaluating", quiet=quiet) as show:
        table = run_study(
            plan.datasets,
            plan.methods,
            scheme=scheme,
            fraction=shares,
            trials=trials,
            seed=seed,
            downstream=downstream.split(",") if downstream else (),
            protocol=protocol,
            output=output,
            options=parse_settings(settings),
            progress=show,
        )
    scores = summary(table)
    if as_json:
        print_json({"output": str(output), "summary": scores.to_dict("records")})
        return
    if quiet:
        return
    for failed in table[table["status"] != "ok"].to_dict("records"):
        warning_line(f"{failed['method']} on {failed['dataset']}, trial {failed['trial'] + 1}: {failed['reason']}")
    show_summary(scores)
    typer.echo(f"\nwrote {len(table):,} rows to {output}")


def _shares(text: str) -> list[float]:
    """``0.1,0.3`` as numbers."""
    try:
        return [float(share) for share in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number, or several: 0.1,0.3", param_hint="--fraction") from error


def show_summary(scores: pd.DataFrame) -> None:
    """Tables of a few metrics each: best in bold, controls and what does not beat one of them marked."""
    from rich.console import Console
    from rich.table import Table

    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=200)
    for key, part in scores.groupby(["dataset", "scheme", "fraction"], sort=False, dropna=False):
        metrics = list(dict.fromkeys(part["metric"]))
        for start in range(0, len(metrics), METRICS_PER_TABLE):
            shown = metrics[start : start + METRICS_PER_TABLE]
            grid = Table(box=None, pad_edge=False)
            grid.add_column("method", no_wrap=True)
            for metric in shown:
                grid.add_column(metric, justify="right", no_wrap=True)
            for (name, parameters), rows in part.groupby(["method", "parameters"], sort=False):
                by_metric = {row["metric"]: row for row in rows.to_dict("records")}
                label = name if parameters in ("{}", '{"posterior": true}') else f"{name} {parameters}"
                label += " (control)" if rows["control"].iloc[0] else ""
                grid.add_row(label, *(_cell(by_metric.get(metric)) for metric in shown))
            console.print(f"{key[0]}, {key[1]}, {key[2]:g} hidden", highlight=False)
            console.print(grid)
            console.print()
    console.print("bold: best of the column.  !: does not beat the controls.  ±: standard deviation over trials.")


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["mean"] != row["mean"]:
        return ""
    spread = f" ± {row['sd']:.1g}" if row["n"] > 1 else ""
    text = f"{row['mean']:.4g}{spread}{' !' if row['loses_to'] else '  '}"
    return f"[bold]{text}[/bold]" if row["best"] else text
