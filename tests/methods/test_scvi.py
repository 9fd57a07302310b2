"""scVI against scvi-tools called by hand, and what a fit must leave as it was.

Where scvi-tools is missing, only the tests of that case run; ``make test-scvi`` installs it and runs all.
"""

from __future__ import annotations

import os
import random
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from codes import has_code
from extras import needs_scvi
from imputome import methods
from imputome.core.data import as_data
from imputome.errors import InputError, MissingExtraError, TrainingError

QUICK = {"n_hidden": 16, "max_epochs": 8}


def counts(n=60, G=40, *, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.poisson(rng.gamma(0.5, size=(n, 3)) @ rng.gamma(0.5, 2.0, size=(3, G)) + 0.05).astype(np.float32)
    X[np.arange(n), np.arange(n) % G] += 1
    return X


def conditions(n=60):
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {"donor": rng.choice(["b", "a", "c"], n), "age": rng.normal(50, 9, n), "sex": rng.choice(["f", "m"], n)}
    )


# -- without scvi-tools ------------------------------------------------------------------------------------------------
@pytest.fixture
def without_scvi(monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi", None)
    monkeypatch.delitem(sys.modules, "imputome.methods.scvi.estimator", raising=False)


def test_without_scvi_tools_one_sentence_says_what_to_install(without_scvi):
    assert methods.info("scvi").extra == "scvi"
    with pytest.raises(MissingExtraError, check=has_code("missing-extra")) as error:
        methods.create("scvi")
    assert error.value.parameter == "scvi"
    assert "scvi-tools" in str(error.value)
    assert 'pip install "imputome[scvi]"' in str(error.value)


# -- against scvi-tools ------------------------------------------------------------------------------------------------
def by_hand(X, obs=None, *, seed, likelihood, early_stopping, **keys):
    """Latent, normalised expression at the observed library, and the distribution, by scvi-tools alone."""
    import anndata as ad
    import scvi

    scvi.settings.seed = seed
    adata = ad.AnnData(sp.csr_matrix(X), None if obs is None else obs.set_index(obs.index.astype(str)))
    scvi.model.SCVI.setup_anndata(adata, **keys)
    model = scvi.model.SCVI(adata, gene_likelihood=likelihood, n_hidden=16)
    model.train(max_epochs=8, accelerator="cpu", early_stopping=early_stopping, enable_progress_bar=False)
    z = model.get_latent_representation()
    batch = next(iter(model._make_data_loader(adata=adata, batch_size=len(X))))
    with torch.no_grad():
        inputs = model.module._get_inference_input(batch)
        encoded = model.module.inference(**inputs)
        encoded["z"] = torch.from_numpy(z)
        px = model.module.generative(**model.module._get_generative_input(batch, encoded))["px"]
    return z, px.get_normalized("mu").numpy(), px


@needs_scvi
@pytest.mark.parametrize(("likelihood", "early_stopping"), [("nb", True), ("zinb", False), ("poisson", False)])
def test_rates_are_those_of_scvi_tools(likelihood, early_stopping):
    X, options = counts(), {"likelihood": likelihood, "early_stopping": early_stopping}
    z, rate, px = by_hand(X, seed=3, **options)
    estimator = methods.create("scvi", {**QUICK, **options, "random_state": 3})
    result = estimator.fit_transform(X)
    np.testing.assert_allclose(result.latent, z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.to_array(output="rate"), rate, rtol=1e-4)
    np.testing.assert_allclose(result.to_array(output="variance"), px.variance.numpy(), rtol=1e-4)
    np.testing.assert_allclose(result.to_array(output="rate").sum(axis=1), X.sum(axis=1), rtol=1e-4)
    expected = px.mean.numpy()
    np.testing.assert_allclose(result.to_array(), expected * (X.sum() / expected.sum()), rtol=1e-4)
    assert ("dropout_probability" in result.outputs) == (likelihood == "zinb")
    assert ("validation_loss" in result.history) == early_stopping
    np.testing.assert_allclose(estimator.transform(X).to_array(), result.to_array(), rtol=1e-5)


@needs_scvi
def test_covariates_are_those_of_scvi_tools(tmp_path):
    X, obs = counts(), conditions()
    scaled = obs.assign(age=((obs.age - obs.age.mean()) / obs.age.std(ddof=0)).astype(np.float32))
    keys = {"batch_key": "donor", "categorical_covariate_keys": ["sex"], "continuous_covariate_keys": ["age"]}
    z, rate, _ = by_hand(X, scaled, seed=0, likelihood="nb", early_stopping=False, **keys)
    data = as_data(X, kind="counts", covariates=obs)
    estimator = methods.create("scvi", {**QUICK, "likelihood": "nb", "early_stopping": False})
    result = estimator.fit_transform(data)
    np.testing.assert_allclose(result.latent, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.to_array(output="rate"), rate, rtol=1e-3)
    estimator.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(data).to_array(), estimator.transform(data).to_array())
    moved = estimator.transform(as_data(X, kind="counts", covariates=obs.assign(donor="a"))).to_array()
    assert not np.allclose(moved, result.to_array(), rtol=1e-3)
    with pytest.raises(InputError, check=has_code("covariate-level")):
        estimator.transform(as_data(X, kind="counts", covariates=obs.assign(donor="d")))
    with pytest.raises(InputError, check=has_code("covariates-missing")):
        estimator.transform(X)


