"""The ``soft_impute`` method: matrix completion by soft-thresholded singular values, along a path of thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from imputome.errors import InputError
from imputome.methods.base import Status
from imputome.methods.factors import LowRankPlusSparse, Triplets, WarmSVD, _split_residual
from imputome.methods.low_rank.estimator import Factors, Filled, LowRankImputer, choose

STEPS = tuple(0.8**step for step in range(1, 36))  # lambda over the largest singular value, along the path
SPARSE_SHARE = 0.1  # products with known entries alone pay below this share


class SoftImpute(LowRankImputer):
    """Nuclear-norm regularised completion of the z-scores (Mazumder, Hastie & Tibshirani 2010).

    Minimises ``1/2 |P(X - Z)|_F^2 + lam |Z|_*`` over Z, P being the projection on the known entries: missing entries
    are filled with the fit and singular values lowered by lam, until nothing changes, for a falling sequence of lam
    that each start from the solution before.

    A new row z is fitted with the training rows' V fixed. As |Z|_* is the least value of (|A|^2 + |B|^2) / 2 over
    Z = A B', reached at A = U sqrt(D), B = V sqrt(D) with D the lowered singular values, a row of A minimises
    |z - B a|^2 + lam |a|^2 where z is known: in units of V, a ridge of strength lam / D_c for component c. Training
    rows refitted this way come back as they were.

    Parameters
    ----------
    lam : threshold, in units of the singular values of the z-scores (it grows with the square root of the number of
        rows); None chooses it on hidden entries (`imputome.methods.low_rank.estimator.choose`).
    tol : stop when the relative change of the fit at missing entries (known ones, where few are known) is below it.
    max_iter : iterations for each lam at most.

    Attributes
    ----------
    lam_ : threshold in use.
    components_, penalty_ : as in `LowRankImputer`.

    Notes
    -----
    Cost per iteration: about ``8 n G r`` flops, or ``2 n^2 G + 9 n^3`` (n the smaller side) where r is over a quarter
    of it; complete training rows take one decomposition for the whole path. Memory: ``4 n G`` bytes and a mask, and as
    much again while lam is chosen.
    """

    name = "soft_impute"
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"lam": (1.0, 100.0, "log")}

    def __init__(
        self, *, lam: float | None = None, tol: float = 2e-3, max_iter: int = 200, random_state: int = 0
    ) -> None:
        self.lam = lam
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _learn(self, Z: np.ndarray, rng: np.random.Generator) -> Factors:
        if self.lam is not None and not self.lam > 0:
            raise InputError(f"soft_impute: lam={self.lam!r} must be positive")
        if self.max_iter < 1 or not self.tol > 0:
            raise InputError("soft_impute: max_iter must be at least 1, and tol positive")

        def path(rest: np.ndarray, last: int = len(STEPS)) -> Iterator[Factors]:
            steps = _Path(rest, rng, tol=self.tol, max_iter=self.max_iter)
            return steps.fit(steps.largest * share for share in STEPS[:last])

        details: dict[str, Any] = {}
        if self.lam is None:
            choice = choose(Z, path, rng, self._tell)
            details["held_out_rmse"] = min(choice.rmse)
        steps = _Path(Z, rng, tol=self.tol, max_iter=self.max_iter)
        if self.lam is None:
            self.lam_ = steps.largest * STEPS[choice.position]
        else:
            self.lam_ = self.lam
        before = (steps.largest * share for share in STEPS if steps.largest * share > 1.01 * self.lam_)
        history: dict[str, list[float]] = {"lam": [], "rank": [], "iterations": [], "change": []}
        for found in steps.fit([*([] if steps.complete else before), self.lam_]):
            for name in history:
                history[name] += found.history[name]
        details |= {"lam": self.lam_, "rank": len(found.penalty), "iterations": int(sum(history["iterations"]))}
        settled = history["change"][-1] < self.tol**2
        message = f"lambda {self.lam_:.3g}, rank {details['rank']}, {details['iterations']} iterations"
        if not settled:
            message += f", tol={self.tol:g} not reached"
        found.status = Status("converged" if settled else "max_iter", message, details)
        found.history = history
        return found

    def _state(self) -> dict[str, np.ndarray]:
        return {**super()._state(), "lam": np.array(self.lam_)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.lam_ = float(arrays["lam"])


class _Path:
    """Solutions for a falling sequence of lambda, each from the one before.

    Parameters
    ----------
    Z : (n, G) float32 with NaN, overwritten.
    """

    def __init__(self, Z: np.ndarray, rng: np.random.Generator, *, tol: float, max_iter: int) -> None:
        self._tol = tol
        self._max_iter = max_iter
        known = np.count_nonzero(~np.isnan(Z)) / Z.size
        self._problem: Filled | _KnownPart = _KnownPart(Z) if known < SPARSE_SHARE else Filled(Z)
        self.complete = self._problem.complete
        self._svd = WarmSVD(rng, passes=2, method="gram" if self.complete else "auto")
        first = self._svd.top(self._problem.W, min(Z.shape) if self.complete else 1)
        self._exact = first if self.complete else None
        self.largest = float(first.s[0])
        self._width = 5

    def fit(self, lams: Iterable[float]) -> Iterator[Factors]:
        for lam in lams:
            turn, last, pace = 0, np.inf, 1.0
            while True:
                turn += 1
                left, right, penalty = self._shrink(lam)
                # Nesterov's sequence, from its start again where the fit has begun to swing
                ahead = (1 + np.sqrt(1 + 4 * pace * pace)) / 2
                change = self._problem.update(left, right, momentum=(pace - 1) / ahead)
                pace = 1.0 if change > last else ahead
                last = change
                if change < self._tol**2 or turn >= self._max_iter:
                    break
            figures = {"lam": lam, "rank": len(penalty), "iterations": turn, "change": change}
            yield Factors(left, right, penalty, history={name: [float(value)] for name, value in figures.items()})

    def _shrink(self, lam: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U D, V and lam / D, D the singular values of W above lam, less lam."""
        triplets = self._exact or self._above(lam)
        rank = int((triplets.s > max(lam, 1e-5 * self.largest)).sum())
        self._width = rank + 5 + rank // 4
        kept = triplets.s[:rank] - lam
        u, right = triplets.vectors(rank)
        return u * kept.astype(u.dtype), np.ascontiguousarray(right), lam / kept

    def _above(self, lam: float) -> Triplets:
        W = self._problem.W
        while True:
            triplets = self._svd.top(W, self._width)
            if triplets.s[-1] <= lam or self._width >= min(W.shape):
                return triplets
            self._width *= 2


