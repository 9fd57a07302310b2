"""The examples in docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import inspect
import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import imputome

PACKAGE = Path(imputome.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
# modules whose names users call, beside those of `imputome` itself
SPACES = ("methods", "pl", "datasets", "sklearn")
ELSEWHERE = (
    *("imputome.studies.results.summary", "imputome.core.imputer.Imputer", "imputome.core.info.MethodInfo"),
    *("imputome.errors.ControlsWinError", "imputome.errors.MissingExtraError"),
)


def public() -> list[str]:
    """Every public function and class, by its full name."""
    found = [f"imputome.{name}" for name in imputome.__all__ if name not in SPACES]
    found += [f"imputome.{space}.{name}" for space in SPACES for name in getattr(imputome, space).__all__]
    return [*(name for name in found if inspect.isroutine(what(name)) or inspect.isclass(what(name))), *ELSEWHERE]


def what(name: str) -> Any:
    """The object of a full name."""
    module, _, attribute = name.rpartition(".")
    owner = imputome if module == "imputome" else getattr(imputome, module.rpartition(".")[2], None)
    return getattr(owner or import_module(module), attribute)


def sections(documented: Any) -> dict[str, str]:
    """The sections of a numpydoc docstring."""
    parts = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", inspect.getdoc(documented) or "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("imputome"):
            raise
        pytest.skip(f"needs {error.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = doctest.testmod(import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert results.failed == 0


@pytest.mark.parametrize("name", [name for name in public() if name != "imputome.methods.Method"])  # a type
def test_what_users_call_is_described_in_full(name):
    documented = what(name)
    found = sections(documented)
    assert ">>> " in found.get("Examples", ""), "no example"
    if inspect.isclass(documented):
        assert {"Parameters", "Attributes"} & set(found) or issubclass(documented, Exception)
        for member, function in inspect.getmembers(documented, inspect.isfunction):
            if not member.startswith("_") and function.__module__.startswith("imputome"):
                assert undescribed(function, f"{name}.{member}") == set()
        return
    assert undescribed(documented, name) == set()
    signature = inspect.signature(documented)
    if signature.parameters:
        assert "Raises" in found or name in NEVER_RAISE


NEVER_RAISE = {"imputome.methods.controls"}
PASSED_ON = {"y"}  # of scikit-learn's protocol: not used


def undescribed(function: Any, name: str) -> set[str]:
    """Parameters without a type and a text, and "Returns" where something is returned and not described."""
    found = sections(function)
    typed = re.findall(r"^(\S[^:\n]*?)(?: : \S.*)?$", found.get("Parameters", ""), re.MULTILINE)
    names = {each.strip().lstrip("*") for line in typed for each in line.split(",")}
    signature = inspect.signature(function)
    lacking = {each for each in signature.parameters if each not in names | PASSED_ON | {"self"}}
    gives = signature.return_annotation not in (None, "None", inspect.Signature.empty)
    return lacking | ({"Returns"} if gives and not {"Returns", "Yields"} & set(found) else set())
