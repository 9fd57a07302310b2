"""Studies as files: what they expand to, and the errors of files that describe no study."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from pathlib import Path

import pytest

from codes import has_code
from imputome.datasets import names as dataset_names
from imputome.errors import InputError
from imputome.studies.spec import find_study, known_studies

FILE = """
title = "made"
trials = 2
controls = ["poisson_nmf"]

[[datasets]]
name = "pbmc68k"
max_cells = 60
n_top_genes = 50

[[splits]]
scheme = "thin"

[[splits]]
scheme = "random"
fraction = 0.5
scale = "log1p"
params = { random_state = 7 }

[common]
max_iter = 5

[base]
method = "poisson_nmf"
params = { n_components = 4, tol = 1e-3 }

[[factors]]
n_components = [2, 4]
tol = [1e-3, 1e-2]

[[configurations]]
name = "other"
method = "ialm"
params = { max_iter = 3, normalization = "none" }

[[claims]]
text = "more is better"
kind = "better"
metric = "poisson_loss"
configurations = ["base", "n_components=2, tol=0.001"]

[scale.smoke]
trials = 1
datasets = [{ name = "pbmc68k", max_cells = 30 }]
params = { max_iter = 1 }
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        (tmp_path / "made.toml").write_text(textwrap.dedent(text))
        return str(tmp_path / "made.toml")

    return written


def test_a_file_expands(write):
    study = find_study(write(FILE))
    assert study.name == "made"
    thin, masked = study.splits
    params = {name: spec.params for name, spec in study.specs(thin).items()}
    assert params == {
        "base": {"max_iter": 5, "n_components": 4, "tol": 1e-3},
        "n_components=2, tol=0.001": {"max_iter": 5, "n_components": 2, "tol": 1e-3},
        "n_components=2, tol=0.01": {"max_iter": 5, "n_components": 2, "tol": 1e-2},
        "n_components=4, tol=0.001": {"max_iter": 5, "n_components": 4, "tol": 1e-3},
        "n_components=4, tol=0.01": {"max_iter": 5, "n_components": 4, "tol": 1e-2},
        "other": {"max_iter": 3, "normalization": None},
    }
    masked_specs = study.specs(masked)
    assert masked_specs["base"].params["random_state"] == 7
    assert "random_state" not in masked_specs["other"].params  # another method's
    names = study.names_of_rows(thin)
    spec = study.specs(thin)["base"]
    assert names[spec.label, spec.parameters] == ["base", "n_components=4, tol=0.001"]
    assert names["gene_mean", "{}"] == ["gene_mean"]
    assert study.datasets[0].label == "pbmc68k (at most 60 cells, 50 variable genes)"


@pytest.mark.parametrize("metric", ["poisson_loss", "iterations", "rank"])
def test_metrics_that_results_have(write, metric):
    assert find_study(write(FILE.replace('"poisson_loss"', f'"{metric}"'))).claims[0].metric == metric


AFTER = """
title = "made"
[[datasets]]
name = "pbmc68k"
[[splits]]
scheme = "thin"
[base]
method = "zipo"
after = "prune"
[[claims]]
text = "most weights are near zero"
kind = "at_least"
metric = "prune_sparsity"
configurations = ["base"]
"""


def test_numbers_of_what_is_called_after_a_fit(write):
    pytest.importorskip("torch")
    assert find_study(write(AFTER)).claims
    with pytest.raises(InputError, check=has_code("metric-unknown")):
        find_study(write(AFTER.replace("prune_sparsity", "prune_weight")))


def test_quick_changes_what_it_names(write):
    study = find_study(write(FILE), scale="smoke")
    assert study.trials == 1
    assert [subset.max_cells for subset in study.datasets] == [30]
    assert {spec.params["max_iter"] for spec in study.specs(study.splits[0]).values()} == {1}


def test_a_configuration_on_some_splits(write):
    text = FILE.replace('method = "ialm"\n', 'method = "ialm"\nsplits = ["random"]\n')
    study = find_study(write(text))
    thin, masked = study.splits
    assert "other" not in study.specs(thin)
    assert "other" in study.specs(masked)
    everywhere = find_study(write(text + "all_splits = true\n"), scale="smoke")
    assert all("other" in everywhere.specs(split) for split in everywhere.splits)
    without = find_study(write(text + 'splits = [{ scheme = "thin" }]\n'), scale="smoke")
    assert "other" not in [each.name for each in without.configurations]


def test_only_some_datasets(write):
    study = find_study(write(FILE + '\n[[datasets]]\nname = "kang_pbmc_stim"\n'))
    assert [subset.name for subset in study.only(["kang_pbmc_stim"]).datasets] == ["kang_pbmc_stim"]
    with pytest.raises(InputError, check=has_code("dataset-unknown")):
        study.only(["kang"])


