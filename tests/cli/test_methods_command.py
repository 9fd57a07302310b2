"""`imputome methods`: every method says what it does, costs, and where it fails; the pages made of that are fresh."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from codes import refused
from imputome.cli import run
from imputome.cli.description import Description, describe
from imputome.core.imputer import Imputer
from imputome.errors import MissingExtraError
from imputome.evaluation.glossary import BETTER, entries
from imputome.evaluation.metrics import METRICS
from imputome.methods import get, info
from imputome.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[2]


def test_every_method_says_what_a_user_must_know():
    """Also those whose extra is not installed here: nothing is imported for it."""
    for name in METHODS:
        described = describe(name)
        assert described.cost_class in ("seconds", "minutes", "hours"), name
        for part in ("does", "cost", "fails", "new_cells"):
            assert getattr(described, part), (name, part)
        for each in described.parameters:
            assert each.type, (name, each)
            assert each.text, (name, each)


@pytest.mark.parametrize("name", METHODS)
def test_the_parameters_that_are_read_are_those_of_the_class(name):
    try:
        defaults = get(name).parameter_defaults()
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert {each.name: each.value for each in describe(name).parameters} == defaults


def test_a_docstring_without_the_parts(monkeypatch):
    """One of another package: what it does not say is empty, and its parameters are those of the class."""

    class Plain(Imputer):
        info = info("mean")

        def __init__(self, *, weight: float = 2.0) -> None:
            self.weight = weight

    monkeypatch.setattr("imputome.cli.description.get", lambda _: Plain)
    monkeypatch.setattr("imputome.cli.description.info", lambda _: Plain.info)
    described = describe("plain")
    assert isinstance(described, Description)
    assert (described.cost_class, described.cost, described.fails) == ("", "", "")
    assert [(each.name, each.value) for each in described.parameters] == [("weight", 2.0)]


@pytest.mark.parametrize("name", ["knn", "dca_paper001", "magic+posterior", "count_autoencoder+posterior"])
def test_one_method(name, capsys):
    assert run(["methods", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    base = name.removesuffix("+posterior")
    titles = {"cost", "known to fail", f"new cells ({info(base).new_rows})"}
    assert titles <= set(lines)
    assert ("posterior step" in lines) == (base != name)
    for each in describe(base).parameters:
        assert any(line.startswith(f"  {each.name} : ") for line in lines), each


def test_one_method_json(capsys):
    assert run(["methods", "alra", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cost_class"] == "seconds"
    assert found["fails"]
    assert found["parameters"]["quantile"]["default"] == 0.001
    assert found["parameters"]["quantile"]["text"]


def test_a_method_without_the_step(capsys):
    refused(capsys, run(["methods", "knn+posterior"]), "no-posterior", "knn")


def test_the_extra_is_not_needed(capsys, monkeypatch):
    """What the docstring says is printed although the class cannot be imported."""
    monkeypatch.setitem(sys.modules, "scvi", None)
    sys.modules.pop("imputome.methods.scvi.estimator", None)
    assert run(["methods", "scvi", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["n_latent"]["default"] == 10


def test_every_score_is_explained(capsys):
    explained = {entry.name: entry for entry in entries()}
    assert set(METRICS) <= set(explained)
    for entry in explained.values():
        assert entry.what, entry
        assert entry.range, entry
        assert entry.misleads, entry
        assert entry.better in BETTER.values()
    assert run(["methods", "--metrics"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} (" in out for name in explained)


def test_the_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "method_table.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
