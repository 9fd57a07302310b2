"""One suite over the registry: every method x kind of data x kind of array, and what is promised of saved models."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import shutil
import tracemalloc
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import has_code, warns
from imputome import methods
from imputome.core.data import as_data
from imputome.core.imputer import Imputer
from imputome.core.info import MethodInfo
from imputome.core.parameters import check_parameters
from imputome.errors import InputError, MissingExtraError, ModelFormatError, NotFittedError
from imputome.result.layout import CELL_COLUMNS, GENE_COLUMNS
from imputome.studies.results import FIT_NUMBERS

# networks are small here and trained for moments: what they learn is for their own tests
SMALL = {
    "autoencoder": {"depth": 1, "width": 16, "learning_rate": 0.03, "max_epochs": 30},
    "beta_vae": {"latent": 8, "hidden": "32", "learning_rate": 3e-3, "batch_size": 16, "max_epochs": 60},
    "count_autoencoder": {"n_hidden": 8, "n_latent": 4, "n_factors": 3, "batch_size": 32, "max_epochs": 10},
    "count_factors": {"n_factors": 3},
    "zipo": {"encoder": "8", "learning_rate": 3e-3, "max_epochs": 10},
    "dca": {"encoder": "16-8", "decoder": "16", "max_epochs": 10},
    "dca_paper001": {"encoder": "16-8", "decoder": "16", "max_epochs": 10},
    "zip_dca": {"encoder": "16-8", "decoder": "16", "max_epochs": 10},
    "deepimpute": {"hidden": 16, "learning_rate": 0.01, "max_epochs": 20},
    "bpca": {"rank": 5, "tol": 1e-4},
    "iterative_ridge": {"n_nearest_features": 5, "max_iter": 1},
    "miss_forest": {"n_trees": 3, "max_iter": 1},
    "scvi": {"n_hidden": 16, "batch_size": 16, "learning_rate": 0.02, "max_epochs": 15},
    "tuned_dca": {"encoder": "8", "learning_rate": 3e-3, "max_epochs": 10},
}
# correlation of two results that came by other paths: the same solution, or for a network one of many that are alike
ALIKE = {name: 0.8 if name in SMALL else 0.97 for name in methods.names()}

# every method on every kind it takes, with defaults; then the settings that change what a result is made of
VARIANTS = {
    **{
        f"{name}-{kind}": (name, kind, SMALL.get(name, {}))
        for name in methods.names()
        for kind in sorted(methods.info(name).kinds)
    },
    "ialm-log1p": ("ialm", "counts", {"normalization": "log1p"}),
    "ialm-raw-float64": ("ialm", "counts", {"normalization": None, "dtype": "float64"}),
    "ialm-preserve": ("ialm", "counts", {"zeros": "preserve"}),
    "ialm-validated": ("ialm", "counts", {"stop": "validated"}),
    "ialm-posterior": ("ialm", "counts", {"posterior": True}),
    "poisson_nmf-posterior": ("poisson_nmf", "counts", {"posterior": True}),
    "saver-of-factors": ("saver", "counts", {"prior": "poisson_nmf"}),
    "saver-posterior": ("saver", "counts", {"posterior": True}),
    "count_autoencoder-rates": ("count_autoencoder", "counts", {**SMALL["count_autoencoder"], "posterior": False}),
    "count_factors-rates": ("count_factors", "counts", {"n_factors": 3, "posterior": False}),
}
COUNTS = [key for key, (_, kind, _) in VARIANTS.items() if kind == "counts"]
REAL = [key for key, (_, kind, _) in VARIANTS.items() if kind == "real"]
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_name = pytest.mark.parametrize("name", methods.names())


def counts_matrix(n=60, G=40, *, seed=0):
    """Gamma-Poisson counts of rank 3 (float32, about half zeros); every row and column has molecules."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, size=(n, 3)) @ rng.gamma(0.5, 2.0, size=(3, G)) + 0.05
    X = rng.poisson(rate * rng.lognormal(0, 0.3, size=(n, 1))).astype(np.float32)
    X[np.arange(G), np.arange(G)] += 1
    X[np.arange(n), np.arange(n) % G] += 1
    return X


