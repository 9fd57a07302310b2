"""Paper 003's study: what its file asks for, and that it runs from end to end on a few features of the real data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from imputome import datasets
from imputome.studies.execute import execute, write_results
from imputome.studies.spec import find_study, known_studies

pytest.importorskip("torch")
METHODS = ("beta_vae", "knn", "svd", "soft_impute", "gaussian_copula")
EXPRESSION, METHYLATION = "tcga_gbmlgg_zscore_1544g", "tcga_glioma_meth_880x1205"


def test_the_experiments_of_the_paper_are_there():
    study = find_study("bulk_imputation")
    assert study.title == known_studies()["bulk_imputation"]
    assert study.trials == 10
    assert {spec.name for spec in study.specs(study.splits[0]).values()} == set(METHODS)
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
    assert betas == {0.0, 1.0, 4.0, 10.0}
    tables = {table.metric: table for table in study.published}
    assert set(tables) == {"spearman_concordance", "cox_concordance"}
    assert tables["spearman_concordance"].rows["entire features"]["SVD"] == "0.939 ± 0.005"
    assert all(len(figures) == 4 for table in tables.values() for figures in table.rows.values())


def test_quick_variant_from_end_to_end(tmp_path, shared_data):
    study = find_study("bulk_imputation", quick=True)
    assert (study.trials, [subset.max_features for subset in study.datasets]) == (2, [30, 30])
    gc = pd.DataFrame({"gene": datasets.load(EXPRESSION).var_names})
    gc["gc"] = np.random.default_rng(0).random(len(gc))
    gc.to_csv(tmp_path / "gc.csv", index=False)
    keep = {"base", "shift", "knn", "gaussian_copula"}
    study = dataclasses.replace(
        study,
        gc=str(tmp_path / "gc.csv"),
        trials=1,
        configurations=tuple(one for one in study.configurations if one.name in keep),
        claims=tuple(claim for claim in study.claims if set(claim.configurations) <= keep),
        comparisons=tuple(one for one in study.comparisons if {one.first, *one.others} <= keep),
    )
    table = execute(study, tmp_path, load=datasets.load)
    assert set(table["status"]) == {"ok"}
    _, text = write_results(study, table, tmp_path)
    assert "(0.980 ± 0.001) |" in text
    assert set(table[table["dataset"].str.startswith(METHYLATION)]["scheme"]) >= {"half of coverage under 6"}
    hidden = table[(table["metric"] == "share_hidden") & (table["method"] == "mean")].set_index("scheme")["value"]
    assert 0.03 < hidden["half of coverage under 6"] < 0.12  # half of the 15 % of that genome's coverages
    assert hidden["highest GC content"] == pytest.approx(0.05, abs=0.001)
    assert {"fit_seconds", "spearman_concordance", "cox_concordance", "shift"} <= set(table["metric"])
