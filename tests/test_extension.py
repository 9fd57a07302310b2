"""A method from outside: the package of CONTRIBUTING, "In a package of your own", made in a scratch folder and used.

The text of the package is taken from CONTRIBUTING.md, so that the test runs what it says. ``pip install`` is imitated
by what it leaves behind: the module, and a dist-info folder with the entry points.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

CONTRIBUTING = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"

# each step is a function: what it raises is reported, and the others go on
STEPS = """
import json, sys, traceback, warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import imputome
from imputome import methods

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 1)) + rng.normal(size=(1, 12)) + 0.1 * rng.normal(size=(40, 12)) + 5
X[rng.random(X.shape) < 0.1] = np.nan
names = [f"gene{j}" for j in range(12)]


def data():
    return ad.AnnData(X.copy(), obs=pd.DataFrame(index=[f"s{i}" for i in range(40)]), var=pd.DataFrame(index=names))


def command(*arguments):
    from imputome.cli import main

    sys.argv = ["imputome", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        assert not end.code, f"exit code {end.code}"


def oracle(weight=1.0):
    mean = np.nanmean(X, axis=0)
    filled = mean + weight * np.nanmean(X - mean, axis=1, keepdims=True)
    return np.where(np.isnan(X), filled, X)


def listed():
    assert "two_way_mean" in methods.names()
    assert methods.names()[: len(methods.METHODS)] == tuple(methods.METHODS)
    assert methods.info("two_way_mean").summary == "feature mean + shift of the row"
    assert "two_way_mean" not in sys.modules or methods.get("two_way_mean") is sys.modules["two_way_mean"].TwoWayMean


def listed_by_the_command():
    command("methods")


def impute_by_name():
    adata = data()
    imputome.impute(adata, method="two_way_mean", transform="none", key_added="filled")
    np.testing.assert_allclose(adata.layers["filled"], oracle(), rtol=1e-6)
    assert adata.uns["imputome"]["filled"]["method"] == "two_way_mean"
    imputome.impute(adata, method="two_way_mean", params={"weight": 0}, transform="none", key_added="half")
    np.testing.assert_allclose(adata.layers["half"], oracle(0), rtol=1e-6)


def impute_by_class():
    from two_way_mean import TwoWayMean

    adata = data()
    imputome.impute(adata, method=TwoWayMean, params={"weight": 0.5}, transform="none", key_added="filled")
    np.testing.assert_allclose(adata.layers["filled"], oracle(0.5), rtol=1e-6)


def impute_by_instance():
    from two_way_mean import TwoWayMean

    adata = data()
    imputome.impute(adata, method=TwoWayMean(weight=0.5), transform="none", key_added="filled")
    np.testing.assert_allclose(adata.layers["filled"], oracle(0.5), rtol=1e-6)
    assert json.loads(adata.uns["imputome"]["filled"]["params"]) == {"weight": 0.5}


def wrong_parameters_are_refused():
    from two_way_mean import TwoWayMean

    for method, params in ((TwoWayMean, {"height": 1}), ("two_way_mean", {"weight": "big"})):
        try:
            imputome.impute(data(), method=method, params=params)
        except imputome.InputError as error:
            assert error.code in ("unknown-parameter", "parameter-value"), error.code
        else:
            raise AssertionError("not refused")


def fit_save_load_apply():
    from two_way_mean import TwoWayMean

    for number, method in enumerate(("two_way_mean", TwoWayMean)):
        model = imputome.fit_model(data(), method=method, transform="none", params={"weight": 0.5})
        model.save(f"model{number}")
        loaded = methods.load(f"model{number}")
        assert type(loaded) is TwoWayMean and loaded.get_params() == {"weight": 0.5}
        for source in (model, loaded, f"model{number}"):
            adata = data()
            imputome.apply_model(adata, source, key_added="filled")
            np.testing.assert_allclose(adata.layers["filled"], oracle(0.5), rtol=1e-6)


def evaluate_by_name():
    table = imputome.evaluate(data(), methods=["two_way_mean", "two_way_mean:weight=0.5"], scheme="mcar", seed=1)
    assert not (table["status"] == "failed").any(), table["reason"].unique()
    assert set(table["method"]) == {"two_way_mean", *methods.controls("real")}


def evaluate_by_class_and_instance():
    from two_way_mean import TwoWayMean

    by_name = imputome.evaluate(data(), methods=["two_way_mean:weight=0.5"], scheme="mcar", seed=1)
    table = imputome.evaluate(data(), methods=[TwoWayMean, TwoWayMean(weight=0.5)], scheme="mcar", seed=1)
    assert not (table["status"] == "failed").any(), table["reason"].unique()
    part = table[(table["method"] == "two_way_mean") & (table["parameters"] == '{"weight": 0.5}')]
    expected = by_name[by_name["method"] == "two_way_mean"]
    np.testing.assert_array_equal(part["value"], expected["value"])


def race():
    from imputome.core.data import as_data
    from imputome.trust.race import run_race
    from two_way_mean import TwoWayMean

    options = {"seconds": 60, "seconds_after": 60, "rng": np.random.default_rng(0)}
    candidates = ["two_way_mean", TwoWayMean(weight=0.5), TwoWayMean(weight=1.0)]
    result = run_race(as_data(X, kind="real"), candidates=candidates, **options)
    rows = result.candidates[~result.candidates["control"]]
    assert set(rows["method"]) == {"two_way_mean"}
    assert set(rows["name"]) == {"two_way_mean", "two_way_mean (weight=0.5)"}
    assert result.winner == "two_way_mean"


def scikit_learn():
    from two_way_mean import TwoWayMean

    for method in ("two_way_mean", TwoWayMean, TwoWayMean()):
        filled = imputome.sklearn.Imputer(method, link="none").fit_transform(X)
        np.testing.assert_allclose(filled, oracle(), rtol=1e-6)


def commands_and_report():
    data().write_h5ad("in.h5ad")
    command("impute", "in.h5ad", "-o", "out.h5ad", "--method", "two_way_mean", "--check", "--quiet")
    command("report", "out.h5ad", "-o", "page.html", "--map", "pca", "--quiet")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "two_way_mean" in page


outcomes = {}
for step in STEPS:
    try:
        globals()[step]()
        outcomes[step] = ""
    except BaseException:
        outcomes[step] = traceback.format_exc()
Path("outcomes.json").write_text(json.dumps(outcomes))
"""
NAMES = [name for name in re.findall(r"^def (\w+)\(\):", STEPS, re.MULTILINE) if name != "data"]


def blocks() -> dict[str, str]:
    """The fenced blocks of the section "In a package of your own", by language."""
    section = CONTRIBUTING.read_text(encoding="utf-8").split("### In a package of your own")[1].split("###")[0]
    found = re.findall(r"^( *)```(\w+)\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)
    return {language: textwrap.dedent(text) for _, language, text in found}


def installed(folder: Path, project: dict, source: str) -> None:
    """What ``pip install`` of the package leaves in ``folder``."""
    points = project["entry-points"]["imputome.methods"]
    module = next(iter(points.values())).split(":")[0]
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[imputome.methods]", *lines, ""]))


def run(code: str, packages: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(packages)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str]:
    packages, folder = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("work")
    parts = blocks()
    installed(packages, tomllib.loads(parts["toml"])["project"], parts["python"])
    ended = run(f"STEPS = {NAMES!r}\n{STEPS}", packages, folder)
    assert (folder / "outcomes.json").is_file(), ended.stderr
    return {**json.loads((folder / "outcomes.json").read_text()), "stdout": ended.stdout}


@pytest.mark.parametrize("step", NAMES)
def test_a_method_of_another_package(outcomes, step):
    assert not outcomes[step], outcomes[step]


def test_the_command_lists_it(outcomes):
    (line,) = [line for line in outcomes["stdout"].splitlines() if line.startswith("two_way_mean")]
    assert "feature mean + shift of the row" in line


@pytest.mark.parametrize(
    ("points", "source", "code"),
    [
        ({"lost": "no_such_module:Lost"}, "", "method-import"),
        ({"lost": "mine:Lost"}, "", "method-import"),
        ({"lost": "mine:Lost"}, "raise RuntimeError('no licence')", "method-import"),
        ({"lost": "mine:Lost"}, "def (", "method-import"),
        ({"plain": "mine:Plain"}, "class Plain: ...", "not-a-method"),
        (
            {"bare": "mine:Bare"},
            "from imputome.core.imputer import Imputer\nclass Bare(Imputer): ...",
            "method-without-info",
        ),
        ({"alias": "imputome.methods.knn.estimator:KNN"}, "", "method-name"),
    ],
)
def test_broken_registrations_are_refused(tmp_path, points, source, code):
    installed(tmp_path, {"name": "mine", "version": "1", "entry-points": {"imputome.methods": points}}, "")
    (tmp_path / "mine.py").write_text(source)
    name = next(iter(points))
    ended = run(
        f"from imputome import methods\nassert {name!r} in methods.names()\n"
        f"try:\n    methods.get({name!r})\nexcept methods.InputError as error:\n    print(error.code, error)",
        tmp_path,
        tmp_path,
    )
    assert ended.stdout.split(maxsplit=1)[:1] == [code], ended.stderr
    assert name in ended.stdout or code == "method-without-info"


def test_a_broken_package_does_not_hide_the_other_methods(tmp_path):
    points = {"lost": "no_such_module:Lost"}
    installed(tmp_path, {"name": "mine", "version": "1", "entry-points": {"imputome.methods": points}}, "")
    code = "sys.argv = ['imputome', 'methods']; from imputome.cli import main; main()"
    ended = run(code, tmp_path, tmp_path)
    assert ended.returncode == 0
    assert "gaussian_copula" in ended.stdout
    assert "lost" in ended.stderr
    assert "[method-import]" in ended.stderr


def test_a_name_of_this_package_cannot_be_taken_over(tmp_path):
    points = {"knn": "mine:Other"}
    installed(tmp_path, {"name": "mine", "version": "1", "entry-points": {"imputome.methods": points}}, "")
    code = "from imputome import methods; print(methods.names().count('knn'), methods.get('knn').__module__)"
    assert run(code, tmp_path, tmp_path).stdout.split() == ["1", "imputome.methods.knn.estimator"]


def test_a_model_of_a_method_that_is_not_installed(outcomes, tmp_path_factory):
    model = next(tmp_path_factory.getbasetemp().glob("work*/model0"))
    code = (
        "from imputome import methods\ntry:\n    methods.load('model0')\nexcept methods.ModelFormatError as error:\n"
        "    print(error.code, error)"
    )
    ended = run(code, model.parent, model.parent)
    assert ended.stdout.startswith("model-of-unknown-method"), ended.stderr
    assert "two_way_mean" in ended.stdout
