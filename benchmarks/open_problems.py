"""The denoising task of Open Problems: its two scores as published, its Poisson loss corrected, and the ranks.

    python benchmarks/open_problems.py              # the tables of the results in open_problems.jsonl
    python benchmarks/open_problems.py run results.jsonl [--data pbmc68k,...] [--methods ...] [--trials 0:3]
    python benchmarks/open_problems.py table results.jsonl
    python benchmarks/open_problems.py write results.jsonl   # puts the tables into docs/open_problems.md

Each line of the results is one method or control on one split: the rows that `imputome.studies.runner.run_study` gives
with ``protocol="open_problems"``. A run that was interrupted continues after its last split, and a method whose line is
there is not run again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

PAGE = Path(__file__).resolve().parents[1] / "docs" / "open_problems.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
# genes in fewer cells are left out of these sets: they have tens of thousands of genes that say nothing
MIN_CELLS = {"pbmc3k_raw": 30}
METHODS = (
    *("magic", "alra", "knn_smoothing", "poisson_nmf", "poisson_nmf+posterior", "gene_mean_posterior"),
    *("count_autoencoder", "count_autoencoder:posterior=false"),
)
# as the benchmark calls its controls
THEIR_NAMES = {"no_imputation": "no denoising", "perfect_denoising": "perfect denoising"}


def run(output: Path, names: list[str], methods: list[str], trials: range) -> None:
    from imputome import datasets
    from imputome.studies.inputs import parse_method, to_dataset
    from imputome.studies.runner import run_study

    lines = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {key(line) for line in lines}
    for name in names:
        dataset = to_dataset(datasets.load(name), name=name, min_cells=MIN_CELLS.get(name, 0))
        for trial in trials:
            specs = [parse_method(method) for method in methods]
            missing = [spec for spec in specs if (name, spec.label, spec.parameters, trial) not in done]
            if not missing:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                table = run_study(dataset, missing, trials=[trial], protocol="open_problems")
            for (label, parameters), rows in table.groupby(["method", "parameters"], sort=False):
                one = rows.iloc[0]
                line = {"data": name, "cells": dataset.data.shape[0], "genes": dataset.data.shape[1]}
                line |= {"method": label, "parameters": parameters, "trial": trial, "seed": int(one["seed"])}
                line |= {"status": one["status"], "reason": one["reason"]}
                line |= {"scores": dict(zip(rows["metric"], rows["value"].astype(float), strict=True))}
                line |= {"seconds": float(one["seconds"]), "version": version("imputome")}
                if key(line) in done:  # a control
                    continue
                done.add(key(line))
                with output.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
                print(name, trial, label, parameters, line["scores"], flush=True)


def key(line: dict) -> tuple:
    return line["data"], line["method"], line["parameters"], line["trial"]


def tables(results: Path) -> str:
    """One table for each data set: means over the splits, and the rank of every method and control."""
    from imputome.studies.results import is_control

    lines = [json.loads(line) for line in results.read_text().splitlines()]
    out = []
    for data in dict.fromkeys(line["data"] for line in lines):
        part = [line for line in lines if line["data"] == data and line["status"] == "ok"]
        methods = list(dict.fromkeys((line["method"], line["parameters"]) for line in part))
        scores = list(part[0]["scores"])
        means = {
            score: np.array(
                [np.mean([line["scores"][score] for line in part if name_of(line) == each]) for each in methods]
            )
            for score in scores
        }
        ranks = {score: [int((values < one).sum()) + 1 for one in values] for score, values in means.items()}
        mse, published, corrected = scores
        splits = len({line["trial"] for line in part})
        out += [f"`{data}`: {part[0]['cells']:,} cells, {part[0]['genes']:,} genes, mean of {splits} splits.", ""]
        out += ["| method | MSE | rank | Poisson, as published | rank | Poisson, corrected | rank |"]
        out += ["|" + " --- |" * 7]
        for place in np.argsort(means[corrected], kind="stable"):
            label, parameters = methods[place]
            shown = THEIR_NAMES.get(label, f"`{label}`")
            if parameters == '{"posterior": false}':
                shown += " without the posterior step"
            shown += " (control)" if is_control(label) else ""
            cells = [shown]
            for score in (mse, published, corrected):
                digits = 2 if score == mse else 4
                cells += [f"{means[score][place]:.{digits}f}", str(ranks[score][place])]
            out.append("| " + " | ".join(cells) + " |")
        out.append("")
    failed = [line for line in lines if line["status"] != "ok"]
    out += [f"{line['method']} failed on {line['data']}, split {line['trial']}: {line['reason']}" for line in failed]
    return "\n".join(out).rstrip()


def name_of(line: dict) -> tuple[str, str]:
    return line["method"], line["parameters"]


def with_tables(text: str, results: Path) -> str:
    """The page with the tables between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{tables(results)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table", "write"), nargs="?", default="table")
    parser.add_argument("results", type=Path, nargs="?", default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--data", default="pbmc68k")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--trials", default="0:3")
    given = parser.parse_args()
    if given.what == "run":
        first, last = map(int, given.trials.split(":"))
        run(given.results, given.data.split(","), given.methods.split(","), range(first, last))
    elif given.what == "write":
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), given.results), encoding="utf-8")
    else:
        print(tables(given.results))
        print(f"\nThe figures of {given.results.name}; to measure: python benchmarks/open_problems.py run new.jsonl")


if __name__ == "__main__":
    main()
