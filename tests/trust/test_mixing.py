"""Neighbours' labels before and after, against a naive loop and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from codes import has_code
from imputome.errors import InputError
from imputome.trust.mixing import label_mixing, same_label_shares


def groups(n=120, distance=10.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.array(["a", "b", "b"])[np.arange(n) % 3]
    return labels, rng.standard_normal((n, 4)) + distance * (labels == "a")[:, None]


def test_share_agrees_with_a_loop():
    labels, after = groups(distance=1.0)
    before = groups(distance=2.0, seed=1)[1]
    mixing = label_mixing(labels=labels, before=before, after=after, n_neighbors=7)
    for embedding, shares in ((before, mixing.before), (after, mixing.after)):
        own = []
        for cell in range(len(labels)):
            distance = np.linalg.norm(embedding - embedding[cell], axis=1)
            distance[cell] = np.inf
            own.append((labels[np.argsort(distance)[:7]] == labels[cell]).mean())
        for label, share in zip(mixing.labels, shares, strict=True):
            assert share == pytest.approx(np.mean(np.array(own)[labels == label]))
    assert list(mixing.labels) == ["a", "b"]
    np.testing.assert_array_equal(mixing.sizes, [40, 80])
    np.testing.assert_allclose(mixing.chance, [39 / 119, 79 / 119])
    assert list(mixing.to_frame().index) == ["a", "b"]


def test_types_that_fall_together_show():
    labels, apart = groups()
    together = groups(distance=0.0)[1]
    mixing = label_mixing(labels=labels, before=apart, after=together)
    np.testing.assert_allclose(mixing.before, 1)
    np.testing.assert_allclose(mixing.after, mixing.chance, atol=0.1)


@pytest.mark.parametrize("place", [0.0, 1 / 3, 1e6])
def test_cells_in_one_place_are_mixed_by_chance(place):
    labels, apart = groups()
    mixing = label_mixing(labels=labels, before=apart, after=np.full((120, 3), place))
    np.testing.assert_allclose(mixing.after, mixing.chance)


def test_unlabelled_cells_and_many_cells():
    labels, apart = groups(n=300)
    labels = labels.astype(object)
    labels[:30] = None
    whole = label_mixing(labels=labels, before=apart, after=apart)
    assert whole.sizes.sum() == 270
    part = label_mixing(labels=labels, before=apart, after=apart, max_cells=90)
    assert part.sizes.sum() == 90
    np.testing.assert_allclose(part.before, 1)


def test_what_cannot_be_compared_is_refused():
    labels, apart = groups()
    with pytest.raises(InputError, check=has_code("too-few-labels")):
        label_mixing(labels=np.full(120, "a"), before=apart, after=apart)
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        label_mixing(labels=labels, before=apart, after=apart[:50])
    with pytest.raises(InputError, check=has_code("not-finite")):
        label_mixing(labels=labels, before=np.where(apart > 9, np.nan, apart), after=apart)


def test_shares_of_each_cell_by_a_loop():
    rng = np.random.default_rng(3)
    embedding = rng.normal(size=(40, 3))
    labels = rng.choice(["a", "b", "c"], 40).astype(object)
    labels[[4, 9]] = None
    shares = same_label_shares(labels=labels, embedding=embedding, n_neighbors=5)
    assert np.isnan(shares[[4, 9]]).all()
    others = [i for i in range(40) if labels[i] is not None]
    for i in others:
        near = sorted((np.linalg.norm(embedding[i] - embedding[j]), labels[j]) for j in others if j != i)[:5]
        assert shares[i] == np.mean([label == labels[i] for _, label in near])
