"""Plots show the numbers of the record: every mark is compared with what is computed here anew."""

from __future__ import annotations

import itertools
import subprocess
import sys

import anndata as ad
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

import imputome
from codes import has_code
from imputome import InputError, pl
from imputome.evaluation.clustering import expression_components
from imputome.report.plots.style import BLUE, GREY, SKY


@pytest.fixture(autouse=True)
def closed():
    """No figure of one test is left for the next."""
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


def words(axes):
    """All that is written into axes, in one line."""
    return " ".join(text.get_text() for text in axes.texts).replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


def unbroken(text):
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def points(axes):
    """Places of all dots of the scatters of axes."""
    return np.vstack([part.get_offsets() for part in axes.collections if isinstance(part, PathCollection)])


def in_order(places):
    return places[np.lexsort(places.T)]


# -- verdict -----------------------------------------------------------------------------------------------------------
def test_verdict_and_its_numbers_are_written_out(counts):
    axes = pl.verdict(counts, "nmf")
    verdict = counts.uns["imputome"]["nmf"]["verdict"]
    written = unbroken(words(axes))
    assert "! use for visualisation only" in written
    for reason in verdict["reasons"]:
        assert unbroken(reason) in written
    deviance = verdict["scores"].query("metric == 'poisson_deviance'").groupby("method")["value"].mean()
    method, mean = deviance["poisson_nmf"], deviance["gene_mean"]
    genes, null = verdict["genes"], verdict["null"]
    strong = null["after"][null["low"].ge(0.499) | null["high"].le(-0.499)].sum()
    for number in (
        f" {method:.4g};",
        f"gene_mean {mean:.4g} ",
        f" {100 * (mean - method) / mean:.2g} % lower",
        f" {genes['evident'].sum()} of {(genes['held_out'] >= 10).sum()}",
        f" {100 * genes['raised'].sum() / genes['confident'].sum():.1f} % of {genes['confident'].sum()}",
        f" {100 * strong:.1f} % after",
    ):
        assert number in written, number


@pytest.mark.parametrize(
    ("verdict", "sign"), [("use", "\u2713"), ("use for visualisation only", "!"), ("do not impute", "\u2717")]
)
def test_verdict_has_a_sign_beside_its_colour(counts, verdict, sign):
    counts.uns["imputome"]["nmf"]["verdict"]["verdict"] = verdict
    assert pl.verdict(counts).texts[0].get_text() == f"{sign} {verdict}"


@pytest.mark.parametrize("given", [False, True])
def test_verdict_fits_its_axes(counts, given):
    axes = pl.verdict(counts, ax=plt.subplots(figsize=(5, 4))[1] if given else None)
    axes.figure.canvas.draw()
    box = axes.get_window_extent()
    for text in axes.texts:
        inside = text.get_window_extent()
        assert inside.x1 <= box.x1 + 1
        assert inside.y0 >= box.y0 - 6
    tops = [text.get_window_extent().y1 for text in axes.texts]
    bottoms = [text.get_window_extent().y0 for text in axes.texts]
    assert all(low >= high - 1 for low, high in zip(bottoms[:-1], tops[1:], strict=True))  # no line on another


def test_verdict_of_real_values(real):
    verdict = real.uns["imputome"]["soft"]["verdict"]
    rows = verdict["scores"].query("method == 'soft_impute' and metric == 'rmse'").assign(metric="coverage_90")
    verdict["scores"] = pd.concat([verdict["scores"], rows.assign(value=[0.8, 0.85, 0.9])])
    written = unbroken(words(pl.verdict(real)))
    assert ": 85.0 %" in written
    assert "200 samples" in written
    assert "zeros" not in written


# -- scores ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("result", "metric"), [("counts", "poisson_deviance"), ("real", "rmse")])
def test_scores_are_points_for_splits(request, result, metric):
    adata = request.getfixturevalue(result)
    verdict = next(iter(adata.uns["imputome"].values()))["verdict"]
    axes = pl.scores(adata)
    table = verdict["scores"].query("metric == @metric")
    order = table.groupby("method")["value"].mean().sort_values().index  # the best on top
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [name if name == verdict["method"] else f"{name} (control)" for name in order]
    dots, bars = axes.lines[::2], axes.lines[1::2]
    for place, (name, dot, bar) in enumerate(zip(order, dots, bars, strict=True)):
        values = table.loc[table["method"] == name, "value"]
        np.testing.assert_array_equal(dot.get_xdata(), values)
        np.testing.assert_array_equal(dot.get_ydata(), [place] * 3)
        assert bar.get_xdata()[0] == pytest.approx(values.mean())
        assert dot.get_marker() == ("o" if name == verdict["method"] else "s")
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert "lower is better" in axes.get_xlabel()


