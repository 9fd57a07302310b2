"""``imputome impute``: read, fit, write."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imputome.cli.console import checked_run, chosen_method, progress, warning_line
from imputome.cli.output import (
    MAX_DRAWS,
    Table,
    check_offered,
    check_report,
    checked_beside,
    checked_target,
    numbers_as_names,
    parse_settings,
    read_input,
    say_complete,
    split_names,
    write_complete,
)
from imputome.errors import InputError

BUDGET = 5.0  # minutes for --method auto; `imputome.trust.auto` would be slow to import here

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.core.imputer import Imputer
    from imputome.inspection.state import InputReport


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", readable=False, help=".h5ad, .zarr, 10x .h5 or folder, .loom, or a table.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output: .h5ad, .zarr, .parquet, .csv.gz, ...")],
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="A name from `imputome methods`, or auto (default: by data).")
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
    uncertainty: Annotated[
        Path | None, typer.Option(help="A table for the standard deviation of each imputed value, 0 where observed.")
    ] = None,
    draws: Annotated[
        int, typer.Option(min=0, max=MAX_DRAWS, help="Multiple imputations: as tables beside a table, else as layers.")
    ] = 0,
    transform: Annotated[
        str, typer.Option(help="What real values are imputed on: auto, none, asinh, clip or logit.")
    ] = "auto",
    shift: Annotated[
        str | None, typer.Option("--shift-correction", metavar="auto|LAMBDA", help="For values missing because low.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Table of samples whose columns go to obs (.h5ad, .zarr), joined by name.")
    ] = None,
    sample_id: Annotated[
        str | None, typer.Option(help="Column of --samples with the names of the samples (default: the first).")
    ] = None,
    covariates: Annotated[str | None, typer.Option(help="Columns of obs, A,B,C, for methods that use them.")] = None,
    check: Annotated[
        bool | None, typer.Option("--check/--no-check", help="Judge it on held-out values (default: with auto only).")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--label", help="Columns of obs, A,B: do their cells move together? Colours a report.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0.01, help=f"Minutes for --method auto (default: {BUDGET:g}).")
    ] = None,
    accept_control: Annotated[
        bool, typer.Option("--accept-control", help="With auto: write the best control's output if nothing beats it.")
    ] = False,
    report_to: Annotated[
        Path | None, typer.Option("--report", metavar="PAGE.html", help="One page to look at, without a network.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output or layer.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable summary.")] = False,
) -> None:
    """Impute IN with a method and write the result to OUT.

    With --method auto, methods and controls race on a sample, and the winner is checked: exit code 3, and nothing
    written, if nothing beats the controls. A table of real values comes back as the same text, in which nothing is
    changed but the missing values.
    """
    from imputome.io.samples import join_samples
    from imputome.result.adapt import inspect_layer
    from imputome.result.layout import checked_outputs, default_key
    from imputome.result.run import default_method, refuse_with_auto, run_method
    from imputome.trust.check import label_columns, refuse_uncheckable

    # all that can be refused is refused before anything is computed
    if gene_column is not None and genes is None:
        raise typer.BadParameter("it says what --genes names: give --genes too", param_hint="--gene-column")
    if sample_id is not None and samples is None:
        raise typer.BadParameter("it is a column of --samples: give --samples too", param_hint="--sample-id")
    params, extra = parse_settings(settings or []), split_names(outputs)
    _check_transform(transform)
    options: dict[str, Any] = {"params": params, "shift": _shift(shift, params), "posterior": posterior, "seed": seed}
    automatic = method == "auto"
    if automatic:
        refuse_with_auto(
            **{"--set": params, "--shift-correction": shift, "--posterior": posterior is not None},
            **{"--covariates": covariates, "--outputs": extra, "--uncertainty": uncertainty, "--draws": draws},
        )
    elif accept_control or budget is not None:
        hint = "--accept-control" if accept_control else "--budget"
        raise typer.BadParameter("it goes with --method auto", param_hint=hint)
    if labels is not None and not (check or automatic or report_to):
        raise typer.BadParameter("it goes with --check, --method auto or --report", param_hint="--label")
    estimator = None if method is None or automatic else _estimator(method, **options)
    beside = checked_beside(output, source, uncertainty=uncertainty, draws=draws, outputs=extra, force=force)
    if estimator is not None:
        check_offered(beside, estimator)
    if samples is not None and output.suffix.lower() not in (".h5ad", ".zarr"):
        raise InputError(f"--samples goes to obs, and the table {output} has none: end it in .h5ad or .zarr")
    table = Table(source, genes_in or "columns")
    same = table.keeps_text(output) and genes is None and keep_observed is not False and scale in (None, "input")
    adata = read_input(source, (output, uncertainty), genes_in, narrow=same, quiet=quiet)
    report = inspect_layer(adata, layer)
    if same and _is_complete(report, estimator):
        if (check or automatic or report_to) and not quiet:
            warning_line("nothing is missing, so there is nothing to check or to report")
        write_complete(adata, table, output, beside)
        say_complete(adata, source, output, beside, quiet=quiet, as_json=as_json)
        return
    warnings = []
    further: dict[str, Any] = {}
    record: dict[str, Any] = {}
    if samples is not None:
        joined = join_samples(adata, samples, column=sample_id)
        warnings += joined.lines()
        further["samples"] = asdict(joined)
    by_name = split_names(labels)
    label = by_name[0] if by_name else None
    if check or automatic:
        refuse_uncheckable(report)
        label_columns(adata, by_name)
    if report_to is not None:
        check_report(report_to, adata, label, overwrite=force)
    if estimator is None and not automatic:
        estimator = _estimator(default_method(report), **options)
    offered = () if estimator is None else checked_outputs(estimator, extra)
    target = checked_target(
        adata,
        output=output,
        source=source,
        key=key_added or ("" if estimator is None else default_key(estimator)),
        genes=genes,
        gene_column=gene_column,
        genes_in=genes_in,
        outputs=offered,
        beside=beside,
        force=force,
        quiet=quiet,
        changed=samples is not None,
        report=report_to,
        label=label,
    )
    if automatic:
        chosen = chosen_method(
            adata,
            report,
            layer=layer,
            scale=scale,
            transform=None if transform == "auto" else transform,
            budget=BUDGET if budget is None else budget,
            accept_control=accept_control,
            checked=check is not False,
            labels=by_name,
            keep_observed=keep_observed,
            seed=seed,
            quiet=quiet,
            as_json=as_json,
        )
        estimator, record = chosen.estimator, chosen.record
        if key_added is None:
            target = target.under(default_key(estimator))
    assert estimator is not None  # noqa: S101
    needed = check_offered(beside, estimator)
    warnings += [text for text in [numbers_as_names(adata, source, genes_in)] if text is not None]
    if not quiet:
        for text in warnings:
            warning_line(text)
    if "real" in estimator.info.kinds and scale in (None, "input") and (as_json or not quiet):
        further |= _missingness(adata, layer, report, as_json=as_json)
    with progress(f"fitting {estimator.name}", quiet=quiet) as show:
        run = run_method(
            adata,
            estimator,
            layer=layer,
            covariates=split_names(covariates) or None,
            keep_observed=keep_observed,
            scale=scale,  # type: ignore[arg-type]
            transform=None if transform == "auto" else transform,
            outputs=tuple(dict.fromkeys((*offered, *needed))),
            report=report,
            progress=show,
        )
    record["command"] = shlex.join(["imputome", *sys.argv[1:]])
    run = replace(run, outputs=offered, further=record)
    if check and not automatic:
        run = checked_run(run, adata, labels=by_name, seed=seed, quiet=quiet)
    target.write(run, keep_observed=keep_observed, as_json=as_json, further=further)


def _estimator(
    method: str, *, params: dict[str, Any], shift: float | str | None, posterior: bool | None, seed: int
) -> Imputer:
    from imputome.methods import get
    from imputome.result.run import make_estimator

    if shift is not None:
        if "shift" not in get(method).parameter_defaults():
            raise InputError(f"{method} has no shift correction: leave --shift-correction out, or choose beta_vae")
        params = {**params, "shift": shift}
    return make_estimator(method, params=params, posterior=posterior, random_state=seed)


def _shift(text: str | None, params: dict[str, Any]) -> float | str | None:
    """``auto`` or a number."""
    if text is None:
        return None
    hint = "--shift-correction"
    if "shift" in params:
        raise typer.BadParameter("--set shift=... says the same: leave one out", param_hint=hint)
    if text.lower() == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text!r} is neither auto nor a number", param_hint=hint)
    return value


def _check_transform(transform: str) -> None:
    from imputome.core.links import LINKS

    known = ["auto", "none", *(name for name in LINKS if name != "identity")]
    if transform not in known:
        raise typer.BadParameter(f"{transform!r} is not one of {', '.join(known)}", param_hint="--transform")


def _is_complete(report: InputReport, estimator: Imputer | None) -> bool:
    """Whether nothing is missing from a matrix in which only NaN is missing."""
    real = report.kind == "real" or (estimator is not None and estimator.info.kinds == {"real"})
    return real and report.n_nan == report.n_infinite == 0


def _missingness(adata: AnnData, layer: str | None, report: InputReport, *, as_json: bool) -> dict[str, Any]:
    """Say what is missing before anything is filled, or give it for the summary."""
    import numpy as np

    from imputome.core.data import in_memory
    from imputome.inspection.missingness import missingness

    if report.kind != "real" or report.n_nan == 0 or report.errors:
        return {}
    X = in_memory(adata.X if layer is None else adata.layers[layer])
    dense = X if isinstance(X, np.ndarray) else X.toarray()
    found = missingness(dense, obs_names=list(adata.obs_names), var_names=list(adata.var_names))
    if as_json:
        return {"missingness": found.to_dict()}
    for line in found.lines():
        typer.echo(line)
    return {}
