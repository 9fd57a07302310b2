"""``imputome tune``: search the parameters of a method, and write the best for `imputome fit`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.console import keeps_partial_work, print_json, print_line, warning_line, warnings_as_lines


def command(
    source: opt.Source,
    method: Annotated[str, typer.Option(help="A name from `imputome methods`.")],
    trials: Annotated[int, typer.Option(min=1, help="Total number of trials, with those of earlier runs.")],
    storage: Annotated[str, typer.Option(help="SQLite file of the study; an existing study continues.")],
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    objective: Annotated[str, typer.Option(help="nll (validation likelihood) or poisson_loss (held out).")] = "nll",
    output: Annotated[Path, typer.Option("--output", "-o", help="Best parameters as TOML.")] = Path("best.toml"),
    settings: Annotated[list[str] | None, typer.Option("--set", help="Parameter to keep fixed: key=value.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which no trial is started.")] = None,
    modality: opt.Modality = None,
    layer: opt.Layer = None,
    feature_type: opt.FeatureType = None,
    kind: opt.Kind = None,
    round_counts: opt.RoundCounts = None,
    genes_in: opt.GenesIn = None,
    transpose: opt.Transpose = False,
    accept_orientation: opt.AcceptOrientation = False,
    decimal: opt.Decimal = ".",
    missing: opt.Missing = None,
    annotation: opt.Annotation = None,
    keep_summary_rows: opt.KeepSummaryRows = False,
    seed: opt.Seed = 0,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Search the parameters of a method on IN; an interrupted study continues where it stopped."""
    from imputome.io.config import Config, check_config_path, write_config
    from imputome.io.reading import read
    from imputome.studies.inputs import to_dataset
    from imputome.studies.tuning import import_optuna, storage_path, tune

    # before the input is read, which can take long
    import_optuna()
    storage_path(storage)
    check_config_path(output)
    params = opt.parse_settings(settings)
    keeps_partial_work()
    reading = opt.table_options(decimal, missing, annotation)
    with warnings_as_lines(quiet=quiet):
        adata = read(source, genes_in=genes_in, transpose=transpose, modality=modality, options=reading)
    dataset = to_dataset(
        adata,
        name=source.name,
        layer=layer,
        feature_type=feature_type,
        keep_summary_rows=keep_summary_rows,
        kind=kind,
        round_counts=round_counts,
        seed=seed,
        allowed=("genes-in-rows",) if accept_orientation else (),
    )
    if not quiet:
        for message in dataset.messages:
            warning_line(message)
    with progress(f"tuning {method}", quiet=quiet) as show:
        best = tune(
            dataset.data,
            method=method,
            trials=trials,
            storage=storage,
            objective=objective,  # type: ignore[arg-type]
            params=params,
            seed=seed,
            workers=workers,
            timeout=timeout,
            progress=show,
        )
    notes = f"{objective} {best.value:.6g} on {source.name}, best of {best.finished} trials, seed {seed}"
    write_config(output, Config(best.method, best.params), notes=notes)
    if as_json:
        print_json({"output": str(output), "storage": storage, "objective": objective, **asdict(best)})
    elif not quiet:
        counted = "1 trial" if best.finished == 1 else f"{best.finished} trials"
        counted = f"{counted}, {best.pruned} stopped early, {best.failed} failed"
        print_line(f"{counted}; best {objective} {best.value:.6g}")
        for name, value in best.params.items():
            print_line(f"  {name} = {value}")
        print_line(f"wrote {output}: use it with `imputome fit {source} -m MODEL --config {output}`")
