"""The controls against naive computations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_hidden
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS, nonzero_mean
from imputome.studies.runner import Dataset, run_study


def counts(n=50, G=20, *, seed=0):
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(G, 0.5))
    X = rng.poisson(rng.lognormal(4, 0.5, size=(n, 1)) * (share + 0.002) * rng.gamma(2, 0.5, size=(n, G)))
    X[np.arange(n), np.arange(n) % G] += 1
    return X.astype(np.float64)


def reals(n=30, G=12, *, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, G)) * rng.gamma(2, size=G) + rng.normal(size=G)
    X[rng.random((n, G)) < 0.2] = np.nan
    return X


def test_no_imputation_returns_the_counts():
    X = counts()
    for keep in (True, False):
        result = methods.get("no_imputation")().fit_transform(sp.csr_array(X))
        np.testing.assert_array_equal(result.to_array(keep_observed=keep), X)
        np.testing.assert_array_equal(result.to_array(output="rate", keep_observed=keep), X)


def test_gene_mean():
    X = counts()
    expected = np.zeros_like(X)
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            expected[i, j] = X[i].sum() * X[:, j].sum() / X.sum()
    estimator = methods.get("gene_mean")()
    result = estimator.fit_transform(X)
    np.testing.assert_allclose(result.to_array(), expected, rtol=1e-10)
    np.testing.assert_allclose(result.gene_columns["share"], X.sum(axis=0) / X.sum(), rtol=1e-12)
    np.testing.assert_allclose(result.to_array().sum(), X.sum(), rtol=1e-10)
    new = counts(seed=1)[:7]
    np.testing.assert_allclose(
        estimator.transform(new).to_array(), np.outer(new.sum(axis=1), X.sum(axis=0) / X.sum()), rtol=1e-10
    )


def test_gene_mean_totals_are_exact():
    """Above 2^24 a float32 sum does not change when 1 is added; sums are float64 for any input type."""
    X = np.ones((1500, 1500), dtype=np.float32)
    X[0, :] = X[:, 0] = 2.0**24 - 1  # a gene and a cell that reach it at once
    X[:, 1] = 0
    share = methods.get("gene_mean")().fit(X).share_
    exact = X.astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(share, exact / exact.sum(), rtol=1e-9)


def brute_posterior(X, rate, prior):
    shapes = prior.shape * (rate / prior.mean) ** prior.power
    values, variances = np.zeros_like(X), np.zeros_like(X)
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            m, phi, x = rate[i, j], shapes[i, j], X[i, j]
            values[i, j] = m * (phi + x) / (phi + m)
            variances[i, j] = m * m * (phi + x) / (phi + m) ** 2
    return values, variances


@pytest.mark.parametrize("name", ["gene_mean_posterior", "gene_mean"])
def test_posterior_on_the_gene_mean(name):
    X = counts(n=80)
    estimator = methods.get(name)(posterior=True)
    result = estimator.fit_transform(X)
    assert estimator.prior_.shape.shape == (20,)
    assert (estimator.prior_.shape > 0).all()
    rate = np.outer(X.sum(axis=1), X.sum(axis=0) / X.sum())
    values, variances = brute_posterior(X, rate, estimator.prior_)
    assert estimator.prior_.cell_power == 0
    factor = X.sum() / values.sum()
    assert estimator.total_factor_ == pytest.approx(factor, rel=1e-8)
    np.testing.assert_allclose(result.to_array(), factor * values, rtol=1e-8)
    np.testing.assert_allclose(result.to_array(output="variance"), factor**2 * variances, rtol=1e-8)
    np.testing.assert_array_equal(result.gene_columns["posterior_shape"], estimator.prior_.shape)
    np.testing.assert_array_equal(result.gene_columns["posterior_power"], estimator.prior_.power)
    assert not result.keeps_observed


@pytest.mark.parametrize(("name", "centre"), [("mean", np.mean), ("median", np.median)])
def test_feature_mean_and_median(name, centre):
    X = reals()
    X[:, 3] = np.nan
    expected = np.zeros_like(X)
    for j in range(X.shape[1]):
        known = [x for x in X[:, j] if not np.isnan(x)]
        expected[:, j] = centre(known) if known else np.mean([x for x in X.ravel() if not np.isnan(x)])
    estimator = methods.get(name)()
    result = estimator.fit_transform(X)
    np.testing.assert_allclose(result.to_array(keep_observed=False), expected, rtol=1e-12)
    np.testing.assert_array_equal(result.to_array(), np.where(np.isnan(X), result.to_array(keep_observed=False), X))
    np.testing.assert_allclose(result.gene_columns["center"], expected[0], rtol=1e-12)
    new = reals(seed=1)[:4]
    np.testing.assert_allclose(estimator.transform(new).to_array(keep_observed=False), expected[:4], rtol=1e-12)


def chi_square(drawn, values, weights):
    """p-value of the draws coming from ``values`` with these probabilities."""
    found = np.array([(np.abs(drawn - value) < 1e-9).sum() for value in values])
    assert found.sum() == len(drawn)  # nothing else was drawn
    return stats.chisquare(found, np.asarray(weights) * len(drawn)).pvalue


def test_random_counts_are_draws_of_the_genes_own_shares():
    X = counts(n=25, G=6)
    X[4] = 0  # an empty cell has no shares to draw from
    library = X.sum(axis=1)
    shares = np.delete(X / np.where(library > 0, library, 1)[:, None], 4, axis=0)
    new = np.zeros((6000, 6))
    new[:, 0] = 100
    drawn = methods.get("random")(random_state=3).fit(X).transform(new).to_array(keep_observed=False) / 100
    for j in range(6):
        values, times = np.unique(shares[:, j].round(12), return_counts=True)
        assert chi_square(drawn[:, j], values, times / 24) > 1e-4
    between = np.corrcoef(drawn.T) - np.eye(6)
    assert np.abs(between).max() < 5 / np.sqrt(6000)  # genes are drawn independently
    shifted = [np.corrcoef(drawn[:-1, j], drawn[1:, j])[0, 1] for j in range(6)]
    assert np.abs(shifted).max() < 5 / np.sqrt(6000)  # and so are cells


def test_random_draws_scale_with_the_library():
    X = counts(n=30, G=8)
    estimator = methods.get("random")().fit(X)
    once = estimator.transform(X).to_array(keep_observed=False)
    thrice = estimator.transform(3 * X).to_array(keep_observed=False)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-12)


def test_random_reals_are_draws_of_the_features_own_values():
    X = reals(n=12, G=5)
    X[:, 2] = np.nan
    new = np.full((5000, 5), np.nan)
    drawn = methods.get("random")(random_state=1).fit(X).transform(as_data(new, kind="real")).to_array()
    for j in (0, 1, 3, 4):
        values = X[~np.isnan(X[:, j]), j]
        assert chi_square(drawn[:, j], values, np.full(len(values), 1 / len(values))) > 1e-4
    np.testing.assert_allclose(drawn[:, 2], np.nanmean(X))


def test_random_depends_on_the_seed_alone():
    X = counts()
    library = X.sum(axis=1, keepdims=True)
    draw = {seed: methods.get("random")(random_state=seed).fit_transform(X) for seed in (0, 1)}
    again = methods.get("random")(random_state=0).fit_transform(X)
    np.testing.assert_array_equal(again.to_array(keep_observed=False), draw[0].to_array(keep_observed=False))
    zero, one = (draw[seed].to_array(keep_observed=False) / library for seed in (0, 1))
    assert np.abs(np.corrcoef((zero - zero.mean(0)).ravel(), (one - one.mean(0)).ravel())[0, 1]) < 0.2
    for seed in (-1, 0.5, None):
        with pytest.raises(InputError, check=has_code("parameter-value")):
            methods.get("random")(random_state=seed).fit(X)


def divergence(X, fitted):
    """Generalised Kullback-Leibler divergence, 0 log 0 = 0, entry by entry."""
    total = 0.0
    for x, m in zip(X.ravel(), fitted.ravel(), strict=True):
        total += m - x + (x * np.log(x / m) if x > 0 else 0.0)
    return total


def test_poisson_nmf():
    from sklearn.decomposition import NMF

    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.6, size=(60, 3)) @ rng.gamma(0.6, 4, size=(3, 25)) + 0.1).astype(np.float64)
    result = methods.get("poisson_nmf")(n_components=3).fit_transform(X)
    values = result.to_array(keep_observed=False)
    assert (values >= 0).all()
    assert result.latent.shape == (60, 3)
    assert result.status.name in ("converged", "max_iter")
    ours = divergence(X, values)
    nmf = NMF(3, init="random", solver="mu", beta_loss="kullback-leibler", max_iter=2000, tol=1e-7, random_state=0)
    theirs = divergence(X, nmf.fit_transform(X) @ nmf.components_)
    assert ours < 1.03 * theirs
    assert ours < 0.6 * divergence(X, np.outer(X.sum(axis=1), X.sum(axis=0)) / X.sum())  # far from the gene mean
    # at an optimum of the KL loss, and after any multiplicative update of the left factor, totals agree
    assert values.sum() == pytest.approx(X.sum(), rel=1e-2)


def test_poisson_nmf_projects_new_cells():
    """Cells from the same three programmes are fitted about as well as those it was trained on."""
    rng = np.random.default_rng(0)
    programmes = rng.gamma(0.6, 4, size=(3, 25))
    X, new = (rng.poisson(rng.gamma(0.6, size=(60, 3)) @ programmes + 0.1).astype(np.float64) for _ in range(2))
    estimator = methods.get("poisson_nmf")(n_components=3)
    trained = divergence(X, estimator.fit_transform(X).to_array(keep_observed=False)) / X.sum()
    projected = divergence(new, estimator.transform(new).to_array(keep_observed=False)) / new.sum()
    assert projected < 1.6 * trained


# -- reference predictions --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def few_counts():
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(1.0, 1.0, size=(40, 1)) * rng.gamma(0.7, 2.0, size=25))
    X[:, 0] += 1  # no empty cell
    X[:, 3] = 0
    library = X.sum(axis=1) + rng.integers(0, 50, size=40)
    return as_data(X, kind="counts", library_size=library)


def test_nonzero_mean_by_hand(few_counts):
    data = few_counts
    X = data.X.toarray()
    logged = np.log1p(X * 1e4 / data.depth[:, None])
    expected = [column[column > 0].mean() if (column > 0).any() else 0.0 for column in logged.T]
    found = nonzero_mean(data).to_array(scale="log1p")
    np.testing.assert_allclose(found, np.tile(expected, (40, 1)), rtol=1e-5)


def test_scores_on_the_log_scale_by_hand(few_counts):
    data = few_counts
    split = make_split("random", data, rng=np.random.default_rng(1), fraction=0.4)
    result = nonzero_mean(split.train)
    depth = split.train.depth[split.i]  # what the training part still holds
    assert (depth < data.depth[split.i]).all()
    truth = np.log1p(split.truth * 1e4 / depth)
    predicted = result.to_array(scale="log1p")[split.i, split.j]
    scores = score_hidden(result, split, scale="log1p")
    assert scores["nrmse"] == pytest.approx(np.sqrt(np.mean((truth - predicted) ** 2)) / truth.mean(), rel=1e-5)
    assert scores["pearson"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1], rel=1e-5)
    assert "total_ratio" not in scores
    with pytest.raises(InputError) as error:
        score_hidden(result, split, scale="log1p", metrics=["total_ratio"])
    assert "total_ratio" in str(error.value)


def test_reference_predictions_are_scored_in_studies(few_counts):
    table = run_study(Dataset("made", few_counts), list(REFERENCE_PREDICTIONS), scheme="random", scale="log1p")
    assert set(REFERENCE_PREDICTIONS) <= set(table["method"])
    assert set(table["status"]) == {"ok"}
    with pytest.raises(InputError) as error:
        run_study(Dataset("made", few_counts), list(REFERENCE_PREDICTIONS), scale="log1p")
    assert "thin" in str(error.value)
