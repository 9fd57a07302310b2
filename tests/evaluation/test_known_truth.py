"""The share of what can be recovered, on simulations with known rates."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from imputome.errors import InputError
from imputome.evaluation.known_truth import SHARE, KnownTruth, Limits
from imputome.evaluation.simulate import fit_scdesign, simulate_counts
from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_thinned
from imputome.methods import create
from imputome.studies.inputs import to_dataset
from imputome.studies.runner import run_study


@pytest.fixture(scope="module")
def simulated() -> ad.AnnData:
    """300 cells x 120 genes with rates and shapes."""
    return simulate_counts(n=300, G=120, rng=np.random.default_rng(3)).to_anndata()


def test_limits_are_the_losses_of_both_posteriors(simulated: ad.AnnData) -> None:
    dataset = to_dataset(simulated, name="simulated")
    assert dataset.truth is not None
    split = make_split("thin", dataset.data, rng=np.random.default_rng(0), fraction=0.2)
    limits = dataset.truth.limits(split)
    assert split.test is not None
    seen, held_out = split.train.X.toarray().astype(float), split.test.toarray()
    rate, shape = 0.8 * np.asarray(simulated.layers["true_rate"], float), simulated.var["true_shape"].to_numpy()
    mean = split.ratio * rate * (shape + seen) / (shape + rate)
    mean, held_out = (values[:, seen.sum(axis=0) > 0] for values in (mean, held_out))
    assert limits.best == pytest.approx((mean - held_out * np.log(mean)).mean(), rel=1e-6)
    control = create("gene_mean_posterior").fit_transform(split.train)
    assert limits.control == pytest.approx(score_thinned(control, split, metrics=["poisson_loss"])["poisson_loss"])
    assert limits.best < limits.control


def test_no_share_where_the_truth_is_no_better() -> None:
    assert np.isnan(Limits(control=0.3, best=0.3).share(0.4))


def test_every_method_has_its_share_on_a_simulation(simulated: ad.AnnData) -> None:
    dataset = to_dataset(simulated, name="simulated", min_genes=10, min_cells=20)
    assert dataset.data.shape[1] < 120  # the truth is of the genes that are left
    table = run_study(dataset, ["poisson_nmf+posterior"])
    shares = table[table["metric"] == SHARE].set_index("method")["value"]
    assert shares["gene_mean_posterior"] == 0
    assert shares["gene_mean"] < 0
    assert 0 < shares["poisson_nmf+posterior"] < 1
    hidden = run_study(dataset, [], scheme="random")
    assert SHARE not in set(hidden["metric"])  # it is measured on molecules that thinning split off


def test_other_counts_have_no_share(simulated: ad.AnnData) -> None:
    with_dropouts = simulate_counts(n=30, G=20, dropout=0.1, rng=np.random.default_rng(0)).to_anndata()
    fitted = fit_scdesign(simulated.X)
    scdesign = fitted.simulate(cells_per_type=10, fold_change=(1.2, 1.5), rng=np.random.default_rng(0)).to_anndata()
    for adata in (with_dropouts, scdesign):
        assert to_dataset(adata, name="other").truth is None


def test_truth_that_is_none_is_refused(simulated: ad.AnnData) -> None:
    wrong = simulated.copy()
    wrong.var["true_shape"] = np.r_[np.zeros(1), np.ones(119)]
    with pytest.raises(InputError) as caught:
        to_dataset(wrong, name="wrong")
    assert caught.value.code == "truth-values"
    twice = simulated.copy()
    twice.obs_names = ["cell"] * twice.n_obs
    with pytest.raises(InputError) as caught:
        to_dataset(twice, name="twice")
    assert caught.value.code == "names-not-unique"


def test_results_of_another_truth_are_not_taken_for_these(simulated: ad.AnnData) -> None:
    other = simulated.copy()
    other.var["true_shape"] *= 2
    one, two = (to_dataset(each, name="simulated").identity() for each in (simulated, other))
    assert one["data"] != two["data"]
    assert isinstance(to_dataset(other, name="simulated").truth, KnownTruth)
