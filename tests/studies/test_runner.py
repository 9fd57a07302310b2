"""The runner: rows, controls, failures as rows, interruptions; trials of real values with one fit for all splits."""

from __future__ import annotations

import dataclasses
import itertools
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import rankdata, spearmanr

import imputome
from codes import has_code
from imputome.cli import run
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.clinical import cox_univariate
from imputome.evaluation.metrics import METRICS
from imputome.evaluation.simulate import simulate_counts
from imputome.evaluation.splits import make_split, row_split, seed_for
from imputome.evaluation.streaming import Units, score_thinned
from imputome.methods import get, info, names
from imputome.report.study_page import write_results
from imputome.studies import runner
from imputome.studies.execute import execute
from imputome.studies.inputs import Dataset, MethodSpec, parse_method, standard_controls
from imputome.studies.results import COLUMNS, Journal, read, summary
from imputome.studies.runner import Tables, coverage_like, options_of, read_gc, run_study, run_trial
from imputome.studies.spec import Comparison, Configuration, Hiding, Published, Study, Subset
from imputome.studies.subsets import load_subset


@pytest.fixture(scope="module")
def dataset():
    simulation = simulate_counts(n=90, G=60, n_types=2, depth=600, rng=np.random.default_rng(0))
    labels = simulation.cell_type.astype(str)
    return Dataset("made", as_data(simulation.X, kind="counts"), labels)


def test_rows_are_what_the_pieces_give(dataset):
    table = run_study(dataset, ["poisson_nmf:n_components=3"], trials=2, seed=5)
    assert tuple(table.columns) == COLUMNS
    assert set(table["method"]) == {*standard_controls("counts"), "poisson_nmf"}
    assert set(table["status"]) == {"ok"}
    for trial in range(2):
        seed = seed_for("made", "thin", 0.1, trial, base=5)
        split = make_split("thin", dataset.data, rng=np.random.default_rng(seed), fraction=0.1)
        result = get("poisson_nmf")(n_components=3, random_state=seed % 2**31).fit_transform(split.train)
        expected = score_thinned(result, split)
        rows = table[table["parameters"].str.contains("n_components") & (table["trial"] == trial)].set_index("metric")
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
    original = runner.impute_split

    def counted(spec, split, seed, link):
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(spec.label)
        return original(spec, split, seed, link)

    monkeypatch.setattr(runner, "impute_split", counted)
    with pytest.raises(KeyboardInterrupt):
        run_study(dataset, ["gene_mean"], trials=2, output=output)
    assert not output.exists()
    journal = Journal(output)
    with journal.path.open("a") as stream:
        stream.write('[{"dataset": "toy", ')  # killed while it wrote a line
    computed.clear()
    monkeypatch.setattr(runner, "impute_split", lambda *a: computed.append(a[0].label) or original(*a))
    table = run_study(dataset, ["gene_mean"], trials=2, output=output)
    each = len(standard_controls("counts"))
    assert len(computed) == 2 * each - 3
    assert not journal.path.exists()
    whole = run_study(dataset, ["gene_mean"], trials=2)
    keys = ["method", "trial", "metric"]
    for one in (table, read(output)):
        left, right = (t.sort_values(keys).reset_index(drop=True) for t in (one, whole))
        assert (left[keys] == right[keys]).all(axis=None)
        np.testing.assert_allclose(left["value"].astype(float), right["value"].astype(float))
    computed.clear()
    run_study(dataset, ["gene_mean"], trials=3, output=output)
    assert len(computed) == each


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
    assert set(table["status"]) == {"ok"}
    honest = run_study(dataset, ["ialm:normalization=null"], scheme="random")
    assert not set(honest["value"]) >= set(table["value"])


@pytest.mark.parametrize("method", [name for name in names() if "counts" in info(name).kinds])
def test_every_method_runs_under_the_published_protocol(dataset, method):
    cls = get(method)
    params = {"max_epochs": 1} if "max_epochs" in cls.parameter_defaults() else {}
    table = run_study(dataset, [MethodSpec(method, params)], scheme="random", protocol="as_published")
    assert set(table[table["method"] == method]["status"]) == {"ok"}


