"""From the tally of a matrix to its state: counts, a scale of counts, or real values; and where that is in doubt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from imputome.core.data import Kind
from imputome.core.scales import TRANSFORMS
from imputome.inspection.tally import MAX_LOG, Tally, first_block

# in the first ones a zero may be a dropout
CountState = Literal[
    "counts",
    "expected",
    "normalized",
    "log1p",
    "log2p1",
    "log10p1",
    "sqrt",
    "log1p_counts",
    "log2p1_counts",
    "log10p1_counts",
    "sqrt_counts",
    "unclear",
]
RealState = Literal["scaled", "real", "beta"]
State = CountState | RealState
Doubt = Literal["zeros-and-nan", "no-small-counts", "missing-code"]  # about the kind of the values

# Thresholds, chosen on the data sets of `imputome.datasets` and on what scanpy computes from them (see the tests)
MAX_SPREAD_OF_TOTALS = 0.01  # relative distance of nine in ten row totals from their median, if totals are constant
MANY_ZEROS = 0.25  # share of zeros; above it they are taken for dropouts and not for measurements
SOME_ZEROS = 0.01  # the same for integers, most of which are counts
FEW_OUTSIDE = 0.01  # share of values outside 0 to 1; up to it they are taken for mistakes in beta values
MIN_MAX_OF_PERCENTAGES = 90.0  # the maximum of percentages is near 100, that of log-transformed values never is
FEW_NEGATIVES = 0.1  # share of the nonzero integers; above it these are differences and not damaged counts
# expected counts: the share of integers among the values in the middle, the smallest number of these values and of
# genes (fewer are a table of measurements, some of which are integers), and the spread of the row totals
EXPECTED = {"integers": 0.2, "values": 50, "genes": 50, "spread": 0.02}
FEW_SMALL = 0.01  # small counts for each zero: where there are fewer, zeros are not the low end of counts
ENOUGH_VALUES = 100  # that are not zero, to tell a gap below them


@dataclass(frozen=True)
class Guess:
    """What a matrix seems to be."""

    state: State
    certain: bool = True  # whether the scale can be told from the values
    total: float | None = None  # for log1p: the sum of a row before the log, if it is the same in all rows
    doubt: Doubt | None = None  # whether a zero is a dropout cannot be told

    @property
    def kind(self) -> Kind:
        """``"counts"`` if a zero may be a dropout."""
        return "real" if self.state in get_args(RealState) else "counts"


def classify(tally: Tally, matrix: Any, kind: Kind | None) -> Guess:
    """The state of the values; ``kind`` is what the user says of them, which settles every doubt."""
    if kind == "real":
        return _real(tally)
    if kind == "counts":
        return _counts(tally, matrix) or _unclear(tally)
    if tally.missing_codes:
        return Guess("real", doubt="missing-code")
    if tally.n_nan:
        guess = _real(tally)
        return Guess("unclear", False, doubt="zeros-and-nan") if _zeros_beside_nan(tally) else guess
    sd = tally.moments()[1]
    if tally.n_noninteger and not tally.n_negative and len(sd) and np.mean(np.abs(sd - 1) < 0.01) > 0.9:
        return Guess("scaled")  # without centring, as for sparse matrices
    counts = _counts(tally, matrix)
    if counts is not None:
        return replace(counts, doubt="no-small-counts") if counts.state == "counts" and _no_small(tally) else counts
    if tally.n_negative:
        return _real(tally)
    size = tally.n * tally.G
    if tally.minimum >= 0 and tally.maximum <= 1 and tally.n_zeros < size / 2:
        return Guess("beta")
    if tally.n_zeros <= MANY_ZEROS * size:
        return Guess("real")
    return replace(_unclear(tally), doubt="no-small-counts") if _no_small(tally) else _unclear(tally)


def _real(tally: Tally) -> Guess:
    if 0 <= tally.minimum <= tally.maximum <= 1:
        return Guess("beta")
    if tally.n_nan or not tally.n_negative or not tally.n_noninteger:
        return Guess("real")
    mean, sd = tally.moments()
    centred = len(sd) and np.median(np.abs(mean)) < 0.1 and 0.5 < np.median(sd) < 1.5
    return Guess("scaled" if centred else "real")


def _unclear(tally: Tally) -> Guess:
    return Guess("unclear" if tally.maximum <= MAX_LOG else "normalized", False)


def _counts(tally: Tally, matrix: Any) -> Guess | None:
    """Counts or a scale of counts, where the values themselves show which."""
    if tally.n_noninteger == 0:
        few = tally.n_negative <= FEW_NEGATIVES * tally.n_nonzero
        return Guess("counts") if few else None
    if tally.n_negative:
        return None
    names = [name for name in TRANSFORMS if tally.transformed and (name == "sqrt" or tally.maximum <= MAX_LOG)]
    before = {"": tally.totals, **{name: tally.totals_before[name] for name in names}}
    spreads = {name: _spread(totals) for name, totals in before.items()}
    if not tally.n_zeros:  # quantile-normalised arrays have constant totals too, but no zeros
        spreads = dict.fromkeys(spreads, np.inf)
    for name in names:
        whole, looked_at = tally.whole[name], tally.looked_at[name]
        if looked_at and whole > 0.999 * looked_at and tally.seen[name].sum() > 1:
            if _spread(before[name]) >= MAX_SPREAD_OF_TOTALS:
                return Guess(f"{name}_counts")  # type: ignore[arg-type]
            break  # rounded after they were normalised
    best = min(spreads, key=lambda name: spreads[name])
    totals = before[best][before[best] > 0]
    # rows of length 1 have constant sums of squares, but are no square roots of anything
    if spreads[best] < MAX_SPREAD_OF_TOTALS and not (best == "sqrt" and np.median(totals) < 2):
        total = float(np.median(totals)) if best == "log1p" else None
        return Guess(best or "normalized", total=total)  # type: ignore[arg-type]
    if _looks_expected(tally):
        return Guess("expected")
    if tally.n_zeros:
        # a selection of genes has no constant totals, but its values still are multiples of one molecule
        block = first_block(matrix)
        for name in before:
            if _multiples(block, name):
                return Guess(name or "normalized")  # type: ignore[arg-type]
    return None


def _spread(totals: np.ndarray) -> float:
    """Largest relative distance of nine in ten of the non-empty rows from the median row total."""
    totals = totals[totals > 0]
    return float(np.quantile(np.abs(totals / np.median(totals) - 1), 0.9)) if len(totals) > 1 else np.inf


def _multiples(block: Any, name: str, *, n_rows: int = 200) -> bool:
    """Whether the values of a row are multiples of its smallest value (one molecule), which differs between rows.

    Only small multiples count, because rounding keeps them near integers. If all rows have the same smallest value, it
    is not a molecule but the last decimal of a table.
    """
    units, whole = [], []
    for start, stop in zip(block.indptr[:n_rows], block.indptr[1:], strict=False):
        row = block.data[start:stop].astype(np.float64)
        row = row[row > 0]
        if len(row) == 0:
            continue
        values = np.unique(TRANSFORMS[name][1](row) if name else row)
        multiples = values[1:] / values[0]
        multiples = multiples[multiples < 20]
        if len(multiples) > 2:
            units.append(np.float32(values[0]))
            whole.append(np.abs(multiples - np.rint(multiples)).max() < 0.05)
    return len(whole) > 1 and bool(np.mean(whole) > 0.8) and len(set(units)) > len(units) / 2


def _looks_expected(tally: Tally) -> bool:
    """Whether these are counts of reads that were divided among transcripts, as RSEM, salmon and kallisto do.

    Many of the values are integers, because most reads belong to one gene; of normalised values nearly none is one.
    Row totals are the library sizes, which differ, where TPM have constant totals.
    """
    return (
        EXPECTED["genes"] <= tally.G
        and tally.n_middle >= EXPECTED["values"]
        and tally.n_middle_integers >= EXPECTED["integers"] * tally.n_middle
        and tally.maximum > MAX_LOG
        and not MIN_MAX_OF_PERCENTAGES < tally.maximum <= 100
        and _spread(tally.totals) > EXPECTED["spread"]
    )


def _zeros_beside_nan(tally: Tally) -> bool:
    """Whether both NaN and zeros may mean missing; methylation has zeros too, but also values of 1 or 100."""
    if tally.n_negative:
        return False
    share = tally.n_zeros / max(tally.n_zeros + tally.n_nonzero, 1)
    if tally.n_noninteger == 0 and tally.maximum not in (1, 100):
        return share > SOME_ZEROS
    if share > SOME_ZEROS and tally.maximum > 1 and _normalised_but_for_few(tally):
        return True
    methylation = tally.maximum == 1 or MIN_MAX_OF_PERCENTAGES < tally.maximum <= 100
    return share > MANY_ZEROS and not methylation


def _normalised_but_for_few(tally: Tally) -> bool:
    """Whether rows have constant totals, as TPM and CPM and their logs have, although a few values are NaN."""
    logs = [name for name in TRANSFORMS if name != "sqrt" and tally.transformed and tally.maximum <= MAX_LOG]
    return any(
        _spread(totals) < MAX_SPREAD_OF_TOTALS
        for totals in (tally.totals, *(tally.totals_before[name] for name in logs))
    )


def _no_small(tally: Tally) -> bool:
    """Whether there is a gap between zero and the other values, as in intensities; counts have ones and twos."""
    expected = max(tally.n_zeros, tally.n_nonzero / 10)
    return tally.n_nonzero >= ENOUGH_VALUES and tally.n_negative == 0 and tally.n_small < FEW_SMALL * expected
