"""Errors and warnings that imputome raises: one sentence that says what is wrong and how to correct it.

Each message has a code, which programs and tests read; no code in this package reads the sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self


def in_python(name: str, value: Any) -> str:
    """A parameter as it is passed in Python: ``layer='counts'``, or its name alone if no value is given (``...``)."""
    return name if value is ... else f"{name}={value!r}"


class Message(str):
    """A sentence for a person that also tells a program what it is about.

    Parameters
    ----------
    template : str
        The sentence. ``{name}`` in it is replaced by the parameter ``name``, as it is passed.
    code : str
        What the sentence is about, such as ``"layer-missing"``: stable, for programs.
    parameter : str, optional
        The parameter that is at fault; by default the first of ``options``.
    **options : object
        For each ``{name}`` the value to pass; ``...`` names the parameter without a value.

    Examples
    --------
    >>> message = Message("out.h5ad exists: pass {overwrite} to replace it", code="output-exists", overwrite=True)
    >>> print(message)
    out.h5ad exists: pass overwrite=True to replace it
    >>> message.spelled(lambda name, value: f"--{name}")
    'out.h5ad exists: pass --overwrite to replace it'
    """

    template: str
    code: str
    parameter: str | None
    options: dict[str, Any]

    def __new__(cls, template: str, *, code: str = "", parameter: str | None = None, **options: Any) -> Self:
        message = super().__new__(cls, _filled(template, options, in_python))
        message.template = template
        message.code = code
        message.parameter = parameter or next(iter(options), None)
        message.options = options
        return message

    def spelled(self, spell: Callable[[str, Any], str]) -> str:
        """The sentence with each parameter written as another interface passes it."""
        return _filled(self.template, self.options, spell)

    def respelled(self, spell: Callable[[str, Any], str]) -> Message:
        """The message whose text is that of `spelled`; all else is the same."""
        message = str.__new__(type(self), self.spelled(spell))
        message.__dict__.update(self.__dict__)
        return message

    def __reduce__(self) -> Any:
        return _message_again, (self.template, self.code, self.parameter, self.options)


def _message_again(template: str, code: str, parameter: str | None, options: dict[str, Any]) -> Message:
    return Message(template, code=code, parameter=parameter, **options)


def _filled(template: str, options: dict[str, Any], spell: Callable[[str, Any], str]) -> str:
    for name, value in options.items():
        template = template.replace(f"{{{name}}}", spell(name, value))
    return template


class ImputomeError(Exception):
    """Base of every error raised on purpose; the command line prints it as one line and exits with 1.

    Parameters
    ----------
    text : str or Message
        The sentence; see `Message` for ``code``, ``parameter`` and ``options``.

    Attributes
    ----------
    message : Message
        The sentence with its code.
    code : str
        What is wrong, for programs.
    parameter : str or None
        The parameter to change.
    """

    default_code: ClassVar[str] = "error"

    def __init__(self, text: str, *, code: str = "", parameter: str | None = None, **options: Any) -> None:
        if not isinstance(text, Message):
            text = Message(text, code=code or self.default_code, parameter=parameter, **options)
        super().__init__(text)
        self.message: Message = text
        self.code = text.code
        self.parameter = text.parameter

    def respell(self, spell: Callable[[str, Any], str]) -> None:
        """Write each parameter in the sentence as ``spell`` does."""
        self.message = self.message.respelled(spell)
        self.args = (self.message,)


class InputError(ImputomeError, ValueError):
    """The input, a parameter or a file cannot be used as it is; the message holds the remedy."""

    default_code = "input"


class MissingExtraError(ImputomeError, ImportError):
    """An optional dependency is not installed; the message names the ``pip install`` to run."""

    default_code = "missing-extra"


class ControlsWinError(ImputomeError):
    """No method is better than the controls on these data, so nothing is written; the command line exits with 3.

    ``record`` holds the race (`imputome.result.record.Race`) and, if there is one, the verdict (`Verdict`).
    """

    default_code = "controls-win"

    def __init__(self, text: str, record: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(text, **options)
        self.record = record or {}


class NotFittedError(ImputomeError, RuntimeError):
    """A result was requested from an estimator that is not fitted."""

    default_code = "not-fitted"


class ModelFormatError(ImputomeError, ValueError):
    """A saved model is damaged, of another format version, or does not fit the data."""

    default_code = "model-format"


class TrainingError(ImputomeError, RuntimeError):
    """The training of a network cannot go on: its loss stays infinite or NaN."""

    default_code = "training-failed"


class ImputedLayerWarning(UserWarning):
    """Imputed values are tested as if they had been measured."""


def missing_extra(what: str, package: str, extra: str) -> MissingExtraError:
    """The error for ``what``, which needs ``package`` from the optional dependency group ``extra``."""
    return MissingExtraError(f'{what} needs {package}: run pip install "imputome[{extra}]"', parameter=extra)


def some(names: Iterable[str], number: int = 5) -> str:
    """The first of some names, for a message."""
    names = list(names)
    return ", ".join(names[:number]) + (", ..." if len(names) > number else "")


def printable(text: str, length: int = 200) -> str:
    r"""A name from a file, as it can be printed anywhere: escapes for control characters and line ends, and not long.

    Examples
    --------
    >>> from imputome.errors import printable
    >>> print(printable("two\nlines"))
    two\nlines
    """
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[: length + 1])
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."
