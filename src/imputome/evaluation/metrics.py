"""Scores of predictions against held-out truth. `METRICS` lists them; a new one is one function and one line there.

Letters: ``x`` truth, ``mu`` prediction, ``n`` cells, ``G`` genes. Every function takes arrays of one shape, by keyword
only because swapped arguments have misled benchmarks, and an optional boolean ``held_out`` of the same shape. It
averages over the entries where ``held_out`` is True (None: over all), which must be finite.

Metrics with ``entries="all"`` need every entry of a part that thinning split off. Over hidden nonzeros alone they would
favour a method that raises every zero. `imputome.evaluation.streaming` computes them without a dense matrix, from their
``terms`` per entry.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from imputome.core.scales import counts_to_scale
from imputome.errors import InputError

BROADCAST = ("library", "size", "sd", "truth_total", "prediction_total")  # arguments that may be smaller than the truth
MIN_RATE = 1e-8  # smaller predicted rates are raised to this before a logarithm is taken
MIN_SIZE = 1e-12  # of a negative binomial whose variance is far too large, or overflowed
COVERAGE = 0.9  # stated coverage of the intervals
MEAN_EDGES = np.array([0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0])  # limits of the strata of the predicted mean
MIN_ENTRIES_PER_STRATUM = 1000  # with fewer entries the coverage of a stratum is mostly noise
OPEN_PROBLEMS = "open_problems"  # the protocol of that benchmark, `imputome.evaluation.open_problems`
OPEN_PROBLEMS_EPSILON = 1e-6  # added inside the logarithm of its Poisson loss

Entries = Literal["hidden", "all", "both"]
Better = Literal["lower", "higher", "one", "nominal"]
Terms = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class Metric:
    """One line of `METRICS`."""

    # takes truth, prediction, held_out and the arguments named in `needs`
    function: Callable[..., float]
    entries: Entries  # hidden entries, all entries of a part split off by thinning, or both
    better: Better  # "one" is best at 1, "nominal" at 0.9 (the stated coverage)
    description: str
    terms: Terms | None = None  # (x, mu, **needs) -> numerator, denominator per entry; the metric is the ratio of sums
    needs: tuple[str, ...] = ()  # further arguments: arrays that broadcast to the shape of the truth
    zeros_win: bool = False  # whether a prediction of all zeros can win, so that to lose says nothing
    protocol: str = ""  # the benchmark that it belongs to; such a metric is computed only where it is asked for

    @property
    def is_contest(self) -> bool:
        """Whether to be worse than a control says something: no figure with a target is one, such as a total of 1."""
        return self.better in ("lower", "higher") and not self.zeros_win


# --- real values and hidden entries -----------------------------------------------------------------------------------


def mse(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Mean squared error: mean of (x - mu)^2, in squared units of the data.

    Examples
    --------
    >>> mse(truth=[1.0, 2.0, 3.0], prediction=[1.0, 2.0, 6.0])
    3.0
    >>> mse(truth=[1.0, np.nan], prediction=[1.0, 1.0], held_out=[True, False])
    0.0
    """
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return float(np.mean((x - mu) ** 2))


