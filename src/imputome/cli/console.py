"""What the command line prints: results on stdout, warnings and errors on stderr."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imputome.cli.options import flag
from imputome.core.interrupts import held, placed, written
from imputome.errors import Message, printable, some

if TYPE_CHECKING:
    from imputome.result.record import Race, Verdict

CONTROLS_WIN = 3  # exit code if nothing is worth imputing with
RACE_ROWS = 8  # candidates of a race that are printed


# -- lines -------------------------------------------------------------------------------------------------------------
def print_line(text: str = "", *, err: bool = False) -> None:
    """Print one line on stdout or stderr; no character in it, such as one of a file name, acts on the terminal.

    All that the program prints goes through here, or through `imputome.api.progress`.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        print(shown(text, stream), file=stream, flush=True)


def print_lines(text: str, *, err: bool = False) -> None:
    """Print text that has several lines."""
    for each in text.split("\n"):
        print_line(each, err=err)


def shown(text: str, stream: Any = None) -> str:
    """The text as the stream (by default stdout) can show it."""
    stream = sys.stdout if stream is None else stream
    try:
        "±".encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = text.replace("±", "+/-")
    return printable(text)


def begin() -> None:
    """Called before each command: nothing was written, and what a locale (C, Latin-1) cannot show is escaped."""
    vars(failure).update(vars(Failure()))
    placed.clear()
    with held():  # a stream whose change was interrupted takes no more text
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")


def error_line(text: str) -> None:
    """One line on stderr, with the code of the message at its end."""
    _coded_line("error", text)


def warning_line(text: str) -> None:
    """One line on stderr, with the code of the message at its end."""
    _coded_line("warning", text)


def spelled(text: str) -> str:
    """A sentence on one line, the parameters in it written as flags."""
    return " ".join((text.spelled(flag) if isinstance(text, Message) else text).split())


def _coded_line(kind: str, text: str) -> None:
    code = f" [{text.code}]" if isinstance(text, Message) and text.code else ""
    print_line(f"{kind}: {spelled(text)}{code}", err=True)


def print_sentences(lines: Iterable[str]) -> None:
    """Sentences on stdout, one a line."""
    for line in lines:
        print_line(spelled(line))


def print_json(summary: dict[str, Any]) -> None:
    """A machine-readable summary on stdout."""
    print_line(json_text(summary))


def json_text(summary: dict[str, Any]) -> str:
    """A summary in JSON; NaN and infinity, which JSON does not have, are null."""
    return json.dumps(_finite(json.loads(json.dumps(summary, default=_plain))), allow_nan=False)


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


@contextmanager
def warnings_as_lines(*, quiet: bool) -> Iterator[None]:
    """Print the warnings of the library, once the block is done, as lines on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught if not quiet else ():
        if warning.category is UserWarning:
            message = warning.message
            warning_line(message.args[0] if isinstance(message, Warning) and message.args else str(message))


# -- what happens if the command fails ---------------------------------------------------------------------------------
NOTHING_WRITTEN = Message("interrupted: nothing was written", code="interrupted")
PARTIAL_WORK = Message(
    "interrupted: what was done so far is kept, and the same command continues from there",
    code="interrupted-partly-done",
)


@dataclass
class Failure:
    """What is printed if the running command fails."""

    traceback: bool = False
    resumable: bool = False  # whether the same command continues what was done so far,
    until: Path | None = None  # until this output is written
    on_stdout: str = ""  # what of the output was written to stdout


failure = Failure()


def keeps_partial_work(*, until: Path | None = None) -> None:
    """Called by a command: an interruption keeps what was done so far, until the output ``until`` is written."""
    failure.resumable, failure.until = True, until


def tell_interruption() -> None:
    """Print what the interruption has left; there may be no terminal any more to print it on."""
    with suppress(OSError):
        error_line(interruption())


def interruption() -> Message:
    """What an interruption has left, as it is at this moment."""
    done = written()
    if failure.resumable and (failure.until is None or failure.until.resolve() not in done):
        return PARTIAL_WORK
    names = [failure.on_stdout] if failure.on_stdout else []
    names += map(str, done if failure.until is None else [failure.until])
    if names:
        return Message(f"interrupted: already written: {some(names)}", code="interrupted-after-writing")
    return NOTHING_WRITTEN


# -- race and verdict --------------------------------------------------------------------------------------------------
def print_check(race: Race | None, verdict: Verdict | None) -> None:
    """Print the race and the verdict, as far as there are any."""
    for text in [*(race_lines(race) if race else []), *(verdict_lines(verdict) if verdict else [])]:
        print_line(text)


def race_lines(race: Race) -> list[str]:
    """The race, the best candidate first."""
    table = race.candidates
    lines = [f"race on {race.cells:,} x {race.genes:,} values, {race.metric}, lower is better:"]
    for row in table.head(RACE_ROWS).to_dict("records"):
        score = f"{row['score']:.5f}" if row["splits"] else "-"
        mark = " (control)" if row["control"] else ""
        lines.append(f"  {score:>9}  {row['name']}{mark}: {row['outcome']}")
    if len(table) > RACE_ROWS:
        lines.append(f"  and {len(table) - RACE_ROWS} more")
    if race.instead:
        lines.append(race.instead)
    return lines


def verdict_lines(verdict: Verdict) -> list[str]:
    """The verdict: what the result is good for, what was measured and whether it is enough, and the reasons."""
    from imputome.trust.verdict import about_zeros, in_words, measurements

    rows = "cells" if verdict.kind == "counts" else "samples"
    first = f"verdict on {verdict.method}: {verdict.verdict.upper()}"
    size = f"({verdict.cells:,} {rows}, {verdict.fits} fits, {verdict.seconds:.0f} s, rule {verdict.rule})"
    lines = [f"{first} {size}", f"  {in_words(verdict)}", "measured:"]
    lines += [f"  {'met    ' if met else 'NOT MET'}  {text}" for met, text in measurements(verdict)]
    zeros = about_zeros(verdict)
    lines += [f"  note     {zeros}"] if zeros else []
    return [*lines, "in detail:", *(f"  - {reason}" for reason in verdict.reasons)]
