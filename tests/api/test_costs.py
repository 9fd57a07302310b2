"""What an imputation would take: the estimate against sizes that are known, and what is done to keep to a limit."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome.api import costs
from imputome.api.costs import costs_of, within_memory
from imputome.api.plan import InMemory, Options, checked_options, plan_impute
from imputome.cli import run
from imputome.errors import InputError

N, G = 300, 50


def counts():
    X = sp.random(N, G, density=0.2, format="csr", random_state=0, dtype=np.float32)
    X.data = np.ceil(10 * X.data)
    adata = anndata.AnnData(X)
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(N)], [f"g{j}" for j in range(G)]
    return adata


def planned(method, **options):
    asked = Options(method=method, **options)
    return plan_impute(counts(), asked, InMemory(), estimator=checked_options(asked))


def test_sizes(tmp_path):
    plan = planned("poisson_nmf", posterior=True, outputs=("variance",), genes=["g3", "g4"], training_cells=100)
    found = costs_of(plan, tmp_path / "out.h5ad")
    assert found.written == 2 * 2 * 4 * N  # two layers of two genes
    assert found.read == 8 * counts().X.nnz
    assert (found.cells, found.training_cells, found.stays_stored) == (N, 100, False)
    assert found.memory < costs_of(planned("poisson_nmf")).memory  # which learns from all cells
    assert found.free_disk > 0


def test_time_grows_with_the_cells():
    some, more = (costs_of(planned("poisson_nmf", training_cells=cells)).seconds for cells in (100, 200))
    assert 0 < some < more
    assert costs_of(planned("knn_smoothing")).seconds is None


def test_fewer_cells_are_learned_from_to_keep_to_a_limit(monkeypatch):
    monkeypatch.setattr(costs, "LEAST_TRAINING_CELLS", 10)
    plan = planned("poisson_nmf")
    whole = costs_of(plan).memory
    assert within_memory(plan, whole) is plan
    kept = within_memory(plan, whole - 100_000)
    assert 10 <= kept.options.training_cells < N
    assert costs_of(kept).memory <= whole - 100_000
    with pytest.raises(InputError, check=has_code("over-max-memory")):
        within_memory(plan, 1000)


def test_a_method_that_needs_all_cells_is_refused():
    with pytest.raises(InputError, check=has_code("over-max-memory")):
        within_memory(planned("knn_smoothing"), 1000)


def test_dry_run_writes_nothing(tmp_path, capsys):
    counts().write_h5ad(tmp_path / "a.h5ad")
    command = ["impute", str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "out.h5ad"), "--dry-run"]
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["method"], told["shape"], told["written"]) == ("count_autoencoder", [N, G], 4 * N * G)
    assert run(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]
    assert run([*command, "--max-memory", "1MB"]) == 1
