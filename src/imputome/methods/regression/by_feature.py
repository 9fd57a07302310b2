"""What the methods share that predict each feature from other features: the regressions, and the model of some rows.

Letters: ``Z`` (n, G) z-scores with NaN for missing, ``F`` (n, G) the same with the missing entries filled, ``k`` number
of features on which a feature is regressed.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Output, Status
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned
from imputome.core.scales import Standard, varying
from imputome.methods.factors import SMALL_SIDE, few_threads

BLOCK_VALUES = 2**22  # values in a block of similarities (32 MiB)
REACH = 1.5  # a prediction is at most this times as far from the mean of its feature as the farthest known value
Similarity = Literal["pearson", "euclidean"]


class Regressions(Protocol):
    """One regression for each feature."""

    def predict(self, F: np.ndarray, rows: np.ndarray, feature: int) -> np.ndarray:
        """(len(rows),) predictions of a feature for some rows of the filled F."""
        ...


@dataclass(frozen=True)
class LinearRegressions:
    """``value = intercept_j + sum_c coefficients_jc F[:, neighbors_jc]``; unused places have the coefficient 0.

    A value is at most ``reach_j`` from 0: a regression on few rows has no limit of its own, and where values are fed
    into each other round after round, they would grow without end.
    """

    neighbors: np.ndarray  # (G, k) int32
    coefficients: np.ndarray  # (G, k)
    intercept: np.ndarray  # (G,)
    reach: np.ndarray  # (G,)

    @classmethod
    def empty(cls, Z: np.ndarray, k: int) -> LinearRegressions:
        """Regressions for (n, G) z-scores whose predictions are all 0, the mean of each feature."""
        G = Z.shape[1]
        reach = REACH * np.abs(np.where(np.isnan(Z), 0.0, Z)).max(axis=0, initial=0.0)
        return cls(np.zeros((G, k), np.int32), np.zeros((G, k)), np.zeros(G), reach)

    def predict(self, F: np.ndarray, rows: np.ndarray, feature: int) -> np.ndarray:
        values = F[rows[:, None], self.neighbors[feature]] @ self.coefficients[feature] + self.intercept[feature]
        return np.asarray(np.clip(values, -self.reach[feature], self.reach[feature]))


def most_similar(Z: np.ndarray, targets: np.ndarray, k: int, similarity: Similarity) -> np.ndarray:
    """(len(targets), k) positions of the features that are most similar to each target, the nearest first.

    Pearson correlation (its size, without its sign) or mean squared difference, over the rows that have both features.
    The target itself and features without two common rows, or constant over them, come last. Cost: ``12 n G T`` flops
    for T targets, from products with the mask; a (T, G) matrix is made in blocks of targets.
    """
    known = (~np.isnan(Z)).astype(np.float64)
    filled = np.where(np.isnan(Z), 0.0, Z)
    squared = filled * filled
    G = Z.shape[1]
    out = np.empty((len(targets), k), np.intp)
    step = max(1, BLOCK_VALUES // G)
    for start in range(0, len(targets), step):
        some = targets[start : start + step]
        count = known[:, some].T @ known  # (step, G)
        cross = filled[:, some].T @ filled
        own, other = filled[:, some].T @ known, known[:, some].T @ filled  # sums over the common rows
        own_squares, other_squares = squared[:, some].T @ known, known[:, some].T @ squared
        size = np.maximum(count, 1)
        if similarity == "pearson":
            variances = (own_squares - own**2 / size) * (other_squares - other**2 / size)
            alike = np.abs(cross - own * other / size) / np.sqrt(np.maximum(variances, 1e-12))
            alike[variances <= 1e-12] = -1.0
        else:
            alike = -np.maximum(own_squares + other_squares - 2 * cross, 0) / size
        alike[count < 2] = -np.inf
        alike[np.arange(len(some)), some] = -np.inf
        out[start : start + step] = np.argsort(-alike, axis=1, kind="stable")[:, :k]
    return out


def swept(Z: np.ndarray, regressions: Regressions, order: np.ndarray, *, rounds: int, tol: float) -> np.ndarray:
    """Z with its missing entries filled by finished regressions, feature after feature, from the means of the features.

    It ends after ``rounds`` or when no entry changes by more than ``tol`` (in standard deviations).
    """
    missing = np.isnan(Z)
    F = np.where(missing, 0.0, Z)
    for _ in range(rounds):
        change = 0.0
        for j in order:
            rows = np.flatnonzero(missing[:, j])
            if len(rows):
                values = regressions.predict(F, rows, int(j))
                change = max(change, float(np.abs(values - F[rows, j]).max()))
                F[rows, j] = values
        if change <= tol:
            break
    return F


class RegressedRows:
    """A `Model` of some rows: the fill for missing entries, the regression for the others."""

    outputs: frozenset[Output] = frozenset({"value"})

    def __init__(self, F: np.ndarray, missing: np.ndarray, regressions: Regressions, standard: Standard) -> None:
        self.F, self.missing, self.regressions, self.standard = F, missing, regressions, standard

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        columns = np.arange(self.F.shape[1]) if genes is None else np.asarray(genes, dtype=np.intp)
        out = np.empty((len(rows), len(columns)))
        for position, j in enumerate(columns):
            out[:, position] = self._values(rows, int(j))
        return out

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        out = np.empty(len(i))
        order = np.argsort(j, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(j[order])) + 1):
            if len(part):
                out[part] = self._values(i[part], int(j[part[0]]))
        return out

    def _values(self, rows: np.ndarray, j: int) -> np.ndarray:
        values = self.F[rows, j].copy()
        known = ~self.missing[rows, j]
        if known.any():
            values[known] = self.regressions.predict(self.F, rows[known], j)
        return np.asarray(self.standard.center[j] + self.standard.scale[j] * values)


class RegressionImputer(Imputer):
    """Base of the three methods; a subclass defines `_learn` and the saved form of its regressions."""

    stored: ClassVar[dict[str, Learned]] = {
        "center": Learned("G"),
        "scale": Learned("G", values="positive"),
        "order": Learned("G", "int", below="G"),
        "neighbors": Learned("G k", "int", below="G"),
        "coefficients": Learned("G k"),
        "intercept": Learned("G"),
        "reach": Learned("G", values="not negative"),
    }
    rounds = 10  # largest number of sweeps over a new row
    tol_new_rows = 1e-3

    @abstractmethod
    def _learn(self, Z: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, Regressions, Status]:
        """Fill (n, G) float64 z-scores; regressions of the features ``used`` (positions of those that vary).

        The first of ``order_`` are these features, those with the fewest missing entries first.
        """

    def _fit(self, data: Data) -> tuple[RegressedRows, dict[str, Any]]:
        X = data.known_values()
        self.standard_ = Standard.of(X)
        Z = self.standard_.forward(X)
        used = np.flatnonzero(varying(Z))
        missing = np.isnan(Z)
        Z = Z.astype(np.float64)
        # features with as many missing entries are in the order of their means, not of their places
        order = used[np.lexsort((self.standard_.center[used], missing[:, used].sum(axis=0)))]
        self.order_ = np.concatenate([order, np.setdiff1d(np.arange(Z.shape[1]), used)])
        with few_threads(min(Z.shape) <= SMALL_SIDE):
            F, self.regressions_, status = self._learn(Z, used)
        return RegressedRows(F, missing, self.regressions_, self.standard_), {"status": status}

    def _new_rows(self, data: Data) -> RegressedRows:
        Z = self.standard_.forward(data.known_values()).astype(np.float64)
        with few_threads(min(Z.shape) <= SMALL_SIDE):
            F = swept(Z, self.regressions_, self.order_, rounds=self.rounds, tol=self.tol_new_rows)
        return RegressedRows(F, np.isnan(Z), self.regressions_, self.standard_)

    regressions_: Any

    def _state(self) -> dict[str, np.ndarray]:
        return {
            "center": self.standard_.center,
            "scale": self.standard_.scale,
            "order": self.order_,
            **vars(self.regressions_),
        }

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.standard_, self.order_ = Standard(arrays["center"], arrays["scale"]), arrays["order"]
        self.regressions_ = self._regressions_from(arrays)

    def _regressions_from(self, arrays: dict[str, np.ndarray]) -> Regressions:
        """The regressions from their saved arrays."""
        return LinearRegressions(*(arrays[each.name] for each in fields(LinearRegressions)))
