"""SAVER: the Poisson lasso, the noise models, and the posterior, each against a computation of another kind."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.integrate import quad
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import gamma, nbinom, poisson

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.methods.saver.estimator import Saver
from imputome.methods.saver.gamma_poisson import (
    POWERS,
    SHAPES,
    GammaPosterior,
    Spread,
    add_likelihood,
    fitted_spread,
    highest_points,
)
from imputome.methods.saver.poisson_lasso import FOLDS, STEP, STRENGTHS, column_sds, fit_regressions, poisson_lasso
from imputome.result.layout import checked_outputs


def regression(n=150, K=12, *, seed=0):
    """Predictors, half of them zeros and of different means, counts that depend on three of them, and size factors."""
    rng = np.random.default_rng(seed)
    x = rng.gamma(2.0, rng.uniform(0.2, 2.0, K), (n, K)) * (rng.random((n, K)) < rng.uniform(0.2, 1.0, K))
    s = rng.lognormal(0, 0.4, n)
    mean = s * np.exp(-1 + x[:, :3] @ np.array([0.5, -0.4, 0.3]))
    return sp.csc_array(x), rng.poisson(mean).astype(float), s


def objective(x, y, s, penalty, beta, intercept):
    eta = intercept + x @ beta
    return np.sum(s * np.exp(eta) - y * eta) + penalty @ np.abs(beta)


# -- the lasso ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("share", [0.9, 0.3, 0.03, 0.0])
def test_lasso_is_optimal(share):
    """The conditions of Karush, Kuhn and Tucker."""
    x, y, s = regression()
    sd = column_sds(x)
    np.testing.assert_allclose(sd, x.toarray().std(axis=0), rtol=1e-6)
    start = np.abs(x.T @ (y - s * y.sum() / s.sum())) / sd
    penalty = share * start.max() * sd
    beta, intercept = poisson_lasso(x, y, s, penalty)
    gradient = x.T @ (y - s * np.exp(intercept + x @ beta))
    assert y.sum() == pytest.approx(np.sum(s * np.exp(intercept + x @ beta)), rel=1e-6)
    used = beta != 0
    assert 0 < used.sum() == (x.shape[1] if share == 0 else used.sum())
    np.testing.assert_allclose(gradient[used], (penalty * np.sign(beta))[used], atol=1e-4 * start.max())
    assert (np.abs(gradient[~used]) <= penalty[~used] * (1 + 1e-6)).all()
    assert share < 0.5 or used.sum() == 1


def test_lasso_against_a_general_optimiser():
    x, y, s = regression(seed=3)
    penalty = 8.0 * column_sds(x)
    K = x.shape[1]

    def split(parts):  # positive and negative parts of the coefficients, and the intercept
        eta = parts[-1] + x @ (parts[:K] - parts[K : 2 * K])
        slope, excess = x.T @ (s * np.exp(eta) - y), np.sum(s * np.exp(eta) - y)
        value = np.sum(s * np.exp(eta) - y * eta) + penalty @ (parts[:K] + parts[K : 2 * K])
        return value, np.r_[slope + penalty, penalty - slope, excess]

    bounds = [(0, None)] * (2 * K) + [(None, None)]
    options = {"maxfun": 10**5, "maxiter": 10**5, "ftol": 1e-14, "gtol": 1e-9}
    found = minimize(split, np.zeros(2 * K + 1), jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    beta, intercept = poisson_lasso(x, y, s, penalty)
    assert objective(x, y, s, penalty, beta, intercept) == pytest.approx(found.fun, abs=1e-5)
    np.testing.assert_allclose(beta, found.x[:K] - found.x[K : 2 * K], atol=1e-3)
    assert intercept == pytest.approx(found.x[-1], abs=1e-3)


def test_strong_effects_do_not_make_the_steps_diverge():
    """From the mean, a full Newton step overshoots here."""
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(200, 2))) * np.array([4.0, 1.0])
    y, s = rng.poisson(np.exp(1.2 * x[:, 0] - 2)).astype(float), np.ones(200)
    penalty = np.full(2, 1e-3)
    beta, intercept = poisson_lasso(sp.csc_array(x), y, s, penalty)
    assert beta[0] == pytest.approx(1.2, abs=0.05)
    gradient = x.T @ (y - np.exp(intercept + x @ beta))
    assert np.abs(gradient).max() < 1e-5 * y.sum()


def test_strength_is_chosen_on_the_folds():
    """Against a loop over folds and strengths that solves each problem alone."""
    x, y, s = regression(n=120, K=8, seed=1)
    fold = np.random.default_rng(0).permutation(np.arange(120) % FOLDS)
    found = fit_regressions(
        sp.csr_array(x), sp.csc_array(y[:, None]), s, np.array([-1]), max_predictors=50, min_gain=0.0, fold=fold
    )
    sd = column_sds(x)
    # one of the eight is left out, because a gene may be among those that predict: the one of the smallest gradient
    strongest = np.max(np.abs(x.T @ (y - s * y.sum() / s.sum())) / sd)
    gains = []
    for k in range(1, STRENGTHS + 1):
        per_fold = []
        for f in range(FOLDS):
            train, test = fold != f, fold == f
            level = y[train].sum() / s[train].sum()
            start = np.abs(x[train].T @ (y[train] - s[train] * level)) / sd
            use = np.sort(np.argsort(-start)[:7])
            penalty = strongest * STEP**k * s[train].sum() / s.sum() * sd[use]
            beta, intercept = poisson_lasso(sp.csc_array(x[train][:, use]), y[train], s[train], penalty)
            eta, null = intercept + x[test][:, use] @ beta, np.log(level)
            per_fold.append(np.sum(y[test] * (eta - null) - s[test] * (np.exp(eta) - np.exp(null))))
        gains.append((sum(per_fold), np.std(per_fold, ddof=1) * np.sqrt(FOLDS)))
    best = int(np.argmax([total for total, _ in gains]))
    kept = np.sort(np.argsort(-np.abs(x.T @ (y - s * y.sum() / s.sum())) / sd)[:7])
    beta, intercept = poisson_lasso(sp.csc_array(x[:, kept]), y, s, strongest * STEP ** (best + 1) * sd[kept])
    expected = np.zeros(8)
    expected[kept] = beta
    np.testing.assert_allclose(found.coefficients.toarray()[:, 0], expected, atol=5e-3)
    assert found.base[0] == pytest.approx(np.exp(intercept), rel=2e-2)
    assert found.gain[0] == pytest.approx(gains[best][0] / gains[best][1], rel=2e-2)


def test_only_the_genes_that_correlate_most_are_used_and_never_the_gene_itself():
    rng = np.random.default_rng(2)
    program = rng.gamma(1.0, 1.0, (300, 2))
    X = rng.poisson(np.hstack([3 * program[:, [0]].repeat(10, 1), 3 * program[:, [1]].repeat(10, 1)])).astype(float)
    x, s, fold = sp.csr_array(np.log1p(X)).astype(np.float32), np.ones(300), np.arange(300) % FOLDS
    found = fit_regressions(x, sp.csc_array(X), s, np.arange(20), max_predictors=4, min_gain=0.0, fold=fold)
    coefficients = found.coefficients.toarray()
    assert not coefficients.diagonal().any()
    gradient = np.abs(np.log1p(X).T @ (X - X.mean(axis=0))) / np.log1p(X).std(axis=0)[:, None]
    np.fill_diagonal(gradient, -1)
    for gene in range(20):
        used = np.flatnonzero(coefficients[:, gene])
        assert len(used)
        assert set(used) <= set(np.argsort(-gradient[:, gene])[:4])


def test_genes_that_nothing_predicts_keep_their_mean():
    """Choosing the predictors with the held-out cells in view would make noise look predictable."""
    rng = np.random.default_rng(0)
    X = rng.poisson(1.0, (200, 150)).astype(float)
    x, s, fold = sp.csr_array(np.log1p(X)).astype(np.float32), np.ones(200), np.arange(200) % FOLDS
    own = np.arange(150)
    found = fit_regressions(x, sp.csc_array(X), s, own, max_predictors=20, min_gain=1.0, fold=fold)
    means = found.gain == 0
    assert means.mean() > 0.7
    np.testing.assert_allclose(found.base[means], X.mean(axis=0)[means], rtol=1e-12)
    assert not found.coefficients.tocsc()[:, means].nnz


# -- the noise models --------------------------------------------------------------------------------------------------
def simulated(power, phi, n=400, *, seed=0):
    rng = np.random.default_rng(seed)
    s, mu = rng.lognormal(0, 0.3, n), rng.gamma(2.0, 2.0, n)
    alpha = phi * (mu / mu.mean()) ** power
    return s, mu, rng.poisson(s * rng.gamma(alpha, mu / alpha)).astype(float)


def shape_and_rate(power, phi, mu):
    """alpha and beta of the paper's three models, from their definitions."""
    centre = mu.mean()
    if power == 0:  # the same coefficient of variation, whose square is 1 / phi
        return np.full_like(mu, phi), phi / mu
    if power == 1:  # the same variance over mean
        fano = centre / phi
        return mu / fano, np.full_like(mu, 1 / fano)
    variance = centre**2 / phi
    return mu**2 / variance, mu / variance


