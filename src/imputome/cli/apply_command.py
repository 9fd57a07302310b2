"""``imputome apply``: a saved model on new cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from imputome.cli import options as opt
from imputome.cli.console import progress
from imputome.cli.options import gene_list, split_names, takes_options
from imputome.cli.output import OutputFiles, read_input


@dataclass(frozen=True)
class Arguments:
    """The options of the command."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `imputome fit` wrote.")]
    source: opt.Source
    output: opt.Output
    layer: opt.Layer = None
    key_added: opt.KeyAdded = None
    scale: opt.Scale = None
    genes: opt.Genes = None
    gene_column: opt.GeneColumn = None
    genes_in: opt.GenesIn = None
    keep_observed: opt.KeepObserved = None
    outputs: opt.Outputs = None
    uncertainty: opt.Uncertainty = None
    draws: opt.Draws = 0
    force: opt.Force = False
    quiet: opt.Quiet = False
    as_json: opt.AsJson = False


@takes_options
def command(given: Arguments) -> None:
    """Impute new cells IN with a saved MODEL and write the result to OUT; genes are matched by name.

    A table of real values comes back as the same text, in which only the missing values have changed.
    """
    from imputome.api.models import run_model
    from imputome.api.plan import Options, plan_apply
    from imputome.core.saved import is_model
    from imputome.errors import InputError
    from imputome.methods import load
    from imputome.result.adapt import inspect_layer

    if is_model(given.source) and not is_model(given.model):
        raise InputError(
            f"MODEL and IN are swapped: imputome apply {given.source} {given.model} -o {given.output}", code="swapped"
        )
    options = Options(
        layer=given.layer,
        key_added=given.key_added,
        genes=None if given.genes is None else gene_list(given.genes),
        gene_column=given.gene_column,
        keep_observed=given.keep_observed,
        scale=given.scale,  # type: ignore[arg-type]
        outputs=tuple(split_names(given.outputs)),
        draws=given.draws,
        uncertainty=given.uncertainty is not None,
    )
    files = OutputFiles(
        source=given.source,
        output=given.output,
        genes_in=given.genes_in,
        uncertainty=given.uncertainty,
        draws=given.draws,
        force=given.force,
        quiet=given.quiet,
    ).check_paths(options.outputs)
    estimator = load(given.model)
    keeps_text = files.keeps_text(given.output, options.genes) and given.keep_observed is not False
    keeps_text = keeps_text and given.scale in (None, "input")
    adata = read_input(
        given.source, (given.output, given.uncertainty), given.genes_in, keeps_text=keeps_text, quiet=given.quiet
    )
    if keeps_text and estimator.kind_ == "real":
        report = inspect_layer(adata, given.layer)
        if report.n_nan == report.n_infinite == 0:
            files.write_unchanged(adata, as_json=given.as_json)
            return
    plan = plan_apply(adata, estimator, options, files)
    with progress(f"applying {estimator.name}", quiet=given.quiet) as show:
        show(0.0, "")
        run = run_model(plan, source=str(given.model))
    files.write(plan, run, as_json=given.as_json)
