"""How fast is ``ialm``, against the same algorithm with SciPy's PROPACK, and how much memory does it take?

    python benchmarks/ialm.py                 # golden matrix, ours against PROPACK, in one run
    python benchmarks/ialm.py --pbmc3k        # all of pbmc3k_raw to 1e-4
    python benchmarks/ialm.py --large         # 100,000 x 2,000, max_rank=50, through the command line to zarr

The matrix of the first comes from IMPUTOME_GOLDEN (default ../shared/golden), the second from IMPUTOME_DATA.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, svds

from imputome.methods.ialm.solver import complete

REPOSITORY = Path(__file__).resolve().parents[1]
os.environ.setdefault("IMPUTOME_DATA", str(REPOSITORY.parent / "shared" / "data"))
GOLDEN = Path(os.environ.get("IMPUTOME_GOLDEN", REPOSITORY.parent / "shared" / "golden"))


def with_propack(D: sp.csr_array, *, tol: float = 1e-4, max_iter: int = 1000) -> tuple[int, int]:
    """Algorithm 3 with PROPACK on the low rank plus sparse operator, float64: what one would write with SciPy alone."""
    n, G = D.shape
    rows = np.repeat(np.arange(n), np.diff(D.indptr))
    rng = np.random.default_rng(0)
    spectral = svds(D, k=1, solver="propack", return_singular_vectors=False, random_state=rng)[0]
    mu, rho, sv = 0.3 / spectral, 1.1 + 2.5 * D.nnz / (n * G), 5
    T, values = D.data.copy(), D.data.copy()
    left, right = np.zeros((n, 0)), np.zeros((G, 0))
    norm = np.linalg.norm(D.data)
    for iteration in range(1, max_iter + 1):  # noqa: B007
        S = sp.csr_array((values, D.indices, D.indptr), shape=D.shape)
        St = S.T.tocsr()
        W = LinearOperator(
            D.shape,
            matvec=lambda x, S=S, left=left, right=right: left @ (right.T @ x) + S @ x,
            rmatvec=lambda x, St=St, left=left, right=right: right @ (left.T @ x) + St @ x,
            dtype=np.float64,
        )
        u, s, vt = svds(W, k=sv, solver="propack", random_state=rng)
        order = np.argsort(-s)
        u, s, vt = u[:, order], s[order], vt[order]
        rank = int((s > 1 / mu).sum())
        left, right = u[:, :rank] * (s[:rank] - 1 / mu), vt[:rank].T.copy()
        A = np.concatenate(
            [np.einsum("kr,kr->k", left[rows[c]], right[D.indices[c]]) for c in np.array_split(np.arange(D.nnz), 64)]
        )
        residual = np.linalg.norm(D.data - A) / norm
        T = D.data + (T - A) / rho
        values = T - A
        mu *= rho
        sv = rank + 1 if rank < sv else min(rank + 200, n - 1, G - 1)
        if residual < tol:
            break
    return iteration, rank


def timed(function: Callable[[], object], repeats: int) -> tuple[list[float], object]:
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - begun)
    return seconds, result


def golden(repeats: int) -> None:
    D = sp.csr_array(sp.load_npz(GOLDEN / "ialm_pbmc4k" / "masked.npz"))
    complete(D, max_iter=3)  # compiles
    print(f"ialm_pbmc4k: {D.shape[0]} x {D.shape[1]}, {D.nnz} observed, tol 1e-4")
    ours, solution = timed(lambda: complete(D), repeats)
    peer, (iterations, rank) = timed(lambda: with_propack(D), 1)
    again, _ = timed(lambda: complete(D), repeats)
    ours += again
    median = statistics.median(ours)
    tracemalloc.start()
    complete(D)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    bound = 4 * (D.nnz + sum(D.shape) * solution.rank) * 8
    details = solution.status.details
    print(f"{'':10}{'seconds (median)':>18}{'min':>8}{'max':>8}{'iterations':>12}{'rank':>6}")
    print(f"{'imputome':10}{median:18.2f}{min(ours):8.2f}{max(ours):8.2f}{details['iterations']:12}{solution.rank:6}")
    print(f"{'propack':10}{peer[0]:18.2f}{'':16}{iterations:12}{rank:6}")
    print(f"ratio {peer[0] / median:.1f} (PROPACK over the median of ours, {len(ours)} runs before and after it)")
    print(f"own memory, peak: {peak / 1e6:.1f} MB; bound 4 (nnz + (n + G) rank) 8 bytes: {bound / 1e6:.1f} MB")


def pbmc3k() -> None:
    from imputome import datasets

    X = sp.csr_array(datasets.load("pbmc3k_raw").X)
    depth = X.sum(axis=1)
    X = sp.csr_array(sp.diags_array(np.median(depth) / depth) @ X)
    D = sp.csr_array(X[:, np.diff(X.tocsc().indptr) > 0]).astype(np.float32)
    complete(D, max_iter=3)
    seconds, solution = timed(lambda: complete(D), 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    bound = 4 * (D.nnz + sum(D.shape) * solution.rank) * 8
    print(f"pbmc3k_raw: {D.shape[0]} x {D.shape[1]}, {D.nnz} observed: {solution.status.message}, {seconds[0]:.1f} s")
    print(f"peak memory of the whole process {peak / 2**20:.0f} MiB; bound on the solver's own {bound / 2**20:.0f} MiB")


def large(n: int = 100_000, genes: int = 2_000) -> None:
    """Gamma-Poisson counts of 20 programmes, 5 % nonzero, written in pieces and imputed by the command line."""
    import anndata as ad

    rng = np.random.default_rng(0)
    programmes = rng.gamma(0.3, size=(20, genes))
    blocks = []
    for _ in range(0, n, 10_000):
        weights = rng.dirichlet(np.full(20, 0.3), size=10_000)
        rates = weights @ programmes
        rates *= rng.lognormal(0, 0.4, size=(10_000, 1)) * 0.06 / 0.3
        blocks.append(sp.csr_matrix(rng.poisson(rates).astype(np.float32)))
    X = sp.vstack(blocks, format="csr")
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "large.h5ad", Path(folder) / "large.zarr"
        ad.AnnData(X).write_h5ad(source)
        print(f"{n} x {genes}, {X.nnz / (n * genes):.1%} nonzero")
        command = [sys.executable, "-c", "from imputome.cli import main; main()", "impute", str(source)]
        command += ["-o", str(output), "--method", "ialm", "--set", "max_rank=50"]
        begun = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        print(f"whole command {seconds:.0f} s, peak memory {peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pbmc3k", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--repeats", type=int, default=2, help="runs of ours before and after the peer")
    chosen = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if chosen.pbmc3k:
        pbmc3k()
    if chosen.large:
        large()
    if not (chosen.pbmc3k or chosen.large):
        golden(chosen.repeats)
