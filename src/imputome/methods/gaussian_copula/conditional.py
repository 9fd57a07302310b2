"""What a row's observed features say about its others: Gaussian, kernel and local predictors over the training rows.

Letters: n training rows (or as many of them as are used), G features that vary, O the observed features of a row t,
d the noise per feature, c the ridge. With K = Z_O D_O^-1 Z_O' (n x n) and k = Z_O D_O^-1 t_O, the Gaussian with
covariance Z'Z / c + D has the conditional mean Z_M' (K + c I)^-1 k for the features M that are missing (the Woodbury
identity turns the solve over |O| features into one over n rows). Every predictor here is such a vector of n weights on
the training rows; they differ in the kernel that takes the place of K. A row that was trained on is left out of its
own system.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from imputome.methods.gaussian_copula.noise import Gaussian, gram

LARGE = 1000  # training rows up to which a row's system holds all of them
ANCHORS = 256  # training rows in a row's system where there are more
GUIDES = 1024  # features that decide which training rows are near, where there are more
SURPRISE = 4.0  # standardised residuals beyond it count as it
PRIOR = 20.0  # features that the prior scale of a row's residuals counts for


@dataclass(frozen=True)
class Member:
    """One predictor: its kernel and its own noise.

    ``gaussian``: K. ``sum``: K + height c exp(-r / length), a Gaussian process over rows whose second part is a Laplace
    kernel of r, the noise-weighted root mean squared distance of two rows over O. ``laplace``: exp(-r / length) alone,
    ``noise`` then in units of that kernel. ``local``: a ridge regression centred and weighted with exp(-r / length).
    ``noise`` is in units of c otherwise.
    """

    kind: str
    noise: float
    length: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Row:
    """Prediction of one row on the transformed scale.

    Attributes
    ----------
    mean : (G,), or (k, G) under k sets of weights, for all features; an observed one is informed by its own value.
    variance : (G,) of the Gaussian, noise included, before the row's scale.
    scale : standard deviation of this row's observed residuals over what the Gaussian expects.
    missing : (m,) positions of the features that are not observed.
    roots : (n, m) with roots' roots the covariance of the missing beyond their noise.
    rows : training rows that the mean is made of.
    shares : their weights, (len(rows),) or (k, len(rows)).
    """

    mean: np.ndarray
    variance: np.ndarray
    scale: float
    missing: np.ndarray
    roots: np.ndarray
    rows: np.ndarray
    shares: np.ndarray


class Conditional:
    """Predicts rows from the training rows.

    Cost of a row with m missing features: O(n^2 m) for K, by taking the missing features out of the full Gram matrix
    (or from the observed ones, if they are fewer), and O(n^3) for each member. Above `LARGE` training rows the
    `ANCHORS` nearest take the place of all (the ridge scaled down to their number): O(ANCHORS^2 G) a row.
    """

    def __init__(self, gaussian: Gaussian, members: tuple[Member, ...], weights: np.ndarray, explained: np.ndarray):
        self.gaussian, self.members, self.weights, self.explained = gaussian, members, weights, explained
        self.scale = (1 / np.sqrt(gaussian.noise)).astype(np.float32)
        self.small = len(gaussian.Z) <= LARGE
        if self.small:
            self.scaled = gaussian.Z / np.sqrt(gaussian.noise)
            self.gram = gram(gaussian.Z, gaussian.noise)
        else:
            self.guides = np.sort(np.argsort(gaussian.noise, kind="stable")[:GUIDES])
            self.near = gaussian.Z[:, self.guides] * self.scale[self.guides]

    def predict(self, t: np.ndarray, own: int | None = None) -> Row:
        """The row ``t``, (G,) with NaN for missing; ``own`` is its place among the training rows, if it has one."""
        rows, ridge, prior, k, own_norm = self._system(t, own)
        observed = ~np.isnan(t)
        missing = np.flatnonzero(~observed)
        noise = self.gaussian.noise
        total = float((1 / noise[observed]).sum())
        Z = self.gaussian.Z[rows]
        if total == 0:
            # nothing is known: the training rows' own covariance, as the ridge leaves too little of it
            roots = Z.astype(np.float64) * np.sqrt(np.maximum(1 - noise, 0) / len(Z))
            sets = self.weights.shape[:-1]
            nothing = np.zeros((*sets, len(rows)))
            return Row(np.zeros((*sets, len(t))), np.ones(len(t)), 1.0, missing, roots, rows, nothing)
        found = solve_members(
            prior, k, own_norm, self.members, ridge=ridge, total=total, whole=float((1 / noise).sum())
        )
        shares = self.weights @ found
        mean = shares @ Z
        base = la.cholesky(prior + ridge * np.eye(len(prior)), lower=True, check_finite=False)
        roots = la.solve_triangular(base, Z[:, missing].astype(np.float64), lower=True, check_finite=False)
        simple = la.cho_solve((base, True), k, check_finite=False) @ Z
        # leave-one-feature-out residuals of the observed, over their standard deviations
        left = np.maximum(1 - self.explained / noise, 1e-6)
        surprise = np.minimum((t - simple)[observed] ** 2 / (noise * left)[observed], SURPRISE**2)
        scale = float(np.sqrt((PRIOR + surprise.sum()) / (PRIOR + len(surprise))))
        variance = noise / left
        variance[missing] = noise[missing] + np.einsum("nm,nm->m", roots, roots)
        return Row(mean, variance, scale, missing, roots, rows, shares)

    def _system(self, t: np.ndarray, own: int | None) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, float]:
        """The training rows used, their ridge, K, k and |t|^2, all over the observed features."""
        Z, noise = self.gaussian.Z, self.gaussian.noise
        observed = ~np.isnan(t)
        filled = np.where(observed, t, 0) / np.sqrt(noise)
        norm = float(filled @ filled)
        if not self.small:
            rows = self._nearest(t, own)
            part = Z[rows] * (self.scale * observed)
            K = (part @ part.T).astype(np.float64)
            return rows, self.gaussian.ridge * len(rows) / len(Z), K, part @ filled, norm
        rows = np.arange(len(Z)) if own is None else np.delete(np.arange(len(Z)), own)
        fewer = ~observed if 2 * observed.sum() > len(t) else observed
        part = self.scaled[:, fewer]
        K = part @ part.T
        if fewer is not observed:
            K = self.gram - K
        return rows, self.gaussian.ridge, K[np.ix_(rows, rows)], (self.scaled @ filled)[rows], norm

    def _nearest(self, t: np.ndarray, own: int | None) -> np.ndarray:
        known = ~np.isnan(t[self.guides])
        place = np.where(known, t[self.guides], 0).astype(np.float32) * self.scale[self.guides]
        gaps = np.square(self.near - place) @ known.astype(np.float32)
        if own is not None:
            gaps[own] = np.inf
        return np.sort(np.argsort(gaps, kind="stable")[:ANCHORS])


def solve_members(
    K: np.ndarray,
    k: np.ndarray,
    norm: float,
    members: tuple[Member, ...],
    *,
    ridge: float,
    total: float,
    whole: float,
) -> np.ndarray:
    """(members, n) weights on the training rows.

    Parameters
    ----------
    K, k, norm : inner products over O, divided by the noise: of the training rows, of these with the row, of the row.
    ridge : c.
    total, whole : sums of 1 / d over O and over all features; distances are per unit of ``total``.
    """
    diagonal = np.diag(K)
    between, to_row = np.empty(0), np.empty(0)
    if any(member.kind != "gaussian" for member in members):
        between = np.maximum(diagonal[:, None] + diagonal - 2 * K, 0) / total
        between = np.sqrt(between, out=between)
        np.fill_diagonal(between, 0)
        to_row = np.sqrt(np.maximum(diagonal + norm - 2 * k, 0) / total)
    out = np.empty((len(members), len(k)))
    for place, member in enumerate(members):
        if member.kind == "gaussian":
            out[place] = _solve(K.copy(), k, member.noise * ridge)
        elif member.kind == "sum":
            kernel = np.exp(between / -member.length)
            near = np.exp(to_row / -member.length)
            height = member.height * ridge
            out[place] = _solve(kernel * height + K, near * height + k, member.noise * ridge)
        elif member.kind == "laplace":
            kernel = np.exp(between / -member.length)
            # a distance over few features says little
            out[place] = _solve(kernel, np.exp(to_row / -member.length), member.noise * whole / total)
        else:
            out[place] = _local(K, k, to_row, member.length, member.noise * ridge)
    return out


def _solve(kernel: np.ndarray, right: np.ndarray, noise: float) -> np.ndarray:
    kernel[np.diag_indices_from(kernel)] += noise
    return la.solve(kernel, right, assume_a="pos", overwrite_a=True, check_finite=False)


def _local(K: np.ndarray, k: np.ndarray, to_row: np.ndarray, length: float, noise: float) -> np.ndarray:
    near = np.exp((to_row - to_row.min()) / -length)
    root, share = np.sqrt(near), near / near.sum()
    lean = K @ share
    centred = K - lean[:, None] - lean + share @ lean
    centred *= root[:, None] * root
    right = root * (k - lean - share @ k + share @ lean)
    weights = _solve(centred, right, noise) * root
    return weights + share * (1 - weights.sum())
