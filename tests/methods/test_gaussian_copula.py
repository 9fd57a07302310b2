"""Gaussian copula: against explicit Gaussian conditionals, simulated truth and edge cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.errors import InputError, ModelFormatError
from imputome.methods.gaussian_copula import relevance
from imputome.methods.gaussian_copula.calibration import NORMAL_SCORES, QuantileCalibration, residuals_at, scores_of
from imputome.methods.gaussian_copula.conditional import BasePredictor, Conditional, solve_predictors
from imputome.methods.gaussian_copula.estimator import NAMES_0_1_0, _predictors_named
from imputome.methods.gaussian_copula.marginals import Marginals, interpolate
from imputome.methods.gaussian_copula.noise import Gaussian, complete_rows, fit_gaussian, leave_one_out, refill
from imputome.methods.gaussian_copula.relevance import fit_relevance

GaussianCopula = methods.get("gaussian_copula")


def tiny(n=9, G=6, *, seed=0):
    """A Gaussian of n rows (exact in float32), its noise and its covariance S = Z'Z / c + D."""
    rng = np.random.default_rng(seed)
    Z = (rng.normal(size=(n, 2)) @ rng.normal(size=(2, G)) + 0.4 * rng.normal(size=(n, G))).astype(np.float32)
    noise, ridge = rng.uniform(0.2, 1, G), 3.0
    return Gaussian(Z, noise, ridge), _covariance(Z, noise, ridge)


def _covariance(Z, noise, ridge):
    Z = Z.astype(np.float64)
    return Z.T @ Z / ridge + np.diag(noise)


def _centred(Z):
    """The mean of the rows, and the rows without it."""
    Z = Z.astype(np.float64)
    return Z.mean(axis=0), Z - Z.mean(axis=0)


