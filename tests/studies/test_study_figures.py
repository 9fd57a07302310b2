"""The numbers of the figures of a study, against means and intervals computed by hand, and the pages with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import stats

from imputome.report.study_page import write_results
from imputome.studies.figures import figure_data
from imputome.studies.inputs import MethodSpec
from imputome.studies.spec import Claim, Configuration, Figure, Hiding, Study, Subset

BASE = {"n_components": 2, "max_iter": 5}
STUDY = Study(
    "made",
    "a made study",
    (Subset("one"), Subset("two")),
    (Hiding("thin"),),
    (
        Configuration("base", MethodSpec("poisson_nmf", BASE)),
        Configuration("n_components=2", MethodSpec("poisson_nmf", BASE)),
        Configuration("n_components=4", MethodSpec("poisson_nmf", {**BASE, "n_components": 4})),
        Configuration("4 and 9", MethodSpec("poisson_nmf", {"n_components": 4, "max_iter": 9})),
        Configuration("other", MethodSpec("poisson_nmf", {**BASE, "n_components": 4, "random_state": 3})),
    ),
    (Claim("four are better", "better", "poisson_loss", ("n_components=4", "base")),),
    figures=(
        Figure("Factors", "poisson_loss", x="n_components", lines="max_iter", controls=("gene_mean",)),
        Figure("Some", "poisson_loss", configurations=("base", "other"), controls=("gene_mean",)),
    ),
    trials=3,
)


def made(trials=3):
    rng = np.random.default_rng(0)
    specs = [MethodSpec("gene_mean"), *(each.spec for each in STUDY.configurations[:1] + STUDY.configurations[2:])]
    rows = []
    for dataset in ("one", "two"):
        for spec in specs:
            for trial in range(trials):
                row = {"dataset": dataset, "method": spec.label, "parameters": spec.parameters, "scheme": "thin"}
                row |= {"options": "{}", "fraction": 0.1, "trial": trial, "seed": 0, "transform": ""}
                row |= {"metric": "poisson_loss", "value": rng.random(), "seconds": 1.0, "peak_bytes": 1.0}
                rows.append({**row, "status": "ok", "reason": ""})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("trials", [3, 5])
def test_points_are_means_with_their_interval_or_the_range_of_few_trials(trials):
    table = made(trials)
    data = figure_data(STUDY, table, STUDY.figures[0])
    assert len(data) == 2 * 4  # the base has two names; "other" differs in another parameter
    point = data[(data["dataset"] == "two") & (data["x"] == 4) & (data["line"] == "max_iter=9")].iloc[0]
    values = table[(table["dataset"] == "two") & (table["parameters"] == STUDY.configurations[3].spec.parameters)][
        "value"
    ]
    low, high = min(values), max(values)
    if trials == 5:
        low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (point["mean"], point["low"], point["high"]) == pytest.approx((values.mean(), low, high))
    control = data[data["control"]]
    assert control["x"].isna().all()
    assert control["line"].tolist() == ["gene_mean"] * 2
    some = figure_data(STUDY, table, STUDY.figures[1])
    assert some[some["dataset"] == "one"]["x"].tolist() == ["gene_mean", "base", "other"]


def test_other_parameters_than_those_of_the_base():
    figure = Figure("Factors", "poisson_loss", x="n_components", where={"max_iter": 9})
    data = figure_data(STUDY, made(), figure)
    assert data["x"].tolist() == [4, 4]  # one configuration, two data sets


def test_a_figure_against_the_share_that_is_hidden():
    splits = tuple(Hiding("thin", fraction=share, name=f"thin {share}") for share in (0.1, 0.3))
    labels = tuple(split.label for split in splits)
    lines = {"configurations": ("base",), "controls": ("gene_mean",)}
    figure = Figure("Shares", "poisson_loss", "fraction", splits=labels, **lines)
    study = dataclasses.replace(STUDY, splits=splits, figures=(figure,))
    table = pd.concat([made().assign(scheme=split.label, fraction=split.fraction) for split in splits])
    table["value"] = np.arange(len(table), dtype=float)
    data = figure_data(study, table, figure)
    assert len(data) == 2 * 2 * 2  # data sets, shares, lines
    assert not data["control"].any()
    point = data[(data["dataset"] == "one") & (data["x"] == 0.3) & (data["line"] == "gene_mean")].iloc[0]
    rows = table[(table["dataset"] == "one") & (table["fraction"] == 0.3) & (table["method"] == "gene_mean")]
    assert point["mean"] == rows["value"].mean()
    with pytest.raises(ValidationError):
        dataclasses.replace(study, splits=(splits[0], dataclasses.replace(splits[1], fraction=0.1)))
    with pytest.raises(ValidationError):
        dataclasses.replace(figure, splits=())


def test_a_figure_of_several_metrics():
    metrics = {"1e-4": "poisson_loss", "0.1": "mse_log1p"}
    figure = Figure("Both", "loss", "threshold", metrics=metrics, configurations=("base", "other"), log=True)
    study = dataclasses.replace(STUDY, figures=(figure,))
    table = pd.concat([made(), made().assign(metric="mse_log1p", value=2.0)])
    data = figure_data(study, table, figure)
    assert len(data) == 2 * 2 * 2  # data sets, lines, metrics
    assert (data[data["x"] == 0.1]["mean"] == 2).all()
    assert set(data["line"]) == {"base", "other"}
    with pytest.raises(ValidationError):
        dataclasses.replace(figure, metrics={"low": "poisson_loss"})


def test_bars_of_paper_001():
    study = dataclasses.replace(STUDY, spread="sem")
    table = made(5)
    point = figure_data(study, table, STUDY.figures[1]).query("dataset == 'one' and x == 'base'").iloc[0]
    base = STUDY.configurations[0].spec
    values = table.query("dataset == 'one'")[lambda rows: rows["parameters"] == base.parameters]["value"]
    assert point["high"] - point["mean"] == pytest.approx(1.64 * stats.sem(values))


def test_the_pages_have_the_figures(tmp_path):
    for module in ("altair", "vl_convert"):
        pytest.importorskip(module)
    written = write_results(STUDY, made(), tmp_path, page=tmp_path / "pages")
    pictures = sorted((tmp_path / "pages" / "figures").iterdir())
    assert [path.name for path in pictures] == [f"made-{number}-{place}.svg" for number in (1, 2) for place in (1, 2)]
    assert all("var(--" not in path.read_text() for path in pictures)
    page = (tmp_path / "pages" / "made.md").read_text()
    assert all(f"figures/{path.name}" in page for path in pictures)
    html = (tmp_path / "pages" / "made.html").read_text()
    assert html.count('class="plot"') >= len(pictures)
    assert set(written.files) >= {*pictures, tmp_path / "claims.csv"}
    # a study without figures, or of which nothing was run
    plain = dataclasses.replace(STUDY, figures=())
    assert not list((tmp_path / "b").glob("*")), plain
    write_results(plain, made(), tmp_path / "b")
    assert not (tmp_path / "b" / "figures").exists()
