"""`imputome.sklearn.Imputer` beside scikit-learn's own imputers, and under scikit-learn's own checks."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.sklearn import Imputer

METHODS = ("mean", "knn", "svd", "soft_impute", "gaussian_copula")
every_method = pytest.mark.parametrize("method", METHODS)


@parametrize_with_checks([Imputer(method) for method in METHODS])  # all pass: there is no list of expected failures
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


def matrix(n=30, G=6, *, seed=0, dtype=np.float64):
    """Correlated values, 10 % NaN, mean 3."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) @ rng.normal(size=(2, G)) + 0.1 * rng.normal(size=(n, G)) + 3
    X[rng.random(X.shape) < 0.1] = np.nan
    return X.astype(dtype)


# -- values ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@every_method
def test_values_are_those_of_the_method(method, dtype):
    X, new = matrix(dtype=dtype), matrix(9, seed=1, dtype=dtype)
    imputer = Imputer(method, link="none")
    estimator = methods.create(method)
    expected = estimator.fit_transform(as_data(X, kind="real")).to_array()
    filled = imputer.fit_transform(X)
    assert filled.dtype == dtype
    np.testing.assert_array_equal(filled, expected.astype(dtype))
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    expected = estimator.transform(as_data(new, kind="real")).to_array()
    np.testing.assert_array_equal(imputer.transform(new), expected.astype(dtype))


@pytest.mark.parametrize(("method", "strategy"), [("mean", "mean"), ("median", "median")])
def test_mean_and_median_are_those_of_scikit_learn(method, strategy):
    X, new = matrix(), matrix(9, seed=1)
    new[2] = np.nan
    ours, theirs = Imputer(method, link="none").fit(X), SimpleImputer(strategy=strategy).fit(X)
    np.testing.assert_allclose(ours.transform(new), theirs.transform(new), rtol=1e-12)


def test_heavy_tails_are_imputed_on_a_link_unless_told_otherwise():
    rng = np.random.default_rng(0)
    X = np.exp(1.5 * rng.normal(size=(300, 200)) + 3)
    X[rng.random(X.shape) < 0.1] = np.nan
    assert Imputer("knn").fit(X).estimator_.link == "asinh"
    assert Imputer("knn", link="none").fit(X).estimator_.link == "identity"
    assert Imputer("knn", link="clip").fit(X).estimator_.link == "clip"
    chosen = methods.create("knn")
    chosen.link = "clip"
    assert Imputer(chosen).fit(X).estimator_.link == "clip"
    assert Imputer(chosen, link="none").fit(X).estimator_.link == "identity"


@every_method
def test_complete_data_pass_through(method):
    X = np.nan_to_num(matrix(), nan=3.0)
    imputer = Imputer(method)
    np.testing.assert_array_equal(imputer.fit_transform(X), X)
    new = X[:3].copy()
    filled = imputer.transform(new)
    np.testing.assert_array_equal(filled, new)
    filled[:] = 0  # the output is not a view of the input
    assert new.all()


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 5), (5, 3)])
@every_method
def test_small_data(method, shape):
    X = matrix(*shape, seed=3)
    X[0, 0], X[1:, 0], X[:, 1] = np.nan, 1.5, np.arange(shape[0])
    filled = Imputer(method).fit_transform(X)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])


def test_too_little_data_is_refused():
    with pytest.raises(ValueError, match="1 sample"):
        Imputer("mean").fit(matrix(1))
    with pytest.raises(ValueError, match="1 feature"):
        Imputer("mean").fit(matrix(G=1))
    X = matrix()
    X[:, 1:] = np.nan
    with pytest.raises(InputError, check=has_code("too-few-observed")):
        Imputer("mean").fit(X)


# -- missing values ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("marker", [-1, -1.0, 0, np.int64(-99), np.float32(7)])
@every_method
def test_a_number_for_missing_values(method, marker):
    X, new = matrix(), matrix(9, seed=1)
    imputer = Imputer(method, missing_values=marker)
    filled = imputer.fit_transform(np.where(np.isnan(X), marker, X))
    np.testing.assert_array_equal(filled, Imputer(method).fit_transform(X))
    assert get_tags(imputer).input_tags.allow_nan is False
    np.testing.assert_array_equal(
        imputer.transform(np.where(np.isnan(new), marker, new)), Imputer(method).fit(X).transform(new)
    )
    with pytest.raises(ValueError, match="NaN"):
        imputer.transform(new)


