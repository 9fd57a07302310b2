"""What state is this matrix in: counts, log-transformed, normalised, z-scored, beta values, and what is wrong with it.

`inspect` reads the matrix once, in pieces and by its stored values, so a sparse or backed matrix is never made dense.
It judges and says; what a method then accepts is decided by the facade.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

State = Literal["counts", "log1p", "normalized", "scaled", "real", "beta"]

# Thresholds, chosen on the staged data sets and on what scanpy makes of them (see the tests).
PIECE = 2**21  # entries read at once: 16 MiB if they were all stored
TOLERANCE = 1e-6  # how far from an integer an integer may be
LOG_MAX = 20.0  # log2 of a million is 20: no log-transformed expression lies above it
CONSTANT = 0.01  # nine rows in ten are this close (relative) to the median row total
MANY_ZEROS = 0.25  # share of zeros above which they are taken for dropouts and not for measurements
FEW_NEGATIVES = 0.1  # share of the nonzero integers; above it these are differences and not damaged counts
LOG_BASES = {"e": 1.0, "2": np.log(2.0), "10": np.log(10.0)}

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
        """The report as sentences: size, state, then warnings and errors."""
        rows, columns = ("cells", "genes") if self.kind == "counts" else ("samples", "features")
        size = f"{self.shape[0]:,} {rows} x {self.shape[1]:,} {columns}, {100 * self.density:.1f} % nonzero"
        if self.n_nan:
            size += f", {100 * self.n_nan / max(self.shape[0] * self.shape[1], 1):.1f} % missing (NaN)"
        state = f"state: {self.state} ({_DESCRIPTIONS[self.state]}"
        if self.minimum is not None and self.maximum is not None:
            state += f", {self.minimum:,.6g} to {self.maximum:,.6g}"
        if self.log_base_total is not None:
            state += f", log1p of {self.log_base_total:,.6g} per cell"
        return [size, f"{state}), in {self.where}", *(f"warning: {w}" for w in self.warnings),
                *(f"error: {e}" for e in self.errors)]


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
    obs_names, var_names = _names(data)
    not_numbers = _not_numbers(matrix)
    tally = _Tally(matrix.shape)
    if not not_numbers:
        for piece, row, column in _pieces(matrix):
            tally.add(piece, row, column)
    state, base, total = _classify(tally)
    counts_like = state in ("counts", "log1p", "normalized")
    seen_rows, seen_columns = tally.seen(counts_like)
    genes_in_rows, orientation = _orientation(obs_names, var_names, is_anndata=hasattr(data, "X"))
    report = InputReport(
        shape=tally.shape,
        state=state,
        kind="counts" if counts_like else "real",
        n_nonzero=tally.n_nonzero,
        density=tally.n_nonzero / max(tally.size, 1),
        minimum=tally.minimum if np.isfinite(tally.minimum) else None,
        maximum=tally.maximum if np.isfinite(tally.maximum) else None,
        n_nan=tally.n_nan,
        n_negative=tally.n_negative,
        n_infinite=tally.n_infinite,
        n_noninteger=tally.n_noninteger,
        empty_cells=int((seen_rows == 0).sum()),
        empty_genes=int((seen_columns == 0).sum()),
        duplicate_obs=_duplicates(obs_names),
        duplicate_var=_duplicates(var_names),
        genes_in_rows=genes_in_rows,
        log_base_total=total if base == "e" else None,
        where=where,
        warnings=(),
        errors=(),
    )
    errors = [f"{where} holds {not_numbers}"] if not_numbers else _errors(report)
    warnings = []
    if not errors:
        warnings += _state_warnings(report, base, data, layer)
    warnings += _warnings(report, is_anndata=hasattr(data, "X")) + orientation
    return InputReport(**{**report.__dict__, "warnings": tuple(warnings), "errors": tuple(errors)})
