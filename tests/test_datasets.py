"""Known data: the embedded set against scanpy's file, and the look-up of the others."""

from __future__ import annotations

import socket

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

from codes import has_code
from imputome import datasets
from imputome.errors import InputError, MissingExtraError
from imputome.studies.runner import read_gc


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """No staged data: two empty folders, the named one and the user's cache."""
    named, cache = tmp_path / "named", tmp_path / "cache"
    named.mkdir()
    cache.mkdir()
    monkeypatch.setenv("IMPUTOME_DATA", str(named))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(cache))
    return named, cache


def small(value: float) -> AnnData:
    return AnnData(np.full((3, 2), value, dtype=np.float32))


def test_pbmc68k_is_counts():
    adata = datasets.pbmc68k()
    assert adata.shape == (700, 765)
    assert (adata.X.format, adata.X.dtype) == ("csr", np.float32)
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert adata.X.data.min() == 1
    assert (adata.obs["cell_type"].nunique(), "X_umap" in adata.obsm) == (10, True)
    assert adata.obs["cell_type"].value_counts()["Dendritic"] == 240
    assert {"HES4", "CD79A", "NKG7"} <= set(adata.var_names)
    # a choice of genes cannot hold more than the cell
    share = np.asarray(adata.X.sum(axis=1)).ravel() / adata.obs["n_counts"]
    assert share.between(0.05, 0.5).all()


def test_pbmc68k_gives_scanpys_values_back():
    """Forwards from the counts: the three decimals that scanpy's file holds."""
    adata, raw = datasets.pbmc68k(), sc.datasets.pbmc68k_reduced().raw
    logged = np.log1p(adata.X.toarray() / adata.obs["n_counts"].to_numpy(dtype=float)[:, None] * 1e4)
    assert np.abs(logged - raw.X.toarray()).max() < 1.1e-3
    assert list(adata.var_names) == list(raw.var_names)


def test_pbmc68k_notices_another_file(monkeypatch):
    other = sc.datasets.pbmc68k_reduced()
    changed = other.raw.to_adata()
    changed.X.data[5] += 1.0
    other.raw = changed
    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", lambda: other)
    with pytest.raises(InputError, check=has_code("dataset-changed")):
        datasets.pbmc68k()


@pytest.mark.parametrize("name", datasets.names())
def test_table_agrees_with_the_files(shared_data, name):
    entry, path = next((entry, path) for entry, path in datasets.available() if entry.name == name)
    if path is None:
        pytest.skip(f"{name} not found: set IMPUTOME_DATA")
    data = datasets.load(name)
    rows, columns = map(int, entry.shape.split(" x "))
    if entry.suffix == ".parquet":
        assert (len(data), data.filter(like="Cov.").shape[1]) == (rows, columns)
        return
    assert data.shape == (rows, columns)
    labels = [word.strip(" ,") for word in entry.labels.split(",")]
    for label in labels:
        *slot, column = label.partition(" (")[0].split()
        assert column in (data.obsm if slot == ["obsm"] else data.obs), label
        number = label.partition(" (")[2].partition(")")[0].split(" ")[0]
        if number:
            assert len(set(data.obs[column]) - {"unassigned"}) == int(number), label


def test_every_staged_file_is_in_the_table(shared_data):
    staged = {path.name for path in shared_data.iterdir() if path.suffix in (".h5ad", ".parquet")}
    assert staged <= {f"{entry.name}{entry.suffix}" for entry in datasets.DATASETS}


def test_names_are_unique_and_aliases_lead_somewhere():
    assert len(set(datasets.names())) == len(datasets.names())
    assert set(datasets.ALIASES.values()) <= set(datasets.names())
    assert not set(datasets.ALIASES) & set(datasets.names())


