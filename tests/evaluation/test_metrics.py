"""Every metric against a naive loop or scipy, the streaming scorers against dense ones, and what swapping does."""

from __future__ import annotations

import inspect
import math
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from codes import has_code
from imputome.core.data import as_data
from imputome.core.imputation import Imputation
from imputome.core.posterior import PosteriorModel, Prior
from imputome.errors import InputError
from imputome.evaluation import metrics
from imputome.evaluation.metrics import METRICS
from imputome.evaluation.splits import Split, make_split, normalized_before
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.methods import get


class Rates:
    """A model of rates a_i b_j, never dense unless asked."""

    def __init__(self, a, b, outputs=("value", "rate")):
        self.a, self.b = a, b
        self.outputs = frozenset(outputs)

    def rows(self, rows, genes, output):
        b = self.b if genes is None else self.b[genes]
        return self._end(self.a[rows][:, None] * b, output)

    def at(self, i, j, output):
        return self._end(self.a[i] * self.b[j], output)

    def _end(self, values, output):
        return values + {"lower": -1.0, "upper": 1.0}.get(output, 0.0)


@pytest.fixture
def tiny():
    rng = np.random.default_rng(0)
    truth = rng.poisson(1.0, (7, 5)).astype(float)
    prediction = rng.gamma(1.0, 1.0, (7, 5))
    prediction[0, 0] = 0  # the floor
    return truth, prediction


@pytest.fixture
def thinned():
    """A split with names, a library that is not the row sum, an empty row, and a model with a variance."""
    rng = np.random.default_rng(1)
    n, G = 60, 40
    a, b = rng.gamma(2.0, 1.0, n), rng.gamma(0.3, 3.0, G)
    X = rng.poisson(a[:, None] * b)
    X[5] = 0
    names = {"obs_names": [f"c{i}" for i in range(n)], "var_names": [f"g{j}" for j in range(G)]}
    train = as_data(X, kind="counts", library_size=X.sum(1) + 10.0, **names)
    test = sp.csr_array(rng.poisson(a[:, None] * b / 9).astype(np.float32))
    return Split("thin", train, test=test, ratio=1 / 9), Rates(a, b)


def imputation(model, data):
    return Imputation(model, data, scale="counts" if data.kind == "counts" else "input", keeps_observed=True)


def loop(term, truth, *others):
    entries = list(np.ndindex(truth.shape))
    return sum(term(float(truth[k]), *(float(other[k]) for other in others)) for k in entries) / len(entries)


def xlogx(x, mu):
    return x * math.log(x / mu) if x > 0 else 0.0


NAIVE = {
    "mse": lambda x, mu: (x - mu) ** 2,
    "mae": lambda x, mu: abs(x - mu),
    "poisson_loss": lambda x, mu: max(mu, 1e-8) - x * math.log(max(mu, 1e-8)),
    "poisson_deviance": lambda x, mu: 2 * (xlogx(x, max(mu, 1e-8)) - (x - max(mu, 1e-8))),
}


@pytest.mark.parametrize("name", NAIVE)
def test_averages_are_those_of_a_naive_loop(name, tiny):
    truth, prediction = tiny
    assert METRICS[name].function(truth=truth, prediction=prediction) == pytest.approx(
        loop(NAIVE[name], truth, prediction), rel=1e-12
    )


def test_roots_and_correlations(tiny):
    truth, prediction = tiny
    x, mu = truth.ravel(), prediction.ravel()
    both = {"truth": truth, "prediction": prediction}
    error = math.sqrt(loop(NAIVE["mse"], truth, prediction))
    assert metrics.rmse(**both) == pytest.approx(error)
    assert metrics.nrmse(**both) == pytest.approx(error / (sum(x) / len(x)))
    assert metrics.pearson(**both) == pytest.approx(stats.pearsonr(x, mu).statistic)
    angle = sum(a * b for a, b in zip(x, mu, strict=True)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in mu))
    assert metrics.cosine(**both) == pytest.approx(angle)
    assert metrics.total_ratio(**both) == pytest.approx(sum(mu) / sum(x))
    zeros = [b for a, b in zip(x, mu, strict=True) if a == 0]
    raised = metrics.share_of_zeros_raised(**both)
    assert 0 < raised < 1
    assert raised == pytest.approx(sum(b > 1 for b in zeros) / len(zeros))


