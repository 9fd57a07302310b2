"""Does the verdict agree with a truth from outside the counts? Spike-ins, proteins, cell lines.

    python benchmarks/outside_truth.py [--cases ercc,protein,lines] [--methods ...] [--output outside.jsonl]

ercc : spike-ins imputed together with the genes; mean over cells of the correlation of log1p expression with the log of
    the molecules that were added, over the spike-ins of at least one molecule a cell.
protein : mean over pairs of a surface protein and its gene of the Spearman correlation over cells, within batches.
lines : k-means with as many clusters as there are cell lines, adjusted Rand index with the lines.

A verdict agrees if it is `use` and the imputed values are closer to the truth than both the raw counts and those of the
control (the posterior on the gene mean), or if it is not `use` and they are not; by more than 0.005 either way, else it
is a tie.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

METHODS = {
    "count_autoencoder": ("count_autoencoder", {}),
    "poisson_nmf": ("poisson_nmf", {}),
    "poisson_nmf_posterior": ("poisson_nmf", {"posterior": True}),
    "ialm": ("ialm", {}),
    "autoencoder": ("autoencoder", {}),
}
PAIRS = {
    "CD3": "CD3E",
    "CD4": "CD4",
    "CD8a": "CD8A",
    "CD14": "CD14",
    "CD16": "FCGR3A",
    "CD19": "CD19",
    "CD25": "IL2RA",
    "CD56": "NCAM1",
    "CD127": "IL7R",
    "PD-1": "PDCD1",
    "TIGIT": "TIGIT",
}
TIE = 0.005


def ercc():
    import scipy.sparse as sp

    from imputome import datasets
    from imputome.core.data import as_data

    adata = datasets.load("zeisel_ercc_1000g")
    spikes = sp.csr_array(np.asarray(adata.obsm["ercc_counts"], dtype=np.float32))
    truth = np.asarray(adata.uns["ercc_true_molecules"], dtype=np.float64)
    data = as_data(sp.csr_array(sp.hstack([sp.csr_array(adata.X), spikes])), kind="counts")
    kept = np.flatnonzero(truth >= 1)
    columns = adata.n_vars + kept
    target = np.log(truth[kept])
    centred = target - target.mean()

    def score(imputed):
        values = np.log1p(imputed(columns))
        values = values - values.mean(axis=1, keepdims=True)
        norm = np.sqrt((values**2).sum(axis=1) * (centred**2).sum())
        return float(np.mean(values @ centred / np.maximum(norm, 1e-12)))

    return data, score, {"type": adata.obs["cell_type"].to_numpy(object)}


def protein():
    from scipy.stats import spearmanr

    from imputome import datasets
    from imputome.core.data import as_data

    adata = datasets.load("pbmc_citeseq_400")
    names = [str(name).split("_")[0] for name in adata.uns["protein_names"]]
    counts = np.asarray(adata.obsm["protein_counts"], dtype=np.float64)
    logged = np.log1p(counts)
    level = logged - logged.mean(axis=1, keepdims=True)  # centred log-ratio
    genes = adata.var_names.get_indexer([PAIRS[name] for name in names if name in PAIRS])
    places = [place for place, name in enumerate(names) if name in PAIRS]
    there = genes >= 0
    genes, places = genes[there], np.array(places)[there]
    batch = adata.obs["batch"].to_numpy()

    def score(imputed):
        values = imputed(genes)
        found = []
        for number, place in enumerate(places):
            for one in np.unique(batch):
                rows = batch == one
                if np.ptp(values[rows, number]) > 0:
                    found.append(spearmanr(values[rows, number], level[rows, place]).statistic)
                else:
                    found.append(0.0)
        return float(np.mean(found))

    return as_data(adata.X, kind="counts"), score, {}


def lines():
    from imputome import datasets
    from imputome.core.data import as_data
    from imputome.evaluation.clustering import ari, expression_components, kmeans

    adata = datasets.load("scmix_celseq2_3cl")
    data = as_data(adata.X, kind="counts")
    data = data.subset(columns=np.flatnonzero(data.observed_counts()[1] >= 10))
    labels = adata.obs["cell_type"].to_numpy(object)

    def score(imputed):
        cells = expression_components(imputed(np.arange(data.shape[1])))
        return ari(truth=labels, prediction=kmeans(cells, n_clusters=len(set(labels))))

    return data, score, {"line": labels}


CASES = {"ercc": ercc, "protein": protein, "lines": lines}


def run(case: str, methods: list[str]) -> list[dict]:
    from imputome.methods import get
    from imputome.trust.check import check

    data, score, labels = CASES[case]()

    def imputed_by(imputation):
        return lambda genes: imputation.to_array(genes=genes, scale="normalized")

    raw = score(imputed_by(get("no_imputation")().fit_transform(data)))
    control = score(imputed_by(get("gene_mean_posterior")().fit_transform(data)))
    rows = []
    for name in methods:
        method, params = METHODS[name]
        begun = time.perf_counter()
        found = score(imputed_by(get(method)(**params).fit_transform(data)))
        verdict = check(data, get(method)(**params), labels=labels)
        gain = found - max(raw, control)
        agrees = "tie" if abs(gain) <= TIE else str((verdict.verdict == "use") == (gain > 0))
        rows.append(
            {
                "case": case,
                "method": name,
                "raw": raw,
                "control": control,
                "imputed": found,
                "verdict": verdict.verdict,
                "failed": verdict.failed,
                "agrees": agrees,
                "figures": verdict.figures,
                "seconds": time.perf_counter() - begun,
            }
        )
        print(
            f"| {case} | {name} | {raw:.3f} | {control:.3f} | {found:.3f} | {verdict.verdict} "
            f"({', '.join(verdict.failed) or 'all met'}) | {agrees} |",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| truth | method | raw | control | imputed | verdict | agrees |")
    print("|" + " --- |" * 7, flush=True)
    for case in given.cases.split(","):
        for row in run(case, given.methods.split(",")):
            if given.output is not None:
                with given.output.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