def log_likelihood(power, phi, s, mu, y):
    alpha, beta = shape_and_rate(power, phi, mu)
    return nbinom.logpmf(y, alpha, beta / (beta + s)).sum()


@pytest.mark.parametrize("power", POWERS.values())
def test_marginal_likelihood(power):
    s, mu, y = simulated(power, 1.5, n=60)
    total = np.zeros((3, 1, len(SHAPES)))
    m = (s * mu).astype(np.float32)[:, None]
    add_likelihood(
        m, y.astype(np.float32)[:, None], s, np.array([mu.mean()]), np.array([False]), np.arange(3), SHAPES, total
    )
    constant = sum(np.log(np.arange(1, value + 1)).sum() for value in y)
    for k in (0, 12, 20, 35):
        expected = log_likelihood(power, SHAPES[k], s, mu, y)
        assert total[power, 0, k] - constant == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("power", POWERS.values())
def test_marginal_likelihood_is_the_integral_over_the_prior(power):
    s, mu, y = simulated(power, 2.0, n=5)
    alpha, beta = shape_and_rate(power, 2.0, mu)
    for i in range(5):
        integral = quad(
            lambda v, i=i: poisson.pmf(y[i], s[i] * v) * gamma.pdf(v, alpha[i], scale=1 / beta[i]), 0, np.inf
        )[0]
        assert np.log(integral) == pytest.approx(nbinom.logpmf(y[i], alpha[i], beta[i] / (beta[i] + s[i])), rel=1e-5)


