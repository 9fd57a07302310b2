"""The state of a matrix (counts, log-transformed, normalised, z-scores, beta values, ...) and the problems in it.

`inspect` reads the matrix once, in pieces and by its stored values, so a sparse or backed matrix is never made dense.
It only describes the matrix; `imputome.result.adapt` decides what a method accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.scales import is_integer
from imputome.errors import InputError, Message

if TYPE_CHECKING:
    import pandas as pd

State = Literal["counts", "log1p", "normalized", "scaled", "real", "beta"]

ENTRIES_PER_PIECE = 2**21  # read at a time: 16 MiB if all of them are stored
TOLERANCE = 1e-6  # largest distance of an integer from the nearest whole number
LOG_BASES = {"e": 1.0, "2": np.log(2.0), "10": np.log(10.0)}  # and the factor that makes them natural logs

# Thresholds, chosen on the data sets of `imputome.datasets` and on what scanpy computes from them (see the tests)
MAX_LOG = 20.0  # log2 of a million is 20: log-transformed expression is never higher
MAX_SPREAD_OF_TOTALS = 0.01  # relative distance of nine in ten row totals from their median, if totals are constant
MANY_ZEROS = 0.25  # share of zeros; above it they are taken for dropouts and not for measurements
FEW_OUTSIDE = 0.01  # share of values outside 0 to 1; up to it they are taken for mistakes in beta values
MIN_MAX_OF_PERCENTAGES = 90.0  # the maximum of percentages is near 100, that of log-transformed values never is
FEW_NEGATIVES = 0.1  # share of the nonzero integers; above it these are differences and not damaged counts

ROWS_FOR_BLOCKS = 200  # samples in which missing blocks are looked for

_GENE = re.compile(
    r"ENS[A-Z]{0,4}G\d{8,}(\.\d+)?"
    r"|ACTB|GAPDH|MALAT1|B2M|EEF1A1|Actb|Gapdh|Malat1|B2m|Eef1a1"
    r"|RP[LS]\d+[A-Z]?\d*|Rp[ls]\d+[a-z]?\d*|MT-[A-Z0-9]+|mt-[A-Z][A-Za-z0-9]+"
)
_BARCODE = re.compile(r"(?:^|[^A-Za-z])[ACGT]{10,}(?:x?$|[^A-Za-z])")

_DESCRIPTIONS: dict[State, str] = {
    "counts": "integers",
    "log1p": "log-transformed",
    "normalized": "non-integer",
    "scaled": "z-scores",
    "real": "real values",
    "beta": "fractions",
}


@dataclass(frozen=True)
class InputReport:
    """The result of `inspect` for a matrix of cells x genes."""

    shape: tuple[int, int]
    state: State
    kind: Literal["counts", "real"]  # "counts" if a zero may be a dropout: the first three states
    n_nonzero: int  # known entries that are not zero
    density: float  # their share of all entries
    minimum: float | None  # of the finite entries, including zeros that are not stored; None if there are none
    maximum: float | None
    n_nan: int
    n_negative: int
    n_infinite: int
    n_noninteger: int
    empty_cells: int  # without observed values (nonzero for counts, not NaN for real values)
    empty_genes: int
    duplicate_obs: int  # names that repeat an earlier name
    duplicate_var: int
    genes_in_rows: bool  # whether the names suggest genes x cells
    log_base_total: float | None  # for log1p: the sum of expm1 over a row, if it is the same in all rows
    where: str  # "X" or, for example, "layers['counts']"
    warnings: tuple[Message, ...]  # problems of the matrix, each with the remedy
    errors: tuple[Message, ...]  # why the matrix cannot be imputed
    layer: str | None = None  # None for X and other matrices

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Size and state as two sentences, without the warnings and errors."""
        rows, columns = ("cells", "genes") if self.kind == "counts" else ("samples", "features")
        size = f"{self.shape[0]:,} {rows} x {self.shape[1]:,} {columns}, {100 * self.density:.1f} % nonzero"
        if self.n_nan:
            size += f", {100 * self.n_nan / (self.shape[0] * self.shape[1]):.1f} % missing (NaN)"
        state = f"state: {self.state} ({_DESCRIPTIONS[self.state]}"
        if self.minimum is not None and self.maximum is not None:
            state += f", {self.minimum:,.6g} to {self.maximum:,.6g}"
        if self.log_base_total is not None:
            state += f", of {self.log_base_total:,.6g} per cell"
        return [size, f"{state}), in {self.where}"]


