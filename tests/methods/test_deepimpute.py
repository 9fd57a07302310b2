"""DeepImpute: the groups against the paper's rules, the networks against a naive computation, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.errors import InputError, ModelFormatError
from imputome.methods.deep.batches import CountBatches
from imputome.methods.deepimpute.estimator import DeepImpute
from imputome.methods.deepimpute.gene_groups import group_inputs, target_groups, variance_ratio
from imputome.methods.deepimpute.network import GroupNetworks

QUICK = {"hidden": 16, "learning_rate": 0.01, "max_epochs": 5, "group_size": 10, "device": "cpu"}


def programs(n=150, G=50, *, seed=0):
    """Counts of two programs of genes, of different means, and their rates; the last five genes are never found."""
    rng = np.random.default_rng(seed)
    on = rng.gamma(0.7, 1.0, (n, 2))
    rate = (0.1 + 4 * on[:, np.arange(G) % 2]) * rng.uniform(0.05, 1.5, G)
    rate[:, -5:] = 0
    return rng.poisson(rate).astype(np.float32), rate


# -- the groups --------------------------------------------------------------------------------------------------------
def test_ratio_of_variance():
    X, _ = programs()
    np.testing.assert_allclose(variance_ratio(sp.csr_array(X)), X.var(axis=0, ddof=1) / (1 + X.mean(axis=0)), rtol=1e-5)


@pytest.mark.parametrize(("min_ratio", "group_size"), [(0.5, 5), (0.5, 512), (2.0, 4), (1e9, 6)])
def test_targets_are_the_genes_above_the_limit_and_those_that_fill_the_last_group(min_ratio, group_size):
    X, _ = programs()
    ratio = X.var(axis=0, ddof=1) / (1 + X.mean(axis=0))
    groups = target_groups(
        sp.csr_array(X), min_ratio=min_ratio, group_size=group_size, generator=np.random.default_rng(0)
    )
    members = np.concatenate(groups)
    assert len(set(members)) == len(members)  # each in one group
    size = min(group_size, 22)  # half of the 45 genes that are found
    wanted = max(1, int(np.ceil((ratio > min_ratio).sum() / size))) * size
    assert len(members) == min(wanted, 45)
    assert max(map(len, groups)) <= size
    assert set(members) == set(np.argsort(-ratio, kind="stable")[: len(members)])
    assert set(np.flatnonzero(ratio > min_ratio)) <= set(members)


def test_groups_are_dealt_at_random():
    X = sp.csr_array(programs()[0])
    deals = [target_groups(X, min_ratio=0.1, group_size=8, generator=np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(deals[0], deals[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(deals[0], deals[2], strict=True))


@pytest.mark.parametrize("number", [1, 5, 100])
def test_inputs_are_the_most_correlated_genes_outside(number):
    """Against numpy's correlations and a loop over genes."""
    X, _ = programs()
    groups = target_groups(sp.csr_array(X), min_ratio=0.5, group_size=12, generator=np.random.default_rng(3))
    inputs = group_inputs(sp.csr_array(X), groups, number)
    found = np.flatnonzero(X.any(axis=0))
    for group, got in zip(groups, inputs, strict=True):
        expected = set()
        outside = np.setdiff1d(found, group)
        for gene in group:
            correlations = [abs(np.corrcoef(X[:, gene], X[:, other])[0, 1]) for other in outside]
            expected |= set(outside[np.argsort(-np.array(correlations))[:number]])
        assert set(got) == expected
        assert not set(got) & set(group)
        assert (np.diff(got) > 0).all()


# -- the networks ------------------------------------------------------------------------------------------------------
def test_loss_against_a_loop():
    X, _ = programs(n=7, G=12)
    X = X[:, :7]
    network = GroupNetworks([np.array([0, 1]), np.array([2, 3, 4])], [np.array([2, 5, 6]), np.array([0, 1])], 4, 0.5)
    network.eval()
    batch = next(CountBatches(sp.csr_array(X), library=X.sum(axis=1), batch_size=7).epoch())
    expected = 0.0
    for g, (inputs, targets) in enumerate((([0, 1], [2, 5, 6]), ([2, 3, 4], [0, 1]))):
        (w1, b1), (w2, b2) = (
            (layer.weight.detach().numpy(), layer.bias.detach().numpy())
            for layer in (network.first[g], network.second[g])
        )
        assert np.abs(w1).max() <= np.sqrt(6 / (len(inputs) + 4))  # Glorot's limit
        assert not b1.any()
        for i in range(7):
            y = np.log1p(X[i])
            hidden = [max(0.0, sum(w1[k, c] * y[j] for c, j in enumerate(inputs)) + b1[k]) for k in range(4)]
            for c, j in enumerate(targets):
                out = np.log1p(np.exp(sum(w2[c, k] * hidden[k] for k in range(4)) + b2[c]))
                expected += y[j] * (y[j] - out) ** 2 / len(targets)
    assert network.validation_loss(batch).item() == pytest.approx(expected, rel=1e-4)
    assert network.loss_terms(batch)["weighted_mse"].item() == pytest.approx(expected / 7, rel=1e-4)
    network.train()  # dropout of half of the units changes the loss
    torch.manual_seed(0)
    assert network.validation_loss(batch).item() != pytest.approx(expected, rel=1e-3)


