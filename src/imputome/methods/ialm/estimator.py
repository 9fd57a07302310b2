"""The ``ialm`` method: scales, new cells, biological zeros and validated stopping around the solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from imputome.core.data import Data
from imputome.core.holdout import hide_entries, hide_values
from imputome.core.imputation import Status
from imputome.core.imputer import Imputer
from imputome.core.scales import TARGET
from imputome.errors import InputError
from imputome.methods.factors import LowRank
from imputome.methods.ialm import IALM_INFO
from imputome.methods.ialm.solver import RankStep, Solution, complete

LATENT = 50  # leading columns of U S that are given as the latent representation
DENSE_SHARE = 0.3  # real-valued data with a larger share of known entries take the dense path
PATIENCE = 3  # iterations without a lower held-out error before the validated stop


class IALM(Imputer):
    """scIALM: nuclear-norm matrix completion by an inexact augmented Lagrangian (Liu, Wang & Gao 2024).

    Minimises the nuclear norm of A subject to A = D on the observed entries (eq. 7, Algorithm 3). For counts the
    observed entries are the nonzeros, so that what is filled in estimates the value *given that it is not zero*: totals
    come out larger than the data's, and expression appears where there is none.

    Parameters
    ----------
    normalization : scale that the solver works on, for counts. ``"median"``: counts over library size times the
        median library size, not logged (the paper's); ``"log1p"``: log1p of counts per 10,000, inverted and rescaled to
        each gene's total afterwards; None: counts as they are. Real-valued data are centred by column instead.
    tol, max_iter : stop at ||P_Omega(D - A)||_F / ||D||_F < tol, or after max_iter iterations (with a warning).
    rank_step : R of eq. (13), or ``"adaptive"``.
    max_rank : largest rank, None for no bound.
    inner : ``"inexact"`` (Algorithm 3) or ``"exact"`` (Algorithm 2: sub-problems solved before Y moves).
    stop : ``"residual"``, or ``"validated"``: 5 % of the observed entries are held out, the iteration with the lowest
        error on them is found (3 iterations of patience), and the fit is repeated on all entries up to it.
    zeros : ``"impute"``, or ``"preserve"``: products at or below the absolute 0.001 quantile of their gene become 0
        (ALRA's rule for biological zeros).
    ridge : strength of the ridge for new rows, as a share of the mean variance that the factors explain per entry.
    dtype : ``"float32"`` or ``"float64"``.
    posterior : combine with the cell's own counts (`imputome.core.posterior`).

    Attributes
    ----------
    singular_values_ : (r,) of the completed matrix.
    components_ : (G, r) right singular vectors (zero rows for unusable genes).
    """

    info = IALM_INFO

    def __init__(
        self,
        *,
        normalization: Literal["median", "log1p"] | None = "median",
        tol: float = 1e-4,
        max_iter: int = 1000,
        rank_step: RankStep = 200,
        max_rank: int | None = None,
        inner: Literal["inexact", "exact"] = "inexact",
        stop: Literal["residual", "validated"] = "residual",
        zeros: Literal["impute", "preserve"] = "impute",
        ridge: float = 0.03,
        dtype: Literal["float32", "float64"] = "float32",
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.normalization = normalization
        self.tol = tol
        self.max_iter = max_iter
        self.rank_step = rank_step
        self.max_rank = max_rank
        self.inner = inner
        self.stop = stop
        self.zeros = zeros
        self.ridge = ridge
        self.dtype = dtype
        self.posterior = posterior
        self.random_state = random_state

    def _fit(self, data: Data) -> tuple[LowRank, dict[str, Any]]:
        self._validate()
        if data.kind == "real" and self.zeros == "preserve":
            raise InputError("ialm: zeros='preserve' is for counts, where a zero may be real: leave it out")
        task = _Task.counts(data, self) if data.kind == "counts" else _Task.real(data, self)
        solution = self._solve(task.D)
        n, G = data.shape
        left = _expanded(solution.left, task.rows, n)
        self.components_ = _expanded(solution.right, task.columns, G)
        self.singular_values_ = solution.singular_values
        self.n_rows_ = task.D.shape[0]
        self.median_library_ = task.median_library
        self.offset_, self.threshold_, self.gene_scale_ = task.offset, None, None
        if self.zeros == "preserve":
            self.threshold_ = _expanded(_zero_thresholds(solution), task.columns, G)
        if self._link == "expm1" and data.kind == "counts":
            self.gene_scale_ = self._gene_scale(left, data)
        model = self._model(left, data)
        columns = {} if self.gene_scale_ is None else {"total_factor": self.gene_scale_}
        return model, {
            "gene_columns": columns,
            "status": solution.status,
            "history": solution.history,
            "latent": left[:, :LATENT].copy() if solution.rank else None,
        }

    def _solve(self, D: sp.csr_array | np.ndarray) -> Solution:
        options: dict[str, Any] = {
            "tol": self.tol,
            "max_iter": self.max_iter,
            "rank_step": self.rank_step,
            "max_rank": self.max_rank,
            "inner": self.inner,
            "dtype": np.dtype(self.dtype),
        }
        if self.stop == "residual":
            return complete(D, **options, random_state=self.random_state, callback=self._report)
        rng = np.random.default_rng(self.random_state)
        known = D.nnz if isinstance(D, sp.csr_array) else int((~np.isnan(D)).sum())
        share = max(0.05, 1 / known)
        train, i, j, truth = (hide_values if isinstance(D, np.ndarray) else hide_entries)(D, share, rng)
        watch = _HeldOut(i, j, truth)
        complete(train, **options, random_state=self.random_state, callback=watch)
        if not watch.errors:  # the known values that were left are all zero: there was nothing to watch
            return complete(D, **options, random_state=self.random_state)
        options["max_iter"] = watch.best_iteration
        final = complete(D, **options, random_state=self.random_state, callback=self._report)
        details = {**final.status.details, "held_out_mse": min(watch.errors)}
        message = f"stopped at iteration {watch.best_iteration}, where the error on held-out entries was lowest"
        final.status = Status("validated", message, details)
        return final

    def _report(self, solution: Solution) -> bool:
        residual = solution.history["residual"][-1]
        done = min(1.0, max(0.0, np.log(residual) / np.log(self.tol)))
        iteration = len(solution.history["residual"])
        self._tell(float(done), f"iteration {iteration}, rank {solution.rank}, residual {residual:.1e}")
        return False

    @property
    def _link(self) -> Literal["identity", "expm1"]:
        return "expm1" if self.normalization == "log1p" else "identity"

    def _row_scale(self, data: Data) -> np.ndarray | None:
        """(n,) what a row of the solver's matrix is multiplied by to be counts again."""
        if data.kind == "real" or self.normalization is None:
            return None
        return data.depth / (self.median_library_ if self.normalization == "median" else TARGET)

    def _model(self, left: np.ndarray, data: Data) -> LowRank:
        counts = data.kind == "counts"
        return LowRank(
            left,
            self.components_,
            offset=self.offset_,
            threshold=self.threshold_,
            floor=0.0 if counts else None,
            link=self._link if counts else "identity",
            row_scale=self._row_scale(data),
            gene_scale=self.gene_scale_,
        )

    def _gene_scale(self, left: np.ndarray, data: Data) -> np.ndarray:
        """(G,) factors that give every gene its training total: inverting a log-scale fit alone is biased."""
        fitted = self._model(left, data).column_totals()
        return np.divide(data.gene_totals, fitted, out=np.zeros_like(fitted), where=fitted > 0)

    def _new_rows(self, data: Data) -> LowRank:
        """Regress each new row's observed entries on the factors, with a ridge (their prior is N(0, s^2 / n))."""
        loadings = self.components_ * (self.singular_values_ / np.sqrt(self.n_rows_))
        variance = float(np.mean(np.einsum("gr,gr->g", loadings, loadings)))
        left = np.zeros((data.shape[0], len(self.singular_values_)), self.components_.dtype)
        for row, columns, values in _observed_rows(data, self._row_matrix(data)):
            left[row] = _ridge(loadings[columns], values, self.ridge * variance)
        left *= (self.singular_values_ / np.sqrt(self.n_rows_)).astype(left.dtype)
        return self._model(left, data)

    def _row_matrix(self, data: Data) -> Any:
        """The values that the solver would see of these rows."""
        if data.kind == "real":
            return data.known_values() - self.offset_
        return _normalized(_with_known_zeros(data), self._row_scale(data), self._link)

    def _state(self) -> dict[str, np.ndarray]:
        state = {
            "components": self.components_,
            "singular_values": self.singular_values_,
            "n_rows": np.array(self.n_rows_),
            "median_library": np.array(self.median_library_),
        }
        optional = {"offset": self.offset_, "threshold": self.threshold_, "gene_scale": self.gene_scale_}
        return state | {name: array for name, array in optional.items() if array is not None}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.components_ = arrays["components"]
        self.singular_values_ = arrays["singular_values"]
        self.n_rows_ = int(arrays["n_rows"])
        self.median_library_ = float(arrays["median_library"])
        self.offset_ = arrays.get("offset")
        self.threshold_ = arrays.get("threshold")
        self.gene_scale_ = arrays.get("gene_scale")

    def _validate(self) -> None:
        choices = {
            "normalization": ("median", "log1p", None),
            "inner": ("inexact", "exact"),
            "stop": ("residual", "validated"),
            "zeros": ("impute", "preserve"),
            "dtype": ("float32", "float64"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"ialm: {name}={getattr(self, name)!r} is not one of {', '.join(map(str, allowed))}")
        if self.rank_step != "adaptive" and not (isinstance(self.rank_step, int) and self.rank_step > 0):
            raise InputError(f"ialm: rank_step={self.rank_step!r} is neither a positive integer nor 'adaptive'")
        for name in ("tol", "max_iter", "max_rank"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"ialm: {name}={value!r} must be positive")
        if not self.ridge >= 0:
            raise InputError(f"ialm: ridge={self.ridge!r} must not be negative")


@dataclass(frozen=True)
class _Task:
    """The matrix for the solver, without the rows and columns that have no observed entry."""

    D: sp.csr_array | np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    median_library: float = 1.0
    offset: np.ndarray | None = None

    @classmethod
    def counts(cls, data: Data, method: IALM) -> _Task:
        seen_rows, seen_columns = data.observed_counts()
        rows, columns = np.flatnonzero(seen_rows), np.flatnonzero(seen_columns)
        depth = data.depth
        median = float(np.median(depth[depth > 0]))
        scale = {"median": depth / median, "log1p": depth / TARGET, None: None}[method.normalization]
        D = _normalized(_with_known_zeros(data), scale, method._link)
        if len(rows) < data.shape[0]:
            D = D[rows]
        if len(columns) < data.shape[1]:
            D = D[:, columns]
        return cls(sp.csr_array(D), rows, columns, median_library=median)

    @classmethod
    def real(cls, data: Data, method: IALM) -> _Task:
        X = data.known_values()
        seen_rows, seen_columns = data.observed_counts()
        rows, columns = np.flatnonzero(seen_rows), np.flatnonzero(seen_columns)
        used = X[np.ix_(rows, columns)]
        means = np.nanmean(used, axis=0, dtype=np.float64)
        offset = np.full(X.shape[1], np.nanmean(used, dtype=np.float64))
        offset[columns] = means
        D = used - means.astype(used.dtype)
        known = ~np.isnan(D)
        if known.mean() <= DENSE_SHARE:
            i, j = np.nonzero(known)
            D = sp.csr_array((D[known], (i, j)), shape=D.shape)
        return cls(D, rows, columns, offset=offset)


class _HeldOut:
    """Callback of the solver: the error on held-out entries after each iteration, and when to stop."""

    def __init__(self, i: np.ndarray, j: np.ndarray, truth: np.ndarray) -> None:
        self.i, self.j, self.truth = i, j, truth
        self.errors: list[float] = []

    @property
    def best_iteration(self) -> int:
        return int(np.argmin(self.errors)) + 1

    def __call__(self, solution: Solution) -> bool:
        values = LowRank(solution.left, solution.right, floor=None).at(self.i, self.j)
        self.errors.append(float(np.mean((values - self.truth) ** 2, dtype=np.float64)))
        return solution.rank > 0 and len(self.errors) - self.best_iteration >= PATIENCE


def _with_known_zeros(data: Data) -> sp.csr_array:
    """The counts on the pattern of the observed entries; zeros that are known stay stored."""
    if data.observed is None:
        return data.X
    pattern = sp.coo_array(data.observed)
    values = data.entries(pattern.row, pattern.col)
    return sp.csr_array((values, (pattern.row, pattern.col)), shape=data.shape)


def _normalized(X: sp.csr_array, row_scale: np.ndarray | None, link: str) -> sp.csr_array:
    """Rows divided by their scale, logged where the link says so; the pattern is shared, not copied."""
    values = X.data.astype(np.float64)
    if row_scale is not None:
        # a cell without molecules has nothing but known zeros, which stay zeros
        values /= np.repeat(np.where(row_scale > 0, row_scale, 1.0), np.diff(X.indptr))
    if link == "expm1":
        np.log1p(values, out=values)
    return sp.csr_array((values, X.indices, X.indptr), shape=X.shape)


def _observed_rows(data: Data, matrix: Any) -> Any:
    """(row, observed columns, their values) for each row with any."""
    for row in range(data.shape[0]):
        if isinstance(matrix, np.ndarray):
            columns = np.flatnonzero(~np.isnan(matrix[row]))
            values = matrix[row, columns]
        else:
            part = slice(matrix.indptr[row], matrix.indptr[row + 1])
            columns, values = matrix.indices[part], matrix.data[part]
        if len(columns):
            yield row, columns, values


def _ridge(F: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """argmin_b ||y - F b||^2 + strength ||b||^2, through the smaller of the two Gram matrices."""
    F = F.astype(np.float64)
    strength = max(strength, 1e-10 * float(np.mean(F * F)) * len(F) + np.finfo(float).tiny)
    if F.shape[0] < F.shape[1]:
        return F.T @ la.solve(F @ F.T + strength * np.eye(len(F)), y, assume_a="pos")
    return la.solve(F.T @ F + strength * np.eye(F.shape[1]), F.T @ y, assume_a="pos")


def _zero_thresholds(solution: Solution) -> np.ndarray:
    """(G,) absolute 0.001 quantile of each column of A, made in column blocks."""
    n, G = len(solution.left), len(solution.right)
    step = max(1, 2**23 // n)
    blocks = (solution.left @ solution.right[start : start + step].T for start in range(0, G, step))
    return np.concatenate([np.abs(np.quantile(block, 0.001, axis=0)) for block in blocks])


def _expanded(part: np.ndarray, where: np.ndarray, size: int) -> np.ndarray:
    """``part`` at the rows ``where`` of an array of ``size`` rows, zeros elsewhere."""
    if len(where) == size:
        return part
    out = np.zeros((size, *part.shape[1:]), part.dtype)
    out[where] = part
    return out
