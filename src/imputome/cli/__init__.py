"""The command line: parse, call, exit code; no science. One small file a command."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Annotated, Any

import typer

from imputome.cli import (
    apply_command,
    datasets_command,
    demo_command,
    evaluate_command,
    fit_command,
    impute_command,
    inspect_command,
    mask_command,
    methods_command,
    methylation_command,
    remove_command,
    report_command,
    study_command,
    tune_command,
)
from imputome.cli.console import error_line
from imputome.errors import ControlsWinError, ImputomeError

# newer versions of typer bring a copy of click, older ones use click itself: the class is the same by this path
UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

INTERRUPTED = 130
CONTROLS_WIN = 3

app = typer.Typer(
    name="imputome",
    help="Recover values missing from expression and methylation matrices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("impute")(impute_command.command)
app.command("fit")(fit_command.command)
app.command("apply")(apply_command.command)
app.command("tune")(tune_command.command)
app.command("inspect")(inspect_command.command)
app.command("evaluate")(evaluate_command.command)
app.command("study")(study_command.command)
app.command("mask")(mask_command.command)
app.command("methylation")(methylation_command.command)
app.command("methods")(methods_command.command)
app.command("datasets")(datasets_command.command)
app.command("demo")(demo_command.command)
app.command("report")(report_command.command)
app.command("remove")(remove_command.command)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"imputome {version('imputome')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 bad input, 2 usage, 3 nothing beats the controls, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    # idle BLAS and OpenMP threads should sleep, not spin: beside any other busy process spinning costs many times the
    # work itself; both are read when those libraries load, which is later than this
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # some microseconds: sleeping at once costs torch a third
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")
    # numba takes every core whatever OpenMP was told, and torch then takes as many; it refuses another number later
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if threads.isdecimal() and int(threads) > 0 and "numba" not in sys.modules:
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    previous = signal.signal(signal.SIGTERM, _terminated)  # so that half-written files are removed
    try:
        code = app(arguments, prog_name="imputome", standalone_mode=False)
        if code == INTERRUPTED:  # newer versions of typer return it, older ones raise
            error_line(_interrupted(arguments))
        return code if isinstance(code, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        error_line(_interrupted(arguments))
        return INTERRUPTED
    except UsageError as error:
        error.show()
        return error.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        expected = isinstance(error, ImputomeError)
        text = str(error) if expected else _unexpected(error)
        error_line(text)
        return CONTROLS_WIN if isinstance(error, ControlsWinError) else 1
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupted(arguments: list[str]) -> str:
    """What is left behind: some commands keep what they have done so far."""
    command = arguments[0] if arguments else ""
    wrote = any(argument.startswith(("-o", "--output")) for argument in arguments)
    checkpoints = any(argument.startswith("--checkpoint") for argument in arguments)
    if command == "tune" or checkpoints or (command in ("evaluate", "study") and wrote):
        return "interrupted; what was done so far is kept, and the same command goes on from there"
    return "interrupted; nothing was written"


def _unexpected(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "the machine's memory is full: write fewer genes with --genes, or set a smaller max_rank"
    if isinstance(error, OSError):
        return str(error)
    return f"{type(error).__name__}: {error} (unexpected: --debug shows where)"


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
