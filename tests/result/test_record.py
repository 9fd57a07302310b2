"""The record of a result: what is stored comes back the same from memory and files, of version 0.1.0 too."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import has_code
from imputome.core.imputation import Status
from imputome.errors import InputError
from imputome.result.record import (
    SCHEMA,
    Input,
    Race,
    Record,
    Verdict,
    find_record,
    find_verdict,
    imputed_layer,
    meant,
    places,
    places_to_remove,
)

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data", "ignore:zarr v3 autosharding")
OLD = Path(__file__).parent / "results_0.1.0.h5ad"
STORES = ["h5ad", "zarr"]


def through(records, path):
    """Records as a file gives them back."""
    adata = ad.AnnData(np.zeros((2, 2), np.float32), uns={"imputome": records})
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return ad.read_h5ad(path).uns["imputome"]
    adata.write_zarr(path)
    return ad.read_zarr(path).uns["imputome"]


def same(one, other):
    """Whether two records, verdicts or races are equal, their tables and arrays included."""
    assert type(one) is type(other)
    for each in fields(one):
        a, b = getattr(one, each.name), getattr(other, each.name)
        if hasattr(a, "columns"):
            pd.testing.assert_frame_equal(
                a, b, check_names=False, check_index_type=False, check_column_type=False, check_dtype=False
            )
        elif isinstance(a, Input | Race | Verdict):
            same(a, b)
        elif isinstance(a, dict):
            assert set(a) == set(b), each.name
            for name in a:
                if hasattr(a[name], "columns"):
                    pd.testing.assert_frame_equal(a[name], b[name], check_names=False)
                else:
                    np.testing.assert_array_equal(a[name], b[name])
        else:
            np.testing.assert_equal(a, b, err_msg=each.name)


def full():
    """A record with something in every field."""
    table = pd.DataFrame({"name": ["a", "b"], "control": [False, True], "score": [1.0, np.nan]})
    genes = pd.DataFrame({"explained": [0.1, np.nan], "evident": [True, False]}, index=["g1", "g2"])
    return Record(
        method="zipo",
        input=Input("counts", "counts", "raw 'ones'", "layers[\"raw 'ones'\"]"),
        scale="log1p",
        params={"encoder": "128", "alpha": None, "sizes": [1, 2], "posterior": True, "tol": 1e-4},
        random_state=3,
        versions={"imputome": "0.2.0"},
        transform="asinh",
        keep_observed=True,
        posterior=True,
        outputs=("variance",),
        draws=12,
        stored_in=("obsm",),
        gene_columns=("shape",),
        cell_columns=("library_size",),
        latent=True,
        genes=("g1",),
        unusable_cells=("c1", "c2"),
        unusable_genes=(),
        unusable_filled_with="zeros",
        seconds=1.5,
        peak_memory_bytes=2**31,
        convergence=Status("max_iter", "not there yet", {"iterations": 20, "objective": 0.5}),
        history={"epoch": np.arange(3), "loss": np.array([3.0, 2.0, 1.0])},
        model="folder/model",
        trained={"seconds": 2.0, "input": {"state": "counts"}},
        genes_missing_from_input=("g9",),
        command="imputome impute in.h5ad",
        threads=2,
        options={"covariates": ["batch"], "genes_in": "rows"},
        race=Race(table, "a", "b", "rmse", 10, 2, 1.0, 0.1, 3.0, 4.0, 5.0, 7, "because"),
        verdict=Verdict(
            "use",
            ("one", "two"),
            {"explained": 0.5, "raised": float("nan")},
            ("null",),
            "5",
            "zipo",
            "gene_mean",
            "counts",
            50,
            2,
            17,
            1.5,
            3,
            scores=table,
            null=pd.DataFrame({"low": [0.0], "high": [1.0]}),
            genes=genes,
            mixing={"type": pd.DataFrame({"before": [0.5]}, index=["a"])},
        ),
    )


# -- storing -----------------------------------------------------------------------------------------------------------
def test_every_field_of_the_full_record_is_not_its_default():
    plain, filled = Record("zipo", Input("counts", "counts"), "counts"), full().to_uns()
    missing = set(filled) - set(plain.to_uns())
    assert missing == {"genes", "random_state", "model", "trained", "race", "verdict"}
    assert {each.name for each in fields(Record)} | {"schema"} == set(filled)


@pytest.mark.parametrize("store", STORES)
def test_all_fields_come_back_from_a_file(tmp_path, store):
    record, least = full(), Record("gene_mean", Input("real", "real"), "input")
    stored = through({"k": record.to_uns(), "least": least.to_uns()}, tmp_path / f"a.{store}")
    assert stored["k"]["schema"] == SCHEMA
    same(Record.from_uns(stored["k"]), record)
    same(Record.from_uns(stored["least"]), least)
    same(Record.from_uns(record.to_uns()), record)  # from memory


@pytest.mark.parametrize("store", STORES)
def test_a_real_result_comes_back_from_a_file(tmp_path, store):
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(2.0, (30, 8)).astype(np.float32)))
    adata.layers["raw 'ones'"] = adata.X.copy()
    imputome.impute(
        adata, method="poisson_nmf", layer="raw 'ones'", posterior=True, outputs=["variance"], key_added="k"
    )
    key, record = find_record(adata)
    assert (key, record.method, record.posterior, record.outputs) == ("k", "poisson_nmf", True, ("variance",))
    assert (record.input.layer, record.input.kind, record.input.state) == ("raw 'ones'", "counts", "counts")
    assert record.params["posterior"] is True
    assert set(places("k", record)) == {
        ("layers", "k"),
        ("layers", "k_variance"),
        ("obsm", "X_k"),
        ("var", "k_posterior_power"),
        ("var", "k_posterior_shape"),
    }
    same(Record.from_uns(through(adata.uns["imputome"], tmp_path / f"a.{store}")["k"]), record)


def test_parameters_may_be_text_or_a_mapping():
    values = full().to_uns()
    params = json.loads(values["params"])
    assert Record.from_uns({**values, "params": params}).params == params == full().params


def test_parameters_that_are_no_json_become_text():
    record = replace(full(), params={"metric": np.mean, "weights": np.array([1.0, 2.0]), "k": np.int64(3)})
    params = Record.from_uns(record.to_uns()).params
    assert (params["weights"], params["k"]) == ([1.0, 2.0], 3)
    assert isinstance(params["metric"], str)


def test_summaries_are_short_and_go_into_json():
    summary = full().brief()
    brief = "verdict reasons failed rule held_out figures cells fits seconds"
    assert set(summary["verdict"]) == set(brief.split())
    assert summary["race"]["candidates"][0]["name"] == "a"
    json.dumps(summary, default=lambda value: value.tolist())


# -- version 0.1.0 -----------------------------------------------------------------------------------------------------
def test_records_of_the_first_version():
    adata = ad.read_h5ad(OLD)
    mean, checked, raced = (find_record(adata, key)[1] for key in ("gene_mean", "checked", "raced"))
    assert (mean.method, mean.scale, mean.verdict, mean.race) == ("gene_mean", "counts", None, None)
    assert (mean.input, mean.params) == (Input("counts", "counts"), {"posterior": False, "random_state": 0})
    assert (mean.gene_columns, mean.latent, mean.genes) == (("share",), False, None)
    assert (checked.outputs, checked.draws, checked.latent) == (("variance",), 0, True)
    assert checked.convergence == Status("converged", "20 multiplicative updates", checked.convergence.details)
    assert checked.convergence.details["iterations"] == 20
    assert (checked.verdict.verdict, checked.verdict.kind, checked.verdict.fits) == ("do not impute", "counts", 17)
    assert checked.verdict.failed == ("structure", "controls", "raw counts")
    assert list(checked.verdict.mixing["half"].index) == ["a", "b"]
    assert len(checked.verdict.genes) == checked.verdict.genes_used == 24
    assert np.isnan(checked.verdict.figures["raised"])
    assert (raced.race.winner, raced.race.budget_minutes, raced.race.instead) == ("count_autoencoder", 0.3, "")
    assert not raced.race.why_control
    assert list(raced.history["epoch"]) == list(range(1, 76))
    assert raced.versions["imputome"] == "0.1.0"


@pytest.mark.parametrize("store", STORES)
def test_records_of_the_first_version_are_stored_again(tmp_path, store):
    records = {key: find_record(ad.read_h5ad(OLD), key)[1] for key in ("gene_mean", "checked", "raced")}
    stored = through({key: record.to_uns() for key, record in records.items()}, tmp_path / f"a.{store}")
    for key, record in records.items():
        assert stored[key]["schema"] == SCHEMA
        same(Record.from_uns(stored[key]), record)


def test_layers_draws_and_genes_of_the_first_version():
    values = dict(ad.read_h5ad(OLD).uns["imputome"]["checked"])
    values["input"] = {**values["input"], "where": "layers[\"raw 'ones'\"]"}
    values["outputs"] = np.array(["variance", "draw01", "draw02"])
    record = Record.from_uns(values)
    assert (record.input.layer, record.outputs, record.draws) == ("raw 'ones'", ("variance",), 2)
    names = [name for element, name in places("k", record) if element == "layers"]
    assert names == ["k", "k_variance", "k_draw01", "k_draw02"]
    # which of the two held some genes was not recorded
    assert Record.from_uns({**values, "genes": np.array(["B2M"])}).stored_in == ("layers", "obsm")


# -- what cannot be read -----------------------------------------------------------------------------------------------
def test_a_later_schema_is_refused():
    with pytest.raises(InputError, check=has_code("record-too-new")):
        Record.from_uns({**full().to_uns(), "schema": SCHEMA + 1})


@pytest.mark.parametrize(
    "change",
    [
        {"method": None},
        {"input": None},
        {"input": "X"},
        {"input": {"state": "counts"}},
        {"input": {"state": "counts", "kind": "colours"}},
        {"scale": "furlongs"},
        {"scale": np.array(["counts", "log1p"])},
        {"params": "{broken"},
        {"params": "3"},
        {"seconds": "long"},
        {"posterior": "yes"},
        {"convergence": 3},
        {"history": 3},
        {"verdict": {"reasons": np.array(["no verdict"])}},
        {"verdict": {"verdict": "use", "genes": "no table"}},
        {"race": {"winner": "a"}},
        {"schema": "new"},
    ],
)
def test_malformed_records_are_refused(change):
    values = {**full().to_uns(), **change}
    with pytest.raises(InputError, check=has_code("record-malformed")):
        Record.from_uns({name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize("values", ["text", 3, None, [1], pd.DataFrame({"a": [1]})])
def test_what_is_no_record(values):
    with pytest.raises(InputError, check=has_code("record-malformed")):
        Record.from_uns(values)


# -- finding -----------------------------------------------------------------------------------------------------------
def test_finding_a_record():
    adata = ad.AnnData(np.zeros((2, 2), np.float32))
    for nothing in ({}, {"imputome": {}}, {"imputome": "text"}):
        adata.uns = nothing
        with pytest.raises(InputError, check=has_code("no-result")):
            find_record(adata)
    adata.uns["imputome"] = {"k": full().to_uns(), "other": Record("knn", Input("real", "real"), "input").to_uns()}
    with pytest.raises(InputError, check=has_code("several-results")):
        find_record(adata)
    with pytest.raises(InputError, check=has_code("no-such-result")) as error:
        find_record(adata, "othr")
    assert "'other'" in str(error.value)
    assert find_record(adata, "k")[0] == "k"
    assert find_verdict(*find_record(adata, "k")).verdict == "use"
    with pytest.raises(InputError, check=has_code("not-checked")):
        find_verdict(*find_record(adata, "other"))


def test_which_result_wrote_a_layer():
    adata = ad.AnnData(np.zeros((2, 2), np.float32))
    assert imputed_layer(adata, "k") is None
    other = Record("knn", Input("real", "real"), "input")
    adata.uns["imputome"] = {"k": full().to_uns(), "k_variance": other.to_uns()}
    for layer, method, output in (
        ("k", "zipo", "value"),
        ("k_draw12", "zipo", "draw12"),
        ("k_variance", "knn", "value"),
    ):
        record, found = imputed_layer(adata, layer)
        assert (record.method, found) == (method, output)
    assert imputed_layer(adata, "k_note") is None
    assert imputed_layer(adata, "counts") is None


def test_close_names():
    assert meant("othr", ["other", "k"]) == ", did you mean 'other'?"
    assert meant("ACTB", ["Actb"]) == ", did you mean 'Actb'?"
    assert meant("nothing like it", ["k"]) == ""


# -- places ------------------------------------------------------------------------------------------------------------
def test_places_of_other_results_are_not_removed():
    """A key may begin another; and what a later result took over belongs to the later one."""
    one = replace(Record("zipo", Input("counts", "counts"), "counts"), outputs=("upper",), gene_columns=("two_shape",))
    other = replace(Record("zipo", Input("counts", "counts"), "counts"), gene_columns=("shape",))
    records = {"k": one.to_uns(), "k_upper": other.to_uns(), "k_two": other.to_uns(), "broken": {"method": "x"}}
    assert places_to_remove("k", records) == [("layers", "k")]
    assert places_to_remove("k_upper", records) == [("layers", "k_upper"), ("var", "k_upper_shape")]
    assert places_to_remove("nothing", records) == []
    with pytest.raises(InputError, check=has_code("record-malformed")):
        places_to_remove("broken", records)


def test_an_output_of_another_result_goes_with_its_owner():
    one = replace(Record("zipo", Input("counts", "counts"), "counts"), outputs=("upper",))
    assert places_to_remove("k", {"k": one.to_uns()}) == [("layers", "k"), ("layers", "k_upper")]
