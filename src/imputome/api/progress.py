"""How far a computation has come, on stderr: a moving line on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0  # if the output is not a terminal


@contextmanager
def progress(what: str, *, quiet: bool = False, counted: bool = True) -> Iterator[Callable[[float, str], None]]:
    """Yield a callable (share done, short text), which shows both, and the time since the start.

    With ``counted`` the share is one of a known amount of work, and is shown. Without, it says little (a fit stops when
    it no longer improves, and nobody knows when), and only the text and the time are shown.
    """
    if quiet:
        yield lambda share, text: None
    elif is_live():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        share_done = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
        columns = (
            TextColumn("{task.description}", markup=False),
            *(share_done if counted else (SpinnerColumn(),)),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(what, total=1.0 if counted else None, text="")
            yield lambda share, text: bars.update(task, completed=share if counted else None, text=text)
    else:
        yield _plain_lines(what, counted)


def is_live() -> bool:
    """Whether stderr is a terminal or a notebook, on which a line can be replaced."""
    if sys.stderr is None:
        return False
    if sys.stderr.isatty():
        return True
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def _plain_lines(what: str, counted: bool) -> Callable[[float, str], None]:
    begun = last = None

    def show(share: float, text: str) -> None:
        nonlocal begun, last
        now = time.monotonic()
        if begun is None or last is None:  # printed when the work begins, not while the input is still being looked at
            _print(f"{what} ...")
            begun = last = now
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            _print(f"{what}: {share:.0%} {text}" if counted else f"{what}: {text}, {now - begun:.0f} s")

    return show


def _print(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)