class _KnownPart:
    """The filled matrix as low rank plus sparse, for data of which little is known; used as `Filled` is."""

    complete = False

    def __init__(self, Z: np.ndarray) -> None:
        pattern = sp.csr_array(~np.isnan(Z))
        self._known = Z[pattern.nonzero()]
        self._rest = self._known  # known values less the fit
        self._left = np.zeros((len(Z), 0), Z.dtype)
        self._right = np.zeros((Z.shape[1], 0), Z.dtype)
        self.W = LowRankPlusSparse(pattern, Z.dtype)
        self.W.values = self._known

    def update(self, left: np.ndarray, right: np.ndarray, momentum: float = 0.0) -> float:
        """As `Filled.update`, but the change is that over the known entries."""
        W = self.W
        rest = np.empty_like(self._known)
        _split_residual(W.indptr, W.indices, self._known, self._known, rest, left, right, W.dtype.type(1), False)
        step, size = rest - self._rest, self._known - rest
        b = W.dtype.type(momentum)
        W.values = rest + b * step
        W.left, W.right = left, right
        if b:
            W.left = np.hstack([left * (1 + b), self._left * -b])
            W.right = np.hstack([right, self._right])
        self._rest, self._left, self._right = rest, left, right
        total = float(np.sum(size * size, dtype=np.float64))
        change = float(np.sum(step * step, dtype=np.float64))
        return change / total if total > 0 else change
