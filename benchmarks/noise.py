"""Is noise ever called evidence? Sets without any relation between genes, and real ones beside them.

    python benchmarks/noise.py              # the table of the results in noise.jsonl, which were measured before
    python benchmarks/noise.py run noise.jsonl [--seeds 0:60]
    python benchmarks/noise.py real noise.jsonl
    python benchmarks/noise.py table noise.jsonl [--seeds 0:60]

A seed makes one noise set and checks the default method on it. The sets are real counts with each gene permuted over
the cells, Poisson counts of the real gene means and library sizes, the same with much variation of every gene by itself
(negative binomial), and one population of each simulator of benchmarks/verdict.py. They have 100 to 200 cells and 100
to 300 genes (one in ten: 300 and 2,000), drawn at random or the most seen ones.
The line of a set says how many genes are evident, with and without the smallest gain, and how much
correlation imputing adds: in the verdict's null, and in the user's own output, on log1p of normalised values and on
counts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import verdict as verdicts

SOURCES = (
    "pbmc3k_raw",
    "zeisel_ercc_1000g",
    "scmix_celseq2_3cl",
    "kang_pbmc_stim",
    "klein_d2_d4",
    "baron_pancreas_7162x1000",
    "pbmc4k_top2000",
    "mouse_bladder_2100",
    "pbmc_citeseq_400",
)
KINDS = ("permuted", "poisson", "negative binomial", "one population")
REAL = (("pbmc3k_raw", 400, 800), ("zeisel_ercc_1000g", 400, 800), ("scmix_celseq2_3cl", 274, 800))
MANY = (300, 2000)  # cells and genes of one set in ten


def real_counts(source: str, cells: int, genes: int, rng: np.random.Generator, *, most_seen: bool) -> sp.csr_array:
    """Some cells and genes of a real data set; every gene is seen in 3 cells or more."""
    from imputome import datasets

    X = sp.csr_array(datasets.load(source).X)
    X = X[np.sort(rng.choice(X.shape[0], min(cells, X.shape[0]), replace=False))]
    seen = np.bincount(X.indices, minlength=X.shape[1])
    known = np.flatnonzero(seen >= 3)
    order = np.argsort(-seen[known], kind="stable") if most_seen else rng.permutation(len(known))
    return sp.csr_array(X[:, np.sort(known[order[:genes]])].astype(np.float32))


def noise_set(seed: int):
    """Where the set comes from, and its counts."""
    from imputome.core.data import as_data
    from imputome.evaluation.splits import seed_for
    from imputome.trust.null import permute_genes

    rng = np.random.default_rng(seed_for("noise", base=seed))
    kind, source = KINDS[seed % len(KINDS)], SOURCES[seed % len(SOURCES)]
    cells, genes = (int(rng.choice(sizes)) for sizes in ((100, 150, 200), (100, 200, 300)))
    if seed % 10 == 9:
        cells, genes = MANY
    if kind == "one population":
        source = ("low_rank", "scdesign")[seed // len(KINDS) % 2]
        X = sp.csr_array(verdicts.SIMULATORS[source]("homogeneous", rng)[:cells])
        return kind, source, as_data(X.astype(np.float32), kind="counts")
    X = real_counts(source, cells, genes, rng, most_seen=bool(rng.integers(2)))
    if kind == "permuted":
        return kind, source, permute_genes(as_data(X, kind="counts"), rng)
    library, total = X.sum(axis=1), X.sum(axis=0)
    rate = np.outer(library, total / total.sum())
    if kind == "negative binomial":
        shape = rng.gamma(2.0, 0.75, X.shape[1])
        rate *= rng.gamma(shape, 1 / shape, rate.shape)
    return kind, source, as_data(sp.csr_array(rng.poisson(rate).astype(np.float32)), kind="counts")


def measured(data, *, seed: int) -> dict[str, object]:
    """Evident genes and created correlations of the default method."""
    from imputome.methods import DEFAULT, get
    from imputome.trust.check import check
    from imputome.trust.null import MAX_GENES, gene_correlations
    from imputome.trust.verdict import RULE

    begun = time.perf_counter()
    estimator = get(DEFAULT["counts"])(random_state=seed)
    verdict = check(data, estimator, seed=seed)
    imputation = estimator.fit_transform(data)
    genes = np.sort(np.argsort(-data.observed_counts()[1], kind="stable")[:MAX_GENES])
    before = data.X[:, genes].toarray()
    added = {}
    for scale in ("log1p", "counts"):
        raw = np.log1p(before * (1e4 / np.maximum(data.depth, 1))[:, None]) if scale == "log1p" else before
        after = imputation.to_array(genes=genes, scale=scale)
        added[scale] = float(np.abs(gene_correlations(after)).mean() - np.abs(gene_correlations(raw)).mean())
    return {
        "rule": RULE,
        "shape": data.shape,
        "molecules": float(data.depth.sum()),
        "values_from": imputation.status.details["values_from"],
        "verdict": verdict.verdict,
        "explained": verdict.figures["explained"],
        "null_excess": verdict.figures["null_excess"],
        **{f"{scale}_excess": value for scale, value in added.items()},
        **candidates(verdict.genes),
        "seconds": time.perf_counter() - begun,
    }


def candidates(genes) -> dict[str, object]:
    """How many genes were judged, and [explained, lower] of those that a rule could call evident."""
    from imputome.trust.reliability import judged

    known = genes[judged(genes["held_out"], genes["lower"])]
    explained, lower = known["explained"].to_numpy(), known["lower"].to_numpy()
    some = p_values(explained, lower, 0.0) <= 0.1
    rows = np.column_stack([explained, lower])[some]
    return {"judged": len(known), "candidates": [[float(f"{value:.5g}") for value in row] for row in rows]}


def p_values(explained: np.ndarray, lower: np.ndarray, smallest: float) -> np.ndarray:
    """One-sided, of a gain of ``smallest`` or less, from the lower ends of 95 % intervals."""
    from scipy.stats import t

    from imputome.trust.reliability import N_BLOCKS

    error = (explained - lower) / t.ppf(0.975, N_BLOCKS - 1)
    return t.sf((explained - smallest) / np.maximum(error, np.finfo(float).tiny), N_BLOCKS - 1)


def evident(line: dict, smallest: float) -> np.ndarray:
    """Gains of the evident genes of a line of the results, with any smallest gain."""
    from imputome.trust.reliability import FALSE_DISCOVERY_RATE

    explained, lower = np.array(line["candidates"]).reshape(-1, 2).T
    p = p_values(explained, lower, smallest)
    passing = np.flatnonzero(np.sort(p) <= FALSE_DISCOVERY_RATE * np.arange(1, len(p) + 1) / max(line["judged"], 1))
    limit = np.sort(p)[passing[-1]] if len(passing) else -1.0
    return explained[(p <= limit) & (lower > smallest)]


def table(results: Path, seeds: range | None = None) -> str:
    """A row for each kind of set: sets with an evident gene and number of evident genes, with and without the smallest
    gain; other verdicts than "do not impute"; the largest correlation that imputing added.
    """
    from imputome.trust.reliability import SMALLEST_GAIN

    lines = [json.loads(line) for line in results.read_text().splitlines()]
    titles = ("sets", "number", "genes judged", "sets with evident genes", "evident genes")
    titles += ("without smallest gain: sets", "genes", 'verdict not "do not impute"')
    titles += ("correlation added: in the verdict's null", "in the output, log1p", "in the output, counts")
    out = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    noise = [one for one in lines if one["kind"] in KINDS and (seeds is None or one["seed"] in seeds)]
    groups = {kind: [one for one in noise if one["kind"] == kind] for kind in KINDS} | {"all noise": noise}
    groups |= {f"real: {one['source']}": [one] for one in lines if one["kind"] == "real"}
    for name, part in groups.items():
        if not part:
            continue
        cells = [name, len(part), f"{sum(one['judged'] for one in part):,}"]
        for smallest in (SMALLEST_GAIN, 0.0):
            numbers = [len(evident(one, smallest)) for one in part]
            cells += [np.count_nonzero(numbers), f"{sum(numbers):,}"]
        cells.append(sum(one["verdict"] != "do not impute" for one in part))
        cells += [f"{max(one[f'{scale}_excess'] for one in part):+.3f}" for scale in ("null", "log1p", "counts")]
        out.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(out)


def run(output: Path, seeds: range) -> None:
    lines = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(one["kind"], one["source"], one["seed"]) for one in lines}
    for seed in seeds:
        kind, source, data = noise_set(seed)
        if (kind, source, seed) not in done:
            write(output, {"kind": kind, "source": source, "seed": seed, **measured(data, seed=seed)})


def run_real(output: Path) -> None:
    from imputome.core.data import as_data

    for source, cells, genes in REAL:
        X = real_counts(source, cells, genes, np.random.default_rng(0), most_seen=True)
        line = measured(as_data(X, kind="counts"), seed=0)
        write(output, {"kind": "real", "source": source, "seed": 0, **line})


def write(output: Path, line: dict[str, object]) -> None:
    with output.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    shown = ("kind", "source", "seed", "shape", "values_from", "verdict", "explained", "judged", "seconds")
    print(*(line[name] for name in shown), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "real", "table"), nargs="?", default="table")
    parser.add_argument("results", type=Path, nargs="?", default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--seeds")
    given = parser.parse_args()
    if given.what == "table":
        print(table(given.results, range(*map(int, given.seeds.split(":"))) if given.seeds else None))
        print(f"\nThe figures of {given.results.name}; to measure: python benchmarks/noise.py run new.jsonl")
    elif given.what == "real":
        run_real(given.results)
    else:
        run(given.results, range(*map(int, (given.seeds or "0:60").split(":"))))


if __name__ == "__main__":
    main()
