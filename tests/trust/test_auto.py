"""`check=True` and `method="auto"` of `imputome.impute`, and what the command line makes of them."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import imputome
from codes import has_code, warns
from imputome import methods
from imputome.cli import run
from imputome.core.data import as_data
from imputome.errors import ControlsWinError, InputError
from imputome.methods import get
from imputome.result.adapt import inspect_layer
from imputome.trust.auto import affordable, choose
from imputome.trust.check import check, check_state, control_estimators, cost
from imputome.trust.race import CANDIDATES, Candidate

FACTORS = Candidate("factors", "poisson_nmf", {"n_components": 3, "posterior": True})


@pytest.fixture(autouse=True)
def quick_candidates(monkeypatch):
    monkeypatch.setitem(CANDIDATES, "counts", (FACTORS, Candidate("poor", "random")))
    monkeypatch.setitem(CANDIDATES, "real", (Candidate("svd", "svd"),))


def structured(n=400, G=80, seed=0):
    """Bursting counts of three types of cells."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    rate = 3 * rng.gamma(2.0, 1.0, G) * np.where(np.arange(G) % 6 == kind[:, None], 5.0, 1.0)
    X = rng.poisson(rate * rng.gamma(2.0, 0.5, rate.shape)).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(X))
    adata.obs["type"] = [f"type {k}" for k in kind]
    adata.obs["one"] = "same"
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.var_names = [f"gene{j}" for j in range(G)]
    return adata


def unstructured(n=300, G=60, seed=0):
    rng = np.random.default_rng(seed)
    adata = structured(n, G, seed)
    adata.X = sp.csr_matrix(rng.permuted(adata.X.toarray(), axis=0))
    return adata


# --- the check ------------------------------------------------------------------------------------------------------
def test_the_verdict_stands_in_the_record():
    adata = structured()
    imputome.impute(
        adata, method="poisson_nmf", posterior=True, params={"n_components": 3}, check=True, labels=["type"]
    )
    verdict = adata.uns["imputome"]["poisson_nmf_posterior"]["verdict"]
    assert verdict["verdict"] == "use"
    assert set(verdict["scores"]["method"]) == {"poisson_nmf_posterior", *methods.controls("counts")}
    assert set(verdict["scores"].loc[verdict["scores"]["control"], "method"]) == set(methods.controls("counts"))
    assert list(verdict["genes"].index) == list(adata.var_names)
    assert set(verdict["mixing"]["type"].index) == {"type 0", "type 1", "type 2"}
    assert verdict["seed"] == 0


def test_without_a_check_there_is_no_verdict():
    adata = structured()
    imputome.impute(adata, method="gene_mean")
    assert "verdict" not in adata.uns["imputome"]["gene_mean"]


def test_the_check_leaves_the_values_as_they_are():
    one, other = structured(), structured()
    imputome.impute(one, method="poisson_nmf", check=True)
    imputome.impute(other, method="poisson_nmf")
    np.testing.assert_array_equal(one.layers["poisson_nmf"], other.layers["poisson_nmf"])


def test_the_same_seed_gives_the_same_verdict_and_another_seed_other_splits():
    data = as_data(structured().X, kind="counts")
    estimator = get("poisson_nmf")(n_components=3, posterior=True)
    first, again, other = (check(data, estimator, seed=seed, n_splits=1) for seed in (1, 1, 2))
    assert first.scores.equals(again.scores)
    assert not first.scores.equals(other.scores)


def test_the_checked_method_is_fitted_as_it_will_be():
    data = as_data(structured().X, kind="counts")
    plain = check(data, get("poisson_nmf")(n_components=3), n_splits=1).scores
    better = check(data, get("poisson_nmf")(n_components=3, posterior=True), n_splits=1).scores
    loss = [
        table[(table["method"] == name) & (table["metric"] == "poisson_deviance")]["value"].item()
        for name, table in (("this imputation", plain), ("poisson_nmf_posterior", better))
    ]
    assert loss[1] < loss[0]


def test_real_values_are_checked_on_the_link_they_are_imputed_on():
    rng = np.random.default_rng(0)
    X = np.sinh(rng.standard_normal((150, 3)) @ rng.standard_normal((3, 40)) + 0.2 * rng.standard_normal((150, 40)))
    X[rng.random(X.shape) < 0.05] = np.nan
    adata = ad.AnnData(X)
    with pytest.warns(UserWarning, match="asinh"):
        imputome.impute(adata, method="svd", check=True)
    with_link = adata.uns["imputome"]["svd"]["verdict"]["figures"]["gain_over_mean"]
    imputome.impute(adata, method="svd", transform="none", check=True, key_added="plain")
    assert with_link > adata.uns["imputome"]["plain"]["verdict"]["figures"]["gain_over_mean"] + 0.05
    assert "zeros_before" not in adata.uns["imputome"]["svd"]["verdict"]["genes"]


