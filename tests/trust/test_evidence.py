"""Evidence for and against imputing: gathered on data with structure, on permuted genes, and on real values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.methods.registry import METHODS
from imputome.trust.evidence import LOSS, gather, hold_out, sample_cells, scores
from imputome.trust.null import permute_genes


def predicting(name, **params):
    return lambda data: methods.get(name)(**params).fit_transform(data)


CONTROLS = {name: predicting(name) for name in ("no_imputation", "gene_mean", "gene_mean_posterior")}
FACTORS = predicting("poisson_nmf", n_components=4, posterior=True)


def counts(n=300, G=80, seed=0):
    """Three types of cells, each with genes of its own; and the types."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    rate = rng.gamma(2.0, 1.0, G) * np.where(np.arange(G) % 6 == kind[:, None], 5.0, 1.0)
    return as_data(sp.csr_array(rng.poisson(rate).astype(np.float32)), kind="counts"), kind


def real(n=600, G=30, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3)) @ rng.standard_normal((3, G)) + 0.5 * rng.standard_normal((n, G))
    return as_data(np.where(rng.random(X.shape) < 0.05, np.nan, X), kind="real")


def gathered(data, predict=FACTORS, **options):
    options = {"controls": CONTROLS, "reference": "gene_mean_posterior", "rng": np.random.default_rng(1), **options}
    return gather(data, predict, method="factors", **options)


def test_structure_is_seen_on_every_side():
    data, kind = counts()
    reports = []
    evidence = gathered(data, labels={"type": kind}, progress=lambda share, text: reports.append((share, text)))
    gains = evidence.gains("poisson_deviance")
    assert set(gains.columns) == set(CONTROLS)
    assert (gains.to_numpy() > 0).all()
    assert evidence.reliability.evident[np.arange(80) % 6 < 3].mean() > 0.5
    assert evidence.zeros.confident.sum() >= 0
    assert evidence.mixing["type"].after.mean() > evidence.mixing["type"].before.mean()
    assert set(evidence.scores["metric"]) == {"poisson_deviance", "poisson_loss", "total_ratio", "coverage_90"}
    assert evidence.cells == 300
    assert evidence.fits == 3 * 4 + 3 == len(reports)  # the control once for its zeros
    assert reports[0] == (0.0, "factors, split 1 of 3")
    assert [share for share, _ in reports] == sorted(share for share, _ in reports)


def test_permuted_genes_give_no_evidence():
    data, _ = counts()
    evidence = gathered(permute_genes(data, np.random.default_rng(3)))
    assert evidence.gains("poisson_deviance")["gene_mean_posterior"].mean() < 0.002
    assert evidence.reliability.evident.mean() < 0.1
    assert not evidence.mixing


def test_gain_is_a_share_of_the_controls_error():
    data, _ = counts()
    evidence = gathered(data, n_splits=2)
    wide = evidence.scores[evidence.scores["metric"] == "poisson_deviance"].set_index(["split", "method"])["value"]
    for split in (0, 1):
        for control in CONTROLS:
            expected = (wide[split, control] - wide[split, "factors"]) / wide[split, control]
            assert evidence.gains("poisson_deviance").loc[split, control] == pytest.approx(expected)


def test_real_values_are_hidden_in_all_rows():
    controls = {"mean": predicting("mean"), "random": predicting("random")}
    data = real()
    evidence = gathered(data, predicting("soft_impute"), controls=controls, reference="mean")
    assert (evidence.gains("rmse").to_numpy() > 0.2).all()
    assert set(evidence.scores["metric"]) == {"rmse"}
    assert evidence.zeros is None
    assert evidence.reliability.evident.mean() > 0.5
    copula = predicting("gaussian_copula", mode="fast")
    intervals = gathered(real(n=120, G=10), copula, controls=controls, reference="mean", n_splits=1)
    assert "coverage_90" in set(intervals.scores["metric"])


def test_features_that_do_not_vary_or_are_hardly_known_do_not_decide():
    """Rounding is no unit, and neither is the input's own."""
    rng = np.random.default_rng(0)
    X = 500 + rng.standard_normal((60, 3)) @ rng.standard_normal((3, 40)) + 0.3 * rng.standard_normal((60, 40))
    X[rng.random(X.shape) < 0.05] = np.nan
    options = {"controls": {"mean": predicting("mean")}, "reference": "mean"}
    plain = gathered(as_data(X, kind="real"), predicting("svd"), **options)
    constant = np.where(rng.random((60, 3)) < 0.05, np.nan, [0.1, 2.3, 7.7])
    rare = np.full((60, 3), np.nan)
    rare[:2] = [[0.0], [900.0]]
    evidence = gathered(as_data(np.hstack([X, constant, rare]), kind="real"), predicting("svd"), **options)
    for name in ("factors", "mean"):
        before, after = (one.scores.groupby("method")["value"].mean()[name] for one in (plain, evidence))
        assert after == pytest.approx(before, rel=0.15)
    assert evidence.reliability.overall[0] == pytest.approx(plain.reliability.overall[0], abs=0.15)
    assert (evidence.reliability.held_out[40:] == 0).all()
    nothing = as_data(np.where(rng.random((60, 3)) < 0.05, np.nan, [0.1, 2.3, 7.7]), kind="real")
    with pytest.raises(InputError, check=has_code("no-feature-varies")):
        gathered(nothing, predicting("mean"), controls={"median": predicting("median")}, reference="median")


