"""ZiPo: its loss and gradients against the printed formula, its structure by hand, and what a fitted one can do."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy import stats
from scipy.special import expit

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.core.parameters import check_parameters
from imputome.errors import InputError, ModelFormatError
from imputome.methods.count_autoencoder.fitted import scale_warning
from imputome.methods.count_autoencoder.network import sparsity, widths
from imputome.methods.count_autoencoder.zipo import Zipo
from imputome.methods.deep.rates import LinearOutput, LogLinearModel

SMALL = {"encoder": "12-6", "max_epochs": 12, "learning_rate": 0.01, "batch_size": 64}
LONGER = {**SMALL, "max_epochs": 15, "batch_size": 32, "learning_rate": 0.02}


def simulated(n=240, G=50, *, seed=0):
    """Counts of 3 groups of cells at various depths; float32."""
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.5, size=(3, G)) + 0.02
    share /= share.sum(axis=1, keepdims=True)
    group = rng.integers(3, size=n)
    depth = rng.lognormal(5, 0.5, size=n)
    return rng.poisson(depth[:, None] * share[group]).astype(np.float32), group, depth


def ready(X, **params):
    """An estimator with an untrained network in eval mode, and its only batch of all cells."""
    data = as_data(X, kind="counts")
    estimator = Zipo(**{"encoder": "7-5-3", "batch_size": len(X), "max_epochs": 1, "learning_rate": 1e-9, **params})
    estimator.fit(data)
    (batch,) = estimator._batches(data).epoch()
    return estimator, estimator.network_.double(), batch


def doubled(batch):
    """The batch in float64, for finite differences."""
    counts = batch.counts.with_values(batch.counts.values.double())
    return replace(
        batch,
        counts=counts,
        target=counts,
        library=batch.library.double(),
        covariates=None if batch.covariates is None else batch.covariates.double(),
    )


# -- the loss ----------------------------------------------------------------------------------------------------------
def parameters_of(network, batch):
    """l, mu, logit z and theta of every entry, by numpy from the network's heads."""
    encoded = network(batch)
    V = encoded.hidden.detach().numpy()

    def head(linear):
        return V @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()

    share = np.exp(head(network.mean_head))
    share /= share.sum(axis=1, keepdims=True)
    m = np.exp(encoded.log_library.detach().numpy())[:, None] * share
    r = None if network.zero_head is None else head(network.zero_head)
    theta = None if network.dispersion_head is None else head(network.dispersion_head)
    return m, r, theta


@pytest.mark.parametrize("rate_penalty", ["entries", "library"])
@pytest.mark.parametrize("distribution", ["poisson", "zip", "nb", "zinb"])
def test_loss_is_the_formula_of_the_paper(distribution, rate_penalty):
    """Section II-D with scipy's distributions, entry by entry, and every penalty beside it."""
    X = simulated(20, 11)[0]
    strengths = {"alpha_z": 0.3, "alpha_w": 0.7, "alpha_theta": 0.2, "alpha_rate": 0.05}
    trained, network, batch = ready(X, distribution=distribution, rate_penalty=rate_penalty, **strengths)
    batch = doubled(batch)
    m, r, theta = parameters_of(network, batch)
    expected = {}
    if theta is None:
        probability = stats.poisson.pmf(X, m)
    else:  # size = m exp(-theta)
        size = m * np.exp(-theta)
        probability = stats.nbinom.pmf(X, size, size / (size + m))
        expected["dispersion"] = 0.2 * np.mean(theta**2)
    if r is not None:
        z = expit(r)
        probability = z * (X == 0) + (1 - z) * probability
        expected["zero_inflation"] = 0.3 * np.mean(z**2)
    expected["nll"] = -np.mean(np.log(probability).sum(axis=1))
    if rate_penalty == "entries":
        expected["rate"] = 0.05 * np.mean((m - X) ** 2)
    else:
        expected["rate"] = 0.05 * np.mean((m.sum(axis=1) - X.sum(axis=1)) ** 2)
    W = network.first.weight.detach().numpy()
    expected["sparsity"] = 0.7 * np.mean(np.abs(W).mean(axis=0) / np.sqrt((W**2).mean(axis=0)))
    terms = {name: float(term.detach()) for name, term in network.loss_terms(batch).items()}
    assert terms == pytest.approx(expected, rel=1e-5)
    assert float(network.validation_loss(batch)) == pytest.approx(len(X) * expected["nll"], rel=1e-5)
    assert trained.network_ is network


