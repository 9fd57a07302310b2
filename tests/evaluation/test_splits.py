"""Every way of hiding values against brute force on small matrices, and against the distributions it claims."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from codes import has_code
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.masked import mask
from imputome.evaluation.splits import (
    SCHEMES,
    Split,
    check_kind_of_scheme,
    gene_probabilities,
    make_split,
    moment_overdispersion,
    normalized_before,
    row_split,
    scheme_options,
    seed_for,
)
from imputome.evaluation.streaming import score_hidden
from imputome.methods import create

N, G = 60, 25
COUNTS = [name for name, scheme in SCHEMES.items() if scheme.kind == "counts"]
REAL = [name for name, scheme in SCHEMES.items() if scheme.kind == "real"]
MASKING = [name for name in COUNTS if not name.startswith("thin")]


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.6, 4, size=(N, G)) * rng.gamma(2, size=G))
    X[:, 0] = 0
    X[3:6, 0] = 2  # a gene with three nonzeros
    X[:, 1] = 0
    X[7, :] = 0
    return as_data(X, obs_names=[f"c{i}" for i in range(N)], var_names=[f"g{j}" for j in range(G)])


@pytest.fixture
def real():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(N, G)) * rng.gamma(2, size=G) + rng.normal(size=G)
    X[rng.random(X.shape) < 0.1] = np.nan
    X[:, 4] = 1.5  # does not vary
    X[X > 2] = 0.0  # a zero is a value
    return as_data(X, kind="real", obs_names=[f"c{i}" for i in range(N)], var_names=[f"g{j}" for j in range(G)])


def needs(name):
    """What a scheme cannot do without."""
    rng = np.random.default_rng(5)
    extra = {
        "high_gc": {"gc": {f"g{j}": float(value) for j, value in enumerate(rng.random(G))}},
        "low_coverage": {"coverage": rng.integers(0, 20, size=(N, G))},
    }
    return extra.get(name, {})


def data_for(name, counts, real):
    return counts if name in COUNTS else real


def split_of(name, data, seed=3, **options) -> Split:
    return make_split(name, data, rng=np.random.default_rng(seed), **needs(name), **options)


def hidden_set(split):
    places = list(zip(split.i.tolist(), split.j.tolist(), strict=True))
    assert len(places) == len(set(places))
    return set(places)


def arrays(data):
    if isinstance(data.X, np.ndarray):
        return [data.X.copy()]
    return [data.X.data.copy(), data.X.indices.copy(), data.X.indptr.copy()]


# -- all schemes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SCHEMES)
def test_inputs_are_untouched_and_seeds_rule(name, counts, real):
    data = data_for(name, counts, real)
    before = arrays(data)
    first, again, other = split_of(name, data), split_of(name, data), split_of(name, data, seed=4)
    for now, then in zip(arrays(data), before, strict=True):
        np.testing.assert_array_equal(now, then)

    def content(split):
        parts = arrays(split.train) + ([] if split.apply is None else arrays(split.apply))
        return np.concatenate([part.ravel() for part in parts])

    np.testing.assert_array_equal(content(first), content(again))
    same = len(content(first)) == len(content(other)) and np.array_equal(content(first), content(other), equal_nan=True)
    assert same == (name == "median")
    assert first.scheme == name
    assert not first.leaky
    assert list(first.train.var_names) == list(data.var_names)
    assert first.train.kind == data.kind
    if name in COUNTS:
        assert list(first.train.obs_names) == list(data.obs_names)
        assert first.train.X.dtype == data.X.dtype


@pytest.mark.parametrize("name", SCHEMES)
def test_the_other_kind_is_refused(name, counts, real):
    other = real if name in COUNTS else counts
    with pytest.raises(InputError, check=has_code("scheme-of-other-kind")):
        split_of(name, other)
    with pytest.raises(InputError, check=has_code("scheme-of-other-kind")):
        SCHEMES[name].function(other, np.random.default_rng(0), **needs(name))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, np.nan, "half"])
def test_a_wrong_fraction_is_refused(name, fraction, counts, real):
    code = "unknown-option" if name == "median" else "parameter-value"
    with pytest.raises(InputError, check=has_code(code)):
        split_of(name, data_for(name, counts, real), fraction=fraction)


def test_unknown_names_are_refused(counts):
    with pytest.raises(InputError, check=has_code("unknown-scheme")):
        split_of("rnadom", counts)
    with pytest.raises(InputError, check=has_code("unknown-option")):
        split_of("random", counts, per_cell=True)
    with pytest.raises(InputError, check=has_code("unknown-option")):
        split_of("median", counts, fraction=0.3)
    assert scheme_options("thin") == {"fraction": 0.1}
    with pytest.raises(InputError, check=has_code("all-zero")):
        split_of("thin", as_data(np.zeros((3, 4)), kind="counts"))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
def test_the_table_describes(scheme):
    assert scheme.kind in ("counts", "real")
    assert scheme.description
    assert scheme.function.__doc__


# -- counts: entries ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "options"), [*[(name, {}) for name in MASKING], ("random", {"per_gene": True})])
def test_train_and_hidden_make_the_original(name, options, counts):
    split = split_of(name, counts, **options)
    original, train = counts.X.toarray(), split.train.X.toarray()
    places = hidden_set(split)
    for i in range(N):
        for j in range(G):
            if (i, j) in places:
                assert original[i, j] > 0
                assert train[i, j] == 0
            else:
                assert train[i, j] == original[i, j]
    np.testing.assert_array_equal(original[split.i, split.j], split.truth)
    assert split.train.X.nnz == counts.X.nnz - len(places)  # no stored zeros
    assert split.train.X.has_canonical_format
    assert split.fraction == pytest.approx(len(places) / counts.X.nnz)
    assert split.apply is None
    assert split.test is None
    assert split.ratio == 1
    np.testing.assert_array_equal(split.train.depth, train.sum(axis=1))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_random_hides_its_share(fraction, counts):
    assert len(split_of("random", counts, fraction=fraction).i) == round(fraction * counts.X.nnz)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_random_per_gene(fraction, counts):
    split = split_of("random", counts, fraction=fraction, per_gene=True)
    X = counts.X.toarray()
    for j in range(G):
        nonzeros = int((X[:, j] > 0).sum())
        expected = int(fraction * nonzeros) if nonzeros > 3 else 0  # as in the published code of scIALM
        assert (split.j == j).sum() == expected
    times = np.zeros(X.shape)
    rng = np.random.default_rng(0)
    for _ in range(300):
        again = make_split("random", counts, rng=rng, fraction=0.5, per_gene=True)
        times[again.i, again.j] += 1
    column = times[X[:, 5] > 0, 5]
    share = int(0.5 * len(column)) / len(column)
    assert np.abs(column - 300 * share).max() < 5 * np.sqrt(300 * share * (1 - share))


def brute_probabilities(X, rate):
    probabilities = {}
    for j in range(X.shape[1]):
        values = [np.log(1 + float(x)) for x in X[:, j] if x > 0]
        if values:
            mean = sum(values) / len(values)
            probabilities[j] = (np.exp(-rate * mean * mean), len(values))
    return probabilities


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.99])
def test_double_exponential_solves_for_lambda(fraction, counts):
    X = counts.X.toarray()
    probability = gene_probabilities(counts.X, fraction)
    values = np.log1p(X[:, 5][X[:, 5] > 0].astype(float))
    rate = -np.log(probability[5]) / values.mean() ** 2
    expected = 0.0
    for j, (p, size) in brute_probabilities(X, rate).items():
        assert probability[j] == pytest.approx(p, rel=1e-9)
        expected += p * size
    assert abs(expected / counts.X.nnz - fraction) < 1e-9


def test_double_exponential_as_in_the_published_code(counts):
    """Its R code: exp(-lambda * log(mean(x[x > 0]))^2), which is 1 for a gene whose counts are all 1."""
    X = counts.X.toarray()
    X[:, 3] = X[:, 3] > 0
    data = as_data(X, kind="counts")
    probability = gene_probabilities(data.X, 0.5, mean="published_code")
    means = np.array([column[column > 0].mean() if column.any() else 1.0 for column in X.astype(float).T])
    rate = -np.log(probability[5]) / np.log(means[5]) ** 2
    np.testing.assert_allclose(probability, np.exp(-rate * np.log(means) ** 2), rtol=1e-9)
    sizes = (X > 0).sum(axis=0)
    assert probability @ sizes / sizes.sum() == pytest.approx(0.5, abs=1e-9)
    split = split_of("double_exponential", data, mean="published_code")
    assert (split.j == 3).sum() == sizes[3]
    with pytest.raises(InputError, check=has_code("parameter-value")):
        split_of("double_exponential", data, mean="median")


def test_nothing_is_hidden_on_request(counts, real):
    for data in (counts, real):
        split = split_of("none", data)
        assert split.train is data
        assert len(split.i) == len(split.j) == len(split.truth) == 0
        assert split.test is None
        assert (split.fraction, split.leaky) == (0, False)
        check_kind_of_scheme("none", data.kind)
    assert scheme_options("none") == {}
    with pytest.raises(InputError, check=has_code("unknown-option")):
        split_of("none", counts, fraction=0.1)
    result = create("gene_mean").fit_transform(counts)
    assert score_hidden(result, split_of("none", counts)) == {}
    with pytest.raises(InputError, check=has_code("nothing-to-hide")):
        mask(AnnData(counts.X), scheme="none")


def test_normalized_before_is_the_papers_matrix(counts):
    """Papers 000 and 002 normalise, then hide: the matrix that is left has the library sizes of all counts."""
    X = counts.X.toarray().astype(float)
    split = split_of("random", counts, fraction=0.4)
    leaky = normalized_before(split, counts)
    assert leaky.leaky
    assert not split.leaky
    library = np.maximum(X.sum(axis=1, keepdims=True), 1)  # one cell is empty
    logs = np.log1p(1e4 * X / library)
    logs[split.i, split.j] = 0
    train = leaky.train
    np.testing.assert_array_equal(train.depth, X.sum(axis=1))
    np.testing.assert_allclose(np.log1p(1e4 * train.X.toarray() / library), logs, rtol=1e-6)
    with pytest.raises(InputError, check=has_code("protocol-scheme")):
        normalized_before(split_of("thin", counts), counts)


def test_double_exponential_hides_low_genes(counts):
    probability = gene_probabilities(counts.X, 0.5)
    sizes = np.bincount(counts.X.indices, minlength=G)
    hidden = np.zeros(G)
    rng = np.random.default_rng(1)
    for _ in range(50):
        split = make_split("double_exponential", counts, rng=rng)
        share = sizes @ probability / sizes.sum()
        sd = np.sqrt(sizes @ (probability * (1 - probability))) / sizes.sum()
        assert abs(split.fraction - share) < 4.5 * sd
        hidden += np.bincount(split.j, minlength=G)
    sd = np.sqrt(50 * sizes * probability * (1 - probability))
    assert (np.abs(hidden - 50 * sizes * probability) <= 4.5 * sd + 1e-9).all()
    with pytest.raises(InputError, check=has_code("nothing-to-hide")):  # far fewer than one entry
        split_of("double_exponential", counts, fraction=1e-12)


def test_double_exponential_out_of_reach():
    X = as_data(np.array([[1e-9, 5.0], [1e-9, 5.0]]), kind="counts")
    with pytest.raises(InputError, check=has_code("fraction-out-of-reach")):
        split_of("double_exponential", X, fraction=0.1)


def test_median(counts):
    dense = counts.X.toarray()
    middle = np.median(dense[dense > 0])
    expected = {(int(i), int(j)) for i, j in zip(*np.nonzero((dense > 0) & (dense <= middle)), strict=True)}
    split = split_of("median", counts)
    assert hidden_set(split) == expected
    assert split.fraction >= 0.5
    logs = np.log1p(1e4 * dense / np.maximum(dense.sum(axis=1, keepdims=True), 1))
    middle = np.median(logs[dense > 0])
    expected = {(int(i), int(j)) for i, j in zip(*np.nonzero((dense > 0) & (logs <= middle)), strict=True)}
    split = split_of("median", counts, scale="log1p")
    assert hidden_set(split) == expected
    assert split.fraction == pytest.approx(0.5, abs=1 / counts.X.nnz)
    with pytest.raises(InputError, check=has_code("parameter-value")):
        split_of("median", counts, scale="sqrt")


def test_a_given_library_loses_what_is_hidden(counts):
    X = counts.X.toarray().astype(float)
    extra = np.arange(N) * 10.0  # molecules of genes that are not here
    data = as_data(counts.X, library_size=X.sum(axis=1) + extra)
    split = split_of("random", data, fraction=0.4)
    np.testing.assert_allclose(split.train.depth, split.train.X.toarray().sum(axis=1) + extra)
    for name in ("thin", "thin_nb"):
        split = split_of(name, data, fraction=0.25)
        np.testing.assert_allclose(split.train.depth, split.train.X.toarray().sum(axis=1) + 0.75 * extra)


@pytest.mark.parametrize("wrap", [np.asarray, sp.csr_array])
def test_hidden_entries_are_not_observed(wrap, counts):
    known = counts.X.toarray() > 0
    known[0, :] = True  # known zeros
    data = as_data(counts.X, observed=wrap(known))
    split = split_of("random", data, fraction=0.4)
    expected = known.copy()
    expected[split.i, split.j] = False
    left = split.train.observed
    np.testing.assert_array_equal(left if isinstance(left, np.ndarray) else left.toarray(), expected)
    assert not split.train.observed_entries(split.i, split.j, split.truth).any()
    assert known.sum() == (data.observed.sum())


# -- counts: molecules -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["thin", "thin_nb"])
@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_thinning_adds_up(name, fraction, counts):
    split = split_of(name, counts, fraction=fraction)
    np.testing.assert_array_equal((split.train.X + split.test).toarray(), counts.X.toarray())
    for part in (split.train.X, split.test):
        assert isinstance(part, sp.csr_array)
        assert (part.data >= 1).all()
    assert split.i is split.j is split.truth is split.apply is None
    assert split.ratio == pytest.approx(fraction / (1 - fraction))
    assert split.fraction == pytest.approx(split.test.sum() / counts.X.sum())
    np.testing.assert_array_equal(split.train.depth, split.train.X.toarray().sum(axis=1))


def test_thin_is_binomial():
    X = as_data(np.full((100, 50), 7.0), kind="counts")
    test = split_of("thin", X, fraction=0.1).test.toarray()
    sd = np.sqrt(7 * 0.1 * 0.9)
    assert abs(test.mean() - 0.7) < 4.5 * sd / np.sqrt(test.size)
    assert test.var() == pytest.approx(sd**2, rel=0.07)


def parts_of(X, name, **options):
    split = split_of(name, X, fraction=0.3, **options)
    return split.train.X.toarray().astype(float), split.test.toarray().astype(float)


def covariance(first, second):
    """Mean covariance per gene over cells, and its standard error."""
    product = (first - first.mean(axis=0)) * (second - second.mean(axis=0))
    return product.mean(), product.std() / np.sqrt(product.size)


@pytest.mark.parametrize("per_gene", [True, False])
def test_negative_binomial_parts_are_independent(per_gene):
    rng = np.random.default_rng(2)
    n, genes, mean = 4000, 20, 5.0
    phi = np.linspace(0.2, 2.0, genes) if per_gene else np.full(genes, 0.8)
    X = as_data(rng.poisson(rng.gamma(1 / phi, mean * phi, size=(n, genes))), kind="counts")
    train, test = parts_of(X, "thin_nb", overdispersion=phi if per_gene else 0.8)
    shared, error = covariance(train, test)
    assert abs(shared) < 4.5 * error
    # the parts are NB with means and overdispersions as documented
    assert train.mean() == pytest.approx(0.7 * mean, rel=0.03)
    for part, keep in ((train, 0.7), (test, 0.3)):
        expected = keep * mean + (phi / keep) * (keep * mean) ** 2
        np.testing.assert_allclose(part.var(axis=0), expected, rtol=0.25)
        assert part.var(axis=0).sum() == pytest.approx(expected.sum(), rel=0.06)
    # while binomial thinning leaves the gamma draw in both: covariance keep (1 - keep) phi mean^2
    shared, error = covariance(*parts_of(X, "thin"))
    assert shared > 20 * error
    assert shared == pytest.approx(0.3 * 0.7 * phi.mean() * mean**2, rel=0.1)
    assert abs(covariance(*parts_of(X, "thin_nb", overdispersion=0.0))[0] - shared) < 6 * error  # 0 is binomial


def test_overdispersion_by_moments(counts):
    X = counts.X.toarray().astype(float)
    depth, total = X.sum(axis=1), X.sum(axis=0)
    expected = np.outer(depth, total) / depth.sum()
    surplus = ((X - expected) ** 2 - expected).sum(axis=0)
    brute = np.maximum(surplus / np.where(total > 0, (expected**2).sum(axis=0), np.inf), 0)
    np.testing.assert_allclose(moment_overdispersion(counts), brute, rtol=1e-9, atol=1e-12)
    pooled = surplus.sum() / (expected**2).sum()
    np.testing.assert_allclose(moment_overdispersion(counts, pooled=True), np.full(G, pooled), rtol=1e-9)
    rng = np.random.default_rng(3)
    depth = rng.gamma(5, size=(5000, 1))
    X = as_data(rng.poisson(rng.gamma(2, 0.5 * depth * np.linspace(0.5, 3, 200))), kind="counts")
    phi = moment_overdispersion(X)
    np.testing.assert_allclose(phi, 0.5, atol=0.15)
    assert phi.mean() == pytest.approx(0.5, abs=0.02)
    for options in ({}, {"overdispersion": "global"}):
        split_of("thin_nb", X, **options)


@pytest.mark.parametrize("overdispersion", [-1.0, np.inf, [0.1, 0.2], "cell"])
def test_wrong_overdispersion(overdispersion, counts):
    with pytest.raises(InputError, check=has_code("parameter-value")):
        split_of("thin_nb", counts, overdispersion=overdispersion)


@pytest.mark.parametrize("name", ["thin", "thin_nb"])
def test_only_molecules_are_split(name, counts):
    with pytest.raises(InputError):
        split_of(name, as_data(counts.X * np.float32(0.3), kind="counts"))


@pytest.mark.parametrize(("name", "options"), [*[(name, {}) for name in COUNTS], ("random", {"per_gene": True})])
def test_memory_follows_the_nonzeros(name, options):
    """Peak memory stays within 10 arrays of 8 bytes for each nonzero; the dense matrix would take 67."""
    rng = np.random.default_rng(0)
    n, genes, per_cell = 20_000, 2_000, 60
    indices = np.sort(
        rng.integers(0, genes // per_cell, size=(n, per_cell)) + np.arange(per_cell) * (genes // per_cell)
    )
    X = sp.csr_array(
        (
            rng.geometric(0.5, indices.size).astype(np.float32),
            indices.ravel(),
            np.arange(0, indices.size + 1, per_cell),
        ),
        shape=(n, genes),
    )
    data = as_data(X, kind="counts")
    tracemalloc.start()
    make_split(name, data, rng=np.random.default_rng(1), **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 8 * data.X.nnz


# -- rows --------------------------------------------------------------------------------------------------------------
def test_row_split():
    train, test = row_split(53, np.random.default_rng(0))
    assert len(test) == round(0.2 * 53)
    assert sorted([*train, *test]) == list(range(53))
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    times = np.zeros(20)
    rng = np.random.default_rng(1)
    for _ in range(500):
        times[row_split(20, rng)[1]] += 1
    assert np.abs(times - 100).max() < 5 * np.sqrt(500 * 0.2 * 0.8)


@pytest.mark.parametrize("test", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("wrap", [np.array, pd.Categorical, lambda labels: pd.Series(labels, index=range(7, 110))])
def test_row_split_is_stratified(test, wrap):
    labels = ["a"] * 60 + ["b"] * 33 + ["c"] * 7 + [None] * 2 + ["d"]
    np.random.default_rng(5).shuffle(labels)
    train, chosen = row_split(103, np.random.default_rng(0), test=test, labels=wrap(labels))
    assert len(chosen) == round(test * 103)
    assert sorted([*train, *chosen]) == list(range(103))
    number = Counter(str(labels[row]) for row in chosen)
    for label, size in Counter(map(str, labels)).items():
        assert abs(number[label] - size * len(chosen) / 103) < 1


def test_row_split_errors():
    with pytest.raises(InputError, check=has_code("length-mismatch")):
        row_split(10, np.random.default_rng(0), labels=["a", "b", "c"])
    for test in (0, 1, -1, 2):
        with pytest.raises(InputError, check=has_code("parameter-value")):
            row_split(10, np.random.default_rng(0), test=test)
    with pytest.raises(InputError, check=has_code("nothing-to-hide")):
        row_split(2, np.random.default_rng(0), test=0.1)


# -- real values -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", ["test", "all"])
@pytest.mark.parametrize("name", REAL)
def test_apply_and_hidden_make_the_test_rows(name, rows, real):
    split = split_of(name, real, rows=rows)
    at = {row: position for position, row in enumerate(real.obs_names)}
    if rows == "all":
        assert split.apply is None
        masked = split.train
        assert list(masked.obs_names) == list(real.obs_names)
    else:
        masked = split.apply
        assert sorted([*split.train.obs_names, *masked.obs_names]) == sorted(real.obs_names)
        assert len(masked.obs_names) == round(0.2 * N)
        left = real.X[[at[row] for row in split.train.obs_names]]
        if name == "blocks":  # a feature is hidden in the whole group, in the training rows too
            left = np.where(np.isnan(split.train.X), np.nan, left)
        np.testing.assert_array_equal(split.train.X, left)
    original = real.X[[at[row] for row in masked.obs_names]]
    expected = original.copy()
    places = hidden_set(split)
    for place in places:
        assert not np.isnan(original[place])
        expected[place] = np.nan
    np.testing.assert_array_equal(masked.X, expected)
    np.testing.assert_array_equal(original[split.i, split.j], split.truth)
    assert split.fraction == pytest.approx(len(places) / (~np.isnan(original)).sum())
    assert masked.bounds == real.bounds
    assert split.test is None
    assert split.ratio == 1


def candidates(split, real, allowed):
    """The hidden entries and, of the same rows, all that might have been, as sets of (row name, feature)."""
    masked = split.train if split.apply is None else split.apply
    at = {row: position for position, row in enumerate(real.obs_names)}
    hidden = {(masked.obs_names[i], j) for i, j in hidden_set(split)}
    might = {
        (row, j)
        for row in masked.obs_names
        for j in range(G)
        if not np.isnan(real.X[at[row], j]) and allowed(at[row], j)
    }
    return hidden, might


@pytest.mark.parametrize("rows", ["test", "all"])
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_mcar(fraction, rows, real):
    split = split_of("mcar", real, fraction=fraction, rows=rows)
    _, might = candidates(split, real, lambda i, j: True)
    assert len(split.i) == round(fraction * len(might))


@pytest.mark.parametrize("rows", ["test", "all"])
def test_features(rows, real):
    labels = np.array(["a", "b", "b"] * (N // 3))
    split = split_of("features", real, fraction=0.2, rows=rows, labels=labels)
    chosen = set(split.j.tolist())
    assert len(chosen) == round(0.2 * G)
    if rows == "test":
        assert np.isnan(split.apply.X[:, sorted(chosen)]).all()
        hidden, might = candidates(split, real, lambda i, j: j in chosen)
        assert hidden == might
        test_rows = [int(name[1:]) for name in split.apply.obs_names]
    else:
        test_rows = sorted(set(split.i.tolist()))
        hidden, might = candidates(split, real, lambda i, j: j in chosen and i in test_rows)
        assert hidden == might
        assert len(test_rows) == round(0.2 * N)
        assert (~np.isnan(split.train.X)).any(axis=0).all()  # each feature can still be learned
    assert Counter(labels[test_rows].tolist()) == {"a": 4, "b": 8}


# two arrays, and a third of the samples with a panel of features that both have; some values missing at random besides
DESIGNS = {
    "arrays": lambda i, j: j >= 8 if i < 30 else j < 8 or j >= 18,
    "panel": lambda i, j: i < 40 or j < 10,
    "batches": lambda i, j: (i // 15) != (j // 5),
}


@pytest.mark.parametrize("by", ["samples", "features", "both"])
@pytest.mark.parametrize("design", DESIGNS)
def test_blocks_repeat_the_holes_of_others_and_hide_nothing_else(design, by, real):
    rng = np.random.default_rng(0)
    known = np.array([[DESIGNS[design](i, j) for j in range(G)] for i in range(N)])
    X = np.where(known & (rng.random((N, G)) > 0.02), rng.normal(size=(N, G)), np.nan)
    split = split_of("blocks", as_data(X, kind="real"), rows="all", by=by, fraction=0.3)
    known = ~np.isnan(X)
    hidden = np.zeros_like(known)
    hidden[split.i, split.j] = True
    np.testing.assert_array_equal(np.isnan(split.train.X), ~known | hidden)  # the holes there were, and the new ones
    np.testing.assert_array_equal(split.train.X[known & ~hidden], X[known & ~hidden])

    def repeats(hidden, known):
        """Whether the row of each hidden value lost exactly what some other row lacks."""
        rows = np.flatnonzero(hidden.any(axis=1))
        return all(any(np.array_equal(hidden[k], known[k] & ~known[i]) for i in range(len(known))) for k in rows)

    if by == "samples":
        assert repeats(hidden, known)
    if by == "features":
        assert repeats(hidden.T, known.T)
    assert (known & ~hidden).any(axis=0).all()  # each feature can still be learned
    assert (known & ~hidden).any(axis=1).all()


def test_blocks_in_test_rows_are_hidden_in_the_training_rows_of_the_group_too():
    X = np.random.default_rng(0).normal(size=(N, G))
    X[:30, :10] = np.nan
    X[30:, 15:] = np.nan
    data = as_data(X, kind="real", obs_names=[f"c{i}" for i in range(N)])
    split = split_of("blocks", data, by="features")
    first = np.array([int(name[1:]) < 30 for name in split.train.obs_names])
    for j in set(split.j.tolist()):
        assert 10 <= j < 15  # only these are on both arrays
        lost = np.isnan(split.train.X[:, j])
        assert lost[first].all() != lost[~first].all()


def test_blocks_of_nothing(real):
    with pytest.raises(InputError, check=has_code("nothing-to-hide")):
        split_of("blocks", as_data(np.ones((20, 5)), kind="real"))
    with pytest.raises(InputError, check=has_code("parameter-value")):
        split_of("blocks", real, by="cells")


def test_rates_follow_those_of_the_holes():
    """One half of the samples lacks three times as much, one half of the features twice as much."""
    rng = np.random.default_rng(0)
    rate = np.outer(np.where(np.arange(400) < 200, 0.1, 0.3), np.where(np.arange(200) < 100, 0.5, 1.0))
    known = rng.random((400, 200)) > rate
    split = split_of("rates", as_data(np.where(known, rng.normal(size=known.shape), np.nan), kind="real"), rows="all")
    hidden = np.zeros_like(known)
    hidden[split.i, split.j] = True
    assert hidden.sum() == round(0.1 * known.sum())
    share = [
        [(hidden & known)[a, b].sum() / known[a, b].sum() for b in (slice(100), slice(100, 200))]
        for a in (slice(200), slice(200, 400))
    ]
    assert share[1][0] / share[0][0] == pytest.approx(3, rel=0.25)
    assert share[0][1] / share[0][0] == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize("low", [1.0, 3.0])
def test_rates_hide_low_values_with_the_odds_asked_for(low):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 20))
    X[rng.random(X.shape) < 0.1] = np.nan
    split = split_of("rates", as_data(X, kind="real"), rows="all", fraction=0.02, low=low)
    below = [np.mean(X[~np.isnan(X[:, j]), j] < x) for j, x in zip(split.j, split.truth, strict=True)]
    scores = (np.array(below) - 0.5) * np.sqrt(12)
    z = np.linspace(-np.sqrt(3), np.sqrt(3), 100_001)
    expected = np.average(z, weights=np.exp(-low * z))
    assert scores.mean() == pytest.approx(expected, abs=0.06)
    with pytest.raises(InputError, check=has_code("parameter-value")):
        split_of("rates", as_data(X, kind="real"), low=-1.0)


def test_labels_without_test_rows(real):
    with pytest.raises(InputError, check=has_code("labels-without-test-rows")):
        split_of("mcar", real, rows="all", labels=["a"] * N)
    with pytest.raises(InputError, check=has_code("parameter-value")):
        split_of("mcar", real, rows="some")
    with pytest.raises(InputError, check=has_code("nothing-to-hide")):
        split_of("features", real, fraction=0.01)


@pytest.mark.parametrize("wrap", [dict, pd.Series])
def test_high_gc(wrap, real):
    content = np.random.default_rng(5).permutation(G) / 100 + 0.3
    table = {f"g{j}": content[j] for j in range(20)}  # five genes are not in it
    table["other"] = 0.99
    split = make_split("high_gc", real, rng=np.random.default_rng(0), gc=wrap(table))
    highest = set(sorted(range(20), key=lambda j: -content[j])[:2])
    hidden, might = candidates(split, real, lambda i, j: j in highest)
    assert hidden <= might
    assert len(hidden) == round(0.5 * len(might))
    three = make_split("high_gc", real, rng=np.random.default_rng(0), gc=table, top=0.15, fraction=1 - 1e-9)
    assert len(set(three.j.tolist())) == 3
    with pytest.raises(InputError, check=has_code("gc-missing")):
        make_split("high_gc", real, rng=np.random.default_rng(0))
    with pytest.raises(InputError, check=has_code("gc-names-differ")):
        make_split("high_gc", real, rng=np.random.default_rng(0), gc={"other": 0.5})


@pytest.mark.parametrize("rows", ["test", "all"])
@pytest.mark.parametrize("quantile", [0.05, 0.1, 0.2, 0.3])
def test_low_values(quantile, rows, real):
    z = np.full(real.X.shape, np.nan)
    for j in range(G):
        values = [x for x in real.X[:, j] if not np.isnan(x)]
        mean = sum(values) / len(values)
        sd = np.sqrt(sum((x - mean) ** 2 for x in values) / len(values))
        z[:, j] = (real.X[:, j] - mean) / (sd if sd > 0 else 1)
    threshold = np.quantile(z[~np.isnan(z)], quantile)
    split = split_of("low_values", real, quantile=quantile, rows=rows)
    hidden, might = candidates(split, real, lambda i, j: z[i, j] < threshold)
    assert hidden <= might
    assert len(hidden) == round(0.5 * len(might))
    assert 4 not in split.j  # the feature that does not vary
    with pytest.raises(InputError, check=has_code("parameter-value")):
        split_of("low_values", real, quantile=10)


@pytest.mark.parametrize("wrap", [np.asarray, sp.csr_array, pd.DataFrame])
def test_low_coverage(wrap, real):
    coverage = np.random.default_rng(6).integers(0, 20, size=(N, G)).astype(float)
    for reads in (6, 10):
        split = make_split(
            "low_coverage", real, rng=np.random.default_rng(0), coverage=wrap(coverage), reads=reads, rows="test"
        )
        hidden, might = candidates(split, real, lambda i, j, reads=reads: coverage[i, j] < reads)
        assert hidden <= might
        assert len(hidden) == round(0.5 * len(might))
    with pytest.raises(InputError, check=has_code("nothing-to-hide")):
        make_split("low_coverage", real, rng=np.random.default_rng(0), coverage=coverage + 6)
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        make_split("low_coverage", real, rng=np.random.default_rng(0), coverage=coverage[:5])
    with pytest.raises(InputError, check=has_code("coverage-missing")):
        make_split("low_coverage", real, rng=np.random.default_rng(0))


def test_what_comes_with_the_rows(real):
    known = ~np.isnan(real.X)
    known[:, 7] = False  # numbers that are not trusted
    data = as_data(
        real.X,
        kind="real",
        obs_names=real.obs_names,
        observed=known,
        covariates=pd.DataFrame({"age": np.arange(N)}, index=real.obs_names),
    )
    split = split_of("mcar", data, fraction=0.3)
    assert 7 not in split.j
    for part in (split.train, split.apply):
        assert list(part.covariates.index) == list(part.obs_names)
        assert [f"c{age}" for age in part.covariates["age"]] == list(part.obs_names)
    at = [int(name[1:]) for name in split.apply.obs_names]
    expected = known[at]
    assert len(split.i) == round(0.3 * expected.sum())
    expected[split.i, split.j] = False
    np.testing.assert_array_equal(split.apply.observed, expected)


def test_single_precision_stays(real):
    data = as_data(real.X.astype(np.float32), kind="real")
    split = split_of("mcar", data)
    assert split.train.X.dtype == split.apply.X.dtype == split.truth.dtype == np.float32


# -- seeds -----------------------------------------------------------------------------------------------------------
def test_seeds_are_the_same_everywhere():
    here = seed_for("pbmc3k", "thin", 4, base=7)
    assert 0 <= here < 2**53
    assert here != seed_for("thin", "pbmc3k", 4, base=7)
    assert here != seed_for("pbmc3k", "thin", 5, base=7)
    code = "from imputome.evaluation.splits import seed_for; print(seed_for('pbmc3k', 'thin', 4, base=7))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == here
