"""`imputome impute` and `imputome apply` on tables of real values: the same table out, and what stands beside it."""

from __future__ import annotations

import gzip
import json
from importlib.metadata import EntryPoint

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from codes import refused
from imputome import methods
from imputome.cli import run
from imputome.core.atomic import atomic_path
from imputome.core.imputer import Imputer
from imputome.core.info import MethodInfo
from imputome.methods.controls.estimators import FeatureMean

INFO = MethodInfo(
    "gauss",
    "for these tests",
    frozenset({"real"}),
    scale="input",
    keeps_observed=True,
    outputs=frozenset({"value", "variance"}),
    draws=True,
    control=True,  # no transform unless asked for
)


class Gauss(Imputer):
    """The mean of the feature, its variance, and draws of both: small, and all that can be asked for."""

    info = INFO

    def __init__(self, *, shift: float | str = 0.0, random_state: int = 0) -> None:
        self.shift = shift
        self.random_state = random_state

    def _fit(self, data):
        frame = pd.DataFrame(data.X)
        self.mean_, self.variance_ = frame.mean().fillna(0).to_numpy(), frame.var(ddof=0).fillna(1).to_numpy()
        if self.shift != "auto":
            self.mean_ = self.mean_ - self.shift
        return self._new_rows(data), {}

    def _new_rows(self, data):
        return GaussModel(self, data.X.shape[0])

    def _state(self):
        return {"mean": self.mean_, "variance": self.variance_}

    def _restore(self, arrays):
        self.mean_, self.variance_ = arrays["mean"], arrays["variance"]


class GaussModel:
    outputs = frozenset({"value", "variance"})

    def __init__(self, fitted, n):
        self.fitted = fitted
        self.n = n

    def rows(self, rows, genes, output):
        values = self.fitted.mean_ if output == "value" else self.fitted.variance_
        return np.tile(values if genes is None else values[genes], (len(rows), 1))

    def at(self, i, j, output):
        return (self.fitted.mean_ if output == "value" else self.fitted.variance_)[j]

    def draw(self, rows, number):
        return self.rows(rows, None, "value") + number + rows[:, None]


@pytest.fixture(autouse=True)
def gauss(monkeypatch):
    point = EntryPoint("gauss", f"{__name__}:Gauss", methods.GROUP)
    monkeypatch.setattr(methods, "_installed", lambda: {"gauss": point})


