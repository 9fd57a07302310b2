"""Trials by parameter: which runs a study has, counted by hand, and that only equally many trials are compared."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from codes import has_code
from imputome.errors import InputError
from imputome.report.study_page import study_board
from imputome.studies.claims import by_configuration, check_claims, markdown, published_rows, table_of_tests
from imputome.studies.figures import figure_data
from imputome.studies.inputs import MethodSpec
from imputome.studies.results import table_of
from imputome.studies.spec import (
    Claim,
    Comparison,
    Configuration,
    Figure,
    Hiding,
    Published,
    Study,
    Subset,
    find_study,
)
from imputome.studies.units import units_of


def of(**params):
    return MethodSpec("ialm", {"max_rank": 2, "tol": 0.1, "max_iter": 5, **params})


STUDY = Study(
    "made",
    "a made study",
    (Subset("one"),),
    (Hiding("thin"),),
    (
        Configuration("base", of()),
        Configuration("three", of(max_rank=3)),
        Configuration("loose", of(tol=0.5)),
        Configuration("three and loose", of(max_rank=3, tol=0.5)),
        Configuration("the same", of()),
        Configuration("other", MethodSpec("poisson_nmf", {"max_iter": 3})),
    ),
    (Claim("three are better", "better", "mse", ("three", "base")),),
    comparisons=(Comparison("base", ("three", "loose"), "mse"),),
    published=(Published("Table", "mse", "one", {"2": "base", "3": "three", "none": "gene_mean"}, {"thin": {}}),),
    figures=(
        Figure("Factors", "mse", x="max_rank", controls=("gene_mean",)),
        Figure("Tolerances", "mse", x="tol", controls=("gene_mean",)),
    ),
    trials=2,
    trials_of={"tol": 4},
)
NUMBERS = {"base": 4, "three": 2, "loose": 4, "three and loose": 2, "the same": 4, "other": 2, "gene_mean": 4}
# the later trials would turn every comparison round
VALUES = {
    "base": [2.0, 2.2, 9.0, 9.0],
    "three": [1.0, 1.1],
    "loose": [5.0, 5.0, 1.0, 3.0],
    "three and loose": [6.0, 6.0],
    "other": [7.0, 7.0],
    "gene_mean": [4.0, 4.0, 8.0, 0.0],
}


def made():
    specs = {each.name: each.spec for each in STUDY.configurations}
    rows = []
    for name, values in VALUES.items():
        spec = specs.get(name, MethodSpec(name))
        for trial, value in enumerate(values):
            row = {"dataset": "one", "method": spec.label, "parameters": spec.parameters, "scheme": "thin"}
            row |= {"options": "{}", "fraction": 0.1, "trial": trial, "seed": trial, "metric": "mse", "value": value}
            rows.append({**row, "seconds": 1.0, "peak_bytes": 1.0, "status": "ok", "reason": ""})
    return table_of(rows)


def units(study):
    kind = "real" if study.shares_fits else "counts"
    data = SimpleNamespace(data=SimpleNamespace(kind=kind))
    return units_of(study, {subset.label: (data, "digest") for subset in study.datasets})


def test_which_trials_are_run():
    specs = {each.name: each.spec for each in STUDY.configurations}
    run = Counter((unit.specs[0].label, unit.specs[0].parameters) for unit in units(STUDY) if len(unit.specs) == 1)
    for name, spec in specs.items():
        assert run[spec.label, spec.parameters] == NUMBERS[name], name
    controls = [unit.trial for unit in units(STUDY) if len(unit.specs) > 1]
    assert controls == [0, 1, 2, 3]
    assert all(unit.trial < NUMBERS["other"] for unit in units(STUDY) if unit.specs[0].method == "poisson_nmf")


def test_more_trials_change_no_file():
    """What a study has run stays valid when it asks for more trials of some configurations."""
    before = {unit.file(STUDY, Path("x")) for unit in units(dataclasses.replace(STUDY, trials_of={}))}
    after = {unit.file(STUDY, Path("x")) for unit in units(STUDY)}
    assert before < after
    assert len(after - before) == 2 * 3  # two trials of the controls, of the base and of "loose"


# paper 000: 10 seeds, 20 for activations; 5 and 10 in the analyses. Counted from the tables of the files:
# controls and base; six other activations; sizes; dropouts; decays; others. "no imputation" is one of the controls.
FULL = {
    "design_autoencoder": 8 * 5 * (2 * 20 + 6 * 20 + (15 * 4 - 1) * 10 + 10 * 10 + 8 * 10 + 2 * 10 + 3 * 10),
    "autoencoder_clustering": 7 * (2 * 10 + 6 * 10 + (15 * 4 - 1) * 5 + 10 * 5 + 15 * 5 + 5 * 5),
    "autoencoder_de": 7 * (2 * 10 + 6 * 10 + (15 * 4 - 1) * 5 + 10 * 5 + 15 * 5 + 5 * 5),
}


@pytest.mark.parametrize("name", FULL)
def test_the_seeds_of_paper_000(name):
    pytest.importorskip("torch")
    assert len(units(find_study(name, scale="full"))) == FULL[name]


# -- comparisons -------------------------------------------------------------------------------------------------------
def test_claims_and_tests_take_the_trials_of_both():
    claim = check_claims(STUDY, made()).iloc[0]
    assert (claim["n"], claim["held"], claim["estimate"]) == (2, "holds", pytest.approx((1.0 + 1.1) / 2))
    assert claim["evidence"].startswith("1.05 against 2.1:")
    tests = table_of_tests(STUDY, made()).set_index("second")
    assert tests["n"].to_dict() == {"three": 2, "loose": 4}
    assert tests["mean_first"].to_dict() == {"three": pytest.approx(2.1), "loose": pytest.approx(5.55)}


def test_figures_take_the_trials_of_all_their_points():
    few, many = (figure_data(STUDY, made(), figure) for figure in STUDY.figures)
    assert set(few["n"]) == {2}
    assert few[~few["control"]].set_index("x")["mean"].to_dict() == {2: pytest.approx(2.1), 3: pytest.approx(1.05)}
    assert set(many["n"]) == {4}
    assert many[~many["control"]].set_index("x")["mean"].to_dict() == {
        0.1: pytest.approx(5.55),
        0.5: pytest.approx(3.5),
    }


def test_tables_compare_equally_many_trials():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # methods on other splits are warned of
        scores = by_configuration(STUDY, made()).set_index(["trials", "configuration"])
    assert (scores["n"] == [trials for trials, _ in scores.index]).all()
    assert set(scores.loc[2].index) == {*NUMBERS}
    assert set(scores.loc[4].index) == {name for name, number in NUMBERS.items() if number == 4}
    assert scores.index[scores["best"]].tolist() == [(2, "three"), (4, "loose")]
    assert scores.loc[(2, "base"), "loses_to"] == ""  # 2.1 against 4
    assert scores.loc[(4, "base"), "loses_to"] == "gene_mean"  # 5.55 against 3
    text = markdown(STUDY, made())
    assert text.count("## one, thin") == 2
    assert published_rows(STUDY, made())[0][2] == [["thin", "2.1 ± 0.1", "1.05 ± 0.07", "4 ± 0"]]
    board = study_board(STUDY, made(), check_claims(STUDY, made()), [])
    assert len(board.choices["settings"]) == 2
    assert board.rows == len(made())


# -- the file ----------------------------------------------------------------------------------------------------------
FILE = """
title = "made"
trials = 2
trials_of = { n_components = 5 }
[[datasets]]
name = "pbmc68k"
[[splits]]
scheme = "thin"
[base]
method = "poisson_nmf"
params = { n_components = 2 }
[scale.smoke]
trials = 1
[scale.full]
trials_of = { n_components = 9 }
"""


def test_a_scale_has_its_own(tmp_path):
    (tmp_path / "made.toml").write_text(FILE)
    name = str(tmp_path / "made.toml")
    read = {scale: find_study(name, scale=scale) for scale in ("smoke", "desk", "full")}
    assert {scale: (study.trials, study.trials_of) for scale, study in read.items()} == {
        "smoke": (1, {}),
        "desk": (2, {"n_components": 5}),
        "full": (2, {"n_components": 9}),
    }
    for wrong, code in (("depth = 5", "parameter-unknown"), ("n_components = 0", "study-field")):
        (tmp_path / "made.toml").write_text(FILE.replace("n_components = 5", wrong))
        with pytest.raises(InputError, check=has_code(code)):
            find_study(name)
