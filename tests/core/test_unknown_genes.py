"""Genes that had no molecule in training are not erased: in `transform`, `apply_model` and saved models."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import warns
from imputome import methods
from imputome.core.data import as_data
from imputome.core.imputer import Imputer
from imputome.core.info import MethodInfo
from imputome.core.unknown_genes import without_genes
from imputome.methods.factors import LowRank
from places import SHARED

TRAIN = np.random.default_rng(0).poisson(2.0, size=(40, 6)).astype(np.float32)
TRAIN[:, [1, 4]] = 0
NEW = np.random.default_rng(1).poisson(2.0, size=(10, 6)).astype(np.float32) + 1
NAMES = [f"g{j}" for j in range(6)]


def to_adata(X, names=NAMES):
    return ad.AnnData(sp.csr_matrix(X), var=pd.DataFrame(index=list(names)))


class Ones(Imputer):
    """A method of somebody else, which has a rate for genes that it has never seen."""

    info = MethodInfo("ones", "one molecule of each gene", frozenset({"counts"}))

    def _fit(self, data):
        return self._new_rows(data), {}

    def _new_rows(self, data):
        self.depth_ = data.depth
        return LowRank(np.ones((data.shape[0], 1)), np.ones((data.shape[1], 1)))


def test_a_method_of_somebody_else_is_treated_alike():
    estimator = Ones().fit(as_data(TRAIN, kind="counts"))
    with warns("genes-unseen"):
        result = estimator.transform(as_data(NEW, kind="counts"))
    expected = np.ones_like(NEW)
    expected[:, [1, 4]] = NEW[:, [1, 4]]
    np.testing.assert_array_equal(result.to_array(), expected)
    np.testing.assert_array_equal(estimator.depth_, NEW[:, [0, 2, 3, 5]].sum(axis=1))


def test_nothing_is_said_where_there_is_nothing_to_keep():
    estimator = methods.get("gene_mean")().fit(as_data(TRAIN, kind="counts"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = estimator.transform(as_data(TRAIN[:5], kind="counts"))
    assert not result.to_array()[:, [1, 4]].any()


def test_library_sizes_and_masks_go_along():
    observed = NEW > 0
    data = as_data(NEW, kind="counts", observed=observed, library_size=NEW.sum(axis=1) + 5)
    rest = without_genes(data, np.array([1, 4]))
    expected = NEW.copy()
    expected[:, [1, 4]] = 0
    np.testing.assert_array_equal(rest.X.toarray(), expected)
    np.testing.assert_array_equal(rest.library_size, expected.sum(axis=1) + 5)
    np.testing.assert_array_equal(rest.observed, expected > 0)
    np.testing.assert_array_equal(data.X.toarray(), NEW)  # the input is unchanged
    sparse = without_genes(as_data(NEW, kind="counts", observed=sp.csr_array(observed)), np.array([1, 4]))
    np.testing.assert_array_equal(sparse.observed.toarray(), expected > 0)


@pytest.mark.parametrize("posterior", [False, True])
@pytest.mark.parametrize("genes", [NAMES, ["new", *NAMES[:0:-1]]])
def test_apply_keeps_lists_and_says_them(tmp_path, posterior, genes):
    """Also for a saved model, with genes in another order, one that is missing and one that the model never had."""
    imputome.fit_model(to_adata(TRAIN), method="gene_mean", posterior=posterior).save(tmp_path / "model")
    new = pd.DataFrame({**dict(zip(NAMES, NEW.T, strict=True)), "new": np.arange(10.0)})[genes]
    adata = to_adata(new.to_numpy(np.float32), genes)
    with warns("genes-unseen") as caught:
        result = imputome.apply_model(adata, tmp_path / "model", key_added="k", copy=True)
    assert [w.message.args[0].code for w in caught].count("genes-unseen") == 1
    layer = pd.DataFrame(result.layers["k"], columns=genes)
    kept = [name for name in ("g1", "g4", "new") if name in genes]
    np.testing.assert_array_equal(layer[kept], new[kept])
    assert set(result.uns["imputome"]["k"]["unusable_genes"]) == set(kept)
    if not posterior:
        share = TRAIN.sum(axis=0) / TRAIN.sum()
        known = [name for name in ("g0", "g2", "g3", "g5") if name in genes]
        places = [NAMES.index(name) for name in known]
        library = new[known].sum(axis=1) / share[places].sum()
        np.testing.assert_allclose(layer[known], np.outer(library, share[places]), rtol=1e-5)


def test_values_on_the_normalized_scale():
    """The molecules that stay as they are take their part of the 10,000."""
    scaled = [1e4 * X / X.sum(axis=1, keepdims=True) for X in (TRAIN, NEW - 1)]
    model = imputome.fit_model(to_adata(scaled[0]), method="gene_mean", scale="normalized")
    with warns("genes-unseen"):
        result = imputome.apply_model(to_adata(scaled[1]), model, key_added="k", copy=True)
    np.testing.assert_allclose(result.layers["k"][:, [1, 4]], scaled[1][:, [1, 4]], rtol=1e-5)
    np.testing.assert_allclose(result.layers["k"].sum(axis=1), 1e4, rtol=1e-5)


def test_training_a_model_further_keeps_them_too():
    pytest.importorskip("torch")
    estimator = methods.get("zipo")(encoder="4", max_epochs=2, device="cpu").fit(as_data(TRAIN, kind="counts"))
    with warns("genes-unseen"):
        result = estimator.fine_tune(as_data(NEW, kind="counts"), max_epochs=2)
    np.testing.assert_array_equal(result.to_array(keep_observed=False)[:, [1, 4]], NEW[:, [1, 4]])


def test_the_posterior_step_is_fitted_to_rates():
    """A gene can lose all its molecules to the part that is held out: its rate is then 0, not the molecules seen."""
    X = TRAIN.copy()
    X[7, 1] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = methods.get("gene_mean")(posterior=True).fit_transform(as_data(X, kind="counts"))
    assert np.isfinite(result.to_array()).all()


@pytest.mark.parametrize("method", ["gene_mean", "gene_mean_posterior", "poisson_nmf"])
def test_the_files_of_the_report(method):
    folder = SHARED / "faults"
    if not folder.is_dir():
        pytest.skip(f"{folder} not found")
    train, new = (ad.read_h5ad(folder / f"unseen_gene_{part}.h5ad") for part in ("train", "new"))
    model = imputome.fit_model(train, method=method)
    with warns("genes-unseen"):
        result = imputome.apply_model(new, model, key_added="k", copy=True)
    assert result.layers["k"][:, [5, 6]].sum(axis=0).tolist() == [414, 859]
