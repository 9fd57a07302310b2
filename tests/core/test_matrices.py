"""What a matrix can be: masked, nullable, of any number type, byte order or sparse format; or refused with a reason."""

from __future__ import annotations

import decimal

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import has_code
from imputome.core.arrays import in_memory
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.masked import mask

rng = np.random.default_rng(0)
COUNTS = rng.poisson(1.5, (30, 8))
REAL = rng.normal(size=(30, 8))
REAL[rng.random(REAL.shape) < 0.1] = np.nan
MISSING = np.isnan(REAL)


def frame():
    return pd.DataFrame(REAL, columns=list("abcdefgh"))


REAL_FORMS = {
    "masked": lambda: np.ma.masked_array(np.where(MISSING, -999, REAL), MISSING),
    "masked float32": lambda: np.ma.masked_array(np.where(MISSING, -999, REAL).astype(np.float32), MISSING),
    "masked and NaN": lambda: np.ma.masked_array(REAL, MISSING & (np.arange(8) < 4)),
    "objects with None": lambda: np.where(MISSING, None, REAL.astype(object)),
    "objects with NA": lambda: np.where(MISSING, pd.NA, REAL.astype(object)),
    "masked objects": lambda: np.ma.masked_array(REAL.astype(object), MISSING),
    "nullable": lambda: frame().convert_dtypes(),
    "pyarrow": lambda: frame().convert_dtypes(dtype_backend="pyarrow"),
    "object column": lambda: frame().astype({"a": object}).where(~MISSING, None),
    "half precision": lambda: REAL.astype(np.float16),
    "long double": lambda: REAL.astype(np.longdouble),
    "big-endian": lambda: REAL.astype(">f8"),
    "Fortran order": lambda: np.asfortranarray(REAL),
    "matrix": lambda: np.matrix(REAL),
    "nested lists": REAL.tolist,
}


@pytest.mark.parametrize("form", REAL_FORMS)
def test_real_values_and_what_is_missing(form):
    X = REAL_FORMS[form]()
    given = X.copy()
    data = as_data(X)
    assert data.kind == "real"
    rtol = {"half precision": 2e-3, "masked float32": 1e-6}.get(form, 0)
    np.testing.assert_allclose(data.X, REAL, rtol=rtol)
    report = imputome.inspect(X)
    assert (report.kind, report.n_nan, report.n_infinite) == ("real", MISSING.sum(), 0)
    if isinstance(X, np.ma.MaskedArray):
        np.testing.assert_array_equal(np.ma.getmaskarray(X), np.ma.getmaskarray(given))
        np.testing.assert_array_equal(X.data.astype(float), given.data.astype(float))


def read_only():
    X = COUNTS.astype(np.float32)
    X.flags.writeable = False
    return X


def stored(name, dtype):
    return lambda: sp.csr_array(COUNTS.astype(dtype)).asformat(name)


COUNT_FORMS = {
    **{dtype: (lambda dtype=dtype: COUNTS.astype(dtype)) for dtype in ("int8", "uint8", "int16", "uint64", ">i4")},
    **{f"{name} float32": stored(name, np.float32) for name in ("lil", "dok", "bsr", "coo", "dia")},
    **{f"{name} int8": stored(name, np.int8) for name in ("csr", "csc", "coo")},
    "objects": lambda: COUNTS.astype(object),
    "decimals": lambda: np.array([[decimal.Decimal(int(v)) for v in row] for row in COUNTS]),
    "Int64": lambda: pd.DataFrame(COUNTS).astype("Int64"),
    "sparse frame": lambda: pd.DataFrame.sparse.from_spmatrix(sp.csr_matrix(COUNTS)),
    "bool and int columns": lambda: pd.DataFrame(COUNTS).astype({0: float, 1: np.int8}),
    "half precision": lambda: COUNTS.astype(np.float16),
    "half precision, sparse": lambda: half_sparse(),
    "read-only": read_only,
    "every second": lambda: np.repeat(COUNTS, 2, axis=1)[:, ::2],
    "masked nowhere": lambda: np.ma.masked_array(COUNTS),
}


def half_sparse():
    X = sp.csr_matrix(COUNTS.astype(np.float32))
    X.data = X.data.astype(np.float16)  # as files can have it; SciPy makes no such matrix
    return X


@pytest.mark.parametrize("form", COUNT_FORMS)
def test_counts(form):
    X = COUNT_FORMS[form]()
    data = as_data(X)
    assert data.kind == "counts"
    np.testing.assert_array_equal(data.X.toarray(), COUNTS)
    report = imputome.inspect(X)
    assert (report.state, report.n_nonzero, report.maximum) == ("counts", np.count_nonzero(COUNTS), COUNTS.max())


