"""``imputome mask``: hide values and keep the truth beside them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from imputome.cli import options as opt
from imputome.cli.console import print_json, print_line, warnings_as_lines
from imputome.cli.masked_files import check_fits, check_masked, only_written, write_masked
from imputome.cli.options import parse_settings


def command(
    source: opt.Source,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Output: .h5ad, .zarr, a table (.csv, ...), or no suffix: a 10x folder."),
    ],
    scheme: Annotated[
        str,
        typer.Option(
            help="Counts: random, double_exponential, median, thin, thin_nb. "
            "Real values: mcar, features, high_gc, low_values, low_coverage, blocks, rates."
        ),
    ],
    fraction: Annotated[float | None, typer.Option(help="Share to hide (default: the scheme's own).")] = None,
    seed: opt.Seed = 0,
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
    label: Annotated[
        str | None, typer.Option(help="Column of obs that stratifies the rows in which features are hidden.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of the scheme: key=value (gc: a column of var; coverage: a layer)."),
    ] = None,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Hide values of IN and write what is left to OUT, with the truth.

    The truth is in the layer "truth" of an .h5ad or .zarr, and of OUT.truth.h5ad beside a table or a 10x folder, which
    tools in R and others read. `imputome score` scores what a tool made of OUT.
    """
    from imputome.evaluation.masked import MASK_KEY, mask
    from imputome.evaluation.splits import scheme_options
    from imputome.io.reading import read

    scheme_options(scheme)
    options = parse_settings(settings)
    check_masked(output, source, force=force)
    matrix: dict[str, Any] = {"layer": layer, "kind": kind, "round_counts": round_counts, "feature_type": feature_type}
    matrix |= {
        "keep_summary_rows": keep_summary_rows,
        "allowed": ("genes-in-rows",) if accept_orientation else (),
    }
    reading = opt.table_options(decimal, missing, annotation)
    with warnings_as_lines(quiet=quiet):
        warnings.filterwarnings("ignore", message=".*names are not unique")  # nothing that the user has to act on
        adata = read(
            source,
            genes_in=only_written(source, output, genes_in),
            transpose=transpose,
            modality=modality,
            options=reading,
        )
        masked = mask(adata, scheme=scheme, fraction=fraction, seed=seed, label=label, options=options, **matrix)
    check_fits(masked, output, genes_in)
    record = dict(masked.uns[MASK_KEY])
    truth = write_masked(masked, output, genes_in, force=force)
    if as_json:
        beside = {} if truth == output else {"truth": str(truth)}
        print_json({"output": str(output), **beside, "shape": list(masked.shape), **record})
    elif not quiet:
        what = "molecules" if scheme in ("thin", "thin_nb") else "nonzeros" if record["kind"] == "counts" else "values"
        print_line(f"{scheme}: hid {record['fraction_realised']:.2%} of the {what} of {record['layer']} (seed {seed})")
        where = 'in its layer "truth"' if truth == output else f"in {truth}"
        print_line(f"wrote {masked.n_obs:,} x {masked.n_vars:,} to {output}, the truth {where}")
