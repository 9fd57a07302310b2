"""Values that are no numbers, inputs that change, full disks: a sentence, the old outputs, and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import imputome
from codes import has_code, refused
from imputome import methods
from imputome.cli import run
from imputome.core.atomic import atomic_path
from imputome.core.imputer import Imputer
from imputome.core.info import MethodInfo
from imputome.errors import InputError

resource = pytest.importorskip("resource")  # limits of POSIX
N, G = 50, 40
INFO = MethodInfo(
    "shaky",
    "for these tests",
    frozenset({"real"}),
    scale="input",
    keeps_observed=True,
    outputs=frozenset({"value", "variance"}),
    draws=True,
    control=True,  # no transform unless asked for
)


class Shaky(Imputer):
    """Ones, but for what a test wants at the missing value of sample s7 and feature f3; `during` runs in the fit."""

    info = INFO
    wrong: ClassVar[dict[str, float]] = {}
    during: ClassVar[Callable[[], object]] = staticmethod(lambda: None)

    def __init__(self, *, random_state: int = 0) -> None:
        self.random_state = random_state

    def _fit(self, data):
        type(self).during()
        return self._new_rows(data), {}

    def _new_rows(self, data):
        return ShakyModel(data)

    def _state(self):
        return {}

    def _restore(self, arrays):
        pass


class ShakyModel:
    outputs = frozenset({"value", "variance"})

    def __init__(self, data):
        self.here = data.obs_names == "s7", data.var_names == "f3"

    def rows(self, rows, genes, output):
        values = np.ones((len(self.here[0]), len(self.here[1])))
        values[np.ix_(*self.here)] = Shaky.wrong.get(output, 1.0)
        return values[rows] if genes is None else values[rows][:, genes]

    def at(self, i, j, output):
        return self.rows(np.arange(len(self.here[0])), None, output)[i, j]

    def draw(self, rows, number):
        return self.rows(rows, None, "draw")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, 0)
    write_inputs(folder / "other", 1)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch, inputs):
    """A matrix with gaps in every format, and the method that fails as a test says."""
    monkeypatch.setattr(
        methods, "_installed", lambda: {"shaky": EntryPoint("shaky", f"{__name__}:Shaky", methods.GROUP)}
    )
    monkeypatch.setattr(Shaky, "wrong", {})
    shutil.copytree(inputs, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")


def write_inputs(folder, more):
    """The same names and gaps, and all values ``more``."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    X = rng.normal(5, 1, size=(N, G)).round(4) + more
    X[rng.random(X.shape) < 0.1] = np.nan
    X[7, 3] = np.nan
    obs, var = (pd.DataFrame(index=[f"{what}{k}" for k in range(size)]) for what, size in (("s", N), ("f", G)))
    adata = ad.AnnData(X, obs=obs, var=var)
    adata.write_h5ad(folder / "in.h5ad")
    adata.write_zarr(folder / "in.zarr")
    adata.to_df().to_csv(folder / "in.csv", index_label="id")
    adata.to_df().T.to_csv(folder / "turned.csv", index_label="id")


def impute(source, output, *options):
    turned = {"in.csv": "columns", "turned.csv": "rows"}.get(source)
    orientation = ["--genes-in", turned] if turned else []
    return run(["impute", source, "-o", output, "--method", "shaky", "--force", *orientation, *options])


def old(*names):
    """Older outputs, and all that is in the folder with them."""
    for name in names:
        if name.endswith(".zarr"):
            shutil.copytree("in.zarr", name)
        else:
            Path(name).write_text("old")
    return contents()


