"""DCA and the comparisons of paper 001: documented settings, the network by hand, the loss by scipy."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from imputome import methods
from imputome.core.data import as_data
from imputome.core.parameters import check_parameters
from imputome.errors import ModelFormatError
from imputome.methods.count_autoencoder.dca import DCA, DCAPaper001, TunedDCA, ZipDCA
from imputome.methods.count_autoencoder.network import ACTIVATIONS, Activation, Design
from imputome.methods.count_autoencoder.zipo import Zipo
from imputome.methods.deep.training import Schedule

PRESETS = (DCA, DCAPaper001, ZipDCA, TunedDCA)


def simulated(n=200, G=40, *, seed=0):
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.5, size=(3, G)) + 0.02
    rate = rng.lognormal(4.5, 0.5, size=(n, 1)) * (share / share.sum(axis=1, keepdims=True))[rng.integers(3, size=n)]
    return rng.poisson(rate).astype(np.float32)


# -- settings ----------------------------------------------------------------------------------------------------------
ORIGINAL = {  # of the original software, and of METHODS where the paper differs from it
    "encoder": "64-32",
    "decoder": "64",
    "residual": False,
    "activation": "relu",
    "batch_norm": True,
    "batch_norm_place": "before",
    "distribution": "zinb",
    "dispersion": "conditional",
    "library": "size_factor",
    "input_transform": "zscore",
    "alpha_z": 0.0,
    "alpha_w": 0.0,
    "loss_over": "entries",
    "optimizer": "rmsprop",
    "learning_rate": 1e-3,
    "decay": 1.0,
    "plateau_patience": 10,
    "patience": 15,
    "patience_from": 0,
    "clip_value": 5.0,
    "max_epochs": 300,
    "batch_size": 32,
}
PAPER = {"encoder": "128-64", "decoder": "128", "input_transform": "log1p_normalized"}
SETTINGS = {
    DCA: ORIGINAL,
    DCAPaper001: {**ORIGINAL, **PAPER, "distribution": "nb"},
    ZipDCA: {**ORIGINAL, **PAPER, "distribution": "zip"},
    TunedDCA: {
        name: Zipo.parameter_defaults()[name]
        for name in ("encoder", "decoder", "residual", "activation", "batch_norm_place", "optimizer", "learning_rate")
    }
    | {"distribution": "nb", "library": "size_factor", "dispersion": "conditional", "patience": 30, "batch_size": 256},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_documented_settings(preset):
    estimator, defaults = preset(), preset.parameter_defaults()
    settings = {**asdict(estimator._design()), **asdict(estimator._schedule()), "batch_size": estimator.batch_size}
    assert {name: settings[name] for name in SETTINGS[preset]} == SETTINGS[preset]
    assert methods.get(preset.name) is preset
    assert preset(encoder="8").get_params() == {**defaults, "encoder": "8"}
    assert all(p.kind is p.KEYWORD_ONLY for p in list(inspect.signature(preset.__init__).parameters.values())[1:])
    check_parameters(preset, defaults)


def test_parameters_are_those_of_dca():
    """What ZiPo alone can change is not offered; a variant has no parameter for what defines it."""
    assert set(DCA.parameter_defaults()) == {
        *("encoder", "decoder", "distribution", "dispersion", "input_transform", "alpha_z", "learning_rate"),
        *("plateau_patience", "patience", "max_epochs", "batch_size", "clip_value", "validation_share"),
        *("device", "posterior", "random_state"),
    }
    for variant in (DCAPaper001, TunedDCA):
        assert set(variant.parameter_defaults()) == set(DCA.parameter_defaults()) - {"distribution", "alpha_z"}
    assert set(ZipDCA.parameter_defaults()) == set(DCA.parameter_defaults()) - {"distribution", "dispersion"}


def test_zipo_settings_are_its_parameters():
    """The defaults of `Design` are those of `Zipo`; only the default for counts has dropout and linear latents."""
    defaults = Zipo.parameter_defaults()
    others = {"dropout": 0.0, "input_dropout": 0.0, "linear_latent": False, "data_start": True}
    same = {name: value for name, value in defaults.items() if hasattr(Design, name)}
    assert asdict(Design()) == others | same | {"input_transform": "log1p"}  # None, which the preset can change
    assert Zipo(alpha_w=0.5)._design() == Design(alpha_w=0.5)
    schedule = {name: value for name, value in defaults.items() if hasattr(Schedule, name)}
    assert Zipo(max_epochs=3)._schedule() == Schedule(**{**schedule, "max_epochs": 3})


# -- models of version 0.1.0, in which DCA had all parameters of ZiPo --------------------------------------------------
OLD_MODEL = Path(__file__).parent / "dca_0.1.0"


def test_a_model_of_version_0_1_0_loads():
    """Stored by version 0.1.0, with its values for three of the cells that it was fitted on."""
    X = np.random.default_rng(0).poisson(2.0, (40, 8)).astype(np.float32)
    loaded = methods.load(OLD_MODEL)
    assert (loaded.encoder, loaded.dispersion, loaded.alpha_z, loaded.max_epochs) == ("4-2", "gene", 0.5, 3)
    values = loaded.transform(X[:3]).to_array()
    expected = [[1.0600042, 1.8038387, 1.4212042], [1.438577, 2.4480667, 1.928777], [0.9085751, 1.5461475, 1.2181749]]
    np.testing.assert_allclose(values[:, :3], expected, rtol=1e-5)
    assert values.sum() == pytest.approx(44.944473, rel=1e-5)


@pytest.mark.parametrize(("name", "code"), [("activation", "legacy-parameter"), ("no_such", None)])
def test_an_old_model_with_another_setting_is_refused(name, code, tmp_path):
    shutil.copytree(OLD_MODEL, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    header = json.loads(path.read_text())
    header["params"][name] = "gelu"
    path.write_text(json.dumps(header))
    with pytest.raises(ModelFormatError) as error:
        methods.load(tmp_path / "model")
    assert name in str(error.value)
    assert code is None or error.value.code == code


def test_schedule_of_the_original():
    schedule = DCA()._schedule()
    assert (schedule.optimizer, schedule.learning_rate, schedule.clip_value) == ("rmsprop", 1e-3, 5.0)
    assert (schedule.plateau_patience, schedule.plateau_factor, schedule.patience) == (10, 0.1, 15)


# -- network and loss by hand ------------------------------------------------------------------------------------------
def by_hand(network, X):
    """m, r and z of every entry in eval mode, by numpy alone: the original's layers in their order."""
    total = X.sum(axis=1, keepdims=True).astype(float)
    size_factor = total / np.median(total)
    h = stats.zscore(np.log1p(X / size_factor), ddof=1)

    def block(h, weight, bias, norm):
        h = h @ weight + bias
        h = (h - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps) + norm.bias.detach().numpy()
        return np.maximum(h, 0)

    h = block(h, network.first.weight.detach().numpy(), network.first.bias.detach().numpy(), network.first_rest[0])
    for linear, rest in [*network.blocks, *network.decoder]:
        h = block(h, linear.weight.detach().numpy().T, linear.bias.detach().numpy(), rest[0])

    def head(linear):
        return h @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()

    z = None if network.zero_head is None else expit(head(network.zero_head))
    if network.log_size is None:
        r = np.logaddexp(0, head(network.dispersion_head))
    else:
        r = np.exp(network.log_size.detach().numpy()) * np.ones_like(X)
    return size_factor * np.exp(head(network.mean_head)), r, z