def test_scores_of_another_metric(counts):
    axes = pl.scores(counts, metric="total_ratio")
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [1.0]
    assert "best at 1" in axes.get_xlabel()
    with pytest.raises(InputError, check=has_code("metric-not-measured")):
        pl.scores(counts, metric="rmse")


# -- zeros -------------------------------------------------------------------------------------------------------------
def test_zeros_from_the_record(counts):
    genes = counts.uns["imputome"]["nmf"]["verdict"]["genes"]
    axes = pl.zeros(counts)
    np.testing.assert_allclose(points(axes), genes[["zeros_before", "zeros_after"]])
    share = 100 * genes["raised"].sum() / genes["confident"].sum()
    assert f"{share:.1f} % of {genes['confident'].sum()} " in unbroken(axes.get_title())


@pytest.mark.parametrize("scale", ["counts", "log1p"])
def test_zeros_are_counted_without_a_check(counts, scale):
    imputome.impute(counts, method="poisson_nmf", params={"n_components": 12}, scale=scale, key_added="bare")
    X = counts.X.toarray()
    after = counts.layers["bare"].astype(float)
    if scale == "log1p":
        after = np.expm1(after) * X.sum(axis=1, keepdims=True) / 1e4
    axes = pl.zeros(counts, "bare")
    np.testing.assert_allclose(points(axes), np.column_stack([(X == 0).mean(0), (after < 0.5).mean(0)]), atol=1e-6)
    checked = counts.uns["imputome"]["nmf"]["verdict"]["genes"]  # the same fit, on all cells
    share = 100 * checked["raised"].sum() / checked["confident"].sum()
    assert f"{share:.1f} % of {checked['confident'].sum()}" in unbroken(axes.get_title())


def test_counts_that_were_normalised_since_are_asked_for(counts):
    imputome.impute(counts, method="gene_mean", key_added="bare")
    expected = points(pl.zeros(counts, "bare"))
    counts.layers["raw"] = counts.X.copy()
    counts.X = sp.csr_matrix(counts.X / 3.0)
    with pytest.raises(InputError, check=has_code("counts-changed")):
        pl.zeros(counts, "bare")
    np.testing.assert_array_equal(points(pl.zeros(counts, "bare", before="raw")), expected)
    with pytest.raises(InputError, check=has_code("layer-missing")):
        pl.zeros(counts, "bare", before="rw")


def test_zeros_of_what_was_no_counts_are_refused(counts, real):
    with pytest.raises(InputError, check=has_code("zeros-need-counts")):
        pl.zeros(real)
    imputome.impute(counts, method="gene_mean", genes=["GENE1", "GENE2"], key_added="some")
    with pytest.raises(InputError, check=has_code("all-genes-needed")):
        pl.zeros(counts, "some")


# -- reliability -------------------------------------------------------------------------------------------------------
def test_reliability_is_in_order_with_intervals(counts):
    genes = counts.uns["imputome"]["nmf"]["verdict"]["genes"]
    tested = genes[genes["held_out"] >= 10].sort_values("explained", ascending=False)
    axes = pl.reliability(counts, genes=["GENE6", "GENE3"])
    places = points(axes)
    places = places[np.argsort(places[:, 0])]
    np.testing.assert_allclose(places[:, 1], tested["explained"])
    np.testing.assert_array_equal(places[:, 0], np.arange(1, len(tested) + 1))
    (evident,) = [
        part for part in axes.collections if part.get_label() == f"{tested['evident'].sum()} shown to be better"
    ]
    assert len(evident.get_offsets()) == tested["evident"].sum()
    np.testing.assert_allclose(evident.get_offsets()[:, 1], tested["explained"][tested["evident"]])
    ends = np.array(
        [bar for part in axes.collections if isinstance(part, LineCollection) for bar in part.get_segments()]
    )
    ends = ends[np.argsort(ends[:, 0, 0])]
    np.testing.assert_allclose(ends[:, :, 1], tested[["lower", "upper"]])
    for name, text in zip(["GENE6", "GENE3"], axes.texts, strict=True):
        assert text.get_text() == name
        assert text.xy == (tested.index.get_loc(name) + 1, pytest.approx(genes.loc[name, "explained"]))
    assert f"{tested['evident'].sum()} of {len(tested)} genes" in axes.get_title()
    assert 0 < len(tested) < genes["explained"].notna().sum()  # some have held-out molecules, but too few


