"""Hiding counts: nonzeros taken out (they look like dropouts) or molecules split off. Nothing is ever made dense.

Letters: ``n`` cells, ``G`` genes. Each scheme takes data and a generator and returns a `Split`; ``fraction`` is the
share of the nonzeros, or of the molecules, to hide.

A library size that came with the data counts hidden molecules too, so it is lowered by them: what the training part
knows of its depth is what it still holds.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.split import Split, check_share
from imputome.methods.base import Data
from imputome.preprocessing.counts import counts_to_scale
from imputome.preprocessing.holdout import hide_entries, take_out, thin, thin_overdispersed

if TYPE_CHECKING:
    import scipy.sparse as sp


# -- entries -----------------------------------------------------------------------------------------------------------
def random(data: Data, rng: np.random.Generator, *, fraction: float = 0.1, per_gene: bool = False) -> Split:
    """Hide ``round(fraction * number)`` of the nonzeros, each as likely as any other.

    With ``per_gene`` that share of each gene's nonzeros is hidden; genes with three nonzeros or fewer keep them (the
    protocol of scIALM).
    """
    X = _counts("random", data)
    check_share("fraction", fraction)
    if not per_gene:
        return _entries("random", data, *hide_entries(X, fraction, rng))
    hidden = np.zeros(X.nnz, dtype=bool)
    by_gene, starts = _positions_by_gene(X)
    for start, stop in itertools.pairwise(starts.tolist()):
        if stop - start > 3:
            size = round(fraction * (stop - start))
            hidden[by_gene[start + rng.choice(stop - start, size=size, replace=False)]] = True
    return _entries("random", data, *take_out(X, hidden))


def double_exponential(data: Data, rng: np.random.Generator, *, fraction: float = 0.5) -> Split:
    """Hide each nonzero of gene j with probability exp(-lambda mean_j^2), so that low genes lose more.

    mean_j is the mean of ln(1 + count) over the nonzeros of gene j, and lambda makes the expected share of hidden
    nonzeros equal to ``fraction``; the realised share differs by chance.
    """
    X = _counts("double_exponential", data)
    probability = gene_probabilities(X, fraction)
    hidden = rng.random(X.nnz) < probability[X.indices]
    return _entries("double_exponential", data, *take_out(X, hidden))


def gene_probabilities(X: sp.csr_array, fraction: float) -> np.ndarray:
    """(G,) probabilities exp(-lambda mean_j^2) of `double_exponential`; the root is found to about 1e-12.

    Raises
    ------
    InputError
        No lambda >= 0 gives that expected share of hidden nonzeros.
    """
    from scipy.optimize import brentq

    check_share("fraction", fraction)
    G = X.shape[1]
    size = np.bincount(X.indices, minlength=G)
    total = np.bincount(X.indices, weights=np.log1p(X.data, dtype=np.float64), minlength=G)
    squared = (total / np.maximum(size, 1)) ** 2
    share = size / max(X.nnz, 1)

    def excess(rate: float) -> float:
        return float(share @ np.exp(-rate * squared)) - fraction

    upper = 1.0
    while excess(upper) > 0 and upper < 1e12:
        upper *= 2
    if excess(upper) > 0:
        lowest = excess(upper) + fraction
        raise InputError(
            f"double_exponential cannot hide only {fraction:g} of these nonzeros: raise the fraction over {lowest:.3g}"
        )
    return np.exp(-brentq(excess, 0.0, upper, xtol=1e-15, rtol=1e-14) * squared)


def median(data: Data, rng: np.random.Generator, *, scale: Literal["counts", "log1p"] = "counts") -> Split:
    """Hide every nonzero at or below the median of the nonzeros; nothing is random.

    The share is what the data make it: where most nonzeros are 1, all ones are hidden (see ``Split.fraction``).

    Parameters
    ----------
    scale : ``"counts"`` as in the published code, or ``"log1p"``, values log-normalised per 10,000 of the library.
    """
    X = _counts("median", data)
    if scale not in ("counts", "log1p"):
        raise InputError(f'scale={scale!r} is no scale of the median: choose "counts" or "log1p"')
    values = X.data
    if scale == "log1p":
        values = counts_to_scale(X.data.astype(np.float64), np.repeat(data.depth, np.diff(X.indptr)), "log1p")
    return _entries("median", data, *take_out(X, values <= np.median(values)))


# -- molecules ---------------------------------------------------------------------------------------------------------
def binomial(data: Data, rng: np.random.Generator, *, fraction: float = 0.1) -> Split:
    """Split off each molecule with probability ``fraction`` (scheme ``thin``): the default for judging denoising.

    The parts are independent where counts are Poisson; see `negative_binomial` where they are not.
    """
    X = _counts("thin", data)
    check_share("fraction", fraction)
    return _molecules("thin", data, *thin(X, 1 - fraction, rng), fraction)


def negative_binomial(
    data: Data, rng: np.random.Generator, *, fraction: float = 0.1, overdispersion: Any = "gene"
) -> Split:
    """Split off molecules so that the parts of overdispersed counts are independent (scheme ``thin_nb``).

    Where an entry is NB of mean m and variance m + phi m^2, its kept share is drawn from Beta(keep / phi,
    (1 - keep) / phi) with keep = 1 - fraction, then its molecules binomially (`thin_overdispersed`).

    Parameters
    ----------
    overdispersion : phi, one number or one for each of G genes; ``"gene"`` or ``"global"`` estimates it by
        `moment_overdispersion`. Independence holds as far as phi is right: the estimate also counts differences
        between kinds of cells, so pass phi from a model with the structure in it where there is one.
    """
    X = _counts("thin_nb", data)
    check_share("fraction", fraction)
    if isinstance(overdispersion, str):
        if overdispersion not in ("gene", "global"):
            raise InputError(f'overdispersion={overdispersion!r}: pass "gene", "global", a number or one for each gene')
        phi = moment_overdispersion(data, pooled=overdispersion == "global")
    else:
        phi = np.asarray(overdispersion, dtype=np.float64)
        if phi.shape not in ((), (X.shape[1],)):
            raise InputError(f"overdispersion has shape {phi.shape}: pass one number or one for each of {X.shape[1]}")
        if not (np.isfinite(phi).all() and (phi >= 0).all()):
            raise InputError("overdispersion must be finite and not negative: pass 0 for Poisson genes")
    phi = np.broadcast_to(phi, X.shape[1])
    return _molecules("thin_nb", data, *thin_overdispersed(X, 1 - fraction, phi, rng), fraction)


def moment_overdispersion(data: Data, *, pooled: bool = False) -> np.ndarray:
    """(G,) overdispersion phi of each gene by moments, at least 0.

    phi = sum_i ((x - m)^2 - m) / sum_i m^2 with m_ij = depth_i * total_j / sum of depths, the mean of a gene that
    differs between cells by depth alone; ``pooled`` sums over genes too and gives all the same. A gene that is a large
    part of the depth is estimated too low, since it moves the depth with it.
    """
    X, depth = data.X, data.depth
    G = X.shape[1]
    share = data.gene_totals / max(depth.sum(), 1e-300)
    values = X.data.astype(np.float64)
    squares = np.bincount(X.indices, weights=values * values, minlength=G)
    values *= np.repeat(depth, np.diff(X.indptr))
    crossed = np.bincount(X.indices, weights=values, minlength=G)
    expected = (depth @ depth) * share * share
    surplus = squares - 2 * share * crossed + expected - share * depth.sum()
    if pooled:
        surplus, expected = np.full(G, surplus.sum()), np.full(G, expected.sum())
    return np.maximum(surplus / np.where(expected > 0, expected, np.inf), 0.0)


# -- pieces ------------------------------------------------------------------------------------------------------------
def _counts(scheme: str, data: Data) -> sp.csr_array:
    if data.kind != "counts":
        raise InputError(f"{scheme} hides counts, and these data are real-valued: choose mcar or another real scheme")
    if data.X.nnz == 0:
        raise InputError(f"{scheme} has nothing to hide: every count is zero")
    return data.X


def _positions_by_gene(X: sp.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Positions in ``X.data`` grouped by gene, and where each gene's group starts (G + 1)."""
    import scipy.sparse as sp

    index = np.int32 if X.nnz < 2**31 else np.int64
    by_gene = sp.csr_array((np.arange(X.nnz, dtype=index), X.indices, X.indptr), shape=X.shape).tocsc()
    return by_gene.data, by_gene.indptr


