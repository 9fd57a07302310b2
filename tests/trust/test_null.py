"""Correlation out of nothing: permuted genes, correlations against numpy's, and who is caught."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.core.imputation import Imputation
from imputome.errors import InputError
from imputome.trust.null import gene_correlations, null_correlation, permute_genes
from imputome.trust.verdict import NULL


def counts(n=300, G=60, seed=0):
    """Two groups of cells that differ in half of the genes."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(2.0, 1.0, G) * np.where(rng.random((n, 1)) < 0.5, np.where(np.arange(G) < G // 2, 4.0, 0.3), 1.0)
    return as_data(sp.csr_array(rng.poisson(rate).astype(np.float32)), kind="counts")


def real(n=200, G=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3)) @ rng.standard_normal((3, G)) + 0.3 * rng.standard_normal((n, G))
    return as_data(np.where(rng.random(X.shape) < 0.1, np.nan, X), kind="real")


@pytest.mark.parametrize("data", [counts(), real()], ids=["counts", "real"])
def test_permuting_keeps_each_gene_and_nothing_else(data):
    permuted = permute_genes(data, np.random.default_rng(1))
    before = data.X if data.kind == "real" else data.X.toarray()
    after = permuted.X if data.kind == "real" else permuted.X.toarray()
    assert not np.array_equal(before, after, equal_nan=True)
    np.testing.assert_array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
    again = permute_genes(data, np.random.default_rng(1)).X
    np.testing.assert_array_equal(after, again if data.kind == "real" else again.toarray())
    # what two genes have in common is left behind
    filled = [np.where(np.isnan(X), 0, X) for X in (before, after)]
    strength = [np.abs(np.corrcoef(X, rowvar=False)[np.triu_indices(X.shape[1], 1)]).mean() for X in filled]
    assert strength[1] < 0.1 < strength[0]


def test_permuted_counts_are_clean():
    X = permute_genes(counts(), np.random.default_rng(1)).X
    X.check_format()
    assert X.has_canonical_format
    assert X.data.all()


def test_what_belongs_to_cells_is_left_out():
    data = counts()
    with_library = as_data(data.X, kind="counts", library_size=data.depth * 2, observed=data.X.toarray() > 0)
    permuted = permute_genes(with_library, np.random.default_rng(0))
    assert permuted.library_size is None
    assert permuted.observed is None
    np.testing.assert_allclose(permuted.depth, permuted.X.sum(axis=1))


def test_correlations_are_pearsons():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6)) + 3
    expected = np.corrcoef(values, rowvar=False)[np.triu_indices(6, 1)]
    np.testing.assert_allclose(gene_correlations(values), expected, atol=1e-12)


def test_constant_genes_correlate_with_nothing():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 4)).astype(np.float32)
    values[:, 0] = 0
    values[:, 1] = 1000 * (1 + 1e-7 * rng.standard_normal(50))  # rounding only
    null = gene_correlations(values)
    assert not null[:5].any()
    assert null[5]


class Smoothed:
    """Every cell becomes the mean of the ``k`` that are nearest to it in all genes: what over-smoothing is."""

    outputs = frozenset({"value"})

    def __init__(self, data, k):
        X = np.log1p(data.X.toarray())
        gaps = np.square(X[:, None] - X[None]).sum(axis=2)
        near = np.argsort(gaps, axis=1)[:, :k]
        self.values = data.X.toarray()[near].mean(axis=1)

    def rows(self, rows, genes, output="value"):
        return self.values[rows][:, slice(None) if genes is None else genes]


def smoothed(k):
    return lambda data: Imputation(Smoothed(data, k), data, scale="counts", keeps_observed=False)


def imputed_by(name, **params):
    return lambda data: methods.get(name)(**params).fit_transform(data)


def test_smoothing_is_caught_and_the_gene_mean_is_not():
    data, rng = counts(), np.random.default_rng
    mean = null_correlation(imputed_by("gene_mean"), data, rng=rng(0))
    own = null_correlation(imputed_by("gene_mean_posterior"), data, rng=rng(0))
    smooth = null_correlation(smoothed(60), data, rng=rng(0))
    assert not mean.after.any()
    assert mean.strong == 0
    assert abs(own.excess) < 0.02
    assert own.strong == 0
    assert smooth.excess > NULL  # what the verdict flags
    assert np.abs(smooth.after).max() > 0.35  # by chance that would be six standard errors
    assert np.abs(mean.before).mean() == pytest.approx(np.sqrt(2 / np.pi / 300), rel=0.2)  # of independent genes


def test_the_most_seen_genes_are_looked_at():
    data = counts()
    null = null_correlation(imputed_by("gene_mean"), data, rng=np.random.default_rng(0), n_genes=10)
    seen = data.observed_counts()[1]
    assert len(null.genes) == 10
    assert seen[null.genes].min() >= np.sort(seen)[-10]
    assert len(null.before) == len(null.after) == 45


def test_real_values_are_correlated_as_they_are():
    null = null_correlation(imputed_by("mean"), real(), rng=np.random.default_rng(0))
    # the mean leaves known values alone and fills gaps with what `before` counts them as
    np.testing.assert_allclose(null.after, null.before, atol=1e-6)
    assert abs(null.excess) < 1e-6


def test_composition_is_not_taken_for_the_methods_work():
    """One gene holds half of the molecules: relative to the library, all others go down where it goes up."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(3.0, 1.0, 60), (300, 60)).astype(np.float64)
    counts[:, 0] = rng.poisson(rng.gamma(1.5, 120.0, 300))
    data = as_data(sp.csr_array(counts), kind="counts")

    class TrueMeans:
        outputs = frozenset({"value"})

        def rows(self, rows, genes, output):
            means = np.tile(counts.mean(axis=0), (300, 1))[rows]
            return means if genes is None else means[:, genes]

    null = null_correlation(
        lambda permuted: Imputation(TrueMeans(), permuted, scale="counts", keeps_observed=False), data, rng=rng
    )
    assert null.strong == 0
    assert null.excess < 0.02


def test_features_that_are_imputed_are_looked_at():
    """Complete features stay as they are, and say nothing of a method that fills a sample's gaps with one number."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 90))
    X[:, 60:][rng.random((100, 30)) < 0.5] = np.nan
    data = as_data(X, kind="real")

    class OneNumber:
        outputs = frozenset({"value"})

        def rows(self, rows, genes, output):
            size = data.shape[1] if genes is None else len(genes)
            return np.repeat(np.random.default_rng(1).standard_normal((100, 1))[rows], size, axis=1)

    def fill(permuted):
        return Imputation(OneNumber(), permuted, scale="input", keeps_observed=True)

    null = null_correlation(fill, data, rng=np.random.default_rng(0), n_genes=30)
    np.testing.assert_array_equal(null.genes, np.arange(60, 90))
    assert null.excess > 0.1


def test_nothing_to_correlate_is_refused():
    with pytest.raises(InputError, check=has_code("too-few-values")):
        null_correlation(imputed_by("mean"), as_data(np.ones((5, 1)), kind="real"), rng=np.random.default_rng(0))