def test_integers_with_a_number_for_missing_values():
    X = np.array([[1, 10], [-1, 20], [3, -1]])
    expected = SimpleImputer(missing_values=-1).fit_transform(X)
    np.testing.assert_array_equal(Imputer("mean", missing_values=-1).fit_transform(X), expected)


@pytest.mark.parametrize("marker", [np.nan, None, pd.NA])
def test_nan_none_and_na_are_all_missing(marker):
    X = matrix()
    expected = Imputer("knn").fit_transform(X)
    imputer = Imputer("knn", missing_values=marker)
    assert get_tags(imputer).input_tags.allow_nan is True
    objects = np.where(np.isnan(X), pd.NA if marker is pd.NA else None, X.astype(object))
    names = [f"g{j}" for j in range(6)]
    forms = {
        "array": X,
        "objects": objects,
        "frame": pd.DataFrame(X, columns=names),
        "frame of objects": pd.DataFrame(objects, columns=names),
        "nullable": pd.DataFrame(X, columns=names).astype("Float64"),
        "mixed": pd.DataFrame(X, columns=names).astype({"g1": "Float64", "g2": object}),
    }
    for name, form in forms.items():
        np.testing.assert_array_equal(imputer.fit_transform(form), expected, err_msg=name)
        assert hasattr(imputer, "feature_names_in_") == isinstance(form, pd.DataFrame)


@pytest.mark.parametrize("marker", ["?", True, np.inf, [1]])
def test_impossible_missing_values_are_refused(marker):
    with pytest.raises(InputError, check=has_code("parameter-value")):
        Imputer("mean", missing_values=marker).fit(matrix())


# -- features and names ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("indicator", [False, True])
@every_method
def test_empty_features_and_indicator_are_those_of_scikit_learn(method, keep, indicator):
    X, new = matrix(), matrix(9, seed=1)
    X[:, 2] = np.nan
    X[:, 4] = np.nan_to_num(X[:, 4], nan=3)
    new[0, 2], new[1, 2], new[3] = 5.0, np.nan, np.nan
    options = {"keep_empty_features": keep, "add_indicator": indicator}
    ours, theirs = Imputer(method, **options), SimpleImputer(**options)
    for values, expected in (
        (ours.fit_transform(X), theirs.fit_transform(X)),
        (ours.transform(new), theirs.transform(new)),
        (ours.transform(np.ones((2, 6))), theirs.transform(np.ones((2, 6)))),
    ):
        assert values.shape == expected.shape
        assert np.isfinite(values).all()
        if method == "mean":
            np.testing.assert_allclose(values, expected, rtol=1e-12)
        if indicator:
            np.testing.assert_array_equal(values[:, 6 - (not keep) :], expected[:, 6 - (not keep) :])
        if keep:
            np.testing.assert_array_equal(values[:, 2], expected[:, 2])
    np.testing.assert_array_equal(ours.get_feature_names_out(), theirs.get_feature_names_out())
    np.testing.assert_array_equal(
        ours.get_feature_names_out(list("abcdef")), theirs.get_feature_names_out(list("abcdef"))
    )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_in_and_out(library):
    frames = pytest.importorskip(library)
    names = [f"g{j}" for j in range(6)]
    X = matrix()
    frame = frames.DataFrame({name: X[:, j] for j, name in enumerate(names)})
    imputer = Imputer("knn", add_indicator=True).set_output(transform=library)
    filled = imputer.fit_transform(frame)
    assert isinstance(filled, frames.DataFrame)
    assert list(filled.columns) == list(imputer.get_feature_names_out())
    assert list(filled.columns)[:6] == list(imputer.feature_names_in_) == names
    np.testing.assert_array_equal(filled.to_numpy()[:, :6], Imputer("knn").fit_transform(X))
    other = frames.DataFrame({name: X[:, j] for j, name in enumerate(names[::-1])})
    with pytest.raises(ValueError, match="feature names"):
        imputer.transform(other)


