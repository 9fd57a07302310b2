"""Whether hidden values came back exactly: then the tool was run on data in which they were not hidden.

Tools of counts often bring all cells to one total first. So exactly means up to one factor for each cell, which the
counts of the cell show from which nothing was hidden, if it has any.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from imputome.core.data import Data
from imputome.core.scales import scale_to_counts
from imputome.errors import Message
from imputome.evaluation.outside import Fitted, OutsideModel

MIN_TELLING = 10  # entries, to say that a tool has seen them
# share of the telling entries that is equal; of the true rates of small counts, rounded, one in seven was (measured)
LEAKED = 0.5
CELLS_PER_BLOCK = 2_000


@dataclass(frozen=True)
class Returned:
    """How many hidden values came back exactly as they were."""

    entries: int  # hidden entries; under thinning, those from which molecules were split off
    equal: int  # that have exactly their value from before
    # entries whose value no other cell has in this gene of the masked data: chance does not give it back
    telling: int
    telling_equal: int
    factor: bool = False  # whether values are equal up to one factor for each cell, and most are not without it

    @property
    def share(self) -> float:
        """Share of the hidden entries that came back exactly."""
        return self.equal / self.entries if self.entries else 0.0

    @property
    def how(self) -> str:
        """What "exactly" leaves open, for sentences."""
        return " (up to one factor for each cell)" if self.factor else ""

    @property
    def leaked(self) -> bool:
        """Whether the tool must have seen what was hidden."""
        return self.telling_equal >= MIN_TELLING and self.telling_equal >= LEAKED * self.telling


def returned(result: Fitted) -> Returned:
    """Count hidden values that came back exactly, on the scale of the tool's values.

    Under thinning, a value from before is the sum of both parts. A tool that normalised the values itself did so with
    the library sizes of the whole, if it had the whole: values are compared with both. If these show no leak, counts
    are compared up to one factor for each cell.
    """
    split, model = result.split, result.imputation.model
    train = split.train
    assert isinstance(model, OutsideModel)  # noqa: S101
    if split.test is not None:
        test = split.test.tocoo()
        i, j = test.row, test.col
        truth = test.data.astype(np.float64) + train.entries(i, j)
        depth = train.depth + np.asarray(split.test @ np.ones(train.shape[1]))
    else:
        assert split.i is not None and split.j is not None and split.truth is not None  # noqa: S101, PT018
        i, j, truth = split.i, split.j, np.asarray(split.truth, dtype=np.float64)
        depth = train.depth + np.bincount(i, truth, train.shape[0]) if train.kind == "counts" else np.empty(0)
    telling = ~_seen_elsewhere(train, j, truth)
    values = model.values.at(i, j)
    if train.kind == "real":
        equal = np.isclose(values, truth, rtol=1e-6, atol=1e-12)
        return _counted(equal, telling)
    values = np.maximum(values, 0.0)
    equal = np.zeros(len(i), dtype=bool)
    for library in (train.depth, depth):
        equal |= np.isclose(scale_to_counts(values, library[i], model.scale), truth, rtol=1e-5, atol=1e-8)
    as_they_were = _counted(equal, telling)
    if as_they_were.leaked:
        return as_they_were
    counts = scale_to_counts(values, train.depth[i], model.scale)
    factors = _factors(result, i, j)
    factors = np.where(np.isnan(factors), _factors_of_hidden(train, i, j, counts, truth), factors)
    equal |= np.isclose(counts, factors[i] * truth, rtol=1e-5, atol=0) & (counts > 0)
    up_to_factors = replace(_counted(equal, telling), factor=True)
    return up_to_factors if up_to_factors.leaked else as_they_were


def on_return(name: str, back: Returned) -> list[Message]:
    """What to say of a tool that has seen what was hidden."""
    if not back.leaked:
        return []
    text = (
        f"{100 * back.share:.0f} % of the {back.entries:,} hidden values are in {name} exactly as they were{back.how}, "
        f"with {back.telling_equal:,} of the {back.telling:,} that nothing in the masked data shows: it was run on "
        "data in which they were not hidden, so run it on what `imputome mask` wrote"
    )
    return [Message(text, code="truth-returned")]


def _counted(equal: np.ndarray, telling: np.ndarray) -> Returned:
    return Returned(len(equal), int(equal.sum()), int(telling.sum()), int((equal & telling).sum()))


def _factors(result: Fitted, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """(n,) the median of value over count, over the counts of each cell from which nothing was hidden; NaN for none.

    A tool that was given the masked data and multiplied each cell gives the same factors, but not the hidden values.
    """
    import pandas as pd

    train, model = result.split.train, result.imputation.model
    G = train.shape[1]
    hidden = np.sort(i.astype(np.int64) * G + j)
    medians = [pd.Series(dtype=np.float64)]
    for start in range(0, train.shape[0], CELLS_PER_BLOCK):
        some = train.X[start : start + CELLS_PER_BLOCK].tocoo()
        rows = some.row.astype(np.int64) + start
        kept = ~np.isin(rows * G + some.col, hidden) & (some.data > 0)
        rows = rows[kept]
        ratios = model.at(rows, some.col[kept], "value") / some.data[kept]
        medians.append(pd.Series(ratios).groupby(rows).median())
    factors = np.full(train.shape[0], np.nan)
    found = pd.concat([part for part in medians if len(part)] or medians)
    factors[found.index.to_numpy(dtype=np.intp)] = found.to_numpy()
    return factors


def _factors_of_hidden(train: Data, i: np.ndarray, j: np.ndarray, counts: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) the same over the hidden entries themselves, for deep cells, in which something was hidden everywhere.

    NaN for few entries, and where the masked counts have the same ratio to the values in all of them.
    """
    import pandas as pd

    left = train.entries(i, j)
    ratios = pd.DataFrame({"truth": counts / truth, "left": counts / np.where(left > 0, left, np.nan)}).groupby(i)
    spread, number = ratios["left"].agg(["min", "max"]), ratios["left"].count()
    usable = (number >= MIN_TELLING) & (spread["max"] > 1.001 * spread["min"])
    factors = np.full(train.shape[0], np.nan)
    factors[number.index.to_numpy()] = ratios["truth"].median().where(usable).to_numpy()
    return factors


def _seen_elsewhere(train: Data, j: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(m,) whether the training part has the value in the same gene."""
    if isinstance(train.X, np.ndarray):
        rows, columns = np.nonzero(~np.isnan(train.known_values()))
        known = train.X[rows, columns]
    else:
        columns, known = train.X.indices, train.X.data
    values, codes = np.unique(np.concatenate([known.astype(np.float64), truth]), return_inverse=True)
    keys = np.concatenate([columns, j]).astype(np.int64) * len(values) + codes
    return np.isin(keys[len(known) :], keys[: len(known)])
