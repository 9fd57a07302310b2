"""Does `--method auto` ever lose to a control? Every data set, on a split that it did not choose on.

    python benchmarks/auto.py [--datasets a,b] [--budget 5] [--seed 1] [--output auto.jsonl]

A tenth of the molecules (or of the values, in all rows) is held out; auto chooses and is fitted on the rest, as are the
controls; all are scored on what was held out (real values: RMSE in standard deviations of the feature, on the link that
auto imputes on). Coverage of 90 % intervals is the lowest and the highest of the strata of
the prediction with 1,000 entries or more.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

from counts import DATA as COUNTS

REAL = ("tcga_gbmlgg_zscore_1544g", "tcga_glioma_meth_880x1205")
HEADER = "| data | chosen | its error | best control | its error | below it | coverage, strata | s choosing, fitting |"


def run(name: str, budget: float, seed: int) -> dict:
    from anndata import AnnData

    from imputome import datasets
    from imputome.core.data import as_data
    from imputome.evaluation.metrics import MIN_ENTRIES_PER_STRATUM
    from imputome.evaluation.streaming import calibration
    from imputome.methods import DEFAULT, info
    from imputome.result.adapt import chosen_link, inspect_layer
    from imputome.trust.auto import choose
    from imputome.trust.check import control_estimators
    from imputome.trust.evidence import LOSS, hold_out, scores

    adata = datasets.load(name)
    kind = "real" if name in REAL else "counts"
    data = as_data(adata.X, kind=kind, obs_names=adata.obs_names, var_names=adata.var_names)
    if kind == "counts":
        cells, genes = data.observed_counts()
        data = data.subset(rows=np.flatnonzero(cells >= 50), columns=np.flatnonzero(genes >= 10))
    split = hold_out(data, np.random.default_rng(seed))
    metric = LOSS[kind]
    train = AnnData(split.train.X if kind == "counts" else split.train.X.astype(np.float32))
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        link = chosen_link(split.train, info(DEFAULT[kind]), None)[0]  # errors are measured on it
        chosen = choose(split.train, link=link, budget=budget, accept_control=True, checked=False)
        choosing = time.perf_counter() - begun
        report = inspect_layer(train, None)
    begun = time.perf_counter()
    imputed = chosen.estimator.fit_transform(split.train)
    fitting = time.perf_counter() - begun
    error = scores(imputed, split, link=link)[metric]
    coverage = []
    if "upper" in imputed.outputs:
        strata = calibration(imputed, split)
        coverage = strata[strata["entries"] >= MIN_ENTRIES_PER_STRATUM]["coverage"].tolist()
    controls = {
        control: scores(estimator.fit_transform(split.train), split, link=link)[metric]
        for control, estimator in control_estimators(kind, 0, link).items()
    }
    best = min(controls, key=lambda control: controls[control])
    return {
        "data": f"{name} ({data.shape[0]} x {data.shape[1]}), {report.state}",
        "chosen": chosen.race.winner,
        "error": error,
        "control": best,
        "control_error": controls[best],
        "coverage": coverage,
        "gain": 1 - error / controls[best],
        "choosing": choosing,
        "fitting": fitting,
        "race": chosen.race.candidates[["name", "score", "splits", "seconds", "outcome"]].to_dict("records"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", default=",".join((*COUNTS, *REAL)))
    parser.add_argument("--budget", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    print(HEADER)
    print("|" + " --- |" * 8, flush=True)
    for name in given.datasets.split(","):
        found = run(name, given.budget, given.seed)
        covered = f"{min(found['coverage']):.3f} to {max(found['coverage']):.3f}" if found["coverage"] else ""
        print(
            f"| {found['data']} | {found['chosen']} | {found['error']:.5f} | {found['control']} | "
            f"{found['control_error']:.5f} | {100 * found['gain']:+.2f} % | {covered} | {found['choosing']:.0f}, "
            f"{found['fitting']:.0f} |",
            flush=True,
        )
        if given.output is not None:
            with given.output.open("a") as stream:
                stream.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