def test_values_are_those_of_the_networks():
    X, _ = programs()
    estimator = DeepImpute(**QUICK, rescale=False)
    values = estimator.fit_transform(X).to_array(keep_observed=False)
    columns = np.union1d(estimator.targets_, estimator.inputs_)
    logs = torch.log1p(torch.from_numpy(X[:, columns]))
    network = estimator.network_
    expected = X.copy()
    for g in range(len(network.first)):
        with torch.no_grad():
            hidden = torch.relu(network.first[g](logs[:, network.inputs[g]]))
            predicted = torch.nn.functional.softplus(network.second[g](hidden)).numpy()
        expected[:, columns[network.targets[g]]] = np.expm1(np.minimum(predicted, np.log1p(X.max())))
    expected[X.sum(axis=1) == 0] = 0
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    for g in range(estimator.groups_.max() + 1):
        assert not set(estimator.inputs_[estimator.input_groups_ == g]) & set(
            estimator.targets_[estimator.groups_ == g]
        )


def test_totals_are_kept_and_other_genes_have_their_mean():
    X, _ = programs()
    estimator = DeepImpute(**QUICK, min_ratio=2.0)
    result = estimator.fit_transform(X)
    values = result.to_array(keep_observed=False)
    np.testing.assert_allclose(values.sum(axis=0), X.sum(axis=0), rtol=1e-3, atol=1e-5)
    others = np.setdiff1d(np.arange(50), estimator.targets_)
    assert len(others) == 20
    mean = methods.create("gene_mean").fit_transform(X).to_array()
    np.testing.assert_allclose(values[:, others], mean[:, others], rtol=1e-5)
    kept = result.to_array()
    np.testing.assert_array_equal(kept[X > 0], X[X > 0])
    np.testing.assert_array_equal(kept[X == 0], values[X == 0])
    np.testing.assert_allclose(result.gene_columns["training_total"], X.sum(axis=0))


def test_a_wild_new_cell_is_not_predicted_above_the_largest_count():
    X, _ = programs()
    estimator = DeepImpute(**QUICK, rescale=False).fit(X)
    new = np.full((1, 50), 1e6, np.float32)
    new[:, -5:] = 0
    values = estimator.transform(new).to_array(keep_observed=False)
    assert values[:, estimator.targets_].max() == pytest.approx(X.max(), rel=1e-5)


def test_it_learns_the_programs_and_is_the_same_again():
    X, rate = programs(n=250)
    settings = {**QUICK, "group_size": 25, "max_epochs": 25}
    first, again = (DeepImpute(**settings).fit_transform(X) for _ in range(2))
    values = first.to_array(keep_observed=False)
    np.testing.assert_array_equal(values, again.to_array(keep_observed=False))
    mean = methods.create("gene_mean").fit_transform(X).to_array()
    assert np.mean((values - rate) ** 2) < 0.8 * np.mean((mean - rate) ** 2)
    assert first.history["validation_loss"].min() < 0.7 * first.history["validation_loss"].iloc[0]


def test_posterior_needs_counts():
    X, _ = programs()
    with pytest.raises(InputError, check=has_code("parameter-conflict")):
        DeepImpute(**QUICK, posterior=True, rescale=False).fit(X)
    result = DeepImpute(**QUICK, posterior=True).fit_transform(as_data(X, kind="counts"))
    assert {"variance", "lower", "upper"} <= result.outputs
    assert result.to_array().sum() == pytest.approx(X.sum(), rel=1e-3)


@pytest.mark.parametrize("name", ["targets", "groups", "input_groups"])
def test_groups_that_do_not_agree_are_refused(name, tmp_path, monkeypatch):
    from imputome.core import saved

    DeepImpute(**QUICK).fit(programs()[0]).save(tmp_path / "model")
    arrays = saved._read_arrays(tmp_path / "model" / "arrays.npz")
    arrays[name] = np.zeros_like(arrays[name])
    monkeypatch.setattr(saved, "_read_arrays", lambda _: arrays)
    with pytest.raises(ModelFormatError, check=has_code("model-array-values")):
        methods.load(tmp_path / "model")


@pytest.mark.parametrize("wrong", [{"group_size": 0}, {"n_correlated": 0}, {"dropout": 1.0}, {"min_ratio": -0.1}])
def test_parameters_out_of_range(wrong):
    with pytest.raises(InputError, check=has_code("parameter-value")) as error:
        DeepImpute(**{**QUICK, **wrong}).fit(programs()[0])
    assert error.value.parameter == next(iter(wrong))
