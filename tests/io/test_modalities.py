"""Files of several modalities: what is read is what mudata wrote, and mudata reads what is written."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from codes import has_code, refused
from imputome import impute
from imputome.cli import run
from imputome.errors import InputError
from imputome.io.reading import read

mudata = pytest.importorskip("mudata")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def modality(genes: int, seed: int) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    X = rng.poisson(rng.gamma(0.7, size=(50, 3)) @ rng.gamma(0.7, size=(3, genes))).astype(np.float32) + np.eye(
        50, genes, dtype=np.float32
    )
    X[0] += 1
    names = [f"cell{i}" for i in range(50)]
    return ad.AnnData(
        sp.csr_matrix(X), obs=pd.DataFrame(index=names), var=pd.DataFrame(index=[f"g{seed}_{j}" for j in range(genes)])
    )


@pytest.fixture
def two(tmp_path) -> Path:
    """A file with other cells in each modality, as protein is often measured in some cells only."""
    mdata = mudata.MuData({"rna": modality(30, 0), "prot": modality(8, 1)[10:].copy()})
    mdata.obs["site"] = ["a", "b"] * 25
    mdata.obsm["X_joint"] = np.arange(100.0).reshape(50, 2)
    mdata.write(tmp_path / "two.h5mu")
    return tmp_path / "two.h5mu"


def test_a_modality_is_read_as_mudata_reads_it(two):
    for name in ("rna", "prot"):
        found, expected = read(two, modality=name), mudata.read_h5mu(two)[name]
        assert list(found.obs_names) == list(expected.obs_names)
        assert list(found.var_names) == list(expected.var_names)
        np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())


def test_the_result_is_in_its_modality_and_nothing_else_changes(two, tmp_path):
    out = tmp_path / "out.h5mu"
    line = ["impute", str(two), "--modality", "rna", "-m", "gene_mean", "--key-added", "k", "-o", str(out), "-q"]
    assert run(line) == 0
    before, after = mudata.read_h5mu(two), mudata.read_h5mu(out)
    expected = before["rna"].copy()
    impute(expected, method="gene_mean", key_added="k")
    np.testing.assert_allclose(after["rna"].layers["k"], expected.layers["k"], rtol=1e-6)
    assert dict(after["rna"].uns["imputome"]["k"])["method"] == "gene_mean"
    pd.testing.assert_frame_equal(after.obs, before.obs)
    np.testing.assert_array_equal(after.obsm["X_joint"], before.obsm["X_joint"])
    assert list(after["prot"].layers) == []
    np.testing.assert_array_equal(after["prot"].X.toarray(), before["prot"].X.toarray())
    with h5py.File(out) as root:  # so that a reader knows what made it
        assert root.attrs["encoding-type"] == "MuData"
    # a second result beside the first, then the first again
    more = ["impute", str(out), "--modality", "rna", "-m", "gene_mean", "-o", str(tmp_path / "more.h5mu"), "-q"]
    assert run(more) == 0
    assert set(mudata.read_h5mu(tmp_path / "more.h5mu")["rna"].layers) == {"k", "gene_mean"}
    assert run([*more, "--key-added", "k", "--force"]) == 0
    assert set(mudata.read_h5mu(tmp_path / "more.h5mu")["rna"].layers) == {"k"}


def test_one_modality_needs_no_name_and_can_go_to_other_formats(tmp_path):
    mudata.MuData({"prot": modality(8, 1)}).write(tmp_path / "one.h5mu")
    out = tmp_path / "out.h5ad"
    assert run(["impute", str(tmp_path / "one.h5mu"), "-m", "gene_mean", "-o", str(out), "-q"]) == 0
    assert "gene_mean" in ad.read_h5ad(out).layers


def test_what_is_no_modality_is_refused(two, tmp_path, capsys):
    with pytest.raises(InputError, check=has_code("no-such-modality")):
        read(two, modality="atac")
    with h5py.File(tmp_path / "none.h5mu", "w"):
        pass
    with pytest.raises(InputError, check=has_code("no-modalities")):
        read(tmp_path / "none.h5mu")
    with h5py.File(tmp_path / "linked.h5mu", "w") as root:  # a modality that is in another file
        root.require_group("mod")["rna"] = h5py.ExternalLink(str(two), "mod/rna")
    with pytest.raises(InputError, check=has_code("outside-the-file")):
        read(tmp_path / "linked.h5mu")
    modality(8, 1).write_h5ad(tmp_path / "plain.h5ad")
    out = tmp_path / "out.h5mu"
    status = run(["impute", str(tmp_path / "plain.h5ad"), "-m", "gene_mean", "-o", str(out)])
    refused(capsys, status, "unknown-format", str(out))
    assert not out.exists()


def test_a_modality_in_memory_is_imputed_in_place(two):
    mdata = mudata.read_h5mu(two)
    impute(mdata["rna"], method="gene_mean")
    assert "gene_mean" in mdata.mod["rna"].layers
    with pytest.raises(InputError, check=has_code("several-modalities")):
        impute(mdata, method="gene_mean")
