"""How much of what can be recovered is recovered: methods against known truth, on simulated real values.

    python benchmarks/limit_real.py run                 # half an hour; what is in limit_real.jsonl is not run again
    python benchmarks/limit_real.py write               # the table of docs/limits.md

A tenth of the values is hidden at random. The *share recovered* is how far a method comes on the way from the mean of
each feature, 0 %, to the best that anybody can know, 100 %, in mean squared error. The best is the expectation of each
hidden value given the known ones of its sample, under the distribution that the values were drawn from.
``METHOD@samples`` learns from ten times as many samples, and is scored on the same ones: what it gains is what learning
costs.

Letters: ``n`` samples, ``G`` features, ``K`` classes of samples.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

import comparison
import limit
from imputome.core.data import as_data

SHARE_HIDDEN = 0.1
MORE = 10  # times the samples, for what learning costs
CONTROL = "mean"
METHODS = ("knn", "svd", "soft_impute", "ppca", "beta_vae", "gaussian_copula")
LEARNING = "gaussian_copula@samples"


@dataclass(frozen=True)
class Truth:
    """What values are drawn from: a mixture of K Gaussian (or t) distributions, each feature then transformed."""

    means: np.ndarray  # (K, G)
    covariances: np.ndarray  # (K, G, G)
    forward: Callable[[np.ndarray], np.ndarray] | None = None  # from the Gaussian scale to values; None: they are equal
    degrees: float = np.inf  # of freedom, of a multivariate t

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Values (n, G), and the same on the Gaussian scale."""
        of = rng.integers(len(self.means), size=n)
        roots = [np.linalg.cholesky(covariance) for covariance in self.covariances]
        z = np.stack([roots[k] @ rng.standard_normal(self.means.shape[1]) for k in of])
        if np.isfinite(self.degrees):
            z *= np.sqrt(self.degrees / rng.chisquare(self.degrees, size=(n, 1)))
        z += self.means[of]
        return (z if self.forward is None else self.forward(z)), z

    def expected(self, z: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """(n, G) expectations of the hidden values given the known ones of each sample; known ones are not filled in.

        Within a class the hidden ones are Gaussian, with a mean that is linear in the known ones (also under t, where
        no feature is transformed); the classes have their posterior weights.
        """
        out = np.zeros(z.shape)
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        weights = weights / weights.sum()
        for row, away in enumerate(hidden):
            known = ~away
            logs, values = [], []
            for mean, covariance in zip(self.means, self.covariances, strict=True):
                inner = covariance[np.ix_(known, known)]
                gap = z[row, known] - mean[known]
                cross = covariance[np.ix_(away, known)]
                solved = np.linalg.solve(inner, np.column_stack([gap, cross.T]))
                middle = mean[away] + cross @ solved[:, 0]
                if self.forward is not None:
                    sd = np.sqrt(np.diag(covariance)[away] - np.einsum("ij,ji->i", cross, solved[:, 1:]))
                    whole = np.tile(z[row], (len(nodes), 1))
                    whole[:, away] = middle + nodes[:, None] * sd
                    middle = weights @ self.forward(whole)[:, away]
                values.append(middle)
                logs.append(-0.5 * (gap @ solved[:, 0] + np.linalg.slogdet(inner)[1]))
            share = np.exp(np.array(logs) - max(logs))
            out[row, away] = (share / share.sum()) @ np.stack(values)
        return out


def covariance(G: int, rng: np.random.Generator, *, rank: int = 10, noise: tuple[float, float] = (0.3, 0.9)) -> Any:
    """Programs of falling strength over all features, modules of ten features, and noise that differs by feature."""
    loadings = rng.standard_normal((G, rank)) / np.sqrt(1 + np.arange(rank))
    module = np.repeat(np.arange(-(-G // 10)), 10)[:G]
    shared = loadings @ loadings.T / (loadings**2).sum(axis=1).mean() + 0.5 * (module[:, None] == module)
    sd = np.sqrt(np.diag(shared))
    share = rng.uniform(*noise, size=G)  # of the variance of each feature
    return shared / np.outer(sd, sd) * np.sqrt(np.outer(1 - share, 1 - share)) + np.diag(share)


def gaussian(G: int, rng: np.random.Generator) -> Truth:
    """Values as of microarrays, on the log scale."""
    return Truth(np.zeros((1, G)), covariance(G, rng)[None])


def shares(G: int, rng: np.random.Generator) -> Truth:
    """Values between 0 and 1, many of them near an end, as methylation levels have them: a Gaussian copula."""
    centre, slope = 2.5 * rng.standard_normal(G), rng.uniform(0.5, 2, size=G)
    return Truth(np.zeros((1, G)), covariance(G, rng)[None], lambda z: expit(centre + slope * z))


def student(G: int, rng: np.random.Generator) -> Truth:
    """Heavy tails: some samples are far off in all features."""
    return Truth(np.zeros((1, G)), covariance(G, rng)[None], degrees=5.0)


def classes(G: int, rng: np.random.Generator) -> Truth:
    """Four types of samples that differ in the means of a third of the features and in the covariance."""
    means = rng.standard_normal((4, G)) * (rng.random(G) < 1 / 3)
    return Truth(means, np.stack([covariance(G, rng, rank=5) for _ in range(4)]))


# name -> (maker, samples, features)
SIMULATORS: dict[str, tuple[Any, int, int]] = {
    "gaussian 60 x 600": (gaussian, 60, 600),
    "gaussian 200 x 600": (gaussian, 200, 600),
    "gaussian 600 x 600": (gaussian, 600, 600),
    "shares 60 x 600": (shares, 60, 600),
    "shares 200 x 600": (shares, 200, 600),
    "student 200 x 600": (student, 200, 600),
    "classes 200 x 600": (classes, 200, 600),
    "classes 600 x 600": (classes, 600, 600),
}


def one(name: str, number: int, what: str) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    make, n, G = SIMULATORS[name]
    rng = np.random.default_rng([number, len(name), n])
    truth = make(G, rng)
    method, _, more = what.partition("@")
    values, z = truth.draw(n * MORE, rng)
    hidden = rng.random(values.shape) < SHARE_HIDDEN
    sd = values[:n].std(axis=0)
    begun = time.process_time()
    if method == "limit":
        found = truth.expected(z[:n], hidden[:n])
    else:
        rows = slice(None) if more else slice(n)
        seen = np.where(hidden, np.nan, values)[rows]
        result = comparison.estimator(method).fit_transform(as_data(seen, kind="real"))
        found = result.rows(np.arange(n), keep_observed=False)
    error = ((found - values[:n]) / sd)[hidden[:n]]
    return {"scores": {"loss": float(np.square(error).mean())}, "seconds": round(time.process_time() - begun, 1)}


def pages(rows: list[dict[str, Any]]) -> dict[Path, dict[str, str]]:
    columns = {name: f"`{name}`" for name in METHODS} | {LEARNING: "`gaussian_copula`, with ten times the samples"}
    made = limit.table(rows, columns, names=list(SIMULATORS), control=CONTROL)
    return {comparison.ROOT / "docs" / "limits.md": {"limit-real": made}}


if __name__ == "__main__":
    description = __doc__.splitlines()[0]
    everything = ("limit", CONTROL, *METHODS, LEARNING)
    raise SystemExit(
        comparison.main(
            Path(__file__), description, data=list(SIMULATORS), chosen_methods=everything, one=one, pages=pages
        )
    )
