"""DNA methylation: conversion between beta values and M-values, and beta values from bisulfite sequencing reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

OFFSET = 0.001  # keeps M-values within -10 to 10
MIN_COVERAGE = 6  # reads; the standard error of a beta value is then at most 0.2


def beta_to_m(beta: ArrayLike, *, offset: float = OFFSET) -> np.ndarray:
    """M-values of beta values: ``log2((beta + offset) / (1 - beta + offset))`` (Du et al. 2010).

    The offset keeps the M-values of 0 and 1 finite. NaN stays NaN; float32 stays float32, all else becomes float64.

    Examples
    --------
    >>> from imputome.core.methylation import beta_to_m
    >>> beta_to_m([0.2, 0.5, 0.8], offset=0)
    array([-2.,  0.,  2.])
    """
    _check_offset(offset)
    values = _floats(beta)
    check_beta(values)
    with np.errstate(divide="ignore"):
        return np.log2(values + values.dtype.type(offset)) - np.log2(1 - values + values.dtype.type(offset))


def check_beta(values: np.ndarray) -> None:
    """Check that all values but NaN are from 0 to 1."""
    outside = (values < 0) | (values > 1)
    if outside.any():
        text = f"{outside.sum():,} values are not beta values in [0, 1] (first: {values[outside].flat[0]:.6g})"
        raise InputError(f"{text}: divide percentages by 100; leave M-values as they are", code="not-beta-values")


def m_to_beta(m: ArrayLike, *, offset: float = OFFSET) -> np.ndarray:
    """Beta values, clipped to [0, 1], of M-values: the inverse of `beta_to_m` with the same offset.

    Examples
    --------
    >>> from imputome.core.methylation import m_to_beta
    >>> m_to_beta([-2.0, 0.0, 2.0], offset=0)
    array([0.2, 0.5, 0.8])
    """
    from scipy.special import expit

    _check_offset(offset)
    values = _floats(m)
    share = expit(values * values.dtype.type(np.log(2.0)))  # 2^m / (1 + 2^m), which cannot overflow
    return np.clip(share * values.dtype.type(1 + 2 * offset) - values.dtype.type(offset), 0, 1)


def counts_to_beta(
    methylated: ArrayLike, coverage: ArrayLike, *, min_coverage: float = MIN_COVERAGE
) -> tuple[np.ndarray, np.ndarray]:
    """Beta values of read counts: methylated / coverage if enough reads cover the site, NaN otherwise.

    Returns the beta values (float64 if an input is, float32 otherwise), and the coverage with 0 for NaN. NaN in both
    inputs means no reads. A site without reads is NaN whatever ``min_coverage`` is.
    """
    reads, depth = np.asarray(methylated), np.asarray(coverage)
    if reads.shape != depth.shape:
        text = f"methylated has shape {reads.shape} and coverage {depth.shape}: both need the same shape"
        raise InputError(text, code="shape-mismatch")
    if not min_coverage >= 0:
        text = f"min_coverage={min_coverage!r} is not a number of reads: pass 0 or more"
        raise InputError(text, code="min-coverage", parameter="min_coverage")
    for name, counts in (("methylated", reads), ("coverage", depth)):
        if counts.dtype.kind not in "iuf":
            raise InputError(f"{name} holds {counts.dtype} values: convert them to numbers", code="not-numeric")
    unknown = np.isnan(depth)
    if (unknown != np.isnan(reads)).any():
        text = "some sites have only one of methylated reads and coverage: give both, or NaN for both"
        raise InputError(text, code="incomplete-read-counts")
    if (depth < 0).any() or (reads < 0).any():
        raise InputError("read counts cannot be negative: give 0 or more reads", code="negative-counts")
    for name, counts in (("methylated", reads), ("coverage", depth)):
        fractions = counts[np.isfinite(counts) & (counts % 1 != 0)] if counts.dtype.kind == "f" else counts[:0]
        if fractions.size:
            text = f"{fractions.size:,} values of {name} are not integers (first: {fractions.flat[0]:.6g})"
            raise InputError(f"{text}: give numbers of reads, not fractions or percentages", code="not-integers")
    above = reads > depth
    if above.any():
        at = tuple(int(k) for k in np.argwhere(above)[0])
        first = f"first at {at}: {reads[at]} of {depth[at]}"
        text = f"{above.sum():,} entries have more methylated reads than reads ({first})"
        remedy = "check whether the two are swapped, or whether coverage counts only unmethylated reads"
        raise InputError(f"{text}: {remedy}", code="methylated-above-coverage")
    depth = np.where(unknown, depth.dtype.type(0), depth)
    dtype = np.float64 if np.float64 in (reads.dtype, depth.dtype) else np.float32
    beta = np.full(depth.shape, np.nan, dtype=dtype)
    measured = (depth > 0) & (depth >= min_coverage)
    np.divide(reads, depth, out=beta, where=measured, casting="same_kind", dtype=dtype)
    return beta, depth


def set_beta(adata: AnnData, *, min_coverage: float = MIN_COVERAGE) -> None:
    """Write beta values to ``X`` of an AnnData with the layers ``"methylated"`` and ``"coverage"``.

    Sites without enough reads in any sample stay, as columns of NaN. ``min_coverage`` goes to ``uns["methylation"]``.
    """
    for name in ("methylated", "coverage"):
        if name not in adata.layers:
            text = f"there is no layer {name!r} (layers: {', '.join(adata.layers) or 'none'}): add it"
            raise InputError(text, code="layer-missing")
    adata.X, adata.layers["coverage"] = counts_to_beta(
        adata.layers["methylated"], adata.layers["coverage"], min_coverage=min_coverage
    )
    adata.uns["methylation"] = {"min_coverage": min_coverage}


def _floats(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _check_offset(offset: float) -> None:
    if not 0 <= offset < np.inf:
        raise InputError(f"offset={offset!r} is not a small number: pass 0 or more", code="offset", parameter="offset")