def rmse(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Square root of `mse`, in units of the data.

    Examples
    --------
    >>> rmse(truth=[2.0, 6.0], prediction=[4.0, 8.0])
    2.0
    """
    return float(np.sqrt(mse(truth=truth, prediction=prediction, held_out=held_out)))


def rmse_sd(*, truth: np.ndarray, prediction: np.ndarray, sd: Any = 1.0, held_out: np.ndarray | None = None) -> float:
    """`rmse` in standard deviations of the feature: root of the mean of ((x - mu) / sd)^2.

    For real values: features of large variance, and on a transform also far values, do not decide it alone. 1 is about
    the error of the mean of the feature. ``sd`` broadcasts to the shape of the truth;
    `imputome.evaluation.streaming.Units` gives it, and the transform.

    Examples
    --------
    >>> rmse_sd(truth=[2.0, 60.0], prediction=[4.0, 80.0], sd=[1.0, 10.0])
    2.0
    """
    x, mu, unit = _entries(held_out, truth=truth, prediction=prediction, sd=sd)
    return float(np.sqrt(np.mean(((x - mu) / unit) ** 2)))


def feature_rmse(*, truth: np.ndarray, prediction: np.ndarray, feature: np.ndarray) -> dict[int, float]:
    """`rmse` of each feature alone: number of the feature -> RMSE over its hidden entries (Table S1 of paper 003).

    All arguments are flat: ``feature`` is the column of each entry. The mean over features weighs each feature alike,
    `rmse` over all entries weighs those with large errors more.

    Examples
    --------
    >>> feature_rmse(truth=[1.0, 2.0, 5.0], prediction=[1.0, 4.0, 8.0], feature=[7, 7, 2])
    {2: 3.0, 7: 1.4142135623730951}
    """
    x, mu, columns = _entries(None, truth=truth, prediction=prediction, feature=feature)
    numbers, place = np.unique(columns, return_inverse=True)
    means = np.bincount(place, weights=(x - mu) ** 2) / np.bincount(place)
    return dict(zip(numbers.astype(int).tolist(), np.sqrt(means).tolist(), strict=True))


def crps_sd(
    *,
    truth: np.ndarray,
    prediction: np.ndarray,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
    sd: Any = 1.0,
    held_out: np.ndarray | None = None,
) -> float:
    """Continuous ranked probability score in standard deviations of the feature, 0 is perfect.

    For real values. It scores value and uncertainty together: the predicted distribution is normal around ``mu``, as
    wide as the 90 % interval from ``lower`` to ``upper`` says. Without an interval it is a single point, and the score
    is the mean absolute error: a method gains from intervals that are right, and loses from those that are not.

    Source: Gneiting & Raftery 2007, doi:10.1198/016214506000001437, eq. 21.

    Examples
    --------
    >>> crps_sd(truth=[2.0, 6.0], prediction=[4.0, 6.0])
    1.0
    >>> round(crps_sd(truth=[0.0], prediction=[0.0], lower=[-1.645], upper=[1.645]), 3)
    0.234
    """
    x, mu, unit = _entries(held_out, truth=truth, prediction=prediction, sd=sd)
    far = np.abs(x - mu) / unit
    if lower is None or upper is None:
        return float(np.mean(far))
    from scipy.stats import norm

    low, high, unit = _entries(held_out, truth=lower, prediction=upper, sd=sd)
    width = (high - low) / (2 * norm.ppf((1 + COVERAGE) / 2)) / unit
    z = np.divide(far, width, out=np.zeros_like(far), where=width > 0)
    score = width * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    return float(np.mean(np.where(width > 0, score, far)))


def nrmse(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Root mean squared error over hidden entries, divided by the mean of their truth; NaN where this mean is 0.

    For counts only: z-scores have a mean near 0, and the quotient then has no meaning.

    Examples
    --------
    >>> nrmse(truth=[2.0, 6.0], prediction=[4.0, 8.0])
    0.5
    """
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return _ratio(float(np.sqrt(np.mean((x - mu) ** 2))), float(np.mean(x)))


def mae(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Mean absolute error: mean of |x - mu|, in units of the data.

    Examples
    --------
    >>> mae(truth=[2.0, 6.0], prediction=[4.0, 6.0])
    1.0
    """
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return float(np.mean(np.abs(x - mu)))


def pearson(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Pearson correlation over hidden entries; NaN where truth or prediction does not vary.

    Examples
    --------
    >>> round(pearson(truth=[1.0, 2.0, 3.0], prediction=[2.0, 4.0, 6.0]), 6)
    1.0
    """
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return _cosine(x - x.mean(), mu - mu.mean())


def cosine(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Cosine of the angle between the two vectors of entries; NaN where one of them is all zero.

    Examples
    --------
    >>> cosine(truth=[1.0, 0.0], prediction=[0.0, 1.0])
    0.0
    """
    x, mu = _entries(held_out, truth=truth, prediction=prediction)
    return _cosine(x, mu)


# --- counts, over all entries -----------------------------------------------------------------------------------------


def poisson_loss(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Mean of mu - x ln mu over *all* entries of a part split off by thinning; the constant ln x! is left out.

    mu below 1e-8 counts as 1e-8.

    Examples
    --------
    >>> poisson_loss(truth=[0.0, 1.0], prediction=[1.0, 1.0])
    1.0
    """
    return _average(_poisson_loss, held_out, truth=truth, prediction=prediction)


def _poisson_loss(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    from scipy.special import xlogy  # no logarithm is taken where x is 0: nearly everywhere

    mu = np.maximum(mu, MIN_RATE)
    return mu - xlogy(x, mu), 1.0


def poisson_deviance(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Mean of 2 (x ln(x / mu) - (x - mu)), with x ln x = 0 at 0; mu below 1e-8 counts as 1e-8.

    No constant is left out: 0 is perfect, and methods can be compared in percent.

    Examples
    --------
    >>> poisson_deviance(truth=[0.0, 3.0], prediction=[1.0, 3.0])
    1.0
    """
    return _average(_poisson_deviance, held_out, truth=truth, prediction=prediction)


def _poisson_deviance(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    from scipy.special import xlogy

    mu = np.maximum(mu, MIN_RATE)
    return 2 * (xlogy(x, x / mu) - (x - mu)), 1.0


def nll(
    *,
    truth: np.ndarray,
    prediction: np.ndarray | None = None,
    size: Any = None,
    distribution: Any = None,
    held_out: np.ndarray | None = None,
) -> float:
    """Mean negative log-likelihood under the fitted distribution, constants included.

    ``prediction`` is the mean mu of a negative binomial (below 1e-8 it counts as 1e-8) and ``size`` its r, with
    variance mu + mu^2 / r; r broadcasts to the shape of the truth, and None or inf is a Poisson. Or pass a frozen
    ``distribution`` as in ``scipy.stats`` (``logpmf`` or ``logpdf``) that broadcasts to the shape of the truth.

    Examples
    --------
    >>> nll(truth=[0.0, 1.0], prediction=[1.0, 1.0])
    1.0
    """
    if (prediction is None) == (distribution is None):
        raise InputError(
            "pass either {prediction} (with its size) or {distribution}",
            code="pass-one-of-two",
            prediction=...,
            distribution=...,
        )
    if distribution is None:
        return _average(_nll, held_out, truth=truth, prediction=prediction, size=np.inf if size is None else size)
    density = getattr(distribution, "logpmf", None) or getattr(distribution, "logpdf", None)
    if density is None:
        raise InputError(
            "distribution has no logpmf or logpdf: pass a frozen distribution of scipy.stats",
            code="not-a-distribution",
            parameter="distribution",
        )
    _, logs = _entries(held_out, finite=False, truth=truth, prediction=density(np.asarray(truth)))
    return float(-np.mean(logs))


def _nll(x: Any, mu: np.ndarray, size: Any) -> tuple[Any, Any]:
    """Negative binomial, Poisson where ``size`` is infinite; if x is the number 0, one log1p per entry is enough."""
    from scipy.special import betaln, gammaln, xlogy

    mu = np.maximum(mu, MIN_RATE)
    poisson = np.isinf(size)
    r = np.where(poisson, 1.0, np.maximum(size, MIN_SIZE))
    at_zero = np.where(poisson, mu, r * np.log1p(mu / r))
    if np.ndim(x) == 0 and x == 0:
        return at_zero, 1.0
    # log C(x + r - 1, x) by the beta function: a difference of two large lgamma would lose digits
    r_part = betaln(r, x + 1.0) + np.log(r + x) - xlogy(x, mu / (r + mu))
    return at_zero + np.where(poisson, gammaln(x + 1.0) - xlogy(x, mu), r_part), 1.0


def mse_log1p(
    *, truth: np.ndarray, prediction: np.ndarray, library: Any = None, held_out: np.ndarray | None = None
) -> float:
    """Mean squared error of ln(1 + 1e4 x / library). Never choose a method by it: it is biased on sparse counts.

    The expectation of a logarithm is not the logarithm of the expectation: where the held-out part is sparse, a
    prediction of all zeros beats the true rates. Truth and prediction are counts at the same depth, divided by the
    *same* ``library`` (molecules per cell at the depth of the truth, of shape (n, 1) or another that broadcasts), so
    that an error in depth counts. By default it is the row sums of the truth, which must then be a matrix.

    Examples
    --------
    >>> mse_log1p(truth=[[1.0, 3.0]], prediction=[[1.0, 3.0]])
    0.0
    """
    if library is None:
        if np.ndim(truth) != 2:
            raise InputError("truth is not a matrix: pass {library}", code="library-missing", library=...)
        library = np.asarray(truth, dtype=np.float64).sum(axis=1, keepdims=True)
    return _average(_mse_log1p, held_out, truth=truth, prediction=prediction, library=library)


def _mse_log1p(x: Any, mu: np.ndarray, library: np.ndarray) -> tuple[Any, Any]:
    x, mu = (counts_to_scale(np.asarray(value), library, "log1p") for value in (x, mu))
    return (x - mu) ** 2, 1.0


def total_ratio(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Sum of mu over sum of x: within 2 % of 1 if a method is really on the scale ``counts``; NaN if all x are 0.

    Examples
    --------
    >>> total_ratio(truth=[1.0, 3.0], prediction=[1.0, 1.0])
    0.5
    """
    return _average(_total_ratio, held_out, truth=truth, prediction=prediction)


def _total_ratio(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    return mu, x


def share_of_zeros_raised(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """Share of the true zeros with a prediction above one count; NaN without zeros.

    ``truth`` must contain the true zeros: the counts before any were hidden, not the hidden nonzeros.

    Examples
    --------
    >>> share_of_zeros_raised(truth=[0.0, 0.0, 3.0], prediction=[2.0, 0.1, 3.0])
    0.5
    """
    return _average(_share_of_zeros_raised, held_out, truth=truth, prediction=prediction)


def _share_of_zeros_raised(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    zero = np.equal(x, 0)
    return zero & (mu > 1), zero


# --- the denoising task of Open Problems ------------------------------------------------------------------------------


def open_problems_mse(
    *,
    truth: np.ndarray,
    prediction: np.ndarray,
    truth_total: Any = None,
    prediction_total: Any = None,
    held_out: np.ndarray | None = None,
) -> float:
    """The metric ``mse`` of that benchmark. Never choose a method by it: it is biased on sparse counts.

    Mean squared error of ln(1 + 1e4 x / total), each cell of both matrices divided by its *own* total; a cell without
    molecules stays 0. So a wrong depth costs nothing, and a single molecule of a shallow held-out cell becomes a large
    number; `mse_log1p` says why such a score favours zeros. The totals, of shape (n, 1) or another that broadcasts,
    are row sums by default; truth and prediction must then be matrices.

    Source: openproblems-bio/task_denoising, src/metrics/mse (version 1: openproblems/tasks/denoising/metrics/mse.py).

    Examples
    --------
    >>> open_problems_mse(truth=[[1.0, 3.0]], prediction=[[10.0, 30.0]])
    0.0
    """
    if np.shape(truth) == np.shape(prediction):  # `_entries` refuses other shapes
        truth_total = _row_totals(truth) if truth_total is None else truth_total
        prediction_total = _row_totals(prediction) if prediction_total is None else prediction_total
    totals = {"truth_total": truth_total, "prediction_total": prediction_total}
    return _average(_open_problems_mse, held_out, truth=truth, prediction=prediction, **totals)


def _row_totals(values: Any) -> np.ndarray:
    if np.ndim(values) != 2:
        text = "truth is not a matrix: pass truth_total and prediction_total, the totals of its cells"
        raise InputError(text, code="library-missing", parameter="truth_total")
    return np.asarray(values, dtype=np.float64).sum(axis=1, keepdims=True)


def _open_problems_mse(x: Any, mu: np.ndarray, truth_total: Any, prediction_total: Any) -> tuple[Any, Any]:
    x, mu = (
        counts_to_scale(np.asarray(value), total, "log1p")
        for value, total in ((x, truth_total), (mu, prediction_total))
    )
    return (x - mu) ** 2, 1.0


def open_problems_poisson(*, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None) -> float:
    """The metric ``poisson`` of that benchmark as it was published: **truth and prediction are swapped**.

    Mean of x - mu ln(x + 1e-6). The benchmark calls ``poisson_nll_loss(test, denoised)``, and the signature of this
    function, from molecular_cross_validation, is ``(y_pred, y_true)``: so the counts are taken for the rates, and the
    rates for counts. Each molecule that is predicted where the truth is 0 costs ln 1e6 = 13.8, and where the truth is 1
    the prediction does not matter, so that all zeros beat the true rates. It is here to give the published
    number; `open_problems_poisson_corrected` has the arguments in their places. A metric like this is why all metrics
    here take their arguments by keyword.

    ``prediction`` are the denoised counts at the depth of the truth: times total(test) / total(train).

    Source: openproblems-bio/task_denoising, src/metrics/poisson (version 1:
    openproblems/tasks/denoising/metrics/poisson.py); docs/open_problems.md says which versions have it.

    Examples
    --------
    >>> round(open_problems_poisson(truth=[0.0, 1.0], prediction=[0.0, 0.0]), 3)  # nothing is predicted
    0.5
    >>> round(open_problems_poisson(truth=[0.0, 1.0], prediction=[0.5, 0.5]), 3)  # the true rates
    3.954
    """
    return _average(_open_problems_poisson, held_out, truth=truth, prediction=prediction)


def _open_problems_poisson(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    # not a slip: x and mu stand in each other's place, as in the published scores
    return x - mu * np.log(x + OPEN_PROBLEMS_EPSILON), 1.0


def open_problems_poisson_corrected(
    *, truth: np.ndarray, prediction: np.ndarray, held_out: np.ndarray | None = None
) -> float:
    """`open_problems_poisson` with the arguments in their places: mean of mu - x ln(mu + 1e-6).

    The loss of molecular cross-validation, with the benchmark's 1e-6. It differs from `poisson_loss` only in what keeps
    the logarithm finite: a molecule where 0 was predicted costs 13.8 here and 18.4 there. On average no prediction
    beats the true rates, up to this 1e-6.

    Source: Batson, Royer & Webber 2019, doi:10.1101/786269.

    Examples
    --------
    >>> round(open_problems_poisson_corrected(truth=[0.0, 1.0], prediction=[0.0, 0.0]), 3)
    6.908
    >>> round(open_problems_poisson_corrected(truth=[0.0, 1.0], prediction=[0.5, 0.5]), 3)
    0.847
    """
    return _average(_open_problems_poisson_corrected, held_out, truth=truth, prediction=prediction)


def _open_problems_poisson_corrected(x: Any, mu: np.ndarray) -> tuple[Any, Any]:
    if np.ndim(x) == 0 and x == 0:  # nearly everywhere: no logarithm is needed
        return mu, 1.0
    return mu - x * np.log(mu + OPEN_PROBLEMS_EPSILON), 1.0


# --- intervals --------------------------------------------------------------------------------------------------------


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
    """Coverage of 90 % intervals: 0.9 is right, more means too wide, less too narrow.

    Real values: the share of truths within ``lower`` to ``upper``, ends included.

    Counts, with ``prediction`` and ``size`` of the negative binomial as for `nll`: an interval that contains 0 covers
    nearly every held-out zero, however wide it is. So the randomised probability integral transform F(x - 1) + v (F(x)
    - F(x - 1)), v uniform, is checked to lie in [0.05, 0.95], within strata of the predicted mean. The result is the
    coverage of the stratum furthest from 0.9, among strata with 1,000 entries (all entries together if there is none).
    `coverage_by_mean` gives every stratum.

    Examples
    --------
    >>> coverage_90(truth=[1.0, 5.0], lower=[0.0, 0.0], upper=[2.0, 2.0])
    0.5
    """
    if lower is not None and upper is not None:
        x, low, high = _entries(held_out, truth=truth, lower=lower, upper=upper)
        return float(np.mean((low <= x) & (x <= high)))
    if prediction is None:
        raise InputError(
            "pass lower and upper (real values), or prediction and size (counts)",
            code="pass-one-of-two",
            parameter="prediction",
        )
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
    """`coverage_90` of counts in every stratum of the predicted mean.

    The arrays are ``from`` and ``to`` (limits of the mean), ``entries`` and ``coverage`` (NaN without entries).
    """
    inside, entries = _strata(truth, prediction, size, held_out, random_state)
    coverage = np.divide(inside, entries, out=np.full(len(inside), np.nan), where=entries > 0)
    bounds = np.concatenate([[0.0], MEAN_EDGES, [np.inf]])
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
    """Entries inside the central 90 %, and all entries, per stratum.

    The counts are ``x`` at the flat positions ``at`` and 0 elsewhere. One uniform number is drawn per entry, in order,
    so that blocks of rows one after another give the same as the whole matrix.
    """
    from scipy.special import betainc, gammaincc

    mu, size = np.maximum(mu.ravel(), MIN_RATE), size.ravel()
    uniform = rng.random(mu.size)
    transform = uniform * np.exp(-_nll(0.0, mu, size)[0])
    m, r = mu[at], np.maximum(size[at], MIN_SIZE)
    poisson = np.isinf(r)
    # F(x - 1) of the negative binomial by the incomplete beta function, of the Poisson by the gamma function
    below = np.where(poisson, gammaincc(x, m), betainc(np.where(poisson, 1.0, r), x, 1 / (1 + m / r)))
    transform[at] = below + uniform[at] * np.exp(-_nll(x, m, r)[0])
    tail = (1 - COVERAGE) / 2
    inside = (transform >= tail) & (transform <= 1 - tail)
    stratum = np.digitize(mu, MEAN_EDGES)
    strata = len(MEAN_EDGES) + 1
    return np.bincount(stratum, weights=inside, minlength=strata), np.bincount(stratum, minlength=strata)


def worst_coverage(inside: np.ndarray, entries: np.ndarray) -> float:
    """Coverage of the stratum with 1,000 entries that is furthest from 0.9; of all entries if there is none."""
    filled = entries >= MIN_ENTRIES_PER_STRATUM
    if not filled.any():
        return float(inside.sum() / entries.sum())
    coverage = inside[filled] / entries[filled]
    return float(coverage[np.argmax(np.abs(coverage - COVERAGE))])


# --- the table --------------------------------------------------------------------------------------------------------

METRICS: dict[str, Metric] = {
    "rmse_sd": Metric(
        rmse_sd, "hidden", "lower", "root mean squared error in standard deviations of the feature", None, ("sd",)
    ),
    "crps_sd": Metric(
        crps_sd,
        "hidden",
        "lower",
        "error of value and interval (CRPS) in standard deviations of the feature",
        None,
        ("sd",),
    ),
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
        mse_log1p,
        "all",
        "lower",
        "mean squared error of log-normalised values (biased)",
        _mse_log1p,
        ("library",),
        zeros_win=True,
    ),
    "total_ratio": Metric(total_ratio, "both", "one", "total predicted over total true", _total_ratio),
    "share_of_zeros_raised": Metric(
        share_of_zeros_raised,
        "both",
        "lower",
        "share of true zeros raised above one count",
        _share_of_zeros_raised,
        zeros_win=True,
    ),
    "coverage_90": Metric(coverage_90, "both", "nominal", "coverage of 90 % intervals", None, ("size",)),
    "open_problems_mse": Metric(
        open_problems_mse,
        "all",
        "lower",
        "Open Problems: mean squared error of log-normalised values (biased)",
        _open_problems_mse,
        ("truth_total", "prediction_total"),
        zeros_win=True,
        protocol=OPEN_PROBLEMS,
    ),
    "open_problems_poisson": Metric(
        open_problems_poisson,
        "all",
        "lower",
        "Open Problems: Poisson loss as published, truth and prediction swapped",
        _open_problems_poisson,
        zeros_win=True,
        protocol=OPEN_PROBLEMS,
    ),
    "open_problems_poisson_corrected": Metric(
        open_problems_poisson_corrected,
        "all",
        "lower",
        "Open Problems: Poisson loss with its arguments in their places",
        _open_problems_poisson_corrected,
        protocol=OPEN_PROBLEMS,
    ),
}


# --- steps that metrics share -----------------------------------------------------------------------------------------


def _entries(held_out: np.ndarray | None, *, finite: bool = True, **arrays: Any) -> list[np.ndarray]:
    """The arrays at the held-out entries, flat, in float64, of the shape of the truth; `BROADCAST` may be smaller."""
    shape = np.shape(arrays["truth"])
    flat = []
    for name, array in arrays.items():
        values = np.asarray(array, dtype=np.float64)
        if name in BROADCAST:
            with suppress(ValueError):
                values = np.broadcast_to(values, shape)
        if values.shape != shape:
            raise InputError(
                f"truth has shape {shape}, {name} {values.shape}: they must fit", code="shape-mismatch", parameter=name
            )
        flat.append(values)
    if held_out is None:
        flat = [values.ravel() for values in flat]
    else:
        held_out = np.asarray(held_out)
        if held_out.shape != shape or held_out.dtype != bool:
            message = f"held_out must be a boolean array of shape {shape}, the shape of the truth"
            raise InputError(message, code="shape-mismatch", parameter="held_out")
        flat = [values[held_out] for values in flat]
    if flat[0].size == 0:
        raise InputError("there are no entries to score", code="nothing-to-score")
    for name, values in zip(arrays, flat, strict=True):
        if finite and name != "size" and not np.isfinite(values).all():
            raise InputError(
                f"{name} holds NaN or infinite values: pass {{held_out}}, True where all values are finite",
                code="not-finite",
                held_out=...,
            )
    return flat


def _average(terms: Terms, held_out: np.ndarray | None, **arrays: Any) -> float:
    """Sum of the numerators over the sum of the denominators."""
    x, mu, *more = _entries(held_out, **arrays)
    top, bottom = terms(x, mu, *more)
    return _ratio(float(np.sum(top)), float(np.sum(np.broadcast_to(bottom, mu.shape))))


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom != 0 else float("nan")


def _cosine(x: np.ndarray, mu: np.ndarray) -> float:
    size = np.sqrt(np.sum(x * x) * np.sum(mu * mu))
    return float(np.sum(x * mu) / size) if size > 0 else float("nan")
