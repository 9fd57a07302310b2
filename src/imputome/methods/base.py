"""The contract every method follows: what it is given (`Data`), what it is (`Imputer`), what it returns (`Imputation`).

Letters used throughout: ``n`` cells (rows), ``G`` genes (columns), ``X`` the n x G input. This module imports no
torch, scikit-learn or numba, so that listing methods stays fast.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, get_args

import numpy as np

from imputome.errors import InputError, ModelFormatError, NotFittedError
from imputome.preprocessing.counts import SCALES, Scale, counts_to_scale

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp

Kind = Literal["counts", "real"]
Output = Literal["value", "rate", "variance", "lower", "upper", "dropout_probability"]
NewRows = Literal["exact", "projection", "neighbors", "none"]
OUTPUTS: tuple[Output, ...] = get_args(Output)


@dataclass(frozen=True)
class MethodInfo:
    """What a method is, known without importing it.

    Attributes
    ----------
    name : registered name.
    summary : one line for tables and help.
    kinds : kinds of data it takes: ``"counts"`` (a zero may be a dropout) and/or ``"real"`` (NaN is missing).
    doi : source of the method; empty for plain controls.
    scale : scale of its values: ``"counts"`` (this cell's depth) or ``"input"`` (the input's own unit).
    keeps_observed : whether observed values are returned as they are unless asked otherwise.
    extra : optional dependency group it needs, or None.
    new_rows : what `Imputer.transform` means; ``"none"`` raises with the reason.
    outputs : outputs beside ``"value"`` that it always has (the posterior step adds more).
    stochastic : whether the result depends on ``random_state``.
    control : whether it is a control, that is, a bar that other methods have to clear.
    covariates : whether it uses `Data.covariates`.
    """

    name: str
    summary: str
    kinds: frozenset[Kind]
    doi: str = ""
    scale: Scale = "counts"
    keeps_observed: bool = False
    extra: str | None = None
    new_rows: NewRows = "exact"
    outputs: frozenset[Output] = frozenset({"value"})
    stochastic: bool = False
    control: bool = False
    covariates: bool = False


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
        return np.asarray(self.X.sum(axis=1), dtype=np.float64).ravel()

    def observed_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of observed entries per row (n,) and per column (G,)."""
        known = self.observed
        if known is None:
            known = self.X.astype(bool) if self.kind == "counts" else ~np.isnan(self.X)
        rows = np.asarray(known.sum(axis=1)).ravel()
        columns = np.asarray(known.sum(axis=0)).ravel()
        return rows, columns

    def block(self, rows: Any, genes: Any = None) -> np.ndarray:
        """Dense values of some rows and genes, float64; NaN stays NaN."""
        part = self.X[rows]
        if not isinstance(part, np.ndarray):
            part = part.toarray() if genes is None else part[:, genes].toarray()
        elif genes is not None:
            part = part[:, genes]
        return np.asarray(part, dtype=np.float64)

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
    import pandas as pd
    import scipy.sparse as sp

    if isinstance(X, Data):
        return X
    if obs_names is None:
        obs_names = getattr(X, "index", None)
    if var_names is None:
        var_names = getattr(X, "columns", None)
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
        array = dense if dense.dtype == np.float32 else dense.astype(np.float64)
    bounds = (-np.inf, np.inf)
    if kind == "real" and not np.isnan(array).all() and np.nanmin(array) >= 0:
        bounds = (0.0, 1.0 if np.nanmax(array) <= 1 else np.inf)
    return Data(
        X=array,
        kind=kind,
        obs_names=pd.RangeIndex(n).astype(str) if obs_names is None else pd.Index(obs_names),
        var_names=pd.RangeIndex(G).astype(str) if var_names is None else pd.Index(var_names),
        observed=observed,
        covariates=covariates,
        library_size=None if library_size is None else np.asarray(library_size, dtype=np.float64),
        bounds=bounds,
    )


def clean_csr(X: Any) -> sp.csr_array:
    """A floating-point ``csr_array`` with sorted indices, no duplicates and no stored zeros; copies only if needed."""
    import scipy.sparse as sp

    csr = sp.csr_array(X)
    if csr.dtype.kind != "f":
        csr = csr.astype(np.float32 if csr.nnz == 0 or csr.data.max() < 2**24 else np.float64)
    if not csr.has_canonical_format or (csr.nnz and not csr.data.all()):
        csr = csr.copy() if csr.data is getattr(X, "data", None) else csr
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr


