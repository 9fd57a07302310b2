"""Trials of real values: one row split, one fit, units of the training rows, clinical concordance, what is resumed."""

from __future__ import annotations

import dataclasses
import itertools

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from imputome.studies.study import Comparison, Configuration, Hiding, Published, Study, Subset
from imputome.studies.subset import load_subset
from imputome.studies.trial import Tables, coverage_like, options_of, read_gc, run_trial
from scipy.stats import rankdata, spearmanr

from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.clinical import cox_univariate
from imputome.evaluation.splits import row_split, seed_for
from imputome.evaluation.units import Units
from imputome.methods import get
from imputome.studies.execute import execute, write_results
from imputome.studies.runner import Dataset, MethodSpec

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
X = DATASET.data.X


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
    np.testing.assert_allclose(units.of(X[test]), (X[test] - X[train].mean(axis=0)) / X[train].std(axis=0))
    flat = units.of(X[test][[0, 1], [3, 5]], np.array([3, 5]))
    np.testing.assert_allclose(flat, units.of(X[test])[[0, 1], [3, 5]])
    constant = Units(as_data(np.array([[1.0, 2.0], [1.0, 4.0]]), kind="real"))
    np.testing.assert_array_equal(constant.of(np.array([[4.0, 3.0]])), [[3.0, 0.0]])


def test_scores_by_hand():
    # the mean of a feature is 0 in its units, so that the errors are those of the true z-scores
    table = run_trial(DATASET, [], SPLITS, trial=3, tables=TABLES)
    train, test = rows_of_trial(3)
    z = (X[test] - X[train].mean(axis=0)) / X[train].std(axis=0)
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
    moved = X.copy()
    moved[test] += 1000 * X[train].std(axis=0)
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
        np.testing.assert_array_equal(seen["fit"][trial].X, X[train])  # complete
        # besides the rows that it was fitted on
        applied = [(who, data) for who, data in seen["apply"] if data.shape[0] == len(test)]
        applied = applied[trial * len(SPLITS) : (trial + 1) * len(SPLITS)]
        assert len({who for who, _ in applied}) == 1
        for _, data in applied:
            assert list(data.obs_names) == [f"patient{i}" for i in test]
            known = ~np.isnan(data.X)
            np.testing.assert_array_equal(data.X[known], X[test][known])
            assert 0 < (~known).sum() < known.size
        gaps = [np.isnan(data.X) for _, data in applied]
        assert gaps[0].sum() == round(0.1 * gaps[0].size)
        assert gaps[1].sum() == round(0.3 * gaps[1].size)
        assert sorted(gaps[2].sum(axis=0)) == [0] * 10 + [len(test)] * 2
        assert not gaps[3][:, :-3].any()  # the last three have the highest GC content
        z = (X - X.mean(axis=0)) / X.std(axis=0)
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
    gaps = X.copy()
    gaps[3, 4] = np.nan
    with pytest.raises(InputError, match="complete data"):
        run_trial(Dataset("made", as_data(gaps, kind="real")), [], SPLITS[:1], trial=0)
    twins = dataclasses.replace(DATASET.data, obs_names=pd.Index(["same"] * N))
    with pytest.raises(InputError, match="not unique"):
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
    filled = np.where(gaps, X[train].mean(axis=0), X[test])
    truth, found = ([spearmanr(part[there, j], grade).statistic for j in genes] for part in (X[test], filled))
    pairs = list(itertools.combinations(range(len(genes)), 2))
    agree = [np.sign(truth[a] - truth[b]) == np.sign(found[a] - found[b]) for a, b in pairs]
    scores = table[table["method"] == "mean"].set_index("metric")["value"]
    assert scores["spearman_concordance"] == pytest.approx(np.mean(agree))
    time, event = (made_adata().obs[name].to_numpy()[test] for name in ("months", "dead"))
    sd = X[train].std(axis=0)
    truth, found = (
        cox_univariate(values=(part / sd)[:, genes], time=time, event=event).coef for part in (X[test], filled)
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
    with pytest.raises(InputError, match="no column 'stage'; columns: grade, months"):
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
        with pytest.raises(InputError, match="no CSV of two columns"):
            read_gc(str(path))
    with pytest.raises(InputError, match="no CSV of two columns"):
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
    assert "needs the GC content of the genes" in skipped[0]["reason"]
    files, text = write_results(STUDY, table, tmp_path)
    assert "tests.csv" in {path.name for path in files}
    assert "Skipped: high_gc on made: high_gc needs the GC content" in text
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
    less = execute(dataclasses.replace(STUDY, splits=SPLITS[1:2]), tmp_path, load=load)
    assert set(less["scheme"]) == {"30 %"}
    assert len(seen["fit"]) == 6


def test_splits_meant_for_other_datasets(tmp_path):
    splits = (SPLITS[0], dataclasses.replace(SPLITS[2], datasets=("second",)))
    study = dataclasses.replace(STUDY, datasets=(SUBSET, Subset("second")), splits=splits, trials=1, published=())
    table = execute(study, tmp_path, load=load)
    found = table.groupby("dataset")["scheme"].agg(set).to_dict()
    assert found == {"made": {"10 %"}, "second": {"10 %", "features"}}
