"""`inspect` on real matrices, on what scanpy computes from them, and on every kind of problem."""

from __future__ import annotations

import json
import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import imputome
from codes import has_code
from imputome.errors import InputError
from imputome.inspection import tally
from imputome.inspection.classify import MANY_ZEROS
from imputome.inspection.state import inspect

COUNTS = [
    "baron_pancreas_7162x1000",
    "kang_pbmc_stim",
    "klein_d2_d4",
    "mouse_bladder_2100",
    "pbmc3k_raw",
    "pbmc4k_top2000",
    "pbmc_citeseq_400",
    "scmix_celseq2_3cl",
    "zeisel_ercc_1000g",
]


@pytest.fixture
def counts() -> np.ndarray:
    """60 cells x 40 genes; every cell and gene has molecules, libraries differ."""
    rng = np.random.default_rng(5)
    X = rng.poisson(rng.gamma(0.5, 2.0, 40) * rng.uniform(0.5, 2, (60, 1))).astype(np.float32)
    X[:, 0] += 1
    X[0] += 1
    return X


def adata_of(X, **kw) -> AnnData:
    n, G = X.shape
    obs, var = pd.DataFrame(index=[f"c{i}" for i in range(n)]), pd.DataFrame(index=[f"g{j}" for j in range(G)])
    return AnnData(X, obs=obs, var=var, **kw)


def log_normalized(X, target=1e4, base=np.e):
    return np.log1p(X / X.sum(axis=1, keepdims=True) * target) / np.log(base)


def read(folder, name, **kw) -> AnnData:
    path = folder / f"{name}.h5ad"
    if not path.exists():
        pytest.skip(f"{path} not found: set IMPUTOME_DATA")
    return anndata.read_h5ad(path, **kw)


def codes(report):
    return [warning.code for warning in report.warnings]


def refused(report):
    return [error.code for error in report.errors]


def check_figures(report, dense):
    """All counted fields against numpy on the dense matrix."""
    finite = dense[np.isfinite(dense)]
    assert report.shape == dense.shape
    assert report.n_nonzero == np.count_nonzero(np.nan_to_num(dense, nan=0))
    assert report.density == pytest.approx(report.n_nonzero / dense.size)
    assert (report.minimum, report.maximum) == (finite.min(), finite.max())
    assert report.n_nan == np.isnan(dense).sum()
    assert report.n_negative == (finite < 0).sum()
    assert report.n_infinite == np.isinf(dense).sum()
    assert report.n_noninteger == (finite % 1 != 0).sum()


# -- real data ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", COUNTS)
def test_staged_counts(shared_data, name):
    adata = read(shared_data, name)
    report = inspect(adata)
    assert (report.state, report.kind, report.errors, report.genes_in_rows) == ("counts", "counts", (), False)
    assert report.n_nonzero == (adata.X.data != 0).sum()
    assert report.maximum == adata.X.data.max()
    assert report.empty_genes == (np.asarray((adata.X > 0).sum(axis=0)) == 0).sum()
    dates = {"dates-for-names"} if name == "zeisel_ercc_1000g" else set()  # 4-Sep and 4-Mar, as the file has them
    assert dates <= set(codes(report)) <= {"empty-cells", "empty-genes"} | dates


def test_backed_is_like_in_memory(shared_data):
    report = inspect(read(shared_data, "pbmc4k_top2000", backed="r"))
    assert report == inspect(read(shared_data, "pbmc4k_top2000"))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("target", [1e4, None])
def test_scanpy_preprocessing(shared_data, name, target):
    adata = read(shared_data, name)[:300].copy()
    sc.pp.filter_genes(adata, min_cells=3)
    sc.pp.filter_cells(adata, min_counts=1)
    total = target or float(np.median(np.asarray(adata.X.sum(axis=1))))
    sc.pp.normalize_total(adata, target_sum=target)
    assert inspect(adata).state == "normalized"
    sc.pp.log1p(adata)
    report = inspect(adata)
    assert report.state == "log1p"
    assert report.log_base_total == pytest.approx(total, rel=1e-4)
    sc.pp.highly_variable_genes(adata, n_top_genes=400)
    chosen = adata[:, adata.var["highly_variable"]].copy()
    report = inspect(chosen)
    assert (report.state, report.kind, report.log_base_total) == ("log1p", "counts", None)
    uncentred = sc.pp.scale(chosen, zero_center=False, copy=True)
    assert inspect(uncentred).state == "scaled"
    sc.pp.scale(chosen, max_value=10)
    report = inspect(chosen)
    assert (report.state, report.kind) == ("scaled", "real")


