"""``imputome impute``: read, fit, write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imputome.cli.console import progress
from imputome.cli.target import checked_target, parse_settings, read_input, split_names


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", readable=False, help=".h5ad, .zarr, 10x .h5 or folder, .loom, or a table.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output: .h5ad, .zarr, .parquet, .csv.gz, ...")],
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="A name from `imputome methods` (default: by kind of data).")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to impute instead of X.")] = None,
    key_added: Annotated[str | None, typer.Option(help="Name of the new layer (default: the method).")] = None,
    scale: Annotated[str | None, typer.Option(help="counts, normalized, log1p or input.")] = None,
    genes: Annotated[str | None, typer.Option(help="Write only these genes: A,B,C or a file, one a line.")] = None,
    gene_column: Annotated[
        str | None, typer.Option(help="Column of var that --genes names (default: var_names).")
    ] = None,
    genes_in: Annotated[str | None, typer.Option(help="For tables: where genes are, rows or columns.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Parameter of the method: key=value.")] = None,
    posterior: Annotated[
        bool | None, typer.Option("--posterior/--no-posterior", help="Combine with each cell's own counts.")
    ] = None,
    keep_observed: Annotated[
        bool | None, typer.Option("--keep-observed/--replace-observed", help="Keep observed values as they are.")
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(help="More layers beside the value, where the method has them: variance,lower,upper.")
    ] = None,
    covariates: Annotated[str | None, typer.Option(help="Columns of obs, A,B,C, for methods that use them.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output or layer.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable summary.")] = False,
) -> None:
    """Impute IN with a method and write the result to OUT."""
    from imputome.facade import default_method, inspect_layer, make_estimator, run_method
    from imputome.io.stream import check_output
    from imputome.layers import checked_outputs, default_key

    # all that can be refused is refused before anything is computed
    if gene_column is not None and genes is None:
        raise typer.BadParameter("it says what --genes names: give --genes too", param_hint="--gene-column")
    params, beside, report = parse_settings(settings or []), split_names(outputs), None
    if method is not None:
        estimator = make_estimator(method, params=params, posterior=posterior, random_state=seed)
    check_output(output, source, overwrite=force, outputs=beside)
    adata = read_input(source, output, genes_in)
    if method is None:
        report = inspect_layer(adata, layer)
        method = default_method(report)
        estimator = make_estimator(method, params=params, posterior=posterior, random_state=seed)
    offered = checked_outputs(estimator, beside)
    target = checked_target(
        adata,
        output=output,
        source=source,
        key=key_added or default_key(estimator),
        genes=genes,
        gene_column=gene_column,
        genes_in=genes_in,
        outputs=offered,
        force=force,
        quiet=quiet,
    )
    with progress(f"fitting {method}", quiet=quiet) as show:
        run = run_method(
            adata,
            estimator,
            layer=layer,
            covariates=split_names(covariates) or None,
            keep_observed=keep_observed,
            scale=scale,  # type: ignore[arg-type]
            outputs=offered,
            report=report,
            progress=show,
        )
    target.write(run, keep_observed=keep_observed, as_json=as_json)
