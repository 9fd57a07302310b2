"""Tests of the simulators: the truth they report is the one they used, and their counts look like real ones."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats
from scipy.optimize import brentq, minimize

from codes import has_code
from imputome.datasets import pbmc68k
from imputome.errors import InputError
from imputome.evaluation.metrics import poisson_loss
from imputome.evaluation.simulate import (
    MAX_SHAPE,
    ZERO_LEVEL,
    fit_mixture,
    fit_scdesign,
    gamma_shape,
    mean_variance_zero_curves,
    simulate_counts,
    simulated_groups,
)

EDGES = np.geomspace(0.01, 30, 13)


@pytest.fixture(scope="module")
def blood():
    return pbmc68k().X


@pytest.fixture(scope="module")
def fitted(blood):
    return fit_scdesign(blood)


@pytest.fixture(scope="module")
def simulation():
    return simulate_counts(n=3000, G=400, n_types=3, batches=2, depth=2000, gene_spread=1, rng=np.random.default_rng(0))


def test_seeds_reproduce(fitted):
    for draw in (
        lambda seed: simulate_counts(n=50, G=40, batches=2, dropout=0.1, rng=np.random.default_rng(seed)),
        lambda seed: fitted.simulate(cells_per_type=30, rng=np.random.default_rng(seed)),
    ):
        one, same, other = draw(1), draw(1), draw(2)
        assert (one.X != same.X).nnz == 0
        np.testing.assert_array_equal(one.realised, same.realised)
        assert (one.X != other.X).nnz > 0


def test_shapes_names_and_sizes(simulation):
    assert simulation.X.shape == simulation.rate.shape == simulation.realised.shape == (3000, 400)
    assert isinstance(simulation.X, sp.csr_array)
    assert (simulation.X.data == np.rint(simulation.X.data)).all()
    assert np.bincount(simulation.cell_type).tolist() == [1000, 1000, 1000]
    assert np.bincount(simulation.batch).tolist() == [1500, 1500]
    assert simulation.dropout is None
    assert len(simulation.obs_names) == 3000
    assert simulation.var_names[399] == "gene399"


def test_counts_have_the_reported_means(simulation):
    """Column sums within five standard errors of both rates; the library is met on average."""
    X = simulation.X.toarray()
    realised = simulation.realised.sum(axis=0)
    assert (np.abs(X.sum(axis=0) - realised) < 5 * np.sqrt(realised)).all()
    spread = np.sqrt(((simulation.realised - simulation.rate) ** 2).sum(axis=0))
    assert (np.abs(realised - simulation.rate.sum(axis=0)) < 6 * spread).all()
    assert np.median(simulation.library) == pytest.approx(2000, rel=0.05)
    assert np.log(simulation.library).std() == pytest.approx(0.4, rel=0.05)


def test_counts_are_poisson_given_the_realised_rate(simulation):
    """Randomised probability integral transform over all entries of rate one or more."""
    big = simulation.realised >= 1
    x, mu = simulation.X.toarray()[big], simulation.realised[big]
    rng = np.random.default_rng(1)
    u = stats.poisson.cdf(x - 1, mu) + rng.random(len(x)) * stats.poisson.pmf(x, mu)
    assert stats.kstest(u, "uniform").statistic < 1.95 / np.sqrt(len(u))


def test_fold_changes_are_those_of_expected_counts():
    """Rate over library, averaged over the cells of a type: log ratios to the fold changes centred at one constant."""
    s = simulate_counts(n=6000, G=300, n_types=2, factor_strength=0.3, de_share=0.4, rng=np.random.default_rng(2))
    per_molecule = s.rate / s.library[:, None]
    ratio = per_molecule[s.cell_type == 1].mean(axis=0) / per_molecule[s.cell_type == 0].mean(axis=0)
    error = np.log(ratio) - np.log(s.fold_change[1] / s.fold_change[0])
    # within a type log rates spread by about 0.3, so each log mean has a standard error of 0.3 / sqrt(3000)
    assert np.abs(error).max() < 0.05
    assert s.de.sum(axis=1).tolist() == [120, 120]
    for row in s.fold_change:
        assert (row > 1).sum() == (row < 1).sum() == 60
        size = np.maximum(row, 1 / row)[row != 1]
        assert size.min() >= 1.5
        assert size.max() <= 5
    assert (s.de_between(0, 1) == (s.fold_change[0] != s.fold_change[1])).all()


def test_log_rates_are_of_low_rank(simulation):
    """Types (3), one batch effect, library and ten factors: no singular value after the fifteenth."""
    values = np.linalg.svd(np.log(simulation.rate), compute_uv=False)
    rank = int((values > 1e-8 * values[0]).sum())
    assert 10 < rank <= 15


def test_factors_leave_the_library_as_it_is():
    """Strong factors have mean one: the expected library is the drawn one on average over cells."""
    s = simulate_counts(n=4000, G=500, de_share=0, factor_strength=1, gene_spread=0.5, rng=np.random.default_rng(13))
    assert np.mean(s.rate.sum(axis=1) / s.library) == pytest.approx(1, abs=0.05)


def test_batches_shift_genes():
    s = simulate_counts(n=2000, G=200, n_types=1, batches=2, factor_strength=0, rng=np.random.default_rng(3))
    share = s.rate / s.library[:, None]
    effect = np.log(share[s.batch == 1].mean(axis=0) / share[s.batch == 0].mean(axis=0))
    assert effect.std() == pytest.approx(0.3, rel=0.2)


def test_extra_dropout_is_recorded():
    rng = np.random.default_rng(4)
    s = simulate_counts(n=500, G=200, dropout=0.3, rng=rng)
    assert s.dropout.mean() == pytest.approx(0.3, abs=0.01)
    assert (s.X.toarray()[s.dropout] == 0).all()
    kept = s.X.toarray()[~s.dropout].sum()
    assert kept == pytest.approx(s.realised[~s.dropout].sum(), rel=0.02)


def test_realised_rate_is_the_oracle(simulation):
    """Judged on fresh counts, the realised rate beats the expected one, and that beats the gene mean."""
    fresh = np.random.default_rng(5).poisson(simulation.realised)
    mean = np.broadcast_to(simulation.X.toarray().mean(axis=0), fresh.shape)
    losses = [poisson_loss(truth=fresh, prediction=p) for p in (simulation.realised, simulation.rate, mean)]
    assert losses == sorted(losses)


def compare(real, simulated):
    """log10 ratio of variances and difference of zero fractions where both have 30 genes in a bin of the mean."""
    one, other = (mean_variance_zero_curves(X, edges=EDGES) for X in (real, simulated))
    both = (one["genes"] >= 30) & (other["genes"] >= 30)
    assert both.sum() >= 5
    return (
        np.log10(other["variance"] / one["variance"])[both].to_numpy(),
        (other["zero_fraction"] - one["zero_fraction"])[both].to_numpy(),
    )


@pytest.mark.parametrize("name", ["pbmc68k", "pbmc3k_raw", "pbmc4k_top2000"])
def test_default_counts_look_like_10x_data(name, blood, request):
    """Median variance within a factor of 2.5, zeros within 0.12, in every bin of the mean; on average 1.5 and 0.05."""
    real = blood
    if name != "pbmc68k":
        path = request.getfixturevalue("shared_data") / f"{name}.h5ad"
        if not path.is_file():
            pytest.skip(f"{path} is missing")
        real = sp.csr_array(anndata.read_h5ad(path).X)
    variance, zero = compare(real, simulate_counts(rng=np.random.default_rng(6)).X)
    assert np.abs(variance).max() < np.log10(2.5)
    assert np.abs(variance).mean() < np.log10(1.5)
    assert np.abs(zero).max() < 0.12
    assert np.abs(zero).mean() < 0.05


@pytest.mark.parametrize("name", ["pbmc68k", "pbmc4k_top2000", "zeisel_ercc_1000g"])
def test_scdesign_looks_like_its_data_up_to_its_double_zeros(name, blood, request):
    """Zeros come from dropouts, and again from the multinomial, as published; the variance rises with them.

    Dropouts alone are as many as the real zeros, within 0.06. In bins of the mean there are never fewer zeros than in
    the data, at most 0.3 and on average 0.15 more, and the variance is up to 5 times, on average 2.3 times, the real.
    """
    real = blood
    if name != "pbmc68k":
        path = request.getfixturevalue("shared_data") / f"{name}.h5ad"
        if not path.is_file():
            pytest.skip(f"{path} is missing")
        real = sp.csr_array(anndata.read_h5ad(path).X)
    simulated = fit_scdesign(real).simulate(rng=np.random.default_rng(7))
    variance, zero = compare(real, simulated.X)
    real_zeros = 1 - np.count_nonzero(real.data) / np.prod(real.shape)
    assert simulated.dropout.mean() == pytest.approx(real_zeros, abs=0.06)
    assert np.abs(variance).max() < np.log10(5)
    assert np.abs(variance).mean() < np.log10(2.3)
    assert zero.min() > -0.02
    assert zero.max() < 0.3
    assert zero.mean() < 0.15


def test_curves_by_hand():
    X = np.array([[0, 4, 1, 0], [2, 4, 0, 0], [0, 1, 0, 0], [2, 7, 3, 0]])
    table = mean_variance_zero_curves(sp.csr_array(X), edges=np.array([0.5, 2, 3, 5]))
    assert table["genes"].tolist() == [2, 0, 1]
    assert table["mean"][0] == 1
    assert table["variance"][0] == pytest.approx(np.median(X[:, [0, 2]].var(axis=0)))
    assert table["zero_fraction"][0] == 0.5
    assert table["variance"][2] == pytest.approx(X[:, 1].var())
    assert table.loc[1, ["mean", "variance", "zero_fraction"]].isna().all()
    assert mean_variance_zero_curves(X, bins=4)["genes"].sum() == 3
    with pytest.raises(InputError, check=has_code("parameter-value")):
        mean_variance_zero_curves(X, edges=np.array([2, 1]))
    with pytest.raises(InputError, check=has_code("all-zero")):
        mean_variance_zero_curves(X * 0)


def test_gamma_shape_solves_its_equation():
    from scipy.special import digamma

    for gap in np.geomspace(0.026, 50, 30):
        root = brentq(lambda a, gap=gap: np.log(a) - digamma(a) - gap, 1e-4, 100)
        assert gamma_shape(np.array([gap]))[0] == pytest.approx(root, rel=1e-8)
    assert (gamma_shape(np.array([0.0, -1e-12, 1e-3])) == MAX_SHAPE).all()


def mixture_log_likelihood(y, w, a, b, m, s):
    return np.log(w * stats.gamma.pdf(y, a, scale=1 / b) + (1 - w) * stats.norm.pdf(y, m, s)).sum()


def test_em_recovers_a_mixture():
    """2,000 cells, dropouts that are not all zero: parameters close to those drawn from."""
    rng = np.random.default_rng(8)
    n, w, m, s = 4000, np.array([0.1, 0.4, 0.7]), np.array([1.5, 1.2, 2.0]), np.array([0.2, 0.15, 0.3])
    y = np.where(rng.random((n, 3)) < w, rng.gamma(2, 0.1, (n, 3)), rng.normal(m, s, (n, 3)))
    y = np.maximum(y, ZERO_LEVEL + 1e-3)
    mixture, _, unconverged = fit_mixture(sp.csc_array(y), max_steps=1000)
    assert unconverged == 0
    np.testing.assert_allclose(mixture[0], w, atol=0.03)
    np.testing.assert_allclose(mixture[1], 2, rtol=0.25)
    np.testing.assert_allclose(mixture[3], m, rtol=0.02)
    np.testing.assert_allclose(mixture[4], s, rtol=0.1)


def test_em_is_at_a_maximum_on_real_genes(blood, fitted):
    """The density by scipy gives the reported likelihood, and a general optimiser started there finds little more."""
    X = blood.toarray()
    library = X.sum(axis=1)
    y = np.log10(X * (np.median(library) / library)[:, None] + 1.01)
    parameters = np.stack([fitted.dropout_rate, fitted.shape, fitted.rate, fitted.mean, fitted.spread])
    inside = (parameters[1] < MAX_SHAPE - 1) & (parameters[0] > 0.02) & (parameters[0] < 0.98) & (fitted.spread > 0.02)
    chosen = np.flatnonzero(inside)[:8]
    for j in [*range(0, len(fitted.genes), 100), *chosen]:
        got = mixture_log_likelihood(y[:, fitted.genes[j]], *parameters[:, j])
        assert fitted.log_likelihood[j] == pytest.approx(got, abs=1e-3 * abs(got) + 0.01)
    for j in chosen:
        level = y[:, fitted.genes[j]]

        def loss(t, level=level):
            with np.errstate(all="ignore"):
                value = -mixture_log_likelihood(
                    level, 1 / (1 + np.exp(-t[0])), np.exp(t[1]), np.exp(t[2]), t[3], np.exp(t[4])
                )
            return value if np.isfinite(value) else 1e10

        w, a, b, m, s = parameters[:, j]
        start = np.array([np.log(w / (1 - w)), np.log(a), np.log(b), m, np.log(s)])
        best = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 300})
        assert -best.fun - fitted.log_likelihood[j] < 0.01 * abs(fitted.log_likelihood[j]) + 0.5


def test_every_gene_of_a_real_set_is_fitted(blood, fitted):
    assert len(fitted.genes) == (np.asarray((blood > 0).sum(axis=0)).ravel() > 0).sum()
    for values in (fitted.dropout_rate, fitted.shape, fitted.rate, fitted.mean, fitted.spread, fitted.log_likelihood):
        assert np.isfinite(values).all()
    assert fitted.unconverged == 0
    # what is not gamma has the level of the detected
    assert (fitted.mean >= ZERO_LEVEL).all()
    assert (fitted.mean <= fitted.max_level).all()


@pytest.mark.parametrize("depth", [None, 12345, 2_000_000])
def test_depth_is_exact(fitted, depth):
    s = fitted.simulate(cells_per_type=100, depth=depth, rng=np.random.default_rng(9))
    total = round(float(np.median(fitted.library)) * 200) if depth is None else depth
    assert int(s.X.sum(dtype=np.float64)) == total
    assert s.realised.sum() == pytest.approx(total)
    assert np.bincount(s.cell_type).tolist() == [100, 100]


def test_scdesign_truth(fitted):
    """Tenth of the genes, half of each direction, 1.5 to 5 fold; dropped entries are zero, and rates match counts."""
    s = fitted.simulate(cells_per_type=500, depth=20_000_000, rng=np.random.default_rng(10))
    G = len(fitted.genes)
    change = s.fold_change[1]
    assert (s.fold_change[0] == 1).all()
    assert (change > 1).sum() == (change < 1).sum() == round(0.05 * G)
    size = np.maximum(change, 1 / change)[change != 1]
    assert size.min() >= 1.5
    assert size.max() <= 5
    X = s.X.toarray()
    assert (X[s.dropout] == 0).all()
    assert (s.realised[s.dropout] == 0).all()
    np.testing.assert_array_equal(s.realised[~s.dropout], s.rate[~s.dropout])
    expected = s.realised.sum(axis=0)
    assert (np.abs(X.sum(axis=0) - expected) < 5 * np.sqrt(expected) + 1).all()


def test_scdesign_fold_changes_are_in_the_levels(fitted):
    """The median level of a gene, from its rates, moves by log10 of the fold change: no floor eats it."""
    s = fitted.simulate(cells_per_type=2000, rng=np.random.default_rng(11))
    # rate = constant x library x (10^level - 1.01); the constant from the largest level, which is capped
    scaled = s.rate / s.library[:, None]
    level = np.log10(scaled * (10**fitted.max_level - 1.01) / scaled.max() + 1.01)
    moved = np.median(level[s.cell_type == 1], axis=0) - np.median(level[s.cell_type == 0], axis=0)
    de = s.fold_change[1] != 1
    expected = np.log10(s.fold_change[1])
    # medians near the level of a zero are pushed up by the rule for levels below it
    clear = np.minimum(*(np.median(level[s.cell_type == t], axis=0) for t in (0, 1))) > 0.35
    assert (de & clear).sum() > 15
    assert np.abs(moved - expected)[clear].max() < 0.06
    assert np.corrcoef(moved[de], expected[de])[0, 1] > 0.95
    # spreads are drawn again for each type, as in the R package, so levels move only by sampling elsewhere
    assert np.median(np.abs(moved[~de])) < 0.02


def test_simulated_groups_are_the_simulation_with_names(blood):
    """The same counts as by hand; differential genes are those whose molecules differ between the groups."""
    X = blood
    made = simulated_groups(X, cells_per_group=300, de_share=0.2, random_state=5)
    s = fit_scdesign(X).simulate(cells_per_type=300, de_share=0.2, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(made.X.toarray(), s.X.toarray())
    np.testing.assert_array_equal(made.var["fold_change"], s.fold_change[1])
    np.testing.assert_array_equal(made.var["differential"], s.fold_change[1] != 1)
    assert made.var["differential"].sum() == 2 * round(0.1 * made.n_vars)
    assert made.obs["group"].value_counts().to_dict() == {"group 1": 300, "group 2": 300}
    sums = [made.X[(made.obs["group"] == group).to_numpy()].sum(axis=0) for group in ("group 1", "group 2")]
    many = sums[0] + sums[1] > 200
    up, down = (made.var["fold_change"].to_numpy() > 2) & many, (made.var["fold_change"].to_numpy() < 0.5) & many
    assert min(up.sum(), down.sum()) > 5
    assert np.mean(sums[1][up] > sums[0][up]) > 0.9
    assert np.mean(sums[1][down] < sums[0][down]) > 0.9
    other = simulated_groups(X, cells_per_group=300, de_share=0.2, random_state=6)
    assert (other.X != made.X).nnz


def test_dropouts_fall_on_cells_with_many_zeros(fitted):
    rng = np.random.default_rng(12)
    rate = np.full(2000, 0.3)
    lost = fitted._draw_dropouts(rate, 400, rng)
    assert lost.mean() == pytest.approx(0.3, abs=0.005)
    assert (lost.sum(axis=0) == 0).mean() < 0.01
    # cells of two kinds: the share of dropouts follows the share of zeros
    uneven = replace(fitted, zero_share=np.array([0.1, 0.9]))
    per_cell = np.sort(uneven._draw_dropouts(np.full(3000, 0.05), 400, rng).mean(axis=1))
    assert per_cell[-100:].mean() / per_cell[:100].mean() == pytest.approx(9, rel=0.2)
    extremes = fitted._draw_dropouts(np.array([0.0, 1.0]), 50, rng)
    assert extremes.sum(axis=0).tolist() == [0, 50]


@pytest.mark.parametrize(
    "options",
    [{"n": 0}, {"gene_spread": -1}, {"dropout": 1}, {"de_share": 2}, {"fold_change": (0.5, 2)}, {"depth": 0}],
)
def test_wrong_options(options):
    with pytest.raises(InputError, check=has_code("parameter-value")) as error:
        simulate_counts(**options, rng=np.random.default_rng(0))
    assert error.value.parameter in options


def test_wrong_scdesign_options(fitted):
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, check=has_code("too-few-genes")):
        fitted.simulate(fold_change=(1.5, 1e4), rng=rng)
    with pytest.raises(InputError, check=has_code("parameter-value")):
        fitted.simulate(cells_per_type=1, rng=rng)
    with pytest.raises(InputError, check=has_code("parameter-value")):
        fitted.simulate(depth=0, rng=rng)
    with pytest.raises(InputError, check=has_code("not-counts")):
        fit_scdesign(np.zeros((3, 2)))
    with pytest.raises(InputError, check=has_code("not-counts")):
        fit_scdesign(-np.ones((3, 2)))
