"""The shell examples of the pages, run as they stand there by ``nobody``: no home, and an install that is read-only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from imputome.evaluation.simulate import simulate_counts
from pages import PAGES, ROOT, commands, name_of
from users import NOBODY, as_user

pytestmark = pytest.mark.faults

# appended to an example, where the last one of an option counts: the data are small, and so is the work
SMALLER = {
    "imputome tune": "--trials 2",
    "imputome fit atlas.h5ad": "--set max_epochs=3",
    "imputome fit other.h5ad": "--set max_epochs=3",
    "imputome evaluate": "--trials 1",
}


def write_inputs(folder: Path) -> None:
    """The files that the examples name, small: four cell types, and a table with holes."""
    rng = np.random.default_rng(0)
    simulated = simulate_counts(n=240, G=120, n_types=4, rng=rng)
    simulated.to_anndata().write_h5ad(folder / "simulated.h5ad")
    X = sp.csr_matrix(simulated.X.astype(np.float32))
    names = pd.DataFrame(index=[f"G{j}" for j in range(X.shape[1])])
    for name, rows in (
        ("cells", slice(None)),
        ("atlas", slice(160)),
        ("new", slice(160, 200)),
        ("other", slice(200, 240)),
    ):
        part = X[rows]
        ad.AnnData(part, obs=pd.DataFrame(index=[f"c{i}" for i in range(part.shape[0])]), var=names).write_h5ad(
            folder / f"{name}.h5ad"
        )
    folder_10x = folder / "filtered_feature_bc_matrix"
    folder_10x.mkdir()
    scipy.io.mmwrite(folder_10x / "matrix.mtx", sp.coo_matrix(X.T.astype(int)))
    (folder_10x / "barcodes.tsv").write_text("".join(f"c{i}\n" for i in range(X.shape[0])))
    (folder_10x / "features.tsv").write_text("".join(f"{name}\t{name}\tGene Expression\n" for name in names.index))
    values = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 25)) + rng.normal(scale=0.3, size=(60, 25)) + 8
    values[rng.random(values.shape) < 0.1] = np.nan
    samples = [f"p{i}" for i in range(60)]
    table = pd.DataFrame(values.round(4), index=samples, columns=[f"G{j}" for j in range(25)])
    table.T.to_csv(folder / "expr.csv")
    pd.DataFrame({"patient": samples, "age": rng.integers(20, 90, 60)}).to_csv(folder / "clinical.csv", index=False)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody can write to, and not below that of pytest, which other users may not look into."""
    folder = Path(tempfile.mkdtemp())
    (folder / "temporary").mkdir()
    for each in (folder, folder / "temporary"):
        each.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("page", [name_of(path) for path in PAGES if commands(path)])
def test_the_examples_work_for_nobody(place, page):
    write_inputs(place)
    temporary = place / "temporary"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
        "HOME": "/nonexistent",
    }
    if os.getuid() == 0:
        del environment["HOME"]  # the one in /etc/passwd does not exist either
    failed = []
    for command in commands(ROOT / page):
        smaller = " ".join(more for start, more in SMALLER.items() if command.startswith(start))
        begun = time.monotonic()
        line = as_user(NOBODY, "sh", "-c", f"{command} {smaller}")
        done = subprocess.run(
            line, cwd=place, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        strange = [
            said
            for said in done.stderr.splitlines()
            if re.search(r"Traceback|Warning|site-packages|cache(?! folder)", said)
        ]
        print(f"{time.monotonic() - begun:5.1f} s  {command} {smaller}")
        if done.returncode or strange:
            failed.append((command, done.returncode, done.stderr[-2000:]))
        if command.startswith("imputome mask"):  # what another tool would make of it
            shutil.copyfile(place / "masked.csv", place / "result.csv")
    assert failed == []
    left = {path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")}  # torch's own
    assert left == {f"imputome-{NOBODY if os.getuid() == 0 else os.getuid()}"}


def test_files_are_utf8_in_every_locale(tmp_path):
    """LC_ALL=C as it was before Python 3.7: ASCII for files, their names and streams."""
    X = np.random.default_rng(0).normal(5.0, 1.0, (30, 12)).round(3)
    table = pd.DataFrame(X, index=[f"s{i}" for i in range(30)], columns=["β-actin", *(f"g{j}" for j in range(1, 12))])
    table.iloc[0, 0] = table.iloc[3, 4] = np.nan
    table.to_csv(tmp_path / "in.csv")
    (tmp_path / "samples.csv").write_text(
        "name,état\n" + "".join(f"s{i},é{i % 2}\n" for i in range(30)), encoding="utf-8"
    )
    code = (
        "import sys\n"
        "from imputome.cli import run\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    assert run(line.split()) == 0, line\n"
    )
    lines = [
        "impute in.csv --genes-in columns -o out.csv -m mean --record out.json",
        "impute in.csv --genes-in columns -o out.h5ad -m mean --samples samples.csv --report out.html",
        "evaluate in.csv --genes-in columns --methods mean,median --scheme mcar --trials 2 -o s.csv",
        "report s.csv -o s.html",
        "fit in.csv --genes-in columns -m model --method mean",
        "apply model in.csv --genes-in columns -o applied.csv",
    ]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(lines),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").startswith(",β-actin,")
    assert "état" in ad.read_h5ad(tmp_path / "out.h5ad").obs
    assert "β-actin" in (tmp_path / "out.html").read_text(encoding="utf-8")
