"""The protocol of Open Problems: its numbers by the steps of its own scripts, what the swap rewards, its tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from codes import has_code, refused
from imputome.cli import run
from imputome.cli.score_table import number
from imputome.core.data import as_data
from imputome.core.holdout import thin
from imputome.errors import InputError
from imputome.evaluation import metrics
from imputome.evaluation.open_problems import PERFECT, SCORES, benchmark_split, perfect_denoising
from imputome.evaluation.simulate import simulate_counts
from imputome.evaluation.splits import make_split, seed_for
from imputome.evaluation.streaming import score_thinned
from imputome.methods import create
from imputome.studies.inputs import Dataset, standard_controls
from imputome.studies.results import is_control, read, summary
from imputome.studies.runner import run_study

PUBLISHED, CORRECTED = "open_problems_poisson", "open_problems_poisson_corrected"


def published_poisson(test: np.ndarray, denoised: np.ndarray, train_total: float) -> float:
    """The steps of the benchmark's script, with the call as it was made: the test counts are passed as y_pred."""

    def poisson_nll_loss(y_pred: np.ndarray, y_true: np.ndarray) -> float:
        return np.mean(y_pred - y_true * np.log(y_pred + 1e-6))

    return poisson_nll_loss(test, denoised * test.sum() / train_total)


def published_mse(test: np.ndarray, denoised: np.ndarray) -> float:
    """Through scanpy and scikit-learn, in the benchmark's order."""
    import scanpy as sc
    from sklearn.metrics import mean_squared_error

    logged = []
    for values in (test, denoised):
        adata = ad.AnnData(values.astype(np.float64))
        sc.pp.normalize_total(adata, target_sum=10000)
        sc.pp.log1p(adata)
        logged.append(adata.X)
    return mean_squared_error(*logged)


@pytest.fixture(scope="module")
def simulated():
    """Training and held-out counts of simulated cells, the true rates of the held-out part, and other predictions."""
    rng = np.random.default_rng(6)
    n, G = 300, 200
    mean = np.outer(rng.lognormal(0, 0.4, n), rng.gamma(0.3, 1.0, G))
    rate = rng.gamma(2.0, mean / 2.0)
    train, test = rng.poisson(rate * 0.9).astype(float), rng.poisson(rate * 0.1).astype(float)
    predictions = {
        "true rates": rate * 0.1,
        "perturbed": rate * 0.1 * rng.lognormal(0, 0.3, (n, G)),
        "all zeros": np.zeros((n, G)),
        "no denoising": train / 9,
        "gene mean": np.tile(train.mean(axis=0) / 9, (n, 1)),
        "half": rate * 0.05,
    }
    return train, test, predictions


def ranked(name, test, predictions):
    scores = {key: metrics.METRICS[name].function(truth=test, prediction=mu) for key, mu in predictions.items()}
    return sorted(scores, key=scores.__getitem__)


def test_the_numbers_are_those_of_the_benchmarks_steps(simulated):
    train, test, predictions = simulated
    test = test.copy()
    test[3] = 0  # a cell without held-out molecules
    denoised = predictions["perturbed"] * 9
    scaled = denoised * test.sum() / train.sum()
    swapped = metrics.open_problems_poisson(truth=test, prediction=scaled)
    assert swapped == pytest.approx(published_poisson(test, denoised, train.sum()), rel=1e-12)
    assert metrics.open_problems_mse(truth=test, prediction=scaled) == pytest.approx(published_mse(test, denoised))
    right = metrics.open_problems_poisson_corrected(truth=test, prediction=scaled)
    assert right == pytest.approx(np.mean(scaled - test * np.log(scaled + 1e-6)), rel=1e-12)
    # the swap, spelled out: the corrected loss of the arguments in each other's place
    assert swapped == pytest.approx(metrics.open_problems_poisson_corrected(truth=scaled, prediction=test), rel=1e-12)


