"""The noise of each feature, the ridge, and the missing training values, all from leave-one-out residuals.

Rows are z ~ N(0, S) with S = Z'Z / c + D: Z the n x G transformed training rows, D = diag(d) the noise of each feature
and c the ridge. With C = (Z D^-1 Z' + c I)^-1 (n x n), U = C Z and q_j = z_j' U_j, the error of predicting entry (i, j)
from the *other* features of row i, with row i itself removed from Z, has a closed form (block inverses)

    e_ij = v_ij U_ij / (d_j C_ii),    v_ij = d_j / (1 - (q_j - U_ij^2 / C_ii) / d_j),

where v_ij is its variance under the Gaussian. One Cholesky factor therefore gives all n G residuals, in O(n^2 (n + G)).

The means of the features are not known without row i either. As the columns of Z are centred, row i is minus the sum of
the other rows: with few rows and many features it would be predicted exactly. So the means have a flat prior, which
turns C into C - C 1 1' C / (1' C 1) (universal kriging; Rasmussen & Williams 2006, equation 2.42).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg as la

RIDGES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # candidates for c, in units of n
FIRST_RIDGE = 4.0
NOISE_PASSES = 6  # after this many passes other ridges are tried even if the noise still changes
LOSS_TOLERANCE = 1e-3  # relative change of the mean squared error
FILL_STEPS = 5  # Jacobi steps that fill rows which were not fitted
MIN_NOISE_SHARE = 0.02  # smallest noise of a feature, relative to the median
MAX_FILL = 10.0  # filled values lie within this many standard deviations
LEAST_MISSING = 0.01  # with fewer missing values no others are held out
HELD_OUT = 0.1
BLOCK_VALUES = 2**22  # entries in a block of columns or rows


@dataclass
class Gaussian:
    """Transformed training rows without missing values, and the noise that belongs to them."""

    Z: np.ndarray  # (n, G) float32; missing values are filled with their leave-one-out predictions
    noise: np.ndarray  # (G,) d, in units of the transformed features (variance 1)
    ridge: float  # c


def gram(Z: np.ndarray, noise: np.ndarray, *, dtype: type = np.float64) -> np.ndarray:
    """Z D^-1 Z', (n, n) float64, summed over blocks of columns so that no float64 copy of Z is made.

    ``dtype`` is the precision of the products within a block.
    """
    n, G = Z.shape
    out, weights = np.zeros((n, n)), (1 / np.sqrt(noise)).astype(dtype)
    for part in column_blocks(n, G):
        block = Z[:, part] * weights[part]
        out += block @ block.T
    return out


def leave_one_out(Z: np.ndarray, noise: np.ndarray, ridge: float) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(columns, errors e, variances v) in blocks of columns, each (n, len(columns)); see the top of the module."""
    K = gram(Z, noise)
    K[np.diag_indices_from(K)] += ridge
    C = la.cho_solve(la.cho_factor(K, overwrite_a=True, check_finite=False), np.eye(len(K)), check_finite=False)
    sums = C.sum(axis=1)
    diagonal = (np.diag(C) - sums**2 / sums.sum())[:, None]
    for part in column_blocks(*Z.shape):
        block = Z[:, part].astype(np.float64)
        U = C @ block
        U -= np.outer(sums / sums.sum(), sums @ block)
        q = np.einsum("ij,ij->j", block, U)
        # q_j < d_j always; the bound keeps this true after rounding, for a feature that others copy
        v = noise[part] / np.maximum(1 - (q - U**2 / diagonal) / noise[part], 1e-6)
        yield part, v * U / (noise[part] * diagonal), v


def fit_gaussian(T: np.ndarray, rng: np.random.Generator) -> Gaussian:
    """Fit noise, ridge and missing values to T, (n, G) with NaN for missing, by passes of `leave_one_out`.

    Each pass replaces the missing values with their predictions, and the noise of a feature with its mean squared error
    over observed entries. It then moves the ridge to a neighbour on its grid if the error is lower there. The fit ends
    when neither the ridge nor the error changes. Cost: three to fourteen passes of O(n^2 (n + G)).

    Observed values were used to fill the missing ones of their row, and are then predicted too well from these. So if
    values are missing, a random `HELD_OUT` of the others count as missing too: their errors choose the ridge, and scale
    the noise. At the end the missing values are filled with the help of all.
    """
    missing = np.isnan(T)
    held_out = np.zeros(T.shape, bool)
    if missing.mean() >= LEAST_MISSING:
        held_out = ~missing & (rng.random(T.shape) < HELD_OUT)
    Z = np.where(missing | held_out, 0, T).astype(np.float32)
    n, G = Z.shape
    noise = np.ones(G)
    place = RIDGES.index(FIRST_RIDGE)
    losses: dict[int, float] = {}
    previous_loss = np.inf
    for number in range(NOISE_PASSES + len(RIDGES)):
        Z, feature_loss, loss = _pass(Gaussian(Z, noise, RIDGES[place] * n), T, missing, held_out)
        losses[place] = loss
        converged = number >= 2 and abs(previous_loss - loss) <= LOSS_TOLERANCE * loss
        previous_loss = loss
        untried = [p for p in (place + 1, place - 1) if p not in losses and 0 <= p < len(RIDGES)]
        best = min(losses, key=lambda p: losses[p])
        if converged and best == place and not untried:
            break
        # other ridges are tried only after the noise has converged: before that, losses are not comparable
        if converged or number >= NOISE_PASSES:
            if best == place and untried:
                place = untried[0]
            elif best != place:
                place = best
                if all(p in losses for p in (place - 1, place + 1) if 0 <= p < len(RIDGES)):
                    break
            else:
                break
        noise = feature_loss + MIN_NOISE_SHARE * float(np.median(feature_loss)) + 1e-4
    gaussian = Gaussian(np.where(held_out, T, Z).astype(np.float32), noise, RIDGES[place] * n)
    return replace(gaussian, Z=refill(gaussian, missing)) if held_out.any() else gaussian