TABLE = '"i;d";"g,1";g2;g3\r\n"s;1";1.50;NA;3\r\ns2;;2.000;"NA"\r\ns3;4;1e0;0.70\r\n\r\ns4;NA;;nan'
FILLED = '"i;d";"g,1";g2;g3\r\n"s;1";1.50;1.5;3\r\ns2;2.75;2.000;"1.85"\r\ns3;4;1e0;0.70\r\n\r\ns4;2.75;1.5;1.85'
COMPLETE = '"i;d";"g,1";g2;g3\r\n"s;1";1.50;007;3\r\ns2;1.;2.000;"5"\r\ns3;4;1e0;0.70'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_bytes(TABLE.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def impute(source, output, method, *options):
    return run(["impute", str(source), "-o", str(output), "--method", method, *map(str, options)])


def columns(source, output, method, *options):
    return impute(source, output, method, "--genes-in", "columns", *options)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


# -- the same table ----------------------------------------------------------------------------------------------------
def test_a_table_comes_back_with_its_text(folder):
    assert columns("in.csv", "out.csv", "mean") == 0
    assert (folder / "out.csv").read_bytes() == FILLED.encode()
    assert columns("in.csv", "out.csv.gz", "mean", "--scale", "input") == 0
    assert gzip.decompress((folder / "out.csv.gz").read_bytes()) == FILLED.encode()
    assert listing(folder) == ["in.csv", "out.csv", "out.csv.gz"]


def test_a_table_with_genes_in_rows_comes_back_so(folder):
    assert impute("in.csv", "out.csv", "median", "--genes-in", "rows") == 0
    with gzip.open("t.csv.gz", "wt") as out:
        pd.read_csv("in.csv", sep=";", index_col=0).T.to_csv(out)
    assert columns("t.csv.gz", "t.out.csv", "median") == 0
    found, turned = pd.read_csv("out.csv", sep=";", index_col=0), pd.read_csv("t.out.csv", index_col=0)
    pd.testing.assert_frame_equal(found, turned.T, check_names=False)
    assert (folder / "out.csv").read_bytes().startswith(TABLE.encode()[:30])


def test_the_values_are_those_of_a_layer(folder):
    rng = np.random.default_rng(4)
    X = rng.normal(size=(40, 30)) @ rng.normal(size=(30, 12)) * 100
    X[rng.random(X.shape) < 0.2] = np.nan
    frame = pd.DataFrame(X, index=[f"s{k}" for k in range(40)], columns=[f"f{k}" for k in range(12)])
    frame.to_csv("x.csv", na_rep="NA")
    assert columns("x.csv", "x.h5ad", "ialm") == 0
    assert columns("x.csv", "x.out.csv", "ialm") == 0
    layer = ad.read_h5ad("x.h5ad").layers["ialm"]
    found = pd.read_csv("x.out.csv", index_col=0, float_precision="round_trip")
    np.testing.assert_allclose(found.to_numpy(), layer, rtol=2e-5, atol=1e-3)
    observed = ~np.isnan(X)
    np.testing.assert_array_equal(found.to_numpy()[observed], X[observed])


def test_other_formats_scales_and_genes_are_written_anew(folder):
    assert columns("in.csv", "out.tsv", "mean") == 0
    assert (folder / "out.tsv").read_text().startswith("index\tg,1\tg2\tg3\ns;1\t1.5\t1.5\t3.0\n")
    assert columns("in.csv", "some.csv", "mean", "--genes", "g2") == 0
    assert (folder / "some.csv").read_text() == "index,g2\ns;1,1.5\ns2,2.0\ns3,1.0\ns4,1.5\n"
    assert columns("in.csv", "new.csv", "mean", "--replace-observed") == 0
    assert (pd.read_csv("new.csv", index_col=0).iloc[:, 0] == 2.75).all()


def test_samples_and_features_without_a_value_get_the_stated_fallback(folder, capsys):
    (folder / "e.csv").write_text("id,a,b,c\ns1,1,NA,4\ns2,NA,NA,NA\ns3,2,NA,5\n")
    assert columns("e.csv", "out.csv", "mean") == 0
    assert (folder / "out.csv").read_text() == "id,a,b,c\ns1,1,3,4\ns2,1.5,3,4.5\ns3,2,3,5\n"
    assert "1 cells, 1 genes (filled with mean of the feature, else of all" in capsys.readouterr().out


def test_the_same_sample_twice_is_said_and_kept(folder, capsys):
    (folder / "d.csv").write_text("id,a,b\ns,1,\ns,,3\nt,5,6\n")
    assert columns("d.csv", "out.csv", "mean") == 0
    assert (folder / "out.csv").read_text() == "id,a,b\ns,1,4.5\ns,3,3\nt,5,6\n"
    assert "warning: " in capsys.readouterr().err


def test_a_table_without_names_is_refused_and_one_of_another_format_said(folder, capsys):
    (folder / "n.csv").write_text("a,b,c\n0.5,1,\n1.5,,3\n-2.5e-3,5,6\n")
    refused(capsys, columns("n.csv", "out.csv", "mean"), "no-row-names", "'a'")
    table = pd.DataFrame({"a": ["0.5", "1.5", "-2.5e-3"], "b": [1, np.nan, 5], "c": [np.nan, 3, 6]}).set_index("a")
    table.to_parquet("n.parquet")
    assert columns("n.parquet", "out.parquet", "mean") == 0
    assert "[names-like-values]" in capsys.readouterr().err
    assert columns("in.csv", "out2.csv", "mean") == 0
    assert "[names-like-values]" not in capsys.readouterr().err
    assert columns("n.parquet", "out3.parquet", "mean", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_numbers_that_stand_for_missing_values_are_said(folder, capsys):
    (folder / "c.csv").write_text("id,a,b\ns,1,-999\nt,-999,3\nu,5,6\n")
    for quiet in ((), ("--quiet",)):
        refused(capsys, columns("c.csv", "out.csv", "mean", *quiet), "missing-code", "--missing -999", "--kind real")
    assert columns("c.csv", "out.csv", "mean", "--missing", "-999", "--quiet") == 0
    assert (folder / "out.csv").read_text() == "id,a,b\ns,1,4.5\nt,3,3\nu,5,6\n"
    assert columns("c.csv", "out2.csv", "mean", "--kind", "real", "--quiet") == 0
    assert (folder / "out2.csv").read_text() == (folder / "c.csv").read_text()


# -- nothing missing ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("genes_in", ["columns", "rows"])
def test_nothing_missing_is_the_same_file(folder, genes_in, capsys, monkeypatch):
    monkeypatch.setattr("imputome.api.impute.fit_run", lambda *_, **__: pytest.fail("something was fitted"))
    (folder / "c.csv").write_bytes(COMPLETE.encode())
    sides = ["--genes-in", genes_in]
    assert impute("c.csv", "out.csv", "mean", *sides) == 0
    assert "c.csv" in capsys.readouterr().out
    assert (folder / "out.csv").read_bytes() == COMPLETE.encode()
    beside = ["--uncertainty", "sd.csv", "--draws", "2"]
    assert impute("c.csv", "full.csv.gz", "gauss", *sides, *beside, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["n_missing"] == 0
    assert summary["draws"] == ["full.draw01.csv.gz", "full.draw02.csv.gz"]
    for name in ("full.csv.gz", "full.draw01.csv.gz", "full.draw02.csv.gz"):
        assert gzip.decompress((folder / name).read_bytes()) == COMPLETE.encode()
    assert (folder / "sd.csv").read_bytes() == b'"i;d";"g,1";g2;g3\r\n"s;1";0;0;0\r\ns2;0;0;0\r\ns3;0;0;0'
    assert impute("c.csv", "more.csv", "gauss", *sides, "--uncertainty", "sd.parquet", "--quiet") == 0
    assert (pd.read_parquet("sd.parquet").set_index("index").to_numpy() == 0).all()
    assert capsys.readouterr() == ("", "")


def test_whole_numbers_without_a_hole_are_a_table_too(folder):
    (folder / "c.csv").write_text("id,a,b\ns,1,0\nt,2,3\n")
    assert columns("c.csv", "out.csv", "median") == 0
    assert (folder / "out.csv").read_text() == "id,a,b\ns,1,0\nt,2,3\n"


def test_nothing_missing_in_other_formats_is_refused_as_ever(folder, capsys):
    (folder / "c.csv").write_bytes(COMPLETE.encode())
    refused(capsys, columns("c.csv", "out.h5ad", "mean"), "nothing-missing")
    refused(capsys, columns("c.csv", "out.csv", "mean", "--draws", "2"), "no-draws")
    (folder / "inf.csv").write_text("id,a,b\ns,1,inf\nt,2.5,3\n")
    refused(capsys, columns("inf.csv", "out.csv", "mean"), "infinite-values")
    (folder / "inf.csv").unlink()
    assert listing(folder) == ["c.csv", "in.csv"]


# -- beside the values -------------------------------------------------------------------------------------------------
def test_uncertainty_is_the_table_with_deviations(folder, capsys):
    assert columns("in.csv", "out.csv", "gauss", "--uncertainty", "sd.csv.gz") == 0
    assert (folder / "out.csv").read_bytes() == FILLED.encode()
    sd = [f"{np.std(values):.7g}" for values in ([1.5, 4], [2, 1], [3, 0.7])]
    expected = (
        f'"i;d";"g,1";g2;g3\r\n"s;1";0;{sd[1]};0\r\ns2;{sd[0]};0;{sd[2]}\r\ns3;0;0;0\r\n\r\ns4;{sd[0]};{sd[1]};{sd[2]}'
    )
    assert gzip.decompress((folder / "sd.csv.gz").read_bytes()).decode() == expected
    assert "standard deviations to sd.csv.gz" in capsys.readouterr().out


def test_uncertainty_in_another_format_than_the_output(folder):
    assert columns("in.csv", "out.h5ad", "gauss", "--uncertainty", "sd.parquet") == 0
    assert columns("in.csv", "out.csv", "gauss", "--uncertainty", "sd.tsv") == 0
    assert (
        impute("out.h5ad", "b.h5ad", "gauss", "--key-added", "k", "--uncertainty", "sd2.csv", "--genes-in", "rows") == 0
    )
    first = pd.read_parquet("sd.parquet").set_index("index")
    np.testing.assert_allclose(first, pd.read_csv("sd.tsv", sep="\t", index_col=0), rtol=1e-6)
    np.testing.assert_allclose(first.T, pd.read_csv("sd2.csv", index_col=0), rtol=1e-6)
    assert first.loc["s;1", "g,1"] == 0
    assert first.loc["s4", "g,1"] == pytest.approx(1.25)
    assert list(ad.read_h5ad("out.h5ad").layers) == ["gauss"]


def test_draws_are_tables_beside_a_table(folder, capsys):
    assert columns("in.csv", "full.csv", "gauss", "--draws", "3", "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out)["draws"] == [f"full.draw0{k}.csv" for k in (1, 2, 3)]
    assert (folder / "full.csv").read_bytes() == FILLED.encode()
    for number in (1, 2, 3):
        text = (folder / f"full.draw0{number}.csv").read_text()
        assert text.splitlines()[2] == f's2;{2.75 + number + 1:.7g};2.000;"{1.85 + number + 1:.7g}"'
    assert impute("in.csv", "rows.csv", "gauss", "--draws", "1", "--genes-in", "rows") == 0
    assert "wrote 1 multiple imputations: rows.draw01.csv" in capsys.readouterr().out


def test_draws_of_an_earlier_run_that_stay_are_said(folder, capsys):
    assert columns("in.csv", "full.csv", "gauss", "--draws", "3") == 0
    capsys.readouterr()
    assert columns("in.csv", "full.csv", "gauss", "--draws", "1", "--force") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" [older-draws]")]
    assert "full.draw02.csv" in line


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_draws_are_layers_elsewhere_and_go_with_the_result(folder, suffix, capsys):
    read = ad.read_h5ad if suffix == ".h5ad" else ad.read_zarr
    assert columns("in.csv", f"out{suffix}", "gauss", "--draws", "2", "--outputs", "variance") == 0
    assert "layers gauss_draw01 to gauss_draw02" in capsys.readouterr().out
    found = read(f"out{suffix}")
    assert set(found.layers) == {"gauss", "gauss_variance", "gauss_draw01", "gauss_draw02"}
    np.testing.assert_allclose(found.layers["gauss_draw02"][1], [2.75 + 3, 2, 1.85 + 3], rtol=1e-6)
    refused(capsys, impute(f"out{suffix}", f"b{suffix}", "gauss", "--draws", "1"), "key-exists")
    assert impute(f"out{suffix}", f"b{suffix}", "gauss", "--force") == 0
    assert set(read(f"b{suffix}").layers) == {"gauss"}
    assert run(["remove", f"out{suffix}", "gauss"]) == 0
    assert set(read(f"out{suffix}").layers) == set()


def test_what_a_method_does_not_have_is_refused_before_fitting(folder, capsys, monkeypatch):
    monkeypatch.setattr("imputome.api.impute.fit_run", lambda *_, **__: pytest.fail("the work was begun"))
    refused(capsys, columns("in.csv", "o.csv", "mean", "--uncertainty", "sd.csv"), "no-uncertainty")
    refused(capsys, columns("in.csv", "o.csv", "mean", "--draws", "2"), "no-draws")
    refused(capsys, columns("in.csv", "o.csv", "mean", "--shift-correction", "1"), "unknown-parameter")
    refused(capsys, columns("in.csv", "o.csv", "gauss", "--uncertainty", "sd.h5ad"), "not-a-table")
    refused(capsys, columns("in.csv", "o.csv", "gauss", "--uncertainty", "./o.csv"), "same-path")
    refused(capsys, columns("in.csv", "o.csv", "gauss", "--uncertainty", "in.csv", "--force"), "output-is-input")
    refused(capsys, columns("in.csv", "o.csv", "gauss", "--samples", "in.csv"), "table-without-obs")
    refused(capsys, columns("in.csv", "o.csv", "gauss", "--transform", "sqrt"), "unknown-transform", "'sqrt'")
    for option, value in (("--draws", "-1"), ("--shift-correction", "much")):
        assert columns("in.csv", "o.csv", "gauss", option, value) == 2
    capsys.readouterr()
    code = columns("in.csv", "o.csv", "gauss", "--shift-correction", "1", "--set", "shift=2")
    refused(capsys, code, "given-twice", "shift")
    refused(capsys, columns("in.csv", "o.csv", "gauss", "--sample-id", "x"), "option-unused", "--samples")
    assert listing(folder) == ["in.csv"]


def test_every_existing_file_needs_force(folder, capsys, monkeypatch):
    options = ["--draws", "2", "--uncertainty", "sd.csv"]
    for name in ("o.csv", "sd.csv", "o.draw02.csv"):
        (folder / name).write_text("old")
        with monkeypatch.context() as patch:
            patch.setattr("imputome.api.impute.fit_run", lambda *_, **__: pytest.fail("the work was begun"))
            refused(capsys, columns("in.csv", "o.csv", "gauss", *options), "output-exists", name)
        assert columns("in.csv", "o.csv", "gauss", *options, "--force", "--quiet") == 0
        assert listing(folder) == ["in.csv", "o.csv", "o.draw01.csv", "o.draw02.csv", "sd.csv"]
        for other in ("o.csv", "o.draw01.csv", "o.draw02.csv", "sd.csv"):
            assert (folder / other).read_text() != "old"
            (folder / other).unlink()


@pytest.mark.parametrize("name", ["o.csv", "o.h5ad"])
def test_a_failure_in_any_file_leaves_all_as_they_were(folder, name, capsys, monkeypatch):
    (folder / "sd.csv").write_text("old")
    (folder / name).write_text("old")
    options = ["--draws", "2", "--uncertainty", "sd.csv", "--force"]

    def broken(self, rows, number):
        if number == 2:
            raise OSError("the disk is full")
        return self.rows(rows, None, "value")

    monkeypatch.setattr(GaussModel, "draw", broken)
    assert columns("in.csv", name, "gauss", *options) == 1
    assert capsys.readouterr().err.endswith(" [system]\n")
    assert listing(folder) == sorted(["in.csv", name, "sd.csv"])
    assert (folder / "sd.csv").read_text() == (folder / name).read_text() == "old"
    with pytest.raises(ZeroDivisionError), atomic_path(folder / name):
        raise ZeroDivisionError


def test_shift_and_transform_reach_the_method(folder, capsys):
    assert columns("in.csv", "o.csv", "gauss", "--shift-correction", "0.5", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["params"]["shift"] == 0.5
    assert (folder / "o.csv").read_text().splitlines()[2].startswith("s2;2.25;")
    assert columns("in.csv", "p.csv", "gauss", "--shift-correction", "auto", "--transform", "asinh", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["params"]["shift"] == "auto"
    assert summary["transform"] == "asinh"
    value = float((folder / "p.csv").read_text().splitlines()[2].split(";")[1])
    assert value == pytest.approx(np.sinh(np.mean(np.arcsinh([1.5, 4]))), rel=1e-6)


def test_what_is_missing_is_said_before_anything_is_filled(folder, capsys):
    assert columns("in.csv", "o.csv", "mean") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "4 samples x 3 features, 6 values missing (50.0 %)"
    assert columns("in.csv", "p.csv", "mean", "--json") == 0
    assert json.loads(capsys.readouterr().out)["missingness"]["n_missing"] == 6
    assert columns("in.csv", "q.csv", "mean", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


# -- a second table of samples -----------------------------------------------------------------------------------------
@pytest.fixture
def clinical(folder):
    (folder / "clinical.csv").write_text(
        "note;patient;age;grade/WHO;alive\nx;s2;50;III;True\n;s3;;;False\n;s9;1;I;True\n;s;1;2;I;True\n".replace(
            ";s;1;2;I;True\n", '"y";"s;1";41;II;True\n'
        )
    )
    return folder


@pytest.mark.parametrize("genes_in", ["columns", "rows"])
def test_columns_of_samples_are_joined_by_name(clinical, genes_in, capsys):
    source = "in.csv"
    if genes_in == "rows":
        pd.read_csv("in.csv", sep=";", index_col=0).T.to_csv("t.csv")
        source = "t.csv"
    options = ["--genes-in", genes_in, "--samples", "clinical.csv", "--sample-id", "patient"]
    assert impute(source, "o.h5ad", "mean", *options) == 0
    err = capsys.readouterr().err
    for code, name in (("samples-without-row", "s4"), ("rows-without-sample", "s9")):
        assert [name in line for line in err.splitlines() if line.endswith(f" [{code}]")] == [True]
    obs = ad.read_h5ad("o.h5ad").obs
    assert list(obs.columns) == ["note", "age", "grade_WHO", "alive"]
    np.testing.assert_array_equal(obs["age"], [41, 50, np.nan, np.nan])
    assert obs["grade_WHO"].astype(object).where(obs["grade_WHO"].notna(), None).tolist() == ["II", "III", None, None]
    # of an .h5ad too, whose file alone would not have them
    refused(capsys, impute("o.h5ad", "p.h5ad", "median", *options[2:]), "obs-column-exists", "'note'")
    ad.AnnData(pd.read_csv("in.csv", sep=";", index_col=0)).write_h5ad("plain.h5ad")
    assert impute("plain.h5ad", "q.h5ad", "median", *options[2:], "--json") == 0
    assert json.loads(capsys.readouterr().out)["samples"]["without"] == ["s4"]
    assert "grade_WHO" in ad.read_h5ad("q.h5ad").obs


def test_comments_and_whole_numbers_in_the_table_of_samples(folder):
    (folder / "in.csv").write_text("id,a,b\n99990,1,2\n100000,,3\n100010,4,1\n")
    lines = ("#Patient\tAge", "#who\tyears", "PATIENT\tAGE", "1e+05\t41", "99990\t50", "100010\t7")
    (folder / "clinical.txt").write_text("".join(f"{line}\n" for line in lines))
    assert columns("in.csv", "o.h5ad", "mean", "--samples", "clinical.txt") == 0
    assert ad.read_h5ad("o.h5ad").obs["AGE"].tolist() == [50, 41, 7]


def test_samples_that_cannot_be_joined_are_refused(clinical, capsys):
    def with_samples(*options):
        return columns("in.csv", "o.h5ad", "mean", "--samples", *options)

    refused(capsys, with_samples("clinical.csv"), "no-sample-matches", "'note'")
    refused(capsys, with_samples("clinical.csv", "--sample-id", "name"), "no-column", "'name'")
    refused(capsys, with_samples("none.csv"), "no-file")
    refused(capsys, with_samples("none.xlsx"), "not-a-table")
    (clinical / "r.tsv").write_text('"grade"\t"age"\n"s2"\t"G2"\t50\n"s3"\t"G3"\t60\n')
    refused(capsys, with_samples("r.tsv"), "header-too-short")
    (clinical / "twice.csv").write_text("id,age\ns2,1\ns2,2\n")
    refused(capsys, with_samples("twice.csv"), "samples-not-unique", "'s2'")
    (clinical / "in.csv").write_text("id,a,b\ns2,1,\ns2,,3\nt,5,6\n")
    (clinical / "once.csv").write_text("id,age\ns2,1\nt,2\n")
    refused(capsys, with_samples("once.csv"), "samples-not-unique", "'s2'")


# -- a saved model -----------------------------------------------------------------------------------------------------
@pytest.fixture
def model(folder):
    assert run(["fit", "in.csv", "--genes-in", "columns", "-m", "model", "--method", "gauss", "-q"]) == 0
    return folder


def apply(source, output, *options):
    return run(["apply", "model", source, "-o", output, "--genes-in", "columns", *options])


def test_a_saved_model_fills_a_new_table_and_keeps_its_text(model, capsys):
    text = "\ufeffid,g2,g3,\"g,1\"\nnew,'1','2',''\n".replace("'1'", "1.10").replace("'2'", "NA").replace("''", "007")
    (model / "new.csv").write_text(text, encoding="utf-8")
    assert apply("new.csv", "o.csv", "--uncertainty", "sd.csv", "--draws", "2") == 0
    assert (model / "o.csv").read_text() == text.replace("NA", "1.85")
    assert (model / "sd.csv").read_text() == f'\ufeffid,g2,g3,"g,1"\nnew,0,{np.std([3, 0.7]):.7g},0\n'
    for number in (1, 2):  # of row 0
        assert (model / f"o.draw0{number}.csv").read_text() == text.replace("NA", f"{1.85 + number:.7g}")
    capsys.readouterr()
    (model / "full.csv").write_text(text.replace("NA", "3.0"), encoding="utf-8")
    assert apply("full.csv", "p.csv", "--uncertainty", "sd2.csv") == 0
    assert (model / "p.csv").read_bytes() == (model / "full.csv").read_bytes()
    capsys.readouterr()
    refused(capsys, apply("new.csv", "o.csv"), "output-exists")
    refused(capsys, apply("new.csv", "q.csv", "--uncertainty", "sd.csv"), "output-exists")


def test_draws_of_a_model_for_other_features(model):
    (model / "new.csv").write_text("id,other,g3,g2\nr,1,NA,2\ns,NA,4,NA\n")
    assert apply("new.csv", "o.csv", "--draws", "1") == 0
    assert (model / "o.csv").read_text() == "id,other,g3,g2\nr,1,1.85,2\ns,1,4,1.5\n"
    assert (model / "o.draw01.csv").read_text() == "id,other,g3,g2\nr,1,2.85,2\ns,1,4,3.5\n"


def test_a_model_without_variance_and_draws(folder, capsys):
    assert run(["fit", "in.csv", "--genes-in", "columns", "-m", "model", "--method", "mean", "-q"]) == 0
    refused(capsys, apply("in.csv", "o.csv", "--uncertainty", "sd.csv"), "no-uncertainty", "'variance'")
    refused(capsys, apply("in.csv", "o.csv", "--draws", "1"), "no-draws")
    assert apply("in.csv", "o.csv") == 0
    assert (folder / "o.csv").read_bytes() == FILLED.encode()
    assert isinstance(methods.load(folder / "model"), FeatureMean)
