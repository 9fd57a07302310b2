"""Values of other tools: matched by name, brought to the scale of the data, and hidden values that came back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome.core.data import as_data
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError
from imputome.evaluation.outside import Outside, fitted
from imputome.evaluation.returned import returned
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.evaluation.told_scale import COMMON

N, G = 60, 30
RNG = np.random.default_rng(0)
# rates of three groups of cells of very different depths
RATES = RNG.gamma(2.0, 1.0, (3, G))[np.arange(N) % 3] * RNG.lognormal(1.0, 0.8, (N, 1))
COUNTS = RNG.poisson(RATES).astype(np.float64)
REAL = RNG.normal(size=(N, 2)) @ RNG.normal(size=(2, G)) + 0.1 * RNG.normal(size=(N, G)) + 5
CELLS = [f"AAAC{k}-1" for k in range(N)]
GENES = [f"HLA-{k}" for k in range(G)]


def split_of(kind="counts", scheme="thin", **options):
    data = as_data(COUNTS if kind == "counts" else REAL, kind=kind, obs_names=CELLS, var_names=GENES)
    options |= {"rows": "all"} if kind == "real" else {}
    return make_split(scheme, data, rng=np.random.default_rng(1), **options)


def outside(values, rows=CELLS, columns=GENES, **options):
    values = values if sp.issparse(values) else np.asarray(values)
    return Outside("tool", values, pd.Index(rows), pd.Index(columns), **options)


def codes(result):
    return [message.code for message in result.messages]


# -- names -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("in_r", [False, True])
def test_any_order_either_way_round_is_the_same(sparse, transposed, in_r):
    split = split_of()
    straight = fitted(outside(0.9 * RATES, scale="counts"), split)
    assert straight.messages == ()
    rows, columns = np.random.default_rng(3).permutation(N), np.random.default_rng(4).permutation(G)
    names = [[CELLS[k] for k in rows], [GENES[k] for k in columns] + ["extra"]]
    values = np.column_stack([0.9 * RATES[np.ix_(rows, columns)], np.full(N, 7.0)])
    if in_r:
        names = [[name.replace("-", ".") for name in each] for each in names]
    if transposed:
        values, names = values.T, names[::-1]
    result = fitted(outside(sp.csr_array(values) if sparse else values, *names, scale="counts"), split)
    np.testing.assert_array_equal(result.imputation.to_array(), straight.imputation.to_array())
    np.testing.assert_array_equal(result.imputation.at([3, 5], [2, 0]), straight.imputation.to_array()[[3, 5], [2, 0]])
    assert score_thinned(result.imputation, split) == score_thinned(straight.imputation, split)
    assert result.transposed == transposed
    expected = ["result-transposed"] * transposed + ["result-r-names"] * in_r + ["result-extra"]
    assert codes(result) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "code"),
    [
        (CELLS, [f"other{k}" for k in range(G)], "names-differ"),
        ([str(k) for k in range(N)], GENES, "names-differ"),
        (CELLS, [GENES[0], GENES[0], *GENES[2:]], "names-not-unique"),
        ([f"x{name}" if name == CELLS[4] else name for name in CELLS], GENES, "result-lacks-names"),
    ],
)
def test_other_names_are_refused(rows, columns, code):
    with pytest.raises(InputError, check=has_code(code)):
        fitted(outside(RATES, rows, columns, scale="counts"), split_of())


def test_names_that_are_not_unique_do_where_they_are_the_same():
    data = as_data(COUNTS, kind="counts", obs_names=CELLS, var_names=["same"] * G)
    split = make_split("thin", data, rng=np.random.default_rng(1))
    result = fitted(outside(RATES, columns=["same"] * G, scale="counts"), split)
    np.testing.assert_array_equal(result.imputation.to_array(), RATES)


# -- parts -------------------------------------------------------------------------------------------------------------
def test_a_part_is_scored_where_the_user_says_so():
    split = split_of()
    rows, columns = np.arange(5, N), np.setdiff1d(np.arange(G), [3, 7])
    values = 0.9 * RATES[np.ix_(rows, columns)]
    values[[2, 9], 4] = np.nan  # the gene at place 4 of those that are there: 5; two cells have more values than it
    part = outside(values, [CELLS[k] for k in rows], [GENES[k] for k in columns], scale="counts", partial=True)
    result = fitted(part, split)
    assert codes(result) == ["result-in-part"]
    columns = np.setdiff1d(columns, [5])
    test = split.test.toarray()[np.ix_(rows, columns)]
    mu = 0.9 * RATES[np.ix_(rows, columns)] / 9
    expected = np.mean(mu - test * np.log(mu))
    assert score_thinned(result.imputation, result.split)["poisson_loss"] == pytest.approx(expected, rel=1e-12)
    # a control, fitted to the whole, is scored on the same part
    whole = fitted(outside(0.9 * RATES, scale="counts"), split).imputation
    same = result.part_of(whole)
    assert score_thinned(same, result.split)["poisson_loss"] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(result.split.train.depth, split.train.depth[rows])


def test_a_part_of_hidden_values():
    split = split_of("real", "mcar")
    values = np.full((N, G), 5.0)
    values[split.i[0], split.j[0]] = np.nan
    with pytest.raises(InputError, check=has_code("result-not-finite")):
        fitted(outside(values), split)
    result = fitted(outside(values, partial=True), split)
    i, j = split.i[0], split.j[0]
    kept = (split.i != i) if (split.i == i).sum() < (split.j == j).sum() else (split.j != j)
    expected = np.sqrt(np.mean((5.0 - split.truth[kept]) ** 2))
    assert score_hidden(result.imputation, result.split)["rmse"] == pytest.approx(expected, rel=1e-12)


def test_what_is_not_scored_may_be_missing():
    split = split_of("real", "mcar")
    values = np.full((N, G), np.nan)
    values[split.i, split.j] = 5.0
    assert fitted(outside(values), split).messages == ()
    counts = COUNTS.copy()
    counts[2, 3] = np.inf
    with pytest.raises(InputError, check=has_code("result-not-finite")) as caught:
        fitted(outside(counts, scale="counts"), split_of())
    assert "'AAAC2-1', 'HLA-3'" in str(caught.value)


@pytest.mark.parametrize(("cells", "genes"), [([3], []), ([], [4, 9]), ([3, 5], [4]), ([7], range(1, G))])
def test_what_holds_no_finite_value_takes_nothing_else_along(cells, genes):
    values = RATES.copy()
    values[list(cells)], values[:, list(genes)] = np.nan, np.nan
    result = fitted(outside(values, scale="counts", partial=True), split_of())
    assert result.imputation.shape == (N - len(cells), G - len(genes))


def test_the_side_with_fewer_values_is_left_out():
    values = RATES.copy()
    values[3, :25] = np.nan
    result = fitted(outside(values, scale="counts", partial=True), split_of())
    assert result.imputation.shape == (N - 1, G)
    values[:, 2] = np.where(np.arange(N) < 50, np.nan, values[:, 2])
    values[3] = RATES[3]
    values[3, 2] = np.nan
    result = fitted(outside(values, scale="counts", partial=True), split_of())
    assert result.imputation.shape == (N, G - 1)


@pytest.mark.parametrize("partial", [False, True, None])
@pytest.mark.parametrize(("kind", "scheme"), [("counts", "thin"), ("real", "mcar")])
def test_a_result_without_any_value(partial, kind, scheme):
    with pytest.raises(InputError, check=has_code("result-all-missing")):
        fitted(outside(np.full((N, G), np.nan), partial=partial), split_of(kind, scheme))
    values = RATES.copy()
    values[np.arange(N), np.arange(N) % G] = np.nan
    if kind == "counts" and partial:
        with pytest.raises(InputError, check=has_code("nothing-to-score")):
            fitted(outside(values, scale="counts", partial=partial), split_of())


# -- scales ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", COMMON)
def test_the_scale_is_told_from_totals_or_asked_for(scale):
    split = split_of()
    counts = 0.9 * RATES * (split.train.depth / (0.9 * RATES).sum(axis=1))[:, None]
    values = counts_to_scale(counts, split.train.depth[:, None], scale)
    named = fitted(outside(values, scale=scale), split)
    np.testing.assert_allclose(named.imputation.to_array(), counts, rtol=1e-9)
    try:
        told = fitted(outside(values), split).scale
    except InputError as error:
        assert error.code == "scale-unclear"  # noqa: PT017
        told = None
    assert told in (scale, None)
    if scale in ("counts", "normalized", "log1p"):
        assert told == scale


@pytest.mark.parametrize(
    ("values", "scale", "code"),
    [
        (3 * RATES, None, "scale-unclear"),
        (RATES - RATES.mean(axis=0), None, "scale-unclear"),
        (1e4 * RATES, "log1p", "scale-contradicted"),
        (RATES / 1e3, "counts", "scale-contradicted"),
        (RATES, "ln", "unknown-scale"),
    ],
)
def test_scales_that_do_not_fit_are_refused(values, scale, code):
    with pytest.raises(InputError, check=has_code(code)):
        fitted(outside(values, scale=scale), split_of())


@pytest.mark.parametrize("scale", [None, "log1p", "counts"])
def test_zeros_are_zeros_on_every_scale(scale):
    split = split_of()
    result = fitted(outside(np.zeros((N, G)), scale=scale), split)
    assert not result.imputation.to_array().any()
    assert np.isfinite(score_thinned(result.imputation, split)["poisson_loss"])


def test_cells_without_molecules_of_a_part_do_not_tell_its_scale():
    """Of one gene most cells have no molecule, and no value but 0 sums to that."""
    counts = COUNTS.copy()
    counts[:45, 0] = 0
    data = as_data(counts, kind="counts", obs_names=CELLS, var_names=GENES)
    split = make_split("thin", data, rng=np.random.default_rng(1))
    part = outside(np.full((N, 1), counts[:, 0].mean()), columns=GENES[:1], scale="counts", partial=True)
    assert fitted(part, split).scale == "counts"


def test_doubts_about_a_scale_and_negative_values():
    split = split_of()
    counts = RATES * (split.train.depth / RATES.sum(axis=1))[:, None]
    # 10,000 molecules in each cell would be 30 times these depths
    normalized = counts_to_scale(counts, split.train.depth[:, None], "normalized")
    with pytest.raises(InputError, check=has_code("scale-contradicted")) as caught:
        fitted(outside(normalized, scale="counts"), split)
    assert caught.value.message.options == {"scale": "normalized"}
    doubtful = fitted(outside(counts_to_scale(counts, split.train.depth[:, None], "sqrt"), scale="counts"), split)
    assert set(codes(doubtful)) <= {"scale-doubtful"}
    negative = counts.copy()
    negative[0, :3] = [-0.5, -0.1, -2]
    result = fitted(outside(negative, scale="counts"), split)
    assert codes(result) == ["result-negative"]
    np.testing.assert_array_equal(result.imputation.to_array(), np.maximum(negative, 0))


def test_real_values_have_the_unit_of_the_data():
    split = split_of("real", "mcar")
    assert fitted(outside(REAL + 0.1), split).scale == "input"
    with pytest.raises(InputError, check=has_code("scale-needs-counts")):
        fitted(outside(REAL, scale="log1p"), split)
    z = (REAL - REAL.mean(axis=0)) / REAL.std(axis=0)
    assert codes(fitted(outside(z), split)) == ["result-other-unit"]


def test_the_masked_data_themselves_are_not_scored_where_a_layer_may_be_meant():
    split = split_of()
    unchanged = outside(split.train.X, layers=("magic",))
    with pytest.raises(InputError, check=has_code("result-unchanged")):
        fitted(unchanged, split)
    assert fitted(outside(split.train.X), split).messages == ()


# -- hidden values that came back --------------------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", ["thin", "random"])
@pytest.mark.parametrize("scale", ["counts", "log1p"])
def test_counts_that_were_not_hidden_from_the_tool(scheme, scale):
    split = split_of(scheme=scheme, fraction=0.3)
    library = COUNTS.sum(axis=1, keepdims=True)  # the tool had all molecules
    values = counts_to_scale(COUNTS, library, scale)
    back = returned(fitted(outside(values, scale=scale), split))
    assert back.leaked
    assert back.share == 1
    assert back.entries == (split.test.nnz if scheme == "thin" else len(split.i))


@pytest.mark.parametrize("scheme", ["thin", "random"])
def test_counts_that_were_not_hidden_and_then_rescaled(scheme):
    split = split_of(scheme=scheme, fraction=0.3)
    library = COUNTS.sum(axis=1, keepdims=True)
    to_median = COUNTS / library * np.median(library)  # as scanpy's normalize_total
    for values, scale in (
        (0.9 * COUNTS, "counts"),
        (to_median, "counts"),
        (to_median.astype(np.float32), "counts"),
        (np.log1p(7_000 * COUNTS / library), "log1p"),
    ):
        back = returned(fitted(outside(values, scale=scale), split))
        assert back.leaked
        assert back.factor
        assert back.share == 1


@pytest.mark.parametrize("scheme", ["thin", "random"])
def test_what_was_not_given_the_truth_is_not_accused_for_its_factors(scheme):
    split = split_of(scheme=scheme, fraction=0.3)
    masked = split.train.X.toarray()
    library = masked.sum(axis=1, keepdims=True)
    rank_one = np.outer(masked.sum(axis=1), masked.sum(axis=0)) / masked.sum()
    half_known = np.where(masked > 0, masked, rank_one)  # a tool that keeps what it knows
    for values in (masked, 1.1 * masked, masked / library * np.median(library), rank_one, half_known, np.rint(RATES)):
        assert not returned(fitted(outside(values, scale="counts"), split)).leaked
        assert not returned(fitted(outside(np.rint(values) * 0.9, scale="counts"), split)).leaked


@pytest.mark.parametrize("scheme", ["thin", "random"])
def test_honest_counts_come_back_by_chance_only(scheme):
    split = split_of(scheme=scheme, fraction=0.3)
    for values in (split.train.X.toarray(), RATES, np.rint(RATES)):
        back = returned(fitted(outside(values, scale="counts"), split))
        assert not back.leaked
    assert returned(fitted(outside(np.rint(RATES), scale="counts"), split)).share > 0.02  # small integers, by chance


def test_real_values_that_were_not_hidden_from_the_tool():
    split = split_of("real", "mcar")
    assert not returned(fitted(outside(REAL + 1e-3), split)).leaked
    back = returned(fitted(outside(REAL), split))
    assert (back.leaked, back.share) == (True, 1.0)
    # values that others have too, such as the zeros and ones of few reads, say nothing
    data = as_data(np.rint(REAL), kind="real", obs_names=CELLS, var_names=GENES)
    few = make_split("mcar", data, rng=np.random.default_rng(1), rows="all")
    back = returned(fitted(outside(np.full((N, G), 5.0)), few))
    assert back.share > 0.05
    assert not back.leaked