def test_the_likelihood_is_a_mean_over_cells_or_over_entries():
    """Only the first term of the loss differs, by the number of genes; the validation loss is the same."""
    X = simulated(20, 11)[0]
    terms, losses = {}, {}
    for loss_over in ("cells", "entries"):
        _, network, batch = ready(X, loss_over=loss_over, alpha_z=0.3, alpha_w=0.7)
        batch = doubled(batch)
        m, r, _ = parameters_of(network, batch)
        z = expit(r)
        log_probability = np.log(z * (X == 0) + (1 - z) * stats.poisson.pmf(X, m))  # (n, G)
        W = network.first.weight.detach().numpy()
        expected = {
            "nll": -(log_probability.sum(axis=1).mean() if loss_over == "cells" else log_probability.mean()),
            "zero_inflation": 0.3 * np.mean(z**2),
            "sparsity": 0.7 * np.mean(np.abs(W).mean(axis=0) / np.sqrt((W**2).mean(axis=0))),
        }
        terms[loss_over] = {name: float(term.detach()) for name, term in network.loss_terms(batch).items()}
        assert terms[loss_over] == pytest.approx(expected, rel=1e-5)
        losses[loss_over] = float(network.validation_loss(batch)) / -log_probability.sum()
    assert losses == pytest.approx({"cells": 1.0, "entries": 1.0}, rel=1e-5)


def test_defaults_of_the_penalties_follow_the_distribution():
    """NB: 0.01 and 0.1 (sections II-D and III-F); Poisson has neither."""
    for distribution, theta, rate in (("zip", 0, 0), ("zinb", 0.01, 0.1), ("nb", 0.01, 0.1)):
        design = ready(simulated(20, 11)[0], distribution=distribution)[1].design
        assert (design.alpha_z, design.alpha_w, design.theta_strength, design.rate_strength) == (0.1, 0.1, theta, rate)


def test_observed_library_and_poisson_take_the_fused_loss():
    """The Poisson likelihood at the observed library size; what is trained on leaves its constants out."""
    X = simulated(20, 11)[0]
    _, network, batch = ready(X, distribution="poisson", library="observed")
    batch = doubled(batch)
    assert network._is_multinomial
    V = network(batch).hidden.detach().numpy()
    share = np.exp(V @ network.mean_head.weight.detach().numpy().T + network.mean_head.bias.detach().numpy())
    share /= share.sum(axis=1, keepdims=True)
    expected = -stats.poisson.logpmf(X, X.sum(axis=1, keepdims=True) * share).sum()
    assert float(network.validation_loss(batch)) == pytest.approx(expected, rel=1e-5)
    trained_on = -(X * np.log(share)).sum() / 20
    assert float(network.loss_terms(batch)["nll"].detach()) == pytest.approx(trained_on, rel=1e-5)


@pytest.mark.parametrize(
    ("distribution", "params"),
    [
        ("poisson", {}),
        ("poisson", {"library": "observed"}),
        ("zip", {"input_transform": "zscore"}),
        ("nb", {}),
        ("zinb", {"decoder": "4", "rate_penalty": "library"}),
        ("zinb", {"library": "size_factor", "dispersion": "conditional", "alpha_theta": 0.1, "alpha_rate": 0.1}),
        ("nb", {"library": "size_factor", "dispersion": "gene"}),
    ],
)
def test_gradients_by_finite_differences(distribution, params):
    _, network, batch = ready(simulated(20, 11)[0], distribution=distribution, **params)
    batch = doubled(batch)
    rng = np.random.default_rng(0)
    loss = sum(network.loss_terms(batch).values())
    loss.backward()
    for name, parameter in network.named_parameters():
        direction = torch.from_numpy(rng.normal(size=tuple(parameter.shape)))
        slope = float((parameter.grad * direction).sum())
        values = []
        with torch.no_grad():
            for step in (1e-4, -1e-4):
                parameter += step * direction
                values.append(float(sum(network.loss_terms(batch).values())))
                parameter -= step * direction
        numeric = (values[0] - values[1]) / 2e-4
        assert numeric == pytest.approx(slope, rel=2e-3, abs=1e-4), name


def test_sparsity_is_scale_free_and_bounded():
    rng = np.random.default_rng(0)
    W = torch.from_numpy(rng.normal(size=(150, 4)))
    base = float(sparsity(W))
    assert float(sparsity(W * torch.tensor([1e-3, 5.0, 1.0, 1e4]))) == pytest.approx(base, rel=1e-9)
    one = torch.zeros(100, 3)
    one[7] = 2.0
    assert float(sparsity(one)) == pytest.approx(1 / np.sqrt(100), rel=1e-6)
    assert float(sparsity(torch.full((100, 3), -0.3))) == pytest.approx(1, rel=1e-6)
    W.requires_grad_()
    assert torch.autograd.gradcheck(sparsity, (W,))


