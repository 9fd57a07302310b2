"""The beta-VAE: loss against scipy, imputation against a naive loop, shift, draws, presets, saved models."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import entropy, norm

torch = pytest.importorskip("torch")

from codes import has_code  # noqa: E402
from imputome.core.data import as_data  # noqa: E402
from imputome.errors import InputError, ModelFormatError  # noqa: E402
from imputome.methods import get, load  # noqa: E402
from imputome.methods.beta_vae.network import PRESETS, Design, VariationalAutoencoder, divergence  # noqa: E402
from imputome.methods.deep.batches import DenseBatches  # noqa: E402
from imputome.methods.deep.training import seeded  # noqa: E402

Method = get("beta_vae")
QUICK = {"latent": 3, "hidden": "24", "learning_rate": 5e-3, "batch_size": 32, "max_epochs": 60, "device": "cpu"}


def low_rank(n=120, G=24, *, seed=0, noise=0.4, missing=0.1):
    """Rank 3 with noise, and the same with NaN; features of other means and scales."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, G)) + noise * rng.normal(size=(n, G))
    X = X * rng.uniform(0.5, 20, size=G) + rng.normal(0, 50, size=G)
    return X, np.where(rng.random(X.shape) < missing, np.nan, X)


@pytest.fixture(scope="module")
def trained():
    """(truth, input, estimator, result). Not to be modified."""
    X, given = low_rank()
    estimator = Method(**QUICK)
    return X, given, estimator, estimator.fit_transform(as_data(given, kind="real"))


def network(G=7, seed=0, **options):
    plain = {"dropout": 0.0, "input_dropout": 0.0, "residual": False, "compressed": False}
    shift = options.pop("shift", 0.0)
    with seeded(seed):
        net = VariationalAutoencoder(G, Design(**{**plain, **options}), ((6, 5), (5, 6), 2), shift=shift)
        if net.spread is not None:  # other variances than 1
            torch.nn.init.normal_(net.spread.bias, 0, 0.5)
    return net


def batch_of(values):
    return next(iter(DenseBatches(np.asarray(values, np.float32), batch_size=len(values)).epoch()))


def values_with_nan(n=9, G=7, seed=1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, G)).astype(np.float32)
    X[rng.random(X.shape) < 0.2] = np.nan
    return X


def z_scores(estimator, X):
    return (X - estimator.center_) / estimator.scale_


# -- network and loss --------------------------------------------------------------------------------------------------
def as_numpy(net, x, noise=None, *, residual=False, compressed=False, log_sigma=False):
    """Mean and log variance of z, mu and log sigma^2 of x, by matrix products in float64."""
    state = {name: value.detach().numpy().astype(np.float64) for name, value in net.state_dict().items()}

    def layer(name, values):
        return values @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    def relu(values, part):
        for k in (0, 2):
            values = np.maximum(layer(f"{part}.{k}", values), 0)
        return values

    x = np.arcsinh(x) if compressed else x
    hidden = relu(x, "encoder")
    mean = layer("latent_mean", hidden) + (layer("linear_encoder", x) if residual else 0)
    log_variance = np.clip(layer("latent_spread", hidden), -10, 10) if net.latent_spread is not None else None
    z = mean if noise is None else mean + np.exp(log_variance / 2) * noise
    hidden = relu(z, "decoder")
    mu = layer("mean", hidden) + (layer("linear_decoder", z) if residual else 0)
    spread = None
    if net.spread is not None:
        spread = np.clip(layer("spread", hidden) * (2 if log_sigma else 1), -10, 10)
    return mean, log_variance, mu, spread


def drawn_noise(shape, seed):
    """What the network draws when torch's generator is seeded so."""
    torch.manual_seed(seed)
    return torch.randn(shape).numpy().astype(np.float64)


