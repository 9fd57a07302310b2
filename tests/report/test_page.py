"""What the page shows, that no name breaks out of it, that it needs no network, and its size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import imputome
from codes import has_code
from imputome.core.data import as_data
from imputome.errors import InputError, MissingExtraError
from imputome.evaluation.maps import rotated
from imputome.methods import get, info, names
from imputome.report.before_after import BeforeAfter, measure
from imputome.report.html.citation import of_method
from imputome.report.html.content import chosen_label, of_imputation, of_result
from imputome.report.html.page import PACKAGES, render, write_report
from imputome.report.html.parts import text_of
from imputome.report.html.scoreboard import of_table
from imputome.report.html.sections import sections
from imputome.result.record import find_record
from imputome.studies.results import summary
from imputome.trust.zeros import zeros_before_and_after

LIMIT = 5_000_000  # bytes of a page


class Page(HTMLParser):
    """Elements with their attributes, texts of scripts and styles, and all visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self._inside: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.text += data
        else:
            self.raw.append((*self._inside, data))

    def data(self, name: str):
        """The JSON of the script with that id."""
        return json.loads("".join(text for _, attrs, text in self.raw if attrs.get("id") == name))

    def code(self) -> str:
        return "".join(text for tag, attrs, text in self.raw if tag == "script" and "type" not in attrs)

    def headings(self) -> list[str]:
        return [attrs["id"] for tag, attrs in self.elements if tag == "section"]


def page_of(content) -> Page:
    return Page(render(content))


# -- what is on it -----------------------------------------------------------------------------------------------------
def test_all_sections_of_a_checked_result(page_counts):
    page = page_of(of_result(page_counts, source="in.h5ad", map="pca", command="imputome impute in.h5ad -o out.h5ad"))
    expected = ["verdict", "done", "scores", "race", "zeros", "genes", "spread", "embedding", "null", "calibration"]
    assert page.headings() == [*expected, "mixing", "history", "cite"]
    for text in (
        "use for visualisation only",
        "Its error is <b>3 %</b> less than that of the closest control",
        "poisson_nmf (rank=8)",
        "left out: no time was left",
        "120 cells × 60 genes",
        "imputome impute in.h5ad -o out.h5ad",
        "10.1038/44565",
        "cff-version",
    ):
        assert text in page.text, text
    charts = [attrs["data-spec"] for tag, attrs in page.elements if tag == "div" and "data-spec" in attrs]
    assert charts == [
        *("spec-scores", "spec-race", "spec-zeros", "spec-reliability", "spec-variance", "spec-totals"),
        *("spec-map-before", "spec-map-after", "spec-null", "spec-calibration", "spec-mixing-0", "spec-history"),
    ]
    for name in charts:
        spec = page.data(name)
        assert spec["description"]
        assert spec["width"] == "container"
        assert spec["datasets"]["rows"], name


def test_an_unchecked_result_leaves_out_what_is_not_known(plain):
    page = page_of(of_result(plain, map="pca"))
    assert "not checked" in page.text
    assert page.headings() == ["verdict", "done", "zeros", "genes", "spread", "embedding", "cite"]


@pytest.mark.parametrize(
    ("verdict", "tone", "sign"),
    [("use", "good", "✓"), ("use for visualisation only", "fair", "!"), ("do not impute", "bad", "✕")],
)
def test_the_verdict_has_words_and_a_sign(page_counts, verdict, tone, sign):
    page_counts.uns["imputome"]["nmf"]["verdict"]["verdict"] = verdict
    text = render(of_result(page_counts, map="pca"))
    assert f'class="verdict {tone}"' in text
    assert re.search(rf'<p class="call"><span class="sign" aria-hidden="true">{sign}</span> {verdict}</p>', text)


def test_genes_are_measured_as_a_naive_look_does(page_counts):
    table = of_result(page_counts, map="pca").measured.genes
    X, after = page_counts.X.toarray().astype(float), np.asarray(page_counts.layers["nmf"], dtype=float)
    assert list(table.index) == list(page_counts.var_names)
    np.testing.assert_allclose(table["mean_before"], X.mean(axis=0))
    np.testing.assert_allclose(table["mean_after"], after.mean(axis=0))
    np.testing.assert_allclose(table["variance_before"], X.var(axis=0), atol=1e-9)
    np.testing.assert_allclose(table["variance_after"], after.var(axis=0), atol=1e-9)
    np.testing.assert_allclose(table["zeros_before"], (X == 0).mean(axis=0))
    np.testing.assert_allclose(table["zeros_after"], (after < 0.5).mean(axis=0))


