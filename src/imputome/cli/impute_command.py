"""``imputome impute``: read, impute, write."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imputome.cli import options as opt
from imputome.cli.console import print_check, print_json, progress, spelled, warning_line
from imputome.cli.options import gene_list, parse_settings, split_names, takes_options
from imputome.cli.output import OutputFiles, read_input
from imputome.errors import ControlsWinError, InputError

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.api.plan import Options
    from imputome.core.imputer import Imputer
    from imputome.inspection.state import InputReport
    from imputome.result.run import Progress


@dataclass(frozen=True)
class Arguments:
    """The options of the command."""

    source: opt.Source
    output: opt.Output
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="A name from `imputome methods`, or auto (default: by data).")
    ] = None
    layer: opt.Layer = None
    key_added: opt.KeyAdded = None
    scale: opt.Scale = None
    genes: opt.Genes = None
    gene_column: opt.GeneColumn = None
    genes_in: opt.GenesIn = None
    settings: opt.Settings = None
    posterior: opt.Posterior = None
    keep_observed: opt.KeepObserved = None
    outputs: opt.Outputs = None
    uncertainty: opt.Uncertainty = None
    draws: opt.Draws = 0
    transform: opt.Transform = "auto"
    shift: Annotated[
        str | None, typer.Option("--shift-correction", metavar="auto|LAMBDA", help="For values missing because low.")
    ] = None
    samples: Annotated[
        Path | None, typer.Option(help="Table of samples whose columns go to obs (.h5ad, .zarr), joined by name.")
    ] = None
    sample_id: Annotated[
        str | None, typer.Option(help="Column of --samples with the names of the samples (default: the first).")
    ] = None
    covariates: opt.Covariates = None
    check: Annotated[
        bool | None, typer.Option("--check/--no-check", help="Check on held-out values (default: with auto only).")
    ] = None
    labels: Annotated[
        str | None, typer.Option("--label", help="Columns of obs, A,B: does imputing mix them? Colours a report.")
    ] = None
    budget: Annotated[float | None, typer.Option(min=0.01, help="Minutes for --method auto (default: 5).")] = None
    accept_control: Annotated[
        bool, typer.Option("--accept-control", help="With auto: write the best control if nothing beats it.")
    ] = False
    report_to: Annotated[
        Path | None, typer.Option("--report", metavar="PAGE.html", help="One page to look at, without a network.")
    ] = None
    seed: opt.Seed = 0
    force: opt.Force = False
    quiet: opt.Quiet = False
    as_json: opt.AsJson = False

    def options(self) -> Options:
        """What is asked of the library."""
        from imputome.api.plan import Options

        params = parse_settings(self.settings)
        if self.shift is not None:
            if "shift" in params:
                raise InputError("the shift correction is given twice: leave one out", code="given-twice", shift=...)
            params["shift"] = _shift(self.shift)
        labels = tuple(split_names(self.labels))
        unchecked_report = self.report_to is not None and not (self.check or self.method == "auto")
        return Options(
            method=self.method,
            params=params,
            posterior=self.posterior,
            random_state=self.seed,
            layer=self.layer,
            covariates=tuple(split_names(self.covariates)) or None,
            scale=self.scale,  # type: ignore[arg-type]
            transform=None if self.transform == "auto" else self.transform,
            keep_observed=self.keep_observed,
            outputs=tuple(split_names(self.outputs)),
            draws=self.draws,
            uncertainty=self.uncertainty is not None,
            genes=None if self.genes is None else gene_list(self.genes),
            gene_column=self.gene_column,
            key_added=self.key_added,
            check=self.check,
            labels=() if unchecked_report else labels,  # they colour the report, whether or not there is a check
            budget=self.budget,
            accept_control=self.accept_control,
        )


@takes_options
def command(given: Arguments) -> None:
    """Impute IN with a method and write the result to OUT.

    With --method auto, methods and controls race on a sample, and the winner is checked: exit code 3, and nothing
    written, if no method beats the controls. A table of real values comes back as the same text, in which only the
    missing values have changed.
    """
    from imputome.api.impute import run_plan
    from imputome.api.plan import checked_options, plan_impute
    from imputome.result.adapt import inspect_layer

    options = given.options()
    estimator = checked_options(options)
    files = _files(given).check_paths(options.outputs)
    # a table of real values comes back as the same text
    keeps_text = files.keeps_text(given.output, options.genes) and given.keep_observed is not False
    keeps_text = keeps_text and given.scale in (None, "input")
    adata = read_input(
        given.source, (given.output, given.uncertainty), given.genes_in, keeps_text=keeps_text, quiet=given.quiet
    )
    report = inspect_layer(adata, given.layer)
    if keeps_text and _is_complete(report, estimator):
        if (options.checked or given.report_to) and not given.quiet:
            warning_line("nothing is missing, so there is nothing to check or to report")
        files.write_unchanged(adata, as_json=given.as_json)
        return
    summary: dict[str, Any] = {}
    if given.samples is not None:
        summary["samples"] = _join_samples(adata, given)
    files.check_report(adata)
    plan = plan_impute(adata, options, files, estimator=estimator, report=report)
    values_only = plan.report.kind == "real" and given.scale in (None, "input")
    if values_only and plan.report.n_nan and (given.as_json or not given.quiet):
        summary |= _missingness(adata, given.layer, as_json=given.as_json)

    @contextmanager
    def stage(what: str, cost: str) -> Iterator[Progress]:
        if cost and not given.quiet:
            typer.echo(cost, err=True)
        with progress(what, quiet=given.quiet) as show:
            yield show

    try:
        plan, run = run_plan(plan, stage)
    except ControlsWinError as error:
        _print_race(error, given)
        raise
    run = replace(run, further={**run.further, "command": shlex.join(["imputome", *sys.argv[1:]])})
    files.write(plan, run, as_json=given.as_json, summary=summary)


def _files(given: Arguments) -> OutputFiles:
    if given.sample_id is not None and given.samples is None:
        raise InputError(
            "sample_id is a column of the table of samples: pass {samples} too",
            code="option-unused",
            parameter="sample_id",
            samples=...,
        )
    files = OutputFiles(
        source=given.source,
        output=given.output,
        genes_in=given.genes_in,
        uncertainty=given.uncertainty,
        draws=given.draws,
        report=given.report_to,
        label=next(iter(split_names(given.labels)), None),
        force=given.force,
        quiet=given.quiet,
        changed=given.samples is not None,
    )
    if given.samples is not None and not files.is_store:
        raise InputError(
            f"the columns of {given.samples} go to obs, and the table {given.output} has no obs: end it in .h5ad or "
            ".zarr",
            code="table-without-obs",
            parameter="samples",
        )
    return files


def _shift(text: str) -> float | str:
    """``auto`` or a number."""
    if text.lower() == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text!r} is neither auto nor a number", param_hint="--shift-correction")
    return value


def _is_complete(report: InputReport, estimator: Imputer | None) -> bool:
    """Whether nothing is missing from a matrix in which only NaN is missing."""
    real = report.kind == "real" or (estimator is not None and estimator.info.kinds == {"real"})
    return real and report.n_nan == report.n_infinite == 0


def _join_samples(adata: AnnData, given: Arguments) -> dict[str, Any]:
    from imputome.io.samples import join_samples

    assert given.samples is not None  # noqa: S101
    joined = join_samples(adata, given.samples, column=given.sample_id)
    if not given.quiet:
        for message in joined.messages():
            warning_line(message)
    return asdict(joined)


def _missingness(adata: AnnData, layer: str | None, *, as_json: bool) -> dict[str, Any]:
    """Print what is missing before anything is imputed, or return it for the summary."""
    import numpy as np

    from imputome.core.data import in_memory
    from imputome.inspection.missingness import missingness

    X = in_memory(adata.X if layer is None else adata.layers[layer])
    dense = X if isinstance(X, np.ndarray) else X.toarray()
    missing = missingness(dense, obs_names=list(adata.obs_names), var_names=list(adata.var_names))
    if as_json:
        return {"missingness": missing.to_dict()}
    for line in missing.lines():
        typer.echo(spelled(line))
    return {}


def _print_race(error: ControlsWinError, given: Arguments) -> None:
    """Print how the race went where no method won."""
    if given.as_json:
        print_json({"output": None, **{name: part.brief() for name, part in error.record.items()}})
    elif not given.quiet:
        print_check(error.record.get("race"), error.record.get("verdict"))
