"""The ``lls`` method: each feature is regressed on the features that are most similar to it, by least squares."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.linalg as la

from imputome.core.holdout import hide_values
from imputome.core.imputation import Status
from imputome.methods.regression import LLS_INFO
from imputome.methods.regression.by_feature import (
    LinearRegressions,
    RegressionImputer,
    Similarity,
    most_similar,
)

NEIGHBORS = (3, 5, 10, 15, 20, 30, 50, 80, 120, 200)  # candidates for k
HIDDEN_SHARE, FEWEST_HIDDEN = 0.05, 50  # of the known entries of the scored features; of few, up to a fifth
SCORED_FEATURES = 200
FIRST_NEIGHBORS = 10  # the neighbours' missing entries are filled with this k before the candidates are scored
TOLERANCE = 1e-3  # relative squared change of the missing entries
PATIENCE = 2  # the search ends after this many k without a lower error
SMALLEST_PIVOT = 1e-10  # relative; below it, neighbours count as copies of each other


class LLS(RegressionImputer):
    """Local least squares (Kim, Golub & Park 2005).

    The z-scores of feature g, over the rows that have it, are regressed on those of the k most similar features,
    without an intercept and without a penalty (the solution of smallest norm where k exceeds the number of rows).
    Similar is a large Pearson correlation of either sign, or a small mean squared difference, over the rows that have
    both features. Missing entries of the neighbours are first 0, the mean of the feature; then they have the values of
    the round before, until these stand still. A prediction is at most 1.5 times as far from the mean of its feature as
    the farthest known value, which the paper does not ask for.

    Parameters
    ----------
    k : int, optional
        Number of similar features. By default it is chosen among ten values from 3 to 200 on hidden entries of up to
        200 features; none (0), which imputes means, where these predict the hidden entries better.
    similarity : {"pearson", "euclidean"}, default="pearson"
        ``"pearson"`` is the paper's better one.
    max_iter : int, default=10
        Largest number of rounds; they end when ``sum (new - old)^2`` is below a thousandth of ``sum new^2``.
    random_state : int, default=0
        Seed of the hidden entries.

    Attributes
    ----------
    k_ : int
        Number in use, at most the number of other features; 0 for the means.
    regressions_ : LinearRegressions
        For each feature the positions and coefficients of its neighbours, (G, k) each.

    Notes
    -----
    Scale: real values in the unit of the input; z-scores inside. New rows: by the regressions of the training rows,
    applied feature after feature, up to ten times. Cost: minutes; ``12 n G^2`` flops for the similarities, then
    ``4 n k^2`` for each incomplete feature and round; while k is chosen a few times that for 200 features. Memory:
    ``40 n G + 12 G k`` bytes.

    Known to fail: with k near the number of rows that have a feature the fit has no freedom left, and predictions go to
    their bound: with a k of your own, and with the chosen one where so much is missing that few entries are left to
    choose it on (of 40 x 15 values with 90 % missing the error was up to 1.4 times that of the means). There is no
    shrinkage, so with few rows it is behind `BPCA` and `IterativeRidge`.

    Source: doi:10.1093/bioinformatics/bth499. With one incomplete feature the numbers are those of pcaMethods 1.90
    (``llsImpute``) on z-scores.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> X = np.outer(np.arange(1.0, 9.0), [1.0, 2.0, 3.0, 4.0])
    >>> X[2, 1] = np.nan
    >>> methods.get("lls")(k=2).fit_transform(X).to_array()[2].round(1)
    array([ 3. ,  6.5,  9. , 12. ])
    """

    info = LLS_INFO
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"k": (3, 200, "log")}

    def __init__(
        self, *, k: int | None = None, similarity: Similarity = "pearson", max_iter: int = 10, random_state: int = 0
    ) -> None:
        self.k = k
        self.similarity = similarity
        self.max_iter = max_iter
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("k", self.k is None or self.k >= 1, "at least 1")
        self._require("max_iter", self.max_iter >= 1, "at least 1")

    def _learn(self, Z: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, LinearRegressions, Status]:
        largest = max(1, len(used) - 1)
        details: dict[str, Any] = {}
        self.k_ = min(self.k or 1, largest)
        if self.k is None and len(used) > 1:
            self.k_, details["held_out_rmse"] = self._validated_k(Z[:, used], largest)
        F = np.where(np.isnan(Z), 0.0, Z)
        regressions = LinearRegressions.empty(Z, max(1, self.k_))
        regressed = used if len(used) > 1 and self.k_ else used[:0]
        if len(regressed):
            regressions.neighbors[used] = used[most_similar(Z[:, used], np.arange(len(used)), self.k_, self.similarity)]
        incomplete = regressed[np.isnan(Z[:, regressed]).any(axis=0)]
        number, change = 0, np.inf
        while change >= TOLERANCE and number < self.max_iter:
            number += 1
            self._tell(0.5 + 0.4 * number / self.max_iter, f"round {number}")
            old, F = F, one_pass(Z, F, regressions, incomplete)
            size = float(np.sum(np.square(F, where=np.isnan(Z), out=np.zeros_like(F))))
            change = float(np.sum(np.square(F - old))) / size if size else 0.0
        for j in np.setdiff1d(regressed, incomplete):  # needed for new rows only
            regressions.coefficients[j] = least_squares(F, Z[:, j], regressions.neighbors[j])
        details |= {"k": self.k_, "iterations": number}
        reached = change < TOLERANCE
        message = f"{self.k_} neighbours, {number} rounds" + ("" if reached else ", and values still changed")
        if not self.k_:
            message = "means of the features, which predict hidden entries better than any neighbours"
        return F, regressions, Status("converged" if reached else "max_iter", message, details)

    def _validated_k(self, Z: np.ndarray, largest: int) -> tuple[int, float]:
        """The k with the lowest error on hidden entries, 0 for the means, and this error; all features of Z vary."""
        rng = np.random.default_rng(self.random_state)
        scored = np.sort(rng.permutation(Z.shape[1])[:SCORED_FEATURES])
        among = np.zeros(Z.shape, dtype=bool)
        among[:, scored] = True
        known = int((~np.isnan(Z[:, scored])).sum())
        share = max(HIDDEN_SHARE, 1 / max(1, known), min(0.2, FEWEST_HIDDEN / max(1, known)))
        hidden, i, j, truth = hide_values(Z, share, rng, among=among)
        candidates = [k for k in NEIGHBORS if k <= largest] or [1]
        everything = np.arange(Z.shape[1])
        first = LinearRegressions.empty(hidden, min(FIRST_NEIGHBORS, largest))
        self._tell(0.0, "similar features")
        first.neighbors[:] = most_similar(hidden, everything, first.neighbors.shape[1], self.similarity)
        incomplete = everything[np.isnan(hidden).any(axis=0)]
        F = one_pass(hidden, np.where(np.isnan(hidden), 0.0, hidden), first, incomplete)
        neighbors = most_similar(hidden, scored, candidates[-1], self.similarity)
        errors: list[float] = []
        for position, k in enumerate(candidates):
            self._tell(0.5 * position / len(candidates), f"k = {k} on hidden entries")
            squares = 0.0
            for place, feature in enumerate(scored):
                entries = np.flatnonzero(j == feature)
                if len(entries):
                    near = neighbors[place, :k]
                    values = F[i[entries][:, None], near] @ least_squares(F, hidden[:, feature], near)
                    values = np.clip(values, -first.reach[feature], first.reach[feature])
                    squares += float(np.square(values - truth[entries]).sum())
            errors.append(float(np.sqrt(squares / len(truth))))
            if position - int(np.argmin(errors)) >= PATIENCE:
                break
        by_means = float(np.sqrt(np.mean(truth * truth)))
        if by_means <= min(errors):
            return 0, by_means
        return candidates[int(np.argmin(errors))], min(errors)


def one_pass(Z: np.ndarray, F: np.ndarray, regressions: LinearRegressions, incomplete: np.ndarray) -> np.ndarray:
    """The next F: each missing entry from regressions on the present F, whose coefficients are set."""
    out = F.copy()
    for j in incomplete:
        regressions.coefficients[j] = least_squares(F, Z[:, j], regressions.neighbors[j])
        rows = np.flatnonzero(np.isnan(Z[:, j]))
        out[rows, j] = regressions.predict(F, rows, int(j))
    return out


def least_squares(F: np.ndarray, target: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """(k,) coefficients of ``target``, (n,) with NaN, on columns of F, over the rows that have it."""
    rows = np.flatnonzero(~np.isnan(target))
    if not len(rows):
        return np.zeros(len(neighbors))
    solution = la.lstsq(
        F[rows[:, None], neighbors], target[rows], cond=SMALLEST_PIVOT, lapack_driver="gelsy", check_finite=False
    )
    return np.asarray(solution[0])
