"""Covariates of cells as numbers for a network: categories one-hot, numbers standardised, new cells in the same way.

Letters: ``n`` cells, ``C`` columns of the coded table.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from imputome.core.learned import damaged
from imputome.errors import InputError, some

MAX_LEVELS = 20  # with more different values, whole numbers can be categories or a quantity

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Covariate:
    """How one column is coded."""

    name: str  # column of the table
    levels: tuple[str, ...] | None = None  # the sorted levels of a category; None for a number
    mean: float = 0.0  # of a number, in the cells that it was learned from
    sd: float = 1.0  # likewise; an SD of 0 is stored as 1
    constant: bool = False  # of a number: whether all these cells had the same
    of_numbers: bool = False  # of a category: whether its levels are numbers

    @property
    def columns(self) -> list[str]:
        """Names of the coded columns."""
        return [self.name] if self.levels is None else [f"{self.name}={level}" for level in self.levels]


@dataclass(frozen=True)
class CovariateCoding:
    """The coding of a table of covariates, learned once and applied to any cells.

    Text, categories and booleans are categorical, floats are quantities. Whole numbers that repeat are categories if
    there are at most 20 of them, as batch numbers are; with more they are refused until they are stored as text or as
    floats. Those that hardly repeat are a quantity. See `meaning`.
    """

    covariates: tuple[Covariate, ...]

    @classmethod
    def learn(cls, table: pd.DataFrame) -> Self:
        """Learn the coding of the columns of ``table``, which has a row for each cell."""
        if not table.columns.is_unique:
            raise _fault("covariate-duplicate", "two covariates have the same name: give each column once")
        return cls(tuple(_learn(str(name), table[name]) for name in table.columns))

    @property
    def columns(self) -> list[str]:
        """Names of the C coded columns."""
        return [column for covariate in self.covariates for column in covariate.columns]

    def encode(self, table: pd.DataFrame) -> np.ndarray:
        """(n, C) float32 one-hot categories and standardised numbers of the cells of ``table``."""
        missing = [covariate.name for covariate in self.covariates if covariate.name not in table.columns]
        if missing:
            names = ", ".join(missing)
            raise _fault("covariates-missing", f"the model was fitted with covariates that are missing here: {names}")
        parts = [
            _encode(covariate, table[covariate.name], self._with_number(covariate)) for covariate in self.covariates
        ]
        return np.concatenate([np.empty((len(table), 0), np.float32), *parts], axis=1)

    def _with_number(self, changed: Covariate) -> str | list[str]:
        """What to fit with so that one covariate is a quantity and the others stay what they are."""
        told = [
            f"{each.name}:{'number' if each is changed or each.levels is None else 'category'}"
            for each in self.covariates
        ]
        return told if len(told) > 1 else told[0]

    def to_json(self) -> str:
        """Text from which `from_json` makes the coding again."""
        return json.dumps([asdict(covariate) for covariate in self.covariates])

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The coding from the text that `to_json` gave."""
        from pydantic import TypeAdapter, ValidationError

        try:
            covariates = TypeAdapter(tuple[Covariate, ...]).validate_json(text, strict=True)
        except ValidationError as error:
            raise damaged("the array 'covariate_coding' is no coding", code="model-array-values") from error
        if not all(math.isfinite(covariate.mean) and 0 < covariate.sd < math.inf for covariate in covariates):
            raise damaged("the array 'covariate_coding' has a mean or SD that is none", code="model-array-values")
        return cls(covariates)


def coded_as_in_fit(coding: CovariateCoding | None, table: pd.DataFrame | None, *, method: str) -> np.ndarray | None:
    """(n, C) coded covariates of the cells of ``table``, which must have some just if the fit had (else both None)."""
    if coding is None and table is not None:
        text = f"{method} was fitted without covariates: leave them out, or fit it with them"
        raise _fault("covariates-unexpected", text)
    if coding is None:
        return None
    if table is None:
        names = ", ".join(covariate.name for covariate in coding.covariates)
        text = f"{method} was fitted with the covariates {names}: pass {{covariates}} for these cells too"
        raise InputError(text, code="covariates-missing", covariates=...)
    return coding.encode(table)


def meaning(column: pd.Series) -> Literal["category", "number", "unclear"]:
    """What a column is taken for: a category, a quantity, or whole numbers that can be either."""
    if not _is_number(column):
        return "category"
    levels = int(column.nunique())
    if column.dtype.kind == "f" or 2 * levels > len(column):
        return "number"
    return "category" if levels <= MAX_LEVELS else "unclear"


def _learn(name: str, column: pd.Series) -> Covariate:
    taken_for = meaning(column)
    if taken_for == "unclear":
        text = f"covariate {name!r} has {column.nunique():,} different whole numbers: store them as text if they are"
        raise _fault("covariate-unclear", f"{text} categories, or as floats if they are a quantity")
    if taken_for == "number":
        values = _numbers(name, column)
        if np.ptp(values) == 0:
            return Covariate(name, None, float(values[0]), 1.0, constant=True)
        return Covariate(name, None, float(values.mean()), float(values.std()))
    levels = tuple(sorted(set(_texts(name, column))))
    return Covariate(name, levels, of_numbers=all(_is_plain_number(value) for value in column))


def _encode(covariate: Covariate, column: pd.Series, as_number: str | list[str]) -> np.ndarray:
    """(n, columns of this covariate) float32; ``as_number`` is what to fit with to make it a quantity."""
    if covariate.levels is None:
        if not _is_number(column):
            raise _fault("covariate-type", f"covariate {covariate.name!r} was a number in the fit: give numbers")
        numbers = _numbers(covariate.name, column)
        if covariate.constant and (numbers != covariate.mean).any():  # the model has learned nothing of such a change
            text = (
                f"covariate {covariate.name!r} was {covariate.mean:g} in all cells that the model was fitted on: give"
            )
            raise _fault("covariate-level", f"{text} this value, or fit a model on cells that differ in it")
        values = (numbers - covariate.mean) / covariate.sd
        return values.astype(np.float32)[:, None]
    texts = _texts(covariate.name, column)
    unknown = sorted(set(texts) - set(covariate.levels))
    if unknown:
        text = (
            f"covariate {covariate.name!r} has levels that the model was not fitted on: {some(map(repr, unknown), 3)}; "
            f"it knows {some(covariate.levels, 10)}: rename them, or fit the model on these cells too"
        )
        if covariate.of_numbers and len(covariate.levels) > 1:
            raise InputError(
                f"{text}, or, if it is a quantity, fit it with {{covariates}}",
                code="covariate-level",
                covariates=as_number,
            )
        raise _fault("covariate-level", text)
    return (np.array(texts)[:, None] == np.array(covariate.levels)).astype(np.float32)


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_number(column: pd.Series) -> bool:
    return getattr(column.dtype, "kind", "O") in "iuf"


def _numbers(name: str, column: pd.Series) -> np.ndarray:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    _check_known(name, np.isfinite(values).all())
    return values


def _texts(name: str, column: pd.Series) -> list[str]:
    _check_known(name, not column.isna().any())
    # a whole number is the same level whether it is stored as an integer or as a float
    return [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value) for value in column]


def _check_known(name: str, is_known: bool) -> None:
    if not is_known:
        raise _fault("covariate-value", f"covariate {name!r} has missing or infinite values: fill them in, or drop it")


def _fault(code: str, text: str) -> InputError:
    return InputError(text, code=code, parameter="covariates")