def _pass(
    gaussian: Gaussian, T: np.ndarray, missing: np.ndarray, held_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """The rows filled anew, the (G,) mean squared errors of the features, and that of all."""
    Z = gaussian.Z
    filled = Z.copy() if missing.any() else Z
    squares, used = np.zeros(Z.shape[1]), (~(missing | held_out)).sum(axis=0)
    squares_held_out = 0.0
    for part, error, _ in leave_one_out(Z, gaussian.noise, gaussian.ridge):
        to_fill = missing[:, part] | held_out[:, part]
        prediction = np.clip(Z[:, part] - error, -MAX_FILL, MAX_FILL)
        squares[part] = np.where(to_fill, 0, error**2).sum(axis=0)
        squares_held_out += float(np.square((T[:, part] - prediction)[held_out[:, part]]).sum())
        if to_fill.any():
            filled[:, part] = np.where(to_fill, prediction, Z[:, part])
    feature_loss = np.divide(squares, used, out=np.ones(len(squares)), where=used > 0)
    loss = float(feature_loss.mean())
    if not held_out.any():
        return filled, feature_loss, loss
    of_held_out = squares_held_out / held_out.sum()
    return filled, feature_loss * of_held_out * used.sum() / max(squares.sum(), 1e-12), of_held_out


def refill(gaussian: Gaussian, missing: np.ndarray, *, passes: int = 2) -> np.ndarray:
    """(n, G) rows in which the entries ``missing`` are predicted again, whatever was filled before.

    ``missing`` may include values that were known when ``gaussian`` was fitted. Other filled values then no longer
    depend on them: the first pass replaces these values with predictions, the second uses these for the others.
    """
    Z, none = gaussian.Z, np.zeros(missing.shape, bool)
    for _ in range(passes):
        Z, _, _ = _pass(Gaussian(Z, gaussian.noise, gaussian.ridge), Z, missing, none)
    return Z


def complete_rows(gaussian: Gaussian, T: np.ndarray) -> Gaussian:
    """The same Gaussian with all rows of T, (n, G) with NaN for missing; it was fitted on fewer rows.

    Missing values are filled near their conditional means, where (S^-1 z)_M = 0, by `FILL_STEPS` Jacobi steps; each
    predicts every feature from the previous values of the others. Cost: O(n r G) for the r rows of ``gaussian``.
    """
    Z, noise = gaussian.Z, gaussian.noise
    K = gram(Z, noise)
    K[np.diag_indices_from(K)] += gaussian.ridge
    scaled = (Z / noise).astype(np.float32)  # Z D^-1
    factor = la.cholesky(K, lower=True, check_finite=False)
    solved = la.cho_solve((factor, True), Z.astype(np.float64), check_finite=False)
    unexplained = np.maximum(1 - np.einsum("ij,ij->j", Z, solved) / noise, 1e-6)
    solved = solved.astype(np.float32)
    out = np.where(np.isnan(T), 0, T).astype(np.float32)
    step = max(1, BLOCK_VALUES // Z.shape[1])
    for start in range(0, len(T), step):
        missing = np.isnan(T[start : start + step])
        block = out[start : start + step]
        for _ in range(FILL_STEPS if missing.any() else 0):
            error = (block - (block @ scaled.T) @ solved) / unexplained
            block = np.where(missing, np.clip(block - error, -MAX_FILL, MAX_FILL), block)
        out[start : start + step] = block
    return Gaussian(out, noise, gaussian.ridge * len(T) / len(Z))


def column_blocks(n: int, G: int) -> Iterator[slice]:
    """Slices of columns with about `BLOCK_VALUES` entries."""
    step = max(1, BLOCK_VALUES // n)
    for start in range(0, G, step):
        yield slice(start, min(G, start + step))
