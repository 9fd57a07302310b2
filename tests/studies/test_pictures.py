"""Pictures of cells in studies: what their panels hold, that each is made once, the pages, and faults of the table."""

from __future__ import annotations

import dataclasses
import json
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from codes import has_code
from imputome import methods
from imputome.cli import run
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.splits import make_split, normalized_before, seed_for
from imputome.report.study_page import write_results
from imputome.studies import panels
from imputome.studies.execute import drawn, execute, plan
from imputome.studies.inputs import MethodSpec
from imputome.studies.panels import MAX_LABELS, NOT_KNOWN, OTHER
from imputome.studies.pictures import Picture
from imputome.studies.spec import Configuration, Hiding, Study, Subset, find_study

N, G, NEIGHBORS = 70, 30, 15
LABELS = np.repeat(["a", "b"], N // 2).astype(object)
NMF = MethodSpec("poisson_nmf", {"n_components": 3, "max_iter": 5})
HIDING = Hiding("random", 0.2, name="a fifth", protocol="as_published")
PICTURE = Picture("All", ("raw", "masked", "base", "gene_mean"), by="tsne", split="a fifth")
LATENTS = Picture("Latents", ("raw", "base"), by="tsne", of="latents", labels="other")
STUDY = Study(
    "made",
    "a made study",
    (Subset("two groups", labels="type"),),
    (HIDING,),
    (Configuration("base", NMF), Configuration("more", MethodSpec("poisson_nmf", {**NMF.params, "n_components": 5}))),
    pictures=(PICTURE, LATENTS),
)


def replaced(**changes):
    return dataclasses.replace(PICTURE, **changes)


def counts():
    rng = np.random.default_rng(0)
    rates = rng.gamma(1.0, 2.0, (N, G))
    rates[N // 2 :, :10] *= 4
    return rng.poisson(rates).astype(np.float32)


def load(name):
    adata = ad.AnnData(counts())
    adata.obs_names = [f"cell{i}" for i in range(N)]
    adata.obs["type"] = LABELS
    other = pd.Series(LABELS.copy(), index=adata.obs_names)
    other.iloc[:5] = None
    adata.obs["other"] = other
    adata.obs["many"] = [f"type {i // 2}" for i in range(N)]
    adata.obs["one"] = "x"
    return adata


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return folder, execute(STUDY, folder, load=load)


def components(values):
    """Principal components of ln(1 + values), by numpy."""
    logged = np.log1p(values)
    left, size, _ = np.linalg.svd(logged - logged.mean(axis=0), full_matrices=False)
    return (left * size)[:, : min(values.shape) - 1]


def share(embedding, labels):
    """Mean share of the nearest neighbours with the same label, by a loop."""
    shares = []
    for i in range(len(labels)):
        distance = np.linalg.norm(embedding - embedding[i], axis=1)
        distance[i] = np.inf
        shares.append(np.mean(labels[np.argsort(distance)[:NEIGHBORS]] == labels[i]))
    return np.mean(shares)


# -- what the panels hold ----------------------------------------------------------------------------------------------
def test_panels_are_of_the_data_of_the_split_and_of_the_first_trial(made):
    drawing = drawn(plan(STUDY, made[0], load=load))[0]
    data = as_data(counts(), kind="counts")
    data = dataclasses.replace(data, library_size=data.depth)
    seed = seed_for("two groups", "random", 0.2, 0, base=0)
    split = normalized_before(make_split("random", data, rng=np.random.default_rng(seed), fraction=0.2), data)
    per = 1e4 / data.depth[:, None]
    fits = {
        "base (poisson_nmf)": methods.create("poisson_nmf", NMF.params, random_state=seed % 2**31),
        "gene_mean": methods.create("gene_mean"),
    }
    expected = {"raw": counts() * per, "masked": split.train.X.toarray() * per}
    expected |= {name: fit.fit_transform(split.train).to_array(scale="counts") * per for name, fit in fits.items()}
    assert list(drawing.panels) == ["raw", "masked", "base (poisson_nmf)", "gene_mean"]
    for name, values in expected.items():
        assert drawing.panels[name]["label"].tolist() == LABELS.tolist()
        if name == "gene_mean":  # all cells have the same expression, and none is nearer than others
            continue
        near, on_map = drawing.near[name]
        assert near == pytest.approx(share(components(values), LABELS), abs=1e-3), name
        assert on_map == pytest.approx(share(drawing.panels[name][["x", "y"]].to_numpy(), LABELS), abs=0.01)
    assert drawing.chance == pytest.approx((N // 2 - 1) / (N - 1))
    assert drawing.near["gene_mean"][0] == pytest.approx(drawing.chance, abs=0.05)
    assert drawing.near["raw"][0] > drawing.chance + 0.1


def test_latents_of_a_fit_on_all_data(made):
    drawing = drawn(plan(STUDY, made[0], load=load))[1]
    data = as_data(counts(), kind="counts")
    seed = seed_for("two groups", "none", None, 0, base=0)
    latent = methods.create("poisson_nmf", NMF.params, random_state=seed % 2**31).fit_transform(data).latent
    # five cells have no label: they are drawn, but not counted
    assert drawing.labels == {"b": 35, "a": 30, NOT_KNOWN: 5}
    assert drawing.near["base (poisson_nmf)"][0] == pytest.approx(share(latent[5:], LABELS[5:]), abs=1e-3)
    assert (drawing.panels["raw"]["label"] == NOT_KNOWN).sum() == 5
    assert drawing.column == "other"


def test_maps_are_rotated_to_match_the_first(made):
    todo = plan(STUDY, made[0], load=load)
    drawing = drawn(todo)[0]
    first = drawing.panels["raw"][["x", "y"]].to_numpy()
    stored = pd.read_csv(todo.panels[2].file(STUDY, made[0]))[["x", "y"]].to_numpy()
    shown = drawing.panels["base (poisson_nmf)"][["x", "y"]].to_numpy()
    centred = stored - stored.mean(axis=0)
    np.testing.assert_allclose(
        np.linalg.norm(centred[0] - centred[7:20], axis=1), np.linalg.norm(shown[0] - shown[7:20], axis=1), rtol=1e-6
    )
    assert ((shown - first) ** 2).sum() <= ((centred - first) ** 2).sum()


def test_real_values_with_gaps(tmp_path):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, 12)) + 2 * (np.arange(40) % 2)[:, None]
    values[rng.random(values.shape) < 0.1] = np.nan
    adata = ad.AnnData(values)
    adata.obs["type"] = np.where(np.arange(40) % 2, "odd", "even")
    picture = Picture("Samples", ("raw", "base"), by="tsne", labels="type")
    study = Study(
        "real",
        "real values",
        (Subset("values", kind="real"),),
        (Hiding("mcar"),),
        (Configuration("base", MethodSpec("svd", {"rank": 2})),),
        pictures=(picture, dataclasses.replace(picture, title="Masked", panels=("raw", "masked"), split="mcar")),
    )
    whole, masked = drawings = drawn(_panels_only(study, tmp_path, lambda name: adata))
    assert not any(drawing.failed for drawing in drawings)
    assert whole.near["raw"][0] > 0.8 > whole.chance
    # the split has test rows; so both panels have these only
    assert len(masked.panels["raw"]) == len(masked.panels["masked"]) == 8


def test_imputed_counts_can_be_normalised_again(tmp_path):
    base = Configuration("base", MethodSpec("ialm"))  # which adds molecules to each cell
    picture = replaced(panels=("base",), renormalize=True, split="")
    study = dataclasses.replace(STUDY, configurations=(base,), pictures=(picture,))
    (drawing,) = drawn(_panels_only(study, tmp_path, load))
    seed = seed_for("two groups", "none", None, 0) % 2**31
    fit = methods.create("ialm", random_state=seed).fit_transform(as_data(counts(), kind="counts"))
    values = fit.to_array()
    again, before = (1e4 * values / total.sum(axis=1, keepdims=True) for total in (values, counts()))
    again, before = (share(components(each), LABELS) for each in (again, before))
    assert drawing.near["base (ialm)"][0] == pytest.approx(again, abs=1e-3)
    assert abs(again - before) > 2e-3


def _panels_only(study, folder, loader):
    """Make the panels, and run nothing else."""
    todo = plan(study, folder, load=loader)
    (folder / "parts").mkdir(exist_ok=True)
    for panel in todo.panels_left:
        panel.write(study, folder, panel.run(study, todo.datasets[panel.subset.label][0], todo.tables))
    return todo


def test_many_labels_and_one(tmp_path):
    pictures = tuple(Picture(column, ("raw",), by="tsne", labels=column) for column in ("many", "one"))
    many, one = drawn(_panels_only(dataclasses.replace(STUDY, pictures=pictures), tmp_path, load))
    assert len(many.labels) == MAX_LABELS
    assert many.labels[OTHER] == N - 2 * (MAX_LABELS - 1)
    assert (many.panels["raw"]["label"] == OTHER).sum() == many.labels[OTHER]
    assert np.isnan(one.chance)


# -- made once ---------------------------------------------------------------------------------------------------------
def test_each_panel_is_made_once(made, monkeypatch):
    folder, _ = made
    files = {path: path.read_bytes() for path in (folder / "parts").glob("picture_*.csv")}
    assert len(files) == 6
    with monkeypatch.context() as patched:
        patched.setattr(panels, "coordinates", lambda *_, **__: pytest.fail("it was made again"))
        execute(STUDY, folder, load=load)
    gone, damaged = sorted(files)[:2]
    gone.unlink()
    damaged.write_text("no table")
    todo = plan(STUDY, folder, load=load)
    assert (len(todo.left), len(todo.panels), len(todo.panels_left)) == (0, 6, 2)
    execute(STUDY, folder, load=load)
    assert {path: path.read_bytes() for path in files} == files
    other = dataclasses.replace(STUDY, seed=1, pictures=(PICTURE, PICTURE))
    todo = plan(other, folder, load=load)
    assert (len(todo.panels), len(todo.panels_left)) == (8, 4)  # two pictures share their panels


def test_a_panel_that_fails_is_told_and_tried_again(made, tmp_path, monkeypatch):
    def failing(values, **_):
        raise ValueError("no map today")

    study = dataclasses.replace(STUDY, pictures=(LATENTS,))
    with monkeypatch.context() as patched:
        patched.setattr(panels, "coordinates", failing)
        todo = _panels_only(study, tmp_path, load)
    (drawing,) = drawn(todo)
    assert not drawing.panels
    assert drawing.failed["raw"] == "ValueError: no map today"
    assert len(plan(study, tmp_path, load=load).panels_left) == 2
    for module in ("altair", "vl_convert"):
        pytest.importorskip(module)
    write_results(study, made[1], tmp_path, pictures=[drawing])
    assert "raw is missing: ValueError: no map today" in (tmp_path / "made.html").read_text()
    _panels_only(study, tmp_path, load)
    assert not drawn(todo)[0].failed


def test_workers_make_the_same_panels(made, tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle")
    pytest.importorskip("distributed")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    study = dataclasses.replace(STUDY, pictures=(LATENTS,))
    try:
        execute(study, tmp_path, load=load, workers=1)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    for path in sorted((tmp_path / "parts").glob("picture_*.csv")):
        here, there = pd.read_csv(made[0] / "parts" / path.name), pd.read_csv(path)
        np.testing.assert_allclose(here["near"], there["near"], atol=1e-9)


# -- the pages ---------------------------------------------------------------------------------------------------------
def test_the_pages_have_each_panel(made, tmp_path):
    for module in ("altair", "vl_convert"):
        pytest.importorskip(module)
    pictures = drawn(plan(STUDY, made[0], load=load))
    written = write_results(STUDY, made[1], made[0], page=tmp_path, pictures=pictures)
    files = [tmp_path / "figures" / f"made-picture-{number}-1.svg" for number in (1, 2)]
    assert set(files) <= set(written.files)
    for path, drawing in zip(files, pictures, strict=True):
        picture = path.read_text()
        assert "var(--" not in picture
        assert all(f"{name}: " in picture for name in drawing.panels)
    page = (tmp_path / "made.html").read_text()
    specs = {number: page.partition(f'id="spec-picture-{number}">')[2] for number in ("1-1-1", "1-1-3", "2-1-2")}
    scales = []
    for text in specs.values():
        spec = json.loads(text.partition("</script>")[0])
        colors = spec["layer"][0]["encoding"]["color"]["scale"]
        scales.append(dict(zip(colors["domain"], colors["range"], strict=True)))
        assert len(spec["datasets"]["rows"]) == N
    assert scales[0] == scales[1]
    assert scales[2] == {**scales[0], NOT_KNOWN: "var(--muted)"}
    assert page.count('<div class="charts panels">') == 2
    markdown = (tmp_path / "made.md").read_text()
    assert all(f"figures/{path.name}" in markdown for path in files)
    assert "t-SNE of 70 cells, coloured by type; seed 0." in markdown
    assert "panel masked is what the split 'a fifth' leaves of them" in markdown.replace("Panel", "panel")


def test_the_command_tells_of_pictures(tmp_path, capsys):
    (tmp_path / "small.toml").write_text(FILE)
    line = [str(tmp_path / "small.toml"), "-o", str(tmp_path / "out")]
    assert run(["study", "run", *line, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["panels"], told["panels_left"]) == (2, 2)
    assert run(["study", "run", *line, "--dry-run"]) == 0
    assert "and 2 of 2 panels of pictures are left" in capsys.readouterr().out
    assert run(["study", "show", line[0]]) == 0
    assert "pictures: 1\n  Cells" in capsys.readouterr().out


# -- the table of the file ---------------------------------------------------------------------------------------------
FILE = """
title = "made"

[[datasets]]
name = "pbmc68k"
max_cells = 40

[[splits]]
scheme = "thin"

[base]
method = "poisson_nmf"
params = { n_components = 2, max_iter = 5 }

[[configurations]]
name = "means"
method = "gene_mean"

[[pictures]]
title = "Cells"
by = "tsne"
of = "imputed"
split = "thin"
labels = "cell_type"
panels = ["masked", "base"]

[scale.smoke]
keep = ["base"]
"""


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('"masked", "base"', '"masked", "bases"', "configuration-unknown"),
        ('"masked", "base"', "", "study-field"),
        ('"masked", "base"', '"base", "base"', "panel-twice"),
        ('split = "thin"', 'split = "thick"', "split-unknown"),
        ('split = "thin"', 'datasets = ["pbmc3k"]\nsplit = "thin"', "dataset-unknown"),
        ('split = "thin"', "", "split-needed"),
        ('labels = "cell_type"', "", "labels-needed"),
        ('by = "tsne"', 'by = "pca"', "study-field"),
        ('of = "imputed"', 'of = "latents"\nrenormalize = true', "renormalize-latents"),
        ('of = "imputed"', 'of = "latent"', "study-field"),
        ('of = "imputed"\nsplit = "thin"', 'of = "latents"\nsplits = ["thin"]', "study-field"),
    ],
)
def test_faults_of_the_table(tmp_path, old, new, code):
    path = tmp_path / "made.toml"
    assert old in FILE
    path.write_text(FILE.replace(old, new))
    with pytest.raises(InputError, check=has_code(code), match=r"^made\.toml"):
        find_study(str(path))


def test_methods_without_latents_and_columns_that_are_not_there(tmp_path):
    path = tmp_path / "made.toml"
    path.write_text(FILE.replace('of = "imputed"', 'of = "latents"').replace('"masked", "base"', '"base", "means"'))
    with pytest.raises(InputError, match="gene_mean of 'means' has no latents", check=has_code("no-latents")):
        find_study(str(path))
    with pytest.raises(ValidationError, match="all_zeros of 'all_zeros' has no latents"):  # a control of every study
        dataclasses.replace(STUDY, pictures=(dataclasses.replace(LATENTS, panels=("base", "all_zeros")),))
    study = dataclasses.replace(STUDY, pictures=(dataclasses.replace(LATENTS, labels="nothing"),))
    with pytest.raises(InputError, match="type, other", check=has_code("no-obs-column")):
        plan(study, tmp_path, load=load)
    shared = dataclasses.replace(HIDING, scheme="mcar", protocol="honest", scale="zscore")
    base = Configuration("base", MethodSpec("svd"))
    with pytest.raises(ValidationError, match="leave split out"):
        Study("z", "z", (Subset("x", labels="t"),), (shared,), (base,), pictures=(replaced(panels=("raw", "base")),))


def test_scales_and_chosen_datasets_leave_pictures_out(tmp_path):
    path = tmp_path / "made.toml"
    path.write_text(FILE.replace('"masked", "base"', '"masked", "base", "means"'))
    assert find_study(str(path)).pictures[0].panels == ("masked", "base", "means")
    assert find_study(str(path), scale="smoke").pictures[0].panels == ("masked", "base")
    path.write_text(FILE.replace('"masked", "base"', '"masked", "means"'))
    assert find_study(str(path), scale="smoke").pictures == ()  # the data alone
    path.write_text(FILE.replace('keep = ["base"]', 'splits = [{ scheme = "random" }]'))
    assert find_study(str(path), scale="smoke").pictures == ()
    two = dataclasses.replace(STUDY, datasets=(*STUDY.datasets, Subset("b", labels="type")))
    two = dataclasses.replace(two, pictures=(replaced(datasets=("b",)), PICTURE))
    assert two.only(["two groups"]).pictures == (PICTURE,)
    assert two.only(["b"]).pictures == two.pictures
