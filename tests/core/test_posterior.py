"""The gamma-Poisson step against scipy's gamma and negative binomial, and on data of known shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import interpolate, stats

from codes import has_code
from extras import installed_methods
from imputome import methods
from imputome.core import prior as prior_module
from imputome.core.data import as_data
from imputome.core.posterior import PosteriorModel, Prior
from imputome.core.prior import (
    FOLDS,
    POWER_GRID,
    SHAPE_GRID,
    deal,
    fit_prior,
    pooled_prior,
    predictive_likelihood,
    split,
)
from imputome.errors import InputError


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


def brute_shapes(prior, rate, X):
    """Phi of all entries, from the definition of the prior."""
    phi = np.clip(prior.shape * (rate / prior.mean) ** prior.power, 1e-3, 1e5)
    if prior.cell_power:
        excess = ((X - rate) ** 2 / (rate + rate**2 / phi)).mean(axis=1)
        phi = phi * np.clip((excess / prior.excess) ** -prior.cell_power, 0.05, 20)[:, None]
    return phi


def gene_rate_and_cell(shape):
    rng = np.random.default_rng(5)
    G = len(shape)
    return Prior(shape, rng.uniform(0, 1, G), np.exp(rng.normal(0, 2, G)), cell_power=1.5, excess=0.8)


@pytest.mark.parametrize("prior_of", [Prior.constant, gene_rate_and_cell])
def test_values_and_intervals_are_those_of_the_gamma(problem, prior_of):
    X, rate, shape = problem
    prior = prior_of(shape)
    model = PosteriorModel(Dense(rate), as_data(X, kind="counts"), prior)
    every = np.arange(len(X))
    got = {output: model.rows(every, None, output) for output in model.outputs}
    phi = brute_shapes(prior, rate, X)
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            # prior Gamma(phi, phi / m) and Poisson counts: posterior Gamma(phi + x, rate phi / m + 1)
            gamma = stats.gamma(phi[i, j] + X[i, j], scale=1 / (phi[i, j] / rate[i, j] + 1))
            assert got["value"][i, j] == pytest.approx(gamma.mean(), rel=1e-10)
            assert got["rate"][i, j] == pytest.approx(gamma.mean(), rel=1e-10)
            assert got["variance"][i, j] == pytest.approx(gamma.var(), rel=1e-10)
            assert got["lower"][i, j] == pytest.approx(gamma.ppf(0.05), rel=1e-8)
            assert got["upper"][i, j] == pytest.approx(gamma.ppf(0.95), rel=1e-8)
    i, j = np.divmod(np.arange(X.size), X.shape[1])
    genes = np.array([7, 2])
    for output, values in got.items():
        np.testing.assert_allclose(model.at(i, j, output), values.ravel(), rtol=1e-9)
        for first in (model, PosteriorModel(Dense(rate), as_data(X, kind="counts"), prior)):  # some genes first, too
            np.testing.assert_allclose(first.rows(every[:5], genes, output), values[:5][:, genes], rtol=1e-9)


def test_posterior_mean_by_integration(problem):
    """The mean as a ratio of integrals over the rate, without the conjugate formulas."""
    X, rate, shape = problem
    model = PosteriorModel(Dense(rate), as_data(X, kind="counts"), Prior.constant(shape))
    for i, j in [(0, 4), (1, 6), (2, 8), (5, 10), (7, 11)]:
        m, phi, x = rate[i, j], shape[j], X[i, j]
        t = np.linspace(-60, 20, 400_001)  # log rate
        log = stats.gamma.logpdf(np.exp(t), phi, scale=m / phi) + t + stats.poisson.logpmf(x, np.exp(t))
        weight = np.exp(log - log.max())
        expected = (weight * np.exp(t)).sum() / weight.sum()
        assert model.at(np.array([i]), np.array([j]), "value")[0] == pytest.approx(expected, rel=1e-6)


def test_float32_rates_lose_little_precision(problem):
    X, rate, shape = problem
    data = as_data(X, kind="counts")
    every = np.arange(len(X))
    exact = PosteriorModel(Dense(rate), data, Prior.constant(shape))
    single = PosteriorModel(Dense(rate.astype(np.float32)), data, Prior.constant(shape))
    for output in exact.outputs:
        got = single.rows(every, None, output)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, exact.rows(every, None, output), rtol=2e-3, atol=1e-30)


def test_small_shape_returns_the_counts_and_large_shape_the_rate(problem):
    X, rate, _ = problem
    data, every = as_data(X, kind="counts"), np.arange(len(X))
    model = PosteriorModel(Dense(rate), data, Prior.constant(np.full(12, 1e12)))
    np.testing.assert_allclose(model.rows(every, None, "value"), rate, rtol=1e-6)
    counts = PosteriorModel(Dense(rate), data, Prior.constant(np.full(12, 1e-12)))
    np.testing.assert_allclose(counts.rows(every, None, "value"), X, rtol=1e-6, atol=1e-8)


def test_a_rate_of_zero_stays_zero():
    X = np.array([[0.0, 3.0], [2.0, 1.0]])
    model = PosteriorModel(
        Dense(np.array([[0.0, 0.0], [1.0, 0.0]])), as_data(X, kind="counts"), Prior.constant(np.ones(2))
    )
    for output in model.outputs:
        values = model.rows(np.arange(2), None, output)
        assert np.isfinite(values).all()
        assert (values[[0, 0, 1], [0, 1, 1]] == 0).all()
        assert values[1, 0] > 0


def test_matched_to_total(problem, monkeypatch):
    X, rate, shape = problem
    data, every = as_data(X, kind="counts"), np.arange(len(X))
    plain = PosteriorModel(Dense(rate), data, Prior.constant(shape))
    monkeypatch.setattr("imputome.core.posterior.VALUES_PER_BLOCK", 12 * 7)  # several blocks, the last one shorter
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
    total = np.zeros((rate.shape[1], len(SHAPE_GRID), len(POWER_GRID)))
    mean_x1 = x1.mean(axis=0)
    with np.errstate(divide="ignore"):
        relative = np.where(mean_x1 > 0, rate / mean_x1, 1.0)
    for k, shape in enumerate(SHAPE_GRID):
        for p, power in enumerate(POWER_GRID):
            phi = np.clip(shape * relative**power, 1e-3, 1e5)
            size = phi + x1
            mean = ratio * rate * (phi + x1) / (phi + rate)
            total[:, k, p] = stats.nbinom.logpmf(x2, size, size / (size + mean)).sum(axis=0)
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
    monkeypatch.setattr("imputome.core.prior.VALUES_PER_BLOCK", G * 77)  # several blocks
    got = predictive_likelihood(Dense(rate), sp.csr_array(x1), sp.csr_array(x2), ratio=1 / 9)
    expected = brute_likelihood(rate, x1, x2, 1 / 9)
    assert got.shape == (G, len(SHAPE_GRID), len(POWER_GRID))
    got, expected = got.reshape(G, -1), expected.reshape(G, -1)
    got, expected = got - got[:, :1], expected - expected[:, :1]  # up to a constant per gene
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert (scale > 1e-3).all()
    np.testing.assert_allclose(got / scale, expected / scale, atol=1e-3)
    if case != "zeros only":
        np.testing.assert_array_equal(got.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize(("least", "rtol"), [(17, 1e-7), (0, 1e-5)], ids=["large counts", "in bins of rates"])
@pytest.mark.parametrize("ratio", [1 / 9, 0.25, 0.26, 1.0])
def test_predictive_likelihood_with_its_constants(ratio, least, rtol):
    """Counts above 16 are computed one by one, with both ways to compute the logarithm, and all others in bins."""
    rng = np.random.default_rng(0)
    n, G = 200, 5
    rate = np.exp(rng.uniform(np.log(1e-3), np.log(1e4), size=(n, G))).astype(np.float32)
    x1 = (rng.poisson(rate * rng.gamma(2, 0.5, size=(n, G))) + least).astype(np.float64)
    x2 = rng.poisson(ratio * rate * rng.gamma(2, 0.5, size=(n, G))).astype(np.float64)
    assert (x2 > 16).sum() > 20
    assert ((x2 > 0) & (x2 <= 16)).sum() > 20
    assert (x2 == 0).sum() > 20
    got = predictive_likelihood(Dense(rate), sp.csr_array(x1), sp.csr_array(x2), ratio=ratio)
    expected = brute_likelihood(rate.astype(np.float64), x1, x2, ratio)
    # the constant: log x2! alone
    constant = stats.poisson.logpmf(x2, 1.0).sum(axis=0) + x2.shape[0]
    np.testing.assert_allclose(got + constant[:, None, None], expected, rtol=rtol)


def test_entries_of_rate_zero_are_left_out():
    rng = np.random.default_rng(0)
    rate = rng.gamma(2, size=(50, 3))
    x1, x2 = rng.poisson(rate), rng.poisson(rate / 9)
    rate[20:] = 0
    some = predictive_likelihood(Dense(rate[:20]), sp.csr_array(x1[:20]), sp.csr_array(x2[:20]), ratio=1 / 9)
    got = predictive_likelihood(Dense(rate), sp.csr_array(x1), sp.csr_array(x2), ratio=1 / 9)
    # at a power of 0: the others depend on the mean counts of all rows
    np.testing.assert_allclose(got[..., 0], some[..., 0], rtol=1e-12)


# -- parts of the molecules --------------------------------------------------------------------------------------------
def some_counts(n=200, G=50, *, x=50.0, dtype=np.float64):
    return as_data(np.full((n, G), x, dtype), kind="counts", library_size=np.full(n, 3 * x * G))


def test_the_parts_are_multinomial():
    data = some_counts()
    parts = np.array(deal(data, np.random.default_rng(0)), dtype=np.float64)  # (FOLDS, nnz), each binomial(50, 1/10)
    assert parts.shape == (FOLDS, data.X.nnz)
    np.testing.assert_array_equal(parts.sum(axis=0), data.X.data)
    assert (parts >= 0).all()
    covariance = np.cov(parts)
    p, N = 1 / FOLDS, data.X.nnz
    np.testing.assert_allclose(parts.mean(axis=1), 50 * p, atol=5 * np.sqrt(50 * p * (1 - p) / N))
    np.testing.assert_allclose(np.diag(covariance), 50 * p * (1 - p), rtol=0.1)
    np.testing.assert_allclose(covariance[~np.eye(FOLDS, dtype=bool)], -50 * p * p, atol=0.2)


@pytest.mark.parametrize(("entries", "used"), [(10**9, 10), (10_000 * 7, 7), (10_000 * 7 - 1, 6), (10_000, 1), (1, 1)])
def test_large_data_use_fewer_parts(entries, used, monkeypatch):
    monkeypatch.setattr(prior_module, "MAX_ENTRIES", entries)
    data = some_counts()
    parts = deal(data, np.random.default_rng(0))
    assert len(parts) == used
    assert (np.sum(parts, axis=0) <= data.X.data).all()
    for part in parts:  # a tenth each, however many are used
        assert part.mean() == pytest.approx(5, abs=0.15)


def test_parts_depend_only_on_the_generator():
    data = some_counts(n=10)
    one, again, other = (np.array(deal(data, np.random.default_rng(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_split(dtype):
    rng = np.random.default_rng(0)
    X = rng.poisson(1.0, size=(40, 20)).astype(dtype)
    data = as_data(X, kind="counts", library_size=X.sum(axis=1) + 7.0)
    before = data.X.copy()
    for part in deal(data, rng):
        seen, rest = split(data, part)
        np.testing.assert_array_equal(seen.X.toarray() + rest.toarray(), X)
        assert (seen.X.data > 0).all()  # no stored zeros: what is stored counts as observed
        assert (rest.data > 0).all()
        assert seen.X.dtype == rest.dtype == dtype
        np.testing.assert_allclose(seen.library_size, 0.9 * data.library_size)
        assert list(seen.var_names) == list(data.var_names)
    np.testing.assert_array_equal(data.X.data, before.data)
    np.testing.assert_array_equal(data.X.indices, before.indices)
    bare = as_data(X, kind="counts")
    assert split(bare, part)[0].library_size is None


def test_almost_integers_are_dealt_as_integers():
    X = np.nextafter(np.full((30, 20), 3, np.float32), 0)  # 2.9999998 is taken for 3
    data = as_data(X, kind="counts")
    parts = deal(data, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sum(parts, axis=0), 3)
    for part in parts:
        seen, rest = split(data, part)
        np.testing.assert_array_equal(seen.X.toarray() + rest.toarray(), 3)
        assert (seen.X.data > 0).all()


# -- likelihood between grid points ------------------------------------------------------------------------------------
def test_likelihoods_are_interpolated():
    rng = np.random.default_rng(0)
    likelihood = rng.normal(size=(9, len(SHAPE_GRID), len(POWER_GRID)))
    # the first and last beyond the grid
    shape = np.array([0.01, 0.05, 0.06, 1.0, 7.0, SHAPE_GRID[12], 999.0, 1e3, 1e9])
    power = np.array([0.0, 0.0, 0.3, 0.5, 1.0, 0.7, 0.2, 0.9, 0.5])
    expected = interpolate.RegularGridInterpolator(
        (np.arange(9), np.log(SHAPE_GRID), POWER_GRID), likelihood, method="linear"
    )(np.column_stack([np.arange(9), np.log(np.clip(shape, SHAPE_GRID[0], SHAPE_GRID[-1])), power]))
    np.testing.assert_allclose(prior_module._likelihoods_at(likelihood, shape, power), expected, rtol=1e-10)


@pytest.mark.parametrize("factor", [0.3, 0.75, 1.0, 1.6, 4.0])
def test_common_factor_is_recovered(factor):
    rng = np.random.default_rng(0)
    shape = np.exp(rng.uniform(np.log(2), np.log(30), size=200))
    weight = rng.gamma(2, size=(200, 1))
    likelihood = -weight * (np.log(SHAPE_GRID) - np.log(shape * factor)[:, None]) ** 2
    likelihood = np.repeat(likelihood[..., None], len(POWER_GRID), axis=2)
    assert prior_module._common_factor(likelihood, Prior.constant(shape)) == pytest.approx(factor, rel=0.04)


@pytest.mark.parametrize("sign", [-1, 1])
def test_common_factor_is_limited(sign):
    prior = Prior.constant(np.full(5, 7.0))
    likelihood = np.tile(sign * np.log(SHAPE_GRID)[None, :, None], (5, 1, len(POWER_GRID)))
    assert prior_module._common_factor(likelihood, prior) == pytest.approx(np.exp(sign * 2))


def test_evidence_is_the_average_over_the_candidates():
    """With few genes all weight is on one candidate; with many, the average is under the fitted prior."""
    rng = np.random.default_rng(0)
    likelihood = rng.normal(size=(4, len(SHAPE_GRID), len(POWER_GRID)))
    few = prior_module.Predicted(likelihood, np.ones(4), np.full(4, 60.0))
    best = likelihood.sum(axis=0).argmax()
    np.testing.assert_allclose(few.evidence(), likelihood.reshape(4, -1)[:, best], atol=1e-6)
    likelihood = 5 * rng.normal(size=(300, len(SHAPE_GRID), len(POWER_GRID)))
    many = prior_module.Predicted(likelihood, rng.gamma(2, size=300), np.full(300, 60.0))
    flat = likelihood.reshape(300, -1)
    uniform = np.log(np.exp(flat).mean(axis=1))
    assert many.evidence().sum() > uniform.sum()  # the fitted prior explains them better
    assert (many.evidence() <= flat.max(axis=1) + 1e-9).all()


# -- fitting the shape -------------------------------------------------------------------------------------------------
def simulate(phi, *, n=500, mean=30.0, seed=0):
    """Gamma-Poisson counts of known shape per gene, and the true library sizes."""
    rng = np.random.default_rng(seed)
    G = len(phi)
    library = rng.lognormal(0, 0.3, size=n) * mean * G
    share = rng.dirichlet(np.full(G, 20))
    X = rng.poisson(np.outer(library, share) * rng.gamma(phi, 1 / phi, size=(n, G)))
    return as_data(sp.csr_array(X.astype(np.float64)), kind="counts", library_size=library), X


def test_the_shape_is_recovered():
    phi = np.where(np.arange(60) % 2, 50.0, 0.5)
    data, _ = simulate(phi)
    shape = fit_prior(methods.get("gene_mean")(), data).shape
    assert shape.shape == (60,)
    assert 0.25 < np.median(shape[phi == 0.5]) < 1
    assert 25 < np.median(shape[phi == 50]) < 100
    assert shape[phi == 0.5].max() < shape[phi == 50].min()


def test_more_parts_improve_the_shapes():
    """With the true rates, which do not depend on the counts, at the depth of nine tenths of the molecules."""
    errors = {1: [], FOLDS: []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        phi = np.exp(rng.uniform(np.log(0.3), np.log(20), size=60))
        mean = np.outer(rng.lognormal(0, 0.3, size=400), rng.gamma(2, 1.0, size=60) + 0.3)
        X = rng.poisson(mean * rng.gamma(phi, 1 / phi, size=mean.shape)).astype(np.float64)
        data = as_data(X, kind="counts")
        dealt = deal(data, rng)
        for used, rmse in errors.items():
            prior, first = pooled_prior(data, dealt[:used], lambda seen, mean=mean: Dense(0.9 * mean))
            rmse.append(np.sqrt(np.mean((np.log(prior.shape) - np.log(phi)) ** 2)))
            seen, rest = split(data, dealt[0])
            expected = predictive_likelihood(Dense(0.9 * mean), seen.X, rest, ratio=1 / 9)
            np.testing.assert_array_equal(first.likelihood, expected)
    assert np.mean(errors[FOLDS]) < 0.7 * np.mean(errors[1])
    assert np.mean(errors[FOLDS]) < 0.5


def test_methods_without_exact_new_rows_use_one_part(monkeypatch):
    """poisson_nmf projects new rows, so only the part that was held out from its fit is used."""
    asked = []
    monkeypatch.setattr(prior_module, "pooled_prior", lambda data, dealt, rate: (asked.append(len(dealt)), None))
    data, _ = simulate(np.full(12, 2.0), n=40)
    fit_prior(methods.get("poisson_nmf")(max_iter=2), data)
    fit_prior(methods.get("gene_mean")(), data)
    assert asked == [1, FOLDS]


@pytest.mark.parametrize("phi", [0.5, 3.0, 50.0])
def test_few_genes_share_one_shape(phi):
    data, _ = simulate(np.full(6, phi))
    shape = fit_prior(methods.get("gene_mean")(), data).shape
    assert len(set(shape)) == 1
    assert phi / 2 < shape[0] < 2 * phi


def test_the_prior_depends_only_on_the_seed():
    data, _ = simulate(np.full(30, 2.0), n=100)
    one, again, other = (fit_prior(methods.get("gene_mean")(), data, random_state=seed).shape for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_power_of_the_rate_is_recovered(power):
    """Rates over two decades within each gene: the shape follows the rate with the power that made the data."""
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(0, 1.2, size=(800, 1)) + rng.normal(1, 0.3, size=60))
    phi = 3 * (mean / mean.mean(axis=0)) ** power
    data = as_data(rng.poisson(mean * rng.gamma(phi, 1 / phi)).astype(np.float64), kind="counts")
    prior, _ = pooled_prior(data, deal(data, rng), lambda seen: Dense(0.9 * mean))
    assert prior.power.mean() == pytest.approx(power, abs=0.15)
    assert np.exp(np.log(prior.shape).mean()) == pytest.approx(3, rel=0.35)
    assert prior.cell_power == 0  # the rates are right in all cells


def test_cells_with_wrong_rates_get_more_of_their_own_counts():
    rng = np.random.default_rng(0)
    truth = np.exp(rng.normal(1, 0.5, size=(400, 100)))
    wrong = np.arange(400) % 5 == 0
    rate = truth.copy()
    rate[wrong] = rng.permuted(rate[wrong], axis=1)
    X = rng.poisson(truth * rng.gamma(20, 1 / 20, size=truth.shape)).astype(np.float64)
    data = as_data(X, kind="counts")
    prior, _ = pooled_prior(data, deal(data, rng), lambda seen: Dense(0.9 * rate))
    assert prior.cell_power > 0
    model = PosteriorModel(Dense(rate), data, prior)
    with_cells = model.rows(np.arange(400), None, "value")
    plain = PosteriorModel(Dense(rate), data, replace(prior, cell_power=0.0)).rows(np.arange(400), None, "value")
    error, before = ((with_cells - truth) ** 2).mean(axis=1), ((plain - truth) ** 2).mean(axis=1)
    assert error[wrong].mean() < before[wrong].mean()
    assert error[~wrong].mean() < before[~wrong].mean()


def test_intervals_cover_the_true_rate():
    """Nine in ten true rates lie in the interval if the gamma-Poisson model holds."""
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


# networks are trained for moments: the total does not depend on what they learned
BRIEF = {"max_epochs": 3}


@pytest.mark.parametrize("name", [n for n in installed_methods() if "posterior" in methods.get(n).parameter_defaults()])
def test_totals_agree_and_other_data_are_an_error(name):
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.5, 4, size=(50, 30))).astype(np.float64) + np.eye(50, 30)
    brief = BRIEF if methods.info(name).extra is not None else {}
    estimator = methods.get(name)(posterior=True, **brief)
    values = estimator.fit_transform(X).to_array().astype(np.float64)
    assert values.sum() == pytest.approx(X.sum(), rel=1e-4)
    with pytest.raises(InputError, check=has_code("not-integers")):
        estimator.clone().fit(X / 3)
    with pytest.raises(InputError):
        estimator.clone().fit(as_data(np.where(X > 4, np.nan, X), kind="real"))
