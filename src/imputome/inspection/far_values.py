"""Single values far beyond all others: a lost decimal point, an overflow, a code for missing that is there once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imputome.errors import Message
from imputome.inspection.missing_codes import FAR
from imputome.inspection.tally import MAX_LOG, Tally, pieces

FAR_IF_COMPRESSED = 30.0  # times all others, where these are logs, fractions or z-scores
MAX_NAMED = 3  # values; more are another unit or a code for missing (`imputome.inspection.missing_codes`)


def far_values(tally: Tally, matrix: Any, names: Sequence[Sequence[str] | None], where: str) -> Message | None:
    """The warning about values that are far beyond all others, as no scale explains; None where there are none.

    ``names`` are those of the rows and of the columns, if there are any. The matrix is read again only where there are
    such values.
    """
    far = tally.extremes.far(FAR_IF_COMPRESSED if tally.n_noninteger else FAR)
    if not far or sum(far.values()) > MAX_NAMED:
        return None
    least = min(map(abs, far))
    largest = max(abs(value) for value in (*tally.extremes.low, *tally.extremes.high) if value not in far)
    if largest > MAX_LOG and least <= FAR * largest:
        return None
    found = []
    for block, row, column in pieces(matrix):
        entries = block.tocoo()
        for k in np.flatnonzero(np.abs(entries.data) >= least):
            cell, gene = _name(names[0], row + entries.row[k]), _name(names[1], column + entries.col[k])
            found.append(f"{entries.data[k]:g} in row {cell}, column {gene}")
    text = (
        f"{where} holds {', '.join(found)}, which no scale explains: all others are within +-{largest:g}; correct it, "
        "or mark it as missing"
    )
    return Message(text, code="far-values")


def _name(names: Sequence[str] | None, place: int) -> str:
    return str(place) if names is None else repr(str(names[place]))
