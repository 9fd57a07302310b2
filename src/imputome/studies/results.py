"""Result tables of studies: one row per score, kept in a journal while a study runs, and their summary."""

from __future__ import annotations

import gzip
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from imputome.core.atomic import atomic_path, destination
from imputome.core.disk import room_for
from imputome.core.locks import locked
from imputome.core.small_files import open_regular
from imputome.errors import InputError, Message, missing_extra, printable, some
from imputome.evaluation.downstream import SCORES
from imputome.evaluation.known_truth import SHARE
from imputome.evaluation.metrics import COVERAGE, METRICS
from imputome.evaluation.open_problems import PERFECT
from imputome.methods import info, names
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS

if TYPE_CHECKING:
    import pandas as pd

# the columns that identify a computation; `COLUMNS` adds what it gave, and the transform that real values were imputed
# on (empty for counts, and for data that were transformed before)
KEY = ("dataset", "method", "parameters", "scheme", "options", "fraction", "trial", "seed")
COLUMNS = (*KEY, "transform", "metric", "value", "seconds", "peak_bytes", "status", "reason")
TEXT_COLUMNS = ("dataset", "method", "parameters", "scheme", "options", "transform", "metric", "status", "reason")
INTEGERS, NUMBERS = ("trial", "seed"), ("fraction", "value", "seconds", "peak_bytes")
NEEDS_INTEGERS = "needs integers"  # status of a method that cannot run on normalised counts
STOPPED = "stopped"  # status of a run that took more than its limits; its metric and value say which
STATUSES = {"ok", "failed", NEEDS_INTEGERS, STOPPED, "skipped"}
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
RESULTS = "results.csv"  # of a study, in its folder
LINE_START = b'[{"dataset": '  # of each line of a journal
# larger ones are not read: a table of a million scores has 300 MiB, a line of a journal some kilobytes
MAX_TABLE_BYTES, MAX_ROWS, MAX_LINE = 2**30, 10**7, 2**26
# scores of downstream analyses, which `METRICS` does not list: higher is better
HIGHER = (
    *SCORES,
    SHARE,
    *("spearman_concordance", "cox_concordance"),
)

# metrics of `imputome.studies.runner.run_trial`; the others it records, beside the numbers of a fit
TRIAL_METRICS = ("rmse", "mae", "pearson")
TRIAL_NUMBERS = (
    *("feature_rmse", "share_hidden", "spearman_concordance", "cox_concordance"),
    *("spearman_difference_variance", "cox_difference_variance", "fit_seconds", "apply_seconds"),
)
# the numbers that methods of this package report of a fit, in ``status.details``
FIT_NUMBERS = (
    *("iterations", "objective", "rank", "lam", "residual", "tol", "held_out_rmse", "held_out_mse"),
    *("epochs", "best_epoch", "validation_loss", "train_seconds", "rate_cuts", "shift", "inflation"),
    *("between_cell_sd", "data_between_cell_sd", "collapsed", "uses_gene_mean", "uses_factors"),
    *("weight_networks", "weight_log_linear", "weight_poisson_factors", "cells_for_factors"),
    "training_cells",
    *("nll_validation", "mse_validation", "mean_dropout", "total_ratio_rate", "total_ratio_expected"),
    *("library_correlation", "nuclear_norm", "replaced", "t", "edges", "noise_variance", "k"),
    *("predicted_genes",),
)


def key_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of `KEY` as texts: the same before a row is written to a file and after it is read again."""
    return tuple(str(float(row[name])) if name == "fraction" else str(row[name]) for name in KEY)


class Journal:
    """The rows of a running study; with an ``output``, also stored in a hidden file next to it while the study runs.

    The file has one line of JSON per computation. A study that was interrupted continues from it, and from an earlier
    table at ``output``. Rows of failed methods do not count as done, so that these run again. Several processes can
    have one ``output``: they write under its lock, and each adds its rows to those that are there.
    """

    def __init__(self, output: str | Path | None) -> None:
        self.output = None if output is None else destination(output)
        self.path = None if self.output is None else self.output.with_name(f".{self.output.name}.journal")
        self.rows: list[list[dict[str, Any]]] = []  # of this process, by computation
        with nullcontext() if self.output is None else locked(self.output):
            self.done = {key_of(row) for rows in self._stored() for row in rows if row["status"] == "ok"}

    def _stored(self) -> Iterator[list[dict[str, Any]]]:
        """The rows that are stored now, by computation; those of the table come first, in one list."""
        if self.output is not None:
            yield stored_rows(self.output)
        if self.path is not None and os.path.lexists(self.path):
            yield from _journal_lines(self.path)

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add the rows of one computation as one line, so that all of them are stored or none."""
        self.rows.append(rows)
        if self.output is None or self.path is None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        with locked(self.output), room_for(self.path), _opened(self.path, flags) as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # a process was killed while it wrote its line
                    stream.write(b"\n")
            stream.write(json.dumps(rows).encode() + b"\n")

    def finish(self) -> pd.DataFrame:
        """The complete table; it is written to ``output``, and the journal is deleted."""
        if self.output is None or self.path is None:
            return table_of(merged(self.rows))
        with locked(self.output):
            table = table_of(merged([*self._stored(), *self.rows]))
            write(table, self.output)
            self.path.unlink(missing_ok=True)
        return table


