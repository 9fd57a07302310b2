"""Coding of covariates: levels, means and SDs are remembered, and what cannot be coded is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import imputome
from codes import has_code, warns
from imputome.errors import InputError
from imputome.methods.deep.covariates import CovariateCoding, meaning
from imputome.result.adapt import covariates_to_learn
from places import SHARED


def table():
    return pd.DataFrame(
        {
            "batch": pd.Categorical(["b", "a", "b", "c"], categories=["c", "b", "a", "never"]),
            "age": [10, 20, 30, 60],
            "treated": [True, False, False, True],
            "site": [1.0, 1.0, 1.0, 1.0],
        },
        index=["w", "x", "y", "z"],
    )


def test_categories_one_hot_and_numbers_standardised():
    coding = CovariateCoding.learn(table())
    assert coding.columns == ["batch=a", "batch=b", "batch=c", "age", "treated=False", "treated=True", "site"]
    coded = coding.encode(table())
    assert coded.dtype == np.float32
    np.testing.assert_array_equal(coded[:, :3], [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    ages = np.array([10, 20, 30, 60])
    np.testing.assert_allclose(coded[:, 3], (ages - 30) / np.sqrt(350), rtol=1e-6)
    np.testing.assert_array_equal(coded[:, 4:6], [[0, 1], [1, 0], [1, 0], [0, 1]])
    np.testing.assert_array_equal(coded[:, 6], 0)  # what does not vary says nothing


def test_new_cells_are_coded_by_what_was_learned():
    coding = CovariateCoding.learn(table())
    new = pd.DataFrame({"site": [1.0], "age": [49], "treated": [False], "batch": ["c"], "other": ["x"]})
    expected = [[0, 0, 1, 19 / np.sqrt(350), 1, 0, 0]]
    np.testing.assert_allclose(coding.encode(new), expected, rtol=1e-6)
    again = CovariateCoding.from_json(coding.to_json())
    assert again == coding
    np.testing.assert_array_equal(again.encode(new), coding.encode(new))


def test_no_covariates_give_no_columns():
    empty = pd.DataFrame(index=["a", "b"])
    assert CovariateCoding.learn(empty).encode(empty).shape == (2, 0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"batch": ["a", "a", "d", "e"]}, "covariate-level"),
        ({"batch": ["a", None, "b", "c"]}, "covariate-value"),
        ({"age": [1.0, np.nan, 2.0, 3.0]}, "covariate-value"),
        ({"age": [1.0, np.inf, 2.0, 3.0]}, "covariate-value"),
        ({"age": ["old", "old", "new", "new"]}, "covariate-type"),
        ({"site": [1.0, 1.0, 2.0, 1.0]}, "covariate-level"),
    ],
)
def test_what_cannot_be_coded_is_refused(changes, code):
    coding = CovariateCoding.learn(table())
    with pytest.raises(InputError, check=has_code(code)) as error:
        coding.encode(table().assign(**changes))
    assert repr(next(iter(changes))) in str(error.value)
    if code == "covariate-value":
        with pytest.raises(InputError, check=has_code(code)):
            CovariateCoding.learn(table().assign(**changes))


def test_missing_and_duplicate_columns_are_refused():
    with pytest.raises(InputError, check=has_code("covariates-missing")):
        CovariateCoding.learn(table()).encode(table()[["age", "treated"]])
    twice = pd.DataFrame(np.ones((3, 2)), columns=["a", "a"])
    with pytest.raises(InputError, check=has_code("covariate-duplicate")):
        CovariateCoding.learn(twice)


# -- whole numbers -----------------------------------------------------------------------------------------------------
BATCHES = np.random.default_rng(0).integers(0, 5, 200)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (BATCHES, "category"),
        (BATCHES.astype(np.int8), "category"),
        (BATCHES.astype(np.uint16), "category"),
        (pd.array(BATCHES, dtype="Int64"), "category"),
        (BATCHES + 10**6, "category"),
        (BATCHES > 2, "category"),
        (BATCHES.astype(str), "category"),
        (pd.Categorical(BATCHES, categories=range(9)), "category"),
        (np.ones(200, int), "category"),
        (BATCHES.astype(float), "number"),
        (np.arange(200), "number"),
        (np.random.default_rng(1).integers(20, 80, 200), "unclear"),
        (np.random.default_rng(1).integers(20, 80, 60), "number"),
    ],
)
def test_what_a_column_is_taken_for(column, expected):
    column = pd.Series(column)
    assert meaning(column) == expected
    if expected == "unclear":
        with pytest.raises(InputError, check=has_code("covariate-unclear")):
            CovariateCoding.learn(pd.DataFrame({"batch": column}))
        return
    columns = CovariateCoding.learn(pd.DataFrame({"batch": column})).columns
    levels = sorted({str(value) for value in column})
    assert columns == (["batch"] if expected == "number" else [f"batch={level}" for level in levels])


def test_a_quantity_is_advised_where_it_can_be_one():
    for column, advised in (
        (BATCHES, True),
        (BATCHES > 2, False),
        (BATCHES.astype(str), False),
        (np.ones(200, int), False),
    ):
        coding = CovariateCoding.learn(pd.DataFrame({"batch": column}))
        with pytest.raises(InputError, check=has_code("covariate-level")) as error:
            coding.encode(pd.DataFrame({"batch": [7]}))
        assert ("covariates" in error.value.message.options) == advised


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int8, object, str, "category"])
def test_batch_numbers_are_the_same_level_in_every_type(dtype):
    coding = CovariateCoding.learn(pd.DataFrame({"batch": BATCHES}))
    coded = coding.encode(pd.DataFrame({"batch": pd.Series([4, 0]).astype(dtype)}))
    np.testing.assert_array_equal(coded, np.eye(5)[[4, 0]])
    with pytest.raises(InputError, check=has_code("covariate-level")):
        coding.encode(pd.DataFrame({"batch": pd.Series([4, 7]).astype(dtype)}))


# -- by the name of a column, with what the user says it is -----------------------------------------------------------
@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "batch": BATCHES,
            "as_float": BATCHES.astype(float),
            "age": np.random.default_rng(1).integers(20, 80, 200),
            "weight": rng.normal(size=200),
            "many_floats": np.random.default_rng(1).integers(20, 80, 200).astype(float),
            "text": pd.Categorical(BATCHES.astype(str)),
            "a:number": BATCHES,
            "gaps": pd.array([None, *BATCHES[1:]], dtype="Int64"),
        },
        index=[f"c{i}" for i in range(200)],
    )
    return ad.AnnData(rng.poisson(2.0, (200, 6)).astype(np.float32), obs=obs)


@pytest.mark.parametrize(
    ("name", "numbers", "codes"),
    [
        ("batch", False, ["covariate-whole-numbers"]),
        ("batch:number", True, []),
        ("batch:category", False, []),
        ("as_float", False, ["covariate-whole-numbers"]),
        ("as_float:category", False, []),
        ("as_float:number", True, []),
        ("many_floats", True, []),
        ("age:number", True, []),
        ("age:category", False, []),
        ("weight", True, []),
        ("text", False, []),
        ("a:number", False, ["covariate-whole-numbers"]),
    ],
)
def test_the_user_says_what_it_is(adata, name, numbers, codes):
    table, messages = covariates_to_learn(adata, [name])
    assert [message.code for message in messages] == codes
    assert list(table.columns) == [name if name in adata.obs else name.partition(":")[0]]
    assert (CovariateCoding.learn(table).covariates[0].levels is None) == numbers
    for message in messages:  # what it advises works, and says nothing more
        assert covariates_to_learn(adata, [message.options["covariates"]])[1] == []


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["age"], "covariate-unclear"),
        (["batch", "batch:number"], "covariate-duplicate"),
        (["text:number"], "covariate-type"),
        (["nope"], "no-obs-column"),
        (["nope:number"], "no-obs-column"),
        (["batch:text"], "no-obs-column"),
    ],
)
def test_names_that_cannot_be_used(adata, names, code):
    with pytest.raises(InputError, check=has_code(code)):
        covariates_to_learn(adata, names)


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_an_unseen_batch_number_is_refused(adata, dtype):
    pytest.importorskip("torch")
    adata.obs["batch"] = adata.obs["batch"].astype(dtype)
    params = {"encoder": "4", "max_epochs": 2, "device": "cpu"}
    with warns("covariate-whole-numbers"):
        model = imputome.fit_model(adata, method="zipo", covariates=["batch"], params=params)
    new = adata[:20].copy()
    assert np.isfinite(imputome.apply_model(new, model, copy=True).layers["zipo"]).all()
    new.obs["batch"] = 7
    with pytest.raises(InputError, check=has_code("covariate-level")) as error:
        imputome.apply_model(new, model)
    # the remedy: told that it is a quantity, the model takes any number
    covariates = [error.value.message.options["covariates"]]
    model = imputome.fit_model(adata, method="zipo", covariates=covariates, params=params)
    assert np.isfinite(imputome.apply_model(new, model, copy=True).layers["zipo"]).all()
    with pytest.raises(InputError, check=has_code("covariate-value")):
        imputome.fit_model(adata, method="zipo", covariates=["gaps"], params=params)


def test_the_file_of_the_report():
    pytest.importorskip("torch")
    path = SHARED / "faults" / "integer_batch.h5ad"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    adata = ad.read_h5ad(path)
    params = {"encoder": "4", "max_epochs": 1, "device": "cpu"}
    with warns("covariate-whole-numbers"):
        model = imputome.fit_model(adata, method="zipo", covariates=["batch"], params=params)
    adata.obs["batch"] = 7
    with pytest.raises(InputError, check=has_code("covariate-level")):
        imputome.apply_model(adata, model)
