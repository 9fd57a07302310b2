"""Predicts the missing features of a row from its observed ones: Gaussian, kernel, local and feature-wise predictors.

Letters: n training rows (all, or those that are used), G features that vary, O the observed features of a row t, M its
missing features, d the noise per feature, c the ridge. With K = Z_O D_O^-1 Z_O' (n x n) and k = Z_O D_O^-1 t_O, the
Gaussian with covariance Z'Z / c + D has the conditional mean Z_M' (K + c I)^-1 k (the Woodbury identity turns the solve
over |O| features into one over n rows). Every predictor but one is such a vector of n weights on the training rows;
they differ in the kernel that replaces K. A training row is not used to predict itself. The last one, ``relevance``,
has a regression for each feature (see `relevance`), applied to the row whose missing features the Gaussian filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg as la

from imputome.methods.gaussian_copula.noise import Gaussian, column_blocks, gram
from imputome.methods.gaussian_copula.relevance import Relevance

MAX_ROWS_IN_SYSTEM = 1000  # up to this many training rows, the system of a row has all of them
NEAREST_ROWS = 256  # otherwise it has this many
DISTANCE_FEATURES = 1024  # the nearest training rows are found on at most this many features
MAX_RESIDUAL = 4.0  # larger standardised residuals count as this
PRIOR_FEATURES = 20.0  # the prior of the scale of a row counts as much as this many features


@dataclass(frozen=True)
class BasePredictor:
    """One of the predictors that are stacked. Its kind is one of:

    ``gaussian``: the kernel is K. ``sum``: K + height c exp(-r / length), a Gaussian process over rows whose second
    part is a Laplace kernel of r, the noise-weighted root mean squared distance of two rows over O. ``laplace``: exp(-r
    / length) only. ``local``: a ridge regression centred and weighted with exp(-r / length). ``relevance``: a
    regression for each feature.
    """

    kind: str  # "gaussian", "sum", "laplace", "local" or "relevance"
    noise: float = 0.0  # ridge in units of c; for laplace in units of the kernel
    length: float = 0.0  # of the kernel
    height: float = 0.0  # of the kernel

    @property
    def name(self) -> str:
        """Its name in `GaussianCopula.members_` and in saved models."""
        return f"{self.kind} {self.noise:g}" if self.noise else self.kind


@dataclass(frozen=True)
class RowPrediction:
    """Prediction of one row on the transformed scale."""

    # (G,) or (k, G) under k sets of weights; the value for an observed feature uses the feature itself
    mean: np.ndarray
    variance: np.ndarray  # (G,) of the Gaussian, noise included, before the scale of the row
    scale: float  # standard deviation of the observed residuals of this row, relative to that of the Gaussian
    missing: np.ndarray  # (m,) positions of the missing features
    roots: np.ndarray  # (n, m); roots' roots is the covariance of the missing features without their noise
    rows: np.ndarray  # training rows that were used
    row_weights: np.ndarray  # (len(rows),) or (k, len(rows)) weights of the training rows in the mean
    filled: np.ndarray  # (G,) the row; what is missing has its mean under the Gaussian


class Conditional:
    """Predicts rows from the training rows, with ``weights`` of the predictors: (len(predictors),) or k sets of them.

    ``explained``, (G,), is the variance of each feature that the others explain, z_j' (K + c I)^-1 z_j. ``relevance``
    has the regressions of all features, if one of the predictors needs them.

    Cost of a row with m missing features: O(n^2 m) for K, by subtracting the missing features from the full Gram matrix
    (or by adding up the observed ones, if they are fewer), and O(n^3) for each predictor. With more than
    `MAX_ROWS_IN_SYSTEM` training rows only the `NEAREST_ROWS` nearest are used (the ridge is scaled down to their
    number): O(NEAREST_ROWS^2 G) per row.
    """

    def __init__(
        self,
        gaussian: Gaussian,
        predictors: tuple[BasePredictor, ...],
        weights: np.ndarray,
        explained: np.ndarray,
        relevance: Relevance | None = None,
    ) -> None:
        self.gaussian, self.predictors, self.weights, self.explained = gaussian, predictors, weights, explained
        self.relevance = relevance if any(predictor.kind == "relevance" for predictor in predictors) else None
        self.of_rows = np.array([predictor.kind != "relevance" for predictor in predictors])
        self.predictors_of_rows = tuple(predictor for predictor in predictors if predictor.kind != "relevance")
        self.scale = (1 / np.sqrt(gaussian.noise)).astype(np.float32)
        self.uses_all_rows = len(gaussian.Z) <= MAX_ROWS_IN_SYSTEM
        if not self.uses_all_rows:
            self.distance_features = np.sort(np.argsort(gaussian.noise, kind="stable")[:DISTANCE_FEATURES])
            self.distance_values = gaussian.Z[:, self.distance_features] * self.scale[self.distance_features]

    @cached_property
    def gram(self) -> np.ndarray:
        """(n, n) K over all features."""
        return gram(self.gaussian.Z, self.gaussian.noise)

    def predict(self, t: np.ndarray, training_row: int | None = None) -> RowPrediction:
        """Predict the row ``t``, (G,) with NaN for missing; give its position if it is a training row."""
        rows, ridge, K, k, norm = self._system(t, training_row)
        observed = ~np.isnan(t)
        missing = np.flatnonzero(~observed)
        noise = self.gaussian.noise
        precision = float((1 / noise[observed]).sum())
        Z = self.gaussian.Z if len(rows) == len(self.gaussian.Z) else self.gaussian.Z[rows]
        if precision == 0:
            # no feature is observed: the ridge would make the covariance too small, so take that of the training rows
            roots = Z.astype(np.float64) * np.sqrt(np.maximum(1 - noise, 0) / len(Z))
            sets = self.weights.shape[:-1]
            no_weights = np.zeros((*sets, len(rows)))
            mean, filled = np.zeros((*sets, len(t))), np.zeros(len(t))
            return RowPrediction(mean, np.ones(len(t)), 1.0, missing, roots, rows, no_weights, filled)
        total = float((1 / noise).sum())
        solved = solve_predictors(
            K, k, norm, self.predictors_of_rows, ridge=ridge, precision=precision, total_precision=total
        )
        row_weights = self.weights[..., self.of_rows] @ solved
        mean = _times(row_weights, Z)
        gaussian, k = _centred(K, k)
        gaussian[np.diag_indices_from(gaussian)] += ridge
        factor = la.cholesky(gaussian, lower=True, overwrite_a=True, check_finite=False)
        centre = Z.mean(axis=0)
        centred = (Z[:, missing] - centre[missing]).astype(np.float64)
        roots = la.solve_triangular(factor, centred, lower=True, check_finite=False)
        gaussian_mean = _times(la.cho_solve((factor, True), k, check_finite=False), Z) + centre
        filled = np.where(observed, t, gaussian_mean)
        if self.relevance is not None:
            own = gaussian_mean.copy()
            own[missing] = self.relevance.predict(filled, missing)
            mean += self.weights[..., ~self.of_rows] * own
        # leave-one-feature-out residuals of the observed features, relative to their standard deviations
        unexplained = np.maximum(1 - self.explained / noise, 1e-6)
        squares = np.minimum((t - gaussian_mean)[observed] ** 2 / (noise * unexplained)[observed], MAX_RESIDUAL**2)
        scale = float(np.sqrt((PRIOR_FEATURES + squares.sum()) / (PRIOR_FEATURES + len(squares))))
        variance = noise / unexplained
        variance[missing] = noise[missing] + np.einsum("nm,nm->m", roots, roots)
        return RowPrediction(mean, variance, scale, missing, roots, rows, row_weights, filled)

    def _system(
        self, t: np.ndarray, training_row: int | None
    ) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, float]:
        """The training rows used, their ridge, K, k and t_O' D_O^-1 t_O."""
        Z, noise = self.gaussian.Z, self.gaussian.noise
        observed = ~np.isnan(t)
        filled = np.where(observed, t, 0) / noise
        norm = float(filled @ np.where(observed, t, 0))
        if not self.uses_all_rows:
            rows = self._nearest(t, training_row)
            part = Z[rows] * (self.scale * observed)
            K = (part @ part.T).astype(np.float64)
            return rows, self.gaussian.ridge * len(rows) / len(Z), K, part @ (filled / self.scale), norm
        rows = np.arange(len(Z)) if training_row is None else np.delete(np.arange(len(Z)), training_row)
        fewer = ~observed if 2 * observed.sum() > len(t) else observed
        part = Z[:, fewer] / np.sqrt(noise[fewer])
        K = part @ part.T
        if fewer is not observed:
            K = self.gram - K
        return rows, self.gaussian.ridge, K[np.ix_(rows, rows)], _times(filled, Z.T)[rows], norm

    def _nearest(self, t: np.ndarray, training_row: int | None) -> np.ndarray:
        values = t[self.distance_features]
        known = ~np.isnan(values)
        scaled = np.where(known, values, 0).astype(np.float32) * self.scale[self.distance_features]
        distances = np.square(self.distance_values - scaled) @ known.astype(np.float32)
        if training_row is not None:
            distances[training_row] = np.inf
        return np.sort(np.argsort(distances, kind="stable")[:NEAREST_ROWS])


