"""Verdicts on claims from tables made by hand, and the interval against scipy's own test."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
from imputome.studies.study import Claim, Configuration, Hiding, Study, Subset

from imputome.studies.claims import claims_markdown, judge, paired
from imputome.studies.results import COLUMNS, table_of
from imputome.studies.runner import MethodSpec

A, B, C = (Configuration(name, MethodSpec("poisson_nmf", {"n_components": k})) for k, name in enumerate("ABC", start=2))


def study(*claims):
    return Study("made", "made", (Subset("one"),), (Hiding("thin"),), (A, B, C), claims)


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


def verdict(claim, metrics):
    rows = judge(study(claim), table(metrics)).to_dict("records")
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize("seed", range(40))
def test_the_interval_is_students(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.normal(), 1.0, size=rng.integers(2, 8))
    found = paired(values)
    test = scipy.stats.ttest_1samp(values, 0.0)
    expected = "unclear" if test.pvalue > 0.05 else "yes" if test.statistic > 0 else "no"
    assert found.verdict == expected
    assert found.mean / found.se == pytest.approx(test.statistic)


def test_one_seed_or_none_decides_nothing():
    assert paired(np.array([3.0])).verdict == "unclear"
    assert paired(np.array([])).verdict == "unclear"
    assert paired(np.array([1.0, np.inf])).verdict == "unclear"


BETTER = Claim("A over B", "better", "poisson_loss", ("A", "B"), control="gene_mean")


def test_seeds_are_paired():
    # far apart between seeds, and nearly the same distance within each
    losses = {"A": [1.0, 5.0, 9.0], "B": [1.2, 5.21, 9.19], "gene_mean": [0.5, 4.5, 8.51]}
    row = verdict(BETTER, {"poisson_loss": losses})
    assert row["held"] == "yes"
    assert row["estimate"] == pytest.approx(0.2)
    assert row["se"] == pytest.approx(np.std([0.2, 0.21, 0.19], ddof=1) / math.sqrt(3))
    assert row["n"] == 3
    assert row["beats_control"] == "no"
    worse = verdict(Claim("B over A", "better", "poisson_loss", ("B", "A")), {"poisson_loss": losses})
    assert worse["held"] == "no"
    assert "worse by 0.2" in worse["evidence"]


def test_the_direction_is_the_metrics():
    values = {"A": [0.9, 0.91, 0.92], "B": [0.5, 0.52, 0.51]}
    assert verdict(Claim("A over B", "better", "pearson", ("A", "B")), {"pearson": values})["held"] == "yes"
    assert verdict(Claim("A over B", "better", "nrmse", ("A", "B")), {"nrmse": values})["held"] == "no"
    ratio = {"A": [1.01, 0.99, 1.02], "B": [0.7, 1.4, 0.6]}
    assert verdict(Claim("A over B", "better", "total_ratio", ("A", "B")), {"total_ratio": ratio})["held"] == "yes"


@pytest.mark.parametrize(
    ("values", "held"), [([0.96, 0.97], "yes"), ([0.94, 0.9], "no"), ([0.96, 0.94], "unclear"), ([0.95], "yes")]
)
def test_at_least(values, held):
    claim = Claim("enough", "at_least", "library_correlation", ("A",), value=0.95)
    row = verdict(claim, {"library_correlation": {"A": values}})
    assert row["held"] == held
    assert row["estimate"] == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("middle", "last", "held"),
    [
        ([0.5, 0.52, 0.51], [0.1, 0.12, 0.11], "yes"),
        ([0.95, 0.9, 0.93], [0.1, 0.12, 0.11], "yes"),  # a rise within noise
        ([1.5, 1.52, 1.51], [0.1, 0.12, 0.11], "no"),  # a rise in every seed
        ([0.5, 0.52, 0.51], [0.95, 0.85, 0.93], "no"),
        ([0.91, 0.89, 0.93], [0.91, 0.9, 0.92], "unclear"),  # nothing falls
    ],
)
def test_monotone(middle, last, held):
    claim = Claim("falls", "monotone", "mean_dropout", ("A", "B", "C"))
    row = verdict(claim, {"mean_dropout": {"A": [0.9, 0.92, 0.91], "B": middle, "C": last}})
    assert row["held"] == held


def test_close_is_relative():
    claim = Claim("kept", "close", "after", ("A",), value=0.005, reference="before")
    assert verdict(claim, {"after": {"A": [1004.0, 99.6]}, "before": {"A": [1000.0, 100.0]}})["held"] == "yes"
    assert verdict(claim, {"after": {"A": [1006.0, 99.4]}, "before": {"A": [1000.0, 100.0]}})["held"] == "no"


def test_what_is_missing_is_said():
    row = verdict(BETTER, {"poisson_loss": {"A": [1.0, 2.0]}})
    assert row["held"] == "unclear"
    assert "no result of B" in row["evidence"]
    row = verdict(Claim("kept", "close", "after", ("A",), reference="before"), {"after": {"A": [1.0]}})
    assert "no result of A" in row["evidence"]
    assert judge(study(BETTER), table({"nrmse": {"A": [1.0], "B": [2.0]}})).empty


def test_collapse_is_shown():
    metrics = {"poisson_loss": {"A": [1.0, 1.0], "B": [2.0, 2.0]}}
    metrics |= {"between_cell_sd": {"A": [0.001, 0.003]}, "data_between_cell_sd": {"A": [0.5, 0.5]}}
    rows = judge(study(BETTER), table(metrics))
    assert rows["spread"].tolist() == [pytest.approx(0.004)]
    text = claims_markdown(rows)
    assert "| A over B | one | thin | poisson_loss | yes |" in text
    assert "0.004" in text
    assert "beats_control" not in text  # no control was run


@pytest.mark.parametrize(("flags", "held"), [([1.0, 1.0, 0.0], "collapsed"), ([1.0, 0.0, 0.0], "yes")])
def test_a_collapsed_winner_is_none(flags, held):
    losses = {"A": [1.0, 1.1, 1.2], "B": [2.0, 2.1, 2.21]}
    row = verdict(BETTER, {"poisson_loss": losses, "collapsed": {"A": flags, "B": [0.0, 0.0, 0.0]}})
    assert row["held"] == held
    lost = {"poisson_loss": {"A": losses["B"], "B": losses["A"]}, "collapsed": {"A": flags}}
    assert verdict(BETTER, lost)["held"] == "no"


def test_what_is_not_finite_decides_nothing():
    row = verdict(BETTER, {"poisson_loss": {"A": [1.0, 1.1], "B": [2.0, math.inf]}})
    assert row["held"] == "unclear"
    assert "not finite" in row["evidence"]


def test_rows_of_other_configurations_are_left_out():
    metrics = {"poisson_loss": {"A": [1.0, 1.1], "B": [2.0, 2.1]}}
    rows = table(metrics)
    other = rows.assign(parameters=json.dumps({"n_components": 99}), value=0.0)
    both = table_of([*rows.to_dict("records"), *other.to_dict("records")])
    assert list(both.columns) == list(COLUMNS)
    assert judge(study(BETTER), both)["evidence"].tolist() == judge(study(BETTER), rows)["evidence"].tolist()


def test_better_by_a_share():
    a, b = np.array([0.90, 0.91, 0.92, 0.90]), np.array([1.0, 1.01, 1.0, 1.02])
    for value, expected in ((0.0, "yes"), (0.04, "yes"), (0.09, "unclear"), (0.2, "no")):
        claim = Claim("by a share", "better", "nll_validation", ("A", "B"), value=value)
        row = verdict(claim, {"nll_validation": {"A": a, "B": b}})
        test = scipy.stats.ttest_1samp((1 - value) * b - a, 0.0)
        assert expected == ("unclear" if test.pvalue > 0.05 else "yes" if test.statistic > 0 else "no")
        assert row["held"] == expected
        assert row["estimate"] == pytest.approx((b - a).mean())  # the whole difference, whatever is claimed of it
    assert "that is 9.93%; 20% or more is claimed" in row["evidence"]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([1.001, 0.999, 1.002, 0.998], "yes"),
        ([1.03, 1.031, 1.029, 1.03], "no"),
        ([1.019, 1.001, 1.03, 1.0], "unclear"),
        ([1.0], "unclear"),
    ],
)
def test_similar(ratios, expected):
    claim = Claim("alike", "similar", "rmse", ("A", "B"), value=0.02)
    b = np.array([0.7, 0.8, 0.75, 0.9])[: len(ratios)]
    row = verdict(claim, {"rmse": {"A": b * ratios, "B": b}})
    assert row["held"] == expected
    if len(ratios) > 1:
        low, high = scipy.stats.t.interval(0.95, len(ratios) - 1, np.mean(ratios) - 1, scipy.stats.sem(ratios))
        inside, outside = low >= -0.02 and high <= 0.02, low > 0.02 or high < -0.02
        assert expected == ("yes" if inside else "no" if outside else "unclear")


def test_claims_of_some_splits_and_datasets():
    metrics = {"rmse": {"A": [1.0, 1.1], "B": [2.0, 2.3]}}
    for where in ({"splits": ("random",)}, {"datasets": ("two",)}):
        assert not len(judge(study(Claim("x", "better", "rmse", ("A", "B"), **where)), table(metrics)))
    here = Claim("x", "better", "rmse", ("A", "B"), splits=("thin",), datasets=("one",))
    assert verdict(here, metrics)["estimate"] == pytest.approx(1.1)
