"""How long do new samples of a large cohort take: with a saved beta-VAE, by nearest neighbours, and with scikit-learn?

    python benchmarks/bulk.py                                  # 6,600 x 17,176, the size of paper 003's timing
    python benchmarks/bulk.py --samples 1000 --features 2000   # a quick look

Made-up data: 50 factors and as much noise as signal, 10 % of the values missing at random. 100 rows are new: (1) a
beta-VAE with the paper's widths is trained for a few epochs on the others, each timed, and the whole training is
extrapolated from their median; (2) it is saved, and a fresh process loads it and imputes the new rows; (3) nearest
neighbours impute them, and the Gaussian copula (what is run if no method is named), each in a fresh process too;
(4) both neighbour methods, ours and scikit-learn's, on the first ``--peer-samples`` rows, in turns. Everything is
written to a dense array, and the error at the missing values is given, so that no figure can come from work left
undone.

Threads are those of OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command line
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np

from deep import load, machine, table_head
from imputome import methods
from imputome.core.data import as_data
from peers import peak_bytes

FACTORS = 50


def make(folder: Path, *, samples: int, features: int, new: int, missing: float) -> None:
    """Training rows, new rows with holes, and the truth of these, as float32 files."""
    rng = np.random.default_rng(0)
    loadings = rng.standard_normal((FACTORS, features), dtype=np.float32) / np.float32(np.sqrt(FACTORS))
    X = rng.standard_normal((samples, FACTORS), dtype=np.float32) @ loadings
    for row in X:  # in rows, so that noise and holes need no second matrix
        row += rng.standard_normal(features, dtype=np.float32)
    np.save(folder / "truth.npy", X[:new])
    for row in X:
        row[rng.random(features, dtype=np.float32) < missing] = np.nan
    np.save(folder / "new.npy", X[:new])
    np.save(folder / "train.npy", X[new:])


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def train_vae(folder: Path, epochs: int) -> dict[str, float]:
    X = np.load(folder / "train.npy")
    estimator = methods.get("beta_vae")(preset="paper", max_epochs=epochs, device="cpu")
    history = estimator.fit_transform(as_data(X, kind="real")).history
    begun = time.perf_counter()
    estimator.save(folder / "model")
    return {
        "epoch": statistics.median(history["seconds"]),
        "saving": time.perf_counter() - begun,
        "peak": peak_bytes(),
    }


def apply_vae(folder: Path) -> dict[str, float]:
    X = np.load(folder / "new.npy")
    import imputome.methods.beta_vae  # noqa: F401  (torch's import is no part of loading)

    begun = time.perf_counter()
    estimator = methods.load(folder / "model")
    loaded = time.perf_counter()
    filled = estimator.transform(as_data(X, kind="real")).to_array()
    return {
        "loading": loaded - begun,
        "seconds": time.perf_counter() - loaded,
        "rmse": error(folder, X, filled),
        "peak": peak_bytes(),
    }


def copula(folder: Path) -> dict[str, float]:
    train, X = np.load(folder / "train.npy"), np.load(folder / "new.npy")
    begun = time.perf_counter()
    estimator = methods.get("gaussian_copula")().fit(as_data(train, kind="real"))
    fitted = time.perf_counter()
    filled = estimator.transform(as_data(X, kind="real")).to_array()
    seconds = time.perf_counter() - fitted
    return {"fit": fitted - begun, "seconds": seconds, "rmse": error(folder, X, filled), "peak": peak_bytes()}


def neighbours(folder: Path, samples: int | None) -> dict[str, float]:
    train, X = np.load(folder / "train.npy")[:samples], np.load(folder / "new.npy")
    warm = np.where(np.arange(60).reshape(6, 10) % 7 == 0, np.nan, 1.0)
    methods.get("knn")(n_neighbors=2).fit_transform(
        as_data(warm, kind="real")
    ).to_array()  # compiled kernels are no work
    begun = time.perf_counter()
    estimator = methods.get("knn")().fit(as_data(train, kind="real"))
    fitted = time.perf_counter()
    filled = estimator.transform(as_data(X, kind="real")).to_array()
    seconds = time.perf_counter() - fitted
    return {"fit": fitted - begun, "seconds": seconds, "rmse": error(folder, X, filled), "peak": peak_bytes()}


def scikit_learn(folder: Path, samples: int | None) -> dict[str, float]:
    from sklearn.impute import KNNImputer

    train, X = np.load(folder / "train.npy")[:samples], np.load(folder / "new.npy")
    begun = time.perf_counter()
    imputer = KNNImputer(n_neighbors=10, weights="distance").fit(train)
    fitted = time.perf_counter()
    filled = imputer.transform(X)
    seconds = time.perf_counter() - fitted
    return {"fit": fitted - begun, "seconds": seconds, "rmse": error(folder, X, filled), "peak": peak_bytes()}


def error(folder: Path, given: np.ndarray, filled: np.ndarray) -> float:
    truth, missing = np.load(folder / "truth.npy"), np.isnan(given)
    if not np.array_equal(filled[~missing], given[~missing]):
        raise RuntimeError("observed values were changed")
    return float(np.sqrt(np.mean((filled[missing] - truth[missing]) ** 2)))


def row(name: str, found: dict[str, float]) -> None:
    print(f"| {name} | {found['seconds']:.2f} | {found['rmse']:.4f} | {found['peak'] / 2**20:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=6600)
    parser.add_argument("--features", type=int, default=17176)
    parser.add_argument("--new", type=int, default=100, help="rows to impute; they are among the samples")
    parser.add_argument("--missing", type=float, default=0.1, help="share of the values")
    parser.add_argument("--epochs", type=int, default=3, help="of the beta-VAE's training; at least 2")
    parser.add_argument("--peer-samples", type=int, default=600, help="rows that scikit-learn searches")
    parser.add_argument("--rounds", type=int, default=3, help="of what is repeated, for its median")
    chosen = parser.parse_args()
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"samples": chosen.samples, "features": chosen.features, "new": chosen.new}
        alone(partial(make, folder, **sizes, missing=chosen.missing))
        print(f"{chosen.samples:,} x {chosen.features:,}, {chosen.missing:.0%} missing, {chosen.new} rows are new\n")
        trained = alone(train_vae, folder, chosen.epochs)
        size = sum(path.stat().st_size for path in (folder / "model").iterdir())
        print(
            f"beta_vae, widths of the paper: {trained['epoch']:.1f} s an epoch (median of {chosen.epochs}), so 250 "
            f"epochs would take {250 * trained['epoch'] / 3600:.1f} h (extrapolated); peak "
            f"{trained['peak'] / 2**20:,.0f} MiB; model {size / 2**20:,.0f} MiB, saved in {trained['saving']:.1f} s; "
            f"load {load()}\n"
        )
        table_head(f"{chosen.new} new samples", ["seconds", "RMSE at missing values", "peak memory, MiB"])
        rounds = [alone(apply_vae, folder) for _ in range(chosen.rounds)]
        row("beta_vae, saved model", typical(rounds))
        row("knn, k = 10", typical([alone(neighbours, folder, None) for _ in range(chosen.rounds)]))
        found = alone(copula, folder)
        row("gaussian_copula", found)
        print(f"\nFitting gaussian_copula, not in its line: {found['fit']:.0f} s, load {load()}")
        print(f"\nLoading the model, not in its line: {statistics.median(r['loading'] for r in rounds):.1f} s\n")
        print(f"Neighbours among {chosen.peer_samples} rows, {chosen.rounds} rounds in turns, load {load()}\n")
        table_head("", ["seconds", "RMSE at missing values", "peak memory, MiB"])
        turns: dict[str, list[dict[str, float]]] = {"scikit-learn KNNImputer": [], "knn, k = 10": []}
        for _ in range(chosen.rounds):
            for label, function in zip(turns, (scikit_learn, neighbours), strict=True):
                turns[label].append(alone(function, folder, chosen.peer_samples))
        for label, measured in turns.items():
            row(label, typical(measured))
        peer, own = (typical(measured)["seconds"] for measured in turns.values())
        print(f"\nratio {peer / own:.1f}")


def typical(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


if __name__ == "__main__":
    main()
