"""How good and how fast is ``count_autoencoder``, against scVI and MAGIC on the same counts?

    python benchmarks/deep.py --loss --make-peer-env peers   # makes an environment for the peers, then the table
    python benchmarks/deep.py --loss --peer-python peers/bin/python --datasets zeisel,kang --cache rates
    python benchmarks/deep.py --time --peer-python peers/bin/python
    python benchmarks/deep.py --device cuda --cells 1000000 --genes 20000   # an epoch on made-up data

Loss: 90 % of the molecules to fit on, held-out Poisson loss per entry of the rest (lower is better) and predicted over
held-out molecules. Cells with fewer than 50 genes and genes in fewer than 10 cells are left out. Without an environment
the peers' columns hold what the cache has.

Time, on pbmc3k_raw: (1) seconds per epoch over all cells at equal batch, latent and hidden size, in turns; scVI's is
without validation, imputome's with its own. (2) the whole fit with early stopping, each in a process of its own,
without imports; of scVI without the prediction that follows, of imputome with all that `fit_transform` does.

Data sets come from IMPUTOME_DATA; threads are those of OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command line
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np
import scipy.sparse as sp

from imputome import datasets, methods
from imputome.core.data import Data, as_data
from imputome.core.imputation import Imputation
from imputome.errors import InputError
from imputome.evaluation.splits import Split, make_split, seed_for
from imputome.evaluation.streaming import score_thinned
from imputome.studies.inputs import parse_method, to_dataset
from peers import peak_bytes

HERE = Path(__file__).resolve().parent
os.environ.setdefault("IMPUTOME_DATA", str(HERE.parents[1] / "shared" / "data"))
COUNTS = (
    "scmix_celseq2_3cl",
    "zeisel_ercc_1000g",
    "pbmc_citeseq_400",
    "klein_d2_d4",
    "kang_pbmc_stim",
    "pbmc4k_top2000",
    "baron_pancreas_7162x1000",
    "mouse_bladder_2100",
    "pbmc3k_raw",
)
CONTROLS = ("gene_mean", "gene_mean_posterior", "poisson_nmf")
METHODS = "count_autoencoder,zipo,zipo:alpha_z=1e4"
# 128 hidden units and batches of 128 are defaults of both
EPOCH_METHOD = "count_autoencoder:n_latent=10:n_factors=0:posterior=false"
PEERS = ("scvi", "magic")
PEER_PACKAGES = ("scvi-tools==1.4.2", "magic-impute==3.0.0")


# -- the peers ---------------------------------------------------------------------------------------------------------
class Peers:
    """Runs `peers.py` in the peers' own environment; a rate once computed stays in the cache."""

    def __init__(self, python: Path | None, cache: Path) -> None:
        self.python, self.cache = python, cache
        cache.mkdir(parents=True, exist_ok=True)

    def rate(self, peer: str, name: str, split: Split) -> tuple[np.ndarray, dict[str, Any]] | None:
        """The (n, G) rate at training depth and the peer's report; None if it is neither cached nor can be run."""
        X = split.train.X
        digest = hashlib.sha256(X.data.tobytes() + X.indices.tobytes() + X.indptr.tobytes()).hexdigest()[:8]
        stem = self.cache / f"{name}-{digest}-{peer}"
        if not stem.with_suffix(".json").exists():  # it is written after the rate, so a broken run leaves none
            if self.python is None:
                return None
            self.run(peer, X, stem.with_suffix(".npy"))
        report = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        return np.load(stem.with_suffix(".npy"), mmap_mode="r"), report

    def run(self, peer: str, X: sp.csr_array, rate: Path, *options: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            counts = Path(folder) / "counts.npz"
            sp.save_npz(counts, sp.csr_matrix(X), compressed=False)
            command = [str(self.python), str(HERE / "peers.py"), peer, str(counts), str(rate), *options]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{peer} failed:\n{done.stderr[-2000:]}")


def make_environment(folder: Path) -> Path:
    """A virtual environment with the peers in it; its interpreter."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    constraints = HERE.parent / "constraints.txt"
    command = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), "torch", *PEER_PACKAGES]
    subprocess.run(command, check=True)
    return python


# -- held-out loss -----------------------------------------------------------------------------------------------------
def thinned(name: str) -> Split:
    dataset = to_dataset(datasets.load(name), name=name, min_genes=50, min_cells=10)
    rng = np.random.default_rng(seed_for(name, "thin", 0.1, 0))
    return make_split("thin", dataset.data, rng=rng, fraction=0.1)


class Given:
    """A rate that somebody else computed, as the model of an `Imputation`."""

    outputs = frozenset({"value", "rate"})

    def __init__(self, rate: np.ndarray) -> None:
        self.rate = rate

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: str) -> np.ndarray:
        part = self.rate[rows]
        return part if genes is None else part[:, genes]

    def at(self, i: np.ndarray, j: np.ndarray, output: str) -> np.ndarray:
        return self.rate[i, j]


def own(text: str, data: Data) -> Imputation:
    spec = parse_method(text)
    return methods.create(spec.name, spec.params).fit_transform(data)


def loss(names: Sequence[str], wanted: Sequence[str], peers: Peers) -> None:
    columns = [*CONTROLS, *PEERS, *wanted]
    print("Held-out Poisson loss per entry\n")
    table_head("data", columns)
    reports: dict[str, dict[str, Any]] = {}
    ratios, seconds = {}, {}
    for name in names:
        try:
            split = thinned(name)
        except InputError as error:
            print(f"| {name} | {error} |")
            continue
        label = f"{name} ({split.train.shape[0]} x {split.train.shape[1]})"
        losses: list[float | None] = []
        ratios[label], seconds[label] = [], []
        for column in columns:
            begun = time.perf_counter()
            if column not in PEERS:
                result = own(column, split.train)
                taken = time.perf_counter() - begun
            elif (known := peers.rate(column, name, split)) is not None:
                rate, reports[column] = known
                taken = reports[column]["seconds"]
                result = Imputation(Given(rate), split.train, scale="counts", keeps_observed=False)
            else:
                losses.append(None)
                ratios[label].append(None)
                seconds[label].append(None)
                continue
            scores = score_thinned(result, split, metrics=("poisson_loss", "total_ratio"))
            losses.append(scores["poisson_loss"])
            ratios[label].append(scores["total_ratio"])
            seconds[label].append(taken)
        table_row(label, losses, "{:.5f}", best=min)
    for title, values, form in (
        ("Predicted over held-out molecules", ratios, "{:.4f}"),
        ("Seconds, a cached peer's from when it was run", seconds, "{:.1f}"),
    ):
        print(f"\n{title}\n")
        table_head("data", columns)
        for label, row in values.items():
            table_row(label, row, form)
    print()
    for peer, report in reports.items():
        print(f"- {peer} {report['version']}: {report['what']}")


# -- time --------------------------------------------------------------------------------------------------------------
def measure(peers: Peers, *, epoch_method: str, fit_method: str, rounds: int, epochs: int) -> None:
    X = thinned("pbmc3k_raw").train.X
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        counts = Path(folder) / "counts.npz"
        sp.save_npz(counts, sp.csr_matrix(X), compressed=False)
        seconds: dict[str, list[list[float]]] = {"scvi": [], epoch_method: []}
        for _ in range(rounds):
            peers.run("scvi", X, report.with_suffix(".npy"), "--epochs", str(epochs))
            seconds["scvi"].append(json.loads(report.read_text(encoding="utf-8"))["seconds_per_epoch"])
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

        peers.run("scvi", X, report.with_suffix(".npy"))
        peer = json.loads(report.read_text(encoding="utf-8"))
        ours = alone(fit_method, counts)
        print(f"Whole fit with early stopping, load {load()}\n")
        table_head("", ["seconds", "epochs", "peak memory, MiB"])
        for name, took, number, peak in (
            ("scvi", peer["fit_seconds"], peer["epochs"], peer["fit_peak_bytes"]),
            (fit_method, ours["seconds"], len(ours["seconds_per_epoch"]), ours["peak_bytes"]),
        ):
            print(f"| {name} | {took:.1f} | {number} | {peak / 2**20:.0f} |")
        print(f"\nratio {peer['fit_seconds'] / ours['seconds']:.1f}")


def alone(text: str, counts: Path) -> dict[str, Any]:
    """Fit one of our methods in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(timed_fit, text, counts).result()


def timed_fit(text: str, counts: Path) -> dict[str, Any]:
    data = as_data(sp.load_npz(counts), kind="counts")
    methods.get(parse_method(text).name)  # imports
    begun = time.perf_counter()
    result = own(text, data)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "seconds_per_epoch": result.history["seconds"].tolist(), "peak_bytes": peak_bytes()}


