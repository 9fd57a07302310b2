"""What the command line prints, and where: results to stdout, progress and warnings to stderr."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

EVERY = 10.0  # seconds between plain progress lines


def error_line(text: str) -> None:
    """One line on stderr."""
    typer.echo(f"error: {in_options(text)}", err=True)


def warning_line(text: str) -> None:
    """One line on stderr."""
    typer.echo(f"warning: {in_options(text)}", err=True)


def in_options(text: str) -> str:
    """A message of the library on one line, its keyword arguments written as options of the command line."""
    return re.sub(r"\b(layer|scale|method)='([^']*)'", r"--\1 \2", " ".join(text.split()))


def print_json(summary: dict[str, Any]) -> None:
    """A machine-readable summary on stdout."""
    typer.echo(json.dumps(_finite(json.loads(json.dumps(summary, default=_plain))), allow_nan=False))


def _finite(value: Any) -> Any:
    """NaN and infinity, which are no JSON, as null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A callable (share done, where it stands): a bar on a terminal, plain lines now and then elsewhere."""
    if quiet:
        yield lambda share, text: None
    elif sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(what, total=1.0, text="")
            yield lambda share, text: bars.update(task, completed=share, text=text)
    else:
        yield _plain_lines(what)


def _plain_lines(what: str) -> Callable[[float, str], None]:
    last = None

    def show(share: float, text: str) -> None:
        nonlocal last
        if last is None:  # said when the work begins, not before the input was looked at
            typer.echo(f"{what} ...", err=True)
            last = time.monotonic()
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            typer.echo(f"{what}: {share:.0%} {text}", err=True)

    return show
