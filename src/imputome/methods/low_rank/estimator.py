"""The ``svd`` and ``soft_impute`` methods: low-rank fits of z-scores; hidden entries choose the rank or penalty.

Both fit the training rows, then predict a new row by a ridge regression on the columns V of the fit.

Letters: ``Z`` the (n, G) z-scores with NaN for missing, ``V`` (G, r) orthonormal columns, ``p`` (r,) penalties.
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

from imputome.core.data import WIDE_FEATURES, Data
from imputome.core.holdout import hide_values
from imputome.core.imputation import Model, Status
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned, damaged
from imputome.core.scales import Standard
from imputome.methods.factors import (
    LATENT_COLUMNS,
    SMALL_SIDE,
    DenseOperator,
    LowRank,
    LowRankPlusSparse,
    Triplets,
    WarmSVD,
    few_threads,
    split_residual,
)
from imputome.methods.low_rank import SOFT_IMPUTE_INFO, SVD_INFO

ROW_BLOCK_VALUES = 2**22  # values in a block of rows (16 MiB in float32)
LEAST_ROWS = 8  # of a block: the factors of all features are read for each block
SMALLEST_SINGULAR_VALUE = 1e-5  # relative to the largest one; float32 has no digits below it

# how a setting is chosen, see `choose`
HIDDEN_SHARE = 0.1  # of the known entries of a row
MAX_SCORED_ROWS = 200  # per fold
INCOMPLETE_SHARE = 0.05  # with fewer incomplete rows than this, entries of new rows are scored instead
MAX_FOLDS = 5
ENOUGH_SCORED_ENTRIES = 20_000
CHOICE_FEATURES = 8192  # of a table with more than `WIDE_FEATURES`, a sample that the setting is chosen on
PATIENCE_SETTINGS = 3  # the path ends after this many settings without a lower error

# svd
RANKS = (1, 2, 3, 5, 7, 10, 14, 20, 30, 45, 60, 80, 100, 130, 170, 230, 300)
# on TCGA, RMSE is within 0.2 % of that of the best ridge for each rank up to 100, and full rank stays usable
NEW_ROW_RIDGE = 0.03

# svd with preset="paper": the stopping rule of the published code of paper 003
PAPER_TOL = 5e-4
PAPER_ITERATIONS = 16

# soft_impute
LAMBDA_SHARES = tuple(0.8**step for step in range(1, 36))  # lambdas of the path, relative to the largest singular value
WIDE_PACE = 5  # a wide table is fitted for every fifth of them: a third of the iterations, and the same error
SPARSE_SHARE = 0.1  # if less is known, products with the known entries only are faster


@dataclass
class LowRankFit:
    """A fit of Z by ``left V'``. A new row z is predicted by ``V a``, with a from `regress`."""

    left: np.ndarray  # (n, r) float32, factors of the training rows
    right: np.ndarray  # (G, r) float32, V
    penalty: np.ndarray  # (r,) p
    status: Status = field(default_factory=Status)
    # one value per iteration (svd), or per lambda (soft_impute)
    history: dict[str, list[float]] = field(default_factory=dict)