def test_what_is_undefined_is_nan():
    one, zero = np.ones(3), np.zeros(3)
    for name in ("pearson", "nrmse", "cosine", "total_ratio"):
        assert math.isnan(METRICS[name].function(truth=zero, prediction=one)), name
    assert math.isnan(metrics.share_of_zeros_raised(truth=one, prediction=one))


@pytest.mark.parametrize("size", [0.05, 1.0, 7.5, 1e5])
def test_nll_is_scipys_negative_binomial(tiny, size):
    truth, prediction = tiny
    prediction[0, 0] = 0.01  # near the floor scipy itself is wrong: its probability rounds to 1
    mu = prediction
    truth[1, 1] = 3000
    oracle = stats.nbinom(size, size / (size + mu))
    expected = -np.mean(oracle.logpmf(truth))
    assert metrics.nll(truth=truth, prediction=prediction, size=size) == pytest.approx(expected, rel=1e-7)
    assert metrics.nll(truth=truth, distribution=oracle) == pytest.approx(expected, rel=1e-12)
    per_gene = np.array([size, 1.0, np.inf, 2.0, size])
    columns = [
        -stats.poisson(mu[:, j]).logpmf(truth[:, j])
        if np.isinf(r)
        else -stats.nbinom(r, r / (r + mu[:, j])).logpmf(truth[:, j])
        for j, r in enumerate(per_gene)
    ]
    assert metrics.nll(truth=truth, prediction=prediction, size=per_gene) == pytest.approx(np.mean(columns), rel=1e-7)


def test_nll_of_a_variance_that_overflowed(tiny):
    truth, prediction = tiny
    with np.errstate(all="raise"):
        found = metrics.nll(truth=truth, prediction=prediction, size=0.0)
    assert np.isfinite(found)
    assert found > metrics.nll(truth=truth, prediction=prediction, size=1e-6)


def test_nll_of_other_distributions(tiny):
    truth, prediction = tiny
    normal = stats.norm(prediction, 2.0)
    assert metrics.nll(truth=truth, distribution=normal) == pytest.approx(-np.mean(normal.logpdf(truth)))
    poisson = -np.mean(stats.poisson(np.maximum(prediction, 1e-8)).logpmf(truth))
    assert metrics.nll(truth=truth, prediction=prediction) == pytest.approx(poisson)
    # a Poisson is the limit: a huge size gives it without cancellation
    assert metrics.nll(truth=truth, prediction=prediction, size=1e12) == pytest.approx(poisson, rel=1e-6)
    with pytest.raises(InputError, check=has_code("pass-one-of-two")):
        metrics.nll(truth=truth, prediction=prediction, distribution=normal)
    with pytest.raises(InputError, check=has_code("not-a-distribution")):
        metrics.nll(truth=truth, distribution=object())


def test_mse_log1p(tiny):
    truth, prediction = tiny
    truth[2] = 0  # a cell without held-out molecules
    total = 0.0
    for i, j in np.ndindex(truth.shape):
        library = truth[i].sum()
        x, mu = (math.log1p(1e4 * m[i, j] / library) if library else 0.0 for m in (truth, prediction))
        total += (x - mu) ** 2
    assert metrics.mse_log1p(truth=truth, prediction=prediction) == pytest.approx(total / truth.size)
    with pytest.raises(InputError, check=has_code("library-missing")):
        metrics.mse_log1p(truth=truth.ravel(), prediction=prediction.ravel())


def test_held_out_selects_entries(tiny):
    truth, prediction = tiny
    held_out = np.random.default_rng(2).random(truth.shape) < 0.5
    for name, metric in METRICS.items():
        more = {each: np.full((7, 1), 20.0) for each in metric.needs if each.endswith(("library", "_total"))}
        part = {key: np.broadcast_to(value, truth.shape)[held_out] for key, value in more.items()}
        whole = metric.function(truth=truth, prediction=prediction, held_out=held_out, **more)
        flat = metric.function(truth=truth[held_out], prediction=prediction[held_out], **part)
        assert whole == pytest.approx(flat, nan_ok=True), name
    # what is not held out need not be known
    unknown = np.where(held_out, truth, np.nan)
    assert metrics.mse(truth=unknown, prediction=prediction, held_out=held_out) == pytest.approx(
        metrics.mse(truth=truth, prediction=prediction, held_out=held_out)
    )


