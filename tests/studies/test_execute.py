"""Running studies: subsets, units, processes, details and pruning as rows, and continuing after an interruption."""

from __future__ import annotations

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome import datasets
from imputome.errors import InputError
from imputome.methods import get
from imputome.report.study_page import write_results
from imputome.studies import runner
from imputome.studies.claims import by_configuration, markdown
from imputome.studies.execute import drawn, execute, plan
from imputome.studies.inputs import Dataset, MethodSpec, standard_controls
from imputome.studies.runner import run_study
from imputome.studies.spec import Claim, Configuration, Hiding, Study, Subset, find_study
from imputome.studies.subsets import load_subset

SMALL = Subset("pbmc68k", max_cells=60, min_cells=10)
STUDY = Study(
    "made",
    "a made study",
    (SMALL,),
    (Hiding("thin"), Hiding("random", 0.3, scale="log1p")),
    (
        Configuration("base", MethodSpec("poisson_nmf", {"n_components": 3, "max_iter": 5})),
        Configuration("the same", MethodSpec("poisson_nmf", {"n_components": 3, "max_iter": 5})),
        Configuration("six", MethodSpec("poisson_nmf", {"n_components": 6, "max_iter": 5})),
    ),
    (Claim("six factors are better", "better", "poisson_loss", ("six", "base"), control="gene_mean"),),
    controls=("nonzero_mean",),
    shown=("poisson_loss", "nrmse", "iterations"),
    trials=2,
)


def sorted_values(table):
    keys = ["scheme", "trial", "method", "parameters", "metric"]
    timing = table["metric"].str.contains("seconds")
    return table[~timing].sort_values(keys).reset_index(drop=True)[[*keys, "seed", "value"]]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, execute(STUDY, folder, load=datasets.load)


# -- subsets -----------------------------------------------------------------------------------------------------------
def test_a_subset_by_hand():
    pytest.importorskip("skmisc")
    rng = np.random.default_rng(0)
    X = rng.poisson(np.exp(rng.normal(0, 1, (80, 1)) * rng.random(30)))
    X[:, 4] = 0
    X[3:, 5] = 0
    made = ad.AnnData(sp.csr_matrix(X.astype(np.float32)))
    made.obs_names = [f"cell{i}" for i in range(80)]
    made.var_names = [f"gene{j}" for j in range(30)]
    dataset = load_subset(Subset("m", max_cells=50, min_cells=4, n_top_genes=9), lambda name: made, seed=0)
    assert dataset.name == "m (at most 50 cells, 9 variable genes)"
    assert dataset.data.shape == (50, 9)
    rows, columns = (
        made.obs_names.get_indexer(dataset.data.obs_names),
        made.var_names.get_indexer(dataset.data.var_names),
    )
    np.testing.assert_array_equal(dataset.data.X.toarray(), X[np.ix_(rows, columns)])
    np.testing.assert_array_equal(dataset.data.depth, X[rows].sum(axis=1))  # over all genes
    assert not {4, 5} & set(columns.tolist())
    again = load_subset(Subset("m", max_cells=50, min_cells=4), lambda name: made, seed=0)
    other = load_subset(Subset("m", max_cells=50, min_cells=4), lambda name: made, seed=1)
    assert list(again.data.obs_names) == list(dataset.data.obs_names) != list(other.data.obs_names)


def test_a_subset_says_which_values_it_means():
    counts = np.random.default_rng(0).poisson(3.0, (60, 12)).astype(np.float32)
    made = ad.AnnData(np.log1p(counts))
    made.var["feature_types"] = ["Gene Expression"] * 8 + ["Antibody Capture"] * 4
    made.raw = ad.AnnData(counts + 0.2, var=made.var)
    given = {"layer": "raw", "round_counts": "nearest", "feature_type": "Antibody Capture"}
    subset = Subset("m", **given)
    dataset = load_subset(subset, lambda name: made, seed=0)
    np.testing.assert_array_equal(dataset.data.X.toarray(), counts[:, 8:])
    assert dataset.name not in {Subset("m").label, Subset("m", layer="raw").label}
    real = load_subset(Subset("m", layer="raw", kind="real"), lambda name: made, seed=0)
    np.testing.assert_array_equal(real.data.X, (counts + np.float32(0.2))[:, :8])