def real_matrix(n=60, G=40, *, seed=0):
    """Beta values of rank 3 in [0, 1], both ends reached, 15 % NaN (float64)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, G)) + 0.2 * rng.normal(size=(n, G))
    X = 1 / (1 + np.exp(-2 * X))
    X[0, :5], X[1, :5] = 0.0, 1.0
    missing = rng.random((n, G)) < 0.15
    missing[:2, :5] = False
    X[missing] = np.nan
    return X


def matrix(kind, **options):
    return counts_matrix(**options) if kind == "counts" else real_matrix(**options)


def make(variant, **changes) -> Imputer:
    name, _, params = VARIANTS[variant]
    return methods.get(name)(**{**params, **changes})


@cache
def fitted(variant):
    """Shared by the tests that only read: (input, estimator, result). Do not modify."""
    kind = VARIANTS[variant][1]
    X = matrix(kind)
    X.setflags(write=False)
    estimator = make(variant)
    names = {"obs_names": [f"cell{i}" for i in range(len(X))], "var_names": [f"gene{j}" for j in range(X.shape[1])]}
    data = as_data(X, kind=kind, **names)
    return data, estimator, estimator.fit_transform(data)


def dense_x(data):
    return data.X if isinstance(data.X, np.ndarray) else data.X.toarray()


def assert_close(a, b, *, rtol=1e-4):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(b).max()))


# -- kinds of array ----------------------------------------------------------------------------------------------------
def _backed(X, folder, stack):
    import anndata

    path = Path(folder) / "backed.h5ad"
    anndata.AnnData(X).write_h5ad(path)
    adata = anndata.read_h5ad(path, backed="r")
    stack.callback(adata.file.close)
    assert adata.isbacked
    return adata.X


def _h5py(X, folder, stack):
    import h5py

    file = stack.enter_context(h5py.File(Path(folder) / "dense.h5", "w"))
    return file.create_dataset("X", data=X, chunks=(7, 11))


def _dask(X, folder, stack):
    return pytest.importorskip("dask.array").from_array(X, chunks=(17, X.shape[1]))


def _unsorted(X, folder, stack):
    """Indices in decreasing order, stored zeros, and each value stored as two halves."""
    csr = sp.csr_matrix(X)
    parts = [csr.indices[s:e][::-1] for s, e in zip(csr.indptr, csr.indptr[1:], strict=False)]
    values = [csr.data[s:e][::-1] for s, e in zip(csr.indptr, csr.indptr[1:], strict=False)]
    indices = np.concatenate([np.concatenate([p, p, [3]]) for p in parts])
    data = np.concatenate([np.concatenate([v / 2, v / 2, [0]]) for v in values]).astype(X.dtype)
    starts = np.concatenate([[0], np.cumsum([2 * len(p) + 1 for p in parts])])
    return sp.csr_matrix((data, indices, starts), shape=X.shape)


ARRAYS = {
    "fortran": lambda X, folder, stack: np.asfortranarray(X),
    "view": lambda X, folder, stack: np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
    "csr_matrix": lambda X, folder, stack: sp.csr_matrix(X),
    "csr_array": lambda X, folder, stack: sp.csr_array(X),
    "csc_matrix": lambda X, folder, stack: sp.csc_matrix(X),
    "csc_array": lambda X, folder, stack: sp.csc_array(X),
    "coo_array": lambda X, folder, stack: sp.coo_array(X),
    "unsorted": _unsorted,
    "backed_csr": lambda X, folder, stack: _backed(sp.csr_matrix(X), folder, stack),
    "backed_csc": lambda X, folder, stack: _backed(sp.csc_matrix(X), folder, stack),
    "backed_dense": _backed,
    "h5py": _h5py,
    "dask": _dask,
    "dask_sparse": lambda X, folder, stack: _dask(X, folder, stack).map_blocks(sp.csr_matrix),
    "dataframe": lambda X, folder, stack: pd.DataFrame(X),
}


def _parts(X):
    if isinstance(X, np.ndarray):
        return [X]
    if isinstance(X, pd.DataFrame):
        return [X.to_numpy()]
    if not sp.issparse(X):
        return []
    return [X.row, X.col, X.data] if X.format == "coo" else [X.data, X.indices, X.indptr]


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("kind", ["counts", "real"])
def test_array_types_become_the_same_data(kind, array, tmp_path):
    X = matrix(kind)
    with contextlib.ExitStack() as stack:
        given = ARRAYS[array](X, tmp_path, stack)
        before = [part.copy() for part in _parts(given)]
        data = as_data(given, kind=kind)
        for now, then in zip(_parts(given), before, strict=True):
            np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(dense_x(data), X)
    assert data.X.dtype == X.dtype
    assert isinstance(data.X, sp.csr_array if kind == "counts" else np.ndarray)
    if kind == "counts":
        assert data.X.has_canonical_format
        assert data.X.nnz == np.count_nonzero(X)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_integers_become_the_same_data(dtype):
    X = counts_matrix()
    for form in (X.astype(dtype), sp.csr_matrix(X.astype(dtype))):
        data = as_data(form, kind="counts")
        assert data.X.dtype == np.float32
        np.testing.assert_array_equal(dense_x(data), X)


# A method is given `Data`, which the tests above show to be the same for all types of array. So each method is fitted
# only to those that differ in memory (order, strides), in the path to `Data`, or in what they share with the input.
@pytest.mark.parametrize("array", ["fortran", "view", "csc_matrix", "dataframe", "dask_sparse"])
@every_variant
def test_array_types_give_the_same_result(variant, array, tmp_path):
    kind = VARIANTS[variant][1]
    _, _, expected = fitted(variant)
    with contextlib.ExitStack() as stack:
        X = ARRAYS[array](matrix(kind), tmp_path, stack)
        X = X if len(methods.info(VARIANTS[variant][0]).kinds) == 1 else as_data(X, kind=kind)
        result = make(variant).fit_transform(X)
    assert result.shape == expected.shape
    for keep in (True, False):
        assert_close(result.to_array(keep_observed=keep), expected.to_array(keep_observed=keep))


@pytest.mark.parametrize("variant", COUNTS)
def test_double_precision_gives_the_same_result(variant):
    result = make(variant).fit_transform(as_data(counts_matrix().astype(np.float64), kind="counts"))
    assert_close(result.to_array(), fitted(variant)[2].to_array(), rtol=2e-3)


@every_variant
def test_columns_that_are_written_are_known_before_the_fit(variant):
    result = fitted(variant)[2]
    assert set(result.gene_columns) <= set(GENE_COLUMNS)
    assert set(result.cell_columns) <= set(CELL_COLUMNS)


@pytest.mark.parametrize("array", ["ndarray", "csr_array", "dataframe"])  # `Data` shares memory with these
@every_variant
def test_input_is_not_modified(variant, array):
    kind = VARIANTS[variant][1]
    X = matrix(kind)
    X = X if array == "ndarray" else ARRAYS[array](X, None, None)
    before = [part.copy() for part in _parts(X)]
    estimator = make(variant)
    data = as_data(X, kind=kind)
    values = dense_x(data).copy()
    result = estimator.fit_transform(data)
    for keep in (True, False):
        result.to_array(keep_observed=keep)
        if kind == "counts":
            result.to_array(keep_observed=keep, scale="log1p")
    estimator.transform(data).to_array()
    for now, then in zip(_parts(X), before, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(dense_x(data), values)


# -- the result --------------------------------------------------------------------------------------------------------
@every_variant
def test_shape_names_and_finite_values(variant):
    data, estimator, result = fitted(variant)
    assert result.shape == data.shape
    assert list(result.obs_names) == [f"cell{i}" for i in range(data.shape[0])]
    assert list(result.var_names) == [f"gene{j}" for j in range(data.shape[1])]
    # a network that is replaced by simpler rates has no latents
    assert (result.latent is not None) == (estimator.info.latent and not result.status.details.get("replaced"))
    assert result.latent is None or len(result.latent) == data.shape[0]
    for values in result.gene_columns.values():
        assert values.shape == (data.shape[1],)
    for output in result.outputs:
        values = result.to_array(output=output)
        assert values.shape == data.shape
        assert values.dtype.kind == "f"
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        assert data.kind == "counts" or (values <= 1).all()


@every_variant
def test_order_of_rows_and_columns_is_that_of_the_input(variant):
    """Imputing a permuted matrix permutes the result (draws depend on the place and are left out)."""
    name, kind, _ = VARIANTS[variant]
    if name == "random" or make(variant).posterior:
        pytest.skip("draws and thinning depend on the place of an entry")
    data, _, result = fitted(variant)
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(data.shape[0]), rng.permutation(data.shape[1])
    names = {"obs_names": data.obs_names[rows], "var_names": data.var_names[columns]}
    moved = make(variant).fit_transform(as_data(dense_x(data)[rows][:, columns], kind=kind, **names))
    assert list(moved.obs_names) == list(data.obs_names[rows])
    expected = result.to_array()[rows][:, columns]
    if methods.info(name).stochastic:  # the seed starts another path: the same solution to the tolerance of the fit
        assert np.corrcoef(moved.to_array().ravel(), expected.ravel())[0, 1] > ALIKE[name]
    else:
        assert_close(moved.to_array(), expected)


@every_variant
def test_claims_of_studies_know_the_numbers_of_a_fit(variant):
    """A new number in ``status.details`` belongs in this list, or no study file can name it."""
    details = fitted(variant)[2].status.details
    numbers = {name for name, value in details.items() if isinstance(value, int | float | np.number)}
    assert numbers <= set(FIT_NUMBERS)


@every_variant
def test_rows_at_blocks_and_array_agree(variant):
    data, _, result = fitted(variant)
    n, G = data.shape
    rng = np.random.default_rng(0)
    some, genes = rng.permutation(n)[:13], rng.permutation(G)[:9]
    mask, gene_mask = np.zeros(n, bool), np.zeros(G, bool)
    mask[some], gene_mask[genes] = True, True
    i, j = rng.integers(n, size=200), rng.integers(G, size=200)
    scales = ("counts", "normalized", "log1p") if data.kind == "counts" else ("input",)
    for output in sorted(result.outputs):
        whole = result.to_array(output=output, scale=scales[0])
        for same in ("input", None) if output != "normalized" else ():
            np.testing.assert_array_equal(result.to_array(output=output, scale=same), whole)
        for scale in scales:
            if output == "variance" and scale in ("normalized", "log1p"):
                with pytest.raises(InputError, check=has_code("variance-scale")):
                    result.rows([0], output=output, scale=scale)
                continue
            for keep in (True, False):
                options = {"output": output, "scale": scale, "keep_observed": keep}
                whole = result.to_array(**options)
                assert whole.shape == (n, G)
                assert_close(result.rows(slice(5, 40, 3), **options), whole[5:40:3], rtol=1e-5)
                assert_close(result.rows(some, **options), whole[some], rtol=1e-5)
                assert_close(result.rows(some.tolist(), **options), whole[some], rtol=1e-5)
                assert_close(result.rows(mask, **options), whole[mask], rtol=1e-5)
                assert_close(result.rows(data.obs_names[some], **options), whole[some], rtol=1e-5)
                assert_close(result.rows(some, genes=genes, **options), whole[np.ix_(some, genes)], rtol=1e-5)
                assert_close(result.rows(7, genes=gene_mask, **options), whole[[7]][:, gene_mask], rtol=1e-5)
                assert_close(result.to_array(genes=data.var_names[genes], **options), whole[:, genes], rtol=1e-5)
                assert_close(result.at(i, j, **options), whole[i, j], rtol=1e-5)
                seen = np.zeros(n, int)
                for part, block in result.blocks(17, **options):
                    seen[part] += 1
                    assert_close(block, whole[part], rtol=1e-5)
                assert (seen == 1).all()


@every_variant
def test_values_do_not_depend_on_what_was_asked_before(variant):
    _, _, result = fitted(variant)
    first = result.to_array(keep_observed=False).copy()
    got = result.rows(slice(None), keep_observed=True)
    got[:] = -1  # the caller owns what it was given
    result.rows([1, 2], keep_observed=False)[:] = -1
    result.at([0], [0])[:] = -1
    np.testing.assert_array_equal(result.to_array(keep_observed=False), first)


@every_variant
def test_empty_selections(variant):
    _, _, result = fitted(variant)
    assert result.rows([]).shape == (0, result.shape[1])
    assert result.rows([0, 1], genes=[]).shape == (2, 0)
    assert result.at([], []).shape == (0,)


@every_variant
def test_positions_that_do_not_exist_are_refused(variant):
    data, _, result = fitted(variant)
    n, G = data.shape
    with pytest.raises(InputError, check=has_code("unknown-cell")) as error:
        result.rows(["cell0", "nobody"])
    assert "nobody" in str(error.value)
    with pytest.raises(InputError, check=has_code("unknown-gene")) as error:
        result.rows([0], genes=["nothing"])
    assert "nothing" in str(error.value)
    with pytest.raises(InputError, check=has_code("entries-shape")):
        result.at([0, 1], [0])
    with pytest.raises(InputError, check=has_code("unknown-output")):
        result.rows([0], output="latent")
    with pytest.raises(InputError, check=has_code("unknown-scale")):
        result.rows([0], scale="cpm")
    with pytest.raises((InputError, IndexError)):
        result.rows([n])
    with pytest.raises((InputError, IndexError)):
        result.at([0], [G])


@pytest.mark.parametrize("length", [-1, 1])
def test_masks_of_another_length_are_refused(length):
    data, _, result = fitted("gene_mean-counts")
    n, G = data.shape
    with pytest.raises(InputError):
        result.rows(np.arange(n + length) < 3)
    with pytest.raises(InputError):
        result.rows([0], genes=np.arange(G + length) < 3)


@every_variant
def test_negative_positions_count_from_the_end(variant):
    _, _, result = fitted(variant)
    whole = result.to_array()
    assert_close(result.rows([-1, -3]), whole[[-1, -3]], rtol=1e-5)
    assert_close(result.rows([0], genes=[-2]), whole[[0]][:, [-2]], rtol=1e-5)
    assert_close(result.at([-1, -2], [-1, 3]), whole[[-1, -2], [-1, 3]], rtol=1e-5)


@every_variant
def test_keep_observed(variant):
    data, estimator, result = fitted(variant)
    X = dense_x(data)
    known = X != 0 if data.kind == "counts" else ~np.isnan(X)
    for scale in ("counts", "input") if data.kind == "counts" else ("input",):
        kept = result.to_array(keep_observed=True, scale=scale)
        free = result.to_array(keep_observed=False, scale=scale)
        np.testing.assert_array_equal(kept[known], X[known])
        np.testing.assert_array_equal(kept[~known], free[~known])
    default = (estimator.info.keeps_observed or data.kind == "real") and not estimator.posterior
    assert result.keeps_observed == default
    np.testing.assert_array_equal(result.to_array(), result.to_array(keep_observed=default))


@pytest.mark.parametrize("variant", REAL)
def test_draws_are_there_where_the_registry_says_so(variant):
    data, estimator, result = fitted(variant)
    assert result.can_draw == estimator.info.draws
    if not result.can_draw:
        with pytest.raises(InputError, check=has_code("no-draws")):
            result.draw(0)
        return
    X = dense_x(data)
    known = ~np.isnan(X)
    draws = [result.draw(number) for number in (0, 0, 1)]
    for drawn in draws:
        assert np.isfinite(drawn).all()
        np.testing.assert_array_equal(drawn[known], X[known])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    np.testing.assert_allclose(result.draw(0, rows=[3, 1]), draws[0][[3, 1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", COUNTS)
def test_scales(variant):
    data, _, result = fitted(variant)
    X = dense_x(data).astype(np.float64)
    library = X.sum(axis=1, keepdims=True)
    for keep in (True, False):
        counts = result.to_array(scale="counts", keep_observed=keep).astype(np.float64)
        assert_close(result.to_array(scale="input", keep_observed=keep), counts, rtol=1e-6)
        normalized = counts / library * 10_000
        assert_close(result.to_array(scale="normalized", keep_observed=keep), normalized, rtol=1e-5)
        assert_close(result.to_array(scale="log1p", keep_observed=keep), np.log(1 + normalized), rtol=1e-5)
    assert_close(result.to_array(scale="normalized", keep_observed=True)[X > 0], (X / library * 1e4)[X > 0], rtol=1e-5)


@pytest.mark.parametrize("variant", COUNTS)
def test_given_library_size_defines_the_scales(variant):
    X = counts_matrix()
    library = 3 * X.sum(axis=1).astype(np.float64) + 5  # two thirds of the genes are not in this matrix
    result = make(variant).fit_transform(as_data(X, kind="counts", library_size=library))
    counts = result.to_array(scale="counts").astype(np.float64)
    assert_close(result.to_array(scale="normalized"), counts / library[:, None] * 1e4, rtol=1e-5)
    if VARIANTS[variant][0] in ("gene_mean", "gene_mean_posterior"):
        assert 0.8 < counts.sum() / X.sum() < 1.25


@pytest.mark.parametrize("variant", REAL)
def test_scales_of_counts_are_refused_for_real_data(variant):
    _, _, result = fitted(variant)
    for scale in ("counts", "normalized", "log1p"):
        with pytest.raises(InputError, check=has_code("scale-needs-counts")):
            result.rows([0], scale=scale)


# -- parameters and seeds ----------------------------------------------------------------------------------------------
@every_name
def test_registry_entry(name):
    cls, entry = methods.get(name), methods.info(name)
    assert issubclass(cls, Imputer)
    assert cls.name == entry.name == name
    assert cls().info is entry
    assert entry.summary
    assert entry.kinds
    assert entry.control or entry.source
    for variant, (variant_name, _, _) in VARIANTS.items():
        if variant_name == name:
            assert entry.outputs <= fitted(variant)[2].outputs


@every_name
def test_constructor_stores_parameters_untouched(name):
    cls = methods.get(name)
    parameters = [p for p in inspect.signature(cls.__init__).parameters.values() if p.name != "self"]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters)
    assert cls().get_params() == {p.name: p.default for p in parameters}
    marks = {p.name: object() for p in parameters}  # a constructor that looks at its values would fail on these
    estimator = cls(**marks)
    copy = estimator.clone()
    assert type(copy) is cls
    assert copy is not estimator
    for key, mark in marks.items():
        assert getattr(estimator, key) is mark
        assert getattr(copy, key) is mark
        other = object()
        assert getattr(estimator.clone(**{key: other}), key) is other
        assert getattr(estimator, key) is mark
    with pytest.raises(TypeError, match="no_such_parameter"):
        cls(no_such_parameter=1)


@every_name
def test_parameters_are_as_in_scikit_learn(name):
    from sklearn.base import clone
    from sklearn.utils import get_tags

    cls = methods.get(name)
    estimator = cls(**SMALL.get(name, {}))
    assert estimator.get_params(deep=True) == estimator.get_params(deep=False) == estimator.get_params()
    assert methods.create(name, SMALL.get(name)).get_params() == estimator.get_params()
    estimator.link = "asinh"
    for copy in (clone(estimator), methods.create(estimator)):
        assert type(copy) is cls
        assert copy is not estimator
        assert copy.get_params() == estimator.get_params()
        assert copy.link == "asinh"
    marks = {key: object() for key in cls.parameter_defaults()}
    assert copy.set_params(**marks) is copy
    assert copy.get_params() == marks
    with pytest.raises(InputError, check=has_code("unknown-parameter")) as error:
        copy.set_params(**dict.fromkeys(marks), no_such_parameter=1)
    assert error.value.parameter == "no_such_parameter"
    assert copy.get_params() == marks  # nothing was changed
    with pytest.raises(InputError, check=has_code("unknown-parameter")):
        methods.create(name, {"no_such_parameter": 1})
    assert repr(cls()) == f"{cls.__name__}()"
    assert all(f"{key}={value!r}" in repr(estimator) for key, value in SMALL.get(name, {}).items())
    tags = get_tags(estimator)
    assert tags.input_tags.allow_nan == ("real" in methods.info(name).kinds)
    assert not tags.target_tags.required


@every_name
def test_parameters_are_checked_at_fit(name):
    cls = methods.get(name)
    defaults = cls.parameter_defaults()
    check_parameters(cls, defaults)
    X = matrix(min(methods.info(name).kinds))
    for key in defaults:
        estimator = cls(**{key: object()})
        for call in (estimator.fit, estimator.fit_transform):
            with pytest.raises(InputError, check=has_code("parameter-value")) as error:
                call(X)
            assert error.value.parameter == key
            assert key in str(error.value)
        assert not hasattr(estimator, "feature_names_")
    if "random_state" in defaults:
        for seed in (-1, 2**32, 1.0, True, None):
            with pytest.raises(InputError, check=has_code("parameter-value")):
                check_parameters(cls, {"random_state": seed})
        check_parameters(cls, {"random_state": np.int64(7)})


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (float, [1, 0.5, np.float32(2), -3], [True, np.nan, np.inf, "1", None, [1.0]]),
        (int, [1, np.int64(3)], [True, 1.0, "1", None]),
        (bool, [True, np.bool_(False)], [1, "yes", None]),
        (float | None, [None, 1, 2.5], [np.inf, "x", False]),
        (Literal["a", "b"], ["a"], ["c", 1, None]),
        (float | Literal["auto"], ["auto", 1], ["automatic", True]),
        (str | int | tuple[int, ...], ["64-32", 64, (64, 32), [64, 32], (), []], [(64, 0.5), [64, "32"], 2.5, None]),
        (dict[str, Any] | None, [None, {"k": [1]}], [3, {1: 2}]),
        (Path, [Path("x")], ["x"]),
        (Any, [3, None, Ellipsis], []),
    ],
    ids=str,
)
def test_types_of_parameters(hint, good, bad):
    class Method:
        def __init__(self, *, value=None):
            self.value = value

    Method.__init__.__annotations__["value"] = hint
    for value in good:
        check_parameters(Method, {"value": value})
    for value in bad:
        with pytest.raises(InputError, check=has_code("parameter-value")) as error:
            check_parameters(Method, {"value": value})
        assert error.value.parameter == "value"
        assert f"value={value!r}" in str(error.value)
    for choice in re.findall(r"'(\w+)'", str(hint)) if "Literal" in str(hint) else ():
        assert choice in str(error.value)


def test_forms_of_a_method():
    cls = methods.get("knn")
    assert [methods.form(method) for method in ("knn", cls, cls(n_neighbors=3))] == ["name", "class", "instance"]
    assert {methods.info(method).name for method in ("knn", cls, cls(n_neighbors=3))} == {"knn"}
    assert methods.create(cls(n_neighbors=3), {"n_neighbors": 4}).n_neighbors == 4
    assert methods.create(cls, {"n_neighbors": 4}).n_neighbors == 4
    for seed, method in ((5, "svd"), (5, methods.get("svd")), (5, methods.create("svd")), (2, _svd(random_state=2))):
        assert methods.create(method, random_state=5).random_state == seed
        assert methods.create(method, {"random_state": 3}, random_state=5).random_state == 3
    for wrong in (3, None, dict, object()):
        with pytest.raises(InputError, check=has_code("not-a-method")):
            methods.form(wrong)
        with pytest.raises(InputError, check=has_code("not-a-method")):
            methods.create(wrong)


def _svd(**params):
    return methods.get("svd")(**params)


@every_variant
def test_fit_leaves_parameters_alone_and_clone_is_unfitted(variant):
    _, estimator, _ = fitted(variant)
    assert estimator.get_params() == make(variant).get_params()
    with pytest.raises(NotFittedError):
        estimator.clone().transform(matrix(VARIANTS[variant][1]))


@every_name
def test_unfitted_is_refused(name, tmp_path):
    with pytest.raises(NotFittedError, check=has_code("not-fitted")):
        methods.get(name)().transform(counts_matrix())
    with pytest.raises(NotFittedError, check=has_code("not-fitted")):
        methods.get(name)().save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@every_variant
def test_same_seed_same_result(variant):
    data, _, result = fitted(variant)
    np.random.seed(5)  # noqa: NPY002  (the global generator must not matter)
    again = make(variant)
    assert again.fit(data) is again
    np.testing.assert_array_equal(again.fit_transform(data).to_array(), result.to_array())


QUICK = {"no_imputation", "gene_mean", "gene_mean_posterior", "mean", "median", "random", "knn"}  # done in one step


@pytest.mark.parametrize("variant", [key for key, (name, *_) in VARIANTS.items() if name not in QUICK])
def test_fits_say_how_far_they_are_and_can_be_ended(variant):
    class EnoughError(Exception):
        pass

    calls = []

    def progress(share, text):
        calls.append((share, text))
        if len(calls) == 2:
            raise EnoughError

    _, kind, _ = VARIANTS[variant]
    estimator = make(variant)
    estimator.progress = progress
    ended = True
    with contextlib.suppress(EnoughError):
        estimator.fit(as_data(matrix(kind), kind=kind))
        ended = False
    assert calls
    assert ended == (len(calls) == 2)
    assert all(0 <= share <= 1 and text for share, text in calls)


@every_variant
def test_other_seed(variant):
    name = VARIANTS[variant][0]
    data, estimator, result = fitted(variant)
    if "random_state" not in estimator.get_params():
        assert not methods.info(name).stochastic
        return
    other = make(variant, random_state=1).fit_transform(data).to_array(keep_observed=False)
    ours = result.to_array(keep_observed=False)
    if name == "random":
        assert (other != ours).mean() > 0.2
    elif estimator.posterior:
        assert not np.array_equal(other, ours)  # other molecules were held out
        assert np.corrcoef(other.ravel(), ours.ravel())[0, 1] > 0.95
    elif methods.info(name).stochastic:  # another start, the same optimum
        assert np.corrcoef(other.ravel(), ours.ravel())[0, 1] > ALIKE[name]
    else:
        np.testing.assert_array_equal(other, ours)


# -- new rows ----------------------------------------------------------------------------------------------------------
@every_variant
def test_transform_of_training_rows(variant):
    data, estimator, result = fitted(variant)
    kind = estimator.info.new_rows
    if kind == "none":
        with pytest.raises(InputError, check=has_code("no-new-rows")):
            estimator.transform(data)
        return
    new = estimator.transform(data)
    assert list(new.obs_names) == list(data.obs_names)
    for keep in (True, False):
        ours, theirs = new.to_array(keep_observed=keep), result.to_array(keep_observed=keep)
        if kind == "exact":
            assert_close(ours, theirs, rtol=1e-5)
        else:
            assert np.isfinite(ours).all()
            assert (ours >= 0).all()
            assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.7


@every_variant
def test_transform_of_other_rows(variant):
    data, estimator, _ = fitted(variant)
    if estimator.info.new_rows == "none":
        pytest.skip("has no transform")
    X = matrix(data.kind, n=9, G=40, seed=7) if data.kind == "real" else counts_matrix(n=60, seed=7)[:9]
    X[3] = 0 if data.kind == "counts" else np.nan
    new = estimator.transform(as_data(X, kind=data.kind, var_names=data.var_names))
    values = new.to_array(keep_observed=False)
    assert values.shape == X.shape
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert list(new.unusable.obs_names) == ["3"]
    if data.kind == "counts":
        assert not values[3].any()
    one = estimator.transform(as_data(X[:1], kind=data.kind, var_names=data.var_names))
    assert_close(one.to_array(keep_observed=False), values[:1], rtol=1e-4)


@pytest.mark.parametrize("variant", REAL)
def test_bounds_of_new_rows_are_those_of_the_training_data(variant):
    """A new sample whose few known values lie in [0, 1] says nothing about the range of its missing features."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 8)) + np.array([0.5, -10, 10, 50, 0, 3, -3, 100])
    X[rng.random(X.shape) < 0.1] = np.nan
    estimator = make(variant).fit(as_data(X, kind="real"))
    new = np.full((1, 8), np.nan)
    new[0, 0] = 0.5
    values = estimator.transform(as_data(new, kind="real")).to_array()
    typical = np.nanmedian(X, axis=0)
    assert values[0, 0] == 0.5
    for j in (1, 2, 3, 6, 7):
        assert abs(values[0, j] - typical[j]) < 9


