"""Checking parameters that users give by name, against the annotations of a method's constructor."""

from __future__ import annotations

import math
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from imputome.errors import InputError
from imputome.methods.base import Imputer

LARGEST_SEED = 2**32 - 1


def check_parameters(method: type[Imputer], given: dict[str, Any]) -> None:
    """Refuse unknown names and values of the wrong type, before any work.

    Raises
    ------
    InputError
        Naming the parameter, what was given, and what it takes.
    """
    known = method.parameter_defaults()
    hints = get_type_hints(method.__init__)
    for name, value in given.items():
        value = value.item() if isinstance(value, np.generic) else value
        if name not in known:
            there = ", ".join(known) or "none"
            raise InputError(f"{method.name} has no parameter {name!r}; its parameters: {there}")
        if not _fits(value, hints[name]):
            raise InputError(f"{method.name}: {name}={value!r} is not {_words(hints[name])}")
        if name == "random_state" and not 0 <= value <= LARGEST_SEED:
            raise InputError(f"{method.name}: random_state={value} must lie in 0 to {LARGEST_SEED}")


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return any(value == allowed and type(value) is type(allowed) for allowed in get_args(hint))
    if get_origin(hint) is tuple:  # of any length; a saved model gives back a list
        return isinstance(value, tuple | list) and all(_fits(part, get_args(hint)[0]) for part in value)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(repr(allowed) for allowed in get_args(hint))
    if get_origin(hint) is tuple:
        return f"several, each {_words(get_args(hint)[0])}"
    plain = {float: "a finite number", int: "an integer", bool: "True or False", type(None): "None"}
    return plain.get(hint, getattr(hint, "__name__", str(hint)))