@pytest.mark.parametrize("base", [np.e, 2, 10])
def test_few_zeros_and_no_constant_totals_are_still_counts(shared_data, base):
    """The 500 most abundant genes of deep cells: 6 % zeros, so only the molecules show the state."""
    X = read(shared_data, "scmix_celseq2_3cl").X.toarray()
    top = np.argsort(-X.sum(axis=0))[:500]
    logged = log_normalized(X, base=base)[:, top]
    assert (logged == 0).mean() < MANY_ZEROS
    report = inspect(logged)
    state = {np.e: "log1p", 2: "log2p1", 10: "log10p1"}[base]
    assert (report.state, report.log_base_total, refused(report)) == (state, None, [f"looks-{state}"])
    assert inspect(np.expm1(log_normalized(X))[:, top]).state == "normalized"


def test_z_scores(shared_data):
    report = inspect(read(shared_data, "tcga_gbmlgg_zscore_1544g"))
    assert (report.state, report.kind, report.n_nan) == ("scaled", "real", 0)
    assert (refused(report), codes(report)) == (["nothing-missing"], [])


def test_methylation(shared_data):
    adata = read(shared_data, "tcga_glioma_meth_880x1205")
    report = inspect(adata)
    assert (report.state, report.kind) == ("beta", "real")
    adata.X[np.random.default_rng(0).random(adata.shape) < 0.1] = np.nan
    report = inspect(adata)
    assert (report.state, report.n_nan, report.warnings) == ("beta", int(np.isnan(adata.X).sum()), ())
    assert "% missing (NaN)" in report.lines()[0]
    m_values = np.log2(adata.X / (1 - adata.X))
    assert inspect(m_values).state == "real"


def test_bisulfite_table(shared_data):
    path = shared_data / "wgbs_chr21_M_Cov.parquet"
    if not path.exists():
        pytest.skip(f"{path} not found: set IMPUTOME_DATA")
    table = pd.read_parquet(path)
    methylated = table.filter(like="M.").to_numpy().T
    assert inspect(methylated).state == "counts"
    assert inspect(methylated / table.filter(like="Cov.").to_numpy().T).state == "beta"


def test_pbmc68k_as_it_comes():
    adata = sc.datasets.pbmc68k_reduced()
    report = inspect(adata)
    assert report.state == "scaled"
    assert refused(report) == ["nothing-missing"]
    assert "other values (700 x 765)" in report.errors[0]
    assert inspect(adata.raw.to_adata()).state == "log1p"


# -- synthetic states --------------------------------------------------------------------------------------------------
def test_log2_is_not_the_natural_logarithm(counts):
    report = inspect(log_normalized(counts, base=2))
    assert (report.state, report.log_base_total) == ("log2p1", None)
    assert refused(report) == ["looks-log2p1"]
    assert report.errors[0].options["scale"] == "log2p1"


def test_shares_of_the_cell_are_normalized_and_not_logs_nor_beta(counts):
    assert inspect(counts / counts.sum(axis=1, keepdims=True)).state == "normalized"


@pytest.mark.parametrize("decimals", [1, 2, None])
def test_continuous_data_with_few_zeros_is_real(decimals):
    """Rounding puts all values on a grid of whole multiples, which must not be taken for molecules."""
    X = np.random.default_rng(0).exponential(2.0, (50, 400))
    X[:, ::40] = 0
    X = X if decimals is None else X.round(decimals)
    assert 0 < (X == 0).mean() < 0.1
    assert inspect(X).state == "real"


def test_quantile_normalised_arrays_are_real():
    rng = np.random.default_rng(1)
    levels = np.sort(rng.normal(8, 2, 100).clip(2, 15))
    assert inspect(np.array([rng.permutation(levels) for _ in range(30)])).state == "real"


def test_fractions_are_beta():
    assert inspect(np.random.default_rng(0).beta(0.5, 0.5, (40, 50))).state == "beta"


def test_nan_makes_it_real():
    X = np.random.default_rng(0).normal(5, 1, (40, 50))
    X[3, 4] = np.nan
    report = inspect(X)
    assert (report.state, report.kind, report.n_nan, report.warnings) == ("real", "real", 1, ())
    X[X < 4] -= 6
    assert inspect(X).state == "real"


