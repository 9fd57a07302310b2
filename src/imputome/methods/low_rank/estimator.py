"""What the two low-rank methods share: z-scores, a setting chosen on hidden entries, and the model of new rows.

Letters: ``Z`` the (n, G) z-scores with NaN, ``V`` (G, r) orthonormal columns, ``p`` (r,) penalties.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import scipy.linalg as la

from imputome.methods.base import Data, Imputer, Model, Status
from imputome.methods.factors import SMALL, DenseOperator, LowRank, few_threads
from imputome.preprocessing.holdout import hide_values
from imputome.preprocessing.standardize import Standard

LATENT = 50  # leading columns of the row factors that are given as the latent representation
# how a setting is chosen, see `choose`
HIDDEN = 0.1
ROWS = 200
INCOMPLETE = 0.05  # share of rows with missing entries from which on these are what the choice is about
FOLDS = 5
ENOUGH = 20_000
PATIENCE = 3
PIECE = 2**22  # values of a block of rows (16 MiB in float32)


@dataclass
class Factors:
    """Z is about ``left V'``, and a new row z is about ``V a``, a minimising |z - V a|^2 + sum p a^2 where z is known.

    ``history`` holds one row per round, or per setting on the way to the last one.
    """

    left: np.ndarray
    right: np.ndarray
    penalty: np.ndarray
    status: Status = field(default_factory=Status)
    history: dict[str, list[float]] = field(default_factory=dict)


class LowRankImputer(Imputer):
    """Base of the low-rank methods: a subclass writes `_learn`.

    Attributes
    ----------
    components_ : (G, r) orthonormal columns V, zero rows for features without a value.
    penalty_ : (r,) p, by which the coefficients of a new row are shrunken.
    """

    random_state: int

    @abstractmethod
    def _learn(self, Z: np.ndarray, rng: np.random.Generator) -> Factors:
        """Factors of (n, G) float32 z-scores with NaN; Z may be overwritten."""

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        X = data.known_values()
        self.standard_ = Standard.of(X)
        with few_threads(min(X.shape) <= SMALL):
            found = self._learn(self.standard_.forward(X), np.random.default_rng(self.random_state))
        self.components_, self.penalty_ = found.right, found.penalty
        result: dict[str, Any] = {"status": found.status, "history": found.history}
        if found.penalty.size:
            result["latent"] = found.left[:, :LATENT].copy()
        return self._model(found.left), result

    def _new_rows(self, data: Data) -> Model:
        Z = self.standard_.forward(data.known_values())
        with few_threads(min(Z.shape) <= SMALL):
            return self._model(regress(Z, self.components_, self.penalty_))

    def _model(self, left: np.ndarray) -> LowRank:
        right = self.components_ * self.standard_.scale[:, None].astype(np.float32)
        return LowRank(left, right, offset=self.standard_.center, floor=None)

    def _state(self) -> dict[str, np.ndarray]:
        return {
            "components": self.components_,
            "penalty": self.penalty_,
            "center": self.standard_.center,
            "scale": self.standard_.scale,
        }

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.components_ = arrays["components"]
        self.penalty_ = arrays["penalty"]
        self.standard_ = Standard(arrays["center"], arrays["scale"])


class Filled:
    """Dense z-scores whose missing entries, 0 (the mean of the feature) at first, are filled again and again.

    Attributes
    ----------
    W : the filled matrix as an operator; it takes over the array it is given.
    complete : nothing is missing, so that nothing will change.
    """

    def __init__(self, Z: np.ndarray) -> None:
        self._missing = np.isnan(Z)
        self._fill = np.zeros(np.count_nonzero(self._missing), Z.dtype)
        np.copyto(Z, 0, where=self._missing)
        self.W = DenseOperator(Z)
        self.complete = not len(self._fill)

    def restart(self) -> None:
        """Back to the means."""
        self._fill[:] = 0
        np.copyto(self.W.array, 0, where=self._missing)

    def update(self, left: np.ndarray, right: np.ndarray, momentum: float = 0.0) -> float:
        """Fill in ``left right'``; return |new - old|^2 / |new|^2 over the missing entries.

        With ``momentum`` b, new + b (new - old) is filled in, and the change is still that of the fit.
        """
        change, size, start = 0.0, 0.0, 0
        step = max(1, PIECE // len(right))
        for first in range(0, len(left), step):
            rows = slice(first, first + step)
            missing = self._missing[rows]
            new = (left[rows] @ right.T)[missing]
            old = self._fill[start : start + len(new)]
            gap = new - old
            change += float(np.sum(gap * gap, dtype=np.float64))
            size += float(np.sum(new * new, dtype=np.float64))
            old[:] = new
            self.W.array[rows][missing] = new + new.dtype.type(momentum) * gap
            start += len(new)
        return change / size if size > 0 else change


def regress(Z: np.ndarray, V: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """(m, r) coefficients a of each row z: argmin |z - V a|^2 + sum p a^2 over its known entries.

    V has orthonormal columns, so that V_o'V_o of the known entries is I - V_m'V_m of the missing ones, and the
    coefficients solve (D - V_m'V_m) a = V_o'z_o with D = 1 + p: directly, or through the matrix I - V_m D^-1 V_m' where
    fewer entries are missing than there are factors. Cost per row: ``2 r s max(r, s)`` flops or less, and the
    triangular factor of the smaller matrix, s being the smaller of the numbers of known and missing entries.

    Parameters
    ----------
    Z : (m, G) float32 with NaN; a row without a known entry gets zeros.
    penalty : (r,) positive.
    """
    r = V.shape[1]
    out = np.zeros((len(Z), r), np.float32)
    shrink = 1 / np.sqrt(1 + penalty)  # D^-1/2
    for row, z in enumerate(Z):
        missing = np.isnan(z)
        known = ~missing
        target = shrink * (V[known].T @ z[known])  # (r,)
        number = int(missing.sum())
        if number <= min(r, len(z) - number):
            F = V[missing] * shrink.astype(V.dtype)  # (number, r)
            inner = np.eye(number) - F @ F.T
            out[row] = shrink * (target + F.T @ _solve(inner, F @ target))
        else:
            few = missing if 2 * number < len(z) else known
            gram = (V[few].T @ V[few]).astype(np.float64)  # (r, r)
            gram = np.diag(1 + penalty) - gram if few is missing else np.diag(penalty) + gram
            gram *= shrink[:, None] * shrink
            out[row] = shrink * _solve(gram, target)
    return out


def _solve(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    return la.solve(matrix, target, assume_a="pos", check_finite=False, overwrite_a=True) if len(target) else target


@dataclass(frozen=True)
class Choice:
    """The setting with the lowest error on held-out entries: its position, and the RMSE of all that were tried."""

    position: int
    rmse: list[float]


def choose(
    Z: np.ndarray,
    path: Callable[[np.ndarray], Iterator[Factors]],
    rng: np.random.Generator,
    tell: Callable[[float, str], None],
) -> Choice:
    """Choose among the settings of a path by the error at known entries that were hidden.

    A tenth of what is known in up to 200 rows is hidden. Where training rows have missing entries these are such rows,
    and stay in the fit. Where (nearly) none has any, the choice is about new rows: a fifth of the rows is left out of
    the fit, and the hidden entries are predicted as those of new rows are. Repeated on other entries, five times at
    most, until 20,000 have been scored.

    Parameters
    ----------
    path : fits of the rows it is given, one for each setting, from the simplest one on; it is left when three settings
        in a row were no better.
    tell : is told the share of the entries scored, and where it stands, after every fit.
    """
    known = ~np.isnan(Z)
    incomplete = np.flatnonzero(known.any(axis=1) & ~known[:, known.any(axis=0)].all(axis=1))
    stay = len(incomplete) >= INCOMPLETE * len(Z)
    folds = np.array_split(rng.permutation(len(Z)), min(FOLDS, len(Z)))
    squares: list[float] = []
    scored = 0
    for fold in folds:
        rows = rng.permutation(incomplete)[:ROWS] if stay else fold[:ROWS]
        share = max(HIDDEN, 1 / max(1, int(known[rows].sum())))
        hidden, i, j, truth = hide_values(Z[rows], share, rng)
        if stay:
            seen = Z.copy()
            seen[rows] = hidden
        else:
            seen = np.delete(Z, fold, axis=0)
        errors: list[float] = []
        for found in islice(path(seen), len(squares) or None):
            left = found.left[rows] if stay else regress(hidden, found.right, found.penalty)
            gap = LowRank(left, found.right, floor=None).at(i, j) - truth
            errors.append(float(np.sum(gap * gap, dtype=np.float64)))
            tell(min(1.0, scored / ENOUGH), f"setting {len(errors)}, after {scored:,} hidden entries")
            if not squares and len(errors) - 1 - int(np.argmin(errors)) >= PATIENCE:
                break
        squares = [a + b for a, b in zip(squares, errors, strict=False)] if squares else errors
        scored += len(i)
        if scored >= ENOUGH:
            break
    return Choice(int(np.argmin(squares)), [float(np.sqrt(s / max(1, scored))) for s in squares])
