"""How much of what can be recovered is recovered: methods against known truth, on simulated counts.

    python benchmarks/limit.py run                      # an hour or two; what is in limit.jsonl is not run again
    python benchmarks/limit.py run --data "topics 2000 x 1000" --methods count_factors
    python benchmarks/limit.py write                    # the tables of docs/limits.md

Nine tenths of the molecules to fit on, the rest held out. The *share recovered* is how far a method comes on the way
from the posterior of the gene mean, 0 %, to the posterior with the true rate and the true shapes, 100 %, in Poisson
loss of the held-out molecules. Three limits on this way separate the causes of the rest:

- true gene factors (``loadings``): the gene factors are the true ones, and only the cell's own are inferred from its
  counts; what it lacks to 100 % is what inference costs, which no method gets back;
- true shapes (``METHOD@shapes``): the method's rate with the true shapes of the posterior step; what it gains is what
  the fitted prior costs;
- ten times the cells (``METHOD@cells``): the method learns from ten times as many cells, and is applied to the same
  ones; what it gains is what learning costs.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import comparison
from imputome import datasets
from imputome.core.data import Data, as_data
from imputome.evaluation.simulate import fit_scdesign, simulate_counts
from imputome.methods.log_linear import LogLinearFactors, project_log_linear

SHARE = 0.9  # of the molecules to fit on
MORE = 10  # times the cells, for what learning costs
LARGEST = 20_000  # cells that such a fit may have
CONTROL = "gene_mean_posterior"
METHODS = ("poisson_nmf+posterior", "count_factors", "count_autoencoder")
LIMITS = ("loadings", "count_factors@shapes", "count_factors@cells")


@dataclass(frozen=True)
class Truth:
    """Counts with the rates and shapes that they were drawn from."""

    counts: np.ndarray  # (n, G) integers
    rate: np.ndarray  # (n, G) means of the gamma priors
    phi: np.ndarray  # (G,) their shapes
    rank: int  # of the logs of the rates; 0 if they are not log-linear
    draws: tuple[np.ndarray, ...] = ()  # where no gamma distribution is the prior, see `scdesign`


def low_rank(n: int, rng: np.random.Generator, **options: Any) -> Truth:
    """Simulator (a): log rates of low rank, types, and a trend of the overdispersion."""
    simulated = simulate_counts(n=n, rng=rng, **options)
    phi = 1 / (simulated.realised / simulated.rate).var(axis=0)
    return Truth(simulated.X.toarray().astype(np.int64), simulated.rate, phi, options.get("rank", 10) + 5)


def drawn(share: np.ndarray, rank: int, rng: np.random.Generator, *, depth: float) -> Truth:
    """Gamma-Poisson counts of given shares, with the depths and overdispersion of simulator (a)."""
    share = share / share.sum(axis=1, keepdims=True)
    rate = share * depth * np.exp(0.4 * rng.standard_normal((len(share), 1)))
    phi = 1 / (0.05 + 1.2 / (1 + rate.mean(axis=0)))
    return Truth(rng.poisson(rate * rng.gamma(phi, 1 / phi, size=rate.shape)), rate, phi, rank)


def topics(n: int, rng: np.random.Generator, *, G: int, depth: float = 2000.0, k: int = 12) -> Truth:
    """Additive programs: each cell is a mixture of some of k profiles, as in topic models."""
    base = np.exp(1.6 * rng.standard_normal(G))
    profiles = base * rng.gamma(0.3, 1 / 0.3, size=(k, G))
    return drawn(rng.dirichlet(np.full(k, 0.15), size=n) @ profiles + 0.05 * base, 0, rng, depth=depth)


def trajectory(n: int, rng: np.random.Generator, *, G: int, depth: float = 2000.0) -> Truth:
    """A continuous path with a branch: log rates are smooth functions of the place of the cell on it."""
    place, branch = rng.uniform(size=n), rng.integers(2, size=n)
    waves = [np.sin(np.pi * f * place) for f in (0.5, 1, 1.5, 2)] + [np.where(branch, np.maximum(place - 0.5, 0), 0.0)]
    loadings = rng.standard_normal((len(waves), G)) * (rng.random(G) < 0.3) * 0.8
    loadings[-1] *= 3
    share = np.exp(np.stack(waves, axis=1) @ loadings + 1.6 * rng.standard_normal(G))
    return drawn(share, len(waves), rng, depth=depth)


def scdesign(n: int, rng: np.random.Generator, *, G: int) -> Truth:
    """Simulator (b): two types of cells like those of pbmc4k, with dropouts, but no structure within a type.

    What a gene's counts of a cell are drawn from is known only as a sample: the values of the other cells of its type,
    per molecule of their library. ``draws`` are (n, G) these, (n,) the types, and (n,) the libraries.
    """
    X = datasets.load("pbmc4k_top2000").X
    genes = np.sort(np.argsort(-np.asarray(X.sum(axis=0)).ravel())[:G])
    simulated = fit_scdesign(X[:, genes], max_steps=200).simulate(cells_per_type=n // 2, rng=rng)
    order = rng.permutation(n)  # the types come one after the other
    library, values = simulated.library[order], simulated.realised[order]
    counts = simulated.X.toarray().astype(np.int64)[order]
    return Truth(counts, values, np.ones(0), 0, (values / library[:, None], simulated.cell_type[order], library))


# name -> (maker, cells, options)
SIMULATORS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "low rank 1500 x 1500": (low_rank, 1500, {"G": 1500}),
    "low rank 2000 x 2000": (low_rank, 2000, {"G": 2000}),
    "low rank 3000 x 800 deep": (low_rank, 3000, {"G": 800, "depth": 3000.0}),
    "low rank 4000 x 1000 deep": (low_rank, 4000, {"G": 1000, "depth": 3000.0, "rank": 8}),
    "low rank 1200 x 1000": (low_rank, 1200, {"G": 1000}),
    "rank 30 2000 x 1000 deep": (low_rank, 2000, {"G": 1000, "rank": 30, "factor_strength": 0.7, "depth": 3000.0}),
    "noisy 2000 x 1000 deep": (low_rank, 2000, {"G": 1000, "overdispersion": (0.4, 1.2), "depth": 3000.0}),
    "topics 2000 x 1000": (topics, 2000, {"G": 1000}),
    "trajectory 2000 x 1000": (trajectory, 2000, {"G": 1000}),
    "scDesign 1200 x 1000": (scdesign, 1200, {"G": 1000}),
}


# -- one simulation ----------------------------------------------------------------------------------------------------
class Case:
    """A simulation divided into molecules to fit on and to predict."""

    def __init__(self, name: str, number: int, *, times: int = 1) -> None:
        make, self.n, options = SIMULATORS[name]
        rng = np.random.default_rng([number, len(name)])
        self.truth = make(self.n * times, rng, **options)
        self.seen = rng.binomial(self.truth.counts, SHARE).astype(np.float32)
        self.kept = self.seen[: self.n].sum(axis=0) > 0  # genes with molecules in the cells that are scored

    def data(self, rows: slice) -> Data:
        return as_data(sp.csr_array(self.seen[rows][:, self.kept]), kind="counts")

    def loss(self, values: np.ndarray) -> float:
        """Poisson loss per entry of the held-out molecules of the first n cells, from values at the depth of x1."""
        held_out = (self.truth.counts[: self.n] - self.seen[: self.n])[:, self.kept]
        mean = np.maximum(values.astype(np.float64) * (1 - SHARE) / SHARE, 1e-10)
        return float((mean - held_out * np.log(mean)).mean())

    def posterior(self, rate: np.ndarray) -> np.ndarray:
        """The posterior means of a rate, (n, kept genes), with the true shapes."""
        phi = self.truth.phi[self.kept]
        return rate * (phi + self.seen[: self.n][:, self.kept]) / (phi + rate)

    def true_rate(self) -> np.ndarray:
        return SHARE * self.truth.rate[: self.n][:, self.kept]

    def best(self) -> np.ndarray:
        """Posterior means, (n, kept genes), of the true prior; where it is a sample, without the cell's own value."""
        if not self.truth.draws:
            return self.posterior(self.true_rate())
        share, kind, library = self.truth.draws
        out = np.empty((self.n, int(self.kept.sum())))
        with np.errstate(divide="ignore", invalid="ignore"):
            for of in np.unique(kind):
                cells, others = np.flatnonzero(kind[: self.n] == of), np.flatnonzero(kind == of)
                own = cells[:, None] == others
                for place, gene in enumerate(np.flatnonzero(self.kept)):
                    rate = SHARE * library[cells, None] * share[others, gene]
                    x = self.seen[cells, gene][:, None]
                    logs = np.where(x > 0, x * np.log(rate), 0.0) - rate
                    logs[own] = -np.inf
                    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
                    out[cells, place] = (weights * rate).sum(axis=1) / weights.sum(axis=1)
        return out

    def with_true_loadings(self) -> np.ndarray:
        """Rates with the true gene factors, from the logs of the true rates of all cells; the cells' own are inferred.

        The factors are scaled so that those of the cells have variance 1, as their prior says.
        """
        logs = np.log(self.truth.rate[:, self.kept])
        logs -= logs.mean(axis=1, keepdims=True)
        offset = logs.mean(axis=0)
        left, sizes, right = np.linalg.svd(logs - offset, full_matrices=False)
        k = min(self.truth.rank, len(sizes))
        factors = right[:k].T * sizes[:k] / np.sqrt(len(left))
        genes = LogLinearFactors(factors.astype(np.float32), offset.astype(np.float32))
        cells, scale = project_log_linear(self.data(slice(self.n)).X, genes)
        return np.exp(cells @ genes.factors.T + genes.offset + scale[:, None])


