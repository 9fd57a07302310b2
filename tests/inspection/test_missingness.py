"""The missingness report: shares, pattern, the suspicion of low values, and the advice."""

from __future__ import annotations

import json
import tracemalloc

import anndata as ad
import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr, t

import imputome
from codes import has_code
from imputome import datasets
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation import splits as splits_real
from imputome.inspection.advice import advise, few_samples, wide_cost
from imputome.inspection.missingness import SHARE_QUANTILES, cochran, count_missing, missingness
from imputome.inspection.tails import low_values
from imputome.methods.registry import METHODS


def related(rng, n=80, G=120):
    """Features in one unit, with five shared factors and different levels."""
    return rng.normal(size=(n, 5)) @ rng.normal(size=(5, G)) + rng.normal(size=(n, G)) + 3 * rng.normal(size=G)


def skewed(rng, n=80, G=120):
    return np.exp(0.5 * related(rng, n, G))


def without(X, missing):
    return np.where(missing, np.nan, X)


def suspected(X):
    return low_values(X, np.isnan(X).mean(axis=0))


def signs(X):
    return {sign.name: sign for sign in suspected(X).signs}


# -- shares ------------------------------------------------------------------------------------------------------------
def test_shares_by_hand():
    X = np.arange(20.0).reshape(4, 5)
    X[:, 1] = np.nan
    X[:3, 4] = np.nan
    X[0, 0] = np.nan
    report = missingness(X, obs_names=list("wxyz"), var_names=[f"g{k}" for k in range(5)])
    assert report.shape == (4, 5)
    assert report.n_missing == 8
    assert report.share == 0.4
    features, samples = report.features, report.samples
    assert (features.number, features.complete, features.empty, features.over_half) == (5, 2, 1, 2)
    assert features.worst == (("g1", 1.0), ("g4", 0.75), ("g0", 0.25))
    assert features.quantiles == tuple(np.quantile([0.25, 1, 0, 0, 0.75], SHARE_QUANTILES))
    assert (samples.number, samples.complete, samples.empty, samples.over_half) == (4, 0, 0, 1)
    assert samples.worst == (("w", 0.6), ("x", 0.4), ("y", 0.4), ("z", 0.2))
    assert missingness(X).features.worst[0] == ("1", 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_counts_over_many_blocks(dtype, order):
    rng = np.random.default_rng(0)
    X = np.asarray(rng.random((1200, 37)), dtype=dtype, order=order)
    X[rng.random(X.shape) < 0.9] = np.nan
    X[:, 5] = np.nan  # more than a byte counts
    by_sample, by_feature = count_missing(X)
    np.testing.assert_array_equal(by_sample, np.isnan(X).sum(axis=1))
    np.testing.assert_array_equal(by_feature, np.isnan(X).sum(axis=0))
    np.testing.assert_array_equal(count_missing(np.ones((3, 2), dtype=int))[0], [0, 0, 0])


def test_the_matrix_is_neither_changed_nor_copied():
    rng = np.random.default_rng(0)
    X = rng.random((3000, 3000), dtype=np.float32)
    X[rng.random(X.shape) < 0.1] = np.nan
    before = X.copy()
    missingness(X)  # what is loaded on the first call does not count
    tracemalloc.start()
    count_missing(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 5
    np.testing.assert_array_equal(X, before)


def test_nothing_missing():
    report = missingness(np.random.default_rng(0).normal(size=(30, 20)))
    assert report.pattern.name == "none"
    assert report.advice.method is None
    assert not report.low_values.suspected
    assert report.lines() == ["30 samples x 20 features, 0 values missing (0.0 %)", *report.advice.lines()]


def test_everything_missing():
    report = missingness(np.full((30, 20), np.nan))
    assert report.share == 1
    assert report.features.empty == 20
    assert report.samples.empty == 30
    assert report.advice.method == "mean"
    assert json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("X", "names", "code"),
    [
        (np.zeros(3), {}, "not-a-matrix"),
        (np.array([["a"]]), {}, "not-a-matrix"),
        (np.zeros((0, 4)), {}, "empty-matrix"),
        (np.zeros((2, 3)), {"var_names": ["a"]}, "name-count"),
        (np.zeros((2, 3)), {"obs_names": ["a"]}, "name-count"),
    ],
)
def test_input_must_be_a_matrix(X, names, code):
    with pytest.raises(InputError, check=has_code(code)) as error:
        missingness(X, **names)
    assert error.value.parameter == next(iter(names), None)


def test_report_is_json_and_complete():
    rng = np.random.default_rng(0)
    X = related(rng)
    report = missingness(without(X, np.quantile(X, 0.1) > X))
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["features"]["quantiles"]["0.5"] == report.features.quantiles[2]
    assert plain["pattern"]["name"] == report.pattern.name
    assert plain["low_values"]["suspected"] is True
    assert plain["advice"]["method"] == "gaussian_copula"
    text = "\n".join(report.lines())
    assert all(part in text for part in ("80 samples x 120 features", "10.0 %", report.pattern.line()))
    assert all(part in text for part in report.low_values.lines())
    assert report.advice.notes[-1].code == "low-values"
    assert report.advice.notes[-1].options == {"shift": "auto"}


# -- pattern -----------------------------------------------------------------------------------------------------------
def blocks(rng, n, G):
    """Groups of thirty features are missing in the same fifth of the samples."""
    missing = np.zeros((n, G), dtype=bool)
    for start in range(0, G, 30):
        missing[np.ix_(rng.choice(n, n // 5, replace=False), np.arange(start, min(start + 30, G)))] = True
    return missing


def one_block(rng, n, G):
    missing = np.zeros((n, G), dtype=bool)
    missing[np.ix_(rng.choice(n, n // 5, replace=False), rng.choice(G, G // 10, replace=False))] = True
    return missing


def whole_features(rng, n, G):
    missing = np.zeros((n, G), dtype=bool)
    missing[:, rng.choice(G, G // 10, replace=False)] = True
    return missing


def few_bad_samples(rng, n, G):
    missing = np.zeros((n, G), dtype=bool)
    missing[: n // 5] = rng.random((n // 5, G)) < 0.8
    return missing


def both_sides(rng, n, G):
    return rng.random((n, G)) < 1 / (1 + np.exp(2 - rng.normal(size=G) - rng.normal(size=(n, 1))))


def panel(rng, n, G):
    """Four in five samples were measured for a sixth of the features: 67 % are missing."""
    missing = np.zeros((n, G), dtype=bool)
    missing[np.ix_(rng.choice(n, 4 * n // 5, replace=False), rng.choice(G, 5 * G // 6, replace=False))] = True
    return missing


def two_arrays(rng, n, G):
    """No feature is on both arrays."""
    first = rng.random(n) < 0.5
    return first[:, None] == (np.arange(G) < G // 2)


PATTERNS = {
    "random, few": ("random", lambda rng, n, G: rng.random((n, G)) < 0.03),
    "random": ("random", lambda rng, n, G: rng.random((n, G)) < 0.1),
    "random, many": ("random", lambda rng, n, G: rng.random((n, G)) < 0.6),
    "features of different shares": ("by feature", lambda rng, n, G: rng.random((n, G)) < rng.beta(1, 5, G)),
    "whole features": ("by feature", whole_features),
    "samples of different shares": ("by sample", lambda rng, n, G: rng.random((n, G)) < rng.beta(1, 5, (n, 1))),
    "a few bad samples": ("by sample", few_bad_samples),
    "both": ("by feature and sample", both_sides),
    "one block": ("blocks", one_block),
    "blocks everywhere": ("blocks", blocks),
    "a panel": ("blocks", panel),
    "two arrays": ("blocks", two_arrays),
    "random, nearly all": ("random", lambda rng, n, G: rng.random((n, G)) < 0.85),
    "blocks and a few others": ("blocks", lambda rng, n, G: blocks(rng, n, G) | (rng.random((n, G)) < 0.02)),
}


@pytest.mark.parametrize("case", PATTERNS)
@pytest.mark.parametrize("shape", [(150, 200), (40, 400)])
def test_patterns_are_distinguished(case, shape):
    name, make = PATTERNS[case]
    names = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        names.append(missingness(without(rng.normal(size=shape), make(rng, *shape))).pattern.name)
    assert names.count(name) >= 9, names


def test_cochran_equals_the_formula_and_a_permutation_test():
    rng = np.random.default_rng(0)
    ones = rng.random((12, 40)) < rng.beta(4, 6, size=40) + 0.04 * rng.normal(size=(12, 1))
    k, counts, others = 12, ones.sum(axis=1), ones.sum(axis=0)
    spread, p_value = cochran(counts, others)
    total = counts.sum()
    q = (k - 1) * (k * (counts**2).sum() - total**2) / (k * total - (others**2).sum())

    def q_of(table):
        return ((table.sum(axis=1) - total / k) ** 2).sum()

    shuffled = [q_of(rng.permuted(ones, axis=0)) for _ in range(4000)]
    assert q / (k - 1) == pytest.approx(q_of(ones) / np.mean(shuffled), rel=0.03)
    assert p_value == pytest.approx(np.mean(np.array(shuffled) >= q_of(ones)), abs=0.03)
    excess = q_of(ones) / (k - 1) - np.mean(shuffled) / (k - 1)
    assert spread == pytest.approx(np.sqrt(max(excess, 0)) / (total / k), abs=0.03)


def test_spread_is_that_of_the_true_shares():
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.1, 0.3, size=2000)
    ones = rng.random((2000, 300)) < shares[:, None]
    spread, p_value = cochran(ones.sum(axis=1), ones.sum(axis=0))
    assert spread == pytest.approx(shares.std() / shares.mean(), rel=0.05)
    assert p_value < 1e-10


def test_cochran_is_uniform_by_chance():
    rng = np.random.default_rng(1)
    p_values = []
    for _ in range(400):
        ones = rng.random((60, 80)) < 0.2
        p_values.append(cochran(ones.sum(axis=1), ones.sum(axis=0))[1])
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.05)


# -- low values --------------------------------------------------------------------------------------------------------
def test_signs_across_features_by_brute_force():
    rng = np.random.default_rng(0)
    X = without(skewed(rng), rng.random((80, 120)) < rng.beta(1, 3, 120))
    share = np.isnan(X).mean(axis=0)
    low, middle, high = np.nanquantile(X, (0.05, 0.5, 0.95), axis=0)
    kept = (~np.isnan(X)).sum(axis=0) >= 10
    results = signs(X)
    for name, values in (("level", middle), ("lower tail", (middle - low) / (high - low))):
        expected = spearmanr(share[kept], values[kept], alternative="less")
        assert results[name].effect == pytest.approx(expected.statistic, abs=1e-12)
        assert results[name].p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_related_features_by_brute_force():
    rng = np.random.default_rng(0)
    X = without(related(rng, 40, 30), rng.random((40, 30)) < 0.2)
    n, G = X.shape
    scores, known = np.zeros((n, G)), ~np.isnan(X)
    for j in range(G):
        ranks = rankdata(X[known[:, j], j])
        scores[known[:, j], j] = (ranks - ranks.mean()) / ranks.std()
    by_sample, weight = np.zeros(n), 0.0
    for j in range(G):
        correlation = np.zeros(G)
        for k in set(range(G)) - {j}:
            both = known[:, j] & known[:, k]
            a, b = scores[both, j], scores[both, k]
            correlation[k] = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
        partners = np.argsort(-np.abs(correlation))[:5]
        predicted = np.zeros(n)
        for i in range(n):
            there = [k for k in partners if known[i, k]]
            if there:
                predicted[i] = sum(correlation[k] * scores[i, k] for k in there) / sum(
                    abs(correlation[k]) for k in there
                )
        z = (predicted - predicted.mean()) / predicted.std()
        rate = 1 - known[:, j].mean()
        by_sample += (~known[:, j] - rate) * z
        weight += n * rate * (1 - rate)
    sign = signs(X)["related features"]
    assert sign.effect == pytest.approx(by_sample.sum() / weight, rel=1e-4)
    statistic = by_sample.sum() / np.sqrt((by_sample**2).sum())
    assert sign.p_value == pytest.approx(t.cdf(statistic, n - 1), rel=1e-3)


@pytest.mark.parametrize("make", [related, skewed, lambda rng: rng.normal(size=(60, 100))])
@pytest.mark.parametrize("case", ["random, few", "random", "features of different shares"])
def test_few_false_alarms(make, case):
    raised = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        X = make(rng)
        raised += suspected(without(X, PATTERNS[case][1](rng, *X.shape))).suspected
    assert raised <= 5


@pytest.mark.parametrize("make", [related, skewed])
@pytest.mark.parametrize("rows", ["all", "test"])
def test_missing_half_of_the_lowest_tenth_is_detected(make, rows):
    raised = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        split = splits_real.low_values(as_data(make(rng, 150), kind="real"), rng, fraction=0.5, quantile=0.1, rows=rows)
        parts = [split.train.X] if split.apply is None else [split.train.X, split.apply.X]
        raised += suspected(np.vstack(parts)).suspected
    assert raised >= 18


def test_a_detection_limit_is_detected_in_level_and_tail():
    rng = np.random.default_rng(0)
    X = related(rng)
    results = signs(without(X, np.quantile(X, 0.2) > X))
    assert results["level"].found
    assert results["lower tail"].found
    assert results["level"].effect < -0.5


def test_missing_high_values_give_no_sign():
    rng = np.random.default_rng(0)
    X = -related(rng)
    assert not suspected(without(X, np.quantile(X, 0.9) < X)).suspected


@pytest.mark.parametrize(("name", "link"), [("tcga_expression", np.arcsinh), ("tcga_methylation", np.asarray)])
def test_on_real_data(shared_data, name, link):
    X = link(np.asarray(datasets.load(name).X))
    rng = np.random.default_rng(0)
    hidden = splits_real.low_values(as_data(X, kind="real"), rng, fraction=0.5, quantile=0.1, rows="all").train.X
    report = missingness(hidden)
    assert report.low_values.suspected
    assert report.share == pytest.approx(0.05, abs=0.001)
    by_chance = missingness(without(X, rng.random(X.shape) < 0.1))
    assert not by_chance.low_values.suspected
    assert by_chance.pattern.name == "random"
    assert by_chance.advice.method == "gaussian_copula"


@pytest.mark.parametrize("shape", [(3, 50), (50, 1), (9, 40), (30, 2)])
def test_few_samples_or_features(shape):
    rng = np.random.default_rng(0)
    X = without(rng.normal(size=shape), rng.random(shape) < 0.3)
    results = suspected(X)
    assert not results.suspected
    assert all(np.isfinite(sign.p_value) for sign in results.signs)


def test_constant_features_and_many_equal_values():
    rng = np.random.default_rng(0)
    X = np.maximum(related(rng), 0)
    X[:, :60] = 1.0
    results = suspected(without(X, rng.random(X.shape) < 0.1))
    assert not results.suspected
    assert len(results.signs) == 3


# -- advice ------------------------------------------------------------------------------------------------------------
def advised(**changes):
    usual = {"n": 500, "G": 1000, "share": 0.1, "mostly_missing": 0, "empty_features": 0, "empty_samples": 0}
    return advise(**{**usual, "low_values": False, **changes})


@pytest.mark.parametrize(
    ("changes", "method", "code", "figure"),
    [
        ({}, "gaussian_copula", "lowest-error", ""),
        ({"share": 0.0}, None, "nothing-missing", ""),
        ({"n": 3}, "mean", "few-samples", "3 samples"),
        ({"n": 5}, "mean", "few-samples", "5 samples"),
        ({"n": 4, "G": 300_684}, "mean", "few-samples", "4 samples"),
        ({"G": 2}, "mean", "few-features", "2 features"),
        ({"share": 0.9}, "mean", "mostly-missing", "90 %"),
        ({"n": 6600, "G": 17_176}, "gaussian_copula", "lowest-error", ""),
        ({"n": 50_000, "G": 17_176}, "soft_impute", "copula-too-slow", "2.5 hours"),
        ({"n": 900, "G": 300_000}, "gaussian_copula", "lowest-error", ""),
        ({"n": 456, "G": 866_000}, "gaussian_copula", "lowest-error", ""),
        ({"n": 5000, "G": 866_000}, "soft_impute", "copula-too-slow", "12.2 hours"),
    ],
)
def test_method(changes, method, code, figure):
    advice = advised(**changes)
    assert (advice.method, advice.reason.code, advice.notes) == (method, code, ())
    assert figure in advice.reason


def test_notes():
    advice = advised(low_values=True, mostly_missing=12, empty_features=2, empty_samples=1)
    assert [note.code for note in advice.notes] == ["mostly-missing-features", "no-observed-values", "low-values"]
    assert all(figure in advice.notes[0] for figure in ("12", "80 %"))
    assert advised(low_values=True, n=3).notes == ()  # the mean has no such correction


def test_few_samples():
    assert [note.code for note in advised(n=10).notes] == ["few-samples-for-intervals"]
    assert (advised(n=7).method, advised(n=7).reason.code) == ("gaussian_copula", "usual-default")
    assert few_samples("gaussian_copula", 5).code == "few-samples-for-copula"
    assert few_samples("gaussian_copula", 30) is None
    assert few_samples("mean", 6) is None


def test_the_cost_of_a_wide_table_is_said():
    cost = wide_cost("gaussian_copula", 456, 866_000)
    assert cost.code == "wide-cost"
    assert wide_cost("gaussian_copula", 456, 5000) is None
    assert wide_cost("mean", 456, 866_000) is None


def test_the_user_is_warned_of_few_samples():
    X = np.random.default_rng(0).normal(size=(8, 12))
    X[0, 0] = np.nan
    with pytest.warns(UserWarning, match="gaussian_copula"):
        imputome.impute(ad.AnnData(X), method="gaussian_copula")


def test_mostly_missing_features_are_counted():
    rng = np.random.default_rng(0)
    X = without(rng.normal(size=(100, 50)), rng.random((100, 50)) < 0.1)
    X[:85, :3] = np.nan
    X[:, 7] = np.nan
    notes = missingness(X).advice.notes
    assert [note.code for note in notes] == ["mostly-missing-features", "no-observed-values"]
    assert "4 features" in notes[0]
    assert "1 features and 0 samples" in notes[1]


def test_only_known_methods_are_advised():
    names = set(METHODS)
    assert {"mean", "gaussian_copula", "soft_impute", "beta_vae"} <= names
