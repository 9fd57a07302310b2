"""Is the verdict right? Simulated data with known truth, twenty seeds a case and two simulators; and the worth of each
criterion of the rule.

    python benchmarks/verdict.py              # the table of the results in verdict.jsonl, which were measured before
    python benchmarks/verdict.py run results.jsonl [--cases ...] [--simulators low_rank,scdesign] [--seeds 0:20]
    python benchmarks/verdict.py table results.jsonl

Each line of the results holds the figures of one check (`imputome.trust.check.check` with the default method for
counts), so the table of what happens without each criterion needs no further fits. The rule was made on the seeds
from 100 of the first simulator and on the real data sets; the seeds from 0, and the second simulator, were first run
after it was frozen (see docs/verdict.md).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

CELLS, GENES = 500, 400
DEEP_CELLS = 200  # plates are small
RIGHT = {
    "structure": ("use",),
    "homogeneous": ("do not impute",),
    "permuted": ("do not impute",),
    "deep": ("do not impute", "use for visualisation only"),
    # added after the first seed of scdesign's "structure", where knowing each cell's type takes away under 0.3 % of the
    # error: see docs/verdict.md
    "strong structure": ("use",),
}


def low_rank(case: str, rng: np.random.Generator):
    """Negative binomial counts of low rank, `imputome.evaluation.simulate.simulate_counts`."""
    from imputome.evaluation.simulate import simulate_counts

    options = {"n": CELLS, "G": GENES}
    if case == "homogeneous":
        options |= {"n_types": 1, "rank": 0, "factor_strength": 0.0}
    if case == "strong structure":
        options |= {"de_share": 0.3}
    if case == "deep":
        options |= {"n": DEEP_CELLS, "depth": 1e6}
    return simulate_counts(**options, rng=rng).X


def scdesign(case: str, rng: np.random.Generator):
    """Two cell types like those of a real data set, `imputome.evaluation.simulate.fit_scdesign`."""
    from imputome import datasets
    from imputome.evaluation.simulate import fit_scdesign

    real = datasets.load("zeisel_ercc_1000g")
    genes = np.sort(rng.choice(real.n_vars, GENES, replace=False))
    fitted = fit_scdesign(real.X[:, genes])
    options = {"cells_per_type": CELLS // 2}
    if case == "homogeneous":
        options |= {"de_share": 0.0}
    if case == "strong structure":
        options |= {"de_share": 0.3}
    if case == "deep":
        options |= {"cells_per_type": DEEP_CELLS // 2, "depth": int(1e6) * DEEP_CELLS}
    return fitted.simulate(**options, rng=rng).X


SIMULATORS = {"low_rank": low_rank, "scdesign": scdesign}


def run(output: Path, simulators: list[str], cases: list[str], seeds: range) -> None:
    from imputome.core.data import as_data
    from imputome.evaluation.splits import seed_for
    from imputome.methods import DEFAULT, get
    from imputome.trust.check import check
    from imputome.trust.null import permute_genes
    from imputome.trust.verdict import RULE

    done = set()
    if output.exists():
        for line in output.read_text().splitlines():
            one = json.loads(line)
            done.add((one["rule"], one["simulator"], one["case"], one["seed"]))
    for seed in seeds:
        for simulator in simulators:
            for case in cases:
                if (RULE, simulator, case, seed) in done:
                    continue
                rng = np.random.default_rng(seed_for("verdict", simulator, case, base=seed))
                data = as_data(SIMULATORS[simulator](case, rng), kind="counts")
                if case == "permuted":
                    data = permute_genes(data, rng)
                begun = time.perf_counter()
                verdict = check(data, get(DEFAULT["counts"])(random_state=seed), seed=seed)
                line = {
                    "simulator": simulator,
                    "case": case,
                    "seed": seed,
                    "rule": RULE,
                    "verdict": verdict.verdict,
                    "failed": verdict.failed,
                    "figures": verdict.figures,
                    "seconds": time.perf_counter() - begun,
                }
                with output.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
                print(simulator, case, seed, verdict.verdict, *verdict.failed, f"{line['seconds']:.0f} s", flush=True)


def table(results: Path) -> str:
    from imputome.trust.verdict import CRITERIA, decide

    lines = [json.loads(line) for line in results.read_text().splitlines()]
    names = list(dict.fromkeys(one.name for one in CRITERIA if "counts" in one.kinds))
    out = ["| simulator | case | rule | seeds | right | " + " | ".join(f"without {name}" for name in names) + " |"]
    out.append("|" + " --- |" * (5 + len(names)))
    for simulator, rule in dict.fromkeys((one["simulator"], one["rule"]) for one in lines):
        for case, right in RIGHT.items():
            part = [one for one in lines if (one["simulator"], one["rule"], one["case"]) == (simulator, rule, case)]
            if not part:
                continue
            seeds = [one["seed"] for one in part]
            # NaN travels through JSON as NaN
            counts = [
                sum(decide(one["figures"], "counts", without=without).verdict in right for one in part)
                for without in [(), *((name,) for name in names)]
            ]
            which = f"{min(seeds)} to {max(seeds)} ({len(seeds)})"
            out.append(f"| {simulator} | {case} | {rule} | {which} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"), nargs="?", default="table")
    parser.add_argument("results", type=Path, nargs="?", default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--simulators", default=",".join(SIMULATORS))
    parser.add_argument("--cases", default=",".join(RIGHT))
    parser.add_argument("--seeds", default="0:20")
    given = parser.parse_args()
    if given.what == "table":
        print(table(given.results))
        print(f"\nThe figures of {given.results.name}; to measure: python benchmarks/verdict.py run new.jsonl")
        return
    first, last = map(int, given.seeds.split(":"))
    run(given.results, given.simulators.split(","), given.cases.split(","), range(first, last))


if __name__ == "__main__":
    main()
