"""The shape of the house: who may import whom, how long a module may be, what a light start must not load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import imputome
from imputome import methods
from imputome.errors import MissingExtraError
from imputome.methods.registry import METHODS

PACKAGE = Path(imputome.__file__).parent
FILES = {path.relative_to(PACKAGE.parent): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): full for path, full in FILES.items()}

# a module may import its own room and those to its left
ORDER = ("errors", "io", "preprocessing", "methods", "evaluation", "studies", "report", "facade", "cli")
ROOMS = {
    **{room: rank for rank, room in enumerate(ORDER)},
    **dict.fromkeys(
        ("automatic", "checking", "datasets", "differential", "intake", "layers", "matching", "fitted"),
        ORDER.index("facade"),
    ),
}
ROOMS["__main__"] = ORDER.index("cli")

# what the folder (or module) of one method may import besides itself
FOR_METHODS = (
    "errors",
    "io.models",
    "preprocessing",
    "methods.base",
    "methods.deep",
    "methods.factors",
    "methods.nmf",
    "methods.posterior",
)
# types that any room may name in annotations (under TYPE_CHECKING), beside those of methods.base
TYPES = ("imputome.preprocessing.counts.Scale",)
# the parts of the room `methods` that are no method
FOUNDATION = ("base", "data", "imputation", "registry", "factors", "nmf", "posterior")

HEAVY = ("torch", "lightning", "scanpy", "anndata", "sklearn", "numba")


def imports(module: str, source: str) -> Iterator[tuple[str, bool]]:
    """Every import of ``source`` as (absolute dotted name, only for type checking), those in functions included.

    ``from a import b`` gives ``a.b``: whether b is a module or a name in a is for the reader to say.
    """
    package = module if MODULES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, typing_only: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, typing_only
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", typing_only
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value), typing_only
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, True)
            for child in node.orelse:
                yield from visit(child, typing_only)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, typing_only)

    yield from visit(ast.parse(source), False)


def own(name: str) -> str | None:
    """``imputome.a.b.name`` as ``a.b`` or ``a.b.name``, whichever is a module; None for a foreign package."""
    if name.split(".")[0] != "imputome":
        return None
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name.removeprefix("imputome").removeprefix(".")


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == known or name.startswith(f"{known}.") for known in allowed)


def offences(module: str, source: str) -> list[str]:
    """The imports of ``module`` that the house does not allow."""
    here = module.removeprefix("imputome.")
    room = here.split(".")[0]
    wrong = []
    for name, typing_only in imports(module, source):
        target = own(name)
        if target is None or name == "imputome.__version__":
            continue
        if typing_only and (target == "methods.base" or name in TYPES):
            continue
        if target == "":  # the public names live in later rooms
            if room not in ("cli", "__main__"):
                wrong.append(f"{here} imports {name}: import it from the module where it lives")
        elif ROOMS[target.split(".")[0]] > ROOMS[room]:
            wrong.append(f"{here} imports {target}: {room} comes before {target.split('.')[0]}")
        elif room == "methods" and "." in here:
            part = here.split(".")[1]
            if part not in FOUNDATION and not within(target, (*FOR_METHODS, f"methods.{part}")):
                wrong.append(f"{here} imports {target}: a method imports only {', '.join(FOR_METHODS)}")
    return wrong


def names_of(modules: list[str]) -> list[str]:
    return [module.removeprefix("imputome.") for module in modules]


INNER = [module for module in MODULES if module != "imputome"]


@pytest.mark.parametrize("module", INNER, ids=names_of(INNER))
def test_import_direction(module):
    room = module.split(".")[1]
    assert room in ROOMS, f"{room} is a new room: give it a place in ORDER"
    assert offences(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_public_names_are_imported_lazily():
    """`imputome/__init__.py` may name every room, but only for type checking."""
    found = imports("imputome", MODULES["imputome"].read_text(encoding="utf-8"))
    assert [name for name, typing_only in found if own(name) is not None and not typing_only] == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("imputome.io.tables", "from imputome.preprocessing.counts import counts_to_scale"),
        ("imputome.io.tables", "def read():\n    from imputome.methods import base"),
        ("imputome.io.tables", "from ..methods.base import Data"),
        ("imputome.io.tables", "import importlib\nimportlib.import_module('imputome.methods.base')"),
        ("imputome.io.tables", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from imputome import facade"),
        (
            "imputome.io.tables",
            "import typing\nif typing.TYPE_CHECKING:\n    from imputome.preprocessing.counts import log1p",
        ),
        ("imputome.preprocessing.counts", "import imputome.methods.base"),
        ("imputome.methods.base", "from imputome import impute"),
        ("imputome.methods.controls", "from imputome.methods.registry import METHODS"),
        ("imputome.methods.controls", "from imputome.methods.matrix_completion import solver"),
        ("imputome.methods.matrix_completion.solver", "from imputome.io.anndata import read"),
        ("imputome.evaluation.metrics", "import imputome.report"),
    ],
)
def test_a_forbidden_import_is_seen(module, line, monkeypatch):
    for name in ("facade", "report", "io.anndata", "methods.matrix_completion.solver"):
        monkeypatch.setitem(MODULES, f"imputome.{name}", Path("module.py"))
    assert len(offences(module, line)) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (
            "imputome.io.tables",
            "import typing\nif typing.TYPE_CHECKING:\n    from imputome.methods.base import Data",
        ),
        (
            "imputome.io.tables",
            "import typing\nif typing.TYPE_CHECKING:\n    from imputome.preprocessing.counts import Scale",
        ),
        ("imputome.io.models", "from imputome import __version__"),
        (
            "imputome.methods.controls",
            "from imputome.io.models import read_model\nimport imputome.methods.base",
        ),
        ("imputome.methods.base", "def f():\n    from imputome.methods.registry import info"),
        ("imputome.cli", "from imputome import impute"),
    ],
)
def test_an_allowed_import_passes(module, line):
    assert offences(module, line) == []


@pytest.mark.parametrize("module", MODULES)
def test_module_is_short(module):
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{module} has {lines} lines: two rooms share one door, split it"


def test_module_names_say_what_is_inside():
    empty = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert [module for module in MODULES if empty & {part.strip("_") for part in module.split(".")}] == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_pickled(module):
    """Loading a model or a result must not run code from it."""
    source = MODULES[module].read_text(encoding="utf-8")
    serialisers = {"pickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal"}
    assert [name for name, _ in imports(module, source) if name.split(".")[0] in serialisers] == []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"{module}:{node.value.lineno} must say allow_pickle=False"
            assert node.value.value is False, f"{module}:{node.value.lineno} allows pickle"


def test_method_names_are_unique():
    names = [name for name, _, _ in METHODS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("name", "where", "info"), METHODS, ids=[name for name, _, _ in METHODS])
def test_registry_agrees_with_the_class(name, where, info):
    assert info.name == name
    try:
        cls = methods.get(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert cls.name == name
    assert f"{cls.__module__}:{cls.__qualname__}" == where


def loaded(code: str) -> set[str]:
    """The heavy libraries that are loaded after ``code`` has run in a fresh interpreter."""
    report = f"import json, sys\n{code}\nprint()\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_heavy_libraries_are_seen():
    assert loaded("import sklearn") == {"sklearn"}


def test_import_is_light():
    assert loaded("import imputome") == set()


@pytest.mark.parametrize("argument", ["--help", "methods"])
def test_command_line_starts_light(argument):
    code = f"""
sys.argv = ["imputome", {argument!r}]
from imputome.cli import main
try:
    failed = main()
except SystemExit as end:
    failed = end.code
assert not failed, failed
"""
    assert loaded(code) == set()
