"""How long do splitting and scoring take on a large sparse matrix, in how much memory? How long does the hurdle test?

python benchmarks/evaluation.py           # 50,000 x 10,000, 3 % nonzero: thin, and score a factorised prediction
python benchmarks/evaluation.py --hurdle  # the hurdle test on 2,000 cells x 2,000 genes
"""

from __future__ import annotations

import argparse
import os
import resource
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np
import scipy.sparse as sp

from imputome.core.data import as_data
from imputome.core.imputation import Imputation
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.methods.factors import LowRank


def sparse_counts(n: int, G: int, density: float, rng: np.random.Generator) -> sp.csr_array:
    """Counts at random places, made in row blocks."""
    blocks = []
    for start in range(0, n, 5000):
        block = sp.random_array((min(5000, n - start), G), density=density, format="csr", rng=rng, dtype=np.float32)
        block.data[:] = 1 + rng.poisson(0.7, block.nnz)
        blocks.append(block)
    return sp.csr_array(sp.vstack(blocks, format="csr"))


def large(n: int = 50_000, G: int = 10_000) -> None:
    rng = np.random.default_rng(0)
    data = as_data(sparse_counts(n, G, 0.03, rng), kind="counts")
    print(f"{n} x {G}, {data.X.nnz / 1e6:.1f} million nonzeros, made at {peak():.2f} GiB")
    left = rng.gamma(1.0, size=(n, 16)).astype(np.float32)
    right = (rng.gamma(1.0, size=(G, 16)) * 0.003).astype(np.float32)
    for scheme in ("thin", "random"):
        begun = time.perf_counter()
        split = make_split(scheme, data, rng=rng, fraction=0.1)
        halfway = time.perf_counter()
        result = Imputation(LowRank(left, right), split.train, scale="counts", keeps_observed=False)
        scores = score_thinned(result, split) if split.test is not None else score_hidden(result, split)
        seconds = time.perf_counter() - halfway
        print(f"{scheme}: split {halfway - begun:.1f} s, {len(scores)} scores {seconds:.1f} s, peak {peak():.2f} GiB")


def hurdle(n: int = 2000, G: int = 2000) -> None:
    from imputome.evaluation.expression import hurdle_lrt
    from imputome.evaluation.simulate import simulate_counts

    simulation = simulate_counts(n=n, G=G, n_types=2, rng=np.random.default_rng(0))
    X = np.log1p(simulation.X.toarray())
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        hurdle_lrt(X, simulation.cell_type)
        seconds.append(time.perf_counter() - begun)
    print(f"hurdle test, {n} cells x {G} genes: median {sorted(seconds)[1]:.2f} s of {len(seconds)} runs")


def peak() -> float:
    """Largest resident size of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hurdle", action="store_true")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    hurdle() if parser.parse_args().hurdle else large()
