"""Whether imputed expression keeps known clinical associations: correlation with grade, Cox models, concordance.

Source: Qiu et al. 2020 (doi:10.1093/gigascience/giaa082), section "Correlation with clinical phenotypes".

The Cox models are written by hand because they fit all genes of a block at once; lifelines fits one gene at a time, and
is the oracle in the tests. Letters: ``n`` patients (rows), ``G`` genes (columns).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.arguments import check_finite, check_length, matrix, pair

VALUES_PER_BLOCK = 2**20  # patients x genes of a block
NEWTON_STEPS = 50
STEP_TOLERANCE = 1e-9  # a gene is done after a Newton step below this, in standard deviations of the gene
MAX_HALVINGS = 20  # of one Newton step


class Correlation(NamedTuple):
    """Spearman's rho and its two-sided p-value, each of shape (G,); NaN for a gene that does not vary."""

    rho: np.ndarray
    p: np.ndarray


class CoxFit(NamedTuple):
    """Univariate Cox models, each of shape (G,): log hazard ratio per unit of the gene, standard error, Wald p-value.

    NaN for a gene that does not vary, and for a gene whose likelihood has no maximum (it orders the deaths perfectly).
    """

    coef: np.ndarray
    se: np.ndarray
    p: np.ndarray


def spearman_with_grade(*, values: np.ndarray, grade: Any) -> Correlation:
    """Spearman's correlation of every gene of ``values`` (n, G) with an ordinal grade (n,).

    The grade is numbers or an ordered categorical; patients without a grade (NaN) are left out. Ties share their mean
    rank; the p-value is that of Student's t with n - 2 degrees of freedom, as in scipy.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.array([[1.0, 5.0], [2.0, 1.0], [3.0, 3.0], [4.0, 2.0]])
    >>> spearman_with_grade(values=values, grade=[1, 2, 3, 4]).rho.round(2).tolist()
    [1.0, -0.4]
    """
    from scipy.stats import rankdata
    from scipy.stats import t as student

    values = _values(values)
    levels = _ordinal(grade)
    check_length("grade", levels, len(values), "patients")
    graded = np.isfinite(levels)
    n = int(graded.sum())
    if n < 3:
        raise InputError(
            f"{n} patients have a grade: a correlation needs three", code="too-few-values", parameter="grade"
        )
    y = rankdata(levels[graded])
    y -= y.mean()
    rho = np.full(values.shape[1], np.nan)
    for genes in _blocks(values.shape):
        x = rankdata(values[graded, genes], axis=0)
        x -= x.mean(axis=0)
        size = np.sqrt((x * x).sum(axis=0) * (y @ y))
        rho[genes] = np.divide(y @ x, size, out=np.full(x.shape[1], np.nan), where=size > 0)
    rho = np.clip(rho, -1, 1)
    with np.errstate(divide="ignore"):
        t = rho * np.sqrt((n - 2) / ((1 - rho) * (1 + rho)))
    return Correlation(rho, 2 * student.sf(np.abs(t), n - 2))


def cox_univariate(*, values: np.ndarray, time: np.ndarray, event: np.ndarray) -> CoxFit:
    """One Cox proportional-hazards model per gene, by Newton's method on Efron's partial likelihood.

    ``values`` is (n, G), finite; ``time`` is that to death or to the end of follow-up; ``event`` is 1 or True for a
    death, 0 for the end of follow-up. Patients without a time or event (NaN) are left out.

    Maximises, over beta, the sum over deaths of beta x - ln(S - (l / d) D). Here S sums exp(beta x) over the patients
    at risk at the time of death, D sums it over the d patients who die at that time, and l = 0, ..., d - 1 numbers
    these patients (Efron 1977; without ties this is Cox's likelihood).

    Genes are standardised for the iteration. A step is halved while it lowers the likelihood; a gene is done when its
    step is below 1e-9 standard deviations. Cost: n x G per iteration, about six iterations.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.array([[0.0], [3.0], [1.0], [2.0], [1.5]])
    >>> fit = cox_univariate(values=values, time=[9, 2, 8, 4, 1], event=[0, 1, 1, 1, 1])
    >>> fit.coef.round(2).tolist()  # a higher value means earlier death
    [1.19]
    """
    from scipy.stats import norm

    values = _values(values)
    time, event = (np.asarray(column, dtype=np.float64) for column in (time, event))
    for name, column in (("time", time), ("event", event)):
        check_length(name, column, len(values), "patients")
    known = np.isfinite(time) & np.isfinite(event)
    if not np.isin(event[known], (0, 1)).all():
        raise InputError(
            "event may hold only 1 (died) and 0 (end of follow-up): recode it",
            code="event-not-0-or-1",
            parameter="event",
        )
    if not event[known].any():
        raise InputError("no patient died: a Cox model needs events", code="no-events", parameter="event")
    order = np.flatnonzero(known)
    order = order[np.argsort(-time[order], kind="stable")]  # latest first: the patients at risk are the first ones
    deaths = _Deaths(time[order], event[order] == 1)
    G = values.shape[1]
    coef, se = np.full(G, np.nan), np.full(G, np.nan)
    for genes in _blocks(values.shape):
        x = values[order, genes]
        spread = x.std(axis=0)
        # the standard deviation of a constant gene is rounding
        varies = np.flatnonzero(spread > 1e-12 * np.maximum(np.abs(x).max(axis=0), 1e-300))
        x = (x[:, varies] - x[:, varies].mean(axis=0)) / spread[varies]
        beta, information = _newton(x, deaths)
        coef[genes][varies] = beta / spread[varies]
        se[genes][varies] = 1 / np.sqrt(information) / spread[varies]
    return CoxFit(coef, se, 2 * norm.sf(np.abs(coef / se)))


