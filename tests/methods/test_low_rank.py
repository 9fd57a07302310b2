"""Iterative SVD and soft-impute against scipy, brute force, and the conditions that an optimum must meet."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as la

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.core.scales import Standard
from imputome.errors import InputError
from imputome.methods.low_rank import estimator
from imputome.methods.low_rank.estimator import (
    LAMBDA_SHARES,
    NEW_ROW_RIDGE,
    IterativeSVD,
    SoftImpute,
    SoftImputePath,
    SparseFilledMatrix,
    choose,
    regress,
)

BOTH = pytest.mark.parametrize("method", [IterativeSVD, SoftImpute])


def matrix(n=70, G=50, *, missing=0.2, rank=3, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, G)) + noise * rng.normal(size=(n, G))
    X = X * rng.lognormal(size=G) + 5 * rng.normal(size=G)
    X[rng.random((n, G)) < missing] = np.nan
    return X


def real(X, **options):
    return as_data(X, kind="real", **options)


def scores(X):
    """z-scores by numpy."""
    return (X - np.nanmean(X, axis=0)) / np.nanstd(X, axis=0)


def fitted_scores(result, X):
    """What the method fitted, as z-scores."""
    return (result.to_array(keep_observed=False) - np.nanmean(X, axis=0)) / np.nanstd(X, axis=0)


# -- z-scores ----------------------------------------------------------------------------------------------------------
def test_standard_is_nan_aware():
    X = matrix()
    standard = Standard.of(X)
    np.testing.assert_allclose(standard.center, np.nanmean(X, axis=0), rtol=1e-12)
    np.testing.assert_allclose(standard.scale, np.nanstd(X, axis=0), rtol=1e-12)
    Z = standard.forward(X)
    assert Z.dtype == np.float32
    np.testing.assert_allclose(Z, scores(X), rtol=1e-5, atol=1e-6)


def test_standard_of_features_that_do_not_vary_or_are_unknown():
    X = np.column_stack([np.full(9, 0.1), np.full(9, np.nan), np.arange(9) + 1e8, np.zeros(9)])
    standard = Standard.of(X)
    np.testing.assert_allclose(standard.scale, [1, 1, np.std(np.arange(9)), 1], rtol=1e-6)
    np.testing.assert_allclose(standard.center, [0.1, np.nanmean(X), 4 + 1e8, 0])


# -- new rows ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("r", "missing"), [(2, 0.0), (2, 0.3), (2, 0.8), (40, 0.1), (40, 0.6), (0, 0.3)])
def test_regress_is_the_ridge(r, missing):
    rng = np.random.default_rng(0)
    V = la.qr(rng.normal(size=(120, max(r, 1))), mode="economic")[0][:, :r]
    penalty = rng.lognormal(size=r)
    Z = matrix(8, 120, missing=missing)
    Z[3] = np.nan
    got = regress(Z.astype(np.float32), V.astype(np.float32), penalty)
    assert got.shape == (8, r)
    for z, a in zip(Z, got, strict=True):
        o = ~np.isnan(z)
        stacked = np.vstack([V[o], np.diag(np.sqrt(penalty))])
        expected = la.lstsq(stacked, np.append(z[o], np.zeros(r)))[0] if r else np.empty(0)
        np.testing.assert_allclose(a, expected, rtol=2e-4, atol=2e-4)


# -- iterative SVD -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rank", [1, 4, 50])
def test_svd_of_complete_rows_is_the_truncated_svd(rank):
    X = matrix(missing=0.0)
    result = IterativeSVD(rank=rank).fit_transform(real(X))
    u, s, vt = la.svd(scores(X), full_matrices=False)
    np.testing.assert_allclose(fitted_scores(result, X), (u[:, :rank] * s[:rank]) @ vt[:rank], atol=2e-4)


TIGHT = {"tol": 1e-10, "max_iter": 2000}


def brute_svd(Z, rank, *, tol=1e-13, rounds=5000):
    missing = np.isnan(Z)
    filled = np.where(missing, 0, Z)
    for turn in range(rounds):
        r = min(rank, 2**turn)
        u, s, vt = la.svd(filled, full_matrices=False)
        fit = (u[:, :r] * s[:r]) @ vt[:r]
        change = ((fit - filled)[missing] ** 2).sum() / (fit[missing] ** 2).sum()
        filled[missing] = fit[missing]
        if change < tol and r == rank:
            break
    return fit


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_svd_equals_the_plain_loop(rank):
    X = matrix()
    result = IterativeSVD(rank=rank, **TIGHT).fit_transform(real(X))
    np.testing.assert_allclose(fitted_scores(result, X), brute_svd(scores(X), rank), atol=1e-3)
    ranks = list(result.history["rank"])
    assert ranks == [min(rank, 2**turn) for turn in range(len(ranks))]


def test_the_default_recovers_noiseless_values():
    """Z-scores of a rank-3 matrix have rank 4 or 5; a fit that stops early is far off (0.14 with tol=5e-4 before)."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 50))
    hidden = rng.random(truth.shape) < 0.4
    X = np.where(hidden, np.nan, truth)
    for method, limit in ((IterativeSVD(), 0.05), (SoftImpute(), 0.02)):
        result = method.fit_transform(real(X))
        assert result.status.converged
        assert np.abs(result.to_array() - truth)[hidden].mean() < limit