def _entries(scheme: str, data: Data, train: sp.csr_array, i: np.ndarray, j: np.ndarray, truth: np.ndarray) -> Split:
    if len(i) == 0:
        raise InputError(f"{scheme} would hide no entry of {data.X.nnz:,}: raise the fraction")
    library = data.library_size
    if library is not None:
        library = library - np.bincount(i, weights=truth, minlength=data.shape[0])
    observed = data.observed
    if isinstance(observed, np.ndarray):
        observed = observed.copy()
        observed[i, j] = False
    elif observed is not None:
        observed = _without(observed, i, j)
    return Split(
        scheme=scheme,
        train=replace(data, X=train, observed=observed, library_size=library),
        i=i,
        j=j,
        truth=truth,
        fraction=len(i) / data.X.nnz,
    )


def _without(observed: Any, i: np.ndarray, j: np.ndarray) -> sp.csr_array:
    """A sparse mask with some of its entries taken out."""
    import scipy.sparse as sp

    known = sp.csr_array(observed).astype(np.int8)
    gone = sp.csr_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=known.shape)
    left = sp.csr_array(known - known.multiply(gone))
    left.eliminate_zeros()
    return left.astype(bool)


def _molecules(scheme: str, data: Data, kept: sp.csr_array, rest: sp.csr_array, fraction: float) -> Split:
    ones = np.ones(data.shape[1])
    total, left = data.X @ ones, kept @ ones
    library = data.library_size
    if library is not None:  # of the molecules of genes that are not here the same share would have been kept
        library = left + (1 - fraction) * np.maximum(library - total, 0)
    return Split(
        scheme=scheme,
        train=replace(data, X=kept, library_size=library),
        test=rest,
        ratio=fraction / (1 - fraction),
        fraction=float(1 - left.sum() / total.sum()),
    )
