"""The state of a matrix (counts, log-transformed, normalised, z-scores, beta values, ...) and the problems in it.

`inspect` reads the matrix once, in pieces and by its stored values, so a sparse or backed matrix is never made dense.
It only describes the matrix; `imputome.result.adapt` decides what a method accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.arrays import check_container, in_memory, not_numbers, out_of_range
from imputome.core.compressed import repeated_entries
from imputome.core.data import Kind
from imputome.core.scales import INPUT_SCALES, is_integer, transform_of
from imputome.errors import InputError, Message
from imputome.inspection.classify import FEW_OUTSIDE, MIN_MAX_OF_PERCENTAGES, Doubt, Guess, State, classify
from imputome.inspection.far_values import far_values
from imputome.inspection.features import ALL, EXPRESSION, asks_for_all, features_of
from imputome.inspection.orientation import first_three, orientation
from imputome.inspection.source import RAW, find_matrix, is_raw, raw_columns
from imputome.inspection.tally import Tally, first_block

if TYPE_CHECKING:
    import pandas as pd

AS_REAL = "(then a missing value is NaN and not 0)"  # what kind="real" means, in messages
BULK_TOTAL = 1e6  # reads of a sample, or of a cell sequenced in full length; molecules of a cell are fewer

ROWS_FOR_BLOCKS = 200  # samples in which missing blocks are looked for
_MONTH = "jan|feb|m[aä]r|mrz|apr|ma[iy]|jun|jul|aug|sept?|o[ck]t|nov|de[cz]"
_DATE = re.compile(
    rf"(?i)\d{{1,2}}[-./ ]+({_MONTH})|({_MONTH})[-./ ]+\d\d|\d{{4}}-\d\d-\d\d( 00:00:00)?"  # 1-Mar, Mar-01, 2001-03-01
)

DESCRIPTIONS: dict[State, str] = {
    "counts": "integers",
    "expected": "expected counts, of reads divided among transcripts",
    "normalized": "normalised, non-integer",
    "log1p": "ln(1 + x)",
    "log2p1": "log2(1 + x)",
    "log10p1": "log10(1 + x)",
    "sqrt": "square roots",
    "log1p_counts": "ln(1 + counts)",
    "log2p1_counts": "log2(1 + counts)",
    "log10p1_counts": "log10(1 + counts)",
    "sqrt_counts": "square roots of counts",
    "unclear": "on a scale that the values do not show",
    "scaled": "z-scores",
    "real": "real values",
    "beta": "fractions",
}


@dataclass(frozen=True)
class InputReport:
    """The result of `inspect` for a matrix of cells x genes."""

    shape: tuple[int, int]
    state: State
    kind: Kind  # "counts" if a zero may be a dropout, "real" if only NaN is missing
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
    errors: tuple[Message, ...]  # why `imputome.impute` refuses the matrix, each with what to correct or to pass
    layer: str | None = None  # None for X and other matrices
    feature_type: str = ""  # of the features in this report, if the input has several types; "all" if all are asked for
    left_out: dict[str, int] = field(default_factory=dict)  # features that are not in this report: why -> number
    used: np.ndarray | None = field(default=None, repr=False, compare=False)  # bool, of all features; None for all
    certain: bool = True  # whether the scale of the values can be told from them
    rounding: str | None = None  # how expected counts are rounded, "nearest" or "stochastic"; None: they are not
    rounding_seed: int = 0
    library_genes: int | None = None  # number of genes of ``raw`` that library sizes are over; None: those of the input

    def check(self, *allowed: str) -> None:
        """Raise the first error with another code than the ``allowed`` ones."""
        for error in self.errors:
            if error.code not in allowed:
                raise InputError(error)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {name: value for name, value in asdict(replace(self, used=None)).items() if name != "used"}

    def lines(self) -> list[str]:
        """Size and state as two sentences, without the warnings and errors."""
        rows, columns = ("cells", "genes") if self.kind == "counts" else ("samples", "features")
        size = f"{self.shape[0]:,} {rows} x {self.shape[1]:,} {columns}, {100 * self.density:.1f} % nonzero"
        if self.n_nan:
            size += f", {100 * self.n_nan / (self.shape[0] * self.shape[1]):.1f} % missing (NaN)"
        state = f"state: {self.state} ({DESCRIPTIONS[self.state]}"
        if self.minimum is not None and self.maximum is not None:
            state += f", {self.minimum:,.6g} to {self.maximum:,.6g}"
        if self.log_base_total is not None:
            state += f", of {self.log_base_total:,.6g} per cell"
        return [size, f"{state}), in {self.where}"]


def inspect(
    data: Any,
    *,
    layer: str | None = None,
    kind: Kind | None = None,
    feature_type: str | None = None,
    keep_summary_rows: bool = False,
    default_type: str = EXPRESSION,
    names: Iterable[object] | None = None,
) -> InputReport:
    """Describe the state of a matrix, and the problems to solve before it is imputed.

    Parameters
    ----------
    data : AnnData or array-like of shape (n, G)
        Cells in rows: AnnData (also backed), ndarray, sparse matrix, dask array or DataFrame.
    layer : str, optional
        Layer of the AnnData; None means ``X``, and ``"raw"`` means ``adata.raw`` unless a layer has that name.
    kind : {"counts", "real"}, optional
        Whether a zero may be missing (``"counts"``, also normalised or logged; NaN then count as zeros) or only NaN is
        missing (``"real"``). By default it is told from the values, and asked for where they leave it in doubt.
    feature_type : str, optional
        Type of the features to look at, or ``"all"``, as in `imputome.impute`; None means ``default_type``.
    keep_summary_rows : bool, default=False
        Whether to look at what read counters count beside the genes too, as in `imputome.impute`.
    default_type : str, default="Gene Expression"
        The feature type if none is asked for.
    names : iterable of str, optional
        Names of the features, from which summary rows are told; by default ``var_names``.

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
    >>> report.state, [error.code for error in report.errors]
    ('log1p', ['looks-log1p'])
    """
    if kind not in (None, "counts", "real"):
        raise InputError(f"kind={kind!r} is not valid: give counts or real", code="unknown-kind", parameter="kind")
    check_container(data)
    is_anndata = hasattr(data, "obs_names")
    features = None
    if is_anndata:
        how: dict[str, Any] = {"default": default_type, "keep_summary_rows": keep_summary_rows, "names": names}
        features = features_of(data.var, feature_type, **how)
    matrix, where = find_matrix(data, layer, features.used if features else None)
    if features is not None:
        data = data[:, features.used]
    obs_names, var_names = _names(data)
    not_numeric = _not_numeric(matrix, where)
    tally = Tally(*matrix.shape) if not_numeric else Tally.of(matrix)
    repeated = tally.n_repeated
    guess = Guess("real") if not_numeric else classify(tally, matrix, kind)
    if features is not None and features.chosen and guess.doubt == "no-small-counts":
        # as of proteins: types are those of counted features
        guess = replace(guess, doubt=None)
    everything = asks_for_all(default_type if feature_type is None else feature_type)
    library_genes, whole = None, tally
    if not not_numeric and is_anndata and is_raw(data, layer):  # all genes show the state, those of X are imputed
        columns = raw_columns(data)
        if columns is not None:
            library_genes = matrix.shape[1]
            matrix = _columns(matrix, columns)
            tally = Tally.of(matrix)
    per_row, per_column = tally.observed(guess.kind)
    turned, sure = orientation(obs_names, var_names)
    finite = tally.minimum <= tally.maximum
    report = InputReport(
        shape=(tally.n, tally.G),
        state=guess.state,
        kind=guess.kind,
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
        genes_in_rows=turned is not None,
        log_base_total=guess.total,
        where=where,
        feature_type=ALL if everything else features.chosen if features else "",
        left_out=features.left_out if features else {},
        used=features.used if features else None,
        warnings=(),
        errors=(),
        layer=layer,
        certain=guess.certain,
        library_genes=library_genes,
    )
    fatal = not_numeric or _error(report)
    errors = [fatal] if fatal else []
    warnings: list[Message] = []
    if turned is not None:
        (errors if sure else warnings).append(turned)
    if not fatal:
        refusal = _doubt(report, guess.doubt, whole) if guess.doubt else _refusal(report, data, layer)
        errors += [refusal] if refusal else []
        warnings = [*([] if guess.doubt else _state_warnings(report, tally, kind)), *warnings]
        if not guess.doubt and (far := far_values(tally, matrix, (obs_names, var_names), where)):
            warnings.append(far)
        if blocks := _lacked_by_groups(report, matrix):
            warnings = [blocks, *(warning for warning in warnings if warning.code != "integers-with-nan")]
    warnings += [repeated_entries(repeated, where)] if repeated else []
    warnings += _repeated_names(report, is_anndata=is_anndata)
    warnings += _dates_for_names(var_names)
    warnings += [] if fatal else _empty_rows_and_columns(report)
    quiet = ("feature-type-chosen",) if feature_type is not None else ()
    said = [message for message in features.messages if message.code not in quiet] if features else []
    return replace(report, warnings=(*said, *warnings), errors=tuple(errors))


def _columns(matrix: Any, columns: np.ndarray) -> Any:
    """Some columns of the matrix of ``raw``; a backed one is read."""
    return (matrix.to_memory() if hasattr(matrix, "to_memory") else matrix)[:, columns]


def _names(data: Any) -> tuple[pd.Index | None, pd.Index | None]:
    if hasattr(data, "obs_names"):
        return data.obs_names, data.var_names
    if hasattr(data, "iloc"):
        return data.index, data.columns
    return None, None


# -- errors ------------------------------------------------------------------------------------------------------------
def _not_numeric(matrix: Any, where: str) -> Message | None:
    """The error of a matrix that does not hold numbers."""
    problem = not_numbers(matrix)
    return Message(f"{where} {problem}", code="not-numeric") if problem else None


def _error(report: InputReport) -> Message | None:
    """Why a matrix of numbers cannot be imputed."""
    n, G = report.shape
    where = report.where
    if n == 0 or G == 0:
        return Message(f"{where} is empty ({n} cells x {G} genes)", code="empty-matrix")
    if report.n_infinite:
        missing = "0, which is missing here" if report.kind == "counts" else "NaN, which is missing"
        text = f"{where} holds {report.n_infinite:,} infinite values, as a division by 0 or the log of 0 makes: put "
        text += "finite values for them (for logs, take the log of x + 1), or "
        return Message(f"{text}{missing}", code="infinite-values")
    if problem := out_of_range(report.minimum or 0.0, report.maximum or 0.0):
        return Message(f"{where} {problem}", code="values-out-of-range")
    if report.kind == "counts" and report.n_negative:
        text = f"{where} holds {report.n_negative:,} negative values (minimum {report.minimum:g}), which counts cannot "
        return Message(f"{text}have: pass the raw counts, or {{kind}} {AS_REAL}", code="negative-counts", kind="real")
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


def _doubt(report: InputReport, doubt: Doubt, tally: Tally) -> Message:
    """The question what kind of values these are, where the values do not tell."""
    where = report.where
    share = 100 * tally.n_zeros / max(tally.n_zeros + tally.n_nonzero, 1)
    if doubt == "missing-code":
        codes = tally.missing_codes
        named = " and ".join(f"{number:,} values are {code:g}" for code, number in codes.items())
        given = ",".join(f"{code:g}" for code in codes)
        text = (
            f"in {where}, {named}, far from all others, as if that meant missing: put NaN for it in Python, or pass "
            f"{{missing}} for a file, or pass {{kind}} if it was measured {AS_REAL}"
        )
        kind = "real" if min(codes) < 0 else ...
        return Message(text, code="missing-code", missing=given, kind=kind)
    if doubt == "zeros-and-nan":
        text = (
            f"{where} holds {report.n_nan:,} NaN and {share:.0f} % zeros, and it is not clear which are missing: pass "
            "{kind}, either counts if zeros may be dropouts (NaN are then taken as zeros), or real if zeros were "
            "measured and only NaN is missing"
        )
    else:
        text = (
            f"{where} holds {share:.0f} % zeros but hardly any small number above 0, as intensities do and counts do "
            "not: pass {kind}, either counts if these are counts, or real if these are intensities "
            f"{AS_REAL}; if zeros are what is missing, put NaN for them in Python, or pass {{missing}} for a table"
        )
        return Message(text, code="kind-unclear", kind=..., missing="0")
    return Message(text, code="kind-unclear", kind=...)


def _refusal(report: InputReport, data: Any, layer: str | None) -> Message | None:
    """Why these values are not imputed unless the user says that they are meant."""
    where, high, state = report.where, report.maximum, report.state
    if state == "counts" or (report.kind == "real" and report.n_nan):
        return None
    advice, raw, options = _where_counts_are(data, layer)
    if report.kind == "real":
        look = {"scaled": "z-scored", "beta": "like beta values", "real": "real-valued"}[state]
        if report.n_negative:
            look += (
                f", with {report.n_negative:,} negative values (minimum {report.minimum:.3g}), which counts cannot have"
            )
        remedy = "mark missing values by NaN"
        # there are no raw counts of beta values to pass
        remedy, options = (remedy, {}) if state == "beta" else (f"{advice}, or {remedy}{raw}", options)
        text = f"{where} looks {look}; it has no NaN, so nothing is missing: {remedy}"
        return Message(text, code="nothing-missing", **options)
    if state == "expected":
        text = (
            f"{where} looks like expected counts (max {high:.6g}, some integers, some not), as RSEM and salmon give: "
            "pass {round_counts} to round them, {scale} to impute them as they are, or {kind} if zeros were measured "
            f"{AS_REAL}"
        )
        return Message(text, code="looks-expected", round_counts="nearest", scale="counts", kind="real")
    if state == "unclear":
        text = (
            f"{where} looks normalised, perhaps logged (max {high:.3g}, non-integer), but the values do not show on "
            f"which scale: {advice}, or the {{scale}} that they are on, one of {', '.join(INPUT_SCALES)}{raw}"
        )
        return Message(text, code="scale-unclear", **options, scale=...)
    look = "normalised or corrected" if state == "normalized" else f"like {DESCRIPTIONS[state]}"
    largest = f"{high:.3g}" if transform_of(state) else f"{high:.6g}"
    text = f"{where} looks {look} (max {largest}, non-integer): {advice}, or {{scale}} to impute on this scale{raw}"
    return Message(text, code=f"looks-{state}", **options, scale=state)


# -- warnings ----------------------------------------------------------------------------------------------------------
def _state_warnings(report: InputReport, tally: Tally, kind: Kind | None) -> list[Message]:
    """What to know of the values; nothing for plain counts."""
    where, low, high, outside = report.where, tally.minimum, tally.maximum, tally.n_outside
    if report.kind == "counts":
        messages = []
        if report.n_nan:
            text = f"{report.n_nan:,} NaN in {where} are taken as zeros, that is as missing"
            messages.append(Message(text, code="nan-as-zeros"))
        if report.state == "counts" and high == 1:
            text = f"{where} holds only 0 and 1 and looks binarised, which loses the amounts: pass the original counts"
            messages.append(Message(text, code="looks-binarised"))
        if report.state == "counts" and kind is None and np.median(tally.totals) >= BULK_TOTAL:
            text = (
                f"the rows of {where} sum to {np.median(tally.totals):,.0f}, as bulk samples do, in which most zeros "
                "are true: all zeros are imputed here; pass {kind} if zeros were measured "
                f"{AS_REAL}"
            )
            messages.append(Message(text, code="bulk-counts", kind="real"))
        return messages
    if not report.n_nan:
        return []
    if 0 < outside <= FEW_OUTSIDE * (tally.n * tally.G - tally.n_nan):
        text = (
            f"{outside:,} values in {where} are outside 0 to 1 (all values: {low:.6g} to {high:.6g}), so imputed "
            "values are not limited to 0 to 1: if these are beta values, correct them"
        )
        return [Message(text, code="outside-beta-range")]
    if low >= 0 and MIN_MAX_OF_PERCENTAGES < high <= 100 and report.n_noninteger:
        text = f"{where} looks like percentages: divide methylation by 100 to keep imputed values in 0 to 1"
        return [Message(text, code="looks-percentages")]
    if report.n_noninteger == 0 and not report.n_negative and report.state == "real" and kind is None:
        text = f"{where} holds integers and {report.n_nan:,} NaN, which alone are missing: if these are counts, pass "
        return [Message(f"{text}{{kind}}", code="integers-with-nan", kind="counts")]
    return []


def _lacked_by_groups(report: InputReport, matrix: Any) -> Message | None:
    """The warning that integers are missing in blocks, where 0 would be a false measurement."""
    from imputome.inspection.missingness import in_blocks
    from imputome.inspection.tails import random_positions

    if not report.n_nan or report.n_noninteger or report.n_negative:
        return None
    rows = random_positions(report.shape[0], ROWS_FOR_BLOCKS)
    part = in_memory((matrix.iloc if hasattr(matrix, "iloc") else matrix)[rows])
    if not in_blocks(part if isinstance(part, np.ndarray) else part.toarray()):
        return None
    text = (
        f"{report.where} holds integers and {report.n_nan:,} NaN in blocks: groups of samples lack the same features, "
        "as where these were not measured; do not put 0 for them, and if these are counts, leave out these features, "
        "or impute each group by itself"
    )
    return Message(text, code="not-measured")


def _where_counts_are(data: Any, layer: str | None) -> tuple[str, str, dict[str, Any]]:
    """How to pass the counts, a remark on ``adata.raw`` if it differs, and the options of the message."""
    if not hasattr(data, "layers") or not (data.layers or data.raw is not None):
        return "pass the raw counts", "", {}
    layers = [name for name, matrix in data.layers.items() if name != layer and _integers(matrix)]
    remark = ""
    if data.raw is not None and layer != RAW and RAW not in data.layers:
        matrix = data.X if layer is None else data.layers[layer]
        if data.raw.shape != data.shape or (first_block(data.raw.X) != first_block(matrix)).nnz:
            n, G = data.raw.shape
            remark = f"; adata.raw holds {'integers' if _integers(data.raw.X) else 'other values'} ({n} x {G})"
            layers += [RAW] if _integers(data.raw.X) else []
    note = f"integers are in {first_three([repr(name) for name in layers])}" if layers else "no layer holds integers"
    advice = f"pass {{layer}} if the counts are in a layer ({note})"
    if layers == [RAW]:
        advice = "pass {layer} for the counts there"
    options: dict[str, Any] = {"layer": layers[0] if layers else ...}
    if layer is not None and data.X is not None and _integers(data.X):
        advice, options = "leave out {layer}, because X holds integers", {"layer": layer}
    return advice, remark, options


def _integers(matrix: Any) -> bool:
    """Whether the first rows of a matrix look like counts."""
    if not_numbers(matrix):
        return False
    block = first_block(matrix)
    return block.nnz > 0 and bool(block.data.min() >= 0) and is_integer(block.data)


def _repeated_names(report: InputReport, *, is_anndata: bool) -> list[Message]:
    messages = []
    for axis, what, number in (("obs", "cells", report.duplicate_obs), ("var", "genes", report.duplicate_var)):
        if number:
            text = f"{number:,} of the names of {what} repeat others: give each its own"
            text += f" (in Python, {axis}_names_make_unique())" if is_anndata else ""
            messages.append(Message(text, code=f"duplicate-{axis}-names"))
    return messages


def _dates_for_names(names: pd.Index | None) -> list[Message]:
    """The warning about names of genes that a spreadsheet has turned into dates; where most are, they are meant."""
    dates = [] if names is None else [str(name) for name in names if _DATE.fullmatch(str(name))]
    if names is None or not 0 < len(dates) < len(names) / 2:
        return []
    text = f"{len(dates):,} of the names of genes are dates ({first_three(dates)}), as spreadsheets make of MARCH1 and "
    return [Message(f"{text}SEPT7: take them from the original file", code="dates-for-names")]


def _empty_rows_and_columns(report: InputReport) -> list[Message]:
    content = "only zeros" if report.kind == "counts" else "no value"
    messages = []
    for axis, number in (("cells", report.empty_cells), ("genes", report.empty_genes)):
        subject, pronoun = (f"1 {axis[:-1]} holds", "it") if number == 1 else (f"{number:,} {axis} hold", "them")
        text = f"{subject} {content}, so nothing can be learned about {pronoun}: remove {pronoun} (sc.pp.filter_{axis})"
        if number:
            messages.append(Message(f"{text}, or accept the fallback values", code=f"empty-{axis}"))
    return messages
