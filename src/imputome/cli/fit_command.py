"""``imputome fit``: read, fit, save the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.console import keeps_partial_work, print_json, print_line, warning_line, warnings_as_lines
from imputome.cli.options import parse_settings, split_names, takes_options
from imputome.cli.output import ending
from imputome.errors import InputError

if TYPE_CHECKING:
    from imputome.core.imputer import Imputer

FIXED_BY_MODEL = ("method", "config", "posterior", "covariates", "scale", "transform")


@dataclass(frozen=True)
class Arguments:
    """The options of the command."""

    source: opt.Source
    model: Annotated[Path, typer.Option("--model", "-m", help="Folder to save the model in.")]
    method: Annotated[str | None, typer.Option(help="A name from `imputome methods` (default: by kind of data).")] = (
        None
    )
    modality: opt.Modality = None
    layer: opt.Layer = None
    kind: opt.Kind = None
    round_counts: opt.RoundCounts = None
    scale: Annotated[
        str | None, typer.Option(help="Scale that IN is on, if not counts: normalized, log1p, log2p1, log10p1 or sqrt.")
    ] = None
    transform: Annotated[
        str | None,
        typer.Option(
            help="Transform of real values: asinh, clip, logit, neglog or none (default: asinh if tails are heavy)."
        ),
    ] = None
    feature_type: opt.FeatureType = None
    genes_in: opt.GenesIn = None
    transpose: opt.Transpose = False
    accept_orientation: opt.AcceptOrientation = False
    decimal: opt.Decimal = "."
    missing: opt.Missing = None
    annotation: opt.Annotation = None
    keep_summary_rows: opt.KeepSummaryRows = False
    training_cells: opt.TrainingCells = None
    settings: opt.Settings = None
    config: Annotated[
        Path | None, typer.Option(help="Method and parameters as TOML, as `imputome tune` writes them.")
    ] = None
    posterior: opt.Posterior = None
    covariates: opt.Covariates = None
    start: Annotated[
        Path | None, typer.Option("--from", metavar="MODEL", help="Train this saved model further instead.")
    ] = None
    gene_column: Annotated[
        str | None, typer.Option(help="With --from: column of var with the model's gene names (default: var_names).")
    ] = None
    match_genes: opt.MatchGenes = None
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints: a fit that was killed continues (deep methods).")
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed (default: 0).")] = None
    force: opt.Force = False
    quiet: opt.Quiet = False
    as_json: opt.AsJson = False


@takes_options
def command(given: Arguments) -> None:
    """Fit a method on IN and save the model, for `imputome apply`."""
    from imputome.api.models import run_fine_tune, run_fit
    from imputome.api.plan import Options, check_reusable, checked_options, plan_fine_tune, plan_fit
    from imputome.core.saved import check_model_path
    from imputome.io.reading import read
    from imputome.methods import load

    _check_place(given)
    check_model_path(given.model, overwrite=given.force)
    method, params = _configured(given)
    options = Options(
        method=method,
        params=params,
        posterior=given.posterior,
        random_state=given.seed or 0,
        layer=given.layer,
        covariates=tuple(split_names(given.covariates)) or None,
        scale=given.scale,  # type: ignore[arg-type]
        transform=given.transform,
        gene_column=given.gene_column,
        feature_type=given.feature_type,
        kind=given.kind,  # type: ignore[arg-type]
        round_counts=given.round_counts,
        accept_orientation=given.accept_orientation,
        keep_summary_rows=given.keep_summary_rows,
        training_cells=given.training_cells,
        match_genes=given.match_genes,
    )
    estimator: Imputer | None
    if given.start is not None:
        estimator = load(given.start)
        if given.seed is not None:
            estimator.random_state = given.seed  # type: ignore[attr-defined]
    else:
        estimator = checked_options(options)
        if estimator is not None:
            check_reusable(estimator)
    if estimator is not None:
        _set_checkpoint(estimator, given.checkpoint)
    reading = opt.table_options(given.decimal, given.missing, given.annotation)
    with warnings_as_lines(quiet=given.quiet):
        how: dict[str, Any] = {"genes_in": given.genes_in, "transpose": given.transpose, "modality": given.modality}
        adata = read(given.source, **how, backed=None, options=reading)
    if given.start is not None:
        assert estimator is not None  # noqa: S101
        plan, fit = plan_fine_tune(adata, estimator, options), run_fine_tune
    else:
        plan, fit = plan_fit(adata, options, estimator=estimator), run_fit
    estimator = plan.estimator
    assert estimator is not None  # noqa: S101
    _set_checkpoint(estimator, given.checkpoint)
    if not given.quiet:
        for message in plan.messages:  # before the fit, which may take long
            warning_line(message)
    if given.checkpoint is not None:
        keeps_partial_work(until=given.model)
    with progress(f"fitting {estimator.name}", quiet=given.quiet, counted=False) as show:
        run = fit(plan, show)
    estimator.save(given.model, overwrite=given.force)
    if not given.quiet:
        for message in run.messages:
            if message not in plan.messages:
                warning_line(message)
    if given.as_json:
        record = run.record().brief()
        record.pop("history")
        print_json({"model": str(given.model), "shape": list(run.imputation.shape), **record})
    elif not given.quiet:
        print_line(f"{run.size}, {run.report.state} in {run.report.where}")
        print_line(f"{estimator.name}: {ending(run)}, {run.seconds:.1f} s")
        print_line(f"saved the model to {given.model}: use it with `imputome apply {given.model} IN -o OUT`")


def _check_place(given: Arguments) -> None:
    """Refuse likely mistakes: a data file's name for the model, the model of --from, the input itself."""
    from imputome.io.tables import table_suffix

    model = given.model
    if model.suffix.lower() in (".h5ad", ".zarr", ".h5", ".loom") or table_suffix(model) is not None:
        raise InputError(
            f"{model} looks like a data file, but a model is a folder: leave the ending out", code="model-path"
        )
    if model.resolve() == given.source.resolve():
        raise InputError(f"the model {model} is the input itself: give another path", code="model-path")
    if given.start is not None and model.resolve() == given.start.resolve():
        raise InputError(
            f"the training starts from the model {model}, which is not replaced: give another path",
            code="model-path",
        )
    for name in ("gene_column", "match_genes") if given.start is None else ():
        if getattr(given, name) is not None:
            named: dict[str, Any] = {name: ...}
            text = f"the names of a model's genes are used with --from only: leave {{{name}}} out"
            raise InputError(text, code="option-unused", **named)


