"""Wilcoxon tests against the enumeration of all signs, and the tables that are made for people."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from imputome.studies.study import Comparison, Configuration, Hiding, Published, Study, Subset
from scipy.stats import rankdata

from imputome.studies.claims import COLUMNS, comparisons_markdown, wilcoxon_tests
from imputome.studies.results import table_of
from imputome.studies.runner import MethodSpec
from imputome.studies.summary import half_interval, markdown, published_markdown

SPECS = {"base": MethodSpec("median"), "other": MethodSpec("ialm"), "mean": MethodSpec("mean")}
STUDY = Study(
    "made",
    "made",
    (Subset("one", max_features=3), Subset("two")),
    (Hiding("mcar", scale="zscore", name="some"), Hiding("features", scale="zscore")),
    tuple(Configuration(name, SPECS[name]) for name in ("base", "other")),
    comparisons=(Comparison("base", ("other", "mean")),),
    published=(Published("Table 1", "rmse", "one", {"Ours": "base", "Other": "other"}, {"some": {"Other": "0.5"}}),),
    shown=("rmse",),
)


def table(values, *, dataset="two", scheme="some", metric="rmse"):
    """values: name -> scores over trials."""
    rows = []
    for name, scores in values.items():
        for trial, value in enumerate(scores):
            row = {"dataset": dataset, "method": name, "parameters": "{}", "scheme": scheme, "options": "{}"}
            row["method"] = SPECS[name].label
            row |= {"fraction": 0.1, "trial": trial, "seed": trial, "metric": metric, "value": value}
            rows.append({**row, "seconds": 1.0, "peak_bytes": 0, "status": "ok", "reason": ""})
    return table_of(rows)


def by_enumeration(differences):
    """Two-sided p of the signed-rank sum: the share of all sign patterns that are at least as far from the middle."""
    ranks = rankdata(np.abs(differences))
    middle = ranks.sum() / 2
    seen = abs(ranks[differences > 0].sum() - middle)
    sums = [ranks[np.array(signs, dtype=bool)].sum() for signs in itertools.product((0, 1), repeat=len(ranks))]
    return np.mean([abs(total - middle) >= seen - 1e-9 for total in sums])


@pytest.mark.parametrize("seed", range(8))
def test_p_values(seed):
    rng = np.random.default_rng(seed)
    n = 4 + seed
    base, other = rng.normal(size=n), rng.normal(0.5, size=n)
    order = rng.permutation(n)  # trials are paired by number, in whatever order they come
    shuffled = table({"base": base, "other": other}).iloc[[*order, *(n + rng.permutation(n))]]
    found = wilcoxon_tests(STUDY, shuffled).to_dict("records")
    assert len(found) == 1
    assert found[0]["p"] == pytest.approx(by_enumeration(base - other))
    assert found[0]["difference"] == pytest.approx(np.median(base - other))
    assert (found[0]["first"], found[0]["second"], found[0]["n"]) == ("base", "other", n)


def test_ten_trials_that_agree():
    low = np.linspace(0.5, 0.6, 10)
    (row,) = wilcoxon_tests(STUDY, table({"base": low, "mean": low + np.linspace(0.1, 0.2, 10)})).to_dict("records")
    assert row["p"] == pytest.approx(2 / 2**10)
    assert row["mean_second"] - row["mean_first"] == pytest.approx(0.15)


def test_nothing_to_test():
    (same,) = wilcoxon_tests(STUDY, table({"base": [1.0, 2.0], "other": [1.0, 2.0]})).to_dict("records")
    assert same["p"] == 1
    (single,) = wilcoxon_tests(STUDY, table({"base": [1.0], "other": [2.0]})).to_dict("records")
    assert math.isnan(single["p"])
    assert not len(wilcoxon_tests(STUDY, table({"base": [1.0], "other": [2.0]}, metric="mae")))


def test_tests_for_people():
    text = comparisons_markdown(wilcoxon_tests(STUDY, table({"base": [0.5, 0.7], "other": [0.6, 0.9]})))
    lines = text.splitlines()
    assert lines[2] == f"| {' | '.join(COLUMNS)} |"
    assert lines[4] == "| two | some | rmse | base | other | 0.6 | 0.75 | -0.15 | 2 | 0.5 |"


def test_the_papers_figures_stand_beside():
    label = STUDY.datasets[0].label
    assert published_markdown(STUDY.only(["two"]), table({"base": [1.0]})) == ""  # the paper's is of the other dataset
    text = published_markdown(STUDY, table({"base": [0.5, 0.7], "other": [0.6, 0.6]}, dataset=label))
    half = half_interval(np.std([0.5, 0.7], ddof=1), 2)
    assert half == pytest.approx(12.7062 * 0.1, rel=1e-5)  # Student's t of one degree of freedom
    assert "| some | 0.6 ± 0.1 | 0.6 ± 0 (0.5) |" in text  # this study shows standard deviations


def test_order_and_headings_of_tables():
    import pandas as pd

    parts = [
        table({"base": [1.0], "mean": [2.0]}, dataset=dataset, scheme=scheme)
        for scheme in ("some", "features")
        for dataset in ("two", STUDY.datasets[0].label)
    ]
    text = markdown(STUDY, pd.concat(parts))
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    label = STUDY.datasets[0].label
    assert headings == [
        f"## {label}, some",
        f"## {label}, features, 0.1 hidden",
        "## two, some",
        "## two, features, 0.1 hidden",
    ]
    assert text.count("| base (control) | **1** |") == 4