# -- structure ---------------------------------------------------------------------------------------------------------
def block(x, linear, rest):
    """sigmoid(x W + b), then batch normalisation in eval mode, by numpy."""
    weight = linear.weight.detach().numpy()
    x = expit(x @ (weight.T if isinstance(linear, torch.nn.Linear) else weight) + linear.bias.detach().numpy())
    norm = rest[1]
    scale = norm.weight.detach().numpy() / np.sqrt(norm.running_var.numpy() + norm.eps)
    return (x - norm.running_mean.numpy()) * scale + norm.bias.detach().numpy()


def test_latent_is_the_last_block_plus_projections_of_the_earlier():
    X = simulated(20, 11)[0]
    trained, network, batch = ready(X, encoder="7-5-3")
    h1 = block(np.log1p(X), network.first, network.first_rest)
    h2 = block(h1, network.blocks[0][0], network.blocks[0][1])
    h3 = block(h2, network.blocks[1][0], network.blocks[1][1])
    P1, P2 = (linear.weight.detach().numpy().T for linear in network.residuals)
    assert all(linear.bias is None for linear in network.residuals)
    assert P1.shape == (7, 3)
    np.testing.assert_allclose(
        network(doubled(batch)).latent.detach().numpy(), h3 + h1 @ P1 + h2 @ P2, rtol=1e-6, atol=1e-7
    )
    plain = ready(X, encoder="7-5-3", residual=False)[1]
    assert len(plain.residuals) == 0
    assert len(trained.network_.residuals) == 2


@pytest.mark.parametrize("layers", [(2,), [3, 1], (), (1, 2, 3)])
def test_residuals_of_some_layers(layers, tmp_path):
    """The layers are numbered from 1; a list is a tuple, and the saved model has the same ones."""
    X = simulated(20, 11)[0]
    check_parameters(Zipo, {"residual": layers})
    estimator, network, batch = ready(X, encoder="7-6-5-3", residual=layers)
    hidden = [block(np.log1p(X), network.first, network.first_rest)]
    for linear, rest in network.blocks:
        hidden.append(block(hidden[-1], linear, rest))
    expected = hidden[-1]
    for layer, linear in zip(sorted(layers), network.residuals, strict=True):
        expected = expected + hidden[layer - 1] @ linear.weight.detach().numpy().T
    np.testing.assert_allclose(network(doubled(batch)).latent.detach().numpy(), expected, rtol=1e-6, atol=1e-7)
    estimator.network_ = network.float()
    estimator.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(X).to_array(), estimator.transform(X).to_array())
    if set(layers) == {1, 2, 3}:
        every = ready(X, encoder="7-6-5-3")[0]
        every.network_.float()
        np.testing.assert_array_equal(every.transform(X).to_array(), loaded.transform(X).to_array())


@pytest.mark.parametrize("layers", [(3,), (0,), (-1, 1), 5.0, "all", (1.0,)])
def test_wrong_layers_for_residuals_are_refused(layers):
    """The latent, the third of three, has no residual connection to itself."""
    with pytest.raises(InputError, check=has_code("parameter-value")):
        methods.create("zipo", {"encoder": "7-5-3", "residual": layers}).fit(simulated(20, 11)[0])


def test_library_network_starts_at_the_mean_log_total():
    X, _, _ = simulated(20, 11)
    _, network, _ = ready(X)
    layers = [type(layer).__name__ for layer in network.library]
    assert layers == ["Linear", "BatchNorm1d", "Sigmoid"] * 2 + ["Linear"]
    assert [layer.out_features for layer in network.library if isinstance(layer, torch.nn.Linear)] == [16, 4, 1]
    assert network.library[-1].bias.item() == pytest.approx(np.log(X.sum(axis=1)).mean(), abs=1e-4)


@pytest.mark.parametrize("transform", ["counts", "log1p", "log1p_normalized", "zscore"])
def test_sparse_input_is_the_dense_one(transform):
    X = simulated(40, 11)[0]
    _, network, batch = ready(X, input_transform=transform)
    depth = X.sum(axis=1, keepdims=True).astype(float)
    dense = {
        "counts": X,
        "log1p": np.log1p(X),
        "log1p_normalized": np.log1p(X / depth * 1e4),
        "zscore": stats.zscore(np.log1p(X / depth * np.median(depth)), ddof=1),
    }[transform]
    expected = dense @ network.first.weight.detach().numpy() + network.first.bias.detach().numpy()
    batch = doubled(batch)
    np.testing.assert_allclose(
        network.read(batch.counts, batch.library).detach().numpy(), expected, rtol=1e-5, atol=1e-5
    )


