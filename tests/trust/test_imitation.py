"""The check hides values as they are missing: simulated blocks with known truth, and real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import imputome
from imputome.core.data import as_data
from imputome.inspection.tails import low_strength
from imputome.methods import create
from imputome.trust.check import check, warn_of_absent_genes
from imputome.trust.imitation import imitation_of
from imputome.trust.verdict import WITHHELD


def factors(rng, n=200, G=60, noise=0.5):
    return rng.normal(size=(n, 3)) @ rng.normal(size=(3, G)) + noise * rng.normal(size=(n, G))


def arrays(n, G, shared):
    """True where a value is missing: two arrays, the first features are on both."""
    place = np.arange(G)
    return (place >= shared) & ((np.arange(n) < n // 2)[:, None] == (place < shared + (G - shared) // 2))


def panel(n, G, size):
    return (np.arange(n) >= n // 3)[:, None] & (np.arange(G) >= size)


def copula():
    return create("gaussian_copula", {"mode": "fast"}, random_state=0)


def judged(X, missing):
    return check(as_data(np.where(missing, np.nan, X), kind="real"), copula())


def explained(X, missing):
    """The truth: 1 - squared error of the method over that of the mean, in standard deviations of the feature."""
    holes = np.where(missing, np.nan, X)
    imputed = copula().fit_transform(as_data(holes, kind="real")).to_array()
    gap = ((imputed - X) / X.std(axis=0))[missing]
    reference = ((np.nanmean(holes, axis=0) - X) / X.std(axis=0))[missing]
    return 1 - np.square(gap).sum() / np.square(reference).sum()


def test_nothing_in_common_is_withheld():
    rng = np.random.default_rng(0)
    X = factors(rng, 120, 40)
    missing = arrays(120, 40, 0)
    assert explained(X, missing) < 0.05
    three = (np.arange(120) % 3)[:, None] != (np.arange(40) * 3 // 40)
    for holes in (missing, missing | (rng.random(missing.shape) < 0.05), three):
        verdict = judged(X, holes)
        assert verdict.verdict == WITHHELD
        assert "pattern" in verdict.failed
        assert verdict.figures["unlinked"] > 0.9


@pytest.mark.parametrize("make", [lambda: arrays(120, 40, 14), lambda: panel(120, 40, 10)])
def test_merged_arrays_and_panels_are_judged_as_they_are_missing(make):
    """Explained is predicted within 10 points; with values hidden at random it would be 0.6."""
    rng = np.random.default_rng(1)
    X, missing = factors(rng, 120, 40, noise=1.0), make()
    verdict = judged(X, missing)
    assert verdict.held_out.startswith("blocks")
    assert verdict.figures["explained"] == pytest.approx(explained(X, missing), abs=0.1)
    assert any("blocks" in reason for reason in verdict.reasons)


def test_groups_that_differ_are_seen():
    """A batch 3 SD away: values hidden at random in the other batch cannot show it."""
    rng = np.random.default_rng(2)
    X = factors(rng)
    X[:100] += 2 * rng.normal(size=60)
    missing = arrays(200, 60, 20)
    truth = explained(X, missing)
    figures = judged(X, missing).figures
    at_random = judged(X, rng.random(X.shape) < 0.3).figures
    assert at_random["explained"] > 0.8
    assert truth < 0.6
    assert figures["explained"] == pytest.approx(truth, abs=0.2)
    assert figures["coverage_lowest"] < 0.7


def test_patterns_and_their_schemes():
    rng = np.random.default_rng(0)
    X = factors(rng)

    def scheme(missing):
        return str(imitation_of(as_data(np.where(missing, np.nan, X), kind="real")))

    assert scheme(np.zeros(X.shape, dtype=bool)) == "mcar"
    assert scheme(rng.random(X.shape) < 0.1) == "mcar"
    assert scheme(rng.random(X.shape) < rng.beta(0.5, 3, 60)) == "rates"
    assert scheme(rng.random(X.shape) < rng.beta(0.5, 3, (200, 1))) == "rates"
    assert scheme(arrays(200, 60, 20)) == "blocks (by=features)"
    assert scheme(panel(200, 60, 20)) == "blocks (by=features, by=samples)"
    assert scheme(panel(200, 60, 20) & (np.arange(60) < 50)) == "blocks (by=features, by=samples)"
    low = np.quantile(X, 0.2, axis=0) > X
    assert scheme(low & (rng.random(X.shape) < 0.8)).startswith("rates (low=")


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
def test_strength_of_missing_low_values_is_found(strength):
    """Odds of exp(-strength * z) for z the rank score: the related features show the number."""
    found = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X = factors(rng, n=600, noise=0.3)
        score = (X.argsort(axis=0).argsort(axis=0) / 600 - 0.5) * np.sqrt(12)
        odds = 0.1 * np.exp(-strength * score)
        found.append(low_strength(np.where(rng.random(X.shape) < odds / (1 + odds), np.nan, X)))
    assert np.mean(found) == pytest.approx(strength, abs=0.1 + 0.3 * strength)


def test_intervals_are_judged_on_low_values_too():
    rng = np.random.default_rng(3)
    X = factors(rng, n=160, G=40, noise=1.0)
    missing = (np.quantile(X, 0.25, axis=0) > X) & (rng.random(X.shape) < 0.8)
    verdict = judged(X, missing)
    assert verdict.held_out.startswith("rates (low=")
    imputation = copula().fit_transform(as_data(np.where(missing, np.nan, X), kind="real"))
    i, j = np.nonzero(missing)
    lower, upper = (imputation.at(i, j, output=end) for end in ("lower", "upper"))
    truth = np.mean((lower <= X[i, j]) & (X[i, j] <= upper))
    assert truth < 0.8
    assert verdict.figures["coverage_lowest"] < 0.85
    assert verdict.verdict != "use"


def test_the_file_that_was_called_use():
    path = Path(__file__).resolve().parents[3] / "shared" / "faults" / "block_pattern_no_shared_probe.csv"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    X = pd.read_csv(path, index_col=0).T.to_numpy()
    verdict = check(as_data(X, kind="real"), copula())
    assert verdict.verdict == WITHHELD
    assert verdict.failed == ("pattern",)


def test_genes_without_a_molecule_in_one_label():
    rng = np.random.default_rng(0)
    X = rng.poisson(6.0, size=(90, 30)).astype(np.float32)
    batch = np.repeat(["a", "b", "c"], 30).astype(object)
    data = as_data(X, kind="counts")
    assert warn_of_absent_genes(data, {"batch": batch}) == []
    X[:30, :4] = 0
    (message,) = warn_of_absent_genes(as_data(X, kind="counts"), {"batch": batch})
    assert message.code == "absent-in-label"
    assert message.startswith("4 genes")
    X[30:60, :4] = [[1]] + [[0]] * 29  # low there: not clear-cut, as between types of cells
    assert warn_of_absent_genes(as_data(X, kind="counts"), {"batch": batch}) == []
    adata = imputome.datasets.pbmc68k()
    assert warn_of_absent_genes(as_data(adata.X, kind="counts"), {"type": np.asarray(adata.obs.iloc[:, 0])}) == []
