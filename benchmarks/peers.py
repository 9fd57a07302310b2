"""Runs scVI or MAGIC on one matrix of counts, in an environment that has them; called by `deep.py`, which scores.

    python benchmarks/peers.py scvi  train.npz rate.npy          # fit, write the rate at the depth of the input
    python benchmarks/peers.py magic train.npz rate.npy
    python benchmarks/peers.py scvi  train.npz rate.npy --epochs 6   # seconds of each epoch, no rate is written

Beside the rate (n cells x G genes, float32) goes a JSON file of the same name: seconds, epochs, peak memory, version
and what exactly was run. This file must not import imputome: its environment has scvi-tools and magic-impute only.
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


def scvi_model(X: sp.csr_matrix, *, n_latent: int, n_hidden: int) -> Any:
    import anndata as ad
    import scvi

    scvi.settings.seed = 0
    scvi.settings.verbosity = 40
    adata = ad.AnnData(X)
    scvi.model.SCVI.setup_anndata(adata)
    return scvi.model.SCVI(adata, gene_likelihood="nb", n_latent=n_latent, n_hidden=n_hidden)


def scvi_rate(X: sp.csr_matrix, *, n_latent: int, n_hidden: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The posterior mean of the rate, over draws of the latent variables, times the observed library."""
    begun = time.perf_counter()
    model = scvi_model(X, n_latent=n_latent, n_hidden=n_hidden)
    model.train(early_stopping=True, accelerator="cpu", enable_progress_bar=False)
    fitted, peak = time.perf_counter(), peak_bytes()
    rate = np.zeros(X.shape, dtype=np.float32)
    for _ in range(DRAWS):  # one call with n_samples would hold every draw at once
        rate += model.get_normalized_expression(library_size="latent", n_samples=1, return_numpy=True)
    rate /= DRAWS
    return rate, {
        "seconds": time.perf_counter() - begun,
        "fit_seconds": fitted - begun,
        "fit_peak_bytes": peak,
        "epochs": len(model.history["elbo_validation"]),
        "what": f"SCVI(gene_likelihood='nb', n_latent={n_latent}, n_hidden={n_hidden}).train(early_stopping=True), "
        f"weights of the last epoch; mean of {DRAWS} draws of get_normalized_expression(library_size='latent'), "
        "which is at the observed library",
    }


def scvi_epochs(X: sp.csr_matrix, *, n_latent: int, n_hidden: int, epochs: int, batch_size: int) -> dict[str, Any]:
    """Seconds of each epoch after the first, on all cells; no validation, logging or progress bar."""
    from lightning.pytorch.callbacks import Callback

    ends: list[float] = []

    class Clock(Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            ends.append(time.perf_counter())

    model = scvi_model(X, n_latent=n_latent, n_hidden=n_hidden)
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

    begun = time.perf_counter()
    depth = np.asarray(X.sum(axis=1, dtype=np.float64)).ravel()
    scaled = sp.csr_matrix(sp.diags(1e4 / depth) @ X)
    scaled.data = np.sqrt(scaled.data)
    smooth = magic.MAGIC(random_state=0, verbose=0).fit_transform(scaled, genes="all_genes")
    rate = np.square(np.asarray(smooth, dtype=np.float64)) * (depth / 1e4)[:, None]
    own, total = rate.sum(axis=0), np.asarray(X.sum(axis=0, dtype=np.float64)).ravel()
    rate *= np.divide(total, own, out=np.zeros_like(total), where=own > 0)
    return rate.astype(np.float32), {
        "seconds": time.perf_counter() - begun,
        "what": "MAGIC(knn=5, t=3, decay=1, n_pca=100, solver='exact') on sqrt(counts per 10,000); squared, times "
        "library / 10,000, each gene rescaled to its training total",
    }


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
    parser.add_argument("peer", choices=["scvi", "magic"])
    parser.add_argument("counts", type=Path, help="cells x genes, written by scipy.sparse.save_npz")
    parser.add_argument("rate", type=Path, help="where the rate goes (.npy), and a .json beside it")
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=128, help="with --epochs only; scVI's default is 128 too")
    parser.add_argument("--epochs", type=int, help="time this many epochs of scVI, and write no rate")
    if len(sys.argv) == 1:
        parser.print_help()
        return
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    X = sp.csr_matrix(sp.load_npz(chosen.counts)).astype(np.float32)
    sizes = {"n_latent": chosen.latent, "n_hidden": chosen.hidden}
    rate = None
    if chosen.peer == "magic":
        rate, report = magic_rate(X)
    elif chosen.epochs:
        report = scvi_epochs(X, **sizes, epochs=chosen.epochs, batch_size=chosen.batch_size)
    else:
        rate, report = scvi_rate(X, **sizes)
    report["version"] = version({"scvi": "scvi-tools", "magic": "magic-impute"}[chosen.peer])
    report["peak_bytes"] = peak_bytes()
    if rate is not None:
        np.save(chosen.rate, rate)
    chosen.rate.with_suffix(".json").write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