class Known:
    """A model of given rates."""

    outputs = frozenset({"value", "rate"})

    def __init__(self, rates):
        self.rates = rates

    def rows(self, rows, genes, output="value"):
        return self.rates[rows].copy() if genes is None else self.rates[np.ix_(rows, genes)]

    def at(self, i, j, output="value"):
        return self.rates[i, j]


def test_noise_model_and_its_shape_are_those_of_the_highest_likelihood():
    cases = [(power, phi) for power in range(3) for phi in (0.4, 1.0, 3.0)]
    parts = [simulated(power, phi, n=1500) for power, phi in cases]
    s, mu = parts[0][0], np.stack([part[1] for part in parts], axis=1)
    y = np.stack([part[2] for part in parts], axis=1)
    data = as_data(sp.csr_array(y), kind="counts")
    spread = fitted_spread(Known((s[:, None] * mu).astype(np.float32)), data, s, (0, 1, 2))
    np.testing.assert_array_equal(spread.power, [power for power, _ in cases])
    for j, (power, phi) in enumerate(cases):
        best = minimize_scalar(
            lambda t, j=j, power=power: -log_likelihood(power, np.exp(t), s, mu[:, j], y[:, j]), bounds=(-3, 4)
        )
        assert spread.shape[j] == pytest.approx(np.exp(best.x), rel=0.02)
        assert spread.shape[j] == pytest.approx(phi, rel=0.3)


