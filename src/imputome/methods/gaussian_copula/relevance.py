"""Ridge regression of each feature on the features that are most correlated with it, each with a penalty of its own.

The Gaussian of `noise` has the same weights for all features to predict: a row resembles the training rows in all
features, or in none. Here feature j has weights of its own. With r_jk the correlation of features j and k, and d_k the
noise of feature k, the coefficient of k has the penalty 1 / w_jk, with w_jk in proportion to |r_jk|^3 / d_k: a
generalised ridge (Hoerl & Kennard 1970, doi:10.1080/00401706.1970.10488634) whose penalties come from the data, as
those of the adaptive lasso (Zou 2006, doi:10.1198/016214506000000735). Only the largest w_jk are kept.

Letters: n rows, G features that vary, k predictors of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

POWER = 3  # of the correlation in the weight of a predictor
FEW_ROWS = 500
MAX_PREDICTORS = {"few rows": 1000, "many rows": 400}  # with few rows the system of a feature has their number
MAX_COEFFICIENTS = 2**25  # of all features together (0.25 GiB); with more than 33,000 features each has fewer
MAX_CANDIDATES = 20_000  # those with the least noise
MAX_ROWS = 2000  # of more rows, this many are used
# Candidates for the ridge, in units of the mean variance of a weighted row, and where the search begins. Smaller ridges
# look better than they are in leave-one-out errors: these do not know that the weights are from the same rows.
RIDGES = np.geomspace(0.15, 9.6, 4)
FIRST_RIDGE = 1
BLOCK_VALUES = 2**22  # entries in a block of correlations


@dataclass(frozen=True)
class Relevance:
    """Coefficients that predict some features of a row, each from k others."""

    predictors: np.ndarray  # (m, k) int32; their positions
    coefficients: np.ndarray  # (m, k) float32
    intercepts: np.ndarray  # (m,) float32
    ridges: np.ndarray  # (m,) positions in `RIDGES`

    def predict(self, row: np.ndarray, features: np.ndarray) -> np.ndarray:
        """(len(features),) predictions from ``row``, (G,) without NaN; ``features`` are positions among the m."""
        values = row[self.predictors[features]]
        return np.asarray(np.einsum("jk,jk->j", self.coefficients[features], values) + self.intercepts[features])


def fit_relevance(
    Z: np.ndarray,
    known: np.ndarray,
    noise: np.ndarray,
    *,
    features: np.ndarray | None = None,
    ridges: np.ndarray | None = None,
) -> Relevance:
    """Fit the coefficients of ``features`` (all, without it) to transformed training rows.

    Parameters
    ----------
    Z : ndarray of shape (n, G)
        The rows; what is missing was filled.
    known : ndarray of bool, shape (n, G)
        What was not: a feature is fitted to its known values only.
    noise : ndarray of shape (G,)
        Noise of each feature.
    features : ndarray of shape (m,), optional
        Positions of the features to predict.
    ridges : ndarray of shape (m,), optional
        Their positions in `RIDGES`. Without it they are those with the lowest leave-one-out error.

    Notes
    -----
    Cost: O(n min(G, `MAX_CANDIDATES`) m) for the correlations, then two to four times O(q^2 (n + k)) for a feature,
    with q the smaller of n and k.
    """
    if len(Z) > MAX_ROWS:
        spaced = np.linspace(0, len(Z) - 1, MAX_ROWS).astype(int)
        Z, known = Z[spaced], known[spaced]
    n, G = Z.shape
    features = np.arange(G) if features is None else features
    most = MAX_PREDICTORS["few rows" if n <= FEW_ROWS else "many rows"]
    k = max(1, min(most, G - 1, MAX_COEFFICIENTS // G))
    out = Relevance(
        np.zeros((len(features), k), np.int32),
        np.zeros((len(features), k), np.float32),
        np.zeros(len(features), np.float32),
        np.full(len(features), FIRST_RIDGE) if ridges is None else ridges,
    )
    if G < 2:
        return out
    Z = Z.astype(np.float32, copy=False)
    candidates = np.sort(np.argsort(noise, kind="stable")[:MAX_CANDIDATES])
    by_noise = (noise[candidates] ** (-1 / POWER)).astype(np.float32)
    step = max(1, BLOCK_VALUES // len(candidates))
    for start in range(0, len(features), step):
        block = features[start : start + step]
        scores = np.abs(_correlations(Z, known, block, candidates)) * by_noise
        scores[block[:, None] == candidates] = 0
        for position, (j, score) in enumerate(zip(block, scores, strict=True), start):
            best = np.sort(np.argpartition(-score, k - 1)[:k])
            chosen, weights = candidates[best], score[best] ** POWER
            root = np.sqrt(weights / max(weights.sum(), 1e-12))
            rows = known[:, j]
            if rows.sum() < 2 or not root.any():
                continue
            A, y = Z[np.ix_(np.flatnonzero(rows), chosen)], Z[rows, j]
            means, centre = A.mean(axis=0), y.mean()
            system = _System((A - means) * root, y - centre)
            if ridges is None:
                out.ridges[position] = system.best(out.ridges[position - 1] if position else FIRST_RIDGE)
            coefficients = root * system.coefficients(RIDGES[out.ridges[position]])
            out.predictors[position], out.coefficients[position] = chosen, coefficients
            out.intercepts[position] = centre - means @ coefficients
    return out


def _correlations(Z: np.ndarray, known: np.ndarray, features: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(len(features), len(candidates)) correlations, over the rows in which the feature is known."""
    kept = known[:, features].astype(np.float32)
    count = np.maximum(kept.sum(axis=0), 1)[:, None]
    target = kept * Z[:, features]
    target -= kept * (target.sum(axis=0) / count[:, 0])
    columns = Z if len(candidates) == Z.shape[1] else Z[:, candidates]
    covariance = target.T @ columns / count
    means = kept.T @ columns / count
    variance = kept.T @ np.square(columns) / count - np.square(means)
    scale = np.sqrt(np.square(target).sum(axis=0) / count[:, 0])[:, None] * np.sqrt(np.maximum(variance, 1e-6))
    return np.asarray(covariance / np.maximum(scale, 1e-6))