@pytest.mark.parametrize(
    ("old", "new", "code", "fault"),
    [
        ('title = "made"', "", "study-field", "title"),
        ('title = "made"', "title = 3", "study-field", "title=3"),
        ("trials = 2", "trials = true", "study-field", "trials=True"),
        ("trials = 2", "trials = 0", "study-field", "trials=0"),
        ("trials = 2", "repeats = 2", "study-field", "repeats"),
        ("max_cells = 60", 'max_cells = "many"', "study-field", "max_cells='many'"),
        ("max_cells = 60", "max_cells = 1", "study-field", "max_cells=1"),
        ('scheme = "thin"', 'scheme = "hide"', "", "'hide'"),
        ('controls = ["poisson_nmf"]', 'controls = ["nope"]', "method-unknown", "'nope'"),
        ('method = "poisson_nmf"', "", "study-field", "[base]: method"),
        ("[base]", "[bass]", "study-field", "base"),
        ("n_components = 4,", "", "parameter-unknown", "'n_components'"),
        ("tol = [1e-3, 1e-2]", "tol = 1e-3", "study-field", "tol=0.001"),
        ("params = { max_iter = 3,", "params = { rank = 3,", "", "'rank'"),
        ('name = "other"', 'name = "base"', "study-name-twice", "'base'"),
        ('name = "other"', "", "study-field", "name"),
        ('method = "ialm"', 'method = "ialm"\nafter = "fly"', "study-field", "'fly'"),
        ('kind = "better"', 'kind = "nicer"', "study-field", "'nicer'"),
        ('["base", "n_comp', '["basis", "n_comp', "configuration-unknown", "'basis'"),
        ('kind = "better"', 'kind = "close"', "study-field", "'close'"),
        ("max_iter = 1 }", "max_iter = 1 }\nseeds = 1", "study-field", "seeds"),
        ("params = { n_components = 4, tol = 1e-3 }", "params = 4", "study-field", "params=4"),
        ("[common]", "[common", "study-file-unreadable", "made.toml"),
        ("[scale.smoke]", "[[claims]]", "study-field", "[[claims]]"),
        ("fraction = 0.5", "fraction = 1.5", "study-field", "fraction=1.5"),
        ('metric = "poisson_loss"', 'metric = "poison_loss"', "metric-unknown", "'poison_loss'"),
        ('metric = "poisson_loss"', 'metric = "rmse_sd2"', "metric-unknown", "[[claims]]"),
        ('metric = "poisson_loss"', 'metric = "nll"\nreference = "nl"', "metric-unknown", "'nl'"),
        ("trials = 2", 'trials = 2\nshown = ["loss"]', "metric-unknown", "shown"),
        ('title = "made"', 'title = "made\\u001b[31m"', "study-field", "title=made\\x1b[31m"),
        ('title = "made"', f'title = "{"a" * 5000}"', "study-field", "title=aaa"),
        ("tol = [1e-3, 1e-2]", f"tol = {[1e-3 * k for k in range(1, 2000)]}", "study-field", "tol"),
        ('method = "ialm"', 'method = "ialm"\nsplits = ["nope"]', "split-unknown", "'nope'"),
        ("trials = 2", "trials = 1000000000", "study-field", "trials=1000000000"),
        ("max_cells = 60", f"max_cells = {[1] * 5000}", "study-field", "max_cells=[1"),
    ],
)
def test_faults_of_a_file(write, old, new, code, fault):
    assert FILE.count(old) == 1
    with pytest.raises(InputError) as error:
        find_study(write(FILE.replace(old, new)))
    assert error.value.code == code or not code  # no code: another room sees the fault
    assert fault in str(error.value)


def test_no_quick_variant(write):
    with pytest.raises(InputError, check=has_code("scale-missing")):
        find_study(write(FILE.partition("[scale.smoke]")[0]), scale="smoke")


def test_unknown_studies():
    with pytest.raises(InputError, check=has_code("unknown-study")):
        find_study("nope")
    with pytest.raises(InputError, check=has_code("study-file-missing")):
        find_study("nope.toml")


STUDIES = ["autoencoder_clustering", "autoencoder_de", "bulk_imputation", "design_autoencoder", "scialm"]
STUDIES += ["scialm_rank", "zipo_claims", "zipo_design"]


