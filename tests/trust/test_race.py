"""The race: who wins, who is left out and why, and what its sample is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse as sp

from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.methods import get
from imputome.trust import race as module
from imputome.trust.null import permute_genes
from imputome.trust.race import CANDIDATES, Candidate, make, run_race, sample_of

FACTORS = Candidate("factors", "poisson_nmf", {"n_components": 3, "posterior": True})
POOR = Candidate("poor", "random")


def counts(n=300, G=80, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    rate = rng.gamma(2.0, 1.0, G) * np.where(np.arange(G) % 6 == kind[:, None], 5.0, 1.0)
    return as_data(sp.csr_array(rng.poisson(rate).astype(np.float32)), kind="counts")


def race(data, candidates=(FACTORS, POOR), **options):
    options = {"seconds": 60, "seconds_after": 60, "rng": np.random.default_rng(0), **options}
    return run_race(data, candidates=candidates, **options)


def outcomes(result):
    return dict(zip(result.candidates["name"], result.candidates["outcome"], strict=True))


def test_the_best_wins_and_the_poor_are_run_once():
    result = race(counts())
    assert result.winner == FACTORS.name
    table = result.candidates.set_index("name")
    scores = table["score"]
    assert scores[result.control] == scores[table["control"]].min()
    assert result.gain == pytest.approx(1 - scores["factors"] / scores[result.control])
    assert result.gain > 0
    assert list(result.candidates["score"]) == sorted(result.candidates["score"])
    assert table.loc["factors", "splits"] == 2
    assert table.loc["poor", "splits"] == 1
    assert table.loc["poor", "outcome"] == "lost"
    assert json.loads(table.loc["factors", "parameters"]) == FACTORS.params


def test_on_permuted_genes_a_control_wins():
    result = race(permute_genes(counts(), np.random.default_rng(1)))
    assert result.winner == "gene_mean_posterior"
    assert result.gain == 0


def test_real_values():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 30)) + 0.3 * rng.standard_normal((200, 30))
    result = race(as_data(X, kind="real"), [Candidate("svd", "svd"), Candidate("knn", "knn")])
    assert result.metric == "rmse"
    assert result.winner in ("svd", "knn")
    assert result.gain > 0.3


def test_splits_that_differ_more_than_methods_do_not_decide():
    """A few values far out make one split hard for everybody; who was run on it alone is not worse for that."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 30)) + 0.3 * rng.standard_normal((200, 30))
    X[rng.integers(200, size=5), rng.integers(30, size=5)] = 300.0
    for seed in range(4):
        result = race(
            as_data(X, kind="real"),
            [Candidate("svd", "svd"), Candidate("far off", "random")],
            rng=np.random.default_rng(seed),
            link="asinh",
        )
        table = result.candidates.set_index("name")
        assert result.winner == "svd"
        assert table.loc["far off", "splits"] == 1
        assert table.loc["far off", "score"] > table.loc["mean", "score"] * 1.1  # draws: sqrt(2) of the mean's


def test_no_time_leaves_candidates_out_and_runs_the_controls():
    result = race(counts(), seconds=1e-9)
    assert result.winner == result.control
    assert outcomes(result)["factors"] not in ("won", "lost")
    splits = result.candidates.set_index("name")["splits"]
    assert (splits["factors"], splits["gene_mean"]) == (0, 2)


def test_a_fit_that_goes_on_too_long_is_ended(monkeypatch):
    slow = Candidate("slow", "ialm", {"max_iter": 100_000, "tol": 1e-12})
    real = module._timer
    # as if all time were gone once it has begun
    monkeypatch.setattr(module, "_timer", lambda calls, seconds: real(calls, 0.0 if np.isfinite(seconds) else seconds))
    result = race(counts(), (slow,))
    assert outcomes(result)["slow"] not in ("won", "lost")
    assert result.candidates.set_index("name").loc["slow", "splits"] == 0


