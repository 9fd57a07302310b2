"""The plain autoencoder: network and loss against numpy, presets against dense PyTorch, totals, collapse, new cells."""

from __future__ import annotations

import dataclasses
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

torch = pytest.importorskip("torch")

from codes import has_code  # noqa: E402
from imputome.core.data import as_data  # noqa: E402
from imputome.errors import InputError, MissingExtraError  # noqa: E402
from imputome.methods import get, load  # noqa: E402
from imputome.methods.autoencoder.network import ACTIVATIONS, PRESETS, Autoencoder, Design  # noqa: E402
from imputome.methods.deep.batches import CountBatches  # noqa: E402
from imputome.methods.deep.estimator import split_cells  # noqa: E402
from imputome.methods.deep.training import seeded  # noqa: E402

Method = get("autoencoder")
QUICK = {"depth": 2, "width": 8, "max_epochs": 10, "learning_rate": 0.05, "device": "cpu"}

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017
IN_NUMPY = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.where(x > 0, x, 0),
    "leaky_relu_0.01": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky_relu_0.2": lambda x: np.where(x > 0, x, 0.2 * x),
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * (np.exp(x) - 1)),
}


@pytest.fixture(scope="module")
def counts():
    """Three kinds of cells; gene 5 is in two cells only, gene 6 and cell 7 are empty."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.7, size=(3, 50))[rng.integers(3, size=150)] * rng.uniform(0.5, 6, size=(150, 1))
    X = rng.poisson(rates).astype(np.float32)
    X[:, 5:7], X[7] = 0, 0
    X[[20, 30], 5] = 2, 1
    return X


def logged(X, library=None):
    library = X.sum(1) if library is None else library
    return np.log1p(X * (1e4 / np.maximum(library, 1))[:, None])


def one_batch(X, library=None):
    library = X.sum(1) if library is None else library
    return next(CountBatches(sp.csr_array(X), library=library, batch_size=len(X)).epoch())


def network(n_genes=50, seed=0, **options):
    with seeded(seed):
        plain = {"width": 6, "depth": 3, "activation": "tanh", "batch_norm": False, "dropout": 0.0}
        return Autoencoder(n_genes, Design(**{**plain, **options}))


def forward(net, x, activation, *, residual=False, norms=None):
    """All hidden layers and the output, by the formulas of section 4.1, in float64."""
    state = {name: value.numpy().astype(np.float64) for name, value in net.state_dict().items()}
    hidden = []
    for k in range(len(net.norms)):
        if k == 0:
            z = x @ state["first.weight"] + state["first.bias"]
        else:
            z = hidden[-1] @ state[f"deeper.{k - 1}.weight"].T + state[f"deeper.{k - 1}.bias"]
        if norms is not None:
            mean, variance = norms[k]
            z = (z - mean) / np.sqrt(variance + 1e-5)
        made = IN_NUMPY[activation](z)
        hidden.append(made + hidden[-1] if residual and k else made)
    return hidden, hidden[-1] @ state["output.weight"].T + state["output.bias"]


# -- network and loss --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_pass_against_numpy(counts, activation, residual):
    net = network(activation=activation, residual=residual, depth=4, dropout=0.5).eval()
    hidden, output = forward(net, logged(counts), activation, residual=residual)
    with torch.no_grad():
        middle, last = net.encode(one_batch(counts))
        made = net.output(last)
    np.testing.assert_allclose(middle.numpy(), hidden[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last.numpy(), hidden[3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.numpy(), output, rtol=1e-4, atol=1e-4)


def test_batch_normalisation_comes_before_the_activation(counts):
    net = network(batch_norm=True).eval()
    rng = np.random.default_rng(1)
    norms = [(rng.normal(size=6), rng.uniform(0.5, 2, size=6)) for _ in net.norms]
    for norm, (mean, variance) in zip(net.norms, norms, strict=True):
        norm.running_mean.copy_(torch.tensor(mean))
        norm.running_var.copy_(torch.tensor(variance))
    hidden, _ = forward(net, logged(counts), "tanh", norms=norms)
    with torch.no_grad():
        np.testing.assert_allclose(net.encode(one_batch(counts))[1].numpy(), hidden[-1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss_norm", ["nonzero", "all"])
def test_loss_against_numpy(counts, loss_norm):
    net = network(loss_norm=loss_norm, activation="elu")
    library = 3 * counts.sum(1) + 1  # over more genes than are here
    x = logged(counts, library)
    y = forward(net, x, "elu")[1]
    squares = ((y - x) ** 2)[counts > 0].sum()
    batch = one_batch(counts, library)
    terms = net.loss_terms(batch)
    divisor = (counts > 0).sum() if loss_norm == "nonzero" else counts.size
    assert terms.keys() == {"mse"}
    assert terms["mse"].item() == pytest.approx(squares / divisor, rel=1e-4)
    assert net.validation_loss(batch).item() == pytest.approx(squares, rel=1e-4)


def test_loss_of_cells_without_counts_is_zero():
    batch = one_batch(np.zeros((3, 50), np.float32))
    assert network().loss_terms(batch)["mse"].item() == 0


def test_dropout_acts_in_training_only(counts):
    net, batch = network(dropout=0.5), one_batch(counts)
    with seeded(3):
        hidden = net.encode(batch)[1].detach().numpy()
    assert 0.3 < (hidden == 0).mean() < 0.7
    kept = forward(network(depth=1), logged(counts), "tanh")[0][0]
    shallow = network(depth=1, dropout=0.5).encode(batch)[1].detach().numpy()
    np.testing.assert_allclose(shallow[shallow != 0], 2 * kept[shallow != 0], rtol=1e-3, atol=1e-5)
    net.eval()
    assert (net.encode(batch)[1].detach().numpy() != 0).all()


def test_penalty_is_on_weight_matrices_only(counts):
    net = network(weight_decay=0.3, batch_norm=True)
    state = {name: value.numpy().astype(np.float64) for name, value in net.state_dict().items()}
    matrices = ["first.weight", "deeper.0.weight", "deeper.1.weight", "output.weight"]
    expected = 0.3 * sum((state[name] ** 2).sum() for name in matrices)
    assert net.loss_terms(one_batch(counts))["penalty"].item() == pytest.approx(expected, rel=1e-5)
    net.penalty().backward()
    for name, parameter in net.named_parameters():
        if name in matrices:
            np.testing.assert_allclose(parameter.grad.numpy(), 0.6 * state[name], rtol=1e-5, atol=1e-8)
        else:
            assert parameter.grad is None


# -- presets against dense PyTorch -------------------------------------------------------------------------------------
def dense_training(counts, start, *, design, weight_decay, epochs, adam_decay):
    """The same training by ``nn.Sequential`` on a dense matrix: the weights after every epoch."""
    cells = np.flatnonzero(counts.sum(1))
    train = cells[split_cells(len(cells), 0.2, 0)[0]]
    used = (counts[train] > 0).any(0)
    x = torch.tensor(logged(counts)[:, used], dtype=torch.float32)
    width = start["first.bias"].numel()
    layers = [torch.nn.Linear(x.shape[1], width), torch.nn.Sigmoid()]
    for _ in range(design.depth - 1):
        layers += [torch.nn.Linear(width, width), torch.nn.Sigmoid()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(width, x.shape[1]))
    linears = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    names = ["first", *(f"deeper.{k}" for k in range(design.depth - 1)), "output"]
    with torch.no_grad():
        for name, layer in zip(names, linears, strict=True):
            weight = start[f"{name}.weight"]
            layer.weight.copy_(weight.T if name == "first" else weight)
            layer.bias.copy_(start[f"{name}.bias"])
    decay = weight_decay if adam_decay else 0.0
    optimizer = torch.optim.Adam(net.parameters(), lr=design.learning_rate, weight_decay=decay)
    after = []
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng([0, epoch]).permutation(train)
        for start_row in range(0, len(order), 64):
            part = x[order[start_row : start_row + 64]]
            error = ((net(part) - part) ** 2)[part > 0].sum()
            loss = error / (part.numel() if design.loss_norm == "all" else (part > 0).sum())
            if not adam_decay:
                loss = loss + weight_decay * sum((layer.weight**2).sum() for layer in linears)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after.append([layer.weight.detach().numpy().copy() for layer in linears])
        after[-1] += [layer.bias.detach().numpy().copy() for layer in linears]
    return after


@pytest.mark.filterwarnings("ignore:the autoencoder has collapsed")
@pytest.mark.parametrize("preset", ["paper", "published_code"])
def test_presets_train_as_dense_pytorch_does(counts, preset):
    """Sparse input, gathered errors and the penalty give the weights that the plain formulas give."""
    options = {"depth": 2, "width": 8, "weight_decay": 0.01, "max_epochs": 4, "learning_rate": 0.02}
    estimator = Method(preset=preset, n_top_genes="all", device="cpu", **options)
    result = estimator.fit_transform(counts)
    state = {name: value.numpy() for name, value in estimator.network_.state_dict().items()}
    start = estimator._new_network().state_dict()
    epochs = dense_training(
        counts,
        start,
        design=estimator.design,
        weight_decay=0.01,
        epochs=4,
        adam_decay=preset == "published_code",
    )
    wanted = epochs[-1 if preset == "published_code" else result.status.details["best_epoch"] - 1]
    found = [state["first.weight"].T, state["deeper.0.weight"], state["output.weight"]]
    found += [state["first.bias"], state["deeper.0.bias"], state["output.bias"]]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)


def test_values_of_the_presets():
    paper = {
        "depth": 10,
        "width": 32,
        "activation": "sigmoid",
        "dropout": 0.0,
        "weight_decay": 0.0,
        "loss_norm": "nonzero",
        "batch_norm": False,
        "residual": False,
        "n_top_genes": 2000,
        "learning_rate": 1e-3,
        "batch_size": 64,
        "patience": 20,
        "max_epochs": 10_000,
        "rescale": False,
        "restore_best": True,
        "decay": "weights",
        "shared_start": False,
    }
    code = {"loss_norm": "all", "learning_rate": 1e-4, "max_epochs": 1000}
    code |= {"restore_best": False, "decay": "adam", "shared_start": True}
    assert dataclasses.asdict(Method(preset="paper").design) == paper
    assert dataclasses.asdict(Method(preset="published_code").design) == paper | code
    changed = Method(preset="paper", depth=3, dropout=0.0, batch_norm=True, rescale=True, n_top_genes="all").design
    wanted = paper | {"depth": 3, "batch_norm": True, "rescale": True, "n_top_genes": "all"}
    assert dataclasses.asdict(changed) == wanted
    assert Method().design == PRESETS[None]


@pytest.mark.filterwarnings("ignore:the autoencoder has collapsed")
def test_published_code_starts_all_seeds_alike(counts):
    def start(preset, seed):
        still = {**QUICK, "learning_rate": 1e-30, "max_epochs": 1}
        estimator = Method(preset=preset, n_top_genes="all", random_state=seed, **still).fit(counts)
        return estimator.network_.output.weight.detach().numpy()

    np.testing.assert_array_equal(start("published_code", 0), start("published_code", 1))
    assert not np.allclose(start("paper", 0), start("paper", 1))


@pytest.mark.filterwarnings("ignore:the autoencoder has collapsed")
def test_published_code_ends_with_the_last_epoch_and_the_paper_with_the_best(counts):
    swings = {**QUICK, "learning_rate": 0.3, "max_epochs": 10, "loss_norm": "nonzero"}  # up and down at this rate
    cells = np.flatnonzero(counts.sum(1))
    held = cells[split_cells(len(cells), 0.2, 0)[1]]
    for preset in ("paper", "published_code"):
        estimator = Method(preset=preset, n_top_genes="all", **swings)
        losses = estimator.fit_transform(counts).history["validation_loss"].to_numpy()
        assert losses.argmin() < len(losses) - 1
        x = logged(counts)[held][:, estimator.selected_]
        y = forward(estimator.network_, x, "sigmoid")[1]
        wanted = losses[-1] if preset == "published_code" else losses.min()
        assert ((y - x) ** 2)[x > 0].mean() == pytest.approx(wanted, rel=1e-3)  # per nonzero, as the paper has it


def test_patience_and_max_epochs(counts):
    stopped = Method(**(QUICK | {"max_epochs": 200, "patience": 3})).fit_transform(counts)
    details = stopped.status.details
    assert stopped.status.name == "converged"
    assert details["epochs"] == details["best_epoch"] + 3 == len(stopped.history)
    never = Method(**(QUICK | {"max_epochs": 40, "patience": 0})).fit_transform(counts)
    assert never.status.name == "max_iter"
    assert never.status.details["epochs"] == 40


# -- results -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rescale", [True, False])
def test_values_by_hand(counts, rescale):
    """Output clipped, taken back to counts, rescaled to totals; the mean for genes that are not read."""
    estimator = Method(rescale=rescale, batch_norm=False, activation="elu", **QUICK)
    data = as_data(counts, kind="counts", library_size=counts.sum(1) * 2.0)
    result = estimator.fit_transform(data)
    library = counts.sum(1) * 2.0
    read = (counts > 0).sum(0) >= 3
    assert read.sum() == 48
    np.testing.assert_array_equal(estimator.selected_, np.flatnonzero(read))
    y = np.maximum(forward(estimator.network_, logged(counts, library)[:, read], "elu")[1], 0)
    expected = np.zeros(counts.shape)
    expected[:, read] = np.expm1(y) * library[:, None] / 1e4
    fitted = expected.sum(0)
    assert (fitted[read] > 0).all()
    if rescale:
        expected[:, read] *= counts.sum(0)[read] / fitted[read]
    expected[:, 5] = library * 3 / library.sum()
    for output in result.outputs:
        values = result.to_array(keep_observed=False, output=output)
        np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-4)
    kept = result.to_array()
    np.testing.assert_array_equal(kept[counts > 0], counts[counts > 0])
    np.testing.assert_allclose(result.gene_columns["fitted_total"], fitted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.gene_columns["training_total"], counts.sum(0))
    values = result.to_array(keep_observed=False)
    if rescale:
        np.testing.assert_allclose(values.sum(0), counts.sum(0), rtol=1e-4, atol=1e-5)
    else:  # on the log1p scale the result is the network's own output
        logs = result.to_array(keep_observed=False, scale="log1p")
        seen = counts.sum(1) > 0
        np.testing.assert_allclose(logs[np.ix_(seen, read)], y[seen], rtol=1e-3, atol=1e-4)


def test_output_is_bounded_whatever_the_weights(counts):
    estimator = Method(**QUICK).fit(counts)
    with torch.no_grad():
        estimator.network_.output.bias[:10] = 1e6
        estimator.network_.output.bias[10:20] = -1e6
    values = estimator.transform(counts).to_array(keep_observed=False)
    library = counts.sum(1)
    read = estimator.selected_
    assert (estimator.factor_[read] > 0).all()
    limit = library[:, None] * estimator.factor_[read[:10]]  # all molecules of the cell, rescaled
    np.testing.assert_allclose(values[:, read[:10]], limit, rtol=1e-4)
    assert not values[:, read[10:20]].any()


def test_genes_whose_output_is_nowhere_positive_get_the_mean(counts, monkeypatch):
    original = Method._train

    def spoilt(self, net, *args, **options):
        training = original(self, net, *args, **options)
        with torch.no_grad():
            net.output.bias[3] = -1e6
        return training

    monkeypatch.setattr(Method, "_train", spoilt)
    result = Method(**QUICK).fit_transform(counts)
    mean = counts.sum(1) * counts[:, 3].sum() / counts.sum()
    np.testing.assert_allclose(result.rows(slice(None), genes=[3], keep_observed=False)[:, 0], mean, rtol=1e-5)


def test_latent_is_the_middle_layer(counts):
    for depth, middle in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2)):
        options = {**QUICK, "depth": depth, "max_epochs": 1, "batch_norm": False, "activation": "tanh"}
        estimator = Method(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = estimator.fit_transform(counts)
        hidden, _ = forward(estimator.network_, logged(counts)[:, estimator.selected_], "tanh")
        np.testing.assert_allclose(result.latent, hidden[middle], rtol=1e-3, atol=1e-5)


def test_new_rows_are_exact_and_models_are_saved(counts, tmp_path):
    estimator = Method(**QUICK)
    result = estimator.fit_transform(counts)
    rows = np.array([3, 7, 20, 99])
    some = estimator.transform(counts[rows])
    expected = result.rows(rows, keep_observed=False)
    np.testing.assert_allclose(some.to_array(keep_observed=False), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        some.rows([2, 0], genes=[5, 9, 1], keep_observed=False), expected[[2, 0]][:, [5, 9, 1]], rtol=1e-5, atol=1e-6
    )
    estimator.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["arrays.npz", "model.json"]
    loaded = load(tmp_path / "model")
    for name in ("selected_", "factor_", "share_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(estimator, name))
    np.testing.assert_array_equal(loaded.transform(counts).to_array(), estimator.transform(counts).to_array())


def test_activations_run_and_differ(counts):
    results = {
        name: Method(activation=name, **QUICK).fit_transform(counts).to_array(keep_observed=False)
        for name in ACTIVATIONS
    }
    assert len(results) == 7
    for name, values in results.items():
        assert np.isfinite(values).all()
        assert all(not np.allclose(values, results[other], rtol=1e-3) for other in results if other != name)


# -- collapse ----------------------------------------------------------------------------------------------------------
def test_collapse_is_seen_and_told(counts):
    estimator = Method(preset="paper", n_top_genes="all", depth=8, width=16, max_epochs=60, learning_rate=0.01)
    with pytest.warns(UserWarning) as warned:  # noqa: PT030  (its code is checked below)
        result = estimator.fit_transform(counts)
    assert [warning.message.args[0].code for warning in warned] == ["network-collapsed"]
    details = result.status.details
    assert details["collapsed"] is True
    logs = result.to_array(keep_observed=False, scale="log1p")[counts.sum(1) > 0][:, estimator.selected_]
    assert np.median(logs.std(0)) < 0.01 * details["data_between_cell_sd"]


def test_healthy_networks_are_not_warned_of(counts):
    estimator = Method(rescale=False, depth=1, width=32, max_epochs=100, learning_rate=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = estimator.fit_transform(counts)
    details = result.status.details
    assert details["collapsed"] is False
    y = forward_of(estimator, counts)
    assert details["between_cell_sd"] == pytest.approx(np.median(y.std(0)), rel=1e-3)
    data = logged(counts)[:, estimator.selected_]
    assert details["data_between_cell_sd"] == pytest.approx(np.median(data.std(0)), rel=1e-4)
    assert details["between_cell_sd"] > 0.1 * details["data_between_cell_sd"]
    error = (y - data)[data > 0]
    mean = np.nanmean(np.where(data > 0, data, np.nan), axis=0)
    assert np.mean(error**2) < 0.8 * np.mean((data - mean)[data > 0] ** 2)  # it has learned more than the means


def forward_of(estimator, counts):
    """Output of a fitted network for all cells, in torch."""
    with torch.no_grad():
        batch = one_batch(counts[:, estimator.selected_], counts.sum(1))
        return estimator.network_.output(estimator.network_.encode(batch)[1]).numpy()


# -- genes, errors -----------------------------------------------------------------------------------------------------
def test_variable_genes_are_those_of_scanpy():
    pytest.importorskip("skmisc")
    import scanpy as sc
    from anndata import AnnData

    rng = np.random.default_rng(2)
    rates = rng.gamma(0.5, 2, size=(1, 300)) * rng.gamma(2, 0.5, size=(100, 300))
    X = rng.poisson(rates).astype(np.float32)
    found = (X > 0).sum(0) >= 3
    table = sc.pp.highly_variable_genes(
        AnnData(sp.csr_matrix(X[:, found])), flavor="seurat_v3", n_top_genes=40, inplace=False
    )
    estimator = Method(n_top_genes=40, **QUICK)
    result = estimator.fit_transform(X)
    np.testing.assert_array_equal(
        estimator.selected_, np.flatnonzero(found)[np.flatnonzero(table["highly_variable"].to_numpy())]
    )
    others = np.setdiff1d(np.arange(300), estimator.selected_)
    mean = X.sum(1, keepdims=True) * X.sum(0) / X.sum()
    values = result.to_array(keep_observed=False)
    np.testing.assert_allclose(values[:, others], mean[:, others], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(values.sum(0), X.sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the autoencoder has collapsed")
@pytest.mark.parametrize("preset", [None, "paper", "published_code"])
def test_presets_read_every_gene_that_hiding_has_left(counts, preset):
    """The 3-cell filter of the paper comes before values are hidden, when genes had more cells than now."""
    X = np.array(counts)
    X[:, :2] = 0
    train = split_cells(len(X), 0.2, Method().random_state)[0]
    X[train[0], 1] = 4  # a gene with one cell, which is a training cell; gene 0 has none
    selected = Method(preset=preset, n_top_genes="all", **QUICK).fit(X).selected_
    assert 0 not in selected
    assert (1 in selected) == (preset is not None)


@pytest.mark.filterwarnings("ignore:the autoencoder has collapsed")
def test_variable_genes_are_found_among_many_genes_of_one_mean():
    """Where most genes have three molecules, the window of the regression holds but one mean."""
    pytest.importorskip("skmisc")
    import scanpy as sc
    from anndata import AnnData

    rng = np.random.default_rng(3)
    X = np.zeros((80, 400), np.float32)
    for j in range(360):
        X[rng.choice(80, 3, replace=False), j] = 1
    X[:, 360:] = rng.poisson(rng.gamma(1, 2, size=40), size=(80, 40))
    X[:40, 390:] *= 8  # ten genes that differ between two halves
    with pytest.raises(ValueError, match="svddc failed"):
        sc.pp.highly_variable_genes(AnnData(sp.csr_matrix(X)), flavor="seurat_v3", n_top_genes=20, inplace=False)
    estimator = Method(n_top_genes=20, **QUICK).fit(X)
    assert len(estimator.selected_) == 20
    assert len(set(range(390, 400)) & set(estimator.selected_)) >= 8


def test_variable_genes_need_scikit_misc(counts, monkeypatch):
    monkeypatch.setitem(sys.modules, "skmisc", None)
    monkeypatch.setitem(sys.modules, "skmisc.loess", None)
    with pytest.raises(MissingExtraError, check=has_code("missing-extra")):
        Method(n_top_genes=20, **QUICK).fit(counts)
    assert len(Method(n_top_genes=500, **QUICK).fit(counts).selected_) == 48  # fewer than asked for: all


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "code"},
        {"activation": "gelu"},
        {"loss_norm": "cells"},
        {"depth": 0},
        {"width": -1},
        {"dropout": 1.0},
        {"weight_decay": -1e-3},
        {"patience": -1},
        {"n_top_genes": 0},
        {"device": "abacus"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_parameters_out_of_range_are_refused(counts, wrong):
    with pytest.raises(InputError, check=has_code("parameter-value")) as error:
        Method(**wrong).fit(counts)
    assert error.value.parameter == next(iter(wrong))


def test_posterior_needs_the_scale_of_counts(counts):
    with pytest.raises(InputError, check=has_code("parameter-conflict")):
        Method(preset="paper", posterior=True).fit(counts)
    result = Method(posterior=True, **QUICK).fit_transform(counts)
    assert result.to_array(output="variance").shape == counts.shape


def test_matrices_without_a_gene_to_learn_from_are_refused():
    X = np.zeros((6, 12), np.float32)
    X[np.arange(12) // 2, np.arange(12)] = 1
    with pytest.raises(InputError, check=has_code("no-usable-genes")):
        Method(**QUICK).fit(X)
