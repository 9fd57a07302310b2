"""Runs a system that is no part of imputome on one matrix, in an environment that has it; others score what it gives.

    python benchmarks/peers.py scvi  train.npz rate.npy          # fit, write the rate at the depth of the input
    python benchmarks/peers.py magic train.npz rate.npy          # as well halra, glmpca, poismf
    python benchmarks/peers.py miceforest train.npy filled.npy   # real values, NaN where one is missing
    python benchmarks/peers.py scvi  train.npz rate.npy --epochs 6   # seconds of each epoch, no rate is written

Beside the rate (n cells x G genes, float32) goes a JSON file of the same name: processor seconds, peak memory, version
and what exactly was run. This file must not import imputome: its environment has the packages of `PACKAGES` only.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

DRAWS = 25  # of the latent variables, whose rates are averaged
PACKAGES = {  # peer -> the package that it is in, as pip takes it
    "scvi": "scvi-tools==1.4.2",
    "magic": "magic-impute==3.0.0",
    "halra": "halra==0.1.0",
    "glmpca": "fastglmpca==0.1.2",
    "poismf": "poismf==0.4.0.post11",
    "miceforest": "miceforest==6.0.5",
}


def scvi_model(X: sp.csr_matrix, *, n_latent: int, n_hidden: int, likelihood: str) -> Any:
    import anndata as ad
    import scvi

    scvi.settings.seed = 0
    scvi.settings.verbosity = 40
    adata = ad.AnnData(X)
    scvi.model.SCVI.setup_anndata(adata)
    return scvi.model.SCVI(adata, gene_likelihood=likelihood, n_latent=n_latent, n_hidden=n_hidden)


def scvi_rate(X: sp.csr_matrix, **sizes: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """The posterior mean of the rate, over draws of the latent variables, times the observed library."""
    begun = time.process_time()
    model = scvi_model(X, **sizes)
    model.train(early_stopping=True, accelerator="cpu", enable_progress_bar=False)
    fitted, peak = time.process_time(), peak_bytes()
    rate = np.zeros(X.shape, dtype=np.float32)
    for _ in range(DRAWS):  # one call with n_samples would hold every draw at once
        rate += model.get_normalized_expression(library_size="latent", n_samples=1, return_numpy=True)
    rate /= DRAWS
    return rate, {
        "seconds": time.process_time() - begun,
        "fit_seconds": fitted - begun,
        "fit_peak_bytes": peak,
        "epochs": len(model.history["elbo_validation"]),
        "what": f"SCVI({', '.join(f'{name}={value}' for name, value in sizes.items())}).train(early_stopping=True), "
        f"weights of the last epoch; mean of {DRAWS} draws of get_normalized_expression(library_size='latent'), "
        "which is at the observed library",
    }


def scvi_epochs(X: sp.csr_matrix, *, epochs: int, batch_size: int, **sizes: Any) -> dict[str, Any]:
    """Seconds of each epoch after the first, on all cells; no validation, logging or progress bar."""
    from lightning.pytorch.callbacks import Callback

    ends: list[float] = []

    class Clock(Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            ends.append(time.perf_counter())

    model = scvi_model(X, **sizes)
    model.train(
        max_epochs=epochs,
        batch_size=batch_size,
        train_size=1.0,
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
        callbacks=[Clock()],
    )
    return {"seconds_per_epoch": np.diff(ends).tolist()}


def magic_rate(X: sp.csr_matrix) -> tuple[np.ndarray, dict[str, Any]]:
    """MAGIC on square roots of counts per 10,000; squared, at each cell's library, each gene at its training total."""
    import magic

    begun = time.process_time()
    scaled = per_ten_thousand(X)
    scaled.data = np.sqrt(scaled.data)
    smooth = magic.MAGIC(random_state=0, verbose=0).fit_transform(scaled, genes="all_genes")
    rate = at_depth(np.square(np.asarray(smooth, dtype=np.float64)), X)
    return rate, {
        "seconds": time.process_time() - begun,
        "what": "MAGIC(knn=5, t=3, decay=1, n_pca=100, solver='exact') on sqrt(counts per 10,000); squared, times "
        "library / 10,000, each gene rescaled to its training total",
    }


def halra_rate(X: sp.csr_matrix) -> tuple[np.ndarray, dict[str, Any]]:
    """ALRA on log1p of counts per 10,000; the inverse, at each cell's library, each gene at its training total."""
    import halra

    begun = time.process_time()
    logs = per_ten_thousand(X)
    logs.data = np.log1p(logs.data)
    cells, genes = (np.array([str(number) for number in range(size)]) for size in X.shape)
    imputed, kept_cells, kept_genes = halra.halra(logs, cells=cells, genes=genes, verbose=False)
    values = np.zeros(X.shape)
    rows, columns = (np.asarray(kept, dtype=str).astype(np.int64) for kept in (kept_cells, kept_genes))
    values[np.ix_(rows, columns)] = np.expm1(imputed.toarray() if sp.issparse(imputed) else imputed)
    return at_depth(values, X), {
        "seconds": time.process_time() - begun,
        "what": "halra() on log1p(counts per 10,000); expm1, times library / 10,000, each gene rescaled to its "
        "training total",
    }


