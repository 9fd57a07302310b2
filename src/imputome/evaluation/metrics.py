"""Scores of predictions against held-out truth. Arguments are keyword-only: swapped ones have fooled benchmarks.

Letters: ``x`` truth, ``mu`` prediction; each function takes arrays of one shape and an optional boolean ``held_out`` of
that shape, and averages over the entries where it is True (None: over all). `METRICS` names them all: a new metric is
one function and one line there.

Entries ``"all"`` need every entry of a thinned-off part: over hidden nonzeros alone they would reward a method that
raises every zero. `imputome.evaluation.streaming` computes them without a dense matrix, from per-entry ``terms``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from imputome.core.scales import counts_to_scale
from imputome.errors import InputError

FLOOR = 1e-8  # smallest rate in a Poisson loss
COVERAGE = 0.9
EDGES = np.array([0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0])  # strata of the predicted mean
ENOUGH = 1000  # entries below which a stratum's coverage is mostly noise

Entries = Literal["hidden", "all", "both"]
Better = Literal["lower", "higher", "one", "nominal"]
Terms = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class Metric:
    """One line of `METRICS`.

    Attributes
    ----------
    function : takes ``truth``, ``prediction``, ``held_out`` and what is named in ``needs``; returns a float.
    entries : which entries it is meant for: ``"hidden"`` ones, ``"all"`` of a thinned-off part, or ``"both"``.
    better : ``"lower"``, ``"higher"``, ``"one"`` (best at 1) or ``"nominal"`` (best at 0.9, the stated coverage).
    description : one line.
    terms : ``(x, mu, **needs) -> numerator, denominator`` per entry; the metric is the ratio of their sums.
    needs : further arguments, each an array that broadcasts to the shape of the truth.
    """

    function: Callable[..., float]
    entries: Entries
    better: Better
    description: str
    terms: Terms | None = None
    needs: tuple[str, ...] = ()


# --- real values and hidden entries ---------------------------------------------------------------------------------


def mse(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Mean of (x - mu)^2."""
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return float(np.mean((x - mu) ** 2))


