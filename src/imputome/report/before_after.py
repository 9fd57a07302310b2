"""The values of a result before and after imputing, read in blocks of cells, for the plots and for the report page.

Letters: ``n`` cells, ``G`` imputed genes, ``s`` cells of a sample. Of real values, read "samples" and "features".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from imputome.core.arrays import in_memory
from imputome.core.data import Data, Kind, as_data
from imputome.core.imputation import Imputation, Output
from imputome.core.scales import TARGET, Scale, counts_to_scale, holds_molecules, is_integer, scale_to_counts
from imputome.errors import InputError
from imputome.evaluation.clustering import coordinates
from imputome.evaluation.maps import SAMPLED_CELLS, CellSpace, known_frame, per_10k, rotated, sampled, sparse_moments
from imputome.evaluation.metrics import COVERAGE, METRICS
from imputome.inspection.source import find_matrix, is_raw, raw_columns
from imputome.result.adapt import counted_of_raw, to_molecules
from imputome.result.record import Record, find_record, meant
from imputome.trust.null import STRONG
from imputome.trust.zeros import Zeros, zeros_before_and_after

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Map = Literal["pca", "umap"]

BLOCK_VALUES = 2**22  # dense values in memory at a time
DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "one": "best at 1"}
DIRECTIONS["nominal"] = f"best at {COVERAGE:g}"
# usual names of columns of obs with cell types, clusters or other groups, the best first
LABEL_COLUMNS = (
    *("cell_type", "celltype", "cell_types", "type", "label", "labels", "cluster", "clusters", "leiden", "louvain"),
    *("subtype", "group", "condition", "batch", "sample", "donor"),
)


class Words(NamedTuple):
    """What rows and columns of the matrix are called."""

    rows: str
    columns: str

    @property
    def row(self) -> str:
        return self.rows[:-1]

    @property
    def column(self) -> str:
        return self.columns[:-1]


WORDS = {"counts": Words("cells", "genes"), "real": Words("samples", "features")}


# -- values ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class BeforeAfter:
    """The values of one result before and after imputing, read for some cells at a time.

    Counts are given as counts, at the depth of their cell, normalised or log-transformed input as counts per 10,000,
    and real values as they are.
    """

    matrix: Any  # (n, G') what was imputed: sparse or dense, in memory or in a file; NaN is a missing real value
    # ``read_imputed(cells, genes)`` gives the imputed values, dense, on ``scale``: ``cells`` are positions in ascending
    # order, ``genes`` positions in ``var_names``, or None for all
    read_imputed: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    obs_names: pd.Index  # (n,)
    var_names: pd.Index  # (G,)
    kind: Kind
    state: str  # of ``matrix``: "counts", a scale of counts such as "log1p", or a state of real values
    scale: Scale  # of what ``read_imputed`` gives
    columns: np.ndarray | None = None  # (G,) positions in ``matrix`` of the imputed genes; None: all
    library_size: np.ndarray | None = None  # (n,); None: row sums of ``matrix``, or 10,000 where it holds no counts
    counted_columns: np.ndarray | None = None  # positions in ``matrix`` of the genes of the library size; None: all
    where: str = "X"  # where ``matrix`` is in the AnnData, for messages
    rounding: str | None = None  # how expected counts in ``matrix`` were rounded; None: they were not
    rounding_seed: int = 0

    @property
    def counted(self) -> bool:
        """Whether the input was raw counts, so that zeros and library sizes can be shown."""
        return self.kind == "counts" and (self.state == "counts" or self.state.endswith("_counts"))

    @property
    def unit(self) -> str:
        """Unit of ``log1p`` of `normalized`, or of real values."""
        return "ln(1 + counts per 10,000)" if self.kind == "counts" else "unit of the input"

    def sample(self, max_cells: int, seed: int) -> np.ndarray:
        """Positions of all cells, or of ``max_cells`` drawn at random, in ascending order."""
        if max_cells < 3:
            message = f"max_cells={max_cells} is too few: pass 3 or more"
            raise InputError(message, code="too-few-cells", parameter="max_cells")
        return sampled(len(self.obs_names), max_cells, seed)

    def gene(self, name: str) -> int:
        """Position of an imputed gene."""
        places = np.flatnonzero(self.var_names == name)
        if len(places) == 0:
            message = f"there is no gene {name!r} among the {len(self.var_names)} imputed genes"
            raise InputError(message + meant(name, self.var_names), code="unknown-gene")
        if len(places) > 1:
            message = f"{len(places)} genes are called {name!r}: run adata.var_names_make_unique() first"
            raise InputError(message, code="gene-ambiguous")
        return int(places[0])

    def depth(self, cells: np.ndarray) -> np.ndarray:
        """(s,) library sizes over all genes."""
        if self.library_size is not None:
            return np.asarray(self.library_size, dtype=np.float64)[cells]
        if not holds_molecules(self.state):
            return np.full(len(cells), TARGET)
        block = self._molecules(cells)
        block = block if self.counted_columns is None else block[:, self.counted_columns]
        return np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()

    def _molecules(self, cells: np.ndarray) -> Any:
        """(s, G') counts, or values linear in counts, of all genes of ``matrix``."""
        block = in_memory(self.matrix[cells])
        return to_molecules(block, self.state, self.rounding, seed=self.rounding_seed, rows=cells)

    def before(self, cells: np.ndarray, genes: np.ndarray | None = None) -> Any:
        """(s, G) values before imputing, as an ndarray or ``csr_array``."""
        block = in_memory(self.matrix[cells]) if self.kind == "real" else self._molecules(cells)
        stored = block if isinstance(block, np.ndarray) else block.data
        if self.state == "counts" and not is_integer(stored):
            message = f"{self.where} no longer holds the counts that were imputed: pass {{before}} with their layer"
            raise InputError(message, code="counts-changed", before=...)
        if self.columns is not None:
            genes = self.columns if genes is None else self.columns[genes]
        return block if genes is None else block[:, genes]

    def after(self, cells: np.ndarray, genes: np.ndarray | None = None) -> np.ndarray:
        """(s, G) float64 values after imputing, in the unit of `before`."""
        values = np.asarray(self.read_imputed(cells, genes), dtype=np.float64)
        return values if self.kind == "real" else scale_to_counts(values, self.depth(cells)[:, None], self.scale)

    def normalized(self, cells: np.ndarray, genes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(s, G) dense values before and after: counts per 10,000 of the library before, or real values."""
        before = self.before(cells, genes)
        before = np.asarray(before if isinstance(before, np.ndarray) else before.toarray(), dtype=np.float64)
        after = self.after(cells, genes)
        if self.kind == "real":
            return before, after
        depth = self.depth(cells)[:, None]
        return counts_to_scale(before, depth, "normalized"), counts_to_scale(after, depth, "normalized")

    def data(self, cells: np.ndarray) -> Data:
        """The values before imputing as input of a method, with library sizes over all genes."""
        names = {"obs_names": self.obs_names[cells], "var_names": self.var_names}
        data = as_data(self.before(cells), kind=self.kind, **names)
        return data if self.kind == "real" else replace(data, library_size=self.depth(cells))

    def zeros(self, cells: np.ndarray) -> Zeros:
        """Zeros of each gene before and after imputing, counted in blocks of cells."""
        stored = Imputation(_Stored(self, cells), self.data(cells), scale="counts", keeps_observed=False)
        return zeros_before_and_after(stored)


class _Stored:
    """Values that were imputed before, in place of a model."""

    outputs: frozenset[Output] = frozenset({"value"})

    def __init__(self, values: BeforeAfter, cells: np.ndarray) -> None:
        self.values, self.cells = values, cells

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output = "value") -> np.ndarray:
        return self.values.after(self.cells[rows], genes)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output = "value") -> np.ndarray:
        rows, place = np.unique(i, return_inverse=True)
        return np.asarray(self.rows(rows, None)[place, j])


def stored_result(adata: AnnData, key: str | None, before: str | None = None) -> tuple[str, Record, BeforeAfter]:
    """Key, record and values of a result of an AnnData, in memory or backed by a file.

    ``before`` is the layer with the values before imputing, if they are no longer where they were.
    """
    key, record = find_record(adata, key)
    layer = record.input.layer if before is None else before
    try:
        matrix, where = find_matrix(adata, layer)
    except InputError as error:
        where = "X" if layer is None else f"layers[{layer!r}]"
        message = f"{where} with the values before imputing no longer exists: pass {{before}} with another layer, "
        message += f"or impute again; layers here: {', '.join(adata.layers) or 'none'}"
        raise InputError(message, code="layer-missing", before=...) from error
    names, columns = adata.var_names, raw_columns(adata) if is_raw(adata, layer) else None
    used = np.flatnonzero(adata.var[f"{key}_imputed"]) if record.left_out else None  # of the genes of ``adata``
    imputed_names = names if used is None else names[used]
    counted = used if columns is None else counted_of_raw(adata, record.feature_type, imputed_names)
    if key in adata.layers:
        imputed = adata.layers[key]
        if used is not None:
            names, columns = names[used], used if columns is None else columns[used]
        partial = record.genes is not None and not is_raw(adata, layer) and holds_molecules(record.input.state)
        if partial and record.scale not in ("counts", "input", record.input.state):
            message = f"only the imputed genes of {key!r} were kept, so library sizes are not known: impute again, "
            raise InputError(message + "all genes or with {scale}", code="library-size-unknown", scale="counts")
    elif key in adata.obsm and hasattr(adata.obsm[key], "columns"):  # some genes only
        imputed, names = adata.obsm[key].to_numpy(), adata.obsm[key].columns
        if not adata.var_names.is_unique or not names.isin(adata.var_names).all():
            message = f"the genes of obsm[{key!r}] are not those of var_names: impute again"
            raise InputError(message, code="result-values-missing")
        places = adata.var_names.get_indexer(names)
        if used is not None:
            kept = np.isin(places, used)
            imputed, names, places = imputed[:, kept], names[kept], places[kept]
        columns = places if columns is None else columns[places]
    else:
        message = f"the values of {key!r} are neither in layers nor in obsm: impute again"
        raise InputError(message, code="result-values-missing")

    def read_imputed(cells: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        if key in adata.layers and used is not None:
            genes = used if genes is None else used[genes]
        return _dense(imputed, cells, genes)

    values = BeforeAfter(
        matrix=matrix,
        read_imputed=read_imputed,
        obs_names=adata.obs_names,
        var_names=names,
        kind=record.input.kind,
        state=record.input.state,
        scale=record.scale,
        columns=columns,
        counted_columns=counted,
        where=where,
        rounding=record.input.rounding,
        rounding_seed=record.input.rounding_seed or 0,
    )
    return key, record, values


def _dense(matrix: Any, rows: np.ndarray, columns: np.ndarray | None) -> np.ndarray:
    """Part of a matrix in memory or in a file; each chunk of a file is decompressed once."""
    chunks = getattr(matrix, "chunks", None)
    if chunks and not isinstance(matrix, np.ndarray):
        groups = np.split(rows, np.flatnonzero(np.diff(rows // chunks[0])) + 1)
        block = np.concatenate(
            [np.asarray(matrix[int(group[0]) : int(group[-1]) + 1])[group - group[0]] for group in groups]
        )
    else:
        block = matrix[rows]
    block = block if columns is None else block[:, columns]
    return block.toarray() if hasattr(block, "toarray") else np.asarray(block)


def usual_labels(obs: pd.DataFrame) -> list[str]:
    """Columns of ``obs`` with a usual name for cell types, clusters or groups, the best first."""
    columns = {str(name).lower(): str(name) for name in reversed(obs.columns)}
    return [columns[name] for name in LABEL_COLUMNS if name in columns]


def strong_shares(null: pd.DataFrame) -> tuple[float, float]:
    """Share of the pairs of permuted genes with a correlation of 0.5 or more, or -0.5 or less, before and after."""
    strong = (null["low"] >= STRONG - 1e-9) | (null["high"] <= -STRONG + 1e-9)
    return float(null["before"][strong].sum()), float(null["after"][strong].sum())


def direction(metric: str) -> str:
    """Which scores are good, in words; empty for a metric that is not known."""
    return DIRECTIONS[METRICS[metric].better] if metric in METRICS else ""


# -- what is measured on a sample --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Measured:
    """What was measured on a sample of s cells."""

    cells: np.ndarray  # (s,) positions of the cells
    # a row for each gene: ``mean_before``, ``mean_after``, ``variance_before``, ``variance_after``; of raw counts also
    # ``zeros_before`` and ``zeros_after`` (shares of the cells), ``confident`` and ``raised`` (number of confident
    # biological zeros, and of those imputed above one count); of real values also ``missing``, a share
    genes: pd.DataFrame
    totals: pd.DataFrame  # a row for each cell: ``name``, ``before``, ``after`` (library size, or mean of the values)
    # a row for each cell: ``name``, ``x_before``, ``y_before``, ``x_after``, ``y_after``; None: too few cells or genes
    embedding: pd.DataFrame | None
    map: Map  # how the embedding was made


def measure(values: BeforeAfter, *, map: Map, seed: int, max_cells: int = SAMPLED_CELLS) -> Measured:
    """Measure each gene and each cell of a sample before and after imputing.

    Cost: the imputed values of ``max_cells`` cells, read in blocks, and a map of these cells.
    """
    import pandas as pd

    if map not in get_args(Map):
        raise InputError(f"unknown map {map!r}: choose pca or umap", code="parameter-value", parameter="map")
    counts = values.kind == "counts"
    cells = values.sample(max_cells, seed)
    before = values.data(cells)
    s, G = before.shape
    space = CellSpace(before, seed=seed)
    map_values = np.empty((s, len(space.genes)), dtype=np.float32)
    after_totals, sums, squares = np.empty(s), np.zeros(G), np.zeros(G)
    shift = np.zeros(G)  # squares are taken of the distance from the first cell, so that no digits cancel
    step = max(1, BLOCK_VALUES // max(1, G))
    for start in range(0, s, step):
        part = slice(start, start + step)
        block = values.after(cells[part])
        if start == 0:
            shift = block[0].copy()
        sums += (block - shift).sum(axis=0)
        squares += np.square(block - shift).sum(axis=0)
        after_totals[part] = block.sum(axis=1) if counts else block.mean(axis=1)
        map_values[part] = block[:, space.genes]
    shifted = sums / s
    after = {"mean_after": shifted + shift, "variance_after": np.maximum(squares / s - shifted**2, 0)}
    if counts:
        before_totals = np.asarray(before.X.sum(axis=1, dtype=np.float64)).ravel()
        mean, variance = sparse_moments(before.X)
        further = {}
        if values.counted:
            zeros = values.zeros(cells)
            further = {"zeros_before": zeros.before, "zeros_after": zeros.after}
            further |= {"confident": zeros.confident, "raised": zeros.raised}
    else:
        known = known_frame(before)
        before_totals, mean = known.mean(axis=1).to_numpy(), known.mean().to_numpy()
        variance, further = known.var(ddof=0).to_numpy(), {"missing": known.isna().mean().to_numpy()}
    columns = {"mean_before": mean, "variance_before": variance} | after | further
    names = values.obs_names[cells].astype(str)
    genes = pd.DataFrame(columns, index=values.var_names.astype(str))
    totals = pd.DataFrame({"name": names, "before": before_totals, "after": after_totals})
    embedding = _embedding(before, map_values, space, names, map=map, seed=seed)
    return Measured(cells, genes, totals, embedding, map)


def _embedding(
    before: Data, after: np.ndarray, space: CellSpace, names: pd.Index, *, map: Map, seed: int
) -> pd.DataFrame | None:
    """A map of the cells by their values before and one by their values after, rotated to match the first."""
    import pandas as pd

    if before.shape[0] < 5 or len(space.genes) < 3:
        return None
    after = np.maximum(after, 0) * per_10k(before)[:, None] if before.kind == "counts" else after
    components = [space.of_data(before), space.of_values(after)]
    if map == "umap":
        components = [coordinates(block, random_state=seed) for block in components]
    first, second = (block[:, :2] for block in components)
    if first.shape[1] < 2 or second.shape[1] < 2:
        return None
    second, first = rotated(second, first), first - first.mean(axis=0)
    columns = {"x_before": first[:, 0], "y_before": first[:, 1], "x_after": second[:, 0], "y_after": second[:, 1]}
    return pd.DataFrame({"name": names, **columns})
