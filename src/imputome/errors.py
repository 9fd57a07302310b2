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

    Examples
    --------
    >>> import imputome
    >>> try:
    ...     imputome.methods.get("magik")
    ... except imputome.ImputomeError as error:
    ...     print(error.code, error.parameter)
    unknown-method method
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
        """Write each parameter in the sentence as another interface passes it.

        Parameters
        ----------
        spell : callable
            Takes the name and the value of a parameter, and returns the text.
        """
        self.message = self.message.respelled(spell)
        self.args = (self.message,)


class InputError(ImputomeError, ValueError):
    """The input, a parameter or a file cannot be used as it is; the message holds the remedy.

    It has the attributes of `ImputomeError`, and is a ``ValueError``.

    Examples
    --------
    >>> import imputome
    >>> try:
    ...     imputome.datasets.load("pbmc")
    ... except imputome.InputError as error:
    ...     print(error.code)
    unknown-dataset
    """

    default_code = "input"


class MissingExtraError(ImputomeError, ImportError):
    """An optional dependency is not installed; the message names the ``pip install`` to run.

    It has the attributes of `ImputomeError`, and is an ``ImportError``.

    Examples
    --------
    >>> from imputome.errors import missing_extra
    >>> error = missing_extra("method 'scvi'", "scvi", "scvi")
    >>> print(error)
    method 'scvi' needs scvi: run pip install "imputome[scvi]"
    """

    default_code = "missing-extra"


class ControlsWinError(ImputomeError):
    """No method is better than the controls on these data, so nothing is written; the command line exits with 3.

    Attributes
    ----------
    record : dict
        The race (`imputome.result.record.Race`) and, if there is one, the verdict (`Verdict`).

    Examples
    --------
    >>> from imputome.errors import ControlsWinError
    >>> error = ControlsWinError("no method is better than the controls", {"race": {}})
    >>> error.code, sorted(error.record)
    ('controls-win', ['race'])
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
    """Imputed values are tested as if they had been measured.

    Examples
    --------
    >>> import warnings
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:300, :60].copy()
    >>> imputome.impute(adata, method="gene_mean_posterior", key_added="shrunk")
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     table = imputome.de(adata, "phase", tested="G1", layer="shrunk")
    >>> [warning.category.__name__ for warning in caught]
    ['ImputedLayerWarning']
    """


def missing_extra(what: str, package: str, extra: str) -> MissingExtraError:
    """The error for ``what``, which needs ``package`` from the optional dependency group ``extra``."""
    return MissingExtraError(f'{what} needs {package}: run pip install "imputome[{extra}]"', parameter=extra)


def some(names: Iterable[str], number: int = 5) -> str:
    """The first of some names, for a message."""
    names = list(names)
    return ", ".join(names[:number]) + (", ..." if len(names) > number else "")


def printable(text: str, length: int | None = None) -> str:
    r"""The text on one line of a terminal: control characters, line ends and signs of no width as escapes.

    Of a text that is longer than ``length`` only the beginning is given.

    Examples
    --------
    >>> from imputome.errors import printable
    >>> print(printable("a\x1b[2Jb β"))
    a\x1b[2Jb β
    """
    if length is not None and len(text) > length:
        text = text[: length - 3] + "..."
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
