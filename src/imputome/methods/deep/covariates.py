"""Covariates of cells as numbers for a model: categories one-hot, numbers standardised, new cells coded alike.

Letters: ``n`` cells, ``C`` columns of the coded table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Covariate:
    """How one column is coded.

    Attributes
    ----------
    name : column of the table.
    levels : for a category, the levels seen, sorted; None for a number.
    mean, sd : for a number, those of the cells it was learned from; an ``sd`` of 0 is stored as 1.
    """

    name: str
    levels: tuple[str, ...] | None = None
    mean: float = 0.0
    sd: float = 1.0

    @property
    def columns(self) -> list[str]:
        return [self.name] if self.levels is None else [f"{self.name}={level}" for level in self.levels]


@dataclass(frozen=True)
class CovariateCoding:
    """The coding of a table of covariates, learned once and applied to any cells.

    A column of numbers is continuous; text, categories and booleans are categorical. A batch key that is stored as a
    number has to be made text first, or its numbers are taken as quantities.
    """

    covariates: tuple[Covariate, ...]

    @classmethod
    def learn(cls, table: pd.DataFrame) -> Self:
        """The coding of the columns of ``table``, n x any.

        Raises
        ------
        InputError
            Missing or infinite values, or two columns of one name.
        """
        if not table.columns.is_unique:
            raise InputError("two covariates have the same name: give each column once")
        return cls(tuple(_learn(str(name), table[name]) for name in table.columns))

    @property
    def columns(self) -> list[str]:
        """Names of the C coded columns."""
        return [column for covariate in self.covariates for column in covariate.columns]

    def encode(self, table: pd.DataFrame) -> np.ndarray:
        """(n, C) float32.

        Raises
        ------
        InputError
            A column is missing, a level was not seen when the coding was learned, a value is missing or infinite.
        """
        missing = [covariate.name for covariate in self.covariates if covariate.name not in table.columns]
        if missing:
            raise InputError(f"the covariates {', '.join(missing)} that the model was fitted with are missing")
        parts = [_encode(covariate, table[covariate.name]) for covariate in self.covariates]
        return np.concatenate([np.empty((len(table), 0), np.float32), *parts], axis=1)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values from which `from_json` makes the coding again."""
        return [
            {"name": c.name, "levels": None if c.levels is None else list(c.levels), "mean": c.mean, "sd": c.sd}
            for c in self.covariates
        ]

    @classmethod
    def from_json(cls, stored: list[dict[str, Any]]) -> Self:
        return cls(
            tuple(
                Covariate(c["name"], None if c["levels"] is None else tuple(c["levels"]), c["mean"], c["sd"])
                for c in stored
            )
        )


def _learn(name: str, column: pd.Series) -> Covariate:
    if _is_number(column):
        values = _numbers(name, column)
        sd = float(values.std())
        return Covariate(name, None, float(values.mean()), sd if sd > 0 else 1.0)
    return Covariate(name, tuple(sorted(set(_texts(name, column)))))


def _encode(covariate: Covariate, column: pd.Series) -> np.ndarray:
    if covariate.levels is None:
        if not _is_number(column):
            raise InputError(f"covariate {covariate.name!r} was a number when the model was fitted: give numbers")
        values = (_numbers(covariate.name, column) - covariate.mean) / covariate.sd
        return values.astype(np.float32)[:, None]
    levels = np.array(covariate.levels)
    texts = _texts(covariate.name, column)
    unknown = sorted(set(texts) - set(covariate.levels))
    if unknown:
        shown = ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        raise InputError(
            f"covariate {covariate.name!r} has levels that the model has not seen: {shown}; "
            f"it knows {', '.join(covariate.levels[:10])}: recode them, or fit with these cells"
        )
    return (np.array(texts)[:, None] == levels).astype(np.float32)


def _is_number(column: pd.Series) -> bool:
    return getattr(column.dtype, "kind", "O") in "iuf"


def _numbers(name: str, column: pd.Series) -> np.ndarray:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(values).all():
        raise InputError(f"covariate {name!r} has missing or infinite values: fill them or leave it out")
    return values


def _texts(name: str, column: pd.Series) -> list[str]:
    if column.isna().any():
        raise InputError(f"covariate {name!r} has missing values: fill them or leave it out")
    return [str(value) for value in column]
