"""``imputome methylation``: read counts to beta values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imputome.cli import options as opt
from imputome.cli.console import print_json, print_line, warning_line
from imputome.cli.options import split_names
from imputome.cli.output import check_store, write_store
from imputome.errors import InputError, Message

if TYPE_CHECKING:
    from anndata import AnnData

_CHROMOSOME = ("chr", "chrom", "chromosome", "seqname", "seqnames", "contig", "scaffold")


def command(
    source: Annotated[
        Path,
        typer.Argument(metavar="COUNTS", help="Table of reads, one row per site: .parquet, .csv, .tsv (also .gz)."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output: .h5ad or .zarr.")],
    min_coverage: Annotated[
        int, typer.Option(min=0, help="Sites with fewer reads count as missing in that sample.")
    ] = 6,
    methylated: Annotated[str, typer.Option(help="Start of the names of the columns with methylated reads.")] = "M.",
    coverage: Annotated[str, typer.Option(help="Start of the names of the columns with coverage.")] = "Cov.",
    position: Annotated[str, typer.Option(help="Columns with the position of a site: chr,pos.")] = "pos",
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Compute beta values (samples x sites) from methylated reads and coverage, ready for `imputome impute`."""
    import numpy as np

    from imputome.core.methylation import set_beta
    from imputome.io.methylation_counts import read_counts

    check_store(output, source, "the coverage beside the beta values", force=force)
    adata = read_counts(source, methylated=methylated, coverage=coverage, position=split_names(position))
    shared = _shared_names(adata, split_names(position))
    set_beta(adata, min_coverage=min_coverage)
    missing = float(np.isnan(adata.X).mean())
    if missing == 1:
        most = adata.layers["coverage"].max()
        remedy = (
            f"pass a lower {{min_coverage}}, the largest coverage is {most:g}"
            if most
            else "are these the columns of coverage?"
        )
        raise InputError(
            f"no site has {max(min_coverage, 1)} reads in any sample, so no value would be left: {remedy}",
            code="no-coverage",
            min_coverage=...,
        )
    if shared and not quiet:
        warning_line(shared)
    uncovered = int((adata.layers["coverage"].max(axis=0) == 0).sum())
    write_store(adata, output, force=force)
    if as_json:
        summary = {"min_coverage": min_coverage, "missing": missing, "sites_without_reads": uncovered}
        print_json({"output": str(output), "shape": list(adata.shape), **summary})
    elif not quiet:
        print_line(
            f"{missing:.1%} missing: under {min_coverage} reads; {uncovered:,} sites without a read in any sample"
        )
        print_line(f"wrote {adata.n_obs:,} samples x {adata.n_vars:,} sites to {output}")


def _shared_names(adata: AnnData, position: list[str]) -> Message | None:
    """A warning that several sites have the same name; an error if another column would distinguish them."""
    number = int(adata.var_names.duplicated(keep=False).sum())
    if not number:
        return None
    text = f"{number:,} sites share their name ({adata.var_names[adata.var_names.duplicated()][0]}, ...) with another"
    for name in adata.var.columns:
        if name.lower().strip("#") in _CHROMOSOME and name not in position:
            raise InputError(
                f"{text}: pass {{position}}", code="sites-not-unique", position=",".join([name, *position])
            )
    return Message(
        f"{text}: add columns to {{position}} that distinguish them, or keep one row per site",
        code="sites-not-unique",
        position=...,
    )