def test_totals_are_those_of_cells(page_counts):
    totals = of_result(page_counts, map="pca").measured.totals
    np.testing.assert_allclose(totals["before"], page_counts.X.sum(axis=1).A1)
    np.testing.assert_allclose(totals["after"], np.asarray(page_counts.layers["nmf"], dtype=float).sum(axis=1))


def test_a_live_imputation_gives_the_page_of_its_stored_result(plain):
    data = as_data(plain.X, kind="counts", obs_names=plain.obs_names, var_names=plain.var_names)
    imputation = get("gene_mean")().fit_transform(data)
    _, record = find_record(plain)
    live = of_imputation(
        data, imputation, record=record, key="gene_mean", scale="counts", labels=plain.obs, source="in.h5ad", map="pca"
    )
    stored = of_result(plain, source="in.h5ad", map="pca")
    assert live.record == stored.record
    assert live.label == stored.label == "cell_type"
    pd.testing.assert_frame_equal(live.genes, stored.genes, rtol=1e-5)
    pd.testing.assert_frame_equal(live.measured.totals, stored.measured.totals, rtol=1e-5)
    zeros = zeros_before_and_after(imputation)
    np.testing.assert_array_equal(live.genes["confident"], zeros.confident)
    np.testing.assert_array_equal(live.genes["raised"], zeros.raised)


def test_a_live_imputation_of_real_values(page_real):
    data = as_data(page_real.X, kind="real", obs_names=page_real.obs_names, var_names=page_real.var_names)
    live = of_imputation(
        data,
        get("svd")().fit_transform(data),
        record=replace(find_record(page_real)[1], command="imputome impute in.csv"),
        key="svd",
        scale="input",
        labels=pd.DataFrame({"sex": ["f", "m"] * 30}, index=page_real.obs_names),
        map="pca",
    )
    stored = of_result(page_real, map="pca")
    assert live.label == "sex"
    assert live.command == "imputome impute in.csv"
    pd.testing.assert_frame_equal(live.genes, stored.genes, rtol=1e-4)
    assert [section.id for section in sections(live)] == [section.id for section in sections(stored)]


def test_genes_and_zeros_do_not_depend_on_the_scale_that_was_written(plain, fresh):
    other = fresh()
    imputome.impute(other, method="gene_mean", scale="log1p")
    pd.testing.assert_frame_equal(of_result(other, map="pca").genes, of_result(plain, map="pca").genes, rtol=1e-4)


def test_some_genes_only(plain, fresh):
    adata = fresh()
    chosen = ["gene5", "gene9", "gene30", "gene31"]
    imputome.impute(adata, method="gene_mean", genes=chosen)
    content = of_result(adata, map="pca")
    assert content.shape == (120, 4)
    everything = of_result(plain, map="pca").genes
    pd.testing.assert_frame_equal(content.genes, everything.loc[chosen], rtol=1e-5)


def test_some_genes_on_a_scale_that_needs_the_library_are_refused(fresh):
    adata = fresh()
    part = imputome.impute(adata, method="gene_mean", genes=["gene5", "gene9", "gene30"], copy=True)
    assert of_result(part, map="pca").shape == (120, 3)
    part = imputome.impute(adata, method="gene_mean", genes=["gene5", "gene9"], copy=True, scale="log1p")
    with pytest.raises(InputError, check=has_code("library-size-unknown")):
        of_result(part, map="pca")


def test_genes_that_were_not_checked(page_counts):
    record = page_counts.uns["imputome"]["nmf"]["verdict"]
    everything = record["genes"]
    record["genes"] = everything.iloc[10:40]
    content = of_result(page_counts, map="pca")
    assert list(content.genes.index) == list(page_counts.var_names)
    pd.testing.assert_series_equal(content.genes["explained"].iloc[10:40], everything["explained"].iloc[10:40])
    assert content.genes["explained"].drop(everything.index[10:40]).isna().all()
    evident = int(everything["evident"].iloc[10:40].sum())
    page = page_of(content)
    tested = int((everything["held_out"].iloc[10:40] >= 10).sum())
    assert f"{evident} of {tested} genes" in page.text
    names, _, lower, *_ = values = page.data("rows-genes")["values"]
    flags = dict(zip(names, values[5], strict=True))
    shown = [*[False] * 10, *everything["evident"].iloc[10:40], *[False] * 20]
    assert flags == dict(zip(page_counts.var_names, map(int, shown), strict=True))
    assert values[5] == sorted(values[5], reverse=True)  # the table begins with what is shown
    assert lower[:evident] == sorted(lower[:evident], reverse=True)


