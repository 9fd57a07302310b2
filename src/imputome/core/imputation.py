"""The result of a method: a lazy `Imputation` around a `Model`, and how the fit ended (`Status`)."""

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

    Its name is ``"converged"``, ``"max_iter"``, ``"rank_limited"``, ``"validated"``, ``"stopped"`` (by a callback) or
    ``"exact"`` (no iteration needed).
    """

    name: str = "exact"
    message: str = ""  # one line for the user
    details: dict[str, Any] = field(default_factory=dict)  # such as iterations, rank or residual; plain values

    @property
    def converged(self) -> bool:
        """Whether the fit reached its stopping rule."""
        return self.name in ("converged", "validated", "exact")


@dataclass(frozen=True)
class Unusable:
    """Rows and columns without observed values. They stay in the result, filled with a fallback."""

    obs_names: pd.Index
    var_names: pd.Index
    fallback: str  # what they are filled with

    def __bool__(self) -> bool:
        return bool(len(self.obs_names) or len(self.var_names))


class Model(Protocol):
    """The values of a fitted method on its own scale, computed on request by an `Imputation`.

    A model that knows the distribution of its values may also have ``draw(rows, number)``: the ``number``-th random
    completion of some rows, (len(rows), G), which depends only on the seed of the estimator, the number and the row.
    With ``quick_entries = True`` it is asked for the missing values only, where the observed ones stay as they are.
    """

    @property
    def outputs(self) -> frozenset[Output]:
        """The outputs that the model can compute."""
        ...

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        """Dense (len(rows), len(genes)) values; ``genes=None`` means all."""
        ...

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        """Values of the entries ``(i[k], j[k])``, flat."""
        ...


class LinkedModel:
    """A model of transformed values (on a `Link`) that returns values in the unit of the input."""

    def __init__(self, model: Model, link: Link) -> None:
        self.model = model
        self.link = link
        self.latent = getattr(model, "latent", None)
        self.quick_entries = getattr(model, "quick_entries", False)
        if hasattr(model, "draw"):
            self.draw = lambda rows, number: link.inverse(model.draw(rows, number))

    @property
    def outputs(self) -> frozenset[Output]:
        return self.model.outputs

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        return self._inverse(output, lambda name: self.model.rows(rows, genes, name))

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return self._inverse(output, lambda name: self.model.at(i, j, name))

    def _inverse(self, output: Output, compute: Callable[[Output], np.ndarray]) -> np.ndarray:
        if output == "variance":  # the delta method
            return compute("variance") * self.link.slope(compute("value")) ** 2
        return self.link.inverse(compute(output))


class Imputation:
    """The result of an imputation. It is lazy: dense values are computed only for the rows or entries asked for.

    Attributes
    ----------
    model : Model
        The fitted model.
    data : Data
        The input, read only.
    scale : {"counts", "input"}
        Scale of the values unless another is asked for.
    keeps_observed : bool
        Whether observed values stay as they are unless asked otherwise.
    status : Status
        How the fit ended.
    unusable : Unusable
        Rows and columns without observed values.
    latent : ndarray of shape (n, k) or None
        Latent representation of the cells.
    gene_columns, cell_columns : dict of str to ndarray
        Results per gene, each (G,), and per cell, each (n,).

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> values = np.array([[1.0, 2.0], [3.0, np.nan], [np.nan, 4.0]])
    >>> imputation = methods.get("mean")().fit_transform(values)
    >>> imputation.shape, imputation.scale
    ((3, 2), 'input')
    >>> imputation.rows([1])
    array([[3., 3.]])
    >>> imputation.at([1, 2], [1, 0])
    array([3., 2.])
    >>> imputation.to_array()
    array([[1., 2.],
           [3., 3.],
           [2., 4.]])
    >>> imputation.rows([0], keep_observed=False)
    array([[2., 3.]])
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
        per_row, per_column = data.observed_counts()
        self.unusable = Unusable(
            data.obs_names[per_row == 0],
            data.var_names[per_column == 0],
            "zeros" if data.kind == "counts" else "mean of the feature, else of all observed values",
        )

    @property
    def obs_names(self) -> pd.Index:
        """Names of the rows, in the order of the input."""
        return self.data.obs_names

    @property
    def var_names(self) -> pd.Index:
        """Names of the columns, in the order of the input."""
        return self.data.var_names

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.data.shape

    @property
    def outputs(self) -> frozenset[Output]:
        """The outputs that `rows` and `at` can return."""
        return self.model.outputs

    @property
    def history(self) -> pd.DataFrame:
        """Figures of the fit, one row per iteration."""
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
        rows : slice or array-like of int, str or bool
            Positions, names or a mask of the rows.
        genes : slice or array-like of int, str or bool, optional
            Positions, names or a mask of the columns; None means all.
        output : str, default="value"
            One of `outputs`.
        scale : {"counts", "normalized", "log1p", "log2p1", "log10p1", "sqrt", "input"}, optional
            ``"normalized"`` is per 10,000 molecules of the cell's library, ``"log1p"`` the natural log of one plus
            that. None means the scale of the result.
        keep_observed : bool, optional
            Whether observed values stay as they are. None means the default of the method.

        Returns
        -------
        ndarray of shape (len(rows), len(genes))
            Never NaN; never negative for counts.

        Raises
        ------
        InputError
            An unknown name, position, output or scale, or a scale that the output does not have.
        """
        i = self._positions(rows, self.obs_names, "cell")
        j = None if genes is None else self._positions(genes, self.var_names, "gene")
        self._check(output, scale)
        if self._keeps(output, keep_observed):
            inputs = self.data.block(i, j)
            observed = self.data.observed_block(i, j, inputs)
            if getattr(self.model, "quick_entries", False):
                row, column = np.nonzero(~observed)
                values = np.zeros(inputs.shape)
                values[row, column] = self.model.at(i[row], column if j is None else j[column], output)
                values = self._bounded(values, output)
            else:
                values = self._bounded(self.model.rows(i, j, output), output)
            values = self._with_observed(values, inputs, observed)
        else:
            values = self._bounded(self.model.rows(i, j, output), output)
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
        """Values of single entries, for example to score held-out values without a dense matrix.

        Parameters
        ----------
        i, j : array-like of int or str
            Rows and columns of the entries ``(i[k], j[k])``, of equal length.
        output, scale, keep_observed
            As in `rows`, also for errors.

        Returns
        -------
        ndarray of shape (len(i),)
            One value for each entry.

        Raises
        ------
        InputError
            ``i`` and ``j`` differ in length, or as `rows`.
        """
        i, j = self._positions(i, self.obs_names, "cell"), self._positions(j, self.var_names, "gene")
        if i.shape != j.shape:
            text = f"the entries have {len(i)} rows and {len(j)} columns: pass two flat arrays of one length"
            raise InputError(text, code="entries-shape")
        self._check(output, scale)
        values = self._bounded(self.model.at(i, j, output), output)
        if self._keeps(output, keep_observed):
            inputs = self.data.entries(i, j)
            values = self._with_observed(values, inputs, self.data.observed_entries(i, j, inputs))
        return self._convert(values, i, output, scale)

    def draw(self, number: int, *, rows: Any = slice(None)) -> np.ndarray:
        """A multiple imputation of some rows: missing values are drawn from their distribution, not predicted.

        Observed values stay as they are. Repeat an analysis over several draws to see how much its result depends on
        the imputed values (Rubin 1987).

        Parameters
        ----------
        number : int
            Number of the draw; the same number gives the same values.
        rows : slice or array-like of int, str or bool, default=all rows
            As in `rows`.

        Returns
        -------
        ndarray of shape (len(rows), G)
            In the unit of the input.

        Raises
        ------
        InputError
            The method has no distribution to draw from.
        """
        if not self.can_draw:
            raise InputError("this method has no distribution of the missing values to draw from", code="no-draws")
        i = self._positions(rows, self.obs_names, "cell")
        values = self._bounded(self.model.draw(i, number), "value")  # type: ignore[attr-defined]
        inputs = self.data.block(i)
        return self._with_observed(values, inputs, self.data.observed_block(i, None, inputs))

    def missing(self, rows: Any, *, genes: Any = None) -> np.ndarray:
        """Mask of the entries of some rows that were missing in the input.

        Parameters
        ----------
        rows, genes : slice or array-like of int, str or bool
            As in `rows`.

        Returns
        -------
        bool ndarray of shape (len(rows), len(genes))
            True where the value was missing.

        Raises
        ------
        InputError
            An unknown name or position.
        """
        i = self._positions(rows, self.obs_names, "cell")
        j = None if genes is None else self._positions(genes, self.var_names, "gene")
        return ~self.data.observed_block(i, j, self.data.block(i, j))

    def fitted(self, genes: np.ndarray | None = None) -> tuple[Imputation, np.ndarray | None]:
        """The imputation of the features that a method was fitted on, and the positions of ``genes`` among these.

        Parameters
        ----------
        genes : ndarray of int, optional
            Positions of columns; None means all.

        Returns
        -------
        Imputation
            Of the features that were fitted: this one, unless some were left out.
        ndarray of int or None
            Their positions.
        """
        return self, genes

    @property
    def can_draw(self) -> bool:
        """Whether `draw` works."""
        return hasattr(self.model, "draw")

    def blocks(self, chunk: int | None = None, **options: Any) -> Iterator[tuple[slice, np.ndarray]]:
        """Dense values of all rows, in order, one block of rows at a time.

        Parameters
        ----------
        chunk : int, optional
            Rows per block; None means blocks of 32 MiB in float32.
        **options
            As in `rows`.

        Yields
        ------
        rows : slice
            Which rows these are.
        values : ndarray of shape (len(rows), len(genes))
            Their values.

        Raises
        ------
        InputError
            As `rows`.
        """
        n, G = self.shape
        if chunk is None:
            chunk = max(1, 2**25 // (4 * G))
        for start in range(0, n, chunk):
            part = slice(start, min(start + chunk, n))
            yield part, self.rows(part, **options)

    def to_array(self, **options: Any) -> np.ndarray:
        """The whole dense matrix, in the precision of the method.

        Parameters
        ----------
        **options
            As in `rows`.

        Returns
        -------
        ndarray of shape (n, len(genes))
            All rows of `rows`.

        Raises
        ------
        InputError
            As `rows`.
        """
        array: np.ndarray | None = None
        for rows, block in self.blocks(**options):
            if array is None:
                array = np.empty((self.shape[0], block.shape[1]), block.dtype)
            array[rows] = block
        assert array is not None  # noqa: S101  (data have at least one row)
        return array

    def to_dataframe(self, *, genes: Any = None, **options: Any) -> pd.DataFrame:
        """The whole matrix as a table, with the names of the rows and columns.

        Parameters
        ----------
        genes : slice or array-like of int, str or bool, optional
            As in `rows`.
        **options
            As in `rows`.

        Returns
        -------
        pandas.DataFrame of shape (n, len(genes))

        Examples
        --------
        >>> import pandas as pd
        >>> from imputome import methods
        >>> table = pd.DataFrame({"g1": [1.0, 3.0], "g2": [2.0, None]}, index=["a", "b"])
        >>> methods.get("mean")().fit_transform(table).to_dataframe()
            g1   g2
        a  1.0  2.0
        b  3.0  2.0
        """
        import pandas as pd

        j = slice(None) if genes is None else self._positions(genes, self.var_names, "gene")
        return pd.DataFrame(self.to_array(genes=genes, **options), index=self.obs_names, columns=self.var_names[j])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """``np.asarray(imputation)`` is `to_array`; the values are computed, so there is nothing to share."""
        if copy is False:
            raise ValueError("the values are computed when they are asked for: leave copy=False out")
        return self.to_array().astype(dtype, copy=False)

    def _bounded(self, values: np.ndarray, output: Output) -> np.ndarray:
        if self.data.kind == "counts" or output == "variance" or not np.isfinite(self.data.bounds[0]):
            return values
        # an infinite value is a failure of the method, which a bound must not hide
        return np.clip(values, *self.data.bounds, out=values, where=np.isfinite(values))

    def _with_observed(self, values: np.ndarray, inputs: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """``values`` with the observed inputs, unchanged; in the precision of the input if that is higher."""
        values = values.astype(np.result_type(values.dtype, self.data.X.dtype), copy=False)
        np.copyto(values, inputs, where=observed, casting="same_kind")
        return values

    def _keeps(self, output: Output, keep_observed: bool | None) -> bool:
        return output == "value" and (self.keeps_observed if keep_observed is None else keep_observed)

    def _check(self, output: Output, scale: Scale | None) -> None:
        if output not in self.outputs:
            text = f"this result has no output {output!r}: choose one of {', '.join(sorted(self.outputs))}"
            raise InputError(text, code="unknown-output", parameter="output")
        if scale is not None and scale not in SCALES:
            text = f"there is no scale {scale!r}: choose one of {', '.join(SCALES)}"
            raise InputError(text, code="unknown-scale", parameter="scale")
        if scale not in (None, "input") and self.data.kind == "real":
            text = f"scale {scale!r} needs counts, and these values are real: pass {{scale}}"
            raise InputError(text, code="scale-needs-counts", scale="input")

    def _convert(self, values: np.ndarray, i: np.ndarray, output: Output, scale: Scale | None) -> np.ndarray:
        if output == "normalized" and scale is not None:  # this output is on the scale "normalized" already
            values = scale_to_counts(values, self._depth[i], "normalized")
        if scale in (None, "input", "counts") or output == "dropout_probability":
            return values
        if output == "variance":
            text = f"there is no variance on scale {scale!r}: pass {{scale}}"
            raise InputError(text, code="variance-scale", scale="counts")
        return counts_to_scale(values, self._depth[i], scale)

    @cached_property
    def _depth(self) -> np.ndarray:
        return self.data.depth

    @staticmethod
    def _positions(selection: Any, names: pd.Index, what: str) -> np.ndarray:
        """Non-negative positions of a slice, a boolean mask, integers or names."""
        size = len(names)
        if isinstance(selection, slice):
            return np.arange(*selection.indices(size))
        array = np.atleast_1d(np.asarray(selection))
        if array.ndim != 1:
            text = f"the selection of {what}s has shape {array.shape}: pass a flat list"
            raise InputError(text, code="selection-shape")
        if array.size == 0:
            return np.empty(0, dtype=np.intp)
        if array.dtype == bool:
            if len(array) != size:
                text = f"the {what} mask has {len(array)} values for {size} {what}s: pass one value each"
                raise InputError(text, code="mask-length")
            return np.flatnonzero(array)
        if array.dtype.kind in "iu":
            if array.min() < -size or array.max() >= size:
                raise InputError(f"{what} positions must be from {-size} to {size - 1}", code="position-out-of-range")
            return np.where(array < 0, array + size, array)
        if not names.is_unique:
            raise InputError(f"{what} names are not unique: select {what}s by position", code="names-not-unique")
        positions = names.get_indexer(array)
        if (positions < 0).any():
            raise InputError(f"there is no {what} {array[positions < 0][0]!r}", code=f"unknown-{what}")
        return positions