def contents():
    return {path: path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


# -- values that are no numbers ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "output", "value"),
    [
        *(("in.h5ad", f"o{suffix}", np.nan) for suffix in (".h5ad", ".zarr", ".csv", ".csv.gz", ".parquet")),
        *(("in.csv", f"o{suffix}", np.inf) for suffix in (".h5ad", ".csv", ".tsv")),
        ("turned.csv", "o.csv", -np.inf),
    ],
)
def test_no_nan_is_written(folder, capsys, source, output, value):
    before = old(output)
    Shaky.wrong = {"value": value}
    refused(capsys, impute(source, output, "-q"), "not-finite-values", "shaky", "1 values", "'s7'", "'f3'")
    assert contents() == before


@pytest.mark.parametrize(
    ("source", "wrong", "output", "options", "others"),
    [
        ("in.csv", "variance", "o.csv", ["--uncertainty", "sd.csv"], ["sd.csv"]),
        ("in.h5ad", "variance", "o.h5ad", ["--uncertainty", "sd.parquet"], ["sd.parquet"]),
        ("in.csv", "variance", "o.h5ad", ["--outputs", "variance"], []),
        ("in.csv", "draw", "o.csv", ["--draws", "2"], ["o.draw01.csv", "o.draw02.csv"]),
        ("in.h5ad", "draw", "o.h5ad", ["--draws", "2"], []),
    ],
)
def test_no_nan_is_written_beside_the_values(folder, capsys, source, wrong, output, options, others):
    before = old(output, *others)
    Shaky.wrong = {wrong: np.nan}
    refused(capsys, impute(source, output, "-q", *options), "not-finite-values", "shaky", "'s7'", "'f3'")
    assert contents() == before


def test_what_is_too_large_for_the_file_is_not_written_as_infinite(folder, capsys):
    Shaky.wrong = {"value": 1e39}  # of a float64, and layers are float32
    before = old("o.h5ad")
    refused(capsys, impute("in.h5ad", "o.h5ad", "-q"), "not-finite-values")
    assert contents() == before
    assert impute("in.h5ad", "o.csv", "-q") == 0
    assert pd.read_csv("o.csv", index_col=0).loc["s7", "f3"] == 1e39


def test_no_nan_comes_from_a_saved_model_or_in_python(folder, capsys):
    assert run(["fit", "in.h5ad", "-m", "model", "--method", "shaky", "-q"]) == 0
    Shaky.wrong = {"value": -np.inf}
    before = old("o.h5ad")
    refused(capsys, run(["apply", "model", "in.h5ad", "-o", "o.h5ad", "--force", "-q"]), "not-finite-values", "'f3'")
    assert contents() == before
    adata = ad.read_h5ad("in.h5ad")
    with pytest.raises(InputError, check=has_code("not-finite-values")):
        imputome.impute(adata, method="shaky")
    assert not adata.layers


# -- inputs that change ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("source", "output"), [("in.h5ad", "o.h5ad"), ("in.zarr", "o.zarr"), ("in.csv", "o.csv")])
def test_an_input_that_changes_during_the_run_is_not_mixed(folder, capsys, monkeypatch, source, output):
    """The values would be those of one version, and all else that of the other, which has the same names and gaps."""
    before = {path: content for path, content in old(output).items() if path.parts[0] != source}

    def change():
        if source == "in.zarr":
            shutil.rmtree(source)
        Path("other", source).rename(source)

    monkeypatch.setattr(Shaky, "during", staticmethod(change))
    refused(capsys, impute(source, output, "-q"), "input-changed", source)
    after = {path: content for path, content in contents().items() if path.parts[0] != source}
    assert after == {path: content for path, content in before.items() if path.parts[:2] != ("other", source)}


def test_what_is_all_in_memory_may_change(folder, monkeypatch):
    expected = ad.read_h5ad("in.h5ad").X
    monkeypatch.setattr(Shaky, "during", staticmethod(lambda: Path("in.csv").write_text("gone")))
    assert impute("in.csv", "o.h5ad", "-q") == 0
    np.testing.assert_array_equal(ad.read_h5ad("o.h5ad").X, expected)


