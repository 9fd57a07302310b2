"""Samples far off the scale of all others, and columns that are no samples."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import spearmanr

from imputome.inspection.off_scale import _related, not_like_others, off_scale, two_units

RNG = np.random.default_rng(1)
GENES, SAMPLES = 300, 30
MEANS = np.exp(RNG.normal(4, 2, GENES))
COUNTS = RNG.poisson(MEANS * RNG.gamma(3, 1 / 3, (SAMPLES, GENES))).astype(float)
TABLES = {
    "counts": COUNTS,
    "log": np.log2(COUNTS + 1).round(3),
    "TPM": (1e6 * COUNTS / COUNTS.sum(axis=1, keepdims=True)).round(2),
    "beta": np.clip(RNG.beta(0.4, 0.6, GENES) + RNG.normal(0, 0.08, (SAMPLES, GENES)), 0.001, 0.999).round(4),
    "z-scores": RNG.normal(size=(SAMPLES, GENES)).round(3),
    "one cell each": RNG.poisson(MEANS / 400 * RNG.gamma(2, 0.5, (SAMPLES, 1))).astype(float),
}
IDS = RNG.integers(1, 130_000, GENES).astype(float)
LENGTHS = np.exp(RNG.normal(7.8, 1, GENES)).round()


def first(values, X):
    return np.vstack([values, X])


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_samples_only_is_no_reason_for_alarm(name):
    X = TABLES[name]
    for matrix in (X, sp.csr_matrix(X), np.where(RNG.random(X.shape) < 0.1, np.nan, X)):
        assert off_scale(matrix) == {}
        assert two_units(matrix)[0] == []
        assert not_like_others(matrix) == []


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("column", [IDS, LENGTHS])
def test_identifiers_and_lengths_before_the_samples(name, column):
    assert not_like_others(first(column, TABLES[name])) == [0]
    assert not_like_others(first(column, first(column + 500, TABLES[name]))) == [0, 1]
    assert not_like_others(np.vstack([TABLES[name], column])) == []  # only the first columns are asked


@pytest.mark.parametrize("name", ["log", "TPM", "beta", "z-scores"])
def test_small_integers_among_decimals(name):
    """Chromosomes, on the scale of the samples, but of integers only."""
    assert not_like_others(first(RNG.integers(1, 23, GENES), TABLES[name])) == [0]


@pytest.mark.parametrize("name", ["counts", "z-scores", "one cell each"])
def test_columns_on_the_scale_of_the_samples(name):
    """GC contents and chromosomes, which differ from samples in zeros, signs and decimals."""
    chromosomes = RNG.integers(1, 23, GENES)
    for column in (RNG.uniform(0.3, 0.7, GENES).round(2), *([] if name == "counts" else [chromosomes])):
        assert not_like_others(first(column, TABLES[name])) == [0]


def test_odd_samples_are_samples():
    """Deep and shallow ones, one of zeros and ones among fractions, rounded logs, an empty one, one of few values."""
    for k, factor in ((0, 20), (5, 20), (0, 1 / 50)):
        X = COUNTS.copy()
        X[k] = np.floor(X[k] * factor)
        assert (off_scale(X), not_like_others(X)) == ({}, [])
    odd = {"beta": TABLES["beta"][0] > 0.5, "log": TABLES["log"][0].round(), "counts": np.zeros(GENES)}
    for name, sample in odd.items():
        assert (off_scale(first(sample, TABLES[name])), not_like_others(first(sample, TABLES[name]))) == ({}, [])
    X = TABLES["beta"].copy()
    X[3] *= 0.05  # not methylated at all
    X[4, 5:] = np.nan
    assert off_scale(X) == {}


def test_a_sample_in_another_unit_is_far_off():
    X = TABLES["beta"].copy()
    X[7] *= 100
    assert list(off_scale(X)) == [7]
    assert off_scale(X)[7] == pytest.approx(100, rel=0.1)
    for k in (0, 11):  # without the log, as the first sample too: it is related to the others, so it is one
        X = TABLES["log"].copy()
        X[k] = COUNTS[k]
        assert list(off_scale(X)) == [k]
        assert not_like_others(X) == []
    X = COUNTS.copy()
    X[2] *= 5000
    assert list(off_scale(X)) == [2]


def test_half_of_the_samples_in_another_unit():
    for name, change in (("log", np.exp2), ("TPM", np.log1p), ("beta", lambda x: 100 * x)):
        for number in (2, 9, SAMPLES // 2):
            X = TABLES[name].copy()
            X[:number] = change(X[:number])
            assert set(two_units(X)[0]) in ({*range(number)}, {*range(SAMPLES - number, SAMPLES)})
    deep = COUNTS.copy()
    deep[:9] *= 20  # counts of two depths
    assert two_units(deep) == ([], 1.0)


def test_the_relation_is_spearmans():
    column = RNG.integers(1, 20, 80).astype(float)
    rest = column + RNG.normal(0, 5, (3, 80)).round()
    rest[0, :9] = np.nan
    expected = spearmanr(column, np.nanmedian(rest, axis=0))[0]
    assert _related(column, rest) == pytest.approx(expected, rel=1e-12)


def test_too_little_to_say_anything():
    for shape in ((1, 50), (2, 50), (30, 5), (3, 1)):
        X = RNG.normal(size=shape)
        X[0] = np.arange(1, shape[1] + 1) * 1e6
        assert off_scale(X) == {} or shape == (3, 1)
        assert shape[1] >= 10 or not_like_others(X) == []
