"""The runner of every study: method x split x trial -> rows. Controls are always among the methods."""

from __future__ import annotations

import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.data import Data, Kind, as_data
from imputome.core.imputation import Imputation
from imputome.core.imputer import check_parameters
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError
from imputome.evaluation.splits import SCHEMES, Split, make_split, scheme_options, seed_for
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.inspection.state import inspect
from imputome.methods import controls, create, get, info
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS
from imputome.studies.results import KEY, Journal, table_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from imputome.evaluation.clustering import Clusterer

DOWNSTREAM = ("clustering", "leiden", "de")
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class MethodSpec:
    """A registered method with parameters; ``posterior`` and other switches are parameters too.

    ``after`` names a method of the estimator that is called with the training data once it is fitted, such as
    ``"prune"``; the numbers of the dataclass that it returns are recorded as ``<after>_<name>``.
    """

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    after: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}+posterior" if self.params.get("posterior") else self.name

    @property
    def parameters(self) -> str:
        return json.dumps(self.params, sort_keys=True)


@dataclass(frozen=True)
class Dataset:
    """A named dataset with the labels that downstream analyses need.

    ``clinical`` has columns of numbers, a row's each: ``grade``, and ``time`` and ``event`` (NaN: not known).
    """

    name: str
    data: Data
    labels: np.ndarray | None = None
    clinical: dict[str, np.ndarray] = field(default_factory=dict)


def to_dataset(
    adata: AnnData,
    *,
    name: str,
    labels: str | None = None,
    layer: str | None = None,
    min_genes: int = 0,
    min_cells: int = 0,
) -> Dataset:
    """A dataset for a study: filtered by cells, then by genes, on counts as they are or on real values."""
    if labels is not None and labels not in adata.obs:
        raise InputError(f"obs has no column {labels!r}; columns: {', '.join(map(str, adata.obs.columns)) or 'none'}")
    report = inspect(adata, layer=layer)
    if report.errors:
        raise InputError(report.errors[0])
    if report.state in ("log1p", "normalized"):
        raise InputError(f"{report.where} looks {report.state}: methods are judged on counts, pass the layer with them")
    data = as_data(
        adata.X if layer is None else adata.layers[layer],
        kind="counts" if report.state == "counts" else "real",
        obs_names=adata.obs_names,
        var_names=adata.var_names,
    )
    cells = np.flatnonzero(data.observed_counts()[0] >= min_genes)
    data = data.subset(rows=cells)
    data = data.subset(columns=np.flatnonzero(data.observed_counts()[1] >= min_cells))
    classes = None if labels is None else adata.obs[labels].astype(str).to_numpy()[cells]
    return Dataset(name, data, classes)


def parse_method(text: str) -> MethodSpec:
    """``name``, ``name+posterior`` or ``name:key=value:key=value``; values are read as JSON, else taken as text."""
    name, *settings = text.strip().split(":")
    params: dict[str, Any] = {}
    if name.endswith("+posterior"):
        name = name.removesuffix("+posterior")
        params["posterior"] = True
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{setting!r} in {text!r} is not of the form key=value")
        try:
            params[key] = json.loads(value)
        except json.JSONDecodeError:
            params[key] = value
    if name not in REFERENCE_PREDICTIONS:
        check_parameters(get(name), params)
    return MethodSpec(name, params)