def test_svd_by_blocks_equals_the_plain_loop(monkeypatch):
    """Matrices too large for the exact Gram matrix."""
    monkeypatch.setattr("imputome.methods.factors.SMALL_SIDE", 5)
    X = matrix(150, 120)
    result = IterativeSVD(rank=3, **TIGHT).fit_transform(real(X))
    np.testing.assert_allclose(fitted_scores(result, X), brute_svd(scores(X), 3), atol=5e-3)


def test_full_rank_is_possible():
    X = matrix(missing=0.1)
    result = IterativeSVD(rank=415).fit_transform(real(X))
    assert result.status.details["rank"] >= 48
    known = ~np.isnan(X)
    np.testing.assert_allclose(fitted_scores(result, X)[known], scores(X)[known], atol=1e-3)
    new = IterativeSVD(rank=415).fit(real(matrix(missing=0.0))).transform(real(matrix(seed=0)))
    assert np.isfinite(new.to_array(keep_observed=False)).all()


def doubled_svd(Z, rank):
    """IterativeSVD of fancyimpute as the code of paper 003 calls it: threshold 5e-4, at most 16 rounds."""
    missing = np.isnan(Z)
    filled = np.where(missing, 0, Z)
    for turn in range(16):
        u, s, vt = la.svd(filled, full_matrices=False)
        r = min(rank, 2**turn)
        fit = (u[:, :r] * s[:r]) @ vt[:r]
        change, size = ((fit - filled)[missing] ** 2).sum(), (filled[missing] ** 2).sum()
        filled[missing] = fit[missing]
        if size > 0 and change / size < 5e-4:
            break
    return filled, turn + 1


@pytest.mark.parametrize("rank", ["full", 7])
def test_paper_svd_decomposes_training_and_new_rows_together(tmp_path, rank):
    train, new = matrix(40, 60, missing=0.0, noise=0.5), matrix(9, 60, seed=1, missing=0.2, noise=0.5)
    estimator = IterativeSVD(preset="paper", rank=rank).fit(real(train))
    standard = Standard.of(train)
    Z = np.vstack([train, new])
    Z = (Z - standard.center) / standard.scale
    filled, _ = doubled_svd(Z, 49 if rank == "full" else rank)
    result = estimator.transform(real(new))
    got = (result.to_array() - standard.center) / standard.scale
    np.testing.assert_allclose(got, filled[40:], atol=2e-3)
    assert (np.abs(got)[np.isnan(new)] > 0).all()  # they are not the means
    alone = estimator.transform(real(new[:1])).to_array()
    assert not np.allclose(alone[0], result.to_array()[0], atol=1e-3)  # no model: rows depend on each other
    estimator.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(real(new)).to_array(), result.to_array())


def test_paper_svd_of_the_rows_of_the_fit():
    X = matrix(30, 20, missing=0.2, noise=0.5)
    result = IterativeSVD(preset="paper").fit_transform(real(X))
    filled, rounds = doubled_svd(scores(X), 20)
    np.testing.assert_allclose(fitted_scores(result, X), filled, atol=2e-3)
    assert list(result.history["rank"]) == [min(2**turn, 20) for turn in range(rounds)]
    assert result.status.converged