@pytest.mark.parametrize("variant", COUNTS)
def test_molecules_of_a_gene_that_training_lacked_are_kept(variant):
    """The other genes are as if these molecules were not there: they are in no library size."""
    unseen, others = [3, 17], np.setdiff1d(np.arange(40), [3, 17])
    X, new = counts_matrix(), counts_matrix(seed=5)[:20]
    X[:, unseen], X[:, 0] = 0, X[:, 0] + 1
    new[:, unseen] += np.arange(40).reshape(20, 2)
    estimator = make(variant).fit(as_data(X, kind="counts"))
    without = new.copy()
    without[:, unseen] = 0
    expected = estimator.transform(as_data(without, kind="counts"))
    with warns("genes-unseen"):
        result = estimator.transform(as_data(new, kind="counts"))
    assert result.status.details["unknown_genes"] == ["3", "17"]
    assert "unknown_genes" not in expected.status.details
    for keep in (True, False):
        values = result.to_array(keep_observed=keep)
        np.testing.assert_array_equal(values[:, unseen], new[:, unseen])
        assert_close(values[:, others], expected.to_array(keep_observed=keep)[:, others], rtol=1e-5)
    i, j = np.divmod(np.arange(800), 40)
    for output in result.outputs:
        assert_close(result.at(i, j, output=output), result.to_array(output=output).ravel(), rtol=1e-5)
    per_cell = result.to_array(scale="normalized", keep_observed=False)[:, unseen]
    np.testing.assert_allclose(per_cell, 1e4 * new[:, unseen] / new.sum(axis=1, keepdims=True), rtol=1e-5)
    if "variance" in result.outputs:
        assert not result.to_array(output="variance")[:, unseen].any()


