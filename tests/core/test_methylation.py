"""Beta values, M-values and read counts, against exact arithmetic and real bisulfite sequencing."""

from __future__ import annotations

import anndata as ad
import mpmath
import numpy as np
import pytest
from scipy.special import logit

from codes import has_code
from imputome import datasets
from imputome.core.methylation import beta_to_m, counts_to_beta, m_to_beta, set_beta
from imputome.errors import InputError
from imputome.io.methylation_counts import counts_from_frame


# -- M-values ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset", [0.001, 0.01, 1.0])
def test_m_values_are_exact(offset):
    beta = [0.0, 1e-6, 0.2, 0.5, 0.75, 1 - 1e-6, 1.0]
    with mpmath.workdps(40):
        expected = [float(mpmath.log((mpmath.mpf(b) + offset) / (1 - mpmath.mpf(b) + offset), 2)) for b in beta]
    np.testing.assert_allclose(beta_to_m(beta, offset=offset), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(beta_to_m(np.float32(beta), offset=offset), expected, rtol=2e-4, atol=1e-6)


def test_without_an_offset_m_is_the_logit_in_bits():
    beta = np.linspace(0, 1, 101)
    np.testing.assert_allclose(beta_to_m(beta, offset=0), logit(beta) / np.log(2), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(m_to_beta([-np.inf, np.inf], offset=0), [0, 1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 5e-7), (np.float64, 1e-14)])
@pytest.mark.parametrize("offset", [0.0, 0.001, 0.5])
def test_inverse(dtype, tolerance, offset):
    beta = np.linspace(0, 1, 10_001, dtype=dtype).reshape(73, 137)
    beta[3, 4] = np.nan
    before = beta.copy()
    m = beta_to_m(beta, offset=offset)
    again = m_to_beta(m, offset=offset)
    assert m.dtype == again.dtype == dtype
    np.testing.assert_allclose(again, beta, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(np.isnan(m), np.isnan(beta))
    np.testing.assert_array_equal(beta, before)
    assert (np.diff(beta_to_m(np.linspace(0, 1, 1001), offset=offset)) > 0).all()


def test_all_m_values_give_beta_values_in_0_to_1():
    m = np.array([-np.inf, -5000, -20, -9.9, 0, 9.9, 20, 5000, np.inf, np.nan])
    beta = m_to_beta(m)
    assert ((beta[:-1] >= 0) & (beta[:-1] <= 1)).all()
    np.testing.assert_array_equal(beta[[0, 1, 2, 4, 6, 7, 8]], [0, 0, 0, 0.5, 1, 1, 1])
    assert np.isnan(beta[-1])


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.inf, 55.0])
def test_values_outside_0_to_1_are_an_error(bad):
    with pytest.raises(InputError, check=has_code("not-beta-values")):
        beta_to_m([0.5, np.nan, bad])


@pytest.mark.parametrize("offset", [-0.1, np.nan, np.inf])
def test_offset_is_checked(offset):
    for function in (beta_to_m, m_to_beta):
        with pytest.raises(InputError, check=has_code("offset")):
            function([0.5], offset=offset)


# -- counts ------------------------------------------------------------------------------------------------------------
def test_low_coverage_gives_nan():
    reads = np.array([[0, 3, 5, 6, 7, 0, 12]])
    depth = np.array([[0, 3, 5, 6, 10, 6, 12]])
    beta, coverage = counts_to_beta(reads, depth)
    np.testing.assert_array_equal(beta, np.float32([[np.nan, np.nan, np.nan, 1, 0.7, 0, 1]]))
    assert beta.dtype == np.float32
    np.testing.assert_array_equal(coverage, depth)
    assert coverage.dtype == depth.dtype
    beta, _ = counts_to_beta(reads, depth, min_coverage=0)
    np.testing.assert_array_equal(np.isnan(beta), [[True] + [False] * 6])  # no reads, no value, whatever the rule
    beta, _ = counts_to_beta(reads, depth, min_coverage=11)
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(beta)), [6])


def test_nan_means_no_reads():
    beta, coverage = counts_to_beta([[np.nan, 4.0]], [[np.nan, 8.0]])
    np.testing.assert_array_equal(beta, [[np.nan, 0.5]])
    np.testing.assert_array_equal(coverage, [[0, 8]])
    assert beta.dtype == np.float64


@pytest.mark.parametrize(
    ("reads", "depth", "options", "code", "values"),
    [
        ([[1, 12], [2, 3]], [[1, 9], [2, 3]], {}, "methylated-above-coverage", "(0, 1): 12 of 9"),
        ([[-1]], [[7]], {}, "negative-counts", ""),
        ([[1]], [[-7]], {}, "negative-counts", ""),
        ([[1.5]], [[7.0]], {}, "not-integers", "1.5"),
        ([[1, 2]], [[7.25, 8]], {}, "not-integers", "7.25"),
        ([[1.0]], [[np.nan]], {}, "incomplete-read-counts", ""),
        ([[np.nan]], [[1.0]], {}, "incomplete-read-counts", ""),
        ([[1, 2]], [[1]], {}, "shape-mismatch", "(1, 2)"),
        ([[1]], [[1]], {"min_coverage": -1}, "min-coverage", "-1"),
        ([[1]], [[1]], {"min_coverage": np.nan}, "min-coverage", "nan"),
        ([["a"]], [[1]], {}, "not-numeric", "methylated"),
    ],
)
def test_wrong_counts_are_an_error(reads, depth, options, code, values):
    with pytest.raises(InputError, check=has_code(code)) as error:
        counts_to_beta(reads, depth, **options)
    assert values in str(error.value)


def test_set_beta_writes_x():
    depth = np.array([[0, 9], [0, 5]])
    adata = ad.AnnData(layers={"methylated": depth // 2, "coverage": depth})
    set_beta(adata, min_coverage=5)
    np.testing.assert_allclose(adata.X, [[np.nan, 4 / 9], [np.nan, 2 / 5]], rtol=1e-6)
    assert adata.uns["methylation"] == {"min_coverage": 5}
    del adata.layers["coverage"]
    with pytest.raises(InputError, check=has_code("layer-missing")) as error:
        set_beta(adata)
    assert "coverage" in str(error.value)


def test_bisulfite_sequencing_of_chromosome_21(shared_data):
    frame = datasets.load("wgbs")
    adata = counts_from_frame(frame)
    set_beta(adata)
    assert adata.shape == (4, 300_684)
    np.testing.assert_allclose(
        np.isnan(adata.X).mean(axis=1), [0.13992, 0.11060, 0.21984, 0.12647], atol=1e-5
    )  # shares of coverage under 6
    for sample in adata.obs_names:
        row = adata[sample].X.ravel()
        kept = frame[f"Cov.{sample}"] >= 6
        np.testing.assert_array_equal(np.isnan(row), ~kept)
        expected = frame.loc[kept, f"M.{sample}"] / frame.loc[kept, f"Cov.{sample}"]
        np.testing.assert_allclose(row[kept], expected, rtol=1e-6)
    assert np.nanmin(adata.X) >= 0
    assert np.nanmax(adata.X) <= 1