# -- pipelines and parameters ------------------------------------------------------------------------------------------
def test_pipeline_and_cross_validation():
    X = matrix(60)
    y = np.nansum(X, axis=1)
    assert np.isfinite(cross_val_score(make_pipeline(Imputer("svd"), Ridge()), X, y, cv=3)).all()
    pipeline = make_pipeline(Imputer("mean"), Ridge())
    grid = {"imputer__method": ["mean", "knn"], "imputer__params": [None]}
    search = GridSearchCV(pipeline, [grid, {"imputer__method": ["knn"], "imputer__params": [{"n_neighbors": 2}]}], cv=3)
    search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    chosen = search.best_estimator_[0]
    assert isinstance(chosen.estimator_, methods.get(search.best_params_["imputer__method"]))
    nested = GridSearchCV(
        make_pipeline(Imputer(methods.create("knn")), Ridge()), {"imputer__method__n_neighbors": [2, 9]}, cv=3
    )
    assert (
        nested.fit(X, y).best_estimator_[0].estimator_.n_neighbors
        == nested.best_params_["imputer__method__n_neighbors"]
    )


def test_part_of_the_columns():
    X = matrix()
    part = ColumnTransformer([("impute", Imputer("knn"), [0, 1, 2])], remainder="passthrough").fit_transform(X)
    np.testing.assert_array_equal(part[:, :3], Imputer("knn").fit_transform(X[:, :3]))


def test_methods_as_names_classes_and_estimators():
    X = matrix()
    KNN = methods.get("knn")
    expected = Imputer("knn", params={"n_neighbors": 3}).fit_transform(X)
    for imputer in (
        Imputer(KNN, params={"n_neighbors": 3}),
        Imputer(KNN(n_neighbors=3)),
        clone(Imputer(KNN(n_neighbors=3))),
    ):
        np.testing.assert_array_equal(imputer.fit_transform(X), expected)
    given = KNN(n_neighbors=3)
    Imputer(given).fit(X)
    assert not hasattr(given, "feature_names_")  # a copy is fitted


def test_seed():
    X = matrix()
    assert Imputer("svd", random_state=4).fit(X).estimator_.random_state == 4
    assert Imputer("svd", params={"random_state": 2}, random_state=4).fit(X).estimator_.random_state == 2
    assert Imputer(methods.create("svd", {"random_state": 2}), random_state=4).fit(X).estimator_.random_state == 2


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"method": "magik"}, "unknown-method"),
        ({"method": KNNImputer()}, "not-a-method"),
        ({"method": "gene_mean"}, "wrong-kind"),
        ({"method": "knn", "params": {"neighbours": 3}}, "unknown-parameter"),
        ({"method": "knn", "params": {"n_neighbors": "many"}}, "parameter-value"),
        ({"params": [1]}, "parameter-value"),
        ({"link": "log"}, "parameter-value"),
        ({"add_indicator": 1}, "parameter-value"),
        ({"random_state": -1}, "parameter-value"),
    ],
)
def test_wrong_parameters_are_refused_at_fit(params, code):
    with pytest.raises(InputError, check=has_code(code)):
        Imputer(**params).fit(matrix())


def test_pickled_after_fit():
    X = matrix()
    imputer = Imputer().fit(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(imputer)).transform(X), imputer.transform(X))  # noqa: S301


def test_scikit_learn_is_imported_only_when_asked_for():
    code = (
        "import imputome, sys; assert 'sklearn' not in sys.modules; imputome.sklearn.Imputer; 'sklearn' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("keep", [True, False])
def test_values_of_a_feature_that_was_empty_at_fit_are_never_changed(keep):
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(30, 4)), rng.normal(size=(5, 4))
    X[:, 2], X[0, 0], new[0, 0], new[1, 2] = np.nan, np.nan, np.nan, np.nan
    filled = Imputer("knn", keep_empty_features=keep).fit(X).transform(new)
    observed = ~np.isnan(new)
    if keep:
        np.testing.assert_array_equal(filled[observed], new[observed])
    else:
        np.testing.assert_array_equal(filled[1:], new[1:, [0, 1, 3]])


@pytest.mark.parametrize("marker", [np.nan, None, -1.0])
def test_masked_values_are_missing(marker):
    X = matrix()
    masked = np.ma.masked_array(np.where(np.isnan(X), -999, X), np.isnan(X))
    expected = Imputer("knn").fit_transform(X)
    np.testing.assert_array_equal(Imputer("knn", missing_values=marker).fit_transform(masked), expected)
    whole = np.ma.masked_array(np.rint(masked.data).astype(int), masked.mask)
    assert Imputer("knn").fit_transform(whole).min() > -999