def test_the_corrected_loss_ranks_the_true_rates_first_and_the_published_one_zeros(simulated):
    _, test, predictions = simulated
    assert ranked(CORRECTED, test, predictions)[0] == "true rates"
    assert ranked(CORRECTED, test, predictions)[-1] == "all zeros"
    for name in (PUBLISHED, "open_problems_mse"):
        assert ranked(name, test, predictions)[0] == "all zeros"
    # less is better as published, however much of what is there is thrown away
    assert ranked(PUBLISHED, test, predictions).index("half") < ranked(PUBLISHED, test, predictions).index("true rates")


def test_zeros_are_near_perfect_as_published(simulated):
    """On the benchmark's own scale, where no denoising is 0 and its control "perfect denoising" is 1."""
    train, test, predictions = simulated
    score = {
        name: published_poisson(test, denoised, train.sum())
        for name, denoised in (("none", train), ("zeros", 0 * train), ("perfect", test))
    }
    assert metrics.open_problems_poisson(truth=test, prediction=predictions["all zeros"]) == score["zeros"]
    assert (score["none"] - score["zeros"]) / (score["none"] - score["perfect"]) > 0.9


def test_totals_can_be_given(simulated):
    _, test, predictions = simulated
    mu = predictions["perturbed"]
    totals = {"truth_total": test.sum(1, keepdims=True), "prediction_total": mu.sum(1, keepdims=True)}
    some = np.random.default_rng(0).random(test.shape) < 0.3
    whole = metrics.open_problems_mse(truth=test, prediction=mu, held_out=some)
    assert metrics.open_problems_mse(truth=test, prediction=mu, held_out=some, **totals) == pytest.approx(whole)
    with pytest.raises(InputError, check=has_code("library-missing")):
        metrics.open_problems_mse(truth=test.ravel(), prediction=mu.ravel())


# --- the split and its controls ---


@pytest.fixture(scope="module")
def data():
    """Counts with genes of one molecule, which the test part may get, and a library that is not the row sum."""
    X = simulate_counts(n=80, G=50, n_types=2, depth=150, rng=np.random.default_rng(0)).X.toarray()
    X[:, :20] = 0
    X[np.arange(20), np.arange(20)] = 1
    return as_data(X, kind="counts", library_size=X.sum(1) + 50.0)


@pytest.fixture(scope="module")
def split(data):
    thinned = make_split("thin", data, rng=np.random.default_rng(11), fraction=0.1)
    assert (np.bincount(thinned.train.X.indices, minlength=50) == 0).any()
    return benchmark_split(thinned)


def test_genes_without_training_molecules_are_left_out(split, data):
    seen = split.train.X.toarray().sum(axis=0) > 0
    assert seen.all()
    assert split.train.shape == split.test.shape
    assert split.train.shape[0] == data.shape[0]
    assert split.train.shape[1] < data.shape[1]
    assert list(split.train.var_names) == [name for name in data.var_names if name in set(split.train.var_names)]
    assert split.ratio == pytest.approx(split.test.sum() / split.train.X.sum())
    np.testing.assert_array_equal(split.train.depth, split.train.X.toarray().sum(axis=1))


def test_the_split_takes_a_tenth_of_the_molecules_and_shares_none():
    X = sp.csr_array(np.full((40, 30), 20.0, dtype=np.float32))
    split = benchmark_split(make_split("thin", as_data(X, kind="counts"), rng=np.random.default_rng(0), fraction=0.1))
    np.testing.assert_array_equal(split.train.X.toarray() + split.test.toarray(), X.toarray())
    assert split.test.sum() / X.sum() == pytest.approx(0.1, abs=0.01)


def test_no_molecules_are_an_error():
    data = as_data(np.zeros((3, 2)), kind="counts")
    split = make_split("thin", as_data(np.eye(3, 2), kind="counts"), rng=np.random.default_rng(0), fraction=0.1)
    with pytest.raises(InputError, check=has_code("nothing-to-score")):
        benchmark_split(type(split)("thin", data, test=split.test))


