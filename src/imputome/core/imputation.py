"""What a method returns: a lazy `Imputation` around a `Model`, and how the fit ended (`Status`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from imputome.core.data import Data
from imputome.core.links import Link
from imputome.core.scales import SCALES, Scale, counts_to_scale, scale_to_counts
from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Output = Literal["value", "rate", "expected_count", "normalized", "variance", "lower", "upper", "dropout_probability"]


@dataclass(frozen=True)
class Status:
    """How a fit ended.

    Attributes
    ----------
    name : ``"converged"``, ``"max_iter"``, ``"rank_limited"``, ``"validated"``, ``"stopped"`` (by a callback)
        or ``"exact"`` (no iteration needed).
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
    """What a method hands to `Imputation`: values on the method's own scale, made on request.

    A model that knows how its values spread may also have ``draw(rows, number)``: the ``number``-th random completion
    of some rows, (len(rows), G), which depends on the estimator's seed, the number and the row alone.
    """

    @property
    def outputs(self) -> frozenset[Output]: ...

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        """Dense (len(rows), len(genes)) values; ``genes=None`` means all."""
        ...

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        """Values of single entries."""
        ...


class LinkedModel:
    """The model of transformed values, on the unit that they came in (`imputome.core.links`)."""

    def __init__(self, model: Model, link: Link) -> None:
        self.model = model
        self.link = link
        self.latent = getattr(model, "latent", None)
        if hasattr(model, "draw"):
            self.draw = lambda rows, number: link.inverse(model.draw(rows, number))

    @property
    def outputs(self) -> frozenset[Output]:
        return self.model.outputs

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        return self._back(output, lambda wanted: self.model.rows(rows, genes, wanted))

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return self._back(output, lambda wanted: self.model.at(i, j, wanted))

    def _back(self, output: Output, make: Callable[[Output], np.ndarray]) -> np.ndarray:
        if output == "variance":  # the delta method
            return make("variance") * self.link.slope(make("value")) ** 2
        return self.link.inverse(make(output))


class Imputation:
    """A lazy result: owns a model and a read-only view of the input, and makes dense values only when asked.

    Attributes
    ----------
    obs_names, var_names : as in the input, in the same order.
    scale : the scale of values when none is asked for: ``"counts"`` or ``"input"``.
    status, history : how the fit ended; one row per iteration.
    unusable : rows and columns without an observed value.
    latent : (n, k) representation of the cells, or None.
    gene_columns, cell_columns : per-gene results, each (G,), and per-cell results, each (n,).
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
        cell_columns: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.scale = scale
        self.keeps_observed = keeps_observed
        self.status = status or Status()
        self.latent = latent
        self.gene_columns = gene_columns or {}
        self.cell_columns = cell_columns or {}
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
            values = self._with_observed(values, given, self.data.observed_block(i, j, given))
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
        i, j = self._positions(i, self.obs_names, "cell"), self._positions(j, self.var_names, "gene")
        if i.shape != j.shape:
            raise InputError(f"at() needs two flat index arrays of one length, got {len(i)} rows and {len(j)} columns")
        self._check(output, scale)
        values = self._bounded(self.model.at(i, j, output), output)
        if self._keeps(output, keep_observed):
            given = self.data.entries(i, j)
            values = self._with_observed(values, given, self.data.observed_entries(i, j, given))
        return self._convert(values, i, output, scale)

    def draw(self, number: int, *, rows: Any = slice(None)) -> np.ndarray:
        """The ``number``-th multiple imputation of some rows, (len(rows), G): drawn, not predicted, values.

        Observed values stay as they are; an analysis repeated over several draws shows how far it rests on what was
        filled in (Rubin 1987).

        Raises
        ------
        InputError
            The method knows no distribution to draw from.
        """
        if not self.can_draw:
            raise InputError("this method predicts values but knows no distribution of them: there are no draws")
        i = self._positions(rows, self.obs_names, "cell")
        values = self._bounded(self.model.draw(i, number), "value")  # type: ignore[attr-defined]
        given = self.data.block(i)
        return self._with_observed(values, given, self.data.observed_block(i, None, given))

    @property
    def can_draw(self) -> bool:
        """Whether `draw` works."""
        return hasattr(self.model, "draw")

    def blocks(self, chunk: int | None = None, **options: Any) -> Iterator[tuple[slice, np.ndarray]]:
        """Row blocks ``(slice, dense values)``, in order, of ``chunk`` rows (None: 32 MiB each); options as `rows`."""
        n, G = self.shape
        if chunk is None:
            chunk = max(1, 2**25 // (4 * G))
        for start in range(0, n, chunk):
            part = slice(start, min(start + chunk, n))
            yield part, self.rows(part, **options)

    def to_array(self, **options: Any) -> np.ndarray:
        """The whole dense matrix, made block by block, in the precision of the method; options as `rows`."""
        out: np.ndarray | None = None
        for rows, block in self.blocks(**options):
            if out is None:
                out = np.empty((self.shape[0], block.shape[1]), block.dtype)
            out[rows] = block
        assert out is not None  # noqa: S101  (there is no input without rows)
        return out

    def _bounded(self, values: np.ndarray, output: Output) -> np.ndarray:
        if self.data.kind == "counts" or output == "variance" or not np.isfinite(self.data.bounds[0]):
            return values
        return np.clip(values, *self.data.bounds, out=values)

    def _with_observed(self, values: np.ndarray, given: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Observed values put back exactly, in the input's precision where it is the higher one."""
        values = values.astype(np.result_type(values.dtype, self.data.X.dtype), copy=False)
        np.copyto(values, given, where=known, casting="same_kind")
        return values

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
        if output == "normalized" and scale is not None:  # a model's own, which is on that scale already
            values = scale_to_counts(values, self._depth[i], "normalized")
        if scale in (None, "input", "counts") or output == "dropout_probability":
            return values
        if output == "variance":
            raise InputError(f"the variance is given on scale 'counts' only, not {scale!r}")
        return counts_to_scale(values, self._depth[i], scale)

    @cached_property
    def _depth(self) -> np.ndarray:
        return self.data.depth

    @staticmethod
    def _positions(which: Any, names: pd.Index, what: str) -> np.ndarray:
        """Non-negative positions from a slice, a boolean mask, integers or names."""
        size = len(names)
        if isinstance(which, slice):
            return np.arange(*which.indices(size))
        array = np.atleast_1d(np.asarray(which))
        if array.ndim != 1:
            raise InputError(f"{what}s are chosen by a flat list, not by an array of shape {array.shape}")
        if array.size == 0:
            return np.empty(0, dtype=np.intp)
        if array.dtype == bool:
            if len(array) != size:
                raise InputError(f"the {what} mask has {len(array)} values for {size} {what}s")
            return np.flatnonzero(array)
        if array.dtype.kind in "iu":
            if array.min() < -size or array.max() >= size:
                raise InputError(f"{what} positions must lie in {-size} to {size - 1}")
            return np.where(array < 0, array + size, array)
        if not names.is_unique:
            raise InputError(f"{what} names are not unique, so none can be chosen by name: use positions")
        found = names.get_indexer(array)
        if (found < 0).any():
            raise InputError(f"unknown {what} {array[found < 0][0]!r}")
        return found
