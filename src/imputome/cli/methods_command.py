"""``imputome methods``: the table of the registry, or the parameters of one method."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from imputome.cli import options as opt
from imputome.cli.console import print_json, print_line, warning_line
from imputome.cli.description import COST_SIZE, NEW_CELLS, POSTERIOR_STEP, describe, plain
from imputome.errors import InputError, MissingExtraError


def command(
    method: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Describe this method; NAME+posterior also says what that step does."),
    ] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="Explain the scores of `imputome evaluate`.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """List the methods: what each takes, costs and does with new cells; or describe one, with its parameters."""
    from imputome.methods import info, names

    if metrics:
        if method is not None:
            raise InputError(f"{method!r} is a method: leave it out to list metrics", code="option-unused")
        _print_metrics(as_json=as_json)
        return
    if method is not None:
        _print_method(method, as_json=as_json)
        return
    entries = []
    for name in names():
        try:
            entries.append((info(name), describe(name).cost_class))
        except InputError as error:  # of another package that is broken: the others can be listed
            warning_line(error.message)
    if as_json:
        print_json({"methods": [{**asdict(entry), "cost_class": cost} for entry, cost in entries]})
        return
    width = max(len(entry.name) for entry, _ in entries)
    for entry, cost in entries:
        kinds = "+".join(sorted(entry.kinds))
        print_line(f"{entry.name:<{width}}  {kinds:<11}  {cost or '-':<7}  {entry.new_rows:<10}  {_summary(entry)}")
    print_line()
    _print_wrapped(f"columns: name, data, cost, new cells, what it is. The cost is for {COST_SIZE}.")
    for name, text in NEW_CELLS.items():
        _print_wrapped(f"{name}: {text}", "  ")
    print_line("imputome methods NAME describes one: what it does, its parameters, where it is known to fail.")


def _summary(entry: Any) -> str:
    extra = "" if entry.extra is None else f" (needs imputome[{entry.extra}])"
    return f"{entry.summary}{' (control)' if entry.control else ''}{extra}"


def _print_method(name: str, *, as_json: bool) -> None:
    from imputome.methods import info

    base = name.removesuffix("+posterior")
    about, described = info(base), describe(base)
    step = next((parameter for parameter in described.parameters if parameter.name == "posterior"), None)
    if base != name and step is None:
        text = f"{base} has no posterior step, because its values are not rates of counts: imputome methods {base}"
        raise InputError(text, code="no-posterior")
    try:
        parameters, missing = _parameters(base), ""
    except MissingExtraError as error:  # what the docstring says of it is known nevertheless
        parameters = {each.name: {"type": each.type, "default": each.value} for each in described.parameters}
        missing = f"what imputome tune varies is not shown: {error.message}"
    if as_json:
        for each in described.parameters:
            parameters[each.name]["text"] = plain(each.text)
        parts = {each: plain(getattr(described, each)) for each in ("cost_class", "cost", "fails", "new_cells")}
        print_json({**asdict(about), "parameters": parameters, "does": [*map(plain, described.does)], **parts})
        return
    print_line(f"{about.name}: {_summary(about)}")
    print_line(f"takes {' and '.join(sorted(about.kinds))}" + (f"; {about.source}" if about.source else ""))
    for paragraph in described.does:
        print_line()
        _print_wrapped(plain(paragraph))
    print_line()
    print_line("parameters (--set name=value)" if parameters else "no parameters")
    for each in described.parameters:
        search = f"; tuning: {_search(parameters[each.name]['search'])}" if "search" in parameters[each.name] else ""
        print_line(f"  {each.name} : {parameters[each.name]['type']} = {each.value!r}{search}")
        _print_wrapped(plain(each.text), "      ")
    if missing:
        print_line(f"  {missing}")
    said = "this method says nothing of it"  # one of another package
    parts = {
        "cost": f"{described.cost_class} for {COST_SIZE}; {described.cost}" if described.cost_class else described.cost,
        "known to fail": described.fails,
        f"new cells ({about.new_rows})": described.new_cells,
    }
    if base != name and step is not None:
        parts["posterior step"] = POSTERIOR_STEP
        if step.value is True:
            parts["posterior step"] += f" In {base} it is on unless it is switched off (--no-posterior)."
    for title, text in parts.items():
        print_line()
        print_line(title)
        _print_wrapped(plain(text) or said, "  ")


def _print_metrics(*, as_json: bool) -> None:
    from imputome.evaluation.glossary import entries

    if as_json:
        print_json({"metrics": [asdict(entry) for entry in entries()]})
        return
    for entry in entries():
        print_line(f"{entry.name} ({entry.better}; {entry.range})")
        _print_wrapped(plain(entry.what), "  ")
        if entry.misleads:
            _print_wrapped(f"misleads: {plain(entry.misleads)}", "  ")


def _print_wrapped(text: str, indent: str = "") -> None:
    """Text in lines as wide as the terminal, 100 characters at most."""
    from shutil import get_terminal_size
    from textwrap import wrap

    width = max(40, min(100, get_terminal_size().columns))
    for line in wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False):
        print_line(line)


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
