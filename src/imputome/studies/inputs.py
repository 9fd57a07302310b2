"""What a study is run on: methods with their parameters, and datasets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from imputome.core.data import Data, Kind
from imputome.core.imputer import TRAINING_CELLS, Imputer
from imputome.errors import InputError, Message, MissingExtraError, printable
from imputome.evaluation.known_truth import KnownTruth, known_truth
from imputome.evaluation.metrics import OPEN_PROBLEMS
from imputome.evaluation.open_problems import PERFECT
from imputome.inspection.features import CODES
from imputome.methods import Method, controls, create, get, info, names
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS
from imputome.result.adapt import evaluated
from imputome.trust.check import label_columns

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True)
class MethodSpec:
    """A method with parameters.

    Of an estimator the class is kept, and the parameters that differ from their defaults are added to ``params``; so
    each trial has its own seed unless the estimator has another ``random_state`` than the default. A registered class
    is replaced by its name. The ``link`` of an estimator is kept too.

    Examples
    --------
    >>> from imputome.methods import get
    >>> from imputome.studies.inputs import MethodSpec
    >>> spec = MethodSpec(get("knn")(n_neighbors=5))
    >>> spec.label, spec.parameters
    ('knn', '{"n_neighbors": 5}')
    """

    method: Method
    params: dict[str, Any] = field(default_factory=dict)  # by name; ``posterior`` is one of them
    # a method of the estimator, such as "prune", that is called with the training data after the fit; the numbers of
    # the dataclass that it returns are recorded as <after>_<name>
    after: str = ""
    link: str | None = None  # transform of real values; None takes the one that the study chooses

    def __post_init__(self) -> None:
        if isinstance(self.method, str):
            return
        cls = get(self.method)
        if isinstance(self.method, Imputer):
            object.__setattr__(self, "params", {**self.method.changed_params(), **self.params})
            if self.method.link != "identity":
                object.__setattr__(self, "link", self.method.link)
        registered = cls.name in names() and get(cls.name) is cls
        object.__setattr__(self, "method", cls.name if registered else cls)

    @property
    def name(self) -> str:
        """The registered name, or the name that the class has."""
        if isinstance(self.method, str):
            return self.method
        cls = get(self.method)
        # two methods of one name must not share rows of results
        return f"{cls.__module__}.{cls.__qualname__}" if cls.name in names() else cls.name

    @property
    def label(self) -> str:
        """The name in tables of results."""
        return f"{self.name}+posterior" if self.params.get("posterior") else self.name

    @property
    def parameters(self) -> str:
        """The parameters as JSON, as they are in tables of results."""
        link = {} if self.link is None else {"link": self.link}
        return json.dumps({**self.params, **link}, sort_keys=True, default=as_text)


def parse_method(method: Method | MethodSpec) -> MethodSpec:
    """A method to run, with its parameters checked.

    A text is ``"name"``, ``"name+posterior"`` or ``"name:key=value:key=value"``; values are read as JSON, and as text
    if they are not JSON.

    Examples
    --------
    >>> from imputome.studies.inputs import parse_method
    >>> parse_method("ialm:max_rank=5:zeros=preserve").params
    {'max_rank': 5, 'zeros': 'preserve'}
    """
    spec = _parse_text(method) if isinstance(method, str) else method
    spec = spec if isinstance(spec, MethodSpec) else MethodSpec(spec)
    if spec.method not in REFERENCE_PREDICTIONS:
        create(spec.method, spec.params).check_params()
    return spec


def lacking(spec: MethodSpec) -> str:
    """What a method needs that is not installed here, as a sentence with the remedy; empty if nothing is missing."""
    if spec.method not in REFERENCE_PREDICTIONS:
        try:
            get(spec.method)
        except MissingExtraError as error:
            return str(error)
    return ""


def _parse_text(text: str) -> MethodSpec:
    name, *settings = text.strip().split(":")
    params: dict[str, Any] = {"posterior": True} if name.endswith("+posterior") else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(
                f"{setting!r} in {text!r} is not of the form key=value", code="method-setting", parameter="methods"
            )
        try:
            params[key] = json.loads(value)
        except json.JSONDecodeError:
            params[key] = value
    return MethodSpec(name.removesuffix("+posterior"), params)


def standard_controls(kind: Kind) -> tuple[str, ...]:
    """The controls of every study: those of `imputome.methods.controls`, and ``all_zeros`` for counts."""
    return (*(("all_zeros",) if kind == "counts" else ()), *controls(kind))


def with_controls(specs: Iterable[MethodSpec], kind: Kind, protocol: str = "honest") -> list[MethodSpec]:
    """The standard controls and that of the protocol, then the methods; equal ones once."""
    specs = list(specs)
    for spec in specs:
        check_kind(spec, kind, parameter="methods")
    also = (PERFECT,) if protocol == OPEN_PROBLEMS else ()
    every = [*(MethodSpec(name) for name in (*standard_controls(kind), *also)), *specs]
    return list({(spec.label, spec.parameters, spec.after): spec for spec in every}.values())


# -- checks of parameters ----------------------------------------------------------------------------------------------
def check_kind(spec: MethodSpec, kind: Kind, *, parameter: str) -> None:
    """Check that a method takes data of this kind."""
    kinds = ("counts",) if spec.method in REFERENCE_PREDICTIONS else info(spec.method).kinds
    if kind not in kinds:
        able = ", ".join(name for name in names() if kind in info(name).kinds)
        text = f"{spec.name} does not take {kind} data: choose one of {able}"
        raise InputError(text, code="method-kind", parameter=parameter)


# -- datasets ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Dataset:
    """A dataset with a name, and what downstream analyses need."""

    name: str  # in tables of results; the seeds of the trials depend on it
    data: Data
    labels: np.ndarray | None = None  # (n,) class of each row
    clinical: dict[str, np.ndarray] = field(default_factory=dict)  # (n,) grade, time, event; NaN means not known
    differential: np.ndarray | None = None  # (G,) whether a gene differs between the first class and the others
    truth: KnownTruth | None = None  # of simulated counts
    messages: tuple[Message, ...] = ()  # what the user should know
    # how it was read, where that was chosen: layer, kind, labels and so on; rows of results name it
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name, 200))  # it can be the name of a file

    def identity(self) -> dict[str, Any]:
        """What results are stored under beside its name, so that they are never taken for those of other data."""
        also = [self.differential, None if self.truth is None else vars(self.truth)]
        content = [self.data, self.labels, self.clinical, *(each for each in also if each is not None)]
        return {**self.source, "data": digest(content), "version": release()}


def digest(value: Any) -> str:
    """A short text that differs between values: data, matrices, tables, texts, and lists and mappings of these."""
    state = hashlib.blake2b(digest_size=8)
    for part in _bytes_of(value):
        state.update(part)
    return state.hexdigest()


def _bytes_of(value: Any) -> Iterator[Any]:
    import pandas as pd

    if isinstance(value, Data):
        value = vars(value)
    elif sp.issparse(value):
        value = [value.shape, value.indptr, value.indices, value.data]
    elif isinstance(value, pd.Index | pd.Series):
        value = value.to_numpy()
    if isinstance(value, Mapping | pd.DataFrame):
        value = list(value.items())
    if isinstance(value, list | tuple):
        yield f"{len(value)} parts ".encode()
        for part in value:
            yield from _bytes_of(part)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype.str}{value.shape}".encode()
        yield np.ascontiguousarray(value).view(np.uint8) if value.size else b""
    else:
        text = repr(value.tolist() if isinstance(value, np.ndarray) else value).encode(errors="backslashreplace")
        yield f"{len(text)} bytes ".encode()
        yield text


def as_text(value: Any) -> str:
    """What JSON cannot hold, as a text: of a matrix or table all values count, which ``str`` does not show."""
    return digest(value) if getattr(value, "shape", ()) else str(value)


def release() -> str:
    """The version without what is added between releases: runs that are stored stay valid until the next release."""
    found = re.match(r"\d+(\.\d+)*", version("imputome"))
    return found.group() if found else version("imputome")


def to_dataset(
    adata: AnnData,
    *,
    name: str,
    labels: str | None = None,
    min_genes: int = 0,
    min_cells: int = 0,
    **source: Any,
) -> Dataset:
    """A dataset from AnnData: raw counts or real values, filtered as by `detected`.

    ``labels`` is the column of ``obs`` with the class of each cell; ``source`` are the parameters of
    `imputome.result.adapt.evaluated`.
    """
    classes = None if labels is None else label_columns(adata, labels)[labels]
    report, data = evaluated(adata, **{"layer": None, **source})
    data, some, sampled = _in_memory(data)
    whole = data
    data, cells = detected(data, min_genes, min_cells)
    cells = cells if some is None else some[cells]
    if min(data.shape) < min(2, *whole.shape):
        raise _too_little(whole, data, min_genes, min_cells)
    said = (*(message for message in report.warnings if message.code in (*CODES, "far-values")), *sampled)
    chosen = {"labels": labels, "min_genes": min_genes, "min_cells": min_cells, **source}
    chosen = {key: value for key, value in chosen.items() if value and key not in ("seed", "allowed")}
    labelled = None if classes is None else classes[cells]
    return Dataset(name, data, labelled, truth=known_truth(adata, data), messages=said, source=chosen)


def _in_memory(data: Data) -> tuple[Data, np.ndarray | None, list[Message]]:
    """The data in memory: of very many cells that are not, some, with their positions and a message."""
    n = data.shape[0]
    if data.in_memory or n <= TRAINING_CELLS:
        return data.to_memory(), None, []
    rows = np.sort(np.random.default_rng(n).choice(n, TRAINING_CELLS, replace=False))
    text = f"methods are compared on {TRAINING_CELLS:,} of {n:,} cells, chosen at random"
    return data.subset(rows=rows), rows, [Message(text, code="cells-sampled")]


def _too_little(whole: Data, left: Data, min_genes: int, min_cells: int) -> InputError:
    """The error for filters that leave too little; it says how much each of them could ask for."""
    (cells, genes), (n, G) = whole.shape, left.shape
    per_cell, per_gene = whole.observed_counts()
    text = f"{n:,} of {cells:,} cells and {G:,} of {genes:,} genes are left: "
    given: dict[str, Any] = {}
    if min_genes:
        text += f"pass a smaller {{min_genes}} (the most genes of a cell are {per_cell.max():,})"
        given["min_genes"] = ...
    if min_cells:
        text += f"{', ' if given else ''}pass a smaller {{min_cells}} (the most cells of a gene are {per_gene.max():,})"
        given["min_cells"] = ...
    return InputError(text, code="too-little-data", **given)


def detected(
    data: Data,
    min_genes: int,
    min_cells: int,
    *,
    max_genes: int | None = None,
    max_counts: float | None = None,
    max_mitochondrial: float | None = None,
) -> tuple[Data, np.ndarray]:
    """The cells with enough detected genes, the genes detected in enough of these cells, and the cells' positions.

    Cells must have fewer detected genes than ``max_genes``, fewer molecules than ``max_counts``, and a smaller share of
    mitochondrial molecules (genes whose names begin with MT-) than ``max_mitochondrial``. The quality control of paper
    002 (section 2.5 and its code) is 200 genes, 3 cells, and fewer than 2,000 genes and 5 % for PBMC, 75,000 molecules
    for Klein; all three are counted over all genes, before any is left out.
    """
    per_cell = data.observed_counts()[0]
    kept = per_cell >= min_genes
    if max_genes is not None:
        kept &= per_cell < max_genes
    if max_counts is not None or max_mitochondrial is not None:
        if data.kind != "counts":
            text = "limits of molecules are for counts, and these are real values: leave them out"
            raise InputError(text, code="counts-only", parameter="max_counts")
        total = np.asarray(data.X.sum(axis=1), dtype=np.float64).ravel()
        kept &= total < (np.inf if max_counts is None else max_counts)
    if max_mitochondrial is not None:
        mitochondrial = np.flatnonzero(data.var_names.str.upper().str.startswith("MT-"))
        if not len(mitochondrial):
            text = "no gene has a name that begins with MT-: leave the limit of mitochondrial molecules out"
            raise InputError(text, code="no-mitochondrial-genes", parameter="max_mitochondrial")
        part = np.asarray(data.X[:, mitochondrial].sum(axis=1), dtype=np.float64).ravel()
        kept &= part < max_mitochondrial * total
    cells = np.flatnonzero(kept)
    data = data.subset(rows=cells)
    return data.subset(columns=np.flatnonzero(data.observed_counts()[1] >= min_cells)), cells


def obs_column(adata: AnnData, column: str, where: str = "") -> pd.Series:
    """A column of ``obs``; ``where`` begins the message if there is none."""
    if column not in adata.obs:
        columns = ", ".join(map(str, adata.obs.columns)) or "none"
        raise InputError(
            f"{where}obs has no column {column!r}: its columns are {columns}", code="no-obs-column", parameter="labels"
        )
    return adata.obs[column]
