"""Compressed sparse matrices (CSR, CSC) whose arrays contradict each other, found before anything uses them.

SciPy believes these arrays: a pointer that goes back or an index out of range makes it read and write memory of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from imputome.errors import InputError, Message

AXES = ("layers", "obsm", "varm", "obsp", "varp")


def check_sparse(data: Any, of: str = "") -> None:
    """Refuse a sparse matrix, or an AnnData with one, whose arrays contradict each other.

    ``of`` follows the name of the matrix in the message. Cost: two passes over the indices. What is backed by a file,
    and views, which are made when they are asked for, are not looked at.
    """
    for name, X in _compressed(data):
        major, minor = X.shape if X.format == "csr" else X.shape[::-1]
        # SciPy's own matrices may have room for more values than they hold
        problem = pointer_problem(X.indptr, major, len(X.indices), len(X.data), exact=False)
        problem = problem or index_problem(X.indices[: X.indptr[-1]], minor)
        if problem:
            raise contradiction(name + of, problem)


def contradiction(name: str, problem: str) -> InputError:
    """The error for the matrix ``name``."""
    text = f"{name} is damaged, {problem}: which values are whose is not known, so get it, or write it, again"
    return InputError(text, code="damaged-matrix")


def pointer_problem(indptr: np.ndarray, major: int, n_indices: int, n_values: int, *, exact: bool = True) -> str:
    """What is wrong with the pointers of ``major`` rows (or columns); empty if nothing is.

    ``exact`` is whether they have to account for every value.
    """
    if indptr.ndim != 1 or indptr.dtype.kind not in "iu":
        return f"its indptr holds no whole numbers ({indptr.dtype})"
    if len(indptr) != major + 1:
        return f"its indptr has {len(indptr):,} entries where its shape needs {major + 1:,}"
    if n_indices != n_values:
        return f"it has {n_values:,} values and {n_indices:,} indices"
    if indptr[0] != 0:
        return f"its indptr begins with {indptr[0]}, not 0"
    if (indptr[1:] < indptr[:-1]).any():
        return f"its indptr goes back after entry {int((indptr[1:] < indptr[:-1]).argmax())}"
    if indptr[-1] > n_values or (exact and indptr[-1] != n_values):
        return f"its indptr accounts for {indptr[-1]:,} values and it has {n_values:,}"
    return ""


def index_problem(indices: np.ndarray, minor: int) -> str:
    """What is wrong with indices that have to be below ``minor``; empty if nothing is."""
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        return f"its indices are no whole numbers ({indices.dtype})"
    if len(indices) and (indices.min() < 0 or indices.max() >= minor):
        return f"its indices go from {indices.min()} to {indices.max()} where 0 to {minor - 1} can be"
    return ""


def _compressed(data: Any) -> Iterator[tuple[str, Any]]:
    """The compressed matrices of an AnnData with their names, or the matrix itself."""
    import scipy.sparse as sp

    parts = [("the matrix", data)]
    if hasattr(data, "obs_names") and hasattr(data, "layers"):
        if getattr(data, "is_view", False) or getattr(data, "isbacked", False):
            return
        parts = [("X", data.X), *([] if data.raw is None else [("raw.X", data.raw.X)])]
        parts += [(f"{axis}[{name!r}]", X) for axis in AXES for name, X in getattr(data, axis).items()]
    yield from ((name, X) for name, X in parts if sp.issparse(X) and X.format in ("csr", "csc"))


def repeated_entries(number: int, name: str) -> Message:
    """The warning that some entries of a sparse matrix are stored more than once."""
    text = f"{number:,} entries of {name} repeat others, and their values are added up: if they are copies of the same "
    return Message(f"{text}values, remove them", code="repeated-entries")