def test_genes_of_one_name_keep_their_own_figures(page_counts):
    names = ["twin"] * 5 + [f"g{j}" for j in range(55)]
    page_counts.var_names = names
    record = page_counts.uns["imputome"]["nmf"]["verdict"]
    record["genes"].index = names
    genes = of_result(page_counts, map="pca").genes
    np.testing.assert_array_equal(genes["explained"], record["genes"]["explained"])
    np.testing.assert_allclose(genes["mean_before"], page_counts.X.toarray().mean(axis=0))
    record["genes"] = record["genes"].iloc[:30]
    assert "explained" not in of_result(page_counts, map="pca").genes


def test_zeros_are_not_shown_for_logged_input(fresh):
    adata = fresh()
    X = adata.X.toarray()
    adata.X = np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4)
    imputome.impute(adata, method="gene_mean", scale="log1p")
    content = of_result(adata, map="pca")
    assert not content.values.counted
    page = page_of(content)
    assert "zeros" not in page.headings()
    assert "zeros before" not in json.dumps(page.data("rows-genes"))
    expected = np.asarray(X / X.sum(axis=1, keepdims=True) * 1e4, dtype=float).mean(axis=0)
    np.testing.assert_allclose(content.genes["mean_before"], expected, rtol=1e-4)


def test_real_values_have_samples_and_features(page_real):
    content = of_result(page_real, map="pca")
    page = page_of(content)
    assert page.headings() == ["verdict", "done", "scores", "genes", "spread", "embedding", "null", "history", "cite"]
    assert "60 samples × 30 features" in page.text
    for word in (r"\bcells?\b", r"\bgenes?\b", "molecules"):
        assert not re.search(word, page.text.split("How to cite")[0]), word
    np.testing.assert_allclose(content.genes["mean_before"], np.nanmean(page_real.X, axis=0))
    np.testing.assert_allclose(content.genes["missing"], np.isnan(page_real.X).mean(axis=0))


def test_a_sample_of_many_cells_is_looked_at_in_blocks():
    n, G = 2500, 400
    rng = np.random.default_rng(0)
    X = rng.poisson(0.5, size=(n, G)).astype(np.float32)
    sizes = []

    def imputed(cells, genes):
        sizes.append(len(cells))
        return X[cells] + 1.0

    cells, genes = pd.Index([f"c{i}" for i in range(n)]), pd.Index([f"g{j}" for j in range(G)])
    values = BeforeAfter(X, imputed, cells, genes, kind="counts", state="counts", scale="counts")
    first, again = (measure(values, map="pca", seed=0, max_cells=2000) for _ in range(2))
    assert len(first.cells) == len(set(first.cells)) == 2000
    np.testing.assert_array_equal(first.cells, again.cells)
    assert max(sizes) * G <= 2**22
    np.testing.assert_allclose(first.genes["mean_after"], X[first.cells].mean(axis=0) + 1)
    assert not np.array_equal(measure(values, map="pca", seed=1, max_cells=2000).cells, first.cells)


def test_what_is_far_off_can_be_left_out(page_counts):
    from imputome.report.html.sections import _far

    table = pd.DataFrame({"name": list("abcde"), "metric": "rmse", "value": [1.0, 1.1, 1.2, 1.15, 9.0]})
    table["control"] = [False, True, True, True, True]
    np.testing.assert_array_equal(_far(table), [False] * 4 + [True])
    spec = page_of(of_result(page_counts, map="pca")).data("spec-scores")
    far = {row["name"] for row in spec["datasets"]["rows"] if row["far"] and row["metric"] == "poisson_deviance"}
    assert far == {"no_imputation"}
    assert any(parameter["name"] == "near" for parameter in spec["params"])


def test_rows_of_a_file_are_those_asked_for(tmp_path):
    import h5py

    from imputome.report.before_after import _dense

    X = np.random.default_rng(0).random((50, 4))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=X, chunks=(7, 4))
        for rows in ([0], [3, 4, 5, 6, 7, 8], [6, 7, 20, 49], list(range(50))):
            np.testing.assert_array_equal(_dense(stored, np.array(rows), None), X[rows])
            np.testing.assert_array_equal(_dense(X, np.array(rows), np.array([2, 1])), X[rows][:, [2, 1]])


