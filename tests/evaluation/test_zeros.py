"""Zeros before and after: the rate of expressing cells against scipy's root, and counts against a naive loop."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import brentq

from imputome import methods
from imputome.errors import InputError
from imputome.evaluation.zeros import confident_rates, zeros_before_and_after
from imputome.methods.base import Imputation, as_data


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


def test_rates_solve_the_equation_of_truncated_poisson_counts():
    data, _, _ = simulated()
    found = confident_rates(data)
    X = data.X.toarray()
    for gene in (0, 1, 2, 4):
        seen = X[:, gene] > 0
        d, total = data.depth[seen], X[seen, gene].sum()
        expected = brentq(lambda r, d=d, total=total: (d * r / -np.expm1(-d * r)).sum() - total, 1e-9, 1.0, xtol=1e-14)
        assert found[gene] == pytest.approx(expected, rel=1e-8)
    assert found[3] == 0


def test_rates_are_those_of_cells_that_express_the_gene():
    data, _, _ = simulated(n=5000)
    np.testing.assert_allclose(1000 * confident_rates(data)[:3], [0.4, 12, 15], rtol=0.05)


def test_a_gene_seen_once_at_most_has_no_rate():
    X = np.zeros((20, 2), np.float32)
    X[:5, 0] = 1  # never twice: consistent with a rate of 0
    X[:, 1] = 3
    assert confident_rates(as_data(sp.csr_array(X), kind="counts"))[0] < 1e-9


def test_confident_zeros_are_of_cells_where_the_gene_is_off():
    data, on, depth = simulated()
    zeros = zeros_before_and_after(methods.get("no_imputation")().fit_transform(data))
    off_and_deep = ~on & (15 * depth > 4.7)
    assert zeros.confident[0] == 0  # weak, not absent
    assert zeros.confident[2] == pytest.approx(off_and_deep.sum(), abs=5)
    assert not zeros.raised.any()
    assert zeros.raised_share == 0
    np.testing.assert_allclose(zeros.before, (data.X.toarray() == 0).mean(axis=0))
    np.testing.assert_array_equal(zeros.before, zeros.after)


def test_counts_agree_with_a_loop():
    data, _, _ = simulated()
    X, rng = data.X.toarray(), np.random.default_rng(1)
    values = rng.gamma(1.0, 1.0, X.shape).astype(np.float32)
    zeros = zeros_before_and_after(Imputation(Given(values), data, scale="counts", keeps_observed=True))
    rate = confident_rates(data)
    after, confident, raised = np.zeros(5), np.zeros(5), np.zeros(5)
    for cell, gene in np.ndindex(X.shape):
        value = X[cell, gene] if X[cell, gene] > 0 else values[cell, gene]
        after[gene] += value < 0.5
        sure = X[cell, gene] == 0 and np.exp(-data.depth[cell] * rate[gene]) < 0.01
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
    with pytest.raises(InputError, match="real values"):
        zeros_before_and_after(real)
