"""Messages of the library and the command line: each parameter that is named has a flag, and only here are flags."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

import imputome
from extras import installed_methods
from imputome import errors, methods
from imputome.cli import app
from imputome.cli.options import FLAGS, OPPOSITES
from imputome.evaluation.splits import SCHEMES, scheme_options

SOURCE = Path(imputome.__file__).parent
MESSAGES = {name for name in vars(errors) if name.endswith("Error")} | {"Message"}
# parameters of functions that no command calls with a value of the user's
LIBRARY_ONLY = {
    *("before", "confidence", "count_splitting", "de_share", "embedding", "fold_change", "groups", "held_out", "keep"),
    *("n_clusters", "n_splits", "prediction", "test", "tested", "values"),
}


def modules():
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE), ast.parse(path.read_text(encoding="utf-8"))


def test_every_parameter_that_a_message_advises_has_a_flag():
    pytest.importorskip("torch")  # for the parameters of the deep methods
    settable = {name for method in installed_methods() for name in methods.get(method).parameter_defaults()}
    settable |= {name for scheme in SCHEMES for name in scheme_options(scheme)}
    unknown = [
        f"{path}:{node.lineno} {keyword.arg}"
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MESSAGES
        for keyword in node.keywords
        if keyword.arg not in {None, "code", "parameter", "record", *FLAGS, *settable, *LIBRARY_ONLY}
    ]
    assert unknown == []


def test_every_flag_is_an_option_of_some_command():
    commands = typer.main.get_command(app).commands.values()
    options = {
        option for command in commands for entry in command.params for option in entry.opts + entry.secondary_opts
    }
    assert {*FLAGS.values(), *OPPOSITES.values()} <= options


def test_no_text_outside_the_command_line_names_a_flag():
    named = []
    for path, tree in modules():
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        for node in texts:  # var(--name) is a variable of CSS
            if (
                path.parts[0] != "cli"
                and node not in docstrings
                and re.search(r"(?<![\w-])(?<!var\()--[a-z]", node.value)
            ):
                named.append(f"{path}:{node.lineno} {node.value.strip()[:60]!r}")
    assert named == []