def solve_predictors(
    K: np.ndarray,
    k: np.ndarray,
    norm: float,
    predictors: tuple[BasePredictor, ...],
    *,
    ridge: float,
    precision: float,
    total_precision: float,
) -> np.ndarray:
    """(len(predictors), n) weights of the training rows under each predictor; their sum is 1.

    K, (n, n), are the inner products of the training rows over O, divided by the noise; ``k``, (n,), those with the row
    to predict, and ``norm`` that of this row with itself. ``ridge`` is c. ``precision`` and ``total_precision`` are
    sums of 1 / d over O, and over all features; distances are per unit of ``precision``.
    """
    diagonal = np.diag(K)
    between, to_row = np.empty(0), np.empty(0)
    if any(predictor.kind != "gaussian" for predictor in predictors):
        between = np.maximum(diagonal[:, None] + diagonal - 2 * K, 0) / precision
        between = np.sqrt(between, out=between)
        np.fill_diagonal(between, 0)
        to_row = np.sqrt(np.maximum(diagonal + norm - 2 * k, 0) / precision)
    out = np.empty((len(predictors), len(k)))
    centred_K, centred_k = _centred(K, k)
    for weights, predictor in zip(out, predictors, strict=True):
        if predictor.kind == "gaussian":
            weights[:] = _solve(centred_K.copy(), centred_k, predictor.noise * ridge)
        elif predictor.kind == "sum":
            kernel = np.exp(between / -predictor.length)
            near = np.exp(to_row / -predictor.length)
            height = predictor.height * ridge
            weights[:] = _solve(kernel * height + centred_K, near * height + centred_k, predictor.noise * ridge)
        elif predictor.kind == "laplace":
            kernel = np.exp(between / -predictor.length)
            # distances over few features are uncertain, so their noise is larger
            noise = predictor.noise * total_precision / precision
            weights[:] = _solve(kernel, np.exp(to_row / -predictor.length), noise)
        else:
            weights[:] = local_weights(K, k, to_row, predictor.length, predictor.noise * ridge)
        weights += (1 - weights.sum()) / len(weights)  # what is left is the mean of the rows
    return out


