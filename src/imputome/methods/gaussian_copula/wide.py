"""The fit for many features: every pass goes over blocks of features, and all samples are predicted at once.

The formulas are those of `noise`; no array has the size of the matrix but the matrix and its transformed values. What
needs values that are hidden and predicted again is learned on a sample of `SAMPLE` features: the ridge, the level of
the noise, the weights of the predictors, and the calibration. The Gram matrix K = Z D^-1 Z' is over all features.

A predictor gives each training row i weights of the other rows, which are the same for all features. Under a Gaussian
process over rows with kernel K and noise c they have a closed form for all rows (Rasmussen & Williams 2006, equation
5.12): with B = (K + c I)^-1, and a flat prior of the mean as in `noise`, W_ik = -B_ik / B_ii for k other than i. The
missing features of the rows are filled with their conditional means, so K need not be summed over the observed
features of each row anew: but for the estimate of the mean, where (S^-1 z)_M = 0 the mean given the observed features
of a row is that given all of them.

Letters: n training rows, G features that vary, Z their (n, G) transformed values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from imputome.methods.gaussian_copula.calibration import (
    HiddenValues,
    ResidualDistribution,
    feature_quantiles,
    pooled_residuals,
    tuned,
)
from imputome.methods.gaussian_copula.conditional import (
    MAX_RESIDUAL,
    PRIOR_FEATURES,
    BasePredictor,
    local_weights,
)
from imputome.methods.gaussian_copula.marginals import Marginals
from imputome.methods.gaussian_copula.noise import (
    LOSS_TOLERANCE,
    MAX_FILL,
    MIN_NOISE_SHARE,
    Gaussian,
    column_blocks,
    gram,
)

SAMPLE = 4096  # features on which values are hidden
KNOTS = 33  # of the transform of each feature: 0.5 KiB a feature
RIDGES = tuple(2.0**power for power in range(-1, 15))  # candidates for c, in units of n; K grows with the features
PASSES = 8


@dataclass(frozen=True)
class RowWeights:
    """Predicts the training rows from each other: what `CopulaModel` needs instead of a system for each row."""

    weights: np.ndarray  # (n, n) float32, W of the stacked predictors
    inverse: np.ndarray  # (n, n) float32, C of `LeaveOneOut`
    scale: np.ndarray  # (n,) standard deviation of the residuals of each row, relative to that of the Gaussian

    def at(
        self, gaussian: Gaussian, explained: np.ndarray, rows: np.ndarray, columns: np.ndarray | slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """(len(rows), len(columns)) transformed means and standard deviations."""
        Z, noise = gaussian.Z[:, columns], gaussian.noise[columns]
        U = self.inverse[rows] @ Z
        share = (explained[columns] - U**2 / np.diag(self.inverse)[rows, None]) / noise
        return self.weights[rows] @ Z, self.scale[rows, None] * np.sqrt(noise / np.maximum(1 - share, 1e-6))


class LeaveOneOut:
    """Errors e and variances v of `noise.leave_one_out`, in float32, for the Gram matrix K and the ridge c."""

    def __init__(self, K: np.ndarray, ridge: float) -> None:
        self.C = centred_inverse(K, ridge).astype(np.float32)
        self.diagonal = np.diag(self.C)[:, None]

    def __call__(self, Z: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(errors, variances), (n, g) each, of g features, and what the others explain of these, (g,)."""
        noise = noise.astype(np.float32)
        U = self.C @ Z
        explained = np.einsum("ij,ij->j", Z, U)
        v = noise / np.maximum(1 - (explained - U**2 / self.diagonal) / noise, 1e-6)
        return v * U / (noise * self.diagonal), v, explained


def centred_inverse(K: np.ndarray, ridge: float) -> np.ndarray:
    """(n, n) inverse of K + c I, under a flat prior of the mean: its rows have the sum 0."""
    C = K.copy()
    C[np.diag_indices_from(C)] += ridge
    C = la.cho_solve(la.cho_factor(C, overwrite_a=True, check_finite=False), np.eye(len(C)), check_finite=False)
    sums = C.sum(axis=1)
    return C - np.outer(sums, sums) / sums.sum()


# -- the fit ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sample:
    """Some features, with values that count as missing until the noise and the weights are known."""

    columns: np.ndarray  # (s,) positions, increasing
    T: np.ndarray  # (n, s) float32 transformed values, NaN for missing
    hidden: np.ndarray  # (n, s) mask of the hidden values

    @classmethod
    def of(cls, Z: np.ndarray, X: np.ndarray, rng: np.random.Generator) -> Sample:
        """Hide as large a share of their values as is missing, at least a tenth and at most half."""
        columns = np.sort(rng.permutation(Z.shape[1])[:SAMPLE])
        missing = np.isnan(X[:, columns])
        rate = float(np.clip(missing.mean(), 0.1, 0.5))
        hidden = ~missing & (rng.random(missing.shape) < rate)
        hidden[:, (~missing & ~hidden).sum(axis=0) < 2] = False
        return cls(columns, np.where(missing, np.nan, Z[:, columns]), hidden)


