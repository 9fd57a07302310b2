"""Rows that read counters add to a table of genes: reads without a gene, totals. They are no genes."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

# in lower case; letters and digits only after the underscores at the start
_SUMMARY = re.compile(
    r"_*(no_?feature|ambiguous|too_?low_?a_?qual|not_?aligned|alignment_?not_?unique)"  # HTSeq, with and without __
    r"|_+(ambiguous_readpair_position|empty(_\w+)?|low_?a_?qual)"  # DEXSeq
    r"|n_(unmapped|multimapping|nofeature|ambiguous)"  # STAR
    r"|unassigned(_\w+)?|assigned"  # featureCounts
    r"|_*(unmapped|unaligned|multi_?mapp(ed|ing|ers)|unmapped_reads|unmapped_barcode)"
    r"|(ncount|nfeature)_\w+|(percent|pct)_(mt|mito|ribo)"  # Seurat
    r"|n_genes_by_counts|(pct|total)_counts_(mt|mito|ribo)"  # scanpy
    r"|(sum|totals?|grand_total|total_(reads|counts?|umis?))"
)


def summary_rows(names: Iterable[object]) -> np.ndarray:
    """Which names are those of summary rows, as a mask.

    Examples
    --------
    >>> from imputome.inspection.summary_rows import summary_rows
    >>> summary_rows(["ACTB", "__no_feature", "N_unmapped", "Unassigned_NoFeatures"]).tolist()
    [False, True, True, True]
    """
    words = (re.sub(r"[\s.\-]+", "_", str(name).strip().lower()) for name in names)
    return np.array([_SUMMARY.fullmatch(word) is not None for word in words], dtype=bool)
