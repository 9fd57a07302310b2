"""``imputome methods``: the table of the registry, or the parameters of one method."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from imputome.cli import options as opt
from imputome.cli.console import print_json, print_line, warning_line
from imputome.errors import InputError


def command(
    method: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print the parameters of this method instead.")
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """List the methods: what each takes, and what it does; or the parameters of one, for --set."""
    from imputome.methods import info, names

    if method is not None:
        _print_method(method, as_json=as_json)
        return
    entries = []
    for name in names():
        try:
            entries.append(info(name))
        except InputError as error:  # of another package that is broken: the others can be listed
            warning_line(error.message)
    if as_json:
        print_json({"methods": [asdict(entry) for entry in entries]})
        return
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        print_line(f"{entry.name:<{width}}  {'+'.join(sorted(entry.kinds)):<11}  {_summary(entry)}")


def _summary(entry: Any) -> str:
    extra = "" if entry.extra is None else f" (needs imputome[{entry.extra}])"
    return f"{entry.summary}{' (control)' if entry.control else ''}{extra}"


def _print_method(name: str, *, as_json: bool) -> None:
    from imputome.methods import info

    about, parameters = info(name), _parameters(name)
    if as_json:
        print_json({**asdict(about), "parameters": parameters})
        return
    print_line(f"{about.name}: {_summary(about)}")
    print_line(f"takes {' and '.join(sorted(about.kinds))}" + (f"; {about.source}" if about.source else ""))
    for name, entry in parameters.items():
        search = f"; tuning: {_search(entry['search'])}" if "search" in entry else ""
        print_line(f"  {name} : {entry['type']} = {entry['default']!r}{search}")
    if not parameters:
        print_line("  no parameters")


def _parameters(name: str) -> dict[str, dict[str, Any]]:
    """Type and default of each parameter, and what `imputome tune` varies it over."""
    from inspect import signature
    from typing import get_type_hints

    from imputome.methods import get

    cls = get(name)
    try:
        types: dict[str, Any] = get_type_hints(cls.__init__)
    except NameError:  # a class outside this package can import its types for type checking only
        types = {each.name: each.annotation for each in signature(cls).parameters.values()}
    entries: dict[str, dict[str, Any]] = {}
    for parameter, default in cls.parameter_defaults().items():
        kind = types.get(parameter, Any)
        entries[parameter] = {"type": _spelled(kind), "default": default}
        if parameter in cls.search_space:
            entries[parameter]["search"] = cls.search_space[parameter]
    return entries


def _spelled(kind: Any) -> str:
    """A type as it is written in Python."""
    from inspect import formatannotation
    from types import UnionType
    from typing import Union, get_args, get_origin

    if get_origin(kind) in (Union, UnionType):
        return " | ".join(map(_spelled, get_args(kind)))
    text = kind if isinstance(kind, str) else formatannotation(kind).replace("typing.", "")
    return "None" if text == "NoneType" else text


def _search(space: tuple[Any, ...]) -> str:
    if len(space) == 3 and space[2] in ("linear", "log"):
        return f"{space[0]} to {space[1]}{' (log)' if space[2] == 'log' else ''}"
    return ", ".join(map(str, space))