@dataclass(frozen=True)
class Status:
    """How a fit ended.

    Attributes
    ----------
    name : ``"converged"``, ``"max_iter"``, ``"rank_limited"``, ``"validated"`` or ``"exact"`` (no iteration needed).
    message : one line for the user.
    details : figures (iterations, rank, residual, ...), JSON-able.
    """

    name: str = "exact"
    message: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def converged(self) -> bool:
        return self.name in ("converged", "validated", "exact")


@dataclass(frozen=True)
class Unusable:
    """Rows and columns without a single observed value: returned by the stated fallback, never dropped."""

    obs_names: pd.Index
    var_names: pd.Index
    fallback: str

    def __bool__(self) -> bool:
        return bool(len(self.obs_names) or len(self.var_names))


class Model(Protocol):
    """What a method hands to `Imputation`: values on the method's own scale, made on request."""

    outputs: frozenset[Output]

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        """Dense (len(rows), len(genes)) values; ``genes=None`` means all."""
        ...

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        """Values of single entries."""
        ...


class Imputation:
    """A lazy result: owns a model and a read-only view of the input, and makes dense values only when asked.

    Attributes
    ----------
    obs_names, var_names : as in the input, in the same order.
    scale : the scale of values when none is asked for: ``"counts"`` or ``"input"``.
    status, history : how the fit ended; one row per iteration.
    unusable : rows and columns without an observed value.
    latent : (n, k) representation of the cells, or None.
    gene_columns : per-gene results, each (G,).
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        *,
        scale: Scale,
        keeps_observed: bool,
        status: Status | None = None,
        history: dict[str, list[float]] | None = None,
        latent: np.ndarray | None = None,
        gene_columns: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.scale = scale
        self.keeps_observed = keeps_observed
        self.status = status or Status()
        self.latent = latent
        self.gene_columns = gene_columns or {}
        self._history = history or {}
        seen_rows, seen_columns = data.observed_counts()
        self.unusable = Unusable(
            data.obs_names[seen_rows == 0],
            data.var_names[seen_columns == 0],
            "zeros" if data.kind == "counts" else "mean of the feature, else of all observed values",
        )

    @property
    def obs_names(self) -> pd.Index:
        return self.data.obs_names

    @property
    def var_names(self) -> pd.Index:
        return self.data.var_names

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape

    @property
    def outputs(self) -> frozenset[Output]:
        return self.model.outputs

    @property
    def history(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self._history)

    def rows(
        self,
        rows: Any,
        *,
        genes: Any = None,
        output: Output = "value",
        scale: Scale | None = None,
        keep_observed: bool | None = None,
    ) -> np.ndarray:
        """Dense values of some rows.

        Parameters
        ----------
        rows : slice, integers, names or a boolean mask.
        genes : integers, names or a boolean mask; None means all.
        output : one of `outputs`.
        scale : ``"counts"``, ``"normalized"`` (per 10,000 of the cell's library), ``"log1p"`` of that, or ``"input"``.
        keep_observed : put the observed values back as they are; None takes the method's own habit.

        Returns
        -------
        ndarray of shape (len(rows), len(genes)), never NaN, never negative for counts.
        """
        i = self._positions(rows, self.obs_names, "cell")
        j = None if genes is None else self._positions(genes, self.var_names, "gene")
        self._check(output, scale)
        values = self._bounded(self.model.rows(i, j, output), output)
        if self._keeps(output, keep_observed):
            given = self.data.block(i, j)
            known = self.data.observed_block(i, j, given)
            np.copyto(values, given, where=known, casting="same_kind")
        return self._convert(values, i[:, None], output, scale)

    def at(
        self,
        i: Any,
        j: Any,
        *,
        output: Output = "value",
        scale: Scale | None = None,
        keep_observed: bool | None = None,
    ) -> np.ndarray:
        """Values of the entries ``(i[k], j[k])``, flat: scoring without a dense matrix."""
        i, j = np.asarray(i), np.asarray(j)
        if i.shape != j.shape or i.ndim != 1:
            raise InputError(f"at() needs two flat index arrays of one length, got shapes {i.shape} and {j.shape}")
        self._check(output, scale)
        values = self._bounded(self.model.at(i, j, output), output)
        if self._keeps(output, keep_observed):
            given = self.data.entries(i, j)
            known = self.data.observed_entries(i, j, given)
            np.copyto(values, given, where=known, casting="same_kind")
        return self._convert(values, i, output, scale)

    def blocks(self, chunk: int | None = None, **options: Any) -> Iterator[tuple[slice, np.ndarray]]:
        """Row blocks ``(slice, dense values)``, in order; ``chunk`` rows each (None: about 32 MiB), options as `rows`."""
        n, G = self.shape
        if chunk is None:
            chunk = max(1, 2**25 // (4 * G))
        for start in range(0, n, chunk):
            part = slice(start, min(start + chunk, n))
            yield part, self.rows(part, **options)

    def to_array(self, **options: Any) -> np.ndarray:
        """The whole dense matrix, float32 unless the method works in float64; options as `rows`."""
        return self.rows(slice(None), **options)

    def _bounded(self, values: np.ndarray, output: Output) -> np.ndarray:
        if self.data.kind == "counts" or output == "variance" or not np.isfinite(self.data.bounds[0]):
            return values
        return np.clip(values, *self.data.bounds, out=values)

    def _keeps(self, output: Output, keep_observed: bool | None) -> bool:
        return output == "value" and (self.keeps_observed if keep_observed is None else keep_observed)

    def _check(self, output: Output, scale: Scale | None) -> None:
        if output not in self.outputs:
            raise InputError(f"output {output!r} is not one of this result's: {', '.join(sorted(self.outputs))}")
        if scale is not None and scale not in SCALES:
            raise InputError(f"scale {scale!r} is not one of {', '.join(SCALES)}")
        if scale not in (None, "input") and self.data.kind == "real":
            raise InputError(f"scale {scale!r} needs counts; this result is real-valued, on scale 'input'")

    def _convert(self, values: np.ndarray, i: np.ndarray, output: Output, scale: Scale | None) -> np.ndarray:
        if scale in (None, "input", "counts") or output == "dropout_probability":
            return values
        if output == "variance":
            raise InputError(f"the variance is given on scale 'counts' only, not {scale!r}")
        return counts_to_scale(values, self._depth[i], scale)

    @property
    def _depth(self) -> np.ndarray:
        if not hasattr(self, "_depth_cache"):
            self._depth_cache = self.data.depth
        return self._depth_cache

    @staticmethod
    def _positions(which: Any, names: pd.Index, what: str) -> np.ndarray:
        if isinstance(which, slice):
            return np.arange(*which.indices(len(names)))
        array = np.atleast_1d(np.asarray(which))
        if array.dtype == bool:
            return np.flatnonzero(array)
        if array.dtype.kind in "iu":
            return array
        found = names.get_indexer(array)
        if (found < 0).any():
            raise InputError(f"unknown {what} {array[found < 0][0]!r}")
        return found


class Imputer(ABC):
    """Base of every method: stores its parameters untouched, learns in `fit`, returns `Imputation`.

    A subclass defines ``name`` (its registry entry), ``__init__`` with keyword-only parameters, `_fit`, and, for
    `transform` and `save`, `_new_rows`, `_state` and `_restore`. A method for counts has the switch ``posterior``:
    combine the fitted rate with the cell's own counts (see `imputome.methods.posterior`).
    """

    name: ClassVar[str]
    posterior: bool = False
    progress: Callable[[float, str], None] | None = None  # told the share done and where it stands, if set

    @property
    def info(self) -> MethodInfo:
        from imputome.methods.registry import info

        return info(self.name)

    @classmethod
    def parameter_defaults(cls) -> dict[str, Any]:
        """Constructor parameters and their defaults."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if name != "self"
        }

    def get_params(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.parameter_defaults()}

    def clone(self, **changes: Any) -> Self:
        """An unfitted copy with some parameters changed."""
        return type(self)(**{**self.get_params(), **changes})

    # -- what a subclass writes ------------------------------------------------------------------------------------
    @abstractmethod
    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        """Learn from ``data``; return the model of its rows, and further arguments of `Imputation`."""

    def _new_rows(self, data: Data) -> Model:
        """The model of rows that were not trained on."""
        raise InputError(f"{self.name} cannot impute rows it was not fitted on: use fit_transform on all rows together")

    def _state(self) -> dict[str, np.ndarray]:
        """Learned arrays, for `save`."""
        return {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Put back what `_state` gave."""

    # -- what users call -------------------------------------------------------------------------------------------
    def fit(self, data: Any) -> Self:
        """Learn from ``data``: `Data`, or a matrix of cells x genes."""
        self.fit_transform(data)
        return self

    def fit_transform(self, data: Any) -> Imputation:
        """Learn from ``data`` and impute its rows."""
        data = self._accept(data)
        n, G = data.shape
        usable_rows, usable_columns = (int((c > 0).sum()) for c in data.observed_counts())
        if usable_rows < 2 or usable_columns < 2:
            raise InputError(
                f"imputation learns from other cells and genes: at least 2 cells and 2 genes with observed values "
                f"are needed, and of {n} x {G} only {usable_rows} x {usable_columns} have any"
            )
        shape = None
        if self.posterior:
            from imputome.methods.posterior import PosteriorModel, fit_shape

            shape = fit_shape(self.clone(posterior=False), data, random_state=getattr(self, "random_state", 0))
        model, result = self._fit(data)
        self.feature_names_ = data.var_names
        self.kind_: Kind = data.kind
        if shape is not None:
            self.shape_ = shape
            model = PosteriorModel(model, data, shape).matched_to_total()
            self.total_factor_ = model.factor
            result["gene_columns"] = {**result.get("gene_columns", {}), "posterior_shape": shape}
        return self._imputation(model, data, **result)

    def transform(self, data: Any) -> Imputation:
        """Impute new rows with what was learned; the columns must be those of the training data, in that order."""
        if not hasattr(self, "feature_names_"):
            raise NotFittedError(f"{self.name} is not fitted yet: call fit first")
        data = self._accept(data, kind=self.kind_)
        if data.X.shape[1] != len(self.feature_names_):
            raise ModelFormatError(
                f"the model was fitted on {len(self.feature_names_)} features, this input has {data.X.shape[1]}"
            )
        if not data.var_names.equals(self.feature_names_):
            wrong = np.flatnonzero(np.asarray(data.var_names) != np.asarray(self.feature_names_))
            raise ModelFormatError(
                f"feature names differ from the model's at {len(wrong)} places, first at position {wrong[0]}: "
                f"{data.var_names[wrong[0]]!r} here, {self.feature_names_[wrong[0]]!r} in the model; "
                "give the same features in the same order"
            )
        model = self._new_rows(data)
        if self.posterior:
            from imputome.methods.posterior import PosteriorModel

            model = PosteriorModel(model, data, self.shape_, factor=self.total_factor_)
        return self._imputation(model, data)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the fitted estimator to the directory ``path``: JSON and arrays, no pickle."""
        from imputome.io.models import write_model

        if not hasattr(self, "feature_names_"):
            raise NotFittedError(f"{self.name} is not fitted yet: call fit before save")
        arrays = self._state()
        if self.posterior:
            arrays = {**arrays, "posterior_shape": self.shape_, "posterior_factor": np.array(self.total_factor_)}
        header = {"method": self.name, "params": self.get_params(), "kind": self.kind_}
        header["feature_names"] = [str(name) for name in self.feature_names_]
        write_model(Path(path), header, arrays, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an estimator written by `save`; loading runs no code from the directory."""
        import pandas as pd

        from imputome.io.models import read_model

        header, arrays = read_model(Path(path))
        if header["method"] != cls.name:
            raise ModelFormatError(f"{path} holds a {header['method']!r} model, not {cls.name!r}: use methods.load")
        unknown = set(header["params"]) - set(cls.parameter_defaults())
        if unknown:
            raise ModelFormatError(f"{path} has parameters this version does not know: {', '.join(sorted(unknown))}")
        estimator = cls(**header["params"])
        estimator.feature_names_ = pd.Index(header["feature_names"])
        estimator.kind_ = header["kind"]
        try:
            if estimator.posterior:
                estimator.shape_ = arrays.pop("posterior_shape")
                estimator.total_factor_ = float(arrays.pop("posterior_factor"))
            estimator._restore(arrays)
        except KeyError as error:
            raise ModelFormatError(f"{path} is incomplete: the array {error} is missing") from error
        return estimator

    def _accept(self, data: Any, kind: Kind | None = None) -> Data:
        kinds = self.info.kinds
        if not isinstance(data, Data):
            only: Kind | None = next(iter(kinds)) if len(kinds) == 1 else None
            data = as_data(data, kind=kind or only)
        if data.kind not in kinds:
            raise InputError(
                f"{self.name} takes {' or '.join(sorted(kinds))} data, not {data.kind}: "
                "`imputome methods` lists what takes which"
            )
        if self.posterior and data.kind != "counts":
            raise InputError("the posterior step needs counts: pass posterior=False for real-valued data")
        if kind is not None and data.kind != kind:
            raise ModelFormatError(f"the model was fitted on {kind} data, this input is {data.kind}")
        return data

    def _imputation(self, model: Model, data: Data, **result: Any) -> Imputation:
        scale: Scale = "counts" if data.kind == "counts" else "input"
        keeps = (self.info.keeps_observed or data.kind == "real") and not self.posterior
        return Imputation(model, replace(data, covariates=None), scale=scale, keeps_observed=keeps, **result)