@pytest.mark.parametrize(
    ("labels", "code"),
    [(["kind"], "no-obs-column"), (["one"], "too-few-labels"), ("each", "too-many-labels")],
)
def test_labels_that_cannot_be_checked(labels, code):
    adata = structured()
    adata.obs["each"] = np.arange(400.0)
    with pytest.raises(InputError, check=has_code(code)):
        imputome.impute(adata, method="gene_mean", check=True, labels=labels)


def test_logged_counts_cannot_be_checked():
    adata = structured()
    adata.X = sp.csr_matrix(np.log1p(1e4 * adata.X.toarray() / adata.X.sum(axis=1)))
    with pytest.raises(InputError, check=has_code("not-integers")):
        imputome.impute(adata, method="gene_mean", scale="log1p", check=True)
    with pytest.raises(InputError, check=has_code("not-integers")):
        check_state(inspect_layer(adata, None))


def test_too_few_cells_are_refused_before_the_work():
    adata = structured(n=15)
    for options in ({"method": "gene_mean", "check": True}, {"method": "auto"}):
        with pytest.raises(InputError):
            imputome.impute(adata, **options)
    assert not adata.layers


def test_the_cost_holds_the_numbers():
    adata = structured(n=2500, G=20)
    sentence = cost(inspect_layer(adata, None), get("gene_mean")())
    for part in ("gene_mean 5 ", f" {len(methods.controls('counts'))} ", " 2,000 of 2,500 cells"):
        assert part in sentence


def test_controls_are_seeded():
    assert control_estimators("counts", 7)["poisson_nmf"].random_state == 7


# --- auto -----------------------------------------------------------------------------------------------------------
def test_auto_takes_the_winner_and_says_why():
    adata = structured()
    imputome.impute(adata, method="auto", budget=2, labels=["type"])
    (key,) = adata.uns["imputome"]
    record = adata.uns["imputome"][key]
    assert key == "poisson_nmf_posterior"
    assert json.loads(record["params"])["n_components"] == 3
    assert record["verdict"]["verdict"] == "use"
    assert record["race"]["winner"] == "factors"
    assert record["race"]["budget_minutes"] == 2
    np.testing.assert_array_equal(
        adata.layers[key],
        get("poisson_nmf")(n_components=3, posterior=True).fit_transform(as_data(adata.X, kind="counts")).to_array(),
    )


def test_auto_writes_nothing_where_nothing_beats_the_controls():
    adata = unstructured()
    with pytest.raises(ControlsWinError, check=has_code("controls-win")):
        imputome.impute(adata, method="auto", budget=2)
    assert not adata.layers
    assert "imputome" not in adata.uns


def test_auto_with_consent_writes_the_control():
    adata = unstructured()
    imputome.impute(adata, method="auto", budget=2, accept_control=True)
    (key,) = adata.uns["imputome"]
    assert key == adata.uns["imputome"][key]["race"]["winner"] == "gene_mean_posterior"


def test_a_winner_with_the_verdict_not_to_impute_writes_nothing(monkeypatch):
    def unfavourable(*args, **options):
        return replace(check(*args, **options), verdict="do not impute")

    monkeypatch.setattr("imputome.trust.auto.check", unfavourable)
    adata = structured()
    with pytest.raises(ControlsWinError, check=has_code("verdict-do-not-impute")) as error:
        imputome.impute(adata, method="auto", budget=2)
    assert error.value.record["race"].winner == "factors"
    assert error.value.record["verdict"].verdict == "do not impute"
    assert not adata.layers
    imputome.impute(adata, method="auto", budget=2, accept_control=True)
    assert list(adata.layers) == ["gene_mean_posterior"]
    record = adata.uns["imputome"]["gene_mean_posterior"]
    assert "verdict" not in record  # it was on another method
    assert record["race"]["instead"]


def test_a_better_method_that_takes_too_long_is_named(monkeypatch):
    monkeypatch.setattr("imputome.trust.race.FINAL_FIT_SHARE", 1e-9)
    with pytest.raises(ControlsWinError, check=has_code("budget-too-small")):
        imputome.impute(structured(), method="auto", budget=2)