# -- disks that are full -----------------------------------------------------------------------------------------------
@pytest.fixture
def small_files():
    """A call after which no file can have more bytes, as with a quota, `ulimit -f` or a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = {
    "copied h5ad": ("o.h5ad", lambda out: impute("in.h5ad", out, "-q")),
    "new h5ad": ("o.h5ad", lambda out: impute("in.csv", out, "-q")),
    "zarr": ("o.zarr", lambda out: impute("in.zarr", out, "-q")),
    "csv": ("o.csv", lambda out: impute("in.h5ad", out, "-q")),
    "csv.gz": ("o.csv.gz", lambda out: impute("in.h5ad", out, "-q")),
    "parquet": ("o.parquet", lambda out: impute("in.h5ad", out, "-q")),
    "text": ("o.csv", lambda out: impute("in.csv", out, "-q")),
    "mask h5ad": ("o.h5ad", lambda out: run(["mask", "in.h5ad", "-o", out, "--scheme", "mcar", "-q", "--force"])),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_is_full(folder, capsys, small_files, writer):
    """Bytes that fail at several places of each file; a file of HDF5 ended in a segmentation fault."""
    output, write = WRITERS[writer]
    before = old(output)
    for size in (100, 4000):
        small_files(size)
        status = write(output)
        small_files(resource.RLIM_INFINITY)
        refused(capsys, status, "file-too-large", output)
        assert contents() == before


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk-full"), (errno.EDQUOT, "disk-full"), (errno.EFBIG, "file-too-large"), (errno.EACCES, "")],
)
def test_the_sentence_names_the_output(tmp_path, number, code):
    with pytest.raises(InputError if code else OSError) as error, atomic_path(tmp_path / "o.csv"):
        raise OSError(number, os.strerror(number), "/some/hidden/partial")
    assert getattr(error.value, "code", "") == code
    assert not code or f"{tmp_path / 'o.csv'}" in str(error.value)


# -- names that spreadsheets would run ---------------------------------------------------------------------------------
TABLE = '\ufeff"=id",=1+1,"@x,y",-ok,-5\n+r1,-1.5,,2,3\n"=cmd|\' /C calc\'!A0",1,2,3,\n'
SAFE = "\ufeff\"'=id\",'=1+1,\"'@x,y\",'-ok,-5\n'+r1,-1.5,1,2,3\n\"'=cmd|' /C calc'!A0\",1,2,3,1\n"


def test_names_that_begin_a_formula(folder, capsys):
    Path("f.csv").write_text(TABLE, encoding="utf-8")
    csv = ("f.csv", "o.csv", "--genes-in", "columns")
    assert impute(*csv) == 0
    kept = TABLE.replace("-1.5,,2", "-1.5,1,2").replace("3,\n", "3,1\n")
    assert Path("o.csv").read_text(encoding="utf-8") == kept
    assert impute(*csv, "--safe-csv", "--uncertainty", "sd.csv") == 0
    assert Path("o.csv").read_text(encoding="utf-8") == SAFE
    assert Path("sd.csv").read_text(encoding="utf-8").startswith(SAFE.partition("\n")[0])
    assert impute("f.csv", "o.tsv", "--genes-in", "rows", "--safe-csv") == 0
    table = pd.read_csv("o.tsv", sep="\t", index_col=0)
    assert list(table.columns) == ["'=1+1", "'@x,y", "'-ok", "-5"]
    assert list(table.index) == ["'+r1", "'=cmd|' /C calc'!A0"]
    capsys.readouterr()
    refused(capsys, impute("in.h5ad", "o.h5ad", "--safe-csv", "-q"), "option-unused")


def test_names_of_a_complete_table_are_made_safe_too(folder):
    Path("f.csv").write_text(SAFE.replace("'", ""), encoding="utf-8")
    assert impute("f.csv", "o.csv", "--genes-in", "columns", "--safe-csv") == 0
    assert Path("o.csv").read_text(encoding="utf-8").splitlines()[1] == "'+r1,-1.5,1,2,3"
