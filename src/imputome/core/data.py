"""The input of a method: `Data`, which holds arrays and names, and `as_data`, which makes it from any matrix.

Letters: ``n`` cells (rows), ``G`` genes (columns), ``X`` the n x G input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.arrays import clean_csr, in_memory, out_of_range
from imputome.core.scales import is_integer
from imputome.core.stored import StoredCounts, stays_stored
from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["counts", "real"]

# real values of more features are worked on in blocks of features, and what is learned by trying is learned on a sample
WIDE_FEATURES = 20_000
SUM_BLOCK = 2**20  # stored values that a sum takes at a time
INFINITE = "the matrix holds infinite values: put finite values for them, or what is missing: 0 for counts, else NaN"


@dataclass(frozen=True)
class Data:
    """The input of a method: arrays and names, no AnnData. `as_data` makes it.

    Attributes
    ----------
    X : csr_array, StoredCounts or ndarray of shape (n, G)
        For ``kind="counts"`` a ``csr_array`` without stored zeros, or, if the counts are large and not in memory, a
        `imputome.core.stored.StoredCounts`; for ``"real"`` an ndarray with NaN for missing.
    kind : {"counts", "real"}
        Counts, in which a zero may be a dropout, or real values, in which NaN is missing.
    obs_names, var_names : pandas.Index
        Names of rows and columns, as text.
    observed : bool ndarray or csr_array of shape (n, G), optional
        True where the value is known. None means nonzero (counts) or not NaN (real). A mask may mark a zero count as
        known.
    covariates : pandas.DataFrame, optional
        Covariates of the cells, for the methods that use them.
    library_size : ndarray of shape (n,), optional
        Molecules per cell over *all* genes of the experiment. None means the row sums of ``X``. It defines the scales
        ``normalized`` and ``log1p``.
    bounds : tuple of float, default=(-inf, inf)
        Range of the real values; imputed values are clipped to it. It is (0, inf) if the input is never negative and
        (0, 1) if the input lies in [0, 1], as methylation beta values do.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.core.data import as_data
    >>> data = as_data(np.array([[0, 3], [1, 5]]), var_names=["CD3E", "CD19"])
    >>> data.kind, data.shape
    ('counts', (2, 2))
    >>> data.depth
    array([3., 6.])
    >>> per_cell, per_gene = data.observed_counts()
    >>> per_gene
    array([1, 2])
    """

    X: Any
    kind: Kind
    obs_names: pd.Index
    var_names: pd.Index
    observed: Any = None
    covariates: pd.DataFrame | None = None
    library_size: np.ndarray | None = None
    bounds: tuple[float, float] = (-np.inf, np.inf)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and genes."""
        return self.X.shape

    @property
    def in_memory(self) -> bool:
        """Whether the values are in memory; if not, ``X`` is a `imputome.core.stored.StoredCounts`."""
        return not isinstance(self.X, StoredCounts)

    @property
    def holds_integers(self) -> bool:
        """Whether all values are integers; for counts."""
        if isinstance(self.X, StoredCounts):
            return self.X.totals.integers
        return is_integer(self.X.data)

    def to_memory(self) -> Data:
        """The same with the values in memory.

        Returns
        -------
        Data
        """
        return self if self.in_memory else replace(self, X=self.X.to_memory())

    @property
    def depth(self) -> np.ndarray:
        """(n,) library sizes, float64: ``library_size``, or else the row sums of ``X``."""
        if self.library_size is not None:
            return self.library_size
        if isinstance(self.X, StoredCounts):
            return self.X.totals.per_row
        return np.asarray(self.X @ np.ones(self.shape[1]))

    @property
    def gene_totals(self) -> np.ndarray:
        """(G,) column sums of ``X``, in float64, because float32 sums lose molecules above 2^24."""
        if isinstance(self.X, np.ndarray):
            return np.asarray(self.X.sum(axis=0, dtype=np.float64))
        if isinstance(self.X, StoredCounts):
            return self.X.totals.per_column
        total = np.zeros(self.shape[1])
        for start in range(0, self.X.nnz, SUM_BLOCK):  # bincount copies what it is given to 64 bits
            part = slice(start, start + SUM_BLOCK)
            total += np.bincount(self.X.indices[part], weights=self.X.data[part], minlength=len(total))
        return total

    def observed_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of observed entries.

        Returns
        -------
        per_row : ndarray of int of shape (n,)
            In each row.
        per_column : ndarray of int of shape (G,)
            In each column.
        """
        known = self.observed
        if known is None and isinstance(self.X, StoredCounts):
            return self.X.totals.nonzero_per_row, self.X.totals.nonzero_per_column
        if known is None and self.kind == "counts":
            return np.diff(self.X.indptr), np.bincount(self.X.indices, minlength=self.shape[1])
        if known is None:
            known = ~np.isnan(self.X)
        rows = np.asarray(known.sum(axis=1)).ravel()
        columns = np.asarray(known.sum(axis=0)).ravel()
        return rows, columns

    def subset(self, *, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> Data:
        """Data of some rows and columns.

        Parameters
        ----------
        rows, columns : ndarray of int or bool, optional
            Positions or mask; None means all. ``library_size`` still counts the molecules of all genes.

        Returns
        -------
        Data
            With copies of these rows and columns.
        """
        i = slice(None) if rows is None else rows
        j = slice(None) if columns is None else columns

        def part(matrix: Any) -> Any:
            if isinstance(matrix, StoredCounts) and rows is None and columns is not None:
                matrix = matrix.to_memory()
            if isinstance(matrix, np.ndarray) and rows is not None and columns is not None:
                return matrix[np.ix_(rows, columns)]  # rows of all columns would be a copy of most of it
            if matrix is not None and rows is not None:  # a slice of a whole sparse matrix would be a copy
                matrix = matrix[rows]
            return matrix if matrix is None or columns is None else matrix[:, columns]

        return replace(
            self,
            X=part(self.X),
            obs_names=self.obs_names[i],
            var_names=self.var_names[j],
            observed=part(self.observed),
            covariates=None if self.covariates is None else self.covariates.iloc[i],
            library_size=None if self.library_size is None else self.library_size[i],
        )

    def known_values(self) -> np.ndarray:
        """Real values, with NaN wherever the value is not observed.

        Returns
        -------
        ndarray of shape (n, G)
            ``X`` itself if there is no mask ``observed``.
        """
        return self.X if self.observed is None else np.where(self.observed, self.X, np.nan)

    def block(self, rows: Any, genes: Any = None) -> np.ndarray:
        """Dense values of some rows and genes; NaN stays NaN.

        Parameters
        ----------
        rows : slice or ndarray of int
            Positions of rows.
        genes : ndarray of int, optional
            Positions of columns; None means all.

        Returns
        -------
        ndarray of shape (rows, genes)
            In the precision of ``X``.
        """
        part = self.X[rows]
        if not isinstance(part, np.ndarray):
            part = part.toarray() if genes is None else part[:, genes].toarray()
        elif genes is not None:
            part = part[:, genes]
        return np.asarray(part)

    def observed_block(self, rows: Any, genes: Any, values: np.ndarray) -> np.ndarray:
        """Mask of the observed entries of a block.

        Parameters
        ----------
        rows, genes : slice or ndarray of int
            As in `block`.
        values : ndarray of shape (rows, genes)
            What `block` returned for them.

        Returns
        -------
        bool ndarray of shape (rows, genes)
            True where the value is known.
        """
        if self.observed is None:
            return values != 0 if self.kind == "counts" else ~np.isnan(values)
        known = self.observed[rows]
        if not isinstance(known, np.ndarray):
            known = known.toarray()
        return np.asarray(known if genes is None else known[:, genes], dtype=bool)

    def entries(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Values of single entries; makes no dense matrix.

        Parameters
        ----------
        i, j : ndarray of int
            Rows and columns of the entries ``(i[k], j[k])``.

        Returns
        -------
        ndarray of shape (len(i),)
            In float64.
        """
        if isinstance(self.X, np.ndarray):
            return self.X[i, j].astype(np.float64)
        if isinstance(self.X, StoredCounts):
            rows, places = np.unique(i, return_inverse=True)
            return _sparse_entries(self.X[rows], places, j)
        return _sparse_entries(self.X, i, j)

    def observed_entries(self, i: np.ndarray, j: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Mask of the observed among single entries.

        Parameters
        ----------
        i, j : ndarray of int
            As in `entries`.
        values : ndarray of shape (len(i),)
            What `entries` returned for them.

        Returns
        -------
        bool ndarray of shape (len(i),)
            True where the value is known.
        """
        if self.observed is None:
            return values != 0 if self.kind == "counts" else ~np.isnan(values)
        if isinstance(self.observed, np.ndarray):
            return self.observed[i, j].astype(bool)
        return _sparse_entries(self.observed, i, j) != 0


def _sparse_entries(X: Any, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Entries ``(i, j)`` of a sparse matrix as a flat float64 array; no row is made dense."""
    import scipy.sparse as sp

    if len(i) == 0:
        return np.empty(0)
    # csr_matrix shares the arrays, and its index (i, j) returns all the values at once
    return np.asarray(sp.csr_matrix(X, copy=False)[i, j], dtype=np.float64).ravel()


def as_data(
    X: Any,
    *,
    kind: Kind | None = None,
    obs_names: Sequence[str] | None = None,
    var_names: Sequence[str] | None = None,
    observed: Any = None,
    covariates: pd.DataFrame | None = None,
    library_size: np.ndarray | None = None,
) -> Data:
    """Make `Data` from a matrix, check it, and convert it to the type that methods take.

    Parameters
    ----------
    X : array-like of shape (n, G), or Data
        Cells in rows: ndarray, sparse matrix, backed matrix, dask array or DataFrame. What is masked (``numpy.ma``),
        None or pandas.NA is missing: NaN, or with ``kind="counts"`` a masked entry is 0, which is not observed.
        `Data` is returned as it is.
    kind : {"counts", "real"}, optional
        None means ``"real"`` if the matrix holds NaN or negative values that are not integers, and ``"counts"`` if it
        holds integers. Other values without NaN are refused: whether a zero is missing cannot be told from them.
    obs_names, var_names : sequence of str, optional
        Names of cells and genes. None means those of a DataFrame, or else positions.
    observed, covariates, library_size
        See `Data`.

    Returns
    -------
    Data

    Raises
    ------
    InputError
        Negative or infinite counts, NaN in counts, infinite real values, an empty matrix, or names, a mask or library
        sizes that do not fit the matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.core.data import as_data
    >>> as_data(np.array([[0, 3], [1, 5]])).kind
    'counts'
    >>> beta = as_data(np.array([[0.1, np.nan], [0.7, 0.2]]))
    >>> beta.kind, beta.bounds
    ('real', (0.0, 1.0))
    """
    import scipy.sparse as sp

    if isinstance(X, Data):
        return X
    if hasattr(X, "iloc"):
        obs_names = X.index if obs_names is None else obs_names
        var_names = X.columns if var_names is None else var_names
    if kind == "counts" and isinstance(X, np.ma.MaskedArray):
        X = X.filled(0)
    if kind == "counts" and observed is None and stays_stored(X):
        X = StoredCounts(X)
    if isinstance(X, StoredCounts):
        return _stored_data(X, obs_names, var_names, covariates, library_size)
    array = in_memory(X)
    n, G = array.shape
    if n == 0 or G == 0:
        raise InputError(f"the matrix is empty ({n} cells x {G} genes)", code="empty-matrix")
    values = array.data if sp.issparse(array) else array
    if np.isinf(values).any():
        raise InputError(INFINITE, code="infinite-values")
    limits = [float(each.reduce(values, axis=None)) for each in (np.fmin, np.fmax)] if values.size else [0.0, 0.0]
    if problem := out_of_range(*limits):
        raise InputError(f"the matrix {problem}", code="values-out-of-range")
    kind = _kind_of(values) if kind is None else kind
    if kind == "counts":
        _check_counts(*limits, has_nan=bool(np.isnan(values).any()))
        array = clean_csr(array)
    else:
        dense = array.toarray() if sp.issparse(array) else array
        array = dense if dense.dtype == np.float32 else dense.astype(np.float64, copy=False)
    bounds = (-np.inf, np.inf)
    if kind == "real" and not np.isnan(array).all() and np.nanmin(array) >= 0:
        bounds = (0.0, 1.0 if np.nanmax(array) <= 1 else np.inf)
    if observed is not None:
        observed = _mask(observed, (n, G), dense=kind == "real")
        if kind == "real":
            observed = observed & ~np.isnan(array)
    if library_size is not None:
        library_size = np.asarray(library_size, dtype=np.float64)
        _check_library(library_size, np.diff(array.indptr) > 0 if kind == "counts" else np.zeros(n, dtype=bool))
    return Data(
        X=array,
        kind=kind,
        obs_names=_names(obs_names, n, "cells"),
        var_names=_names(var_names, G, "genes"),
        observed=observed,
        covariates=covariates,
        library_size=library_size,
        bounds=bounds,
    )


def _stored_data(
    X: StoredCounts, obs_names: Any, var_names: Any, covariates: Any, library_size: np.ndarray | None
) -> Data:
    """`Data` of counts that are not in memory; the whole matrix is read once, to check it."""
    n, G = X.shape
    if n == 0 or G == 0:
        raise InputError(f"the matrix is empty ({n} cells x {G} genes)", code="empty-matrix")
    _check_counts(X.totals.minimum, X.totals.maximum, has_nan=X.totals.has_nan)
    if library_size is not None:
        library_size = np.asarray(library_size, dtype=np.float64)
        _check_library(library_size, X.totals.nonzero_per_row > 0)
    names = _names(obs_names, n, "cells"), _names(var_names, G, "genes")
    return Data(X, "counts", *names, covariates=covariates, library_size=library_size)


def _check_counts(minimum: float, maximum: float, *, has_nan: bool) -> None:
    """Refuse what counts cannot be; ``minimum`` and ``maximum`` are those of the stored values."""
    if has_nan:
        text = "the matrix holds NaN, which counts cannot: put 0 for them, or, if these are real values, pass {kind} "
        text += "(to a model when it is fitted)"
        raise InputError(text, code="nan-in-counts", kind="real")
    if np.isinf([minimum, maximum]).any() and minimum <= maximum:
        raise InputError(INFINITE, code="infinite-values")
    if minimum <= maximum and (problem := out_of_range(minimum, maximum)):
        raise InputError(f"the matrix {problem}", code="values-out-of-range")
    if minimum < 0:
        text = f"counts cannot be negative (minimum {minimum:g}): pass the raw counts, not scaled values"
        raise InputError(text, code="negative-counts")


def _check_library(library_size: np.ndarray, has_counts: np.ndarray) -> None:
    """Refuse library sizes that do not fit cells of which some have counts."""
    n = len(has_counts)
    if library_size.shape != (n,):
        problem = f"has shape {library_size.shape}: pass one number for each of the {n} cells"
    elif not np.isfinite(library_size).all() or (library_size < 0).any() or (library_size[has_counts] == 0).any():
        problem = "must be finite, never negative, and above 0 for every cell with counts"
    else:
        return
    raise InputError(f"library_size {problem}", code="library-size", parameter="library_size")


def _kind_of(values: np.ndarray) -> Kind:
    """The kind of values for which none was given, where they show it."""
    if np.isnan(values).any():
        return "real"
    if values.dtype.kind != "f" or not values.size or is_integer(values):
        return "counts"
    if values.min() < 0:
        return "real"
    text = (
        "the values are no integers and none is NaN, so it is not clear what is missing: pass {kind}, either counts if "
    )
    raise InputError(f"{text}zeros are missing, or real if only NaN is", code="kind-unclear", kind=...)


def _mask(observed: Any, shape: tuple[int, int], *, dense: bool) -> Any:
    """The mask as a boolean ndarray, or as a ``csr_array`` that stores only True."""
    import scipy.sparse as sp

    if sp.issparse(observed):
        observed = sp.csr_array(observed).astype(bool)
        observed.eliminate_zeros()
        observed = observed.toarray() if dense else observed
    else:
        observed = np.asarray(observed, dtype=bool)
    if observed.shape != shape:
        text = f"observed has shape {observed.shape}, the matrix {shape}: pass a mask of the same shape"
        raise InputError(text, code="mask-shape", parameter="observed")
    return observed


def _names(names: Any, size: int, what: str) -> pd.Index:
    """Names as text, because a saved model stores text; positions where there are no names."""
    import pandas as pd

    index = pd.RangeIndex(size) if names is None else pd.Index(names)
    if len(index) != size:
        raise InputError(f"there are {size} {what} but {len(index)} names: pass one name each", code="name-count")
    return index.astype(str)
