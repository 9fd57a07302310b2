"""``imputome methods``: the table of the registry."""

from __future__ import annotations

from dataclasses import asdict

import typer

from imputome.cli import options as opt
from imputome.cli.console import print_json, warning_line
from imputome.errors import InputError


def command(as_json: opt.AsJson = False) -> None:
    """List the methods: what each takes, and what it does."""
    from imputome.methods import info, names

    entries = []
    for name in names():
        try:
            entries.append(info(name))
        except InputError as error:  # of another package that is broken: the others can be listed
            warning_line(error.message)
    if as_json:
        print_json({"methods": [asdict(method) for method in entries]})
        return
    width = max(len(method.name) for method in entries)
    for method in entries:
        kinds = "+".join(sorted(method.kinds))
        marks = " (control)" if method.control else ""
        typer.echo(f"{method.name:<{width}}  {kinds:<11}  {method.summary}{marks}")
