"""The ``svd`` method: missing entries filled by a truncated SVD again and again (SVDimpute)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from imputome.errors import InputError
from imputome.methods.base import Status
from imputome.methods.factors import WarmSVD
from imputome.methods.low_rank.estimator import Factors, Filled, LowRankImputer, choose

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

    name = "svd"
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