def test_auto_for_real_values():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 3)) @ rng.standard_normal((3, 40)) + 0.2 * rng.standard_normal((150, 40))
    X[rng.random(X.shape) < 0.05] = np.nan
    chosen = choose(as_data(X, kind="real"), budget=1)
    assert chosen.estimator.name == "svd"
    assert chosen.verdict.verdict == "use"


def test_no_time_is_said_to_be_no_time():
    with pytest.raises(ControlsWinError, check=has_code("budget-too-small")):
        imputome.impute(structured(), method="auto", budget=1e-6)


def test_it_is_said_that_time_decided_until_there_is_more():
    adata = structured()
    with warns("time-decided") as caught:
        imputome.impute(adata, method="auto", budget=1e-6, accept_control=True)
    options = [warning.message.args[0].options for warning in caught if hasattr(warning.message.args[0], "options")]
    assert {"budget": ...} in options
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        imputome.impute(adata, method="auto", budget=2, accept_control=True)
    assert "time-decided" not in [getattr(warning.message.args[0], "code", "") for warning in caught]


@pytest.mark.parametrize("budget", [0, -1, np.nan, np.inf, "ten"])
def test_budget_is_a_positive_number(budget):
    with pytest.raises(InputError, check=has_code("parameter-value")):
        imputome.impute(structured(), method="auto", budget=budget)


@pytest.mark.parametrize(
    "given",
    [
        {"labels": ["type"]},
        {"labels": "nothing", "check": True},
        {"labels": "each", "check": True},
        {"labels": ["type"], "method": "auto", "check": False},
        {"accept_control": True},
        {"budget": 3.0},
        {"method": "auto", "genes": ["nobody"]},
        {"method": "auto", "key_added": "taken"},
    ],
)
def test_what_would_be_ignored_or_refused_later_is_refused_at_once(monkeypatch, given):
    adata = structured()
    adata.layers["taken"] = adata.X
    adata.obs["each"] = np.arange(400.0)
    monkeypatch.setattr("imputome.trust.auto.run_race", None)
    monkeypatch.setattr("imputome.trust.check.gather", None)
    with pytest.raises(InputError):
        imputome.impute(adata, **{"method": "gene_mean", **given})


def test_heavy_tailed_noise_is_not_imputed():
    """The mean of such values is far from the mean of their arcsinh, on which errors are measured."""
    rng = np.random.default_rng(0)
    X = np.exp(2 * rng.standard_normal((100, 60)))
    X[rng.random(X.shape) < 0.08] = np.nan
    adata = ad.AnnData(X)
    imputome.impute(adata, method="svd", transform="asinh", check=True)
    assert adata.uns["imputome"]["svd"]["verdict"]["verdict"] == "do not impute"
    with pytest.raises(ControlsWinError, check=has_code("controls-win")):
        imputome.impute(ad.AnnData(X), method="auto", transform="asinh", budget=1)


