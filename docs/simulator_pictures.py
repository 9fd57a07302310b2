"""Pictures of the simulators beside real data: variance and zeros of genes against their mean.

``python docs/simulator_pictures.py`` writes docs/figures/simulate_counts.png and simulate_scdesign.png, from pbmc68k.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from imputome import datasets
from imputome.evaluation.simulate import fit_scdesign, mean_variance_zero_curves, simulate_counts
from imputome.report.plots import style

FOLDER = Path(__file__).parent / "figures"
EDGES = np.geomspace(0.01, 100, 17)


def main() -> None:
    X = datasets.pbmc68k().X
    n, G = X.shape
    depth = float(np.median(np.asarray(X.sum(axis=1))))
    rng = np.random.default_rng(0)
    simulated = {
        "simulate_counts": simulate_counts(n=n, G=G, depth=depth, rng=rng).X,
        "simulate_scdesign": fit_scdesign(X).simulate(cells_per_type=n // 2, rng=rng).X,
    }
    FOLDER.mkdir(exist_ok=True)
    real = mean_variance_zero_curves(X, edges=EDGES)
    for name, counts in simulated.items():
        draw_curves(real, mean_variance_zero_curves(counts, edges=EDGES), FOLDER / f"{name}.png")


def draw_curves(real: pd.DataFrame, simulated: pd.DataFrame, path: Path) -> None:
    """Variance and share of zeros against the mean, from two `mean_variance_zero_curves`."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, column, scale in zip(axes, ("variance", "zero_fraction"), ("log", "linear"), strict=True):
        for table, name, color in ((real, "real", style.CONTROL), (simulated, "simulated", style.BLUE)):
            axis.plot(table["mean"], table[column], "o-", markersize=3, color=color, label=name)
        axis.set(xscale="log", yscale=scale, xlabel="mean count of a gene", ylabel=column.replace("_", " "))
        style.tidy(axis)
        axis.legend()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