def test_defaults_are_the_papers():
    """Sections II-G and III: structure, penalties, Adam and its schedule."""
    given = Zipo.parameter_defaults()
    paper = {
        "encoder": "2048-1024-512-256-128",
        "decoder": "",
        "residual": True,
        "activation": "sigmoid",
        "batch_norm": True,
        "batch_norm_place": "after",
        "distribution": "zip",
        "library": "network",
        "alpha_z": 0.1,
        "alpha_w": 0.1,
        "optimizer": "adam",
        "learning_rate": 0.0212,
        "decay": 0.9,
        "decay_epochs": 30,
        "plateau_patience": 15,
        "patience": 30,
        "patience_from": 30,
        "batch_size": 256,
        "max_epochs": 500,
        "validation_share": 0.2,
    }
    assert {name: given[name] for name in paper} == paper
    schedule = Zipo()._schedule()
    assert (schedule.plateau_factor, schedule.plateau_threshold, schedule.restore_best) == (0.1, 1e-3, True)
    rate = schedule.learning_rate * schedule.decay ** (schedule.decay_epochs - 1)
    assert rate == pytest.approx(0.001, rel=0.01)  # "to reach 0.001 at epoch 30"


def test_preset_of_the_paper(tmp_path):
    """Counts as input and PyTorch's starting values (sections II and II-G); a given parameter is used as it is."""
    X = simulated(20, 11)[0]
    design = Zipo(preset="paper")._design()
    assert design == replace(Zipo()._design(), input_transform="counts", data_start=False)
    assert Zipo(preset="paper")._schedule() == Zipo()._schedule()
    assert Zipo(preset="paper", input_transform="log1p_normalized")._design().input_transform == "log1p_normalized"
    assert Zipo()._design().input_transform == "log1p"
    estimator, network, batch = ready(X, preset="paper", batch_norm=False)
    assert abs(network.library[-1].bias.item()) < 0.5  # within 1 / sqrt(4) of zero, not near the log of the totals
    assert network.mean_head.bias.detach().abs().max() < 1 / np.sqrt(3)
    first = X @ network.first.weight.detach().numpy() + network.first.bias.detach().numpy()
    np.testing.assert_allclose(network.read(doubled(batch).counts, batch.library).detach().numpy(), first, rtol=1e-5)
    estimator.network_ = network.float()
    estimator.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model")
    assert loaded.preset == "paper"
    np.testing.assert_array_equal(loaded.transform(X).to_array(), estimator.transform(X).to_array())
    with pytest.raises(InputError, check=has_code("parameter-value")):
        Zipo(preset="papers").fit(X)


def test_widths_are_read_from_the_papers_notation():
    assert widths("2048-1024-64", "encoder") == (2048, 1024, 64)
    assert widths(64, "encoder") == widths("64", "encoder") == widths([64], "encoder") == (64,)
    assert widths("", "decoder") == widths((), "decoder") == ()
    for wrong in ("64-", "a-b", "64--32", (64, 0), "-5", None, 2.5):
        with pytest.raises(InputError, check=has_code("parameter-value")):
            widths(wrong, "encoder")
    check_parameters(Zipo, {"encoder": (64, 32), "decoder": 16, "device": "cpu", "clip_value": None})
    for wrong in ({"encoder": (64, 0.5)}, {"activation": "swish"}, {"distribution": "gamma"}, {"alpha_z": "big"}):
        with pytest.raises(InputError):
            check_parameters(Zipo, wrong)
    with pytest.raises(InputError, check=has_code("parameter-value")):
        Zipo(encoder="").fit(simulated(20, 11)[0])


# -- a fitted model ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fitted():
    X = simulated()[0]
    estimator = Zipo(**SMALL)
    return X, estimator, estimator.fit_transform(X)


@pytest.mark.parametrize("distribution", ["poisson", "nb", "zip", "zinb"])
@pytest.mark.parametrize("dispersion", ["odds", "conditional", "gene"])
def test_outputs_are_those_of_the_distribution(distribution, dispersion):
    """The numpy result against the network's own torch distribution, entry by entry."""
    if dispersion != "odds" and distribution in ("poisson", "zip"):
        pytest.skip("has no dispersion")
    X = simulated(60, 20)[0]
    library = "network" if dispersion == "odds" else "size_factor"
    params = {"distribution": distribution, "dispersion": dispersion, "library": library}
    estimator = Zipo(**{**SMALL, **params, "decoder": "5"})
    result = estimator.fit_transform(X)
    (batch,) = estimator._batches(as_data(X, kind="counts")).epoch()
    with torch.no_grad():
        encoded = estimator.network_(batch)
        law = estimator.network_.distribution(encoded)
    base = getattr(law, "base", law)
    counted = law.mean * (X.sum() / law.mean.sum())
    expected = {"rate": base.mean, "expected_count": counted, "value": counted, "variance": law.variance}
    if distribution in ("zip", "zinb"):
        expected["dropout_probability"] = law.dropout_probability
    assert result.outputs == {*expected, "normalized"}
    for output, values in expected.items():
        ours = result.to_array(output=output)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, values.numpy(), rtol=2e-4, atol=1e-5)
    per = X.sum(axis=1) if library == "size_factor" else encoded.log_library.exp().numpy()
    np.testing.assert_allclose(
        result.to_array(output="normalized"), base.mean.numpy() / per[:, None] * 1e4, rtol=2e-4, atol=1e-4
    )
    np.testing.assert_allclose(result.cell_columns["library_size"], per, rtol=1e-5)
    np.testing.assert_allclose(result.latent, encoded.latent.numpy(), rtol=1e-5, atol=1e-6)