@pytest.mark.parametrize("name", METRICS)
def test_contract_of_every_metric(name, tiny):
    truth, prediction = tiny
    metric = METRICS[name]
    parameters = inspect.signature(metric.function).parameters.values()
    assert {p.kind for p in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    before = truth.copy(), prediction.copy()
    assert isinstance(metric.function(truth=truth, prediction=prediction), float)
    np.testing.assert_array_equal((truth, prediction), before)
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        metric.function(truth=truth, prediction=prediction[:, :-1])
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        metric.function(truth=truth, prediction=prediction.mean(axis=0))  # would broadcast
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        metric.function(truth=truth, prediction=prediction, held_out=np.ones(5, dtype=bool))
    with pytest.raises(InputError, check=has_code("nothing-to-score")):
        metric.function(truth=truth, prediction=prediction, held_out=np.zeros(truth.shape, dtype=bool))
    prediction[0, 0] = np.nan
    with pytest.raises(InputError, check=has_code("not-finite")):
        metric.function(truth=truth, prediction=prediction)
    with pytest.raises(TypeError):
        metric.function(truth, prediction)


# --- intervals ---


def test_nll_at_the_floor_is_exact():
    # by mpmath at 50 digits: NB(2; mean 1e-8, size 1e5), where scipy is off by 0.0016
    score = metrics.nll(truth=np.array([2.0]), prediction=np.array([0.0]), size=1e5)
    assert score == pytest.approx(37.53449867851488, abs=1e-9)


def test_coverage_of_real_intervals():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    lower, upper = np.array([0.0, 2.0, 3.5, 0.0]), np.array([1.0, 2.5, 5.0, 3.9])
    assert metrics.coverage_90(truth=x, lower=lower, upper=upper) == 0.5


@pytest.mark.parametrize("size", [0.5, 5.0, np.inf])
def test_coverage_of_counts_is_nominal_under_the_true_model(size):
    rng = np.random.default_rng(3)
    mu = np.exp(rng.uniform(np.log(1e-3), np.log(100), 200_000))
    rate = mu if np.isinf(size) else rng.gamma(size, mu / size)
    x = rng.poisson(rate)
    table = metrics.coverage_by_mean(truth=x, prediction=mu, size=size)
    assert table["entries"].sum() == len(x)
    np.testing.assert_allclose(table["coverage"], 0.9, atol=0.012)
    assert metrics.coverage_90(truth=x, prediction=mu, size=size) == pytest.approx(0.9, abs=0.012)


def test_coverage_sees_a_wrong_width_that_zeros_would_hide():
    rng = np.random.default_rng(4)
    mu = np.concatenate([np.full(100_000, 1e-3), np.full(3000, 8.0)])
    x = rng.poisson(rng.gamma(1.0, mu))
    poisson = metrics.coverage_90(truth=x, prediction=mu)  # too narrow
    assert poisson < 0.6
    table = metrics.coverage_by_mean(truth=x, prediction=mu)
    assert (table["coverage"] * table["entries"])[table["entries"] > 0].sum() / len(x) > 0.88


def test_randomised_transform_is_that_of_scipy():
    rng = np.random.default_rng(5)
    mu, size = rng.gamma(1.0, 3.0, 400), rng.gamma(1.0, 3.0, 400)
    x = rng.poisson(mu)
    inside, entries = metrics.covered(mu, size, np.flatnonzero(x), x[x > 0], np.random.default_rng(7))
    oracle = stats.nbinom(size, size / (size + mu))
    v = np.random.default_rng(7).random(400)
    u = oracle.cdf(x - 1) + v * oracle.pmf(x)
    stratum = np.digitize(mu, metrics.MEAN_EDGES)
    within = (u >= 0.05) & (u <= 0.95)
    np.testing.assert_array_equal(inside, [within[stratum == k].sum() for k in range(len(entries))])


# --- argument order ---


@pytest.fixture(scope="module")
def simulated():
    """Held-out counts of simulated cells, the realised Poisson rates (after the gamma draw), and other outputs."""
    rng = np.random.default_rng(6)
    n, G = 300, 200
    mean = np.outer(rng.lognormal(0, 0.4, n), rng.gamma(0.3, 1.0, G))
    rate = rng.gamma(2.0, mean / 2.0)  # negative binomial of size 2
    train, x = rng.poisson(rate * 0.9), rng.poisson(rate * 0.1)
    outputs = {
        "true rates": rate * 0.1,
        "perturbed": rate * 0.1 * rng.lognormal(0, 0.3, (n, G)),
        "zeros": np.zeros((n, G)),
        "no imputation": train / 9,
        "gene mean": np.tile(train.mean(axis=0) / 9, (n, 1)),
        "double": rate * 0.2,
    }
    return train, x.astype(float), outputs


@pytest.mark.parametrize("name", ["poisson_loss", "poisson_deviance", "nll"])
def test_true_rates_win_and_swapped_arguments_are_detected(name, simulated):
    _, x, outputs = simulated
    function = METRICS[name].function
    right = {key: function(truth=x, prediction=mu) for key, mu in outputs.items()}
    swapped = {key: function(truth=mu, prediction=x) for key, mu in outputs.items()}
    assert min(right, key=right.__getitem__) == "true rates"
    assert min(swapped, key=swapped.__getitem__) != "true rates"


# --- streaming ---


@pytest.mark.parametrize("block", [1, 7 * 40, 2**20])
def test_thinned_scores_are_the_dense_ones(thinned, monkeypatch, block):
    split, model = thinned
    monkeypatch.setattr("imputome.evaluation.streaming.VALUES_PER_BLOCK", block)
    shape = np.geomspace(0.1, 50, 40)
    result = imputation(PosteriorModel(model, split.train, Prior.constant(shape)), split.train)
    X, truth = split.train.X.toarray(), split.test.toarray().astype(float)
    rate = model.a[:, None] * model.b
    mu = rate * (shape + X) / (shape + rate) / 9
    size = shape + X
    seen = X.sum(axis=0) > 0  # genes without a training count are left out
    truth, mu, size = truth[:, seen], mu[:, seen], size[:, seen]
    scores = score_thinned(result, split, random_state=3)
    assert list(scores) == [
        name for name, metric in METRICS.items() if metric.entries != "hidden" and not metric.protocol
    ]
    mu_ = np.maximum(mu, 1e-8)
    library = split.train.library_size[:, None] / 9
    logged = [np.log1p(1e4 * values / library) for values in (truth, mu)]
    expected = {
        "poisson_loss": loop(NAIVE["poisson_loss"], truth, mu),
        "poisson_deviance": loop(NAIVE["poisson_deviance"], truth, mu),
        "nll": -np.mean(stats.nbinom(size, size / (size + mu_)).logpmf(truth)),
        "mse_log1p": np.mean((logged[0] - logged[1]) ** 2),
        "total_ratio": mu.sum() / truth.sum(),
        "share_of_zeros_raised": np.mean(mu[truth == 0] > 1),
        "coverage_90": metrics.coverage_90(truth=truth, prediction=mu, size=size, random_state=3),
    }
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-10, abs=1e-10), name