def test_the_map_after_is_rotated_to_match_the_map_before():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(50, 2))
    turn = np.array([[0.6, -0.8], [-0.8, -0.6]])  # a mirror too
    np.testing.assert_allclose(rotated(places @ turn + 3, places), places - places.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("columns", [{}, {"depth": np.arange(30.0)}, {"name": [f"c{i}" for i in range(30)]}])
def test_no_label_where_none_makes_sense(columns):
    assert chosen_label(pd.DataFrame(columns, index=range(30)), None) is None


def test_labels():
    batch, kind = ["a", "b"] * 15, ["x", "y", "z"] * 10
    obs = pd.DataFrame({"batch": batch, "other": kind, "Cell_Type": kind, "name": [f"c{i}" for i in range(30)]})
    assert chosen_label(obs, None) == "Cell_Type"
    assert chosen_label(obs[["other", "batch"]], None) == "batch"
    assert chosen_label(obs, "other") == "other"
    with pytest.raises(InputError, check=has_code("no-obs-column")) as error:
        chosen_label(obs, "nothing")
    assert "batch, other" in str(error.value)
    with pytest.raises(InputError, check=has_code("label-with-many-values")):
        chosen_label(obs, "name")


def test_labels_are_in_their_natural_order():
    from imputome.report.html.charts import natural

    assert sorted(["b", "c10", "c2", "10", "9", "c2a", ""], key=natural) == ["", "9", "10", "b", "c2", "c2a", "c10"]


def test_which_record_is_shown(page_counts):
    records = page_counts.uns["imputome"]
    assert of_result(page_counts, map="pca").key == "nmf"
    two = {**records, "other": records["nmf"]}
    for stored, key, code in (
        (two, None, "several-results"),
        (two, "othr", "no-such-result"),
        ({}, None, "no-result"),
        ({"nmf": {"method": "x"}}, None, "record-malformed"),
    ):
        page_counts.uns["imputome"] = stored
        with pytest.raises(InputError, check=has_code(code)):
            of_result(page_counts, key=key, map="pca")


def test_what_was_imputed_may_be_a_layer(plain, fresh):
    adata = fresh()
    adata.layers["raw 'ones'"] = adata.X.copy()
    adata.X = adata.X * 0
    imputome.impute(adata, method="gene_mean", layer="raw 'ones'")
    pd.testing.assert_frame_equal(of_result(adata, map="pca").genes, of_result(plain, map="pca").genes, rtol=1e-5)
    del adata.layers["raw 'ones'"]
    with pytest.raises(InputError, check=has_code("layer-missing")):
        of_result(adata, map="pca")


def test_values_that_are_gone(page_counts):
    del page_counts.layers["nmf"]
    with pytest.raises(InputError, check=has_code("result-values-missing")):
        of_result(page_counts, map="pca")


def test_every_paper_has_an_entry():
    for name in names():
        paper = of_method(name)
        assert (paper is not None) == bool(info(name).source), name
        if paper is not None:
            assert paper.bibtex.startswith("@"), name
            assert info(name).source.partition(":")[2].lower() in paper.bibtex.lower()
            assert re.search(r"\b(19|20)\d\d\.$", paper.text), paper.text
            assert not set("{}\\") & set(paper.text), paper.text


def test_accents_of_tex_are_decoded():
    paper = of_method("dca")
    assert paper.text.startswith("Gökcen Eraslan")
    assert 'G{\\"o}kcen' in paper.bibtex


# -- safety ------------------------------------------------------------------------------------------------------------
def test_names_cannot_break_out(page_counts, scores, nasty):
    content = of_result(page_counts, source='"><img src=x onerror=alert(1)>', command="imputome <b>", map="pca")
    page = page_of(content)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"b", "i", "img", "iframe", "object"}
    assert set(nasty) <= set(page.data("rows-genes")["values"][0])
    assert "imputome <b>" in page.text
    assert "type <0>" in page.text
    boards = page_of(of_table(scores, source="<b>s</b>"))
    assert "b" not in {tag for tag, _ in boards.elements}
    assert boards.data("choices")["datasets"] == ["one </script>", "two"]
    assert "no <memory>" in boards.text