@every_variant
def test_names_and_number_of_features_must_match(variant):
    data, estimator, _ = fitted(variant)
    X = matrix(data.kind)
    with pytest.raises(ModelFormatError, check=has_code("model-feature-count")):
        estimator.transform(as_data(X[:, :39], kind=data.kind, var_names=data.var_names[:39]))
    wrong = list(data.var_names)
    wrong[11], wrong[12] = wrong[12], wrong[11]
    with pytest.raises(ModelFormatError, check=has_code("model-feature-names")) as error:
        estimator.transform(as_data(X, kind=data.kind, var_names=wrong))
    for part in ("2", "11", "'gene12'", "'gene11'"):  # how many, and the first
        assert part in str(error.value)


# -- what cannot be used ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", COUNTS)
def test_empty_cells_and_genes_stay_zero_and_are_listed(variant):
    X = counts_matrix()
    X[[4, 20]] = 0
    X[:, [0, 7, 39]] = 0
    result = make(variant).fit_transform(as_data(sp.csr_array(X), kind="counts"))
    assert list(result.unusable.obs_names) == ["4", "20"]
    assert list(result.unusable.var_names) == ["0", "7", "39"]
    assert result.unusable
    assert "zero" in result.unusable.fallback
    for output in result.outputs:
        values = result.to_array(output=output)
        assert np.isfinite(values).all()
        assert not values[[4, 20]].any()
        assert not values[:, [0, 7, 39]].any()
    for scale in ("normalized", "log1p"):
        values = result.to_array(scale=scale)
        assert np.isfinite(values).all()
        assert not values[[4, 20]].any()
    assert not fitted(variant)[2].unusable


