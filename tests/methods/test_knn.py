"""KNN against a naive loop, and what rows and features without values get."""

from __future__ import annotations

import numpy as np
import pytest

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


def naive(training, rows, k, *, own):
    """The definition, entry by entry, in float64."""
    center, scale = np.nanmean(training, axis=0), np.nanstd(training, axis=0)
    T, Q = (training - center) / scale, (rows - center) / scale
    out = np.empty(rows.shape)
    for q in range(len(Q)):
        distances = []
        for t in range(len(T)):
            both = ~np.isnan(Q[q]) & ~np.isnan(T[t])
            if both.any() and not (own and q == t):
                distances.append((np.mean((Q[q, both] - T[t, both]) ** 2), t))
        distances.sort()
        for g in range(Q.shape[1]):
            near = [(d, T[t, g]) for d, t in distances if not np.isnan(T[t, g])][:k]
            same = [value for d, value in near if d == 0]
            if same:
                z = np.mean(same)
            elif near:
                z = np.average([value for _, value in near], weights=[1 / d for d, _ in near])
            else:
                z = 0.0
            out[q, g] = z * scale[g] + center[g]
    return out


def real(X, **options):
    return as_data(X, kind="real", **options)


def spread(X):
    return np.nanstd(X, axis=0)


@pytest.mark.parametrize("k", [1, 10, 200])
@pytest.mark.parametrize("missing", [0.02, 0.2, 0.8])
def test_equals_the_naive_loop(k, missing):
    X = matrix(missing=missing)
    result = KNN(k=k).fit_transform(real(X))
    gap = (result.to_array(keep_observed=False) - naive(X, X, k, own=True)) / spread(X)
    assert np.abs(gap).max() < 1e-5


@pytest.mark.parametrize("k", [1, 10])
def test_new_rows_equal_the_naive_loop(k):
    X, new = matrix(missing=0.05), matrix(n=17, missing=0.4, seed=1)
    result = KNN(k=k).fit(real(X)).transform(real(new))
    expected = naive(X, new, k, own=False)
    assert np.abs((result.to_array(keep_observed=False) - expected) / spread(X)).max() < 1e-5
    one = KNN(k=k).fit(real(X)).transform(real(new[3:4]))
    np.testing.assert_allclose(one.to_array(keep_observed=False), result.rows([3], keep_observed=False), rtol=1e-6)


def test_values_known_in_few_rows_come_from_those():
    """The nearest rows that have the value are used, even if many rows are nearer."""
    X = matrix(n=300, missing=0.0)
    known = [7, 150, 290]
    truth = X[:, 5].copy()
    X[:, 5] = np.nan
    X[known, 5] = truth[known]
    result = KNN(k=2).fit_transform(real(X))
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
    result = KNN(k=10).fit_transform(real(X))
    expected = naive(X, X[:5], 10, own=True)
    gap = (result.rows(np.arange(5), keep_observed=False) - expected) / spread(X)
    assert np.abs(gap[:, :30]).max() < 1e-5


def test_mean_squares():
    Z = Standard.of(matrix()).forward(matrix())
    got = mean_squares(Z[:30], Z)
    wide = Z.astype(np.float64)
    expected = np.array([[np.nanmean((a - b) ** 2) for b in wide] for a in wide[:30]])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_rows_without_a_common_feature_are_no_neighbours():
    Z = np.full((2, 4), np.nan, np.float32)
    Z[0, :2], Z[1, 2:] = 1, 1
    assert np.isinf(mean_squares(Z, Z)[[0, 1], [1, 0]]).all()


def test_exact_duplicates_take_all_the_weight():
    X = matrix(missing=0.0)
    X[10] = X[20] = X[30]
    expected = X[20, 4]
    X[10, 4] = np.nan
    assert KNN().fit_transform(real(X)).at([10], [4])[0] == pytest.approx(expected, abs=1e-5 * np.nanstd(X[:, 4]))
    X[30, 4] = expected + 3  # twins that differ there share the weight
    got = KNN().fit_transform(real(X)).at([10], [4])[0]
    assert got == pytest.approx(expected + 1.5, abs=1e-5 * np.nanstd(X[:, 4]))


def test_a_new_row_that_was_trained_on_finds_itself_and_a_training_row_does_not():
    X = matrix(missing=0.0)
    estimator = KNN().fit(real(X))
    np.testing.assert_allclose(
        estimator.transform(real(X[:9])).to_array(keep_observed=False), X[:9], rtol=1e-5, atol=1e-5 * spread(X).max()
    )
    own = KNN().fit_transform(real(X)).rows(np.arange(9), keep_observed=False)
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
        estimator = KNN(k=3)
        values = estimator.fit_transform(real(X)).to_array(keep_observed=False)
        assert values.dtype == dtype
        np.testing.assert_array_equal(KNN(k=3).fit_transform(real(X)).to_array(keep_observed=False), values)
    assert estimator.training_.dtype == np.float32
    estimator.save(tmp_path / "model")
    new = real(matrix(n=5, seed=3))
    loaded = methods.load(tmp_path / "model")
    assert loaded.k == 3
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


def test_k_must_be_positive():
    with pytest.raises(InputError, check=has_code("parameter-value")):
        KNN(k=0).fit(matrix())


def test_other_values_of_a_constant_feature_move_no_row():
    X = matrix(missing=0.0)
    X[:, 0] = 0
    estimator = KNN(k=5).fit(real(X[:60]))
    new = X[60:].copy()
    new[:, 5] = np.nan
    expected = estimator.transform(real(new)).to_array()[:, 5]
    new[:, 0] = 1e6
    np.testing.assert_array_equal(estimator.transform(real(new)).to_array()[:, 5], expected)