@pytest.mark.parametrize("block", [1, 2**20])
def test_scores_by_blocks_are_the_dense_ones(split, monkeypatch, block):
    monkeypatch.setattr("imputome.evaluation.streaming.VALUES_PER_BLOCK", block)
    result = create("poisson_nmf", {"n_components": 3}).fit_transform(split.train)
    denoised = result.to_array(keep_observed=False, scale="counts").astype(np.float64)
    test, train_total = split.test.toarray().astype(np.float64), float(split.train.X.sum())
    scores = score_thinned(result, split, metrics=SCORES)
    assert scores[PUBLISHED] == pytest.approx(published_poisson(test, denoised, train_total), rel=1e-9)
    assert scores["open_problems_mse"] == pytest.approx(published_mse(test, denoised), rel=1e-9)
    scaled = denoised * test.sum() / train_total
    assert scores[CORRECTED] == pytest.approx(np.mean(scaled - test * np.log(scaled + 1e-6)), rel=1e-9)
    assert not set(SCORES) & set(score_thinned(result, split))  # only where they are asked for


def test_the_perfect_control_is_the_test_part(split):
    scores = score_thinned(perfect_denoising(split), split, metrics=SCORES)
    test = split.test.toarray().astype(np.float64)
    assert scores[PUBLISHED] == pytest.approx(published_poisson(test, test, split.train.X.sum()))
    assert scores["open_problems_mse"] == pytest.approx(0.0, abs=1e-12)
    # a ninth of it, like every output: the test part at its own depth would be better
    assert metrics.open_problems_poisson_corrected(truth=test, prediction=test) < scores[CORRECTED]


# --- the study and the command ---


def test_rows_and_ranks_of_a_study(data):
    table = run_study(Dataset("made", data), ["poisson_nmf:n_components=3"], trials=2, protocol="open_problems")
    assert set(table["status"]) == {"ok"}
    assert set(table["metric"]) == set(SCORES)
    assert set(table["method"]) == {*standard_controls("counts"), PERFECT, "poisson_nmf"}
    assert set(table["scheme"]) == {"thin (open_problems)"}
    seed = seed_for("made", "thin", 0.1, 1)
    split = benchmark_split(make_split("thin", data, rng=np.random.default_rng(seed), fraction=0.1))
    test, train = split.test.toarray().astype(np.float64), split.train.X.toarray()
    rows = table[(table["trial"] == 1) & (table["metric"] == PUBLISHED)].set_index("method")["value"]
    assert rows["no_imputation"] == pytest.approx(published_poisson(test, train, train.sum()))
    assert rows["all_zeros"] == pytest.approx(test.mean())
    assert is_control(PERFECT)
    means = summary(table)
    for metric, part in means.groupby("metric"):
        order = part.sort_values("rank")
        assert order["rank"].tolist() == list(range(1, len(part) + 1))
        assert order["mean"].is_monotonic_increasing
        # all zeros can win the others, so that nobody is the best there
        assert order["best"].tolist() == [metrics.METRICS[metric].is_contest] + [False] * (len(part) - 1)
    losses = means[means["loses_to"] != ""]
    assert set(losses["metric"]) <= {CORRECTED}  # to lose to all zeros as published says nothing
    assert PERFECT not in set(losses["loses_to"])


def test_equal_scores_share_the_better_rank():
    row = {"dataset": "d", "scheme": "s", "options": "{}", "fraction": 0.1, "parameters": "{}", "status": "ok"}
    values = {"a": 2.0, "b": 1.0, "c": 2.0, "d": 3.0, "e": np.nan}
    rows = [row | {"method": name, "metric": "mse", "value": value, "trial": 0} for name, value in values.items()]
    rows += [{**each, "metric": "iterations"} for each in rows]
    from imputome.studies.results import table_of

    means = summary(table_of(rows)).set_index(["metric", "method"])["rank"]
    assert means["mse"].to_dict() == {"a": 2, "b": 1, "c": 2, "d": 4, "e": 5}
    assert set(means["iterations"]) == {0}