@pytest.mark.parametrize("distribution", ["nb", "zinb"])
@pytest.mark.parametrize("dispersion", ["conditional", "gene"])
def test_network_and_loss_are_the_originals(distribution, dispersion):
    """Mean, dispersion and dropout by numpy; the loss by scipy, a mean over entries, with the ridge on pi."""
    X = simulated(60, 12)
    estimator = DCA(
        encoder="9-4", decoder="6", distribution=distribution, dispersion=dispersion, alpha_z=0.25, max_epochs=4
    )
    result = estimator.fit_transform(X)
    network = estimator.network_.double()
    assert not network.first_rest[0].weight.requires_grad
    assert (network.first_rest[0].weight == 1).all()
    assert type(network.first_rest[1]) is torch.nn.ReLU
    m, r, z = by_hand(network, X)
    np.testing.assert_allclose(result.to_array(output="rate"), m, rtol=1e-3, atol=1e-5)
    probability = stats.nbinom.pmf(X, r, r / (r + m))
    variance = m + m**2 / r
    if z is not None:
        np.testing.assert_allclose(result.to_array(), (1 - z) * m * estimator.factor_, rtol=1e-3, atol=1e-5)
        f0 = stats.nbinom.pmf(0, r, r / (r + m))
        np.testing.assert_allclose(
            result.to_array(output="dropout_probability"), z / (z + (1 - z) * f0), rtol=1e-3, atol=1e-5
        )
        probability = z * (X == 0) + (1 - z) * probability
        variance = (1 - z) * (variance + z * m**2)
    np.testing.assert_allclose(result.to_array(output="variance"), variance, rtol=2e-3, atol=1e-4)
    estimator.batch_size = len(X)
    (batch,) = estimator._batches(as_data(X, kind="counts")).epoch()
    counts = batch.counts.with_values(batch.counts.values.double())
    batch = replace(batch, counts=counts, target=counts, library=batch.library.double())
    terms = {name: float(term.detach()) for name, term in network.loss_terms(batch).items()}
    expected = {"nll": -np.mean(np.log(probability))}
    if z is not None:
        expected["zero_inflation"] = 0.25 * np.mean(z**2)
    assert terms == pytest.approx(expected, rel=1e-4)


