"""lls, iterative_ridge and miss_forest against pcaMethods, scikit-learn and naive loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codes import warns
from imputome import methods
from imputome.core.data import as_data
from imputome.methods.regression.by_feature import most_similar
from imputome.methods.regression.chained import warn_if_slow

PEERS = Path(__file__).parent / "peers" / "pcamethods.npz"


@pytest.fixture(scope="module")
def peers():
    with np.load(PEERS) as stored:
        return dict(stored)


def with_missing(n=50, G=12, *, seed=0, share=0.15):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, G)) + 0.3 * rng.normal(size=(n, G))
    X[rng.random(X.shape) < share] = np.nan
    return X


def z_scores(X):
    return (X - np.nanmean(X, axis=0)) / np.nanstd(X, axis=0)


# -- lls ---------------------------------------------------------------------------------------------------------------
def test_one_incomplete_feature_is_imputed_as_by_pcamethods(peers):
    values = []
    for column in range(8):
        one = peers["complete"].copy()
        one[:, column] = peers["z"][:, column]
        filled = methods.get("lls")(k=10).fit_transform(as_data(one, kind="real")).to_array()
        values.append(filled[np.isnan(one[:, column]), column])
    np.testing.assert_allclose(np.concatenate(values), peers["lls_10"], atol=1e-5)


@pytest.mark.parametrize("similarity", ["pearson", "euclidean"])
def test_rounds_are_those_of_naive_loops(similarity):
    X = with_missing()
    Z, k = z_scores(X), 4
    missing = np.isnan(Z)
    F = np.where(missing, 0.0, Z)
    neighbors = {}
    for j in range(12):
        score = {}
        for other in set(range(12)) - {j}:
            both = ~missing[:, j] & ~missing[:, other]
            a, b = Z[both, j], Z[both, other]
            score[other] = -abs(np.corrcoef(a, b)[0, 1]) if similarity == "pearson" else np.mean((a - b) ** 2)
        neighbors[j] = sorted(score, key=score.get)[:k]
    np.testing.assert_array_equal(most_similar(Z, np.arange(12), k, similarity), [neighbors[j] for j in range(12)])
    for _ in range(2):
        new = F.copy()
        for j in range(12):
            rows = ~missing[:, j]
            w = np.linalg.pinv(F[rows][:, neighbors[j]]) @ Z[rows, j]
            new[~rows, j] = F[~rows][:, neighbors[j]] @ w
        F = new
    expected = np.nanmean(X, axis=0) + np.nanstd(X, axis=0) * F
    ours = methods.get("lls")(k=k, similarity=similarity, max_iter=2).fit_transform(X).to_array()
    np.testing.assert_allclose(ours[missing], expected[missing], rtol=1e-4, atol=1e-5)


def test_k_above_the_number_of_rows_has_the_smallest_norm():
    """As many neighbours as there are: the pseudo-inverse, not a failure of the solver."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8, 30))
    X[2, 0] = np.nan
    Z = z_scores(X)
    rows = np.arange(8) != 2
    w = np.linalg.pinv(Z[rows][:, 1:]) @ Z[rows, 0]
    value = np.nanmean(X[:, 0]) + np.nanstd(X[:, 0]) * (Z[2, 1:] @ w)
    ours = methods.get("lls")(k=29).fit_transform(X).to_array()[2, 0]
    np.testing.assert_allclose(ours, value, rtol=1e-4)


def test_k_is_chosen_below_the_number_of_rows():
    """Features that are noise: with k near n the error explodes, so a small one, or none, must be chosen."""
    X = np.random.default_rng(0).normal(size=(30, 60))
    X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    assert methods.get("lls")().fit_transform(X).status.details["k"] <= 10


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options", [{}, {"k": 5}])
def test_what_is_nearly_all_missing_is_not_far_worse_than_the_means(seed, options):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 15)) + 0.2 * rng.normal(size=(40, 15))
    hidden = rng.random(truth.shape) < 0.9
    X = np.where(hidden, np.nan, truth)
    estimator = methods.get("lls")(**options)
    by_means = methods.get("mean")().fit_transform(X).to_array()
    error = np.sqrt(np.mean((by_means - truth)[hidden] ** 2))
    for values in (estimator.fit_transform(X).to_array(), estimator.transform(X).to_array()):
        assert np.sqrt(np.mean((values - truth)[hidden] ** 2)) < 1.8 * error


