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
    """How one column is coded.

    Attributes
    ----------
    name : str
        Column of the table.
    levels : tuple of str or None
        The sorted levels of a category; None for a number.
    mean, sd : float
        Mean and SD of a number in the cells it was learned from; an SD of 0 is stored as 1.
    """

    name: str
    levels: tuple[str, ...] | None = None
    mean: float = 0.0
    sd: float = 1.0

    @property
    def columns(self) -> list[str]:
        """Names of the coded columns."""
        return [self.name] if self.levels is None else [f"{self.name}={level}" for level in self.levels]


@dataclass(frozen=True)
class CovariateCoding:
    """The coding of a table of covariates, learned once and applied to any cells.

    Columns of numbers are continuous; text, categories and booleans are categorical. A batch key that is stored as
    numbers must be turned into text first, or its numbers are taken as quantities.

    Attributes
    ----------
    covariates : tuple of Covariate
        One for each column.
    """

    covariates: tuple[Covariate, ...]

    @classmethod
    def learn(cls, table: pd.DataFrame) -> Self:
        """Learn the coding of the columns of ``table``, a DataFrame with a row for each cell.

        Raises
        ------
        InputError
            Missing or infinite values, or two columns with the same name.
        """
        if not table.columns.is_unique:
            raise InputError(
                "two covariates have the same name: give each column once",
                code="covariate-duplicate",
                parameter="covariates",
            )
        return cls(tuple(_learn(str(name), table[name]) for name in table.columns))

    @property
    def columns(self) -> list[str]:
        """Names of the C coded columns."""
        return [column for covariate in self.covariates for column in covariate.columns]

    def encode(self, table: pd.DataFrame) -> np.ndarray:
        """Code the cells of ``table``.

        Returns
        -------
        ndarray of shape (n, C), float32
            One-hot categories and standardised numbers.

        Raises
        ------
        InputError
            A column is missing, a level is new, or a value is missing or infinite.
        """
        missing = [covariate.name for covariate in self.covariates if covariate.name not in table.columns]
        if missing:
            raise InputError(
                f"the model was fitted with the covariates {', '.join(missing)}, which are missing here: add them",
                code="covariates-missing",
                parameter="covariates",
            )
        parts = [_encode(covariate, table[covariate.name]) for covariate in self.covariates]
        return np.concatenate([np.empty((len(table), 0), np.float32), *parts], axis=1)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values from which `from_json` makes the coding again."""
        return [asdict(covariate) for covariate in self.covariates]

    @classmethod
    def from_json(cls, stored: list[dict[str, Any]]) -> Self:
        """The coding from the values that `to_json` gave."""
        return cls(
            tuple(Covariate(**{**c, "levels": None if c["levels"] is None else tuple(c["levels"])}) for c in stored)
        )


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
            raise InputError(
                f"covariate {covariate.name!r} was a number when the model was fitted: give numbers",
                code="covariate-type",
                parameter="covariates",
            )
        values = (_numbers(covariate.name, column) - covariate.mean) / covariate.sd
        return values.astype(np.float32)[:, None]
    texts = _texts(covariate.name, column)
    unknown = sorted(set(texts) - set(covariate.levels))
    if unknown:
        shown = ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        raise InputError(
            f"covariate {covariate.name!r} has levels that the model was not fitted on: {shown}; it knows "
            f"{', '.join(covariate.levels[:10])}: rename them, or fit the model on these cells too",
            code="covariate-level",
            parameter="covariates",
        )
    return (np.array(texts)[:, None] == np.array(covariate.levels)).astype(np.float32)


def _is_number(column: pd.Series) -> bool:
    return getattr(column.dtype, "kind", "O") in "iuf"


def _numbers(name: str, column: pd.Series) -> np.ndarray:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(values).all():
        raise _missing_values(name)
    return values


def _texts(name: str, column: pd.Series) -> list[str]:
    if column.isna().any():
        raise _missing_values(name)
    return [str(value) for value in column]


def _missing_values(name: str) -> InputError:
    return InputError(
        f"covariate {name!r} has missing or infinite values: fill them in, or leave this covariate out",
        code="covariate-value",
        parameter="covariates",
    )
