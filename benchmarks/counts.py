"""Every method for counts and every peer, each bare and with the posterior step, on every data set: one fair table.

    python benchmarks/counts.py run --make-peers       # hours; what is in counts.jsonl already is not run again
    python benchmarks/counts.py run --data zeisel_ercc_1000g --methods magic,magic+posterior,peer:magic
    python benchmarks/counts.py write                  # the tables of docs/comparison.md and docs/choose.md

Nine tenths of the molecules to fit on, the rest is held out (scheme ``thin``), three splits. Cells with fewer than 50
genes and genes in fewer than 10 cells are left out. Scores: `imputome.evaluation.streaming.score_thinned`. Each fit has
a process of its own; seconds are those that the processor worked on the fit and on computing and scoring all values,
without imports, so they depend little on what else the machine does (wall seconds in rows without "clock", which are to
be run again); peak memory is that of the process, or of the peer's.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import comparison
from imputome import datasets
from imputome.evaluation.splits import Split, make_split, seed_for
from imputome.evaluation.streaming import score_thinned
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS
from imputome.studies.inputs import to_dataset

DATA = {  # name -> how it is called in a table
    "zeisel_ercc_1000g": "zeisel",
    "pbmc_citeseq_400": "citeseq",
    "scmix_celseq2_3cl": "scmix",
    "klein_d2_d4": "klein",
    "kang_pbmc_stim": "kang",
    "pbmc4k_top2000": "pbmc4k",
    "baron_pancreas_7162x1000": "baron",
    "mouse_bladder_2100": "bladder",
    "pbmc3k_raw": "pbmc3k",
}
CONTROLS = ("all_zeros", "no_imputation", "gene_mean", "gene_mean_posterior")
# the cheap ones first: what is measured when time is up is then most of the table
METHODS = (
    "poisson_nmf",
    "count_factors",
    "count_factors:posterior=false",
    "count_autoencoder",
    "count_autoencoder:posterior=false",
    "alra",
    "magic",
    "knn_smoothing",
    "peer:poismf",
    "peer:poismf:factors=50",
    "peer:halra",
    "peer:magic",
    "ialm",
    "drimpute",
    "scimpute",
    "saver",
    "autoencoder",
    "deepimpute",
    "tuned_dca",
    "dca",
    "zip_dca",
    "peer:glmpca",
    "peer:scvi",
    "peer:scvi:likelihood=zinb",
    "zipo",
)
DEAR = METHODS[METHODS.index("drimpute") :]  # minutes a fit, or half an hour: on one split of some data sets
FOR_DEAR = ("zeisel_ercc_1000g", "pbmc_citeseq_400", "scmix_celseq2_3cl", "pbmc4k_top2000")
ONE_SPLIT = ("peer:poismf", "peer:poismf:factors=50", "ialm")
# these two are the pair
WITHOUT_STEP = {f"{name}{bare}" for name in ("count_factors", "count_autoencoder") for bare in ("", ":posterior=false")}
ALL = [
    *CONTROLS,
    *(variant for name in METHODS for variant in ((name,) if name in WITHOUT_STEP else (name, name + "+posterior"))),
]


def wanted(name: str, number: int, method: str) -> bool:
    """Whether a method is run on a split of a data set: on all three, unless it is dear."""
    bare = method.removesuffix("+posterior")
    return number == 1 and name in FOR_DEAR if bare in DEAR else number == 1 or bare not in ONE_SPLIT


def thinned(name: str, number: int) -> Split:
    """The split of this number; all methods have the same."""
    dataset = to_dataset(datasets.load(name), name=name, min_genes=50, min_cells=10)
    return make_split(
        "thin", dataset.data, rng=np.random.default_rng(seed_for(name, "thin", 0.1, number)), fraction=0.1
    )


def one(name: str, number: int, method: str) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    split = thinned(name, number)
    if method in REFERENCE_PREDICTIONS:
        return {"scores": score_thinned(REFERENCE_PREDICTIONS[method](split.train), split), "seconds": 0.0}
    return comparison.measured(method, split.train, lambda result: score_thinned(result, split))


# -- tables ------------------------------------------------------------------------------------------------------------
def pages(rows: list[dict[str, Any]]) -> dict[Path, dict[str, str]]:
    scores = {(row["data"], row["split"], row["method"]): row for row in rows}
    return {
        comparison.ROOT / "docs" / "comparison.md": {
            "counts-loss": loss_table(scores, list(DATA), ALL),
            "counts-cost": cost_table(scores),
        },
        comparison.ROOT / "docs" / "choose.md": {
            "counts": loss_table(
                scores,
                ["pbmc3k_raw", "baron_pancreas_7162x1000", "zeisel_ercc_1000g", "pbmc4k_top2000"],
                [
                    *("gene_mean", "gene_mean_posterior", "peer:scvi", "peer:scvi+posterior"),
                    *("peer:magic", "peer:magic+posterior", "poisson_nmf+posterior", "count_factors"),
                    "count_autoencoder",
                ],
            )
        },
    }


def label(method: str) -> str:
    """A method as the tables call it."""
    name = method.removesuffix("+posterior").replace(":posterior=false", "")
    if name.startswith("peer:"):
        name = name.removeprefix("peer:").replace(":likelihood=", ", ").replace(":factors=", ", k = ") + " (package)"
    else:
        name = f"`{name}`"
    with_step = method.endswith("+posterior") or method in (*WITHOUT_STEP, "gene_mean_posterior")
    with_step &= not method.endswith(":posterior=false")
    return name + (", with the step" if with_step and method != "gene_mean_posterior" else "")


def values(scores: dict[tuple, dict], name: str, method: str, metric: str) -> list[float]:
    found = [row for (data, _, of), row in scores.items() if data == name and of == method]
    return [row["scores"][metric] for row in found if metric in row.get("scores", {})]


def loss_table(scores: dict[tuple, dict], names: list[str], methods: list[str]) -> str:
    """Deviance: a row for each method, a column for each data set; the best of a column is bold."""
    means = {
        name: {
            method: statistics.fmean(found)
            for method in methods
            if (found := values(scores, name, method, "poisson_deviance"))
        }
        for name in names
    }
    body = []
    for method in methods:
        cells = []
        for name in names:
            found = values(scores, name, method, "poisson_deviance")
            if found:
                text = comparison.spread(found, 4)
                best = means[name][method] == min(means[name].values())
                cells.append(f"**{text}**" if best else text)
            else:
                failed = [row.get("failed") for key, row in scores.items() if key[0] == name and key[2] == method]
                cells.append("failed" if any(failed) else "")
        if any(cells):
            body.append([label(method), *cells])
    return comparison.table(["", *(DATA[name] for name in names)], body)


def cost_table(scores: dict[tuple, dict]) -> str:
    """Ratio of totals furthest from 1 and mean coverage over all, seconds and memory on the largest data set."""
    body = []
    for method in ALL:
        ratios, coverages = (
            [value for name in DATA for value in values(scores, name, method, metric)]
            for metric in ("total_ratio", "coverage_90")
        )
        if not ratios:
            continue
        costs = [
            row for key, row in scores.items() if key[0] == "pbmc3k_raw" and key[2] == method and "peak_bytes" in row
        ]
        body.append(
            [
                label(method),
                f"{max(ratios, key=lambda ratio: abs(ratio - 1)):.3f}",
                f"{min(coverages):.2f} to {max(coverages):.2f}" if coverages else "",
                f"{statistics.median(row['seconds'] for row in costs):.0f}" if costs else "",
                f"{statistics.median(row['peak_bytes'] for row in costs) / 2**20:,.0f}" if costs else "",
            ]
        )
    head = ["", "predicted over held-out, furthest from 1", "coverage of 90 %", "seconds, pbmc3k", "peak MiB, pbmc3k"]
    return comparison.table(head, body)


if __name__ == "__main__":
    sys.exit(
        comparison.main(
            Path(__file__).resolve(),
            __doc__.splitlines()[0],
            data=list(DATA),
            chosen_methods=ALL,
            one=one,
            pages=pages,
            wanted=wanted,
        )
    )
