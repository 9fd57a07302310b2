"""Matrices that are made in blocks, as imputed values are: standard deviations and multiple imputations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from imputome.core.scales import is_integer
from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from imputome.core.imputation import Imputation


class Matrix(Protocol):
    """A matrix with names that is made in blocks, such as an `Imputation`."""

    @property
    def obs_names(self) -> pd.Index: ...

    @property
    def var_names(self) -> pd.Index: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    def rows(self, rows: Any, *, genes: Any = None) -> np.ndarray: ...


@dataclass(frozen=True)
class _OfImputation:
    imputation: Imputation

    @property
    def obs_names(self) -> pd.Index:
        return self.imputation.obs_names

    @property
    def var_names(self) -> pd.Index:
        return self.imputation.var_names

    @property
    def shape(self) -> tuple[int, int]:
        return self.imputation.shape


@dataclass(frozen=True)
class Spread(_OfImputation):
    """Standard deviation of each value, in the unit of the input; 0 where an observed value was kept."""

    keep_observed: bool

    def rows(self, rows: Any, *, genes: Any = None) -> np.ndarray:
        variance = self.imputation.rows(rows, genes=genes, output="variance")
        values = np.sqrt(np.maximum(variance, 0))
        if self.keep_observed:
            values[~self.imputation.missing(rows, genes=genes)] = 0
        return values


@dataclass(frozen=True)
class Drawn(_OfImputation):
    """One multiple imputation; observed values are kept."""

    number: int

    def rows(self, rows: Any, *, genes: Any = None) -> np.ndarray:
        values = self.imputation.draw(self.number, rows=rows)
        return values if genes is None else values[:, genes]


@dataclass(frozen=True)
class Finite:
    """A matrix that is written: its ``rows`` are an error where they hold NaN or an infinite value.

    ``dtype`` is that of the file, in which a large value can become infinite; by default it is that of the matrix.
    """

    matrix: Matrix
    method: str
    dtype: type[np.floating[Any]] | None = None

    @property
    def obs_names(self) -> pd.Index:
        return self.matrix.obs_names

    @property
    def var_names(self) -> pd.Index:
        return self.matrix.var_names

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def rows(self, rows: Any, *, genes: Any = None, **options: Any) -> np.ndarray:
        values = self.matrix.rows(rows, genes=genes, **options)
        if self.dtype is not None:
            with np.errstate(over="ignore"):
                values = np.asarray(values, dtype=self.dtype)
        columns = slice(None) if genes is None else genes
        used = imputed_features(getattr(self.matrix, "imputation", self.matrix))
        used = None if used is None else used[columns]
        check_finite(values, self.method, self.obs_names[rows], self.var_names[columns], used=used)
        return values


def imputed_features(imputation: Any) -> np.ndarray | None:
    """Which features were imputed, where others keep the values of the input, NaN included; None means all."""
    return getattr(imputation, "gene_columns", {}).get("imputed")


def check_finite(
    values: np.ndarray,
    method: str,
    cells: pd.Index,
    genes: pd.Index | None = None,
    *,
    used: np.ndarray | None = None,
) -> None:
    """Refuse values of ``method`` that are NaN or infinite, before they are written.

    ``genes`` name the columns; of those that are not ``used`` (bool), the method gave no values.
    """
    bad = ~np.isfinite(values)
    if used is not None:
        bad &= used
    if not bad.any():
        return
    i, j = np.unravel_index(bad.argmax(), bad.shape)
    first = f"cell {str(cells[i])!r}" + ("" if genes is None else f", gene {str(genes[j])!r}")
    text = (
        f"{method} gave {bad.sum():,} values that are NaN or infinite in {len(cells):,} cells, the first in {first}, "
    )
    text += "so nothing was written: fit it again with other parameters, or take another method"
    raise InputError(text, code="not-finite-values")


@dataclass(frozen=True)
class Held:
    """A matrix that is in memory as it is, dense or sparse; integers if all its values are."""

    X: Any  # (n, G)
    obs_names: pd.Index
    var_names: pd.Index

    @property
    def shape(self) -> tuple[int, int]:
        return self.X.shape

    def rows(self, rows: Any, *, genes: Any = None) -> np.ndarray:
        values = self.X[rows]
        values = values if isinstance(values, np.ndarray) else values.toarray()
        values = values if genes is None else values[:, genes]
        return values.astype(np.int64) if self._whole else values

    @cached_property
    def _whole(self) -> bool:
        values = self.X if isinstance(self.X, np.ndarray) else self.X.data
        # float64 holds every integer up to 2^53
        return not values.size or bool((np.abs(values) < 2**53).all() and is_integer(values, 0))


@dataclass(frozen=True)
class ZeroDeviations:
    """Standard deviations where no value was missing."""

    obs_names: pd.Index
    var_names: pd.Index

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.obs_names), len(self.var_names)

    def rows(self, rows: Any, *, genes: Any = None) -> np.ndarray:
        n, G = self.shape
        return np.zeros((len(np.arange(n)[rows]), G if genes is None else len(genes)), dtype=np.float32)


def draw_names(draws: int) -> dict[int, str]:
    """Number -> name of each multiple imputation: 1 is draw01."""
    digits = max(2, len(str(draws)))
    return {number: f"draw{number:0{digits}d}" for number in range(1, draws + 1)}


def draw_path(path: Path, name: str, suffix: str) -> Path:
    """``full.csv.gz`` -> ``full.draw01.csv.gz``."""
    return path.with_name(f"{path.name[: -len(suffix)]}.{name}{path.name[-len(suffix) :]}")
