"""Covariates of cells as numbers for a network: categories one-hot, numbers standardised, new cells in the same way.

Letters: ``n`` cells, ``C`` columns of the coded table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Covariate:
    """How one column is coded."""

    name: str  # column of the table
    levels: tuple[str, ...] | None = None  # the sorted levels of a category; None for a number
    mean: float = 0.0  # of a number, in the cells that it was learned from
    sd: float = 1.0  # likewise; an SD of 0 is stored as 1

    @property
    def columns(self) -> list[str]:
        """Names of the coded columns."""
        return [self.name] if self.levels is None else [f"{self.name}={level}" for level in self.levels]


@dataclass(frozen=True)
class CovariateCoding:
    """The coding of a table of covariates, learned once and applied to any cells.

    Columns of numbers are continuous; text, categories and booleans are categorical. A batch key that is stored as
    numbers must be turned into text first, or its numbers are taken as quantities.
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
        parts = [_encode(covariate, table[covariate.name]) for covariate in self.covariates]
        return np.concatenate([np.empty((len(table), 0), np.float32), *parts], axis=1)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values from which `from_json` makes the coding again."""
        return [asdict(covariate) for covariate in self.covariates]

    @classmethod
    def from_json(cls, stored: list[dict[str, Any]]) -> Self:
        """The coding from the values that `to_json` gave."""
        return cls(tuple(Covariate(**{**c, "levels": c["levels"] and tuple(c["levels"])}) for c in stored))


def _learn(name: str, column: pd.Series) -> Covariate:
    if _is_number(column):
        values = _numbers(name, column)
        sd = float(values.std())
        return Covariate(name, None, float(values.mean()), sd if sd > 0 else 1.0)
    return Covariate(name, tuple(sorted(set(_texts(name, column)))))


def _encode(covariate: Covariate, column: pd.Series) -> np.ndarray:
    """(n, columns of this covariate) float32."""
    if covariate.levels is None:
        if not _is_number(column):
            raise _fault("covariate-type", f"covariate {covariate.name!r} was a number in the fit: give numbers")
        values = (_numbers(covariate.name, column) - covariate.mean) / covariate.sd
        return values.astype(np.float32)[:, None]
    texts = _texts(covariate.name, column)
    unknown = sorted(set(texts) - set(covariate.levels))
    if unknown:
        shown = ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        raise _fault(
            "covariate-level",
            f"covariate {covariate.name!r} has levels that the model was not fitted on: {shown}; it knows "
            f"{', '.join(covariate.levels[:10])}: rename them, or fit the model on these cells too",
        )
    return (np.array(texts)[:, None] == np.array(covariate.levels)).astype(np.float32)


def _is_number(column: pd.Series) -> bool:
    return getattr(column.dtype, "kind", "O") in "iuf"


def _numbers(name: str, column: pd.Series) -> np.ndarray:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    _check_known(name, np.isfinite(values).all())
    return values


def _texts(name: str, column: pd.Series) -> list[str]:
    _check_known(name, not column.isna().any())
    return [str(value) for value in column]


def _check_known(name: str, is_known: bool) -> None:
    if not is_known:
        raise _fault("covariate-value", f"covariate {name!r} has missing or infinite values: fill them in, or drop it")


def _fault(code: str, text: str) -> InputError:
    return InputError(text, code=code, parameter="covariates")
