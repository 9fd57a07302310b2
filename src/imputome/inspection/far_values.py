"""Single values far beyond all others: a lost decimal point, an overflow, a code for missing that is there once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imputome.errors import Message
from imputome.inspection.tally import MAX_LOG, Tally, pieces

FAR = 1000.0  # times all others,
FAR_IF_COMPRESSED = 30.0  # and where these are logs, fractions or z-scores
MAX_SHARE = 0.5  # of a row or column: where more are far, it is on another scale
MAX_NAMED = 3  # values that the message names


def far_values(tally: Tally, matrix: Any, names: Sequence[Sequence[str] | None], where: str) -> Message | None:
    """The warning about values that are far beyond all others, as no scale explains; None where there are none.

    A few slips, or a code for missing, which is one number in many places. ``names`` are those of the rows and of the
    columns, if there are any. The matrix is read again only where there are such values.
    """
    far = tally.extremes.far(FAR_IF_COMPRESSED if tally.n_noninteger else FAR)
    if not far:
        return None
    least = min(map(abs, far))
    largest = max(abs(value) for value in (*tally.extremes.low, *tally.extremes.high) if value not in far)
    if largest > MAX_LOG and least <= FAR * largest:
        return None
    parts = []
    for block, row, column in pieces(matrix):
        entries = block.tocoo()
        at = np.flatnonzero(np.abs(entries.data) >= least)
        parts.append((entries.row[at] + row, entries.col[at] + column, entries.data[at]))
    rows, columns, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    single = (np.bincount(rows)[rows] <= MAX_SHARE * tally.G) & (np.bincount(columns)[columns] <= MAX_SHARE * tally.n)
    if not single.any():
        return None
    places = [
        f"{value:g} in row {_name(names[0], i)}, column {_name(names[1], j)}"
        for i, j, value in zip(rows[single], columns[single], values[single], strict=True)
    ]
    more = f" and {len(places) - MAX_NAMED:,} more such values" if len(places) > MAX_NAMED else ""
    text = (
        f"{where} holds {', '.join(places[:MAX_NAMED])}{more}, which no scale explains: all others are within "
        f"+-{largest:g}; correct it, or mark it as missing"
    )
    return Message(text, code="far-values")


def _name(names: Sequence[str] | None, place: int) -> str:
    return str(place) if names is None else repr(str(names[place]))
