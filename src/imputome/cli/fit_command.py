"""``imputome fit``: read, fit, save the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imputome.cli.console import print_json, progress, warning_line
from imputome.cli.output import ending, parse_settings, split_names

if TYPE_CHECKING:
    from imputome.core.imputer import Imputer

SEED = 0
NOT_WITH_FROM = "it is the model's own and cannot change with --from: leave it out"


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", readable=False, help=".h5ad, .zarr, 10x .h5 or folder, .loom, or a table.")
    ],
    model: Annotated[Path, typer.Option("--model", "-m", help="Folder to save the model in.")],
    method: Annotated[
        str | None, typer.Option(help="A name from `imputome methods` (default: by kind of data).")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to learn from instead of X.")] = None,
    scale: Annotated[str | None, typer.Option(help="Consent to learn from normalized or log1p values.")] = None,
    transform: Annotated[
        str | None, typer.Option(help="What real values are learned on: asinh, clip, logit, none (default: by tails).")
    ] = None,
    genes_in: Annotated[str | None, typer.Option(help="For tables: where genes are, rows or columns.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Parameter of the method: key=value.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Method and parameters as TOML, as `imputome tune` writes them.")
    ] = None,
    posterior: Annotated[
        bool | None, typer.Option("--posterior/--no-posterior", help="Combine with each cell's own counts.")
    ] = None,
    covariates: Annotated[str | None, typer.Option(help="Columns of obs, A,B,C, for methods that use them.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="MODEL", help="Train this saved model further instead.")
    ] = None,
    gene_column: Annotated[
        str | None, typer.Option(help="With --from: column of var with the model's gene names (default: var_names).")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints: a fit that was killed goes on (deep methods).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed (default: 0).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing model.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable summary.")] = False,
) -> None:
    """Fit a method on IN and save the model, for `imputome apply`."""
    from imputome.api.models import check_reusable, run_fine_tune, run_fit
    from imputome.core.saved import check_model_path
    from imputome.io.reading import read
    from imputome.methods import load
    from imputome.result.adapt import inspect_layer
    from imputome.result.run import default_method, make_estimator

    # all that can be refused is refused before anything is computed
    _check_place(model, source, start)
    check_model_path(model, overwrite=force)
    params = parse_settings(settings or [])
    if gene_column is not None and start is None:
        raise typer.BadParameter("it is for --from", param_hint="--gene-column")
    estimator: Imputer | None = None
    report = None
    if start is not None:
        for option, given in (
            ("--method", method),
            ("--config", config),
            ("--posterior", posterior),
            ("--covariates", covariates),
            ("--scale", scale),
            ("--transform", transform),
        ):
            if given is not None:
                raise typer.BadParameter(NOT_WITH_FROM, param_hint=option)
        estimator = load(start)
        if seed is not None:
            estimator.random_state = seed  # type: ignore[attr-defined]
    else:
        method, params = _configured(config, method, params)
        options: dict[str, Any] = {"params": params, "posterior": posterior, "random_state": seed or SEED}
        if method is not None:
            estimator = make_estimator(method, **options)
            check_reusable(estimator)
    if estimator is not None:
        _set_checkpoint(estimator, checkpoint)
    adata = read(source, genes_in=genes_in)
    if estimator is None:
        report = inspect_layer(adata, layer)
        estimator = make_estimator(default_method(report), **options)
        _set_checkpoint(estimator, checkpoint)
    with progress(f"fitting {estimator.name}", quiet=quiet) as show:
        if start is not None:
            run = run_fine_tune(adata, estimator, layer=layer, gene_column=gene_column, params=params, progress=show)
        else:
            run = run_fit(
                adata,
                estimator,
                layer=layer,
                covariates=split_names(covariates) or None,
                scale=scale,  # type: ignore[arg-type]
                transform=transform,
                report=report,
                progress=show,
            )
    estimator.save(model, overwrite=force)
    if not quiet:
        for message in run.messages:
            warning_line(message)
    if as_json:
        record = run.record().brief()
        record.pop("history")
        print_json({"model": str(model), "shape": list(run.imputation.shape), **record})
    elif not quiet:
        typer.echo(f"{run.size}, {run.report.state} in {run.report.where}")
        typer.echo(f"{estimator.name}: {ending(run)}, {run.seconds:.1f} s")
        typer.echo(f"saved the model to {model}: use it with `imputome apply {model} IN -o OUT`")


def _check_place(model: Path, source: Path, start: Path | None) -> None:
    """Refuse what is likely a slip: a data file's name for the model, the model of --from, the input itself."""
    from imputome.errors import InputError
    from imputome.io.tables import table_suffix

    if model.suffix.lower() in (".h5ad", ".zarr", ".h5", ".loom") or table_suffix(model) is not None:
        raise InputError(f"-m {model} looks like a data file, and a model is a folder: leave the ending out")
    if model.resolve() == source.resolve():
        raise InputError(f"the model {model} is the input itself: give another path")
    if start is not None and model.resolve() == start.resolve():
        raise InputError(f"the model {model} is the one of --from, which stays as it is: give another path")


def _configured(config: Path | None, method: str | None, params: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Method and parameters of the line over those of the config file."""
    from imputome.errors import InputError
    from imputome.io.config import read_config

    if config is None:
        return method, params
    found = read_config(config)
    if method not in (None, found.method):
        raise InputError(f"{config} is for the method {found.method}, and --method says {method}: leave one out")
    return found.method, {**found.params, **params}


def _set_checkpoint(estimator: Imputer, folder: Path | None) -> None:
    from imputome.errors import InputError

    if folder is None:
        return
    if not hasattr(estimator, "checkpoint"):
        raise InputError(f"{estimator.name} writes no checkpoints, only the deep methods do: leave --checkpoint out")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--checkpoint {folder} is a file: give a folder")
    estimator.checkpoint = folder
