"""Methods by name: `names`, `get`, `create`, `info`, `load`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from imputome.errors import InputError, ModelFormatError, missing_extra
from imputome.methods.base import Imputer, Kind, MethodInfo
from imputome.methods.registry import METHODS

__all__ = ["DEFAULT", "create", "get", "info", "load", "names"]

# the method for those who name none, by kind of data, and one for counts that needs no extra
DEFAULT: dict[Kind, str] = {"counts": "count_autoencoder", "real": "gaussian_copula"}
WITHOUT_EXTRAS = "gene_mean_posterior"


def names() -> tuple[str, ...]:
    """Registered names, in the order of the registry."""
    return tuple(name for name, _, _ in METHODS)


def info(name: str) -> MethodInfo:
    """What a method is, without importing it."""
    return _entry(name)[1]


def get(name: str) -> type[Imputer]:
    """The class of a method.

    Raises
    ------
    InputError
        The name is not registered; the message lists those that are.
    MissingExtraError
        The method needs an optional dependency; the message holds the ``pip install``.
    """
    where, method = _entry(name)
    module, _, cls = where.partition(":")
    try:
        return getattr(import_module(module), cls)
    except ModuleNotFoundError as error:
        if method.extra is None or (error.name or "").startswith("imputome"):
            raise
        raise missing_extra(f"method {name!r}", str(error.name), method.extra) from error


def create(name: str, params: Mapping[str, Any] | None = None, *, random_state: int = 0) -> Imputer:
    """An unfitted estimator; the seed is for those that draw, unless ``params`` has one.

    Raises
    ------
    InputError, MissingExtraError
        As `get`.
    """
    cls = get(name)
    seeded = {"random_state": random_state} if "random_state" in cls.parameter_defaults() else {}
    return cls(**{**seeded, **(params or {})})


def load(path: str | Path) -> Imputer:
    """A fitted estimator from a directory written by `Imputer.save`, of whichever method it is."""
    from imputome.io.models import read_header

    name = read_header(Path(path))["method"]
    if name not in names():
        raise ModelFormatError(f"{path} holds a model of method {name!r}, which this version does not have")
    return get(name).load(path)


def _entry(name: str) -> tuple[str, MethodInfo]:
    for known, where, method in METHODS:
        if known == name:
            return where, method
    raise InputError(f"there is no method {name!r}: choose one of {', '.join(names())}")
