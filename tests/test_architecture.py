"""The shape of the house: who may import whom, how long a module may be, what a light start must not load."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

import imputome
from imputome import methods
from imputome.errors import MissingExtraError
from imputome.methods.registry import METHODS

PACKAGE = Path(imputome.__file__).parent
FILES = {path.relative_to(PACKAGE.parent): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): full for path, full in FILES.items()}

# a module may import its own room and those to its left; imports in functions and for type checking count too
ROOMS = (
    "errors",
    "caches",
    "datasets",
    "core",
    "inspection",
    "methods",
    "result",
    "io",
    "evaluation",
    "trust",
    "studies",
    "api",
    "sklearn",
    "report",
    "cli",
    "__main__",
)
LOOSE = {"__init__", "__main__", "caches", "datasets", "errors"}  # modules that stand beside the rooms
# the parts of the room `methods` that several methods share; a method imports these and its own folder only
SHARED_BY_METHODS = ("averaged_counts", "deep", "factors", "log_linear", "nmf", "rescaled", "similar_cells")
# methods that take the name of another method, which they find through the face of the room
BUILT_ON_OTHERS = ("saver",)

HEAVY = ("torch", "scanpy", "anndata", "sklearn", "numba")


@cache  # most tests look at all modules
def imports(module: str, source: str, package: bool = False) -> tuple[str, ...]:
    """Every import of ``source`` as an absolute dotted name, those in functions and for type checking included.

    ``from a import b`` gives ``a.b``: whether b is a module or a name in a is for the reader to say.
    """
    return tuple(_imports(module if package else module.rpartition(".")[0], source))


def _imports(parent: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = parent.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value)


def module_of(name: str, modules: Iterable[str]) -> str | None:
    """``imputome.a.b.name`` as ``imputome.a.b`` or ``imputome.a.b.name``, whichever is a module of the package."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports anywhere.

    The public face, ``imputome``, names every room for type checking and imports them on first use: it is no node.
    """
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        if module == "imputome":
            continue
        package = any(other.startswith(f"{module}.") for other in sources)
        found = {module_of(name, sources) for name in imports(module, source, package)}
        graph[module] = {name for name in found if name not in (None, module)}  # type: ignore[misc]
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (strongly connected components)."""
    matrix = sp.csr_array((len(graph), len(graph)), dtype=bool).tolil()
    names = sorted(graph)
    place = {name: k for k, name in enumerate(names)}
    for module, targets in graph.items():
        for target in targets & set(names):
            matrix[place[module], place[target]] = True
    _, labels = connected_components(matrix.tocsr(), directed=True, connection="strong")
    return [
        [name for name in names if labels[place[name]] == label] for label, size in Counter(labels).items() if size > 1
    ]


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports of a later room, of the public face, or of another method, each as a sentence."""
    wrong = []
    for module, targets in graph.items():
        room = module.split(".")[1]
        for target in sorted(targets):
            if target == "imputome":
                if room not in ("cli", "__main__"):
                    wrong.append(f"{module} imports imputome: import from the module where the name lives")
            elif ROOMS.index(target.split(".")[1]) > ROOMS.index(room):
                wrong.append(f"{module} imports {target}: {room} comes before {target.split('.')[1]}")
            elif room == target.split(".")[1] == "methods" and module != "imputome.methods":
                part, other = module.split(".")[2], [*target.split("."), "registry"][2]
                if target == "imputome.methods" and part in BUILT_ON_OTHERS:
                    continue
                if part in SHARED_BY_METHODS and other not in SHARED_BY_METHODS:
                    wrong.append(f"{module} imports {target}: what methods share knows no method")
                elif other not in (part, *SHARED_BY_METHODS):
                    wrong.append(f"{module} imports {target}: a method imports its own folder and what methods share")
    return wrong


SOURCES = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}


def test_there_is_no_circle():
    assert circles(import_graph(SOURCES)) == []


def test_no_import_goes_up():
    assert upward(import_graph(SOURCES)) == []


def test_every_room_has_a_place():
    assert {module.split(".")[1] for module in MODULES if module != "imputome"} == set(ROOMS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE


def test_public_names_are_imported_lazily():
    """`imputome/__init__.py` may name every room, but only for type checking."""
    tree = ast.parse(SOURCES["imputome"])
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node))]
    assert [name for name in imports("imputome", ast.unparse(tree)) if name.startswith("imputome")] == []


# the three circles of version 0.1.0, and others of each kind
@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core.posterior", "def fit(estimator):\n    from imputome.core.imputer import Imputer"),
        ("core.posterior", "if TYPE_CHECKING:\n    from imputome.core.imputer import Imputer"),
        ("result.layout", "from imputome.trust.check import brief"),
        ("trust.check", "from imputome.trust.auto import choose"),
        ("result.run", "def f():\n    from imputome.result.layout import store"),
        ("core.imputer", "def info(self):\n    from imputome.methods import info"),
        ("methods.registry", "from imputome import methods"),
        ("core.data", "from . import imputation"),
        ("core.data", "import importlib\nimportlib.import_module('imputome.core.imputer')"),
    ],
)
def test_a_circle_is_seen(module, line):
    name = f"imputome.{module}"
    found = circles(import_graph({**SOURCES, name: f"{SOURCES[name]}\n{line}\n"}))
    assert len(found) == 1
    assert name in found[0]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("io.tables", "from imputome.trust.check import check"),
        ("io.tables", "def read():\n    from imputome.evaluation import metrics"),
        ("io.tables", "from ..api.impute import impute"),
        ("io.tables", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from imputome.api import impute"),
        ("core.scales", "import imputome.core.imputer\nimport imputome.result.run"),
        ("core.imputer", "from imputome import impute"),
        ("methods.knn.estimator", "from imputome.methods.registry import METHODS"),
        ("methods.knn.estimator", "from imputome.methods.ialm import solver"),
        ("methods.factors", "from imputome.methods.ialm import solver"),
        ("evaluation.metrics", "import imputome.report"),
        ("errors", "from imputome.core.scales import Scale"),
    ],
)
def test_an_upward_import_is_seen(module, line):
    name = f"imputome.{module}"
    assert len(upward(import_graph({**SOURCES, name: f"{SOURCES[name]}\n{line}\n"}))) == 1


@pytest.mark.parametrize("module", MODULES)
def test_one_concept_a_module(module):
    lines = len(SOURCES[module].splitlines())
    assert lines <= 700, f"{module} has {lines} lines: two concepts share one door, split it"


def test_module_names_say_what_is_inside():
    empty = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert [module for module in MODULES if empty & {part.strip("_") for part in module.split(".")}] == []


def test_no_two_modules_have_one_name():
    names = Counter(path.stem for path in MODULES.values())
    assert {name for name, number in names.items() if number > 1} <= {"__init__", "estimator", "network"}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_pickled(module):
    """Loading a model or a result must not run code from it."""
    source = SOURCES[module]
    serialisers = {"pickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal"}
    assert [name for name in imports(module, source) if name.split(".")[0] in serialisers] == []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"{module}:{node.value.lineno} must say allow_pickle=False"
            assert node.value.value is False, f"{module}:{node.value.lineno} allows pickle"


def test_one_place_prints():
    """What is printed goes through a function that lets no control character of a name reach the terminal."""
    for module, source in SOURCES.items():
        if module in ("imputome.cli.console", "imputome.api.progress", "imputome.__main__"):
            continue
        calls = (ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
        places = [name for name in calls if re.search(r"(^|\W)(print|s?echo|print_exc|std(out|err)\.write)$", name)]
        assert places == [], module


@pytest.mark.parametrize("name", METHODS)
def test_registry_agrees_with_the_class(name):
    assert methods.info(name).name == name
    try:
        cls = methods.get(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert cls.name == name
    assert cls.info is methods.info(name)
    assert f"{cls.__module__}:{cls.__qualname__}" == f"imputome.methods.{METHODS[name][1]}"


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