class _Deaths:
    """Where the risk sets end, and who dies at the same time; patients are sorted by time, latest first."""

    def __init__(self, time: np.ndarray, event: np.ndarray) -> None:
        self.rows = np.flatnonzero(event)
        # last patient at risk at the time of each death: ties in time are all at risk
        self.at_risk = np.searchsorted(-time, -time[self.rows], side="right") - 1
        _, self.first, group, size = np.unique(self.at_risk, return_index=True, return_inverse=True, return_counts=True)
        self.group = group
        order = np.arange(len(self.rows)) - self.first[group]  # l of the likelihood
        self.share = (order / size[group])[:, None]
        self.tied = bool((size > 1).any())


def _likelihood(x: np.ndarray, beta: np.ndarray, deaths: _Deaths) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Efron's log partial likelihood, its gradient and minus its second derivative, each per gene."""
    eta = x * beta
    top = eta.max(axis=0)
    weight = np.exp(eta - top)
    moments = []
    for _ in range(3):  # sums of w, w x, w x^2 over each risk set
        total = np.cumsum(weight, axis=0)[deaths.at_risk]
        if deaths.tied:
            dying = np.add.reduceat(weight[deaths.rows], deaths.first, axis=0)
            total -= deaths.share * dying[deaths.group]
        moments.append(total)
        weight = weight * x
    s0, s1, s2 = moments
    s0 = np.maximum(s0, 1e-300)  # far from the optimum a risk set may underflow
    mean = s1 / s0
    value = (eta[deaths.rows] - top - np.log(s0)).sum(axis=0)
    return value, (x[deaths.rows] - mean).sum(axis=0), (s2 / s0 - mean * mean).sum(axis=0)


def _newton(x: np.ndarray, deaths: _Deaths) -> tuple[np.ndarray, np.ndarray]:
    """(coefficients, information) of standardised genes ``x`` (n, g); NaN where there is no maximum."""
    g = x.shape[1]
    beta, information = np.zeros(g), np.full(g, np.nan)
    active = np.arange(g)
    value, gradient, curvature = _likelihood(x, beta, deaths)
    for _ in range(NEWTON_STEPS):
        # without a maximum, the curvature of the likelihood goes to 0
        curved = curvature > 1e-10 * len(deaths.rows)
        active, value, gradient, curvature = (part[curved] for part in (active, value, gradient, curvature))
        if not len(active):
            break
        step = np.clip(gradient / curvature, -2, 2)
        done = np.abs(step) < STEP_TOLERANCE
        information[active[done]] = curvature[done]
        active, value, step = active[~done], value[~done], step[~done]
        if not len(active):
            break
        x_active = x[:, active]
        start = beta[active]
        trial = start + step
        at_trial = _likelihood(x_active, trial, deaths)
        for _ in range(MAX_HALVINGS):
            worse = at_trial[0] < value - 1e-9 * np.abs(value)
            if not worse.any():
                break
            step = np.where(worse, step / 2, step)
            trial = start + step
            at_trial = _likelihood(x_active, trial, deaths)
        beta[active] = trial
        value, gradient, curvature = at_trial
    return np.where(np.isfinite(information), beta, np.nan), information