def one(name: str, number: int, what: str) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    method, _, limit = what.partition("@")
    if limit == "cells" and SIMULATORS[name][1] * MORE > LARGEST:
        return {"scores": {}, "seconds": 0.0}
    case = Case(name, number, times=MORE if limit == "cells" else 1)
    if limit == "cells":
        return {"scores": what_learning_costs(case, method), "seconds": 0.0}
    begun = time.process_time()
    if method == "limit":
        values = case.best()
    elif limit == "shapes" and case.truth.draws:  # it has none
        return {"scores": {}, "seconds": 0.0}
    elif method == "loadings":
        if not case.truth.rank:  # not log-linear
            return {"scores": {}, "seconds": 0.0}
        values = case.posterior(case.with_true_loadings())
    else:
        estimator, data = comparison.estimator(method), case.data(slice(None))
        begun = time.process_time()
        values = estimator.fit_transform(data).rows(np.arange(case.n), keep_observed=False)
        if limit == "shapes":
            values = case.posterior(estimator._new_rows(data).rows(np.arange(case.n), None, "value"))
    return {"scores": {"loss": case.loss(values)}, "seconds": round(time.process_time() - begun, 1)}


def what_learning_costs(case: Case, method: str) -> dict[str, float]:
    """Shares recovered of the first n cells of a larger simulation, fitted alone and with all the others."""

    def loss(name: str, rows: slice) -> float:
        result = comparison.estimator(name).fit_transform(case.data(rows))
        return case.loss(result.rows(np.arange(case.n), keep_observed=False))

    alone = slice(case.n)
    control, limit = loss(CONTROL, alone), case.loss(case.best())
    shares = {"alone": loss(method, alone), "with the others": loss(method, slice(None))}
    return {name: 100 * (control - value) / (control - limit) for name, value in shares.items()}


