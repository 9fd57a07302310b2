"""``imputome impute``: read, impute, write."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.console import (
    CONTROLS_WIN,
    error_line,
    json_text,
    print_check,
    print_json,
    print_line,
    print_sentences,
    warning_line,
)
from imputome.cli.options import parse_settings, split_names
from imputome.cli.output import Writing, missing_values, with_streams
from imputome.errors import ControlsWinError, InputError, Message

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.api.costs import Costs
    from imputome.api.plan import Options, Plan
    from imputome.core.imputer import Imputer
    from imputome.inspection.state import InputReport
    from imputome.result.record import Record
    from imputome.result.run import Progress, Run


@dataclass(frozen=True, kw_only=True)
class Arguments(Writing):
    """The options of the command."""

    source: opt.Source
    output: opt.Output
    method: Annotated[
        str | None,
        typer.Option(
            "--method", "-m", help="A name from `imputome methods`, also name+posterior, or auto (default: by data)."
        ),
    ] = None
    settings: opt.Settings = None
    posterior: opt.Posterior = None
    transform: opt.Transform = "auto"
    shift: Annotated[
        str | None,
        typer.Option(
            "--shift-correction", metavar="auto|LAMBDA", help="Correct values that are missing because they are low."
        ),
    ] = None
    samples: Annotated[
        Path | None, typer.Option(help="Table of samples whose columns go to obs (.h5ad, .zarr), joined by name.")
    ] = None
    sample_id: Annotated[
        str | None, typer.Option(help="Column of --samples with the names of the samples (default: the first).")
    ] = None
    covariates: opt.Covariates = None
    check_result: Annotated[
        bool | None, typer.Option("--check/--no-check", help="Check on held-out values (default: with auto only).")
    ] = None
    labels: Annotated[
        str | None, typer.Option("--label", help="Columns of obs (A,B): the check tests if imputing mixes them.")
    ] = None
    budget: Annotated[float | None, typer.Option(min=0.01, help="Minutes for --method auto (default: 5).")] = None
    accept_control: Annotated[
        bool, typer.Option("--accept-control", help="With auto: take the best control if no method is better.")
    ] = False
    keep_summary_rows: opt.KeepSummaryRows = False
    strict: Annotated[
        bool,
        typer.Option("--strict", help="With a check: exit code 3 if the verdict is not to impute; OUT is written too."),
    ] = False
    training_cells: opt.TrainingCells = None
    max_memory: opt.MaxMemory = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print what it would take, and write nothing.")
    ] = False
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: each library decides).")] = None
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=opt.take_config,
            help="Options as TOML (`imputome tune` writes it) or .json (a record, from --record or --json).",
        ),
    ] = None
    record: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Record to write, for --config.")] = None
    report: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="Report to write: one HTML file.")] = None
    seed: opt.Seed = 0

    @property
    def label(self) -> str | None:
        """Column of ``obs`` that colours the cells of the report."""
        return next(iter(split_names(self.labels)), None)

    def options(self) -> Options:
        """The options for the library."""
        params = {**self._configured(), **parse_settings(self.settings)}
        if self.shift is not None:
            if "shift" in params:
                raise InputError("{shift} is in {params} too: leave one out", code="given-twice", shift=..., params=...)
            params["shift"] = _shift(self.shift)
        # labels colour the report, whether or not there is a check
        unchecked_report = self.report is not None and not (self.check_result or self.method == "auto")
        return replace(
            super().options(),
            method=self.method,
            params=params,
            posterior=self.posterior,
            random_state=self.seed,
            covariates=tuple(split_names(self.covariates)) or None,
            transform=None if self.transform == "auto" else self.transform,
            check=self.check_result,
            labels=() if unchecked_report else tuple(split_names(self.labels)),
            budget=self.budget,
            accept_control=self.accept_control,
            keep_summary_rows=self.keep_summary_rows,
            training_cells=self.training_cells,
            threads=self.threads,
        )

    def _configured(self) -> dict[str, Any]:
        """The parameters of the method in the config file."""
        if self.config is None:
            return {}
        from imputome.io.config import read_options

        content = read_options(self.config)
        method = None if self.method is None else self.method.removesuffix("+posterior")
        if content.get("params") and content.get("method") not in (None, method, self.method):
            raise InputError(
                f"{self.config} has parameters of the method {content['method']}, and {{method}} was passed: leave one "
                "out",
                code="given-twice",
                method=self.method,
            )
        return content.get("params", {})


@opt.takes_options
def command(given: Arguments) -> int:
    """Impute IN with a method and write the result to OUT.

    With --method auto, methods and controls race on a sample, and the winner is checked: exit code 3, and nothing
    written, if no method beats the controls. With --check OUT is written whatever the verdict, and the exit code is 0,
    or 3 with --strict if the verdict is not to impute. A table of real values comes back as the same text, in which
    only the missing values have changed. The table IN can be -, which is stdin, and OUT can be -, which is stdout.
    """
    with with_streams(given) as files:
        return _impute(files)


def _impute(given: Arguments) -> int:
    from imputome.api.costs import costs_of, within_memory
    from imputome.api.impute import run_plan
    from imputome.api.plan import checked_options, inspect_input, plan_impute
    from imputome.core.atomic import atomic_path, check_file
    from imputome.result.adapt import check_structure
    from imputome.trust.verdict import VERDICTS

    if given.threads is not None and "numpy" not in sys.modules:
        for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):  # for libraries that are loaded later
            os.environ[f"{name}_NUM_THREADS"] = str(given.threads)
    options = given.options()
    if given.strict and not options.checked:
        text = "{strict} is about the verdict of the check: pass {check} too, or leave {strict} out"
        raise InputError(text, code="option-unused", strict=True, check=True)
    estimator = checked_options(options)
    _check_samples(given)
    given.check_paths()
    if given.record is not None:
        check_file(given.record, (".json",), "record", overwrite=given.force)
    adata = given.read()
    report = inspect_input(adata, options)
    if given.keeps_text() and _is_complete(report, estimator):
        check_structure(report, "fit", options.allowed)
        if (options.checked or given.report) and not given.quiet:
            text = "nothing is missing, so there is nothing to check or to report"
            warning_line(Message(text, code="nothing-missing"))
        given.write_unchanged(adata)
        return 0
    summary: dict[str, Any] = {}
    if given.samples is not None:
        summary["samples"] = _join_samples(adata, given.samples, given)
    if given.report is not None:
        from imputome.report.html.content import chosen_label
        from imputome.report.html.page import check_installed, check_path

        check_installed()
        check_path(given.report, overwrite=given.force)
        chosen_label(adata.obs, given.label)
    plan = plan_impute(adata, options, given, estimator=estimator, report=report)
    if given.max_memory is not None:
        plan = within_memory(plan, int(opt.size_of(given.max_memory)))
    given.warn(plan.messages)
    if given.dry_run:
        _print_costs(costs_of(plan, given.output), plan, given)
        return 0
    values_only = plan.report.kind == "real" and given.scale in (None, "input")
    if values_only and plan.report.n_nan and (given.as_json or not given.quiet):
        missing = missing_values(adata, plan.report)
        if given.as_json:
            summary["missingness"] = missing.to_dict()
        else:
            print_sentences(missing.lines())

    @contextmanager
    def stage(what: str, cost: str, counted: bool) -> Iterator[Progress]:
        if cost and not given.quiet:
            print_line(cost, err=True)
        with progress(what, quiet=given.quiet, counted=counted) as show:
            yield show

    try:
        plan, run = run_plan(plan, stage)
    except ControlsWinError as error:
        _print_race(error, given)
        raise
    run = replace(run, further={**run.further, "command": shlex.join(["imputome", *sys.argv[1:]])})
    record = given.write(plan, run, joined=given.samples is not None)
    if given.record is not None:
        with atomic_path(given.record, overwrite=given.force) as partial:
            partial.write_text(
                json_text({"key": plan.key if given.is_store else None, **record.brief()}) + "\n", encoding="utf-8"
            )
    if given.report is not None:
        _write_report(given.report, given, plan, run, record)
    given.print_result(plan, run, record, summary)
    if given.report is not None and not (given.as_json or given.quiet):
        print_line(f"report: {given.report}")
    if given.strict and record.verdict is not None and record.verdict.verdict == VERDICTS[-1]:
        text = f"the verdict is {record.verdict.verdict!r}: {given.output} was written, but do not use it"
        error_line(Message(text, code="verdict-do-not-impute"))
        return CONTROLS_WIN
    return 0


def _print_costs(costs: Costs, plan: Plan, given: Arguments) -> None:
    """Print what the plan would take."""
    if given.as_json:
        method = None if plan.estimator is None else plan.estimator.name
        print_json({"method": method, "shape": list(plan.data.shape), **asdict(costs)})
        return
    name = "the method that is chosen" if plan.estimator is None else plan.estimator.name
    n, G = plan.data.shape
    print_line(f"{name} on {n:,} x {G:,} values in {plan.report.where}")
    print_sentences(costs.lines())
    print_line("nothing was written, because this was a dry run")


def _check_samples(given: Arguments) -> None:
    if given.sample_id is not None and given.samples is None:
        raise InputError(
            "{sample_id} names a column of the table of samples: pass {samples} too",
            code="option-unused",
            sample_id=...,
            samples=...,
        )
    if given.samples is not None and not given.is_store:
        raise InputError(
            f"the columns of {given.samples} go to obs, and the table {given.output} has no obs: end it in .h5ad or "
            ".zarr",
            code="table-without-obs",
            parameter="samples",
        )


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


def _join_samples(adata: AnnData, table: Path, given: Arguments) -> dict[str, Any]:
    from imputome.io.samples import join_samples

    joined = join_samples(adata, table, column=given.sample_id)
    if not given.quiet:
        for message in joined.messages():
            warning_line(message)
    return asdict(joined)


def _print_race(error: ControlsWinError, given: Arguments) -> None:
    """Print how the race went where no method won."""
    if given.as_json:
        print_json({"output": None, **{name: part.brief() for name, part in error.record.items()}})
    elif not given.quiet:
        print_check(error.record.get("race"), error.record.get("verdict"))


def _write_report(page: Path, given: Arguments, plan: Plan, run: Run, record: Record) -> None:
    from imputome.report.html.content import of_imputation
    from imputome.report.html.page import write_report

    with progress(f"writing {page.name}", quiet=given.quiet, counted=False) as show:
        show(0.0, "")
        imputation, genes = run.imputation.fitted(plan.columns)
        content = of_imputation(
            imputation.data,
            imputation,
            record=record,
            key=plan.key,
            scale=run.scale,
            labels=plan.adata.obs,
            label=given.label,
            source=given.source.name,
            genes=genes,
            keep_observed=given.keep_observed,
        )
        write_report(page, content, overwrite=given.force)
