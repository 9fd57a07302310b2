"""Per-gene reliability: sums against a naive loop, the jackknife against its definition, errors held on null data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import t

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.core.imputation import Imputation
from imputome.errors import InputError
from imputome.evaluation.splits import make_split
from imputome.trust.check import check
from imputome.trust.reliability import N_BLOCKS, SMALLEST_GAIN, gene_reliability
from imputome.trust.verdict import DO_NOT


class Given:
    outputs = frozenset({"value", "rate"})

    def __init__(self, values):
        self.values = values

    def rows(self, rows, genes, output="value"):
        return self.values[rows][:, slice(None) if genes is None else genes]

    def at(self, i, j, output="value"):
        return self.values[i, j]


def given(values, data):
    scale = "counts" if data.kind == "counts" else "input"
    return Imputation(Given(values), data, scale=scale, keeps_observed=False)


def simulated(n=400, G=52, seed=0, depth=1.0):
    """True rates and counts of cells of two groups.

    Each gene of the first half is four times as strong in one group as in the other, its neighbour the other way round:
    so both groups have the same library size, and the second half is told by the gene mean as well as it can be.
    """
    rng = np.random.default_rng(seed)
    group = rng.random((n, 1)) < 0.5
    base = depth * np.repeat(rng.gamma(3.0, 0.6, G // 2), 2)
    rate = base * np.where((np.arange(G) < G // 2) & (group == np.arange(G) % 2), 4.0, 1.0)
    return rate, as_data(sp.csr_array(rng.poisson(rate).astype(np.float32)), kind="counts")


def thinned(seed=0, **options):
    rate, data = simulated(seed=seed, **options)
    return rate, make_split("thin", data, rng=np.random.default_rng(seed + 100), fraction=0.1)


def gene_mean(split):
    return methods.get("gene_mean")().fit_transform(split.train)


def deviance(x, mu):
    out = 2 * (mu - x)
    out[x > 0] += 2 * x[x > 0] * np.log(x[x > 0] / mu[x > 0])
    return out


def test_explained_is_the_share_of_deviance_taken_away():
    rate, split = thinned()
    model, reference = given(rate * 0.9, split.train), gene_mean(split)
    reliability = gene_reliability([(split, model, reference)], rng=np.random.default_rng(0))
    x = split.test.toarray().astype(np.float64)
    ours = deviance(x, rate * 0.9 * split.ratio).sum(axis=0)
    mean = deviance(x, reference.to_array(scale="counts").astype(np.float64) * split.ratio).sum(axis=0)
    np.testing.assert_allclose(reliability.explained, 1 - ours / mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(reliability.held_out, x.sum(axis=0))


def test_interval_is_the_jackknife_over_blocks_of_cells():
    rate, split = thinned()
    model, reference = given(rate * 0.9, split.train), gene_mean(split)
    reliability = gene_reliability([(split, model, reference)], rng=np.random.default_rng(3), confidence=0.9)
    block = np.random.default_rng(3).permutation(len(rate)) % N_BLOCKS
    x = split.test.toarray().astype(np.float64)
    ours = deviance(x, rate * 0.9 * split.ratio)
    mean = deviance(x, reference.to_array(scale="counts").astype(np.float64) * split.ratio)
    left_out = np.array([1 - ours[block != b].sum(axis=0) / mean[block != b].sum(axis=0) for b in range(N_BLOCKS)])
    se = np.sqrt((N_BLOCKS - 1) / N_BLOCKS * np.square(left_out - left_out.mean(axis=0)).sum(axis=0))
    half = t.ppf(0.95, N_BLOCKS - 1) * se
    np.testing.assert_allclose(reliability.upper - reliability.explained, half, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(reliability.explained - reliability.lower, half, rtol=1e-3, atol=1e-6)


def test_genes_with_structure_are_evident_and_others_are_not():
    rate, split = thinned(n=800, depth=5.0)
    reliability = gene_reliability(
        [(split, given(rate * 0.9, split.train), gene_mean(split))], rng=np.random.default_rng(0)
    )
    assert reliability.evident[:26].mean() > 0.9
    assert reliability.evident[26:].mean() < 0.2
    frame = reliability.to_frame(split.train.var_names)
    assert list(frame.index) == list(split.train.var_names)
    assert frame["evident"].sum() == reliability.evident.sum()


def test_noise_is_rarely_taken_for_evidence():
    """A model that deviates from the mean at random explains nothing; single intervals may lie above 0 by chance."""
    evident, above, n = [], [], 300
    for seed in range(8):
        rng = np.random.default_rng(seed)
        data = as_data(sp.csr_array(rng.poisson(rng.gamma(3.0, 1.0, 80), (n, 80)).astype(np.float32)), kind="counts")
        split = make_split("thin", data, rng=rng, fraction=0.1)
        reference = gene_mean(split)
        wrong = reference.to_array(scale="counts") * rng.gamma(50.0, 1 / 50, (n, 80))
        reliability = gene_reliability([(split, given(wrong, split.train), reference)], rng=rng)
        evident.append(reliability.evident.any())
        above.append(reliability.lower > 0)
    assert np.mean(above) < 0.05
    assert np.sum(evident) <= 2  # of 8 runs; 5 % of those without any real one may have a false one


def test_evident_genes_are_those_of_benjamini_and_hochberg():
    rate, split = thinned(n=200, depth=3.0)
    reliability = gene_reliability(
        [(split, given(rate * 0.9, split.train), gene_mean(split))], rng=np.random.default_rng(0)
    )
    error = (reliability.upper - reliability.explained) / t.ppf(0.975, N_BLOCKS - 1)
    p = t.sf((reliability.explained - SMALLEST_GAIN) / error, N_BLOCKS - 1)
    np.testing.assert_allclose(reliability.p_value, p, rtol=1e-6)
    measured = np.flatnonzero(reliability.measured)
    order = measured[np.argsort(p[measured])]
    passing = [k for k in range(1, len(order) + 1) if p[order[k - 1]] <= 0.05 * k / len(order)]
    expected = np.zeros(len(p), dtype=bool)
    expected[order[: max(passing, default=0)]] = True
    np.testing.assert_array_equal(reliability.evident, expected & (reliability.lower > SMALLEST_GAIN))
    assert 0 < reliability.evident.sum() < len(p)


@pytest.mark.parametrize(("share", "evident"), [(0.02, False), (0.5, True)])
def test_a_gain_that_is_certain_but_tiny_is_no_evidence(share, evident):
    """A prediction that lies a little nearer to the truth in every cell: its gain has almost no error."""
    rate, split = thinned(n=600, depth=10.0)
    reference = gene_mean(split)
    mean = reference.to_array(scale="counts").astype(np.float64)
    nearer = mean + share * (0.9 * rate - mean) * np.where(np.arange(52) < 26, 0.05, 0.0)
    reliability = gene_reliability([(split, given(nearer, split.train), reference)], rng=np.random.default_rng(0))
    assert (reliability.lower[:26] > 0).mean() > 0.9
    assert (reliability.explained[:26] > SMALLEST_GAIN).any() == evident
    assert reliability.evident[:26].any() == evident
    assert not reliability.evident[26:].any()


def noise(seed):
    """Counts without any relation between genes, of cells of various depths; in set 2 each gene varies by itself."""
    rng = np.random.default_rng(seed)
    rate = rng.lognormal(0, 0.4, (120, 1)) * rng.gamma(0.6, 4.0, 90)
    if seed == 2:
        rate = rate * rng.gamma(1.0, 1.0, rate.shape)
    return as_data(sp.csr_array(rng.poisson(rate).astype(np.float32)), kind="counts")


@pytest.mark.parametrize("seed", range(3))
def test_no_gene_of_noise_is_evident_by_the_default_method(seed):
    """The default falls back to the control, so it gains nothing over it, in any gene; and no correlation is made."""
    pytest.importorskip("torch")
    small = {"n_hidden": 16, "n_latent": 4, "n_factors": 3, "max_epochs": 20, "learning_rate": 0.01}
    verdict = check(noise(seed), methods.create("count_autoencoder", small, random_state=7), seed=seed)
    assert verdict.verdict == DO_NOT
    assert not verdict.genes["evident"].any()
    assert (verdict.genes["explained"].dropna() == 0).all()
    assert len(verdict.genes["explained"].dropna()) > 50
    assert abs(verdict.figures["null_excess"]) < 0.005


def test_genes_without_a_training_molecule_do_not_count():
    rate, split = thinned()
    train = split.train.X.toarray()
    train[:, 3] = 0
    split = type(split)(**{**vars(split), "train": as_data(sp.csr_array(train), kind="counts")})
    reliability = gene_reliability(
        [(split, given(rate * 0.9, split.train), gene_mean(split))], rng=np.random.default_rng(0)
    )
    assert reliability.held_out[3] == 0
    assert np.isnan(reliability.explained[3])
    assert np.isfinite(reliability.overall).all()


def test_several_splits_add_up():
    rate, data = simulated()
    splits = [make_split("thin", data, rng=np.random.default_rng(seed), fraction=0.1) for seed in range(3)]
    comparisons = [(split, given(rate * 0.9, split.train), gene_mean(split)) for split in splits]
    one = gene_reliability(comparisons[:1], rng=np.random.default_rng(0))
    all_three = gene_reliability(comparisons, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(all_three.held_out, sum(split.test.toarray().sum(axis=0) for split in splits))
    assert np.median(all_three.upper - all_three.lower) < 0.8 * np.median(one.upper - one.lower)


def test_hidden_real_values_by_squared_error():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 12)) + 0.2 * rng.standard_normal((200, 12))
    split = make_split("mcar", as_data(X, kind="real"), rng=rng, fraction=0.1)
    model, reference = (methods.get(name)().fit(split.train).transform(split.apply) for name in ("soft_impute", "mean"))
    reliability = gene_reliability([(split, model, reference)], rng=np.random.default_rng(0))
    for gene in range(12):
        here = split.j == gene
        i, j, truth = split.i[here], split.j[here], split.truth[here]
        ours = np.square(model.at(i, j, keep_observed=False) - truth).sum()
        mean = np.square(reference.at(i, j, keep_observed=False) - truth).sum()
        assert reliability.explained[gene] == pytest.approx(1 - ours / mean, rel=1e-5)
        assert reliability.held_out[gene] == here.sum()


def test_genes_without_held_out_values_have_no_evidence():
    rate, split = thinned()
    empty = split.test.toarray()
    empty[:, 3] = 0
    empty[:, 4] = 0
    empty[0, 4] = 1
    split = type(split)(**{**vars(split), "test": sp.csr_array(empty)})
    reliability = gene_reliability(
        [(split, given(rate * 0.9, split.train), gene_mean(split))], rng=np.random.default_rng(0)
    )
    assert np.isnan(reliability.explained[3])
    assert not reliability.evident[[3, 4]].any()


def test_splits_of_other_data_and_none_are_refused():
    rate, split = thinned()
    other_rate, other = thinned(n=100)
    with pytest.raises(InputError, check=has_code("no-splits")):
        gene_reliability([], rng=np.random.default_rng(0))
    comparisons = [(s, given(r, s.train), gene_mean(s)) for s, r in ((split, rate), (other, other_rate))]
    with pytest.raises(InputError, check=has_code("split-of-other-data")):
        gene_reliability(comparisons, rng=np.random.default_rng(0))
    with pytest.raises(InputError, check=has_code("parameter-value")):
        gene_reliability(comparisons[:1], rng=np.random.default_rng(0), confidence=95)


def test_frame_has_a_row_for_each_gene():
    rate, split = thinned()
    reliability = gene_reliability([(split, given(rate, split.train), gene_mean(split))], rng=np.random.default_rng(0))
    assert isinstance(reliability.to_frame(split.train.var_names), pd.DataFrame)