@pytest.fixture
def folder(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    ad.AnnData(sp.csr_matrix(data.X)).write_h5ad("counts.h5ad")
    return tmp_path


def test_the_command_shows_both_numbers_and_all_ranks(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    line = ["evaluate", "counts.h5ad", "--methods", "poisson_nmf+posterior", "-o", "out.csv"]
    assert run([*line, "--protocol", "open_problems"]) == 0
    shown = capsys.readouterr().out.splitlines()
    header = next(text for text in shown if text.startswith("method"))
    assert header.split() == ["method", *["lower"] * 3, "seconds"]
    above = " ".join(shown[1 : shown.index(header)]).split()  # long names are on two lines
    assert sorted(above) == sorted(["open_problems_"] * 2 + ["poisson", "poisson_corrected", "open_problems_mse"])
    means = summary(read(folder / "out.csv"))
    assert len(means) == 3 * (len(standard_controls("counts")) + 2)
    for (method, control), rows in means.groupby(["method", "control"]):
        label = f"{method} (control)" if control else method
        cells = next(text for text in shown if text.startswith(f"{label}  "))
        for row in rows.to_dict("records"):
            assert f"{number(row['mean'], 4)} ({row['rank']})" in cells
    assert run([*line, "--protocol", "open_problems", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["summary"]
    assert {row["rank"] for row in rows if row["method"] == PERFECT and row["metric"] == "open_problems_mse"} == {1}
    # results of the honest protocol go beside them, and neither is taken for the other
    assert run([*line, "-q"]) == 0
    assert set(read(folder / "out.csv")["scheme"]) == {"thin", "thin (open_problems)"}


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--scheme", "random"], "protocol-scheme", "--scheme thin"),
        (["--fraction", "0.2"], "protocol-fraction", "--fraction"),
        (["--fraction", "0.1,0.2"], "protocol-fraction", "--fraction"),
        (["--downstream", "de", "--label", "kind"], "protocol-downstream", "--downstream"),
    ],
)
def test_what_the_benchmark_does_otherwise_is_refused(folder, capsys, options, code, said):
    line = ["evaluate", "counts.h5ad", "--methods", "gene_mean", "-o", "out.csv", "--protocol", "open_problems"]
    refused(capsys, run([*line, *options]), code, said)
    assert not (folder / "out.csv").exists()


def test_real_values_are_refused():
    real = Dataset("real", as_data(np.random.default_rng(0).normal(size=(20, 5)), kind="real"))
    with pytest.raises(InputError, check=has_code("scheme-of-other-kind")):
        run_study(real, ["mean"], protocol="open_problems")


def test_the_page_has_the_tables_of_the_results():
    root = Path(__file__).parents[2]
    made = subprocess.run(
        [sys.executable, "benchmarks/open_problems.py"], cwd=root, capture_output=True, text=True, check=True
    )
    tables = [line for line in made.stdout.splitlines() if line.startswith(("|", "`"))]
    page = (root / "docs" / "open_problems.md").read_text(encoding="utf-8")
    assert len(tables) > 10
    assert "\n".join(tables) in page.replace("\n\n", "\n")


def test_thinning_is_molecular_cross_validation():
    """Their split draws binomial(counts, 0.9) for the training part, and the rest is the test part: ours does too."""
    X = sp.csr_array(np.random.default_rng(0).poisson(3.0, (400, 50)).astype(np.float32))
    kept, rest = thin(X, 0.9, np.random.default_rng(1))
    np.testing.assert_array_equal((kept + rest).toarray(), X.toarray())
    for count in (1, 3, 6):
        share = kept.toarray()[X.toarray() == count]
        assert share.mean() / count == pytest.approx(0.9, abs=0.02)
        assert share.var() == pytest.approx(count * 0.09, rel=0.15)  # binomial