def test_parabola_finds_the_highest_point_and_stays_on_the_grid():
    logs = np.log(SHAPES)
    peaks = [1.3, -2.0, logs[0] - 5, logs[-1] + 5]
    likelihood = np.stack([-((logs - peak) ** 2) for peak in peaks])[None]
    best, shape = highest_points(likelihood, SHAPES)
    assert not best.any()
    np.testing.assert_allclose(np.log(shape[:2]), peaks[:2], atol=1e-6)
    np.testing.assert_allclose(shape[2:], SHAPES[[0, -1]], rtol=1e-6)
    flat = highest_points(np.zeros((3, 2, len(SHAPES))), SHAPES)[1]
    assert ((flat >= SHAPES[0]) & (flat <= SHAPES[-1])).all()


@pytest.mark.parametrize("power", POWERS.values())
def test_posterior_against_integration(power):
    """The moments and the interval of the prior times the Poisson probability, on a fine grid."""
    rng = np.random.default_rng(4)
    s, mu = rng.lognormal(0, 0.5, 6), rng.gamma(6.0, 0.5, (6, 3))
    y, phi = rng.poisson(s[:, None] * mu), np.array([0.5, 1.0, 4.0])
    spread = Spread(phi, np.full(3, power), mu.mean(axis=0))
    model = GammaPosterior(Known(s[:, None] * mu), as_data(sp.csr_array(y), kind="counts"), s, spread)
    got = {name: model.rows(np.arange(6), None, name) for name in model.outputs}
    for j in range(3):
        alpha, beta = shape_and_rate(power, phi[j], mu[:, j])
        for i in range(6):
            t = np.linspace(-100, 6, 50_001)  # log v
            v = np.exp(t)
            weight = gamma.pdf(v, alpha[i], scale=1 / beta[i]) * poisson.pmf(y[i, j], s[i] * v) * v
            weight /= weight.sum()
            mean = weight @ (s[i] * v)
            assert got["value"][i, j] == pytest.approx(mean, rel=1e-3)
            assert got["variance"][i, j] == pytest.approx(weight @ (s[i] * v - mean) ** 2, rel=1e-3)
            share = np.cumsum(weight)
            for name, tail in (("lower", 0.05), ("upper", 0.95)):
                assert got[name][i, j] == pytest.approx(s[i] * v[np.searchsorted(share, tail)], rel=1e-2, abs=1e-4)


# -- the method --------------------------------------------------------------------------------------------------------
def programs(n=200, G=40, *, seed=0):
    """Counts of two programs of genes that are on in different cells, and their rates."""
    rng = np.random.default_rng(seed)
    on = rng.gamma(0.5, 1.0, (n, 2))
    rate = 0.2 + 3 * on[:, np.arange(G) % 2] * rng.uniform(0.3, 1.0, G)
    rate *= rng.lognormal(0, 0.3, (n, 1))
    return rng.poisson(rate).astype(np.float32), rate


def test_predicted_means_of_new_cells():
    X, _ = programs()
    estimator = Saver(noise="none")
    result = estimator.fit_transform(X)
    new = programs(seed=9)[0][:20]
    new[3] *= 50  # a cell of another kind: its values are bounded
    rates = estimator.transform(new).to_array(keep_observed=False)
    s = new.sum(axis=1) / X.sum(axis=1).mean()
    train = result.to_array() / (X.sum(axis=1) / X.sum(axis=1).mean())[:, None]
    coefficients = estimator.coefficients_.toarray()
    assert (coefficients != 0).any(axis=0).mean() > 0.8
    for i in range(20):
        for j in range(40):
            mu = estimator.base_[j] * np.exp(sum(coefficients[k, j] * np.log(new[i, k] / s[i] + 1) for k in range(40)))
            assert rates[i, j] == pytest.approx(s[i] * min(mu, train[:, j].max()), rel=1e-3)


def test_it_learns_the_programs():
    X, rate = programs()
    ours = Saver().fit_transform(X).to_array()
    controls = [methods.create(name).fit_transform(X).to_array() for name in ("gene_mean", "gene_mean_posterior")]
    errors = [np.mean((values - rate) ** 2) for values in (ours, *controls)]
    assert errors[0] < 0.6 * errors[2] < 0.6 * errors[1]


