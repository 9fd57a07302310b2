"""Which features of an input are imputed: those of one feature type, and no summary rows of read counters.

Proteins, guides or peaks beside genes have another scale, and summary rows (`imputome.inspection.summary_rows`) are no
genes. Counted into the library size of a cell they shift every imputed gene, so one type is imputed at a time, without
these rows, and the others stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imputome.errors import InputError, Message
from imputome.inspection.orientation import first_three
from imputome.inspection.summary_rows import summary_rows

if TYPE_CHECKING:
    import pandas as pd

# columns of var with feature types, compared without case and signs; the first that holds types is used
COLUMNS = ("featuretypes", "featuretype", "modality", "modalities", "librarytype", "assay", "type", "types")
EXPRESSION = "Gene Expression"
# names of types, compared in the same way: those of 10x, and what people write instead
NAMES = {
    EXPRESSION: ("geneexpression", "gene", "genes", "rna", "gex", "mrna", "scrna", "expression", "transcriptome"),
    "Antibody Capture": (
        *("antibodycapture", "antibody", "antibodies", "adt", "ab", "protein", "proteins", "prot", "surfaceprotein"),
        *("proteinexpression", "cite", "citeseq", "cellsurfaceprotein"),
    ),
    "CRISPR Guide Capture": ("crisprguidecapture", "crispr", "guide", "guides", "grna", "sgrna", "guidecapture"),
    "Multiplexing Capture": ("multiplexingcapture", "multiplexing", "hto", "htos", "hashtag", "hashtags", "cmo"),
    "Antigen Capture": ("antigencapture", "antigen"),
    "Peaks": ("peaks", "peak", "atac", "chromatinaccessibility"),
    "Custom": ("custom",),
}
# marks in the names of features that are no genes
MARKS = {
    "Antibody Capture": re.compile(
        r"(?i)(adt|cite|prot|protein)[_:-].+|.+[_.-](adt|totalseq[-_]?[abcd]?|total_?seq[abcd]?|prot|protein)|.+\|pabo"
    ),
    "Multiplexing Capture": re.compile(r"(?i)(hto|hashtag)[_:-]?.*|.+[_.-](hto|hashtag)"),
}
ALL = "all"
SUMMARY_ROWS = "summary rows"  # why features are left out, beside their type
CODES = ("feature-type-chosen", "summary-rows")  # of the messages


@dataclass(frozen=True)
class Features:
    """The features of an input that are imputed, and the others."""

    used: np.ndarray  # bool (G,)
    chosen: str  # feature type of those that are imputed; empty where types leave none out
    left_out: dict[str, int]  # why others are left out, such as their type -> their number
    messages: tuple[Message, ...]  # what the user should know


def features_of(
    var: pd.DataFrame,
    feature_type: str | None = None,
    *,
    default: str = EXPRESSION,
    keep_summary_rows: bool = False,
    names: Iterable[object] | None = None,
) -> Features | None:
    """The features to impute, from the table of the features; None if these are all.

    ``feature_type`` is the name of a type in any case, or ``"all"``; None takes ``default``, which can be ``"all"``
    too. Features without a type count as gene expression. ``names`` are those that summary rows have, by default the
    index of ``var``; they are used if ``keep_summary_rows``, or if there is nothing else.
    """
    types = _types(var)
    chosen = _chosen(types, feature_type, default)
    used, left_out, messages = np.ones(len(var), dtype=bool), {}, []
    if types is not None and chosen:
        used = (types == chosen).to_numpy()
        left_out = {str(name): int(number) for name, number in types[~used].value_counts().items()}
        others = ", ".join(f"{number:,} of type {name}" for name, number in left_out.items())
        text = f"only the {int(used.sum()):,} features of type {chosen} are used; left as they are: {others}; "
        text += "{feature_type} chooses others"
        messages.append(Message(text, code=CODES[0], feature_type=...))
    names = list(var.index if names is None else names)
    summary = used & (np.zeros(len(var), dtype=bool) if keep_summary_rows else summary_rows(names))
    if summary.any() and (used & ~summary).any():
        used &= ~summary
        rows = [names[place] for place in np.flatnonzero(summary)]
        left_out[SUMMARY_ROWS] = len(rows)
        what = "1 name is that of a summary row" if len(rows) == 1 else f"{len(rows)} names are those of summary rows"
        text = (
            f"{what}, not of genes ({first_three(rows)}), and left out of the fit and of the library size; the values "
            "of the input stay; a fit with {keep_summary_rows} takes such rows as genes"
        )
        messages.append(Message(text, code=CODES[1], keep_summary_rows=True))
    return Features(used, chosen, left_out, tuple(messages)) if left_out else None


def asks_for_all(feature_type: str | None) -> bool:
    """Whether features of all types are asked for."""
    return feature_type is not None and _plain(feature_type) == ALL


def _chosen(types: pd.Series | None, feature_type: str | None, default: str) -> str:
    """The type to impute; empty if features of all types are, or are of one type only."""
    if feature_type is not None and not isinstance(feature_type, str):
        text = f"feature_type={feature_type!r} is not valid: pass the name of one feature type, or 'all'"
        raise InputError(text, code="parameter-value", parameter="feature_type")
    if types is None:
        if feature_type in (None, ALL):
            return ""
        text = "the input has no feature types, as var['feature_types'] has them: leave {feature_type} out"
        raise InputError(text, code="no-feature-types", feature_type=...)
    numbers = types.value_counts().to_dict()
    known = ", ".join(f"{name} ({number:,})" for name, number in numbers.items())
    if feature_type is None:
        if len(numbers) == 1 or default == ALL:
            return ""
        if default in numbers:
            return default
        text = f"the features are of several types, and none is {default}: {known}; pass {{feature_type}}"
        raise InputError(text, code="several-feature-types", feature_type=next(iter(numbers)))
    if asks_for_all(feature_type):
        return ""
    asked = _plain(feature_type)
    for name in numbers:
        if asked == _plain(name) or asked in NAMES.get(name, ()):
            return name if len(numbers) > 1 else ""
    text = f"there are no features of type {feature_type!r}: pass {{feature_type}} with one of {known}"
    raise InputError(text, code="unknown-feature-type", feature_type=...)


def _types(var: pd.DataFrame) -> pd.Series | None:
    """The type of each feature, known ones under the name that 10x uses; None if neither a column nor names tell."""
    names = {_plain(column): column for column in reversed(var.columns) if isinstance(column, str)}
    meaning = {word: name for name, words in NAMES.items() for word in words}
    for column in (names[name] for name in COLUMNS if name in names):
        values = var[column].astype(object)
        values = values.where(values.notna() & (values.astype(str).str.strip() != ""), EXPRESSION)
        written = {value: meaning.get(_plain(value)) for value in values.unique()}
        # a column of this name can also hold biotypes of genes, such as gene and pseudogene, or protein_coding
        known = set(written.values()) - {None}
        spelled_out = any(_plain(value) == _plain(EXPRESSION) for value in var[column].dropna().unique())
        if spelled_out or None not in written.values() or (EXPRESSION in known and len(known) > 1):
            return values.map(lambda value, written=written: written[value] or str(value))
    return _types_in_names(var.index)


def _types_in_names(names: pd.Index) -> pd.Series | None:
    """Types by the marks that antibodies and hashtags have in their names beside genes, such as ``CD3_TotalSeqB``."""
    import pandas as pd

    types = pd.Series(EXPRESSION, index=names, dtype=object)
    for name, pattern in MARKS.items():
        types[[pattern.fullmatch(str(each)) is not None for each in names]] = name
    return types if types.nunique() > 1 and (types == EXPRESSION).any() else None


def _plain(text: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(text).lower())
