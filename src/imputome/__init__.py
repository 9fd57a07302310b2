"""imputome: recover values missing from expression and methylation matrices, and know whether to believe the result."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imputome.api.differential import de
    from imputome.api.evaluate import evaluate
    from imputome.api.impute import impute
    from imputome.api.models import apply_model, fit_model
    from imputome.api.score import Score, score
    from imputome.core.data import Data
    from imputome.core.imputation import Imputation
    from imputome.errors import ImputedLayerWarning, ImputomeError, InputError
    from imputome.evaluation.masked import mask
    from imputome.inspection.state import inspect
    from imputome.report import plots as pl
    from imputome.result.record import get

__all__ = [
    "Data",
    "Imputation",
    "ImputedLayerWarning",
    "ImputomeError",
    "InputError",
    "Score",
    "apply_model",
    "datasets",
    "de",
    "evaluate",
    "fit_model",
    "get",
    "impute",
    "inspect",
    "mask",
    "methods",
    "pl",
    "score",
    "sklearn",
]
# where each public name lives: imported on first use, so that `import imputome` stays fast
_HOMES = {
    "Data": "imputome.core.data",
    "Imputation": "imputome.core.imputation",
    "ImputedLayerWarning": "imputome.errors",
    "ImputomeError": "imputome.errors",
    "InputError": "imputome.errors",
    "Score": "imputome.api.score",
    "apply_model": "imputome.api.models",
    "de": "imputome.api.differential",
    "evaluate": "imputome.api.evaluate",
    "fit_model": "imputome.api.models",
    "get": "imputome.result.record",
    "impute": "imputome.api.impute",
    "inspect": "imputome.inspection.state",
    "mask": "imputome.evaluation.masked",
    "score": "imputome.api.score",
}
_MODULES = {
    "datasets": "imputome.datasets",
    "methods": "imputome.methods",
    "pl": "imputome.report.plots",
    "sklearn": "imputome.sklearn",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name == "__version__":
        from importlib.metadata import version

        return version("imputome")
    text = f"module 'imputome' has no attribute {name!r}"
    if name in ("pp", "tl"):  # as in scanpy
        text += ": its functions are called as imputome.impute(adata), and its plots are in imputome.pl"
    raise AttributeError(text)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