def test_normalized_sums_to_ten_thousand_and_scales_agree(fitted):
    X, _, result = fitted
    normalized = result.to_array(output="normalized")
    np.testing.assert_allclose(normalized.sum(axis=1), 1e4, rtol=1e-4)
    np.testing.assert_array_equal(result.to_array(output="normalized", scale="normalized")[:3].shape, (3, X.shape[1]))
    np.testing.assert_allclose(result.to_array(output="normalized", scale="log1p"), np.log1p(normalized), rtol=1e-4)


def test_status_says_how_good_the_fit_is(fitted):
    X, estimator, result = fitted
    details = result.status.details
    train_rows, rows = estimator._split(as_data(X, kind="counts"))
    assert len(rows) == 48
    assert not set(rows) & set(train_rows)
    rate, z = result.to_array(output="rate"), None
    assert details["mse_validation"] == pytest.approx(np.mean((rate - X)[rows] ** 2), rel=1e-4)
    assert details["total_ratio_rate"] == pytest.approx(rate.sum() / X.sum(), rel=1e-4)
    counted = result.to_array()
    assert counted.sum(dtype=np.float64) == pytest.approx(X.sum(), rel=1e-4)
    expected = counted / estimator.factor_
    z = 1 - expected / rate
    assert details["mean_dropout"] == pytest.approx(z.mean(), abs=1e-4)
    assert details["total_ratio_expected"] == pytest.approx(expected.sum() / X.sum(), rel=1e-4)
    likelihood = np.where(X == 0, z, 0) + (1 - z) * stats.poisson.pmf(X, rate)
    assert details["nll_validation"] == pytest.approx(-np.log(likelihood)[rows].sum() / len(rows), rel=1e-4)
    assert details["nll_validation"] == pytest.approx(details["validation_loss"], rel=1e-4)
    logs = np.log(result.cell_columns["library_size"]), np.log(X.sum(axis=1))
    assert details["library_correlation"] == pytest.approx(np.corrcoef(*logs)[0, 1], abs=1e-4)
    assert {"epochs", "best_epoch", "train_seconds"} <= details.keys()
    assert {"train_nll", "train_sparsity", "train_zero_inflation"} <= set(result.history.columns)


def test_it_learns(fitted):
    """Groups and depth are found: a better likelihood than one share per gene at each cell's own depth."""
    X = simulated(400)[0]
    estimator = Zipo(encoder="32-8", max_epochs=60, batch_size=64, alpha_z=100.0)
    result = estimator.fit_transform(X)
    rows = estimator._split(as_data(X, kind="counts"))[1]
    flat = X.sum(axis=1, keepdims=True) * X.sum(axis=0) / X.sum()
    reference = -stats.poisson.logpmf(X, flat)[rows].sum() / len(rows)
    assert result.status.details["nll_validation"] < 0.9 * reference
    assert result.status.details["library_correlation"] > 0.9
    assert result.status.details["total_ratio_expected"] == pytest.approx(1, abs=0.1)


def test_strong_alpha_z_leaves_no_zero_inflation():
    X = simulated()[0]
    z = [
        Zipo(**{**LONGER, "alpha_z": alpha}).fit_transform(X).status.details["mean_dropout"]
        for alpha in (0.0, 30.0, 1e5)
    ]
    assert z[0] > z[1] > z[2]
    assert z[2] < 0.01


def test_a_rate_off_the_scale_is_said():
    """Half of all counts set to zero: free zero inflation takes them for dropouts, and the rate doubles."""
    X = simulated()[0]
    X = X * (np.random.default_rng(1).random(X.shape) < 0.5)
    free = Zipo(**{**LONGER, "alpha_z": 0.0}).fit_transform(X)
    assert free.status.details["total_ratio_rate"] > 1.5
    assert scale_warning(free.status.details)
    assert free.status.details["total_ratio_expected"] == pytest.approx(1, abs=0.15)
    plain = Zipo(**{**LONGER, "distribution": "poisson"}).fit_transform(X)
    assert plain.outputs == {"value", "rate", "expected_count", "normalized", "variance"}
    assert plain.status.details["mean_dropout"] == 0
    assert not scale_warning(plain.status.details)
    switched = Zipo(**{**LONGER, "zero_inflation": False}).fit_transform(X)
    np.testing.assert_array_equal(switched.to_array(), plain.to_array())