def test_nothing_is_fetched(page_counts, scores):
    for content in (of_result(page_counts, map="pca"), of_table(scores)):
        page = page_of(content)
        policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
        digest = base64.b64encode(hashlib.sha256(page.code().encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy
        assert policy.startswith("default-src 'none'")
        for tag, attrs in page.elements:
            assert "src" not in attrs, (tag, attrs)
            assert not any(name.startswith("on") for name in attrs), (tag, attrs)
            target = attrs.get("href", "#")
            assert target.startswith(("#", "data:,")) or (tag == "a" and target.startswith("https://")), (tag, attrs)
        style = "".join(text for tag, _, text in page.raw if tag == "style")
        assert "url(" not in style
        assert "@import" not in style
        assert [attrs for tag, attrs in page.elements if tag == "script" and "type" not in attrs] == [{}]


def test_tables_have_captions_and_headings(page_counts, scores):
    for content in (of_result(page_counts, map="pca"), of_table(scores)):
        text = render(content)
        tables = re.findall(r"<table>.*?</table>", text.partition("</main>")[0], re.DOTALL)
        assert tables
        for table in tables:
            assert table.count("<caption>") == 1
            assert '<th scope="col"' in table
        page = Page(text)
        assert ("html", {"lang": "en"}) in page.elements
        assert {"header", "main", "footer"} <= {tag for tag, _ in page.elements}
        ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
        assert len(ids) == len(set(ids))
        for tag, attrs in page.elements:
            if tag in ("input", "select") and attrs.get("type") != "checkbox":
                assert ("label", {"for": attrs["id"]}) in page.elements


def test_twenty_thousand_genes_stay_under_five_megabytes(tmp_path):
    n, G = 40, 20_000
    rng = np.random.default_rng(0)
    import anndata as ad

    X = rng.poisson(rng.gamma(0.3, size=G) * 3, size=(n, G)).astype(np.float32)
    adata = ad.AnnData(X, var=pd.DataFrame(index=[f"ENSG{j:011d}.{j % 19}" for j in range(G)]))
    imputome.impute(adata, method="gene_mean")
    numbers = rng.normal(size=(3, G))
    genes = pd.DataFrame({"explained": numbers[0], "lower": numbers[1], "upper": numbers[2]}, index=adata.var_names)
    genes = genes.assign(held_out=rng.integers(0, 100_000, G), evident=numbers[1] > 0)
    scores = pd.DataFrame(
        {"method": ["a", "b"], "split": 0, "metric": "poisson_deviance", "value": [1.0, 2.0], "control": [False, True]}
    )
    record = {"verdict": "use", "reasons": np.array(["because"]), "genes": genes, "scores": scores, "reference": "b"}
    adata.uns["imputome"]["gene_mean"]["verdict"] = record
    write_report(tmp_path / "out.html", of_result(adata, map="pca"))
    size = (tmp_path / "out.html").stat().st_size
    assert 1_000_000 < size < LIMIT
    table = Page((tmp_path / "out.html").read_text(encoding="utf-8")).data("rows-genes")
    assert len(table["values"][0]) == G
    rows = [adata.var_names.get_loc(name) for name in table["values"][0]]  # sorted by the evidence
    np.testing.assert_allclose(table["values"][1], numbers[0][rows], rtol=0.01)


def test_more_genes_than_the_table_takes(plain, monkeypatch):
    from imputome.report.html import sections as made

    monkeypatch.setattr(made, "MAX_TABLE_GENES", 10)
    live = next(section for section in sections(of_result(plain, map="pca")) if section.id == "genes").live
    means = of_result(plain, map="pca").genes["mean_before"]
    assert set(live.values[0]) == set(means.nlargest(10).index)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (1234.56, "1,234.6"),
        (3.0, "3"),
        (float("nan"), "–"),
        (np.inf, "∞"),
        (True, "yes"),
        (7, "7"),
    ],
)
def test_values_for_people(value, text):
    assert text_of(value) == text


# -- writing -----------------------------------------------------------------------------------------------------------
def test_writing_is_refused_before_anything_is_lost(plain, tmp_path):
    content = of_result(plain, map="pca")
    path = tmp_path / "out.html"
    path.write_text("mine")
    for target, code in (
        (path, "output-exists"),
        (tmp_path / "out.pdf", "output-suffix"),
        (tmp_path / "no" / "out.html", "no-folder"),
    ):
        with pytest.raises(InputError, check=has_code(code)):
            write_report(target, content)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InputError, check=has_code("output-is-folder")):
        write_report(tmp_path / "folder.html", content, overwrite=True)
    assert path.read_text() == "mine"
    write_report(path, content, overwrite=True)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder.html", "out.html"]


