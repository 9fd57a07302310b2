"""Which methods can be tested here: some need packages that not every environment has."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from imputome import methods

MODULES = {"deep": "torch", "scvi": "scvi"}  # extra -> what it installs
MISSING = {extra for extra, module in MODULES.items() if find_spec(module) is None}

needs_scvi = pytest.mark.skipif("scvi" in MISSING, reason="needs imputome[scvi]: run make test-scvi")


def installed_methods() -> list[str]:
    """Names of the methods whose extras are installed."""
    return [name for name in methods.names() if methods.info(name).extra not in MISSING]


def missing_extra(values: object) -> str | None:
    """The extra that a test with these parameters lacks: one is the name of a method, or ``"name-..."``."""
    for value in values if isinstance(values, list) else [values]:
        name = value.partition("-")[0] if isinstance(value, str) else ""
        if name in methods.METHODS and methods.info(name).extra in MISSING:
            return methods.info(name).extra
    return None
