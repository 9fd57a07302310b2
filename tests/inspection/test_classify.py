"""What kind of values a matrix holds, and on which scale: told from the values, or asked for where they leave doubt."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from codes import has_code
from imputome.errors import InputError
from imputome.inspection.source import layer_in_memory
from imputome.inspection.state import inspect

rng = np.random.default_rng(0)
COUNTS = rng.poisson(rng.gamma(0.4, 3, (1, 200)) * rng.lognormal(0, 0.5, (120, 1))).astype(np.float64)
COUNTS[:, 0] += 1
LIBRARY = COUNTS.sum(axis=1, keepdims=True)
# per million, of genes of different lengths: a selection of genes holds no multiples of one molecule
TPM = COUNTS / np.random.default_rng(1).uniform(0.3, 6, 200)
TPM *= 1e6 / TPM.sum(axis=1, keepdims=True)
FORWARD = {
    "log1p": np.log1p,
    "log2p1": lambda x: np.log2(1 + x),
    "log10p1": lambda x: np.log10(1 + x),
    "sqrt": np.sqrt,
}


def refused(report):
    return [error.code for error in report.errors]


def with_nan(X, share=0.02, seed=3):
    X = X.astype(np.float64).copy()
    X[np.random.default_rng(seed).random(X.shape) < share] = np.nan
    return X


# -- kind: zeros beside NaN --------------------------------------------------------------------------------------------
IN_DOUBT = {
    "TPM, two NaN": np.where(np.arange(TPM.size).reshape(TPM.shape) % 12000 == 7, np.nan, TPM),
    "counts, few NaN": with_nan(COUNTS),
    "counts, many NaN": with_nan(COUNTS, 0.6),
    "TPM, many NaN": with_nan(TPM, 0.6),
    "log2 TPM, few NaN": with_nan(FORWARD["log2p1"](TPM)),
    "log1p CP10k, few NaN": with_nan(FORWARD["log1p"](COUNTS / LIBRARY * 1e4)),
    "shares of the cell": with_nan(COUNTS / LIBRARY),
}


@pytest.mark.parametrize("name", IN_DOUBT)
def test_zeros_beside_nan_are_asked_about(name):
    X = IN_DOUBT[name]
    assert refused(inspect(X)) == ["kind-unclear"]
    assert refused(inspect(sp.csr_array(X))) == ["kind-unclear"]
    real = inspect(X, kind="real")
    assert (real.kind, real.errors) == ("real", ())
    counts = inspect(X, kind="counts")
    assert counts.kind == "counts"
    assert "kind-unclear" not in refused(counts)


def rrbs(shape=(60, 300)):
    reads = np.random.default_rng(2).integers(1, 8, shape)
    return np.random.default_rng(4).binomial(reads, np.random.default_rng(5).beta(0.3, 0.3, shape)) / reads


REAL = {
    "bulk, few zeros": np.where(rng.random((40, 300)) < 0.05, 0, rng.lognormal(4, 2, (40, 300))),
    "log2 of bulk": np.where(rng.random((40, 300)) < 0.1, 0, rng.normal(8, 2, (40, 300)).clip(0.1)),
    "proteomics": rng.normal(25, 3, (40, 300)),
    "proteomics as integers": np.rint(rng.lognormal(14, 2, (40, 300))),
    "beta values": rng.beta(0.5, 0.5, (40, 300)),
    "beta values of few reads": rrbs(),
    "percentages of few reads": 100 * rrbs(),
    "log ratios": rng.normal(0, 1, (40, 300)),
}


@pytest.mark.parametrize("share", [0.01, 0.3])
@pytest.mark.parametrize("name", REAL)
def test_real_values_with_nan_pass_without_a_question(name, share):
    report = inspect(with_nan(REAL[name], share))
    assert (report.kind, report.errors) == ("real", ())


def test_nan_in_counts_are_zeros():
    X = with_nan(COUNTS)
    report, expected = inspect(X, kind="counts"), inspect(np.nan_to_num(X), kind="counts")
    assert (report.state, report.n_nonzero, report.empty_genes) == ("counts", expected.n_nonzero, expected.empty_genes)
    assert report.warnings[0].code == "nan-as-zeros"


def test_unknown_kind():
    with pytest.raises(InputError, check=has_code("unknown-kind")):
        inspect(COUNTS, kind="bulk")


def test_infinite_values_of_counts_do_not_become_nan():
    X = TPM.copy()
    X[3, 4] = X[5, 6] = np.inf
    report = inspect(X)
    assert refused(report)[0] == "infinite-values"
    assert "0, which is missing" in report.errors[0]
    X = REAL["log ratios"].copy()
    X[3, 4] = -np.inf
    assert "NaN, which is missing" in inspect(X).errors[0]


# -- kind: intensities as integers -------------------------------------------------------------------------------------
LFQ = np.rint(np.where(rng.random((30, 200)) < 0.3, 0, rng.lognormal(15, 2, (30, 200)).clip(1e4)))
ARRAY = np.rint(rng.lognormal(7, 1.2, (30, 200)).clip(30, 65535))


@pytest.mark.parametrize("X", [LFQ, LFQ[:, :20], LFQ + 0.25 * (LFQ > 0), ARRAY, np.log2(1 + LFQ)])
def test_intensities_are_asked_about(X):
    report = inspect(X)
    assert refused(report) == ["kind-unclear"]
    assert inspect(X, kind="real").kind == "real"
    assert inspect(X, kind="counts").kind == "counts"


def smart_seq():
    """Full-length reads: most zeros are dropouts, and the other counts are large."""
    mean = np.random.default_rng(6).lognormal(4, 2, (1, 500))
    X = np.random.default_rng(7).negative_binomial(0.5, 0.5 / (0.5 + mean), (60, 500))
    return np.where(np.random.default_rng(8).random(X.shape) < 0.4, 0, X)


def test_large_counts_are_counts():
    assert (inspect(smart_seq()).state, inspect(smart_seq()).errors) == ("counts", ())
    mean = np.random.default_rng(6).lognormal(5, 2.5, (1, 4000))
    bulk = np.random.default_rng(7).negative_binomial(3, 3 / (3 + mean), (12, 4000))
    report = inspect(bulk)
    assert (report.state, report.errors) == ("counts", ())
    assert [warning.code for warning in report.warnings if warning.code == "bulk-counts"] == ["bulk-counts"]
    assert "bulk-counts" not in [warning.code for warning in inspect(bulk, kind="counts").warnings]


# -- kind: codes for missing -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [-1, -9, -99, -999, -1e30])
@pytest.mark.parametrize("X", [COUNTS, REAL["beta values"], REAL["proteomics"], with_nan(REAL["proteomics"])])
def test_codes_for_missing_are_named(X, code):
    X = X.astype(np.float64).copy()
    X[np.random.default_rng(9).random(X.shape) < 0.1] = code
    assert refused(inspect(X)) == ["missing-code"]
    assert refused(inspect(sp.csr_array(np.nan_to_num(X)))) == ["missing-code"]
    assert "missing-code" not in refused(inspect(X, kind="real"))


@pytest.mark.parametrize(
    "X",
    [
        REAL["log ratios"],
        rng.integers(-1, 2, (40, 50)),  # calls of gains and losses
        rng.normal(0, 3, (40, 50)).clip(-1, 5),  # a floor with other negative values
        np.where(rng.random((40, 50)) < 0.001, -1.5, REAL["proteomics"][:, :50]),
    ],
)
def test_other_negative_values_are_no_codes(X):
    assert "missing-code" not in refused(inspect(X))


# -- scale -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.float64, "three decimals"])
@pytest.mark.parametrize("name", FORWARD)
def test_transforms_of_counts_are_told_from_those_of_normalised_values(name, dtype):
    for values, state in (
        (COUNTS, f"{name}_counts"),
        (COUNTS.clip(0, 4), f"{name}_counts"),
        (COUNTS / LIBRARY * 1e4, name),
        (COUNTS / LIBRARY * np.median(LIBRARY), name),
        (TPM, name),
        (TPM / 10, name),
    ):
        X = FORWARD[name](values)
        report = inspect(X.round(3) if dtype == "three decimals" else X.astype(dtype))
        assert (report.state, refused(report)) == (state, [f"looks-{state}"])
        assert report.errors[0].options["scale"] == state


@pytest.mark.parametrize("name", FORWARD)
def test_a_selection_of_genes_keeps_the_scale_or_is_asked_about(name):
    assert inspect(FORWARD[name](COUNTS / LIBRARY * 1e4)[:, ::4]).state == name
    report = inspect(FORWARD[name](TPM)[:, ::4])
    if name == "sqrt":  # values of hundreds: no logs
        assert (report.state, report.certain, refused(report)) == ("normalized", False, ["kind-unclear"])
    else:
        assert (report.state, report.certain, refused(report)) == ("unclear", False, ["scale-unclear"])


def test_rows_of_length_one_are_no_square_roots():
    X = COUNTS / np.linalg.norm(COUNTS, axis=1, keepdims=True)
    assert inspect(X).state != "sqrt"


# -- expected counts ---------------------------------------------------------------------------------------------------
def expected_counts(seed=0, decimals=2):
    """Reads of genes, of which those of 40 % of the genes were divided among transcripts."""
    local = np.random.default_rng(seed)
    X = local.poisson(local.lognormal(3, 2, (1, 200)) * local.lognormal(0, 0.4, (30, 1))).astype(float)
    shared = local.random(200) < 0.4
    X[:, shared] = (X[:, shared] * local.uniform(0.6, 1, (30, shared.sum()))).round(decimals)
    return X


@pytest.mark.parametrize("decimals", [1, 2, 3, 6])
def test_expected_counts(decimals):
    report = inspect(expected_counts(decimals=decimals))
    assert (report.state, report.kind, refused(report)) == ("expected", "counts", ["looks-expected"])
    assert report.errors[0].options["round_counts"] == "nearest"


def six_digits(X):
    """As R writes them: high values have no decimals left."""
    return np.vectorize(lambda value: float(f"{value:.6g}"))(X)


def test_other_values_are_no_expected_counts():
    X = expected_counts()
    for values in (
        six_digits(X / X.sum(axis=1, keepdims=True) * 1e6),
        six_digits(TPM)[:, :80],
        X / np.random.default_rng(1).lognormal(0, 0.4, (30, 1)),  # size factors
        100 * rrbs(),
    ):
        assert inspect(values).state != "expected"


# -- raw ---------------------------------------------------------------------------------------------------------------
def with_raw(X, raw, genes):
    names = [f"g{j}" for j in range(raw.shape[1])]
    adata = AnnData(X, var=pd.DataFrame(index=[names[j] for j in genes]))
    adata.raw = AnnData(sp.csr_matrix(raw), var=pd.DataFrame(index=names))
    return adata


def test_raw_is_a_layer_of_the_genes_of_x(tmp_path):
    genes = [7, 3, 100, 50]
    adata = with_raw(FORWARD["log1p"](COUNTS / LIBRARY * 1e4)[:, genes], COUNTS, genes)
    report = inspect(adata, layer="raw")
    assert (report.state, report.where, report.shape, report.library_genes) == ("counts", "raw.X", (120, 4), 200)
    assert report.n_nonzero == np.count_nonzero(COUNTS[:, genes])
    assert inspect(adata).errors[0].options["layer"] == "raw"
    np.testing.assert_array_equal(layer_in_memory(adata, "raw").toarray(), COUNTS[:, genes])
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert inspect(anndata.read_h5ad(tmp_path / "a.h5ad", backed="r"), layer="raw") == report


def test_all_of_raw_shows_its_state():
    """Totals are constant over all genes only."""
    logs = FORWARD["log2p1"](TPM)
    assert inspect(with_raw(logs[:, ::4], logs, range(0, 200, 4))).state == "unclear"
    assert inspect(with_raw(logs[:, ::4], logs, range(0, 200, 4)), layer="raw").state == "log2p1"


def test_a_code_in_a_gene_of_raw_that_x_lacks():
    adata = AnnData(np.random.default_rng(0).poisson(3.0, (40, 20)).astype(np.float32))
    adata.raw = AnnData(np.where(np.arange(20) < 2, -9, adata.X).astype(np.float32), var=adata.var)
    report = inspect(adata[:, 5:].copy(), layer="raw")
    assert [error.code for error in report.errors] == ["missing-code"]


def test_a_layer_called_raw_wins():
    adata = with_raw(COUNTS[:, :4] / 3, COUNTS, range(4))
    adata.layers["raw"] = COUNTS[:, 4:8].copy()
    assert inspect(adata, layer="raw").where == "layers['raw']"
    np.testing.assert_array_equal(layer_in_memory(adata, "raw"), COUNTS[:, 4:8])


def test_genes_that_raw_lacks_or_repeats():
    adata = with_raw(COUNTS[:, :4] / 3, COUNTS, range(4))
    adata.var_names = ["g0", "g1", "other", "g3"]
    with pytest.raises(InputError, check=has_code("raw-genes-missing")):
        inspect(adata, layer="raw")
    adata.raw.var.index = ["g0", "g0", *adata.raw.var_names[2:]]
    with pytest.raises(InputError, check=has_code("raw-genes-not-unique")):
        inspect(adata, layer="raw")
    adata.raw = None
    with pytest.raises(InputError, check=has_code("layer-missing")):
        inspect(adata, layer="raw")


@pytest.mark.parametrize("name", ["identity", "log1p", "log2p1", "log10p1"])
def test_few_nan_in_normalised_bulk_values_are_asked_about(name):
    deep = np.random.default_rng(5).poisson(rng.gamma(0.6, 300, (1, 200)) * rng.lognormal(0, 0.7, (30, 200)))
    tpm = deep * 1e6 / deep.sum(axis=1, keepdims=True)
    assert 0.01 < np.mean(tpm == 0) < 0.25  # fewer zeros than those that are dropouts for sure
    X = FORWARD.get(name, np.array)(tpm)
    X[3, 4] = X[7, 9] = np.nan
    assert refused(inspect(X)) == ["kind-unclear"]
    assert refused(inspect(X, kind="real")) == []
    X *= np.random.default_rng(6).uniform(0.5, 2, (30, 1))  # no constant totals
    assert "kind-unclear" not in refused(inspect(X))
