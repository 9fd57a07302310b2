"""Functions for users name each parameter as it is passed to them, also one that goes into a dictionary."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from imputome.errors import ImputomeError, Message, in_python

P = ParamSpec("P")
R = TypeVar("R")


OF_FILES = ("genes_in", "missing", "modality", "transpose")  # options of the command line that say how a file is read


class Spelling:
    """How errors and warnings of a function name parameters: its own as they are, all others as entries of ``holder``.

    So an error about the parameter ``k`` of a method says ``params={'k': 5}`` where that is what the function takes.

    Parameters
    ----------
    holder : str
        Parameter of the function that takes those of the method, or of the scheme, as a dictionary.
    own : iterable of str, default=()
        Parameters that the function passes on, or that only other functions have.
    """

    def __init__(self, holder: str, own: Iterable[str] = ()) -> None:
        self.holder, self.own = holder, {*OF_FILES, *own}

    def __call__(self, name: str, value: Any) -> str:
        """A parameter as it is passed."""
        if name in self.own:
            return in_python(name, value)
        return f"{self.holder}={{{name!r}: {'...' if value is ... else repr(value)}}}"

    def of(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate the function."""
        self.own |= set(inspect.signature(function).parameters)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except ImputomeError as error:
                error.respell(self)
                raise

        return called

    def warn(self, messages: Iterable[Message]) -> None:
        """Warn the caller of the decorated function, which calls this."""
        for message in messages:
            warnings.warn(message.respelled(self), stacklevel=4)
