"""What `counts.py` and `real.py` share: fits that each run in a process of their own, their results, and tables.

A result is one line of JSON: data, split, method, scores, seconds, peak memory, load of the machine, version. Methods
are written as in `imputome evaluate`; ``peer:NAME`` is a system that is no part of imputome, which `peers.py` runs in
its own environment; ``+posterior`` adds the posterior step, also to these.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command line
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

import numpy as np
import scipy.sparse as sp

from imputome import methods
from imputome.core.data import Data
from imputome.core.imputation import Imputation
from imputome.core.imputer import Imputer
from imputome.core.info import MethodInfo
from imputome.studies.inputs import parse_method
from peers import PACKAGES, peak_bytes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
os.environ.setdefault("IMPUTOME_DATA", str(ROOT.parent / "shared" / "data"))
LIMIT = 1800  # seconds that one fit may take; what takes longer is a row without scores


# -- one fit -----------------------------------------------------------------------------------------------------------
class Peer(Imputer):
    """A system that `peers.py` runs, as a method of imputome: so it can have the posterior step too.

    ``settings`` are further arguments of `peers.py`, separated by blanks.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        "peer", "a system that is no part of imputome", frozenset({"counts", "real"}), new_rows="none"
    )
    reports: ClassVar[list[dict[str, Any]]] = []  # of all fits: the posterior step makes a second one

    def __init__(self, *, peer: str = "", settings: str = "", posterior: bool = False) -> None:
        self.peer = peer
        self.settings = settings
        self.posterior = posterior

    def _fit(self, data: Data) -> tuple[Given, dict[str, Any]]:
        begun = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder) / ("given.npz" if data.kind == "counts" else "given.npy")
            if data.kind == "counts":
                sp.save_npz(given, sp.csr_matrix(data.X), compressed=False)
            else:
                np.save(given, data.known_values())
            rate = self._rate_of(given)
        values = np.load(rate)
        report = json.loads(rate.with_suffix(".json").read_text(encoding="utf-8"))
        report["waited"] = time.process_time() - begun  # for files and imports too, or for next to nothing
        self.reports.append(report)
        return Given(values, counts=data.kind == "counts"), {}

    def _rate_of(self, given: Path) -> Path:
        """The file with what the peer makes of this file; kept, as the row with the step starts from the same."""
        asked = [self.peer, *self.settings.split(), PACKAGES[self.peer]]
        key = hashlib.sha256(given.read_bytes() + "\n".join(asked).encode()).hexdigest()[:16]
        rate = Path(os.environ.get("PEER_RATES", ROOT / ".peers" / "rates")) / f"{key}.npy"
        if not rate.with_suffix(".json").exists():  # this is written last
            rate.parent.mkdir(parents=True, exist_ok=True)
            command = [peer_python(), str(HERE / "peers.py"), self.peer, str(given), str(rate), *self.settings.split()]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{self.peer} failed: {done.stderr[-500:]}")
        return rate


