"""Whether hidden values came back exactly: then the tool was run on data in which they were not hidden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imputome.core.data import Data
from imputome.core.scales import scale_to_counts
from imputome.evaluation.outside import Fitted, OutsideModel

MIN_TELLING = 10  # entries, to say that a tool has seen them
# share of the telling entries that is equal; of the true rates of small counts, rounded, one in seven was (measured)
LEAKED = 0.5


@dataclass(frozen=True)
class Returned:
    """How many hidden values came back exactly as they were."""

    entries: int  # hidden entries; under thinning, those from which molecules were split off
    equal: int  # that have exactly their value from before
    # entries whose value no other cell has in this gene of the masked data: chance does not give it back
    telling: int
    telling_equal: int

    @property
    def share(self) -> float:
        """Share of the hidden entries that came back exactly."""
        return self.equal / self.entries if self.entries else 0.0

    @property
    def leaked(self) -> bool:
        """Whether the tool must have seen what was hidden."""
        return self.telling_equal >= MIN_TELLING and self.telling_equal >= LEAKED * self.telling


def returned(result: Fitted) -> Returned:
    """Count hidden values that came back exactly, on the scale of the tool's values.

    Under thinning, a value from before is the sum of both parts. A tool that normalised the values itself did so with
    the library sizes of the whole, if it had the whole: values are compared with both.
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
    values = model.values.at(i, j)
    if train.kind == "counts":
        values = np.maximum(values, 0.0)
        equal = np.zeros(len(i), dtype=bool)
        for library in (train.depth, depth):
            equal |= np.isclose(scale_to_counts(values, library[i], model.scale), truth, rtol=1e-5, atol=1e-8)
    else:
        equal = np.isclose(values, truth, rtol=1e-6, atol=1e-12)
    telling = ~_seen_elsewhere(train, j, truth)
    return Returned(len(i), int(equal.sum()), int(telling.sum()), int((equal & telling).sum()))


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
