"""``imputome demo``: impute real data with the default, and show genes before and after, the verdict and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imputome.api.progress import progress
from imputome.cli.console import print_json, print_line, print_lines, warnings_as_lines

KEY = "imputed"  # of the result
GENES = ("MS4A1", "NKG7")  # markers of B cells, and of NK and cytotoxic T cells


def command(
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("imputome-demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable summary.")] = False,
) -> None:
    """Impute 700 blood cells with the default method, and show two genes before and after, the verdict, and scores.

    The scores are those of several methods and controls, with 10 % of the data hidden.
    """
    from imputome.api.impute import impute
    from imputome.core.atomic import atomic_path
    from imputome.datasets import pbmc68k
    from imputome.errors import InputError, MissingExtraError
    from imputome.io.store import check_output, write_anndata
    from imputome.report.html.content import of_result
    from imputome.report.html.page import check_installed, write_report
    from imputome.report.plots.demo import demo_figure, run_demo
    from imputome.result.record import find_record, find_verdict
    from imputome.trust.verdict import in_words

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
    with warnings_as_lines(quiet=quiet), progress("the default, and its check", quiet=quiet, counted=False) as show:
        show(0.0, "")
        impute(adata, scale="log1p", key_added=KEY, check=True, labels=["cell_type"], random_state=seed)
    key, record = find_record(adata, KEY)
    verdict = find_verdict(key, record)
    words = in_words(verdict)
    with progress("other methods", quiet=quiet) as show:
        scores = run_demo(adata.X, default=record.method, seed=seed, progress=show)
    with atomic_path(table) as partial:
        write_anndata(partial, adata)
    with atomic_path(picture) as partial:
        title = f"700 blood cells (10x PBMC 68k), {record.method}. {words}"
        demo_figure(adata, key=KEY, genes=GENES, title=title).savefig(partial, dpi=110, format="png")
    if page is not None:
        command = "imputome demo"
        content = of_result(adata, key=KEY, label="cell_type", source="pbmc68k", command=command)
        write_report(page, content, overwrite=True)
    if as_json:
        summary = {
            "method": record.method,
            "words": words,
            "scores": scores,
            "output": str(table),
            "picture": str(picture),
        }
        print_json({**summary, "report": None if page is None else str(page), "verdict": verdict.brief()})
        return
    if quiet:
        return
    print_line(f"{record.method} on pbmc68k, {adata.n_obs} cells x {adata.n_vars} genes: {verdict.verdict.upper()}")
    print_line(words)
    print_line()
    print_line(f"before and after, {' and '.join(GENES)}: {picture}")
    print_line(f"report: {page}" if page else not_installed)
    print_line(f"values: {table}, layer {KEY}")
    print_line()
    print_line("several methods with 10 % of the data hidden in two ways:")
    print_line(f"{'':22}{'held-out molecules':>26}{'hidden nonzeros':>22}")
    print_line(f"{'method':22}{'Poisson loss':>14}{'total':>12}{'NRMSE':>12}{'Pearson':>10}{'seconds':>10}")
    best = min(score["poisson_loss"] for score in scores)
    for score in sorted(scores, key=lambda score: score["poisson_loss"]):
        mark = "  <- best" if score["poisson_loss"] == best else ""
        print_line(
            f"{score['name']:22}{score['poisson_loss']:14.4f}{score['total_ratio']:12.3f}{score['nrmse']:12.3f}"
            f"{score['pearson']:10.3f}{score['seconds']:10.1f}{'  control' if score['control'] else '':9}{mark}"
        )
    print_line()
    print_lines(
        "Lower Poisson loss is better. Held-out molecules test all entries: filling true zeros worsens the scores.\n"
        "A total of 1 keeps the amount of RNA. Hidden nonzeros test only genes that were detected. If a method is\n"
        "worse than a control on the left, do not use its values as counts, whatever its scores on the right: there,\n"
        "methods that use the cell's own counts, such as the default, take a hidden count for a zero that was seen."
    )
    print_line()
    print_line("next, with raw counts of your own:")
    print_line(f"  imputome impute cells.h5ad -o imputed.h5ad --check{' --report report.html' if page else ''}")