def clinical_coefficients(
    *, values: np.ndarray, grade: Any = None, time: np.ndarray | None = None, event: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """``"spearman"`` (rho) and ``"cox"`` (coefficient) of every gene, each (G,), if their columns are given.

    `concordance_index` compares those of the truth with those of the imputed values.
    """
    coefficients = {}
    if grade is not None:
        coefficients["spearman"] = spearman_with_grade(values=values, grade=grade).rho
    if time is not None and event is not None:
        coefficients["cox"] = cox_univariate(values=values, time=time, event=event).coef
    return coefficients


def concordance_index(*, truth: np.ndarray, prediction: np.ndarray) -> float:
    """Share of pairs that the prediction puts in the same order as the truth: 1 is perfect, 0.5 is chance.

    Pairs with equal truth are not counted, pairs with equal prediction count one half; NaN if all truths are equal.
    Entries where either is NaN (a gene without a coefficient) are left out. O(n log n), from Kendall's tau-b: (C - D) /
    sqrt(pairs that differ in x * pairs that differ in y).

    Examples
    --------
    >>> concordance_index(truth=[1, 2, 3], prediction=[10, 30, 20])  # one of three pairs is in the wrong order
    0.6666666666666666
    """
    from scipy.stats import kendalltau

    x, y = (values.astype(np.float64) for values in pair(truth, prediction))
    known = ~(np.isnan(x) | np.isnan(y))
    x, y = x[known], y[known]
    comparable, varied = (_pairs(len(part)) - sum(_pairs(np.unique(part, return_counts=True)[1])) for part in (x, y))
    if comparable == 0:
        return float("nan")
    if varied == 0:
        return 0.5
    balance = round(float(kendalltau(x, y).statistic) * np.sqrt(float(comparable) * float(varied)))
    return (1 + balance / float(comparable)) / 2


class Differences(NamedTuple):
    """Coefficients from imputed values minus those from the truth (Fig. 4 of the paper).

    Attributes
    ----------
    values : ndarray of shape (g,)
        The differences, of the features for which both coefficients are known and no further apart than the limit.
    mean, variance : float
        Of these; the variance has the divisor g - 1. NaN for less than one feature, or two.
    beyond : int
        Number of features whose coefficients are further apart than the limit.
    """

    values: np.ndarray
    mean: float
    variance: float
    beyond: int


def coefficient_differences(*, truth: np.ndarray, prediction: np.ndarray, limit: float | None = None) -> Differences:
    """Coefficients from imputed values minus those from the true values, and how widely they scatter.

    The paper judges a method by the variance: the smaller, the nearer to the truth. A single Cox coefficient that runs
    away, of a gene that nearly orders the deaths, would decide it; with ``limit`` differences beyond +-limit are left
    out and counted. (The published code sets differences of Cox coefficients beyond +-1 to 0, as if they were perfect.)
    `compare_over_trials` tests whether the variances of two methods differ.

    Examples
    --------
    >>> result = coefficient_differences(truth=[0.5, 1.0, -1.0, 0.0], prediction=[0.75, 1.0, -1.25, 9.0], limit=1)
    >>> result.values.tolist(), result.variance, result.beyond
    ([0.25, 0.0, -0.25], 0.0625, 1)
    """
    x, y = (values.astype(np.float64) for values in pair(truth, prediction))
    differences = (y - x)[~(np.isnan(x) | np.isnan(y))]
    near = np.ones(len(differences), dtype=bool) if limit is None else np.abs(differences) <= limit
    kept = differences[near]
    mean = float(kept.mean()) if len(kept) else float("nan")
    variance = float(kept.var(ddof=1)) if len(kept) > 1 else float("nan")
    return Differences(kept, mean, variance, int((~near).sum()))


class TTest(NamedTuple):
    """Difference of two means (first - second), Student's t, its degrees of freedom, and the two-sided p-value."""

    difference: float
    t: float
    df: float
    p: float


def compare_over_trials(*, first: np.ndarray, second: np.ndarray) -> TTest:
    """Two-sample t-test of a number that two methods have in each trial, such as `Differences.variance`.

    The paper writes "two sample t-tests"; here variances may differ (Welch 1947), as in R's ``t.test``. Trials that
    share their rows are more alike than independent ones, so that a paired test would find more. NaN values are left
    out; t and p are NaN where neither method varies.

    Raises
    ------
    InputError
        A method has fewer than two trials.

    Examples
    --------
    >>> result = compare_over_trials(first=[1.0, 2.0, 3.0], second=[3.0, 4.0, 5.0])
    >>> result.difference, round(result.t, 3), round(result.p, 3)
    (-2.0, -2.449, 0.07)
    """
    from scipy.stats import ttest_ind

    x, y = (np.asarray(values, dtype=np.float64).ravel() for values in (first, second))
    x, y = x[~np.isnan(x)], y[~np.isnan(y)]
    for name, values in (("first", x), ("second", y)):
        if len(values) < 2:
            text = f"{name} has {len(values)} trials with a number, and a t-test needs two: run more trials"
            raise InputError(text, code="too-few-values", parameter=name)
    difference = float(x.mean() - y.mean())
    if x.var() == y.var() == 0:
        return TTest(difference, float("nan"), float("nan"), float("nan"))
    result = ttest_ind(x, y, equal_var=False)
    return TTest(difference, float(result.statistic), float(result.df), float(result.pvalue))


def _pairs(count: Any) -> Any:
    return count * (count - 1) // 2


def _values(values: np.ndarray) -> np.ndarray:
    values = matrix("values", values, "patients x genes").astype(np.float64)
    check_finite("values", values)
    return values


def _ordinal(grade: Any) -> np.ndarray:
    """Numbers that keep the order of the grades, NaN where there is none."""
    categorical = getattr(grade, "cat", grade)  # a Series of categories, or a Categorical
    if hasattr(categorical, "codes"):
        if not categorical.ordered:
            raise InputError(
                "grade has no order: make it ordered, or pass numbers", code="grade-without-order", parameter="grade"
            )
        codes = np.asarray(categorical.codes, dtype=np.float64)
        return np.where(codes < 0, np.nan, codes)
    try:
        return np.asarray(grade, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        message = "grade is text: pass numbers or an ordered pandas.Categorical"
        raise InputError(message, code="grade-without-order", parameter="grade") from None


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    n, G = shape
    step = max(1, VALUES_PER_BLOCK // max(1, n))
    for start in range(0, G, step):
        yield slice(start, min(start + step, G))
