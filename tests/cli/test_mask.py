"""`imputome mask`: the masked file, its truth, and the way back to a split."""

from __future__ import annotations

import json
import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import has_code, refused
from imputome.cli import run
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.masked import MASK_KEY, mask, read_mask
from imputome.evaluation.splits import SCHEMES, make_split
from imputome.io.reading import read

COUNTS = [name for name, scheme in SCHEMES.items() if scheme.kind == "counts"]
REAL = [name for name, scheme in SCHEMES.items() if scheme.kind == "real"]
EXTRA = {"high_gc": {"gc": "gc_content"}, "low_coverage": {"coverage": "reads"}}


def make_counts() -> ad.AnnData:
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.5, 4, size=(40, 20))).astype(np.float32)
    return ad.AnnData(
        sp.csr_matrix(X),
        obs=pd.DataFrame({"type": ["a", "b"] * 20}, index=[f"cell{i}" for i in range(40)]),
        var=pd.DataFrame({"symbol": [f"S{j}" for j in range(20)]}, index=[f"gene{j}" for j in range(20)]),
        layers={"raw": sp.csr_matrix(X)},
        obsm={"X_pca": X[:, :2]},
        uns={"note": "mine", "imputome": {"ialm": {"seed": 1}}},
    )


def make_real() -> ad.AnnData:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 20))
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, 3] = np.where(np.isnan(X[:, 3]), np.nan, 0.0)  # hidden zeros
    X[X > 1] = 0.0
    return ad.AnnData(
        X,
        obs=pd.DataFrame({"grade": ["a"] * 30 + ["b"] * 10}, index=[f"s{i}" for i in range(40)]),
        var=pd.DataFrame({"gc_content": rng.random(20)}, index=[f"f{j}" for j in range(20)]),
        layers={"reads": rng.integers(0, 20, size=(40, 20))},
    )


@pytest.fixture
def counts(tmp_path):
    make_counts().write_h5ad(tmp_path / "counts.h5ad")
    return tmp_path / "counts.h5ad"


@pytest.fixture
def real(tmp_path):
    make_real().write_h5ad(tmp_path / "real.h5ad")
    return tmp_path / "real.h5ad"


def mask_file(source, output, scheme, *options):
    settings = [f"--set={key}={value}" for key, value in EXTRA.get(scheme, {}).items()]
    return run(["mask", str(source), "-o", str(output), "--scheme", scheme, *settings, *map(str, options)])


def same(split, other):
    assert split.scheme == other.scheme
    assert (split.ratio, split.fraction, split.leaky) == (other.ratio, other.fraction, other.leaky)
    for part in ("X", "test"):
        one, two = (getattr(s.train if part == "X" else s, part) for s in (split, other))
        assert (one is None) == (two is None)
        if one is not None:
            assert type(one) is type(two)
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(*(m if isinstance(m, np.ndarray) else m.toarray() for m in (one, two)))
    for name in ("i", "j", "truth"):
        one, two = getattr(split, name), getattr(other, name)
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_array_equal(one, two)
    assert split.apply is other.apply is None
    assert list(split.train.obs_names) == list(other.train.obs_names)
    assert list(split.train.var_names) == list(other.train.var_names)


# -- there and back ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("scheme", COUNTS)
def test_counts_there_and_back(scheme, suffix, counts, tmp_path):
    output = tmp_path / f"out{suffix}"
    assert mask_file(counts, output, scheme, "--seed", 5) == 0
    masked = read(output)
    original = make_counts()
    data = as_data(original.X, kind="counts", obs_names=original.obs_names, var_names=original.var_names)
    expected = make_split(scheme, data, rng=np.random.default_rng(5))
    same(read_mask(masked), expected)
    total = masked.X + masked.layers["truth"]
    np.testing.assert_array_equal(total.toarray(), original.X.toarray())
    assert sp.issparse(masked.X)
    assert masked.uns["note"] == "mine"
    assert list(masked.obs["type"]) == ["a", "b"] * 20
    assert list(masked.var["symbol"]) == list(original.var["symbol"])


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("scheme", REAL)
def test_real_there_and_back(scheme, suffix, real, tmp_path):
    output = tmp_path / f"out{suffix}"
    assert mask_file(real, output, scheme, "--seed", 5) == 0
    masked = read(output)
    original = make_real()
    data = as_data(original.X, kind="real", obs_names=original.obs_names, var_names=original.var_names)
    options = {"high_gc": {"gc": original.var["gc_content"]}, "low_coverage": {"coverage": original.layers["reads"]}}
    expected = make_split(scheme, data, rng=np.random.default_rng(5), rows="all", **options.get(scheme, {}))
    same(read_mask(masked), expected)
    if scheme == "mcar":
        assert (expected.truth == 0).sum() > 3
    whole = masked.X.copy()
    hidden = masked.layers["hidden"].toarray()
    assert np.isnan(whole[hidden]).all()
    whole[hidden] = masked.layers["truth"].toarray()[hidden]
    np.testing.assert_array_equal(whole, original.X)


