"""The examples in docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import imputome

PACKAGE = Path(imputome.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
# what users call; each must have an example
PUBLIC = [
    *("imputome.impute", "imputome.evaluate", "imputome.fit_model", "imputome.apply_model", "imputome.inspect"),
    *(
        "imputome.mask",
        "imputome.score",
        "imputome.de",
        "imputome.get",
        "imputome.Data",
        "imputome.Imputation",
        "imputome.methods.names",
        "imputome.methods.get",
    ),
    *("imputome.methods.create", "imputome.methods.info", "imputome.methods.controls", "imputome.sklearn.Imputer"),
    *("imputome.pl.verdict", "imputome.pl.zeros", "imputome.pl.embedding", "imputome.pl.scores", "imputome.pl.history"),
    *("imputome.pl.reliability", "imputome.pl.before_after", "imputome.datasets.load"),
]


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


@pytest.mark.parametrize("name", PUBLIC)
def test_what_users_call_has_an_example(name):
    place, _, attribute = name.removeprefix("imputome.").rpartition(".")
    owner = getattr(imputome, place) if place else imputome
    assert ">>> " in getattr(owner, attribute).__doc__ or "See `" in getattr(owner, attribute).__doc__