def rmse(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Square root of `mse`."""
    return float(np.sqrt(mse(truth=truth, prediction=prediction, held_out=held_out)))


def nrmse(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Root mean squared error over hidden entries, divided by the mean of their truth; NaN where that mean is 0.

    Meant for counts: the mean of z-scored values lies near 0, and the quotient then says nothing.
    """
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return _ratio(float(np.sqrt(np.mean((x - mu) ** 2))), float(np.mean(x)))


def mae(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Mean of |x - mu|."""
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return float(np.mean(np.abs(x - mu)))


def pearson(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Pearson correlation over hidden entries; NaN where either does not vary."""
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return _cosine(x - x.mean(), mu - mu.mean())


def cosine(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Cosine of the angle between the two vectors of entries; NaN where either is all zero."""
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return _cosine(x, mu)


# --- counts, over all entries ---------------------------------------------------------------------------------------


def poisson_loss(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Mean of mu - x ln mu over *all* entries of a thinned-off part, constant left out; mu floored at 1e-8."""
    return _average(_poisson_loss, held_out, truth=truth, prediction=prediction)


def _poisson_loss(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    from scipy.special import xlogy  # no logarithm is taken where x is 0: nearly everywhere

    mu = np.maximum(mu, FLOOR)
    return mu - xlogy(x, mu), 1.0


def poisson_deviance(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Mean of 2 (x ln(x / mu) - (x - mu)), x ln x = 0 at 0, mu floored at 1e-8.

    No constant is left out, so 0 is perfect and percentages between methods mean something.
    """
    return _average(_poisson_deviance, held_out, truth=truth, prediction=prediction)


def _poisson_deviance(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    from scipy.special import xlogy

    mu = np.maximum(mu, FLOOR)
    return 2 * (xlogy(x, x / mu) - (x - mu)), 1.0


def nll(
    *,
    truth: np.ndarray,
    prediction: np.ndarray | None = None,
    size: Any = None,
    distribution: Any = None,
    held_out: np.ndarray | None = None,
) -> float:
    """Mean negative log-likelihood, constants included, under the distribution that was fitted.

    Parameters
    ----------
    prediction, size : mean mu (floored at 1e-8) and size r of a negative binomial, of variance mu + mu^2 / r; r
        broadcasts to the shape of the truth, and None or inf is a Poisson.
    distribution : instead of these, a frozen ``scipy.stats``-like distribution that broadcasts to the shape of the
        truth (``logpmf`` or ``logpdf``).
    """
    if (prediction is None) == (distribution is None):
        raise InputError("nll needs either a prediction (with its size) or a distribution: pass one of the two")
    if distribution is None:
        return _average(_nll, held_out, truth=truth, prediction=prediction, size=np.inf if size is None else size)
    density = getattr(distribution, "logpmf", None) or getattr(distribution, "logpdf", None)
    if density is None:
        raise InputError("the distribution has neither logpmf nor logpdf: freeze one of scipy.stats, or pass the size")
    _, logs = _entries(held_out, finite=False, truth=truth, prediction=density(np.asarray(truth)))
    return float(-np.mean(logs))


def _nll(x: Any, mu: np.ndarray, size: Any) -> tuple[Any, Any]:
    """Negative binomial, Poisson where ``size`` is infinite; ``x = 0`` as a scalar costs one log1p."""
    from scipy.special import betaln, gammaln, xlogy

    mu = np.maximum(mu, FLOOR)
    poisson = np.isinf(size)
    r = np.where(poisson, 1.0, size)
    at_zero = np.where(poisson, mu, r * np.log1p(mu / r))
    if np.ndim(x) == 0 and x == 0:
        return at_zero, 1.0
    # log C(x + r - 1, x) by the beta function: a difference of two large lgamma would lose digits
    r_part = betaln(r, x + 1.0) + np.log(r + x) - xlogy(x, mu / (r + mu))
    return at_zero + np.where(poisson, gammaln(x + 1.0) - xlogy(x, mu), r_part), 1.0


def mse_log1p(
    *, truth: np.ndarray, prediction: np.ndarray, library: Any = None, held_out: np.ndarray | None = None
) -> float:
    """Mean squared error of ln(1 + 1e4 x / library): biased on sparse held-out counts, never choose a method by it.

    The expectation of a logarithm is not the logarithm of an expectation: where the held-out part is sparse, all zeros
    beat the true rates. Both sides are divided by the *same* library, so that an error in depth counts.

    Parameters
    ----------
    library : molecules per cell at the depth of the truth, broadcasting to its shape, (n, 1); None takes the row sums
        of the truth, which must then be a matrix.
    """
    if library is None:
        if np.ndim(truth) != 2:
            raise InputError("mse_log1p needs the library of every entry where truth is no matrix: pass library=")
        library = np.asarray(truth, dtype=np.float64).sum(axis=1, keepdims=True)
    return _average(_mse_log1p, held_out, truth=truth, prediction=prediction, library=library)


def _mse_log1p(x: Any, mu: np.ndarray, library: np.ndarray) -> tuple[Any, Any]:
    x, mu = (counts_to_scale(np.asarray(value), library, "log1p") for value in (x, mu))
    return (x - mu) ** 2, 1.0


def total_ratio(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Sum of mu over sum of x: within 2 % of 1 for a method that claims the scale ``counts``."""
    return _average(_total_ratio, held_out, truth=truth, prediction=prediction)


def _total_ratio(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    return mu, x


def share_of_zeros_raised(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Share of the true zeros whose prediction lies above one count: what filling every zero costs; NaN without zeros.

    ``truth`` must hold the true zeros: the counts before any were hidden, not the hidden nonzeros.
    """
    return _average(_share_of_zeros_raised, held_out, truth=truth, prediction=prediction)


def _share_of_zeros_raised(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    zero = np.equal(x, 0)
    return zero & (mu > 1), zero


# --- intervals ------------------------------------------------------------------------------------------------------


def coverage_90(
    *,
    truth: np.ndarray,
    prediction: np.ndarray | None = None,
    size: Any = None,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
    held_out: np.ndarray | None = None,
    random_state: int = 0,
) -> float:
    """Coverage of 90 % intervals: 0.9 is right, more is too wide, less too narrow.

    Real values: pass ``lower`` and ``upper``; the share of truths within, ends included.

    Counts: pass the mean as ``prediction`` and the negative binomial's ``size`` (None or inf: Poisson). An interval
    that holds 0 covers nearly every held-out zero for free, so the randomised probability integral transform
    F(x - 1) + v (F(x) - F(x - 1)), v uniform, is asked to lie in [0.05, 0.95], within strata of the predicted mean; the
    coverage of the stratum that is furthest from 0.9, among those with 1,000 entries, is returned (all entries together
    if there is none). `coverage_by_mean` gives every stratum.
    """
    if lower is not None and upper is not None:
        x, low, high = _entries(held_out, truth=truth, lower=lower, upper=upper)
        return float(np.mean((low <= x) & (x <= high)))
    if prediction is None:
        raise InputError("coverage_90 needs lower and upper (real values) or prediction and size (counts)")
    inside, entries = _strata(truth, prediction, size, held_out, random_state)
    return worst_coverage(inside, entries)


def coverage_by_mean(
    *,
    truth: np.ndarray,
    prediction: np.ndarray,
    size: Any = None,
    held_out: np.ndarray | None = None,
    random_state: int = 0,
) -> dict[str, np.ndarray]:
    """`coverage_90` of counts in every stratum of the predicted mean: ``from``, ``to``, ``entries``, ``coverage``."""
    inside, entries = _strata(truth, prediction, size, held_out, random_state)
    coverage = np.divide(inside, entries, out=np.full(len(inside), np.nan), where=entries > 0)
    bounds = np.concatenate([[0.0], EDGES, [np.inf]])
    return {"from": bounds[:-1], "to": bounds[1:], "entries": entries, "coverage": coverage}


def _strata(
    truth: np.ndarray, prediction: np.ndarray, size: Any, held_out: np.ndarray | None, random_state: int
) -> tuple[np.ndarray, np.ndarray]:
    size = np.inf if size is None else size
    x, mu, r = _entries(held_out, truth=truth, prediction=prediction, size=size)
    at = np.flatnonzero(x)
    return covered(mu, r, at, x[at], np.random.default_rng(random_state))


def covered(
    mu: np.ndarray, size: np.ndarray, at: np.ndarray, x: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Entries inside the central 90 %, and entries, per stratum; counts are ``x`` at the flat positions ``at``, else 0.

    One uniform number is drawn per entry, in order: blocks of rows one after another give what the whole would.
    """
    from scipy.special import betainc, gammaincc

    mu, size = np.maximum(mu.ravel(), FLOOR), size.ravel()
    uniform = rng.random(mu.size)
    transform = uniform * np.exp(-_nll(0.0, mu, size)[0])
    m, r = mu[at], size[at]
    poisson = np.isinf(r)
    # F(x - 1) of the negative binomial by the incomplete beta function, of the Poisson by the gamma function
    below = np.where(poisson, gammaincc(x, m), betainc(np.where(poisson, 1.0, r), x, 1 / (1 + m / r)))
    transform[at] = below + uniform[at] * np.exp(-_nll(x, m, r)[0])
    tail = (1 - COVERAGE) / 2
    inside = (transform >= tail) & (transform <= 1 - tail)
    stratum = np.digitize(mu, EDGES)
    strata = len(EDGES) + 1
    return np.bincount(stratum, weights=inside, minlength=strata), np.bincount(stratum, minlength=strata)


def worst_coverage(inside: np.ndarray, entries: np.ndarray) -> float:
    """Coverage of the well-filled stratum furthest from 0.9; of all entries together where none is well filled."""
    filled = entries >= ENOUGH
    if not filled.any():
        return float(inside.sum() / entries.sum())
    coverage = inside[filled] / entries[filled]
    return float(coverage[np.argmax(np.abs(coverage - COVERAGE))])


# --- the table ------------------------------------------------------------------------------------------------------

METRICS: dict[str, Metric] = {
    "mse": Metric(mse, "hidden", "lower", "mean squared error"),
    "rmse": Metric(rmse, "hidden", "lower", "root mean squared error"),
    "nrmse": Metric(nrmse, "hidden", "lower", "root mean squared error over the mean of the hidden truths"),
    "mae": Metric(mae, "hidden", "lower", "mean absolute error"),
    "pearson": Metric(pearson, "hidden", "higher", "Pearson correlation"),
    "cosine": Metric(cosine, "hidden", "higher", "cosine similarity"),
    "poisson_loss": Metric(poisson_loss, "all", "lower", "mean of mu - x ln mu, constant left out", _poisson_loss),
    "poisson_deviance": Metric(poisson_deviance, "all", "lower", "Poisson deviance, 0 is perfect", _poisson_deviance),
    "nll": Metric(nll, "all", "lower", "negative log-likelihood of the fitted distribution", _nll, ("size",)),
    "mse_log1p": Metric(
        mse_log1p, "all", "lower", "mean squared error of log-normalised values (biased)", _mse_log1p, ("library",)
    ),
    "total_ratio": Metric(total_ratio, "both", "one", "total predicted over total true", _total_ratio),
    "share_of_zeros_raised": Metric(
        share_of_zeros_raised, "both", "lower", "share of true zeros raised above one count", _share_of_zeros_raised
    ),
    "coverage_90": Metric(coverage_90, "both", "nominal", "coverage of 90 % intervals", None, ("size",)),
}


# --- shared ---------------------------------------------------------------------------------------------------------


def _entries(held_out: np.ndarray | None, *, finite: bool = True, **arrays: Any) -> list[np.ndarray]:
    """The arrays at the held-out entries, flat and float64; ``library`` and ``size`` broadcast, others must match."""
    shape = np.shape(arrays["truth"])
    flat = []
    for name, array in arrays.items():
        values = np.asarray(array, dtype=np.float64)
        if name in ("library", "size"):
            try:
                values = np.broadcast_to(values, shape)
            except ValueError:
                raise InputError(
                    f"{name} has shape {values.shape}, which does not fit {shape}, the shape of truth"
                ) from None
        elif values.shape != shape:
            raise InputError(f"truth has shape {shape}, {name} {values.shape}: they must be the same")
        flat.append(values)
    if held_out is None:
        flat = [values.ravel() for values in flat]
    else:
        held_out = np.asarray(held_out)
        if held_out.shape != shape or held_out.dtype != bool:
            raise InputError(f"held_out must be a boolean array of shape {shape}, as truth")
        flat = [values[held_out] for values in flat]
    if flat[0].size == 0:
        raise InputError("there are no entries to score")
    for name, values in zip(arrays, flat, strict=True):
        if finite and name != "size" and not np.isfinite(values).all():
            raise InputError(f"{name} holds NaN or infinite values: score finite entries only, by held_out=")
    return flat


def _average(terms: Terms, held_out: np.ndarray | None, **arrays: Any) -> float:
    """Sum of the terms' numerators over the sum of their denominators."""
    x, mu, *more = _entries(held_out, **arrays)
    top, bottom = terms(x, mu, *more)
    return _ratio(float(np.sum(top)), float(np.sum(np.broadcast_to(bottom, mu.shape))))


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom != 0 else float("nan")


def _cosine(x: np.ndarray, mu: np.ndarray) -> float:
    size = np.sqrt(np.sum(x * x) * np.sum(mu * mu))
    return float(np.sum(x * mu) / size) if size > 0 else float("nan")
