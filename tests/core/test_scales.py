"""Scales of count data: the formulas and their inverses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imputome.core import scales
from imputome.core.scales import SCALES, TARGET, counts_to_scale, is_integer, scale_to_counts

VALUES = hnp.arrays(np.float64, (4, 3), elements=st.floats(0, 1e5))
LIBRARIES = hnp.arrays(np.float64, (4, 1), elements=st.floats(1, 1e7))


def test_normalized_is_per_ten_thousand_of_the_library():
    counts = np.array([[3.0, 0.0], [5.0, 20.0]])
    library = np.array([[1000.0], [20000.0]])
    assert counts_to_scale(counts, library, "normalized").tolist() == [[30.0, 0.0], [2.5, 10.0]]


def test_log1p_is_the_natural_logarithm():
    value = counts_to_scale(np.array([[3.0]]), np.array([[1000.0]]), "log1p")[0, 0]
    assert value == pytest.approx(math.log(31.0), rel=1e-15)


def test_same_as_scanpy():
    import scanpy as sc
    from anndata import AnnData

    counts = np.random.default_rng(0).poisson(2.0, (30, 20)).astype(np.float32)
    adata = AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=TARGET)
    library = counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(counts_to_scale(counts, library, "normalized"), adata.X, rtol=1e-5)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(counts_to_scale(counts, library, "log1p"), adata.X, rtol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
@given(counts=VALUES, library=LIBRARIES)
def test_inverse(scale, counts, library):
    back = scale_to_counts(counts_to_scale(counts, library, scale), library, scale)
    np.testing.assert_allclose(back, counts, rtol=1e-12, atol=1e-9)


@given(counts=VALUES, library=LIBRARIES)
def test_inverse_of_logs(counts, library):
    logs = np.log1p(counts)
    there = counts_to_scale(scale_to_counts(logs, library, "log1p"), library, "log1p")
    np.testing.assert_allclose(there, logs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", ["counts", "input"])
def test_counts_and_input_return_the_same_array(scale):
    counts = np.array([[1.0, 2.0]])
    assert counts_to_scale(counts, np.array([[3.0]]), scale) is counts
    assert scale_to_counts(counts, np.array([[3.0]]), scale) is counts


@pytest.mark.parametrize("scale", ["normalized", "log1p"])
def test_an_empty_library_gives_zeros(scale):
    with np.errstate(all="raise"):
        assert counts_to_scale(np.zeros((1, 2)), np.zeros((1, 1)), scale).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("scale", ["normalized", "log1p"])
def test_float32_stays_float32(scale):
    values, library = np.ones((2, 2), dtype=np.float32), np.full((2, 1), 7.0)
    assert counts_to_scale(values, library, scale).dtype == np.float32
    assert scale_to_counts(values, library, scale).dtype == np.float32


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 3.0, -2.0], True),
        ([3.0 + 1e-7], True),
        ([3.0 - 1e-7], True),
        ([3.0, 3.01], False),
        ([2.5], False),
        ([np.nan, 1.0], False),
        ([], True),
    ],
)
def test_is_integer(values, expected):
    assert is_integer(np.array(values)) == expected


PIECE = scales._VALUES_PER_PIECE


@pytest.mark.parametrize("where", [0, PIECE - 1, PIECE, PIECE + 5])
def test_is_integer_reads_every_piece(where):
    values = np.ones(PIECE + 6, dtype=np.float32)
    assert is_integer(values)
    values[where] = 0.5
    assert not is_integer(values)
    assert not is_integer(values.reshape(2, -1))


@pytest.mark.parametrize(("dtype", "expected"), [(np.int64, True), (np.uint8, True), (bool, True)])
def test_is_integer_accepts_integer_types(dtype, expected):
    assert is_integer(np.array([0, 1], dtype=dtype)) == expected


# -- other scales ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("scale", "formula"),
    [
        ("log2p1", lambda x: math.log2(1 + x)),
        ("log10p1", lambda x: math.log10(1 + x)),
        ("sqrt", math.sqrt),
    ],
)
def test_formulas_of_other_scales(scale, formula):
    counts, library = np.array([[3.0, 0.0, 7.0]]), np.array([[1000.0]])
    expected = [formula(value) for value in (30.0, 0.0, 70.0)]
    assert counts_to_scale(counts, library, scale)[0] == pytest.approx(expected, rel=1e-12)
    expected = [formula(value) for value in (3.0, 0.0, 7.0)]
    assert counts_to_scale(counts, library, f"{scale}_counts")[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("state", ["log1p_counts", "log2p1_counts", "log10p1_counts", "sqrt_counts"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_come_back_from_a_transform(state, dtype):
    counts = np.concatenate([np.arange(2000), [10_000, 50_000]])
    transformed = counts_to_scale(counts.astype(np.float64), np.ones(1), state).astype(dtype)
    np.testing.assert_array_equal(scales.undone(transformed, state), counts)


# -- rounding ----------------------------------------------------------------------------------------------------------
def test_rounding_to_the_nearest():
    X = np.array([[0.0, 0.49, 0.5], [1.5, 2.5, 3.51]])
    expected = [[0, 0, 1], [2, 3, 4]]
    assert scales.rounded_matrix(X, "nearest", seed=0, rows=np.arange(2)).tolist() == expected


def test_stochastic_rounding_is_unbiased_and_independent_of_the_part():
    from scipy import sparse, stats

    share = np.linspace(0.05, 0.95, 19)
    X = np.tile(3 + share, (4000, 1)).astype(np.float32)
    rounded = scales.rounded_matrix(X, "stochastic", seed=5, rows=np.arange(4000))
    assert rounded.dtype == np.float32
    assert set(np.unique(rounded)) == {3, 4}
    chances = [
        stats.binomtest(int(up), 4000, p).pvalue for up, p in zip((rounded == 4).sum(axis=0), share, strict=True)
    ]
    assert min(chances) > 1e-4
    neighbours = np.corrcoef(rounded, rowvar=False)[np.triu_indices(19, 1)]
    assert np.abs(neighbours).max() < 5 / np.sqrt(4000)
    part = np.array([7, 3000, 12])
    np.testing.assert_array_equal(scales.rounded_matrix(X[part], "stochastic", seed=5, rows=part), rounded[part])
    whole = scales.rounded_matrix(sparse.csr_array(X), "stochastic", seed=5, rows=np.arange(4000))
    np.testing.assert_array_equal(whole.toarray(), rounded)
    other = scales.rounded_matrix(X, "stochastic", seed=6, rows=np.arange(4000))
    assert abs((other == rounded).mean() - (share**2 + (1 - share) ** 2).mean()) < 0.01  # as by chance
