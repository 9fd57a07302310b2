"""``imputome datasets``: known real data, where each is found here, and files made from downloaded originals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imputome.cli import options as opt
from imputome.cli.console import print_json, print_line, warnings_as_lines
from imputome.errors import Message

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def list_datasets(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Tell whether the files here have the values of our results (seconds).")
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """List the known datasets, whether each is on this machine, where its original is, and how to convert it.

    `imputome datasets convert` makes the file of a dataset from what you have downloaded.
    """
    if context.invoked_subcommand is not None:
        if check or as_json:
            raise typer.BadParameter(f"options of {context.invoked_subcommand} come after its name")
        return
    from imputome import datasets

    entries = datasets.available()
    told = {entry.name: datasets.check(entry) for entry, path in entries if path is not None} if check else {}
    if as_json:
        print_json(
            {
                "datasets": [
                    {
                        **vars(entry),
                        "path": path and str(path),
                        **({"values": _code(told.get(entry.name))} if check else {}),
                    }
                    for entry, path in entries
                ]
            }
        )
        return
    width = max(len(entry.name) for entry, _ in entries)
    for entry, path in entries:
        print_line(f"{entry.name:<{width}}  {entry.shape:>16}  {'here' if path else 'not here':<8}  {entry.what}")
        if entry.name in told:
            print_line(f"    {told[entry.name].removeprefix(f'{entry.name}: ')}")
        print_line(f"    from {entry.source}")
        if entry.original:
            print_line(f"    {entry.original}")
        for line in entry.in_r:
            print_line(f"    in R: {line}")
        if entry.files:
            print_line(f"    imputome datasets convert {entry.name} {entry.files}")
    print_line("pbmc68k comes with the package; the others are read from IMPUTOME_DATA or the cache folder.", err=True)


def convert_files(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `imputome datasets`.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The downloaded originals.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the file (default: that of the user's cache).")
    ] = None,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Make the file of a dataset from its downloaded originals, and check it against that of our results."""
    from imputome import datasets
    from imputome.io.conversion import convert

    with warnings_as_lines(quiet=quiet):
        made = convert(name, files, output, overwrite=force)
    if as_json:
        summary = {"path": str(made.path), "shape": list(made.shape), "values": made.compared.code}
        print_json({"dataset": datasets.info(name).name, **summary, "lacking": list(made.lacking)})
        return
    if quiet:
        return
    if made.same:
        print_line(made.compared)
    print_line(f"wrote {made.path} ({made.shape[0]} x {made.shape[1]})")
    if not datasets.is_found(made.path):
        print_line(f"set IMPUTOME_DATA to {made.path.parent.absolute()}, so that it is found there", err=True)


def _code(message: Message | None) -> str | None:
    return None if message is None else message.code
