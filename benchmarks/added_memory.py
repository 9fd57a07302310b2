"""Memory that MAGIC and ALRA add to a process, ours beside their packages, on pbmc3k in one run.

    python benchmarks/added_memory.py        # needs the environment of the peers: see benchmarks/counts.py

Each runs in a process of its own, once on few cells for its imports and compiled code, then on all. Printed are what
the process held before the second run (data and libraries), and by how much its peak was above that. Ours gives its
values in blocks of 64 cells; the packages give a dense matrix.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp

BLOCK = 64  # cells
NAMES = ("magic", "peer:magic", "alra", "peer:halra")


def resident(line: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, in bytes."""
    for text in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if text.startswith(line):
            return int(text.split()[1]) * 1024
    raise SystemExit("this needs Linux, which tells the memory of a process in /proc")


def ours(name: str) -> Callable[[sp.csr_matrix], None]:
    from imputome import methods

    def run(X: sp.csr_matrix) -> None:
        result = methods.create(name).fit_transform(X)
        for start in range(0, X.shape[0], BLOCK):
            result.rows(np.arange(start, min(start + BLOCK, X.shape[0])), output="value")

    return run


def package(name: str) -> Callable[[sp.csr_matrix], None]:
    from peers import per_ten_thousand

    def run(X: sp.csr_matrix) -> None:
        scaled = per_ten_thousand(X)
        if name == "magic":
            import magic

            scaled.data = np.sqrt(scaled.data)
            magic.MAGIC(random_state=0, verbose=0).fit_transform(scaled, genes="all_genes")
        else:
            import halra

            scaled.data = np.log1p(scaled.data)
            cells, genes = (np.array([str(number) for number in range(size)]) for size in X.shape)
            halra.halra(scaled, cells=cells, genes=genes, verbose=False)

    return run


def one(name: str, path: str) -> None:
    X = sp.csr_matrix(sp.load_npz(path))
    run = package(name.removeprefix("peer:")) if name.startswith("peer:") else ours(name)
    few = X[:200]
    run(few[:, np.flatnonzero(np.diff(few.tocsc().indptr) > 3)])
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, begun = resident("VmRSS"), time.perf_counter()
    run(X)
    seconds = time.perf_counter() - begun
    print(json.dumps({"before": before, "added": resident("VmHWM") - before, "seconds": seconds}))


def main() -> None:
    if len(sys.argv) == 3:
        return one(*sys.argv[1:])
    from comparison import peer_python
    from imputome.datasets import load
    from imputome.studies.inputs import to_dataset

    X = to_dataset(load("pbmc3k_raw"), name="pbmc3k_raw", min_genes=50, min_cells=10).data.X
    print(f"{X.shape[0]:,} cells x {X.shape[1]:,} genes; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "counts.npz")
        sp.save_npz(path, sp.csr_matrix(X))
        for name in NAMES:
            python = peer_python() if name.startswith("peer:") else sys.executable
            command = [python, __file__, name, path]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            before, added = (found[key] / 2**20 for key in ("before", "added"))
            print(f"{name}: adds {added:,.0f} MiB to {before:,.0f}, {found['seconds']:.1f} s")


if __name__ == "__main__":
    main()
