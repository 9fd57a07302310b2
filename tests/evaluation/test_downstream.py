"""Analyses of imputed matrices, against scikit-learn, scipy, statsmodels and naive loops on the matrices themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

from codes import has_code
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.downstream import ANALYSES, downstream_scores
from imputome.evaluation.expression import (
    called_differential,
    hurdle_lrt,
    log_normalized,
    passes_findmarkers,
    precision_recall_tnr,
    welch,
    wilcoxon,
)
from imputome.evaluation.simulate import simulate_counts, simulated_groups
from imputome.evaluation.splits import make_split
from imputome.methods import create


@pytest.fixture(scope="module")
def cells():
    """Counts of three types of cells, weakly apart, and their labels; two cells have none."""
    simulation = simulate_counts(n=120, G=60, n_types=3, depth=400, de_share=0.4, rng=np.random.default_rng(0))
    labels = np.array(["a", "b", "c"], dtype=object)[simulation.cell_type]
    labels[[5, 40]] = None
    return as_data(simulation.X, kind="counts"), labels


@pytest.fixture(scope="module")
def simulated():
    rng = np.random.default_rng(3)
    return simulated_groups(rng.poisson(rng.gamma(0.5, 6.0, 120), (150, 120)), cells_per_group=80, random_state=1)


def logs(counts, library):
    """ln(1 + counts per 10,000) in a loop over cells."""
    return np.array([np.log(1 + 1e4 * row / total) for row, total in zip(counts, library, strict=True)])


def agreement(labels, clusters):
    return {
        "ari": adjusted_rand_score(labels, clusters),
        "ami": adjusted_mutual_info_score(labels, clusters, average_method="max"),
        "nmi": normalized_mutual_info_score(labels, clusters),
    }


@pytest.mark.parametrize(
    ("name", "prefix"), [("clustering_genes", "genes_"), ("clustering_renormalized", "renormalized_")]
)
def test_the_whole_matrix_is_clustered_as_in_the_papers(name, prefix, cells):
    data, labels = cells
    result = create("ialm", {"rank_step": 3, "max_rank": 5}).fit_transform(data)
    imputed = result.to_array(scale="counts").astype(np.float64)
    library = data.depth if name == "clustering_genes" else imputed.sum(axis=1)
    known = np.flatnonzero(labels != None)  # noqa: E711
    matrix = logs(imputed, library)[known].astype(np.float32)
    clusters = KMeans(3, n_init=25, random_state=4).fit_predict(matrix)
    expected = agreement(labels[known].astype(str), clusters)
    scores = downstream_scores(result, [name], labels=labels, random_state=4)
    assert scores == {prefix + key: pytest.approx(value, abs=1e-9) for key, value in expected.items()}
    assert 0.2 < expected["ari"] < 1  # or an error in the matrix could not be seen


def test_renormalizing_matters(cells):
    """Totals of ialm rise with the zeros that it fills, so the two normalisations differ."""
    data, _ = cells
    imputed = create("ialm", {"max_rank": 5}).fit_transform(data).to_array(scale="counts")
    assert np.ptp(imputed.sum(axis=1) / data.depth) > 0.1


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_calls_are_those_of_scipy(test, simulated):
    groups = (simulated.obs["group"] == "group 1").to_numpy()
    logged = logs(simulated.X.toarray(), np.asarray(simulated.X.sum(axis=1)).ravel())
    if test == "t":
        p = stats.ttest_ind(logged[groups], logged[~groups], equal_var=False).pvalue
    else:
        p = stats.mannwhitneyu(logged[groups], logged[~groups], method="asymptotic", use_continuity=False).pvalue
    p = np.nan_to_num(p, nan=1.0)  # genes without a count
    called = called_differential(logged, groups, test=test)
    np.testing.assert_array_equal(called, p * len(p) < 0.05)
    assert called.any()


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_welch_is_scipys(cells):
    data, labels = cells
    logged = logs(data.X.toarray(), data.depth)
    logged[:, 0], logged[:, 1] = 2.5, np.where(labels == "a", 2.0, 1.0)
    table = welch(logged, labels == "a")
    usable = np.arange(2, logged.shape[1])
    expected = stats.ttest_ind(logged[labels == "a"], logged[labels != "a"], equal_var=False)
    np.testing.assert_allclose(table["statistic"][usable], expected.statistic[usable], rtol=1e-9)
    np.testing.assert_allclose(table["df"][usable], expected.df[usable], rtol=1e-9)
    np.testing.assert_allclose(table["p_value"][usable], expected.pvalue[usable], rtol=1e-7)
    assert table["p_value"][[0, 1]].tolist() == [1.0, 0.0]  # constant; apart without any variance
    sparse = welch(log_normalized(data.X), labels == "a")
    np.testing.assert_allclose(sparse["p_value"][usable], expected.pvalue[usable], rtol=1e-6)
    with pytest.raises(InputError, check=has_code("too-few-cells")):
        welch(logged[:3], [True, False, False])


def test_findmarkers_by_its_definition(simulated):
    """Seurat 4: detected in 10 % of one group, log2 of the ratio of mean counts (plus one) 0.25 from zero or more."""
    groups = (simulated.obs["group"] == "group 1").to_numpy()
    logged = logs(simulated.X.toarray(), np.asarray(simulated.X.sum(axis=1)).ravel())
    logged[:, 0] = 3 + 0.05 * groups + np.random.default_rng(0).normal(0, 0.01, len(groups))  # sure, and small
    expected = []
    for gene in logged.T:
        first, second = gene[groups], gene[~groups]
        share = max(round(np.mean(first > 0), 3), round(np.mean(second > 0), 3))
        change = np.log2(np.mean(np.exp(first) - 1) + 1) - np.log2(np.mean(np.exp(second) - 1) + 1)
        expected.append(share >= 0.1 and abs(change) >= 0.25)
    np.testing.assert_array_equal(passes_findmarkers(logged, groups), expected)
    assert 0 < np.mean(expected) < 1
    table = hurdle_lrt(logged, groups, detection_rate=False)
    called = called_differential(logged, groups)
    np.testing.assert_array_equal(called, (table["p_adjusted"] < 0.05) & np.array(expected))
    assert table["p_adjusted"][0] < 1e-9
    assert not called[0]


def test_simulated_truth_is_found_without_imputation(simulated):
    data = as_data(simulated.X, kind="counts", obs_names=simulated.obs_names, var_names=simulated.var_names)
    split = make_split("none", data, rng=np.random.default_rng(0))
    result = create("no_imputation").fit_transform(split.train)
    truth = simulated.var["differential"]
    scores = downstream_scores(result, ["de_truth"], labels=simulated.obs["group"], differential=truth)
    assert set(scores) == set(ANALYSES["de_truth"].scores)
    logged = logs(simulated.X.toarray(), data.depth)
    groups = (simulated.obs["group"] == "group 1").to_numpy()
    for prefix, test in {"": "findmarkers", "t_": "t", "wilcoxon_": "wilcoxon", "hurdle_": "hurdle"}.items():
        called = called_differential(logged, groups, test=test)
        right = int((called & truth).sum())
        assert scores[f"{prefix}precision"] == pytest.approx(right / called.sum())
        assert scores[f"{prefix}recall"] == pytest.approx(right / truth.sum())
        assert scores[f"{prefix}tnr"] == pytest.approx((~called & ~truth).sum() / (~truth).sum())
    assert scores["tnr"] > 0.95
    shuffled = truth.sample(frac=1, random_state=0)
    again = downstream_scores(result, ["de_truth"], labels=simulated.obs["group"], differential=shuffled)
    assert again == scores  # a Series is matched by name


def test_differences_before_hiding(cells):
    data, labels = cells
    split = make_split("random", data, rng=np.random.default_rng(1), fraction=0.3)
    result = create("ialm", {"max_rank": 5}).fit_transform(split.train)
    known = np.flatnonzero(labels != None)  # noqa: E711
    first = labels[known] == "a"
    before = wilcoxon(logs(data.X.toarray(), data.depth)[known], first)["p_adjusted"] < 0.05
    after = wilcoxon(logs(result.to_array(scale="counts"), split.train.depth)[known], first)["p_adjusted"] < 0.05
    expected = precision_recall_tnr(truth=before.to_numpy(), called=after.to_numpy())
    assert downstream_scores(result, ["de"], labels=labels, before=data) == pytest.approx(expected)
    assert not before.equals(after)
    unmasked = create("no_imputation").fit_transform(data)
    assert downstream_scores(unmasked, ["de"], labels=labels) == {"precision": 1.0, "recall": 1.0, "tnr": 1.0}


def test_leiden_in_both_spaces_and_real_values(cells):
    pytest.importorskip("igraph")
    data, labels = cells
    result = create("no_imputation").fit_transform(data)
    scores = downstream_scores(result, ["leiden", "leiden_genes", "clustering"], labels=labels)
    assert set(scores) == {
        "ari",
        "ami",
        "nmi",
        *(f"leiden{space}_{name}" for space in ("", "_genes") for name in ("ari", "ami", "nmi")),
    }
    real = as_data(np.random.default_rng(0).normal(size=(12, 4)) + np.repeat([0, 9], 6)[:, None], kind="real")
    values = create("mean").fit_transform(real)
    assert downstream_scores(values, ["clustering", "clustering_genes"], labels=[0] * 6 + [1] * 6)["genes_ari"] == 1


@pytest.mark.filterwarnings("error")
def test_equal_cells_are_one_cluster():
    result = create("no_imputation").fit_transform(as_data(np.tile([1, 2, 3], (6, 1)), kind="counts"))
    scores = downstream_scores(result, ["clustering", "clustering_genes", "de"], labels=["a", "b"] * 3)
    assert scores["ari"] == scores["genes_ari"] == 0
    assert scores["tnr"] == 1


@pytest.mark.parametrize(
    ("analyses", "options", "code"),
    [
        (["umap"], {}, "parameter-value"),
        (["clustering"], {"labels": ["a"]}, "length-mismatch"),
        (["de_truth"], {}, "truth-missing"),
        (["de_truth"], {"differential": [True]}, "length-mismatch"),
        (["de_truth"], {"differential": np.zeros(60)}, "not-boolean"),
        (["de_truth"], {"differential": pd.Series([True], ["elsewhere"])}, "names-differ"),
        (["de"], {"before": as_data(np.ones((2, 2)), kind="counts")}, "shape-mismatch"),
    ],
)
def test_wrong_input(analyses, options, code, cells):
    data, labels = cells
    result = create("no_imputation").fit_transform(data)
    with pytest.raises(InputError, check=has_code(code)):
        downstream_scores(result, analyses, **{"labels": labels, **options})


def test_counts_only():
    real = as_data(np.arange(12.0).reshape(4, 3), kind="real")
    result = create("mean").fit_transform(real)
    with pytest.raises(InputError, check=has_code("downstream-kind")):
        downstream_scores(result, ["de"], labels=["a", "a", "b", "b"])
