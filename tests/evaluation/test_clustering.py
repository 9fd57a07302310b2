"""Agreement of labellings against its formulas, clusters of well-separated blobs, maps."""

from __future__ import annotations

import math
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome.errors import InputError, MissingExtraError
from imputome.evaluation.clustering import (
    ami,
    ari,
    cluster_scores,
    coordinates,
    expression_components,
    kmeans,
    leiden,
    nmi,
)

SCORES = (ari, ami, nmi)


def entropy(labels):
    n = len(labels)
    return -sum(c / n * math.log(c / n) for c in Counter(labels).values())


def information(a, b):
    n, left, right = len(a), Counter(a), Counter(b)
    return sum(c / n * math.log(n * c / (left[i] * right[j])) for (i, j), c in Counter(zip(a, b, strict=True)).items())


def expected_information(a, b):
    """Under the hypergeometric model (Vinh et al. 2010, eq. 24a), by the sum as printed."""
    n, total = len(a), 0.0
    for r in Counter(a).values():
        for c in Counter(b).values():
            for k in range(max(1, r + c - n), min(r, c) + 1):
                ways = math.comb(c, k) * math.comb(n - c, r - k) / math.comb(n, r)
                total += k / n * math.log(n * k / (r * c)) * ways
    return total


@pytest.fixture
def labellings():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 60)
    b = np.where(rng.random(60) < 0.6, a, rng.integers(0, 6, 60))
    return a.tolist(), b.tolist()


def test_scores_are_their_formulas(labellings):
    a, b = labellings
    ha, hb, mutual, chance = entropy(a), entropy(b), information(a, b), expected_information(a, b)
    assert nmi(truth=a, prediction=b) == pytest.approx(2 * mutual / (ha + hb))
    assert ami(truth=a, prediction=b) == pytest.approx((mutual - chance) / (max(ha, hb) - chance))
    assert ha != pytest.approx(hb)  # else max and mean would agree
    n = len(a)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    same_a, same_b = ({p for p in pairs if labels[p[0]] == labels[p[1]]} for labels in (a, b))
    chance = len(same_a) * len(same_b) / len(pairs)
    expected = (len(same_a & same_b) - chance) / ((len(same_a) + len(same_b)) / 2 - chance)
    assert ari(truth=a, prediction=b) == pytest.approx(expected)


@pytest.mark.parametrize("score", SCORES)
def test_names_of_clusters_do_not_matter(score, labellings):
    a, b = labellings
    assert score(truth=a, prediction=[f"cluster {5 - label}" for label in a]) == pytest.approx(1)
    assert score(truth=a, prediction=b) == pytest.approx(score(truth=b, prediction=a))
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        score(truth=a, prediction=b[:-1])
    with pytest.raises(TypeError):
        score(a, b)


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(1)
    labels = np.repeat(["a", "b", "c"], (60, 40, 50))
    centres = {"a": (0, 0, 0), "b": (9, 0, 0), "c": (0, 9, 9)}
    return np.array([centres[x] for x in labels]) + rng.normal(size=(150, 3)), labels


def test_kmeans_finds_blobs(blobs):
    embedding, labels = blobs
    scores = cluster_scores(labels=labels, embedding=embedding)
    assert scores == {"ari": 1.0, "ami": pytest.approx(1.0), "nmi": pytest.approx(1.0), "clusters": 3.0}


def test_cells_without_a_label_are_left_out(blobs):
    embedding, labels = blobs
    labels = labels.astype(object)
    labels[:20] = None
    labels[60:65] = np.nan
    far = embedding.copy()
    far[:20] += 1000
    assert cluster_scores(labels=labels, embedding=far)["ari"] == 1.0


def test_seed_decides(blobs):
    embedding, _ = blobs
    first = kmeans(embedding, n_clusters=7, random_state=3)
    np.testing.assert_array_equal(first, kmeans(embedding, n_clusters=7, random_state=3))


def test_expression_is_logged_before_its_components():
    rng = np.random.default_rng(2)
    values = rng.gamma(0.5, 20.0, (30, 12)) * (rng.random((30, 12)) < 0.5)
    logged = np.log1p(values)
    logged -= logged.mean(axis=0)
    left, size, _ = np.linalg.svd(logged, full_matrices=False)
    for given in (values, sp.csr_array(values)):
        components = expression_components(given, n_components=4)
        np.testing.assert_allclose(np.abs(components), np.abs(left[:, :4] * size[:4]), rtol=1e-6, atol=1e-8)
    assert expression_components(values).shape == (30, 11)  # as many as there can be
    with pytest.raises(InputError, check=has_code("not-finite")):
        expression_components(values - 5)


def test_expression_values_are_clustered_in_their_components():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 40)
    rates = np.where(labels[:, None] == np.arange(60) % 2, 30.0, 2.0)
    values = rng.poisson(rates).astype(float)
    assert cluster_scores(labels=labels, values=sp.csr_array(values))["ari"] == 1.0
    with pytest.raises(InputError, check=has_code("pass-one-of-two")):
        cluster_scores(labels=labels, values=values, embedding=values)
    with pytest.raises(InputError, check=has_code("length-mismatch")):
        cluster_scores(labels=labels[:-1], values=values)
    with pytest.raises(InputError, check=has_code("too-few-labels")):
        cluster_scores(labels=np.zeros(80), values=values)


@pytest.mark.skipif(find_spec("igraph") is None, reason="needs igraph")
@pytest.mark.parametrize("n_clusters", [2, 3, 8])
def test_leiden_seeks_the_number_of_clusters(blobs, n_clusters):
    embedding, labels = blobs
    clusters = leiden(embedding, n_clusters=n_clusters)
    # neighbours make three islands: no resolution joins them into two
    assert abs(len(set(clusters)) - n_clusters) <= 1
    if n_clusters == 3:
        assert ari(truth=labels, prediction=clusters) == 1.0
        assert cluster_scores(labels=labels, embedding=embedding, method="leiden")["clusters"] == 3


def test_leiden_without_igraph_names_the_extra(blobs, monkeypatch):
    monkeypatch.setattr("imputome.evaluation.clustering.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, check=has_code("missing-extra")):
        leiden(blobs[0], n_clusters=3)


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_maps_keep_blobs_apart(blobs, method):
    embedding, labels = blobs
    positions = coordinates(embedding, method=method, random_state=1)
    assert positions.shape == (150, 2)
    np.testing.assert_array_equal(positions, coordinates(embedding, method=method, random_state=1))
    assert ari(truth=labels, prediction=kmeans(positions, n_clusters=3)) > 0.9
    assert np.isfinite(coordinates(embedding[:8], method=method)).all()
    with pytest.raises(InputError, check=has_code("parameter-value")):
        coordinates(embedding, method="pca")