def inspect(data: Any, *, layer: str | None = None) -> InputReport:
    """Describe the state of a matrix, and the problems to solve before it is imputed.

    Parameters
    ----------
    data : AnnData or array-like of shape (n, G)
        Cells in rows: AnnData (also backed), ndarray, sparse matrix, dask array or DataFrame.
    layer : str, optional
        Layer of the AnnData; None means ``X``.

    Returns
    -------
    InputReport

    Raises
    ------
    InputError
        There is no matrix: the layer does not exist, ``X`` is None, or the array is not 2-d. Problems of a matrix that
        exists are in `InputReport.warnings` and `InputReport.errors`.

    Examples
    --------
    >>> import numpy as np
    >>> import imputome
    >>> counts = np.random.default_rng(0).poisson(2.0, size=(50, 20))
    >>> report = imputome.inspect(counts)
    >>> report.state, report.maximum, report.warnings
    ('counts', 9.0, ())
    >>> report = imputome.inspect(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)))
    >>> report.state, [warning.code for warning in report.warnings]
    ('log1p', ['looks-log1p'])
    """
    matrix, where = _matrix(data, layer)
    is_anndata = hasattr(data, "obs_names")
    obs_names, var_names = _names(data)
    tally = Tally(*matrix.shape)
    not_numeric = _not_numeric(matrix, where)
    if not not_numeric:
        for block, row, column in pieces(matrix):
            tally.add(block, row, column)
    state, base, total = _classify(tally, matrix)
    kind: Literal["counts", "real"] = "counts" if state in ("counts", "log1p", "normalized") else "real"
    per_row, per_column = tally.observed(kind)
    orientation = _orientation(obs_names, var_names, is_anndata=is_anndata)
    finite = tally.minimum <= tally.maximum
    report = InputReport(
        shape=(tally.n, tally.G),
        state=state,
        kind=kind,
        n_nonzero=tally.n_nonzero,
        density=tally.n_nonzero / max(tally.n * tally.G, 1),
        minimum=tally.minimum if finite else None,
        maximum=tally.maximum if finite else None,
        n_nan=tally.n_nan,
        n_negative=tally.n_negative,
        n_infinite=tally.n_infinite,
        n_noninteger=tally.n_noninteger,
        empty_cells=int((per_row == 0).sum()),
        empty_genes=int((per_column == 0).sum()),
        duplicate_obs=int(obs_names.duplicated().sum()) if obs_names is not None else 0,
        duplicate_var=int(var_names.duplicated().sum()) if var_names is not None else 0,
        genes_in_rows=bool(orientation),
        log_base_total=total if base == "e" else None,
        where=where,
        layer=layer,
        warnings=(),
        errors=(),
    )
    if not_numeric:
        return replace(report, errors=(not_numeric,), warnings=tuple(orientation))
    error = _error(report)
    warnings = [] if error else _state_warnings(report, base, data, layer, tally)
    if not error and (blocks := _lacked_by_groups(report, matrix)):
        warnings = [blocks] + [warning for warning in warnings if warning.code != "integers-with-nan"]
    warnings += orientation + _repeated_names(report, is_anndata=is_anndata)
    warnings += [] if error else _empty_rows_and_columns(report)
    return replace(report, warnings=tuple(warnings), errors=(error,) if error else ())


def _matrix(data: Any, layer: str | None) -> tuple[Any, str]:
    """The matrix, and what to call it in messages."""
    import scipy.sparse as sp

    if layer is not None:
        layers = getattr(data, "layers", {})
        if layer not in layers:
            text = f"there is no layer {layer!r} (layers: {', '.join(layers) or 'none'})"
            raise InputError(text, code="layer-missing", parameter="layer")
        return layers[layer], f"layers[{layer!r}]"
    matrix = data.X if hasattr(data, "obs_names") else data
    if matrix is None:
        text = f"X is None: pass {{layer}} (layers: {', '.join(data.layers) or 'none'})"
        raise InputError(text, code="no-matrix", layer=...)
    if not hasattr(matrix, "shape"):
        matrix = np.asarray(matrix)
    if len(matrix.shape) != 2:
        text = f"the input must be a matrix of cells x genes, not an array of shape {tuple(matrix.shape)}"
        raise InputError(text, code="not-a-matrix")
    if sp.issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    return matrix, "X"


