"""The input of a method: `Data`, which holds arrays and names, and `as_data`, which makes it from any matrix.

Letters: ``n`` cells (rows), ``G`` genes (columns), ``X`` the n x G input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.compressed import check_sparse
from imputome.core.scales import is_integer
from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp

Kind = Literal["counts", "real"]

# real values of more features are worked on in blocks of features, and what is learned by trying is learned on a sample
WIDE_FEATURES = 20_000
SUM_BLOCK = 2**20  # stored values that a sum takes at a time


@dataclass(frozen=True)
class Data:
    """The input of a method: arrays and names, no AnnData. `as_data` makes it.

    Attributes
    ----------
    X : csr_array or ndarray of shape (n, G)
        For ``kind="counts"`` a ``csr_array`` without stored zeros; for ``"real"`` an ndarray with NaN for missing.
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
    def depth(self) -> np.ndarray:
        """(n,) library sizes, float64: ``library_size``, or else the row sums of ``X``."""
        if self.library_size is not None:
            return self.library_size
        return np.asarray(self.X @ np.ones(self.shape[1]))

    @property
    def gene_totals(self) -> np.ndarray:
        """(G,) column sums of ``X``, in float64, because float32 sums lose molecules above 2^24."""
        if isinstance(self.X, np.ndarray):
            return np.asarray(self.X.sum(axis=0, dtype=np.float64))
        total = np.zeros(self.shape[1])
        for start in range(0, self.X.nnz, SUM_BLOCK):  # bincount copies what it is given to 64 bits
            part = slice(start, start + SUM_BLOCK)
            total += np.bincount(self.X.indices[part], weights=self.X.data[part], minlength=len(total))
        return total

    def observed_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of observed entries in each row, (n,), and in each column, (G,)."""
        known = self.observed
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
        """
        i = slice(None) if rows is None else rows
        j = slice(None) if columns is None else columns

        def part(matrix: Any) -> Any:
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
        """(n, G) real values with NaN wherever the value is not observed."""
        return self.X if self.observed is None else np.where(self.observed, self.X, np.nan)

    def block(self, rows: Any, genes: Any = None) -> np.ndarray:
        """Dense (rows, genes) values in the precision of ``X``; ``genes=None`` means all; NaN stays NaN."""
        part = self.X[rows]
        if not isinstance(part, np.ndarray):
            part = part.toarray() if genes is None else part[:, genes].toarray()
        elif genes is not None:
            part = part[:, genes]
        return np.asarray(part)

    def observed_block(self, rows: Any, genes: Any, values: np.ndarray) -> np.ndarray:
        """Mask of the observed entries of ``values``, which `block` returned for these rows and genes."""
        if self.observed is None:
            return values != 0 if self.kind == "counts" else ~np.isnan(values)
        known = self.observed[rows]
        if not isinstance(known, np.ndarray):
            known = known.toarray()
        return np.asarray(known if genes is None else known[:, genes], dtype=bool)

    def entries(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Values of the entries ``(i[k], j[k])``, flat, float64; makes no dense matrix."""
        if isinstance(self.X, np.ndarray):
            return self.X[i, j].astype(np.float64)
        return _sparse_entries(self.X, i, j)

    def observed_entries(self, i: np.ndarray, j: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Mask of the observed entries of ``values``, which `entries` returned for these positions."""
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


def in_memory(X: Any) -> Any:
    """Load an array, DataFrame, sparse, backed or h5py matrix, or dask array into memory, as ndarray or csr_array.

    The values are numbers in the byte order of the machine, in a type that NumPy and SciPy can compute with. What is
    masked (``numpy.ma``), None or pandas.NA becomes NaN. Anything else than numbers is an `InputError`.
    """
    import scipy.sparse as sp

    check_container(X)
    if hasattr(X, "to_memory"):  # anndata's backed sparse matrices
        X = X.to_memory()
        check_sparse(X)
    if hasattr(X, "dask") and hasattr(X, "compute"):
        X = X.compute()
        check_sparse(X)
    if not sp.issparse(X) and not hasattr(X, "iloc") and not isinstance(X, np.ndarray):
        X = as_array(X[()] if hasattr(X, "file") else X)  # [()] reads an h5py dataset
    if len(X.shape) != 2:
        text = f"the input must be a matrix of cells x genes, not an array of shape {tuple(X.shape)}"
        raise InputError(text, code="not-a-matrix")
    problem = not_numbers(X)
    if problem:
        raise InputError(f"the matrix {problem}", code="not-numeric")
    if hasattr(X, "iloc"):
        X = _of_columns(X)
    if not sp.issparse(X):
        return _of_array(X)
    dtype = _computable(X.dtype)
    if X.format in ("csr", "csc"):  # SciPy cannot convert all the types that a file can have
        X = type(X)((X.data.astype(dtype, copy=False), X.indices, X.indptr), shape=X.shape)
    else:
        X = X.astype(dtype)  # before duplicates are summed, which could exceed small integers
    return sp.csr_array(X)


def check_container(X: Any) -> None:
    """Refuse what names a matrix or holds several (MuData), and sparse matrices that contradict themselves."""
    if X is None:
        raise InputError("there are no data (None): pass a matrix or an AnnData", code="no-matrix")
    if isinstance(X, str | PathLike):
        call = "anndata.read_h5ad(path)"
        if not str(X).endswith(".h5ad"):
            call = "read(path) from imputome.io.reading (a table needs genes_in='rows' or genes_in='columns' too)"
        text = f"{str(X)!r} is the path of a file, not data: read it first, with {call}"
        raise InputError(text, code="path-instead-of-data")
    check_sparse(X)
    modalities = getattr(X, "mod", None)
    if isinstance(modalities, Mapping) and modalities:
        name = next((name for name in modalities if str(name).lower() in ("rna", "gex")), next(iter(modalities)))
        text = f"the data hold {len(modalities)} modalities ({', '.join(map(str, modalities))}): pass one of them"
        raise InputError(f"{text}, such as mdata[{name!r}]", code="several-modalities")


def out_of_range(minimum: float, maximum: float) -> str:
    """What is wrong with values between these whose size single precision cannot hold, and what to do; else empty.

    Methods compute in it and results are written in it; squares of much larger values are infinite in any precision.
    """
    largest, single = max(-minimum, maximum), np.finfo(np.float32)
    if not (largest > float(single.max) or 0 < largest < float(single.tiny)):
        return ""
    text = f"holds values {'up to' if largest > 1 else 'of at most'} {largest:.3g}"
    return f"{text}, which single precision cannot hold: multiply all values by a power of ten"


def not_numbers(X: Any) -> str:
    """What is wrong with a matrix that holds something else than real numbers, and what to do; empty for numbers."""
    if hasattr(X, "iloc"):
        columns = [str(name) for name, column in X.items() if _kind(column) != "numbers"]
        if not columns:
            return ""
        some = ", ".join(columns[:3]) + (", ..." if len(columns) > 3 else "")
        return f"has columns without numbers ({some}): remove them or make them the index"
    kind = _kind(X)
    if kind == "complex numbers":
        return "holds complex numbers: pass their real parts or their absolute values"
    return "" if kind == "numbers" else f"holds {kind} ({X.dtype}): convert them to numbers"


def _kind(values: Any) -> str:
    """What an array, sparse matrix or column of a DataFrame holds, in words."""
    from pandas.api.types import infer_dtype, is_numeric_dtype

    dtype = values.dtype
    kind = getattr(dtype, "numpy_dtype", dtype).kind if is_numeric_dtype(dtype) else getattr(dtype, "kind", "O")
    if kind == "O" and (isinstance(values, np.ndarray) or dtype == "object"):
        inferred = infer_dtype(np.ravel(np.asarray(values, dtype=object)), skipna=True)
        numbers = ("integer", "floating", "mixed-integer-float", "boolean", "decimal", "empty")
        return "numbers" if inferred in numbers else "text" if inferred == "string" else "objects"
    words = {"c": "complex numbers", "M": "dates", "m": "time differences", "U": "text", "S": "text", "T": "text"}
    return "numbers" if kind in "biuf" else words.get(kind, "objects")


def as_array(X: Any) -> np.ndarray:
    """Nested lists and the like as an array."""
    try:
        return np.asanyarray(X)  # a masked array stays one
    except (ValueError, TypeError) as error:
        text = f"the input is no matrix of numbers ({type(X).__name__}): pass an array of cells x genes"
        raise InputError(text, code="not-a-matrix") from error


def _of_columns(X: pd.DataFrame) -> Any:
    """The values of a DataFrame of numbers; of a sparse one as a sparse matrix."""
    if all(hasattr(dtype, "fill_value") for dtype in X.dtypes):
        return X.sparse.to_coo() if all(dtype.fill_value == 0 for dtype in X.dtypes) else X.sparse.to_dense().to_numpy()
    if (X.dtypes == "object").any():
        return X.to_numpy(dtype=object)
    dtype = np.result_type(*{getattr(dtype, "numpy_dtype", dtype) for dtype in X.dtypes}) if X.shape[1] else np.float64
    if all(isinstance(each, np.dtype) for each in X.dtypes):
        return X.to_numpy(dtype=dtype)
    return X.to_numpy(dtype=dtype if np.dtype(dtype).kind == "f" else np.float64, na_value=np.nan)


def _of_array(X: Any) -> np.ndarray:
    """An array of numbers as a plain one: NaN where a value is masked or no number."""
    if X.dtype == object:
        import pandas as pd

        values = np.full(X.shape, np.nan)
        known = ~pd.isna(np.ma.getdata(X)) & ~np.ma.getmaskarray(X)
        values[known] = np.ma.getdata(X)[known].astype(np.float64)
        return values
    if isinstance(X, np.ma.MaskedArray):
        if X.dtype.kind != "f" and np.ma.is_masked(X):
            X = X.astype(np.float64)
        X = np.where(np.ma.getmaskarray(X), X.dtype.type(np.nan), X.data) if np.ma.is_masked(X) else X.data
    return np.asarray(X).astype(_computable(X.dtype), copy=False)


def _computable(dtype: np.dtype) -> np.dtype:
    """The type to compute with: float32 for half precision and small integers, no more than float64, native order."""
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")


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
    array = in_memory(X)
    n, G = array.shape
    if n == 0 or G == 0:
        raise InputError(f"the matrix is empty ({n} cells x {G} genes)", code="empty-matrix")
    values = array.data if sp.issparse(array) else array
    if np.isinf(values).any():
        text = (
            "the matrix holds infinite values: put finite values for them, or what is missing: 0 for counts, else NaN"
        )
        raise InputError(text, code="infinite-values")
    limits = [float(each.reduce(values, axis=None)) for each in (np.fmin, np.fmax)] if values.size else [0.0, 0.0]
    if problem := out_of_range(*limits):
        raise InputError(f"the matrix {problem}", code="values-out-of-range")
    kind = _kind_of(values) if kind is None else kind
    if kind == "counts":
        if np.isnan(values).any():
            text = (
                "the matrix holds NaN, which counts cannot: put 0 for them, or, if these are real values, pass {kind} "
            )
            text += "(to a model when it is fitted)"
            raise InputError(text, code="nan-in-counts", kind="real")
        if values.size and values.min() < 0:
            text = f"counts cannot be negative (minimum {values.min():g}): pass the raw counts, not scaled values"
            raise InputError(text, code="negative-counts")
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
        has_counts = np.diff(array.indptr) > 0 if kind == "counts" else np.zeros(n, dtype=bool)
        if library_size.shape != (n,):
            problem = f"has shape {library_size.shape}: pass one number for each of the {n} cells"
        elif not np.isfinite(library_size).all() or (library_size < 0).any() or (library_size[has_counts] == 0).any():
            problem = "must be finite, never negative, and above 0 for every cell with counts"
        else:
            problem = ""
        if problem:
            raise InputError(f"library_size {problem}", code="library-size", parameter="library_size")
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


def clean_csr(X: Any) -> sp.csr_array:
    """A floating-point ``csr_array`` with sorted indices, no duplicates and no stored zeros; copies only if it must."""
    import scipy.sparse as sp

    csr = sp.csr_array(X)
    if csr.dtype.kind != "f":
        csr = csr.astype(np.float32 if csr.nnz == 0 or csr.data.max() < 2**24 else np.float64)
    if not csr.has_canonical_format or (csr.nnz and not csr.data.all()):
        csr = csr.copy()  # the next two lines work in place
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr
