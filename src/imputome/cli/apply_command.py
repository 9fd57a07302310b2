"""``imputome apply``: a saved model on new cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from imputome.cli.console import progress, warning_line
from imputome.cli.output import (
    MAX_DRAWS,
    Table,
    check_offered,
    checked_beside,
    checked_target,
    numbers_as_names,
    read_input,
    say_complete,
    split_names,
    write_complete,
)


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `imputome fit` wrote.")],
    source: Annotated[
        Path, typer.Argument(metavar="IN", readable=False, help=".h5ad, .zarr, 10x .h5 or folder, .loom, or a table.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output: .h5ad, .zarr, .parquet, .csv.gz, ...")],
    layer: Annotated[str | None, typer.Option(help="Layer to impute instead of X.")] = None,
    key_added: Annotated[str | None, typer.Option(help="Name of the new layer (default: the method).")] = None,
    scale: Annotated[str | None, typer.Option(help="counts, normalized, log1p or input.")] = None,
    genes: Annotated[str | None, typer.Option(help="Write only these genes: A,B,C or a file, one a line.")] = None,
    gene_column: Annotated[
        str | None, typer.Option(help="Column of var with the gene names (default: var_names).")
    ] = None,
    genes_in: Annotated[str | None, typer.Option(help="For tables: where genes are, rows or columns.")] = None,
    keep_observed: Annotated[
        bool | None, typer.Option("--keep-observed/--replace-observed", help="Keep observed values as they are.")
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(help="More layers beside the value, where the method has them: variance,lower,upper.")
    ] = None,
    uncertainty: Annotated[
        Path | None, typer.Option(help="A table for the standard deviation of each imputed value, 0 where observed.")
    ] = None,
    draws: Annotated[
        int, typer.Option(min=0, max=MAX_DRAWS, help="Multiple imputations: as tables beside a table, else as layers.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output or layer.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable summary.")] = False,
) -> None:
    """Impute new cells IN with a saved MODEL and write the result to OUT; genes are matched by name.

    A table of real values comes back as the same text, in which nothing is changed but the missing values.
    """
    from imputome.api.models import run_model
    from imputome.core.saved import is_model
    from imputome.errors import InputError
    from imputome.methods import load
    from imputome.result.adapt import inspect_layer
    from imputome.result.layout import checked_outputs, default_key

    # all that can be refused is refused before anything is computed
    if is_model(source) and not is_model(model):
        raise InputError(f"MODEL and IN are swapped: imputome apply {source} {model} -o {output}")
    extra = split_names(outputs)
    beside = checked_beside(output, source, uncertainty=uncertainty, draws=draws, outputs=extra, force=force)
    estimator = load(model)
    offered, needed = checked_outputs(estimator, extra), check_offered(beside, estimator)
    table = Table(source, genes_in or "columns")
    same = table.keeps_text(output) and genes is None and keep_observed is not False and scale in (None, "input")
    adata = read_input(source, (output, uncertainty), genes_in, narrow=same, quiet=quiet)
    if same and estimator.kind_ == "real":
        report = inspect_layer(adata, layer)
        if report.n_nan == report.n_infinite == 0:
            write_complete(adata, table, output, beside)
            say_complete(adata, source, output, beside, quiet=quiet, as_json=as_json)
            return
    target = checked_target(
        adata,
        output=output,
        source=source,
        key=key_added or default_key(estimator),
        genes=genes,
        gene_column=gene_column,
        genes_in=genes_in,
        outputs=offered,
        beside=beside,
        force=force,
        quiet=quiet,
    )
    doubt = numbers_as_names(adata, source, genes_in)
    if doubt is not None and not quiet:
        warning_line(doubt)
    with progress(f"applying {estimator.name}", quiet=quiet) as show:
        show(0.0, "")
        run = run_model(
            adata,
            estimator,
            layer=layer,
            gene_column=gene_column,
            keep_observed=keep_observed,
            scale=scale,  # type: ignore[arg-type]
            outputs=tuple(dict.fromkeys((*offered, *needed))),
            source=model,
        )
    target.write(replace(run, outputs=offered), keep_observed=keep_observed, as_json=as_json)
