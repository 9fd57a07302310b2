"""``imputome remove``: remove a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imputome.cli.console import print_line


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", readable=False, help=".h5ad or .zarr that imputome wrote to.")
    ],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Name of the result.")],
) -> None:
    """Remove an imputed layer with all that belongs to it; the file is replaced at once or not at all."""
    from imputome.io.store import remove_key

    remove_key(source, key)
    print_line(f"removed {key} from {source}")