def test_same_seed_same_result(fitted):
    X, estimator, result = fitted
    torch.manual_seed(7)  # torch's own generator must neither matter nor be moved
    before = torch.random.get_rng_state()
    again = estimator.clone().fit_transform(X)
    assert torch.equal(torch.random.get_rng_state(), before)
    for output in result.outputs:
        np.testing.assert_array_equal(again.to_array(output=output), result.to_array(output=output))
    np.testing.assert_array_equal(again.latent, result.latent)


def test_huge_counts_do_not_overflow():
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.3, size=(60, 30)) * rng.lognormal(5, 3, size=(60, 1))).astype(np.float32)
    X[0, 0] = 1e5
    X[1, :] = 4e4
    X[1:, 1] += 1
    X[0, 1] += 1
    for params in ({}, {"distribution": "zinb"}, {"input_transform": "counts"}):
        result = Zipo(**{**SMALL, **params}).fit_transform(X)
        for output in result.outputs:
            values = result.to_array(output=output)
            assert np.isfinite(values).all()
            assert (values >= 0).all()


def test_the_posterior_step_takes_the_expected_count():
    X = simulated(120, 20)[0]
    estimator = Zipo(**SMALL, posterior=True)
    result = estimator.fit_transform(X)
    assert "variance" in result.outputs
    assert result.to_array().sum() == pytest.approx(X.sum(), rel=1e-3)
    shape = estimator.prior_.shape.copy()
    tuned = estimator.fine_tune(2 * X, max_epochs=2)
    assert tuned.to_array().sum() == pytest.approx(2 * X.sum(), rel=1e-3)
    np.testing.assert_array_equal(tuned.gene_columns["posterior_shape"], shape)
    np.testing.assert_allclose(estimator.transform(2 * X).to_array(), tuned.to_array(), rtol=1e-4)


def test_known_zeros_alone_teach_nothing():
    X = np.zeros((6, 5), np.float32)
    X[0] = 3
    with pytest.raises(InputError, check=has_code("too-few-cells")):
        Zipo(**SMALL).fit(as_data(X, kind="counts", observed=np.ones(X.shape, bool)))


def test_counts_of_a_part_of_the_genes():
    """A given library size is that of the whole experiment: rates stay at this matrix's depth."""
    X = simulated()[0]
    library = 4.0 * X.sum(axis=1)
    part = Zipo(**SMALL).fit_transform(as_data(X, kind="counts", library_size=library))
    np.testing.assert_allclose(part.to_array(output="normalized").sum(axis=1), 2500, rtol=1e-4)
    assert part.cell_columns["library_size"].sum() == pytest.approx(X.sum(), rel=0.3)


# -- covariates --------------------------------------------------------------------------------------------------------
def batches_of(n, *, seed=0):
    """Two batches that differ in half of the genes by a factor of 4, a table of covariates, and which is which."""
    X = simulated(n, seed=seed)[0]
    batch = np.random.default_rng(seed + 1).random(n) < 0.5
    X[:, ::2] *= np.where(batch, 4, 1)[:, None]
    table = pd.DataFrame({"batch": np.where(batch, "b", "a"), "age": np.linspace(20, 60, n)})
    return X, table, batch


def test_covariates_reach_the_output_and_survive_saving(tmp_path):
    X, table, _ = batches_of(240)
    estimator = Zipo(**SMALL)
    result = estimator.fit_transform(as_data(X, kind="counts", covariates=table))
    assert estimator.coding_.columns == ["batch=a", "batch=b", "age"]
    assert estimator.network_.mean_head.in_features == 6 + 3
    new = as_data(X, kind="counts", covariates=table)
    np.testing.assert_allclose(estimator.transform(new).to_array(), result.to_array(), rtol=1e-5)
    other = table.assign(batch="b")
    swapped = estimator.transform(as_data(X, kind="counts", covariates=other)).to_array()
    was_b = (table["batch"] == "b").to_numpy()
    np.testing.assert_allclose(swapped[was_b], result.to_array()[was_b], rtol=1e-5)
    assert np.abs(swapped[~was_b] - result.to_array()[~was_b]).max() > 0.05
    older = estimator.transform(as_data(X, kind="counts", covariates=table.assign(age=90.0))).to_array()
    assert np.abs(older - result.to_array()).max() > 0.01
    estimator.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model")
    few = as_data(X[:7], kind="counts", covariates=table[["age", "batch"]][:7])
    np.testing.assert_array_equal(loaded.transform(few).to_array(), estimator.transform(few).to_array())
    for wrong, code in (
        (table.assign(batch="c"), "covariate-level"),
        (table[["age"]], "covariates-missing"),
        (None, "covariates-missing"),
    ):
        with pytest.raises(InputError, check=has_code(code)):
            loaded.transform(as_data(X, kind="counts", covariates=wrong))