def test_real_values_with_row_split():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 20)) + 0.1 * rng.standard_normal((60, 20))
    data = as_data(X, kind="real")
    table = run_study(Dataset("real", data), ["ialm"], scheme="mcar", trials=2)
    assert set(table["method"]) == {*standard_controls("real"), "ialm"}
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
    ("options", "code"),
    [
        ({"methods": ["ialm:rank"]}, "method-setting"),
        ({"methods": ["mean"]}, "method-kind"),
        ({"scheme": "hide_and_seek"}, "unknown-scheme"),
        ({"downstream": ["tea"]}, "parameter-value"),
        ({"protocol": "loose"}, "parameter-value"),
        ({"protocol": "as_published"}, "protocol-scheme"),
        ({"scale": "log1p"}, "scale-scheme"),
        ({"trials": 0}, "parameter-value"),
        ({"seed": -1}, "parameter-value"),
    ],
)
def test_what_cannot_be_run(dataset, options, code):
    with pytest.raises(InputError, check=has_code(code)):
        run_study(dataset, **{"methods": ["ialm"], **options})


@pytest.mark.parametrize(
    ("method", "fault"), [("nope", "nope"), ("ialm:rank=3", "rank"), ("ialm:max_rank=five", "five")]
)
def test_unknown_methods_and_parameters(dataset, method, fault):
    with pytest.raises(InputError, match=fault):
        run_study(dataset, [method])


def test_downstream_needs_labels(dataset):
    with pytest.raises(InputError, check=has_code("labels-needed")):
        run_study(Dataset("made", dataset.data), ["gene_mean"], downstream=["clustering"])


def test_parse_method():
    spec = parse_method("ialm:max_rank=5:normalization=null:zeros=preserve")
    assert spec.params == {"max_rank": 5, "normalization": None, "zeros": "preserve"}
    assert parse_method("gene_mean+posterior").label == "gene_mean+posterior"


class Halves(get("mean")):
    """A method from outside the package."""

    info = dataclasses.replace(get("mean").info, name="halves", control=False)

    def __init__(self, *, share: float = 0.5, random_state: int = 0):
        self.share = share
        self.random_state = random_state


