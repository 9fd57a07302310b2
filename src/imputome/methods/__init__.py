"""Methods by name: `names`, `get`, `create`, `info`, `load`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import imputome.methods.controls  # noqa: F401  (first, or its import would later hide the function of this name)
from imputome.core.data import Kind
from imputome.core.imputer import Imputer
from imputome.core.info import MethodInfo
from imputome.errors import InputError, ModelFormatError, missing_extra
from imputome.methods.registry import METHODS

__all__ = ["DEFAULT", "REFERENCE", "Method", "controls", "create", "get", "info", "load", "names"]

Method = str | type[Imputer] | Imputer  # a registered name, a class, or an unfitted estimator

# the method where the user names none, by kind of data, and one for counts that needs no extra
DEFAULT: dict[Kind, str] = {"counts": "count_autoencoder", "real": "gaussian_copula"}
WITHOUT_EXTRAS = "gene_mean_posterior"
# the control that single genes are measured against
REFERENCE: dict[Kind, str] = {"counts": "gene_mean_posterior", "real": "mean"}
GROUP = "imputome.methods"  # entry points of installed packages that bring methods


def names() -> tuple[str, ...]:
    """Names of all methods: those of this package, in the order of the registry, then those of installed packages.

    Examples
    --------
    >>> import imputome
    >>> "ialm" in imputome.methods.names()
    True
    """
    return (*METHODS, *_installed())


def info(method: Method) -> MethodInfo:
    """What a method is; for a method of this package without importing its code.

    Parameters
    ----------
    method : str, class or estimator
        A registered name, a class derived from `Imputer`, or an instance of one.

    Examples
    --------
    >>> import imputome
    >>> imputome.methods.info("ialm").new_rows
    'projection'
    """
    if isinstance(method, str) and method in METHODS:
        found = _imported(METHODS[method][0])
        assert isinstance(found, MethodInfo)  # noqa: S101  (the registry is ours)
        return found
    return get(method).info


def get(method: Method) -> type[Imputer]:
    """The class of a method.

    Parameters
    ----------
    method : str, class or estimator
        A registered name, a class derived from `Imputer`, or an instance of one.

    Raises
    ------
    InputError
        The name is not registered (the message lists those that are), or the class is no `Imputer`, or has no ``info``.
    MissingExtraError
        The method needs an optional dependency; the message holds the ``pip install``.

    Examples
    --------
    >>> import imputome
    >>> imputome.methods.get("knn").__name__
    'KNN'
    """
    if not isinstance(method, str):
        return _checked(method if isinstance(method, type) else type(method), repr(method))
    if method in METHODS:
        about, where = METHODS[method]
        try:
            return _imported(where)
        except ModuleNotFoundError as error:
            extra = _imported(about).extra
            if extra is None or (error.name or "").startswith("imputome"):
                raise
            raise missing_extra(f"method {method!r}", str(error.name), extra) from error
    if method in _installed():
        point = _installed()[method]
        try:
            cls = point.load()
        except (ImportError, AttributeError) as error:
            package = point.dist.name if point.dist is not None else point.value
            raise InputError(f"the method {method!r} of the package {package} cannot be imported: {error}") from error
        return _checked(cls, f"{point.value} (method {method!r})")
    raise InputError(f"there is no method {method!r}: choose one of {', '.join(names())}")


def create(method: Method, params: Mapping[str, Any] | None = None, *, random_state: int = 0) -> Imputer:
    """An unfitted estimator.

    Parameters
    ----------
    method : str, class or estimator
        As for `get`. Of an estimator an unfitted copy is returned, with ``params`` changed.
    params : mapping, optional
        Parameters of the method, by name.
    random_state : int, default=0
        Seed of methods that draw random numbers, unless ``params`` or the estimator has one.

    Raises
    ------
    InputError, MissingExtraError
        As `get`.

    Examples
    --------
    >>> import imputome
    >>> imputome.methods.create("knn", {"k": 5}).k
    5
    """
    if isinstance(method, Imputer):
        get(method)
        return method.clone(**(params or {}))
    cls = get(method)
    seeded = {"random_state": random_state} if "random_state" in cls.parameter_defaults() else {}
    return cls(**{**seeded, **(params or {})})


def load(path: str | Path) -> Imputer:
    """A fitted estimator from a directory written by `Imputer.save`, of whichever registered method it is.

    Raises
    ------
    ModelFormatError
        The directory holds no model, or one of a method that is not registered here.
    """
    from imputome.core.saved import read_header

    name = read_header(Path(path))["method"]
    if name not in names():
        raise ModelFormatError(
            f"{path} holds a model of method {name!r}, which is not installed here: install the "
            "package that brings it, or call load of its class"
        )
    return get(name).load(path)


def controls(kind: Kind) -> tuple[str, ...]:
    """The controls for a kind of data: what a method must beat before its values are worth having.

    They are the methods whose `MethodInfo` says ``control``. Every comparison (study, race, check) has all.

    Examples
    --------
    >>> import imputome
    >>> imputome.methods.controls("real")
    ('random', 'mean', 'median')
    """
    return tuple(name for name in METHODS if info(name).control and kind in info(name).kinds)


@cache
def _installed() -> dict[str, EntryPoint]:
    """Methods of other installed packages, by name; a name of this package cannot be taken over."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in METHODS}


def _imported(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(f"imputome.methods.{module}"), name)


def _checked(cls: Any, given: str) -> type[Imputer]:
    if not (isinstance(cls, type) and issubclass(cls, Imputer)):
        raise InputError(
            f"{given} is no method: pass a name of imputome.methods.names(), or a class derived from "
            "imputome.core.imputer.Imputer"
        )
    if not isinstance(getattr(cls, "info", None), MethodInfo):
        raise InputError(f"the class {cls.__name__} has no info: give it a class attribute info = MethodInfo(...)")
    return cls
