"""The traps of evaluation: the truth must win, swapped arguments must be noticed, noise must show as noise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from extras import installed_methods
from imputome.core.data import as_data
from imputome.core.imputation import Imputation
from imputome.evaluation.metrics import poisson_deviance, poisson_loss
from imputome.evaluation.simulate import simulate_counts
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_thinned
from imputome.methods import get, info
from imputome.methods.factors import LowRank

METHODS = [name for name in installed_methods() if "counts" in info(name).kinds]
SEEDS = range(20)
DEEP_SEEDS = range(2)  # networks take seconds each
# count_autoencoder is what users get by default and runs as it is; of the others it is the scale that could be wrong
BRIEF = {name: {"max_epochs": 15} for name in METHODS if info(name).extra is not None and name != "count_autoencoder"}


class TrueRates:
    """The realised Poisson rates as a model."""

    outputs = frozenset({"value"})

    def __init__(self, rates):
        self.rates = rates

    def rows(self, rows, genes, output):
        return self.rates[rows] if genes is None else self.rates[np.ix_(rows, genes)]

    def at(self, i, j, output):
        return self.rates[i, j]


def simulated(seed):
    simulation = simulate_counts(n=150, G=120, n_types=3, depth=800, rng=np.random.default_rng(seed))
    data = as_data(simulation.X, kind="counts")
    split = make_split("thin", data, rng=np.random.default_rng(seed))
    keep = 1 / (1 + split.ratio)
    return split, simulation.realised * keep


@pytest.mark.parametrize("seed", SEEDS)
def test_true_rates_win_under_thinning(seed):
    split, rates = simulated(seed)
    metrics = ["poisson_loss", "poisson_deviance"]
    oracle = score_thinned(Imputation(TrueRates(rates), split.train, scale="counts", keeps_observed=False), split)
    zeros = LowRank(np.zeros((split.train.shape[0], 0)), np.zeros((split.train.shape[1], 0)))
    others = {"all_zeros": Imputation(zeros, split.train, scale="counts", keeps_observed=False)}
    for name in METHODS:
        if info(name).extra is None or seed in DEEP_SEEDS:
            others[name] = get(name)(**BRIEF.get(name, {})).fit_transform(split.train)
    others["poisson_nmf+posterior"] = get("poisson_nmf")(posterior=True).fit_transform(split.train)
    for name, result in others.items():
        scores = score_thinned(result, split, metrics=metrics)
        for metric in metrics:
            assert oracle[metric] < scores[metric], (name, metric)


@pytest.mark.parametrize("metric", [poisson_loss, poisson_deviance])
def test_swapped_arguments_would_be_noticed(metric):
    # with truth and prediction swapped the true rates lose: to the counts that the method was given
    split, rates = simulated(0)
    test = split.test.toarray()
    rates = rates * split.ratio
    shrunk = 0.05 * rates
    assert metric(truth=test, prediction=rates) < metric(truth=test, prediction=shrunk)
    assert metric(truth=rates, prediction=test) > metric(truth=shrunk, prediction=test)


def test_no_structure_is_claimed_on_permuted_genes():
    # without the posterior step a model beats the gene mean on pure noise, since it has read the counts; posterior to
    # posterior it does not
    rng = np.random.default_rng(0)
    X = simulate_counts(n=400, G=150, rng=rng).X.toarray()
    permuted = np.stack([rng.permutation(X[:, j]) for j in range(X.shape[1])], axis=1)
    data = as_data(sp.csr_array(permuted), kind="counts")
    split = make_split("thin", data, rng=rng)
    loss = {}
    fits = [(name, posterior) for name in ("gene_mean", "poisson_nmf") for posterior in (False, True)]
    for name, posterior in (*fits, ("count_autoencoder", True)):
        result = get(name)(posterior=posterior).fit_transform(split.train)
        loss[name, posterior] = score_thinned(result, split, metrics=["poisson_loss"])["poisson_loss"]
    assert loss["poisson_nmf", True] > loss["gene_mean", True]
    assert loss["gene_mean", True] < loss["gene_mean", False]
    # the default finds out by itself
    assert loss["count_autoencoder", True] == pytest.approx(loss["gene_mean", True], abs=1e-4)