# -- the filled matrix ------------------------------------------------------------------------------------------------
class FilledMatrix:
    """Dense z-scores (overwritten) whose missing entries are filled again in each iteration, at first with 0."""

    def __init__(self, Z: np.ndarray) -> None:
        self._missing = np.isnan(Z)
        self._fill = np.zeros(np.count_nonzero(self._missing), Z.dtype)
        self.W = DenseOperator(Z)
        self.restart()
        self.complete = not len(self._fill)  # nothing is missing, so the matrix never changes

    def restart(self) -> None:
        """Fill with 0 again."""
        self._fill[:] = 0
        np.copyto(self.W.array, 0, where=self._missing)

    def update(self, left: np.ndarray, right: np.ndarray, momentum: float = 0.0) -> float:
        """Fill with ``left right'`` and return |new - old|^2 / |new|^2 over the missing entries.

        With ``momentum`` b the fill is new + b (new - old); the returned change does not include b.
        """
        change, size, start = 0.0, 0.0, 0
        step = max(LEAST_ROWS, ROW_BLOCK_VALUES // len(right))
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


class SparseFilledMatrix:
    """The same as `FilledMatrix`, stored as low rank plus sparse, for data with few known values."""

    complete = False

    def __init__(self, Z: np.ndarray) -> None:
        pattern = sp.csr_array(~np.isnan(Z))
        self._known = Z[pattern.nonzero()]
        self._residual = self._known  # known values minus the fit
        self._left, self._right = (np.zeros((size, 0), Z.dtype) for size in Z.shape)
        self.W = LowRankPlusSparse(pattern, Z.dtype)
        self.W.values = self._known

    def update(self, left: np.ndarray, right: np.ndarray, momentum: float = 0.0) -> float:
        """As `FilledMatrix.update`, but return the change over the known entries."""
        W = self.W
        residual = np.empty_like(self._known)
        split_residual(W.indptr, W.indices, self._known, self._known, residual, left, right, W.dtype.type(1), False)
        step, fit = residual - self._residual, self._known - residual
        b = W.dtype.type(momentum)
        W.values = residual + b * step
        W.left, W.right = left, right
        if b:
            W.left = np.hstack([left * (1 + b), self._left * -b])
            W.right = np.hstack([right, self._right])
        self._residual, self._left, self._right = residual, left, right
        size = float(np.sum(fit * fit, dtype=np.float64))
        change = float(np.sum(step * step, dtype=np.float64))
        return change / size if size > 0 else change


# -- new rows ---------------------------------------------------------------------------------------------------------
def regress(Z: np.ndarray, V: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Coefficients of each row z on V: argmin_a |z - V a|^2 + sum p a^2 over the known entries of z.

    V, (G, r), has orthonormal columns, so V_o'V_o of the known entries is I - V_m'V_m of the missing ones, and the
    coefficients solve (D - V_m'V_m) a = V_o'z_o with D = 1 + p. This is solved directly, or through the matrix I - V_m
    D^-1 V_m' if fewer entries are missing than there are factors. Cost per row: at most ``2 r s max(r, s)`` flops plus
    the Cholesky factor of the smaller matrix, where s is the smaller of the numbers of known and missing entries.

    Z is (m, G) float32 with NaN, the result (m, r) float32; a row without a known entry gets zeros.
    """
    r = V.shape[1]
    out = np.zeros((len(Z), r), np.float32)
    shrink = 1 / np.sqrt(1 + penalty)  # D^-1/2
    for row, z in enumerate(Z):
        missing = np.isnan(z)
        known = ~missing
        target = shrink * (V[known].T @ z[known])  # (r,)
        n_missing = int(missing.sum())
        if n_missing <= min(r, len(z) - n_missing):
            F = V[missing] * shrink.astype(V.dtype)  # (n_missing, r)
            inner = np.eye(n_missing) - F @ F.T
            out[row] = shrink * (target + F.T @ _solve(inner, F @ target))
        else:
            fewer = missing if 2 * n_missing < len(z) else known
            gram = (V[fewer].T @ V[fewer]).astype(np.float64)  # (r, r)
            gram = np.diag(1 + penalty) - gram if fewer is missing else np.diag(penalty) + gram
            gram *= shrink[:, None] * shrink
            out[row] = shrink * _solve(gram, target)
    return out


def _solve(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    return la.solve(matrix, target, assume_a="pos", check_finite=False, overwrite_a=True) if len(target) else target


# -- the choice of a setting ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Choice:
    """The setting with the lowest error on hidden entries."""

    position: int  # on the path
    rmse: list[float]  # root mean squared errors of all settings that were tried


def choose(
    Z: np.ndarray,
    path: Callable[[np.ndarray], Iterator[LowRankFit]],
    rng: np.random.Generator,
    progress: Callable[[float, str], None],
) -> Choice:
    """Choose one of the settings of a path by the error on known entries that were hidden.

    A tenth of the known entries of up to 200 rows is hidden. If training rows have missing entries, such rows are used,
    and they stay in the fit. If (nearly) no row has any, the setting is chosen for new rows: a fifth of the rows is
    left out of the fit, and their hidden entries are predicted like those of new rows. This is repeated, at most five
    times, until 20,000 entries have been scored.

    ``path`` yields a fit of the rows it gets for each setting, the simplest one first. It is stopped after three
    settings without a lower error. ``progress`` is called after each fit with the share of entries scored.
    """
    known = ~np.isnan(Z)
    incomplete = np.flatnonzero(known.any(axis=1) & ~known[:, known.any(axis=0)].all(axis=1))
    rows_stay = len(incomplete) >= INCOMPLETE_SHARE * len(Z)
    squares: list[float] = []
    n_scored = 0
    for fold in np.array_split(rng.permutation(len(Z)), min(MAX_FOLDS, len(Z))):
        rows = rng.permutation(incomplete)[:MAX_SCORED_ROWS] if rows_stay else fold[:MAX_SCORED_ROWS]
        share = max(HIDDEN_SHARE, 1 / max(1, int(known[rows].sum())))
        hidden, i, j, truth = hide_values(Z[rows], share, rng)
        if rows_stay:
            training = Z.copy()
            training[rows] = hidden
        else:
            training = np.delete(Z, fold, axis=0)
        errors: list[float] = []
        for fit in islice(path(training), len(squares) or None):
            left = fit.left[rows] if rows_stay else regress(hidden, fit.right, fit.penalty)
            gap = LowRank(left, fit.right, floor=None).at(i, j) - truth
            errors.append(float(np.sum(gap * gap, dtype=np.float64)))
            share = min(1.0, n_scored / ENOUGH_SCORED_ENTRIES)
            progress(share, f"setting {len(errors)}, after {n_scored:,} hidden entries")
            if not squares and len(errors) - 1 - int(np.argmin(errors)) >= PATIENCE_SETTINGS:
                break
        squares = [a + b for a, b in zip(squares, errors, strict=False)] if squares else errors
        n_scored += len(i)
        if n_scored >= ENOUGH_SCORED_ENTRIES:
            break
    return Choice(int(np.argmin(squares)), [float(np.sqrt(s / max(1, n_scored))) for s in squares])


def some_features(Z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The features that the setting is chosen on: all, or of a wide table `CHOICE_FEATURES` drawn at random."""
    if Z.shape[1] <= WIDE_FEATURES:
        return Z
    return Z[:, np.sort(rng.choice(Z.shape[1], CHOICE_FEATURES, replace=False))]


class Momentum:
    """Nesterov's sequence; it starts again when the change grows, because the fit then oscillates."""

    def __init__(self) -> None:
        self._pace, self._change = 1.0, np.inf

    @property
    def weight(self) -> float:
        """Weight of the last step in the next one."""
        return (self._pace - 1) / self._next

    @property
    def _next(self) -> float:
        return float(1 + np.sqrt(1 + 4 * self._pace**2)) / 2

    def step(self, change: float) -> None:
        """Go on, after the fit has changed by ``change``."""
        self._pace = 1.0 if change > self._change else self._next
        self._change = change


# -- the solvers ------------------------------------------------------------------------------------------------------
def svd_fill(
    Z: np.ndarray, ranks: Iterable[int], *, tol: float, max_iter: int, rng: np.random.Generator, plain: bool = False
) -> Iterator[LowRankFit]:
    """A fit of z-scores (overwritten) for each rank, by SVDimpute from the feature means; ``left`` is U S.

    ``plain`` is the published iteration: exact singular vectors, no step beyond the fit, and an end at any rank.
    """
    filled = FilledMatrix(Z)
    exact = WarmSVD(rng, method="gram").top(filled.W, min(Z.shape)) if filled.complete else None
    for position, full_rank in enumerate(ranks):
        if position and not filled.complete:
            filled.restart()
        svd = WarmSVD(rng, passes=2, method="gram" if plain else "auto")
        history: dict[str, list[float]] = {"rank": [], "change": []}
        momentum = Momentum()
        for iteration in range(max_iter):
            rank = full_rank if filled.complete else min(full_rank, 2**iteration)
            triplets = exact or svd.top(filled.W, rank)
            # a matrix that is 0 has no singular vectors
            rank = min(rank, int((triplets.s > SMALLEST_SINGULAR_VALUE * triplets.s[0]).sum()))
            u, right = triplets.vectors(rank)
            left = u * triplets.s[:rank].astype(Z.dtype)
            history["rank"].append(rank)
            history["change"].append(filled.update(left, right, momentum=0.0 if plain else momentum.weight))
            momentum.step(history["change"][-1])
            if history["change"][-1] < tol and (filled.complete or plain or 2**iteration >= full_rank):
                break
        right = np.ascontiguousarray(right)
        yield LowRankFit(left, right, np.full(rank, NEW_ROW_RIDGE), history=history)


class SoftImputePath:
    """Soft-impute solutions for decreasing lambda; each starts from the previous one. Z is overwritten."""

    def __init__(self, Z: np.ndarray, rng: np.random.Generator, *, tol: float, max_iter: int) -> None:
        self._tol, self._max_iter = tol, max_iter
        known = np.count_nonzero(~np.isnan(Z)) / Z.size
        self._filled = SparseFilledMatrix(Z) if known < SPARSE_SHARE else FilledMatrix(Z)
        self.complete = self._filled.complete
        self._svd = WarmSVD(rng, passes=2, method="gram" if self.complete else "auto")
        first = self._svd.top(self._filled.W, min(Z.shape) if self.complete else 1)
        self._exact = first if self.complete else None
        self.largest = float(first.s[0])  # singular value of Z with missing entries filled with 0
        self._width = 5

    def fit(self, lams: Iterable[float]) -> Iterator[LowRankFit]:
        """A fit for each lambda."""
        for lam in lams:
            iteration, momentum = 0, Momentum()
            while True:
                iteration += 1
                left, right, penalty = self._shrink(lam)
                change = self._filled.update(left, right, momentum=momentum.weight)
                momentum.step(change)
                if change < self._tol**2 or iteration >= self._max_iter:
                    break
            record = {"lam": lam, "rank": len(penalty), "iterations": iteration, "change": change}
            yield LowRankFit(left, right, penalty, history={name: [float(value)] for name, value in record.items()})

    def _shrink(self, lam: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U D, V and lam / D, where D are the singular values of W above lam, minus lam."""
        triplets = self._exact or self._above(lam)
        rank = int((triplets.s > max(lam, SMALLEST_SINGULAR_VALUE * self.largest)).sum())
        self._width = rank + 5 + rank // 4
        shrunken = triplets.s[:rank] - lam
        u, right = triplets.vectors(rank)
        return u * shrunken.astype(u.dtype), np.ascontiguousarray(right), lam / shrunken

    def _above(self, lam: float) -> Triplets:
        """All singular triplets above lam."""
        W = self._filled.W
        while True:
            triplets = self._svd.top(W, self._width)
            if triplets.s[-1] <= lam or self._width >= min(W.shape):
                return triplets
            self._width *= 2


# -- the estimators ---------------------------------------------------------------------------------------------------
class LowRankImputer(Imputer):
    """Base of the two methods; a subclass defines `_learn`."""

    random_state: int
    learned: ClassVar[dict[str, Learned]] = {
        "components": Learned("G r"),
        "penalty": Learned("r", values="positive"),
        "center": Learned("G"),
        "scale": Learned("G", values="positive"),
    }

    @abstractmethod
    def _learn(self, Z: np.ndarray, rng: np.random.Generator) -> LowRankFit:
        """A fit of (n, G) float32 z-scores with NaN; Z may be overwritten."""

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        X = data.known_values()
        standard = Standard.of(X)
        self.center_, self.scale_ = standard.center, standard.scale
        with few_threads(min(X.shape) <= SMALL_SIDE):
            fit = self._learn(standard.forward(X), np.random.default_rng(self.random_state))
        self.components_, self.penalty_ = fit.right, fit.penalty
        result: dict[str, Any] = {"status": fit.status, "history": fit.history}
        if fit.penalty.size:
            result["latent"] = fit.left[:, :LATENT_COLUMNS].copy()
        return self._model(fit.left), result

    def _new_rows(self, data: Data) -> Model:
        Z = Standard(self.center_, self.scale_).forward(data.known_values())
        with few_threads(min(Z.shape) <= SMALL_SIDE):
            return self._model(regress(Z, self.components_, self.penalty_))

    def _model(self, left: np.ndarray) -> LowRank:
        right = self.components_ * self.scale_[:, None].astype(np.float32)
        return LowRank(left, right, offset=self.center_, floor=None)

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        products = self.components_.T @ self.components_
        if not np.allclose(products, np.eye(len(products)), atol=0.01):  # `regress` relies on it
            raise damaged("the columns of the array 'components' are not orthonormal", code="model-array-values")


class IterativeSVD(LowRankImputer):
    """Truncated SVD of the z-scores; missing entries are filled with its fit (SVDimpute: Troyanskaya et al. 2001).

    The first iteration has rank 1, and the rank doubles up to ``rank``. A new row is regressed on the right singular
    vectors of the training rows, with a ridge of 0.03 (repeating the fill until it converges would give the regression
    without a ridge). A row without known entries gets the means of the features.

    Parameters
    ----------
    rank : int, "validated", "full" or None, default="validated"
        Number of singular vectors, at most the number the matrix has; ``"full"`` takes all of them. ``"validated"``
        chooses among up to 17 ranks from 1 to 300 on hidden entries (`choose`). None: ``"validated"``, and ``"full"``
        with the preset.
    tol : float, default=1e-4
        Stop when the squared change of the missing entries, relative to their sum of squares, is below it.
    max_iter : int, default=100
        Largest number of iterations.
    preset : {"paper"} or None, default=None
        ``"paper"``: SVD as Qiu, Zheng & Gevaert (2020) compare with it, and as their code runs it (IterativeSVD of
        fancyimpute): full rank, plain iterations that start at rank 1 and double the rank, at most 16, until the change
        is below 5e-4. It has no model: `transform` decomposes the training rows and the new rows together, in each
        iteration, so that new rows cost as much as the fit and depend on each other. Of the other parameters only an
        integer ``rank`` counts.
    random_state : int, default=0
        Seed of the hidden entries and the SVD.

    Attributes
    ----------
    rank_ : int
        Rank in use.
    components_ : ndarray of shape (G, r), float32
        Orthonormal columns V, zero rows for features without a value.
    penalty_ : ndarray of shape (r,)
        Penalties p of the coefficients of a new row.
    training_ : ndarray of shape (n, G), float32, or None
        z-scores of the training rows with NaN for missing, with ``preset="paper"``.

    Notes
    -----
    Cost: seconds; per iteration about ``8 n G r`` flops, or the eigenvectors of the smaller Gram matrix if r is near
    full rank; without missing entries a single iteration. With the preset each iteration is one of full rank, ``2 n^2 G
    + 9 n^3`` with n the smaller side, for new rows too. Memory: ``4 n G`` bytes and a mask, and as much again while the
    rank is chosen. With more than 20,000 features the rank is chosen on 8,192 of them, drawn at random.

    Known to fail: a rank that is too high follows the noise, and there is no shrinkage beside the rank (RMSE in SD on
    glioma expression 0.688; `SoftImpute` 0.637). With a handful of samples it is no better than the mean (1.330 with 4;
    mean 1.329). Linear, as all factors are; there are no intervals. A fit of full rank changes nothing, so that the
    preset's values are those of a lower rank, a power of two: the doubling of the rank and the stopping rule, not the
    full rank, are what imputes.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> X = np.outer(np.arange(1.0, 9.0), [1.0, 2.0, 3.0, 4.0])
    >>> X[2, 1] = np.nan
    >>> methods.get("svd")(rank=1).fit_transform(X).to_array()[2].round(1)
    array([ 3. ,  6.4,  9. , 12. ])
    """

    info = SVD_INFO
    learned: ClassVar[dict[str, Learned]] = {
        **LowRankImputer.learned,
        "rank": Learned(kind="int"),
        "training": Learned("n G", values="any", optional=True),
    }
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (2, 128, "log")}

    def __init__(
        self,
        *,
        rank: int | Literal["validated", "full"] | None = "validated",
        tol: float = 1e-4,
        max_iter: int = 100,
        preset: Literal["paper"] | None = None,
        random_state: int = 0,
    ) -> None:
        self.rank = rank
        self.tol = tol
        self.max_iter = max_iter
        self.preset = preset
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require(
            "rank", not isinstance(self.rank, int) or self.rank >= 1, "a positive integer, 'validated' or 'full'"
        )
        self._require("max_iter", self.max_iter >= 1, "at least 1")
        self._require("tol", self.tol >= 0, "0 or larger")

    def _learn(self, Z: np.ndarray, rng: np.random.Generator) -> LowRankFit:
        self.training_ = Z.copy() if self.preset == "paper" else None
        if self.preset == "paper":
            details: dict[str, Any] = {}
            tol, fit = PAPER_TOL, self._plain_fit(Z)
        else:
            tol = self.tol
            fit, details = self._warm_fit(Z, rng)
        self.rank_ = details["rank"] = len(fit.penalty)
        details["iterations"] = rounds = len(fit.history["rank"])
        converged = fit.history["change"][-1] < tol
        message = f"rank {self.rank_}, {rounds} rounds" + ("" if converged else f", tol={tol:g} not reached")
        fit.status = Status("converged" if converged else "max_iter", message, details)
        return fit

    def _warm_fit(self, Z: np.ndarray, rng: np.random.Generator) -> tuple[LowRankFit, dict[str, Any]]:
        """The fit of the given rank or the chosen one, and what its choice has told."""

        def fits(rows: np.ndarray, ranks: Iterable[int]) -> Iterator[LowRankFit]:
            return svd_fill(rows, ranks, tol=self.tol, max_iter=self.max_iter, rng=rng)

        def path(rows: np.ndarray) -> Iterator[LowRankFit]:
            return fits(rows, [rank for rank in RANKS if rank < min(rows.shape)] or [1])

        if self.rank == "full" or isinstance(self.rank, int):
            return next(fits(Z, [min(Z.shape) if self.rank == "full" else self.rank])), {}
        choice = choose(some_features(Z, rng), path, rng, self._tell)
        return next(fits(Z, [RANKS[choice.position]])), {"held_out_rmse": min(choice.rmse)}

    def _plain_fit(self, Z: np.ndarray) -> LowRankFit:
        """The published iteration on z-scores (overwritten)."""
        rank = self.rank if isinstance(self.rank, int) else min(Z.shape)
        rng = np.random.default_rng(self.random_state)
        return next(svd_fill(Z, [rank], tol=PAPER_TOL, max_iter=PAPER_ITERATIONS, rng=rng, plain=True))

    def _new_rows(self, data: Data) -> Model:
        if self.training_ is None:
            return super()._new_rows(data)
        Z = np.concatenate([self.training_, Standard(self.center_, self.scale_).forward(data.known_values())])
        with few_threads(min(Z.shape) <= SMALL_SIDE):
            fit = self._plain_fit(Z)
        right = fit.right * self.scale_[:, None].astype(np.float32)
        return LowRank(fit.left[len(self.training_) :], right, offset=self.center_, floor=None)


class SoftImpute(LowRankImputer):
    """Completion of the z-scores with a penalty on the nuclear norm (Mazumder, Hastie & Tibshirani 2010).

    Minimises ``1/2 |P(X - Z)|_F^2 + lam |Z|_*`` over Z, where P is the projection on the known entries. The missing
    entries are filled with the fit and the singular values are lowered by lam, until nothing changes. This is done for
    a decreasing sequence of lam, each starting from the previous solution.

    A new row z is fitted with V fixed. |Z|_* is the smallest value of (|A|^2 + |B|^2) / 2 over Z = A B', reached at A =
    U sqrt(D), B = V sqrt(D), where D are the lowered singular values. So a row of A minimises |z - B a|^2 + lam |a|^2
    over the known entries: in units of V, a ridge of strength lam / D_c for component c. Training rows that are fitted
    again in this way do not change.

    Parameters
    ----------
    lam : float, optional
        Threshold, in units of the singular values of the z-scores (it grows with the square root of the number of
        rows). By default it is chosen on hidden entries (`choose`).
    tol : float, default=2e-3
        Stop when the relative change of the fit is below it, at missing entries (at known entries if few are known).
    max_iter : int, default=200
        Largest number of iterations for each lam.
    random_state : int, default=0
        Seed of the hidden entries and the SVD.

    Attributes
    ----------
    lam_ : float
        Threshold in use.
    components_, penalty_ : ndarray
        As in `IterativeSVD`.

    Notes
    -----
    Cost: seconds; per iteration about ``8 n G r`` flops, or ``2 n^2 G + 9 n^3`` (n the smaller side) if r is more than
    a quarter of it. Complete training rows take one decomposition for the whole path. Memory: ``4 n G`` bytes and a
    mask, and as much again while lam is chosen. With more than 20,000 features lam, relative to the largest singular
    value, is chosen on 8,192 of them, drawn at random, and the fit is made for every fifth lam on the way.

    Known to fail: strong and weak components lose the same amount, so that strong structure is shrunk too far. With a
    handful of samples it is no better than the mean (RMSE in SD 1.328 with 4; mean 1.329). Linear, as all factors are;
    values missing because they are low are imputed too high; there are no intervals.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> X = np.outer(np.arange(1.0, 9.0), [1.0, 2.0, 3.0, 4.0])
    >>> X[2, 1] = np.nan
    >>> methods.get("soft_impute")(lam=0.1).fit_transform(X).to_array()[2].round(1)
    array([ 3. ,  6.6,  9. , 12. ])
    """

    info = SOFT_IMPUTE_INFO
    learned: ClassVar[dict[str, Learned]] = {**LowRankImputer.learned, "lam": Learned()}
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"lam": (1.0, 100.0, "log")}

    def __init__(
        self, *, lam: float | None = None, tol: float = 2e-3, max_iter: int = 200, random_state: int = 0
    ) -> None:
        self.lam = lam
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("lam", self.lam is None or self.lam > 0, "positive")
        self._require("max_iter", self.max_iter >= 1, "at least 1")
        self._require("tol", self.tol > 0, "positive")

    def _learn(self, Z: np.ndarray, rng: np.random.Generator) -> LowRankFit:
        def fits(rows: np.ndarray) -> Iterator[LowRankFit]:
            path = SoftImputePath(rows, rng, tol=self.tol, max_iter=self.max_iter)
            return path.fit(path.largest * share for share in LAMBDA_SHARES)

        details: dict[str, Any] = {}
        if self.lam is None:
            choice = choose(some_features(Z, rng), fits, rng, self._tell)
            details["held_out_rmse"] = min(choice.rmse)
        path = SoftImputePath(Z, rng, tol=self.tol, max_iter=self.max_iter)
        self.lam_ = path.largest * LAMBDA_SHARES[choice.position] if self.lam is None else self.lam
        lams = (path.largest * share for share in LAMBDA_SHARES)
        larger = [] if path.complete else [lam for lam in lams if lam > 1.01 * self.lam_]
        if Z.shape[1] > WIDE_FEATURES:
            larger = larger[::WIDE_PACE]
        history: dict[str, list[float]] = {"lam": [], "rank": [], "iterations": [], "change": []}
        for fit in path.fit([*larger, self.lam_]):
            for name in history:
                history[name] += fit.history[name]
        details |= {"lam": self.lam_, "rank": len(fit.penalty), "iterations": int(sum(history["iterations"]))}
        converged = history["change"][-1] < self.tol**2
        reached = "" if converged else f", tol={self.tol:g} not reached"
        message = f"lambda {self.lam_:.3g}, rank {details['rank']}, {details['iterations']} iterations{reached}"
        fit.status = Status("converged" if converged else "max_iter", message, details)
        fit.history = history
        return fit
