"""Holding out entries or molecules, for stopping rules that validate and for evaluation.

Every function takes a random generator and returns new matrices; the input does not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imputome.core.scales import is_integer
from imputome.errors import InputError

if TYPE_CHECKING:
    import scipy.sparse as sp

_ENTRIES_PER_PIECE = 2**20  # stored entries drawn at a time


def thin(X: sp.csr_array, keep: float, rng: np.random.Generator) -> tuple[sp.csr_array, sp.csr_array]:
    """Split molecules: each is kept with probability ``keep``, independently (binomial count splitting).

    Parameters
    ----------
    X : csr_array of shape (n, G)
        Integer counts.
    keep : float
        Probability, 0 to 1.
    rng : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    kept, rest : csr_array of shape (n, G)
        The two parts, which add up to ``X``; no stored zeros.

    Raises
    ------
    InputError
        The counts are not integers.
    """
    counts = _molecules(X)
    return _divide(X, counts, rng.binomial(counts, keep))


def thin_overdispersed(
    X: sp.csr_array, keep: float, overdispersion: np.ndarray, rng: np.random.Generator
) -> tuple[sp.csr_array, sp.csr_array]:
    """Split molecules of overdispersed counts into two independent parts (negative-binomial thinning).

    For x ~ NB(mean m, variance m + phi m^2) each entry draws its own share p ~ Beta(keep / phi, (1 - keep) / phi) and
    keeps Binomial(x, p) molecules. The parts are then independent NB with means keep m and (1 - keep) m and
    overdispersions phi / keep and phi / (1 - keep). For phi -> 0 this is `thin`; for phi > 0 the parts of `thin` are
    correlated, because they share the gamma draw of the entry (Neufeld et al. 2023, arXiv 2307.12985). A zero stays
    zero in both parts, so only stored entries are drawn.

    Parameters
    ----------
    X : csr_array of shape (n, G)
        Integer counts.
    keep : float
        Mean share of the molecules to keep, 0 to 1.
    overdispersion : ndarray of shape (G,)
        phi of each gene, 0 or more; 0 means Poisson.
    rng : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    kept, rest : csr_array of shape (n, G)
        The two parts, which add up to ``X``; no stored zeros.

    Raises
    ------
    InputError
        The counts are not integers.
    """
    counts = _molecules(X)
    phi = np.asarray(overdispersion, dtype=np.float64)
    kept = np.empty_like(counts)
    for start in range(0, X.nnz, _ENTRIES_PER_PIECE):
        piece = slice(start, start + _ENTRIES_PER_PIECE)
        entry_phi = phi[X.indices[piece]]
        share = np.full(len(entry_phi), keep)
        wide = entry_phi > 1e-8  # below this the beta distribution is a point, except for rounding
        share[wide] = rng.beta(keep / entry_phi[wide], (1 - keep) / entry_phi[wide])
        kept[piece] = rng.binomial(counts[piece], share)
    return _divide(X, counts, kept)


def _molecules(X: sp.csr_array) -> np.ndarray:
    if not is_integer(X.data):
        raise InputError("molecules can only be split if all counts are integers: pass raw counts", code="not-integers")
    return np.rint(X.data).astype(np.int64)


def _divide(X: sp.csr_array, counts: np.ndarray, kept: np.ndarray) -> tuple[sp.csr_array, sp.csr_array]:
    """The kept molecules and the rest as matrices, from their values at the stored entries of ``X``."""
    import scipy.sparse as sp

    parts = []
    for values in (kept, counts - kept):
        part = sp.csr_array((values.astype(X.dtype), X.indices, X.indptr), shape=X.shape, copy=True)
        part.eliminate_zeros()
        parts.append(part)
    return parts[0], parts[1]


def hide_entries(
    X: sp.csr_array, fraction: float, rng: np.random.Generator
) -> tuple[sp.csr_array, np.ndarray, np.ndarray, np.ndarray]:
    """Remove a random share of the stored entries of a sparse matrix.

    Parameters
    ----------
    X : csr_array of shape (n, G)
        Any values; a stored zero counts as an entry.
    fraction : float
        Share of the stored entries to hide, 0 to 1.
    rng : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    train : csr_array of shape (n, G)
        ``X`` without the hidden entries.
    i, j, truth : ndarray
        Rows, columns and values of the hidden entries.
    """
    hidden = np.zeros(X.nnz, dtype=bool)
    hidden[rng.choice(X.nnz, size=round(fraction * X.nnz), replace=False)] = True
    return take_out(X, hidden)


def take_out(X: sp.csr_array, hidden: np.ndarray) -> tuple[sp.csr_array, np.ndarray, np.ndarray, np.ndarray]:
    """Remove chosen stored entries of a sparse matrix; returns as `hide_entries`.

    Parameters
    ----------
    X : csr_array of shape (n, G)
        Any values.
    hidden : bool ndarray of shape (X.nnz,)
        True for the stored entries (``X.data``) to remove.
    """
    import scipy.sparse as sp

    chosen = np.flatnonzero(hidden)
    # row numbers of all stored entries would take as much memory as the matrix: compute those of the hidden ones only
    rows = np.searchsorted(X.indptr, chosen, side="right") - 1
    stays = ~hidden
    kept_in_row = np.diff(X.indptr).astype(np.int64) - np.bincount(rows, minlength=X.shape[0])
    starts = np.concatenate([[0], np.cumsum(kept_in_row)]).astype(X.indptr.dtype)
    train = sp.csr_array((X.data[stays], X.indices[stays], starts), shape=X.shape)
    return train, rows, X.indices[chosen], X.data[chosen]


def hide_values(
    X: np.ndarray, fraction: float, rng: np.random.Generator, *, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Set a random share of the known (not NaN) values of a dense matrix to NaN.

    Parameters
    ----------
    X : ndarray of shape (n, G)
        Real values, NaN for missing.
    fraction : float
        Share of the known values to hide, 0 to 1.
    rng : numpy.random.Generator
        Source of the draws.
    among : bool ndarray of shape (n, G), optional
        Hide only values at which it is True; ``fraction`` is then the share of these.

    Returns
    -------
    train : ndarray of shape (n, G)
        ``X`` with NaN at the hidden values.
    i, j, truth : ndarray
        Rows, columns and values of the hidden values.
    """
    rows, columns = np.nonzero(~np.isnan(X) if among is None else among & ~np.isnan(X))
    chosen = np.sort(rng.choice(len(rows), size=round(fraction * len(rows)), replace=False))
    i, j = rows[chosen], columns[chosen]
    train = X.copy()
    train[i, j] = np.nan
    return train, i, j, X[i, j]
