"""Hold out entries or molecules, for stopping rules that validate and for evaluation.

Every function takes a random generator and returns new matrices; the input does not change. ``X`` is n x G.
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
    """Split molecules of integer counts: each is kept with probability ``keep``, independently (count splitting).

    Returns the kept molecules and the rest, which add up to ``X``, without stored zeros.
    """
    counts = _molecules(X)
    return _divide(X, counts, rng.binomial(counts, keep))


def thin_overdispersed(
    X: sp.csr_array, keep: float, overdispersion: np.ndarray, rng: np.random.Generator
) -> tuple[sp.csr_array, sp.csr_array]:
    """Split molecules of overdispersed counts into independent parts (negative-binomial thinning); returns as `thin`.

    ``keep`` is the mean share to keep, ``overdispersion`` the phi of each gene, (G,), 0 or more; 0 means Poisson.
    For x ~ NB(mean m, variance m + phi m^2) each entry draws its own share p ~ Beta(keep / phi, (1 - keep) / phi) and
    keeps Binomial(x, p) molecules. The parts are then independent NB with means keep m and (1 - keep) m and
    overdispersions phi / keep and phi / (1 - keep). For phi -> 0 this is `thin`; for phi > 0 the parts of `thin` are
    correlated, because they share the gamma draw of the entry (Neufeld et al. 2023, arXiv 2307.12985). A zero stays
    zero in both parts, so only stored entries are drawn.
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
    """Remove a random share of the stored entries (also zeros); returns the rest, and i, j and values of the hidden."""
    hidden = np.zeros(X.nnz, dtype=bool)
    hidden[rng.choice(X.nnz, size=round(fraction * X.nnz), replace=False)] = True
    return take_out(X, hidden)


def take_out(X: sp.csr_array, hidden: np.ndarray) -> tuple[sp.csr_array, np.ndarray, np.ndarray, np.ndarray]:
    """Remove the stored entries where ``hidden``, (nnz,), is True; returns as `hide_entries`."""
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
    """Set a random share of the known values to NaN; returns the new matrix, and i, j and values of the hidden ones.

    With ``among``, an (n, G) mask, only values where it is True can be hidden, and ``fraction`` is the share of these.
    """
    rows, columns = np.nonzero(~np.isnan(X) if among is None else among & ~np.isnan(X))
    chosen = np.sort(rng.choice(len(rows), size=round(fraction * len(rows)), replace=False))
    i, j = rows[chosen], columns[chosen]
    train = X.copy()
    train[i, j] = np.nan
    return train, i, j, X[i, j]
