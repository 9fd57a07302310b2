"""Hiding entries and molecules: used by stopping rules that validate and by evaluation alike.

Every function takes a generator and returns new matrices; the input is left as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imputome.core.scales import is_integer
from imputome.errors import InputError

if TYPE_CHECKING:
    import scipy.sparse as sp

_PIECE = 2**20  # stored entries drawn at a time


def thin(X: sp.csr_array, keep: float, rng: np.random.Generator) -> tuple[sp.csr_array, sp.csr_array]:
    """Split molecules: each is kept with probability ``keep``, independently (binomial count splitting).

    Parameters
    ----------
    X : (n, G) ``csr_array`` of integer counts.

    Returns
    -------
    kept, rest : two ``csr_array`` that add up to X, without stored zeros.
    """
    counts = _molecules(X)
    return _divide(X, counts, rng.binomial(counts, keep))


def thin_overdispersed(
    X: sp.csr_array, keep: float, overdispersion: np.ndarray, rng: np.random.Generator
) -> tuple[sp.csr_array, sp.csr_array]:
    """Split molecules of overdispersed counts so that the two parts are independent (negative-binomial thinning).

    For x ~ NB(mean m, variance m + phi m^2) each entry draws its own share p ~ Beta(keep / phi, (1 - keep) / phi) and
    keeps Binomial(x, p) molecules. The parts are then independent NB of means keep m and (1 - keep) m with
    overdispersions phi / keep and phi / (1 - keep); phi -> 0 is `thin`, whose parts share the gamma draw of the
    entry and are correlated where phi > 0 (Neufeld et al. 2023, arXiv 2307.12985). A zero stays zero in both parts, so
    only stored entries are drawn.

    Parameters
    ----------
    X : (n, G) ``csr_array`` of integer counts.
    overdispersion : (G,) phi of each gene, not negative; 0 means Poisson.

    Returns
    -------
    kept, rest : two ``csr_array`` that add up to X, without stored zeros.
    """
    counts = _molecules(X)
    phi = np.asarray(overdispersion, dtype=np.float64)
    taken = np.empty_like(counts)
    for start in range(0, X.nnz, _PIECE):
        piece = slice(start, start + _PIECE)
        entry_phi = phi[X.indices[piece]]
        share = np.full(len(entry_phi), keep)
        wide = entry_phi > 1e-8  # below this the beta is a point to within rounding
        share[wide] = rng.beta(keep / entry_phi[wide], (1 - keep) / entry_phi[wide])
        taken[piece] = rng.binomial(counts[piece], share)
    return _divide(X, counts, taken)


def _molecules(X: sp.csr_array) -> np.ndarray:
    if not is_integer(X.data):
        raise InputError("molecules can only be split where counts are integers: pass the raw counts")
    return np.rint(X.data).astype(np.int64)


def _divide(X: sp.csr_array, counts: np.ndarray, taken: np.ndarray) -> tuple[sp.csr_array, sp.csr_array]:
    """The part that was taken and the rest, on the pattern of ``X``."""
    import scipy.sparse as sp

    parts = []
    for values in (taken, counts - taken):
        part = sp.csr_array((values.astype(X.dtype), X.indices, X.indptr), shape=X.shape, copy=True)
        part.eliminate_zeros()
        parts.append(part)
    return parts[0], parts[1]


def hide_entries(
    X: sp.csr_array, fraction: float, rng: np.random.Generator
) -> tuple[sp.csr_array, np.ndarray, np.ndarray, np.ndarray]:
    """Take a random share of the stored entries out of a sparse matrix.

    Returns
    -------
    train : ``csr_array`` without them.
    i, j, truth : rows, columns and values of the hidden entries.
    """
    hidden = np.zeros(X.nnz, dtype=bool)
    hidden[rng.choice(X.nnz, size=round(fraction * X.nnz), replace=False)] = True
    return take_out(X, hidden)


def take_out(X: sp.csr_array, hidden: np.ndarray) -> tuple[sp.csr_array, np.ndarray, np.ndarray, np.ndarray]:
    """Take chosen stored entries, a mask over ``X.data``, out of a sparse matrix; returns as `hide_entries`."""
    import scipy.sparse as sp

    chosen = np.flatnonzero(hidden)
    # a row index for each stored entry would be as large as the matrix: look up those of the hidden ones only
    rows = np.searchsorted(X.indptr, chosen, side="right") - 1
    stays = ~hidden
    kept_in_row = np.diff(X.indptr).astype(np.int64) - np.bincount(rows, minlength=X.shape[0])
    starts = np.concatenate([[0], np.cumsum(kept_in_row)]).astype(X.indptr.dtype)
    train = sp.csr_array((X.data[stays], X.indices[stays], starts), shape=X.shape)
    return train, rows, X.indices[chosen], X.data[chosen]


def hide_values(
    X: np.ndarray, fraction: float, rng: np.random.Generator, *, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Set a random share of the known (not NaN) values of a dense matrix to NaN; returns as `hide_entries`.

    ``among`` is a boolean mask like ``X``: only what is known and True there may be hidden, and the share is of these.
    """
    rows, columns = np.nonzero(~np.isnan(X) if among is None else among & ~np.isnan(X))
    chosen = np.sort(rng.choice(len(rows), size=round(fraction * len(rows)), replace=False))
    i, j = rows[chosen], columns[chosen]
    train = X.copy()
    train[i, j] = np.nan
    return train, i, j, X[i, j]