def test_a_flat_feature_with_far_values_does_not_decide():
    """Two far values, both of them hidden: what is left of the feature is no unit for them."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 30))
    X[:, 0] = 1e-3 * rng.standard_normal(200)
    for hidden in (False, True):
        data = as_data(X, kind="real")
        split = hold_out(data, np.random.default_rng(2))
        if not hidden:
            X[split.i[split.j == 0][:2], 0] = 15.0  # the next split hides the same entries
    error = scores(methods.get("mean")().fit_transform(split.train), split)["rmse"]
    assert (split.truth == 15.0).sum() == 2
    assert 0.9 < error < 1.6


def test_labels_of_which_the_sample_has_one_are_left_out():
    data, kind = counts()
    looked_at = sample_cells(data, 50, np.random.default_rng(1))
    rare = np.where(np.arange(300) == np.setdiff1d(np.arange(300), looked_at)[0], "rare", "common")
    evidence = gathered(data, n_splits=1, max_cells=50, labels={"rare": rare, "type": kind})
    assert set(evidence.mixing) == {"type"}
    assert evidence.unmixed == ("rare",)


def test_the_same_generator_gives_the_same():
    data, _ = counts()
    first, second = gathered(data, n_splits=1), gathered(data, n_splits=1)
    assert first.scores.equals(second.scores)
    np.testing.assert_array_equal(first.null.after, second.null.after)


def test_a_sample_of_the_cells_is_looked_at_with_its_own_labels():
    data, kind = counts()
    evidence = gathered(data, n_splits=1, max_cells=100, labels={"type": kind})
    assert evidence.cells == 100
    assert evidence.mixing["type"].sizes.sum() == 100
    mixing = evidence.mixing["type"]
    assert mixing.before.mean() > mixing.chance.mean() + 0.1  # the labels belong to the sampled cells
    assert len(evidence.genes) == 80


def test_what_cannot_be_compared_is_refused():
    data, kind = counts()
    with pytest.raises(InputError, check=has_code("unknown-control")):
        gathered(data, reference="mean")
    with pytest.raises(InputError, check=has_code("name-taken")):
        gathered(data, controls={**CONTROLS, "factors": FACTORS})
    with pytest.raises(InputError, check=has_code("length-mismatch")):
        gathered(data, labels={"type": kind[:5]})
    with pytest.raises(InputError, check=has_code("parameter-value")):
        gathered(data, n_splits=0)


@pytest.mark.parametrize("kind", ["counts", "real"])
def test_all_controls_give_finite_gains_and_random_draws_change_nothing(kind):
    """Also with an empty cell, and a gene or feature with a single known value."""
    data = counts(n=120, G=30)[0] if kind == "counts" else real(n=120, G=20)
    X = data.X.toarray() if kind == "counts" else data.X.copy()
    X[1:, 3] = 0 if kind == "counts" else np.nan
    X[0, 3] = 2
    if kind == "counts":
        X[7] = 0
    data = as_data(X, kind=kind)
    predict = FACTORS if kind == "counts" else predicting("soft_impute")
    names = [name for name in METHODS if methods.info(name).control and kind in methods.info(name).kinds]
    assert "random" in names
    by_controls = {}
    for used in (names, [name for name in names if name != "random"]):
        controls = {name: predicting(name) for name in used}
        options = {"controls": controls, "reference": methods.REFERENCE[kind], "n_splits": 2}
        by_controls[len(used)] = gathered(data, predict, **options)
    with_random, without = by_controls.values()
    gains = with_random.gains(LOSS[kind])
    assert np.isfinite(gains.to_numpy()).all()
    # the verdict looks at the closest control: never the random draws
    assert (gains["random"] > gains.drop(columns="random").min(axis=1)).all()
    pd.testing.assert_frame_equal(gains.drop(columns="random"), without.gains(LOSS[kind]), rtol=1e-6)
    np.testing.assert_array_equal(with_random.null.before, without.null.before)
    assert with_random.reliability.overall == pytest.approx(without.reliability.overall, rel=1e-6)


def test_wide_real_values_are_checked_on_a_sample_of_the_features(monkeypatch):
    from imputome.trust import evidence as module

    monkeypatch.setattr(module, "WIDE_FEATURES", 100)
    monkeypatch.setattr(module, "MAX_FEATURES", 40)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 120)) + rng.normal(size=(30, 120))
    X[rng.random(X.shape) < 0.1] = np.nan
    data = as_data(X, kind="real")
    seen = []

    def predict(given):
        seen.append(given.var_names)
        return methods.create("mean").fit_transform(given)

    found = gather(
        data, predict, method="copy", controls={"mean": predict}, reference="mean", rng=np.random.default_rng(1)
    )
    assert {len(names) for names in seen} == {40}
    assert all(names.equals(found.genes) for names in seen)
    assert set(found.genes) < set(data.var_names)
