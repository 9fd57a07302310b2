"""``imputome apply``: a saved model on new cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.output import Writing


@dataclass(frozen=True, kw_only=True)
class Arguments(Writing):
    """The options of the command."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `imputome fit` wrote.")]
    source: opt.Source


@opt.takes_options
def command(given: Arguments) -> None:
    """Impute new cells IN with a saved MODEL and write the result to OUT; genes are matched by name.

    A table of real values comes back as the same text, in which only the missing values have changed.
    """
    from imputome.api.models import run_model
    from imputome.api.plan import plan_apply
    from imputome.core.saved import is_model
    from imputome.errors import InputError
    from imputome.methods import load
    from imputome.result.adapt import check_structure, inspect_layer

    if is_model(given.source) and not is_model(given.model):
        raise InputError(
            f"MODEL and IN are swapped: imputome apply {given.source} {given.model} -o {given.output}", code="swapped"
        )
    options = given.options()
    given.check_paths()
    estimator = load(given.model)
    adata = given.read()
    if given.keeps_text() and estimator.kind_ == "real":
        report = inspect_layer(adata, given.layer, estimator.kind_, given.feature_type)
        if report.n_nan == report.n_infinite == 0:
            check_structure(report, "apply", options.allowed)
            given.write_unchanged(adata)
            return
    plan = plan_apply(adata, estimator, options, given)
    given.warn(plan.messages)
    with progress(f"applying {estimator.name}", quiet=given.quiet, counted=False) as show:
        show(0.0, "")
        run = run_model(plan, source=str(given.model))
    given.print_result(plan, run, given.write(plan, run))
