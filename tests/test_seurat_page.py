"""The commands of docs/seurat.md, as they stand there, in one session of R: what comes back is what Python computes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

import imputome

pytestmark = pytest.mark.real  # half a minute, and R
PAGE = Path(__file__).parents[1] / "docs" / "seurat.md"
NEEDS = {"h5read": "rhdf5", "imputed[": "rhdf5", "object": "SeuratObject"}  # what a block holds -> package


def r_has(package: str) -> bool:
    call = ["Rscript", "-e", f"if (!requireNamespace('{package}', quietly = TRUE)) quit(status = 1)"]
    return (
        shutil.which("Rscript") is not None and subprocess.run(call, capture_output=True, check=False).returncode == 0
    )


def test_the_page_runs_from_top_to_bottom(tmp_path):
    if not r_has("Matrix"):
        pytest.skip("needs R with the package Matrix")
    packages = {package for package in set(NEEDS.values()) if r_has(package)}
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.7, size=(40, 3)) @ rng.gamma(0.7, size=(3, 30)) * 2) + np.eye(40, 30, dtype=int)
    cells, genes = [f"cell{i}" for i in range(40)], [f"gene{j}" for j in range(30)]
    scipy.io.mmwrite(tmp_path / "given.mtx", sp.csr_matrix(X.T))
    lines = ["counts <- as(Matrix::readMM('given.mtx'), 'CsparseMatrix')"]
    lines += ["dimnames(counts) <- list(paste0('gene', 0:29), paste0('cell', 0:39))"]
    if "SeuratObject" in packages:
        lines += ["object <- SeuratObject::CreateSeuratObject(counts)"]
    blocks = re.findall(r"^```(r|sh)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for language, block in blocks:
        if language == "sh":
            lines += [f"stopifnot(system({line!r}) == 0)" for line in block.splitlines()]
        elif all(package in packages for word, package in NEEDS.items() if word in block):
            lines += [block.replace("library(Seurat)", "library(SeuratObject)")]  # its objects, without its plots
    lines += ["write.csv(from_table, 'table.back.csv')"]
    if packages == set(NEEDS.values()):
        lines += ["write.csv(imputed, 'store.back.csv')"]
        lines += ["write.csv(as.matrix(GetAssayData(object, slot = 'data')), 'object.back.csv')"]
    (tmp_path / "page.R").write_text("\n".join(lines))
    (tmp_path / "imputome").write_text(f'#!/bin/sh\nexec {sys.executable} -m imputome "$@" --quiet\n')
    (tmp_path / "imputome").chmod(0o755)
    source = str(Path(imputome.__file__).parents[1])
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": source, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["Rscript", "page.R"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    adata = ad.AnnData(sp.csr_matrix(X.astype(np.float32)), pd.DataFrame(index=cells), pd.DataFrame(index=genes))
    imputome.impute(adata, method="poisson_nmf+posterior", scale="log1p", key_added="k")
    written = sorted(tmp_path.glob("*.back.csv"))
    assert written
    for path in written:
        back = pd.read_csv(path, index_col=0)
        assert list(back.index) == genes
        assert list(back.columns) == cells
        np.testing.assert_allclose(back.to_numpy().T, adata.layers["k"], rtol=1e-4)
