"""Which missing values can be imitated by hiding others, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from imputome.evaluation.patterns import MOST_HIDDEN, repeated_gaps, repeated_holes
from imputome.inspection.missingness import MIN_SAMPLES_TO_LEARN, missingness, unlinked


def by_brute_force(known):
    alone = total = 0
    for i in range(len(known)):
        for j in range(known.shape[1]):
            if known[i, j] or not known[i].any() or not known[:, j].any():
                continue
            total += 1
            linking = [k for k in range(len(known)) if known[k, j] and (known[k] & known[i]).any()]
            alone += len(linking) < MIN_SAMPLES_TO_LEARN
    return alone / total if total else 0.0


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3, 0.9])
def test_unlinked_by_brute_force(share):
    rng = np.random.default_rng(0)
    known = rng.random((25, 30)) < share
    assert unlinked(known) == pytest.approx(by_brute_force(known))


def arrays(n=60, G=40, shared=0):
    """Two arrays that share the first features."""
    first, place = np.arange(n) < n // 2, np.arange(G)
    return (place < shared) | (first[:, None] == (place < shared + (G - shared) // 2))


def test_arrays_without_a_shared_feature_are_not_linked():
    assert unlinked(arrays()) == 1.0
    assert unlinked(arrays(shared=1)) == 0.0
    bridged = arrays()
    bridged[0] = True  # one sample on both arrays is too little to learn from
    assert unlinked(bridged) > 0.9
    bridged[:3] = True
    assert unlinked(bridged) < 0.1
    assert unlinked(np.ones((5, 5), dtype=bool)) == 0.0
    empty = np.ones((20, 5), dtype=bool)
    empty[0], empty[:, 0] = False, False
    assert unlinked(empty) == 0.0  # values without any neighbour do not count: every method falls back there


def test_the_report_says_what_nothing_is_known_about():
    X = np.random.default_rng(0).normal(size=(60, 40))
    report = missingness(np.where(arrays(), X, np.nan))
    assert report.unlinked == 1.0
    assert report.advice.method == "mean"
    assert report.advice.notes[0].code == "unlinked-values"
    report = missingness(np.where(arrays(shared=10), X, np.nan))
    assert (report.unlinked, report.advice.method) == (0.0, "gaussian_copula")


def test_enough_is_left():
    known = arrays(n=100, G=60, shared=20)
    hidden = repeated_gaps(known, 1e9, np.random.default_rng(0))
    for rows in (slice(50), slice(50, 100)):
        assert hidden[rows].any(axis=0).sum() == MOST_HIDDEN * 20  # of the shared features, in each group
        assert (hidden[rows].all(axis=0) == hidden[rows].any(axis=0)).all()  # the whole group or nothing
    assert not hidden[:, 20:].any()
    panel = (np.arange(100) < 30)[:, None] | (np.arange(60) < 12)
    hidden = repeated_holes(panel, 1e9, np.random.default_rng(0))
    assert hidden.any(axis=1).sum() == MOST_HIDDEN * 30
    assert hidden[:30, 12:].any(axis=0).all()
    assert not hidden[:, :12].any()
    assert not repeated_holes(known, 1e9, np.random.default_rng(0)).any()  # no sample has most of what another has


def test_a_number_is_enough():
    panel = (np.arange(100) < 30)[:, None] | (np.arange(60) < 12)
    assert repeated_holes(panel, 1, np.random.default_rng(0)).sum() == 48
    recipients = np.array([3, 50])
    assert np.flatnonzero(repeated_holes(panel, 1e9, np.random.default_rng(0), recipients=recipients).any(axis=1)) == [
        3
    ]
