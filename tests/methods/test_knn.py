"""KNN against a naive loop, and what rows and features without values get."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.impute import KNNImputer

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.core.scales import Standard
from imputome.errors import InputError
from imputome.methods.knn.estimator import KNN, mean_squares


def matrix(n=80, G=60, *, missing=0.2, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)) @ rng.normal(size=(4, G)) + rng.normal(size=(n, G))
    X = X * rng.lognormal(size=G) + 50 * rng.normal(size=G)
    X[rng.random((n, G)) < missing] = np.nan
    return X.astype(dtype)


def naive(training, rows, k, *, own, metric="shrunk", power=2):
    """The definition, entry by entry, in float64."""
    prior = 1 if metric == "shrunk" else 0
    center, scale = np.nanmean(training, axis=0), np.nanstd(training, axis=0)
    T, Q = (training - center) / scale, (rows - center) / scale
    out = np.empty(rows.shape)
    for q in range(len(Q)):
        distances = []
        for t in range(len(T)):
            both = ~np.isnan(Q[q]) & ~np.isnan(T[t])
            if both.any() and not (own and q == t):
                total = np.sum((Q[q, both] - T[t, both]) ** 2)
                distances.append(((total + 2 * prior) / (both.sum() + prior), t))
        distances.sort()
        for g in range(Q.shape[1]):
            near = [(d, T[t, g]) for d, t in distances if not np.isnan(T[t, g])][:k]
            same = [value for d, value in near if d == 0]
            if same:
                z = np.mean(same)
            elif near:
                z = np.average([value for _, value in near], weights=[d ** (-power / 2) for d, _ in near])
            else:
                z = 0.0
            out[q, g] = z * scale[g] + center[g]
    return out


def real(X, **options):
    return as_data(X, kind="real", **options)


def spread(X):
    return np.nanstd(X, axis=0)


PAPER = {"metric": "nan_euclidean"}


@pytest.mark.parametrize("metric", ["shrunk", "nan_euclidean"])
@pytest.mark.parametrize("k", [1, 10, 200])
@pytest.mark.parametrize("missing", [0.02, 0.2, 0.8])
def test_equals_the_naive_loop(k, missing, metric):
    X = matrix(missing=missing)
    result = KNN(n_neighbors=k, metric=metric).fit_transform(real(X))
    gap = (result.to_array(keep_observed=False) - naive(X, X, k, own=True, metric=metric)) / spread(X)
    assert np.abs(gap).max() < 1e-5


@pytest.mark.parametrize(("weights", "power"), [("uniform", 0), ("distance", 1), ("squared", 2)])
def test_weights(weights, power):
    X = matrix()
    expected = naive(X, X, 10, own=True, power=power)
    for given in (weights, lambda d: d ** -float(power)):
        found = KNN(weights=given).fit_transform(real(X)).to_array(keep_observed=False)
        assert np.abs((found - expected) / spread(X)).max() < 1e-5


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_equals_scikit_learn(weights):
    X = matrix(missing=0.3)
    Z = (X - np.nanmean(X, axis=0)) / np.nanstd(X, axis=0)
    expected = KNNImputer(n_neighbors=7, weights=weights).fit_transform(Z) * np.nanstd(X, axis=0) + np.nanmean(
        X, axis=0
    )
    for metric in ("nan_euclidean", _nan_euclidean):
        found = KNN(n_neighbors=7, weights=weights, metric=metric).fit_transform(real(X)).to_array()
        assert np.abs((found - expected) / spread(X)).max() < 1e-5


def _nan_euclidean(a, b, *, missing_values):
    both = ~np.isnan(a) & ~np.isnan(b)
    return np.sqrt(len(a) * np.mean((a[both] - b[both]).astype(float) ** 2)) if both.any() else missing_values


def test_one_equal_value_does_not_outweigh_near_identical_rows():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(30, 4)), rng.normal(50, 30, size=30)])
    X[0] = [0.1, 0.2, 0.3, 0.4, np.nan]
    X[1], X[2] = [0.11, 0.2, 0.31, 0.4, 10.0], [0.1, 0.19, 0.3, 0.41, 10.2]
    X[3] = [0.1, np.nan, np.nan, np.nan, 90.0]
    assert KNN(preset="paper").fit_transform(real(X)).at([0], [4])[0] == pytest.approx(90)
    assert KNN(n_neighbors=2).fit_transform(real(X)).at([0], [4])[0] == pytest.approx(10.1, abs=0.1)


@pytest.mark.parametrize("load", [load_iris, load_wine, load_diabetes])
def test_the_default_does_not_lose_to_scikit_learn(load):
    X = load().data[:200:2] if load is load_diabetes else load().data
    ours, theirs = [], []
    for seed in range(10):
        hidden = np.random.default_rng(seed).random(X.shape) < 0.2
        given = np.where(hidden, np.nan, X)
        center, scale = np.nanmean(given, axis=0), np.nanstd(given, axis=0)
        truth = ((X - center) / scale)[hidden]
        found = (KNN().fit_transform(real(given)).to_array() - center) / scale
        peer = KNNImputer().fit_transform((given - center) / scale)
        ours.append(np.sqrt(np.mean((found[hidden] - truth) ** 2)))
        theirs.append(np.sqrt(np.mean((peer[hidden] - truth) ** 2)))
    assert np.mean(ours) < np.mean(theirs)
    if load is load_iris:
        assert np.mean(ours) < 0.9 * np.mean(theirs)


def test_weights_that_are_none_are_refused():
    with pytest.raises(InputError, check=has_code("parameter-value")):
        KNN(weights=lambda d: d - 10).fit_transform(real(matrix())).to_array()
    with pytest.raises(InputError, check=has_code("parameter-value")):
        KNN(weights=lambda d: 1.0).fit_transform(real(matrix())).to_array()
    with pytest.raises(InputError, check=has_code("parameter-value")):
        KNN(weights="cosine").fit(matrix())


def test_a_callable_is_not_saved(tmp_path):
    with pytest.raises(InputError, check=has_code("parameter-not-plain")):
        KNN(weights=np.exp).fit(matrix()).save(tmp_path / "model")


def test_models_of_version_0_1_0_give_what_they_gave(tmp_path):
    X, new = matrix(), real(matrix(n=5, seed=3))
    estimator = KNN(n_neighbors=4, preset="paper").fit(real(X))
    estimator.save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    header = json.loads(file.read_text())
    header["params"] = {"k": 4}
    file.write_text(json.dumps(header))
    expected = naive(X, new.known_values(), 4, own=False, **PAPER)
    found = methods.load(tmp_path / "model").transform(new).to_array(keep_observed=False)
    assert np.abs((found - expected) / spread(X)).max() < 1e-5


@pytest.mark.parametrize("k", [1, 10])
def test_new_rows_equal_the_naive_loop(k):
    X, new = matrix(missing=0.05), matrix(n=17, missing=0.4, seed=1)
    result = KNN(n_neighbors=k).fit(real(X)).transform(real(new))
    expected = naive(X, new, k, own=False)
    assert np.abs((result.to_array(keep_observed=False) - expected) / spread(X)).max() < 1e-5
    one = KNN(n_neighbors=k).fit(real(X)).transform(real(new[3:4]))
    np.testing.assert_allclose(one.to_array(keep_observed=False), result.rows([3], keep_observed=False), rtol=1e-6)


def test_values_known_in_few_rows_come_from_those():
    """The nearest rows that have the value are used, even if many rows are nearer."""
    X = matrix(n=300, missing=0.0)
    known = [7, 150, 290]
    truth = X[:, 5].copy()
    X[:, 5] = np.nan
    X[known, 5] = truth[known]
    result = KNN(n_neighbors=2).fit_transform(real(X))
    gap = (result.rows(slice(0, 20), keep_observed=False) - naive(X, X[:20], 2, own=True)) / spread(X)
    assert np.abs(gap).max() < 1e-5


def test_distances_of_close_and_far_rows():
    """float32 sums lose small differences of large rows: these are computed again, also after the first 64."""
    rng = np.random.default_rng(0)
    G = 400
    base = 3 * rng.normal(size=(40, G))
    # 5 rows with 100 near copies each, at distances of at least 1e-5 standard deviations
    X = np.vstack(
        [base, *[base[c] + 10.0 ** -rng.uniform(1, 5, size=(100, 1)) * rng.normal(size=(100, G)) for c in range(5)]]
    )
    X[:5, :30] = np.nan
    result = KNN(preset="paper").fit_transform(real(X))
    expected = naive(X, X[:5], 10, own=True, **PAPER)
    gap = (result.rows(np.arange(5), keep_observed=False) - expected) / spread(X)
    assert np.abs(gap[:, :30]).max() < 1e-5


def test_mean_squares():
    Z = Standard.of(matrix()).forward(matrix())
    got = mean_squares(Z, np.arange(30), Z)
    wide = Z.astype(np.float64)
    expected = np.array([[np.nanmean((a - b) ** 2) for b in wide] for a in wide[:30]])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_rows_without_a_common_feature_are_no_neighbours():
    Z = np.full((2, 4), np.nan, np.float32)
    Z[0, :2], Z[1, 2:] = 1, 1
    assert np.isinf(mean_squares(Z, np.arange(len(Z)), Z)[[0, 1], [1, 0]]).all()


def test_exact_duplicates_take_all_the_weight():
    X = matrix(missing=0.0)
    X[10] = X[20] = X[30]
    expected = X[20, 4]
    X[10, 4] = np.nan
    assert KNN(preset="paper").fit_transform(real(X)).at([10], [4])[0] == pytest.approx(
        expected, abs=1e-5 * np.nanstd(X[:, 4])
    )
    X[30, 4] = expected + 3  # twins that differ there share the weight
    got = KNN(preset="paper").fit_transform(real(X)).at([10], [4])[0]
    assert got == pytest.approx(expected + 1.5, abs=1e-5 * np.nanstd(X[:, 4]))


def test_a_new_row_that_was_trained_on_finds_itself_and_a_training_row_does_not():
    X = matrix(missing=0.0)
    estimator = KNN(preset="paper").fit(real(X))
    np.testing.assert_allclose(
        estimator.transform(real(X[:9])).to_array(keep_observed=False), X[:9], rtol=1e-5, atol=1e-5 * spread(X).max()
    )
    own = KNN(preset="paper").fit_transform(real(X)).rows(np.arange(9), keep_observed=False)
    assert (np.abs(own - X[:9]) > 0.01 * spread(X)).mean() > 0.9


def test_fallbacks():
    X = matrix()
    X[4], X[:, 7] = np.nan, np.nan
    X[:, 8] = 2.5  # does not vary
    X[[0, 4], 8] = np.nan
    estimator = KNN()
    values = estimator.fit_transform(real(X)).to_array()
    used = np.delete(np.arange(60), 7)
    np.testing.assert_allclose(values[:, 7], np.nanmean(X), rtol=1e-6)
    np.testing.assert_allclose(values[4, used], np.nanmean(X[:, used], axis=0), rtol=1e-6)
    assert values[0, 8] == pytest.approx(2.5)
    new = np.full((2, 60), np.nan)
    new[1, 7] = 1.0  # known in no training row: no common feature
    filled = estimator.transform(real(new)).to_array(keep_observed=False)
    np.testing.assert_allclose(filled[0], filled[1])
    np.testing.assert_allclose(filled[1, used], np.nanmean(X[:, used], axis=0), rtol=1e-6)


def test_precision_and_repeatability(tmp_path):
    for dtype in (np.float32, np.float64):
        X = matrix(dtype=dtype)
        estimator = KNN(n_neighbors=3)
        values = estimator.fit_transform(real(X)).to_array(keep_observed=False)
        assert values.dtype == dtype
        np.testing.assert_array_equal(KNN(n_neighbors=3).fit_transform(real(X)).to_array(keep_observed=False), values)
    assert estimator.training_.dtype == np.float32
    estimator.save(tmp_path / "model")
    new = real(matrix(n=5, seed=3))
    loaded = methods.load(tmp_path / "model")
    assert loaded.n_neighbors == 3
    np.testing.assert_array_equal(loaded.transform(new).to_array(), estimator.transform(new).to_array())


def test_values_far_from_zero_lose_no_digits():
    X = matrix()
    shifted = KNN().fit_transform(real(X + 1e7)).to_array(keep_observed=False) - 1e7
    gap = (shifted - KNN().fit_transform(real(X)).to_array(keep_observed=False)) / spread(X)
    assert np.abs(gap).max() < 1e-4


def test_blocks_of_rows_and_of_training_rows_do_not_matter(monkeypatch):
    X = matrix()
    expected = KNN().fit_transform(real(X)).to_array(keep_observed=False)
    monkeypatch.setattr("imputome.methods.knn.estimator.BLOCK_VALUES", 7 * 80)
    result = KNN().fit_transform(real(X))
    np.testing.assert_allclose(result.to_array(keep_observed=False), expected, rtol=1e-6)
    rng = np.random.default_rng(0)
    i, j = rng.integers(80, size=500), rng.integers(60, size=500)
    np.testing.assert_allclose(result.at(i, j, keep_observed=False), expected[i, j], rtol=1e-6)


def test_the_number_of_neighbours_must_be_positive():
    with pytest.raises(InputError, check=has_code("parameter-value")):
        KNN(n_neighbors=0).fit(matrix())


def test_other_values_of_a_constant_feature_move_no_row():
    X = matrix(missing=0.0)
    X[:, 0] = 0
    estimator = KNN(n_neighbors=5).fit(real(X[:60]))
    new = X[60:].copy()
    new[:, 5] = np.nan
    expected = estimator.transform(real(new)).to_array()[:, 5]
    new[:, 0] = 1e6
    np.testing.assert_array_equal(estimator.transform(real(new)).to_array()[:, 5], expected)
