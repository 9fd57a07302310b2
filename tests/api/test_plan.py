"""Plans: what cannot be done is refused before anything is computed, with one code for each fault."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import imputome
from codes import has_code
from imputome.api.plan import InMemory, Options, checked_options, plan_apply, plan_fine_tune, plan_fit, plan_impute
from imputome.errors import InputError, ModelFormatError, NotFittedError
from imputome.methods import create, get

rng = np.random.default_rng(0)
COUNTS = rng.poisson(rng.gamma(0.5, 2.0, size=(60, 30))).astype(np.float32) + np.eye(60, 30, dtype=np.float32)
LOGGED = np.log1p(1e4 * COUNTS / np.maximum(COUNTS.sum(axis=1, keepdims=True), 1))
REAL = np.where(rng.random((60, 30)) < 0.1, np.nan, rng.normal(size=(60, 30)))


@pytest.fixture(autouse=True)
def nothing_is_fitted(request, monkeypatch):
    if "model" not in request.fixturenames:
        monkeypatch.setattr("imputome.core.imputer.Imputer.fit_transform", lambda *_: pytest.fail("a fit began"))


def planned(X, **options):
    options = Options(**options)
    return plan_impute(ad.AnnData(X), options, InMemory(), estimator=checked_options(options))


@pytest.mark.parametrize(
    ("X", "options", "code"),
    [
        (REAL, {"method": "ialm", "posterior": True}, "posterior-needs-counts"),
        (LOGGED, {"method": "gene_mean_posterior", "scale": "log1p"}, "not-integers"),
        (LOGGED, {"method": "auto", "check": False, "scale": "log1p"}, "not-integers"),
        (COUNTS, {"method": "gene_mean", "transform": "asinh"}, "transform-needs-real"),
        (COUNTS, {"method": "gene_mean_posterior", "outputs": ("variance",), "scale": "log1p"}, "variance-scale"),
        (COUNTS, {"method": "gene_mean_posterior", "uncertainty": True, "scale": "normalized"}, "variance-scale"),
        (COUNTS, {"method": "gene_mean", "uncertainty": True}, "no-uncertainty"),
        (COUNTS, {"method": "gene_mean", "draws": 2}, "no-draws"),
        (COUNTS, {"method": "gene_mean", "covariates": ("batch",)}, "no-covariates"),
        (COUNTS, {"method": "gene_mean", "labels": ("type",)}, "option-unused"),
        (COUNTS, {"method": "gene_mean", "labels": ("type",), "check": True}, "no-obs-column"),
        (COUNTS, {"method": "gene_mean", "budget": 3}, "option-unused"),
        (COUNTS, {"method": "gene_mean", "gene_column": "symbol"}, "option-unused"),
        (COUNTS, {"method": "auto", "params": {"k": 3}}, "not-with-auto"),
        (COUNTS, {"method": "auto", "posterior": False}, "not-with-auto"),
        (COUNTS, {"method": "auto", "budget": 0}, "parameter-value"),
        (COUNTS, {"method": "auto", "random_state": -1}, "parameter-value"),
        (COUNTS, {"method": "gene_mean", "check": True, "random_state": 0.5}, "parameter-value"),
        (COUNTS, {"method": "no_imputation", "posterior": True}, "no-posterior"),
        (REAL, {"method": create("knn", {"n_neighbors": "many"})}, "parameter-value"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_fit(X, options, code):
    with pytest.raises(InputError, check=has_code(code)):
        planned(X, **options)


@pytest.mark.parametrize("budget", [1, 0.5, np.int64(2), np.float32(1)])
def test_budgets_are_numbers_of_any_type(budget):
    assert planned(COUNTS, method="auto", budget=budget).budget == budget


def test_an_estimator_keeps_its_own_settings():
    estimator = create("knn", {"n_neighbors": 3})
    estimator.link = "clip"
    plan = planned(REAL, method=estimator, posterior=False)
    assert (plan.estimator.n_neighbors, plan.link) == (3, "clip")
    assert planned(REAL, method=estimator, transform="none").link == "identity"
    assert planned(REAL, method=create("beta_vae", random_state=2), random_state=5).estimator.random_state == 2
    assert planned(REAL, method=get("beta_vae")(), random_state=np.int64(5)).estimator.random_state == 5


def test_models_are_not_chosen_by_a_race():
    options = Options(method="auto")
    with pytest.raises(InputError, check=has_code("not-with-auto")):
        plan_fit(ad.AnnData(COUNTS), options, estimator=checked_options(options))


@pytest.fixture
def model(request):
    return imputome.fit_model(ad.AnnData(request.param), method="ialm")


def apply_to(X, estimator, **options):
    return plan_apply(ad.AnnData(X), estimator, Options(**options), InMemory())


@pytest.mark.parametrize(("model", "other"), [(COUNTS, REAL), (REAL, COUNTS)], indirect=["model"])
def test_values_of_another_kind_than_the_models_are_refused(model, other):
    assert apply_to(REAL if other is COUNTS else COUNTS, model).data.kind == model.kind_
    with pytest.raises(ModelFormatError, check=has_code("model-kind")):
        apply_to(other, model)


def test_models_that_are_not_fitted_are_refused():
    with pytest.raises(NotFittedError, check=has_code("not-fitted")):
        apply_to(REAL, create("mean"))


def test_options_of_further_training_are_checked():
    pytest.importorskip("torch")
    for params, code in (({"rounds": 3}, "unknown-parameter"), ({"max_epochs": "many"}, "parameter-value")):
        with pytest.raises(InputError, check=has_code(code)) as error:
            plan_fine_tune(ad.AnnData(COUNTS), create("zipo"), Options(params=params))
        assert error.value.parameter == next(iter(params))
    with pytest.raises(InputError, check=has_code("no-fine-tuning")):
        plan_fine_tune(ad.AnnData(COUNTS), create("gene_mean"), Options())


def test_covariates_of_a_model_must_be_there():
    estimator = create("gene_mean")
    estimator.feature_names_ = pd.Index([str(j) for j in range(30)])
    estimator.kind_, estimator.bounds_, estimator.covariate_names_ = "counts", (-np.inf, np.inf), ["batch"]
    with pytest.raises(InputError, check=has_code("no-obs-column")) as error:
        apply_to(COUNTS, estimator)
    assert "batch" in str(error.value)


def test_none_is_no_label_and_no_output(monkeypatch):
    monkeypatch.undo()
    adata = ad.AnnData(COUNTS.copy())
    imputome.impute(adata, method="gene_mean", labels=None, outputs=None)
    assert set(adata.layers) == {"gene_mean"}


def test_keep_observed_is_true_false_or_none():
    with pytest.raises(InputError, check=has_code("parameter-value")):
        planned(REAL, method="mean", keep_observed="no")
    planned(REAL, method="mean", keep_observed=np.bool_(True))
