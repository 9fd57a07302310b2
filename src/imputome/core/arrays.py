"""Any matrix as an array in memory: ndarray or ``csr_array``, of numbers that NumPy and SciPy can compute with."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.compressed import check_sparse
from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp


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
    modalities = getattr(X, "mod", None)
    if isinstance(modalities, Mapping) and modalities:
        name = next((name for name in modalities if str(name).lower() in ("rna", "gex")), next(iter(modalities)))
        text = f"the data hold {len(modalities)} modalities ({', '.join(map(str, modalities))}): pass one of them"
        raise InputError(f"{text}, such as mdata[{name!r}]", code="several-modalities")
    check_sparse(X)


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