def _times(weights: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """(..., G) product of (..., n) weights and (n, G) float32 rows, in float64 without a float64 copy of the rows."""
    out = np.empty((*weights.shape[:-1], Z.shape[1]))
    for part in column_blocks(*Z.shape):
        out[..., part] = weights @ Z[:, part]
    return out


def _centred(K: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K and k with all rows, and the one to predict, centred at the mean of the training rows.

    Without the row itself the mean of the training rows is not 0: see `noise` for what that does.
    """
    means = K.mean(axis=1)
    to_row = k - means
    return K - means[:, None] - means + means.mean(), to_row - to_row.mean()


def _solve(kernel: np.ndarray, target: np.ndarray, noise: float) -> np.ndarray:
    kernel[np.diag_indices_from(kernel)] += noise
    return la.solve(kernel, target, assume_a="pos", overwrite_a=True, check_finite=False)


def local_weights(K: np.ndarray, k: np.ndarray, to_row: np.ndarray, length: float, noise: float) -> np.ndarray:
    """Weights of a ridge regression that is centred at the weighted mean of the training rows."""
    near = np.exp((to_row - to_row.min()) / -length)
    root, share = np.sqrt(near), near / near.sum()
    with_mean = K @ share
    centred = K - with_mean[:, None] - with_mean + share @ with_mean
    centred *= root[:, None] * root
    target = root * (k - with_mean - share @ k + share @ with_mean)
    weights = _solve(centred, target, noise) * root
    return weights + share * (1 - weights.sum())