class Given:
    """The model of an `Imputation` whose values somebody else computed."""

    def __init__(self, values: np.ndarray, *, counts: bool) -> None:
        self.values = values
        self.outputs = frozenset({"value", "rate"} if counts else {"value"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: str) -> np.ndarray:
        part = self.values[rows]
        return part if genes is None else part[:, genes]

    def at(self, i: np.ndarray, j: np.ndarray, output: str) -> np.ndarray:
        return self.values[i, j]


def peer_python() -> str:
    return os.environ.get("PEER_PYTHON", str(ROOT / ".peers" / "bin" / "python"))


def estimator(text: str) -> Imputer:
    """``name:key=value``, ``name+posterior``, ``peer:NAME`` or ``peer:NAME:factors=10+posterior``."""
    if not text.startswith("peer:"):
        spec = parse_method(text)
        return methods.create(spec.name, spec.params)
    bare = text.removesuffix("+posterior")
    _, name, *settings = bare.split(":")
    arguments = [part for setting in settings for part in ("--" + setting).split("=", 1)]
    return Peer(peer=name, settings=" ".join(arguments), posterior=bare != text)


def measured(
    text: str, train: Data, score: Callable[[Imputation], dict[str, float]], *, link: str = "identity"
) -> dict[str, Any]:
    """Fit, score, and say what both cost: many methods compute a value only when it is read."""
    method = estimator(text)
    method.link = link
    begun = time.process_time()
    result = method.fit_transform(train)
    fitted = time.process_time()
    scores = score(result)
    found = {
        "scores": {name: float(value) for name, value in scores.items()},
        "seconds": round(time.process_time() - begun, 2),
        "fit_seconds": round(fitted - begun, 2),
        "peak_bytes": peak_bytes(),
        "clock": "processor",  # rows without it are of wall seconds, on one thread
    }
    if isinstance(method, Peer):
        found |= {name: method.reports[0][name] for name in ("version", "what")}
        own = sum(report["seconds"] - report["waited"] for report in method.reports)  # its seconds, not those waited
        found |= {name: round(found[name] + own, 2) for name in ("seconds", "fit_seconds")}
        found["peak_bytes"] = max(found["peak_bytes"], *(report["peak_bytes"] for report in method.reports))
    return found


# -- all fits ----------------------------------------------------------------------------------------------------------
def jobs_left(results: Path, jobs: Iterable[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    done = {(row["data"], row["split"], row["method"]) for row in rows_of(results)}
    return [job for job in jobs if job not in done]


def rows_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []


def run(script: Path, results: Path, jobs: Sequence[tuple[str, int, str]], *, workers: int, limit: int) -> None:
    """Run what is not in ``results`` yet: ``python SCRIPT one DATA SPLIT METHOD`` for each, ``workers`` at a time."""

    def one(job: tuple[str, int, str]) -> None:
        data, split, method = job
        command = [sys.executable, str(script), "one", data, str(split), method]
        row = {"data": data, "split": split, "method": method, "load": round(os.getloadavg()[0], 1)}
        row["date"] = datetime.date.today().isoformat()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
            last = (done.stdout.strip().splitlines() or [""])[-1]
            if done.returncode:
                row["failed"] = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
            else:
                row |= json.loads(last)
        except subprocess.TimeoutExpired:
            row["failed"] = f"more than {limit} s"
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        took = row.get("failed") or f"{row['seconds']:.0f} s"
        print(f"{data}, split {split}, {method}: {took}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, jobs_left(results, jobs)))


def make_environment(folder: Path) -> None:
    """A virtual environment with the systems of `peers.py` in it, unless it is there."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        constraints = ["-c", str(ROOT / "constraints.txt")]
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *constraints, "torch", *PACKAGES.values()], check=True
        )
        (folder / "complete").touch()


# -- tables ------------------------------------------------------------------------------------------------------------
def spread(values: Sequence[float], digits: int) -> str:
    """Mean, and half of the range in units of the last digit: ``0.0450(2)``."""
    middle = statistics.fmean(values)
    text = f"{middle:.{digits}f}"
    if len(values) > 1:
        text += f"({round((max(values) - min(values)) / 2 * 10**digits)})"
    return text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between_marks(text: str, name: str, new: str) -> str:
    """``text`` with what is between ``<!-- name:begin -->`` and ``<!-- name:end -->`` replaced."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"the page needs the marks {begin} and {end} once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{new}\n{end}{rest.split(end)[1]}"


def written(pages: dict[Path, dict[str, str]], *, check: bool) -> int:
    """Write the tables into the pages; with ``check``, only compare, and return 1 if a page is stale."""
    stale = 0
    for page, parts in pages.items():
        old = new = page.read_text(encoding="utf-8")
        for name, part in parts.items():
            new = between_marks(new, name, part)
        if new != old and check:
            print(f"the tables in {page.name} are stale: run make bench-tables", file=sys.stderr)
            stale = 1
        elif new != old:
            page.write_text(new, encoding="utf-8")
    return stale


# -- command line ------------------------------------------------------------------------------------------------------
def main(
    script: Path,
    description: str,
    *,
    data: Sequence[str],
    chosen_methods: Sequence[str],
    one: Callable[[str, int, str], dict[str, Any]],
    pages: Callable[[list[dict[str, Any]]], dict[Path, dict[str, str]]],
    wanted: Callable[[str, int, str], bool] = lambda data, split, method: True,
) -> int:
    """``run``, ``one``, ``write`` and ``check`` of a script; ``one`` measures a fit, ``pages`` makes the tables.

    ``wanted`` says which combinations are run unless methods are named.
    """
    results = script.with_suffix(".jsonl")
    parser = argparse.ArgumentParser(description=description)
    actions = parser.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run", help="measure what is not in the results yet")
    running.add_argument("--data", default=",".join(data))
    running.add_argument("--methods", help="by default all, the dear ones on some data sets only")
    running.add_argument("--splits", type=int, default=3, help="number of splits")
    running.add_argument("--limit", type=int, default=LIMIT, help="seconds for one fit")
    running.add_argument("--workers", type=int, default=1, help="fits at a time; each has OMP_NUM_THREADS threads")
    running.add_argument("--make-peers", action="store_true", help="make the environment of the peers in .peers")
    single = actions.add_parser("one", help="measure one fit, and print it")
    for name, kind in (("data", str), ("split", int), ("method", str)):
        single.add_argument(name, type=kind)
    actions.add_parser("write", help="write the tables of the results into the pages")
    actions.add_parser("check", help="exit with 1 if a table is not that of the results")
    chosen = parser.parse_args()
    if chosen.action == "run":
        if chosen.make_peers:
            make_environment(ROOT / ".peers")
        jobs = [
            (name, split, method)
            for split in range(1, chosen.splits + 1)
            for name in chosen.data.split(",")
            for method in (chosen.methods.split(",") if chosen.methods else chosen_methods)
            if chosen.methods or wanted(name, split, method)
        ]
        run(script, results, jobs, workers=chosen.workers, limit=chosen.limit)
        return 0
    if chosen.action == "one":
        print(json.dumps(one(chosen.data, chosen.split, chosen.method)))
        return 0
    return written(pages(rows_of(results)), check=chosen.action == "check")
