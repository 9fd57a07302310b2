"""``imputome datasets``: known real data, and where each is found here."""

from __future__ import annotations

from imputome.cli import options as opt
from imputome.cli.console import print_json, print_line


def command(as_json: opt.AsJson = False) -> None:
    """List the known datasets and whether each is on this machine."""
    from imputome.datasets import available

    entries = available()
    if as_json:
        print_json({"datasets": [{**vars(entry), "path": path and str(path)} for entry, path in entries]})
        return
    width = max(len(entry.name) for entry, _ in entries)
    for entry, path in entries:
        print_line(f"{entry.name:<{width}}  {entry.shape:>16}  {'here' if path else 'not here':<8}  {entry.what}")
    print_line("pbmc68k comes with the package; the others are read from IMPUTOME_DATA or the cache folder.", err=True)
