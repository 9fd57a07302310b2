"""Inputs in other states than counts: what is asked for, and that what is advised works and gives the right values."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import imputome
from codes import has_code, warns
from imputome.api.plan import InMemory, Options, checked_options, plan_fit, plan_impute
from imputome.core.data import as_data
from imputome.errors import InputError, ModelFormatError
from imputome.evaluation.masked import mask, read_mask
from imputome.io.reading import read
from imputome.methods import get
from imputome.report.before_after import stored_result

FAULTS = Path(__file__).resolve().parents[3] / "shared" / "faults"
rng = np.random.default_rng(0)
COUNTS = rng.poisson(rng.gamma(0.5, 3, (1, 80)) * rng.lognormal(0, 0.5, (60, 1))).astype(np.float64)
COUNTS[:, 0] += 1
LIBRARY = COUNTS.sum(axis=1, keepdims=True)
CP10K = COUNTS / LIBRARY * 1e4
SCALES = {
    "normalized": (lambda x: x, lambda y: y),
    "log1p": (np.log1p, np.expm1),
    "log2p1": (lambda x: np.log2(1 + x), lambda y: 2**y - 1),
    "log10p1": (lambda x: np.log10(1 + x), lambda y: 10**y - 1),
    "sqrt": (np.sqrt, np.square),
}


def fault(name: str) -> AnnData:
    path = FAULTS / name
    if not path.exists():
        pytest.skip(f"{path} not found")
    if path.suffix == ".h5ad":
        return read(path)
    return AnnData(pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", index_col=0).T.astype(float))


def planned(adata, **options):
    options = Options(**options)
    return plan_impute(adata, options, InMemory(), estimator=checked_options(options))


def imputed(adata, **options):
    imputome.impute(adata, method=options.pop("method", "gene_mean"), key_added="out", **options)
    return adata.layers["out"], adata.uns["imputome"]["out"]


# -- scales ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("asked", ["name", "input"])
@pytest.mark.parametrize("scale", SCALES)
def test_values_come_back_on_the_scale_of_the_input(scale, asked):
    forward, _ = SCALES[scale]
    adata = AnnData(forward(CP10K))
    with pytest.raises(InputError, check=has_code(f"looks-{scale}")) as error:
        imputome.impute(adata, method="gene_mean")
    assert error.value.message.options["scale"] == scale
    with warns("scale-taken"):
        values, record = imputed(adata, scale=scale if asked == "name" else "input")
    assert (record["scale"], record["input"]["state"]) == (scale, scale)
    np.testing.assert_allclose(values, np.tile(forward(CP10K.mean(axis=0)), (60, 1)), rtol=1e-5)
    _, _, before_after = stored_result(adata, "out")
    cells = np.array([3, 40])
    np.testing.assert_allclose(before_after.before(cells), CP10K[cells], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(before_after.after(cells)[0], CP10K.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("scale", ["log1p", "log2p1", "log10p1", "sqrt"])
def test_transforms_of_counts_go_back_to_counts_at_their_own_depth(scale):
    forward, _ = SCALES[scale]
    expected = LIBRARY * COUNTS.sum(axis=0) / COUNTS.sum()
    for asked in (scale, f"{scale}_counts", "input"):
        adata = AnnData(forward(COUNTS).astype(np.float32))
        values, record = imputed(adata, scale=asked)
        assert (record["scale"], record["input"]["state"]) == (f"{scale}_counts", f"{scale}_counts")
        np.testing.assert_allclose(values, forward(expected), rtol=1e-5)
    _, _, before_after = stored_result(adata, "out")
    assert before_after.counted
    np.testing.assert_array_equal(before_after.before(np.arange(60)), COUNTS)
    np.testing.assert_array_equal(before_after.depth(np.arange(60)), LIBRARY.ravel())


def test_the_posterior_step_takes_the_counts_before_a_transform():
    plain, roots = AnnData(COUNTS.astype(np.float32)), AnnData(np.sqrt(COUNTS).astype(np.float32))
    values, _ = imputed(plain, method="gene_mean_posterior")
    np.testing.assert_allclose(imputed(roots, method="gene_mean_posterior", scale="sqrt")[0] ** 2, values, rtol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_where_the_scale_does_not_show_the_user_names_it(scale):
    """A selection of genes, which are no multiples of one molecule: the mean is right on the scale that is named."""
    lengths = np.random.default_rng(1).uniform(0.3, 6, 80)
    X = np.log2(1 + COUNTS / lengths / (COUNTS / lengths).sum(axis=1, keepdims=True) * 1e4)[:, ::3]
    assert (X == 0).mean() > 0.3
    with pytest.raises(InputError, check=has_code("scale-unclear")):
        planned(AnnData(X), method="gene_mean")
    with pytest.raises(InputError, check=has_code("scale-unclear")):
        planned(AnnData(X), method="gene_mean", scale="input")
    forward, inverse = SCALES[scale]
    values, record = imputed(AnnData(X), scale=scale)
    assert record["scale"] == scale
    np.testing.assert_allclose(values[5], forward(inverse(X).mean(axis=0)), rtol=1e-5)


@pytest.mark.parametrize(("X", "scale"), [(np.log2(1 + CP10K), "log1p"), (np.log1p(CP10K), "sqrt"), (CP10K, "log1p")])
def test_a_wrong_scale_is_refused(X, scale):
    with pytest.raises(InputError) as error:
        planned(AnnData(X), method="gene_mean", scale=scale)
    assert error.value.code.startswith("looks-")
    planned(AnnData(X), method="gene_mean", scale=error.value.message.options["scale"])


def test_counts_are_written_on_every_scale():
    rate = COUNTS.sum(axis=0) / COUNTS.sum() * 1e4
    for scale, (forward, _) in SCALES.items():
        values, _ = imputed(AnnData(COUNTS.copy()), scale=scale)
        np.testing.assert_allclose(values[2], forward(rate), rtol=1e-5)


def test_the_default_method_works_on_other_scales():
    pytest.importorskip("torch")
    for make in (planned, lambda adata, **options: plan_fit(adata, Options(**options))):
        plan = make(AnnData(np.log1p(CP10K)), scale="log1p")
        assert (plan.estimator.name, plan.estimator.posterior) == ("count_autoencoder", False)
        assert "posterior-off" in [message.code for message in plan.messages]
        assert make(AnnData(np.sqrt(COUNTS)), scale="sqrt").estimator.posterior
    with pytest.raises(InputError, check=has_code("no-output")):
        planned(AnnData(np.log1p(CP10K)), scale="log1p", outputs=("variance", "lower"))


def test_advice_on_other_scales_works():
    adata = AnnData(np.log1p(CP10K))
    with pytest.raises(InputError, check=has_code("not-integers")) as error:
        planned(adata, method="auto", scale="log1p")
    assert error.value.message.options["method"] == "auto"  # to leave out: see the test above
    with pytest.raises(InputError, check=has_code("not-integers")) as error:
        planned(adata, method="gene_mean_posterior", scale="log1p")
    assert not planned(adata, method="gene_mean_posterior", scale="log1p", posterior=False).estimator.posterior


def test_models_keep_to_their_scale():
    logs = AnnData(np.log2(1 + CP10K))
    model = imputome.fit_model(logs, method="gene_mean", scale="log2p1")
    new = imputome.apply_model(logs[:1].copy(), model, copy=True)  # one cell is enough, and shows nothing
    np.testing.assert_allclose(new.layers["gene_mean"][0], np.log2(1 + CP10K.mean(axis=0)), rtol=1e-5)
    new = imputome.apply_model(logs[:5].copy(), model, copy=True)
    np.testing.assert_allclose(new.layers["gene_mean"][0], np.log2(1 + CP10K.mean(axis=0)), rtol=1e-5)
    with pytest.raises(InputError, check=has_code("other-state-than-model")):
        imputome.apply_model(AnnData(np.log1p(CP10K)), model)
    selection = AnnData(np.log2(1 + CP10K / np.random.default_rng(1).uniform(0.3, 6, 80))[:9])
    new = imputome.apply_model(selection, model, copy=True)  # the model tells the scale
    np.testing.assert_allclose(new.layers["gene_mean"][0], np.log2(1 + CP10K.mean(axis=0)), rtol=1e-5)
    for fitted, scale in ((model, "log1p"), (imputome.fit_model(AnnData(COUNTS), method="gene_mean"), "log2p1")):
        with pytest.raises(InputError, check=has_code("other-state-than-model")):
            imputome.apply_model(selection, fitted, scale=scale)


# -- kind --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["tpm_with_inf.csv", "tpm_with_two_nan.csv"])
def test_tpm_with_gaps_of_the_faults(name):
    adata = fault(name)
    if name == "tpm_with_inf.csv":
        with pytest.raises(InputError, check=has_code("infinite-values")):
            planned(adata, method="gene_mean")
        adata.X[np.isinf(adata.X)] = 0  # as advised
    else:
        with pytest.raises(InputError, check=has_code("kind-unclear")):
            planned(adata, method="gene_mean")
    with pytest.raises(InputError, check=has_code("looks-normalized")):
        planned(adata, method="gene_mean", kind="counts")
    values, record = imputed(adata, kind="counts", scale="normalized")
    assert record["input"]["kind"] == "counts"
    np.testing.assert_allclose(values[0], np.nan_to_num(adata.X).mean(axis=0), rtol=1e-4)


def test_kind_decides_what_is_missing():
    X = np.where(rng.random(COUNTS.shape) < 0.05, np.nan, COUNTS)
    counts, record = imputed(AnnData(X.copy()), kind="counts")
    filled = np.nan_to_num(X)
    np.testing.assert_allclose(counts, filled.sum(1, keepdims=True) * filled.sum(0) / filled.sum(), rtol=1e-5)
    real, record = imputed(AnnData(X.copy()), kind="real", method="mean")
    assert (record["input"]["kind"], record["scale"]) == ("real", "input")
    np.testing.assert_allclose(real, np.where(np.isnan(X), np.nanmean(X, axis=0), X), rtol=1e-6)


def test_a_model_answers_which_kind_new_values_are():
    X = np.where(rng.random(COUNTS.shape) < 0.05, np.nan, COUNTS)
    model = imputome.fit_model(AnnData(X), method="mean", kind="real")
    new = imputome.apply_model(AnnData(X[:9].copy()), model, copy=True)
    np.testing.assert_allclose(new.layers["mean"], np.where(np.isnan(X), np.nanmean(X, axis=0), X)[:9], rtol=1e-6)
    complete = imputome.apply_model(AnnData(COUNTS[:9].copy()), model, kind="real", copy=True)
    np.testing.assert_array_equal(complete.layers["mean"], COUNTS[:9])


@pytest.mark.parametrize("method", ["ialm", "random"])
def test_methods_for_both_kinds_do_not_guess(method):
    X = np.where(rng.random((40, 12)) < 0.2, 0.0, rng.gamma(2, 2, (40, 12)))
    with pytest.raises(InputError, check=has_code("kind-unclear")):
        get(method)().fit(X)
    estimator = get(method)().fit(X, kind="real")
    np.testing.assert_array_equal(estimator.transform(X).to_array(), X)  # zeros are observed
    new = X[:5].copy()
    new[2, 3] = np.nan
    assert np.isfinite(estimator.transform(new).to_array()).all()
    assert get(method)().fit(X, kind="counts").kind_ == "counts"
    assert get(method)().fit(X - 3).kind_ == "real"
    counts = get(method)().fit(np.rint(X))
    with pytest.raises(InputError, check=has_code("nan-in-counts")):
        counts.transform(new)


def test_as_data_asks_for_the_kind():
    with pytest.raises(InputError, check=has_code("kind-unclear")):
        as_data(np.array([[0.0, 1.5], [2.0, 0.0]]))
    assert as_data(np.array([[0.0, 1.0], [2.0, 0.0]])).kind == "counts"
    assert as_data(np.array([[0.5, -1.0], [2.0, 0.0]])).kind == "real"
    assert as_data(np.array([[0, 1], [2, 0]])).kind == "counts"


# -- expected counts ---------------------------------------------------------------------------------------------------
def expected_counts():
    """Reads of 80 genes in 60 samples; those of every third gene were divided among transcripts."""
    X = rng.poisson(rng.lognormal(3, 2, (1, 80)) * rng.lognormal(0, 0.4, (60, 1))).astype(float)
    X[:, ::3] = (X[:, ::3] * rng.uniform(0.6, 1, (60, 27))).round(2)
    return X


EXPECTED = expected_counts()


def test_expected_counts_are_rounded_to_the_nearest():
    adata = AnnData(EXPECTED.copy())
    with pytest.raises(InputError, check=has_code("looks-expected")) as error:
        planned(adata, method="gene_mean")
    values, record = imputed(adata, method="no_imputation", round_counts=error.value.message.options["round_counts"])
    np.testing.assert_array_equal(values, np.floor(EXPECTED + 0.5))
    assert (record["input"]["state"], record["input"]["rounding"]) == ("counts", "nearest")


def test_stochastic_rounding_keeps_sums_and_can_be_repeated():
    values = [
        imputed(AnnData(form(EXPECTED)), method="no_imputation", round_counts="stochastic", random_state=seed)[0]
        for form, seed in ((np.array, 1), (sp.csr_matrix, 1), (np.array, 2))
    ]
    np.testing.assert_array_equal(values[0], values[1])
    assert (values[0] != values[2]).any()
    assert np.isin(values[0] - np.floor(EXPECTED), (0, 1)).all()
    assert (values[0] == EXPECTED)[EXPECTED % 1 == 0].all()
    up, chance = (values[0] > EXPECTED).sum(), (EXPECTED % 1).sum()
    assert abs(up - chance) < 4 * np.sqrt(((EXPECTED % 1) * (1 - EXPECTED % 1)).sum())


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_stored_result_rounds_again_alike(rounding):
    adata = AnnData(EXPECTED.copy())
    values, _ = imputed(adata, method="no_imputation", round_counts=rounding, random_state=7)
    _, _, before_after = stored_result(adata, "out")
    cells = np.array([3, 17, 58])
    np.testing.assert_array_equal(before_after.before(cells), values[cells])
    np.testing.assert_array_equal(before_after.depth(cells), values[cells].sum(axis=1))


def test_expected_counts_as_they_are_or_as_real_values():
    values, record = imputed(AnnData(EXPECTED.copy()), scale="counts")
    assert (record["scale"], record["input"]["state"]) == ("counts", "expected")
    np.testing.assert_allclose(values, EXPECTED.sum(1, keepdims=True) * EXPECTED.sum(0) / EXPECTED.sum(), rtol=1e-5)
    X = np.where(rng.random(EXPECTED.shape) < 0.1, np.nan, EXPECTED)
    assert imputed(AnnData(X), kind="real", method="mean")[1]["input"]["kind"] == "real"


@pytest.mark.parametrize("X", [CP10K, np.log1p(CP10K), np.sqrt(COUNTS), COUNTS - 0.5])
def test_other_values_are_not_rounded(X):
    with pytest.raises(InputError):
        planned(AnnData(X), method="gene_mean", round_counts="nearest")


def test_rounding_says_that_these_are_counts():
    """kallisto divides the reads of every gene: no integers, and a gap above zero in a selection of genes."""
    X = np.where(COUNTS > 0, 30 * COUNTS * rng.uniform(0.6, 1, COUNTS.shape), 0)
    with pytest.raises(InputError, check=has_code("kind-unclear")):
        planned(AnnData(X), method="gene_mean")
    for values in (X, np.where(rng.random(X.shape) < 0.01, np.nan, X)):
        written, _ = imputed(AnnData(values), method="no_imputation", round_counts="nearest")
        np.testing.assert_array_equal(written, np.floor(np.nan_to_num(values) + 0.5))


def test_models_of_rounded_counts_round_new_ones():
    model = imputome.fit_model(AnnData(EXPECTED.copy()), method="gene_mean", round_counts="nearest")
    new = imputome.apply_model(AnnData(EXPECTED[:7].copy()), model, copy=True)
    rounded = np.floor(EXPECTED + 0.5)
    share = rounded.sum(axis=0) / rounded.sum()
    np.testing.assert_allclose(new.layers["gene_mean"], rounded[:7].sum(1, keepdims=True) * share, rtol=1e-5)


def test_expected_counts_of_the_faults():
    adata = fault("fractional_expected_counts.tsv")
    with pytest.raises(InputError, check=has_code("looks-expected")):
        planned(adata, method="gene_mean")
    values, _ = imputed(adata, method="no_imputation", round_counts="nearest")
    np.testing.assert_array_equal(values, np.floor(adata.X + 0.5))


def test_logs_of_the_faults():
    adata = fault("log2_tpm_over_10.txt")
    with pytest.raises(InputError, check=has_code("looks-log2p1")):
        planned(adata, method="gene_mean")
    values, _ = imputed(adata, scale="log2p1")
    np.testing.assert_allclose(values[4], np.log2(1 + (2**adata.X - 1).mean(axis=0)), rtol=1e-4)
    with pytest.raises(InputError, check=has_code("scale-unclear")):
        planned(adata[:, ::5].copy(), method="gene_mean")


# -- raw ---------------------------------------------------------------------------------------------------------------
def with_raw(genes):
    names = np.array([f"g{j}" for j in range(80)])
    adata = AnnData(np.log1p(CP10K)[:, genes], var=pd.DataFrame(index=names[genes]))
    adata.raw = AnnData(sp.csr_matrix(COUNTS), var=pd.DataFrame(index=names))
    return adata


GENES = np.arange(78, 0, -3)
OF_RAW = LIBRARY * COUNTS[:, GENES].sum(axis=0) / COUNTS.sum()  # the gene mean with libraries over all genes


def test_raw_counts_are_imputed_for_the_genes_of_x():
    adata = with_raw(GENES)
    values, record = imputed(adata, layer="raw")
    np.testing.assert_allclose(values, OF_RAW, rtol=1e-5)
    assert (record["input"]["where"], record["input"]["library_genes"]) == ("raw.X", 80)
    logged, _ = imputed(with_raw(GENES), layer="raw", scale="log1p")
    np.testing.assert_allclose(logged, np.log1p(OF_RAW / LIBRARY * 1e4), rtol=1e-4)
    _, _, before_after = stored_result(adata, "out")
    cells = np.array([2, 50])
    np.testing.assert_array_equal(before_after.before(cells).toarray(), COUNTS[np.ix_(cells, GENES)])
    np.testing.assert_array_equal(before_after.depth(cells), LIBRARY[cells].ravel())


def test_raw_of_some_genes_is_reported_too():
    adata = with_raw(GENES)
    imputome.impute(adata, method="gene_mean", layer="raw", genes=["g6", "g12"], key_added="out")
    _, _, before_after = stored_result(adata, "out")
    positions = [int(name[1:]) for name in before_after.var_names]
    np.testing.assert_array_equal(before_after.before(np.array([4])).toarray(), COUNTS[[4]][:, positions])
    places = [list(GENES).index(gene) for gene in (6, 12)]
    np.testing.assert_allclose(before_after.after(np.array([4])), OF_RAW[[4]][:, places], rtol=1e-5)


def test_models_of_raw():
    adata = with_raw(GENES)
    model = imputome.fit_model(adata, method="gene_mean", layer="raw")
    new = imputome.apply_model(adata[:9].copy(), model, layer="raw", copy=True)
    np.testing.assert_allclose(new.layers["gene_mean"], OF_RAW[:9], rtol=1e-5)
    whole = AnnData(COUNTS[:9], var=adata.raw.var)
    new = imputome.apply_model(whole, model, copy=True)  # all genes are in X
    np.testing.assert_allclose(new[:, adata.var_names].layers["gene_mean"], OF_RAW[:9], rtol=1e-5)
    few = AnnData(COUNTS[:9, GENES], var=adata.var)
    with pytest.raises(InputError, check=has_code("library-of-fewer-genes")):
        imputome.apply_model(few, model)
    plain = imputome.fit_model(AnnData(COUNTS[:, GENES], var=adata.var), method="gene_mean")
    new = imputome.apply_model(adata[:9].copy(), plain, layer="raw", copy=True)
    part = COUNTS[:, GENES]
    expected = part[:9].sum(1, keepdims=True) * part.sum(axis=0) / part.sum()
    np.testing.assert_allclose(new.layers["gene_mean"], expected, rtol=1e-5)


def test_raw_is_masked_and_evaluated():
    masked = mask(with_raw(GENES), scheme="thin", layer="raw")
    split = read_mask(masked)
    np.testing.assert_array_equal((split.train.X + split.test).toarray(), COUNTS[:, GENES])
    table = imputome.evaluate(with_raw(GENES), methods=["gene_mean"], layer="raw", scheme="thin", fraction=0.1)
    assert (table["status"] == "ok").all()


def test_raw_counts_of_the_faults():
    adata = fault("counts_in_raw.h5ad")
    with pytest.raises(InputError, check=has_code("looks-log1p")) as error:
        planned(adata, method="gene_mean")
    assert error.value.message.options["layer"] == "raw"
    values, _ = imputed(adata, layer="raw")
    raw = adata.raw.X.toarray()
    np.testing.assert_allclose(values, raw.sum(1, keepdims=True) * raw.sum(axis=0) / raw.sum(), rtol=1e-4)


# -- orientation -------------------------------------------------------------------------------------------------------
def test_genes_in_rows_stop_every_call_unless_the_user_insists():
    turned = AnnData(COUNTS[:4, :6].T + 1, obs=pd.DataFrame(index=["ACTB", "GAPDH", "RPL5", "MT-CO1", "x", "y"]))
    for call in (
        lambda **options: planned(turned, method="gene_mean", **options),
        lambda **options: plan_fit(turned, Options(method="gene_mean", **options)),
        lambda **options: imputome.evaluate(turned, methods=["gene_mean"], fraction=0.3, **options),
    ):
        with pytest.raises(InputError, check=has_code("genes-in-rows")):
            call()
        call(accept_orientation=True)
    assert planned(turned.T, method="gene_mean").report.errors == ()


def test_a_line_named_after_a_gene_is_only_warned_of():
    obs = pd.DataFrame(index=[f"sample{i}" for i in range(59)] + ["B2M"])
    plan = planned(AnnData(COUNTS + 1, obs=obs), method="gene_mean")
    assert [message.code for message in plan.messages] == ["genes-in-rows"]


def test_warnings_come_before_the_fit(monkeypatch):
    said = []
    run = imputome.api.impute.run_plan
    monkeypatch.setattr("imputome.api.impute.run_plan", lambda *given: said.append("fit") or run(*given))
    monkeypatch.setattr("warnings.showwarning", lambda message, *_: said.append(message.args[0].code))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        imputome.impute(AnnData(np.log1p(CP10K)), method="gene_mean", scale="log1p")
    assert (said[0], said[-1]) == ("scale-taken", "fit")


def test_complete_values_can_be_fitted_and_evaluated():
    X = rng.normal(size=(40, 12))
    with pytest.raises(InputError, check=has_code("nothing-missing")):
        planned(AnnData(X), method="mean")
    assert plan_fit(AnnData(X), Options(method="mean")).messages == ()
    with pytest.raises(ModelFormatError, check=has_code("model-kind")):
        imputome.apply_model(AnnData(COUNTS[:, :12]), imputome.fit_model(AnnData(X), method="ialm"))


@pytest.mark.parametrize("code", [-9, -1, 999])
def test_a_code_for_missing_is_refused_also_of_new_data(code):
    rng = np.random.default_rng(5)
    X = rng.normal(20, 2, (30, 20))
    X[rng.random(X.shape) < 0.1] = np.nan
    new = np.where(rng.random(X.shape) < 0.1, code, X)
    model = imputome.fit_model(AnnData(X), method="knn")
    for call in (imputome.impute, imputome.apply_model):
        given = (model,) if call is imputome.apply_model else ()
        with pytest.raises(InputError, check=has_code("missing-code")) as caught:
            call(AnnData(new), *given)
        assert f"missing='{code}'" in str(caught.value)
        assert "params" not in str(caught.value)
    filled = np.where(new == code, np.nan, new)  # as the message says
    assert np.isfinite(imputome.apply_model(AnnData(filled), model, copy=True).layers["knn"]).all()
