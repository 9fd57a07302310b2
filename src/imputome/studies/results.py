"""Result tables of studies: one row a number, kept in a journal while a study runs, and summarised for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.atomic import atomic_path
from imputome.errors import InputError, missing_extra
from imputome.evaluation.metrics import COVERAGE, METRICS
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS

if TYPE_CHECKING:
    import pandas as pd

# what a finished computation is known by, and what it gives
KEY = ("dataset", "method", "parameters", "scheme", "options", "fraction", "trial", "seed")
COLUMNS = (*KEY, "metric", "value", "seconds", "peak_bytes", "status", "reason")
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
# downstream scores beside the metrics: all of them are better the higher they are
HIGHER = (
    *("ari", "ami", "nmi", "leiden_ari", "leiden_ami", "leiden_nmi", "precision", "recall", "tnr"),
    *("spearman_concordance", "cox_concordance"),
)


class Journal:
    """Rows of a running study, one JSON line each, beside the output; a killed study goes on from them."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(f".{output.name}.journal")

    def rows(self) -> list[dict[str, Any]]:
        """All finished rows: those of an earlier table at ``output``, then those of the journal."""
        found = read(self.output).to_dict("records") if self.output.exists() else []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    found.extend(json.loads(line))
                except json.JSONDecodeError:  # the line that was being written when the study was killed
                    continue
        return found

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Rows of one computation, as one line, so that they are there together or not at all."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(rows) + "\n")

    def finish(self, table: pd.DataFrame) -> None:
        """Write the table, and drop the journal."""
        write(table, self.output)
        self.path.unlink(missing_ok=True)


def table_of(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The tidy long table."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def check_path(path: Path) -> None:
    """Refuse an output that cannot be written, before anything is computed."""
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path} is no table: end it in one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it first")
    if path.suffix == ".parquet":
        _require_pyarrow()


def write(table: pd.DataFrame, path: Path) -> None:
    """Write the table at once: complete, or not at all."""
    with atomic_path(path) as partial:
        if path.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            compression = "gzip" if path.suffix == ".gz" else None
            table.to_csv(partial, index=False, sep=_separator(path), compression=compression)


def read(path: Path) -> pd.DataFrame:
    """Read a table written by `write`."""
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
        raise InputError(f"{path} is not a table of results: it has no column {sorted(missing)[0]!r}")
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over trials: one row per dataset, scheme, fraction, metric, method.

    Columns beside these: mean, sd (over trials), n, control, best (of all methods and controls), loses_to (the best
    control that it does not beat, or nothing). A method that failed in every trial has no row. What is no score but a
    figure of the fit is neither best nor beaten.
    """
    import pandas as pd

    group = ["dataset", "scheme", "fraction", "metric"]
    rows = []
    scored = table[table["status"] == "ok"]
    for key, part in scored.groupby(group, sort=False, dropna=False):
        stats = part.groupby(["method", "parameters"], sort=False)["value"].agg(["mean", "std", "count"])
        metric = str(key[-1])
        score = metric in METRICS or metric in HIGHER
        cost = costs(stats["mean"], metric)
        controls = [is_control(name) for name, _ in stats.index]
        for place, (name, parameters) in enumerate(stats.index):
            entry = dict(zip(group, key, strict=True))
            entry |= {"method": name, "parameters": parameters, "mean": stats["mean"].iloc[place]}
            entry |= {"sd": stats["std"].iloc[place], "n": int(stats["count"].iloc[place])}
            best = score and bool(np.isfinite(cost[place]) and cost[place] == cost.min())
            entry |= {"control": controls[place], "best": best}
            bars = [other for other in range(len(cost)) if controls[other] and cost[other] <= cost[place]]
            beaten = score and bars and not controls[place]
            entry["loses_to"] = stats.index[min(bars, key=lambda other: cost[other])][0] if beaten else ""
            rows.append(entry)
    return pd.DataFrame(rows)


def is_control(method: str) -> bool:
    """Whether a row's method is a control."""
    from imputome.methods import info, names

    return method in (*REFERENCE_PREDICTIONS, "gene_mean+posterior") or (method in names() and info(method).control)


def costs(scores: pd.Series, metric: str) -> Any:
    """Lower is better, whatever the metric; a score that could not be had is the worst."""
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
