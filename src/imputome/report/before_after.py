"""What can be seen of values before and after imputing, on a sample of the cells, in blocks of rows.

Letters: ``n`` cells, ``G`` genes, ``s`` cells of the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.data import Data, Kind, as_data, in_memory
from imputome.core.imputation import Imputation, Output
from imputome.core.scales import TARGET, Scale, counts_to_scale, is_integer, scale_to_counts
from imputome.errors import InputError
from imputome.evaluation.clustering import coordinates, expression_components
from imputome.result.record import Record, find_record, meant
from imputome.trust.zeros import Zeros, zeros_before_and_after

if TYPE_CHECKING:
    import pandas as pd
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
    record: Record
    layer: str | None

    @property
    def counts(self) -> bool:
        return self.record.input.kind == "counts"

    @property
    def state(self) -> str:
        """``counts``, ``log1p``, ``normalized``, or a state of real values."""
        return self.record.input.state

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
        return self._normalized(values, rows, self.record.scale) if self.counts else values

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
        scale = self.stored.record.scale
        return scale_to_counts(values, self.stored._depth[rows, None], scale)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output = "value") -> np.ndarray:
        return self.rows(i, None)[np.arange(len(i)), j]


def stored(adata: AnnData, key: str | None, before: str | None = None) -> Stored:
    """The result of that key, or the only one; ``before`` names another layer with the values it was made from."""
    key, record = find_record(adata, key)
    layer = record.input.layer if before is None else before
    if layer is not None and layer not in adata.layers:
        there = ", ".join(adata.layers) or "none"
        raise InputError(f"there is no layer {layer!r} with the values before imputing; layers here: {there}")
    if layer is None and adata.X is None:
        raise InputError("X is empty: pass before=... with the layer that holds the values before imputing")
    return Stored(adata, key, record, layer)


Map = Literal["pca", "umap"]

CELLS = 2000  # looked at, at most
VARIABLE = 2000  # genes that cells are placed by, at most
VALUES = 2**22  # dense values made at a time


@dataclass(frozen=True)
class Values:
    """A matrix before and after imputing, as rows on request.

    Attributes
    ----------
    X : (n, G') what was imputed: sparse or dense, in memory or in a file; NaN is missing in real values.
    imputed : dense (len(rows), G) values of some rows, positions ascending.
    columns : (G,) positions in ``X`` of the genes that were imputed; None means all.
    kind : of the data.
    scale : of ``imputed``. ``X`` is counts, or real values.
    depth : (n,) library size of each cell over all genes; None for real values.
    """

    X: Any
    imputed: Callable[[np.ndarray], np.ndarray]
    obs_names: pd.Index
    var_names: pd.Index
    kind: Kind
    scale: Scale
    columns: np.ndarray | None = None
    depth: np.ndarray | None = None


@dataclass(frozen=True)
class Measured:
    """What was seen.

    Attributes
    ----------
    cells : (s,) positions of the cells looked at.
    genes : a row for each gene: ``mean_before``, ``mean_after``, ``variance_before``, ``variance_after``; of counts too
        ``zeros_before`` and ``zeros_after`` (shares of the cells), ``confident`` and ``raised`` (number of confident
        biological zeros, and of those imputed over one count); of real values ``missing``, a share.
    totals : a row for each cell: ``name``, ``before``, ``after``: its counts, or the mean of its values.
    embedding : a row for each cell: ``name``, ``x_before``, ``y_before``, ``x_after``, ``y_after``; None where there
        are too few.
    map : how cells were placed.
    """

    cells: np.ndarray
    genes: pd.DataFrame
    totals: pd.DataFrame
    embedding: pd.DataFrame | None
    map: Map


def measure(values: Values, *, map: Map, seed: int, max_cells: int = CELLS) -> Measured:
    """Look at a sample of the cells, each gene and each cell before and after.

    Cost: the imputed values of ``max_cells`` cells, made in blocks, and a map of these cells.
    """
    import pandas as pd

    rng = np.random.default_rng(seed)
    n, G = len(values.obs_names), len(values.var_names)
    cells = np.sort(rng.choice(n, max_cells, replace=False)) if n > max_cells else np.arange(n)
    before = sample(values, cells)
    seen = _variable(before)
    sums = _Sums(before)
    placed = np.empty((len(cells), len(seen)), dtype=np.float32)
    after_totals = np.empty(len(cells))
    chunk = max(1, VALUES // max(1, G))
    for start in range(0, len(cells), chunk):
        part = slice(start, start + chunk)
        block = np.asarray(values.imputed(cells[part]), dtype=np.float64)
        if before.kind == "counts":
            block = scale_to_counts(block, before.depth[part, None], values.scale)
        sums.add(part, block)
        after_totals[part] = block.sum(axis=1) if before.kind == "counts" else block.mean(axis=1)
        placed[part] = block[:, seen]
    names = values.obs_names[cells].astype(str)
    if before.kind == "counts":
        before_totals = np.asarray(before.X.sum(axis=1, dtype=np.float64)).ravel()
    else:
        before_totals = _mean(before.known_values(), axis=1)
    zeros = None
    if before.kind == "counts":
        shown = Imputation(_Shown(values, cells, before.depth), before, scale="counts", keeps_observed=False)
        zeros = zeros_before_and_after(shown)
    return Measured(
        cells=cells,
        genes=sums.to_frame(values.var_names, zeros),
        totals=pd.DataFrame({"name": names, "before": before_totals, "after": after_totals}),
        embedding=_embedding(before, placed, seen, names, map=map, seed=seed),
        map=map,
    )


def sample(values: Values, cells: np.ndarray) -> Data:
    """Some cells before imputing, in memory."""
    X = in_memory(values.X[cells])
    if values.columns is not None:
        X = X[:, values.columns]
    names = {"obs_names": values.obs_names[cells], "var_names": values.var_names}
    depth = None if values.depth is None else np.asarray(values.depth, dtype=np.float64)[cells]
    if values.kind == "real":
        return as_data(X, kind="real", **names)
    data = as_data(X, kind="counts", **names)
    return replace(data, library_size=depth)


class _Shown:
    """The imputed values of a sample as a model, for what takes an `Imputation`."""

    outputs: frozenset[Output] = frozenset({"value"})

    def __init__(self, values: Values, cells: np.ndarray, depth: np.ndarray) -> None:
        self.values, self.cells, self.depth = values, cells, depth

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        block = np.asarray(self.values.imputed(self.cells[rows]), dtype=np.float64)
        block = scale_to_counts(block, self.depth[rows, None], self.values.scale)
        return block if genes is None else block[:, genes]

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        rows, place = np.unique(i, return_inverse=True)
        return np.asarray(self.rows(rows, None, output)[place, j])


class _Sums:
    """Sums over cells of each gene, gathered block by block."""

    def __init__(self, before: Data) -> None:
        G = before.shape[1]
        self.before = before
        self.total, self.squares = np.zeros(G), np.zeros(G)
        self.shift = np.zeros(G)  # squares are taken of the distance from it, so that they do not cancel

    def add(self, part: slice, block: np.ndarray) -> None:
        """Values after imputing of the cells ``part`` of the sample."""
        if part.start == 0:
            self.shift = block[0].copy()
        self.total += (block - self.shift).sum(axis=0)
        self.squares += np.square(block - self.shift).sum(axis=0)

    def to_frame(self, names: pd.Index, zeros: Zeros | None) -> pd.DataFrame:
        import pandas as pd

        n = self.before.shape[0]
        shifted = self.total / n
        mean, variance = shifted + self.shift, np.maximum(self.squares / n - shifted**2, 0)
        old: dict[str, Any] = {}
        if zeros is not None:
            old_mean, old_variance = _sparse_moments(self.before.X)
            old = {"zeros_before": zeros.before, "zeros_after": zeros.after}
            old |= {"confident": zeros.confident, "raised": zeros.raised}
        else:
            known = self.before.known_values()
            old_mean = _mean(known, axis=0)
            old_variance = _mean(np.square(known - old_mean), axis=0)
            old = {"missing": np.isnan(known).mean(axis=0)}
        moments = {"mean_before": old_mean, "mean_after": mean}
        moments |= {"variance_before": old_variance, "variance_after": variance}
        return pd.DataFrame(moments | old, index=names.astype(str))


def _sparse_moments(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """(G,) mean and variance of the columns."""
    n, G = X.shape
    values = X.data.astype(np.float64)
    mean = np.bincount(X.indices, weights=values, minlength=G) / n
    squares = np.bincount(X.indices, weights=np.square(values), minlength=G) / n
    return mean, np.maximum(squares - mean**2, 0)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    number = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis, dtype=np.float64)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def _normalized(data: Data) -> Any:
    """Counts per 10,000 of the library, sparse."""
    return data.X * _factors(data)[:, None]


def _factors(data: Data) -> np.ndarray:
    """(n,) what a cell's counts are multiplied by to be per 10,000 of its library."""
    depth = data.depth
    return np.divide(TARGET, depth, out=np.zeros(len(depth)), where=depth > 0)


def _variable(before: Data) -> np.ndarray:
    """Positions of the genes that vary most before imputing, ascending."""
    if before.kind == "counts":
        import scipy.sparse as sp

        _, variance = _sparse_moments(sp.csr_array(_normalized(before)).log1p())
    else:
        known = before.known_values()
        # the features seen in the most samples; their units may differ, so that variances cannot be compared
        variance = (~np.isnan(known)).sum(axis=0) * (_mean(np.square(known - _mean(known, axis=0)), axis=0) > 0)
    return np.sort(np.argsort(-variance, kind="stable")[:VARIABLE])


def _embedding(
    before: Data, after: np.ndarray, genes: np.ndarray, names: pd.Index, *, map: Map, seed: int
) -> pd.DataFrame | None:
    """Places of the cells by values before and after, each by itself; the second turned onto the first."""
    import pandas as pd

    if before.shape[0] < 5 or len(genes) < 3:
        return None
    if before.kind == "counts":
        part = before.subset(columns=genes)
        part = replace(part, library_size=before.depth)
        components = [
            expression_components(_normalized(part)),
            expression_components(np.maximum(after, 0) * _factors(before)[:, None]),
        ]
    else:
        known = before.known_values()[:, genes]
        mean = _mean(known, axis=0)
        spread = np.sqrt(_mean(np.square(known - mean), axis=0))
        spread[~(spread > 0)] = 1
        filled = np.where(np.isnan(known), mean, known)
        components = [_components((block - mean) / spread, seed) for block in (filled, after)]
    if map == "umap":
        places = [coordinates(block, random_state=seed) for block in components]
    elif map == "pca":
        places = [block[:, :2] for block in components]
    else:
        raise InputError(f"unknown map {map!r}: choose pca or umap")
    if places[0].shape[1] < 2 or places[1].shape[1] < 2:
        return None
    first, second = places[0] - places[0].mean(axis=0), _turned(places[1], places[0])
    columns = {"x_before": first[:, 0], "y_before": first[:, 1], "x_after": second[:, 0], "y_after": second[:, 1]}
    return pd.DataFrame({"name": names, **columns})


def _components(values: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    values = np.nan_to_num(values)
    return np.asarray(PCA(min(50, min(values.shape) - 1), random_state=seed).fit_transform(values))


def _turned(places: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """``places`` centred, rotated or mirrored so that cells lie as near as they can to where they are in ``onto``."""
    centred = places - places.mean(axis=0)
    left, _, right = np.linalg.svd(centred.T @ (onto - onto.mean(axis=0)))
    return np.asarray(centred @ (left @ right))