def test_studies_of_the_package():
    assert list(known_studies()) == STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_its_scales(name):
    pytest.importorskip("torch")
    desk, smoke, full = (find_study(name, scale=scale) for scale in ("desk", "smoke", "full"))
    assert desk.title == known_studies()[name]
    assert {subset.name for study in (desk, smoke, full) for subset in study.datasets} <= set(dataset_names())
    assert smoke.trials <= desk.trials <= full.trials
    assert len(smoke.configurations) <= len(desk.configurations) <= len(full.configurations)
    assert desk.claims
    assert desk.figures
    assert desk.paper.startswith(("doi:", "pmid:"))
    if name != "bulk_imputation":  # it comes with scanpy, so that these run everywhere
        assert {subset.name for subset in smoke.datasets} == {"pbmc68k"}


BULK = """
title = "made"
spread = "interval"
gc = "gc.csv"

[[datasets]]
name = "expression"
transform = "asinh"
labels = "type"
clinical = { grade = "grade" }

[[splits]]
name = "low"
scheme = "low_values"
scale = "zscore"
options = { quantile = 0.1 }
datasets = ["expression"]

[[splits]]
scheme = "mcar"
scale = "zscore"

[base]
method = "ialm"
params = { max_iter = 5 }

[[configurations]]
name = "middle"
method = "median"

[[claims]]
text = "better"
kind = "better"
metric = "rmse"
configurations = ["base", "middle"]
value = 0.04
splits = ["low"]

[[comparisons]]
first = "base"
others = ["middle", "mean"]

[[published]]
title = "Table 1"
metric = "rmse"
dataset = "expression"
columns = { Mean = "mean" }
rows = { low = { Mean = "1.0" } }

[scale.smoke]
trials = 2
methods = { ialm = { max_iter = 2 } }
"""


def test_a_file_of_real_values_expands(write, tmp_path):
    study = find_study(write(BULK))
    assert study.shares_fits
    assert study.gc == str(tmp_path / "gc.csv")
    assert [split.label for split in study.splits] == ["low", "mcar"]
    assert study.splits_of(study.datasets[0]) == study.splits
    assert study.splits_of(dataclasses.replace(study.datasets[0], name="other")) == study.splits[1:]
    assert study.comparisons[0].others == ("middle", "mean")
    assert study.published[0].rows == {"low": {"Mean": "1.0"}}
    quick = find_study(write(BULK), scale="smoke")
    params = {name: spec.params for name, spec in quick.specs(quick.splits[0]).items()}
    assert params == {"base": {"max_iter": 2}, "middle": {}}


@pytest.mark.parametrize(
    ("old", "new", "code", "fault"),
    [
        ('"interval"', '"range"', "study-field", "'range'"),
        ('transform = "asinh"', 'transform = "sinh"', "", "'sinh'"),
        ('{ grade = "grade" }', '{ stage = "grade" }', "study-field", "clinical"),
        ('{ grade = "grade" }', '{ time = "months" }', "study-field", "clinical"),
        ("quantile = 0.1", "top = 0.1", "option-unknown", "'top'"),
        ("quantile = 0.1", 'rows = "all"', "option-unknown", "'rows'"),
        ('scheme = "mcar"\nscale = "zscore"', 'scheme = "mcar"', "study-field", "'zscore'"),
        ('scheme = "mcar"', 'scheme = "thin"', "study-field", "thin"),
        ('scheme = "mcar"', 'scheme = "low_coverage"', "study-field", "low_coverage"),
        ('scheme = "mcar"', 'scheme = "mcar"\nname = "low"', "study-name-twice", "'low'"),
        ('scheme = "mcar"', 'scheme = "mcar"\nparams = { max_iter = 3 }', "study-field", "params"),
        ('method = "median"', 'method = "median"\nafter = "save"', "study-field", "'save'"),
        ('splits = ["low"]', 'splits = ["high"]', "split-unknown", "'high'"),
        ('metric = "rmse"\nconf', 'metric = "pearson"\nconf', "study-field", "value"),
        ('"middle", "mean"]', '"middel"]', "configuration-unknown", "'middel'"),
        ('columns = { Mean = "mean" }', 'columns = { Mean = "man" }', "configuration-unknown", "'man'"),
        ("rows = { low =", "rows = { lowest =", "split-unknown", "'lowest'"),
        ('low = { Mean = "1.0" }', "low = 1.0", "study-field", "rows.low=1.0"),
        ('low = { Mean = "1.0" }', 'low = { Average = "1.0" }', "column-unknown", "'Average'"),
        ("{ ialm = { max_iter = 2 } }", "{ ialm = 2 }", "study-field", "ialm=2"),
    ],
)
def test_faults_of_a_file_of_real_values(write, old, new, code, fault):
    assert BULK.count(old) == 1
    with pytest.raises(InputError) as error:
        find_study(write(BULK.replace(old, new)), scale="smoke")
    assert error.value.code == code or not code  # no code: another room sees the fault
    assert fault in str(error.value)


