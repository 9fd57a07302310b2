"""What the methods for counts cost, and how well they predict, as the number of cells grows.

    python benchmarks/scaling.py run                                         # what is in scaling.jsonl is not run again
    python benchmarks/scaling.py run --data 100000 --methods peer:scvi       # a peer, see comparison.py
    python benchmarks/scaling.py write                                       # the tables of docs/scaling.md

Simulated counts of 2,000 genes, 3.7 % of them nonzero, with 16 types of cells (the rarest 0.6 % of the cells) and 20
directions of variation within types. The first cells of a larger set are those of a smaller one. A tenth of the
molecules is held out (scheme ``thin``); the loss is that of `imputome.evaluation.streaming.score_thinned`, with the
fitted model, on 5,000 evenly spaced cells.

``cpu_seconds`` is the processor time of the whole fit, with all of its threads (and, for a peer, with its start);
``seconds`` the wall time. The posterior step is a part of the fit. Peak memory is that of the process: the counts, and
what was needed to simulate them, are in it.
"""

from __future__ import annotations

import itertools
import math
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import comparison
from imputome.core.data import as_data
from imputome.core.many_cells import evenly_spaced
from imputome.evaluation.simulate import draw_fold_changes
from imputome.evaluation.splits import make_split, seed_for
from imputome.evaluation.streaming import score_thinned
from peers import peak_bytes

CELLS = (10_000, 30_000, 100_000, 300_000)
METHODS = ("gene_mean_posterior", "poisson_nmf+posterior", "count_factors", "count_autoencoder")
METRICS = ("poisson_loss", "poisson_deviance", "nll")
GENES, TYPES, DIRECTIONS = 2000, 16, 20
DEPTH = 80.0  # median molecules of a cell before differences between types; some 75 genes are seen in a cell
CELLS_PER_BLOCK = 10_000  # each block of cells has a seed of its own
SCORED_CELLS = 5000


def simulated(n: int, seed: int = 0) -> sp.csr_array:
    """Gamma-Poisson counts of n cells, as `imputome.evaluation.simulate.simulate_counts` makes them, in blocks."""
    rng = np.random.default_rng(seed)
    share = np.exp(1.6 * rng.standard_normal(GENES))
    share /= share.sum()
    size = 0.8 ** np.arange(TYPES)
    change = np.stack([draw_fold_changes(GENES, 0.15, (1.5, 8.0), rng) for _ in range(TYPES)])
    # from strong directions to weak ones; all together move the log rates by 0.5
    strength = 1 / np.sqrt(1 + np.arange(DIRECTIONS))
    strength *= 0.5 / np.linalg.norm(strength)
    loadings = rng.standard_normal((GENES, DIRECTIONS)) * strength
    phi = 0.05 + 1.2 / (1 + DEPTH * share)
    blocks = []
    for start in range(0, n, CELLS_PER_BLOCK):
        rng = np.random.default_rng([seed, start])
        library = DEPTH * np.exp(0.4 * rng.standard_normal(CELLS_PER_BLOCK))
        cell_type = rng.choice(TYPES, size=CELLS_PER_BLOCK, p=size / size.sum())
        log_rate = rng.standard_normal((CELLS_PER_BLOCK, DIRECTIONS)) @ loadings.T - (loadings**2).sum(axis=1) / 2
        rate = np.exp(log_rate) * change[cell_type] * share * library[:, None]
        counts = rng.poisson(rate * rng.gamma(1 / phi, phi, size=rate.shape)).astype(np.float32)
        blocks.append(sp.csr_array(counts[: n - start]))
    return sp.csr_array(sp.vstack(blocks))


def one(name: str, number: int, method: str) -> dict[str, Any]:
    """Fit the method on this many cells."""
    warnings.filterwarnings("ignore")
    n = int(name)
    seed = seed_for("scaling", "thin", 0.1, number)
    split = make_split("thin", as_data(simulated(n), kind="counts"), rng=np.random.default_rng(seed), fraction=0.1)
    rows = evenly_spaced(n, 1, SCORED_CELLS)
    assert split.test is not None  # noqa: S101
    some = replace(split, train=split.train.subset(rows=rows), test=split.test[rows])
    estimator = comparison.estimator(method)
    begun, cpu = time.perf_counter(), cpu_seconds()
    result = estimator.fit_transform(split.train)
    found: dict[str, Any] = {
        "nonzeros": int(split.train.X.nnz),
        "cpu_seconds": round(cpu_seconds() - cpu, 2),
        "seconds": round(time.perf_counter() - begun, 2),
        "peak_bytes": peak_bytes(),
    }
    scored = estimator.transform(some.train)
    found["scores"] = {name: float(score) for name, score in score_thinned(scored, some, metrics=METRICS).items()}
    if epochs := result.status.details.get("epochs"):
        found["epochs"] = epochs
    return found


def cpu_seconds() -> float:
    """Processor time of this process and of those that it has started and waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Cost and loss by method and number of cells, and how processor time grows with the nonzeros."""
    measured = [row for row in rows if "scores" in row]
    lines, slopes = [], []
    for method in dict.fromkeys(row["method"] for row in measured):
        mine = sorted((row for row in measured if row["method"] == method), key=lambda row: int(row["data"]))
        for row in mine:
            lines.append(
                [
                    *(f"`{method}`", f"{int(row['data']):,}", f"{row['cpu_seconds']:.1f}", f"{row['seconds']:.1f}"),
                    f"{row['peak_bytes'] / 2**30:.2f}",
                    *(f"{row['scores'][name]:.5f}" for name in METRICS),
                ]
            )
        ends = [mine[0], mine[-1]]
        if ends[0]["data"] != ends[1]["data"]:
            sizes, times = ([math.log(row[key]) for row in mine] for key in ("nonzeros", "cpu_seconds"))
            points = sorted(zip(sizes, times, strict=True))
            steps = [(t - s) / (b - a) for (a, s), (b, t) in itertools.pairwise(points)]
            slope = statistics.linear_regression(sizes, times).slope
            slopes.append([f"`{method}`", f"{slope:.2f}", f"{max(steps):.2f}"])
    head = ["method", "cells", "processor s", "wall s", "peak GiB", *METRICS]
    slope_head = ["method", "slope of log time on log nonzeros", "largest between two sizes"]
    return "\n\n".join(comparison.table(*part) for part in ((head, lines), (slope_head, slopes)))


def pages(rows: list[dict[str, Any]]) -> dict[Path, dict[str, str]]:
    return {comparison.ROOT / "docs" / "scaling.md": {"scaling": tables(rows)}}


if __name__ == "__main__":
    sys.exit(
        comparison.main(
            Path(__file__).resolve(),
            __doc__.splitlines()[0],
            data=[str(number) for number in CELLS],
            chosen_methods=METHODS,
            one=one,
            pages=pages,
        )
    )
