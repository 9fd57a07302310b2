"""``imputome inspect``: what state a matrix is in."""

from __future__ import annotations

from typing import Any

from imputome.cli import options as opt
from imputome.cli.console import error_line, print_json, print_sentences, warning_line, warnings_as_lines
from imputome.cli.output import missing_values


def command(
    source: opt.Source,
    modality: opt.Modality = None,
    layer: opt.Layer = None,
    kind: opt.Kind = None,
    feature_type: opt.FeatureType = None,
    keep_summary_rows: opt.KeepSummaryRows = False,
    genes_in: opt.GenesIn = None,
    transpose: opt.Transpose = False,
    decimal: opt.Decimal = ".",
    missing: opt.Missing = None,
    annotation: opt.Annotation = None,
    as_json: opt.AsJson = False,
) -> int:
    """Print the state of the input, what is missing, and what would prevent an imputation."""
    from imputome.inspection.state import inspect
    from imputome.io.reading import read

    options = opt.table_options(decimal, missing, annotation)
    with warnings_as_lines(quiet=False):
        adata = read(source, genes_in=genes_in, transpose=transpose, modality=modality, backed=None, options=options)
    features: dict[str, Any] = {"feature_type": feature_type, "keep_summary_rows": keep_summary_rows}
    report = inspect(adata, layer=layer, kind=kind, **features)  # type: ignore[arg-type]
    if as_json:
        print_json(report.to_dict())
    else:
        print_sentences(report.lines())
        if report.kind == "real" and report.n_nan and not report.errors:
            print_sentences(missing_values(adata, report).lines())
        for text in report.warnings:
            warning_line(text)
        for text in report.errors:
            error_line(text)
    return 1 if report.errors else 0
