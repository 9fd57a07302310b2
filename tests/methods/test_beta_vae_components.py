"""Where the beta-VAE's training begins: probabilistic principal components, against the textbook's algebra."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from imputome.core.data import as_data  # noqa: E402
from imputome.methods.beta_vae.components import NUMBERS, Components, start_at_components  # noqa: E402
from imputome.methods.beta_vae.estimator import BetaVAE  # noqa: E402
from imputome.methods.beta_vae.network import Design, VariationalAutoencoder  # noqa: E402
from imputome.methods.deep.batches import DenseBatches  # noqa: E402


def made(n=80, G=30, rank=3, noise=0.4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, G)) + noise * rng.standard_normal((n, G))
    return ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)


def network(G=30, latent=6, **options):
    torch.manual_seed(0)
    design = Design(**{"dropout": 0.0, "input_dropout": 0.0, "compressed": False, **options})
    return VariationalAutoencoder(G, design, ((8,), (8,), latent)).eval()


def components(X, largest=6, *, compressed=False):
    return Components(X, largest, compressed=compressed, rng=np.random.default_rng(0))


@pytest.mark.parametrize("k", [1, 3, 6])
def test_latent_is_the_posterior_of_probabilistic_pca(k):
    X, net = made(), network()
    next(components(X).of_number([k])).set(net)
    eigenvalues, V = np.linalg.eigh(X.T.astype(np.float64) @ X / len(X))
    eigenvalues, V = eigenvalues[::-1], V[:, ::-1]
    s2 = eigenvalues[k:].mean()
    W = V[:, :k] * np.sqrt(eigenvalues[:k] - s2)
    M = W.T @ W + s2 * np.eye(k)
    mean = X @ W @ np.linalg.inv(M)
    with torch.no_grad():
        latent = net.encode(torch.from_numpy(X))
    found = latent.mean.numpy()
    signs = np.sign((found[:, :k] * mean).sum(axis=0))
    np.testing.assert_allclose(found[:, :k] * signs, mean, atol=2e-3)
    np.testing.assert_allclose(np.exp(latent.log_variance.numpy()[0, :k]), np.diag(s2 * np.linalg.inv(M)), rtol=5e-3)
    assert not found[:, k:].any()


def test_decoder_is_the_ridge_regression_and_its_noise_what_is_left():
    X, net = made(), network()
    next(components(X).of_number([3])).set(net)
    with torch.no_grad():
        latent = net.encode(torch.from_numpy(X))
        mean, log_variance = net.decode(latent.mean)
    z = latent.mean.numpy()[:, :3].astype(np.float64)
    ridge = len(X) * np.diag(np.exp(latent.log_variance.numpy()[0, :3]))
    expected = z @ np.linalg.solve(z.T @ z + ridge, z.T @ X)
    np.testing.assert_allclose(mean.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(np.exp(log_variance.numpy()[0]), np.square(X - expected).mean(axis=0), rtol=1e-3)


def test_a_threshold_lowers_the_singular_values():
    X, net = made(), network(latent=30)
    u, s, vt = np.linalg.svd(X.astype(np.float64), full_matrices=False)
    next(components(X, 30).of_threshold([s[5]])).set(net)
    with torch.no_grad():
        mean, _ = net.decode(net.encode(torch.from_numpy(X)).mean)
    np.testing.assert_allclose(mean.numpy(), (u * np.maximum(s - s[5], 0)) @ vt, atol=1e-3)


def test_missing_values_are_filled_until_nothing_changes():
    """The fixed point of soft-impute, in a plain loop; zeros in place of missing values would be learned."""
    X = made(n=40, G=60)
    X[np.random.default_rng(2).random(X.shape) < 0.3] = np.nan
    missing, filled = np.isnan(X), np.nan_to_num(X).astype(np.float64)
    start = filled.copy()
    threshold = 0.2 * np.linalg.norm(filled, 2)
    for _ in range(500):
        u, s, vt = np.linalg.svd(filled, full_matrices=False)
        fit = (u * np.maximum(s - threshold, 0)) @ vt
        filled[missing] = fit[missing]
    maps = next(components(X, 30).of_threshold([threshold]))
    own = filled @ maps.encoder.T @ maps.decoder
    assert np.abs(own - fit)[missing].max() < 0.05 * np.abs(fit - start)[missing].max()


def test_components_are_those_of_what_the_encoder_reads():
    X, net = made(), network(compressed=True)
    next(components(X, compressed=True).of_number([6])).set(net)
    directions = np.linalg.svd(np.arcsinh(X), full_matrices=False)[2][:6]
    found = net.linear_encoder.weight.detach().numpy()
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs((found * directions).sum(axis=1)), 1, atol=1e-3)


@pytest.mark.parametrize("options", [{"latent_noise": False}, {"likelihood": "mse"}], ids=str)
def test_networks_without_a_head_begin_there_too(options):
    X, net = made(), network(**options)
    next(components(X).of_number([3])).set(net)
    with torch.no_grad():
        mean, _ = net.decode(net.encode(torch.from_numpy(X)).mean)
    assert np.square(mean.numpy() - X).mean() < 0.4 * np.square(X).mean()


def hidden(X, share=0.2):
    drawn = np.random.default_rng(1).random(X.shape) < share
    target = np.where(drawn, X, np.nan).astype(np.float32)
    return DenseBatches(np.where(drawn, np.nan, X).astype(np.float32), target=target, batch_size=50)


def error_of(maps, batches):
    net = network(G=120, latent=80)
    maps.set(net)
    with torch.no_grad():
        return sum(float(net.validation_loss(batch)) for batch in batches.epoch())


def test_the_start_is_the_best_on_watched_cells():
    X = made(n=300, G=120, rank=20, noise=1.0)
    train, watched = X[:200], hidden(X[200:])
    net = network(G=120, latent=80)
    start_at_components(net, train, watched.epoch(), np.random.default_rng(0))
    with torch.no_grad():
        found = sum(float(net.eval().validation_loss(batch)) for batch in watched.epoch())
    by_number = [error_of(maps, watched) for maps in components(train, 80).of_number(NUMBERS[:-1])]
    largest = np.linalg.norm(train, 2)
    by_threshold = [error_of(maps, watched) for maps in components(train, 80).of_threshold([0.2 * largest, largest])]
    assert found <= 1.001 * min(by_number + by_threshold)
    assert found < 0.9 * max(by_number)


def test_without_watched_cells_a_quarter_is_taken():
    rng = np.random.default_rng(0)
    assert start_at_components(network(), made(), None, rng) == 1
    assert start_at_components(network(latent=20), made(), None, rng) == 5


def test_missing_values_and_constant_features_do_no_harm():
    X = made()
    X[:, 0] = 0
    X[np.random.default_rng(2).random(X.shape) < 0.3] = np.nan
    net = network()
    start_at_components(net, X, hidden(made(seed=3)).epoch(), np.random.default_rng(0))
    assert all(torch.isfinite(weights).all() for weights in net.parameters())


@pytest.mark.parametrize("n", [30, 60])
def test_few_samples_with_many_features_are_imputed_better_than_by_the_mean(n):
    """A network that fits its own samples exactly would keep the zeros that stand for missing values."""
    X = made(n=n, G=400, rank=4, noise=0.5)
    drawn = np.random.default_rng(1).random(X.shape) < 0.1
    estimator = BetaVAE(device="cpu")
    found = estimator.fit_transform(as_data(np.where(drawn, np.nan, X), kind="real"))
    error = np.sqrt(np.square(found.to_array() - X)[drawn].mean())
    u, s, vt = np.linalg.svd(X, full_matrices=False)
    best = np.sqrt(np.square((u[:, :4] * s[:4]) @ vt[:4] - X)[drawn].mean())
    assert error < 1.5 * best  # which has seen the hidden values
    assert error < 0.5 * np.sqrt(np.square(X[drawn]).mean())


def test_one_epoch_is_enough_for_what_is_linear():
    rng = np.random.default_rng(0)
    X = made(n=200, G=60, rank=4, noise=0.3).astype(np.float64)
    drawn = rng.random(X.shape) < 0.1
    data = as_data(np.where(drawn, np.nan, X), kind="real")
    quick = {"hidden": "20", "latent": 8, "max_epochs": 1, "device": "cpu"}
    error = {}
    for name, preset in (("components", None), ("paper", "paper")):
        filled = BetaVAE(preset=preset, **quick).fit_transform(data).to_array()
        error[name] = np.sqrt(np.square(filled - X)[drawn].mean())
    assert error["components"] < 0.6
    assert error["paper"] > 0.9