def low_rank(n=150, G=60, *, seed=0, share=0.15, noise=0.3):
    """(with NaN, truth): rank 4 plus noise, features of unequal location and scale."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 4)) @ rng.normal(size=(4, G)) + noise * rng.normal(size=(n, G))
    truth = truth * rng.uniform(0.5, 3, G) + rng.normal(size=G)
    return np.where(rng.random((n, G)) < share, np.nan, truth), truth


def noise_grows_with_level(n=400, G=150, *, seed=0):
    """Rank 3 in features around -4, 0 and 4; the noise grows with the level, tenfold, and mostly at 0."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n, 3)) @ rng.normal(size=(3, G))
    level = np.repeat([-4, 0, 4], G // 3) + 1.5 * signal / signal.std(axis=0)
    return level + (0.1 + 0.9 * expit(4 * level)) * rng.normal(size=(n, G))


# -- the algebra, against explicit covariance matrices ----------------------------------------------------------------
@pytest.mark.parametrize("missing", [[1], [0, 3], [0, 1, 2, 4, 5]])
@pytest.mark.parametrize("training_row", [None, 2])
def test_conditional_is_that_of_the_explicit_covariance(missing, training_row):
    gaussian, _ = tiny()
    centre, rows = _centred(gaussian.Z if training_row is None else np.delete(gaussian.Z, training_row, axis=0))
    S = _covariance(rows, gaussian.noise, gaussian.ridge)
    t = np.random.default_rng(1).normal(size=6)
    t[missing] = np.nan
    known = np.flatnonzero(~np.isnan(t))
    conditional = Conditional(gaussian, (BasePredictor("gaussian", 1.0),), np.ones(1), np.zeros(6))
    row = conditional.predict(t, training_row)
    gain = np.linalg.solve(S[np.ix_(known, known)], S[np.ix_(known, missing)])
    covariance = S[np.ix_(missing, missing)] - S[np.ix_(missing, known)] @ gain
    np.testing.assert_allclose(row.mean[missing], centre[missing] + (t - centre)[known] @ gain, atol=1e-7)
    np.testing.assert_allclose(row.variance[missing], np.diag(covariance), atol=1e-8)
    joint = row.roots.T @ row.roots + np.diag(gaussian.noise[missing])
    np.testing.assert_allclose(joint, covariance, atol=1e-8)


def test_leave_one_out_is_that_of_the_explicit_covariance():
    gaussian, _ = tiny()
    Z = gaussian.Z.astype(np.float64)
    ((_, error, variance),) = leave_one_out(gaussian.Z, gaussian.noise, gaussian.ridge)
    for i in range(9):
        centre, rows = _centred(np.delete(Z, i, axis=0))
        S = _covariance(rows, gaussian.noise, gaussian.ridge)
        for j in range(6):
            others = np.delete(np.arange(6), j)
            gain = np.linalg.solve(S[np.ix_(others, others)], S[others, j])
            np.testing.assert_allclose(error[i, j], Z[i, j] - centre[j] - (Z[i] - centre)[others] @ gain, atol=1e-10)
            np.testing.assert_allclose(variance[i, j], S[j, j] - S[j, others] @ gain, atol=1e-10)


def test_rows_of_noise_are_not_predicted_from_the_sum_of_the_others():
    """With few rows and many features row i is minus the sum of the others, whose coefficients a small ridge finds."""
    T = np.random.default_rng(0).normal(size=(8, 300))
    T = (T - T.mean(axis=0)) / T.std(axis=0)
    ((_, error, _),) = leave_one_out(T.astype(np.float32), np.ones(300), 0.01)
    assert 0.9 < np.mean(error**2) < 1.6  # a value around the mean of seven others: 1.14


@pytest.mark.parametrize("n", [12, 60])  # solved over rows, and over columns
def test_regressions_are_generalised_ridges_of_the_best_correlated_features(n, monkeypatch):
    monkeypatch.setitem(relevance.MAX_PREDICTORS, "few rows", 20)
    rng = np.random.default_rng(3)
    X, _ = low_rank(n=n, G=40, share=0.1, noise=1.0)
    known = ~np.isnan(X)
    T = (X - np.nanmean(X, axis=0)) / np.nanstd(X, axis=0)
    Z = np.where(known, T, 0.1).astype(np.float32)
    noise = rng.uniform(0.3, 1, 40)
    model = fit_relevance(Z, known, noise, features=np.array([5, 2]))
    row = rng.normal(size=40)
    for position, j in enumerate((5, 2)):
        rows = Z[known[:, j]].astype(np.float64)
        r = np.array([np.corrcoef(rows[:, j], column)[0, 1] for column in rows.T])
        weights = np.abs(r) ** relevance.POWER / noise
        weights[j] = 0
        chosen = np.sort(np.argsort(-weights)[:20])
        np.testing.assert_array_equal(model.predictors[position], chosen)
        weights = weights[chosen] / weights[chosen].sum()

        def ridge(A, y, amount, weights=weights):
            """Coefficients and intercept; the penalty of a coefficient is ``amount`` over its weight."""
            mean = A.mean(axis=0)
            solution = np.linalg.solve(
                (A - mean).T @ (A - mean) + np.diag(amount / weights), (A - mean).T @ (y - y.mean())
            )
            return solution, y.mean() - mean @ solution

        A, y = rows[:, chosen], rows[:, j]
        unit = ((A - A.mean(axis=0)) ** 2 @ weights).mean()
        losses = []
        for amount in relevance.RIDGES * unit:
            without = [ridge(np.delete(A, i, axis=0), np.delete(y, i), amount) for i in range(len(y))]
            losses.append(np.mean([(y[i] - A[i] @ b - a) ** 2 for i, (b, a) in enumerate(without)]))
        place = model.ridges[position]
        assert losses[place] <= 1.02 * min(losses[max(0, place - 1) : place + 2])
        coefficients, intercept = ridge(A, y, relevance.RIDGES[place] * unit)
        np.testing.assert_allclose(model.coefficients[position], coefficients, atol=2e-4)
        found = model.predict(row, np.array([position]))
        np.testing.assert_allclose(found, row[chosen] @ coefficients + intercept, atol=2e-3)


def test_completed_rows_have_their_conditional_means():
    rng = np.random.default_rng(3)
    base = tiny(n=20)[0]
    T = rng.normal(size=(5, 6)).astype(np.float32)
    T[[0, 1, 2], [1, 4, 0]] = np.nan
    S = _covariance(base.Z, base.noise, base.ridge)
    done = complete_rows(base, T)
    for i, j in ((0, 1), (1, 4), (2, 0)):  # one missing value a row: the first step is exact
        others = np.delete(np.arange(6), j)
        expected = T[i, others] @ np.linalg.solve(S[np.ix_(others, others)], S[others, j])
        np.testing.assert_allclose(done.Z[i, j], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(done.Z[~np.isnan(T)], T[~np.isnan(T)])


def test_refilled_rows_do_not_depend_on_hidden_values():
    """The target is a fill that starts at 0 and never uses the hidden values; two passes get near it."""
    X, _ = low_rank(n=80, G=30, share=0.1, noise=0.5)
    T = (X - np.nanmean(X, axis=0)) / np.nanstd(X, axis=0)
    gap = np.isnan(T)
    hidden = ~gap & (np.random.default_rng(5).random(T.shape) < 0.2)
    aware = fit_gaussian(T, np.random.default_rng(6))
    start = np.where(gap | hidden, 0, T).astype(np.float32)
    goal = refill(Gaussian(start, aware.noise, aware.ridge), gap | hidden, passes=60)
    found = refill(aware, gap | hidden)
    np.testing.assert_array_equal(found[~gap & ~hidden], aware.Z[~gap & ~hidden])
    assert np.abs(found - goal)[gap].mean() < 0.5 * np.abs(aware.Z - goal)[gap].mean()


def test_laplace_member_is_kernel_ridge_on_distances():
    gaussian, _ = tiny()
    Z = gaussian.Z / np.sqrt(gaussian.noise)
    t = np.random.default_rng(2).normal(size=6)
    total = float((1 / gaussian.noise).sum())
    member = (BasePredictor("laplace", 0.3, length=1.5),)
    (got,) = solve_predictors(Z @ Z.T, Z @ t, t @ t, member, ridge=3.0, precision=total, total_precision=total)
    between = np.array([[np.exp(-np.sqrt(((a - b) ** 2).sum() / total) / 1.5) for b in Z] for a in Z])
    to_row = np.array([np.exp(-np.sqrt(((a - t) ** 2).sum() / total) / 1.5) for a in Z])
    expected = np.linalg.solve(between + 0.3 * np.eye(9), to_row)
    np.testing.assert_allclose(got, expected + (1 - expected.sum()) / 9, atol=1e-10)


def test_local_member_is_a_weighted_ridge_regression():
    rng = np.random.default_rng(4)
    Z, t = rng.normal(size=(12, 3)), rng.normal(size=3)
    targets = rng.normal(size=12)
    (weights,) = solve_predictors(
        Z @ Z.T, Z @ t, t @ t, (BasePredictor("local", 0.5, length=0.7),), ridge=2.0, precision=3.0, total_precision=3.0
    )
    near = np.sqrt(((Z - t) ** 2).sum(axis=1) / 3)
    v = np.exp(-(near - near.min()) / 0.7)
    centre, level = v @ Z / v.sum(), v @ targets / v.sum()
    A = (Z - centre).T @ (v[:, None] * (Z - centre)) + 1.0 * np.eye(3)
    slope = np.linalg.solve(A, (Z - centre).T @ (v * (targets - level)))
    np.testing.assert_allclose(weights @ targets, level + (t - centre) @ slope, atol=1e-10)


# -- transforms --------------------------------------------------------------------------------------------------------
def test_interpolation_is_that_of_numpy():
    rng = np.random.default_rng(0)
    at, to = np.sort(rng.normal(size=(7, 4)), axis=0), rng.normal(size=(7, 4))
    at[5:, 2] = at[4, 2]
    to[5:, 2] = to[4, 2]
    values = rng.normal(size=(30, 4)) * 2
    values[:7] = at
    values[9, 1] = np.nan
    expected = np.column_stack([np.interp(values[:, j], at[:, j], to[:, j]) for j in range(4)])
    np.testing.assert_allclose(interpolate(values, at, to), expected, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_transform_is_monotone_and_comes_back(share):
    rng = np.random.default_rng(0)
    X = np.column_stack([
        rng.normal(3, 2, 300), rng.lognormal(size=300), rng.poisson(0.5, 300), rng.integers(0, 2, 300)
    ]).astype(float)  # fmt: skip
    X[rng.random(X.shape) < 0.1] = np.nan
    marginals = Marginals.fit(X, share)
    T = marginals.forward(X)
    np.testing.assert_allclose(marginals.back(T.astype(float)), X, atol=1e-4)
    np.testing.assert_allclose(np.nanmean(T, axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.nanstd(T, axis=0), 1, atol=0.05)
    for j in range(4):
        known = X[:, j][~np.isnan(X[:, j])]
        order = np.argsort(known)
        steps = np.diff(T[:, j][~np.isnan(X[:, j])][order])
        assert ((steps > 0) == (np.diff(known[order]) > 0)).all()  # ties stay ties, all else stays apart
    if share == 1:
        scores = norm.ppf(np.linspace(0.05, 0.95, 19))
        np.testing.assert_allclose(np.nanquantile(T[:, 1], norm.cdf(scores)), scores, atol=0.1)


def test_scores_of_residuals_is_the_inverse_of_residuals_at_scores():
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.normal(size=(10, 6)) + np.array([0, 0, 0, 3, -3, 0]), axis=0)  # two lie on one side of 0
    scores = np.sort(rng.uniform(-5, 5, (40, 6)), axis=0)
    residuals = residuals_at(scores, quantiles)
    assert (np.diff(residuals, axis=0) > 0).all()
    np.testing.assert_allclose(residuals_at(np.tile(NORMAL_SCORES[:, None], 6), quantiles), quantiles, atol=1e-12)
    for k in range(40):
        np.testing.assert_allclose(scores_of(residuals[k], quantiles), scores[k], atol=1e-9)


def test_calibration_has_the_quantiles_of_the_hidden_values():
    """Scores are twice as wide and shifted where predictions are high; few values have one bin."""
    rng = np.random.default_rng(0)
    predicted = rng.uniform(-1, 1, 40_000)
    scores = np.where(predicted > 0, 0.5 + 2 * rng.normal(size=predicted.shape), rng.normal(size=predicted.shape))
    calibration = QuantileCalibration.learn(predicted, scores)
    found = calibration.correct(np.tile(NORMAL_SCORES[:, None], 2), np.array([-0.5, 0.5]))
    np.testing.assert_allclose(found, np.stack([NORMAL_SCORES, 0.5 + 2 * NORMAL_SCORES], axis=1), atol=0.15)
    few = QuantileCalibration.learn(predicted[:150], scores[:150])
    assert few.predicted.shape == (1,)
    ratio = calibration.with_variance(predicted, scores**2, np.ones_like(predicted)).variance_factor
    np.testing.assert_allclose(ratio, np.repeat([1, 4.25], 5), rtol=0.15)
    same = QuantileCalibration.none().correct(scores[None, :5], predicted[:5])
    np.testing.assert_allclose(same[0], scores[:5], atol=1e-12)


# -- what it reaches on simulated data ---------------------------------------------------------------------------------
def test_noise_of_simulated_features_is_found():
    rng = np.random.default_rng(0)
    noise = np.repeat([0.1, 0.5], 40)
    Z = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 80)) * np.sqrt((1 - noise) / 3)
    Z = Z + np.sqrt(noise) * rng.normal(size=Z.shape)
    gaussian = fit_gaussian(Z, rng)
    assert abs(np.median(gaussian.noise[:40]) - 0.1) < 0.04
    assert abs(np.median(gaussian.noise[40:]) - 0.5) < 0.12


@pytest.mark.parametrize("mode", ["fast", "accurate"])
def test_low_rank_data_are_recovered(mode):
    X, truth = low_rank()
    hidden = np.isnan(X)
    spread = np.broadcast_to(truth.std(axis=0), X.shape)[hidden]

    def error(name, **params):
        values = methods.get(name)(**params).fit_transform(as_data(X, kind="real")).to_array()
        np.testing.assert_array_equal(values[~hidden], X[~hidden])
        return np.sqrt(np.mean(((values - truth)[hidden] / spread) ** 2))

    found = error("gaussian_copula", mode=mode)
    assert found < 0.35 * error("mean")
    assert found < 0.7 * error("knn")


def test_missing_training_values_are_filled_near_the_truth():
    X, truth = low_rank(share=0.3)
    T = (X - np.nanmean(X, axis=0)) / np.nanstd(X, axis=0)
    filled = fit_gaussian(T, np.random.default_rng(1)).Z
    expected = (truth - np.nanmean(X, axis=0)) / np.nanstd(X, axis=0)
    gap = np.isnan(X)
    np.testing.assert_allclose(filled[~gap], T[~gap], rtol=1e-6)
    assert np.sqrt(np.mean((filled - expected)[gap] ** 2)) < 0.35


def test_variance_interval_and_draws_are_calibrated_for_new_rows():
    X, truth = low_rank(n=300, G=50, share=0.1, noise=1.0)
    hidden = np.isnan(X[200:])
    result = GaussianCopula().fit(as_data(truth[:200], kind="real")).transform(as_data(X[200:], kind="real"))
    error = (result.to_array() - truth[200:])[hidden]
    variance, low, high = (result.to_array(output=output)[hidden] for output in ("variance", "lower", "upper"))
    assert 0.85 < np.mean(error**2 / variance) < 1.2
    inside = (truth[200:][hidden] >= low) & (truth[200:][hidden] <= high)
    for half in (variance < np.median(variance), variance >= np.median(variance)):
        assert 0.85 < inside[half].mean() < 0.95
    draws = np.stack([result.draw(number)[hidden] for number in range(40)])
    assert 0.8 < np.mean(draws.var(axis=0, ddof=1) / variance) < 1.2
    np.testing.assert_array_equal(result.draw(3), result.draw(3))
    assert not np.array_equal(result.draw(3), result.draw(4))
    np.testing.assert_array_equal(result.draw(3)[~hidden], X[200:][~hidden])


def test_intervals_hold_at_every_level_when_noise_grows_with_the_level():
    truth = noise_grows_with_level()
    model = GaussianCopula(mode="fast").fit(as_data(truth[:250], kind="real"))
    X = truth[250:].copy()
    X[np.random.default_rng(50).random(X.shape) < 0.3] = np.nan
    hidden = np.isnan(X)

    def by_fifth():
        result = model.transform(as_data(X, kind="real"))
        found = {output: result.to_array(output=output)[hidden] for output in result.outputs}
        fifth = np.digitize(found["value"], np.quantile(found["value"], [0.2, 0.4, 0.6, 0.8]))
        inside = (found["lower"] <= truth[250:][hidden]) & (truth[250:][hidden] <= found["upper"])
        coverage = np.array([inside[fifth == k].mean() for k in range(5)])
        return result, found, fifth, coverage

    result, found, fifth, coverage = by_fifth()
    assert (np.bincount(fifth) >= 1000).all()
    assert coverage.min() > 0.85
    assert coverage.max() < 0.95
    draws = np.stack([result.draw(number)[hidden] for number in range(8)])
    within = ((found["lower"] <= draws) & (draws <= found["upper"])).mean(axis=0)
    for k in range(5):
        assert abs(within[fifth == k].mean() - 0.9) < 0.02
    error = truth[250:][hidden] - found["value"]
    assert 0.85 < np.mean(error**2) / found["variance"].mean() < 1.15
    assert 0.85 < np.mean((draws - found["value"]) ** 2) / found["variance"].mean() < 1.15

    model.residuals_ = replace(model.residuals_, calibration=QuantileCalibration.none())
    _, pooled, _, without = by_fifth()
    np.testing.assert_array_equal(pooled["value"], found["value"])
    assert without.min() < 0.85  # widths that ignore the level are too small and too large
    assert without.max() > 0.95


def test_intervals_are_calibrated_without_fills_that_used_the_hidden_values(monkeypatch):
    """Missing training values were filled with values hidden for tuning; otherwise intervals are too narrow."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(120, 20)) @ rng.normal(size=(20, 200)) / np.sqrt(20) + 0.3 * rng.normal(size=(120, 200))
    X = np.where(rng.random(truth.shape) < 0.2, np.nan, truth)
    gap = np.isnan(X)

    def coverage():
        result = GaussianCopula(mode="fast").fit_transform(as_data(X, kind="real"))
        low, high = (result.to_array(output=output)[gap] for output in ("lower", "upper"))
        return np.mean((low <= truth[gap]) & (truth[gap] <= high))

    found = coverage()
    monkeypatch.setattr("imputome.methods.gaussian_copula.calibration.refill", lambda gaussian, _: gaussian.Z)
    assert 0.83 < found < 0.93
    assert found > coverage() + 0.015


def test_draws_keep_the_correlation_of_missing_features():
    """Two missing features are copies of each other and independent of the rest: joint draws must be correlated."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 6))
    truth[:, 1] = truth[:, 0] + 0.1 * rng.normal(size=200)
    X = truth[150:].copy()
    X[:, :2] = np.nan
    result = GaussianCopula(mode="fast").fit(as_data(truth[:150], kind="real")).transform(as_data(X, kind="real"))
    draws = np.concatenate([result.draw(number)[:, :2] for number in range(10)])
    assert np.corrcoef(draws.T)[0, 1] > 0.6


def test_median_lowers_the_absolute_error_and_the_mean_the_squared_one():
    """Errors are divided by the standard deviation of the (skewed) feature, or a few values would dominate."""
    errors = {"mean": [], "median": []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth = np.exp(0.5 * (rng.normal(size=(150, 3)) @ rng.normal(size=(3, 40)) / 2 + rng.normal(size=(150, 40))))
        X = np.where(rng.random(truth.shape) < 0.15, np.nan, truth)
        for center, found in errors.items():
            values = GaussianCopula(mode="fast", center=center).fit_transform(as_data(X, kind="real")).to_array()
            found.append(((values - truth) / truth.std(axis=0))[np.isnan(X)])
    mean, median = (np.concatenate(errors[center]) for center in ("mean", "median"))
    assert np.abs(median).mean() < np.abs(mean).mean()
    assert np.square(mean).mean() < np.square(median).mean()


@pytest.mark.parametrize("n", [10, 20])
def test_few_samples_are_better_than_the_mean_and_have_honest_intervals(n):
    X, truth = low_rank(n=n, G=400, share=0.1, noise=1.0)
    gap, spread = np.isnan(X), truth.std(axis=0)
    result = GaussianCopula().fit_transform(as_data(X, kind="real"))
    of_mean = methods.get("mean")().fit_transform(as_data(X, kind="real")).to_array()
    error, error_of_mean = (((values - truth) / spread)[gap] for values in (result.to_array(), of_mean))
    assert np.mean(error**2) < 0.8 * np.mean(error_of_mean**2)
    low, high = (result.to_array(output=output) for output in ("lower", "upper"))
    assert np.mean(((low <= truth) & (truth <= high))[gap]) > 0.75


def test_noise_is_not_underestimated_where_half_is_missing():
    """What was filled with the help of a value predicts it too well: no such leave-one-out error may set the noise."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(150, 6)) @ rng.normal(size=(6, 300)) / np.sqrt(6)
    truth = np.sqrt(0.5) * (signal + rng.normal(size=signal.shape))
    T = (truth - truth.mean(axis=0)) / truth.std(axis=0)
    gaussian = fit_gaussian(np.where(rng.random(T.shape) < 0.5, np.nan, T), rng)
    assert np.median(gaussian.noise) > 0.5


def test_many_missing_values_are_filled_as_if_they_were_unknown():
    """What was filled with the help of a value predicts it too well: no such leave-one-out error chooses the ridge."""
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(120, 12)) @ rng.normal(size=(12, 150)) / 3 + rng.normal(size=(120, 150))
    X = np.where(rng.random(truth.shape) < 0.4, np.nan, truth)
    gap = np.isnan(X)
    errors = {}
    for name in ("gaussian_copula", "soft_impute", "mean"):
        values = methods.get(name)().fit_transform(as_data(X, kind="real")).to_array()
        errors[name] = np.sqrt(np.mean(((values - truth) / truth.std(axis=0))[gap] ** 2))
    assert errors["gaussian_copula"] < 1.02 * errors["soft_impute"] < errors["mean"]


def test_an_outlier_in_a_new_row_does_not_spoil_the_row():
    X, truth = low_rank(n=60, G=50, share=0.2)
    model = GaussianCopula().fit(as_data(truth[:40], kind="real"))
    new = X[40:].copy()
    expected = model.transform(as_data(new, kind="real")).to_array()
    new[:, 0] = 1e6
    spread = truth.std(axis=0)
    moved = np.abs(model.transform(as_data(new, kind="real")).to_array() - expected)[:, 1:] / spread[1:]
    assert moved.max() < 1.5


# -- edges -------------------------------------------------------------------------------------------------------------
def test_training_rows_do_not_see_themselves():
    """Changing the filled training row must not change the prediction of that row, but that of another row."""
    X, _ = low_rank(n=40, G=20)
    model = GaussianCopula(mode="fast").fit(as_data(X, kind="real"))
    before = model.transform(as_data(X, kind="real")).to_array()
    model.conditional_.gaussian.Z[7] = 50.0
    moved = Conditional(
        model.conditional_.gaussian,
        model.conditional_.predictors,
        model.conditional_.weights,
        model.residuals_.explained,
    )
    model.conditional_ = moved
    after = model.transform(as_data(X, kind="real")).to_array()
    np.testing.assert_allclose(after[7], before[7], rtol=1e-8)
    assert not np.allclose(after[8], before[8], rtol=1e-3)


@pytest.mark.parametrize("shape", [(5, 30), (5, 4), (80, 3), (2, 5)])
def test_few_rows_or_features(shape):
    X, _ = low_rank(*shape, share=0.0)
    X[0, 1] = X[1, 0] = np.nan
    result = GaussianCopula().fit_transform(as_data(X, kind="real"))
    for output in result.outputs:
        assert np.isfinite(result.to_array(output=output)).all()
    assert (result.to_array(output="lower") <= result.to_array(output="upper")).all()


def test_constant_empty_and_repeated_rows_and_features():
    X, _ = low_rank(n=40, G=20, share=0.1)
    X[:, 3], X[:, 4] = 7.0, np.nan
    X[::5, 3] = np.nan
    X[:, 5] = np.where(np.isnan(X[:, 5]), np.nan, np.maximum(X[:, 5], np.nanmedian(X[:, 5])))  # half of it ties
    X[10:14] = X[10]
    X[20] = np.nan
    result = GaussianCopula().fit_transform(as_data(X, kind="real"))
    values, variance = result.to_array(), result.to_array(output="variance")
    np.testing.assert_array_equal(values[:, 3], 7.0)
    np.testing.assert_array_equal(variance[:, 3], 0.0)
    np.testing.assert_allclose(values[:, 4], np.nanmean(X))
    varying = np.setdiff1d(np.arange(20), [4])
    np.testing.assert_allclose(values[20, varying], np.nanmean(X[:, varying], axis=0))
    np.testing.assert_array_equal(values[10], values[13])
    assert np.isfinite(variance).all()


def test_more_rows_than_one_system_has(monkeypatch):
    monkeypatch.setattr("imputome.methods.gaussian_copula.estimator.MAX_ROWS_IN_SYSTEM", 100)
    monkeypatch.setattr("imputome.methods.gaussian_copula.conditional.MAX_ROWS_IN_SYSTEM", 100)
    X, truth = low_rank(n=200, G=40, share=0.1)
    gap = np.isnan(X)
    fitted = GaussianCopula(mode="fast").fit(as_data(X, kind="real"))
    assert fitted.conditional_.gaussian.Z.shape == (200, 40)
    assert not fitted.conditional_.uses_all_rows
    values = fitted.transform(as_data(X, kind="real")).to_array()
    spread = np.broadcast_to(truth.std(axis=0), X.shape)[gap]
    assert np.sqrt(np.mean(((values - truth)[gap] / spread) ** 2)) < 0.3


def test_saved_model_gives_the_same_outputs_and_draws(tmp_path):
    X, _ = low_rank(n=60, G=20)
    X[:, 2] = 1.0
    data = as_data(X, kind="real")
    fitted = GaussianCopula().fit(data)
    fitted.save(tmp_path / "model")
    ours, theirs = fitted.transform(data), methods.load(tmp_path / "model").transform(data)
    for output in sorted(ours.outputs):
        np.testing.assert_array_equal(theirs.to_array(output=output), ours.to_array(output=output))
    np.testing.assert_array_equal(theirs.draw(5), ours.draw(5))


def change_saved_arrays(folder, change):
    with np.load(folder / "arrays.npz") as stored:
        arrays = change(dict(stored))
    np.savez(folder / "arrays.npz", **arrays)


def test_saved_models_name_their_predictors_and_older_ones_load(tmp_path):
    """Version 0.1.0 saved positions in a list; models before it had no calibration of the quantiles."""
    data = as_data(low_rank(n=60, G=20)[0], kind="real")
    fitted = GaussianCopula(mode="fast").fit(data)
    fitted.save(tmp_path / "model")
    expected = fitted.transform(data)

    def as_0_1_0(arrays):
        assert list(arrays["members"]) == list(fitted.members_)
        return arrays | {"members": np.array([NAMES_0_1_0.index(name) for name in fitted.members_])}

    change_saved_arrays(tmp_path / "model", as_0_1_0)
    older = methods.load(tmp_path / "model")
    assert older.members_ == fitted.members_
    for output in ("value", "upper"):
        np.testing.assert_array_equal(older.transform(data).to_array(output=output), expected.to_array(output=output))

    change_saved_arrays(
        tmp_path / "model", lambda arrays: {name: arrays[name] for name in arrays if not name.startswith("levels")}
    )
    oldest = methods.load(tmp_path / "model").transform(data)
    np.testing.assert_array_equal(oldest.to_array(), expected.to_array())
    assert np.isfinite(oldest.to_array(output="upper")).all()

    future = {"members": np.array(["of the future"] * len(fitted.members_))}
    change_saved_arrays(tmp_path / "model", lambda arrays: arrays | future)
    with pytest.raises(ModelFormatError, check=has_code("model-version")):
        methods.load(tmp_path / "model")


def test_positions_of_version_0_1_0():
    expected = (
        BasePredictor("gaussian", 1.0),
        BasePredictor("gaussian", 0.5),
        BasePredictor("gaussian", 0.25),
        BasePredictor("sum", 0.5, length=1.0, height=1.0),
        BasePredictor("laplace", 0.1, length=4.0),
        BasePredictor("local", 0.25, length=0.2),
    )
    assert _predictors_named(np.arange(6)) == expected


@pytest.mark.parametrize("wrong", [{"mode": "best"}, {"center": "mode"}, {"normal_share": 1.5}, {"normal_share": "x"}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(InputError, check=has_code("parameter-value")) as error:
        GaussianCopula(**wrong).fit(as_data(low_rank(20, 10)[0], kind="real"))
    assert error.value.parameter == next(iter(wrong))


@pytest.mark.parametrize("case", ["one feature varies", "one value a row"])
def test_rows_without_two_known_features(case):
    X = np.random.default_rng(0).normal(size=(30, 6))
    if case == "one feature varies":
        X[:, 1:] = 2.0
        X[3, 0] = np.nan
    else:
        X[np.arange(30)[:, None] % 6 != np.arange(6)] = np.nan
    filled = GaussianCopula().fit_transform(as_data(X, kind="real")).to_array()
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])


def test_draws_of_an_empty_row_have_the_correlations_of_the_data():
    X = np.random.default_rng(0).normal(size=(200, 3)) @ np.random.default_rng(1).normal(size=(3, 40))
    X += 0.3 * np.random.default_rng(2).normal(size=X.shape)
    X[7] = np.nan
    result = GaussianCopula(mode="fast").fit_transform(as_data(X, kind="real"))
    draws = np.array([result.draw(number, rows=[7])[0] for number in range(400)])
    spread = draws.std(axis=0) / np.nanstd(X, axis=0)
    assert 0.85 < np.median(spread) < 1.15
    pairs = np.triu_indices(40, 1)
    strength = [np.abs(np.corrcoef(values, rowvar=False)[pairs]).mean() for values in (draws, np.delete(X, 7, axis=0))]
    assert strength[0] == pytest.approx(strength[1], rel=0.2)


@pytest.mark.parametrize("exponent", [-24, 0, 18, 25])
def test_the_size_of_float32_values_does_not_matter(exponent):
    X, _ = low_rank(n=60, G=20)
    plain = GaussianCopula(mode="fast").fit_transform(as_data(X, kind="real")).to_array()
    scaled = (X * 10.0**exponent).astype(np.float32)
    found = GaussianCopula(mode="fast").fit_transform(as_data(scaled, kind="real")).to_array() / 10.0**exponent
    np.testing.assert_allclose(found, plain, rtol=1e-2, atol=0.02)


def test_training_rows_are_recognised_in_both_precisions():
    X, _ = low_rank(n=60, G=20)
    X = X.astype(np.float32)  # as a table holds it, whatever it is read as
    estimator = GaussianCopula(mode="fast").fit(as_data(X.astype(np.float64), kind="real"))
    again = estimator.transform(as_data(X, kind="real"))
    np.testing.assert_array_equal(again.model.training_rows, np.arange(60))
