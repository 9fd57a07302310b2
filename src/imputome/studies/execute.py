"""Running a whole study, in units that can be interrupted, in one or several processes.

A unit is one trial of one split of one dataset with all methods; if the splits share their fits, it is one trial of all
splits. Each unit has its own file of rows, so processes share only a folder, and a study that was interrupted or
changed continues from the files that are there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp

from imputome.core.atomic import atomic_path
from imputome.core.data import Data
from imputome.core.interrupts import answered_here
from imputome.core.links import link
from imputome.core.locks import locked
from imputome.errors import ImputomeError, InputError, Message, missing_extra
from imputome.evaluation.splits import seed_for
from imputome.result.run import Progress
from imputome.studies.claims import (
    by_configuration,
    check_claims,
    claims_markdown,
    comparisons_markdown,
    markdown,
    published_markdown,
    wilcoxon_tests,
)
from imputome.studies.inputs import Dataset, MethodSpec, detected, digest, obs_column, to_dataset
from imputome.studies.results import COLUMNS, RESULTS, check_path, key_of, read, stored_rows, table_of, write
from imputome.studies.runner import Tables, options_of, read_gc, run_study, run_trial
from imputome.studies.spec import Hiding, Study, Subset, non_defaults

PARTS_FOLDER = "parts"  # of the files of the units
BESIDE = ("summary.csv", "claims.csv", "tests.csv", "summary.md")  # what is written beside the results
POLL_SECONDS = 0.5  # between checks of the work of other processes
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
WORKER_DIED = Message("a worker process died: run the same command again to continue", code="worker-died")
Loader = Callable[[str], Any]  # from a name to an AnnData, as `imputome.datasets.load`


@dataclass(frozen=True)
class Unit:
    """One trial of one dataset, with one split or all."""

    subset: Subset
    splits: tuple[Hiding, ...]
    trial: int
    data: str  # digest of the whole dataset

    def path(self, study: Study, folder: Path) -> Path:
        """Its file. The name depends on everything that the rows need to be understood and do not contain."""
        identity: list[Any] = [non_defaults(self.subset), study.seed, self.data, version("imputome")]
        words = f"{self.subset.name} {self.trial}"
        if not study.shares_fits:
            split = self.splits[0]
            identity.append(non_defaults(split))
            identity += [[name, spec.after] for name, spec in sorted(study.specs(split).items()) if spec.after]
            words = f"{self.subset.name} {split.label} {self.trial}"
        name = re.sub(r"[^A-Za-z0-9]+", "_", words)[:100]
        return folder / PARTS_FOLDER / f"{name}_{digest(identity)}.csv"


def execute(
    study: Study, folder: str | Path, *, load: Loader, workers: int = 1, progress: Progress | None = None
) -> pd.DataFrame:
    """Run what is not yet done of a study, and collect its rows: those of `run_study` with details.

    ``folder`` holds the files of the units; it is created if it does not exist. With several workers ``load`` must be a
    function of a module; each process then has its own copy of the data and one thread: networks of this size are not
    faster with more.
    """
    folder = Path(folder)
    if workers < 1:
        raise InputError(f"workers={workers} must be at least 1", code="parameter-value", parameter="workers")
    if workers > 1 and not all(isinstance(configuration.spec.method, str) for configuration in study.configurations):
        raise InputError(
            "several processes can only run registered methods: pass {workers}", code="method-not-registered", workers=1
        )
    _check_folder(folder)
    try:
        (folder / PARTS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be created: {error}", code="folder-not-writable", parameter="output"
        ) from error
    check_path(folder / RESULTS)
    stored_rows(folder / RESULTS)  # refuses a damaged table now
    tables = _tables(study, load)
    # a dataset that is not available is reported now, not after an hour
    units = _units(study, {subset.name: _digest_of(load(subset.name)) for subset in study.datasets})
    if workers == 1:
        _run_units(study, folder, load, units, progress)
    else:

        def report() -> None:
            if progress is not None:
                done = sum(unit.path(study, folder).exists() for unit in units)
                progress(done / len(units), f"{done} of {len(units)} units")

        shares = [(study, folder, load, units[k::workers]) for k in range(min(workers, len(units)))]
        run_processes(_run_units, shares, threads=1, report=report)
        if not all(unit.path(study, folder).exists() for unit in units):
            raise InputError(WORKER_DIED)
    parts = [_rows_of_study(study, unit, read(unit.path(study, folder)), tables) for unit in units]
    parts.append(table_of(_skipped(study)))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)[list(COLUMNS)]


def _check_folder(folder: Path) -> None:
    """Check that a study replaces no file of somebody else."""
    of_studies = (folder / PARTS_FOLDER).is_dir()
    for path in (folder / name for name in BESIDE):
        if path.exists() and not (of_studies and path.is_file()):
            text = f"{path} was not written by a study, which would replace it: pass another {{output}}"
            raise InputError(text, code="not-a-study-folder", output=...)


def _digest_of(loaded: Any) -> str:
    """Of all that `load_subset` can use of a dataset, which is an AnnData or a table."""
    if not hasattr(loaded, "obs_names"):
        return digest(loaded)
    return digest([loaded.X, loaded.obs_names, loaded.obs, loaded.var_names, loaded.var])


def _units(study: Study, digests: dict[str, str]) -> list[Unit]:
    return [
        Unit(subset, splits, trial, digests[subset.name])
        for subset in study.datasets
        for splits in ([study.splits_of(subset)] if study.shares_fits else [(split,) for split in study.splits])
        if splits
        for trial in range(study.trials)
    ]


def _tables(study: Study, load: Loader) -> Tables:
    """What the schemes need in addition to the data."""
    coverage = {}
    for name in {split.coverage for subset in study.datasets for split in study.splits_of(subset) if split.coverage}:
        table = load(name)
        columns = [column for column in getattr(table, "columns", ()) if str(column).startswith("Cov.")]
        if not columns:
            raise InputError(f"{name} has no coverages (columns Cov.*): give another dataset", code="coverage-missing")
        coverage[name] = table[columns].to_numpy()
    return Tables(read_gc(study.gc) if study.gc else {}, coverage)


def _rows_of_study(study: Study, unit: Unit, rows: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """The rows of a unit, without configurations and splits that the study no longer has."""
    known_methods = study.names_of_rows(unit.splits[0])
    rows = rows[[key in known_methods for key in zip(rows["method"], rows["parameters"], strict=True)]]
    if not study.shares_fits:
        return rows.assign(scheme=unit.splits[0].label)
    known_splits = {(split.label, options_of(split, tables)) for split in unit.splits}
    return rows[[key in known_splits for key in zip(rows["scheme"], map(_of_split, rows["options"]), strict=True)]]


def _of_split(options: str) -> str:
    """Options of a row without those that tell of which data it is; the file of a unit is of one data set only."""
    with suppress(ValueError):  # the file is damaged: no split has such options
        settings = json.loads(options)
        return json.dumps(
            {name: settings[name] for name in settings if name not in ("data", "version")}, sort_keys=True
        )
    return options


def _skipped(study: Study) -> Iterator[dict[str, Any]]:
    """A row, with the reason, for each split that lacks what it needs."""
    for subset in study.datasets:
        for split in study.splits:
            if study.lacks(split) and study.applies(split, subset):
                key = {"dataset": subset.label, "method": "every method", "parameters": "{}", "scheme": split.label}
                yield {**key, "trial": 0, "seed": 0, "metric": "", "status": "skipped", "reason": study.lacks(split)}


def write_results(study: Study, table: pd.DataFrame, folder: Path) -> tuple[list[Path], str]:
    """Write all rows, the summary by configuration, the checked claims, the tests if any, and a Markdown text.

    Gives the paths of the files, and the text.
    """
    checked = check_claims(study, table)
    tests = wilcoxon_tests(study, table)
    sections = [markdown(study, table), published_markdown(study, table)]
    sections += [comparisons_markdown(tests) if len(tests) else "", claims_markdown(checked) if len(checked) else ""]
    text = "\n".join(section for section in sections if section)
    tables = {"summary.csv": by_configuration(study, table), "claims.csv": checked}
    if study.comparisons:
        tables["tests.csv"] = tests
    with locked(folder / RESULTS):  # `imputome evaluate` may be adding scores to it
        write(pd.concat([table, *_others(folder, table)], ignore_index=True), folder / RESULTS)
        for name, content in tables.items():
            write(content, folder / name)
        with atomic_path(folder / "summary.md") as partial:
            partial.write_text(text, encoding="utf-8")
    return [folder / name for name in (RESULTS, *tables, "summary.md")], text


def _others(folder: Path, table: pd.DataFrame) -> list[pd.DataFrame]:
    """The stored rows that are of no study in this folder, which are kept; a warning tells how many are left out."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return key_of({**row, "scheme": ""})  # in the files of the units it has no name; options and seed tell it

    known = {key(row) for row in table.to_dict("records")}
    rows = [row for row in stored_rows(folder / RESULTS) if row["status"] != "skipped" and key(row) not in known]
    if rows:
        for path in (folder / PARTS_FOLDER).glob("*.csv"):
            with suppress(InputError):  # it is damaged, and of no unit of this run
                known |= {key(row) for row in read(path).to_dict("records")}
    others = [row for row in rows if key(row) not in known]
    if len(others) < len(rows):
        text = f"{folder / RESULTS} held {len(rows) - len(others):,} rows that this run does not ask for: they stay in "
        warnings.warn(Message(f"{text}{folder / PARTS_FOLDER}", code="rows-left-out"), stacklevel=3)
    return [table_of(others)] if others else []


