"""docs/figures/readme.png, a gene on a map of cells, as measured and imputed: ``python docs/readme_picture.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import imputome

GENE = "MS4A1"  # CD20, of B cells; captured in a tenth of all cells


def main() -> None:
    adata = imputome.datasets.pbmc68k()
    imputome.impute(adata, method="count_factors", scale="log1p", key_added="imputed", check=True)
    gene = adata.var_names.get_loc(GENE)
    counts = adata.X[:, [gene]].toarray().ravel()
    measured = np.log1p(1e4 * counts / np.asarray(adata.X.sum(axis=1)).ravel())
    imputed = adata.layers["imputed"][:, gene]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    x, y = adata.obsm["X_umap"].T
    for axis, values, title in zip(axes, (measured, imputed), ("as measured", "imputed"), strict=True):
        order = np.argsort(values)
        points = axis.scatter(x[order], y[order], c=values[order], s=9, cmap="viridis", vmin=0, vmax=measured.max())
        axis.set(xticks=[], yticks=[], xlabel="UMAP 1", title=f"{GENE}, {title}")
    axes[0].set_ylabel("UMAP 2")
    figure.colorbar(points, ax=axes, label="log(1 + count per 10,000)")
    verdict = adata.uns["imputome"]["imputed"]["verdict"]["verdict"]
    figure.suptitle(f"700 blood cells (10x PBMC 68k), verdict of the check: {verdict}", fontsize=10)
    figure.savefig(Path(__file__).with_name("figures") / "readme.png", dpi=110)


if __name__ == "__main__":
    main()
