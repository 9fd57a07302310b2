"""Result tables of studies: one row per score, kept in a journal while a study runs, and their summary."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.atomic import atomic_path
from imputome.errors import InputError, missing_extra
from imputome.evaluation.metrics import COVERAGE, METRICS
from imputome.methods import info, names
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS

if TYPE_CHECKING:
    import pandas as pd

# the columns that identify a computation; `COLUMNS` adds what it gave, and the transform that real values were imputed
# on (empty for counts, and for data that were transformed before)
KEY = ("dataset", "method", "parameters", "scheme", "options", "fraction", "trial", "seed")
COLUMNS = (*KEY, "transform", "metric", "value", "seconds", "peak_bytes", "status", "reason")
TEXT_COLUMNS = ("dataset", "method", "parameters", "scheme", "options", "transform", "metric", "status", "reason")
NEEDS_INTEGERS = "needs integers"  # status of a method that cannot run on normalised counts
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
# scores of downstream analyses, which `METRICS` does not list: higher is better
HIGHER = (
    *("ari", "ami", "nmi", "leiden_ari", "leiden_ami", "leiden_nmi", "precision", "recall", "tnr"),
    *("spearman_concordance", "cox_concordance"),
)

# metrics of `imputome.studies.runner.run_trial`; the others it records, beside the numbers of a fit
TRIAL_METRICS = ("rmse", "mae", "pearson")
TRIAL_NUMBERS = ("share_hidden", "spearman_concordance", "cox_concordance", "fit_seconds", "apply_seconds")
# the numbers that methods of this package report of a fit, in ``status.details``
FIT_NUMBERS = (
    *("iterations", "objective", "rank", "lam", "residual", "tol", "held_out_rmse", "held_out_mse"),
    *("epochs", "best_epoch", "validation_loss", "train_seconds", "rate_cuts", "shift", "inflation"),
    *("between_cell_sd", "data_between_cell_sd", "collapsed", "network_weight", "uses_gene_mean", "uses_factors"),
    *("nll_validation", "mse_validation", "mean_dropout", "total_ratio_rate", "total_ratio_expected"),
    *("library_correlation", "nuclear_norm", "replaced", "t", "edges", "noise_variance", "k"),
)


def key_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of `KEY` as texts: the same before a row is written to a file and after it is read again."""
    return tuple(str(float(row[name])) if name == "fraction" else str(row[name]) for name in KEY)


class Journal:
    """The rows of a running study; with an ``output``, also stored in a hidden file next to it while the study runs.

    The file has one line of JSON per computation. A study that was interrupted continues from it, and from an earlier
    table at ``output``. Rows of failed methods are left out, so that these run again.
    """

    def __init__(self, output: str | Path | None) -> None:
        self.output = None if output is None else Path(output)
        self.path = None if self.output is None else self.output.with_name(f".{self.output.name}.journal")
        self.rows = [row for row in self._stored() if row["status"] == "ok"]
        self.done = {key_of(row) for row in self.rows}

    def _stored(self) -> Iterator[dict[str, Any]]:
        if self.output is not None and self.output.exists():
            try:
                yield from read(self.output).to_dict("records")
            except InputError as error:
                text = f"{self.output} exists, and is not a table of results: pass another {{output}}"
                raise InputError(text, code=error.code, output=...) from error
        if self.path is not None and self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with suppress(json.JSONDecodeError):  # the process was killed while it wrote this line
                    yield from json.loads(line)

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add the rows of one computation as one line, so that all of them are stored or none."""
        self.rows.extend(rows)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(rows) + "\n")

    def finish(self) -> pd.DataFrame:
        """The complete table; it is written to ``output``, and the journal is deleted."""
        table = table_of(self.rows)
        if self.output is not None and self.path is not None:
            write(table, self.output)
            self.path.unlink(missing_ok=True)
        return table


def table_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A long table with the columns `COLUMNS` from rows as mappings."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return table.fillna({"transform": ""})


def check_path(path: Path) -> None:
    """Check, before any computation, that a table can be written to ``path``."""
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
    if path.suffix == ".parquet":
        _require_pyarrow()


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table; if writing fails, an earlier file at ``path`` stays as it was."""
    with atomic_path(path) as partial:
        if path.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            table.to_csv(partial, index=False, sep=_separator(path))


def read(path: Path) -> pd.DataFrame:
    """Read a table written by `write`."""
    import pandas as pd

    if path.suffix == ".parquet":
        _require_pyarrow()
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(
            path,
            sep=_separator(path),
            keep_default_na=False,
            dtype=dict.fromkeys(TEXT_COLUMNS, str),
            na_values={name: ["", "nan"] for name in ("fraction", "value", "seconds")},
        )
    if "transform" not in table.columns:  # tables of the first version
        table["transform"] = ""
    missing = sorted(set(COLUMNS) - set(table.columns))
    if missing:
        # of a study there are tables of means, claims and tests beside it
        beside = path.with_name("results.csv")
        instead = beside if beside.exists() and beside != path else "the table with a row for each score"
        text = f"{path} is not a table of results (it has no column {missing[0]!r}): pass {instead}"
        raise InputError(text, code="not-a-results-table")
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over trials: one row per dataset, scheme, options, fraction, metric, method and
    parameters.

    A table that was continued with other settings, such as another transform, has several ``options``. ``mean``,
    ``sd`` and ``n`` are over the trials that succeeded; a method that failed in all trials has no row. ``control`` says
    whether the method is a control, and ``best`` whether it has the best mean of all methods and controls.
    ``loses_to`` is the best control if the method does not beat it, else an empty text. Numbers that are not scores,
    such as the iterations of a fit, are never best and never lose; no method loses by a metric that says nothing of
    that (`imputome.evaluation.metrics.Metric.is_contest`).

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
        scores["best"] = is_score & np.isfinite(cost) & (cost == cost.min())
        scores["loses_to"] = ""
        is_contest = key[-1] in HIGHER or (key[-1] in METRICS and METRICS[key[-1]].is_contest)
        if is_contest and control.any():
            best_control = min(np.flatnonzero(control), key=lambda place: cost[place])
            scores.loc[~control & (cost[best_control] <= cost), "loses_to"] = scores["method"][best_control]
        parts.append(scores.assign(**dict(zip(group, key, strict=True))))
    columns = [*group, "method", "parameters", "mean", "sd", "n", "control", "best", "loses_to"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def is_control(method: str) -> bool:
    """Whether the method of a row is a control."""
    return method in (*REFERENCE_PREDICTIONS, "gene_mean+posterior") or (method in names() and info(method).control)


def costs(scores: pd.Series, metric: str) -> Any:
    """Scores turned so that lower is better for every metric; NaN becomes infinity, the worst."""
    better = "higher" if metric in HIGHER else METRICS[metric].better if metric in METRICS else "lower"
    target = {"one": 1.0, "nominal": COVERAGE}.get(better)
    if target is not None:
        scores = (scores - target).abs()
    cost = -scores if better == "higher" else scores
    return cost.fillna(np.inf).to_numpy()


def _separator(path: Path) -> str:
    return "\t" if ".tsv" in path.name else ","


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("a .parquet table", "pyarrow", "parquet") from error
