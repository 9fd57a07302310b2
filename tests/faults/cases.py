"""The commands that are killed, starved and raced: how each is called, what it writes, and how its outputs are read.

A case has the state OLD, that of its folder after the commands ``before``, and the state NEW, that after ``command``,
both without a fault. The oracle of all tests is that an output is, as a whole, what it is in OLD or in NEW.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from imputome.datasets import load


@dataclass(frozen=True, eq=False)
class Content:
    """What an output holds: texts, and numbers, which are equal when they differ by rounding only."""

    texts: tuple[str, ...]
    numbers: tuple[np.ndarray, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Content):
            return NotImplemented
        pairs = zip(self.numbers, other.numbers, strict=False)
        return self.texts == other.texts and all(
            one.shape == two.shape and np.allclose(one, two, rtol=1e-3, atol=1e-6, equal_nan=True) for one, two in pairs
        )

    def __repr__(self) -> str:
        text = "|".join(self.texts)
        return f"<{text[:200]} {digest(text, *(each.tobytes() for each in self.numbers))}>"


State = dict[str, Content | None]  # name of an output -> what is in it; None if it is not there
Reader = Callable[[Path], Content]


def digest(*parts: bytes | str) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        hashed.update(part if isinstance(part, bytes) else part.encode())
        hashed.update(b"\0")
    return hashed.hexdigest()


def names_in(folder: Path) -> set[str]:
    """All files and folders below a folder, and empty if it is not there."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# -- readers -----------------------------------------------------------------------------------------------------------
def same_bytes(path: Path) -> Content:
    """A file that is equal byte by byte after two runs."""
    return Content((digest(path.read_bytes()),))


def annotated(path: Path) -> Content:
    """The values, names and records of an .h5ad or .zarr, read as any user would."""
    adata = ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(str(path))
    names, numbers = [*adata.obs_names, *adata.var_names, *sorted(adata.uns.get("imputome", {}))], []
    for name, matrix in (("X", adata.X), *sorted(adata.layers.items())):
        dense = matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)
        assert np.isfinite(dense).all(), f"{name} of {path} has values that are not finite"
        names.append(name)
        numbers.append(dense)
    names += [f"{where} {name}" for where in ("obs", "var", "obsm") for name in sorted(getattr(adata, where))]
    return Content((" ".join(names[-3:]), digest(*names)), tuple(numbers))


def folder_of_files(path: Path) -> Content:
    """A folder whose files are equal byte by byte after two runs."""
    return Content(tuple(digest(name, (path / name).read_bytes()) for name in sorted(names_in(path))))


def model(path: Path) -> Content:
    """A saved model: the method and its parameters, and the arrays."""
    assert names_in(path) == {"model.json", "arrays.npz"}, f"{path} holds {names_in(path)}"
    header = json.loads((path / "model.json").read_text(encoding="utf-8"))
    with np.load(path / "arrays.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in sorted(stored.files)}
    params = {name: value for name, value in header["params"].items() if name != "checkpoint"}
    texts = [f"{name} {'' if array.dtype.kind in 'fiub' else array.tolist()}" for name, array in arrays.items()]
    numbers = tuple(array for array in arrays.values() if array.dtype.kind in "fiub")
    return Content((header["method"], json.dumps(params, sort_keys=True), *texts), numbers)


def scores(path: Path) -> Content:
    """A table of results without times and memory, its rows in any order."""
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)
    table = table[[name for name in table.columns if not re.search("second|byte|cost|time", name)]]
    if "metric" in table:
        table = table[~table["metric"].astype(str).str.contains("second")]
    values = [name for name in ("value", "mean", "sd", "interval") if name in table]
    numbers = table[values].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    rows = table.drop(columns=values).astype(str).agg("|".join, axis=1)
    assert rows.is_unique, f"rows of {path} are there twice"
    order = np.argsort(rows.to_numpy())
    return Content((f"{len(rows)} rows", digest(*table.columns, *rows.iloc[order])), (numbers[order],))


def record(path: Path) -> Content:
    """A record in JSON, complete, and what it is of."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Content((content["method"], content["scale"], json.dumps(content["params"], sort_keys=True)))


def text(path: Path) -> Content:
    """A text without its numbers."""
    return Content((digest(re.sub(r"[\d.]+", "", path.read_text(encoding="utf-8"))),))


def tuned(path: Path) -> Content:
    """The best parameters, which must be those of the best trial in s.db beside them."""
    value = tuned_value(path)
    if value == OLD_BEST:
        return Content(("old",))
    best = trial_values(path.with_name("s.db"))[0]
    assert value == best, f"{path} has {value}, and the best trial {best}"
    return Content(("of the best trial",))


def tuned_value(path: Path) -> int:
    """The value in a file of best parameters, which must be complete."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    names = [line.split(" = ")[0] for line in lines]
    assert names == ["method", "[params]", *names[2:]], names
    return int(next(line for line in lines if line.startswith("n_components")).split(" = ")[1])


OLD_BEST = 1  # outside the space that is searched, so that it tells an old file


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30)  # it does not make a file


