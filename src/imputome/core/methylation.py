"""DNA methylation: beta values and M-values, and beta values from the reads of bisulfite sequencing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

OFFSET = 0.001  # M-values then reach from -10 to 10
MIN_COVERAGE = 6  # reads; the standard error of a beta value is then 0.2 at most


def beta_to_m(beta: ArrayLike, *, offset: float = OFFSET) -> np.ndarray:
    """M-values of beta values: ``log2((beta + offset) / (1 - beta + offset))`` (Du et al. 2010).

    Parameters
    ----------
    beta : any shape, in [0, 1]; NaN stays NaN.
    offset : what keeps 0 and 1 finite; 0 gives infinite M-values there.

    Returns
    -------
    ndarray of that shape, unit log2 odds; float32 stays float32, all else becomes float64.

    Raises
    ------
    InputError
        A value outside [0, 1]; a negative offset.
    """
    _check_offset(offset)
    values = _floats(beta)
    outside = (values < 0) | (values > 1)
    if outside.any():
        raise InputError(
            f"beta values lie in [0, 1], and {outside.sum():,} here do not (first: {values[outside].flat[0]:.6g}): "
            "divide percentages by 100, or leave M-values as they are"
        )
    with np.errstate(divide="ignore"):
        return np.log2(values + values.dtype.type(offset)) - np.log2(1 - values + values.dtype.type(offset))


def m_to_beta(m: ArrayLike, *, offset: float = OFFSET) -> np.ndarray:
    """The inverse of `beta_to_m` with the same ``offset``; M-values that no beta value has become 0 or 1.

    Parameters
    ----------
    m : any shape, log2 odds; NaN stays NaN, infinite becomes 0 or 1.
    offset : as given to `beta_to_m`.

    Returns
    -------
    ndarray of that shape, in [0, 1]; float32 stays float32, all else becomes float64.
    """
    from scipy.special import expit

    _check_offset(offset)
    values = _floats(m)
    odds_share = expit(values * values.dtype.type(np.log(2.0)))  # 2^m / (1 + 2^m), which cannot overflow
    return np.clip(odds_share * values.dtype.type(1 + 2 * offset) - values.dtype.type(offset), 0, 1)


def counts_to_beta(
    methylated: ArrayLike, coverage: ArrayLike, *, min_coverage: float = MIN_COVERAGE
) -> tuple[np.ndarray, np.ndarray]:
    """Beta values of read counts: methylated / coverage where enough reads cover the site, else NaN.

    Parameters
    ----------
    methylated, coverage : equal shapes; reads that show methylation, and all reads. NaN in both means no reads.
    min_coverage : reads from which a beta value counts as measured; a site without reads is NaN in any case.

    Returns
    -------
    beta : float64 if one of the inputs is, else float32.
    coverage : as given, NaN replaced by 0.

    Raises
    ------
    InputError
        Shapes that differ; negative counts or fractions; more methylated reads than reads; a count without its partner.
    """
    reads, depth = np.asarray(methylated), np.asarray(coverage)
    if reads.shape != depth.shape:
        raise InputError(f"methylated has shape {reads.shape} and coverage {depth.shape}: they must be the same")
    if not min_coverage >= 0:
        raise InputError(f"min_coverage is a number of reads, 0 or more, not {min_coverage!r}")
    for name, counts in (("methylated", reads), ("coverage", depth)):
        if counts.dtype.kind not in "iuf":
            raise InputError(f"{name} holds {counts.dtype} values, not counts: convert it first")
    unknown = np.isnan(depth)
    if (unknown != np.isnan(reads)).any():
        raise InputError("a site has methylated reads or coverage without the other: give both, or neither (NaN)")
    if (depth < 0).any() or (reads < 0).any():
        raise InputError("there are negative read counts: methylated and coverage are 0 or more")
    for name, counts in (("methylated", reads), ("coverage", depth)):
        broken = counts[np.isfinite(counts) & (counts % 1 != 0)] if counts.dtype.kind == "f" else counts[:0]
        if broken.size:
            raise InputError(
                f"{broken.size:,} values of {name} are no whole numbers (first: {broken.flat[0]:.6g}): give numbers of "
                "reads, not fractions or percentages"
            )
    above = reads > depth
    if above.any():
        at = tuple(int(k) for k in np.argwhere(above)[0])
        raise InputError(
            f"{above.sum():,} entries have more methylated reads than reads (first at {at}: {reads[at]} of "
            f"{depth[at]}): are the two swapped, or is the coverage that of the unmethylated reads alone?"
        )
    depth = np.where(unknown, depth.dtype.type(0), depth)
    dtype = np.float64 if np.float64 in (reads.dtype, depth.dtype) else np.float32
    beta = np.full(depth.shape, np.nan, dtype=dtype)
    measured = (depth > 0) & (depth >= min_coverage)
    np.divide(reads, depth, out=beta, where=measured, casting="same_kind", dtype=dtype)
    return beta, depth


def set_beta(adata: AnnData, *, min_coverage: float = MIN_COVERAGE) -> None:
    """Put beta values into ``X`` of an AnnData of read counts, as `imputome.io.methylation_counts` reads them.

    Parameters
    ----------
    adata : samples x sites with layers ``"methylated"`` and ``"coverage"``; its ``X`` is replaced, and the rule is
        written to ``uns["methylation"]``.
    min_coverage : as in `counts_to_beta`. Sites that no sample covers stay, as columns of NaN.

    Raises
    ------
    InputError
        A layer is not there; counts that `counts_to_beta` refuses.
    """
    lacking = [name for name in ("methylated", "coverage") if name not in adata.layers]
    if lacking:
        raise InputError(f"there is no layer {lacking[0]!r}; layers here: {', '.join(adata.layers) or 'none'}")
    adata.X, adata.layers["coverage"] = counts_to_beta(
        adata.layers["methylated"], adata.layers["coverage"], min_coverage=min_coverage
    )
    adata.uns["methylation"] = {"min_coverage": min_coverage}


def _floats(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _check_offset(offset: float) -> None:
    if not 0 <= offset < np.inf:
        raise InputError(f"offset is a small number, 0 or more, not {offset!r}")