def run_study(
    datasets: Dataset | Sequence[Dataset],
    methods: Iterable[str | MethodSpec],
    *,
    scheme: str = "thin",
    fraction: float | Sequence[float] | None = None,
    trials: int | Sequence[int] = 1,
    seed: int = 0,
    downstream: Iterable[str] = (),
    protocol: str = "honest",
    scale: Literal["counts", "log1p"] = "counts",
    details: bool = False,
    output: str | Path | None = None,
    options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Hide values, impute, score: a tidy long table with the controls in it.

    Parameters
    ----------
    methods : as `parse_method` reads them, or `MethodSpec`.
    scheme, fraction, options : how values are hidden, see ``imputome.evaluation.splits.SCHEMES``.
    trials : repetitions, each with a seed made of the names of dataset, scheme, fraction and trial, and ``seed``; or
        the numbers of those to do.
    downstream : ``"clustering"`` (k-means) and ``"leiden"`` against the labels, and ``"de"`` (counts: the first label
        against the rest, beside the same test on the data before anything was hidden).
    protocol : ``"as_published"`` normalises counts to the median library before values are hidden, as the papers do:
        the training part then knows something of what is hidden, and the scheme is labelled leaky.
    scale : of hidden counts, see `imputome.evaluation.streaming.score_hidden`.
    details : the figures of ``status.details`` are rows too, under their names.
    output : where rows are kept as they come; a study that was interrupted goes on from there.

    Returns
    -------
    DataFrame with the columns of `imputome.studies.results.COLUMNS`: one row a number, and one row, with the reason,
    for a method that failed.
    """
    datasets = [datasets] if isinstance(datasets, Dataset) else list(datasets)
    downstream, options = tuple(downstream), dict(options or {})
    trials = range(trials) if isinstance(trials, int) else trials
    _check(datasets, scheme, downstream, protocol, trials, seed, scale)
    if fraction is None:
        fraction = scheme_options(scheme).get("fraction")  # None for a scheme that hides what it must
    fractions = [fraction] if fraction is None or isinstance(fraction, int | float) else list(fraction)
    wanted = [parse_method(method) if isinstance(method, str) else method for method in methods]
    journal = None if output is None else Journal(Path(output))
    earlier = [] if journal is None else journal.rows()
    rows = [row for row in earlier if row["status"] == "ok"]  # what failed is tried again
    done = {key_of(row) for row in rows}
    clock = _Clock(progress, len(datasets) * len(dict.fromkeys(fractions)) * len(trials))
    for dataset in datasets:
        data = _published(dataset.data) if protocol == "as_published" else dataset.data
        specs = with_controls(wanted, data.kind)
        label = f"{scheme} (leaky)" if protocol == "as_published" else scheme
        story = {
            "shape": data.shape,
            "known": int(data.observed_counts()[0].sum()),
            "downstream": downstream,
            **({} if scale == "counts" else {"scale": scale}),
            **({"details": True} if details else {}),
            **options,
        }
        own = dict(options)
        if "labels" in scheme_options(scheme) and dataset.labels is not None:
            own.setdefault("labels", dataset.labels)
        for share in dict.fromkeys(fractions):
            for trial in trials:
                trial_seed = seed_for(dataset.name, scheme, share, trial, base=seed)
                base: dict[str, Any] = {"dataset": dataset.name, "scheme": label}
                base |= {"fraction": math.nan if share is None else float(share), "trial": trial, "seed": trial_seed}
                keys = [{**base, **_named(spec, story)} for spec in specs]
                todo = [(spec, key) for spec, key in zip(specs, keys, strict=True) if key_of(key) not in done]
                clock.part_begins(len(todo))
                if not todo:
                    continue
                split = make_split(scheme, data, rng=np.random.default_rng(trial_seed), fraction=share, **own)
                split = replace(split, leaky=protocol == "as_published")
                for spec, key in todo:
                    clock.tell(f"{dataset.name}, {spec.label}, trial {trial + 1}")
                    found = _rows_of(spec, split, dataset, downstream, trial_seed, scale, details)
                    new = [{**key, **row} for row in found]
                    rows.extend(new)
                    done.add(key_of(key))
                    if journal is not None:
                        journal.append(new)
                    clock.step()
    table = table_of(rows)
    if journal is not None:
        journal.finish(table)
    return table


def _named(spec: MethodSpec, story: dict[str, Any]) -> dict[str, str]:
    """What tells the computations of one split apart."""
    story = {**story, "after": spec.after} if spec.after else story
    return {"method": spec.label, "parameters": spec.parameters, "options": json.dumps(story, default=str)}


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    """What a computation is known by, the same before and after it went through a file."""
    return tuple(str(float(row[name])) if name == "fraction" else str(row[name]) for name in KEY)


def _rows_of(
    spec: MethodSpec,
    split: Split,
    dataset: Dataset,
    downstream: tuple[str, ...],
    seed: int,
    scale: Literal["counts", "log1p"],
    details: bool,
) -> Iterator[dict[str, Any]]:
    """Fit, impute and score one method; a failure is a row with its reason."""
    begun = time.perf_counter()
    common: dict[str, Any] = {"peak_bytes": 0, "status": "ok", "reason": ""}
    try:
        with peak_memory() as peak:
            result = _impute(spec, split, seed)
        common |= {"seconds": time.perf_counter() - begun, "peak_bytes": peak()}
        common["reason"] = "" if result.status.converged else result.status.message
        scores = score_thinned(result, split) if split.test is not None else score_hidden(result, split, scale=scale)
        scores |= _downstream(result, split, dataset, downstream, seed)
        if details:
            scores |= numbers_of(result.status.details)
        for name, value in scores.items():
            yield {"metric": name, "value": float(value), **common}
    except Exception as error:  # whatever a method does, the study goes on and the table says what happened
        failed = {
            "seconds": time.perf_counter() - begun,
            "status": "failed",
            "reason": f"{type(error).__name__}: {error}",
        }
        yield {"metric": "", "value": math.nan, **common, **failed}


def _impute(spec: MethodSpec, split: Split, seed: int) -> Imputation:
    if spec.name in REFERENCE_PREDICTIONS:
        return REFERENCE_PREDICTIONS[spec.name](split.train)
    estimator = create(spec.name, spec.params, random_state=seed % 2**31)
    if split.apply is None:
        result = estimator.fit_transform(split.train)
    else:
        result = estimator.fit(split.train).transform(split.apply)
    if spec.after:
        report = asdict(getattr(estimator, spec.after)(split.train))
        result.status.details.update({f"{spec.after}_{name}": value for name, value in report.items()})
    return result


def numbers_of(details: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in details.items() if isinstance(value, int | float | np.number)}


def _downstream(
    result: Imputation, split: Split, dataset: Dataset, wanted: tuple[str, ...], seed: int
) -> dict[str, float]:
    """Scores of what people do next with an imputed matrix; it is made dense for it."""
    if not wanted or dataset.labels is None:
        return {}
    from imputome.evaluation.clustering import cluster_scores, expression_components
    from imputome.evaluation.expression import precision_recall_tnr, wilcoxon

    counts = result.data.kind == "counts"
    rows = dataset.data.obs_names.get_indexer(result.obs_names)  # a row split imputes some of them
    labels = dataset.labels[rows]
    values = result.to_array(scale="normalized" if counts else None)
    scores: dict[str, float] = {}
    clusterers: dict[str, Clusterer] = {"clustering": "kmeans", "leiden": "leiden"}
    for analysis in [name for name in clusterers if name in wanted]:
        prefix = "leiden_" if analysis == "leiden" else ""
        with warnings.catch_warnings():  # where all cells are the same there is one cluster, and the scores say so
            warnings.simplefilter("ignore")
            embedding = expression_components(values, random_state=seed % 2**31) if counts else values
            found = cluster_scores(
                embedding=embedding, labels=labels, method=clusterers[analysis], random_state=seed % 2**31
            )
        scores |= {prefix + name: found[name] for name in ("ari", "ami", "nmi")}
    if "de" in wanted:
        groups = labels == np.unique(labels)[0]
        whole = counts_to_scale(dataset.data.block(rows), dataset.data.depth[rows, None], "normalized")
        tables = [wilcoxon(np.log1p(part), groups) for part in (whole, values)]
        called = [(table["p_adjusted"] < 0.05).to_numpy() for table in tables]
        scores |= precision_recall_tnr(truth=called[0], called=called[1])
    return scores


def _check(
    datasets: list[Dataset],
    scheme: str,
    downstream: tuple[str, ...],
    protocol: str,
    trials: Sequence[int],
    seed: int,
    scale: str,
) -> None:
    if scheme not in SCHEMES:
        raise InputError(f"there is no scheme {scheme!r}: choose one of {', '.join(SCHEMES)}")
    unknown = [name for name in downstream if name not in DOWNSTREAM]
    if unknown:
        raise InputError(f"there is no downstream analysis {unknown[0]!r}: choose of {', '.join(DOWNSTREAM)}")
    if downstream and any(dataset.labels is None for dataset in datasets):
        raise InputError("downstream analyses need labels: name a column of obs (--labels)")
    if protocol not in ("honest", "as_published"):
        raise InputError(f"protocol={protocol!r} is neither 'honest' nor 'as_published'")
    if protocol == "as_published" and scheme.startswith("thin"):
        raise InputError("protocol='as_published' normalises first, and molecules cannot be split then: use 'random'")
    if scale not in ("counts", "log1p") or (scale == "log1p" and scheme.startswith("thin")):
        raise InputError(f"scale={scale!r} is none to score {scheme} on: 'counts', or 'log1p' for hidden entries")
    if not trials or seed < 0:
        raise InputError(f"trials={len(trials)} must be at least 1, and seed={seed} not negative")
    names = [dataset.name for dataset in datasets]
    if len(set(names)) < len(names):
        raise InputError(f"two datasets are called {max(names, key=names.count)!r}: give each a name of its own")
    if downstream and not all(dataset.data.obs_names.is_unique for dataset in datasets):
        raise InputError("downstream analyses find cells by name, and some names are not unique: make them so first")
    if "de" in downstream and any(dataset.data.kind == "real" for dataset in datasets):
        raise InputError("the downstream analysis 'de' is for counts: leave it out for real values")


def standard_controls(kind: Kind) -> tuple[str, ...]:
    """The controls of every study: those of `imputome.methods.controls`, and for counts ``all_zeros``."""
    return (*(("all_zeros",) if kind == "counts" else ()), *controls(kind))


def with_controls(wanted: list[MethodSpec], kind: Kind) -> list[MethodSpec]:
    """The methods and, before them, the controls that are not among them."""
    for spec in wanted:
        kinds = {"counts"} if spec.name in REFERENCE_PREDICTIONS else info(spec.name).kinds
        if kind not in kinds:
            raise InputError(f"{spec.name} does not take {kind} data: `imputome methods` lists what takes which")
    every = [MethodSpec(name) for name in standard_controls(kind)] + wanted
    return list({(spec.label, spec.parameters, spec.after): spec for spec in every}.values())


def _published(data: Data) -> Data:
    """Counts per median library, normalised with what will be hidden still there."""
    import scipy.sparse as sp

    if data.kind != "counts":
        raise InputError("protocol='as_published' is for counts")
    depth = data.depth
    scale = np.divide(np.median(depth[depth > 0]), depth, out=np.ones_like(depth), where=depth > 0)
    return replace(data, X=sp.csr_array(sp.diags_array(scale) @ data.X), library_size=None)


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Largest resident size of the process while the block runs, sampled; 0 where the system does not tell."""
    largest, stop = [0], threading.Event()
    page = os.sysconf("SC_PAGE_SIZE")

    def watch() -> None:
        while not stop.is_set():
            largest[0] = max(largest[0], _resident(page))
            stop.wait(0.02)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: largest[0]
    finally:
        stop.set()
        watcher.join()


def _resident(page: int) -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * page
    except (OSError, ValueError, IndexError):
        return 0


class _Clock:
    """Share done and time to go, told after each method."""

    def __init__(self, progress: Progress | None, parts: int) -> None:
        self.progress, self.parts = progress, parts
        self.part, self.steps, self.step_now = 0, 1, 0
        self.begun = time.monotonic()

    def part_begins(self, steps: int) -> None:
        self.part += 1
        self.steps, self.step_now = max(1, steps), 0

    def step(self) -> None:
        self.step_now += 1

    def tell(self, text: str) -> None:
        if self.progress is None:
            return
        share = (self.part - 1 + self.step_now / self.steps) / self.parts
        left = (time.monotonic() - self.begun) * (1 - share) / share if share > 0 else math.nan
        eta = "" if math.isnan(left) else f", about {left:.0f} s left"
        self.progress(share, text + eta)