def _names(data: Any) -> tuple[pd.Index | None, pd.Index | None]:
    if hasattr(data, "obs_names"):
        return data.obs_names, data.var_names
    if hasattr(data, "iloc"):
        return data.index, data.columns
    return None, None


def _first_three(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


# -- errors ------------------------------------------------------------------------------------------------------------
def _not_numeric(matrix: Any, where: str) -> Message | None:
    """The error of a matrix that does not hold numbers."""
    if hasattr(matrix, "iloc"):
        from pandas.api.types import is_numeric_dtype

        columns = [str(name) for name, dtype in matrix.dtypes.items() if not is_numeric_dtype(dtype)]
        if not columns:
            return None
        text = f"{where} has columns without numbers ({_first_three(columns)}): remove them or make them the index"
    elif matrix.dtype.kind in "biuf":
        return None
    else:
        text = f"{where} holds {matrix.dtype} values: convert them to numbers"
    return Message(text, code="not-numeric")


def _error(report: InputReport) -> Message | None:
    """Why a matrix of numbers cannot be imputed."""
    n, G = report.shape
    where = report.where
    if n == 0 or G == 0:
        return Message(f"{where} is empty ({n} cells x {G} genes)", code="empty-matrix")
    if report.n_infinite:
        text = f"{where} holds {report.n_infinite:,} infinite values: replace them with NaN or with finite values"
        return Message(text, code="infinite-values")
    if report.n_nan == n * G:
        text = f"{where} holds only NaN: pass {{layer}}, the layer with the values"
        return Message(text, code="no-values", layer=...)
    if report.empty_cells == n or report.empty_genes == G:
        text = f"{where} holds only zeros: pass {{layer}}, the layer with the counts"
        return Message(text, code="only-zeros", layer=...)
    return too_small(report)


def too_small(report: InputReport) -> Message | None:
    """The error of a matrix with fewer than 2 observed cells or genes; a fitted model can still be applied to it."""
    n, G = report.shape
    rows, columns = n - report.empty_cells, G - report.empty_genes
    if rows >= 2 and columns >= 2:
        return None
    text = f"only {rows} of {n} cells and {columns} of {G} genes in {report.where} have observed values"
    return Message(f"{text}: imputation learns from others, so it needs at least 2 of each", code="too-small")


# -- warnings ----------------------------------------------------------------------------------------------------------
def _state_warnings(report: InputReport, base: str | None, data: Any, layer: str | None, tally: Tally) -> list[Message]:
    """What the state means for an imputation; nothing for plain counts."""
    where, low, high = report.where, report.minimum, report.maximum
    if report.state == "counts":
        if report.n_negative:
            text = f"{where} holds {report.n_negative:,} negative values among integers (minimum {low:g})"
            return [Message(f"{text}, which counts cannot have: pass the raw counts", code="negative-counts")]
        text = f"{where} holds only 0 and 1 and looks binarised, which loses the amounts: pass the original counts"
        return [Message(text, code="looks-binarised")] if high == 1 else []
    if report.n_nan:
        return _warnings_with_nan(report, tally)
    code = f"looks-{report.state}"
    advice, raw, options = _where_counts_are(data, layer)
    if report.kind == "counts":
        look = "log-transformed" if report.state == "log1p" else "normalised or corrected"
        largest = f"{high:.3g}" if report.state == "log1p" else f"{high:.6g}"
        text = f"{where} looks {look} (max {largest}, non-integer): {advice}, or {{scale}} to impute on this scale{raw}"
        warnings = [Message(text, code=code, **options, scale=report.state)]
        if base not in (None, "e"):
            text = f"{where} looks like log{base}(1 + x), but log1p is the natural log: multiply by ln({base}) first"
            warnings.append(Message(text, code="log-base"))
        return warnings
    look = {"scaled": "z-scored", "beta": "like beta values", "real": "real-valued"}[report.state]
    if report.n_negative:
        look += f", with {report.n_negative:,} negative values (minimum {low:.3g}), which counts cannot have"
    remedy = "mark missing values by NaN"
    if report.state == "beta":  # there are no raw counts to pass
        options = {}
    else:
        remedy = f"{advice}, or {remedy}{raw}"
    return [Message(f"{where} looks {look}; it has no NaN, so nothing is missing: {remedy}", code=code, **options)]


def _warnings_with_nan(report: InputReport, tally: Tally) -> list[Message]:
    """Warnings of a matrix that is real-valued because it holds NaN: nearly beta values, or counts with NaN."""
    where, low, high, outside = report.where, tally.minimum, tally.maximum, tally.n_outside
    if 0 < outside <= FEW_OUTSIDE * (tally.n * tally.G - tally.n_nan):
        text = (
            f"{outside:,} values in {where} are outside 0 to 1 (all values: {low:.6g} to {high:.6g}), so imputed "
            "values are not limited to 0 to 1: if these are beta values, correct them"
        )
        return [Message(text, code="outside-beta-range")]
    if low >= 0 and MIN_MAX_OF_PERCENTAGES < high <= 100 and report.n_noninteger:
        text = f"{where} looks like percentages: divide methylation by 100 to keep imputed values in 0 to 1"
        return [Message(text, code="looks-percentages")]
    if report.n_noninteger == 0 and not report.n_negative and report.state == "real":
        text = f"{where} holds integers and {report.n_nan:,} NaN: if these are counts, replace NaN with 0"
        return [Message(text, code="integers-with-nan")]
    return []


def _lacked_by_groups(report: InputReport, matrix: Any) -> Message | None:
    """The warning that integers are missing in blocks, where 0 would be a false measurement."""
    from imputome.inspection.missingness import in_blocks
    from imputome.inspection.tails import random_positions

    if not report.n_nan or report.n_noninteger or report.n_negative:
        return None
    part = (matrix.iloc if hasattr(matrix, "iloc") else matrix)[random_positions(report.shape[0], ROWS_FOR_BLOCKS)]
    if hasattr(part, "compute"):
        part = part.compute()
    part = part.toarray() if hasattr(part, "toarray") else np.asarray(part, dtype=np.float64)
    if not in_blocks(part):
        return None
    text = (
        f"{report.where} holds integers and {report.n_nan:,} NaN in blocks: groups of samples lack the same features, "
        "as where these were not measured; do not put 0 for them, and if these are counts, leave out these features, "
        "or impute each group by itself"
    )
    return Message(text, code="not-measured")


def _where_counts_are(data: Any, layer: str | None) -> tuple[str, str, dict[str, Any]]:
    """How to pass the counts, a remark on ``adata.raw`` if it differs, and the options of the message."""
    if not hasattr(data, "layers"):
        return "pass the raw counts", "", {}
    layers = [name for name, matrix in data.layers.items() if name != layer and _integers(_first_block(matrix))]
    note = f"integers are in {_first_three([repr(name) for name in layers])}" if layers else "no layer holds integers"
    advice = f"pass {{layer}} if the counts are in a layer ({note})"
    options: dict[str, Any] = {"layer": layers[0] if layers else ...}
    if layer is not None and data.X is not None and _integers(_first_block(data.X)):
        advice, options = "leave out {layer}, because X holds integers", {"layer": layer}
    if getattr(data, "raw", None) is None:
        return advice, "", options
    raw, matrix = _first_block(data.raw.X), _first_block(data.X if layer is None else data.layers[layer])
    if data.raw.shape == data.shape and (raw != matrix).nnz == 0:
        return advice, "", options
    values = "integers" if _integers(raw) else "other values"
    n, G = data.raw.shape
    return advice, f"; adata.raw holds {values} ({n} x {G}): adata.raw.to_adata() makes them X", options


def _orientation(obs_names: pd.Index | None, var_names: pd.Index | None, *, is_anndata: bool) -> list[Message]:
    """The warning that this looks like genes x cells, if the names suggest it."""
    if obs_names is None or var_names is None:
        return []
    genes = [name for name in map(str, obs_names) if _GENE.fullmatch(name)]
    barcodes = [name for name in map(str, var_names) if _BARCODE.search(name)]
    signs = []
    if genes and not any(_GENE.fullmatch(str(name)) for name in var_names):
        signs.append(f"obs_names look like genes ({_first_three(genes)})")
    if 2 * len(barcodes) > len(var_names) and not any(_BARCODE.search(str(name)) for name in obs_names):
        signs.append(f"var_names look like cell barcodes ({_first_three(barcodes)})")
    if not signs:
        return []
    transposed = "adata.T" if is_anndata else ".T"
    text = f"{' and '.join(signs)}: transpose with {transposed}, or read a table with {{genes_in}}"
    return [Message(text, code="genes-in-rows", genes_in="rows")]


def _repeated_names(report: InputReport, *, is_anndata: bool) -> list[Message]:
    messages = []
    for axis, line, number in (("obs", "row", report.duplicate_obs), ("var", "column", report.duplicate_var)):
        remedy = f"call adata.{axis}_names_make_unique()" if is_anndata else f"give each {line} its own name"
        if number:
            messages.append(Message(f"{number:,} {axis}_names repeat others: {remedy}", code=f"duplicate-{axis}-names"))
    return messages


def _empty_rows_and_columns(report: InputReport) -> list[Message]:
    content = "only zeros" if report.kind == "counts" else "no value"
    messages = []
    for axis, number in (("cells", report.empty_cells), ("genes", report.empty_genes)):
        subject, pronoun = (f"1 {axis[:-1]} holds", "it") if number == 1 else (f"{number:,} {axis} hold", "them")
        text = f"{subject} {content}, so nothing can be learned about {pronoun}: remove {pronoun} (sc.pp.filter_{axis})"
        if number:
            messages.append(Message(f"{text}, or accept the fallback values", code=f"empty-{axis}"))
    return messages


# -- classification ----------------------------------------------------------------------------------------------------
def _classify(tally: Tally, matrix: Any) -> tuple[State, str | None, float | None]:
    """The state, the base of logarithms if it is clear, and the total of the rows before the log if it is constant."""
    size = tally.n * tally.G
    zeros = size - tally.n_nonzero - tally.n_nan
    fractions = 0 <= tally.minimum <= tally.maximum <= 1
    if tally.n_nan:
        return ("beta" if fractions else "real"), None, None
    if tally.n_noninteger == 0:
        return ("real" if tally.n_negative > FEW_NEGATIVES * tally.n_nonzero else "counts"), None, None
    mean, sd = tally.moments()
    if tally.n_negative:
        centred = len(sd) and np.median(np.abs(mean)) < 0.1 and 0.5 < np.median(sd) < 1.5
        return ("scaled" if centred else "real"), None, None
    if len(sd) and np.mean(np.abs(sd - 1) < 0.01) > 0.9:  # scaled without centring, as for sparse matrices
        return "scaled", None, None
    if zeros:  # quantile-normalised arrays have constant totals too, but no zeros
        before = {"": tally.totals, **(tally.log_totals if tally.maximum <= MAX_LOG else {})}
        spreads = {base: _spread(totals) for base, totals in before.items()}
        best = min(spreads, key=lambda base: spreads[base])
        if spreads[best] < MAX_SPREAD_OF_TOTALS:
            totals = before[best]
            return ("log1p", best, float(np.median(totals[totals > 0]))) if best else ("normalized", None, None)
        # a selection of genes has no constant totals, but its values still are multiples of one molecule
        block = _first_block(matrix)
        for base in before:
            if _from_counts(block, base):
                return ("log1p" if base else "normalized"), base or None, None
    if fractions and zeros < size / 2:
        return "beta", None, None
    if zeros > MANY_ZEROS * size:
        return ("log1p" if tally.maximum <= MAX_LOG else "normalized"), None, None
    return "real", None, None


def _spread(totals: np.ndarray) -> float:
    """Largest relative distance of nine in ten of the non-empty rows from the median row total."""
    totals = totals[totals > 0]
    return float(np.quantile(np.abs(totals / np.median(totals) - 1), 0.9)) if len(totals) > 1 else np.inf


def _from_counts(block: Any, base: str, *, n_rows: int = 200) -> bool:
    """Whether the values of a row are multiples of its smallest value (one molecule), which differs between rows.

    Only small multiples count, because rounding keeps them near integers. If all rows have the same smallest value, it
    is not a molecule but the last decimal of a table.
    """
    units, whole = [], []
    for start, stop in zip(block.indptr[:n_rows], block.indptr[1:], strict=False):
        row = block.data[start:stop].astype(np.float64)
        row = row[row > 0]
        if len(row) == 0:
            continue
        values = np.unique(np.expm1(row * LOG_BASES[base]) if base else row)
        multiples = values[1:] / values[0]
        multiples = multiples[multiples < 20]
        if len(multiples) > 2:
            units.append(np.float32(values[0]))
            whole.append(np.abs(multiples - np.rint(multiples)).max() < 0.05)
    return len(whole) > 1 and bool(np.mean(whole) > 0.8) and len(set(units)) > len(units) / 2


def _integers(block: Any) -> bool:
    return block.nnz > 0 and bool(block.data.min() >= 0) and is_integer(block.data)


def _first_block(matrix: Any) -> Any:
    return next(pieces(matrix))[0].tocsr()


# -- reading -----------------------------------------------------------------------------------------------------------
def pieces(matrix: Any) -> Iterator[tuple[Any, int, int]]:
    """Sparse blocks of the matrix and the row and column of their first entry; they store at least all nonzero entries.

    They go along the axis in which the matrix is stored, because a backed matrix can only be read that way.
    """
    import scipy.sparse as sp

    n, G = matrix.shape
    by_columns = getattr(matrix, "format", "csr") == "csc"
    length, width = (G, n) if by_columns else (n, G)
    step = max(ENTRIES_PER_PIECE // max(width, 1), 1)
    for start in range(0, length if width else 0, step):
        part = slice(start, start + step)
        if hasattr(matrix, "iloc"):
            block = matrix.iloc[part].to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            block = matrix[:, part] if by_columns else matrix[part]
        if hasattr(block, "compute"):
            block = block.compute()
        if not sp.issparse(block):
            block = sp.csr_array(np.asarray(block, dtype=np.float64))
        else:
            block.sum_duplicates()  # in place: a slice of a sparse matrix is a copy
        yield block, 0 if by_columns else start, start if by_columns else 0


class Tally:
    """Counts and sums over a matrix of n x G, collected in one pass."""

    def __init__(self, n: int, G: int) -> None:
        self.n, self.G = n, G
        self.n_nonzero = self.n_nan = self.n_negative = self.n_infinite = self.n_noninteger = 0
        self.n_outside = 0  # finite, and outside 0 to 1
        self.minimum, self.maximum = np.inf, -np.inf
        self.totals = np.zeros(n)
        self.log_totals = {base: np.zeros(n) for base in LOG_BASES}  # of the values before the log
        self.sums, self.squares = np.zeros(G), np.zeros(G)
        self.nonzero = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)
        self.nan = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)

    def add(self, block: Any, row: int, column: int) -> None:
        """Add a block from `pieces`."""
        n, G = block.shape
        coo = block.tocoo()
        rows, columns = slice(row, row + n), slice(column, column + G)
        values = coo.data.astype(np.float64)
        nan, infinite = np.isnan(values), np.isinf(values)
        known = (values != 0) & ~nan
        for total, where in ((self.nonzero, known), (self.nan, nan)):
            total[0][rows] += np.bincount(coo.row[where], minlength=n)
            total[1][columns] += np.bincount(coo.col[where], minlength=G)
        self.n_nonzero += int(known.sum())
        self.n_nan += int(nan.sum())
        self.n_infinite += int(infinite.sum())
        values[nan | infinite] = 0.0
        self.n_negative += int((values < 0).sum())
        self.n_noninteger += int((np.abs(values - np.rint(values)) > TOLERANCE).sum())
        finite = coo.data[~(nan | infinite)]
        self.n_outside += int(((finite < 0) | (finite > 1)).sum())
        if n * G > len(values):  # there are zeros that are not stored
            self.minimum, self.maximum = min(self.minimum, 0.0), max(self.maximum, 0.0)
        if len(finite):
            self.minimum = min(self.minimum, float(finite.min()))
            self.maximum = max(self.maximum, float(finite.max()))
        self.totals[rows] += np.bincount(coo.row, values, n)
        self.sums[columns] += np.bincount(coo.col, values, G)
        self.squares[columns] += np.bincount(coo.col, values**2, G)
        if self.maximum <= MAX_LOG and self.minimum >= 0:
            for base, factor in LOG_BASES.items():
                self.log_totals[base][rows] += np.bincount(coo.row, np.expm1(values * factor), n)

    def observed(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Observed entries of each row and column: nonzero for counts, not NaN for real values."""
        return self.nonzero if kind == "counts" else (self.G - self.nan[0], self.n - self.nan[1])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the columns that vary."""
        count = np.maximum(self.n - self.nan[1], 2)
        mean = self.sums / count
        sd = np.sqrt(np.maximum(self.squares - count * mean**2, 0) / (count - 1))
        return mean[sd > 0], sd[sd > 0]