@pytest.mark.parametrize(
    "options",
    [{}, {"residual": True, "compressed": True}, {"log_sigma": True}, {"latent_noise": False}, {"likelihood": "mse"}],
    ids=str,
)
def test_network_against_numpy(options):
    net = network(**options)
    x = np.random.default_rng(0).normal(size=(4, 7))
    flags = {name: options.get(name, False) for name in ("residual", "compressed", "log_sigma")}
    mean, log_variance, mu, spread = as_numpy(net, x, **flags)
    with torch.no_grad():
        latent = net.encode(torch.tensor(x, dtype=torch.float32))
        made, log_sigma2 = net.decode(latent.mean)
    np.testing.assert_allclose(latent.mean.numpy(), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.numpy(), mu, rtol=1e-4, atol=1e-5)
    for ours, theirs in ((latent.log_variance, log_variance), (log_sigma2, spread)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("shift", [0.0, 1.25])
def test_gaussian_loss_against_scipy(beta, shift):
    net = network(beta=beta, shift=shift)
    X = values_with_nan()
    known = ~np.isnan(X)
    noise = drawn_noise((9, 2), 3)
    mean, log_variance, mu, spread = as_numpy(net, np.nan_to_num(X).astype(np.float64), noise)
    sigma = np.exp(spread / 2)
    expected = -norm.logpdf(X, mu + shift * sigma, sigma)[known].sum() / 9
    kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum() / 9
    torch.manual_seed(3)
    terms = net.loss_terms(batch_of(X))
    assert terms["reconstruction"].item() == pytest.approx(expected, rel=1e-5)
    assert terms.keys() == ({"reconstruction", "kl"} if beta else {"reconstruction"})
    if beta:
        assert terms["kl"].item() == pytest.approx(beta * kl, rel=1e-4)


def test_divergence_against_numerical_integration():
    """KL(N(m, s) || N(0, 1)) from the two densities on a fine grid."""
    net = network()
    latent = net.encode(torch.randn(1, 7, generator=torch.Generator().manual_seed(0)))
    grid = np.linspace(-15, 15, 200_001)
    total = 0.0
    for m, v in zip(latent.mean[0].tolist(), latent.log_variance[0].tolist(), strict=True):
        total += entropy(norm.pdf(grid, m, np.exp(v / 2)), norm.pdf(grid))
    assert divergence(*latent).item() == pytest.approx(total, rel=1e-3)


def test_mse_loss_by_hand():
    net = network(likelihood="mse", beta=0.0)
    X = values_with_nan()
    mu = as_numpy(net, np.nan_to_num(X).astype(np.float64), drawn_noise((9, 2), 5))[2]
    torch.manual_seed(5)
    terms = net.loss_terms(batch_of(X))
    assert terms["reconstruction"].item() == pytest.approx(np.nansum((X - mu) ** 2) / 9, rel=1e-5)
    assert terms.keys() == {"reconstruction"}


def test_missing_entries_leave_no_trace():
    """Whatever stands in a missing place of the target changes neither loss nor gradient; NaN never enters."""
    X = values_with_nan()
    gradients = []
    for replaced in (0.0, 1e6):
        net = network()
        batch = batch_of(X)
        target = torch.where(batch.scored, batch.target, replaced)
        torch.manual_seed(0)
        terms = net.loss_terms(type(batch)(batch.index, batch.values, batch.observed, target, batch.scored))
        sum(terms.values()).backward()
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.isfinite(gradient).all(), name
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("options", [{}, {"likelihood": "mse"}, {"latent_noise": False}, {"residual": True}], ids=str)
def test_gradients_reach_every_weight(options):
    net = network(**options, dropout=0.1, input_dropout=0.1)
    sum(net.loss_terms(batch_of(values_with_nan(64))).values()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_log_variances_are_limited():
    net = network()
    huge = torch.full((2, 7), 1e6)
    latent = net.encode(huge)
    _, spread = net.decode(1e6 * torch.ones(2, 2))
    for values in (latent.log_variance, spread):
        assert values.abs().max() <= 10
        assert values.abs().max() == 10  # the inputs are far enough out for the limit to act


def test_noise_moves_the_latent_only_where_it_is_random():
    batch = batch_of(np.nan_to_num(values_with_nan()))
    for noisy in (True, False):
        net = network(latent_noise=noisy)
        losses = {net.loss_terms(batch)["reconstruction"].item() for _ in range(3)}
        assert len(losses) == (3 if noisy else 1)
        assert ("kl" in net.loss_terms(batch)) == noisy


# -- batches -----------------------------------------------------------------------------------------------------------
def test_batches_hold_every_sample_once():
    X = values_with_nan(23)
    batches = DenseBatches(X, batch_size=5)
    for generator in (None, np.random.default_rng(0)):
        rows = np.array([3, 0, 22, 7, 11, 5, 6])
        seen = list(batches.epoch(rows, generator=generator))
        index = np.concatenate([b.index.numpy() for b in seen])
        assert sorted(index) == sorted(rows)
        assert (list(index) == list(rows)) == (generator is None)
        np.testing.assert_array_equal(np.concatenate([b.values.numpy() for b in seen]), np.nan_to_num(X[index]))
        np.testing.assert_array_equal(np.concatenate([b.scored.numpy() for b in seen]), ~np.isnan(X[index]))
    assert np.isnan(X).any()  # the source is as it was


def test_batches_may_be_scored_elsewhere():
    X, target = values_with_nan(6), np.full((6, 7), np.nan, np.float32)
    target[2, 3] = 5
    batch = next(iter(DenseBatches(X, target=target, batch_size=6).epoch()))
    assert batch.scored.sum() == 1
    assert batch.target[2, 3] == 5
    np.testing.assert_array_equal(batch.observed.numpy(), ~np.isnan(X))
    with pytest.raises(InputError, check=has_code("target-shape")):
        DenseBatches(X, target=target[:3])


# -- imputation --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shift", [0.0, 0.75])
@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_imputation_is_the_papers_loop(trained, iterations, shift):
    _, given, estimator, _ = trained
    again = Method(**{**QUICK, "iterations": iterations, "shift": shift})
    again.__dict__.update({k: v for k, v in estimator.__dict__.items() if k.endswith("_") and not k.startswith("_")})
    again.shift_ = shift
    net = estimator.network_
    Z = z_scores(estimator, given)
    missing = np.isnan(Z)
    filled = np.where(missing, 0, Z)
    for _ in range(iterations):
        mean, _, mu, spread = as_numpy_small(net, filled)
        decoded = mu - shift * np.exp(spread / 2)
        filled = np.where(missing, decoded, Z)
    expected = estimator.center_ + estimator.scale_ * filled
    result = again.transform(as_data(given, kind="real"))
    scale = estimator.scale_.max()
    np.testing.assert_allclose(result.to_array(), expected, rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(
        result.to_array(keep_observed=False), estimator.center_ + estimator.scale_ * decoded, atol=1e-4 * scale
    )
    np.testing.assert_allclose(result.latent, mean, rtol=1e-3, atol=1e-4)


def as_numpy_small(net, x):
    """`as_numpy` for the default's one hidden layer."""
    state = {name: value.numpy().astype(np.float64) for name, value in net.state_dict().items()}

    def layer(name, values):
        return values @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    x = np.arcsinh(x)
    hidden = np.maximum(layer("encoder.0", x), 0)
    mean = layer("latent_mean", hidden) + layer("linear_encoder", x)
    log_variance = np.clip(layer("latent_spread", hidden), -10, 10)
    hidden = np.maximum(layer("decoder.0", mean), 0)
    return mean, log_variance, layer("mean", hidden) + layer("linear_decoder", mean), layer("spread", hidden)


def test_observed_values_are_untouched_and_the_rest_is_better_than_the_mean(trained):
    X, given, estimator, result = trained
    values = result.to_array()
    known = ~np.isnan(given)
    np.testing.assert_array_equal(values[known], given[known])
    error = (z_scores(estimator, values) - z_scores(estimator, X))[~known]
    mean_error = z_scores(estimator, X)[~known]
    assert np.sqrt((error**2).mean()) < 0.75 * np.sqrt((mean_error**2).mean())


def test_a_sample_is_imputed_by_itself(trained):
    _, given, estimator, _ = trained
    fresh = low_rank(seed=0, missing=0.3)[1][:5]
    together = estimator.transform(as_data(fresh, kind="real")).to_array()
    alone = estimator.transform(as_data(fresh[:1], kind="real")).to_array()
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-5)
    one = estimator.transform(as_data(given[:1], kind="real")).to_array()
    np.testing.assert_allclose(one[0], trained[3].rows([0])[0], rtol=1e-5)


def test_random_start_is_reproducible_and_forgotten():
    _, given = low_rank()
    options = {**QUICK, "start": "random"}
    first, again = (Method(**options).fit_transform(as_data(given, kind="real")).to_array() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    few = Method(**{**options, "iterations": 1}).fit_transform(as_data(given, kind="real")).to_array()
    many, mean = (
        Method(**{**options, "iterations": 20, "start": start, "patience": 0, "max_epochs": 30})
        .fit_transform(as_data(given, kind="real"))
        .to_array()
        for start in ("random", "mean")
    )
    scale = np.nanstd(given, axis=0)
    assert not np.allclose(first, few)
    assert np.abs((many - mean) / scale).max() < 0.2  # both starts lead to one place


def test_same_seed_same_fit_other_seed_another():
    _, given = low_rank()
    data = as_data(given, kind="real")
    first, same, other = (Method(**QUICK, random_state=s).fit_transform(data).to_array() for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_beta_orders_the_latent():
    """The more the KL weighs, the nearer q is to the prior; with beta = 0 it is free but still random."""
    _, given = low_rank()
    data = as_data(given, kind="real")
    size = {}
    for beta in (0.0, 1.0, 10.0):
        estimator = Method(**{**QUICK, "beta": beta, "patience": 0, "max_epochs": 40})
        result = estimator.fit_transform(data)
        size[beta] = float(np.square(result.latent).mean())
        assert np.isfinite(result.to_array()).all()
        assert (result.model.spread > 0).all()
    assert size[0.0] > size[1.0] > size[10.0]


def test_plain_autoencoder_has_no_latent_spread():
    _, given = low_rank()
    result = Method(**{**QUICK, "latent_noise": False}).fit_transform(as_data(given, kind="real"))
    assert not result.model.spread.any()
    assert "train_kl" not in result.history.columns
    assert np.isfinite(result.to_array(output="variance")).all()
    assert (result.to_array(output="variance") > 0).all()


def test_plain_autoencoder_diverges_where_the_noisy_one_does_not():
    """The paper found so without showing figures; seen here with 7 in 10 values missing and 100 rounds.

    Three rounds harm neither, and not every plain autoencoder diverges, so that the growth is averaged (geometrically)
    over several data sets.
    """
    growth = {True: [], False: []}
    options = {"latent": 4, "hidden": "24", "learning_rate": 3e-3, "batch_size": 30, "max_epochs": 400}
    for seed in range(2):
        X, _ = low_rank(n=110, seed=seed)
        train, truth = X[:60], X[60:]
        given = np.where(np.random.default_rng(seed).random(truth.shape) < 0.7, np.nan, truth)
        for noisy, grown in growth.items():
            estimator = Method(
                preset="paper", beta=0.0, likelihood="mse", latent_noise=noisy, device="cpu", **options
            ).fit(as_data(train, kind="real"))
            errors = [
                rmse(estimator, truth, given, estimator_with(estimator, iterations=k).transform(given).to_array())
                for k in (3, 100)
            ]
            assert errors[0] < 1.1
            grown.append(errors[1] / errors[0])
    with_noise, without = (float(np.exp(np.mean(np.log(growth[noisy])))) for noisy in (True, False))
    assert without > 10
    assert without > 5 * with_noise


# -- shift correction --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def low_missing():
    """(truth, training samples complete, test samples whose lowest values are half missing)."""
    X, _ = low_rank(n=260, noise=1.0)
    train, test = X[:200], X[200:]
    z = (test - train.mean(0)) / train.std(0)
    hidden = (z < np.quantile(z, 0.1)) & (np.random.default_rng(3).random(z.shape) < 0.5)
    return train, test, np.where(hidden, np.nan, test)


def rmse(estimator, truth, given, values):
    hidden = np.isnan(given)
    return float(np.sqrt(np.square(((values - truth) / estimator.scale_)[hidden]).mean()))


def test_one_round_of_inference_shift_lowers_by_lambda_sigma(trained):
    _, given, estimator, _ = trained
    data = as_data(given, kind="real")
    plain, shifted = (
        estimator_with(estimator, iterations=1, shift_=value).transform(data).to_array(keep_observed=False)
        for value in (0.0, 1.5)
    )
    *_, spread = as_numpy_small(estimator.network_, np.nan_to_num(z_scores(estimator, given)))
    np.testing.assert_allclose((plain - shifted) / estimator.scale_, 1.5 * np.exp(spread / 2), rtol=1e-3, atol=1e-3)


def estimator_with(estimator, **changes):
    """The same fit with other parameters or learned values."""
    learned = {k: v for k, v in vars(estimator).items() if k.endswith("_")}
    parameters = {k: v for k, v in changes.items() if not k.endswith("_")}
    copy = estimator.clone(**parameters)
    vars(copy).update({**learned, **{k: v for k, v in changes.items() if k.endswith("_")}})
    return copy


@pytest.mark.parametrize("mode", ["inference", "train"])
def test_shift_helps_where_low_values_are_missing(low_missing, mode):
    train, truth, given = low_missing
    errors = {}
    for shift in (0.0, "auto"):
        estimator = Method(**{**QUICK, "shift": shift, "shift_mode": mode}).fit(as_data(train, kind="real"))
        errors[shift] = rmse(estimator, truth, given, estimator.transform(as_data(given, kind="real")).to_array())
    assert 0.25 <= estimator.shift_ <= 3
    assert estimator.trained_shift_ == (estimator.shift_ if mode == "train" else 0)
    assert errors["auto"] < 0.9 * errors[0.0]


def test_shift_is_never_applied_unasked(low_missing):
    train, _, _ = low_missing
    assert Method(**QUICK).fit(as_data(train, kind="real")).shift_ == 0
    assert all(design.shift == 0 for design in PRESETS.values())


def test_sensitivity_brackets_the_values(trained):
    _, given, estimator, result = trained
    low, high = estimator.sensitivity(as_data(given, kind="real"), [0.0, 0.5, 1.0])
    known = ~np.isnan(given)
    values = result.to_array()
    np.testing.assert_array_equal(low[known], given[known])
    np.testing.assert_array_equal(high[known], given[known])
    assert (low[~known] <= values[~known]).all()
    assert (high[~known] >= values[~known]).all()
    assert (high - low)[~known].min() > 0
    assert estimator.shift_ == 0  # as it was
    with pytest.raises(InputError, check=has_code("no-lambdas")):
        estimator.sensitivity(as_data(given, kind="real"), [])


# -- uncertainty -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("likelihood", ["gaussian", "mse"])
def test_draws_have_the_variance_that_is_put_out(likelihood):
    _, given = low_rank(n=40)
    result = Method(**{**QUICK, "likelihood": likelihood}).fit_transform(as_data(given, kind="real"))
    rows = np.arange(10)
    draws = np.stack([result.model.draw(rows, k) for k in range(400)])
    stated = result.rows(rows, output="variance")
    ratio = draws.var(axis=0, ddof=1) / stated
    assert abs(np.median(ratio) - 1) < 0.05
    assert 0.4 < ratio.min() < ratio.max() < 2.5  # 20 draws of z for the one, 400 for the other
    np.testing.assert_array_equal(result.model.draw(rows, 7), draws[7])
    np.testing.assert_allclose(result.model.draw(rows[3:5], 7), draws[7][3:5], rtol=1e-4)
    assert not np.array_equal(draws[0], draws[1])
    completed = result.draw(2, rows=rows)
    known = ~np.isnan(given[rows])
    np.testing.assert_array_equal(completed[known], given[rows][known])
    np.testing.assert_allclose(completed[~known], draws[2][~known])


def test_intervals_cover_hidden_values():
    """Held-out entries of new samples lie within 1.645 SD about nine times in ten (Gaussian data)."""
    X, _ = low_rank(n=500, noise=0.8)
    estimator = Method(**{**QUICK, "max_epochs": 100}).fit(as_data(X[:350], kind="real"))
    hidden = np.random.default_rng(5).random(X[350:].shape) < 0.15
    result = estimator.transform(as_data(np.where(hidden, np.nan, X[350:]), kind="real"))
    sd = np.sqrt(result.to_array(output="variance")[hidden])
    inside = np.abs(result.to_array()[hidden] - X[350:][hidden]) < 1.645 * sd
    assert 0.82 < inside.mean() < 0.97


# -- presets, models, errors -------------------------------------------------------------------------------------------
def test_paper_architecture_at_the_papers_size():
    for preset, encoder in (("paper", (6000, 2000)), ("published_code", (2000, 6000))):
        assert PRESETS[preset].widths(17_176) == (encoder, encoder[::-1], 200)
    assert PRESETS["paper"].learning_rate == 5e-5
    assert PRESETS["published_code"].learning_rate == 5e-4


def test_widths_scale_down_with_the_features():
    encoder, decoder, latent = PRESETS["paper"].widths(100)
    assert latent == 20
    assert encoder == (100, 100)
    assert decoder == (100, 100)
    assert Design(latent=50, hidden=None).widths(1000) == ((500, 500), (500, 500), 50)
    assert Design().widths(2)[2] == 1


@pytest.mark.parametrize(
    ("latent", "hidden", "encoder"),
    [
        # "for a five hidden layer VAE with latent size 50, the hidden layer dimensions are 3000, 500, 50, 500, 3000"
        (50, None, (3000, 500)),
        (200, None, (6000, 2000)),  # "five hidden layers of dimensions of 6000, 2000, 200, 2000, 6000"
        (400, None, (8000, 4000)),
        (50, "500", (500,)),
        (200, "2000", (2000,)),  # "for a three hidden layer VAE with latent size 200 [...] 2000, 200, 2000"
        (400, "4000", (4000,)),
    ],
)
def test_the_six_architectures_of_figure_s1(latent, hidden, encoder):
    assert Method(preset="paper", latent=latent, hidden=hidden).design.widths(17_176) == (
        encoder,
        encoder[::-1],
        latent,
    )


def test_what_the_paper_says_is_what_the_preset_does():
    design = Method(preset="paper").design
    assert (design.latent, design.beta, design.likelihood, design.latent_noise) == (200, 1.0, "gaussian", True)
    assert (design.learning_rate, design.rate_decay, design.weight_decay) == (5e-5, 1.0, 0.0)
    assert (design.batch_size, design.max_epochs, design.patience) == (250, 250, 0)
    assert (design.dropout, design.input_dropout, design.residual, design.compressed) == (0.0, 0.0, False, False)
    assert (design.iterations, design.start, design.sampled) == (3, "random", False)
    assert (design.shift, design.shift_mode, design.validation_share, design.retrained) == (0.0, "train", 0.2, True)
    assert design.schedule.optimizer == "adam"
    assert not design.schedule.restore_best


@pytest.mark.parametrize("preset", ["paper", "published_code"])
def test_weights_of_the_presets_start_as_glorot_and_bengio_say(preset):
    estimator = Method(preset=preset, latent=20, hidden="90-70", max_epochs=1, learning_rate=1e-12, device="cpu")
    estimator.fit(as_data(low_rank(n=30, G=120)[0], kind="real"))
    linear = {name: m for name, m in estimator.network_.named_modules() if isinstance(m, torch.nn.Linear)}
    assert len(linear) == 8
    for name, layer in linear.items():
        bound = np.sqrt(6 / (layer.in_features + layer.out_features))
        weights = layer.weight.detach().numpy()
        assert 0.97 * bound < np.abs(weights).max() < bound + 1e-6, name
        assert weights.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)  # uniform
        assert layer.bias.abs().max() < 1e-6  # a step of Adam is as large as the learning rate


@pytest.mark.parametrize("preset", ["paper", "published_code"])
@pytest.mark.parametrize("shift", [0.0, 0.75, "auto"])
@pytest.mark.parametrize("mode", [None, "inference", "train"])
def test_every_shift_runs_with_every_preset(low_missing, preset, shift, mode):
    train, truth, given = low_missing
    options = {"latent": 3, "hidden": "24-12", "learning_rate": 1e-2, "batch_size": 80, "max_epochs": 8}
    estimator = Method(preset=preset, shift=shift, shift_mode=mode, beta=0.5, device="cpu", **options)
    estimator.fit(as_data(train, kind="real"))
    if shift == "auto":
        assert 0.25 <= estimator.shift_ <= 3
    else:
        assert estimator.shift_ == shift
    assert estimator.trained_shift_ == (0 if mode == "inference" else estimator.shift_)  # with a preset: in training
    values = estimator.transform(as_data(given, kind="real")).to_array()
    assert np.isfinite(values).all()
    shifted = rmse(estimator, truth, given, values)
    if shift:
        plain = estimator_with(estimator, shift_=0.0)
        assert shifted < 0.9 * rmse(estimator, truth, given, plain.transform(as_data(given, kind="real")).to_array())


def test_lambda_in_training_is_the_papers_loop(low_missing):
    """Trained on N(mu + lambda sigma, sigma) the network imputes mu itself, in each round."""
    train, _, given = low_missing
    options = {"latent": 3, "hidden": "24-12", "learning_rate": 5e-3, "batch_size": 80, "max_epochs": 10}
    estimator = Method(preset="paper", shift=0.75, start="mean", device="cpu", **options)
    estimator.fit(as_data(train, kind="real"))
    Z = z_scores(estimator, given)
    missing = np.isnan(Z)
    filled = np.where(missing, 0, Z)
    for _ in range(3):
        mu = as_numpy(estimator.network_, filled)[2]
        filled = np.where(missing, mu, Z)
    got = z_scores(estimator, estimator.transform(as_data(given, kind="real")).to_array())
    np.testing.assert_allclose(got, filled, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", ["inference", "train"])
def test_lambda_of_the_paper_is_chosen_on_a_fifth_and_used_on_all(monkeypatch, mode):
    seen = []
    original = DenseBatches.epoch

    def epoch(self, rows=None, **options):
        if options.get("generator") is not None:  # training, not validation
            seen.append(len(rows))
        return original(self, rows, **options)

    monkeypatch.setattr(DenseBatches, "epoch", epoch)
    estimator = Method(preset="paper", shift="auto", shift_mode=mode, latent=3, max_epochs=2, device="cpu")
    estimator.fit(as_data(low_rank(n=50)[0], kind="real"))
    assert seen == [40, 40, 50, 50]
    assert estimator.network_.shift == (estimator.shift_ if mode == "train" else 0.0)


def test_plain_autoencoder_of_the_paper_is_trained_on_squared_errors():
    X, _ = low_rank(n=40)
    estimator = Method(
        preset="paper", likelihood="mse", latent_noise=False, beta=4.0, latent=3, max_epochs=2, device="cpu"
    )
    result = estimator.fit_transform(as_data(X, kind="real"))
    assert {name for name in result.history.columns if name.startswith("train_")} == {
        "train_reconstruction",
        "train_loss",
    }  # no KL, whatever beta is
    Z = z_scores(estimator, X)
    net = estimator.network_
    mu = as_numpy(net, Z)[2]
    assert net.spread is None
    assert net.latent_spread is None
    loss = net.loss_terms(batch_of(Z))["reconstruction"].item()
    assert loss == pytest.approx(((Z - mu) ** 2).sum() / 40, rel=1e-4)
    assert loss == net.loss_terms(batch_of(Z))["reconstruction"].item()  # nothing is drawn


@pytest.mark.parametrize("start", ["mean", "random"])
def test_rounds_are_those_of_a_fit_with_as_many_iterations(start):
    """Without early stopping, which depends on the iterations."""
    _, given = low_rank(n=50)
    data = as_data(given, kind="real")
    options = {**QUICK, "patience": 0, "max_epochs": 20, "start": start}
    estimator = Method(**options).fit(data)
    results = estimator.rounds(data, 4)
    assert len(results) == 4
    for k, result in enumerate(results, 1):
        alone = Method(**options, iterations=k).fit_transform(data)
        np.testing.assert_array_equal(result.to_array(), alone.to_array())
    missing = np.isnan(given)
    steps = [np.abs(b.to_array() - a.to_array())[missing].mean() for a, b in pairwise(results)]
    assert steps == sorted(steps, reverse=True)  # it converges
    assert estimator.iterations is None  # as it was
    with pytest.raises(InputError, check=has_code("parameter-value")):
        estimator.rounds(data, 0)


@pytest.fixture(scope="module")
def beta_values():
    """(training samples, truth, the same with half of the lowest fifth missing): beta values of rank 2 with noise."""
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(160, 2)) @ rng.normal(size=(2, 20)) + 0.8 * rng.normal(size=(160, 20)) - 1
    X = 1 / (1 + np.exp(-logits))
    train, test = X[:110], X[110:]
    hidden = (test < np.quantile(test, 0.2)) & (rng.random(test.shape) < 0.5)
    return train, test, np.where(hidden, np.nan, test)


@pytest.mark.parametrize("mode", ["inference", "train"])
def test_a_shift_lowers_values_where_the_link_turns_them_round(beta_values, tmp_path, mode):
    train, truth, given = beta_values
    hidden = np.isnan(given)
    options = {**QUICK, "preset": "paper", "shift_mode": mode, "max_epochs": 20, "learning_rate": 1e-2}
    estimator = Method(**options, shift="auto")
    estimator.link = "neglog"
    estimator.fit(as_data(train, kind="real"))
    assert 0.25 <= estimator.shift_ <= 3
    values = estimator.transform(as_data(given, kind="real")).to_array()
    plain = Method(**options)
    plain.link = "neglog"
    unshifted = plain.fit(as_data(train, kind="real")).transform(as_data(given, kind="real")).to_array()
    assert values[hidden].mean() < 0.8 * unshifted[hidden].mean()
    assert values.min() >= 0
    assert np.abs(values - truth)[hidden].mean() < 0.8 * np.abs(unshifted - truth)[hidden].mean()
    estimator.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").transform(as_data(given, kind="real")).to_array(), values)


def test_one_round_of_a_turned_shift_is_mu_plus_lambda_sigma(beta_values):
    train, _, given = beta_values
    estimator = Method(**{**QUICK, "preset": "paper", "hidden": "24-12", "start": "mean", "max_epochs": 5})
    estimator.link = "neglog"
    estimator.fit(as_data(train, kind="real"))
    Z = (-np.log(given + 0.001) - estimator.center_) / estimator.scale_
    _, _, mu, spread = as_numpy(estimator.network_, np.nan_to_num(Z))
    expected = estimator.center_ + estimator.scale_ * (mu + 1.5 * np.exp(spread / 2))
    shifted = estimator_with(estimator, iterations=1, shift_=1.5)
    shifted.link = "neglog"
    shifted.feature_names_ = estimator.feature_names_
    got = shifted.transform(as_data(given, kind="real")).to_array(keep_observed=False)
    np.testing.assert_allclose(got, np.clip(np.exp(-expected) - 0.001, 0, 1), rtol=1e-3, atol=1e-4)


def test_published_code(trained):
    X, given, _, _ = trained
    estimator = Method(preset="published_code", latent=4, hidden="20-12", max_epochs=5, batch_size=40, device="cpu")
    with pytest.raises(InputError, check=has_code("incomplete-samples")):
        estimator.fit(as_data(given, kind="real"))
    estimator.fit(as_data(X, kind="real"))
    net = estimator.network_
    linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in linear] == [12, 20, 20, 12, 4, 4, 24, 24]
    with torch.no_grad():
        head = net.spread(net.decoder(torch.zeros(1, 4)))
        _, log_variance = net.decode(torch.zeros(1, 4))
    torch.testing.assert_close(log_variance, 2 * head)  # the head is log sigma
    result = estimator.transform(as_data(given, kind="real"))
    model = result.model
    assert not np.allclose(model.latent, model.mean)  # z was drawn
    scaled = (model.latent - model.mean) / model.spread
    assert 0.8 < scaled.std() < 1.2
    again = estimator.transform(as_data(given, kind="real"))
    np.testing.assert_array_equal(result.to_array(), again.to_array())


def test_paper_preset_trains_on_every_sample(monkeypatch):
    _, given = low_rank(n=30)
    seen = []
    original = DenseBatches.epoch

    def epoch(self, rows=None, **options):
        seen.append(len(rows))
        return original(self, rows, **options)

    monkeypatch.setattr(DenseBatches, "epoch", epoch)
    Method(preset="paper", latent=4, max_epochs=3, device="cpu").fit(as_data(given, kind="real"))
    assert seen == [30, 30, 30]


@pytest.mark.parametrize("options", [{}, {"likelihood": "mse"}, {"shift": 0.5, "shift_mode": "train"}], ids=str)
def test_saved_models_give_the_same(tmp_path, options):
    _, given = low_rank(n=40)
    data = as_data(given, kind="real")
    estimator = Method(**{**QUICK, "max_epochs": 5, **options}).fit(data)
    estimator.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert (loaded.shift_, loaded.trained_shift_) == (estimator.shift_, estimator.trained_shift_)
    fresh = as_data(low_rank(n=6, seed=4, missing=0.3)[1], kind="real", var_names=data.var_names)
    ours, theirs = loaded.transform(fresh), estimator.transform(fresh)
    for output in ("value", "variance"):
        np.testing.assert_array_equal(ours.to_array(output=output), theirs.to_array(output=output))
    np.testing.assert_array_equal(ours.draw(3), theirs.draw(3))


def test_incomplete_models_are_refused(tmp_path):
    _, given = low_rank(n=20)
    Method(**{**QUICK, "max_epochs": 2}).fit(as_data(given, kind="real")).save(tmp_path / "model")
    with np.load(tmp_path / "model" / "arrays.npz") as stored:
        arrays = dict(stored)
    del arrays["inflation"]
    np.savez(tmp_path / "model" / "arrays.npz", **arrays)
    with pytest.raises(ModelFormatError) as error:
        load(tmp_path / "model")
    assert "inflation" in str(error.value)


def test_checkpoints_tell_other_data(tmp_path):
    """A fit goes on from its checkpoint, and refuses that of other values."""
    X, given = low_rank(n=30)
    first = Method(**{**QUICK, "max_epochs": 3})
    first.checkpoint = tmp_path
    values = first.fit_transform(as_data(given, kind="real")).to_array()
    again = Method(**{**QUICK, "max_epochs": 3})
    again.checkpoint = tmp_path
    np.testing.assert_array_equal(again.fit_transform(as_data(given, kind="real")).to_array(), values)
    other = Method(**{**QUICK, "max_epochs": 3})
    other.checkpoint = tmp_path
    with pytest.raises(InputError, check=has_code("checkpoint-mismatch")):
        other.fit(as_data(X, kind="real"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", -1.0),
        ("likelihood", "poisson"),
        ("start", "zero"),
        ("shift_mode", "both"),
        ("shift", "maybe"),
        ("shift", -1.0),
        ("shift", 1e9),
        ("input_dropout", 1.0),
        ("latent", 0),
        ("hidden", "8-0"),
        ("hidden", "8,4"),
        ("preset", "other"),
        ("device", "tpu"),
    ],
)
def test_parameters_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, check=has_code("parameter-value")) as error:
        Method(**{**QUICK, name: value}).fit(as_data(low_rank(n=12)[1], kind="real"))
    assert error.value.parameter == name


def test_a_shift_needs_a_spread():
    with pytest.raises(InputError, check=has_code("parameter-conflict")):
        Method(**{**QUICK, "shift": 1.0, "likelihood": "mse"}).fit(as_data(low_rank(n=12)[1], kind="real"))