# -- tables ------------------------------------------------------------------------------------------------------------
def table_head(first: str, columns: Sequence[str]) -> None:
    print(f"| {first} | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|", flush=True)


def table_row(label: str, values: Sequence[float | None], form: str, best: Any = None) -> None:
    """One row; the best of it in bold if ``best`` says which that is."""
    top = best(value for value in values if value is not None) if best else None
    cells = ["" if value is None else form.format(value) for value in values]
    cells = [f"**{cell}**" if best and value == top else cell for cell, value in zip(cells, values, strict=True)]
    print(f"| {label} | {' | '.join(cells)} |", flush=True)


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
    parser.add_argument("--loss", action="store_true", help="held-out loss on every data set; what is done by default")
    parser.add_argument("--time", action="store_true", help="seconds and memory on pbmc3k_raw")
    parser.add_argument("--datasets", default=",".join(COUNTS), help="a,b,c; default: all that hold counts")
    parser.add_argument("--methods", default=METHODS, help="a,b:key=value; beside the controls and the peers")
    parser.add_argument("--cache", type=Path, help="folder that keeps the peers' rates; default: a temporary one")
    parser.add_argument("--epoch-method", default=EPOCH_METHOD, help="what one epoch is timed of")
    parser.add_argument("--fit-method", default="count_autoencoder", help="what the whole fit is timed of")
    parser.add_argument("--rounds", type=int, default=3, help="of --time")
    parser.add_argument("--epochs", type=int, default=8, help="in each round")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="instead: an epoch on made-up data, on this device")
    parser.add_argument("--cells", type=int, default=1_000_000, help="of --device")
    parser.add_argument("--genes", type=int, default=20_000, help="of --device")
    parser.add_argument("--density", type=float, default=0.05, help="share of nonzeros, of --device")
    parser.add_argument("--batch-size", type=int, default=1024, help="of --device")
    environment = parser.add_mutually_exclusive_group()
    environment.add_argument("--peer-python", type=Path, help="interpreter that has scvi-tools and magic-impute")
    environment.add_argument("--make-peer-env", type=Path, metavar="DIR", help="make such an environment in DIR")
    chosen = parser.parse_args()
    if chosen.device:
        print(f"{machine()}\n")
        scaled(chosen.device, chosen.cells, chosen.genes, chosen.density, chosen.batch_size)
        return
    wanted = [method for method in chosen.methods.split(",") if method]
    names = [datasets.ALIASES.get(name, name) for name in chosen.datasets.split(",")]
    lossy, timed = chosen.loss or not chosen.time, chosen.time
    try:
        for method in (wanted if lossy else []) + ([chosen.epoch_method, chosen.fit_method] if timed else []):
            parse_method(method)
    except InputError as error:
        parser.error(str(error))
    if timed and not (chosen.peer_python or chosen.make_peer_env):
        parser.error("--time runs scVI: give --peer-python or --make-peer-env")
    python = make_environment(chosen.make_peer_env) if chosen.make_peer_env else chosen.peer_python
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(python, chosen.cache or Path(folder))
        if lossy:
            loss(names, wanted, peers)
        if timed:
            measure(
                peers,
                epoch_method=chosen.epoch_method,
                fit_method=chosen.fit_method,
                rounds=chosen.rounds,
                epochs=chosen.epochs,
            )


if __name__ == "__main__":
    main()