# -- training ----------------------------------------------------------------------------------------------------------
@needs_scvi
def test_early_stopping_ends_the_training(monkeypatch):
    monkeypatch.setattr("imputome.methods.scvi.quiet_training.PATIENCE", 5)
    result = methods.create("scvi", {"n_hidden": 16, "learning_rate": 0.2, "max_epochs": 200}).fit_transform(counts())
    losses = list(result.history["validation_loss"])
    assert result.status.name == "converged"
    assert 5 < len(losses) < 200
    assert int(np.argmin(losses)) == len(losses) - 1 - 5
    assert result.status.details["epochs"] == len(losses)


@needs_scvi
@pytest.mark.parametrize("n", [2, 3, 9, 10, 130])
def test_few_cells(n):
    """scvi-tools leaves no training cell of 2, and no validation cell below 10."""
    X = counts(n)
    estimator = methods.create("scvi", {**QUICK, "max_epochs": 2})
    result = estimator.fit_transform(X)
    assert np.isfinite(result.to_array()).all()
    assert ("validation_loss" in result.history) == (n >= 10)


@needs_scvi
def test_learning_that_diverges_is_an_error():
    estimator = methods.create("scvi", {**QUICK, "learning_rate": 1e30})
    with pytest.raises(TrainingError, check=has_code("not-finite")) as error:
        estimator.fit(counts())
    assert error.value.parameter == "learning_rate"


# -- what a fit leaves -------------------------------------------------------------------------------------------------
def _state():
    import scvi

    keys = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "XLA_FLAGS")
    return (
        *(scvi.settings.seed, scvi.settings.verbosity, torch.get_num_threads()),
        *(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)),
        *(random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),  # noqa: NPY002
        *(torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, [os.environ.get(key) for key in keys]),
        len(scvi.model.SCVI._setup_adata_manager_store),
    )


@needs_scvi
@pytest.mark.parametrize("seed_of_user", [None, 5])
def test_a_fit_leaves_no_trace(tmp_path, monkeypatch, capfd, seed_of_user, recwarn):
    import scvi

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("imputome.methods.scvi.quiet_training.PATIENCE", 1)  # it would say that it stopped early
    estimator = methods.create("scvi", {**QUICK, "learning_rate": 0.2})
    estimator.fit(counts())  # the first imports more
    scvi.settings.seed = seed_of_user
    before = _state()
    capfd.readouterr()
    recwarn.clear()
    with torch.random.fork_rng():
        estimator.fit(counts())
    assert _state() == before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    scvi.settings.seed = None


@needs_scvi
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_is_passed_on(capfd, interruption):
    """Lightning alone would exit, and ignore Ctrl-C from then on."""

    def progress(share, text):
        if share > 0.3:
            raise interruption

    estimator = methods.create("scvi", QUICK).fit(counts())
    before = _state()
    capfd.readouterr()
    estimator.progress = progress
    with pytest.raises(interruption):
        estimator.fit(counts())
    assert _state() == before
    assert capfd.readouterr() == ("", "")


@needs_scvi
def test_sigterm_ends_the_program(monkeypatch):
    """Lightning alone would end it later, with success."""
    received = []
    monkeypatch.setattr("imputome.methods.scvi.quiet_training.os.kill", lambda *signal: received.append(signal))
    before = signal.getsignal(signal.SIGTERM)
    estimator = methods.create("scvi", {**QUICK, "max_epochs": 2})
    estimator.progress = lambda share, text: share > 0 and signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit):  # it goes on, because the signal was not sent
        estimator.fit(counts())
    assert received[0] == (os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@needs_scvi
def test_there_are_no_checkpoints():
    """The command line refuses ``--checkpoint`` for a method without this attribute."""
    assert not hasattr(methods.create("scvi"), "checkpoint")


@needs_scvi
def test_every_parameter_is_described():
    method = methods.get("scvi")
    parameters = method.__doc__.split("Parameters\n")[1].split("Attributes\n")[0]
    assert [name for name in method.parameter_defaults() if f"{name} : " not in parameters] == []