def test_names_do_not_lie_on_one_another(counts):
    genes = counts.uns["imputome"]["nmf"]["verdict"]["genes"].sort_values("explained", ascending=False)
    axes = pl.reliability(counts, genes=list(genes.index[:5]))
    axes.figure.canvas.draw()
    boxes = sorted((Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


def test_unknown_genes_are_refused_with_a_close_one(counts):
    with pytest.raises(InputError, check=has_code("unknown-gene")) as error:
        pl.reliability(counts, genes="gene6")
    assert "'GENE6'" in str(error.value)
    with pytest.raises(InputError, check=has_code("unknown-gene")) as error:
        pl.before_after(counts, "GENE66", "GENE1")
    assert "'GENE6'" in str(error.value)
    genes = counts.uns["imputome"]["nmf"]["verdict"]["genes"]
    untested = genes.index[genes["explained"].isna()]
    assert len(untested)
    with pytest.raises(InputError, check=has_code("nothing-held-out")):
        pl.reliability(counts, genes=untested[0])


# -- embedding ---------------------------------------------------------------------------------------------------------
def normalized(X):
    return X / X.sum(axis=1, keepdims=True) * 1e4


def test_embedding_shows_components_of_both(counts):
    both = pl.embedding(counts)
    X = counts.X.toarray().astype(float)
    depth = X.sum(axis=1, keepdims=True)
    before = expression_components(normalized(X), n_components=2)
    after = expression_components(counts.layers["nmf"] / depth * 1e4, n_components=2)
    for axes, expected in zip(both, (before, after), strict=True):
        places = points(axes)
        assert len(places) == 300
        np.testing.assert_allclose(
            np.sort(np.abs(places), axis=0), np.sort(np.abs(expected), axis=0), rtol=1e-3, atol=0.05
        )
        assert "300 cells" in axes.get_title()
    # a label that was checked for mixing is taken by itself, a colour and a place in the legend for each type
    types = counts.obs["cell_type"]
    legend = both[1].get_legend()
    assert legend.get_title().get_text() == "cell_type"
    assert [text.get_text() for text in legend.get_texts()] == sorted(types.unique())
    sizes = {part.get_label(): len(part.get_offsets()) for part in both[0].collections}
    assert sizes == types.value_counts().to_dict()
    for kind, part in ((part.get_label(), part) for part in both[0].collections):
        own = before[(types == kind).to_numpy()]
        np.testing.assert_allclose(np.abs(part.get_offsets()), np.abs(own), rtol=1e-3, atol=0.05)


def test_both_panels_point_the_same_way(counts):
    counts.obs["number"] = np.arange(300.0)
    both = pl.embedding(counts, color="number")
    one, other = (axes.collections[-1] for axes in both)
    places = [np.asarray(part.get_offsets())[np.argsort(part.get_array())] for part in (one, other)]
    assert np.array_equal(np.sort(one.get_array()), np.arange(300.0))
    assert ((places[0] * places[1]).sum(axis=0) > 0).all()


def test_a_gene_has_one_scale_of_colours(counts):
    both = pl.embedding(counts, color="GENE7")
    X = counts.X.toarray().astype(float)
    before = np.log1p(normalized(X)[:, 7])
    after = np.log1p(counts.layers["nmf"][:, 7] / X.sum(axis=1) * 1e4)
    one, other = (axes.collections[-1] for axes in both)
    np.testing.assert_allclose(np.sort(one.get_array()), np.sort(before), rtol=1e-5)
    np.testing.assert_allclose(np.sort(other.get_array()), np.sort(after), rtol=1e-5)
    limits = (min(before.min(), after.min()), max(before.max(), after.max()))
    assert one.get_clim() == other.get_clim() == pytest.approx(limits)


def test_many_groups_differ_by_marker_too(counts):
    counts.obs["fine"] = np.arange(300) % 40
    counts.obs["fine"] = counts.obs["fine"].astype(str).astype("category")
    both = pl.embedding(counts, color="fine")
    looks = {
        (to_hex(part.get_facecolor()[0]), part.get_paths()[0].vertices.tobytes())
        for part in both[0].collections
        if part.get_label() != "other or none"
    }
    assert len(looks) == 28  # seven colours and four marks
    rest = next(part for part in both[0].collections if part.get_label() == "other or none")
    assert len(rest.get_offsets()) == 300 - sum(
        len(part.get_offsets()) for part in both[0].collections if part is not rest
    )


def test_cells_without_a_group_are_grey(counts):
    counts.obs["some"] = counts.obs["cell_type"].where(np.arange(300) >= 40)
    sizes = {part.get_label(): len(part.get_offsets()) for part in pl.embedding(counts, color="some")[0].collections}
    assert sizes == {"other or none": 40, **counts.obs["some"].value_counts().to_dict()}


def test_a_sample_of_cells_is_the_same_each_time(counts):
    first, second = (points(pl.embedding(counts, max_cells=50)[0]) for _ in range(2))
    assert len(first) == 50
    np.testing.assert_array_equal(first, second)
    other = points(pl.embedding(counts, max_cells=50, random_state=1)[0])
    assert not np.array_equal(in_order(first), in_order(other))
    assert "50 of 300 cells" in pl.embedding(counts, max_cells=50)[0].get_title()


def test_embedding_of_real_values(real):
    both = pl.embedding(real)
    X = np.where(np.isnan(real.X), np.nanmean(real.X, axis=0), real.X)
    for axes, values in zip(both, (X, real.layers["soft"]), strict=True):
        u, s, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
        expected = np.abs(u[:, :2] * s[:2])
        np.testing.assert_allclose(np.sort(np.abs(points(axes)), 0), np.sort(expected, 0), rtol=1e-3, atol=1e-3)
        assert axes.get_legend() is None
    hidden = np.isnan(real.X[:, 3])
    coloured = pl.embedding(real, color="feature3")
    assert len(coloured[0].collections[0].get_offsets()) == hidden.sum()  # grey: not observed
    assert to_hex(coloured[0].collections[0].get_facecolor()[0]) == GREY.lower()


def test_an_unknown_colour_is_refused(counts):
    with pytest.raises(InputError, check=has_code("color-unknown")) as error:
        pl.embedding(counts, color="celltype")
    assert "'cell_type'" in str(error.value)
    with pytest.raises(InputError, check=has_code("too-few-cells")):
        pl.embedding(counts, max_cells=1)


# -- history -----------------------------------------------------------------------------------------------------------
def test_history_shows_losses_by_epoch(counts):
    losses = {"train_loss": np.array([9.0, 7.0, 6.0, 5.5]), "validation_loss": np.array([8.0, 7.5, 7.2, 7.4])}
    record = counts.uns["imputome"]["nmf"]
    record["history"] = {"epoch": np.array([1, 2, 3, 4]), "learning_rate": np.ones(4), **losses}
    axes = pl.history(counts)
    for line, (name, values) in zip(axes.lines[:2], losses.items(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
        np.testing.assert_array_equal(line.get_ydata(), values)
        assert line.get_label() == name.replace("_", " ")
    assert axes.lines[2].get_xdata()[0] == 3  # where the validation loss is least
    assert "4 epochs, lowest validation loss at 3" in axes.get_title()
    assert len(axes.figure.axes) == 1


def test_losses_on_different_levels_have_an_axis_each(counts):
    record = counts.uns["imputome"]["nmf"]
    record["history"] = {"epoch": [1, 2], "train_loss": [900.0, 800.0], "validation_loss": [9.0, 8.0]}
    left, right = pl.history(counts).figure.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [900, 800])
    np.testing.assert_array_equal(right.lines[0].get_ydata(), [9, 8])
    assert right.get_ylabel() == "validation loss (right axis)"


def test_a_fit_without_losses_shows_its_progress(real):
    axes = pl.history(real)
    record = real.uns["imputome"]["soft"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), record["history"]["change"])
    record["history"] = {}
    with pytest.raises(InputError, check=has_code("no-history")):
        pl.history(real)


# -- two genes ---------------------------------------------------------------------------------------------------------
def test_two_genes_before_and_after(counts):
    both = pl.before_after(counts, "GENE6", "GENE7")
    X = counts.X.toarray().astype(float)
    before = np.log1p(normalized(X)[:, [6, 7]])
    after = np.log1p(counts.layers["nmf"][:, [6, 7]] / X.sum(axis=1, keepdims=True) * 1e4)
    for axes, expected in zip(both, (before, after), strict=True):
        np.testing.assert_allclose(points(axes), expected, rtol=1e-5)
        assert f"r = {np.corrcoef(expected.T)[0, 1]:.2f}" in axes.get_title()
        assert axes.get_xlabel() == "GENE6, ln(1 + counts per 10,000)"
    assert both[0].get_xlim() == both[1].get_xlim()
    assert both[0].get_ylim() == both[1].get_ylim()


def test_false_correlations_are_noted(counts):
    null = counts.uns["imputome"]["nmf"]["verdict"]["null"]
    strong = null["low"].ge(0.499) | null["high"].le(-0.499)
    assert null["after"][strong].sum() > 0.02
    assert f"{100 * null['after'][strong].sum():.1f} % " in words(pl.before_after(counts, "GENE6", "GENE7")[1])
    null["after"] = null["before"]
    assert words(pl.before_after(counts, "GENE6", "GENE7")[1]) == ""
    del counts.uns["imputome"]["nmf"]["verdict"]
    assert words(pl.before_after(counts, "GENE6", "GENE7")[1]) == ""


def test_real_values_are_compared_where_both_are_known(real):
    both = pl.before_after(real, "feature1", "feature2")
    known = np.isfinite(real.X[:, 1:3]).all(axis=1)
    assert known.sum() < 200
    expected = np.corrcoef(real.X[known, 1:3].T)[0, 1]
    assert f"r = {expected:.2f}\n{known.sum()} samples" in both[0].get_title()
    assert both[1].get_title().endswith("200 samples")
    assert both[0].get_xlabel() == "feature1, unit of the input"


def test_genes_that_alone_were_imputed(counts):
    imputome.impute(counts, method="gene_mean", posterior=True, genes=["GENE6", "GENE7"], key_added="some")
    both = pl.before_after(counts, "GENE6", "GENE7", "some")
    depth = counts.X.toarray().sum(axis=1, keepdims=True)
    expected = np.log1p(counts.obsm["some"].to_numpy() / depth * 1e4)
    np.testing.assert_allclose(points(both[1]), expected, rtol=1e-4)
    with pytest.raises(InputError, check=has_code("unknown-gene")):
        pl.before_after(counts, "GENE6", "GENE8", "some")


# -- all ---------------------------------------------------------------------------------------------------------------
ONE = ("verdict", "scores", "zeros", "reliability", "history")


def drawn(name, adata, **options):
    genes = ("GENE6", "GENE7") if name == "before_after" else ()
    if name == "history":
        adata.uns["imputome"]["nmf"]["history"] = {"train_loss": np.array([2.0, 1.0])}
    return getattr(pl, name)(adata, *genes, **options)


@pytest.mark.parametrize("name", pl.__all__)
def test_axes_given_are_used_without_pyplot(counts, name):
    figure = Figure(figsize=(10, 5))
    panels = figure.subplots(1, 1 if name in ONE else 2)
    returned = drawn(name, counts, ax=panels)
    assert np.array_equal(np.ravel(returned), np.ravel(panels))
    assert plt.get_fignums() == []
    figure.canvas.draw()


@pytest.mark.parametrize("name", pl.__all__)
def test_plots_of_a_file_read_back(counts, tmp_path, name):
    counts.write_h5ad(tmp_path / "a.h5ad")
    axes = np.ravel(drawn(name, ad.read_h5ad(tmp_path / "a.h5ad")))
    axes[0].figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.parametrize("name", pl.__all__)
def test_results_are_named(counts, name):
    with pytest.raises(InputError, check=has_code("no-such-result")):
        drawn(name, counts, key="nfm")
    imputome.impute(counts, method="gene_mean", key_added="mean")
    with pytest.raises(InputError, check=has_code("several-results")):
        drawn(name, counts)
    with pytest.raises(InputError, check=has_code("no-result")):
        getattr(pl, name)(ad.AnnData(np.ones((3, 3))), *(("a", "b") if name == "before_after" else ()))


@pytest.mark.parametrize("name", ["verdict", "scores", "reliability"])
def test_a_result_without_a_check_is_refused(counts, name):
    del counts.uns["imputome"]["nmf"]["verdict"]
    with pytest.raises(InputError, check=has_code("not-checked")):
        drawn(name, counts)


def test_wrong_axes_are_refused(counts):
    one = Figure().subplots()
    with pytest.raises(InputError, check=has_code("axes-invalid")):
        pl.embedding(counts, ax=one)
    with pytest.raises(InputError, check=has_code("axes-invalid")):
        pl.scores(counts, ax="here")


def test_marks_are_lighter_on_a_dark_ground(counts):
    light, dark = (Figure().subplots() for _ in range(2))
    dark.set_facecolor("black")
    for axes, color in ((light, BLUE), (dark, SKY)):
        pl.zeros(counts, ax=axes)
        assert to_hex(axes.collections[0].get_facecolor()[0]) == color.lower()


def test_plots_are_found_without_loading_matplotlib():
    code = "import sys, imputome; imputome.pl.scores; print('matplotlib' in sys.modules, 'sklearn' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
