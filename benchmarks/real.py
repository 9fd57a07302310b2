"""Every method for real values, and miceforest, on every data set of real values: one fair table.

    python benchmarks/real.py run --make-peers     # hours; what is in real.jsonl already is not run again
    python benchmarks/real.py write                # the tables of docs/comparison.md and docs/choose.md

A tenth of the values hidden at random in all samples (scheme ``mcar``), three splits, the methods fitted on the rest.
Errors are on the transform that `imputome.impute` takes, in standard deviations of the feature: RMSE, and CRPS, which
scores value and interval together and is the mean absolute error of a method without intervals. Each fit has a process
of its own; seconds are those of the fit, and of computing and scoring the hidden values, without imports.
"""

from __future__ import annotations

import os
import statistics
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import comparison
from imputome import datasets
from imputome.core.data import Data, as_data
from imputome.core.links import link
from imputome.evaluation.splits import Split, make_split, seed_for
from imputome.evaluation.streaming import score_hidden
from imputome.studies.inputs import to_dataset
from imputome.studies.runner import chosen_transform

DATA = {  # name -> how it is called in a table
    "tcga_gbmlgg_zscore_1544g": "glioma expression",
    "tcga_glioma_meth_880x1205": "glioma methylation",
    "wgbs_chr21_M_Cov": "WGBS, 4 samples",
}
CPG_STEP = 60  # every sixtieth CpG with enough reads: about 4,000
MIN_COVERAGE = 10  # reads under which a methylation level is left out
METHODS = (
    *("mean", "median", "knn", "svd", "soft_impute", "gaussian_copula", "ppca", "bpca", "lls", "ialm", "beta_vae"),
    *("iterative_ridge", "miss_forest", "peer:miceforest"),
)


def values_of(name: str) -> Data:
    """The complete values of a data set."""
    if name != "wgbs_chr21_M_Cov":
        return to_dataset(datasets.load(name), name=name).data
    import pandas as pd

    table = pd.read_parquet(Path(os.environ["IMPUTOME_DATA"]) / f"{name}.parquet")
    methylated, reads = (table.filter(like=f"{part}.").to_numpy(dtype=np.float64) for part in ("M", "Cov"))
    enough = np.flatnonzero((reads >= MIN_COVERAGE).all(axis=1))[::CPG_STEP]
    return as_data((methylated[enough] / reads[enough]).T, kind="real")


def hidden(name: str, number: int) -> Split:
    """The split of this number; all methods have the same."""
    rng = np.random.default_rng(seed_for(name, "mcar", 0.1, number))
    return make_split("mcar", values_of(name), rng=rng, fraction=0.1, rows="all")


def one(name: str, number: int, method: str) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    split = hidden(name, number)
    transform = chosen_transform(split.train, None)[0]
    if method.startswith("peer:"):  # it knows no transforms: it gets transformed values
        forward, transform = link(transform).forward, "identity"
        train = replace(split.train, X=forward(split.train.X))
        split = replace(split, train=train, truth=forward(np.asarray(split.truth)))
    return comparison.measured(
        method, split.train, lambda result: score_hidden(result, split, link_name=transform), link=transform
    )


# -- tables ------------------------------------------------------------------------------------------------------------
def pages(rows: list[dict[str, Any]]) -> dict[Path, dict[str, str]]:
    chosen = ["mean", "knn", "soft_impute", "bpca", "peer:miceforest", "beta_vae", "gaussian_copula"]
    return {
        comparison.ROOT / "docs" / "comparison.md": {
            "real-rmse": error_table(rows, "rmse_sd", METHODS),
            "real-crps": error_table(rows, "crps_sd", METHODS),
            "real-cost": cost_table(rows),
        },
        comparison.ROOT / "docs" / "choose.md": {"real": error_table(rows, "rmse_sd", chosen)},
    }


def label(method: str) -> str:
    return f"{method.removeprefix('peer:')} (package)" if method.startswith("peer:") else f"`{method}`"


def error_table(rows: list[dict[str, Any]], metric: str, methods: Any) -> str:
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if metric in row.get("scores", {}):
            found.setdefault((row["data"], row["method"]), []).append(row["scores"][metric])
    failed = {(row["data"], row["method"]): row["failed"] for row in rows if "failed" in row}
    best = {
        name: min((statistics.fmean(values) for (data, _), values in found.items() if data == name), default=0)
        for name in DATA
    }
    body = []
    for method in methods:
        cells = []
        for name in DATA:
            values = found.get((name, method))
            if values is None:
                cells.append("failed" if (name, method) in failed else "")
                continue
            text = comparison.spread(values, 3)
            cells.append(f"**{text}**" if statistics.fmean(values) == best[name] else text)
        if any(cells):
            body.append([label(method), *cells])
    return comparison.table(["", *DATA.values()], body)


def cost_table(rows: list[dict[str, Any]]) -> str:
    body = []
    for method in METHODS:
        own = [row for row in rows if row["method"] == method and "scores" in row]
        if not own:
            continue
        coverages = [row["scores"]["coverage_90"] for row in own if "coverage_90" in row["scores"]]
        costs = [row for row in own if row["data"] == "tcga_glioma_meth_880x1205"]
        body.append(
            [
                label(method),
                f"{min(coverages):.2f} to {max(coverages):.2f}" if coverages else "",
                f"{statistics.median(row['seconds'] for row in costs):.1f}" if costs else "",
                f"{statistics.median(row['peak_bytes'] for row in costs) / 2**20:,.0f}" if costs else "",
            ]
        )
    return comparison.table(["", "coverage of 90 %", "seconds, methylation", "peak MiB, methylation"], body)


if __name__ == "__main__":
    sys.exit(
        comparison.main(
            Path(__file__).resolve(),
            __doc__.splitlines()[0],
            data=list(DATA),
            chosen_methods=METHODS,
            one=one,
            pages=pages,
        )
    )
