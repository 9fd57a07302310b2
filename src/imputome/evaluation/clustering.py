"""Whether imputed cells fall into their known types: clustering, its agreement with labels, and maps to look at.

Letters: ``n`` cells, ``d`` dimensions of an embedding.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from imputome.errors import InputError, missing_extra

N_INIT = 25  # starts of k-means
COMPONENTS = 50
SEARCH = 25  # clusterings tried in the search for a resolution

Clusterer = Literal["kmeans", "leiden"]


def ari(*, truth: Any, prediction: Any) -> float:
    """Adjusted Rand index of two labellings: 1 is agreement, 0 what chance gives."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_labels(truth, prediction)))


def ami(*, truth: Any, prediction: Any) -> float:
    """Adjusted mutual information (I - E[I]) / (max(H1, H2) - E[I]): the average of the R package aricode."""
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(*_labels(truth, prediction), average_method="max"))


def nmi(*, truth: Any, prediction: Any) -> float:
    """Normalised mutual information 2 I / (H1 + H2), by the arithmetic mean of the entropies."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_labels(truth, prediction), average_method="arithmetic"))


def expression_components(values: Any, *, n_components: int = COMPONENTS, random_state: int = 0) -> np.ndarray:
    """(n, k) principal components of ln(1 + normalised expression), genes centred and not scaled.

    Parameters
    ----------
    values : (n, G) dense or sparse, on scale ``normalized`` (per 10,000 of the library), not logged yet:
        ``imputation.to_array(scale="normalized")``.
    n_components : k, cut to what n and G allow.
    """
    import scipy.sparse as sp
    from sklearn.decomposition import PCA

    sparse = sp.issparse(values)
    values = values if sparse else np.asarray(values)
    if values.ndim != 2:
        raise InputError(f"values must be a matrix of cells x genes, not an array of shape {values.shape}")
    stored = values.data if sparse else values
    if not np.isfinite(stored).all() or (stored.size and stored.min() < 0):
        raise InputError(
            "values must be finite and not negative: pass scale='normalized', or real values as embedding="
        )
    k = min(n_components, min(values.shape) - 1)
    if k < 1:
        raise InputError(f"{values.shape[0]} cells x {values.shape[1]} genes have no principal components: pass more")
    logged = sp.csr_array(values).log1p() if sparse else np.log1p(values)
    solver = "arpack" if sparse else "auto"
    return np.asarray(PCA(k, svd_solver=solver, random_state=random_state).fit_transform(logged))


def kmeans(embedding: np.ndarray, *, n_clusters: int, random_state: int = 0) -> np.ndarray:
    """(n,) cluster of every cell: the best of 25 starts of k-means."""
    from sklearn.cluster import KMeans

    embedding = _embedding(embedding)
    if not 1 <= n_clusters <= len(embedding):
        raise InputError(f"n_clusters is {n_clusters}: pass 1 to {len(embedding)}, the number of cells")
    return np.asarray(KMeans(n_clusters, n_init=N_INIT, random_state=random_state).fit_predict(embedding))


def leiden(embedding: np.ndarray, *, n_clusters: int, n_neighbors: int = 15, random_state: int = 0) -> np.ndarray:
    """(n,) Leiden cluster of every cell, the resolution sought so that there are ``n_clusters``.

    The graph is scanpy's (fuzzy kNN), the objective modularity, by igraph. The number of clusters rises with the
    resolution, if not strictly: it is bracketed and halved on the log scale, 25 clusterings at most, and of those tried
    the one with the nearest number is returned. Compare the number of labels where it must be exact.
    """
    if find_spec("igraph") is None:
        raise missing_extra("Leiden clustering", "igraph", "leiden")
    import anndata as ad
    import scanpy as sc

    embedding = _embedding(embedding)
    if not 1 <= n_clusters <= len(embedding):
        raise InputError(f"n_clusters is {n_clusters}: pass 1 to {len(embedding)}, the number of cells")
    cells = ad.AnnData(obsm={"embedding": embedding})
    neighbors = min(n_neighbors, len(embedding) - 1)
    sc.pp.neighbors(cells, n_neighbors=neighbors, use_rep="embedding", random_state=random_state)
    low, high = 1e-3, 1.0
    best, distance, bracketed = np.zeros(len(embedding), dtype=np.int64), np.inf, False
    resolution = high
    for _ in range(SEARCH):
        sc.tl.leiden(
            cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=random_state
        )
        labels = cells.obs["leiden"].cat.codes.to_numpy().astype(np.int64)
        found = int(labels.max()) + 1
        if abs(found - n_clusters) < distance:
            best, distance = labels, abs(found - n_clusters)
        if distance == 0:
            break
        if found < n_clusters:
            low = resolution
            if not bracketed:
                high = resolution = 2 * resolution
                continue
        else:
            high, bracketed = resolution, True
        resolution = float(np.sqrt(low * high))
    return best


def cluster_scores(
    *,
    labels: Any,
    embedding: np.ndarray | None = None,
    values: Any = None,
    method: Clusterer = "kmeans",
    random_state: int = 0,
) -> dict[str, float]:
    """Agreement of clusters with known types: ``ari``, ``ami``, ``nmi`` and the number of ``clusters`` found.

    Parameters
    ----------
    labels : (n,) known types; cells without one (None, NaN) are left out before clustering.
    embedding : (n, d) what is clustered, as it is: a latent space, or real values.
    values : instead, (n, G) expression on scale ``normalized``, clustered in its 50 `expression_components`.
    method : ``"kmeans"`` (25 starts, as many clusters as types) or ``"leiden"`` (resolution sought for that number).
    """
    import pandas as pd

    if (embedding is None) == (values is None):
        raise InputError("cluster_scores needs an embedding or expression values: pass one of the two")
    if method not in ("kmeans", "leiden"):
        raise InputError(f"unknown clustering {method!r}: choose kmeans or leiden")
    codes, types = pd.factorize(pd.Series(np.asarray(labels)))
    what = values if embedding is None else np.asarray(embedding)
    if what.shape[0] != len(codes):
        raise InputError(f"{len(codes)} labels were given for {what.shape[0]} cells: pass one for each")
    labelled = np.flatnonzero(codes >= 0)
    if len(types) < 2:
        raise InputError(f"there are {len(types)} types of cells: two are needed to score clusters")
    what = what[labelled]
    if embedding is None:
        what = expression_components(what, random_state=random_state)
    cluster = kmeans if method == "kmeans" else leiden
    found = cluster(what, n_clusters=len(types), random_state=random_state)
    truth = codes[labelled]
    return {
        "ari": ari(truth=truth, prediction=found),
        "ami": ami(truth=truth, prediction=found),
        "nmi": nmi(truth=truth, prediction=found),
        "clusters": float(len(np.unique(found))),
    }


def coordinates(values: np.ndarray, *, method: Literal["umap", "tsne"] = "umap", random_state: int = 0) -> np.ndarray:
    """(n, 2) positions for a picture of the (n, d) embedding ``values``; distances in it are not to be read."""
    values = _embedding(values)
    n = len(values)
    if n < 5:
        raise InputError(f"{n} cells are too few for a map: five are needed")
    if method == "umap":
        import umap  # type: ignore[import-untyped]

        # one thread: with a seed umap allows no more, and warns
        mapper = umap.UMAP(n_neighbors=min(15, n - 1), random_state=random_state, n_jobs=1, init=_start(values))
        return np.asarray(mapper.fit_transform(values))
    if method == "tsne":
        from sklearn.manifold import TSNE

        mapper = TSNE(2, perplexity=min(30.0, (n - 1) / 3), init="pca", random_state=random_state)
        return np.asarray(mapper.fit_transform(values))
    raise InputError(f"unknown map {method!r}: choose umap or tsne")


def _start(values: np.ndarray) -> str:
    """Spectral layout needs more cells than a handful; it fails on fewer with an error from deep inside."""
    return "spectral" if len(values) > 10 else "random"


def _embedding(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2:
        raise InputError(f"an embedding is a matrix of cells x dimensions, not an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise InputError("the embedding holds NaN or infinite values: impute them first")
    return values


def _labels(truth: Any, prediction: Any) -> tuple[np.ndarray, np.ndarray]:
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape or truth.ndim != 1:
        raise InputError(
            f"truth has shape {truth.shape}, prediction {prediction.shape}: pass two flat labellings of one length"
        )
    if truth.size == 0:
        raise InputError("there are no cells to score")
    return truth, prediction
