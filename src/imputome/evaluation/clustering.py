"""Whether imputed cells fall into their known types: clustering, its agreement with labels, and maps to look at.

Letters: ``n`` cells, ``G`` genes, ``d`` dimensions of an embedding.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from imputome.errors import InputError, missing_extra
from imputome.evaluation.arguments import check_choice, check_finite, check_length, matrix, pair

KMEANS_STARTS = 25
N_COMPONENTS = 50
MAX_RESOLUTIONS = 25  # resolutions that `leiden` tries

Clusterer = Literal["kmeans", "leiden"]
Space = Literal["components", "genes"]  # in which cells of `values` are clustered


def ari(*, truth: Any, prediction: Any) -> float:
    """Adjusted Rand index of two labellings: 1 is perfect agreement, 0 is expected by chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_labels(truth, prediction)))


def ami(*, truth: Any, prediction: Any) -> float:
    """Adjusted mutual information (I - E[I]) / (max(H1, H2) - E[I]), as in the R package aricode."""
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(*_labels(truth, prediction), average_method="max"))


def nmi(*, truth: Any, prediction: Any) -> float:
    """Normalised mutual information 2 I / (H1 + H2): the arithmetic mean of the entropies."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_labels(truth, prediction), average_method="arithmetic"))


AGREEMENT = {"ari": ari, "ami": ami, "nmi": nmi}


def expression_components(values: Any, *, n_components: int = N_COMPONENTS, random_state: int = 0) -> np.ndarray:
    """(n, k) principal components of ln(1 + normalised expression), genes centred but not scaled.

    ``values`` is expression on scale ``normalized`` (per 10,000 molecules), without logarithm, dense or sparse:
    ``imputation.to_array(scale="normalized")``. k is ``n_components``, or less if n or G does not allow it.
    """
    from sklearn.decomposition import PCA

    logged = log_expression(values)
    k = min(n_components, min(logged.shape) - 1)
    if k < 1:
        raise InputError(
            f"{logged.shape[0]} x {logged.shape[1]} values have no principal components: pass at least 2 x 2",
            code="too-few-values",
            parameter="values",
        )
    solver = "auto" if isinstance(logged, np.ndarray) else "arpack"
    return np.asarray(PCA(k, svd_solver=solver, random_state=random_state).fit_transform(logged))


def log_expression(values: Any) -> Any:
    """ln(1 + normalised expression) of `expression_components`, (n, G), dense or sparse as ``values`` are."""
    import scipy.sparse as sp

    sparse = sp.issparse(values)
    values = values if sparse else matrix("values", values)
    stored = values.data if sparse else values
    if not np.isfinite(stored).all() or (stored.size and stored.min() < 0):
        raise InputError(
            "values holds NaN, infinite or negative numbers: pass normalized expression, or real values as {embedding}",
            code="not-finite",
            parameter="values",
            embedding=...,
        )
    return sp.csr_array(values).log1p() if sparse else np.log1p(values)


def kmeans(embedding: np.ndarray, *, n_clusters: int, random_state: int = 0) -> np.ndarray:
    """(n,) cluster of every cell: the best of 25 starts of k-means."""
    from sklearn.cluster import KMeans

    embedding = _embedding(embedding, n_clusters)
    return np.asarray(KMeans(n_clusters, n_init=KMEANS_STARTS, random_state=random_state).fit_predict(embedding))


def leiden(embedding: np.ndarray, *, n_clusters: int, n_neighbors: int = 15, random_state: int = 0) -> np.ndarray:
    """(n,) Leiden cluster of every cell, at a resolution that gives ``n_clusters`` if one is found.

    The graph is scanpy's (fuzzy kNN), the objective modularity, by igraph. The number of clusters rises with the
    resolution, but not strictly. So the resolution is bracketed and halved on the log scale, in 25 steps at most, and
    the clustering with the closest number of clusters is returned. Count the labels if the number must be exact.
    """
    if find_spec("igraph") is None:
        raise missing_extra("Leiden clustering", "igraph", "leiden")
    import anndata as ad
    import scanpy as sc

    embedding = _embedding(embedding, n_clusters)
    cells = ad.AnnData(obsm={"embedding": embedding})
    neighbors = min(n_neighbors, len(embedding) - 1)
    sc.pp.neighbors(cells, n_neighbors=neighbors, use_rep="embedding", random_state=random_state)
    low, high = 1e-3, 1.0
    best, distance, bracketed = np.zeros(len(embedding), dtype=np.int64), np.inf, False
    resolution = high
    for _ in range(MAX_RESOLUTIONS):
        sc.tl.leiden(
            cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=random_state
        )
        labels = cells.obs["leiden"].cat.codes.to_numpy().astype(np.int64)
        number = int(labels.max()) + 1
        if abs(number - n_clusters) < distance:
            best, distance = labels, abs(number - n_clusters)
        if distance == 0:
            break
        if number < n_clusters:
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
    space: Space = "components",
    random_state: int = 0,
) -> dict[str, float]:
    """``ari``, ``ami``, ``nmi`` of clusters with known cell types, and the number of ``clusters``.

    Cells are clustered by their ``embedding`` (n, d) as it is (a latent space, or real values), or by ``values``
    (n, G): by their 50 `expression_components`, or with ``space="genes"`` by the whole `log_expression`, dense, as in
    papers 000 (section 4.9) and 002. "kmeans" has 25 starts and as many clusters as types, "leiden" a resolution for
    this number (`leiden`). Cells without a label (None, NaN) are left out before clustering.

    The starts of k-means are those of k-means++ and its steps Lloyd's, where R's ``kmeans`` of paper 000 has random
    cells and Hartigan's steps: both keep the best of 25.

    Examples
    --------
    >>> import numpy as np
    >>> embedding = np.array([[0.0, 0.1], [0.1, 0.0], [5.0, 5.1], [5.1, 5.0]])
    >>> scores = cluster_scores(labels=["T", "T", "B", "B"], embedding=embedding)
    >>> scores["ari"], scores["clusters"]
    (1.0, 2.0)
    """
    import pandas as pd

    if (embedding is None) == (values is None):
        raise InputError(
            "pass either {embedding} or {values}",
            code="pass-one-of-two",
            embedding=...,
            values=...,
        )
    check_choice("method", method, ("kmeans", "leiden"))
    check_choice("space", space, ("components", "genes"))
    codes, types = pd.factorize(pd.Series(np.asarray(labels)))
    features = values if embedding is None else np.asarray(embedding)
    check_length("labels", codes, features.shape[0])
    if len(types) < 2:
        raise InputError(
            f"labels has {len(types)} types of cells: pass two or more", code="too-few-labels", parameter="labels"
        )
    labelled = np.flatnonzero(codes >= 0)
    features = features[labelled]
    if embedding is None and space == "genes":
        features = log_expression(features)
        features = features if isinstance(features, np.ndarray) else features.toarray()
    elif embedding is None:
        features = expression_components(features, random_state=random_state)
    cluster = kmeans if method == "kmeans" else leiden
    clusters = cluster(features, n_clusters=len(types), random_state=random_state)
    agreement = {name: score(truth=codes[labelled], prediction=clusters) for name, score in AGREEMENT.items()}
    return {**agreement, "clusters": float(len(np.unique(clusters)))}


def coordinates(values: np.ndarray, *, method: Literal["umap", "tsne"] = "umap", random_state: int = 0) -> np.ndarray:
    """(n, 2) positions of at least five cells on a map of their embedding; distances on it must not be interpreted."""
    check_choice("method", method, ("umap", "tsne"))
    values = _embedding(values)
    n = len(values)
    if n < 5:
        raise InputError(
            f"{n} cells are too few for a map: pass at least five", code="too-few-values", parameter="values"
        )
    if method == "umap":
        import umap  # type: ignore[import-untyped]

        init = "spectral" if n > 10 else "random"  # the spectral start fails on fewer cells
        # with a seed umap uses one thread, and warns if asked for more
        mapper = umap.UMAP(n_neighbors=min(15, n - 1), random_state=random_state, n_jobs=1, init=init)
        return np.asarray(mapper.fit_transform(values))
    from sklearn.manifold import TSNE

    mapper = TSNE(2, perplexity=min(30.0, (n - 1) / 3), init="pca", random_state=random_state)
    return np.asarray(mapper.fit_transform(values))


def _embedding(values: np.ndarray, n_clusters: int = 1) -> np.ndarray:
    """The embedding as an array, after checks of it and of the number of clusters."""
    values = matrix("embedding", values, "cells x dimensions")
    check_finite("embedding", values)
    if not 1 <= n_clusters <= len(values):
        raise InputError(
            f"n_clusters={n_clusters} must be from 1 to {len(values)}, the number of cells",
            code="parameter-value",
            parameter="n_clusters",
        )
    return values


def _labels(truth: Any, prediction: Any) -> tuple[np.ndarray, np.ndarray]:
    truth, prediction = pair(truth, prediction)
    if truth.size == 0:
        raise InputError("there are no cells to score", code="nothing-to-score")
    return truth, prediction