def test_covariates_that_the_model_does_not_know_are_refused(fitted):
    X, estimator, _ = fitted
    table = pd.DataFrame({"batch": ["a"] * len(X)})
    with pytest.raises(InputError, check=has_code("covariates-unexpected")):
        estimator.transform(as_data(X, kind="counts", covariates=table))


# -- new cells, saving, fine-tuning ------------------------------------------------------------------------------------
def test_new_cells_and_saving_are_exact(fitted, tmp_path):
    X, estimator, result = fitted
    new = estimator.transform(X[::-1])
    estimator.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model").transform(X[::-1])
    for output in result.outputs:
        np.testing.assert_allclose(
            new.to_array(output=output), result.to_array(output=output)[::-1], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(loaded.to_array(output=output), new.to_array(output=output))
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"model.json", "arrays.npz"}


def test_fine_tuning_starts_from_the_saved_weights(tmp_path):
    """On a shifted dataset the untuned model is poor, the tuned one better than it, after one epoch already."""
    first, _, _ = simulated(300)
    second, _, _ = simulated(300, seed=5)  # other groups of cells
    estimator = Zipo(**{**SMALL, "max_epochs": 20}).fit(first)
    estimator.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model")
    rows = loaded._split(as_data(second, kind="counts"))[1]
    untuned = loaded.transform(second)
    rate, value = untuned.to_array(output="rate")[rows], untuned.to_array()[rows] / loaded.factor_
    z = 1 - value / rate
    likelihood = np.where(second[rows] == 0, z, 0) + (1 - z) * stats.poisson.pmf(second[rows], rate)
    before = -np.log(np.maximum(likelihood, 1e-300)).sum() / len(rows)
    still = methods.load(tmp_path / "model").fine_tune(second, max_epochs=1, learning_rate=1e-12)
    assert still.status.details["nll_before"] == pytest.approx(before, rel=1e-3)
    tuned = loaded.fine_tune(second, max_epochs=20, learning_rate=5e-3)
    details = tuned.status.details
    assert details["nll_before"] == pytest.approx(before, rel=1e-3)
    assert details["nll_validation"] < 0.9 * before
    assert tuned.shape == second.shape
    np.testing.assert_allclose(loaded.transform(second).to_array(), tuned.to_array(), rtol=1e-5)
    with pytest.raises(ModelFormatError):
        loaded.fine_tune(second[:, :-1])


# -- pruning and interpretation ----------------------------------------------------------------------------------------
def test_pruning_reports_and_is_used():
    X = simulated()[0]
    estimator = Zipo(**SMALL)
    result = estimator.fit_transform(X)
    W = estimator.network_.first.weight.detach().numpy().copy()
    report = estimator.prune(X, delta=0.3)
    small = np.abs(W) < 0.3 * np.abs(W).max(axis=0)
    np.testing.assert_array_equal(estimator.network_.first.weight.detach().numpy(), np.where(small, 0, W))
    assert report.sparsity == pytest.approx(small.mean())
    assert 0.05 < report.sparsity < 0.9
    assert report.nll_before == pytest.approx(result.status.details["nll_validation"], rel=1e-5)
    assert report.mse_before == pytest.approx(result.status.details["mse_validation"], rel=1e-5)
    after = estimator.transform(X)
    assert np.abs(after.to_array() - result.to_array()).max() > 1e-3
    rows = estimator._split(as_data(X, kind="counts"))[1]
    assert report.mse_after == pytest.approx(np.mean((after.to_array(output="rate") - X)[rows] ** 2), rel=1e-4)
    assert report.nll_after != report.nll_before
    none = estimator.prune(X, delta=0.0)
    assert none.sparsity == report.sparsity
    assert none.nll_after == none.nll_before == pytest.approx(report.nll_after)
    with pytest.raises(InputError, check=has_code("parameter-value")):
        estimator.prune(X, delta=1.0)


