"""The weighted geometric mean of networks and factors, and log-linear factors against scipy's minimiser."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import optimize, special

from imputome import methods
from imputome.core import many_cells, posterior
from imputome.core import prior as prior_module
from imputome.core.data import as_data
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_thinned
from imputome.methods import averaged_counts
from imputome.methods.averaged_counts import AveragedRates, geometric_mean
from imputome.methods.deep import rates as fitted_rates
from imputome.methods.deep.rates import LinearOutput, LogLinearModel
from imputome.methods.factors import LowRank
from imputome.methods.log_linear import complete_log_linear, fit_log_linear, project_log_linear
from imputome.methods.nmf import complete_factors, poisson_nmf, project


def log_linear(n=7, G=9, K=3, *, seed=0):
    """A model by hand: cell 2 is empty, gene 4 unknown."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(size=G).astype(np.float32)
    bias[4] = -np.inf
    offset = rng.normal(size=n).astype(np.float32)
    offset[2] = -np.inf
    head = LinearOutput(rng.normal(size=(K, G)).astype(np.float32), bias)
    hidden, library = rng.normal(size=(n, K)).astype(np.float32), np.ones(n, np.float32)
    return LogLinearModel(hidden, log_offset=offset, library=library, mean=head, latent=hidden[:, :2])


@pytest.mark.parametrize("members", [1, 2, 3])
def test_stacked_models_are_the_geometric_mean(members):
    models = [log_linear(seed=k) for k in range(members)]
    stacked = geometric_mean(models)
    every = np.arange(7)
    rates = [model.rows(every, None, "rate").astype(np.float64) for model in models]
    np.testing.assert_allclose(stacked.rows(every, None, "rate"), np.prod(rates, axis=0) ** (1 / members), rtol=1e-4)
    assert stacked.latent.shape == (7, 2 * members)
    np.testing.assert_array_equal(stacked.library, models[0].library)


@pytest.mark.parametrize("weights", [(0.5, 0.25, 0.25), (0, 0.6, 0.4), (0, 0, 1), (1, 0, 0)], ids=str)
def test_the_average_sums_to_the_library(weights, monkeypatch):
    monkeypatch.setattr(fitted_rates, "VALUES_PER_BLOCK", 2 * 9)  # several blocks, the last one shorter
    rng = np.random.default_rng(1)
    networks, factors = log_linear(), log_linear(seed=5)
    left, right = rng.gamma(1, size=(7, 2)).astype(np.float32), rng.gamma(1, size=(9, 2)).astype(np.float32)
    library = np.array([10, 20, 0, 5, 1e5, 3, 7], np.float32)
    usable = np.arange(9) != 4
    rates = AveragedRates(
        networks, factors, LowRank(left, right), weights=np.array(weights), library=library, usable=usable
    )
    every = np.arange(7)
    got = rates.rows(every, None, "rate")
    members = [networks.rows(every, None, "rate"), factors.rows(every, None, "rate"), left @ right.T]
    expected = np.where(
        usable, np.prod([m.astype(np.float64) ** w for m, w in zip(members, weights, strict=True)], 0), 0
    )
    expected[2] = 0
    expected *= (library / np.where(expected.any(axis=1), expected.sum(axis=1), 1))[:, None]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    i, j = np.divmod(np.arange(63), 9)
    np.testing.assert_allclose(rates.at(i, j, "rate"), got.ravel(), rtol=1e-5)
    genes = np.array([8, 4, 0])
    np.testing.assert_allclose(rates.rows(every[:3], genes, "rate"), got[:3][:, genes], rtol=1e-5)


def test_a_clear_gain_is_two_standard_errors():
    gains = np.array([3.0, -1.0, 2.0, 4.0])
    error = np.sqrt(9 + 1 + 4 + 16)
    assert error < 8 < 2 * error
    assert averaged_counts._clear_gain(gains) == 0
    assert averaged_counts._clear_gain(np.tile(gains, 4)) == pytest.approx(32)  # twice the standard error
    assert averaged_counts._clear_gain(-np.tile(gains, 4)) == 0
    assert averaged_counts._clear_gain(np.zeros(3)) == 0


