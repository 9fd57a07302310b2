"""Claims and Wilcoxon tests on tables made by hand, against scipy's own tests and enumeration; printed tables."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from markdown_it import MarkdownIt
from scipy.stats import rankdata

from imputome.studies.claims import (
    CLAIM_COLUMNS,
    TEST_COLUMNS,
    check_claims,
    claims_in_detail_markdown,
    claims_markdown,
    comparisons_markdown,
    half_interval,
    markdown,
    markdown_table,
    mean_difference,
    plain,
    published_markdown,
    table_of_tests,
)
from imputome.studies.inputs import MethodSpec
from imputome.studies.results import COLUMNS, table_of
from imputome.studies.spec import Claim, Comparison, Configuration, Hiding, Published, Study, Subset
from imputome.studies.verdicts import verdict, verdicts

A, B, C = (Configuration(name, MethodSpec("poisson_nmf", {"n_components": k})) for k, name in enumerate("ABC", start=2))


def study(*claims):
    return Study("made", "made", (Subset("one"),), (Hiding("thin"), Hiding("random")), (A, B, C), claims)


def table(metrics):
    """metrics: metric -> configuration (or control) -> values over trials."""
    specs = {configuration.name: configuration.spec for configuration in (A, B, C)}
    rows = []
    for metric, by_name in metrics.items():
        for name, values in by_name.items():
            spec = specs.get(name, MethodSpec(name))
            for trial, value in enumerate(values):
                row = {"dataset": "one", "method": spec.label, "parameters": spec.parameters, "scheme": "thin"}
                row |= {"options": "{}", "fraction": 0.1, "trial": trial, "seed": trial, "metric": metric}
                rows.append({**row, "value": value, "seconds": 1.0, "peak_bytes": 0, "status": "ok", "reason": ""})
    return table_of(rows)


def held(claim, metrics):
    rows = check_claims(study(claim), table(metrics)).to_dict("records")
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize("seed", range(40))
def test_the_interval_is_students(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.normal(), 1.0, size=rng.integers(2, 8))
    found = mean_difference(values)
    test = scipy.stats.ttest_1samp(values, 0.0)
    expected = "unclear" if test.pvalue > 0.05 else "holds" if test.statistic > 0 else "fails"
    assert found.held == expected
    assert found.estimate / found.se == pytest.approx(test.statistic)


def test_one_seed_or_none_decides_nothing():
    assert mean_difference(np.array([3.0])).held == "unclear"
    assert mean_difference(np.array([])).held == "unclear"
    assert mean_difference(np.array([1.0, np.inf])).held == "unclear"


BETTER = Claim("A over B", "better", "poisson_loss", ("A", "B"), control="gene_mean")


def test_seeds_are_mean_difference():
    # far apart between seeds, and nearly the same distance within each
    losses = {"A": [1.0, 5.0, 9.0], "B": [1.2, 5.21, 9.19], "gene_mean": [0.5, 4.5, 8.51]}
    row = held(BETTER, {"poisson_loss": losses})
    assert row["held"] == "holds"
    assert row["estimate"] == pytest.approx(0.2)
    assert row["se"] == pytest.approx(np.std([0.2, 0.21, 0.19], ddof=1) / math.sqrt(3))
    assert row["n"] == 3
    assert row["beats_control"] == "no"
    worse = held(Claim("B over A", "better", "poisson_loss", ("B", "A")), {"poisson_loss": losses})
    assert worse["held"] == "fails"


def test_the_direction_is_the_metrics():
    values = {"A": [0.9, 0.91, 0.92], "B": [0.5, 0.52, 0.51]}
    assert held(Claim("A over B", "better", "pearson", ("A", "B")), {"pearson": values})["held"] == "holds"
    assert held(Claim("A over B", "better", "nrmse", ("A", "B")), {"nrmse": values})["held"] == "fails"
    ratio = {"A": [1.01, 0.99, 1.02], "B": [0.7, 1.4, 0.6]}
    assert held(Claim("A over B", "better", "total_ratio", ("A", "B")), {"total_ratio": ratio})["held"] == "holds"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.96, 0.97], "holds"), ([0.94, 0.9], "fails"), ([0.96, 0.94], "unclear"), ([0.95], "holds")],
)
def test_at_least(values, expected):
    claim = Claim("enough", "at_least", "library_correlation", ("A",), value=0.95)
    row = held(claim, {"library_correlation": {"A": values}})
    assert row["held"] == expected
    assert row["estimate"] == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("middle", "last", "expected"),
    [
        ([0.5, 0.52, 0.51], [0.1, 0.12, 0.11], "holds"),
        ([0.95, 0.9, 0.93], [0.1, 0.12, 0.11], "holds"),  # a rise within noise
        ([1.5, 1.52, 1.51], [0.1, 0.12, 0.11], "fails"),  # a rise in every seed
        ([0.5, 0.52, 0.51], [0.95, 0.85, 0.93], "fails"),
        ([0.91, 0.89, 0.93], [0.91, 0.9, 0.92], "unclear"),  # nothing falls
    ],
)
def test_monotone(middle, last, expected):
    claim = Claim("falls", "monotone", "mean_dropout", ("A", "B", "C"))
    row = held(claim, {"mean_dropout": {"A": [0.9, 0.92, 0.91], "B": middle, "C": last}})
    assert row["held"] == expected


def test_close_is_relative():
    claim = Claim("kept", "close", "mae", ("A",), value=0.005, reference="rmse")
    assert held(claim, {"mae": {"A": [1004.0, 99.6]}, "rmse": {"A": [1000.0, 100.0]}})["held"] == "holds"
    assert held(claim, {"mae": {"A": [1006.0, 99.4]}, "rmse": {"A": [1000.0, 100.0]}})["held"] == "fails"


def test_trials_that_agree():
    losses = {"A": [1.0, 2.0, 3.0], "B": [1.5, 1.9, 3.5]}
    assert held(Claim("A over B", "better", "rmse", ("A", "B")), {"rmse": losses})["agree"] == 2
    assert held(Claim("A far over B", "better", "rmse", ("A", "B"), value=0.2), {"rmse": losses})["agree"] == 1
    assert held(Claim("A near B", "similar", "rmse", ("A", "B"), value=0.1), {"rmse": losses})["agree"] == 1
    assert held(Claim("B small", "at_least", "rmse", ("B",), value=1.9), {"rmse": losses})["agree"] == 2
    assert held(Claim("falls", "monotone", "rmse", ("B", "A")), {"rmse": losses})["agree"] == 2


def test_what_is_missing_is_said():
    row = held(BETTER, {"poisson_loss": {"A": [1.0, 2.0]}})
    assert row["held"] == "unclear"
    assert "no result of B" in row["evidence"]
    row = held(Claim("kept", "close", "mae", ("A",), reference="rmse"), {"mae": {"A": [1.0]}})
    assert "no result of A" in row["evidence"]
    assert check_claims(study(BETTER), table({"nrmse": {"A": [1.0], "B": [2.0]}})).empty


def test_collapse_is_shown():
    metrics = {"poisson_loss": {"A": [1.0, 1.0], "B": [2.0, 2.0]}}
    metrics |= {"between_cell_sd": {"A": [0.001, 0.003]}, "data_between_cell_sd": {"A": [0.5, 0.5]}}
    rows = check_claims(study(BETTER), table(metrics))
    assert rows["spread"].tolist() == [pytest.approx(0.004)]
    assert "| A over B | holds | 2 of 2 | one: 2 of 2 | A; B |" in claims_markdown(rows)
    text = claims_in_detail_markdown(rows)
    assert "| A over B | one | thin | poisson_loss | holds |" in text
    assert "0.004" in text
    assert "beats_control" not in text  # no control was run


@pytest.mark.parametrize(("flags", "expected"), [([1.0, 1.0, 0.0], "collapsed"), ([1.0, 0.0, 0.0], "holds")])
def test_a_collapsed_winner_is_none(flags, expected):
    losses = {"A": [1.0, 1.1, 1.2], "B": [2.0, 2.1, 2.21]}
    row = held(BETTER, {"poisson_loss": losses, "collapsed": {"A": flags, "B": [0.0, 0.0, 0.0]}})
    assert row["held"] == expected
    lost = {"poisson_loss": {"A": losses["B"], "B": losses["A"]}, "collapsed": {"A": flags}}
    assert held(BETTER, lost)["held"] == "fails"


def test_what_is_not_finite_decides_nothing():
    row = held(BETTER, {"poisson_loss": {"A": [1.0, 1.1], "B": [2.0, math.inf]}})
    assert row["held"] == "unclear"


def test_rows_of_other_configurations_are_left_out():
    metrics = {"poisson_loss": {"A": [1.0, 1.1], "B": [2.0, 2.1]}}
    rows = table(metrics)
    other = rows.assign(parameters=json.dumps({"n_components": 99}), value=0.0)
    both = table_of([*rows.to_dict("records"), *other.to_dict("records")])
    assert list(both.columns) == list(COLUMNS)
    assert (
        check_claims(study(BETTER), both)["evidence"].tolist() == check_claims(study(BETTER), rows)["evidence"].tolist()
    )


def test_better_by_a_share():
    a, b = np.array([0.90, 0.91, 0.92, 0.90]), np.array([1.0, 1.01, 1.0, 1.02])
    for value, expected in ((0.0, "holds"), (0.04, "holds"), (0.09, "unclear"), (0.2, "fails")):
        claim = Claim("by a share", "better", "mse", ("A", "B"), value=value)
        row = held(claim, {"mse": {"A": a, "B": b}})
        test = scipy.stats.ttest_1samp((1 - value) * b - a, 0.0)
        assert expected == ("unclear" if test.pvalue > 0.05 else "holds" if test.statistic > 0 else "fails")
        assert row["held"] == expected
        assert row["estimate"] == pytest.approx((b - a).mean())  # the whole difference, whatever is claimed of it
    assert "9.93%" in row["evidence"]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([1.001, 0.999, 1.002, 0.998], "holds"),
        ([1.03, 1.031, 1.029, 1.03], "fails"),
        ([1.019, 1.001, 1.03, 1.0], "unclear"),
        ([1.0], "unclear"),
    ],
)
def test_similar(ratios, expected):
    claim = Claim("alike", "similar", "rmse", ("A", "B"), value=0.02)
    b = np.array([0.7, 0.8, 0.75, 0.9])[: len(ratios)]
    row = held(claim, {"rmse": {"A": b * ratios, "B": b}})
    assert row["held"] == expected
    if len(ratios) > 1:
        low, high = scipy.stats.t.interval(0.95, len(ratios) - 1, np.mean(ratios) - 1, scipy.stats.sem(ratios))
        inside, outside = low >= -0.02 and high <= 0.02, low > 0.02 or high < -0.02
        assert expected == ("holds" if inside else "fails" if outside else "unclear")


def test_claims_of_some_splits_and_datasets():
    metrics = {"rmse": {"A": [1.0, 1.1], "B": [2.0, 2.3]}}
    for where in ({"splits": ("random",)}, {"datasets": ("two",)}):
        assert not len(check_claims(study(Claim("x", "better", "rmse", ("A", "B"), **where)), table(metrics)))
    here = Claim("x", "better", "rmse", ("A", "B"), splits=("thin",), datasets=("one",))
    assert held(here, metrics)["estimate"] == pytest.approx(1.1)


# -- tests and tables --------------------------------------------------------------------------------------------------
SPECS = {"base": MethodSpec("median"), "other": MethodSpec("ialm"), "mean": MethodSpec("mean")}
TABLES = Study(
    "made",
    "made",
    (Subset("one", max_features=3), Subset("two")),
    (Hiding("mcar", scale="zscore", name="some"), Hiding("features", scale="zscore")),
    tuple(Configuration(name, SPECS[name]) for name in ("base", "other")),
    comparisons=(Comparison("base", ("other", "mean")),),
    published=(Published("Table 1", "rmse", "one", {"Ours": "base", "Other": "other"}, {"some": {"Other": "0.5"}}),),
    shown=("rmse",),
)


def scores(values, *, dataset="two", scheme="some", metric="rmse"):
    """values: name -> scores over trials."""
    rows = []
    for name, by_trial in values.items():
        for trial, value in enumerate(by_trial):
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
    shuffled = scores({"base": base, "other": other}).iloc[[*order, *(n + rng.permutation(n))]]
    found = table_of_tests(TABLES, shuffled).to_dict("records")
    assert len(found) == 1
    assert found[0]["p"] == pytest.approx(by_enumeration(base - other))
    assert found[0]["difference"] == pytest.approx(np.median(base - other))
    assert (found[0]["first"], found[0]["second"], found[0]["n"]) == ("base", "other", n)


def test_ten_trials_that_agree():
    low = np.linspace(0.5, 0.6, 10)
    (row,) = table_of_tests(TABLES, scores({"base": low, "mean": low + np.linspace(0.1, 0.2, 10)})).to_dict("records")
    assert row["p"] == pytest.approx(2 / 2**10)
    assert row["mean_second"] - row["mean_first"] == pytest.approx(0.15)


def test_nothing_to_test():
    (same,) = table_of_tests(TABLES, scores({"base": [1.0, 2.0], "other": [1.0, 2.0]})).to_dict("records")
    assert same["p"] == 1
    (single,) = table_of_tests(TABLES, scores({"base": [1.0], "other": [2.0]})).to_dict("records")
    assert math.isnan(single["p"])
    assert not len(table_of_tests(TABLES, scores({"base": [1.0], "other": [2.0]}, metric="mae")))


def test_tests_for_people():
    text = comparisons_markdown(table_of_tests(TABLES, scores({"base": [0.5, 0.7], "other": [0.6, 0.9]})))
    lines = text.splitlines()
    assert lines[2] == f"| {' | '.join(TEST_COLUMNS)} |"
    assert lines[4] == "| two | some | rmse | wilcoxon | base | other | 0.6 | 0.75 | -0.15 | 2 | 0.5 |"


def test_the_papers_figures_stand_beside():
    label = TABLES.datasets[0].label
    assert (
        published_markdown(TABLES.only(["two"]), scores({"base": [1.0]})) == ""
    )  # the paper's is of the other dataset
    text = published_markdown(TABLES, scores({"base": [0.5, 0.7], "other": [0.6, 0.6]}, dataset=label))
    half = half_interval(np.std([0.5, 0.7], ddof=1), 2)
    assert half == pytest.approx(12.7062 * 0.1, rel=1e-5)  # Student's t of one degree of freedom
    assert "| some | 0.6 ± 0.1 | 0.6 ± 0 (0.5) |" in text  # this study shows standard deviations


def test_order_and_headings_of_tables():
    parts = [
        scores({"base": [1.0], "mean": [2.0]}, dataset=dataset, scheme=scheme)
        for scheme in ("some", "features")
        for dataset in ("two", TABLES.datasets[0].label)
    ]
    text = markdown(TABLES, pd.concat(parts))
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    label = TABLES.datasets[0].label
    assert headings == [
        f"## {label}, some",
        f"## {label}, features, 0.1 hidden",
        "## two, some",
        "## two, features, 0.1 hidden",
    ]
    assert text.count("| median = base (control) | **1** |") == 4


# -- names in Markdown -------------------------------------------------------------------------------------------------
NASTY = "<script>x</script> | a \\| b `c` [link](http://x) ![i](http://x) <http://x> **d** *e* &amp; \x1b[31m\n# f"
SHOWN = NASTY.replace("\x1b", "\\x1b").replace("\n", " ")


def inline_parts(text):
    """What a parser of Markdown finds in each heading, paragraph and cell: the kinds of parts, and the text."""
    blocks = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    assert not [block for block in blocks if block.type.startswith(("html", "code", "fence"))]
    cells = [block.children for block in blocks if block.type == "inline"]
    return [({part.type for part in cell}, "".join(part.content for part in cell)) for cell in cells]


def test_a_name_means_nothing_in_markdown():
    text = "\n".join(markdown_table(["", plain(NASTY)], [[plain(NASTY), "1"]]))
    assert inline_parts(text) == [(set(), ""), ({"text"}, SHOWN), ({"text"}, SHOWN), ({"text"}, "1")]


def test_names_of_a_study_mean_nothing_in_its_text():
    study = replace(
        TABLES,
        title=NASTY,
        splits=(Hiding("mcar", name=NASTY),),
        configurations=(Configuration(NASTY, MethodSpec("median")), *TABLES.configurations[1:]),
        comparisons=(Comparison(NASTY, ("other",)),),
        published=(Published(NASTY, "rmse", "two", {NASTY: NASTY}, {NASTY: {NASTY: NASTY}}),),
    )
    rows = scores({"base": [1.0, 2.0], "other": [3.0, 4.0]}, scheme=NASTY)
    failed = rows.head(1).assign(status="failed", reason=NASTY, trial=7)
    claims = pd.DataFrame([{**dict.fromkeys(CLAIM_COLUMNS, "x"), "by": "paper", "claim": NASTY, "evidence": NASTY}])
    claims = claims.assign(dataset=NASTY, configurations=NASTY, n=2, agree=1, ties=0)
    text = markdown(study, pd.concat([rows, failed])) + "\n" + published_markdown(study, rows) + "\n"
    text += comparisons_markdown(table_of_tests(study, rows)) + "\n" + claims_markdown(claims)
    text += "\n" + claims_in_detail_markdown(claims)
    assert text.count("script") >= 2 * 10
    for kinds, content in inline_parts(text):
        assert kinds <= {"text", "softbreak", "strong_open", "strong_close"} or "Bold: the best" in content
        assert content.count("script") == 2 * content.count(SHOWN)


def checked_rows(*rows):
    """(dataset, held, agree, n, ties) of one claim; no ties if they are not given."""
    rows = [(*row, 0)[:5] for row in rows]
    table = pd.DataFrame(rows, columns=["dataset", "held", "agree", "n", "ties"])
    return table.assign(claim="A over B", by="paper", configurations="A; B")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("one", "unclear", 3, 3), ("two", "unclear", 3, 3)], "holds"),  # 6 of 6: p = 0.031
        ([("one", "unclear", 2, 2), ("two", "unclear", 3, 3)], "unclear"),  # 5 of 5: p = 0.063
        ([("one", "unclear", 0, 3), ("two", "unclear", 0, 3)], "fails"),
        ([("one", "holds", 2, 2), ("two", "holds", 2, 2)], "holds"),  # by the interval of each
        ([("one", "holds", 9, 9), ("two", "fails", 0, 2)], "differs between data sets"),
        ([("one", "holds", 2, 3), ("two", "unclear", 1, 3)], "unclear"),
        ([("one", "collapsed", 3, 3), ("two", "collapsed", 3, 3)], "holds, by networks that collapsed"),
        ([("one", "unclear", 0, 0)], "not run"),
        ([("one", "unclear", 6, 6), ("two", "unclear", 0, 4, 4)], "holds"),  # equal ones decide nothing
        ([("one", "unclear", 0, 4, 4)], "unclear"),
    ],
)
def test_one_verdict_over_all_data_sets(rows, expected):
    assert verdict(checked_rows(*rows)) == expected


def test_verdicts_count_the_runs_of_each_data_set():
    rows = checked_rows(("one (at most 5 cells)", "holds", 2, 2), ("one (at most 5 cells)", "unclear", 1, 2))
    row = verdicts(rows).to_dict("records")[0]
    assert (row["agree"], row["n"], row["by data set"]) == (3, 4, "one: 3 of 4")
    rows = checked_rows(("one", "holds", 2, 3, 1), ("two", "unclear", 0, 2, 2))
    row = verdicts(rows).to_dict("records")[0]
    assert (row["agree"], row["n"], row["by data set"]) == (2, 2, "one: 2 of 2; two: equal")


def test_equal_configurations_are_ties():
    outcome = mean_difference(np.array([0.0, 0.5, 0.0, -0.1]))
    assert (outcome.n, outcome.agree, outcome.ties) == (4, 1, 2)