def test_what_would_take_too_long_on_all_data_does_not_win():
    result = race(counts(), seconds=20, seconds_after=-19.9999)
    assert result.winner != "factors"
    assert outcomes(result)["factors"] not in ("won", "lost")
    assert result.candidates.set_index("name").loc["factors", "splits"] == 2


class Clock:
    """A clock that stands still unless it is moved."""

    now = 0.0

    def perf_counter(self):
        return self.now


class Paced(get("poisson_nmf")):
    """Factors; a fit takes ten epochs of one length, and the posterior step ten more, whatever the size of the data."""

    clock, seconds = Clock(), 1.0  # of an epoch

    def _fit(self, data):
        for epoch in range(10):
            self.clock.now += self.seconds
            if self.progress is not None:
                self.progress(epoch / 500, f"epoch {epoch}")
        self.progress = None
        return super()._fit(data)


PACED = Candidate("paced", Paced, {"n_components": 3, "posterior": True})


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(module, "time", clock := Clock())
    monkeypatch.setattr(Paced, "clock", clock)
    return clock


def test_a_slow_machine_chooses_the_same_winner_and_says_when_time_decided(clock, monkeypatch):
    data = counts()
    chosen = []
    for seconds in (0.01, 1.0, 1e4):
        monkeypatch.setattr(Paced, "seconds", seconds)
        result = race(data, [PACED, POOR], seconds=200, seconds_after=200)
        chosen.append((result.winner, result.out_of_time))
    assert chosen == [("paced", ()), ("paced", ()), (result.control, ("paced", "poor"))]


@pytest.mark.parametrize(("seconds", "wins"), [(0.1, True), (1.5, True), (12.0, False)])
def test_a_trial_on_all_data_corrects_the_estimate(clock, monkeypatch, seconds, wins):
    """By the size of the data, the fit to all would take 300 s; the trial shows the true 20 epochs of ``seconds``."""
    real = module._trial

    def trial(*arguments):
        monkeypatch.setattr(Paced, "seconds", seconds)  # of all data
        return real(*arguments)

    monkeypatch.setattr(module, "_trial", trial)
    result = race(counts(n=1000), [PACED], max_cells=100, seconds=50, seconds_after=50)
    assert (result.winner == "paced") == wins
    assert (result.out_of_time == ()) == wins
    if wins:
        assert result.seconds_for_all == pytest.approx(20 * seconds)


def test_a_candidate_that_fails_says_why():
    result = race(counts(), (Candidate("broken", "poisson_nmf", {"n_components": 0}), FACTORS))
    assert result.winner == FACTORS.name
    assert "n_components=0" in outcomes(result)["broken"]


def test_the_sample_has_the_genes_with_most_molecules():
    data = counts()
    sample = sample_of(data, np.random.default_rng(0), max_cells=50, max_genes=20)
    assert sample.shape == (50, 20)
    kept = data.var_names.get_indexer(sample.var_names)
    assert data.gene_totals[kept].min() >= np.delete(data.gene_totals, kept).max()
    assert list(kept) == sorted(kept)


def test_candidates_exist_and_take_their_parameters():
    for kind, candidates in CANDIDATES.items():
        names = [one.name for one in candidates]
        assert len(names) == len(set(names))
        for one in candidates:
            assert kind in make(one, 0).info.kinds
            assert set(one.params) <= set(get(one.method).parameter_defaults())


def test_too_little_to_hold_out_is_refused():
    with pytest.raises(InputError):
        race(counts(n=10))
    logged = counts()
    logged.X.data[:] = np.log1p(logged.X.data)
    with pytest.raises(InputError):
        race(logged)


def test_candidates_may_be_classes_and_estimators():
    result = race(counts(), [get("poisson_nmf")(n_components=3, posterior=True), get("ialm")])
    table = result.candidates.set_index("name")
    assert result.winner == "poisson_nmf+posterior (n_components=3)"
    assert table.loc[result.winner, "method"] == "poisson_nmf"
    assert json.loads(table.loc[result.winner, "parameters"]) == {"n_components": 3, "posterior": True}