def test_thinned_scores_without_a_variance(thinned):
    split, model = thinned
    result = imputation(model, split.train)
    assert not {"nll", "coverage_90"} & set(score_thinned(result, split))
    with pytest.raises(InputError, check=has_code("metric-unavailable")):
        score_thinned(result, split, metrics=["nll"])
    with pytest.raises(InputError, check=has_code("unknown-metric")):
        score_thinned(result, split, metrics=["possion_loss"])
    with pytest.raises(InputError, check=has_code("metric-unavailable")):
        score_thinned(result, split, metrics=["mse"])
    with pytest.raises(InputError, check=has_code("split-of-other-kind")):
        score_hidden(result, split)
    model.a[4] = np.nan
    with pytest.raises(InputError, check=has_code("not-finite")):
        score_thinned(result, split)


@pytest.mark.parametrize("axis", ["obs_names", "var_names"])
def test_shuffled_names_are_refused(thinned, axis):
    split, model = thinned
    names = {"obs_names": split.train.obs_names, "var_names": split.train.var_names}
    names[axis] = names[axis][::-1]
    other = as_data(split.train.X, kind="counts", **names)
    with pytest.raises(InputError, check=has_code("names-differ")):
        score_thinned(imputation(model, other), split)
    i = np.array([0])
    hidden = Split("random", split.train, i=i, j=i, truth=np.ones(1))
    with pytest.raises(InputError, check=has_code("names-differ")):
        score_hidden(imputation(model, other), hidden)
    short = as_data(split.train.X[:-1, :-1], kind="counts")
    with pytest.raises(InputError, check=has_code("names-differ")):
        score_thinned(imputation(model, short), split)


