"""Tests of differential expression against scipy, statsmodels and brute force, and their behaviour on known truth."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import statsmodels.api as sm
from scipy import special, stats
from scipy.optimize import minimize

from codes import has_code
from imputome.datasets import pbmc68k
from imputome.errors import InputError
from imputome.evaluation import expression
from imputome.evaluation.expression import (
    de_by_count_splitting,
    hurdle_lrt,
    logistic_maximum,
    precision_recall_tnr,
    wilcoxon,
)
from imputome.evaluation.simulate import simulate_counts


@pytest.fixture(scope="module")
def blood():
    """log1p of counts per 10,000 of real cells, and whether a cell is a monocyte."""
    data = pbmc68k()
    library = data.obs["n_counts"].to_numpy(dtype=np.float64)[:, None]
    values = np.log1p(data.X.toarray() * 1e4 / library)  # float64: scipy's p-values of float32 are float32
    return values, data.obs["cell_type"].astype(str).str.contains("Monocyte").to_numpy()


@pytest.fixture(scope="module")
def awkward():
    """Genes with every special case, 60 cells; the last 24 are the tested group."""
    rng = np.random.default_rng(1)
    member = np.arange(60) >= 36
    genes = {
        "dense": rng.normal(3, 1, 60).clip(0.1),
        "sparse": rng.poisson(0.3, 60) * rng.uniform(0.5, 2, 60),
        "ties": rng.integers(0, 3, 60).astype(float),
        "zero": np.zeros(60),
        "constant": np.full(60, 2.5),
        "one cell": np.eye(60)[7],
        "only tested": np.where(member, rng.uniform(1, 2, 60), 0),
        "only other": np.where(member, 0, rng.uniform(1, 2, 60)),
        "on, same level": (rng.random(60) < 0.5) * 1.0,
        "level split": np.where(member, 2.0, 1.0),
        "two cells": np.eye(60)[7] + 2 * np.eye(60)[50],
    }
    return pd.DataFrame(genes), member


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.csc_array, sp.csr_matrix, pd.DataFrame])
def test_wilcoxon_is_scipys(blood, form):
    values, member = blood
    values = values[:, ::5]
    table = wilcoxon(form(values), member)
    expected = stats.mannwhitneyu(
        values[member], values[~member], method="asymptotic", use_continuity=False, alternative="two-sided"
    )
    np.testing.assert_allclose(table["statistic"], expected.statistic, rtol=1e-12)
    np.testing.assert_allclose(table["p_value"], expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose(
        table["log_fold_change"], values[member].mean(axis=0) - values[~member].mean(axis=0), atol=1e-7
    )
    np.testing.assert_allclose(table["p_adjusted"], np.minimum(expected.pvalue * values.shape[1], 1), rtol=1e-9)


def test_wilcoxon_takes_negative_values_and_ties(awkward):
    genes, member = awkward
    values = genes.to_numpy() - np.arange(genes.shape[1]) % 3
    table = wilcoxon(values, np.where(member, "b", "a"), names=list(genes))
    assert list(table.index) == list(genes)
    for j, name in enumerate(genes):
        ranks = stats.rankdata(values[:, j])
        assert table.loc[name, "statistic"] == pytest.approx(ranks[member].sum() - 24 * 25 / 2)
        if np.ptp(values[:, j]) > 0:
            expected = stats.mannwhitneyu(
                values[member, j], values[~member, j], method="asymptotic", use_continuity=False
            )
            assert table.loc[name, "p_value"] == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize("test", [wilcoxon, hurdle_lrt])
def test_blocks_of_genes_do_not_matter(blood, test, monkeypatch):
    values, member = blood
    whole = test(sp.csr_array(values), member)
    monkeypatch.setattr(expression, "VALUES_PER_BLOCK", 7 * len(values) + 3)
    pd.testing.assert_frame_equal(test(values, member), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("test", [wilcoxon, hurdle_lrt])
def test_swapping_the_groups_turns_the_sign(blood, test):
    values, member = blood
    one, other = test(values, member), test(values, member, tested=False)
    np.testing.assert_allclose(one["p_value"], other["p_value"], rtol=1e-6, atol=1e-300)
    np.testing.assert_allclose(one["log_fold_change"], -other["log_fold_change"], atol=1e-12)


@pytest.mark.parametrize("test", [wilcoxon, hurdle_lrt])
def test_special_genes_give_p_values_and_no_nan(awkward, test):
    genes, member = awkward
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = test(genes, member)
    assert np.isfinite(table.to_numpy(dtype=float)).all()
    assert table["p_value"].between(0, 1).all()
    assert (table.loc[["zero", "constant"], "p_value"] == 1).all()
    assert (table.loc[["only tested", "only other", "level split"], "p_value"] < 1e-9).all()
    assert table.loc["two cells", "p_value"] > 0.05
    if test is hurdle_lrt:
        df = {"zero": 0, "constant": 0, "dense": 1, "one cell": 1, "only tested": 1, "on, same level": 1, "ties": 2}
        assert table.loc[list(df), "df"].to_dict() == df


def oracle(y, group, covariate):
    """Both likelihood-ratio statistics by statsmodels: GLM for detection, OLS on the detected."""
    constant = np.ones((len(y), 1))
    null = constant if covariate is None else np.column_stack([constant, covariate])
    full = np.column_stack([null, group])
    detected = y > 0

    def logistic(design):
        return sm.GLM(detected.astype(float), design, family=sm.families.Binomial()).fit(tol=1e-12, maxiter=200).llf

    def level(design):
        return sm.OLS(y[detected], design[detected]).fit().llf

    return 2 * (logistic(full) - logistic(null)), 2 * (level(full) - level(null))


@pytest.mark.parametrize("detection_rate", [True, False])
def test_hurdle_is_statsmodels(blood, detection_rate):
    """Every tenth real gene that both groups have in five cells or more, and not in every cell."""
    values, member = blood
    table = hurdle_lrt(values, member, detection_rate=detection_rate)
    covariate = (values > 0).mean(axis=1) if detection_rate else None
    seen = values > 0
    fit = (seen[member].sum(axis=0) >= 5) & (seen[~member].sum(axis=0) >= 5) & ~seen.all(axis=0)
    chosen = np.flatnonzero(fit)[::10]
    assert len(chosen) > 40
    for j in chosen:
        detection, level = oracle(values[:, j], member.astype(float), covariate)
        assert table["statistic_detection"][j] == pytest.approx(detection, rel=1e-6, abs=1e-6)
        assert table["statistic_level"][j] == pytest.approx(level, rel=1e-6, abs=1e-6)
        assert table["df"][j] == 2
        assert table["p_value"][j] == pytest.approx(stats.chi2.sf(detection + level, 2), rel=1e-5)


def test_logistic_maximum_under_separation():
    """The supremum of the likelihood: zero where outcomes are separated, that of the mixed group where only one is."""
    rng = np.random.default_rng(2)
    n = 200
    group = np.arange(n) < 80
    covariate = rng.standard_normal(n)
    design = np.column_stack([~group, group, covariate]).astype(float)
    outcomes = np.column_stack([group, ~group, covariate > 0.3, group & (covariate > -0.4)]).astype(float)
    got = logistic_maximum(outcomes.T @ design, design)
    np.testing.assert_allclose(got, 0, atol=1e-5)
    mixed = (rng.random(n) < special.expit(covariate)) & group
    alone = sm.Logit(mixed[group].astype(float), sm.add_constant(covariate[group])).fit(disp=False, tol=1e-12)
    assert logistic_maximum((mixed @ design)[None], design)[0] == pytest.approx(alone.llf, abs=1e-5)


def test_logistic_maximum_converges_from_hard_designs():
    """Skewed covariates, rare and frequent outcomes: never under the likelihood that a general optimiser finds."""
    rng = np.random.default_rng(3)
    n = 300
    covariate = rng.standard_t(2, n)
    covariate = (covariate - covariate.mean()) / covariate.std()
    group = (rng.random(n) < 0.1).astype(float)
    design = np.column_stack([1 - group, group, covariate])
    outcomes = rng.random((40, n)) < special.expit(rng.normal(0, 3, (40, 1)) + 4 * rng.normal(size=(40, 1)) * covariate)
    sums = outcomes.astype(float) @ design
    got = logistic_maximum(sums, design)
    for b in range(40):
        best = minimize(lambda a, b=b: np.logaddexp(0, design @ a).sum() - sums[b] @ a, np.zeros(3), method="BFGS")
        assert got[b] >= -best.fun - 1e-5
        assert got[b] <= 0


@pytest.mark.parametrize("seed", [7685, 8190, 8674, 8885, 10216])
def test_logistic_maximum_where_full_newton_steps_lose(seed):
    """Five of 12,000 random designs with heavy tails in which plain Newton lowers the likelihood."""
    rng = np.random.default_rng(seed)
    n = 60
    covariate = rng.standard_t(1.2, n)
    covariate = (covariate - covariate.mean()) / covariate.std()
    group = (rng.random(n) < 0.3).astype(float)
    y = (rng.random(n) < 1 / (1 + np.exp(-(rng.normal(0, 3) + rng.normal(0, 4) * covariate)))).astype(float)
    design = np.column_stack([1 - group, group, covariate])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        got = logistic_maximum((y @ design)[None], design)[0]
    options = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-8, "fatol": 1e-10}
    best = minimize(
        lambda a: np.logaddexp(0, design @ a).sum() - y @ design @ a, np.zeros(3), method="Nelder-Mead", options=options
    )
    assert got >= -best.fun - 1e-5
    assert got <= 0


def test_level_without_residual_gets_the_permutation_p_value():
    """Four detected cells, one in the tested group and at another level: p = 1/4, not 0."""
    y = np.zeros((20, 1))
    y[[0, 1, 2], 0], y[12, 0] = 1, 2
    table = hurdle_lrt(y, np.arange(20) >= 10, detection_rate=False)
    assert stats.chi2.sf(table["statistic_level"][0], 1) == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    "test",
    [
        wilcoxon,
        lambda X, g: hurdle_lrt(X, g, detection_rate=True),
        lambda X, g: hurdle_lrt(X, g, detection_rate=False),
    ],
    ids=["wilcoxon", "hurdle", "hurdle without rate"],
)
def test_p_values_are_uniform_under_the_null(blood, test):
    """20 permutations, genes in 100 cells or more: shares under 0.01, 0.05, 0.5 within 50, 25 and 10 % of these."""
    values, member = blood
    values = values[:, (values > 0).sum(axis=0) >= 100]
    rng = np.random.default_rng(4)
    p = np.concatenate([test(values, rng.permutation(member))["p_value"] for _ in range(20)])
    for level, tolerance in [(0.01, 0.5), (0.05, 0.25), (0.5, 0.1)]:
        assert np.mean(p < level) == pytest.approx(level, rel=tolerance)


@pytest.fixture(scope="module")
def truth():
    return simulate_counts(n=600, G=500, n_types=2, depth=1500, gene_spread=1, rng=np.random.default_rng(5))


@pytest.mark.parametrize("test", [wilcoxon, hurdle_lrt])
def test_power_on_simulated_differences(truth, test):
    """Genes of mean 0.2 or more: nearly all strong differences found, few others called, directions right."""
    library = truth.X.sum(axis=1)[:, None]
    values = np.log1p(truth.X.toarray() * 1e4 / library)
    table = test(values, truth.cell_type == 1)
    ratio = np.log(truth.fold_change[1] / truth.fold_change[0])
    expressed = truth.X.toarray().mean(axis=0) >= 0.2
    strong = expressed & (np.abs(ratio) > np.log(2))
    called = (table["p_adjusted"] < 0.05).to_numpy()
    scores = precision_recall_tnr(truth=truth.de_between(0, 1)[expressed], called=called[expressed])
    assert called[strong].mean() > 0.9
    assert scores["tnr"] > 0.98
    assert scores["precision"] > 0.9
    assert (np.sign(table["log_fold_change"][strong]) == np.sign(ratio[strong])).mean() > 0.98


def test_precision_recall_tnr_by_counting():
    rng = np.random.default_rng(6)
    truth, called = rng.random(200) < 0.2, rng.random(200) < 0.3
    cell = dict.fromkeys(itertools.product([True, False], repeat=2), 0)
    for pair in zip(truth.tolist(), called.tolist(), strict=True):
        cell[pair] += 1
    got = precision_recall_tnr(truth=truth, called=called)
    assert got["precision"] == cell[True, True] / (cell[True, True] + cell[False, True])
    assert got["recall"] == cell[True, True] / (cell[True, True] + cell[True, False])
    assert got["tnr"] == cell[False, False] / (cell[False, False] + cell[False, True])
    # the published code divides by tn + fn
    assert got["tnr"] != cell[False, False] / (cell[False, False] + cell[True, False])


def test_nothing_called_and_nothing_true():
    none, every = np.zeros(3, dtype=bool), np.ones(3, dtype=bool)
    got = precision_recall_tnr(truth=every, called=none)
    assert np.isnan(got["precision"])
    assert np.isnan(got["tnr"])
    assert got["recall"] == 0
    with pytest.raises(InputError, check=has_code("not-boolean")):
        precision_recall_tnr(truth=every, called=np.array([0.1, 0.2, 0.9]))
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        precision_recall_tnr(truth=every, called=none[:2])


def test_count_splitting_undoes_double_dipping():
    """One Poisson population: clusters tested on their own counts differ, on the other half of the molecules not."""
    rng = np.random.default_rng(7)
    X = sp.csr_array(rng.poisson(np.exp(rng.normal(-0.5, 1, 150)), size=(400, 150)).astype(float))
    table, labels = de_by_count_splitting(X, rng=np.random.default_rng(8))
    split = table["p_value"].to_numpy()
    dipped = wilcoxon(expression.log_normalized(X), expression._two_clusters(X, np.random.default_rng(8)))["p_value"]
    assert set(labels) == {0, 1}
    assert np.mean(dipped < 0.05) > 0.2
    assert np.mean(split < 0.05) < 0.1
    assert stats.kstest(split, "uniform").pvalue > 1e-3


def test_overdispersed_counts_need_their_own_splitting():
    """One negative-binomial population: Poisson splitting leaves the gamma draws in both parts."""
    rng = np.random.default_rng(11)
    mean = np.exp(rng.normal(1, 0.7, 100))
    X = sp.csr_array(rng.poisson(mean * rng.gamma(1, 1, size=(500, 100))).astype(float))
    phi = np.ones(100)
    poisson, honest = (
        np.concatenate(
            [de_by_count_splitting(X, rng=np.random.default_rng(s), overdispersion=o)[0]["p_value"] for s in range(3)]
        )
        for o in (None, phi)
    )
    assert np.mean(poisson < 0.05) > 0.12
    assert np.mean(honest < 0.05) < 0.08


@pytest.mark.parametrize("test", ["wilcoxon", "hurdle"])
def test_count_splitting_finds_real_differences(truth, test):
    table, labels = de_by_count_splitting(truth.X, rng=np.random.default_rng(9), test=test, names=truth.var_names)
    agreement = np.mean(labels == truth.cell_type)
    assert max(agreement, 1 - agreement) > 0.9
    called = (table["p_adjusted"] < 0.05).to_numpy()
    scores = precision_recall_tnr(truth=truth.de_between(0, 1), called=called)
    assert scores["recall"] > 0.3
    assert scores["precision"] > 0.8
    assert list(table.index[:2]) == ["gene0", "gene1"]


def test_count_splitting_passes_the_kept_part_to_the_function(truth):
    seen = []

    def find(kept):
        seen.append(kept)
        return truth.cell_type

    table, labels = de_by_count_splitting(truth.X, find, rng=np.random.default_rng(10), keep=0.3)
    assert seen[0].sum() == pytest.approx(0.3 * truth.X.sum(), rel=0.02)
    assert (labels == truth.cell_type).all()
    again, _ = de_by_count_splitting(truth.X, truth.cell_type, rng=np.random.default_rng(10), keep=0.3)
    pd.testing.assert_frame_equal(table, again)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda X: wilcoxon(X, np.zeros(6)), "not-two-groups"),
        (lambda X: wilcoxon(X, np.arange(6)), "not-two-groups"),
        (lambda X: wilcoxon(X, [0, 1]), "length-mismatch"),
        (lambda X: wilcoxon(X, [0, 0, 0, 1, 1, 1], tested=2), "unknown-group"),
        (lambda X: wilcoxon(X, [0, 0, 0, 1, 1, 1], names=["a"]), "length-mismatch"),
        (lambda X: wilcoxon(X * np.nan, [0, 0, 0, 1, 1, 1]), "not-finite"),
        (lambda X: hurdle_lrt(X - 2, [0, 0, 0, 1, 1, 1]), "negative-values"),
        (lambda X: de_by_count_splitting(X, rng=np.random.default_rng(0), keep=1), "parameter-value"),
        (lambda X: de_by_count_splitting(X, rng=np.random.default_rng(0), test="t"), "parameter-value"),
    ],
)
def test_errors_have_codes(call, code):
    with pytest.raises(InputError, check=has_code(code)):
        call(np.arange(18.0).reshape(6, 3))


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_blocks_without_a_value(monkeypatch, convert, dtype):
    n = 40
    monkeypatch.setattr(expression, "VALUES_PER_BLOCK", 3 * n)  # genes 0 to 2 and 6 to 8 are blocks of zeros
    X = np.zeros((n, 9), dtype=dtype)
    X[:, 3:6] = np.random.default_rng(0).poisson(1.0, (n, 3))
    groups = np.repeat(["a", "b"], n // 2)
    table = wilcoxon(convert(X), groups)
    exact = [
        stats.mannwhitneyu(X[groups == "b", j], X[groups == "a", j], method="asymptotic", use_continuity=False).pvalue
        for j in range(3, 6)
    ]
    np.testing.assert_allclose(table["p_value"], [1, 1, 1, *exact, 1, 1, 1])
    assert (hurdle_lrt(convert(X), groups)["p_value"].drop(index=range(3, 6)) == 1).all()
