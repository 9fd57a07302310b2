"""Functions that numba compiles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator like ``numba.njit(cache=True, ...)`` that does without a cache where none can be written.

    Parameters
    ----------
    **options : object
        Those of ``numba.njit``.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        kernel = njit(**options)(function)
        with suppress(RuntimeError):  # no folder can be written to: each process compiles the function for itself
            kernel.enable_caching()
        return kernel

    return decorate
