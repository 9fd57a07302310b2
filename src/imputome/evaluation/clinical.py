"""Whether imputed expression still says what the clinic knows: rank correlation with grade, Cox models, concordance.

Letters: ``n`` patients (rows), ``G`` genes (columns). Every function works on all genes at once, in blocks of columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from imputome.errors import InputError

BLOCK = 2**20  # values of one block of genes
MAX_ITER = 50
TOL = 1e-9  # on the Newton step, in standard deviations of the gene


class Correlation(NamedTuple):
    """Spearman's rho and its two-sided p-value, each (G,); NaN for a gene that does not vary."""

    rho: np.ndarray
    p: np.ndarray


class CoxFit(NamedTuple):
    """Univariate Cox models, each (G,): log hazard ratio per unit of the gene, its standard error, Wald p-value.

    NaN for a gene that does not vary, and for one whose likelihood has no maximum (it orders the deaths perfectly).
    """

    coef: np.ndarray
    se: np.ndarray
    p: np.ndarray


def spearman_with_grade(*, values: np.ndarray, grade: Any) -> Correlation:
    """Spearman's correlation of every gene with an ordinal grade.

    Parameters
    ----------
    values : (n, G).
    grade : (n,) numbers or an ordered ``pandas.Categorical``; patients without a grade (NaN) are left out.

    Notes
    -----
    Ties share their mean rank; the p-value is that of Student's t with n - 2 degrees of freedom, as in scipy.
    """
    from scipy.stats import rankdata
    from scipy.stats import t as student

    values = _values(values)
    levels = _ordinal(grade)
    if len(levels) != len(values):
        raise InputError(f"{len(levels)} grades were given for {len(values)} rows of values: pass one for each")
    graded = np.isfinite(levels)
    n = int(graded.sum())
    if n < 3:
        raise InputError(f"only {n} patients have a grade: three are needed for a correlation")
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

    Maximises, over beta, the sum over deaths of beta x - ln(S - (l / d) D), where S sums exp(beta x) over the patients
    at risk at the time of death, D over the d patients who die at that same time, and l = 0, ..., d - 1 numbers these
    (Efron 1977; without ties this is Cox's likelihood).

    Parameters
    ----------
    values : (n, G).
    time : (n,) time to death or to the end of follow-up.
    event : (n,) 1 or True for a death, 0 for the end of follow-up. Patients without a time or event (NaN) are left out.

    Notes
    -----
    Genes are standardised for the iteration and coefficients given back per unit of the input. A step is halved while
    it lowers the likelihood; a gene is done when its step is below 1e-9 standard deviations. Cost: n x G per iteration,
    about six of them.
    """
    from scipy.stats import norm

    values = _values(values)
    time, event = (np.asarray(column, dtype=np.float64) for column in (time, event))
    if time.shape != (len(values),) or event.shape != (len(values),):
        raise InputError(f"time {time.shape} and event {event.shape} need one number for each of {len(values)} rows")
    known = np.isfinite(time) & np.isfinite(event)
    if not np.isin(event[known], (0, 1)).all():
        raise InputError("event must be 1 (died) or 0 (end of follow-up): recode it")
    if not event[known].any():
        raise InputError("nobody died: a Cox model needs events")
    order = np.flatnonzero(known)
    order = order[np.argsort(-time[order], kind="stable")]  # latest first: a risk set is a prefix
    deaths = _Deaths(time[order], event[order] == 1)
    G = values.shape[1]
    coef, se = np.full(G, np.nan), np.full(G, np.nan)
    for genes in _blocks(values.shape):
        x = values[order, genes]
        spread = x.std(axis=0)
        # a constant has rounding for a spread
        varies = np.flatnonzero(spread > 1e-12 * np.maximum(np.abs(x).max(axis=0), 1e-300))
        x = (x[:, varies] - x[:, varies].mean(axis=0)) / spread[varies]
        beta, information = _newton(x, deaths)
        coef[genes][varies] = beta / spread[varies]
        se[genes][varies] = 1 / np.sqrt(information) / spread[varies]
    return CoxFit(coef, se, 2 * norm.sf(np.abs(coef / se)))


class _Deaths:
    """Where the risk sets end, and who dies together; patients are sorted by time, latest first."""

    def __init__(self, time: np.ndarray, event: np.ndarray) -> None:
        self.rows = np.flatnonzero(event)
        # last patient at risk at the time of each death: ties in time are all at risk
        self.at_risk = np.searchsorted(-time, -time[self.rows], side="right") - 1
        _, self.first, group, size = np.unique(self.at_risk, return_index=True, return_inverse=True, return_counts=True)
        self.group = group
        place = np.arange(len(self.rows)) - self.first[group]
        self.share = (place / size[group])[:, None]
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
    live = np.arange(g)
    value, gradient, curvature = _likelihood(x, beta, deaths)
    for _ in range(MAX_ITER):
        # the curvature of a likelihood without a maximum runs to 0
        rising = curvature > 1e-10 * len(deaths.rows)
        live, value, gradient, curvature = (part[rising] for part in (live, value, gradient, curvature))
        if not len(live):
            break
        step = np.clip(gradient / curvature, -2, 2)
        done = np.abs(step) < TOL
        information[live[done]] = curvature[done]
        live, value, step = live[~done], value[~done], step[~done]
        if not len(live):
            break
        here = x[:, live]
        start = beta[live]
        trial = start + step
        found = _likelihood(here, trial, deaths)
        for _ in range(20):
            worse = found[0] < value - 1e-9 * np.abs(value)
            if not worse.any():
                break
            step = np.where(worse, step / 2, step)
            trial = start + step
            found = _likelihood(here, trial, deaths)
        beta[live] = trial
        value, gradient, curvature = found
    return np.where(np.isfinite(information), beta, np.nan), information


def clinical_coefficients(
    *, values: np.ndarray, grade: Any = None, time: np.ndarray | None = None, event: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What `spearman_with_grade` and `cox_univariate` say of every gene, as far as the columns are there.

    Returns
    -------
    ``"spearman"`` -> rho, with a grade; ``"cox"`` -> coefficient, with time and event; each (G,). `concordance_index`
    compares those of the truth with those of what was imputed.
    """
    found = {}
    if grade is not None:
        found["spearman"] = spearman_with_grade(values=values, grade=grade).rho
    if time is not None and event is not None:
        found["cox"] = cox_univariate(values=values, time=time, event=event).coef
    return found


def concordance_index(*, truth: np.ndarray, prediction: np.ndarray) -> float:
    """Share of pairs that the prediction puts in the order of the truth; 1 is perfect, 0.5 chance.

    Pairs with equal truth are not counted, pairs with equal prediction count one half; entries where either is NaN (a
    gene without a coefficient) are left out. O(n log n): Kendall's tau-b is (C - D) / sqrt(untied in x, untied in y).

    Returns
    -------
    float, NaN where all truths are equal.
    """
    from scipy.stats import kendalltau

    x, y = np.asarray(truth, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(f"truth has shape {x.shape}, prediction {y.shape}: two flat arrays of one length are needed")
    both = ~(np.isnan(x) | np.isnan(y))
    x, y = x[both], y[both]
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
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise InputError(f"values must be a matrix of patients x genes, not an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise InputError("values holds NaN or infinite numbers: impute it, or leave those genes out")
    return values


def _ordinal(grade: Any) -> np.ndarray:
    """Numbers that keep the order of the grades, NaN where there is none."""
    categorical = getattr(grade, "cat", grade)  # a Series of categories, or a Categorical
    if hasattr(categorical, "codes"):
        if not categorical.ordered:
            raise InputError("the grade is a categorical without an order: make it ordered, or pass numbers")
        codes = np.asarray(categorical.codes, dtype=np.float64)
        return np.where(codes < 0, np.nan, codes)
    try:
        return np.asarray(grade, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise InputError("the grade is text: pass numbers or an ordered pandas.Categorical") from None


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    n, G = shape
    step = max(1, BLOCK // max(1, n))
    for start in range(0, G, step):
        yield slice(start, min(start + step, G))