# -- data --------------------------------------------------------------------------------------------------------------
def load_subset(subset: Subset, load: Loader, *, seed: int) -> Dataset:
    """Load a dataset and take the part of it that a study uses; ``seed`` draws the cells and features.

    Library sizes stay those over all genes. As in the papers, the variable genes are chosen once, from all values and
    before any are hidden: they define the dataset, which is the same for every method and control.
    """
    adata = load(subset.name)
    if not hasattr(adata, "obs_names"):
        raise InputError(f"{subset.name} is a table, not a matrix of cells x genes", code="not-a-matrix")
    where = f"{subset.name}: "
    labels = obs_column(adata, subset.labels, where).astype(str).to_numpy() if subset.labels else None
    clinical = {name: _numbers(obs_column(adata, column, where)) for name, column in subset.clinical.items()}
    source = {
        name: getattr(subset, name) for name in ("layer", "kind", "round_counts", "feature_type", "keep_summary_rows")
    }
    whole = to_dataset(adata, name=subset.label, seed=seed, **source)
    for message in whole.messages:
        warnings.warn(f"{where}{message}", stacklevel=2)
    data = whole.data
    places = np.arange(data.shape[0])
    if subset.max_cells is not None and subset.max_cells < data.shape[0]:
        rng = np.random.default_rng(seed_for(subset.name, "cells", base=seed))
        places = np.sort(rng.choice(data.shape[0], subset.max_cells, replace=False))
        data = data.subset(rows=places)
    if data.kind == "counts":
        data = replace(data, library_size=data.depth)
    data, kept = detected(data, subset.min_genes, subset.min_cells)
    places = places[kept]
    if subset.n_top_genes is not None and subset.n_top_genes < data.shape[1]:
        data = data.subset(columns=_most_variable(data, subset))
    if subset.max_features is not None and subset.max_features < data.shape[1]:
        rng = np.random.default_rng(seed_for(subset.name, "features", base=seed))
        data = data.subset(columns=np.sort(rng.choice(data.shape[1], subset.max_features, replace=False)))
    n, G = data.shape
    if min(n, G) < 2:
        raise InputError(f"{subset.label}: only {n} cells x {G} genes are left", code="too-little-data")
    if subset.transform not in (None, "identity"):
        if data.kind == "counts":
            raise InputError(f"{subset.name}: leave out transform, which is for real values", code="transform-kind")
        data = replace(data, X=link(subset.transform).forward(data.X), bounds=(-np.inf, np.inf))
    labels = None if labels is None else labels[places]
    return Dataset(subset.label, data, labels, {name: numbers[places] for name, numbers in clinical.items()})