def low_rank_counts(n=80, G=30, k=3, *, seed=0):
    """Log-linear counts of rank k, some cells and one gene without any."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) @ rng.normal(0, 0.7, size=(k, G)) + rng.normal(size=G)
    X = rng.poisson(rng.lognormal(5, 0.5, size=(n, 1)) * special.softmax(logits, axis=1)).astype(np.float32)
    X[[3, 70]], X[:, 5] = 0, 0
    return X


def negative_log(X, logits):
    return -(X * (logits - special.logsumexp(logits, axis=1, keepdims=True))).sum()


def test_log_linear_factors_reach_the_minimum():
    """No worse than scipy's minimiser of the same objective, from the same rank."""
    X, k, penalty = low_rank_counts(), 3, 20.0
    n, G = X.shape
    fitted = fit_log_linear(sp.csr_array(X), k, penalty=penalty, epochs=400, random_state=0, batch_size=20)
    cells, offset = project_log_linear(sp.csr_array(X), fitted)

    def objective(values):
        U, V, b = values[: n * k].reshape(n, k), values[n * k : (n + G) * k].reshape(G, k), values[(n + G) * k :]
        logits = U @ V.T + b
        residual = X.sum(axis=1, keepdims=True) * special.softmax(logits, axis=1) - X
        gradient = residual @ V + U, residual.T @ U + penalty * V, residual.sum(axis=0)
        value = negative_log(X, logits) + (U**2).sum() / 2 + penalty * (V**2).sum() / 2
        return value, np.concatenate([part.ravel() for part in gradient])

    ours = np.concatenate([cells.ravel(), fitted.factors.ravel(), fitted.offset]).astype(np.float64)
    rng = np.random.default_rng(1)
    start = np.concatenate([rng.normal(0, 0.1, size=(n + G) * k), np.log(X.mean(axis=0) + 0.01)])
    best = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    at_mean = negative_log(X, np.tile(np.log(X.sum(axis=0) + 1e-9), (n, 1)))
    assert objective(ours)[0] - best.fun < 0.01 * (at_mean - best.fun)
    rate = np.exp(cells @ fitted.factors.T + fitted.offset + offset[:, None])
    np.testing.assert_allclose(rate.sum(axis=1), X.sum(axis=1), rtol=1e-4)
    assert not rate[[3, 70]].any()


def test_cells_are_projected_to_the_minimum():
    X = low_rank_counts()
    fitted = fit_log_linear(sp.csr_array(X), 3, penalty=20.0, epochs=30, random_state=0)
    cells, _ = project_log_linear(sp.csr_array(X), fitted)
    V, b = fitted.factors.astype(np.float64), fitted.offset.astype(np.float64)
    for i in (0, 3, 11, 42):
        best = optimize.minimize(
            lambda u, i=i: negative_log(X[i : i + 1], (V @ u + b)[None, :]) + u @ u / 2, np.zeros(3), method="BFGS"
        )
        np.testing.assert_allclose(V @ cells[i], V @ best.x, atol=0.05)
    few, _ = project_log_linear(sp.csr_array(X[[42, 0]]), fitted)
    np.testing.assert_allclose(few, cells[[42, 0]], atol=1e-4)


def test_the_weights_that_predict_best_are_taken():
    """Counts of Poisson factors that are not log-linear: all weight is on the kind that made them, and the reverse."""
    rng = np.random.default_rng(0)
    n, G = 600, 60
    left = rng.gamma(0.4, size=(n, 4)) * 80
    additive = rng.poisson(left @ rng.dirichlet(np.full(G, 0.3), size=4))
    logits = rng.normal(size=(n, 4)) @ rng.normal(0, 0.8, size=(4, G)) + rng.normal(size=G)
    multiplicative = rng.poisson(rng.lognormal(5.5, 0.5, size=(n, 1)) * special.softmax(logits, axis=1))
    weights = [
        methods.create("count_factors", {"n_factors": 4}).fit(as_data(X.astype(np.float32), kind="counts")).weights_
        for X in (additive, multiplicative)
    ]
    assert weights[0][2] > weights[1][2]
    assert weights[1][1] >= 0.75
    for found in weights:
        assert found[0] == 0
        assert found.sum() == 1