@pytest.mark.parametrize("variant", REAL)
def test_unobserved_samples_and_features_are_filled_and_listed(variant):
    X = real_matrix()
    X[4] = np.nan
    X[:, [7, 39]] = np.nan
    result = make(variant).fit_transform(X if variant in ("mean-real", "median-real") else as_data(X, kind="real"))
    assert list(result.unusable.obs_names) == ["4"]
    assert list(result.unusable.var_names) == ["7", "39"]
    assert "mean" in result.unusable.fallback
    values = result.to_array()
    assert np.isfinite(values).all()
    assert ((values >= 0) & (values <= 1)).all()
    np.testing.assert_allclose(values[:, [7, 39]], np.nanmean(X), rtol=1e-5)
    if variant in ("mean-real", "ialm-real"):
        usable = np.setdiff1d(np.arange(40), [7, 39])
        np.testing.assert_allclose(values[4, usable], np.nanmean(X, axis=0)[usable], rtol=1e-5)


@pytest.mark.parametrize("variant", REAL)
def test_real_range_follows_the_input(variant):
    X = real_matrix()
    for moved, low, high in ((X, 0, 1), (X * 7, 0, np.inf), (X * 6 - 3, -np.inf, np.inf)):
        values = make(variant).fit_transform(as_data(moved, kind="real")).to_array(keep_observed=False)
        assert np.isfinite(values).all()
        assert values.min() >= low
        assert values.max() <= high
        assert values.max() <= 3 * np.nanmax(np.abs(moved))
    assert values.min() < -0.5  # negative values are not cut where the input has some


