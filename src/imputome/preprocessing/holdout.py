"""Hiding entries and molecules: used by stopping rules that validate and by evaluation alike.

Every function takes a generator and returns new matrices; the input is left as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imputome.errors import InputError
from imputome.preprocessing.counts import is_integer

if TYPE_CHECKING:
    import scipy.sparse as sp


def thin(X: sp.csr_array, keep: float, rng: np.random.Generator) -> tuple[sp.csr_array, sp.csr_array]:
    """Split molecules: each is kept with probability ``keep``, independently (binomial count splitting).

    Parameters
    ----------
    X : (n, G) ``csr_array`` of integer counts.

    Returns
    -------
    kept, rest : two ``csr_array`` that add up to X, without stored zeros.
    """
    import scipy.sparse as sp

    if not is_integer(X.data):
        raise InputError("molecules can only be split where counts are integers: pass the raw counts")
    counts = np.rint(X.data).astype(np.int64)
    taken = rng.binomial(counts, keep)
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
    import scipy.sparse as sp

    hidden = np.zeros(X.nnz, dtype=bool)
    hidden[rng.choice(X.nnz, size=round(fraction * X.nnz), replace=False)] = True
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    stays = ~hidden
    starts = np.concatenate([[0], np.cumsum(stays)])[X.indptr]
    train = sp.csr_array((X.data[stays], X.indices[stays], starts.astype(X.indptr.dtype)), shape=X.shape)
    return train, rows[hidden], X.indices[hidden], X.data[hidden]


def hide_values(
    X: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Set a random share of the known (not NaN) values of a dense matrix to NaN; returns as `hide_entries`."""
    rows, columns = np.nonzero(~np.isnan(X))
    chosen = np.sort(rng.choice(len(rows), size=round(fraction * len(rows)), replace=False))
    i, j = rows[chosen], columns[chosen]
    train = X.copy()
    train[i, j] = np.nan
    return train, i, j, X[i, j]