def test_full_rank_of_the_default_is_that_of_the_matrix():
    X = matrix(12, 30, missing=0.0)
    assert IterativeSVD(rank="full").fit(real(X)).rank_ == IterativeSVD(rank=10**6).fit(real(X)).rank_ == 11


@pytest.mark.parametrize("rank", ["validated", None])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_validated_rank_is_near_the_true_one(rank, missing):
    estimator = IterativeSVD(rank=rank).fit(real(matrix(missing=missing)))
    assert 2 <= estimator.rank_ <= 5


@pytest.mark.parametrize("bad", [{"rank": 0}, {"rank": "all"}, {"rank": 2.5}, {"max_iter": 0}, {"tol": -1}])
def test_svd_refuses(bad):
    with pytest.raises(InputError, check=has_code("parameter-value")):
        IterativeSVD(**bad).fit(matrix())


# -- soft-impute -------------------------------------------------------------------------------------------------------
def certificate(Z, fit, lam):
    """How far X is from the optimum, relative to lam, by the subgradient of the nuclear norm.

    With X = U D V' (lowest singular value above zero) and R = P(Z - X), R must be lam (U V' + W), U'W = 0, WV = 0 and
    |W|_2 <= 1.
    """
    R = np.where(np.isnan(Z), 0, Z - fit)
    u, d, vt = la.svd(fit, full_matrices=False)
    r = int((d > 1e-3 * lam).sum())
    u, vt = u[:, :r], vt[:r]
    inside = max(np.abs(u.T @ R - lam * vt).max(), np.abs(R @ vt.T - lam * u).max())
    outside = la.norm(R - u @ (u.T @ R), 2)
    return inside / lam, outside / lam, r


