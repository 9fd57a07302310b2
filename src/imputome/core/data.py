"""What a method is given: arrays and names (`Data`), made from any kind of matrix by `as_data`.

Letters: ``n`` cells (rows), ``G`` genes (columns), ``X`` the n x G input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp

Kind = Literal["counts", "real"]


@dataclass(frozen=True)
class Data:
    """What a method sees: arrays and names, no AnnData.

    Attributes
    ----------
    X : (n, G) ``csr_array`` without stored zeros for ``kind="counts"``, ndarray with NaN for missing for ``"real"``.
    kind : ``"counts"`` or ``"real"``.
    obs_names, var_names : names of rows and columns.
    observed : (n, G) boolean array or sparse matrix, True where the value is known; None means nonzero (counts)
        or not NaN (real). An explicit mask may mark a zero count as known.
    covariates : per-cell covariates for the methods that use them.
    library_size : (n,) molecules per cell over *all* genes of the experiment; None means the row sums of ``X``.
        It defines the scales ``normalized`` and ``log1p``.
    bounds : range that real values cannot leave: no imputed value is below 0 where the input never is, nor outside
        [0, 1] where the input never is (methylation beta values).
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
        return self.X.shape

    @property
    def depth(self) -> np.ndarray:
        """(n,) library size of each cell, float64: as given, else the row sums of ``X``."""
        if self.library_size is not None:
            return self.library_size
        return np.asarray(self.X @ np.ones(self.shape[1]))

    @property
    def gene_totals(self) -> np.ndarray:
        """(G,) column sums of ``X``, float64; summed in float32 they would lose molecules above 2^24."""
        if isinstance(self.X, np.ndarray):
            return np.asarray(self.X.sum(axis=0, dtype=np.float64))
        return np.bincount(self.X.indices, weights=self.X.data, minlength=self.shape[1])

    def observed_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of observed entries per row (n,) and per column (G,)."""
        known = self.observed
        if known is None and self.kind == "counts":
            return np.diff(self.X.indptr), np.bincount(self.X.indices, minlength=self.shape[1])
        if known is None:
            known = ~np.isnan(self.X)
        rows = np.asarray(known.sum(axis=1)).ravel()
        columns = np.asarray(known.sum(axis=0)).ravel()
        return rows, columns

    def subset(self, *, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> Data:
        """Some rows and columns, by position; a library size that was given stays that of all genes."""
        i = slice(None) if rows is None else rows
        j = slice(None) if columns is None else columns

        def part(matrix: Any) -> Any:
            if matrix is not None and rows is not None:
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
        """Real values, NaN wherever they are not observed."""
        return self.X if self.observed is None else np.where(self.observed, self.X, np.nan)

    def block(self, rows: Any, genes: Any = None) -> np.ndarray:
        """Dense values of some rows and genes, in the precision of ``X``; NaN stays NaN."""
        part = self.X[rows]
        if not isinstance(part, np.ndarray):
            part = part.toarray() if genes is None else part[:, genes].toarray()
        elif genes is not None:
            part = part[:, genes]
        return np.asarray(part)

    def observed_block(self, rows: Any, genes: Any, values: np.ndarray) -> np.ndarray:
        """Boolean mask of the observed among ``values = block(rows, genes)``."""
        if self.observed is None:
            return values != 0 if self.kind == "counts" else ~np.isnan(values)
        known = self.observed[rows]
        if not isinstance(known, np.ndarray):
            known = known.toarray()
        return np.asarray(known if genes is None else known[:, genes], dtype=bool)

    def entries(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Values of the entries ``(i, j)``, float64, without a dense matrix."""
        if isinstance(self.X, np.ndarray):
            return self.X[i, j].astype(np.float64)
        return sparse_entries(self.X, i, j)

    def observed_entries(self, i: np.ndarray, j: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Boolean mask of the observed among ``values = entries(i, j)``."""
        if self.observed is None:
            return values != 0 if self.kind == "counts" else ~np.isnan(values)
        if isinstance(self.observed, np.ndarray):
            return self.observed[i, j].astype(bool)
        return sparse_entries(self.observed, i, j) != 0


def sparse_entries(X: Any, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Entries ``(i, j)`` of a sparse matrix as a flat float64 array (no dense row is made)."""
    import scipy.sparse as sp

    if len(i) == 0:
        return np.empty(0)
    # the matrix class shares the arrays and still has vectorised sampling that returns flat values
    return np.asarray(sp.csr_matrix(X, copy=False)[i, j], dtype=np.float64).ravel()


def in_memory(X: Any) -> Any:
    """An ndarray or ``csr_array`` from anything array-like: ndarray, sparse, backed AnnData matrix, h5py or dask."""
    import scipy.sparse as sp

    if hasattr(X, "to_memory"):  # anndata's backed sparse matrices
        X = X.to_memory()
    if hasattr(X, "dask") and hasattr(X, "compute"):
        X = X.compute()
    if sp.issparse(X):
        return sp.csr_array(X)
    if hasattr(X, "iloc"):
        X = X.to_numpy()
    array = np.asarray(X[()] if hasattr(X, "file") else X)  # [()] reads an h5py dataset
    if array.ndim != 2:
        raise InputError(f"a matrix of cells x genes is needed, not an array of shape {array.shape}")
    if array.dtype == object or array.dtype.kind in "US":
        raise InputError(f"the matrix holds {array.dtype} values, not numbers: convert it first")
    return array


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
    """Wrap an array, sparse matrix, backed matrix, dask array or DataFrame into `Data`.

    Parameters
    ----------
    X : (n, G) matrix, cells in rows.
    kind : ``"counts"`` or ``"real"``; None takes ``"real"`` where a NaN is found and ``"counts"`` otherwise.

    Raises
    ------
    InputError
        Negative or infinite counts, NaN in counts, infinite real values, an empty matrix.
    """
    import scipy.sparse as sp

    if isinstance(X, Data):
        return X
    if hasattr(X, "iloc"):  # a DataFrame brings its names
        obs_names = X.index if obs_names is None else obs_names
        var_names = X.columns if var_names is None else var_names
    array = in_memory(X)
    n, G = array.shape
    if n == 0 or G == 0:
        raise InputError(f"the matrix is empty ({n} cells x {G} genes)")
    values = array.data if sp.issparse(array) else array
    if kind is None:
        kind = "real" if np.isnan(values).any() else "counts"
    if np.isinf(values).any():
        raise InputError("the matrix holds infinite values: replace them by NaN or by a finite value first")
    if kind == "counts":
        if np.isnan(values).any():
            raise InputError('the matrix holds NaN: for real-valued data with missing values pass kind="real"')
        if values.size and values.min() < 0:
            raise InputError(
                f"counts cannot be negative (minimum {values.min():g}): is this a scaled matrix? Pass the raw counts"
            )
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
        if library_size.shape != (n,):
            raise InputError(f"library_size has shape {library_size.shape}; one number for each of {n} cells is needed")
        filled = np.diff(array.indptr) > 0 if kind == "counts" else np.zeros(n, dtype=bool)
        if not np.isfinite(library_size).all() or (library_size < 0).any() or (library_size[filled] == 0).any():
            raise InputError("library_size must be finite, not negative, and positive for every cell with counts")
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


def _mask(observed: Any, shape: tuple[int, int], *, dense: bool) -> Any:
    """A boolean mask: ndarray, or ``csr_array`` that stores nothing but True."""
    import scipy.sparse as sp

    if sp.issparse(observed):
        observed = sp.csr_array(observed).astype(bool)
        observed.eliminate_zeros()
        observed = observed.toarray() if dense else observed
    else:
        observed = np.asarray(observed, dtype=bool)
    if observed.shape != shape:
        raise InputError(f"the mask of observed values has shape {observed.shape}, the matrix {shape}")
    return observed


def _names(names: Any, size: int, what: str) -> pd.Index:
    """Names as text: numbers would not survive a saved model."""
    import pandas as pd

    index = pd.RangeIndex(size) if names is None else pd.Index(names)
    if len(index) != size:
        raise InputError(f"{len(index)} names were given for {size} {what}")
    return index.astype(str)


def clean_csr(X: Any) -> sp.csr_array:
    """A floating-point ``csr_array`` with sorted indices, no duplicates and no stored zeros; copies only if needed."""
    import scipy.sparse as sp

    csr = sp.csr_array(X)
    if csr.dtype.kind != "f":
        csr = csr.astype(np.float32 if csr.nnz == 0 or csr.data.max() < 2**24 else np.float64)
    if not csr.has_canonical_format or (csr.nnz and not csr.data.all()):
        csr = csr.copy()  # what is sorted and dropped below is done in place
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr
