"""What the two low-rank methods share: z-scores, a setting chosen on hidden entries, and the model of new rows.

Letters: ``Z`` the (n, G) z-scores with NaN, ``V`` (G, r) orthonormal columns, ``p`` (r,) penalties.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from imputome.core.data import Data
from imputome.core.holdout import hide_values
from imputome.core.imputation import Model, Status
from imputome.core.imputer import Imputer
from imputome.core.scales import Standard
from imputome.errors import InputError
from imputome.methods.factors import (
    SMALL,
    DenseOperator,
    LowRank,
    LowRankPlusSparse,
    Triplets,
    WarmSVD,
    _split_residual,
    few_threads,
)
from imputome.methods.low_rank import SOFT_IMPUTE_INFO, SVD_INFO

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


GRID = (1, 2, 3, 5, 7, 10, 14, 20, 30, 45, 60, 80, 100, 130, 170, 230, 300)  # ranks tried
RIDGE = (
    0.03  # of new rows: RMSE within 0.2 % of the best one for each rank up to 100 (TCGA), and full rank stays usable
)


class IterativeSVD(LowRankImputer):
    """Truncated SVD of the z-scores, its missing entries filled with their fit (SVDimpute: Troyanskaya et al. 2001).

    The first round has rank 1, each next one twice that of the last, up to ``rank``. A new row is regressed on the
    right singular vectors of the training rows, with a ridge of 0.03 (which repeating the fill until it settles would
    give without one); a row without known entries gets the means of the features.

    Parameters
    ----------
    rank : number of singular vectors, at most what the matrix has (then nothing is smoothed away: the paper's full
        rank); ``"validated"`` or None: chosen among up to 17 ranks from 1 to 300 on hidden entries
        (`imputome.methods.low_rank.estimator.choose`).
    tol : stop when the squared change of the missing entries, over their sum of squares, is below it.
    max_iter : rounds at most.

    Attributes
    ----------
    rank_ : rank in use.
    components_, penalty_ : as in `LowRankImputer`.

    Notes
    -----
    Cost per round: about ``8 n G r`` flops, or the eigenvectors of the smaller Gram matrix where r is near full rank;
    without missing entries a single round. Memory: ``4 n G`` bytes and a mask; a choice of the rank takes as much
    again.
    """

    info = SVD_INFO
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (2, 128, "log")}

    def __init__(
        self,
        *,
        rank: int | Literal["validated"] | None = "validated",
        tol: float = 5e-4,
        max_iter: int = 16,
        random_state: int = 0,
    ) -> None:
        self.rank = rank
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _learn(self, Z: np.ndarray, rng: np.random.Generator) -> Factors:
        if self.rank not in (None, "validated") and not (isinstance(self.rank, int) and self.rank >= 1):
            raise InputError(f"svd: rank={self.rank!r} is neither a positive integer nor 'validated'")
        if self.max_iter < 1 or not self.tol >= 0:
            raise InputError("svd: max_iter must be at least 1, and tol not negative")
        details: dict[str, Any] = {}
        if isinstance(self.rank, int):
            rank = self.rank
        else:
            choice = choose(Z, lambda rest: self._path(rest, rng), rng, self._tell)
            rank = GRID[choice.position]
            details["held_out_rmse"] = min(choice.rmse)
        found = next(svd_fill(Z, [rank], tol=self.tol, max_iter=self.max_iter, rng=rng))
        self.rank_ = details["rank"] = len(found.penalty)
        details["iterations"] = rounds = len(found.history["rank"])
        settled = found.history["change"][-1] < self.tol
        message = f"rank {self.rank_}, {rounds} rounds" + ("" if settled else f", tol={self.tol:g} not reached")
        found.status = Status("converged" if settled else "max_iter", message, details)
        return found

    def _path(self, Z: np.ndarray, rng: np.random.Generator) -> Iterator[Factors]:
        ranks = [rank for rank in GRID if rank < min(Z.shape)] or [1]
        return svd_fill(Z, ranks, tol=self.tol, max_iter=self.max_iter, rng=rng)

    def _state(self) -> dict[str, np.ndarray]:
        return {**super()._state(), "rank": np.array(self.rank_)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.rank_ = int(arrays["rank"])


def svd_fill(
    Z: np.ndarray, ranks: list[int], *, tol: float, max_iter: int, rng: np.random.Generator
) -> Iterator[Factors]:
    """A fit for each rank, each from the feature means on; ``left`` holds U S.

    Parameters
    ----------
    Z : (n, G) float32 with NaN, overwritten.
    """
    filled = Filled(Z)
    exact = WarmSVD(rng, method="gram").top(filled.W, min(Z.shape)) if filled.complete else None
    for number, target in enumerate(ranks):
        if number and not filled.complete:
            filled.restart()
        svd = WarmSVD(rng, passes=2)
        history: dict[str, list[float]] = {"rank": [], "change": []}
        for turn in range(max_iter):
            rank = target if filled.complete else min(target, 2**turn)
            triplets = exact or svd.top(filled.W, rank)
            # float32 holds nothing below this, and a matrix that is 0 has no singular vectors
            rank = min(rank, int((triplets.s > 1e-5 * triplets.s[0]).sum()))
            u, right = triplets.vectors(rank)
            left = u * triplets.s[:rank].astype(Z.dtype)
            history["rank"].append(rank)
            history["change"].append(filled.update(left, right))
            if history["change"][-1] < tol and (filled.complete or 2**turn >= target):
                break
        right = np.ascontiguousarray(right)
        yield Factors(left, right, np.full(rank, RIDGE), history=history)


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

    info = SOFT_IMPUTE_INFO
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