# -- tables ------------------------------------------------------------------------------------------------------------
def shares(rows: list[dict[str, Any]], control: str = CONTROL) -> dict[tuple[str, str], list[float]]:
    """Share recovered by simulation and by what was run, one for each number."""
    losses = {(r["data"], r["split"], r["method"]): r["scores"]["loss"] for r in rows if "loss" in r.get("scores", {})}
    found: dict[tuple[str, str], list[float]] = {}
    for (name, number, what), loss in losses.items():
        highest, lowest = losses.get((name, number, control)), losses.get((name, number, "limit"))
        if highest is not None and lowest is not None and what not in (control, "limit"):
            found.setdefault((name, what), []).append(100 * (highest - loss) / (highest - lowest))
    return found


def table(rows: list[dict[str, Any]], columns: dict[str, str], *, names: Sequence[str], control: str = CONTROL) -> str:
    found = shares(rows, control)
    lines = ["| simulation | " + " | ".join(columns.values()) + " |", "| --- |" + " --- |" * len(columns)]
    for name in names:
        cells = [found.get((name, what), []) for what in columns]
        shown = [f"{statistics.fmean(values):.0f} %" if values else "" for values in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    means = [[statistics.fmean(found[name, what]) for name in names if (name, what) in found] for what in columns]
    lines.append("| mean | " + " | ".join(f"{statistics.fmean(m):.0f} %" if m else "" for m in means) + " |")
    return "\n".join(lines)


def learning_table(rows: list[dict[str, Any]]) -> str:
    """What ten times the cells add, for each simulation of which there are as many."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["method"].endswith("@cells") and row.get("scores"):
            for name, share in row["scores"].items():
                found.setdefault(row["data"], {}).setdefault(name, []).append(share)
    lines = ["| simulation | these cells alone | with ten times the cells |", "| --- | --- | --- |"]
    for name, of in found.items():
        lines.append(f"| {name} | " + " | ".join(f"{statistics.fmean(values):.0f} %" for values in of.values()) + " |")
    return "\n".join(lines)


def pages(rows: list[dict[str, Any]]) -> dict[Path, dict[str, str]]:
    recovered = {name: f"`{name}`".replace("+posterior`", "`, with the step") for name in METHODS}
    causes = {name: f"`{name}`" for name in METHODS[1:2]} | {
        f"{name}@shapes": f"`{name}`, true shapes" for name in METHODS[1:2]
    }
    return {
        comparison.ROOT / "docs" / "limits.md": {
            "limit-shares": table(rows, recovered, names=list(SIMULATORS)),
            "limit-causes": table(rows, {**causes, "loadings": "true gene factors"}, names=list(SIMULATORS)),
            "limit-learning": learning_table(rows),
        }
    }


if __name__ == "__main__":
    description = __doc__.splitlines()[0]
    everything = ("limit", CONTROL, *METHODS, *LIMITS)
    raise SystemExit(
        comparison.main(
            Path(__file__), description, data=list(SIMULATORS), chosen_methods=everything, one=one, pages=pages
        )
    )