def test_hidden_counts(thinned, monkeypatch):
    monkeypatch.setattr("imputome.evaluation.streaming.ENTRIES_PER_CALL", 17)
    split, model = thinned
    rng = np.random.default_rng(8)
    full = split.train.X.toarray()
    rows, columns = np.nonzero(full)
    chosen = rng.random(len(rows)) < 0.3
    i, j = rows[chosen], columns[chosen]
    kept = full.copy()
    kept[i, j] = 0
    data = as_data(kept, kind="counts")
    result = imputation(model, data)
    hidden = Split("random", data, i=i, j=j, truth=full[i, j])
    scores = score_hidden(result, hidden)
    mu = model.a[:, None] * model.b
    truth = np.where(kept != full, full, 0)
    mask = kept != full
    for name in ("mse", "rmse", "nrmse", "mae", "pearson", "cosine", "total_ratio"):
        expected = METRICS[name].function(truth=truth, prediction=mu, held_out=mask)
        assert scores.pop(name) == pytest.approx(expected, rel=1e-10), name
    assert scores == {"share_of_zeros_raised": pytest.approx(np.mean(mu[full == 0] > 1), rel=1e-10)}
    for name in ("poisson_loss", "coverage_90"):  # over hidden nonzeros they would reward filling
        with pytest.raises(InputError):
            score_hidden(result, hidden, metrics=[name])
    with pytest.raises(InputError, check=has_code("split-of-other-kind")):
        score_thinned(result, hidden)


def test_figures_of_the_papers(thinned):
    """NRMSE of paper 000 (4.6) and the four metrics of paper 002 (eq. 9 to 12), in loops over the normalised matrix."""
    split, model = thinned
    X = split.train.X.toarray().astype(float)
    data = as_data(X, kind="counts")
    library = X.sum(axis=1)
    middle = np.median(library[library > 0])
    hidden = make_split("random", data, rng=np.random.default_rng(3), fraction=0.3)
    leaky = normalized_before(hidden, data)
    result = imputation(model, leaky.train)
    xs, ys, logged, predicted = [], [], [], []
    for i, j in zip(hidden.i, hidden.j, strict=True):
        rate = model.a[i] * model.b[j]
        ys.append(X[i, j] / library[i] * middle)
        xs.append(rate / library[i] * middle)
        logged.append(math.log(1 + 1e4 * X[i, j] / library[i]))
        predicted.append(math.log(1 + 1e4 * rate / library[i]))
    scores = score_hidden(result, leaky, scale="median")
    N = len(xs)
    assert scores["mse"] == pytest.approx(sum((x - y) ** 2 for x, y in zip(xs, ys, strict=True)) / N)
    assert scores["mae"] == pytest.approx(sum(abs(x - y) for x, y in zip(xs, ys, strict=True)) / N)
    x, y = sum(xs) / N, sum(ys) / N
    top = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    bottom = math.sqrt(sum((a - x) ** 2 for a in xs) * sum((b - y) ** 2 for b in ys))
    assert scores["pearson"] == pytest.approx(top / bottom)
    angle = sum(a * b for a, b in zip(xs, ys, strict=True))
    assert scores["cosine"] == pytest.approx(angle / math.sqrt(sum(a * a for a in xs) * sum(b * b for b in ys)))
    squares = sum((p - t) ** 2 for p, t in zip(predicted, logged, strict=True)) / N
    expected = math.sqrt(squares) / (sum(logged) / N)
    assert score_hidden(result, leaky, scale="log1p")["nrmse"] == pytest.approx(expected)
    # the honest protocol normalises by what is left, and gives other figures
    honest = imputation(model, hidden.train)
    assert score_hidden(honest, hidden, scale="log1p")["nrmse"] != pytest.approx(expected, rel=1e-3)
    left = hidden.train.depth
    truth = hidden.truth / left[hidden.i] * np.median(left[left > 0])
    rates = model.a[hidden.i] * model.b[hidden.j] / left[hidden.i] * np.median(left[left > 0])
    assert score_hidden(honest, hidden, scale="median")["mse"] == pytest.approx(np.mean((truth - rates) ** 2))


