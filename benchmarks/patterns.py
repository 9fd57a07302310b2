"""Is the check right about values that are missing in a pattern? Complete data with holes made in it: what the check
predicts, beside the truth.

    python benchmarks/patterns.py              # the table of the results in patterns.jsonl, which were measured before
    python benchmarks/patterns.py run results.jsonl [--designs ...] [--data ...] [--methods ...] [--seeds 0:1]
    python benchmarks/patterns.py table results.jsonl
    python benchmarks/patterns.py summary results.jsonl

Each line of the results holds one check (`imputome.trust.check.check`) of 150 samples x 150 features, and the same two
figures for the values that are really missing: the share of the squared error of the feature mean that the method takes
away, and the coverage of its 90 % intervals. The figures of the check are those of the way of hiding in which the
method explains least. `at_random` holds what a check with values hidden at random predicts, as rule 5 did.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

SAMPLES = FEATURES = 150
# name -> column of obs with the groups of the design "arrays by group"
DATA = {
    "tcga_glioma_meth_880x1205": "class",
    "tcga_gbmlgg_zscore_1544g": "oncotree_code",  # on arcsinh, as `imputome.impute` takes them
    "scmix_celseq2_3cl": "cell_type",  # log1p of counts per 10,000 of the genes with most molecules
    "zeisel_ercc_1000g": "cell_type",
}
METHODS = ("gaussian_copula", "soft_impute")


def load(name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Complete real values, and the groups of the samples."""
    import scipy.sparse as sp

    from imputome import datasets

    adata = datasets.load(name)
    X = np.asarray(adata.X.toarray() if sp.issparse(adata.X) else adata.X, dtype=np.float64)
    rows = np.sort(rng.choice(len(X), SAMPLES, replace=False))
    if name.startswith("tcga"):
        columns = np.sort(rng.choice(X.shape[1], FEATURES, replace=False))
        X = X[np.ix_(rows, columns)]
        X = np.arcsinh(X) if "zscore" in name else X
    else:
        X = np.log1p(1e4 * X[rows] / X[rows].sum(axis=1, keepdims=True))
        X = X[:, np.sort(np.argsort(-X.mean(axis=0))[:FEATURES])]
    return X, adata.obs[DATA[name]].astype(str).to_numpy()[rows]


