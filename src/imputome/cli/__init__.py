"""The command line: parse, call, exit code; no science. One small file a command."""

from __future__ import annotations

import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer

from imputome.caches import use_writable_caches
from imputome.cli import datasets_command, study_command
from imputome.cli.console import CONTROLS_WIN, begin, error_line, failure, print_line, print_lines, tell_interruption
from imputome.core import interrupts
from imputome.errors import ControlsWinError, ImputomeError, InputError, Message

# newer versions of typer bring a copy of click, older ones use click itself: the class is the same by this path
UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

COMMANDS = (
    *("impute", "fit", "apply", "tune", "inspect", "evaluate"),
    *("mask", "score", "methylation", "methods", "demo", "report", "remove"),
)
INTERRUPTED = 130

app = typer.Typer(
    name="imputome",
    help="Recover values missing from expression and methylation matrices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _set_debug(value: bool) -> None:
    failure.traceback = failure.traceback or value


Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]


def _with_debug(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the option ``--debug``."""
    signature = inspect.signature(function, eval_str=True)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    parameters = [*(entry.replace(kind=debug.kind) for entry in signature.parameters.values()), debug]

    def command(*, debug: bool, **given: Any) -> Any:
        return function(**given)

    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    command.__doc__ = function.__doc__
    return command


for name in COMMANDS:
    app.command(name)(_with_debug(import_module(f"imputome.cli.{name}_command").command))
for name, of_study in study_command.COMMANDS.items():
    study_command.app.command(name)(_with_debug(of_study))
app.add_typer(study_command.app, name="study")
datasets_command.app.callback(invoke_without_command=True)(_with_debug(datasets_command.list_datasets))
datasets_command.app.command("convert")(_with_debug(datasets_command.convert_files))
app.add_typer(datasets_command.app, name="datasets")


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print_line(f"imputome {version('imputome')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Debug = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 bad input, 2 usage, 3 no method beats the controls, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    # idle BLAS and OpenMP threads should sleep, not spin: beside another busy process, spinning costs many times the
    # work itself; both are read when those libraries load, which is later than this
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # some microseconds: sleeping at once costs torch a third
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")
    # numba uses every core, also if OpenMP is limited, and torch then uses as many; its number cannot be changed later
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if threads.isdecimal() and int(threads) > 0 and "numba" not in sys.modules:
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    use_writable_caches()
    begin()
    with interrupts.watched() as watch:
        try:
            code = _outcome(arguments, watch)
            watch.raising = False
        except (typer.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        if watch.number or code == INTERRUPTED:
            tell_interruption()
            watch.told = True
            code = watch.code if watch.number else INTERRUPTED
    return code


def _outcome(arguments: list[str], watch: interrupts.Watch) -> int:
    """Run a command, and print the error that it ends with; return the exit code."""
    try:
        _check_text(arguments)
        code = app(arguments, prog_name="imputome", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UsageError as error:
        text = io.StringIO()
        error.show(file=text)
        print_lines(text.getvalue().rstrip("\n"), err=True)
        return error.exit_code
    except Exception as error:
        if watch.number:  # a library made another error of the interruption
            raise KeyboardInterrupt from error
        if failure.traceback:
            print_lines(traceback.format_exc().rstrip("\n"), err=True)
        error_line(error.message if isinstance(error, ImputomeError) else _unexpected(error))
        return CONTROLS_WIN if isinstance(error, ControlsWinError) else 1


def _check_text(arguments: list[str]) -> None:
    """Refuse names that no record, table or page could hold; Linux takes any bytes for the name of a file."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            text = f"{argument} is not text in UTF-8: rename the file, or pass a link to it"
            with suppress(UnicodeDecodeError):
                name = os.fsencode(argument).decode()
                text = f"the locale has no signs for {name}: set LC_ALL=C.UTF-8"
            raise InputError(text, code="not-utf8") from error


def _unexpected(error: Exception) -> Message:
    if isinstance(error, MemoryError):
        text = "the machine's memory is full: give an input of fewer cells or genes, or choose a simpler method"
        return Message(text, code="out-of-memory")
    if isinstance(error, OSError):
        return Message(str(error), code="system")
    return Message(f"{type(error).__name__}: {error} (not expected; --debug shows where)", code="unexpected")