@pytest.mark.parametrize(("module", "package"), list(PACKAGES.items()))
def test_what_is_missing_is_named(tmp_path, monkeypatch, plain, module, package):
    content = of_result(plain, map="pca")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as error:
        write_report(tmp_path / "out.html", content)
    assert f" {package}:" in str(error.value)
    assert error.value.parameter == "report"
    assert not list(tmp_path.iterdir())


# -- scores ------------------------------------------------------------------------------------------------------------
def test_a_table_of_scores_holds_the_summary(scores):
    page = page_of(of_table(scores, source="scores.csv"))
    choices, table = page.data("choices"), page.data("rows-scores")
    means = summary(scores)
    dataset, setting, metric, method, mean, sd, number, best, loses = table["values"]
    assert [choices["datasets"][place] for place in dataset] == list(means["dataset"])
    assert [choices["metrics"][place]["name"] for place in metric] == list(means["metric"])
    assert [choices["methods"][place]["name"] for place in method] == list(means["method"])
    assert [choices["settings"][place] for place in setting] == [f"thin {share:g}" for share in means["fraction"]]
    np.testing.assert_allclose(mean, means["mean"], rtol=1e-4)
    np.testing.assert_allclose(sd, means["sd"], rtol=0.06)
    assert number == list(means["n"])
    assert best == [int(value) for value in means["best"]]
    assert loses == list(means["loses_to"])
    controls = {entry["name"]: entry["control"] for entry in choices["methods"]}
    assert controls == {"gene_mean": True, "no_imputation": True, "ialm": False, "poisson_nmf+posterior": False}
    trials = page.data("trials")
    scored = scores[scores["status"] == "ok"]
    np.testing.assert_allclose(trials[-1], scored["value"], rtol=1e-4)
    assert "2 runs" in page.text


def test_variants_of_a_method_are_told_apart_by_what_differs(scores):
    scores = scores[scores["status"] == "ok"]
    parameters = {"gene_mean": "{}", "no_imputation": "{}", "ialm": '{"rank": 3, "tol": 0.1}'}
    scores = scores.assign(parameters=scores["method"].map(parameters).fillna('{"posterior": true}'))
    other = scores[scores["method"] == "ialm"].assign(parameters='{"rank": 5, "kind": "x", "tol": 0.1}')
    page = page_of(of_table(pd.concat([scores, other])))
    names = {entry["name"] for entry in page.data("choices")["methods"]}
    expected = {"gene_mean", "no_imputation", "ialm (rank=3)", "ialm (rank=5, kind=x)", "poisson_nmf+posterior"}
    assert names == expected
    assert '{"rank": 5, "kind": "x", "tol": 0.1}' in page.text


def test_variations_around_a_base_are_named_by_what_is_changed():
    from imputome.report.html.scoreboard import short_names

    base = {"a": 1, "b": 2, "c": True, "same": 0}
    variants = [base, {**base, "a": 9}, {**base, "b": 9}, {**base, "a": 9, "c": False}]
    table = pd.DataFrame({"method": "zipo", "parameters": [json.dumps(variant) for variant in variants]})
    assert list(short_names(table).values()) == ["zipo (base)", "zipo (a=9)", "zipo (b=9)", "zipo (a=9, c=false)"]


def test_scores_come_before_figures_of_the_fit(scores):
    first = scores.assign(metric=scores["metric"].replace("poisson_loss", "fit_seconds"))
    metrics = page_of(of_table(first)).data("choices")["metrics"]
    assert metrics == [{"name": "total_ratio", "better": "best at 1"}, {"name": "fit_seconds", "better": ""}]


def test_very_many_trials_are_drawn_as_means(scores, monkeypatch):
    from imputome.report.html import scoreboard

    monkeypatch.setattr(scoreboard, "MAX_VALUES", 10)
    board = of_table(scores)
    assert board.means_only
    np.testing.assert_allclose(board.trials[-1], summary(scores)["mean"], rtol=1e-4)


def test_a_table_without_a_score(scores):
    with pytest.raises(InputError, check=has_code("no-scores")):
        of_table(scores[scores["status"] != "ok"])