@pytest.mark.parametrize("line", ['coverage = "wgbs_chr21_M_Cov"', "options = { rows = 3 }"])
def test_options_of_real_values_are_refused_with_counts(write, line):
    text = FILE.replace('scheme = "thin"', f'scheme = "thin"\n{line}')
    with pytest.raises(InputError):
        find_study(write(text))


def test_analyses_and_protocols_are_refused_with_z_scores(write):
    for line in ('downstream = ["clustering"]', 'protocol = "as_published"'):
        text = BULK.replace('scale = "zscore"', f'scale = "zscore"\n{line}', 1)
        with pytest.raises(InputError, check=has_code("study-field")):
            find_study(write(text))


def test_a_scale_keeps_what_can_still_be_said(write):
    whole = find_study(write(FILE))
    names = [configuration.name for configuration in whole.configurations]
    text = FILE.replace("[scale.smoke]", f"[scale.smoke]\nkeep = [{names[-1]!r}]".replace("'", '"'))
    small = find_study(write(text), scale="smoke")
    assert [configuration.name for configuration in small.configurations] == [names[0], names[-1]]
    assert all(set(claim.configurations) <= {names[0], names[-1]} for claim in small.claims)
    assert len(small.claims) < len(whole.claims)
    with pytest.raises(InputError, check=has_code("configuration-unknown")):
        find_study(write(text.replace("keep = [", 'keep = ["misspelt", ')), scale="smoke")
    with pytest.raises(InputError, check=has_code("scale-unknown")):
        find_study(write(FILE), scale="huge")


def test_a_file_of_ones_own_is_read_beside_the_study(write, tmp_path):
    import anndata as ad
    import numpy as np

    from imputome.studies.execute import execute

    counts = np.random.default_rng(0).poisson(2.0, (30, 8)).astype(np.float32)
    ad.AnnData(counts).write_h5ad(tmp_path / "mine.h5ad")
    text = """
title = "mine"
[[datasets]]
name = "mine"
path = "mine.h5ad"
[[splits]]
scheme = "thin"
[base]
method = "gene_mean"
"""
    table = execute(find_study(write(text)), tmp_path / "out", load=lambda name: pytest.fail(name))
    assert set(table["dataset"]) == {"mine"}
    assert set(table["status"]) == {"ok"}


def test_what_the_papers_need_is_there():
    """Claims of a paper are judged on its configuration."""
    pytest.importorskip("torch")
    zipo = find_study("zipo_claims")
    found = {configuration.name for configuration in zipo.configurations}
    assert {f"alpha_z={value}" for value in ("0", "0.01", "0.1", "1", "100", "10000", "1e+08")} <= found
    assert {f"alpha_w={value}" for value in ("0", "0.01", "0.1", "1")} <= found
    assert {"dca", "dca_paper001", "zip_dca", "tuned_dca"} <= found
    specs = zipo.specs(zipo.splits[0])
    judged = {name for claim in zipo.claims if claim.by == "paper" for name in claim.configurations}
    assert {specs[name].params["preset"] for name in judged if specs[name].name == "zipo"} == {"paper"}
    assert all(subset.n_top_genes is None for subset in zipo.datasets)  # genes without a gradient are what is pruned
    design = find_study("design_autoencoder")
    specs = design.specs(design.splits[0])
    tried = {(spec.params["depth"], spec.params["width"], spec.params["activation"]) for spec in specs.values()}
    assert {(depth, width, "relu") for depth in (1, 3, 5, 10) for width in (32, 128)} <= tried
    assert len({spec.params["activation"] for spec in specs.values()}) == 7
    full = find_study("design_autoencoder", scale="full")
    decays = {spec.params["weight_decay"] for spec in full.specs(full.splits[0]).values()}
    dropouts = {spec.params["dropout"] for spec in full.specs(full.splits[0]).values()}
    assert len(decays) >= 9
    assert len(dropouts) >= 11
    scialm = find_study("scialm_rank")
    steps = {spec.params["rank_step"] for spec in scialm.specs(scialm.splits[0]).values() if spec.name == "ialm"}
    assert {10, 50, 400} <= steps


def test_the_described_files_are_studies(write):
    pytest.importorskip("torch")
    text = (Path(__file__).parents[2] / "docs" / "studies" / "file_format.md").read_text(encoding="utf-8")
    counts, real = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    assert [claim.kind for claim in find_study(write(counts)).claims] == ["better"]
    assert find_study(write(counts), scale="smoke").trials == 1
    methods = '[base]\nmethod = "ialm"\n[[configurations]]\nname = "knn"\nmethod = "knn"\n'
    study = find_study(write(f'title = "real"\n{real}{methods}'))
    assert study.published[0].rows == {"5 % lowest": {"KNN": "0.9 ± 0.1"}}
