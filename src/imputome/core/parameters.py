"""The parameters of a method, of another class or of a function: their names, defaults and types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, get_type_hints

import numpy as np

from imputome.errors import InputError

LARGEST_SEED = 2**32 - 1
LARGEST_INTEGER = 2**63 - 1  # for compiled code


def check_parameters(method: Callable[..., Any], params: dict[str, Any]) -> None:
    """Check names and types of the parameters of a method, another class, or a function, before any computation.

    Types are those of the annotations, without conversion: a bool is not an integer, an integer is a
    float, NaN and infinity are refused, and a list is a tuple, as JSON has lists only. A parameter without a type, or
    with one that cannot be resolved, takes any value.
    """
    check_names(method, params)
    label = getattr(method, "name", method.__name__)
    for name, value in params.items():
        value = value.item() if isinstance(value, np.generic) else value
        adapter = _adapters(method).get(name)
        problem = None if adapter is None else _type_problem(adapter, value)
        if problem is None and name == "random_state" and isinstance(value, int) and not 0 <= value <= LARGEST_SEED:
            problem = f"from 0 to {LARGEST_SEED}"
        if problem is None and isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            problem = "an integer of at most 63 bits"
        if problem is not None:
            text = f"{label}: {name}={value!r} is not valid, it must be {problem}"
            raise InputError(text, code="parameter-value", parameter=name)


def check_names(method: Callable[..., Any], params: Iterable[str]) -> None:
    """Refuse names that are not parameters of the constructor of ``method``."""
    known = parameter_defaults(method)
    for name in params:
        if name not in known:
            text = f"{getattr(method, 'name', method.__name__)} has no parameter {name!r}: it has"
            raise InputError(f"{text} {', '.join(known) or 'no parameters'}", code="unknown-parameter", parameter=name)


def parameter_defaults(method: Callable[..., Any]) -> dict[str, Any]:
    """Parameters and defaults of a class, or those of a function that have a default."""
    parameters = [p for p in inspect.signature(method).parameters.values() if "VAR_" not in p.kind.name]
    return {p.name: p.default for p in parameters if isinstance(method, type) or p.default is not p.empty}


@cache
def _adapters(method: Callable[..., Any]) -> dict[str, Any]:
    """For each parameter with a type, the pydantic `TypeAdapter` of that type."""
    from pydantic import ConfigDict, TypeAdapter

    try:
        hints = get_type_hints(method.__init__ if isinstance(method, type) else method)  # type: ignore[misc]
    except NameError:  # a class outside this package can import its types for type checking only
        return {}
    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return {name: TypeAdapter(hints[name], config=config) for name in parameter_defaults(method) if name in hints}


def _type_problem(adapter: Any, value: Any) -> str | None:
    """What a value of this type must be, or None if ``value`` is one."""
    from pydantic import ValidationError

    try:
        # JSON has no tuples, so a saved model gives lists
        adapter.validate_python(tuple(value) if isinstance(value, list) else value)
    except ValidationError as error:
        allowed = []
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            text = (
                fault["msg"]
                .removeprefix("Input should be ")
                .replace("a valid integer", "an integer")
                .replace("a valid ", "a ")
            )
            in_tuple = bool(fault["loc"]) and isinstance(fault["loc"][-1], int)
            allowed.append(f"several values, each {text}" if in_tuple else text)
        if value is not None and _type_problem(adapter, None) is None:
            allowed.append("None")
        return " or ".join(dict.fromkeys(allowed))
    return None