def stored_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the table at ``path``, to which others are added; none if there is no file."""
    if not path.exists():
        return []
    try:
        return _table(path).to_dict("records")
    except _NoTableError as error:
        text = f"{path} is not a table of results that can be added to ({error}): move it away, or pass another"
        raise InputError(f"{text} {{output}}", code="not-a-results-table", output=...) from error


def merged(computations: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of all computations, the first of those with one key; a failure is left out once there are scores."""
    rows: list[dict[str, Any]] = []
    done: set[tuple[str, ...]] = set()
    failures: dict[tuple[str, ...], dict[str, Any]] = {}  # the last of each key
    for computation in computations:
        new = [(key_of(row), row) for row in computation]
        new = [(key, row) for key, row in new if key not in done]
        rows += [row for _, row in new]
        done |= {key for key, row in new if row["status"] == "ok"}
        failures |= {key: row for key, row in new if row["status"] != "ok"}
    failed = {id(row) for key, row in failures.items() if key not in done}
    return [row for row in rows if row["status"] == "ok" or id(row) in failed]


def _opened(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """A journal, opened; it is a hidden file, and what a link at its place leads to is not ours."""
    try:
        handle = open_regular(path, flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    return os.fdopen(handle, "rb" if flags == os.O_RDONLY else "rb+")


def _journal_lines(path: Path) -> Iterator[list[dict[str, Any]]]:
    with _opened(path) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), 1):
            try:
                rows = json.loads(line)
            except (ValueError, RecursionError) as error:
                start = line.strip(b"\0\n")[: len(LINE_START)]
                if start == LINE_START[: len(start)]:
                    continue  # the process was killed while it wrote this line
                raise _damaged(path, f"line {number} is not JSON") from error
            if not isinstance(rows, list) or not all(map(_is_row, rows)):
                raise _damaged(path, f"line {number} holds no scores")
            yield rows


def _is_row(row: Any) -> bool:
    """Whether a row of a journal has the columns of a table, with values of their types."""
    right = isinstance(row, dict) and all(
        isinstance(row.get(name), str if name in TEXT_COLUMNS else int if name in INTEGERS else int | float)
        for name in COLUMNS
    )
    return right and row["status"] in STATUSES


def _damaged(path: Path, reason: str) -> InputError:
    text = f"{path}, which keeps the scores of an interrupted run, cannot be used ({reason}): remove it to score again"
    return InputError(text, code="journal-damaged")


def table_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A long table with the columns `COLUMNS` from rows as mappings."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return table.fillna({"transform": ""})