def test_subsets_that_cannot_be():
    with pytest.raises(InputError, check=has_code("not-a-matrix")):
        load_subset(Subset("m"), lambda name: pd.DataFrame({"a": [1]}), seed=0)
    made = ad.AnnData(np.eye(5, dtype=np.float32) * 3)
    with pytest.raises(InputError, check=has_code("too-little-data")):
        load_subset(Subset("m", min_cells=2), lambda name: made, seed=0)


# -- running -----------------------------------------------------------------------------------------------------------
def test_rows_are_the_runners(done):
    _, table = done
    dataset = load_subset(SMALL, datasets.load, seed=0)
    specs = [MethodSpec("nonzero_mean"), *(configuration.spec for configuration in STUDY.configurations)]
    expected = [
        run_study(dataset, specs, scheme="thin", trials=2, details=True),
        run_study(dataset, specs, scheme="random", fraction=0.3, scale="log1p", trials=2, details=True),
    ]
    pd.testing.assert_frame_equal(sorted_values(table), sorted_values(pd.concat(expected)))
    assert set(table["dataset"]) == {"pbmc68k (at most 60 cells)"}
    few = table["parameters"].str.contains("max_iter")
    assert (table[few & (table["metric"] == "iterations")]["value"] == 5).all()


def test_processes_change_nothing(done, tmp_path):
    several = execute(dataclasses.replace(STUDY, splits=STUDY.splits[:1]), tmp_path, load=datasets.load, workers=2)
    left, right = (sorted_values(table[table["scheme"] == "thin"]) for table in (done[1], several))
    keys = [name for name in left if name != "value"]
    assert (left[keys] == right[keys]).all(axis=None)
    np.testing.assert_allclose(left["value"], right["value"], rtol=1e-5)


def test_an_error_in_the_data_is_told_before_any_work(tmp_path):
    study = dataclasses.replace(STUDY, datasets=(Subset("pbmc68k", min_cells=701),))
    with pytest.raises(InputError, check=has_code("too-little-data")):
        execute(study, tmp_path, load=datasets.load, workers=2)


def test_processes_take_registered_methods_only(tmp_path):
    class Unregistered(get("poisson_nmf")):
        info = dataclasses.replace(get("poisson_nmf").info, name="unregistered", control=False)

    study = dataclasses.replace(STUDY, configurations=(Configuration("own", MethodSpec(Unregistered)),), claims=())
    with pytest.raises(InputError, check=has_code("method-not-registered")):
        execute(study, tmp_path, load=datasets.load, workers=2)
    study = dataclasses.replace(study, trials=1, splits=STUDY.splits[:1])
    table = execute(study, tmp_path, load=datasets.load)
    assert (table[table["method"] == "unregistered"]["status"] == "ok").all()
    assert "unregistered" in set(table["method"])


def test_a_missing_dataset_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "impute_split", lambda *a: pytest.fail("it began"))
    study = dataclasses.replace(STUDY, datasets=(SMALL, Subset("nothing_of_this_name")))
    with pytest.raises(InputError, match="nothing_of_this_name"):
        execute(study, tmp_path, load=datasets.load)


def test_an_interrupted_study_goes_on(done, tmp_path, monkeypatch):
    computed = []
    original = runner.impute_split

    def counted(spec, split, seed, link):
        if len(computed) == 9:
            raise KeyboardInterrupt
        computed.append(spec.label)
        return original(spec, split, seed, link)

    monkeypatch.setattr(runner, "impute_split", counted)
    with pytest.raises(KeyboardInterrupt):
        execute(STUDY, tmp_path, load=datasets.load)
    computed.clear()
    monkeypatch.setattr(runner, "impute_split", lambda *a: computed.append(a[0].label) or original(*a))
    table = execute(STUDY, tmp_path, load=datasets.load)
    each = len(standard_controls("counts")) + 1 + 2  # a control of the study, and two different configurations
    assert len(computed) == 4 * each - 9
    pd.testing.assert_frame_equal(sorted_values(table), sorted_values(done[1]), rtol=1e-5)
    # a study that has changed takes what still holds, and nothing else
    computed.clear()
    changed = dataclasses.replace(STUDY, configurations=STUDY.configurations[:2], claims=())
    fewer = execute(changed, tmp_path, load=datasets.load)
    assert not computed
    assert not fewer["parameters"].str.contains("6").any()
    fewer_cells = dataclasses.replace(
        STUDY, datasets=(Subset("pbmc68k", max_cells=50),), splits=STUDY.splits[:1], trials=1
    )
    execute(fewer_cells, tmp_path, load=datasets.load)
    assert len(computed) == each