def arrays(rng: np.random.Generator, shared: float, first: np.ndarray | None = None) -> np.ndarray:
    """Two arrays with features of their own, and a share of the features on both."""
    place = rng.permutation(FEATURES)
    if first is None:
        first = rng.random(SAMPLES) < 0.5
    common = round(shared * FEATURES)
    return (place >= common) & (first[:, None] == (place < common + (FEATURES - common) // 2))


def panel(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two thirds of the samples were measured for a few features only."""
    return (rng.random(SAMPLES) < 2 / 3)[:, None] & ~np.isin(np.arange(FEATURES), features)


def related(X: np.ndarray) -> np.ndarray:
    """A fifth of the features: those that are correlated most with the others."""
    return np.argsort(-np.square(np.corrcoef(X.T)).sum(axis=0))[: FEATURES // 5]


def batches(rng: np.random.Generator) -> np.ndarray:
    """Six batches that each lack a fifth of the proteins, and 3 % missing at random."""
    missing = rng.random((SAMPLES, FEATURES)) < 0.03
    batch = rng.integers(6, size=SAMPLES)
    for number in range(6):
        missing |= (batch == number)[:, None] & (rng.permutation(FEATURES) < FEATURES // 5)
    return missing


def low(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seven in ten of the values under a limit, which is the 0 to 40 % quantile of the feature."""
    rank = np.argsort(np.argsort(X, axis=0), axis=0) / len(X)
    return (rank < rng.uniform(0, 0.4, FEATURES)) & (rng.random(X.shape) < 0.7)


# name -> (values, groups, generator) -> True where a value is missing
DESIGNS = {
    "random": lambda X, groups, rng: rng.random(X.shape) < 0.1,
    "by feature": lambda X, groups, rng: rng.random(X.shape) < rng.beta(0.5, 2, FEATURES),
    "arrays, 30 % shared": lambda X, groups, rng: arrays(rng, 0.3),
    "arrays, 5 % shared": lambda X, groups, rng: arrays(rng, 0.05),
    "arrays, nothing shared": lambda X, groups, rng: arrays(rng, 0.0),
    "arrays by group": lambda X, groups, rng: arrays(rng, 0.3, groups == max(set(groups), key=list(groups).count)),
    "panel": lambda X, groups, rng: panel(rng.choice(FEATURES, FEATURES // 5, replace=False), rng),
    "panel of related features": lambda X, groups, rng: panel(related(X), rng),
    "batches": lambda X, groups, rng: batches(rng),
    "low values": lambda X, groups, rng: low(X, rng),
}


def truth(estimator, data, X: np.ndarray) -> dict[str, float]:
    """What the method explains of the missing values, and how many are in its intervals."""
    from imputome.evaluation.streaming import Units
    from imputome.methods import create

    i, j = np.nonzero(np.isnan(data.X))
    units = Units(data, "identity", (j, X[i, j]))
    usable = units.usable[j]
    i, j = i[usable], j[usable]
    imputed = estimator.clone().fit_transform(data)
    errors = [
        np.square(units.of(one.at(i, j), j) - units.of(X[i, j], j)).sum()
        for one in (imputed, create("mean").fit_transform(data))
    ]
    figures = {"explained": 1 - errors[0] / errors[1], "coverage": float("nan")}
    if "upper" in imputed.outputs:
        lower, upper = (imputed.at(i, j, output=end) for end in ("lower", "upper"))
        figures["coverage"] = float(np.mean((lower <= X[i, j]) & (X[i, j] <= upper)))
    return figures


def predicted(verdict) -> dict[str, float]:
    coverage = float("nan")
    if len(verdict.calibration):
        coverage = float(np.average(verdict.calibration["coverage"], weights=verdict.calibration["entries"]))
    return {"explained": verdict.figures["explained"], "coverage": coverage}


def run(output: Path, names: list[str], designs: list[str], methods: list[str], seeds: range) -> None:
    import imputome.trust.evidence as evidence
    from imputome.core.data import as_data
    from imputome.evaluation.splits import seed_for
    from imputome.methods import create
    from imputome.trust.check import check
    from imputome.trust.imitation import AT_RANDOM
    from imputome.trust.verdict import RULE

    def key(one: dict) -> tuple:
        return tuple(one[name] for name in ("rule", "data", "design", "method", "seed"))

    done = {key(json.loads(line)) for line in output.read_text().splitlines()} if output.exists() else set()
    for seed in seeds:
        for design in designs:
            for name in names:
                for method in methods:
                    line = {"rule": RULE, "data": name, "design": design, "method": method, "seed": seed}
                    if key(line) in done:
                        continue
                    rng = np.random.default_rng(seed_for("patterns", name, design, base=seed))
                    X, groups = load(name, rng)
                    missing = DESIGNS[design](X, groups, rng)
                    data = as_data(np.where(missing, np.nan, X), kind="real")
                    estimator = create(method, random_state=seed)
                    begun = time.perf_counter()
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        verdict = check(data, estimator, seed=seed)
                        seconds = time.perf_counter() - begun
                        imitation_of, evidence.imitation_of = evidence.imitation_of, lambda *_: AT_RANDOM
                        at_random = check(data, estimator, seed=seed, n_splits=1)
                        evidence.imitation_of = imitation_of
                        true = truth(estimator, data, X)
                    line |= {
                        "missing": float(missing.mean()),
                        "held_out": verdict.held_out,
                        "verdict": verdict.verdict,
                        "failed": list(verdict.failed),
                        "predicted": predicted(verdict),
                        "at_random": {**predicted(at_random), "verdict": at_random.verdict},
                        "true": true,
                        "seconds": seconds,
                    }
                    with output.open("a") as stream:
                        stream.write(json.dumps(line) + "\n")
                    print(design, name, method, verdict.verdict, line["predicted"], true, flush=True)


def table(results: Path) -> str:
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    out = [
        "| missing | data | method | explained: at random | in the pattern | true | coverage: at random | in the "
        "pattern | true | verdict: at random | in the pattern |"
    ]
    out.append("|" + " --- |" * 11)
    for one in sorted(lines, key=lambda one: (list(DESIGNS).index(one["design"]), one["method"], one["seed"])):
        parts = [one["at_random"], one["predicted"], one["true"]]
        figures = [
            "" if np.isnan(part[name]) else f"{100 * part[name]:.1f} %"
            for name in ("explained", "coverage")
            for part in parts
        ]
        if one["verdict"] == "withheld":
            figures[1] = figures[4] = "not known"
        why = f" ({', '.join(one['failed'])})" if one["failed"] else ""
        cells = [one["design"], one["data"], one["method"], *figures, one["at_random"]["verdict"], one["verdict"] + why]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


GROUPS = {  # designs that the summary takes together; all others are blocks
    "random": ("random", "by feature"),
    "low values": ("low values",),
    "nothing shared": ("arrays, nothing shared",),
}


def summary(results: Path) -> str:
    """How far the check is from the truth in points, mean and largest, for each method, seed and group of designs."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    out = [
        "| method | seed | missing | sets | explained, off: in the pattern | at random | coverage, off: in the "
        "pattern | at random | use | true gain where use was said |",
        "|" + " --- |" * 10,
    ]
    for method, seed in sorted({(one["method"], one["seed"]) for one in lines}):
        part = [one for one in lines if (one["method"], one["seed"]) == (method, seed)]
        grouped = {name: [one for one in part if one["design"] in designs] for name, designs in GROUPS.items()}
        rest = [one for one in part if not any(one["design"] in designs for designs in GROUPS.values())]
        for name, group in {**grouped, "blocks": rest}.items():
            cells = [method, str(seed), name, str(len(group))]
            for figure in ("explained", "coverage"):
                for how in ("predicted", "at_random"):
                    off = np.array([100 * abs(one[how][figure] - one["true"][figure]) for one in group])
                    withheld = how == "predicted" and all(one["verdict"] == "withheld" for one in group)
                    known = not withheld and np.isfinite(off).all()
                    cells.append(f"{off.mean():.1f} ({off.max():.1f})" if known else "not known" if withheld else "")
            gains = sorted(100 * one["true"]["explained"] for one in group if one["verdict"] == "use")
            cells += [str(len(gains)), f"{gains[0]:.0f} to {gains[-1]:.0f} %" if gains else ""]
            out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table", "summary"), nargs="?", default="table")
    parser.add_argument("results", type=Path, nargs="?", default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--designs", default=";".join(DESIGNS), help="separated by semicolons")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0:1")
    given = parser.parse_args()
    if given.what != "run":
        print((table if given.what == "table" else summary)(given.results))
        print(f"\nThe figures of {given.results.name}; to measure: python benchmarks/patterns.py run new.jsonl")
        return
    first, last = map(int, given.seeds.split(":"))
    designs, methods = given.designs.split(";"), given.methods.split(",")
    run(given.results, given.data.split(","), designs, methods, range(first, last))


if __name__ == "__main__":
    main()
