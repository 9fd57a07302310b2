"""Result tables of studies: one row per score, kept in a journal while a study runs, and their summary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.atomic import atomic_path
from imputome.errors import InputError, missing_extra
from imputome.evaluation.metrics import COVERAGE, METRICS
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS

if TYPE_CHECKING:
    import pandas as pd

# the columns that identify a computation; `COLUMNS` adds what it gave
KEY = ("dataset", "method", "parameters", "scheme", "options", "fraction", "trial", "seed")
COLUMNS = (*KEY, "metric", "value", "seconds", "peak_bytes", "status", "reason")
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
# scores of downstream analyses, which `METRICS` does not list: higher is better
HIGHER = (
    *("ari", "ami", "nmi", "leiden_ari", "leiden_ami", "leiden_nmi", "precision", "recall", "tnr"),
    *("spearman_concordance", "cox_concordance"),
)


def key_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of `KEY` as texts: the same before a row is written to a file and after it is read again."""
    return tuple(str(float(row[name])) if name == "fraction" else str(row[name]) for name in KEY)


class Journal:
    """The rows of a running study, one line of JSON per computation, in a hidden file next to the output.

    A study that was interrupted continues from these rows.

    Parameters
    ----------
    output : Path
        The table that is written when the study is complete.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(f".{output.name}.journal")

    def rows(self) -> list[dict[str, Any]]:
        """All finished rows: those of an earlier table at ``output``, then those of the journal."""
        rows = read(self.output).to_dict("records") if self.output.exists() else []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.extend(json.loads(line))
                except json.JSONDecodeError:  # the process was killed while it wrote this line
                    continue
        return rows

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add the rows of one computation as one line, so that all of them are stored or none."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(rows) + "\n")

    def finish(self, table: pd.DataFrame) -> None:
        """Write the complete table and delete the journal."""
        write(table, self.output)
        self.path.unlink(missing_ok=True)


def table_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A long table with the columns `COLUMNS` from rows as mappings."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def check_path(path: Path) -> None:
    """Check, before any computation, that a table can be written to ``path``.

    Raises
    ------
    InputError
        The file name has none of the endings `SUFFIXES`, or its folder does not exist.
    MissingExtraError
        The table is a .parquet file and pyarrow is not installed.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(
            f"{path} is not the name of a table: use one of the endings {', '.join(SUFFIXES)}",
            code="table-suffix",
            parameter="output",
        )
    if not path.parent.is_dir():
        raise InputError(
            f"the folder {path.parent} does not exist: create it first", code="no-folder", parameter="output"
        )
    if path.suffix == ".parquet":
        _require_pyarrow()


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table; if writing fails, an earlier file at ``path`` stays as it was."""
    with atomic_path(path) as partial:
        if path.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            compression = "gzip" if path.suffix == ".gz" else None
            table.to_csv(partial, index=False, sep=_separator(path), compression=compression)


def read(path: Path) -> pd.DataFrame:
    """Read a table written by `write`.

    Raises
    ------
    InputError
        The table lacks a column of `COLUMNS`.
    """
    import pandas as pd

    if path.suffix == ".parquet":
        _require_pyarrow()
        table = pd.read_parquet(path)
    else:
        texts = ("dataset", "method", "parameters", "scheme", "options", "metric", "status", "reason")
        numbers = ("fraction", "value", "seconds")
        table = pd.read_csv(
            path,
            sep=_separator(path),
            keep_default_na=False,
            dtype=dict.fromkeys(texts, str),
            na_values={name: ["", "nan"] for name in numbers},
        )
    missing = set(COLUMNS) - set(table.columns)
    if missing:
        raise InputError(
            f"{path} is not a table of results: it has no column {sorted(missing)[0]!r}", code="not-a-results-table"
        )
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over trials, per dataset, scheme, fraction, metric and method.

    Parameters
    ----------
    table : DataFrame
        Rows as `imputome.studies.runner.run_study` returns them.

    Returns
    -------
    DataFrame
        One row per dataset, scheme, fraction, metric, method and parameters, with the columns

        - ``mean``, ``sd`` and ``n``: over the trials that succeeded; a method that failed in all trials has no row,
        - ``control``: whether the method is a control,
        - ``best``: whether it has the best mean of all methods and controls,
        - ``loses_to``: the best control that the method does not beat, or an empty text.

        Numbers that are no scores, such as the iterations of a fit, are never best and never lose.

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

    group = ["dataset", "scheme", "fraction", "metric"]
    rows = []
    scored = table[table["status"] == "ok"]
    for key, part in scored.groupby(group, sort=False, dropna=False):
        stats = part.groupby(["method", "parameters"], sort=False)["value"].agg(["mean", "std", "count"])
        metric = str(key[-1])
        is_score = metric in METRICS or metric in HIGHER
        cost = costs(stats["mean"], metric)
        controls = [is_control(name) for name, _ in stats.index]
        for place, (name, parameters) in enumerate(stats.index):
            row = dict(zip(group, key, strict=True))
            row |= {"method": name, "parameters": parameters, "mean": stats["mean"].iloc[place]}
            row |= {"sd": stats["std"].iloc[place], "n": int(stats["count"].iloc[place])}
            best = is_score and bool(np.isfinite(cost[place]) and cost[place] == cost.min())
            row |= {"control": controls[place], "best": best}
            not_beaten = [other for other in range(len(cost)) if controls[other] and cost[other] <= cost[place]]
            loses = is_score and not_beaten and not controls[place]
            row["loses_to"] = stats.index[min(not_beaten, key=lambda other: cost[other])][0] if loses else ""
            rows.append(row)
    return pd.DataFrame(rows)


def is_control(method: str) -> bool:
    """Whether the method of a row is a control."""
    from imputome.methods import info, names

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
