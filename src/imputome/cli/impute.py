"""``imputome impute``: read, fit, write."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imputome.cli.console import print_json, progress, warning_line

if TYPE_CHECKING:
    from imputome.facade import Run


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", readable=False, help=".h5ad, .zarr, 10x .h5 or folder, .loom, or a table.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output: .h5ad, .zarr, .parquet, .csv.gz, ...")],
    method: Annotated[str, typer.Option("--method", "-m", help="A name from `imputome methods`.")],
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
    covariates: Annotated[str | None, typer.Option(help="Columns of obs, A,B,C, for methods that use them.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output or layer.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable summary.")] = False,
) -> None:
    """Impute IN with a method and write the result to OUT."""
    from imputome.errors import InputError
    from imputome.facade import checked_key, default_key, gene_positions, make_estimator, run_method
    from imputome.io.anndata import read
    from imputome.io.stream import check_output, check_space, write_result
    from imputome.io.tables import check_parquet_names, table_suffix

    # all that can be refused is refused before anything is computed
    if gene_column is not None and genes is None:
        raise typer.BadParameter("it says what --genes names: give --genes too", param_hint="--gene-column")
    params = parse_settings(settings or [])
    estimator = make_estimator(method, params=params, posterior=posterior, random_state=seed)
    check_output(output, source, overwrite=force)
    # a table may be written from an input that is none: its orientation is asked for all the same
    only_out = table_suffix(output) is not None and table_suffix(source) is None
    adata = read(source, genes_in=None if only_out else genes_in)
    key = checked_key(adata, key_added or default_key(estimator))
    if key in adata.layers and not force and output.suffix.lower() in (".h5ad", ".zarr"):
        raise InputError(f"{source} has a layer {key!r} already: pass --force to replace it, or another --key-added")
    asked = None if genes is None else gene_list(genes)
    wanted = None if asked is None else gene_positions(adata, asked, column=gene_column)
    if asked is not None and wanted is not None and len(wanted) > len(set(asked)) and not quiet:
        warning_line(f"{len(wanted)} genes have the {len(set(asked))} names given: all of them are written")
    if output.suffix.lower() == ".parquet":
        check_parquet_names(adata, genes_in or "columns", wanted)
    n_genes = adata.n_vars if wanted is None else len(wanted)
    check_space(output, adata.n_obs, n_genes)
    with progress(f"fitting {method}", quiet=quiet) as show:
        run = run_method(
            adata,
            estimator,
            layer=layer,
            covariates=covariates.split(",") if covariates else None,
            keep_observed=keep_observed,
            scale=scale,  # type: ignore[arg-type]
            progress=show,
        )
    if not quiet:
        for message in run.messages:
            warning_line(message)
    provenance = run.provenance()
    if wanted is not None:
        provenance["genes"] = [str(name) for name in adata.var_names[wanted]]
    with progress(f"writing {output.name}", quiet=quiet) as show:
        write_result(
            output,
            adata,
            run.imputation,
            key=key,
            provenance=provenance,
            genes=wanted,
            scale=run.scale,
            keep_observed=keep_observed,
            source=source,
            progress=lambda done, total: show(done / total, ""),
            overwrite=force,
            genes_in=genes_in,
        )
    if as_json:
        print_json({"output": str(output), "key": key, "shape": [adata.n_obs, n_genes], **provenance})
    elif not quiet:
        for line in summary(run, adata.n_obs, n_genes, output, key):
            typer.echo(line)


def summary(run: Run, n: int, n_genes: int, output: Path, key: str) -> list[str]:
    """What was done, for a person."""
    result = run.imputation
    lines = [f"{result.shape[0]:,} cells x {result.shape[1]:,} genes, {run.report.state} in {run.report.where}"]
    ending = result.status.message if result.status.converged else f"did not converge ({result.status.name})"
    ending = ending or "no iteration needed"
    lines.append(f"{run.estimator.name}: {ending}, {run.seconds:.1f} s")
    if result.unusable:
        cells, genes = len(result.unusable.obs_names), len(result.unusable.var_names)
        lines.append(
            f"without an observed value: {cells:,} cells, {genes:,} genes (filled with {result.unusable.fallback})"
        )
    place = f", layer {key!r}" if output.suffix.lower() in (".h5ad", ".zarr") else ""
    lines.append(f"wrote {n:,} x {n_genes:,} values on scale {run.scale} to {output}{place}")
    return lines


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``key=value`` pairs; values are read as Python literals, else taken as text."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise typer.BadParameter(f"{setting!r} is not of the form key=value", param_hint="--set")
        words = {"true": True, "false": False, "none": None}
        try:
            parsed[name] = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed[name] = text
    return parsed


def gene_list(text: str) -> list[str]:
    """Names from ``A,B,C`` or from a file with one name a line."""
    from imputome.errors import InputError

    if "," not in text and len(text) < 255 and Path(text).exists():
        try:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()  # spreadsheets put a mark at the start
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the genes file {text} cannot be read as UTF-8 text: {error}") from error
        return [line.strip() for line in lines if line.strip()]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) == 1 and ("/" in text or Path(text).suffix in (".txt", ".csv", ".tsv", ".list")):
        raise InputError(f"there is no genes file {text}")
    return names