def _numbers(column: pd.Series) -> np.ndarray:
    """A column as numbers; texts such as G2, G3, G4 are ranked in alphabetical order. NaN stays."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64)
    codes, _ = pd.factorize(column.astype(object), sort=True)
    return np.where(codes < 0, np.nan, codes)


def _most_variable(data: Data, subset: Subset) -> np.ndarray:
    """Positions of the most variable genes by Seurat's ``vst``, sorted."""
    import scanpy as sc
    from anndata import AnnData

    if data.kind != "counts":
        raise InputError(f"{subset.name}: leave out n_top_genes, which is for counts", code="variable-genes-kind")
    try:
        table = sc.pp.highly_variable_genes(
            AnnData(sp.csr_matrix(data.X)), flavor="seurat_v3", n_top_genes=subset.n_top_genes, inplace=False
        )
    except ImportError as error:
        raise missing_extra("n_top_genes", "scikit-misc", "deep") from error
    except ValueError as error:  # the window of loess is singular
        raise InputError(
            f"{subset.name}: genes cannot be ranked by variance: raise min_cells ({error})", code="variable-genes"
        ) from error
    return np.flatnonzero(table["highly_variable"].to_numpy())


# -- one process -------------------------------------------------------------------------------------------------------
def _run_units(study: Study, folder: Path, load: Loader, units: list[Unit], progress: Progress | None = None) -> None:
    """Run units one after the other."""
    dataset: Dataset | None = None
    tables = _tables(study, load)
    for place, unit in enumerate(units):
        if dataset is None or dataset.name != unit.subset.label:
            dataset = load_subset(unit.subset, load, seed=study.seed)
        split = unit.splits[0]
        methods = [*(MethodSpec(name) for name in study.controls), *study.specs(split).values()]
        common: dict[str, Any] = {"seed": study.seed, "output": unit.path(study, folder)}
        common["transform"] = None if unit.subset.transform is None else "none"
        common["progress"] = None if progress is None else _part_of(progress, unit, place, len(units))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the numbers of a fit include what it warns about
            if study.shares_fits:
                run_trial(dataset, methods, unit.splits, trial=unit.trial, tables=tables, **common)
            else:
                hiding: dict[str, Any] = {"scheme": split.scheme, "fraction": split.fraction, "scale": split.scale}
                run_study(dataset, methods, trials=[unit.trial], details=True, **hiding, **common)


