"""The scale of values that another tool made of counts: the one that was named, or the one that their totals show.

Imputed counts sum to about the molecules of their cell. On the right scale, taken back to counts, all cells do; on a
wrong one few do, because the conversion depends on the depth of the cell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imputome.core.data import Data
from imputome.core.scales import SCALES, Scale, scale_to_counts
from imputome.errors import InputError, Message

ROWS_FOR_SCALE = 200  # cells whose totals show the scale
# scales that are told from the totals; the others must be named
COMMON: tuple[Scale, ...] = ("counts", "normalized", "log1p", "log2p1", "sqrt", "log1p_counts")
# median distance, over cells, of the log of the total from that of the molecules: up to NEAR values can be on a scale,
# from FAR on they are not; a scale is told if all others are far
NEAR, FAR = 0.15, 0.25
IMPOSSIBLE = float(np.log(20))  # so far off, the scale that was named cannot be meant
_MAX_LOG = 700.0  # of float64


def scale_of_real(named: Scale | None) -> Scale:
    """The scale of real values, which can only be that of the input."""
    if named in (None, "input"):
        return "input"
    check_known(named)
    text = f"scale {named!r} needs counts, and the masked values are real: pass {{scale}}, or leave it out"
    raise InputError(text, code="scale-needs-counts", scale="input")


def check_known(scale: str | None) -> None:
    """Check that there is such a scale."""
    if scale is not None and scale not in SCALES:
        text = f"there is no scale {scale!r}: choose one of {', '.join(SCALES)}"
        raise InputError(text, code="unknown-scale", parameter="scale")


def scale_of_counts(
    tool: str, named: Scale | None, rows: Callable[[np.ndarray], np.ndarray], train: Data
) -> tuple[Scale, list[Message]]:
    """The scale that was named, or the one of `COMMON` on which values sum to the molecules of their cells.

    Parameters
    ----------
    tool : str
        Its name, for messages.
    named : str, optional
        The scale as the user says.
    rows : callable
        Takes positions of cells and returns their values, (len(cells), G).
    train : Data of shape (n, G)
        The counts that the tool was given.

    Returns
    -------
    scale : str
    messages : list of Message
        A doubt about the scale that was named.

    Raises
    ------
    InputError
        No scale, or more than one, fits the totals and none was named; or totals are over 20 times too large or too
        small on the scale that was named.
    """
    check_known(named)
    cells = sampled_cells(train)
    values = rows(cells)
    if not values.any():  # zeros are zeros on every scale
        return ("counts" if named in (None, "input") else named), []
    logs = totals_off(values, train, cells)
    off = {scale: float(np.median(each)) if len(each) else 0.0 for scale, each in logs.items()}
    miss = {scale: float(np.median(np.abs(each))) if len(each) else 0.0 for scale, each in logs.items()}
    told = [
        scale
        for scale in COMMON
        if miss[scale] <= NEAR and all(miss[other] >= FAR for other in COMMON if other != scale)
    ]
    sums = ", ".join(f"as {scale} to {_times(off[scale])}" for scale in ("counts", "normalized", "log1p"))
    sums = f"{sums} the molecules of their cells in the masked data"
    if named is None:
        if told and not (values < 0).any():
            return told[0], []
        text = f"the values of {tool} do not tell their scale (they sum {sums}): "
        if (values < 0).any():
            text = f"{tool} holds negative values, so that its scale cannot be told: write what the tool had before it "
            text += "centred its values, or "
        raise InputError(f"{text}pass {{scale}}, one of {', '.join(SCALES[:-1])}", code="scale-unclear", scale=...)
    named = "counts" if named == "input" else named
    text = f"{tool} does not seem to be on the scale {named}: its values sum {sums}"
    if abs(off[named]) > IMPOSSIBLE:
        known = told[0] if told else ...
        raise InputError(f"{text}: pass the {{scale}} that it is on", code="scale-contradicted", scale=known)
    if told and told[0] != named and miss[named] > FAR:
        text += "; if they are on another one, pass {scale}"
        return named, [Message(text, code="scale-doubtful", scale=told[0])]
    return named, []


def _times(off: float) -> str:
    times = float(np.exp(min(off, _MAX_LOG)))
    if times < 1e-4:
        return "less than 0.0001 times"
    return f"{times:.3g} times" if times < 1e5 else "over 100,000 times"


def sampled_cells(train: Data) -> np.ndarray:
    """Positions of at most 200 cells with molecules, spread over all."""
    cells = np.flatnonzero(train.depth > 0)
    number = min(ROWS_FOR_SCALE, len(cells))
    return cells[np.linspace(0, len(cells) - 1, number).astype(int)] if number else cells


def totals_off(values: np.ndarray, train: Data, cells: np.ndarray) -> dict[Scale, np.ndarray]:
    """For each scale, the log of the sum of each cell's values, taken back to counts, over its molecules.

    The molecules are those of the genes at hand, and cells that have none of them, or all of whose values are 0, say
    nothing and are left out; negative values count as 0, and what float64 cannot take back as infinite.
    """
    molecules = np.asarray(train.X[cells] @ np.ones(train.shape[1]))
    positive = np.maximum(values, 0.0)
    telling = (molecules > 0) & positive.any(axis=1)
    molecules, positive, depth = molecules[telling], positive[telling], train.depth[cells[telling], None]
    logs: dict[Scale, np.ndarray] = {}
    for scale in SCALES[:-1]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            total = scale_to_counts(positive, depth, scale).sum(axis=1)
            off = np.log(total) - np.log(molecules)
        logs[scale] = np.clip(np.nan_to_num(off, nan=_MAX_LOG), -_MAX_LOG, _MAX_LOG)
    return logs
