"""``imputome demo``: hide part of real data, impute it, and write scores, a verdict, a figure and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imputome.api.progress import progress
from imputome.cli.console import print_json, verdict_lines


def command(
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("imputome-demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable summary.")] = False,
) -> None:
    """Hide 10 % of the data of 700 blood cells, impute it with several methods and controls, and show the scores."""
    from imputome.api.impute import impute
    from imputome.core.atomic import atomic_path
    from imputome.datasets import pbmc68k
    from imputome.errors import InputError, MissingExtraError
    from imputome.io.store import check_output, write_anndata
    from imputome.report.html.content import of_result
    from imputome.report.html.page import check_installed, write_report
    from imputome.report.plots.demo import demo_figure, run_demo
    from imputome.result.record import find_record, find_verdict

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(
            f"{folder} is a file: pass {{output}} with the name of a folder", code="not-a-folder", output=...
        ) from error
    table, picture = folder / "pbmc68k_imputed.h5ad", folder / "pbmc68k_demo.png"
    page: Path | None = folder / "pbmc68k_report.html"
    try:
        check_installed()
    except MissingExtraError as error:
        page, not_installed = None, str(error)
    check_output(table, overwrite=True)
    adata = pbmc68k()
    with progress("demo", quiet=quiet) as show:
        scores, truth, predicted = run_demo(adata.X, seed=seed, progress=show)
    impute(adata, method="ialm", random_state=seed)
    impute(adata, method="gene_mean_posterior", random_state=seed)
    with progress("verdict", quiet=quiet, counted=False) as show:
        show(0.0, "")
        # the best on held-out molecules of the methods in the base installation
        impute(adata, method="poisson_nmf", posterior=True, check=True, labels=["cell_type"], random_state=seed)
    verdict = find_verdict(*find_record(adata, "poisson_nmf_posterior"))
    with atomic_path(table) as partial:
        write_anndata(partial, adata)
    with atomic_path(picture) as partial:
        figure = demo_figure(scores, truth, predicted, adata, key="ialm", gene="CD79A")
        figure.savefig(partial, dpi=110, format="png")
    if page is not None:
        command = "imputome demo"
        content = of_result(adata, key="poisson_nmf_posterior", label="cell_type", source="pbmc68k", command=command)
        write_report(page, content, overwrite=True)
    if as_json:
        summary = {"scores": scores, "output": str(table), "picture": str(picture)}
        print_json({**summary, "report": None if page is None else str(page), "verdict": verdict.brief()})
        return
    if quiet:
        return
    typer.echo(f"pbmc68k: {adata.n_obs} cells x {adata.n_vars} genes; 10 % hidden in two ways\n")
    typer.echo(f"{'':22}{'held-out molecules':>26}{'hidden nonzeros':>22}")
    typer.echo(f"{'method':22}{'Poisson loss':>14}{'total':>12}{'NRMSE':>12}{'Pearson':>10}{'seconds':>10}")
    best = min(score["poisson_loss"] for score in scores)
    for score in sorted(scores, key=lambda score: score["poisson_loss"]):
        mark = "  <- best" if score["poisson_loss"] == best else ""
        typer.echo(
            f"{score['name']:22}{score['poisson_loss']:14.4f}{score['total_ratio']:12.3f}{score['nrmse']:12.3f}"
            f"{score['pearson']:10.3f}{score['seconds']:10.1f}{'  control' if score['control'] else '':9}{mark}"
        )
    typer.echo(
        "\nLower Poisson loss is better. Held-out molecules test all entries: filling true zeros worsens the scores.\n"
        "A total of 1 keeps the amount of RNA. Hidden nonzeros test only genes that were detected. If a method is\n"
        "worse than a control on the left, do not use its values as counts, whatever its scores on the right."
    )
    typer.echo("")
    for line in verdict_lines(verdict):
        typer.echo(line)
    layers = "ialm, gene_mean_posterior, poisson_nmf_posterior"
    typer.echo(f"\nwrote {table} (layers {layers}), {picture}" + (f" and {page}" if page else ""))
    if page is None:
        typer.echo(not_installed)
