"""What imputome raises, or warns of, on purpose: one sentence that says what is wrong and how to mend it."""

from __future__ import annotations

from typing import Any


class ImputomeError(Exception):
    """Base of every error raised on purpose; the command line prints it as one line and exits 1."""


class InputError(ImputomeError, ValueError):
    """The input, a parameter or a file cannot be used as it is; the message holds the fix."""


class MissingExtraError(ImputomeError, ImportError):
    """An optional dependency is not installed; the message names the ``pip install`` to run."""


class ControlsWinError(ImputomeError):
    """Nothing beats the controls on these data, so that nothing is written; the command line exits 3.

    ``record`` holds the race, and the verdict where there is one, as they would stand in ``uns["imputome"][key]``.
    """

    def __init__(self, message: str, record: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.record = record or {}


class NotFittedError(ImputomeError, RuntimeError):
    """A result was asked of an estimator that has not been fitted."""


class ModelFormatError(ImputomeError, ValueError):
    """A saved model is damaged, of another format version, or does not fit the data."""


class TrainingError(ImputomeError, RuntimeError):
    """The training of a network cannot go on: its loss stays infinite or NaN."""


class ImputedLayerWarning(UserWarning):
    """Imputed values are tested as if they had been measured."""


def missing_extra(what: str, package: str, extra: str) -> MissingExtraError:
    """The error for ``what``, which needs ``package`` from the optional dependency group ``extra``."""
    return MissingExtraError(f'{what} needs {package}: run pip install "imputome[{extra}]"')
