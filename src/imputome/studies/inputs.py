"""What a study is run on: methods with their parameters, and datasets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data, Kind, as_data
from imputome.core.imputer import Imputer, check_parameters
from imputome.errors import InputError
from imputome.inspection.state import inspect
from imputome.methods import Method, controls, get, info, names
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS

if TYPE_CHECKING:
    from anndata import AnnData

Progress = Callable[[float, str], None]  # called with the share of work done (0 to 1) and a short text


@dataclass(frozen=True)
class MethodSpec:
    """A method with parameters.

    Parameters
    ----------
    method : str, class or estimator
        A registered name, a class derived from `Imputer`, or an instance. Of an instance the class is kept, and the
        parameters that differ from their defaults are added to ``params``; so each trial has its own seed unless the
        instance has a ``random_state`` other than the default. A registered class is replaced by its name.
    params : dict, optional
        Parameters by name; ``posterior`` is one of them.
    after : str, default=""
        Name of a method of the estimator, such as ``"prune"``, that is called with the training data after the fit.
        The numbers of the dataclass that it returns are recorded as ``<after>_<name>``.

    Attributes
    ----------
    name : str
        The registered name, or the name that the class has.
    label : str
        The name in tables of results.
    parameters : str
        The parameters as JSON, as they are in tables of results.

    Examples
    --------
    >>> from imputome.methods import get
    >>> from imputome.studies.inputs import MethodSpec
    >>> spec = MethodSpec(get("knn")(k=5))
    >>> spec.label, spec.parameters
    ('knn', '{"k": 5}')
    """

    method: Method
    params: dict[str, Any] = field(default_factory=dict)
    after: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.method, str):
            return
        cls = get(self.method)
        if isinstance(self.method, Imputer):
            defaults = cls.parameter_defaults()
            values = self.method.get_params()
            changed = {name: value for name, value in values.items() if _as_json(value) != _as_json(defaults[name])}
            object.__setattr__(self, "params", {**changed, **self.params})
        registered = cls.name in names() and get(cls.name) is cls
        object.__setattr__(self, "method", cls.name if registered else cls)

    @property
    def name(self) -> str:
        if isinstance(self.method, str):
            return self.method
        cls = get(self.method)
        # two methods of one name must not share rows of results
        return f"{cls.__module__}.{cls.__qualname__}" if cls.name in names() else cls.name

    @property
    def label(self) -> str:
        return f"{self.name}+posterior" if self.params.get("posterior") else self.name

    @property
    def parameters(self) -> str:
        return _as_json(self.params)

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of data that the method takes."""
        return frozenset({"counts"}) if self.method in REFERENCE_PREDICTIONS else info(self.method).kinds


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def parse_method(method: Method | MethodSpec) -> MethodSpec:
    """A method to run, with its parameters checked.

    Parameters
    ----------
    method : str, class, estimator or MethodSpec
        A text is ``"name"``, ``"name+posterior"`` or ``"name:key=value:key=value"``; values are read as JSON, and
        as text if they are not JSON.

    Raises
    ------
    InputError
        There is no such method or parameter, or a value has the wrong type.

    Examples
    --------
    >>> from imputome.studies.inputs import parse_method
    >>> parse_method("ialm:max_rank=5:zeros=preserve").params
    {'max_rank': 5, 'zeros': 'preserve'}
    """
    spec = _parse_text(method) if isinstance(method, str) else method
    spec = spec if isinstance(spec, MethodSpec) else MethodSpec(spec)
    if spec.method not in REFERENCE_PREDICTIONS:
        check_parameters(get(spec.method), spec.params)
    return spec


def _parse_text(text: str) -> MethodSpec:
    name, *settings = text.strip().split(":")
    params: dict[str, Any] = {}
    if name.endswith("+posterior"):
        name = name.removesuffix("+posterior")
        params["posterior"] = True
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(
                f"{setting!r} in the method {text!r} is not of the form key=value",
                code="method-setting",
                parameter="methods",
            )
        try:
            params[key] = json.loads(value)
        except json.JSONDecodeError:
            params[key] = value
    return MethodSpec(name, params)


def standard_controls(kind: Kind) -> tuple[str, ...]:
    """The controls of every study: those of `imputome.methods.controls`, and ``all_zeros`` for counts."""
    return (*(("all_zeros",) if kind == "counts" else ()), *controls(kind))


def with_controls(specs: Iterable[MethodSpec], kind: Kind) -> list[MethodSpec]:
    """The standard controls, then the methods; equal ones once.

    Raises
    ------
    InputError
        A method does not take this kind of data.
    """
    specs = list(specs)
    for spec in specs:
        if kind not in spec.kinds:
            raise InputError(
                f"{spec.name} does not take {kind} data: `imputome methods` lists the data that each method takes",
                code="method-kind",
                parameter="methods",
            )
    every = [*(MethodSpec(name) for name in standard_controls(kind)), *specs]
    return list({(spec.label, spec.parameters, spec.after): spec for spec in every}.values())


@dataclass(frozen=True)
class Dataset:
    """A dataset with a name, and what downstream analyses need.

    Attributes
    ----------
    name : str
        Name in tables of results; the seeds of the trials depend on it.
    data : Data
        The matrix.
    labels : (n,) array, optional
        Class of each row.
    clinical : dict of (n,) arrays, optional
        ``grade``, and ``time`` and ``event``, as numbers; NaN means not known.
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
    """A dataset from AnnData: raw counts or real values, filtered by cells and then by genes.

    Parameters
    ----------
    adata : AnnData
        Cells x genes.
    name : str
        Name in tables of results.
    labels : str, optional
        Column of ``obs`` with the class of each cell.
    layer : str, optional
        Layer to use instead of ``X``.
    min_genes : int, default=0
        Cells with fewer detected genes are left out.
    min_cells : int, default=0
        Genes detected in fewer of the remaining cells are left out.

    Raises
    ------
    InputError
        The column does not exist, or the values are neither raw counts nor real values.
    """
    if labels is not None and labels not in adata.obs:
        columns = ", ".join(map(str, adata.obs.columns)) or "none"
        raise InputError(
            f"obs has no column {labels!r}: its columns are {columns}", code="no-obs-column", parameter="labels"
        )
    report = inspect(adata, layer=layer)
    if report.errors:
        raise InputError(report.errors[0])
    if report.state in ("log1p", "normalized"):
        raise InputError(
            f"{report.where} looks {report.state}, and methods are compared on raw counts: pass {{layer}}",
            code="not-integers",
            layer=...,
        )
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
