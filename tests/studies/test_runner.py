"""The runner: tidy rows, controls always there, failures as rows, interrupted studies going on."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import imputome
from imputome.cli import run
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.simulate import simulate_counts
from imputome.evaluation.splits import make_split, seed_for
from imputome.evaluation.streaming import score_thinned
from imputome.methods import get
from imputome.studies import runner
from imputome.studies.results import COLUMNS, Journal, read, summary
from imputome.studies.runner import Dataset, parse_method, run_study


@pytest.fixture(scope="module")
def dataset():
    simulation = simulate_counts(n=90, G=60, n_types=2, depth=600, rng=np.random.default_rng(0))
    labels = simulation.cell_type.astype(str)
    return Dataset("made", as_data(simulation.X, kind="counts"), labels)


def test_rows_are_what_the_pieces_give(dataset):
    table = run_study(dataset, ["poisson_nmf:n_components=3"], trials=2, seed=5)
    assert tuple(table.columns) == COLUMNS
    assert set(table["method"]) == {"all_zeros", "no_imputation", "gene_mean", "gene_mean_posterior", "poisson_nmf"}
    assert set(table["status"]) == {"ok"}
    for trial in range(2):
        seed = seed_for("made", "thin", 0.1, trial, base=5)
        split = make_split("thin", dataset.data, rng=np.random.default_rng(seed), fraction=0.1)
        result = get("poisson_nmf")(n_components=3, random_state=seed % 2**31).fit_transform(split.train)
        expected = score_thinned(result, split)
        rows = table[(table["method"] == "poisson_nmf") & (table["trial"] == trial)].set_index("metric")
        assert rows["seed"].unique().tolist() == [seed]
        for metric, value in expected.items():
            assert rows.loc[metric, "value"] == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert (rows["seconds"] > 0).all()
        assert (rows["peak_bytes"] > 2**20).all()


def test_trials_differ_and_repeat(dataset):
    first = run_study(dataset, ["gene_mean"], trials=2)
    again = run_study(dataset, ["gene_mean"], trials=2)
    np.testing.assert_array_equal(first["value"], again["value"])
    loss = first[(first["method"] == "gene_mean") & (first["metric"] == "poisson_loss")]["value"]
    assert loss.nunique() == 2


def test_a_failing_method_is_a_row_with_its_reason(dataset, monkeypatch):
    def broken(self, data):
        raise ZeroDivisionError("the pump broke")

    monkeypatch.setattr(get("poisson_nmf"), "_fit", broken)
    table = run_study(dataset, ["poisson_nmf", "ialm:max_rank=3"])
    failed = table[table["method"] == "poisson_nmf"]
    assert failed["status"].tolist() == ["failed"]
    assert "the pump broke" in failed["reason"].iloc[0]
    assert (table[table["method"] == "ialm"]["status"] == "ok").all()
    assert table[table["method"] == "ialm"]["reason"].str.contains("max_rank=3").all()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
def test_an_interrupted_study_goes_on(dataset, tmp_path, monkeypatch, suffix):
    output = tmp_path / f"out{suffix}"
    computed = []
    original = runner._impute

    def counted(spec, split, seed):
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(spec.label)
        return original(spec, split, seed)

    monkeypatch.setattr(runner, "_impute", counted)
    with pytest.raises(KeyboardInterrupt):
        run_study(dataset, ["gene_mean"], trials=2, output=output)
    assert not output.exists()
    journal = Journal(output)
    with journal.path.open("a") as stream:
        stream.write('[{"half": ')  # killed while it wrote a line
    computed.clear()
    monkeypatch.setattr(runner, "_impute", lambda *a: computed.append(a[0].label) or original(*a))
    table = run_study(dataset, ["gene_mean"], trials=2, output=output)
    assert len(computed) == 2 * 4 - 3
    assert not journal.path.exists()
    whole = run_study(dataset, ["gene_mean"], trials=2)
    keys = ["method", "trial", "metric"]
    for one in (table, read(output)):
        left, right = (t.sort_values(keys).reset_index(drop=True) for t in (one, whole))
        assert (left[keys] == right[keys]).all(axis=None)
        np.testing.assert_allclose(left["value"].astype(float), right["value"].astype(float))
    computed.clear()
    run_study(dataset, ["gene_mean"], trials=3, output=output)
    assert len(computed) == 4


def test_hidden_entries_and_downstream(dataset):
    table = run_study(
        dataset, ["ialm:max_rank=3"], scheme="random", fraction=[0.1, 0.3], downstream=("clustering", "de")
    )
    assert set(table["fraction"]) == {0.1, 0.3}
    metrics = set(table[table["method"] == "ialm"]["metric"])
    assert {"mse", "mae", "pearson", "cosine", "ari", "ami", "nmi", "precision", "recall", "tnr"} <= metrics


def test_published_protocol_is_labelled_leaky(dataset):
    table = run_study(dataset, ["ialm:normalization=null"], scheme="random", protocol="as_published")
    assert set(table["scheme"]) == {"random (leaky)"}
    posterior = table[table["method"] == "gene_mean_posterior"]
    assert posterior["status"].tolist() == ["failed"]
    assert "raw counts" in posterior["reason"].iloc[0]


def test_real_values_with_row_split():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 20)) + 0.1 * rng.standard_normal((60, 20))
    data = as_data(X, kind="real")
    table = run_study(Dataset("real", data), ["ialm"], scheme="mcar", trials=2)
    assert set(table["method"]) == {"mean", "random", "ialm"}
    scores = summary(table).set_index(["metric", "method"])
    assert scores.loc[("rmse", "ialm"), "mean"] < scores.loc[("rmse", "mean"), "mean"]
    assert scores.loc[("rmse", "ialm"), "best"]
    assert scores.loc[("rmse", "ialm"), "loses_to"] == ""


def test_summary_by_hand(dataset):
    table = run_study(dataset, ["ialm"], trials=3)
    scores = summary(table).set_index(["metric", "method"])
    for method in ("ialm", "gene_mean"):
        values = table[(table["method"] == method) & (table["metric"] == "poisson_loss")]["value"]
        row = scores.loc[("poisson_loss", method)]
        assert row["mean"] == pytest.approx(values.mean())
        assert row["sd"] == pytest.approx(values.std())
        assert row["n"] == 3
    loss = scores.loc["poisson_loss"]
    assert loss["best"].sum() == 1
    assert loss["mean"].idxmin() == loss.index[loss["best"]][0]
    assert not scores.loc[("poisson_loss", "ialm"), "control"]
    assert scores.loc[("poisson_loss", "ialm"), "loses_to"] == loss["mean"].idxmin()  # a control is best here


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"methods": ["nope"]}, "no method 'nope'"),
        ({"methods": ["ialm:rank=3"]}, "no parameter 'rank'"),
        ({"methods": ["ialm:rank"]}, "key=value"),
        ({"methods": ["mean"]}, "does not take counts"),
        ({"methods": ["ialm"], "scheme": "hide_and_seek"}, "no scheme"),
        ({"methods": ["ialm"], "downstream": ["tea"]}, "no downstream"),
        ({"methods": ["ialm"], "protocol": "loose"}, "protocol"),
        ({"methods": ["ialm"], "trials": 0}, "trials"),
    ],
)
def test_refusals(dataset, options, text):
    with pytest.raises(InputError, match=text):
        run_study(dataset, **options)


def test_downstream_needs_labels(dataset):
    with pytest.raises(InputError, match="labels"):
        run_study(Dataset("made", dataset.data), ["gene_mean"], downstream=["clustering"])


def test_parse_method():
    spec = parse_method("ialm:max_rank=5:normalization=null:zeros=preserve")
    assert spec.params == {"max_rank": 5, "normalization": None, "zeros": "preserve"}
    assert parse_method("gene_mean+posterior").label == "gene_mean+posterior"


def test_facade_and_command_line_agree(dataset, tmp_path, capsys):
    adata = ad.AnnData(sp.csr_matrix(dataset.data.X), obs={"type": dataset.labels})
    adata.write_h5ad(tmp_path / "made.h5ad")
    output = tmp_path / "out.csv"
    line = ["evaluate", str(tmp_path / "made.h5ad"), "--methods", "poisson_nmf", "--labels", "type"]
    assert run([*line, "--downstream", "clustering", "-o", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    table = read(output)
    direct = imputome.evaluate({"made": adata}, methods=["poisson_nmf"], labels="type", downstream=["clustering"])
    np.testing.assert_allclose(table["value"].astype(float), direct["value"])
    assert {row["method"] for row in told["summary"]} == set(direct["method"])
    assert run([*line, "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "(control)" in printed
    assert "poisson_loss" in printed


def test_command_line_refuses(dataset, tmp_path, capsys):
    adata = ad.AnnData(sp.csr_matrix(dataset.data.X))
    adata.write_h5ad(tmp_path / "made.h5ad")
    line = ["evaluate", str(tmp_path / "made.h5ad"), "--methods", "gene_mean"]
    assert run([*line, "-o", str(tmp_path / "out.txt")]) == 1
    assert "no table" in capsys.readouterr().err
    assert run([*line, "-o", str(tmp_path / "out.csv"), "--labels", "type"]) == 1
    assert "no column 'type'" in capsys.readouterr().err


def test_failed_methods_are_tried_again_and_settings_are_told_apart(dataset, tmp_path, monkeypatch):
    output = tmp_path / "out.csv"
    nmf = get("poisson_nmf")
    with monkeypatch.context() as broken:
        broken.setattr(nmf, "_fit", lambda self, data: 1 / 0)
        assert "failed" in set(run_study(dataset, ["poisson_nmf"], output=output)["status"])
    table = run_study(dataset, ["poisson_nmf", "poisson_nmf"], output=output)
    assert set(table["status"]) == {"ok"}
    assert not table.duplicated(["method", "metric"]).any()
    other = run_study(dataset, ["poisson_nmf"], output=output, downstream=["clustering"])
    assert "ari" in set(other["metric"])
    assert other["options"].nunique() == 2


def test_a_scheme_without_a_fraction_resumes(tmp_path):
    simulation = simulate_counts(n=60, G=40, rng=np.random.default_rng(3))
    named = Dataset("007", as_data(simulation.X, kind="counts"))
    output = tmp_path / "out.csv"
    first = run_study(named, ["gene_mean"], scheme="median", output=output)
    again = run_study(named, ["gene_mean"], scheme="median", output=output)
    assert len(first) == len(again)
    assert set(read(output)["dataset"]) == {"007"}
    assert summary(again)["best"].groupby(summary(again)["metric"]).sum().drop("total_ratio").ge(1).all()


def test_downstream_of_a_row_split():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((80, 3)) @ rng.standard_normal((3, 20))
    labels = (X[:, 0] > 0).astype(str)
    named = Dataset("real", as_data(X, kind="real"), labels)
    table = run_study(named, ["ialm"], scheme="mcar", downstream=["clustering"])
    assert set(table["status"]) == {"ok"}
    assert "ari" in set(table["metric"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"protocol": "as_published"}, "molecules cannot be split"),
        ({"methods": ["ialm:max_rank=five"]}, "max_rank='five'"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_more_refusals(dataset, options, text):
    with pytest.raises(InputError, match=text):
        run_study(dataset, **{"methods": ["ialm"], **options})


def test_controls_for_counts_are_refused_for_real_values():
    real = Dataset("real", as_data(np.random.default_rng(0).standard_normal((20, 5)), kind="real"))
    with pytest.raises(InputError, match="all_zeros does not take real"):
        run_study(real, ["all_zeros"], scheme="mcar")
    with pytest.raises(InputError, match="'de' is for counts"):
        run_study(Dataset("real", real.data, np.array(["a", "b"] * 10)), ["mean"], scheme="mcar", downstream=["de"])


def test_leiden_beside_kmeans(dataset):
    pytest.importorskip("igraph")
    table = run_study(dataset, ["gene_mean"], downstream=["clustering", "leiden"]).set_index(["method", "metric"])
    scores = table.loc["no_imputation"]["value"]
    assert scores["leiden_ari"] <= 1
    assert {"ari", "leiden_ari", "leiden_ami", "leiden_nmi"} <= set(scores.index)