def test_failed_methods_stay_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(get("poisson_nmf"), "_fit", lambda self, data: 1 / 0)
    study = dataclasses.replace(STUDY, trials=1)
    table = execute(study, tmp_path, load=datasets.load)
    failed = table[table["status"] == "failed"]
    assert (failed["parameters"] != "{}").sum() == 4  # two configurations and two splits; the control fails too
    text = write_results(study, table, tmp_path).text
    assert "ZeroDivisionError" in text
    assert "six" in text


# -- details and what comes after a fit --------------------------------------------------------------------------------
def test_details_are_rows_only_where_asked_for():
    data = load_subset(SMALL, datasets.load, seed=0)
    plain = run_study(data, ["poisson_nmf:max_iter=2"])
    full = run_study(data, ["poisson_nmf:max_iter=2"], details=True)
    assert set(full["metric"]) - set(plain["metric"]) >= {"iterations", "objective"}
    assert (full["options"] != plain["options"].iloc[0]).all()


def test_pruning_is_reported():
    pytest.importorskip("torch")
    data = load_subset(SMALL, datasets.load, seed=0)
    params = {"encoder": "8-4", "max_epochs": 2, "device": "cpu"}
    specs = [MethodSpec("zipo", params, after="prune"), MethodSpec("zipo", params)]
    table = run_study(Dataset("d", data.data), specs, details=True)
    pruned = table[table["options"].str.contains("prune")].set_index("metric")["value"]
    plain = table[(table["method"] == "zipo") & ~table["options"].str.contains("prune")].set_index("metric")["value"]
    assert {"prune_sparsity", "prune_nll_before", "prune_nll_after", "mean_dropout", "library_correlation"} <= set(
        pruned.index
    )
    assert pruned["prune_nll_before"] == pytest.approx(pruned["nll_validation"])
    assert pruned["poisson_loss"] == plain["poisson_loss"]  # scored as it was before
    assert "prune_sparsity" not in plain


# -- tables ------------------------------------------------------------------------------------------------------------
def test_summary_by_hand(done):
    _, table = done
    scores = by_configuration(STUDY, table).set_index(["scheme", "metric", "configuration"])
    six = table[table["parameters"].str.contains("6") & (table["scheme"] == "thin")]
    losses = six[six["metric"] == "poisson_loss"]["value"]
    row = scores.loc[("thin", "poisson_loss", "six")]
    assert (row["mean"], row["sd"], row["n"]) == (pytest.approx(losses.mean()), pytest.approx(losses.std()), 2)
    assert (
        scores.loc[("thin", "poisson_loss", "base"), "mean"] == scores.loc[("thin", "poisson_loss", "the same"), "mean"]
    )
    assert scores.loc[("random", "nrmse", "nonzero_mean"), "control"]
    assert not scores.loc[("thin", "iterations", "six"), "best"]  # a figure, no score
    text = markdown(STUDY, table)
    assert "| base = the same (control) |" in text  # the method is one
    assert "| nonzero_mean (control) |" in text


def test_files(done):
    folder, table = done
    written = write_results(STUDY, table, folder)
    text = written.text
    assert [path.name for path in written.files] == ["results.csv", "summary.csv", "claims.csv", "made.md", "made.html"]
    assert (folder / "made.md").read_text() == text
    claims = pd.read_csv(folder / "claims.csv")
    losses = {
        name: table[
            (table["method"] == method) & table["parameters"].str.contains(part) & (table["metric"] == "poisson_loss")
        ].set_index("trial")["value"]
        for name, method, part in (("six", "poisson_nmf", "6"), ("base", "poisson_nmf", "3"))
    }
    assert claims["estimate"].tolist() == [pytest.approx((losses["base"] - losses["six"]).mean())]
    assert "six factors are better" in text


