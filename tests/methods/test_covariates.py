"""Coding of covariates: levels, means and SDs are remembered, and what cannot be coded is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from codes import has_code
from imputome.errors import InputError
from imputome.methods.deep.covariates import CovariateCoding


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
    new = pd.DataFrame({"site": [2.0], "age": [49], "treated": [False], "batch": ["c"], "other": ["x"]})
    expected = [[0, 0, 1, 19 / np.sqrt(350), 1, 0, 1]]
    np.testing.assert_allclose(coding.encode(new), expected, rtol=1e-6)
    again = CovariateCoding.from_json(json.loads(json.dumps(coding.to_json())))
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
