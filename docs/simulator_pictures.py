"""Pictures of the simulators beside real data: variance and zeros of genes against their mean.

``python docs/simulator_pictures.py`` writes docs/figures/simulate_counts.png and simulate_scdesign.png, from pbmc68k.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imputome import datasets
from imputome.evaluation.simulate import fit_scdesign, mean_variance_zero_curves, simulate_counts
from imputome.report.plots.demo import simulation_curves

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
        figure = simulation_curves(real, mean_variance_zero_curves(counts, edges=EDGES))
        figure.savefig(FOLDER / f"{name}.png", dpi=90)


if __name__ == "__main__":
    main()