def glmpca_rate(X: sp.csr_matrix, *, factors: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Poisson GLM-PCA: the exponential of a low rank, with offsets for cells and genes."""
    import fastglmpca

    begun = time.process_time()
    model = fastglmpca.poisson(X, n_pcs=factors, return_model=True, progress_bar=False, seed=0, device="cpu")
    rate = model.reconstruct_counts().astype(np.float32)
    return rate, {"seconds": time.process_time() - begun, "what": f"poisson(n_pcs={factors}).reconstruct_counts()"}


def poismf_rate(X: sp.csr_matrix, *, factors: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Poisson factors by the package for recommenders: the product of its two matrices."""
    import poismf

    begun = time.process_time()
    model = poismf.PoisMF(k=factors, reindex=False, random_state=1, nthreads=1).fit(X.tocoo())
    rate = (model.A @ model.B.T).astype(np.float32)
    return rate, {"seconds": time.process_time() - begun, "what": f"PoisMF(k={factors}), A B'"}


def miceforest_values(X: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Chained LightGBM models; the mean of five imputations of two iterations each."""
    import miceforest
    import pandas as pd

    begun = time.process_time()
    table = pd.DataFrame(X, columns=[f"f{number}" for number in range(X.shape[1])])
    kernel = miceforest.ImputationKernel(table, num_datasets=5, mean_match_candidates=0, random_state=0)
    kernel.mice(2, num_threads=1)
    filled = np.mean([kernel.complete_data(dataset=number).to_numpy() for number in range(5)], axis=0)
    return filled, {
        "seconds": time.process_time() - begun,
        "what": "mean of 5 data sets of ImputationKernel(mean_match_candidates=0).mice(2)",
    }


def per_ten_thousand(X: sp.csr_matrix) -> sp.csr_matrix:
    depth = np.asarray(X.sum(axis=1, dtype=np.float64)).ravel()
    return sp.csr_matrix(sp.diags(1e4 / np.maximum(depth, 1)) @ X)


def at_depth(values: np.ndarray, X: sp.csr_matrix) -> np.ndarray:
    """Values per 10,000 as counts at the depth of each cell, each gene with the total that it has in training."""
    depth = np.asarray(X.sum(axis=1, dtype=np.float64)).ravel()
    rate = values * (depth / 1e4)[:, None]
    own, total = rate.sum(axis=0), np.asarray(X.sum(axis=0, dtype=np.float64)).ravel()
    return (rate * np.divide(total, own, out=np.zeros_like(total), where=own > 0)).astype(np.float32)


def peak_bytes() -> int:
    """Largest resident size of this process; where Linux tells it, without that of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss is inherited from the parent, and this line is not
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=list(PACKAGES))
    parser.add_argument("values", type=Path, help="cells x genes: counts (scipy.sparse.save_npz), or values (.npy)")
    parser.add_argument("rate", type=Path, help="where the rate goes (.npy), and a .json beside it")
    parser.add_argument("--latent", type=int, default=10, help="of scvi")
    parser.add_argument("--hidden", type=int, default=128, help="of scvi")
    parser.add_argument("--likelihood", default="nb", help="of scvi")
    parser.add_argument("--factors", type=int, default=16, help="of glmpca and poismf")
    parser.add_argument("--batch-size", type=int, default=128, help="with --epochs only; scVI's default is 128 too")
    parser.add_argument("--epochs", type=int, help="time this many epochs of scVI, and write no rate")
    if len(sys.argv) == 1:
        parser.print_help()
        return
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    rate = None
    if chosen.peer == "miceforest":
        rate, report = miceforest_values(np.load(chosen.values))
    else:
        X = sp.csr_matrix(sp.load_npz(chosen.values)).astype(np.float32)
        sizes = {"n_latent": chosen.latent, "n_hidden": chosen.hidden, "likelihood": chosen.likelihood}
        if chosen.peer == "scvi" and chosen.epochs:
            report = scvi_epochs(X, **sizes, epochs=chosen.epochs, batch_size=chosen.batch_size)
        elif chosen.peer == "scvi":
            rate, report = scvi_rate(X, **sizes)
        elif chosen.peer in ("glmpca", "poismf"):
            rate, report = {"glmpca": glmpca_rate, "poismf": poismf_rate}[chosen.peer](X, factors=chosen.factors)
        else:
            rate, report = {"magic": magic_rate, "halra": halra_rate}[chosen.peer](X)
    report["version"] = version(PACKAGES[chosen.peer].partition("==")[0])
    report["peak_bytes"] = peak_bytes()
    if rate is not None:
        np.save(chosen.rate, rate)
    chosen.rate.with_suffix(".json").write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