def check_path(path: Path) -> None:
    """Check, before any computation, that a table can be written to ``path``."""
    path = destination(path)
    if not path.name.lower().endswith(SUFFIXES):
        text = f"{path} is not the name of a table: use one of the endings {', '.join(SUFFIXES)}"
        raise InputError(text, code="table-suffix", parameter="output")
    if not path.parent.is_dir():
        raise InputError(
            f"the folder {path.parent} does not exist: create it first", code="no-folder", parameter="output"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file", code="output-is-folder", parameter="output")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        text = f"the folder {path.parent} cannot be written to: choose another, or change its permissions"
        raise InputError(text, code="folder-not-writable", parameter="output")
    if path.suffix.lower() == ".parquet":
        _require_pyarrow()


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table; if writing fails, an earlier file at ``path`` stays as it was."""
    with atomic_path(path) as partial:
        if path.suffix.lower() == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            table.to_csv(partial, index=False, sep=_separator(path))


def read(path: Path) -> pd.DataFrame:
    """Read a table written by `write`."""
    try:
        return _table(path)
    except _NoTableError as error:
        # of a study there are tables of means, claims and tests beside it
        beside = path.with_name(RESULTS)
        instead = beside if beside.exists() and beside != path else "the table with a row for each score"
        text = f"{path} is not a table of results ({error}): pass {instead}"
        raise InputError(text, code=error.code) from error


class _NoTableError(Exception):
    """Why a file is no table of results."""

    def __init__(self, reason: str, code: str = "not-a-results-table") -> None:
        super().__init__(reason)
        self.code = code


def _table(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".parquet":
        _require_pyarrow()
    try:
        with os.fdopen(open_regular(path), "rb") as stream:
            table = _of_parquet(stream) if path.suffix.lower() == ".parquet" else _of_text(stream, path)
    except (_NoTableError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # damaged files make the libraries fail in too many ways to list
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise _NoTableError(printable(reason.splitlines()[0], 200), "unreadable") from error
    if "transform" not in table.columns:  # tables of the first version
        table["transform"] = ""
    missing = sorted(set(COLUMNS) - set(table.columns))
    if missing:
        raise _NoTableError(f"it has no column {missing[0]!r}")
    if len(table):
        _check_types(table)
    return table


def _of_text(stream: BinaryIO, path: Path) -> pd.DataFrame:
    import pandas as pd

    unpacked = gzip.GzipFile(fileobj=stream) if path.suffix.lower() == ".gz" else stream
    content = unpacked.read(MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise _NoTableError(f"it holds more than {MAX_TABLE_BYTES >> 20:,} MiB of text")
    return pd.read_csv(
        io.BytesIO(content),
        sep=_separator(path),
        keep_default_na=False,
        float_precision="round_trip",
        dtype=dict.fromkeys(TEXT_COLUMNS, str),
        na_values={name: ["", "nan"] for name in NUMBERS},
    )


def _of_parquet(stream: BinaryIO) -> pd.DataFrame:
    from pyarrow.parquet import ParquetFile

    file = ParquetFile(stream)
    groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
    if file.metadata.num_rows > MAX_ROWS or sum(group.total_byte_size for group in groups) > MAX_TABLE_BYTES:
        raise _NoTableError(f"it claims more than {MAX_ROWS:,} rows, or {MAX_TABLE_BYTES >> 20:,} MiB")
    return file.read().to_pandas()


def _check_types(table: pd.DataFrame) -> None:
    from pandas.api.types import infer_dtype, is_integer_dtype, is_numeric_dtype

    right = {
        **{name: infer_dtype(table[name], skipna=False) == "string" for name in TEXT_COLUMNS},
        **{name: is_numeric_dtype(table[name]) for name in NUMBERS},
        **{name: is_integer_dtype(table[name]) for name in INTEGERS},
    }
    wrong = [name for name, fits in right.items() if not fits]
    if wrong:
        kind = "text" if wrong[0] in TEXT_COLUMNS else "integers" if wrong[0] in INTEGERS else "numbers"
        raise _NoTableError(f"its column {wrong[0]!r} does not hold {kind} only")
    unknown = set(table["status"]) - STATUSES
    if unknown:  # a row that was cut has none
        raise _NoTableError(f"its column 'status' holds {printable(repr(min(unknown)), 200)}")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over trials: one row per dataset, scheme, options, fraction, metric, method and
    parameters.

    A table that was continued with other settings, such as another transform, has several ``options``. ``mean``,
    ``sd`` and ``n`` are over the trials that succeeded; a method that failed in all trials has no row. ``control`` says
    whether the method is a control, ``best`` whether it has the best mean of all methods and controls, and ``rank`` its
    place among them: 1 is best, equal means share the better place, and NaN has the last.
    ``loses_to`` is the best control if the method does not beat it, else an empty text; the control that is the
    held-out part itself (``perfect_denoising``) is none to beat. Numbers that are not scores, such as the iterations of
    a fit, are never best, never lose, and have the rank 0; no method is best or loses by a metric that says nothing of
    that (`imputome.evaluation.metrics.Metric.is_contest`).

    Parameters
    ----------
    table : DataFrame
        Scores, one row each, as `imputome.evaluate` and `read` return them.

    Returns
    -------
    DataFrame
        The columns above.

    Raises
    ------
    KeyError
        ``table`` lacks a column of a table of scores.

    Warns
    -----
    UserWarning
        Methods were not all scored on the same splits (`other_splits`), so that their means cannot be compared.

    Examples
    --------
    >>> from imputome.studies.results import summary, table_of
    >>> row = {"dataset": "toy", "scheme": "thin", "fraction": 0.1, "metric": "mse", "status": "ok"}
    >>> rows = [row | {"method": "ialm", "parameters": "{}", "trial": k, "value": k + 1.0} for k in range(3)]
    >>> summary(table_of(rows))[["method", "mean", "sd", "n", "best"]]
      method  mean   sd  n  best
    0   ialm   2.0  1.0  3  True
    """
    import pandas as pd

    for message in other_splits(table):
        warnings.warn(message, stacklevel=2)
    group = ["dataset", "scheme", "options", "fraction", "metric"]
    parts = []
    for key, part in table[table["status"] == "ok"].groupby(group, sort=False, dropna=False):
        scores = part.groupby(["method", "parameters"], sort=False, as_index=False)["value"].agg(
            mean="mean", sd="std", n="count"
        )
        control = scores["method"].map(is_control).to_numpy()
        cost = costs(scores["mean"], str(key[-1]))
        is_score = key[-1] in METRICS or key[-1] in HIGHER
        scores["control"] = control
        is_contest = key[-1] in HIGHER or (key[-1] in METRICS and METRICS[key[-1]].is_contest)
        scores["best"] = is_contest & np.isfinite(cost) & (cost == cost.min())
        scores["rank"] = [int((cost < one).sum()) + 1 if is_score else 0 for one in cost]
        scores["loses_to"] = ""
        to_beat = control & (scores["method"] != PERFECT).to_numpy()
        if is_contest and to_beat.any():
            best_control = min(np.flatnonzero(to_beat), key=lambda place: cost[place])
            scores.loc[~control & (cost[best_control] <= cost), "loses_to"] = scores["method"][best_control]
        parts.append(scores.assign(**dict(zip(group, key, strict=True))))
    columns = [*group, "method", "parameters", "mean", "sd", "n", "control", "best", "rank", "loses_to"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def other_splits(table: pd.DataFrame) -> list[Message]:
    """Which methods were scored on other splits than most, for each dataset, scheme, options and fraction.

    A table can have them that was continued with another seed or number of trials, or with what other tools made of
    masked data; a method that failed on some splits has fewer.
    """
    messages = []
    done = table[table["status"] == "ok"].drop_duplicates(list(KEY))
    for key, part in done.groupby(["dataset", "scheme", "options", "fraction"], sort=False, dropna=False):
        splits = part.groupby(["method", "parameters"], sort=False)[["trial", "seed"]].agg(tuple)
        sets = {name: frozenset(zip(trials, seeds, strict=True)) for name, trials, seeds in splits.itertuples()}
        usual = max(sets.values(), key=list(sets.values()).count)
        others = dict.fromkeys(name for (name, _), each in sets.items() if each != usual)
        if others:
            text = f"{key[0]}, {key[1]}: scored on other splits than the rest: {some(others)}; such means cannot be "
            text += "compared: score all on the same splits, with one seed, in a new table"
            messages.append(Message(text, code="other-splits"))
    return messages


def told_apart(table: pd.DataFrame) -> pd.Series:
    """For each row, in which settings it differs from others of its dataset, scheme and fraction, as a short text."""
    table = table.reset_index(drop=True)
    texts = table["options"].map(lambda _: "")
    for _, part in table.groupby(["dataset", "scheme", "fraction"], sort=False, dropna=False):
        settings = {options: _settings(str(options)) for options in part["options"].unique()}
        names = dict.fromkeys(name for values in settings.values() for name in values)
        varied = [name for name in names if len({str(values.get(name)) for values in settings.values()}) > 1]
        for options, values in settings.items():
            text = ", ".join(f"{name}={values[name]}" for name in varied if name in values)
            rows = part.index[part["options"] == options]
            texts[rows] = printable(text or f"no {varied[0]}", 200) if varied else ""
    return texts


def _settings(options: str) -> dict[str, Any]:
    try:
        settings = json.loads(options)
    except (ValueError, RecursionError):
        settings = None
    return settings if isinstance(settings, dict) else {"options": options}


def is_control(method: str) -> bool:
    """Whether the method of a row is a control."""
    return method in (*REFERENCE_PREDICTIONS, PERFECT, "gene_mean+posterior") or (
        method in names() and info(method).control
    )


def costs(scores: pd.Series, metric: str) -> Any:
    """Scores turned so that lower is better for every metric; NaN becomes infinity, the worst."""
    better = "higher" if metric in HIGHER else METRICS[metric].better if metric in METRICS else "lower"
    target = {"one": 1.0, "nominal": COVERAGE}.get(better)
    if target is not None:
        scores = (scores - target).abs()
    cost = -scores if better == "higher" else scores
    return cost.fillna(np.inf).to_numpy()


def _separator(path: Path) -> str:
    return "\t" if ".tsv" in path.name.lower() else ","


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("a .parquet table", "pyarrow", "parquet") from error
