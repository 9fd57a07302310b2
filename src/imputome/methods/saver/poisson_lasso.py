"""Poisson regression with the lasso of many genes on other genes, the strength of the penalty by cross-validation.

Letters: ``n`` cells, ``P`` genes that may predict, ``T`` genes to predict, ``K`` predictors that one regression may
use, ``x`` their values, ``y`` counts of the gene to predict, ``s`` size factors.

For one gene the objective is ``sum_i s_i mu_i - y_i log mu_i + lam sum_j sd_j |beta_j|`` with
``log mu_i = intercept + sum_j beta_j x_ij``, where sd_j is the standard deviation of x_j: the lasso of standardised
predictors, the intercept free. It is solved by proximal Newton steps: a step's quadratic problem by coordinate descent
(Friedman, Hastie & Tibshirani 2010), and the step is halved until the objective does not rise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numba import prange

from imputome.core.compiled import compiled
from imputome.methods.similar_cells import summed

FOLDS = 5
STRENGTHS = 30  # values of lam: lam_max times the powers of STEP
STEP = 0.8
WORSE = 3  # the path ends when so many strengths in a row did not lower the held-out loss
GENES_AT_ONCE = 64  # regressions between two reports of progress
TOLERANCE = 1e-5  # of the null deviance: a change of the quadratic objective below it is no change
NEWTON_STEPS, SWEEPS, HALVINGS = 25, 100, 20
LARGEST_LOG = 30.0  # exp of more is not computed


@dataclass(frozen=True)
class Regressions:
    """The fitted regressions: mean of gene t in a cell = ``base[t] * exp(x . coefficients[:, t])``, times s."""

    base: np.ndarray  # (T,) exp of the intercept
    coefficients: sp.csr_array  # (P, T) float32
    gain: np.ndarray  # (T,) held-out log-likelihood over that of the mean, in standard errors; 0 for the mean


def fit_regressions(
    x: sp.csr_array,
    y: sp.csc_array,
    s: np.ndarray,
    own: np.ndarray,
    *,
    max_predictors: int,
    min_gain: float,
    fold: np.ndarray,
    tell: Callable[[float, str], None] = lambda share, text: None,
) -> Regressions:
    """Fit the regression of each gene, with lam by cross-validation.

    Parameters
    ----------
    x : csr_array of shape (n, P)
        Values of the genes that may predict, float32.
    y : csc_array of shape (n, T)
        Counts of the genes to predict.
    s : ndarray of shape (n,)
        Size factors, positive.
    own : ndarray of shape (T,)
        Place of the gene itself among the P, which it must not use; -1 if it is none of them.
    max_predictors : int
        K: only the genes that correlate most with the gene beyond its mean can get a coefficient, those with the
        largest gradient of the objective at beta = 0.
    min_gain : float
        A gene keeps its mean if cross-validation gains less than this many standard errors (over the folds).
    fold : ndarray of shape (n,)
        Part of each cell, from 0 to `FOLDS` less 1.
    tell : callable, optional
        Progress.

    Returns
    -------
    Regressions

    Notes
    -----
    Cost: for each gene 6 paths (the folds and all cells) of at most `STRENGTHS` solutions; a sweep over predictors
    costs twice the nonzeros of their columns. Memory: the columns of x, and 10 n numbers for each thread.
    """
    P, T = x.shape[1], y.shape[1]
    totals = np.asarray(y.sum(axis=0, dtype=np.float64)).ravel()
    mean = totals / s.sum()
    columns = sp.csc_array(x, dtype=np.float32)
    sd = column_sds(columns)
    by_predictor = sp.csr_array(x.T.tocsr(), dtype=np.float32)
    parts = [np.flatnonzero(fold == f) for f in range(FOLDS)]
    folds = [(cells, sp.csr_array(by_predictor[:, cells])) for cells in parts]
    K = min(max_predictors, P - 1)
    base, gain = mean.copy(), np.zeros(T)
    rows: list[np.ndarray] = []
    places: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for start in range(0, T if K > 0 else 0, GENES_AT_ONCE):
        genes = np.arange(start, min(T, start + GENES_AT_ONCE))
        tell(start / T, f"regression {start + 1} of {T}")
        part = sp.csc_array(y[:, genes])
        chosen = _screened(folds, part, s, sd, own[genes], K)
        beta, intercept, gained = _cross_validated(
            columns.indptr,
            columns.indices,
            columns.data,
            sd,
            *(part.indptr, part.indices, part.data.astype(np.float64)),
            *(s, fold, chosen),
        )
        good = gained > min_gain
        gain[genes[good]] = gained[good]
        base[genes[good]] = np.exp(intercept[good])
        which, place = np.nonzero(beta * good[:, None])
        rows.append(chosen[which, FOLDS, place])
        places.append(genes[which])
        values.append(beta[which, place])
    joined = [np.concatenate(part) if part else np.empty(0) for part in (values, rows, places)]
    coefficients = sp.csr_array(
        (joined[0].astype(np.float32), (joined[1].astype(np.int64), joined[2].astype(np.int64))), shape=(P, T)
    )
    return Regressions(base, coefficients, gain)


def _screened(
    folds: list[tuple[np.ndarray, sp.csr_array]],
    y: sp.csc_array,
    s: np.ndarray,
    sd: np.ndarray,
    own: np.ndarray,
    K: int,
) -> np.ndarray:
    """(T, FOLDS + 1, K) places of the predictors with the largest gradients at beta = 0, without a fold and with all.

    Each fold has its own choice: predictors that were chosen with the cells held out would seem to predict these.
    ``folds`` are the cells of each fold, and their values (P, cells).
    """
    T = y.shape[1]
    by_cell = sp.csr_array(y, dtype=np.float32)
    products, levels, totals, sizes = [], [], [], []
    for cells, x in folds:
        products.append(summed(x, by_cell[cells]).astype(np.float64))  # (P, T)
        levels.append(x @ s[cells])
        totals.append(np.asarray(by_cell[cells].sum(axis=0, dtype=np.float64)).ravel())
        sizes.append(s[cells].sum())
    chosen = np.empty((T, FOLDS + 1, K), np.int64)
    inside = np.flatnonzero(own >= 0)
    for f in range(FOLDS + 1):
        without = [f] if f < FOLDS else []
        product, level, total, size = (
            sum(values) - sum(values[g] for g in without) for values in (products, levels, totals, sizes)
        )
        gradient = product - np.outer(level, total / size)
        score = np.divide(np.abs(gradient), sd[:, None], out=np.full(gradient.shape, -1.0), where=sd[:, None] > 0)
        score[own[inside], inside] = -1.0
        chosen[:, f] = np.argsort(-score, axis=0, kind="stable")[:K].T
    return chosen


def poisson_lasso(x: sp.csc_array, y: np.ndarray, s: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, float]:
    """The coefficients, (K,), and the intercept that minimise the objective for one gene.

    ``penalty`` is lam sd_j, (K,); all cells and all columns of ``x`` (n, K) are used. The tolerance is 1e-7 times
    that of `fit_regressions`.
    """
    n, K = x.shape
    y, s = y.astype(np.float64), s.astype(np.float64)
    # the types that `fit_regressions` has, so that one version is compiled
    parts = (x.indptr.astype(np.int32), x.indices.astype(np.int32), x.data.astype(np.float32))
    beta, eta = np.zeros(K), np.full(n, np.log(y.sum() / s.sum()))
    floor = 1e-7 * TOLERANCE * _null_deviance(y, s)
    _solve(*parts, np.arange(K), penalty.astype(np.float64), y, s, beta, eta, floor)
    return beta, float(np.mean(eta - x @ beta))


def column_sds(x: sp.csc_array) -> np.ndarray:
    """(P,) standard deviations of the columns, 0 if they are constant."""
    n = x.shape[0]
    column = np.repeat(np.arange(x.shape[1]), np.diff(x.indptr))
    wide = x.data.astype(np.float64)
    mean = np.bincount(column, wide, x.shape[1]) / n
    # the zeros' part apart, because a difference of large sums would be noise for a constant column
    squares = np.bincount(column, (wide - mean[column]) ** 2, x.shape[1]) + (n - np.diff(x.indptr)) * mean**2
    sd = np.sqrt(squares / n)
    return np.where(sd > 1e-6 * np.maximum(mean, 1e-30), sd, 0.0)


@compiled(fastmath=True)
def _null_deviance(y, s):  # type: ignore[no-untyped-def]
    """The deviance of the mean, the scale of the tolerance."""
    molecules, size, total = 0.0, 0.0, 0.0
    for i in range(len(y)):
        molecules += y[i]
        size += s[i]
    level = np.log(molecules / size)
    for i in range(len(y)):
        if y[i] > 0:
            total += y[i] * (np.log(y[i] / s[i]) - level)
    return 2 * max(total, 1e-12)


@compiled(fastmath=True)
def _objective(y, s, eta, w):  # type: ignore[no-untyped-def]
    """The sum of s mu - y eta; sets w = s mu."""
    total = 0.0
    for i in range(len(y)):
        w[i] = s[i] * np.exp(min(eta[i], LARGEST_LOG))
        total += w[i] - y[i] * eta[i]
    return total


@compiled(fastmath=True)
def _solve(indptr, indices, data, columns, penalty, y, s, beta, eta, floor):  # type: ignore[no-untyped-def]
    """Minimise the objective from ``beta`` (K,) and ``eta`` (n,) = intercept + x beta, which change in place.

    A cell with s = y = 0 has no influence; its eta is kept up to date. ``penalty`` is lam sd_j, (K,). With w = s mu the
    gradient of the quadratic problem in beta_j is sum_i x_ij (wr_i + c w_i): wr is the working residual times w without
    the change of the intercept, which is c, so that an update touches only the nonzeros of a column.
    """
    n, K = len(y), len(columns)
    w, wr, step = np.empty(n), np.empty(n), np.empty(n)
    before = np.empty(K)
    mean, curvature, known = np.empty(K), np.empty(K), np.zeros(K, np.int64)
    value = _objective(y, s, eta, w)
    for j in range(K):
        value += penalty[j] * abs(beta[j])
    for newton in range(1, NEWTON_STEPS + 1):
        total, gap = 0.0, 0.0
        for i in range(n):
            wr[i] = y[i] - w[i]
            total += w[i]
            gap += wr[i]
        c = -gap / total
        largest = gap * gap / total
        for j in range(K):
            before[j] = beta[j]
        for sweep in range(SWEEPS):
            change = 0.0
            for j in range(K):
                if sweep > 0 and beta[j] == 0.0:  # the first sweep sees all, the others those that are not 0
                    continue
                low, high = indptr[columns[j]], indptr[columns[j] + 1]
                gradient = 0.0
                for p in range(low, high):
                    gradient += data[p] * (wr[indices[p]] + c * w[indices[p]])
                if beta[j] == 0.0 and abs(gradient) <= penalty[j]:  # most predictors, most of the time
                    continue
                if known[j] != newton:
                    known[j] = newton
                    first, second = 0.0, 0.0
                    for p in range(low, high):
                        product = data[p] * w[indices[p]]
                        first += product
                        second += data[p] * product
                    mean[j] = first / total
                    curvature[j] = second - first * mean[j]
                if curvature[j] <= 1e-9 * total * mean[j] * mean[j] or curvature[j] <= 1e-300:
                    continue
                place = gradient + curvature[j] * beta[j]
                new = 0.0
                if place > penalty[j]:
                    new = (place - penalty[j]) / curvature[j]
                elif place < -penalty[j]:
                    new = (place + penalty[j]) / curvature[j]
                delta = new - beta[j]
                if delta != 0.0:
                    beta[j] = new
                    for p in range(low, high):
                        wr[indices[p]] -= delta * data[p] * w[indices[p]]
                    c += delta * mean[j]
                    change = max(change, curvature[j] * delta * delta)
            if change < floor:
                break
        for i in range(n):
            step[i] = -c
        for j in range(K):
            delta = beta[j] - before[j]
            if delta != 0.0:
                largest = max(largest, curvature[j] * delta * delta)
                for p in range(indptr[columns[j]], indptr[columns[j] + 1]):
                    step[indices[p]] += delta * data[p]
        share = 1.0
        for i in range(n):
            eta[i] += step[i]
        for halving in range(HALVINGS):
            new_value = _objective(y, s, eta, w)
            for j in range(K):
                new_value += penalty[j] * abs(beta[j])
            if new_value <= value + 1e-9 * abs(value) or halving == HALVINGS - 1:
                break
            share *= 0.5
            for i in range(n):
                eta[i] -= share * step[i]
            for j in range(K):
                beta[j] = before[j] + 0.5 * (beta[j] - before[j])
        value = new_value
        if largest < floor:
            break


@compiled(parallel=True)
def _cross_validated(  # type: ignore[no-untyped-def]
    indptr, indices, data, sd, y_indptr, y_indices, y_data, s, fold, chosen
):
    """For T genes the coefficients, (T, K), and intercepts at the best strength, and the gain in standard errors."""
    T, _, K = chosen.shape
    out, intercept, gain = np.zeros((T, K)), np.zeros(T), np.zeros(T)
    for t in prange(T):
        genes = slice(y_indptr[t], y_indptr[t + 1])
        intercept[t], gain[t] = _cross_validated_gene(
            indptr, indices, data, sd, y_indices[genes], y_data[genes], s, fold, chosen[t], out[t]
        )
    return out, intercept, gain


@compiled(fastmath=True)
def _cross_validated_gene(indptr, indices, data, sd, cells, counts, s, fold, chosen, out):  # type: ignore[no-untyped-def]
    """`_cross_validated` for one gene with these ``counts`` in these ``cells``; sets ``out`` (K,)."""
    n, K = len(s), chosen.shape[1]
    y = np.zeros(n)
    for p in range(len(cells)):
        y[cells[p]] = counts[p]
    # the last one is all cells, the others lack a fold
    ys, ss = np.empty((FOLDS + 1, n)), np.empty((FOLDS + 1, n))
    eta, beta, penalty = np.empty((FOLDS + 1, n)), np.zeros((FOLDS + 1, K)), np.empty(K)
    null, floor, sizes = np.zeros(FOLDS), np.zeros(FOLDS + 1), np.zeros(FOLDS + 1)
    for f in range(FOLDS + 1):
        total = 0.0
        for i in range(n):
            use = 0.0 if fold[i] == f else 1.0
            ys[f, i], ss[f, i] = use * y[i], use * s[i]
            total += ys[f, i]
            sizes[f] += ss[f, i]
        if total <= 0:  # all molecules in one fold
            return 0.0, 0.0
        for i in range(n):
            eta[f, i] = np.log(total / sizes[f])
        floor[f] = TOLERANCE * _null_deviance(ys[f], ss[f])
        if f < FOLDS:
            null[f] = _held_out(y, s, eta[f], fold, f)
    strongest, level = 0.0, np.exp(eta[FOLDS, 0])
    for j in range(K):
        column = chosen[FOLDS, j]
        if sd[column] > 0:
            gradient = 0.0
            for p in range(indptr[column], indptr[column + 1]):
                gradient += data[p] * (y[indices[p]] - s[indices[p]] * level)
            strongest = max(strongest, abs(gradient) / sd[column])
    best, gain, intercept, worse, lam = 0.0, 0.0, 0.0, 0, strongest
    losses = np.empty(FOLDS)
    for _ in range(STRENGTHS if strongest > 0 else 0):
        lam *= STEP
        total = 0.0
        for f in range(FOLDS + 1):
            if f == FOLDS and total <= best:  # all cells are not needed at this strength
                break
            # the penalty of a mean over cells, so that lam means the same for fewer cells
            for j in range(K):
                deviation = sd[chosen[f, j]]
                penalty[j] = lam * deviation * sizes[f] / sizes[FOLDS] if deviation > 0 else np.inf
            _solve(indptr, indices, data, chosen[f], penalty, ys[f], ss[f], beta[f], eta[f], floor[f])
            if f < FOLDS:
                losses[f] = null[f] - _held_out(y, s, eta[f], fold, f)
                total += losses[f]
        if total <= best:
            worse += 1
            if worse == WORSE:
                break
            continue
        best, worse = total, 0
        gain = total / max(np.sqrt(FOLDS) * _sd(losses), 1e-12)
        intercept = 0.0
        for i in range(n):
            intercept += eta[FOLDS, i] / n
        for j in range(K):
            out[j] = beta[FOLDS, j]
            if out[j] != 0.0:
                for p in range(indptr[chosen[FOLDS, j]], indptr[chosen[FOLDS, j] + 1]):
                    intercept -= data[p] * out[j] / n
    return intercept, gain


@compiled(fastmath=True)
def _held_out(y, s, eta, fold, f):  # type: ignore[no-untyped-def]
    """The Poisson loss of the cells of a fold, without the constant."""
    total = 0.0
    for i in range(len(y)):
        if fold[i] == f:
            total += s[i] * np.exp(min(eta[i], LARGEST_LOG)) - y[i] * eta[i]
    return total


@compiled()
def _sd(values):  # type: ignore[no-untyped-def]
    """The standard deviation, with the divisor number less 1."""
    mean, squares = 0.0, 0.0
    for value in values:
        mean += value / len(values)
    for value in values:
        squares += (value - mean) ** 2
    return np.sqrt(squares / (len(values) - 1))
