"""Methods for real values on wide tables, as those of methylation arrays: seconds, memory and error by features.

    python benchmarks/wide.py run --splits 1     # half an hour; what is in wide.jsonl already is not run again
    python benchmarks/wide.py write              # the table of docs/scaling.md

Samples are drawn from a Gaussian with `RANK` factors and noise, fitted to the M-values (logits) of 880 gliomas x 1,205
CpGs, and returned as beta values. CpGs are drawn again from these 1,205, each with other loadings around those of its
model, so that no two are alike. 5 % of the values are missing at random, and all of them are scored: the RMSE, in
standard deviations of the CpG. Seconds are processor time of the fit and of the missing values, without making the
data; the peak is that of the process with the data. scikit-learn's imputers get z-scores; `IterativeImputer` has 20
predictors for each feature.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import comparison
from imputome import datasets
from imputome.core.data import Data, as_data
from imputome.core.links import link
from imputome.core.scales import Standard
from imputome.inspection.advice import advised_method
from peers import peak_bytes

SIZES = {  # name -> samples, features
    "100 x 10k": (100, 10_000),
    "100 x 100k": (100, 100_000),
    "100 x 200k": (100, 200_000),
    "456 x 100k": (456, 100_000),
    "456 x 866k": (456, 866_000),
}
RANK = 60
PERTURBED = 0.3  # size of what is added to the loadings of a CpG, relative to their own
SHARE = 0.05  # of missing values
BLOCK = 4096  # features
METHODS = ("mean", "knn", "svd", "soft_impute", "gaussian_copula", "default")
PEERS = ("sklearn:KNNImputer", "sklearn:IterativeImputer")


def simulated(n: int, G: int, seed: int) -> tuple[Data, np.ndarray, np.ndarray, np.ndarray]:
    """Beta values with missing ones, and the rows, columns and true values of these."""
    to_m = link("logit")
    real = to_m.forward(np.asarray(datasets.load("tcga_glioma_meth_880x1205").X, dtype=np.float64))
    mean, sd = real.mean(axis=0), real.std(axis=0)
    _, s, loadings = np.linalg.svd((real - mean) / sd, full_matrices=False)
    loadings = (loadings[:RANK].T * s[:RANK] / np.sqrt(len(real))).astype(np.float32)  # (CpGs, RANK)
    rng = np.random.default_rng([seed, n, G])
    factors = rng.standard_normal((n, RANK), dtype=np.float32)
    X, hidden = np.empty((n, G), np.float32), []
    for start in range(0, G, BLOCK):
        model = rng.integers(0, len(loadings), min(G, start + BLOCK) - start)
        own = loadings[model]
        size = np.linalg.norm(own, axis=1, keepdims=True)  # its square is the variance that the factors explain
        own = own + PERTURBED * size / np.sqrt(RANK) * rng.standard_normal(own.shape, dtype=np.float32)
        noise = np.sqrt(np.maximum(1 - size**2, 0.02)).T * rng.standard_normal((n, len(model)), dtype=np.float32)
        beta = to_m.inverse(mean[model] + sd[model] * (factors @ own.T + noise)).astype(np.float32)
        i, j = np.nonzero(rng.random(beta.shape, dtype=np.float32) < SHARE)
        hidden.append((i.astype(np.int32), (j + start).astype(np.int32), beta[i, j]))
        beta[i, j] = np.nan
        X[:, start : start + len(model)] = beta
    i, j, truth = (np.concatenate(part) for part in zip(*hidden, strict=True))
    return as_data(X, kind="real"), i, j, truth


def one(name: str, number: int, method: str) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    n, G = SIZES[name]
    data, i, j, truth = simulated(n, G, number)
    standard = Standard.of(data.X)
    before = peak_bytes()
    begun, wall = time.process_time(), time.perf_counter()
    found: dict[str, Any] = {}
    if method.startswith("sklearn:"):
        values = peer(method.removeprefix("sklearn:"), standard.forward(data.X))[i, j]
        values = values * standard.scale[j] + standard.center[j]
    else:
        if method == "default":
            method = found["chosen"] = advised_method(n, G, SHARE)[0]
        result = comparison.estimator(method).fit_transform(data)
        values = result.at(i, j)
        found["status"] = result.status.message[:200]
    found |= {
        "seconds": round(time.process_time() - begun, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "peak_bytes": peak_bytes(),
        "peak_of_data_bytes": before,
    }
    errors = (values - truth) / standard.scale[j]
    return {"scores": {"rmse_sd": float(np.sqrt(np.mean(np.square(errors))))}, **found}


def peer(name: str, Z: np.ndarray) -> np.ndarray:
    """The completed z-scores of an imputer of scikit-learn."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer

    if name == "KNNImputer":
        return np.asarray(KNNImputer(n_neighbors=10, weights="distance").fit_transform(Z))
    return np.asarray(IterativeImputer(n_nearest_features=20, random_state=0).fit_transform(Z))


def size_table(rows: list[dict[str, Any]]) -> str:
    """A row for each method, and for each size the error, the seconds and the peak in GiB."""
    body = []
    for method in dict.fromkeys((*METHODS, *PEERS, *(row["method"] for row in rows))):
        cells = []
        for name in SIZES:
            own = [row for row in rows if (row["data"], row["method"]) == (name, method)]
            done = [row for row in own if "scores" in row]
            if not done:
                cells.append(own[0]["failed"][:40] if own else "")
                continue
            error = comparison.spread([row["scores"]["rmse_sd"] for row in done], 4)
            seconds = statistics.median(row["seconds"] for row in done)
            peak = statistics.median(row["peak_bytes"] for row in done) / 2**30
            cells.append(f"{error}, {seconds:,.0f} s, {peak:.1f} GiB")
        if any(cells):
            body.append([f"`{method}`", *cells])
    return comparison.table(["", *SIZES], body)


def wanted(name: str, number: int, method: str) -> bool:
    """The imputers of scikit-learn on the smallest table only."""
    return not method.startswith("sklearn:") or SIZES[name][1] <= 10_000


def pages(rows: list[dict[str, Any]]) -> dict[Path, dict[str, str]]:
    return {comparison.ROOT / "docs" / "scaling.md": {"wide": size_table(rows)}}


if __name__ == "__main__":
    sys.exit(
        comparison.main(
            Path(__file__).resolve(),
            __doc__.splitlines()[0],
            data=list(SIZES),
            chosen_methods=(*METHODS, *PEERS),
            one=one,
            pages=pages,
            wanted=wanted,
        )
    )
