"""The two parts of the hurdle model: likelihood-ratio statistics for many genes at once.

Letters: ``n`` cells, ``B`` genes of a block, ``m`` detected cells of a gene, ``k`` columns of a design.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy import special, stats

if TYPE_CHECKING:
    import scipy.sparse as sp

ENTRIES = 2**20  # cells x genes worked on at a time
NEWTON_STEPS = 100
NEWTON_TOLERANCE = 1e-8  # left to gain in the log-likelihood; a likelihood-ratio statistic is off by twice that


def indicator(block: sp.csc_array) -> sp.csc_array:
    """One where a value is stored: the cells that have the gene."""
    import scipy.sparse as sp

    return sp.csc_array((np.ones(block.nnz), block.indices, block.indptr), shape=block.shape)


def logistic_gain(sums: np.ndarray, null: np.ndarray, full: np.ndarray) -> np.ndarray:
    """(B,) twice the gain in log-likelihood of detection by the group.

    Parameters
    ----------
    sums : (B, k) rows of ``full`` summed over the cells that have the gene.
    null, full : (n, k - 1) and (n, k) designs: intercept and covariate; one column a group and covariate.
    """
    if full.shape[1] == 2:  # no covariate: proportions are the maximum
        size = full.sum(axis=0)
        apart = special.xlogy(sums, sums / size) + special.xlogy(size - sums, 1 - sums / size)
        k, n = sums.sum(axis=1), size.sum()
        gain = apart.sum(axis=1) - special.xlogy(k, k / n) - special.xlogy(n - k, 1 - k / n)
    else:
        # the sum of the two group columns is the intercept of the null design
        together = np.column_stack([sums[:, :2].sum(axis=1), sums[:, 2:]])
        gain = logistic_maximum(sums, full) - logistic_maximum(together, null)
    return np.maximum(2 * gain, 0)


def logistic_maximum(sums: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Maximum log-likelihood of many logistic regressions on one design, by Newton's method with halved steps.

    Maximises ``sums_b . a - sum_i log(1 + exp(z_i a))`` over a, concave; a Newton step that loses is halved. Stops when
    half the Newton decrement is under 1e-8. Where the design separates the outcomes, the supremum is approached.

    Parameters
    ----------
    sums : (B, k), for each outcome y_b (0 or 1) the sums ``design' y_b``.
    design : (n, k).

    Returns
    -------
    (B,) log-likelihoods.
    """
    B, k = sums.shape
    n = len(design)
    result = np.empty(B)
    products = (design[:, :, None] * design[:, None, :]).reshape(n, k * k)
    size = max(1, ENTRIES // n)
    for start in range(0, B, size):
        part = sums[start : start + size]
        result[start : start + size] = _newton(part, design, products)
    return result


def _newton(sums: np.ndarray, design: np.ndarray, products: np.ndarray) -> np.ndarray:
    B, k = sums.shape
    best = np.full(B, -np.inf)
    coefficients, step = np.zeros((B, k)), np.zeros((B, k))
    active = np.arange(B)
    for _ in range(NEWTON_STEPS):
        trial = coefficients[active] + step[active]
        eta = design @ trial.T  # (n, b)
        small = np.exp(-np.abs(eta))
        value = (sums[active] * trial).sum(axis=1) - (np.maximum(eta, 0) + np.log1p(small)).sum(axis=0)
        gained = value >= best[active]
        step[active[~gained]] /= 2
        # a step halved until rounding hides its gain ends the search
        ended = ~gained & (best[active] - value < NEWTON_TOLERANCE)
        rows, eta, small = active[gained], eta[:, gained], small[:, gained]
        best[rows] = value[gained]
        coefficients[rows] = trial[gained]
        p = np.where(eta > 0, 1.0, small) / (1 + small)
        gradient = sums[rows] - p.T @ design
        hessian = ((small / (1 + small) ** 2).T @ products).reshape(-1, k, k)
        # relative to each diagonal element: a group without detections has weights near zero, and still steps by one
        diagonal = np.einsum("bkk->bk", hessian)
        diagonal += 1e-10 * diagonal + 1e-13
        step[rows] = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        ended[gained] = (gradient * step[rows]).sum(axis=1) / 2 < NEWTON_TOLERANCE
        active = active[~ended]
        if not len(active):
            return best
    warnings.warn(
        f"the logistic part of {len(active)} genes did not converge in {NEWTON_STEPS} steps: their p-values are rough",
        RuntimeWarning,
        stacklevel=5,
    )
    return best


def gaussian_gain(block: sp.csc_array, group: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Likelihood-ratio statistic and degrees of freedom of the level among detected cells, per gene of a block.

    Least squares in closed form: level and group are made orthogonal to the null design (Frisch-Waugh), and the group
    explains ``s_gy^2 / s_gg`` of the residual sum of squares s_yy, so the statistic is -m log(1 - s_gy^2 / s_gg / s_yy)
    for m detected cells.
    """
    import scipy.sparse as sp

    m = np.diff(block.indptr).astype(np.float64)
    safe = np.maximum(m, 1)
    seen = indicator(block)
    gene = np.repeat(np.arange(block.shape[1]), np.diff(block.indptr))
    mean = np.bincount(gene, weights=block.data, minlength=len(m)) / safe
    centred = sp.csc_array((block.data - mean[gene], block.indices, block.indptr), shape=block.shape)
    tested = seen.T @ group
    s_yy = np.bincount(gene, weights=centred.data**2, minlength=len(m))
    scale = np.bincount(gene, weights=block.data.astype(np.float64) ** 2, minlength=len(m))
    s_gy = centred.T @ group
    s_gg = tested * (1 - tested / safe)
    used = np.full(len(m), 2.0)
    if null.shape[1] == 2:
        c = null[:, 1]
        c_sum, gc = seen.T @ c, seen.T @ (group * c)
        raw = seen.T @ c**2
        s_cc, s_gc, s_cy = raw - c_sum**2 / safe, gc - tested * c_sum / safe, centred.T @ c
        varies = s_cc > 1e-10 * np.maximum(raw, 1)
        s_cc = np.where(varies, s_cc, np.inf)  # a covariate that does not vary takes nothing away
        used += varies
        s_yy, s_gy, s_gg = s_yy - s_cy**2 / s_cc, s_gy - s_gc * s_cy / s_cc, s_gg - s_gc**2 / s_cc
    informs = (m > used) & (s_gg > 1e-8) & (s_yy > 1e-12 * scale)
    left = 1 - s_gy**2 / np.where(informs, s_gg * s_yy, np.inf)
    exact = informs & (left * s_yy <= 1e-12 * scale)
    statistic = np.where(informs, -m * np.log(np.where(exact | ~informs, 1.0, left)), 0.0)
    if exact.any():
        choices = special.gammaln(m + 1) - special.gammaln(tested + 1) - special.gammaln(m - tested + 1)
        statistic[exact] = stats.chi2.isf(np.exp(np.maximum(-choices[exact], -700)), 1)
    return np.maximum(statistic, 0), informs.astype(np.float64)
