"""The component for Open Problems, run as Viash runs it on a staged file; the recipes for other package managers."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import typer
import yaml

import imputome
from imputome.cli import app
from imputome.core.data import as_data
from imputome.evaluation.simulate import simulate_counts
from imputome.methods import DEFAULT, create, info, names

ROOT = Path(__file__).parents[1]
COMPONENT = ROOT / "integrations" / "openproblems"
BLOCK = re.compile(r"## VIASH START\n(.*?)## VIASH END\n", re.DOTALL)


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((COMPONENT / "config.vsh.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def staged(tmp_path):
    """A training file of the benchmark: counts in a layer, no X, columns that a method must not pass on."""
    options = {"n": 100, "G": 50, "n_types": 2, "depth": 1000, "de_share": 0.6}
    X = simulate_counts(**options, rng=np.random.default_rng(0)).X.astype(np.int64)
    obs = pd.DataFrame({"batch": "one"}, index=[f"cell{i}" for i in range(100)])
    var = pd.DataFrame({"feature_name": "x"}, index=[f"ENSG{j:011}" for j in range(50)])
    train = ad.AnnData(layers={"counts": sp.csr_matrix(X)}, obs=obs, var=var)
    train.uns |= {"dataset_id": "made/counts", "dataset_organism": "homo_sapiens"}
    train.write_h5ad(tmp_path / "train.h5ad")
    return tmp_path / "train.h5ad"


def as_viash_writes_it(folder: Path, par: dict, name: str) -> Path:
    """A copy in another folder, with the block between the marks replaced by the values of this run."""
    source = (COMPONENT / "script.py").read_text(encoding="utf-8")
    assert len(BLOCK.findall(source)) == 1
    meta = {"name": name, "functionality_name": name, "resources_dir": str(folder), "executable": None}
    meta |= {"config": None, "temp_dir": str(folder), "cpus": None, "memory_gb": None}
    block = f"## VIASH START\n# The following code has been auto-generated.\npar = {par!r}\nmeta = {meta!r}\n"
    script = folder / "viash-run.py"
    script.write_text(BLOCK.sub(lambda _: f"{block}dep = {{}}\n\n## VIASH END\n", source), encoding="utf-8")
    return script


def run_alone(script: Path) -> None:
    """As Viash runs it: ``python -B`` on the copy."""
    env = {**os.environ, "PYTHONPATH": str(Path(imputome.__file__).parents[1])}
    command = [sys.executable, "-B", str(script)]
    done = subprocess.run(command, cwd=script.parent, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run_here(script: Path) -> None:
    """In this process, which has the libraries loaded."""
    runpy.run_path(str(script))


def arguments(config: dict, **given) -> dict:
    """All arguments with their defaults, as Viash passes them."""
    return {each["name"].lstrip("-"): each["default"] for each in config["arguments"]} | given


@pytest.mark.parametrize(("method", "execute"), [("count_autoencoder", run_here), ("poisson_nmf+posterior", run_alone)])
def test_the_script_denoises_a_staged_file(staged, config, method, execute):
    output = staged.parent / "denoised.h5ad"
    chosen = {} if method == DEFAULT["counts"] else {"method": method}
    par = arguments(config, input_train=str(staged), output=str(output), **chosen)
    execute(as_viash_writes_it(staged.parent, par, "imputome_variant"))
    train, denoised = ad.read_h5ad(staged), ad.read_h5ad(output)
    assert list(denoised.layers) == ["denoised"]
    assert denoised.uns == {"dataset_id": "made/counts", "method_id": "imputome_variant"}
    assert list(denoised.obs_names) == list(train.obs_names)
    assert list(denoised.var_names) == list(train.var_names)
    assert denoised.obs.shape[1] == denoised.var.shape[1] == 0
    values = denoised.layers["denoised"]
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    # expected counts at the depth of the training part, by the method that was asked for
    counts = train.layers["counts"]
    assert values.sum() == pytest.approx(counts.sum(), rel=0.05)
    name, _, posterior = method.partition("+")
    estimator = create(name, {"posterior": True} if posterior else {}, random_state=0)
    expected = estimator.fit_transform(as_data(counts, kind="counts")).to_array(keep_observed=False)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    control = create("gene_mean_posterior", random_state=0).fit_transform(as_data(counts, kind="counts"))
    assert np.abs(values - control.to_array(keep_observed=False)).max() > 0.5  # which a default can fall back to


def test_the_script_alone_is_valid_and_names_every_argument(config):
    source = (COMPONENT / "script.py").read_text(encoding="utf-8")
    values: dict = {}
    exec(BLOCK.findall(source)[0], values)  # noqa: S102  (our own file)
    assert set(values["par"]) == {"input_train", "output", *arguments(config)}
    assert {name: values["par"][name] for name in arguments(config)} == arguments(config)
    assert values["meta"]["name"] == config["name"]


def test_the_configuration_has_what_the_task_asks_for(config):
    assert config["__merge__"] == "../../api/comp_method.yaml"  # brings --input_train and --output
    assert re.fullmatch(r"[a-z][a-z0-9_]*", config["name"])
    for field, limit in {"name": 50, "label": 50, "summary": 400, "description": 5000}.items():
        assert 0 < len(config[field]) <= limit, field
    assert all(re.fullmatch(r"10\.\d{4,9}/\S+", doi) for doi in config["references"]["doi"])
    assert f"doi:{config['references']['doi'][0]}" == info(DEFAULT["counts"]).source
    assert config["info"]["preferred_normalization"] == "counts"
    assert [resource["path"] for resource in config["resources"]] == ["script.py"]
    assert (COMPONENT / config["resources"][0]["path"]).is_file()
    assert config["resources"][0]["type"] == "python_script"
    docker = next(engine for engine in config["engines"] if engine["type"] == "docker")
    assert docker["image"].startswith("openproblems/")
    assert docker["setup"] == [{"type": "python", "packages": ["imputome[deep]"]}]
    runners = {runner["type"]: runner for runner in config["runners"]}
    assert set(runners) == {"executable", "nextflow"}
    labels = runners["nextflow"]["directives"]["label"]
    assert len(labels) == 3
    for ending in ("time", "mem", "cpu"):
        assert sum(label.endswith(ending) for label in labels) == 1


def test_the_default_is_ours_and_every_variant_runs(config):
    assert arguments(config)["method"] == DEFAULT["counts"]
    known = {each["name"].lstrip("-") for each in config["arguments"]}
    for name, variant in config["info"]["variants"].items():
        assert set(variant or {}) <= known, name
        method = (variant or {}).get("method", DEFAULT["counts"]).removesuffix("+posterior")
        assert method in names()
        assert "counts" in info(method).kinds


# -- recipes for other package managers --------------------------------------------------------------------------------
NFCORE = ROOT / "integrations" / "nf-core" / "imputome" / "impute"
SNAKEMAKE = ROOT / "integrations" / "snakemake" / "imputome" / "impute"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_conda_recipe_has_the_dependencies_of_the_package():
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    recipe = yaml.safe_load(text_of(ROOT / "integrations" / "conda" / "recipe.yaml"))
    python, *run = recipe["requirements"]["run"]
    assert [line.replace(" ", "") for line in run] == project["dependencies"]
    assert python == "python >=${{ python_min }}"
    assert f">={recipe['context']['python_min']}" == project["requires-python"]
    assert recipe["about"]["license"] == project["license"]


def test_all_recipes_are_of_one_version():
    version = yaml.safe_load(text_of(ROOT / "CITATION.cff"))["version"]
    recipe = yaml.safe_load(text_of(ROOT / "integrations" / "conda" / "recipe.yaml"))
    assert recipe["context"]["version"] == version
    assert yaml.safe_load(text_of(NFCORE / "environment.yml"))["dependencies"] == [f"bioconda::imputome={version}"]
    assert yaml.safe_load(text_of(SNAKEMAKE / "environment.yaml"))["dependencies"] == [f"imputome ={version}"]
    assert re.findall(r"imputome:([\d.]+)--", text_of(NFCORE / "main.nf")) == [version, version]


@pytest.mark.parametrize("path", [NFCORE / "main.nf", SNAKEMAKE / "wrapper.py"], ids=lambda path: path.name)
def test_the_workflows_pass_options_that_the_command_has(path):
    command = typer.main.get_command(app).commands["impute"]
    known = {name for parameter in command.params for name in parameter.opts}
    passed = set(re.findall(r"(?<=\s)--[a-z-]+", text_of(path)))
    passed |= {f"--{name}" for name in ("record", "report") if "--{name}" in text_of(path)}
    assert {"--output", "--threads", "--record"} <= passed - {"--version"} <= known


def test_the_documented_channels_of_the_module_are_those_of_its_process():
    meta, process = yaml.safe_load(text_of(NFCORE / "meta.yml")), text_of(NFCORE / "main.nf")
    assert list(meta["output"]) == re.findall(r"emit: (\w+)", process)
    assert meta["name"].upper() == re.search(r"^process (\w+)", process, re.MULTILINE)[1]
    inputs = re.search(r"input:\n\s+tuple val\((\w+)\), path\((\w+)\)", process)
    assert [[name for element in channel for name in element] for channel in meta["input"]] == [list(inputs.groups())]
