"""Whether imputed expression keeps known clinical associations: correlation with grade, Cox models, concordance.

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
