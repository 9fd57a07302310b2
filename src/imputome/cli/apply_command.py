"""``imputome apply``: a saved model on new cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.output import Writing, with_streams

if TYPE_CHECKING:
    from imputome.api.plan import Options


@dataclass(frozen=True, kw_only=True)
class Arguments(Writing):
    """The options of the command."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `imputome fit` wrote.")]
    source: opt.Source
    match_genes: opt.MatchGenes = None

    def options(self) -> Options:
        """The options for the library."""
        return replace(super().options(), match_genes=self.match_genes)


@opt.takes_options
def command(given: Arguments) -> None:
    """Impute new cells IN with a saved MODEL and write the result to OUT; genes are matched by name.

    A table of real values comes back as the same text, in which only the missing values have changed. The table IN can
    be -, which is stdin, and OUT can be -, which is stdout.
    """
    with with_streams(given) as files:
        _apply(files)


def _apply(given: Arguments) -> None:
    from imputome.api.models import run_model
    from imputome.api.plan import inspect_input, plan_apply
    from imputome.core.saved import is_model
    from imputome.errors import InputError
    from imputome.methods import load
    from imputome.result.adapt import check_structure

    if is_model(given.source) and not is_model(given.model):
        raise InputError(
            f"MODEL and IN are swapped: imputome apply {given.source} {given.model} -o {given.output}", code="swapped"
        )
    options = given.options()
    given.check_paths()
    estimator = load(given.model)
    adata = given.read()
    if given.keeps_text() and estimator.kind_ == "real":
        report = inspect_input(adata, options, estimator)
        if report.n_nan == report.n_infinite == 0:
            # the values of the model are real, whatever these look like
            check_structure(report, "apply", (*options.allowed, "negative-counts"))
            given.write_unchanged(adata)
            return
    plan = plan_apply(adata, estimator, options, given)
    given.warn(plan.messages)
    with progress(f"applying {estimator.name}", quiet=given.quiet, counted=False) as show:
        show(0.0, "")
        run = run_model(plan, source=str(given.model))
    given.print_result(plan, run, given.write(plan, run))