def _part_of(progress: Progress, unit: Unit, place: int, units: int) -> Progress:
    # replaces the text of the unit, which has the time left of the unit, not of the study
    text = f"{unit.subset.label}, {unit.splits[0].label}, trial {unit.trial + 1}"
    return lambda share, _: progress((place + share) / units, text)


# -- several processes -------------------------------------------------------------------------------------------------
def run_processes(
    work: Callable[..., None], arguments: Sequence[tuple[Any, ...]], *, threads: int, report: Callable[[], None]
) -> None:
    """Run ``work(*arguments[k])`` in one process each, and wait for all; no process stays behind.

    ``work`` is a function of a module. Each process has that number of threads, unless the environment sets it, and
    ``report`` is called every `POLL_SECONDS`. If a process raises an error of this package, the others are stopped, and
    the error is raised here.
    """
    context = multiprocessing.get_context("spawn")
    with answered_here():  # it starts a process that keeps account of it
        errors = context.SimpleQueue()
    processes = [
        context.Process(target=run_in_child, args=(work, each, os.getpid(), errors), daemon=True) for each in arguments
    ]
    others = _workers()
    unset = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, str(threads)))
    try:
        with answered_here():
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes) and errors.empty():
            report()
            time.sleep(POLL_SECONDS)
        if not errors.empty():
            message: Message = errors.get()
            raise InputError(message)
    finally:
        for name in unset:
            os.environ.pop(name, None)
        for child in _workers() - others:  # one that was just being started is not among the processes yet
            with suppress(psutil.Error):
                child.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


def _workers() -> set[psutil.Process]:
    """The children of this process that multiprocessing has started."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(part.endswith("multiprocessing-fork") for part in child.cmdline()):
                found.add(child)
    return found


def run_in_child(work: Callable[..., None], arguments: tuple[Any, ...], parent: int, errors: Any) -> None:
    """Run ``work``, and put the `Message` of its error into the queue ``errors``."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        work(*arguments)
    except ImputomeError as error:
        errors.put(error.message)
    except KeyboardInterrupt:  # the parent process reports it
        return


def _end_with(parent: int) -> None:
    """End this process, even in the middle of a fit, when its parent was killed and could not end it."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