def test_quick_variant_of_the_claims_runs(tmp_path):
    pytest.importorskip("torch")
    study = find_study("zipo_claims", scale="smoke")
    table = execute(study, tmp_path, load=datasets.load)
    assert set(table["status"]) == {"ok"}
    text = write_results(study, table, tmp_path).text
    assert "| base |" in text
    assert {"mean_dropout", "total_ratio_rate", "nll_validation", "mse_validation"} <= set(table["metric"])
    (latents,) = drawn(plan(study, tmp_path, load=datasets.load))  # figure 16 of the paper
    assert list(latents.panels) == ["raw", "base (zipo)", "distribution=zinb (zipo)", "dca_paper001"]
    assert not latents.failed


# -- the study of paper 003 --------------------------------------------------------------------------------------------
BULK_METHODS = ("beta_vae", "knn", "svd", "soft_impute", "gaussian_copula")
EXPRESSION, METHYLATION = "tcga_gbmlgg_zscore_1544g", "tcga_glioma_meth_880x1205"


def test_the_experiments_of_paper_003_are_there():
    pytest.importorskip("torch")
    study = find_study("bulk_imputation", scale="full")
    assert study.trials == 10
    assert {spec.name for spec in study.specs(study.splits[0]).values()} == set(BULK_METHODS)
    expression, methylation = study.datasets
    assert (expression.name, expression.transform, methylation.name) == (EXPRESSION, "asinh", METHYLATION)
    assert expression.labels
    assert not methylation.labels
    asked = {
        subset.name: [(split.scheme, split.fraction, split.options.get("quantile")) for split in splits]
        for subset, splits in (
            (subset, dataclasses.replace(study, gc="gc.csv").splits_of(subset)) for subset in study.datasets
        )
    }
    both = [("mcar", 0.05, None), ("mcar", 0.1, None), ("mcar", 0.3, None), ("features", 0.05, None)]
    low = [("low_values", 0.5, quantile) for quantile in (0.05, 0.1, 0.2, 0.3)]
    assert asked == {
        EXPRESSION: [*both, ("high_gc", 0.5, None), *low],
        METHYLATION: [*both, ("low_coverage", 0.5, None)],
    }
    betas = {spec.params.get("beta") for spec in study.specs(study.splits[0]).values() if spec.name == "beta_vae"}
    assert betas >= {0.0, 1.0, 4.0, 10.0}
    judged = {name for claim in study.claims if claim.by == "paper" for name in claim.configurations}
    specs = study.specs(study.splits[0])
    assert {specs[name].params.get("preset") for name in judged if specs[name].name == "beta_vae"} == {"paper"}
    tables = {table.metric: table for table in study.published}
    assert set(tables) == {"spearman_concordance", "cox_concordance"}
    assert tables["spearman_concordance"].rows["entire features"]["SVD"] == "0.939 ± 0.005"
    assert all(len(figures) == 4 for table in tables.values() for figures in table.rows.values())


def test_its_quick_variant_runs(tmp_path, shared_data):
    pytest.importorskip("torch")
    study = find_study("bulk_imputation", scale="smoke")
    assert (study.trials, [subset.max_features for subset in study.datasets]) == (1, [30, 30])
    gc = pd.DataFrame({"gene": datasets.load(EXPRESSION).var_names})
    gc["gc"] = np.random.default_rng(0).random(len(gc))
    gc.to_csv(tmp_path / "gc.csv", index=False)
    study = dataclasses.replace(study, gc=str(tmp_path / "gc.csv"))
    table = execute(study, tmp_path, load=datasets.load)
    assert set(table["status"]) == {"ok"}
    text = write_results(study, table, tmp_path).text
    assert "(0.980 ± 0.001) |" in text
    assert set(table[table["dataset"].str.startswith(METHYLATION)]["scheme"]) >= {"half of coverage under 6"}
    hidden = table[(table["metric"] == "share_hidden") & (table["method"] == "mean")].set_index("scheme")["value"]
    assert 0.03 < hidden["half of coverage under 6"] < 0.12  # half of the 15 % of that genome's coverages
    assert hidden["highest GC content"] == pytest.approx(0.05, abs=0.001)
    assert {"fit_seconds", "spearman_concordance", "cox_concordance", "shift", "feature_rmse"} <= set(table["metric"])