def test_classes_and_estimators_are_methods():
    knn = get("knn")
    assert MethodSpec(knn) == MethodSpec("knn")
    assert MethodSpec(knn(n_neighbors=3)) == MethodSpec("knn", {"n_neighbors": 3})
    assert MethodSpec(knn(n_neighbors=3), {"n_neighbors": 4}).parameters == '{"n_neighbors": 4}'
    spec = MethodSpec(Halves(share=0.25))
    assert (spec.method, spec.label, spec.parameters) == (Halves, "halves", '{"share": 0.25}')

    class Other(Halves):
        info = dataclasses.replace(Halves.info, name="knn")

    assert MethodSpec(Other).label != "knn"  # or it would share rows of results with the method of that name
    data = as_data(np.random.default_rng(0).standard_normal((30, 6)), kind="real")
    table = run_study(Dataset("real", data), [Halves, knn(n_neighbors=3), "knn:n_neighbors=3"], scheme="mcar")
    assert set(table["status"]) == {"ok"}
    assert set(table["method"]) == {*standard_controls("real"), "halves", "knn"}
    assert not table.duplicated(["method", "metric"]).any()
    with pytest.raises(InputError, match="part"):
        run_study(Dataset("real", data), [MethodSpec(Halves, {"part": 1})], scheme="mcar")


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
    assert run([*line, "-o", str(output)]) == 1
    assert " [option-unused]" in capsys.readouterr().err
    assert run([*line[:-2], "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "(control)" in printed
    assert "poisson_loss" in printed


def test_command_line_refuses(dataset, tmp_path, capsys):
    adata = ad.AnnData(sp.csr_matrix(dataset.data.X))
    adata.write_h5ad(tmp_path / "made.h5ad")
    line = ["evaluate", str(tmp_path / "made.h5ad"), "--methods", "gene_mean"]
    assert run([*line, "-o", str(tmp_path / "out.txt")]) == 1
    assert "out.txt" in capsys.readouterr().err
    assert run([*line, "-o", str(tmp_path / "out.csv"), "--labels", "type"]) == 1
    assert "'type'" in capsys.readouterr().err


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
    scores = summary(again)
    assert scores["best"].groupby(scores["metric"]).sum().gt(0).to_dict() == {
        name: METRICS[name].is_contest for name in scores["metric"].unique()
    }


def test_downstream_of_a_row_split():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((80, 3)) @ rng.standard_normal((3, 20))
    labels = (X[:, 0] > 0).astype(str)
    named = Dataset("real", as_data(X, kind="real"), labels)
    table = run_study(named, ["ialm"], scheme="mcar", downstream=["clustering"])
    assert set(table["status"]) == {"ok"}
    assert "ari" in set(table["metric"])


def test_controls_for_counts_are_refused_for_real_values():
    real = Dataset("real", as_data(np.random.default_rng(0).standard_normal((20, 5)), kind="real"))
    with pytest.raises(InputError, check=has_code("method-kind")):
        run_study(real, ["all_zeros"], scheme="mcar")
    with pytest.raises(InputError, check=has_code("downstream-kind")):
        run_study(Dataset("real", real.data, np.array(["a", "b"] * 10)), ["mean"], scheme="mcar", downstream=["de"])


def test_leiden_beside_kmeans(dataset):
    pytest.importorskip("igraph")
    table = run_study(dataset, ["gene_mean"], downstream=["clustering", "leiden"]).set_index(["method", "metric"])
    scores = table.loc["no_imputation"]["value"]
    assert scores["leiden_ari"] <= 1
    assert {"ari", "leiden_ari", "leiden_ami", "leiden_nmi"} <= set(scores.index)


# -- trials of real values ---------------------------------------------------------------------------------------------
N, G = 60, 12
GENES = [f"gene{j}" for j in range(G)]
SPLITS = (
    Hiding("mcar", 0.1, "zscore", name="10 %"),
    Hiding("mcar", 0.3, "zscore", name="30 %"),
    Hiding("features", 0.2, "zscore"),
    Hiding("high_gc", 0.5, "zscore", options={"top": 0.25}),
    Hiding("low_values", 0.5, "zscore", options={"quantile": 0.2}),
    Hiding("low_coverage", 0.5, "zscore", coverage="reads"),
)
TABLES = Tables({gene: float(j) for j, gene in enumerate(GENES)}, {"reads": np.array([[1, 9], [2, 3], [30, 40]])})


def made_adata():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(N, 2))
    X = (latent @ rng.normal(size=(2, G)) + rng.normal(size=(N, G))) * rng.uniform(0.5, 20, G) + rng.normal(0, 50, G)
    adata = ad.AnnData(X.astype(np.float64))
    adata.obs_names = [f"patient{i}" for i in range(N)]
    adata.var_names = GENES
    grades = np.array(["G2", "G3", "G4"])[np.digitize(latent[:, 0], [-0.5, 0.5])]
    adata.obs["grade"] = pd.Categorical(np.where(np.arange(N) % 9 == 0, None, grades))
    adata.obs["months"] = rng.exponential(np.exp(latent[:, 1]))
    adata.obs["dead"] = (rng.random(N) < 0.7).astype(float)
    adata.obs["type"] = np.where(np.arange(N) < 15, "rare", "common")
    return adata


def load(name):
    if name == "reads":
        return pd.DataFrame({"pos": [1, 2, 3], "Cov.a": [1, 2, 30], "Cov.b": [9, 3, 40]})
    return made_adata()


SUBSET = Subset("made", labels="type", clinical={"grade": "grade", "time": "months", "event": "dead"})
DATASET = load_subset(SUBSET, load, seed=0)
VALUES = DATASET.data.X


def rows_of_trial(trial, seed=0):
    """(training rows, test rows) of a trial, drawn again here."""
    rng = np.random.default_rng(seed_for("made", "rows", trial, base=seed))
    return row_split(N, rng, labels=DATASET.labels)


def values(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table.set_index(["trial", "scheme"])["value"]


@pytest.fixture
def seen(monkeypatch):
    """What ``mean`` was fitted on, and what its fitted estimators were given, by their identity."""
    calls = {"fit": [], "apply": []}
    cls = get("mean")
    fit, apply = cls._fit, cls._new_rows

    def fitted(self, data):
        if type(self) is cls:  # the median inherits it
            calls["fit"].append(data)
        return fit(self, data)

    def applied(self, data):
        if type(self) is cls:
            calls["apply"].append((id(self), data))
        return apply(self, data)

    monkeypatch.setattr(cls, "_fit", fitted)
    monkeypatch.setattr(cls, "_new_rows", applied)
    return calls


# -- units -------------------------------------------------------------------------------------------------------------
def test_units_are_of_the_training_rows():
    train, test = rows_of_trial(0)
    units = Units(DATASET.data.subset(rows=train))
    np.testing.assert_allclose(
        units.of(VALUES[test]), (VALUES[test] - VALUES[train].mean(axis=0)) / VALUES[train].std(axis=0)
    )
    flat = units.of(VALUES[test][[0, 1], [3, 5]], np.array([3, 5]))
    np.testing.assert_allclose(flat, units.of(VALUES[test])[[0, 1], [3, 5]])
    constant = Units(as_data(np.array([[1.0, 2.0], [1.0, 4.0]]), kind="real"))
    np.testing.assert_array_equal(constant.of(np.array([[4.0, 3.0]])), [[3.0, 0.0]])


def test_scores_by_hand():
    # the mean of a feature is 0 in its units, so that the errors are those of the true z-scores
    table = run_trial(DATASET, [], SPLITS, trial=3, tables=TABLES)
    train, test = rows_of_trial(3)
    z = (VALUES[test] - VALUES[train].mean(axis=0)) / VALUES[train].std(axis=0)
    hidden = values(table, method="mean", metric="rmse")
    whole = Hiding("mcar", 0.999, "zscore", name="nearly all")
    everything = run_trial(DATASET, [], [whole], trial=3)
    number = round(0.999 * z.size)
    rmse, mae = (values(everything, method="mean", metric=name).iloc[0] for name in ("rmse", "mae"))
    assert rmse**2 * number == pytest.approx((z**2).sum(), abs=(z**2).max() * (z.size - number) + 1e-9)
    assert mae * number == pytest.approx(np.abs(z).sum(), abs=np.abs(z).max() * (z.size - number) + 1e-9)
    # two whole features: one pair of columns gives exactly this
    pairs = [np.sqrt((z[:, list(pair)] ** 2).mean()) for pair in itertools.combinations(range(G), 2)]
    assert np.isclose(pairs, hidden[3, "features"]).sum() == 1
    # test rows do not move the units: what is added to them moves every error by as much
    moved = VALUES.copy()
    moved[test] += 1000 * VALUES[train].std(axis=0)
    shifted = dataclasses.replace(DATASET, data=dataclasses.replace(DATASET.data, X=moved))
    far = run_trial(shifted, [], [SPLITS[0]], trial=3)
    assert values(far, method="mean", metric="mae").iloc[0] == pytest.approx(1000, abs=3)


# -- rows and fits -----------------------------------------------------------------------------------------------------
def test_one_fit_for_all_splits_and_the_same_rows(seen):
    for trial in (0, 1):
        run_trial(DATASET, [], SPLITS, trial=trial, tables=TABLES)
    assert len(seen["fit"]) == 2
    for trial in (0, 1):
        train, test = rows_of_trial(trial)
        assert list(seen["fit"][trial].obs_names) == [f"patient{i}" for i in train]
        np.testing.assert_array_equal(seen["fit"][trial].X, VALUES[train])  # complete
        # besides the rows that it was fitted on
        applied = [(who, data) for who, data in seen["apply"] if data.shape[0] == len(test)]
        applied = applied[trial * len(SPLITS) : (trial + 1) * len(SPLITS)]
        assert len({who for who, _ in applied}) == 1
        for _, data in applied:
            assert list(data.obs_names) == [f"patient{i}" for i in test]
            known = ~np.isnan(data.X)
            np.testing.assert_array_equal(data.X[known], VALUES[test][known])
            assert 0 < (~known).sum() < known.size
        gaps = [np.isnan(data.X) for _, data in applied]
        assert gaps[0].sum() == round(0.1 * gaps[0].size)
        assert gaps[1].sum() == round(0.3 * gaps[1].size)
        assert sorted(gaps[2].sum(axis=0)) == [0] * 10 + [len(test)] * 2
        assert not gaps[3][:, :-3].any()  # the last three have the highest GC content
        z = (VALUES - VALUES.mean(axis=0)) / VALUES.std(axis=0)
        assert (z[test][gaps[4]] < np.quantile(z, 0.2)).all()
        assert DATASET.labels is not None
        assert (DATASET.labels[test] == "rare").sum() == 3  # a quarter of 12


def test_what_is_kept_and_what_is_computed_again(tmp_path, seen):
    output = tmp_path / "rows.csv"
    first = run_trial(DATASET, [], SPLITS[:2], trial=0, output=output)
    assert len(seen["fit"]) == 1
    again = run_trial(DATASET, [], SPLITS[:2], trial=0, output=output)
    assert len(seen["fit"]) == 1
    assert (
        values(again, method="mean", metric="rmse").to_dict() == values(first, method="mean", metric="rmse").to_dict()
    )
    more = run_trial(DATASET, [], SPLITS[:3], trial=0, output=output)
    assert len(seen["fit"]) == 2
    assert set(more["scheme"]) == {"10 %", "30 %", "features"}
    alone = run_trial(DATASET, [], SPLITS[2:3], trial=0)  # a split is the same, whatever stands beside it
    at = {"method": "random", "metric": "rmse", "scheme": "features"}
    assert values(more, **at).to_dict() == values(alone, **at).to_dict()


def test_a_failure_is_a_row(monkeypatch):
    monkeypatch.setattr(get("median"), "_new_rows", lambda self, data: 1 / 0)
    table = run_trial(DATASET, [MethodSpec("median")], SPLITS[:2], trial=0)
    failed = table[table["status"] == "failed"]
    assert list(failed["scheme"]) == ["10 %", "30 %"]
    assert set(failed["reason"]) == {"ZeroDivisionError: division by zero"}
    monkeypatch.setattr(get("mean"), "_fit", lambda self, data: 1 / 0)
    table = run_trial(DATASET, [], SPLITS[:2], trial=0)
    assert (table[table["method"] == "mean"]["status"] == "failed").all()
    assert (table[table["method"] == "random"]["status"] == "ok").all()


def test_data_that_will_not_do():
    gaps = VALUES.copy()
    gaps[3, 4] = np.nan
    with pytest.raises(InputError, check=has_code("data-not-complete")):
        run_trial(Dataset("made", as_data(gaps, kind="real")), [], SPLITS[:1], trial=0)
    twins = dataclasses.replace(DATASET.data, obs_names=pd.Index(["same"] * N))
    with pytest.raises(InputError, check=has_code("names-not-unique")):
        run_trial(Dataset("made", twins), [], SPLITS[:1], trial=0)


# -- clinical ----------------------------------------------------------------------------------------------------------
def test_concordance_with_grade_by_hand(monkeypatch):
    kept = {}
    cls = get("mean")
    apply = cls._new_rows
    monkeypatch.setattr(cls, "_new_rows", lambda self, data: apply(self, kept.setdefault(len(data.X), data)))
    split = Hiding("low_values", 0.5, "zscore", options={"quantile": 0.1})
    table = run_trial(DATASET, [], [split], trial=1)
    train, test = rows_of_trial(1)
    gaps = np.isnan(kept[len(test)].X)
    genes = np.flatnonzero(gaps.any(axis=0))
    assert 2 < len(genes) < G  # so that it matters which are looked at
    graded = made_adata().obs["grade"].astype(object).to_numpy()[test]
    there = pd.notna(graded)
    grade = rankdata(graded[there])
    filled = np.where(gaps, VALUES[train].mean(axis=0), VALUES[test])
    truth, found = ([spearmanr(part[there, j], grade).statistic for j in genes] for part in (VALUES[test], filled))
    pairs = list(itertools.combinations(range(len(genes)), 2))
    agree = [np.sign(truth[a] - truth[b]) == np.sign(found[a] - found[b]) for a, b in pairs]
    scores = table[table["method"] == "mean"].set_index("metric")["value"]
    assert scores["spearman_concordance"] == pytest.approx(np.mean(agree))
    time, event = (made_adata().obs[name].to_numpy()[test] for name in ("months", "dead"))
    sd = VALUES[train].std(axis=0)
    truth, found = (
        cox_univariate(values=(part / sd)[:, genes], time=time, event=event).coef for part in (VALUES[test], filled)
    )
    agree = [np.sign(truth[a] - truth[b]) == np.sign(found[a] - found[b]) for a, b in pairs]
    assert scores["cox_concordance"] == pytest.approx(np.mean(agree))


def test_no_clinical_columns_no_concordance():
    table = run_trial(dataclasses.replace(DATASET, clinical={}), [], SPLITS[:1], trial=0)
    assert not table["metric"].str.contains("concordance").any()


# -- what goes in ------------------------------------------------------------------------------------------------------
def test_subsets_of_real_values():
    subset = dataclasses.replace(SUBSET, transform="asinh", max_features=5, max_cells=30)
    dataset = load_subset(subset, load, seed=0)
    assert dataset.name == "made (at most 30 cells, at most 5 features)"
    adata = made_adata()
    rows, columns = adata.obs_names.get_indexer(dataset.data.obs_names), [int(n[4:]) for n in dataset.data.var_names]
    assert dataset.data.X.shape == (30, 5)
    np.testing.assert_allclose(dataset.data.X, np.arcsinh(adata.X[np.ix_(rows, columns)]))
    assert dataset.labels is not None
    assert list(dataset.labels) == list(adata.obs["type"].iloc[rows])
    np.testing.assert_array_equal(dataset.clinical["time"], adata.obs["months"].iloc[rows])
    expected = [{"G2": 0, "G3": 1, "G4": 2}.get(grade, np.nan) for grade in adata.obs["grade"].iloc[rows]]
    np.testing.assert_array_equal(dataset.clinical["grade"], expected)
    with pytest.raises(InputError, check=has_code("no-obs-column")):
        load_subset(Subset("made", clinical={"grade": "stage"}), load, seed=0)


def test_made_coverage_keeps_sites_together():
    reads = np.array([[1, 2, 3], [10, 20, 30], [100, 200, 300]])
    made = coverage_like(reads, (200, 50), np.random.default_rng(0))
    sites = [set(row) for row in reads.tolist()]
    assert all(set(column) in sites for column in made.T.tolist())  # 200 draws of 3 show all of them
    share = [np.isin(made, row).mean() for row in reads]
    np.testing.assert_allclose(share, 1 / 3, atol=0.25)
    np.testing.assert_array_equal(made, coverage_like(reads, (200, 50), np.random.default_rng(0)))


def test_gc_table(tmp_path):
    path = tmp_path / "gc.csv"
    path.write_text("gene,gc\na,0.5\nb,40\n")
    assert read_gc(str(path)) == {"a": 0.5, "b": 40.0}
    for text in ("gene,gc\na,high\n", "gene\na\n"):
        path.write_text(text)
        with pytest.raises(InputError, check=has_code("gc-file")):
            read_gc(str(path))
    with pytest.raises(InputError, check=has_code("gc-file-missing")):
        read_gc(str(tmp_path / "none.csv"))


def test_options_tell_splits_apart():
    gc = [options_of(SPLITS[3], Tables({"a": value})) for value in (0.1, 0.2)]
    assert len({*gc, *(options_of(split, TABLES) for split in SPLITS)}) == len(SPLITS) + 2
    # where else a split is used says nothing of what it hides
    split = dataclasses.replace(SPLITS[0], datasets=("made",))
    assert options_of(split, TABLES) == options_of(SPLITS[0], TABLES)


# -- whole studies -----------------------------------------------------------------------------------------------------
STUDY = Study(
    "made",
    "a made study",
    (SUBSET,),
    SPLITS,
    (Configuration("base", MethodSpec("median")), Configuration("same", MethodSpec("median"))),
    comparisons=(Comparison("base", ("mean", "random")),),
    published=(
        Published("Table 9", "rmse", "made", {"Ours": "base", "Mean": "mean"}, {"10 %": {"Mean": "0.9 ± 0.1"}}),
    ),
    shown=("rmse", "mae"),
    spread="interval",
    trials=3,
)


def test_a_study_from_end_to_end(tmp_path, seen):
    table = execute(STUDY, tmp_path, load=load)
    assert len(seen["fit"]) == 3
    assert set(table["status"]) == {"ok", "skipped"}
    skipped = table[table["status"] == "skipped"].to_dict("records")
    assert [(row["scheme"], row["dataset"]) for row in skipped] == [("high_gc", "made")]
    written = write_results(STUDY, table, tmp_path)
    text = written.text
    assert "tests.csv" in {path.name for path in written.files}
    assert "Skipped: high_gc on made: " in text
    rmse = values(table, method="mean", metric="rmse").xs("10 %", level="scheme")
    half = 4.302653 * rmse.std() / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert f"| 10 % | {values(table, method='median', metric='rmse').xs('10 %', level='scheme').mean():.4g}" in text
    assert f"{rmse.mean():.4g} ± {half:.1g} (0.9 ± 0.1) |" in text
    # a GC table that comes later costs fits, and leaves the other rows as they are
    path = tmp_path / "gc.csv"
    path.write_text("gene,gc\n" + "".join(f"{gene},{value}\n" for gene, value in TABLES.gc.items()))
    with_gc = execute(dataclasses.replace(STUDY, gc=str(path)), tmp_path, load=load)
    assert len(seen["fit"]) == 6
    assert set(with_gc["status"]) == {"ok"}
    assert set(with_gc["scheme"]) == {split.label for split in SPLITS}
    old = values(table[table["status"] == "ok"], method="median", metric="rmse")
    assert values(with_gc, method="median", metric="rmse")[old.index].to_dict() == old.to_dict()
    # and what the study no longer asks for is not in its table
    less = execute(dataclasses.replace(STUDY, splits=SPLITS[1:2], published=()), tmp_path, load=load)
    assert set(less["scheme"]) == {"30 %"}
    assert len(seen["fit"]) == 6


def test_splits_meant_for_other_datasets(tmp_path):
    splits = (SPLITS[0], dataclasses.replace(SPLITS[2], datasets=("second",)))
    study = dataclasses.replace(STUDY, datasets=(SUBSET, Subset("second")), splits=splits, trials=1, published=())
    table = execute(study, tmp_path, load=load)
    found = table.groupby("dataset")["scheme"].agg(set).to_dict()
    assert found == {"made": {"10 %"}, "second": {"10 %", "features"}}
