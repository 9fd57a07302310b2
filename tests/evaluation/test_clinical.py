"""Spearman against scipy, Cox against lifelines and a brute-force likelihood, concordance against all pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, optimize, stats

from codes import has_code
from imputome.errors import InputError
from imputome.evaluation import clinical
from imputome.evaluation.clinical import (
    coefficient_differences,
    compare_over_trials,
    concordance_index,
    cox_univariate,
    spearman_with_grade,
)


@pytest.fixture(scope="module")
def glioma(shared_data):
    ad = pytest.importorskip("anndata")
    return ad.read_h5ad(shared_data / "tcga_gbmlgg_zscore_1544g.h5ad")[:, :20].to_memory()


@pytest.fixture
def survival():
    """Times on a coarse grid: many deaths at once, and ends of follow-up at those times."""
    rng = np.random.default_rng(0)
    n = 80
    values = rng.normal(size=(n, 4)) * [1, 10, 0.1, 1] + [0, 100, 0, 0]
    time = np.ceil(rng.exponential(np.exp(-values[:, 0])) * 5)
    return values, time, rng.random(n) < 0.7


def efron(beta, x, time, event):
    """Minus the log partial likelihood, by the formula, a death at a time."""
    total = 0.0
    for t in np.unique(time[event]):
        dying = np.flatnonzero(event & (time == t))
        risk = sum(math.exp(beta * v) for v in x[time >= t])
        tied = sum(math.exp(beta * v) for v in x[dying])
        for k, i in enumerate(dying):
            total += beta * x[i] - math.log(risk - k / len(dying) * tied)
    return -total


def test_spearman_is_scipys_with_ties_and_missing_grades():
    rng = np.random.default_rng(1)
    values = np.round(rng.normal(size=(50, 9)), 1)
    values[:, 4] = 2.0
    grade = rng.integers(2, 5, 50).astype(float)
    values[:, 0] += grade
    grade[:7] = np.nan
    rho, p = spearman_with_grade(values=values, grade=grade)
    assert np.isnan([rho[4], p[4]]).all()
    for gene in set(range(9)) - {4}:
        expected = stats.spearmanr(values[7:, gene], grade[7:])
        assert rho[gene] == pytest.approx(expected.statistic)
        assert p[gene] == pytest.approx(expected.pvalue)


def test_spearman_of_ordered_grades(glioma, monkeypatch):
    monkeypatch.setattr(clinical, "VALUES_PER_BLOCK", 3 * 569)  # several blocks of genes
    grade = pd.Categorical(glioma.obs["ceccarelli_grade"], ["G2", "G3", "G4"], ordered=True)
    rho, p = spearman_with_grade(values=glioma.X, grade=grade)
    numbers = glioma.obs["ceccarelli_grade"].astype(object).map({"G2": 2, "G3": 3, "G4": 4}).to_numpy(dtype=float)
    oracle = [stats.spearmanr(column, numbers, nan_policy="omit") for column in np.asarray(glioma.X, float).T]
    np.testing.assert_allclose(rho, [r.statistic for r in oracle], rtol=1e-9)
    np.testing.assert_allclose(p, [r.pvalue for r in oracle], rtol=1e-6)
    np.testing.assert_array_equal(rho, spearman_with_grade(values=glioma.X, grade=pd.Series(grade)).rho)
    with pytest.raises(InputError, check=has_code("grade-without-order")):
        spearman_with_grade(values=glioma.X, grade=grade.as_unordered())
    with pytest.raises(InputError, check=has_code("grade-without-order")):
        spearman_with_grade(values=glioma.X, grade=np.asarray(grade.astype(str)))
    with pytest.raises(InputError, check=has_code("length-mismatch")):
        spearman_with_grade(values=glioma.X[1:], grade=grade)
    with pytest.raises(InputError, check=has_code("too-few-values")):
        spearman_with_grade(values=glioma.X, grade=np.full(569, np.nan))


def test_cox_maximises_efrons_likelihood(survival):
    values, time, event = survival
    fit = cox_univariate(values=values, time=time, event=event)
    for gene in range(values.shape[1]):
        x = values[:, gene] - values[:, gene].mean()
        best = optimize.minimize_scalar(
            efron, args=(x, time, event), bracket=(-1 / x.std(), 1 / x.std()), options={"xtol": 1e-12}
        )
        assert fit.coef[gene] == pytest.approx(best.x, abs=1e-5 / x.std())
        h = 1e-3 / x.std()
        around = [efron(fit.coef[gene] + k * h, x, time, event) for k in (-1, 0, 1)]
        curvature = (around[0] - 2 * around[1] + around[2]) / h**2
        assert fit.se[gene] == pytest.approx(curvature**-0.5, rel=1e-3)
    np.testing.assert_allclose(fit.p, 2 * stats.norm.sf(np.abs(fit.coef / fit.se)))
    assert fit.p[0] < 1e-4


def against_lifelines(values, time, event, genes):
    lifelines = pytest.importorskip("lifelines")
    fit = cox_univariate(values=values, time=time, event=event)
    for gene in genes:
        table = pd.DataFrame({"x": np.asarray(values[:, gene], float), "time": time, "event": event})
        # its own tolerances stop it 1e-5 short
        tight = {"precision": 1e-13, "r_precision": 1e-15}
        model = lifelines.CoxPHFitter().fit(table, "time", "event", fit_options=tight)
        row = model.summary.loc["x"]
        assert fit.coef[gene] == pytest.approx(row["coef"], rel=1e-6, abs=1e-10)
        assert fit.se[gene] == pytest.approx(row["se(coef)"], rel=1e-6)
        assert fit.p[gene] == pytest.approx(row["p"], rel=1e-6)


def test_cox_is_that_of_lifelines_with_many_ties(survival):
    values, time, event = survival
    against_lifelines(values, time, event, range(values.shape[1]))


def test_cox_is_that_of_lifelines_on_real_data(glioma):
    time, dead = (glioma.obs[name].to_numpy(dtype=float) for name in ("survival_months", "dead"))
    against_lifelines(glioma.X, time, dead, range(20))


def test_cox_does_not_mind_order_blocks_or_units(survival, monkeypatch):
    values, time, event = survival
    whole = cox_univariate(values=values, time=time, event=event)
    order = np.random.default_rng(2).permutation(len(time))
    monkeypatch.setattr(clinical, "VALUES_PER_BLOCK", 2 * len(time))
    other = cox_univariate(values=values[order] * 1e4, time=time[order] / 12, event=event[order].astype(int))
    np.testing.assert_allclose(other.coef * 1e4, whole.coef, rtol=1e-7)
    np.testing.assert_allclose(other.se * 1e4, whole.se, rtol=1e-7)


def test_cox_without_a_maximum_is_nan(survival):
    values, time, event = survival
    time = np.arange(80.0)
    event[:] = True
    values = np.column_stack([values[:, 1], -time, np.full(80, 0.1), time])
    fit = cox_univariate(values=values, time=time, event=event)
    assert np.isnan(fit.coef).tolist() == [False, True, True, True]
    assert np.isnan(fit.se).tolist() == [False, True, True, True]


def test_cox_leaves_unknown_survival_out_and_refuses_nonsense(survival):
    values, time, event = survival
    event = event.astype(float)
    time[:5], event[5:9] = np.nan, np.nan
    fit = cox_univariate(values=values, time=time, event=event)
    np.testing.assert_array_equal(fit.coef, cox_univariate(values=values[9:], time=time[9:], event=event[9:]).coef)
    with pytest.raises(InputError, check=has_code("no-events")):
        cox_univariate(values=values, time=time, event=np.zeros(80))
    with pytest.raises(InputError, check=has_code("event-not-0-or-1")):
        cox_univariate(values=values, time=time, event=event + 1)
    with pytest.raises(InputError, check=has_code("length-mismatch")):
        cox_univariate(values=values[1:], time=time, event=event)
    values[0, 0] = np.nan
    with pytest.raises(InputError, check=has_code("not-finite")):
        cox_univariate(values=values, time=time, event=event)


def all_pairs(truth, prediction):
    score = pairs = 0.0
    for (a, p), (b, q) in itertools.combinations(zip(truth, prediction, strict=True), 2):
        if a != b:
            pairs += 1
            score += 0.5 if p == q else float((a < b) == (p < q))
    return score / pairs


@pytest.mark.parametrize("digits", [0, 1, 9])
def test_concordance_is_that_of_all_pairs(digits):
    rng = np.random.default_rng(3)
    truth = np.round(rng.normal(size=120), digits)
    prediction = np.round(truth + rng.normal(size=120), digits)
    index = concordance_index(truth=truth, prediction=prediction)
    assert index == pytest.approx(all_pairs(truth, prediction), abs=1e-14)
    lifelines = pytest.importorskip("lifelines.utils")
    assert index == pytest.approx(lifelines.concordance_index(truth, prediction), abs=1e-12)


def test_concordance_at_its_ends():
    x = np.arange(5.0)
    assert concordance_index(truth=x, prediction=x) == 1
    assert concordance_index(truth=x, prediction=-x) == 0
    assert concordance_index(truth=x, prediction=np.ones(5)) == 0.5
    assert math.isnan(concordance_index(truth=np.ones(5), prediction=x))
    gap = np.array([0, np.nan, 2, 3, 4.0])
    assert concordance_index(truth=x, prediction=gap) == 1
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        concordance_index(truth=x, prediction=x[:-1])
    with pytest.raises(TypeError):
        concordance_index(x, x)


# -- differences of coefficients ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [None, 1.0])
def test_differences_of_coefficients_by_a_loop(limit):
    rng = np.random.default_rng(2)
    truth = rng.normal(size=60)
    prediction = truth + rng.standard_t(2, size=60)
    truth[3], prediction[7] = np.nan, np.nan
    kept, beyond = [], 0
    for t, p in zip(truth.tolist(), prediction.tolist(), strict=True):
        if math.isnan(t) or math.isnan(p):
            continue
        if limit is not None and abs(p - t) > limit:
            beyond += 1
        else:
            kept.append(p - t)
    mean = sum(kept) / len(kept)
    result = coefficient_differences(truth=truth, prediction=prediction, limit=limit)
    assert result.values.tolist() == kept
    assert result.mean == pytest.approx(mean)
    assert result.variance == pytest.approx(sum((value - mean) ** 2 for value in kept) / (len(kept) - 1))
    assert result.beyond == beyond
    assert (beyond > 0) == (limit is not None)


def test_differences_of_few_coefficients():
    result = coefficient_differences(truth=[1.0, np.nan], prediction=[1.5, 1.0])
    assert (result.values.tolist(), result.mean, result.beyond) == ([0.5], 0.5, 0)
    assert math.isnan(result.variance)
    assert math.isnan(coefficient_differences(truth=[np.nan], prediction=[1.0]).mean)
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        coefficient_differences(truth=[1.0], prediction=[1.0, 2.0])


def test_the_nearer_method_has_the_smaller_variance(survival):
    """Cox coefficients of values with much noise scatter more around the true ones than of values with little."""
    values, time, event = survival
    rng = np.random.default_rng(3)
    genes = values[:, :1] + rng.normal(size=(80, 30))
    truth = cox_univariate(values=genes, time=time, event=event).coef
    variances = {}
    for noise in (0.1, 1.0):
        imputed = genes + noise * rng.normal(size=genes.shape)
        prediction = cox_univariate(values=imputed, time=time, event=event).coef
        variances[noise] = coefficient_differences(truth=truth, prediction=prediction).variance
    assert variances[0.1] < 0.5 * variances[1.0]


def test_comparison_over_trials_by_the_formula():
    """Welch's t, and its p-value by integrating the density of Student's t."""
    x, y = [0.11, 0.12, 0.10, 0.13, np.nan], [0.20, 0.16, 0.24]
    a, b = np.array(x[:4]), np.array(y)
    parts = [sum((v - part.mean()) ** 2 for v in part) / (len(part) - 1) / len(part) for part in (a, b)]
    t = (a.mean() - b.mean()) / math.sqrt(sum(parts))
    df = sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 2)
    scale = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    tail, _ = integrate.quad(lambda u: scale * (1 + u * u / df) ** (-(df + 1) / 2), abs(t), math.inf)
    result = compare_over_trials(first=x, second=y)
    assert result == pytest.approx((a.mean() - b.mean(), t, df, 2 * tail), rel=1e-6)
    back = compare_over_trials(first=y, second=x)
    assert (back.difference, back.t, back.p) == pytest.approx((-result.difference, -result.t, result.p))


def test_comparison_without_variation_or_trials():
    same = compare_over_trials(first=[1.0, 1.0], second=[2.0, 2.0])
    assert same.difference == -1
    assert math.isnan(same.p)
    with pytest.raises(InputError, check=has_code("too-few-values")) as error:
        compare_over_trials(first=[1.0, 2.0], second=[1.0, np.nan])
    assert error.value.parameter == "second"
