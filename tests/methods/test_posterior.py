"""The gamma-Poisson step against scipy's gamma and negative binomial, and on data of known shape."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from imputome import methods
from imputome.errors import InputError
from imputome.methods.base import as_data
from imputome.methods.posterior import GRID, PosteriorModel, fit_shape, predictive_likelihood


class Dense:
    """A model that is a dense array of rates."""

    outputs = frozenset({"value", "rate"})

    def __init__(self, rate):
        self.rate = rate

    def rows(self, rows, genes, output):
        return self.rate[rows] if genes is None else self.rate[np.ix_(rows, genes)]

    def at(self, i, j, output):
        return self.rate[i, j]


@pytest.fixture
def problem():
    """Counts, rates over six decades and shapes over four; one large count far from its rate."""
    rng = np.random.default_rng(0)
    n, G = 40, 12
    rate = np.exp(rng.uniform(np.log(1e-3), np.log(1e3), size=(n, G)))
    shape = np.geomspace(0.05, 500, G)
    X = rng.poisson(rate * rng.gamma(shape, 1 / shape, size=(n, G))).astype(np.float64)
    X[3, 5] = 4000
    return X, rate, shape


def test_values_and_intervals_are_those_of_the_gamma(problem):
    X, rate, shape = problem
    model = PosteriorModel(Dense(rate), as_data(X, kind="counts"), shape)
    every = np.arange(len(X))
    got = {output: model.rows(every, None, output) for output in model.outputs}
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            # prior Gamma(phi, phi / m) and Poisson counts: posterior Gamma(phi + x, rate phi / m + 1)
            gamma = stats.gamma(shape[j] + X[i, j], scale=1 / (shape[j] / rate[i, j] + 1))
            assert got["value"][i, j] == pytest.approx(gamma.mean(), rel=1e-10)
            assert got["rate"][i, j] == pytest.approx(gamma.mean(), rel=1e-10)
            assert got["variance"][i, j] == pytest.approx(gamma.var(), rel=1e-10)
            assert got["lower"][i, j] == pytest.approx(gamma.ppf(0.05), rel=1e-8)
            assert got["upper"][i, j] == pytest.approx(gamma.ppf(0.95), rel=1e-8)
    i, j = np.divmod(np.arange(X.size), X.shape[1])
    genes = np.array([7, 2])
    for output, values in got.items():
        np.testing.assert_allclose(model.at(i, j, output), values.ravel(), rtol=1e-12)
        np.testing.assert_allclose(model.rows(every[:5], genes, output), values[:5][:, genes], rtol=1e-12)


def test_posterior_mean_by_integration(problem):
    """The mean as a ratio of integrals over the rate: no formula of a conjugate pair enters."""
    X, rate, shape = problem
    model = PosteriorModel(Dense(rate), as_data(X, kind="counts"), shape)
    for i, j in [(0, 4), (1, 6), (2, 8), (5, 10), (7, 11)]:
        m, phi, x = rate[i, j], shape[j], X[i, j]
        t = np.linspace(-60, 20, 400_001)  # log rate
        log = stats.gamma.logpdf(np.exp(t), phi, scale=m / phi) + t + stats.poisson.logpmf(x, np.exp(t))
        weight = np.exp(log - log.max())
        expected = (weight * np.exp(t)).sum() / weight.sum()
        assert model.at(np.array([i]), np.array([j]), "value")[0] == pytest.approx(expected, rel=1e-6)


def test_float32_rates_lose_little(problem):
    X, rate, shape = problem
    data = as_data(X, kind="counts")
    every = np.arange(len(X))
    exact = PosteriorModel(Dense(rate), data, shape)
    single = PosteriorModel(Dense(rate.astype(np.float32)), data, shape)
    for output in exact.outputs:
        got = single.rows(every, None, output)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, exact.rows(every, None, output), rtol=2e-3, atol=1e-30)


def test_shape_goes_from_the_data_to_the_model(problem):
    X, rate, _ = problem
    data, every = as_data(X, kind="counts"), np.arange(len(X))
    model = PosteriorModel(Dense(rate), data, np.full(12, 1e12))
    np.testing.assert_allclose(model.rows(every, None, "value"), rate, rtol=1e-6)
    counts = PosteriorModel(Dense(rate), data, np.full(12, 1e-12))
    np.testing.assert_allclose(counts.rows(every, None, "value"), X, rtol=1e-6, atol=1e-8)


def test_a_rate_of_zero_stays_zero():
    X = np.array([[0.0, 3.0], [2.0, 1.0]])
    model = PosteriorModel(Dense(np.array([[0.0, 0.0], [1.0, 0.0]])), as_data(X, kind="counts"), np.ones(2))
    for output in model.outputs:
        values = model.rows(np.arange(2), None, output)
        assert np.isfinite(values).all()
        assert (values[[0, 0, 1], [0, 1, 1]] == 0).all()
        assert values[1, 0] > 0


def test_matched_to_total(problem, monkeypatch):
    X, rate, shape = problem
    data, every = as_data(X, kind="counts"), np.arange(len(X))
    plain = PosteriorModel(Dense(rate), data, shape)
    monkeypatch.setattr("imputome.methods.posterior.BLOCK", 12 * 7)  # several blocks, the last one shorter
    matched = plain.matched_to_total()
    factor = X.sum() / plain.rows(every, None, "value").sum()
    assert abs(factor - 1) > 1e-3
    assert matched.factor == pytest.approx(factor, rel=1e-12)
    assert matched.rows(every, None, "value").sum() == pytest.approx(X.sum(), rel=1e-10)
    np.testing.assert_allclose(matched.rows(every, None, "value"), factor * plain.rows(every, None, "value"))
    np.testing.assert_allclose(matched.rows(every, None, "upper"), factor * plain.rows(every, None, "upper"))
    np.testing.assert_allclose(matched.rows(every, None, "variance"), factor**2 * plain.rows(every, None, "variance"))
    assert matched.matched_to_total().factor == pytest.approx(factor, rel=1e-10)


# -- predictive likelihood ---------------------------------------------------------------------------------------------
def brute_likelihood(rate, x1, x2, ratio):
    total = np.zeros((rate.shape[1], len(GRID)))
    for k, phi in enumerate(GRID):
        size = phi + x1
        mean = ratio * rate * (phi + x1) / (phi + rate)
        total[:, k] = stats.nbinom.logpmf(x2, size, size / (size + mean)).sum(axis=0)
    return total


@pytest.mark.parametrize("case", ["sparse", "deep", "zeros only"])
def test_predictive_likelihood(case, monkeypatch):
    rng = np.random.default_rng(0)
    n, G = 300, 8
    low, high = {"sparse": (1e-4, 3), "deep": (5, 3e4), "zeros only": (1e-5, 2)}[case]
    rate = np.exp(rng.uniform(np.log(low), np.log(high), size=(n, G)))
    x1 = rng.poisson(rate * rng.gamma(2, 0.5, size=(n, G))).astype(np.float64)
    x2 = rng.poisson(rate / 9 * rng.gamma(2, 0.5, size=(n, G))).astype(np.float64)
    if case == "zeros only":
        x1[:], x2[:] = 0, 0
    if case == "deep":
        assert (x2 > 1000).sum() > 20
        assert ((x2 > 0) & (x2 <= 16)).sum() > 20
        x1[:50, 0] = 0  # unseen in the first part, many in the second
    monkeypatch.setattr("imputome.methods.posterior.BLOCK", G * 77)  # several blocks
    got = predictive_likelihood(Dense(rate), sp.csr_array(x1), sp.csr_array(x2), ratio=1 / 9)
    expected = brute_likelihood(rate, x1, x2, 1 / 9)
    assert got.shape == (G, len(GRID))
    got, expected = got - got[:, :1], expected - expected[:, :1]  # up to a constant per gene
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert (scale > 1e-3).all()
    np.testing.assert_allclose(got / scale, expected / scale, atol=1e-3)
    if case != "zeros only":
        np.testing.assert_array_equal(got.argmax(axis=1), expected.argmax(axis=1))


# -- fitting the shape -------------------------------------------------------------------------------------------------
def simulate(phi, *, n=500, mean=30.0, seed=0):
    """Gamma-Poisson counts of known shape per gene, and the true library sizes."""
    rng = np.random.default_rng(seed)
    G = len(phi)
    library = rng.lognormal(0, 0.3, size=n) * mean * G
    share = rng.dirichlet(np.full(G, 20))
    X = rng.poisson(np.outer(library, share) * rng.gamma(phi, 1 / phi, size=(n, G)))
    return as_data(sp.csr_array(X.astype(np.float64)), kind="counts", library_size=library), X


def test_fit_shape_recovers_the_shape():
    phi = np.where(np.arange(60) % 2, 50.0, 0.5)
    data, _ = simulate(phi)
    shape = fit_shape(methods.get("gene_mean")(), data)
    assert shape.shape == (60,)
    assert 0.25 < np.median(shape[phi == 0.5]) < 1
    assert 25 < np.median(shape[phi == 50]) < 100
    assert shape[phi == 0.5].max() < shape[phi == 50].min()


@pytest.mark.parametrize("phi", [0.5, 3.0, 50.0])
def test_fit_shape_with_few_genes_shares_one(phi):
    data, _ = simulate(np.full(6, phi))
    shape = fit_shape(methods.get("gene_mean")(), data)
    assert len(set(shape)) == 1
    assert phi / 2 < shape[0] < 2 * phi


def test_fit_shape_depends_on_the_seed_alone():
    data, _ = simulate(np.full(30, 2.0), n=100)
    one = fit_shape(methods.get("gene_mean")(), data, random_state=1)
    np.testing.assert_array_equal(one, fit_shape(methods.get("gene_mean")(), data, random_state=1))
    assert not np.array_equal(one, fit_shape(methods.get("gene_mean")(), data, random_state=2))


def test_intervals_cover_the_true_rate():
    """Nine in ten true rates lie inside, where the gamma-Poisson model holds."""
    rng = np.random.default_rng(0)
    n, G, phi = 400, 40, 2.0
    library = np.full(n, 200.0)
    truth = np.outer(library, np.full(G, 1 / G)) * rng.gamma(phi, 1 / phi, size=(n, G))
    data = as_data(rng.poisson(truth).astype(np.float64), kind="counts", library_size=library)
    result = methods.get("gene_mean_posterior")().fit_transform(data)
    inside = (truth >= result.to_array(output="lower")) & (truth <= result.to_array(output="upper"))
    assert 0.87 < inside.mean() < 0.93
    error = ((result.to_array() - truth) ** 2).mean()
    assert error < ((data.X.toarray() - truth) ** 2).mean()
    assert error < ((np.outer(library, data.X.sum(axis=0) / library.sum()) - truth) ** 2).mean()
    assert result.to_array(output="variance").mean() == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("name", [n for n in methods.names() if "posterior" in methods.get(n).parameter_defaults()])
def test_totals_agree_and_what_it_cannot_take_is_refused(name):
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.5, 4, size=(50, 30))).astype(np.float64) + np.eye(50, 30)
    estimator = methods.get(name)(posterior=True)
    values = estimator.fit_transform(X).to_array().astype(np.float64)
    assert values.sum() == pytest.approx(X.sum(), rel=1e-4)
    with pytest.raises(InputError, match="integers"):
        estimator.clone().fit(X / 3)
    with pytest.raises(InputError):
        estimator.clone().fit(as_data(np.where(X > 4, np.nan, X), kind="real"))