class _System:
    """Ridge regression of y, (n,), on A, (n, k), both centred, solved over rows or columns, whichever are fewer."""

    def __init__(self, A: np.ndarray, y: np.ndarray) -> None:
        self.A, self.y = A, y
        self.over_rows = A.shape[0] <= A.shape[1]
        self.gram = A @ A.T if self.over_rows else A.T @ A
        self.unit = float(np.square(A).sum()) / len(A)  # the mean variance of a row

    def coefficients(self, ridge: float) -> np.ndarray:
        factor = self._factor(ridge)
        if self.over_rows:
            return np.asarray(self.A.T @ la.cho_solve(factor, self.y, check_finite=False))
        return np.asarray(la.cho_solve(factor, self.A.T @ self.y, check_finite=False))

    def loss(self, ridge: float) -> float:
        """Mean squared leave-one-out error; the centring counts as one more coefficient."""
        factor, n = self._factor(ridge), len(self.y)
        if self.over_rows:
            residual = self._added(ridge) * la.cho_solve(factor, self.y, check_finite=False)
            left = self._added(ridge) * np.diag(la.lapack.spotri(factor[0], lower=1)[0])  # 1 - leverage
        else:
            half = la.solve_triangular(factor[0], self.A.T, lower=True, check_finite=False)
            residual = self.y - half.T @ (half @ self.y)
            left = 1 - np.einsum("kn,kn->n", half, half)
        return float(np.mean(np.square(residual / np.maximum(left - 1 / n, 0.1 * left))))

    def best(self, start: int) -> int:
        """Position of a ridge with a lower loss than its neighbours in `RIDGES`, the first one met from ``start``."""
        losses = {start: self.loss(RIDGES[start])}
        while True:
            lowest = min(losses, key=lambda place: losses[place])
            untried = [p for p in (lowest + 1, lowest - 1) if 0 <= p < len(RIDGES) and p not in losses]
            if not untried:
                return lowest
            losses[untried[0]] = self.loss(RIDGES[untried[0]])

    def _added(self, ridge: float) -> float:
        return ridge * self.unit

    def _factor(self, ridge: float) -> tuple[np.ndarray, bool]:
        matrix = self.gram.copy()
        matrix[np.diag_indices_from(matrix)] += np.float32(self._added(ridge))
        return la.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False), True