def _configured(given: Arguments) -> tuple[str | None, dict[str, Any]]:
    """Method and parameters: of the command line, else of the config file; with --from the model's own stay."""
    from imputome.io.config import read_config

    params = parse_settings(given.settings)
    if given.start is not None:
        for name in FIXED_BY_MODEL:
            named: dict[str, Any] = {name: ...}
            if getattr(given, name) is not None:
                raise InputError(
                    f"the model to start from has its own {name}, which cannot change: leave {{{name}}} out",
                    code="fixed-by-model",
                    **named,
                )
    if given.config is None:
        return given.method, params
    config = read_config(given.config)
    if given.method not in (None, config.method):
        raise InputError(
            f"{given.config} is for the method {config.method}, and {{method}} was passed: leave one out",
            code="given-twice",
            method=given.method,
        )
    return config.method, {**config.params, **params}


def _set_checkpoint(estimator: Imputer, folder: Path | None) -> None:
    if folder is None:
        return
    if not hasattr(estimator, "checkpoint"):
        raise InputError(
            f"{estimator.name} writes no checkpoints, only the deep methods do: leave {{checkpoint}} out",
            code="no-checkpoints",
            checkpoint=...,
        )
    from imputome.core.atomic import check_writable, destination

    folder = destination(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder", code="not-a-folder", parameter="checkpoint")
    check_writable(folder / "checkpoint")
    estimator.checkpoint = folder