@pytest.mark.parametrize("kind", ["coo", "csr"])
def test_duplicates_are_summed_without_overflow_and_the_input_is_left_alone(kind):
    index, pointer = np.array([2, 1, 1, 0, 0, 3]), np.array([0, 3, 6])
    X = sp.csr_array((np.full(6, 100, dtype=np.int8), index, pointer), shape=(2, 4))
    X = X.tocoo() if kind == "coo" else X
    expected = [[0, 200, 100, 0], [200, 0, 0, 100]]
    np.testing.assert_array_equal(as_data(X).X.toarray(), expected)
    report = imputome.inspect(X)
    assert (report.maximum, report.n_negative, report.n_nonzero) == (200, 0, 4)
    assert (X.data == 100).all()
    assert len(X.data) == 6


def test_masked_counts_are_not_observed():
    X = np.ma.masked_array(np.where(COUNTS == 2, -999, COUNTS), COUNTS == 2)
    np.testing.assert_array_equal(as_data(X, kind="counts").X.toarray(), np.where(COUNTS == 2, 0, COUNTS))


@pytest.mark.parametrize(
    "X",
    [
        COUNTS + 1j,
        COUNTS.astype("M8[s]"),
        COUNTS.astype("m8[s]"),
        COUNTS.astype(str),
        COUNTS.astype("S"),
        np.where(COUNTS == 0, "none", COUNTS.astype(object)),
        np.where(COUNTS == 0, pd.Timestamp(0), COUNTS.astype(object)),
        sp.csr_array(COUNTS + 0j),
        pd.DataFrame(COUNTS).astype({3: "M8[s]"}),
        pd.DataFrame(COUNTS).astype({3: str}),
        pd.DataFrame(COUNTS).astype({3: "category"}),
        pd.DataFrame(COUNTS).astype({3: complex}),
    ],
    ids=lambda X: type(X).__name__,
)
def test_what_holds_no_real_numbers_is_refused(X):
    with pytest.raises(InputError, check=has_code("not-numeric")):
        as_data(X)
    assert [error.code for error in imputome.inspect(X).errors] == ["not-numeric"]


def test_dates_that_are_missing_are_not_numbers():
    X = np.array([["2020-01-01", "NaT"], ["NaT", "2020-01-02"]], dtype="M8[D]")
    with pytest.raises(InputError, check=has_code("not-numeric")):
        in_memory(X)


@pytest.mark.parametrize("method", ["mean", "median", "knn", "svd", "soft_impute", "gaussian_copula"])
@pytest.mark.parametrize(("given", "written"), [("f2", "f4"), (">f4", "f4"), ("f4", "f4"), ("f8", "f8"), ("g", "f8")])
def test_layers_have_the_precision_of_the_input(method, given, written):
    adata = ad.AnnData(REAL.astype(given))
    imputome.impute(adata, method=method, key_added="k")
    assert adata.layers["k"].dtype == written
    kept = adata.X.astype(written)
    np.testing.assert_array_equal(adata.layers["k"][~MISSING], kept[~MISSING])


@pytest.mark.parametrize("layer", [None, "half"])
@pytest.mark.parametrize(
    "make", [lambda: COUNTS.astype(np.float16), half_sparse, lambda: np.asfortranarray(COUNTS, np.uint8)]
)
def test_counts_of_any_type_give_the_same_layer(make, layer):
    expected = ad.AnnData(COUNTS.astype(np.float32))
    adata = ad.AnnData(make()) if layer is None else ad.AnnData(shape=COUNTS.shape, layers={"half": make()})
    for each, name in ((expected, None), (adata, layer)):
        imputome.impute(each, method="gene_mean_posterior", layer=name, key_added="k")
    np.testing.assert_array_equal(adata.layers["k"], expected.layers["k"])
    assert adata.layers["k"].dtype == np.float32


def test_half_precision_everywhere():
    single, half = (ad.AnnData(COUNTS.astype(dtype)) for dtype in (np.float32, np.float16))
    results = []
    for adata in (single, half):
        model = imputome.fit_model(adata, method="gene_mean")
        masked = mask(adata, scheme="random", fraction=0.2)
        scores = imputome.evaluate(adata, methods="gene_mean", scheme="random", fraction=0.2)
        applied = imputome.apply_model(adata, model, copy=True)
        hidden = masked.layers["truth"].toarray()
        results.append((masked.X.toarray(), hidden, scores["value"], applied.layers["gene_mean"]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    assert imputome.inspect(half) == imputome.inspect(single)


@pytest.mark.parametrize("shape", [(0, 8), (8, 0)])
def test_empty_data_are_refused(shape):
    with pytest.raises(InputError, check=has_code("empty-matrix")):
        imputome.impute(ad.AnnData(np.zeros(shape)), method="gene_mean")


@pytest.mark.parametrize("block", [7, 10**6])
def test_totals_of_genes_are_exact_in_blocks(monkeypatch, block):
    monkeypatch.setattr("imputome.core.data.SUM_BLOCK", block)
    X = COUNTS.astype(np.float32)
    X[:, 0] = 2**23 + 1  # a sum in float32 would lose molecules
    np.testing.assert_array_equal(as_data(sp.csr_array(X), kind="counts").gene_totals, X.sum(axis=0, dtype=np.float64))
