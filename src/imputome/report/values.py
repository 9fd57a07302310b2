"""Values before and after imputing, on one scale, for the plots that set them against each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.io.records import find_record, imputed_from, meant
from imputome.methods.base import Data, Imputation, Output, as_data, in_memory
from imputome.preprocessing.counts import TARGET, counts_to_scale, is_integer, scale_to_counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData


@dataclass(frozen=True)
class Stored:
    """A result in an AnnData and the values that it was made from.

    Attributes
    ----------
    layer : where the values before are; None means ``X``.
    """

    adata: AnnData
    key: str
    record: Mapping[str, Any]
    layer: str | None

    @property
    def counts(self) -> bool:
        return str(self.record["input"]["kind"]) == "counts"

    @property
    def state(self) -> str:
        """``counts``, ``log1p``, ``normalized``, or a state of real values."""
        return str(self.record["input"]["state"])

    @property
    def where(self) -> str:
        return "X" if self.layer is None else f"layers[{self.layer!r}]"

    @property
    def unit(self) -> str:
        """What `before` and `after` are measured in."""
        return "ln(1 + counts per 10,000)" if self.counts else "unit of the input"

    @cached_property
    def _before(self) -> Any:
        """The matrix before, in memory."""
        X = in_memory(self.adata.X if self.layer is None else self.adata.layers[self.layer])
        stored = X if isinstance(X, np.ndarray) else X.data
        if self.state == "counts" and not is_integer(stored):
            raise InputError(
                f"{self.where} held counts when {self.key!r} was made, and holds other values now: pass "
                "before=... with the layer that holds the counts"
            )
        return X

    @cached_property
    def _depth(self) -> np.ndarray:
        """(n,) library sizes; counts that came per 10,000 have that."""
        X = self._before
        if self.state != "counts":
            return np.full(X.shape[0], TARGET)
        return np.asarray(X.sum(axis=1), dtype=np.float64).ravel()

    def data(self) -> Data:
        """The counts as methods take them."""
        names = {"obs_names": self.adata.obs_names, "var_names": self.adata.var_names}
        return as_data(self._before, kind="counts", **names)

    def imputation(self) -> Imputation:
        """The layer as a result like any other: read a block of rows at a time, on scale ``counts``."""
        return Imputation(_Layer(self), self.data(), scale="counts", keeps_observed=False)

    def before(self, rows: np.ndarray, genes: np.ndarray | None = None) -> np.ndarray:
        """Dense values as they were; counts on scale ``normalized``, missing real values NaN."""
        part = self._before[rows]
        part = part if genes is None else part[:, genes]
        values = _floats(part)
        if not self.counts:
            return values
        state = self.state if self.state in ("log1p", "normalized") else "counts"
        return self._normalized(values, rows, state)

    def after(self, rows: np.ndarray, genes: np.ndarray | None = None) -> np.ndarray:
        """Dense values as imputed; counts on scale ``normalized``."""
        values = self.written(rows, genes)
        return self._normalized(values, rows, str(self.record["scale"])) if self.counts else values

    def written(self, rows: np.ndarray, genes: np.ndarray | None = None) -> np.ndarray:
        """Dense values of the result as they are stored."""
        names = self.adata.var_names
        if self.key in self.adata.layers:
            part = self.adata.layers[self.key][rows]
            part = part if genes is None else part[:, genes]
            return _floats(part)
        if self.key in self.adata.obsm and hasattr(self.adata.obsm[self.key], "columns"):  # some genes only
            table = self.adata.obsm[self.key]
            wanted = names if genes is None else names[genes]
            for name in wanted:
                if name not in table.columns:
                    raise InputError(f"{name!r} is not among the {table.shape[1]} genes that {self.key!r} holds")
            return _floats(table.iloc[rows][list(wanted)].to_numpy())
        raise InputError(f"the values of {self.key!r} are not here, neither in layers nor in obsm: impute again")

    def _normalized(self, values: np.ndarray, rows: np.ndarray, scale: str) -> np.ndarray:
        depth = self._depth[rows, None]
        counts = scale_to_counts(values, depth, scale)  # type: ignore[arg-type]
        return counts_to_scale(counts, depth, "normalized")

    def some_cells(self, most: int, seed: int) -> np.ndarray:
        """Positions of all cells, or of ``most`` drawn at random, in order."""
        if most < 3:
            raise InputError(f"max_cells={most} is too few for a picture: pass 3 or more")
        n = self.adata.n_obs
        if n <= most:
            return np.arange(n)
        return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))

    def gene(self, name: str) -> int:
        """Position of a gene; an unknown one is refused with one that is close."""
        names = self.adata.var_names
        where = np.flatnonzero(names == name)
        if len(where) == 0:
            raise InputError(f"there is no gene {name!r} in var_names{meant(name, names)}")
        if len(where) > 1:
            raise InputError(f"{len(where)} genes are called {name!r}: run adata.var_names_make_unique() first")
        return int(where[0])


def _floats(part: Any) -> np.ndarray:
    """A dense matrix of floats, in the precision that it has."""
    dense = np.asarray(part if isinstance(part, np.ndarray) else part.toarray())
    return dense if dense.dtype.kind == "f" else dense.astype(np.float32)


class _Layer:
    """A stored layer in the place of a model."""

    outputs: frozenset[Output] = frozenset({"value"})

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output = "value") -> np.ndarray:
        values = self.stored.written(rows, genes)
        scale = str(self.stored.record["scale"])
        return scale_to_counts(values, self.stored._depth[rows, None], scale)  # type: ignore[arg-type]

    def at(self, i: np.ndarray, j: np.ndarray, output: Output = "value") -> np.ndarray:
        return self.rows(i, None)[np.arange(len(i)), j]


def stored(adata: AnnData, key: str | None, before: str | None = None) -> Stored:
    """The result of that key, or the only one; ``before`` names another layer with the values it was made from."""
    key, record = find_record(adata, key)
    layer = imputed_from(record) if before is None else before
    if layer is not None and layer not in adata.layers:
        there = ", ".join(adata.layers) or "none"
        raise InputError(f"there is no layer {layer!r} with the values before imputing; layers here: {there}")
    if layer is None and adata.X is None:
        raise InputError("X is empty: pass before=... with the layer that holds the values before imputing")
    return Stored(adata, key, record, layer)