def fit_wide(
    X: np.ndarray, marginals: Marginals, rng: np.random.Generator, tell: Callable[[float, str], None]
) -> tuple[Gaussian, np.ndarray, Sample]:
    """Fit noise, ridge and missing values to X, (n, G) with NaN, as `noise.fit_gaussian` does.

    Returns the Gaussian with the hidden values of the sample still filled, its Gram matrix, and the sample.

    Cost: `PASSES` passes of 3 n^2 G multiplications at most, usually four to six.
    """
    Z = transformed(X, marginals)
    sample = Sample.of(Z, X, rng)
    Z[:, sample.columns] = np.where(sample.hidden, 0, Z[:, sample.columns])
    noise, previous = np.ones(Z.shape[1]), np.inf
    for number in range(PASSES):
        tell(number / PASSES, f"noise of the features, pass {number + 1}")
        K = gram(Z, noise, dtype=np.float32)
        ridge, loss, ratio = best_ridge(K, Z[:, sample.columns], noise[sample.columns], sample)
        squares = fill(Z, X, LeaveOneOut(K, ridge), noise, sample)
        noise = ratio * squares
        noise += MIN_NOISE_SHARE * float(np.median(noise)) + 1e-4
        if number >= 2 and abs(previous - loss) <= LOSS_TOLERANCE * loss:
            break
        previous = loss
    K = gram(Z, noise, dtype=np.float32)
    ridge, _, _ = best_ridge(K, Z[:, sample.columns], noise[sample.columns], sample)
    return Gaussian(Z, noise, ridge), K, sample


def transformed(X: np.ndarray, marginals: Marginals) -> np.ndarray:
    """(n, G) float32 transformed values, 0 for missing."""
    Z = np.empty(X.shape, np.float32)
    for part in column_blocks(*X.shape):
        Z[:, part] = np.nan_to_num(marginals.forward_columns(X[:, part], part), nan=0.0)
    return Z


def best_ridge(K: np.ndarray, Z: np.ndarray, noise: np.ndarray, sample: Sample) -> tuple[float, float, float]:
    """The ridge with the lowest error at the hidden values, this mean squared error, and how many times larger it is
    than that of the known values. ``Z``, (n, s), are the rows at the sample, and ``noise``, (s,), is theirs.
    """
    n, known = len(K), ~np.isnan(sample.T) & ~sample.hidden
    losses: dict[int, tuple[float, float]] = {}

    def loss(place: int) -> float:
        if place not in losses:
            error, _, _ = LeaveOneOut(K, RIDGES[place] * n)(Z, noise)
            gap = sample.T[sample.hidden] - np.clip(Z - error, -MAX_FILL, MAX_FILL)[sample.hidden]
            losses[place] = float(np.square(gap).mean()), float(np.square(error[known]).mean())
        return losses[place][0]

    best = len(RIDGES) // 2
    while (better := min((p for p in (best - 1, best, best + 1) if 0 <= p < len(RIDGES)), key=loss)) != best:
        best = better
    hidden, seen = losses[best]
    return RIDGES[best] * n, hidden, hidden / max(seen, 1e-12)


def fill(
    Z: np.ndarray, X: np.ndarray, leave_one_out: LeaveOneOut, noise: np.ndarray, sample: Sample | None = None
) -> np.ndarray:
    """Replace missing and hidden values with their predictions, in place; returns the (G,) mean squared errors."""
    squares = np.ones(Z.shape[1])
    for part in column_blocks(*Z.shape):
        block, missing = np.ascontiguousarray(Z[:, part]), np.isnan(X[:, part])
        if sample is not None:
            first, last = np.searchsorted(sample.columns, [part.start, part.stop])
            missing[:, sample.columns[first:last] - part.start] |= sample.hidden[:, first:last]
        error, _, _ = leave_one_out(block, noise[part])
        if missing.any():
            Z[:, part] = np.where(missing, np.clip(block - error, -MAX_FILL, MAX_FILL), block)
        error[missing] = 0
        used = len(Z) - missing.sum(axis=0)
        total = np.einsum("ij,ij->j", error, error)
        squares[part] = np.divide(total, used, out=np.ones(len(used)), where=used > 0)
    return squares


# -- predictors -------------------------------------------------------------------------------------------------------
def row_weights(K: np.ndarray, predictors: tuple[BasePredictor, ...], ridge: float, precision: float) -> np.ndarray:
    """(p, n, n) weights W of the other rows for each row and predictor; ``precision`` is the sum of 1 / d."""
    diagonal = np.diag(K)
    distances = np.sqrt(np.maximum(diagonal[:, None] + diagonal - 2 * K, 0) / precision)
    out = np.empty((len(predictors), *K.shape))
    for weights, predictor in zip(out, predictors, strict=True):
        if predictor.kind == "local":
            for i in range(len(K)):
                others = np.delete(np.arange(len(K)), i)
                system, to_row = K[np.ix_(others, others)], distances[i, others]
                weights[i, others] = local_weights(
                    system, K[i, others], to_row, predictor.length, predictor.noise * ridge
                )
                weights[i, i] = 0
            continue
        kernel, noise = K, predictor.noise * ridge
        if predictor.kind == "laplace":
            kernel, noise = np.exp(distances / -predictor.length), predictor.noise
        elif predictor.kind == "sum":
            kernel = K + predictor.height * ridge * np.exp(distances / -predictor.length)
        B = centred_inverse(kernel, noise)
        weights[:] = -B / np.diag(B)[:, None]
        np.fill_diagonal(weights, 0)
    return out


