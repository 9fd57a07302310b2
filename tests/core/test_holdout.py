"""Hiding entries and molecules against brute force and the binomial distribution."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from codes import has_code
from imputome.core.holdout import hide_entries, hide_values, thin
from imputome.errors import InputError


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return sp.csr_array(rng.poisson(rng.gamma(0.5, 4, size=(60, 40))).astype(np.float32))


def copies(X):
    return [part.copy() for part in (X.data, X.indices, X.indptr)]


def unchanged(X, before):
    for now, then in zip((X.data, X.indices, X.indptr), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_thin_adds_up(X, keep):
    before = copies(X)
    kept, rest = thin(X, keep, np.random.default_rng(1))
    np.testing.assert_array_equal((kept + rest).toarray(), X.toarray())
    for part in (kept, rest):
        assert isinstance(part, sp.csr_array)
        assert part.dtype == X.dtype
        assert part.shape == X.shape
        assert (part.data > 0).all()  # no stored zeros, nothing negative
        np.testing.assert_array_equal(part.data, np.rint(part.data))
        part.data[:] = -1  # the parts are their own
        part.indices[:] = 0
    unchanged(X, before)
    if keep in (0.0, 1.0):
        assert (rest if keep else kept).nnz == 0


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_thin_is_binomial(keep, count):
    X = sp.csr_array(np.full((200, 50), count, dtype=np.float64))
    kept = thin(X, keep, np.random.default_rng(2))[0].toarray().ravel()
    n = kept.size
    expected = stats.binom(count, keep)
    assert abs(kept.mean() - expected.mean()) < 4.5 * expected.std() / np.sqrt(n)
    assert 0.93 < kept.var() / expected.var() < 1.07
    edges = np.unique(expected.ppf([0.05, 0.2, 0.4, 0.6, 0.8, 0.95]))
    bounds = np.concatenate([[-1], edges, [count]])
    bounds = np.unique(bounds)
    share = np.diff(expected.cdf(bounds))
    observed = np.histogram(kept, bounds + 0.5)[0]
    used = share > 0
    assert observed[~used].sum() == 0
    assert stats.chisquare(observed[used], share[used] / share[used].sum() * n).pvalue > 1e-4
    rows = kept.reshape(200, 50)  # entries are independent: row sums vary no more than they should
    assert 0.6 < rows.sum(axis=1).var() / (50 * expected.var()) < 1.5


def test_thin_needs_integers(X):
    with pytest.raises(InputError, check=has_code("not-integers")):
        thin(X * np.float32(0.3), 0.5, np.random.default_rng(0))
    empty = sp.csr_array((3, 4), dtype=np.float32)
    kept, rest = thin(empty, 0.5, np.random.default_rng(0))
    assert kept.nnz == rest.nnz == 0


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 1.0])
def test_hide_entries(X, fraction):
    before = copies(X)
    train, i, j, truth = hide_entries(X, fraction, np.random.default_rng(1))
    unchanged(X, before)
    hidden = list(zip(i.tolist(), j.tolist(), strict=True))
    assert len(hidden) == len(set(hidden)) == len(truth) == round(fraction * X.nnz)
    expected = X.toarray()
    for place, value in zip(hidden, truth, strict=True):
        assert value == X[place] != 0
        expected[place] = 0
    np.testing.assert_array_equal(train.toarray(), expected)
    assert train.nnz == X.nnz - len(truth)
    assert train.has_canonical_format
    train.data[:] = -1
    truth[:] = -1
    unchanged(X, before)


def test_hide_entries_keeps_stored_zeros(X):
    """A stored zero is a known value and can be hidden like any other."""
    X.data[::3] = 0
    train, i, _, truth = hide_entries(X, 0.4, np.random.default_rng(1))
    assert train.nnz + len(i) == X.nnz
    assert (truth == 0).any()
    assert (train.data == 0).any()


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 1.0])
def test_hide_values(fraction):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 20))
    X[rng.random(X.shape) < 0.3] = np.nan
    X[2, 3] = 0.0  # a zero is a value
    before, known = X.copy(), int((~np.isnan(X)).sum())
    train, i, j, truth = hide_values(X, fraction, np.random.default_rng(1))
    np.testing.assert_array_equal(X, before)
    hidden = list(zip(i.tolist(), j.tolist(), strict=True))
    assert len(hidden) == len(set(hidden)) == len(truth) == round(fraction * known)
    expected = X.copy()
    for place, value in zip(hidden, truth, strict=True):
        assert value == X[place]
        expected[place] = np.nan
    np.testing.assert_array_equal(train, expected)
    train[:] = 0
    truth[:] = 0
    np.testing.assert_array_equal(X, before)


def test_every_entry_is_equally_likely(X):
    times = np.zeros(X.shape)
    rounds = 400
    rng = np.random.default_rng(3)
    for _ in range(rounds):
        _, i, j, _ = hide_entries(X, 0.25, rng)
        times[i, j] += 1
    n_hidden = times[X.toarray() > 0]
    assert (times[X.toarray() == 0] == 0).all()
    z = (n_hidden - rounds * 0.25) / np.sqrt(rounds * 0.25 * 0.75)
    assert np.abs(z).max() < 5
    assert 0.85 < z.std() < 1.15


def test_seeds(X):
    dense = np.where(X.toarray() == 0, np.nan, X.toarray())
    for run in (
        lambda seed: thin(X, 0.5, np.random.default_rng(seed))[0].toarray(),
        lambda seed: hide_entries(X, 0.2, np.random.default_rng(seed))[0].toarray(),
        lambda seed: np.nan_to_num(hide_values(dense, 0.2, np.random.default_rng(seed))[0]),
    ):
        np.random.seed(4)  # noqa: NPY002  (the global generator must not matter)
        np.testing.assert_array_equal(run(7), run(7))
        assert not np.array_equal(run(7), run(8))
