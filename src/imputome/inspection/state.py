"""What state is this matrix in: counts, log-transformed, normalised, z-scored, beta values, and what is wrong with it.

`inspect` reads the matrix once, in pieces and by its stored values, so a sparse or backed matrix is never made dense.
It judges and says; what a method then accepts is decided by the facade.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.scales import is_integer
from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

PIECE = 2**21  # entries read at once: 16 MiB if they were all stored
TOLERANCE = 1e-6  # how far from an integer an integer may be
LOG_MAX = 20.0  # log2 of a million is 20: no log-transformed expression lies above it
LOG_BASES = {"e": 1.0, "2": np.log(2.0), "10": np.log(10.0)}


def pieces(matrix: Any) -> Iterator[tuple[Any, int, int]]:
    """Blocks of the matrix as sparse arrays that store at least all nonzero entries, with their first row and column.

    Blocks run along the axis in which the matrix is stored, which for a backed one decides whether it can be read.
    """
    import scipy.sparse as sp

    n, G = matrix.shape
    by_columns = getattr(matrix, "format", "csr") == "csc"
    length, width = (G, n) if by_columns else (n, G)
    step = max(PIECE // max(width, 1), 1)
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
    """Everything that is counted and summed over the matrix in one pass."""

    def __init__(self, n: int, G: int) -> None:
        self.n, self.G = n, G
        self.n_nonzero = self.n_nan = self.n_negative = self.n_infinite = self.n_noninteger = 0
        self.n_outside = 0  # finite, and not in 0 to 1
        self.minimum, self.maximum = np.inf, -np.inf
        self.totals = np.zeros(n)
        self.log_totals = {base: np.zeros(n) for base in LOG_BASES}  # of the values before log(1 + x)
        self.sums, self.squares = np.zeros(G), np.zeros(G)
        self.nonzero = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)
        self.nan = np.zeros(n, dtype=np.int64), np.zeros(G, dtype=np.int64)

    def add(self, piece: Any, row: int, column: int) -> None:
        n, G = piece.shape
        coo = piece.tocoo()
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
        if self.maximum <= LOG_MAX and self.minimum >= 0:
            for base, factor in LOG_BASES.items():
                self.log_totals[base][rows] += np.bincount(coo.row, np.expm1(values * factor), n)

    def seen(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Observed entries of each row and column: not zero for counts, not NaN for real values."""
        return self.nonzero if kind == "counts" else (self.G - self.nan[0], self.n - self.nan[1])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the columns that vary."""
        count = np.maximum(self.n - self.nan[1], 2)
        mean = self.sums / count
        sd = np.sqrt(np.maximum(self.squares - count * mean**2, 0) / (count - 1))
        return mean[sd > 0], sd[sd > 0]


State = Literal["counts", "log1p", "normalized", "scaled", "real", "beta"]

# Thresholds, chosen on the staged data sets and on what scanpy makes of them (see the tests).
CONSTANT = 0.01  # nine rows in ten are this close (relative) to the median row total
MANY_ZEROS = 0.25  # share of zeros above which they are taken for dropouts and not for measurements
FEW_OUTSIDE = 0.01  # share of values outside 0 to 1 up to which they are taken for mistakes in beta values
PERCENT = 90.0  # percentages come near 100, log-transformed values never do
FEW_NEGATIVES = 0.1  # share of the nonzero integers; above it these are differences and not damaged counts

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
    """What was found in a matrix of cells x genes.

    Attributes
    ----------
    shape : cells, genes.
    state : ``"counts"``, ``"log1p"``, ``"normalized"``, ``"scaled"``, ``"real"`` or ``"beta"``.
    kind : ``"counts"`` where a zero may be a dropout (the first three states), else ``"real"``.
    n_nonzero, density : known entries that are not zero, and their share of all entries.
    minimum, maximum : of the finite entries, zeros that are not stored included; None where there are none.
    n_nan, n_negative, n_infinite, n_noninteger : numbers of such entries.
    empty_cells, empty_genes : rows and columns without an observed value (nonzero for counts, not NaN for real).
    duplicate_obs, duplicate_var : names that stand there a second time or more.
    genes_in_rows : whether the names suggest genes x cells.
    log_base_total : for ``log1p``, what ``expm1`` of every row sums to, if that is one number; else None.
    where : ``"X"`` or ``"layers['counts']"``.
    warnings : what should be known or mended, each with the fix.
    errors : why nothing can be done with this matrix.
    """

    shape: tuple[int, int]
    state: State
    kind: Literal["counts", "real"]
    n_nonzero: int
    density: float
    minimum: float | None
    maximum: float | None
    n_nan: int
    n_negative: int
    n_infinite: int
    n_noninteger: int
    empty_cells: int
    empty_genes: int
    duplicate_obs: int
    duplicate_var: int
    genes_in_rows: bool
    log_base_total: float | None
    where: str
    warnings: tuple[str, ...]
    errors: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, strings and lists, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def lines(self) -> list[str]:
        """Size and state as sentences; the warnings and errors are sentences already."""
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
    """Say what state a matrix is in, and what has to be mended before imputing it.

    Parameters
    ----------
    data : AnnData (also backed), ndarray, sparse matrix, dask array or DataFrame; cells in rows.
    layer : layer of the AnnData to look at; None means ``X``.

    Raises
    ------
    InputError
        There is no matrix to look at: an unknown layer, an AnnData without ``X``, an array that is not 2-d. All that
        can be said of a matrix stands in `InputReport.warnings` and `InputReport.errors` instead.
    """
    matrix, where = _matrix(data, layer)
    named = hasattr(data, "obs_names")  # AnnData, not a table or an array
    obs_names, var_names = _names(data)
    tally = Tally(*matrix.shape)
    text = _not_numbers(matrix)
    if not text:
        for piece, row, column in pieces(matrix):
            tally.add(piece, row, column)
    state, base, total = _classify(tally, matrix)
    kind: Literal["counts", "real"] = "counts" if state in ("counts", "log1p", "normalized") else "real"
    seen_rows, seen_columns = tally.seen(kind)
    orientation = _orientation(obs_names, var_names, named=named)
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
        empty_cells=int((seen_rows == 0).sum()),
        empty_genes=int((seen_columns == 0).sum()),
        duplicate_obs=int(obs_names.duplicated().sum()) if obs_names is not None else 0,
        duplicate_var=int(var_names.duplicated().sum()) if var_names is not None else 0,
        genes_in_rows=bool(orientation),
        log_base_total=total if base == "e" else None,
        where=where,
        warnings=(),
        errors=(),
    )
    if text:
        return replace(report, errors=(f"{where} holds {text}",), warnings=tuple(orientation))
    errors = _errors(report)
    warnings = [] if errors else _state_warnings(report, base, data, layer, tally)
    warnings += orientation + _defects(report, named=named, empty=bool(errors))
    return replace(report, warnings=tuple(warnings), errors=tuple(errors))


def _matrix(data: Any, layer: str | None) -> tuple[Any, str]:
    """The matrix to look at, and what to call it."""
    import scipy.sparse as sp

    if layer is not None:
        layers = getattr(data, "layers", {})
        if layer not in layers:
            raise InputError(f"there is no layer {layer!r}; layers here: {', '.join(layers) or 'none'}")
        return layers[layer], f"layers[{layer!r}]"
    matrix = data.X if hasattr(data, "obs_names") else data
    if matrix is None:
        raise InputError(f"X is empty (None): pass layer=..., layers here: {', '.join(data.layers) or 'none'}")
    if not hasattr(matrix, "shape"):
        matrix = np.asarray(matrix)
    if len(matrix.shape) != 2:
        raise InputError(f"a matrix of cells x genes is needed, not an array of shape {tuple(matrix.shape)}")
    if sp.issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    return matrix, "X"


def _names(data: Any) -> tuple[pd.Index | None, pd.Index | None]:
    if hasattr(data, "obs_names"):
        return data.obs_names, data.var_names
    if hasattr(data, "iloc"):
        return data.index, data.columns
    return None, None


def _not_numbers(matrix: Any) -> str | None:
    """What the matrix holds instead of numbers, and the fix."""
    if hasattr(matrix, "iloc"):
        from pandas.api.types import is_numeric_dtype

        odd = [str(name) for name, dtype in matrix.dtypes.items() if not is_numeric_dtype(dtype)]
        return f"columns that are no numbers ({_some(odd)}): drop them or make them the index" if odd else None
    return None if matrix.dtype.kind in "biuf" else f"{matrix.dtype} values, not numbers: convert it first"


def _some(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def _spread(totals: np.ndarray) -> float:
    """How far nine in ten of the non-empty rows are, at most, from the median row total (relative)."""
    totals = totals[totals > 0]
    return float(np.quantile(np.abs(totals / np.median(totals) - 1), 0.9)) if len(totals) > 1 else np.inf


def _from_counts(piece: Any, base: str, *, n_rows: int = 200) -> bool:
    """Whether rows are whole multiples of their smallest value (one molecule), which differs from row to row.

    Small multiples only, which rounding leaves near integers; a common smallest value is the last decimal of a table.
    """
    units, whole = [], []
    for start, stop in zip(piece.indptr[:n_rows], piece.indptr[1:], strict=False):
        row = piece.data[start:stop].astype(np.float64)
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


def _classify(tally: Tally, matrix: Any) -> tuple[State, str | None, float | None]:
    """State; for logarithms the base, if it shows; and the total of the rows before it, if that is constant."""
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
        before = {"": tally.totals, **(tally.log_totals if tally.maximum <= LOG_MAX else {})}
        spreads = {base: _spread(totals) for base, totals in before.items()}
        best = min(spreads, key=lambda base: spreads[base])
        if spreads[best] < CONSTANT:
            totals = before[best]
            return ("log1p", best, float(np.median(totals[totals > 0]))) if best else ("normalized", None, None)
        piece = _first_piece(matrix)  # a choice of genes has no constant totals, yet each value still comes of a count
        for base in before:
            if _from_counts(piece, base):
                return ("log1p" if base else "normalized"), base or None, None
    if fractions and zeros < size / 2:
        return "beta", None, None
    if zeros > MANY_ZEROS * size:
        return ("log1p" if tally.maximum <= LOG_MAX else "normalized"), None, None
    return "real", None, None


def _orientation(obs_names: pd.Index | None, var_names: pd.Index | None, *, named: bool) -> list[str]:
    """The warning that this looks like genes x cells, if the names say so; an empty list otherwise."""
    if obs_names is None or var_names is None:
        return []
    genes = [name for name in map(str, obs_names) if _GENE.fullmatch(name)]
    barcodes = [name for name in map(str, var_names) if _BARCODE.search(name)]
    seen = []
    if genes and not any(_GENE.fullmatch(str(name)) for name in var_names):
        seen.append(f"obs_names look like genes ({_some(genes)})")
    if 2 * len(barcodes) > len(var_names) and not any(_BARCODE.search(str(name)) for name in obs_names):
        seen.append(f"var_names look like cell barcodes ({_some(barcodes)})")
    turn = "adata.T" if named else ".T"
    return [f"{' and '.join(seen)}: transpose with {turn}, or for a table pass --genes-in rows"] if seen else []


def _errors(report: InputReport) -> list[str]:
    n, G = report.shape
    where = report.where
    if n == 0 or G == 0:
        return [f"{where} is empty ({n} cells x {G} genes)"]
    if report.n_infinite:
        return [f"{where} holds {report.n_infinite:,} infinite values: replace them by NaN or by a finite value first"]
    if report.n_nan == n * G:
        return [f"{where} holds no numbers, only NaN: pass the layer that holds the values"]
    if report.empty_cells == n or report.empty_genes == G:
        return [f"{where} holds only zeros: pass the layer that holds the counts"]
    small = too_small(report)
    return [] if small is None else [small]


def too_small(report: InputReport) -> str | None:
    """The error of a matrix that nothing can be learned from; what was learned elsewhere can still be applied to it."""
    n, G = report.shape
    rows, columns = n - report.empty_cells, G - report.empty_genes
    if rows >= 2 and columns >= 2:
        return None
    return (
        "imputation learns from other cells and genes: at least 2 cells and 2 genes with observed values are "
        f"needed, and of {n} x {G} in {report.where} only {rows} x {columns} have any"
    )


def _elsewhere(data: Any, layer: str | None) -> tuple[str, str]:
    """What to pass to get at counts, and a remark on ``adata.raw`` if it holds something else."""
    if not hasattr(data, "layers"):
        return "pass the raw counts", ""
    found = [repr(name) for name, matrix in data.layers.items() if name != layer and _integers(_first_piece(matrix))]
    here = f"here: {_some(found)}" if found else "no layer here holds integers"
    advice = f"pass layer={found[0] if found else '...'} if the counts are in a layer ({here})"
    if layer is not None and data.X is not None and _integers(_first_piece(data.X)):
        advice = "leave layer out, X holds integers"
    if getattr(data, "raw", None) is None:
        return advice, ""
    raw, matrix = _first_piece(data.raw.X), _first_piece(data.X if layer is None else data.layers[layer])
    if data.raw.shape == data.shape and (raw != matrix).nnz == 0:
        return advice, ""
    what = "integers" if _integers(raw) else "other values"
    n, G = data.raw.shape
    return advice, f"; adata.raw holds {what} ({n} x {G}): adata.raw.to_adata() makes them X"


def _first_piece(matrix: Any) -> Any:
    return next(pieces(matrix))[0].tocsr()


def _integers(piece: Any) -> bool:
    return piece.nnz > 0 and bool(piece.data.min() >= 0) and is_integer(piece.data)


def _state_warnings(report: InputReport, base: str | None, data: Any, layer: str | None, tally: Tally) -> list[str]:
    """What the state means for imputation: never for plain counts."""
    where, low, high = report.where, report.minimum, report.maximum
    if report.state == "counts":
        if report.n_negative:
            return [
                f"{where} holds {report.n_negative:,} negative values among integers (minimum {low:g}): counts cannot "
                "be negative; pass the raw counts"
            ]
        binary = f"{where} holds only 0 and 1 and looks binarised: amounts are lost; pass the counts it was made of"
        return [binary] if high == 1 else []
    advice, raw = _elsewhere(data, layer)
    own_scale = f"or scale='{report.state}' to impute on this scale{raw}"
    if report.state == "log1p":
        texts = [f"{where} looks log-transformed (max {high:.3g}, non-integer): {advice}, {own_scale}"]
        if base not in (None, "e"):
            texts.append(f"{where} looks like log{base}(1 + x): multiply by ln({base}) first, log1p is the natural log")
        return texts
    if report.state == "normalized":
        return [f"{where} looks normalised or corrected (max {high:.6g}, non-integer): {advice}, {own_scale}"]
    if report.n_nan and (unit := _unit(report, tally)):
        return [unit]
    if report.n_nan:
        whole = report.n_noninteger == 0 and not report.n_negative and report.state == "real"
        text = (
            f"{where} holds integers and {report.n_nan:,} NaN: in counts put 0 for NaN; as it is, only NaN is missing"
        )
        return [text] if whole else []
    look = {"scaled": "looks z-scored", "beta": "looks like beta values"}.get(report.state, "looks real-valued")
    if report.n_negative:
        look += f" and holds {report.n_negative:,} negative values (minimum {low:.3g}), which counts cannot have"
    fix = "mark missing values by NaN" if report.state == "beta" else f"{advice}, or mark missing values by NaN{raw}"
    return [f"{where} {look}; it has no NaN, so nothing is missing: {fix}"]


def _unit(report: InputReport, tally: Tally) -> str | None:
    """The remark that these are nearly methylation beta values, if they are."""
    where, low, high, outside = report.where, tally.minimum, tally.maximum, tally.n_outside
    if 0 < outside <= FEW_OUTSIDE * (tally.n * tally.G - tally.n_nan):
        return (
            f"{outside:,} values in {where} lie outside 0 to 1 ({low:.6g} to {high:.6g} in all): if these are beta "
            "values, correct them, for results are not held within 0 to 1 as it is"
        )
    percent = low >= 0 and PERCENT < high <= 100 and report.n_noninteger
    text = f"{where} lies within 0 to 100: if these are percentages of methylation, divide by 100 to keep results there"
    return text if percent else None


def _defects(report: InputReport, *, named: bool, empty: bool) -> list[str]:
    """Warnings that hold in any state: repeated names, rows and columns without a value."""
    texts = []
    for axis, number in (("obs", report.duplicate_obs), ("var", report.duplicate_var)):
        fix = f"adata.{axis}_names_make_unique()" if named else f"give every {'row' if axis == 'obs' else 'column'} one"
        if number:
            texts.append(f"{number:,} {axis}_names stand there more than once: make them unique, {fix}")
    for axis, number in (("cells", report.empty_cells), ("genes", report.empty_genes)):
        if number and not empty:
            what = "hold only zeros" if report.kind == "counts" else "hold no value"
            texts.append(
                f"{number:,} {axis} {what}, nothing can be learned of them: filter them (sc.pp.filter_{axis}), or take "
                "the stated fallback"
            )
    return texts