def test_zipo_schedule_and_encoder_of_tuned_dca():
    X = simulated(60, 12)
    estimator = TunedDCA(encoder="9-6-4", max_epochs=2).fit(X)
    network = estimator.network_
    assert len(network.residuals) == 2
    assert network.library is None
    assert network.zero_head is None
    assert not network.decoder
    assert estimator._schedule() == replace(Zipo()._schedule(), max_epochs=2, clip_value=5.0)


# -- what they can do --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_learns(preset):
    """More likely validation cells than one share per gene at each cell's depth, and totals on the data's scale."""
    X = simulated(200)
    params = {"encoder": "16-6", "max_epochs": 15} | ({"learning_rate": 3e-3} if preset is not TunedDCA else {})
    params |= {"batch_size": 32}
    estimator = preset(**params)
    result = estimator.fit_transform(X)
    rows = estimator._split(as_data(X, kind="counts"))[1]
    flat = X.sum(axis=1, keepdims=True) * X.sum(axis=0) / X.sum()
    reference = -stats.poisson.logpmf(X, flat)[rows].sum() / len(rows)
    details = result.status.details
    assert details["nll_validation"] < 0.9 * reference
    assert details["total_ratio_expected"] == pytest.approx(1, abs=0.15)
    assert details["library_correlation"] == pytest.approx(1)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_every_activation_with_and_without_batch_normalisation(activation, batch_norm):
    X = simulated(60, 12)
    assert set(ACTIVATIONS) == set(get_args(get_type_hints(Zipo.__init__)["activation"]))
    dca = {"residual": False, "batch_norm_place": "before", "library": "size_factor", "distribution": "nb"}
    network = {"encoder": "9-4", "decoder": "6", "activation": activation, "batch_norm": batch_norm}
    estimator = Zipo(**dca, **network, dispersion="conditional", learning_rate=1e-3, max_epochs=3).fit(X)
    names = [type(module).__name__ for module in estimator.network_.modules()]
    assert names.count("BatchNorm1d") == (3 if batch_norm else 0)
    assert names.count(type(ACTIVATIONS[activation]()).__name__) >= 3
    assert np.isfinite(estimator.transform(X).to_array()).all()


def test_a_cell_of_another_depth_keeps_its_profile():
    """The network reads size-normalised counts, and the size factor multiplies its mean."""
    X = simulated()
    estimator = DCA(encoder="16-6", decoder="16", max_epochs=5).fit(X)
    one, ten = (estimator.transform(k * X[:3]).to_array(output="rate") for k in (1, 10))
    np.testing.assert_allclose(ten, 10 * one, rtol=1e-4)