def test_without_predictors_it_is_the_posterior_of_the_mean():
    X, _ = programs()
    none = Saver(min_molecules=10**9).fit_transform(X)
    assert not none.gene_columns["n_predictors"].any()
    assert not none.gene_columns["prior_power"].any()  # with one mean for all cells the models are one
    mean = methods.create("gene_mean").fit_transform(X).to_array()
    phi = none.gene_columns["prior_shape"]
    np.testing.assert_allclose(none.to_array(), mean * (phi + X) / (phi + mean), rtol=1e-4, atol=1e-7)


def test_rare_genes_predict_no_other():
    rng = np.random.default_rng(0)
    on = rng.random((400, 1)) < 0.1
    X = np.hstack([rng.poisson(1 + 3 * on.repeat(5, 1)), rng.poisson(0.02 + 0.5 * on.repeat(8, 1))]).astype(float)
    estimator = Saver(min_molecules=1).fit(X)
    used = estimator.coefficients_.tocsr()
    assert used[:5].nnz
    assert not used[5:].nnz
    assert np.diff(used.tocsc().indptr)[5:].any()  # but some are predicted


def test_prior_from_another_method():
    X, _ = programs()
    estimator = Saver(prior="poisson_nmf", noise="none")
    rates = estimator.fit_transform(X).to_array()
    np.testing.assert_allclose(rates.sum(axis=0), X.sum(axis=0), rtol=1e-4)
    factors = methods.create("poisson_nmf").fit(X).transform(X).to_array(keep_observed=False)
    np.testing.assert_allclose(rates / factors, np.tile(X.sum(axis=0) / factors.sum(axis=0), (200, 1)), rtol=1e-3)
    # of the posterior of the gene mean, the gene mean is the prior
    prior = Saver(prior="gene_mean_posterior", noise="none").fit_transform(X).to_array()
    np.testing.assert_allclose(prior, methods.create("gene_mean").fit_transform(X).to_array(), rtol=1e-4)


def test_the_switch_uses_the_counts_once():
    X, _ = programs()
    estimator = Saver(posterior=True)
    result = estimator.fit_transform(X)
    rates = Saver(noise="none").fit_transform(X).to_array()
    prior = estimator.prior_
    phi = prior.shape * (rates / prior.mean) ** prior.power
    excess = ((X - rates) ** 2 / (rates + rates**2 / phi)).mean(axis=1)
    phi *= prior.cell_factors(excess)[:, None]
    expected = rates * (phi + X) / (phi + rates)
    np.testing.assert_allclose(result.to_array(), expected * (X.sum() / expected.sum()), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("prior", ["saver", "nothing", "knn", "mean"])
def test_priors_that_are_none(prior):
    with pytest.raises(InputError, check=has_code("parameter-value")) as error:
        Saver(prior=prior).fit(programs()[0])
    assert error.value.parameter == "prior"


@pytest.mark.parametrize("noise", POWERS)
def test_noise_model_can_be_given(noise):
    X, _ = programs()
    result = Saver(noise=noise).fit_transform(X)
    predicted = result.gene_columns["n_predictors"] > 0
    assert (result.gene_columns["prior_power"][predicted] == POWERS[noise]).all()
    other = Saver().fit_transform(X)
    assert len(set(other.gene_columns["prior_power"])) > 1


def test_counts_that_are_no_integers_are_taken():
    X, _ = programs()
    whole, halves = (
        Saver().fit_transform(X).to_array(),
        Saver().fit_transform(as_data(X + 0.25 * (X > 0), kind="counts")),
    )
    assert np.corrcoef(whole.ravel(), halves.to_array().ravel())[0, 1] > 0.98


# -- outputs -----------------------------------------------------------------------------------------------------------
def test_its_own_posterior_gives_the_variance_and_interval():
    outputs = ("variance", "lower", "upper")
    assert set(checked_outputs(methods.create("saver"), outputs)) == set(outputs)
    assert set(checked_outputs(methods.create("saver", {"posterior": True}), outputs)) == set(outputs)
    with pytest.raises(InputError, check=has_code("output-needs-posterior")):
        checked_outputs(methods.create("saver", {"noise": "none"}), outputs)
    result = methods.create("saver", {"prior": "gene_mean"}).fit_transform(
        np.random.default_rng(0).poisson(2.0, (30, 8))
    )
    assert set(outputs) <= result.outputs