@pytest.mark.parametrize("variant", REAL)
def test_constant_real_data_come_back_constant(variant):
    X = np.tile([0.25, 0.5, 0.75, 1.0], (6, 1))
    X[2, 1] = X[3, 0] = np.nan
    values = make(variant).fit_transform(as_data(X, kind="real")).to_array()
    np.testing.assert_allclose(values, np.tile([0.25, 0.5, 0.75, 1.0], (6, 1)), rtol=1e-5)


@pytest.mark.parametrize("variant", COUNTS)
def test_constant_counts_and_small_matrices(variant):
    """A method with more factors than cells says so or takes fewer; it does not fail inside a library."""
    small = counts_matrix(n=60, seed=3)[:9, :7] + np.eye(9, 7, dtype=np.float32)
    for X in (small, np.full((12, 8), 3.0, np.float32), small[:2, :2] + 1):
        values = make(variant).fit_transform(as_data(X, kind="counts")).to_array(keep_observed=False)
        assert values.shape == X.shape
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        if variant != "ialm-preserve":  # ALRA's rule makes the lowest value of a gene 0, and here all are the lowest
            assert values.sum() > 0.1 * X.sum()


@every_variant
def test_nothing_to_learn_from_is_refused(variant):
    kind = VARIANTS[variant][1]
    X = matrix(kind)
    no_value, one_usable_cell = X.copy(), X.copy()
    no_value[:] = one_usable_cell[1:] = 0 if kind == "counts" else np.nan
    for too_little in (X[:1], X[:, :1], no_value, one_usable_cell):
        with pytest.raises(InputError, check=has_code("too-few-observed")):
            make(variant).fit(as_data(too_little, kind=kind))


@every_name
def test_wrong_kind_is_refused(name):
    kinds = methods.info(name).kinds
    for kind in {"counts", "real"} - kinds:
        with pytest.raises(InputError, check=has_code("wrong-kind")):
            methods.get(name)().fit(as_data(counts_matrix(), kind=kind))
    if kinds == {"counts"}:
        with pytest.raises(InputError, check=has_code("nan-in-counts")):
            methods.get(name)().fit(real_matrix())
    if kinds == {"counts", "real"}:
        X = real_matrix()
        estimator = methods.get(name)().fit(X)  # the NaN tells
        assert estimator.kind_ == "real"
        with pytest.raises(ModelFormatError, check=has_code("model-kind")):
            estimator.transform(as_data(np.nan_to_num(X), kind="counts"))
        if "posterior" in estimator.get_params():
            with pytest.raises(InputError, check=has_code("posterior-needs-counts")):
                methods.get(name)(posterior=True).fit(X)


@pytest.mark.parametrize(("kind", "bad"), [("counts", -1.0), ("counts", np.inf), ("real", np.inf), ("real", -np.inf)])
def test_impossible_values_are_refused(kind, bad):
    X = matrix(kind)
    X[3, 4] = bad
    for form in (X, sp.csr_array(X)):
        with pytest.raises(InputError, check=has_code("negative-counts" if bad == -1 else "infinite-values")):
            as_data(form, kind=kind)