def test_other_negative_values_are_real():
    report = inspect(np.random.default_rng(0).normal(2, 3, (40, 50)))
    assert report.state == "real"
    assert refused(report) == ["nothing-missing"]
    assert f"{report.n_negative:,} negative" in report.errors[0]


def test_differences_of_integers_are_real():
    assert inspect(np.random.default_rng(0).integers(-5, 6, (40, 50))).state == "real"


# -- containers --------------------------------------------------------------------------------------------------------
FORMS = {
    "ndarray": lambda X: X,
    "float64": lambda X: X.astype(np.float64),
    "integers": lambda X: X.astype(np.int64) if (X % 1 == 0).all() else X,
    "csr": sp.csr_array,
    "csc": sp.csc_matrix,
    "coo": sp.coo_array,
    "frame": pd.DataFrame,
    "anndata": adata_of,
    "anndata_csc": lambda X: adata_of(sp.csc_matrix(X)),
    "list": lambda X: X.tolist(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", ["counts", "log1p", "real"])
def test_every_container_gives_the_same_report(monkeypatch, counts, form, make):
    monkeypatch.setattr(tally, "ENTRIES_PER_PIECE", 7 * 40)  # many pieces, the last one short
    X = {"counts": counts, "log1p": log_normalized(counts), "real": counts - 2.25}[make]
    X = X.astype(np.float32)
    report = inspect(FORMS[form](X))
    assert report.state == make
    check_figures(report, X)
    assert report.empty_cells == report.empty_genes == 0


def test_dask(counts):
    array = pytest.importorskip("dask.array")
    check_figures(inspect(array.from_array(counts, chunks=(13, 40))), counts)


@pytest.mark.parametrize("store", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_backed(tmp_path, monkeypatch, counts, store):
    adata = adata_of(store(log_normalized(counts)), layers={"counts": store(counts)})
    adata.raw = adata_of(store(counts))
    adata.write_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr(tally, "ENTRIES_PER_PIECE", 7 * 40)
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    report = inspect(backed)
    assert report == inspect(adata)
    assert report.errors[0].options["layer"] == "counts"
    assert "adata.raw holds integers (60 x 40)" in report.errors[0]
    assert inspect(backed, layer="counts").state == "counts"
    backed.file.close()


def test_stored_zeros_and_duplicates_do_not_count():
    values, columns = np.array([1.0, 2.0, 0.0, 3.0, 0.5, 0.5]), np.array([0, 1, 2, 1, 0, 0])
    X = sp.csr_array((values, columns, np.array([0, 3, 4, 6])), shape=(3, 3))
    report = inspect(X)
    assert (report.state, report.n_nonzero, report.n_noninteger) == ("counts", 4, 0)
    assert X.data.tolist() == [1, 2, 0, 3, 0.5, 0.5], "the input must not be changed"
    assert X.indices.tolist() == [0, 1, 2, 1, 0, 0]


def test_sparse_is_not_made_dense():
    X = sp.random_array((3000, 40000), density=0.001, format="csr", rng=np.random.default_rng(0))
    X.data = np.ceil(X.data * 5)
    inspect(X[:10])  # imports
    tracemalloc.start()
    report = inspect(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.n_nonzero == X.nnz
    assert peak < 20e6, "120 million entries would take 960 MB"


def test_the_input_does_not_change(counts):
    counts[0, 0], counts[1, 1] = np.nan, np.inf
    for form in (counts, sp.csr_array(counts), sp.csc_array(counts)):
        before = form.copy()
        inspect(form)
        stored, expected = (x if isinstance(x, np.ndarray) else x.data for x in (form, before))
        np.testing.assert_array_equal(stored, expected)


# -- warnings and errors -----------------------------------------------------------------------------------------------
def test_clean_counts_have_no_warnings(counts):
    report = imputome.inspect(adata_of(counts))
    assert (report.warnings, report.errors, report.where) == ((), (), "X")
    assert report.lines()[0].startswith("60 cells x 40 genes, ")
    assert report.lines()[1] == f"state: counts (integers, 0 to {counts.max():.0f}), in X"


def test_log_transformed_with_counts_in_a_layer(counts):
    adata = adata_of(log_normalized(counts), layers={"counts": counts, "halves": counts / 2})
    report = inspect(adata)
    assert refused(report) == ["looks-log1p"]
    assert report.errors[0].options == {"layer": "counts", "scale": "log1p"}
    assert f"{adata.X.max():.3g}" in report.errors[0]
    assert report.lines()[1].endswith("of 10,000 per cell), in X")
    layer = inspect(adata, layer="counts")
    assert (layer.state, layer.where, layer.warnings) == ("counts", "layers['counts']", ())


def test_counts_in_x_and_another_layer_named(counts):
    report = inspect(adata_of(counts, layers={"log": log_normalized(counts)}), layer="log")
    assert report.errors[0].options == {"layer": "log", "scale": "log1p"}  # the layer to leave out


def test_the_inspected_layer_is_not_suggested(monkeypatch, counts):
    monkeypatch.setattr(tally, "ENTRIES_PER_PIECE", 7 * 40)
    late = counts.copy()
    late[-1] *= 0.3  # the first piece holds integers, so it looks like counts at a glance
    adata = adata_of(log_normalized(counts), layers={"late": late})
    assert inspect(adata, layer="late").errors[0].options["layer"] is ...


def test_raw_is_named_only_if_it_differs(counts):
    adata = adata_of(log_normalized(counts))
    adata.raw = adata
    assert "adata.raw" not in inspect(adata).errors[0]
    adata.raw = adata_of(counts)
    assert "adata.raw holds integers (60 x 40)" in inspect(adata).errors[0]
    assert inspect(adata).errors[0].options["layer"] == "raw"


def test_negative_among_counts(counts):
    counts[3, 3] = counts[4, 4] = -2
    report = inspect(counts)
    assert (report.state, report.n_negative) == ("counts", 2)
    assert refused(report) == ["negative-counts"]
    assert "-2" in report.errors[0]


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_infinite(counts, value, form):
    counts[3, 3] = value
    report = inspect(form(counts))
    assert report.n_infinite == 1
    assert np.isfinite([report.minimum, report.maximum]).all()
    assert [error.code for error in report.errors] == ["infinite-values"]


@pytest.mark.parametrize("factor", [1e200, -1e39, 1e-200])
def test_values_that_single_precision_cannot_hold(counts, factor):
    """Methods gave NaN or a traceback; they are refused by all, and a tenth of the limit is fine."""
    X = np.where(counts > 2, np.nan, counts.astype(np.float64) + 0.5) * factor
    assert [error.code for error in inspect(X).errors] == ["values-out-of-range"]
    for method in ("gaussian_copula", "svd", "mean"):
        with pytest.raises(InputError, check=has_code("values-out-of-range")):
            imputome.methods.create(method).fit(X)
    ordinary = X / factor
    expected = imputome.methods.create("svd").fit_transform(ordinary).to_array()
    for scale in (1e37, 1e-37):
        scaled = imputome.methods.create("svd").fit_transform(ordinary * scale).to_array()
        np.testing.assert_allclose(scaled, expected * scale, rtol=1e-4)


def test_non_integer(counts):
    report = inspect(counts * 0.5 + 0.01 * (counts > 0) * np.arange(40))  # 15.4 at most
    assert (report.state, report.kind, report.certain) == ("unclear", "counts", False)
    assert refused(report) == ["scale-unclear"]
    report = inspect(counts * 90.1 + 0.01 * (counts > 0) * np.arange(40), kind="counts")
    assert report.state == "normalized"
    assert report.n_noninteger > 0
    assert refused(report) == ["looks-normalized"]
    assert report.errors[0].options["scale"] == "normalized"


def test_nan_among_counts(counts):
    counts[3, 3] = np.nan
    report = inspect(counts)
    assert (report.n_nan, refused(report)) == (1, ["kind-unclear"])
    report = inspect(counts, kind="real")
    assert (report.state, report.errors, codes(report)) == ("real", (), [])
    report = inspect(counts, kind="counts")
    assert (report.state, report.errors, codes(report)) == ("counts", (), ["nan-as-zeros"])
    counts[counts == 0] = 1
    assert codes(inspect(counts)) == ["integers-with-nan"]


@pytest.mark.parametrize("wrap", [np.asarray, pd.DataFrame, sp.csr_array, sp.csc_array])
def test_integers_that_a_batch_lacks_are_no_zeros(wrap):
    """Genes that a batch did not measure: the advice to put 0 would make false measurements of them."""
    X = np.random.default_rng(0).poisson(3.0, size=(60, 40)).astype(float)
    X[:20, :8] = np.nan
    report = inspect(wrap(X))
    assert "not-measured" in codes(report)
    assert "integers-with-nan" not in codes(report)
    X[:] = np.where(np.isnan(X), 3, X)
    X[np.random.default_rng(1).random(X.shape) < 0.03] = np.nan
    assert "not-measured" not in codes(inspect(wrap(X)))


def test_duplicates(counts):
    adata = adata_of(counts)
    adata.var_names = ["a", "a", "a", *adata.var_names[3:]]
    adata.obs_names = ["b", "b", *adata.obs_names[2:]]
    report = inspect(adata)
    assert (report.duplicate_obs, report.duplicate_var) == (1, 2)
    assert codes(report) == ["duplicate-obs-names", "duplicate-var-names"]
    assert inspect(pd.DataFrame(counts, columns=adata.var_names)).duplicate_var == 2


def test_names_that_a_spreadsheet_made_dates(counts):
    adata = adata_of(counts)
    assert "dates-for-names" not in codes(inspect(adata))
    for wrong in (["1-Mar", "2-Sep", "01.Dez"], ["Mar-01"], ["2001-03-01 00:00:00"]):
        adata.var_names = [*wrong, *(f"g{j}" for j in range(40 - len(wrong)))]
        assert "dates-for-names" in codes(inspect(adata))
    adata.var_names = [f"2001-03-{j:02}" for j in range(40)]  # times
    assert "dates-for-names" not in codes(inspect(adata))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty(shape):
    report = inspect(np.zeros(shape))
    assert [error.code for error in report.errors] == ["empty-matrix"]
    assert (report.minimum, report.maximum) == (None, None)
    assert report.lines()


def test_all_zero_cells_and_genes(counts):
    counts[[2, 3]] = 0
    counts[:, [5, 6, 7]] = 0
    report = inspect(adata_of(sp.csr_matrix(counts)))
    assert (report.empty_cells, report.empty_genes, report.errors) == (2, 3, ())
    assert codes(report) == ["empty-cells", "empty-genes"]
    assert [text.split()[0] for text in report.warnings] == ["2", "3"]


def test_rows_without_a_value_in_real_data():
    X = np.random.default_rng(0).normal(size=(9, 5))
    X[2], X[:, 3] = np.nan, np.nan
    report = inspect(X)
    assert (report.empty_cells, report.empty_genes) == (1, 1)
    assert codes(report) == ["empty-cells", "empty-genes"]


def test_too_little_to_learn_from(counts):
    counts[1:] = 0
    for X in (np.ones((1, 9)), np.ones((9, 1)), counts):
        (error,) = inspect(X).errors
        assert error.code == "too-small"
    assert f" {(counts[0] > 0).sum()} of {counts.shape[1]} genes" in error


def test_all_zero_and_all_nan():
    assert inspect(np.zeros((4, 5))).errors[0].code == "only-zeros"
    assert inspect(np.full((4, 5), np.nan)).errors[0].code == "no-values"


def test_no_numbers(counts):
    frame = pd.DataFrame(counts).assign(cell_type="B")
    (error,) = inspect(frame).errors
    assert error.code == "not-numeric"
    assert "cell_type" in error
    assert inspect(np.array([["a", "b"], ["c", "d"]])).errors[0].code == "not-numeric"


def test_no_matrix(counts):
    with pytest.raises(InputError, check=has_code("not-a-matrix")):
        inspect(np.ones(3))
    with pytest.raises(InputError, check=has_code("layer-missing")) as error:
        inspect(adata_of(counts, layers={"counts": counts}), layer="x")
    assert "'x' (layers: counts)" in str(error.value)
    with pytest.raises(InputError, check=has_code("no-matrix")):
        inspect(AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["b"])))


def test_binarised(counts):
    report = inspect((counts > 0).astype(int))
    assert report.state == "counts"
    assert codes(report) == ["looks-binarised"]


BARCODES = [f"{word}-1" for word in ("AAACATACAACCAC", "TTTGCATGAGAGGC", "GATTACAGATTACA", "CCCCCCAAAATTTT")]


@pytest.mark.parametrize(
    ("genes", "named"),
    [
        (["FOO", "ACTB", "GAPDH", "BAR"], "ACTB, GAPDH"),
        (["Foo", "Rpl13a", "mt-Nd1", "Bar"], "Rpl13a, mt-Nd1"),
        (["ENSG00000281131", "ENSMUSG00000000001.4", "x", "y"], "ENSG00000281131, ENSMUSG00000000001.4"),
        (["MT-CO1", "RPS27A", "MALAT1", "B2M"], "MT-CO1, RPS27A, MALAT1, ..."),
    ],
)
def test_genes_in_rows(genes, named):
    X = np.arange(16).reshape(4, 4)
    wrong = AnnData(X, obs=pd.DataFrame(index=genes), var=pd.DataFrame(index=["c1", "c2", "c3", "c4"]))
    report = inspect(wrong)
    assert report.genes_in_rows
    assert "genes-in-rows" in [message.code for message in (*report.errors, *report.warnings)]
    assert named in next(message for message in (*report.errors, *report.warnings) if message.code == "genes-in-rows")
    assert not inspect(wrong.T).genes_in_rows


@pytest.mark.parametrize("pattern", ["{}", "s1_{}", "run:{}x"])
def test_barcodes_in_columns(pattern):
    barcodes = [pattern.format(code if "x" not in pattern else code[:-2]) for code in BARCODES]
    frame = pd.DataFrame(np.arange(16).reshape(4, 4), index=["p", "q", "r", "s"], columns=barcodes)
    report = inspect(frame)
    assert report.genes_in_rows
    assert report.errors[0].code == "genes-in-rows"
    assert not inspect(frame.T).genes_in_rows


@pytest.mark.parametrize(
    ("obs", "var"),
    [
        (["a", "b"], ["c", "d"]),
        (["0", "1"], ["0", "1"]),
        (["ACTB", "b"], ["GAPDH", "d"]),  # a gene x gene table says nothing
        (["TCGA-02-0047", "TCGA-06-0125"], ["CATCATCAT", "RPE65"]),
    ],
)
def test_uninformative_names(obs, var):
    X = np.arange(4).reshape(2, 2)
    assert not inspect(AnnData(X, obs=pd.DataFrame(index=obs), var=pd.DataFrame(index=var))).genes_in_rows


def test_report_is_json(counts):
    counts[1, 1] = np.nan
    for X in (counts, np.zeros((0, 3)), log_normalized(np.nan_to_num(counts))):
        report = inspect(X)
        again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert tuple(again["shape"]) == report.shape
        assert tuple(again["warnings"]) == report.warnings
        assert again["log_base_total"] == report.log_base_total
        assert not any("{" in message for message in report.warnings + report.errors)  # every option is filled in


@pytest.mark.parametrize(
    ("factor", "wrong", "expected"),
    [(1.0, 1.0001, ["outside-beta-range"]), (100.0, 5.0, ["looks-percentages"]), (1.0, 0.5, [])],
)
def test_values_that_are_nearly_beta_values(factor, wrong, expected):
    X = factor * np.random.default_rng(0).beta(0.5, 0.5, (50, 20))
    X[3, 4], X[5, 6] = np.nan, wrong
    assert codes(inspect(adata_of(X))) == expected


@pytest.mark.parametrize("values", ["z", "log"])
def test_other_real_values_are_not_taken_for_beta_values(values):
    X = np.random.default_rng(0).normal(size=(50, 20))
    X = X if values == "z" else 20 * np.abs(X) / np.abs(X).max()
    X[3, 4] = np.nan
    assert not inspect(adata_of(X)).warnings


@pytest.mark.parametrize("form", ["masked", "nullable", "objects"])
def test_integers_missing_in_blocks_are_seen_in_every_form_of_missing(form):
    """The warning looks at the values by itself, so it must read what is masked, None or NA as the rest does."""
    values = np.random.default_rng(0).integers(1, 50, size=(60, 20))
    lacking = (np.arange(60) < 30)[:, None] & (np.arange(20) < 10)
    frame = pd.DataFrame(values).astype("Int64").mask(lacking)
    X = {"masked": np.ma.masked_array(values, lacking), "nullable": frame, "objects": frame.to_numpy(dtype=object)}[
        form
    ]
    assert "not-measured" in [warning.code for warning in inspect(X).warnings]
