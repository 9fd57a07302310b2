"""Zeros before and after: the rate of expressing cells against scipy's root, and counts against a naive loop."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import optimize, stats

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.core.imputation import Imputation
from imputome.errors import InputError
from imputome.trust.zeros import OVERDISPERSIONS, confident_rates, zeros_before_and_after


def simulated(n=500, seed=0):
    """Four genes: weak everywhere, strong everywhere, strong in half of the cells and off in the others, never seen."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 2.0, n)
    on = rng.random(n) < 0.5
    mean = np.column_stack([0.4 * depth, 12 * depth, 15 * depth * on, np.zeros(n), np.full(n, 100.0)])
    X = rng.poisson(mean).astype(np.float32)
    return as_data(sp.csr_array(X), kind="counts", library_size=1000 * depth), on, depth


class Given:
    outputs = frozenset({"value", "rate"})

    def __init__(self, values):
        self.values = values

    def rows(self, rows, genes, output="value"):
        return self.values[rows][:, slice(None) if genes is None else genes]


def profile(x, d, phi):
    """The best rate of negative binomial counts cut off at 0, by scipy, and its log-likelihood."""

    def loss(log_rate):
        mean = d * np.exp(log_rate)
        if phi == 0:
            terms = stats.poisson.logpmf(x, mean) - np.log(-np.expm1(-mean))
        else:
            law = stats.nbinom(1 / phi, 1 / (1 + phi * mean))
            terms = law.logpmf(x) - np.log1p(-law.pmf(0))
        return -terms.sum()

    start = np.log(x.sum() / d.sum())
    best = optimize.minimize_scalar(loss, bounds=(start - 8, start + 2), method="bounded", options={"xatol": 1e-10})
    return np.exp(best.x), -best.fun


def test_rate_and_spread_are_those_that_scipy_finds():
    data, _, _ = simulated()
    rate, spread = confident_rates(data)
    X = data.X.toarray()
    for gene in (1, 2, 4):
        seen = X[:, gene] > 0
        fits = [profile(X[seen, gene], data.depth[seen], phi) for phi in OVERDISPERSIONS]
        best = max(likelihood for _, likelihood in fits)
        expected = max(
            phi for phi, (_, likelihood) in zip(OVERDISPERSIONS, fits, strict=True) if likelihood > best - 1.9205
        )
        assert spread[gene] == expected
        assert rate[gene] == pytest.approx(fits[OVERDISPERSIONS.index(expected)][0], rel=1e-5)
    assert rate[0] == rate[3] == 0  # too weak, or never seen: no zero of theirs can be confident


def test_rates_are_those_of_cells_that_express_the_gene():
    data, _, _ = simulated(n=5000)
    rate, spread = confident_rates(data)
    np.testing.assert_allclose(1000 * rate[1:3], [12, 15], rtol=0.05)
    assert (spread[1:3] <= 0.05).all()  # they are Poisson


def test_overdispersion_makes_zeros_less_sure():
    rng = np.random.default_rng(0)
    mean = np.full(2000, 12.0)
    steady = rng.poisson(mean)
    bursts = rng.poisson(mean * rng.gamma(1.25, 0.8, 2000))  # phi = 0.8: 12 % zeros by chance
    X = np.column_stack([steady, bursts]).astype(np.float32)
    data = as_data(sp.csr_array(X), kind="counts", library_size=np.full(2000, 1000.0))
    _, spread = confident_rates(data)
    assert spread[0] <= 0.05
    assert spread[1] in (0.8, 1.6)
    zeros = zeros_before_and_after(methods.get("no_imputation")().fit_transform(data))
    assert (X[:, 1] == 0).sum() > 50
    assert zeros.confident[1] == 0


def test_confident_zeros_are_of_cells_where_the_gene_is_off():
    data, on, depth = simulated()
    zeros = zeros_before_and_after(methods.get("no_imputation")().fit_transform(data))
    off_and_deep = ~on & (15 * depth > 4.7)
    assert zeros.confident[0] == 0  # weak, not absent
    assert 0.8 * off_and_deep.sum() < zeros.confident[2] <= off_and_deep.sum() + 5  # fewer where depth is at the limit
    assert not zeros.raised.any()
    assert zeros.raised_share == 0
    np.testing.assert_allclose(zeros.before, (data.X.toarray() == 0).mean(axis=0))
    np.testing.assert_array_equal(zeros.before, zeros.after)


def test_counts_agree_with_a_loop():
    data, _, _ = simulated()
    X, rng = data.X.toarray(), np.random.default_rng(1)
    values = rng.gamma(1.0, 1.0, X.shape).astype(np.float32)
    zeros = zeros_before_and_after(Imputation(Given(values), data, scale="counts", keeps_observed=True))
    rate, phi = confident_rates(data)
    after, confident, raised = np.zeros(5), np.zeros(5), np.zeros(5)
    for cell, gene in np.ndindex(X.shape):
        value = X[cell, gene] if X[cell, gene] > 0 else values[cell, gene]
        after[gene] += value < 0.5
        mean = data.depth[cell] * rate[gene]
        none = (1 + phi[gene] * mean) ** (-1 / phi[gene]) if phi[gene] > 0 else np.exp(-mean)
        sure = X[cell, gene] == 0 and none < 0.01
        confident[gene] += sure
        raised[gene] += sure and value > 1
    np.testing.assert_allclose(zeros.after, after / len(X))
    np.testing.assert_array_equal(zeros.confident, confident)
    np.testing.assert_array_equal(zeros.raised, raised)
    assert zeros.raised_share == pytest.approx(raised.sum() / confident.sum())
    frame = zeros.to_frame(data.var_names)
    assert list(frame.index) == list(data.var_names)
    np.testing.assert_array_equal(frame["raised"], raised)


def test_the_gene_mean_raises_zeros_and_the_posterior_does_not():
    data, _, _ = simulated()
    share = {
        name: zeros_before_and_after(methods.get(name)().fit_transform(data)).raised_share
        for name in ("gene_mean", "gene_mean_posterior")
    }
    assert share["gene_mean"] > 0.9
    assert share["gene_mean_posterior"] < 0.1


def test_without_confident_zeros_there_is_no_share():
    data = as_data(sp.csr_array(np.ones((5, 3), np.float32)), kind="counts")
    assert np.isnan(zeros_before_and_after(methods.get("no_imputation")().fit_transform(data)).raised_share)


def test_what_cannot_be_counted_is_refused():
    real = methods.get("mean")().fit_transform(as_data(np.array([[1.0, np.nan], [2.0, 3.0]]), kind="real"))
    with pytest.raises(InputError, check=has_code("zeros-need-counts")):
        zeros_before_and_after(real)
