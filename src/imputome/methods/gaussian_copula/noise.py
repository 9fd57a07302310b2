"""The Gaussian's noise per feature, its ridge, and the missing training values, all from leave-one-out residuals.

Rows z ~ N(0, S) with S = Z'Z / c + D: Z the n x G transformed training rows, D = diag(d) the noise of each feature and
c the ridge. With C = (Z D^-1 Z' + c I)^-1 (n x n), U = C Z and q_j = z_j' U_j, the error of predicting entry (i, j)
from the *other* features of row i, with row i itself taken out of Z, is in closed form (block inverses)

    e_ij = v_ij U_ij / (d_j C_ii),    v_ij = d_j / (1 - (q_j - U_ij^2 / C_ii) / d_j),

v_ij being the Gaussian's own variance of it. One Cholesky factor thus gives n G honest residuals, in O(n^2 (n + G)).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

RIDGES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # candidates, in units of n
PASSES = 6
TOLERANCE = 1e-3
REFINE = 5
FLOOR = 0.02  # least noise of a feature, as a share of the median one
_PIECE = 2**22  # entries of a block of columns


@dataclass
class Gaussian:
    """Transformed training rows without gaps, and the noise that goes with them.

    Attributes
    ----------
    Z : (n, G) float32, missing values filled by their leave-one-out predictions.
    noise : (G,) d, in units of the transformed features (variance 1).
    ridge : c.
    """

    Z: np.ndarray
    noise: np.ndarray
    ridge: float


def gram(Z: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Z D^-1 Z', (n, n) float64; added up over blocks of columns, so that no float64 copy of Z is made."""
    n, G = Z.shape
    out = np.zeros((n, n))
    for part in _blocks(n, G):
        block = Z[:, part] / np.sqrt(noise[part])
        out += block @ block.T
    return out


def leave_one_out(Z: np.ndarray, noise: np.ndarray, ridge: float) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(columns, errors e, variances v) in blocks of columns, each (n, len(columns)); see the module."""
    K = gram(Z, noise)
    K[np.diag_indices_from(K)] += ridge
    C = la.cho_solve(la.cho_factor(K, overwrite_a=True, check_finite=False), np.eye(len(K)), check_finite=False)
    own = np.diag(C)[:, None]
    for part in _blocks(*Z.shape):
        block = Z[:, part].astype(np.float64)
        U = C @ block
        q = np.einsum("ij,ij->j", block, U)
        # q_j < d_j always; rounding must not turn that round for a feature that others copy
        v = noise[part] / np.maximum(1 - (q - U**2 / own) / noise[part], 1e-6)
        yield part, v * U / (noise[part] * own), v


def fit_gaussian(T: np.ndarray) -> Gaussian:
    """Noise, ridge and fill of ``T``, (n, G) transformed with NaN, by passes of `leave_one_out`.

    Each pass replaces the missing values by their predictions, the noise of a feature by its mean squared error (over
    observed entries), and then moves the ridge to the neighbour on its grid with the lower error, if there is one. It
    stops when neither the ridge nor the error moves. Cost: three to fourteen passes of O(n^2 (n + G)).
    """
    missing = np.isnan(T)
    known = (~missing).sum(axis=0)
    Z = np.where(missing, 0, T).astype(np.float32)
    n, G = Z.shape
    noise = np.ones(G)
    place = RIDGES.index(4.0)
    losses: dict[int, float] = {}
    before = np.inf
    for number in range(PASSES + len(RIDGES)):
        Z, squares = _pass(Gaussian(Z, noise, RIDGES[place] * n), missing)
        loss = np.divide(squares, known, out=np.ones(G), where=known > 0)
        total = float(loss.mean())
        losses[place] = total
        settled = number >= 2 and abs(before - total) <= TOLERANCE * total
        before = total
        untried = [p for p in (place + 1, place - 1) if p not in losses and 0 <= p < len(RIDGES)]
        best = min(losses, key=lambda p: losses[p])
        if settled and best == place and not untried:
            break
        # while the noise still moves, losses of other ridges are not comparable: they are tried afterwards
        if settled or number >= PASSES:
            if best == place and untried:
                place = untried[0]
            elif best != place:
                place = best
                if all(p in losses for p in (place - 1, place + 1) if 0 <= p < len(RIDGES)):
                    break
            else:
                break
        noise = loss + FLOOR * float(np.median(loss)) + 1e-4
    return Gaussian(Z, noise, RIDGES[place] * n)


def refill(gaussian: Gaussian, missing: np.ndarray, *, passes: int = 2) -> np.ndarray:
    """(n, G) rows in which ``missing`` are predicted anew, and no more from what they were filled with before.

    With values marked as missing that were not when ``gaussian`` was learned, the fill of all others forgets them: the
    first pass gives them their own predictions, the second makes the others' from these.
    """
    Z = gaussian.Z
    for _ in range(passes):
        Z, _ = _pass(Gaussian(Z, gaussian.noise, gaussian.ridge), missing)
    return Z


def _pass(gaussian: Gaussian, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows with ``missing`` predicted, each from the others as they were, and (G,) sums of the squared errors."""
    Z = gaussian.Z
    squares = np.zeros(Z.shape[1])
    filled = Z.copy() if missing.any() else Z
    for part, error, _ in leave_one_out(Z, gaussian.noise, gaussian.ridge):
        gap = missing[:, part]
        squares[part] = np.where(gap, 0, error**2).sum(axis=0)
        if gap.any():
            filled[:, part] = np.where(gap, np.clip(Z[:, part] - error, -10, 10), Z[:, part])
    return filled, squares


def complete_rows(gaussian: Gaussian, T: np.ndarray) -> Gaussian:
    """The same Gaussian with the rows ``T``, (n, G) with NaN for missing, in place of the fewer it was learned from.

    The missing values are those at which (S^-1 z)_M = 0, which is their conditional mean. `REFINE` Jacobi steps (each
    the leave-one-feature-out prediction from the last fill) get near it but need not reach it. Cost: O(n r G) for r
    rows of ``gaussian``.
    """
    Z, noise = gaussian.Z, gaussian.noise
    K = gram(Z, noise)
    K[np.diag_indices_from(K)] += gaussian.ridge
    scaled = (Z / noise).astype(np.float32)  # Z D^-1
    factor = la.cholesky(K, lower=True, check_finite=False)
    solved = la.cho_solve((factor, True), Z.astype(np.float64), check_finite=False)
    left = np.maximum(1 - np.einsum("ij,ij->j", Z, solved) / noise, 1e-6)
    solved = solved.astype(np.float32)
    out = np.where(np.isnan(T), 0, T).astype(np.float32)
    step = max(1, _PIECE // Z.shape[1])
    for start in range(0, len(T), step):
        gap = np.isnan(T[start : start + step])
        block = out[start : start + step]
        for _ in range(REFINE if gap.any() else 0):
            error = (block - (block @ scaled.T) @ solved) / left
            block = np.where(gap, np.clip(block - error, -10, 10), block)
        out[start : start + step] = block
    return Gaussian(out, noise, gaussian.ridge * len(T) / len(Z))


def _blocks(n: int, G: int) -> Iterator[slice]:
    step = max(1, _PIECE // n)
    for start in range(0, G, step):
        yield slice(start, min(G, start + step))