@pytest.mark.parametrize("missing", [0.0, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("lam", [2.0, 3.5])
def test_soft_impute_is_optimal(missing, lam):
    X = matrix(120, 90, missing=missing)
    result = SoftImpute(lam=lam, tol=1e-6, max_iter=3000).fit_transform(real(X))
    assert result.status.converged
    inside, outside, rank = certificate(scores(X), fitted_scores(result, X), lam)
    assert 0 < rank < 90
    assert rank == result.status.details["rank"]
    assert inside < 5e-3
    assert outside < 1 + 5e-3


def test_soft_impute_by_blocks_is_optimal(monkeypatch):
    monkeypatch.setattr("imputome.methods.factors.SMALL_SIDE", 5)
    X = matrix(160, 120)
    result = SoftImpute(lam=20.0, tol=1e-5, max_iter=3000).fit_transform(real(X))
    inside, outside, rank = certificate(scores(X), fitted_scores(result, X), 20.0)
    assert 0 < rank < 30
    assert inside < 0.02
    assert outside < 1.02


def test_soft_impute_of_complete_rows_lowers_the_singular_values():
    X = matrix(missing=0.0)
    result = SoftImpute(lam=5.0).fit_transform(real(X))
    u, s, vt = la.svd(scores(X), full_matrices=False)
    np.testing.assert_allclose(fitted_scores(result, X), (u * np.maximum(s - 5, 0)) @ vt, atol=2e-4)


def test_lam_above_the_largest_singular_value_gives_the_means():
    X = matrix()
    result = SoftImpute(lam=1e4).fit_transform(real(X))
    np.testing.assert_allclose(result.to_array(keep_observed=False), np.tile(np.nanmean(X, axis=0), (70, 1)), rtol=1e-5)
    assert result.latent is None


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_training_rows_fitted_as_new_rows_come_back_as_they_were(missing):
    X = matrix(missing=missing)
    estimator = SoftImpute(lam=4.0, tol=1e-6, max_iter=3000)
    trained = fitted_scores(estimator.fit_transform(real(X)), X)
    np.testing.assert_allclose(fitted_scores(estimator.transform(real(X)), X), trained, atol=2e-3)


def test_the_path_starts_warm_and_ends_where_a_cold_start_does():
    Z = Standard.of(matrix(missing=0.5)).forward(matrix(missing=0.5))
    options = {"tol": 1e-6, "max_iter": 3000}
    *_, warm = SoftImputePath(Z.copy(), np.random.default_rng(0), **options).fit([30.0, 10.0, 5.0, 3.0])
    (cold,) = SoftImputePath(Z.copy(), np.random.default_rng(0), **options).fit([3.0])
    assert warm.history["iterations"] < cold.history["iterations"]
    np.testing.assert_allclose(warm.left @ warm.right.T, cold.left @ cold.right.T, atol=2e-3)


def test_little_known_takes_the_sparse_path_to_the_same_solution(monkeypatch):
    X = matrix(120, 90, missing=0.93)
    sparse = SoftImpute(lam=3.0, tol=1e-6, max_iter=3000).fit_transform(real(X))
    Z = Standard.of(X).forward(X)
    assert isinstance(SoftImputePath(Z, np.random.default_rng(0), tol=1, max_iter=1)._filled, SparseFilledMatrix)
    monkeypatch.setattr("imputome.methods.low_rank.estimator.SPARSE_SHARE", 0.0)
    dense = SoftImpute(lam=3.0, tol=1e-6, max_iter=3000).fit_transform(real(X))
    np.testing.assert_allclose(fitted_scores(sparse, X), fitted_scores(dense, X), atol=5e-3)


@pytest.mark.parametrize("bad", [{"lam": 0}, {"lam": -1.0}, {"tol": 0}, {"max_iter": 0}])
def test_soft_impute_refuses(bad):
    with pytest.raises(InputError, check=has_code("parameter-value")):
        SoftImpute(**bad).fit(matrix())


# -- the choice --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_chosen_lam_is_near_the_best_one_for_rows_not_seen(missing):
    whole = matrix(300, 60, missing=0.0, noise=1.0)
    rng = np.random.default_rng(5)
    X = np.where(rng.random(whole.shape) < missing, np.nan, whole)
    train, new = X[:200], np.where(rng.random((100, 60)) < 0.1, np.nan, whole[200:])
    hidden = np.isnan(new)

    def error(estimator):
        values = estimator.fit(real(train)).transform(real(new)).to_array()
        return np.sqrt(np.mean(((values - whole[200:]) / np.nanstd(train, axis=0))[hidden] ** 2))

    chosen = SoftImpute()
    best = min(error(SoftImpute(lam=lam)) for lam in (2, 4, 8, 16, 32, 64))
    assert error(chosen) < 1.02 * best
    assert 2 < chosen.lam_ < 64


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_fit_does_not_see_the_scored_entries(missing):
    """The training rows of a path exclude the scored rows, or have the scored entries hidden."""
    Z = Standard.of(matrix(missing=missing)).forward(matrix(missing=missing))
    training = []

    def path(rest):
        training.append(rest.copy())
        return SoftImputePath(rest, np.random.default_rng(0), tol=0.01, max_iter=20).fit([20.0, 10.0])

    before = Z.copy()
    shares: list[float] = []
    choice = choose(Z, path, np.random.default_rng(0), lambda share, text: shares.append(share))
    assert shares == sorted(shares)
    assert min(shares) >= 0
    assert max(shares) <= 1
    np.testing.assert_array_equal(Z, before)
    assert len(choice.rmse) == 2
    assert choice.rmse[choice.position] == min(choice.rmse)
    for rest in training:
        if missing:
            assert rest.shape == Z.shape
            newly = np.isnan(rest) & ~np.isnan(Z)
            assert 0.08 < newly.sum() / (~np.isnan(Z)).sum() < 0.12
        else:
            assert len(rest) == 56


def test_noise_alone_is_shrunk_to_nearly_nothing():
    X = np.random.default_rng(0).normal(size=(150, 40))
    estimator = SoftImpute()
    fit = fitted_scores(estimator.fit_transform(real(X)), X)
    assert np.mean(fit**2) < 0.05
    assert LAMBDA_SHARES[0] * 30 > estimator.lam_ > 5


# -- edges -------------------------------------------------------------------------------------------------------------
@BOTH
def test_fallbacks(method):
    X = matrix()
    X[:, 8] = 2.5
    X[4], X[:, 7] = np.nan, np.nan
    X[0, 8] = np.nan
    estimator = method()
    values = estimator.fit_transform(real(X)).to_array()
    used = np.delete(np.arange(50), 7)
    means = np.nanmean(X[:, used], axis=0)
    np.testing.assert_allclose(values[:, 7], np.nanmean(X), rtol=1e-5)
    np.testing.assert_allclose(values[0, 8], 2.5, rtol=1e-6)
    np.testing.assert_allclose((values[4, used] - means) / np.nanstd(X[:, used], axis=0).clip(1e-3), 0, atol=2e-3)
    empty = estimator.transform(real(np.full((1, 50), np.nan))).to_array()
    np.testing.assert_allclose(empty[0, used], means, rtol=1e-5)


@BOTH
def test_a_new_row_does_not_depend_on_the_other_rows(method):
    estimator = method().fit(real(matrix()))
    new = matrix(n=6, seed=2, missing=0.4)
    together = estimator.transform(real(new)).to_array()
    alone = np.vstack([estimator.transform(real(new[i : i + 1])).to_array() for i in range(6)])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("shape", [(2, 2), (3, 40), (40, 3)])
@pytest.mark.parametrize("missing", [0, 1])
def test_small_matrices(method, shape, missing):
    X = np.random.default_rng(0).normal(size=shape)
    X[0, :missing] = np.nan
    values = method().fit_transform(real(X)).to_array(keep_observed=False)
    assert values.shape == shape
    assert np.isfinite(values).all()


@BOTH
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_repeats_and_saves(method, missing, tmp_path):
    X = matrix(missing=missing)
    estimator = method()
    values = estimator.fit_transform(real(X)).to_array(keep_observed=False)
    np.testing.assert_array_equal(method().fit_transform(real(X)).to_array(keep_observed=False), values)
    estimator.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model")
    new = real(matrix(n=5, seed=3))
    np.testing.assert_array_equal(loaded.transform(new).to_array(), estimator.transform(new).to_array())
    chosen = "rank_" if method is IterativeSVD else "lam_"
    assert getattr(loaded, chosen) == getattr(estimator, chosen)


@BOTH
def test_beats_the_mean_on_structure(method):
    whole = matrix(missing=0.0)
    X = np.where(np.random.default_rng(1).random(whole.shape) < 0.1, np.nan, whole)
    for training in (X, whole[:50]):
        result = (
            method().fit(real(training)).transform(real(X[50:]))
            if training is not X
            else method().fit_transform(real(X))
        )
        target, rows = (whole[50:], X[50:]) if training is not X else (whole, X)
        gap = ((result.to_array() - target) / whole.std(axis=0))[np.isnan(rows)]
        assert np.sqrt(np.mean(gap**2)) < 0.5


def test_the_ridge_of_new_rows_is_small():
    """Repeating the fill converges to the regression on the training factors without a ridge."""
    train, new = matrix(missing=0.0), matrix(missing=0.3)
    estimator = IterativeSVD(rank=3).fit(real(train))
    Z = (new - train.mean(axis=0)) / train.std(axis=0)
    V = la.svd(scores(train), full_matrices=False)[2][:3].T
    filled = np.where(np.isnan(Z), 0, Z)
    for _ in range(500):
        fit = filled @ V @ V.T
        filled = np.where(np.isnan(Z), fit, Z)
    got = (estimator.transform(real(new)).to_array(keep_observed=False) - train.mean(axis=0)) / train.std(axis=0)
    assert 0 < np.linalg.norm(got - fit) < 2 * NEW_ROW_RIDGE * np.linalg.norm(fit)


@pytest.mark.parametrize("method", ["svd", "soft_impute"])
def test_the_setting_of_a_wide_table_is_chosen_on_some_features(method, monkeypatch):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 900)) + rng.normal(size=(60, 900))
    hidden = rng.random(truth.shape) < 0.1
    data = as_data(np.where(hidden, np.nan, truth), kind="real")

    def error():
        return np.sqrt(np.mean(np.square(methods.create(method).fit_transform(data).to_array() - truth)[hidden]))

    on_all = error()
    monkeypatch.setattr(estimator, "WIDE_FEATURES", 500)
    monkeypatch.setattr(estimator, "CHOICE_FEATURES", 300)
    seen = []
    chosen = estimator.choose
    monkeypatch.setattr(estimator, "choose", lambda Z, *rest: seen.append(Z.shape) or chosen(Z, *rest))
    assert error() < 1.03 * on_all
    assert seen == [(60, 300)]