def test_nothing_else_shows_what_is_hidden(counts, tmp_path):
    assert mask_file(counts, tmp_path / "out.h5ad", "random") == 0
    masked = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(masked.layers) == ["truth"]
    assert masked.raw is None
    for slot in ("obsm", "varm", "obsp", "varp"):
        assert len(getattr(masked, slot)) == 0
    assert sorted(masked.uns) == sorted([MASK_KEY, "note"])


@pytest.mark.parametrize("scheme", ["random", "thin", "mcar"])
def test_a_subset_keeps_its_truth(scheme):
    masked = mask(make_real() if scheme == "mcar" else make_counts(), scheme=scheme, fraction=0.4)
    whole = read_mask(masked)
    rows, columns = np.arange(30)[::-1], np.array([4, 2, 9, 3])
    part = read_mask(masked[rows][:, columns].copy())
    if scheme == "thin":
        np.testing.assert_array_equal(part.test.toarray(), whole.test.toarray()[rows][:, columns])
        return
    known = {(i, j): x for i, j, x in zip(whole.i, whole.j, whole.truth, strict=True)}
    found = {(rows[i], columns[j]): x for i, j, x in zip(part.i, part.j, part.truth, strict=True)}
    assert found == {place: x for place, x in known.items() if place[0] < 30 and place[1] in columns}


def test_mask_leaves_its_input(tmp_path):
    adata = make_counts()
    mask(adata, scheme="thin")
    np.testing.assert_array_equal(adata.X.toarray(), make_counts().X.toarray())
    assert list(adata.layers) == ["raw"]
    with pytest.raises(InputError, check=has_code("not-a-mask")):
        read_mask(adata)
    lost = mask(make_real(), scheme="mcar")
    del lost.layers["hidden"]
    with pytest.raises(InputError, check=has_code("not-a-mask")):
        read_mask(lost)