def trials(path: Path) -> dict[str, int]:
    """How many trials of each state a storage has, by sqlite3 alone."""
    with closing(_opened(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        try:
            return dict(connection.execute("SELECT state, COUNT(*) FROM trials GROUP BY state").fetchall())
        except sqlite3.OperationalError:  # killed before the tables were made
            return {}


def three_trials(path: Path) -> None:
    states = trials(path)
    assert states.pop("COMPLETE") == 3
    assert set(states) <= {"FAIL"}, states  # of runs that were killed; none is left as running


def trial_values(path: Path) -> list[int]:
    """What complete trials tried, the best first."""
    with closing(_opened(path)) as connection:
        rows = connection.execute(
            "SELECT p.param_value FROM trials t JOIN trial_values v USING (trial_id) "
            "JOIN trial_params p USING (trial_id) WHERE t.state = 'COMPLETE' ORDER BY v.value, t.number"
        ).fetchall()
    return [int(value) for (value,) in rows]


def storage(path: Path) -> Content:
    """A storage can always be read; what is in it grows."""
    trials(path)
    return Content(("readable",))


# -- cases -------------------------------------------------------------------------------------------------------------
UNREADABLE = "not readable"


@dataclass(frozen=True)
class Case:
    """A command, what was there before, and what it writes."""

    name: str
    command: tuple[object, ...]
    outputs: dict[str, Reader]
    before: tuple[tuple[object, ...], ...] = ()
    kept: str = r"$^"  # names of what an interrupted run may leave for the next
    again: tuple[str, ...] = ()  # codes with which the command may refuse to do again what is done
    inputs: tuple[str, ...] = ("in.h5ad",)
    files: dict[str, str] = field(default_factory=dict)  # to write before all commands
    complete: Callable[[Path], None] = lambda folder: None  # what must hold in the folder after the last command

    def state(self, folder: Path) -> State:
        """What the outputs hold; an output that is there and cannot be read is neither OLD nor NEW."""
        state: State = {}
        for name, read in self.outputs.items():
            try:
                state[name] = read(folder / name) if (folder / name).exists() else None
            except Exception as error:  # readers raise what the libraries under them do
                state[name] = Content((UNREADABLE, f"{type(error).__name__}: {error}"))
        return state

    def __str__(self) -> str:
        return self.name


SAME = "--reproducible"
MEAN, POSTERIOR = ("--method", "gene_mean"), ("--method", "gene_mean_posterior")
NMF = ("--method", "poisson_nmf", "--set", "n_components=2", "--set", "max_iter=20")
DEEP = (
    "--method",
    "zipo",
    *(each for name in ("encoder=8-4", "max_epochs=6", "patience=none") for each in ("--set", name)),
)
TUNE = ("tune", "in.h5ad", "--method", "poisson_nmf", "--set", "max_iter=5", "--objective", "poisson_loss")
STUDY = """
title = "small"
trials = 2
[[datasets]]
name = "pbmc68k"
max_cells = 50
min_cells = 20
[[splits]]
scheme = "thin"
[base]
method = "poisson_nmf"
params = { n_components = 2, max_iter = 3 }
"""
MORE = '[[configurations]]\nname = "three"\nparams = { n_components = 3 }\n'


def _impute(output: str, *options: object, source: str = "in.h5ad") -> tuple[object, ...]:
    return ("impute", source, "-o", output, "--force", "-q", SAME, *options)


def _apply(output: str, *options: object) -> tuple[object, ...]:
    return ("apply", "model", "new.h5ad", "-o", output, "--force", "-q", SAME, *options)


def _fit(*options: object) -> tuple[object, ...]:
    return ("fit", "in.h5ad", "-m", "out", "--force", "-q", *options)


def _evaluate(output: str, methods: str) -> tuple[object, ...]:
    return ("evaluate", "in.h5ad", "--methods", methods, "-o", output, "-q")


MISSING = {"source": "gaps.csv"}
FILL = "--genes-in", "columns", "--transform", "none"
CASES = [
    Case("impute-h5ad", _impute("out.h5ad", *POSTERIOR), {"out.h5ad": annotated}, (_impute("out.h5ad", *MEAN),)),
    Case("impute-h5ad-new", _impute("out.h5ad", *POSTERIOR), {"out.h5ad": annotated}),
    Case("impute-zarr", _impute("out.zarr", *POSTERIOR), {"out.zarr": annotated}, (_impute("out.zarr", *MEAN),)),
    Case("impute-zarr-new", _impute("out.zarr", *POSTERIOR), {"out.zarr": annotated}),
    *(
        Case(
            f"impute{suffix.replace('.', '-')}",
            _impute(f"out{suffix}", "--method", "median", *FILL, **MISSING),
            {f"out{suffix}": same_bytes},
            (_impute(f"out{suffix}", "--method", "mean", *FILL, **MISSING),),
            inputs=("gaps.csv",),
        )
        for suffix in (".csv", ".csv.gz", ".parquet")
    ),
    Case(
        "impute-beside",
        _impute(
            *(
                "out.csv",
                *NMF,
                "--posterior",
                "--genes-in",
                "columns",
                "--record",
                "out.json",
                "--uncertainty",
                "sd.csv.gz",
            ),
            **{"source": "counts.csv"},
        ),
        {"out.csv": same_bytes, "sd.csv.gz": same_bytes, "out.json": record},
        inputs=("counts.csv",),
    ),
    Case("apply-h5ad", _apply("out.h5ad"), {"out.h5ad": annotated}, inputs=("new.h5ad", "model")),
    Case(
        "apply-csv-gz",
        _apply("out.csv.gz", "--genes-in", "columns"),
        {"out.csv.gz": same_bytes},
        (_apply("out.csv.gz", "--genes-in", "columns", "--scale", "normalized"),),
        inputs=("new.h5ad", "model"),
    ),
    Case("fit", _fit(*NMF, "--seed", 1), {"out": model}, (_fit(*NMF),)),
    Case("fit-new", _fit(*POSTERIOR), {"out": model}),
    Case(
        "fit-checkpoint",
        _fit(*DEEP, "--checkpoint", "steps"),
        {"out": model},
        (_fit(*MEAN),),
        kept=r"steps(/checkpoint\.safetensors)?",
    ),
    *(
        Case(
            f"evaluate-{suffix}",
            _evaluate(f"out.{suffix}", "median,ialm" if suffix == "none" else "ialm,poisson_nmf"),
            {f"out.{suffix}": scores},
            (_evaluate(f"out.{suffix}", "gene_mean"),),
            kept=rf"\.out\.{suffix}\.journal",
        )
        for suffix in ("csv", "parquet")
    ),
    Case(
        "tune",
        (*TUNE, "--trials", 3, "--storage", "s.db", "-q", "-o", "best.toml"),
        {"best.toml": tuned, "s.db": storage},
        kept=r"s\.db(-journal|-wal|-shm)?",
        complete=lambda folder: three_trials(folder / "s.db"),
        files={
            "best.toml": f'# written by imputome tune\nmethod = "poisson_nmf"\n[params]\nn_components = {OLD_BEST}\n'
        },
    ),
    Case(
        "study",
        ("study", "run", "study.toml", "-o", "out", "-q", "--workers", 0),
        {"out/results.csv": scores, "out/summary.csv": scores, "out/study.md": text},
        (("study", "run", "before/study.toml", "-o", "out", "-q", "--workers", 0),),
        kept=r"out(/parts(/.*)?)?",
        files={"study.toml": STUDY + MORE, "before/study.toml": STUDY},
    ),
    Case(
        "mask",
        ("mask", "in.h5ad", "-o", "out.h5ad", "--scheme", "thin", "--force", "-q", "--seed", 1),
        {"out.h5ad": annotated},
        (("mask", "in.h5ad", "-o", "out.h5ad", "--scheme", "thin", "--force", "-q"),),
    ),
    *(
        Case(
            f"mask-{name}",
            ("mask", "in.h5ad", "-o", output, "--scheme", "thin", "--force", "-q", "--seed", 1),
            {output: reader, f"{output}.truth.h5ad": annotated},
            (("mask", "in.h5ad", "-o", output, "--scheme", "thin", "--force", "-q"),),
        )
        for name, output, reader in (("csv", "out.csv", same_bytes), ("10x", "out", folder_of_files))
    ),
    Case(
        "remove",
        ("remove", "out.h5ad", "gene_mean"),
        {"out.h5ad": annotated},
        (_impute("out.h5ad", *MEAN),),
        again=("no-such-result",),
    ),
]


def write_inputs(folder: Path) -> None:
    """A corner of the real data that comes with scanpy, in every form that a case needs."""
    whole = load("pbmc68k")
    part = ad.AnnData(
        sp.csr_matrix(whole.X[:120, :150], dtype=np.float32),
        obs=pd.DataFrame(index=whole.obs_names[:120].astype(object)),
        var=pd.DataFrame(index=whole.var_names[:150].astype(object)),
    )
    part = part[np.asarray(part.X.sum(axis=1)).ravel() > 0].copy()
    part.write_h5ad(folder / "in.h5ad")
    new = ad.AnnData(
        sp.csr_matrix(whole.X[200:280, :150], dtype=np.float32),
        obs=pd.DataFrame(index=whole.obs_names[200:280].astype(object)),
        var=part.var.copy(),
    )
    new[np.asarray(new.X.sum(axis=1)).ravel() > 0].copy().write_h5ad(folder / "new.h5ad")
    counts = pd.DataFrame(part.X.toarray().astype(int), index=part.obs_names, columns=part.var_names)
    counts.to_csv(folder / "counts.csv", index_label="cell")
    values = np.log1p(counts.to_numpy()) + np.random.default_rng(0).normal(0, 0.2, counts.shape)
    values[np.random.default_rng(1).random(counts.shape) < 0.1] = np.nan
    pd.DataFrame(values.round(4), counts.index, counts.columns).to_csv(folder / "gaps.csv", index_label="cell")


def copy_input(source: Path, folder: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, folder / source.name)
    else:
        shutil.copyfile(source, folder / source.name)