def test_means_where_they_predict_best():
    X = np.random.default_rng(0).normal(size=(30, 60))
    X[np.random.default_rng(1).random(X.shape) < 0.3] = np.nan
    estimator = methods.get("lls")()
    result = estimator.fit_transform(X)
    assert estimator.k_ == 0
    np.testing.assert_allclose(result.to_array(), methods.get("mean")().fit_transform(X).to_array(), rtol=1e-6)


# -- iterative_ridge ---------------------------------------------------------------------------------------------------
def test_all_neighbours_give_the_numbers_of_scikit_learn():
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    X = with_missing(share=0.0)
    for j in range(12):  # another number of missing entries in each feature, as ties are ordered by place there
        X[np.random.default_rng(j).permutation(50)[: 12 - j], j] = np.nan
    missing = np.isnan(X)
    peer = IterativeImputer(max_iter=3, tol=1e-300)
    with pytest.warns(ConvergenceWarning):
        expected = peer.fit_transform(z_scores(X))
    expected = np.nanmean(X, axis=0) + np.nanstd(X, axis=0) * expected
    estimator = methods.get("iterative_ridge")(n_nearest_features=None, max_iter=3, tol=0.0)
    ours = estimator.fit_transform(X).to_array()
    np.testing.assert_allclose(ours[missing], expected[missing], rtol=1e-4, atol=1e-5)


# -- miss_forest -------------------------------------------------------------------------------------------------------
def test_saved_trees_predict_what_scikit_learn_does():
    """Known entries are predicted by the stored arrays; here each by a forest of scikit-learn with the same draws."""
    from sklearn.tree import DecisionTreeRegressor

    X = with_missing()
    X[:, 1:] = np.where(np.isnan(X[:, 1:]), 0.1, X[:, 1:])
    estimator = methods.get("miss_forest")(n_trees=3, max_iter=1, min_leaf=2)
    result = estimator.fit_transform(X)
    Z = estimator.standard_.forward(X).astype(float)
    rows = np.flatnonzero(~np.isnan(Z[:, 0]))
    rng = np.random.default_rng(0)
    predictions = []
    for _ in range(3):
        drawn = rng.integers(len(rows), size=len(rows))
        tree = DecisionTreeRegressor(max_features="sqrt", min_samples_leaf=2, random_state=int(rng.integers(2**31)))
        weight = np.bincount(drawn, minlength=len(rows)).astype(float)
        predictions.append(tree.fit(Z[rows, 1:], Z[rows, 0], sample_weight=weight).predict(Z[:, 1:]))
    expected = estimator.standard_.center[0] + estimator.standard_.scale[0] * np.mean(predictions, axis=0)
    np.testing.assert_allclose(result.to_array(keep_observed=False)[:, 0], expected, rtol=1e-6)


def test_forests_find_what_lines_cannot():
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, 150)
    X = np.column_stack([a, a**2 + 0.02 * rng.normal(size=150), np.cos(3 * a)])
    truth = X.copy()
    X[::7, 1] = np.nan
    gap = {
        name: np.abs(methods.get(name)(**params).fit_transform(X).to_array() - truth)[::7, 1].mean()
        for name, params in {"miss_forest": {"n_trees": 20}, "mean": {}}.items()
    }
    assert gap["miss_forest"] < 0.25 * gap["mean"]


def test_rounds_end_before_the_change_grows():
    """The paper's rule: the result is that of the round before, so one round less gives the same."""
    X = with_missing(seed=2)
    result = methods.get("miss_forest")(n_trees=5).fit_transform(X)
    assert result.status.name == "converged"
    rounds = result.status.details["iterations"]
    shorter = methods.get("miss_forest")(n_trees=5, max_iter=rounds - 1).fit_transform(X)
    assert shorter.status.name == "max_iter"
    np.testing.assert_array_equal(result.to_array(), shorter.to_array())


# -- all ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["lls", "iterative_ridge"])
def test_new_rows_come_close_to_training_rows(name):
    X = with_missing(n=80)
    estimator = methods.get(name)(**({"k": 5, "max_iter": 30} if name == "lls" else {"tol": 1e-6, "max_iter": 30}))
    trained = estimator.fit_transform(X).to_array()
    new = estimator.transform(X).to_array()
    missing = np.isnan(X)
    assert np.corrcoef(trained[missing], new[missing])[0, 1] > 0.999


def test_slow_fits_are_announced_with_their_minutes(recwarn):
    warn_if_slow("miss_forest", 1.0, 2.0, "n_trees")
    assert not recwarn
    with warns("slow-fit"):
        warn_if_slow("miss_forest", 4.0, 2.0, "n_trees")