# -- the command -------------------------------------------------------------------------------------------------------
def test_summary(counts, tmp_path, capsys):
    output = tmp_path / "out.h5ad"
    assert mask_file(counts, output, "random", "--fraction", 0.25, "--seed", 3, "--layer", "raw", "--json") == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["output"] == str(output)
    assert summary["shape"] == [40, 20]
    assert (summary["scheme"], summary["kind"], summary["seed"]) == ("random", "counts", 3)
    assert (summary["fraction_asked"], summary["layer"]) == (0.25, "raw")
    assert summary["fraction_realised"] == pytest.approx(0.25, abs=0.01)
    record = ad.read_h5ad(output).uns[MASK_KEY]
    assert {name: record[name] for name in summary if name not in ("output", "shape")} == {
        name: value for name, value in summary.items() if name not in ("output", "shape")
    }
    assert mask_file(counts, tmp_path / "two.h5ad", "thin") == 0
    out = capsys.readouterr().out
    assert out.startswith("thin: hid ")
    assert "of the molecules of X (seed 0)" in out
    assert mask_file(counts, tmp_path / "three.h5ad", "median", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert "fraction_asked" not in ad.read_h5ad(tmp_path / "three.h5ad").uns[MASK_KEY]


def test_options_and_labels(counts, real, tmp_path):
    assert mask_file(counts, tmp_path / "a.h5ad", "random", "--set", "per_gene=true", "--fraction", 0.5) == 0
    split = read_mask(ad.read_h5ad(tmp_path / "a.h5ad"))
    sizes = (make_counts().X.toarray() > 0).sum(axis=0)
    expected = [int(0.5 * size) if size > 3 else 0 for size in sizes]
    assert np.bincount(split.j, minlength=20).tolist() == expected
    assert mask_file(real, tmp_path / "b.h5ad", "features", "--label", "grade", "--fraction", 0.2) == 0
    split = read_mask(ad.read_h5ad(tmp_path / "b.h5ad"))
    assert len(set(split.j.tolist())) == 4
    rows = np.array(sorted(set(split.i.tolist())))
    assert ((rows < 30).sum(), (rows >= 30).sum()) == (6, 2)
    assert json.loads(ad.read_h5ad(tmp_path / "b.h5ad").uns[MASK_KEY]["options"]) == {"labels": "grade"}


def test_a_table(tmp_path):
    adata = make_counts()
    table = pd.DataFrame(adata.X.toarray(), index=adata.obs_names, columns=adata.var_names)
    table.to_csv(tmp_path / "in.csv")
    assert mask_file(tmp_path / "in.csv", tmp_path / "out.h5ad", "thin", "--genes-in", "columns") == 0
    split = read_mask(ad.read_h5ad(tmp_path / "out.h5ad"))
    np.testing.assert_array_equal((split.train.X + split.test).toarray(), adata.X.toarray())


def test_the_same_seed_gives_the_same(counts, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert mask_file(counts, tmp_path / f"{name}.h5ad", "thin", "--seed", seed) == 0
    a, b, c = (ad.read_h5ad(tmp_path / f"{name}.h5ad").X.toarray() for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize(
    ("scheme", "options", "code", "value"),
    [
        ("rnadom", (), "unknown-scheme", "'rnadom'"),
        ("mcar", (), "scheme-of-other-kind", "double_exponential"),
        ("random", ("--fraction", 2), "parameter-value", "fraction"),
        ("random", ("--set", "per_cell=1"), "unknown-option", "'per_cell'"),
        ("random", ("--layer", "nope"), "layer-missing", "'nope'"),
        ("random", ("--label", "type"), "labels-without-test-rows", "features"),
        ("median", ("--fraction", 0.5), "unknown-option", "'fraction'"),
    ],
)
def test_refused(scheme, options, code, value, counts, tmp_path, capsys):
    status = mask_file(counts, tmp_path / "out.h5ad", scheme, *options)
    refused(capsys, status, code, value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.h5ad"]


@pytest.mark.parametrize(
    ("scheme", "options", "code", "value"),
    [
        ("thin", (), "scheme-of-other-kind", "low_values"),
        ("features", ("--label", "nope"), "no-obs-column", "'nope'"),
        ("high_gc", ("--set", "gc=nope"), "no-var-column", "'nope'"),
        ("low_coverage", ("--set", "coverage=nope"), "layer-missing", "'nope'"),
        ("mcar", ("--set", "rows=test"), "unknown-option", "rows"),
        ("low_values", ("--set", "quantile=low"), "parameter-value", "quantile"),
    ],
)
def test_refused_real(scheme, options, code, value, real, tmp_path, capsys):
    status = mask_file(real, tmp_path / "out.h5ad", scheme, *options)
    refused(capsys, status, code, value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real.h5ad"]


def test_outputs(counts, tmp_path, capsys):
    refused(capsys, mask_file(counts, tmp_path / "out.loom", "thin"), "unknown-format")
    refused(capsys, mask_file(counts, counts, "thin", "--force"), "output-is-input")
    output = tmp_path / "out.h5ad"
    assert mask_file(counts, output, "thin") == 0
    capsys.readouterr()
    refused(capsys, mask_file(counts, output, "median"), "output-exists")
    assert ad.read_h5ad(output).uns[MASK_KEY]["scheme"] == "thin"
    assert mask_file(counts, output, "median", "--force") == 0
    assert ad.read_h5ad(output).uns[MASK_KEY]["scheme"] == "median"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.h5ad", "out.h5ad"]


def test_help_names_every_scheme(capsys):
    assert run(["mask", "--help"]) == 0
    printed = capsys.readouterr()
    words = set(re.findall(r"[\w-]+", printed.out))
    assert set(SCHEMES) <= words
    assert {"--scheme", "--fraction", "--seed", "--layer", "--label", "--genes-in", "--set", "--force"} <= words
    assert run(["--help"]) == 0
    assert re.search(r"^ +mask ", capsys.readouterr().out, re.MULTILINE)


def test_no_warnings(tmp_path, recwarn):
    adata = make_counts()
    adata.var_names = ["same"] * 20
    path = tmp_path / "in.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(str(path))
    assert mask_file(path, tmp_path / "out.zarr", "thin") == 0
    assert [str(warning.message) for warning in recwarn] == []
