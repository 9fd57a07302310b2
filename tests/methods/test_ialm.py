"""The ``ialm`` estimator: scales, options, new cells, real-valued input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome.core.data import as_data
from imputome.core.holdout import hide_entries
from imputome.errors import InputError
from imputome.evaluation.splits import make_split, normalized_before
from imputome.evaluation.streaming import score_hidden
from imputome.methods import get
from imputome.methods.ialm.solver import complete

IALM = get("ialm")


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, size=(120, 5)) @ rng.gamma(0.5, size=(5, 80)) * rng.uniform(0.5, 4, size=(120, 1))
    X = rng.poisson(rates).astype(np.float32)
    X[7], X[:, 11] = 0, 0
    return sp.csr_array(X)


def by_hand(X, **options):
    """Median normalisation, the solver on the nonzero rows and columns, back to counts, in plain numpy."""
    dense = X.toarray().astype(float)
    rows, columns = dense.sum(1) > 0, dense.sum(0) > 0
    depth = dense.sum(1)
    scale = depth[rows] / np.median(depth[rows])
    D = sp.csr_array(dense[np.ix_(rows, columns)] / scale[:, None])
    solution = complete(D, dtype=np.float64, **options)
    out = np.zeros(X.shape)
    out[np.ix_(rows, columns)] = np.maximum(solution.left @ solution.right.T, 0) * scale[:, None]
    return out


def test_counts_by_hand(counts):
    result = IALM(dtype="float64").fit_transform(counts)
    np.testing.assert_allclose(result.to_array(keep_observed=False), by_hand(counts), rtol=1e-6, atol=1e-9)
    assert result.status.name == "converged"
    assert list(result.unusable.obs_names) == ["7"]
    assert list(result.unusable.var_names) == ["11"]
    assert len(result.history) == result.status.details["iterations"]


@pytest.mark.parametrize("rank_step", [10, 200])
def test_the_figures_of_the_paper(counts, rank_step):
    """Its code: normalise to the median, hide part of each gene's nonzeros, complete, clip, and score what was hidden.

    The study does the same with counts: ``per_gene``, `normalized_before` and the scale "median".
    """
    from sklearn.metrics import mean_absolute_error, mean_squared_error
    from sklearn.metrics.pairwise import cosine_similarity

    counts = counts[np.arange(120) != 7][:, np.arange(80) != 11]  # quality control leaves no empty cells and genes
    data = as_data(counts, kind="counts")
    split = make_split("random", data, rng=np.random.default_rng(1), fraction=0.1, per_gene=True)
    leaky = normalized_before(split, data)
    result = IALM(rank_step=rank_step, dtype="float64").fit_transform(leaky.train)
    scores = score_hidden(result, leaky, scale="median")

    dense = counts.toarray().astype(float)
    library = dense.sum(axis=1)
    normalized = dense / library[:, None] * np.median(library)
    masked = normalized.copy()
    masked[split.i, split.j] = 0
    solution = complete(sp.csr_array(masked), rank_step=rank_step, dtype=np.float64)
    imputed = np.maximum(solution.left @ solution.right.T, 0)
    y, h = normalized[split.i, split.j], imputed[split.i, split.j]
    assert scores["mse"] == pytest.approx(mean_squared_error(y, h), rel=1e-5)
    assert scores["mae"] == pytest.approx(mean_absolute_error(y, h), rel=1e-5)
    assert scores["pearson"] == pytest.approx(np.corrcoef(y, h)[0, 1], rel=1e-5)
    assert scores["cosine"] == pytest.approx(cosine_similarity([y], [h])[0, 0], rel=1e-5)
    assert max(result.history["sv"][1:]) <= max(result.history["rank"]) + rank_step


def test_observed_entries_are_matched(counts):
    values = IALM(tol=1e-5).fit_transform(counts).to_array(keep_observed=False)
    known = counts.toarray() > 0
    assert np.linalg.norm((values - counts.toarray())[known]) < 1e-3 * np.linalg.norm(counts.toarray())


def test_none_normalization_works_on_the_input(counts):
    dense = counts.toarray().astype(float)
    rows, columns = dense.sum(1) > 0, dense.sum(0) > 0
    solution = complete(sp.csr_array(dense[np.ix_(rows, columns)]), dtype=np.float64)
    values = IALM(normalization=None, dtype="float64").fit_transform(counts).to_array(keep_observed=False)
    expected = np.maximum(solution.left @ solution.right.T, 0)
    np.testing.assert_allclose(values[np.ix_(rows, columns)], expected, rtol=1e-6, atol=1e-9)


def test_log1p_keeps_gene_totals(counts):
    result = IALM(normalization="log1p").fit_transform(counts)
    values = result.to_array(keep_observed=False)
    np.testing.assert_allclose(values.sum(axis=0), counts.toarray().sum(axis=0), rtol=1e-3, atol=1e-6)
    assert result.gene_columns["total_factor"].shape == (80,)


def test_preserved_zeros_follow_the_rule_by_gene(counts):
    plain = IALM(dtype="float64", normalization=None).fit_transform(counts)
    kept = IALM(dtype="float64", normalization=None, zeros="preserve").fit_transform(counts)
    rows = counts.toarray().sum(1) > 0
    A = plain.model.left @ plain.model.right.T
    for j in range(80):
        limit = abs(np.quantile(A[rows, j], 0.001))
        expected = np.where(A[:, j] <= limit, 0, np.maximum(A[:, j], 0))
        got = kept.rows(slice(None), genes=[j], keep_observed=False)[:, 0]
        np.testing.assert_allclose(got, expected, atol=1e-9)
    assert (kept.to_array() == 0).sum() > (plain.to_array() == 0).sum()
    known = counts.toarray() > 0
    np.testing.assert_array_equal(kept.to_array()[known], counts.toarray()[known])


def test_known_zero_is_not_filled(counts):
    dense = counts.toarray()
    known = dense > 0
    zeros = np.argwhere(~known & (dense.sum(1, keepdims=True) > 0) & (dense.sum(0) > 0))[:200]
    free = IALM(tol=1e-6).fit_transform(counts)
    known[zeros[:, 0], zeros[:, 1]] = True
    informed = IALM(tol=1e-6).fit_transform(as_data(counts, kind="counts", observed=known))
    i, j = zeros.T
    assert free.at(i, j).mean() > 0.05
    assert informed.at(i, j, keep_observed=False).mean() < 0.05 * free.at(i, j).mean()
    assert (informed.at(i, j) == 0).all()


def test_validated_stop_is_earlier_and_better_on_noise(counts):
    masked, i, j, truth = hide_entries(counts, 0.1, np.random.default_rng(1))
    full = IALM().fit_transform(masked)
    early = IALM(stop="validated").fit_transform(masked)
    assert early.status.name == "validated"
    assert early.status.converged
    assert early.status.details["iterations"] < full.status.details["iterations"]
    errors = [np.mean((r.at(i, j, keep_observed=False) - truth) ** 2) for r in (early, full)]
    assert errors[0] < errors[1]


def test_status_tells_when_it_did_not_converge(counts):
    result = IALM(max_rank=2).fit_transform(counts)
    assert result.status.name == "rank_limited"
    assert not result.status.converged
    assert np.isfinite(result.to_array()).all()


def test_new_rows_agree_with_a_dense_ridge(counts):
    method = IALM(dtype="float64", max_rank=5).fit(counts)
    new = counts[[3, 50]]
    values = method.transform(new).to_array(keep_observed=False)
    F = method.components_ * method.singular_values_ / np.sqrt(method.n_rows_)
    strength = method.ridge * np.mean((F**2).sum(1))
    for row, dense in enumerate(new.toarray()):
        scale = dense.sum() / method.median_library_
        known = dense > 0
        b = np.linalg.solve(F[known].T @ F[known] + strength * np.eye(5), F[known].T @ (dense[known] / scale))
        np.testing.assert_allclose(values[row], np.maximum(F @ b, 0) * scale, rtol=1e-6, atol=1e-9)


def test_new_rows_recover_hidden_entries():
    rng = np.random.default_rng(3)
    rates = rng.gamma(0.5, size=(400, 4)) @ rng.gamma(0.5, size=(4, 100)) * 5
    X = sp.csr_array(rng.poisson(rates).astype(np.float32))
    method = IALM(max_rank=4).fit(X[:300])
    masked, i, j, truth = hide_entries(sp.csr_array(X[300:]), 0.2, rng)
    found = method.transform(masked).at(i, j, keep_observed=False)
    mean = get("gene_mean")().fit(X[:300]).transform(masked).at(i, j)
    assert np.mean((found - truth) ** 2) < 0.5 * np.mean((mean - truth) ** 2)


@pytest.mark.parametrize("share", [0.1, 0.85])
def test_real_values_with_nan(share):
    rng = np.random.default_rng(4)
    full = rng.standard_normal((80, 3)) @ rng.standard_normal((3, 60)) + 5
    X = np.where(rng.random(full.shape) < share, np.nan, full)
    X[4], X[:, 9] = np.nan, np.nan
    result = IALM(dtype="float64").fit_transform(X)
    values = result.to_array()
    known = ~np.isnan(X)
    np.testing.assert_array_equal(values[known], X[known])
    assert np.isfinite(values).all()
    # a row and a feature without values: the mean of the feature, and of all values
    rows = np.arange(80) != 4
    means = np.array([np.nanmean(X[:, j]) if j != 9 else np.nanmean(X) for j in range(60)])
    np.testing.assert_allclose(values[4], means, rtol=1e-6)
    np.testing.assert_allclose(values[rows, 9], np.nanmean(X), rtol=1e-6)
    if share == 0.1:
        hidden = ~known & rows[:, None] & (np.arange(60) != 9)
        assert np.sqrt(np.mean((values - full)[hidden] ** 2)) < 0.3 * full[hidden].std()


def test_progress_is_reported(counts):
    method = IALM()
    shares: list[float] = []
    method.progress = lambda share, text: shares.append(share)
    method.fit(counts)
    assert shares[-1] > 0.8


@pytest.mark.parametrize(
    "wrong",
    [
        {"normalization": "cpm"},
        {"rank_step": 0},
        {"rank_step": "fast"},
        {"tol": 0},
        {"max_rank": -1},
        {"inner": "both"},
        {"stop": "never"},
        {"zeros": "drop"},
        {"dtype": "float16"},
        {"ridge": -1.0},
    ],
)
def test_wrong_parameters_are_refused(counts, wrong):
    with pytest.raises(InputError, check=has_code("parameter-value")) as error:
        IALM(**wrong).fit(counts)
    assert error.value.parameter == next(iter(wrong))


def test_preserved_zeros_are_for_counts():
    X = np.random.default_rng(0).standard_normal((20, 10))
    X[0, 0] = np.nan
    with pytest.raises(InputError, check=has_code("counts-only")):
        IALM(zeros="preserve").fit(X)


def test_a_cell_of_known_zeros_only(counts):
    known = counts.toarray() > 0
    known[7, :5] = True  # an empty cell of which five zeros are known
    result = IALM().fit_transform(as_data(counts, kind="counts", observed=known))
    assert np.isfinite(result.to_array(keep_observed=False)).all()


@pytest.mark.parametrize("bad", [np.nan, -1.0, 0.0])
def test_library_sizes_are_checked(counts, bad):
    library = np.asarray(counts.sum(axis=1), dtype=float) + 1
    library[3] = bad
    with pytest.raises(InputError, match="library_size"):
        as_data(counts, kind="counts", library_size=library)


def test_the_published_iteration_claims_no_minimum():
    """The minimum of the nuclear norm is known: a low-rank matrix that is recovered exactly from its known entries."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 50))
    X = np.where(rng.random(truth.shape) < 0.4, np.nan, truth)
    smallest = np.linalg.norm(truth - np.nanmean(X, axis=0), "nuc")  # columns are centred by their known values
    found = {inner: IALM(inner=inner, dtype="float64").fit_transform(X) for inner in ("inexact", "exact")}
    norms = {inner: result.status.details["nuclear_norm"] for inner, result in found.items()}
    assert norms["inexact"] > 1.05 * smallest
    assert norms["exact"] == pytest.approx(smallest, rel=1e-3)
    error = {inner: np.abs(result.to_array() - truth)[np.isnan(X)].mean() for inner, result in found.items()}
    assert error["exact"] < 0.01 < 0.1 < error["inexact"]
    assert "inner='exact'" in found["inexact"].status.message
    assert "exact" not in found["exact"].status.message
