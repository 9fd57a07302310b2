"""Checks of arguments that several modules of the evaluation share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from imputome.errors import InputError


def check_share(name: str, value: Any, *, allow_one: bool = False) -> None:
    """Check that a parameter is a number between 0 and 1, both excluded (1 is allowed with ``allow_one``)."""
    number = isinstance(value, int | float | np.number)
    if not number or not (0 < value < 1 or (allow_one and value == 1)):
        raise InputError(f"{{{name}}} must be a number between 0 and 1", code="parameter-value", **{name: value})


def check_choice(name: str, value: Any, choices: Iterable[str], *, code: str = "parameter-value") -> None:
    """Check that a parameter is one of a few texts."""
    choices = list(choices)
    if value not in choices:
        text = f"{{{name}}} is not valid: choose from {', '.join(choices)}"
        raise InputError(text, code=code, **{name: value})


def check_length(name: str, values: Any, n: int, rows: str = "cells") -> None:
    """Check that there is one value for each of n rows."""
    if np.shape(values) != (n,):
        shape = np.shape(values)
        raise InputError(
            f"{name} has shape {shape} for {n} {rows}: pass one value for each", code="length-mismatch", parameter=name
        )


def matrix(name: str, values: Any, what: str = "cells x genes") -> np.ndarray:
    """``values`` as an array, after a check that it is a matrix."""
    values = np.asarray(values)
    if values.ndim != 2:
        raise InputError(
            f"{name} has shape {values.shape}: pass a matrix of {what}", code="shape-mismatch", parameter=name
        )
    return values


def check_finite(name: str, values: np.ndarray) -> None:
    """Check that there is no NaN and no infinite value."""
    if not np.isfinite(values).all():
        raise InputError(
            f"{name} holds NaN or infinite values: impute them, or leave them out", code="not-finite", parameter=name
        )


def pair(truth: Any, prediction: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, after a check that they are flat and of one length."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape or truth.ndim != 1:
        raise InputError(
            f"truth has shape {truth.shape}, prediction {prediction.shape}: pass two flat arrays of one length",
            code="shape-mismatch",
            parameter="prediction",
        )
    return truth, prediction
