"""How fast is ``count_autoencoder``, against scVI on the same counts? How good it is, `counts.py` tells.

    python benchmarks/deep.py --make-peers    # makes the environment of the peers, .peers, if it is not there
    python benchmarks/deep.py --device cuda --cells 1000000 --genes 20000   # an epoch on made-up data

On pbmc3k_raw, 90 % of its molecules: (1) seconds per epoch over all cells at equal batch, latent and hidden size, in
turns; scVI's is without validation, imputome's with its own. (2) the whole fit with early stopping, each in a process
of its own, without imports; of scVI without the prediction that follows, of imputome with all that `fit_transform`
does.

Data sets come from IMPUTOME_DATA; threads are those of OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import scipy.sparse as sp

from comparison import HERE, ROOT, estimator, make_environment, peer_python
from counts import thinned
from imputome.core.data import as_data
from peers import peak_bytes

# 128 hidden units and batches of 128 are defaults of both
EPOCH_METHOD = "count_autoencoder:n_latent=10:n_factors=0:posterior=false"


# -- time --------------------------------------------------------------------------------------------------------------
def measure(*, epoch_method: str, fit_method: str, rounds: int, epochs: int) -> None:
    X = thinned("pbmc3k_raw", 0).train.X
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.npz"
        sp.save_npz(counts, sp.csr_matrix(X), compressed=False)
        seconds: dict[str, list[list[float]]] = {"scvi": [], epoch_method: []}
        for _ in range(rounds):
            seconds["scvi"].append(scvi(counts, "--epochs", str(epochs))["seconds_per_epoch"])
            history = alone(f"{epoch_method}:max_epochs={epochs}", counts)["seconds_per_epoch"]
            seconds[epoch_method].append(history[1:])  # as scVI's, without the first
        print(f"Seconds per epoch, pbmc3k_raw, {X.shape[0]} x {X.shape[1]}, {rounds} rounds in turns, load {load()}\n")
        table_head("", ["median of all", "median of each round"])
        medians = []
        for name, of_rounds in seconds.items():
            medians.append(statistics.median(value for values in of_rounds for value in values))
            each = ", ".join(f"{statistics.median(values):.3f}" for values in of_rounds)
            print(f"| {name} | {medians[-1]:.3f} | {each} |")
        print(f"\nratio {medians[0] / medians[1]:.1f}\n", flush=True)

        peer = scvi(counts)
        ours = alone(fit_method, counts)
        print(f"Whole fit with early stopping, load {load()}\n")
        table_head("", ["seconds", "epochs", "peak memory, MiB"])
        for name, took, number, peak in (
            ("scvi", peer["fit_seconds"], peer["epochs"], peer["fit_peak_bytes"]),
            (fit_method, ours["seconds"], len(ours["seconds_per_epoch"]), ours["peak_bytes"]),
        ):
            print(f"| {name} | {took:.1f} | {number} | {peak / 2**20:.0f} |")
        print(f"\nratio {peer['fit_seconds'] / ours['seconds']:.1f}")


def scvi(counts: Path, *options: str) -> dict[str, Any]:
    """What `peers.py` reports of scVI."""
    rate = counts.with_name("rate.npy")
    command = [peer_python(), str(HERE / "peers.py"), "scvi", str(counts), str(rate), *options]
    subprocess.run(command, check=True)
    return json.loads(rate.with_suffix(".json").read_text(encoding="utf-8"))


def alone(text: str, counts: Path) -> dict[str, Any]:
    """Fit one of our methods in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(timed_fit, text, counts).result()


def timed_fit(text: str, counts: Path) -> dict[str, Any]:
    data = as_data(sp.load_npz(counts), kind="counts")
    estimator(text)  # imports
    begun = time.perf_counter()
    result = estimator(text).fit_transform(data)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "seconds_per_epoch": result.history["seconds"].tolist(), "peak_bytes": peak_bytes()}


# -- tables ------------------------------------------------------------------------------------------------------------
def table_head(first: str, columns: Sequence[str]) -> None:
    print(f"| {first} | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|", flush=True)


def scaled(device: str, cells: int, genes: int, density: float, batch_size: int) -> None:
    """An epoch on made-up data of any size, on any device."""
    from scale import epochs

    found = epochs(device, cells=cells, genes=genes, density=density, batch_size=batch_size, number=3)
    print(f"{cells:,} x {genes:,}, {density:.0%} nonzero, batches of {batch_size:,}, on {device}\n")
    table_head("", ["value"])
    for name, value in found.items():
        print(f"| {name.replace('_', ' ')} | {value:,.4g} |")


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"{model}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}, load {load()}"


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epoch-method", default=EPOCH_METHOD, help="what one epoch is timed of")
    parser.add_argument("--fit-method", default="count_autoencoder", help="what the whole fit is timed of")
    parser.add_argument("--rounds", type=int, default=3, help="of --time")
    parser.add_argument("--epochs", type=int, default=8, help="in each round")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="instead: an epoch on made-up data, on this device")
    parser.add_argument("--cells", type=int, default=1_000_000, help="of --device")
    parser.add_argument("--genes", type=int, default=20_000, help="of --device")
    parser.add_argument("--density", type=float, default=0.05, help="share of nonzeros, of --device")
    parser.add_argument("--batch-size", type=int, default=1024, help="of --device")
    parser.add_argument("--make-peers", action="store_true", help="make the environment of the peers in .peers")
    chosen = parser.parse_args()
    print(f"{machine()}\n")
    if chosen.device:
        scaled(chosen.device, chosen.cells, chosen.genes, chosen.density, chosen.batch_size)
        return
    if chosen.make_peers:
        make_environment(ROOT / ".peers")
    measure(
        epoch_method=chosen.epoch_method,
        fit_method=chosen.fit_method,
        rounds=chosen.rounds,
        epochs=chosen.epochs,
    )


if __name__ == "__main__":
    main()