def test_hidden_real_values_of_new_rows():
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=6), rng.normal(size=5)
    X = a[:, None] * b + rng.normal(size=(6, 5))
    i, j = np.array([0, 2, 5]), np.array([1, 1, 4])
    masked = X.copy()
    masked[i, j] = np.nan
    train, apply = as_data(X, kind="real"), as_data(masked, kind="real", obs_names=list("uvwxyz"))
    split = Split("mcar", train, apply=apply, i=i, j=j, truth=X[i, j])
    scores = score_hidden(imputation(Rates(a, b, ("value", "lower", "upper")), apply), split)
    error = X[i, j] - a[i] * b[j]
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert scores["coverage_90"] == pytest.approx(np.mean(np.abs(error) <= 1))
    assert not {"total_ratio", "share_of_zeros_raised"} & set(scores)
    assert "coverage_90" not in score_hidden(imputation(Rates(a, b), apply), split)
    with pytest.raises(InputError, check=has_code("names-differ")):
        score_hidden(imputation(Rates(a, b), train), split)


def test_streaming_makes_no_dense_matrix():
    rng = np.random.default_rng(10)
    n, G = 5000, 3000
    X, test = (sp.random_array((n, G), density=0.01, format="csr", rng=rng) for _ in range(2))
    for matrix in (X, test):
        matrix.data[:] = 1.0
    data = as_data(X, kind="counts")
    model = PosteriorModel(
        Rates(rng.random(n).astype(np.float32), rng.random(G).astype(np.float32)), data, Prior.constant(np.ones(G))
    )
    split = Split("thin", data, test=test, ratio=1 / 9)
    result = imputation(model, data)
    tracemalloc.start()
    scores = score_thinned(result, split)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isfinite(list(scores.values())).all()
    # one dense matrix in float32 would take 60 MB, the truth in float64 twice that
    assert peak < 45e6, f"{peak / 1e6:.0f} MB"


def test_genes_without_a_training_count_are_left_out():
    rng = np.random.default_rng(0)
    train = rng.poisson(1.0, size=(30, 12)).astype(float)
    train[:, 4] = 0
    test = rng.poisson(0.2, size=(30, 12)).astype(float)
    test[3, 4] = 2
    split = Split("thin", as_data(train, kind="counts"), test=sp.csr_array(test), ratio=0.2)
    result = get("gene_mean")().fit_transform(split.train)
    seen = np.arange(12) != 4
    expected = metrics.poisson_loss(truth=test[:, seen], prediction=0.2 * result.to_array()[:, seen])
    assert score_thinned(result, split, metrics=["poisson_loss"])["poisson_loss"] == pytest.approx(expected, rel=1e-10)


# -- each feature alone ------------------------------------------------------------------------------------------------
def test_rmse_of_each_feature_by_a_loop():
    rng = np.random.default_rng(4)
    feature = rng.choice([1, 4, 9, 30], size=50)
    truth, prediction = rng.normal(size=(2, 50))
    result = metrics.feature_rmse(truth=truth, prediction=prediction, feature=feature)
    assert list(result) == [1, 4, 9, 30]
    for number, value in result.items():
        squares = [(t - p) ** 2 for t, p, f in zip(truth, prediction, feature, strict=True) if f == number]
        assert value == pytest.approx(math.sqrt(sum(squares) / len(squares)))
    weights = np.bincount(feature)[list(result)] / 50
    overall = metrics.rmse(truth=truth, prediction=prediction)
    assert math.sqrt(np.sum(weights * np.square(list(result.values())))) == pytest.approx(overall)


def test_rmse_of_features_refuses_what_does_not_fit():
    with pytest.raises(InputError, check=has_code("shape-mismatch")):
        metrics.feature_rmse(truth=[1.0, 2.0], prediction=[1.0, 2.0], feature=[0])
    with pytest.raises(InputError, check=has_code("nothing-to-score")):
        metrics.feature_rmse(truth=[], prediction=[], feature=[])
    with pytest.raises(InputError, check=has_code("not-finite")):
        metrics.feature_rmse(truth=[1.0], prediction=[np.nan], feature=[0])