def test_what_is_checked_is_what_is_written():
    """Where the method's own values replace those observed, it is these whose correlations count in the null."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 30))
    X[rng.random(X.shape) < 0.1] = np.nan
    adata = ad.AnnData(X)
    excess = []
    for replaced in (False, True):
        options = {"keep_observed": not replaced, "key_added": f"key{replaced}", "params": {"rank": 3}}
        imputome.impute(adata, method="svd", check=True, transform="none", **options)
        excess.append(adata.uns["imputome"][f"key{replaced}"]["verdict"]["figures"]["null_excess"])
    assert excess[1] > excess[0] + 0.1


@pytest.mark.parametrize("given", [{"params": {"a": 1}}, {"posterior": False}, {"outputs": ["variance"]}])
def test_what_belongs_to_one_method_is_refused(given):
    with pytest.raises(InputError):
        imputome.impute(structured(), method="auto", **given)


def test_a_check_within_the_time_left():
    class Race:
        seconds_for_all = 100.0
        seconds_for_controls = 0.0

    class Dear(Race):
        seconds_for_controls = 50.0

    data = as_data(sp.csr_array(np.ones((1000, 10), np.float32)), kind="counts")
    assert affordable(500.0, data, Race) == (3, 1000)
    assert affordable(499.0, data, Race) == (2, 1000)
    assert affordable(300.0, data, Race) == (1, 1000)
    splits, cells = affordable(150.0, data, Race)
    assert (splits, cells) == (1, 500)
    assert affordable(-5.0, data, Race) == (1, 200)
    assert affordable(649.0, data, Dear) == (2, 1000)
    assert affordable(650.0, data, Dear) == (3, 1000)


# --- the command line -----------------------------------------------------------------------------------------------
@pytest.fixture
def source(tmp_path):
    structured().write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def test_check_on_the_command_line(source, tmp_path, capsys):
    out = tmp_path / "out.h5ad"
    options = ["--check", "--label", "type", "-m", "poisson_nmf", "--set", "n_components=3", "--posterior"]
    assert run(["impute", str(source), "-o", str(out), *options]) == 0
    printed = capsys.readouterr()
    assert "poisson_nmf" in printed.err  # what the check costs
    assert "poisson_nmf_posterior: USE (400 cells" in printed.out
    assert ad.read_h5ad(out).uns["imputome"]["poisson_nmf_posterior"]["verdict"]["verdict"] == "use"


def test_auto_on_the_command_line(source, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert run(["impute", str(source), "-o", str(out), "-m", "auto", "--budget", "2"]) == 0
    printed = capsys.readouterr()
    assert "2 minutes" in printed.err
    assert "factors: won" in printed.out
    assert "poisson_nmf_posterior: USE" in printed.out


def test_report_beside_the_result(source, tmp_path, capsys):
    out, page = tmp_path / "out.csv", tmp_path / "page.html"
    command = ["impute", str(source), "-o", str(out), "-m", "gene_mean_posterior", "--report", str(page)]
    assert run([*command, "--label", "type"]) == 0
    assert f"report: {page}" in capsys.readouterr().out
    assert "gene_mean_posterior" in page.read_text(encoding="utf-8")
    out.unlink()
    assert run(command) == 1  # the page is there already
    assert not out.exists()


def test_json_has_the_verdict_without_its_tables(source, tmp_path, capsys):
    out = tmp_path / "out.h5ad"
    assert run(["impute", str(source), "-o", str(out), "-m", "auto", "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)  # NaN is no JSON
    assert summary["verdict"]["figures"]["separation_change"] is None
    assert summary["verdict"]["verdict"] == "use"
    assert summary["verdict"]["figures"]["explained"] > 0.002
    assert "genes" not in summary["verdict"]
    assert summary["race"]["candidates"][0]["outcome"] == "won"


def test_controls_win_with_exit_code_3(tmp_path, capsys):
    unstructured().write_h5ad(tmp_path / "in.h5ad")
    out = tmp_path / "out.h5ad"
    command = ["impute", str(tmp_path / "in.h5ad"), "-o", str(out), "-m", "auto", "--budget", "2"]
    assert run(command) == 3
    printed = capsys.readouterr()
    assert "[controls-win]" in printed.err
    assert "gene_mean_posterior (control): won" in printed.out
    assert run([*command, "--json", "--quiet"]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["output"] is None
    assert summary["race"]["winner"] == "gene_mean_posterior"
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]
    page = tmp_path / "page.html"
    assert run([*command, "--accept-control", "--report", str(page)]) == 0
    assert "gene_mean_posterior" in ad.read_h5ad(out).layers
    assert page.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["-m", "auto", "--set", "n_components=3"],
        ["-m", "auto", "--draws", "3"],
        ["-m", "gene_mean", "--accept-control"],
        ["-m", "gene_mean", "--check", "--label", "colour"],
        ["-m", "auto", "--budget", "0"],
        ["-m", "gene_mean", "--budget", "3"],
        ["-m", "gene_mean", "--label", "type"],
        ["-m", "auto", "--genes", "nobody"],
    ],
)
def test_what_does_not_go_together(source, tmp_path, options):
    assert run(["impute", str(source), "-o", str(tmp_path / "out.h5ad"), *options]) in (1, 2)
    assert not (tmp_path / "out.h5ad").exists()


def test_labels_may_come_with_the_samples(source, tmp_path):
    adata = ad.read_h5ad(source)
    (tmp_path / "samples.csv").write_text(
        "cell,batch\n" + "".join(f"{name},{k % 2}\n" for k, name in enumerate(adata.obs_names))
    )
    out = tmp_path / "out.h5ad"
    options = ["--samples", str(tmp_path / "samples.csv"), "--check", "--label", "batch", "-m", "gene_mean"]
    assert run(["impute", str(source), "-o", str(out), *options]) == 0
    mixing = ad.read_h5ad(out).uns["imputome"]["gene_mean"]["verdict"]["mixing"]["batch"]  # numbers as labels
    assert sorted(mixing.index) == ["0", "1"]
