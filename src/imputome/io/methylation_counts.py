"""Read counts of bisulfite sequencing, one row per site, into AnnData (samples x sites)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imputome.errors import InputError, some
from imputome.io.table_layout import whole_number
from imputome.io.tables import read_parquet, suffix_of_file, suffix_separator
from imputome.io.text import comment_lines, explained, misfit, open_text, separator_of, skip_lines

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_GROUPED = re.compile(r"\d{1,3}([,' ]\d{3})+")
_CUT = re.compile(r"\d\.\d{2,}[eE]\+?\d+")  # 1.23E+08 of a spreadsheet
_FRACTION = re.compile(r"\d+\.\d*[1-9]\d*")


def read_counts(
    path: str | Path, *, methylated: str = "M.", coverage: str = "Cov.", position: Sequence[str] = ("pos",)
) -> AnnData:
    """Read a wide table of read counts: one row per site, two columns per sample; see `counts_from_frame`.

    The file is ``.parquet``, ``.csv``, ``.tsv`` or ``.txt`` (tabs), each text also ``.gz``; another separator is
    detected as in `imputome.io.tables.read_table`.
    """
    path = Path(path)
    suffix = suffix_of_file(path)
    frame = read_parquet(path) if suffix == ".parquet" else _text_frame(path, suffix_separator(suffix), position)
    return counts_from_frame(frame, methylated=methylated, coverage=coverage, position=position)


def counts_from_frame(
    frame: pd.DataFrame, *, methylated: str = "M.", coverage: str = "Cov.", position: Sequence[str] = ("pos",)
) -> AnnData:
    """A table of read counts as AnnData.

    ``methylated`` and ``coverage`` start the names of the two columns of a sample, and the rest is the name of the
    sample. The columns ``position`` joined by ``:`` become the name of a site.

    The result is samples x sites in the order of the table, with layers ``"methylated"`` and ``"coverage"`` in the
    dtype of the table, and all other columns in ``var``. Sites without a read are kept. ``X`` is empty: see
    `imputome.core.methylation.set_beta`.
    """
    import pandas as pd
    from anndata import AnnData

    columns = [str(name) for name in frame.columns]
    samples = _samples(columns, methylated, coverage)
    lacking = [name for name in position if name not in columns]
    if lacking or not position:
        wrong = f"there is no column {lacking[0]!r}" if lacking else "no column is given"
        text = f"{wrong} with the positions of the sites: pass {{position}} with some of {some(columns)}"
        raise InputError(text, code="no-position", position=...)
    if len(frame) == 0:
        raise InputError("the table of read counts has no rows: nothing was measured", code="empty")
    frame = frame.set_axis(columns, axis="columns")
    layers = {
        layer: _matrix(frame, [prefix + sample for sample in samples])
        for layer, prefix in (("methylated", methylated), ("coverage", coverage))
    }
    taken = {prefix + sample for sample in samples for prefix in (methylated, coverage)}
    var = frame[[name for name in columns if name not in taken]].copy()
    texts = []
    for name in position:
        texts.append(_position_texts(var[name], name))
        if all(text.isdecimal() for text in texts[-1]):
            var[name] = [int(text) for text in texts[-1]]
    names = pd.Series([":".join(parts) for parts in zip(*texts, strict=True)])
    var = var.set_axis(pd.Index(names.to_numpy(dtype=object)), axis="index")
    with warnings.catch_warnings():  # the inspection of the input reports duplicated names
        warnings.filterwarnings("ignore", message=".*names are not unique")
        return AnnData(obs=pd.DataFrame(index=pd.Index(samples, dtype=object)), var=var, layers=layers)


def _position_texts(column: pd.Series, name: str) -> list[str]:
    """A column of positions as text: whole numbers without a point or an exponent, other texts as they are."""
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax()) + 1
        text = f"column {name!r} has no position in row {row} of the table: add it, or remove the row"
        raise InputError(text, code="missing-position", parameter="position")
    texts = [str(value).strip() for value in column]
    plain = [whole_number(text) for text in texts]
    grouped = [text for text in plain if _GROUPED.fullmatch(text)]
    if grouped:
        text = f"column {name!r} holds {grouped[0]!r}: write positions without separators of thousands"
        raise InputError(text, code="thousands", parameter="position")
    fractions, cut = ([text for text in texts if of.fullmatch(text)] for of in (_FRACTION, _CUT))
    if fractions or 10 * len(cut) > len(texts):  # R writes a few round numbers with an exponent
        wrong = f"{fractions[0]!r}, no whole number" if fractions else f"{cut[0]!r}, a rounded number"
        text = f"column {name!r} holds {wrong}: write positions as whole numbers, such as 123456"
        raise InputError(text, code="rounded-positions", parameter="position")
    return plain


def _samples(columns: list[str], methylated: str, coverage: str) -> list[str]:
    if not methylated or not coverage or methylated == coverage:
        text = "the columns of methylated reads and of coverage need two different prefixes"
        raise InputError(text, code="same-prefix")
    if len(set(columns)) != len(columns):
        twice = next(name for k, name in enumerate(columns) if name in columns[:k])
        text = f"the column {twice!r} is there twice: give each column its own name"
        raise InputError(text, code="columns-not-unique")
    names = {
        prefix: [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]
        for prefix in (methylated, coverage)
    }
    if not names[methylated] and not names[coverage]:
        text = f"no column begins with {methylated!r} or {coverage!r}: give the prefixes of {some(columns)}"
        raise InputError(text, code="no-samples")
    for first, second in ((methylated, coverage), (coverage, methylated)):
        alone = [sample for sample in names[first] if sample not in names[second]]
        if alone:
            text = f"there is a column {first + alone[0]!r} but no {second + alone[0]!r}: both are needed"
            raise InputError(text, code="one-column-of-sample")
    return names[methylated]


def _matrix(frame: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """Samples x sites, in the narrowest type that holds all of these columns."""
    for name in columns:
        if frame[name].dtype.kind not in "iuf":
            text = f"column {name!r} holds values that are not counts: leave sites without reads 0 or empty"
            raise InputError(text, code="not-numeric")
    return np.ascontiguousarray(frame[columns].to_numpy().T)


def _text_frame(path: Path, expected: str, position: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    with explained(path, expected):
        separator = separator_of(path, expected)
        with open_text(path) as handle:
            skip_lines(handle, comment_lines(path, separator))
            # read as numbers, 1e+05 among whole numbers would make all of them decimals
            frame = pd.read_csv(handle, sep=separator, low_memory=False, dtype=dict.fromkeys(position, str))
        # pandas fills short lines up with NaN, which would turn a truncated file into sites without reads
        if frame.iloc[:, -1].isna().any() and (reason := misfit(path, separator)):
            raise InputError(reason, code="ragged")
        return frame