def test_the_pruning_curve_is_what_prune_does_at_each_threshold():
    """Shares by counting, fits by pruning copies of the model; the model itself stays as it is."""
    X = simulated()[0]
    estimator = Zipo(**SMALL).fit(X)
    with torch.no_grad():  # weights of all sizes, from 1 to 1e-8 of the largest of their neuron
        weight = estimator.network_.first.weight
        weight *= 10 ** -torch.linspace(0, 8, len(weight))[:, None]
    W = estimator.network_.first.weight.detach().numpy().copy()
    before = estimator.transform(X).to_array()
    curve = estimator.pruning_curve(X)
    np.testing.assert_array_equal(estimator.network_.first.weight.detach().numpy(), W)
    np.testing.assert_array_equal(estimator.transform(X).to_array(), before)
    relative = np.abs(W) / np.abs(W).max(axis=0)
    for k in range(1, 7):
        pruned = copy.deepcopy(estimator).prune(X, delta=10.0**-k)
        small = sum(value < 10.0**-k for value in relative.ravel().tolist())
        assert getattr(curve, f"sparsity_1e_{k}") == pytest.approx(small / W.size) == pytest.approx(pruned.sparsity)
        assert getattr(curve, f"nll_1e_{k}") == pytest.approx(pruned.nll_after, rel=1e-6)
        assert getattr(curve, f"mse_1e_{k}") == pytest.approx(pruned.mse_after, rel=1e-6)
        assert (curve.nll, curve.mse) == pytest.approx((pruned.nll_before, pruned.mse_before), rel=1e-6)
    assert curve.sparsity_1e_1 > curve.sparsity_1e_3 > curve.sparsity_1e_6 > 0
    assert abs(curve.nll_1e_1 - curve.nll) > 1e-3
    assert curve.weight_loss == pytest.approx(np.mean(np.abs(W).mean(axis=0) / np.sqrt((W**2).mean(axis=0))), rel=1e-5)
    assert all(isinstance(value, float) for value in asdict(curve).values())  # what a study records of it


def test_a_result_stays_as_it_was_when_the_model_is_pruned_or_tuned():
    X = simulated()[0]
    estimator = Zipo(**SMALL)
    result = estimator.fit_transform(X)
    before = result.to_array()
    estimator.prune(X, delta=0.5)
    estimator.fine_tune(X, max_epochs=2, learning_rate=0.01)
    np.testing.assert_array_equal(result.to_array(), before)


def test_genes_of_the_first_layer():
    X = simulated()[0]
    estimator = Zipo(**SMALL).fit(as_data(X, kind="counts", var_names=[f"gene{j}" for j in range(50)]))
    table = estimator.first_layer_genes(4)
    assert list(table.columns) == ["neuron", "rank", "gene", "weight", "relative"]
    assert len(table) == 12 * 4
    W = estimator.network_.first.weight.detach().numpy()
    for neuron, part in table.groupby("neuron"):
        order = np.argsort(-np.abs(W[:, neuron]))[:4]
        assert list(part["gene"]) == [f"gene{j}" for j in order]
        np.testing.assert_allclose(part["weight"], W[order, neuron])
        assert abs(part["relative"].iloc[0]) == pytest.approx(1)
    assert len(estimator.first_layer_genes(50)) == 12 * 50
    with pytest.raises(InputError, check=has_code("parameter-value")):
        estimator.first_layer_genes(51)


# -- the numpy model by itself -----------------------------------------------------------------------------------------
def test_log_linear_model_at_the_extremes():
    """No overflow, and an offset or bias of -inf gives zeros in every output."""
    rng = np.random.default_rng(0)
    n, K, G = 5, 3, 6
    head = LinearOutput(rng.normal(size=(K, G)).astype(np.float32), rng.normal(size=G).astype(np.float32))
    bias = head.bias.copy()
    bias[2] = -np.inf
    offset = np.array([0, 5, -np.inf, 500, -500], np.float32)
    library = np.array([1, 100, 0, 1e6, 1], np.float32)
    hidden = rng.normal(size=(n, K)).astype(np.float32)
    for dispersion, kind in (
        (None, "odds"),
        (head, "odds"),
        (head, "size"),
        (LinearOutput(None, 900 * head.bias), "size"),
    ):
        model = LogLinearModel(
            hidden,
            log_offset=offset,
            library=library,
            mean=LinearOutput(head.weight, bias),
            zero=LinearOutput(100 * head.weight, head.bias),
            dispersion=dispersion,
            dispersion_is=kind,
        )
        i, j = (index.ravel() for index in np.indices((n, G)))
        with np.errstate(over="raise", invalid="raise"):
            for output in model.outputs:
                values = model.rows(np.arange(n), None, output)
                assert values.dtype == np.float32
                assert np.isfinite(values).all()
                assert (values >= 0).all()
                assert not values[2].any()
                assert not values[:, 2].any()
                np.testing.assert_allclose(model.at(i, j, output), values.ravel(), rtol=1e-5, atol=1e-30)
                genes = np.array([4, 0])
                np.testing.assert_allclose(model.rows(np.array([1]), genes, output), values[[1]][:, genes], rtol=1e-5)


def test_sparse_and_dense_input_are_one():
    X = simulated(60, 20)[0]
    ours = Zipo(**SMALL).fit_transform(sp.csr_array(X)).to_array()
    np.testing.assert_array_equal(ours, Zipo(**SMALL).fit_transform(X).to_array())