def test_named_folder_comes_before_the_cache(elsewhere):
    named, cache = elsewhere
    small(1).write_h5ad(cache / "pbmc3k_raw.h5ad")
    assert datasets.load("pbmc3k").X.max() == 1
    small(2).write_h5ad(named / "pbmc3k_raw.h5ad")
    assert datasets.load("pbmc3k_raw").X.max() == 2
    found = {entry.name: path for entry, path in datasets.available()}
    assert found["pbmc3k_raw"] == named / "pbmc3k_raw.h5ad"
    assert found["klein_d2_d4"] is None
    assert found["pbmc68k"] is not None


def test_parquet_is_a_table(elsewhere):
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"pos": [1, 2], "M.a": [3, 4]})
    table.to_parquet(elsewhere[0] / "wgbs_chr21_M_Cov.parquet")
    pd.testing.assert_frame_equal(datasets.load("wgbs"), table)


def test_parquet_without_pyarrow(elsewhere, monkeypatch):
    (elsewhere[0] / "wgbs_chr21_M_Cov.parquet").touch()
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as error:
        datasets.load("wgbs")
    assert error.value.parameter == "parquet"


def test_a_missing_file_says_where_it_comes_from_and_goes(elsewhere):
    with pytest.raises(InputError, check=has_code("dataset-missing")) as caught:
        datasets.load("kang")
    text = str(caught.value)
    for part in ("kang_pbmc_stim.h5ad", "immunogenomics/harmony", str(elsewhere[1]), "IMPUTOME_DATA"):
        assert part in text
    assert "`imputome datasets convert kang_pbmc_stim FILE...`" in text


def test_every_data_set_can_be_made_again():
    for entry in datasets.DATASETS:
        assert len(entry.sha256) == 64, entry.name
        assert bool(entry.files) == (entry.name != "pbmc68k"), entry.name
        if not entry.in_r and entry.files:  # what convert takes is named where it comes from
            names = [name for name in entry.files.split() if not name.startswith("[")]
            told = f"{entry.source} {entry.original}".replace("{5k,10k}", "5k").replace("10k_protein", "5k_protein")
            assert [name for name in names if name.replace("10k", "5k") not in told] == []
    assert len({entry.sha256 for entry in datasets.DATASETS}) == len(datasets.DATASETS)


def test_pbmc68k_has_the_checksum_of_the_table(elsewhere):
    assert datasets.check(datasets.info("pbmc68k")).code == "same-values"


def test_the_check_of_a_damaged_file_is_a_sentence(elsewhere):
    (elsewhere[0] / "pbmc3k_raw.h5ad").write_bytes(b"no HDF5")
    assert datasets.check(datasets.info("pbmc3k")).code == "unreadable"
    small(1).write_h5ad(elsewhere[0] / "pbmc3k_raw.h5ad")
    told = datasets.check(datasets.info("pbmc3k"))
    assert (told.code, "3 x 2 instead of 2700 x 32738" in told) == ("other-values", True)


def test_a_table_of_biomart_is_a_table_of_gc_contents(tmp_path):
    """As docs/studies/file_format.md says: a header, genes without a name, several rows of a gene, no value."""
    text = "Gene name,Gene % GC content,Chromosome\n,40.1,1\nTP53,48.9,17\nTP53,49.1,17\nEGFR,,7\n"
    (tmp_path / "mart_export.csv").write_text(text)
    table = read_gc(str(tmp_path / "mart_export.csv"))
    assert (table["TP53"], np.isnan(table["EGFR"])) == (49.1, True)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InputError, check=has_code("unknown-dataset")) as error:
        datasets.load("pbmc")
    assert "pbmc3k_raw" in str(error.value)


def test_the_network_guard_bites(no_network):
    with socket.socket(socket.AF_INET) as inet, pytest.raises(pytest.fail.Exception):
        inet.connect(("192.0.2.1", 9))  # an address for examples
    with socket.socket(socket.AF_INET6) as inet6, pytest.raises(pytest.fail.Exception):
        inet6.connect_ex(("2001:db8::1", 9))
    with pytest.raises(pytest.fail.Exception):
        socket.create_connection(("example.org", 80))
    assert len(no_network) == 3
    no_network.clear()


def test_the_network_guard_lets_local_sockets_be(tmp_path):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
