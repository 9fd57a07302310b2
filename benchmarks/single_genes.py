"""Does imputing keep the order of the cells along single genes? Eleven genes, and the proteins that they make.

    python benchmarks/single_genes.py run               # minutes; what is in single_genes.jsonl is not run again
    python benchmarks/single_genes.py write             # the tables of docs/verdict.md

On 400 cells with surface proteins (CITE-seq), within each of the two batches, from the genes' values per 10,000
molecules and the proteins' centred log ratios:

- *order of all cells*: Spearman correlation of gene and protein over all cells;
- *ties at random*: the same, with equal values (mostly zeros) in a random order; an imputed matrix has no ties;
- *cells found*: area under the ROC curve of the gene for the cells that have the protein. These are the upper of two
  Gaussian components of the protein. 0.5 is chance, 1 is all such cells above all others;
- *order within*: Spearman correlation among the cells that have the protein, and among those that do not.

The split number is the seed of the method.
"""

from __future__ import annotations

import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import comparison
from imputome import datasets
from imputome.core.data import as_data
from imputome.trust.check import check
from outside_truth import PAIRS

DATA = "pbmc_citeseq_400"
METHODS = {
    "no_imputation": "the counts",
    "gene_mean_posterior": "`gene_mean_posterior`",
    "count_factors": "`count_factors`",
    "count_autoencoder": "`count_autoencoder`",
    "magic": "`magic`",
    "knn_smoothing": "`knn_smoothing`",
}
CHECKED = "count_autoencoder"  # whose evident genes are found too
MEASURES = {
    "order": "order of all cells",
    "order_random": "ties at random",
    "found": "cells found",
    "order_with": "order within those with the protein",
    "order_without": "order within the others",
}
MIN_CELLS = 4  # of a correlation


def one(name: str, number: int, method: str) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    adata = datasets.load(name)
    genes, level, positive, batches = with_proteins(adata)
    data = as_data(adata.X, kind="counts", obs_names=adata.obs_names, var_names=adata.var_names)
    estimator = comparison.estimator(method)
    if hasattr(estimator, "random_state"):
        estimator.random_state = number
    begun = time.process_time()
    values = estimator.fit_transform(data).to_array(genes=adata.var_names.get_indexer(genes), scale="normalized")
    scores = {}
    rng = np.random.default_rng(number)
    for gene, value, protein, has in zip(genes, values.T, level.T, positive.T, strict=True):
        for measure, found in agreement(value, protein, has, batches, rng).items():
            scores[f"{measure} {gene}"] = found
    if method == CHECKED:
        table = check(data, comparison.estimator(method), seed=number).genes
        evident = dict(zip(table.index, table["evident"], strict=True))
        scores |= {f"evident {gene}": float(evident.get(gene, False)) for gene in genes}
    return {"scores": scores, "seconds": round(time.process_time() - begun, 1)}


def with_proteins(adata: Any) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Genes with a protein, the proteins' levels (n, k), which cells have them (n, k), and the batches (n,)."""
    from sklearn.mixture import GaussianMixture

    names = [str(name).split("_")[0] for name in adata.uns["protein_names"]]
    logged = np.log1p(np.asarray(adata.obsm["protein_counts"], dtype=np.float64))
    level = logged - logged.mean(axis=1, keepdims=True)  # centred log ratio
    places = [k for k, name in enumerate(names) if PAIRS.get(name) in adata.var_names]
    level, batches = level[:, places], adata.obs["batch"].to_numpy()
    positive = np.zeros(level.shape, dtype=bool)
    for batch in np.unique(batches):
        rows = batches == batch
        for k in range(len(places)):
            mixture = GaussianMixture(2, random_state=0, n_init=3).fit(level[rows, k : k + 1])
            positive[rows, k] = mixture.predict(level[rows, k : k + 1]) == np.argmax(mixture.means_[:, 0])
    return [PAIRS[names[k]] for k in places], level, positive, batches


def agreement(
    value: np.ndarray, protein: np.ndarray, has: np.ndarray, batches: np.ndarray, rng: np.random.Generator
) -> dict[str, float]:
    """The measures of one gene, means over batches."""
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    def order(rows: np.ndarray, values: np.ndarray = value) -> float:
        varied = rows.sum() >= MIN_CELLS and np.ptp(values[rows]) > 0
        return float(spearmanr(values[rows], protein[rows]).statistic) if varied else 0.0

    found = []
    untied = np.empty(len(value))
    untied[np.lexsort((rng.random(len(value)), value))] = np.arange(len(value))
    for batch in np.unique(batches):
        rows = batches == batch
        area = roc_auc_score(has[rows], value[rows])
        found.append((order(rows), order(rows, untied), area, order(rows & has), order(rows & ~has)))
    return dict(zip(MEASURES, map(float, np.mean(found, axis=0)), strict=True))


# -- tables ------------------------------------------------------------------------------------------------------------
def pages(rows: list[dict[str, Any]]) -> dict[Path, dict[str, str]]:
    scores: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for name, value in row.get("scores", {}).items():
            scores.setdefault(row["method"], {}).setdefault(name, []).append(value)
    means = {method: {name: statistics.fmean(values) for name, values in of.items()} for method, of in scores.items()}
    genes = [name.split()[1] for name in means.get("no_imputation", {}) if name.startswith("found ")]
    over_genes = [
        [title, *(f"{statistics.fmean(means[m][f'{measure} {gene}'] for gene in genes):.2f}" for m in means)]
        for measure, title in MEASURES.items()
    ]
    by_gene = []
    for gene in sorted(genes, key=lambda gene: -means["no_imputation"][f"found {gene}"]):
        evident = means.get(CHECKED, {}).get(f"evident {gene}", 0) > 0.5
        by_gene.append([gene, *(f"{of[f'found {gene}']:.2f}" for of in means.values()), "yes" if evident else "no"])
    head = [METHODS[method] for method in means]
    return {
        comparison.ROOT / "docs" / "verdict.md": {
            "single-genes": comparison.table(["mean over the genes", *head], over_genes),
            "single-genes-found": comparison.table(["cells found by", *head, "evident"], by_gene),
        }
    }


if __name__ == "__main__":
    description = __doc__.splitlines()[0]
    raise SystemExit(
        comparison.main(Path(__file__), description, data=[DATA], chosen_methods=list(METHODS), one=one, pages=pages)
    )
