"""imputome: recover values missing from expression and methylation matrices, and know whether to believe the result."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imputome import datasets as datasets
    from imputome import methods as methods
    from imputome.differential import de
    from imputome.errors import ImputedLayerWarning, ImputomeError, InputError
    from imputome.facade import impute
    from imputome.fitted import apply_model, fit_model
    from imputome.methods.base import Data, Imputation
    from imputome.preprocessing.inspect import inspect
    from imputome.report import plots as pl
    from imputome.studies.anndata import evaluate

__all__ = [
    "Data",
    "Imputation",
    "ImputedLayerWarning",
    "ImputomeError",
    "InputError",
    "apply_model",
    "datasets",
    "de",
    "evaluate",
    "fit_model",
    "impute",
    "inspect",
    "methods",
    "pl",
]
__version__ = version("imputome")

# where each public name lives: imported on first use, so that `import imputome` stays fast
_HOMES = {
    "Data": "imputome.methods.base",
    "Imputation": "imputome.methods.base",
    "ImputedLayerWarning": "imputome.errors",
    "ImputomeError": "imputome.errors",
    "InputError": "imputome.errors",
    "apply_model": "imputome.fitted",
    "de": "imputome.differential",
    "evaluate": "imputome.studies.anndata",
    "fit_model": "imputome.fitted",
    "impute": "imputome.facade",
    "inspect": "imputome.preprocessing.inspect",
}
_MODULES = {"datasets": "imputome.datasets", "methods": "imputome.methods", "pl": "imputome.report.plots"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'imputome' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