def test_matrices_that_are_none_are_refused():
    with pytest.raises(InputError, check=has_code("empty-matrix")):
        as_data(np.zeros((0, 3)))
    with pytest.raises(InputError, check=has_code("not-a-matrix")):
        as_data(np.zeros(3))
    with pytest.raises(InputError, check=has_code("not-numeric")):
        as_data(np.array([["a", "b"], ["c", "d"]]))
    with pytest.raises(InputError, check=has_code("not-numeric")):
        as_data(pd.DataFrame({"gene": ["a", "b"], "x": [1, 2]}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"obs_names": ["a", "b"]},
        {"var_names": ["a", "b"]},
        {"library_size": np.ones(3)},
        {"observed": np.ones((3, 3), bool)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_names_and_masks_must_fit_the_matrix(wrong):
    with pytest.raises(InputError):
        as_data(counts_matrix(), kind="counts", **wrong)


@every_variant
def test_duplicate_names_are_tolerated(variant):
    data, _, result = fitted(variant)
    names = ["same"] * data.shape[1]
    twins = as_data(matrix(data.kind), kind=data.kind, obs_names=["cell"] * data.shape[0], var_names=names)
    estimator = make(variant)
    other = estimator.fit_transform(twins)
    np.testing.assert_array_equal(other.to_array(), result.to_array())
    np.testing.assert_array_equal(other.rows([3, 1], genes=[0, 5]), result.rows([3, 1], genes=[0, 5]))
    assert estimator.transform(twins).shape == data.shape
    with pytest.raises(InputError):  # which of them is meant cannot be known
        other.rows([0], genes=["same"])


# -- explicit masks ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("variant", [v for v in COUNTS if "posterior" not in v])
def test_zeros_marked_as_observed_are_kept(variant, sparse):
    X = counts_matrix()
    known = X != 0
    known[:, ::3] = True
    known[10] = True
    mask = sp.csr_array(known) if sparse else known
    result = make(variant).fit_transform(as_data(X, kind="counts", observed=mask))
    kept = result.to_array(keep_observed=True)
    np.testing.assert_array_equal(kept[known], X[known])
    i, j = np.nonzero(known)
    np.testing.assert_array_equal(result.at(i, j, keep_observed=True), X[known])
    assert_close(result.rows([10, 3], genes=[5, 6], keep_observed=True), kept[np.ix_([10, 3], [5, 6])])


@pytest.mark.parametrize("variant", ["ialm-counts", "ialm-log1p"])
def test_zeros_marked_as_observed_inform_new_rows(variant):
    """A cell known to lack most genes is imputed lower than one of which that is not known."""
    X = counts_matrix()
    estimator = make(variant).fit(X)
    blind = estimator.transform(X).to_array(keep_observed=False)
    informed = estimator.transform(as_data(X, kind="counts", observed=np.ones(X.shape, bool)))
    assert informed.to_array(keep_observed=False)[X == 0].mean() < 0.8 * blind[X == 0].mean()


@pytest.mark.parametrize("variant", REAL)
def test_values_not_observed_are_not_looked_at(variant):
    X = real_matrix()
    hidden = np.random.default_rng(2).random(X.shape) < 0.1
    hidden[:2, :5] = False
    missing = np.where(hidden, np.nan, X)
    expected = make(variant).fit_transform(as_data(missing, kind="real"))
    masked = as_data(X, kind="real", observed=~hidden & ~np.isnan(X))
    result = make(variant).fit_transform(masked)
    np.testing.assert_allclose(result.to_array(), expected.to_array(), rtol=1e-6, atol=1e-7)
    estimator = make(variant).fit(masked)
    new = estimator.transform(masked).to_array()
    np.testing.assert_allclose(new, estimator.transform(as_data(missing, kind="real")).to_array(), rtol=1e-6, atol=1e-7)


def test_nan_marked_as_observed_is_refused_or_filled():
    X = real_matrix()
    try:
        data = as_data(X, kind="real", observed=np.ones(X.shape, bool))
    except InputError:
        return
    assert np.isfinite(make("mean-real").fit_transform(data).to_array()).all()


# -- saved models ------------------------------------------------------------------------------------------------------
@every_variant
def test_save_and_load(variant, tmp_path):
    data, estimator, _ = fitted(variant)
    path = tmp_path / "a" / "model"
    estimator.save(path)
    assert not [p.name for p in path.parent.iterdir() if p != path]  # nothing left beside it
    cls = methods.get(VARIANTS[variant][0])
    for loaded in (cls.load(path), methods.load(path)):
        assert type(loaded) is cls
        assert loaded.get_params() == estimator.get_params()
        assert loaded.kind_ == data.kind
        assert list(loaded.feature_names_) == list(data.var_names)
        if estimator.info.new_rows == "none":
            continue
        ours, theirs = loaded.transform(data), estimator.transform(data)
        assert ours.outputs == theirs.outputs
        for output in ours.outputs:
            np.testing.assert_array_equal(ours.to_array(output=output), theirs.to_array(output=output))
        with pytest.raises(ModelFormatError, check=has_code("model-feature-names")):
            loaded.transform(as_data(matrix(data.kind), kind=data.kind))
    again = tmp_path / "again"
    loaded.save(again)  # a loaded model can be saved
    assert methods.load(again).get_params() == estimator.get_params()


@every_variant
def test_each_array_of_a_model_is_checked(variant, tmp_path, monkeypatch):
    """One array at a time is missing, of another shape, of another type, or not finite."""
    from imputome.core import saved as saved_models

    data, estimator, _ = fitted(variant)
    estimator.save(tmp_path / "model")
    stored = saved_models._read_arrays(tmp_path / "model" / "arrays.npz")
    cls, declared = type(estimator), estimator._declared()
    assert set(declared) - set(stored) <= {name for name, expected in declared.items() if expected.optional}
    assert all(name in declared or name.startswith("network.") for name in stored)
    for name, array in stored.items():
        wrong = [np.stack([array, array]), np.full(array.shape, "x" if array.dtype.kind != "U" else True)]
        if array.dtype.kind == "f":
            spoiled = array.copy()
            spoiled.flat[-1:] = np.inf
            wrong.append(spoiled)
        for damage in [*(wrong[-1:] if name.startswith("network.") else wrong), None]:
            arrays = {key: value for key, value in {**stored, name: damage}.items() if value is not None}
            monkeypatch.setattr(saved_models, "_read_arrays", lambda _, arrays=arrays: arrays)
            if damage is None and name in declared and declared[name].optional:
                with contextlib.suppress(ModelFormatError):
                    assert np.isfinite(cls.load(tmp_path / "model").transform(data).to_array()).all()
                continue
            with pytest.raises(ModelFormatError) as caught:
                cls.load(tmp_path / "model")
            assert caught.value.code.startswith("model-array-")
            assert name in str(caught.value)


def test_loaded_model_takes_the_table_it_was_fitted_on(tmp_path):
    """Column names that are numbers, as pandas gives where there are none, survive JSON."""
    table = pd.DataFrame(counts_matrix())
    estimator = methods.get("gene_mean")().fit(table)
    estimator.save(tmp_path / "model")
    values = methods.load(tmp_path / "model").transform(table).to_array()
    np.testing.assert_array_equal(values, estimator.transform(table).to_array())


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model"
    fitted("gene_mean-counts")[1].save(path)
    return path


def edit(path, **changes):
    header = json.loads((path / "model.json").read_text())
    header.update(changes)
    (path / "model.json").write_text(json.dumps({k: v for k, v in header.items() if v is not None}))


def test_other_versions_and_formats_are_refused(saved):
    edit(saved, version=99)
    with pytest.raises(ModelFormatError, check=has_code("model-version")):
        methods.load(saved)
    edit(saved, version=1, format="pickle")
    with pytest.raises(ModelFormatError, check=has_code("no-model")):
        methods.load(saved)


@pytest.mark.parametrize("key", ["method", "params", "kind", "feature_names"])
def test_incomplete_headers_are_refused(saved, key):
    edit(saved, **{key: None})
    with pytest.raises(ModelFormatError, check=has_code("damaged")) as error:
        methods.load(saved)
    assert key in str(error.value)


def test_unknown_methods_and_parameters_are_refused(saved):
    edit(saved, method="no_such_method")
    with pytest.raises(ModelFormatError, check=has_code("model-of-unknown-method")) as error:
        methods.load(saved)
    assert "no_such_method" in str(error.value)
    edit(saved, method="gene_mean", params={"shell": "rm"})
    with pytest.raises(ModelFormatError, check=has_code("model-unknown-parameter")) as error:
        methods.load(saved)
    assert "shell" in str(error.value)


@pytest.mark.parametrize("name", ["ialm", "gene_mean_posterior", "no_imputation"])
def test_models_of_other_methods_are_refused(saved, name):
    with pytest.raises(ModelFormatError, check=has_code("model-of-other-method")):
        methods.get(name).load(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_damaged_json_is_refused(saved, text):
    (saved / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelFormatError):
        methods.load(saved)


def test_missing_files_are_refused(saved, tmp_path):
    with pytest.raises(ModelFormatError, check=has_code("no-model")):
        methods.load(tmp_path / "nowhere")
    shutil.copytree(saved, tmp_path / "b")
    (tmp_path / "b" / "arrays.npz").unlink()
    with pytest.raises(ModelFormatError, check=has_code("unreadable")):
        methods.load(tmp_path / "b")
    (saved / "model.json").unlink()
    with pytest.raises(ModelFormatError, check=has_code("no-model")):
        methods.load(saved)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_truncated_arrays_are_refused(saved, share):
    content = (saved / "arrays.npz").read_bytes()
    (saved / "arrays.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelFormatError, check=has_code("unreadable")):
        methods.load(saved)


def test_flipped_bytes_are_refused(saved):
    content = bytearray((saved / "arrays.npz").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - b for b in content[middle : middle + 8])
    (saved / "arrays.npz").write_bytes(content)
    with pytest.raises(ModelFormatError, check=has_code("unreadable")):
        methods.load(saved)


def test_missing_and_misshapen_arrays_are_refused(saved):
    np.savez(saved / "arrays.npz", other=np.ones(40))
    with pytest.raises(ModelFormatError, check=has_code("model-array-missing")):
        methods.load(saved)
    with (saved / "arrays.npz").open("wb") as file:
        np.save(file, np.ones(40))  # a single array, not an archive of arrays
    with pytest.raises(ModelFormatError, check=has_code("unreadable")):
        methods.load(saved)


class Bomb:
    """Unpickling it makes the directory ``path``."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (Path(self.path),)


def test_pickles_are_refused_and_nothing_runs(saved, tmp_path):
    mark = tmp_path / "mark"
    np.savez(saved / "arrays.npz", share=np.array([Bomb(mark)], dtype=object))
    with np.load(saved / "arrays.npz", allow_pickle=True) as stored:
        stored["share"]  # the bomb works where pickles are allowed
    assert mark.exists()
    mark.rmdir()
    with pytest.raises(ModelFormatError, check=has_code("unreadable")):
        methods.load(saved)
    assert not mark.exists()
    np.array([Bomb(mark)], dtype=object).dump(saved / "arrays.npz")  # a bare pickle under that name
    with pytest.raises(ModelFormatError, check=has_code("unreadable")):
        methods.load(saved)
    assert not mark.exists()


def test_save_replaces_only_models_and_only_when_told(saved, tmp_path):
    _, estimator, _ = fitted("gene_mean-counts")
    before = (saved / "arrays.npz").read_bytes()
    other = methods.get("gene_mean")().fit(counts_matrix(seed=9))
    with pytest.raises(InputError, check=has_code("output-exists")):
        other.save(saved)
    assert (saved / "arrays.npz").read_bytes() == before
    other.save(saved, overwrite=True)
    np.testing.assert_array_equal(methods.load(saved).share_, other.share_)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_text("meow")
    file = tmp_path / "thesis.txt"
    file.write_text("words")
    for path in (folder, file):
        for overwrite in (False, True):
            with pytest.raises(InputError, check=has_code("not-replaceable")):
                estimator.save(path, overwrite=overwrite)
    assert (folder / "cat.jpg").read_text() == "meow"
    assert file.read_text() == "words"


def test_parameters_that_are_no_plain_values_cannot_be_saved(tmp_path):
    class Anything(methods.get("gene_mean")):
        def __init__(self, *, random_state=0, posterior=False):  # parameters without types take any value
            super().__init__(random_state=random_state, posterior=posterior)

    estimator = Anything(random_state=np.random.default_rng(0)).fit(counts_matrix())
    with pytest.raises(InputError, check=has_code("parameter-not-plain")):
        estimator.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


# -- names and extras --------------------------------------------------------------------------------------------------
def test_unknown_names_list_those_there_are():
    for call in (methods.get, methods.info):
        with pytest.raises(InputError, check=has_code("unknown-method")) as caught:
            call("magik")
        for name in methods.names():
            assert name in str(caught.value)


def test_missing_extra_names_the_install(monkeypatch, tmp_path):
    (tmp_path / "dreaming.py").write_text("import no_such_package_at_all")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    entry = MethodInfo("dreamer", "needs what is not there", frozenset({"counts"}), extra="deep")
    plain = MethodInfo("broken", "a bug, not a missing extra", frozenset({"counts"}))
    controls = import_module("imputome.methods.controls")  # as an attribute of methods, the name is a function
    monkeypatch.setattr(controls, "DREAMER_INFO", entry, raising=False)
    monkeypatch.setattr(controls, "BROKEN_INFO", plain, raising=False)
    monkeypatch.setitem(methods.METHODS, "dreamer", ("controls:DREAMER_INFO", "dreaming:Dreamer"))
    monkeypatch.setitem(methods.METHODS, "broken", ("controls:BROKEN_INFO", "no_such:X"))
    assert methods.info("dreamer") is entry  # what it is can be known without the extra
    with pytest.raises(MissingExtraError) as error:
        methods.get("dreamer")
    assert error.value.parameter == "deep"
    assert "no_such_package_at_all" in str(error.value)
    with pytest.raises(ModuleNotFoundError):
        methods.get("broken")


# -- memory ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["no_imputation", "gene_mean", "random"])
def test_nothing_dense_is_made_until_asked_for(name):
    n, G = 20_000, 2_000
    rng = np.random.default_rng(0)
    nnz = 200_000
    X = sp.csr_array((np.ones(nnz, np.float32), (rng.integers(n, size=nnz), rng.integers(G, size=nnz))), shape=(n, G))
    i, j = rng.integers(n, size=50_000), rng.integers(G, size=50_000)
    tracemalloc.start()
    try:
        result = methods.get(name)().fit_transform(as_data(X, kind="counts"))
        block = result.rows(slice(0, 200))
        entries = result.at(i, j)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert block.shape == (200, G)
    assert entries.shape == i.shape
    assert peak < n * G * 4 / 6