def stack(
    gaussian: Gaussian,
    K: np.ndarray,
    sample: Sample,
    X: np.ndarray,
    marginals: Marginals,
    feature_sd: np.ndarray,
    predictors: tuple[BasePredictor, ...],
) -> tuple[Gaussian, tuple[BasePredictor, ...], np.ndarray, ResidualDistribution, RowWeights]:
    """Weights of the predictors and calibration from the hidden values, then the fit with these as known values.

    Returns the Gaussian, the predictors that are kept, their weights, the residuals, and the weights of the rows.
    """
    precision = float((1 / gaussian.noise).sum())
    Z, noise = gaussian.Z[:, sample.columns], gaussian.noise[sample.columns]
    leave_one_out = LeaveOneOut(K, gaussian.ridge)
    error, variance, _ = leave_one_out(Z, noise)
    known = ~np.isnan(sample.T) & ~sample.hidden
    standardised = np.where(known, error / np.sqrt(variance), np.nan)
    scale = _row_scale(np.nansum(np.minimum(standardised**2, MAX_RESIDUAL**2), axis=1), known.sum(axis=1))
    i, j = np.nonzero(sample.hidden)
    W = row_weights(K, predictors, gaussian.ridge, precision).astype(np.float32)
    hidden = HiddenValues(
        np.stack([(each @ Z)[i, j] for each in W]),
        sample.T[i, j].astype(np.float64),
        scale[i] * np.sqrt(variance[i, j]),
        sample.columns[j],
    )
    # with the hidden values as known ones
    gaussian.Z[:, sample.columns] = np.where(sample.hidden, sample.T, Z)
    K = gram(gaussian.Z, gaussian.noise, dtype=np.float32)
    fill(gaussian.Z, X, LeaveOneOut(K, gaussian.ridge), gaussian.noise)
    K = gram(gaussian.Z, gaussian.noise, dtype=np.float32)
    leave_one_out = LeaveOneOut(K, gaussian.ridge)
    residuals, scale = _residuals(gaussian, X, leave_one_out, sample, feature_sd)
    kept, weights, residuals = tuned(hidden, residuals, marginals)
    if not len(kept):
        kept, weights = np.zeros(1, int), np.ones(1)
    predictors = tuple(predictors[p] for p in kept)
    W = np.tensordot(weights, row_weights(K, predictors, gaussian.ridge, precision), 1).astype(np.float32)
    return gaussian, predictors, weights, residuals, RowWeights(W, leave_one_out.C, scale)


def _row_scale(squares: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt((PRIOR_FEATURES + squares) / (PRIOR_FEATURES + count)))


def _standardised(
    gaussian: Gaussian, X: np.ndarray, leave_one_out: LeaveOneOut, columns: np.ndarray | slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals over their standard deviations (NaN for missing), predictions, and (g,) what is explained."""
    block = np.ascontiguousarray(gaussian.Z[:, columns])
    error, variance, explained = leave_one_out(block, gaussian.noise[columns])
    standardised = error / np.sqrt(variance)
    standardised[np.isnan(X[:, columns])] = np.nan
    return standardised, block - error, explained


def _residuals(
    gaussian: Gaussian, X: np.ndarray, leave_one_out: LeaveOneOut, sample: Sample, feature_sd: np.ndarray
) -> tuple[ResidualDistribution, np.ndarray]:
    """The distribution of the residuals, as `calibration.leave_one_out_residuals` makes it, and the (n,) scales of the
    rows. What depends on the prediction is learned on the sample, what depends on the feature on all features.
    """
    residuals, predicted, _ = _standardised(gaussian, X, leave_one_out, sample.columns)
    squares = np.minimum(residuals**2, MAX_RESIDUAL**2)
    scale = _row_scale(np.nansum(squares, axis=1), (~np.isnan(squares)).sum(axis=1))
    pooled = pooled_residuals((residuals / scale[:, None]).astype(np.float32), predicted)
    scores, explained = np.empty((10, X.shape[1])), np.empty(X.shape[1])
    for part in column_blocks(*X.shape):
        residuals, predicted, explained[part] = _standardised(gaussian, X, leave_one_out, part)
        scores[:, part] = feature_quantiles((residuals / scale[:, None]).astype(np.float32), predicted, pooled)
    return ResidualDistribution(pooled.heights, pooled.quantiles, scores, explained, feature_sd), scale
