"""``imputome remove``: take a layer and its provenance out again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", readable=False, help=".h5ad or .zarr that imputome wrote to.")
    ],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Name of the layer.")],
) -> None:
    """Remove an imputed layer with all that came with it; the file is replaced at once or not at all."""
    from imputome.io.store import remove_key

    remove_key(source, key)
    typer.echo(f"removed {key} from {source}")