# -- very many cells ---------------------------------------------------------------------------------------------------
def make_few_many(monkeypatch, cells):
    for module in (many_cells, prior_module, posterior, averaged_counts):
        monkeypatch.setattr(module, "MANY_CELLS", cells)


def test_a_sample_of_the_cells_teaches_nearly_as_much(monkeypatch):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(3, 0.3), size=600) @ rng.dirichlet(np.full(40, 0.5), size=3)
    split = make_split("thin", as_data(rng.poisson(60 * shares).astype(np.float32), kind="counts"), rng=rng)
    factors = {"count_factors": {"n_factors": 3}, "poisson_nmf": {"n_components": 3, "posterior": True}}

    def deviance(name, params):
        result = methods.create(name, params).fit_transform(split.train)
        return score_thinned(result, split, metrics=["poisson_deviance"])["poisson_deviance"]

    of_mean = deviance("gene_mean_posterior", {})
    with_all = {name: deviance(name, params) for name, params in factors.items()}
    make_few_many(monkeypatch, 300)
    assert deviance("gene_mean_posterior", {}) == pytest.approx(of_mean, rel=0.01)
    for name, params in factors.items():
        assert with_all[name] < 0.95 * of_mean
        gain = of_mean - deviance(name, params)
        assert 0.5 < gain / (of_mean - with_all[name]) < 1.1


def test_a_gene_that_the_sample_misses_gets_its_share():
    X = low_rank_counts(n=200)
    rows = np.arange(0, 200, 2)
    X[np.ix_(rows, [8, 9])] = 0
    X[1, 8] = 3
    share = X[:, [8, 9]].sum(axis=0) / np.delete(X, [8, 9], axis=1).sum()
    counts, sample = sp.csr_array(X), sp.csr_array(X[rows])
    factors = complete_factors(poisson_nmf(sample, 3, max_iter=50, tol=1e-4, random_state=0).right, counts)
    genes = fit_log_linear(sample, 3, penalty=20.0, epochs=30, random_state=0)
    genes = complete_log_linear(genes, sample, counts)
    shares = [project(counts, factors) @ factors.T, np.exp(genes.offset)[None, :]]  # of cells; of one at the origin
    for rate in shares:
        rate = rate[rate.any(axis=1)]
        relative = rate[:, [8, 9]] / np.delete(rate, [5, 8, 9], axis=1).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(relative, np.tile(share, (len(rate), 1)), rtol=0.05)
    assert not factors[5].any()  # no cell has molecules of it
    assert not genes.factors[[8, 9]].any()


def test_rates_of_very_many_cells_are_scaled_when_they_are_read(monkeypatch):
    networks, factors = log_linear(), log_linear(seed=5)
    settings = {
        "weights": np.array([0.5, 0.5, 0]),
        "library": np.array([10, 20, 0, 5, 1e5, 3, 7], np.float32),
        "usable": np.arange(9) != 4,
    }
    expected = AveragedRates(networks, factors, None, **settings).rows(np.arange(7), None, "rate")
    monkeypatch.setattr(averaged_counts, "MANY_CELLS", 6)
    i, j = np.array([6, 1, 6, 2]), np.array([0, 4, 8, 3])
    reads = {
        "entries": lambda rates: (rates.at(i, j, "rate"), expected[i, j]),
        "genes": lambda rates: (rates.rows(i, j[:2], "rate"), expected[np.ix_(i, j[:2])]),
        "rows": lambda rates: (rates.rows(i, None, "rate"), expected[i]),
    }
    for read in reads.values():
        rates = AveragedRates(networks, factors, None, **settings)
        assert np.isnan(rates.factor).all()
        np.testing.assert_allclose(*read(rates), rtol=1e-5)
        assert np.isnan(rates.factor[[0, 3, 4, 5]]).all()
